"""A graph without a few of its edges: what a counterfactual is computed on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_to


class EdgeRemoval(NamedTuple):
    """Links of items that go.

    Attributes:
        relation: its name; None where no link goes.
        links: pairs (item row, row of the other end); within the items each pair once, in either order. Of a
            relation that touches no item, pairs (row of the end where its chain arrives, row of the other end).
    """

    relation: str | None
    links: tuple[tuple[int, int], ...]


def without_user_edges(graph: Graph, user: int, item: int | None = None) -> Graph:
    """The same graph less a user's edge to an item, or less all their edges.

    Raises:
        ValueError: there is no such edge.
    """
    edges = graph.interactions
    gone = edges.src == user
    if item is not None:
        gone &= edges.dst == item
    if not gone.any():
        raise ValueError(f"user row {user} has no edge to item row {item}")
    places, events = graph.places, graph.events
    if places is not None:
        earlier = np.searchsorted(np.sort(places[gone]), places)
        places = np.where(edges.src == user, places - earlier, places)[~gone].astype(np.int32)
    if events is not None:
        events = (np.cumsum(~gone, dtype=np.int32) - np.int32(1))[events[~gone[events]]]
    return replace(graph, interactions=edges.where(~gone), places=places, events=events)


def without_links(graph: Graph, cut: EdgeRemoval) -> Graph:
    """The same graph less the links of a cut; the graph itself where none goes.

    Raises:
        ValueError: a link is not there.
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
    gone = np.isin(src << 32 | dst, one << 32 | other)
    if gone.sum() != np.unique(one << 32 | other).size:
        raise ValueError(f"relation {cut.relation!r} lacks one of the links {cut.links}")
    return graph.with_relations({**graph.relations, cut.relation: relation.where(~gone)})


def _from_items(graph: Graph, relation: Relation) -> bool:
    """Whether a relation's source is the end nearer to the items."""
    if graph.item in (relation.source, relation.target):
        return relation.source == graph.item
    chain = chain_to(graph, relation, graph.item)
    return chain is None or chain[-1][1]
