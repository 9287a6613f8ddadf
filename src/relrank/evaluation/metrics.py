"""Ranking metrics as pure functions: one value per user from counts of candidates, beyond accuracy from top-k lists.

**Counts.** Of every relevant item, ranking says how many candidates score higher and how many score the same.
``tie_groups`` puts the relevant items of a user that share a score together; accuracy metrics take these groups. A
user without relevant items has no value: leaving such users out, and counting them, is the caller's business
(ValueError here).

**Ties.** Every metric is its mean over all orders of the candidates that score the same, each order equally likely,
in closed form (McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores", ECIR 2008). The metric at the *expected rank* is another number, and a misleading one: a relevant
item tied with 2k others or more would count 0 at cut k, less than if all scores were random. Of a group with ``h``
candidates above it, ``n`` candidates of which ``m`` are relevant, and ``r`` relevant items above it:

- each place of the group holds a relevant item with probability m / n, which settles all sums over places;
- where one does, each earlier place of the group holds another with probability (m − 1) / (n − 1), so that the
  expected precision at the group's place t = 0, 1, … is (r + 1 + t (m − 1) / (n − 1)) / (h + t + 1);
- its first c places hold none with probability C(n − m, c) / C(n, c), which settles what asks for the first hit.

Without ties all of this is the textbook definition.

**k beyond the catalogue** is no special case: every candidate is then inside the list. Precision still divides by k.

**Lists.** Beyond-accuracy metrics take ``items`` int [n_users, k], −1 where a list ends early, and are computed over
exactly the users given.
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
"""Goes up where the same scores get other values, so that results measured before are not taken for today's."""
ERRORS_GROW, ERRORS_SHRINK = 8.0, 1e-20
"""How much rounding errors may grow in a recursion, and how little has to be left of a guess that one starts from."""


@dataclass(frozen=True, slots=True, eq=False)
class TieGroups:
    """The relevant items of all users, those of one user that share a score together; best first inside a user.

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
        """Each user's first group: the one with the relevant items of highest score. int64 [n_users]."""
        return self.indptr[:-1]


def tie_groups(higher: Counts, equal: Counts, indptr: Int64) -> TieGroups:
    """Put relevant items that share a score together.

    Args:
        higher: int [nnz], how many candidates score higher than each relevant item, user after user, in any order
            inside a user.
        equal: int [nnz], how many candidates score the same, the item itself among them.
        indptr: int64 [n_users + 1], where each user's items start.

    Raises:
        ValueError: a user has no relevant items, shapes differ, or more relevant items than candidates share a score.
    """
    n_relevant = np.diff(indptr)
    if (n_relevant < 1).any():
        raise ValueError(f"{int((n_relevant < 1).sum())} users without relevant items; leave them out")
    if not higher.shape == equal.shape == (indptr[-1],):
        raise ValueError(f"counts have shapes {higher.shape} and {equal.shape}, indptr ends at {indptr[-1]}")
    user = np.repeat(np.arange(n_relevant.size), n_relevant)
    order = np.lexsort((higher, user))
    above, size = higher[order].astype(np.int64), equal[order].astype(np.int64)
    # items of one user have as many candidates above them exactly if they score the same
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
    """Sum per user; no user is without groups, so ``reduceat`` is safe."""
    return np.add.reduceat(values, groups.best) if values.size else np.zeros(0)


def _inside(groups: TieGroups, k: int) -> Int64:
    """How many places of each group are among the first k. int64 [n_groups]."""
    if k < 1:
        raise ValueError(f"k must be at least 1, it is {k}")
    return np.clip(k - groups.higher, 0, groups.size)


def _sum_over_positions(of_place: Callable[[Float64], Float64], groups: TieGroups, inside: Int64) -> Float64:
    """Sum of what a place 0, 1, … counts, over the first ``inside`` places of each group. float64 [n_groups]."""
    values = of_place(np.arange((groups.higher + inside).max(where=inside > 0, initial=0), dtype=np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.where(inside > 0, groups.higher, 0)
    several = sums[start + inside] - sums[start]
    # one place is exactly what it counts, without the rounding of a difference of sums
    return np.where(inside == 1, np.append(values, 0.0)[start], several)


@njit(nogil=True)
def _none_inside(size, relevant, inside):  # type: ignore[no-untyped-def]
    """Probability that none of the relevant items of a group is on its first places, C(n − m, c) / C(n, c)."""
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
    """Mean of 1 / (place of a group's first relevant item), places counted from 1 at the top of the list.

    ``of_one`` is that mean for groups of the same place and size with one relevant item, ``(H(h + n) − H(h)) / n``.
    The first of m is on place x = h + 1, … with probability C(h + n − x, m − 1) / C(n, m), and
    ``C(a, m − 1) = C(a, m − 2) (a − m + 2) / (m − 1)`` leads from the sum over x for m − 1 items to that for m:

        g(m) = m / ((m − 1) (n − m + 1)) · ((h + n − m + 2) g(m − 1) − 1)

    Upwards, each step multiplies relative errors by about (h + n) / n, which is fine for large ties near the top;
    elsewhere the recursion goes downwards, where the same factor divides them: from m = n, where g = 1 / (h + 1), or
    from so far above that a guess is as good.
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
    # whatever comes after the best group is inside only where that one is inside as a whole
    probability: Float64 = 1 - _none_inside(groups.size[best], groups.relevant[best], inside[best])
    return probability


def recall(groups: TieGroups, k: int) -> Float64:
    """Recall@k: hits / relevant items (all of them, also where there are more than k). float64 [n_users]."""
    return _hits(groups, k) / groups.n_relevant


def precision(groups: TieGroups, k: int) -> Float64:
    """Precision@k: hits / k, also where fewer than k candidates or relevant items exist. float64 [n_users]."""
    return _hits(groups, k) / k


def ndcg(groups: TieGroups, k: int) -> Float64:
    """NDCG@k with binary gains; the ideal list is cut at min(k, relevant). float64 [n_users].

    A relevant item on place r = 0, 1, … < k gains ``1 / log2(r + 2)``; the divisor is the sum of that over
    r = 0 … min(k, relevant) − 1 (Järvelin & Kekäläinen 2002, the log2 form). A tied item gains the mean over the
    places of its group, nothing on those behind k.
    """
    gains = _sum_over_positions(_discount, groups, _inside(groups, k)) * (groups.relevant / groups.size)
    n_best = np.minimum(groups.n_relevant, k)
    ideal = np.cumsum(_discount(np.arange(n_best.max(initial=0), dtype=np.float64)))
    best: Float64 = ideal[n_best - 1]
    return _sum(gains, groups) / best


def _discount(place: Float64) -> Float64:
    discount: Float64 = 1 / np.log2(place + 2)
    return discount


def mrr(groups: TieGroups) -> Float64:
    """Reciprocal rank, uncut: the mean of 1 / (place of the first relevant item). float64 [n_users]."""
    best = groups.best
    higher, size, relevant = groups.higher[best], groups.size[best], groups.relevant[best]
    of_one = _sum_over_positions(_reciprocal, groups, groups.size)[best] / size
    mean: Float64 = _reciprocal_of_first(higher, size, relevant, of_one)
    return mean


def _reciprocal(place: Float64) -> Float64:
    return 1 / (place + 1)


def average_precision(groups: TieGroups, k: int) -> Float64:
    """AP@k, whose mean is MAP@k: divided by min(k, relevant), not by the hits found. float64 [n_users].

    The j-th relevant item in the order (j = 1, 2, …), on place r = 0, 1, … < k, adds the precision there,
    j / (r + 1). Summed over a group's places, ``Σ (r' + 1 + t q) / (h + t + 1)`` with r' relevant items above it and
    ``q = (m − 1) / (n − 1)`` is ``(r' + 1 − q (h + 1)) Σ 1 / (h + t + 1) + q c``.
    """
    inside, place = _inside(groups, k), groups.higher + 1
    share = (groups.relevant - 1) / np.maximum(groups.size - 1, 1)
    found = groups.relevant_higher + 1
    tied = (found - share * place) * _sum_over_positions(_reciprocal, groups, inside) + share * inside
    alone = np.where(inside > 0, found / place, 0.0)
    precisions = np.where(groups.size == 1, alone, tied * (groups.relevant / groups.size))
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
"""Metrics that need a cut, by the name before the ``@``."""


def metric_by_name(name: str, groups: TieGroups) -> Float64:
    """The metric of a name such as ``"ndcg@10"`` or ``"mrr"``. float64 [n_users].

    Raises:
        InputError: there is no metric of that name.
    """
    metric, _, cut = name.partition("@")
    if name == "mrr":
        return mrr(groups)
    if metric not in AT_K or not cut.isdecimal() or int(cut) < 1:
        raise InputError(
            "unknown metric",
            where="metric name",
            expected=f"mrr, or one of {', '.join(AT_K)} with a cut, e.g. ndcg@10",
            found=repr(name) + did_you_mean(name, ["mrr", *(f"{at}@{cut or 10}" for at in AT_K)]),
        )
    return AT_K[metric](groups, int(cut))


def _shown(items: TopKItems, n_items: int) -> Int64:
    """How often each item of the catalogue is in a list, int64 [n_items]."""
    return np.bincount(items[items >= 0], minlength=n_items)


def coverage(items: TopKItems, n_items: int) -> float:
    """Catalogue coverage: distinct items in any list / items in the catalogue."""
    return float((_shown(items, n_items) > 0).sum() / n_items)


def gini(items: TopKItems, n_items: int) -> float:
    """Gini index of how often each item is shown, over the full catalogue: items never shown count as 0.

    0 = all items equally often, 1 − 1/n_items = always the same one; NaN where nothing is shown at all.
    """
    counts = np.sort(_shown(items, n_items))
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ counts / (n_items * counts.sum())) if counts.sum() else float("nan")


def novelty(items: TopKItems, counts: Int64, n_users: int) -> Float64:
    """Mean self-information of a user's list in bits: −log2 of an item's popularity share. float64 [users in items].

    The share is the fraction of the ``n_users`` training users who have the item (Zhou et al., PNAS 2010); an item
    without training rows counts as if one user had it, so that the value is finite.

    Args:
        items: int [users, k], −1 where a list ends early; the mean is over the items shown, NaN for an empty list.
        counts: int64 [n_items], training rows per item.
        n_users: users the counts come from.
    """
    bits = np.append(-np.log2(np.maximum(counts, 1) / n_users), 0.0)  # the last entry is for −1
    n_shown = (items >= 0).sum(axis=1)
    result = np.full(len(items), np.nan)
    np.divide(bits[items].sum(axis=1), n_shown, out=result, where=n_shown > 0)
    return result


def intra_list_similarity(items: TopKItems, features: Csr, *, chunk: int = 4096) -> Float64:
    """Mean cosine over the unordered pairs of a user's list (Ziegler et al., WWW 2005). float64 [users in items].

    An item without features is unlike nothing in particular: pairs with it are left out. Fewer than two items with
    features give NaN. With unit rows v of m items, the mean is ``(|Σ v|² − m) / (m (m − 1))``: no pair is formed.

    Args:
        items: int [users, k], −1 where a list ends early.
        features: items by features.
        chunk: users at a time, which bounds memory.
    """
    squares = features.data.astype(np.float64) ** 2
    lengths = np.sqrt(np.bincount(features.rows(), weights=squares, minlength=features.n_rows))
    unit = features.data / np.repeat(np.where(lengths > 0, lengths, 1.0), features.degrees())
    matrix = _sparse(features, unit)
    described = np.append(lengths > 0, False)  # the last entry is for −1
    result = np.full(len(items), np.nan)
    for start in range(0, len(items), chunk):
        part = items[start : start + chunk]
        inside = described[part]
        n = inside.sum(axis=1)
        pointer = np.concatenate([[0], np.cumsum(n)])
        lists = scipy.sparse.csr_array((np.ones(pointer[-1]), part[inside], pointer), (len(part), features.n_rows))
        summed = (lists @ matrix).power(2).sum(axis=1)
        np.divide(summed - n, n * (n - 1), out=result[start : start + chunk], where=n > 1)
    return result


def miscalibration(items: TopKItems, history: Csr, features: Csr, *, alpha: float = 0.01) -> Float64:
    """How far a list's mix of attribute values is from the user's own: KL(p ‖ q̃) in nats. float64 [users in items].

    p(g) is the mean over the user's training items of each item's distribution over the values g of an attribute,
    q(g) the same over the list, and q̃ = (1 − α) q + α p keeps the divergence finite (Steck, "Calibrated
    Recommendations", RecSys 2018). 0 is a list with the user's own mix, −ln α one that holds nothing of it.

    An item's distribution gives every value 1 / (number of its values); where the relation is weighted, the value's
    share of the weight. All items count alike, in the history whatever their age and in the list whatever their
    place. Items without values are left out; a user with no such training item, or a list with no such item, gives
    NaN.

    Args:
        items: int [users, k], −1 where a list ends early.
        history: the same users by items, training rows; its values are not read.
        features: items by values of the attribute.
        alpha: share of p in q̃, in (0, 1].
    """
    result = np.empty(len(items))
    shown = np.ascontiguousarray(items, np.int64)
    shares = _mix(_sparse(features, features.data))
    mixes = shares.indptr, shares.indices, shares.data, features.n_cols
    _divergences(shown, history.indptr, history.indices, *mixes, alpha, result)
    return result


@njit(nogil=True)
def _divergences(items, indptr, indices, s_indptr, s_indices, s_data, n_values, alpha, result):  # type: ignore[no-untyped-def]
    """``miscalibration`` from shares of values by items; a user's two mixes are sums of them, cleared afterwards."""
    p, q = np.zeros(n_values), np.zeros(n_values)
    for user in range(len(items)):
        own, shown = 0.0, 0.0
        for e in range(indptr[user], indptr[user + 1]):
            for f in range(s_indptr[indices[e]], s_indptr[indices[e] + 1]):
                p[s_indices[f]] += s_data[f]
                own += s_data[f]
        for item in items[user]:
            if item >= 0:
                for f in range(s_indptr[item], s_indptr[item + 1]):
                    q[s_indices[f]] += s_data[f]
                    shown += s_data[f]
        # q̃ / (α p) = 1 + (1 − α) q / (α p) is 1 where the list lacks g: only what both have needs a logarithm
        divergence = -np.log(alpha)
        for item in items[user]:
            if item >= 0:
                for f in range(s_indptr[item], s_indptr[item + 1]):
                    g = s_indices[f]
                    if p[g] > 0 and q[g] > 0:
                        divergence -= p[g] / own * np.log1p((1 - alpha) / alpha * (q[g] / shown) / (p[g] / own))
                    q[g] = 0.0
        for e in range(indptr[user], indptr[user + 1]):
            for f in range(s_indptr[indices[e]], s_indptr[indices[e] + 1]):
                p[s_indices[f]] = 0.0
        # what is below 0 is rounding
        result[user] = max(divergence, 0.0) if own > 0 and shown > 0 else np.nan


def popularity_lift(items: TopKItems, history: Csr, counts: Int64) -> Float64:
    """How much more popular a list is than the user's own history: (list − history) / history. float64 [users].

    Both are mean training rows per item: over the items shown, and over the user's training items, which is also the
    divisor. 0 leaves the user's taste for the popular as it is, 1 doubles it, −1 shows nothing that anybody has. The
    per-user form of the group average popularity of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation", RMSE workshop at RecSys 2019; theirs divides means over a group's users. A user without history,
    and an empty list, give NaN.

    Args:
        items: int [users, k], −1 where a list ends early.
        history: the same users by items, training rows; its values are not read.
        counts: int64 [n_items], training rows per item.
    """
    popularity = np.append(counts, 0).astype(np.float64)  # the last entry is for −1
    n_shown, n_own = (items >= 0).sum(axis=1), history.degrees()
    summed = np.bincount(history.rows(), weights=popularity[history.indices], minlength=history.n_rows)
    own = summed / np.maximum(n_own, 1)
    shown = popularity[items].sum(axis=1) / np.maximum(n_shown, 1)
    result = np.full(len(items), np.nan)
    np.divide(shown - own, own, out=result, where=(n_shown > 0) & (own > 0))
    return result


def _sparse(rows: Csr, values: npt.NDArray[np.floating]) -> scipy.sparse.csr_array:
    """The same places with other values, float64."""
    return scipy.sparse.csr_array((values.astype(np.float64), rows.indices, rows.indptr), (rows.n_rows, rows.n_cols))


def _mix(matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Every row divided by its sum; an empty row stays empty. Over rows that sum to 1 or 0, that is a mean."""
    sums = matrix.sum(axis=1)
    return scipy.sparse.csr_array(matrix.multiply((1 / np.where(sums > 0, sums, 1.0))[:, None]))
