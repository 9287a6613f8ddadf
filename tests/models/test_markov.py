from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.markov import Markov, MarkovConfig
from relrank.tables.ids import IdMap
from relrank.testing import ModelContract, follower, planted_graph, planted_sequences


class TestMarkov(ModelContract):
    kind = Markov

    def graph(self):
        return planted_sequences()

    def test_recovers_planted_truth_and_unfitted_it_does_not(self):
        """The successor of the latest item ranks first; counts do not reveal the blocks."""
        for model, low, high in ((self.fitted(), 0.99, 1), (self.unfitted(), 0, 0.1)):
            latest = np.arange(model.graph.n_items)
            best = model.fold_in([torch.tensor([i]) for i in latest]).argmax(1).numpy()
            assert low <= (best == follower(latest)).mean() <= high


def of_histories(histories, n_items, weights=None):
    """A graph of these histories, oldest item first."""
    src = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    order = [np.argsort(h) for h in histories]  # edges are sorted by item
    weight = None if weights is None else np.concatenate(weights)
    nodes = {n: IdMap(n, pl.Series(range(k))) for n, k in (("user", len(histories)), ("item", n_items))}
    edges = Relation.of("chose", "user", "item", src, np.concatenate(histories), weight)
    return Graph("user", "item", nodes, edges, {}, "tiny", places=np.concatenate(order).astype(np.int32))


def fold(model, *histories):
    return model.fold_in([torch.tensor(h, dtype=torch.int64) for h in histories]).numpy()


def test_chances_by_hand():
    """0 → 1 twice; 1 → 2 twice, 1 → 3 once; 2 → 0 once. Item 4 is never chosen."""
    graph = of_histories([[0, 1, 2], [0, 1, 3], [1, 2, 0]], 5)
    popularity = np.array([3, 3, 2, 1, 0]) / 3
    model = Markov(graph, MarkovConfig(window=2, backoff=0.3)).solve()
    # one of the least likely pair, one place back, adds 1/3 · 1/2
    low = 0.3 / 6 * popularity
    for history, expected in (
        ([0, 1], [0, 1 / 2, 2 / 3, 1 / 3, 0]),
        ([3, 1, 0], [0, 1, 1 / 3, 1 / 6, 0]),
        ([0, 0], [0, 3 / 2, 0, 0, 0]),
        ([0, 1, 3], [0, 0, 1 / 3, 1 / 6, 0]),
        ([3], [0, 0, 0, 0, 0]),
        ([], [0, 0, 0, 0, 0]),
    ):
        np.testing.assert_allclose(fold(model, history)[0], np.add(expected, low), rtol=1e-6)
    # two places on: 0 → 2, 0 → 3 and 1 → 0, once each
    wide = Markov(graph, MarkovConfig(window=1, reach=2, backoff=0.0)).solve()
    np.testing.assert_allclose(fold(wide, [0], [1])[0], [0, 1 / 2, 1 / 4, 1 / 4, 0], rtol=1e-6)
    np.testing.assert_allclose(fold(wide, [0], [1])[1], [1 / 4, 0, 1 / 2, 1 / 4, 0], rtol=1e-6)


def naive(histories, weights, n_items, asked, c):
    """Scores by loops over all pairs of places."""
    counts, popularity = np.zeros((n_items, n_items)), np.zeros(n_items)
    for h, w in zip(histories, weights, strict=True):
        for later in range(len(h)):
            popularity[h[later]] += w[later]
            for earlier in range(max(0, later - c.reach), later):
                counts[h[earlier], h[later]] += w[later]
    p = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
    out = np.zeros((len(asked), n_items))
    for row, h in zip(out, asked, strict=True):
        for k, item in enumerate(h[::-1][: c.window]):
            row += c.decay**k * p[item]
        row += c.backoff * p[p > 0].min() * c.decay ** (c.window - 1) * popularity / popularity.max()
    return out


@pytest.mark.parametrize("c", [MarkovConfig(4, 0.7, 3, 0.9), MarkovConfig(30, 1.0, 1, 0.1)], ids=str)
def test_scores_equal_the_loops(c):
    rng = np.random.default_rng(0)
    histories = [rng.permutation(12)[: rng.integers(0, 12)] for _ in range(25)]
    weights = [rng.uniform(0.2, 3, len(h)) for h in histories]
    graph = of_histories(histories, 12, weights)
    model = Markov(graph, c).solve()
    asked = [rng.integers(0, 12, n) for n in (0, 1, 3, 4, 5, 40)]
    np.testing.assert_allclose(fold(model, *asked), naive(histories, weights, 12, asked, c), rtol=1e-5)
    known = naive(histories, weights, 12, histories, c)
    np.testing.assert_allclose(model.score(torch.arange(25)).numpy(), known, rtol=1e-5)


def test_equal_weights_weigh_nothing():
    graph = planted_sequences()
    edges = graph.interactions
    heavy = replace(graph, interactions=replace(edges, weight=np.full(len(edges), 2.5, np.float32)))
    plain, other = (Markov(g).solve().score(torch.arange(9)).numpy() for g in (graph, heavy))
    np.testing.assert_allclose(other, plain, rtol=1e-6)


@pytest.mark.parametrize("c", [MarkovConfig(20, 0.1, 1, 0.9), MarkovConfig(200, 0.1, 1, 0.9)], ids=str)
def test_popularity_never_outweighs_a_transition(c):
    """0 → 1 once among a thousand 0 → 2; 3 is everyone's first item, so that it follows nothing."""
    graph = of_histories([[3, 0, 1]] + [[3, 0, 2]] * 999, 25)
    model = Markov(graph, c).solve()
    for places in (0, 5, 15):  # items since, none of which anything ever followed
        scores = fold(model, [0, *range(5, 5 + places)])[0]
        assert scores[2] > scores[1] > scores[3] > scores[4] == 0
        assert scores[3] == scores[0] == pytest.approx(fold(model, [])[0][3])


def test_ties_go_to_the_more_popular():
    model = Markov(of_histories([[0, 1, 3], [0, 2, 3], [4, 2]], 6)).solve()
    scores = fold(model, [0])[0]
    assert scores[2] > scores[1] > scores[3] > scores[4] > scores[5] == 0


@pytest.mark.parametrize("values", [{"window": 0}, {"reach": 0}, {"decay": 0.0}, {"decay": 1.1}, {"backoff": 1.0}])
def test_senseless_settings_are_refused(values):
    with pytest.raises(InputError, match=f"markov, {next(iter(values))}"):
        Markov(planted_sequences(), MarkovConfig(**values))


def test_interactions_without_an_order_are_refused():
    with pytest.raises(InputError, match="no order in time"):
        Markov(planted_graph())
