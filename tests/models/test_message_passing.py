from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.rewiring import rewire
from relrank.kernels.csr import Csr
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from relrank.models.graph.hgt import HGT, HGTConfig
from relrank.models.graph.rgcn import RGCN, RGCNConfig
from relrank.tables.ids import IdMap
from relrank.testing import BLOCKS, planted_graph
from relrank.training import TrainConfig, fit

COLD = 8


def by_hand(pairs, n_users, n_items):
    users, items = np.array(pairs).T
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", n_users), ("item", n_items))}
    return Graph("user", "item", nodes, Relation.of("chose", "user", "item", users, items), {}, "by hand")


def with_blocks(graph):
    """The graph with the block of every item as a feature."""
    items = np.arange(graph.n_items)
    block = Csr.from_pairs(items, items % BLOCKS, (items.size, BLOCKS))
    feature = Feature("block", "item", np.ones(items.size, bool), sparse=block)
    return replace(graph, features={"block": feature})


def cold_graph():
    """Planted blocks; the first items are held out of training altogether: no interaction, no relation."""
    graph = planted_graph()
    warm = graph.interactions.dst >= COLD
    users, items = graph.interactions.src[warm], graph.interactions.dst[warm]
    chosen = Relation.of("chose", "user", "item", users, items)
    return with_blocks(replace(graph, interactions=chosen, relations={}))


def cold_auc(model):
    """How often a cold item of the user's own block scores above one of another block; .5 is chance, or a tie."""
    with torch.no_grad():
        scores = model.score(torch.arange(model.graph.n_users))[:, :COLD]
    own = torch.arange(model.graph.n_users)[:, None] % BLOCKS == torch.arange(COLD) % BLOCKS
    shares = [row[mine][:, None] - row[~mine] for row, mine in zip(scores, own, strict=True)]
    return float(torch.stack([(d > 0).float().mean() + 0.5 * (d == 0).float().mean() for d in shares]).mean())


def moved(model, batch, item):
    """Which of the batch's users have another vector once an item's own vector changes."""
    with torch.no_grad():
        before = model.encode(batch)[0].clone()
        row = model.graph.n_users + item
        kept = model.table[row].clone()
        model.table[row] += 1
        after = model.encode(batch)[0]
        model.table[row] = kept
    return ((after - before).abs().amax(1) > 1e-6).tolist()


@pytest.mark.parametrize("fanout", [0, 4])
@pytest.mark.parametrize(("kind", "config"), [(GraphSAGE, GraphSAGEConfig), (RGCN, RGCNConfig), (HGT, HGTConfig)])
def test_the_supervised_edge_carries_no_message(kind, config, fanout):
    """User 0 reaches item 0 by their edge alone; user 1 reaches item 1 by theirs and through item 2 and user 2."""
    graph = by_hand([(0, 0), (0, 3), (1, 1), (1, 2), (2, 2), (2, 1)], 3, 5)
    model = kind(graph, config(dim=8, fanout=fanout, layers=3))
    model.init_weights(0)

    def batch(users, items):
        return model.prepare(np.array(users), np.array(items), np.random.SeedSequence(0))

    assert moved(model, batch([0], [0]), 0) == [False]
    assert moved(model, batch([0], [3]), 0) == [True]
    assert moved(model, batch([0, 1], [0, 1]), 0) == [False, False]
    assert moved(model, batch([0, 1], [0, 1]), 1) == [False, True]


def test_item_without_training_edges_takes_no_vector_of_its_own():
    """It was never trained: whatever it holds is noise, and must reach no score."""
    model = GraphSAGE(by_hand([(0, 0), (1, 1), (1, 0)], 2, 3), GraphSAGEConfig(dim=8, negatives=2))
    model.init_weights(0)
    before = model.score(torch.arange(2)).clone()
    assert bool((before[:, 2] == 0).all())
    with torch.no_grad():
        assert not bool(model.input(torch.tensor([4])).any())
        assert bool(model.input(torch.tensor([2])).any())
        model.table[4] += 1
        model.refresh()
        assert torch.equal(model.score(torch.arange(2)), before)
        model.table[2] += torch.arange(8.0)
        model.refresh()
    assert not torch.equal(model.score(torch.arange(2)), before)


@pytest.mark.parametrize(("kind", "config"), [(GraphSAGE, GraphSAGEConfig), (RGCN, RGCNConfig)])
def test_cold_item_ranks_by_its_features(kind, config):
    """And by nothing else: without features, or untrained on edges shuffled at random, its order is chance."""
    graph = cold_graph()
    settings = config(dim=16, temperature=0.3, features=True, own_dropout=0.3)
    train = TrainConfig(epochs=6, batch=512, lr=0.04, every=6, device="cpu")

    def trained(settings):
        model = kind(graph, settings)
        fit(model, train, lambda: 0.0, seed=0)
        return model

    assert cold_auc(trained(settings)) > 0.95
    assert cold_auc(trained(replace(settings, features=False))) == 0.5
    shuffled = kind(replace(graph, interactions=rewire(graph.interactions, 1)), settings)
    shuffled.init_weights(0)
    assert cold_auc(shuffled) < 0.65


def test_new_user_is_scored_as_a_training_user_with_that_history():
    """And a new history leads to its own block."""
    graph = planted_graph()
    model = GraphSAGE(graph, GraphSAGEConfig(dim=16, temperature=0.3))
    fit(model, TrainConfig(epochs=6, batch=512, lr=0.04, every=6, device="cpu"), lambda: 0.0, seed=0)
    histories = [torch.from_numpy(graph.interactions.dst[graph.interactions.src == u]).long() for u in range(8)]
    torch.testing.assert_close(model.fold_in(histories), model.score(torch.arange(8)))
    for block in range(BLOCKS):
        new = torch.arange(block, 40, 2 * BLOCKS)
        scores = model.fold_in([new])[0]
        own = torch.arange(graph.n_items) % BLOCKS == block
        open_ = ~torch.isin(torch.arange(graph.n_items), new)
        assert float((scores[own & open_][:, None] > scores[~own]).float().mean()) > 0.9


def test_users_with_features_fold_in_as_users_without_a_value():
    graph = planted_graph(24, 16, 3)
    known = np.ones(24, bool)
    known[5] = False
    age = np.where(known, np.linspace(-1, 1, 24), 0)
    age = np.where(known, age - age[known].mean(), 0)[:, None].astype(np.float32)
    model = GraphSAGE(
        replace(graph, features={"age": Feature("age", "user", known, age)}), GraphSAGEConfig(dim=8, features=True)
    )
    model.init_weights(0)
    with torch.no_grad():
        model.encoders[0].missing += 1
    histories = [
        torch.from_numpy(graph.interactions.dst[graph.interactions.src == u].astype(np.int64)) for u in (5, 6)
    ]
    folded, scores = model.fold_in(histories), model.score(torch.tensor([5, 6]))
    # in the graph, user 5 is without a value and user 6 is not; folded in, both are
    torch.testing.assert_close(folded[0], scores[0])
    assert not torch.allclose(folded[1], scores[1], atol=1e-3)


def test_own_vectors_are_dropped_in_training_only_and_whole():
    model = GraphSAGE(with_blocks(planted_graph(200, 400)), GraphSAGEConfig(dim=8, features=True, own_dropout=0.25))
    model.init_weights(0)
    items = torch.arange(200, 600)
    with torch.no_grad():
        whole = model.input(items)
        dropped = model.input(items, torch.Generator().manual_seed(0))
        features = model.encoders[0](items - 200)
        own = model.table[200:600] * model._has_own[200:600]
    torch.testing.assert_close(whole, own + features)
    without = torch.isclose(dropped, features).all(1)
    assert torch.equal(dropped[~without], whole[~without])
    trained = model._has_own[200:600, 0] > 0
    # four standard deviations of a share of 400 draws
    assert float(without[trained].float().mean()) == pytest.approx(0.25, abs=0.09)
    again = model.input(items, torch.Generator().manual_seed(0))
    assert torch.equal(again, dropped)


def test_neighbours_drawn_by_weight_count_once():
    """The mean of the sampled neighbours estimates the weighted mean; using the weights twice would square them."""
    graph = planted_graph()
    chose = Relation.of("chose", "user", "item", np.zeros(2, np.int32), np.array([0, 1]), np.array([0.9, 0.1]))
    graph = replace(graph, interactions=chose, relations={})
    model = GraphSAGE(graph, GraphSAGEConfig(dim=2, layers=1, fanout=1, weighted=True))
    model.init_weights(0)
    seen = np.zeros(2)
    for word in range(400):
        (block,) = model.encoder_inputs(
            np.array([0]), np.array([2]), (np.array([1]), np.array([2])), np.random.SeedSequence(word)
        )
        edges = block.edges[1]
        assert (edges.weight == 1).all()
        for place in edges.indices[: int(edges.indptr[1])].tolist():
            seen[int(block.nodes[place]) - graph.n_users] += 1
    assert seen.sum() == 400
    assert abs(seen[0] / 400 - 0.9) < 0.05


def test_a_batch_never_holds_all_edges():
    """It would cut every history to nothing, and the network would learn from no neighbour."""
    graph = planted_graph()
    model, held = GraphSAGE(graph, GraphSAGEConfig(dim=4)), []
    prepare = model.prepare
    model.prepare = lambda users, items, seed: held.append(len(users)) or prepare(users, items, seed)
    fit(model, TrainConfig(epochs=1, batch=10**6, every=1, device="cpu"), lambda: 1.0, seed=0)
    assert max(held) <= len(graph.interactions) // 2
    assert sum(held) == len(graph.interactions)
