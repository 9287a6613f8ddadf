"""Dense linear algebra of the closed forms: Gram matrices, inverses, sparse times dense products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from relrank.errors import InputError
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.jit import njit
from relrank.kernels.spmm import edges_ahead, row_of_product, sixteens_of, spmm

# Above this size scipy's float32 Cholesky crashes; torch's does not.
LAPACK_LIMIT = 20_000
# Columns that one pass over sparse rows sums in registers, and tiles of so many columns that are copied together.
WIDTH, TILES = 32, 2
# Copying rows of the dense matrix pays if they are read so often, and from so many products on.
REUSE, MANY = 8, 1 << 29
# Side of the square tiles in which a matrix is transposed.
BLOCK = 64
# Smallest eigenvalue of M in ``downdated_weights``. Errors of the weights grow as it shrinks: on random matrices they
# are 3e-5 at .007 and 1e-3 at .0015.
LEAST_LEFT = 0.04


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _rows_times_dense(indptr, indices, data, dense, out):  # type: ignore[no-untyped-def]
    for u in numba.prange(out.shape[0]):
        row = out[u]
        row[:] = 0
        for e in range(indptr[u], indptr[u + 1]):
            v, other = data[e], dense[indices[e]]
            for j in range(row.size):
                row[j] += v * other[j]


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _products_by_row(indptr, indices, data, o_indptr, o_indices, o_data, out):  # type: ignore[no-untyped-def]
    for i in numba.prange(out.shape[0]):
        row = out[i]
        for e in range(indptr[i], indptr[i + 1]):
            t, v = indices[e], data[e]
            for f in range(o_indptr[t], o_indptr[t + 1]):
                row[o_indices[f]] += v * o_data[f]


_SIXTEENS, _AHEAD = sixteens_of(WIDTH), edges_ahead(WIDTH)


@njit(parallel=True, nogil=True)
def _rows_times_tiles(indptr, indices, data, dense, out, tiles, none):  # type: ignore[no-untyped-def]
    """``rows @ dense`` by tiles of all rows of ``dense`` and few columns, which fit into the second-level cache."""
    n, d = dense.shape
    strands, n_tiles, _, width = tiles.shape
    zero, one = np.float32(0), np.float32(1)
    for s in numba.prange(strands):
        own = tiles[s]
        for at in range(s * n_tiles * width, d, strands * n_tiles * width):
            first = min(at, d - n_tiles * width)  # the last ones overlap others, whose sums are then computed twice
            for k in range(n):
                for t in range(n_tiles):
                    for j in range(width):
                        own[t, k, j] = dense[k, first + t * width + j]
            for t in range(n_tiles):
                left, x = first + t * width, own[t]
                for u in range(out.shape[0]):
                    into, start, stop = out[u, left : left + width].reshape(1, width), indptr[u], indptr[u + 1]
                    row_of_product(  # type: ignore[call-arg]
                        _SIXTEENS, _AHEAD, indices, data, start, stop, stop - 1, x, into, 0, zero, into, 0, one, none
                    )


@njit(parallel=True, nogil=True)
def _mirror(a, block):  # type: ignore[no-untyped-def]
    """Copy the upper triangle into the lower one, tile by tile."""
    n = a.shape[0]
    tiles = (n + block - 1) // block
    for k in numba.prange(tiles):
        bi = k // 2 if k % 2 == 0 else tiles - 1 - k // 2  # long and short rows of tiles alternate
        for bj in range(bi + 1):
            for i in range(bi * block, min(n, (bi + 1) * block)):
                for j in range(bj * block, min(i, (bj + 1) * block)):
                    a[i, j] = a[j, i]


@njit(parallel=True, nogil=True)
def _weights(p, diagonal, block):  # type: ignore[no-untyped-def]
    """Turn P, whose upper triangle is set, into ``−P_ij / P_jj`` with zeros on the diagonal, in one pass."""
    n = p.shape[0]
    tiles = (n + block - 1) // block
    for k in numba.prange(tiles):
        bi = k // 2 if k % 2 == 0 else tiles - 1 - k // 2
        for bj in range(bi + 1):
            for i in range(bi * block, min(n, (bi + 1) * block)):
                for j in range(bj * block, min(i, (bj + 1) * block)):
                    value = -p[j, i]
                    p[i, j] = value / diagonal[j]
                    p[j, i] = value / diagonal[i]
        for i in range(bi * block, min(n, (bi + 1) * block)):
            p[i, i] = 0


def products_by_row(left: Csr, right: Csr) -> Float32:
    """``left @ right`` of sparse matrices as dense float32 [left.n_rows, right.n_cols]."""
    out = np.zeros((left.n_rows, right.n_cols), np.float32)
    _products_by_row(*left.arrays, *right.arrays, out)
    return out


@njit(parallel=True, nogil=True)
def _inverse_of(b, diagonal, p):  # type: ignore[no-untyped-def]
    """The upper triangle of P from the weights and P's diagonal."""
    for i in numba.prange(b.shape[0]):
        for j in range(i + 1, b.shape[0]):
            p[i, j] = -b[i, j] * diagonal[j]
        p[i, i] = diagonal[i]


@njit(nogil=True, fastmath={"contract"})
def _product_row(i, indptr, indices, data, t_indptr, t_indices, t_data, row):  # type: ignore[no-untyped-def]
    """Row i of ``rows @ rows.T`` from the diagonal on; columns of the transpose ascend, and empty data are ones."""
    row[:] = 0
    for e in range(indptr[i], indptr[i + 1]):
        t, v = indices[e], data[e]
        if t_data.size:
            for f in range(t_indptr[t + 1] - 1, t_indptr[t] - 1, -1):
                j = np.int64(t_indices[f]) - i
                if j < 0:
                    break
                row[j] += v * t_data[f]
        else:
            for f in range(t_indptr[t + 1] - 1, t_indptr[t] - 1, -1):
                j = np.int64(t_indices[f]) - i
                if j < 0:
                    break
                row[j] += v


@njit(parallel=True, nogil=True)
def _gram(indptr, indices, data, t_indptr, t_indices, t_data, strands, out):  # type: ignore[no-untyped-def]
    n = indptr.size - 1
    for s in numba.prange(strands):
        for i in range(s, n, strands):  # interleaved: the first rows of a triangle are the longest
            start = i * n - i * (i - 1) // 2
            row = out[start : start + n - i]
            _product_row(i, indptr, indices, data, t_indptr, t_indices, t_data, row)


@njit(parallel=True, nogil=True)
def _square(indptr, indices, data, t_indptr, t_indices, t_data, strands, out):  # type: ignore[no-untyped-def]
    n = indptr.size - 1
    for s in numba.prange(strands):
        for i in range(s, n, strands):
            _product_row(i, indptr, indices, data, t_indptr, t_indices, t_data, out[i, i:n])


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _add_gram(indptr, indices, data, t_indptr, t_indices, t_data, strands, out, factor):  # type: ignore[no-untyped-def]
    n = indptr.size - 1
    for s in numba.prange(strands):
        scratch = np.empty(n, np.float32)
        for i in range(s, n, strands):
            into, row = out[i, i:n], scratch[: n - i]
            _product_row(i, indptr, indices, data, t_indptr, t_indices, t_data, row)
            for j in range(row.size):
                into[j] += factor * row[j]


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _add_triangle(triangle, n, strands, out, factor, first):  # type: ignore[no-untyped-def]
    for s in numba.prange(strands):
        for i in range(s, n, strands):
            start = i * n - i * (i - 1) // 2
            into, row = out[i, i:n], triangle[start : start + n - i]
            if first:
                for j in range(row.size):
                    into[j] = row[j]
            else:
                for j in range(row.size):
                    into[j] += factor * row[j]


def _both_ways(rows: Csr) -> tuple[npt.NDArray[Any], ...]:
    """Rows and their transpose as ``_product_row`` takes them, in few bytes: the sweeps are bound by memory."""
    columns = rows.transpose()
    indices = columns.indices.astype(np.uint16) if rows.n_rows <= 1 << 16 else columns.indices
    data = np.empty(0, np.float32) if (columns.data == 1).all() else columns.data
    return *rows.arrays, columns.indptr, indices, data


def gram(rows: Csr) -> Float32:
    """The upper triangle of ``rows @ rows.T`` row by row, float32 [n_rows · (n_rows + 1) / 2]."""
    n = rows.n_rows
    # np.zeros is paged in by 4 kB, which takes longer than the products
    out: Float32 = np.empty(n * (n + 1) // 2, np.float32)
    _gram(*_both_ways(rows), _strands(), out)
    return out


def products_of(rows: Csr) -> int:
    """Number of products that ``gram`` sums."""
    degrees = np.bincount(rows.indices, minlength=rows.n_cols)
    return int((degrees * (degrees + 1)).sum()) // 2


def ridge_gram(first: Float32, others: Sequence[tuple[Float32 | Csr, float]], l2: float) -> Float32:
    """``F + Σ factor · O + l2 · I`` of Gram matrices, float32 [n, n]; only the upper triangle is set.

    Args:
        first: F, n by n, as ``gram`` returns it.
        others: each O as ``gram`` returns it, or the rows whose Gram matrix it is (the same bits), with its factor; a
            smaller O is added to the upper left corner.
        l2: added to the diagonal.
    """
    n, strands = _side(first), _strands()
    out: Float32 = np.empty((n, n), np.float32)
    _add_triangle(first, n, strands, out, np.float32(1), True)
    for other, factor in others:
        if isinstance(other, Csr):
            _add_gram(*_both_ways(other), strands, out, np.float32(factor))
        else:
            _add_triangle(other, _side(other), strands, out, np.float32(factor), False)
    out[np.diag_indices_from(out)] += np.float32(l2)
    return out


def full_gram(rows: Csr, memory: Float32 | None = None) -> Float32:
    """``rows @ rows.T``, float32 [n_rows, n_rows], with the bits of ``gram``.

    Args:
        rows: [n_rows, n_cols].
        memory: float32 [n_rows, n_rows] to write into; clearing fresh memory may take longer than the products.
    """
    n = rows.n_rows
    out: Float32 = np.empty((n, n), np.float32) if memory is None else memory
    _square(*_both_ways(rows), _strands(), out)
    _mirror(out, BLOCK)
    return out


def _strands() -> int:
    """Number of pieces of work, enough to keep all cores busy to the end."""
    return 16 * numba.get_num_threads()


def _side(triangle: Float32) -> int:
    """The n of a triangle with n (n + 1) / 2 entries."""
    return (math.isqrt(8 * triangle.size + 1) - 1) // 2


def singular_vectors(matrix: Csr, rank: int, seed: int, rounds: int = 8) -> Float32:
    """The leading right singular vectors by randomised subspace iteration (Halko, Martinsson & Tropp 2011, alg. 4.4).

    Args:
        matrix: [n, m].
        rank: number of vectors.
        seed: of the Gaussian start.
        rounds: power iterations, each after an orthonormalisation.

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

    The Cholesky factor of the Gram matrix is ten times as fast as Householder's QR on a tall matrix. Its error grows
    with the squared condition number, so an ill-conditioned basis is left to Householder's.
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
    row = rows.rows()
    length = np.sqrt(np.bincount(row, weights=rows.data.astype(np.float64) ** 2, minlength=rows.n_rows))
    return Csr(rows.indptr, rows.indices, (rows.data / length[row]).astype(np.float32), rows.n_cols)


def rows_times_dense(rows: Csr, dense: Float32) -> Float32:
    """``rows @ dense``, float32 [n_rows, dense.shape[1]]; both kernels give the same bits."""
    n, d = dense.shape
    out: Float32 = np.empty((rows.n_rows, d), np.float32)
    if d >= TILES * WIDTH and rows.nnz >= REUSE * n and rows.nnz * d >= MANY:
        tiles = np.empty((numba.get_num_threads(), TILES, n, WIDTH), np.float32)
        none = np.empty(0, np.float32)
        _rows_times_tiles(*rows.arrays, dense, out, tiles, none)
    else:
        _rows_times_dense(*rows.arrays, dense, out)
    return out


def spd_inverse(a: Float32) -> Float32:
    """The inverse of a symmetric positive definite float32 matrix by Cholesky.

    Args:
        a: [n, n], C-ordered; only the upper triangle is read, the matrix is overwritten.

    Raises:
        InputError: the matrix is not positive definite (the ridge penalty is too small).
    """
    inverse = _inverse_triangle(a)
    _mirror(inverse, BLOCK)
    return inverse


def regression_weights(a: Float32) -> tuple[Float32, Float32]:
    """Every column of a Gram matrix regressed on the others: ``B_ij = −P_ij / P_jj``, ``B_jj = 0`` for ``P = a⁻¹``.

    Args:
        a: as for ``spd_inverse``.

    Returns:
        B, float32 [n, n], in the memory of ``a`` up to LAPACK_LIMIT; diag(P), float32 [n].

    Raises:
        InputError: as for ``spd_inverse``.
    """
    return _weights_of(_inverse_triangle(a))


def downdated_weights(b: Float32, diagonal: Float32, rows: Csr) -> tuple[Float32, Float32] | None:
    """``regression_weights`` of ``G − rowsᵀ rows`` from those of G, by Woodbury's identity.

    With ``P = G⁻¹`` and ``M = I − rows P rowsᵀ`` the inverse is ``P + (rows P)ᵀ M⁻¹ (rows P)``: k² n + k n²
    operations instead of n³.

    Args:
        b: weights of G, float32 [n, n]; not changed.
        diagonal: diag(P), float32 [n].
        rows: [k, n].

    Returns:
        As ``regression_weights``; None where M is too near singular for float32.
    """
    from scipy.linalg import blas, eigh, lapack

    image = rows_times_dense(rows, b)  # rows P = (rows − rows B) diag(P)
    np.negative(image, out=image)
    image[rows.rows(), rows.indices] += rows.data
    image *= diagonal
    inner = rows_times_dense(rows, np.ascontiguousarray(image.T)).astype(np.float64)
    m = np.eye(rows.n_rows) - inner
    if rows.n_rows and eigh(m, eigvals_only=True, subset_by_index=(0, 0))[0] < LEAST_LEFT:
        return None
    factor, _ = lapack.dpotrf(m, lower=1, clean=1)
    p = np.empty_like(b)
    _inverse_of(b, diagonal, p)
    if rows.n_rows:
        half = blas.strsm(1.0, factor.astype(np.float32), image.T, side=1, lower=1, trans_a=1, overwrite_b=1)
        p = blas.ssyrk(1.0, half, beta=1.0, c=p.T, lower=1, overwrite_c=1).T
    return _weights_of(p)


def inverse_bytes(n: int) -> int:
    """Peak memory of ``spd_inverse`` and ``regression_weights`` of an [n, n] matrix, the matrix included.

    Up to LAPACK_LIMIT they work in place. Above, torch allocates the factor and the inverse.
    """
    return 4 * n * n * (1 if n <= LAPACK_LIMIT else 3)


def _weights_of(p: Float32) -> tuple[Float32, Float32]:
    """Weights in the memory of an inverse whose upper triangle is set, and the inverse's diagonal."""
    diagonal: Float32 = p.diagonal().copy()
    _weights(p, diagonal, BLOCK)
    return p, diagonal


def _inverse_triangle(a: Float32) -> Float32:
    """The inverse's upper triangle; the lower one is undefined."""
    n = a.shape[0]
    if n <= LAPACK_LIMIT:
        from scipy.linalg import lapack

        # the transpose of a C-ordered symmetric matrix is the same matrix in LAPACK's order, without a copy
        factor, info = lapack.spotrf(a.T, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            inverse, info = lapack.spotri(factor, lower=1, overwrite_c=1)
        if info == 0:
            result: Float32 = inverse.T
            return result
        failed = f"pivot {info} of {n}"
    else:
        factor_, info_ = torch.linalg.cholesky_ex(torch.from_numpy(a).T)
        if int(info_) == 0:
            # the result is in LAPACK's order; transposed, it is in C order
            return torch.cholesky_inverse(factor_).T.contiguous().numpy()
        failed = f"pivot {int(info_)} of {n}"
    raise InputError(
        "matrix is not positive definite",
        where="closed-form solution",
        expected="a ridge penalty l2 large enough for float32",
        found=f"Cholesky failed at {failed}",
    )
