import numpy as np
import pytest
from scipy import sparse

from relrank.csr import Csr
from relrank.errors import InputError
from relrank.models import linear
from relrank.models.linear import (
    add_scaled,
    gram,
    products_by_row,
    rows_times_dense,
    singular_vectors,
    spd_inverse,
    unit_rows,
)


def random_csr(n, m, share, seed):
    rng = np.random.default_rng(seed)
    dense = rng.uniform(0.5, 2, (n, m)).astype(np.float32) * (rng.random((n, m)) < share)
    dense[n // 2] = 0  # a row without values
    return Csr.from_pairs(*np.nonzero(dense), dense.shape, dense[np.nonzero(dense)])


def to_scipy(csr):
    return sparse.csr_array((csr.data.astype(np.float64), csr.indices, csr.indptr), shape=(csr.n_rows, csr.n_cols))


def test_products_equal_scipys():
    left, right = random_csr(40, 70, 0.2, 0), random_csr(70, 33, 0.3, 1)
    np.testing.assert_allclose(products_by_row(left, right), (to_scipy(left) @ to_scipy(right)).toarray(), rtol=1e-5)
    np.testing.assert_allclose(gram(left), (to_scipy(left) @ to_scipy(left).T).toarray(), rtol=1e-5)
    dense = np.random.default_rng(2).standard_normal((70, 5)).astype(np.float32)
    np.testing.assert_allclose(rows_times_dense(left, dense), to_scipy(left) @ dense, atol=1e-5)
    for product in (products_by_row(left, right), gram(left), rows_times_dense(left, dense)):
        assert product.dtype == np.float32
        assert not product[20].any()


def test_products_of_no_rows():
    left, right = random_csr(6, 7, 0.5, 0).take(np.zeros(0, np.int64)), random_csr(7, 3, 0.5, 1)
    assert products_by_row(left, right).shape == (0, 3)
    assert rows_times_dense(left, np.ones((7, 3), np.float32)).shape == (0, 3)


def test_add_scaled_adds_into_the_upper_left_corner():
    rng = np.random.default_rng(0)
    out, other = rng.standard_normal((7, 9)).astype(np.float32), rng.standard_normal((5, 6)).astype(np.float32)
    expected = out.copy()
    expected[:5, :6] += np.float32(2.5) * other
    add_scaled(out, other, 2.5)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_unit_rows_have_length_one_and_empty_rows_stay_empty():
    rows = unit_rows(random_csr(40, 70, 0.2, 0))
    lengths = np.sqrt((to_scipy(rows) ** 2).sum(1))
    np.testing.assert_allclose(np.delete(lengths, 20), 1, rtol=1e-6)
    assert lengths[20] == 0
    hand = unit_rows(Csr.from_pairs(np.array([0, 0]), np.array([0, 2]), (1, 3), np.array([3.0, 4.0])))
    np.testing.assert_allclose(hand.data, [0.6, 0.8], rtol=1e-6)


@pytest.fixture(params=["lapack", "torch"])
def cholesky(request, monkeypatch):
    """Both libraries that may do the decomposition: torch's takes over above a size where scipy's has crashed."""
    if request.param == "torch":
        monkeypatch.setattr(linear, "LAPACK_LIMIT", 0)


@pytest.mark.usefixtures("cholesky")
@pytest.mark.parametrize("n", [1, 63, 130])
def test_spd_inverse_is_the_inverse(n):
    a = np.random.default_rng(n).standard_normal((n, n + 10)).astype(np.float32)
    a = a @ a.T / n + np.eye(n, dtype=np.float32)
    expected = np.linalg.inv(a.astype(np.float64))
    found = spd_inverse(a.copy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found == found.T).all() or np.abs(found - found.T).max() < 1e-6
    assert found.flags.c_contiguous


@pytest.mark.usefixtures("cholesky")
def test_spd_inverse_refuses_an_indefinite_matrix():
    a = np.eye(70, dtype=np.float32)
    a[40, 40] = -1
    with pytest.raises(InputError, match=r"not positive definite[\s\S]*l2 large enough[\s\S]*pivot 41 of 70"):
        spd_inverse(a)


@pytest.mark.parametrize(("n", "m", "rank"), [(90, 60, 16), (90, 61, 7), (30, 200, 30)])
def test_singular_vectors_equal_numpys(n, m, rank):
    """Signs and bases of equal values are free, so the projections are compared; then the order of the columns."""
    matrix = random_csr(n, m, 0.3, 3)
    dense = to_scipy(matrix).toarray()
    _, values, rows = np.linalg.svd(dense)
    found = singular_vectors(matrix, rank, seed=0, rounds=30)
    assert found.shape == (m, rank)
    np.testing.assert_allclose(found.T @ found, np.eye(rank), atol=1e-5)
    # an empty row of the matrix makes one singular value 0, whose vector is anything orthogonal
    sure = min(rank, int((values > 1e-6).sum()))
    np.testing.assert_allclose(found[:, :sure] @ found[:, :sure].T, rows[:sure].T @ rows[:sure], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(dense @ found, axis=0)[:sure], values[:sure], rtol=1e-4)


def test_singular_vectors_are_seeded_and_survive_low_rank():
    """Two equal blocks have two singular values: the Gram matrix of the basis is singular, QR must take over."""
    row, col = np.nonzero(np.kron(np.eye(2), np.ones((30, 20))))
    matrix = Csr.from_pairs(row, col, (60, 40))
    found = singular_vectors(matrix, 5, seed=1)
    np.testing.assert_allclose(found.T @ found, np.eye(5), atol=1e-5)
    np.testing.assert_allclose(
        found[:, :2] @ found[:, :2].T, np.kron(np.eye(2), np.full((20, 20), 1 / 20)), atol=1e-5
    )
    assert (found == singular_vectors(matrix, 5, seed=1)).all()
