"""GF-CF: graph filtering without training (Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation").

    R̃ = D_u^-½ X D_i^-½
    scores = X (R̃ᵀR̃ + α D_i^-½ V Vᵀ D_i^½),      V: leading right singular vectors of R̃

The first term is a linear low-pass filter, the second an ideal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Float32
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import NonNegative, PositiveInt, Seed
from relrank.models.core.spectral_filters import SpectralFilter, item_degrees, rank_knob


@dataclass(frozen=True, slots=True)
class GFCFConfig:
    """Hyper-parameters of GF-CF."""

    rank: PositiveInt = 256
    """Singular vectors of the ideal low-pass filter."""
    alpha: NonNegative = 0.3
    """Weight of the ideal low-pass filter; the linear one has weight 1."""
    seed: Seed = 0
    """Seed of the randomised decomposition."""


class GFCF(SpectralFilter):
    """Linear and ideal low-pass filter of the interactions; ``into`` is D_i^-½ V, ``out_of`` is α D_i^½ V."""

    name = "gf-cf"
    Config = GFCFConfig

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Rank and weight of the ideal filter."""
        return rank_knob(graph, 256), GridParameter("alpha", (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2), 0.3)

    def __init__(self, graph: Graph, config: GFCFConfig | None = None) -> None:
        super().__init__(graph, config)
        self._filter = normalise(self.history)
        self._by_item = self._filter.transpose()

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        V, alpha = self.leading_vectors(), np.float32(self.config.alpha)
        self.into = torch.from_numpy(item_degrees(self.history, -0.5)[:, None] * V)
        self.out_of = torch.from_numpy(alpha * item_degrees(self.history, 0.5)[:, None] * V)
        return self

    def apply_filter(self, table: Float32) -> Float32:
        """``R̃ᵀR̃ table``."""
        return self.gram_product(table)
