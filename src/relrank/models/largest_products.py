"""The largest entries per row of a sparse product, in memory that does not grow with rows × columns."""

from __future__ import annotations

import numba
import numpy as np

from relrank.csr import Csr, Float32, Float64, Int32

# What is found for a piece of the rows takes at most this many bytes before it is made compact.
PIECE_BYTES = 64 << 20


@numba.njit(parallel=True, nogil=True, cache=True)
def _largest(first, indptr, indices, data, o_indptr, o_indices, o_data, norms, shrinkage, scratch, touched, heaps, out, values, found):  # type: ignore[no-untyped-def] # fmt: skip # noqa: E501
    """The rows from ``first`` on; a strand of rows has one dense row of sums, cleared where it was touched."""
    strands, k = heaps.shape
    for s in numba.prange(strands):
        sums, columns, heap = scratch[s], touched[s], heaps[s]
        for at in range(s, found.size, strands):
            i, count = first + at, 0
            for e in range(indptr[i], indptr[i + 1]):
                v = data[e]
                t = indices[e]
                for f in range(o_indptr[t], o_indptr[t + 1]):
                    j = o_indices[f]
                    if sums[j] == 0:
                        columns[count] = j
                        count += 1
                    sums[j] += v * o_data[f]
            size = 0
            for c in range(count):
                j = columns[c]
                if j == i:
                    continue
                if norms.size:
                    sums[j] /= np.float32(np.sqrt(norms[i] * norms[j])) + shrinkage
                if not sums[j] > 0:
                    continue
                if size < k:
                    place, size = size, size + 1
                    while place:  # up, past parents that are larger or as large and earlier
                        parent = (place - 1) >> 1
                        p = heap[parent]
                        if sums[p] < sums[j] or (sums[p] == sums[j] and p > j):
                            break
                        heap[place] = p
                        place = parent
                    heap[place] = j
                    continue
                r = heap[0]
                if sums[j] < sums[r] or (sums[j] == sums[r] and j > r):
                    continue
                place = 0
                while 2 * place + 1 < k:  # down, past children that are smaller or as large and later
                    child = 2 * place + 1
                    a = heap[child]
                    if child + 1 < k:
                        b = heap[child + 1]
                        if sums[b] < sums[a] or (sums[b] == sums[a] and b > a):
                            child, a = child + 1, b
                    if sums[j] < sums[a] or (sums[j] == sums[a] and j > a):
                        break
                    heap[place] = a
                    place = child
                heap[place] = j
            kept = np.sort(heap[:size])
            for c in range(size):
                out[at, c], values[at, c] = kept[c], sums[kept[c]]
            found[at] = size
            for c in range(count):
                sums[columns[c]] = 0


@numba.njit(nogil=True, cache=True)
def _compact(out, values, found, indices, data):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(found.size):
        for c in range(found[i]):
            indices[at], data[at] = out[i, c], values[i, c]
            at += 1


def largest_products(left: Csr, right: Csr, k: int, norms: Float64 | None = None, shrinkage: float = 0.0) -> Csr:
    """The k largest positive entries of every row of ``left @ right``, without its diagonal.

    Sums are float32, in the order of a row's entries, and the same on any number of threads; of equal entries the
    first columns stay. Memory: the result, two arrays of a row's length per thread, and ``PIECE_BYTES``.

    Args:
        left: [n, m], values above 0.
        right: [m, n], values above 0.
        k: entries kept per row, at most.
        norms: float64 [n]; then entry (i, j) is divided by ``√(norms_i norms_j) + shrinkage`` before.
        shrinkage: of the divisor.

    Returns:
        [n, n].
    """
    n = left.n_rows
    k = max(0, min(k, n - 1))
    strands, piece = numba.get_num_threads(), max(1, PIECE_BYTES // (8 * max(k, 1)))
    scratch = np.zeros((strands, n), np.float32)
    touched, heaps = np.empty((strands, n), np.int32), np.empty((strands, k), np.int32)
    parts: list[tuple[Int32, Float32]] = []
    counts = np.zeros(n + 1, np.int64)
    for first in range(0, n if k else 0, piece):
        found = counts[1 + first : 1 + min(n, first + piece)]
        out, values = np.empty((found.size, k), np.int32), np.empty((found.size, k), np.float32)
        _largest(
            first, left.indptr, left.indices, left.data, right.indptr, right.indices, right.data,
            np.empty(0) if norms is None else norms, np.float32(shrinkage),
            scratch, touched, heaps, out, values, found,
        )  # fmt: skip
        size = int(found.sum())
        parts.append((np.empty(size, np.int32), np.empty(size, np.float32)))
        _compact(out, values, found, *parts[-1])
    indptr = np.cumsum(counts)
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    at = 0
    for p, (columns, entries) in enumerate(parts):
        indices[at : at + columns.size], data[at : at + columns.size] = columns, entries
        at += columns.size
        parts[p] = (columns[:0].copy(), entries[:0].copy())  # its memory is free before the next one is copied
    return Csr(indptr, indices, data, n)
