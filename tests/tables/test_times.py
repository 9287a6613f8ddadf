"""Times mean what they say: ISO text to the nanosecond, numbers by their range, and nothing that is not plausible."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.interactions import build_interactions
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.tables.config import check
from relrank.tables.notices import Notice
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import Tables
from relrank.tables.times import NS_PER_SECOND, as_times

NOW = 1_726_825_285
"""2024-09-20."""


def nanoseconds(*values: object) -> list[int]:
    return as_times(pl.Series("t", values), "x.csv").cast(pl.Int64).to_list()


@pytest.mark.parametrize(
    "text",
    [
        "2017-09-01",
        "2017-09-01T12:30:00",
        "2017-09-01 12:30",
        "2017-09-01T12:30:00.25Z",
        "2017-09-01T12:30:00.123456",
        "2017-09-01T12:30:00+02:00",
        "2017-09-01 12:30:00.700000+00:00",
        "2017-09-01T12:30:00-0530",
        "1969-12-31T23:59:59",
    ],
)
def test_iso_times_agree_with_the_standard_library(text: str) -> None:
    expected = datetime.fromisoformat(text)
    if expected.tzinfo is None:
        expected = expected.replace(tzinfo=UTC)
    whole = expected.replace(microsecond=0).timestamp()
    assert nanoseconds(text) == [int(whole) * NS_PER_SECOND + expected.microsecond * 1000]


def test_iso_times_have_nanoseconds() -> None:
    a, b, c = nanoseconds("2024-03-03T03:00:00.123456789", "2024-03-03T03:00:00.1234567891", "2024-03-03 03:00:00,5")
    assert a == b == 1_709_434_800_123_456_789
    assert c == 1_709_434_800_500_000_000


def test_times_of_parquet_files_and_frames() -> None:
    assert nanoseconds(date(1970, 1, 2)) == [86_400 * NS_PER_SECOND]
    assert nanoseconds(datetime(1970, 1, 1, 1, 0, 0, 5, tzinfo=UTC)) == [3600 * NS_PER_SECOND + 5000]
    berlin = pl.Series("t", [datetime(2024, 7, 1, 12)]).dt.replace_time_zone("Europe/Berlin")
    assert as_times(berlin, "x").cast(pl.Int64).to_list() == [1_719_828_000 * NS_PER_SECOND]  # 10:00 UTC


@pytest.mark.parametrize(
    ("factor", "name"), [(1, None), (1000, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")]
)
@pytest.mark.parametrize("kind", [str, int, float])
def test_the_unit_of_numbers_is_seen_and_said(factor: int, name: str | None, kind: type) -> None:
    said: list[Notice] = []
    times = as_times(pl.Series("t", [kind(NOW * factor), kind((NOW + 64) * factor)]), "x.csv", notices=said)
    assert times.cast(pl.Int64).to_list() == [NOW * NS_PER_SECOND, (NOW + 64) * NS_PER_SECOND]
    expected = [] if name is None else [f"read as {name} since 1970: 2024-09-20 to 2024-09-20"]
    assert [(n.where, n.message, n.count) for n in said] == [("x.csv, column t", text, 2) for text in expected]


def test_days_and_an_order_are_seen_and_said() -> None:
    said: list[Notice] = []
    days = as_times(pl.Series("t", [19_000, 19_001]), "x.csv", notices=said)
    assert days.cast(pl.Int64).to_list() == [19_000 * 86_400 * NS_PER_SECOND, 19_001 * 86_400 * NS_PER_SECOND]
    order = as_times(pl.Series("t", ["3", "1", "70000"]), "x.csv", notices=said)
    assert order.to_list() == [3, 1, 70_000]
    assert order.dtype == pl.Int64
    assert [n.message.split(":")[0] for n in said] == [
        "read as days since 1970", "small numbers, which are no dates",
    ]  # fmt: skip


def test_fractions_of_numbers_are_kept() -> None:
    assert nanoseconds(f"{NOW}.000000001", f"{NOW}") == [NOW * NS_PER_SECOND + 1, NOW * NS_PER_SECOND]
    assert nanoseconds(f"{NOW}001.5") == [NOW * NS_PER_SECOND + 1_500_000]  # milliseconds
    assert nanoseconds(NOW + 0.25, NOW + 0.5) == [
        NOW * NS_PER_SECOND + NS_PER_SECOND // 4,
        NOW * NS_PER_SECOND + NS_PER_SECOND // 2,
    ]
    near = np.nextafter(float(NOW), np.inf)
    assert nanoseconds(near)[0] > NOW * NS_PER_SECOND  # two different floats stay in order


@pytest.mark.parametrize(
    ("values", "row", "like"),
    [
        ([NOW, NOW + 1, 0], 3, "0, which programs write for no time"),
        ([NOW, NOW * 1000, NOW + 1], 2, "milliseconds, 2024-09-20"),
        ([20240803, 20240804, 20240805], 1, "the date 2024-08-03 written as digits"),
        ([2024080312, 2024080313], 1, "the date 2024-08-03 written as digits"),
        ([202408031230, 202408031231], 1, "the date 2024-08-03 written as digits"),
        ([20240803123000, 20240803123001], 1, "the date 2024-08-03 written as digits"),
        ([NOW, NOW + 1, -1], 3, "in no unit a date"),
        ([NOW, NOW + 1, 253402300799], 3, "in no unit a date"),  # the end of 9999
        ([500_000_000, 500_000_001], 1, "in no unit a date"),
    ],
)
@pytest.mark.parametrize("kind", [str, int, float])
def test_numbers_that_are_not_plausible_say_what_they_look_like(
    values: list[int], row: int, like: str, kind: type
) -> None:
    with pytest.raises(InputError, match="not plausible") as error:
        as_times(pl.Series("t", [kind(v) for v in values]), "x.csv")
    assert error.value.where == f"x.csv, column 't', row {row}"
    assert error.value.found.startswith(f"{values[row - 1]} ({like}")
    assert "time_unit" in error.value.expected


def test_a_stated_unit_is_respected() -> None:
    assert as_times(pl.Series("t", [0, 5]), "x", "s").cast(pl.Int64).to_list() == [0, 5 * NS_PER_SECOND]
    assert as_times(pl.Series("t", [NOW, -5]), "x", "order").to_list() == [NOW, -5]
    with pytest.raises(InputError, match="not plausible"):
        as_times(pl.Series("t", [NOW * 10**6]), "x", "s")


@pytest.mark.parametrize("bad", ["yesterday", "2017-13-01", "2017-09-01T25:00", "1.9.2017", "2017-09-01T12:00+25:00"])
def test_time_that_cannot_be_read_names_its_row(bad: str) -> None:
    with pytest.raises(InputError, match="not a time") as error:
        as_times(pl.Series("read_at", ["2017-09-01", bad]), "x.csv")
    assert error.value.where == "x.csv, column 'read_at', row 2"
    assert bad in error.value.found


@pytest.mark.parametrize("never", ["9999-12-31", "0001-01-01T00:00:00"])
def test_dates_that_mean_never_are_refused(never: str) -> None:
    for values in (["2024-01-01", never], [datetime(2024, 1, 1), datetime.fromisoformat(never)]):
        with pytest.raises(InputError, match="not plausible") as error:
            as_times(pl.Series("t", values), "x.csv")
        assert error.value.where == "x.csv, column 't', row 2"


def test_times_with_and_without_a_zone_in_one_column_are_said() -> None:
    said: list[Notice] = []
    as_times(pl.Series("t", ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"]), "x.csv", notices=said)
    assert [(n.message, n.count) for n in said] == [("times without a zone among others with one: read as UTC", 1)]


def read(folder: Path, rows: str, **more: object) -> Tables:
    (folder / "x.csv").write_text("u,i,t\n" + rows)
    described = {"file": "x.csv", "user": "u", "item": "i", "time": "t"}
    config = {"user": "user", "item": "item", "interactions": described, **more}
    return read_tables(check(config, DataConfig, "x"), folder)


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_the_last_of_rows_in_one_second_is_the_last(tmp_path: Path, zone: str) -> None:
    """Newest first in the file, all in the same second."""
    times = [f"2024-03-03T03:00:00.{n:09d}{zone}" for n in (700_000_000, 580_000_001, 580_000_000)]
    tables = read(tmp_path, "".join(f"{u},{i},{t}\n" for u in "ab" for i, t in enumerate(times)))
    assert tables.ticks == NS_PER_SECOND
    split = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    assert (split.test.item.tolist(), split.valid.item.tolist()) == ([0, 0], [1, 1])
    assert not any("equal" in n.message for n in split.notices)


def test_fractions_of_one_table_are_those_of_all(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("i,tag,at\n0,red,2024-03-03T03:00:00.5\n1,red,2024-03-01\n")
    links = {"tags": {"file": "tags.csv", "source": "item", "source_column": "i", "target": "tag",
                      "target_column": "tag", "time": "at"}}  # fmt: skip
    tables = read(tmp_path, "a,0,1709434800\na,1,1709434801\n", links=links)
    assert tables.interactions["time"].to_list() == [1_709_434_800 * NS_PER_SECOND, 1_709_434_801 * NS_PER_SECOND]
    assert tables.links["tags"].frame["at"].to_list() == [1_709_434_800_500_000_000, 1_709_251_200 * NS_PER_SECOND]
    with pytest.raises(InputError, match="times of two kinds"):
        read(tmp_path, "a,0,1\na,1,2\n", links=links)


def test_milliseconds_cut_and_decay_as_seconds_do(tmp_path: Path) -> None:
    rows = [(u, (i + n) % 4, NOW + 86_400 * (40 * i + n)) for n, u in enumerate("abc") for i in range(4)]
    found = []
    for factor in (1, 1000, 10**6, 10**9):
        tables = read(tmp_path, "".join(f"{u},{i},{t * factor}\n" for u, i, t in rows))
        split = make_split(tables, ProtocolConfig(split="temporal", cut="2025-01-15"), 0)
        decay = InteractionWeights(weight="decay", half_life=10)
        weights = build_interactions("user", "item", split.train, decay).weight
        found.append((split.fingerprint, weights.tolist()))
    assert found[0][1][-1] != found[0][1][0] > 1e-3
    assert all(other == found[0] for other in found)


def test_an_order_has_no_age(tmp_path: Path) -> None:
    tables = read(tmp_path, "a,0,1\na,1,2\na,2,3\nb,2,1\nb,0,2\nb,1,3\n")
    split = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    with pytest.raises(InputError, match="no unit"):
        build_interactions("user", "item", split.train, InteractionWeights(weight="decay", half_life=1))
    with pytest.raises(InputError, match="no unit"):
        make_split(tables, ProtocolConfig(split="temporal", cut="2024-01-01"), 0)
    assert make_split(tables, ProtocolConfig(split="temporal", cut=2), 0).train_until == 2


def test_dates_beyond_what_python_knows_are_refused_like_others() -> None:
    far = pl.Series("t", [NOW * 10**6, NOW * 10**9]).cast(pl.Datetime("us"))
    with pytest.raises(InputError, match="not plausible") as error:
        as_times(far, "x.parquet")
    assert error.value.where == "x.parquet, column 't', row 2"
    assert "56690" in error.value.found
