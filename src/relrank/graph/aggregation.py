"""Weighted means of neighbours over the edges of a block, with a hand-written gradient.

    out_i = Σ_j w_ij x_j / Σ_j w_ij,      dx_j = Σ_i w_ij / (Σ_k w_ik) g_i

On a CPU both are sparse products, with the block's rows and with their transpose. On other devices, and in float64,
they are torch's ``index_add``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from relrank.graph.sampling.blocks import Edges
from relrank.kernels.csr import Csr
from relrank.kernels.jit import njit
from relrank.kernels.spmm import spmm


@njit(nogil=True)
def _normalise(indptr, weight, out):  # type: ignore[no-untyped-def]
    for i in range(indptr.size - 1):
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            total += weight[e]
        for e in range(indptr[i], indptr[i + 1]):
            out[e] = weight[e] / total


def sparse_product(matrix: Csr, x: Tensor) -> Tensor:
    """``matrix @ x`` with a gradient for x: [n, m] by [m, d] gives [n, d]."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        product: Tensor = _Product.apply(x, matrix)  # type: ignore[no-untyped-call]
        return product
    rows, columns = (torch.from_numpy(a).long().to(x.device) for a in (matrix.rows(), matrix.indices))
    values = torch.from_numpy(matrix.data).to(x)
    return x.new_zeros(matrix.n_rows, x.shape[1]).index_add(0, rows, x[columns] * values[:, None])


def neighbour_mean(x: Tensor, edges: Edges) -> Tensor:
    """The weighted mean of each destination's neighbours; zeros where a destination has none.

    Args:
        x: vectors of the block's source nodes, [n_src, d].
        edges: one edge type of the block.

    Returns:
        [n_dst, d].
    """
    indptr, indices, weight = (t.cpu().numpy() for t in edges)
    share = np.empty(weight.size, np.float32)
    _normalise(indptr, weight, share)
    return sparse_product(Csr(indptr, indices, share, len(x)), x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Csr) -> Tensor:
        ctx.matrix = matrix
        out = np.empty((matrix.n_rows, x.shape[1]), np.float32)
        spmm(matrix, x.contiguous().numpy(), out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        transposed = ctx.matrix.transpose()
        out = np.empty((transposed.n_rows, gradients[0].shape[1]), np.float32)
        spmm(transposed, gradients[0].contiguous().numpy(), out)
        return torch.from_numpy(out), None
