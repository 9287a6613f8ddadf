"""Leak checks of a graph: does a relation or a column of items contain what a model has to predict?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation import NO_TITLES, Titles
from relrank.kernels.csr import Float64
from relrank.tables.audit import Finding, pair_keys
from relrank.tables.feature_leakage import feature_leakage
from relrank.tables.files import holds_numbers, read_numbers
from relrank.tables.ids import IdMap
from relrank.tables.split import Split
from relrank.tables.tables import Tables

GROWS = "figures that grow with held-out rows"
REPAIR_HINT = "give the table's rows a time or a user (time, by), so that they are cut at the split, or leave it out"
"""Advice for a relation that contains held-out rows."""


def find_split_row_leaks(
    graph: Graph, split: Split, timed: Collection[str] = (), titles: Titles = NO_TITLES
) -> Iterator[Finding]:
    """Rows of the split that are also edges of a relation between users and items; held-out ones are a leak.

    Edges of ``timed`` relations are earlier than the user's held-out rows, such as an item that was viewed before it
    was bought; these are only a warning. ``titles`` replace names of relations in messages.
    """
    n = graph.n_items
    for name, r in graph.relations.items():
        if {r.source, r.target} != {graph.user, graph.item}:
            continue
        title = titles.get(name, name)
        edges = pair_keys(r.src, r.dst, n) if r.source == graph.user else pair_keys(r.dst, r.src, n)
        repeated = int(np.isin(edges, pair_keys(split.train.user, split.train.item, n)).sum())
        message = f"{repeated:,} of {len(r):,} edges of relation {title} repeat a training row, so that the graph "
        message += "contains what the model has to predict"
        yield Finding("warning" if repeated else "ok", f"training rows in {title}", message, repeated, (name,))
        for part, rows in (("validation", split.valid), ("test", split.test)):
            count = int(np.isin(pair_keys(rows.user, rows.item, n), edges).sum())
            message = f"{count:,} of {len(rows):,} {part} rows are edges of relation {title}"
            message += ", each of an earlier time" * (name in timed)
            level: Literal["leak", "warning", "ok"] = "warning" if name in timed else "leak"
            yield Finding(level if count else "ok", f"{part} rows in {title}", message, count, (name,), REPAIR_HINT)


def find_popularity_leaks(
    graph: Graph,
    split: Split,
    tables: Tables,
    columns: Mapping[str, Collection[tuple[str, str]]],
    timed: Collection[str] = (),
    titles: Titles = NO_TITLES,
) -> Iterator[Finding]:
    """Numbers of items that reveal how many of their interactions are held out (``tables.feature_leakage``).

    Args:
        graph: the number and the weight of each item's links are checked.
        split: of the interactions.
        tables: with the numeric columns of items that relations and features use.
        columns: (table, column) pairs in use, by the name of the relation or feature.
        timed: relations that were cut at the split by their times; their findings are warnings.
        titles: of relations, shown instead of their names.
    """
    findings, checked = [], 0
    for name, what, figure in _figures(graph, tables, columns, titles):
        checked += 1
        leakage = feature_leakage(figure, split, np.random.default_rng(0))
        if leakage.is_count:
            message = (
                f"{what} is a function of an item's training and held-out rows together rather than of its training "
                f"rows: the residual variance given the first is {leakage.counted:.0%} of that given the second"
            )
        elif leakage.is_shifted:
            against = "all rows of their users" if leakage.exact else "their users' last training rows"
            message = (
                f"{what} is larger over held-out rows than over {against}, by {leakage.pull:.2f} standard deviations "
                f"({leakage.z:.1f} standard errors)"
            )
        else:
            continue
        sure = (leakage.is_count or leakage.exact) and name not in timed
        n = len(split.valid) + len(split.test)
        remedy = f"count and collect {titles.get(name, name)} without held-out rows, or leave it out"
        findings.append(Finding("leak" if sure else "warning", f"{GROWS}: {what}", message, n, (name,), remedy))
    if checked and not findings:
        yield Finding("ok", GROWS, f"none of {checked:,} figures of items reveals which rows are held out", 0)
    yield from findings


def _figures(
    graph: Graph, tables: Tables, columns: Mapping[str, Collection[tuple[str, str]]], titles: Titles
) -> Iterator[tuple[str, str, Float64]]:
    """Name of the relation or feature, what is measured, and its value for each item; NaN where it is missing."""
    n = graph.n_items
    for name, r in graph.relations.items():
        if graph.item not in (r.source, r.target) or name not in columns:
            continue
        ends = [end for kind, end in ((r.source, r.src), (r.target, r.dst)) if kind == graph.item]
        rows, weight = np.concatenate(ends), np.concatenate([r.weight] * len(ends))
        links = f"links of {titles.get(name, name)}"
        yield name, f"the number of {links}", np.bincount(rows, minlength=n).astype(np.float64)
        if weight.size and weight.min() < weight.max():
            yield name, f"the weight of {links}", np.bincount(rows, weight, n).astype(np.float64)
    table = tables.nodes.get(tables.item)
    if table is None:
        return
    at = pl.Series(IdMap(table.name, table.frame[table.key]).find(graph.nodes[graph.item].keys)).replace(-1, None)
    for name, used in columns.items():
        for node, column in used:
            if node == tables.item and column in table.frame.columns and holds_numbers(table.frame[column]):
                values = read_numbers(table.frame[column]).gather(at).fill_null(np.nan).to_numpy()
                yield name, f"{column} of {titles.get(name, name)}", values


def find_transition_overlap(graph: Graph, name: str, title: str | None = None) -> Finding:
    """Steps of training histories, from an item to the next, that alone make an edge of a co-occurrence relation.

    A model that learns such a step finds it in its graph. More than a tenth of all steps is a warning. The steps are
    those that the relation counts: of histories with each item once, where it was first chosen. ``title`` replaces
    the relation's name in messages.
    """
    histories, relation = Sequences.from_graph(replace(graph, events=None)), graph.relations[name]
    inside = np.diff(np.repeat(np.arange(histories.n), histories.lengths())) == 0
    a, b = histories.items[:-1][inside], histories.items[1:][inside]
    once = relation.where(relation.weight == 1)
    edges = pair_keys(once.src, once.dst, graph.n_items)
    n = int(np.isin(pair_keys(np.minimum(a, b), np.maximum(a, b), graph.n_items), edges).sum())
    shown, steps = title or name, f"{n:,} of {a.size:,} steps from a training item to the next"
    message = f"{steps} are edges of {shown} that no other step makes"
    return Finding("warning" if n > a.size / 10 else "ok", f"own steps in {shown}", message, n, (name,))
