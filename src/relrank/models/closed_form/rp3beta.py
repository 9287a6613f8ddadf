"""RP3β: random walks of three steps, re-ranked by popularity (Paudel et al. 2017; powers: Cooper et al. 2014).

    w_ij = Σ_u (x_ui / n_i)^α (x_uj / n_u)^α / n_j^β,      scores = X W

"Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications"; as item weights:
Christoffel et al. 2015. w_ij is the walk from item i over one of its users u to one of their items j; n_i and n_u are
the summed interaction weights of an item and a user. Every item keeps its k largest weights. The walk's first step,
from a user to one of their items, is the same for all items and changes no rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr
from relrank.kernels.topk_products import topk_products
from relrank.models.core.base import GridParameter
from relrank.models.core.estimates import Estimate, largest_products_estimate
from relrank.models.core.hyperparameters import NonNegative, PositiveInt
from relrank.models.core.sparse_linear import SparseLinear


@dataclass(frozen=True, slots=True)
class RP3BetaConfig:
    """Hyper-parameters of RP3β."""

    alpha: NonNegative = 1.0
    """α, exponent of the transition probabilities; 1 for a plain random walk."""
    beta: NonNegative = 0.4
    """β, exponent that discounts popular items; 0 for P3α."""
    neighbours: PositiveInt = 100
    """k, largest weights kept per item."""


class RP3Beta(SparseLinear):
    """Scores are walk probabilities from the items of the history, divided by a power of popularity."""

    name = "rp3beta"
    Config = RP3BetaConfig

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Both exponents and the number of neighbours."""
        del graph
        return (
            GridParameter("alpha", (0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0), 1.0),
            GridParameter("beta", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), 0.4),
            GridParameter("neighbours", (10, 20, 50, 100, 200, 400), 100),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``largest_products_estimate``; both factors are computed in float64."""
        return largest_products_estimate(graph, int(config.neighbours), copies=7)

    def solve(self) -> Self:
        """The k largest walk weights of every item."""
        x, alpha, beta = self.history, self.config.alpha, self.config.beta
        n_user = np.bincount(x.rows(), weights=x.data, minlength=x.n_rows)
        n_item = np.bincount(x.indices, weights=x.data, minlength=x.n_cols)
        to_user = (x.data / n_item[x.indices]) ** alpha
        to_item = (x.data / n_user[x.rows()]) ** alpha / n_item[x.indices] ** beta
        left, right = (Csr(x.indptr, x.indices, part.astype(np.float32), x.n_cols) for part in (to_user, to_item))
        self.set_weights(topk_products(left.transpose(), right, int(self.config.neighbours)))
        return self
