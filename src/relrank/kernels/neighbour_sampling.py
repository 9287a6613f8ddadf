"""Compiled kernels of the neighbour sampler, which run on all threads or on one."""

from __future__ import annotations

from typing import Protocol

import numba
import numpy as np

from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.hashing import hash64
from relrank.kernels.jit import njit

# A subset of c out of m by Floyd's algorithm costs c²/2 comparisons, by selection m hashes.
_COMPARISONS_PER_HASH = 8
# Below so many edges, one thread is faster than starting the others.
_WORTH_THREADS = 1 << 14


@njit(inline="always")
def _bits(state, draw):  # type: ignore[no-untyped-def]
    """64 random bits: number ``draw`` of SplitMix64 started at ``state``."""
    return hash64(state + draw * np.uint64(0x9E3779B97F4A7C15))


@njit(inline="always")
def _below(n, state, draw):  # type: ignore[no-untyped-def]
    """An exactly uniform integer of 0 … n − 1 (n < 2³²), and the number of the next draw."""
    bound = np.uint64(n)
    product = (_bits(state, draw) >> np.uint64(32)) * bound
    if (product & np.uint64(0xFFFFFFFF)) < bound:
        short = (np.uint64(1 << 32) - bound) % bound
        while (product & np.uint64(0xFFFFFFFF)) < short:
            draw += np.uint64(1)
            product = (_bits(state, draw) >> np.uint64(32)) * bound
    return np.int64(product >> np.uint64(32)), draw + np.uint64(1)


@njit(inline="always")
def _minus_log(state, draw):  # type: ignore[no-untyped-def]
    """A standard exponential number."""
    return -np.log(((_bits(state, draw) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53)


@njit(inline="always")
def _between(values, bottom, top):  # type: ignore[no-untyped-def]
    """Range of the ascending values with ``bottom`` ≤ value < ``top``; few are expected."""
    low, high = 0, values.size
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bottom:
            low = middle + 1
        else:
            high = middle
    begin, step = low, 1
    while low + step < values.size and values[low + step] < top:
        low += step
        step *= 2
    high = min(low + step, values.size)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < top:
            low = middle + 1
        else:
            high = middle
    return begin, low


@njit()
def _subset(m, state, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with distinct integers of 0 … m − 1, every subset equally likely; out.size ≤ m."""
    c = out.size
    draw = np.uint64(0)
    if c == m:
        for i in range(c):
            out[i] = i
    elif c * c <= _COMPARISONS_PER_HASH * m:
        for i in range(c):
            top = m - c + i
            chosen, draw = _below(top + 1, state, draw)
            for k in range(i):
                if out[k] == chosen:
                    chosen = top
                    break
            out[i] = chosen
    else:
        filled = 0
        for candidate in range(m):
            at, draw = _below(m - candidate, state, draw)
            if at < c - filled:
                out[filled] = candidate
                filled += 1
                if filled == c:
                    break


@njit()
def _weighted_subset(weights, skipped, first, state, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with the positions of the smallest ``−log(u)/w`` that are not skipped, by a heap."""
    c, n, jump = out.size, 0, 0
    keys = np.empty(c, np.float64)
    for i in range(weights.size):
        if jump < skipped.size and skipped[jump] == first + i:
            jump += 1
            continue
        key = _minus_log(state, np.uint64(i)) / weights[i]
        if n < c:
            at = n
            n += 1
            while at > 0 and keys[(at - 1) // 2] < key:
                keys[at], out[at] = keys[(at - 1) // 2], out[(at - 1) // 2]
                at = (at - 1) // 2
        elif key < keys[0]:
            at = 0
            while 2 * at + 1 < c:
                child = 2 * at + 1
                if child + 1 < c and keys[child + 1] > keys[child]:
                    child += 1
                if keys[child] <= key:
                    break
                keys[at], out[at] = keys[child], out[child]
                at = child
        else:
            continue
        keys[at], out[at] = key, i


@njit()
def _weighted_repeats(weights, skipped, first, state, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with positions drawn by weight with replacement, those skipped left out, in one sweep.

    Ascending uniform numbers are partial sums of exponential ones (Devroye 1986, V.3).
    """
    total = 0.0
    jump = 0
    for i in range(weights.size):
        if jump < skipped.size and skipped[jump] == first + i:
            jump += 1
        else:
            total += weights[i]
    span = 0.0
    for k in range(out.size + 1):
        span += _minus_log(state, np.uint64(k))
    k, jump, last = 0, 0, 0
    reached = 0.0
    target = _minus_log(state, np.uint64(0)) * total / span
    for i in range(weights.size):
        if jump < skipped.size and skipped[jump] == first + i:
            jump += 1
            continue
        reached += weights[i]
        last = i
        while k < out.size and target < reached:
            out[k] = i
            k += 1
            target += _minus_log(state, np.uint64(k)) * total / span
    for rest in range(k, out.size):  # reached only by rounding
        out[rest] = last


@njit()
def _draw_one(i, nodes, start, indptr, indices, data, base, skip, replace, weighted, word, offsets, columns, weights):  # type: ignore[no-untyped-def]
    """The neighbours of node i, as global numbers, into its slice of the result."""
    if offsets[i] == offsets[i + 1]:
        return
    node, column, weight = nodes[i], columns[offsets[i] : offsets[i + 1]], weights[offsets[i] : offsets[i + 1]]
    first, last = indptr[node - start], indptr[node - start + 1]
    begin, end = _between(skip, first, last)
    skipped = skip[begin:end]
    free = last - first - skipped.size
    n = column.size
    state = hash64(word ^ hash64(np.uint64(node)))
    by_weight = weighted and data.size > 0 and not (n == free and not replace)
    if by_weight:
        if replace:
            _weighted_repeats(data[first:last], skipped, first, state, column)
        else:
            _weighted_subset(data[first:last], skipped, first, state, column)
    elif replace:
        draw = np.uint64(0)
        for k in range(n):
            column[k], draw = _below(free, state, draw)
    else:
        _subset(free, state, column)
    for k in range(n):
        position = first + column[k]
        if not by_weight and skipped.size:
            # The r-th free position: as many skipped ones lie before it as have skipped[j] - j <= first + r.
            low, high = 0, skipped.size
            while low < high:
                middle = (low + high) // 2
                if skipped[middle] - middle <= position:
                    low = middle + 1
                else:
                    high = middle
            position += low
        column[k] = base + indices[position]
        weight[k] = data[position] if data.size > 0 else np.float32(1)


@njit(parallel=True, nogil=True)
def _draw_parallel(nodes, rest):  # type: ignore[no-untyped-def]
    for i in numba.prange(nodes.size):
        _draw_one(i, nodes, *rest)


@njit(nogil=True)
def _draw_serial(nodes, rest):  # type: ignore[no-untyped-def]
    for i in range(nodes.size):
        _draw_one(i, nodes, *rest)


@njit(nogil=True)
def _counts(nodes, start, stop, indptr, skip, fanout, replace, out):  # type: ignore[no-untyped-def]
    for i in range(nodes.size):
        node = nodes[i]
        if node < start or node >= stop:
            continue
        first, last = indptr[node - start], indptr[node - start + 1]
        free = last - first
        if skip.size:
            begin, end = _between(skip, first, last)
            free -= end - begin
        if fanout < 0:
            out[i + 1] = free
        elif replace:
            out[i + 1] = fanout if free > 0 else 0
        else:
            out[i + 1] = min(free, fanout)


@njit(nogil=True)
def relabel(columns: Int32, place: Int32, nodes: Int64, n: int) -> int:
    """Replace global numbers by local ones; new nodes are appended to the ``n`` listed. Returns the new n."""
    for e in range(columns.size):
        node = columns[e]
        at = place[node]
        if at < 0:
            at = n
            place[node] = at
            nodes[n] = node
            n += 1
        columns[e] = at
    return n


@njit(nogil=True)
def first_repeated(nodes: Int64, place: Int32) -> int:
    """Position of the first node that occurred before, −1 if none did; ``place`` is all −1 before and after."""
    repeated = -1
    for i in range(nodes.size):
        if place[nodes[i]] >= 0:
            repeated = i
            break
        place[nodes[i]] = i
    for i in range(nodes.size):
        place[nodes[i]] = -1
    return repeated


class EdgeType(Protocol):
    """One direction of a relation, as the sampler reads it."""

    @property
    def destination(self) -> slice:
        """Global numbers of the destination nodes."""

    @property
    def source(self) -> slice:
        """Global numbers of the source nodes."""

    @property
    def csr(self) -> Csr:
        """Weights, destinations by sources, both numbered inside their type."""

    @property
    def unweighted(self) -> bool:
        """Whether all weights are 1."""


def counts(nodes: Int64, e: EdgeType, skip: Int64, fanout: int, replace: bool, out: Int64) -> None:
    """How many neighbours ``draw`` draws for each node, into ``out[1:]``."""
    _counts(nodes, e.destination.start, e.destination.stop, e.csr.indptr, skip, fanout, replace, out)


def draw(
    nodes: Int64,
    e: EdgeType,
    skip: Int64,
    fanout: int,
    replace: bool,
    weighted: bool,
    word: np.uint64,
    offsets: Int64,
    columns: Int32,
    weight: Float32,
    parallel: bool,
) -> None:
    """Draw the neighbours of the nodes in one edge type.

    Args:
        nodes: global numbers.
        e: the edge type.
        skip: positions in ``e.csr.indices`` that are not drawn, ascending, int64.
        fanout: neighbours per node; −1 for all.
        replace: whether to draw with replacement.
        weighted: whether to draw by weight.
        word: random bits of this batch, layer and edge type.
        offsets: [len(nodes) + 1], where each node's neighbours start; from ``counts``.
        columns: global numbers of the neighbours, written.
        weight: their weights, written.
        parallel: whether to use all threads, if there is enough to draw.
    """
    data = e.csr.data[:0] if e.unweighted else e.csr.data
    much = columns.size >= _WORTH_THREADS or (weighted and not e.unweighted)  # full rows are read
    kernel = _draw_parallel if parallel and much else _draw_serial
    edges = e.destination.start, e.csr.indptr, e.csr.indices, data, e.source.start, skip
    kernel(nodes, (*edges, replace and fanout >= 0, weighted, word, offsets, columns, weight))
