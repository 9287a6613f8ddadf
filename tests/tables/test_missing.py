"""One rule of what is missing, in every kind of column and file; nothing that is missing becomes a row or a time."""

import math
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import (
    Attribute,
    CategoryFeature,
    Link,
    MultiHotFeature,
    NumberFeature,
    TextNodes,
)
from relrank.tables.config import check
from relrank.tables.missing import is_missing
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, NodesConfig, read_tables
from relrank.tables.tables import NodeTable, Tables, TextTable

DAY = 86_400
ROWS = pl.DataFrame(
    {"u": [f"u{u}" for u in range(4) for _ in range(4)], "i": [f"i{(u + n) % 5}" for u in range(4) for n in range(4)],
     "r": [1.0, 2.0, 3.0, 4.0] * 4, "t": [1_700_000_000 + n * DAY for n in range(16)]}
)  # fmt: skip
ITEMS = pl.DataFrame(
    {"i": [f"i{n}" for n in range(5)], "c": ["x", "y", "x", "y", "x"],
     "n": ["1", "2.5", "3", "4", "5"]}
)  # fmt: skip
WORDS = ["", "  ", "nan", " NaN ", "None", "NULL", "null", "NA", "N/A", "<NA>", "NaT", "\\N"]


def config(ending: str, rows: dict[str, object] | None = None, **more: object) -> DataConfig:
    described = {"file": f"x.{ending}", "user": "u", "item": "i", "rating": "r", "time": "t", **(rows or {})}
    nodes = {"item": {"file": f"items.{ending}", "key": "i"}}
    return check({"user": "user", "item": "item", "interactions": described, "nodes": nodes, **more}, DataConfig, "x")


def write(folder: Path, frame: pl.DataFrame, name: str, ending: str) -> None:
    path = folder / f"{name}.{ending}"
    if ending == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if ending == "csv" else "\t")


def with_value(frame: pl.DataFrame, column: str, row: int, value: object) -> pl.DataFrame:
    values = frame[column].to_list()
    values[row - 1] = value
    strict = isinstance(value, str) and frame[column].dtype != pl.String
    return frame.with_columns(pl.Series(column, [str(v) for v in values] if strict else values, strict=False))


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("column", ["u", "i", "r", "t"])
@pytest.mark.parametrize("value", [*WORDS, None, math.nan])
def test_a_missing_key_number_or_time_is_an_error_with_its_row(
    tmp_path: Path, ending: str, column: str, value: object
) -> None:
    if value is math.nan and column in "ui":
        keys = ROWS[column].str.slice(1).cast(pl.Float64)
        rows = with_value(ROWS.with_columns(keys), column, 7, value)
    else:
        rows = with_value(ROWS, column, 7, value)
    write(tmp_path, rows, "x", ending)
    write(tmp_path, ITEMS, "items", ending)
    with pytest.raises(InputError, match="value is missing") as error:
        read_tables(config(ending), tmp_path)
    assert error.value.where == f"{tmp_path / 'x'}.{ending}, column '{column}', row 7"
    if not (column == "i" and value is math.nan):  # the other keys would be of no item
        tables = read_tables(config(ending, {"missing": "drop"}), tmp_path)
        assert len(tables.interactions) == 15
        assert [(n.where, n.message, n.count) for n in tables.notices] == [
            (f"x.{ending}", "rows with a missing key, number or time dropped", 1)
        ]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_keep_their_numbers_where_others_are_dropped(tmp_path: Path, ending: str) -> None:
    rows = with_value(with_value(ROWS, "u", 3, "nan"), "t", 9, "soon")
    write(tmp_path, rows, "x", ending)
    write(tmp_path, ITEMS, "items", ending)
    with pytest.raises(InputError, match="not a time") as error:
        read_tables(config(ending, {"missing": "drop"}), tmp_path)
    assert error.value.where.endswith("row 9")


def test_the_words_are_a_setting(tmp_path: Path) -> None:
    write(tmp_path, ROWS.with_columns(pl.col("u").replace("u1", "NA").replace("u2", "?")), "x", "csv")
    write(tmp_path, with_value(ITEMS, "c", 1, "NA"), "items", "csv")
    with pytest.raises(InputError) as error:
        read_tables(config("csv"), tmp_path)
    assert error.value.found == "'NA'; 4 rows in all"
    assert "na_values" in error.value.expected
    tables = read_tables(config("csv", {"missing": "drop"}, na_values=["?"]), tmp_path)
    assert tables.interactions["user"].unique().sort().to_list() == ["NA", "u0", "u3"]
    assert tables.nodes["item"].frame["c"].to_list() == ["NA", "y", "x", "y", "x"]
    cut = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    graph = build_graph(tables, cut, {"c": Attribute(kind="attribute", node="item", column="c")})
    assert graph.nodes["c"].keys.to_list() == ["NA", "x", "y"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_missing_keys_of_node_tables(tmp_path: Path, ending: str) -> None:
    write(tmp_path, ROWS, "x", ending)
    write(tmp_path, pl.concat([ITEMS.with_columns(i=pl.lit("NaN")).head(1), ITEMS]), "items", ending)
    with pytest.raises(InputError, match="value is missing") as error:
        read_tables(config(ending), tmp_path)
    assert error.value.where.endswith("column 'i', row 1")
    dropped = NodesConfig(file=f"items.{ending}", key="i", missing="drop")
    tables = read_tables(config(ending).model_copy(update={"nodes": {"item": dropped}}), tmp_path)
    assert tables.nodes["item"].frame["i"].to_list() == ITEMS["i"].to_list()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("read", [True, False])
def test_attributes_features_links_and_texts_share_the_rule(tmp_path: Path, word: str, read: bool) -> None:
    """From files and from frames alike: no node, no edge and no text of the word."""
    items = with_value(with_value(ITEMS, "c", 2, word), "n", 2, word)
    items = items.with_columns(l=pl.col("c") + "|" + pl.lit(word))
    frame = pl.DataFrame({"key": ITEMS["i"], "kind": "text", "text": ["one", word, "two", "one", "two"]})
    if read:
        write(tmp_path, ROWS, "x", "csv")
        write(tmp_path, items, "items", "csv")
        write(tmp_path, frame, "texts", "csv")
        tables = read_tables(config("csv", texts={"file": "texts.csv", "key": "key", "text": "text"}), tmp_path)
    else:
        tables = Tables(
            "t", "user", "item", ROWS.rename({"u": "user", "i": "item", "r": "rating", "t": "time"}),
            {"item": NodeTable("item", items, "i")}, texts=TextTable("item", frame),
        )  # fmt: skip
    cut = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    graph = build_graph(
        tables, cut,
        {"c": Attribute(kind="attribute", node="item", column="c"),
         "text": TextNodes(kind="texts", of="text", min_df=1, dims=1)},
        {"k": CategoryFeature(kind="category", node="item", column="c"),
         "l": MultiHotFeature(kind="multi-hot", node="item", column="l", separator="|"),
         "n": NumberFeature(kind="number", node="item", column="n")},
    )  # fmt: skip
    assert graph.nodes["c"].keys.to_list() == ["x", "y"]
    assert len(graph.relations["c"]) == 4
    assert len(graph.relations["text"]) == 4
    assert len(graph.nodes["text"]) == 2
    for name in ("k", "n"):
        assert graph.features[name].known.tolist() == [True, False, True, True, True]
    assert graph.features["l"].sparse is not None
    assert graph.features["l"].sparse.n_cols == 2


def test_frames_with_missing_keys_or_times_never_become_rows() -> None:
    frame = ROWS.rename({"u": "user", "i": "item", "r": "rating", "t": "time"})
    for column, value in (("user", None), ("user", "nan"), ("item", None), ("time", None), ("rating", math.nan)):
        with pytest.raises(InputError, match="value is missing") as error:
            Tables("t", "user", "item", with_value(frame, column, 7, value))
        assert error.value.where == f"t, interactions, column '{column}', row 7"
    floats = Tables("t", "user", "item", frame.with_columns(time=pl.col("time").cast(pl.Float64)))
    assert floats.interactions["time"].to_list() == frame["time"].to_list()


def test_links_of_missing_ends_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, ROWS, "x", "csv")
    write(tmp_path, ITEMS, "items", "csv")
    (tmp_path / "l.csv").write_text("i,tag\ni0,red\ni1, nan\ni2,red\n")
    link = {"file": "l.csv", "source": "item", "source_column": "i", "target": "tag", "target_column": "tag"}
    with pytest.raises(InputError, match="value is missing") as error:
        read_tables(config("csv", links={"l": link}), tmp_path)
    assert error.value.where.endswith("column 'tag', row 2")
    tables = read_tables(config("csv", links={"l": {**link, "missing": "drop"}}), tmp_path)
    cut = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    assert build_graph(tables, cut, {"l": Link(kind="link", table="l")}).nodes["tag"].keys.to_list() == ["red"]


def test_missing_values_of_any_type() -> None:
    for values, expected in (
        (pl.Series([1, None]), [False, True]),
        (pl.Series([1.0, math.nan, None]), [False, True, True]),
        (pl.Series(["a", " NaN", None, "nanny"], dtype=pl.Categorical), [False, True, True, False]),
        (pl.Series([["a"], None]), [False, True]),
        (pl.Series([None, None]), [True, True]),
    ):
        assert is_missing(values).to_list() == expected


def test_codes_keep_their_text_and_numbers_are_read_where_they_are_wanted(tmp_path: Path) -> None:
    codes = ["1", "01", "001", "1.0", "1.10"]
    write(tmp_path, ROWS, "x", "csv")
    items = ITEMS.with_columns(c=pl.Series(codes), n=pl.Series(["007", "1.10", "2", " 3 ", "1e1"]))
    write(tmp_path, items, "items", "csv")
    tables = read_tables(config("csv"), tmp_path)
    assert tables.nodes["item"].frame["c"].to_list() == codes
    cut = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    relations = {"c": Attribute(kind="attribute", node="item", column="c")}
    graph = build_graph(tables, cut, relations, {"n": NumberFeature(kind="number", node="item", column="n")})
    assert graph.nodes["c"].keys.to_list() == sorted(codes)
    values = graph.features["n"].dense
    assert values is not None
    mean = (7 + 1.1 + 2 + 3 + 10) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in (7, 1.1, 2, 3, 10)) / 5)
    assert values[:, 0].tolist() == pytest.approx([(v - mean) / deviation for v in (7, 1.1, 2, 3, 10)], abs=1e-6)
    with pytest.raises(InputError, match="column is not numeric") as error:
        build_graph(tables, cut, {}, {"n": NumberFeature(kind="number", node="item", column="i")})
    assert "'i0'" in error.value.found


def test_keys_with_spaces_at_their_ends_are_other_keys_and_said(tmp_path: Path) -> None:
    rows = ROWS.with_columns(u=pl.Series([f"{u} " if n < 2 else u for n, u in enumerate(ROWS["u"])]))
    items = ITEMS.with_columns(i=pl.Series([*ITEMS["i"][:-1], f" {ITEMS['i'][-1]}"]))
    write(tmp_path, rows.filter(pl.col("i") != ITEMS["i"][-1]), "x", "csv")
    write(tmp_path, items, "items", "csv")
    said = [(n.where, n.count) for n in read_tables(config("csv"), tmp_path).notices if "spaces" in n.message]
    assert said == [("items.csv, column i", 1), ("x.csv, column u", 2)]
    tables = Tables("t", "user", "item", rows.rename({"u": "user", "i": "item", "r": "rating", "t": "time"}))
    said = [(n.where, n.count) for n in tables.notices if "spaces" in n.message]
    assert said == [("t, interactions, column user", 2)]
