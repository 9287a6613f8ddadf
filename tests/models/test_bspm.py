import numpy as np
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, interactions, item_filter, over_degrees, random_graph
from filter_truth import FilterTruth

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.closed_form.bspm import BSPM, BSPMConfig
from relrank.testing import ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])


class TestBSPM(ModelContract):
    kind = BSPM
    config = BSPMConfig(rank=4, rounds=16)  # a sharp cut: of the start, nothing is left


class TestRelations(ModelContract):
    kind = BSPM
    config = BSPMConfig(rank=4, time=1.0, rounds=16, weight=0.3)


class TestFilter(FilterTruth):
    kind = BSPM
    unused = ("near", "lives_in")


@pytest.fixture
def graph():
    return random_graph(
        3,
        *OF_ITEMS,
        ("shelved", "user", "item", 50),
        ("lives_in", "user", "city", 25),
        ("near", "land", "land", 5),
    )


def by_the_formula(graph, x, rank=5, beta=0.2, time=2.5, steps=1, solver="rk4", filters=()):
    """Choi et al. 2023 step by step: the differential equation is solved on the full score matrix, in float64."""
    r = over_degrees(interactions(graph))
    p, degrees = r.T @ r, interactions(graph).sum(0)
    root = np.diag(degrees**0.5)
    v = np.linalg.svd(r)[2][:rank].T
    blurring = p + beta * np.linalg.pinv(root) @ v @ v.T @ root + sum(w * f for w, f in filters)
    y, h = x @ blurring, time / steps
    for _ in range(steps):
        k1 = -y @ p
        if solver == "euler":
            y = y + h * k1
            continue
        k2 = -(y + h / 2 * k1) @ p
        k3 = -(y + h / 2 * k2) @ p
        k4 = -(y + h * k3) @ p
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def histories(graph):
    return [torch.from_numpy(graph.interactions.dst[graph.interactions.src == u].astype(np.int64)) for u in USERS]


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, {}),
        ({"solver": "euler", "time": 1.2}, {}),
        ({"steps": 3}, {}),
        ({"solver": "euler", "steps": 2}, {"has_tag": 0.4}),
        ({"time": 0.0}, {"similar": 0.3}),
        ({"rank": 20, "beta": 1.5}, {}),
        ({"beta": 0.0}, {"tagged": 2.0}),
        ({}, {"shelved": 0.7}),
        ({}, {"has_tag": 0.5, "tagged": 0.2, "similar": 1.3, "shelved": 0.1}),
    ],
)
def test_scores_equal_the_formula(graph, settings, weights):
    settings = {"rank": 5} | settings
    model = BSPM(graph, BSPMConfig(**settings, weights=weights)).solve()
    filters = [(w, item_filter(graph, name)) for name, w in weights.items()]
    expected = by_the_formula(graph, interactions(graph), **settings, filters=filters)
    np.testing.assert_allclose(model.score(USERS).numpy(), expected, atol=2e-5)
    np.testing.assert_allclose(model.fold_in(histories(graph)).numpy(), expected, atol=2e-5)


def test_every_relation_of_items_can_be_tuned(graph):
    grid_parameters = {k.name: k for k in BSPM.grid_parameters(graph)}
    names = ["weights.has_tag", "weights.shelved", "weights.similar", "weights.tagged"]
    assert list(grid_parameters) == [*names, "time", "beta", "rank", "rounds"]
    assert grid_parameters["rank"].grid_values == (1,)  # 16 are more than half of the 20 items
    assert {k.name: k for k in BSPM.grid_parameters(planted_graph())}["rank"].grid_values == (16, 32)


def test_items_and_users_without_interactions_score_zero():
    graph = planted_graph()
    kept = (graph.interactions.dst != 5) & (graph.interactions.src != 9)
    part = graph.interactions.where(kept)
    model = BSPM(Graph("user", "item", graph.nodes, part, {}, "f"), BSPMConfig(rank=4)).solve()
    scores = model.score(torch.arange(160))
    assert scores.isfinite().all()
    assert not scores[9].any()
    assert not scores[:, 5].any()
    assert not model.fold_in([torch.tensor([5])]).any()


def test_a_relation_reaches_items_that_nobody_chose():
    graph = planted_graph()
    part = graph.interactions.where(graph.interactions.dst != 5)
    cold = Graph("user", "item", graph.nodes, part, graph.relations, "f")
    model = BSPM(cold, BSPMConfig(rank=4, time=0.5, weights={"has_tag": 0.5})).solve()
    scores = model.score(torch.arange(160))[:, 5].reshape(-1, 4)
    assert (scores[:, 1] > scores[:, [0, 2, 3]].max()).float().mean() > 0.9  # users 1, 5, 9 … are the item's


@pytest.mark.parametrize("settings", [{"solver": "heun"}, {"steps": 0}, {"time": -1.0}, {"time": float("inf")}])
def test_settings_that_cannot_be_solved_are_refused(graph, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        BSPM(graph, BSPMConfig(**settings))
