"""BSPM: blurring and sharpening without training (Choi et al. 2023, "Blurring-Sharpening Process Models").

With ``R̃ = D_u^-1/2 X D_i^-1/2``, ``P = R̃ᵀR̃`` and V the leading right singular vectors of R̃, a history is blurred by
the linear and the ideal low-pass filter, and by one filter ``F_r`` for every relation of items,

    Y(0) = X (P + Σ_r w_r F_r + β D_i^-1/2 V Vᵀ D_i^1/2),

and sharpened by following ``dY/dt = −Y P`` from 0 to T. One step h of a solver is a polynomial in P: ``I − hP`` for
Euler's, ``I − hP (I − hP/2 (I − hP/3 (I − hP/4)))`` for the classical Runge–Kutta method of order 4 (of any of its
variants: the equation is linear). The ideal filter's part is sharpened once for all users, as a thin matrix.

A relation that does not touch items is composed along the chain of relations that leads there from items. Relations
of users are not read. See :func:`relrank.models.core.filters.item_filters`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.dense_solve import rows_times_dense, singular_vectors
from relrank.kernels.spmm import spmm
from relrank.models.core.base import GridParameter, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.filters import (
    ItemFilters,
    filter_columns,
    item_degrees,
    item_filters,
    product,
    rank_knob,
    spectral_estimate,
    weight_knobs,
)
from relrank.models.core.hyperparameters import Bounds, NonNegative, PositiveInt, Rounds, Seed, Weights

ORDER = {"euler": 1, "rk4": 4}


@dataclass(frozen=True, slots=True)
class BSPMConfig:
    """Hyper-parameters of BSPM; the defaults are the authors' for Gowalla, but for ``rounds``."""

    rank: PositiveInt = 448
    """Singular vectors of the ideal low-pass filter."""
    beta: NonNegative = 0.2
    """β, weight of the ideal low-pass filter beside the linear one."""
    time: Annotated[float, Bounds(0, 1000)] = 2.5
    """T, where sharpening ends; 0 for none."""
    steps: Annotated[int, Bounds(1, 10_000)] = 1
    """Steps of the solver until then."""
    solver: Literal["rk4", "euler"] = "rk4"
    """Runge–Kutta of order 4, or Euler's."""
    weight: NonNegative = 0.0
    """Weight of every relation of items that ``weights`` does not name; the linear filter has 1."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation; 0 leaves the relation out."""
    rounds: Rounds = 4
    """Power iterations of the decomposition. With few, the cut is soft, directions beyond it leak into the filter,
    which validation on Gowalla prefers; at 16 it is about as sharp as the exact cut of the paper."""
    seed: Seed = 0
    """Seed of the randomised decomposition's start."""


class BSPM(ItemFilters):
    """Blurring by low-pass filters of interactions and relations, then sharpening."""

    name = "bspm"
    Config = BSPMConfig
    solution: ClassVar[Shapes] = {"into": ("items", "rank"), "out_of": ("items", "rank")}

    #: D_i^-1/2 V, float32 [n_items, rank]
    into: Tensor
    #: β D_i^1/2 V, sharpened, float32 [n_items, rank]
    out_of: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The weight of every relation of items, the end of sharpening, the ideal filter."""
        return (
            *weight_knobs(graph),
            GridParameter("time", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), 2.5),
            GridParameter("beta", (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8), 0.2),
            rank_knob(graph, 448),
            GridParameter("rounds", (2, 4, 8, 16), 4),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``spectral_estimate``."""
        return spectral_estimate(graph, int(config.rank), int(config.rounds), relations=True)

    def __init__(self, graph: Graph, config: BSPMConfig | None = None) -> None:
        super().__init__(graph, config)
        self._filter = normalise(self.history)
        self._by_item = self._filter.transpose()
        self._relations = item_filters(graph, self.config.weight, self.config.weights)

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃, and its vectors sharpened."""
        rank = min(int(self.config.rank), min(self.graph.n_users, self.graph.n_items))
        vectors = singular_vectors(self._filter, rank, self.config.seed, int(self.config.rounds))
        self.into = torch.from_numpy(item_degrees(self.history, -0.5)[:, None] * vectors)
        out_of = (np.float32(self.config.beta) * item_degrees(self.history, 0.5))[:, None] * vectors
        self.out_of = torch.from_numpy(self._sharpened(out_of))
        return self

    def score_rows(self, rows: Csr) -> Tensor:
        """Rows of X, blurred and sharpened."""
        low = torch.from_numpy(rows_times_dense(rows, self.into.numpy()))
        scores = low @ self.out_of.T
        filter_columns(rows, lambda table: self._sharpened(self._blurred(table)), scores)
        return scores

    def _blurred(self, table: Float32) -> Float32:
        """``(P + Σ_r w_r F_r) table``."""
        out = product(self._by_item, product(self._filter, table))
        for edges, back, weight in self._relations:
            spmm(edges, table if back is None else product(back, table), out, alpha=weight, base=out)
        return out

    def _sharpened(self, table: Float32) -> Float32:
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
