"""Tune the hyper-parameters of one cell on validation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from relrank.evaluation.evaluate import mean_metric, user_metric
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import hops
from relrank.kernels.csr import Float32
from relrank.models import MODELS, Recommender, Trained
from relrank.models.core.base import GridParameter, override_config
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup
from relrank.study.arms import over
from relrank.study.cell import Cell, StatusCallback, edges_sha
from relrank.study.coordinate_search import SearchResult, Trial, coordinate_search, value_of
from relrank.study.fit_cell import fit_cell, refit_cell


@dataclass(frozen=True, slots=True, eq=False)
class TunedModel:
    """A model fitted with the hyper-parameters that validation picked.

    Attributes:
        model: ready to score; on a refitting bench it has seen the validation rows.
        graph: what it was fitted on.
        config: its hyper-parameters.
        valid: its metric on validation, before any refit.
        trials: what was tried.
        chosen_trial: which of them ``config`` is; None where none was made.
        finished: whether tuning ended by itself.
        history: learning curve, or None for a closed form.
        seconds: ``tune`` and ``fit``.
    """

    model: Recommender
    graph: Graph
    config: Any
    valid: float
    trials: tuple[Trial, ...]
    chosen_trial: int | None
    finished: bool
    history: pl.DataFrame | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class CachedTrial:
    """A trial that was made: the metric of every validation user, float32 [n_users], and the seconds it took."""

    metrics: Float32
    seconds: float


class TrialCache(Protocol):
    """Trials by what their scores depend on, so that arms need not repeat each other's; a dict is one."""

    def get(self, trial: str, /) -> CachedTrial | None:
        """The trial, if it was made."""

    def __setitem__(self, trial: str, known: CachedTrial, /) -> None: ...


def tune(
    cell: Cell,
    graph: Graph,
    folder: Path,
    on_status: StatusCallback,
    memory: TrialCache,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Any, SearchResult, float]:
    """Try the cell's budget of configurations on validation, on the cell's graph.

    ``memory`` holds what other arms tried with the same edges in effect (closed forms only).

    Returns:
        The configuration that was chosen, the search (without trials where nothing may be moved), and the seconds
        that its trials took.
    """
    config, _ = cell.start()
    made, charged = 0, 0.0

    def measure(values: dict[str, float]) -> Float32:
        nonlocal made, charged
        made += 1
        on_status(f"trial {made} of at most {cell.trials}")
        changed = override_config(begin, values, cell.model.name)
        key = trial_cache_key(cell, graph, changed)
        known = None if key is None else memory.get(key)
        if known is None:
            began = time.perf_counter()
            model, _ = fit_cell(cell, graph, changed, folder / f"trial-{made}", on_status, group=group)
            metrics = group.broadcast_from_rank0(
                lambda: user_metric(model, cell.split_context.split, cell.study.metric).tolist()
            )
            known = CachedTrial(np.asarray(metrics, np.float32), time.perf_counter() - began)
            if key is not None:
                memory[key] = known
        charged += known.seconds
        return known.metrics

    begin = override_config(config, dict(cell.warm_starts[0]) if cell.warm_starts else {}, cell.model.name)
    grid_parameters = grid_parameters_of(cell, graph)
    if not grid_parameters:
        return begin, SearchResult((), -1, True), 0.0
    searched = {k.name for k in grid_parameters}  # a start without what is held would be another one
    kind = MODELS[cell.model.kind]
    others = [s for s in kind.starts(graph) if s.keys() <= searched]
    without = {f"weights.{name}" for name in cell.read.relations} if cell.has_all else set()
    published_settings = None if cell.warm_starts or without else kind.published_settings(graph)
    reference = (
        published_settings if published_settings is not None and published_settings.keys() <= searched else None
    )
    starts = cell.warm_starts or ({}, *others)
    found = coordinate_search(
        grid_parameters, cell.trials, measure, starts=starts, without=without, reference=reference
    )
    return override_config(begin, found.trials[found.chosen].values, cell.model.name), found, charged


def tune_and_fit(
    cell: Cell, folder: Path, on_status: StatusCallback, memory: TrialCache, group: ProcessGroup = SINGLE_PROCESS
) -> TunedModel:
    """Try the cell's budget of configurations on validation, then fit the best one.

    ``memory`` holds what other arms tried with the same edges in effect (closed forms only). A trained model keeps
    its checkpoints in ``folder``, so a killed cell goes on where it was. The processes of a group do all this
    together, and the first of them measures.
    """
    graph = cell.graph  # made once: shuffled links are costly, and so is what is derived from them
    config, found, charged = tune(cell, graph, folder, on_status, memory, group)
    began = time.perf_counter()
    model, history = fit_cell(cell, graph, config, folder / "final", on_status, group=group, whole=cell.whole)
    valid = group.broadcast_from_rank0(lambda: mean_metric(model, cell.split_context.split, cell.study.metric))
    if cell.split_context.refit:
        del model  # memory for one is enough
        model, graph = refit_cell(cell, graph, config, history, folder / "refit", on_status, group)
    seconds = {"tune": charged, "fit": time.perf_counter() - began}
    chosen = found.chosen if found.trials else None
    return TunedModel(model, graph, config, valid, found.trials, chosen, found.finished, history, seconds)


def free_parameters(cell: Cell, graph: Graph) -> list[GridParameter]:
    """What the study file does not set."""
    return [k for k in MODELS[cell.model.kind].grid_parameters(graph) if not cell.is_fixed(k.name)]


def grid_parameters_of(cell: Cell, graph: Graph) -> list[GridParameter]:
    """What the cell's search moves.

    Where a relation is shuffled in a setting that was found with its links, that is its own weight alone, what its
    degrees are worth without them, and the weights of what is composed over it; none of those that the setting leaves
    out.
    """
    if cell.trials == 1:
        return []
    grid_parameters = free_parameters(cell, graph)
    if cell.warm_starts and cell.tunes_new_weights_only:
        new = {f"weights.{name}" for name in cell.read.relations} - set(cell.warm_starts[0])
        return [k for k in grid_parameters if k.name in new] or grid_parameters
    if cell.warm_starts and cell.read.rewired is not None:
        passed = hops(graph)
        own = {f"weights.{name}" for name in passed if cell.read.rewired in over(passed, name)}
        return [k for k in grid_parameters if k.name in own and cell.warm_starts[0].get(k.name) != k.start]
    return grid_parameters


def values_on_grid(grid_parameters: Sequence[GridParameter], chosen: Mapping[str, Any]) -> dict[str, float]:
    """Values of knobs in another cell's hyper-parameters, as far as it has them and they may be tried here."""
    values = ((knob, value_of(chosen, knob.name)) for knob in grid_parameters)
    return {knob.name: value for knob, value in values if value in knob.grid_values}


def trial_cache_key(cell: Cell, graph: Graph, config: Any) -> str | None:
    """What a closed form's scores depend on: relations of weight 0 do not count, so arms can share trials.

    None for a trained model, whose start depends on every node of its graph.
    """
    if issubclass(MODELS[cell.model.kind], Trained):
        return None
    values = asdict(config)
    edges = {}
    if "weights" in values:
        in_use = {name: values["weights"].get(name, values["weight"]) for name in graph.relations}
        values["weights"] = {name: weight for name, weight in sorted(in_use.items()) if weight != 0}
        # one that touches neither users nor items is reached through others, whatever these weigh
        used = over(hops(graph), *values["weights"])
        edges = {name: edges_sha(graph, name) for name in used}
        del values["weight"]
    split = cell.split_context.split.fingerprint
    return json.dumps(
        [cell.model.kind, values, edges, split, cell.study.metric, cell.split_context.seed], sort_keys=True
    )
