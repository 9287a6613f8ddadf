"""Sparse times dense on a CPU: CSR rows gather whole vectors, sums stay in registers.

``out = beta · base + alpha · A @ x`` for a CSR matrix ``A`` and a table ``x`` of float32 vectors. The product is
bound by the gathers, so vectors are prefetched some edges ahead, across the ends of rows, and a row's sum is one wide
vector that LLVM keeps in registers. Rows are cut into chunks of equal work, each summed by one thread in a fixed
order: the same input gives the same bits on any number of threads.

``spmm_rows`` makes only some rows of the product, ``spmm_columns`` reads a table that has only some of its rows: the
last layer before a batch, and the first one behind it.
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
from relrank.kernels.row_partition import balanced_partition

PREFETCH = 16
"""Edges between the prefetch of a vector and its use, in loops that read more than one table."""
_AHEAD_BYTES = 12 * 2**10
"""Vectors that are on their way: a quarter of a first-level cache of 48 KB, more of a smaller one."""
CHUNKS = 128
"""Pieces of a product, as many for any number of threads, so that sums over them have the same bits."""
_ROWS_AHEAD = 8
"""Rows between asking for a row's edges and using them, where rows are picked here and there."""
_GROUP_EDGES, _GROUP_ROWS = 8192, 1024
"""Edges and rows of ``spmm_columns`` that are listed before they are summed; they fit beside the vectors."""

_WIDEST = 1600
"""Floats of a vector that there is a kernel for: numba takes a hundred numbers in a tuple."""

_NO_TABLE: Float32 = np.empty((0, 0), np.float32)
_NO_PLACE: Int32 = np.empty(0, np.int32)


@intrinsic
def row_of_product(  # type: ignore[no-untyped-def]
    _typing, sixteens, ahead, indices, data, start, stop, limit, x, base, b, beta, out, r, alpha, z
):
    """The innermost loop for vectors of one width, as LLVM code: one row of the product.

    Plain Python cannot ask for a prefetch, nor for a sum that lives in registers across the edges of a row. The row's
    edges are ``start`` … ``stop``; vectors are asked for ``ahead`` edges before their use, as far as edge ``limit``;
    row ``b`` of ``base``, where beta is not 0, is where the sum goes on from. ``sixteens`` is of ``sixteens_of``.
    """
    width = 16 * len(sixteens)
    signature = types.float32(sixteens, ahead, indices, data, start, stop, limit, x, base, b, beta, out, r, alpha, z)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(position: int) -> Any:
            kind = signature.args[position]
            return context.make_array(kind)(context, builder, arguments[position])

        float_, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
        vector = ir.VectorType(float_, width)
        vector_at = vector.as_pointer()
        columns, values, x_at, base_at, out_at, z_at = (array(i).data for i in (2, 3, 7, 8, 11, 14))
        ahead_by, first, last, limit, base_row, beta, row_number, factor = (
            arguments[i] for i in (1, 4, 5, 6, 9, 10, 12, 13)
        )
        stride = ir.Constant(i64, width)

        def vector_pointer(table: Any, number: Any) -> Any:
            return builder.bitcast(builder.gep(table, [builder.mul(number, stride)]), vector_at)

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(i32, 0))
            mask = ir.Constant(ir.VectorType(i32, width), [0] * width)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)

        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector, vector, vector]), f"llvm.fma.v{width}f32"
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * width))
        builder.store(ir.Constant(vector, [0.0] * width), total)
        with cgutils.for_range_slice(builder, first, last, ir.Constant(i64, 1)) as (edge, _):
            ahead = builder.add(edge, ahead_by)
            ahead = builder.select(builder.icmp_signed("<", ahead, limit), ahead, limit)
            far = builder.sext(builder.load(builder.gep(columns, [ahead])), i64)
            _prefetch(builder, x_at, far, width)
            column = builder.sext(builder.load(builder.gep(columns, [edge])), i64)
            value = splat(builder.load(builder.gep(values, [edge])))
            gathered = builder.load(vector_pointer(x_at, column), align=4)
            builder.store(builder.call(fma, [value, gathered, builder.load(total)]), total)
        final = builder.load(total)
        result_at = vector_pointer(out_at, row_number)
        with builder.if_else(builder.fcmp_ordered("==", beta, ir.Constant(float_, 0.0))) as (alone, on_base):
            with alone:
                builder.store(builder.fmul(splat(factor), final), result_at, align=4)
            with on_base:
                start_sum = builder.load(vector_pointer(base_at, base_row), align=4)
                start_sum = builder.fmul(splat(beta), start_sum)
                builder.store(builder.call(fma, [splat(factor), final, start_sum]), result_at, align=4)
        dot_at = cgutils.alloca_once_value(builder, ir.Constant(float_, 0.0))
        builder.store(ir.Constant(float_, 0.0), dot_at)
        with builder.if_then(builder.icmp_signed(">", array(14).nitems, ir.Constant(i64, 0))):
            product = builder.fmul(final, builder.load(vector_pointer(z_at, row_number), align=4))

            # A fixed order of summation: fold the vector into 16 lanes, then halve.
            def lanes(value: Any, first: int, count: int) -> Any:
                picked = ir.Constant(ir.VectorType(i32, count), list(range(first, first + count)))
                return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picked)

            folded = lanes(product, 0, 16)
            for at in range(16, width, 16):
                folded = builder.fadd(folded, lanes(product, at, 16))
            for half in (8, 4, 2, 1):
                folded = builder.fadd(lanes(folded, 0, half), lanes(folded, half, half))
            builder.store(builder.extract_element(folded, ir.Constant(i32, 0)), dot_at)
        return builder.load(dot_at)

    return signature, emit


@intrinsic
def _ask_edges(_typing, indices, data, start):  # type: ignore[no-untyped-def]
    """Code that asks for the first edges of a row; those of a long row follow by themselves."""
    signature = types.void(indices, data, start)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        for position in (0, 1):
            edges = context.make_array(signature.args[position])(context, builder, arguments[position]).data
            _prefetch(builder, edges, arguments[2], 1, lines=2)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def _ask(_typing, sixteens, ahead, indices, start, stop, x):  # type: ignore[no-untyped-def]
    """Code that asks for the first vectors of a row, as many as the row's own loop will not ask for."""
    signature = types.void(sixteens, ahead, indices, start, stop, x)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(position: int) -> Any:
            return context.make_array(signature.args[position])(context, builder, arguments[position]).data

        i64 = ir.IntType(64)
        columns, x_at, most, first, last = pointer(2), pointer(5), arguments[1], arguments[3], arguments[4]
        end = builder.add(first, most)
        end = builder.select(builder.icmp_signed("<", end, last), end, last)
        with cgutils.for_range_slice(builder, first, end, ir.Constant(i64, 1)) as (edge, _):
            column = builder.sext(builder.load(builder.gep(columns, [edge])), i64)
            _prefetch(builder, x_at, column, 16 * len(sixteens))
        return context.get_dummy_value()

    return signature, emit


def edges_ahead(width: int) -> int:
    """Edges between the prefetch of a vector and its use, where a product reads one table."""
    return max(8, min(64, _AHEAD_BYTES // (4 * width)))


def _prefetch(builder: Any, table: Any, number: Any, width: int, lines: int = 0) -> None:
    """Ask for every cache line of a vector, or for so many."""
    byte_at, i32, i64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
    prefetch = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte_at, i32, i32, i32]), "llvm.prefetch.p0"
    )
    vector_at = builder.bitcast(builder.gep(table, [builder.mul(number, ir.Constant(i64, width))]), byte_at)
    for line in range(0, 64 * lines or width * 4, 64):
        at = builder.gep(vector_at, [ir.Constant(i64, line)])
        builder.call(prefetch, [at, *(ir.Constant(i32, n) for n in (0, 3, 1))])


@njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
def _product(  # type: ignore[no-untyped-def]
    sixteens, ahead, indptr, indices, data, chunks, x, base, place, beta, out, alpha, z, partial
):
    """The product; compiled once a machine for each width (about a second)."""
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
    """Likewise for some rows; at the start of each, the first vectors of the next one are asked for."""
    for c in numba.prange(chunks.size - 1):
        for k in range(chunks[c], chunks[c + 1]):
            if k + _ROWS_AHEAD < chunks[c + 1]:
                _ask_edges(indices, data, indptr[rows[k + _ROWS_AHEAD]])  # type: ignore[call-arg]
            if k + 1 < chunks[c + 1]:
                _ask(sixteens, ahead, indices, indptr[rows[k + 1]], indptr[rows[k + 1] + 1], x)  # type: ignore[call-arg]
            start, stop = indptr[rows[k]], indptr[rows[k] + 1]
            b = k if in_place else rows[k]
            row_of_product(  # type: ignore[call-arg]
                sixteens, ahead, indices, data, start, stop, stop - 1, x, base, b, np.float32(1), out, k, alpha, z
            )


@njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
def _product_of_columns(  # type: ignore[no-untyped-def]
    sixteens, ahead, indptr, indices, data, place, chunks, x, base, at, beta, out, alpha, z, partial
):
    """Likewise where only some columns count: their edges are listed first, a group of rows at a time."""
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
            first, count = r, np.uint64(0)  # unsigned, so that no index is looked at for its sign
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
    """What tells the compiler the width of a vector, by its type: a number for every sixteen floats.

    A width that a kernel closed over would give it another key in every process, so that none would find the kernel
    that another one compiled and kept.
    """
    return (0,) * (width // 16)


def _compiled_for(width: int) -> bool:
    """Whether there is a kernel: for whole cache lines, as many as numba takes numbers in a tuple."""
    return width % 16 == 0 and width <= _WIDEST


def chunks(indptr: Int64) -> Int64:
    """Row borders of chunks with equal work (edges + a little per row), int64 [CHUNKS + 1]."""
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
        out: float32 [n, d], contiguous, written; may be ``base`` itself, never ``x``.
        alpha: factor of the product.
        base: float32 [n, d] that the product is added to; zeros if None.
        beta: factor of ``base``.
        place: int32 [n], the row of ``base`` that is added to a row of the product, below 0 for none; ``base`` is
            then [any, d].
        dot: float32 [n, d] for the inner product.
        borders: of ``chunks``; made here if None.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    _check(csr, csr.n_rows, csr.n_cols, x, out, base, csr.n_rows if place is None else None, dot)
    borders = chunks(csr.indptr) if borders is None else borders
    if not _compiled_for(x.shape[1]):
        return _spmm_any_width(csr, x, out, alpha, _placed(base, place), beta, dot)
    partial: Float64 = np.zeros(borders.size - 1)
    _product(
        sixteens_of(x.shape[1]),
        edges_ahead(x.shape[1]),
        csr.indptr,
        csr.indices,
        csr.data,
        borders,
        x,
        out if base is None else base,
        _NO_PLACE if place is None else place,
        np.float32(0 if base is None else beta),
        out,
        np.float32(alpha),
        _NO_TABLE if dot is None else dot,
        partial,
    )
    return float(partial.sum())


def spmm_rows(
    csr: Csr, rows: Int64, x: Float32, out: Float32, alpha: float = 1.0, base: Float32 | None = None
) -> None:
    """``out = (base + alpha · csr @ x)[rows]``.

    Args:
        csr: [n, m].
        rows: rows to make, int64.
        x: float32 [m, d], contiguous.
        out: float32 [len(rows), d], contiguous, written.
        alpha: factor of the product.
        base: float32 [n, d], contiguous; None adds to what ``out`` holds.

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
    _product_of_rows(
        sixteens_of(x.shape[1]),
        edges_ahead(x.shape[1]),
        csr.indptr,
        csr.indices,
        csr.data,
        rows,
        borders,
        x,
        base,
        base is out,
        out,
        np.float32(alpha),
        _NO_TABLE,
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
    """``spmm`` with a table that holds the vectors of some columns; the others count as zeros.

    Args:
        csr: [n, m].
        columns: int32 [m], the row of ``x`` that holds a column's vector; below 0 for those that are not there.
        x: float32 [any, d], contiguous.
        out: float32 [n, d], contiguous, written; may be ``base`` itself.
        alpha: factor of the product.
        base: like ``out``; zeros if None.
        place: of rows of ``base``, as for ``spmm``.
        dot: like ``out``, for the inner product.
        borders: of ``chunks``; made here if None.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    _check(csr, csr.n_rows, x.shape[0], x, out, base, csr.n_rows if place is None else None, dot)
    if columns.size != csr.n_cols:
        raise ValueError(f"{columns.size} places for {csr.n_cols} columns")
    if not _compiled_for(x.shape[1]):
        at = columns[csr.indices]
        kept = at >= 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[csr.indptr]
        listed = Csr(indptr, at[kept], csr.data[kept], x.shape[0])
        return _spmm_any_width(listed, x, out, alpha, _placed(base, place), 1.0, dot)
    borders = chunks(csr.indptr) if borders is None else borders
    partial: Float64 = np.zeros(borders.size - 1)
    _product_of_columns(
        sixteens_of(x.shape[1]),
        edges_ahead(x.shape[1]),
        csr.indptr,
        csr.indices,
        csr.data,
        columns,
        borders,
        x,
        out if base is None else base,
        _NO_PLACE if place is None else place,
        np.float32(base is not None),
        out,
        np.float32(alpha),
        _NO_TABLE if dot is None else dot,
        partial,
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
    """Compiled code asks no more: shapes, with any number of rows of ``base`` where ``base_rows`` is None; memory."""
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
    """Rows of a base at their places, zeros where there are none."""
    if base is None or place is None:
        return base
    return np.where((place >= 0)[:, None], base[place], np.float32(0))


def _spmm_any_width(
    csr: Csr, x: Float32, out: Float32, alpha: float, base: Float32 | None, beta: float, dot: Float32 | None
) -> float:
    """The same by scipy, for the odd width that no vector register fits."""
    from scipy.sparse import csr_array

    product = csr_array((csr.data, csr.indices, csr.indptr), shape=(csr.n_rows, csr.n_cols)) @ x
    total = 0.0 if dot is None else float(np.vdot(product, dot))
    np.multiply(product, np.float32(alpha), out=product)
    if base is not None:
        product += np.float32(beta) * base
    out[:] = product
    return total
