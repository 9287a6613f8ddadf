"""A user as attention over the history: items, their ratings, and their age.

    e_j = v_j + ρ(rating of j) + a(⌊log₂ positions from the end⌋),      q_u = Q (mean_j v_j + side(u))
    h_u = Σ_j softmax_j(q_u · K e_j / √d) V e_j + side(u)                                (each head)

The query depends on the user, so that two users weigh the same item differently. Ratings are the edges' weights,
binned into levels. Level 0 is an unknown rating, as in a history that is folded in; training hides some ratings, so
that it is learned. Histories are concatenated, without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.aggregation import sparse_product
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32, Int64, concat_ranges
from relrank.kernels.dot_attention import Neighbours, dot_attention
from relrank.models.core.layers import Affine, near_identity

MOST_LEVELS = 16
"""Up to this many distinct weights, each is a level; more are binned at quantiles."""
MOST_AGES = 12
"""Levels of age: the latest item, the two before it, the four before those, and so on."""
HIDDEN = 0.1
"""Share of a batch's users whose ratings are hidden in a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Concatenated histories of several users.

    Attributes:
        indptr: int64 [n + 1], where each starts.
        items: int32 [n_events], item rows.
        levels: int64 [n_events], rating levels; 0 if unknown.
        ages: int64 [n_events], ⌊log₂(positions from the end + 1)⌋, 0 for the latest; all 0 without an order.
    """

    indptr: Int64
    items: npt.NDArray[np.int32]
    levels: Int64
    ages: Int64

    @classmethod
    def of_sets(cls, rows: Csr) -> Histories:
        """Histories without order or ratings."""
        return cls(rows.indptr, rows.indices, *(np.zeros(rows.nnz, np.int64) for _ in range(2)))

    @property
    def n(self) -> int:
        """Number of histories."""
        return self.indptr.size - 1


def rating_levels(weights: Float32) -> Int64:
    """Level of each weight, 1 … n in ascending order, int64 [n_edges]."""
    distinct = np.unique(weights)
    if distinct.size > MOST_LEVELS:
        distinct = np.unique(np.quantile(weights, np.linspace(0, 1, MOST_LEVELS + 1)[:-1], method="inverted_cdf"))
    levels: Int64 = np.searchsorted(distinct, weights, side="right")
    return levels


class TrainingHistories:
    """The latest items of every user's training history, in time order where there is one.

    With an order, an item occurs as often as it was chosen, as in histories that are folded in.

    Args:
        graph: has the interactions.
        window: latest items of a history that are read; 0 for all. Without an order, all are read.
    """

    def __init__(self, graph: Graph, window: int) -> None:
        edges = graph.interactions
        self.ordered = graph.places is not None
        self.window = window if self.ordered else 0
        chronological_order = graph.chronological_order()
        order = np.arange(len(edges)) if chronological_order is None else chronological_order
        users = edges.src[order]  # ascending in either order
        self.indptr = np.searchsorted(users, np.arange(graph.n_users + 1)).astype(np.int64)
        levels = rating_levels(edges.weight)
        self.n_levels = int(levels.max(initial=0))
        self.items, self.levels = edges.dst[order], levels[order]
        self.keys = users.astype(np.int64) * graph.n_items + self.items
        self.n_items = graph.n_items

    def of(self, users: Int64, cut: tuple[Int64, Int64] | None = None) -> Histories:
        """Histories of some users, without some edges.

        Args:
            users: user rows [n].
            cut: (user rows, item rows) to leave out, so that a target is never in the history that predicts it.
        """
        indptr, at = concat_ranges(self.indptr[users], self.indptr[users + 1] - self.indptr[users])
        if cut is not None:
            kept = ~np.isin(self.keys[at], cut[0] * self.n_items + cut[1])
            owner = np.repeat(np.arange(users.size), np.diff(indptr))[kept]
            at, indptr = at[kept], np.searchsorted(owner, np.arange(users.size + 1)).astype(np.int64)
        return self._latest(indptr, self.items[at], self.levels[at])

    def given(self, indptr: Int64, items: npt.NDArray[np.int32]) -> Histories:
        """Other histories, concatenated, oldest item first, with unknown ratings."""
        return self._latest(indptr, items, np.zeros(items.size, np.int64))

    def _latest(self, indptr: Int64, items: npt.NDArray[np.int32], levels: Int64) -> Histories:
        lengths = np.diff(indptr)
        from_end = np.repeat(indptr[1:], lengths) - 1 - np.arange(items.size)
        if not self.ordered:
            return Histories(indptr, items, levels, np.zeros(items.size, np.int64))
        ages = np.minimum(np.frexp(from_end + 1.0)[1] - 1, MOST_AGES - 1).astype(np.int64)
        if not self.window:
            return Histories(indptr, items, levels, ages)
        kept = from_end < self.window
        starts = np.concatenate([[0], np.cumsum(np.minimum(lengths, self.window))]).astype(np.int64)
        return Histories(starts, items[kept], levels[kept], ages[kept])


class HistoryAttention(nn.Module):
    """Vectors of users from their histories.

    Args:
        dim: length of a vector.
        heads: a divisor of ``dim``.
        n_levels: number of rating levels; with one, ratings are ignored.
        ordered: whether histories have an order; without one, ages are ignored.

    Attributes:
        ratings: ρ, [n_levels + 1, dim]; row 0 is "unknown".
        ages: τ, [MOST_AGES, dim].
        nobody: vector of a user without a history, [dim].
    """

    def __init__(self, dim: int, heads: int, n_levels: int, ordered: bool) -> None:
        super().__init__()
        self.heads, self.rated, self.ordered = heads, n_levels > 1, ordered
        self.ratings = nn.Parameter(torch.zeros(n_levels + 1 if n_levels > 1 else 0, dim))
        self.ages = nn.Parameter(torch.zeros(MOST_AGES if ordered else 0, dim))
        self.query, self.key, self.value = Affine(dim, dim), Affine(dim, dim), Affine(dim, dim)
        self.nobody = nn.Parameter(torch.zeros(dim))

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """Initially h is nearly the mean of the history."""
        dim = self.nobody.numel()
        with torch.no_grad():
            for table in (self.ratings, self.ages):
                table.copy_(torch.randn(table.shape, generator=generator) * (0.1 * scale))
            self.nobody.copy_(torch.randn(dim, generator=generator) * scale)
            for affine in (self.query, self.key):
                affine.reset(generator, 0.5)
            self.value.weight[:-1] = near_identity((dim, dim), generator)
            # not 0: it is the whole vector of a history whose item vectors are zero
            self.value.weight[-1] = torch.randn(dim, generator=generator) * (0.1 * scale)

    def keys(self, items: Tensor, histories: Histories, generator: torch.Generator | None = None) -> Tensor:
        """Keys k of every event, [n_events, dim].

        Args:
            items: v of the catalogue, [n_items, dim].
            histories: of some users.
            generator: in training, of the users whose ratings are hidden; None when scoring.
        """
        device = items.device
        keys = items.index_select(0, torch.from_numpy(histories.items).to(device))
        if self.rated:
            levels = torch.from_numpy(histories.levels).to(device)
            if generator is not None:
                hidden = torch.rand(histories.n, generator=generator, device=device) < HIDDEN
                lengths = torch.from_numpy(np.diff(histories.indptr)).to(device)
                levels = levels.masked_fill(hidden.repeat_interleave(lengths), 0)
            keys = keys + functional.embedding(levels, self.ratings)
        if self.ordered:
            keys = keys + functional.embedding(torch.from_numpy(histories.ages).to(device), self.ages)
        return keys

    def forward(self, items: Tensor, keys: Tensor, histories: Histories, side: Tensor | None = None) -> Tensor:
        """Vectors h of the users, [n, dim].

        Args:
            items: v of the catalogue, [n_items, dim].
            keys: k of every event, from ``keys``.
            histories: of the users.
            side: side(u), [n, dim].
        """
        lengths = np.diff(histories.indptr)
        share = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        mean = sparse_product(Csr(histories.indptr, histories.items, share, len(items)), items)
        mean = mean if side is None else mean + side
        events = np.arange(histories.items.size, dtype=np.int32)
        neighbours = Neighbours(histories.indptr, events, np.zeros_like(events))

        one, width = items.new_ones(1, self.heads), items.shape[1] // self.heads

        def by_head(affine: Affine, x: Tensor) -> Tensor:
            projected: Tensor = affine(x)
            return projected.view(len(x), self.heads, width)

        query, key, value = by_head(self.query, mean), by_head(self.key, keys), by_head(self.value, keys)
        h = dot_attention(query, key, value, one, neighbours, width**-0.5).flatten(1)
        empty = torch.from_numpy(lengths == 0).to(items.device)[:, None]
        h = h + empty * self.nobody
        return h if side is None else h + side
