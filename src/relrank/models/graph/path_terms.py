"""Path scores: ``Σ_r a_r √(p_r(u, i) / m_r)``, a_r ≥ 0.

p_r(u, i) is the summed weight of the paths of kind r from the user to the item (see ``relrank.graph.meta_paths``),
where each item of the history H counts |H|^-½; m_r is the mean of p_r over pairs with a path. The square root limits
the path scores of users with many paths; a plain sum trained worse.

In training, a batch's own edges are removed from the histories, and no path passes through the user itself;
otherwise a_r would measure how much of the target the relation leaks.
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
"""Limit of the cached path scores of all users; with them, a step computes only the paths of its removed edges."""
SAMPLE = 256
"""Users from whose paths m_r is estimated."""


class _Weighted(torch.autograd.Function):
    """``Σ_r a_r P_r`` for constant matrices; the gradient of a_r is ⟨g, P_r⟩."""

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
    """|H|^-½ at every item of each history H."""
    weight = 1 / np.sqrt(np.maximum(rows.degrees(), 1))
    return Csr(rows.indptr, rows.indices, weight[rows.rows()].astype(np.float32), rows.n_cols)


def without_edges(rows: Csr, users: Int64, edges: tuple[Int64, Int64]) -> tuple[Csr, Csr]:
    """Histories of some users without a batch's edges, and those edges.

    Args:
        rows: the users' histories, one row each.
        users: their rows, ascending [n].
        edges: (user rows, item rows), users among ``users``.
    """
    n = rows.n_cols
    row = np.searchsorted(users, edges[0])
    kept = ~np.isin(rows.rows().astype(np.int64) * n + rows.indices, row * n + edges[1])
    left, cut = (Csr.from_pairs(rows.rows()[which], rows.indices[which], (rows.n_rows, n)) for which in (kept, ~kept))
    return left, cut


class PathTerms(nn.Module):
    """Path scores with learned weights.

    Args:
        kinds: kinds of path.
        start: initial a of each; kinds with 0 are excluded permanently.
        history: training interactions, users by items.
        learn: whether a is trained.
    """

    def __init__(self, kinds: list[MetaPath], start: Tensor, history: Csr, learn: bool = True) -> None:
        super().__init__()
        self.kinds = [k for k, a in zip(kinds, start.tolist(), strict=True) if a > 0]
        self._start = inverse_softplus(start[start > 0])
        self.raw = nn.Parameter(self._start.clone(), requires_grad=learn)
        self._history = history
        self._cached_paths: list[Float32] | None = None
        self._cache_lock = threading.Lock()
        some = np.linspace(0, history.n_rows - 1, min(SAMPLE, history.n_rows)).astype(np.int64)
        self._scales = [1.0] * len(self.kinds)
        for number, paths in enumerate(self._rooted(history.take(some), some)):
            self._scales[number] = float(np.square(paths[paths > 0], dtype=np.float64).mean()) if paths.any() else 1.0

    def reset(self) -> None:
        """Reset a to the initial values."""
        with torch.no_grad():
            self.raw.copy_(self._start)

    @property
    def weights(self) -> dict[str, float]:
        """Current a per kind of path."""
        values = functional.softplus(self.raw).tolist()
        return {k.name: a for k, a in zip(self.kinds, values, strict=True)}

    def encoder_inputs(
        self, users: Int64, edges: tuple[Int64, Int64], parallel: bool, left_and_cut: tuple[Csr, Csr] | None = None
    ) -> tuple[Tensor, ...]:
        """√(p_r / m_r) per kind for the batch's users, without the batch's own edges: inputs of ``forward``.

        Args:
            users: rows of the batch's users, ascending [n].
            edges: the batch's training edges, (user rows, item rows).
            parallel: whether kernels may start threads.
            left_and_cut: the result of ``without_edges``, if it has been computed.
        """
        left, cut = left_and_cut or without_edges(self._history.take(users), users, edges)
        return tuple(torch.from_numpy(p) for p in self._rooted_without(users, cut, left, parallel))

    def forward(self, encoder_inputs: tuple[Tensor, ...]) -> Tensor:
        """Σ_r a_r √(p_r / m_r), float32 [n, n_items]."""
        scores: Tensor = _Weighted.apply(functional.softplus(self.raw), *encoder_inputs)  # type: ignore[no-untyped-call]
        return scores

    def add(self, scores: Tensor, rows: Csr, users: Int64 | None, parallel: bool = True) -> Tensor:
        """Add the path scores of full histories, in place.

        Args:
            scores: [rows.n_rows, n_items].
            rows: histories.
            users: the user row of each history; None for users unseen during training.
            parallel: as for ``encoder_inputs``.
        """
        for weight, paths in zip(self.weights.values(), self._rooted(rows, users, parallel), strict=True):
            scores += weight * torch.from_numpy(paths).to(scores.device)
        return scores

    def clear_derived(self) -> None:
        """Drop the cached path scores."""
        self._cached_paths = None

    def _rooted(self, rows: Csr, users: Int64 | None, parallel: bool = True) -> list[Float32]:
        """√(p_r / m_r) per kind, float32 [n_rows, n_items] each."""
        weighted, roots = inverse_sqrt_weights(rows), []
        for kind, scale in zip(self.kinds, self._scales, strict=True):
            paths = path_scores(kind, weighted, users, parallel)
            paths *= np.float32(1 / scale)
            roots.append(np.sqrt(paths, out=paths))
        return roots

    def _paths_of_all_users(self, parallel: bool) -> list[Float32] | None:
        """Path scores of all full histories, each item counted 1; None if they exceed ``MAX_CACHE_BYTES``."""
        rows = self._history
        with self._cache_lock:
            if self._cached_paths is None and 4 * rows.n_rows * rows.n_cols * len(self.kinds) <= MAX_CACHE_BYTES:
                ones = Csr(rows.indptr, rows.indices, np.ones(rows.nnz, np.float32), rows.n_cols)
                users = np.arange(rows.n_rows)
                self._cached_paths = [path_scores(kind, ones, users, parallel) for kind in self.kinds]
        return self._cached_paths

    def _rooted_without(self, users: Int64, cut: Csr, left: Csr, parallel: bool) -> list[Float32]:
        """``_rooted`` of histories without some edges: paths of the full histories minus those of the edges."""
        of_all_users = self._paths_of_all_users(parallel)
        if of_all_users is None:
            return self._rooted(left, users, parallel)
        weight = (1 / np.sqrt(np.maximum(left.degrees(), 1))).astype(np.float32)
        roots = []
        for kind, scale, scores in zip(self.kinds, self._scales, of_all_users, strict=True):
            if kind.start is None:
                removed, factor = path_scores(kind, cut, users, parallel), weight / np.float32(scale)
            else:  # paths that start with a relation of the user do not depend on the history
                removed = np.zeros((users.size, left.n_cols), np.float32)
                factor = np.ones_like(weight) / np.float32(scale)
            roots.append(root_of_difference(scores, users, removed, factor, parallel))
        return roots
