"""Fused scoring and ranking: scores are compared and collected in the first-level cache, and never written to memory.

Where scores are dot products, a register tile of users by items is multiplied, a few hundred scores of each user go
to a buffer in the first-level cache, and are counted and collected there. A score is
``fma(u_d, q_d, … fma(u_0, q_0, 0))`` in float32, one dimension after the other, for every item: equal vectors tie
exactly, and the target of a count is bit for bit the score that is counted.

Register tiles, lanes and masks cannot be expressed in plain loops, so the innermost ones are LLVM code.

Arguments that all ranking functions share; the outputs are written in place:

    users: rows of the users in ``seen`` and ``truth``, int32 [B].
    seen_indptr, seen_items: the seen items of every user, which are no candidates.
    truth_indptr, truth_items: the relevant items of every user.
    excluded: item rows that are candidates for nobody, ascending.
    higher: per relevant item of any user, how many candidates score higher; −1 if the item is no candidate.
    equal: per relevant item, how many candidates score the same, itself included; −1 likewise.
    all_tied: bool [B], whether all candidates, at least two, tie; set for users with relevant items only.
    not_finite: int64 [B], how many scores are NaN or infinite; nothing else is written for such a user.
    top_items: int32 [B, k], the best candidates, best first, ties by position; −1 behind the last.
    top_scores: float32 [B, k], their scores; −∞ behind the last, and as input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from relrank.kernels.csr import Float32, Int32, Int64
from relrank.kernels.jit import njit
from relrank.kernels.llvm_loops import FLOAT, I64, array_of, fma_of, splat, vector_at

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]
WIDE = "+avx512f" in _FEATURES
HAS_FMA = "+fma" in _FEATURES or not cpu_target.target_context.codegen().magic_tuple()[0].startswith("x86")
"""Whether this CPU has an instruction for a fused multiply-add."""
LANES = 16 if WIDE else 8
VECTORS = 2
USERS = 12 if WIDE else 6
"""Users of a register tile, by ``VECTORS`` vectors of ``LANES`` items: its sums fill the registers."""
WIDTH = LANES * VECTORS
TILE = 512
"""Scores of a user per pass; those of ``USERS`` users fit into the first-level cache."""
MANY = 48
"""Up to so many targets of a user are counted one by one; more are bisected for each score above the lowest."""
SAMPLE = 1024
"""Candidates of a full row that are collected first, in random order: few of the others then reach the list."""
LARGEST = np.float32(3.4028235e38)
"""The largest finite number."""

_code: Any = intrinsic  # numba types its first argument as the caller's
_mask = ir.IntType(LANES)
_floats = ir.VectorType(FLOAT, LANES)


@_code
def _multiply(_typing, users, group, panels, panel, dim, tile, column):  # type: ignore[no-untyped-def]
    """``tile[:, column : column + WIDTH] = users[group]ᵀ @ panels[panel]``, sums in registers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, out = (array_of(context, builder, signature, arguments, at).data for at in (0, 2, 5))
        group_, panel_, dim_, column_ = (arguments[at] for at in (1, 3, 4, 6))
        n_users, width, length = (ir.Constant(I64, n) for n in (USERS, WIDTH, TILE))
        left = builder.gep(left, [builder.mul(builder.mul(group_, dim_), n_users)])
        right = builder.gep(right, [builder.mul(builder.mul(panel_, dim_), width)])
        fma = fma_of(builder, _floats)
        zero = ir.Constant(_floats, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(USERS)]
        with cgutils.for_range(builder, dim_) as loop:
            of_items = builder.gep(right, [builder.mul(loop.index, width)])
            of_users = builder.gep(left, [builder.mul(loop.index, n_users)])
            items = [
                builder.load(vector_at(builder, of_items, ir.Constant(I64, v), _floats), align=4)
                for v in range(VECTORS)
            ]
            for u in range(USERS):
                user = splat(builder, builder.load(builder.gep(of_users, [ir.Constant(I64, u)])), LANES)
                for item, total in zip(items, sums[u], strict=True):
                    builder.store(builder.call(fma, [user, item, builder.load(total)]), total)
        for u in range(USERS):
            row = builder.gep(out, [builder.add(builder.mul(ir.Constant(I64, u), length), column_)])
            for v, total in enumerate(sums[u]):
                builder.store(builder.load(total), vector_at(builder, row, ir.Constant(I64, v), _floats), align=4)
        return context.get_dummy_value()

    return types.void(users, group, panels, panel, dim, tile, column), emit


@_code
def _count(_typing, scores, start, n_vectors, target):  # type: ignore[no-untyped-def]
    """How many of ``scores[start : start + n_vectors * LANES]`` are above the target, and how many at least that."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.gep(array_of(context, builder, signature, arguments, 0).data, [arguments[1]])
        target_ = splat(builder, arguments[3], LANES)
        ones = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_mask, [_mask]), f"llvm.ctpop.i{LANES}")
        counts = [cgutils.alloca_once_value(builder, ir.Constant(I64, 0)) for _ in range(2)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            values = builder.load(vector_at(builder, first, loop.index, _floats), align=4)
            for total, comparison in zip(counts, (">", ">="), strict=True):
                lanes = builder.bitcast(builder.fcmp_ordered(comparison, values, target_), _mask)
                more = builder.zext(builder.call(ones, [lanes]), I64)
                builder.store(builder.add(builder.load(total), more), total)
        return context.make_tuple(builder, signature.return_type, [builder.load(total) for total in counts])

    return types.UniTuple(types.int64, 2)(scores, start, n_vectors, target), emit


@_code
def _at_least(_typing, scores, start, n_vectors, least, words):  # type: ignore[no-untyped-def]
    """A bit for each of ``scores[start : start + n_vectors * LANES]`` that is ``least`` or more; whether any is."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.gep(array_of(context, builder, signature, arguments, 0).data, [arguments[1]])
        least_ = splat(builder, arguments[3], LANES)
        out = builder.bitcast(array_of(context, builder, signature, arguments, 4).data, _mask.as_pointer())
        any_lane = cgutils.alloca_once_value(builder, ir.Constant(_mask, 0))
        with cgutils.for_range(builder, arguments[2]) as loop:
            values = builder.load(vector_at(builder, first, loop.index, _floats), align=4)
            lanes = builder.bitcast(builder.fcmp_ordered(">=", values, least_), _mask)
            builder.store(lanes, builder.gep(out, [loop.index]))
            builder.store(builder.or_(builder.load(any_lane), lanes), any_lane)
        return builder.icmp_unsigned("!=", builder.load(any_lane), ir.Constant(_mask, 0))

    return types.boolean(scores, start, n_vectors, least, words), emit


@_code
def _lowest_bit(_typing, _word):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bit = ir.IntType(1)
        zeros = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, [I64, bit]), "llvm.cttz.i64")
        return builder.call(zeros, [arguments[0], ir.Constant(bit, 1)])

    return types.int64(types.uint64), emit


@_code
def _fma(_typing, _a, _b, _c):  # type: ignore[no-untyped-def]
    """``a · b + c``, rounded once."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOAT, [FLOAT] * 3), "llvm.fma.f32")
        return builder.call(fma, arguments)

    return types.float32(types.float32, types.float32, types.float32), emit


@njit(nogil=True)
def pack(items: Float32, order: Int32, panels: Float32) -> None:
    """Copy item vectors so that one load reads the same dimension of ``LANES`` items.

    Args:
        items: [n_items, d].
        order: item rows, int32 [n].
        panels: float32 [⌈n / WIDTH⌉, d, WIDTH], written; zeros after the last item.
    """
    for p in range(panels.shape[0]):
        for i in range(WIDTH):
            at = p * WIDTH + i
            for d in range(items.shape[1]):
                panels[p, d, i] = items[order[at], d] if at < order.size else np.float32(0)


@njit(nogil=True)
def _bisect(ascending, first, last, value, right):  # type: ignore[no-untyped-def]
    """Insertion point in ``ascending[first : last]``, before or after (``right``) equal values."""
    while first < last:
        middle = (first + last) // 2
        if ascending[middle] < value or (right and ascending[middle] == value):
            first = middle + 1
        else:
            last = middle
    return first


@njit(nogil=True)
def _tally(  # type: ignore[no-untyped-def]
    scores, start, n_vectors, targets, higher, at_least, first, last, words
):
    """Count a piece of one user's scores, in words of 64, against the targets ``first`` … ``last``.

    Many targets are sorted; a score then counts at its insertion point alone, and ``_conclude`` sums up.
    """
    if last - first <= MANY:
        for t in range(first, last):
            more, no_less = _count(scores, start, n_vectors, targets[t])
            higher[t] += more
            at_least[t] += no_less
        return
    if not _at_least(scores, start, n_vectors, targets[first], words):
        return
    for w in range(n_vectors * LANES // 64):
        word = words[w]
        while word:
            score = scores[start + w * 64 + _lowest_bit(word)]
            word &= word - np.uint64(1)
            below = _bisect(targets, first, last, score, False)
            upto = below
            if below < last and targets[below] == score:
                upto = _bisect(targets, below, last, score, True)
            if below > first:
                higher[below - 1] += 1
            if upto > first:
                at_least[upto - 1] += 1


@njit(nogil=True)
def _keep(top_scores, top, value, position):  # type: ignore[no-untyped-def]
    """Insert a candidate into a list of positions ``top``: higher scores first, ties by position."""
    at = top_scores.size - 1
    if value < top_scores[at] or (value == top_scores[at] and position > top[at]):
        return
    while at > 0 and (top_scores[at - 1] < value or (top_scores[at - 1] == value and top[at - 1] > position)):
        top_scores[at], top[at] = top_scores[at - 1], top[at - 1]
        at -= 1
    top_scores[at], top[at] = value, position


@njit(nogil=True)
def _keep_all(scores, start, n_vectors, top_scores, top, positions, base, words):  # type: ignore[no-untyped-def]
    """Offer a piece of one user's scores, in words of 64, to their list; −∞ is no candidate.

    ``positions`` are those of the items, the ones below ``SAMPLE`` being in the list already; if empty, scores are in
    the order of positions.
    """
    if not _at_least(scores, start, n_vectors, max(top_scores[top_scores.size - 1], -LARGEST), words):
        return
    for w in range(n_vectors * LANES // 64):
        word = words[w]
        while word:
            at = w * 64 + _lowest_bit(word)
            word &= word - np.uint64(1)
            if not positions.size:
                _keep(top_scores, top, scores[start + at], base + at)
            elif positions[base + at] >= SAMPLE:
                _keep(top_scores, top, scores[start + at], positions[base + at])


@njit(nogil=True)
def _to_items(order, top_scores, top):  # type: ignore[no-untyped-def]
    """Replace the positions in a list by items; −1 behind its end."""
    for at in range(top_scores.size):
        top[at] = order[top[at]] if top_scores[at] > -np.inf else -1


@njit(nogil=True)
def _prepare(targets, numbers, first, last):  # type: ignore[no-untyped-def]
    """Sort the targets ``first`` … ``last`` if they are many; ``numbers`` are their positions before, from 0."""
    for t in range(first, last):
        numbers[t] = t - first
    if last - first <= MANY:
        return
    gap = (last - first) // 2
    while gap:  # Shell's sort
        for t in range(first + gap, last):
            target, number, at = targets[t], numbers[t], t
            while at >= first + gap and targets[at - gap] > target:
                targets[at], numbers[at] = targets[at - gap], numbers[at - gap]
                at -= gap
            targets[at], numbers[at] = target, number
        gap = 1 if gap == 2 else gap * 5 // 11


@njit(nogil=True)
def _conclude(numbers, above, at_least, seen, excluded, truth, n_candidates, higher, equal):  # type: ignore[no-untyped-def]
    """Write one user's counts in the order of ``truth``, −1 for what is no candidate; ``numbers`` is of ``_prepare``.

    Returns whether all candidates, at least two, tie; False without a target.
    """
    if numbers.size > MANY:
        for t in range(numbers.size - 2, -1, -1):
            above[t] += above[t + 1]
            at_least[t] += at_least[t + 1]
    all_tied = False
    for t in range(numbers.size):
        number = numbers[t]
        if _holds(seen, truth[number]) or _holds(excluded, truth[number]):
            higher[number], equal[number] = -1, -1
            continue
        higher[number], equal[number] = above[t], at_least[t] - above[t]
        all_tied = n_candidates > 1 and above[t] == 0 and at_least[t] == n_candidates
    return all_tied


@njit(nogil=True)
def _holds(rows, row):  # type: ignore[no-untyped-def]
    at = _bisect(rows, 0, rows.size, row, False)
    return at < rows.size and rows[at] == row


@njit(nogil=True)
def _score(user, item):  # type: ignore[no-untyped-def]
    """The dot product with the bits of ``_multiply``."""
    total = np.float32(0)
    for d in range(user.size):
        total = _fma(user[d], item[d], total)
    return total


@njit(nogil=True)
def _pack_users(vectors):  # type: ignore[no-untyped-def]
    """User vectors in groups that ``_multiply`` reads, [⌈B / USERS⌉, d, USERS]."""
    groups = np.zeros((-(-vectors.shape[0] // USERS), vectors.shape[1], USERS), np.float32)
    for b in range(vectors.shape[0]):
        groups[b // USERS, :, b % USERS] = vectors[b]
    return groups


@njit(nogil=True)
def _seen_by_tile(users, positions, seen_indptr, seen_items, n_tiles):  # type: ignore[no-untyped-def]
    """Positions of the users' seen candidates: ``masked[borders[b, tile] : borders[b, tile + 1]]`` are in a tile."""
    n_seen, end = 0, 0
    for u in users:
        n_seen += seen_indptr[u + 1] - seen_indptr[u]
    masked, borders = np.empty(n_seen, np.int32), np.zeros((users.size, n_tiles + 1), np.int64)
    for b in range(users.size):
        seen = seen_items[seen_indptr[users[b]] : seen_indptr[users[b] + 1]]
        for item in seen:
            if positions[item] >= 0:
                borders[b, positions[item] // TILE] += 1
        for tile in range(n_tiles + 1):
            end += borders[b, tile]
            borders[b, tile] = end
        for item in seen:
            if positions[item] >= 0:
                borders[b, positions[item] // TILE] -= 1
                masked[borders[b, positions[item] // TILE]] = positions[item]
    return masked, borders


@njit(nogil=True)
def _targets(vectors, users, items, truth_indptr, truth_items):  # type: ignore[no-untyped-def]
    """Scores of every user's relevant items after ``_prepare``, their numbers, and where each user's start."""
    starts = np.zeros(users.size + 1, np.int64)
    for b in range(users.size):
        starts[b + 1] = starts[b] + truth_indptr[users[b] + 1] - truth_indptr[users[b]]
    targets, numbers = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int64)
    for b in range(users.size):
        truth = truth_items[truth_indptr[users[b]] : truth_indptr[users[b] + 1]]
        for t in range(truth.size):
            targets[starts[b] + t] = _score(vectors[b], items[truth[t]])
        _prepare(targets, numbers, starts[b], starts[b + 1])
    return targets, numbers, starts


@njit(nogil=True)
def _multiply_tile(groups, group, panels, tile, scores):  # type: ignore[no-untyped-def]
    """Scores [USERS, TILE] of a group of users for the items of a tile."""
    per_tile = TILE // WIDTH
    for panel in range(tile * per_tile, min((tile + 1) * per_tile, panels.shape[0])):
        _multiply(groups, group, panels, panel, panels.shape[1], scores, panel * WIDTH - tile * TILE)


@njit(nogil=True)
def rank_products(
    vectors: Float32,
    users: Int32,
    items: Float32,
    panels: Float32,
    order: Int32,
    positions: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    excluded: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users by products of their ``vectors`` [B, d] and those of the ``items`` [n_items, d].

    ``panels`` is of ``pack``, ``order`` holds the item rows that are not excluded in tie-break order, and
    ``positions`` those of all items therein, −1 for the excluded. The other arguments are described above.
    """
    n_tiles = -(-panels.shape[0] // (TILE // WIDTH))
    masked, borders = _seen_by_tile(users, positions, seen_indptr, seen_items, n_tiles)
    targets, numbers, starts = _targets(vectors, users, items, truth_indptr, truth_items)
    above, at_least = np.zeros(targets.size, np.int64), np.zeros(targets.size, np.int64)
    groups, words = _pack_users(vectors), np.zeros(TILE // 64, np.uint64)
    scores = np.empty((USERS, TILE), np.float32)
    flat, in_order = scores.reshape(-1), positions[:0]
    for tile in range(n_tiles):
        base = tile * TILE
        n = min(TILE, order.size - base)
        n_vectors = -(-n // 64) * 64 // LANES
        for group in range(groups.shape[0]):
            _multiply_tile(groups, group, panels, tile, scores)
            for b in range(group * USERS, min((group + 1) * USERS, users.size)):
                row = b % USERS
                for at in range(borders[b, tile], borders[b, tile + 1]):
                    scores[row, masked[at] - base] = -np.inf
                scores[row, n : n_vectors * LANES] = -np.inf
                _tally(flat, row * TILE, n_vectors, targets, above, at_least, starts[b], starts[b + 1], words)
                if top_scores.shape[1]:
                    _keep_all(flat, row * TILE, n_vectors, top_scores[b], top_items[b], in_order, base, words)
    for b in range(users.size):
        u, of = users[b], slice(starts[b], starts[b + 1])
        seen, own = seen_items[seen_indptr[u] : seen_indptr[u + 1]], slice(truth_indptr[u], truth_indptr[u + 1])
        n = order.size - (borders[b, n_tiles] - borders[b, 0])
        all_tied[b] = _conclude(
            numbers[of], above[of], at_least[of], seen, excluded, truth_items[own], n, higher[own], equal[own]
        )
        _to_items(order, top_scores[b], top_items[b])


@njit(nogil=True)
def _load_row(scores, row):  # type: ignore[no-untyped-def]
    """Copy a user's scores into ``row``, padded by −∞; returns how many of them are not finite."""
    finite = 0
    for base in range(0, row.size, TILE):
        n = min(TILE, scores.size - base)
        row[base : base + n] = scores[base : base + n]
        n_vectors = -(-n // 64) * 64 // LANES
        finite += _count(row, base, n_vectors, -LARGEST)[1] - _count(row, base, n_vectors, LARGEST)[0]
    return scores.size - finite


@njit(nogil=True)
def rank_rows(
    scores: Float32,
    users: Int32,
    order: Int32,
    positions: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    excluded: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    not_finite: Int64,
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users by their ``scores`` [B, n_items], which are not changed.

    ``order`` holds all item rows in tie-break order, ``positions`` those of all items therein.
    """
    k, length = top_items.shape[1], -(-scores.shape[1] // 64) * 64
    row, words = np.full(length, -np.inf, np.float32), np.zeros(TILE // 64, np.uint64)
    for b in range(users.size):
        u = users[b]
        seen, own = seen_items[seen_indptr[u] : seen_indptr[u + 1]], slice(truth_indptr[u], truth_indptr[u + 1])
        truth = truth_items[own]
        not_finite[b] = _load_row(scores[b], row)
        if not_finite[b]:
            continue
        targets, numbers = row[truth], np.empty(truth.size, np.int64)
        above, at_least = np.zeros(truth.size, np.int64), np.zeros(truth.size, np.int64)
        _prepare(targets, numbers, 0, truth.size)
        for item in seen:
            row[item] = -np.inf
        n_candidates = scores.shape[1] - seen.size
        for item in excluded:
            n_candidates -= row[item] != -np.inf
            row[item] = -np.inf
        if k:
            for position in range(min(SAMPLE, order.size)):
                if row[order[position]] != -np.inf:
                    _keep(top_scores[b], top_items[b], row[order[position]], position)
        for base in range(0, length, TILE):
            n_vectors = min(TILE, length - base) // LANES
            _tally(row, base, n_vectors, targets, above, at_least, 0, truth.size, words)
            if k:
                _keep_all(row, base, n_vectors, top_scores[b], top_items[b], positions, base, words)
        all_tied[b] = _conclude(
            numbers, above, at_least, seen, excluded, truth, n_candidates, higher[own], equal[own]
        )
        _to_items(order, top_scores[b], top_items[b])
