"""Ranking by sparse products: sparse inputs times sparse item weights, without a dense row of scores.

A user's scores differ from 0 only for the items that the weights of their inputs reach. These are summed in a scratch
array and listed as they are reached; all others score 0 and are counted without being visited.
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
"""Up to so many items, their scores fit into a core's second-level cache."""
SORT_FROM = 8
"""With at least so many relevant items, a user's scores are sorted once instead of counted for each."""


@njit(nogil=True, inline="always")
def _before(score, position, other_score, other_position):  # type: ignore[no-untyped-def]
    """Whether a candidate comes before another one: higher scores first, ties by position."""
    return score > other_score or (score == other_score and position < other_position)


@njit(nogil=True)
def _keep(scores, positions, count, score, position):  # type: ignore[no-untyped-def]
    """Insert a candidate into an ordered list of at most ``scores.size``; returns its new length."""
    k = scores.size
    if count == k and not _before(score, position, scores[k - 1], positions[k - 1]):
        return count
    at = count if count < k else k - 1
    while at > 0 and _before(score, position, scores[at - 1], positions[at - 1]):
        scores[at], positions[at] = scores[at - 1], positions[at - 1]
        at -= 1
    scores[at], positions[at] = score, position
    return min(count + 1, k)


@njit(nogil=True, fastmath={"contract"})
def reach(i_indptr, i_indices, i_data, row, w_indptr, w_indices, w_data, scores, mark, stamp, reached):  # type: ignore[no-untyped-def]
    """Sum the scores of one row of inputs; returns how many items it reaches, which are listed in ``reached``.

    ``scores`` [n_items] is valid where ``mark`` [n_items] equals ``stamp``.
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
def _count(values, target):  # type: ignore[no-untyped-def]
    """How many values are higher than the target, and how many equal it."""
    higher, equal = 0, 0
    for t in range(values.size):
        higher += values[t] > target
        equal += values[t] == target
    return higher, equal


@njit(nogil=True)
def _not_finite(scores, items):  # type: ignore[no-untyped-def]
    """How many of some items' scores are NaN or infinite."""
    count = 0
    for item in items:
        count += not np.isfinite(scores[item])
    return count


@njit(nogil=True)
def _mask(items, scores, mark, stamp, reached, count):  # type: ignore[no-untyped-def]
    """List items with a score of −∞, so that all that are not listed are candidates; returns how many are listed."""
    for item in items:
        if mark[item] != stamp:
            mark[item] = stamp
            reached[count] = item
            count += 1
        scores[item] = -np.inf
    return count


@njit(nogil=True)
def _compare(values, ascend, n_zeros, target):  # type: ignore[no-untyped-def]
    """How many of ``values``, sorted if ``ascend``, and of ``n_zeros`` zeros exceed the target, and tie with it."""
    if ascend:
        right = np.searchsorted(values, target, side="right")
        higher, equal = values.size - right, right - np.searchsorted(values, target)
    else:
        higher, equal = _count(values, target)
    if target < 0:
        higher += n_zeros
    elif target == 0:
        equal += n_zeros
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
    positions: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    excluded: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    not_finite: Int64,
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users by ``inputs @ weights``, CSR [B, n_inputs] and [n_inputs, n_items].

    ``order`` holds all item rows in tie-break order, ``positions`` those of all items therein. The other arguments
    are those of ``relrank.kernels.fused_ranking``.
    """
    scores, mark = np.zeros(order.size, np.float32), np.full(order.size, -1, np.int32)
    reached, values = np.empty(order.size, np.int32), np.empty(order.size, np.float32)
    for b in range(users.size):
        u = users[b]
        count = reach(i_indptr, i_indices, i_data, b, w_indptr, w_indices, w_data, scores, mark, b, reached)
        not_finite[b] = _not_finite(scores, reached[:count])
        if not_finite[b]:
            continue
        count = _mask(seen_items[seen_indptr[u] : seen_indptr[u + 1]], scores, mark, b, reached, count)
        count = _mask(excluded, scores, mark, b, reached, count)
        n_zeros, n_values = order.size - count, 0
        for t in range(count):
            score = scores[reached[t]]
            if score != -np.inf:
                values[n_values] = score
                n_values += 1
        candidates, first, last = values[:n_values], truth_indptr[u], truth_indptr[u + 1]
        if last - first >= SORT_FROM:
            candidates = np.sort(candidates)
        for e in range(first, last):
            item = truth_items[e]
            target = scores[item] if mark[item] == b else np.float32(0)
            if target == -np.inf:
                higher[e], equal[e] = -1, -1
                continue
            higher[e], equal[e] = _compare(candidates, last - first >= SORT_FROM, n_zeros, target)
            all_tied[b] = higher[e] == 0 and equal[e] == n_values + n_zeros and equal[e] > 1
        if top_items.shape[1]:
            _list(scores, mark, b, reached[:count], order, positions, top_items[b], top_scores[b])


@njit(nogil=True, fastmath={"contract"})
def _sum_all(i_indptr, i_indices, i_data, row, w_indptr, w_indices, w_data, scores):  # type: ignore[no-untyped-def]
    """Sum the scores of one row of inputs for all items, with the bits of ``reach``."""
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
    excluded,
    higher,
    equal,
    all_tied,
    not_finite,
    n_items,
):
    """``rank_sparse`` without lists, for catalogues whose scores fit into the cache: all are computed and counted."""
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
        for item in excluded:
            scores[item] = -np.inf
        candidates = 0
        for score in scores:
            candidates += score != -np.inf
        for e in range(truth_indptr[u], truth_indptr[u + 1]):
            target = scores[truth_items[e]]
            if target == -np.inf:
                higher[e], equal[e] = -1, -1
                continue
            higher[e], equal[e] = _count(scores, target)
            all_tied[b] = higher[e] == 0 and equal[e] == candidates and candidates > 1


@njit(nogil=True)
def _list(scores, mark, stamp, reached, order, positions, top_items, top_scores):  # type: ignore[no-untyped-def]
    """The best candidates of one user: those above 0, then those at 0 in the order of positions, then those below."""
    k, length, position = top_scores.size, 0, 0
    for item in reached:
        if scores[item] > 0:
            length = _keep(top_scores, top_items, length, scores[item], positions[item])
    while length < k and position < order.size:
        item = order[position]
        if mark[item] != stamp or scores[item] == 0:
            top_scores[length], top_items[length] = 0, position
            length += 1
        position += 1
    if length < k:
        n = length
        for item in reached:
            if -np.inf < scores[item] < 0:
                length = n + _keep(top_scores[n:], top_items[n:], length - n, scores[item], positions[item])
    for at in range(length):
        top_items[at] = order[top_items[at]]
    top_items[length:], top_scores[length:] = -1, -np.inf


@njit(nogil=True)
def _split(  # type: ignore[no-untyped-def]
    i_indptr, i_indices, i_data, w_indptr, w_indices, w_data, seen, among, scores, mark, stamp, reached
):
    """Numbers of scores that are not finite and of seen candidates; the candidates that score above 0, and below.

    Seen items are marked with a score of −∞. ``among`` of size 0 allows all items.
    """
    count = reach(i_indptr, i_indices, i_data, 0, w_indptr, w_indices, w_data, scores, mark, stamp, reached)
    bad, masked = _not_finite(scores, reached[:count]), 0
    for item in seen:
        mark[item] = stamp
        scores[item] = -np.inf
        masked += among.size == 0 or among[item]
    n_above, n_below = 0, 0
    for item in reached[:count]:
        if among.size == 0 or among[item]:
            n_above += scores[item] > 0
            n_below += -np.inf < scores[item] < 0
    above, below = np.empty(n_above, np.int64), np.empty(n_below, np.int64)
    n_above, n_below = 0, 0
    for item in reached[:count]:
        if among.size == 0 or among[item]:
            if scores[item] > 0:
                above[n_above] = item
                n_above += 1
            elif -np.inf < scores[item] < 0:
                below[n_below] = item
                n_below += 1
    return bad, masked, above, below


@njit(nogil=True)
def _at_zero(order, among, scores, mark, stamp, skipped, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with candidates of score 0 in tie-break order, after the first ``skipped`` ones."""
    passed, length = 0, 0
    for item in order:
        if length == out.size:
            break
        if (among.size == 0 or among[item]) and (mark[item] != stamp or scores[item] == 0):
            if passed >= skipped:
                out[length] = item
                length += 1
            passed += 1


class _Scratch:
    """Arrays [n_items] for one request at a time."""

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
    """Pages of ranked lists from sparse products; thread-safe, and without an array of the catalogue's size per page.

    Args:
        order: all item rows in tie-break order.
    """

    def __init__(self, order: Int32) -> None:
        self._order = order
        self._positions = np.empty(order.size, np.int32)
        self._positions[order] = np.arange(order.size, dtype=np.int32)
        self._free: list[_Scratch] = []

    @contextmanager
    def _scratch(self) -> Iterator[_Scratch]:
        try:
            scratch = self._free.pop()
        except IndexError:  # one per concurrent request
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
        """Items offset … offset + k − 1 (0-based) of the ranked candidates; ties are in tie-break order.

        Args:
            inputs: CSR [1, n_inputs].
            weights: CSR [n_inputs or more, n_items].
            seen: item rows to leave out, each once.
            among: bool [n_items], the candidates; None for all.
            offset: items before the page.
            k: length of the page.
            where: names the model in errors.

        Returns:
            Item rows and scores of the page, and the number of candidates.

        Raises:
            InputError: a score is not finite.
        """
        n_items = self._order.size
        allowed = np.zeros(0, np.bool_) if among is None else among
        masked_items = np.zeros(0, np.int64) if seen is None else np.asarray(seen, np.int64)
        with self._scratch() as scratch:
            scores, mark, stamp = scratch.scores, scratch.mark, scratch.next()
            bad, masked, above, below = _split(
                *inputs.arrays, *weights.arrays, masked_items, allowed, scores, mark, stamp, scratch.reached
            )
            if bad:
                found = f"{bad:,} that are not"
                raise InputError("scores are not finite", where=where, expected="finite numbers", found=found)
            total = (n_items if among is None else int(np.count_nonzero(among))) - masked
            end, at_zero = min(offset + k, total), total - above.size - below.size
            first = self._ordered(above, scores, min(offset, above.size), min(end, above.size))
            start, stop = (min(max(rank - above.size, 0), at_zero) for rank in (offset, end))
            middle = np.empty(max(stop - start, 0), np.int64)
            if middle.size:
                _at_zero(self._order, allowed, scores, mark, stamp, start, middle)
            start, stop = (max(rank - above.size - at_zero, 0) for rank in (offset, end))
            last = self._ordered(below, scores, start, stop)
            values = np.concatenate([scores[first], np.zeros(middle.size, np.float32), scores[last]])
        return np.concatenate([first, middle, last]), values, total

    def _ordered(self, items: Int64, scores: Float32, start: int, stop: int) -> Int64:
        """Items start … stop of the ranked ones."""
        if start >= stop:
            return items[:0]
        values = scores[items]
        if stop < items.size:  # all ties of the last one are included, or pages would overlap
            items = items[values >= np.partition(values, items.size - stop)[items.size - stop]]
        ordered: Int64 = items[np.lexsort((self._positions[items], -scores[items]))][start:stop]
        return ordered
