from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import chisquare

from relrank.graph.relation import Relation
from relrank.graph.rewiring import rewire


def random_relation(n: int, m: int, edges: int, undirected: bool = False) -> Relation:
    rng = np.random.default_rng(7)
    if undirected:
        src, dst = np.triu_indices(n, 1)
    else:
        src, dst = np.divmod(np.arange(n * m), m)
    some = rng.choice(src.size, edges, replace=False)
    return Relation.of("r", "a", "a" if undirected else "b", src[some], dst[some], rng.uniform(1, 2, edges))


def pairs(relation: Relation) -> frozenset[tuple[int, int]]:
    return frozenset(zip(relation.src.tolist(), relation.dst.tolist(), strict=True))


@pytest.mark.parametrize("undirected", [False, True])
def test_rewiring_keeps_degrees_and_counts_and_mixes(undirected: bool) -> None:
    n, edges = 300, 4000
    before = random_relation(n, n, edges, undirected)
    after = rewire(before, seed=1)
    assert len(after) == edges  # Relation itself refuses duplicates and self-loops
    for end in {before.source, before.target}:
        np.testing.assert_array_equal(after.degrees(end, n), before.degrees(end, n))
    # In the configuration model an edge between degrees k and l is there with probability about k l / edges (2 edges
    # if undirected), so this many edges come back by chance.
    k, m = before.degrees(before.source, n), before.degrees(before.target, n)
    expected = float((k[before.src] * m[before.dst]).sum()) / (edges * (2 if undirected else 1))
    kept = len(pairs(before) & pairs(after))
    assert abs(kept - expected) < 5 * np.sqrt(expected)


def test_weights_stay_with_their_source_between_two_types() -> None:
    before = random_relation(50, 60, 500)
    after = rewire(before, seed=3)
    for row in range(50):
        assert sorted(after.weight[after.src == row]) == sorted(before.weight[before.src == row])
    assert pairs(after) != pairs(before)


def test_weights_stay_with_edges_within_a_type() -> None:
    before = random_relation(50, 50, 300, undirected=True)
    assert sorted(rewire(before, seed=3).weight) == sorted(before.weight)


def test_same_seed_same_edges_other_seed_other_edges() -> None:
    relation = random_relation(50, 60, 500)
    one, again, other, negative = (rewire(relation, seed) for seed in (1, 1, 2, -1))
    np.testing.assert_array_equal(one.dst, again.dst)
    np.testing.assert_array_equal(one.weight, again.weight)
    assert len({pairs(one), pairs(other), pairs(negative)}) == 3


def test_swaps_per_edge_is_respected() -> None:
    relation = random_relation(50, 60, 500)
    assert pairs(rewire(relation, 1, swaps_per_edge=0)) == pairs(relation)
    few = len(pairs(rewire(relation, 1, swaps_per_edge=1)) & pairs(relation))
    assert 0 < few < 250  # about e^-2 of the edges are in none of 500 swaps, and 1 in 6 comes back


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_complete_relation_comes_back_the_same(shape: tuple[int, int]) -> None:
    src, dst = (a.ravel() for a in np.indices(shape))
    relation = Relation.of("r", "a", "b", src, dst, 1.0 + dst)
    after = rewire(relation, seed=0)
    assert pairs(after) == pairs(relation)
    np.testing.assert_array_equal(after.weight, relation.weight)


def test_empty_relation_comes_back_empty() -> None:
    empty = np.empty(0, np.int32)
    assert len(rewire(Relation.of("r", "a", "b", empty, empty), seed=0)) == 0


def bipartite_graphs(k: list[int], m: list[int]) -> Iterator[frozenset[tuple[int, int]]]:
    """Every set of pairs with these degrees, by trying all of them."""
    for rows in product(*(combinations(range(len(m)), d) for d in k)):
        if [sum(j in row for row in rows) for j in range(len(m))] == m:
            yield frozenset((i, j) for i, row in enumerate(rows) for j in row)


def undirected_graphs(degrees: list[int]) -> Iterator[frozenset[tuple[int, int]]]:
    for edges in combinations(combinations(range(len(degrees)), 2), sum(degrees) // 2):
        if [sum(i in edge for edge in edges) for i in range(len(degrees))] == degrees:
            yield frozenset(edges)


def assert_uniform(graphs: list[frozenset[tuple[int, int]]], target: str) -> None:
    src, dst = np.array(sorted(graphs[0])).T
    relation = Relation.of("r", "a", target, src, dst)
    runs = 200 * len(graphs)
    seen = Counter(pairs(rewire(relation, seed, swaps_per_edge=40)) for seed in range(runs))
    assert set(seen) <= set(graphs)
    assert chisquare([seen[g] for g in graphs]).pvalue > 0.001


def test_every_bipartite_graph_with_the_degrees_is_equally_likely() -> None:
    graphs = list(bipartite_graphs([2, 2, 1, 1], [1, 3, 2]))
    assert len(graphs) == 8
    assert_uniform(graphs, "b")


def test_every_undirected_graph_with_the_degrees_is_equally_likely() -> None:
    graphs = list(undirected_graphs([2] * 6))
    assert len(graphs) == 70  # 60 hexagons and 10 pairs of triangles
    assert_uniform(graphs, "a")
