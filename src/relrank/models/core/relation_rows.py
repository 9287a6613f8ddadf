"""Relations as rows: what a relation says of each item or user, composed along its chain where it touches neither.

Shared by the closed forms that stack relations with the interactions, and by what solves them without a few links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from relrank.graph.composition import compose_relation, product, step, with_self_loops
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import Chain, chain_of, described_type
from relrank.kernels.csr import Csr, Float64, Int64
from relrank.kernels.dense_solve import unit_rows

WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of a relation that are tried."""
FEW_ITEMS = 256
"""Links that lead to more items than this are not taken out of a solution: what is left is solved anew."""


def active_relations(graph: Graph, end: str, config: Any) -> list[tuple[Relation, float]]:
    """Relations that say something of nodes of type ``end``, and their weights above 0.

    Args:
        graph: has the relations.
        end: node type of users or items.
        config: ``weights`` by relation, and ``weight`` of those that it does not name.
    """
    pairs = []
    for name, relation in sorted(graph.relations.items()):  # sums in one order whatever the arm
        weight = float(config.weights.get(name, config.weight))
        if weight and described_type(graph, relation) == end:
            pairs.append((relation, weight))
    return pairs


_ROWS: WeakKeyDictionary[Relation, Csr] = WeakKeyDictionary()


def unit_relation_rows(graph: Graph, relation: Relation) -> Csr:
    """What a relation says of each node of its ``described_type``: rows of length 1, CSR [n_nodes, n_others].

    Within one type each node is its own neighbour too, of weight 1. A relation that touches neither users nor items
    is ``compose_relation``. The same object comes back as long as the chain's relations are the same.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    direct, end = compose_relation(graph, relation), described_type(graph, relation)
    shape = len(graph.nodes[direct.source]), len(graph.nodes[direct.target])
    n_rows, n_cols = shape if direct.source == end else shape[::-1]
    known = _ROWS.get(direct)
    if known is not None and (known.n_rows, known.n_cols) == (n_rows, n_cols):
        return known
    rows = direct.csr(*shape)
    if direct.undirected:
        rows = with_self_loops(rows)
    rows = unit_rows(rows if direct.source == end else rows.transpose())
    _ROWS[direct] = rows
    return rows


class RowsAfterRemoval:
    """Unit rows of items once some links are gone, for every relation whose chain passes them.

    Args:
        graph: has the relations.
        chains: of relations that say something of items, by name (``chain_of``).
    """

    def __init__(self, graph: Graph, chains: Mapping[str, Chain]) -> None:
        self._graph, self._chains = graph, chains
        self._steps: dict[tuple[str, bool], Csr] = {}

    def affected(self, relation: str) -> dict[str, Chain]:
        """Relations whose rows are made of this one, with their chains."""
        return {n: chain for n, chain in self._chains.items() if any(r.name == relation for r, _ in chain)}

    def items(self, cut: EdgeRemoval) -> Int64:
        """Rows of the items that lead to the links of a cut, ascending."""
        assert cut.relation is not None
        found = [np.zeros(0, np.int64)]
        for chain in self.affected(cut.relation).values():
            nodes = np.array(sorted(self._gone(cut)), np.int64)
            passed = next(at for at, (link, _) in enumerate(chain) if link.name == cut.relation)
            for link, ahead in reversed(chain[:passed]):
                nodes = np.unique(self._step(link, not ahead).take(nodes).indices)
            found.append(nodes.astype(np.int64))
        return np.unique(np.concatenate(found))

    def rows(self, cut: EdgeRemoval, items: Int64) -> dict[str, Csr]:
        """By relation the rows of some items without the links of a cut, CSR [items.size, n_others]."""
        assert cut.relation is not None
        return {name: self._along(chain, cut, items) for name, chain in self.affected(cut.relation).items()}

    def _along(self, chain: Chain, cut: EdgeRemoval, items: Int64) -> Csr:
        link, ahead = chain[0]
        rows = self._step(link, ahead).take(items)
        if link.name == cut.relation:
            rows = _without(rows, items, self._gone(cut))
        if len(chain) > 1:
            rows = rows.shares()
        for link, ahead in chain[1:]:
            far = self._step(link, ahead)
            if link.name == cut.relation:
                far = _without(far, np.arange(far.n_rows), self._gone(cut))
            rows = product(rows, far.shares())
        return unit_rows(rows)

    def _step(self, relation: Relation, ahead: bool) -> Csr:
        key = relation.name, ahead
        if key not in self._steps:
            self._steps[key] = step(self._graph, relation, ahead)
        return self._steps[key]

    def _gone(self, cut: EdgeRemoval) -> dict[int, set[int]]:
        """Links of a cut by the node where a step along them starts."""
        assert cut.relation is not None
        gone = dict[int, set[int]]()
        for one, other in cut.links:
            gone.setdefault(one, set()).add(other)
            if self._graph.relations[cut.relation].undirected:
                gone.setdefault(other, set()).add(one)
        return gone


def _without(rows: Csr, nodes: Int64, gone: Mapping[int, set[int]]) -> Csr:
    """Rows of some nodes, ascending, without the entries that are gone."""
    kept = np.ones(rows.nnz, np.bool_)
    for place in np.flatnonzero(np.isin(nodes, list(gone))).tolist():
        part = slice(rows.indptr[place], rows.indptr[place + 1])
        kept[part] = ~np.isin(rows.indices[part], list(gone[int(nodes[place])]))
    return Csr.from_pairs(rows.rows()[kept], rows.indices[kept], (rows.n_rows, rows.n_cols), rows.data[kept])


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


def entry_counts(graph: Graph, relation: Relation) -> tuple[Float64, Float64]:
    """How many entries ``unit_relation_rows`` has, and what they bring together, from the edges alone.

    Ways along a chain are counted one by one; where several lead to the same node, numbers are larger than what
    ``unit_relation_rows`` makes of them.

    Returns:
        Entries by column, float64 [n_others], and how often a node of the relation's ``described_type`` meets another
        one in its columns, float64 [n_nodes].

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
