"""Relational item-kNN: shrunk cosine similarity over users and relations, k nearest items.

    Z = [X; √w_r R_rᵀ],      w_ij = z_i · z_j / (|z_i| |z_j| + s),      scores = X W

R_r has the items' rows of relation r, each of Euclidean length 1. At ``w_r = 1``, items with equal rows look as if
one more user had chosen both. In a relation within one node type each node is also its own neighbour, with weight 1.
A relation that does not touch items is composed along the shortest chain of relations that leads to them. Relations
of users are not used. Without relations this is item-kNN, bit for bit.

Item-kNN: Sarwar et al. 2001; shrinkage: Bell & Koren 2007; one cosine over interactions and content: Mobasher et al.
2004, "Semantically Enhanced Collaborative Filtering on the Web", as ItemKNN-CFCBF in Ferrari Dacrema et al. 2021, "A
Troubling Analysis of Reproducibility and Progress in Recommender Systems Research".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import described_type
from relrank.kernels.csr import Csr
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.models.core import estimates
from relrank.models.core.base import GridParameter
from relrank.models.core.estimates import Estimate, largest_products_estimate
from relrank.models.core.hyperparameters import NonNegative, Weights
from relrank.models.core.relation_rows import WEIGHTS, active_relations, entry_counts, stacked, unit_relation_rows


@dataclass(frozen=True, slots=True)
class RelationalItemKNNConfig(ItemKNNConfig):
    """Hyper-parameters of relational item-kNN."""

    weight: NonNegative = 1.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 excludes the relation."""


class RelationalItemKNN(ItemKNN):
    """Scores are sums of similarities to the items of the history, over users and relations."""

    name = "relational-item-knn"
    Config = RelationalItemKNNConfig
    relational = True

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Those of item-kNN, then the weight of every used relation."""
        weights = (
            GridParameter(f"weights.{name}", WEIGHTS, 0.0, "weights") for name in cls.used_relations(graph, None)
        )
        return *super().grid_parameters(graph), *weights

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """Item-kNN on Z; see ``largest_products_estimate``.

        Z is held by columns and by rows, with the squares of its entries. While it is sorted, row, column and value
        of each entry are held twice, and its position. The relations' rows are cached.
        """
        used = (graph.relations[name] for name in cls.used_relations(graph, config))
        below = [entry_counts(graph, r) for r in used if config.weights.get(r.name, config.weight)]
        if not below:
            return super().estimate(graph, config)
        estimate = largest_products_estimate(graph, int(config.neighbours), copies=2, below=below)
        of_relations = sum(int(entries.sum()) for entries, _ in below)
        sorting = 40 * (len(graph.interactions) + of_relations)
        return replace(estimate, bytes=max(estimate.bytes, sorting) + estimates.sparse(of_relations))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch items, directly or through a chain of relations."""
        del config
        return tuple(sorted(r.name for r in graph.relations.values() if described_type(graph, r) == graph.item))

    def active_relations(self) -> list[tuple[Relation, float]]:
        """Relations of items, with weights above 0."""
        return active_relations(self.graph, self.graph.item, self.config)

    def columns_and_rows(self) -> tuple[Csr, Csr]:
        """Z by columns, CSR [n_items, n_users + n_pseudo_users], and by rows."""
        parts = [(unit_relation_rows(self.graph, relation), weight) for relation, weight in self.active_relations()]
        return stacked(self.history, parts) if parts else super().columns_and_rows()
