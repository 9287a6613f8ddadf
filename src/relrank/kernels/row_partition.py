"""What loops over rows of edges share: pieces of about equal work, attention by torch.

Edges are listed by destination: ``indptr`` int64 [n_dst + 1] says where each destination's edges start, ``indices``
int32 [n_edges] are their sources; a source may occur more than once in a row.
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
        pieces: number of pieces.
        row_work: work of a row besides its edges, in edges.
    """
    work = indptr + row_work * np.arange(indptr.size)
    borders = np.searchsorted(work, np.linspace(0, work[-1], pieces + 1))
    borders[0], borders[-1] = 0, indptr.size - 1
    return borders.astype(np.int64)


def attention_pool(scores: Tensor, values: Tensor, rows: Tensor, n_dst: int) -> Tensor:
    """Every destination's mean of values, weighted by the softmax of its edges' scores, on any device.

    Args:
        scores: [n_edges, heads].
        values: [n_edges, heads, d].
        rows: destination of every edge, int64 [n_edges].
        n_dst: number of destinations.

    Returns:
        [n_dst, heads, d]; zeros where a destination has no edge.
    """
    lowest = scores.new_full((n_dst, scores.shape[1]), -math.inf)
    highest = lowest.scatter_reduce(0, rows[:, None].expand_as(scores), scores.detach(), "amax")
    powers = (scores - highest.index_select(0, rows)).exp()
    sums = powers.new_zeros(highest.shape).index_add(0, rows, powers)
    weighted = values * (powers / sums.index_select(0, rows))[:, :, None]
    return weighted.new_zeros(n_dst, *weighted.shape[1:]).index_add(0, rows, weighted)
