"""Run a study: its cells, then effects, verdicts and tables from their results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from relrank.arguments import checked
from relrank.graph.relation_chains import hops
from relrank.io.atomic import discard
from relrank.models import MODELS
from relrank.study import memory_limits, result_tables
from relrank.study.arms import Arm
from relrank.study.callbacks import CallbackGroup, NullCallback, StudyCallback
from relrank.study.card import card
from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult, cell_exists, load_cell
from relrank.study.config import StudyConfig, check_accepted
from relrank.study.engines.engine import Engine, SequentialEngine
from relrank.study.engines.process_engine import ProcessEngine
from relrank.study.folder import study_folder
from relrank.study.grid import relational_models, relations_read_by
from relrank.study.leaks import finish, leaks_of, refuse_leaks
from relrank.study.memory_limits import SkippedCell
from relrank.study.metric_effects import list_effects, metric_effects
from relrank.study.model_effects import ModelEffects
from relrank.study.model_strength import add_strength_caveats, model_strengths, strongest
from relrank.study.plan import plan_card, plan_of
from relrank.study.prepare import StudyData
from relrank.study.progress import StudyProgress
from relrank.study.provisional import ProvisionalResults, pending_verdicts, so_far
from relrank.study.result import StudyResult, with_titles
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.rivals import against_strongest, effects_vs_rival
from relrank.study.schedule import Batch, Done, expected_cells, plan_subject, run_batches
from relrank.study.subgroup_effects import group_effects, group_metrics, subgroup_differences
from relrank.tables.synthetic import TRUTH


@checked("rr.run_study")
def run_study(
    config: StudyConfig,
    material: StudyData,
    out: Path | str,
    callback: StudyCallback | None = None,
    engine: Engine | None = None,
) -> StudyResult:
    """Run every cell that has not finished, compare and judge, and store the result in ``out``.

    A cell that needs more memory than is available, or that runs out of memory, is skipped together with the other
    seeds of its arm, as the card reports. A later run tries it again.

    Args:
        config: the study.
        material: its data, from ``prepare``.
        out: the study's folder; its finished cells are not run again.
        callback: receives the events of the study.
        engine: runs the cells; by default one after another, in this process.

    Returns:
        The result, as stored.

    Raises:
        LeakError: the audit found a leak that the study file does not accept.
        InputError: data or study file are wrong; every cell is skipped; the folder belongs to another study, is in
            use, or contains files that were changed.
    """
    out = Path(out)
    check_accepted(config, config.name)
    refuse_leaks(leaks_of(material.findings), config.study.accept_leaks)
    engine = engine or SequentialEngine()
    with study_folder(out, config, material.smoke):
        done, skipped = _run_all(config, material, out / "cells", callback or NullCallback(), engine)
        result = _assemble_result(config, material, done, skipped, engine)
        result.save(out)
    return result


def _run_all(
    config: StudyConfig, material: StudyData, folder: Path, callback: StudyCallback, engine: Engine
) -> tuple[Done, list[SkippedCell]]:
    jobs = engine.jobs if isinstance(engine, ProcessEngine) else 1
    memory = memory_limits.memory_per_cell(config.study, engine.memory(), jobs)
    if isinstance(engine, ProcessEngine):  # each process keeps the graphs of every split
        memory = max(0, memory - sum(map(memory_limits.graph_bytes, material.split_contexts)))
    done: Done = []
    skipped: list[SkippedCell] = []

    def assemble(config: StudyConfig, material: StudyData, done: Done, progress: dict[str, Any]) -> StudyResult:
        return _assemble_result(config, material, done, skipped, engine, progress)

    progress = StudyProgress()
    provisional = ProvisionalResults(config, material, assemble, callback, progress)
    callbacks = CallbackGroup(progress, provisional, callback)
    callbacks.begin(expected_cells(config, material))

    def run(batch: Batch) -> Done:
        batch_done, batch_skipped = _run_batch(batch, folder, callbacks, engine, memory, provisional.offer)
        done.extend(batch_done)
        skipped.extend(batch_skipped)
        return batch_done

    run_batches(config, material, run)
    if not done:
        raise memory_limits.nothing_left(skipped)
    return done, skipped


def _assemble_result(
    config: StudyConfig,
    material: StudyData,
    done: Done,
    skipped: list[SkippedCell],
    engine: Engine,
    progress: dict[str, Any] | None = None,
) -> StudyResult:
    """All tables of a study from its finished cells; with ``progress``, provisional ones (``ProvisionalResults``)."""
    study, first = config.study, material.split_contexts[0]
    relations, relational = list(config.relations), relational_models(config)
    used_relations = {m.name: relations_read_by(m, config, first) for m in config.models}
    results = ResultsByArm(done, study.metric, hops(first.graph), config.titles, config.protocol.draws_test)
    effects_of = [ModelEffects(results, m.name, used_relations[m.name], study.margin) for m in relational]
    names, reading = [m.name for m in config.models], [m.name for m in relational if used_relations[m.name]]
    other_effects = []
    if study.versus:
        other_effects += effects_vs_rival(results, _models_vs_rival(config), study.versus, relations, used_relations)
    other_effects += against_strongest(results, reading, strongest(results, names))
    columns = [*study.user_groups, *study.item_groups]
    by_group = {one.model: subgroup_differences(one, columns) for one in effects_of}
    planted = TRUTH if config.data.dataset == "planted" else None
    effects, verdicts = result_tables.effects_and_verdicts(effects_of, relations, planted, other_effects, by_group)
    strengths = model_strengths(results, reading, names, study.margin)
    verdicts = add_strength_caveats(verdicts, strengths, study.metric, study.margin, results.decimals)
    plan = None
    subject = plan_subject(strengths, effects_of)
    if subject is not None:
        path = plan_of(results, subject.model, subject.relations, subject.margin)
        plan = plan_card(path, results, first.graph_at_test)
    leaderboard = result_tables.leaderboard(results)
    study_card = card(config, material, results, engine, skipped) | {"model_strength": strengths, "plan": plan}
    if progress is not None:
        study_card |= {"progress": progress | {"so_far": so_far(effects_of, config.titles)}}
        verdicts = pl.concat([verdicts, pending_verdicts(effects_of, config.titles, results.decimals)])
    study_card, verdicts = finish(study_card, leaderboard, effects, verdicts, material.findings, study.accept_leaks)
    return StudyResult(
        study_card,
        leaderboard,
        with_titles(effects, config.titles),
        with_titles(verdicts, config.titles),
        with_titles(group_effects(results, effects, columns), config.titles),
        group_metrics(results, columns),
        with_titles(list_effects(results, effects), config.titles),
        with_titles(metric_effects(results, effects), config.titles),
        result_tables.curves(results),
        result_tables.tuning(results),
        result_tables.notes(results),
    )


def _models_vs_rival(config: StudyConfig) -> list[str]:
    """The models that are compared with the rival: those that use relations, if the rival does, else all."""
    rival = config.rival
    only_relational = rival is not None and MODELS[rival.kind].relational
    return [m.name for m in config.models if m != rival and (MODELS[m.kind].relational or not only_relational)]


def _run_batch(
    cells: list[Cell],
    folder: Path,
    callback: StudyCallback,
    engine: Engine,
    memory: int,
    cell_done: Callable[[], None],
) -> tuple[list[tuple[Arm, CellResult]], list[SkippedCell]]:
    """Results in the order of the cells, and the cells that are skipped for lack of memory.

    The engine runs the unfinished cells that need at most ``memory`` bytes, cells with equal keys once. An arm that
    lacks a seed has no results, since its means would be over other splits than those of other arms. ``cell_done`` is
    called after every cell that was run, and those with equal keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [cell.key() for cell in cells]
    results = {key: load_cell(folder / key) for key in keys if cell_exists(folder / key)}
    skipped = memory_limits.exceeding_memory((cell for cell in cells if cell.key() not in results), memory)
    too_large = {one.cell.key() for one in skipped}
    planned = [cell for cell in cells if cell.key() not in too_large]
    for cell in planned:
        key = cell.key()
        # a prerequisite that was skipped when the cell ran may be available now
        available = [k for k in cell.prerequisites if k not in too_large and (k in keys or cell_exists(folder / k))]
        if key in results and list(results[key].warm_started_from) != available:
            del results[key]
            discard(folder / key)
    _report_skipped(callback, skipped)
    callback.plan(planned, sum(cell.key() in results for cell in planned))
    to_run: dict[str, Cell] = {}
    for cell in planned:
        if cell.key() in results:
            callback.done(cell, results[cell.key()], False)
        else:
            to_run.setdefault(cell.key(), cell)
    for key, result in engine.run(to_run, folder, callback) if to_run else ():
        equal = [cell for cell in planned if cell.key() == key]
        if result is None:
            ended = [SkippedCell(cell, memory_limits.required_memory(cell), memory, began=True) for cell in equal]
            _report_skipped(callback, ended)
            skipped += ended
            continue
        results[key] = result
        for cell in equal:
            callback.done(cell, result, cell is to_run[key])
        cell_done()
    incomplete = {(one.cell.model.name, one.cell.arm.name) for one in skipped}
    complete = [cell for cell in planned if (cell.model.name, cell.arm.name) not in incomplete]
    return [(cell.arm, results[cell.key()]) for cell in complete], skipped


def _report_skipped(callback: StudyCallback, skipped: list[SkippedCell]) -> None:
    """One message per model."""
    for name in dict.fromkeys(one.cell.model.name for one in skipped):
        group = [one for one in skipped if one.cell.model.name == name]
        callback.skipped([one.cell for one in group], memory_limits.skip_message(group))
