"""Attention of nodes over their neighbours by dot products, with the gradient by hand.

    s_e = scale · μ_{r(e)} · (q_i · k_j),      a_e = softmax of s over the edges of i,      out_i = Σ_e a_e v_j

for every head, e being an edge j → i of kind r(e). Nothing of size [edges, dim] is allocated: the forward pass keeps
the shares a [edges, heads]; the backward pass runs once over the destinations (dq, dμ) and once over the sources (dk,
dv), so no two threads add to the same number, and the bits do not depend on the threads. With D = Σ_e a_e (g_i · v_j)

    ds_e = a_e (g_i · v_j − D),   dq_i = Σ_e scale μ ds_e k_j,   dk_j = Σ_e scale μ ds_e q_i,   dv_j = Σ_e a_e g_i

On a CPU these are compiled loops; on other devices, the same sums are torch's ``index_add``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relrank.kernels.counting_sort import transpose_edges
from relrank.kernels.csr import Int32, Int64, concat_ranges
from relrank.kernels.jit import njit
from relrank.kernels.row_partition import attention_pool, balanced_partition

CHUNKS = 64
"""Pieces of about equal work; a fixed number, since sums over all edges are added up by pieces."""
_LOOSE = {"reassoc", "contract", "nsz"}
"""Lets the sum over a vector run in vector registers; infinities and NaN are respected."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Edges by destination.

    Attributes:
        indptr: int64 [n_dst + 1], where each destination's edges start.
        indices: int32 [n_edges], rows of the sources in the tables of keys and values.
        kinds: int32 [n_edges], kinds of the edges, rows of μ.
    """

    indptr: Int64
    indices: Int32
    kinds: Int32


def dot_attention(
    query: Tensor, key: Tensor, value: Tensor, prior: Tensor, neighbours: Neighbours, scale: float
) -> Tensor:
    """Every destination's attention-weighted sum of values, [n_dst, heads, d]; zeros where it has no neighbour.

    Args:
        query: [n_dst, heads, d].
        key: [n_src, heads, d].
        value: [n_src, heads, d].
        prior: μ, [kinds, heads].
        neighbours: the edges.
        scale: of the products, usually 1/√d.
    """
    query, key, value, prior = (x if x.dtype == torch.float64 else x.float() for x in (query, key, value, prior))
    if query.device.type != "cpu":
        return _by_torch(query, key, value, prior, neighbours, scale)
    out: Tensor = _DotAttention.apply(query, key, value, prior, neighbours, scale)  # type: ignore[no-untyped-call]
    return out


def _by_torch(query: Tensor, key: Tensor, value: Tensor, prior: Tensor, n: Neighbours, scale: float) -> Tensor:
    """The same by torch's operations, on any device."""
    device, n_dst = query.device, len(query)
    ends = torch.from_numpy(np.repeat(np.arange(n_dst), np.diff(n.indptr))).to(device)
    starts, kinds = (torch.from_numpy(x).long().to(device) for x in (n.indices, n.kinds))
    scores = (query[ends] * key[starts]).sum(2) * prior[kinds] * scale
    return attention_pool(scores, value[starts], ends, n_dst)


class _DotAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prior: Tensor, n: Neighbours, scale: float
    ) -> Tensor:
        tables = [x.detach().contiguous().numpy() for x in (query, key, value, prior)]
        share = np.empty((n.indices.size, query.shape[1]), tables[0].dtype)
        out, scale = np.zeros_like(tables[0]), tables[0].dtype.type(scale)
        _forward(n.indptr, n.indices, n.kinds, _pieces(n.indptr), *tables, scale, share, out)
        ctx.tables, ctx.share, ctx.neighbours, ctx.scale = tables, share, n, scale
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prior = ctx.tables
        n: Neighbours = ctx.neighbours
        g = gradients[0].contiguous().numpy()
        d_query, d_key, d_value = np.zeros_like(query), np.zeros_like(key), np.zeros_like(value)
        pieces, d_score = _pieces(n.indptr), np.empty_like(ctx.share)
        d_prior = np.zeros((pieces.size - 1, *prior.shape), prior.dtype)
        gradients_ = g, d_score, d_query, d_prior
        _to_queries(n.indptr, n.indices, n.kinds, pieces, *ctx.tables, ctx.scale, ctx.share, *gradients_)
        starts, ends, edges = transpose_edges(n.indptr, n.indices, np.arange(n.indices.size), len(key))
        _to_sources(starts, edges, ends, _pieces(starts), query, ctx.share, d_score, g, d_key, d_value)
        tensors = (torch.from_numpy(x) for x in (d_query, d_key, d_value, d_prior.sum(0)))
        return *tensors, None, None


def _pieces(indptr: Int64) -> Int64:
    """Row borders of ``CHUNKS`` pieces with about equal work."""
    return balanced_partition(indptr, CHUNKS, row_work=4)


@njit(parallel=True, nogil=True, fastmath=_LOOSE)
def _forward(indptr, indices, kinds, pieces, query, key, value, prior, scale, share, out):  # type: ignore[no-untyped-def]
    heads, width = query.shape[1], query.shape[2]
    for c in numba.prange(pieces.size - 1):
        for i in range(pieces[c], pieces[c + 1]):
            first, last = indptr[i], indptr[i + 1]
            for h in range(heads):
                highest = -np.inf
                for e in range(first, last):
                    j = indices[e]
                    score = query.dtype.type(0)
                    for d in range(width):
                        score += query[i, h, d] * key[j, h, d]
                    share[e, h] = score * prior[kinds[e], h] * scale
                    highest = max(highest, share[e, h])
                total = 0.0
                for e in range(first, last):
                    share[e, h] = np.exp(share[e, h] - highest)
                    total += share[e, h]
                for e in range(first, last):
                    share[e, h] /= total
                    a, j = share[e, h], indices[e]
                    for d in range(width):
                        out[i, h, d] += a * value[j, h, d]


@njit(parallel=True, nogil=True, fastmath=_LOOSE)
def _to_queries(  # type: ignore[no-untyped-def]
    indptr, indices, kinds, pieces, query, key, value, prior, scale, share, g, d_score, d_query, d_prior
):
    """dq, and dμ by pieces; ``d_score`` becomes the factor scale · μ · ds, which dk needs too."""
    heads, width = query.shape[1], query.shape[2]
    for c in numba.prange(pieces.size - 1):
        for i in range(pieces[c], pieces[c + 1]):
            first, last = indptr[i], indptr[i + 1]
            for h in range(heads):
                mean = 0.0
                for e in range(first, last):
                    j = indices[e]
                    product = query.dtype.type(0)
                    for d in range(width):
                        product += g[i, h, d] * value[j, h, d]
                    d_score[e, h] = product
                    mean += share[e, h] * product
                for e in range(first, last):
                    j, r = indices[e], kinds[e]
                    ds = share[e, h] * (d_score[e, h] - mean) * scale
                    product = query.dtype.type(0)
                    factor = query.dtype.type(ds * prior[r, h])
                    for d in range(width):
                        product += query[i, h, d] * key[j, h, d]
                        d_query[i, h, d] += factor * key[j, h, d]
                    d_prior[c, r, h] += ds * product
                    d_score[e, h] = factor


@njit(parallel=True, nogil=True, fastmath=_LOOSE)
def _to_sources(starts, edges, ends, pieces, query, share, d_score, g, d_key, d_value):  # type: ignore[no-untyped-def]
    heads, width = query.shape[1], query.shape[2]
    for c in numba.prange(pieces.size - 1):
        for j in range(pieces[c], pieces[c + 1]):
            for at in range(starts[j], starts[j + 1]):
                e, i = edges[at], ends[at]
                for h in range(heads):
                    factor, a = d_score[e, h], share[e, h]
                    for d in range(width):
                        d_key[j, h, d] += factor * query[i, h, d]
                        d_value[j, h, d] += a * g[i, h, d]


def joined(edges: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]], n_dst: int) -> tuple[Int64, Int32, Int32]:
    """Edges of several kinds as one list by destination, in the order of kinds inside a destination.

    Args:
        edges: of each kind, where each destination's edges start [n_dst + 1], and their sources.
        n_dst: destinations.

    Returns:
        int64 [n_dst + 1], int32 [n_edges] sources, int32 [n_edges] kinds.
    """
    counts = np.stack([np.diff(indptr) for indptr, _ in edges]) if edges else np.zeros((0, n_dst), np.int64)
    before = np.cumsum(counts, axis=0) - counts
    indptr = np.concatenate([[0], np.cumsum(counts.sum(0))]).astype(np.int64)
    sources, kinds = (np.empty(int(indptr[-1]), np.int32) for _ in range(2))
    for kind, (_, rows) in enumerate(edges):
        at = concat_ranges(indptr[:-1] + before[kind], counts[kind])[1]
        sources[at], kinds[at] = rows, kind
    return indptr, sources, kinds
