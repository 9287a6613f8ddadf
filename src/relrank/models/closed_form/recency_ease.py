"""Recency EASE: the item weights of relational EASE, applied to a history whose latest items count most.

    score(i) = Σ_{k < window} decay^k · B[s_{n−k}, i]

s_n is the latest item, and B are the weights of relational EASE, which know no order. At decay 1 and an unlimited
window a history is the row of relational EASE. Weighting a session's items by recency is taken from SLIST (Choi et
al. 2021, "Session-aware Linear Item-Item Models for Session-based Recommendation", there with ``exp(−k / δ)``). Where
interests move on, the decay matters more than λ; where order means nothing, decay 1 is best.

Relations of users are columns of the fit, as in relational EASE. A history is scored as that of a new user, who has
none. Interactions may have weights in the fit; in a history each item has weight 1 before the decay.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation_chains import reachable_relations
from relrank.kernels.dense_solve import rows_times_dense
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.core.base import ClosedForm, GridParameter, SequenceScorer, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Bounds, PositiveInt


@dataclass(frozen=True, slots=True)
class RecencyEASEConfig(RelationalEASEConfig):
    """Hyper-parameters of recency EASE, in addition to those of relational EASE."""

    decay: Annotated[float, Bounds(0, 1, above=True)] = 0.7
    """Weight of an item divided by that of the next one."""
    window: PositiveInt = 100
    """Latest items of a history that are read."""


class RecencyEASE(SequenceScorer, ClosedForm):
    """Relational EASE on histories weighted by recency; needs an order in time."""

    name = "recency-ease"
    Config = RecencyEASEConfig
    relational = True
    solution: ClassVar[Shapes] = {"item_weights": ("items", "items")}

    #: B, [n_items, n_items]
    item_weights: Tensor

    def __init__(self, graph: Graph, config: RecencyEASEConfig | None = None) -> None:
        super().__init__(graph, config)
        self.sequences = Sequences.from_graph(graph)

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The decay, then those of relational EASE."""
        return (
            GridParameter("decay", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), 0.7),
            *RelationalEASE.grid_parameters(graph),
        )

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Those of relational EASE."""
        del config
        return reachable_relations(graph)

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """That of relational EASE."""
        return RelationalEASE.estimate(graph, config)

    @classmethod
    def estimate_from(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """That of relational EASE."""
        return RelationalEASE.estimate_from(graph, whole, config)

    @classmethod
    def clear_cache(cls) -> None:
        """That of relational EASE."""
        RelationalEASE.clear_cache()

    def _unordered(self) -> RelationalEASE:
        shared = {f.name: getattr(self.config, f.name) for f in fields(RelationalEASEConfig)}
        return RelationalEASE(self.graph, RelationalEASEConfig(**shared))

    def solve(self) -> Self:
        """B of relational EASE, without the rows of pseudo-items; cached for trials of other decays and windows."""
        return self.solve_from(self.graph)

    def solve_from(self, whole: Graph) -> Self:
        """B from a cached solution on a graph with more relations, where relational EASE derives it from one."""
        self.item_weights = self._unordered().solve_from(whole).item_weights[: self.graph.n_items]
        return self

    def score_sequences(self, histories: Sequences) -> Tensor:
        """Decayed rows times B; an empty history has equal scores."""
        rows = histories.decayed(self.graph.n_items, self.config.window, self.config.decay)
        return torch.from_numpy(rows_times_dense(rows, self.item_weights.numpy()))
