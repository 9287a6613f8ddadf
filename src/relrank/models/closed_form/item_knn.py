"""Item-kNN: shrunk cosine similarity of the k nearest items (Sarwar et al. 2001; shrinkage: Bell & Koren 2007).

    w_ij = x_i · x_j / (|x_i| |x_j| + s),      scores = X W

x_i is item i's column of X, whose entries are the interactions' weights; without weights x_i · x_j counts common
users.
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
class ItemKNNConfig:
    """Hyper-parameters of item-kNN."""

    neighbours: PositiveInt = 100
    """k, most similar items kept per item."""
    shrinkage: NonNegative = 20.0
    """s, added to the denominator, in users."""


class ItemKNN(SparseLinear):
    """Scores are sums of similarities to the items of the history."""

    name = "item-knn"
    Config = ItemKNNConfig

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Neighbours and shrinkage."""
        del graph
        return (
            GridParameter("neighbours", (10, 20, 50, 100, 200, 400), 100),
            GridParameter("shrinkage", (0.0, 5.0, 20.0, 50.0, 100.0, 200.0), 20.0),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``largest_products_estimate``."""
        return largest_products_estimate(graph, int(config.neighbours), copies=1)

    def columns_and_rows(self) -> tuple[Csr, Csr]:
        """The matrix whose columns, one per item, are compared: by columns and by rows."""
        return self.history.transpose(), self.history

    def solve(self) -> Self:
        """The k largest shrunk cosines of every item."""
        columns, rows = self.columns_and_rows()
        squares = rows.data.astype(np.float64) ** 2
        norms = np.bincount(rows.indices, weights=squares, minlength=rows.n_cols).astype(np.float64)
        shrinkage = max(self.config.shrinkage, 1e-6)
        self.set_weights(topk_products(columns, rows, int(self.config.neighbours), norms, shrinkage))
        return self
