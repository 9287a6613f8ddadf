"""The largest entries per row of a sparse product; memory does not grow with rows × columns."""

from __future__ import annotations

import numba
import numpy as np

from relrank.kernels.csr import Csr, Float32, Float64, Int32
from relrank.kernels.jit import njit

# Bytes of the result for a piece of the rows before it is made compact.
PIECE_BYTES = 64 << 20


# inline: see relrank.kernels.counting_sort
@njit(inline="always", nogil=True)
def _largest_first(keys, size, k):  # type: ignore[no-untyped-def]
    """Move the k largest of ``keys[:size]``, all different, to the front, in any order (Hoare's selection)."""
    low, high = 0, size - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        left, right = low, high
        while left <= right:
            while keys[left] > pivot:
                left += 1
            while keys[right] < pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                left += 1
                right -= 1
        if k - 1 <= right:
            high = right
        elif k - 1 >= left:
            low = left
        else:
            break


@njit(parallel=True, nogil=True)
def _largest(  # type: ignore[no-untyped-def]
    first,
    indptr,
    indices,
    data,
    o_indptr,
    o_indices,
    o_data,
    norms,
    shrinkage,
    scratch,
    bits,
    touched,
    keys,
    out,
    sizes,
):
    """Columns of the largest entries of rows from ``first`` on, into ``out[0]``, and their bits, into ``out[1]``.

    Each strand of rows has one dense row of sums, cleared where it was touched. The key of an entry is its bits,
    which order positive numbers, then its complemented column: keys differ, and the first of tied columns is largest.
    """
    strands, k, last = touched.shape[0], out.shape[2], np.uint64(2**32 - 1)
    for s in numba.prange(strands):
        sums, sum_bits, columns, key = scratch[s], bits[s], touched[s], keys[s]
        for at in range(s, sizes.size, strands):
            i, count = first + at, 0
            for e in range(indptr[i], indptr[i + 1]):
                v = data[e]
                t = indices[e]
                for f in range(o_indptr[t], o_indptr[t + 1]):
                    j = o_indices[f]
                    product = v * o_data[f]
                    columns[count] = j
                    # a product that underflows to 0 would be counted again and again, past the end of columns
                    count += (sums[j] == 0) & (product != 0)
                    sums[j] += product
            size = 0
            for c in range(count):
                j = columns[c]
                if norms.size:
                    sums[j] /= np.float32(np.sqrt(norms[i] * norms[j])) + shrinkage
                key[size] = np.uint64(sum_bits[j]) << np.uint64(32) | (last - np.uint64(j))
                size += j != i and sums[j] > 0
            if size > k:
                _largest_first(key, size, k)
                size = k
            for c in range(size):
                out[0, at, c] = last - (key[c] & last)
            row = out[0, at, :size]
            row.sort()
            for c in range(size):
                out[1, at, c] = sum_bits[row[c]]
            sizes[at] = size
            for c in range(count):
                sums[columns[c]] = 0


@njit(nogil=True)
def _compact(out, sizes, indices, bits):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(sizes.size):
        for c in range(sizes[i]):
            indices[at], bits[at] = out[0, i, c], out[1, i, c]
            at += 1


def topk_products(left: Csr, right: Csr, k: int, norms: Float64 | None = None, shrinkage: float = 0.0) -> Csr:
    """The k largest positive entries of every row of ``left @ right``, without its diagonal.

    Sums are float32, in the order of a row's entries, and the same on any number of threads; the first of tied
    columns are kept. Memory: the result, 16 bytes per column and thread, and ``PIECE_BYTES``.

    Args:
        left: [n, m], values above 0.
        right: [m, n], values above 0.
        k: entries per row, at most.
        norms: float64 [n]; if given, entry (i, j) is first divided by ``√(norms_i norms_j) + shrinkage``.
        shrinkage: added to the divisor.

    Returns:
        [n, n].
    """
    n = left.n_rows
    k = max(0, min(k, n - 1))
    strands, piece = numba.get_num_threads(), max(1, PIECE_BYTES // (8 * max(k, 1)))
    scratch = np.zeros((strands, n), np.float32)
    touched, keys = np.empty((strands, n + 1), np.int32), np.empty((strands, n + 1), np.uint64)
    parts: list[tuple[Int32, Float32]] = []
    counts, divisors = np.zeros(n + 1, np.int64), np.empty(0) if norms is None else norms
    for first in range(0, n if k else 0, piece):
        sizes = counts[1 + first : 1 + min(n, first + piece)]
        out = np.empty((2, sizes.size, k), np.uint32)
        memory = scratch, scratch.view(np.uint32), touched, keys, out, sizes
        _largest(first, *left.arrays, *right.arrays, divisors, np.float32(shrinkage), *memory)
        size = int(sizes.sum())
        parts.append((np.empty(size, np.int32), np.empty(size, np.float32)))
        _compact(out, sizes, parts[-1][0], parts[-1][1].view(np.uint32))
    indptr = np.cumsum(counts)
    indices, data = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    at = 0
    for p, (columns, entries) in enumerate(parts):
        indices[at : at + columns.size], data[at : at + columns.size] = columns, entries
        at += columns.size
        parts[p] = (columns[:0].copy(), entries[:0].copy())  # frees its memory before the next one is copied
    return Csr(indptr, indices, data, n)
