"""What closed forms that can be solved again without a few links have in common: their relations of items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_of
from relrank.models.core.relation_rows import FEW_ITEMS, RowsAfterRemoval, unit_relation_rows


class LinkUpdate:
    """The weighted relations of a model that describe items, and their rows without some links.

    Args:
        graph: of the model.
        active_relations: relations that describe items, with their weights, all above 0.

    Attributes:
        weights: by relation.
        rows: unit rows by relation.
    """

    def __init__(self, graph: Graph, active_relations: Iterable[tuple[Relation, float]]) -> None:
        active = list(active_relations)
        self._graph = graph
        self.weights = {r.name: w for r, w in active}
        self.rows = {r.name: unit_relation_rows(graph, r) for r, _ in active}
        self._without = RowsAfterRemoval(graph, {r.name: chain_of(graph, r) for r, _ in active})

    def supports(self, cut: EdgeRemoval) -> bool:
        """Whether only few rows of items change, so that scores can be had without solving all again.

        Where a relation within the items has weights above 1, its rows are scaled by the largest, which may be
        removed. A link that touches no item is in the rows of all items whose chain leads there.
        """
        if cut.relation is None:
            return True
        graph = self._graph
        relation = graph.relations[cut.relation]
        if graph.item not in (relation.source, relation.target):
            return not relation.undirected and 0 < self._without.items(cut).size <= FEW_ITEMS
        if not relation.undirected or not len(relation) or relation.weight.max() <= 1:
            return True
        removed = {(min(link), max(link)) for link in cut.links}
        largest = np.flatnonzero(relation.weight == relation.weight.max())
        return any((int(relation.src[at]), int(relation.dst[at])) not in removed for at in largest)
