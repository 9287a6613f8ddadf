"""Columns of any type, from Parquet files or frames, make a relation or feature, or one InputError."""

import math
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter

from relrank.errors import InputError
from relrank.graph.construction.build_graph import FeatureConfig, RelationConfig, build_graph
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import LinkTable, NodeTable, Tables, TextTable

N = 6
COLUMNS = {
    "numbers": pl.Series([1, 2, 3, 1, 2, 3]),
    "large": pl.Series([2**63, 2**64 - 1, 1, 1, 2, 3], dtype=pl.UInt64),
    "floats": pl.Series([1.5, math.nan, math.inf, 1.5, None, -math.inf]),
    "vast": pl.Series([1e308, -1e308, 1e-308, 0.0, 1.0, 2.0]),
    "text numbers": pl.Series(["1", " 2.5", "nan", "", "1e400", "007"]),
    "text": pl.Series(["a b", "a", "b", None, "NA", "a b c"]),
    "one text": pl.Series(["a"] * N),
    "nothing": pl.Series([None] * N),
    "blank": pl.Series(["", " ", "nan", None, "\t", "NULL"]),
    "missing word": pl.Series(["(missing)", "a", None, "b", "a", "b"]),
    "zero bytes": pl.Series(["a\0b", "a", "b", "\0", "a\nb", "\u200b"]),
    "lists": pl.Series([["a"], [], None, ["a", "b"], ["nan"], ["b"]]),
    "lists of numbers": pl.Series([[1.0, 2.0], [1.0], None, [math.nan, 1.0], [], [3.0, 4.0]]),
    "vectors": pl.Series([[1.0, 2.0], [2.0, 1.0], None, [0.0, 1.0], [1.0, 1.0], [3.0, 4.0]]),
    "arrays": pl.Series([[1.0, 2.0]] * N, dtype=pl.Array(pl.Float64, 2)),
    "nested": pl.Series([[["a"]], [["b"]], [], None, [["a"]], [["c"]]]),
    "records": pl.Series([{"a": n} for n in range(N)]),
    "bytes": pl.Series([b"\xff", b"a", None, b"a", b"b", b"c"]),
    "truth": pl.Series([True, False, None, True, False, True]),
    "dates": pl.Series([date(2024, 1, n + 1) for n in range(N)]),
    "zoned": pl.Series([datetime(2024, 1, n + 1, tzinfo=UTC) for n in range(N)]),
    "spans": pl.Series(range(N), dtype=pl.Duration("us")),
    "clocks": pl.Series(range(N), dtype=pl.Time),
    "categories": pl.Series(["a", "b", "nan", "a", None, "b"], dtype=pl.Categorical),
    "decimals": pl.Series(["1.10", "2.00", "1.1", None, "3", "4"]).cast(pl.Decimal(10, 2)),
}
RELATIONS = [
    {"kind": "attribute", "node": "item", "column": "c"},
    {"kind": "attribute", "node": "item", "column": "c", "missing": "node", "ignore_case": True},
    {"kind": "attribute", "node": "item", "column": "c", "separator": " ", "levels": ">"},
    {"kind": "attribute", "node": "item", "column": "c", "target": "item"},
    {"kind": "bins", "node": "item", "column": "c", "edges": [1.0]},
    {"kind": "bins", "node": "item", "column": "c", "quantiles": 2},
    {"kind": "text", "node": "item", "columns": ["c"], "min_df": 1},
    {"kind": "text", "node": "item", "texts": "text", "min_df": 1},
    {"kind": "texts", "of": "text", "dims": 1, "min_df": 1},
    {"kind": "link", "table": "links"},
    {"kind": "link", "table": "links", "weight": "log1p", "top": 2**31 - 1, "duplicates": "max"},
]  # fmt: skip
FEATURES = [
    {"kind": "number", "node": "item", "column": "c"},
    {"kind": "number", "node": "item", "column": "c", "log": True},
    {"kind": "bins", "node": "item", "column": "c", "quantiles": 10_000},
    {"kind": "category", "node": "item", "column": "c"},
    {"kind": "multi-hot", "node": "item", "column": "c"},
    {"kind": "multi-hot", "node": "item", "column": "c", "separator": " "},
    {"kind": "text", "node": "item", "columns": ["c"], "dims": 1, "min_df": 1},
    {"kind": "vector", "node": "item", "column": "c"},
    {"kind": "vector", "node": "item", "columns": ["c"]},
]  # fmt: skip
CASES = [(RelationConfig, section) for section in RELATIONS] + [(FeatureConfig, section) for section in FEATURES]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.filterwarnings("error")
def test_any_column_is_read_or_one_error(name: str) -> None:
    column = COLUMNS[name]
    rows = Interactions(np.zeros(N, np.int32), np.arange(N, dtype=np.int32))
    none = rows.take(np.zeros(0, np.int64))
    split = Split(IdMap("user", pl.Series(["u"])), IdMap("item", pl.Series(range(N))), rows, none, none, "t", "f")
    frame = pl.DataFrame({"item": range(N), "c": column})
    links = LinkTable("links", frame.with_columns(w=pl.col("c")), "item", "item", "item", "tag", "c", weight="w")
    texts = TextTable("item", frame.select(key="item", kind=pl.lit("text"), text="c"))
    made = 0
    for kind, section in CASES:
        config = TypeAdapter(kind).validate_python(section)
        relations, features = ({"r": config}, {}) if kind is RelationConfig else ({}, {"r": config})
        linked = {"links": links} if section["kind"] == "link" else {}
        try:
            tables = Tables(
                "t", "user", "item", pl.DataFrame(), {"item": NodeTable("item", frame, "item")}, linked, texts
            )
            graph = build_graph(tables, split, relations, features)
        except InputError:
            continue
        made += 1
        if "r" in graph.relations:
            assert np.isfinite(graph.relations["r"].weight).all()
            assert graph.relations["r"].src.min() >= 0
        for feature in graph.features.values():
            assert feature.dense is None or np.isfinite(feature.dense).all()
    assert made or name in ("nothing", "blank", "nested", "records", "bytes", "spans", "lists of numbers", "arrays")
