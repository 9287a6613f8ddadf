"""Fit the model of one cell, and once more on training and validation rows where the study says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relrank.evaluation.evaluate import mean_metric
from relrank.graph.construction.interactions import build_interactions, events_of, history_positions
from relrank.graph.graph import Graph
from relrank.models import MODELS, ClosedForm, Recommender
from relrank.models.core.base import override_config
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup
from relrank.study.cell import Cell, StatusCallback
from relrank.training import TrainConfig, fit


def seeded(cell: Cell, config: Any) -> Any:
    """Hyper-parameters with the bench's seed, where a model has one."""
    there = "seed" in {f.name for f in fields(config)}
    return override_config(config, {"seed": cell.split_context.seed}, cell.model.kind) if there else config


def fit_cell(
    cell: Cell,
    graph: Graph,
    config: Any,
    folder: Path,
    on_status: StatusCallback,
    train: TrainConfig | None = None,
    on_validation: Callable[[int, float], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    whole: Graph | None = None,
) -> tuple[Recommender, pl.DataFrame | None]:
    """Fit the cell's model on one graph; returns it and, for a trained one, its learning curve.

    ``on_validation`` is told epoch and metric of every validation; what it raises ends the training. A closed form
    that is given the ``whole`` graph may start from its solution (``Cell.whole``).
    """
    kind, split_context = MODELS[cell.model.kind], cell.split_context
    config = seeded(cell, config)
    if issubclass(kind, ClosedForm):
        solver = kind(graph, config)
        return solver.solve() if whole is None else solver.solve_from(whole), None
    model = kind(graph, config)

    def callback(
        epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float
    ) -> None:
        latest = "" if metric is None else f", {cell.study.metric} {metric:.4f}"
        best_so_far = f", best {best:.4f}" if np.isfinite(best) else ""
        on_status(f"epoch {epoch} of {epochs}, loss {loss:.4f}{latest}{best_so_far}, {_left(seconds_left)}")
        if on_validation is not None and metric is not None:
            on_validation(epoch, metric)

    def step_callback(epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        on_status(f"epoch {epoch} of {epochs}, step {step:,} of {steps:,}, loss {loss:.4f}, {_left(seconds_left)}")

    def validate() -> float:
        return mean_metric(model, split_context.split, cell.study.metric)

    fitted = fit(
        model, train or cell.start()[1], validate, split_context.seed, folder, callback, group, step_callback
    )
    return model, fitted.history


def _left(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit} left" if unit == "h" else f"{seconds / size:.0f} {unit} left"
    return f"{seconds:.0f} s left"


def refit_graph(cell: Cell, graph: Graph) -> Graph:
    """The graph with the validation rows among its interactions."""
    edges = build_interactions(
        graph.user, graph.item, cell.split_context.final.train, cell.split_context.interactions
    )
    places = history_positions(cell.split_context.final.train) if cell.split_context.final.ordered else None
    return replace(graph, interactions=edges, places=places, events=events_of(cell.split_context.final))


def refit_cell(
    cell: Cell,
    graph: Graph,
    config: Any,
    history: pl.DataFrame | None,
    folder: Path,
    on_status: StatusCallback,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Recommender, Graph]:
    """Fit once more with the validation rows in training; a trained model for the epochs that validation picked."""
    graph, train = refit_graph(cell, graph), None
    if history is not None:
        train = cell.start()[1]
        best = history.filter(pl.col("metric") == pl.col("metric").max())["epoch"][0]
        # a rate that decays belongs to its number of epochs
        epochs = best if train.decay == "none" else train.epochs
        train = replace(train, epochs=epochs, every=epochs, patience=0)
    return fit_cell(cell, graph, config, folder, on_status, train, group=group)[0], graph
