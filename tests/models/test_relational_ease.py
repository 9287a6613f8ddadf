import gc
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, random_graph

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form import relational_ease
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.testing import ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])


class TestRelations(ModelContract):
    kind = RelationalEASE


class TestInteractionsAlone(ModelContract):
    kind = RelationalEASE

    def graph(self):
        return planted_graph().only()


@pytest.fixture
def graph():
    return random_graph(
        3,
        *OF_ITEMS,
        ("lives_in", "user", "city", 25),
        ("home_of", "city", "user", 25),
        ("follows", "user", "user", 70),
        ("shelved", "user", "item", 50),
        ("near", "land", "land", 5),
    )


def unit_rows(graph, name, end):
    """The definition: rows of ``end``, each of length 1, in a relation within one type with 1 on the diagonal."""
    r = graph.relations[name]
    a = np.zeros((SIZES[r.source], SIZES[r.target]))
    a[r.src, r.dst] = r.weight
    if r.source == r.target:
        a = (a + a.T) / max(a.max(), 1) + np.eye(len(a))
    elif r.source != end:
        a = a.T
    lengths = np.linalg.norm(a, axis=1, keepdims=True)
    return np.divide(a, lengths, out=np.zeros_like(a), where=lengths > 0)


def stacked(graph, of_items, of_users, l2):
    """Scores by the paper's formula on the explicit matrix [[X, √w U], [√w Rᵀ, 0]], in float64."""
    x = np.zeros((SIZES["user"], SIZES["item"]))
    x[graph.interactions.src, graph.interactions.dst] = 1
    beside = [np.sqrt(w) * unit_rows(graph, name, "user") for name, w in of_users.items()]
    wide = np.hstack([x, *beside])
    below = [np.sqrt(w) * unit_rows(graph, name, "item").T for name, w in of_items.items()]
    below = [np.hstack([b, np.zeros((len(b), wide.shape[1] - b.shape[1]))]) for b in below]
    stack = np.vstack([wide, *below])
    p = np.linalg.inv(stack.T @ stack + l2 * np.eye(stack.shape[1]))
    b = p / -np.diag(p)
    b[np.diag_indices_from(b)] = 0
    return (wide @ b)[:, : SIZES["item"]], (x @ b[: SIZES["item"]])[:, : SIZES["item"]]


@pytest.mark.parametrize(
    ("of_items", "of_users"),
    [
        ({}, {}),
        ({"has_tag": 5.0}, {}),
        ({"tagged": 5.0}, {}),
        ({"similar": 3.0}, {}),
        ({"has_tag": 5.0, "tagged": 0.5, "similar": 3.0}, {}),
        ({}, {"lives_in": 2.0}),
        ({}, {"home_of": 2.0}),
        ({}, {"follows": 2.0}),
        ({}, {"shelved": 2.0}),
        ({"has_tag": 5.0, "similar": 3.0}, {"lives_in": 2.0, "follows": 0.7}),
    ],
)
def test_scores_equal_ease_on_the_stacked_matrix(graph, of_items, of_users):
    weights = dict.fromkeys(graph.relations, 0.0) | of_items | of_users
    model = RelationalEASE(graph, RelationalEASEConfig(l2=4.0, weights=weights)).solve()
    scores, folded = stacked(graph, of_items, of_users, 4.0)
    np.testing.assert_allclose(model.score(USERS).numpy(), scores, atol=1e-4)
    x = [torch.from_numpy(graph.interactions.dst[graph.interactions.src == u].astype(np.int64)) for u in USERS]
    np.testing.assert_allclose(model.fold_in(x).numpy(), folded, atol=1e-4)


def test_weight_0_is_leaving_the_relation_out(graph):
    for name in graph.relations:
        zero = RelationalEASE(graph, RelationalEASEConfig(weights={name: 0.0})).solve()
        out = RelationalEASE(graph.without(name), RelationalEASEConfig()).solve()
        assert torch.equal(zero.score(USERS), out.score(USERS))
        if name != "near":  # nothing leads there
            other = RelationalEASE(graph, RelationalEASEConfig()).solve()
            assert not torch.allclose(other.score(USERS), out.score(USERS), atol=1e-6)


def test_without_relations_it_is_ease(graph):
    ours = RelationalEASE(graph.only(), RelationalEASEConfig(l2=7.0)).solve().score(USERS)
    torch.testing.assert_close(ours, EASE(graph, EASEConfig(7.0)).solve().score(USERS), atol=1e-5, rtol=0)


def test_every_relation_of_users_or_items_can_be_tuned(graph):
    names = [k.name for k in RelationalEASE.grid_parameters(graph)]
    usable = ("follows", "has_tag", "home_of", "lives_in", "shelved", "similar", "tagged")
    assert names == [f"weights.{name}" for name in usable] + ["l2"]


def test_kept_gram_matrices_are_not_confused(graph):
    """Arms share relations by object; the same name with other edges is another relation."""
    config = RelationalEASEConfig(weights={"has_tag": 50.0})
    first = RelationalEASE(graph.only("has_tag"), config).solve().score(USERS)
    rewired = graph.only("has_tag").rewired("has_tag", seed=1)
    second = RelationalEASE(rewired, config).solve().score(USERS)
    assert not torch.allclose(first, second, atol=1e-4)
    assert torch.equal(RelationalEASE(graph.only("has_tag"), config).solve().score(USERS), first)
    relational_ease._GRAMS.clear()
    assert torch.equal(RelationalEASE(rewired, config).solve().score(USERS), second)
    del rewired
    gc.collect()
    assert all(g.shape == (210,) for _, g in relational_ease._GRAMS.values())


def test_kept_gram_matrices_are_bounded_and_go_with_their_relation(graph, monkeypatch):
    relational_ease._GRAMS.clear()
    monkeypatch.setattr(relational_ease, "CACHE_BYTES", 210 * 4)
    expected = RelationalEASE(graph).solve().score(USERS)
    assert len(relational_ease._GRAMS) == 1
    monkeypatch.setattr(relational_ease, "CACHE_BYTES", 1 << 20)
    part = graph.only("similar").rewired("similar", seed=0)
    RelationalEASE(part).solve()
    kept = len(relational_ease._GRAMS)
    del part
    gc.collect()
    assert len(relational_ease._GRAMS) == kept - 1
    torch.testing.assert_close(RelationalEASE(graph).solve().score(USERS), expected)


def test_a_relation_without_edges_changes_nothing(graph):
    nobody = graph.relations["similar"].where(np.zeros(len(graph.relations["similar"]), bool))
    empty = Graph(graph.user, graph.item, graph.nodes, graph.interactions, {"similar": nobody}, "f")
    scores = RelationalEASE(empty, RelationalEASEConfig(l2=5.0, weight=2.0)).solve().score(USERS)
    expected, _ = stacked(empty, {"similar": 2.0}, {}, 5.0)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["has_tag", "lives_in"])
def test_weights_must_not_be_negative(graph, name, weight):
    with pytest.raises(InputError, match=name):
        RelationalEASE(graph, RelationalEASEConfig(weights={name: weight})).solve()


def test_penalty_must_be_positive(graph):
    with pytest.raises(InputError, match=r"out of range[\s\S]*relational-ease, l2"):
        RelationalEASE(graph, RelationalEASEConfig(l2=0.0)).solve()


def test_scores_come_from_a_history_unless_users_have_relations_in_use():
    graph = random_graph(5, ("has_tag", "item", "tag", 40), ("lives_in", "user", "city", 25))
    for weights, expected in (({"has_tag": 3.0, "lives_in": 0.0}, True), ({"lives_in": 3.0}, False)):
        assert RelationalEASE(graph, RelationalEASEConfig(weights=weights)).from_history is expected
    assert EASE(graph).from_history


def cold_and_cached(whole, arm, config):
    """A model solved from ``whole`` with an empty cache, and with the solution on ``whole`` cached."""
    relational_ease._SOLUTIONS.clear()
    cold = RelationalEASE(arm, config).solve_from(whole)
    relational_ease._SOLUTIONS.clear()
    RelationalEASE(whole, config).solve_from(whole)
    return cold, RelationalEASE(arm, config).solve_from(whole)


def test_arms_of_few_nodes_come_from_the_whole_solution(monkeypatch):
    """To the bit the same whatever was solved before, and within rounding what they are alone."""
    whole = random_graph(7, ("has_tag", "item", "tag", 40), ("similar", "item", "item", 60))
    whole = Graph(
        whole.user, whole.item, whole.nodes, whole.interactions,
        {**whole.relations, "few": few(whole.relations["has_tag"])}, "f",
    )  # fmt: skip
    config = RelationalEASEConfig(l2=8.0, weight=3.0, weights={"has_tag": 2.0})
    asked = []
    change = relational_ease.downdated_weights
    monkeypatch.setattr(
        relational_ease, "downdated_weights", lambda *args: asked.append(args[2].n_rows) or change(*args)
    )
    for arm, ways in ((whole, 0), (whole.without("few"), 2), (whole.without("similar"), 0), (whole.only(), 0),
                      (whole.rewired("few", 0), 0)):  # fmt: skip
        asked.clear()
        cold, cached = cold_and_cached(whole, arm, config)
        alone = RelationalEASE(arm, config).solve()
        assert len(asked) == ways
        assert torch.equal(cold.item_weights, cached.item_weights)
        assert torch.equal(cold.diagonal, cached.diagonal)
        torch.testing.assert_close(cached.item_weights, alone.item_weights, atol=1e-5, rtol=0)
        torch.testing.assert_close(cached.diagonal, alone.diagonal, atol=1e-5, rtol=1e-5)


def few(relation):
    """Links to the first three nodes alone."""
    return replace(relation.where(relation.dst < 3), name="few")


def test_a_kept_solution_is_of_the_same_hyper_parameters_and_relations_and_goes_with_its_interactions(graph):
    whole = graph.only("has_tag", "similar")
    for l2, weight in ((4.0, 3.0), (5.0, 3.0), (5.0, 2.0)):
        config = RelationalEASEConfig(l2=l2, weight=weight)
        _, cached = cold_and_cached(whole, whole, config)
        assert torch.equal(cached.item_weights, RelationalEASE(whole, config).solve().item_weights)
        other = whole.rewired("has_tag", 0)
        assert torch.equal(
            RelationalEASE(other, config).solve_from(other).item_weights,
            RelationalEASE(other, config).solve().item_weights,
        )
    assert len(relational_ease._SOLUTIONS) == 1


def test_on_more_interactions_a_model_is_solved_alone(graph):
    """As after validation rows are given back: the solution with all relations is of other interactions."""
    config, whole = RelationalEASEConfig(l2=4.0), graph.only("has_tag", "similar")
    edges = whole.interactions
    more = replace(whole.only("has_tag"), interactions=replace(edges, weight=edges.weight * 2))
    assert torch.equal(
        RelationalEASE(more, config).solve_from(whole).item_weights,
        RelationalEASE(more, config).solve().item_weights,
    )


def test_users_with_relations_are_solved_alone(graph):
    config = RelationalEASEConfig(l2=4.0)
    graph = replace(graph, relations={**graph.relations, "few": few(graph.relations["has_tag"])})
    arm = graph.without("few")  # small enough to be taken out of a whole solution, were it one of items alone
    assert torch.equal(
        RelationalEASE(arm, config).solve_from(graph).item_weights, RelationalEASE(arm, config).solve().item_weights
    )


def test_threads_that_keep_gram_matrices_do_not_disturb_each_other():
    """One counted the matrices while another added one: "dictionary changed size during iteration"."""
    relations = [Relation.of(f"r{n}", "item", "tag", np.array([0]), np.array([0])) for n in range(2000)]
    RelationalEASE.clear_cache()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            cached = list(pool.map(lambda r: relational_ease._cache(r, None, np.zeros(1, np.float32)), relations))
    finally:
        sys.setswitchinterval(before)
    assert len(cached) == len(relational_ease._GRAMS) == 2000
    RelationalEASE.clear_cache()
