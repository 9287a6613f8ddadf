"""Every row equals its ridge regression, solved densely in float64."""

import numba
import numpy as np
import pytest

from relrank.errors import InputError
from relrank.kernels.csr import Csr
from relrank.kernels.least_squares import CHUNK, TILE, gram_matrix, padded, solve_rows, spectrum_of, turned


def rows_of(degrees, m, seed=0, weighted=True):
    """Rows with so many edges each, at random."""
    rng = np.random.default_rng(seed)
    cols = [np.sort(rng.permutation(m)[:n]) for n in degrees]
    row = np.repeat(np.arange(len(degrees)), degrees)
    data = rng.uniform(0.2, 3, row.size) if weighted else np.ones(row.size)
    return Csr.from_pairs(row, np.concatenate(cols), (len(degrees), m), data)


def dense(rows):
    x = np.zeros((rows.n_rows, rows.n_cols))
    x[rows.rows(), rows.indices] = rows.data
    return x


def by_the_formula(rows, table, spectrum, ridge, prior):
    y, out = table.astype(np.float64), []
    for c, kappa, mean in zip(dense(rows), ridge, prior, strict=True):
        a = np.diag(spectrum + kappa) + y.T @ (c[:, None] * y)
        out.append(np.linalg.solve(a, y.T @ c + kappa * mean))
    return np.array(out)


def problem(dim, degrees, m=400, seed=0):
    rng = np.random.default_rng(seed)
    table = (rng.standard_normal((m, dim)) * 0.4).astype(np.float32)
    spectrum = rng.uniform(0, 5, dim).astype(np.float32)
    ridge = rng.uniform(0.1, 2, len(degrees)).astype(np.float32)
    return rows_of(degrees, m, seed), table, spectrum, ridge


@pytest.mark.parametrize("dim", [TILE, 2 * TILE, 5 * TILE])
def test_rows_are_their_ridge_regressions(dim):
    """Around both borders, of a tile and of the number of dimensions, and above a chunk."""
    degrees = [0, 1, 2, 3, 4, 5, TILE - 1, TILE, TILE + 1, dim - 1, dim, dim + 1, CHUNK + dim, 2 * CHUNK, 400, 7, 0]
    rows, table, spectrum, ridge = problem(dim, degrees)
    prior = np.random.default_rng(9).standard_normal((len(degrees), dim)).astype(np.float32)
    found = solve_rows(rows, table, spectrum, ridge)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_the_formula(rows, table, spectrum, ridge, 0 * prior), rtol=1e-4, atol=2e-6)
    assert not found[[0, -1]].any()
    found = solve_rows(rows, table, spectrum, ridge, prior)
    np.testing.assert_allclose(found, by_the_formula(rows, table, spectrum, ridge, prior), rtol=1e-4, atol=5e-6)
    assert found[[0, -1]].all()


def test_a_row_worked_by_hand():
    """One dimension, one edge of weight 2 to the vector 3: 2·3 / (0.5 + 0.25 + 2·9)."""
    table = padded(np.array([[1.0], [3.0]], np.float32))
    assert table.shape == (2, TILE)
    rows = Csr.from_pairs(np.array([0]), np.array([1]), (1, 2), np.array([2.0]))
    spectrum = np.zeros(TILE, np.float32)
    spectrum[0] = 0.5
    found = solve_rows(rows, table, spectrum, np.array([0.25], np.float32))
    np.testing.assert_allclose(found[0, 0], 6 / 18.75, rtol=1e-6)
    assert not found[0, 1:].any()


@pytest.mark.parametrize("n", [0, 1, 3, 4, 17, 1000, 2500])
def test_moments_and_turns(n):
    rng = np.random.default_rng(n)
    table = rng.standard_normal((n, 2 * TILE)).astype(np.float32)
    gram = table.astype(np.float64).T @ table
    np.testing.assert_allclose(gram_matrix(table), gram, rtol=1e-5, atol=1e-5 * max(n, 1) ** 0.5)
    values, vectors = spectrum_of(gram)
    back = (vectors * values.astype(np.float64)) @ vectors.T
    np.testing.assert_allclose(back, gram, atol=1e-5 * max(n, 1))
    np.testing.assert_allclose(turned(table, vectors), table.astype(np.float64) @ vectors, atol=1e-5)


def test_threads_do_not_change_a_bit():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one thread is all there is")
    rows, table, spectrum, ridge = problem(2 * TILE, [3, 50, 0, 90, 17] * 30)
    threads, found = numba.get_num_threads(), []
    try:
        for n in (1, 2):
            numba.set_num_threads(n)
            parts = (
                solve_rows(rows, table, spectrum, ridge),
                gram_matrix(table),
                turned(table, np.eye(2 * TILE, dtype="f")),
            )
            found.append([part.tobytes() for part in parts])
    finally:
        numba.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_row_does_not_depend_on_the_others():
    rows, table, spectrum, ridge = problem(2 * TILE, [3, 50, 0, 90, 17])
    whole = solve_rows(rows, table, spectrum, ridge)
    picked = np.array([4, 1, 1])
    assert np.array_equal(solve_rows(rows.take(picked), table, spectrum, ridge[picked]), whole[picked])


def test_a_matrix_that_is_not_positive_definite_is_refused():
    rows, table, spectrum, ridge = problem(TILE, [3, 50])
    ridge[1] = -1e4
    with pytest.raises(InputError, match="not positive definite") as error:
        solve_rows(rows, table, spectrum, ridge)
    assert "row 1 of 2" in str(error.value)
