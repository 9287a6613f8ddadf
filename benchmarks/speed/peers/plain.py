"""What one writes without a library: NumPy, SciPy and torch, a loop where there is no way around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse

from speed.peer import Call, run

K = 20


def ranking(call: Call) -> list[float]:
    """User by user: products, mask, the 20 best, metrics; on a sample, scaled to all."""
    data = call.data
    users, items, sample = data["user_vectors"], data["item_vectors"], data["sample"].tolist()
    seen: dict[int, list[int]] = {user: [] for user in sample}
    truth: dict[int, set[int]] = {user: set() for user in sample}
    for user, item in zip(data["train_user"].tolist(), data["train_item"].tolist(), strict=True):
        if user in seen:
            seen[user].append(item)
    for user, item in zip(data["test_user"].tolist(), data["test_item"].tolist(), strict=True):
        if user in truth:
            truth[user].add(item)

    def work() -> None:
        recalls, ndcgs = [], []
        for user in sample:
            scores = items @ users[user]
            scores[seen[user]] = -np.inf
            best = np.argpartition(scores, -K)[-K:]
            best = best[np.argsort(-scores[best])]
            hits = np.array([item in truth[user] for item in best.tolist()])
            discount = 1 / np.log2(np.arange(2, K + 2))
            recalls.append(hits.sum() / len(truth[user]))
            ndcgs.append(hits @ discount / discount[: len(truth[user])].sum())
        call.figures |= {"recall@20": float(np.mean(recalls)), "ndcg@20": float(np.mean(ndcgs))}

    scale = np.unique(data["test_user"]).size / len(sample)
    return [scale * seconds for seconds in call.repeat(work, call.options["rounds"], at_most=15)]


def inverse(gram: Any) -> Any:
    """NumPy's general inverse, as the paper's code has it."""
    return np.linalg.inv(gram)


def cholesky(gram: Any) -> Any:
    """SciPy's Cholesky factor, and the identity solved with it."""
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    identity = np.eye(len(gram), dtype=np.float32)
    return scipy.linalg.cho_solve(factor, identity, overwrite_b=True, check_finite=False)


SOLVERS: dict[str, Callable[[Any], Any]] = {"inverse": inverse, "cholesky": cholesky}


def ease(call: Call) -> list[float]:
    """The paper's ten lines."""
    user, item = call.data["train_user"], call.data["train_item"]
    shape = call.data["n_users"], call.data["n_items"]
    x = scipy.sparse.csr_array((np.ones(user.size, np.float32), (user, item)), shape)
    solve = SOLVERS[call.options["solver"]]

    def work() -> None:
        gram = (x.T @ x).toarray()
        gram[np.diag_indices_from(gram)] += call.options["l2"]
        p = solve(gram)
        weights = p / -np.diag(p)
        np.fill_diagonal(weights, 0)
        call.figures["weight"] = float(np.linalg.norm(weights[0]))

    return call.repeat(work, call.options["rounds"], warm_up=0)


if __name__ == "__main__":
    run("plain", "numpy", {"ranking": ranking, "ease": ease})
