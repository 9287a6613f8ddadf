"""Paths between two items over the relations that a model uses, with their weights.

A path from item j to item i through a relation runs over a node t that both are linked with, or directly where the
relation links items with items. Through a relation that touches no item it runs along the chain that leads there, to
a node that both items reach, and back along the chain. Its weight is the product of its normalised edges times the
relation's weight. For relational EASE, sparse EASE and relational item-kNN these are the terms of the Gram matrix:
``w R_jt R_it`` with unit rows R, and co-counts of interactions (for sparse EASE weighted by user). For other models
they are products of ``D^-1/2 W D^-1/2``.
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
"""Most ways along a chain from an item to a node that are followed."""
INTERACTIONS = "interactions"
"""The relation's name in paths through other users who chose both items."""


@dataclass(frozen=True, slots=True)
class ItemPath:
    """A path from an item of a history to another item.

    Attributes:
        via: item row of the history.
        relation: name, or ``"interactions"``.
        through: nodes in between as (type, row); () for a direct link and for interactions. Along a chain: the nodes
            of the way there, the far node in the middle, the nodes of the way back.
        end: item row at the other end.
    """

    via: int
    relation: str
    through: tuple[tuple[str, int], ...]
    end: int

    @property
    def cut(self) -> EdgeRemoval:
        """The links of the relation on the path."""
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
    """Links of the items in one relation.

    Attributes:
        relation: name.
        node: node type at the other end.
        rows: normalised weights, [n_items, n_nodes].
        weight: of the relation.
        within: whether ``node`` is the item type.
        steps: along a chain, the node type that each step leads to and the step's row shares; ``rows`` are then those
            of the far end.
    """

    relation: str
    node: str
    rows: Csr
    weight: float
    within: bool
    steps: tuple[tuple[str, Csr], ...] = ()

    def of(self, item: int) -> tuple[Int32, Float64]:
        """Neighbours and values."""
        part = slice(self.rows.indptr[item], self.rows.indptr[item + 1])
        return self.rows.indices[part], self.rows.data[part].astype(np.float64)

    def ways(self, item: int, node: int) -> list[tuple[tuple[tuple[str, int], ...], float]]:
        """Nodes between an item and a node of the far end, with the way's share of all ways; the ``WAYS`` largest."""
        ways: list[tuple[tuple[tuple[str, int], ...], int, float]] = [((), item, 1.0)]
        for number, (kind, rows) in enumerate(self.steps):
            longer = []
            for passed, current, share in ways:
                part = slice(rows.indptr[current], rows.indptr[current + 1])
                for other, value in zip(rows.indices[part].tolist(), rows.data[part].tolist(), strict=True):
                    if number + 1 < len(self.steps):
                        longer.append(((*passed, (kind, other)), other, share * value))
                    elif other == node:
                        longer.append((passed, other, share * value))
            ways = longer
        ways.sort(key=lambda way: (-way[2], way[0]))
        total = sum(share for _, _, share in ways)
        return [(passed, share / total) for passed, _, share in ways[:WAYS]]


class ItemPaths:
    """Paths between items over the relations that one model uses.

    Args:
        model: fitted.
        graph: the graph it was fitted on.
        link_update: holds the unit rows of relational EASE and sparse EASE; None for other models.

    Attributes:
        links: of the items, by relation.
    """

    def __init__(self, model: Recommender, graph: Graph, link_update: LowRankUpdate | LocalUpdate | None) -> None:
        self.graph = graph
        self._by_item = link_update.chosen if isinstance(link_update, LocalUpdate) else model.history.transpose()
        parts = _stacked_rows(model, graph, link_update)
        self._by_terms = parts is not None
        self.links = tuple(_links_of(model, graph) if parts is None else _links_of_rows(graph, parts))

    def between(self, via: int, end: int) -> list[tuple[ItemPath, float]]:
        """All paths with their weights; the path through the interactions is last, even if its weight is 0."""
        paths = []
        for links in self.links:
            (nodes, there), (others, back) = links.of(via), links.of(end)
            common, left, right = np.intersect1d(nodes, others, assume_unique=True, return_indices=True)
            values = links.weight * there[left] * back[right]
            direct = 0.0
            for node, value in zip(common.tolist(), values.tolist(), strict=True):
                if links.steps:
                    for outward, s in links.ways(via, node):
                        for inward, t in links.ways(end, node):
                            through = (*outward, (links.node, node), *reversed(inward))
                            paths.append((ItemPath(via, links.relation, through, end), value * s * t))
                elif links.within and node in (via, end):  # each item is its own neighbour
                    direct += value
                else:
                    paths.append((ItemPath(via, links.relation, ((links.node, node),), end), value))
            if direct:
                paths.append((ItemPath(via, links.relation, (), end), direct))
        return [*paths, (ItemPath(via, INTERACTIONS, (), end), self._chosen_together(via, end))]

    def _chosen_together(self, via: int, end: int) -> float:
        """Weight of the users of two items: terms of the Gram matrix, or products of normalised edges."""
        rows = self._by_item.take(np.array([via, end]))
        (one, other), (x, y) = (np.split(a, rows.indptr[1:2]) for a in (rows.indices, rows.data))
        _, left, right = np.intersect1d(one, other, assume_unique=True, return_indices=True)
        both = float(np.dot(x[left], y[right]))
        return both if self._by_terms or not both else both / float(np.linalg.norm(x) * np.linalg.norm(y))


def _stacked_rows(
    model: Recommender, graph: Graph, link_update: LowRankUpdate | LocalUpdate | None
) -> list[tuple[str, Csr, float]] | None:
    """Name, unit rows and weight of each relation that a model stacks with the interactions; None if it does not."""
    if link_update is not None:
        return [(name, link_update.rows[name], weight) for name, weight in link_update.weights.items()]
    if isinstance(model, RelationalItemKNN):
        return [
            (relation.name, unit_relation_rows(graph, relation), weight)
            for relation, weight in model.active_relations()
        ]
    return None


def _links_of_rows(graph: Graph, parts: Iterable[tuple[str, Csr, float]]) -> Iterator[ItemLinks]:
    """Links in unit rows; within the items each item is its own neighbour."""
    for name, rows, weight in parts:
        relation = graph.relations[name]
        if graph.item not in (relation.source, relation.target):
            yield from _along_a_chain(graph, relation, rows, weight)
            continue
        node = relation.target if relation.source == graph.item else relation.source
        yield ItemLinks(name, node, rows, weight, relation.undirected)


def _links_of(model: Recommender, graph: Graph) -> Iterator[ItemLinks]:
    """Normalised links of the relations that affect scores; within the items each item is its own neighbour."""
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
    """Composed rows with their steps; none for a relation within one type."""
    if relation.undirected:  # a step that stays at its node is no link, so it cannot be deleted
        return
    chain = chain_of(graph, relation)
    steps = tuple((r.target if on else r.source, step(graph, r, on).shares()) for r, on in chain)
    yield ItemLinks(relation.name, steps[-1][0], rows, weight, False, steps)
