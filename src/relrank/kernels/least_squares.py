"""Many ridge regressions on one table of vectors, solved exactly: the half-sweep of alternating least squares.

Row u has edges to rows t of a table Y [m, d] with confidences c_ut, possibly a prior vector x̄_u, and the vector

    x_u = argmin Σ_t c_ut (x·y_t − 1)² + xᵀ H x + κ_u |x − x̄_u|²
        = (H + κ_u I + Σ_t c_ut y_t y_tᵀ)⁻¹ (Σ_t c_ut y_t + κ_u x̄_u).

H [d, d] is the same for all rows (the Gram matrix of the unobserved), so everything is rotated once to H's
eigenvectors. There H + κ_u I is a diagonal D whatever κ_u is, ``x⁰ = D⁻¹ κ x̄`` is the vector without edges, and a row
with n < d edges needs only an n by n system: with C = √c Y D^-1/2 it is ``x⁰ + D^-1/2 Cᵀ (I + C Cᵀ)⁻¹ √c (1 − Y x⁰)``
(Woodbury's identity). Rows with more edges factor ``D + Σ c y yᵀ``. A row costs about min(n, d)² · max(n, d)
operations; forming and factoring a d by d matrix for every row would cost n d² + d³/3.

Both are Cholesky factorisations in float32, made of register tiles. A row is solved by one thread, and sums over many
rows are cut into a fixed number of parts: the same input gives the same bits on any number of threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from threadpoolctl import threadpool_limits

from relrank.errors import InputError
from relrank.kernels import fused_ranking
from relrank.kernels.csr import Csr, Float32, Float64, Int64
from relrank.kernels.jit import njit
from relrank.kernels.llvm_loops import FLOAT, I64, array_of, fma_of, splat

TILE_ROWS = 4
"""Rows of a register tile, by ``TILE`` columns."""
TILE = fused_ranking.WIDTH
CHUNK = 64
"""Rows of the table per update of a matrix; they fit into the first two levels of cache."""
PARTS = 16
"""Parts of a sum over all rows of a table, whatever the number of threads."""
BLOCK = 1024
"""Rows that are summed in float32 before the sum is added to float64."""
STRANDS = 16
"""Pieces of work per thread."""

_wide = ir.VectorType(FLOAT, TILE)


@intrinsic
def _tile(_typing, out, at, pitch, left, l_at, l_step, l_row, right, r_at, r_step, count, sign):  # type: ignore[no-untyped-def]
    """``out[r, :] += sign · Σ_k left[k, r] · right[k, :]`` for a tile, its sums in registers.

    Arrays are flat: ``out`` starts at ``at`` with rows ``pitch`` apart; entry (k, r) of ``left`` is at
    ``l_at + k · l_step + r · l_row``; row k of ``right`` starts at ``r_at + k · r_step``.
    """
    signature = types.void(out, at, pitch, left, l_at, l_step, l_row, right, r_at, r_step, count, sign)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def start(position: int) -> Any:
            data = array_of(context, builder, signature, arguments, position).data
            return builder.gep(data, [arguments[position + 1]])

        def vector(pointer: Any) -> Any:
            return builder.bitcast(pointer, _wide.as_pointer())

        target, left, right = start(0), start(3), start(7)
        pitch, l_step, l_row, r_step, count, sign = (arguments[i] for i in (2, 5, 6, 9, 10, 11))
        fma = fma_of(builder, _wide)
        zero = ir.Constant(_wide, [0.0] * TILE)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(TILE_ROWS)]
        for total in sums:
            builder.store(
                zero, total
            )  # alloca_once_value stores at the start of the function, but tiles are used in loops
        with cgutils.for_range(builder, count) as loop:
            of_right = builder.load(vector(builder.gep(right, [builder.mul(loop.index, r_step)])), align=4)
            of_left = builder.gep(left, [builder.mul(loop.index, l_step)])
            for r, total in enumerate(sums):
                at_r = builder.gep(of_left, [builder.mul(ir.Constant(I64, r), l_row)])
                product = builder.call(fma, [splat(builder, builder.load(at_r), TILE), of_right, builder.load(total)])
                builder.store(product, total)
        for r, total in enumerate(sums):
            row = vector(builder.gep(target, [builder.mul(ir.Constant(I64, r), pitch)]))
            before = builder.load(row, align=4)
            builder.store(builder.call(fma, [splat(builder, sign, TILE), builder.load(total), before]), row, align=4)
        return context.get_dummy_value()

    return signature, emit


@njit(nogil=True)
def _add_squares(a, n, width, b, pitch, count):  # type: ignore[no-untyped-def]
    """``A += Bᵀ B`` for rows 0 … n of A [·, width], from the diagonal on; B is [count, pitch ≥ width]."""
    one = np.float32(1)
    for j in range(0, width, TILE):
        for i in range(0, min(n, j + TILE), TILE_ROWS):
            _tile(a, i * width + j, width, b, i, pitch, 1, b, j, pitch, count, one)  # type: ignore[call-arg]


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _cholesky_solve(a, n, width, x):  # type: ignore[no-untyped-def]
    """Solve ``A x = b`` in place of b for the first n rows and columns of A [·, width], both multiples of a tile.

    A's upper triangle becomes its factor. Returns whether all pivots were positive.
    """
    minus = np.float32(-1)
    for top in range(0, n, TILE_ROWS):
        if top:
            for j in range(top // TILE * TILE, width, TILE):
                _tile(a, top * width + j, width, a, top, width, 1, a, j, width, top, minus)  # type: ignore[call-arg]
        for i in range(top, top + TILE_ROWS):
            for q in range(top, i):
                factor = a[q * width + i]
                for j in range(i, width):
                    a[i * width + j] -= factor * a[q * width + j]
            pivot = a[i * width + i]
            if not pivot > 0:
                return False
            scale = np.float32(1) / np.sqrt(pivot)
            for j in range(i, width):
                a[i * width + j] *= scale
    for i in range(n):
        x[i] /= a[i * width + i]
        value = x[i]
        for j in range(i + 1, n):
            x[j] -= value * a[i * width + j]
    for i in range(n - 1, -1, -1):
        total = np.float32(0)
        for j in range(i + 1, n):
            total += a[i * width + j] * x[j]
        x[i] = (x[i] - total) / a[i * width + i]
    return True


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _left(table, t, x):  # type: ignore[no-untyped-def]
    """``1 − y_t·x``."""
    total = np.float32(0)
    for j in range(x.size):
        total += table[t, j] * x[j]
    return np.float32(1) - total


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _few_edges(indices, data, first, last, table, diagonal, a, b, x, root, out):  # type: ignore[no-untyped-def]
    """A row with fewer edges than dimensions: ``x⁰ + D^-1/2 Cᵀ (I + C Cᵀ)⁻¹ (√c (1 − Y x⁰))``; ``out`` holds x⁰."""
    d, count = table.shape[1], last - first
    width = (count + TILE - 1) // TILE * TILE
    n = (count + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    for j in range(d):
        root[j] = np.float32(1) / np.sqrt(diagonal[j])
    for k in range(count):
        x[k] = np.sqrt(data[first + k])
    x[count:width] = 0
    for j in range(d):  # Cᵀ
        for k in range(count):
            b[j * width + k] = root[j] * x[k] * table[indices[first + k], j]
        for k in range(count, width):
            b[j * width + k] = 0
    for k in range(count):
        x[k] *= _left(table, indices[first + k], out)
    a[: n * width] = 0
    for i in range(n):
        a[i * width + i] = 1
    _add_squares(a, n, width, b, width, d)
    fits = _cholesky_solve(a, n, width, x)
    for j in range(d):
        total = np.float32(0)
        for k in range(count):
            total += b[j * width + k] * x[k]
        out[j] += root[j] * total
    return fits


@njit(nogil=True, fastmath={"contract", "reassoc"})
def _many_edges(indices, data, first, last, table, diagonal, a, b, x, out):  # type: ignore[no-untyped-def]
    """A row with no fewer edges than dimensions: ``x⁰ + (D + Σ c y yᵀ)⁻¹ Σ c (1 − y·x⁰) y``; ``out`` holds x⁰."""
    d = table.shape[1]
    a[: d * d] = 0
    for j in range(d):
        a[j * d + j] = diagonal[j]
        x[j] = 0
    for start in range(first, last, CHUNK):
        count = min(CHUNK, last - start)
        for k in range(count):
            c, t = data[start + k], indices[start + k]
            root = np.sqrt(c)
            for j in range(d):
                b[k * d + j] = root * table[t, j]
            c *= _left(table, t, out)
            for j in range(d):
                x[j] += c * table[t, j]
        _add_squares(a, d, d, b, d, count)
    fits = _cholesky_solve(a, d, d, x)
    for j in range(d):
        out[j] += x[j]
    return fits


@njit(parallel=True, nogil=True)
def _solve(order, indptr, indices, data, table, spectrum, ridge, side, strands, out, failed):  # type: ignore[no-untyped-def]
    d = table.shape[1]
    for s in numba.prange(strands):
        a = np.zeros(side * side, np.float32)
        b = np.empty(d * max(side, CHUNK), np.float32)
        x, root, diagonal = np.empty(max(side, d), np.float32), np.empty(d, np.float32), np.empty(d, np.float32)
        for at in range(s, order.size, strands):  # interleaved: the first rows have the most edges
            u = order[at]
            first, last = indptr[u], indptr[u + 1]
            for j in range(d):
                diagonal[j] = spectrum[j] + ridge[u]
            if last - first < d:
                fits = _few_edges(indices, data, first, last, table, diagonal, a, b, x, root, out[u])
            else:
                fits = _many_edges(indices, data, first, last, table, diagonal, a, b, x, out[u])
            if not fits:
                failed[s] = u + 1


@njit(parallel=True, nogil=True)
def _moments(flat, n, d, parts):  # type: ignore[no-untyped-def]
    for s in numba.prange(parts.shape[0]):
        a = np.empty(d * d, np.float32)
        total = parts[s].reshape(d * d)
        stop = (s + 1) * n // parts.shape[0]
        for block in range(s * n // parts.shape[0], stop, BLOCK):
            a[:] = 0
            end = min(stop, block + BLOCK)
            for start in range(block, end, CHUNK):
                rows = flat[start * d : min(end, start + CHUNK) * d]
                _add_squares(a, d, d, rows, d, min(end, start + CHUNK) - start)
            for j in range(d * d):
                total[j] += a[j]


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _turn(flat, n, d, rotation, out):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for piece in numba.prange((n + CHUNK - 1) // CHUNK):
        first, last = piece * CHUNK, min(n, (piece + 1) * CHUNK)
        rest = first + (last - first) // TILE_ROWS * TILE_ROWS
        for j in range(0, d, TILE):
            for i in range(first, rest, TILE_ROWS):
                _tile(out, i * d + j, d, flat, i * d, 1, d, rotation, j, d, d, one)  # type: ignore[call-arg]
        for i in range(rest, last):
            for k in range(d):
                value = flat[i * d + k]
                for j in range(d):
                    out[i * d + j] += value * rotation[k * d + j]


def padded(table: Float32) -> Float32:
    """The table, contiguous, with columns of zeros up to a multiple of a tile."""
    missing = -table.shape[1] % TILE
    return np.ascontiguousarray(np.pad(table, ((0, 0), (0, missing))) if missing else table)


def gram_matrix(table: Float32) -> Float64:
    """``YᵀY`` of a table float32 [m, d], d a multiple of a tile, as float64 [d, d]."""
    n, d = table.shape
    parts = np.zeros((PARTS, d, d))
    _moments(table.reshape(-1), n, d, parts)
    upper = np.triu(parts.sum(0))
    result: Float64 = upper + np.triu(upper, 1).T
    return result


def spectrum_of(matrix: Float64) -> tuple[Float32, Float32]:
    """Eigenvalues float32 [d], none negative, and eigenvectors float32 [d, d], as columns, of a symmetric matrix."""
    with threadpool_limits(1):  # the same bits on any number of threads
        values, vectors = np.linalg.eigh(matrix)
    return np.maximum(values, 0).astype(np.float32), np.ascontiguousarray(vectors, np.float32)


def turned(table: Float32, rotation: Float32) -> Float32:
    """``table @ rotation``, float32 [m, d]; d is a multiple of a tile."""
    n, d = table.shape
    out = np.zeros((n, d), np.float32)
    _turn(np.ascontiguousarray(table).reshape(-1), n, d, np.ascontiguousarray(rotation).reshape(-1), out.reshape(-1))
    return out


def solve_rows(rows: Csr, table: Float32, spectrum: Float32, ridge: Float32, prior: Float32 | None = None) -> Float32:
    """Vectors x_u of all rows, for a diagonal H; a row without edges and prior gets zeros.

    Args:
        rows: confidences c, all positive, [n, m].
        table: Y, float32 [m, d], contiguous, d a multiple of a tile (``padded``).
        spectrum: the diagonal of H, float32 [d].
        ridge: κ, float32 [n], all positive.
        prior: x̄, float32 [n, d]; zeros if None.

    Returns:
        float32 [n, d].

    Raises:
        InputError: a matrix is not positive definite in float32 (the penalty is too small).
    """
    d = table.shape[1]
    degrees: Int64 = rows.degrees()
    order = np.argsort(-degrees, kind="stable")
    order = order[: np.count_nonzero(degrees)]
    if prior is None:
        out = np.zeros((rows.n_rows, d), np.float32)
    else:
        out = prior * (ridge[:, None] / (spectrum + ridge[:, None]))
    if not order.size:
        return out
    side = min(d, -(-int(degrees.max()) // TILE) * TILE)
    strands = min(order.size, STRANDS * numba.get_num_threads())
    failed = np.zeros(strands, np.int64)
    _solve(order, *rows.arrays, table, spectrum, ridge, side, strands, out, failed)
    if failed.any():
        raise InputError(
            "matrix is not positive definite",
            where="alternating least squares",
            expected="a penalty l2 large enough for float32",
            found=f"Cholesky failed at row {int(failed.max()) - 1} of {rows.n_rows}",
        )
    return out
