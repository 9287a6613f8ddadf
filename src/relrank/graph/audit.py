"""What a reader of the results would ask of the graph: does a relation hold what a model is to predict?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import NO_TITLES, Titles
from relrank.graph.sequences import Sequences
from relrank.kernels.csr import Float64
from relrank.tables.audit import Finding, pair_keys
from relrank.tables.feature_leakage import feature_leakage
from relrank.tables.files import holds_numbers, read_numbers
from relrank.tables.ids import IdMap
from relrank.tables.split import Split
from relrank.tables.tables import Tables

GROWS = "figures that grow with held-out rows"
REPAIR_HINT = "give the table's rows a time or a user (time, by), so that they are cut at the split, or leave it out"
"""What to do about a relation that knows held-out rows."""


def find_split_row_leaks(
    graph: Graph, split: Split, timed: Collection[str] = (), titles: Titles = NO_TITLES
) -> Iterator[Finding]:
    """Rows of the split that are edges of a relation between users and items; hidden ones are a leak.

    Edges of ``timed`` relations are earlier than the user's held-out rows: one that is the same pair was known then,
    such as an item that was looked at before it was bought, and is worth a warning only. ``titles`` are read
    instead of names of relations.
    """
    n = graph.n_items
    for name, r in graph.relations.items():
        if {r.source, r.target} != {graph.user, graph.item}:
            continue
        title = titles.get(name, name)
        edges = pair_keys(r.src, r.dst, n) if r.source == graph.user else pair_keys(r.dst, r.src, n)
        again = int(np.isin(edges, pair_keys(split.train.user, split.train.item, n)).sum())
        message = f"{again:,} of {len(r):,} edges of relation {title} repeat a training row, so that a model "
        message += "reads in its graph what it is to predict"
        yield Finding("warning" if again else "ok", f"training rows in {title}", message, again, (name,))
        for part, rows in (("validation", split.valid), ("test", split.test)):
            held = int(np.isin(pair_keys(rows.user, rows.item, n), edges).sum())
            message = f"{held:,} of {len(rows):,} {part} rows are edges of relation {title}"
            message += ", each of an earlier time" * (name in timed)
            level: Literal["leak", "warning", "ok"] = "warning" if name in timed else "leak"
            yield Finding(level if held else "ok", f"{part} rows in {title}", message, held, (name,), REPAIR_HINT)


def find_popularity_leaks(
    graph: Graph,
    split: Split,
    tables: Tables,
    columns: Mapping[str, Collection[tuple[str, str]]],
    timed: Collection[str] = (),
    titles: Titles = NO_TITLES,
) -> Iterator[Finding]:
    """Figures of items that know how many of their interactions are held out (``tables.feature_leakage``).

    Args:
        graph: its relations of items are counted: links, and their weights.
        split: of the interactions.
        tables: with the numeric columns of items that relations and features use.
        columns: (table, column) of what is used, by the name of the relation or feature.
        timed: relations that were cut at the split by their times: what they say was known, a warning.
        titles: of relations, read instead of their names.
    """
    bad, looked_at = [], 0
    for name, what, figure in _figures(graph, tables, columns, titles):
        looked_at += 1
        found = feature_leakage(figure, split, np.random.default_rng(0))
        if found.is_count:
            message = (
                f"{what} follows from the number of an item's training and held-out rows together, and not from that "
                f"of its training rows: equal numbers leave {found.counted:.0%} of the variance that these leave"
            )
        elif found.is_shifted:
            against = "all rows of their users" if found.exact else "their users' last training rows"
            message = (
                f"{what} is larger over held-out rows than over {against}, by {found.pull:.2f} standard deviations "
                f"({found.z:.1f} standard errors)"
            )
        else:
            continue
        sure = (found.is_count or found.exact) and name not in timed
        n = len(split.valid) + len(split.test)
        remedy = f"count and collect {titles.get(name, name)} without held-out rows, or leave it out"
        bad.append(Finding("leak" if sure else "warning", f"{GROWS}: {what}", message, n, (name,), remedy))
    if looked_at and not bad:
        message = f"none of {looked_at:,} figures of items knows which rows are held out"
        yield Finding("ok", GROWS, message, 0)
    yield from bad


def _figures(
    graph: Graph,
    tables: Tables,
    columns: Mapping[str, Collection[tuple[str, str]]],
    titles: Titles,
) -> Iterator[tuple[str, str, Float64]]:
    """Name of the relation or feature, what is measured, and its value of each item; NaN where it has none."""
    n = graph.n_items
    for name, r in graph.relations.items():
        if graph.item not in (r.source, r.target) or name not in columns:
            continue
        ends = [end for kind, end in ((r.source, r.src), (r.target, r.dst)) if kind == graph.item]
        rows, weight = np.concatenate(ends), np.concatenate([r.weight] * len(ends))
        yield (
            name,
            f"the number of links of {titles.get(name, name)}",
            np.bincount(rows, minlength=n).astype(np.float64),
        )
        if weight.size and weight.min() < weight.max():
            yield (
                name,
                f"the weight of links of {titles.get(name, name)}",
                np.bincount(rows, weight, n).astype(np.float64),
            )
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
    """Steps of training histories from one item to the next that are an edge of a co-occurrence by themselves.

    A model that learns to take the step reads it in its graph. More than a tenth of all steps is a warning. A step is
    one of what the relation counts: of histories in which an item is once, where it was first chosen. ``title`` is
    read instead of the name.
    """
    histories, relation = Sequences.from_graph(replace(graph, events=None)), graph.relations[name]
    inside = np.diff(np.repeat(np.arange(histories.n), histories.lengths())) == 0
    a, b = histories.items[:-1][inside], histories.items[1:][inside]
    once = relation.where(relation.weight == 1)
    edges = pair_keys(once.src, once.dst, graph.n_items)
    n = int(np.isin(pair_keys(np.minimum(a, b), np.maximum(a, b), graph.n_items), edges).sum())
    read, steps = title or name, f"{n:,} of {a.size:,} steps from a training item to the next"
    message = f"{steps} are edges of {read} that no other step makes"
    return Finding("warning" if n > a.size / 10 else "ok", f"own steps in {read}", message, n, (name,))
