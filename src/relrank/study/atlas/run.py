"""Run the studies of an atlas: each one by itself, so that one that fails does not end the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relrank.errors import InputError
from relrank.study.atlas.config import Atlas, AtlasStudy
from relrank.study.config import config_hash
from relrank.study.result import StudyResult

NOT_RUN = "it has not finished"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the atlas has of a study.

    Attributes:
        study: of the atlas.
        folder: of the study.
        result: its result; None if there is none.
        problem: why there is none, in one line; else None.
        error: what ended it; None if nothing did.
    """

    study: AtlasStudy
    folder: Path
    result: StudyResult | None
    problem: str | None = None
    error: Exception | None = None


def stored_outcome(study: AtlasStudy, out: Path) -> Outcome:
    """The stored result of a study file as it is today, without reading any data.

    A result of a study file that has changed since is none.
    """
    folder = out / study.name
    if not (folder / "card.json").is_file():
        return Outcome(study, folder, None, NOT_RUN)
    try:
        result = StudyResult.load(folder)
    except InputError as error:
        return Outcome(study, folder, None, one_line(error), error)
    if result.card.get("config") != config_hash(study.config):
        return Outcome(study, folder, None, "its study file has changed since it ran")
    return Outcome(study, folder, result)


def attempt(study: AtlasStudy, out: Path, run: Callable[[AtlasStudy, Path], StudyResult]) -> Outcome:
    """Run one study in its folder ``out/NAME``; whatever is wrong with it becomes the outcome's problem."""
    folder = out / study.name
    try:
        return Outcome(study, folder, run(study, folder))
    except Exception as error:  # also a bug in one study must not cost the hours of the others
        return Outcome(study, folder, None, one_line(error), error)


def selected(atlas: Atlas, only: Sequence[str]) -> list[AtlasStudy]:
    """The studies of these names, in the order of the atlas; all without names.

    Raises:
        InputError: there is no study of a name.
    """
    names = {atlas.study(name, "relrank atlas --only").name for name in only}
    return [study for study in atlas.studies if not only or study.name in names]


def seconds_left(done: Sequence[AtlasStudy], seconds: float, left: Sequence[AtlasStudy]) -> float | None:
    """Time for further studies, from the seconds that others took; None before any.

    Studies differ by their ``hours`` in the atlas file; one without counts as the mean of those with them.
    """
    given = [study.entry.hours for study in (*done, *left) if study.entry.hours is not None]
    mean = sum(given) / len(given) if given else 1.0

    def weight(studies: Sequence[AtlasStudy]) -> float:
        return sum(study.entry.hours or mean for study in studies)

    return seconds * weight(left) / weight(done) if done else None


def one_line(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, InputError):
        parts: Any = (error.what, f"expected {error.expected}", f"found {error.found}")
        return " ".join("; ".join(parts).split())
    return " ".join(f"{type(error).__name__}: {error}".split())
