"""BSPM: blurring and sharpening without training (Choi et al. 2023, "Blurring-Sharpening Process Models").

    R̃ = D_u^-½ X D_i^-½,      P = R̃ᵀR̃,      V: leading right singular vectors of R̃
    blurring:    Y(0) = X (P + Σ_r w_r F_r + β D_i^-½ V Vᵀ D_i^½)
    sharpening:  dY/dt = −Y P,  from 0 to T;      scores = Y(T)

F_r is the filter of a relation of items (:func:`relrank.models.core.spectral_filters.item_filters`). One step h of a
solver is a polynomial in P: ``I − hP`` for Euler's method, ``I − hP (I − hP/2 (I − hP/3 (I − hP/4)))`` for
Runge–Kutta of order 4. The ideal filter is sharpened once for all users, as a thin matrix.

A relation that does not touch items is composed along the chain that connects it to them. Relations of users are not
used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

import numpy as np
import torch

from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Float32
from relrank.kernels.spmm import spmm
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import Bounds, NonNegative, PositiveInt, Rounds, Seed, Weights
from relrank.models.core.spectral_filters import (
    ItemFilters,
    item_degrees,
    item_filters,
    product,
    rank_knob,
    weight_knobs,
)

ORDER = {"euler": 1, "rk4": 4}


@dataclass(frozen=True, slots=True)
class BSPMConfig:
    """Hyper-parameters of BSPM; the defaults are the authors' for Gowalla, but for ``rounds``."""

    rank: PositiveInt = 448
    """Singular vectors of the ideal low-pass filter."""
    beta: NonNegative = 0.2
    """β, weight of the ideal low-pass filter; the linear one has weight 1."""
    time: Annotated[float, Bounds(0, 1000)] = 2.5
    """T, end of sharpening; 0 disables it."""
    steps: Annotated[int, Bounds(1, 10_000)] = 1
    """Steps of the solver."""
    solver: Literal["rk4", "euler"] = "rk4"
    """Runge–Kutta of order 4, or Euler's."""
    weight: NonNegative = 0.0
    """Weight of every relation of items that ``weights`` does not name; the linear filter has 1."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation; 0 excludes the relation."""
    rounds: Rounds = 4
    """Power iterations of the decomposition. With few, the cut is soft: directions beyond it leak into the filter,
    which improves validation on Gowalla. With 16 it is about as sharp as the exact cut of the paper."""
    seed: Seed = 0
    """Seed of the randomised decomposition."""


class BSPM(ItemFilters):
    """Blurring by low-pass filters of interactions and relations, then sharpening.

    ``into`` is D_i^-½ V, ``out_of`` is β D_i^½ V, sharpened.
    """

    name = "bspm"
    Config = BSPMConfig

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Relation weights, the end of sharpening, the ideal filter."""
        return (
            *weight_knobs(graph),
            GridParameter("time", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), 2.5),
            GridParameter("beta", (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8), 0.2),
            rank_knob(graph, 448),
            GridParameter("rounds", (2, 4, 8, 16), 4),
        )

    def __init__(self, graph: Graph, config: BSPMConfig | None = None) -> None:
        super().__init__(graph, config)
        self._filter = normalise(self.history)
        self._by_item = self._filter.transpose()
        self._relations = item_filters(graph, self.config.weight, self.config.weights)

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃, whose vectors are sharpened."""
        V = self.leading_vectors()
        self.into = torch.from_numpy(item_degrees(self.history, -0.5)[:, None] * V)
        out_of = (np.float32(self.config.beta) * item_degrees(self.history, 0.5))[:, None] * V
        self.out_of = torch.from_numpy(self._sharpen(out_of))
        return self

    def apply_filter(self, table: Float32) -> Float32:
        """Blurring by ``P + Σ_r w_r F_r``, then sharpening."""
        blurred = self.gram_product(table)
        self.add_relations(blurred, table)
        return self._sharpen(blurred)

    def _sharpen(self, table: Float32) -> Float32:
        """The solver's polynomial in P times a table, from the innermost bracket outwards."""
        if not self.config.time:
            return table
        h = self.config.time / self.config.steps
        for _ in range(self.config.steps):
            inner = table
            for k in range(ORDER[self.config.solver], 0, -1):
                outer = np.empty_like(table)
                spmm(self._by_item, product(self._filter, inner), outer, alpha=-h / k, base=table)
                inner = outer
            table = inner
        return table
