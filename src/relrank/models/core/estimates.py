"""Memory and time of a fit, from shapes alone: what is known before anything is allocated.

The rules count the arrays that are alive at the moment with the most of them, and the multiply-adds of the loops that
take longest. They say nothing of the graph itself, of compiled code or of libraries' own buffers. Every model's rule
stands in its ``estimate``; what several of them share is here. ``benchmarks/estimates.py`` compares them with
measured peaks.
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
"""Bytes of one block of users' scores, as ``relrank.evaluation.ranking`` asks for them."""
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


def largest_products_estimate(
    graph: Graph, k: int, copies: int, below: Sequence[tuple[Float64, Float64]] = ()
) -> Estimate:
    """Memory and operations of ``topk_products`` of a matrix of the interactions' shape, transposed, with another.

    Args:
        graph: has the interactions.
        k: entries kept per item; an item has no more than its users have other interactions.
        copies: sparse matrices of that shape that are made for it.
        below: further rows of both matrices, as pairs: entries of each row, and how often every item meets another
            one in them [n_items].
    """
    n, x = graph.n_items, graph.interactions
    k = max(0, min(k, n - 1))
    of_user = np.bincount(x.src, minlength=graph.n_users)
    most = np.bincount(x.dst, weights=of_user[x.src] - 1, minlength=n).astype(np.float64)
    entries, products = len(x), gram_products(x.src)
    for of_row, met in below:
        entries += int(of_row.sum())
        products += float((of_row**2).sum()) / 2
        most = most + met
    kept = int(np.minimum(most, k).sum())
    result = sparse(kept)
    piece = min(8 * n * k, max(PIECE_BYTES, 8 * k))
    strands = 16 * n * cores()
    # an entry is summed, divided and looked at a few times to choose the largest
    return Estimate(
        result + 2 * piece + strands + (1 + copies) * sparse(entries),
        0.0,
        8 * products + 8.0 * kept,
    )
