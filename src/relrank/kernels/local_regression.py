"""Ridge regressions of every column of a matrix on a few of its other columns: selection, Gram blocks, Cholesky.

For target column j with neighbours N the weights are ``(G_NN + λ I)⁻¹ G_Nj`` with ``G = Zᵀ Z``. Blocks of G come
from a dense G where it is small, else straight from the columns of Z, so that G is never made. Arrays in, arrays out.
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
"""Rows of a block are aligned to so many numbers, and loops run over whole groups of them."""
PIVOTS = 4
"""Rows that one sweep of the factorisation takes off the rest."""
PIECE = 1024
"""Columns whose nearness is looked at with one threshold; a multiple of 8."""
SUM_BYTES = 4 << 20
"""Matrices are added up in pieces of this size, which stay in the cache."""
SAMPLE = 8
"""Every so many-th column says from where on columns may be among the nearest, where nothing else does."""
ALMOST = np.float32(1 - 1e-6)
"""A product and a quotient round differently; what may be near enough is looked at again."""
LEAST_PIVOT = np.float32(1e-6)
"""A neighbour is left out where less than this share of its diagonal remains: the others say all that it says."""


@dataclass(frozen=True, slots=True, eq=False)
class EqualityMatrix:
    """A matrix that is 1 where two items have the same value and 0 elsewhere, without its n² numbers.

    Attributes:
        values: int32 [n], the value of each item, from 0; below 0 for none.
    """

    values: Int32


Square = Float32 | Csr | EqualityMatrix
"""A symmetric matrix, [n, n]."""


# Indices are unsigned: numba guards against negative ones otherwise, and then no loop is vectorised.
@njit(nogil=True, fastmath={"contract"})
def _take_off(a, start, stop, k, end):  # type: ignore[no-untyped-def]
    """Take the factored rows ``start`` … ``stop`` off the rows below them, in whole groups of columns."""
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
        a: float32 [≥ size, stride], overwritten. Row p holds A's row p from the diagonal on and b_p in the column
            behind its last; what stands left of the diagonal and right of b is ignored, but must be finite.
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
    """Put a neighbour into a heap whose root is the least; equal ones are kept by their lower column."""
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
def _likely(row, j, norms, own, shrinkage, similarities, found):  # type: ignore[no-untyped-def]
    """What the k-th nearest column most likely exceeds, from a sample of columns; 0 where that says nothing."""
    k = found.size
    if row.size < 2 * SAMPLE * k:
        return np.float32(0)
    mean = k / SAMPLE
    rank = min(int(mean + 3 * np.sqrt(mean) + 2), k)  # three standard errors beyond the one expected
    count = 0
    for i in range(j % SAMPLE, row.size, SAMPLE):
        if row[i] > 0 and i != j:
            count = _offer(row[i] / (norms[i] * own + shrinkage), i, similarities[:rank], found[:rank], count)
    return similarities[0] if count == rank else np.float32(0)


@njit(nogil=True)
def _nearest_of_row(row, j, norms, shrinkage, similarities, found, guess, marks):  # type: ignore[no-untyped-def]
    """Neighbours of column j from its whole row of G; ``similarities`` [k] and ``marks`` [PIECE] are scratch.

    At least k columns are as near as the k-th of ``guess``, so whatever is not need not be looked at.
    """
    least, k, own = np.float32(0), found.size, norms[j]
    if guess.size == k:
        least = np.float32(np.inf)
        for i in guess:
            near = np.float32(0)
            if i >= 0 and i != j and row[i] > 0:
                near = row[i] / (norms[i] * own + shrinkage)
            least = min(least, near)
    else:
        likely = _likely(row, j, norms, own, shrinkage, similarities, found)
        if likely > 0 and _above(row, j, norms, shrinkage, similarities, found, likely, marks) == k:
            found.sort()
            return
    count = _above(row, j, norms, shrinkage, similarities, found, least, marks)
    found[:count].sort()
    found[count:] = -1


@njit(nogil=True)
def _above(row, j, norms, shrinkage, similarities, found, least, marks):  # type: ignore[no-untyped-def]
    """Those of the nearest columns whose cosines reach ``least``, in a heap; returns how many there are."""
    count, k, own, words = 0, found.size, norms[j], marks.view(np.uint64)
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
                        count = _offer(similarity, start + i, similarities, found, count)
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
                for i in range(row.size):  # of one shape; numba would compile a message in case they are not
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
            found = neighbours[t]
            for p in range(n_reached):
                i = reached[p]
                if i != j and sums[i] > 0:  # values of 0 reach a column without a product, perhaps twice
                    count = _offer(sums[i] / (norms[i] * norms[j] + shrinkage), i, similarities, found, count)
                sums[i] = 0
            found[:count].sort()
            found[count:] = -1


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
                following, who, values = (
                    np.empty(2 * total, np.int32),
                    np.empty(2 * total, np.int32),
                    np.empty(2 * total, np.float32),
                )
            for e in range(c_indptr[j], c_indptr[j + 1]):
                of_target[c_rows[e]] = c_data[e]
            n_links = 0
            a[:k] = 0
            # from the last neighbour to the first, so that what is linked already stands right of the diagonal
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
    """Pieces of work: one scratch memory each, taken by turns."""
    return int(numba.get_num_threads())


def symmetric_sum(first: Float32, others: Sequence[tuple[Square, float]], memory: Float32 | None = None) -> Float32:
    """``F + Σ factor · O`` of symmetric matrices.

    Args:
        first: F, float32 [n, n].
        others: each O, [m, m], and its factor; where m < n it is the upper left corner.
        memory: float32 [n, n] to write the sum into: fresh memory costs as much as the sum.
    """
    out: Float32 = np.empty_like(first) if memory is None else memory
    rows = max(SUM_BYTES // (4 * len(first)), 1)
    for start in range(0, len(first), rows):
        stop = min(start + rows, len(first))
        part = out[start:stop]  # stays in the cache while everything is added to it
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
    """Add ``factor`` times some rows of a matrix to the left of ``out``, rounded as ``symmetric_sum`` rounds."""
    _add_dense(out, rows, np.float32(factor), False, _strands())


def topk_cosine_dense(g: Float32, k: int, shrinkage: float, targets: Int64, guess: Int32 | None = None) -> Int32:
    """The k columns nearest to each target by shrunk cosine ``g_ij / (√(g_ii g_jj) + s)``, where that is above 0.

    Args:
        g: Gram matrix, float32 [n, n], both triangles.
        k: how many.
        shrinkage: s.
        targets: columns, int64 [n_targets].
        guess: columns that may be near, as this function returned them for these targets and another matrix: with
            k of them it is faster, whatever they are.

    Returns:
        int32 [n_targets, k], ascending; −1 behind the last one.
    """
    norms = np.sqrt(np.maximum(g.diagonal(), 0)).astype(np.float32)
    found: Int32 = np.empty((targets.size, k), np.int32)
    if guess is None or len(guess) != targets.size or guess.max(initial=-1) >= len(g):
        guess = np.empty((targets.size, 0), np.int32)
    _nearest_dense(g, norms, np.float32(shrinkage), targets, found, guess, _strands())
    return found


def lengths(columns: Csr) -> Float32:
    """Euclidean lengths of Z's columns, from Z by columns: the square roots of G's diagonal, float32 [n]."""
    squares = np.bincount(columns.rows(), weights=columns.data.astype(np.float64) ** 2, minlength=columns.n_rows)
    result: Float32 = np.sqrt(squares).astype(np.float32)
    return result


def topk_cosine_sparse(
    columns: Csr, rows: Csr, k: int, shrinkage: float, targets: Int64, most: int, norms: Float32 | None = None
) -> Int32:
    """The same from Z itself.

    Args:
        columns: Z by columns, [n, n_rows].
        rows: Z by rows, [n_rows, n].
        k: how many.
        shrinkage: s.
        targets: columns, int64 [n_targets].
        most: rows with more entries than this bring no columns near each other: they say little, and cost the
            square of their entries.
        norms: ``lengths(columns)``, where they are known.

    Returns:
        As ``topk_cosine_dense``.
    """
    norms = lengths(columns) if norms is None else norms
    found: Int32 = np.empty((targets.size, k), np.int32)
    arguments = (columns.indptr, columns.indices, columns.data, rows.indptr, rows.indices, rows.data)
    _nearest_sparse(*arguments, norms, np.float32(shrinkage), most, targets, found, _strands())
    return found


def weights_dense(g: Float32, l2: float, targets: Int64, neighbours: Int32) -> Float32:
    """Ridge weights of the neighbours of each target.

    Args:
        g: as for ``topk_cosine_dense``.
        l2: ridge penalty λ, above 0.
        targets: columns, int64 [n_targets].
        neighbours: as ``topk_cosine_dense`` returns them.

    Returns:
        float32 [n_targets, k]; 0 beside −1.
    """
    weights: Float32 = np.zeros(neighbours.shape, np.float32)
    order = np.argsort(neighbours[:, 0], kind="stable")  # what the cache holds of one target serves the next
    _solve_dense(g, np.float32(l2), targets, neighbours, weights, order, _strands())
    return weights


def weights_sparse(columns: Csr, l2: float, targets: Int64, neighbours: Int32) -> Float32:
    """The same from Z by columns, [n, n_rows]."""
    weights: Float32 = np.zeros(neighbours.shape, np.float32)
    _solve_sparse(
        columns.indptr,
        columns.indices,
        columns.data,
        columns.n_cols,
        np.float32(l2),
        targets,
        neighbours,
        weights,
        _strands(),
    )
    return weights


def weights_of_all(g: Float32, l2: float, targets: Int64) -> tuple[Int32, Float32]:
    """Each target regressed on all other columns: one inverse in place of a factorisation for each.

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
    """Weights of targets as a sparse matrix, inputs by targets' columns; neighbours of weight 0 are stored, too.

    Args:
        neighbours: int32 [n_targets, k], ascending, −1 behind the last one.
        weights: float32 [n_targets, k].
        targets: ascending columns of the result, int64 [n_targets].
        shape: of the result.
    """
    there: npt.NDArray[np.bool_] = neighbours >= 0
    counts = np.zeros(shape[1], np.int64)
    counts[targets] = there.sum(1)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Csr(indptr, neighbours[there], weights[there], shape[0]).transpose()
