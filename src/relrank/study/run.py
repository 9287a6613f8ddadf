"""Here alone the chain is put together: tables, splits, graphs, cells, effects, verdicts."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import relrank
from relrank.errors import InputError, NotNowError, did_you_mean, one_of
from relrank.graph.audit import growing, known_rows, own_steps
from relrank.graph.audit_side_data import side_rows
from relrank.graph.construction.builders import build_graph
from relrank.graph.construction.features import columns_of
from relrank.graph.construction.relation_builder import Progress, silent
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import hops, stops
from relrank.io.atomic import discard
from relrank.kernels.csr import Csr
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.core.base import config_of
from relrank.parallel.environment import cores
from relrank.parallel.memory import GB, physical_memory
from relrank.runs.fitted_run import FittedRun, again, holds_run, load_run, save_run
from relrank.study import arms as arm_of
from relrank.study import effects as tables_of
from relrank.study.arms import Arm, Hops, arms
from relrank.study.cells import (
    WEIGHTS,
    Cell,
    CellResult,
    SplitContext,
    StatusCallback,
    edges_sha,
    finished,
    fit_cell,
    kept_model,
    load_cell,
    refit_cell,
)
from relrank.study.config import ARM_KINDS, ModelSection, StudyConfig, check_accepted, trains_on_relations
from relrank.study.effects import CellResults, Judge
from relrank.study.engines.engine import Engine, OneByOne, Silent, StudyCallback
from relrank.study.engines.processes import Processes
from relrank.study.fit_run import note_of
from relrank.study.fits import LeftOut, memory_for, needed, nothing_left, sentence, too_large
from relrank.study.fits import notices as notices_of
from relrank.study.folder import study_folder
from relrank.study.groups import for_whom, group_effects, group_metrics
from relrank.study.judge import judges, strongest, taken_away
from relrank.study.leaks import accepted_leaks, finish, is_accepted, leaks_of, refuse_leaks
from relrank.study.lists import list_effects, metric_effects
from relrank.study.nesting import nested
from relrank.study.plan import candidates, path, plan_card, plan_of, searches_paths, to_confirm
from relrank.study.result import StudyResult, with_titles
from relrank.tables.audit import Finding, audit
from relrank.tables.files import holds_numbers, read_numbers
from relrank.tables.notices import Notice
from relrank.tables.protocols import ProtocolConfig, apply, span
from relrank.tables.readers import read_tables
from relrank.tables.split import Split
from relrank.tables.synthetic import TRUTH
from relrank.tables.tables import TEXTS, Tables


@dataclass(frozen=True, slots=True, eq=False)
class StudyData:
    """A study's data, read once.

    Attributes:
        tables: as read.
        benches: split and graph per seed.
        findings: of the audit, on the first seed.
        smoke: whether only a few users were kept.
    """

    tables: Tables
    benches: tuple[SplitContext, ...]
    findings: tuple[Finding, ...]
    smoke: bool = False


SMOKE_USERS = 250
MOST_VALUES = 8
"""A numeric column with more values than this is grouped by quarters."""


def smoke(config: StudyConfig) -> StudyConfig:
    """The same study in a minute: one seed, two trials, two epochs; its results mean nothing."""
    study = config.study.model_copy(update={"seeds": config.study.seeds[:1], "trials": 2})
    models = []
    for m in config.models:
        trained = issubclass(MODELS.get(m.kind, ClosedForm), Trained)
        train = {**m.train, "epochs": 2, "every": 1} if trained else m.train
        models.append(m.model_copy(update={"trials": m.trials and min(m.trials, 2), "train": train}))
    return config.model_copy(update={"study": study, "models": tuple(models)})


def few_users(tables: Tables, protocol: ProtocolConfig) -> tuple[Tables, ProtocolConfig]:
    """Users drawn among those who pass the protocol's filters; these are not asked a second time."""
    whole = apply(tables, protocol, 0)
    users = whole.users.keys.sample(min(SMOKE_USERS, len(whole.users)), seed=0)

    def kept(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(pl.col("user").is_in(users.implode()) & pl.col("item").is_in(whole.items.keys.implode()))

    given = {name: kept(part) for name, part in tables.given.items()}
    small = tables.narrowed(interactions=kept(tables.interactions), given=given)
    return small, protocol.model_copy(update={"core": 0})


def prepare(config: StudyConfig, base: Path | str, is_smoke: bool = False, progress: Progress = silent) -> StudyData:
    """Read the tables, cut and build the graph once per seed, audit the first.

    Args:
        config: the study.
        base: folder that relative paths in it start from.
        is_smoke: keep a few users only.
        progress: told of long work on the way to the graph.

    Raises:
        InputError: whatever is wrong with the data or the study file.
    """
    base = Path(base)
    tables, protocol = read_tables(config.data, base), config.protocol
    if is_smoke:
        tables, protocol = few_users(tables, protocol)
    user_groups = _groups(tables, tables.user, config.study.user_groups)
    item_groups = _groups(tables, tables.item, config.study.item_groups)
    benches = []
    for seed in config.study.seeds:
        split = apply(tables, protocol, seed)
        if not len(split.valid):
            advice = "set valid_cut, or an earlier one" if protocol.split == "temporal" else "users with more rows"
            known = split.train.then(split.test)
            dates = "" if known.time is None else f", {span(known)}"
            raise InputError(
                "no validation rows", where="[protocol]", expected=f"some to tune on: {advice}",
                found=f"{len(split.users):,} users, {len(split.train):,} training rows, {len(split.test):,} test rows"
                f"{dates}",
            )  # fmt: skip
        graph = build_graph(tables, split, config.relations, config.features, config.interactions, progress)
        attributes = attributes_of(graph, config.study.attribute, "[study] attribute")
        seen = [b"" if f is None else f.write_csv().encode() for f in (user_groups, item_groups)]
        seen += [edges_sha(graph, config.study.attribute).encode()] if config.study.attribute else []
        beside, refit = hashlib.sha256(b"|".join(seen)).hexdigest()[:16], protocol.split == "given"
        benches.append(
            SplitContext(seed, split, graph, user_groups, item_groups, attributes, beside, refit, config.interactions)
        )
    found = findings(config, tables, benches[0].split, benches[0].graph)
    same = len({b.split.fingerprint for b in benches}) < len(benches)
    if same and not trains_on_relations(config.models):
        message = f"{len(benches)} seeds give one and the same split: they vary the models' start only"
        found.append(Finding("warning", "seeds of the split", message, len(benches)))
    return StudyData(tables, tuple(benches), tuple(found), is_smoke)


def findings(config: StudyConfig, tables: Tables, split: Split, graph: Graph) -> list[Finding]:
    """What the audit says of a split and of the graph built from it."""
    edges = graph.interactions.csr(graph.n_users, graph.n_items)
    used = columns_used(config, tables)
    columns = dict.fromkeys(column for read in used.values() for column in read)
    of_table = {t: tuple(n for n, read in used.items() if t in dict(read)) for t, _ in columns}
    found = audit(tables, split, edges, columns, of_table)
    timed = [n for n, r in config.relations.items() if r.kind == "link" and tables.links[r.table].time is not None]
    titles = config.titles
    found += known_rows(graph, split, timed, titles)
    found += side_rows(graph, split, timed, titles)
    found += growing(graph, split, tables, used, timed, titles)
    if graph.places is not None:
        near = [name for name, r in config.relations.items() if r.kind == "cooccurrence"]
        found += [own_steps(graph, name, titles.get(name)) for name in near]
    return found


def columns_used(config: StudyConfig, tables: Tables) -> dict[str, list[tuple[str, str]]]:
    """(table, column) of every node, link or text table that a relation or a feature reads, by its name."""
    used: dict[str, list[tuple[str, str]]] = {}
    for name, relation in config.relations.items():
        if relation.kind == "link":
            link = tables.links[relation.table]
            used[name] = [(link.name, link.weight or link.target_column)]
        elif relation.kind == "texts" or (relation.kind == "text" and relation.texts is not None):
            used[name] = [(TEXTS, "text")]
        elif relation.kind == "text":
            used[name] = [(relation.node, column) for column in relation.columns]
        elif relation.kind != "cooccurrence":
            used[name] = [(relation.node, relation.column)]
    for name, feature in config.features.items():
        if feature.kind == "text" and feature.texts is not None:
            used[name] = [(TEXTS, "text")]
        else:
            used[name] = [(feature.node, column) for column in columns_of(feature, tables.nodes[feature.node])]
    return used


def _groups(tables: Tables, node_type: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """The columns to look at effects by; a number with many values becomes quarters of the nodes."""
    if not columns:
        return None
    table = tables.nodes.get(node_type)
    known = {} if table is None else {n: t for n, t in table.frame.schema.items() if not t.is_nested()}
    missing = [c for c in columns if c not in known]
    if table is None or missing:
        raise InputError(
            "no such column to group by", where=f"[study], node type {node_type!r}",
            expected=one_of(known) if known else "a node table",
            found=", ".join(map(repr, missing or columns)) + did_you_mean((missing or columns)[0], known),
        )  # fmt: skip
    many = [c for c in columns if table.frame[c].n_unique() > MOST_VALUES and holds_numbers(table.frame[c])]
    quarters = (read_numbers(table.frame[c]).qcut(4, allow_duplicates=True).cast(pl.String).alias(c) for c in many)
    return table.frame.select(pl.col(table.key).alias("key"), *columns).with_columns(*quarters)


def attributes_of(graph: Graph, name: str | None, where: str) -> Csr | None:
    """Items by values of a relation, for what is measured of lists; None without a name.

    Raises:
        InputError: there is no such relation, or it is not one of items.
    """
    if name is None:
        return None
    relation = graph.relation(name)
    if relation.source != graph.item:
        raise InputError(
            "not a relation of items",
            where=where,
            expected=f"a relation from {graph.item}",
            found=name,
        )
    return relation.csr(graph.n_items, len(graph.nodes[relation.target]))


def grid(config: StudyConfig, material: StudyData) -> list[Cell]:
    """All cells that are planned before anything ran: baselines first, so that a leaderboard is there early.

    Raises:
        InputError: an unknown model or hyper-parameter, a model that reads features where there are none, or a
            relation that no model reads.
    """
    first = material.benches[0]
    planned = {
        model.name: arms_of(model, read_by(model, config, first), hops(first.graph)) for model in config.models
    }
    cells = [
        Cell(model, arm, bench, config.study)
        for bench in material.benches
        for model in config.models
        for arm in planned[model.name]
    ]
    for cell in cells:
        _check(cell)
    _refuse_unread(config, first)
    rival = config.rival
    if rival and MODELS[rival.kind].relational:
        there = {a.name for a in planned[rival.name]}
        if not {"interactions", "all"} <= there:
            raise InputError(
                "rival lacks an arm", where=f"[study] versus = {rival.name!r}", found=", ".join(sorted(there)),
                expected="the arms interactions and all, or a model that uses no relations",
            )  # fmt: skip
    return cells


Batch = list[Cell]
Done = list[tuple[Arm, CellResult]]


def batches(config: StudyConfig, material: StudyData) -> Generator[Batch, Done, None]:
    """The cells of a study in batches, each planned from the results of those before, which are sent in.

    First what needs no other arm: baselines, the interactions, one relation each. Then, of the model that validates
    best on the interactions, the arms of its path (``plan``). Then all relations, and all but one, whose searches
    begin after these. At last the arms that explain why a relation that helps alone adds nothing, and those that ask
    whether the links of a step of the plan matter.
    """
    first = material.benches[0]
    over = hops(first.graph)
    reads = {m.name: read_by(m, config, first) for m in config.models}
    cells = grid(config, material)
    late = [c for c in cells if _waits(c)]
    done: Done = []
    planned = nested([c for c in cells if not _waits(c)])
    done += yield planned
    lead = _lead(config, done, [m.name for m in _judged(config) if any(c.model == m for c in late)])
    lead = lead if lead is not None and len(reads[lead]) > 3 else None
    benches, sections = material.benches, {m.name: m for m in config.models}
    while lead is not None:
        found = CellResults(done, config.study.metric, over, draws_test=config.protocol.draws_test)
        steps, _ = path(found, lead, reads[lead])
        more = candidates(found, lead, reads[lead], [tried[0][1] for tried in steps])
        if not more:
            break
        batch = nested(
            [Cell(sections[lead], arm, bench, config.study, adds=True) for bench in benches for arm in more], planned
        )
        planned += batch
        done += yield batch
    if late:
        batch = nested(late, planned)
        planned += batch
        done += yield batch
    found = CellResults(done, config.study.metric, over, draws_test=config.protocol.draws_test)
    judged = [Judge(found, m.name, reads[m.name], config.study.margin) for m in _judged(config)]
    asked = [(one.model, one.to_explain()) for one in judged]
    using = [one.model for one in judged if one.relations]
    leading = _leading(judges(found, using, [m.name for m in config.models], config.study.margin), judged)
    if leading is not None and "rewired" in (sections[leading.model].arms or ARM_KINDS):
        way = plan_of(found, leading.model, leading.relations, leading.margin)
        asked.append((leading.model, to_confirm(found, way)))
    extra = [
        Cell(sections[model], arm, bench, config.study, adds=arm.rewired is None)
        for model, arms_asked in asked
        for bench in benches  # what a model keeps for other arms of a split is there while they run
        for arm in arms_asked
    ]
    extra = list({(c.model.name, c.arm.name, c.bench.seed): c for c in extra}.values())
    extra = [c for c in extra if found.arm_name(c.model.name, c.arm) is None]
    if extra:
        yield nested(extra, planned)


def through_batches(config: StudyConfig, material: StudyData, run: Callable[[Batch], Done]) -> None:
    """Hand every batch of a study to ``run``; what it returns is what further batches are planned from."""
    coming = batches(config, material)
    batch = next(coming, None)
    while batch is not None:
        done = run(batch)
        try:
            batch = coming.send(done)
        except StopIteration:
            batch = None


def _judged(config: StudyConfig) -> list[ModelSection]:
    """The models that relations are judged with."""
    return [m for m in config.models if MODELS[m.kind].relational and config.relations]


def _waits(cell: Cell) -> bool:
    """Whether an arm is run after those of the path, which a path of three relations needs no arms of its own for."""
    return searches_paths(cell) and len(cell.bench.graph.relations) > 3 and len(cell.arm.relations) > 1


def _lead(config: StudyConfig, done: Done, waiting: Sequence[str]) -> str | None:
    """The model whose path is searched: of those whose arms wait, the best on the interactions, on validation."""
    found = CellResults(done, config.study.metric, draws_test=config.protocol.draws_test)
    named = {m.name: m for m in config.models}
    waiting = [
        n for n in waiting if not named[n].arms or {"all", "alone", "interactions"} <= set(named[n].arms or ())
    ]
    waiting = [name for name in waiting if found.arm_name(name, arm_of.INTERACTIONS) is not None]
    judging = judges(found, waiting, waiting)
    return judging[0]["model"] if judging else None


def _leading(judging: Sequence[Mapping[str, Any]], judged: Sequence[Judge]) -> Judge | None:
    """The judge that the plan is of: the best on the interactions alone, of those that read relations."""
    named = {one.model: one for one in judged if one.base is not None}
    return named.get(judging[0]["model"]) if judging else None


def _check(cell: Cell) -> None:
    """Settings that cannot be, and a model without what it reads, are found before anything runs."""
    as_linked = replace(cell, arm=replace(cell.arm, rewired=None))  # no check asks who is linked with whom
    MODELS[cell.model.kind].check(as_linked.graph, cell.start()[0])
    split = cell.bench.split
    if cell.bench.refit and MODELS[cell.model.kind].ordered and split.ordered and not split.ordered_with_valid:
        raise InputError(
            "histories have no order in time once validation rows are among them", where=cell.model.name,
            expected="a time column, since a model is fitted once more with the validation rows that were drawn from "
            'training; or split = "last-leave-one-out", where they follow them', found="the order of rows alone",
        )  # fmt: skip


def read_by(model: ModelSection, config: StudyConfig, bench: SplitContext) -> list[str]:
    """The study's relations that a model reads, in their order.

    Raises:
        InputError: an unknown model or hyper-parameter.
    """
    if model.kind not in MODELS:
        raise InputError(
            "unknown model", where=f"[[models]] {'model' if model.model else 'name'}", expected=one_of(MODELS),
            found=repr(model.kind) + did_you_mean(model.kind, MODELS),
        )  # fmt: skip
    if not MODELS[model.kind].relational:
        return []
    cell = Cell(model, arm_of.INTERACTIONS, bench, config.study)
    read = MODELS[model.kind].reads(bench.graph, cell.start()[0])
    return [name for name in config.relations if name in read]


def weighed_in_vain(model: ModelSection, bench: SplitContext) -> list[str]:
    """Relations that the study file, for all arms or for one, gives a weight that the model never reads."""
    kind, names = MODELS[model.kind], set[str]()
    for settings in (model.config, *({**model.config, **arm.config} for arm in model.arm.values())):
        names |= kind.in_vain(bench.graph, config_of(kind.Config(), settings, f"[[models]] {model.name}, config"))
    return sorted(names)


def _refuse_unread(config: StudyConfig, bench: SplitContext) -> None:
    """A relation that is put to the test, and that no model of the study can read, would be tested in vain.

    Where no model reads any relation, none is put to the test.
    """
    relational = {m.name: read_by(m, config, bench) for m in config.models if MODELS[m.kind].relational}
    read = {name for names in relational.values() for name in names} | {config.study.attribute}
    unread = [name for name in config.relations if name not in read]
    if unread and relational:
        what = ", ".join(
            f"{n} ({bench.graph.relations[n].source} → {bench.graph.relations[n].target})" for n in unread
        )
        raise InputError(
            "no model of this study reads a relation", where=f"[relations] {', '.join(unread)}",
            expected=f"relations that {' or '.join(relational)} can read, such as ones that touch items, or that a "
            "chain of relations leads to from there",
            found=what,
        )  # fmt: skip


def arms_of(model: ModelSection, relations: Sequence[str], over: Hops) -> list[Arm]:
    """The arms of one model, over the relations that it reads."""
    return arms(relations, model.arms or ARM_KINDS, over) if relations else [arm_of.INTERACTIONS]


def _beside_rival(config: StudyConfig) -> list[str]:
    """The models that are compared with the study's rival: of its own sort, if it uses relations, else all."""
    rival = config.rival
    only_relational = rival is not None and MODELS[rival.kind].relational
    return [m.name for m in config.models if m != rival and (MODELS[m.kind].relational or not only_relational)]


def run_study(
    config: StudyConfig,
    material: StudyData,
    out: Path | str,
    watcher: StudyCallback | None = None,
    engine: Engine | None = None,
) -> StudyResult:
    """Run every cell that is not there yet, compare, judge, and store the result in ``out``.

    Args:
        config: the study.
        material: its data, from ``prepare``.
        out: the study's folder; finished cells found there are not run again.
        watcher: told of every cell.
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
        return _run_study(config, material, out, watcher or Silent(), engine or OneByOne())


def _run_study(
    config: StudyConfig, material: StudyData, out: Path, watcher: StudyCallback, engine: Engine
) -> StudyResult:
    memory = memory_for(config.study, engine.memory(), engine.jobs if isinstance(engine, Processes) else 1)
    done: Done = []
    left_out: list[LeftOut] = []

    def run(batch: Batch) -> Done:
        here, gone = _run_cells(batch, out / "cells", watcher, engine, memory)
        done.extend(here)
        left_out.extend(gone)
        return here

    through_batches(config, material, run)
    if not done:
        raise nothing_left(left_out)
    relations, relational, first = list(config.relations), _judged(config), material.benches[0]
    reads = {m.name: read_by(m, config, first) for m in config.models}
    found = CellResults(done, config.study.metric, hops(first.graph), config.titles, config.protocol.draws_test)
    planted = TRUTH if config.data.dataset == "planted" else None
    judged = [Judge(found, m.name, reads[m.name], config.study.margin) for m in relational]
    rival = config.study.versus
    against = tables_of.versus(found, _beside_rival(config), rival, relations, reads) if rival else []
    columns = [*config.study.user_groups, *config.study.item_groups]
    whom = {one.model: for_whom(one, columns) for one in judged}
    named, using = [m.name for m in config.models], [m.name for m in relational if reads[m.name]]
    against += tables_of.against_strongest(found, using, strongest(found, named))
    effects, verdicts = tables_of.effects_and_verdicts(judged, relations, planted, against, whom)
    judging = judges(found, using, named, config.study.margin)
    verdicts = taken_away(verdicts, judging, config.study.metric, config.study.margin, found.decimals)
    plan = None
    leading = _leading(judging, judged)
    if leading is not None:
        way = plan_of(found, leading.model, leading.relations, leading.margin)
        plan = plan_card(way, found, first.graph)
    board = tables_of.leaderboard(found)
    said = card(config, material, found, engine, left_out) | {"judges": judging, "plan": plan}
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
        tables_of.curves(found),
        tables_of.tuning(found),
        tables_of.notes(found),
    )
    result.save(out)
    return result


def cells_of(config: StudyConfig, material: StudyData, model: str, arm: str | None = None) -> list[Cell]:
    """The cells whose searches one cell begins after, as in a study, and that cell at the end.

    Args:
        config: the study.
        material: its data; the first split is taken.
        model: name.
        arm: name, or relation names with commas.

    Raises:
        InputError: no such model or relation, or relations for a model that uses none.
    """
    section = next((m for m in config.models if m.name == model), ModelSection(name=model))
    first = material.benches[0]
    read = read_by(section, config, first)
    there = arms_of(section, read, hops(first.graph))
    named = {a.name: a for a in (*there, arm_of.all_of(read or list(config.relations)))}
    relational = MODELS[section.kind].relational and bool(config.relations)
    arm = arm or ("all" if relational else "interactions")
    if arm == "interactions":
        chosen = arm_of.INTERACTIONS
    elif not relational:
        raise InputError("model uses no relations", where=f"{model}, arm", expected='"interactions"', found=repr(arm))
    elif arm in named:
        chosen = named[arm]
    else:
        names = tuple(name.strip() for name in arm.split(","))
        for name in names:
            first.graph.relation(name)
        chosen = Arm("interactions + " + " + ".join(names), names)
    cell = Cell(section, chosen, first, config.study)
    _check(cell)
    planned = nested([Cell(section, of, first, config.study) for of in there])
    (cell,) = nested([cell], planned)
    by_key = {one.key(): one for one in planned}
    before: dict[str, Cell] = {}

    def add(keys: tuple[str, ...]) -> None:
        for key in keys:
            add(by_key[key].after)
            before.setdefault(key, by_key[key])

    add(cell.after)
    return [*before.values(), cell]


def keep_winner(
    config: StudyConfig, material: StudyData, out: Path | str, say: StatusCallback = lambda _: None
) -> FittedRun:
    """Keep the best model and arm on validation, as fitted on the first seed, under ``out/winner``.

    Shuffled arms cannot win. A closed form is solved once more; of a trained model the cell has the weights. Then all
    cells lose theirs; a trained model that only wins later, with further cells, is fitted once more. A winner that is
    there already is read back, with the titles and columns that items have now. ``say`` is told of a fit.

    Raises:
        InputError: the winner that is there does not fit into memory, or the disk does not give it.
    """
    out = Path(out)
    with study_folder(out, config, material.smoke):
        return _keep_winner(config, material, out, say)


def _keep_winner(config: StudyConfig, material: StudyData, out: Path, say: StatusCallback) -> FittedRun:
    cells, found = _finished_cells(config, material, out / "cells")
    valid: dict[tuple[str, str], list[float]] = {}
    for cell, result in zip(cells, found, strict=True):
        valid.setdefault((cell.model.name, cell.arm.name), []).append(result.valid)
    valid = {key: values for key, values in valid.items() if len(values) == len(material.benches)}
    best = max(valid, key=lambda key: float(np.mean(valid[key])))
    cell, result = next((c, r) for c, r in zip(cells, found, strict=True) if (c.model.name, c.arm.name) == best)
    folder = out / "winner"
    leaks = accepted_leaks(leaks_of(material.findings, cell.arm, config.features), config.study.accept_leaks)
    winner = _kept_winner(cell, folder)
    if winner is None:
        _save_winner(cell, result, material, out, say, leaks)
        winner = load_run(folder)
    winner = again(winner, material.tables, cell.bench.graph, folder, leaks)
    for at in (out / "cells").iterdir():
        if at.is_dir():  # a killed engine may leave a file
            (at / WEIGHTS).unlink(missing_ok=True)
    return winner


def _kept_winner(cell: Cell, folder: Path) -> FittedRun | None:
    """The fitted model of a cell, if it is there as it was written and of the same users and items.

    Raises:
        InputError: it may be there, and cannot be read now: for want of memory, or by the disk.
    """
    try:
        if not holds_run(folder, cell.key()):
            return None
        winner = load_run(folder)
    except NotNowError:
        raise
    except InputError:  # damaged since, or of another version
        return None
    split = cell.bench.final
    same = winner.split.items.keys.equals(split.items.keys) and winner.split.users.keys.equals(split.users.keys)
    return winner if same else None


def _finished_cells(config: StudyConfig, material: StudyData, folder: Path) -> tuple[list[Cell], list[CellResult]]:
    """The cells of a study that are there, without those with shuffled links."""
    cells: list[Cell] = []
    found: list[CellResult] = []

    def read(batch: Batch) -> Done:
        there = [(cell, load_cell(folder / cell.key())) for cell in batch if finished(folder / cell.key())]
        cells.extend(cell for cell, _ in there if cell.arm.rewired is None)
        found.extend(result for cell, result in there if cell.arm.rewired is None)
        return [(cell.arm, result) for cell, result in there]

    through_batches(config, material, read)
    return cells, found


def _save_winner(
    cell: Cell, result: CellResult, material: StudyData, out: Path, say: StatusCallback, leaks: list[dict[str, Any]]
) -> None:
    chosen = config_of(MODELS[cell.model.kind].Config(), result.chosen, "winner")
    graph, checkpoints = cell.graph, out / "winner.checkpoints" / cell.key()
    kept = kept_model(cell, out / "cells" / cell.key(), chosen)
    if kept is not None:
        model, graph = kept
    else:
        model, history = fit_cell(cell, graph, chosen, checkpoints / "final", say, whole=cell.whole)
        if cell.bench.refit:
            model, graph = refit_cell(cell, graph, chosen, history, checkpoints / "refit", say)
    note = note_of(cell, chosen, result.valid, leaks)
    save_run(model, graph, cell.bench.final, material.tables, note, out / "winner", cell.bench.graph)
    shutil.rmtree(out / "winner.checkpoints", ignore_errors=True)


def _run_cells(
    cells: list[Cell], folder: Path, watcher: StudyCallback, engine: Engine, memory: int
) -> tuple[list[tuple[Arm, CellResult]], list[LeftOut]]:
    """Results in the order of the cells, and the cells that are left out for want of memory.

    The engine runs those that are not there and need no more than ``memory`` bytes, equal ones once. An arm that
    lacks a seed has no results: its means would be over other splits than those of other arms.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = [cell.key() for cell in cells]
    there = {key: load_cell(folder / key) for key in keys if finished(folder / key)}
    left_out = too_large((cell for cell, key in zip(cells, keys, strict=True) if key not in there), memory)
    gone = {one.cell.key() for one in left_out}
    planned = [(cell, key) for cell, key in zip(cells, keys, strict=True) if key not in gone]
    for cell, key in planned:
        # one that it should have begun after was left out then, and is not any more
        after = [k for k in cell.after if k not in gone and (k in keys or finished(folder / k))]
        if key in there and list(there[key].began_after) != after:
            del there[key]
            discard(folder / key)
    _tell(watcher, left_out)
    watcher.plan([cell for cell, _ in planned], sum(key in there for _, key in planned))
    to_run: dict[str, Cell] = {}
    for cell, key in planned:
        if key in there:
            watcher.done(cell, there[key], False)
        else:
            to_run.setdefault(key, cell)
    for key, result in engine.run(to_run, folder, watcher) if to_run else ():
        equal = [cell for cell, k in planned if k == key]
        if result is None:
            ended = [LeftOut(cell, needed(cell), memory, began=True) for cell in equal]
            _tell(watcher, ended)
            left_out += ended
            continue
        there[key] = result
        for cell in equal:
            watcher.done(cell, result, cell is to_run[key])
    lacking = {(one.cell.model.name, one.cell.arm.name) for one in left_out}
    done = [(cell, key) for cell, key in planned if (cell.model.name, cell.arm.name) not in lacking]
    return [(cell.arm, there[key]) for cell, key in done], left_out


def _tell(watcher: StudyCallback, left_out: list[LeftOut]) -> None:
    """One sentence for the cells of each model."""
    for name in dict.fromkeys(one.cell.model.name for one in left_out):
        group = [one for one in left_out if one.cell.model.name == name]
        watcher.left_out([one.cell for one in group], sentence(group))


def _of_unread(config: StudyConfig, first: SplitContext) -> list[Notice]:
    """What models do not read, and what the study file weighs in vain."""
    notices = []
    for model in (m for m in config.models if MODELS[m.kind].relational):
        unread = [name for name in config.relations if name not in read_by(model, config, first)]
        if unread:
            message = f"relations that {model.name} does not read, so that it says nothing of them"
            listed = ", ".join(config.titles.get(name, name) for name in unread)
            notices.append(Notice("[relations]", f"{message}: {listed}", len(unread)))
    for model in config.models:
        if vain := weighed_in_vain(model, first):
            message = f"weights without effect, for {model.name} never reads these relations: {', '.join(vain)}"
            notices.append(Notice(f"[[models]] {model.name}", message, len(vain)))
    return notices


def card(
    config: StudyConfig, material: StudyData, found: CellResults, engine: Engine, left_out: list[LeftOut]
) -> dict[str, Any]:
    """What was studied, as plain JSON (see ``StudyResult.card``)."""
    first = material.benches[0]
    notices = [*material.tables.notices, *first.split.notices, *first.graph.notices]
    if first.refit:
        message = "validation rows given back to training before the final fit and the test"
        notices.append(Notice("protocol", message, len(first.split.valid)))
    if first.graph.features and not any(
        Cell(model, arm_of.INTERACTIONS, first, config.study).reads_features for model in config.models
    ):
        message = "features of nodes that no model of this study reads"
        notices.append(Notice("[features]", message, len(first.graph.features)))
    notices += _of_unread(config, first)
    cut_off = [r for _, cells in found.items() for r in cells if not r.finished]
    arm_titles = found.arm_titles()
    if cut_off:
        arms_named = ", ".join(sorted({f"{r.model} on {arm_titles.get(r.arm, r.arm)}" for r in cut_off})[:3])
        message = f"cells whose tuning was cut off by its budget, such as {arms_named}: raise [study] trials"
        notices.append(Notice("tuning", message, len(cut_off)))
    for_want_of_memory = notices_of(left_out)
    notices += for_want_of_memory
    return {
        "name": config.name, "title": config.title or config.name, "description": config.description,
        "protocol": config.protocol.name, "fingerprints": [b.split.fingerprint for b in material.benches],
        "seeds": list(config.study.seeds), "metric": config.study.metric, "trials": config.study.trials,
        "attribute": config.study.attribute, "users_only": users_only(config), "decimals": found.decimals,
        "n_users": first.split.shape[0], "n_items": first.split.shape[1], "n_train": len(first.split.train),
        "n_valid": len(first.split.valid), "n_test": len(first.split.test),
        "nodes": [{"type": name, "count": len(ids)} for name, ids in first.graph.nodes.items()],
        "interactions": config.interactions.model_dump(exclude_none=True),
        "relations": [relation_card(first.graph, name, config) for name in first.graph.relations],
        "arms": [{"name": name, "title": title} for name, title in arm_titles.items()],
        "features": [
            {"name": f.name, "node": f.node, "columns": f.dims,
             "kind": (config.features if name in config.features else config.relations)[name].kind,
             "known": round(float(f.known.mean()), 4)}
            for name, f in first.graph.features.items()
        ],
        "notices": [{"where": n.where, "message": n.message, "count": n.count} for n in notices],
        "audit": [
            {"level": f.level, "check": f.check, "message": f.message, "count": f.count, "names": list(f.names),
             "accepted": f.level == "leak" and is_accepted(f, config.study.accept_leaks)}
            for f in material.findings
        ],
        "left_out": [n.message for n in for_want_of_memory],
        "cells": [
            {"model": model, "arm": arm, "seed": cell.seed, "key": cell.key}
            for (model, arm), cells in found.items() for cell in cells
        ],
        "machine": machine() | engine.machine(),
        "planted": TRUTH if config.data.dataset == "planted" else None,
        "smoke": material.smoke,
    }  # fmt: skip


def users_only(config: StudyConfig) -> str | None:
    """That the intervals hold no splits, and why; None where they do."""
    seeds, protocol = config.study.seeds, config.protocol
    trains = trains_on_relations(config.models)
    hold = "users only, not what another start of training would change" if trains else "users only"
    if protocol.draws_test:
        alone = f"Intervals hold {hold}: one split says nothing of others, which more [study] seeds would draw."
        return alone if len(seeds) == 1 else None
    hold = hold if len(seeds) == 1 else "users and the models' start, no splits"
    return f'Intervals hold {hold}: with split = "{protocol.split}" every seed has the same test rows.'


def relation_card(graph: Graph, name: str, config: StudyConfig) -> dict[str, Any]:
    """One relation in figures, and for one that is read through others the node types on the way."""
    r = graph.relation(name)
    chain = {"chain": list(stops(graph, r))} if hops(graph)[name] else {}
    return {
        "name": name, "title": config.titles.get(name), "source": r.source, "target": r.target, "edges": len(r),
        "covered": round(coverage(graph)[name], 4), "kind": config.relations[name].kind, **chain,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Where the study ran."""
    import torch

    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux alone has this file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model, "cores": cores(), "memory_gb": round(physical_memory() / GB, 1),
        "python": platform.python_version(), "torch": torch.__version__, "relrank": relrank.__version__,
    }  # fmt: skip
