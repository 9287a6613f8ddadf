"""Interactions of any size with the degree laws of public sets and latent groups, so that there is something to find.

Degrees: a share of the mean that everybody has at least, and above it the tail of a Lomax law (``Tail.shape`` is its
exponent) or a Weibull law. ``GOWALLA`` and ``GOODBOOKS`` were fitted to the quantiles of both sets; their groups to
the items' Gram matrix: Gowalla's has 1,484 entries a row (generated at its size 1,645), goodbooks' 1,422 (1,473).
``AMAZON_BOOK``, of a set that is not here, was fitted to the entries a row that are published of its training rows,
3,606 (3,580).

Groups: items fall into coarse groups and these into fine ones, whatever their popularity. A user has some coarse
groups and some fine ones within these, more with more interactions, and each interaction is an item of one of them
or, at the rate ``noise``, of the whole catalogue. Groups and the items in them are drawn by the items' expected
degrees, so that every item is expected to have the degree that its law gave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from graphs import Pairs

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """A degree law, in units of its mean.

    Attributes:
        least: smallest degree over the mean.
        shape: exponent of what lies above; for Lomax above 1.
        kind: of the law.
        most: largest degree over the mean.
    """

    least: float
    shape: float
    kind: Literal["lomax", "weibull"] = "lomax"
    most: float = np.inf

    def degrees(self, n: int, total: int) -> Floats:
        """Expected degrees of n nodes, descending, float64 [n]; their sum is ``total``."""
        above = (np.arange(n) + 0.5) / n  # the share of nodes with a larger degree
        if self.kind == "lomax":
            tail = (self.shape - 1) * (above ** (-1 / self.shape) - 1)
        else:
            tail = (-np.log(above)) ** (1 / self.shape)
        tail /= tail.mean()
        found: Floats = np.minimum(self.least + (1 - self.least) * tail, self.most)
        found *= total / found.sum()
        return found


@dataclass(frozen=True)
class Groups:
    """What is planted.

    Attributes:
        fine: mean number of items of a fine group.
        coarse: of a coarse group.
        fine_share: share of interactions that come of fine groups.
        noise: share that come of the whole catalogue.
        per_fine: interactions of a user for each of their fine groups, which lie in their coarse ones.
        per_coarse: for each of their coarse groups.
    """

    fine: int
    coarse: int
    fine_share: float
    noise: float
    per_fine: float
    per_coarse: float


@dataclass(frozen=True)
class Laws:
    """Degree laws of users and items, and the groups of the items."""

    user: Tail
    item: Tail
    groups: Groups


GOWALLA = Laws(Tail(0.26, 2.5, most=30), Tail(0.40, 1.85), Groups(25, 200, 0.35, 0.1, 8, 100))
GOODBOOKS = Laws(Tail(0.24, 4.0, most=10), Tail(0.0, 4.0, "weibull"), Groups(20, 400, 0.55, 0.1, 8, 60))
AMAZON_BOOK = Laws(Tail(0.2, 2.4, most=190), Tail(0.3, 1.95), GOWALLA.groups)

ROUNDS, CHUNK = 20, 2_000_000
"""Draws until everybody has their distinct items, the last half of them from everywhere; interactions at once."""


def grouped_pairs(n_users: int, n_items: int, n_pairs: int, laws: Laws, seed: int) -> Pairs:
    """Distinct pairs, sorted by user and item; users and items are in no order of degree.

    Args:
        n_users: rows.
        n_items: columns.
        n_pairs: how many; a few may be missing where a user has nearly everything.
        laws: of degrees and groups.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    weights = rng.permutation(laws.item.degrees(n_items, n_pairs))
    degrees = rng.permutation(_rounded(np.minimum(laws.user.degrees(n_users, n_pairs), n_items / 4), n_pairs))
    tree = _Tree(weights, laws.groups, rng)
    users, items = np.empty(n_pairs, np.int32), np.empty(n_pairs, np.int32)
    ends = np.cumsum(degrees)
    filled = first = 0
    while first < n_users:
        # as many users as have CHUNK interactions, one at least
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
        keys = _chunk(degrees[first:last], tree, laws.groups, rng)
        users[filled : filled + keys.size] = first + keys // n_items
        items[filled : filled + keys.size] = keys % n_items
        filled += keys.size
        first = last
    return users[:filled], items[:filled]


def held_out(pairs: Pairs, n_users: int, n_asked: int, share: float, seed: int) -> dict[str, npt.NDArray[np.int32]]:
    """``train_user``, ``train_item``, ``test_user``, ``test_item``: of some users a share of their items is held out.

    Args:
        pairs: sorted by user.
        n_users: rows.
        n_asked: users with test rows, drawn uniformly among those with two items at least.
        share: of each such user's items, one at least, and never all.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    user, item = pairs
    degrees = np.bincount(user, minlength=n_users)
    starts = np.cumsum(degrees) - degrees
    able = np.flatnonzero(degrees >= 2)
    asked = np.sort(rng.choice(able, min(n_asked, able.size), replace=False))
    rows = np.repeat(starts[asked] - (np.cumsum(degrees[asked]) - degrees[asked]), degrees[asked])
    rows += np.arange(rows.size)  # of the asked users, user by user
    order = np.lexsort((rng.random(rows.size), user[rows]))  # shuffled within each user
    place = np.arange(rows.size) - np.repeat(np.cumsum(degrees[asked]) - degrees[asked], degrees[asked])
    wanted = np.maximum(1, (share * degrees[asked]).astype(np.int64))
    test = np.zeros(user.size, bool)
    test[rows[order[place < np.repeat(wanted, degrees[asked])]]] = True
    return {
        "train_user": user[~test], "train_item": item[~test], "test_user": user[test], "test_item": item[test],
    }  # fmt: skip


class _Tree:
    """Items in fine groups in coarse groups, drawn by weight: all are intervals of [0, 1).

    Args:
        weights: of the items, float64 [n_items].
        groups: how large they are.
        rng: puts the items into groups.
    """

    def __init__(self, weights: Floats, groups: Groups, rng: np.random.Generator) -> None:
        n_fine, n_coarse = (max(1, weights.size // size) for size in (groups.fine, groups.coarse))
        group = rng.integers(0, n_fine, weights.size)
        self.items: Ints = np.argsort(group, kind="stable")  # group by group
        self.at = np.concatenate([[0.0], np.cumsum(weights[self.items])])
        self.at /= self.at[-1]
        ends = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_fine))])
        self.fine: Floats = self.at[ends]
        self.coarse: Floats = self.at[ends[np.linspace(0, n_fine, n_coarse + 1).astype(np.int64)]]

    def items_at(self, where: Floats) -> Ints:
        """The items that numbers of [0, 1) fall into."""
        return self.items[_interval(self.at, where)]


def _interval(edges: Floats, where: Floats) -> Ints:
    """Which interval between sorted edges each number is in."""
    return np.clip(np.searchsorted(edges, where, "right") - 1, 0, edges.size - 2)


def _within(edges: Floats, interval: Ints, share: Floats) -> Floats:
    """Numbers inside of intervals, at a share of their length."""
    return edges[interval] + share * (edges[interval + 1] - edges[interval])


def _chunk(degrees: Ints, tree: _Tree, groups: Groups, rng: np.random.Generator) -> Ints:
    """Keys ``user * n_items + item`` of some users, numbered from 0, sorted."""
    n_items = tree.items.size
    n_coarse, n_fine = (np.ceil(degrees / each).astype(np.int64) for each in (groups.per_coarse, groups.per_fine))
    first_coarse, first_fine = np.cumsum(n_coarse) - n_coarse, np.cumsum(n_fine) - n_fine
    coarse = _interval(tree.coarse, rng.random(int(n_coarse.sum())))
    owner = np.repeat(np.arange(degrees.size), n_fine)
    chosen = coarse[first_coarse[owner] + (n_coarse[owner] * rng.random(owner.size)).astype(np.int64)]
    fine = _interval(tree.fine, _within(tree.coarse, chosen, rng.random(owner.size)))
    keys = np.empty(0, np.int64)
    missing = degrees
    for number in range(ROUNDS):
        user = np.repeat(np.arange(degrees.size), missing)
        if not user.size:
            break
        where, source, pick = rng.random(user.size), rng.random(user.size), rng.random(user.size)
        if number >= ROUNDS // 2:
            source[:] = 1  # whoever has used up their groups
        # the first groups of a user have most of their interactions
        rows = np.flatnonzero(source < groups.fine_share)
        slot = first_fine[user[rows]] + (n_fine[user[rows]] * pick[rows] ** 1.5).astype(np.int64)
        where[rows] = _within(tree.fine, fine[slot], where[rows])
        rows = np.flatnonzero((source >= groups.fine_share) & (source < 1 - groups.noise))
        slot = first_coarse[user[rows]] + (n_coarse[user[rows]] * pick[rows] ** 1.5).astype(np.int64)
        where[rows] = _within(tree.coarse, coarse[slot], where[rows])
        keys = np.concatenate([keys, user * n_items + tree.items_at(where)])
        keys.sort()  # np.unique hashes, which takes many times as long
        keys = keys[np.diff(keys, prepend=-1) > 0]
        missing = degrees - np.bincount(keys // n_items, minlength=degrees.size)
    return keys


def _rounded(expected: Floats, total: int) -> Ints:
    """Whole numbers, 1 at least, near the expected ones and with the given sum where every one is at least 1."""
    ends = np.round(np.cumsum(expected) * (total / expected.sum())).astype(np.int64)
    degrees: Ints = np.maximum(1, np.diff(ends, prepend=0))
    return degrees
