"""An index of item vectors: approximate nearest neighbours for large catalogues.

Inverted lists over k-means cells (Jégou, Douze & Schmid 2011, "Product Quantization for Nearest Neighbor Search",
section IV, without the quantisation): vectors are stored uncompressed, so products are exact, and only items of cells
that are not probed are missed. How many are probed follows from the recall on a sample. Needs the extra ``ann``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from relrank.errors import InputError
from relrank.kernels.csr import Float32, Int64

FROM_ITEMS = 200_000
"""Catalogues of at least this size are searched through an index."""
TARGET = 0.98
"""Recall that the number of probed cells has to reach."""
SAMPLE = 200
"""Number of queries in the sample."""
DEPTH = 100
"""k of the recall, apart from 10."""
PER_CELL = 64
"""Training vectors of k-means for each cell."""


def load_faiss() -> ModuleType:
    """The module ``faiss``.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise InputError(
            "an extra is not installed",
            where="index of item vectors",
            expected='pip install "relrank[ann]"',
            found="no module faiss",
        ) from None
    module: ModuleType = faiss
    return module


def recall(
    search: Callable[[Float32, int], Int64], vectors: Float32, queries: Float32, k: int, block: int = 16
) -> float:
    """Mean recall of the k largest products.

    A found item counts if its product is at least the k-th largest, so ties count.

    Args:
        search: (query [d], k) → item rows, at most k; −1 for none.
        vectors: of the items, float32 [n, d].
        queries: float32 [m, d].
        k: at most n.
        block: number of queries whose products are in memory at once.
    """
    found = []
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        products = part @ vectors.T
        least = np.partition(products, products.shape[1] - k, axis=1)[:, products.shape[1] - k]
        # faiss sums in another order than a matrix product
        least = least - 1e-5 * np.abs(products).max(axis=1)
        for query, row, bar in zip(part, products, least, strict=True):
            rows = np.unique(search(query, k))
            found.append((row[rows[rows >= 0]] >= bar).sum() / k)
    return float(np.mean(found))


@dataclass(frozen=True, slots=True)
class Quality:
    """Recall of an index on a sample of users.

    Attributes:
        cells: number of cells.
        probed_cells: cells read for each query.
        recall_10: recall at 10.
        recall_depth: recall at ``depth``.
        depth: k of ``recall_depth``.
        queries: size of the sample.
    """

    cells: int
    probed_cells: int
    recall_10: float
    recall_depth: float
    depth: int
    queries: int

    def __str__(self) -> str:
        return (
            f"{self.probed_cells} of {self.cells} cells read; against exact search on {self.queries} users "
            f"recall@10 {self.recall_10:.4f}, recall@{self.depth} {self.recall_depth:.4f}"
        )


class ItemIndex:
    """Finds most of the largest products with a query.

    Args:
        vectors: of the items, float32 [n_items, d].
        queries: a sample of users' vectors, float32 [m, d].
        target: recall at ``DEPTH`` on that sample; the number of probed cells doubles until it is reached.
        seed: of k-means.

    Raises:
        InputError: faiss is not installed.
    """

    def __init__(self, vectors: Float32, queries: Float32, target: float = TARGET, seed: int = 0) -> None:
        faiss = load_faiss()
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        n, d = self.vectors.shape
        cells = int(max(1, min(4 * np.sqrt(n), n // PER_CELL)))
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed = seed
        self._index.cp.max_points_per_centroid = PER_CELL
        self._index.cp.niter = 10
        self._index.train(self.vectors)
        self._index.add(self.vectors)
        self._lock = threading.Lock()
        self.quality = self._tuned(np.ascontiguousarray(queries, np.float32), target)

    def _tuned(self, queries: Float32, target: float) -> Quality:
        cells, depth = self._index.nlist, min(DEPTH, len(self.vectors))
        self._index.nprobe = min(8, cells)
        while True:
            at_depth = recall(self.search, self.vectors, queries, depth)
            if at_depth >= target or self._index.nprobe == cells:
                break
            self._index.nprobe = min(2 * self._index.nprobe, cells)
        at_10 = recall(self.search, self.vectors, queries, min(10, depth))
        return Quality(cells, self._index.nprobe, at_10, at_depth, depth, len(queries))

    def search(self, query: npt.NDArray[np.float32], k: int) -> Int64:
        """Item rows of about the k largest products with a vector [d]; fewer if the probed cells hold fewer."""
        with self._lock:
            found: Int64 = self._index.search(np.ascontiguousarray(query[None]), k)[1][0]
        return found[found >= 0]
