"""What this machine can do, measured in the run that it is held against: copying, gathering rows, multiplying.

A gathered row is 256 bytes: 64 float32, one node's vector. Rows are drawn uniformly, so a product whose popular rows
stay in a nearer cache may do better than this limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDTH = 64
ROW_BYTES = 4 * WIDTH
SMALL_ROWS = 70_839
"""Gowalla's users and places: 18 MB, which a last-level cache may hold."""
LARGE_ROWS = 4_000_000
"""1 GB, which none holds."""
_PREFETCH = 16
"""Rows ahead that are asked for; more did not help."""


@dataclass(frozen=True)
class Roofline:
    """Medians, on all cores.

    Attributes:
        copy_gb_s: bytes read and written a second, from and to memory, GB (10^9).
        gather_small_gb_s: bytes read a second in rows of 256 at random from 18 MB.
        gather_large_gb_s: the same from 1 GB.
        sgemm_gflop_s: float32 operations a second of a 2,048 × 2,048 product, 10^9.
        spread: largest over smallest of the repeats of each, less 1.
    """

    copy_gb_s: float
    gather_small_gb_s: float
    gather_large_gb_s: float
    sgemm_gflop_s: float
    spread: dict[str, float]


@intrinsic
def _add_rows(_typing, table, picked, start, stop, out, piece):  # type: ignore[no-untyped-def]
    """``out[piece]`` = the sum of the picked rows, kept in registers: every byte is read, and little else is done.

    As LLVM code, because a loop over the columns that numba vectorises by itself is bound by its sums.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table_at, picked_at, out_at = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1, 4)
        )
        i32, i64, byte_at = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
        vector = ir.VectorType(ir.FloatType(), WIDTH)
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte_at, i32, i32, i32]), "llvm.prefetch.p0"
        )

        def row(table: Any, number: Any) -> Any:
            return builder.gep(table, [builder.mul(number, ir.Constant(i64, WIDTH))])

        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * WIDTH))
        last = builder.sub(arguments[3], ir.Constant(i64, 1))
        with cgutils.for_range_slice(builder, arguments[2], arguments[3], ir.Constant(i64, 1)) as (at, _):
            ahead = builder.add(at, ir.Constant(i64, _PREFETCH))
            ahead = builder.select(builder.icmp_signed("<", ahead, last), ahead, last)
            far = builder.bitcast(
                row(table_at, builder.sext(builder.load(builder.gep(picked_at, [ahead])), i64)), byte_at
            )
            for line in range(0, ROW_BYTES, 64):
                builder.call(
                    prefetch, [builder.gep(far, [ir.Constant(i64, line)]), *(ir.Constant(i32, n) for n in (0, 3, 1))]
                )
            near = row(table_at, builder.sext(builder.load(builder.gep(picked_at, [at])), i64))
            read = builder.load(builder.bitcast(near, vector.as_pointer()), align=4)
            builder.store(builder.fadd(builder.load(total), read), total)
        into = builder.bitcast(row(out_at, arguments[5]), vector.as_pointer())
        builder.store(builder.load(total), into, align=4)
        return context.get_dummy_value()

    return types.void(table, picked, start, stop, out, piece), emit


@numba.njit(parallel=True, nogil=True, boundscheck=False)
def _gather(table, picked, out):  # type: ignore[no-untyped-def]
    pieces = out.shape[0]
    for piece in numba.prange(pieces):
        _add_rows(table, picked, piece * picked.size // pieces, (piece + 1) * picked.size // pieces, out, piece)  # type: ignore[call-arg]


@numba.njit(parallel=True, nogil=True, boundscheck=False)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for at in numba.prange(source.size):
        target[at] = source[at]


def measure(repeats: int = 9) -> Roofline:
    """The machine as it is now; a few seconds."""
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {}

    def timed(name: str, amount: float, work: Callable[..., object], *arguments: object) -> None:
        work(*arguments)
        rates[name] = []
        for _ in range(repeats):
            began = time.perf_counter()
            work(*arguments)
            rates[name].append(amount / (time.perf_counter() - began) / 1e9)

    source = np.ones(1 << 26, np.float32)  # 256 MB
    timed("copy_gb_s", 2 * source.nbytes, _copy, source, np.empty_like(source))
    out = np.zeros((8 * numba.get_num_threads(), WIDTH), np.float32)
    for name, rows in (("gather_small_gb_s", SMALL_ROWS), ("gather_large_gb_s", LARGE_ROWS)):
        picked = rng.integers(0, rows, 4_000_000, dtype=np.int32)
        timed(name, picked.size * ROW_BYTES, _gather, np.ones((rows, WIDTH), np.float32), picked, out)
    a, b = (torch.rand(2048, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    timed("sgemm_gflop_s", 2 * 2048**3, torch.matmul, a, b)
    spread = {name: max(found) / min(found) - 1 for name, found in rates.items()}
    return Roofline(**{name: median(found) for name, found in rates.items()}, spread=spread)
