"""Texts as nodes, hand-worked. Books are 10 … 60; book 60 is in the table but not in the split."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import Field

from relrank.errors import InputError
from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.construction.build_graph import FeatureConfig, RelationConfig, build_graph
from relrank.graph.construction.relation_builder import RelationBuilder
from relrank.graph.construction.text_nodes import key_of, text_relations
from relrank.graph.construction.text_rows import joined_texts
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.tables.config import ConfigSection, check
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import NodeTable, Tables, TextTable

BLURBS = [
    (10, "blurb", "red fox and red hen"),
    (20, "blurb", " red fox and red hen\n"),
    (20, "blurb", "blue whale and hen"),
    (30, "blurb", "blue whale, green sea"),
    (30, "blurb", "blue whale, green sea"),
    (40, "blurb", "  "),
    (40, "blurb", None),
    (50, "blurb", "nan"),
    (60, "blurb", "green fox"),
    (10, "review", "nice"),
    (40, "review", "blue"),
    (10, "review", "red"),
    (60, "secret", "fox"),
    (40, "empty", " "),
]
WORDS = {"encoder": "tf-idf", "dims": 2, "min_df": 1}


class Sections(ConfigSection):
    features: dict[str, FeatureConfig] = Field(default_factory=dict)
    relations: dict[str, RelationConfig] = Field(default_factory=dict)


def tables(rows: list[tuple[Any, ...]] = BLURBS, node: str = "book") -> Tables:
    frame = pl.DataFrame(rows, schema=["key", "kind", "text"], orient="row")
    books = pl.DataFrame({"id": [10, 20, 30, 40, 50, 60], "maker": ["a", "a", "b", "b", None, "c"]})
    nodes = {"book": NodeTable("book", books, "id")}
    interactions = pl.DataFrame({"user": ["u"], "item": [10]})
    return Tables("hand-made", "user", "book", interactions, nodes=nodes, texts=TextTable(node, frame))


def split() -> Split:
    held_out = Interactions(np.array([0], np.int32), np.array([3], np.int32))
    train = Interactions(np.array([0, 0, 1], np.int32), np.array([0, 1, 2], np.int32))
    users, books = IdMap("user", pl.Series(["u", "v"])), IdMap("book", pl.Series([10, 20, 30, 40, 50]))
    return Split(users, books, train, held_out, held_out, "hand-made, seed 0", "fingerprint")


def build(relations: dict[str, Any], features: dict[str, Any] | None = None, source: Tables | None = None) -> Graph:
    section = check({"relations": relations, "features": features or {}}, Sections, "study.toml")
    return build_graph(source or tables(), split(), section.relations, section.features)


def has(**more: Any) -> Graph:
    return build({"r": {"kind": "texts", "of": "blurb", **WORDS, **more}})


def edges(graph: Graph, name: str = "r") -> set[tuple[Any, Any]]:
    r = graph.relations[name]
    assert (r.weight == 1).all() or r.undirected
    ends = graph.nodes[r.source].at(r.src).to_list(), graph.nodes[r.target].at(r.dst).to_list()
    return set(zip(*ends, strict=True))


def notices(graph: Graph) -> dict[str, int]:
    return {n.message: n.count for n in graph.notices}


FOX, WHALE, SEA = (key_of(t) for t in ("red fox and red hen", "blue whale and hen", "blue whale, green sea"))


def test_texts_are_nodes_and_the_same_text_is_one() -> None:
    graph = has()
    assert graph.relations["r"].target == "blurb"
    assert graph.nodes["blurb"].keys.to_list() == sorted([FOX, WHALE, SEA])
    assert edges(graph) == {(10, FOX), (20, FOX), (20, WHALE), (30, SEA)}
    assert FOX == "989d37a135605a24"  # as sha256sum says


def test_pitfall_nodes_without_a_text_are_missing_and_not_empty() -> None:
    """Blank, null and "nan" are no texts: books 40 and 50 have no edge, and there is no node for an empty text."""
    graph = has()
    said = notices(graph)
    assert said["blurb rows without a text: dropped"] == 3
    assert said["book nodes without an edge, of 5"] == 2
    assert said["text repeated for one node: counts once"] == 1
    assert said["[data.texts] key is missing or no book of the graph: dropped"] == 1
    assert graph.relations["r"].degrees("book", 5).tolist() == [1, 2, 1, 0, 0]
    assert coverage(graph)["r"] == 3 / 5
    assert key_of("") not in graph.nodes["blurb"].keys
    assert graph.features["r"].known.all()


def test_vectors_are_those_of_a_text_feature_on_the_same_texts() -> None:
    """A column feature of three items whose texts are the nodes': the same bits, in the order of the keys."""
    graph = has()
    key_order = sorted([(FOX, "red fox and red hen"), (WHALE, "blue whale and hen"), (SEA, "blue whale, green sea")])
    books = pl.DataFrame({"id": [10, 20, 30, 40, 50], "t": [*(text for _, text in key_order), None, None]})
    source = replace(tables(), nodes={"book": NodeTable("book", books, "id")})
    config = {"kind": "text", "node": "book", "columns": ["t"], "dims": 2, "min_df": 1}
    other = build({}, {"f": config}, source).features["f"]
    assert graph.features["r"].dense is not None
    assert other.dense is not None
    np.testing.assert_array_equal(graph.features["r"].dense, other.dense[:3])
    assert not np.allclose(graph.features["r"].dense[0], graph.features["r"].dense[1])


def test_texts_whose_words_are_rare_have_no_vector_but_an_edge() -> None:
    rows = [(10, "k", "red hen"), (20, "k", "red fox hen"), (30, "k", "zebra"), (40, "k", "fox hen red red")]
    graph = build({"r": {"kind": "texts", "of": "k", "dims": 2, "min_df": 2}}, source=tables(rows))
    feature = graph.features["r"]
    zebra = graph.nodes["k"].find(pl.Series([key_of("zebra")]))[0]
    assert np.flatnonzero(~feature.known).tolist() == [zebra]
    assert (30, key_of("zebra")) in edges(graph)
    assert notices(graph)["k nodes whose words are all too rare: without a vector"] == 1


def test_relations_may_share_a_type_and_each_knows_its_own_texts() -> None:
    texts = {"kind": "texts", **WORDS, "dims": 1, "target": "text"}
    graph = build({"a": {**texts, "of": "blurb"}, "b": {**texts, "of": "review"}})
    keys = graph.nodes["text"].keys.to_list()
    known = {name: {key for key, k in zip(keys, graph.features[name].known, strict=True) if k} for name in "ab"}
    assert known == {"a": {FOX, WHALE, SEA}, "b": {key_of(t) for t in ("nice", "blue", "red")}}
    assert edges(graph, "b") == {(10, key_of("nice")), (10, key_of("red")), (40, key_of("blue"))}


def test_texts_of_users() -> None:
    rows = [("v", "bio", "reads red books"), ("u", "bio", "reads blue books"), ("u", "bio", "red")]
    source = tables(rows, "user")
    source = replace(source, nodes={})
    graph = build({"r": {"kind": "texts", "of": "bio", **WORDS, "dims": 1}}, source=source)
    said = {("v", "reads red books"), ("u", "reads blue books"), ("u", "red")}
    assert edges(graph) == {(user, key_of(text)) for user, text in said}


def test_text_relations_are_recognised_also_from_disk(tmp_path: Any) -> None:
    """By their feature: dense, on the target, under the relation's name. An attribute's target has none."""
    attribute = {"kind": "attribute", "node": "book", "column": "maker"}
    graph = build({"r": {"kind": "texts", "of": "blurb", **WORDS}, "a": attribute})
    assert [r.name for r in text_relations(graph)] == ["r"]
    save_graph(graph, tmp_path / "graph")
    back = load_graph(tmp_path / "graph")
    assert [r.name for r in text_relations(back)] == ["r"]
    assert back.features["r"].sha256() == graph.features["r"].sha256()
    assert text_relations(graph.without("r")) == ()
    assert [r.name for r in text_relations(graph.rewired("r", seed=1))] == ["r"]


def test_rewired_texts_keep_degrees_and_every_vector() -> None:
    """The placebo hands the same texts out at random: as many per item, as many items per text."""
    rows = [(10 * (1 + i % 5), "k", f"w{i} w{i + 1}") for i in range(30)] + [(10, "k", "w7 w8"), (50, "k", "w3 w4")]
    graph = build({"r": {"kind": "texts", "of": "k", **WORDS}}, source=tables(rows))
    shuffled = graph.rewired("r", seed=3)
    for end, n in (("book", 5), ("k", 30)):
        before, after = (g.relations["r"].degrees(end, n) for g in (graph, shuffled))
        np.testing.assert_array_equal(before, after)
    assert edges(shuffled) != edges(graph)
    assert shuffled.features["r"] is graph.features["r"]
    assert graph.only("r").relations.keys() == {"r"}


def test_similar_texts_and_features_of_a_kind() -> None:
    """All texts of a kind of one book, joined by a space, as if they stood in a column."""
    joined = ["red fox and red hen", "red fox and red hen blue whale and hen"]
    joined += ["blue whale, green sea blue whale, green sea", None, None]
    books = pl.DataFrame({"id": [10, 20, 30, 40, 50], "t": joined}, schema_overrides={"t": pl.String})
    source = replace(tables(), nodes={"book": NodeTable("book", books, "id")})
    near: dict[str, Any] = {"kind": "text", "node": "book", "min_df": 1}
    feature = {**near, "dims": 2}
    mine = build({"r": {**near, "texts": "blurb"}}, {"f": {**feature, "texts": "blurb"}}, source)
    other = build({"r": {**near, "columns": ["t"]}}, {"f": {**feature, "columns": ["t"]}}, source)
    a, b = mine.relations["r"], other.relations["r"]
    assert len(a)
    for x, y in ((a.src, b.src), (a.dst, b.dst), (a.weight, b.weight)):
        np.testing.assert_array_equal(x, y)
    assert mine.features["f"].sha256() == other.features["f"].sha256()
    assert mine.features["f"].known.tolist() == [True, True, True, False, False]
    assert notices(mine)["book nodes without text: no edge"] == 2


def test_texts_of_a_node_are_joined_in_the_order_of_the_table() -> None:
    rows = [(20, "k", "b"), (10, "k", "z"), (20, "other", "x"), (20, "k", " a "), (10, "k", "y"), (20, "k", "c")]
    keys = pl.Series([10, 20, 30])
    assert joined_texts(RelationBuilder("r", tables(rows), split()), "book", "k", keys).to_list() == [
        "z y",
        "b a c",
        None,
    ]


SOME = {"kind": "texts", "of": "blurb"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**SOME, "of": "plot"}, "no texts of this kind.*blurb, empty, review, secret.*plot"),
        ({**SOME, "of": "empty"}, "all texts of kind 'empty' are blank.*all 1 blank"),
        ({**SOME, "of": "secret"}, "join is empty.*60"),
        ({**SOME, "target": "book"}, "texts cannot be nodes of this type.*book"),
        ({**SOME, "of": "review", "dims": 1, "min_df": 1, "ngrams": [2, 2]}, "no common words"),
        (SOME, "too many dims.*64 dims, 3 texts"),
        ({**SOME, "encoder": "word2vec"}, "encoder"),
        ({**SOME, "model": "x"}, 'model does not go with encoder = "tf-idf"'),
        ({**SOME, "encoder": "sentence", "dims": 3}, 'dims does not go with encoder = "sentence"'),
        ({**SOME, "encoder": "sentence", "revision": "main"}, "a revision goes with a model"),
        ({"kind": "text", "node": "book", "columns": ["maker"], "texts": "blurb"}, "either columns or texts"),
        ({"kind": "text", "node": "book"}, "either columns or texts"),
        ({"kind": "text", "node": "user", "texts": "blurb"}, "texts of another type.*'book'.*user"),
        ({"kind": "text", "node": "author", "texts": "blurb"}, "no such node table.*author"),
        ({"kind": "text", "node": "book", "texts": "secret"}, "join is empty"),
    ],
)
def test_slips_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        build({"r": config})


def test_data_without_texts_and_texts_that_do_not_differ() -> None:
    with pytest.raises(InputError, match=r"(?s)relation 'r'.*\[data.texts\]"):
        build({"r": {**SOME}}, source=replace(tables(), texts=None))
    rows = [(10, "k", "red hen"), (20, "k", "hen red"), (30, "k", "red, hen")]
    with pytest.raises(InputError, match=r"texts do not differ"):
        build({"r": {"kind": "texts", "of": "k", "dims": 1, "min_df": 1}}, source=tables(rows))


@pytest.mark.parametrize("config", [SOME | WORDS, {"kind": "attribute", "node": "book", "column": "maker"}])
def test_a_feature_of_the_name_of_any_relation_is_refused(config: dict[str, Any]) -> None:
    """Text relations are known by such a feature: one of vectors would make an attribute a relation of texts."""
    feature = {"kind": "category", "node": "book", "column": "maker"}
    with pytest.raises(InputError, match="name is taken"):
        build({"r": config}, {"r": feature})
    assert build({"r": config}, {"f": feature}).features.keys() >= {"f"}
