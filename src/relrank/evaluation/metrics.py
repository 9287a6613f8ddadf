"""Ranking metrics as pure functions: accuracy per user from counts of candidates, beyond accuracy from top-k lists.

**Counts.** For every relevant item, ranking counts the candidates that score higher and those that score the same.
``tie_groups`` groups the relevant items of a user by score; accuracy metrics take these groups. Users without
relevant items have no value (ValueError): the caller leaves them out and counts them.

**Ties.** Every metric is its expected value over all orders of tied candidates, each equally likely, in closed form
(McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores",
ECIR 2008). The metric at the *expected rank* would be misleading: a relevant item tied with 2k others or more would
count 0 at cutoff k, less than under random scores. For a group with ``h`` candidates above it, ``n`` candidates of
which ``m`` are relevant, and ``r`` relevant items above it:

- each position of the group holds a relevant item with probability m / n, which gives all sums over positions;
- given one, each earlier position of the group holds another with probability (m − 1) / (n − 1), so the expected
  precision at the group's position t = 0, 1, … is (r + 1 + t (m − 1) / (n − 1)) / (h + t + 1);
- the first c positions hold none with probability C(n − m, c) / C(n, c), which gives metrics of the first hit.

Without ties these are the textbook definitions.

**k beyond the catalogue** is no special case: every candidate is in the list. Precision still divides by k.

**Lists.** Beyond-accuracy metrics take ``items`` int [n_users, k], −1 after the end of a shorter list, and cover
exactly these users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse

from relrank.errors import InputError, did_you_mean
from relrank.kernels.csr import Csr, Float64, Int64
from relrank.kernels.jit import njit

Counts = npt.NDArray[np.integer]
TopKItems = npt.NDArray[np.integer]

METRICS_VERSION = 2
"""Incremented when the same scores give different values, so that stored results are not mixed with new ones."""
ERRORS_GROW, ERRORS_SHRINK = 8.0, 1e-20
"""Largest growth of rounding errors in the upward recursion; largest weight left of a downward start value."""


@dataclass(frozen=True, slots=True, eq=False)
class TieGroups:
    """The relevant items of all users, grouped by user and score, highest score first.

    Attributes:
        indptr: int64 [n_users + 1], where each user's groups start.
        higher: int64 [n_groups], candidates that score higher.
        size: int64 [n_groups], candidates of this score, relevant or not.
        relevant: int64 [n_groups], relevant items of this score.
        relevant_higher: int64 [n_groups], relevant items that score higher.
        n_relevant: int64 [n_users], relevant items of each user.
    """

    indptr: Int64
    higher: Int64
    size: Int64
    relevant: Int64
    relevant_higher: Int64
    n_relevant: Int64

    @property
    def best(self) -> Int64:
        """Index of each user's first group, which has the highest score. int64 [n_users]."""
        return self.indptr[:-1]


def tie_groups(higher: Counts, equal: Counts, indptr: Int64) -> TieGroups:
    """Group the relevant items of each user by score.

    Args:
        higher: int [nnz], how many candidates score higher than each relevant item, user by user, in any order
            within a user.
        equal: int [nnz], how many candidates score the same, including the item itself.
        indptr: int64 [n_users + 1], where each user's items start.

    Raises:
        ValueError: a user has no relevant items, shapes differ, or more relevant items than candidates share a score.
    """
    n_relevant = np.diff(indptr)
    if (n_relevant < 1).any():
        raise ValueError(f"{int((n_relevant < 1).sum())} users without relevant items")
    if not higher.shape == equal.shape == (indptr[-1],):
        raise ValueError(f"counts have shapes {higher.shape} and {equal.shape}, indptr ends at {indptr[-1]}")
    user = np.repeat(np.arange(n_relevant.size), n_relevant)
    order = np.lexsort((higher, user))
    above, size = higher[order].astype(np.int64), equal[order].astype(np.int64)
    # items of one user have the same number of candidates above them exactly if they score the same
    first = np.ones(above.size, np.bool_)
    first[1:] = (above[1:] != above[:-1]) | (user[1:] != user[:-1])
    start = np.flatnonzero(first)
    relevant = np.diff(np.append(start, above.size))
    pointer = np.searchsorted(start, indptr)
    if (relevant > size[start]).any():
        raise ValueError("more relevant items than candidates share a score")
    before = start - np.repeat(indptr[:-1], np.diff(pointer))
    return TieGroups(pointer, above[start], size[start], relevant, before, n_relevant)


def _sum(values: Float64, groups: TieGroups) -> Float64:
    """Sum per user; every user has groups, so ``reduceat`` is safe."""
    return np.add.reduceat(values, groups.best) if values.size else np.zeros(0)


def _inside(groups: TieGroups, k: int) -> Int64:
    """Number of positions of each group among the first k. int64 [n_groups]."""
    if k < 1:
        raise ValueError(f"k must be at least 1, it is {k}")
    return np.clip(k - groups.higher, 0, groups.size)


def _sum_over_positions(gain: Callable[[Float64], Float64], groups: TieGroups, inside: Int64) -> Float64:
    """Sum of the gains of positions 0, 1, … over the first ``inside`` positions of each group. float64 [n_groups]."""
    values = gain(np.arange((groups.higher + inside).max(where=inside > 0, initial=0), dtype=np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.where(inside > 0, groups.higher, 0)
    several = sums[start + inside] - sums[start]
    # a single position has exactly its gain, without the rounding of a difference of sums
    return np.where(inside == 1, np.append(values, 0.0)[start], several)


@njit(nogil=True)
def _none_inside(size, relevant, inside):  # type: ignore[no-untyped-def]
    """Probability that the first positions of a group hold no relevant item, C(n − m, c) / C(n, c)."""
    result = np.empty(size.size)
    for g in range(size.size):
        few, many = min(relevant[g], inside[g]), max(relevant[g], inside[g])
        probability = 1.0 if few + many <= size[g] else 0.0
        if probability:
            for t in range(few):
                probability *= (size[g] - many - t) / (size[g] - t)
        result[g] = probability
    return result


@njit(nogil=True)
def _reciprocal_of_first(higher, size, relevant, of_one):  # type: ignore[no-untyped-def]
    """Mean of 1 / (rank of a group's first relevant item), ranks counted from 1 at the top of the list.

    ``of_one`` is that mean for the same groups with one relevant item, ``(H(h + n) − H(h)) / n``.
    The first of m has rank x = h + 1, … with probability C(h + n − x, m − 1) / C(n, m), and
    ``C(a, m − 1) = C(a, m − 2) (a − m + 2) / (m − 1)`` leads from the sum over x for m − 1 items to that for m:

        g(m) = m / ((m − 1) (n − m + 1)) · ((h + n − m + 2) g(m − 1) − 1)

    Upwards, each step multiplies relative errors by about (h + n) / n, which is small for large ties near the top.
    Otherwise the recursion goes downwards, where the same factor divides them: from m = n, where g = 1 / (h + 1), or
    from an m so large that the error of an approximate start value vanishes.
    """
    result = np.empty(size.size)
    for g in range(size.size):
        h, n, m = float(higher[g]), size[g], relevant[g]
        grown = 1.0
        for j in range(2, m + 1):
            grown *= (h + n - j + 2) / (n - j + 1)
            if grown > ERRORS_GROW:
                break
        if grown <= ERRORS_GROW:
            value = of_one[g]
            for j in range(2, m + 1):
                value = j / ((j - 1.0) * (n - j + 1)) * ((h + n - j + 2) * value - 1)
        else:
            start, shrunk = m, 1.0
            while start < n and shrunk > ERRORS_SHRINK:
                start += 1
                shrunk *= (start - 1.0) * (n - start + 1) / (start * (h + n - start + 2))
            value = 1 / (h + (n + 1.0) / (start + 1))
            for j in range(start, m, -1):
                value = (value * (j - 1.0) * (n - j + 1) / j + 1) / (h + n - j + 2)
        result[g] = value
    return result


def _hits(groups: TieGroups, k: int) -> Float64:
    return _sum(groups.relevant * (_inside(groups, k) / groups.size), groups)


def hit(groups: TieGroups, k: int) -> Float64:
    """Hit@k: the probability that a relevant item is among the first k; 1 or 0 without ties. float64 [n_users]."""
    inside, best = _inside(groups, k), groups.best
    # later groups are in the list only if all of the best group is
    probability: Float64 = 1 - _none_inside(groups.size[best], groups.relevant[best], inside[best])
    return probability


def recall(groups: TieGroups, k: int) -> Float64:
    """Recall@k: hits / relevant items (all of them, even if more than k). float64 [n_users]."""
    return _hits(groups, k) / groups.n_relevant


def precision(groups: TieGroups, k: int) -> Float64:
    """Precision@k: hits / k, even with fewer than k candidates or relevant items. float64 [n_users]."""
    return _hits(groups, k) / k


def ndcg(groups: TieGroups, k: int) -> Float64:
    """NDCG@k with binary gains; the ideal list has length min(k, relevant). float64 [n_users].

    A relevant item at position r = 0, 1, … < k gains ``1 / log2(r + 2)``; the divisor is the sum of this over
    r = 0 … min(k, relevant) − 1 (Järvelin & Kekäläinen 2002, the log2 form). A tied item gains the mean over the
    positions of its group; positions beyond k gain 0.
    """
    gains = _sum_over_positions(_discount, groups, _inside(groups, k)) * (groups.relevant / groups.size)
    n_best = np.minimum(groups.n_relevant, k)
    ideal = np.cumsum(_discount(np.arange(n_best.max(initial=0), dtype=np.float64)))
    best: Float64 = ideal[n_best - 1]
    return _sum(gains, groups) / best


def _discount(position: Float64) -> Float64:
    discount: Float64 = 1 / np.log2(position + 2)
    return discount


def mrr(groups: TieGroups) -> Float64:
    """Reciprocal rank without cutoff: the mean of 1 / (rank of the first relevant item). float64 [n_users]."""
    best = groups.best
    higher, size, relevant = groups.higher[best], groups.size[best], groups.relevant[best]
    of_one = _sum_over_positions(_reciprocal, groups, groups.size)[best] / size
    mean: Float64 = _reciprocal_of_first(higher, size, relevant, of_one)
    return mean


def _reciprocal(position: Float64) -> Float64:
    return 1 / (position + 1)


def average_precision(groups: TieGroups, k: int) -> Float64:
    """AP@k, whose mean is MAP@k: divided by min(k, relevant), not by the number of hits. float64 [n_users].

    The j-th relevant item of the list (j = 1, 2, …), at position r = 0, 1, … < k, adds the precision j / (r + 1).
    Summed over a group's positions, ``Σ (r' + 1 + t q) / (h + t + 1)`` with r' relevant items above it and
    ``q = (m − 1) / (n − 1)`` is ``(r' + 1 − q (h + 1)) Σ 1 / (h + t + 1) + q c``.
    """
    inside, rank = _inside(groups, k), groups.higher + 1
    share = (groups.relevant - 1) / np.maximum(groups.size - 1, 1)
    hits = groups.relevant_higher + 1
    tied = (hits - share * rank) * _sum_over_positions(_reciprocal, groups, inside) + share * inside
    untied = np.where(inside > 0, hits / rank, 0.0)
    precisions = np.where(groups.size == 1, untied, tied * (groups.relevant / groups.size))
    return _sum(precisions, groups) / np.minimum(groups.n_relevant, k)


def first_rank(groups: TieGroups) -> Float64:
    """Expected 1-based rank of the best relevant item: of m in a group of n, (n + 1) / (m + 1). float64 [n_users]."""
    best = groups.best
    return groups.higher[best] + (groups.size[best] + 1) / (groups.relevant[best] + 1)


AT_K: dict[str, Callable[[TieGroups, int], Float64]] = {
    "hit": hit,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "map": average_precision,
}
"""Metrics with a cutoff, by the name before the ``@``."""


def metric_by_name(name: str, groups: TieGroups) -> Float64:
    """A metric by its name, such as ``"ndcg@10"`` or ``"mrr"``. float64 [n_users].

    Raises:
        InputError: there is no metric of that name.
    """
    metric, _, cutoff = name.partition("@")
    if name == "mrr":
        return mrr(groups)
    if metric not in AT_K or not cutoff.isdecimal() or int(cutoff) < 1:
        raise InputError(
            "unknown metric",
            where="metric name",
            expected=f"mrr, or one of {', '.join(AT_K)} with a cutoff, e.g. ndcg@10",
            found=repr(name) + did_you_mean(name, ["mrr", *(f"{at}@{cutoff or 10}" for at in AT_K)]),
        )
    return AT_K[metric](groups, int(cutoff))


def _shown(items: TopKItems, n_items: int) -> Int64:
    """Number of lists that contain each item, int64 [n_items]."""
    return np.bincount(items[items >= 0], minlength=n_items)


def coverage(items: TopKItems, n_items: int) -> float:
    """Catalogue coverage: distinct items in all lists / items in the catalogue."""
    return float((_shown(items, n_items) > 0).sum() / n_items)


def gini(items: TopKItems, n_items: int) -> float:
    """Gini index of the number of times each item is recommended, over the full catalogue.

    0 = all items equally often, 1 − 1/n_items = always the same one; NaN if all lists are empty.
    """
    counts = np.sort(_shown(items, n_items))
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ counts / (n_items * counts.sum())) if counts.sum() else float("nan")


def novelty(items: TopKItems, counts: Int64, n_users: int) -> Float64:
    """Mean self-information of a user's list in bits: −log2 of an item's popularity share. float64 [users in items].

    The share is the fraction of the ``n_users`` training users who have the item (Zhou et al., PNAS 2010); an item
    without training rows counts as if one user had it, so that the value is finite.

    Args:
        items: int [users, k], −1 after the end of a shorter list; NaN for an empty list.
        counts: int64 [n_items], training rows per item.
        n_users: number of training users.
    """
    bits = np.append(-np.log2(np.maximum(counts, 1) / n_users), 0.0)  # the last entry is for −1
    n_shown = (items >= 0).sum(axis=1)
    result = np.full(len(items), np.nan)
    np.divide(bits[items].sum(axis=1), n_shown, out=result, where=n_shown > 0)
    return result


def intra_list_similarity(items: TopKItems, features: Csr, *, chunk: int = 4096) -> Float64:
    """Mean cosine over the unordered pairs of a user's list (Ziegler et al., WWW 2005). float64 [users in items].

    Items without features are left out; fewer than two items with features give NaN. For m items with unit rows v the
    mean is ``(|Σ v|² − m) / (m (m − 1))``, so no pairs are formed.

    Args:
        items: int [users, k], −1 after the end of a shorter list.
        features: items by features.
        chunk: users per block, which bounds memory.
    """
    squares = features.data.astype(np.float64) ** 2
    lengths = np.sqrt(np.bincount(features.rows(), weights=squares, minlength=features.n_rows))
    unit = features.data / np.repeat(np.where(lengths > 0, lengths, 1.0), features.degrees())
    matrix = _sparse(features, unit)
    has_features = np.append(lengths > 0, False)  # the last entry is for −1
    result = np.full(len(items), np.nan)
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        inside = has_features[part]
        n = inside.sum(axis=1)
        pointer = np.concatenate([[0], np.cumsum(n)])
        lists = scipy.sparse.csr_array((np.ones(pointer[-1]), part[inside], pointer), (len(part), features.n_rows))
        summed = (lists @ matrix).power(2).sum(axis=1)
        np.divide(summed - n, n * (n - 1), out=result[start : start + chunk], where=n > 1)
    return result


def miscalibration(items: TopKItems, history: Csr, features: Csr, *, alpha: float = 0.01) -> Float64:
    """KL divergence of a list's attribute distribution from the user's, KL(p ‖ q̃) in nats. float64 [users in items].

    p(g) is the mean over the user's training items of each item's distribution over the values g of an attribute,
    q(g) the same over the list, and q̃ = (1 − α) q + α p keeps the divergence finite (Steck, "Calibrated
    Recommendations", RecSys 2018). 0 is a list with the user's own distribution, −ln α one with none of its values.

    An item's distribution is uniform over its values, or proportional to the weights of a weighted relation. Items
    have equal weight, whatever their age in the history or rank in the list. Items without values are left out; NaN
    if no training item of the user, or no item of the list, has values.

    Args:
        items: int [users, k], −1 after the end of a shorter list.
        history: the same users by items, training rows; values are ignored.
        features: items by values of the attribute.
        alpha: weight of p in q̃, in (0, 1].
    """
    result = np.empty(len(items))
    items = np.ascontiguousarray(items, np.int64)
    shares = _normalized(_sparse(features, features.data))
    distributions = shares.indptr, shares.indices, shares.data, features.n_cols
    _divergences(items, history.indptr, history.indices, *distributions, alpha, result)
    return result


@njit(nogil=True)
def _divergences(items, indptr, indices, s_indptr, s_indices, s_data, n_values, alpha, result):  # type: ignore[no-untyped-def]
    """``miscalibration`` from the items' distributions; ``p`` and ``q`` are cleared after each user."""
    p, q = np.zeros(n_values), np.zeros(n_values)
    for user in range(len(items)):
        p_total, q_total = 0.0, 0.0
        for e in range(indptr[user], indptr[user + 1]):
            for f in range(s_indptr[indices[e]], s_indptr[indices[e] + 1]):
                p[s_indices[f]] += s_data[f]
                p_total += s_data[f]
        for item in items[user]:
            if item >= 0:
                for f in range(s_indptr[item], s_indptr[item + 1]):
                    q[s_indices[f]] += s_data[f]
                    q_total += s_data[f]
        # q̃ / (α p) = 1 + (1 − α) q / (α p) is 1 if the list lacks g: only values that both have need a logarithm
        divergence = -np.log(alpha)
        for item in items[user]:
            if item >= 0:
                for f in range(s_indptr[item], s_indptr[item + 1]):
                    g = s_indices[f]
                    if p[g] > 0 and q[g] > 0:
                        divergence -= (
                            p[g] / p_total * np.log1p((1 - alpha) / alpha * (q[g] / q_total) / (p[g] / p_total))
                        )
                    q[g] = 0.0
        for e in range(indptr[user], indptr[user + 1]):
            for f in range(s_indptr[indices[e]], s_indptr[indices[e] + 1]):
                p[s_indices[f]] = 0.0
        # values below 0 are rounding errors
        result[user] = max(divergence, 0.0) if p_total > 0 and q_total > 0 else np.nan


def popularity_lift(items: TopKItems, history: Csr, counts: Int64) -> Float64:
    """Relative increase of popularity from history to list, (list − history) / history. float64 [users].

    Popularity is the mean number of training rows per item. 0: as popular as the history; 1: twice as popular; −1:
    only items without training rows. NaN for a user without history and for an empty list. This is the per-user form
    of the group average popularity of Abdollahpouri et al., "The Unfairness of Popularity Bias in Recommendation",
    RMSE workshop at RecSys 2019, which divides means over a group's users.

    Args:
        items: int [users, k], −1 after the end of a shorter list.
        history: the same users by items, training rows; values are ignored.
        counts: int64 [n_items], training rows per item.
    """
    popularity = np.append(counts, 0).astype(np.float64)  # the last entry is for −1
    n_listed, n_history = (items >= 0).sum(axis=1), history.degrees()
    summed = np.bincount(history.rows(), weights=popularity[history.indices], minlength=history.n_rows)
    history_mean = summed / np.maximum(n_history, 1)
    list_mean = popularity[items].sum(axis=1) / np.maximum(n_listed, 1)
    result = np.full(len(items), np.nan)
    np.divide(list_mean - history_mean, history_mean, out=result, where=(n_listed > 0) & (history_mean > 0))
    return result


def _sparse(rows: Csr, values: npt.NDArray[np.floating]) -> scipy.sparse.csr_array:
    """The same sparsity pattern with other values, float64."""
    return scipy.sparse.csr_array((values.astype(np.float64), rows.indices, rows.indptr), (rows.n_rows, rows.n_cols))


def _normalized(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Every row divided by its sum; empty rows stay empty."""
    sums = matrix.sum(axis=1)
    return scipy.sparse.csr_array(matrix.multiply((1 / np.where(sums > 0, sums, 1.0))[:, None]))
