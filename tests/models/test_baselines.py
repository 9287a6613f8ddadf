import numpy as np
import torch

from relrank.models.closed_form.baselines import Popularity, RandomConfig, RandomOrder
from relrank.testing import ModelContract, planted_graph


class TestPopularity(ModelContract):
    kind = Popularity
    personal = False


class TestRandomOrder(ModelContract):
    kind = RandomOrder
    personal = False
    fold_in = "free"
    equivariant = False


def test_popularity_counts_training_rows():
    graph = planted_graph()
    counts = [int((graph.interactions.dst == i).sum()) for i in range(graph.n_items)]
    assert Popularity(graph).solve().score(torch.tensor([3]))[0].tolist() == counts


def test_random_orders_differ_between_users_seeds_and_strangers():
    graph = planted_graph()
    first, second = (RandomOrder(graph, RandomConfig(seed)).solve() for seed in (0, 1))
    users = torch.arange(graph.n_users)
    rows = torch.cat([first.score(users), second.score(users), first.fold_in([torch.tensor([0])] * 3)])
    assert len({tuple(row.tolist()) for row in rows}) == 2 * graph.n_users + 3


def test_random_scores_are_uniform():
    scores = RandomOrder(planted_graph()).solve().score(torch.arange(160)).numpy()
    counts = np.histogram(scores, bins=20, range=(0, 1))[0]
    expected = scores.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = .001
