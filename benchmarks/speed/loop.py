"""What all who train LightGCN share: uniform draws, a loop with a clock, NDCG@20. Imports nothing of relrank."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speed.peer import Call

DIM, LAYERS, BATCH, LR, L2 = 64, 3, 8192, 1e-3, 1e-4
"""LightGCN as it was published, but for the batch, which was 2,048."""


class Draws:
    """Batches of training pairs with one uniform item beside each, as most loops have it: it may be a known one.

    Args:
        data: of the call.
        seed: of the generator.
    """

    def __init__(self, data: dict[str, Any], seed: int = 0) -> None:
        self.user, self.item = (torch.from_numpy(data[f"train_{end}"].astype(np.int64)) for end in ("user", "item"))
        self.n_users, self.n_items = int(data["n_users"]), int(data["n_items"])
        self._random = torch.Generator().manual_seed(seed)
        self._order, self._at = torch.empty(0, dtype=torch.int64), 0
        self.steps_per_epoch = -(-len(self.user) // BATCH)

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users, their items, and others, int64 [B]; every pair once an epoch."""
        if self._at >= len(self._order):
            self._order, self._at = torch.randperm(len(self.user), generator=self._random), 0
        picked = self._order[self._at : self._at + BATCH]
        self._at += BATCH
        other = torch.randint(self.n_items, (len(picked),), generator=self._random)
        return self.user[picked], self.item[picked], other


Vectors = Callable[[], tuple[Tensor, Tensor]]
"""Gives all users' and all items' vectors, in the rows of the data."""


def train(call: Call, epoch: Callable[[], object], vectors: Vectors) -> list[float]:
    """Whole epochs until ``seconds`` of training have passed; NDCG@20 on test after each, off the clock.

    Args:
        call: options ``seconds`` and ``wanted``, NDCG@20 to reach; its figures get ``ndcg@20`` of the last epoch and
            ``reached``, seconds to each of the wanted ones or None.
        epoch: one pass over the training pairs.
        vectors: what scores are products of.

    Returns:
        Seconds of each epoch.
    """
    seconds: list[float] = []
    reached: dict[str, float | None] = {f"{value:.3f}": None for value in call.options["wanted"]}
    while sum(seconds) < call.options["seconds"] and None in reached.values():
        began = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - began)
        with torch.no_grad():
            found = ndcg(*vectors(), call.data)
        call.figures["ndcg@20"] = found
        for value in call.options["wanted"]:
            if found >= value and reached[f"{value:.3f}"] is None:
                reached[f"{value:.3f}"] = sum(seconds)
    call.figures["reached"] = reached
    return seconds


def ndcg(users: Tensor, items: Tensor, data: dict[str, Any], k: int = 20, block: int = 512) -> float:
    """Mean NDCG@k over users with test rows; training items are left out, the ideal has min(k, truth) hits.

    Args:
        users: [n_users, d].
        items: [n_items, d].
        data: of the call.
        k: places that count.
        block: users at once.
    """
    n_items = len(items)
    train_at, train_items = _rows(data["train_user"], data["train_item"], len(users))
    truth = np.sort(data["test_user"].astype(np.int64) * n_items + data["test_item"])
    counts = np.bincount(data["test_user"], minlength=len(users))
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    asked = np.flatnonzero(counts)
    total = 0.0
    for start in range(0, asked.size, block):
        who = asked[start : start + block]
        scores = users[torch.from_numpy(who)] @ items.T
        lengths = train_at[who + 1] - train_at[who]
        row = np.repeat(np.arange(who.size), lengths)
        seen = np.concatenate([train_items[train_at[u] : train_at[u + 1]] for u in who])
        scores[torch.from_numpy(row), torch.from_numpy(seen)] = -torch.inf
        top = scores.topk(k).indices.numpy()
        pairs = who[:, None] * n_items + top
        at = np.minimum(np.searchsorted(truth, pairs), truth.size - 1)
        gains = (truth[at] == pairs) @ discount
        total += float((gains / ideal[np.minimum(counts[who], k)]).sum())
    return total / asked.size


def _rows(
    user: npt.NDArray[np.int32], item: npt.NDArray[np.int32], n_users: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each user's items start, and the items user by user."""
    order = np.argsort(user, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))])
    return starts, item[order].astype(np.int64)
