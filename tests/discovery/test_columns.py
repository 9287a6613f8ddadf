"""What columns look like: kinds, numbers and times in many notations, lists and paths."""

from datetime import datetime

import polars as pl
import pytest

from relrank.discovery.columns import Column
from relrank.discovery.values import list_separator, path_mark, spellings


def column(values, name="c"):
    return Column("t", name, pl.Series(name, values))


@pytest.mark.parametrize(
    ("values", "name", "kind"),
    [
        ([None, "", "n/a"], "c", "empty"),
        (["1", "2", "7.5"], "c", "number"),
        (["007", "008", "123"], "c", "value"),
        (["€ 1.50", "€ 2,000.00", "€ 3.25"], "price", "number"),
        (["1.234,50", "2,00", "17,25"], "Preis", "number"),
        (["yes", "no", "yes"], "c", "flag"),
        (["a@b.example", "c@d.example"], "c", "email"),
        (["https://a.example/1", "https://a.example/2"], "c", "url"),
        (["2024-01-05", "2024-01-06T10:00"], "c", "time"),
        (["31.12.2023 10:00", "01.02.2024 11:30"], "c", "time"),
        (["1700000000", "1700086400"], "ts", "time"),
        (["1700000000", "1700000001"], "customer_id", "number"),
        (['["a", "b"]', "[]", "['c']"], "c", "list"),
        ([["a"], ["b", "c"]], "c", "list"),
        (["a soft and warm blanket for the winter", "one strong round table of dark wood"], "c", "text"),
        (["red", "green", "red"], "c", "value"),
    ],
)
def test_the_kind_of_a_column(values, name, kind):
    assert column(values, name).kind == kind


def test_numbers_in_local_notations():
    assert column(["1.234,50", "2,00"]).numbers.to_list() == [1234.5, 2.0]
    assert column(["€ 2,000.00", "€ 3.25"]).numbers.to_list() == [2000.0, 3.25]
    assert not column(["1,5", "2,5"]).numbers_are_plain
    assert column(["1.5", "?"]).numbers.to_list() == [1.5, None]


def test_times_in_other_notations_than_iso():
    german = column(["31.12.2023 10:00", "01.02.2024 11:30"])
    assert german.times.to_list() == [datetime(2023, 12, 31, 10), datetime(2024, 2, 1, 11, 30)]
    assert not german.times_are_plain
    assert column(["2023-12-31", "2024-02-01"]).times_are_plain
    # the second part exceeds 12 in one row, so the month is the first
    assert column(["12/31/2023", "01/02/2024"]).times.to_list() == [datetime(2023, 12, 31), datetime(2024, 1, 2)]


def test_keys_in_one_notation():
    assert column(["7.0", "12.0", None]).text.to_list() == ["7", "12", None]
    assert column([7.0, 12.0, None]).text.to_list() == ["7", "12", None]
    assert column(["007", " 7 "]).text.to_list() == ["007", "7"]


def test_lists_of_json_and_of_python_and_of_objects():
    lists = column(['["a", "b"]', "['c', 'd']", '[{"id": 1, "name": "x"}]', "[]"]).json_lists
    assert lists.to_list() == [["a", "b"], ["c", "d"], ["x"], []]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["a|b", "b|c", "a", "c|a"], "|"),
        (["Drama, Comedy", "Comedy", "Comedy, Drama", "Horror, Drama"], ","),
        (["a; b; c", "b; a", "c"], ";"),
        (["Berlin, Germany", "Paris, France", "Rome, Italy", "Bonn, Germany"], None),
        (["Rowling, Joanne", "King, Stephen", "King, Tabitha", "Adams, Stephen"], None),
        (["red", "green", "red"], None),
    ],
)
def test_the_separator_of_lists(cells, separator):
    assert list_separator(column(cells * 5)) == separator


@pytest.mark.parametrize(
    ("cells", "mark"),
    [
        (["A > B > C", "A > B > D", "A > E", "F > G", "F > H"], ">"),
        (["A/B", "A/C", "A/D", "F/G"], "/"),
        (["a|b", "b|c", "a|c", "c|a"], None),
        (["Berlin", "Paris"], None),
    ],
)
def test_the_mark_of_paths(cells, mark):
    assert path_mark(column(cells * 5)) == mark


def test_spellings_are_counted_once_per_value():
    assert spellings(pl.Series(["Red", "red", "RED ", "blue", None])) == 2
