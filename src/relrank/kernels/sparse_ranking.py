"""Ranking of sparse scores: sparse inputs times sparse item weights, without a row of scores for the whole catalogue.

A user's scores differ from 0 only for the items that the weights of their inputs reach. These are summed in one
scratch array per thread and listed as they are reached; all others score 0 and are counted, not visited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from relrank.errors import InputError
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.jit import njit

Mask = npt.NDArray[np.bool_]

LAST_STAMP = (1 << 31) - 1
FEW_ITEMS = 1 << 15
"""Scores of so many items stay in a core's second-level cache."""
SORT_FROM = 8
"""From so many relevant items on, a user's scores are sorted once instead of being counted for each."""


@njit(nogil=True, inline="always")
def _before(score, place, other_score, other_place):  # type: ignore[no-untyped-def]
    """Whether a candidate comes before another one: higher scores first, equal ones by place."""
    return score > other_score or (score == other_score and place < other_place)


@njit(nogil=True)
def _keep(scores, places, count, score, place):  # type: ignore[no-untyped-def]
    """Put a candidate into an ordered list of at most ``scores.size``; returns the list's new length."""
    k = scores.size
    if count == k and not _before(score, place, scores[k - 1], places[k - 1]):
        return count
    at = count if count < k else k - 1
    while at > 0 and _before(score, place, scores[at - 1], places[at - 1]):
        scores[at] = scores[at - 1]
        places[at] = places[at - 1]
        at -= 1
    scores[at] = score
    places[at] = place
    return min(count + 1, k)


@njit(nogil=True, fastmath={"contract"})
def reach(i_indptr, i_indices, i_data, row, w_indptr, w_indices, w_data, scores, mark, stamp, reached):  # type: ignore[no-untyped-def]
    """Sum the scores of one row of inputs; returns how many items were reached.

    ``scores`` [n_items] is valid where ``mark`` [n_items] equals ``stamp``; these items are listed in ``reached``.
    """
    count = 0
    for e in range(i_indptr[row], i_indptr[row + 1]):
        value, source = i_data[e], i_indices[e]
        for f in range(w_indptr[source], w_indptr[source + 1]):
            item = w_indices[f]
            if mark[item] != stamp:
                mark[item] = stamp
                scores[item] = 0
                reached[count] = item
                count += 1
            scores[item] += value * w_data[f]
    return count


@njit(nogil=True)
def _count(values, n, target):  # type: ignore[no-untyped-def]
    """How many of the first ``n`` values are higher than the target, and how many equal it."""
    higher, equal = 0, 0
    for t in range(n):
        higher += values[t] > target
        equal += values[t] == target
    return higher, equal


@njit(nogil=True)
def rank_sparse(
    i_indptr: Int64,
    i_indices: Int32,
    i_data: Float32,
    w_indptr: Int64,
    w_indices: Int32,
    w_data: Float32,
    users: Int32,
    order: Int32,
    places: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    closed: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    not_finite: Int64,
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users whose scores are ``inputs @ weights``; outputs are written in place.

    Args:
        i_indptr: inputs of the users, CSR [B, n_inputs].
        i_indices: columns of the inputs.
        i_data: values of the inputs.
        w_indptr: item weights, CSR [n_inputs, n_items].
        w_indices: items.
        w_data: weights.
        users: rows of the users in ``seen`` and ``truth``, int32 [B].
        order: all item rows in the order that decides between equal scores.
        places: of all items in that order.
        seen_indptr: where each user's ``seen_items`` start.
        seen_items: the candidates to leave out.
        truth_indptr: where each user's ``truth_items`` start.
        truth_items: the relevant items.
        closed: item rows that are candidates for nobody.
        higher: of all relevant items of all users, how many candidates score higher; −1 for those that are masked.
        equal: likewise how many score the same, the item itself among them.
        all_tied: bool [B], whether all candidates, at least two, have one score; only of users with relevant items.
        not_finite: int64 [B], how many scores are NaN or infinite; nothing else is written for such a user.
        top_items: lists, int32 [B, k]; −1 behind the end.
        top_scores: float32 [B, k]; −∞ behind the end.
    """
    n_items, k = order.size, top_items.shape[1]
    scores, mark = np.zeros(n_items, np.float32), np.full(n_items, -1, np.int32)
    reached, values = np.empty(n_items, np.int32), np.empty(n_items, np.float32)
    for b in range(users.size):
        u = users[b]
        count = reach(i_indptr, i_indices, i_data, b, w_indptr, w_indices, w_data, scores, mark, b, reached)
        bad = 0
        for t in range(count):
            bad += not np.isfinite(scores[reached[t]])
        not_finite[b] = bad
        if bad:
            continue
        # masked items are listed too, with a score that no candidate has, so that the rest are all candidates
        for e in range(seen_indptr[u], seen_indptr[u + 1]):
            item = seen_items[e]
            if mark[item] != b:
                mark[item] = b
                reached[count] = item
                count += 1
            scores[item] = -np.inf
        for item in closed:
            if mark[item] != b:
                mark[item] = b
                reached[count] = item
                count += 1
            scores[item] = -np.inf
        rest = n_items - count
        kept = 0
        for t in range(count):
            score = scores[reached[t]]
            if score != -np.inf:
                values[kept] = score
                kept += 1
        first, last = truth_indptr[u], truth_indptr[u + 1]
        ordered = values[:kept]
        if last - first >= SORT_FROM:
            ordered = np.sort(ordered)
        for e in range(first, last):
            item = truth_items[e]
            target = scores[item] if mark[item] == b else np.float32(0)
            if target == -np.inf:
                higher[e], equal[e] = -1, -1
                continue
            if last - first >= SORT_FROM:
                right = np.searchsorted(ordered, target, side="right")
                n_higher, n_equal = kept - right, right - np.searchsorted(ordered, target)
            else:
                n_higher, n_equal = _count(ordered, kept, target)
            if target < 0:
                n_higher += rest
            elif target == 0:
                n_equal += rest
            higher[e], equal[e] = n_higher, n_equal
            all_tied[b] = n_higher == 0 and n_equal == kept + rest and n_equal > 1
        if k:
            _list(scores, mark, b, reached, count, order, places, top_items[b], top_scores[b])


@njit(nogil=True, fastmath={"contract"})
def _sum_all(i_indptr, i_indices, i_data, row, w_indptr, w_indices, w_data, scores):  # type: ignore[no-untyped-def]
    """Sum the scores of one row of inputs for all items, in the order of ``reach``."""
    scores[:] = 0
    for e in range(i_indptr[row], i_indptr[row + 1]):
        value, source = i_data[e], i_indices[e]
        for f in range(w_indptr[source], w_indptr[source + 1]):
            scores[w_indices[f]] += value * w_data[f]


@njit(nogil=True)
def rank_few_items(  # type: ignore[no-untyped-def]
    i_indptr,
    i_indices,
    i_data,
    w_indptr,
    w_indices,
    w_data,
    users,
    seen_indptr,
    seen_items,
    truth_indptr,
    truth_items,
    closed,
    higher,
    equal,
    all_tied,
    not_finite,
    n_items,
):
    """``rank_sparse`` without lists, for catalogues whose scores stay in the cache: all of them are made and counted.

    Arguments as there, and the number of items.
    """
    scores = np.empty(n_items, np.float32)
    for b in range(users.size):
        u = users[b]
        _sum_all(i_indptr, i_indices, i_data, b, w_indptr, w_indices, w_data, scores)
        bad = 0
        for score in scores:
            bad += score - score != 0
        not_finite[b] = bad
        if bad:
            continue
        for e in range(seen_indptr[u], seen_indptr[u + 1]):
            scores[seen_items[e]] = -np.inf
        for item in closed:
            scores[item] = -np.inf
        candidates = 0
        for score in scores:
            candidates += score != -np.inf
        for e in range(truth_indptr[u], truth_indptr[u + 1]):
            target = scores[truth_items[e]]
            if target == -np.inf:
                higher[e], equal[e] = -1, -1
                continue
            higher[e], equal[e] = _count(scores, n_items, target)
            all_tied[b] = higher[e] == 0 and equal[e] == candidates and candidates > 1


@njit(nogil=True)
def _list(scores, mark, stamp, reached, count, order, places, top_items, top_scores):  # type: ignore[no-untyped-def]
    """The best candidates of one user: those above 0, then the ones at 0 in the order of places, then those below."""
    k, length = top_scores.size, 0
    for t in range(count):
        score = scores[reached[t]]
        if score > 0:
            length = _keep(top_scores, top_items, length, score, places[reached[t]])
    place = 0
    while length < k and place < order.size:
        item = order[place]
        if mark[item] != stamp or scores[item] == 0:
            top_scores[length] = 0
            top_items[length] = place
            length += 1
        place += 1
    if length < k:
        at_zero = length
        for t in range(count):
            score = scores[reached[t]]
            if -np.inf < score < 0:
                added = _keep(top_scores[at_zero:], top_items[at_zero:], length - at_zero, score, places[reached[t]])
                length = at_zero + added
    for at in range(k):
        top_items[at] = order[top_items[at]] if at < length else -1
        if at >= length:
            top_scores[at] = -np.inf


@njit(nogil=True)
def _split(  # type: ignore[no-untyped-def]
    i_indptr, i_indices, i_data, w_indptr, w_indices, w_data, seen, among, scores, mark, stamp, reached
):
    """Reach items and part the candidates among them by sign: (not finite, masked, above 0, below 0).

    Masked items are marked with a score of −∞. ``among`` of size 0 allows everything.
    """
    count = reach(i_indptr, i_indices, i_data, 0, w_indptr, w_indices, w_data, scores, mark, stamp, reached)
    bad, masked = 0, 0
    for t in range(count):
        bad += not np.isfinite(scores[reached[t]])
    for item in seen:
        mark[item] = stamp
        scores[item] = -np.inf
        masked += among.size == 0 or among[item]
    n_above, n_below = 0, 0
    for t in range(count):
        item = reached[t]
        if among.size == 0 or among[item]:
            n_above += scores[item] > 0
            n_below += -np.inf < scores[item] < 0
    above, below = np.empty(n_above, np.int64), np.empty(n_below, np.int64)
    n_above, n_below = 0, 0
    for t in range(count):
        item = reached[t]
        if among.size == 0 or among[item]:
            if scores[item] > 0:
                above[n_above] = item
                n_above += 1
            elif -np.inf < scores[item] < 0:
                below[n_below] = item
                n_below += 1
    return bad, masked, above, below


@njit(nogil=True)
def _at_zero(order, among, scores, mark, stamp, skipped, found):  # type: ignore[no-untyped-def]
    """Candidates of score 0 in the fixed order, the first ``skipped`` left out; there are enough of them."""
    passed, length = 0, 0
    for item in order:
        if length == found.size:
            break
        if (among.size == 0 or among[item]) and (mark[item] != stamp or scores[item] == 0):
            if passed >= skipped:
                found[length] = item
                length += 1
            passed += 1


class _Scratch:
    """Memory of one request at a time, [n_items] each."""

    def __init__(self, n_items: int) -> None:
        self.scores = np.zeros(n_items, np.float32)
        self.mark = np.zeros(n_items, np.int32)
        self.reached = np.empty(n_items, np.int32)
        self.stamp = 0

    def next(self) -> int:
        """A stamp that no item is marked with."""
        if self.stamp == LAST_STAMP:
            self.mark[:] = 0
            self.stamp = 0
        self.stamp += 1
        return self.stamp


class SparsePaginator:
    """Pages of lists from sparse products, from any thread; no array of the catalogue's size is made per page.

    Args:
        order: all item rows in the order that decides between equal scores.
    """

    def __init__(self, order: Int32) -> None:
        self._order = order
        self._places = np.empty(order.size, np.int32)
        self._places[order] = np.arange(order.size, dtype=np.int32)
        self._free: list[_Scratch] = []

    @contextmanager
    def _scratch(self) -> Iterator[_Scratch]:
        try:
            scratch = self._free.pop()
        except IndexError:  # as many as there are requests at the same time
            scratch = _Scratch(self._order.size)
        try:
            yield scratch
        finally:
            self._free.append(scratch)

    def page(
        self,
        inputs: Csr,
        weights: Csr,
        seen: npt.NDArray[np.integer] | None,
        among: Mask | None,
        offset: int,
        k: int,
        where: str = "sparse product",
    ) -> tuple[Int64, Float32, int]:
        """The items at places offset … offset + k − 1, 0-based: by score, equal scores in the fixed order.

        Args:
            inputs: CSR [1, n_inputs].
            weights: CSR [n_inputs or more, n_items].
            seen: item rows to leave out, each once.
            among: bool [n_items], the only candidates; None for all.
            offset: items before the page.
            k: length of the page.
            where: what has scores that are not finite, in errors.

        Returns:
            Item rows and scores of the page, and how many candidates there are.

        Raises:
            InputError: a score is not finite.
        """
        n_items = self._order.size
        allowed = np.zeros(0, np.bool_) if among is None else among
        masked_items = np.zeros(0, np.int64) if seen is None else np.asarray(seen, np.int64)
        with self._scratch() as scratch:
            scores, mark, stamp = scratch.scores, scratch.mark, scratch.next()
            bad, masked, above, below = _split(
                inputs.indptr,
                inputs.indices,
                inputs.data,
                weights.indptr,
                weights.indices,
                weights.data,
                masked_items,
                allowed,
                scores,
                mark,
                stamp,
                scratch.reached,
            )
            if bad:
                raise InputError(
                    "scores are not finite",
                    where=where,
                    expected="finite numbers",
                    found=f"{bad:,} that are not",
                )
            total = (n_items if among is None else int(np.count_nonzero(among))) - masked
            end, at_zero = min(offset + k, total), total - above.size - below.size
            first = self._ordered(above, scores, min(offset, above.size), min(end, above.size))
            start, stop = (min(max(place - above.size, 0), at_zero) for place in (offset, end))
            middle = np.empty(max(stop - start, 0), np.int64)
            if middle.size:
                _at_zero(self._order, allowed, scores, mark, stamp, start, middle)
            start, stop = (max(place - above.size - at_zero, 0) for place in (offset, end))
            last = self._ordered(below, scores, start, stop)
            values = np.concatenate([scores[first], np.zeros(middle.size, np.float32), scores[last]])
        return np.concatenate([first, middle, last]), values, total

    def _ordered(self, items: Int64, scores: Float32, start: int, stop: int) -> Int64:
        """The items at these places of their order."""
        if start >= stop:
            return items[:0]
        values = scores[items]
        if stop < items.size:  # all that tie with the last one take part, else pages would overlap
            items = items[values >= np.partition(values, items.size - stop)[items.size - stop]]
        ordered: Int64 = items[np.lexsort((self._places[items], -scores[items]))][start:stop]
        return ordered
