import numpy as np
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, interactions, item_filter, random_graph
from filter_truth import FilterTruth

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.closed_form.flat_filter import FlatFilter, FlatFilterConfig
from relrank.testing import ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])


class TestFlatFilter(ModelContract):
    kind = FlatFilter
    config = FlatFilterConfig(rank=4)


class TestRelations(ModelContract):
    kind = FlatFilter
    config = FlatFilterConfig(rank=4, weight=0.3)


class TestFilter(FilterTruth):
    kind = FlatFilter


@pytest.fixture
def graph():
    return random_graph(
        4,
        *OF_ITEMS,
        ("near", "land", "land", 5),
    )


def by_the_formula(graph, x, rank, level, powers, filters=()):
    """All eigenvalues of P in float64, the leading ones replaced, P put together again."""
    a, b, c = powers
    train = interactions(graph)
    r = np.diag(train.sum(1) ** -a) @ train @ np.diag(train.sum(0) ** -b)
    values, vectors = np.linalg.eigh(r.T @ r)
    largest = values[-1]
    values[-rank:] = level * values[-rank]
    p = vectors @ np.diag(values) @ vectors.T + largest * sum(w * f for w, f in filters)
    outer = train.sum(0) ** c
    return x @ np.diag(1 / outer) @ p @ np.diag(outer)


@pytest.mark.parametrize(
    ("rank", "level", "powers", "weights"),
    [
        (5, 2.0, (0.3, 0.4, 0.3), {}),
        (1, 1.0, (0.5, 0.5, 0.0), {}),
        (20, 0.7, (0.0, 0.6, 0.5), {}),
        (5, 2.0, (0.3, 0.4, 0.3), {"has_tag": 0.3}),
        (5, 1.5, (0.2, 0.0, 0.1), {"tagged": 0.2, "similar": 0.5}),
    ],
)
def test_scores_equal_the_formula(graph, rank, level, powers, weights):
    model = FlatFilter(graph, FlatFilterConfig(rank, level, *powers, weights=weights)).solve()
    x = interactions(graph)
    expected = by_the_formula(graph, x, rank, level, powers, [(w, item_filter(graph, n)) for n, w in weights.items()])
    np.testing.assert_allclose(model.score(USERS).numpy(), expected, atol=1e-5)
    folded = model.fold_in([torch.from_numpy(np.flatnonzero(row)) for row in x]).numpy()
    np.testing.assert_allclose(folded, expected, atol=1e-5)


def test_every_leading_direction_counts_the_same():
    """Histories that are leading eigenvectors come back α λ_k times as long, popularity no more than the others."""
    graph = planted_graph()
    model = FlatFilter(graph, FlatFilterConfig(rank=4, level=2.0, outer_power=0.0)).solve()
    train = interactions(graph)
    r = np.diag(train.sum(1) ** -0.3) @ train @ np.diag(train.sum(0) ** -0.4)
    values, vectors = np.linalg.eigh(r.T @ r)
    table = np.zeros((120, 16), np.float32)
    table[:, :8] = vectors[:, -8:]
    out = model.apply_filter(table) + (model.out_of @ (model.into.T @ torch.from_numpy(table))).numpy()
    factors = np.append(values[-8:-4], [2 * values[-4]] * 4)
    np.testing.assert_allclose(out[:, :8], vectors[:, -8:] * factors, atol=1e-4 * values[-1])


def test_hyper_parameters_start_at_their_defaults(graph):
    grid_parameters = {k.name: k for k in FlatFilter.grid_parameters(graph)}
    names = ["weights.has_tag", "weights.similar", "weights.tagged"]
    assert list(grid_parameters) == [*names, "user_power", "item_power", "outer_power", "level", "rank"]
    for name in ("user_power", "item_power", "outer_power", "level"):
        assert grid_parameters[name].start == getattr(FlatFilterConfig(), name)


def test_a_relation_reaches_items_that_nobody_chose():
    graph = planted_graph()
    part = graph.interactions.where((graph.interactions.dst != 5) & (graph.interactions.src != 9))
    cold = Graph("user", "item", graph.nodes, part, graph.relations, "f")
    scores = FlatFilter(cold, FlatFilterConfig(rank=4)).solve().score(torch.arange(160))
    assert not scores[9].any()
    assert not scores[:, 5].any()
    scores = FlatFilter(cold, FlatFilterConfig(rank=4, weight=0.3)).solve().score(torch.arange(160))
    assert not scores[9].any()
    of_item = scores[:, 5].reshape(-1, 4)
    of_item = torch.cat([of_item[:2], of_item[3:]])  # without user 9
    assert of_item[:, 1].mean() > 3 * of_item[:, [0, 2, 3]].mean()  # users 1, 5, 13 … are the item's


@pytest.mark.parametrize("name", ["level", "user_power", "item_power", "outer_power"])
def test_settings_must_be_finite(graph, name):
    with pytest.raises(InputError, match=name):
        FlatFilter(graph, FlatFilterConfig(**{name: float("nan")}))
