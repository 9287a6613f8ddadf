"""ChebyCF: a plateau-shaped graph filter by Chebyshev interpolation (Kim et al. 2025), without training.

"Graph Spectral Filtering with Chebyshev Interpolation for Recommendation", SIGIR 2025.

    R̃ = D_u^-a X D_i^-½,      P = R̃ᵀR̃ / λ,      L̃ = I − 2P
    scores = X D_i^-β (Σ_k c_k T_k(L̃) + α V Vᵀ + Σ_r w_r F_r) D_i^β

λ is the largest eigenvalue of R̃ᵀR̃, so that the spectrum of L̃ is in [−1, 1]; T_k is the Chebyshev polynomial of
degree k. The coefficients ``c_0 … c_K`` interpolate a response that is 1 at frequency −1 (smooth signals), flat
around frequency 0, and 0 at frequency 1. V, the leading right singular vectors of R̃, make an ideal low-pass filter.
In the paper a = 1/2; then λ = 1, and L̃ follows from the graph's Laplacian. Each relation of items adds a filter F_r
of spectral radius 1 (:func:`relrank.models.core.spectral_filters.item_filters`), composed along a chain where it does
not touch items itself. Relations of users are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Self

import numba
import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32, Float64
from relrank.kernels.jit import njit
from relrank.kernels.spmm import spmm
from relrank.models.core.base import GridParameter, Shapes
from relrank.models.core.hyperparameters import (
    Bounds,
    NonNegative,
    Positive,
    PositiveInt,
    Power,
    Rounds,
    Seed,
    Weights,
)
from relrank.models.core.spectral_filters import (
    ROUNDS,
    ItemFilters,
    SpectralFilter,
    item_degrees,
    item_filters,
    product,
    rank_knob,
    weight_knobs,
)


@dataclass(frozen=True, slots=True)
class ChebyCFConfig:
    """Hyper-parameters of ChebyCF; the defaults are the authors' for Gowalla."""

    order: Annotated[int, Bounds(1, 1000)] = 8
    """K, degree of the interpolation. The response is odd around 1/2, so an even K gives degree K − 1. Each degree
    costs two sparse products per block of histories."""
    flatness: Positive = 1.5
    """φ, flatness of the response in the middle of the spectrum; 1 for a straight line."""
    rank: PositiveInt = 512
    """η, singular vectors of the ideal low-pass filter."""
    alpha: NonNegative = 0.2
    """α, weight of the ideal low-pass filter; the interpolated one has weight 1."""
    beta: Power = 0.4
    """β, exponent that discounts popular items in the history and raises them in the ranking."""
    user_power: Power = 0.5
    """a, exponent that discounts users with many interactions in P; .5 in the paper."""
    weight: NonNegative = 0.0
    """Weight of every relation of items that ``weights`` does not name; the interpolated filter has 1."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation; 0 excludes the relation."""
    rounds: Rounds = ROUNDS
    """Power iterations of the decomposition; with few, the ideal filter's cut is soft."""
    seed: Seed = 0
    """Seed of the randomised decomposition."""


class ChebyCF(ItemFilters):
    """A plateau-shaped and an ideal low-pass filter of the interactions, and filters of relations.

    ``into`` is D_i^-β V, ``out_of`` is α D_i^β V.
    """

    name = "chebycf"
    Config = ChebyCFConfig
    solution: ClassVar[Shapes] = {**SpectralFilter.solution, "largest": ("one",)}

    _outer: Float32
    #: λ, float32 [1]
    largest: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Relation weights, the exponents, the polynomial, the ideal filter."""
        return (
            *weight_knobs(graph),
            GridParameter("user_power", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.5),
            GridParameter("flatness", (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0), 1.5),
            GridParameter("beta", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0.4),
            GridParameter("alpha", (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8), 0.2),
            rank_knob(graph, 512),
            GridParameter("order", (2, 4, 6, 8, 10, 12), 8),
        )

    def __init__(self, graph: Graph, config: ChebyCFConfig | None = None) -> None:
        super().__init__(graph, config)
        x = self.history
        user_degrees = np.bincount(x.rows(), weights=x.data, minlength=x.n_rows)
        scale = user_degrees[x.rows()] ** -self.config.user_power * item_degrees(x, -0.5)[x.indices]
        self._filter = Csr(x.indptr, x.indices, (x.data * scale).astype(np.float32), x.n_cols)
        self._by_item = self._filter.transpose()
        degrees = item_degrees(self.history, self.config.beta)
        degrees[degrees == 0] = 1  # relations may still reach items without interactions
        self._outer = degrees
        plateau = plateau_coefficients(self.config.order, self.config.flatness)
        self._coefficients = np.trim_zeros(plateau, "b").astype(np.float32)
        self._relations = item_filters(graph, self.config.weight, self.config.weights)

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃; the interpolation needs none."""
        V = self.leading_vectors()
        eigenvalue = np.square(product(self._filter, V), dtype=np.float64).sum(0).max(initial=0)
        self.largest = torch.tensor([eigenvalue or 1], dtype=torch.float32)
        self.into = torch.from_numpy(V / self._outer[:, None])
        self.out_of = torch.from_numpy(np.float32(self.config.alpha) * self._outer[:, None] * V)
        return self

    def apply_filter(self, table: Float32) -> Float32:
        """``D_i^β (Σ_k c_k T_k(L̃) + Σ_r w_r F_r) table``, the polynomial by Clenshaw's recurrence."""
        c = self._coefficients
        scale = -2 / float(self.largest)
        last: Float32 = c[-1] * table
        after = np.zeros_like(table)
        for k in range(c.size - 2, -1, -1):
            # c_k table + 2 L̃ last − after; the factor of L̃ is 1 in the last step
            twice = np.float32(2 if k else 1)
            _combine(after.ravel(), c[k], table.ravel(), twice, last.ravel())
            spmm(self._by_item, product(self._filter, last), after, alpha=scale * float(twice), base=after)
            after, last = last, after
        self.add_relations(last, table)
        last *= self._outer[:, None]
        return last


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _combine(out, a, x, b, y):  # type: ignore[no-untyped-def]
    """``a x + b y − out`` in the memory of ``out``."""
    for i in numba.prange(out.size):
        out[i] = a * x[i] + b * y[i] - out[i]


def plateau_coefficients(order: int, flatness: float) -> Float64:
    """Chebyshev coefficients of a low-pass response with a plateau of 1/2 in the middle of the spectrum.

    The response at frequency x is ``(1 + (−x)^φ) / 2`` below 0 and ``(1 − x^φ) / 2`` from 0 on. The interpolation
    nodes are the roots of ``T_{K+1}``, ``−cos((2j + 1) π / (2K + 2))``, but the response is evaluated at
    ``−cos(j π / K)``, a little further out, so that both ends of the spectrum are included. The authors' experiments
    do so, and the published figures need it.

    Args:
        order: K, at least 1.
        flatness: φ.

    Returns:
        float64 [K + 1], ``c_0 … c_K`` of ``Σ_k c_k T_k(x)``; but for ``c_0``, the even ones are 0.
    """
    j = np.arange(order + 1)
    ends = -np.cos(j * np.pi / order)
    ends[np.abs(ends) < 1e-12] = 0
    response = (1 - np.sign(ends) * np.abs(ends) ** flatness) / 2
    angles = np.pi - (2 * j + 1) * np.pi / (2 * order + 2)
    result: Float64 = 2 / (order + 1) * np.cos(np.outer(j, angles)) @ response
    result[0] /= 2
    result[2::2] = 0  # removes rounding errors: response − 1/2 is odd
    return result
