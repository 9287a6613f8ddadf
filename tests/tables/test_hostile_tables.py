"""Hostile tables get the naive meaning or one InputError: never another exception, never another value."""

import csv
import io
import math
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.builders import build_graph
from relrank.graph.recipes import Attribute
from relrank.tables.config import check
from relrank.tables.files import MOST_COLUMNS
from relrank.tables.missing import NA_VALUES
from relrank.tables.protocols import ProtocolConfig, apply
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.scan import read_columns

NOW = 1_700_000_000
MISSING = ["", " ", "nan", "NaN", "None", "null", "NA", None]
KEYS = {
    "text": ["a", "b", "ä", "a b", 'q"q', "x,y", "0", "two\nlines", "=1+1", "Ｆ"],
    "whole": ["0", "1", "2", "-3", "10", "9007199254740993"],
    "zeros": ["1", "01", "001", "1.10", "1.1"],
    "floats": ["1.0", "2.0", "3", "4.50"],
    "large": ["9223372036854775807", "9223372036854775808", "18446744073709551615", "1"],
    "spaces": ["a", " a", "A", "b ", "c"],
}
TIMES = {
    "s": [str(NOW + n) for n in range(9)],
    "ms": [str(NOW * 1000 + 7 * n) for n in range(9)],
    "decimal": [f"{NOW + n // 3}.{n}" for n in range(9)],
    "iso": [f"2024-03-0{1 + n // 4}T0{n}:00:00.00000000{n}" for n in range(9)],
    "zones": [f"2024-03-03T12:00:00{'+' if n % 2 else '-'}0{n}:30" for n in range(1, 9)],
    "order": [str(n) for n in range(9)],
    "digits": [f"2024030{n}" for n in range(1, 9)],
    "mixed": [str(NOW), str(NOW * 1000), "0", "2024-03-01", "soon", "9999-12-31", "1e400", "-1", "2024-02-30"],
}
RATINGS = {"numbers": ["1", "2.5", "-3", " 4 ", "1e2", "0"], "others": ["1", "five", "1,5", "inf", "nan", "0x1"]}
PARQUET = {
    "whole": pl.Int64, "floats": pl.Float64, "large": pl.UInt64, "s": pl.Int64, "ms": pl.Int64, "decimal": pl.Float64,
    "order": pl.Int32, "digits": pl.Int64, "numbers": pl.Float32,
}  # fmt: skip


def naive_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() in ("", *NA_VALUES)


def naive_key(value: object) -> str:
    """A key as text; 7 and 7.0 are one."""
    text = str(value)
    head, dot, tail = text.partition(".")
    whole = head.lstrip("-").isdigit() and not set(tail) - {"0"} and bool(tail) == bool(dot)
    return head if whole and dot else text


def naive_time(value: object) -> Fraction:
    """Something that ascends as the time does."""
    try:
        return Fraction(str(value).strip())
    except ValueError:
        text = str(value).strip()
        base, dot, rest = text.partition(".")
        digits = rest[:9] if dot else ""
        moment = datetime.fromisoformat(base if dot else text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return Fraction(int(moment.timestamp())) + (Fraction(f"0.{digits}") if digits else 0)


def hostile(rng: np.random.Generator, menu: dict[str, list[str]]) -> tuple[str, list[object], int]:
    """A name of the menu, values of 24 rows, and how many of them were made to be missing."""
    name = str(rng.choice(list(menu)))
    values: list[object] = [menu[name][i] for i in rng.integers(0, len(menu[name]), 24)]
    broken = int(rng.integers(0, 3)) if rng.random() < 0.25 else 0
    for row in rng.choice(24, broken, replace=False):
        values[row] = MISSING[rng.integers(0, len(MISSING))]
    return name, values, broken


def written(rng: np.random.Generator, columns: dict[str, tuple[str, list[object], int]], path: Path) -> pl.DataFrame:
    """The table in a file; and what a naive reader of that file finds, value by value."""
    if path.suffix == ".parquet":
        frame = {}
        for column, (name, values, _) in columns.items():
            wanted = PARQUET.get(name) if rng.random() < 0.8 else None
            series = pl.Series(column, [None if v is None else str(v) for v in values], pl.String)
            frame[column] = series if wanted is None else series.str.strip_chars().cast(wanted, strict=False)
        pl.DataFrame(frame).write_parquet(path)
        return pl.DataFrame(frame)
    out = io.StringIO()
    mark, end = "," if path.suffix == ".csv" else "\t", str(rng.choice(["\n", "\r\n"]))
    writer = csv.writer(out, delimiter=mark, lineterminator=end)
    writer.writerow(columns)
    writer.writerows(zip(*(values for _, values, _ in columns.values()), strict=True))
    path.write_text(("\ufeff" if rng.random() < 0.1 else "") + out.getvalue(), newline="", encoding="utf-8")
    return pl.DataFrame({c: [None if v is None else str(v) for v in values] for c, (_, values, _) in columns.items()})


@pytest.mark.parametrize("seed", range(8))
def test_hostile_tables_mean_what_they_say_or_are_one_error(seed: int, tmp_path: Path) -> None:
    rng, began, read = np.random.default_rng(seed), perf_counter(), 0
    for n in range(40):
        ending = str(rng.choice(["csv", "tsv", "parquet"]))
        menus = {"u": KEYS, "i": KEYS, "t": TIMES, "r": RATINGS}
        columns = {str(c): hostile(rng, menus[c]) for c in rng.permutation(list(menus))}
        path = tmp_path / f"{n}.{ending}"
        naive = written(rng, columns, path)
        drop = bool(rng.random() < 0.5)
        section = {
            "file": path.name, "user": "u", "item": "i", "time": "t", "rating": "r", "duplicates": "last",
            "missing": "drop" if drop else "error",
        }  # fmt: skip
        rows = [row for row in naive.iter_rows(named=True) if not any(map(naive_missing, row.values()))]
        try:
            config = check({"user": "user", "item": "item", "interactions": section}, DataConfig, "x")
            tables = read_tables(config, tmp_path)
        except InputError:
            continue
        read += 1
        assert drop or len(rows) == naive.height, "a missing value was accepted"
        expected: dict[tuple[str, str], tuple[Fraction, int, float]] = {}
        for place, row in enumerate(rows):
            pair, rating = (naive_key(row["u"]), naive_key(row["i"])), float(str(row["r"]))
            time = Fraction(row["t"]) if isinstance(row["t"], float) else naive_time(row["t"])
            expected[pair] = max(expected.get(pair, (time, -1, rating)), (time, place, rating))
        frame = tables.interactions
        pairs = list(zip(frame["user"].cast(pl.String), frame["item"].cast(pl.String), strict=True))
        found = {tuple(map(naive_key, pair)): pair for pair in pairs}
        assert set(found) == set(expected)
        assert [expected[tuple(map(naive_key, pair))][2] for pair in pairs] == frame["rating"].to_list()
        in_time = sorted(range(len(pairs)), key=lambda r: expected[tuple(map(naive_key, pairs[r]))][0])
        times = frame["time"].to_list()
        assert [times[r] for r in in_time] == sorted(times)
        try:
            split = apply(tables, ProtocolConfig(split="last-leave-one-out", without_train="drop"), 0)
            build_graph(tables, split, {})
        except InputError:
            continue
        assert min(part.user.min(initial=0) for part in (split.train, split.valid, split.test)) >= 0
    assert read > 2
    assert perf_counter() - began < 60


ODD_COLUMNS = [
    pl.Series("v", [b"\xff", b"a"]),
    pl.Series("v", [[1], [2]]),
    pl.Series("v", [{"a": 1}, {"a": 2}]),
    pl.Series("v", [True, False]),
    pl.Series("v", [1.5e300, math.inf]),
    pl.Series("v", [1, 2], pl.Duration("us")),
    pl.Series("v", ["1", "2"]).cast(pl.Decimal(10, 2)),
    pl.Series("v", [1, 2], pl.Time),
    pl.Series("v", [None, None]),
    pl.Series("v", ["a", "b"], pl.Categorical),
    pl.Series("v", [2**63, 2**64 - 1], pl.UInt64),
    pl.Series("v", [1e300, 2.0]),
    pl.Series("v", [datetime(2024, 1, 1), datetime(1000, 1, 1)]),
]


@pytest.mark.parametrize("kind", ["key", "number", "time", "text"])
@pytest.mark.parametrize("odd", ODD_COLUMNS, ids=lambda s: str(s.dtype))
def test_columns_of_any_type_are_read_or_one_error(tmp_path: Path, odd: pl.Series, kind: str) -> None:
    odd.to_frame().write_parquet(tmp_path / "x.parquet")
    try:
        found = read_columns(tmp_path / "x.parquet", None, {"v": ("v", kind)})["v"]  # type: ignore[dict-item]
    except InputError:
        return
    assert len(found) == 2
    assert found.null_count() == 0 or kind == "text"
    if kind == "key":
        assert found.dtype in (pl.Int64, pl.String)


def test_keys_above_63_bits_are_text_in_every_table(tmp_path: Path) -> None:
    keys = pl.Series("i", [2**63 + n for n in range(4)], pl.UInt64)
    rows = pl.DataFrame({"u": ["a"] * 3 + ["b"] * 3, "i": keys.gather([0, 1, 2, 1, 2, 3])})
    rows.write_parquet(tmp_path / "x.parquet")
    keys.to_frame().with_columns(g=pl.Series(["x", "y", "x", "y"])).write_parquet(tmp_path / "items.parquet")
    interactions = {"file": "x.parquet", "user": "u", "item": "i"}
    nodes = {"item": {"file": "items.parquet", "key": "i"}}
    described = {"user": "user", "item": "item", "interactions": interactions, "nodes": nodes}
    tables = read_tables(check(described, DataConfig, "x"), tmp_path)
    assert tables.interactions["item"].to_list() == [str(2**63 + n) for n in (0, 1, 2, 1, 2, 3)]
    split = apply(tables, ProtocolConfig(split="random-leave-one-out"), 0)
    graph = build_graph(tables, split, {"g": Attribute(kind="attribute", node="item", column="g")})
    assert len(graph.relations["g"]) == 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.csv").write_bytes("user,item\n1,é\n".encode(encoding))
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_columns(tmp_path / "x.csv", None, {"user": ("user", "key"), "item": ("item", "key")})


def test_wide_files_are_read_in_linear_time_or_refused(tmp_path: Path) -> None:
    """Six thousand columns nobody wants took minutes, since the time grew with their square."""
    path = tmp_path / "x.csv"
    for width in (6_000, MOST_COLUMNS):
        path.write_text("u,i," + ",".join(f"c{n}" for n in range(width)) + "\n" + f"1,2{',1' * width}\n" * 3)
        wanted = {"u": ("u", "key"), "i": ("i", "key")}
        if width < MOST_COLUMNS:
            began = perf_counter()
            assert read_columns(path, None, wanted).rows() == [(1, 2)] * 3  # type: ignore[arg-type]
            assert perf_counter() - began < 30
        else:
            with pytest.raises(InputError, match="too many columns"):
                read_columns(path, None, wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "what"),
    [("u,u,i\n1,2,3\n", "occurs twice"), ("u,i\n1,2,3\n", "as a table"), ('u,i\n1,"2\n', "as a table")],
)
def test_headers_and_rows_that_do_not_fit(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=what):
        read_columns(tmp_path / "x.csv", None, {"u": ("u", "key"), "i": ("i", "key")})


@pytest.mark.parametrize("separator", ['"', "\n", "§", ""])
def test_separators_that_cannot_be_are_refused(tmp_path: Path, separator: str) -> None:
    section = {"file": "x.csv", "user": "u", "item": "i", "separator": separator}
    with pytest.raises(InputError, match="separator"):
        check({"user": "user", "item": "item", "interactions": section}, DataConfig, "x")


def test_user_and_item_are_two_types() -> None:
    section = {"file": "x.csv", "user": "u", "item": "i"}
    with pytest.raises(InputError, match="two node types"):
        check({"user": "n", "item": "n", "interactions": section}, DataConfig, "x")


def test_paths_that_cannot_be_read_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "folder.csv", tmp_path / ("x" * 5000 + ".csv"), tmp_path / "x\0.csv"):
        with pytest.raises(InputError) as error:
            read_columns(path, None, {"u": ("u", "key")})
        assert len(str(error.value)) < 1000


def test_node_tables_are_bounded_and_columns_of_interactions_differ(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("u,i\na,1\n")
    wide = ",".join(f"c{n}" for n in range(MOST_COLUMNS))
    (tmp_path / "n.csv").write_text(f"i,{wide}\n1{',1' * MOST_COLUMNS}\n")
    section = {"file": "x.csv", "user": "u", "item": "i"}
    described = {"user": "user", "item": "item", "nodes": {"item": {"file": "n.csv", "key": "i"}}}
    with pytest.raises(InputError, match="too many columns"):
        read_tables(check({**described, "interactions": section}, DataConfig, "x"), tmp_path)
    with pytest.raises(InputError, match="different columns"):
        check({**described, "interactions": {**section, "item": "u"}}, DataConfig, "x")
