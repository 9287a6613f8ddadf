"""The folder of a finished cell: per-user metrics, tuning, learned values, weights; complete or absent."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

METADATA, USERS, HISTORY = "cell.json", "users.parquet", "history.parquet"

HELD = "held.parquet"
"""Only for a tuned "all" arm: per user, the metric without each relation at the settings of that arm."""

WEIGHTS = "model.safetensors"
"""Parameters of a trained model that may become the winner; deleted once the study has one."""


@dataclass(frozen=True, slots=True, eq=False)
class CellResult:
    """A finished cell, as read from its folder.

    Attributes:
        model: name.
        arm: name.
        seed: of the split.
        evaluation: per-user table on test and its summary.
        trials: configurations that were tried.
        chosen: hyper-parameters with the best validation metric.
        valid_metric: the study's metric on validation.
        history: learning curve, or None for a closed form.
        converged: whether tuning ended because no single step improves; False where its trials ran out.
        cost: ``tune``, ``fit``, ``evaluate`` in seconds, ``peak_mb``. The time of a trial that comes from another
            arm's cache is included.
        learned_values: what the model has learned, by label: relation weights, the graph's share in a fusion.
        warm_started_from: keys of the cells that its search was warm-started from.
        held: effects of single relations at this cell's settings; only for tuned "all" arms.
        key: name of its folder.
        chosen_trial: index in ``trials`` of the chosen one; None without trials.
    """

    model: str
    arm: str
    seed: int
    evaluation: Evaluation
    trials: tuple[Trial, ...]
    chosen: dict[str, Any]
    valid_metric: float
    history: pl.DataFrame | None
    converged: bool
    cost: dict[str, float]
    learned_values: dict[str, Any]
    warm_started_from: tuple[str, ...] = ()
    held: FixedSettingEffects | None = None
    key: str = ""
    chosen_trial: int | None = None

    @property
    def seconds(self) -> float:
        """Time of tuning, fitting and evaluating."""
        return self.cost["tune"] + self.cost["fit"] + self.cost["evaluate"]


@dataclass(frozen=True, slots=True, eq=False)
class FixedSettingEffects:
    """The study's metric on test where one relation is changed at the settings of "all" and nothing else.

    Attributes:
        table: ``user`` and a column per relation: the metric without it; for a relation whose weight validation set
            to 0, the metric with the smallest weight of the grid.
        unused: the relations whose weight is 0.
    """

    table: pl.DataFrame
    unused: frozenset[str]


def cell_exists(folder: Path) -> bool:
    """Whether a cell has finished."""
    return os.path.lexists(folder)


def load_cell(folder: Path) -> CellResult:
    """Read a finished cell.

    Raises:
        InputError: the files were changed, or belong to another cell.
    """
    with consistent(folder, REPAIR_HINT):
        files, metadata = _open_cell(folder)
        held = None
        if "unused" in metadata:
            held = FixedSettingEffects(files.table(HELD), frozenset(metadata["unused"]))
        return CellResult(
            metadata["model"],
            metadata["arm"],
            metadata["seed"],
            Evaluation.from_bytes(files.read(USERS), str(folder / USERS)),
            tuple(Trial(**t) for t in metadata["trials"]),
            metadata["chosen"],
            metadata["valid"],
            files.table(HISTORY) if HISTORY in files else None,
            metadata["finished"],
            metadata["cost"],
            metadata["note"],
            tuple(metadata.get("began_after", ())),
            held,
            folder.name,
            metadata.get("chosen_trial"),
        )


def load_tuning_result(folder: Path) -> tuple[Mapping[str, Any], float]:
    """Chosen hyper-parameters and validation metric of a finished cell."""
    _, metadata = _open_cell(folder)
    return metadata["chosen"], metadata["valid"]


def load_fit_seconds(folder: Path) -> float:
    """Seconds that the final fit of a finished cell took.

    Raises:
        InputError: the files were changed, or belong to another cell.
    """
    with consistent(folder, REPAIR_HINT):
        _, metadata = _open_cell(folder)
    return float(metadata["cost"]["fit"])


def load_cell_weights(folder: Path) -> dict[str, Tensor] | None:
    """Parameters of a finished cell's model; None where they were not kept.

    Raises:
        InputError: the files were changed, or belong to another cell.
    """
    if not (folder / WEIGHTS).is_file():
        return None
    with consistent(folder, REPAIR_HINT):
        files, _ = _open_cell(folder)
    return parse_safetensors(files.read(WEIGHTS), str(folder / WEIGHTS))


def _open_cell(folder: Path) -> tuple[ManifestReader, dict[str, Any]]:
    """A finished cell's files and metadata."""
    refuse_leading_out(folder.parent, folder)
    files = ManifestReader(folder, REPAIR_HINT)
    metadata = files.json(METADATA)
    if (key := key_of_identity(metadata["identity"])) != folder.name:
        raise InputError(
            "folder of another cell", where=str(folder), expected=f"cell {folder.name}; {REPAIR_HINT}", found=key
        )
    return files, metadata
