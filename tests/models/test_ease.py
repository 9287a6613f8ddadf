import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.testing import ModelContract, planted_graph


class TestPrimal(ModelContract):
    kind = EASE


class TestDual(ModelContract):
    """Fewer users than items: the same model through the users' kernel."""

    kind = EASE
    config = EASEConfig(l2=20.0)

    def graph(self):
        return planted_graph(users=100, items=160)


def dense(graph):
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = 1
    return x


def by_the_paper(x, l2):
    """Steck 2019, algorithm 1, with a general inverse in float64."""
    p = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    b = p / -np.diag(p)
    b[np.diag_indices_from(b)] = 0
    return b


@pytest.mark.parametrize("shape", [(160, 120), (100, 160)])
@pytest.mark.parametrize("l2", [0.5, 20.0, 1000.0])
def test_both_sides_equal_the_papers_formula(shape, l2):
    graph = planted_graph(*shape)
    model = EASE(graph, EASEConfig(l2)).solve()
    assert model.dual == (shape == (100, 160))
    x = dense(graph)
    b = by_the_paper(x, l2)
    np.testing.assert_allclose(model.score(torch.arange(shape[0])).numpy(), x @ b, atol=2e-4)
    histories = [torch.tensor([1, 5, 9]), torch.tensor([2])]
    new = np.zeros((2, shape[1]))
    new[0, [1, 5, 9]] = new[1, 2] = 1
    np.testing.assert_allclose(model.fold_in(histories).numpy(), new @ b, atol=2e-4)


def test_dual_equals_primal(monkeypatch):
    graph = planted_graph()
    users = torch.arange(graph.n_users)
    primal = EASE(graph, EASEConfig(30.0)).solve().score(users)
    monkeypatch.setattr(EASE, "dual", True)
    torch.testing.assert_close(EASE(graph, EASEConfig(30.0)).solve().score(users), primal, atol=1e-4, rtol=0)


def test_an_item_never_explains_itself():
    """The zero diagonal: the item of a one-item history scores 0."""
    for shape in ((160, 120), (100, 160)):
        model = EASE(planted_graph(*shape), EASEConfig(5.0)).solve()
        scores = model.fold_in([torch.tensor([i]) for i in range(20)])
        np.testing.assert_allclose(scores.numpy()[np.arange(20), np.arange(20)], 0, atol=1e-5)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_penalty_must_be_positive(l2):
    with pytest.raises(InputError, match=r"out of range[\s\S]*ease, l2"):
        EASE(planted_graph(), EASEConfig(l2)).solve()
