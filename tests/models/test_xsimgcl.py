import numpy as np
import pytest
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.models.graph.xsimgcl import XSimGCL, XSimGCLConfig
from relrank.testing import TrainedContract, planted_graph

N_USERS, N_ITEMS = 160, 120


class TestXSimGCL(TrainedContract):
    kind = XSimGCL
    config = XSimGCLConfig(dim=16, temperature=0.3)
    embedding_tables = ("table",)
    fold_in = "similar"
    propagates = True


def new(**settings):
    model = XSimGCL(planted_graph(), XSimGCLConfig(**{"dim": 16, "layers": 3} | settings))
    model.init_weights(2)
    return model


def dense(model):
    """A(α) as a dense matrix, column by column."""
    eye = torch.eye(model.blocks.n_nodes)
    return model.blocks.multiply(eye, model.alpha.tolist()).double()


def prepared(model):
    edges = model.graph.interactions
    return model.prepare(edges.src[:40].astype(np.int64), edges.dst[:40].astype(np.int64), np.random.SeedSequence(1))


def test_scores_leave_the_table_itself_out():
    model = new()
    a, e = dense(model), model.table.detach().double()
    z = (a @ e + a @ a @ e + a @ a @ a @ e) / 3
    z = functional.normalize(z, dim=1)
    expected = z[:N_USERS] @ z[N_USERS : N_USERS + N_ITEMS].T
    torch.testing.assert_close(model.score(torch.arange(N_USERS)).double(), expected, atol=1e-5, rtol=1e-4)


def test_without_noise_the_loss_is_ranking_plus_info_nce_of_two_layers():
    model, plain = new(noise=0.0, contrast=0.7, contrast_layer=2), new(noise=0.0, contrast=0.0)
    batch = prepared(model)
    a, e = dense(model), model.table.detach().double()
    layers = [a @ e, a @ a @ e, a @ a @ a @ e]
    final, expected = sum(layers) / 3, plain.loss(batch).item()
    positives = batch.items[batch.positive_index].unique()  # negatives are no side of the contrast
    for rows in (batch.users, positives + N_USERS):
        one, two = (functional.normalize(x[rows], dim=1) for x in (final, layers[1]))
        logits = one @ two.T / 0.2
        expected += 0.7 * functional.cross_entropy(logits, torch.arange(len(rows))).item()
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-4)


def test_noise_has_its_length_and_never_leaves_the_orthant():
    from relrank.models.core.vector_model import add_noise

    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    moved = add_noise(x, 0.1, torch.Generator().manual_seed(1)) - x
    torch.testing.assert_close(moved.norm(dim=1), torch.full((50,), 0.1))
    assert (moved * x >= 0).all()


def test_the_step_decides_the_noise():
    model = new(noise=0.5)
    batch = prepared(model)
    assert model.loss(batch).item() == model.loss(batch).item()
    other = model.prepare(
        *(r.numpy() for r in (batch.users[batch.user_index], batch.items[batch.positive_index])),
        np.random.SeedSequence(2),
    )
    assert model.encode(batch)[0].equal(model.encode(batch)[0])
    assert not model.encode(batch)[0].equal(model.encode(other)[0])


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="contrast layer does not exist"):
        new(contrast_layer=4)
