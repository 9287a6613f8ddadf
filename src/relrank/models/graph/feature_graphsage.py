"""GraphSAGE that reads node features, and in training leaves out own vectors so that features learn to stand alone.

A new item is what its features and relations say, a new user what the history, and perhaps features, say.
"""

from __future__ import annotations

from dataclasses import dataclass

from relrank.graph.graph import Graph
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import DropFraction
from relrank.models.core.space import Choice, Range
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig


@dataclass(frozen=True, slots=True)
class FeatureGraphSAGEConfig(GraphSAGEConfig):
    """Hyper-parameters of GraphSAGE with features."""

    features: bool = True
    own_dropout: DropFraction = 0.1


class FeatureGraphSAGE(GraphSAGE):
    """Means of neighbours, over features."""

    name = "graphsage-features"
    Config = FeatureGraphSAGEConfig

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """As GraphSAGE's; the share of own vectors left out."""
        return *super().space(graph), GridParameter("own_dropout", (0.0, 0.1, 0.2, 0.4), 0.1)
