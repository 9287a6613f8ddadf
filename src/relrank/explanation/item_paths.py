"""Paths between two items, over the relations that a model reads and by the weights that it gives them.

A path from item j to item i through a relation runs over a node t that both are linked with, or directly where the
relation links items with items. Through a relation that touches no item it runs along the chain that leads there,
over a node that both reach, and back along the chain. Its weight is the product of its normalised edges times the
relation's weight: for relational EASE, sparse EASE and relational item-kNN the terms of the Gram matrix, ``w R_jt
R_it`` with unit rows R, beside co-counts of interactions (of sparse EASE weighted by user); for other models products
of ``D^-1/2 W D^-1/2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from relrank.explanation.local_update import LocalUpdate
from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.composition import compose_relation, step
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_of, described_type
from relrank.kernels.csr import Csr, Float64, Int32
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN
from relrank.models.core.base import Recommender
from relrank.models.core.relation_rows import unit_relation_rows

WAYS = 4
"""Of several ways along a chain from an item to a node, those that are followed."""
INTERACTIONS = "interactions"
"""What stands for a relation where a path runs through what other people chose."""


@dataclass(frozen=True, slots=True)
class ItemPath:
    """A path from an item of a history to another item.

    Attributes:
        via: item row of the history.
        relation: name, or ``"interactions"``.
        through: nodes in between as (type, row); () for a direct link and for interactions. Along a chain those of
            the way there, the far node in the middle, and those of the way back.
        end: item row at the other end.
    """

    via: int
    relation: str
    through: tuple[tuple[str, int], ...]
    end: int

    @property
    def cut(self) -> EdgeRemoval:
        """The links of the relation on it."""
        if self.relation == INTERACTIONS:
            return EdgeRemoval(None, ())
        if not self.through:
            return EdgeRemoval(self.relation, ((self.via, self.end),))
        middle = len(self.through) // 2
        rows = [self.via, *(row for _, row in self.through), self.end]
        node = rows[middle + 1]
        return EdgeRemoval(self.relation, tuple(dict.fromkeys(((rows[middle], node), (rows[middle + 2], node)))))


@dataclass(frozen=True, slots=True, eq=False)
class ItemLinks:
    """One relation from the items' side: [n_items, n nodes], normalised; its weight; whether ``node`` is the item."""

    relation: str
    node: str
    rows: Csr
    weight: float
    within: bool
    steps: tuple[tuple[str, Csr], ...] = ()
    """Along a chain, shares of every step and the type that it leads to; rows are then those of its far end."""

    def of(self, item: int) -> tuple[Int32, Float64]:
        """Neighbours and values."""
        part = slice(self.rows.indptr[item], self.rows.indptr[item + 1])
        return self.rows.indices[part], self.rows.data[part].astype(np.float64)

    def ways(self, item: int, node: int) -> list[tuple[tuple[tuple[str, int], ...], float]]:
        """What lies between an item and a node, with shares that add up to 1; the largest few alone."""
        found: list[tuple[tuple[tuple[str, int], ...], int, float]] = [((), item, 1.0)]
        for at, (kind, rows) in enumerate(self.steps):
            further = []
            for passed, place, share in found:
                part = slice(rows.indptr[place], rows.indptr[place + 1])
                for other, value in zip(rows.indices[part].tolist(), rows.data[part].tolist(), strict=True):
                    if at + 1 < len(self.steps):
                        further.append(((*passed, (kind, other)), other, share * value))
                    elif other == node:
                        further.append((passed, other, share * value))
            found = further
        found.sort(key=lambda way: (-way[2], way[0]))
        total = sum(share for _, _, share in found)
        return [(passed, share / total) for passed, _, share in found[:WAYS]]


class ItemPaths:
    """The paths of one model.

    Args:
        model: fitted.
        graph: what it was fitted on.
        link_update: the model's unit rows, if it is relational EASE or sparse EASE.
    """

    def __init__(self, model: Recommender, graph: Graph, link_update: LowRankUpdate | LocalUpdate | None) -> None:
        self.graph = graph
        self._by_item = link_update.chosen if isinstance(link_update, LocalUpdate) else model.history.transpose()
        parts = _stacked_rows(model, graph, link_update)
        self._by_terms = parts is not None
        self.links = tuple(_links_of(model, graph) if parts is None else _links_of_rows(graph, parts))

    def between(self, via: int, end: int) -> list[tuple[ItemPath, float]]:
        """All paths with their weights; the one through the interactions comes last, also where its weight is 0."""
        found = []
        for links in self.links:
            (nodes, there), (others, back) = links.of(via), links.of(end)
            common, left, right = np.intersect1d(nodes, others, assume_unique=True, return_indices=True)
            values = links.weight * there[left] * back[right]
            direct = 0.0
            for node, value in zip(common.tolist(), values.tolist(), strict=True):
                if links.steps:
                    found += [
                        (
                            ItemPath(via, links.relation, (*one, (links.node, node), *reversed(other)), end),
                            value * s * t,
                        )
                        for one, s in links.ways(via, node)
                        for other, t in links.ways(end, node)
                    ]
                elif links.within and node in (via, end):  # an item is its own neighbour, too
                    direct += value
                else:
                    found.append((ItemPath(via, links.relation, ((links.node, node),), end), value))
            if direct:
                found.append((ItemPath(via, links.relation, (), end), direct))
        return [*found, (ItemPath(via, INTERACTIONS, (), end), self._chosen_together(via, end))]

    def _chosen_together(self, via: int, end: int) -> float:
        """Weight of two items' users: terms of the Gram matrix, or products of normalised edges."""
        rows = self._by_item.take(np.array([via, end]))
        (one, other), (x, y) = (np.split(a, rows.indptr[1:2]) for a in (rows.indices, rows.data))
        _, left, right = np.intersect1d(one, other, assume_unique=True, return_indices=True)
        both = float(np.dot(x[left], y[right]))
        return both if self._by_terms or not both else both / float(np.linalg.norm(x) * np.linalg.norm(y))


def _stacked_rows(
    model: Recommender, graph: Graph, link_update: LowRankUpdate | LocalUpdate | None
) -> list[tuple[str, Csr, float]] | None:
    """Name, unit rows and weight of every relation of items that a model stacks with the interactions, if it does."""
    if link_update is not None:
        return [(name, link_update.rows[name], weight) for name, weight in link_update.weights.items()]
    if isinstance(model, RelationalItemKNN):
        return [
            (relation.name, unit_relation_rows(graph, relation), weight)
            for relation, weight in model.active_relations()
        ]
    return None


def _links_of_rows(graph: Graph, parts: Iterable[tuple[str, Csr, float]]) -> Iterator[ItemLinks]:
    """Unit rows; within the items they hold each item as its own neighbour."""
    for name, rows, weight in parts:
        relation = graph.relations[name]
        if graph.item not in (relation.source, relation.target):
            yield from _along_a_chain(graph, relation, rows, weight)
            continue
        node = relation.target if relation.source == graph.item else relation.source
        yield ItemLinks(name, node, rows, weight, relation.undirected)


def _links_of(model: Recommender, graph: Graph) -> Iterator[ItemLinks]:
    """Normalised edges of the items' relations that change scores; each item its own neighbour within."""
    learned = getattr(model, "relation_weights", {})
    named, default = getattr(model.config, "weights", {}), float(getattr(model.config, "weight", 1.0))
    for name in sorted(type(model).used_relations(graph, model.config)):
        relation = graph.relations[name]
        weight = float(learned.get(name, named.get(name, default)))
        if described_type(graph, relation) != graph.item and graph.item not in (relation.source, relation.target):
            continue
        if not weight > 0:
            continue
        if graph.item not in (relation.source, relation.target):
            direct = compose_relation(graph, relation)
            rows = normalise(direct.csr(graph.n_items, len(graph.nodes[direct.target])))
            yield from _along_a_chain(graph, relation, rows, weight)
            continue
        rows = normalise(relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target])))
        if relation.undirected:
            own = np.arange(rows.n_rows, dtype=np.int32)
            row, col = np.concatenate([rows.rows(), own]), np.concatenate([rows.indices, own])
            data = np.concatenate([rows.data, np.full(own.size, 0.5, np.float32)])  # direct: ½ Â_ji + Â_ij ½
            yield ItemLinks(name, graph.item, Csr.from_pairs(row, col, (own.size, own.size), data), weight, True)
        elif relation.source == graph.item:
            yield ItemLinks(name, relation.target, rows, weight, False)
        else:
            yield ItemLinks(name, relation.source, rows.transpose(), weight, False)


def _along_a_chain(graph: Graph, relation: Relation, rows: Csr, weight: float) -> Iterator[ItemLinks]:
    """Composed rows with the steps behind them; none where the last step stays at a node as often as it leaves."""
    chain = chain_of(graph, relation)
    if relation.undirected:  # to stay is no link, so that nothing on such a path could be deleted
        return
    steps = tuple((r.target if on else r.source, step(graph, r, on).shares()) for r, on in chain)
    yield ItemLinks(relation.name, steps[-1][0], rows, weight, False, steps)
