"""Pages of ranked lists: slices of one total order, score descending, equal scores in a fixed random order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from relrank.evaluation.ranking import tie_break_order
from relrank.kernels.csr import Float32, Int64
from relrank.serve.ann_index import ItemIndex

Rows = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


class Page(NamedTuple):
    """A page of a ranked list.

    Attributes:
        items: item rows, best first.
        scores: of these items.
        total: number of items in the whole list.
        fallback: whether the list is by popularity, since the model has no information: no history, or equal scores.
        exact: whether the scores are the model's own; False where a session shifts the scores of a user whose vector
            is fixed.
    """

    items: Int64
    scores: Float32
    total: int
    fallback: bool = False
    exact: bool = True


class Paginator:
    """Cuts pages out of the order of a catalogue.

    Args:
        n_items: size of the catalogue.
    """

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self._tie_rank = np.empty(n_items, np.int32)
        self._tie_rank[tie_break_order(n_items)] = np.arange(n_items, dtype=np.int32)

    def page(self, scores: Float32, excluded: Rows | None, candidates: Mask | None, offset: int, k: int) -> Page:
        """The items at positions offset … offset + k − 1, 0-based.

        Args:
            scores: of the catalogue; finite.
            excluded: item rows to leave out.
            candidates: bool [n_items], the only candidate items; None for all.
            offset: items before the page.
            k: length of the page.
        """
        masked = scores.copy()
        if excluded is not None:
            masked[excluded] = -np.inf
        if candidates is not None:
            masked[~candidates] = -np.inf
        is_full = excluded is None and candidates is None
        total = self.n_items if is_full else int(np.count_nonzero(masked > -np.inf))
        end = min(offset + k, total)
        if offset >= end:
            return Page(np.zeros(0, np.int64), np.zeros(0, np.float32), total)
        # every item that ties with the last one of the page is sorted, else pages would overlap
        last = np.partition(masked, self.n_items - end)[self.n_items - end]
        tied = np.flatnonzero(masked >= last)
        items = tied[self._order(tied, masked[tied])][offset:end]
        return Page(items, scores[items], total)

    def _order(self, rows: Rows, scores: Float32) -> Int64:
        order: Int64 = np.lexsort((self._tie_rank[rows], -scores))
        return order

    def page_from_index(
        self, index: ItemIndex, query: Float32, excluded: Rows, offset: int, k: int, n_head: int
    ) -> Page:
        """A page whose first items an index finds; what the index misses follows them, by score.

        So all pages of a query are slices of one order.

        Args:
            index: of the item vectors.
            query: user vector, float32 [d].
            excluded: item rows to leave out, each once.
            offset: items before the page.
            k: length of the page.
            n_head: items at the start of the list that the index finds.
        """
        found = index.search(query, n_head + excluded.size)
        found = found[~np.isin(found, excluded)]
        scores = (index.vectors[found] @ query).astype(np.float32)
        order = self._order(found, scores)[:n_head]
        head, head_scores, total = found[order], scores[order], self.n_items - excluded.size
        if offset + k <= head.size or head.size == total:
            return Page(head[offset : offset + k], head_scores[offset : offset + k], total)
        start = min(offset, head.size)
        items, item_scores = head[start : offset + k], head_scores[start : offset + k]
        rest = self.page(
            (index.vectors @ query).astype(np.float32),
            np.concatenate([excluded, head]),
            None,
            offset - start if offset > head.size else 0,
            k - items.size,
        )
        return Page(np.concatenate([items, rest.items]), np.concatenate([item_scores, rest.scores]), total)
