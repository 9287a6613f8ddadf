"""Does a figure of an item, such as its number of links, know how many of its interactions are held out?

Popularity alone makes such figures and held-out rows go together, so that is no test. Two things are.

*Pull.* Where a user's held-out rows were drawn at random from their rows, a figure that knows nothing of the draw is
as large over the held-out rows as over all rows, whatever it has to do with popularity or taste. The sum of the
differences has a known variance (draws without replacement, user by user), so its z-value is exact. What the number
of an item's rows, training and held-out ones together, explains of the figure is taken out first: the draw does not
change that number, and without it the rest shows. Where the split follows time, held-out rows are compared with the
user's last training rows; items may be newer then for honest reasons, so that this only hints.

*Counting.* A figure that was counted over all interactions favours no draw. But it then follows from the number of
all rows of an item, and not from that of its training rows: inside groups of items with equal numbers of rows it
hardly varies, inside groups with equal numbers of training rows it does. The best honest measure of popularity leaves
more than half of that variance, for a count is a popularity with luck in it, and honest figures do not know the luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Float64, Int64
from relrank.tables.split import Interactions, Split

Bools = npt.NDArray[np.bool_]

SURE = 4.0
"""Standard errors of a pull that is no luck: one honest figure in thirty thousand."""
LEAST = 0.05
"""Pull, in standard deviations of the figure over rows, below which nothing is said where the draw was random …"""
LEAST_IN_TIME = 0.25
"""… and where the split follows time, or how it was made is not known."""
COUNTED = 0.25
"""A figure is a count of all rows where these leave at most this share of the variance that training rows leave."""
_SHUFFLES = 200
_FEWEST = 30
"""Items beyond the first of their group, below which variances inside groups say nothing."""


@dataclass(frozen=True, slots=True)
class FeatureLeakage:
    """How a figure of items goes with their held-out rows.

    Attributes:
        pull: mean difference between held-out and other rows, in standard deviations of the figure over rows.
        z: the same in standard errors.
        counted: variance inside groups of items with equal numbers of rows over that with equal numbers of training
            rows; 1 where too few items are alike, and where shuffled figures do as well.
        exact: whether the pull was measured against a random draw.
    """

    pull: float
    z: float
    counted: float
    exact: bool

    @property
    def is_shifted(self) -> bool:
        """Whether the figure is larger where rows are held out, beyond luck."""
        return self.z >= SURE and self.pull >= (LEAST if self.exact else LEAST_IN_TIME)

    @property
    def is_count(self) -> bool:
        """Whether the figure was counted over all rows, held-out ones too."""
        return self.counted <= COUNTED


def feature_leakage(figure: Float64, split: Split, rng: np.random.Generator) -> FeatureLeakage:
    """Measure a figure of items.

    Args:
        figure: float64 [n_items]; NaN where an item has none, which says nothing.
        split: of the interactions.
        rng: of the shuffled figures.
    """
    ranks = _ranks(figure)
    held = split.valid.then(split.test)
    rest = _beyond_popularity(ranks, ~np.isnan(figure), split, held)
    pull, z = _drawn(rest, split, held) if split.random else _after(rest, split, held)
    # where all rows of an item are in one part, no item has both kinds of rows
    counted = 1.0 if split.new_items_only else _counting(ranks, figure, split, held, rng)
    return FeatureLeakage(pull, z, counted, split.random)


def _ranks(figure: Float64) -> Float64:
    """Mean ranks from −.5 to .5, and 0 where there is no figure: only the order of a figure counts."""
    known = ~np.isnan(figure)
    values, place, count = np.unique(figure[known], return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks = np.zeros(figure.size)
    if values.size > 1:
        ranks[known] = ((ends - (count - 1) / 2)[place] - (ends[-1] + 1) / 2) / ends[-1]
    return ranks


def _beyond_popularity(ranks: Float64, known: Bools, split: Split, held: Interactions) -> Float64:
    """What a curve in the logarithm of an item's number of rows leaves of its figure; 0 where it has none."""
    rows = np.bincount(np.concatenate([split.train.item, held.item]), minlength=ranks.size)
    there = known & (rows > 0)
    size = np.log1p(rows[there])
    curve = np.vander((size - size.mean()) / (size.std() or 1.0), 4) if size.size else np.zeros((0, 4))
    rest = np.zeros(ranks.size)
    rest[there] = ranks[there] - curve @ np.linalg.lstsq(curve, ranks[there], rcond=None)[0]
    return rest


def _drawn(ranks: Float64, split: Split, held: Interactions) -> tuple[float, float]:
    """Held-out rows against all rows of the same user; held-out items against all items where items were drawn."""
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
    """Held-out rows against as many of the user's last training rows; against all of them where there is no order."""
    n_users, train = split.shape[0], split.train
    m = np.bincount(held.user, minlength=n_users)
    before = np.ones(len(train), np.bool_)
    if split.ordered:  # rows are sorted by user, and inside a user by time
        last = np.searchsorted(train.user, np.arange(n_users), side="right")
        before = last[train.user] - np.arange(len(train)) <= m[train.user]
    n = np.bincount(train.user[before], minlength=n_users)
    both = (m > 0) & (n > 0)
    over = np.bincount(held.user, ranks[held.item], n_users)[both] / m[both]
    beside = np.bincount(train.user[before], ranks[train.item[before]], n_users)[both] / n[both]
    difference = over - beside
    variance = float(difference.var() * difference.size)
    value = np.concatenate([ranks[train.item[before]], ranks[held.item]])
    return _scaled(float(difference.sum()), variance, difference.size, value)


def _scaled(total: float, variance: float, n: int, value: Float64) -> tuple[float, float]:
    spread = float(value.std())
    if n == 0 or spread < 1e-9 or variance <= 0:
        return 0.0, 0.0
    return total / n / spread, total / variance**0.5


def _counting(ranks: Float64, figure: Float64, split: Split, held: Interactions, rng: np.random.Generator) -> float:
    """The share of variance left within groups of equal numbers of all rows (see ``FeatureLeakage.counted``)."""
    train = np.bincount(split.train.item, minlength=figure.size)
    every = train + np.bincount(held.item, minlength=figure.size)
    there = ~np.isnan(figure) & (every > 0)
    value, by_train, by_all = ranks[there], _groups(train[there]), _groups(every[there])
    if min(value.size - g.max(initial=-1) - 1 for g in (by_train, by_all)) < _FEWEST:
        return 1.0
    before = _inside(value, by_train)
    if before < 1e-12:  # it follows from training rows, as it may
        return 1.0
    counted = _inside(value, by_all) / before
    if counted > COUNTED:
        return counted
    order = np.argsort(by_train, kind="stable")
    for _ in range(_SHUFFLES):  # a figure that hardly varies has no variance inside small groups either
        shuffled = value.copy()
        shuffled[order] = value[np.lexsort((rng.random(value.size), by_train))]
        if _inside(shuffled, by_all) / before <= counted:
            return 1.0
    return counted


def _groups(numbers: Int64) -> Int64:
    return np.unique(numbers, return_inverse=True)[1]


def _inside(value: Float64, group: Int64) -> float:
    """Variance inside groups."""
    n = np.bincount(group)
    mean = np.bincount(group, value) / n
    return float(((value - mean[group]) ** 2).sum() / (value.size - n.size))
