import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from relrank.graph.sampling.negatives import NegativeSampler
from relrank.kernels.csr import Csr
from relrank.models.core import losses
from relrank.models.core.losses import bce, bpr, full_softmax, gbce, info_nce, keep_hardest, sampled_softmax


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def mask(*shape, share=0.3, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def test_bpr_by_hand():
    # -ln sigma(1) = ln(1 + 1/e), -ln sigma(-1) = 1 + ln(1 + 1/e)
    loss = bpr(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(0.5 + math.log(1 + math.exp(-1)))


def test_bpr_is_a_mean_over_an_edges_pairs_then_over_edges():
    """The edge with one pair left weighs as much as the one with three; the one with none costs nothing."""
    positive, negative = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([[0.0, 1.0, 2.0], [3.0, 9.0, 9.0], [0.0] * 3])
    excluded = torch.tensor([[False] * 3, [False, True, True], [True] * 3])
    pairs = [math.log1p(math.exp(x)) for x in (-1, 0, 1, 3)]
    assert bpr(positive, negative, excluded).item() == pytest.approx((sum(pairs[:3]) / 3 + pairs[3] + 0) / 3)
    assert bpr(positive[:2], negative[:2, 0], excluded[:2, 1]).item() == pytest.approx(pairs[0] / 2)


def test_bce_is_torchs_summed_over_the_negatives():
    positive, negative, excluded = randn(6), randn(6, 4, seed=1), mask(6, 4)
    whole = functional.binary_cross_entropy_with_logits
    each = whole(negative, torch.zeros_like(negative), reduction="none")
    expected = whole(positive, torch.ones_like(positive)) + each.sum() / 6
    assert bce(positive, negative).item() == pytest.approx(expected.item(), rel=1e-12)
    expected = whole(positive, torch.ones_like(positive)) + (each * ~excluded).sum() / 6
    assert bce(positive, negative, excluded).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gbce_by_hand_from_bce_to_calibrated():
    """4 negatives out of 8 are half: beta is 1 at t = 0, 1/2 at t = 1, and as published between."""
    positive, negative = torch.tensor([0.5]), torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    against = sum(math.log1p(math.exp(x)) for x in (-1, 0, 1, 2))
    for t in (0.0, 0.75, 1.0):
        beta = 0.5 * (t * (1 - 1 / 0.5) + 1 / 0.5)
        expected = -beta * math.log(1 / (1 + math.exp(-0.5))) + against
        assert gbce(positive, negative, None, 9, t).item() == pytest.approx(expected, rel=1e-6)
    assert gbce(positive, negative, None, 9, 0).item() == bce(positive, negative).item()
    # more negatives than there are items: all are sampled, nothing to correct
    assert gbce(positive, negative, None, 3, 1.0).item() == bce(positive, negative).item()


def test_gbce_learns_the_probability_of_an_item():
    """An item is the positive with probability p: the expected loss is least where sigma(s) = p, at t = 1 alone."""
    p, n, n_items = 0.2, 5, 101

    def slope(sigma, t):
        s = torch.tensor([math.log(sigma / (1 - sigma))], dtype=torch.float64, requires_grad=True)
        zero, zeros = torch.zeros(1, dtype=torch.float64), torch.zeros(1, n, dtype=torch.float64)
        chosen = gbce(s, zeros, None, n_items, t)
        drawn = gbce(zero, torch.cat([s[None], zeros[:, 1:]], 1), None, n_items, t)
        (p * chosen + (1 - p) * n / (n_items - 1) * drawn).backward()
        return s.grad.item()

    assert slope(p, 1.0) == pytest.approx(0, abs=1e-12)
    # uncalibrated: odds of p / ((1 - p) alpha), .83 instead of .2
    assert slope(p / (p + (1 - p) * 0.05), 0.0) == pytest.approx(0, abs=1e-12)
    assert slope(p, 0.0) < -0.1


def test_no_log_of_sigmoid_plus_epsilon():
    """A pair in grossly wrong order costs its distance and has a gradient of 1: an epsilon would flatten both."""
    positive = torch.tensor([-200.0], requires_grad=True)
    loss = bpr(positive, torch.tensor([0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert positive.grad.item() == pytest.approx(-1)
    assert bpr(torch.tensor([200.0]), torch.tensor([0.0])).item() == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_cost_their_distance(sign, dtype):
    """Scores of ±10,000 (rounded to 9,984 in bfloat16): losses and gradients finite, and of the right size."""
    x = float(torch.tensor(1e4, dtype=dtype))
    users, items = torch.tensor([0]), torch.tensor([0])
    losses = {
        "bpr": (lambda s: bpr(s[:, 0], s[:, 1:]), 2 * x),
        "bce": (lambda s: bce(s[:, 0], s[:, 1:]), 3 * x),
        "gbce": (lambda s: gbce(s[:, 0], s[:, 1:], None, 3, 1.0), 3 * x),
        "sampled": (lambda s: sampled_softmax(s[:, 0], s[:, 1:], None, 1.0), 2 * x + math.log(2)),
        "full": (lambda s: full_softmax(s, users, items, (users, items), 1.0), 2 * x + math.log(2)),
        "plain": (lambda s: full_softmax(s, users, items, None, 1.0), 2 * x + math.log(2)),
    }
    for name, (loss, worst) in losses.items():
        scores = torch.tensor([[sign * x, -sign * x, -sign * x]], dtype=dtype, requires_grad=True)
        value = loss(scores)
        value.backward()
        assert value.dtype == torch.float32, name
        assert value.item() == pytest.approx(0 if sign > 0 else worst, rel=1e-6), name
        assert scores.grad.isfinite().all(), name
        assert (scores.grad[0, 0] == 0) == (sign > 0), name


def test_sampled_softmax_by_hand():
    positive, negative = torch.tensor([2.0]), torch.tensor([[1.0, 0.0]])
    whole = math.log(math.exp(2) + math.e + 1) - 2
    assert sampled_softmax(positive, negative, None, 1.0).item() == pytest.approx(whole)
    # the first "negative" is the user's own: left out
    masked = sampled_softmax(positive, negative, torch.tensor([[True, False]]), 1.0)
    assert masked.item() == pytest.approx(math.log(1 + math.exp(-2)))
    cold = sampled_softmax(positive, negative, None, 0.5)
    assert cold.item() == pytest.approx(math.log(math.exp(4) + math.exp(2) + 1) - 4, rel=1e-5)
    # drawn once in four times, and with certainty: counts four times, and once; after the temperature
    log_q = torch.tensor([0.25, 1.0]).log()
    corrected = sampled_softmax(positive, negative, None, 0.5, log_q)
    assert corrected.item() == pytest.approx(math.log(math.exp(4) + 4 * math.exp(2) + 1) - 4, rel=1e-5)
    both = sampled_softmax(positive, negative, None, 0.5, log_q, torch.tensor([0.5]).log())
    assert both.item() == pytest.approx(math.log(2 * math.exp(4) + 4 * math.exp(2) + 1) - math.log(2) - 4, rel=1e-5)


def test_sampled_softmax_is_torchs_cross_entropy():
    positive, negative, log_q = randn(7), randn(7, 5, seed=1), randn(5, seed=2).detach()
    logits = torch.cat([positive[:, None], negative - 0.3 * log_q], 1) / 0.3
    expected = functional.cross_entropy(logits, torch.zeros(7, dtype=torch.long))
    assert sampled_softmax(positive, negative, None, 0.3, log_q).item() == pytest.approx(expected.item(), rel=1e-12)
    assert sampled_softmax(positive, negative, None, 0.3, log_q.expand(7, 5)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("block", [None, 16])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_shared_softmax_is_the_sampled_softmax_of_its_scores(block, masked, corrected, monkeypatch):
    """Values and gradients, also in several blocks, and for an edge whose negatives are all excluded."""
    if block is not None:
        monkeypatch.setattr(losses, "_BLOCK", block)
    g = torch.Generator().manual_seed(4)
    users, negatives = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (9, 7))
    positive, log_q = (torch.randn(n, generator=g, dtype=torch.float64) for n in (9, 7))
    excluded = torch.rand(9, 7, generator=g) < 0.3 if masked else None
    if excluded is not None:
        excluded[2] = True
    log_q = log_q if corrected else None
    leaves = [x.requires_grad_() for x in (users, positive, negatives)]
    expected = losses.sampled_softmax(positive, users @ negatives.T, excluded, 0.3, log_q)
    wanted = torch.autograd.grad(2 * expected, leaves)
    found = losses.shared_softmax(users, positive, negatives, excluded, 0.3, log_q)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(torch.autograd.grad(2 * found, leaves), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


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


def popular(n_users=60, n_items=40, seed=0):
    """Items by a power law, all of them had by someone."""
    rng = np.random.default_rng(seed)
    has = rng.random((n_users, n_items)) < 0.9 / np.arange(1, n_items + 1) ** 0.8
    has[rng.integers(0, n_users, n_items), np.arange(n_items)] = True
    return Csr.from_pairs(*np.nonzero(has), has.shape)


@pytest.mark.parametrize(("shared", "n", "draws"), [(False, 8000, 6), (True, 34, 800)])
def test_logq_makes_popularity_draws_stand_for_the_whole_catalogue(shared, n, draws):
    """The mean gradient approaches the full softmax's with the correction, and not without."""
    positives = popular()
    user, item = 5, int(positives.take(np.array([5])).indices[0])
    sampler = NegativeSampler(positives, "popularity", n, shared, power=1.0, parallel=False)
    base = randn(positives.n_cols, seed=3).detach()

    def gradient(loss):
        scores = base.clone().requires_grad_()
        loss(scores).backward()
        return scores.grad

    def sampled(scores, seed, correct):
        drawn = sampler.draw(np.array([user]), np.array([item]), np.random.SeedSequence(seed))
        at = torch.from_numpy(drawn.items)
        log_q, excluded = torch.from_numpy(drawn.log_q), None
        if drawn.columns is None:
            excluded = torch.from_numpy(drawn.excluded)
        else:
            columns = torch.from_numpy(drawn.columns[0]).long()
            at, log_q = at[columns], log_q[columns]
            log_q = log_q + math.log(free_share)  # the factor that is left out
        return sampled_softmax(scores[item, None], scores[at][None], excluded, 1.0, log_q if correct else None)

    own = positives.take(np.array([user]))
    counts = np.bincount(positives.indices)
    free_share = counts.sum() / (counts.sum() - counts[own.indices].sum())
    seen = (torch.zeros(own.nnz, dtype=torch.long), torch.from_numpy(own.indices).long())
    zero = torch.zeros(1, dtype=torch.long)
    exact = gradient(lambda s: full_softmax(s[None], zero, torch.tensor([item]), seen, 1.0))
    error = {
        correct: (sum(gradient(lambda s: sampled(s, k, correct)) for k in range(draws)) / draws - exact).norm()  # noqa: B023
        for correct in (True, False)
    }
    assert error[True] < 0.06 * exact.norm()
    assert error[False] > 5 * error[True]


def reference(scores, users, items, seen, temperature):
    """Edge by edge, with torch's cross-entropy."""
    losses = []
    for u, i in zip(users.tolist(), items.tolist(), strict=True):
        keep = torch.ones(scores.shape[1], dtype=torch.bool)
        if seen is not None:
            keep[seen[u]] = False
            keep[items[users == u]] = False
        keep[i] = True
        at = torch.tensor([keep[:i].sum()])
        losses.append(functional.cross_entropy(scores[u, keep][None] / temperature, at))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("form", ["pairs", "mask", "none"])
@pytest.mark.parametrize("block", [None, 16])
def test_full_softmax_is_cross_entropy_without_the_users_other_items(form, block, monkeypatch):
    """Repeated users, a repeated edge, a row without edges, pairs out of order; in one block and in many."""
    if block:
        monkeypatch.setattr("relrank.models.core.losses._BLOCK", block)
    scores, seen = randn(5, 8), mask(5, 8)
    seen[2] = False
    users, items = torch.tensor([3, 0, 0, 1, 3, 0, 2]), torch.tensor([1, 7, 2, 2, 1, 4, 0])
    given = {"pairs": seen.nonzero().flip(0).unbind(1), "mask": seen, "none": None}[form]
    loss = full_softmax(scores, users, items, given, 0.4)
    expected = reference(scores, users, items, None if form == "none" else seen, 0.4)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    (got,) = torch.autograd.grad(loss, scores)
    (wanted,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)
    assert not got[4].any()
    assert torch.autograd.gradcheck(lambda s: full_softmax(s, users, items, given, 0.4), (scores,))
    if form == "none":
        plain = functional.cross_entropy(scores[users] / 0.4, items)
        assert loss.item() == pytest.approx(plain.item(), rel=1e-12)


def test_full_softmax_of_a_user_who_has_everything_is_nothing():
    scores = randn(2, 3)
    everything = torch.tensor([[True] * 3, [False] * 3])
    loss = full_softmax(scores, torch.tensor([0, 1]), torch.tensor([1, 1]), everything, 0.1)
    (gradient,) = torch.autograd.grad(loss, scores)
    alone = full_softmax(scores[1:], torch.tensor([0]), torch.tensor([1]), everything[1:], 0.1)
    assert loss.item() == pytest.approx(alone.item() / 2)
    assert not gradient[0].any()
    assert gradient[1].any()


class Largest(TorchDispatchMode):
    """The sizes of the memory that operations bring forth, in numbers."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = storage.nbytes() // 4
        return out


def test_full_softmax_holds_one_matrix_beside_the_scores(monkeypatch):
    """Many edges and known pairs: forward makes nothing of the scores' size, backward the gradient alone."""
    monkeypatch.setattr("relrank.models.core.losses._BLOCK", 4000)
    scores = randn(200, 400, dtype=torch.float32)
    users, items = torch.arange(200).repeat(5), torch.arange(1000) % 400
    seen = mask(200, 400, share=0.05).nonzero().unbind(1)
    memory = scores.untyped_storage().data_ptr()
    with Largest() as forward:
        loss = full_softmax(scores, users, items, seen, 0.1)
    assert max(size for at, size in forward.made.items() if at != memory) < scores.numel() / 4
    with Largest() as backward:
        loss.backward()
    assert len([1 for at, size in backward.made.items() if size >= scores.numel() / 4 and at != memory]) == 1


def test_info_nce_by_hand_and_by_cross_entropy():
    """Two orthogonal pairs at temperature 1: ln(1 + 1/e); lengths do not matter."""
    a, b = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert info_nce(a, b, 1.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    a, b = randn(6, 4), randn(6, 4, seed=1)
    logits = torch.nn.CosineSimilarity(dim=2)(a[:, None], b[None]) / 0.2
    sides = [functional.cross_entropy(x, torch.arange(6)).item() for x in (logits, logits.T)]
    assert info_nce(a, b, 0.2).item() == pytest.approx(sides[0])
    assert info_nce(b, a, 0.2).item() == pytest.approx(sides[1])
    assert info_nce(a, b, 0.2, symmetric=True).item() == pytest.approx(sum(sides) / 2)
    assert abs(sides[0] - sides[1]) > 1e-3


def test_keep_hardest_takes_the_highest_that_are_negatives():
    scores = torch.tensor([[5.0, 1.0, 3.0, 4.0], [0.0, 9.0, 8.0, 7.0]], requires_grad=True)
    excluded = torch.tensor([[True, False, False, False], [False, True, True, True]])
    assert keep_hardest(scores, None, 2).tolist() == [[0, 3], [1, 2]]
    columns = keep_hardest(scores, excluded, 2)
    assert columns[0].tolist() == [3, 2]
    assert columns[1, 0] == 0
    assert excluded.gather(1, columns).tolist() == [[False, False], [False, True]]
    assert not columns.requires_grad
    assert keep_hardest(scores, excluded, 9).shape == (2, 4)


def test_gradients_equal_finite_differences():
    p, one, n, log_q = randn(4), randn(4, seed=1), randn(4, 5, seed=2), randn(5, seed=3).detach()
    excluded = mask(4, 5)
    check = torch.autograd.gradcheck
    assert check(bpr, (p, one))
    assert check(lambda p, n: bpr(p, n, excluded), (p, n))
    assert check(lambda p, n: gbce(p, n, excluded, 50, 0.7), (p, n))
    assert check(lambda p, n: sampled_softmax(p, n, excluded, 0.5, log_q), (p, n))
    assert check(lambda a, b: info_nce(a, b, 0.5, symmetric=True), (n, randn(4, 5, seed=4)))


def test_excluded_entries_have_no_gradient():
    excluded = mask(4, 5)
    for loss in (bpr, bce, lambda *s: gbce(*s, 50, 0.7), lambda *s: sampled_softmax(*s, 0.5)):
        n = randn(4, 5, seed=2)
        loss(randn(4), n, excluded).backward()
        assert not n.grad[excluded].any()
        assert (n.grad[~excluded] > 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.07])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_catalogue_softmax_is_cross_entropy_with_its_gradients(monkeypatch, temperature, block):
    """Against torch's own on scores that are there all at once; in blocks of any size."""
    monkeypatch.setattr(losses, "_BLOCK", block * 40)
    rng = np.random.default_rng(0)
    left, items = (torch.from_numpy(rng.normal(size=(n, 6))).requires_grad_() for n in (31, 40))
    targets = torch.from_numpy(rng.integers(0, 40, 31))
    expected = functional.cross_entropy(left @ items.T / temperature, targets)
    wanted = torch.autograd.grad(3 * expected, (left, items))
    found = losses.catalogue_softmax(left, items, targets, temperature)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, (left, items)), wanted)


def test_catalogue_softmax_survives_scores_beyond_the_range_of_exp():
    left, items = torch.full((2, 1), 500.0, requires_grad=True), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = losses.catalogue_softmax(left, items, torch.tensor([0, 1]), 1.0)
    loss.backward()
    assert float(loss.detach()) == 500.0  # 0 for the first row, 1000 for the second
    assert left.grad.tolist() == [[0.0], [1.0]]


def test_catalogue_softmax_in_half_precision_is_near():
    rng = np.random.default_rng(1)
    left, items = (torch.from_numpy(rng.normal(size=(n, 16)).astype(np.float32)).requires_grad_() for n in (64, 90))
    targets = torch.from_numpy(rng.integers(0, 90, 64))
    exact = losses.catalogue_softmax(left, items, targets, 1.0)
    wanted = torch.autograd.grad(exact, (left, items))
    with torch.autocast("cpu", torch.bfloat16):
        near = losses.catalogue_softmax(left, items, targets, 1.0)
    assert near.dtype == torch.float32
    assert abs(float(near.detach()) - float(exact.detach())) < 0.01 * float(exact.detach())
    for g, w in zip(torch.autograd.grad(near, (left, items)), wanted, strict=True):
        assert 0 < float((g - w).norm()) < 0.02 * float(w.norm())
