import numba
import numpy as np
import pytest
from scipy import sparse

from relrank.errors import InputError
from relrank.kernels import dense_solve
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import (
    downdated_weights,
    full_gram,
    gram,
    products_by_row,
    products_of,
    regression_weights,
    ridge_gram,
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
    dense = np.random.default_rng(2).standard_normal((70, 5)).astype(np.float32)
    np.testing.assert_allclose(rows_times_dense(left, dense), to_scipy(left) @ dense, atol=1e-5)
    for product in (products_by_row(left, right), rows_times_dense(left, dense)):
        assert product.dtype == np.float32
        assert not product[20].any()


def test_products_of_no_rows():
    left, right = random_csr(6, 7, 0.5, 0).take(np.zeros(0, np.int64)), random_csr(7, 3, 0.5, 1)
    assert products_by_row(left, right).shape == (0, 3)
    assert rows_times_dense(left, np.ones((7, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 5), (40, 70), (131, 9)])
def test_gram_is_the_upper_triangle_of_the_product(n, m, weighted):
    rows = random_csr(n, m, 0.3, n)
    if not weighted:
        rows = Csr(rows.indptr, rows.indices, np.ones_like(rows.data), rows.n_cols)
    whole = (to_scipy(rows) @ to_scipy(rows).T).toarray()
    np.testing.assert_allclose(gram(rows), whole[np.triu_indices(n)], rtol=1e-5)
    assert gram(rows).dtype == np.float32
    dense = to_scipy(rows).toarray() != 0
    pairs = sum(d * (d + 1) // 2 for d in dense.sum(0).tolist())
    assert products_of(rows) == pairs


def test_a_full_gram_is_both_triangles_in_the_memory_that_is_given():
    rows = random_csr(90, 40, 0.1, 1)
    memory = np.full((90, 90), np.nan, np.float32)
    assert full_gram(rows, memory) is memory
    upper = memory[np.triu_indices(90)]
    np.testing.assert_array_equal(upper, gram(rows))
    np.testing.assert_array_equal(memory, memory.T)
    np.testing.assert_array_equal(full_gram(rows), memory)


def test_gram_of_more_rows_than_two_bytes_can_number():
    """Column numbers are kept in two bytes where they fit; 65,536 is the last size for which they do."""
    for n in (65_536, 65_537):
        rows = Csr.from_pairs(np.array([0, n - 1]), np.array([0, 0]), (n, 1))
        assert dense_solve._both_ways(rows)[4].tolist() == [0, n - 1]


def test_penalised_adds_grams_into_the_upper_left_corner():
    first, one, other = random_csr(9, 20, 0.4, 0), random_csr(7, 8, 0.5, 1), random_csr(9, 5, 0.5, 2)
    expected = (to_scipy(first) @ to_scipy(first).T).toarray() + 0.25 * np.eye(9)
    expected[:7, :7] += 2.5 * (to_scipy(one) @ to_scipy(one).T).toarray()
    expected += 3.0 * (to_scipy(other) @ to_scipy(other).T).toarray()
    upper = np.triu_indices(9)
    made = ridge_gram(gram(first), [(gram(one), 2.5), (gram(other), 3.0)], 0.25)
    np.testing.assert_allclose(made[upper], expected[upper], rtol=1e-5)
    from_rows = ridge_gram(gram(first), [(one, 2.5), (other, 3.0)], 0.25)
    assert (made[upper] == from_rows[upper]).all()  # what is kept must not change a bit of a result


@pytest.mark.parametrize("d", [64, 65, 97, 200])
def test_tiles_change_no_bit_of_a_product(d, monkeypatch):
    rows, dense = random_csr(300, 70, 0.4, 3), np.random.default_rng(4).standard_normal((70, d)).astype(np.float32)
    plain = rows_times_dense(rows, dense)
    called = []
    tiled = dense_solve._rows_times_tiles
    monkeypatch.setattr(dense_solve, "_rows_times_tiles", lambda *args: called.append(1) or tiled(*args))
    monkeypatch.setattr(dense_solve, "MANY", 0)
    assert (rows_times_dense(rows, dense) == plain).all()
    assert called
    np.testing.assert_allclose(plain, to_scipy(rows) @ dense, atol=1e-4)


def test_threads_change_no_bit_of_gram_matrices_and_products(monkeypatch):
    monkeypatch.setattr(dense_solve, "MANY", 0)
    rows = random_csr(300, 70, 0.4, 3)
    dense = np.random.default_rng(4).standard_normal((70, 97)).astype(np.float32)
    upper, found, before = np.triu_indices(300), [], numba.get_num_threads()
    try:
        for threads in (1, min(2, before)):
            numba.set_num_threads(threads)
            made = ridge_gram(gram(rows), [(rows, 2.5)], 1.0)
            found.append((gram(rows), made[upper], rows_times_dense(rows, dense)))
    finally:
        numba.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert (one == other).all()


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
        monkeypatch.setattr(dense_solve, "LAPACK_LIMIT", 0)


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
@pytest.mark.parametrize("n", [1, 63, 64, 130])
def test_regression_weights_are_least_squares(n):
    """Column j of B is the ridge regression of column j on the others, which numpy solves one by one."""
    x = np.random.default_rng(n).standard_normal((n + 40, n))
    a = x.T @ x / n + np.eye(n)
    b, diagonal = regression_weights(np.triu(a).astype(np.float32))
    for j in range(n):
        others = np.delete(np.arange(n), j)
        np.testing.assert_allclose(b[others, j], np.linalg.solve(a[np.ix_(others, others)], a[others, j]), atol=2e-5)
    assert not b.diagonal().any()
    np.testing.assert_allclose(diagonal, np.linalg.inv(a).diagonal(), rtol=1e-4)


@pytest.mark.parametrize(
    ("n", "k", "scale"), [(1, 0, 1), (1, 1, 1), (40, 1, 1), (131, 17, 0.3), (131, 17, 0.1), (130, 130, 0.15)]
)
def test_weights_without_rows_are_those_of_the_matrix_without_them(n, k, scale):
    rng = np.random.default_rng(n + k)
    x, dense = rng.standard_normal((n + 40, n)), scale * rng.standard_normal((k, n)) * (rng.random((k, n)) < 0.4)
    rows = Csr.from_pairs(*np.nonzero(dense), (k, n), dense[np.nonzero(dense)])
    left = x.T @ x / n + np.eye(n)
    b, diagonal = regression_weights((left + dense.T @ dense).astype(np.float32))
    kept = b.copy()
    changed = downdated_weights(b, diagonal, rows)
    assert changed is not None
    assert (b == kept).all()
    p = np.linalg.inv(left)
    expected = p / -p.diagonal()
    expected[np.diag_indices(n)] = 0
    np.testing.assert_allclose(changed[0], expected, atol=1e-5)
    np.testing.assert_allclose(changed[1], p.diagonal(), rtol=1e-4)


def test_weights_without_nearly_everything_are_refused():
    """Where a thirtieth is left of what was there, rounding errors are a thousand times as large; a 20th is taken."""
    for whole, refused in ((30.0, True), (20.0, False)):
        rows = Csr.from_pairs(np.array([0]), np.array([2]), (1, 5), np.array([np.sqrt(whole - 1)]))
        g = np.eye(5, dtype=np.float32)
        g[2, 2] = whole
        assert (downdated_weights(*regression_weights(g), rows) is None) is refused


def test_weights_without_many_dense_rows_are_refused_although_every_pivot_is_large():
    """200 attributes that every item has: no pivot is below .2, yet of one direction hardly anything is left."""
    n, k = 800, 200
    rng = np.random.default_rng(0)
    x = (rng.random((3000, n)) < 0.025).astype(np.float64)
    dense = np.full((k, n), np.sqrt(1000 / k))
    left = x.T @ x + 10 * np.eye(n)
    rows = Csr.from_pairs(*np.nonzero(dense), (k, n), dense[np.nonzero(dense)])
    assert downdated_weights(*regression_weights((left + dense.T @ dense).astype(np.float32)), rows) is None


@pytest.mark.parametrize("inverse", [spd_inverse, regression_weights])
@pytest.mark.usefixtures("cholesky")
def test_only_the_upper_triangle_is_read(inverse):
    a = np.random.default_rng(0).standard_normal((70, 90)).astype(np.float32)
    a = a @ a.T / 70 + np.eye(70, dtype=np.float32)
    broken = np.where(np.triu(np.ones_like(a)) == 1, a, np.float32(np.nan))
    for one, other in zip(inverse(a), inverse(broken), strict=True):
        assert np.array_equal(one, other)


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
