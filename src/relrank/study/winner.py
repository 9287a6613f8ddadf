"""The winner of a study: the best model and arm on validation, kept as a fitted run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from relrank.errors import InputError, UnavailableError
from relrank.graph.graph import Graph
from relrank.models import MODELS, Recommender
from relrank.models.core.base import override_config, restore
from relrank.runs.fitted_run import FittedRun, holds_run, load_run, refresh_run, save_run
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import (
    WEIGHTS,
    CellResult,
    finished,
    load_cell,
    load_cell_weights,
)
from relrank.study.config import (
    StudyConfig,
)
from relrank.study.fit_cell import fit_cell, refit_cell, refit_graph, seeded
from relrank.study.fit_run import note_of
from relrank.study.folder import study_folder
from relrank.study.leaks import accepted_leaks, leaks_of
from relrank.study.prepare import StudyData
from relrank.study.schedule import Batch, Done, run_batches


def load_cell_model(cell: Cell, folder: Path, config: Any) -> tuple[Recommender, Graph] | None:
    """The trained model of a finished cell and the graph that it was fitted on, while its weights are there."""
    weights = load_cell_weights(folder)
    if weights is None:
        return None
    graph = refit_graph(cell, cell.graph) if cell.split_context.refit else cell.graph
    model = MODELS[cell.model.kind](graph, seeded(cell, config))
    restore(model, weights, str(folder / WEIGHTS))
    return model, graph


def save_winner(
    config: StudyConfig, material: StudyData, out: Path | str, on_status: StatusCallback = lambda _: None
) -> FittedRun:
    """Keep the best model and arm on validation, as fitted on the first seed, under ``out/winner``.

    Shuffled arms cannot win. A closed form is solved once more; of a trained model the cell has the weights. Then all
    cells lose theirs; a trained model that only wins later, with further cells, is fitted once more. A winner that is
    there already is read back, with the titles and columns that items have now. ``on_status`` is told of a fit.

    Raises:
        InputError: the winner that is there does not fit into memory, or the disk does not give it.
    """
    out = Path(out)
    with study_folder(out, config, material.smoke):
        return _save_best_cell(config, material, out, on_status)


def _save_best_cell(config: StudyConfig, material: StudyData, out: Path, on_status: StatusCallback) -> FittedRun:
    cells, found = _finished_cells(config, material, out / "cells")
    valid: dict[tuple[str, str], list[float]] = {}
    for cell, result in zip(cells, found, strict=True):
        valid.setdefault((cell.model.name, cell.arm.name), []).append(result.valid)
    valid = {key: values for key, values in valid.items() if len(values) == len(material.split_contexts)}
    best = max(valid, key=lambda key: float(np.mean(valid[key])))
    cell, result = next((c, r) for c, r in zip(cells, found, strict=True) if (c.model.name, c.arm.name) == best)
    folder = out / "winner"
    leaks = accepted_leaks(leaks_of(material.findings, cell.arm, config.features), config.study.accept_leaks)
    winner = _load_stored_winner(cell, folder)
    if winner is None:
        _save_winner(cell, result, material, out, on_status, leaks)
        winner = load_run(folder)
    winner = refresh_run(winner, material.tables, cell.split_context.graph, folder, leaks)
    for at in (out / "cells").iterdir():
        if at.is_dir():  # a killed engine may leave a file
            (at / WEIGHTS).unlink(missing_ok=True)
    return winner


def _load_stored_winner(cell: Cell, folder: Path) -> FittedRun | None:
    """The fitted model of a cell, if it is there as it was written and of the same users and items.

    Raises:
        InputError: it may be there, and cannot be read now: for want of memory, or by the disk.
    """
    try:
        if not holds_run(folder, cell.key()):
            return None
        winner = load_run(folder)
    except UnavailableError:
        raise
    except InputError:  # damaged since, or of another version
        return None
    split = cell.split_context.final
    same = winner.split.items.keys.equals(split.items.keys) and winner.split.users.keys.equals(split.users.keys)
    return winner if same else None


def _finished_cells(config: StudyConfig, material: StudyData, folder: Path) -> tuple[list[Cell], list[CellResult]]:
    """The cells of a study that are there, without those with shuffled links."""
    cells: list[Cell] = []
    found: list[CellResult] = []

    def read(batch: Batch) -> Done:
        there = [(cell, load_cell(folder / cell.key())) for cell in batch if finished(folder / cell.key())]
        cells.extend(cell for cell, _ in there if cell.arm.rewired is None)
        found.extend(result for cell, result in there if cell.arm.rewired is None)
        return [(cell.arm, result) for cell, result in there]

    run_batches(config, material, read)
    return cells, found


def _save_winner(
    cell: Cell,
    result: CellResult,
    material: StudyData,
    out: Path,
    on_status: StatusCallback,
    leaks: list[dict[str, Any]],
) -> None:
    chosen = override_config(MODELS[cell.model.kind].Config(), result.chosen, "winner")
    graph, checkpoints = cell.graph, out / "winner.checkpoints" / cell.key()
    kept = load_cell_model(cell, out / "cells" / cell.key(), chosen)
    if kept is not None:
        model, graph = kept
    else:
        model, history = fit_cell(cell, graph, chosen, checkpoints / "final", on_status, whole=cell.whole)
        if cell.split_context.refit:
            model, graph = refit_cell(cell, graph, chosen, history, checkpoints / "refit", on_status)
    note = note_of(cell, chosen, result.valid, leaks)
    save_run(model, graph, cell.split_context.final, material.tables, note, out / "winner", cell.split_context.graph)
    shutil.rmtree(out / "winner.checkpoints", ignore_errors=True)
