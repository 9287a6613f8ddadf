"""One cell of a study — model, arm, seed — as one folder that is there when the cell is finished, and not before."""

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
from relrank.io.atomic import discard, sync_names, sync_tree
from relrank.io.manifest import write_manifest
from relrank.io.tensors import save_tensors, write_json
from relrank.models import MODELS, Recommender, Trained
from relrank.models.core.base import override_config
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.study.arms import drop
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import (
    HELD,
    HISTORY,
    NOTE,
    USERS,
    WEIGHTS,
    CellResult,
    FixedSettingEffects,
    load_cell,
)
from relrank.study.coordinate_search import value_of
from relrank.study.fit_cell import fit_cell, refit_cell
from relrank.study.tune_cell import TrialCache, free_parameters, tune_and_fit, values_on_grid

NOTES = {
    "relation weights": "relation_weights",
    "graph's share": "gate_means",
    "own share by history length": "alpha_by_length",
    "share of each view": "view_shares",
    "items without a view": "missing_views",
}
"""What a model may say of itself once it is fitted, and the attribute that says it."""


def run_cell(cell: Cell, folder: Path, on_status: StatusCallback, memory: TrialCache) -> CellResult:
    """Tune, fit, evaluate on test; write everything beside the final folder and rename it at the end."""
    part = folder.with_name(folder.name + ".part")
    fill_cell(cell, part, on_status, memory)
    sync_tree(part)
    part.replace(folder)
    sync_names(folder)
    return load_cell(folder)


def fill_cell(cell: Cell, part: Path, on_status: StatusCallback, memory: TrialCache) -> None:
    """Tune, fit, evaluate on test, in a folder that holds the cell's files, and no others, at the end.

    Checkpoints that an earlier call left there are gone on from.
    """
    part.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        if file.is_symlink() or not file.is_dir():
            discard(file)
    reset_peak_memory()
    tuned = tune_and_fit(cell, part, on_status, memory)
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
    said = {label: value for label, name in NOTES.items() if (value := getattr(tuned.model, name, None))}
    note = {
        "model": cell.model.name,
        "arm": cell.arm.name,
        "seed": split_context.seed,
        "identity": cell.identity(),
        "trials": [asdict(t) for t in tuned.trials],
        "chosen": asdict(tuned.config),
        "valid": tuned.valid,
        "chosen_trial": tuned.chosen_trial,
        "finished": tuned.finished,
        "note": said,
        "cost": cost,
        "began_after": list(cell.there),
    }
    if cell.has_all and tuned.trials:
        config, graph = tuned.config, tuned.graph
        del tuned  # memory for one model is enough
        held = fixed_setting_effects(cell, config, graph, evaluation.table, part, on_status)
        held.table.write_parquet(part / HELD)
        note["unused"] = sorted(held.unused)
    for leftover in part.iterdir():
        if leftover.is_dir():
            discard(leftover)
    write_json(part / NOTE, note, durable=False)
    write_manifest(part, durable=False)


def fixed_setting_effects(
    cell: Cell, held: Any, whole: Graph, users: pl.DataFrame, folder: Path, on_status: StatusCallback
) -> FixedSettingEffects:
    """What each relation brings in the setting of a tuned "all" arm.

    Args:
        cell: that arm.
        held: its configuration.
        whole: what it was fitted on.
        users: its per-user table on test.
        folder: for checkpoints of trained models.
        on_status: told of every relation.
    """
    chosen, columns, unused = asdict(held), {}, set()
    steps = {k.name: k for k in MODELS[cell.model.kind].grid_parameters(cell.graph)}
    passed = hops(cell.split_context.graph)
    for number, name in enumerate(cell.read.relations):
        on_status(f"held settings without {name}")
        knob = steps.get(f"weights.{name}")
        # what is read through it goes with it
        gone = [
            steps.get(f"weights.{other}") for other in cell.read.relations if other == name or name in passed[other]
        ]
        if knob is not None and all(k is not None and value_of(chosen, k.name) == 0 for k in gone):
            unused.add(name)
            config = override_config(held, {knob.name: knob.grid_values[1]}, cell.model.name)
            model = fit_cell(cell, whole, config, folder / f"held-{number}", on_status)[0]
        else:
            less = replace(cell, arm=drop(cell.arm.relations, name, passed), warm_starts=(), prerequisites=())
            model = _for_test(cell, less.graph, _without(less, chosen), folder / f"held-{number}", on_status)
        columns[name] = user_metric(model, cell.split_context.final, cell.study.metric, "test")
    return FixedSettingEffects(
        users.select("user").with_columns(**{n: pl.Series(v) for n, v in columns.items()}), frozenset(unused)
    )


def _for_test(cell: Cell, graph: Graph, config: Any, folder: Path, on_status: StatusCallback) -> Recommender:
    """The cell's model on another graph, with validation rows where the bench gives them back."""
    if not cell.split_context.refit:
        return fit_cell(cell, graph, config, folder, on_status)[0]
    history = None
    if issubclass(MODELS[cell.model.kind], Trained):
        history = fit_cell(cell, graph, config, folder / "final", on_status)[1]
    return refit_cell(cell, graph, config, history, folder / "refit", on_status)[0]


def _without(cell: Cell, chosen: Mapping[str, Any]) -> Any:
    """The configuration of an arm with the settings of another arm, as far as it may set them."""
    return override_config(
        cell.start()[0], values_on_grid(free_parameters(cell, cell.graph), chosen), cell.model.name
    )
