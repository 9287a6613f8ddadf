"""RP3β: random walks of three steps, re-ranked by popularity (Paudel et al. 2017; powers: Cooper et al. 2014).

"Updatable, Accurate, Diverse, and Scalable Recommendations for Interactive Applications"; the walk as item weights is
that of Christoffel et al. 2015. From an item i to one of its users u and on to one of their items j,

    w_ij = Σ_u (x_ui / n_i)^α (x_uj / n_u)^α / n_j^β

with ``n_i`` and ``n_u`` the sums of an item's and a user's interactions, of which an unweighted one counts 1. Every
item keeps its k largest weights; scores are ``X W``. The walk's first step, from a user to one of their items, is the
same for all items and changes no rank.
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
    """α, power of a step's probability; 1 for a plain random walk."""
    beta: NonNegative = 0.4
    """β, how much popular items count less; 0 for P3α."""
    neighbours: PositiveInt = 100
    """Largest weights kept per item."""


class RP3Beta(SparseLinear):
    """Scores are sums of walks from the items of the history, divided by a power of popularity."""

    name = "rp3beta"
    Config = RP3BetaConfig

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Both powers and the neighbours."""
        del graph
        return (
            GridParameter("alpha", (0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0), 1.0),
            GridParameter("beta", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0), 0.4),
            GridParameter("neighbours", (10, 20, 50, 100, 200, 400), 100),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``largest_products_estimate``; both powers are taken in float64."""
        return largest_products_estimate(graph, int(config.neighbours), copies=7)

    def solve(self) -> Self:
        """Item by item: walks of two steps, the k largest weights."""
        x, alpha, beta = self.history, self.config.alpha, self.config.beta
        of_user, of_item = (
            np.bincount(at, weights=x.data, minlength=n) for at, n in ((x.rows(), x.n_rows), (x.indices, x.n_cols))
        )
        to_user = (x.data / of_item[x.indices]) ** alpha
        to_item = (x.data / of_user[x.rows()]) ** alpha / of_item[x.indices] ** beta
        left, right = (Csr(x.indptr, x.indices, part.astype(np.float32), x.n_cols) for part in (to_user, to_item))
        self.set_weights(topk_products(left.transpose(), right, int(self.config.neighbours)))
        return self
