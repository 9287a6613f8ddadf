"""Memory and time of a fit, estimated from shapes before anything is allocated.

Estimates count the arrays that are alive at the peak and the multiply-adds of the longest loops, without the graph
itself, compiled code and buffers of libraries. Every model has its own ``estimate``; shared parts are here.
``benchmarks/estimates.py`` compares the estimates with measured peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relrank.graph.graph import Graph
from relrank.kernels.csr import Float64, Int32
from relrank.kernels.topk_products import PIECE_BYTES
from relrank.parallel.environment import cores as cores

FLOAT = 4
"""Bytes of a float32, and of an int32."""
SCORE_BLOCK = 128 << 20
"""Bytes of one block of users' scores in ``relrank.evaluation.ranking``."""
DENSE_RATE = 4e10
"""Multiply-adds per second and core in dense linear algebra. Rough."""
SPARSE_RATE = 5e8
"""Multiply-adds per second and core in loops over sparse rows. Rough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost of one fit on a CPU.

    Attributes:
        bytes: peak memory without the graph, while solving or training, or while scoring a block of users.
        dense: multiply-adds of dense linear algebra; for a trained model, per epoch.
        sparse: multiply-adds of loops over sparse rows; for a trained model, per epoch.
    """

    bytes: int
    dense: float = 0.0
    sparse: float = 0.0

    @property
    def seconds(self) -> float:
        """Time on the available cores: a lower bound, once 50 times too low in the log."""
        return (self.dense / DENSE_RATE + self.sparse / SPARSE_RATE) / cores()


def score_block(n_items: int) -> int:
    """Bytes of one block of scores, at least one row."""
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
    """Multiply-adds of ``dense_solve.gram`` of a sparse matrix, from the column of every entry."""
    return float((np.bincount(columns).astype(np.float64) ** 2).sum()) / 2


def singular_vectors_bytes(n_rows: int, n_cols: int, rank: int) -> int:
    """Peak memory of ``dense_solve.singular_vectors``.

    First the basis in float64 and its float32 copy; then the image of the basis, and three copies of the basis during
    orthonormalisation.
    """
    wide = min(-(-(rank + 16) // 16) * 16, n_cols)
    return max(3 * table(n_cols, wide), table(n_rows, wide) + 3 * table(n_cols, wide))


def singular_vectors_operations(
    n_rows: int, n_cols: int, n_edges: int, rank: int, rounds: int
) -> tuple[float, float]:
    """Dense and sparse multiply-adds of ``dense_solve.singular_vectors``."""
    wide = float(min(-(-(rank + 16) // 16) * 16, n_cols))
    dense = 2 * n_cols * wide**2 * (rounds + 2) + n_rows * wide**2 + n_cols * wide * rank
    # rows are read contiguously, several times faster than single values
    return dense, (2 * rounds + 1) * n_edges * wide / 4


def largest_products_estimate(
    graph: Graph, k: int, copies: int, below: Sequence[tuple[Float64, Float64]] = ()
) -> Estimate:
    """Memory and operations of ``topk_products`` of two matrices with the shape of the interactions.

    Args:
        graph: has the interactions.
        k: largest entries kept per item, at most the number of items that share a user with it.
        copies: sparse matrices of that shape that are created for it.
        below: further rows of both matrices, as from ``relation_rows.entry_counts``: entries of each row, and
            co-occurrences of every item with others in them [n_items].
    """
    n, x = graph.n_items, graph.interactions
    k = max(0, min(k, n - 1))
    user_degrees = np.bincount(x.src, minlength=graph.n_users)
    most = np.bincount(x.dst, weights=user_degrees[x.src] - 1, minlength=n).astype(np.float64)
    entries, products = len(x), gram_products(x.src)
    for of_row, cooccurrences in below:
        entries += int(of_row.sum())
        products += float((of_row**2).sum()) / 2
        most = most + cooccurrences
    kept = int(np.minimum(most, k).sum())
    piece = min(8 * n * k, max(PIECE_BYTES, 8 * k))
    buffers = 16 * n * cores()  # per thread
    # an entry is summed, divided, and compared a few times to choose the largest
    return Estimate(
        sparse(kept) + 2 * piece + buffers + (1 + copies) * sparse(entries), 0.0, 8 * products + 8.0 * kept
    )
