"""Memory and time of a fit, from shapes alone: what is known before anything is allocated.

The rules count the arrays that are alive at the moment with the most of them, and the multiply-adds of the loops that
take longest. They say nothing of the graph itself, of compiled code or of libraries' own buffers. Every model's rule
stands in its ``estimate``; what several of them share is here. ``benchmarks/estimates.py`` compares them with
measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relrank.kernels.csr import Int32
from relrank.libraries import cores as cores

FLOAT = 4
"""Bytes of a float32, and of an int32."""
SCORE_BLOCK = 128 << 20
"""Bytes of one block of users' scores, as ``relrank.ranking`` asks for them."""
DENSE_RATE = 4e10
"""Multiply-adds a second and core in dense linear algebra: Cholesky, inverse, products of matrices. Rough."""
SPARSE_RATE = 5e8
"""Multiply-adds a second and core in loops over sparse rows. Rough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one fit takes on a CPU.

    Attributes:
        bytes: the most memory held at once beside the graph: while solving or training, or while scoring a block of
            users afterwards.
        dense: multiply-adds of dense linear algebra; of a trained model in one epoch.
        sparse: multiply-adds of loops over sparse rows; of a trained model in one epoch.
    """

    bytes: int
    dense: float = 0.0
    sparse: float = 0.0

    @property
    def seconds(self) -> float:
        """Time on the cores that this process may use: a lower bound, once 50 times too low in the log."""
        return (self.dense / DENSE_RATE + self.sparse / SPARSE_RATE) / cores()


def score_block(n_items: int) -> int:
    """Bytes of one block of scores: a single row at least."""
    return max(SCORE_BLOCK, FLOAT * n_items)


def triangle(n: int) -> int:
    """Bytes of the upper triangle of an [n, n] float32 matrix."""
    return FLOAT * (n * (n + 1) // 2)


def square(n: int) -> int:
    """Bytes of an [n, n] float32 matrix."""
    return FLOAT * n * n


def table(rows: int, width: int) -> int:
    """Bytes of a [rows, width] float32 matrix."""
    return FLOAT * rows * width


def sparse(n_edges: int) -> int:
    """Bytes of a sparse matrix's columns and values."""
    return 2 * FLOAT * n_edges


def gram_products(columns: Int32) -> float:
    """Multiply-adds of ``linear.gram`` of a sparse matrix, from the column of every entry."""
    return float((np.bincount(columns).astype(np.float64) ** 2).sum()) / 2


def singular_vectors_bytes(n_rows: int, n_cols: int, rank: int) -> int:
    """Peak of ``linear.singular_vectors``.

    At first the basis in float64 beside its float32 copy; then the image of the basis, and three copies of the basis
    while it is made orthonormal.
    """
    wide = min(-(-(rank + 16) // 16) * 16, n_cols)
    return max(3 * table(n_cols, wide), table(n_rows, wide) + 3 * table(n_cols, wide))


def singular_vectors_operations(
    n_rows: int, n_cols: int, n_edges: int, rank: int, rounds: int
) -> tuple[float, float]:
    """Dense and sparse multiply-adds of ``linear.singular_vectors``."""
    wide = float(min(-(-(rank + 16) // 16) * 16, n_cols))
    dense = 2 * n_cols * wide**2 * (rounds + 2) + n_rows * wide**2 + n_cols * wide * rank
    # rows of a table are read whole: several times as many a second as single values
    return dense, (2 * rounds + 1) * n_edges * wide / 4
