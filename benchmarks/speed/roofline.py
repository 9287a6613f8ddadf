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

WIDTH = 64
SMALL_ROWS = 70_839
"""Gowalla's users and places: 18 MB, which a last-level cache may hold."""
LARGE_ROWS = 4_000_000
"""1 GB, which none holds."""


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


@numba.njit(parallel=True, nogil=True, fastmath=True, boundscheck=False)
def _gather(table, picked, totals):  # type: ignore[no-untyped-def]
    """The sum of all numbers of the picked rows, per thread: every byte is read, nothing else is done."""
    pieces = totals.size
    for piece in numba.prange(pieces):
        total = np.float32(0)
        for at in range(piece * picked.size // pieces, (piece + 1) * picked.size // pieces):
            row = table[picked[at]]
            for column in range(WIDTH):
                total += row[column]
        totals[piece] = total


@numba.njit(parallel=True, nogil=True, boundscheck=False)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for at in numba.prange(source.size):
        target[at] = source[at]


def measure(repeats: int = 7) -> Roofline:
    """The machine as it is now; a few seconds."""
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {}

    def timed(name: str, amount: float, work: Callable[[], object]) -> None:
        work()
        rates[name] = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            rates[name].append(amount / (time.perf_counter() - began) / 1e9)

    source = np.ones(1 << 26, np.float32)  # 256 MB
    target = np.empty_like(source)
    timed("copy_gb_s", 2 * source.nbytes, lambda: _copy(source, target))
    totals = np.zeros(numba.get_num_threads() * 8, np.float32)
    tables: tuple[tuple[str, int], ...] = (("gather_small_gb_s", SMALL_ROWS), ("gather_large_gb_s", LARGE_ROWS))
    for name, rows in tables:
        table: Any = np.ones((rows, WIDTH), np.float32)
        picked = rng.integers(0, rows, 4_000_000, dtype=np.int32)
        timed(name, picked.size * WIDTH * 4, lambda table=table, picked=picked: _gather(table, picked, totals))
        del table
    a, b = (torch.rand(2048, 2048, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    timed("sgemm_gflop_s", 2 * 2048**3, lambda: a @ b)
    spread = {name: max(found) / min(found) - 1 for name, found in rates.items()}
    return Roofline(**{name: median(found) for name, found in rates.items()}, spread=spread)
