"""The folder of a finished cell: per-user metrics, learned values, weights; written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from relrank.errors import InputError
from relrank.evaluation.evaluate import Evaluation
from relrank.io.manifest import ManifestReader, consistent, refuse_leading_out
from relrank.io.tensors import parse_safetensors
from relrank.study.cell import key_of_identity
from relrank.study.coordinate_search import Trial

REPAIR_HINT = "delete the cell's folder, and the study runs the cell again"


NOTE, USERS, HISTORY = "cell.json", "users.parquet", "history.parquet"


HELD = "held.parquet"
"""Per user, the metric without each relation in the setting of the cell, in the folder of a tuned "all" arm."""


WEIGHTS = "model.safetensors"
"""Parameters of a trained model that may win, in its cell's folder until the study has a winner."""


@dataclass(frozen=True, slots=True, eq=False)
class CellResult:
    """A finished cell, as read back from its folder.

    Attributes:
        model: name.
        arm: name.
        seed: of the split.
        evaluation: per-user table on test and its summary.
        trials: what tuning tried.
        chosen: hyper-parameters that validation picked.
        valid: the study's metric on validation.
        history: learning curve, or None for a closed form.
        finished: whether tuning ended where no single step is worth it; False where its budget ran out first.
        cost: ``tune``, ``fit``, ``evaluate`` in seconds, ``peak_mb``. Trials that another arm had made already are
            charged as if this one had made them.
        note: what the model says of itself: learned relation weights, the graph's share in a fusion.
        warm_started_from: keys of the cells whose findings its search began with (``Cell.there``).
        held: what single relations bring in this cell's setting, all else held; None but for tuned "all" arms.
        key: name of its folder.
        chosen_trial: which of ``trials`` validation picked; None where none was made.
    """

    model: str
    arm: str
    seed: int
    evaluation: Evaluation
    trials: tuple[Trial, ...]
    chosen: dict[str, Any]
    valid: float
    history: pl.DataFrame | None
    finished: bool
    cost: dict[str, float]
    note: dict[str, Any]
    warm_started_from: tuple[str, ...] = ()
    held: FixedSettingEffects | None = None
    key: str = ""
    chosen_trial: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FixedSettingEffects:
    """The study's metric on test where one relation is changed in the setting of "all" and nothing else.

    Attributes:
        table: ``user`` and a column per relation: the metric without it; or, where validation gave it no weight, with
            the smallest weight that was tried.
        unused: the relations without weight.
    """

    table: pl.DataFrame
    unused: frozenset[str]


def load_cell_weights(folder: Path) -> dict[str, Tensor] | None:
    """Parameters of a finished cell's model; None where they are not there any more.

    Raises:
        InputError: they are not what was written, or those of another cell.
    """
    if not (folder / WEIGHTS).is_file():
        return None
    with consistent(folder, REPAIR_HINT):
        sealed, _ = open_cell(folder)
    return parse_safetensors(sealed.read(WEIGHTS), str(folder / WEIGHTS))


def finished(folder: Path) -> bool:
    """Whether a cell's folder is there."""
    return os.path.lexists(folder)


def load_cell(folder: Path) -> CellResult:
    """Read a finished cell.

    Raises:
        InputError: it is not what was written, or that of another cell.
    """
    with consistent(folder, REPAIR_HINT):
        return _loaded(folder)


def _loaded(folder: Path) -> CellResult:
    sealed, note = open_cell(folder)
    return CellResult(
        note["model"],
        note["arm"],
        note["seed"],
        Evaluation.from_bytes(sealed.read(USERS), str(folder / USERS)),
        tuple(Trial(**t) for t in note["trials"]),
        note["chosen"],
        note["valid"],
        sealed.table(HISTORY) if HISTORY in sealed else None,
        note["finished"],
        note["cost"],
        note["note"],
        tuple(note.get("began_after", ())),
        FixedSettingEffects(sealed.table(HELD), frozenset(note["unused"])) if "unused" in note else None,
        folder.name,
        note.get("chosen_trial"),
    )


def open_cell(folder: Path) -> tuple[ManifestReader, dict[str, Any]]:
    """A finished cell's files and its note."""
    refuse_leading_out(folder.parent, folder)
    sealed = ManifestReader(folder, REPAIR_HINT)
    note = sealed.json(NOTE)
    if (key := key_of_identity(note["identity"])) != folder.name:
        raise InputError(
            "folder of another cell", where=str(folder), expected=f"cell {folder.name}; {REPAIR_HINT}", found=key
        )
    return sealed, note
