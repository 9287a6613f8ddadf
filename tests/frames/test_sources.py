"""What a frame may be, which column means what, and one clear error for what cannot be."""

from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from shop_frames import COLUMNS, DRIVER, shop

import relrank as rr
from relrank.errors import InputError
from relrank.frames.sources import Columns, Sources, library_of
from relrank.tables.frames import as_frame

PURCHASES, PRODUCTS = shop()


class Arrow:
    """A table that speaks Arrow's C interface and nothing else."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(schema)


def pandas_shop() -> tuple[Any, Any]:
    pandas = pytest.importorskip("pandas")
    frames = (pandas.DataFrame(frame.to_dict(as_series=False)) for frame in (PURCHASES, PRODUCTS))
    purchases, products = frames
    return purchases, products


def study(tmp_path: Any, purchases: Any = PURCHASES, products: Any = PRODUCTS, **more: Any) -> rr.Study:
    settings = {**COLUMNS, "nodes": {"product": products}, "relations": DRIVER, "out": tmp_path / "shop"} | more
    return rr.Study(purchases, **settings)


def fingerprint(one: rr.Study) -> str:
    return one.data.split_contexts[0].split.fingerprint


def test_frames_of_every_library_give_one_split(tmp_path):
    purchases, products = pandas_shop()
    expected = fingerprint(study(tmp_path / "polars"))
    same = {
        "pandas": (purchases, products),
        "nullable": (purchases.convert_dtypes(), products.convert_dtypes()),
        "objects": (purchases.astype({"customer": object}), products.astype({"driver": object})),
        "categories": (purchases.astype({"customer": "category"}), products.astype({"driver": "category"})),
        "zone": (purchases.assign(bought_at=purchases["bought_at"].dt.tz_localize("UTC")), products),
        "index": (purchases, products.set_index("sku")),
        "unnamed index": (purchases.sample(frac=1, random_state=0).sort_index(), products),
        "arrow": (Arrow(PURCHASES), Arrow(PRODUCTS)),
        "lazy": (PURCHASES.lazy(), PRODUCTS.lazy()),
        "columns": (PURCHASES.to_dict(as_series=False), PRODUCTS),
    }
    for name, (rows, nodes) in same.items():
        assert fingerprint(study(tmp_path / name, rows, nodes)) == expected, name


def test_queries_of_duckdb_are_frames(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    PURCHASES.write_parquet(tmp_path / "purchases.parquet")
    rows = duckdb.sql(f"select * from read_parquet('{tmp_path / 'purchases.parquet'}')")
    assert fingerprint(study(tmp_path / "query", rows)) == fingerprint(study(tmp_path / "frame"))
    assert library_of(rows) == "polars"


def test_tables_of_pyarrow_give_tables_of_pyarrow(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    one = study(tmp_path, pyarrow.table(PURCHASES.to_dict(as_series=False)))
    assert isinstance(one.audit(quiet=True), pyarrow.Table)


def test_results_are_frames_of_the_library_that_the_user_came_with(tmp_path):
    purchases, products = pandas_shop()
    found = study(tmp_path / "pandas", purchases, products).audit(quiet=True)
    assert type(found).__module__.startswith("pandas")
    polars = study(tmp_path / "polars").audit(quiet=True)
    assert isinstance(polars, pl.DataFrame)
    assert found["finding"].tolist() == polars["finding"].to_list()
    assert found["count"].dtype == "int64"


def described(**more: Any) -> dict[str, Any]:
    columns = Columns(more.pop("user", "customer"), more.pop("item", "sku"), "bought_at")
    return Sources.of(more.pop("interactions", PURCHASES), columns, **more).data


def test_the_table_of_the_items_is_found_by_its_column():
    assert described()["item"] == "sku"
    assert described(nodes={"product": PRODUCTS})["item"] == "product"
    assert described(nodes={"product": PRODUCTS})["nodes"]["product"] == {
        "file": "product.parquet",
        "key": "sku",
        "title": "title",
    }
    # a table named like the column is the one, whatever its key is called
    shelf = PRODUCTS.with_columns(shelf=pl.format("shelf {}", "sku"))
    other = described(nodes={"sku": PRODUCTS.rename({"sku": "id"}), "shelf": shelf})
    assert (other["item"], other["nodes"]["sku"]["key"]) == ("sku", "id")
    # of two with the column, the one with a row per key
    stock = pl.DataFrame({"id": [1, 2], "sku": [0, 0]})
    assert described(nodes={"stock": stock, "product": PRODUCTS})["item"] == "product"


def test_links_and_texts_are_described_by_their_columns():
    rows = pl.DataFrame({"sku": [0, 1], "shop": ["a", "b"]})
    texts = pl.DataFrame({"sku": [0], "text": ["good"], "kind": ["review"]})
    data = described(nodes={"product": PRODUCTS}, links={"sold/by": (rows, "sku", "shop")}, texts=texts)
    assert data["links"]["sold/by"] == {
        "file": "sold_by.parquet",
        "source_column": "sku",
        "target_column": "shop",
        "source": "product",
        "target": "shop",
    }
    assert data["texts"] == {
        "file": "texts.parquet",
        "key": "sku",
        "text": "text",
        "kind": "kind",
        "node": "product",
    }


def test_a_frame_that_is_passed_twice_is_stored_once():
    sources = Sources.of(
        PURCHASES, Columns("customer", "sku"), {"product": PRODUCTS}, {"made": (PRODUCTS, "sku", "driver")}
    )
    assert list(sources.tables) == ["interactions.parquet", "product.parquet"]
    assert sources.data["links"]["made"]["file"] == "product.parquet"


NO_KEY = PRODUCTS.select("title", "driver")
TWO = {"product": PRODUCTS, "stock": PRODUCTS.select("sku")}


@pytest.mark.parametrize(
    ("more", "what", "found"),
    [
        ({"item": "skuu"}, "column not found", "did you mean 'sku'"),
        ({"user": 3}, "argument has the wrong type", "3"),
        ({"user": "sku"}, "a column is used twice", "item='sku'"),
        ({"time": "sku"}, "a column is used twice", "time='sku'"),
        ({"interactions": [{"customer": 1, "sku": 2}]}, "not a frame", "list"),
        ({"interactions": PURCHASES.clear()}, "frame has no rows", "none"),
        ({"interactions": PURCHASES.lazy().select("nothing")}, "lazy frame cannot be collected", "nothing"),
        ({"nodes": {"product": NO_KEY}}, "node table without a key", "title, driver"),
        ({"nodes": {"product": rr.Nodes(PRODUCTS, key="id")}}, "column not found", "driver"),
        ({"nodes": PRODUCTS}, "argument has the wrong type", "DataFrame"),
        ({"nodes": TWO}, "several node tables have a column of keys of the interactions", "product, stock"),
        ({"links": {"sold": PURCHASES}}, "not described", "DataFrame"),
        ({"links": {"sold": (PURCHASES, "sku", "shop")}}, "column not found", "customer, sku"),
        ({"texts": (PRODUCTS, "sku", "review")}, "column not found", "title"),
        (
            {"relations": {"made": {"kind": "attribut"}}},
            "setting does not fit",
            "'attribut'; did you mean 'attribute'",
        ),
        ({"models": ["ease"], "study": {"metric": "ndcg@7"}}, "unknown metric", "ndcg@7"),
        ({"protocol": "random"}, "setting does not fit", "random"),
        ({"name": "a/b"}, "setting does not fit", "a/b"),
    ],
)
def test_what_cannot_be_is_one_clear_error(tmp_path, more, what, found):
    rows = more.pop("interactions", PURCHASES)
    with pytest.raises(InputError) as refused:
        study(tmp_path, rows, **more)
    assert refused.value.what == what
    assert found in refused.value.found
    assert "rr.Study" in refused.value.where
    assert not (tmp_path / "shop").exists()


def test_columns_of_pandas_with_one_name_and_of_several_types_are_refused(tmp_path):
    purchases, products = pandas_shop()
    twice = purchases.assign(other=1).set_axis(["customer", "sku", "bought_at", "sku"], axis=1)
    mixed = products.assign(size=["S", *range(len(products) - 1)])
    for rows, nodes, what in ((twice, products, "column occurs twice"), (purchases, mixed, "of several types")):
        with pytest.raises(InputError, match=what):
            study(tmp_path, rows, nodes)


@pytest.mark.parametrize(
    ("rows", "nodes", "what"),
    [
        (PURCHASES.with_columns(sku=pl.col("sku") + 0.5), PRODUCTS, "two sides have no key in common"),
        (PURCHASES, pl.concat([PRODUCTS, PRODUCTS.head(1)]), "key occurs twice"),
        (pl.concat([PURCHASES, PURCHASES.head(1)]), PRODUCTS, "twice"),
    ],
)
def test_wrong_rows_are_said_when_the_frames_are_read(tmp_path, rows, nodes, what):
    with pytest.raises(InputError) as refused:
        _ = study(tmp_path, rows, nodes).data
    assert what in str(refused.value) or "key" in refused.value.what, refused.value


def test_named_levels_of_an_index_are_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2]}, index=pandas.Index(["x", "y"], name="key"))
    assert as_frame(frame, "here").to_dict(as_series=False) == {"key": ["x", "y"], "a": [1, 2]}
    assert as_frame(frame.rename_axis(None), "here").columns == ["a"]


def arrays() -> dict[str, Any]:
    """Columns of types whose memory polars can share with NumPy, and of others."""
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "datetime64[ns]")
    single = np.array([0.5, 1.5, 2.5], np.float32)
    return {"whole": np.array([1, 2, 3]), "real": np.array([0.5, 1.5, 2.5]), "single": single, "time": days,
            "yes": np.array([True, False, True]), "vector": np.ones((3, 2))}  # fmt: skip


OF_ARRAYS = {
    "columns": lambda columns: columns,
    "polars": pl.DataFrame,
    "lazy": lambda columns: pl.DataFrame(columns).lazy(),
    "narwhals": lambda columns: nw.from_native(pl.DataFrame(columns)),
    "arrow": lambda columns: Arrow(pl.DataFrame(columns)),
}


@pytest.mark.parametrize("library", OF_ARRAYS)
def test_edited_arrays_do_not_reach_the_copy_of_their_frame(library):
    columns = arrays()
    mine = as_frame(OF_ARRAYS[library](columns), "here", copy=True)
    before = mine.to_dicts()
    for values in columns.values():
        values[:] = values[1] + 1 if values.dtype.kind in "if" else values[1]
    assert mine.to_dicts() == before
    assert (before[0]["whole"], before[0]["real"], before[0]["vector"]) == (1, 0.5, [1.0, 1.0])


@pytest.mark.parametrize("wrap", [lambda frame: frame, nw.from_native])
def test_edited_frames_of_pandas_do_not_reach_their_copy(wrap):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"whole": [1, 2, 3], "real": [0.5, 1.5, 2.5], "yes": [True, False, True]})
    frame["nullable"] = pandas.array([1, 2, 3], "Int64")
    mine = as_frame(wrap(frame), "here")
    for name in frame.columns:
        frame.loc[0, name] = frame.loc[1, name]
    assert mine.row(0) == (1, 0.5, True, 1)
    assert library_of(wrap(frame)) == "pandas"


@pytest.mark.parametrize("kind", ["columns", "polars", "pandas"])
def test_a_study_is_of_the_frames_as_they_were_given(tmp_path, kind):
    def of(out: str) -> tuple[rr.Study, dict[str, Any], Any]:
        columns = {name: PURCHASES[name].to_numpy().copy() for name in PURCHASES.columns}
        products = {"sku": PRODUCTS["sku"].to_numpy().copy(), "price": np.arange(len(PRODUCTS)) % 3}
        if kind == "columns":
            return study(tmp_path / out, columns, products, relations={}), products, columns
        library = pl if kind == "polars" else pytest.importorskip("pandas")
        rows, nodes = library.DataFrame(columns), library.DataFrame(products)
        edited = (products, columns) if kind == "polars" else (nodes, rows)
        return study(tmp_path / out, rows, nodes, relations={}), *edited

    untouched, edited = of("one")[0], of("two")
    one, nodes, rows = edited
    if kind == "pandas":
        nodes.loc[:, "price"] = 7
        rows.loc[:, "sku"] = rows["sku"].iloc[0]
    else:
        nodes["price"][:] = 7
        rows["sku"][:] = rows["sku"][0]
    assert fingerprint(one) == fingerprint(untouched)
    assert one.data.tables.nodes["product"].frame["price"].n_unique() == 3
