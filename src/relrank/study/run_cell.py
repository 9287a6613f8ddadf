"""Run one cell of a study: tune, fit, evaluate, and write its folder, which appears only when it is complete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from relrank.evaluation.evaluate import evaluate, user_metric
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import hops
from relrank.io.atomic import discard, rename, sync_names, sync_tree
from relrank.io.manifest import write_manifest
from relrank.io.tensors import save_tensors, write_json
from relrank.models import MODELS, Recommender, Trained
from relrank.models.core.base import override_config
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.study.arms import all_without
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import (
    HELD,
    HISTORY,
    METADATA,
    USERS,
    WEIGHTS,
    CellResult,
    FixedSettingEffects,
    load_cell,
)
from relrank.study.coordinate_search import value_of
from relrank.study.fit_cell import fit_cell, refit_cell, refit_graph
from relrank.study.tune_cell import TrialCache, free_parameters, tune_and_fit, values_on_grid

LEARNED_VALUES = {
    "relation weights": "relation_weights",
    "graph's share": "gate_means",
    "own share by history length": "alpha_by_length",
    "share of each view": "view_shares",
    "items without a view": "missing_views",
}
"""By label, the attribute in which a fitted model reports values that it has learned, or weights that it has."""


def run_cell(cell: Cell, folder: Path, on_status: StatusCallback, trial_cache: TrialCache) -> CellResult:
    """Tune, fit and evaluate on test; write to ``folder`` with ``.part`` appended, and rename that at the end."""
    part = folder.with_name(folder.name + ".part")
    fill_cell(cell, part, on_status, trial_cache)
    sync_tree(part)
    rename(part, folder)
    sync_names(folder)
    return load_cell(folder)


def fill_cell(cell: Cell, part: Path, on_status: StatusCallback, trial_cache: TrialCache) -> None:
    """Tune, fit and evaluate on test, in a folder that contains exactly the cell's files at the end.

    Checkpoints of an interrupted call are resumed.
    """
    part.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        if file.is_symlink() or not file.is_dir():
            discard(file)
    reset_peak_memory()
    tuned = tune_and_fit(cell, part, on_status, trial_cache)
    on_status("evaluating")
    began = time.perf_counter()
    split_context = cell.split_context
    evaluation = evaluate(
        tuned.model,
        split_context.final,
        cell.study.ks,
        user_groups=split_context.user_groups,
        item_groups=split_context.item_groups,
        features=split_context.attributes,
    )
    cost = {**tuned.seconds, "evaluate": time.perf_counter() - began, "peak_mb": peak_memory_mb()}
    evaluation.save(part / USERS, durable=False)
    if isinstance(tuned.model, Trained) and cell.arm.rewired is None and split_context.seed == cell.study.seeds[0]:
        save_tensors(part / WEIGHTS, tuned.model.state(), {"model": cell.model.kind}, durable=False)
    if tuned.history is not None:
        tuned.history.write_parquet(part / HISTORY)
    metadata = {
        "model": cell.model.name,
        "arm": cell.arm.name,
        "seed": split_context.seed,
        "identity": cell.identity(),
        "trials": [asdict(t) for t in tuned.trials],
        "chosen": asdict(tuned.config),
        "valid": tuned.valid_metric,
        "chosen_trial": tuned.chosen_trial,
        "finished": tuned.converged,
        "note": {label: v for label, name in LEARNED_VALUES.items() if (v := getattr(tuned.model, name, None))},
        "cost": cost,
        "began_after": list(cell.warm_started_from),
    }
    if cell.is_compared_without and tuned.trials:
        config, graph = tuned.config, tuned.graph
        del tuned  # one model in memory at a time
        held = fixed_setting_effects(cell, config, graph, evaluation.table, part, on_status)
        held.table.write_parquet(part / HELD)
        metadata["unused"] = sorted(held.unused)
    for leftover in part.iterdir():
        if leftover.is_dir():
            discard(leftover)
    write_json(part / METADATA, metadata, durable=False)
    write_manifest(part, durable=False)


def fixed_setting_effects(
    cell: Cell, config: Any, graph: Graph, users: pl.DataFrame, folder: Path, on_status: StatusCallback
) -> FixedSettingEffects:
    """What each relation adds at the settings of a tuned "all" arm.

    Args:
        cell: that arm.
        config: its hyper-parameters.
        graph: that it was fitted on.
        users: its per-user table on test.
        folder: for checkpoints of trained models.
        on_status: receives progress messages.
    """
    chosen, columns, unused = asdict(config), {}, set()
    parameters = {k.name: k for k in MODELS[cell.model.kind].grid_parameters(cell.graph)}
    chains, relations = hops(cell.split_context.graph), cell.effective_arm.relations
    for number, name in enumerate(relations):
        on_status(f"held settings without {name}")
        weight = parameters.get(f"weights.{name}")
        # leaving out a relation leaves out those that are read through it
        left_out = [parameters.get(f"weights.{r}") for r in relations if r == name or name in chains[r]]
        checkpoints = folder / f"held-{number}"
        if weight is not None and all(k is not None and value_of(chosen, k.name) == 0 for k in left_out):
            unused.add(name)
            smallest = override_config(config, {weight.name: weight.grid_values[1]}, cell.model.name)
            model = fit_cell(cell, graph, smallest, checkpoints, on_status)[0]
        else:
            arm = all_without(cell.arm.relations, name, chains)
            without = replace(cell, arm=arm, warm_starts=(), prerequisites=())
            model = fit_for_test(cell, without, shared_config(without, chosen), checkpoints, on_status)
        columns[name] = user_metric(model, cell.split_context.final, cell.study.metric, "test")
    return FixedSettingEffects(
        users.select("user").with_columns(**{n: pl.Series(v) for n, v in columns.items()}), frozenset(unused)
    )


def fit_for_test(cell: Cell, other: Cell, config: Any, folder: Path, on_status: StatusCallback) -> Recommender:
    """The cell's model on another cell's graph, refitted with validation rows where the split context says so."""
    graph = other.graph
    if not cell.split_context.refit:
        return fit_cell(cell, graph, config, folder, on_status)[0]
    history = None
    if issubclass(MODELS[cell.model.kind], Trained):
        history = fit_cell(cell, graph, config, folder / "final", on_status)[1]
    return refit_cell(cell, refit_graph(other, graph), config, history, folder / "refit", on_status)


def shared_config(cell: Cell, chosen: Mapping[str, Any]) -> Any:
    """A cell's configuration with the settings of another arm, as far as they apply to it."""
    values = values_on_grid(free_parameters(cell, cell.graph), chosen)
    return override_config(cell.initial_config()[0], values, cell.model.name)
