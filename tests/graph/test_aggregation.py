import numpy as np
import pytest
import torch

from relrank.graph.aggregation import neighbour_mean, sparse_product
from relrank.graph.sampling.blocks import Edges
from relrank.kernels.csr import Csr

N_SRC = 9
ROWS = [[(3, 0.5), (0, 2.0), (3, 1.0)], [], [(8, 0.25)], [(7, 1.0), (7, 1.0), (1, 3.0), (2, 0.1)], []]
"""Of every destination its (source, weight): repeated sources, as draws with replacement give them; none at all."""


def edges(rows=ROWS):
    indptr = torch.tensor(np.cumsum([0, *map(len, rows)]))
    flat = [e for row in rows for e in row]
    return Edges(indptr, torch.tensor([j for j, _ in flat], dtype=torch.int32), torch.tensor([w for _, w in flat]))


def dense(rows=ROWS):
    """Shares of the mean, float64 [n_dst, n_src]; what occurs twice adds up."""
    shares = np.zeros((len(rows), N_SRC))
    for i, row in enumerate(rows):
        for j, w in row:
            shares[i, j] += w / sum(w for _, w in row)
    return shares


def vectors(dim, dtype=torch.float64, seed=0):
    x = torch.randn(N_SRC, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [16, 5, 1])
def test_the_mean_and_its_gradient_are_the_dense_ones(dim, dtype):
    """By the compiled product in float32 and by torch in float64; zeros where a destination has no neighbour."""
    x, upstream = vectors(dim, dtype), vectors(dim, dtype, seed=1).detach()[: len(ROWS)]
    mean = neighbour_mean(x, edges())
    assert mean.dtype == dtype
    np.testing.assert_allclose(mean.detach(), dense() @ x.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not mean[[1, 4]].any()
    assert mean[2].equal(x[8])
    mean.backward(upstream)
    np.testing.assert_allclose(x.grad, dense().T @ upstream.numpy(), rtol=1e-5, atol=1e-6)
    assert not x.grad[[4, 5, 6]].any()


def test_a_mean_by_hand():
    """(2 · x₀ + 1.5 · x₃) / 3.5."""
    x = torch.zeros(N_SRC, 1)
    x[0], x[3] = 7.0, 14.0
    assert neighbour_mean(x, edges())[0].item() == pytest.approx(10.0)


def test_an_upstream_gradient_that_is_not_contiguous():
    """A sum hands its gradient on as one number for all entries, a transpose with other strides."""
    for of in (lambda m: m.sum(), lambda m: (m.T @ torch.arange(5.0)).sum()):
        narrow, wide = vectors(16, torch.float32), vectors(16)
        of(neighbour_mean(narrow, edges())).backward()
        of(neighbour_mean(wide, edges()).float()).backward()
        torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


def test_finite_differences():
    assert torch.autograd.gradcheck(lambda x: neighbour_mean(x, edges()), vectors(3))
    matrix = Csr(np.array([0, 2, 2, 3]), np.array([4, 1, 4], np.int32), np.array([0.5, -2, 3], np.float32), N_SRC)
    assert torch.autograd.gradcheck(lambda x: sparse_product(matrix, x), vectors(3))


@pytest.mark.parametrize("dim", [16, 5])
def test_the_compiled_product_is_torchs(dim):
    """On a matrix large enough for several threads, with columns that repeat; the same bits a second time."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 3000)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    matrix = Csr(
        indptr, rng.integers(0, 400, indptr[-1]).astype(np.int32), rng.normal(size=indptr[-1]).astype(np.float32), 400
    )
    x = torch.from_numpy(rng.normal(size=(400, dim)))
    upstream = torch.from_numpy(rng.normal(size=(3000, dim)))
    found = []
    for dtype in (torch.float32, torch.float32, torch.float64):
        leaf = x.to(dtype).clone().requires_grad_()
        out = sparse_product(matrix, leaf)
        out.backward(upstream.to(dtype))
        found.append((out.detach(), leaf.grad))
    for first, again, wide in zip(*found, strict=True):
        assert first.equal(again)
        torch.testing.assert_close(first.double(), wide, rtol=1e-4, atol=1e-5)


def test_the_transpose_keeps_what_occurs_twice_apart():
    shares = np.concatenate([[w for _, w in row] for row in ROWS]).astype(np.float32)
    indptr, indices, _ = (t.numpy() for t in edges())
    turned = Csr(indptr, indices, shares, N_SRC).transpose()
    assert (turned.n_rows, turned.n_cols, turned.nnz) == (N_SRC, len(ROWS), indices.size)
    found = sorted(zip(turned.indices.tolist(), turned.rows().tolist(), turned.data.tolist(), strict=True))
    expected = [(i, j, float(np.float32(w))) for i, row in enumerate(ROWS) for j, w in row]
    assert found == sorted(expected)


def test_nothing_to_gather():
    for n_dst in (0, 3):
        x = vectors(16, torch.float32)
        mean = neighbour_mean(x, edges([[]] * n_dst))
        assert mean.shape == (n_dst, 16)
        mean.sum().backward()
        assert not mean.any()
        assert not x.grad.any()
