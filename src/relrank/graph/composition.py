"""Composition of relations that touch neither users nor items with the chain of relations that leads there.

Composed with its chain, author → country becomes a relation item → country of the same name. Rows of each step sum
to 1: an item of two authors is linked with the country of each by a weight of ½. A model of direct relations can use
such relations through ``compose_graph``.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, ref

import numpy as np

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import Chain, chain_of, reachable_relations
from relrank.kernels.csr import Csr


def first_step(graph: Graph, chain: Chain) -> Csr:
    """Weights of the first relation of a chain, by the nodes where it starts."""
    return step(graph, *chain[0])


def along(graph: Graph, chain: Chain, rows: Csr) -> Csr:
    """Rows of the first step, all or some, multiplied with the remaining steps of the chain."""
    if len(chain) > 1:
        rows = rows.shares()
    for link, ahead in chain[1:]:
        rows = product(rows, step(graph, link, ahead).shares())
    return rows


def with_self_loops(rows: Csr) -> Csr:
    """A relation within one type, scaled to weights up to 1, with self-loops of weight 1."""
    own = np.arange(rows.n_rows, dtype=np.int32)
    row, col = np.concatenate([rows.rows(), own]), np.concatenate([rows.indices, own])
    data = np.concatenate([rows.data / rows.data.max(initial=1.0), np.ones(own.size, np.float32)])
    return Csr.from_pairs(row, col, (own.size, own.size), data)


def step(graph: Graph, relation: Relation, forward: bool) -> Csr:
    """Weights of a relation by the nodes where a step along it starts; within one type with self-loops."""
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if relation.undirected:
        return with_self_loops(rows)
    return rows if forward else rows.transpose()


_COMPOSED: WeakKeyDictionary[Relation, tuple[tuple[ref[Relation], ...], int, Relation]] = WeakKeyDictionary()


def compose_relation(graph: Graph, relation: Relation) -> Relation:
    """A relation that touches users or items itself; any other as users or items → its far end, of the same name.

    The result is cached: the same relations of the chain give the same object.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    chain = chain_of(graph, relation)
    if len(chain) == 1:
        return relation
    first, ahead = chain[0]
    end, links = first.source if ahead else first.target, tuple(ref(link) for link, _ in chain[:-1])
    cached = _COMPOSED.get(relation)
    if cached is not None and cached[:2] == (links, len(graph.nodes[end])):
        return cached[2]
    rows = along(graph, chain, first_step(graph, chain))
    positive = rows.data > 0  # a tiny share may have become 0
    far = relation.target if chain[-1][1] else relation.source
    row, col, data = rows.rows()[positive].astype(np.int32), rows.indices[positive], rows.data[positive]
    composed = Relation(relation.name, end, far, row, col, data)
    _COMPOSED[relation] = links, len(graph.nodes[end]), composed
    return composed


def compose_graph(graph: Graph) -> Graph:
    """The graph with composed relations, without those that lead to neither users nor items."""
    relations = {name: compose_relation(graph, graph.relations[name]) for name in reachable_relations(graph)}
    if relations.keys() == graph.relations.keys() and all(relations[n] is r for n, r in graph.relations.items()):
        return graph
    return graph.with_relations(relations)


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
