"""Scores become expected ranks and top-k lists: full catalogue, masked, block by block, without a sort.

Scores are computed once per block of users; one compiled sweep over each row then masks the items the user has seen,
checks the scores, counts what stands above and beside every relevant item, and keeps the k best candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from relrank.csr import Csr, Float32, Float64, Int32, Int64
from relrank.errors import InputError
from relrank.models.base import history_rows

SCORE_BYTES = 128 * 2**20
"""Scores of one block of users take at most this much memory (unless a single row takes more)."""


class Scorer(Protocol):
    """Anything that can rank the catalogue for known users."""

    def score(self, users: torch.Tensor, /) -> torch.Tensor:
        """Scores float32 [B, n_items] for user rows int64 [B]; higher is better, all of them finite."""
        ...


class FoldIn(Protocol):
    """Anything that can rank the catalogue for a history it has never seen."""

    def fold_in(self, histories: list[torch.Tensor], /) -> torch.Tensor:
        """Scores float32 [B, n_items] for B histories of item rows, each int64 [length]."""
        ...


@dataclass(frozen=True, slots=True)
class Ranks:
    """Expected ranks of the relevant items of every user who has any.

    Attributes:
        users: int32 [n_users], user rows, ascending.
        indptr: int64 [n_users + 1], where each user's ranks start.
        items: int32 [nnz], the relevant items, ascending inside a user.
        ranks: float64 [nnz], 0-based expected rank among all candidates: ``#(higher) + (#(equal) − 1) / 2``.
        constant_users: users whose candidates (at least two) all have the same score.
    """

    users: Int32
    indptr: Int64
    items: Int32
    ranks: Float64
    constant_users: int


@dataclass(frozen=True, slots=True)
class TopK:
    """The k best candidates per user, best first.

    Attributes:
        items: int32 [n_users, k], item rows; −1 where fewer than k candidates are left.
        scores: float32 [n_users, k]; −inf beside −1.
    """

    items: Int32
    scores: Float32


def ranks(model: Scorer, seen: Csr, truth: Csr, *, closed: Int32 | None = None, block: int | None = None) -> Ranks:
    """Rank every relevant item among all items the user has not seen.

    Args:
        model: scores the users.
        seen: users by items, the candidates to leave out.
        truth: users by items, the relevant items; users with an empty row are not scored.
        closed: item rows that are candidates for nobody, ascending. Among what is left a model may have nothing to
            say; then its scores are constant, which is counted and no error.
        block: users scored at once; by default as many as ``SCORE_BYTES`` holds.

    Raises:
        InputError: a score is not finite, or no user's scores tell any two candidates apart.
        ValueError: a relevant item is masked, or the model returns another shape than [B, n_items].
    """
    return ranks_and_top_k(model, seen, truth, 0, closed=closed, block=block)[0]


def ranks_and_top_k(
    model: Scorer, seen: Csr, truth: Csr, k: int, *, closed: Int32 | None = None, block: int | None = None
) -> tuple[Ranks, TopK]:
    """``ranks`` and the top-k lists of the same users (``Ranks.users``), from one pass over the scores.

    Arguments and errors are those of ``ranks``.
    """
    users = np.flatnonzero(truth.degrees()).astype(np.int32)
    pass_ = _Pass(_name(model), users, seen, truth, k, closed)
    pass_.run(model.score, block)
    if (bad := np.flatnonzero(np.isnan(pass_.ranks))).size:
        row, item = truth.rows()[bad[0]], truth.indices[bad[0]]
        raise ValueError(f"{bad.size} relevant items are masked as seen, the first: user row {row}, item row {item}")
    constant = int(pass_.constant.sum())
    if users.size and constant == users.size and not pass_.closed.size:
        raise InputError(
            "scores are constant",
            where=f"model {_name(model)}",
            expected="at least one user whose candidates have different scores",
            found=f"one and the same score for all candidates of each of {users.size:,} users",
        )
    indptr = np.concatenate([[0], np.cumsum(truth.degrees()[users])])
    return Ranks(users, indptr, truth.indices, pass_.ranks, constant), TopK(pass_.top_items, pass_.top_scores)


def top_k(model: Scorer, users: npt.NDArray[np.integer], seen: Csr, k: int, *, block: int | None = None) -> TopK:
    """The k best items that each user has not seen, best first.

    Equal scores are ordered by a fixed random order of the catalogue, never by item row: rows are often sorted by
    popularity, and a constant score must not look like a popularity model.

    Args:
        model: scores the users.
        users: user rows [n_users].
        seen: users by items, the candidates to leave out; indexed by user row.
        k: length of the lists.
        block: users scored at once; by default as many as ``SCORE_BYTES`` holds.

    Raises:
        InputError: a score is not finite.
        ValueError: the model returns another shape than [B, n_items].
    """
    pass_ = _Pass(_name(model), users.astype(np.int32), seen, None, k)
    pass_.run(model.score, block)
    return TopK(pass_.top_items, pass_.top_scores)


def top_k_from_histories(
    model: FoldIn, histories: Sequence[torch.Tensor], n_items: int, k: int, *, block: int | None = None
) -> TopK:
    """The k best items for histories never seen in training, without the items of the history itself.

    Args:
        model: folds the histories in.
        histories: item rows per user, each int64 [length], in time order; may repeat an item.
        n_items: size of the catalogue.
        k: length of the lists.
        block: histories scored at once; by default as many as ``SCORE_BYTES`` holds.

    Raises:
        InputError: a score is not finite, or a history holds an item row outside the catalogue.
        ValueError: the model returns another shape than [B, n_items].
    """
    seen = history_rows(histories, n_items)
    pass_ = _Pass(_name(model), np.arange(seen.n_rows, dtype=np.int32), seen, None, k)
    pass_.run(lambda block_: model.fold_in([histories[row] for row in block_.tolist()]), block)
    return TopK(pass_.top_items, pass_.top_scores)


def _name(model: object) -> str:
    return str(getattr(model, "name", type(model).__name__))


class _Pass:
    """One pass over the scores of some users, and what it found."""

    def __init__(
        self, model: str, users: Int32, seen: Csr, truth: Csr | None, k: int, closed: Int32 | None = None
    ) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, it is {k}")
        nothing = Csr(
            np.zeros(seen.n_rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), seen.n_cols
        )
        self.model = model
        self.users = users
        self.seen = seen
        self.truth = nothing if truth is None else truth
        self.closed = np.zeros(0, np.int32) if closed is None else closed.astype(np.int32)
        self.order = visiting_order(seen.n_cols)
        self.ranks = np.empty(self.truth.nnz)
        self.constant = np.zeros(users.size, np.bool_)
        self.not_finite = np.zeros(users.size, np.int64)
        self.top_items = np.full((users.size, k), -1, np.int32)
        self.top_scores = np.full((users.size, k), -np.inf, np.float32)

    def run(self, score: Callable[[torch.Tensor], torch.Tensor], block: int | None) -> None:
        n_items = self.seen.n_cols
        size = block or max(1, SCORE_BYTES // (4 * max(n_items, 1)))
        n_threads = torch.get_num_threads()
        with ThreadPoolExecutor(n_threads) as pool:
            for start in range(0, self.users.size, size):
                self._run_block(score, start, min(start + size, self.users.size), pool, n_threads)

    def _run_block(
        self,
        score: Callable[[torch.Tensor], torch.Tensor],
        start: int,
        stop: int,
        pool: ThreadPoolExecutor,
        n_threads: int,
    ) -> None:
        shape = (stop - start, self.seen.n_cols)
        with torch.no_grad():
            out = score(torch.from_numpy(self.users[start:stop].astype(np.int64)))
        if out.shape != shape:
            raise ValueError(f"{self.model} returned scores of shape {tuple(out.shape)}, expected {shape}")
        # Rows that share memory (an expanded tensor) are copied here; nothing is written into the model's memory.
        scores = np.ascontiguousarray(out.float().numpy(force=True))
        edges = np.linspace(start, stop, min(n_threads, shape[0]) + 1).astype(np.int64).tolist()
        # The sweep holds no lock, so plain threads do, and several callers may rank at once.
        strips = [pool.submit(self._sweep, scores[a - start : b - start], a, b) for a, b in pairwise(edges)]
        for strip in strips:
            strip.result()
        self._check_finite(start, stop)

    def _sweep(self, scores: Float32, first: int, last: int) -> None:
        _sweep(
            scores,
            self.users[first:last],
            self.seen.indptr,
            self.seen.indices,
            self.truth.indptr,
            self.truth.indices,
            self.closed,
            self.order,
            self.ranks,
            self.constant[first:last],
            self.not_finite[first:last],
            self.top_items[first:last],
            self.top_scores[first:last],
        )

    def _check_finite(self, start: int, stop: int) -> None:
        if (bad := np.flatnonzero(self.not_finite[start:stop])).size:
            first = start + bad[0]
            raise InputError(
                "scores are not finite",
                where=f"model {self.model}, user row {self.users[first]}",
                expected="finite numbers (training that diverged is the usual cause)",
                found=f"{self.not_finite[first]:,} of {self.seen.n_cols:,} scores are NaN or infinite; "
                f"so it is for {bad.size:,} of {stop - start:,} users in this block",
            )


@lru_cache(maxsize=8)
def visiting_order(n_items: int) -> Int32:
    """The fixed random order of a catalogue that decides between equal scores."""
    return np.random.default_rng(20_110).permutation(n_items).astype(np.int32)


@njit(cache=True, nogil=True)
def _sweep(
    scores: Float32,
    users: Int32,
    seen_indptr: Int64,
    seen_items: Int32,
    truth_indptr: Int64,
    truth_items: Int32,
    closed: Int32,
    order: Int32,
    ranks: Float64,
    constant: npt.NDArray[np.bool_],
    not_finite: Int64,
    top_items: Int32,
    top_scores: Float32,
) -> None:
    """Rank the rows of ``scores`` [B, n_items]; outputs are written in place (``ranks`` NaN for a masked item)."""
    n_items = scores.shape[1]
    k = top_items.shape[1]
    row = np.empty(n_items, np.float32)  # a private copy, small enough for the second-level cache
    largest = np.float32(3.4028235e38)
    for b in range(users.size):
        user = users[b]
        bad = 0
        for i in range(n_items):
            row[i] = scores[b, i]
            bad += not (abs(row[i]) <= largest)  # false for NaN as well
        not_finite[b] = bad
        if bad:
            continue
        for at in range(seen_indptr[user], seen_indptr[user + 1]):
            row[seen_items[at]] = -np.inf
        n_candidates = n_items - (seen_indptr[user + 1] - seen_indptr[user])
        for i in closed:
            n_candidates -= row[i] != -np.inf
            row[i] = -np.inf

        some = 0
        while some < n_items and row[some] == -np.inf:
            some += 1
        if n_candidates > 1:
            equal = 0
            for i in range(n_items):
                equal += row[i] == row[some]
            constant[b] = equal == n_candidates

        for at in range(truth_indptr[user], truth_indptr[user + 1]):
            target = row[truth_items[at]]
            higher = 0
            equal = 0
            for i in range(n_items):
                higher += row[i] > target
                equal += row[i] == target
            ranks[at] = np.nan if target == -np.inf else higher + (equal - 1) / 2

        # Insertion into the list so far. Items are visited in random order: about k ln(n/k) insertions whatever the
        # order of the scores, and a later equal never displaces an earlier one.
        found = 0
        if k:
            for item in order:
                value = row[item]
                if value == -np.inf or (found == k and value <= top_scores[b, k - 1]):
                    continue
                place = found if found < k else k - 1
                found = min(found + 1, k)
                while place > 0 and top_scores[b, place - 1] < value:
                    top_scores[b, place] = top_scores[b, place - 1]
                    top_items[b, place] = top_items[b, place - 1]
                    place -= 1
                top_scores[b, place] = value
                top_items[b, place] = item
