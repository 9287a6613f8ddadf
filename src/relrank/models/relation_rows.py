"""Relations as rows: what a relation says of each item or user, composed along its chain where it touches neither.

Shared by the closed forms that stack relations with the interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from relrank.csr import Csr, Float64
from relrank.graph.chains import chain_of, composed, end_of, with_own
from relrank.graph.graph import Graph, Relation
from relrank.models.base import check_range
from relrank.models.linear import unit_rows

WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of a relation that are tried."""


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


_ROWS: WeakKeyDictionary[Relation, Csr] = WeakKeyDictionary()


def rows_of(graph: Graph, relation: Relation) -> Csr:
    """What a relation says of each node of its ``end_of``: rows of length 1, CSR [n_nodes, n_others].

    Within one type each node is its own neighbour too, of weight 1. A relation that touches neither users nor items
    is ``composed``. The same object comes back as long as the chain's relations are the same.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    direct, end = composed(graph, relation), end_of(graph, relation)
    shape = len(graph.nodes[direct.source]), len(graph.nodes[direct.target])
    n_rows, n_cols = shape if direct.source == end else shape[::-1]
    known = _ROWS.get(direct)
    if known is not None and (known.n_rows, known.n_cols) == (n_rows, n_cols):
        return known
    rows = direct.csr(*shape)
    if direct.undirected:
        rows = with_own(rows)
    rows = unit_rows(rows if direct.source == end else rows.transpose())
    _ROWS[direct] = rows
    return rows


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
