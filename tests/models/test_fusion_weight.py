import numpy as np
import pytest
import torch
from torch import nn

from relrank.errors import InputError
from relrank.models.sequence.fusion_weight import KNOTS, Discrete, make_fusion_weight

LENGTHS = torch.tensor([1, 2, 10, 11, 30, 50, 51, 200, 5000])
STATES = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 4, 6)))
LEARNED = ["per-bin", "continuous", "piecewise", "gated"]


def made(kind, start=0.5):
    mixing = make_fusion_weight(kind, start, (0.3, 0.5, 0.7), 6).double()
    with torch.no_grad():
        mixing.reset()
    return mixing


@pytest.mark.parametrize("start", [0.02, 0.3, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["fixed", *LEARNED])
def test_alpha_starts_at_the_stated_value_and_not_at_its_sigmoid(kind, start):
    alpha = made(kind, start)(LENGTHS, STATES)
    assert alpha.shape == ((9, 4, 1) if kind == "gated" else (9, 1))
    torch.testing.assert_close(alpha.double(), torch.full_like(alpha, start).double(), atol=1e-7, rtol=0)


def test_discrete_alphas_are_those_of_the_true_length():
    alpha = made("discrete")(LENGTHS)
    torch.testing.assert_close(alpha[:, 0], torch.tensor([0.3, 0.3, 0.3, 0.5, 0.5, 0.5, 0.7, 0.7, 0.7]).double())
    with pytest.raises(InputError, match="number of alphas"):
        Discrete((0.1, 0.2))


@pytest.mark.parametrize("start", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", LEARNED)
def test_gradient_lives_at_the_bounds(kind, start):
    mixing = made(kind, start)
    mixing(LENGTHS, STATES)[0].sum().backward()
    size = max(float(p.grad.abs().max()) for p in mixing.parameters())
    assert size > 0.3 * start * (1 - start)


@pytest.mark.parametrize("towards", [0.0, 1.0])
@pytest.mark.parametrize("start", [0.05, 0.95])
@pytest.mark.parametrize("kind", LEARNED)
def test_alpha_can_move_both_ways(kind, start, towards):
    mixing = made(kind, start)
    optimizer = torch.optim.Adam(mixing.parameters(), lr=0.1)
    for _ in range(600):
        optimizer.zero_grad()
        (mixing(LENGTHS, STATES) - towards).square().mean().backward()
        optimizer.step()
    alpha = mixing(LENGTHS, STATES)
    assert float((alpha - towards).abs().max()) < 0.05
    assert bool(((alpha > 0) & (alpha < 1)).all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["per-bin", "continuous", "piecewise"])
def test_alpha_can_rise_and_fall_with_the_length(kind, sign):
    mixing = made(kind)
    optimizer = torch.optim.Adam(mixing.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        alpha = mixing(LENGTHS)[:, 0]
        (sign * (alpha[0] - alpha[-1])).backward()
        optimizer.step()
    alpha = mixing(LENGTHS)[:, 0].detach()
    assert float(sign * (alpha[-1] - alpha[0])) > 0.5
    assert bool((sign * alpha.diff() >= -1e-9).all())


def test_continuous_is_a_logistic_curve_in_log_length():
    mixing = made("continuous", 0.4)
    with torch.no_grad():
        mixing.slope.fill_(0.7)
    n = LENGTHS.numpy()
    expected = 1 / (1 + np.exp(-(np.log(0.4 / 0.6) + 0.7 * np.log(n / 30))))
    np.testing.assert_allclose(mixing(LENGTHS)[:, 0].detach().numpy(), expected, rtol=1e-6)


def test_piecewise_is_linear_between_knots_and_constant_beyond():
    mixing = made("piecewise")
    values = np.array([0.1, 0.3, 0.2, 0.8, 0.5, 0.9])
    with torch.no_grad():
        mixing.logits.copy_(torch.from_numpy(np.log(values / (1 - values))))
    expected = np.interp(np.log(LENGTHS.numpy()), np.log(KNOTS), values)
    np.testing.assert_allclose(mixing(LENGTHS)[:, 0].detach().numpy(), expected, rtol=1e-6)


def test_gate_is_a_logistic_regression_on_each_moment():
    mixing = made("gated", 0.3)
    weight = torch.arange(6.0).double()
    with torch.no_grad():
        mixing.weight.copy_(weight)
    expected = (STATES @ weight + np.log(0.3 / 0.7)).sigmoid()
    torch.testing.assert_close(mixing(LENGTHS, STATES)[..., 0], expected)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("kind", ["fixed", "discrete", *LEARNED])
def test_alpha_outside_the_open_interval_is_refused(kind, alpha):
    with pytest.raises(InputError, match="alpha"):
        make_fusion_weight(kind, alpha, (alpha, 0.5, 0.5), 3)


@pytest.mark.parametrize("start", [0.001, 0.999])
@pytest.mark.parametrize("kind", LEARNED)
def test_gradient_lives_under_autocast(kind, start):
    mixing = made(kind, start).float()
    with torch.autocast("cpu", torch.bfloat16):
        alpha = mixing(LENGTHS, STATES.float())
    alpha.sum().backward()
    assert float((alpha - start).abs().max()) < 1e-4
    assert max(float(p.grad.abs().max()) for p in mixing.parameters()) > 0.3 * 0.001


def test_only_learned_mixings_have_parameters():
    assert {k: bool(list(made(k).parameters())) for k in ("fixed", "discrete", *LEARNED)} == {
        "fixed": False, "discrete": False, **dict.fromkeys(LEARNED, True)
    }  # fmt: skip
    assert all(isinstance(p, nn.Parameter) for k in LEARNED for p in made(k).parameters())
