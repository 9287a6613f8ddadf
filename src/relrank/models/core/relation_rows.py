"""Relations as rows: the neighbours of each item or user, composed along a chain where a relation touches neither.

Shared by the closed forms that stack relations with the interactions, and by the explanations that remove links.
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
from relrank.kernels.csr import Csr, Float32, Float64, Int32, Int64
from relrank.kernels.dense_solve import unit_rows

WEIGHTS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of a relation that tuning tries."""
FEW_ITEMS = 256
"""If removed links affect more items than this, the model is solved again instead of updated."""


def active_relations(graph: Graph, end: str, config: Any) -> list[tuple[Relation, float]]:
    """Relations that describe nodes of type ``end``, with weights above 0.

    Args:
        graph: has the relations.
        end: node type of users or items.
        config: ``weights`` per relation, and ``weight``, the default.
    """
    pairs = []
    for name, relation in sorted(graph.relations.items()):  # the same order of sums on every arm
        weight = float(config.weights.get(name, config.weight))
        if weight and described_type(graph, relation) == end:
            pairs.append((relation, weight))
    return pairs


_ROWS: WeakKeyDictionary[Relation, Csr] = WeakKeyDictionary()


def unit_relation_rows(graph: Graph, relation: Relation) -> Csr:
    """A relation's rows of its ``described_type``, scaled to Euclidean length 1: CSR [n_nodes, n_others].

    Within one node type each node is also its own neighbour, with weight 1. A relation that touches neither users nor
    items is composed first. The result is cached while the relations of the chain are the same.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    direct, end = compose_relation(graph, relation), described_type(graph, relation)
    shape = len(graph.nodes[direct.source]), len(graph.nodes[direct.target])
    n_rows, n_cols = shape if direct.source == end else shape[::-1]
    cached = _ROWS.get(direct)
    if cached is not None and (cached.n_rows, cached.n_cols) == (n_rows, n_cols):
        return cached
    rows = direct.csr(*shape)
    if direct.undirected:
        rows = with_self_loops(rows)
    rows = unit_rows(rows if direct.source == end else rows.transpose())
    _ROWS[direct] = rows
    return rows


class RowsAfterRemoval:
    """Unit rows of items after some links are removed, for every relation whose chain uses them.

    Args:
        graph: has the relations.
        chains: of the relations that describe items, by name (``chain_of``).
    """

    def __init__(self, graph: Graph, chains: Mapping[str, Chain]) -> None:
        self._graph, self._chains = graph, chains
        self._steps: dict[tuple[str, bool], Csr] = {}

    def affected(self, relation: str) -> dict[str, Chain]:
        """Relations whose chain includes this one, with their chains."""
        return {n: chain for n, chain in self._chains.items() if any(r.name == relation for r, _ in chain)}

    def items(self, cut: EdgeRemoval) -> Int64:
        """Item rows from which a chain reaches the removed links, ascending."""
        assert cut.relation is not None
        items = [np.zeros(0, np.int64)]
        for chain in self.affected(cut.relation).values():
            nodes = np.array(sorted(self._removed(cut)), np.int64)
            position = next(at for at, (link, _) in enumerate(chain) if link.name == cut.relation)
            for link, ahead in reversed(chain[:position]):
                nodes = np.unique(self._step(link, not ahead).take(nodes).indices)
            items.append(nodes.astype(np.int64))
        return np.unique(np.concatenate(items))

    def rows(self, cut: EdgeRemoval, items: Int64) -> dict[str, Csr]:
        """Rows of some items without the removed links, per relation: CSR [items.size, n_others]."""
        assert cut.relation is not None
        return {name: self._along(chain, cut, items) for name, chain in self.affected(cut.relation).items()}

    def _along(self, chain: Chain, cut: EdgeRemoval, items: Int64) -> Csr:
        link, ahead = chain[0]
        rows = self._step(link, ahead).take(items)
        if link.name == cut.relation:
            rows = _without(rows, items, self._removed(cut))
        if len(chain) > 1:
            rows = rows.shares()
        for link, ahead in chain[1:]:
            far = self._step(link, ahead)
            if link.name == cut.relation:
                far = _without(far, np.arange(far.n_rows), self._removed(cut))
            rows = product(rows, far.shares())
        return unit_rows(rows)

    def _step(self, relation: Relation, ahead: bool) -> Csr:
        key = relation.name, ahead
        if key not in self._steps:
            self._steps[key] = step(self._graph, relation, ahead)
        return self._steps[key]

    def _removed(self, cut: EdgeRemoval) -> dict[int, set[int]]:
        """Removed neighbours of every node at which a removed link starts."""
        assert cut.relation is not None
        removed = dict[int, set[int]]()
        for source, target in cut.links:
            removed.setdefault(source, set()).add(target)
            if self._graph.relations[cut.relation].undirected:
                removed.setdefault(target, set()).add(source)
        return removed


def _without(rows: Csr, nodes: Int64, removed: Mapping[int, set[int]]) -> Csr:
    """Rows of some nodes, ascending, without the removed entries."""
    kept = np.ones(rows.nnz, np.bool_)
    for at in np.flatnonzero(np.isin(nodes, list(removed))).tolist():
        part = slice(rows.indptr[at], rows.indptr[at + 1])
        kept[part] = ~np.isin(rows.indices[part], list(removed[int(nodes[at])]))
    return Csr.from_pairs(rows.rows()[kept], rows.indices[kept], (rows.n_rows, rows.n_cols), rows.data[kept])


def side_by_side(parts: Sequence[tuple[Csr, float]], n_rows: int) -> Csr:
    """``[√w₁ U₁, √w₂ U₂, …]`` of parts (U, w), each with ``n_rows`` rows."""
    row, col, data, width = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)], 0
    for rows, weight in parts:
        row.append(rows.rows())
        col.append(rows.indices + np.int32(width))
        data.append(rows.data * np.float32(np.sqrt(weight)))
        width += rows.n_cols
    return Csr.from_pairs(np.concatenate(row), np.concatenate(col), (n_rows, width), np.concatenate(data))


def append_columns(rows: Csr, more: Csr | None) -> Csr:
    """``[rows, more]``; ``rows`` itself without more columns."""
    if more is None:
        return rows
    row = np.concatenate([rows.rows(), more.rows()])
    col = np.concatenate([rows.indices, more.indices + rows.n_cols])
    data = np.concatenate([rows.data, more.data])
    return Csr.from_pairs(row, col, (rows.n_rows, rows.n_cols + more.n_cols), data)


def user_columns(graph: Graph, config: Any) -> Csr | None:
    """``√w U`` of all active relations of users side by side, [n_users, n_pseudo_items]; None without any."""
    parts = [(unit_relation_rows(graph, r), w) for r, w in active_relations(graph, graph.user, config)]
    return side_by_side(parts, graph.n_users) if parts else None


def row_entries(matrix: Csr | None, row: int) -> tuple[Int32, Float32]:
    """Columns and values of one row; none if there is no matrix."""
    if matrix is None:
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    part = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[part], matrix.data[part]


def stacked(rows: Csr, parts: Sequence[tuple[Csr, float]]) -> tuple[Csr, Csr]:
    """Z = ``[rows; √w₁ U₁ᵀ; √w₂ U₂ᵀ; …]``.

    Args:
        rows: [n, n_columns].
        parts: pairs of U, CSR [at most n_columns, n_others], and weight w.

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
    """Upper bounds of the entries of ``unit_relation_rows`` and of their co-occurrences, from the edges alone.

    Paths along a chain are counted one by one, although several may lead to the same node.

    Returns:
        Entries per column, float64 [n_others], and co-occurrences of every node of the ``described_type`` with
        others, summed over its columns, float64 [n_nodes].

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    chain = chain_of(graph, relation)
    first, ahead = chain[0]
    n = len(graph.nodes[first.source if ahead else first.target])
    paths = np.ones(n)
    for link, ahead in chain:
        paths = _propagate(graph, link, ahead, paths)
    entries = np.minimum(paths, n)
    others = np.maximum(entries - 1, 0)
    for link, ahead in reversed(chain):
        others = _propagate(graph, link, not ahead, others)
    return entries, others


def _propagate(graph: Graph, relation: Relation, forward: bool, values: Float64) -> Float64:
    """Sums of values over the neighbours; within one type each node is its own neighbour, too."""
    src, dst, end = relation.src, relation.dst, relation.target
    if relation.undirected:
        forth, back = (
            np.bincount(to, weights=values[of], minlength=values.size) for of, to in ((src, dst), (dst, src))
        )
        return values + forth + back
    if not forward:
        src, dst, end = dst, src, relation.source
    # without edges NumPy counts in integers
    return np.bincount(dst, weights=values[src], minlength=len(graph.nodes[end])).astype(np.float64)
