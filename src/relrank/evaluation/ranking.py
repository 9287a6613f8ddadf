"""Scores become counts and top-k lists: full catalogue, masked, block by block, without a sort.

Scores are computed once per block of users; one compiled sweep over each row then masks the items the user has seen,
checks the scores, counts for every relevant item how many candidates score higher and how many score the same, and
keeps the k best candidates. Where scores are products of vectors, the product is part of that sweep, and no row of
scores is ever written to memory. Where they are sparse inputs times sparse weights, only the items that these reach
are visited. Where they are the same for everybody, the catalogue is sorted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
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
"""Scores of one block of users take at most this much memory (unless a single row takes more)."""

FUSED_FROM = 128
"""Fewer users are not worth laying the items' vectors out anew: then the model scores, even where it has vectors."""
STRIP = 1024
"""Users whose vectors, masks and counts one thread has at hand."""
VECTORS_AT_ONCE = 1 << 16
"""Users whose vectors are asked for at once."""
HISTORIES_AT_ONCE = 1024
"""Histories that are encoded at once."""


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


class DotProductScores(Protocol):
    """What a ``Scorer`` or ``FoldIn`` may offer beside: the vectors whose products its scores are."""

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are these products and nothing else."""
        ...

    def item_vectors(self) -> torch.Tensor:
        """Vectors of the catalogue, [n_items, d]."""
        ...

    def user_vectors(self, users: torch.Tensor, /) -> torch.Tensor:
        """Vectors [B, d] of user rows int64 [B]."""
        ...

    def history_vectors(self, histories: Sequence[torch.Tensor], /) -> torch.Tensor:
        """Vectors [B, d] of B histories."""
        ...


class SparseProductScores(Protocol):
    """What a ``Scorer`` or ``FoldIn`` may offer beside: sparse inputs and weights whose product its scores are."""

    @property
    def is_sparse_product(self) -> bool:
        """Whether scores are this product and nothing else."""
        ...

    def item_weights(self) -> Csr:
        """Weights [n_inputs, n_items]."""
        ...

    def inputs(self, users: torch.Tensor, /) -> Csr:
        """Inputs [B, n_inputs] of user rows int64 [B]."""
        ...

    def history_inputs(self, histories: Sequence[torch.Tensor], /) -> Csr:
        """Inputs [B, n_inputs or n_items] of B histories."""
        ...


class SharedScores(Protocol):
    """What a ``Scorer`` or ``FoldIn`` may offer beside: that its scores are the same for every user."""

    @property
    def has_shared_scores(self) -> bool:
        """Whether they are."""
        ...

    def shared_scores(self) -> torch.Tensor:
        """These scores, float32 [n_items]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where the relevant items of every user who has any stand among the candidates.

    An item is on one of the 0-based places ``higher`` … ``higher + equal − 1``, each equally likely under a random
    order of what ties. Relevant items of one user share a tie exactly if they have the same ``higher``.

    Attributes:
        users: int32 [n_users], user rows, ascending.
        indptr: int64 [n_users + 1], where each user's items start.
        items: int32 [nnz], the relevant items, ascending inside a user.
        higher: int32 [nnz], candidates that score higher than the item.
        equal: int32 [nnz], candidates that score the same, the item itself among them.
        constant_users: users whose candidates (at least two) all have the same score.
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
        items: int32 [n_users, k], item rows; −1 where fewer than k candidates are left.
        scores: float32 [n_users, k]; −inf beside −1.
    """

    items: Int32
    scores: Float32


def ranks(
    model: Scorer,
    seen: Csr,
    truth: Csr,
    *,
    closed: Int32 | None = None,
    block: int | None = None,
    reject_constant_scores: bool | None = None,
) -> Ranks:
    """Rank every relevant item among all items the user has not seen.

    Scores are ``model.score``, or for a ``DotProductScores`` on the CPU the same products, rounded in the order of
    the dimensions; then equal vectors of items have equal scores.

    Args:
        model: scores the users.
        seen: users by items, the candidates to leave out.
        truth: users by items, the relevant items; users with an empty row are not scored.
        closed: item rows that are candidates for nobody, ascending. Among what is left a model may have nothing to
            say; then its scores are constant, which is counted and no error.
        block: users scored at once; by default as many as ``SCORE_BYTES`` holds, and more where only vectors
            are asked for.
        reject_constant_scores: whether constant scores of all users are an error; by default where nothing is closed.

    Raises:
        InputError: a score is not finite, or no user's scores tell any two candidates apart.
        ValueError: a relevant item is masked, or the model returns another shape than [B, n_items].
    """
    return ranks_and_top_k(
        model, seen, truth, 0, closed=closed, block=block, reject_constant_scores=reject_constant_scores
    )[0]


def ranks_and_top_k(
    model: Scorer,
    seen: Csr,
    truth: Csr,
    k: int,
    *,
    closed: Int32 | None = None,
    block: int | None = None,
    reject_constant_scores: bool | None = None,
) -> tuple[Ranks, TopK]:
    """``ranks`` and the top-k lists of the same users (``Ranks.users``), from one pass over the scores.

    Arguments and errors are those of ``ranks``.
    """
    users = np.flatnonzero(truth.degrees()).astype(np.int32)
    pass_ = _Pass(_name(model), users, seen, truth, k, closed)
    pass_.run(model, block)
    if (bad := np.flatnonzero(pass_.higher < 0)).size:
        row, item = truth.rows()[bad[0]], truth.indices[bad[0]]
        raise ValueError(f"{bad.size} relevant items are masked as seen, the first: user row {row}, item row {item}")
    all_tied = int(pass_.all_tied.sum())
    reject_constant_scores = not pass_.closed.size if reject_constant_scores is None else reject_constant_scores
    if users.size and all_tied == users.size and reject_constant_scores:
        raise InputError(
            "scores are constant",
            where=f"model {_name(model)}",
            expected="at least one user whose candidates have different scores",
            found=f"one and the same score for all candidates of each of {users.size:,} users",
        )
    indptr = np.concatenate([[0], np.cumsum(truth.degrees()[users])])
    found = Ranks(users, indptr, truth.indices, pass_.higher, pass_.equal, all_tied)
    return found, TopK(pass_.top_items, pass_.top_scores)


def top_k(
    model: Scorer,
    users: npt.NDArray[np.integer],
    seen: Csr,
    k: int,
    *,
    closed: Int32 | None = None,
    block: int | None = None,
) -> TopK:
    """The k best items that each user has not seen, best first.

    Equal scores are ordered by a fixed random order of the catalogue, never by item row: rows are often sorted by
    popularity, and a constant score must not look like a popularity model.

    Args:
        model: scores the users.
        users: user rows [n_users].
        seen: users by items, the candidates to leave out; indexed by user row.
        k: length of the lists.
        closed: item rows that are candidates for nobody, ascending.
        block: users scored at once; by default as many as ``SCORE_BYTES`` holds, and more where only vectors
            are asked for.

    Raises:
        InputError: a score is not finite.
        ValueError: the model returns another shape than [B, n_items].
    """
    pass_ = _Pass(_name(model), users.astype(np.int32), seen, None, k, closed)
    pass_.run(model, block)
    return TopK(pass_.top_items, pass_.top_scores)


def top_k_from_histories(
    model: FoldIn,
    histories: Sequence[torch.Tensor],
    n_items: int,
    k: int,
    *,
    closed: Int32 | None = None,
    block: int | None = None,
) -> TopK:
    """The k best items for histories never seen in training, without the items of the history itself.

    Args:
        model: folds the histories in.
        histories: item rows per user, each int64 [length], in time order; may repeat an item.
        n_items: size of the catalogue.
        k: length of the lists.
        closed: item rows that are candidates for nobody, ascending.
        block: histories scored at once; by default as many as ``SCORE_BYTES`` holds, and more where only vectors
            are asked for.

    Raises:
        InputError: a score is not finite, or a history holds an item row outside the catalogue.
        ValueError: the model returns another shape than [B, n_items].
    """
    seen = history_rows(histories, n_items)
    pass_ = _Pass(_name(model), np.arange(seen.n_rows, dtype=np.int32), seen, None, k, closed)
    pass_.run(FoldInScorer(model, lambda rows: [histories[row] for row in rows.tolist()]), block)
    return TopK(pass_.top_items, pass_.top_scores)


def _name(model: object) -> str:
    return str(getattr(model, "name", type(model).__name__))


class FoldInScorer:
    """A model's answers to histories as a ``Scorer`` of users by number, and its vectors as a ``DotProductScores``.

    Args:
        model: a ``FoldIn``.
        histories: of users by number, int64 [B], their item rows.
    """

    def __init__(self, model: FoldIn, histories: Callable[[torch.Tensor], list[torch.Tensor]]) -> None:
        self._model, self._histories = cast("Any", model), histories
        self.name, self.is_dot_product = _name(model), bool(getattr(model, "is_dot_product", False))
        self.is_sparse_product = bool(getattr(model, "is_sparse_product", False))
        self.has_shared_scores = bool(getattr(model, "has_shared_scores", False))

    def score(self, rows: torch.Tensor) -> torch.Tensor:
        """The histories, folded in."""
        scores: torch.Tensor = self._model.fold_in(self._histories(rows))
        return scores

    def item_vectors(self) -> torch.Tensor:
        """The model's."""
        vectors: torch.Tensor = self._model.item_vectors()
        return vectors

    def user_vectors(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the histories, some at a time: what an encoder writes on the way is many times as large as they are."""
        some = torch.split(rows, HISTORIES_AT_ONCE)
        return torch.cat([self._model.history_vectors(self._histories(part)) for part in some])

    def shared_scores(self) -> torch.Tensor:
        """The model's."""
        scores: torch.Tensor = self._model.shared_scores()
        return scores

    def item_weights(self) -> Csr:
        """The model's."""
        weights: Csr = self._model.item_weights()
        return weights

    def inputs(self, rows: torch.Tensor) -> Csr:
        """Of the histories."""
        inputs: Csr = self._model.history_inputs(self._histories(rows))
        return inputs


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
        self.order = tie_break_order(seen.n_cols)
        self.higher, self.equal = np.empty(self.truth.nnz, np.int32), np.empty(self.truth.nnz, np.int32)
        self.all_tied = np.zeros(users.size, np.bool_)
        self.not_finite = np.zeros(users.size, np.int64)
        self.top_items = np.full((users.size, k), -1, np.int32)
        self.top_scores = np.full((users.size, k), -np.inf, np.float32)

    def run(self, model: Scorer, block: int | None) -> None:
        """Rank all users, by products where that is possible."""
        if getattr(model, "is_sparse_product", False):
            self._run_sparse(cast("SparseProductScores", model), block)
            return
        if getattr(model, "has_shared_scores", False):
            self._run_shared(cast("SharedScores", model))
            return
        items = self._item_vectors(model)
        panels = None if items is None else _Panels(items, self.order, self.closed)
        row_bytes = 4 * max(self.seen.n_cols, 1)
        by_scores = block or max(1, SCORE_BYTES // row_bytes)
        size = by_scores if panels is None else block or VECTORS_AT_ONCE
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, self.users.size, size):
                stop = min(start + size, self.users.size)
                rows = torch.from_numpy(self.users[start:stop].astype(np.int64))
                if panels is not None and self._run_products(
                    cast("DotProductScores", model), rows, start, panels, pool
                ):
                    continue
                for at in range(0, len(rows), by_scores):
                    self._run_scores(model, rows[at : at + by_scores], start + at, pool)

    def _item_vectors(self, model: Any) -> Float32 | None:
        """Vectors of the items if the products with them are all there is to the scores, on this machine's CPU."""
        if self.users.size < FUSED_FROM or not fused_ranking.HAS_FMA or not getattr(model, "is_dot_product", False):
            return None
        with torch.no_grad():
            items: torch.Tensor = model.item_vectors()
        if items.device.type != "cpu" or items.dtype != torch.float32 or len(items) != self.seen.n_cols:
            return None
        return np.ascontiguousarray(items.detach().numpy())

    def _run_products(
        self, model: DotProductScores, rows: torch.Tensor, start: int, panels: _Panels, pool: ThreadPoolExecutor
    ) -> bool:
        """Rank a block of users by products, unless one could overflow: then scores are looked at one by one."""
        with torch.no_grad():
            of_users = model.user_vectors(rows)
        if of_users.shape != (expected := (len(rows), panels.items.shape[1])):
            raise ValueError(f"{self.model} returned vectors of shape {tuple(of_users.shape)}, expected {expected}")
        if of_users.device.type != "cpu" or of_users.dtype != torch.float32:
            return False
        vectors = np.ascontiguousarray(of_users.detach().numpy())
        if not _largest(vectors) * panels.largest * vectors.shape[1] < float(fused_ranking.LARGEST):  # nor for NaN
            return False
        self._in_strips(pool, len(vectors), STRIP, lambda a, b: self._products(vectors[a:b], start + a, panels))
        return True

    def _run_sparse(self, model: SparseProductScores, block: int | None) -> None:
        """Rank all users by sparse products."""
        weights, places = model.item_weights(), _places(self.order, self.seen.n_cols)
        if weights.n_cols != self.seen.n_cols:
            raise ValueError(f"{self.model} has weights for {weights.n_cols} items, expected {self.seen.n_cols}")
        size = block or VECTORS_AT_ONCE
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, self.users.size, size):
                stop = min(start + size, self.users.size)
                inputs = model.inputs(torch.from_numpy(self.users[start:stop].astype(np.int64)))
                if inputs.n_rows != stop - start or inputs.n_cols > weights.n_rows:
                    raise ValueError(
                        f"{self.model} returned inputs of shape {inputs.n_rows, inputs.n_cols}, "
                        f"expected {stop - start, weights.n_rows}"
                    )

                def strip(a: int, b: int, inputs: Csr = inputs, start: int = start) -> None:
                    inside = slice(start + a, start + b)
                    if not self.top_items.shape[1] and self.seen.n_cols <= sparse_ranking.FEW_ITEMS:
                        sparse_ranking.rank_few_items(
                            inputs.indptr[a : b + 1],
                            inputs.indices,
                            inputs.data,
                            weights.indptr,
                            weights.indices,
                            weights.data,
                            self.users[inside],
                            self.seen.indptr,
                            self.seen.indices,
                            self.truth.indptr,
                            self.truth.indices,
                            self.closed,
                            self.higher,
                            self.equal,
                            self.all_tied[inside],
                            self.not_finite[inside],
                            self.seen.n_cols,
                        )
                        return
                    sparse_ranking.rank_sparse(
                        inputs.indptr[a : b + 1],
                        inputs.indices,
                        inputs.data,
                        weights.indptr,
                        weights.indices,
                        weights.data,
                        self.users[inside],
                        self.order,
                        places,
                        self.seen.indptr,
                        self.seen.indices,
                        self.truth.indptr,
                        self.truth.indices,
                        self.closed,
                        self.higher,
                        self.equal,
                        self.all_tied[inside],
                        self.not_finite[inside],
                        self.top_items[inside],
                        self.top_scores[inside],
                    )

                self._in_strips(pool, stop - start, stop - start, strip)
                self._check_finite(start, stop)

    def _run_shared(self, model: SharedScores) -> None:
        """Rank all users by one order of the catalogue."""
        scores = np.ascontiguousarray(model.shared_scores().detach().float().numpy(force=True))
        if scores.shape != (self.seen.n_cols,):
            raise ValueError(f"{self.model} returned scores of shape {scores.shape}, expected {(self.seen.n_cols,)}")
        self.not_finite[:] = (~np.isfinite(scores)).sum()
        self._check_finite(0, self.users.size)
        if not self.users.size:
            return
        order = SharedRanking(scores, _places(self.order, self.seen.n_cols), self.closed)

        def strip(a: int, b: int) -> None:
            order.rank(
                self.users[a:b],
                self.seen.indptr,
                self.seen.indices,
                self.truth.indptr,
                self.truth.indices,
                self.higher,
                self.equal,
                self.all_tied[a:b],
                self.top_items[a:b],
                self.top_scores[a:b],
            )

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            self._in_strips(pool, self.users.size, self.users.size, strip)

    def _run_scores(self, model: Scorer, rows: torch.Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Rank a block of users from their scores."""
        shape = (len(rows), self.seen.n_cols)
        with torch.no_grad():
            out = model.score(rows)
        if out.shape != shape:
            raise ValueError(f"{self.model} returned scores of shape {tuple(out.shape)}, expected {shape}")
        # Rows that share memory (an expanded tensor) are copied here; nothing is written into the model's memory.
        scores = np.ascontiguousarray(out.float().numpy(force=True))
        self._in_strips(pool, len(rows), len(rows), lambda a, b: self._scores(scores[a:b], start + a))
        self._check_finite(start, start + len(rows))

    @staticmethod
    def _in_strips(pool: ThreadPoolExecutor, n: int, most: int, work: Callable[[int, int], None]) -> None:
        """Share 0 … n among the threads, at most so many at a time."""
        n_threads = torch.get_num_threads()
        pieces = min(-(-max(n_threads, -(-n // most)) // n_threads) * n_threads, n)
        edges = np.linspace(0, n, pieces + 1).astype(np.int64).tolist()
        # The sweeps hold no lock, so plain threads do, and several callers may rank at once.
        strips = [pool.submit(work, a, b) for a, b in pairwise(edges)]
        for strip in strips:
            strip.result()

    def _products(self, vectors: Float32, first: int, panels: _Panels) -> None:
        inside = slice(first, first + len(vectors))
        fused_ranking.rank_products(
            vectors,
            self.users[inside],
            panels.items,
            panels.panels,
            panels.order,
            panels.places,
            self.seen.indptr,
            self.seen.indices,
            self.truth.indptr,
            self.truth.indices,
            self.closed,
            self.higher,
            self.equal,
            self.all_tied[inside],
            self.top_items[inside],
            self.top_scores[inside],
        )

    def _scores(self, scores: Float32, first: int) -> None:
        inside = slice(first, first + len(scores))
        fused_ranking.rank_rows(
            scores,
            self.users[inside],
            self.order,
            _places(self.order, self.seen.n_cols),
            self.seen.indptr,
            self.seen.indices,
            self.truth.indptr,
            self.truth.indices,
            self.closed,
            self.higher,
            self.equal,
            self.all_tied[inside],
            self.not_finite[inside],
            self.top_items[inside],
            self.top_scores[inside],
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


class _Panels:
    """The items' vectors, laid out for the product in the order that decides between equal scores."""

    def __init__(self, items: Float32, order: Int32, closed: Int32) -> None:
        self.items = items
        self.order = order[~np.isin(order, closed)] if closed.size else order
        self.places = _places(self.order, len(items))
        self.largest = _largest(items)
        self.panels = np.empty(
            (-(-self.order.size // fused_ranking.WIDTH), items.shape[1], fused_ranking.WIDTH), np.float32
        )
        fused_ranking.pack(items, self.order, self.panels)


def _largest(vectors: Float32) -> float:
    """Largest absolute value, NaN if there is one."""
    return float(np.maximum(vectors.max(initial=0), -vectors.min(initial=0)))


def _places(order: Int32, n_items: int) -> Int32:
    """Where each item stands in an order; −1 where it does not."""
    places = np.full(n_items, -1, np.int32)
    places[order] = np.arange(order.size, dtype=np.int32)
    return places


@lru_cache(maxsize=8)
def tie_break_order(n_items: int) -> Int32:
    """The fixed random order of a catalogue that decides between equal scores."""
    return np.random.default_rng(20_110).permutation(n_items).astype(np.int32)
