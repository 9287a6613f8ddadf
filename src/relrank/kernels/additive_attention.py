"""Additive attention over the rows of a block (GATv2: Brody, Alon & Yahav 2022, eq. 7), with the gradient by hand.

    z_ij = r_i + l_j + w_ij e,   s_ij = v · leaky(z_ij),   a_ij = softmax over j ∈ N(i) of s_ij,   o_i = Σ_j a_ij l_j

for each head; leaky(z) = k z, with k = 1 where z > 0 and the slope elsewhere. With g the gradient at o,

    t_ij = a_ij (g_i · l_j − g_i · o_i),         dl_j = Σ_i a_ij g_i + t_ij v k_ij,
    dr_i = Σ_j t_ij v k_ij,     de = Σ_ij t_ij w_ij v k_ij,     dv = Σ_ij t_ij leaky(z_ij).

On a CPU these are compiled loops in which the sums of a head stay in registers; nothing of size [edges, dim] is
allocated, and only a [edges, heads] is kept for the backward pass. The gradient is one pass over destinations and one
over sources, by the transposed edges. A row is summed by one thread in a fixed order, and sums over all edges are cut
into blocks that depend on the edges alone: the same input gives the same bits on any number of threads. On other
devices, torch's operations compute the same edge by edge.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from relrank.kernels.counting_sort import transpose_edges
from relrank.kernels.csr import Int64
from relrank.kernels.jit import njit
from relrank.kernels.llvm_loops import LoopBuilder, row_code, width_in_types
from relrank.kernels.row_partition import attention_pool, balanced_partition

_WORTH_THREADS = 1 << 14
"""Below so many edges, one thread is faster than starting the others."""
_BLOCK = 1 << 12
"""Edges of a block of rows, a part of the sums over all edges."""
_MOST_BLOCKS = 256
_ROW_WORK = 2
"""Work of a row besides its edges, in edges."""


def additive_attention(
    left: Tensor,
    right: Tensor,
    vector: Tensor,
    indptr: Tensor,
    indices: Tensor,
    edge: tuple[Tensor, Tensor] | None = None,
    slope: float = 0.2,
    parallel: bool | None = None,
) -> Tensor:
    """Every destination's attention-weighted mean of its neighbours; zeros where it has none.

    On a CPU, half precision is computed and returned in float32.

    Args:
        left: l, of the sources, [n_src, heads, d].
        right: r, of the destinations, [n_dst, heads, d].
        vector: v, [heads, d].
        indptr: int64 [n_dst + 1].
        indices: int32 [n_edges], sources; duplicates are allowed.
        edge: (w [n_edges], e [heads, d]); zeros if None.
        slope: negative slope of leaky.
        parallel: whether to use all of numba's threads, if there is enough work. None: only in the main thread, since
            numba's parallel regions must not be entered by several threads at once.

    Returns:
        [n_dst, heads, d].

    Raises:
        ValueError: shapes that do not fit.
    """
    heads_and_width = tuple(vector.shape)
    expected: list[tuple[Tensor, tuple[int, ...]]] = [
        (left, (len(left), *heads_and_width)),
        (right, (indptr.numel() - 1, *heads_and_width)),
    ]
    if edge is not None:
        expected += [(edge[0], tuple(indices.shape)), (edge[1], heads_and_width)]
    if len(heads_and_width) != 2 or any(tuple(tensor.shape) != shape for tensor, shape in expected):
        raise ValueError(f"shapes {[tuple(t.shape) for t, _ in expected]} do not fit a vector {heads_and_width}")
    dtype = torch.promote_types(left.dtype, vector.dtype)
    on_cpu = left.device.type == "cpu"
    if on_cpu and dtype != torch.float64:
        dtype = torch.float32
    left, right, vector = (t.to(dtype) for t in (left, right, vector))
    if edge is not None:
        edge = edge[0].to(dtype), edge[1].to(dtype)
    if not on_cpu or (edge is not None and edge[0].requires_grad):
        return _plain(left, right, vector, indptr, indices, edge, slope)
    # without edge weights: one weight for all edges, and e = 0
    weights, along = (vector.new_zeros(1), torch.zeros_like(vector)) if edge is None else edge
    step = int(edge is not None)
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        left, right, vector, along, indptr, indices, weights, step, slope, parallel
    )
    return out


def _plain(
    left: Tensor,
    right: Tensor,
    vector: Tensor,
    indptr: Tensor,
    indices: Tensor,
    edge: tuple[Tensor, Tensor] | None,
    slope: float,
) -> Tensor:
    """The same by torch's operations, in memory of a few [n_edges, heads, d]."""
    rows = torch.arange(len(right), device=left.device)
    rows = torch.repeat_interleave(rows, indptr.diff(), output_size=indices.numel())
    values = left.index_select(0, indices)
    inner = values + right.index_select(0, rows)
    if edge is not None:
        inner = inner + edge[0][:, None, None] * edge[1]
    scores = (functional.leaky_relu(inner, slope) * vector).sum(2)
    return attention_pool(scores, values, rows, len(right))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        right: Tensor,
        vector: Tensor,
        along: Tensor,
        indptr: Tensor,
        indices: Tensor,
        weights: Tensor,
        step: int,
        slope: float,
        parallel: bool | None,
    ) -> Tensor:
        saved = tuple(t.contiguous() for t in (indptr, indices, left, right, vector, weights, along))
        edges, tables = [t.numpy() for t in saved[:2]], [t.numpy() for t in saved[2:]]
        dtype = tables[0].dtype
        shares, out = np.empty((indices.numel(), len(vector)), dtype), np.empty(right.shape, dtype)
        inputs = *tables, step, dtype.type(slope), shares
        blocks, on_all = _blocks(edges[0]), _on_all_threads(indices, parallel)
        _run(_forward, _forward_on_all, vector.shape[1], blocks, on_all, *edges, inputs, out)
        result = torch.from_numpy(out)
        ctx.save_for_backward(*saved, torch.from_numpy(shares), result)
        ctx.rest = step, dtype.type(slope), parallel
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        indptr, indices, left, right, vector, weights, along, shares, out = (t.numpy() for t in ctx.saved_tensors)
        step, slope, parallel = ctx.rest
        width, on_all = vector.shape[1], _on_all_threads(ctx.saved_tensors[1], parallel)
        inputs = left, right, vector, weights, along, step, slope, shares, gradients[0].contiguous().numpy()
        moved, d_left, d_right = np.empty_like(shares), np.empty_like(left), np.empty_like(right)
        blocks = _blocks(indptr)
        d_vector, d_along = np.zeros((2, blocks.size - 1, *vector.shape))  # one for each block
        results = out, moved, d_right, d_vector, d_along
        _run(_destinations, _destinations_on_all, width, blocks, on_all, indptr, indices, inputs, results)
        starts, rows, edges = transpose_edges(indptr, indices, np.arange(indices.size), len(left))
        blocks, d_sources = _blocks(starts), (edges, moved, d_left)
        _run(_sources, _sources_on_all, width, blocks, on_all, starts, rows, inputs, d_sources)
        sums = (d.sum(0).astype(left.dtype) for d in (d_vector, d_along))
        return *(torch.from_numpy(d) for d in (d_left, d_right, *sums)), *[None] * 6


def _on_all_threads(indices: Tensor, parallel: bool | None) -> bool:
    if parallel is None:
        parallel = threading.current_thread() is threading.main_thread()
    return parallel and indices.numel() >= _WORTH_THREADS


def _blocks(indptr: Int64) -> Int64:
    """Row borders of blocks with about equal work, int64 [n_blocks + 1], whatever the number of threads."""
    work = int(indptr[-1]) + _ROW_WORK * (indptr.size - 1)
    return balanced_partition(indptr, min(_MOST_BLOCKS, 1 + work // _BLOCK), _ROW_WORK)


def _inner(f: LoopBuilder, near: Any, far: Any, along: Any, weight: Any) -> Any:
    """An edge's z."""
    return f.fma(f.splat(weight), along, f.builder.fadd(near, far))


def _weight(f: LoopBuilder, edge: Any) -> Any:
    """An edge's w; without weights, all edges share one number."""
    return f.scalar("weights", f.builder.mul(edge, f.value["step"]))


def _slopes(f: LoopBuilder, z: Any) -> Any:
    """k: 1 where z > 0, else the slope, also for NaN."""
    ones = ir.Constant(f.vector, [1.0] * f.width)
    return f.builder.select(f.builder.fcmp_ordered(">", z, f.zero), ones, f.splat(f.value["slope"]))


_INPUTS = ("left", "right", "vector", "weights", "along", "step", "slope", "shares")


def _scores(f: LoopBuilder) -> None:
    """A destination's s, into ``shares``."""
    right, h = f.load("right", f.of_head(f.value["row"])), f.value["h"]
    vector, along = f.load("vector", h), f.load("along", h)
    with f.edges() as (edge, _):
        f.fetch(edge, "left")
        z = _inner(f, right, f.load("left", f.column(edge)), along, _weight(f, edge))
        f.set_scalar(f.dot(vector, f.builder.fmul(z, _slopes(f, z))), "shares", f.of_head(edge))


def _mean(f: LoopBuilder) -> None:
    """A destination's o."""
    total = f.sum()
    with f.edges() as (edge, _):
        f.add(f.splat(f.scalar("shares", f.of_head(edge))), f.load("left", f.column(edge)), total)
    f.store(f.builder.load(total), "out", f.of_head(f.value["row"]))


def _destination(f: LoopBuilder) -> None:
    """A destination's t and dr, and its part of dv and de."""
    row, h, block = f.of_head(f.value["row"]), f.value["h"], f.value["block"]
    right, gradient = f.load("right", row), f.load("gradient", row)
    vector, along = f.load("vector", h), f.load("along", h)
    mean = f.dot(gradient, f.load("out", row))
    d_right, d_vector, d_along = f.sum(), f.sum(), f.sum()
    with f.edges() as (edge, _):
        f.fetch(edge, "left")
        left, own, weight = f.load("left", f.column(edge)), f.of_head(edge), _weight(f, edge)
        z = _inner(f, right, left, along, weight)
        moved = f.builder.fmul(f.scalar("shares", own), f.builder.fsub(f.dot(gradient, left), mean))
        f.set_scalar(moved, "moved", own)
        sloped = f.builder.fmul(f.splat(moved), _slopes(f, z))
        f.builder.store(f.builder.fadd(f.builder.load(d_right), sloped), d_right)
        f.add(sloped, z, d_vector)
        f.add(sloped, f.splat(weight), d_along)
    f.store(f.builder.fmul(vector, f.builder.load(d_right)), "d_right", row)
    f.add_wide(f.builder.load(d_vector), "d_vector", f.of_head(block))
    f.add_wide(f.builder.fmul(vector, f.builder.load(d_along)), "d_along", f.of_head(block))


def _source(f: LoopBuilder) -> None:
    """A source's dl."""
    row, h = f.of_head(f.value["row"]), f.value["h"]
    left, vector, along = f.load("left", row), f.load("vector", h), f.load("along", h)
    direct, inner = f.sum(), f.sum()
    with f.edges() as (edge, _):
        f.fetch(edge, "right", "gradient")
        end, number = f.column(edge), f.scalar("edge_numbers", edge)
        own = f.of_head(number)
        z = _inner(f, f.load("right", end), left, along, _weight(f, number))
        f.add(f.splat(f.scalar("shares", own)), f.load("gradient", end), direct)
        f.add(f.splat(f.scalar("moved", own)), _slopes(f, z), inner)
    f.store(f.fma(vector, f.builder.load(inner), f.builder.load(direct)), "d_left", row)


_SCORES = row_code(_scores, _INPUTS)
_MEAN = row_code(_mean, ("left", "shares", "out"))
_DESTINATION = row_code(
    _destination, (*_INPUTS, "gradient", "out", "moved", "d_right", "d_vector", "d_along", "block")
)
_SOURCE = row_code(_source, (*_INPUTS, "gradient", "edge_numbers", "moved", "d_left"))


@njit(nogil=True)
def _forward(sixteens, ones, borders, b, indptr, indices, inputs, out):  # type: ignore[no-untyped-def]
    """Rows of one block; like the others, compiled once per machine for each width, in about a second."""
    left, heads, shares = inputs[0], inputs[2].shape[0], inputs[7]
    for i in range(borders[b], borders[b + 1]):
        first, last = indptr[i], indptr[i + 1]
        for h in range(heads):
            _SCORES(sixteens, ones, i, h, heads, first, last, indices, *inputs)
            if first < last:
                top = shares[first, h]
                for e in range(first + 1, last):
                    top = max(top, shares[e, h])
                total = 0.0
                for e in range(first, last):
                    shares[e, h] = math.exp(shares[e, h] - top)
                    total += shares[e, h]
                for e in range(first, last):
                    shares[e, h] /= total
            _MEAN(sixteens, ones, i, h, heads, first, last, indices, left, shares, out)


@njit(nogil=True)
def _destinations(sixteens, ones, borders, b, indptr, indices, inputs, results):  # type: ignore[no-untyped-def]
    heads = inputs[2].shape[0]
    for i in range(borders[b], borders[b + 1]):
        for h in range(heads):
            _DESTINATION(sixteens, ones, i, h, heads, indptr[i], indptr[i + 1], indices, *inputs, *results, b)


@njit(nogil=True)
def _sources(sixteens, ones, borders, b, starts, rows, inputs, results):  # type: ignore[no-untyped-def]
    heads = inputs[2].shape[0]
    for j in range(borders[b], borders[b + 1]):
        for h in range(heads):
            _SOURCE(sixteens, ones, j, h, heads, starts[j], starts[j + 1], rows, *inputs, *results)


@njit(parallel=True, nogil=True)
def _forward_on_all(sixteens, ones, borders, indptr, indices, inputs, results):  # type: ignore[no-untyped-def]
    for b in numba.prange(borders.size - 1):
        _forward(sixteens, ones, borders, b, indptr, indices, inputs, results)


@njit(parallel=True, nogil=True)
def _destinations_on_all(sixteens, ones, borders, indptr, indices, inputs, results):  # type: ignore[no-untyped-def]
    for b in numba.prange(borders.size - 1):
        _destinations(sixteens, ones, borders, b, indptr, indices, inputs, results)


@njit(parallel=True, nogil=True)
def _sources_on_all(sixteens, ones, borders, indptr, indices, inputs, results):  # type: ignore[no-untyped-def]
    for b in numba.prange(borders.size - 1):
        _sources(sixteens, ones, borders, b, indptr, indices, inputs, results)


def _run(block: Any, on_all: Any, width: int, borders: Int64, parallel: bool, *rest: Any) -> None:
    """Run a kernel over all blocks, on all threads or one block after the other; the bits are the same."""
    sixteens, ones = width_in_types(width)
    if parallel:
        on_all(sixteens, ones, borders, *rest)
    else:
        for b in range(borders.size - 1):
            block(sixteens, ones, borders, b, *rest)
