import math

import pytest
import torch

from relrank.models.losses import bpr, sampled_softmax


def test_bpr_by_hand():
    # -ln sigma(1) = ln(1 + 1/e), -ln sigma(-1) = 1 + ln(1 + 1/e)
    loss = bpr(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(0.5 + math.log(1 + math.exp(-1)))


def test_no_log_of_sigmoid_plus_epsilon():
    """A pair in grossly wrong order costs its distance and has a gradient of 1: an epsilon would flatten both."""
    positive = torch.tensor([-200.0], requires_grad=True)
    loss = bpr(positive, torch.tensor([0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert positive.grad.item() == pytest.approx(-1)
    assert bpr(torch.tensor([200.0]), torch.tensor([0.0])).item() == pytest.approx(0, abs=1e-30)


def test_sampled_softmax_by_hand():
    positive, negative = torch.tensor([2.0]), torch.tensor([[1.0, 0.0]])
    whole = math.log(math.exp(2) + math.e + 1) - 2
    assert sampled_softmax(positive, negative, None, 1.0).item() == pytest.approx(whole)
    # the first "negative" is the user's own: left out
    masked = sampled_softmax(positive, negative, torch.tensor([[True, False]]), 1.0)
    assert masked.item() == pytest.approx(math.log(1 + math.exp(-2)))
    cold = sampled_softmax(positive, negative, None, 0.5)
    assert cold.item() == pytest.approx(math.log(math.exp(4) + math.exp(2) + 1) - 4, rel=1e-5)


def test_sampled_softmax_is_a_mean_over_the_batch():
    positive, negative = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 0.0], [3.0, 0.5]])
    each = [sampled_softmax(positive[i : i + 1], negative[i : i + 1], None, 0.3).item() for i in range(2)]
    assert sampled_softmax(positive, negative, None, 0.3).item() == pytest.approx(sum(each) / 2)


def test_sampled_softmax_survives_extremes():
    """Large logits neither overflow nor lose the loss; with every negative masked there is nothing to learn."""
    far = sampled_softmax(torch.tensor([-1.0]), torch.tensor([[1.0]]), None, 1e-3)
    assert far.item() == pytest.approx(2000)
    positive = torch.tensor([0.3], requires_grad=True)
    alone = sampled_softmax(positive, torch.tensor([[1.0]]), torch.tensor([[True]]), 0.1)
    alone.backward()
    assert alone.item() == 0
    assert positive.grad.item() == 0


def test_gradients_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    n = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bpr, (p, n))
    # the softmax sums in float32, so its difference quotients are taken by hand, with a large step
    scores = torch.randn(4, 6, generator=generator, requires_grad=True)
    mask = torch.rand(4, 5, generator=generator) < 0.3

    def loss(s):
        return sampled_softmax(s[:, 0], s[:, 1:], mask, 0.5)

    loss(scores).backward()
    for i in range(4):
        for j in range(6):
            step = torch.zeros(4, 6)
            step[i, j] = 1e-2
            with torch.no_grad():
                quotient = (loss(scores + step) - loss(scores - step)) / 2e-2
            assert quotient.item() == pytest.approx(scores.grad[i, j].item(), abs=1e-3)
    assert not scores.grad[:, 1:][mask].any()
