"""Weighted means of neighbours over the edges of a block, with the gradient by hand.

    out_i = Σ_j w_ij x_j / Σ_j w_ij,      dx_j = Σ_i w_ij / (Σ_k w_ik) g_i

On a CPU both are our own sparse products, of the block's rows and of their transpose, which one counting pass makes;
nothing is gathered edge by edge. Elsewhere, and in float64, they are torch's ``index_add``.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr
from relrank.graph.blocks import Edges
from relrank.graph.spmm import spmm


@numba.njit(nogil=True, cache=True)
def _normalise(indptr, weight, out):  # type: ignore[no-untyped-def]
    for i in range(indptr.size - 1):
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            total += weight[e]
        for e in range(indptr[i], indptr[i + 1]):
            out[e] = weight[e] / total


@numba.njit(nogil=True, cache=True)
def _transpose(indptr, indices, data, n_cols):  # type: ignore[no-untyped-def]
    starts = np.zeros(n_cols + 1, np.int64)
    for e in range(indices.size):
        starts[indices[e] + 1] += 1
    for j in range(n_cols):
        starts[j + 1] += starts[j]
    at = starts[:-1].copy()
    rows, values = np.empty(indices.size, np.int32), np.empty(indices.size, np.float32)
    for i in range(indptr.size - 1):
        for e in range(indptr[i], indptr[i + 1]):
            place = at[indices[e]]
            rows[place], values[place] = i, data[e]
            at[indices[e]] += 1
    return starts, rows, values


def transposed(matrix: Csr) -> Csr:
    """The transpose by one counting pass; entries that occur more than once stay apart."""
    starts, rows, values = _transpose(matrix.indptr, matrix.indices, matrix.data, matrix.n_cols)
    return Csr(starts, rows, values, matrix.n_rows)


def neighbour_mean(x: Tensor, edges: Edges) -> Tensor:
    """The weighted mean of every destination's neighbours; zeros where a destination has none.

    Args:
        x: vectors of the block's source nodes, [n_src, d].
        edges: one edge type of the block.

    Returns:
        [n_dst, d].
    """
    if x.device.type == "cpu" and x.dtype == torch.float32:
        mean: Tensor = _Mean.apply(x, edges)  # type: ignore[no-untyped-call]
        return mean
    n_dst = edges.indptr.numel() - 1
    rows = torch.repeat_interleave(torch.arange(n_dst, device=x.device), edges.indptr.diff())
    weight = edges.weight.to(x.dtype)
    total = x.new_zeros(n_dst).index_add_(0, rows, weight)
    share = weight / total[rows]
    return x.new_zeros(n_dst, x.shape[1]).index_add(0, rows, x[edges.indices.long()] * share[:, None])


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Edges) -> Tensor:
        indptr, weight = edges.indptr.numpy(), edges.weight.numpy()
        share = np.empty(weight.size, np.float32)
        _normalise(indptr, weight, share)
        ctx.matrix = Csr(indptr, edges.indices.numpy(), share, len(x))
        out = np.empty((indptr.size - 1, x.shape[1]), np.float32)
        spmm(ctx.matrix, x.contiguous().numpy(), out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        back = transposed(ctx.matrix)
        out = np.empty((back.n_rows, gradients[0].shape[1]), np.float32)
        spmm(back, gradients[0].contiguous().numpy(), out)
        return torch.from_numpy(out), None
