"""A graph without a few of its edges, for counterfactuals."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_to


class EdgeRemoval(NamedTuple):
    """Links of a relation to remove.

    Attributes:
        relation: its name; None removes nothing.
        links: pairs (item row, row of the other end); within the items each pair once, in either order. For a
            relation that touches no item, pairs (row of the end that is nearer to the items, row of the other end).
    """

    relation: str | None
    links: tuple[tuple[int, int], ...]


def without_user_edges(graph: Graph, user: int, item: int | None = None) -> Graph:
    """The same graph without a user's edge to an item, or without all edges of the user.

    Raises:
        ValueError: the edge does not exist.
    """
    edges = graph.interactions
    removed = edges.src == user
    if item is not None:
        removed &= edges.dst == item
    if not removed.any():
        raise ValueError(f"user row {user} has no edge to item row {item}")
    places, events = graph.places, graph.events
    if places is not None:
        earlier = np.searchsorted(np.sort(places[removed]), places)
        places = np.where(edges.src == user, places - earlier, places)[~removed].astype(np.int32)
    if events is not None:
        events = (np.cumsum(~removed, dtype=np.int32) - np.int32(1))[events[~removed[events]]]
    return replace(graph, interactions=edges.where(~removed), places=places, events=events)


def without_links(graph: Graph, cut: EdgeRemoval) -> Graph:
    """The same graph without the links of a removal; the graph itself if there are none.

    Raises:
        ValueError: a link does not exist.
    """
    if cut.relation is None:
        return graph
    relation = graph.relation(cut.relation)
    src, dst = relation.src.astype(np.int64), relation.dst.astype(np.int64)
    one, other = np.array(cut.links, np.int64).T
    if relation.undirected:
        one, other = np.minimum(one, other), np.maximum(one, other)
    elif not _from_items(graph, relation):
        src, dst = dst, src
    removed = np.isin(src << 32 | dst, one << 32 | other)
    if removed.sum() != np.unique(one << 32 | other).size:
        raise ValueError(f"relation {cut.relation!r} lacks one of the links {cut.links}")
    return graph.with_relations({**graph.relations, cut.relation: relation.where(~removed)})


def _from_items(graph: Graph, relation: Relation) -> bool:
    """Whether a relation's source is the end nearer to the items."""
    if graph.item in (relation.source, relation.target):
        return relation.source == graph.item
    chain = chain_to(graph, relation, graph.item)
    return chain is None or chain[-1][1]
