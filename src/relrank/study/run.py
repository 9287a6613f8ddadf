"""Here alone the chain is put together: tables, splits, graphs, cells, effects, verdicts."""

from __future__ import annotations

from pathlib import Path

from relrank.graph.relation_chains import hops
from relrank.io.atomic import discard
from relrank.models import MODELS
from relrank.study import result_tables, rivals
from relrank.study.arms import Arm
from relrank.study.callbacks import NullCallback, StudyCallback
from relrank.study.card import card
from relrank.study.cell import Cell
from relrank.study.cell_results import CellResults
from relrank.study.cell_store import CellResult, finished, load_cell
from relrank.study.config import StudyConfig, check_accepted
from relrank.study.engines.engine import Engine, SequentialEngine
from relrank.study.engines.process_engine import ProcessEngine
from relrank.study.folder import study_folder
from relrank.study.grid import relational_models, relations_read_by
from relrank.study.leaks import finish, leaks_of, refuse_leaks
from relrank.study.memory_limits import (
    SkippedCell,
    exceeding_memory,
    memory_per_cell,
    nothing_left,
    required_memory,
    skip_message,
)
from relrank.study.metric_effects import list_effects, metric_effects
from relrank.study.model_effects import ModelEffects
from relrank.study.model_strength import add_strength_caveats, model_strengths, strongest
from relrank.study.plan import plan_card, plan_of
from relrank.study.prepare import StudyData
from relrank.study.result import StudyResult, with_titles
from relrank.study.schedule import Batch, Done, plan_subject, run_batches
from relrank.study.subgroup_effects import group_effects, group_metrics, subgroup_differences
from relrank.tables.synthetic import TRUTH


def _models_vs_rival(config: StudyConfig) -> list[str]:
    """The models that are compared with the study's rival: of its own sort, if it uses relations, else all."""
    rival = config.rival
    only_relational = rival is not None and MODELS[rival.kind].relational
    return [m.name for m in config.models if m != rival and (MODELS[m.kind].relational or not only_relational)]


def run_study(
    config: StudyConfig,
    material: StudyData,
    out: Path | str,
    callback: StudyCallback | None = None,
    engine: Engine | None = None,
) -> StudyResult:
    """Run every cell that is not there yet, compare, judge, and store the result in ``out``.

    Args:
        config: the study.
        material: its data, from ``prepare``.
        out: the study's folder; finished cells found there are not run again.
        callback: told of every cell.
        engine: runs them; by default one after another, in this process.

    Returns:
        The result, as stored.

    A cell that needs more memory than there is, or that ends because memory does, is left out, and with it the other
    seeds of its arm; the card says so. A later run tries it again.

    Raises:
        LeakError: the audit found a leak that the study file does not accept.
        InputError: whatever is wrong with the data or the study file; every cell is left out; the folder is that of
            another study, is in use, or holds what was not written there.
    """
    out = Path(out)
    check_accepted(config, config.name)
    refuse_leaks(leaks_of(material.findings), config.study.accept_leaks)
    with study_folder(out, config, material.smoke):
        return _run_study(config, material, out, callback or NullCallback(), engine or SequentialEngine())


def _run_study(
    config: StudyConfig, material: StudyData, out: Path, callback: StudyCallback, engine: Engine
) -> StudyResult:
    memory = memory_per_cell(config.study, engine.memory(), engine.jobs if isinstance(engine, ProcessEngine) else 1)
    done: Done = []
    skipped: list[SkippedCell] = []

    def run(batch: Batch) -> Done:
        here, gone = _run_cells(batch, out / "cells", callback, engine, memory)
        done.extend(here)
        skipped.extend(gone)
        return here

    run_batches(config, material, run)
    if not done:
        raise nothing_left(skipped)
    relations, relational, first = list(config.relations), relational_models(config), material.split_contexts[0]
    used_relations = {m.name: relations_read_by(m, config, first) for m in config.models}
    found = CellResults(done, config.study.metric, hops(first.graph), config.titles, config.protocol.draws_test)
    planted = TRUTH if config.data.dataset == "planted" else None
    judged = [ModelEffects(found, m.name, used_relations[m.name], config.study.margin) for m in relational]
    rival = config.study.versus
    against = rivals.versus(found, _models_vs_rival(config), rival, relations, used_relations) if rival else []
    columns = [*config.study.user_groups, *config.study.item_groups]
    whom = {one.model: subgroup_differences(one, columns) for one in judged}
    named, using = [m.name for m in config.models], [m.name for m in relational if used_relations[m.name]]
    against += rivals.against_strongest(found, using, strongest(found, named))
    effects, verdicts = result_tables.effects_and_verdicts(judged, relations, planted, against, whom)
    judging = model_strengths(found, using, named, config.study.margin)
    verdicts = add_strength_caveats(verdicts, judging, config.study.metric, config.study.margin, found.decimals)
    plan = None
    leading = plan_subject(judging, judged)
    if leading is not None:
        way = plan_of(found, leading.model, leading.relations, leading.margin)
        plan = plan_card(way, found, first.graph)
    board = result_tables.leaderboard(found)
    said = card(config, material, found, engine, skipped) | {"model_strength": judging, "plan": plan}
    said, verdicts = finish(said, board, effects, verdicts, material.findings, config.study.accept_leaks)
    result = StudyResult(
        said,
        board,
        with_titles(effects, config.titles),
        with_titles(verdicts, config.titles),
        with_titles(group_effects(found, effects, columns), config.titles),
        group_metrics(found, columns),
        with_titles(list_effects(found, effects), config.titles),
        with_titles(metric_effects(found, effects), config.titles),
        result_tables.curves(found),
        result_tables.tuning(found),
        result_tables.notes(found),
    )
    result.save(out)
    return result


def _run_cells(
    cells: list[Cell], folder: Path, callback: StudyCallback, engine: Engine, memory: int
) -> tuple[list[tuple[Arm, CellResult]], list[SkippedCell]]:
    """Results in the order of the cells, and the cells that are left out for want of memory.

    The engine runs those that are not there and need no more than ``memory`` bytes, equal ones once. An arm that
    lacks a seed has no results: its means would be over other splits than those of other arms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [cell.key() for cell in cells]
    there = {key: load_cell(folder / key) for key in keys if finished(folder / key)}
    skipped = exceeding_memory((cell for cell, key in zip(cells, keys, strict=True) if key not in there), memory)
    gone = {one.cell.key() for one in skipped}
    planned = [(cell, key) for cell, key in zip(cells, keys, strict=True) if key not in gone]
    for cell, key in planned:
        # one that it should have begun after was left out then, and is not any more
        prerequisites = [k for k in cell.prerequisites if k not in gone and (k in keys or finished(folder / k))]
        if key in there and list(there[key].warm_started_from) != prerequisites:
            del there[key]
            discard(folder / key)
    _report_skipped(callback, skipped)
    callback.plan([cell for cell, _ in planned], sum(key in there for _, key in planned))
    to_run: dict[str, Cell] = {}
    for cell, key in planned:
        if key in there:
            callback.done(cell, there[key], False)
        else:
            to_run.setdefault(key, cell)
    for key, result in engine.run(to_run, folder, callback) if to_run else ():
        equal = [cell for cell, k in planned if k == key]
        if result is None:
            ended = [SkippedCell(cell, required_memory(cell), memory, began=True) for cell in equal]
            _report_skipped(callback, ended)
            skipped += ended
            continue
        there[key] = result
        for cell in equal:
            callback.done(cell, result, cell is to_run[key])
    lacking = {(one.cell.model.name, one.cell.arm.name) for one in skipped}
    done = [(cell, key) for cell, key in planned if (cell.model.name, cell.arm.name) not in lacking]
    return [(cell.arm, there[key]) for cell, key in done], skipped


def _report_skipped(callback: StudyCallback, skipped: list[SkippedCell]) -> None:
    """One sentence for the cells of each model."""
    for name in dict.fromkeys(one.cell.model.name for one in skipped):
        group = [one for one in skipped if one.cell.model.name == name]
        callback.skipped([one.cell for one in group], skip_message(group))
