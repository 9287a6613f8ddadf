"""Dense linear algebra that the closed forms share: Gram matrices, inverses, sparse rows times dense matrices."""

from __future__ import annotations

import numba
import numpy as np
import torch

from relrank.csr import Csr, Float32
from relrank.errors import InputError
from relrank.graph.spmm import spmm

# Above this size scipy's float32 Cholesky has crashed processes; torch's has not.
LAPACK_LIMIT = 20_000


@numba.njit(parallel=True, nogil=True, cache=True, fastmath={"contract"})
def _rows_times_dense(indptr, indices, data, dense, out):  # type: ignore[no-untyped-def]
    for u in numba.prange(out.shape[0]):
        row = out[u]
        row[:] = 0
        for e in range(indptr[u], indptr[u + 1]):
            v, other = data[e], dense[indices[e]]
            for j in range(row.size):
                row[j] += v * other[j]


@numba.njit(parallel=True, nogil=True, cache=True, fastmath={"contract"})
def _products_by_row(indptr, indices, data, o_indptr, o_indices, o_data, out):  # type: ignore[no-untyped-def]
    for i in numba.prange(out.shape[0]):
        row = out[i]
        for e in range(indptr[i], indptr[i + 1]):
            t, v = indices[e], data[e]
            for f in range(o_indptr[t], o_indptr[t + 1]):
                row[o_indices[f]] += v * o_data[f]


@numba.njit(parallel=True, nogil=True, cache=True)
def _mirror(a, block):  # type: ignore[no-untyped-def]
    """Copy the upper triangle into the lower one, tile by tile."""
    n = a.shape[0]
    tiles = (n + block - 1) // block
    for bi in numba.prange(tiles):
        for bj in range(bi + 1):
            for i in range(bi * block, min(n, (bi + 1) * block)):
                for j in range(bj * block, min(i, (bj + 1) * block)):
                    a[i, j] = a[j, i]


def products_by_row(left: Csr, right: Csr) -> Float32:
    """``left @ right``, both sparse, dense float32 [left.n_rows, right.n_cols]: each row is summed in cache."""
    out = np.zeros((left.n_rows, right.n_cols), np.float32)
    _products_by_row(left.indptr, left.indices, left.data, right.indptr, right.indices, right.data, out)
    return out


def gram(rows: Csr) -> Float32:
    """``rows @ rows.T``, dense float32 [n_rows, n_rows]."""
    return products_by_row(rows, rows.transpose())


@numba.njit(parallel=True, nogil=True, cache=True, fastmath={"contract"})
def _add_scaled(out, other, factor):  # type: ignore[no-untyped-def]
    for i in numba.prange(other.shape[0]):
        into, row = out[i], other[i]
        for j in range(row.size):
            into[j] += factor * row[j]


def add_scaled(out: Float32, other: Float32, factor: float) -> None:
    """``out[:n, :m] += factor · other`` in place on all cores, for ``other`` [n, m]; no temporary matrix is made."""
    _add_scaled(out, other, np.float32(factor))


def singular_vectors(matrix: Csr, rank: int, seed: int, rounds: int = 8) -> Float32:
    """The leading right singular vectors by randomised subspace iteration (Halko, Martinsson & Tropp 2011, alg. 4.4).

    Args:
        matrix: [n, m].
        rank: how many.
        seed: of the Gaussian start.
        rounds: power iterations, each preceded by an orthonormalisation.

    Returns:
        float32 [m, rank], orthonormal columns, largest singular value first.
    """
    by_column = matrix.transpose()
    wide = min(-(-(rank + 16) // 16) * 16, matrix.n_cols)
    basis = np.random.default_rng(seed).standard_normal((matrix.n_cols, wide)).astype(np.float32)
    image = np.empty((matrix.n_rows, wide), np.float32)
    for _ in range(rounds):
        basis = _orthonormal(basis)
        spmm(matrix, basis, image)
        spmm(by_column, image, basis)
    basis = _orthonormal(_orthonormal(basis))
    spmm(matrix, basis, image)
    # right singular vectors of the image: eigenvectors of a small matrix, smallest first
    turn = np.linalg.eigh((image.T @ image).astype(np.float64))[1][:, ::-1]
    result: Float32 = np.ascontiguousarray(basis @ turn[:, :rank].astype(np.float32))
    return result


def _orthonormal(basis: Float32) -> Float32:
    """Orthonormal columns that span the same space, contiguous.

    By the Cholesky factor of the Gram matrix, ten times as fast as Householder's QR on a tall matrix; its error grows
    with the squared condition number, so an ill-conditioned basis still gets Householder's.
    """
    tall = torch.from_numpy(basis)
    factor, failed = torch.linalg.cholesky_ex(tall.T @ tall)
    pivots = factor.diagonal()
    if int(failed) or float(pivots.min()) < 1e-2 * float(pivots.max()):
        columns = torch.linalg.qr(tall)[0]
    else:
        columns = torch.linalg.solve_triangular(factor.T, tall, upper=True, left=False)
    result: Float32 = columns.contiguous().numpy()
    return result


def unit_rows(rows: Csr) -> Csr:
    """Rows of Euclidean length 1; empty rows stay empty."""
    of = np.repeat(np.arange(rows.n_rows), rows.degrees())
    length = np.sqrt(np.bincount(of, weights=rows.data.astype(np.float64) ** 2, minlength=rows.n_rows))
    return Csr(rows.indptr, rows.indices, (rows.data / length[of]).astype(np.float32), rows.n_cols)


def rows_times_dense(rows: Csr, dense: Float32) -> Float32:
    """``rows @ dense``, float32 [n_rows, dense.shape[1]]."""
    out = np.empty((rows.n_rows, dense.shape[1]), np.float32)
    _rows_times_dense(rows.indptr, rows.indices, rows.data, dense, out)
    return out


def spd_inverse(a: Float32) -> Float32:
    """The inverse of a symmetric positive definite float32 matrix by Cholesky; ``a`` is overwritten.

    Raises:
        InputError: the matrix is not positive definite (the ridge penalty is too small).
    """
    n = a.shape[0]
    if n <= LAPACK_LIMIT:
        from scipy.linalg import lapack

        # The transpose of a C-ordered symmetric matrix is the same matrix in LAPACK's order: no copy is made.
        factor, info = lapack.spotrf(a.T, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            inverse, info = lapack.spotri(factor, lower=1, overwrite_c=1)
        if info == 0:
            result: Float32 = inverse.T
            _mirror(result, 64)
            return result
        failed = f"pivot {info} of {n}"
    else:
        factor_, info_ = torch.linalg.cholesky_ex(torch.from_numpy(a))
        if int(info_) == 0:
            # in LAPACK's order of memory: transposed, the same numbers lie in ours
            return torch.cholesky_inverse(factor_).T.contiguous().numpy()
        failed = f"pivot {int(info_)} of {n}"
    raise InputError(
        "matrix is not positive definite", where="closed-form solution",
        expected="a ridge penalty l2 large enough for float32", found=f"Cholesky failed at {failed}",
    )  # fmt: skip
