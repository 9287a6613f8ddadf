"""Dot products of the two ends of edges, with a gradient that adds up in a fixed order.

    s_bk = <u_{e(b)}, v_{c(b, k)}>        du_i = Σ_{b: e(b) = i, k} g_bk v_{c(b, k)}        dv_j likewise

Both gradients are products of a sparse matrix, the edges weighted by ``g``, with a table of vectors, and computed by
``spmm``; autograd would first write one vector per edge.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from relrank.kernels.counting_sort import transpose_edges
from relrank.kernels.csr import Csr
from relrank.kernels.jit import njit
from relrank.kernels.spmm import spmm


def edge_products(users: Tensor, items: Tensor, user_index: Tensor, columns: Tensor) -> Tensor:
    """Products of edges' ends, [B, n].

    Args:
        users: vectors [U, d].
        items: vectors [C, d].
        user_index: rows of ``users``, int64 [B].
        columns: rows of ``items`` that each is multiplied with, int64 [B, n].
    """
    if users.device.type != "cpu" or users.dtype != torch.float32 or items.dtype != torch.float32:
        ends = items.index_select(0, columns.reshape(-1)).view(*columns.shape, -1)
        return torch.einsum("bd,bnd->bn", users.index_select(0, user_index), ends)
    result: Tensor = _EdgeProducts.apply(users, items, user_index, columns)  # type: ignore[no-untyped-call]
    return result


class _EdgeProducts(torch.autograd.Function):
    """The products; their gradient is two sparse products and cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, user_index: Tensor, columns: Tensor) -> Tensor:
        users, items = users.contiguous(), items.contiguous()
        ctx.save_for_backward(users, items, user_index, columns)
        out = users.new_empty(columns.shape)
        _products(users.numpy(), items.numpy(), user_index.numpy(), columns.contiguous().numpy(), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        users, items, user_index, columns = ctx.saved_tensors
        weights = gradient.contiguous().numpy()
        indptr, indices, data = _by_user(user_index.numpy(), columns.numpy(), weights, len(users))
        d_users, d_items = torch.empty_like(users), torch.empty_like(items)
        spmm(Csr(indptr, indices, data, len(items)), items.numpy(), d_users.numpy())
        indptr, indices, data = transpose_edges(indptr, indices, data, len(items))
        spmm(Csr(indptr, indices, data, len(users)), users.numpy(), d_items.numpy())
        return d_users, d_items, None, None


@njit(parallel=True, nogil=True, fastmath={"reassoc", "contract"})
def _products(users, items, user_index, columns, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(out.shape[0]):
        user = users[user_index[b]]
        for k in range(out.shape[1]):
            item, total = items[columns[b, k]], np.float32(0)
            for j in range(user.size):
                total += user[j] * item[j]
            out[b, k] = total


@njit(nogil=True)
def _by_user(user_index, columns, values, n_users):  # type: ignore[no-untyped-def]
    """The edges as CSR arrays by user, in their order; an item may occur more than once."""
    n = columns.shape[1]
    indptr = np.zeros(n_users + 1, np.int64)
    for b in range(user_index.size):
        indptr[user_index[b] + 1] += n
    for i in range(n_users):
        indptr[i + 1] += indptr[i]
    at = indptr[:-1].copy()
    indices, data = np.empty(columns.size, np.int32), np.empty(columns.size, np.float32)
    for b in range(user_index.size):
        first = at[user_index[b]]
        for k in range(n):
            indices[first + k], data[first + k] = columns[b, k], values[b, k]
        at[user_index[b]] = first + n
    return indptr, indices, data
