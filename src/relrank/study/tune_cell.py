"""Tune the hyper-parameters of one cell on validation, and fit the best configuration."""

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
from relrank.study.arms import with_chain
from relrank.study.cell import Cell, StatusCallback, edges_sha, key_of_identity
from relrank.study.coordinate_search import SearchResult, Trial, coordinate_search, value_of
from relrank.study.fit_cell import fit_cell, refit_cell, refit_graph


@dataclass(frozen=True, slots=True, eq=False)
class TunedModel:
    """A model fitted with the hyper-parameters that validation picked.

    Attributes:
        model: ready to score; refitted with the validation rows where the split context says so.
        graph: that it was fitted on.
        config: its hyper-parameters.
        valid_metric: on validation, before any refit.
        trials: configurations that were tried.
        chosen_trial: index of ``config`` in ``trials``; None without trials.
        converged: whether tuning ended before its trials ran out.
        history: learning curve, or None for a closed form.
        seconds: ``tune`` and ``fit``.
    """

    model: Recommender
    graph: Graph
    config: Any
    valid_metric: float
    trials: tuple[Trial, ...]
    chosen_trial: int | None
    converged: bool
    history: pl.DataFrame | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class CachedTrial:
    """A finished trial: the metric of every validation user, float32 [n_users], and its seconds."""

    metrics: Float32
    seconds: float


class TrialCache(Protocol):
    """Finished trials by what their scores depend on (``trial_cache_key``), shared by arms. A dict is one."""

    def get(self, key: str, /) -> CachedTrial | None:
        """The trial, or None."""

    def __setitem__(self, key: str, trial: CachedTrial, /) -> None: ...


def tune(
    cell: Cell,
    graph: Graph,
    folder: Path,
    on_status: StatusCallback,
    trial_cache: TrialCache,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Any, SearchResult, float]:
    """Search the cell's hyper-parameters on validation, with at most ``Cell.trials`` configurations.

    ``trial_cache`` has trials of other arms with the same edges in effect (closed forms only).

    Returns:
        The chosen configuration, the search (without trials where every hyper-parameter is fixed), and the seconds
        of its trials.
    """
    warm_start = dict(cell.warm_starts[0]) if cell.warm_starts else {}
    initial = override_config(cell.initial_config()[0], warm_start, cell.model.name)
    grid_parameters = grid_parameters_of(cell, graph)
    if not grid_parameters:
        return initial, SearchResult((), -1, True), 0.0
    n_trials, seconds = 0, 0.0

    def measure(values: dict[str, float]) -> Float32:
        nonlocal n_trials, seconds
        n_trials += 1
        on_status(f"trial {n_trials} of at most {cell.trials}")
        config = override_config(initial, values, cell.model.name)
        key = trial_cache_key(cell, graph, config)
        trial = None if key is None else trial_cache.get(key)
        if trial is None:
            began = time.perf_counter()
            model, history = fit_cell(cell, graph, config, fit_folder(folder, config), on_status, group=group)
            restored = _restored(history, time.perf_counter() - began)
            metrics = group.broadcast_from_rank0(
                lambda: user_metric(model, cell.split_context.split, cell.study.metric).tolist()
            )
            trial = CachedTrial(np.asarray(metrics, np.float32), time.perf_counter() - began + restored)
            if key is not None:
                trial_cache[key] = trial
        seconds += trial.seconds
        return trial.metrics

    searched = {k.name for k in grid_parameters}
    kind = MODELS[cell.model.kind]
    without = {f"weights.{name}" for name in cell.effective_arm.relations} if cell.is_compared_without else set()
    reference = None if cell.warm_starts or without else kind.published_settings(graph)
    # a start or reference that sets a fixed hyper-parameter would be cut to something else
    if reference is not None and not reference.keys() <= searched:
        reference = None
    starts = cell.warm_starts or ({}, *(s for s in kind.starts(graph) if s.keys() <= searched))
    search = coordinate_search(
        grid_parameters, cell.trials, measure, starts=starts, without=without, reference=reference
    )
    return override_config(initial, search.trials[search.chosen].values, cell.model.name), search, seconds


def fit_folder(folder: Path, config: Any) -> Path:
    """Where a configuration is trained: the final fit finds the checkpoint of the trial that was chosen."""
    return folder / f"fit-{key_of_identity(asdict(config))}"


def tune_and_fit(
    cell: Cell, folder: Path, on_status: StatusCallback, trial_cache: TrialCache, group: ProcessGroup = SINGLE_PROCESS
) -> TunedModel:
    """Tune a cell (see ``tune``) and fit the best configuration.

    A trained model writes checkpoints to ``folder``, so that a killed cell resumes, and the trial that was chosen is
    not trained again: its seconds count as those of the fit. All processes of a group take part; rank 0 measures.
    """
    graph = cell.graph  # built once: shuffling and derived matrices are expensive
    config, search, tuning_seconds = tune(cell, graph, folder, on_status, trial_cache, group)
    began = time.perf_counter()
    model, history = fit_cell(
        cell, graph, config, fit_folder(folder, config), on_status, group=group, full_graph=cell.full_graph
    )
    restored = _restored(history, time.perf_counter() - began)
    valid = group.broadcast_from_rank0(lambda: mean_metric(model, cell.split_context.split, cell.study.metric))
    if cell.split_context.refit:
        del model  # one model in memory at a time
        graph = refit_graph(cell, graph)
        model = refit_cell(cell, graph, config, history, folder / "refit", on_status, group)
    in_trial = restored if search.trials else 0.0
    seconds = {"tune": max(tuning_seconds - in_trial, 0.0), "fit": time.perf_counter() - began + restored}
    chosen = search.chosen if search.trials else None
    return TunedModel(model, graph, config, valid, search.trials, chosen, search.converged, history, seconds)


def _restored(history: pl.DataFrame | None, seconds: float) -> float:
    """Seconds of training that a checkpoint saved a fit, which itself took so many."""
    return 0.0 if history is None else max(float(history["seconds"].sum()) - seconds, 0.0)


def free_parameters(cell: Cell, graph: Graph) -> list[GridParameter]:
    """The hyper-parameters of the search space that the study file does not fix."""
    return [k for k in MODELS[cell.model.kind].grid_parameters(graph) if not cell.is_fixed(k.name)]


def grid_parameters_of(cell: Cell, graph: Graph) -> list[GridParameter]:
    """The hyper-parameters that the cell's search tunes.

    A placebo arm that is warm-started from the arm with the real links tunes only the weight of the shuffled relation
    and of those composed over it, and of these only the weights that the warm start uses.
    """
    if cell.trials == 1:
        return []
    grid_parameters = free_parameters(cell, graph)
    if cell.warm_starts and cell.tunes_new_weights_only:
        new = {f"weights.{name}" for name in cell.effective_arm.relations} - set(cell.warm_starts[0])
        return [k for k in grid_parameters if k.name in new] or grid_parameters
    if cell.warm_starts and cell.effective_arm.rewired is not None:
        chains = hops(graph)
        affected = {f"weights.{r}" for r in chains if cell.effective_arm.rewired in with_chain(chains, r)}
        return [k for k in grid_parameters if k.name in affected and cell.warm_starts[0].get(k.name) != k.start]
    return grid_parameters


def values_on_grid(grid_parameters: Sequence[GridParameter], chosen: Mapping[str, Any]) -> dict[str, float]:
    """Values from another cell's hyper-parameters, as far as they are on this cell's grids."""
    values = ((parameter, value_of(chosen, parameter.name)) for parameter in grid_parameters)
    return {parameter.name: value for parameter, value in values if value in parameter.grid_values}


def trial_cache_key(cell: Cell, graph: Graph, config: Any) -> str | None:
    """What a closed form's scores depend on. Relations of weight 0 are left out, so that arms can share trials.

    None for a trained model, whose initialization depends on every node of its graph.
    """
    if issubclass(MODELS[cell.model.kind], Trained):
        return None
    values = asdict(config)
    edges = {}
    if "weights" in values:
        in_use = {name: values["weights"].get(name, values["weight"]) for name in graph.relations}
        values["weights"] = {name: weight for name, weight in sorted(in_use.items()) if weight != 0}
        # a relation that touches neither users nor items is read through others, whatever their weights
        used = with_chain(hops(graph), *values["weights"])
        edges = {name: edges_sha(graph, name) for name in used}
        del values["weight"]
    split = cell.split_context.split.fingerprint
    return json.dumps(
        [cell.model.kind, values, edges, split, cell.study.metric, cell.split_context.seed], sort_keys=True
    )
