"""One fitted run under outside ids, made ready to answer from any thread: lists, neighbours, titles, reasons."""

from __future__ import annotations

import threading
import time
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.evaluation.evaluate import accepts_longer_history
from relrank.evaluation.ranking import tie_break_order
from relrank.explanation.explainer import Explainer, Explanation, Reason
from relrank.graph.sequences import Sequences
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.sparse_ranking import SparsePaginator
from relrank.models import Recommender
from relrank.models.core.base import history_rows
from relrank.models.core.sparse_linear import SparseLinear
from relrank.models.core.vectors import ProductModel, VectorModel, is_dot_product_model
from relrank.runs.fallback import popularity, user_relations_read
from relrank.runs.fitted_run import PARTS, FittedRun
from relrank.serve.ann_index import FROM_ITEMS, SAMPLE, ItemIndex
from relrank.serve.asked import Id, Limits, RequestError, shortened_repr
from relrank.serve.filters import Condition, Filters
from relrank.serve.reweighting import ReweightedModels, adjustable, get_relation_weights
from relrank.serve.sessions import append_session, session_scores

JsonObject = dict[str, Any]
Rows = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]

QUICK_SECONDS = 0.002
"""A list that takes at most this long is made where it is asked for; any other in a thread of its own."""
INDEXED_ITEMS = 200
"""Items at the beginning of a list that an index finds; what comes after them is ranked by all products."""


class Page(NamedTuple):
    """A part of a list.

    Attributes:
        items: rows, best first.
        scores: of these.
        total: candidates of the whole list.
        fallback: whether the list is popularity's, since the model says nothing: an empty history, or equal scores.
        exact: whether the scores are the model's own; not where a visit moves those of a user whose vector is fixed.
    """

    items: Int64
    scores: Float32
    total: int
    fallback: bool = False
    exact: bool = True


class ServedModel:
    """One fitted run, made ready to answer; nothing in it changes but what is remembered of earlier questions.

    Args:
        name: what the run is called in questions.
        run: the fitted run.
        limits: bounds of a question.
        index_from: smallest catalogue that is searched through an index, where scores are products of vectors.

    Attributes:
        seconds: median time of a list, measured at the start.
        index: of the items' vectors, or None: lists are exact.
    """

    def __init__(self, name: str, run: FittedRun, limits: Limits | None = None, index_from: int = FROM_ITEMS) -> None:
        self.name, self.run, self.limits = name, run, limits or Limits()
        self.model: Recommender = run.model
        self.graph, split = run.graph, run.split
        self.n_users, self.n_items = split.shape
        self.user_ids, self.item_ids = (_plain(ids.keys) for ids in (split.users, split.items))
        self.user_rows = {str(key): row for row, key in enumerate(self.user_ids)}
        self.item_rows = {str(key): row for row, key in enumerate(self.item_ids)}
        keys = split.items.keys.to_frame("key")
        named = keys.join(run.titles, on="key", how="left", maintain_order="left")
        self.titles: list[str | None] = named["title"].to_list()
        parts = [getattr(split, part) for part in PARTS]
        self._parts = [Sequences.from_rows(p.user, p.item, self.n_users) for p in parts]
        self._train_sequences = self._parts[0]
        if split.repeats is not None:
            self._train_sequences = Sequences.from_rows(split.repeats.user, split.repeats.item, self.n_users)
        self._interacted_items = run.interacted_items
        self._tie_rank = np.empty(self.n_items, np.int32)
        self._tie_rank[tie_break_order(self.n_items)] = np.arange(self.n_items, dtype=np.int32)
        self._uses_full_history = run.lists_from_full_history
        self._unscorable_items: Int32 = run.unscorable_items
        self._untold: Int32 = run.uninformative_items
        self.n_cold_items = (
            split.unseen - self._unscorable_items.size
        )  # items without interactions that are in lists all the same
        self._candidate_mask: Mask | None = None
        if self._unscorable_items.size:
            self._candidate_mask = np.ones(self.n_items, np.bool_)
            self._candidate_mask[self._unscorable_items] = False
        self.user_relations_read = user_relations_read(self.model)
        self._popularity: Float32 = popularity(self.graph).counts.numpy()
        self._lock = threading.Lock()  # of the model: some derive things when they are first asked
        self.filters = Filters(self.graph, run.item_attributes, run.nodes)
        self.weights = get_relation_weights(self.model)
        self.weights_adjustable = adjustable(self.model)
        self._variants = ReweightedModels(self.model, self.limits)
        self._explainer: Explainer | None = None
        self._explaining = threading.Lock()
        self._search = _Search(self)
        self.index: ItemIndex | None = None
        self._sparse = (
            SparsePaginator(tie_break_order(self.n_items)) if isinstance(self.model, SparseLinear) else None
        )
        self._warm()
        if self.n_items >= index_from and is_dot_product_model(self.model) and self.model._items.numel():
            self.index = self._indexed()
        self.seconds = self._measured()

    def __repr__(self) -> str:
        return f"Served({self.name!r}, {self.run.note['model']}, {self.n_users:,} users, {self.n_items:,} items)"

    @property
    def quick(self) -> bool:
        """Whether a list is made faster than a thread is worth."""
        # where kernels wait for each other, a list may wait for a whole solve; sparse products use no such kernel
        alone = self._sparse is not None or isinstance(kernels(), nullcontext)
        return self.seconds <= QUICK_SECONDS and alone

    def _warm(self) -> None:
        """Ask once, so that nothing is compiled or derived later."""
        if self._sparse is not None:
            self.ranked_list(None, self.user_history(0) if self.n_users else np.zeros(0, np.int64), 0, 10)
            return
        self.history_scores(self.user_history(0) if self.n_users else np.zeros(0, np.int64))
        if self.n_users:
            self.user_scores(0)

    def _measured(self, n: int = 5) -> float:
        """Median seconds of a list of 10, of users and of their histories."""
        spent = []
        for row in np.linspace(0, self.n_users - 1, min(n, self.n_users)).astype(np.int64).tolist():
            for user, history in ((row, None), (None, self.user_history(row))):
                began = time.perf_counter()
                self.ranked_list(user, history, 0, 10)
                spent.append(time.perf_counter() - began)
        return float(np.median(spent)) if spent else 0.0

    def _indexed(self) -> ItemIndex:
        """An index of the items' vectors; recall is measured on users drawn at random."""
        model = cast("VectorModel", self.model)
        users = np.random.default_rng(0).choice(self.n_users, min(SAMPLE, self.n_users), replace=False)
        queries = model._users[torch.from_numpy(np.sort(users))]
        return ItemIndex(model._items.float().numpy(force=True), queries.float().numpy(force=True))

    # ids and rows

    def user_row(self, user: Id, where: str = "user", status: int = 404) -> int:
        """The row of a user.

        Raises:
            RequestError: the user is unknown.
        """
        return self._row("user", user, self.user_rows, where, status)

    def item_row(self, item: Id, where: str = "item", status: int = 404) -> int:
        """The row of an item.

        Raises:
            RequestError: the item is unknown.
        """
        return self._row("item", item, self.item_rows, where, status)

    def _row(self, what: str, key: Id, rows: dict[str, int], where: str, status: int) -> int:
        row = rows.get(str(key))
        if row is None:
            ids = self.user_ids if what == "user" else self.item_ids
            raise RequestError(
                status,
                f"unknown {what}",
                where=where,
                found=shortened_repr(key),
                expected=f"one of {len(ids):,} {what}s of {self.name}{_such_as(ids)}",
            )
        return row

    def rows_of(
        self, items: Sequence[Id], where: str = "history", skip_unknown: bool = False
    ) -> tuple[Int64, list[Id]]:
        """Rows of a history, and the items of it that are unknown and left out.

        Raises:
            RequestError: the history is too long, or an item is unknown and not to be skipped; the first unknown ones
                are named.
        """
        self.limits.check(f"length of {where}", len(items), 0, self.limits.history)
        rows = [self.item_rows.get(str(item), -1) for item in items]
        unknown = [item for item, row in zip(items, rows, strict=True) if row < 0]
        if unknown and not skip_unknown:
            few = ", ".join(shortened_repr(item) for item in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise RequestError(
                422,
                "unknown item",
                where=where,
                expected=f"items of {self.name}{_such_as(self.item_ids)}; or skip_unknown, to leave them out",
                found=f"{few}; {len(unknown):,} unknown in all",
            )
        return np.array([row for row in rows if row >= 0], np.int64), unknown

    def named(self, row: int) -> JsonObject:
        """An item as it is shown."""
        return {"item": self.item_ids[row], "title": self.titles[row]}

    def seen_items(self, row: int) -> Int32:
        """Every item that the user chose, in whatever part, ascending."""
        return self._interacted_items.indices[
            self._interacted_items.indptr[row] : self._interacted_items.indptr[row + 1]
        ]

    def user_history(self, row: int) -> Int64:
        """What the user chose, as often as they did, training rows first, each part in its own order."""
        parts = (self._train_sequences, *self._parts[1:])
        return np.concatenate([p.items[p.indptr[row] : p.indptr[row + 1]] for p in parts]).astype(np.int64)

    def _train_history(self, row: int) -> Int64:
        """What the user chose in training, as often as they did, oldest first."""
        return self._train_sequences.items[
            self._train_sequences.indptr[row] : self._train_sequences.indptr[row + 1]
        ].astype(np.int64)

    def history_with_split(self, row: int) -> list[tuple[int, str]]:
        """Every item that the user chose, once, with the part that it lies in."""
        return [
            (item, name)
            for name, p in zip(PARTS, self._parts, strict=True)
            for item in p.items[p.indptr[row] : p.indptr[row + 1]].tolist()
        ]

    # scores and lists

    def user_scores(self, row: int, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a known user, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        if self._uses_full_history:
            return self.history_scores(self.user_history(row), model)
        return self._scored((model or self.model).score, torch.tensor([row]))

    def history_scores(self, rows: Int64, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a history, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        return self._scored((model or self.model).fold_in, [torch.from_numpy(rows)])

    def _scored(self, score: Callable[[Any], torch.Tensor], asked: Any) -> Float32:
        with self._lock, torch.no_grad(), kernels(), _one_thread():
            out = score(asked)
        scores: Float32 = np.ascontiguousarray(out[0].float().numpy(force=True))
        if not np.isfinite(scores).all():
            raise InputError(
                "scores are not finite",
                where=self._where,
                expected="finite numbers",
                found=f"{int((~np.isfinite(scores)).sum()):,} that are not",
            )
        return scores

    def ranked_list(
        self,
        user: int | None,
        history: Int64 | None,
        offset: int,
        k: int,
        exclude_seen: bool = True,
        candidates: Mask | None = None,
        model: Recommender | None = None,
    ) -> Page:
        """A page of the list of a user's row, of a history, or of a user with the items of a visit.

        Args:
            user: row; None for a history.
            history: item rows, oldest first; with a user those of the visit.
            offset: items before the page.
            k: length of the page.
            exclude_seen: leave out what the user chose in any part, or what the history holds.
            candidates: bool [n_items], the only candidates; None for all.
            model: the fitted one under other weights; None for itself.
        """
        seen = self.excluded_items(user, history) if exclude_seen else None
        if self._candidate_mask is not None:
            candidates = self._candidate_mask if candidates is None else candidates & self._candidate_mask
        informative_history = None if history is None else self.run.informative_history(history)
        visits = user is not None and informative_history is not None and informative_history.size > 0
        if user is None and not cast("Int64", informative_history).size:
            return self._popular(seen, candidates, offset, k)
        if self.index is not None and candidates is self._candidate_mask and model is None and not visits:
            query = self._query(user, informative_history)
            if not query.any():
                return self._popular(seen, candidates, offset, k)
            gone = np.zeros(0, np.int64) if seen is None else seen
            return self._through_index(self.index, query, np.union1d(gone, self._unscorable_items), offset, k)
        if self._sparse is not None and not visits:
            of_whom = cast("SparseLinear", model or self.model)
            inputs, weights = self._inputs(of_whom, user, informative_history), of_whom.item_weights()
            if (weights.indptr[inputs.indices] == weights.indptr[inputs.indices + 1]).all():
                return self._popular(seen, candidates, offset, k)
            ranked_list = Page(*self._sparse.page(inputs, weights, seen, candidates, offset, k, self._where))
            if (
                not ranked_list.items.size or ranked_list.scores[0] == ranked_list.scores[-1]
            ):  # only then may all be equal
                open_ = inputs, weights, self.excluded_items(user, history), self._candidate_mask
                _, first, total = self._sparse.page(*open_, 0, 1, self._where)
                if total and first[0] == self._sparse.page(*open_, total - 1, 1, self._where)[1][0]:
                    return self._popular(seen, candidates, offset, k)
            return ranked_list
        exact = True
        if user is None:
            scores = self.history_scores(cast("Int64", informative_history), model)
        elif visits:
            scores, exact = self._session_scores(user, cast("Int64", informative_history), model)
        else:
            scores = self.user_scores(user, model)
        page = self.page(scores, seen, candidates, offset, k)
        if not page.items.size or page.scores[0] == page.scores[-1]:  # only then may all be equal
            others = np.delete(scores, np.union1d(self.excluded_items(user, history), self._unscorable_items))
            if others.size and others.min() == others.max():
                return self._popular(seen, candidates, offset, k)
        return page if exact else page._replace(exact=False)

    def excluded_items(self, user: int | None, history: Int64 | None) -> Rows:
        """Item rows that were chosen: by a user in whatever part of the split, in a history or a visit; each once."""
        if user is None:
            return np.unique(cast("Int64", history))
        seen = self.seen_items(user)
        return seen if history is None or not history.size else np.union1d(seen, history)

    def _popular(self, seen: Rows | None, candidates: Mask | None, offset: int, k: int) -> Page:
        """The same by popularity."""
        return self.page(self._popularity, seen, candidates, offset, k)._replace(fallback=True)

    def _session_scores(self, user: int, session: Int64, model: Recommender | None) -> tuple[Float32, bool]:
        """Scores of a user with the items of a visit, and whether they are the model's own."""
        if self._uses_full_history:
            return self.history_scores(np.concatenate([self.user_history(user), session]), model), True
        own, exact = self._train_history(user), True

        def score(rows: Int64) -> torch.Tensor:
            nonlocal exact
            scores, exact = session_scores(model or self.model, user, own, rows)
            return scores

        return self._scored(score, session), exact

    @property
    def _where(self) -> str:
        return f"model {self.run.note['model']} of {self.name}"

    def _inputs(self, model: SparseLinear, user: int | None, history: Int64 | None) -> Csr:
        """What the weights are multiplied with: CSR [1, n_inputs]."""
        if user is not None and not self._uses_full_history:
            return model.inputs(torch.tensor([user]))
        rows = self.user_history(user) if user is not None else cast("Int64", history)
        return model.history_inputs([torch.from_numpy(rows)])

    def page(self, scores: Float32, seen: Rows | None, candidates: Mask | None, offset: int, k: int) -> Page:
        """The items at places offset … offset + k − 1 of the order by these scores, 0-based.

        Args:
            scores: of the catalogue; finite.
            seen: item rows to leave out.
            candidates: see ``ranked_list``.
            offset: items before the page.
            k: length of the page.
        """
        left = scores.copy()
        if seen is not None:
            left[seen] = -np.inf
        if candidates is not None:
            left[~candidates] = -np.inf
        total = self.n_items if seen is None and candidates is None else int(np.count_nonzero(left > -np.inf))
        end = min(offset + k, total)
        if offset >= end:
            return Page(np.zeros(0, np.int64), np.zeros(0, np.float32), total)
        # every item that ties with the last one of the page takes part, else pages would overlap
        last = np.partition(left, self.n_items - end)[self.n_items - end]
        best = self._in_order(np.flatnonzero(left >= last), left)[offset:end]
        return Page(best, scores[best], total)

    def _in_order(self, rows: Int64, scores: Float32) -> Int64:
        result: Int64 = rows[np.lexsort((self._tie_rank[rows], -scores[rows]))]
        return result

    def _through_index(self, index: ItemIndex, query: Float32, seen: Rows, offset: int, k: int) -> Page:
        """The same where an index finds the head of the list; what it overlooked comes after the head, by score.

        So all pages are still of one order.
        """
        found = index.search(query, INDEXED_ITEMS + seen.size)
        found = found[~np.isin(found, seen)]
        scores = (index.vectors[found] @ query).astype(np.float32)
        order = np.lexsort((self._tie_rank[found], -scores))[:INDEXED_ITEMS]
        head, of_head, total = found[order], scores[order], self.n_items - seen.size
        if offset + k <= head.size or head.size == total:
            return Page(head[offset : offset + k], of_head[offset : offset + k], total)
        products = (index.vectors @ query).astype(np.float32)
        skipped = min(offset, head.size)
        own = head[skipped : offset + k]
        rest, of_rest, *_ = self.page(
            products, np.concatenate([seen, head]), None, offset - skipped if offset > head.size else 0, k - own.size
        )
        return Page(np.concatenate([own, rest]), np.concatenate([of_head[skipped : offset + k], of_rest]), total)

    def _query(self, user: int | None, history: Int64 | None) -> Float32:
        """The vector whose products are the scores, float32 [d]; see ``VectorModel.score`` and ``fold_in``."""
        model = cast("VectorModel", self.model)
        if user is not None and self._uses_full_history:
            history, user = self.user_history(user), None
        with self._lock, torch.no_grad(), kernels(), _one_thread():
            if user is not None:
                vector = model._users[user]
            else:
                rows = history_rows([torch.from_numpy(cast("Int64", history))], self.n_items)
                vector = model.encode_histories(rows)[0]
                if model.config.similarity == "cosine":
                    vector = functional.normalize(vector, dim=0)
        result: Float32 = np.ascontiguousarray(vector.float().numpy(force=True))
        return result

    def similar(self, row: int, k: int) -> tuple[Int64, Float32]:
        """Rows of the k items nearest to one, itself left out, and how near they are; see ``similar_scores``.

        None where the model puts all items equally near, as it does for an item that it knows nothing of.
        """
        if row in self._untold:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self._sparse is not None:
            found = self.ranked_list(None, np.array([row], np.int64), 0, k)
            near, scores = found[:2]
            return (near[:0], scores[:0]) if found.fallback else (near, scores)
        scores = self.similar_scores(row)
        others = np.delete(scores, np.union1d(row, self._unscorable_items))
        if others.size and others.min() == others.max():
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        return self.page(scores, np.array([row]), self._candidate_mask, 0, k)[:2]

    def similar_scores(self, row: int) -> Float32:
        """How near every item is to this one, float32 [n_items].

        For models of vectors the cosine of the items' vectors; for all others the scores of somebody who chose this
        item alone, which for closed forms is the item's row of item weights.
        """
        model = self.model
        if isinstance(model, ProductModel) and model._items.numel():
            with self._lock, torch.no_grad():
                near = functional.cosine_similarity(model._items, model._items[row : row + 1])
            result: Float32 = near.float().numpy(force=True)
            return result
        return self.history_scores(np.array([row], np.int64))

    # filters

    def candidates(self, filters: Sequence[Condition], exclude: Int64 | None = None) -> Mask | None:
        """Items that fit every condition and are not excluded, bool [n_items]; None without either.

        Raises:
            RequestError: no such relation, column or value, or too many conditions.
        """
        mask = self.filters.mask(filters, self.limits.filters)
        if exclude is not None and exclude.size:
            mask = np.ones(self.n_items, np.bool_) if mask is None else mask.copy()
            mask[exclude] = False
        return mask

    def search_values(self, name: str, text: str, limit: int) -> list[tuple[Id, int]]:
        """Values that a filter of this name may have and their items: those that contain the text, most items first.

        Raises:
            RequestError: no such relation or column.
        """
        wanted = _normalized(text)
        found = (pair for pair in self.filters.values(name) if wanted in _normalized(str(pair[0])))
        return list(islice(found, limit))

    # relation weights

    def with_weights(self, weights: Mapping[str, float] | None) -> Recommender | None:
        """The model under these relation weights, None for the fitted ones; what is not named keeps its own.

        Raises:
            RequestError: the model's weights cannot be moved, a weight is out of range, or too many questions wait.
        """
        if not weights:
            return None
        if not self.weights_adjustable:
            raise RequestError(
                422,
                "relation weights cannot be moved",
                where="weights",
                found=shortened_repr(", ".join(weights)),
                expected=f"none: {self.run.note['model']} of {self.name} has them fixed",
            )
        for name, weight in weights.items():
            if name not in self.weights:
                raise RequestError(
                    422,
                    "unknown relation",
                    where="weights",
                    expected=f"of {sorted(self.weights)}",
                    found=shortened_repr(name),
                )
            if not 0 <= weight <= self.limits.weight:
                raise RequestError(
                    422,
                    "relation weight is out of range",
                    where=f"weights.{name}",
                    expected=f"0 to {self.limits.weight:,.0f}",
                    found=str(weight),
                )
        wanted = self.weights | {name: float(weight) for name, weight in weights.items()}
        if wanted == self.weights:
            return None
        with kernels():
            return self._variants.get(wanted)

    # titles, users, explanations

    def search_items(self, text: str, limit: int) -> list[int]:
        """Rows of the items whose titles hold every word of the text, whatever its case and accents.

        An item of that very id comes first, then titles that begin with the text, then the rest; the most chosen
        first. No text: the most chosen of all.
        """
        return self._search.search_items(text, limit)

    def search_users(self, prefix: str, limit: int) -> list[int]:
        """Rows of the users whose id, as text, begins with this, in the order of the text."""
        return self._search.search_users(prefix, limit)

    def describe(self) -> JsonObject:
        """What the run is."""
        note, graph = self.run.note, self.graph
        return {
            "name": self.name,
            "model": note["model"],
            "arm": note["arm"],
            "protocol": note["protocol"],
            "n_users": self.n_users,
            "n_items": self.n_items,
            "n_new_items": self.n_cold_items,
            "user": graph.user,
            "item": graph.item,
            "relations": [
                {
                    "name": r.name,
                    "source": r.source,
                    "target": r.target,
                    "edges": len(r),
                    "weight": self.weights.get(r.name),
                }
                for r in graph.relations.values()
            ],
            "weights_adjustable": self.weights_adjustable,
            "filters": self.filters.relations,
            "columns": self.filters.columns,
        }

    def explained(
        self,
        item: int,
        user: int | None,
        history: Int64 | None,
        n: int,
        model: Recommender | None = None,
        candidates: Mask | None = None,
    ) -> JsonObject:
        """Rank, score and reasons of an item in the list of a user's row or a history; see ``explanation.explainer``.

        Raises:
            RequestError: the item was chosen already, or the model cannot be explained.
        """
        seen = self.excluded_items(user, history)
        if item in seen:
            raise RequestError(
                422,
                "item was chosen already",
                where="item",
                expected="one that is not in the history",
                found=shortened_repr(self.item_ids[item]),
            )
        whole = self.ranked_list(user, history, 0, self.n_items, candidates=candidates, model=model)
        if candidates is not None and not candidates[item]:
            raise RequestError(
                422,
                "item does not fit the filters",
                where="item",
                expected="one of the list",
                found=shortened_repr(self.item_ids[item]),
            )
        if item in self._unscorable_items:
            raise RequestError(
                422,
                "item is in no list",
                where="item",
                found=shortened_repr(self.item_ids[item]),
                expected="one with interactions, or with a relation or feature that the model reads",
            )
        at = int(np.flatnonzero(whole.items == item)[0])
        if whole.fallback:
            return {
                "item": self.named(item),
                "rank": at + 1,
                "score": float(whole.scores[at]),
                "fallback": True,
                "folded": False,
                "reasons": [],
            }
        # an index may overlook items; what it puts behind this one is not above it
        behind = whole.items[at + 1 :][whole.scores[at + 1 :] > whole.scores[at]]
        others = np.zeros(0, np.int64) if candidates is None else np.flatnonzero(~candidates)
        exclude_items = [*seen.tolist(), *behind.tolist(), *self._unscorable_items.tolist(), *others.tolist()]
        try:
            with kernels():
                whose = self._whose(user, None if history is None else self.run.informative_history(history))
                found = self._explainer_for(model).explain(
                    [item], **whose, exclude_items=exclude_items, n=n, ranked_list=whole[:2]
                )[0]
        except RequestError:
            raise
        except InputError as error:
            raise RequestError(
                422, error.what, where=error.where, expected=error.expected, found=error.found
            ) from error
        return {
            "item": self.named(item),
            "rank": _as_integer(found.rank),
            "score": found.score,
            "fallback": False,
            "folded": found.by_fold_in,
            "reasons": [self._reason(item, found, reason) for reason in found.reasons],
        }

    def _whose(self, user: int | None, history: Int64 | None) -> dict[str, Any]:
        """Whom an explanation is for: a user's row, or the history that the list was made of."""
        if user is None:
            return {"history": cast("Int64", history).tolist()}
        session = np.zeros(0, np.int64) if history is None else history
        if self._uses_full_history:
            return {"history": [*self.user_history(user).tolist(), *session.tolist()]}
        if not session.size:
            return {"user": user}
        # more than these items may be behind the list: a vector of the user, relations, weights
        together = append_session(self.model, self._train_history(user), session)
        return {"history": together.tolist(), "history_is_proxy": not accepts_longer_history(self.model)}

    def _explainer_for(self, model: Recommender | None) -> Explainer:
        """What explains the fitted model, made when it is first asked; of a variant, made for the question."""
        if model is not None:
            return Explainer(model, self.graph)
        with self._explaining:
            if self._explainer is None:
                self._explainer = Explainer(self.model, self.graph)
            return self._explainer

    def _reason(self, item: int, found: Explanation, reason: Reason) -> JsonObject:
        through = []
        for node, row in reason.through:
            key = self.graph.nodes[node].keys[row]
            title = self.titles[row] if node == self.graph.item else None
            through.append({"type": node, "id": key if isinstance(key, int) else str(key), "name": title})
        return {
            "via": self.named(reason.via),
            "relation": reason.relation,
            "through": through,
            "strength": reason.strength,
            "rank_without": _as_integer(reason.rank_without),
            "score_without": reason.score_without,
            "rank_unlinked": None if reason.rank_without_link is None else _as_integer(reason.rank_without_link),
            "score_unlinked": reason.score_without_link,
            "exact": reason.exact,
            "sentence": self._sentence(item, found, reason, through),
        }

    def _sentence(self, item: int, found: Explanation, reason: Reason, through: Sequence[JsonObject]) -> str:
        """What the numbers say, in words."""
        via, this = (f"“{self.titles[row] or self.item_ids[row]}”" for row in (reason.via, item))
        if reason.relation == "interactions":
            link = f"{via} and {this} are chosen by the same people"
        elif not through:
            link = f"{via} and {this} are linked by {reason.relation}"
        else:
            nodes = ", ".join(f"{node['type']} {node['name'] or node['id']}" for node in through)
            verb = "share" if len(through) == 1 else "are joined by"
            link = f"{via} and {this} {verb} {nodes} ({reason.relation})"
        first = "without that choice" if reason.rank_without_link is None else "without link and choice"
        fall = f"{first} {_fall(found.rank, reason.rank_without)}"
        if reason.rank_without_link is not None:
            fall = f"without the link alone {_fall(found.rank, reason.rank_without_link)}, {fall}"
        return f"{link}; {fall}{'' if reason.exact else ' (by deletion, not trained again)'}."


class _Search:
    """Items by title and users by id."""

    def __init__(self, served: ServedModel) -> None:
        self._item_rows = served.item_rows
        counts = np.bincount(served.graph.interactions.dst, minlength=served.n_items)
        self._by_count = np.argsort(-counts, kind="stable")
        titles = (served.titles[row] or str(served.item_ids[row]) for row in self._by_count.tolist())
        self._titles = pl.Series([_normalized(title) for title in titles], dtype=pl.String)
        pairs = sorted((str(key), row) for row, key in enumerate(served.user_ids))
        self._users = [text for text, _ in pairs]
        self._user_rows = [row for _, row in pairs]

    def search_items(self, text: str, limit: int) -> list[int]:
        """See ``ServedModel.search_items``."""
        wanted = _normalized(text)
        found = [self._item_rows[text.strip()]] if text.strip() in self._item_rows else []
        has = pl.Series(np.ones(len(self._titles), np.bool_))
        for word in wanted.split():
            has &= self._titles.str.contains(word, literal=True)
        first = has & self._titles.str.starts_with(wanted)
        for places in (first, has & ~first):
            rows = self._by_count[places.arg_true().head(limit + 1).to_numpy()].tolist()
            found += [row for row in rows if row not in found[:1]]
        return found[:limit]

    def search_users(self, prefix: str, limit: int) -> list[int]:
        """See ``ServedModel.search_users``."""
        start = bisect_left(self._users, prefix)
        found = []
        for at in range(start, min(start + limit, len(self._users))):
            if not self._users[at].startswith(prefix):
                break
            found.append(self._user_rows[at])
        return found


_KERNELS = threading.Lock()


def kernels() -> AbstractContextManager[Any]:
    """What compiled parallel kernels run under: nothing, but a lock where their threads cannot be shared."""
    try:
        alone = numba.threading_layer() == "workqueue"  # type: ignore[attr-defined]
    except ValueError:  # no kernel has run yet
        alone = True
    return _KERNELS if alone else nullcontext()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Kernels of this thread run on it alone: for a single row, starting others costs more than the sum."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _plain(keys: pl.Series) -> list[Id]:
    """Keys as JSON has them: whole numbers, or text."""
    return keys.to_list() if keys.dtype.is_integer() else [str(key) for key in keys]


def _such_as(keys: Iterable[Id]) -> str:
    first = next(iter(keys), None)
    return "" if first is None else f", such as {first!r}"


def _normalized(text: str) -> str:
    """Text without case and accents, its words one blank apart."""
    plain = text
    if not text.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def _fall(before: float, after: float) -> str:
    """From one place to another, in words."""
    if before == after:
        return f"it loses score, at place {_as_integer(before)} still"
    return f"it falls from place {_as_integer(before)} to {_as_integer(after)}"


def _as_integer(rank: float) -> float | int:
    """A place as a whole number."""
    return int(rank) if float(rank).is_integer() else rank
