"""A study's card: data, machine, relations, notices, as plain JSON (see ``StudyResult.card``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import chain_node_types, hops
from relrank.models import MODELS
from relrank.parallel.machine import machine
from relrank.study import arms as arm_of
from relrank.study.cell import Cell, SplitContext
from relrank.study.config import StudyConfig, config_hash, trains_on_relations
from relrank.study.engines.engine import Engine
from relrank.study.grid import ineffective_weights, relations_read_by
from relrank.study.leaks import is_accepted
from relrank.study.memory_limits import SkippedCell, memory_notices
from relrank.study.prepare import StudyData
from relrank.study.result import FORMAT
from relrank.study.results_by_arm import ResultsByArm
from relrank.tables.notices import Notice
from relrank.tables.split import Split
from relrank.tables.synthetic import TRUTH


def card(
    config: StudyConfig, material: StudyData, results: ResultsByArm, engine: Engine, skipped: list[SkippedCell]
) -> dict[str, Any]:
    """What was studied, as plain JSON."""
    first = material.split_contexts[0]
    not_fitting = memory_notices(skipped)
    notices = [*_data_notices(config, material), *_tuning_notices(results), *not_fitting]
    return {
        "format": FORMAT,
        "name": config.name,
        "config": config_hash(config),
        "title": config.title or config.name,
        "description": config.description,
        "protocol": config.protocol.name,
        "fingerprints": [b.final.fingerprint for b in material.split_contexts],
        "seeds": list(config.study.seeds),
        "metric": config.study.metric,
        "trials": config.study.trials,
        "attribute": config.study.attribute,
        "interval_caveat": interval_caveat(config),
        "decimals": results.decimals,
        **_split_sizes(first.split),
        "dates": _dates(first.split),
        "nodes": [{"type": name, "count": len(ids)} for name, ids in first.graph_at_test.nodes.items()],
        "interactions": config.interactions.model_dump(exclude_none=True),
        "relations": [relation_card(first.graph_at_test, name, config) for name in first.graph.relations],
        "arms": [{"name": name, "title": title} for name, title in results.arm_titles().items()],
        "features": _features(first.graph_at_test, config),
        "notices": [{"where": n.where, "message": n.message, "count": n.count} for n in notices],
        "audit": _audit(config, material),
        "skipped": [n.message for n in not_fitting],
        "cells": [
            {"model": model, "arm": arm, "seed": cell.seed, "key": cell.key}
            for (model, arm), cells in results.items()
            for cell in cells
        ],
        "machine": machine() | engine.machine(),
        "planted": TRUTH if config.data.dataset == "planted" else None,
        "smoke": material.smoke,
    }


def _split_sizes(split: Split) -> dict[str, int]:
    n_users, n_items = split.shape
    sizes = {"n_train": len(split.train), "n_valid": len(split.valid), "n_test": len(split.test)}
    return {"n_users": n_users, "n_items": n_items, **sizes}


def _dates(split: Split) -> list[str] | None:
    """Days of the first and the last interaction; None without times, or where these are no more than an order."""
    parts = [part.time for part in (split.train, split.valid, split.test) if part.time is not None and len(part)]
    ticks = split.train.ticks
    if not parts or ticks <= 0:
        return None
    ends = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
    return [str(np.datetime64(end // ticks, "s").astype("datetime64[D]")) for end in ends]


def _features(graph: Graph, config: StudyConfig) -> list[dict[str, Any]]:
    return [
        {
            "name": f.name,
            "node": f.node,
            "columns": f.dims,
            "kind": (config.features if name in config.features else config.relations)[name].kind,
            "known": round(float(f.known.mean()), 4),
        }
        for name, f in graph.features.items()
    ]


def _audit(config: StudyConfig, material: StudyData) -> list[dict[str, Any]]:
    return [
        {
            "level": f.level,
            "check": f.check,
            "message": f.message,
            "count": f.count,
            "names": list(f.names),
            "accepted": f.level == "leak" and is_accepted(f, config.study.accept_leaks),
        }
        for f in material.findings
    ]


def _data_notices(config: StudyConfig, material: StudyData) -> list[Notice]:
    """Notices of tables, split and graph, and on what no model reads."""
    first = material.split_contexts[0]
    notices = [*material.tables.notices, *first.split.notices, *first.graph.notices]
    if first.refit:
        message = "validation rows given back to training before the final fit and the test"
        notices.append(Notice("protocol", message, len(first.split.valid)))
    if first.graph.features and not any(
        Cell(model, arm_of.INTERACTIONS, first, config.study).uses_features for model in config.models
    ):
        message = "features of nodes that no model of this study reads"
        notices.append(Notice("[features]", message, len(first.graph.features)))
    return notices + _unread_notices(config, first)


def _unread_notices(config: StudyConfig, first: SplitContext) -> list[Notice]:
    """Relations that a model does not read, and weights of such relations."""
    notices = []
    for model in (m for m in config.models if MODELS[m.kind].relational):
        read = relations_read_by(model, config, first)
        unread = [name for name in config.relations if name not in read]
        if unread:
            message = f"relations that {model.name} does not read, so that it says nothing of them"
            listed = ", ".join(config.titles.get(name, name) for name in unread)
            notices.append(Notice("[relations]", f"{message}: {listed}", len(unread)))
    for model in config.models:
        if ineffective := ineffective_weights(model, first):
            message = (
                f"weights without effect, for {model.name} never reads these relations: {', '.join(ineffective)}"
            )
            notices.append(Notice(f"[[models]] {model.name}", message, len(ineffective)))
    return notices


def _tuning_notices(results: ResultsByArm) -> list[Notice]:
    """One notice if searches ran out of trials."""
    cut_off = [r for _, cells in results.items() for r in cells if not r.converged]
    if not cut_off:
        return []
    titles = results.arm_titles()
    examples = ", ".join(sorted({f"{r.model} on {titles.get(r.arm, r.arm)}" for r in cut_off})[:3])
    message = f"cells whose tuning was cut off by its budget, such as {examples}: raise [study] trials"
    return [Notice("tuning", message, len(cut_off))]


def interval_caveat(config: StudyConfig) -> str | None:
    """A sentence where the intervals do not include the variance between splits; else None."""
    seeds, protocol = config.study.seeds, config.protocol
    trains = trains_on_relations(config.models)
    covers = "users only, not restarts of training" if trains else "users only"
    if protocol.draws_test:
        alone = f"Confidence intervals cover {covers}: variation between splits needs more than one of [study] seeds."
        return alone if len(seeds) == 1 else None
    covers = covers if len(seeds) == 1 else "users and restarts of training, not splits"
    return f'Confidence intervals cover {covers}: with split = "{protocol.split}" all seeds have the same test rows.'


def relation_card(graph: Graph, name: str, config: StudyConfig) -> dict[str, Any]:
    """One relation in figures; with the node types of its chain where it is read through others."""
    r = graph.relation(name)
    chain = {"chain": list(chain_node_types(graph, r))} if hops(graph)[name] else {}
    return {
        "name": name,
        "title": config.titles.get(name),
        "source": r.source,
        "target": r.target,
        "edges": len(r),
        "covered": round(coverage(graph)[name], 4),
        "kind": config.relations[name].kind,
        **chain,
    }
