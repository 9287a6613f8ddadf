"""Splits of interactions into training, validation and test rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from relrank.kernels.counting_sort import Order, stable_argsort, stable_argsort_pairs
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.jit import njit
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice

Part = Literal["valid", "test"]

Parts = npt.NDArray[np.int8]
TRAIN, VALID, TEST, DROPPED = range(4)
"""Parts of rows."""
_BLOCK = 1 << 22
"""Random numbers per draw."""


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Interactions by row index, in time order inside a user (file order without times).

    Attributes:
        user: int32 [n], user rows.
        item: int32 [n], item rows.
        rating: float32 [n], or None.
        time: int64 [n], or None.
        ticks: of ``time`` per second; 0 if times are an order without a unit.
        count: int32 [n], how often each (user, item) occurred before the held-out rows; None if each occurs once.
    """

    user: Int32
    item: Int32
    rating: Float32 | None = None
    time: Int64 | None = None
    ticks: int = 1
    count: Int32 | None = None

    def __len__(self) -> int:
        return self.user.size

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Interactions:
        """Some rows, given their numbers or a mask."""
        return Interactions(
            self.user[rows],
            self.item[rows],
            None if self.rating is None else self.rating[rows],
            None if self.time is None else self.time[rows],
            self.ticks,
            None if self.count is None else self.count[rows],
        )

    def then(self, more: Interactions) -> Interactions:
        """These rows, followed by others with the same columns."""
        return Interactions(
            np.concatenate([self.user, more.user]),
            np.concatenate([self.item, more.item]),
            None if self.rating is None or more.rating is None else np.concatenate([self.rating, more.rating]),
            None if self.time is None or more.time is None else np.concatenate([self.time, more.time]),
            self.ticks,
            None if self.count is None or more.count is None else np.concatenate([self.count, more.count]),
        )

    def by_user(self) -> Order:
        """The stable order by user, then by time if there are times."""
        earlier = None if self.time is None else np.argsort(self.time, kind="stable")
        return stable_argsort(self.user, int(self.user.max(initial=-1)) + 1, earlier)

    def csr(self, n_users: int, n_items: int) -> Csr:
        """Users by items, all values 1."""
        return Csr.from_pairs(self.user, self.item, (n_users, n_items))


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One split of a data set under one protocol.

    Attributes:
        users: user keys in row order.
        items: item keys in row order: the full catalogue, all candidates but the last ``unseen`` ones.
        train: training rows, the only rows a graph may be built from.
        valid: validation rows; may be empty.
        test: test rows.
        protocol: name of the protocol and seed, e.g. ``"goodbooks-loo, seed 0"``.
        fingerprint: sha256 of the kept rows and of each part.
        notices: counts of rows dropped by the filters and the split.
        ordered: whether the rows of a user are in time order, and not merely in file order.
        successive: whether a user's validation rows follow their training rows in time, and the test rows those, so
            that the validation rows end the history at test.
        new_items_only: whether only items without training rows are candidates.
        unseen: number of items without interactions, the last rows of the catalogue. They are no candidates in the
            evaluation; a fitted model may recommend them.
        train_until: the end of training in a temporal split, or None.
        valid_until: the end of validation in a temporal split with a cut before it, or None.
        repeats: training rows and the repeats that are counted with them, each user's in time order; None if every
            (user, item) occurs once.
        random: whether each user's held-out rows, or the held-out items, were drawn at random.
    """

    users: IdMap
    items: IdMap
    train: Interactions
    valid: Interactions
    test: Interactions
    protocol: str
    fingerprint: str
    notices: tuple[Notice, ...] = ()
    ordered: bool = False
    successive: bool = False
    new_items_only: bool = False
    unseen: int = 0
    train_until: int | None = None
    valid_until: int | None = None
    random: bool = False
    repeats: Interactions | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(users, items)."""
        return len(self.users), len(self.items)

    @property
    def events(self) -> Interactions:
        """Training rows with repeats, each user's in time order."""
        return self.train if self.repeats is None else self.repeats

    def truth(self, part: Part) -> Csr:
        """Relevant items, users by items."""
        rows = self.valid if part == "valid" else self.test
        return rows.csr(*self.shape)

    def seen(self, part: Part) -> Csr:
        """Seen items, users by items: training items at validation, training and validation items at test."""
        if part == "valid":
            return self.train.csr(*self.shape)
        return self.train.then(self.valid).csr(*self.shape)

    def closed(self) -> Int32:
        """Items that are no candidates, ascending: those without rows, and trained ones under ``new_items_only``."""
        trained = np.unique(self.train.item) if self.new_items_only else np.zeros(0, np.int32)
        n_items = len(self.items)
        return np.concatenate([trained, np.arange(n_items - self.unseen, n_items, dtype=np.int32)])

    def refit(self) -> Split:
        """The split with the validation rows in training, to refit a selected model.

        The fingerprint is the same, as are test rows, seen items at test and candidates.
        """

        def with_valid(rows: Interactions) -> Interactions:
            both = rows.then(self.valid)
            return both.take(both.by_user())  # at tied times, validation rows follow training rows

        return replace(
            self,
            train=with_valid(self.train),
            valid=self.valid.take(np.zeros(0, np.int64)),
            ordered=self.ordered_with_valid,
            train_until=self.train_until if self.valid_until is None else self.valid_until,
            repeats=None if self.repeats is None else with_valid(self.repeats),
        )

    @property
    def ordered_with_valid(self) -> bool:
        """Whether training and validation rows can be merged in time order."""
        return self.ordered and (self.successive or self.train.time is not None)


def first_of_pairs(rows: Interactions) -> tuple[npt.NDArray[np.bool_], Int64]:
    """Which rows are the first of their (user, item), bool [n]; the number of the first row of each, int64 [n].

    Args:
        rows: sorted by user and in time order inside a user.
    """
    pairs = rows.user.astype(np.int64) * (int(rows.item.max(initial=-1)) + 1) + rows.item
    _, at, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    first = np.zeros(len(rows), np.bool_)
    first[at] = True
    return first, (np.cumsum(first) - 1)[at[inverse]]


def random_leave_one_out(rows: Interactions, rng: np.random.Generator) -> Parts:
    """In a random order of each user's rows, the first is test, the second validation, the rest training.

    Args:
        rows: in any order, on which the draw does not depend.
        rng: of the random order.
    """
    n_users = int(rows.user.max(initial=-1)) + 1
    order = stable_argsort_pairs(rows.user, rows.item, (n_users, int(rows.item.max(initial=-1)) + 1))
    least, held = np.full((n_users, 2), np.inf), np.full((n_users, 2), -1, np.int64)
    for start in range(0, order.size, _BLOCK):
        block = order[start : start + _BLOCK]
        _two_least(rows.user, block, rng.random(block.size), least, held)
    parts = np.full(len(rows), TRAIN, np.int8)
    for column, part in ((0, TEST), (1, VALID)):
        parts[held[held[:, column] >= 0, column]] = part
    return parts


def random_ratio(
    rows: Interactions, test_share: float, valid_share: float, rng: np.random.Generator, *, round_up: bool = False
) -> Parts:
    """In a random order of each user's rows, a share is test, the next share validation, the rest training.

    Rounded down, as RecBole's ratio split of each user does: of n rows, ⌊share · n⌋ are test and validation, and a
    part that gets none that way takes one from training (test first) where training keeps at least one. Rounded up:
    ⌈share · n⌉ of each, as scikit-learn's ``train_test_split`` counts test rows; validation, then test give way where
    training would keep none. Every user keeps at least one training row.

    Args:
        rows: in any order, on which the draw does not depend.
        test_share: in (0, 1).
        valid_share: in (0, 1); both together are below 1.
        rng: of the random order.
        round_up: whether to round up.
    """
    n = np.bincount(rows.user)
    test, valid = _rounded(test_share * n, round_up), _rounded(valid_share * n, round_up)
    if not round_up:
        for part in (test, valid):
            part += (part == 0) & (n - test - valid > 1)
    test = np.minimum(test, np.maximum(n - 1, 0))
    valid = np.minimum(valid, np.maximum(n - 1, 0) - test)
    position = _drawn_position(rows.user, rows.item, rng)
    parts = np.full(len(rows), TRAIN, np.int8)
    parts[position < (test + valid)[rows.user]] = VALID
    parts[position < test[rows.user]] = TEST
    return parts


def _rounded(shares: npt.NDArray[np.floating], up: bool) -> Int64:
    """Whole numbers of rows; products that miss a whole number by a rounding error count as that number."""
    whole = np.ceil(shares - 1e-9) if up else np.floor(shares + 1e-9)
    return np.asarray(whole, np.int64)


def last_leave_one_out(rows: Interactions) -> Parts:
    """Of each user's rows, the last is test, the one before it validation, the rest training.

    Args:
        rows: sorted by user and in time order inside a user.
    """
    parts = np.full(len(rows), TRAIN, np.int8)
    last = np.ones(len(rows), np.bool_)
    np.not_equal(rows.user[1:], rows.user[:-1], out=last[:-1])
    parts[last] = TEST
    parts[:-1][last[1:] & ~last[:-1]] = VALID
    return parts


def temporal(rows: Interactions, cut: int, valid_cut: int | None) -> Parts:
    """One cut in time for all users: training (−∞, valid_cut], validation (valid_cut, cut], test (cut, ∞).

    Args:
        rows: with times.
        cut: last tick before the test part.
        valid_cut: last tick before the validation part; None for no validation part.

    Raises:
        ValueError: rows have no times.
    """
    if rows.time is None:
        raise ValueError("a temporal split of rows without times")
    parts = np.where(rows.time > cut, TEST, TRAIN).astype(np.int8)
    if valid_cut is not None:
        parts[(rows.time > valid_cut) & (rows.time <= cut)] = VALID
    return parts


def cold_items(rows: Interactions, n_items: int, share: float, rng: np.random.Generator) -> Parts:
    """All rows of some items are test, those of as many others validation: ⌊share · n⌋ items each, drawn at random.

    Args:
        rows: in any order.
        n_items: size of the catalogue.
        share: in (0, 0.5).
        rng: of the draw.
    """
    n = int(share * n_items + 1e-9)
    order = rng.permutation(n_items)
    part_of = np.full(n_items, TRAIN, np.int8)
    part_of[order[:n]], part_of[order[n : 2 * n]] = TEST, VALID
    return part_of[rows.item]


def hold_out(rows: Interactions, parts: Parts, share: float, rng: np.random.Generator) -> Parts:
    """A share of each user's training rows becomes validation: ⌊share · n⌋ of n, drawn at random.

    Args:
        rows: in any order, on which the draw does not depend.
        parts: without a validation part.
        share: in (0, 1).
        rng: of the draw.
    """
    train = np.flatnonzero(parts == TRAIN)
    user = rows.user[train]
    position = _drawn_position(user, rows.item[train], rng)
    result = parts.copy()
    result[train[position < _rounded(share * np.bincount(user), up=False)[user]]] = VALID
    return result


def tied_last(rows: Interactions) -> int:
    """Number of users whose last two times are equal; rows are sorted by user and time; 0 without times."""
    if rows.time is None:
        return 0
    last = np.flatnonzero(np.r_[rows.user[1:] != rows.user[:-1], True])
    last = last[last > 0]
    return int(((rows.user[last] == rows.user[last - 1]) & (rows.time[last] == rows.time[last - 1])).sum())


def _drawn_position(user: Int32, item: Int32, rng: np.random.Generator) -> Int64:
    """The position of each row in a random order of its user's rows, drawn for the (user, item) pairs in order."""
    key = np.empty(user.size)
    key[np.lexsort((item, user))] = rng.random(user.size)
    return _position(user, np.lexsort((key, user)))


def _position(user: Int32, order: npt.NDArray[np.integer]) -> Int64:
    """The position of each row among the rows of its user, from 0, in an ``order`` that is sorted by user."""
    ordered = user[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if order.size else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, order.size])
    position = np.empty(order.size, np.int64)
    position[order] = np.arange(order.size) - np.repeat(starts, lengths)
    return position


@njit(nogil=True)
def _two_least(user, block, key, least, rows):  # type: ignore[no-untyped-def]
    """Update every user's two least keys and their rows with a ``block`` of rows; ties by row."""
    for i in range(block.size):
        row = block[i]
        u = user[row]
        if key[i] < least[u, 0] or (key[i] == least[u, 0] and row < rows[u, 0]):
            least[u, 1], rows[u, 1] = least[u, 0], rows[u, 0]
            least[u, 0], rows[u, 0] = key[i], row
        elif key[i] < least[u, 1] or (key[i] == least[u, 1] and row < rows[u, 1]):
            least[u, 1], rows[u, 1] = key[i], row
