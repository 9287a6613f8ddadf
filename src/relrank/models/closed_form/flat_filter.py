"""A graph filter with a flat pass band, over interactions weighted by powers of the degrees; no training.

    R̃ = D_u^-a X D_i^-b,      P = R̃ᵀR̃,      V: leading eigenvectors of P, with eigenvalues λ_1 ≥ … ≥ λ_k
    scores = X D_i^-c (P + V diag(α λ_k − λ) Vᵀ + λ_1 Σ_r w_r F_r) D_i^c

On the leading eigenvectors the response is constant, ``α λ_k``; on the rest of the spectrum P is a linear low-pass
filter. At α = 1 the response is continuous, above 1 the flat part is raised. So no few directions, popularity first
among them, dominate. Each relation of items adds a filter F_r of spectral radius 1
(:func:`relrank.models.core.spectral_filters.item_filters`), composed along a chain where it does not touch items
itself. Relations of users are not used.

The parts are known: powers of degrees from item-based neighbourhood models, ideal and linear low-pass filters from
GF-CF (Shen et al. 2021), the plateau from Kim et al. 2025, "Graph Spectral Filtering with Chebyshev Interpolation for
Recommendation".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32
from relrank.models.core.base import GridParameter, Shapes
from relrank.models.core.hyperparameters import NonNegative, PositiveInt, Power, Seed, Weights
from relrank.models.core.spectral_filters import (
    ItemFilters,
    SpectralFilter,
    item_filters,
    product,
    rank_knob,
    weight_knobs,
)

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, slots=True)
class FlatFilterConfig:
    """Hyper-parameters of the flat filter.

    The defaults were chosen on random validation rows of Gowalla, where they are far better than BSPM. They are not
    on its published test rows, whose items are more popular than those of the training rows.
    """

    rank: PositiveInt = 448
    """k, eigenvectors in the flat part of the response."""
    level: NonNegative = 2.0
    """α, the response there, in multiples of λ_k."""
    user_power: Power = 0.3
    """a, exponent that discounts users with many interactions in P; .5 in GF-CF."""
    item_power: Power = 0.4
    """b, exponent that discounts items with many interactions in P; .5 in GF-CF."""
    outer_power: Power = 0.3
    """c, exponent that discounts popular items in the history and raises them in the ranking; 0 for GF-CF's linear
    and .5 for its ideal filter."""
    weight: NonNegative = 0.0
    """Weight of every relation of items that ``weights`` does not name, in multiples of λ_1."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation; 0 excludes the relation."""
    seed: Seed = 0
    """Seed of the randomised decomposition."""


class FlatFilter(ItemFilters):
    """A flat response on the leading spectrum of the interactions, a linear one beyond, and filters of relations.

    ``into`` is D_i^-c V, ``out_of`` is D_i^c V diag(α λ_k − λ).
    """

    name = "flat-filter"
    Config = FlatFilterConfig
    solution: ClassVar[Shapes] = {**SpectralFilter.solution, "largest": ("one",)}
    power_iterations: ClassVar[int] = 8

    _outer: Float32
    #: λ_1, float32 [1]
    largest: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Relation weights, the three exponents, level and rank of the flat part."""
        return (
            *weight_knobs(graph),
            GridParameter("user_power", POWERS, 0.3),
            GridParameter("item_power", POWERS, 0.4),
            GridParameter("outer_power", POWERS, 0.3),
            GridParameter("level", (0.5, 1.0, 1.5, 2.0, 3.0, 5.0), 2.0),
            rank_knob(graph, 448),
        )

    def __init__(self, graph: Graph, config: FlatFilterConfig | None = None) -> None:
        super().__init__(graph, config)
        x, c = self.history, self.config
        user_degrees = np.bincount(x.rows(), weights=x.data, minlength=x.n_rows)
        item_degrees = np.bincount(x.indices, weights=x.data, minlength=x.n_cols)
        user_degrees[user_degrees == 0] = item_degrees[item_degrees == 0] = 1
        scale = user_degrees[x.rows()] ** -c.user_power * item_degrees[x.indices] ** -c.item_power
        self._filter = Csr(x.indptr, x.indices, (x.data * scale).astype(np.float32), x.n_cols)
        self._by_item = self._filter.transpose()
        self._outer = (item_degrees**c.outer_power).astype(np.float32)
        self._relations = item_filters(graph, self.config.weight, self.config.weights)

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        V = self.leading_vectors()
        eigenvalues = np.square(product(self._filter, V), dtype=np.float64).sum(0)
        change = (self.config.level * eigenvalues[-1] - eigenvalues).astype(np.float32)
        self.into = torch.from_numpy(V / self._outer[:, None])
        self.out_of = torch.from_numpy(V * self._outer[:, None] * change)
        self.largest = torch.from_numpy(eigenvalues[:1].astype(np.float32))
        return self

    def apply_filter(self, table: Float32) -> Float32:
        """``D_i^c (P + λ_1 Σ_r w_r F_r) table``."""
        out = self.gram_product(table)
        self.add_relations(out, table, float(self.largest))
        out *= self._outer[:, None]
        return out
