"""Conditions on columns of numbers match exactly, also for large numbers."""

import polars as pl
import pytest

from relrank.serve.candidate_filters import _equal

LARGE = 2**53


@pytest.mark.parametrize(
    ("values", "asked", "expected"),
    [
        ([LARGE + 1, LARGE, 1], LARGE + 1, [True, False, False]),
        ([LARGE + 1, LARGE, 1], str(LARGE), [False, True, False]),
        ([1, 2, 3], "2.0", [False, True, False]),
        ([1, 2, 3], 2.5, [False, False, False]),
        ([1.5, 2.0, 3.0], "1.5", [True, False, False]),
        ([1.5, 2.0, 3.0], 2, [False, True, False]),
    ],
)
def test_numbers_are_equal_where_they_are(values, asked, expected):
    assert _equal(pl.Series("n", values), asked, "with, n").to_list() == expected
