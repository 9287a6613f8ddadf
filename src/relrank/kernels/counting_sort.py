"""Counting sort: table rows are small numbers, so sorting them takes linear time and four bytes each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relrank.kernels.jit import njit

Int32 = npt.NDArray[np.int32]
Order = npt.NDArray[np.int32 | np.int64]

_SPARSE = 16
"""Counting visits every possible key; with more than so many possible keys per pair, a comparison sort is faster."""


# inline: cached compiled code shares its environment with the compiled code that it calls, and a function that is
# also called from Python may then find that environment empty
@njit(inline="always", nogil=True)
def starts(keys, n):  # type: ignore[no-untyped-def]
    """Where each of the keys 0 … n − 1 starts once they are sorted, int64 [n + 1]."""
    result = np.zeros(n + 1, np.int64)
    for key in keys:
        result[key + 1] += 1
    for key in range(n):
        result[key + 1] += result[key]
    return result


@njit(nogil=True)
def ascending(rows, cols):  # type: ignore[no-untyped-def]
    """Whether pairs are sorted, duplicates allowed."""
    for e in range(1, rows.size):
        if rows[e] < rows[e - 1] or (rows[e] == rows[e - 1] and cols[e] < cols[e - 1]):
            return False
    return True


def repeated(rows: Int32, cols: Int32) -> npt.NDArray[np.bool_]:
    """Which of sorted pairs equal the one before them, bool [size]."""
    again = np.zeros(rows.size, np.bool_)
    np.equal(rows[1:], rows[:-1], out=again[1:])
    again[1:] &= cols[1:] == cols[:-1]
    return again


@njit(nogil=True)
def repeats(indptr, indices):  # type: ignore[no-untyped-def]
    """How many entries repeat a column of their row; columns ascend inside a row."""
    count = 0
    for row in range(indptr.size - 1):
        for e in range(indptr[row] + 1, indptr[row + 1]):
            count += indices[e] == indices[e - 1]
    return count


@njit(nogil=True)
def contains_pairs(indptr, indices, rows, cols):  # type: ignore[no-untyped-def]
    """Which pairs are entries of a CSR matrix, bool [size]; columns ascend inside a row."""
    result = np.zeros(rows.size, np.bool_)
    for e in range(rows.size):
        first, last = indptr[rows[e]], indptr[rows[e] + 1]
        at = first + np.searchsorted(indices[first:last], cols[e])
        result[e] = at < last and indices[at] == cols[e]
    return result


@njit(nogil=True)
def transpose_edges(indptr, indices, values, n_src):  # type: ignore[no-untyped-def]
    """Edges listed by destination, listed by source, in one counting pass: the transposed CSR matrix.

    Returns:
        int64 [n_src + 1], where each source's edges start; int32 [n_edges], their destinations, ascending for each
        source; [n_edges], their ``values``.
    """
    first = starts(indices, n_src)
    at = first[:-1].copy()
    rows, moved = np.empty(indices.size, np.int32), np.empty(indices.size, values.dtype)
    for i in range(indptr.size - 1):
        for e in range(indptr[i], indptr[i + 1]):
            to = at[indices[e]]
            rows[to], moved[to] = i, values[e]
            at[indices[e]] += 1
    return first, rows, moved


@njit(nogil=True)
def _first_order(keys, n, out):  # type: ignore[no-untyped-def]
    at = starts(keys, n)
    for i in range(keys.size):
        out[at[keys[i]]] = i
        at[keys[i]] += 1


@njit(nogil=True)
def _next_order(keys, n, order, out):  # type: ignore[no-untyped-def]
    at = starts(keys, n)
    for i in order:
        out[at[keys[i]]] = i
        at[keys[i]] += 1


def stable_argsort(keys: Int32, n: int, order: Order | None = None) -> Order:
    """The stable order of keys.

    Args:
        keys: [size], each 0 … n − 1.
        n: number of possible keys.
        order: order of equal keys, a permutation; their position if None.

    Returns:
        A permutation [size], int32 if that suffices.
    """
    kind: type[np.int32] | type[np.int64] = np.int32 if keys.size < 2**31 else np.int64
    out: Order = np.empty(keys.size, kind)
    if order is None:
        _first_order(keys, n, out)
    else:
        _next_order(keys, n, order, out)
    return out


def stable_argsort_pairs(rows: Int32, cols: Int32, shape: tuple[int, int]) -> Order:
    """The stable order of pairs by (row, column): ``np.lexsort((cols, rows))``.

    Args:
        rows: [size], each 0 … shape[0] − 1.
        cols: [size], each 0 … shape[1] − 1.
        shape: numbers of rows and columns.
    """
    if sum(shape) > _SPARSE * rows.size:
        return np.lexsort((cols, rows))
    return stable_argsort(rows, shape[0], stable_argsort(cols, shape[1]))
