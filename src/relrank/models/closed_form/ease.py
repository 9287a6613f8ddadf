"""EASE: a linear item–item model in closed form (Steck 2019, "Embarrassingly Shallow Autoencoders", eq. 8).

    G = XᵀX + λI,      P = G⁻¹,      B_ij = −P_ij / P_jj,  B_jj = 0
    scores = X B = X − X P / diag(P)

With fewer users than items, the dual form gives the same scores (Woodbury): with ``K = (XXᵀ + λI)⁻¹``,
``X P = K X`` and ``diag(P) = (1 − diag(Xᵀ K X)) / λ``.
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
    """EASE on the interactions."""

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
        """The smaller side's Gram matrix, once as a triangle and once as the square that is inverted.

        In the dual form, the inverse and two copies of K X. Scoring holds P, or K X, and a block of scores.
        """
        del config
        n_users, n_items, x = graph.n_users, graph.n_items, graph.interactions
        n, columns = min(n_users, n_items), x.dst if n_users < n_items else x.src
        solution, products = estimates.square(n), estimates.gram_products(columns)
        solving = max(solution + estimates.triangle(n), inverse_bytes(n))
        if n_users < n_items:
            solution, products = estimates.table(n_users, n_items), products + float(len(x)) * n_users
            solving = max(solving, estimates.square(n) + 2 * solution)
        peak = max(solving, solution + estimates.score_block(n_items))
        return Estimate(peak + 3 * estimates.sparse(len(x)), n**3 / 2, products)

    @property
    def dual(self) -> bool:
        """Whether there are fewer users than items, so that K is inverted instead of G."""
        return self.graph.n_users < self.graph.n_items

    def sizes(self) -> dict[str, int]:
        """``side`` is the smaller number of users and items."""
        return super().sizes() | {"side": min(self.graph.n_users, self.graph.n_items)}

    def solve(self) -> Self:
        """One Cholesky inverse: P, or K in the dual form."""
        X, l2 = self.history, float(self.config.l2)
        inverse = spd_inverse(ridge_gram(gram(X if self.dual else X.transpose()), (), l2))
        if self.dual:
            KX = np.ascontiguousarray(rows_times_dense(X.transpose(), inverse).T)
            diag_P = (1.0 - _column_dots(X, KX)) / l2
            self.projection = torch.from_numpy(KX)
        else:
            diag_P = inverse.diagonal().astype(np.float64)
            self.projection = torch.from_numpy(inverse)
        self.diagonal = torch.from_numpy(diag_P.astype(np.float32))
        return self

    def score(self, users: Tensor) -> Tensor:
        """``X − X P / diag(P)`` for these users."""
        rows = user_rows(users, self.graph.n_users)
        x, projection = self.history.take(rows), self.projection.numpy()
        return self._scores(x, projection[rows] if self.dual else rows_times_dense(x, projection))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """The same for new rows of X."""
        x = history_rows(histories, self.graph.n_items)
        if not self.dual:
            return self._scores(x, rows_times_dense(x, self.projection.numpy()))
        # x P = (x − x Xᵀ K X) / λ
        xP = -(products_by_row(x, self.history.transpose()) @ self.projection.numpy())
        xP[x.rows(), x.indices] += x.data
        xP /= np.float32(self.config.l2)
        return self._scores(x, xP)

    def _scores(self, x: Csr, xP: Float32) -> Tensor:
        """``x − x P / diag(P)``, in the memory of ``xP``."""
        np.divide(xP, -self.diagonal.numpy(), out=xP)
        xP[x.rows(), x.indices] += x.data
        return torch.from_numpy(xP)


def _column_dots(x: Csr, other: Float32) -> Float64:
    """``diag(Xᵀ · other)``, float64 [n_cols]."""
    picked = x.data * other[x.rows(), x.indices]
    dots: Float64 = np.bincount(x.indices, weights=picked, minlength=x.n_cols).astype(np.float64)
    return dots
