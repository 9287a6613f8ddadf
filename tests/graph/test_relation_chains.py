"""Composition against products of dense matrices; what hangs on what."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from relrank.graph.composition import compose_graph, compose_relation
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import (
    chain_node_types,
    chain_of,
    described_type,
    hops,
    reachable_relations,
    touches_items,
    within_layers,
)
from relrank.tables.ids import IdMap

SIZES = {"user": 6, "item": 9, "author": 7, "country": 4, "continent": 3, "city": 5, "moon": 2, "crater": 2}
ENDS = {
    "by": ("item", "author"),
    "from": ("author", "country"),
    "part_of": ("continent", "country"),  # walked backwards
    "met": ("author", "author"),
    "lives_in": ("user", "city"),
    "in_country": ("city", "moon"),
    "similar": ("item", "item"),
    "wished": ("user", "item"),
    "far": ("crater", "crater"),  # nothing leads there
}


@pytest.fixture
def graph():
    rng = np.random.default_rng(5)

    def made(name, source, target):
        src, dst = np.nonzero(rng.random((SIZES[source], SIZES[target])) < 0.5)
        if source == target:
            src, dst = src[src < dst], dst[src < dst]
        if name == "by":  # one item has no author
            src, dst = src[src != 3], dst[src != 3]
        return Relation.of(name, source, target, src, dst, rng.uniform(0.3, 3, src.size))

    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in SIZES.items()}
    relations = {name: made(name, *ends) for name, ends in ENDS.items()}
    return Graph("user", "item", nodes, made("chose", "user", "item"), relations, "f")


def shares(graph, name, forward=True):
    """Weights as shares of a row; a relation within one type with 1 on the diagonal, its weights over the largest."""
    r = graph.relations[name]
    a = np.zeros((SIZES[r.source], SIZES[r.target]))
    a[r.src, r.dst] = r.weight
    if r.source == r.target:
        a = (a + a.T) / max(a.max(), 1) + np.eye(len(a))
    a = a if forward else a.T
    sums = a.sum(1, keepdims=True)
    return np.divide(a, sums, out=np.zeros_like(a), where=sums > 0)


def test_a_composed_relation_is_the_product_of_the_shares_along_its_chain(graph):
    products = {
        "from": ("item", "country", shares(graph, "by") @ shares(graph, "from")),
        "part_of": (
            "item", "continent", shares(graph, "by") @ shares(graph, "from") @ shares(graph, "part_of", forward=False)
        ),
        "met": ("item", "author", shares(graph, "by") @ shares(graph, "met")),
        "in_country": ("user", "moon", shares(graph, "lives_in") @ shares(graph, "in_country")),
    }  # fmt: skip
    for name, (source, target, expected) in products.items():
        found = compose_relation(graph, graph.relations[name])
        assert (found.name, found.source, found.target) == (name, source, target)
        dense = np.zeros(expected.shape)
        dense[found.src, found.dst] = found.weight
        np.testing.assert_allclose(dense, expected, atol=1e-6)
        assert found is compose_relation(graph, graph.relations[name])
    for name in ("by", "similar", "wished", "lives_in"):
        assert compose_relation(graph, graph.relations[name]) is graph.relations[name]


def test_the_composition_is_that_of_the_graph_at_hand(graph):
    """A kept product must not outlive the hops that it was made of."""
    before = compose_relation(graph, graph.relations["part_of"])
    for hop in ("by", "from"):
        other = graph.rewired(hop, 1)
        moved = compose_relation(other, other.relations["part_of"])
        assert not np.array_equal(moved.weight, before.weight)
        again = compose_relation(graph, graph.relations["part_of"])
        np.testing.assert_array_equal(again.weight, before.weight)


def test_what_hangs_on_what(graph):
    assert hops(graph) == {
        "by": (), "from": ("by",), "part_of": ("by", "from"), "met": ("by",), "lives_in": (),
        "in_country": ("lives_in",), "similar": (), "wished": (), "far": (),
    }  # fmt: skip
    assert [described_type(graph, graph.relations[n]) for n in ("part_of", "in_country", "wished", "far")] == [
        "item", "user", "user", None,
    ]  # fmt: skip
    assert reachable_relations(graph) == tuple(n for n in ENDS if n != "far")
    assert [n for n in ENDS if touches_items(graph, graph.relations[n])] == [
        "by", "from", "part_of", "met", "similar", "wished",
    ]  # fmt: skip
    assert chain_node_types(graph, graph.relations["part_of"]) == ("item", "author", "country", "continent")
    assert chain_node_types(graph, graph.relations["by"]) == ("item", "author")
    assert chain_node_types(graph, graph.relations["far"]) == ("crater", "crater")
    less = graph.without("by")
    assert hops(less)["part_of"] == ()
    assert reachable_relations(less) == ("lives_in", "in_country", "similar", "wished")
    with pytest.raises(ValueError, match="leads to neither"):
        chain_of(less, less.relations["from"])


def test_the_composed_graph_holds_direct_relations_alone(graph):
    found = compose_graph(graph)
    assert list(found.relations) == list(reachable_relations(graph))
    assert {(r.source, r.target) for r in found.relations.values()} == {
        ("item", "author"), ("item", "country"), ("item", "continent"), ("user", "city"), ("user", "moon"),
        ("item", "item"), ("user", "item"),
    }  # fmt: skip
    assert compose_graph(found) is found
    direct = graph.only("by", "similar")
    assert compose_graph(direct) is direct


def test_messages_need_a_layer_for_every_hop(graph):
    def read(layers):
        return set(within_layers(graph, graph.relations, ("user", "item"), layers))

    direct = {"by", "lives_in", "similar", "wished"}
    assert read(0) == set()
    assert read(1) == direct
    assert read(2) == direct | {"from", "met", "in_country"}
    assert read(3) == read(9) == set(ENDS) - {"far"}


def test_coverage_is_judged_along_the_chain(graph):
    shares = coverage(graph)
    assert shares["by"] <= 8 / 9
    assert shares["from"] <= shares["by"]
    assert shares["from"] == np.unique(compose_relation(graph, graph.relations["from"]).src).size / 9


def test_a_share_that_vanishes_is_no_edge(graph):
    tiny = graph.relations["from"]
    weight = np.where(np.arange(len(tiny)) == 0, np.float32(1e-38), np.float32(3e38))
    other = replace(graph, relations={**graph.relations, "from": replace(tiny, weight=weight.astype(np.float32))})
    assert (compose_relation(other, other.relations["from"]).weight > 0).all()
