"""Here alone the chain is put together: tables, splits, graphs, cells, effects, verdicts."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

import relrank
from relrank.csr import Csr
from relrank.errors import InputError
from relrank.graph.builders import build_graph
from relrank.graph.graph import Graph
from relrank.models import MODELS
from relrank.models.base import config_of
from relrank.study import arms as arm_of
from relrank.study import effects as tables_of
from relrank.study.arms import Arm, arms
from relrank.study.cells import Bench, Cell, CellResult, finished, fit_model, load_cell, run_cell
from relrank.study.config import ModelSection, StudyConfig
from relrank.study.effects import Found
from relrank.study.fitted import FittedRun, load_run, note_of, save_run
from relrank.study.result import StudyResult
from relrank.tables.audit import Finding, audit
from relrank.tables.protocols import apply
from relrank.tables.readers import read_tables
from relrank.tables.split import Split
from relrank.tables.synthetic import TRUTH
from relrank.tables.tables import Tables


class Watcher(Protocol):
    """Sees a study go by."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Cells to come, so many of them finished earlier."""

    def start(self, cell: Cell) -> None:
        """A cell begins."""

    def say(self, message: str) -> None:
        """What the running cell is doing."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell is there; ``fresh`` if it was run just now."""


class Silent:
    """A watcher that looks away."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Nothing."""

    def start(self, cell: Cell) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Nothing."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Material:
    """A study's data, read once.

    Attributes:
        tables: as read.
        benches: split and graph per seed.
        findings: of the audit, on the first seed.
        smoke: whether only a few users were kept.
    """

    tables: Tables
    benches: tuple[Bench, ...]
    findings: tuple[Finding, ...]
    smoke: bool = False


SMOKE_USERS = 250


def smoke(config: StudyConfig) -> StudyConfig:
    """The same study in a minute: one seed, two trials, two epochs; its results mean nothing."""
    study = config.study.model_copy(update={"seeds": config.study.seeds[:1], "trials": 2, "resamples": 200})
    models = tuple(
        m.model_copy(update={"trials": None if m.trials is None else min(m.trials, 2),
                             "train": m.train | ({"epochs": 2, "every": 1} if m.train or "gcn" in m.name else {})})
        for m in config.models
    )  # fmt: skip
    return config.model_copy(update={"study": study, "models": models})


def some_users(tables: Tables, n: int) -> Tables:
    """The interactions of n users, drawn with a fixed seed."""
    users = tables.interactions["user"].unique().sort()
    kept = users.sample(min(n, len(users)), seed=0).implode()
    given = {name: part.filter(pl.col("user").is_in(kept)) for name, part in tables.given.items()}
    return replace(tables, interactions=tables.interactions.filter(pl.col("user").is_in(kept)), given=given)


def prepare(config: StudyConfig, base: Path, is_smoke: bool = False) -> Material:
    """Read the tables, cut and build the graph once per seed, audit the first.

    Args:
        config: the study.
        base: folder that relative paths in it start from.
        is_smoke: keep a few users only.

    Raises:
        InputError: whatever is wrong with the data or the study file.
    """
    tables = read_tables(config.data, base)
    if is_smoke:
        tables = some_users(tables, SMOKE_USERS)
    benches = []
    for seed in config.study.seeds:
        split = apply(tables, config.protocol, seed)
        if not len(split.valid):
            raise InputError("no validation rows", where="[protocol]", expected="some, to tune on", found="none")
        graph = build_graph(tables, split, config.relations)
        benches.append(
            Bench(seed, split, graph, _groups(tables, tables.user, config.study.user_groups),
                  _groups(tables, tables.item, config.study.item_groups), _features(graph, config.study.similarity))
        )  # fmt: skip
    found = findings(config, tables, benches[0].split, benches[0].graph)
    return Material(tables, tuple(benches), tuple(found), is_smoke)


def findings(config: StudyConfig, tables: Tables, split: Split, graph: Graph) -> list[Finding]:
    """What the audit says of a split and of the graph built from it."""
    edges = graph.interactions.csr(graph.n_users, graph.n_items)
    used: list[tuple[str, str]] = []
    for relation in config.relations.values():
        if relation.kind == "link":
            link = tables.links[relation.table]
            used.append((link.name, link.weight or link.target_column))
        elif relation.kind == "text":
            used += [(relation.node, column) for column in relation.columns]
        elif relation.kind != "cooccurrence":
            used.append((relation.node, relation.column))
    return audit(tables, split, edges, used)


def _groups(tables: Tables, node_type: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
    if not columns:
        return None
    table = tables.nodes.get(node_type)
    missing = [c for c in columns if table is None or c not in table.frame.columns]
    if table is None or missing:
        raise InputError(
            "no such column to group by", where=f"[study], node type {node_type!r}",
            expected=f"one of {table.frame.columns if table else 'a node table'}",
            found=", ".join(missing or columns),
        )  # fmt: skip
    return table.frame.select(pl.col(table.key).alias("key"), *columns)


def _features(graph: Graph, name: str | None) -> Csr | None:
    if name is None:
        return None
    relation = graph.relation(name)
    if relation.source != graph.item:
        raise InputError(
            "not a relation of items",
            where="[study] similarity",
            expected=f"a relation from {graph.item}",
            found=name,
        )
    return relation.csr(graph.n_items, len(graph.nodes[relation.target]))


def grid(config: StudyConfig, material: Material) -> list[Cell]:
    """All planned cells: baselines first, so that a leaderboard is there early.

    Raises:
        InputError: an unknown model or hyper-parameter.
    """
    cells = [
        Cell(model, arm, bench, config.study)
        for bench in material.benches
        for model in config.models
        for arm in arms_of(model, list(config.relations))
    ]
    for cell in cells:
        cell.start()
    return cells


def arms_of(model: ModelSection, relations: list[str]) -> list[Arm]:
    """The arms of one model."""
    if model.name not in MODELS:
        raise InputError(
            "unknown model", where="[[models]] name", expected=f"one of {', '.join(MODELS)}", found=repr(model.name)
        )
    if not MODELS[model.name].relational:
        return [arm_of.INTERACTIONS]
    return arms(relations, model.arms) if model.arms else arms(relations)


def run_study(config: StudyConfig, material: Material, out: Path, watcher: Watcher | None = None) -> StudyResult:
    """Run every cell that is not there yet, compare, judge, and store the result in ``out``.

    Args:
        config: the study.
        material: its data, from ``prepare``.
        out: the study's folder; finished cells found there are not run again.
        watcher: told of every cell.

    Returns:
        The result, as stored.

    Raises:
        InputError: whatever is wrong with the data or the study file.
    """
    watcher = watcher or Silent()
    memory: dict[str, float] = {}
    done = _run_cells(grid(config, material), out / "cells", watcher, memory)
    relations = list(config.relations)
    relational = [m for m in config.models if MODELS[m.name].relational and relations]
    # Which relation makes another one redundant is asked only where one is.
    found = Found(done, config.study.metric, config.study.resamples)
    extra = [
        Cell(model, arm_of.beside(other, relation), bench, config.study)
        for model in relational
        for other, relation in tables_of.to_explain(tables_of.judge(found, model.name, relations))
        for bench in material.benches
    ]
    extra = list({(c.model.name, c.arm.name, c.bench.seed): c for c in extra}.values())
    extra = [c for c in extra if found.arm_name(c.model.name, c.arm) is None]
    if extra:
        done += _run_cells(extra, out / "cells", watcher, memory)
        found = Found(done, config.study.metric, config.study.resamples)
    planted = TRUTH if config.data.dataset == "planted" else None
    effects, verdicts = tables_of.effects_and_verdicts(found, [m.name for m in relational], relations, planted)
    result = StudyResult(
        card(config, material),
        tables_of.leaderboard(found),
        effects,
        verdicts,
        tables_of.groups(found, effects, [*config.study.user_groups, *config.study.item_groups]),
        tables_of.curves(found),
        tables_of.tuning(found),
    )
    result.save(out)
    return result


def cell_of(config: StudyConfig, material: Material, model: str, arm: str) -> Cell:
    """One cell by model and arm name; an arm may also be written as relation names with commas.

    Raises:
        InputError: no such model or relation.
    """
    section = next((m for m in config.models if m.name == model), ModelSection(name=model))
    named = {a.name: a for a in (*arms_of(section, list(config.relations)), arm_of.all_of(list(config.relations)))}
    if arm in named:
        chosen = named[arm]
    elif arm == "interactions":
        chosen = arm_of.INTERACTIONS
    else:
        names = tuple(name.strip() for name in arm.split(","))
        for name in names:
            material.benches[0].graph.relation(name)
        chosen = Arm("interactions + " + " + ".join(names), names)
    cell = Cell(section, chosen, material.benches[0], config.study)
    cell.start()
    return cell


def keep_winner(config: StudyConfig, material: Material, out: Path) -> FittedRun:
    """Fit the best model and arm on validation once more, on the first seed, and keep it under ``out/winner``.

    Shuffled arms cannot win. A winner that is there already is read back.
    """
    cells = [c for c in grid(config, material) if c.arm.rewired is None]
    found = {c.key(): load_cell(out / "cells" / c.key()) for c in cells}
    valid: dict[tuple[str, str], list[float]] = {}
    for r in found.values():
        valid.setdefault((r.model, r.arm), []).append(r.valid)
    best = max(valid, key=lambda key: float(np.mean(valid[key])))
    cell = next(c for c in cells if (c.model.name, c.arm.name) == best)
    result, folder = found[cell.key()], out / "winner"
    if (folder / "run.json").is_file() and load_run(folder).note.get("cell") == cell.key():
        return load_run(folder)
    kind, graph = MODELS[cell.model.name], cell.arm.graph(cell.bench.graph, cell.bench.seed)
    chosen = config_of(kind.Config(), result.chosen, "winner")
    split, study = cell.bench.split, cell.study
    model, _ = fit_model(kind, graph, chosen, cell.start()[1], split, study.metric, cell.bench.seed)
    return save_run(model, graph, split, material.tables, note_of(cell, chosen, result.valid), folder)


def _run_cells(
    cells: list[Cell], folder: Path, watcher: Watcher, memory: dict[str, float]
) -> list[tuple[Arm, CellResult]]:
    folder.mkdir(parents=True, exist_ok=True)
    keys = [cell.key() for cell in cells]
    watcher.plan(cells, sum(finished(folder / key) for key in keys))
    done = []
    for cell, key in zip(cells, keys, strict=True):
        fresh = not finished(folder / key)
        watcher.start(cell)
        result = run_cell(cell, folder / key, watcher.say, memory) if fresh else load_cell(folder / key)
        watcher.done(cell, result, fresh)
        done.append((cell.arm, result))
    return done


def card(config: StudyConfig, material: Material) -> dict[str, Any]:
    """What was studied, as plain JSON (see ``StudyResult.card``)."""
    first = material.benches[0]
    notices = (*material.tables.notices, *first.split.notices, *first.graph.notices)
    return {
        "name": config.name, "title": config.title or config.name, "description": config.description,
        "protocol": config.protocol.name, "fingerprints": [b.split.fingerprint for b in material.benches],
        "seeds": list(config.study.seeds), "metric": config.study.metric, "trials": config.study.trials,
        "n_users": first.split.shape[0], "n_items": first.split.shape[1], "n_train": len(first.split.train),
        "n_valid": len(first.split.valid), "n_test": len(first.split.test),
        "nodes": [{"type": name, "count": len(ids)} for name, ids in first.graph.nodes.items()],
        "relations": [relation_card(first.graph, name, config) for name in first.graph.relations],
        "notices": [{"where": n.where, "message": n.message, "count": n.count} for n in notices],
        "audit": [{"level": f.level, "check": f.check, "message": f.message, "count": f.count}
                  for f in material.findings],
        "machine": machine(),
        "planted": TRUTH if config.data.dataset == "planted" else None,
        "smoke": material.smoke,
    }  # fmt: skip


def relation_card(graph: Graph, name: str, config: StudyConfig) -> dict[str, Any]:
    """One relation in figures."""
    r = graph.relation(name)
    ends = np.concatenate([r.src, r.dst]) if r.undirected else r.src
    covered = np.unique(ends).size / len(graph.nodes[r.source])
    return {
        "name": name, "source": r.source, "target": r.target, "edges": len(r), "covered": round(covered, 4),
        "kind": config.relations[name].kind,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Where the study ran."""
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (OSError, StopIteration, ValueError):
        memory = 0.0
    return {
        "cpu": model, "cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory, 1),
        "python": platform.python_version(), "torch": torch.__version__, "relrank": relrank.__version__,
    }  # fmt: skip
