"""GF-CF: graph filtering without training (Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation").

With ``R̃ = D_u^-1/2 X D_i^-1/2`` and V its leading right singular vectors, scores are

    X (R̃ᵀR̃ + α D_i^-1/2 V Vᵀ D_i^1/2),

a linear low-pass filter plus an ideal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.graph.spmm import spmm
from relrank.models.base import FromHistory, Knob
from relrank.models.linear import rows_times_dense, singular_vectors

# Columns of the table that the linear filter runs over; a width of the fast kernel.
USERS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class GFCFConfig:
    """Hyper-parameters of GF-CF."""

    rank: int = 256
    """Singular vectors of the ideal low-pass filter."""
    alpha: float = 0.3
    """Weight of the ideal low-pass filter beside the linear one."""
    seed: int = 0
    """Seed of the randomised decomposition's start."""


class GFCF(FromHistory):
    """Linear and ideal low-pass filter of the user's interactions."""

    name = "gf-cf"
    Config = GFCFConfig
    solution: ClassVar[tuple[str, ...]] = ("vectors", "degrees")

    #: V, float32 [n_items, rank]
    vectors: Tensor
    #: interactions per item, float32 [n_items]
    degrees: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """Rank and weight of the ideal filter."""
        most = min(graph.n_users, graph.n_items) // 2
        ranks = tuple(r for r in (16, 32, 64, 128, 256, 512) if r <= most) or (1,)
        return Knob("rank", ranks, min(256, ranks[-1])), Knob("alpha", (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2), 0.3)

    def __init__(self, graph: Graph, config: GFCFConfig | None = None) -> None:
        super().__init__(graph, config)
        self._filter = normalise(self.history)
        self._by_item = self._filter.transpose()

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        rank = min(int(self.config.rank), min(self.graph.n_users, self.graph.n_items))
        self.vectors = torch.from_numpy(singular_vectors(self._filter, rank, self.config.seed))
        self.degrees = torch.from_numpy(np.bincount(self.history.indices, minlength=self.graph.n_items).astype("f4"))
        return self

    def score_rows(self, rows: Csr) -> Tensor:
        """Both filters on rows of X."""
        root = self.degrees.sqrt().numpy()
        inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
        weighted = Csr(rows.indptr, rows.indices, rows.data * inverse[rows.indices], rows.n_cols)
        low = torch.from_numpy(rows_times_dense(weighted, self.vectors.numpy()))
        scores = (low @ self.vectors.T).mul_(torch.from_numpy(root) * self.config.alpha)
        # (X R̃ᵀ) R̃ = (R̃ᵀ (R̃ Xᵀ))ᵀ: a few users at a time are the columns of a table that stays in cache
        for start in range(0, rows.n_rows, USERS_AT_ONCE):
            part = rows.take(np.arange(start, min(rows.n_rows, start + USERS_AT_ONCE)))
            width = 16 if part.n_rows <= 16 else USERS_AT_ONCE
            table, between = (np.zeros((n, width), np.float32) for n in (rows.n_cols, self.graph.n_users))
            table[part.indices, part.rows()] = part.data
            spmm(self._filter, table, between)
            spmm(self._by_item, between, table)
            scores[start : start + part.n_rows] += torch.from_numpy(table[:, : part.n_rows].T)
        return scores
