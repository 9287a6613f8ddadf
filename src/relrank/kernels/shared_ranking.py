"""Ranking by scores that all users share: the catalogue is sorted once, and each user's seen items are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Float32, Int32
from relrank.kernels.jit import njit


class SharedRanking:
    """Items by score, higher ones first, ties by position.

    Args:
        scores: of all items, float32 [n_items], finite.
        positions: of all items in tie-break order, int32 [n_items].
        excluded: item rows that are candidates for nobody.
    """

    def __init__(self, scores: Float32, positions: Int32, excluded: Int32) -> None:
        self.scores, self.is_excluded = scores, np.zeros(scores.size, np.bool_)
        self.is_excluded[excluded] = True
        order = np.lexsort((positions, -scores))
        self.items: Int32 = order[~self.is_excluded[order]].astype(np.int32)
        self.ascending: Float32 = np.ascontiguousarray(scores[self.items][::-1])

    def rank(self, *arguments: npt.NDArray[Any]) -> None:
        """Rank users.

        Args:
            arguments: users, seen_indptr, seen_items, truth_indptr, truth_items, higher, equal, all_tied, top_items
                and top_scores, as ``relrank.kernels.fused_ranking`` describes them.
        """
        _rank(self.scores, self.is_excluded, self.items, self.ascending, *arguments)


@njit(nogil=True)
def _rank(  # type: ignore[no-untyped-def]
    scores,
    is_excluded,
    items,
    ascending,
    users,
    seen_indptr,
    seen_items,
    truth_indptr,
    truth_items,
    higher,
    equal,
    all_tied,
    top_items,
    top_scores,
):
    masked_for, k = np.full(scores.size, -1, np.int32), top_items.shape[1]
    for b in range(users.size):
        u = users[b]
        seen = seen_items[seen_indptr[u] : seen_indptr[u + 1]]
        candidates = items.size
        for item in seen:
            masked_for[item] = b
            candidates -= not is_excluded[item]
        for e in range(truth_indptr[u], truth_indptr[u + 1]):
            item = truth_items[e]
            if is_excluded[item] or masked_for[item] == b:
                higher[e], equal[e] = -1, -1
                continue
            target = scores[item]
            n_higher = items.size - np.searchsorted(ascending, target, side="right")
            n_equal = items.size - n_higher - np.searchsorted(ascending, target)
            for other in seen:
                if not is_excluded[other]:
                    n_higher -= scores[other] > target
                    n_equal -= scores[other] == target
            higher[e], equal[e] = n_higher, n_equal
            all_tied[b] = n_higher == 0 and n_equal == candidates and candidates > 1
        length = 0
        for item in items:
            if length == k:
                break
            if masked_for[item] != b:
                top_items[b, length], top_scores[b, length] = item, scores[item]
                length += 1
