from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from relrank.graph.edge_removal import EdgeRemoval, without_links, without_user_edges
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap


def ids(name, n):
    return IdMap(name, pl.Series(range(n)))


@pytest.fixture
def graph():
    """User 0 chose items 2, 0, 3 in this order, user 1 items 0 and 1."""
    return Graph(
        "user",
        "item",
        {"user": ids("user", 2), "item": ids("item", 4), "tag": ids("tag", 2)},
        Relation.of("chose", "user", "item", np.array([0, 0, 0, 1, 1]), np.array([0, 2, 3, 0, 1])),
        {
            "has_tag": Relation.of("has_tag", "item", "tag", np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])),
            "tagged": Relation.of("tagged", "tag", "item", np.array([0, 1, 1]), np.array([0, 0, 1])),
            "similar": Relation.of("similar", "item", "item", np.array([0, 1, 2]), np.array([1, 2, 3])),
        },
        "f",
        places=np.array([1, 0, 2, 0, 1], np.int32),
    )


def edges(relation):
    return list(zip(relation.src.tolist(), relation.dst.tolist(), strict=True))


def test_a_users_edge_goes_and_later_places_move_up(graph):
    less = without_user_edges(graph, 0, 2)
    assert edges(less.interactions) == [(0, 0), (0, 3), (1, 0), (1, 1)]
    assert less.places.tolist() == [0, 1, 0, 1]
    assert less.relations == graph.relations
    assert edges(without_user_edges(graph, 0).interactions) == [(1, 0), (1, 1)]
    assert without_user_edges(graph, 0).places.tolist() == [0, 1]
    assert without_user_edges(replace(graph, places=None), 1, 0).places is None


@pytest.mark.parametrize(
    ("relation", "links", "left"),
    [
        ("has_tag", ((0, 1), (2, 1)), [(0, 0), (1, 1)]),
        ("tagged", ((0, 1), (1, 1)), [(0, 0)]),  # pairs start at the item, whatever the relation's direction
        ("similar", ((2, 1),), [(0, 1), (2, 3)]),
        ("similar", ((1, 2), (3, 2)), [(0, 1)]),
    ],
)
def test_links_go_in_either_direction(graph, relation, links, left):
    less = without_links(graph, EdgeRemoval(relation, links))
    assert edges(less.relations[relation]) == left
    assert [n for n in graph.relations if less.relations[n] is not graph.relations[n]] == [relation]
    assert less.interactions is graph.interactions


def test_nothing_to_cut_is_the_same_graph_and_what_is_not_there_is_refused(graph):
    assert without_links(graph, EdgeRemoval(None, ())) is graph
    with pytest.raises(ValueError, match="lacks one of the links"):
        without_links(graph, EdgeRemoval("has_tag", ((0, 1), (3, 0))))
    with pytest.raises(ValueError, match="user row 1 has no edge to item row 3"):
        without_user_edges(graph, 1, 3)
