"""Sparse EASE against its definition, EASE and relational EASE as its limits, and its two ways to solve."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, random_graph

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_to, described_type
from relrank.kernels.csr import Csr
from relrank.kernels.local_regression import EqualityMatrix, symmetric_sum
from relrank.models.closed_form import sparse_ease
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.models.core.relation_rows import unit_relation_rows
from relrank.tables.ids import IdMap
from relrank.testing import ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])


EVERY = SparseEASEConfig(neighbours=119)
"""Equal cosines at the last place go to the lower row, so that a contract on row numbers needs all neighbours."""


class TestRelations(ModelContract):
    kind = SparseEASE
    config = EVERY


class TestInteractionsAlone(ModelContract):
    kind = SparseEASE
    config = EVERY

    def graph(self):
        return planted_graph().only()


class TestLargeCatalogues(ModelContract):
    """Blocks straight from the columns, as where no matrix of all pairs fits."""

    kind = SparseEASE
    config = EVERY

    @pytest.fixture(autouse=True)
    def _sparse(self, monkeypatch):
        monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", 0)


@pytest.fixture
def graph():
    return random_graph(
        3,
        *OF_ITEMS,
        ("lives_in", "user", "city", 25),
        ("follows", "user", "user", 70),
        ("near", "tag", "tag", 10),
        ("in_land", "city", "land", 12),
    )


def dense(rows: Csr) -> np.ndarray:
    full = np.zeros((rows.n_rows, rows.n_cols))
    full[rows.rows(), rows.indices] = rows.data
    return full


def by_definition(graph: Graph, c: SparseEASEConfig) -> np.ndarray:
    """Scores from the explicit stack of rows, one regression after another, in float64."""
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = graph.interactions.weight
    counts = (x > 0).sum(1)
    omega = np.maximum(counts, 1.0) ** -c.user_power
    omega /= (omega * counts).sum() / counts.sum()
    wide, below = [x], []
    for name, relation in sorted(graph.relations.items()):
        weight = c.weights.get(name, c.weight)
        if not weight or described_type(graph, relation) is None:
            continue
        rows = np.sqrt(weight) * dense(unit_relation_rows(graph, relation))
        (wide if described_type(graph, relation) == "user" else below).append(rows)
    inputs = np.hstack(wide)
    n, n_items = inputs.shape[1], graph.n_items
    below = [np.hstack([rows.T, np.zeros((rows.shape[1], n - n_items))]) for rows in below[:]]
    stack = np.vstack([np.sqrt(omega)[:, None] * inputs, *below])
    g = stack.T @ stack
    norm, b = np.sqrt(np.diag(g)), np.zeros((n, n_items))
    for j in range(n_items):
        similarity = np.divide(g[j], norm[j] * norm + c.shrinkage, out=np.zeros(n), where=g[j] > 0)
        similarity[j] = 0
        near = np.argsort(-similarity, kind="stable")[: c.neighbours]
        near = near[similarity[near] > 0]
        if SparseEASE(graph, c).of_all:
            near = np.delete(np.arange(n), j)
        b[near, j] = np.linalg.solve(g[np.ix_(near, near)] + c.l2 * np.eye(near.size), g[near, j])
    popularity = np.maximum((x > 0).sum(0), 1.0) ** c.item_power
    return inputs @ b * popularity


@pytest.mark.parametrize("columns", [10_000, 0])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"neighbours": 3, "weights": {"has_tag": 0.0, "near": 2.0}},
        {"neighbours": 6, "user_power": 0.0, "item_power": -0.5, "shrinkage": 0.0, "l2": 0.7},
        {"neighbours": 500, "user_power": 1.0, "item_power": 0.4, "weight": 0.0},
        {"weights": {"lives_in": 0.0, "follows": 0.0, "in_land": 0.0}},
    ],
)
def test_as_defined(graph, monkeypatch, columns, config):
    monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", columns)
    c = SparseEASEConfig(**config)
    found = SparseEASE(graph, c).solve().score(USERS).numpy()
    np.testing.assert_allclose(found, by_definition(graph, c), atol=3e-5)


def crowded(graph: Graph) -> Graph:
    """Two users who have everything bring every item near every other."""
    full = np.repeat([0, 1], graph.n_items), np.tile(np.arange(graph.n_items), 2)
    edges = graph.interactions
    src, dst = (np.concatenate([a, b]) for a, b in zip((edges.src, edges.dst), full, strict=True))
    return replace(graph, interactions=Relation.of("chose", "user", "item", src, dst, duplicates="first"))


@pytest.mark.parametrize("every_item_near", [True, False])
def test_with_all_neighbours_it_is_relational_ease(graph, every_item_near):
    """With one inverse whatever is near, and item by item where all are."""
    graph = graph.only("has_tag", "similar", "tagged")
    if every_item_near:
        graph = crowded(graph)
    limit = {"neighbours": 10**6, "user_power": 0.0, "item_power": 0.0}
    for weight in (0.0, 4.0):
        own = SparseEASE(graph, SparseEASEConfig(l2=5.0, weight=weight, **limit)).solve().score(USERS)
        whole = RelationalEASE(graph, RelationalEASEConfig(l2=5.0, weight=weight)).solve().score(USERS)
        np.testing.assert_allclose(own, whole, atol=2e-5)


def pairs_of(values: np.ndarray) -> np.ndarray:
    return (np.equal.outer(values, values) & (values >= 0)).astype(np.float32)


def test_one_inverse_is_the_regressions_one_by_one(graph, monkeypatch):
    graph = crowded(graph.only("has_tag", "similar", "tagged"))
    config = SparseEASEConfig(neighbours=10**6, l2=2.0, item_power=0.2)
    assert SparseEASE(graph, config).of_all
    whole = SparseEASE(graph, config).solve().score(USERS)
    monkeypatch.setattr(sparse_ease, "ALL_COLUMNS", 0)
    sparse_ease.clear_caches()
    assert not SparseEASE(graph, config).of_all
    np.testing.assert_allclose(SparseEASE(graph, config).solve().score(USERS), whole, atol=2e-5)


def test_all_columns_are_tried_where_one_inverse_has_them(graph, monkeypatch):
    """Pseudo-items count, too: else a search would factorise a matrix of them for every item."""
    whole = graph.n_items - 1
    assert max(SparseEASE.grid_parameters(graph)[1].grid_values) == whole
    big = replace(graph, nodes={**graph.nodes, "item": IdMap("item", pl.Series(range(900)))})
    assert SparseEASE.grid_parameters(big)[1].grid_values[-1] == 899
    ease = {"neighbours": 899, "l2": 200.0, "user_power": 0.0, "item_power": 0.0}
    assert SparseEASE.published_settings(big) == ease
    assert SparseEASE.starts(big) == ({"neighbours": 200, "l2": 100.0, "user_power": 0.0},)
    monkeypatch.setattr(sparse_ease, "ALL_COLUMNS", 900 + len(graph.nodes["city"]))
    assert SparseEASE.grid_parameters(big)[1].grid_values[-1] == 400
    assert SparseEASE.published_settings(big) is None
    assert SparseEASE.grid_parameters(big.only("has_tag", "lives_in"))[1].grid_values[-1] == 899
    monkeypatch.setattr(sparse_ease, "ALL_COLUMNS", graph.n_items)
    assert SparseEASE.grid_parameters(graph)[1].grid_values[-1] == whole - 1


@pytest.mark.parametrize(("n_items", "most"), [(187_000, 400), (188_000, 200), (600_000, 100), (1_100_000, 50)])
def test_no_trial_takes_longer_than_minutes(graph, n_items, most):
    """400³ / 3 multiplications for 187,500 items each are 4e12; more items end at a hundred million weights."""
    large = replace(graph, nodes={**graph.nodes, "item": IdMap("item", pl.Series(range(n_items)))})
    assert SparseEASE.grid_parameters(large)[1].grid_values[-1] == most


def test_one_value_an_item_is_what_its_matrix_is(monkeypatch):
    """A column of few values is summed without its matrix; the same with a second value for one item is not."""
    rng = np.random.default_rng(2)
    graph = random_graph(5, ("has_tag", "item", "tag", 40))
    item, value = np.arange(1, graph.n_items), rng.integers(0, 2, graph.n_items - 1)
    kind = Relation.of("has_tag", "item", "tag", item, value)
    graph, forms = replace(graph, relations={"has_tag": kind}), []
    monkeypatch.setattr(sparse_ease, "symmetric_sum", lambda *a: forms.append(a[1]) or symmetric_sum(*a))
    config = SparseEASEConfig(neighbours=6, weight=4.0)
    short = SparseEASE(graph, config).solve().score(USERS)
    assert isinstance(forms[0][0][0], EqualityMatrix)
    sparse_ease.clear_caches()
    monkeypatch.setattr(sparse_ease, "EqualityMatrix", pairs_of)
    monkeypatch.setattr(sparse_ease, "_bytes_of", lambda square: 0)
    assert torch.equal(SparseEASE(graph, config).solve().score(USERS), short)


def test_the_matrix_of_a_relation_that_is_gone_is_written_over():
    """The next shuffled copy of a relation takes the memory of the one before, and none of its numbers."""
    sparse_ease.clear_caches()
    graph = random_graph(4, ("has_tag", "item", "tag", 90))
    scores, held = {}, set()
    for seed in (0, 1, 0):
        shuffled = graph.rewired("has_tag", seed)
        found = SparseEASE(shuffled, SparseEASEConfig(neighbours=6, weight=4.0)).solve().score(USERS)
        held |= {square.ctypes.data for _, square in sparse_ease._GRAMS.values()}
        assert torch.equal(scores.setdefault(seed, found), found)
        del shuffled
        gc.collect()
    assert len(held) == 1


def test_trials_one_after_another_are_those_made_alone(graph):
    """What a trial takes over from the one before must be what it would have made itself."""
    walk = [
        {}, {"item_power": 0.2}, {"l2": 3.0}, {"neighbours": 4}, {"shrinkage": 0.0}, {"user_power": 0.0},
        {"weights": {"has_tag": 9.0}}, {"weights": {"lives_in": 9.0}}, {"weights": {"lives_in": 0.0}}, {},
    ]  # fmt: skip
    for changed in walk:
        config = replace(SparseEASEConfig(neighbours=6), **changed)
        warm = SparseEASE(graph, config).solve().score(USERS)
        sparse_ease.clear_caches()
        assert torch.equal(SparseEASE(graph, config).solve().score(USERS), warm), changed
        SparseEASE(graph.only("similar"), config).solve()  # another arm in between
        assert torch.equal(SparseEASE(graph, config).solve().score(USERS), warm), changed


def test_a_sum_with_relations_is_not_written_over_the_interactions(graph):
    """Interactions alone are regressed on the matrix that sums begin with, without a copy of it."""
    bare, config = graph.only(), SparseEASEConfig(neighbours=6)
    alone = SparseEASE(bare, config).solve().score(USERS)
    for arm in (graph, graph.only("similar"), graph.only("has_tag")):
        SparseEASE(arm, config).solve()
        SparseEASE(arm, replace(config, weight=1.0)).solve()
        assert torch.equal(SparseEASE(bare, config).solve().score(USERS), alone)


def chained(second: list[int]) -> Graph:
    """Four items by three authors of two countries; two items have one author each, one has two, one has none."""
    names = {"user": 3, "item": 4, "author": 3, "country": 2}
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in names.items()}
    relations = {
        "by": Relation.of("by", "item", "author", np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])),
        "from": Relation.of("from", "author", "country", np.array([0, 1, 2]), np.array(second)),
    }
    chose = Relation.of("chose", "user", "item", np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3]))
    return Graph("user", "item", nodes, chose, relations, "f")


def test_a_relation_two_hops_away_is_composed():
    graph = chained([0, 0, 1])
    country = graph.relations["from"]
    assert described_type(graph, country) == "item"
    assert [(r.name, forward) for r, forward in chain_to(graph, country, "item")] == [("by", True), ("from", True)]
    both = np.sqrt(0.5)  # half of each author: one country each
    expected = [[1, 0], [1, 0], [both, both], [0, 0]]
    np.testing.assert_allclose(dense(unit_relation_rows(graph, country)), expected, atol=1e-7)
    assert SparseEASE.used_relations(graph, None) == ("by", "from")


def test_the_chain_is_that_of_the_graph_at_hand():
    """A kept product must not outlive the relation that it was made of, and without the hop nothing is read."""
    graph = chained([0, 0, 1])
    first = dense(unit_relation_rows(graph, graph.relations["from"]))
    by = Relation.of("by", "item", "author", np.array([0, 1, 2, 3]), np.array([2, 1, 0, 0]))
    other = replace(graph, relations={**graph.relations, "by": by})
    moved = dense(unit_relation_rows(other, other.relations["from"]))
    assert not np.array_equal(first, moved)
    np.testing.assert_array_equal(dense(unit_relation_rows(graph, graph.relations["from"])), first)
    alone = graph.only("from")
    assert described_type(alone, alone.relations["from"]) is None
    assert SparseEASE.used_relations(alone, None) == ()
    assert np.isfinite(SparseEASE(alone).solve().score(torch.arange(3)).numpy()).all()


def test_a_solution_is_not_kept_beyond_the_chain_that_it_was_made_of():
    """The relation on the way has no weight of its own, and yet it decides."""
    graph = chained([0, 0, 1])
    by = Relation.of("by", "item", "author", np.array([0, 1, 2, 3]), np.array([2, 1, 0, 0]))
    other, config = replace(graph, relations={**graph.relations, "by": by}), SparseEASEConfig(weights={"by": 0.0})
    SparseEASE(graph, config).solve()
    warm = SparseEASE(other, config).solve().score(torch.arange(3))
    sparse_ease.clear_caches()
    assert torch.equal(SparseEASE(other, config).solve().score(torch.arange(3)), warm)


def test_a_composed_relation_says_what_the_same_facts_say_directly():
    graph = chained([0, 0, 1])
    rows = unit_relation_rows(graph, graph.relations["from"])
    direct = Relation.of("made_in", "item", "country", rows.rows(), rows.indices, rows.data)
    flat = replace(graph, relations={"made_in": direct}, excluded_relations=frozenset({"by"}))
    chain, whole = (
        SparseEASE(g, SparseEASEConfig(weights={"by": 0.0})).solve().score(torch.arange(3)) for g in (graph, flat)
    )
    np.testing.assert_allclose(chain, whole, atol=1e-6)
    assert whole.abs().max() > 0


def test_an_item_that_nobody_chose_gets_scores_through_its_relations():
    graph = planted_graph()
    kept = graph.interactions.where(graph.interactions.dst != 7)
    model = SparseEASE(replace(graph, interactions=kept)).solve()
    scores = model.score(torch.arange(graph.n_users))[:, 7].numpy()
    own = np.arange(graph.n_users) % 4 == 7 % 4
    assert scores[own].mean() > scores[~own].max(initial=0) * 0.5
    assert scores[own].mean() > 5 * abs(scores[~own].mean())


@pytest.mark.parametrize(
    ("field", "value"),
    [("neighbours", 0), ("l2", 0.0), ("l2", float("nan")), ("shrinkage", -1.0), ("user_power", -0.1),
     ("item_power", float("inf")), ("weight", -1.0)],
)  # fmt: skip
def test_values_out_of_range_are_refused(graph, field, value):
    with pytest.raises(InputError, match="out of range"):
        SparseEASE(graph, SparseEASEConfig(**{field: value}))


def test_no_interactions_at_all_score_by_relations(graph):
    nothing = graph.interactions.where(np.zeros(len(graph.interactions), bool))
    scores = SparseEASE(replace(graph, interactions=nothing)).solve().score(USERS)
    assert torch.isfinite(scores).all()
