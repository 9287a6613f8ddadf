"""Relations that touch neither users nor items, composed along the chain of relations that leads there.

An author → country relation says something of items through item → author. Walked along the shortest chain it becomes
a relation item → country of the same name, each step in shares of a row: an item of two authors has half of the
country of each. A model of direct relations that reads ``composed_graph`` instead of the graph reads such relations,
too. Networks that pass messages need no composition: they walk the chain by themselves, a layer per step
(``within_layers``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary, ref

import numpy as np

from relrank.graph.graph import Graph, Relation
from relrank.kernels.csr import Csr

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
    return next((end for end in (graph.item, graph.user) if chain_to(graph, relation, end) is not None), None)


def led_to(graph: Graph) -> tuple[str, ...]:
    """Names of the relations that touch users or items, and of those that a chain of relations leads to."""
    return tuple(name for name, relation in graph.relations.items() if end_of(graph, relation) is not None)


def touches_items(graph: Graph, relation: Relation) -> bool:
    """Whether a relation links items with anything, or a chain of relations leads there from items."""
    return graph.item in (relation.source, relation.target) or end_of(graph, relation) == graph.item


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
    frontier: list[tuple[str, Chain]] = [(end, ())]
    visited = {end}
    while frontier:
        reached: list[tuple[str, Chain]] = []
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


def chain_of(graph: Graph, relation: Relation) -> Chain:
    """The relations that ``composed`` walks, in order; the relation alone where it touches users or items.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    end = end_of(graph, relation)
    if end is None:
        raise ValueError(f"relation {relation.name!r} leads to neither users nor items")
    direct: Chain = ((relation, relation.source == end),)
    return direct if _direct_end(graph, relation) is not None else chain_to(graph, relation, end) or direct


def hops(graph: Graph) -> dict[str, tuple[str, ...]]:
    """By relation the names of those that a chain passes before it: () where it is direct or nothing leads there."""
    return {
        name: tuple(link.name for link, _ in chain_of(graph, r)[:-1]) if end_of(graph, r) is not None else ()
        for name, r in graph.relations.items()
    }


def stops(graph: Graph, relation: Relation) -> tuple[str, ...]:
    """The node types on the chain to a relation, from users or items to its far end; its own two if it is direct."""
    if _direct_end(graph, relation) is not None or end_of(graph, relation) is None:
        return relation.source, relation.target
    chain = chain_of(graph, relation)
    first, ahead = chain[0]
    return first.source if ahead else first.target, *(r.target if on else r.source for r, on in chain)


def first_step(graph: Graph, chain: Chain) -> Csr:
    """Weights of the first relation of a chain, by the nodes where it starts."""
    return step(graph, *chain[0])


def along(graph: Graph, chain: Chain, rows: Csr) -> Csr:
    """Rows of the first step, all or some, composed with the rest of the chain."""
    if len(chain) > 1:
        rows = rows.shares()
    for link, ahead in chain[1:]:
        rows = product(rows, step(graph, link, ahead).shares())
    return rows


def with_own(rows: Csr) -> Csr:
    """A relation within one type, in weights up to 1, with each node as its own neighbour of weight 1."""
    own = np.arange(rows.n_rows, dtype=np.int32)
    row, col = np.concatenate([rows.rows(), own]), np.concatenate([rows.indices, own])
    data = np.concatenate([rows.data / rows.data.max(initial=1.0), np.ones(own.size, np.float32)])
    return Csr.from_pairs(row, col, (own.size, own.size), data)


def step(graph: Graph, relation: Relation, forward: bool) -> Csr:
    """Weights of a relation by the nodes of the end where a step along it starts, each node its own in one type."""
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if relation.undirected:
        return with_own(rows)
    return rows if forward else rows.transpose()


_COMPOSED: WeakKeyDictionary[Relation, tuple[tuple[ref[Relation], ...], int, Relation]] = WeakKeyDictionary()


def composed(graph: Graph, relation: Relation) -> Relation:
    """The relation itself where it touches users or items; else users or items → its far end, of the same name.

    The same object comes back as long as the relations of the chain are the same.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    chain = chain_of(graph, relation)
    if len(chain) == 1:
        return relation
    first, ahead = chain[0]
    end, links = first.source if ahead else first.target, tuple(ref(link) for link, _ in chain[:-1])
    known = _COMPOSED.get(relation)
    if known is not None and known[0] == links and known[1] == len(graph.nodes[end]):
        return known[2]
    rows = along(graph, chain, first_step(graph, chain))
    there = rows.data > 0  # a tiny share may have become 0
    far = relation.target if chain[-1][1] else relation.source
    row, col, data = rows.rows()[there].astype(np.int32), rows.indices[there], rows.data[there]
    made = Relation(relation.name, end, far, row, col, data)
    _COMPOSED[relation] = links, len(graph.nodes[end]), made
    return made


def composed_graph(graph: Graph) -> Graph:
    """The graph with every relation ``composed``, less those that lead to neither users nor items."""
    relations = {name: composed(graph, graph.relations[name]) for name in led_to(graph)}
    if relations.keys() == graph.relations.keys() and all(relations[n] is r for n, r in graph.relations.items()):
        return graph
    return replace(graph, relations=relations)


def within_layers(
    graph: Graph, relations: Mapping[str, Relation], ends: Collection[str], layers: int
) -> tuple[str, ...]:
    """Relations whose messages reach a node type within some layers of message passing.

    A message crosses a relation in one layer, and from there needs one more for every relation on its way.

    Args:
        graph: its order is that of the names.
        relations: along which messages pass.
        ends: node types that are scored.
        layers: messages in a row.
    """
    near, read = set(ends), set[str]()
    for _ in range(layers):
        crossed = {name for name, r in relations.items() if near & {r.source, r.target}}
        if crossed <= read:
            break
        read |= crossed
        near |= {end for name in crossed for end in (relations[name].source, relations[name].target)}
    return tuple(name for name in graph.relations if name in read)


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
