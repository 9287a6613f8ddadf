"""Tests whether a numeric item feature, such as its number of links, was computed with held-out interactions.

A correlation with held-out rows is no evidence, since both depend on popularity. Two tests are.

*Pull.* If each user's held-out rows are a random draw from their rows, the expected mean of a feature that is
independent of the draw is the same over held-out and all rows, whatever its relation to popularity or taste. The sum
of the differences has a known variance (draws without replacement, user by user), so its z-value is exact. What the
number of all rows of an item explains of the feature is removed first, since the draw does not change that number. If
the split follows time, held-out rows are compared with the user's last training rows; items may then be newer for
good reasons, so the result is only a hint.

*Counting.* A feature that was counted over all interactions is independent of the draw, but follows from an item's
number of all rows instead of training rows: it hardly varies among items with equal numbers of rows, and does
among items with equal numbers of training rows. Even the best independent measure of popularity leaves more than half
of that variance, since counts also contain chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Float64, Int64
from relrank.tables.split import Interactions, Split

Bools = npt.NDArray[np.bool_]

SURE = 4.0
"""Standard errors of a significant pull; one independent feature in thirty thousand exceeds it."""
LEAST = 0.05
"""Smallest reported pull, in standard deviations of the feature over rows, for a random draw …"""
LEAST_IN_TIME = 0.25
"""… and for a split by time, or an unknown one."""
COUNTED = 0.25
"""A feature counts all rows if these leave at most this share of the variance that training rows leave."""
_SHUFFLES = 200
_FEWEST = 30
"""Minimum degrees of freedom of a variance inside groups."""


@dataclass(frozen=True, slots=True)
class FeatureLeakage:
    """How an item feature depends on held-out rows.

    Attributes:
        pull: mean difference between held-out and other rows, in standard deviations of the feature over rows.
        z: the same in standard errors.
        counted: variance inside groups of items with equal numbers of rows, divided by that with equal numbers of
            training rows; 1 if the groups are too small, or if shuffled features are as low.
        exact: whether the held-out rows are a random draw.
    """

    pull: float
    z: float
    counted: float
    exact: bool

    @property
    def is_shifted(self) -> bool:
        """Whether the feature is significantly larger over held-out rows."""
        return self.z >= SURE and self.pull >= (LEAST if self.exact else LEAST_IN_TIME)

    @property
    def is_count(self) -> bool:
        """Whether the feature seems to count all rows, held-out ones included."""
        return self.counted <= COUNTED


def feature_leakage(figure: Float64, split: Split, rng: np.random.Generator) -> FeatureLeakage:
    """Measure the leakage of an item feature.

    Args:
        figure: the feature, float64 [n_items]; NaN for items without a value.
        split: of the interactions.
        rng: of the shuffled features.
    """
    ranks = _ranks(figure)
    held = split.valid.then(split.test)
    rest = _beyond_popularity(ranks, ~np.isnan(figure), split, held)
    pull, z = _drawn(rest, split, held) if split.random else _after(rest, split, held)
    # with all rows of an item in one part, no item has training and held-out rows
    counted = 1.0 if split.new_items_only else _counting(ranks, figure, split, held, rng)
    return FeatureLeakage(pull, z, counted, split.random)


def _ranks(figure: Float64) -> Float64:
    """Mean ranks from −.5 to .5; 0 for items without a value."""
    known = ~np.isnan(figure)
    values, number, count = np.unique(figure[known], return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks = np.zeros(figure.size)
    if values.size > 1:
        ranks[known] = ((ends - (count - 1) / 2)[number] - (ends[-1] + 1) / 2) / ends[-1]
    return ranks


def _beyond_popularity(ranks: Float64, known: Bools, split: Split, held: Interactions) -> Float64:
    """Residuals of a cubic regression on the logarithm of an item's number of rows; 0 for items without a value."""
    rows = np.bincount(np.concatenate([split.train.item, held.item]), minlength=ranks.size)
    used = known & (rows > 0)
    size = np.log1p(rows[used])
    curve = np.vander((size - size.mean()) / (size.std() or 1.0), 4) if size.size else np.zeros((0, 4))
    rest = np.zeros(ranks.size)
    rest[used] = ranks[used] - curve @ np.linalg.lstsq(curve, ranks[used], rcond=None)[0]
    return rest


def _drawn(ranks: Float64, split: Split, held: Interactions) -> tuple[float, float]:
    """Held-out rows against all rows of the same user, or held-out items against all items if items were drawn."""
    user, item = np.concatenate([split.train.user, held.user]), np.concatenate([split.train.item, held.item])
    out = np.repeat([False, True], [len(split.train), len(held)])
    if split.new_items_only:
        item, first = np.unique(item, return_index=True)  # all rows of an item are in the same part
        user, out = np.zeros(item.size, np.int64), out[first]
    value, n_users = ranks[item], int(user.max()) + 1
    n, m = np.bincount(user, minlength=n_users), np.bincount(user[out], minlength=n_users)
    n_safe = np.maximum(n, 1)
    mean = np.bincount(user, value, n_users) / n_safe
    squares = np.bincount(user, (value - mean[user]) ** 2, n_users)
    variance = float((m * (n - m) / n_safe * squares / np.maximum(n - 1, 1)).sum())
    total = float((value - mean[user])[out].sum())
    return _scaled(total, variance, int(m.sum()), value)


def _after(ranks: Float64, split: Split, held: Interactions) -> tuple[float, float]:
    """Held-out rows against as many of the user's last training rows, or against all of them without an order."""
    n_users, train = split.shape[0], split.train
    m = np.bincount(held.user, minlength=n_users)
    before = np.ones(len(train), np.bool_)
    if split.ordered:  # rows are sorted by user, and inside a user by time
        last = np.searchsorted(train.user, np.arange(n_users), side="right")
        before = last[train.user] - np.arange(len(train)) <= m[train.user]
    n = np.bincount(train.user[before], minlength=n_users)
    both = (m > 0) & (n > 0)
    over = np.bincount(held.user, ranks[held.item], n_users)[both] / m[both]
    base = np.bincount(train.user[before], ranks[train.item[before]], n_users)[both] / n[both]
    difference = over - base
    variance = float(difference.var() * difference.size)
    value = np.concatenate([ranks[train.item[before]], ranks[held.item]])
    return _scaled(float(difference.sum()), variance, difference.size, value)


def _scaled(total: float, variance: float, n: int, value: Float64) -> tuple[float, float]:
    spread = float(value.std())
    if n == 0 or spread < 1e-9 or variance <= 0:
        return 0.0, 0.0
    return total / n / spread, total / variance**0.5


def _counting(ranks: Float64, figure: Float64, split: Split, held: Interactions, rng: np.random.Generator) -> float:
    """``FeatureLeakage.counted``."""
    train = np.bincount(split.train.item, minlength=figure.size)
    every = train + np.bincount(held.item, minlength=figure.size)
    used = ~np.isnan(figure) & (every > 0)
    value, by_train, by_all = ranks[used], _groups(train[used]), _groups(every[used])
    if min(value.size - g.max(initial=-1) - 1 for g in (by_train, by_all)) < _FEWEST:
        return 1.0
    before = _inside(value, by_train)
    if before < 1e-12:  # the feature follows from training rows, which is no leak
        return 1.0
    counted = _inside(value, by_all) / before
    if counted > COUNTED:
        return counted
    order = np.argsort(by_train, kind="stable")
    for _ in range(_SHUFFLES):  # a feature that hardly varies has no variance inside small groups either
        shuffled = value.copy()
        shuffled[order] = value[np.lexsort((rng.random(value.size), by_train))]
        if _inside(shuffled, by_all) / before <= counted:
            return 1.0
    return counted


def _groups(numbers: Int64) -> Int64:
    return np.unique(numbers, return_inverse=True)[1]


def _inside(value: Float64, group: Int64) -> float:
    """The variance inside groups."""
    n = np.bincount(group)
    mean = np.bincount(group, value) / n
    return float(((value - mean[group]) ** 2).sum() / (value.size - n.size))
