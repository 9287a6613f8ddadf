"""A user as attention over the history: what was chosen, how it was rated, how long ago.

    k_j = v_j + ρ(rating of j) + τ(⌊log₂ places from the end⌋),      q = Q (mean_j v_j + side(u))
    h_u = Σ_j softmax_j(q · K k_j / √d) V k_j + side(u)

for every head. The query is the user's own, so that two users weigh the same item differently. Ratings are what the
edges weigh, cut into levels; level 0 is a rating that nobody knows, as in a history that is folded in, and is
practised in training. Histories lie end to end, so that there is no padding.
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
"""Distinct weights up to which every one is a level of its own; more are cut at quantiles."""
MOST_AGES = 12
"""Levels of age: the latest item, the two before, the four before those, and so on."""
HIDDEN = 0.1
"""Share of a batch's users whose ratings are hidden in a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Histories:
    """Histories of several users, end to end.

    Attributes:
        indptr: int64 [n + 1], where each starts.
        items: int32 [n_events], item rows.
        levels: int64 [n_events], of the rating; 0 if it is not known.
        ages: int64 [n_events], ⌊log₂(places from the end + 1)⌋, 0 for the latest; all 0 where there is no order.
    """

    indptr: Int64
    items: npt.NDArray[np.int32]
    levels: Int64
    ages: Int64

    @classmethod
    def of_sets(cls, rows: Csr) -> Histories:
        """Histories of which neither order nor ratings are known."""
        return cls(rows.indptr, rows.indices, *(np.zeros(rows.nnz, np.int64) for _ in range(2)))

    @property
    def n(self) -> int:
        """Number of histories."""
        return self.indptr.size - 1


def rating_levels(weights: Float32) -> Int64:
    """Level of each weight, 1 … n ascending; int64 [n_edges]."""
    distinct = np.unique(weights)
    if distinct.size > MOST_LEVELS:
        distinct = np.unique(np.quantile(weights, np.linspace(0, 1, MOST_LEVELS + 1)[:-1], method="inverted_cdf"))
    levels: Int64 = np.searchsorted(distinct, weights, side="right")
    return levels


class TrainingHistories:
    """The histories that a graph's interactions make: the latest items of each, in time order where there is one.

    In time an item is there as often as it was chosen, as it is in histories that are folded in.

    Args:
        graph: the interactions.
        window: items of a history that are read, the latest; 0 for all. Without an order in time it is all.
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
            cut: (user rows, item rows) that are left out: a target is never in the history that is to find it.
        """
        indptr, at = concat_ranges(self.indptr[users], self.indptr[users + 1] - self.indptr[users])
        if cut is not None:
            left = ~np.isin(self.keys[at], cut[0] * self.n_items + cut[1])
            owner = np.repeat(np.arange(users.size), np.diff(indptr))[left]
            at, indptr = at[left], np.searchsorted(owner, np.arange(users.size + 1)).astype(np.int64)
        return self._latest(indptr, self.items[at], self.levels[at])

    def given(self, indptr: Int64, items: npt.NDArray[np.int32]) -> Histories:
        """Histories from elsewhere, end to end, oldest item first; nobody knows their ratings."""
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
        heads: they divide it.
        n_levels: of ratings; with one, ratings say nothing and have no vectors.
        ordered: whether ages say something.

    Attributes:
        ratings: ρ, [n_levels + 1, dim]; row 0 is "not known".
        ages: τ, [MOST_AGES, dim].
        nobody: [dim], the user without a history.
    """

    def __init__(self, dim: int, heads: int, n_levels: int, ordered: bool) -> None:
        super().__init__()
        self.heads, self.rated, self.ordered = heads, n_levels > 1, ordered
        self.ratings = nn.Parameter(torch.zeros(n_levels + 1 if n_levels > 1 else 0, dim))
        self.ages = nn.Parameter(torch.zeros(MOST_AGES if ordered else 0, dim))
        self.query, self.key, self.value = Affine(dim, dim), Affine(dim, dim), Affine(dim, dim)
        self.nobody = nn.Parameter(torch.zeros(dim))

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """Nearly the plain mean of the history."""
        dim = self.nobody.numel()
        with torch.no_grad():
            for table in (self.ratings, self.ages):
                table.copy_(torch.randn(table.shape, generator=generator) * (0.1 * scale))
            self.nobody.copy_(torch.randn(dim, generator=generator) * scale)
            for affine in (self.query, self.key):
                affine.reset(generator, 0.5)
            self.value.weight[:-1] = near_identity((dim, dim), generator)
            # not 0: of a history whose items say nothing it is all that there is
            self.value.weight[-1] = torch.randn(dim, generator=generator) * (0.1 * scale)

    def keys(self, items: Tensor, histories: Histories, generator: torch.Generator | None = None) -> Tensor:
        """Every event as what attention reads: k, [n_events, dim].

        Args:
            items: vectors of the catalogue, [n_items, dim].
            histories: of some users.
            generator: in training, of the tenth of the users whose ratings are hidden.
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
        """Vectors of the users, [n, dim].

        Args:
            items: vectors of the catalogue, [n_items, dim].
            keys: k of every event, from ``keys``.
            histories: of the users.
            side: what else is known of the users, [n, dim].
        """
        lengths = np.diff(histories.indptr)
        share = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        asked = sparse_product(Csr(histories.indptr, histories.items, share, len(items)), items)
        asked = asked if side is None else asked + side
        events = np.arange(histories.items.size, dtype=np.int32)
        neighbours = Neighbours(histories.indptr, events, np.zeros_like(events))

        one, width = items.new_ones(1, self.heads), items.shape[1] // self.heads

        def by_head(affine: Affine, x: Tensor) -> Tensor:
            projected: Tensor = affine(x)
            return projected.view(len(x), self.heads, width)

        query, key, value = by_head(self.query, asked), by_head(self.key, keys), by_head(self.value, keys)
        heard = dot_attention(query, key, value, one, neighbours, width**-0.5).flatten(1)
        empty = torch.from_numpy(lengths == 0).to(items.device)[:, None]
        heard = heard + empty * self.nobody
        return heard if side is None else heard + side
