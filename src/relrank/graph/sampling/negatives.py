"""Seeded, compiled negative sampling.

Random numbers inside the kernels are hashes of (seed, position) — splitmix64, Steele et al. 2014 — so they do not
depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from relrank.errors import InputError, one_of
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.hashing import hash64
from relrank.kernels.jit import njit

Bool = npt.NDArray[np.bool_]
KINDS = ("uniform", "popularity", "in-batch", "mixed")
_TRIES = 32
_PARALLEL = 1 << 17
"""Draws or look-ups below which a parallel region costs more than it saves."""

_MARKED = 64
"""Largest ratio of all rows to those of a batch at which marking is faster than sorting."""


@njit(inline="always")
def _mark_own(indptr, indices, users, place, out, b):  # type: ignore[no-untyped-def]
    for e in range(indptr[users[b]], indptr[users[b] + 1]):
        at = place[indices[e]]
        if at >= 0:
            out[b, at] = True


@njit(parallel=True, nogil=True)
def _shared_positives(indptr, indices, users, place, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(users.size):
        _mark_own(indptr, indices, users, place, out, b)


@njit(nogil=True)
def _shared_positives_serial(indptr, indices, users, place, out):  # type: ignore[no-untyped-def]
    for b in range(users.size):
        _mark_own(indptr, indices, users, place, out, b)


@njit(inline="always")
def _uniform_row(indptr, indices, n_items, users, seed, out, b):  # type: ignore[no-untyped-def]
    # the r-th item that the user does not have is r plus the number of the user's items before it: one bisection
    first, last = indptr[users[b]], indptr[users[b] + 1]
    free = np.uint64(n_items - (last - first))
    for k in range(out.shape[1]):
        state = hash64(seed ^ hash64(np.uint64(b * out.shape[1] + k)))
        rank = np.int64((state >> np.uint64(32)) * free >> np.uint64(32))
        low, high = first, last
        while low < high:
            middle = (low + high) // 2
            if indices[middle] - (middle - first) <= rank:
                low = middle + 1
            else:
                high = middle
        out[b, k] = rank + low - first


@njit(parallel=True, nogil=True)
def _own_uniform(indptr, indices, n_items, users, seed, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(users.size):
        _uniform_row(indptr, indices, n_items, users, seed, out, b)


@njit(nogil=True)
def _own_uniform_serial(indptr, indices, n_items, users, seed, out):  # type: ignore[no-untyped-def]
    for b in range(users.size):
        _uniform_row(indptr, indices, n_items, users, seed, out, b)


@njit()
def _weighted_among_free(indices, first, last, cumulated, share):  # type: ignore[no-untyped-def]
    """The item at a share of the total weight without that of the row's own items."""
    free = cumulated[-1]
    for e in range(first, last):
        free -= cumulated[indices[e] + 1] - cumulated[indices[e]]
    target = min(np.int64(share * free), free - 1)
    for e in range(first, last):
        if cumulated[indices[e]] > target:
            break
        target += cumulated[indices[e] + 1] - cumulated[indices[e]]
    return np.searchsorted(cumulated, target, "right") - 1


@njit(inline="always")
def _weighted_row(indptr, indices, cumulated, guide, users, seed, out, b):  # type: ignore[no-untyped-def]
    first, last = indptr[users[b]], indptr[users[b] + 1]
    for k in range(out.shape[1]):
        state = hash64(seed ^ hash64(np.uint64(b * out.shape[1] + k)))
        item = np.int64(-1)
        for _ in range(_TRIES):
            state = hash64(state)
            share = np.float64(state >> np.uint64(11)) * 2.0**-53
            target = np.int64(share * cumulated[-1])
            tried = np.int64(guide[np.int64(share * guide.size)])
            while cumulated[tried + 1] <= target:
                tried += 1
            low, high = first, last
            while low < high:
                middle = (low + high) // 2
                if indices[middle] < tried:
                    low = middle + 1
                else:
                    high = middle
            if low == last or indices[low] != tried:
                item = tried
                break
        if item < 0:  # the user's items have nearly all the weight: draw exactly, without rejection
            share = np.float64(hash64(state) >> np.uint64(11)) * 2.0**-53
            item = _weighted_among_free(indices, first, last, cumulated, share)
        out[b, k] = item


@njit(parallel=True, nogil=True)
def _own_weighted(indptr, indices, cumulated, guide, users, seed, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(users.size):
        _weighted_row(indptr, indices, cumulated, guide, users, seed, out, b)


@njit(nogil=True)
def _own_weighted_serial(indptr, indices, cumulated, guide, users, seed, out):  # type: ignore[no-untyped-def]
    for b in range(users.size):
        _weighted_row(indptr, indices, cumulated, guide, users, seed, out, b)


@njit(nogil=True)
def _distinct(rows, n):  # type: ignore[no-untyped-def]
    place = np.zeros(n, np.int32)
    for b in range(rows.size):
        place[rows[b]] = 1
    count = 0
    for i in range(n):
        count += place[i]
    found, at = np.empty(count, np.int64), np.empty(rows.size, np.int64)
    count = 0
    for i in range(n):
        if place[i]:
            found[count], place[i] = i, count
            count += 1
    for b in range(rows.size):
        at[b] = place[rows[b]]
    return found, at


def distinct(rows: Int64, n: int) -> tuple[Int64, Int64]:
    """Distinct rows, ascending, and the position of each given row among them: ``np.unique`` without sorting.

    Args:
        rows: int64 [B], of 0 … n − 1.
        n: number of all rows; a relatively small batch is sorted nevertheless.
    """
    if n > _MARKED * max(rows.size, 1):
        return np.unique(rows, return_inverse=True)
    result: tuple[Int64, Int64] = _distinct(rows, n)
    return result


def check_negatives_exist(positives: Csr) -> None:
    """Check that every user lacks an item, which can be a negative.

    Raises:
        InputError: a user has every item.
    """
    full = positives.degrees() == positives.n_cols
    if full.any():
        raise InputError(
            "user has every item, so there is no negative",
            where=f"user row {full.argmax()}",
            expected=f"fewer than {positives.n_cols} training items",
            found=f"{positives.n_cols}",
        )


@dataclass(frozen=True, slots=True, eq=False)
class NegativeBatch:
    """The negatives of one batch of B edges.

    Attributes:
        items: int64 [C], distinct item rows, ascending.
        columns: int32 [B, n], each edge's own negatives as positions in ``items``; None: edges share all C.
        excluded: bool [B, C], True for items of the edge's user, which are no negatives; None: nowhere.
        log_q: float32 [C], natural log of the probability that the item is in the batch (own negatives: of its
            expected number among an edge's n); None for uniform draws, where all items have the same.
    """

    items: Int64
    columns: Int32 | None
    excluded: Bool | None
    log_q: Float32 | None


class NegativeSampler:
    """Draws the negatives of a batch of training edges.

    ``uniform``: all items with equal probability. ``popularity``: by training count to a power (Mikolov et al. 2013:
    0.75); an item without training edges has count 1, so that every item can be drawn. ``in-batch``: the items of the
    batch's edges, hence by training count. ``mixed``: half in-batch, half uniform (Yang et al. 2020).

    *Shared* negatives are one set of distinct items for a batch, with a mask of each user's own items.
    *Own* negatives are drawn for each edge, with replacement, among the items that its user does not have.

    ``log_q`` is the correction for sampling: the expectation of Σ exp(s − log_q) over an edge's negatives is Σ exp(s)
    over all items that the user does not have. (The positive is always included and needs no correction.) It is

    - exact for shared ``popularity``. Drawing without replacement keeps the n smallest of Exp(1)/weight; given τ, the
      next smallest, an item is among them with probability 1 − exp(−weight · τ) (rank conditioning, Cohen & Kaplan
      2007). The usual approximation, the log of a single draw's probability, underestimates the probability of
      popular items when n times that probability is near 1.
    - approximate for ``in-batch`` and ``mixed``: a batch is treated as edges drawn uniformly without replacement, so
      that an item with c of the E edges is among m others with probability 1 − (1 − m / (E − 1))^c, close to the
      hypergeometric one; for small m this is m · c / E.
    - log(n · weight / Σ weights) for own ``popularity``. Excluding a user's own items multiplies the user's other
      probabilities by one factor, which is omitted.

    Random numbers depend only on the seed, not on the number of threads.

    Args:
        positives: users by items, the training edges.
        kind: ``uniform``, ``popularity``, ``in-batch`` or ``mixed``.
        n: own negatives per edge, or shared items per batch, at most the catalogue. In-batch: number of edges of the
            batch whose items are used (at most all). Mixed: at most n // 2 of these, and uniform items for the rest.
            Duplicates count once.
        shared: one set for a batch; required for in-batch and mixed.
        power: exponent of the training count (``popularity`` only).
        parallel: False avoids parallel regions, so that several threads may draw at once.

    Raises:
        InputError: the kind is unknown, n is below 1, in-batch or mixed negatives are not shared, the power is
            negative or not finite, or a user has every item.
    """

    def __init__(
        self, positives: Csr, kind: str, n: int, shared: bool, power: float = 0.75, parallel: bool = True
    ) -> None:
        if kind not in KINDS:
            raise InputError("unknown negatives", where="negatives", expected=one_of(KINDS), found=repr(kind))
        if n < 1:
            raise InputError("too few negatives", where=f"{kind} negatives", expected="1 or more", found=str(n))
        if not shared and kind in ("in-batch", "mixed"):
            raise InputError(
                "items of other edges of the batch can only be shared",
                where=f"{kind} negatives",
                expected="shared negatives, or uniform or popularity",
                found="own negatives per edge",
            )
        if not 0 <= power < np.inf:
            raise InputError(
                "power of the training count",
                where=f"{kind} negatives",
                expected="finite, 0 or more",
                found=str(power),
            )
        check_negatives_exist(positives)
        self.positives, self.kind, self.n, self.shared, self.power = positives, kind, n, shared, power
        self.parallel = parallel
        self._counts = np.maximum(np.bincount(positives.indices, minlength=positives.n_cols), 1)
        # integers, so that weights add up without error; 2^50 in all, each at least 1
        weights = self._counts**power if kind == "popularity" else np.ones(positives.n_cols)
        integers = np.maximum(np.rint(weights * (2.0**50 / weights.sum())), 1).astype(np.int64)
        self._cumulated = np.concatenate([np.zeros(1, np.int64), np.cumsum(integers)])
        # indexed search (Chen & Asau 1974): share u of the weight is reached at or shortly after guide[u · parts]
        parts = 1 << int(positives.n_cols - 1).bit_length()
        at = (np.arange(parts) / parts * self._cumulated[-1]).astype(np.int64)
        self._guide = (np.searchsorted(self._cumulated, at, "right") - 1).astype(np.int32)

    def __repr__(self) -> str:
        how = "shared by a batch" if self.shared else "per edge"
        return f"NegativeSampler({self.kind}, {self.n} {how}, {self.positives.n_cols} items)"

    def draw(self, users: Int64, items: Int64, seed: np.random.SeedSequence) -> NegativeBatch:
        """Negatives of the edges (users[b], items[b]).

        Args:
            users: user rows [B].
            items: item rows [B], of training edges.
            seed: the same seed gives the same negatives.
        """
        return self._draw_shared(users, items, seed) if self.shared else self._draw_own(users, seed)

    def _draw_own(self, users: Int64, seed: np.random.SeedSequence) -> NegativeBatch:
        p, word = self.positives, seed.generate_state(1, np.uint64)[0]
        out = np.empty((users.size, self.n), np.int32)
        parallel = self.parallel and out.size >= _PARALLEL
        if self.kind == "uniform":
            uniform = _own_uniform if parallel else _own_uniform_serial
            uniform(p.indptr, p.indices, p.n_cols, users, word, out)
        else:
            weighted = _own_weighted if parallel else _own_weighted_serial
            weighted(p.indptr, p.indices, self._cumulated, self._guide, users, word, out)
        place = np.zeros(p.n_cols, np.int32)
        place[out] = 1
        drawn = np.flatnonzero(place)
        place[drawn] = np.arange(drawn.size, dtype=np.int32)
        log_q = None
        if self.kind == "popularity":
            weights = self._cumulated[drawn + 1] - self._cumulated[drawn]
            log_q = np.log(weights * (self.n / self._cumulated[-1])).astype(np.float32)
        return NegativeBatch(drawn, place[out], None, log_q)

    def _draw_shared(self, users: Int64, items: Int64, seed: np.random.SeedSequence) -> NegativeBatch:
        p, rng = self.positives, np.random.default_rng(seed)
        n = min(self.n, p.n_cols)
        log_q = None
        if self.kind == "uniform":
            drawn = np.sort(rng.choice(p.n_cols, n, replace=False, shuffle=False))
        elif self.kind == "popularity":
            weights = np.diff(self._cumulated) * (1 / self._cumulated[-1])
            keys = rng.standard_exponential(p.n_cols) / weights
            drawn = np.arange(p.n_cols)
            log_q = np.zeros(n, np.float32)
            if n < p.n_cols:
                order = np.argpartition(keys, n)
                drawn = np.sort(order[:n])
                log_q = np.log(-np.expm1(-weights[drawn] * keys[order[n]])).astype(np.float32)
        else:
            m = min(self.n if self.kind == "in-batch" else self.n // 2, items.size)
            from_batch = items if m == items.size else items[rng.choice(items.size, m, replace=False, shuffle=False)]
            fill = np.empty(0, np.int64)
            if self.kind == "mixed":
                fill = rng.choice(p.n_cols, min(self.n - m, p.n_cols), replace=False, shuffle=False)
            drawn = np.unique(np.concatenate([from_batch, fill]))
            others = m / max(items.size, 1) * max(items.size - 1, 1)
            missed = self._counts[drawn] * np.log1p(-min(others / max(p.nnz - 1, 1), 1 - 1e-12))
            missed += np.log1p(-min(fill.size / p.n_cols, 1 - 1e-12))
            log_q = np.log(-np.expm1(missed)).astype(np.float32)
        place = np.full(p.n_cols, -1, np.int32)
        place[drawn] = np.arange(drawn.size, dtype=np.int32)
        excluded = np.zeros((users.size, drawn.size), np.bool_)
        look_ups = int((p.indptr[users + 1] - p.indptr[users]).sum())
        mark = _shared_positives if self.parallel and look_ups >= _PARALLEL else _shared_positives_serial
        mark(p.indptr, p.indices, users, place, excluded)
        return NegativeBatch(drawn, None, excluded, log_q)
