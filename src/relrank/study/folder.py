"""The folder of a study: one study's, one process's at a time."""

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
"""What a study leaves. A folder without any of it is nobody's, as where the data could not be read."""

SEARCH = ("tuning.db*", "tuning.checkpoints", "tuned.toml")
"""What a search of ``relrank tune`` writes there."""


def names_of_study() -> tuple[str, ...]:
    """Patterns of everything that relrank reads, writes or deletes in a study's folder; the rest is somebody else's.

    Temporary names are not among them: they cannot be known beforehand, and what a kill left of them is not followed.
    """
    from relrank.study.result import StudyResult

    of_winner = ("winner.checkpoints", ".winner.replaced")
    result = (*StudyResult.files(), "results.json", MANIFEST, "report.html")
    return (STUDY, *KEPT, *SEARCH, *of_winner, *result, LOCK, OWNER)


@contextmanager
def study_folder(out: Path, config: StudyConfig, is_smoke: bool = False) -> Iterator[None]:
    """Hold a study's folder until the block ends; see ``owner.locked_folder``.

    Args:
        out: the folder, which is made if it is not there.
        config: the study.
        is_smoke: whether it is a smoke run, which has a folder of its own.

    Raises:
        InputError: another process holds it, it holds a link, or it is that of another study.
    """
    refuse_other_study(out, config, is_smoke)
    with locked_folder(out, names=names_of_study()):
        refuse_other_study(out, config, is_smoke)
        if not (out / STUDY).is_file() or not any(os.path.lexists(out / name) for name in KEPT):
            write_json(out / STUDY, {"name": config.name, "smoke": is_smoke})
        yield


def refuse_other_study(out: Path, config: StudyConfig, is_smoke: bool = False) -> None:
    """Refuse a folder whose results would be replaced by those of another study.

    Raises:
        InputError: it is that of another study, or of a fitted model.
    """
    said = {"name": config.name, "smoke": is_smoke}
    if os.path.lexists(out / STUDY) and any(os.path.lexists(out / name) for name in KEPT):
        said = parse_json_object(read_bytes_within(out, STUDY), str(out / STUDY))
    elif os.path.lexists(out / "run.json"):
        said = {"name": "a fitted model"}
    if (said.get("name"), bool(said.get("smoke"))) != (config.name, is_smoke):
        raise InputError(
            "folder of another study",
            where=str(out),
            found=_named(said.get("name"), bool(said.get("smoke"))),
            expected=f"that of {_named(config.name, is_smoke)}, or a new one: name it with --out",
        )


def _named(name: object, is_smoke: bool) -> str:
    return f"{name}{', a smoke run' if is_smoke else ''}"
