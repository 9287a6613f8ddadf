"""The winner of a study: the best model and arm on validation, kept as a fitted run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from relrank.arguments import checked
from relrank.errors import InputError, UnavailableError
from relrank.graph.graph import Graph
from relrank.models import MODELS, Recommender
from relrank.models.core.base import override_config, restore
from relrank.runs.fitted_run import FittedRun, holds_run, load_run, refresh_run, save_run
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import WEIGHTS, CellResult, cell_exists, load_cell, load_cell_weights
from relrank.study.config import StudyConfig
from relrank.study.fit_cell import fit_cell, refit_cell, refit_graph, seeded
from relrank.study.fit_run import run_metadata
from relrank.study.folder import study_folder
from relrank.study.leaks import accepted_leaks, leaks_of
from relrank.study.prepare import StudyData
from relrank.study.schedule import Batch, Done, run_batches


def load_cell_model(cell: Cell, folder: Path, config: Any) -> tuple[Recommender, Graph] | None:
    """The trained model of a finished cell and the graph that it was fitted on; None if its weights were deleted."""
    weights = load_cell_weights(folder)
    if weights is None:
        return None
    graph = refit_graph(cell, cell.graph) if cell.split_context.refit else cell.graph
    model = MODELS[cell.model.kind](graph, seeded(cell, config))
    restore(model, weights, str(folder / WEIGHTS))
    return model, graph


@checked("rr.save_winner")
def save_winner(
    config: StudyConfig, material: StudyData, out: Path | str, on_status: StatusCallback = lambda _: None
) -> FittedRun:
    """Save the best model and arm on validation, fitted on the first seed, to ``out/winner``.

    Arms with shuffled links cannot win. A closed form is solved again; a trained model is restored from its cell.
    Afterwards the weights of all cells are deleted, so a trained model that wins only later, with further cells, is
    fitted again. An existing winner is loaded, with the current titles and columns of items.

    Args:
        config: the study.
        material: its data, from ``prepare``.
        out: the study's folder.
        on_status: receives progress messages.

    Raises:
        InputError: the existing winner does not fit into memory or cannot be read from disk.
    """
    out = Path(out)
    with study_folder(out, config, material.smoke):
        return _save_best_cell(config, material, out, on_status)


def _save_best_cell(config: StudyConfig, material: StudyData, out: Path, on_status: StatusCallback) -> FittedRun:
    finished = _finished_cells(config, material, out / "cells")
    valid: dict[tuple[str, str], list[float]] = {}
    for cell, result in finished:
        valid.setdefault((cell.model.name, cell.arm.name), []).append(result.valid_metric)
    valid = {name: values for name, values in valid.items() if len(values) == len(material.split_contexts)}
    best = max(valid, key=lambda name: float(np.mean(valid[name])))
    cell, result = next((c, r) for c, r in finished if (c.model.name, c.arm.name) == best)
    folder = out / "winner"
    leaks = accepted_leaks(leaks_of(material.findings, cell.arm, config.features), config.study.accept_leaks)
    winner = _load_stored_winner(cell, folder)
    if winner is None:
        _fit_winner(cell, result, material, out, on_status, leaks)
        winner = load_run(folder)
    winner = refresh_run(winner, material.tables, cell.split_context.graph_at_test, folder, leaks)
    for cell_folder in (out / "cells").iterdir():
        if cell_folder.is_dir():  # a killed engine may leave a file
            (cell_folder / WEIGHTS).unlink(missing_ok=True)
    return winner


def _load_stored_winner(cell: Cell, folder: Path) -> FittedRun | None:
    """The fitted model of a cell; None if it is missing, damaged, or of other users or items.

    Raises:
        InputError: it cannot be read now, for lack of memory or because of the disk.
    """
    try:
        if not holds_run(folder, cell.key()):
            return None
        winner = load_run(folder)
    except UnavailableError:
        raise
    except InputError:  # damaged, or of another version
        return None
    split = cell.split_context.final
    same = winner.split.items.keys.equals(split.items.keys) and winner.split.users.keys.equals(split.users.keys)
    return winner if same else None


def _finished_cells(config: StudyConfig, material: StudyData, folder: Path) -> list[tuple[Cell, CellResult]]:
    """The finished cells of a study, except those with shuffled links."""
    finished: list[tuple[Cell, CellResult]] = []

    def read(batch: Batch) -> Done:
        results = [(cell, load_cell(folder / cell.key())) for cell in batch if cell_exists(folder / cell.key())]
        finished.extend((cell, result) for cell, result in results if cell.arm.rewired is None)
        return [(cell.arm, result) for cell, result in results]

    run_batches(config, material, read)
    return finished


def _fit_winner(
    cell: Cell,
    result: CellResult,
    material: StudyData,
    out: Path,
    on_status: StatusCallback,
    leaks: list[dict[str, Any]],
) -> None:
    chosen = override_config(MODELS[cell.model.kind].Config(), result.chosen, "winner")
    graph, checkpoints = cell.graph, out / "winner.checkpoints" / cell.key()
    stored = load_cell_model(cell, out / "cells" / cell.key(), chosen)
    if stored is not None:
        model, graph = stored
    else:
        model, history = fit_cell(cell, graph, chosen, checkpoints / "final", on_status, full_graph=cell.full_graph)
        if cell.split_context.refit:
            graph = refit_graph(cell, graph)
            model = refit_cell(cell, graph, chosen, history, checkpoints / "refit", on_status)
    metadata = run_metadata(cell, chosen, result.valid_metric, leaks)
    split_context = cell.split_context
    save_run(
        model, graph, split_context.final, material.tables, metadata, out / "winner", split_context.graph_at_test
    )
    shutil.rmtree(out / "winner.checkpoints", ignore_errors=True)
