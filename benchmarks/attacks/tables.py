"""Hostile tables: what a naive reader finds in them, or one error; never another exception, never another value."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from attacks.lanes import Attack
from attacks.ledger import Outcome, judged
from relrank.errors import InputError
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Attribute, InteractionWeights
from relrank.study.model_comparison import compare_models
from relrank.study.per_user_tables import read_per_user_tables
from relrank.tables.config import check
from relrank.tables.missing import NA_VALUES
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import NodeTable, Tables

Generator = np.random.Generator
Value = object
ROWS = 24
"""Of a table."""
NOW = 1_700_000_000
MISSING = ["", " ", "nan", "NaN", "None", "null", "NA", None]
KEYS = {
    "text": ["a", "b", "ä", "a b", 'q"q', "x,y", "0", "two\nlines", "=1+1", "Ｆ"],
    "whole": ["0", "1", "2", "-3", "10", "9007199254740993"],
    "zeros": ["1", "01", "001", "1.10", "1.1"],
    "floats": ["1.0", "2.0", "3", "4.50"],
    "large": ["9223372036854775807", "9223372036854775808", "18446744073709551615", "1"],
    "spaces": ["a", " a", "A", "b ", "c"],
    "signs": ["-0", "0", "+1", "1", "--1", "1e3", "1_000"],
    "marks": ["#1", "a\tb", "'", "\u200b", "\u2028", "e\u0301", "\u00e9", "\u202eab", "\ufeffa"],
    "words": ["true", "false", "inf", "-inf", "Infinity", "0x10", "NaN ", "none", "-"],
    "long": ["x" * 3000, "x" * 3001, "y"],
}
TIMES = {
    "s": [str(NOW + n) for n in range(9)],
    "ms": [str(NOW * 1000 + 7 * n) for n in range(9)],
    "us": [str(NOW * 10**6 + 7 * n) for n in range(9)],
    "ns": [str(NOW * 10**9 + 7 * n) for n in range(9)],
    "decimal": [f"{NOW + n // 3}.{n}" for n in range(9)],
    "iso": [f"2024-03-0{1 + n // 4}T0{n}:00:00.00000000{n}" for n in range(9)],
    "zones": [f"2024-03-03T12:00:00{'+' if n % 2 else '-'}0{n}:30" for n in range(1, 9)],
    "utc": [f"2024-03-0{n}T12:00:00Z" for n in range(1, 9)],
    "dates": [f"2024-0{n}-28" for n in range(1, 9)],
    "order": [str(n) for n in range(9)],
    "digits": [f"2024030{n}" for n in range(1, 9)],
    "mixed": [str(NOW), str(NOW * 1000), "0", "2024-03-01", "soon", "9999-12-31", "1e400", "-1", "2024-02-30"],
}
RATINGS = {
    "numbers": ["1", "2.5", "-3", " 4 ", "1e2", "0"],
    "others": ["1", "five", "1,5", "inf", "nan", "0x1"],
    "edges": ["1e308", "-1e308", "1e-320", "-0", ".5", "5."],
}
PARQUET = {
    "whole": pl.Int64, "floats": pl.Float64, "large": pl.UInt64, "s": pl.Int64, "ms": pl.Int64, "us": pl.Int64,
    "ns": pl.Int64, "decimal": pl.Float64, "order": pl.Int32, "digits": pl.Int64, "numbers": pl.Float32,
    "edges": pl.Float64,
}  # fmt: skip


def naive_missing(value: Value) -> bool:
    """Whether a value is missing by the rule of the docs."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value).strip() in ("", *NA_VALUES)


def naive_key(value: Value) -> str:
    """A key as text; 7 and 7.0 are one."""
    text = str(value)
    head, dot, tail = text.partition(".")
    digits = head.removeprefix("-")
    whole = digits.isascii() and digits.isdigit() and not set(tail) - {"0"} and bool(tail) == bool(dot)
    return head if whole and dot else text


def naive_time(value: Value) -> Fraction:
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


def hostile(rng: Generator, menu: Mapping[str, list[str]], n: int = ROWS) -> tuple[str, list[Value], int]:
    """A name of the menu, values of some rows, and how many of them were made to be missing."""
    name = str(rng.choice(list(menu)))
    values: list[Value] = [menu[name][i] for i in rng.integers(0, len(menu[name]), n)]
    broken = int(rng.integers(0, 3)) if rng.random() < 0.25 else 0
    for row in rng.choice(n, broken, replace=False):
        values[row] = MISSING[rng.integers(0, len(MISSING))]
    return name, values, broken


Columns = Mapping[str, tuple[str, list[Value], int]]


def written(rng: Generator, columns: Columns, path: Path) -> pl.DataFrame:
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


def section_of(file: str, drop: bool, **more: str) -> dict[str, Any]:
    """``[data.interactions]`` of such a table."""
    return {
        "file": file, "user": "u", "item": "i", "time": "t", "rating": "r", "duplicates": "last",
        "missing": "drop" if drop else "error", **more,
    }  # fmt: skip


def read(section: Mapping[str, Any], folder: Path, **more: Any) -> Tables:
    """The tables of a configuration of these interactions."""
    described = {"user": "user", "item": "item", "interactions": dict(section), **more}
    return read_tables(check(described, DataConfig, "x"), folder)


def means_what_it_says(tables: Tables, rows: list[dict[str, Any]]) -> bool:
    """Whether each (user, item) is there once, with its last rating, in the order of time; and splits make sense."""
    expected: dict[tuple[str, str], tuple[Fraction, int, float]] = {}
    for place, row in enumerate(rows):
        pair, rating = (naive_key(row["u"]), naive_key(row["i"])), float(str(row["r"]))
        time = Fraction(row["t"]) if isinstance(row["t"], float) else naive_time(row["t"])
        expected[pair] = max(expected.get(pair, (time, -1, rating)), (time, place, rating))
    frame = tables.interactions
    pairs = list(zip(frame["user"].cast(pl.String), frame["item"].cast(pl.String), strict=True))
    named = [(naive_key(user), naive_key(item)) for user, item in pairs]
    assert sorted(named) == sorted(expected), "other pairs"
    assert [expected[pair][2] for pair in named] == frame["rating"].to_list(), "other ratings"
    in_time = sorted(range(len(pairs)), key=lambda r: expected[named[r]][0])
    times = frame["time"].to_list()
    assert [times[r] for r in in_time] == sorted(times), "another order"
    splits_and_graph(tables)
    return True


def splits_and_graph(tables: Tables, strict: bool = False, **relations: Any) -> None:
    """A split and its graph, or an error that users can mend; ``strict``: which is then the answer."""
    try:
        split = make_split(tables, ProtocolConfig(split="last-leave-one-out", without_train="drop"), 0)
        rated = "rating" in tables.interactions.columns
        weights = InteractionWeights(weight="rating", floor=0.1) if rated else None
        build_graph(tables, split, relations, interactions=weights)
    except InputError:
        if strict:
            raise
        return
    assert min(part.user.min(initial=0) for part in (split.train, split.valid, split.test)) >= 0, "row -1"


def interactions(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Interactions in a file: keys, times and ratings of one menu each, some values missing."""
    menus = {"u": KEYS, "i": KEYS, "t": TIMES, "r": RATINGS}
    columns = {str(c): hostile(rng, menus[c]) for c in rng.permutation(list(menus))}
    path = folder / f"x.{rng.choice(['csv', 'tsv', 'parquet'])}"
    naive, drop = written(rng, columns, path), bool(rng.random() < 0.5)

    def answer() -> bool:
        tables = read(section_of(path.name, drop), folder)
        rows = [row for row in naive.iter_rows(named=True) if not any(map(naive_missing, row.values()))]
        assert drop or len(rows) == naive.height, "a missing value was accepted"
        return means_what_it_says(tables, rows)

    return f"{path.suffix} " + ", ".join(name for name, _, _ in columns.values()), answer


_MOMENT = datetime(2024, 3, 1, 12, 30, 15, 123_456)
ODD: dict[str, Callable[[int], pl.Series]] = {
    "bytes": lambda n: pl.Series([b"\xff%d" % (i % 5) for i in range(n)]),
    "lists": lambda n: pl.Series([[i % 5] for i in range(n)]),
    "empty lists": lambda n: pl.Series([[]] * n, dtype=pl.List(pl.Int64)),
    "arrays": lambda n: pl.Series([[i, i] for i in range(n)], dtype=pl.Array(pl.Float32, 2)),
    "structs": lambda n: pl.Series([{"a": i} for i in range(n)]),
    "bool": lambda n: pl.Series([i % 2 == 0 for i in range(n)]),
    "inf": lambda n: pl.Series([1.5e300 if i % 7 else math.inf for i in range(n)]),
    "nan": lambda n: pl.Series([float(i % 5) if i % 7 else math.nan for i in range(n)]),
    "duration": lambda n: pl.Series(range(n), dtype=pl.Duration("us")),
    "decimal": lambda n: pl.Series([Decimal(i % 6) / 4 for i in range(n)], dtype=pl.Decimal(38, 6)),
    "time of day": lambda n: pl.Series(range(n), dtype=pl.Time),
    "null": lambda n: pl.Series([None] * n),
    "null text": lambda n: pl.Series([None] * n, dtype=pl.String),
    "categories": lambda n: pl.Series([f"k{i % 6}" for i in range(n)], dtype=pl.Categorical),
    "enum": lambda n: pl.Series([f"k{i % 3}" for i in range(n)], dtype=pl.Enum(["k0", "k1", "k2"])),
    "uint64": lambda n: pl.Series([2**63 + i % 5 for i in range(n)], dtype=pl.UInt64),
    "int128": lambda n: pl.Series([2**70 + i % 5 for i in range(n)], dtype=pl.Int128),
    "int8": lambda n: pl.Series([i % 100 - 50 for i in range(n)], dtype=pl.Int8),
    "uint8": lambda n: pl.Series([i % 7 for i in range(n)], dtype=pl.UInt8),
    "float32": lambda n: pl.Series([float(i % 9) for i in range(n)], dtype=pl.Float32),
    "float32 large": lambda n: pl.Series([2.0**24 + 2 * (i % 9) for i in range(n)], dtype=pl.Float32),
    "dates": lambda n: pl.Series([_MOMENT.date() + timedelta(i) for i in range(n)]),
    "ancient": lambda n: pl.Series([datetime(1000, 1, 1) + timedelta(i) for i in range(n)]),
    "far": lambda n: pl.Series([datetime(9999, 12, 1) - timedelta(i) for i in range(n)]),
    "ns": lambda n: pl.Series([_MOMENT + timedelta(i) for i in range(n)], dtype=pl.Datetime("ns")),
    "ms": lambda n: pl.Series([_MOMENT + timedelta(i) for i in range(n)], dtype=pl.Datetime("ms")),
    "zoned": lambda n: pl.Series([_MOMENT + timedelta(i) for i in range(n)]).dt.replace_time_zone("Asia/Kolkata"),
    "whole floats": lambda n: pl.Series([float(NOW + i) for i in range(n)]),
    "seconds": lambda n: pl.Series([NOW + 3600 * i for i in range(n)]),
    "negative": lambda n: pl.Series([-i - 1 for i in range(n)]),
    "text numbers": lambda n: pl.Series([f"{i % 9}" for i in range(n)]),
    "text": lambda n: pl.Series([f"t{i % 9}" for i in range(n)]),
    "texts with nulls": lambda n: pl.Series([f"t{i % 9}" if i % 8 else None for i in range(n)]),
}
"""Columns of every type that Parquet files and frames may have."""
KEPT_KEYS = {"text", "text numbers", "int8", "uint8", "seconds", "negative", "float32", "enum", "categories"}


def odd_columns(rng: Generator) -> tuple[dict[str, pl.Series], list[str]]:
    """Interactions whose columns have odd types; at most two of the four, so that many can be read."""
    plain = {"u": "text", "i": "text numbers", "t": "seconds", "r": "float32"}
    for column in rng.choice(list(plain), int(rng.choice([1, 1, 2])), replace=False):
        plain[str(column)] = str(rng.choice(list(ODD)))
    order = rng.permutation(ROWS)
    return {c: ODD[name](ROWS).gather(order).alias(c) for c, name in plain.items()}, list(plain.values())


def _odd_is_right(tables: Tables, columns: Mapping[str, pl.Series]) -> None:
    """Whether rows are those of the columns: keys that have one meaning, all finite numbers."""
    splits_and_graph(tables, strict=True)
    frame = tables.interactions
    pairs = {(naive_key(u), naive_key(i)) for u, i in zip(columns["u"], columns["i"], strict=True)}
    found = list(zip(frame["user"].cast(pl.String), frame["item"].cast(pl.String), strict=True))
    if all(columns[c].dtype in (pl.String, pl.Int8, pl.UInt8, pl.Int64, pl.Float32) for c in "ui"):
        assert {(naive_key(u), naive_key(i)) for u, i in found} == pairs, "other pairs"
    assert frame.null_count().sum_horizontal()[0] == 0, "a missing value was accepted"
    assert frame["rating"].is_finite().all(), "a rating that is no number"


def odd_parquet(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """A Parquet file with columns of odd types, compressed and cut into row groups in odd ways."""
    columns, names = odd_columns(rng)
    path = folder / "x.parquet"
    compression: Any = str(rng.choice(["zstd", "lz4", "snappy", "gzip", "uncompressed"]))
    try:
        pl.DataFrame(columns).write_parquet(path, compression=compression, row_group_size=int(rng.integers(1, 30)))
    except BaseException:  # Polars cannot write every type
        return "not written", lambda: True

    def answer() -> bool:
        _odd_is_right(read(section_of(path.name, drop=False), folder), columns)
        return True

    return ", ".join(names), answer


def frames(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """The same as a frame of polars, pandas, Arrow or plain lists, handed over by a program."""
    del folder
    columns, names = odd_columns(rng)
    kind = str(rng.choice(["polars", "lazy", "lists", "pandas", "pandas objects", "short", "twice", "index"]))
    frame = pl.DataFrame(columns).rename({"u": "user", "i": "item", "t": "time", "r": "rating"})

    def made() -> Any:
        if kind == "polars":
            return frame
        if kind == "lazy":
            return frame.lazy()
        if kind == "lists":
            return {name: frame[name].to_list() for name in frame.columns}
        if kind == "short":
            return {name: frame[name].to_list()[: 5 + at] for at, name in enumerate(frame.columns)}
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]

        objects = {name: pd.Series(frame[name].to_list(), dtype="object") for name in frame.columns}
        table = pd.DataFrame(objects)
        if kind == "twice":
            return pd.concat([table, table], axis=1)
        if kind == "index":
            return table.set_index(pd.Index(range(1, len(table) + 1), name="user"))
        return (
            table
            if kind == "pandas objects"
            else table.convert_dtypes()
            if rng.random() < 0.5
            else table.infer_objects()
        )

    def answer() -> bool:
        _odd_is_right(Tables("x", "user", "item", made()), columns)
        return True

    return f"{kind}: {', '.join(names)}", answer


def own_parts(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Own files of training, validation and test rows, which may overlap, or hold keys that nobody knows."""
    kinds = rng.choice(["csv", "tsv", "parquet"], 3)
    files = {part: f"{part}.{kind}" for part, kind in zip(("train", "valid", "test"), kinds, strict=True)}
    keys = {c: hostile(rng, KEYS, 60)[1] for c in "ui"}
    rows: dict[str, list[tuple[str, str]]] = {}
    for at, (part, file) in enumerate(files.items()):
        n = int(rng.integers(0, 21))
        pairs = list(zip(*(keys[c][20 * at : 20 * at + n] for c in "ui"), strict=True))
        columns = {c: ("text", [pair[n] for pair in pairs], 0) for n, c in enumerate("ui")}
        naive = written(rng, columns, folder / file)
        rows[part] = [(naive_key(row["u"]), naive_key(row["i"])) for row in naive.iter_rows(named=True)]
    section = {"file": files["train"], "valid": files["valid"], "test": files["test"], "user": "u", "item": "i",
               "duplicates": str(rng.choice(["error", "first", "last", "keep"]))}  # fmt: skip

    def answer() -> bool:
        tables = read(section, folder)
        for part, frame in tables.given.items():
            found = set(zip(frame["user"].cast(pl.String), frame["item"].cast(pl.String), strict=True))
            assert {(naive_key(u), naive_key(i)) for u, i in found} <= set(rows[part]), f"other rows in {part}"
        assert not any(naive_missing(key) for pairs in rows.values() for pair in pairs for key in pair), "missing"
        split = make_split(tables, ProtocolConfig(split="given", without_train="drop"), 0)
        build_graph(tables, split, {})
        users, items = (ids.keys.cast(pl.String).to_list() for ids in (split.users, split.items))
        test = {
            (naive_key(users[u]), naive_key(items[i])) for u, i in zip(split.test.user, split.test.item, strict=True)
        }
        assert test <= set(rows["test"]), "other test rows"
        return True

    return f"{', '.join(files.values())}, {section['duplicates']}", answer


def node_tables(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Items with a hostile attribute: the edges are those of the values that are not missing, as they are written."""
    name = str(rng.choice(list(KEYS)))
    keys: list[Value] = list(KEYS[name])
    values = [
        KEYS[str(rng.choice(list(KEYS)))][0] if rng.random() < 0.1 else v for v in hostile(rng, KEYS, len(keys))[1]
    ]
    path, section = folder / f"n.{rng.choice(['csv', 'tsv', 'parquet'])}", {"file": "x.csv", "user": "u", "item": "i"}
    naive = written(rng, {"k": (name, keys, 0), "v": ("text", values, 0)}, path)
    pairs = [(f"u{n % 4}", key) for n, key in enumerate([*keys, *keys[::-1], *keys]) for _ in range(2)]
    pairs = list(dict.fromkeys(pairs))
    written(rng, {"u": ("text", [u for u, _ in pairs], 0), "i": (name, [i for _, i in pairs], 0)}, folder / "x.csv")

    def answer() -> bool:
        tables = read(section, folder, nodes={"item": {"file": path.name, "key": "k"}})
        split = make_split(tables, ProtocolConfig(split="random-leave-one-out", without_train="drop"), 0)
        graph = build_graph(tables, split, {"v": Attribute(kind="attribute", node="item", column="v")})
        relation, items = graph.relation("v"), graph.nodes["item"].keys.cast(pl.String).to_list()
        targets = graph.nodes[relation.target].keys.cast(pl.String).to_list()
        found = {
            (naive_key(items[s]), naive_key(targets[d].strip()))
            for s, d in zip(relation.src, relation.dst, strict=True)
        }
        there = set(map(naive_key, items))
        rows = [(naive_key(r["k"]), r["v"]) for r in naive.iter_rows(named=True)]
        expected = {(k, naive_key(str(v).strip())) for k, v in rows if k in there and not naive_missing(v)}
        assert found == expected, f"other edges: {sorted(found ^ expected)[:3]}"
        return True

    return f"{path.suffix} {name}", answer


def damaged(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """A good table some bytes of which are not what they were: read as something, or one error."""
    good = ({"whole": KEYS["whole"], "text": KEYS["text"]}, {"s": TIMES["s"], "iso": TIMES["iso"]},
            {"numbers": RATINGS["numbers"]})  # fmt: skip
    columns = {c: hostile(rng, menu) for c, menu in zip("uitr", (good[0], *good), strict=True)}
    path = folder / f"x.{rng.choice(['csv', 'tsv', 'parquet', 'parquet'])}"
    written(rng, columns, path)
    content = bytearray(path.read_bytes())
    done = [spoil(content, rng) for _ in range(int(rng.integers(1, 4)))]
    path.write_bytes(content)

    def answer() -> bool:
        splits_and_graph(read(section_of(path.name, drop=bool(rng.random() < 0.5)), folder))
        return True

    return f"{path.suffix} {', '.join(done)}", answer


PIECES = (
    b"\0", b'"', b'""', b"\r", b"\n", b"\n\n", b",", b"\t", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"\x1a", b"#", b"\\", b"\xe2\x80\xa8", b"9" * 400, b"e999", b"-", b"'" * 3, b"nan", b"PAR1",
)  # fmt: skip


SPOILS = ("flip", "random", "zeros", "truncate", "cut", "twice", "piece", "tail", "swap", "ones", "digit")


def spoil(content: bytearray, rng: Generator, kinds: Sequence[str] = SPOILS) -> str:
    """Change some bytes in place; returns what was done."""
    at, many = int(rng.integers(len(content) or 1)), int(rng.integers(1, 65))
    kind = str(rng.choice(kinds))
    if kind == "flip" and content:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "random":
        content[at : at + many] = rng.bytes(many)
    elif kind in ("zeros", "ones"):
        content[at : at + many] = (b"\0" if kind == "zeros" else b"\xff") * min(many, len(content) - at)
    elif kind == "truncate":
        del content[at:]
    elif kind == "cut":
        del content[at : at + many]
    elif kind == "twice":
        content[at:at] = content[at : at + many]
    elif kind == "piece":
        content[at:at] = PIECES[int(rng.integers(len(PIECES)))]
    elif kind == "tail" and len(content) > 60:  # where Parquet has its footer
        place = len(content) - 1 - int(rng.integers(60))
        content[place] = int(rng.integers(256))
    elif kind == "digit":
        places = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
        if places:
            content[places[int(rng.integers(len(places)))]] = int(rng.integers(48, 58))
    elif kind == "swap":
        content[at : at + many] = content[at : at + many][::-1]
    return kind


LINES: dict[str, tuple[str, Callable[[int, int, int], str]]] = {
    "sasrec": ("data.txt", lambda u, i, _: f"{u} {i}"),
    "s3rec": ("data.txt", lambda u, i, _: f"{u} {i} {i + 1} {i + 2}"),
    "lightgcn": ("train.txt", lambda u, i, _: f"{u} {i} {i + 1} {i + 2}"),
    "recbole": ("data.inter", lambda u, i, t: f"{u}\t{i}\t{t}"),
    "ml-100k": ("u.data", lambda u, i, t: f"{u}\t{i}\t{1 + i % 5}\t{t}"),
}  # fmt: skip


def data_sets(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Files of known data sets that are not what they should be."""
    name = str(rng.choice(list(LINES)))
    file, line = LINES[name]
    lines = [line(u + 1, (7 * u + 3 * n) % 20 + 1, NOW + 1000 * n) for u in range(12) for n in range(5)]
    if name == "recbole":
        lines.insert(0, "user_id:token\titem_id:token\ttimestamp:float")
        folder = folder / "data"
    content = bytearray("\n".join([*lines, ""]).encode())
    done = [
        spoil(content, rng, ("twice", "piece", "cut", "swap", "truncate", "digit", "flip"))
        for _ in range(int(rng.integers(1, 3)))
    ]
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    if name == "lightgcn":
        (folder / "test.txt").write_text("\n".join(f"{u} {u + 5}" for u in range(1, 12)))
    if name == "ml-100k":
        (folder / "u.user").write_text("".join(f"{u}|24|M|writer|{u:05}\n" for u in range(1, 14)))
        flags = "|".join(["0"] * 18 + ["1"])
        (folder / "u.item").write_text("".join(f"{i}|Film {i}|01-Jan-1995||x|{flags}\n" for i in range(1, 22)))
        (folder / "u.genre").write_text("".join(f"g{n}|{n}\n" for n in range(19)))
    if name == "s3rec":
        (folder / "data_item2attributes.json").write_text('{"1": [1, 2], "2": [3]}')
    options = {"file": file} if name in ("sasrec", "s3rec") else {}

    def answer() -> bool:
        splits_and_graph(
            read_tables(check({"dataset": name, "path": str(folder), **options}, DataConfig, "x"), folder)
        )
        return True

    return f"{name} {', '.join(done)}", answer


def compared(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Two tables of users and metrics with columns of odd types, as ``relrank compare`` reads them."""
    names = []
    for side in ("a", "b"):
        odd = {c: str(rng.choice(list(ODD))) if rng.random() < 0.3 else d for c, d in
               (("user", "text"), ("ndcg@10", "whole floats"), ("split", "enum"))}  # fmt: skip
        columns = {c: ODD[kind](ROWS) for c, kind in odd.items() if c != "split" or rng.random() < 0.5}
        if rng.random() < 0.8:
            columns["user"] = pl.Series([f"u{n}" for n in range(ROWS)])
        names.append(", ".join(odd.values()))
        try:
            pl.DataFrame(columns).write_parquet(folder / f"{side}.parquet")
        except BaseException:  # Polars cannot write every type
            return "not written", lambda: True

    def answer() -> bool:
        sides = (
            read_per_user_tables(folder / "a.parquet", "ndcg@10"),
            read_per_user_tables(folder / "b.parquet", "ndcg@10"),
        )
        found = compare_models(*sides, "ndcg@10", "1%")
        assert found.answer
        return True

    return " against ".join(names), answer


def keyed_frames(rng: Generator, folder: Path) -> tuple[str, Callable[[], bool]]:
    """Node tables of odd types handed over beside interactions whose keys are of another type."""
    del folder
    kinds = [str(rng.choice(list(ODD))) for _ in range(2)]
    rows = pl.DataFrame({"user": [f"u{n % 6}" for n in range(ROWS)], "item": [n % 9 for n in range(ROWS)]}).unique()
    key = pl.Series("k", range(9)) if rng.random() < 0.5 else ODD[kinds[0]](ROWS).unique().alias("k")

    def answer() -> bool:
        table = pl.DataFrame({"k": key, "v": ODD[kinds[1]](len(key))})
        tables = Tables("x", "user", "item", rows, {"item": NodeTable("item", table, "k")})
        splits_and_graph(tables, v=Attribute(kind="attribute", node="item", column="v"))
        return True

    return ", ".join(kinds), answer


KINDS: dict[str, Callable[[Generator, Path], tuple[str, Callable[[], bool]]]] = {
    "interactions": interactions, "odd types in Parquet": odd_parquet, "frames": frames, "own parts": own_parts,
    "node tables": node_tables, "damaged bytes": damaged, "known data sets": data_sets, "tables to compare": compared,
    "frames of nodes": keyed_frames,
}  # fmt: skip
TURNS: Collection[str] = (*KINDS, "interactions", "damaged bytes", "interactions", "own parts")


def attacked(number: int, seed: int, folder: Path) -> Outcome:
    """Table ``number`` of the series that the seed gives."""
    rng, kind = np.random.default_rng([seed, number]), list(TURNS)[number % len(TURNS)]
    folder.mkdir(parents=True, exist_ok=True)
    done, answer = KINDS[kind](rng, folder)
    return judged(kind, f"number {number}: {done}", answer)


class HostileTables:
    """The part "tables"."""

    name, seconds = "tables", 30.0

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def open(self, folder: Path, seed: int) -> Attack:
        """A table in a folder of the lane."""
        del folder
        return lambda number: attacked(number, seed, Path("x"))
