"""GF-CF: graph filtering without training (Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation").

With ``R̃ = D_u^-1/2 X D_i^-1/2`` and V its leading right singular vectors, scores are

    X (R̃ᵀR̃ + α D_i^-1/2 V Vᵀ D_i^1/2),

a linear low-pass filter plus an ideal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import rows_times_dense, singular_vectors
from relrank.models.core.base import GridParameter, HistoryScorer, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.filters import ROUNDS, filter_columns, item_degrees, product, rank_knob, spectral_estimate
from relrank.models.core.hyperparameters import NonNegative, PositiveInt, Seed


@dataclass(frozen=True, slots=True)
class GFCFConfig:
    """Hyper-parameters of GF-CF."""

    rank: PositiveInt = 256
    """Singular vectors of the ideal low-pass filter."""
    alpha: NonNegative = 0.3
    """Weight of the ideal low-pass filter beside the linear one."""
    seed: Seed = 0
    """Seed of the randomised decomposition's start."""


class GFCF(HistoryScorer):
    """Linear and ideal low-pass filter of the user's interactions."""

    name = "gf-cf"
    Config = GFCFConfig
    solution: ClassVar[Shapes] = {"into": ("items", "rank"), "out_of": ("items", "rank")}

    #: D_i^-1/2 V, float32 [n_items, rank]
    into: Tensor
    #: α D_i^1/2 V, float32 [n_items, rank]
    out_of: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Rank and weight of the ideal filter."""
        return rank_knob(graph, 256), GridParameter("alpha", (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2), 0.3)

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``spectral_estimate``."""
        return spectral_estimate(graph, int(config.rank), ROUNDS)

    def __init__(self, graph: Graph, config: GFCFConfig | None = None) -> None:
        super().__init__(graph, config)
        self._filter = normalise(self.history)
        self._by_item = self._filter.transpose()

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        rank = min(int(self.config.rank), min(self.graph.n_users, self.graph.n_items))
        vectors = singular_vectors(self._filter, rank, self.config.seed, ROUNDS)
        self.into = torch.from_numpy(item_degrees(self.history, -0.5)[:, None] * vectors)
        self.out_of = torch.from_numpy(
            np.float32(self.config.alpha) * item_degrees(self.history, 0.5)[:, None] * vectors
        )
        return self

    def score_rows(self, rows: Csr) -> Tensor:
        """Both filters on rows of X."""
        low = torch.from_numpy(rows_times_dense(rows, self.into.numpy()))
        scores = low @ self.out_of.T
        filter_columns(rows, lambda table: product(self._by_item, product(self._filter, table)), scores)
        return scores
