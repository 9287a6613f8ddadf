"""What paths add to a user's scores: ``Σ_r a_r √(p_r(u, i) / m_r)``, a_r ≥ 0.

p_r(u, i) is the summed weight of the paths of kind r from the user to the item (see ``relrank.graph.meta_paths``),
where each item of a history H counts |H|^-½; m_r is its mean where there is a path. The square root keeps a user with
many paths from outweighing everything else in a softmax; a plain sum trained worse.

In training a batch's own edges are cut out of the histories that lead to them, and no path runs through the user
itself; else a relation's weight measures how much of the answer it leaks.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.meta_paths import MetaPath, path_scores, root_of_difference
from relrank.kernels.csr import Csr, Float32, Int64
from relrank.models.core.layers import inverse_softplus

MAX_CACHE_BYTES = 2 << 30
"""Room for the path scores of all users: if they are kept, a step pays only for the edges that it cuts out."""
SAMPLE = 256
"""Users whose paths decide the scale m_r."""


class _Weighted(torch.autograd.Function):
    """``Σ_r a_r P_r`` for matrices without a gradient; the gradient of a_r is ⟨g, P_r⟩."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *paths: Tensor) -> Tensor:
        ctx.paths = paths
        total = torch.zeros_like(paths[0], dtype=weights.dtype)
        for weight, matrix in zip(weights.tolist(), paths, strict=True):
            total.add_(matrix, alpha=weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat = gradients[0].reshape(-1)
        dots = torch.stack([torch.dot(flat, matrix.reshape(-1).to(flat)) for matrix in ctx.paths])
        return dots, *(None for _ in ctx.paths)


def inverse_sqrt_weights(rows: Csr) -> Csr:
    """|H|^-½ at every item of a history H."""
    share = 1 / np.sqrt(np.maximum(rows.degrees(), 1))
    return Csr(rows.indptr, rows.indices, share[rows.rows()].astype(np.float32), rows.n_cols)


def without_edges(rows: Csr, users: Int64, edges: tuple[Int64, Int64]) -> tuple[Csr, Csr]:
    """Histories of some users without a batch's edges, and those edges.

    Args:
        rows: the users' histories, one row each.
        users: their rows, ascending [n].
        edges: (user rows, item rows), users among ``users``.
    """
    n = rows.n_cols
    place = np.searchsorted(users, edges[0])
    kept = ~np.isin(rows.rows().astype(np.int64) * n + rows.indices, place * n + edges[1])
    left, cut = (Csr.from_pairs(rows.rows()[which], rows.indices[which], (rows.n_rows, n)) for which in (kept, ~kept))
    return left, cut


class PathTerms(nn.Module):
    """Weights of some kinds of path, and what the paths add.

    Args:
        kinds: of path.
        start: weight of each at the start; a kind of weight 0 is left out for good.
        history: users by items, the training interactions.
        learn: whether the weights move.
    """

    def __init__(self, kinds: list[MetaPath], start: Tensor, history: Csr, learn: bool = True) -> None:
        super().__init__()
        self.kinds = [k for k, a in zip(kinds, start.tolist(), strict=True) if a > 0]
        self._start = inverse_softplus(start[start > 0])
        self.raw = nn.Parameter(self._start.clone(), requires_grad=learn)
        self._history = history
        self._whole: list[Float32] | None = None
        self._making = threading.Lock()
        some = np.linspace(0, history.n_rows - 1, min(SAMPLE, history.n_rows)).astype(np.int64)
        self._scales = [1.0] * len(self.kinds)
        for number, paths in enumerate(self._rooted(history.take(some), some)):
            self._scales[number] = float(np.square(paths[paths > 0], dtype=np.float64).mean()) if paths.any() else 1.0

    def reset(self) -> None:
        """Weights at their stated start."""
        with torch.no_grad():
            self.raw.copy_(self._start)

    @property
    def weights(self) -> dict[str, float]:
        """Weight a per kind of path as it stands."""
        values = functional.softplus(self.raw).tolist()
        return {k.name: a for k, a in zip(self.kinds, values, strict=True)}

    def encoder_inputs(
        self, users: Int64, edges: tuple[Int64, Int64], parallel: bool, left_and_cut: tuple[Csr, Csr] | None = None
    ) -> tuple[Tensor, ...]:
        """What ``forward`` needs: √(p_r / m_r) per kind for users whose histories lack a batch's edges.

        Args:
            users: rows of the batch's users, ascending [n].
            edges: the batch's training edges, (user rows, item rows).
            parallel: False stays out of parallel regions.
            left_and_cut: what ``without_edges`` gives, where it is known.
        """
        left, cut = left_and_cut or without_edges(self._history.take(users), users, edges)
        return tuple(torch.from_numpy(p) for p in self._rooted_without(users, cut, left, parallel))

    def forward(self, encoder_inputs: tuple[Tensor, ...]) -> Tensor:
        """What the paths add to the scores of the users, float32 [n, n_items]."""
        added: Tensor = _Weighted.apply(functional.softplus(self.raw), *encoder_inputs)  # type: ignore[no-untyped-call]
        return added

    def add(self, scores: Tensor, rows: Csr, users: Int64 | None, parallel: bool = True) -> Tensor:
        """Scores with what whole histories add to them, in place.

        Args:
            scores: [rows.n_rows, n_items].
            rows: histories.
            users: the user row of each history; None for people the graph does not know.
            parallel: as for ``encoder_inputs``.
        """
        for weight, paths in zip(self.weights.values(), self._rooted(rows, users, parallel), strict=True):
            scores += weight * torch.from_numpy(paths).to(scores.device)
        return scores

    def clear_derived(self) -> None:
        """Drop the kept paths."""
        self._whole = None

    def _rooted(self, rows: Csr, users: Int64 | None, parallel: bool = True) -> list[Float32]:
        """√(p_r / m_r) per kind, float32 [n_rows, n_items] each."""
        even, found = inverse_sqrt_weights(rows), []
        for kind, scale in zip(self.kinds, self._scales, strict=True):
            paths = path_scores(kind, even, users, parallel)
            paths *= np.float32(1 / scale)
            found.append(np.sqrt(paths, out=paths))
        return found

    def _everyone(self, parallel: bool) -> list[Float32] | None:
        """Path scores of all users' whole histories, each item counted 1; None if they would take too much room."""
        rows = self._history
        with self._making:
            if self._whole is None and 4 * rows.n_rows * rows.n_cols * len(self.kinds) <= MAX_CACHE_BYTES:
                ones = Csr(rows.indptr, rows.indices, np.ones(rows.nnz, np.float32), rows.n_cols)
                everyone = np.arange(rows.n_rows)
                self._whole = [path_scores(kind, ones, everyone, parallel) for kind in self.kinds]
        return self._whole

    def _rooted_without(self, users: Int64, cut: Csr, left: Csr, parallel: bool) -> list[Float32]:
        """``_rooted`` of what is left of the users' histories; scores are sums, so the part cut out is subtracted."""
        whole = self._everyone(parallel)
        if whole is None:
            return self._rooted(left, users, parallel)
        even = (1 / np.sqrt(np.maximum(left.degrees(), 1))).astype(np.float32)
        found = []
        for kind, scale, scores in zip(self.kinds, self._scales, whole, strict=True):
            # paths that start at the user's relations know no history
            less = (
                path_scores(kind, cut, users, parallel)
                if kind.start is None
                else np.zeros((users.size, left.n_cols), np.float32)
            )
            factor = (even if kind.start is None else np.ones_like(even)) / np.float32(scale)
            found.append(root_of_difference(scores, users, less, factor, parallel))
        return found
