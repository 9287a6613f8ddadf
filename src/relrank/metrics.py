"""Ranking metrics as pure functions: one value per user from expected ranks, beyond accuracy from top-k lists.

**Ranks.** Accuracy metrics take ``ranks`` float64 [nnz] and ``indptr`` int64 [n_users + 1]: the 0-based expected
rank of every relevant item among the candidates, user after user, in any order inside a user. A user without relevant
items has no value: leaving such users out, and counting them, is the caller's business (ValueError here).

**Ties.** An item that shares its score has the expected rank under a random order of its equals,
``#(higher) + (#(equal) − 1) / 2`` with itself among the equals: a multiple of ½. Every metric below is evaluated *at*
that rank. Relevant items that tie with each other share one rank, so more than k of them may stand before place k;
only the first k relevant items in rank order are counted. So all values stay in [0, 1], and without ties all of
this is the textbook definition.

**k beyond the catalogue** is no special case: every candidate is then inside the list. Precision still divides by k.

**Lists.** Beyond-accuracy metrics take ``items`` int [n_users, k], −1 where a list ends early, and are computed over
exactly the users given.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse

from relrank.csr import Csr, Float64, Int64
from relrank.errors import InputError

Lists = npt.NDArray[np.integer]


def _in_order(ranks: Float64, indptr: Int64) -> tuple[Float64, Int64]:
    """Ranks ascending inside each user, and each one's place (0, 1, …) among the user's relevant items."""
    lengths = np.diff(indptr)
    if (lengths < 1).any():
        raise ValueError(f"{int((lengths < 1).sum())} users without relevant items; leave them out")
    if ranks.shape != (indptr[-1],):
        raise ValueError(f"ranks have shape {ranks.shape}, indptr ends at {indptr[-1]}")
    user = np.repeat(np.arange(lengths.size), lengths)
    return ranks[np.lexsort((ranks, user))], np.arange(ranks.size) - np.repeat(indptr[:-1], lengths)


def _sum(values: Float64, indptr: Int64) -> Float64:
    """Sum per user; users without values are excluded above, so ``reduceat`` is safe."""
    return np.add.reduceat(values, indptr[:-1]) if values.size else np.zeros(0)


def _in_list(ranks: Float64, indptr: Int64, k: int) -> tuple[Float64, Int64, npt.NDArray[np.bool_]]:
    """``_in_order``, and which of those items are inside the first k."""
    if k < 1:
        raise ValueError(f"k must be at least 1, it is {k}")
    ordered, place = _in_order(ranks, indptr)
    return ordered, place, (ordered < k) & (place < k)


def _hits(ranks: Float64, indptr: Int64, k: int) -> Float64:
    return _sum(_in_list(ranks, indptr, k)[2].astype(np.float64), indptr)


def hit(ranks: Float64, indptr: Int64, k: int) -> Float64:
    """Hit@k: 1 where a relevant item has expected rank < k, else 0. float64 [n_users]."""
    return np.minimum(_hits(ranks, indptr, k), 1.0)


def recall(ranks: Float64, indptr: Int64, k: int) -> Float64:
    """Recall@k: hits / relevant items (all of them, also where there are more than k). float64 [n_users]."""
    return _hits(ranks, indptr, k) / np.diff(indptr)


def precision(ranks: Float64, indptr: Int64, k: int) -> Float64:
    """Precision@k: hits / k, also where fewer than k candidates or relevant items exist. float64 [n_users]."""
    return _hits(ranks, indptr, k) / k


def ndcg(ranks: Float64, indptr: Int64, k: int) -> Float64:
    """NDCG@k with binary gains; the ideal list is cut at min(k, relevant). float64 [n_users].

    A relevant item at expected rank r < k gains ``1 / log2(r + 2)``; the divisor is the sum of that over
    r = 0 … min(k, relevant) − 1 (Järvelin & Kekäläinen 2002, the log2 form). A tied item gains at its expected rank;
    where all its equals are inside the list, that is slightly below its expected gain (the discount is convex).
    """
    ordered, _, inside = _in_list(ranks, indptr, k)
    n_best = np.minimum(np.diff(indptr), k)
    gains = np.where(inside, 1 / np.log2(ordered + 2), 0.0)
    ideal = np.cumsum(1 / np.log2(np.arange(n_best.max(initial=0)) + 2))
    best: Float64 = ideal[n_best - 1]
    return _sum(gains, indptr) / best


def mrr(ranks: Float64, indptr: Int64) -> Float64:
    """Reciprocal rank, uncut: 1 / (best expected rank + 1). float64 [n_users]."""
    ordered, place = _in_order(ranks, indptr)
    best: Float64 = ordered[place == 0]
    return 1 / (best + 1)


def average_precision(ranks: Float64, indptr: Int64, k: int) -> Float64:
    """AP@k, whose mean is MAP@k: divided by min(k, relevant), not by the hits found. float64 [n_users].

    The j-th relevant item in rank order (j = 1, 2, …), at expected rank r < k, adds the precision there: j / (r + 1).
    """
    ordered, place, inside = _in_list(ranks, indptr, k)
    precisions = np.where(inside, (place + 1) / (ordered + 1), 0.0)
    return _sum(precisions, indptr) / np.minimum(np.diff(indptr), k)


AT_K: dict[str, Callable[[Float64, Int64, int], Float64]] = {
    "hit": hit,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "map": average_precision,
}
"""Metrics that need a cut, by the name before the ``@``."""


def by_name(name: str, ranks: Float64, indptr: Int64) -> Float64:
    """The metric of a name such as ``"ndcg@10"`` or ``"mrr"``. float64 [n_users].

    Raises:
        InputError: there is no metric of that name.
    """
    metric, _, cut = name.partition("@")
    if name == "mrr":
        return mrr(ranks, indptr)
    if metric not in AT_K or not cut.isdecimal() or int(cut) < 1:
        raise InputError(
            "unknown metric",
            where="metric name",
            expected=f"mrr, or one of {', '.join(AT_K)} with a cut, e.g. ndcg@10",
            found=repr(name),
        )
    return AT_K[metric](ranks, indptr, int(cut))


def _shown(items: Lists, n_items: int) -> Int64:
    """How often each item of the catalogue is in a list, int64 [n_items]."""
    return np.bincount(items[items >= 0], minlength=n_items)


def coverage(items: Lists, n_items: int) -> float:
    """Catalogue coverage: distinct items in any list / items in the catalogue."""
    return float((_shown(items, n_items) > 0).sum() / n_items)


def gini(items: Lists, n_items: int) -> float:
    """Gini index of how often each item is shown, over the full catalogue: items never shown count as 0.

    0 = all items equally often, 1 − 1/n_items = always the same one; NaN where nothing is shown at all.
    """
    counts = np.sort(_shown(items, n_items))
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ counts / (n_items * counts.sum())) if counts.sum() else float("nan")


def novelty(items: Lists, counts: Int64, n_users: int) -> Float64:
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


def intra_list_similarity(items: Lists, features: Csr, *, chunk: int = 4096) -> Float64:
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


def miscalibration(items: Lists, history: Csr, features: Csr, *, alpha: float = 0.01) -> Float64:
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


@numba.njit(nogil=True, cache=True)
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


def popularity_lift(items: Lists, history: Csr, counts: Int64) -> Float64:
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
