"""A graph filter with a flat pass band, over interactions weighted by free powers of the degrees; no training.

With ``R̃ = D_u^-a X D_i^-b``, ``P = R̃ᵀR̃``, V its leading eigenvectors and ``λ_1 ≥ … ≥ λ_k`` their eigenvalues, scores
are

    X D_i^-c (P + V diag(α λ_k − λ) Vᵀ + λ_1 Σ_r w_r F_r) D_i^c.

Beyond the known part of the spectrum P acts as it is, a linear low-pass filter; on the leading eigenvectors the
response is one and the same, ``α λ_k``: at α = 1 it goes on where the linear part ends, above 1 it is lifted. So no
few directions, popularity first among them, drown the others. Every relation of items adds a filter ``F_r`` of
spectral radius 1, composed along a chain where it does not touch items itself. Relations of users are not read. See
:func:`relrank.models.core.filters.item_filters`.

The pieces are known: powers of degrees from item-based neighbourhood models, an ideal low-pass filter beside a linear
one from GF-CF (Shen et al. 2021), a plateau instead of a slope from Kim et al. 2025, "Graph Spectral Filtering with
Chebyshev Interpolation for Recommendation".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.dense_solve import rows_times_dense, singular_vectors
from relrank.kernels.spmm import spmm
from relrank.models.core.base import GridParameter, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.filters import (
    ItemFilters,
    filter_columns,
    item_filters,
    product,
    rank_knob,
    spectral_estimate,
    weight_knobs,
)
from relrank.models.core.hyperparameters import NonNegative, PositiveInt, Power, Seed, Weights

POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True, slots=True)
class FlatFilterConfig:
    """Hyper-parameters of the flat filter.

    The defaults were chosen on random validation rows of Gowalla, where they are far above BSPM; on its published
    test rows, which lie on more popular items than training rows do, they are not.
    """

    rank: PositiveInt = 448
    """k, eigenvectors in the flat part of the response."""
    level: NonNegative = 2.0
    """α, the response there, in last known eigenvalues."""
    user_power: Power = 0.3
    """a, how much a user with many interactions counts less in P; .5 in GF-CF."""
    item_power: Power = 0.4
    """b, how much an item with many interactions counts less in P; .5 in GF-CF."""
    outer_power: Power = 0.3
    """c, how much popular items count less in a history and more in the ranking; 0 and .5 in GF-CF's two parts."""
    weight: NonNegative = 0.0
    """Weight of every relation of items that ``weights`` does not name, in largest eigenvalues."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation; 0 leaves the relation out."""
    seed: Seed = 0
    """Seed of the randomised decomposition's start."""


class FlatFilter(ItemFilters):
    """A flat response on the leading spectrum of the interactions, a linear one beyond, and filters of relations."""

    name = "flat-filter"
    Config = FlatFilterConfig
    solution: ClassVar[Shapes] = {"into": ("items", "rank"), "out_of": ("items", "rank"), "largest": ("one",)}

    #: D_i^-c V, float32 [n_items, rank]
    into: Tensor
    #: D_i^c V diag(α λ_k − λ), float32 [n_items, rank]
    out_of: Tensor
    #: λ_1, float32 [1]
    largest: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The weight of every relation of items, the three powers, level and rank of the flat part."""
        return (
            *weight_knobs(graph),
            GridParameter("user_power", POWERS, 0.3),
            GridParameter("item_power", POWERS, 0.4),
            GridParameter("outer_power", POWERS, 0.3),
            GridParameter("level", (0.5, 1.0, 1.5, 2.0, 3.0, 5.0), 2.0),
            rank_knob(graph, 448),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``spectral_estimate``."""
        return spectral_estimate(graph, int(config.rank), 8, relations=True)

    def __init__(self, graph: Graph, config: FlatFilterConfig | None = None) -> None:
        super().__init__(graph, config)
        for name in ("level", "user_power", "item_power", "outer_power"):
            if not np.isfinite(value := getattr(self.config, name)):
                raise InputError(
                    "setting is not finite", where=f"flat-filter, {name}", expected="a number", found=value
                )
        x = self.history
        of_user, of_item = (
            np.bincount(at, weights=x.data, minlength=n) for at, n in ((x.rows(), x.n_rows), (x.indices, x.n_cols))
        )
        of_user[of_user == 0] = of_item[of_item == 0] = 1
        scale = of_user[x.rows()] ** -self.config.user_power * of_item[x.indices] ** -self.config.item_power
        self._filter = Csr(x.indptr, x.indices, (x.data * scale).astype(np.float32), x.n_cols)
        self._by_item = self._filter.transpose()
        self._outer: Float32 = (of_item**self.config.outer_power).astype(np.float32)
        self._relations = item_filters(graph, self.config.weight, self.config.weights)

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        rank = min(int(self.config.rank), min(self.graph.n_users, self.graph.n_items))
        vectors = singular_vectors(self._filter, rank, self.config.seed)
        values = np.square(product(self._filter, vectors), dtype=np.float64).sum(0)
        change = (self.config.level * values[-1] - values).astype(np.float32)
        self.into = torch.from_numpy(vectors / self._outer[:, None])
        self.out_of = torch.from_numpy(vectors * self._outer[:, None] * change)
        self.largest = torch.from_numpy(values[:1].astype(np.float32))
        return self

    def score_rows(self, rows: Csr) -> Tensor:
        """Rows of X, filtered."""
        low = torch.from_numpy(rows_times_dense(rows, self.into.numpy()))
        scores = low @ self.out_of.T
        inner = Csr(rows.indptr, rows.indices, rows.data / self._outer[rows.indices], rows.n_cols)
        filter_columns(inner, self._linear, scores)
        return scores

    def _linear(self, table: Float32) -> Float32:
        """``D_i^c (P + λ_1 Σ_r w_r F_r) table``."""
        out = product(self._by_item, product(self._filter, table))
        for edges, back, weight in self._relations:
            step = table if back is None else product(back, table)
            spmm(edges, step, out, alpha=weight * float(self.largest), base=out)
        out *= self._outer[:, None]
        return out
