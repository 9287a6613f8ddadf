"""Cuts, on small rows worked by hand, and their randomness."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from relrank.tables.ids import IdMap
from relrank.tables.split import (
    TEST,
    TRAIN,
    VALID,
    Interactions,
    Split,
    cold_items,
    hold_out,
    last_leave_one_out,
    random_leave_one_out,
    random_ratio,
    temporal,
    tied_last,
)


def rows(user: list[int], item: list[int] | None = None, time: list[int] | None = None) -> Interactions:
    items = list(range(len(user))) if item is None else item
    return Interactions(
        np.array(user, np.int32),
        np.array(items, np.int32),
        time=None if time is None else np.array(time, np.int64),
    )


def test_random_leave_one_out_takes_one_of_each_per_user() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 50)
    data = rows(np.repeat(np.arange(50), sizes).tolist())
    parts = random_leave_one_out(data, rng)
    for user, size in enumerate(sizes):
        own = parts[data.user == user]
        assert (own == TEST).sum() == 1
        assert (own == VALID).sum() == min(1, size - 1)
        assert (own == TRAIN).sum() == max(0, size - 2)


def test_random_leave_one_out_is_uniform_over_pairs() -> None:
    data = rows([0, 0, 0, 0])
    counts = np.zeros((4, 4))
    for seed in range(3000):
        parts = random_leave_one_out(data, np.random.default_rng(seed))
        counts[(parts == TEST).argmax(), (parts == VALID).argmax()] += 1
    off = counts[~np.eye(4, dtype=bool)]
    assert np.diag(counts).sum() == 0
    assert ((off - 250) ** 2 / 250).sum() < 31.3  # chi-square, 11 degrees of freedom, p = .001


def test_random_draws_do_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(1)
    data = rows(rng.integers(0, 6, 60).tolist())
    order = rng.permutation(60)
    for draw in (
        lambda d: random_leave_one_out(d, np.random.default_rng(3)),
        lambda d: random_ratio(d, 0.2, 0.1, np.random.default_rng(3)),
        lambda d: hold_out(d, np.zeros(60, np.int8), 0.3, np.random.default_rng(3)),
    ):
        assert (draw(data)[order] == draw(data.take(order))).all()
        assert len(set(draw(data).tolist())) > 1


def test_random_leave_one_out_orders_each_user_by_numbers_drawn_for_the_pairs(monkeypatch) -> None:
    """Whatever the number of rows that numbers are drawn for at a time."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        keys = rng.permutation(12 * 30)[:150]
        data = rows((keys // 30).tolist(), (keys % 30).tolist())
        key = np.empty(keys.size)
        key[np.argsort(keys)] = np.random.default_rng(3).random(keys.size)
        expected = np.full(keys.size, TRAIN)
        for user in np.unique(data.user):
            own = np.flatnonzero(data.user == user)
            first = own[np.argsort(key[own])]
            expected[first[:1]], expected[first[1:2]] = TEST, VALID
        for block in (1, 7, 1000):
            monkeypatch.setattr("relrank.tables.split._BLOCK", block)
            assert (random_leave_one_out(data, np.random.default_rng(3)) == expected).all()


def test_rows_go_by_user_and_then_by_time_and_ties_stay() -> None:
    rng = np.random.default_rng(0)
    user, time = rng.integers(0, 9, 80).tolist(), rng.integers(0, 5, 80).tolist()
    timed, plain = rows(user, time=time), rows(user)
    assert (timed.by_user() == np.lexsort((timed.time, timed.user))).all()
    assert (plain.by_user() == np.argsort(plain.user, kind="stable")).all()
    assert rows([]).by_user().size == 0


def test_last_leave_one_out() -> None:
    parts = last_leave_one_out(rows([0, 0, 0, 1, 1, 2, 3, 3, 3, 3]))
    assert parts.tolist() == [TRAIN, VALID, TEST, VALID, TEST, TEST, TRAIN, TRAIN, VALID, TEST]


def test_temporal_intervals_are_closed_on_the_right() -> None:
    data = rows([0] * 6, time=[1, 10, 11, 20, 21, 30])
    assert temporal(data, 20, 10).tolist() == [TRAIN, TRAIN, VALID, VALID, TEST, TEST]
    assert temporal(data, 20, None).tolist() == [TRAIN] * 4 + [TEST] * 2
    with pytest.raises(ValueError, match="without times"):
        temporal(rows([0]), 20, None)


def test_hold_out_takes_the_share_of_each_users_training_rows() -> None:
    user = [0] * 25 + [1] * 9 + [2] * 10
    parts = np.zeros(44, np.int8)
    parts[:5] = TEST
    held = hold_out(rows(user), parts, 0.1, np.random.default_rng(0))
    assert (held[:5] == TEST).all()
    assert [int((held[np.array(user) == u] == VALID).sum()) for u in range(3)] == [2, 0, 1]
    assert (parts == VALID).sum() == 0  # the caller's cut is left alone


def test_tied_last_counts_users_whose_last_two_times_are_equal() -> None:
    assert tied_last(rows([0, 0, 0, 1, 1, 2, 3, 3], time=[1, 5, 5, 1, 2, 5, 7, 7])) == 2
    assert tied_last(rows([0, 1], time=[5, 5])) == 0  # equal times of two users are no tie
    assert tied_last(rows([0, 0])) == 0


@pytest.mark.parametrize(
    ("successive", "timed", "kept"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_refitted_rows_are_in_order_only_where_the_order_is_known(successive, timed, kept):
    """Validation rows drawn at random from rows without times have no place among the training rows."""
    ids = IdMap("user", pl.Series([0])), IdMap("item", pl.Series(range(5)))

    def rows(items, times):
        n = len(items)
        time = np.array(times, np.int64) if timed else None
        return Interactions(np.zeros(n, np.int32), np.array(items, np.int32), None, time)

    split = Split(
        *ids,
        rows([0, 1, 3], [0, 1, 3]),
        rows([2], [2]),
        rows([4], [4]),
        "p",
        "f",
        ordered=True,
        successive=successive,
    )
    refit = split.refit()
    assert refit.ordered is kept
    assert refit.train.item.tolist() == ([0, 1, 2, 3] if timed else [0, 1, 3, 2])


def test_cold_items_take_all_rows_of_some_items() -> None:
    given = rows(np.repeat(np.arange(30), 7).tolist(), (np.arange(210) % 21).tolist())
    parts = cold_items(given, 21, 0.1, np.random.default_rng(0))
    of_item = [set(parts[given.item == i].tolist()) for i in range(21)]
    assert all(len(p) == 1 for p in of_item)
    assert sorted(p.pop() for p in of_item) == [TRAIN] * 17 + [VALID] * 2 + [TEST] * 2
    other = cold_items(given, 21, 0.1, np.random.default_rng(1))
    assert (other != parts).any()
    order = np.random.default_rng(2).permutation(210)
    assert (cold_items(given.take(order), 21, 0.1, np.random.default_rng(0)) == parts[order]).all()


def ratio_counts(n: int, test: float, valid: float) -> list[int]:
    """Training, validation and test rows of a user, as RecBole counts them: in plain loops."""
    counts = [0, int(Fraction(str(valid)) * n), int(Fraction(str(test)) * n)]
    counts[0] = n - sum(counts)
    for part, share in ((2, test), (1, valid)):
        if counts[0] <= 1:
            break
        if 0 < Fraction(str(share)) * n < 1:
            counts[part] += 1
            counts[0] -= 1
    return counts


def parts_by_user(user: list[int], parts: np.ndarray) -> list[list[int]]:
    return [[int((parts[np.array(user) == u] == part).sum()) for part in (TRAIN, VALID, TEST)] for u in set(user)]


def test_random_ratio_counts_rows_as_recbole_does() -> None:
    by_hand = {1: [1, 0, 0], 2: [1, 0, 1], 3: [1, 1, 1], 9: [7, 1, 1], 10: [8, 1, 1], 19: [17, 1, 1], 20: [16, 2, 2]}
    assert {n: ratio_counts(n, 0.1, 0.1) for n in by_hand} == by_hand
    user = [n for n in range(1, 61) for _ in range(n)]
    for test, valid in ((0.1, 0.1), (0.2, 0.1), (0.3, 0.3), (0.01, 0.9), (0.7, 0.2)):
        parts = random_ratio(rows(user), test, valid, np.random.default_rng(0))
        assert parts_by_user(user, parts) == [ratio_counts(n, test, valid) for n in range(1, 61)]


def test_random_ratio_rounded_up_leaves_a_training_row() -> None:
    user = [n for n in range(1, 41) for _ in range(n)]
    counts = parts_by_user(user, random_ratio(rows(user), 0.2, 0.08, np.random.default_rng(0), round_up=True))
    assert counts[:6] == [[1, 0, 0], [1, 0, 1], [1, 1, 1], [2, 1, 1], [3, 1, 1], [3, 1, 2]]
    assert [test for _, _, test in counts[1:]] == [-(-n // 5) for n in range(2, 41)]
    assert [valid for _, valid, _ in counts[2:]] == [-(-2 * n // 25) for n in range(3, 41)]


@pytest.mark.parametrize("round_up", [False, True])
def test_every_user_keeps_a_training_row_whatever_the_shares(round_up: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        test, valid = rng.dirichlet([1, 1, 1])[:2]
        user = np.repeat(np.arange(30), rng.integers(0, 12, 30)).tolist()
        parts = random_ratio(rows(user), float(test), float(valid), rng, round_up=round_up)
        assert all(train >= 1 for train, _, _ in parts_by_user(user, parts))


def test_random_ratio_draws_every_row_equally_often() -> None:
    draws = [random_ratio(rows([0] * 10), 0.2, 0.1, np.random.default_rng(seed)) for seed in range(3000)]
    for part, expected in ((TEST, 600), (VALID, 300)):
        counts = (np.array(draws) == part).sum(0)
        assert ((counts - expected) ** 2 / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, p = .001
