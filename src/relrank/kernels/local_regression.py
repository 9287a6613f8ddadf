"""Ridge regressions of every column of a matrix on a few of its other columns: selection, Gram blocks, Cholesky.

For target column j with neighbours N the weights are ``(G_NN + λ I)⁻¹ G_Nj`` with ``G = Zᵀ Z``. Blocks of G come
from a dense G if that is small, else from the columns of Z, and G is never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.dense_solve import regression_weights
from relrank.kernels.jit import njit

LANES = 8
"""Rows of a block are padded to a multiple of so many numbers."""
PIVOTS = 4
"""Rows that one sweep of the factorisation subtracts from the rest."""
PIECE = 1024
"""Columns whose cosines are compared with one threshold; a multiple of 8."""
SUM_BYTES = 4 << 20
"""Matrices are added up in pieces of this size, which fit into the cache."""
SAMPLE = 8
"""Without a guess, a threshold is estimated from every so many-th column."""
ALMOST = np.float32(1 - 1e-6)
"""A product and a quotient round differently: candidates just below the threshold are checked exactly."""
LEAST_PIVOT = np.float32(1e-6)
"""A neighbour whose pivot is below this share of its diagonal gets weight 0: it is collinear with the others."""


@dataclass(frozen=True, slots=True, eq=False)
class EqualityMatrix:
    """An implicit matrix [n, n]: 1 where two items have the same value, 0 elsewhere.

    Attributes:
        values: int32 [n], the value of each item, from 0; below 0 for items without one.
    """

    values: Int32


Square = Float32 | Csr | EqualityMatrix
"""A symmetric matrix, [n, n]."""


# Indices are unsigned: numba checks signed ones, and then no loop is vectorised.
@njit(nogil=True, fastmath={"contract"})
def _take_off(a, start, stop, k, end):  # type: ignore[no-untyped-def]
    """Subtract the factored rows ``start`` … ``stop`` from the rows below, in groups of ``LANES`` columns."""
    one, lanes = np.uintp(1), np.uintp(LANES)
    i = stop
    while i < k:
        first = i - i % lanes
        if stop - start == np.uintp(PIVOTS):
            r1, r2, r3 = start + one, start + np.uintp(2), start + np.uintp(3)
            s0, s1, s2, s3 = a[start, i], a[r1, i], a[r2, i], a[r3, i]
            for q in range(first, end):
                a[i, q] -= s0 * a[start, q] + s1 * a[r1, q] + s2 * a[r2, q] + s3 * a[r3, q]
        else:
            for r in range(start, stop):
                scale = a[r, i]
                for q in range(first, end):
                    a[i, q] -= scale * a[r, q]
        i += one


@njit(nogil=True, fastmath={"contract", "reassoc"})
def solve_block(a, size, weights):  # type: ignore[no-untyped-def]
    """Solve ``A w = b`` by Cholesky for one symmetric positive definite block.

    Args:
        a: float32 [≥ size, stride], overwritten. Row p holds A's row p from the diagonal on, then b_p in column
            ``size``; entries left of the diagonal and right of b are ignored, but must be finite.
        size: of the block.
        weights: float32 [≥ size], written.
    """
    k, one, zero = np.uintp(size), np.uintp(1), np.uintp(0)
    end = (k // np.uintp(LANES) + one) * np.uintp(LANES)
    for p in range(k):
        weights[p] = a[p, p]
    start = zero
    while start < k:
        stop = min(start + np.uintp(PIVOTS), k)
        for p in range(start, stop):
            for r in range(start, p):
                scale = a[r, p]
                for q in range(p, end):
                    a[p, q] -= scale * a[r, q]
            scale = np.float32(0)
            if a[p, p] > LEAST_PIVOT * weights[p]:
                scale = np.float32(1) / np.sqrt(a[p, p])
            for q in range(p, end):
                a[p, q] *= scale
        _take_off(a, start, stop, k, end)
        start = stop
    back = k
    while back > zero:
        back -= one
        total = np.float32(0)
        for q in range(back + one, k):
            total += a[back, q] * weights[q]
        weights[back] = (a[back, k] - total) / a[back, back] if a[back, back] > 0 else np.float32(0)


@njit(nogil=True)
def _offer(similarity, column, similarities, columns, count):  # type: ignore[no-untyped-def]
    """Insert a neighbour into a heap of the k nearest, the farthest at its root; ties go to lower columns."""
    k = columns.size
    if count < k:
        at = count
        while at > 0:
            above = (at - 1) // 2
            if similarities[above] < similarity or (similarities[above] == similarity and columns[above] > column):
                break
            similarities[at], columns[at] = similarities[above], columns[above]
            at = above
        similarities[at], columns[at] = similarity, column
        return count + 1
    if similarity < similarities[0] or (similarity == similarities[0] and column > columns[0]):
        return count
    at = 0
    while True:
        below = 2 * at + 1
        if below >= k:
            break
        if below + 1 < k and (
            similarities[below + 1] < similarities[below]
            or (similarities[below + 1] == similarities[below] and columns[below + 1] > columns[below])
        ):
            below += 1
        if similarity < similarities[below] or (similarity == similarities[below] and column > columns[below]):
            break
        similarities[at], columns[at] = similarities[below], columns[below]
        at = below
    similarities[at], columns[at] = similarity, column
    return count


@njit(nogil=True, fastmath={"contract"})
def _mark(row, norms, own, shrinkage, least, marks):  # type: ignore[no-untyped-def]
    """Whether shrunk cosines reach ``least``, without a division for each."""
    for i in range(row.size):
        marks[i] = row[i] > least * (norms[i] * own + shrinkage)


@njit(nogil=True)
def _likely(row, j, norms, own, shrinkage, similarities, nearest):  # type: ignore[no-untyped-def]
    """A bound that the k-th nearest column most likely exceeds, from a sample of columns; 0 if there are too few."""
    k = nearest.size
    if row.size < 2 * SAMPLE * k:
        return np.float32(0)
    mean = k / SAMPLE
    rank = min(int(mean + 3 * np.sqrt(mean) + 2), k)  # three standard errors beyond the one expected
    count = 0
    for i in range(j % SAMPLE, row.size, SAMPLE):
        if row[i] > 0 and i != j:
            count = _offer(row[i] / (norms[i] * own + shrinkage), i, similarities[:rank], nearest[:rank], count)
    return similarities[0] if count == rank else np.float32(0)


@njit(nogil=True)
def _nearest_of_row(row, j, norms, shrinkage, similarities, nearest, guess, marks):  # type: ignore[no-untyped-def]
    """Neighbours of column j from its row of G; ``similarities`` [k] and ``marks`` [PIECE] are scratch.

    At least k columns are as near as the farthest of a full ``guess``, so farther columns are skipped.
    """
    least, k, own = np.float32(0), nearest.size, norms[j]
    if guess.size == k:
        least = np.float32(np.inf)
        for i in guess:
            similarity = np.float32(0)
            if i >= 0 and i != j and row[i] > 0:
                similarity = row[i] / (norms[i] * own + shrinkage)
            least = min(least, similarity)
    else:
        likely = _likely(row, j, norms, own, shrinkage, similarities, nearest)
        if likely > 0 and _above(row, j, norms, shrinkage, similarities, nearest, likely, marks) == k:
            nearest.sort()
            return
    count = _above(row, j, norms, shrinkage, similarities, nearest, least, marks)
    nearest[:count].sort()
    nearest[count:] = -1


@njit(nogil=True)
def _above(row, j, norms, shrinkage, similarities, nearest, least, marks):  # type: ignore[no-untyped-def]
    """The nearest columns with cosines of ``least`` or more, as a heap; returns how many there are."""
    count, k, own, words = 0, nearest.size, norms[j], marks.view(np.uint64)
    least *= ALMOST
    for start in range(0, row.size, PIECE):
        values, of_values = row[start : start + PIECE], norms[start : start + PIECE]
        if values.size < PIECE:
            marks[:] = 0
        _mark(values, of_values, own, shrinkage, least * ALMOST, marks)
        for word in range((values.size + 7) >> 3):
            if words[word] == 0:
                continue
            for i in range(8 * word, min(8 * word + 8, values.size)):
                if marks[i] and start + i != j:
                    similarity = values[i] / (of_values[i] * own + shrinkage)
                    if similarity >= least:
                        count = _offer(similarity, start + i, similarities, nearest, count)
                        if count == k:
                            least = similarities[0]
    return count


@njit(parallel=True, nogil=True)
def _nearest_dense(g, norms, shrinkage, targets, neighbours, guess, strands):  # type: ignore[no-untyped-def]
    k = neighbours.shape[1]
    for s in numba.prange(strands):
        similarities, marks = np.empty(k, np.float32), np.empty(PIECE, np.uint8)
        for t in range(s, targets.size, strands):
            j = targets[t]
            _nearest_of_row(g[j], j, norms, shrinkage, similarities, neighbours[t], guess[t], marks)


@njit(nogil=True, fastmath={"contract"})
def _add_scaled(into, row, factor):  # type: ignore[no-untyped-def]
    for i in range(into.size):
        into[i] += factor * row[i]


@njit(parallel=True, nogil=True)
def _add_dense(out, other, factor, first, strands):  # type: ignore[no-untyped-def]
    for s in numba.prange(strands):
        for j in range(s, other.shape[0], strands):
            if first:
                into, row = out[j], other[j]
                for i in range(row.size):  # an assignment of slices would also compile a shape error
                    into[i] = row[i]
            else:
                _add_scaled(out[j, : other.shape[1]], other[j], factor)


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _add_sparse(out, indptr, indices, data, factor, strands):  # type: ignore[no-untyped-def]
    for s in numba.prange(strands):
        for j in range(s, indptr.size - 1, strands):
            for e in range(indptr[j], indptr[j + 1]):
                out[j, indices[e]] += factor * data[e]


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _nearest_sparse(  # type: ignore[no-untyped-def]
    c_indptr, c_rows, c_data, r_indptr, r_columns, r_data, norms, shrinkage, most, targets, neighbours, strands
):
    k, n = neighbours.shape[1], norms.size
    for s in numba.prange(strands):
        similarities, sums = np.empty(k, np.float32), np.zeros(n, np.float32)
        reached = np.empty(n, np.int32)
        for t in range(s, targets.size, strands):
            j, n_reached, count = targets[t], 0, 0
            for e in range(c_indptr[j], c_indptr[j + 1]):
                row, value = c_rows[e], c_data[e]
                first, last = r_indptr[row], r_indptr[row + 1]
                if last - first > most:
                    continue
                for f in range(first, last):
                    i = r_columns[f]
                    if sums[i] == 0:
                        reached[n_reached] = i
                        n_reached += 1
                    sums[i] += value * r_data[f]
            nearest = neighbours[t]
            for p in range(n_reached):
                i = reached[p]
                if i != j and sums[i] > 0:  # values of 0 may list a column twice, with a sum of 0
                    count = _offer(sums[i] / (norms[i] * norms[j] + shrinkage), i, similarities, nearest, count)
                sums[i] = 0
            nearest[:count].sort()
            nearest[count:] = -1


@njit(parallel=True, nogil=True)
def _solve_dense(g, l2, targets, neighbours, weights, order, strands):  # type: ignore[no-untyped-def]
    k_most = neighbours.shape[1]
    stride = (k_most // LANES + 1) * LANES
    for s in numba.prange(strands):
        a, w = np.zeros((k_most, stride), np.float32), np.empty(k_most, np.float32)
        columns = np.empty(k_most + 1, np.uintp)  # of the neighbours, then of the target
        for place in range(s * order.size // strands, (s + 1) * order.size // strands):
            t = order[place]
            near, k = neighbours[t], 0
            while k < k_most and near[k] >= 0:
                columns[k] = near[k]
                k += 1
            columns[k] = targets[t]
            size = np.uintp(k)
            for p in range(size):
                row = g[columns[p]]
                a[p] = 0
                for q in range(p, size + np.uintp(1)):
                    a[p, q] = row[columns[q]]
                a[p, p] += l2
            solve_block(a, k, w)
            for entry in range(k):
                weights[t, entry] = w[entry]


@njit(parallel=True, nogil=True, fastmath={"contract"})
def _solve_sparse(  # type: ignore[no-untyped-def]
    c_indptr, c_rows, c_data, n_rows, l2, targets, neighbours, weights, strands
):
    k_most = neighbours.shape[1]
    stride = (k_most // LANES + 1) * LANES
    for s in numba.prange(strands):
        a, w = np.zeros((k_most, stride), np.float32), np.empty(k_most, np.float32)
        # the neighbours of each row of Z so far, as linked lists
        head, of_target = np.full(n_rows, -1, np.int32), np.zeros(n_rows, np.float32)
        following, who, values = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.float32)
        for t in range(s, targets.size, strands):
            near, j, k, total = neighbours[t], targets[t], 0, 0
            while k < k_most and near[k] >= 0:
                total += c_indptr[near[k] + 1] - c_indptr[near[k]]
                k += 1
            if total > who.size:
                following, who = np.empty(2 * total, np.int32), np.empty(2 * total, np.int32)
                values = np.empty(2 * total, np.float32)
            for e in range(c_indptr[j], c_indptr[j + 1]):
                of_target[c_rows[e]] = c_data[e]
            n_links = 0
            a[:k] = 0
            # from the last neighbour to the first, so that linked neighbours are right of the diagonal
            for p in range(k - 1, -1, -1):
                row_of_block, right, own = a[p], np.float32(0), np.float32(0)
                for e in range(c_indptr[near[p]], c_indptr[near[p] + 1]):
                    row, value = c_rows[e], c_data[e]
                    right += value * of_target[row]
                    own += value * value
                    link = head[row]
                    following[n_links], who[n_links], values[n_links] = link, p, value
                    head[row] = n_links
                    n_links += 1
                    while link >= 0:
                        row_of_block[who[link]] += value * values[link]
                        link = following[link]
                row_of_block[p] = own + l2
                row_of_block[k] = right
            for e in range(c_indptr[j], c_indptr[j + 1]):
                of_target[c_rows[e]] = 0
            for p in range(k):
                for e in range(c_indptr[near[p]], c_indptr[near[p] + 1]):
                    head[c_rows[e]] = -1
            solve_block(a, k, w)
            for entry in range(k):
                weights[t, entry] = w[entry]


@njit(parallel=True, nogil=True)
def _add_same(out, own, values, factor, strands):  # type: ignore[no-untyped-def]
    for s in numba.prange(strands):
        for j in range(s, own.size, strands):
            value, row = own[j], out[j, : values.size]
            if value >= 0:
                for i in range(row.size):
                    row[i] += factor if values[i] == value else np.float32(0)


def _strands() -> int:
    """Number of pieces of work, one per thread, each with its own scratch memory."""
    return int(numba.get_num_threads())


def symmetric_sum(first: Float32, others: Sequence[tuple[Square, float]], memory: Float32 | None = None) -> Float32:
    """``F + Σ factor · O`` of symmetric matrices.

    Args:
        first: F, float32 [n, n].
        others: each O, [m, m], and its factor; if m < n it is added to the upper left corner.
        memory: float32 [n, n] to write into; fresh memory costs as much time as the sum.
    """
    out: Float32 = np.empty_like(first) if memory is None else memory
    rows = max(SUM_BYTES // (4 * len(first)), 1)
    for start in range(0, len(first), rows):
        stop = min(start + rows, len(first))
        part = out[start:stop]  # stays in the cache while all are added
        _add_dense(part, first[start:stop], np.float32(1), True, _strands())
        for other, factor in others:
            if isinstance(other, EqualityMatrix):
                _add_same(part, other.values[start:stop], other.values, np.float32(factor), _strands())
            elif not isinstance(other, Csr):
                _add_dense(part, other[start:stop], np.float32(factor), False, _strands())
            elif start < other.n_rows:
                indptr = other.indptr[start : min(stop, other.n_rows) + 1]
                _add_sparse(part, indptr, other.indices, other.data, np.float32(factor), _strands())
    return out


def add_rows(out: Float32, rows: Float32, factor: float) -> None:
    """Add ``factor`` times some rows to the first columns of ``out``, with the rounding of ``symmetric_sum``."""
    _add_dense(out, rows, np.float32(factor), False, _strands())


def topk_cosine_dense(g: Float32, k: int, shrinkage: float, targets: Int64, guess: Int32 | None = None) -> Int32:
    """The k columns nearest to each target by shrunk cosine ``g_ij / (√(g_ii g_jj) + s)``, if above 0.

    Args:
        g: Gram matrix, float32 [n, n], both triangles.
        k: number of neighbours.
        shrinkage: s.
        targets: columns, int64 [n_targets].
        guess: columns that may be near, such as the result for these targets and another matrix. It changes the speed
            only.

    Returns:
        int32 [n_targets, k], ascending; −1 after the last one.
    """
    norms = np.sqrt(np.maximum(g.diagonal(), 0)).astype(np.float32)
    neighbours: Int32 = np.empty((targets.size, k), np.int32)
    if guess is None or len(guess) != targets.size or guess.max(initial=-1) >= len(g):
        guess = np.empty((targets.size, 0), np.int32)
    _nearest_dense(g, norms, np.float32(shrinkage), targets, neighbours, guess, _strands())
    return neighbours


def lengths(columns: Csr) -> Float32:
    """Euclidean lengths of Z's columns, given Z by columns, float32 [n]: the square roots of G's diagonal."""
    squares = np.bincount(columns.rows(), weights=columns.data.astype(np.float64) ** 2, minlength=columns.n_rows)
    result: Float32 = np.sqrt(squares).astype(np.float32)
    return result


def topk_cosine_sparse(
    columns: Csr, rows: Csr, k: int, shrinkage: float, targets: Int64, most: int, norms: Float32 | None = None
) -> Int32:
    """``topk_cosine_dense`` from Z itself.

    Args:
        columns: Z by columns, [n, n_rows].
        rows: Z by rows, [n_rows, n].
        k: number of neighbours.
        shrinkage: s.
        targets: columns, int64 [n_targets].
        most: rows with more entries are skipped: they say little, and cost the square of their entries.
        norms: ``lengths(columns)``, computed if None.

    Returns:
        As ``topk_cosine_dense``.
    """
    norms = lengths(columns) if norms is None else norms
    neighbours: Int32 = np.empty((targets.size, k), np.int32)
    matrices = *columns.arrays, *rows.arrays
    _nearest_sparse(*matrices, norms, np.float32(shrinkage), most, targets, neighbours, _strands())
    return neighbours


def weights_dense(g: Float32, l2: float, targets: Int64, neighbours: Int32) -> Float32:
    """Ridge weights of the neighbours of each target.

    Args:
        g: as for ``topk_cosine_dense``.
        l2: ridge penalty λ, above 0.
        targets: columns, int64 [n_targets].
        neighbours: as ``topk_cosine_dense`` returns them.

    Returns:
        float32 [n_targets, k]; 0 where the neighbour is −1.
    """
    weights: Float32 = np.zeros(neighbours.shape, np.float32)
    order = np.argsort(neighbours[:, 0], kind="stable")  # neighbouring targets share rows in the cache
    _solve_dense(g, np.float32(l2), targets, neighbours, weights, order, _strands())
    return weights


def weights_sparse(columns: Csr, l2: float, targets: Int64, neighbours: Int32) -> Float32:
    """``weights_dense`` from Z by columns, [n, n_rows]."""
    weights: Float32 = np.zeros(neighbours.shape, np.float32)
    _solve_sparse(*columns.arrays, columns.n_cols, np.float32(l2), targets, neighbours, weights, _strands())
    return weights


def weights_of_all(g: Float32, l2: float, targets: Int64) -> tuple[Int32, Float32]:
    """Each target regressed on all other columns, by one inverse instead of a factorisation per target.

    Args:
        g: as for ``topk_cosine_dense``.
        l2: ridge penalty λ, above 0.
        targets: columns, int64 [n_targets].

    Returns:
        int32 and float32 [n_targets, n − 1]: all other columns, ascending, and their weights.
    """
    a = g.copy()
    a[np.diag_indices_from(a)] += np.float32(l2)
    weights = regression_weights(a)[0].T[targets]
    others = np.arange(len(g)) != targets[:, None]
    shape = targets.size, len(g) - 1
    return np.nonzero(others)[1].astype(np.int32).reshape(shape), weights[others].reshape(shape)


def by_input(neighbours: Int32, weights: Float32, targets: Int64, shape: tuple[int, int]) -> Csr:
    """Weights of targets as a sparse matrix, inputs by targets' columns; weights of 0 are stored too.

    Args:
        neighbours: int32 [n_targets, k], ascending, −1 after the last one.
        weights: float32 [n_targets, k].
        targets: ascending columns of the result, int64 [n_targets].
        shape: of the result.
    """
    present: npt.NDArray[np.bool_] = neighbours >= 0
    counts = np.zeros(shape[1], np.int64)
    counts[targets] = present.sum(1)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Csr(indptr, neighbours[present], weights[present], shape[0]).transpose()
