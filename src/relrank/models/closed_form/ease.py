"""EASE: a linear item–item model in closed form (Steck 2019, "Embarrassingly Shallow Autoencoders", eq. 8).

With ``G = XᵀX + λI`` and ``P = G⁻¹`` the weights are ``B_ij = −P_ij / P_jj``, ``B_jj = 0``; scores are ``X B``, that
is ``X − X P / diag(P)``. Where there are fewer users than items the same numbers come from the users' side
(Woodbury): with ``K = (XXᵀ + λI)⁻¹``, ``X P = K X`` and ``diag(P) = (1 − diag(Xᵀ K X)) / λ``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32, Float64
from relrank.kernels.dense_solve import (
    gram,
    inverse_bytes,
    products_by_row,
    ridge_gram,
    rows_times_dense,
    spd_inverse,
)
from relrank.models.core import estimates
from relrank.models.core.base import ClosedForm, GridParameter, Shapes, history_rows, user_rows
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Positive


@dataclass(frozen=True, slots=True)
class EASEConfig:
    """Hyper-parameters of EASE."""

    l2: Positive = 200.0
    """Ridge penalty λ, in interactions."""


L2_LADDER = (10.0, 20.0, 35.0, 60.0, 100.0, 200.0, 300.0, 500.0, 1000.0, 2000.0)


class EASE(ClosedForm):
    """EASE on the interactions alone."""

    name = "ease"
    Config = EASEConfig
    from_history = True
    solution: ClassVar[Shapes] = {"projection": ("side", "items"), "diagonal": ("items",)}

    #: dual: K X [n_users, n_items]; primal: P [n_items, n_items]
    projection: Tensor
    #: diag(P) [n_items]
    diagonal: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The ridge penalty."""
        del graph
        return (GridParameter("l2", L2_LADDER, 200.0),)

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """With n the smaller side: a Gram matrix as a triangle beside a square, which is inverted.

        Where users are fewer, then the inverse beside K X in two orders of memory. Scoring holds P, or K X, and a
        block of scores.
        """
        del config
        n_users, n_items, x = graph.n_users, graph.n_items, graph.interactions
        n, columns = min(n_users, n_items), x.dst if n_users < n_items else x.src
        kept, products = estimates.square(n), estimates.gram_products(columns)
        solving = max(kept + estimates.triangle(n), inverse_bytes(n))
        if n_users < n_items:
            kept, products = estimates.table(n_users, n_items), products + float(len(x)) * n_users
            solving = max(solving, estimates.square(n) + 2 * kept)
        peak = max(solving, kept + estimates.score_block(n_items))
        return Estimate(peak + 3 * estimates.sparse(len(x)), n**3 / 2, products)

    @property
    def dual(self) -> bool:
        """Whether the users' side is the smaller one."""
        return self.graph.n_users < self.graph.n_items

    def sizes(self) -> dict[str, int]:
        """``side`` is the smaller one."""
        return super().sizes() | {"side": min(self.graph.n_users, self.graph.n_items)}

    def solve(self) -> Self:
        """One Cholesky inverse of the smaller side."""
        x, l2 = self.history, float(self.config.l2)
        inverse = spd_inverse(ridge_gram(gram(x if self.dual else x.transpose()), (), l2))
        if self.dual:
            kx = np.ascontiguousarray(rows_times_dense(x.transpose(), inverse).T)
            diagonal = (1.0 - _column_dots(x, kx)) / l2
            self.projection = torch.from_numpy(kx)
        else:
            diagonal = inverse.diagonal().astype(np.float64)
            self.projection = torch.from_numpy(inverse)
        self.diagonal = torch.from_numpy(diagonal.astype(np.float32))
        return self

    def score(self, users: Tensor) -> Tensor:
        """``X − X P / diag(P)`` for these users."""
        picked = user_rows(users, self.graph.n_users)
        rows = self.history.take(picked)
        xp = self.projection.numpy()
        return self._scores(rows, xp[picked] if self.dual else rows_times_dense(rows, xp))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """The same for new rows of X."""
        rows = history_rows(histories, self.graph.n_items)
        if not self.dual:
            return self._scores(rows, rows_times_dense(rows, self.projection.numpy()))
        # x P = (x − x Xᵀ K X) / λ
        xp = -(products_by_row(rows, self.history.transpose()) @ self.projection.numpy())
        xp[rows.rows(), rows.indices] += rows.data
        xp /= np.float32(self.config.l2)
        return self._scores(rows, xp)

    def _scores(self, rows: Csr, xp: Float32) -> Tensor:
        np.divide(xp, -self.diagonal.numpy(), out=xp)
        xp[rows.rows(), rows.indices] += rows.data
        return torch.from_numpy(xp)


def _column_dots(x: Csr, other: Float32) -> Float64:
    """``diag(Xᵀ · other)``, float64 [n_cols]."""
    picked = x.data * other[x.rows(), x.indices]
    dots: Float64 = np.bincount(x.indices, weights=picked, minlength=x.n_cols).astype(np.float64)
    return dots
