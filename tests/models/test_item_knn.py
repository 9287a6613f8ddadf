import math

import numpy as np
import pytest
import torch

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels import topk_products
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.testing import ModelContract, planted_graph


class TestItemKNN(ModelContract):
    kind = ItemKNN


def naive(graph, k, shrinkage):
    """Similarities by a double loop over sets of users; per item the k largest are kept."""
    users = [set(graph.interactions.src[graph.interactions.dst == i].tolist()) for i in range(graph.n_items)]
    w = np.zeros((graph.n_items, graph.n_items))
    for i, a in enumerate(users):
        for j, b in enumerate(users):
            if i != j and a & b:
                w[i, j] = len(a & b) / (math.sqrt(len(a) * len(b)) + shrinkage)
    kth = np.sort(w, 1)[:, -k]
    return w, kth


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_similarities_equal_the_double_loop(shrinkage):
    graph = planted_graph()
    model = ItemKNN(graph, ItemKNNConfig(200, shrinkage)).solve()
    w, _ = naive(graph, 119, shrinkage)
    scores = model.fold_in([torch.tensor([i]) for i in range(graph.n_items)]).numpy()
    np.testing.assert_allclose(scores, w, rtol=1e-5)
    np.testing.assert_allclose(model.fold_in([torch.tensor([0, 3, 8])]).numpy()[0], w[[0, 3, 8]].sum(0), rtol=1e-5)


def test_only_the_nearest_are_kept():
    graph = planted_graph()
    model = ItemKNN(graph, ItemKNNConfig(7, 5.0)).solve()
    w, kth = naive(graph, 7, 5.0)
    kept = model.fold_in([torch.tensor([i]) for i in range(graph.n_items)]).numpy()
    assert ((kept > 0).sum(1) <= 7).all()
    for i in range(graph.n_items):
        assert (kept[i][w[i] > kth[i] + 1e-6] > 0).all()  # ties at the last place may fall either way
        assert not kept[i][w[i] < kth[i] - 1e-6].any()


def test_pieces_of_items_change_nothing(monkeypatch):
    graph, users = planted_graph(), torch.arange(160)
    whole = ItemKNN(graph).solve().score(users)
    monkeypatch.setattr(topk_products, "PIECE_BYTES", 8 * 100 * 13)  # thirteen items
    assert torch.equal(ItemKNN(graph).solve().score(users), whole)


def test_shrinkage_doubts_rare_pairs():
    """Two items with one user in common, and two with eight: equal cosines, unequal evidence."""
    graph = planted_graph()
    src = np.r_[0, 0, np.repeat(np.arange(1, 9), 2)]
    dst = np.r_[0, 1, np.tile([2, 3], 8)]
    small = Graph("user", "item", graph.nodes, Relation.of("chose", "user", "item", src, dst), {}, "f")
    plain, doubting = (ItemKNN(small, ItemKNNConfig(10, s)).solve() for s in (0.0, 8.0))
    pairs = [torch.tensor([0]), torch.tensor([2])]
    rare, common = plain.fold_in(pairs)[[0, 1], [1, 3]].tolist()
    assert rare == pytest.approx(1)
    assert common == pytest.approx(1)
    rare, common = doubting.fold_in(pairs)[[0, 1], [1, 3]].tolist()
    assert rare == pytest.approx(1 / 9)
    assert common == pytest.approx(8 / 16)
