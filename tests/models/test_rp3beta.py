import math

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.rp3beta import RP3Beta, RP3BetaConfig
from relrank.testing import ModelContract, planted_graph


class TestRP3Beta(ModelContract):
    kind = RP3Beta


def of(src, dst, weight=None):
    """Interactions as a graph of the planted size."""
    graph = planted_graph()
    edges = Relation.of("chose", "user", "item", np.asarray(src), np.asarray(dst), weight)
    return Graph("user", "item", graph.nodes, edges, {}, "f")


def singles(model, n):
    return model.fold_in([torch.tensor([i]) for i in range(n)]).numpy()


def naive(graph, alpha, beta):
    """Every walk item → user → item by itself."""
    edges = graph.interactions
    x = {(u, i): v for u, i, v in zip(edges.src.tolist(), edges.dst.tolist(), edges.weight.tolist(), strict=True)}
    of_user, of_item = {}, {}
    for (u, i), v in x.items():
        of_user[u] = of_user.get(u, 0) + v
        of_item[i] = of_item.get(i, 0) + v
    w = np.zeros((graph.n_items, graph.n_items))
    for (u, i), there in x.items():
        for (other, j), on in x.items():
            if u == other and i != j:
                w[i, j] += (there / of_item[i]) ** alpha * (on / of_user[u]) ** alpha / of_item[j] ** beta
    return w


def test_weights_by_hand():
    """Users 0 and 1 chose items 0 and 1, user 1 item 2, too: from 0 to 1 the walks are 1/2 · 1/2 + 1/2 · 1/3."""
    model = RP3Beta(of([0, 0, 1, 1, 1], [0, 1, 0, 1, 2]), RP3BetaConfig(alpha=1.0, beta=0.5)).solve()
    found = singles(model, 3)[:, :3]
    both = 5 / 12 / math.sqrt(2)
    np.testing.assert_allclose(
        found, [[0, both, 1 / 6], [both, 0, 1 / 6], [1 / 3 / math.sqrt(2)] * 2 + [0]], rtol=1e-6
    )


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.4), (0.4, 0.0), (1.6, 1.0), (0.0, 0.3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_weights_equal_all_walks(alpha, beta, weighted):
    edges = planted_graph().interactions
    weight = np.random.default_rng(3).uniform(0.2, 3, edges.src.size) if weighted else None
    graph = of(edges.src, edges.dst, weight)
    model = RP3Beta(graph, RP3BetaConfig(alpha, beta, neighbours=200)).solve()
    w = naive(graph, alpha, beta)
    np.testing.assert_allclose(singles(model, graph.n_items), w, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(model.fold_in([torch.tensor([0, 3, 8])]).numpy()[0], w[[0, 3, 8]].sum(0), rtol=1e-5)
    history = np.zeros((graph.n_users, graph.n_items))
    history[graph.interactions.src, graph.interactions.dst] = graph.interactions.weight
    np.testing.assert_allclose(model.score(torch.arange(160)).numpy(), history @ w, rtol=1e-4, atol=1e-8)


def test_only_the_largest_weights_are_kept():
    graph = planted_graph()
    found = singles(RP3Beta(graph, RP3BetaConfig(neighbours=7)).solve(), graph.n_items)
    w = naive(graph, 1.0, 0.4)
    seventh = np.sort(w, 1)[:, -7]
    assert ((found > 0).sum(1) <= 7).all()
    for row, of_row, least in zip(found, w, seventh, strict=True):
        assert (row[of_row > least * (1 + 1e-5)] > 0).all()  # ties at the last place may fall either way
        assert not row[of_row < least * (1 - 1e-5)].any()


def test_beta_moves_the_ranking_towards_rare_items():
    graph = planted_graph()
    popularity = np.bincount(graph.interactions.dst, minlength=graph.n_items)

    def mean_popularity(beta):
        scores = RP3Beta(graph, RP3BetaConfig(beta=beta)).solve().score(torch.arange(160))
        return popularity[scores.topk(10).indices.numpy()].mean()

    assert mean_popularity(0.0) > mean_popularity(0.5) > mean_popularity(1.0)


@pytest.mark.parametrize(
    "settings", [{"alpha": -0.1}, {"alpha": math.nan}, {"beta": -1.0}, {"beta": math.inf}, {"neighbours": 0}]
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        RP3Beta(planted_graph(), RP3BetaConfig(**settings))
