"""What loops over rows of edges share: pieces of equal work, attention by torch.

Edges are listed by destination: ``indptr`` int64 [n_dst + 1] says where each destination's start, ``indices`` int32
[n_edges] where they come from; one source may occur more than once in a row.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from relrank.kernels.csr import Int64


def balanced_partition(indptr: Int64, pieces: int, row_work: int) -> Int64:
    """Row borders of pieces with about equal work, int64 [pieces + 1].

    Args:
        indptr: of the edges.
        pieces: how many.
        row_work: of a row beside its edges, in edges.
    """
    work = indptr + row_work * np.arange(indptr.size)
    found = np.searchsorted(work, np.linspace(0, work[-1], pieces + 1))
    found[0], found[-1] = 0, indptr.size - 1
    return found.astype(np.int64)


def attention_pool(scores: Tensor, values: Tensor, rows: Tensor, n_dst: int) -> Tensor:
    """Each destination's mean of values by the softmax of its edges' scores, by operations that every device has.

    Args:
        scores: [n_edges, heads].
        values: [n_edges, heads, d].
        rows: destination of every edge, int64 [n_edges].
        n_dst: destinations.

    Returns:
        [n_dst, heads, d]; zeros where a destination has no edge.
    """
    lowest = scores.new_full((n_dst, scores.shape[1]), -math.inf)
    highest = lowest.scatter_reduce(0, rows[:, None].expand_as(scores), scores.detach(), "amax")
    powers = (scores - highest.index_select(0, rows)).exp()
    sums = powers.new_zeros(highest.shape).index_add(0, rows, powers)
    heard = values * (powers / sums.index_select(0, rows))[:, :, None]
    return heard.new_zeros(n_dst, *heard.shape[1:]).index_add(0, rows, heard)
