"""Attention by dot products, against loops, against torch's own operations and against finite differences."""

import math

import numba
import numpy as np
import pytest
import torch

from relrank.kernels.dot_attention import Neighbours, _by_torch, dot_attention, joined

N_DST, N_SRC, HEADS, D, KINDS = 9, 13, 2, 4, 3


def made(seed=0, edges=40, dtype=torch.float64):
    """Some destinations have no edge, some edges occur twice."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(1, N_DST - 1, edges))
    indptr = np.searchsorted(ends, np.arange(N_DST + 1)).astype(np.int64)
    indices = rng.integers(0, N_SRC, edges).astype(np.int32)
    indices[1::7] = indices[::7][: len(indices[1::7])]
    kinds = rng.integers(0, KINDS, edges).astype(np.int32)
    shapes = ((N_DST, HEADS, D), (N_SRC, HEADS, D), (N_SRC, HEADS, D), (KINDS, HEADS))
    tensors = [torch.from_numpy(rng.normal(size=s)).to(dtype).requires_grad_() for s in shapes]
    return tensors, Neighbours(indptr, indices, kinds)


def by_loops(query, key, value, prior, n, scale):
    out = torch.zeros_like(query)
    for i in range(len(query)):
        here = range(n.indptr[i], n.indptr[i + 1])
        for h in range(HEADS):
            scores = [float(query[i, h] @ key[n.indices[e], h] * prior[n.kinds[e], h]) * scale for e in here]
            total = sum(math.exp(s) for s in scores)
            for e, s in zip(here, scores, strict=True):
                out[i, h] += math.exp(s) / total * value[n.indices[e], h]
    return out


def test_it_is_the_softmax_over_all_edges_of_a_destination():
    tensors, n = made()
    with torch.no_grad():
        found, expected = dot_attention(*tensors, n, 0.7), by_loops(*tensors, n, 0.7)
    torch.testing.assert_close(found, expected)
    assert not found[0].any()
    assert not found[-1].any()


def test_gradients_are_finite_differences():
    tensors, n = made(1, 25)
    assert torch.autograd.gradcheck(lambda *t: dot_attention(*t, n, 0.5), tensors)


def test_other_devices_get_the_same_sums_and_gradients():
    """What runs where there is no compiled loop, run here."""
    tensors, n = made(2)
    toward = torch.from_numpy(np.random.default_rng(9).normal(size=(N_DST, HEADS, D)))
    found = []
    for call in (dot_attention, _by_torch):
        out = call(*tensors, n, 0.5)
        found.append([out, *torch.autograd.grad((out * toward).sum(), tensors)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_edges_are_silence():
    tensors, _ = made()
    none = Neighbours(np.zeros(N_DST + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    for call in (dot_attention, _by_torch):
        out = call(*tensors, none, 1.0)
        assert not out.any()
        assert all(not g.any() for g in torch.autograd.grad(out.sum(), tensors))


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_large_scores_do_not_overflow(size):
    tensors, n = made(3, dtype=torch.float32)
    with torch.no_grad():
        tensors[0].mul_(size)
        out = dot_attention(*tensors, n, 1.0)
        wide = by_torch64(tensors, n)
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.double(), wide, atol=1e-3, rtol=1e-3)


def by_torch64(tensors, n):
    return _by_torch(*(t.double() for t in tensors), n, 1.0)


def test_bits_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    n_dst, n_src, edges = 500, 700, 20_000
    indptr = np.searchsorted(np.sort(rng.integers(0, n_dst, edges)), np.arange(n_dst + 1)).astype(np.int64)
    n = Neighbours(
        indptr, rng.integers(0, n_src, edges).astype(np.int32), rng.integers(0, KINDS, edges).astype(np.int32)
    )
    shapes = ((n_dst, HEADS, 16), (n_src, HEADS, 16), (n_src, HEADS, 16), (KINDS, HEADS))
    tensors = [torch.from_numpy(rng.normal(size=s)).float().requires_grad_() for s in shapes]
    found, threads = [], numba.get_num_threads()
    try:
        for count in (1, threads):
            numba.set_num_threads(count)
            out = dot_attention(*tensors, n, 0.25)
            found.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    finally:
        numba.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_half_precision_is_widened():
    tensors, n = made(4, dtype=torch.float32)
    half = [t.detach().bfloat16() for t in tensors]
    found = dot_attention(*half, n, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dot_attention(*(t.float() for t in half), n, 0.5))


def test_edges_of_several_kinds_are_joined_by_destination():
    first = np.array([0, 2, 2, 3]), np.array([5, 1, 4])
    second = np.array([0, 0, 1, 3]), np.array([7, 8, 9])
    indptr, sources, kinds = joined([first, second], 3)
    assert indptr.tolist() == [0, 2, 3, 6]
    assert sources.tolist() == [5, 1, 7, 4, 8, 9]
    assert kinds.tolist() == [0, 0, 1, 0, 1, 1]
    empty = joined([], 2)
    assert [part.tolist() for part in empty] == [[0, 0, 0], [], []]
