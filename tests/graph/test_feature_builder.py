"""Hand-made tables, hand-worked features. Books are 10, 20, 30, 40; book 50 is in the table but not in the split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from relrank.errors import InputError
from relrank.graph.construction.build_graph import FeatureConfig, RelationConfig, build_graph
from relrank.graph.construction.feature_builder import columns_of
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr
from relrank.tables.config import ConfigSection, check
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import NodeTable, Tables

BOOKS = pl.DataFrame(
    {
        "book_id": [50, 40, 30, 20, 10],
        "year": [2000.0, float("nan"), None, 1950.0, 1951.0],
        "pages": [9, 300, 200, 200, 100],
        "below": [5.0, -1.0, 2.0, 3.0, 4.0],
        "same": [1.0, 7.0, None, 7.0, 7.0],
        "endless": [1.0, 2.0, 3.0, float("inf"), 4.0],
        "language": ["xx", " nan ", "", "de", "en"],
        "one": ["b", "a", "a", "a", "a"],
        "half": [1.5, 1.5, 2.0, 3.0, 4.0],
        "kind": [1.0, 2.0, 2.0, None, 3.0],
        "read": [True, False, None, True, True],
        "authors": ["Zed", "nan", None, "Ann, Bob,Ann", "Bob , , NaN,Cy"],
        "genres": [["g"], [], None, ["g", "h"], ["h", None]],
        "void": [1.0, None, None, None, None],
        "title": ["red fox", None, "  ", "blue whale sings", "Blue Whale"],
        "about": ["red fox", "nan", "whale in the sea", "sings", "zebra"],
        "v1": [9.0, 4.0, 0.0, 0.0, 2.0],
        "v2": [9.0, 0.0, None, 0.0, 2.0],
        "w": [[9.0, 9.0], [4.0, 0.0], None, [0.0, 0.0], [2.0, 2.0]],
        "ragged": [[1.0], [1.0, 2.0], [1.0], None, []],
        "day": pl.Series(["2000-01-01"] * 5).str.to_date(),
    }
)
WRITERS = pl.DataFrame({"name": ["Zed", "Cy", "Ann", "Bob"], "born": [1, None, 30, 10]})


class Sections(ConfigSection):
    features: dict[str, FeatureConfig] = Field(default_factory=dict)
    relations: dict[str, RelationConfig] = Field(default_factory=dict)


def tables(books: pl.DataFrame = BOOKS) -> Tables:
    nodes = {"book": NodeTable("book", books, "book_id"), "writer": NodeTable("writer", WRITERS, "name")}
    return Tables("hand-made", "user", "book", pl.DataFrame({"user": ["u"], "item": [10]}), nodes=nodes)


def split(train: tuple[tuple[int, int], ...] = ((0, 0), (0, 1), (1, 2))) -> Split:
    """Users u, v; books in row order 10, 20, 30, 40; training rows as (user row, item row)."""
    user, item = np.array(train, np.int32).T
    held_out = Interactions(np.array([0], np.int32), np.array([3], np.int32))
    users, books = IdMap("user", pl.Series(["u", "v"])), IdMap("book", pl.Series([10, 20, 30, 40]))
    return Split(users, books, Interactions(user, item), held_out, held_out, "hand-made, seed 0", "fingerprint")


def build(source: Tables | None = None, cut: Split | None = None, **config: Any) -> Graph:
    """A graph with one feature ``f``, of books unless stated otherwise."""
    wrote = {"kind": "attribute", "node": "book", "column": "authors", "separator": ",", "target": "writer"}
    section = check({"features": {"f": {"node": "book", **config}}, "relations": {"wrote": wrote}}, Sections, "toml")
    return build_graph(source or tables(), cut or split(), section.relations, section.features)


def with_x(values: list[Any]) -> Tables:
    """Tables with a column ``x`` of books 50, 10, 20, 30, 40."""
    x = pl.DataFrame({"book_id": [50, 10, 20, 30, 40], "x": values})
    return tables(BOOKS.join(x, on="book_id", how="left", maintain_order="left"))


def feature(source: Tables | None = None, cut: Split | None = None, **config: Any) -> Feature:
    return build(source, cut, **config).features["f"]


def notices(graph: Graph) -> dict[str, int]:
    return {n.message: n.count for n in graph.notices if n.where == "[features.f]"}


def dense(f: Feature) -> list[list[float]]:
    assert f.dense is not None
    return f.dense.tolist()


def rows(f: Feature) -> list[list[int]]:
    """Columns of every row of a sparse feature."""
    assert f.sparse is not None
    assert set(f.sparse.data.tolist()) <= {1.0}
    return [f.sparse.indices[a:b].tolist() for a, b in zip(f.sparse.indptr[:-1], f.sparse.indptr[1:], strict=True)]


# -------------------------------------------------------------------------------------------------------- numbers


def test_number_is_standardised_over_the_nodes_of_the_graph_that_have_one() -> None:
    graph = build(kind="number", column="year")
    f = graph.features["f"]
    # 1951 and 1950: mean 1950.5, deviation 0.5; book 50 of the year 2000 is no node
    assert dense(f) == [[1], [-1], [0], [0]]
    assert f.known.tolist() == [True, True, False, False]  # null and NaN are missing, not 0
    assert notices(graph) == {"year is NaN: missing": 1, "book nodes without a value: missing": 2}


def test_logarithm_comes_before_the_mean() -> None:
    f = feature(kind="number", column="pages", log=True)
    x = np.log([101, 201, 201, 301])
    np.testing.assert_allclose(dense(f), ((x - x.mean()) / x.std())[:, None], rtol=1e-6)


@given(
    st.lists(st.one_of(st.none(), st.integers(-1000, 1000)), min_size=4, max_size=4), st.sampled_from([1e-290, 1e290])
)
def test_standardised_numbers_do_not_depend_on_the_unit(values: list[int | None], unit: float) -> None:
    known = [v for v in values if v is not None]
    if len(set(known)) < 2:
        return
    a, b = (
        feature(with_x([None, *(None if v is None else v * u for v in values)]), kind="number", column="x")
        for u in (1.0, unit)
    )
    np.testing.assert_allclose(dense(a), dense(b), atol=1e-6)  # no square overflows or vanishes
    assert a.dense is not None
    assert a.dense[a.known].std() == pytest.approx(1, rel=1e-6)
    assert not a.dense[~a.known].any()


# ----------------------------------------------------------------------------------------------------------- bins


def test_pitfall_missing_number_is_not_in_the_lowest_bin() -> None:
    f = feature(kind="bins", column="year", edges=[1950, 1990])
    assert rows(f) == [[1], [0], [], []]  # 1951, 1950: edges belong to the bin below
    assert f.known.tolist() == [True, True, False, False]
    assert f.dims == 3  # nobody is above 1990


def test_quantiles_are_measured_on_training_nodes() -> None:
    # as for the relation: training books have 100, 200, 200 pages, and with books 10 and 20 alone the median is 100
    assert rows(feature(kind="bins", column="pages", quantiles=2)) == [[0], [0], [0], [1]]
    f = feature(kind="bins", column="pages", quantiles=2, cut=split(((0, 0), (1, 0), (0, 1))))
    assert rows(f) == [[0], [1], [1], [1]]


# ----------------------------------------------------------------------------------------------------- categories


def test_pitfall_text_nan_is_never_a_category() -> None:
    graph = build(kind="category", column="language")
    f = graph.features["f"]
    assert rows(f) == [[1], [0], [], []]  # de, en; "" and " nan " are missing; xx is of no node
    assert f.known.tolist() == [True, True, False, False]
    assert notices(graph) == {"language is nan: missing": 1, "book nodes without a value: missing": 2}
    f = feature(kind="multi-hot", column="authors", separator=",")
    assert rows(f) == [[1, 2], [0, 1], [], []]  # Ann, Bob, Cy; a part NaN is none, nor is a cell nan
    # NaN as a number, and null
    f = feature(with_x([1.0, 2.0, float("nan"), None, 3.0]), kind="category", column="x")
    assert rows(f) == [[0], [], [], [1]]


def test_whole_numbers_and_truth_values_are_categories() -> None:
    f = feature(kind="category", column="kind")
    assert rows(f) == [[1], [], [0], [0]]
    assert feature(kind="category", column="read").known.tolist() == [True, True, False, True]
    assert rows(feature(kind="category", column="read")) == [[1], [1], [], [0]]


def test_rare_values_are_dropped_and_nodes_left_with_none_are_missing() -> None:
    graph = build(kind="multi-hot", column="authors", separator=",", min_count=2)
    f = graph.features["f"]
    assert rows(f) == [[0], [0], [], []]  # Bob of 2 books
    assert notices(graph)["values of fewer than 2 nodes: dropped"] == 2
    assert notices(graph)["value repeated in one cell: counts once"] == 1
    f = feature(kind="category", column="kind", min_count=2)
    assert (rows(f), f.known.tolist()) == ([[], [], [0], [0]], [False, False, True, True])


def test_lists_are_multi_hot() -> None:
    f = feature(kind="multi-hot", column="genres")
    assert rows(f) == [[1], [0, 1], [], []]
    assert f.known.tolist() == [True, True, False, False]


# ----------------------------------------------------------------------------------------------------------- text


TITLES = [
    "the quick brown fox", "a quick brown dog", "dog and fox and dog", "the lazy dog sleeps", "quick lazy fox sleeps",
    "blue whale sings", "the whale sleeps", "blue quick whale", "fox sings blue",
]  # fmt: skip


def long(texts: list[str | None]) -> Feature:
    """The text feature of books 0, 1, 2, …"""
    frame = pl.DataFrame({"id": range(len(texts)), "t": texts})
    source = Tables("t", "user", "book", pl.DataFrame(), nodes={"book": NodeTable("book", frame, "id")})
    cut = replace(split(), items=IdMap("book", pl.Series(range(len(texts)))))
    config = {"f": {"kind": "text", "node": "book", "columns": ["t"], "dims": 4, "min_df": 2}}
    return build_graph(source, cut, {}, check({"features": config}, Sections, "toml").features).features["f"]


def test_text_is_the_singular_vectors_of_tf_idf() -> None:
    f = long([*TITLES, None])
    words = sorted({w for t in TITLES for w in t.split() if sum(w in u.split() for u in TITLES) > 1 and len(w) > 1})
    count = np.array([[t.split().count(w) for w in words] for t in TITLES], float)
    x = count * (1 + np.log((1 + len(TITLES)) / (1 + (count > 0).sum(0))))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(x)
    expected = u[:, :4] * s[:4]
    expected *= np.sign(expected[np.abs(expected).argmax(0), range(4)])
    expected -= expected.mean(0)
    expected /= np.sqrt((expected**2).mean())
    np.testing.assert_allclose(dense(f)[:-1], expected, atol=1e-5)
    assert dense(f)[-1] == [0, 0, 0, 0]
    assert f.known.tolist() == [True] * len(TITLES) + [False]


def test_pitfall_missing_text_is_missing_and_not_empty() -> None:
    for absent in (None, "", "  ", "nan", "unheard-of", "!"):  # without a word that counts there is nothing to say
        f = long([*TITLES, absent])
        assert f.known.tolist() == [True] * len(TITLES) + [False], absent
        if absent not in ("unheard-of", "!"):  # these are texts all the same, and words are weighed by all texts
            assert f.sha256() == long([*TITLES, None]).sha256(), absent


def test_text_columns_are_joined() -> None:
    f = feature(kind="text", columns=["title", "about"], dims=1, min_df=2)
    # 10: blue whale, zebra; 20: blue whale sings, sings; 30: whale in the sea; 40: neither
    assert f.known.tolist() == [True, True, True, False]


# -------------------------------------------------------------------------------------------------------- vectors


def test_vectors_keep_their_proportions() -> None:
    graph = build(kind="vector", columns=["v1", "v2"])
    f = graph.features["f"]
    # (2, 2), (0, 0), (4, 0): centre (2, 2/3), squares 0 + 16/9, 4 + 4/9, 4 + 4/9, their mean over 6 entries 16/9
    centred = np.array([[0, 4 / 3], [-2, -2 / 3], [0, 0], [2, -2 / 3]])
    np.testing.assert_allclose(dense(f), centred * np.sqrt(9 / 16), atol=1e-6)
    assert f.known.tolist() == [True, True, False, True]
    assert notices(graph)["book nodes with a part of the vector only: missing"] == 1


@pytest.mark.parametrize(
    ("source", "config"),
    [
        (BOOKS, {"prefix": "v1"}),
        (BOOKS.rename({"v1": "e_1", "v2": "e_2"}), {"prefix": "e_"}),
        (BOOKS, {"column": "w"}),
        (BOOKS.with_columns(pl.col("w").cast(pl.Array(pl.Float64, 2))), {"column": "w"}),
    ],
)
def test_vectors_come_as_columns_or_as_lists(source: pl.DataFrame, config: dict[str, Any]) -> None:
    f = feature(tables(source), kind="vector", **config)
    if config == {"prefix": "v1"}:
        np.testing.assert_allclose(dense(f)[1], -0.5 / np.std([2, 0, 0, 4]) * 3, rtol=1e-6)
    else:
        assert dense(f) == dense(feature(kind="vector", columns=["v1", "v2"]))


# -------------------------------------------------------------------------------------------- nodes that are no items


def test_other_node_types_have_features_in_the_row_order_of_the_graph() -> None:
    graph = build(node="writer", kind="number", column="born")
    f = graph.features["f"]
    assert graph.nodes["writer"].keys.to_list() == ["Ann", "Bob", "Cy"]  # Zed wrote no book of the graph
    assert (dense(f), f.known.tolist()) == ([[1], [-1], [0]], [True, True, False])
    assert graph.features_of("writer") == (f,)
    assert graph.features_of("book") == ()


def test_statistics_do_not_depend_on_interactions() -> None:
    for config in ({"kind": "number", "column": "year"}, {"kind": "bins", "column": "pages", "edges": [150]}):
        a, b = feature(**config), feature(**config, cut=split(((1, 3), (1, 0))))
        assert a.sha256() == b.sha256()


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("config", "what", "found"),
    [
        ({"kind": "number", "column": "yaer"}, "column not found", "yaer"),
        ({"kind": "number", "column": "year", "node": "shelf"}, "no such node table", "shelf"),
        ({"kind": "number", "column": "title"}, "not numeric", "'Blue Whale'"),
        ({"kind": "number", "column": "read"}, "not numeric", "Boolean"),
        ({"kind": "number", "column": "day"}, "not numeric", "Date"),
        ({"kind": "number", "column": "void"}, "no node has a value", "all 4 missing"),
        ({"kind": "number", "column": "same"}, "constant", "7.0 everywhere"),
        ({"kind": "number", "column": "below", "log": True}, "negative", "-1"),
        ({"kind": "number", "column": "endless"}, "infinite", "1 infinite"),
        ({"kind": "bins", "column": "title", "edges": [1]}, "not numeric", "title"),
        ({"kind": "bins", "column": "void", "edges": [1]}, "no node has a value", "void"),
        ({"kind": "bins", "column": "pages", "edges": [1000]}, "constant", "one interval"),
        ({"kind": "category", "column": "genres"}, "several values", "List"),
        ({"kind": "category", "column": "half"}, "no category", "1.5"),
        ({"kind": "category", "column": "one"}, "constant", "a everywhere"),
        ({"kind": "category", "column": "void"}, "no node has a value", "void"),
        ({"kind": "category", "column": "language", "min_count": 2}, "often enough", "'de' of 1"),
        ({"kind": "multi-hot", "column": "authors"}, "no lists", "String"),
        ({"kind": "multi-hot", "column": "pages", "separator": ","}, "not text", "Int64"),
        ({"kind": "multi-hot", "column": "genres", "min_count": 3}, "often enough", "'h' of 2"),
        ({"kind": "text", "columns": ["pages"]}, "not text", "Int64"),
        ({"kind": "text", "columns": ["title"], "min_df": 3}, "no common words", ""),
        ({"kind": "text", "columns": ["title"], "min_df": 1}, "too many dims", "64 dims, 2 texts, 3 words"),
        ({"kind": "text", "columns": ["title", "abuot"]}, "column not found", "abuot"),
        ({"kind": "vector", "prefix": "x"}, "column not found", "v1"),
        ({"kind": "vector", "columns": ["v1", "title"]}, "not numeric", "title"),
        ({"kind": "vector", "columns": ["same", "void"]}, "no node has a value", "all 4 missing"),
        ({"kind": "vector", "columns": ["same"]}, "constant", "same"),
        ({"kind": "vector", "columns": ["v1", "endless"]}, "infinite", "endless"),
        ({"kind": "vector", "column": "genres"}, "no vectors", "List(String)"),
        ({"kind": "vector", "column": "v1"}, "no vectors", "Float64"),
        ({"kind": "vector", "column": "ragged"}, "differ in length", "1, 2"),
    ],
)
def test_column_that_does_not_fit_is_one_clear_error(config: dict[str, Any], what: str, found: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        build(**config)
    assert error.value.where == "[features.f]"
    assert found in error.value.found
    assert error.value.expected


def test_type_without_nodes_in_the_graph_and_foreign_keys_are_refused() -> None:
    section = check({"features": {"f": {"kind": "number", "node": "writer", "column": "born"}}}, Sections, "toml")
    with pytest.raises(InputError, match="no relation links") as error:
        build_graph(tables(), split(), {}, section.features)
    assert "book" in error.value.expected
    section = check({"features": {"f": {"kind": "number", "node": "book", "column": "pages"}}}, Sections, "toml")
    with pytest.raises(InputError, match="join is empty"):
        build_graph(tables(BOOKS.with_columns(pl.col("book_id") + 1)), split(), {}, section.features)


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "bins", "column": "year"},
        {"kind": "bins", "column": "year", "edges": [2, 1]},
        {"kind": "bins", "column": "year", "edges": [1], "target": "period"},
        {"kind": "vector"},
        {"kind": "vector", "column": "w", "prefix": "v"},
        {"kind": "text", "columns": []},
        {"kind": "numbers", "column": "year"},
        {"kind": "multi-hot", "column": "authors", "separator": ""},
    ],
)
def test_section_that_says_nothing_or_two_things_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"features\.f"):
        build(**config)


def test_columns_of_a_feature_are_those_the_audit_asks_about() -> None:
    table = tables().nodes["book"]
    for config, columns in (
        ({"kind": "number", "column": "year"}, ("year",)),
        ({"kind": "text", "columns": ["title", "about"]}, ("title", "about")),
        ({"kind": "vector", "prefix": "v"}, ("void", "v1", "v2")),
        ({"kind": "vector", "columns": ["v2", "v1"]}, ("v2", "v1")),
        ({"kind": "vector", "column": "w"}, ("w",)),
        ({"kind": "vector", "prefix": "book"}, ()),  # a key is no feature
    ):
        section = check({"features": {"f": {"node": "book", **config}}}, Sections, "toml")
        assert columns_of(section.features["f"], table) == columns


# ------------------------------------------------------------------------------------------------------ the graph


def test_every_arm_keeps_the_features() -> None:
    graph = build(kind="number", column="year")
    for arm in (graph.only(), graph.without("wrote"), graph.rewired("wrote", seed=0)):
        assert arm.features["f"] is graph.features["f"]
    assert "f: 1 features of book, known for 50.0%" in repr(graph)


def test_hash_changes_with_any_value() -> None:
    f = feature(kind="number", column="year")
    g = feature(kind="category", column="language")
    assert f.sha256() == feature(kind="number", column="year").sha256()
    x = np.array([[1], [-1], [0], [0]], np.float32)
    known = np.array([True, True, False, False])
    assert Feature("f", "book", known, dense=x).sha256() == f.sha256()
    zero, one = np.zeros((2, 1), np.float32), np.array([True, True])
    csr = [Csr.from_pairs(np.array([0, 1]), np.array(cols), (2, n), np.array([w, 1]))
           for cols, n, w in (([0, 1], 2, 1), ([1, 0], 2, 1), ([0, 1], 3, 1), ([0, 1], 2, 0.5))]  # fmt: skip
    others = [
        Feature("g", "book", known, dense=x),
        Feature("f", "user", known, dense=x),
        Feature("f", "book", known | True, dense=x),
        Feature("f", "book", known, dense=np.nextafter(x, 2) * known[:, None].astype(np.float32)),
        Feature("f", "book", one, dense=zero),
        Feature("f", "book", ~one, dense=zero),
        *(Feature("f", "book", one, sparse=c) for c in csr),
    ]
    hashes = [f.sha256(), g.sha256(), *(other.sha256() for other in others)]
    assert len(set(hashes)) == len(hashes)


def test_feature_refuses_arrays_that_break_its_contract() -> None:
    known, x = np.array([True, False]), np.array([[1], [0]], np.float32)
    csr = Csr.from_pairs(np.array([0, 0]), np.array([0, 2]), (2, 3))
    Feature("f", "book", known, dense=x)
    Feature("f", "book", known, sparse=csr)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"known": known.astype(np.int8), "dense": x}, "bool"),
        ({"dense": x.astype(np.float64)}, "float32"),
        ({"dense": x[:1]}, "float32"),
        ({"dense": x[:, 0]}, "float32"),
        ({"dense": x * np.float32(np.nan)}, "finite"),
        ({"dense": x + 1}, "missing row"),
        ({}, "either"),
        ({"dense": x, "sparse": csr}, "either"),
        ({"sparse": replace(csr, indptr=csr.indptr[::-1].copy())}, "n rows"),
        ({"sparse": replace(csr, indptr=csr.indptr.astype(np.int32))}, "int64"),
        ({"sparse": replace(csr, indptr=np.array([0, 3, 2]))}, "out of range"),
        ({"sparse": replace(csr, indptr=np.array([0, 1, 2]))}, "missing row"),
        ({"sparse": replace(csr, n_cols=2)}, "out of range"),
        ({"sparse": replace(csr, indices=csr.indices[::-1].copy())}, "ascend"),
        ({"sparse": replace(csr, data=csr.data * 0)}, "positive"),
    ]
    for change, message in bad:
        with pytest.raises(ValueError, match=message):
            Feature(**{"name": "f", "node": "book", "known": known, **change})


def test_graph_refuses_features_of_other_nodes() -> None:
    graph = build(kind="number", column="year")
    f = graph.features["f"]
    for features, message in (
        ({"g": f}, "under 'g'"),
        ({"f": replace(f, node="shelf")}, "shelf"),
        ({"f": replace(f, node="user")}, "4 rows, 2 nodes"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(graph, features=features)
