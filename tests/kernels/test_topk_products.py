import numba
import numpy as np
import pytest

from relrank.kernels import topk_products as module
from relrank.kernels.csr import Csr
from relrank.kernels.topk_products import topk_products


def sparse(shape, density, seed, levels=0):
    """Random positive entries; with ``levels`` few different values, so that sums tie."""
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(rng.random(shape) < density)
    data = rng.integers(1, levels + 1, rows.size) if levels else rng.uniform(0.1, 2, rows.size)
    return Csr.from_pairs(rows, cols, shape, data.astype(np.float32))


def dense(csr):
    result = np.zeros((csr.n_rows, csr.n_cols))
    result[csr.rows(), csr.indices] = csr.data
    return result


def naive(left, right, k, norms=None, shrinkage=0.0):
    """All products, then per row a stable sort by falling value: of equal ones the first columns stay."""
    products = dense(left) @ dense(right)
    if norms is not None:
        products /= np.sqrt(np.outer(norms, norms)) + shrinkage
    np.fill_diagonal(products, 0)
    for row in products:
        row[np.argsort(-row, kind="stable")[k:]] = 0
    return products


def test_by_hand():
    """Items 0 and 1 share users 0 and 1, items 0 and 2 user 0; item 3 has a user of its own."""
    x = Csr.from_pairs(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 3]), (3, 4))
    found = topk_products(x.transpose(), x, 1)
    assert found.indptr.tolist() == [0, 1, 2, 3, 3]
    assert found.indices.tolist() == [1, 0, 0]
    assert found.data.tolist() == [2, 2, 1]
    found = topk_products(x.transpose(), x, 3, np.array([2.0, 2.0, 1.0, 1.0]), 2.0)
    assert found.indices.tolist() == [1, 2, 0, 2, 0, 1]
    np.testing.assert_allclose(found.data[:2], [2 / 4, 1 / (np.sqrt(2) + 2)])


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 50, 200])
def test_entries_equal_the_dense_product(k, levels):
    left, right = sparse((60, 25), 0.2, 1, levels), sparse((25, 60), 0.15, 2, levels)
    found = topk_products(left, right, k)
    np.testing.assert_allclose(dense(found), naive(left, right, k), rtol=1e-5)
    assert (found.degrees() <= k).all()
    assert (np.diff(found.indices) > 0)[np.diff(found.rows()) == 0].all()


def test_norms_and_shrinkage_divide_before_the_choice():
    left, right = sparse((60, 25), 0.2, 3), sparse((25, 60), 0.15, 4)
    norms = np.random.default_rng(5).uniform(0.1, 9, 60)
    np.testing.assert_allclose(
        dense(topk_products(left, right, 5, norms, 1.5)), naive(left, right, 5, norms, 1.5), rtol=1e-5
    )


def test_pieces_and_threads_change_nothing(monkeypatch):
    left, right = sparse((60, 25), 0.2, 6, 2), sparse((25, 60), 0.15, 7, 2)
    whole = topk_products(left, right, 6)
    monkeypatch.setattr(module, "PIECE_BYTES", 8 * 6 * 13)  # thirteen rows
    pieces = topk_products(left, right, 6)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = topk_products(left, right, 6)
    finally:
        numba.set_num_threads(threads)
    for other in (pieces, alone):
        for field in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(other, field), getattr(whole, field))


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_beside_the_diagonal_is_an_empty_matrix(n):
    x = Csr.from_pairs(np.arange(n), np.arange(n), (n, n))
    found = topk_products(x, x, 5)
    assert (found.n_rows, found.n_cols, found.nnz) == (n, n, 0)
