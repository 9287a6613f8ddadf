"""GraphSAGE with node features, which drops free vectors in training so that features also work without them.

New items are represented by their features and relations, new users by their history.
"""

from __future__ import annotations

from dataclasses import dataclass

from relrank.graph.graph import Graph
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import DropFraction
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig


@dataclass(frozen=True, slots=True)
class FeatureGraphSAGEConfig(GraphSAGEConfig):
    """Hyper-parameters of GraphSAGE with features."""

    features: bool = True
    own_dropout: DropFraction = 0.1


class FeatureGraphSAGE(GraphSAGE):
    """GraphSAGE with node features."""

    name = "graphsage-features"
    Config = FeatureGraphSAGEConfig

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of GraphSAGE, and the dropout of free vectors."""
        return *super().space(graph), GridParameter("own_dropout", (0.0, 0.1, 0.2, 0.4), 0.1)
