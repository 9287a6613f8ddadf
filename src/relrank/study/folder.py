"""The folder of a study, which belongs to one study and is locked by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relrank.errors import InputError
from relrank.io.folder_lock import LOCK, OWNER, locked_folder
from relrank.io.manifest import MANIFEST, parse_json_object, read_bytes_within
from relrank.io.tensors import write_json
from relrank.study.config import StudyConfig

STUDY = "study.json"
KEPT = ("cells", "card.json", "tuning.db", "winner")
"""What a study stores. A folder without any of it belongs to no study, e.g. because the data could not be read."""

SEARCH = ("tuning.db*", "tuning.checkpoints", "tuned.toml")
"""Patterns of what ``relrank tune`` writes there."""


def names_of_study() -> tuple[str, ...]:
    """Patterns of everything that relrank reads, writes or deletes in a study's folder, except temporary files."""
    from relrank.study.result import StudyResult

    of_winner = ("winner.checkpoints", ".winner.replaced")
    result = (*StudyResult.files(), "results.json", MANIFEST, "report.html")
    return (STUDY, *KEPT, *SEARCH, *of_winner, *result, LOCK, OWNER)


@contextmanager
def study_folder(out: Path, config: StudyConfig, is_smoke: bool = False) -> Iterator[None]:
    """Create and lock a study's folder until the block ends; see ``folder_lock.locked_folder``.

    Raises:
        InputError: another process has locked it, it contains a link, or it belongs to another study.
    """
    refuse_other_study(out, config, is_smoke)
    with locked_folder(out, names=names_of_study()):
        refuse_other_study(out, config, is_smoke)
        if not (out / STUDY).is_file() or not any(os.path.lexists(out / name) for name in KEPT):
            write_json(out / STUDY, {"name": config.name, "smoke": is_smoke})
        yield


def refuse_other_study(out: Path, config: StudyConfig, is_smoke: bool = False) -> None:
    """Refuse a folder that belongs to another study, whose results would be replaced.

    Raises:
        InputError: it belongs to another study, or to a fitted model.
    """
    owner = {"name": config.name, "smoke": is_smoke}
    if os.path.lexists(out / STUDY) and any(os.path.lexists(out / name) for name in KEPT):
        owner = parse_json_object(read_bytes_within(out, STUDY), str(out / STUDY))
    elif os.path.lexists(out / "run.json"):
        owner = {"name": "a fitted model"}
    if (owner.get("name"), bool(owner.get("smoke"))) != (config.name, is_smoke):
        raise InputError(
            "folder of another study",
            where=str(out),
            found=_named(owner.get("name"), bool(owner.get("smoke"))),
            expected=f"that of {_named(config.name, is_smoke)}, or a new one: name it with --out",
        )


def _named(name: object, is_smoke: bool) -> str:
    return f"{name}{', a smoke run' if is_smoke else ''}"
