"""GF-CF: graph filtering without training (Shen et al. 2021, "How Powerful is Graph Convolution for Recommendation").

With ``R̃ = D_u^-1/2 X D_i^-1/2`` and V its leading right singular vectors, scores are

    X (R̃ᵀR̃ + α D_i^-1/2 V Vᵀ D_i^1/2),

a linear low-pass filter plus an ideal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr, Float32
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.models.base import ClosedForm, Knob, history_rows
from relrank.models.linear import products_by_row, singular_vectors


@dataclass(frozen=True, slots=True)
class GFCFConfig:
    """Hyper-parameters of GF-CF."""

    rank: int = 256
    """Singular vectors of the ideal low-pass filter."""
    alpha: float = 0.3
    """Weight of the ideal low-pass filter beside the linear one."""
    seed: int = 0
    """Seed of the randomised decomposition's start."""


class GFCF(ClosedForm):
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

    def solve(self) -> Self:
        """A truncated singular value decomposition of R̃."""
        rank = min(int(self.config.rank), min(self.graph.n_users, self.graph.n_items))
        self.vectors = torch.from_numpy(singular_vectors(self._filter, rank, self.config.seed))
        self.degrees = torch.from_numpy(np.bincount(self.history.indices, minlength=self.graph.n_items).astype("f4"))
        return self

    def score(self, users: Tensor) -> Tensor:
        """Both filters on these users' rows of X."""
        return self._score(self.history.take(users.cpu().numpy()))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Both filters on new rows."""
        return self._score(history_rows(histories, self.graph.n_items))

    def _score(self, rows: Csr) -> Tensor:
        by_item = self._filter.transpose()
        # X R̃ᵀ is [B, n_users]; sparse in practice, and multiplied by R̃ row by row
        linear = products_by_row(_sparse(products_by_row(rows, by_item)), self._filter)
        root = self.degrees.sqrt()
        weighted = Csr(rows.indptr, rows.indices, _inverse(root)[rows.indices], rows.n_cols)
        low = torch.from_numpy(products_by_row(weighted, _dense_rows(self.vectors)))
        ideal = (low @ self.vectors.T) * root
        return torch.from_numpy(linear).add_(ideal, alpha=self.config.alpha)


def _inverse(root: Tensor) -> Float32:
    values: Float32 = root.numpy()
    inverse: Float32 = np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
    return inverse


def _sparse(dense: Float32) -> Csr:
    row, col = np.nonzero(dense)
    return Csr.from_pairs(row, col, (dense.shape[0], dense.shape[1]), dense[row, col])


def _dense_rows(table: Tensor) -> Csr:
    n, d = table.shape
    return Csr(
        np.arange(0, n * d + 1, d), np.tile(np.arange(d, dtype=np.int32), n), table.contiguous().numpy().ravel(), d
    )
