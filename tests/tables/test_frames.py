"""Frames that a program hands over are checked like files, whoever made them."""

import datetime as dt
import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.build_graph import Attribute, Link, build_graph
from relrank.tables.files import as_keys, as_numbers
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import LinkTable, NodeTable, Tables, TextTable

LAST = ProtocolConfig(split="last-leave-one-out")
#: four users, each with three of five items, one a day
USERS = [7, 7, 7, 1, 1, 1, 3, 3, 3, 9, 9, 9]
ITEMS = [50, 51, 52, 51, 52, 53, 52, 53, 54, 50, 52, 54]
TIMES = [1_700_000_000 + 86_400 * n for n in range(12)]
FRAME = pl.DataFrame({"user": USERS, "item": ITEMS, "time": TIMES})


def split_of(frame: Any, protocol: ProtocolConfig = LAST, **more: Any) -> Any:
    return make_split(Tables("shop", "user", "item", frame, **more), protocol, 0)


def refused(frame: Any, **more: Any) -> InputError:
    with pytest.raises(InputError) as error:
        split_of(frame, **more)
    return error.value


@pytest.mark.parametrize(
    "dtype", [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64]
)
def test_any_whole_numbers_are_the_same_keys(dtype):
    expected = split_of(FRAME)
    found = split_of(FRAME.with_columns(pl.col("user", "item").cast(dtype)))
    assert found.fingerprint == expected.fingerprint
    assert found.users.keys.to_list() == [1, 3, 7, 9]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["07", "1.10", "x"])])
def test_text_keys_stay_as_they_are(dtype):
    keys = pl.Series("user", ["07"] * 3 + ["1.10"] * 3 + ["x"] * 3 + ["07"] * 3, dtype=dtype)
    found = split_of(FRAME.with_columns(keys).head(9))
    assert found.users.keys.to_list() == ["07", "1.10", "x"]


@pytest.mark.parametrize(
    ("column", "values", "row"),
    [
        ("user", pl.Series([7, None] + [7] * 10), 2),
        ("item", pl.Series(["a"] * 4 + [None] + ["a"] * 7), 5),
        ("item", pl.Series(["a", "a", " "] + ["a"] * 9), 3),
        ("user", pl.Series([1.0, 2.0, float("nan")] + [1.0] * 9), 3),
        ("time", pl.Series([*TIMES[:11], None]), 12),
        ("rating", pl.Series([1.0, None] + [1.0] * 10), 2),
        ("rating", pl.Series([1.0, float("nan")] + [1.0] * 10), 2),
    ],
)
def test_a_missing_value_is_said_with_its_column_and_row(column, values, row):
    error = refused(FRAME.with_columns(values.alias(column)))
    assert error.what == "value is missing"
    assert error.where == f"shop, interactions, column {column!r}, row {row}"


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("user", [True, False] * 6, "type cannot be a key"),
        ("user", [1.5] * 12, "type cannot be a key"),
        ("item", [[1]] * 12, "type cannot be a key"),
        ("item", [dt.date(2024, 1, 1)] * 12, "type cannot be a key"),
        ("user", pl.Series([2**63 + 1] * 12, dtype=pl.UInt64), "number is too large"),
        ("time", [1.5] * 12, "times are not plausible"),
        ("time", [True] * 12, "column holds no times"),
        ("time", ["soon"] * 12, "not a time"),
        ("rating", [float("inf")] * 12, "not a finite number"),
        ("rating", ["good"] * 12, "not a finite number"),
    ],
)
def test_a_type_that_cannot_be_is_refused(column, values, what):
    error = refused(FRAME.with_columns(pl.Series(column, values)))
    assert what in error.what
    assert f"column {column!r}" in error.where


def test_dates_are_seconds():
    dates = FRAME.with_columns(pl.from_epoch("time"))
    temporal = ProtocolConfig(split="temporal", cut="2023-11-22", valid_cut="2023-11-20")
    assert split_of(dates).fingerprint == split_of(FRAME).fingerprint
    with pytest.raises(InputError, match="cut is outside the data"):
        split_of(dates.with_columns(pl.col("time").dt.offset_by("2y")), temporal)
    days = dates.with_columns(pl.col("time").dt.date())
    assert split_of(days).train.time.tolist()[0] == 1_699_920_000 + 3 * 86_400  # user 1's first day, at midnight


def test_fractions_of_seconds_stay_and_other_times_go_by_the_same_clock():
    base = dt.datetime(2024, 1, 1)
    times = [base + dt.timedelta(milliseconds=100 * n) for n in range(12)]
    frame = FRAME.with_columns(pl.Series("time", times))
    seen = pl.DataFrame({"user": [7], "item": [50], "at": [1_704_067_200]})
    views = {"views": LinkTable("views", seen, "user", "user", "user", "item", "item", time="at")}
    tables = Tables("shop", "user", "item", frame, links=views)
    assert tables.ticks == 10**9
    assert tables.links["views"].frame["at"].to_list() == [1_704_067_200 * 10**9]
    assert split_of(frame).test.item.tolist() == split_of(FRAME).test.item.tolist()


def test_milliseconds_are_seen_and_said():
    tables = Tables("shop", "user", "item", FRAME.with_columns(pl.col("time") * 1000))
    assert tables.interactions.equals(FRAME)
    assert "read as milliseconds since 1970: 2023-11-14 to 2023-11-25" in str(tables.notices[0])


def test_words_that_are_no_keys():
    words = FRAME.with_columns(user=pl.Series(["a"] * 3 + ["nan"] * 3 + ["b"] * 3 + ["c"] * 3))
    assert "row 4" in refused(words).where
    kept = Tables("shop", "user", "item", words, na_values=())
    assert "nan" in kept.interactions["user"]


def test_what_occurs_twice_lacks_a_column_or_has_no_rows_is_refused():
    twice = refused(pl.concat([FRAME, FRAME[2:4]]))
    assert twice.what == "a user has an item twice"
    assert twice.where == "shop, interactions, row 3"
    assert "(7, 52); 4 such rows" in twice.found
    assert "a column 'item'" in refused(FRAME.drop("item")).expected
    assert refused(FRAME.head(0)).what == "table has no rows"
    assert refused(5).found == "int"
    assert refused({"user": [1], "item": [1, 2]}).what == "not readable as a frame"
    given = {"train": FRAME.head(6), "test": FRAME.tail(6).with_columns(pl.col("user").cast(pl.String))}
    error = refused(FRAME, protocol=ProtocolConfig(split="given"), given=given)
    assert error.what == "parts have keys of different types"


def test_columns_by_name_and_lazy_frames_will_do():
    expected = split_of(FRAME).fingerprint
    assert split_of(FRAME.lazy()).fingerprint == expected
    assert split_of(FRAME.to_dict(as_series=False)).fingerprint == expected


def test_node_and_link_tables_too():
    frame = pl.DataFrame({"id": pl.Series([50, 51, 52, 53, 54], dtype=pl.UInt16), "brand": ["a", "a", "b", "b", "b"]})
    nodes = {"item": NodeTable("item", frame.with_columns(pl.col("brand").cast(pl.Categorical)), "id")}
    tables = Tables("shop", "user", "item", FRAME, nodes)
    graph = build_graph(
        tables, make_split(tables, LAST, 0), {"brand": Attribute(kind="attribute", node="item", column="brand")}
    )
    assert len(graph.relations["brand"]) == 5
    links = {"near": LinkTable("near", frame.rename({"id": "a"}), "item", "a", "id", "brand", "brand")}
    assert Tables("shop", "user", "item", FRAME, nodes, links).links["near"].frame.schema["a"] == pl.Int64
    with pytest.raises(InputError, match=r"column not found[\s\S]*nodes 'item'[\s\S]*'key'"):
        Tables("shop", "user", "item", FRAME, {"item": NodeTable("item", frame, "key")})
    with pytest.raises(InputError, match="value is missing"):
        Tables(
            "shop",
            "user",
            "item",
            FRAME,
            {"item": NodeTable("item", frame.with_columns(id=pl.lit(None, pl.Int64)), "id")},
        )


class Series(list[Any]):
    """As much of a pandas column as is read."""

    def to_numpy(self) -> Any:
        return np.array(self, dtype=object if any(not isinstance(v, int) for v in self) else None)

    def isna(self) -> Any:
        return Series([v is None for v in self])

    def tolist(self) -> list[Any]:
        return list(self)


class At:
    def __init__(self, columns: list[Series]) -> None:
        self.columns = columns

    def __getitem__(self, at: tuple[slice, int]) -> Series:
        return self.columns[at[1]]


class PandasLike:
    """As much of a pandas frame as is read."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = list(columns)
        self.iloc = At([Series(values) for values in columns.values()])


PandasLike.__module__ = "pandas.core.frame"


def test_frames_of_pandas_are_read_without_pandas():
    data = {"user": USERS, "item": [f"i{n}" for n in ITEMS], "time": TIMES}
    assert split_of(PandasLike(data)).fingerprint == split_of(pl.DataFrame(data)).fingerprint
    data["item"] = [None, *data["item"][1:]]
    assert refused(PandasLike(data)).where == "shop, interactions, column 'item', row 1"
    data["item"] = [5, *data["item"][1:]]
    assert refused(PandasLike(data)).found == "int, str"


def test_importing_the_tables_asks_for_no_pandas():
    code = "import relrank, sys; relrank.Tables; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_frames_of_real_pandas():
    pandas = pytest.importorskip("pandas")
    data = {"user": USERS, "item": [f"i{n}" for n in ITEMS], "time": TIMES}
    frame = pandas.DataFrame(data)
    expected = split_of(pl.DataFrame(data)).fingerprint
    assert split_of(frame).fingerprint == expected
    assert split_of(frame.astype({"user": "Int32", "item": "category"})).fingerprint == expected
    frame["time"] = pandas.to_datetime(frame["time"], unit="s", utc=True)
    assert split_of(frame).fingerprint == expected
    frame.loc[4, "user"] = None
    assert refused(frame).where == "shop, interactions, column 'user', row 5"


ITEMS_OF = pl.DataFrame({"id": [50, 51, 52, 53, 54], "code": [1.0, 2.0, None, 4.0, 5.0]})
PAIRS = [(50, "x"), (51, "x"), (53, "y")]


def edges_of(link: pl.DataFrame, items: pl.DataFrame = ITEMS_OF, match: str = "id", **more: Any) -> list[Any]:
    """(item, brand) of every edge that a link table of frames gives."""
    links = {"made": LinkTable("made", link, "item", "item", match, "brand", "brand", **more)}
    tables = Tables("shop", "user", "item", FRAME, {"item": NodeTable("item", items, "id")}, links)
    graph = build_graph(tables, make_split(tables, LAST, 0), {"made": Link(kind="link", table="made")})
    made = graph.relations["made"]
    ends = graph.nodes["item"].at(made.src), graph.nodes["brand"].at(made.dst)
    return sorted(zip(*ends, strict=True))


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Categorical, pl.Int128])
def test_keys_of_links_match_as_those_of_files_do(dtype):
    link = pl.DataFrame(PAIRS, schema=["item", "brand"], orient="row")
    typed = link.with_columns(pl.col("item").cast(pl.String).cast(dtype) if dtype == pl.Categorical
                              else pl.col("item").cast(dtype))  # fmt: skip
    assert edges_of(typed) == PAIRS
    text = ITEMS_OF.with_columns(pl.col("id").cast(pl.String))
    links = {"made": LinkTable("made", typed, "item", "item", "id", "brand", "brand")}
    tables = Tables("shop", "user", "item", FRAME, {"item": NodeTable("item", text, "id")}, links)
    assert tables.links["made"].frame["item"].to_list() == ["50", "51", "53"]
    codes = typed.with_columns(item=pl.Series([1, 2, 4]).cast(pl.String).cast(dtype) if dtype == pl.Categorical
                               else pl.Series([1, 2, 4]).cast(dtype))  # fmt: skip
    assert edges_of(codes, match="code") == PAIRS  # of floats with a missing one


@pytest.mark.parametrize(
    ("column", "values", "what", "row"),
    [
        ("item", ["50", "51", "none such"], "keys of different types", 3),
        ("item", [50.0, 51.5, 53.0], "keys of different types", 2),
        ("brand", [["x"], ["x"], ["y"]], "column holds no keys", None),
        ("who", ["7", "nobody", "1"], "keys of different types", 2),
    ],
)
def test_a_key_of_a_link_that_cannot_be_one_is_refused(column, values, what, row):
    link = pl.DataFrame({"item": [50, 51, 53], "brand": ["x", "x", "y"], "who": [7, 7, 1]})
    with pytest.raises(InputError, match=what) as error:
        edges_of(link.with_columns(pl.Series(column, values)), by="who")
    assert error.value.where == f"shop, links 'made', column {column!r}" + (f", row {row}" if row else "")


def test_missing_keys_of_links_are_no_edges():
    link = pl.DataFrame({"item": [50.0, float("nan"), 53.0, 51.0], "brand": ["x", "x", " ", None]})
    assert edges_of(link) == [(50, "x")]
    assert edges_of(link.with_columns(pl.col("brand").fill_null("nan"))) == [(50, "x")]


def test_values_of_links_without_a_node_table_are_keys_of_one_kind():
    link = pl.DataFrame({"item": [50, 51, 53], "brand": [1.0, 1.0, 2.0]})
    assert edges_of(link) == [(50, 1), (51, 1), (53, 2)]
    truth = link.with_columns(brand=pl.Series([True, True, False]))
    assert edges_of(truth) == [(50, "true"), (51, "true"), (53, "false")]
    texts = pl.DataFrame({"key": [50.0, 51.0], "kind": "text", "text": ["a", "b"], "by": ["7", "1"]})
    tables = Tables("shop", "user", "item", FRAME, texts=TextTable("item", texts))
    assert tables.texts is not None
    assert tables.texts.frame.select("key", "by").rows() == [(50, 7), (51, 1)]


def test_moments_of_pandas_keep_their_nanoseconds():
    pandas = pytest.importorskip("pandas")
    base = 1_700_000_000 * 10**9
    exact = [base + n for n in range(12)]
    naive = pandas.to_datetime(exact, unit="ns")
    zoned = naive.tz_localize("UTC")
    objects = [pandas.Series(times).astype(object) for times in (naive, zoned)]
    for times in (naive, zoned, zoned.tz_convert("Asia/Kolkata"), *objects):
        frame = pandas.DataFrame({"user": USERS, "item": ITEMS, "time": times})
        tables = Tables("shop", "user", "item", frame)
        assert tables.interactions["time"].to_list() == exact
        assert tables.ticks == 10**9


@pytest.mark.parametrize("column", ["item", "brand", "who"])
def test_infinite_keys_are_one_error(column):
    link = pl.DataFrame({"item": [50, 51, 53], "brand": ["x", "x", "y"], "who": [7, 7, 1]})
    link = link.with_columns(pl.Series(column, [50.0, float("inf"), 53.0]))
    with pytest.raises(InputError, match="infinite") as error:
        edges_of(link, by="who")
    assert error.value.where == f"shop, links 'made', column {column!r}, row 2"
    with pytest.raises(InputError, match="infinite"):
        as_keys(link[column], "x.parquet")


def test_values_that_python_has_not_are_shown_all_the_same():
    far = pl.Series([10**18] * 12).cast(pl.Datetime("us"))  # the year 33658
    assert "33658" in refused(FRAME.with_columns(rating=far)).found
    link = pl.DataFrame({"item": [50, 51, 53], "brand": ["x", "x", "y"], "w": far[:3]})
    with pytest.raises(InputError, match="not numeric") as error:
        edges_of(link, weight="w")
    assert "33658" in error.value.found
    with pytest.raises(InputError, match="not a finite number") as error:
        as_numbers(far, "x.parquet")
    assert "33658" in error.value.found


@pytest.mark.parametrize("kinds", [[1, 2], [True, False], [dt.date(2024, 1, 1)] * 2, [b"a", b"b"], [["a"], ["b"]]])
def test_kinds_of_texts_are_text_or_one_error(kinds):
    texts = TextTable("item", pl.DataFrame({"key": [50, 51], "kind": kinds, "text": ["a", "b"]}))
    if isinstance(kinds[0], bytes | list):
        with pytest.raises(InputError, match="column is not text"):
            Tables("shop", "user", "item", FRAME, texts=texts)
        return
    tables = Tables("shop", "user", "item", FRAME, texts=texts)
    assert tables.texts is not None
    assert all(isinstance(kind, str) for kind in tables.texts.kinds)
    with pytest.raises(InputError, match="a column 'kind'"):
        Tables("shop", "user", "item", FRAME, texts=TextTable("item", texts.frame.drop("kind")))


def test_halves_of_characters_are_one_error():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"user": pandas.Series([f"\ud800{u}" for u in USERS], dtype=object), "item": ITEMS})
    error = refused(frame)
    assert error.where == "shop, interactions, column 'user'"
    assert "surrogates" in error.found


def test_a_message_is_short_however_long_the_cell_is():
    long = FRAME.with_columns(time=pl.Series(["x" * 100_000] * 12))
    assert len(str(refused(long))) < 1000
    names = FRAME.rename({"time": "y" * 100_000}).drop("item")
    assert len(str(refused(names))) < 5000
