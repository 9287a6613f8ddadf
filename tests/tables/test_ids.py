import polars as pl
import pytest

from relrank.tables.ids import IdMap


@pytest.mark.parametrize("block", [1, 2, 100])
def test_rows_are_those_of_the_keys_however_many_are_looked_up_at_a_time(monkeypatch, block):
    monkeypatch.setattr("relrank.tables.ids._BLOCK", block)
    ids = IdMap("user", pl.Series(["c", "a", "b"]))
    assert ids.find(pl.Series(["b", "x", "c", "b", None, "a"])).tolist() == [2, -1, 0, 2, -1, 1]
    assert ids.find(pl.Series([], dtype=pl.String)).tolist() == []
