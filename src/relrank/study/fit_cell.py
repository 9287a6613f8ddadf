"""Fit the model of one cell, and refit it on training and validation rows where the protocol asks for it."""

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
from relrank.study.number_format import duration
from relrank.training import TrainConfig, fit


def seeded(cell: Cell, config: Any) -> Any:
    """Hyper-parameters with the seed of the split, where a model has a seed."""
    if "seed" not in {f.name for f in fields(config)}:
        return config
    return override_config(config, {"seed": cell.split_context.seed}, cell.model.kind)


def fit_cell(
    cell: Cell,
    graph: Graph,
    config: Any,
    folder: Path,
    on_status: StatusCallback,
    train: TrainConfig | None = None,
    on_validation: Callable[[int, float], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    full_graph: Graph | None = None,
) -> tuple[Recommender, pl.DataFrame | None]:
    """Fit the cell's model on a graph; returns it and, for a trained one, its learning curve.

    ``on_validation`` gets epoch and metric of every validation, and may raise to end the training. A closed form may
    derive its solution from that of the ``full_graph`` (``Cell.full_graph``).
    """
    kind, split_context = MODELS[cell.model.kind], cell.split_context
    config = seeded(cell, config)
    if issubclass(kind, ClosedForm):
        solver = kind(graph, config)
        return solver.solve() if full_graph is None else solver.solve_from(full_graph), None
    model = kind(graph, config)

    def callback(
        epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float
    ) -> None:
        latest = "" if metric is None else f", {cell.study.metric} {metric:.4f}"
        best_so_far = f", best {best:.4f}" if np.isfinite(best) else ""
        on_status(f"epoch {epoch} of {epochs}, loss {loss:.4f}{latest}{best_so_far}, {duration(seconds_left)} left")
        if on_validation is not None and metric is not None:
            on_validation(epoch, metric)

    def step_callback(epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        left = f"{duration(seconds_left)} left"
        on_status(f"epoch {epoch} of {epochs}, step {step:,} of {steps:,}, loss {loss:.4f}, {left}")

    def validate() -> float:
        return mean_metric(model, split_context.split, cell.study.metric)

    fitted = fit(
        model, train or cell.initial_config()[1], validate, split_context.seed, folder, callback, group, step_callback
    )
    return model, fitted.history


def refit_graph(cell: Cell, graph: Graph) -> Graph:
    """A cell's graph for the final fit: with validation rows among its interactions, and side data until the test."""
    if cell.split_context.final_graph is not None:
        return cell.arm_graph(cell.split_context.final_graph)
    split = cell.split_context.final
    edges = build_interactions(graph.user, graph.item, split.train, cell.split_context.interactions)
    places = history_positions(split.train) if split.ordered else None
    return replace(graph, interactions=edges, places=places, events=events_of(split))


def refit_cell(
    cell: Cell,
    graph: Graph,
    config: Any,
    history: pl.DataFrame | None,
    folder: Path,
    on_status: StatusCallback,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Recommender:
    """Refit on the graph of the final fit (``refit_graph``); a trained model for its best number of epochs."""
    train = None
    if history is not None:
        train = cell.initial_config()[1]
        best = history.filter(pl.col("metric") == pl.col("metric").max())["epoch"][0]
        # a learning-rate schedule depends on the number of epochs, which therefore stays
        epochs = best if train.decay == "none" else train.epochs
        train = replace(train, epochs=epochs, every=epochs, patience=0)
    return fit_cell(cell, graph, config, folder, on_status, train, group=group)[0]
