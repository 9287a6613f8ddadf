from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from dense_truth import OF_ITEMS, random_graph

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.recency_ease import RecencyEASE, RecencyEASEConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.tables.ids import IdMap
from relrank.testing import ModelContract, planted_graph, planted_sequences

OF_ITEM_NAMES = [name for name, *_ in OF_ITEMS]


def ordered(graph, seed=0):
    """The same graph with a random order of every history."""
    rng, src = np.random.default_rng(seed), graph.interactions.src
    places = np.concatenate([rng.permutation(n) for n in np.unique_counts(src).counts])
    return replace(graph, places=places.astype(np.int32))


class TestRelations(ModelContract):
    kind = RecencyEASE

    def graph(self):
        return ordered(planted_graph())


class TestInteractionsAlone(ModelContract):
    kind = RecencyEASE

    def graph(self):
        return ordered(planted_graph().only())


@pytest.fixture
def graph():
    return ordered(random_graph(3, *OF_ITEMS, ("lives_in", "user", "city", 25)))


def test_scores_are_decayed_sums_of_the_latest_items_weights(graph):
    """A loop over the latest items, on the weights of relational EASE; an item may occur twice."""
    shared = {"l2": 7.0, "weight": 2.0, "weights": {"similar": 5.0}}
    weights = RelationalEASE(graph, RelationalEASEConfig(**shared)).solve().item_weights.numpy()
    model = RecencyEASE(graph, RecencyEASEConfig(decay=0.4, window=3, **shared)).solve()
    histories = [[0, 3, 5, 2, 1], [4], [], [6, 2, 6]]
    expected = np.zeros((len(histories), graph.n_items))
    for row, history in zip(expected, histories, strict=True):
        for k, item in enumerate(history[::-1][:3]):
            row += 0.4**k * weights[item]
    found = model.fold_in([torch.tensor(h, dtype=torch.int64) for h in histories]).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert abs(expected[3]).max() > 0.01
    users = torch.arange(graph.n_users)
    np.testing.assert_array_equal(model.score(users), model.fold_in(model.sequences.tensors()))


def test_without_decay_it_is_relational_ease(graph):
    graph = graph.only(*OF_ITEM_NAMES)
    model = RecencyEASE(graph, RecencyEASEConfig(decay=1.0, window=10_000)).solve()
    users = torch.arange(graph.n_users)
    np.testing.assert_allclose(model.score(users), RelationalEASE(graph).solve().score(users), atol=1e-6)


def test_trials_of_another_decay_solve_nothing(graph, monkeypatch):
    graph = graph.only(*OF_ITEM_NAMES)
    RecencyEASE(graph, RecencyEASEConfig(decay=0.9)).solve()
    monkeypatch.setattr(RelationalEASE, "solve", lambda self: pytest.fail("solved again"))
    model = RecencyEASE(graph, RecencyEASEConfig(decay=0.5)).solve()
    assert model.fold_in([torch.tensor([0, 1])]).any()


def test_derived_from_a_larger_graph_it_is_the_same(graph):
    graph = graph.only(*OF_ITEM_NAMES)
    config = RecencyEASEConfig(l2=5.0, weight=2.0)
    fewer, users = graph.without("similar"), torch.arange(graph.n_users)
    alone = RecencyEASE(fewer, config).solve().score(users)
    np.testing.assert_allclose(RecencyEASE(fewer, config).solve_from(graph).score(users), alone, atol=1e-4)
    assert not np.allclose(RecencyEASE(graph, config).solve().score(users), alone, atol=1e-3)


def moved_on(n_users=200, blocks=6, size=10, seed=0):
    """Users with six items of one block, then two of another; and each user's latest block."""
    rng, histories, latest = np.random.default_rng(seed), [], []
    for _ in range(n_users):
        before, after = rng.choice(blocks, 2, replace=False)
        histories.append([*(before * size + rng.permutation(size)[:6]), *(after * size + rng.permutation(size)[:2])])
        latest.append(after)
    nodes = {n: IdMap(n, pl.Series(range(k))) for n, k in (("user", n_users), ("item", blocks * size))}
    edges = Relation.of("chose", "user", "item", np.repeat(np.arange(n_users), 8), np.concatenate(histories))
    places = np.concatenate([np.argsort(h) for h in histories]).astype(np.int32)  # edges are sorted by item
    return Graph("user", "item", nodes, edges, {}, "moved on", places=places), np.array(latest), size


@pytest.mark.parametrize(("decay", "low", "high"), [(0.3, 0.99, 1), (1.0, 0, 0.01)])
def test_interests_that_have_moved_on_are_found_by_decay_alone(decay, low, high):
    """The best new item is of the latest block, where without decay it is of the block with more items."""
    graph, latest, size = moved_on()
    scores = RecencyEASE(graph, RecencyEASEConfig(l2=10.0, decay=decay)).solve().score(torch.arange(graph.n_users))
    scores[graph.interactions.src, graph.interactions.dst] = -torch.inf
    assert low <= (scores.argmax(1).numpy() // size == latest).mean() <= high


@pytest.mark.parametrize(("field", "value"), [("decay", 0.0), ("decay", 1.5), ("window", 0), ("l2", 0.0)])
def test_hyper_parameters_out_of_range(field, value):
    with pytest.raises(InputError, match=rf"out of range[\s\S]*recency-ease, {field}"):
        RecencyEASE(planted_sequences(), RecencyEASEConfig(**{field: value}))


def test_needs_an_order():
    with pytest.raises(InputError, match="no order in time"):
        RecencyEASE(planted_graph())
