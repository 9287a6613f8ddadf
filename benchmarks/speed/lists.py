"""Top-20 lists of the users with test rows, and their NDCG@20: the same for all who fit item-item models.

Runs in the peers' environments, so it imports NumPy alone. Matrices are SciPy's CSR, told by what they have.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from speed.peer import Call, peak_mb

K = 20
Lists = npt.NDArray[np.integer[Any]]
Recommend = Callable[[Any, npt.NDArray[np.int64]], Lists]


def judged(
    call: Call, fit: Callable[[], Any], recommend: Callable[[Any, npt.NDArray[np.int64]], Lists]
) -> list[float]:
    """Fit once, then rank the full catalogue for the users with test rows.

    Sets ``peak_mb`` of the call to the peak of the process when the fit is done, and the figures ``ndcg@20``,
    ``users`` and ``rank_s``, seconds of ranking.

    Args:
        call: with test rows.
        fit: makes the model; it is timed.
        recommend: the model and users, ascending -> items int [n, K], best first, without training items; -1 where a
            list is shorter.

    Returns:
        Seconds of the fit.
    """
    began = time.perf_counter()
    model = fit()
    seconds = time.perf_counter() - began
    call.peak_mb = peak_mb()
    users = np.unique(call.data["test_user"]).astype(np.int64)
    began = time.perf_counter()
    lists = recommend(model, users)
    call.figures |= {
        "rank_s": time.perf_counter() - began, "users": int(users.size), "ndcg@20": ndcg(call.data, users, lists),
    }  # fmt: skip
    return [seconds]


def ndcg(data: dict[str, Any], users: npt.NDArray[np.int64], lists: Lists) -> float:
    """Mean NDCG at the lists' length over the users, whose ideal list has min(k, test rows) hits.

    Args:
        data: of the call.
        users: with test rows, [n].
        lists: items or -1, [n, k].
    """
    n_items, k = int(data["n_items"]), lists.shape[1]
    truth = np.sort(data["test_user"].astype(np.int64) * n_items + data["test_item"])
    keys = users[:, None] * n_items + lists
    hits = (truth[np.minimum(np.searchsorted(truth, keys), truth.size - 1)] == keys) & (lists >= 0)
    discount = 1 / np.log2(np.arange(2, k + 2))
    relevant = np.bincount(data["test_user"], minlength=int(data["n_users"]))[users]
    ideal = np.cumsum(discount)[np.minimum(relevant, k) - 1]
    return float(((hits @ discount) / ideal).mean())


def best_of_dense(scores: npt.NDArray[np.floating[Any]], seen: Any) -> Lists:
    """The K best items of each row.

    Args:
        scores: [n, n_items], of which those of ``seen`` are overwritten.
        seen: CSR [n, n_items], the users' training items.
    """
    scores[np.repeat(np.arange(scores.shape[0]), np.diff(seen.indptr)), seen.indices] = -np.inf
    top = np.argpartition(scores, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1)
    return np.take_along_axis(top, order, 1)


def best_of_sparse(scores: Any, seen: Any) -> Lists:
    """The K best stored items of each row; an item without a stored score is in no list.

    Args:
        scores: CSR [n, n_items].
        seen: CSR [n, n_items], the users' training items.
    """
    lists = np.full((scores.shape[0], K), -1, np.int64)
    for row in range(scores.shape[0]):
        mine = slice(scores.indptr[row], scores.indptr[row + 1])
        items, values = scores.indices[mine], scores.data[mine].copy()
        known = seen.indices[seen.indptr[row] : seen.indptr[row + 1]]
        values[np.isin(items, known)] = -np.inf
        top = np.argpartition(values, -K)[-K:] if values.size > K else np.arange(values.size)
        top = top[np.argsort(-values[top])]
        top = top[values[top] > -np.inf]
        lists[row, : top.size] = items[top]
    return lists


def blocks(users: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Users in their order, so many at once."""
    return [users[start : start + size] for start in range(0, users.size, size)]
