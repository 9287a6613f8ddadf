"""Item-kNN: shrunk cosine between items' users, k nearest kept (Sarwar et al. 2001; shrinkage: Bell & Koren 2007).

``w_ij = n_ij / (√(n_i n_j) + s)`` with n_ij the users of both; scores are ``X W``. Where interactions do not all
weigh 1, X has the weights as entries, ``n_ij = x_i · x_j`` and ``n_i = x_i · x_i``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr
from relrank.graph.graph import Graph
from relrank.models import estimates
from relrank.models.base import FromHistory, Knob
from relrank.models.estimates import Estimate
from relrank.models.linear import products_by_row

# Co-counts are dense for a block of items at a time, within this many bytes.
BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ItemKNNConfig:
    """Hyper-parameters of item-kNN."""

    neighbours: int = 100
    """Most similar items kept per item."""
    shrinkage: float = 20.0
    """Added to the denominator: how many users' worth of doubt a pair starts with."""


class ItemKNN(FromHistory):
    """Scores are sums of similarities to the items of the history."""

    name = "item-knn"
    Config = ItemKNNConfig
    solution: ClassVar[tuple[str, ...]] = ("indptr", "indices", "similarities")

    #: CSR of W, items by items: each item's nearest items
    indptr: Tensor
    indices: Tensor
    similarities: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """Neighbours and shrinkage."""
        del graph
        return (
            Knob("neighbours", (10, 20, 50, 100, 200, 400), 100),
            Knob("shrinkage", (0.0, 5.0, 20.0, 50.0, 100.0, 200.0), 20.0),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """A block of co-counts with its denominators, six blocks in all; then the neighbours, sorted into rows.

        A neighbour takes 8 bytes while neighbours are found, and 48 more while they are sorted if it is above 0.
        An item has no more neighbours than its users have other interactions.
        """
        n, x = graph.n_items, graph.interactions
        k = min(int(config.neighbours), n - 1)
        of_user = np.bincount(x.src, minlength=graph.n_users)
        most = np.bincount(x.dst, weights=of_user[x.src] - 1, minlength=n)
        above = int(np.minimum(most, k).sum())
        found, block = 8 * n * k, max(BLOCK_BYTES, 4 * n)
        peak = max(
            found + 6 * block, 2 * found + n * k + 48 * above, estimates.sparse(above) + estimates.score_block(n)
        )
        # a pair of items is divided, compared and sorted, mostly by one core
        return Estimate(peak + 2 * estimates.sparse(len(x)), 0.0, estimates.gram_products(x.src) * 2 + 20.0 * n * n)

    def solve(self) -> Self:
        """Block by block of items: co-counts, cosines, the k largest."""
        x = self.history
        by_item = x.transpose()
        n, counts = x.n_cols, np.bincount(x.indices, weights=x.data.astype(np.float64) ** 2, minlength=x.n_cols)
        k = min(int(self.config.neighbours), n - 1)
        columns, values = np.zeros((n, k), np.int32), np.zeros((n, k), np.float32)
        block = max(1, BLOCK_BYTES // (4 * n))
        for start in range(0, n, block):
            rows = np.arange(start, min(n, start + block))
            both = products_by_row(by_item.take(rows), x)
            both /= np.sqrt(np.outer(counts[rows], counts)).astype(np.float32) + np.float32(
                max(self.config.shrinkage, 1e-6)
            )
            both[np.arange(rows.size), rows] = 0
            nearest = torch.from_numpy(both).topk(k)
            columns[rows], values[rows] = nearest.indices.numpy(), nearest.values.numpy()
        row = np.repeat(np.arange(n), k)
        keep = values.ravel() > 0
        w = Csr.from_pairs(row[keep], columns.ravel()[keep], (n, n), values.ravel()[keep])
        self.indptr, self.indices, self.similarities = map(torch.from_numpy, (w.indptr, w.indices, w.data))
        return self

    def score_rows(self, rows: Csr) -> Tensor:
        """``X W``."""
        w = Csr(self.indptr.numpy(), self.indices.numpy(), self.similarities.numpy(), self.graph.n_items)
        return torch.from_numpy(products_by_row(rows, w))
