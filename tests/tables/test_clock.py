"""One clock: times of the study file mean what the same values would mean in a table, whatever the tables hold."""

import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables.audit import audit
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import LinkTable, NodeTable, Tables
from relrank.tables.times import NS_PER_SECOND, Clock

DAY0 = 19_700
"""2023-12-09."""
DAYS = [DAY0 + n for n in range(12)]
KINDS: dict[str, Callable[[int], Any]] = {
    "days": lambda day: day,
    "s": lambda day: day * 86_400,
    "ms": lambda day: day * 86_400 * 1000,
    "us": lambda day: day * 86_400 * 10**6,
    "ns": lambda day: day * 86_400 * NS_PER_SECOND,
    "date": lambda day: date(1970, 1, 1) + timedelta(days=day),
    "datetime": lambda day: datetime(1970, 1, 1) + timedelta(days=day),
    "with zone": lambda day: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day),
    "text": lambda day: str(date(1970, 1, 1) + timedelta(days=day)),
}
"""How tables may hold days."""
CUT = DAY0 + 7
CUTS = [
    "2023-12-16", "2023-12-16T00:00:00Z", "2023-12-16T02:00:00+02:00", "2023-12-15 20:30-03:30",
    *(KINDS[unit](CUT) for unit in ("days", "s", "ms", "us", "ns", "date", "datetime", "with zone")),
    str(CUT), f"{CUT * 86_400}.0", float(CUT), CUT * 86_400.0,
]  # fmt: skip
"""The same moment in every way in which a study file can say it."""


def rows(kind: str) -> pl.DataFrame:
    users, items = "aaabbbcccddd", [0, 1, 2, 1, 2, 3, 2, 3, 0, 0, 1, 3]
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    times = [KINDS[kind](DAYS[n]) for n in order]
    return pl.DataFrame({"user": list(users), "item": items, "time": times})


def read(folder: Path, kind: str, computed: Any) -> Tables:
    rows(kind).write_parquet(folder / "x.parquet")
    (folder / "items.csv").write_text("item,brand\n0,x\n1,x\n2,y\n3,y\n")
    data = {"user": "user", "item": "item",
            "interactions": {"file": "x.parquet", "user": "user", "item": "item", "time": "time"},
            "nodes": {"item": {"file": "items.csv", "key": "item", "computed": computed}},
            "links": {"b": {"file": "items.csv", "source": "item", "source_column": "item", "target": "brand",
                            "target_column": "brand", "computed": computed}}}  # fmt: skip
    return read_tables(check(data, DataConfig, "x"), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_is_the_same_for_tables_of_every_kind(tmp_path: Path, kind: str) -> None:
    for value in CUTS:
        tables = read(tmp_path, kind, value)
        assert tables.ticks == 1
        assert tables.nodes["item"].computed == tables.links["b"].computed == CUT * 86_400, value
        split = make_split(tables, ProtocolConfig(split="temporal", cut=value), 0)
        assert split.train_until == CUT * 86_400, value
        assert split.train.time is not None
        assert split.train.time.max() == CUT * 86_400
        assert (split.test.time > CUT * 86_400).all()
    found = {f.check: f for f in audit(tables, split, columns=[("item", "brand"), ("b", "brand")])}
    assert found["item computed after the cut"].level == found["b computed after the cut"].level == "ok"
    tables = read(tmp_path, kind, CUT + 1)
    found = {f.check: f for f in audit(tables, split, columns=[("item", "brand"), ("b", "brand")])}
    assert found["item computed after the cut"].level == found["b computed after the cut"].level == "leak"


@pytest.mark.parametrize("kind", KINDS)
def test_frames_mean_what_files_mean(tmp_path: Path, kind: str) -> None:
    nodes = {"item": NodeTable("item", pl.DataFrame({"item": [0, 1, 2, 3]}), "item", computed=KINDS[kind](CUT))}
    frame = pl.DataFrame({"item": [0], "brand": ["x"], "at": [KINDS[kind](CUT)]})
    links = {"b": LinkTable("b", frame, "item", "item", "item", "brand", "brand", time="at", computed=CUT)}
    tables = Tables("shop", "user", "item", rows(kind), nodes, links)
    expected = read(tmp_path, kind, CUT)
    assert tables.interactions["time"].equals(expected.interactions["time"])
    assert tables.links["b"].frame["at"].to_list() == [CUT * 86_400]
    assert tables.nodes["item"].computed == tables.links["b"].computed == CUT * 86_400
    unit = {"days": "days", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}.get(kind)
    assert sum(f"read as {unit} since 1970" in n.message for n in tables.notices) == (2 if unit else 0)


@pytest.mark.parametrize("value", [
    "true", "1.5", "07:32:00", "0001-01-01", "inf", "'soon'", "''", "20231216", "0", "12", "500_000_000",
    "'2023-13-01'", "1e30", f"{'9' * 30}",
])  # fmt: skip
@pytest.mark.parametrize("key", ["cut", "computed"])
def test_what_is_no_plausible_time_is_one_error(tmp_path: Path, key: str, value: str) -> None:
    def made() -> object:
        raw = tomllib.loads(f"value = {value}")["value"]
        if key == "computed":
            return read(tmp_path, "days", raw)
        protocol = check({"split": "temporal", "cut": raw}, ProtocolConfig, "[protocol]")
        return make_split(read(tmp_path, "days", "2024-01-01"), protocol, 0)

    with pytest.raises(InputError) as error:
        made()
    assert key in error.value.where
    assert any(word in error.value.expected for word in ("ISO", "finite", "time"))


def test_a_stated_unit_is_that_of_the_study_files_numbers_too() -> None:
    assert Clock(1, "s").moment(7400, "cut") == 7400
    assert Clock(1, "days").moment("7.5", "cut") == 7 * 86_400 + 43_200
    assert Clock(1, "s").moment(CUT * 86_400_000, "cut") == CUT * 86_400  # no date before 2262 in seconds
    assert (
        Clock(NS_PER_SECOND).moment("2023-12-16T00:00:00.5", "cut")
        == CUT * 86_400 * NS_PER_SECOND + NS_PER_SECOND // 2
    )
    assert Clock(1).moment("2023-12-16T00:00:00.5", "cut") == CUT * 86_400
    assert Clock(NS_PER_SECOND).moment(f"{CUT * 86_400}.000000001", "cut") == CUT * 86_400 * NS_PER_SECOND + 1
    assert Clock(0).moment(7, "cut") == Clock(0).moment("7", "cut") == Clock(0).moment(7.0, "cut") == 7
    for value, what in (
        ("2023-12-16", "no unit"),
        (date(2023, 12, 16), "no unit"),
        (7.5, "order"),
        (10**30, "order"),
    ):
        with pytest.raises(InputError, match=what):
            Clock(0).moment(value, "cut")


def test_frames_with_a_stray_number_among_their_times_are_refused_as_files_are() -> None:
    frame = rows("ms")
    for stray, like in ((0, "0, which programs write for no time"), (3, "a small number"), (-1, "no unit"),
                        (DAYS[0] * 86_400, "seconds, 2023-12-09")):  # fmt: skip
        odd = frame.with_columns(time=pl.Series([stray, *frame["time"][1:]]))
        with pytest.raises(InputError, match="times are not plausible") as error:
            Tables("shop", "user", "item", odd)
        assert error.value.where == "shop, interactions, column 'time', row 1"
        assert like in error.value.found
        links = {"b": LinkTable("b", odd, "user", "user", "user", "item", "item", time="time")}
        with pytest.raises(InputError, match="times are not plausible"):
            Tables("shop", "user", "item", frame, links=links)
    stated = Tables("shop", "user", "item", odd.with_columns(time=pl.Series(range(12))), time_unit="days")
    assert stated.interactions["time"].to_list() == [day * 86_400 for day in range(12)]
    order = Tables("shop", "user", "item", odd.with_columns(time=pl.Series(range(12))))
    assert order.ticks == 0
    assert "an order in time without a unit" in str(order.notices[0])
    with pytest.raises(InputError, match="times of two kinds"):
        Tables("shop", "user", "item", rows("ms").with_columns(time=pl.Series(range(12))), links={
            "b": LinkTable("b", rows("ms"), "user", "user", "user", "item", "item", time="time")})  # fmt: skip


def test_replacing_a_field_looks_at_new_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"b": LinkTable("b", rows("us"), "user", "user", "user", "item", "item", time="time", computed=CUT)}
    nodes = {"item": NodeTable("item", pl.DataFrame({"item": [0, 1, 2, 3]}), "item", computed=CUT)}
    first = Tables("shop", "user", "item", rows("ms"), nodes, links)
    looked: list[str] = []
    for name in ("cast_interactions", "cast_keys", "cast_times"):
        original = getattr(__import__("relrank.tables.tables", fromlist=[name]), name)
        monkeypatch.setattr(
            f"relrank.tables.tables.{name}", lambda *a, f=original, n=name: (looked.append(n), f(*a))[1]
        )
    again = replace(first, name="other")
    assert not looked
    assert again.interactions is first.interactions
    assert (again.nodes["item"], again.links["b"]) == (first.nodes["item"], first.links["b"])
    assert again.notices == first.notices
    fewer = replace(first, interactions=first.interactions.head(5))  # ticks, as the tables have them
    assert looked == ["cast_interactions"]
    assert fewer.interactions.equals(first.interactions.head(5))
    assert fewer.nodes["item"].computed == CUT * 86_400
    half = pl.DataFrame({"user": ["a"], "item": [1], "time": [datetime(2023, 12, 16, 0, 0, 0, 500_000)]})
    finer = replace(first, interactions=half)  # everything follows to the finer clock
    assert finer.ticks == NS_PER_SECOND
    assert finer.interactions["time"].to_list() == [CUT * 86_400 * NS_PER_SECOND + NS_PER_SECOND // 2]
    assert finer.links["b"].frame["time"].to_list() == [t * NS_PER_SECOND for t in first.links["b"].frame["time"]]
    assert finer.nodes["item"].computed == finer.links["b"].computed == CUT * 86_400 * NS_PER_SECOND
    assert replace(finer, name="x").nodes["item"].computed == CUT * 86_400 * NS_PER_SECOND


def times_after(first: Tables, frame: pl.DataFrame) -> tuple[int, list[int]]:
    made = replace(first, interactions=frame)
    return made.ticks, made.interactions["time"].to_list()


HALF = pl.DataFrame({"user": ["a"], "item": [1], "time": [datetime(2023, 12, 16, 0, 0, 0, 500_000)]})


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_replaces_another_is_judged_as_the_first_one_is(kind: str) -> None:
    seconds = Tables("shop", "user", "item", rows("s"))
    assert seconds.ticks == 1
    expected = Tables("shop", "user", "item", rows(kind)).interactions["time"].to_list()
    assert times_after(seconds, rows(kind)) == (1, expected)
    fine = Tables("shop", "user", "item", HALF)
    assert times_after(fine, rows(kind)) == (NS_PER_SECOND, [t * NS_PER_SECOND for t in expected])
    said = [n.message for n in replace(seconds, interactions=rows(kind)).notices]
    assert len(said) == (kind in ("days", "ms", "us", "ns"))
    item = NodeTable("item", pl.DataFrame({"item": [0, 1, 2, 3]}), "item", computed=KINDS[kind](CUT))
    link = LinkTable("b", rows(kind), "user", "user", "user", "item", "item", time="time", computed=KINDS[kind](CUT))
    for old, ticks in ((seconds, 1), (fine, NS_PER_SECOND)):
        made = replace(old, nodes={"item": item}, links={"b": link})
        assert made.ticks == ticks
        assert made.nodes["item"].computed == made.links["b"].computed == CUT * 86_400 * ticks
        assert made.links["b"].frame["time"].to_list() == [t * ticks for t in expected]
        same = replace(made, nodes={"item": replace(made.nodes["item"], title="item")})
        assert same.nodes["item"].computed == CUT * 86_400 * ticks


def test_a_finer_frame_beside_known_ones_makes_the_clock_finer() -> None:
    first = Tables("shop", "user", "item", rows("ms"))
    frame = HALF.with_columns(time=pl.Series([CUT * 86_400_000 + 500]))  # milliseconds
    finer = replace(first, links={"b": LinkTable("b", frame, "user", "user", "user", "item", "item", time="time")})
    assert finer.ticks == NS_PER_SECOND
    assert finer.interactions["time"].to_list() == [t * NS_PER_SECOND for t in first.interactions["time"]]
    assert finer.links["b"].frame["time"].to_list() == [CUT * 86_400 * NS_PER_SECOND + NS_PER_SECOND // 2]


def test_rows_of_known_frames_are_ticks_whatever_the_unit_says() -> None:
    order = Tables(
        "shop", "user", "item", rows("s").with_columns(time=pl.Series(range(12)) * 10**8), time_unit="order"
    )
    old = Tables("shop", "user", "item", rows("text").with_columns(time=pl.lit("1950-01-01")))
    nodes = {"item": NodeTable("item", pl.DataFrame({"item": [0, 1, 2, 3]}), "item", computed=CUT * 86_400_000)}
    for first in (Tables("shop", "user", "item", rows("ms"), nodes, time_unit="ms"), order, old):
        frame = first.interactions
        for fewer in (frame.head(5), frame.head(5).with_columns(pl.col("time").cast(pl.Float64))):
            assert times_after(first, fewer) == (first.ticks, frame["time"].head(5).to_list())
        assert replace(first, interactions=frame.head(5)).notices == first.notices
        narrow = first.with_row_subset(interactions=(few := frame.head(3)))
        assert narrow.interactions is few
        again = replace(first, nodes={n: replace(t, title="item") for n, t in first.nodes.items()})
        assert [t.computed for t in again.nodes.values()] == [t.computed for t in first.nodes.values()]


def test_stated_ticks_are_those_of_later_frames_too() -> None:
    first = Tables("shop", "user", "item", rows("s"), ticks=1)
    assert times_after(first, rows("days")) == (1, DAYS_OF_ROWS)
    assert times_after(replace(first, name="x"), rows("days")) == (1, DAYS_OF_ROWS)
    judged = Tables("shop", "user", "item", rows("s"))
    link = LinkTable("b", rows("ns"), "user", "user", "user", "item", "item", time="time")
    finer = replace(judged, links={"b": link}, ticks=NS_PER_SECOND)
    assert finer.ticks == NS_PER_SECOND
    assert (
        finer.interactions["time"].to_list()
        == finer.links["b"].frame["time"].to_list()
        == rows("ns")["time"].to_list()
    )


DAYS_OF_ROWS = rows("days")["time"].to_list()


def test_an_order_and_dates_do_not_meet_by_replacing() -> None:
    small = rows("s").with_columns(time=pl.Series(range(12)))
    link = LinkTable("b", rows("ms"), "user", "user", "user", "item", "item", time="time")
    dated = Tables("shop", "user", "item", rows("s"), links={"b": link})
    with pytest.raises(InputError, match="times of two kinds"):
        replace(dated, interactions=small)
    with pytest.raises(InputError, match="times of two kinds"):
        replace(Tables("shop", "user", "item", small), links={"b": link})
    assert times_after(Tables("shop", "user", "item", small), rows("ms"))[0] == 1  # nothing of the order is left
    assert times_after(Tables("shop", "user", "item", rows("s")), small) == (0, list(range(12)))
    nodes = {"item": NodeTable("item", pl.DataFrame({"item": [0, 1, 2, 3]}), "item", computed=date(2024, 1, 1))}
    with pytest.raises(InputError, match="times of two kinds") as error:
        replace(Tables("shop", "user", "item", rows("s"), nodes), interactions=small)
    assert error.value.where == "shop, nodes 'item', computed"


def test_frames_that_replace_those_of_files_are_looked_at(tmp_path: Path) -> None:
    first = read(tmp_path, "s", CUT)
    assert times_after(first, rows("ms")) == (1, first.interactions["time"].to_list())
    with pytest.raises(InputError, match="missing"):
        replace(first, interactions=rows("ms").with_columns(user=pl.lit(None, pl.String)))
    twice = replace(first, interactions=pl.concat([rows("ms"), rows("ms").head(1)]))
    with pytest.raises(InputError, match="a user has an item twice"):
        make_split(twice, ProtocolConfig(split="temporal", cut=CUT), 0)
