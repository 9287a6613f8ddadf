"""Chains of relations: how users and items are led to relations that touch neither.

An author → country relation says something of items through item → author. The chain to it is the shortest one;
``composition`` walks it. Networks that pass messages need no composition: they walk the chain by themselves, a layer
per step (``within_layers``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from relrank.graph.relation import Relation


class Relations(Protocol):
    """What is read of a graph: its relations, and the types of users and items."""

    @property
    def user(self) -> str:
        """Node type of the users."""

    @property
    def item(self) -> str:
        """Node type of the items."""

    @property
    def relations(self) -> Mapping[str, Relation]:
        """All but the interactions, by name."""


Chain = tuple[tuple[Relation, bool], ...]
"""Relations in order, each with whether it is walked from source to target."""


def described_type(graph: Relations, relation: Relation) -> str | None:
    """The node type that a relation says something of: items, users, or None.

    Items where it links any, else users; where it touches neither, whichever a chain leads there from, items first.
    A second relation user → item is one of users: what else a user did.
    """
    direct = _direct_end(graph, relation)
    if direct is not None:
        return direct
    return next((end for end in (graph.item, graph.user) if chain_to(graph, relation, end) is not None), None)


def reachable_relations(graph: Relations) -> tuple[str, ...]:
    """Names of the relations that touch users or items, and of those that a chain of relations leads to."""
    return tuple(name for name, relation in graph.relations.items() if described_type(graph, relation) is not None)


def touches_items(graph: Relations, relation: Relation) -> bool:
    """Whether a relation links items with anything, or a chain of relations leads there from items."""
    return graph.item in (relation.source, relation.target) or described_type(graph, relation) == graph.item


def _direct_end(graph: Relations, relation: Relation) -> str | None:
    ends = (relation.source, relation.target)
    if graph.item in ends and ends != (graph.user, graph.item):
        return graph.item
    return graph.user if graph.user in ends else None


def chain_to(graph: Relations, relation: Relation, end: str) -> Chain | None:
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


def chain_of(graph: Relations, relation: Relation) -> Chain:
    """The relations that ``compose_relation`` walks, in order; the relation alone where it touches users or items.

    Raises:
        ValueError: the relation leads to neither users nor items.
    """
    end = described_type(graph, relation)
    if end is None:
        raise ValueError(f"relation {relation.name!r} leads to neither users nor items")
    direct: Chain = ((relation, relation.source == end),)
    return direct if _direct_end(graph, relation) is not None else chain_to(graph, relation, end) or direct


def hops(graph: Relations) -> dict[str, tuple[str, ...]]:
    """By relation the names of those that a chain passes before it: () where it is direct or nothing leads there."""
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
