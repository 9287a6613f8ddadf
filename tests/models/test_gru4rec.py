import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from relrank.testing import SequenceContract, planted_sequences
from relrank.training import TrainConfig


class TestGRU4Rec(SequenceContract):
    kind = GRU4Rec
    config = GRU4RecConfig(dim=32, layers=2, window=16, dropout=0.1)
    train = TrainConfig(epochs=14, batch=32, lr=0.01, every=7, device="cpu")


def fresh(**settings):
    model = GRU4Rec(planted_sequences(), GRU4RecConfig(dim=8, **settings))
    model.init_weights(0)
    return model


def naive(model, history):
    """By the equations of a GRU, item by item (Cho et al. 2014; the reset gate on the product, as cuDNN has it)."""
    p = {name: x.double().numpy() for name, x in model.state().items()}
    rows = list(p["table"][history] * 8**0.5)
    for layer in range(model.config.layers):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w, u, b, c = (p[f"layers.{layer}.{name}"] for name in names)
        g = np.zeros(8)
        for t, x in enumerate(rows):
            from_input, from_state = np.split(w @ x + b, 3), np.split(u @ g + c, 3)
            reset, keep = (1 / (1 + np.exp(-from_input[i] - from_state[i])) for i in (0, 1))
            g = keep * g + (1 - keep) * np.tanh(from_input[2] + reset * from_state[2])
            rows[t] = g
    h = (g - g.mean()) / np.sqrt(g.var() + 1e-5) * p["norm.weight"] + p["norm.bias"]
    return p["table"] @ h


@pytest.mark.parametrize("layers", [1, 2])
def test_scores_are_those_of_the_equations(layers):
    model = fresh(layers=layers, window=6, init_scale=0.3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for x in model.parameters():  # biases and norms, too
            x.add_(torch.randn(x.shape, generator=generator) * 0.3)
    histories = [torch.randperm(120, generator=generator)[:n] for n in (1, 3, 6, 9)]
    expected = [naive(model, h[-6:].numpy()) for h in histories]
    np.testing.assert_allclose(model.fold_in(histories), expected, rtol=1e-4, atol=1e-5)


def test_a_state_knows_no_place():
    """A longer window adds older items, and changes nothing for a history that has none."""
    short, long = fresh(window=6), fresh(window=50)
    histories = [torch.arange(n) * 4 for n in (1, 4, 6)]
    torch.testing.assert_close(long.fold_in(histories), short.fold_in(histories))
    assert not torch.allclose(long.fold_in([torch.arange(9) * 4]), short.fold_in([torch.arange(9) * 4]), rtol=1e-4)


def test_nothing_is_drawn_from_the_global_generator():
    model = fresh(layers=2, dropout=0.5)
    batch = model.prepare(np.arange(9), np.arange(9), np.random.SeedSequence(0))
    found = []
    with torch.random.fork_rng(), torch.no_grad():
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            model.init_weights(3)
            found.append(float(model.loss(batch)))
            assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    states = [
        model.target_states(batch.encoder_inputs[0], model.outputs(), torch.Generator().manual_seed(s))
        for s in (0, 1)
    ]
    assert not torch.allclose(*states)  # dropout is at work


def test_senseless_settings_are_refused():
    with pytest.raises(InputError, match="gru4rec, layers"):
        fresh(layers=0)
