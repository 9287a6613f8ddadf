import numpy as np
import pytest
import torch

from relrank.models.closed_form.gf_cf import GFCF, GFCFConfig
from relrank.testing import ModelContract, planted_graph


class TestGFCF(ModelContract):
    kind = GFCF
    config = GFCFConfig(rank=4)


def by_the_formula(graph, x, rank, alpha):
    """Shen et al. 2021, eq. 12 and 13, with a full singular value decomposition in float64."""
    train = np.zeros((graph.n_users, graph.n_items))
    train[graph.interactions.src, graph.interactions.dst] = 1
    of_user, of_item = train.sum(1), train.sum(0)
    r = train / np.sqrt(np.outer(of_user, of_item))
    v = np.linalg.svd(r)[2][:rank].T
    ideal = np.diag(of_item**-0.5) @ v @ v.T @ np.diag(of_item**0.5)
    return x @ (r.T @ r + alpha * ideal)


# as many singular vectors as planted blocks: a clear gap follows, so the subspace is one
@pytest.mark.parametrize(("rank", "alpha"), [(4, 0.3), (4, 0.0), (120, 1.2)])
def test_scores_equal_the_formula(rank, alpha):
    graph = planted_graph()
    model = GFCF(graph, GFCFConfig(rank, alpha)).solve()
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = 1
    for users in (torch.arange(160), torch.tensor([150, 2]), torch.arange(17)):
        expected = by_the_formula(graph, x[users.numpy()], rank, alpha)
        np.testing.assert_allclose(model.score(users).numpy(), expected, atol=1e-4)
    new = np.zeros((1, 120))
    new[0, [3, 7, 60]] = 1
    folded = model.fold_in([torch.tensor([60, 3, 7])]).numpy()
    np.testing.assert_allclose(folded, by_the_formula(graph, new, rank, alpha), atol=1e-4)


def test_items_and_users_without_interactions_score_zero():
    graph = planted_graph()
    kept = (graph.interactions.dst != 5) & (graph.interactions.src != 9)
    part = graph.interactions.where(kept)
    model = GFCF(type(graph)("user", "item", graph.nodes, part, {}, "f"), GFCFConfig(rank=4)).solve()
    scores = model.score(torch.arange(160))
    assert scores.isfinite().all()
    assert not scores[9].any()
    assert not scores[:, 5].any()
    assert not model.fold_in([torch.tensor([5])]).any()


def test_the_seed_moves_only_the_start():
    scores = [GFCF(planted_graph(), GFCFConfig(4, seed=s)).solve().score(torch.arange(9)) for s in (0, 1)]
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)
