"""Scores judged while they are near: counted against targets and kept for lists before they leave the first cache.

Where scores are products of vectors, they are never written out: a register tile of users by items is multiplied, a
few hundred scores of each of its users go to a buffer in the first-level cache, and there all is done that ranking
needs. A score is ``fma(u_d, q_d, … fma(u_0, q_0, 0))`` in float32, one dimension after the other, wherever the item
stands: equal vectors tie exactly, and the target of a count is the very number that is counted.

Plain loops can say none of this (register tiles, lanes, masks), so the innermost ones are LLVM code.
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

_FEATURES = cpu_target.target_context.codegen().magic_tuple()[2]
WIDE = "+avx512f" in _FEATURES
HAS_FMA = "+fma" in _FEATURES or not cpu_target.target_context.codegen().magic_tuple()[0].startswith("x86")
"""Whether a fused multiply-add is an instruction here, and not a call."""
LANES = 16 if WIDE else 8
VECTORS = 2
USERS = 12 if WIDE else 6
"""A register tile is so many users by ``VECTORS`` vectors of ``LANES`` items: its sums fill the registers."""
WIDTH = LANES * VECTORS
TILE = 512
"""Scores of a user that are judged at a time; those of ``USERS`` users lie in the first-level cache."""
MANY = 48
"""Targets of one user that are counted one by one; more are found by bisection from each score above the lowest."""
SAMPLE = 1024
"""Candidates that come first in whole rows, in random order: then few of the others reach the list."""
LARGEST = np.float32(3.4028235e38)
"""The largest finite number."""

_code: Any = intrinsic  # its types say that the first argument is the caller's
_f32, _i32, _i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_mask = ir.IntType(LANES)
_floats, _ints = ir.VectorType(_f32, LANES), ir.VectorType(_i32, LANES)


def _data(context: Any, builder: Any, signature: Any, arguments: Any, at: int) -> Any:
    return context.make_array(signature.args[at])(context, builder, arguments[at]).data


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_floats, ir.Undefined), value, ir.Constant(_i32, 0))
    return builder.shuffle_vector(one, ir.Constant(_floats, ir.Undefined), ir.Constant(_ints, [0] * LANES))


def _vector(builder: Any, start: Any, number: Any) -> Any:
    """Pointer to a vector, counted in vectors from a float."""
    at = builder.gep(start, [builder.mul(number, ir.Constant(_i64, LANES))])
    return builder.bitcast(at, _floats.as_pointer())


@_code
def _multiply(_typing, users, group, panels, panel, dim, tile, column):  # type: ignore[no-untyped-def]
    """``tile[:, column : column + WIDTH] = users[group]ᵀ @ panels[panel]``, sums in registers."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right, out = (_data(context, builder, signature, arguments, at) for at in (0, 2, 5))
        group_, panel_, dim_, column_ = (arguments[at] for at in (1, 3, 4, 6))
        n_users, width, length = (ir.Constant(_i64, n) for n in (USERS, WIDTH, TILE))
        left = builder.gep(left, [builder.mul(builder.mul(group_, dim_), n_users)])
        right = builder.gep(right, [builder.mul(builder.mul(panel_, dim_), width)])
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_floats, [_floats] * 3), f"llvm.fma.v{LANES}f32"
        )
        zero = ir.Constant(_floats, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(VECTORS)] for _ in range(USERS)]
        with cgutils.for_range(builder, dim_) as loop:
            of_items = builder.gep(right, [builder.mul(loop.index, width)])
            of_users = builder.gep(left, [builder.mul(loop.index, n_users)])
            items = [builder.load(_vector(builder, of_items, ir.Constant(_i64, v)), align=4) for v in range(VECTORS)]
            for u in range(USERS):
                user = _splat(builder, builder.load(builder.gep(of_users, [ir.Constant(_i64, u)])))
                for item, total in zip(items, sums[u], strict=True):
                    builder.store(builder.call(fma, [user, item, builder.load(total)]), total)
        for u in range(USERS):
            row = builder.gep(out, [builder.add(builder.mul(ir.Constant(_i64, u), length), column_)])
            for v, total in enumerate(sums[u]):
                builder.store(builder.load(total), _vector(builder, row, ir.Constant(_i64, v)), align=4)
        return context.get_dummy_value()

    return types.void(users, group, panels, panel, dim, tile, column), emit


@_code
def _count(_typing, scores, start, n_vectors, target):  # type: ignore[no-untyped-def]
    """How many of ``scores[start : start + n_vectors * LANES]`` are above the target, and how many at least that."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
        target_ = _splat(builder, arguments[3])
        ones = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_mask, [_mask]), f"llvm.ctpop.i{LANES}")
        found = [cgutils.alloca_once_value(builder, ir.Constant(_i64, 0)) for _ in range(2)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            values = builder.load(_vector(builder, first, loop.index), align=4)
            for total, comparison in zip(found, (">", ">="), strict=True):
                lanes = builder.bitcast(builder.fcmp_ordered(comparison, values, target_), _mask)
                more = builder.zext(builder.call(ones, [lanes]), _i64)
                builder.store(builder.add(builder.load(total), more), total)
        return context.make_tuple(builder, signature.return_type, [builder.load(total) for total in found])

    return types.UniTuple(types.int64, 2)(scores, start, n_vectors, target), emit


@_code
def _at_least(_typing, scores, start, n_vectors, least, words):  # type: ignore[no-untyped-def]
    """One bit for each of ``scores[start : start + n_vectors * LANES]`` that reaches ``least``; whether any does."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = builder.gep(_data(context, builder, signature, arguments, 0), [arguments[1]])
        least_ = _splat(builder, arguments[3])
        out = builder.bitcast(_data(context, builder, signature, arguments, 4), _mask.as_pointer())
        found = cgutils.alloca_once_value(builder, ir.Constant(_mask, 0))
        with cgutils.for_range(builder, arguments[2]) as loop:
            values = builder.load(_vector(builder, first, loop.index), align=4)
            lanes = builder.bitcast(builder.fcmp_ordered(">=", values, least_), _mask)
            builder.store(lanes, builder.gep(out, [loop.index]))
            builder.store(builder.or_(builder.load(found), lanes), found)
        return builder.icmp_unsigned("!=", builder.load(found), ir.Constant(_mask, 0))

    return types.boolean(scores, start, n_vectors, least, words), emit


@_code
def _lowest_bit(_typing, _word):  # type: ignore[no-untyped-def]
    """Place of the lowest bit that is set."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        bit = ir.IntType(1)
        zeros = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_i64, [_i64, bit]), "llvm.cttz.i64")
        return builder.call(zeros, [arguments[0], ir.Constant(bit, 1)])

    return types.int64(types.uint64), emit


@_code
def _fma(_typing, _a, _b, _c):  # type: ignore[no-untyped-def]
    """``a · b + c``, rounded once."""

    def emit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_f32, [_f32] * 3), "llvm.fma.f32")
        return builder.call(fma, arguments)

    return types.float32(types.float32, types.float32, types.float32), emit


@njit(nogil=True)
def pack(items: Float32, order: Int32, panels: Float32) -> None:
    """Write items in a given order, so that one load is the same dimension of ``LANES`` items.

    Args:
        items: [n_items, d].
        order: item rows, int32 [n].
        panels: float32 [⌈n / WIDTH⌉, d, WIDTH], written; zeros behind the last item.
    """
    for p in range(panels.shape[0]):
        for i in range(WIDTH):
            at = p * WIDTH + i
            for d in range(items.shape[1]):
                panels[p, d, i] = items[order[at], d] if at < order.size else np.float32(0)


@njit(nogil=True)
def _bisect(ascending, first, last, value, right):  # type: ignore[no-untyped-def]
    """Where the value would stand in ``ascending[first : last]``, before or behind (``right``) its equals."""
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
    """Count a piece of one user's scores, whole words of 64, against their targets ``first`` … ``last``.

    Many targets ascend; then a score counts at the one place where it stands among them, see ``_sum_up``.
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
def _keep(top_scores, top_places, value, place):  # type: ignore[no-untyped-def]
    """Put a candidate into a list: higher scores first, equal ones by place."""
    at = top_scores.size - 1
    if value < top_scores[at] or (value == top_scores[at] and place > top_places[at]):
        return
    while at > 0 and (top_scores[at - 1] < value or (top_scores[at - 1] == value and top_places[at - 1] > place)):
        top_scores[at] = top_scores[at - 1]
        top_places[at] = top_places[at - 1]
        at -= 1
    top_scores[at] = value
    top_places[at] = place


@njit(nogil=True)
def _keep_reaching(scores, start, n_vectors, top_scores, top_places, places, base, words):  # type: ignore[no-untyped-def]
    """Offer a piece of one user's scores, whole words of 64, to their list.

    ``places`` says where each item stands among equals, those before ``SAMPLE`` being in the list already; without
    it, places are numbers of scores. −inf is no candidate.
    """
    k = top_scores.size
    if not _at_least(scores, start, n_vectors, max(top_scores[k - 1], -LARGEST), words):
        return
    for w in range(n_vectors * LANES // 64):
        word = words[w]
        while word:
            at = w * 64 + _lowest_bit(word)
            word &= word - np.uint64(1)
            if not places.size:
                _keep(top_scores, top_places, scores[start + at], base + at)
            elif places[base + at] >= SAMPLE:
                _keep(top_scores, top_places, scores[start + at], places[base + at])


@njit(nogil=True)
def _named(order, top_scores, top_places):  # type: ignore[no-untyped-def]
    """Make places in a list items; −1 behind its end."""
    for at in range(top_scores.size):
        top_places[at] = order[top_places[at]] if top_scores[at] > -np.inf else -1


@njit(nogil=True)
def _prepare(targets, order, first, last):  # type: ignore[no-untyped-def]
    """Let many targets ascend, the order of few is left; ``order`` says which number each had, from 0 on."""
    for t in range(first, last):
        order[t] = t - first
    if last - first <= MANY:
        return
    gap = (last - first) // 2
    while gap:  # Shell's sort
        for t in range(first + gap, last):
            target, number, at = targets[t], order[t], t
            while at >= first + gap and targets[at - gap] > target:
                targets[at], order[at] = targets[at - gap], order[at - gap]
                at -= gap
            targets[at], order[at] = target, number
        gap = 1 if gap == 2 else gap * 5 // 11


@njit(nogil=True)
def _conclude(  # type: ignore[no-untyped-def]
    order, above, at_least, first, last, seen, closed, truth, n_candidates, higher, equal
):
    """Write one user's counts, at ``first`` … ``last``, in the order of ``truth``; −1 for what is no candidate.

    ``order`` is that of ``_prepare``. Returns whether all candidates, at least two, have one and the same score;
    False without a target.
    """
    if last - first > MANY:
        for t in range(last - 2, first - 1, -1):
            above[t] += above[t + 1]
            at_least[t] += at_least[t + 1]
    all_tied = False
    for t in range(first, last):
        own = order[t]
        if _holds(seen, truth[own]) or _holds(closed, truth[own]):
            higher[own], equal[own] = -1, -1
            continue
        higher[own], equal[own] = above[t], at_least[t] - above[t]
        all_tied = n_candidates > 1 and above[t] == 0 and at_least[t] == n_candidates
    return all_tied


@njit(nogil=True)
def _holds(rows, row):  # type: ignore[no-untyped-def]
    at = _bisect(rows, 0, rows.size, row, False)
    return at < rows.size and rows[at] == row


@njit(nogil=True)
def _score(user, item):  # type: ignore[no-untyped-def]
    """The number that ``_multiply`` finds."""
    total = np.float32(0)
    for d in range(user.size):
        total = _fma(user[d], item[d], total)
    return total


@njit(nogil=True)
def rank_products(
    vectors: Float32,
    users: Int32,
    items: Float32,
    panels: Float32,
    order: Int32,
    places: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    closed: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users whose scores are products of vectors; outputs are written in place.

    Args:
        vectors: of the users, [B, d].
        users: their rows in ``seen`` and ``truth``, int32 [B].
        items: vectors, [n_items, d].
        panels: of ``pack``.
        order: item rows that are candidates for anybody, in the order that decides between equals.
        places: of all items in that order, −1 for the closed ones.
        seen_indptr: where each user's ``seen_items`` start.
        seen_items: the candidates to leave out.
        truth_indptr: where each user's ``truth_items`` start.
        truth_items: the relevant items.
        closed: item rows that are candidates for nobody, ascending.
        higher: of all relevant items of all users, how many candidates score higher; −1 for those that are masked.
        equal: likewise how many score the same, the item itself among them.
        all_tied: bool [B], whether all candidates have one score; only of users with relevant items.
        top_items: lists, int32 [B, k]; −1 behind the end.
        top_scores: float32 [B, k], −∞ as they come.
    """
    n_users, dim = vectors.shape
    n_groups, per_tile = -(-n_users // USERS), TILE // WIDTH
    n_tiles = -(-panels.shape[0] // per_tile)
    groups = np.zeros((n_groups, dim, USERS), np.float32)
    n_seen, n_truth = 0, 0
    for u in users:
        n_seen += seen_indptr[u + 1] - seen_indptr[u]
        n_truth += truth_indptr[u + 1] - truth_indptr[u]
    masked, cuts = np.empty(n_seen, np.int32), np.zeros((n_users, n_tiles + 1), np.int64)
    targets, of, starts = np.empty(n_truth, np.float32), np.empty(n_truth, np.int64), np.zeros(n_users + 1, np.int64)
    above, at_least = np.zeros(n_truth, np.int64), np.zeros(n_truth, np.int64)
    end = 0
    for b in range(n_users):
        groups[b // USERS, :, b % USERS] = vectors[b]
        seen = seen_items[seen_indptr[users[b]] : seen_indptr[users[b] + 1]]
        # by tile, in one counting pass
        for item in seen:
            if places[item] >= 0:
                cuts[b, places[item] // TILE] += 1
        for tile in range(n_tiles + 1):
            end += cuts[b, tile]
            cuts[b, tile] = end
        for item in seen:
            if places[item] >= 0:
                cuts[b, places[item] // TILE] -= 1
                masked[cuts[b, places[item] // TILE]] = places[item]
        truth = truth_items[truth_indptr[users[b]] : truth_indptr[users[b] + 1]]
        first, last = starts[b], starts[b] + truth.size
        starts[b + 1] = last
        for t in range(truth.size):
            targets[first + t] = _score(vectors[b], items[truth[t]])
        _prepare(targets, of, first, last)

    scores, words = np.empty((USERS, TILE), np.float32), np.zeros(TILE // 64, np.uint64)
    flat, ordered = scores.reshape(-1), places[:0]
    for tile in range(n_tiles):
        base = tile * TILE
        n = min(TILE, order.size - base)
        n_vectors = -(-n // 64) * 64 // LANES
        for group in range(n_groups):
            for panel in range(tile * per_tile, min((tile + 1) * per_tile, panels.shape[0])):
                _multiply(groups, group, panels, panel, dim, scores, panel * WIDTH - base)
            for b in range(group * USERS, min((group + 1) * USERS, n_users)):
                own = b % USERS
                for at in range(cuts[b, tile], cuts[b, tile + 1]):
                    scores[own, masked[at] - base] = -np.inf
                for at in range(n, n_vectors * LANES):
                    scores[own, at] = -np.inf
                _tally(flat, own * TILE, n_vectors, targets, above, at_least, starts[b], starts[b + 1], words)
                if top_scores.shape[1]:
                    _keep_reaching(flat, own * TILE, n_vectors, top_scores[b], top_items[b], ordered, base, words)

    for b in range(n_users):
        u = users[b]
        seen = seen_items[seen_indptr[u] : seen_indptr[u + 1]]
        all_tied[b] = _conclude(
            of,
            above,
            at_least,
            starts[b],
            starts[b + 1],
            seen,
            closed,
            truth_items[truth_indptr[u] : truth_indptr[u + 1]],
            order.size - (cuts[b, n_tiles] - cuts[b, 0]),
            higher[truth_indptr[u] : truth_indptr[u + 1]],
            equal[truth_indptr[u] : truth_indptr[u + 1]],
        )
        _named(order, top_scores[b], top_items[b])


@njit(nogil=True)
def rank_rows(
    scores: Float32,
    users: Int32,
    order: Int32,
    places: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    closed: Int32,
    higher: Int32,
    equal: Int32,
    all_tied: npt.NDArray[np.bool_],
    not_finite: Int64,
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank users from their scores [B, n_items], which are left as they are; outputs are written in place.

    Arguments are those of ``rank_products``, but ``order`` and ``places`` are those of the whole catalogue. Of a user
    with scores that are not finite nothing is written but how many of them there are, int64 [B].
    """
    n_items, k = scores.shape[1], top_items.shape[1]
    length = -(-n_items // 64) * 64
    row, words = np.full(length, -np.inf, np.float32), np.zeros(TILE // 64, np.uint64)
    for b in range(users.size):
        u = users[b]
        seen = seen_items[seen_indptr[u] : seen_indptr[u + 1]]
        truth = truth_items[truth_indptr[u] : truth_indptr[u + 1]]
        finite = 0
        for base in range(0, length, TILE):
            n = min(TILE, n_items - base)
            row[base : base + n] = scores[b, base : base + n]
            n_vectors = -(-n // 64) * 64 // LANES
            finite += _count(row, base, n_vectors, -LARGEST)[1] - _count(row, base, n_vectors, LARGEST)[0]
        not_finite[b] = n_items - finite
        if not_finite[b]:
            continue
        targets = np.empty(truth.size, np.float32)
        above, at_least = np.zeros(truth.size, np.int64), np.zeros(truth.size, np.int64)
        for t in range(truth.size):
            targets[t] = row[truth[t]]
        of = np.empty(truth.size, np.int64)
        _prepare(targets, of, 0, truth.size)
        for item in seen:
            row[item] = -np.inf
        n_candidates = n_items - seen.size
        for item in closed:
            n_candidates -= row[item] != -np.inf
            row[item] = -np.inf
        if k:
            for place in range(min(SAMPLE, n_items)):
                if row[order[place]] != -np.inf:
                    _keep(top_scores[b], top_items[b], row[order[place]], place)
        for base in range(0, length, TILE):
            n_vectors = min(TILE, length - base) // LANES
            _tally(row, base, n_vectors, targets, above, at_least, 0, truth.size, words)
            if k:
                _keep_reaching(row, base, n_vectors, top_scores[b], top_items[b], places, base, words)
        all_tied[b] = _conclude(
            of,
            above,
            at_least,
            0,
            truth.size,
            seen,
            closed,
            truth,
            n_candidates,
            higher[truth_indptr[u] : truth_indptr[u + 1]],
            equal[truth_indptr[u] : truth_indptr[u + 1]],
        )
        _named(order, top_scores[b], top_items[b])
