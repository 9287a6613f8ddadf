"""The k-core against a naive loop."""

import numpy as np
import pytest

from relrank.tables.k_core import core


def naive(pairs: set[tuple[int, int]], min_user_rows: int, min_item_rows: int) -> set[tuple[int, int]]:
    while True:
        for u, i in sorted(pairs):
            if sum(a == u for a, _ in pairs) < min_user_rows or sum(b == i for _, b in pairs) < min_item_rows:
                pairs = pairs - {(u, i)}
                break
        else:
            return pairs


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least", [(2, 2), (3, 2), (0, 3), (4, 4)])
def test_core_equals_dropping_one_row_at_a_time(seed: int, least: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, 9, (40, 2))})
    user, item = np.array(pairs, np.int32).T
    kept = core(user, item, *least)
    assert {p for p, k in zip(pairs, kept, strict=True) if k} == naive(set(pairs), *least)


def test_core_needs_more_than_one_pass() -> None:
    # a chain: dropping user 2 (one row) makes item 1 rare, which makes user 1 rare, ...
    user = np.array([0, 0, 1, 1, 2], np.int32)
    item = np.array([0, 2, 0, 1, 1], np.int32)
    assert not core(user, item, 2, 2).any()


def test_core_of_nothing() -> None:
    assert core(np.zeros(0, np.int32), np.zeros(0, np.int32), 5, 5).size == 0
