"""Pairs of nodes with similar texts, or near each other in histories."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.graph.construction.relation_config import TextSimilarity
from relrank.kernels.csr import Float32, Int64

Bool = npt.NDArray[np.bool_]
Pairs = tuple[Int64, Int64, Float32]

_BLOCK_CELLS = 1 << 23
"""Most similarities of one block: 200 MB if every two texts share a word."""


def top_k_mask(rows: npt.NDArray[np.integer], others: npt.NDArray[np.integer], weight: Float32, k: int) -> Bool:
    """Which edges are among the ``k`` of largest weight of their row, bool [n]; ties go to the lower ``others``."""
    order = np.lexsort((others, -weight, rows))
    ordered = rows[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.arange(rows.size) - np.repeat(starts, np.diff(starts, append=rows.size))
    mask = np.zeros(rows.size, bool)
    mask[order[rank < k]] = True
    return mask


def similar_texts(texts: list[str], config: TextSimilarity) -> tuple[Pairs, int]:
    """For each text its exact nearest other texts by cosine of TF-IDF vectors.

    Returns:
        (text, neighbour, cosine float32) for every neighbour, so that mutual neighbours occur twice; and the number
        of texts without any n-gram, which have no neighbours.

    Raises:
        ValueError: no n-gram occurs often enough.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        lowercase=True, ngram_range=config.ngrams, min_df=config.min_df, max_features=config.max_features
    )
    x = vectorizer.fit_transform(texts).tocsr()
    n, columns = x.shape[0], x.T.tocsr()
    blocks: list[Pairs] = []
    step = max(1, _BLOCK_CELLS // n)
    for start in range(0, n, step):
        block = (x[start : start + step] @ columns).tocoo()
        row, other = block.row.astype(np.int64) + start, block.col.astype(np.int64)
        cosine = block.data.astype(np.float32)  # makes ties of what differs by the order of summation only
        near = (cosine >= np.float32(config.min_similarity)) & (row != other)
        blocks.append(_nearest(row[near], other[near], cosine[near], config.neighbours))
    return _concatenated(blocks), int((np.diff(x.indptr) == 0).sum())


def similar_vectors(x: Float32, config: TextSimilarity) -> Pairs:
    """For each unit vector its exact nearest others by cosine; pairs as in ``similar_texts``.

    Args:
        x: float32 [n, d].
        config: number of neighbours and smallest cosine.
    """
    from threadpoolctl import threadpool_limits

    blocks: list[Pairs] = []
    step = max(1, _BLOCK_CELLS // len(x))
    for start in range(0, len(x), step):
        with threadpool_limits(1):  # the same bits on any number of threads
            block = x[start : start + step] @ x.T
        near = block >= np.float32(config.min_similarity)
        near[np.arange(len(block)), np.arange(start, start + len(block))] = False
        row, other = np.nonzero(near)
        blocks.append(_nearest(row + start, other, block[row, other], config.neighbours))
    return _concatenated(blocks)


def _nearest(rows: Int64, others: Int64, cosine: Float32, k: int) -> Pairs:
    """The ``k`` nearest pairs of each row."""
    cosine = np.minimum(cosine, np.float32(1))
    best = top_k_mask(rows, others, cosine, k)
    return rows[best], others[best], cosine[best]


def _concatenated(blocks: list[Pairs]) -> Pairs:
    rows, others, cosines = zip(*blocks, strict=True)
    return np.concatenate(rows), np.concatenate(others), np.concatenate(cosines)


def places_near(user: npt.NDArray[np.integer], window: int) -> int:
    """Number of pairs of positions in one history at most ``window`` apart, over all users.

    Args:
        user: [n], the user of every row.
        window: largest distance.
    """
    lengths = np.bincount(user).astype(np.int64)
    reach = np.minimum(lengths - 1, window).clip(0)
    return int((reach * lengths - reach * (reach + 1) // 2).sum())


def cooccurring(user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], window: int, min_count: int) -> Pairs:
    """Unordered pairs of different items at most ``window`` positions apart in one user's history, with their counts.

    Args:
        user: [n], with the rows of one user in time order; users may be interleaved.
        item: [n].
        window: largest distance.
        min_count: smallest count of a pair.

    Returns:
        (lower item, higher item, count).
    """
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order].astype(np.int64)
    keys = [np.empty(0, np.int64)]
    longest = int(np.bincount(user).max(initial=0))
    for distance in range(1, min(window, longest - 1) + 1):
        a, b = item[:-distance], item[distance:]
        in_history = (user[:-distance] == user[distance:]) & (a != b)
        keys.append((np.minimum(a, b) << 32 | np.maximum(a, b))[in_history])
    counts = pl.Series("key", np.concatenate(keys)).value_counts(name="count").filter(pl.col("count") >= min_count)
    key = counts["key"].to_numpy()
    return key >> 32, key & 0xFFFFFFFF, counts["count"].to_numpy().astype(np.float32)
