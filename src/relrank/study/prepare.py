"""From a study file to its data: tables, splits, graphs, findings of the audit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl

from relrank.arguments import checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.audit import find_popularity_leaks, find_split_row_leaks, find_transition_overlap
from relrank.graph.audit_side_data import find_side_data_leaks
from relrank.graph.construction.build_graph import build_graph, side_tables
from relrank.graph.construction.context import Progress, silent
from relrank.graph.construction.feature_builder import columns_of
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr
from relrank.study.cell import SplitContext, edges_sha
from relrank.study.config import StudyConfig, is_trained, trains_on_relations
from relrank.tables.audit import Finding, audit
from relrank.tables.files import holds_numbers, read_numbers
from relrank.tables.protocols import ProtocolConfig, make_split, span
from relrank.tables.readers import read_tables
from relrank.tables.split import Split
from relrank.tables.tables import TEXTS, Tables


@dataclass(frozen=True, slots=True, eq=False)
class StudyData:
    """A study's data, read once.

    Attributes:
        tables: as read.
        split_contexts: split and graph, per seed.
        findings: of the audit, on the first seed.
        smoke: whether the tables are reduced to a few users.
    """

    tables: Tables
    split_contexts: tuple[SplitContext, ...]
    findings: tuple[Finding, ...]
    smoke: bool = False


SMOKE_USERS = 250

MOST_VALUES = 8
"""A numeric column with more distinct values is grouped by quartiles."""


def smoke(config: StudyConfig) -> StudyConfig:
    """The study reduced to one seed, two trials and two epochs, for a run of a minute; its results mean nothing."""
    study = config.study.model_copy(update={"seeds": config.study.seeds[:1], "trials": 2})
    models = []
    for m in config.models:
        train = {**m.train, "epochs": 2, "every": 1} if is_trained(m) else m.train
        models.append(m.model_copy(update={"trials": m.trials and min(m.trials, 2), "train": train}))
    return config.model_copy(update={"study": study, "models": tuple(models)})


def few_users(tables: Tables, protocol: ProtocolConfig) -> tuple[Tables, ProtocolConfig]:
    """Tables with a sample of the users who pass the protocol's filters, and the protocol without these filters."""
    full = make_split(tables, protocol, 0)
    users = full.users.keys.sample(min(SMOKE_USERS, len(full.users)), seed=0)

    def sampled(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(pl.col("user").is_in(users.implode()) & pl.col("item").is_in(full.items.keys.implode()))

    given = {name: sampled(part) for name, part in tables.given.items()}
    small = tables.with_row_subset(interactions=sampled(tables.interactions), given=given)
    return small, protocol.model_copy(update={"core": 0})


@checked("rr.prepare")
def prepare(config: StudyConfig, base: Path | str, is_smoke: bool = False, progress: Progress = silent) -> StudyData:
    """Read the tables, split them and build the graph for each seed, and audit the first.

    Args:
        config: the study.
        base: folder that relative paths in it start from.
        is_smoke: reduce the tables to a few users.
        progress: reports long work on the way to the graph.

    Raises:
        InputError: data or study file are wrong.
    """
    base = Path(base)
    tables, protocol = read_tables(config.data, base), config.protocol
    if is_smoke:
        tables, protocol = few_users(tables, protocol)
    user_groups = _group_columns(tables, tables.user, config.study.user_groups)
    item_groups = _group_columns(tables, tables.item, config.study.item_groups)
    timed = protocol.split != "cold-items" and _has_timed_side_data(config, tables)
    split_contexts = []
    for seed in config.study.seeds:
        split = make_split(tables, protocol, seed)
        if not len(split.valid):
            raise _no_validation_rows(split, protocol)
        graph_of = partial(build_graph, tables, relations=config.relations, features=config.features)
        graph_of = partial(graph_of, interactions=config.interactions, progress=progress)
        graph = graph_of(split)
        attributes = attributes_of(graph, config.study.attribute, "[study] attribute")
        extra = [b"" if f is None else f.write_csv().encode() for f in (user_groups, item_groups)]
        extra += [edges_sha(graph, config.study.attribute).encode()] if config.study.attribute else []
        extra_hash, refit = hashlib.sha256(b"|".join(extra)).hexdigest()[:16], timed or protocol.split == "given"
        split_contexts.append(
            SplitContext(
                seed,
                split,
                graph,
                user_groups,
                item_groups,
                attributes,
                extra_hash,
                refit,
                config.interactions,
                graph_of(_final_split(split)) if timed else None,
            )
        )
    found = findings(config, tables, split_contexts[0].split, split_contexts[0].graph)
    if (final_graph := split_contexts[0].final_graph) is not None:
        found = _worst([*found, *findings(config, tables, split_contexts[0].final, final_graph)])
    same = len({b.split.fingerprint for b in split_contexts}) < len(split_contexts)
    if same and not trains_on_relations(config.models):
        message = f"{len(split_contexts)} seeds give one and the same split: they vary the models' start only"
        found.append(Finding("warning", "seeds of the split", message, len(split_contexts)))
    return StudyData(tables, tuple(split_contexts), tuple(found), is_smoke)


def _final_split(split: Split) -> Split:
    """The split of the final fit where side data have times; with a fingerprint of its own."""
    fingerprint = hashlib.sha256(f"{split.fingerprint} side data until the test".encode()).hexdigest()
    return replace(split.refit(), fingerprint=fingerprint)


def _has_timed_side_data(config: StudyConfig, tables: Tables) -> bool:
    """Whether links or texts that the study uses have times, so that more of them is known at test than before."""
    used = side_tables(config.relations, config.features)
    texts = TEXTS in used and tables.texts is not None and "time" in tables.texts.frame.columns
    return texts or any(link.time is not None for name, link in tables.links.items() if name in used)


def _no_validation_rows(split: Split, protocol: ProtocolConfig) -> InputError:
    advice = "set valid_cut, or an earlier one" if protocol.split == "temporal" else "users with more rows"
    rows = split.train.then(split.test)
    dates = "" if rows.time is None else f", {span(rows)}"
    return InputError(
        "no validation rows",
        where="[protocol]",
        expected=f"some to tune on: {advice}",
        found=f"{len(split.users):,} users, {len(split.train):,} training rows, {len(split.test):,} test rows{dates}",
    )


def findings(config: StudyConfig, tables: Tables, split: Split, graph: Graph) -> list[Finding]:
    """The audit's findings on a split and on the graph built from it."""
    edges = graph.interactions.csr(graph.n_users, graph.n_items)
    used = columns_used(config, tables)
    columns = dict.fromkeys(column for read in used.values() for column in read)
    of_table = {t: tuple(n for n, read in used.items() if t in dict(read)) for t, _ in columns}
    found = audit(tables, split, edges, columns, of_table)
    timed = [n for n, r in config.relations.items() if r.kind == "link" and tables.links[r.table].time is not None]
    titles = config.titles
    found += find_split_row_leaks(graph, split, timed, titles)
    found += find_side_data_leaks(graph, split, timed, titles)
    found += find_popularity_leaks(graph, split, tables, used, timed, titles)
    if graph.places is not None:
        near = [name for name, r in config.relations.items() if r.kind == "cooccurrence"]
        found += [find_transition_overlap(graph, name, titles.get(name)) for name in near]
    return found


def _worst(findings: list[Finding]) -> list[Finding]:
    """Of the findings of one check on several graphs the worst, in the order of the checks."""
    worst: dict[tuple[str, tuple[str, ...]], Finding] = {}
    for finding in findings:
        key = finding.check, finding.names
        if key not in worst or _severity(finding) > _severity(worst[key]):
            worst[key] = finding
    return list(worst.values())


def _severity(finding: Finding) -> tuple[int, int]:
    return ("ok", "warning", "leak").index(finding.level), finding.count


def columns_used(config: StudyConfig, tables: Tables) -> dict[str, list[tuple[str, str]]]:
    """By name of a relation or feature, the (table, column) pairs that it reads."""
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


def _group_columns(tables: Tables, node_type: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
    """The columns that effects are grouped by; a numeric column with many values is cut into quartiles."""
    if not columns:
        return None
    table = tables.nodes.get(node_type)
    known = {} if table is None else {n: t for n, t in table.frame.schema.items() if not t.is_nested()}
    missing = [c for c in columns if c not in known]
    if table is None or missing:
        raise InputError(
            "no such column to group by",
            where=f"[study], node type {node_type!r}",
            expected=one_of(known) if known else "a node table",
            found=", ".join(map(repr, missing or columns)) + did_you_mean((missing or columns)[0], known),
        )
    many = [c for c in columns if table.frame[c].n_unique() > MOST_VALUES and holds_numbers(table.frame[c])]
    quarters = (read_numbers(table.frame[c]).qcut(4, allow_duplicates=True).cast(pl.String).alias(c) for c in many)
    return table.frame.select(pl.col(table.key).alias("key"), *columns).with_columns(*quarters)


def attributes_of(graph: Graph, name: str | None, where: str) -> Csr | None:
    """Items × values of a relation, for metrics of lists; None without a name.

    Raises:
        InputError: no such relation, or not one of items.
    """
    if name is None:
        return None
    relation = graph.relation(name)
    if relation.source != graph.item:
        raise InputError("not a relation of items", where=where, expected=f"a relation from {graph.item}", found=name)
    return relation.csr(graph.n_items, len(graph.nodes[relation.target]))
