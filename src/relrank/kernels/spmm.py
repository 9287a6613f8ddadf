"""Sparse matrix times dense table on a CPU: CSR rows gather vectors, and sums stay in registers.

``out = beta · base + alpha · A @ x`` for a CSR matrix ``A`` and a table ``x`` of float32 vectors. The product is
bound by the gathers, so vectors are prefetched some edges ahead, across the ends of rows, and the sum of a row is one
wide vector that LLVM keeps in registers. Rows are cut into chunks of equal work, each summed by one thread in a fixed
order: the same input gives the same bits on any number of threads.

``spmm_rows`` computes only some rows of the product, for the last layer before a batch; ``spmm_columns`` reads a
table that holds only some of its rows, for the first layer of the backward pass.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from relrank.kernels.csr import Csr, Float32, Float64, Int32, Int64
from relrank.kernels.jit import njit
from relrank.kernels.llvm_loops import FLOAT, I32, I64, array_of, fma_of, lanes, prefetch, splat, vector_at
from relrank.kernels.row_partition import balanced_partition

_AHEAD_BYTES = 12 * 2**10
"""Bytes of prefetched vectors: a quarter of a first-level cache of 48 KB, more of a smaller one."""
CHUNKS = 128
"""Chunks of a product, whatever the number of threads, so that sums over them have the same bits."""
_ROWS_AHEAD = 8
"""Rows between the prefetch of a row's edges and their use, where rows are picked."""
_GROUP_EDGES, _GROUP_ROWS = 8192, 1024
"""Edges and rows that ``spmm_columns`` lists before it sums them; they fit into the cache with the vectors."""

_WIDEST = 1600
"""Largest width with a kernel: numba takes a hundred numbers in a tuple."""

_NO_TABLE: Float32 = np.empty((0, 0), np.float32)
_NO_POSITIONS: Int32 = np.empty(0, np.int32)


@intrinsic
def row_of_product(  # type: ignore[no-untyped-def]
    _typing, sixteens, ahead, indices, data, start, stop, limit, x, base, b, beta, out, r, alpha, z
):
    """One row of the product as LLVM code, for vectors of one width; returns its scalar product with row ``r`` of z.

    Plain loops can neither prefetch nor keep a sum in registers across the edges of a row. The row's edges are
    ``start`` … ``stop``; vectors are prefetched ``ahead`` edges before their use, up to edge ``limit``; where beta is
    not 0, row ``b`` of ``base`` is added. ``sixteens`` is of ``sixteens_of``.
    """
    width = 16 * len(sixteens)
    vector = ir.VectorType(FLOAT, width)
    signature = types.float32(sixteens, ahead, indices, data, start, stop, limit, x, base, b, beta, out, r, alpha, z)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, values, table, bases, outs, zs = (
            array_of(context, builder, signature, arguments, i) for i in (2, 3, 7, 8, 11, 14)
        )
        edges, row = (arguments[i] for i in (4, 5, 1, 6)), arguments[12]
        total = _sum_of_edges(builder, vector, columns.data, values.data, table.data, *edges)
        base_at = vector_at(builder, bases.data, arguments[9], vector)
        _store_row(builder, total, arguments[13], base_at, arguments[10], vector_at(builder, outs.data, row, vector))
        dot_at = cgutils.alloca_once_value(builder, ir.Constant(FLOAT, 0.0))
        builder.store(ir.Constant(FLOAT, 0.0), dot_at)
        with builder.if_then(builder.icmp_signed(">", zs.nitems, ir.Constant(I64, 0))):
            z_row = builder.load(vector_at(builder, zs.data, row, vector), align=4)
            builder.store(_sum_of_lanes(builder, builder.fmul(total, z_row)), dot_at)
        return builder.load(dot_at)

    return signature, emit


def _sum_of_edges(
    builder: Any, vector: Any, columns: Any, values: Any, table: Any, first: Any, last: Any, ahead_by: Any, limit: Any
) -> Any:
    """``Σ values[e] · table[columns[e]]`` over a row's edges, in their order."""
    zero, fma = ir.Constant(vector, [0.0] * vector.count), fma_of(builder, vector)
    total = cgutils.alloca_once_value(builder, zero)
    builder.store(zero, total)
    with cgutils.for_range_slice(builder, first, last, ir.Constant(I64, 1)) as (edge, _):
        ahead = builder.add(edge, ahead_by)
        ahead = builder.select(builder.icmp_signed("<", ahead, limit), ahead, limit)
        next_column = builder.sext(builder.load(builder.gep(columns, [ahead])), I64)
        prefetch(builder, vector_at(builder, table, next_column, vector), 4 * vector.count)
        column = builder.sext(builder.load(builder.gep(columns, [edge])), I64)
        value = splat(builder, builder.load(builder.gep(values, [edge])), vector.count)
        gathered = builder.load(vector_at(builder, table, column, vector), align=4)
        builder.store(builder.call(fma, [value, gathered, builder.load(total)]), total)
    return builder.load(total)


def _store_row(builder: Any, total: Any, alpha: Any, base_at: Any, beta: Any, out_at: Any) -> None:
    """``out = alpha · total``, plus ``beta · base`` where beta is not 0."""
    alpha, beta_ = (splat(builder, value, total.type.count) for value in (alpha, beta))
    with builder.if_else(builder.fcmp_ordered("==", beta, ir.Constant(FLOAT, 0.0))) as (without_base, with_base):
        with without_base:
            builder.store(builder.fmul(alpha, total), out_at, align=4)
        with with_base:
            base = builder.fmul(beta_, builder.load(base_at, align=4))
            builder.store(builder.call(fma_of(builder, total.type), [alpha, total, base]), out_at, align=4)


def _sum_of_lanes(builder: Any, vector: Any) -> Any:
    """The sum of a vector's numbers in a fixed order: folded into 16 lanes, then halved."""
    folded = lanes(builder, vector, 0, 16)
    for at in range(16, vector.type.count, 16):
        folded = builder.fadd(folded, lanes(builder, vector, at, 16))
    for half in (8, 4, 2, 1):
        folded = builder.fadd(lanes(builder, folded, 0, half), lanes(builder, folded, half, half))
    return builder.extract_element(folded, ir.Constant(I32, 0))


@intrinsic
def _prefetch_edges(_typing, indices, data, start):  # type: ignore[no-untyped-def]
    """Prefetch the first edges of a row; hardware prefetches the others of a long row."""
    signature = types.void(indices, data, start)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for position in (0, 1):
            edges = array_of(context, builder, signature, arguments, position).data
            prefetch(builder, builder.gep(edges, [arguments[2]]), 128)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def _prefetch_vectors(_typing, sixteens, ahead, indices, start, stop, x):  # type: ignore[no-untyped-def]
    """Prefetch the first vectors of a row, as many as the row's own loop does not prefetch."""
    signature = types.void(sixteens, ahead, indices, start, stop, x)
    vector = ir.VectorType(FLOAT, 16 * len(sixteens))

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, table = (array_of(context, builder, signature, arguments, i).data for i in (2, 5))
        most, first, last = arguments[1], arguments[3], arguments[4]
        end = builder.add(first, most)
        end = builder.select(builder.icmp_signed("<", end, last), end, last)
        with cgutils.for_range_slice(builder, first, end, ir.Constant(I64, 1)) as (edge, _):
            column = builder.sext(builder.load(builder.gep(columns, [edge])), I64)
            prefetch(builder, vector_at(builder, table, column, vector), 4 * vector.count)
        return context.get_dummy_value()

    return signature, emit


def edges_ahead(width: int) -> int:
    """Edges between the prefetch of a vector and its use, where a product reads one table."""
    return max(8, min(64, _AHEAD_BYTES // (4 * width)))


@njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
def _product(  # type: ignore[no-untyped-def]
    sixteens, ahead, indptr, indices, data, chunks, x, base, place, beta, out, alpha, z, partial
):
    """The whole product. Each width is compiled once per machine, in about a second."""
    for c in numba.prange(chunks.size - 1):
        total = 0.0
        limit = indices.size - 1
        for r in range(chunks[c], chunks[c + 1]):
            b = np.int64(place[r]) if place.size else r
            factor = beta if b >= 0 else np.float32(0)
            total += row_of_product(  # type: ignore[call-arg]
                sixteens, ahead, indices, data, indptr[r], indptr[r + 1], limit, x, base, b, factor, out, r, alpha, z
            )
        partial[c] = total


@njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
def _product_of_rows(  # type: ignore[no-untyped-def]
    sixteens, ahead, indptr, indices, data, rows, chunks, x, base, in_place, out, alpha, z
):
    """Some rows of the product; at the start of each, the first vectors of the next one are prefetched."""
    for c in numba.prange(chunks.size - 1):
        for k in range(chunks[c], chunks[c + 1]):
            if k + _ROWS_AHEAD < chunks[c + 1]:
                _prefetch_edges(indices, data, indptr[rows[k + _ROWS_AHEAD]])  # type: ignore[call-arg]
            if k + 1 < chunks[c + 1]:
                start, stop = indptr[rows[k + 1]], indptr[rows[k + 1] + 1]
                _prefetch_vectors(sixteens, ahead, indices, start, stop, x)  # type: ignore[call-arg]
            start, stop = indptr[rows[k]], indptr[rows[k] + 1]
            b = k if in_place else rows[k]
            row_of_product(  # type: ignore[call-arg]
                sixteens, ahead, indices, data, start, stop, stop - 1, x, base, b, np.float32(1), out, k, alpha, z
            )


@njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
def _product_of_columns(  # type: ignore[no-untyped-def]
    sixteens, ahead, indptr, indices, data, place, chunks, x, base, at, beta, out, alpha, z, partial
):
    """The product over some columns; their edges are listed first, a group of rows at a time."""
    for c in numba.prange(chunks.size - 1):
        longest = 0
        for r in range(chunks[c], chunks[c + 1]):
            longest = max(longest, indptr[r + 1] - indptr[r])
        room = max(longest, _GROUP_EDGES)
        columns, values = np.empty(room + 1, np.int32), np.empty(room + 1, np.float32)
        starts = np.empty(_GROUP_ROWS + 1, np.int64)
        total = 0.0
        r = chunks[c]
        while r < chunks[c + 1]:
            first, count = r, np.uint64(0)  # unsigned: numba checks signed indices for their sign
            while r < chunks[c + 1] and r - first < _GROUP_ROWS:
                if np.int64(count) + indptr[r + 1] - indptr[r] > room:
                    break
                starts[r - first] = np.int64(count)
                for e in range(np.uint64(indptr[r]), np.uint64(indptr[r + 1])):
                    column = place[np.uint32(indices[e])]
                    columns[count] = column
                    values[count] = data[e]
                    count += np.uint64(column >= 0)
                r += 1
            starts[r - first] = np.int64(count)
            for q in range(first, r):
                start, stop = starts[q - first], starts[q - first + 1]
                b = np.int64(at[q]) if at.size else q
                factor = beta if b >= 0 else np.float32(0)
                limit = np.int64(count) - 1
                total += row_of_product(  # type: ignore[call-arg]
                    sixteens, ahead, columns, values, start, stop, limit, x, base, b, factor, out, q, alpha, z
                )
        partial[c] = total


def sixteens_of(width: int) -> tuple[int, ...]:
    """The width of a vector as the length of a tuple, which is part of its type: an entry for every sixteen floats.

    A kernel that closes over the width instead would have another cache key in every process.
    """
    return (0,) * (width // 16)


def _compiled_for(width: int) -> bool:
    """Whether there is a kernel for a width: a multiple of a cache line, up to ``_WIDEST``."""
    return width % 16 == 0 and width <= _WIDEST


def chunks(indptr: Int64) -> Int64:
    """Row borders of chunks with about equal work, int64 [CHUNKS + 1]."""
    return balanced_partition(indptr, CHUNKS, row_work=2)


def spmm(
    csr: Csr,
    x: Float32,
    out: Float32,
    alpha: float = 1.0,
    base: Float32 | None = None,
    beta: float = 1.0,
    place: Int32 | None = None,
    dot: Float32 | None = None,
    borders: Int64 | None = None,
) -> float:
    """``out = beta · base + alpha · csr @ x``, row-parallel; returns ``<csr @ x, dot>``, or 0 without ``dot``.

    Args:
        csr: [n, m].
        x: float32 [m, d], contiguous.
        out: float32 [n, d], contiguous, written; may be ``base``, never ``x``.
        alpha: factor of the product.
        base: float32 [n, d] that the product is added to; zeros if None.
        beta: factor of ``base``.
        place: int32 [n], the row of ``base`` that is added to each row of the product, below 0 for none; ``base`` is
            then [any, d].
        dot: float32 [n, d] for the inner product.
        borders: ``chunks(csr.indptr)``; computed here if None.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    _check(csr, csr.n_rows, csr.n_cols, x, out, base, csr.n_rows if place is None else None, dot)
    borders = chunks(csr.indptr) if borders is None else borders
    if not _compiled_for(x.shape[1]):
        return _spmm_any_width(csr, x, out, alpha, _placed(base, place), beta, dot)
    partial: Float64 = np.zeros(borders.size - 1)
    kernel_base = _kernel_base(out, base, place, beta)
    z = _NO_TABLE if dot is None else dot
    _product(*_kernel_width(x), *csr.arrays, borders, x, *kernel_base, out, np.float32(alpha), z, partial)
    return float(partial.sum())


def _kernel_width(x: Float32) -> tuple[tuple[int, ...], int]:
    """The first arguments of a kernel."""
    return sixteens_of(x.shape[1]), edges_ahead(x.shape[1])


def _kernel_base(
    out: Float32, base: Float32 | None, place: Int32 | None, beta: float
) -> tuple[Float32, Int32, np.float32]:
    """A base, its positions and its factor as kernels take them."""
    return (
        out if base is None else base,
        _NO_POSITIONS if place is None else place,
        np.float32(0 if base is None else beta),
    )


def spmm_rows(
    csr: Csr, rows: Int64, x: Float32, out: Float32, alpha: float = 1.0, base: Float32 | None = None
) -> None:
    """``out = (base + alpha · csr @ x)[rows]``.

    Args:
        csr: [n, m].
        rows: rows to compute, int64.
        x: float32 [m, d], contiguous.
        out: float32 [len(rows), d], contiguous, written.
        alpha: factor of the product.
        base: float32 [n, d], contiguous; None adds to ``out`` itself.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    _check(csr, rows.size, csr.n_cols, x, out, base, csr.n_rows, None)
    if base is None:
        base = out
    if not _compiled_for(x.shape[1]):
        on = out if base is out else base[rows]
        _spmm_any_width(csr.take(rows), x, out, alpha, on, 1.0, None)
        return
    starts = csr.indptr[rows]
    borders = chunks(np.concatenate([[0], np.cumsum(csr.indptr[rows + 1] - starts)]))
    in_place = base is out
    _product_of_rows(
        *_kernel_width(x), *csr.arrays, rows, borders, x, base, in_place, out, np.float32(alpha), _NO_TABLE
    )


def spmm_columns(
    csr: Csr,
    columns: Int32,
    x: Float32,
    out: Float32,
    alpha: float = 1.0,
    base: Float32 | None = None,
    place: Int32 | None = None,
    dot: Float32 | None = None,
    borders: Int64 | None = None,
) -> float:
    """``spmm`` with a table that holds the vectors of some columns; those of the others are zeros.

    Args:
        csr: [n, m].
        columns: int32 [m], the row of ``x`` that holds a column's vector; below 0 for columns without one.
        x: float32 [any, d], contiguous.
        out: float32 [n, d], contiguous, written; may be ``base`` itself.
        alpha: factor of the product.
        base: like ``out``; zeros if None.
        place: as for ``spmm``.
        dot: like ``out``, for the inner product.
        borders: as for ``spmm``.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    _check(csr, csr.n_rows, x.shape[0], x, out, base, csr.n_rows if place is None else None, dot)
    if columns.size != csr.n_cols:
        raise ValueError(f"{columns.size} places for {csr.n_cols} columns")
    if not _compiled_for(x.shape[1]):
        at = columns[csr.indices]
        present = at >= 0
        indptr = np.concatenate([[0], np.cumsum(present)])[csr.indptr]
        listed = Csr(indptr, at[present], csr.data[present], x.shape[0])
        return _spmm_any_width(listed, x, out, alpha, _placed(base, place), 1.0, dot)
    borders = chunks(csr.indptr) if borders is None else borders
    partial: Float64 = np.zeros(borders.size - 1)
    kernel_base = _kernel_base(out, base, place, 1.0)
    z = _NO_TABLE if dot is None else dot
    _product_of_columns(
        *_kernel_width(x), *csr.arrays, columns, borders, x, *kernel_base, out, np.float32(alpha), z, partial
    )
    return float(partial.sum())


@njit(parallel=True, nogil=True)
def _add_rows(out, rows, values):  # type: ignore[no-untyped-def]
    for k in numba.prange(rows.size):
        into, value = out[rows[k]], values[k]
        for j in range(into.size):
            into[j] += value[j]


def add_rows(out: Float32, rows: Int64, values: Float32) -> None:
    """``out[rows] += values`` in place on all cores, for distinct rows."""
    _add_rows(out, rows, values)


@njit(parallel=True, nogil=True)
def _add_taken(out, table, rows):  # type: ignore[no-untyped-def]
    for k in numba.prange(rows.size):
        into, value = out[k], table[rows[k]]
        for j in range(into.size):
            into[j] += value[j]


def add_taken(out: Float32, table: Float32, rows: Int64) -> None:
    """``out += table[rows]`` in place on all cores."""
    _add_taken(out, table, rows)


def _check(
    csr: Csr,
    n_rows: int,
    n_cols: int,
    x: Float32,
    out: Float32,
    base: Float32 | None,
    base_rows: int | None,
    dot: Float32 | None,
) -> None:
    """Check shapes and memory layouts, which compiled code does not; ``base_rows`` None allows any number."""
    expected = (n_rows, x.shape[1])
    base_rows = base_rows if base is None or base_rows is not None else base.shape[0]
    fits = x.shape[0] == n_cols and all(t is None or t.shape == expected for t in (out, dot))
    if not fits or not (base is None or base.shape == (base_rows, x.shape[1])):
        raise ValueError(f"{n_rows} x {n_cols} matrix, x {x.shape}, out {out.shape}: shapes do not fit")
    if any(t is not None and not (t.flags.c_contiguous and t.dtype == np.float32) for t in (x, out, base, dot)):
        raise ValueError("vectors must be contiguous float32")
    if not all(part.flags.c_contiguous for part in (csr.indptr, csr.indices, csr.data)):
        raise ValueError("matrix must be contiguous")


def _placed(base: Float32 | None, place: Int32 | None) -> Float32 | None:
    """A base by rows of the product, zeros where a row has none."""
    if base is None or place is None:
        return base
    return np.where((place >= 0)[:, None], base[place], np.float32(0))


def _spmm_any_width(
    csr: Csr, x: Float32, out: Float32, alpha: float, base: Float32 | None, beta: float, dot: Float32 | None
) -> float:
    """``spmm`` by scipy, for widths without a kernel."""
    from scipy.sparse import csr_array

    product = csr_array((csr.data, csr.indices, csr.indptr), shape=(csr.n_rows, csr.n_cols)) @ x
    total = 0.0 if dot is None else float(np.vdot(product, dot))
    np.multiply(product, np.float32(alpha), out=product)
    if base is not None:
        product += np.float32(beta) * base
    out[:] = product
    return total
