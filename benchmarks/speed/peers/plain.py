"""What one writes without a library: NumPy, SciPy and torch, a loop where there is no way around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from torch.nn import functional

from speed.peer import Call, run

K = 20


def ranking(call: Call) -> list[float]:
    """User by user: products, mask, the 20 best, metrics; on a sample, scaled to all."""
    data, call.package = call.data, ""
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
    return [scale * seconds for seconds in call.repeat(work, call.options["rounds"], at_most=10)]


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
    call.package = {"inverse": "numpy", "cholesky": "scipy"}[call.options["solver"]]

    def work() -> None:
        gram = (x.T @ x).toarray()
        gram[np.diag_indices_from(gram)] += call.options["l2"]
        p = solve(gram)
        weights = p / -np.diag(p)
        np.fill_diagonal(weights, 0)
        call.figures["weight"] = float(np.linalg.norm(weights[0]))

    return call.repeat(work, call.options["rounds"], warm_up=0)


def negatives(call: Call) -> list[float]:
    """A batch's draws all at once, those again that were positives, until none is."""
    data, options = call.data, call.options
    n_items, n = data["n_items"], options["n"]
    user = data["train_user"].astype(np.int64)
    keys = np.sort(user * n_items + data["train_item"])
    weights = np.maximum(np.bincount(data["train_item"], minlength=n_items), 1) ** 0.75
    cumulated = np.cumsum(weights / weights.sum())
    rng = np.random.default_rng(0)
    batches = max(1, 500_000 // (options["batch"] * n))
    picked = [np.random.default_rng(k).permutation(user.size)[: options["batch"]] for k in range(batches)]

    def work() -> None:
        for at in picked:
            row = np.repeat(user[at], n)
            out = np.empty(row.size, np.int64)
            left = np.arange(row.size)
            while left.size:
                if options["kind"] == "uniform":
                    out[left] = rng.integers(0, n_items, left.size)
                else:
                    out[left] = np.searchsorted(cumulated, rng.random(left.size), "right")
                key = row[left] * n_items + out[left]
                place = np.minimum(np.searchsorted(keys, key), keys.size - 1)
                left = left[keys[place] == key]

    drawn = batches * options["batch"] * n
    return [1e6 * spent / drawn for spent in call.repeat(work, options["rounds"])]


def neighbours(call: Call) -> list[float]:
    """Array operations over the neighbours of all nodes of a layer, relabelled through a dense table."""
    data, options = call.data, call.options
    n_nodes = data["n_users"] + data["n_items"]
    ends = data["train_user"], data["train_item"] + data["n_users"]
    source, target = (np.concatenate(side) for side in (ends, ends[::-1]))
    order = np.argsort(source, kind="stable")
    indices, indptr = target[order], np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n_nodes))])
    starts = [np.random.default_rng(k).permutation(n_nodes)[: options["seeds"]] for k in range(4)]
    rng, drawn = np.random.default_rng(0), [0]

    def keep(nodes: Any, fanout: int) -> tuple[Any, Any]:
        """Up to so many neighbours of each node: places in ``nodes``, and which."""
        degrees = indptr[nodes + 1] - indptr[nodes]
        if options["replace"]:
            some = np.flatnonzero(degrees)
            at = indptr[nodes[some], None] + (rng.random((some.size, fanout)) * degrees[some, None]).astype(np.int64)
            return np.repeat(some, fanout), indices[at.ravel()]
        first = np.concatenate([[0], np.cumsum(degrees)])
        rows = np.repeat(np.arange(nodes.size), degrees)
        at = np.arange(first[-1]) - first[rows]
        shuffled = np.lexsort((rng.random(rows.size), rows))
        chosen = shuffled[at < fanout]
        return rows[chosen], indices[indptr[nodes[rows[chosen]]] + at[chosen]]

    def work() -> None:
        drawn[0] = 0
        place = np.full(n_nodes, -1, np.int32)
        for nodes in starts:
            place[nodes] = np.arange(nodes.size, dtype=np.int32)
            for fanout in options["fanouts"]:
                rows, columns = keep(nodes, fanout)
                new = np.unique(columns[place[columns] < 0])
                place[new] = np.arange(nodes.size, nodes.size + new.size, dtype=np.int32)
                nodes = np.concatenate([nodes, new])
                drawn[0] += torch.from_numpy(np.stack([place[columns], rows])).shape[1]
            place[nodes] = -1

    seconds = call.repeat(work, options["rounds"], at_most=8)
    call.figures["edges"] = drawn[0] // len(starts)
    return [1e6 * spent / drawn[0] for spent in seconds]


def softmax(call: Call) -> list[float]:
    """Torch's cross-entropy; per edge on the user's gathered row, what else the user has masked."""
    call.package = "torch"
    data = {name: torch.from_numpy(array) for name, array in call.data.items()}
    scores, temperature = data["scores"].requires_grad_(), call.options["temperature"]
    users, items = data["known_user"][data["edges"]], data["known_item"][data["edges"]]
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    mask[data["known_user"], data["known_item"]] = True

    def work() -> None:
        scores.grad = None
        if call.options["per"] == "edges":
            others = mask[users]
            others[torch.arange(len(users)), items] = False
            logits = (scores[users] / temperature).masked_fill(others, -torch.inf)
            loss = functional.cross_entropy(logits, items)
        else:
            loss = functional.cross_entropy(scores / temperature, items[: len(scores)])
        loss.backward()
        call.figures["loss"] = float(loss.detach())

    return call.repeat(work, call.options["rounds"])


if __name__ == "__main__":
    tasks = {
        "ranking": ranking,
        "ease": ease,
        "negatives": negatives,
        "neighbours": neighbours,
        "softmax": softmax,
    }
    run("plain", "numpy", tasks)
