import math

import numpy as np
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, interactions, item_filter, over_degrees, random_graph
from filter_truth import FilterTruth
from numpy.polynomial import chebyshev

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.closed_form.chebycf import ChebyCF, ChebyCFConfig, plateau_coefficients
from relrank.testing import ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])


class TestChebyCF(ModelContract):
    kind = ChebyCF
    config = ChebyCFConfig(rank=4)


class TestRelations(ModelContract):
    kind = ChebyCF
    config = ChebyCFConfig(rank=4, weight=0.3)


class TestFilter(FilterTruth):
    kind = ChebyCF


@pytest.fixture
def graph():
    return random_graph(
        5,
        *OF_ITEMS,
        ("near", "land", "land", 5),
    )


def response_at(x, flatness):
    """Kim et al. 2025: 1 at frequency −1, 1/2 in the middle, 0 at 1."""
    return (1 + (-x) ** flatness) / 2 if x < 0 else (1 - x**flatness) / 2


def by_the_formula(graph, x, order, flatness, rank, alpha, beta, filters=(), user_power=0.5):
    """A polynomial through all nodes, applied to all eigenvalues of the Laplacian, in float64."""
    train = interactions(graph)
    r = over_degrees(train) * train.sum(1, keepdims=True) ** (0.5 - user_power)
    p = r.T @ r / np.linalg.eigvalsh(r.T @ r)[-1]
    frequencies, vectors = np.linalg.eigh(np.eye(train.shape[1]) - 2 * p)
    nodes = [-math.cos((2 * j + 1) * math.pi / (2 * order + 2)) for j in range(order + 1)]
    values = [response_at(round(-math.cos(j * math.pi / order), 12), flatness) for j in range(order + 1)]
    power = np.polyfit(nodes, values, order)
    plateau = vectors @ np.diag(np.polyval(power, frequencies)) @ vectors.T
    ideal = vectors[:, :rank] @ vectors[:, :rank].T
    outer = train.sum(0) ** beta
    whole = plateau + alpha * ideal + sum(w * f for w, f in filters)
    return x @ np.diag(1 / outer) @ whole @ np.diag(outer)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ((8, 1.5, 5, 0.2, 0.4), {}),
        ((1, 1.0, 1, 0.0, 0.0), {}),
        ((2, 3.0, 20, 1.2, 0.5), {}),
        ((7, 10.0, 5, 0.3, 0.2), {}),
        ((8, 1.5, 5, 0.2, 0.4), {"has_tag": 0.3}),
        ((4, 2.0, 5, 0.1, 0.6), {"tagged": 0.2, "similar": 0.5}),
    ],
)
def test_scores_equal_the_formula(graph, settings, weights):
    model = ChebyCF(graph, ChebyCFConfig(*settings, weights=weights)).solve()
    x = interactions(graph)
    expected = by_the_formula(graph, x, *settings, [(w, item_filter(graph, n)) for n, w in weights.items()])
    np.testing.assert_allclose(model.score(USERS).numpy(), expected, atol=1e-5)
    folded = model.fold_in([torch.from_numpy(np.flatnonzero(row)) for row in x]).numpy()
    np.testing.assert_allclose(folded, expected, atol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.3, 0.8])
def test_users_with_many_interactions_may_count_more_or_less(graph, power):
    """The response is over the spectrum as it then is, stretched to end at 1."""
    model = ChebyCF(graph, ChebyCFConfig(8, 3.0, 5, 0.2, 0.3, user_power=power)).solve()
    expected = by_the_formula(graph, interactions(graph), 8, 3.0, 5, 0.2, 0.3, user_power=power)
    np.testing.assert_allclose(model.score(USERS).numpy(), expected, atol=1e-5)


def test_coefficients_by_hand():
    """Degree 1 lies through (∓√½, 1 and 0), degree 2 through (∓√¾, 1 and 0) and (0, ½)."""
    np.testing.assert_allclose(plateau_coefficients(1, 4.0), [0.5, -math.sqrt(0.5)], atol=1e-12)
    np.testing.assert_allclose(plateau_coefficients(2, 4.0), [0.5, -1 / math.sqrt(3), 0], atol=1e-12)


@pytest.mark.parametrize("order", [3, 8, 12])
def test_the_polynomial_takes_its_values_at_the_nodes(order):
    coefficients = plateau_coefficients(order, 3.0)
    ends = -np.cos(np.arange(order + 1) * np.pi / order)
    expected = [response_at(round(float(x), 12), 3.0) for x in ends]
    np.testing.assert_allclose(chebyshev.chebval(chebyshev.chebpts1(order + 1), coefficients), expected, atol=1e-12)


def test_hyper_parameters_start_at_their_defaults(graph):
    grid_parameters = {k.name: k for k in ChebyCF.grid_parameters(graph)}
    names = ["weights.has_tag", "weights.similar", "weights.tagged"]
    assert list(grid_parameters) == [*names, "user_power", "flatness", "beta", "alpha", "rank", "order"]
    for name in ("user_power", "flatness", "beta", "alpha", "order"):
        assert grid_parameters[name].start == getattr(ChebyCFConfig(), name)


def test_a_relation_reaches_items_that_nobody_chose():
    graph = planted_graph()
    part = graph.interactions.where((graph.interactions.dst != 5) & (graph.interactions.src != 9))
    cold = Graph("user", "item", graph.nodes, part, graph.relations, "f")
    scores = ChebyCF(cold, ChebyCFConfig(rank=4)).solve().score(torch.arange(160))
    assert scores.isfinite().all()
    assert not scores[9].any()
    assert not scores[:, 5].any()
    scores = ChebyCF(cold, ChebyCFConfig(rank=4, weight=0.3)).solve().score(torch.arange(160))
    assert not scores[9].any()
    of_item = scores[:, 5].reshape(-1, 4)
    of_item = torch.cat([of_item[:2], of_item[3:]])  # without user 9
    assert of_item[:, 1].mean() > 3 * of_item[:, [0, 2, 3]].mean()  # users 1, 5, 13 … are the item's


@pytest.mark.parametrize(
    "settings",
    [
        {"order": 0},
        {"flatness": 0.0},
        {"flatness": math.inf},
        {"alpha": math.nan},
        {"beta": math.inf},
        {"user_power": math.nan},
    ],
)
def test_settings_without_meaning_are_refused(graph, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        ChebyCF(graph, ChebyCFConfig(**settings))


def test_weights_must_not_be_negative(graph):
    with pytest.raises(InputError, match="has_tag"):
        ChebyCF(graph, ChebyCFConfig(weights={"has_tag": -1.0}))
