"""Hand-made tables, hand-worked edges. Books are 10, 20, 30, 40; book 50 is in the table but not in the split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.build_graph import RelationConfig, build_graph
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.tables.config import ConfigSection, check
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import LinkTable, NodeTable, Tables

BOOKS = pl.DataFrame(
    {
        "book_id": [50, 40, 30, 20, 10],
        "outer": [5, 4, 3, 2, 1],
        "authors": ["Zed", "  ", None, "Ann, Bob,Ann", "Bob , , Cy"],
        "genres": [["g"], [], None, ["g", "h"], ["h"]],
        "year": [2000.0, float("nan"), None, 1950.0, 1951.0],
        "pages": [9, 300, 200, 200, 100],
        "title": ["red fox", None, "", "blue whale sings", "Blue Whale"],
        "sequel_of": [40, 10, 99, 20, None],
        "rare": ["x", "x", "x", None, None],
    }
)
TAGS = pl.DataFrame(
    {
        "book": [1, 1, 1, 2, 2, 3, 5, 9, None, 4],
        "tag": ["a", "b", "c", "a", "c", "a", "a", "a", "a", None],
        "count": [5, 2, 2, 9, 0, -1, 7, 7, 7, 7],
    }
)


class Relations(ConfigSection):
    relations: dict[str, RelationConfig]


def tables(**links: LinkTable) -> Tables:
    tags = LinkTable("tags", TAGS, "book", "book", "outer", "tag", "tag", None, "count")
    return Tables(
        "hand-made",
        "user",
        "book",
        pl.DataFrame({"user": ["u"], "item": [10]}),
        nodes={"book": NodeTable("book", BOOKS, "book_id", "title")},
        links={"tags": tags, **links},
    )


def split(train: list[tuple[int, int]] = ((0, 0), (0, 1), (1, 2))) -> Split:  # type: ignore[assignment]
    """Users u, v; books in row order 10, 20, 30, 40; training rows as (user row, item row)."""
    user, item = np.array(train, np.int32).T
    held_out = Interactions(np.array([0], np.int32), np.array([3], np.int32))
    return Split(
        IdMap("user", pl.Series(["u", "v"])),
        IdMap("book", pl.Series([10, 20, 30, 40])),
        Interactions(user, item),
        held_out,
        held_out,
        "hand-made, seed 0",
        "fingerprint",
    )


def build(config: dict[str, Any], source: Tables | None = None, cut: Split | None = None) -> Graph:
    section = check({"relations": config}, Relations, "study.toml")
    return build_graph(source or tables(), cut or split(), section.relations)


def edges(graph: Graph, name: str = "r") -> dict[tuple[Any, Any], float]:
    """Edges of a relation by outside keys."""
    r = graph.relations[name]
    ends = graph.nodes[r.source].at(r.src).to_list(), graph.nodes[r.target].at(r.dst).to_list()
    return dict(zip(zip(*ends, strict=True), r.weight.tolist(), strict=True))


def notices(graph: Graph) -> dict[str, int]:
    assert {n.where for n in graph.notices} <= {f"relation {name!r}" for name in graph.relations}
    return {n.message: n.count for n in graph.notices}


def link(frame: dict[str, list[Any]], source: str = "book", target: str = "tag", **more: Any) -> dict[str, LinkTable]:
    match = "book_id" if source == "book" else "key"
    table = LinkTable("t", pl.DataFrame(frame), source, "a", match, target, "b", **more)
    return {"t": table}


# ------------------------------------------------------------------------------------------------ the whole graph


def test_interactions_hold_training_rows_only() -> None:
    graph = build({})
    assert list(zip(graph.interactions.src.tolist(), graph.interactions.dst.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 2),
    ]  # the held-out (0, 3) is not among them
    assert (graph.n_users, graph.n_items, graph.fingerprint) == (2, 4, "fingerprint")
    assert graph.nodes["book"].keys.to_list() == [10, 20, 30, 40]


def test_relations_that_name_the_same_type_share_its_nodes() -> None:
    config = {"kind": "attribute", "node": "book", "target": "word"}
    graph = build({"a": {**config, "column": "authors", "separator": ","}, "g": {**config, "column": "genres"}})
    assert graph.nodes["word"].keys.to_list() == ["Ann", "Bob", "Cy", "g", "h"]
    assert edges(graph, "g") == {(10, "h"): 1, (20, "g"): 1, (20, "h"): 1}
    assert set(edges(graph, "a")) == {(10, "Bob"), (10, "Cy"), (20, "Ann"), (20, "Bob")}


def test_type_with_keys_of_two_kinds_is_refused() -> None:
    config = {"n": {"kind": "link", "table": "t"}, "a": {"kind": "attribute", "node": "book", "column": "authors"}}
    config["a"]["target"] = "tag"
    with pytest.raises(InputError, match="two kinds") as error:
        build(config, tables(**link({"a": [10], "b": [7]})))
    assert "7" in error.value.expected
    assert "Ann" in error.value.found


def test_name_of_the_interactions_is_taken() -> None:
    with pytest.raises(InputError, match="taken"):
        build({"interactions": {"kind": "cooccurrence"}})


@pytest.mark.parametrize(
    ("config", "slip"),
    [
        ({"kind": "links", "table": "tags"}, "kind"),
        ({"kind": "link", "table": "tags", "tops": 5}, "tops"),
        ({"kind": "link", "table": "tags", "top": 0}, "top"),
        ({"kind": "link", "table": "tags", "duplicates": "last"}, "duplicates"),
        ({"kind": "bins", "node": "book", "column": "year"}, "either edges or quantiles"),
        (
            {"kind": "bins", "node": "book", "column": "year", "edges": [1], "quantiles": 2},
            "either edges or quantiles",
        ),
        ({"kind": "bins", "node": "book", "column": "year", "edges": [2, 1]}, "ascend"),
        ({"kind": "text", "node": "book", "columns": ["title"], "min_similarity": 0}, "min_similarity"),
    ],
)
def test_configuration_slips_name_the_key(config: dict[str, Any], slip: str) -> None:
    with pytest.raises(InputError, match=slip):
        build({"r": config})


# ---------------------------------------------------------------------------------------------------------- links


def test_link_joins_on_the_stated_column_and_counts_what_it_drops() -> None:
    graph = build({"r": {"kind": "link", "table": "tags", "weight": "raw"}})
    assert edges(graph) == {(10, "a"): 5, (10, "b"): 2, (10, "c"): 2, (20, "a"): 9}
    assert notices(graph) == {
        "tags.book is in no row of book.outer: dropped": 2,  # 9 and a missing one
        "tags.book is missing or no book of the graph: dropped": 1,  # 5 is book 50
        "tags.tag is missing or no tag of the graph: dropped": 1,
        "weight missing, zero or negative: dropped": 2,
        "book nodes without an edge, of 4": 2,
    }
    assert graph.nodes["tag"].keys.to_list() == ["a", "b", "c"]
    assert coverage(graph) == {"r": 0.5}


@pytest.mark.parametrize(("weight", "expected"), [("one", 1.0), ("log1p", np.log(10.0)), ("raw", 9.0)])
def test_weight_is_a_function_of_the_column(weight: str, expected: float) -> None:
    graph = build({"r": {"kind": "link", "table": "tags", "weight": weight}})
    assert edges(graph)[20, "a"] == pytest.approx(expected, rel=1e-6)


def test_zero_weight_and_negative_count_edges_are_dropped_whatever_the_weight() -> None:
    for weight in ("one", "raw", "log1p"):
        graph = build({"r": {"kind": "link", "table": "tags", "weight": weight}})
        assert {(20, "c"), (30, "a")}.isdisjoint(edges(graph))


def test_top_keeps_the_largest_and_ties_go_to_the_lower_row() -> None:
    graph = build({"r": {"kind": "link", "table": "tags", "top": 2}})
    assert set(edges(graph)) == {(10, "a"), (10, "b"), (20, "a")}  # b and c tie
    assert notices(graph)["edges beyond the 2 largest: dropped"] == 1
    assert graph.nodes["tag"].keys.to_list() == ["a", "b"]


def test_rare_targets_are_dropped_after_top() -> None:
    frame = {"a": [10, 10, 20, 20, 30], "b": ["x", "y", "x", "y", "y"], "w": [2, 1, 2, 1, 1]}
    source = tables(**link(frame, weight="w"))
    config = {"kind": "link", "table": "t", "min_target_degree": 2}
    assert len(edges(build({"r": config}, source))) == 5
    graph = build({"r": {**config, "top": 1}}, source)  # y is left with book 30 alone
    assert set(edges(graph)) == {(10, "x"), (20, "x")}
    assert notices(graph)["edges to a tag of fewer than 2 sources: dropped"] == 1


@pytest.mark.parametrize(("policy", "weight"), [("sum", 8.0), ("max", 5.0), ("first", 3.0)])
def test_duplicate_rows_are_never_summed_silently(policy: str, weight: float) -> None:
    source = tables(**link({"a": [10, 20, 10], "b": ["x", "x", "x"], "w": [3, 1, 5]}, weight="w"))
    config = {"kind": "link", "table": "t", "weight": "raw"}
    with pytest.raises(InputError, match="same edge") as error:
        build({"r": config}, source)
    assert "2 rows, e.g. 10 - 'x' with weights 3 and 5" in error.value.found
    graph = build({"r": {**config, "duplicates": policy}}, source)
    assert edges(graph) == {(10, "x"): weight, (20, "x"): 1}
    assert notices(graph)[f"rows of an edge named before, policy {policy!r}"] == 1


def test_top_ranks_weights_after_duplicates_are_merged() -> None:
    source = tables(**link({"a": [10, 10, 10], "b": ["x", "y", "x"], "w": [3, 4, 3]}, weight="w"))
    graph = build({"r": {"kind": "link", "table": "t", "top": 1, "duplicates": "sum"}}, source)
    assert set(edges(graph)) == {(10, "x")}


def test_links_within_a_type_are_undirected_and_lose_self_loops() -> None:
    source = tables(**link({"a": [20, 10, 30], "b": [10, 20, 30]}, target="book", target_match="book_id"))
    with pytest.raises(InputError, match="10 - 20"):
        build({"r": {"kind": "link", "table": "t"}}, source)
    graph = build({"r": {"kind": "link", "table": "t", "duplicates": "max"}}, source)
    assert edges(graph) == {(10, 20): 1}
    assert notices(graph)["node linked with itself: dropped"] == 1
    with pytest.raises(InputError, match="no target end"):
        build({"r": {"kind": "link", "table": "t", "min_target_degree": 2}}, source)


def test_top_within_a_type_keeps_what_either_end_wants() -> None:
    frame = {"a": [10, 10, 20], "b": [20, 30, 30], "w": [3, 2, 1]}
    source = tables(**link(frame, target="book", target_match="book_id", weight="w"))
    graph = build({"r": {"kind": "link", "table": "t", "top": 1}}, source)
    assert set(edges(graph)) == {(10, 20), (10, 30)}  # 10-30 is not 10's largest, but 30's


def test_links_between_users_and_of_other_types() -> None:
    friends = {"t": LinkTable("t", pl.DataFrame({"a": ["v", "w"], "b": ["u", "u"]}), "user", "a", "", "user", "b")}
    graph = build({"r": {"kind": "link", "table": "t"}}, tables(**friends))
    assert edges(graph) == {("u", "v"): 1}  # w is no user of the split
    wrote = {"t": LinkTable("t", pl.DataFrame({"a": ["Z", "A"], "b": [10, 40]}), "author", "a", "", "book", "b")}
    graph = build({"r": {"kind": "link", "table": "t"}}, tables(**wrote))
    assert edges(graph) == {("A", 40): 1, ("Z", 10): 1}
    assert coverage(graph) == {"r": 0.5}
    knew = {"t": LinkTable("t", pl.DataFrame({"a": ["Z"], "b": ["A"]}), "author", "a", "", "author", "b")}
    with pytest.raises(InputError, match="linked with itself has no keys"):
        build({"r": {"kind": "link", "table": "t"}}, tables(**knew))


def test_wrong_key_joined_shows_in_coverage_and_notices() -> None:
    table = LinkTable("wrong", TAGS.with_columns(book=pl.col("book") * 5), "book", "book", "book_id", "tag", "tag")
    graph = build({"r": {"kind": "link", "table": "wrong"}}, tables(wrong=table))
    assert edges(graph) == {(10, "a"): 1, (10, "c"): 1}
    assert coverage(graph) == {"r": 0.25}
    assert notices(graph)["wrong.book is missing or no book of the graph: dropped"] == 7
    assert notices(graph)["book nodes without an edge, of 4"] == 3


def test_empty_join_names_both_sides_with_examples() -> None:
    table = LinkTable("wrong", TAGS, "book", "book", "book_id", "tag", "tag")
    with pytest.raises(InputError, match="join is empty") as error:
        build({"has_tag": {"kind": "link", "table": "wrong"}}, tables(wrong=table))
    assert "has_tag" in error.value.where
    assert "book nodes: Int64 values such as 10, 20, 30" in error.value.expected
    assert "wrong.book: Int64 values such as 1, 1, 1; none of 10" in error.value.found


def test_swapped_columns_are_an_empty_join() -> None:
    table = LinkTable("wrong", TAGS, "book", "tag", "outer", "tag", "book", None)
    with pytest.raises(InputError, match="join is empty") as error:
        build({"r": {"kind": "link", "table": "wrong"}}, tables(wrong=table))
    assert "Int64" in error.value.expected
    assert "String" in error.value.found


def test_relation_that_ends_without_edges_is_an_error_that_says_why() -> None:
    with pytest.raises(InputError, match="without edges") as error:
        build({"r": {"kind": "link", "table": "tags", "min_target_degree": 3}})
    assert "edges to a tag of fewer than 3 sources: dropped (4)" in error.value.found


@pytest.mark.parametrize(
    ("changes", "what", "found"),
    [
        ({"source_column": "bok"}, "column not found", "bok"),
        ({"source_match": "outter"}, "column not found", "outter"),
        ({"weight": "counts"}, "column not found", "counts"),
        ({"weight": "tag"}, "weight is not numeric", "String"),
        ({"weight": None}, "no weight column", "raw"),
        ({"frame": TAGS.with_columns(count=float("inf"))}, "infinite", "inf"),
        ({"source_match": "pages"}, "key occurs twice", "200"),
    ],
)
def test_bad_link_tables_are_refused(changes: dict[str, Any], what: str, found: str) -> None:
    source = tables()
    source = replace(source, links={"tags": replace(source.links["tags"], **changes)})
    with pytest.raises(InputError, match=what) as error:
        build({"r": {"kind": "link", "table": "tags", "weight": "raw"}}, source)
    assert found in error.value.found


def test_unknown_table_names_those_there_are() -> None:
    with pytest.raises(InputError, match="no such link table") as error:
        build({"r": {"kind": "link", "table": "tag"}})
    assert "tags" in error.value.expected


# ----------------------------------------------------------------------------------------------------- attributes


def test_separated_parts_are_stripped_and_count_once() -> None:
    graph = build({"r": {"kind": "attribute", "node": "book", "column": "authors", "separator": ","}})
    assert edges(graph) == {(10, "Bob"): 1, (10, "Cy"): 1, (20, "Ann"): 1, (20, "Bob"): 1}
    assert graph.relations["r"].target == "authors"
    assert notices(graph) == {
        "value repeated in one cell: counts once": 1,
        "book nodes without authors: no edge": 2,
        "book nodes without an edge, of 4": 2,
    }


def test_missing_is_a_node_of_its_own_and_never_the_text_nan() -> None:
    for column, values in (("authors", {30, 40}), ("genres", {30, 40}), ("year", {30, 40}), ("rare", {10, 20})):
        graph = build({"r": {"kind": "attribute", "node": "book", "column": column, "missing": "node"}})
        assert {book for book, value in edges(graph) if value == "(missing)"} == values
        assert {"nan", "None", "null", ""}.isdisjoint(graph.nodes[column].keys)
        assert coverage(graph) == {"r": 1.0}
        graph = build({"r": {"kind": "attribute", "node": "book", "column": column}})
        assert "(missing)" not in graph.nodes[column].keys
        assert values.isdisjoint(book for book, _ in edges(graph))


def test_books_without_a_row_in_the_table_are_missing_too() -> None:
    source = tables()
    source = replace(
        source, nodes={"book": replace(source.nodes["book"], frame=BOOKS.filter(pl.col("book_id") != 20))}
    )
    graph = build({"r": {"kind": "attribute", "node": "book", "column": "pages", "missing": "node"}}, source)
    assert edges(graph) == {(10, "100"): 1, (20, "(missing)"): 1, (30, "200"): 1, (40, "300"): 1}


def test_numbers_are_keys_without_a_fraction_where_none_has_one() -> None:
    graph = build({"r": {"kind": "attribute", "node": "book", "column": "year"}})
    assert edges(graph) == {(10, "1951"): 1, (20, "1950"): 1}
    source = tables()
    frame = BOOKS.with_columns(year=pl.Series([1.5, 2.0, float("inf"), None, 1.5]))
    source = replace(source, nodes={"book": NodeTable("book", frame, "book_id")})
    graph = build({"r": {"kind": "attribute", "node": "book", "column": "year"}}, source)
    assert edges(graph) == {(10, "1.5"): 1, (30, "inf"): 1, (40, "2.0"): 1}


def test_attribute_that_holds_keys_of_a_type_links_to_its_nodes() -> None:
    graph = build({"r": {"kind": "attribute", "node": "book", "column": "sequel_of", "target": "book"}})
    assert edges(graph) == {(10, 40): 1}
    assert notices(graph)["book.sequel_of is missing or no book of the graph: dropped"] == 1  # 99
    assert notices(graph)["node linked with itself: dropped"] == 1  # 20
    with pytest.raises(InputError, match="missing values can be no node"):
        build(
            {"r": {"kind": "attribute", "node": "book", "column": "sequel_of", "target": "book", "missing": "node"}}
        )


def test_value_with_the_key_of_missing_values_is_refused() -> None:
    source = tables()
    frame = BOOKS.with_columns(authors=pl.lit("(missing)"))
    source = replace(source, nodes={"book": NodeTable("book", frame, "book_id")})
    with pytest.raises(InputError, match="key of missing values"):
        build({"r": {"kind": "attribute", "node": "book", "column": "authors", "missing": "node"}}, source)


@pytest.mark.parametrize(
    ("config", "what", "found"),
    [
        ({"node": "book", "column": "author"}, "column not found", "author"),
        ({"node": "movie", "column": "authors"}, "no such node table", "movie"),
        ({"node": "user", "column": "age"}, "no such node table", "user"),
        ({"node": "book", "column": "year", "separator": ","}, "not text", "Float64"),
        ({"node": "book", "column": "rare", "target": "user"}, "join is empty", "'x'"),
    ],
)
def test_bad_attributes_are_refused(config: dict[str, Any], what: str, found: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        build({"r": {"kind": "attribute", **config}})
    assert found in error.value.found


def test_column_that_is_empty_for_the_books_of_the_graph_is_an_error() -> None:
    source = tables()
    frame = BOOKS.with_columns(authors=pl.when(pl.col("book_id") == 50).then(pl.lit("Zed")))
    source = replace(source, nodes={"book": NodeTable("book", frame, "book_id")})
    with pytest.raises(InputError, match="without edges") as error:
        build({"r": {"kind": "attribute", "node": "book", "column": "authors"}}, source)
    assert "book nodes without authors: no edge (4)" in error.value.found


def test_node_table_of_other_keys_is_an_empty_join() -> None:
    source = replace(
        tables(), nodes={"book": NodeTable("book", BOOKS.with_columns(pl.col("book_id") + 1), "book_id")}
    )
    with pytest.raises(InputError, match="join is empty") as error:
        build({"r": {"kind": "attribute", "node": "book", "column": "authors"}}, source)
    assert "book.book_id: Int64 values such as 51, 41, 31" in error.value.expected
    assert "book nodes: Int64 values such as 10, 20, 30" in error.value.found


# ----------------------------------------------------------------------------------------------------------- bins


def test_bins_are_closed_above_and_labelled_with_their_interval() -> None:
    graph = build({"r": {"kind": "bins", "node": "book", "column": "pages", "edges": [100, 199.5, 200]}})
    assert edges(graph) == {
        (10, "(-∞, 100]"): 1,
        (20, "(199.5, 200]"): 1,
        (30, "(199.5, 200]"): 1,
        (40, "(200, ∞)"): 1,
    }


def test_missing_number_is_never_in_the_lowest_bin() -> None:
    graph = build({"r": {"kind": "bins", "node": "book", "column": "year", "edges": [1950], "target": "period"}})
    assert edges(graph) == {
        (10, "(1950, ∞)"): 1,
        (20, "(-∞, 1950]"): 1,
        (30, "(missing)"): 1,  # null
        (40, "(missing)"): 1,  # NaN
    }
    assert graph.relations["r"].target == "period"
    graph = build({"r": {"kind": "bins", "node": "book", "column": "year", "edges": [1950], "missing": "drop"}})
    assert set(edges(graph)) == {(10, "(1950, ∞)"), (20, "(-∞, 1950]")}


def test_quantiles_are_measured_on_training_items_only() -> None:
    config = {"kind": "bins", "node": "book", "column": "pages", "quantiles": 2}
    # Training books have 100, 200, 200 pages: the median is 200. With book 40 (300), or with book 10 twice, as often
    # as it is read, nothing else would come out; with training books 10, 20 alone it is 100.
    graph = build({"r": config})
    assert edges(graph) == {(10, "(-∞, 200]"): 1, (20, "(-∞, 200]"): 1, (30, "(-∞, 200]"): 1, (40, "(200, ∞)"): 1}
    graph = build({"r": config}, cut=split([(0, 0), (1, 0), (0, 1)]))
    assert edges(graph) == {(10, "(-∞, 100]"): 1, (20, "(100, ∞)"): 1, (30, "(100, ∞)"): 1, (40, "(100, ∞)"): 1}


def test_quantiles_that_coincide_are_merged_and_counted() -> None:
    graph = build({"r": {"kind": "bins", "node": "book", "column": "pages", "quantiles": 5}})
    assert set(graph.nodes["pages"].keys) == {"(-∞, 100]", "(100, 200]", "(200, ∞)"}
    assert notices(graph)["quantiles that coincide: merged"] == 2  # 100, 200, 200, 200


def test_bins_of_text_and_quantiles_without_training_values_are_refused() -> None:
    with pytest.raises(InputError, match="not numeric"):
        build({"r": {"kind": "bins", "node": "book", "column": "title", "edges": [1]}})
    with pytest.raises(InputError, match="quantiles"):
        build({"r": {"kind": "bins", "node": "book", "column": "year", "quantiles": 2}}, cut=split([(0, 2)]))


# ----------------------------------------------------------------------------------------------------------- text


def test_mutual_nearest_texts_are_one_edge() -> None:
    graph = build({"r": {"kind": "text", "node": "book", "columns": ["title"], "ngrams": [1, 1], "min_df": 1}})
    # "blue", "whale" in both: idf 1; "sings" in one: idf 1 + ln 1.5. The cosine is √2 / √(2 + idf²).
    assert edges(graph) == {(10, 20): pytest.approx(np.sqrt(2 / (2 + (1 + np.log(1.5)) ** 2)), rel=1e-6)}


def test_items_without_text_are_not_items_with_an_empty_one() -> None:
    graph = build({"r": {"kind": "text", "node": "book", "columns": ["title"], "min_df": 1}})
    assert notices(graph)["book nodes without text: no edge"] == 2  # both would be alike if they were texts
    assert (graph.relations["r"].src.tolist(), graph.relations["r"].dst.tolist()) == ([0], [1])


def test_text_columns_are_joined_and_missing_ones_left_out() -> None:
    graph = build({"r": {"kind": "text", "node": "book", "columns": ["title", "rare"], "min_df": 1}})
    assert {(10, 20)} == set(edges(graph))  # "x" is no word, so 30 ("", x) and 40 (null, x) have no features
    assert notices(graph)["book nodes whose words occur nowhere else: no edge"] == 2


def test_texts_that_share_no_word_and_columns_without_text_are_refused() -> None:
    with pytest.raises(InputError, match="no common words"):
        build({"r": {"kind": "text", "node": "book", "columns": ["title"], "min_df": 3}})
    with pytest.raises(InputError, match="without edges"):
        build({"r": {"kind": "text", "node": "book", "columns": ["title"], "min_df": 1, "min_similarity": 0.95}})
    with pytest.raises(InputError, match="not text"):
        build({"r": {"kind": "text", "node": "book", "columns": ["pages"]}})


# -------------------------------------------------------------------------------------------------- co-occurrence


def test_cooccurrence_counts_neighbours_in_training_histories() -> None:
    train = [(0, 0), (1, 1), (0, 1), (0, 2), (1, 0), (1, 2)]  # u: 10 20 30, v: 20 10 30
    config = {"kind": "cooccurrence", "window": 1, "min_count": 1}
    graph = build({"r": config}, cut=split(train))
    assert edges(graph) == {(10, 20): 2, (20, 30): 1, (10, 30): 1}
    assert notices(graph) == {
        "training rows without a time: file order taken as time order": 6,
        "book nodes without an edge, of 4": 1,  # the held-out 40
    }
    assert edges(build({"r": {**config, "min_count": 2}}, cut=split(train))) == {(10, 20): 2}
    assert edges(build({"r": {**config, "window": 2, "min_count": 2}}, cut=split(train))) == {
        (10, 20): 2,
        (20, 30): 2,
        (10, 30): 2,
    }
    ordered = build({"r": config}, replace(tables(), ordered=True), split(train))
    assert "training rows without a time: file order taken as time order" not in notices(ordered)


def test_cooccurrence_keeps_an_edge_that_either_end_names() -> None:
    train = [(0, 1), (0, 2), (0, 0), (1, 2), (1, 1)]  # 20-30 twice, 10-30 and (two places apart) 10-20 once
    config = {"kind": "cooccurrence", "window": 2, "min_count": 1}
    assert edges(build({"r": config}, cut=split(train))) == {(10, 20): 1, (10, 30): 1, (20, 30): 2}
    graph = build({"r": {**config, "neighbours": 1}}, cut=split(train))
    assert edges(graph) == {(10, 20): 1, (20, 30): 2}  # 10 names the lower of 20 and 30


def test_a_window_is_no_wider_than_histories_and_takes_in_a_bounded_number_of_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 0)]
    config = {"kind": "cooccurrence", "window": 2**31 - 1, "min_count": 1}
    assert edges(build({"r": config}, cut=split(train))) == {(10, 20): 2, (10, 30): 1, (20, 30): 1}
    monkeypatch.setattr("relrank.graph.construction.build_graph.MOST_PAIRS", 3)
    with pytest.raises(InputError, match="too many pairs") as error:
        build({"r": config}, cut=split(train))
    assert error.value.found.startswith("4 with window")


def test_cooccurrence_without_pairs_is_an_error() -> None:
    with pytest.raises(InputError, match="without edges"):
        build({"r": {"kind": "cooccurrence"}})
