import math
import threading

import numba
import numpy as np
import pytest
import torch

from relrank.kernels.additive_attention import _WORTH_THREADS, _plain, additive_attention

N_SRC = 7
ROWS = [[3, 0, 3, 6, 1], [], [5], [2, 2, 2, 4], []]
"""Sources of every destination: repeated ones, one alone, none at all."""
INPUTS = "left", "right", "vector", "along"


class Case:
    """Vectors, edges and the gradient at the result, all drawn at random."""

    def __init__(self, rows=ROWS, n_src=N_SRC, heads=2, width=3, dtype=torch.float64, seed=0, scale=1.0):
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape):
            return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype).requires_grad_()

        self.left, self.right = drawn(n_src, heads, width), drawn(len(rows), heads, width)
        self.vector, self.along = drawn(heads, width), drawn(heads, width)
        self.upstream = drawn(len(rows), heads, width).detach()
        self.indptr = torch.tensor(np.cumsum([0, *map(len, rows)]))
        self.indices = torch.tensor([j for row in rows for j in row], dtype=torch.int32)
        self.weights = drawn(self.indices.numel()).detach().abs()

    def found(self, weighted=True, by=additive_attention, **options):
        """The result, and the gradients of left, right, vector and along."""
        edge = (self.weights, self.along) if weighted else None
        out = by(self.left, self.right, self.vector, self.indptr, self.indices, edge, **options)
        inputs = [getattr(self, name) for name in INPUTS[: 4 if weighted else 3]]
        return out.detach(), *torch.autograd.grad(out, inputs, self.upstream)

    def naive(self, weighted=True, slope=0.2):
        """By hand, number by number."""
        left, right, vector, along, weights = (
            t.detach().double().tolist() for t in (self.left, self.right, self.vector, self.along, self.weights)
        )
        out = np.zeros(self.right.shape)
        for i in range(len(right)):
            mine = range(int(self.indptr[i]), int(self.indptr[i + 1]))
            for h, v in enumerate(vector):
                powers = []
                for e in mine:
                    score = 0.0
                    for d in range(len(v)):
                        z = right[i][h][d] + left[self.indices[e]][h][d]
                        z += weights[e] * along[h][d] if weighted else 0
                        score += v[d] * (z if z > 0 else slope * z)
                    powers.append(math.exp(score))
                for e, power in zip(mine, powers, strict=True):
                    out[i, h] += power / sum(powers) * np.array(left[self.indices[e]][h])
        return out


def drawn_rows(n_dst, n_src, n_edges, seed=0):
    """Rows of lengths from 0 to many."""
    rng = np.random.default_rng(seed)
    ends = np.sort((n_dst * rng.random(n_edges) ** 3).astype(np.int64))
    cut = np.searchsorted(ends, np.arange(1, n_dst))
    return [row.tolist() for row in np.split(rng.integers(0, n_src, n_edges), cut)]


def both(case, weighted=True):
    """On all threads and on one, bit for bit the same."""
    found = [case.found(weighted, parallel=parallel) for parallel in (True, False)]
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
    return found[0]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_formula_number_by_number(dtype, weighted):
    case = Case(dtype=dtype)
    out = case.found(weighted)[0]
    assert out.dtype == dtype
    np.testing.assert_allclose(out, case.naive(weighted), rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)
    assert not out[[1, 4]].any()
    torch.testing.assert_close(out[2], case.left[5].detach(), rtol=0, atol=0)  # one neighbour has all the attention
    np.testing.assert_allclose(case.found(weighted, slope=0.5)[0], case.naive(weighted, 0.5), rtol=2e-5, atol=1e-7)


def test_two_neighbours_by_hand():
    """Scores 1 · 2 and 1 · 0.2 · (−1): shares of 1 / (1 + e^−2.2) and the rest, of values 1 and −2."""
    left, right = torch.tensor([[[1.0]], [[-2.0]]]), torch.tensor([[[1.0]]])
    out = additive_attention(left, right, torch.ones(1, 1), torch.tensor([0, 2]), torch.tensor([0, 1]).int())
    share = 1 / (1 + math.exp(-2.2))
    assert out.item() == pytest.approx(share - 2 * (1 - share))


@pytest.mark.parametrize("weighted", [True, False])
def test_finite_differences(weighted):
    case = Case(width=4)

    def of(*inputs):
        edge = (case.weights, inputs[3]) if weighted else None
        return additive_attention(*inputs[:3], case.indptr, case.indices, edge)

    inputs = [getattr(case, name) for name in INPUTS[: 4 if weighted else 3]]
    assert torch.autograd.gradcheck(of, inputs)


@pytest.mark.parametrize("width", [1, 4, 12])
@pytest.mark.parametrize("weighted", [True, False])
def test_compiled_loops_are_torchs_operations(width, weighted):
    """Widths that fill a vector register and those that do not; rows that are empty, short and long."""
    rows = drawn_rows(200, 50, 3000)
    wide = Case(rows, 50, width=width)
    expected = wide.found(weighted, by=lambda *given: _plain(*given, 0.2))
    for a, b in zip(wide.found(weighted), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(Case(rows, 50, width=width, dtype=torch.float32).found(weighted), expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("weighted", [True, False])
def test_torch_geometric_agrees(weighted):
    from torch_geometric.nn import GATv2Conv

    case, heads, width = Case(drawn_rows(40, 30, 400), 30, width=4), 2, 4
    conv = GATv2Conv(
        (8, 8), width, heads, add_self_loops=False, edge_dim=1 if weighted else None, bias=False
    ).double()  # fmt: skip
    with torch.no_grad():
        conv.lin_l.weight.copy_(torch.eye(8))
        conv.lin_r.weight.copy_(torch.eye(8))
        conv.att.copy_(case.vector)
        if weighted:
            conv.lin_edge.weight.copy_(case.along.reshape(8, 1))
    ends = torch.repeat_interleave(torch.arange(len(case.right)), case.indptr.diff())
    out = conv(
        (case.left.flatten(1), case.right.flatten(1)), torch.stack([case.indices.long(), ends]),
        case.weights[:, None] if weighted else None,
    )  # fmt: skip
    inputs = [case.left, case.right, conv.att, *([conv.lin_edge.weight] if weighted else [])]
    expected = out.detach(), *torch.autograd.grad(out, inputs, case.upstream.flatten(1))
    for a, b in zip(case.found(weighted), expected, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-10, atol=1e-12)


def test_no_edges_and_no_destinations():
    for rows in ([[], [], []], []):
        out, *gradients = Case(rows).found()
        assert out.shape == (len(rows), 2, 3)
        assert not out.any()
        assert not any(g.any() for g in gradients)


def test_scores_too_large_for_their_powers():
    """The softmax is of differences: scores of thousands neither overflow nor vanish; one that is none stays none."""
    case = Case(dtype=torch.float32, scale=40.0)
    expected = Case(scale=40.0).found(by=lambda *given: _plain(*given, 0.2))[0]
    found = case.found()
    assert all(t.isfinite().all() for t in found)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-3, atol=1e-2)
    with torch.no_grad():
        case.left[3, 0, 0] = math.nan
    out = case.found()[0]
    assert out[0, 0].isnan().all()
    assert out[1:].isfinite().all()
    assert out[0, 1].isfinite().all()


def test_gradients_that_are_not_contiguous_and_inputs_that_are_not():
    case = Case()
    edge = case.weights, case.along
    turned = case.left.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    out = additive_attention(turned, case.right, case.vector, case.indptr, case.indices, edge)
    expected = additive_attention(case.left, case.right, case.vector, case.indptr, case.indices, edge)
    assert out.equal(expected)
    (found,) = torch.autograd.grad(out.sum(), [turned])  # whose gradient is one number for all entries
    (gradient,) = torch.autograd.grad(expected, [case.left], torch.ones_like(expected))
    assert found.equal(gradient)


def test_threads_do_not_change_the_bits():
    """As many blocks whatever the threads; with enough edges that threads are worth it."""
    case = Case(drawn_rows(3000, 500, 2 * _WORTH_THREADS), 500, width=4, dtype=torch.float32)
    first, threads = both(case), numba.get_num_threads()
    try:
        for n in range(1, min(3, numba.config.NUMBA_NUM_THREADS + 1)):
            numba.set_num_threads(n)
            assert all(a.equal(b) for a, b in zip(case.found(), first, strict=True))
    finally:
        numba.set_num_threads(threads)
    expected = Case(drawn_rows(3000, 500, 2 * _WORTH_THREADS), 500, width=4).found(by=lambda *g: _plain(*g, 0.2))
    for a, b in zip(first, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def test_several_threads_may_ask_at_once():
    """A thread of one's own stays out of parallel regions, and finds the same."""
    case = Case(drawn_rows(3000, 500, 2 * _WORTH_THREADS), 500, width=4, dtype=torch.float32)
    expected, found = case.found(), []
    threads = [threading.Thread(target=lambda: found.append(case.found())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(a.equal(b) for each in found for a, b in zip(each, expected, strict=True))


def test_half_precision_is_computed_in_float32():
    case = Case(dtype=torch.float32)
    left, right = (t.detach().bfloat16() for t in (case.left, case.right))
    edge = case.weights, case.along
    out = additive_attention(left, right, case.vector, case.indptr, case.indices, edge)
    wide = additive_attention(left.float(), right.float(), case.vector, case.indptr, case.indices, edge)
    assert out.dtype == torch.float32
    assert out.equal(wide)


def test_weights_that_want_a_gradient_have_one():
    case = Case()
    weights = case.weights.requires_grad_()

    def of(weights):
        edge = weights, case.along
        return additive_attention(case.left, case.right, case.vector, case.indptr, case.indices, edge)

    assert torch.autograd.gradcheck(of, weights)


def test_shapes_that_do_not_fit_are_refused():
    case = Case()
    for left, right, edge in (
        (case.left[:, :1], case.right, None),
        (case.left, case.right[1:], None),
        (case.left, case.right, (case.weights[1:], case.along)),
        (case.left, case.right, (case.weights, case.along[:1])),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            additive_attention(left, right, case.vector, case.indptr, case.indices, edge)
