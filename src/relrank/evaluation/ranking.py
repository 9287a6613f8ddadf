"""Full-catalogue ranking: counts of higher and equal scores for relevant items, and top-k lists, without a sort.

Scores are computed once per block of users. One compiled sweep over each row masks the user's seen items, checks the
scores, counts for every relevant item how many candidates score higher and how many score the same, and keeps the k
best candidates. If scores are dot products, the sweep computes them and no row of scores is written to memory. If
they are products of sparse inputs and weights, only items with a nonzero score are visited. If all users have the
same scores, the catalogue is sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from relrank.errors import InputError
from relrank.kernels import fused_ranking, sparse_ranking
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.shared_ranking import SharedRanking
from relrank.models.core.base import history_rows

SCORE_BYTES = 128 * 2**20
"""Memory limit for the scores of one block of users (a single row may take more)."""
FUSED_FROM = 128
"""Minimum number of users for fused dot products: for fewer, packing the item vectors takes longer than it saves."""
STRIP = 1024
"""Users per unit of work of one thread."""
VECTORS_AT_ONCE = 1 << 16
"""Users whose vectors are computed at once."""
HISTORIES_AT_ONCE = 1024
"""Histories that are encoded at once."""


class Scorer(Protocol):
    """A model that scores the catalogue for known users."""

    def score(self, users: torch.Tensor, /) -> torch.Tensor:
        """Scores float32 [B, n_items] for user rows int64 [B]; higher is better, all of them finite."""


class FoldIn(Protocol):
    """A model that scores the catalogue for histories unseen during training."""

    def fold_in(self, histories: list[torch.Tensor], /) -> torch.Tensor:
        """Scores float32 [B, n_items] for B histories of item rows, each int64 [length]."""


class DotProductScores(Protocol):
    """Optional interface of a ``Scorer`` or ``FoldIn`` whose scores are dot products of vectors."""

    is_dot_product: bool
    """Whether scores are exactly these products."""

    def item_vectors(self) -> torch.Tensor:
        """Vectors of the catalogue, [n_items, d]."""

    def user_vectors(self, users: torch.Tensor, /) -> torch.Tensor:
        """Vectors [B, d] of user rows int64 [B]."""

    def history_vectors(self, histories: Sequence[torch.Tensor], /) -> torch.Tensor:
        """Vectors [B, d] of B histories."""


class SparseProductScores(Protocol):
    """Optional interface of a ``Scorer`` or ``FoldIn`` whose scores are products of sparse inputs and weights."""

    is_sparse_product: bool
    """Whether scores are exactly this product."""

    def item_weights(self) -> Csr:
        """Weights [n_inputs, n_items]."""

    def inputs(self, users: torch.Tensor, /) -> Csr:
        """Inputs [B, n_inputs] of user rows int64 [B]."""

    def history_inputs(self, histories: Sequence[torch.Tensor], /) -> Csr:
        """Inputs [B, n_inputs or n_items] of B histories."""


class SharedScores(Protocol):
    """Optional interface of a ``Scorer`` or ``FoldIn`` whose scores are the same for every user."""

    has_shared_scores: bool
    """Whether all users have the same scores."""

    def shared_scores(self) -> torch.Tensor:
        """Scores of all users, float32 [n_items]."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Ranks of relevant items among the candidates, for every user who has relevant items.

    An item has one of the 0-based positions ``higher`` … ``higher + equal − 1``, each equally likely under random
    tie-breaking. Two relevant items of one user are tied exactly if they have the same ``higher``.

    Attributes:
        users: int32 [n_users], user rows, ascending.
        indptr: int64 [n_users + 1], where each user's items start.
        items: int32 [nnz], the relevant items, ascending inside a user.
        higher: int32 [nnz], candidates that score higher than the item.
        equal: int32 [nnz], candidates that score the same, including the item itself.
        constant_users: number of users whose candidates (at least two) all have the same score.
    """

    users: Int32
    indptr: Int64
    items: Int32
    higher: Int32
    equal: Int32
    constant_users: int


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k best candidates per user, best first.

    Attributes:
        items: int32 [n_users, k], item rows; −1 if there are fewer than k candidates.
        scores: float32 [n_users, k]; −inf where ``items`` is −1.
    """

    items: Int32
    scores: Float32


def ranks(
    model: Scorer,
    seen: Csr,
    truth: Csr,
    *,
    excluded_items: Int32 | None = None,
    block: int | None = None,
    reject_constant_scores: bool | None = None,
) -> Ranks:
    """Rank every relevant item among all items that the user has not seen.

    Scores are those of ``model.score``. For a ``DotProductScores`` on the CPU they are summed in the order of the
    dimensions, so that items with equal vectors have equal scores.

    Args:
        model: scores the users.
        seen: users by items, excluded from each user's candidates.
        truth: users by items, the relevant items; users with an empty row are not scored.
        excluded_items: item rows that are candidates for no user, ascending.
        block: users scored at once; by default as many as ``SCORE_BYTES`` allows, and more for dot products.
        reject_constant_scores: whether constant scores of all users are an error; by default if no items are
            excluded (a model may know nothing about those that remain).

    Raises:
        InputError: a score is not finite, or every user's candidates all have the same score.
        ValueError: a relevant item is masked, or the model returns another shape than [B, n_items].
    """
    return ranks_and_top_k(
        model,
        seen,
        truth,
        0,
        excluded_items=excluded_items,
        block=block,
        reject_constant_scores=reject_constant_scores,
    )[0]


def ranks_and_top_k(
    model: Scorer,
    seen: Csr,
    truth: Csr,
    k: int,
    *,
    excluded_items: Int32 | None = None,
    block: int | None = None,
    reject_constant_scores: bool | None = None,
) -> tuple[Ranks, TopK]:
    """``ranks`` and the top-k lists of the same users (``Ranks.users``), from one pass over the scores.

    Arguments and errors are those of ``ranks``.
    """
    users = np.flatnonzero(truth.degrees()).astype(np.int32)
    result = _RankingPass(_name(model), users, seen, truth, k, excluded_items).run(model, block)
    if (bad := np.flatnonzero(result.higher < 0)).size:
        row, item = truth.rows()[bad[0]], truth.indices[bad[0]]
        raise ValueError(f"{bad.size} relevant items are masked as seen, the first: user row {row}, item row {item}")
    constant_users = int(result.all_tied.sum())
    if reject_constant_scores is None:
        reject_constant_scores = not result.excluded_items.size
    if users.size and constant_users == users.size and reject_constant_scores:
        raise InputError(
            "scores are constant",
            where=f"model {_name(model)}",
            expected="at least one user whose candidates have different scores",
            found=f"the same score for all candidates of each of {users.size:,} users",
        )
    indptr = np.concatenate([[0], np.cumsum(truth.degrees()[users])])
    return Ranks(users, indptr, truth.indices, result.higher, result.equal, constant_users), result.lists()


def top_k(
    model: Scorer,
    users: npt.NDArray[np.integer],
    seen: Csr,
    k: int,
    *,
    excluded_items: Int32 | None = None,
    block: int | None = None,
) -> TopK:
    """The k best items that each user has not seen, best first.

    Ties are broken by a fixed random order of the catalogue, not by item row: rows are often sorted by popularity,
    and a model with constant scores would look like a popularity model.

    Args:
        model: scores the users.
        users: user rows [n_users].
        seen: users by items, excluded from each user's candidates; indexed by user row.
        k: length of the lists.
        excluded_items: item rows that are candidates for no user, ascending.
        block: users scored at once; see ``ranks``.

    Raises:
        InputError: a score is not finite.
        ValueError: the model returns another shape than [B, n_items].
    """
    return _RankingPass(_name(model), users.astype(np.int32), seen, None, k, excluded_items).run(model, block).lists()


def top_k_from_histories(
    model: FoldIn,
    histories: Sequence[torch.Tensor],
    n_items: int,
    k: int,
    *,
    excluded_items: Int32 | None = None,
    block: int | None = None,
) -> TopK:
    """The k best items for histories unseen during training, without the items of the history itself.

    Args:
        model: folds the histories in.
        histories: item rows per user, each int64 [length], in time order; may repeat an item.
        n_items: size of the catalogue.
        k: length of the lists.
        excluded_items: item rows that are candidates for no user, ascending.
        block: histories scored at once; see ``ranks``.

    Raises:
        InputError: a score is not finite, or a history holds an item row outside the catalogue.
        ValueError: the model returns another shape than [B, n_items].
    """
    seen = history_rows(histories, n_items)
    users = np.arange(seen.n_rows, dtype=np.int32)
    scorer = FoldInScorer(model, lambda rows: [histories[row] for row in rows.tolist()])
    return _RankingPass(_name(model), users, seen, None, k, excluded_items).run(scorer, block).lists()


def _name(model: object) -> str:
    return str(getattr(model, "name", type(model).__name__))


class FoldInScorer:
    """A ``Scorer`` of users whose scores a model computes from their histories.

    It also has the optional interfaces that the model has.

    Args:
        model: a ``FoldIn``.
        histories: the histories of user rows int64 [B], each int64 [length] of item rows.
    """

    def __init__(self, model: FoldIn, histories: Callable[[torch.Tensor], list[torch.Tensor]]) -> None:
        self._model, self._histories = cast("Any", model), histories
        self.name, self.is_dot_product = _name(model), bool(getattr(model, "is_dot_product", False))
        self.is_sparse_product = bool(getattr(model, "is_sparse_product", False))
        self.has_shared_scores = bool(getattr(model, "has_shared_scores", False))

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores of the users' histories."""
        return cast("torch.Tensor", self._model.fold_in(self._histories(rows)))

    def item_vectors(self) -> torch.Tensor:
        """The model's item vectors."""
        return cast("torch.Tensor", self._model.item_vectors())

    def user_vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors of the users' histories, encoded in parts: activations take far more memory than the vectors."""
        parts = torch.split(rows, HISTORIES_AT_ONCE)
        return torch.cat([self._model.history_vectors(self._histories(part)) for part in parts])

    def shared_scores(self) -> torch.Tensor:
        """The model's shared scores."""
        return cast("torch.Tensor", self._model.shared_scores())

    def item_weights(self) -> Csr:
        """The model's item weights."""
        return cast("Csr", self._model.item_weights())

    def inputs(self, rows: torch.Tensor) -> Csr:
        """Inputs of the users' histories."""
        return cast("Csr", self._model.history_inputs(self._histories(rows)))


class _RankingPass:
    """One pass over the scores of some users, with the counts and lists that it collects."""

    def __init__(
        self, model: str, users: Int32, seen: Csr, truth: Csr | None, k: int, excluded_items: Int32 | None
    ) -> None:
        if k < 0:
            raise ValueError(f"k must not be negative, it is {k}")
        if truth is None:
            indptr = np.zeros(seen.n_rows + 1, np.int64)
            truth = Csr(indptr, np.zeros(0, np.int32), np.zeros(0, np.float32), seen.n_cols)
        self.model, self.users, self.n_items = model, users, seen.n_cols
        self.excluded_items = np.zeros(0, np.int32) if excluded_items is None else excluded_items.astype(np.int32)
        self.order = tie_break_order(self.n_items)
        self.positions = _positions(self.order, self.n_items)
        self.masks = seen.indptr, seen.indices, truth.indptr, truth.indices, self.excluded_items
        self.higher, self.equal = np.empty(truth.nnz, np.int32), np.empty(truth.nnz, np.int32)
        self.all_tied = np.zeros(users.size, np.bool_)
        self.not_finite = np.zeros(users.size, np.int64)
        self.top_items = np.full((users.size, k), -1, np.int32)
        self.top_scores = np.full((users.size, k), -np.inf, np.float32)

    def lists(self) -> TopK:
        """The lists of a pass that has run."""
        return TopK(self.top_items, self.top_scores)

    def counts(self, users: slice) -> tuple[Int32, Int32, npt.NDArray[np.bool_]]:
        """Arrays for the kernels' counts."""
        return self.higher, self.equal, self.all_tied[users]

    def top_lists(self, users: slice) -> tuple[Int32, Float32]:
        """Arrays for the kernels' lists."""
        return self.top_items[users], self.top_scores[users]

    def run(self, model: Scorer, block: int | None) -> _RankingPass:
        """Rank all users with the cheapest kind of scores that the model offers."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            if getattr(model, "is_sparse_product", False):
                self._run_sparse(cast("SparseProductScores", model), block, pool)
            elif getattr(model, "has_shared_scores", False):
                self._run_shared(cast("SharedScores", model), pool)
            else:
                self._run_dense(model, block, pool)
        return self

    def _blocks(self, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Users in blocks: the index of a block's first user, and user rows int64 [B]."""
        for start in range(0, self.users.size, size):
            yield start, torch.from_numpy(self.users[start : start + size].astype(np.int64))

    def _run_sparse(self, model: SparseProductScores, block: int | None, pool: ThreadPoolExecutor) -> None:
        weights = model.item_weights()
        if weights.n_cols != self.n_items:
            raise ValueError(f"{self.model} has weights for {weights.n_cols} items, expected {self.n_items}")
        for start, rows in self._blocks(block or VECTORS_AT_ONCE):
            inputs = model.inputs(rows)
            if inputs.n_rows != len(rows) or inputs.n_cols > weights.n_rows:
                shape, expected = (inputs.n_rows, inputs.n_cols), (len(rows), weights.n_rows)
                raise ValueError(f"{self.model} returned inputs of shape {shape}, expected {expected}")
            _in_strips(pool, len(rows), len(rows), partial(self._sparse_strip, inputs, weights, start))
            self._check_finite(start, start + len(rows))

    def _sparse_strip(self, inputs: Csr, weights: Csr, start: int, a: int, b: int) -> None:
        users = slice(start + a, start + b)
        csr = (weights.indptr, weights.indices, weights.data)
        product = (inputs.indptr[a : b + 1], inputs.indices, inputs.data, *csr)
        counts = (*self.counts(users), self.not_finite[users])
        if not self.top_items.shape[1] and self.n_items <= sparse_ranking.FEW_ITEMS:
            sparse_ranking.rank_few_items(*product, self.users[users], *self.masks, *counts, self.n_items)
        else:
            ties = (self.order, self.positions)
            sparse_ranking.rank_sparse(
                *product, self.users[users], *ties, *self.masks, *counts, *self.top_lists(users)
            )

    def _run_shared(self, model: SharedScores, pool: ThreadPoolExecutor) -> None:
        scores = np.ascontiguousarray(model.shared_scores().detach().float().numpy(force=True))
        if scores.shape != (self.n_items,):
            raise ValueError(f"{self.model} returned scores of shape {scores.shape}, expected {(self.n_items,)}")
        self.not_finite[:] = (~np.isfinite(scores)).sum()
        self._check_finite(0, self.users.size)
        if not self.users.size:
            return
        ranking = SharedRanking(scores, self.positions, self.excluded_items)

        def strip(a: int, b: int) -> None:
            users = slice(a, b)
            ranking.rank(self.users[users], *self.masks[:4], *self.counts(users), *self.top_lists(users))

        _in_strips(pool, self.users.size, self.users.size, strip)

    def _run_dense(self, model: Scorer, block: int | None, pool: ThreadPoolExecutor) -> None:
        items = self._item_vectors(model)
        panels = None if items is None else _Panels(items, self.order, self.excluded_items)
        score_rows = block or max(1, SCORE_BYTES // (4 * max(self.n_items, 1)))
        for start, rows in self._blocks(score_rows if panels is None else block or VECTORS_AT_ONCE):
            if panels is not None and self._run_products(cast("DotProductScores", model), rows, start, panels, pool):
                continue
            for at in range(0, len(rows), score_rows):
                self._run_scores(model, rows[at : at + score_rows], start + at, pool)

    def _item_vectors(self, model: Any) -> Float32 | None:
        """Item vectors, if scores are exactly their dot products and the fused kernel can compute these."""
        if self.users.size < FUSED_FROM or not fused_ranking.HAS_FMA or not getattr(model, "is_dot_product", False):
            return None
        with torch.no_grad():
            items: torch.Tensor = model.item_vectors()
        if items.device.type != "cpu" or items.dtype != torch.float32 or len(items) != self.n_items:
            return None
        return np.ascontiguousarray(items.detach().numpy())

    def _run_products(
        self, model: DotProductScores, rows: torch.Tensor, start: int, panels: _Panels, pool: ThreadPoolExecutor
    ) -> bool:
        """Rank a block of users by fused dot products; False if one could overflow, so scores must be checked."""
        with torch.no_grad():
            user_vectors = model.user_vectors(rows)
        if user_vectors.shape != (expected := (len(rows), panels.items.shape[1])):
            shape = tuple(user_vectors.shape)
            raise ValueError(f"{self.model} returned vectors of shape {shape}, expected {expected}")
        if user_vectors.device.type != "cpu" or user_vectors.dtype != torch.float32:
            return False
        vectors = np.ascontiguousarray(user_vectors.detach().numpy())
        if not _largest(vectors) * panels.largest * vectors.shape[1] < float(fused_ranking.LARGEST):
            return False  # also for NaN

        def strip(a: int, b: int) -> None:
            users = slice(start + a, start + b)
            fused_ranking.rank_products(
                vectors[a:b],
                self.users[users],
                *panels.arrays(),
                *self.masks,
                *self.counts(users),
                *self.top_lists(users),
            )

        _in_strips(pool, len(vectors), STRIP, strip)
        return True

    def _run_scores(self, model: Scorer, rows: torch.Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Rank a block of users by rows of scores."""
        shape = (len(rows), self.n_items)
        with torch.no_grad():
            out = model.score(rows)
        if out.shape != shape:
            raise ValueError(f"{self.model} returned scores of shape {tuple(out.shape)}, expected {shape}")
        # copies rows that share memory (an expanded tensor); the model's memory is never written to
        scores = np.ascontiguousarray(out.float().numpy(force=True))

        def strip(a: int, b: int) -> None:
            users = slice(start + a, start + b)
            fused_ranking.rank_rows(
                scores[a:b],
                self.users[users],
                self.order,
                self.positions,
                *self.masks,
                *self.counts(users),
                self.not_finite[users],
                *self.top_lists(users),
            )

        _in_strips(pool, len(rows), len(rows), strip)
        self._check_finite(start, start + len(rows))

    def _check_finite(self, start: int, stop: int) -> None:
        if (bad := np.flatnonzero(self.not_finite[start:stop])).size:
            first = start + bad[0]
            raise InputError(
                "scores are not finite",
                where=f"model {self.model}, user row {self.users[first]}",
                expected="finite numbers (diverged training is the usual cause)",
                found=f"{self.not_finite[first]:,} of {self.n_items:,} scores are NaN or infinite; "
                f"{bad.size:,} of {stop - start:,} users in this block are affected",
            )


def _in_strips(pool: ThreadPoolExecutor, n: int, most: int, work: Callable[[int, int], None]) -> None:
    """Call ``work`` on strips of 0 … n in parallel, each of at most ``most``."""
    n_threads = torch.get_num_threads()
    pieces = min(-(-max(n_threads, -(-n // most)) // n_threads) * n_threads, n)
    edges = np.linspace(0, n, pieces + 1).astype(np.int64).tolist()
    # kernels release the GIL, so threads suffice, and several callers can rank at once
    for strip in [pool.submit(work, a, b) for a, b in pairwise(edges)]:
        strip.result()


class _Panels:
    """Item vectors packed for the fused product, in tie-breaking order."""

    def __init__(self, items: Float32, order: Int32, excluded_items: Int32) -> None:
        self.items = items
        self.order = order[~np.isin(order, excluded_items)] if excluded_items.size else order
        self.positions = _positions(self.order, len(items))
        self.largest = _largest(items)
        self.panels = np.empty(
            (-(-self.order.size // fused_ranking.WIDTH), items.shape[1], fused_ranking.WIDTH), np.float32
        )
        fused_ranking.pack(items, self.order, self.panels)

    def arrays(self) -> tuple[Float32, Float32, Int32, Int32]:
        """Arguments of the kernel."""
        return self.items, self.panels, self.order, self.positions


def _largest(vectors: Float32) -> float:
    """Largest absolute value, NaN if there is one."""
    return float(np.maximum(vectors.max(initial=0), -vectors.min(initial=0)))


def _positions(order: Int32, n_items: int) -> Int32:
    """Position of each item in an order; −1 if it is not in it."""
    positions = np.full(n_items, -1, np.int32)
    positions[order] = np.arange(order.size, dtype=np.int32)
    return positions


@lru_cache(maxsize=8)
def tie_break_order(n_items: int) -> Int32:
    """The fixed random order of a catalogue that breaks ties between equal scores."""
    return np.random.default_rng(20_110).permutation(n_items).astype(np.int32)
