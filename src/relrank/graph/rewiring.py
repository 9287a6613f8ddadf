"""Placebo relations: the same degrees, different edges.

Double-edge swaps as a Markov chain: S. Maslov and K. Sneppen, "Specificity and stability in topology of protein
networks", Science 296 (2002). A rejected proposal counts as a step, which makes the chain uniform over all simple
graphs with the given degrees: B. Fosdick, D. Larremore, J. Nishimura and J. Ugander, "Configuring random graph models
with fixed degree sequences", SIAM Review 60 (2018).
"""

from __future__ import annotations

import numpy as np

from relrank.graph.relation import Relation
from relrank.kernels.csr import Int64
from relrank.kernels.jit import njit

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_LOW32 = np.uint64(0xFFFFFFFF)


def rewire(relation: Relation, seed: int, swaps_per_edge: int = 10) -> Relation:
    """Shuffle the edges of a relation; every node keeps its degree, and no edge occurs twice.

    Between two types each source keeps its weights and changes only its targets; within one type a weight stays with
    its edge. If the degrees allow only one graph, the edges stay the same.

    Args:
        relation: the edges to shuffle.
        seed: of the random swaps.
        swaps_per_edge: proposed swaps per edge, including rejected ones.
    """
    first, second = relation.src.astype(np.int64), relation.dst.astype(np.int64)
    if len(relation) > 1:
        steps = swaps_per_edge * len(relation)
        _swap(first, second, int(second.max()) + 1, relation.undirected, steps, np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    return Relation.of(relation.name, relation.source, relation.target, first, second, relation.weight)


@njit(inline="always")
def _mix(z: np.uint64) -> np.uint64:
    """The finaliser of splitmix64: G. Steele, D. Lea and C. Flood, OOPSLA 2014."""
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@njit()
def _slot(table: Int64, key: np.int64) -> np.int64:
    """The slot of a key in an open-addressing table, or the empty slot (-1) for it."""
    mask = table.size - 1
    at = np.int64(_mix(np.uint64(key)) & np.uint64(mask))
    while table[at] != -1 and table[at] != key:
        at = (at + 1) & mask
    return at


@njit()
def _discard(table: Int64, key: np.int64) -> None:
    """Remove a key and close the gap, so that no probe stops short (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask = table.size - 1
    gap = _slot(table, key)
    at = gap
    while True:
        at = (at + 1) & mask
        if table[at] == -1:
            break
        home = np.int64(_mix(np.uint64(table[at])) & np.uint64(mask))
        if ((at - home) & mask) >= ((at - gap) & mask):
            table[gap] = table[at]
            gap = at
    table[gap] = -1


@njit()
def _swap(first: Int64, second: Int64, n: int, undirected: bool, steps: int, state: np.uint64) -> None:
    """Run the chain in place on edges ``first[e] - second[e]``; ``n`` is above every ``second``."""
    size = 4
    while size < 2 * first.size:
        size *= 2
    table = np.full(size, -1, np.int64)
    for e in range(first.size):
        key = first[e] * n + second[e]
        table[_slot(table, key)] = key
    edges = np.uint64(first.size)
    for _ in range(steps):
        # Two edges from the halves of one draw. Its bias of at most n_edges / 2^32 is harmless: a swap and its
        # inverse pick the same pair of slots with the same probability, which is all that uniformity requires.
        state += _GAMMA
        draw = _mix(state)
        i, j = np.int64(((draw >> _S32) * edges) >> _S32), np.int64(((draw & _LOW32) * edges) >> _S32)
        a, b, c, d = first[i], second[i], first[j], second[j]
        if undirected:  # a pair of edges has two other pairings; a second draw chooses
            state += _GAMMA
            if _mix(state) >> _S32 & np.uint64(1):
                c, d = d, c
        if i == j or a == c or b == d:
            continue
        if not undirected:
            old1, old2, new1, new2 = a * n + b, c * n + d, a * n + d, c * n + b
        else:
            if a == d or b == c:
                continue
            old1, old2 = min(a, b) * n + max(a, b), min(c, d) * n + max(c, d)
            new1, new2 = min(a, d) * n + max(a, d), min(c, b) * n + max(c, b)
        if table[_slot(table, new1)] != -1 or table[_slot(table, new2)] != -1:
            continue
        _discard(table, old1)
        _discard(table, old2)
        table[_slot(table, new1)] = new1
        table[_slot(table, new2)] = new2
        first[i], second[i], first[j], second[j] = a, d, c, b
