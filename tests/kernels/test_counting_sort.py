import numpy as np
import pytest

from relrank.kernels import counting_sort
from relrank.kernels.counting_sort import ascending, repeated, stable_argsort, stable_argsort_pairs


def pairs(seed, size=400, shape=(30, 20)):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, n, size).astype(np.int32) for n in shape)


@pytest.mark.parametrize("sparse", [16, 10**9])
def test_pairs_are_ordered_as_a_stable_sort_orders_them(monkeypatch, sparse):
    """By counting and, where the numbers are many beside the pairs, by comparing."""
    monkeypatch.setattr(counting_sort, "_SPARSE", sparse)
    for seed in range(5):
        rows, cols = pairs(seed)
        assert (stable_argsort_pairs(rows, cols, (30, 20)) == np.lexsort((cols, rows))).all()
        assert (stable_argsort_pairs(rows, cols, (10**6, 20)) == np.lexsort((cols, rows))).all()
    assert stable_argsort_pairs(rows[:0], cols[:0], (0, 0)).size == 0
    assert stable_argsort_pairs(rows[:1], cols[:1], (30, 20)).tolist() == [0]


def test_equal_keys_stay_in_the_order_that_is_given():
    rows, _ = pairs(0)
    first = np.random.default_rng(1).permutation(rows.size)
    ordered = stable_argsort(rows, 30, first)
    assert ordered.dtype == np.int32
    assert (ordered == first[np.argsort(rows[first], kind="stable")]).all()
    assert (stable_argsort(rows, 30) == np.argsort(rows, kind="stable")).all()


def test_ascending_pairs_and_those_that_are_there_twice():
    one = np.array([0, 0, 1, 1], np.int32)
    assert ascending(one, np.array([1, 2, 0, 0], np.int32))
    assert not ascending(one, np.array([2, 1, 0, 0], np.int32))
    assert not ascending(one[::-1].copy(), np.array([0, 1, 2, 3], np.int32))
    assert ascending(one[:0], one[:0])
    assert repeated(one, np.array([1, 2, 0, 0], np.int32)).tolist() == [False, False, False, True]
    assert repeated(one, np.array([1, 1, 1, 1], np.int32)).tolist() == [False, True, False, True]
    assert repeated(one[:0], one[:0]).tolist() == []
