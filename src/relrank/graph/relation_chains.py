"""Chains of relations, which connect users and items with relations that touch neither.

An author → country relation describes items through item → author. The shortest such chain is used; ``composition``
multiplies its steps. Message-passing networks need no composition: each layer takes one step of the chain
(``within_layers``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from relrank.graph.relation import Relation


class Relations(Protocol):
    """The part of a graph that is used here: its relations, and the types of users and items."""

    @property
    def user(self) -> str:
        """Node type of the users."""

    @property
    def item(self) -> str:
        """Node type of the items."""

    @property
    def relations(self) -> Mapping[str, Relation]:
        """Relations other than the interactions, by name."""


Chain = tuple[tuple[Relation, bool], ...]
"""Relations in order, each with True if it is followed from source to target."""


def described_type(graph: Relations, relation: Relation) -> str | None:
    """The node type that a relation describes: items, users, or None.

    A relation that links items describes items, otherwise users if it links these. A relation that touches neither
    describes the type from which a chain leads to it, items first. Other relations user → item describe users.
    """
    direct = _direct_end(graph, relation)
    if direct is not None:
        return direct
    return next((end for end in (graph.item, graph.user) if chain_to(graph, relation, end) is not None), None)


def reachable_relations(graph: Relations) -> tuple[str, ...]:
    """Names of the relations that touch users or items directly or along a chain."""
    return tuple(name for name, relation in graph.relations.items() if described_type(graph, relation) is not None)


def touches_items(graph: Relations, relation: Relation) -> bool:
    """Whether a relation touches items directly or along a chain."""
    return graph.item in (relation.source, relation.target) or described_type(graph, relation) == graph.item


def _direct_end(graph: Relations, relation: Relation) -> str | None:
    ends = (relation.source, relation.target)
    if graph.item in ends and ends != (graph.user, graph.item):
        return graph.item
    return graph.user if graph.user in ends else None


def chain_to(graph: Relations, relation: Relation, end: str) -> Chain | None:
    """The shortest chain of relations from a node type to a relation that does not touch it.

    Args:
        graph: the chain consists of its relations between two different node types.
        relation: the end of the chain.
        end: node type where the chain starts, that of users or items.

    Returns:
        The chain with ``relation`` last, among equally short ones the first by names; None if there is none.
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


def chain_of(graph: Relations, relation: Relation) -> Chain:
    """The chain that ``compose_relation`` multiplies; the relation alone if it touches users or items.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    end = described_type(graph, relation)
    if end is None:
        raise ValueError(f"relation {relation.name!r} leads to neither users nor items")
    direct: Chain = ((relation, relation.source == end),)
    return direct if _direct_end(graph, relation) is not None else chain_to(graph, relation, end) or direct


def hops(graph: Relations) -> dict[str, tuple[str, ...]]:
    """By relation the names of those before it in its chain; () if it is direct or there is no chain."""
    return {
        name: tuple(link.name for link, _ in chain_of(graph, r)[:-1]) if described_type(graph, r) is not None else ()
        for name, r in graph.relations.items()
    }


def chain_node_types(graph: Relations, relation: Relation) -> tuple[str, ...]:
    """The node types on the chain to a relation, from users or items to its far end; its own two if it is direct."""
    if _direct_end(graph, relation) is not None or described_type(graph, relation) is None:
        return relation.source, relation.target
    chain = chain_of(graph, relation)
    first, ahead = chain[0]
    return first.source if ahead else first.target, *(r.target if on else r.source for r, on in chain)


def within_layers(
    graph: Relations, relations: Mapping[str, Relation], ends: Collection[str], layers: int
) -> tuple[str, ...]:
    """Relations whose messages reach certain node types within a number of message-passing layers.

    A message crosses one relation per layer.

    Args:
        graph: names are returned in the order of its relations.
        relations: those that messages cross.
        ends: node types that are scored.
        layers: number of layers.
    """
    near, used = set(ends), set[str]()
    for _ in range(layers):
        crossed = {name for name, r in relations.items() if near & {r.source, r.target}}
        if crossed <= used:
            break
        used |= crossed
        near |= {end for name in crossed for end in (relations[name].source, relations[name].target)}
    return tuple(name for name in graph.relations if name in used)
