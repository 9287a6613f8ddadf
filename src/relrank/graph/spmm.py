"""Sparse times dense on a CPU: CSR rows gather whole vectors, sums stay in registers.

``out = base + alpha · A @ x`` for a CSR matrix ``A`` and a table ``x`` of float32 vectors. The product is bound by
the latency of the gathers, so vectors are prefetched some edges ahead, and a row's sum is one wide vector that
LLVM keeps in registers. Rows are cut into chunks of equal work, each summed by one thread in a fixed order: the
same input gives the same bits on any number of threads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from relrank.csr import Csr, Float32, Float64, Int64
from relrank.graph.edge_rows import equal_pieces

# Edges between the prefetch of a vector and its use: far enough to hide a trip to memory, near enough to stay in L1.
PREFETCH = 16
CHUNKS_PER_THREAD = 8


def row_kernel(width: int, dot: bool) -> Any:
    """The innermost loop for vectors of ``width`` floats, as LLVM code: one row of the product.

    Plain Python cannot ask for a prefetch, nor for a sum that lives in registers across the edges of a row.
    """

    @intrinsic
    def row(_typing, indices, data, start, stop, x, base, out, r, alpha, z):  # type: ignore[no-untyped-def]
        signature = types.float32(indices, data, start, stop, x, base, out, r, alpha, z)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def pointer(position: int) -> Any:
                kind = signature.args[position]
                return context.make_array(kind)(context, builder, arguments[position]).data

            float_, i32, i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
            vector = ir.VectorType(float_, width)
            vector_at = vector.as_pointer()
            columns, values, x_at, base_at, out_at, z_at = (pointer(i) for i in (0, 1, 4, 5, 6, 9))
            first, last, row_number, factor = arguments[2], arguments[3], arguments[7], arguments[8]
            stride = ir.Constant(i64, width)

            def vector_pointer(table: Any, number: Any) -> Any:
                return builder.bitcast(builder.gep(table, [builder.mul(number, stride)]), vector_at)

            def splat(value: Any) -> Any:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(i32, 0))
                mask = ir.Constant(ir.VectorType(i32, width), [0] * width)
                return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)

            byte_at = ir.IntType(8).as_pointer()
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector, vector, vector]), f"llvm.fma.v{width}f32"
            )
            prefetch = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [byte_at, i32, i32, i32]), "llvm.prefetch.p0"
            )
            total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * width))
            ahead_last = builder.sub(last, ir.Constant(i64, 1))
            with cgutils.for_range_slice(builder, first, last, ir.Constant(i64, 1)) as (edge, _):
                ahead = builder.add(edge, ir.Constant(i64, PREFETCH))
                ahead = builder.select(builder.icmp_signed("<", ahead, ahead_last), ahead, ahead_last)
                far = builder.sext(builder.load(builder.gep(columns, [ahead])), i64)
                far_at = builder.bitcast(builder.gep(x_at, [builder.mul(far, stride)]), byte_at)
                for line in range(0, width * 4, 64):
                    at = builder.gep(far_at, [ir.Constant(i64, line)])
                    builder.call(prefetch, [at, *(ir.Constant(i32, n) for n in (0, 3, 1))])
                column = builder.sext(builder.load(builder.gep(columns, [edge])), i64)
                value = splat(builder.load(builder.gep(values, [edge])))
                gathered = builder.load(vector_pointer(x_at, column), align=4)
                builder.store(builder.call(fma, [value, gathered, builder.load(total)]), total)
            final = builder.load(total)
            if signature.args[5].ndim == 2:
                start_sum = builder.load(vector_pointer(base_at, row_number), align=4)
                result = builder.call(fma, [splat(factor), final, start_sum])
            else:
                result = builder.fmul(splat(factor), final)
            builder.store(result, vector_pointer(out_at, row_number), align=4)
            if not dot:
                return ir.Constant(float_, 0.0)
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
            return builder.extract_element(folded, ir.Constant(i32, 0))

        return signature, emit

    return row


@cache
def _kernel(width: int, dot: bool) -> Any:
    """The compiled product for one vector width; compiled once a process (about a second)."""
    row = row_kernel(width, dot)

    @numba.njit(parallel=True, nogil=True, fastmath=False, boundscheck=False)
    def product(indptr, indices, data, chunks, x, base, out, alpha, z, partial):  # type: ignore[no-untyped-def]
        for c in numba.prange(chunks.size - 1):
            total = 0.0
            for r in range(chunks[c], chunks[c + 1]):
                total += row(indices, data, indptr[r], indptr[r + 1], x, base, out, r, alpha, z)
            partial[c] = total

    return product


def chunks(csr: Csr, threads: int | None = None) -> Int64:
    """Row borders of chunks with equal work (edges + a little per row), int64 [n_chunks + 1]."""
    n = CHUNKS_PER_THREAD * (threads or numba.get_num_threads())
    return equal_pieces(csr.indptr, n, row_work=2)


def spmm(
    csr: Csr,
    x: Float32,
    out: Float32,
    alpha: float = 1.0,
    base: Float32 | None = None,
    dot: Float32 | None = None,
    borders: Int64 | None = None,
) -> float:
    """``out = base + alpha · csr @ x``, row-parallel; returns ``<csr @ x, dot>`` when ``dot`` is given, else 0.

    Args:
        csr: [n, m].
        x: float32 [m, d], contiguous.
        out: float32 [n, d], contiguous, written; may be ``base`` itself, never ``x``.
        alpha: factor of the product.
        base: float32 [n, d] that the product is added to; zeros if None.
        dot: float32 [n, d] for the inner product.
        borders: of ``chunks``; made here if None.

    Raises:
        ValueError: shapes or memory layouts that do not fit.
    """
    width = x.shape[1]
    expected = (csr.n_rows, width)
    tables = (("out", out), ("base", base), ("dot", dot))
    if x.shape[0] != csr.n_cols or any(t is not None and t.shape != expected for _, t in tables):
        raise ValueError(f"{csr.n_rows} x {csr.n_cols} matrix, x {x.shape}, out {out.shape}: shapes do not fit")
    if any(t is not None and not (t.flags.c_contiguous and t.dtype == np.float32) for _, t in (("x", x), *tables)):
        raise ValueError("vectors must be contiguous float32")
    borders = chunks(csr) if borders is None else borders
    if width % 16:
        return _spmm_any_width(csr, x, out, alpha, base, dot)
    partial: Float64 = np.zeros(borders.size - 1)
    start: npt.NDArray[np.float32] = np.empty(0, np.float32) if base is None else base
    _kernel(width, dot is not None)(
        csr.indptr, csr.indices, csr.data, borders, x, start, out, np.float32(alpha), out if dot is None else dot,
        partial,
    )  # fmt: skip
    return float(partial.sum())


def _spmm_any_width(
    csr: Csr, x: Float32, out: Float32, alpha: float, base: Float32 | None, dot: Float32 | None
) -> float:
    """The same by scipy, for the odd width that no vector register fits."""
    from scipy.sparse import csr_array

    product = csr_array((csr.data, csr.indices, csr.indptr), shape=(csr.n_rows, csr.n_cols)) @ x
    total = 0.0 if dot is None else float(np.vdot(product, dot))
    np.multiply(product, np.float32(alpha), out=product)
    if base is not None:
        product += base
    out[:] = product
    return total
