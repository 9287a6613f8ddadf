"""Memory and operations from shapes: formulas by hand, and that they grow with what they depend on."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.evaluation import ranking
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels import dense_solve as dense
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.closed_form import relational_ease as relational
from relrank.models.closed_form import sparse_ease
from relrank.models.core import estimates
from relrank.models.core.base import override_config
from relrank.models.core.estimates import Estimate
from relrank.tables.ids import IdMap

BLOCK = 128 << 20


def graph_of(n_users: int, n_items: int, n_edges: int = 0, relations: dict[str, int] | None = None) -> Graph:
    """Each user has the first items; a relation of items in turn with so many nodes, one of users if it begins so."""
    nodes = {"user": n_users, "item": n_items}
    edges = np.arange(n_edges)
    interactions = Relation.of("interactions", "user", "item", edges // n_items, edges % n_items)
    found = {}
    for name, n in (relations or {}).items():
        source = "user" if name.startswith("user") else "item"
        nodes[name] = n
        rows = np.arange(nodes[source])
        found[name] = Relation.of(name, source, name, rows, rows % n)
    ids = {name: IdMap(name, pl.Series(np.arange(n))) for name, n in nodes.items()}
    places = np.arange(n_edges) % n_items
    return Graph("user", "item", ids, interactions, found, "made up", places=places.astype(np.int32))


def test_a_block_of_scores_is_as_large_as_ranking_asks_for():
    assert estimates.SCORE_BLOCK == ranking.SCORE_BYTES == BLOCK
    assert estimates.score_block(10) == BLOCK
    assert estimates.score_block(1 << 26) == 4 << 26  # one row


def test_ease_by_hand_where_users_are_more():
    # 10,000² floats beside their triangle, 4 · 10⁸ + 2 · 10,000 · 10,001, and 3 sparse copies of 2 edges
    found = MODELS["ease"].estimate(graph_of(10_000, 10_000, 2), MODELS["ease"].Config())
    assert found.bytes == 400_000_000 + 200_020_000 + 3 * 2 * 8
    assert found.dense == 10_000**3 / 2
    assert found.sparse == 2**2 / 2  # one user with two items


def test_ease_by_hand_where_items_are_more():
    # inverse of the users' side and K X in two orders; without edges
    found = MODELS["ease"].estimate(graph_of(3_000, 50_000), MODELS["ease"].Config())
    assert found.bytes == 4 * 3_000**2 + 2 * 4 * 3_000 * 50_000
    # ten users: the block of scores is what counts, beside K X
    few = MODELS["ease"].estimate(graph_of(10, 1_000), MODELS["ease"].Config())
    assert few.bytes == 4 * 10 * 1_000 + BLOCK


def test_above_lapacks_limit_torch_holds_three(monkeypatch):
    assert dense.inverse_bytes(20_000) == 4 * 20_000**2
    assert dense.inverse_bytes(20_001) == 3 * 4 * 20_001**2
    found = MODELS["ease"].estimate(graph_of(50_000, 50_000), MODELS["ease"].Config())
    assert found.bytes == 12 * 50_000**2  # 30 GB


def test_relational_ease_by_hand(monkeypatch):
    kind, config = MODELS["relational-ease"], MODELS["relational-ease"].Config()
    n = 10_000
    square, triangle = 4 * n * n, 2 * n * (n + 1)
    plain = graph_of(n, n)
    # scoring holds the triangle that is kept, the weights, and a block
    assert kind.estimate(plain, config).bytes == triangle + square + BLOCK
    # a node of each item: n products, fewer than a triangle has entries, so that the rows are added as they are
    sparse = graph_of(n, n, relations={"isbn": n})
    assert kind.estimate(sparse, config).bytes == triangle + square + BLOCK + 3 * 8 * n
    # one node of all items: as many products as entries, and one more with a second
    edge = graph_of(n, n, relations={"publisher": 1})
    assert kind.estimate(edge, config).bytes == triangle + square + BLOCK + 3 * 8 * n
    tags = Relation.of("tags", "item", "publisher", np.tile(np.arange(n), 2), np.repeat([0, 1], n))
    nodes = edge.nodes | {"publisher": IdMap("publisher", pl.Series([0, 1]))}
    full = replace(edge, nodes=nodes, relations={"tags": tags})
    assert kind.estimate(full, config).bytes == 2 * triangle + square + BLOCK + 3 * 8 * 2 * n
    # a weight of 0 leaves it out
    assert kind.estimate(full, replace(config, weights={"tags": 0.0})).bytes == triangle + square + BLOCK
    # 2,000 pseudo-items: the square and the triangle have a side of 12,000
    m = n + 2_000
    users = graph_of(n, n, relations={"user city": 2_000})
    # the copy of the items' columns beside the square is larger than the triangle
    assert kind.estimate(users, config).bytes == 4 * m * m + 4 * m * n + 3 * 8 * n
    # whole triangles are kept while they fit into the cache, beside torch's three copies
    monkeypatch.setattr(dense, "LAPACK_LIMIT", 100)
    assert kind.estimate(full, config).bytes == 3 * square + 2 * triangle + 3 * 8 * 2 * n
    monkeypatch.setattr(relational, "CACHE_BYTES", 2 * triangle - 1)
    assert kind.estimate(full, config).bytes == 3 * square + triangle + 3 * 8 * 2 * n
    monkeypatch.setattr(relational, "CACHE_BYTES", 0)
    assert kind.estimate(full, config).bytes == 3 * square + 3 * 8 * 2 * n


def test_relational_ease_that_shares_solutions_holds_one_more():
    kind = MODELS["relational-ease"]
    assert issubclass(kind, ClosedForm)
    whole = graph_of(5_000, 5_000, relations={"brand": 50})
    part, config = whole.only(), kind.Config()
    shared = kind.estimate_from(part, whole, config)
    assert shared.bytes == kind.estimate(whole, config).bytes + 4 * 5_000**2
    large = graph_of(1, 20_001, relations={"brand": 50})
    assert kind.estimate_from(large.only(), large, config) == kind.estimate(large.only(), config)


def test_sparse_ease_by_hand():
    """Squares for three ways to weigh users and for the sum, and the weights while they are sorted.

    Above DENSE_COLUMNS rows both ways, no squares.
    """
    kind = MODELS["sparse-ease"]
    config = kind.Config(neighbours=50)
    dense_way = kind.estimate(graph_of(100, 10_000, 1_000), config)
    assert dense_way.bytes == 4 * 4 * 10_000**2 + 25 * 10_000 * 50 + 8 * 2_000
    other = kind.estimate(graph_of(100, 10_001, 1_000), config)
    assert other.bytes == 16 * 2_000 + 25 * 10_001 * 50 + 8 * 2_000


def test_relational_item_knn_by_hand(monkeypatch):
    """Item-kNN without relations; each relation adds its entries and the products that its nodes bring about."""
    monkeypatch.setattr(estimates, "cores", lambda: 1)
    kind, n, k = MODELS["relational-item-knn"], 1_000, 20
    config, plain = kind.Config(neighbours=k), graph_of(10, n, 10)  # one user with ten items
    knn = MODELS["item-knn"]
    before = knn.estimate(plain, knn.Config(neighbours=k))
    assert kind.estimate(plain, config) == before
    graph = graph_of(10, n, 10, {"brand": 10, "user city": 2})  # a hundred items a brand
    assert kind.estimate(graph, replace(config, weights={"brand": 0.0})) == before  # no relation of users, either
    found = kind.estimate(graph, config)
    # every item then has k neighbours; beside them the pieces, a row of sums, and the stack three times, rows kept
    assert found.bytes == 8 * n * k + 2 * (8 * n * k) + 16 * n + 3 * 8 * (10 + n) + 8 * n
    assert found.sparse == 8 * (10**2 + 10 * 100**2) / 2 + 8 * n * k
    # with one neighbour and three relations, sorting the stack takes more than what is found in it
    wide = graph_of(10, n, 10, {"brand": 10, "maker": 10, "shop": 10})
    assert kind.estimate(wide, kind.Config(neighbours=1)).bytes == 40 * (10 + 3 * n) + 8 * 3 * n


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_an_estimate_that_grows(name, monkeypatch):
    monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", 0)  # where it makes no more dense matrices, it needs less
    kind = MODELS[name]
    config = kind.Config()
    sizes = [(500, 400, 4_000), (500, 400, 8_000), (5_000, 4_000, 40_000), (50_000, 40_000, 400_000)]
    found: list[Estimate] = [kind.estimate(graph_of(*size), config) for size in sizes]
    for small, large in pairwise(found):
        assert 0 < small.bytes <= large.bytes
        assert small.seconds <= large.seconds
    assert found[-1].bytes < 1 << 40
    if name not in ("random", "popularity"):
        assert found[-1].bytes > found[0].bytes
        assert found[-1].seconds > 0
    if issubclass(kind, Trained):
        graph = graph_of(*sizes[2])
        assert kind.estimate(graph, config, 64).bytes < kind.estimate(graph, config, 4_096).bytes


@pytest.mark.parametrize(
    ("name", "field", "small", "large"),
    [
        ("item-knn", "neighbours", 50, 400),
        ("relational-item-knn", "neighbours", 50, 400),
        ("rp3beta", "neighbours", 50, 400),
        ("chebycf", "rank", 64, 512),
        ("markov", "reach", 1, 5),
        ("gf-cf", "rank", 64, 512),
        ("bspm", "rank", 64, 512),
        ("flat-filter", "rank", 64, 512),
        ("mf", "dim", 16, 128),
        ("relational-lightgcn", "layers", 1, 4),
        ("sasrec", "layers", 1, 4),
    ],
)
def test_what_makes_a_model_larger_makes_its_estimate_larger(name, field, small, large):
    kind, graph = MODELS[name], graph_of(50_000, 50_000, 2_000_000)
    low, high = (kind.estimate(graph, override_config(kind.Config(), {field: v}, name)) for v in (small, large))
    assert low.bytes < high.bytes
    assert low.seconds <= high.seconds


@pytest.mark.parametrize(("name", "grows"), [("markov", True), ("sasrec", True), ("item-knn", False)])
def test_what_was_chosen_again_counts_where_histories_hold_it(name, grows):
    """As more rows do, and one history's length bounds the pairs of places."""
    kind, graph = MODELS[name], graph_of(50_000, 20, 1_000_000)
    config = override_config(kind.Config(), {"reach": 5} if name == "markov" else {}, name)
    again = replace(graph, events=np.repeat(graph.chronological_order(), 4))
    assert again.n_events == 4 * graph.n_events == 4_000_000
    once, more = kind.estimate(graph, config), kind.estimate(again, config)
    assert (more.bytes > 1.5 * once.bytes) == grows
    assert (more == once) != grows
    if name == "markov":
        longer = replace(graph_of(1, 1, 1), events=np.zeros(100, np.int32))
        assert kind.estimate(longer, config).sparse == 50 * 100 * 5


def test_score_fusion_adds_its_parts_up():
    kind, graph = MODELS["score-fusion"], graph_of(3_000, 2_000, 20_000)
    parts = [MODELS[n].estimate(graph, MODELS[n].Config()) for n in ("ease", "path-fusion")]
    found = kind.estimate(graph, kind.Config())
    assert found.bytes == sum(p.bytes for p in parts) + 4 * BLOCK
    assert found.dense == sum(p.dense for p in parts)


def test_seconds_are_operations_by_rate_and_cores(monkeypatch):
    monkeypatch.setattr(estimates, "cores", lambda: 4)
    assert Estimate(0, dense=8e11, sparse=1e10).seconds == pytest.approx(5 + 5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is measured on Linux")
@pytest.mark.slow
def test_estimates_are_near_measured_peaks():
    """A sparse closed form, a dense one, a trained one; 32 MB are left to libraries' own buffers."""
    script = Path(__file__).parent / "measured_peaks.py"
    command = [sys.executable, str(script), "item-knn", "relational-ease", "mf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, (estimate, peak) in json.loads(done.stdout).items():
        assert peak <= 1.5 * estimate + (32 << 20), name
        assert estimate <= 2.5 * peak + (32 << 20), name
