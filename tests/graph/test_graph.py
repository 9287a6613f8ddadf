from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relrank.errors import InputError
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation import Duplicates, Relation
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def relation(**changes: object) -> Relation:
    whole = {"src": array(0, 0, 2), "dst": array(1, 3, 0), "weight": np.ones(3, np.float32)}
    return Relation("r", "a", "b", **{**whole, **changes})  # type: ignore[arg-type]


@pytest.fixture
def graph() -> Graph:
    """2 users, 4 items, 2 tags; items 0 and 1 tagged, items 1 and 3 alike, user 1 a friend of user 0."""
    keys = {"user": ["u", "v"], "item": ["i", "j", "k", "l"], "tag": ["s", "t"]}
    relations = (
        Relation.of("has_tag", "item", "tag", array(0, 0, 1), array(0, 1, 1)),
        Relation.of("alike", "item", "item", array(3), array(1), np.array([0.5])),
        Relation.of("friend", "user", "user", array(0), array(1)),
        Relation.of("tag_kind", "tag", "tag", array(0), array(1)),
    )
    return Graph(
        "user",
        "item",
        {name: IdMap(name, pl.Series(k)) for name, k in keys.items()},
        Relation.of("interactions", "user", "item", array(0, 1, 1), array(2, 0, 1)),
        {r.name: r for r in relations},
        "f",
        (Notice("somewhere", "dropped", 3),),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src": np.array([0, 0, 2])}, "int32"),
        ({"dst": array(1, 3)}, "int32"),
        ({"src": array(0, 0, 2).reshape(3, 1)}, "int32"),
        ({"weight": np.ones(3)}, "float32"),
        ({"weight": np.array([1, 0, 1], np.float32)}, "positive"),
        ({"weight": np.array([1, -1, 1], np.float32)}, "positive"),
        ({"weight": np.array([1, np.nan, 1], np.float32)}, "positive"),
        ({"weight": np.array([1, np.inf, 1], np.float32)}, "positive"),
        ({"src": array(-1, 0, 2)}, "negative"),
        ({"src": array(2, 0, 0)}, "ascend"),
        ({"dst": array(3, 1, 0)}, "ascend"),
        ({"dst": array(3, 3, 0)}, "once"),
    ],
)
def test_relation_refuses_arrays_that_break_its_contract(changes: dict[str, object], message: str) -> None:
    relation()
    with pytest.raises(ValueError, match=message):
        relation(**changes)


def test_undirected_relation_holds_each_pair_once_with_lower_row_first() -> None:
    for src, dst in ((3, 1), (2, 2)):
        with pytest.raises(ValueError, match="undirected"):
            Relation("r", "a", "a", array(src), array(dst), np.ones(1, np.float32))


@pytest.mark.parametrize(("policy", "weight"), [("sum", 11.0), ("max", 7.0), ("first", 4.0)])
def test_duplicate_rows_are_never_summed_silently(policy: Duplicates, weight: float) -> None:
    src, dst, weights = array(1, 0, 1), array(0, 2, 0), np.array([4, 5, 7])
    with pytest.raises(ValueError, match="1 edges occur more than once"):
        Relation.of("r", "a", "b", src, dst, weights)
    r = Relation.of("r", "a", "b", src, dst, weights, policy)
    assert (r.src.tolist(), r.dst.tolist(), r.weight.tolist()) == ([0, 1], [2, 0], [5.0, weight])


def test_both_directions_of_a_pair_are_one_edge_within_a_type_and_two_between_types() -> None:
    src, dst = array(4, 2), array(2, 4)
    with pytest.raises(ValueError, match="more than once"):
        Relation.of("r", "a", "a", src, dst)
    assert len(Relation.of("r", "a", "a", src, dst, duplicates="max")) == 1
    assert len(Relation.of("r", "a", "b", src, dst)) == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(5, 9), st.integers(1, 9)), max_size=30), st.booleans())
def test_of_agrees_with_a_dictionary(rows: list[tuple[int, int, int]], undirected: bool) -> None:
    src, dst, weight = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    if undirected:  # the lower row may come second
        src, dst = np.where(weight % 2, src, dst), np.where(weight % 2, dst, src)
    total: dict[tuple[int, int], int] = {}
    for a, b, w in rows:
        total[a, b] = total.get((a, b), 0) + w
    r = Relation.of("r", "a", "a" if undirected else "b", src, dst, weight, "sum")
    if not undirected:
        assert list(zip(r.src.tolist(), r.dst.tolist(), strict=True)) == sorted(total)
    assert dict(zip(zip(r.src.tolist(), r.dst.tolist(), strict=True), r.weight.tolist(), strict=True)) == total


def test_undirected_csr_is_symmetric() -> None:
    r = Relation.of("r", "a", "a", array(3, 0), array(1, 3), np.array([2, 5]))
    m = r.csr(4, 4)
    assert (m.rows().tolist(), m.indices.tolist(), m.data.tolist()) == ([0, 1, 3, 3], [3, 3, 0, 1], [5, 2, 5, 2])


def test_degrees_count_both_ends_of_undirected_edges() -> None:
    r = Relation.of("r", "a", "a", array(3, 0), array(1, 3))
    assert r.degrees("a", 5).tolist() == [1, 1, 0, 2, 0]
    assert relation().degrees("a", 3).tolist() == [2, 0, 1]
    assert relation().degrees("b", 5).tolist() == [1, 1, 0, 1, 0]


def test_where_keeps_edges_and_their_weights() -> None:
    r = relation(weight=np.array([1, 2, 3], np.float32)).where(np.array([True, False, True]))
    assert (r.src.tolist(), r.dst.tolist(), r.weight.tolist()) == ([0, 2], [1, 0], [1, 3])


def test_without_and_only_leave_the_original_whole(graph: Graph) -> None:
    assert list(graph.without("has_tag", "friend").relations) == ["alike", "tag_kind"]
    assert list(graph.only("friend").relations) == ["friend"]
    assert graph.only().relations == {}
    assert graph.only().interactions is graph.interactions
    assert len(graph.relations) == 4
    for ask in (graph.without, graph.only, graph.relation):
        with pytest.raises(InputError, match="has_tags"):
            ask("has_tags")
    with pytest.raises(InputError, match="has_tags"):
        graph.rewired("has_tags", seed=0)


def test_a_part_of_a_graph_is_not_checked_again(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Graph) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(Graph, "__post_init__", refuse)
    part = graph.without("has_tag").only("friend")
    assert part.excluded_relations == {"has_tag", "alike", "tag_kind"}
    assert part.relations["friend"] is graph.relations["friend"]


def test_a_relation_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    r = relation()
    assert r.sha256()[:16] == "522e2ecde40e9ca2"
    assert relation(weight=np.array([1, 1, 2], np.float32)).sha256() != r.sha256()
    monkeypatch.setattr("hashlib.sha256", None)
    assert r.sha256()[:16] == "522e2ecde40e9ca2"


def test_rewired_replaces_one_relation_under_its_name(graph: Graph) -> None:
    r = Relation.of("has_tag", "item", "tag", array(0, 1), array(0, 1))
    two = Graph(graph.user, graph.item, graph.nodes, graph.interactions, {**graph.relations, "has_tag": r}, "f")
    ways = {tuple(two.rewired("has_tag", seed).relations["has_tag"].dst.tolist()) for seed in range(20)}
    assert ways == {(0, 1), (1, 0)}
    rewired = two.rewired("has_tag", 0)
    assert list(rewired.relations) == list(two.relations)
    assert all(rewired.relations[n] is two.relations[n] for n in ("alike", "friend", "tag_kind"))
    assert rewired.interactions is two.interactions


def test_edges_of_a_type(graph: Graph) -> None:
    assert [r.name for r in graph.relations_of("item")] == ["interactions", "has_tag", "alike"]
    assert [r.name for r in graph.relations_of("tag")] == ["has_tag", "tag_kind"]


def test_coverage_is_the_share_of_items_or_users_with_an_edge_or_a_way_to_one(graph: Graph) -> None:
    assert coverage(graph) == {"has_tag": 0.5, "alike": 0.5, "friend": 1.0, "tag_kind": 0.5}


def test_graph_refuses_rows_beyond_the_keys_and_types_without_keys(graph: Graph) -> None:
    for r, message in (
        (Relation.of("far", "item", "tag", array(0), array(2)), "tag row 2 of 2"),
        (Relation.of("far", "item", "item", array(0), array(4)), "item row 4 of 4"),
        (Relation.of("far", "item", "author", array(0), array(0)), "'author', which has no keys"),
    ):
        with pytest.raises(ValueError, match=message):
            Graph("user", "item", graph.nodes, graph.interactions, {"far": r}, "f")
        with pytest.raises(ValueError, match=message):
            graph.with_relations({**graph.relations, "far": r})
    with pytest.raises(ValueError, match="interactions"):
        Graph("user", "item", {**graph.nodes, "item": IdMap("item", pl.Series(["i"]))}, graph.interactions, {}, "f")


def test_repr_shows_counts_per_type(graph: Graph) -> None:
    text = repr(graph)
    assert "item: 4 nodes" in text
    assert "has_tag: item → tag, 3 edges" in text
    assert "alike: item — item, 1 edges" in text


def test_places_number_each_history_from_0(graph: Graph) -> None:
    """Users of one and of two interactions."""
    for good in (array(0, 0, 1), array(0, 1, 0)):
        assert replace(graph, places=good).places is good
    assert graph.places is None
    bad = (
        array(0, 0, 0), array(0, 1, 2), array(1, 0, 1), array(0, -1, 0), array(0, 0), array(0, 0, 1, 0),
        array(0, 0, 1).reshape(3, 1), np.array([0, 0, 1], np.int64),
    )  # fmt: skip
    for places in bad:
        with pytest.raises(ValueError, match="places"):
            replace(graph, places=places)


def test_events_hold_every_interaction_first_as_placed(graph: Graph) -> None:
    """Users of one and of two interactions, the second of which came before the first."""
    ordered = replace(graph, places=array(0, 1, 0))
    assert ordered.chronological_order().tolist() == [0, 2, 1]
    assert [ordered.history(user).tolist() for user in (0, 1)] == [[0], [2, 1]]
    assert [graph.history(user).tolist() for user in (0, 1)] == [[0], [1, 2]]
    for good in (array(0, 2, 1), array(0, 0, 2, 1), array(0, 2, 2, 1, 2)):
        again = replace(ordered, events=good)
        assert again.chronological_order() is good
        assert again.only().events is good
        assert [again.history(user).tolist() for user in (0, 1)] == [
            [e for e in good.tolist() if again.interactions.src[e] == user] for user in (0, 1)
        ]
        n = good.tolist().count(0)
        assert Sequences.from_graph(again).lengths().tolist()[:2] == [n, good.size - n]
    bad = (
        array(0, 1, 2), array(0, 2), array(2, 1, 0), array(0, 2, 1, 0), array(0, 2, 1, 3), array(-1, 0, 2, 1),
        np.array([0, 2, 1], np.int64), array(),
    )  # fmt: skip
    for events in bad:
        with pytest.raises(ValueError, match="events"):
            replace(ordered, events=events)
    with pytest.raises(ValueError, match="events"):
        replace(graph, events=array(0, 2, 1))


def test_places_stay_with_the_interactions(graph: Graph) -> None:
    """In every arm; other interactions of the same graph need places of their own."""
    ordered = replace(graph, places=array(0, 1, 0))
    for arm in (ordered.only(), ordered.without("has_tag"), ordered.rewired("tag_kind", 0)):
        assert arm.places is ordered.places
    with pytest.raises(ValueError, match="places"):
        replace(ordered, interactions=graph.interactions.where(np.array([True, True, False])))
