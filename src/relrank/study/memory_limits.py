"""Which cells fit into memory, and messages about those that do not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.core.base import override_config
from relrank.models.core.estimates import Estimate
from relrank.parallel.memory import GB, VARIABLE, available_memory, gb
from relrank.study.cell import Cell, SplitContext
from relrank.study.config import StudySection
from relrank.study.tune_cell import free_parameters
from relrank.tables.notices import Notice
from relrank.training import resolve_device

INSTEAD = ("sparse-ease", "item-knn", "popularity")
"""Models that need little memory, the best first; the first that fits is suggested where another model does not."""


@dataclass(frozen=True, slots=True, eq=False)
class SkippedCell:
    """A cell without a result for lack of memory. Nothing of it is stored, so a further run tries it again.

    Attributes:
        cell: that was skipped.
        required_memory: bytes, as estimated.
        available: bytes, before anything ran.
        began: whether it ran out of memory; False if it was skipped because of its estimate.
    """

    cell: Cell
    required_memory: int
    available: int
    began: bool = False


def memory_per_cell(study: StudySection, of_engine: int | None = None, jobs: int = 1) -> int:
    """Bytes that one cell may take: ``RELRANK_MEMORY_GB``, else the study file's ``memory_gb``, else what is free.

    Args:
        study: section of the study file.
        of_engine: free memory that the engine reports for its machines; None for this machine.
        jobs: number of cells that run on this machine at once and share its memory.

    Raises:
        InputError: the environment variable is not a number above 0.
    """
    if VARIABLE not in os.environ:
        if study.memory_gb is not None:
            limit = int(study.memory_gb * GB)
            return limit if jobs == 1 else min(limit, available_memory() // jobs)
        if of_engine is not None:
            return of_engine
    return available_memory() // jobs


def estimate_of(cell: Cell) -> Estimate:
    """Memory and operations of a cell's largest fit on the grids that it searches; over all epochs of training.

    The final fit may be the largest, on a graph of its own with more edges.
    """
    cell = replace(cell, arm=replace(cell.arm, rewired=None))  # shuffling does not change shapes
    graph, final_graph, (config, _) = cell.graph, cell.split_context.final_graph, cell.initial_config()
    if cell.trials > 1:
        largest = {p.name: max(p.grid_values) for p in free_parameters(cell, graph)}
        config = override_config(config, largest, cell.model.name)
    estimates = [_of_fit(cell, graph, config, cell.full_graph)]
    if final_graph is not None:
        estimates.append(_of_fit(cell, cell.arm_graph(final_graph), config))
    return max(estimates, key=lambda estimate: estimate.bytes)


def _of_fit(cell: Cell, graph: Graph, config: Any, full_graph: Graph | None = None) -> Estimate:
    kind, train = MODELS[cell.model.kind], cell.initial_config()[1]
    if issubclass(kind, Trained):
        epoch = kind.estimate(graph, config, train.batch)
        return replace(epoch, dense=epoch.dense * train.epochs, sparse=epoch.sparse * train.epochs)
    assert issubclass(kind, ClosedForm)
    return kind.estimate(graph, config) if full_graph is None else kind.estimate_from(graph, full_graph, config)


def graph_bytes(split_context: SplitContext) -> int:
    """Bytes of a split's graphs, two if side data have times; processes that run its cells have copies of them."""
    graphs = split_context.graph, split_context.final_graph
    return sum(graph.nbytes for graph in graphs if graph is not None)


def required_memory(cell: Cell) -> int:
    """Estimated bytes of main memory that a cell needs besides its graphs; 0 for a model that trains on a GPU."""
    if issubclass(MODELS[cell.model.kind], Trained) and resolve_device(cell.initial_config()[1].device).type != "cpu":
        return 0
    return estimate_of(cell).bytes


def exceeding_memory(cells: Iterable[Cell], available: int) -> list[SkippedCell]:
    """The cells that need more than is available."""
    return [SkippedCell(cell, n, available) for cell in cells if (n := required_memory(cell)) > available]


def memory_notices(skipped: Sequence[SkippedCell]) -> list[Notice]:
    """One notice per model and reason: cells that were not started, and cells that ran out of memory."""
    groups: dict[tuple[str, bool], list[SkippedCell]] = {}
    for one in skipped:
        groups.setdefault((one.cell.model.name, one.began), []).append(one)
    return [Notice("memory", skip_message(group), len(group)) for group in groups.values()]


def skip_message(group: Sequence[SkippedCell]) -> str:
    """The message on cells of one model that were skipped for the same reason."""
    most = max(group, key=lambda one: one.required_memory)
    cell, names = most.cell, list(dict.fromkeys(one.cell.arm.name for one in group))
    arms = f"on {names[0]}" if len(names) == 1 else f"on {len(names)} arms ({'; '.join(names)})"
    free = f"{gb(most.available)} GB are available"
    who, items = f"{cell.model.name} {arms}", f"{cell.split_context.graph.n_items:,} items"
    instead = advice(cell, most.available)
    if most.began:
        return (
            f"{who} is left out: memory ended while it ran at {items}, by its estimate it needs "
            f"{gb(most.required_memory)} GB and {free}; it is tried again when the study is run again, and {instead}"
        )
    return f"{who} is left out: at {items} it needs about {gb(most.required_memory)} GB and {free}; {instead}"


def advice(cell: Cell, available: int) -> str:
    """What to do about a cell that does not fit."""
    kind = MODELS[cell.model.kind]
    if issubclass(kind, Trained):
        return "a smaller config.dim or train.batch needs less"
    graph = replace(cell.split_context.graph, features={})
    for name in INSTEAD:
        other = MODELS.get(name)
        if other is not None and other is not kind and other.estimate(graph, other.Config()).bytes <= available:
            return f"{name} fits and can be used instead"
    return "fewer items need less"


def refuse_too_large(cell: Cell) -> None:
    """Check a cell that is fitted by itself.

    Raises:
        InputError: it needs more memory than is available.
    """
    available = memory_per_cell(cell.study)
    if too_large := exceeding_memory([cell], available):
        raise InputError(
            "model does not fit into memory",
            where=f"{cell.model.name} on {cell.arm.name}",
            expected=f"at most {gb(available)} GB, which are available; {advice(cell, available)}",
            found=f"about {gb(too_large[0].required_memory)} GB at {cell.split_context.graph.n_items:,} items",
        )


def nothing_left(skipped: Sequence[SkippedCell]) -> InputError:
    """The error of a study whose cells are all skipped."""
    return InputError(
        "no model of the study fits into memory",
        where="[[models]]",
        expected=f"one that needs at most {gb(skipped[0].available)} GB",
        found=". ".join(notice.message for notice in memory_notices(skipped)),
    )
