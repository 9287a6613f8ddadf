"""Blocks, neighbours and weights against plain NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from relrank.kernels import local_regression
from relrank.kernels.csr import Csr
from relrank.kernels.local_regression import (
    LANES,
    SAMPLE,
    EqualityMatrix,
    by_input,
    solve_block,
    symmetric_sum,
    topk_cosine_dense,
    topk_cosine_sparse,
    weights_dense,
    weights_sparse,
)


def stack(seed: int, n_rows: int = 60, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n_rows, n)) * (rng.random((n_rows, n)) < 0.3)).astype(np.float32)


def csr(dense: np.ndarray) -> Csr:
    row, col = np.nonzero(dense)
    return Csr.from_pairs(row, col, dense.shape, dense[row, col])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 7, 8, 9, 16, 50, 201])
def test_cholesky_solves_what_numpy_solves(k):
    rng = np.random.default_rng(k)
    x = rng.random((k + 5, k))
    a, b = x.T @ x + np.eye(k), rng.random(k)
    block = np.full((k, (k // LANES + 1) * LANES), 7.0, np.float32)  # what is not read may be anything finite
    block[:, :k], block[:, k] = np.triu(a) + 3 * np.tril(np.ones((k, k)), -1), b
    weights = np.empty(k, np.float32)
    solve_block(block, k, weights)
    np.testing.assert_allclose(weights, np.linalg.solve(a, b), rtol=0, atol=2e-5 * np.abs(weights).max())


def test_a_neighbour_that_repeats_another_is_left_out():
    a = np.array([[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 4.0]])
    block = np.zeros((3, LANES), np.float32)
    block[:, :3], block[:, 3] = a, [2, 2, 3]
    weights = np.empty(3, np.float32)
    solve_block(block, 3, weights)
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2]], np.linalg.solve(a[np.ix_([0, 2], [0, 2])], [2, 3]), rtol=1e-6)


def naive_nearest(z: np.ndarray, k: int, shrinkage: float, j: int) -> list[int]:
    g = z.T.astype(np.float64) @ z
    norm = np.sqrt(np.diag(g))
    similarity = g[j] / (norm[j] * norm + shrinkage)
    similarity[j] = 0
    order = sorted(np.flatnonzero(similarity > 0), key=lambda i: (-similarity[i], i))
    return sorted(order[:k])


@pytest.mark.parametrize(("k", "shrinkage"), [(1, 0.0), (6, 0.0), (6, 3.0), (39, 0.5), (60, 0.0)])
def test_neighbours_are_those_of_largest_shrunk_cosine(k, shrinkage):
    z, targets = stack(3), np.array([0, 5, 39])
    g = z.T @ z
    expected = [naive_nearest(z, k, shrinkage, j) for j in targets]
    for found in (
        topk_cosine_dense(g, k, shrinkage, targets),
        topk_cosine_sparse(csr(z.T), csr(z), k, shrinkage, targets, 10**6),
    ):
        assert [[i for i in row if i >= 0] for row in found.tolist()] == expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("near_the_sample", [True, False])
def test_a_sample_of_columns_changes_no_neighbour(seed, near_the_sample):
    """The nearest columns are inside the sample, so that its threshold is too high; or outside."""
    rng, n, k = np.random.default_rng(seed), 400, 6
    z = rng.random((60, n)).astype(np.float32) * (rng.random((60, n)) < 0.2)
    targets = np.array([3, 200, 399])
    for j in targets:
        many = np.flatnonzero((np.arange(n) % SAMPLE == j % SAMPLE) == near_the_sample)[:40]
        z[:, many] += 0.5 * z[:, [j]]
    g = z.T @ z
    found = topk_cosine_dense(g, k, 0.5, targets)
    norms = np.sqrt(g.diagonal())
    for row, j in zip(found, targets, strict=True):
        near = g[j] / (norms * norms[j] + np.float32(0.5))
        near[j] = -1
        np.testing.assert_array_equal(row, np.sort(np.argsort(-near, kind="stable")[:k]))


@pytest.mark.parametrize("columns", [7, 12, 40])
def test_a_guess_changes_no_neighbour(columns):
    """Correct, stale, of the wrong size or random: guesses only decide where the search starts."""
    z, targets, rng = stack(5), np.arange(40), np.random.default_rng(1)
    g = z.T @ z
    wanted = topk_cosine_dense(g, 7, 1.5, targets)
    nonsense = np.stack([np.sort(rng.permutation(40)[:columns]) for _ in targets]).astype(np.int32)
    short = nonsense.copy()
    short[:, 3:] = -1
    other = stack(6)
    guesses = [wanted, nonsense, short, topk_cosine_dense(other.T @ other, columns - 1, 0.0, targets), nonsense + 40]
    for guess in guesses:
        np.testing.assert_array_equal(topk_cosine_dense(g, 7, 1.5, targets, guess), wanted)
    equal = np.ones((40, 40), np.float32)  # ties go to the lower column with a guess, too
    first = topk_cosine_dense(equal, 7, 0.0, targets)
    np.testing.assert_array_equal(topk_cosine_dense(equal, 7, 0.0, targets, nonsense), first)


@pytest.mark.parametrize("size", [4, 4 * 40 * 7, 4 << 20])
def test_sums_in_pieces_are_sums(monkeypatch, size):
    rng = np.random.default_rng(0)
    first, dense = rng.random((40, 40)).astype(np.float32), rng.random((30, 30)).astype(np.float32)
    sparse = stack(3, 20, 20)
    monkeypatch.setattr(local_regression, "SUM_BYTES", size)
    found = symmetric_sum(first, [(dense, 0.5), (csr(sparse), 2.0)])
    wanted = first.astype(np.float64)
    wanted[:30, :30] += 0.5 * dense
    wanted[:20, :20] += 2.0 * sparse
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    memory = np.full((40, 40), np.nan, np.float32)
    assert symmetric_sum(first, [(dense, 0.5), (csr(sparse), 2.0)], memory) is memory
    np.testing.assert_array_equal(memory, found)


@pytest.mark.parametrize("size", [4, 4 * 40 * 7, 4 << 20])
def test_same_values_are_the_matrix_of_their_pairs(monkeypatch, size):
    rng = np.random.default_rng(0)
    first, values = rng.random((40, 40)).astype(np.float32), rng.integers(-1, 3, 30).astype(np.int32)
    pairs = ((values[:, None] == values) & (values >= 0)).astype(np.float32)
    monkeypatch.setattr(local_regression, "SUM_BYTES", size)
    found = symmetric_sum(first, [(EqualityMatrix(values), 0.3), (pairs, 2.0)])
    np.testing.assert_array_equal(found, symmetric_sum(first, [(pairs, 0.3), (pairs, 2.0)]))


def test_equal_cosines_go_to_the_lower_column():
    z = np.eye(4, dtype=np.float32)[:, [0, 0, 0, 0, 1]]
    for found in (
        topk_cosine_dense(z.T @ z, 2, 0, np.array([1])),
        topk_cosine_sparse(csr(z.T), csr(z), 2, 0, np.array([1]), 9),
    ):
        assert found.tolist() == [[0, 2]]


def test_full_rows_bring_nothing_near():
    z = np.zeros((3, 6), np.float32)
    z[0], z[1, :2], z[2, 2:4] = 1, 1, 1
    found = topk_cosine_sparse(csr(z.T), csr(z), 5, 0, np.arange(6), 5)
    assert [[i for i in row if i >= 0] for row in found.tolist()] == [[1], [0], [3], [2], [], []]


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_weights_are_ridge_regressions_on_the_neighbours(l2):
    z, targets = stack(5), np.array([1, 8, 30])
    g = z.T.astype(np.float64) @ z
    near = topk_cosine_dense((z.T @ z), 9, 0, targets)
    near[1, 4:] = -1  # some have fewer
    for weights in (weights_dense(z.T @ z, l2, targets, near), weights_sparse(csr(z.T), l2, targets, near)):
        for j, own, w in zip(targets, near, weights, strict=True):
            n = own[own >= 0]
            expected = np.linalg.solve(g[np.ix_(n, n)] + l2 * np.eye(n.size), g[n, j])
            np.testing.assert_allclose(w[: n.size], expected, atol=2e-6)
            assert not w[n.size :].any()


def test_weights_by_input():
    near = np.array([[0, 2, -1], [1, -1, -1]], np.int32)
    matrix = by_input(near, np.array([[0.5, 0.0, 0.0], [2.0, 0.0, 0.0]], np.float32), np.array([1, 3]), (4, 5))
    assert matrix.rows().tolist() == [0, 1, 2]
    assert matrix.indices.tolist() == [1, 3, 1]
    assert matrix.data.tolist() == [0.5, 2.0, 0.0]  # a neighbour all the same
    assert (matrix.n_rows, matrix.n_cols) == (4, 5)
