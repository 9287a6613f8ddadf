"""Relations as rows: what a relation says of each item or user, composed along chains where it touches neither.

Shared by the closed forms that stack relations with the interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from relrank.csr import Csr, Float64
from relrank.graph.graph import Graph, Relation
from relrank.models.base import check_range
from relrank.models.linear import unit_rows

WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of a relation that are tried."""

Chain = tuple[tuple[Relation, bool], ...]
"""Relations in order, each with whether it is walked from source to target."""


def end_of(graph: Graph, relation: Relation) -> str | None:
    """The node type that a relation says something of: items, users, or None.

    Items where it links any, else users; where it touches neither, whichever a chain leads there from, items first.
    A second relation user → item is one of users: what else a user did.
    """
    direct = _direct_end(graph, relation)
    if direct is not None:
        return direct
    for end in (graph.item, graph.user):
        if chain_to(graph, relation, end) is not None:
            return end
    return None


def _direct_end(graph: Graph, relation: Relation) -> str | None:
    ends = (relation.source, relation.target)
    if graph.item in ends and ends != (graph.user, graph.item):
        return graph.item
    return graph.user if graph.user in ends else None


def chain_to(graph: Graph, relation: Relation, end: str) -> Chain | None:
    """The shortest chain of relations from a node type to a relation that does not touch it.

    Args:
        graph: its relations may be links of the chain; each leads from one node type to another one.
        relation: where the chain leads.
        end: node type where it starts, that of users or items.

    Returns:
        Relations in order with whether each is walked from source to target, ``relation`` last; None where no
        chain leads there. Among equally short ones the first by names.
    """
    others = {graph.user, graph.item}
    frontier: list[tuple[str, tuple[tuple[Relation, bool], ...]]] = [(end, ())]
    visited = {end}
    while frontier:
        reached: list[tuple[str, tuple[tuple[Relation, bool], ...]]] = []
        for node, chain in frontier:
            if chain and node in (relation.source, relation.target):
                return (*chain, (relation, node == relation.source))
        for node, chain in frontier:
            for _, link in sorted(graph.relations.items()):
                if link is relation or link.undirected or node not in (link.source, link.target):
                    continue
                other = link.target if link.source == node else link.source
                if other not in visited and other not in others:
                    visited.add(other)
                    reached.append((other, (*chain, (link, link.source == node))))
        frontier = reached
    return None


def in_use(graph: Graph, end: str, config: Any, model: str) -> list[tuple[Relation, float]]:
    """Relations that say something of nodes of type ``end``, and their weights above 0.

    Args:
        graph: has the relations.
        end: node type of users or items.
        config: ``weights`` by relation, and ``weight`` of those that it does not name.
        model: whose configuration it is.

    Raises:
        InputError: a weight, of any relation, is negative or not finite.
    """
    pairs = []
    for name, relation in sorted(graph.relations.items()):  # sums in one order whatever the arm
        weight = float(config.weights.get(name, config.weight))
        check_range(0 <= weight < np.inf, model, f"weights.{name}", "0 or more, finite", weight)
        if weight and end_of(graph, relation) == end:
            pairs.append((relation, weight))
    return pairs


_ROWS: WeakKeyDictionary[Relation, tuple[tuple[Relation, ...], Csr]] = WeakKeyDictionary()


def rows_of(graph: Graph, relation: Relation) -> Csr:
    """What a relation says of each node of its ``end_of``: rows of length 1, CSR [n_nodes, n_others].

    Within one type each node is its own neighbour too, of weight 1. Along a chain every step is a share: an item of
    two authors has half of the country of each.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    chain = chain_of(graph, relation)
    known, links = _ROWS.get(relation), tuple(link for link, _ in chain)
    first, ahead = chain[0]
    n_rows = len(graph.nodes[first.source if ahead else first.target])
    if known is not None and known[0] == links and known[1].n_rows == n_rows:
        return known[1]
    rows = along(graph, chain, first_step(graph, chain))
    _ROWS[relation] = links, rows
    return rows


def chain_of(graph: Graph, relation: Relation) -> Chain:
    """The relations that ``rows_of`` composes, in order, with whether each is walked from source to target.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    end = end_of(graph, relation)
    if end is None:
        raise ValueError(f"relation {relation.name!r} leads to neither users nor items")
    direct: Chain = ((relation, relation.source == end),)
    return direct if _direct_end(graph, relation) is not None else chain_to(graph, relation, end) or direct


def first_step(graph: Graph, chain: Chain) -> Csr:
    """Weights of the first relation of a chain, by the nodes where it starts."""
    return _step(graph, *chain[0])


def along(graph: Graph, chain: Chain, rows: Csr) -> Csr:
    """Rows of the first step, all or some, composed with the rest of the chain and brought to length 1."""
    for link, ahead in chain[1:]:
        rows = product(rows.shares(), _step(graph, link, ahead).shares())
    return unit_rows(rows)


def _step(graph: Graph, relation: Relation, forward: bool) -> Csr:
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if relation.undirected:
        own = np.arange(rows.n_rows, dtype=np.int32)
        row, col = np.concatenate([rows.rows(), own]), np.concatenate([rows.indices, own])
        data = np.concatenate([rows.data / rows.data.max(initial=1.0), np.ones(own.size, np.float32)])
        return Csr.from_pairs(row, col, (own.size, own.size), data)
    return rows if forward else rows.transpose()


def product(left: Csr, right: Csr) -> Csr:
    """``left @ right``, sparse."""
    from scipy.sparse import csr_array

    shape = (left.n_rows, left.n_cols), (right.n_rows, right.n_cols)
    one, other = (
        csr_array((m.data, m.indices, m.indptr), shape=s) for m, s in zip((left, right), shape, strict=True)
    )
    result = one @ other
    result.sort_indices()
    return Csr(
        result.indptr.astype(np.int64), result.indices.astype(np.int32), result.data.astype(np.float32), right.n_cols
    )


def side_by_side(parts: Sequence[tuple[Csr, float]], n_rows: int) -> Csr:
    """``√w U`` of all parts (U, w) beside each other."""
    row, col, data, width = [], [], [], 0
    for rows, weight in parts:
        row.append(rows.rows())
        col.append(rows.indices + np.int32(width))
        data.append(rows.data * np.float32(np.sqrt(weight)))
        width += rows.n_cols
    return Csr.from_pairs(np.concatenate(row), np.concatenate(col), (n_rows, width), np.concatenate(data))


def stacked(rows: Csr, parts: Sequence[tuple[Csr, float]]) -> tuple[Csr, Csr]:
    """Z = ``[rows; √w Uᵀ]``: below some rows those of all parts (U, w), one after another.

    Args:
        rows: [n, n_columns].
        parts: U of the first columns, CSR [at most n_columns, n_others], and the weight w.

    Returns:
        Z by columns, CSR [n_columns, height], and by rows, CSR [height, n_columns].
    """
    row, col, data, height = [rows.rows()], [rows.indices], [rows.data], rows.n_rows
    for part, weight in parts:
        row.append(part.indices + np.int32(height))
        col.append(part.rows())
        data.append(part.data * np.float32(np.sqrt(weight)))
        height += part.n_cols
    by_column = Csr.from_pairs(np.concatenate(col), np.concatenate(row), (rows.n_cols, height), np.concatenate(data))
    return by_column, by_column.transpose()


def reach(graph: Graph, relation: Relation) -> tuple[Float64, Float64]:
    """How many entries ``rows_of`` has, and what they bring together, from the edges alone.

    Ways along a chain are counted one by one; where several lead to the same node, numbers are larger than what
    ``rows_of`` makes of them.

    Returns:
        Entries by column, float64 [n_others], and how often a node of the relation's ``end_of`` meets another one in
        its columns, float64 [n_nodes].

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    chain = chain_of(graph, relation)
    first, ahead = chain[0]
    n = len(graph.nodes[first.source if ahead else first.target])
    ways = np.ones(n)
    for link, ahead in chain:
        ways = _carried(graph, link, ahead, ways)
    entries = np.minimum(ways, n)
    met = np.maximum(entries - 1, 0)
    for link, ahead in reversed(chain):
        met = _carried(graph, link, not ahead, met)
    return entries, met


def _carried(graph: Graph, relation: Relation, forward: bool, values: Float64) -> Float64:
    """Values of the nodes at one end of a relation, added up at the other end; within one type at themselves, too."""
    if relation.undirected:
        there, back = (
            np.bincount(to, weights=values[of], minlength=values.size)
            for of, to in ((relation.src, relation.dst), (relation.dst, relation.src))
        )
        return values + there + back
    of, to, end = (
        (relation.src, relation.dst, relation.target) if forward else (relation.dst, relation.src, relation.source)
    )
    # without edges NumPy counts in integers
    return np.bincount(to, weights=values[of], minlength=len(graph.nodes[end])).astype(np.float64)
