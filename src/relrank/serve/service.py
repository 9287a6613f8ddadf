"""Answers under outside ids from fitted runs: lists, neighbours, titles, histories. No web, no files; any thread.

A list is a page of one total order of the catalogue per question: score descending, equal scores in the fixed random
order of ``relrank.ranking``. The lists are those of ``FittedRun.recommend`` and ``recommend_for``.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from relrank.csr import Float32, Int32, Int64
from relrank.errors import InputError
from relrank.evaluation import hears
from relrank.graph.sequences import Sequences
from relrank.models import Recommender
from relrank.models.relational_ease import RelationalEASE
from relrank.models.vectors import ProductModel
from relrank.ranking import _visiting_order
from relrank.study.fitted import PARTS, FittedRun

Id = int | str
Answer = dict[str, Any]

QUICK_SECONDS = 0.002
"""A list that takes at most this long is made where it is asked for; any other in a thread of its own."""


class RequestError(InputError):
    """A question that cannot be answered as it was asked.

    Attributes:
        status: what HTTP calls it: 404 for what is not there, 422 for what makes no sense, 503 for not now.
    """

    def __init__(self, status: int, what: str, *, where: str, expected: str, found: str) -> None:
        super().__init__(what, where=where, expected=expected, found=found)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What a single question may ask for."""

    k: int = 1000
    """Longest page, in items."""
    offset: int = 100_000
    """Furthest start of a page, in items."""
    history: int = 2000
    """Longest history, in items."""
    body: int = 2**20
    """Largest request body, in bytes."""
    filters: int = 20
    """Most filters of one question."""
    weight: float = 1e6
    """Largest weight of a relation."""
    variants: int = 3
    """Models kept that were solved under other relation weights, beside the fitted one."""
    variant_bytes: int = 1 << 30
    """Memory of those models together, in bytes."""
    waiting: int = 4
    """Questions that may wait for such a model to be solved."""


class Served:
    """One fitted run, made ready to answer; nothing in it changes but what is remembered of earlier questions.

    Args:
        name: what the run is called in questions.
        run: the fitted run.
        limits: bounds of a question.
    """

    def __init__(self, name: str, run: FittedRun, limits: Limits | None = None) -> None:
        self.name, self.run, self.limits = name, run, limits or Limits()
        self.model: Recommender = run.model
        self.graph, split = run.graph, run.split
        self.n_users, self.n_items = split.shape
        self.user_ids, self.item_ids = (_plain(ids.keys) for ids in (split.users, split.items))
        self.user_rows = {str(key): row for row, key in enumerate(self.user_ids)}
        self.item_rows = {str(key): row for row, key in enumerate(self.item_ids)}
        keys = split.items.keys.to_frame("key")
        self.titles: list[str | None] = keys.join(run.titles, on="key", how="left", maintain_order="left")[
            "title"
        ].to_list()
        parts = [getattr(split, part) for part in PARTS]
        self._parts = [Sequences.of_rows(p.user, p.item, self.n_users) for p in parts]
        self._chosen = run._chosen()
        order = _visiting_order(self.n_items)
        self._place = np.empty(self.n_items, np.int32)
        self._place[order] = np.arange(self.n_items, dtype=np.int32)
        self._whole_history = split.successive and hears(self.model)
        self._lock = threading.Lock()  # of the model: some derive things when they are first asked
        self._masks: OrderedDict[tuple[str, str], npt.NDArray[np.bool_]] = OrderedDict()
        self._masks_lock = threading.Lock()
        self._variants = _Variants(self)
        self._search = _Search(self)
        self.seconds = self._warm()

    def __repr__(self) -> str:
        return f"Served({self.name!r}, {self.run.note['model']}, {self.n_users:,} users, {self.n_items:,} items)"

    @property
    def quick(self) -> bool:
        """Whether a list is made faster than a thread is worth."""
        return self.seconds <= QUICK_SECONDS

    def _warm(self, n: int = 5) -> float:
        """Ask for some lists, so that nothing is compiled or derived later; median seconds of one."""
        if not self.n_users:
            return 0.0
        rows = np.linspace(0, self.n_users - 1, n).astype(np.int64).tolist()
        for ask in (self.user_scores, lambda row: self.history_scores(self.history_of(row))):
            ask(rows[0])
        spent = []
        for row in rows:
            for ask in (self.user_scores, lambda row: self.history_scores(self.history_of(row))):
                began = time.perf_counter()
                self.page(ask(row), self.seen_by(row), None, 0, 10)
                spent.append(time.perf_counter() - began)
        return float(np.median(spent))

    # ids and rows

    def user_row(self, user: Id, where: str = "user", status: int = 404) -> int:
        """The row of a user.

        Raises:
            RequestError: the user is unknown.
        """
        row = self.user_rows.get(str(user))
        if row is None:
            raise RequestError(
                status, "unknown user", where=where, expected=f"one of {self.n_users:,} users of {self.name}"
                f"{_such_as(self.user_ids)}", found=repr(user),
            )  # fmt: skip
        return row

    def item_row(self, item: Id, where: str = "item", status: int = 404) -> int:
        """The row of an item.

        Raises:
            RequestError: the item is unknown.
        """
        row = self.item_rows.get(str(item))
        if row is None:
            raise RequestError(
                status, "unknown item", where=where, expected=f"one of {self.n_items:,} items of {self.name}"
                f"{_such_as(self.item_ids)}", found=repr(item),
            )  # fmt: skip
        return row

    def item_rows_of(self, items: Sequence[Id], where: str = "history") -> Int64:
        """Rows of a history.

        Raises:
            RequestError: the history is too long, or an item is unknown; all of those are counted, the first ones named.
        """
        if len(items) > self.limits.history:
            raise RequestError(
                422, "history is too long", where=where, expected=f"at most {self.limits.history:,} items",
                found=f"{len(items):,}",
            )  # fmt: skip
        rows = [self.item_rows.get(str(item), -1) for item in items]
        if -1 in rows:
            unknown = [item for item, row in zip(items, rows, strict=True) if row < 0]
            few = ", ".join(repr(item) for item in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise RequestError(
                422, "unknown item", where=where, expected=f"items of {self.name}{_such_as(self.item_ids)}",
                found=f"{few}; {len(unknown):,} unknown in all",
            )  # fmt: skip
        return np.array(rows, np.int64)

    def named(self, row: int) -> Answer:
        """An item as it is shown."""
        return {"item": self.item_ids[row], "title": self.titles[row]}

    def seen_by(self, row: int) -> Int32:
        """Every item that the user chose, in whatever part, ascending."""
        return self._chosen.indices[self._chosen.indptr[row] : self._chosen.indptr[row + 1]]

    def history_of(self, row: int) -> Int64:
        """What the user chose, training rows first, each part in its own order."""
        return np.concatenate([p.items[p.indptr[row] : p.indptr[row + 1]] for p in self._parts]).astype(np.int64)

    def parts_of(self, row: int) -> list[tuple[int, str]]:
        """The same with the part that each item lies in."""
        return [
            (item, name)
            for name, p in zip(PARTS, self._parts, strict=True)
            for item in p.items[p.indptr[row] : p.indptr[row + 1]].tolist()
        ]

    # scores

    def user_scores(self, row: int, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a known user, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        if self._whole_history:
            return self.history_scores(self.history_of(row), model)
        return self._scored((model or self.model).score, torch.tensor([row]))

    def history_scores(self, rows: Int64, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a history, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        return self._scored((model or self.model).fold_in, [torch.from_numpy(rows)])

    def _scored(self, score: Callable[[Any], torch.Tensor], asked: Any) -> Float32:
        with self._lock, torch.no_grad(), _one_thread():
            out = score(asked)
        scores = np.ascontiguousarray(out[0].float().numpy(force=True))
        if not np.isfinite(scores).all():
            raise InputError(
                "scores are not finite", where=f"model {self.run.note['model']} of {self.name}",
                expected="finite numbers", found=f"{int((~np.isfinite(scores)).sum()):,} that are not",
            )  # fmt: skip
        return scores

    def page(
        self,
        scores: Float32,
        seen: npt.NDArray[np.integer] | None,
        among: npt.NDArray[np.bool_] | None,
        offset: int,
        k: int,
    ) -> tuple[Int64, Float32, int]:
        """The items at places offset … offset + k − 1 of the order, 0-based.

        Args:
            scores: of the catalogue.
            seen: item rows to leave out.
            among: bool [n_items], the only candidates; None for all.
            offset: items before the page.
            k: length of the page.

        Returns:
            Item rows and scores of the page, and how many candidates there are.
        """
        left = scores.copy()
        if seen is not None:
            left[seen] = -np.inf
        if among is not None:
            left[~among] = -np.inf
        total = self.n_items if seen is None and among is None else int(np.count_nonzero(left > -np.inf))
        end = min(offset + k, total)
        if offset >= end:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), total
        # every item that ties with the last one of the page takes part, else pages would overlap
        last = np.partition(left, self.n_items - end)[self.n_items - end]
        best = np.flatnonzero(left >= last)
        best = best[np.lexsort((self._place[best], -left[best]))][offset:end]
        return best, scores[best], total

    # filters

    @property
    def filters(self) -> dict[str, str]:
        """Relations of items with something else than items or users, and that node type."""
        found = {}
        for name, relation in self.graph.relations.items():
            ends = {relation.source, relation.target}
            if self.graph.item in ends and len(ends) == 2 and self.graph.user not in ends:
                found[name] = (ends - {self.graph.item}).pop()
        return found

    def among(self, filters: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_] | None:
        """Items that every filter (relation, id of a node) allows, bool [n_items]; None without filters.

        Raises:
            RequestError: no such relation, or no such node.
        """
        mask: npt.NDArray[np.bool_] | None = None
        for relation, value in filters:
            one = self._mask(relation, value)
            mask = one if mask is None else mask & one
        return mask

    def _mask(self, relation: str, value: str, kept: int = 64) -> npt.NDArray[np.bool_]:
        key = relation, value
        with self._masks_lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        if relation not in self.filters:
            raise RequestError(
                422, "no such filter", where="with", expected=f"one of {sorted(self.filters)}", found=repr(relation)
            )
        node = self.filters[relation]
        row = self._rows_of(node).get(value)
        if row is None:
            raise RequestError(
                422, f"unknown {node}", where=f"with, {relation}",
                expected=f"one of {len(self.graph.nodes[node]):,}{_such_as(self.graph.nodes[node].keys)}",
                found=repr(value),
            )  # fmt: skip
        edges = self.graph.relations[relation]
        of_item, other = (edges.src, edges.dst) if edges.source == self.graph.item else (edges.dst, edges.src)
        mask = np.zeros(self.n_items, np.bool_)
        mask[of_item[other == row]] = True
        with self._masks_lock:
            self._masks[key] = mask
            while len(self._masks) > kept:
                self._masks.popitem(last=False)
        return mask

    def _rows_of(self, node: str) -> dict[str, int]:
        return {str(key): row for row, key in enumerate(self.graph.nodes[node].keys)}

    # relation weights

    @property
    def weights(self) -> dict[str, float | None]:
        """The weight of every relation as fitted; None where the model has none for it."""
        model = self.model
        if isinstance(model, RelationalEASE):
            usable = set(_usable(model))
            c = model.config
            return {
                name: float(c.weights.get(name, c.weight)) if name in usable else None
                for name in self.graph.relations
            }
        of: Mapping[str, float] = getattr(model, "relation_weights", {})
        return {name: of.get(name) for name in self.graph.relations}

    @property
    def weights_adjustable(self) -> bool:
        """Whether a question may bring its own relation weights."""
        return isinstance(self.model, RelationalEASE) and any(w is not None for w in self.weights.values())

    def under(self, weights: Mapping[str, float] | None) -> Recommender:
        """The model under these relation weights; a relation that is not named keeps its own.

        Raises:
            RequestError: the model's weights cannot be moved, a weight is out of range, or too many questions wait.
        """
        if not weights:
            return self.model
        if not self.weights_adjustable:
            raise RequestError(
                422, "relation weights cannot be moved", where="weights",
                expected=f"none: {self.run.note['model']} of {self.name} has them fixed", found=", ".join(weights)[:200],
            )  # fmt: skip
        fitted = {name: weight for name, weight in self.weights.items() if weight is not None}
        for name, weight in weights.items():
            if name not in fitted:
                raise RequestError(
                    422, "unknown relation", where="weights", expected=f"of {sorted(fitted)}", found=repr(name)
                )
            if not 0 <= weight <= self.limits.weight:
                raise RequestError(
                    422, "relation weight is out of range", where=f"weights.{name}",
                    expected=f"0 to {self.limits.weight:,.0f}", found=str(weight),
                )  # fmt: skip
        wanted = fitted | {name: float(weight) for name, weight in weights.items()}
        return self.model if wanted == fitted else self._variants.get(wanted)

    def under_known(self, weights: Mapping[str, float] | None) -> bool:
        """Whether nothing has to be solved for these weights."""
        return not weights

    # questions

    def similar_scores(self, row: int) -> Float32:
        """How near every item is to this one, float32 [n_items].

        For models of vectors the cosine of the items' vectors; for all others the scores of somebody who chose this
        item alone, which for closed forms is the item's row of item weights.
        """
        model = self.model
        if isinstance(model, ProductModel) and model._items.numel():
            with self._lock, torch.no_grad():
                near = torch.nn.functional.cosine_similarity(model._items, model._items[row : row + 1])
            return near.float().numpy(force=True)
        return self.history_scores(np.array([row], np.int64))

    def titled(self, text: str, limit: int) -> list[int]:
        """Rows of the items whose titles hold every word of the text, whatever its case and accents.

        An item of that very id comes first, then titles that begin with the text, then the rest; the most chosen
        first. No text: the most chosen of all.
        """
        return self._search.titled(text, limit)

    def users_from(self, prefix: str, limit: int) -> list[int]:
        """Rows of the users whose id, as text, begins with this, in the order of the text."""
        return self._search.users_from(prefix, limit)

    def describe(self) -> Answer:
        """What the run is."""
        note, graph, weights = self.run.note, self.graph, self.weights
        return {
            "name": self.name, "model": note["model"], "arm": note["arm"], "protocol": note["protocol"],
            "n_users": self.n_users, "n_items": self.n_items, "user": graph.user, "item": graph.item,
            "relations": [
                {"name": r.name, "source": r.source, "target": r.target, "edges": len(r), "weight": weights[r.name]}
                for r in graph.relations.values()
            ],
            "weights_adjustable": self.weights_adjustable, "filters": sorted(self.filters),
        }  # fmt: skip


class Service:
    """Fitted runs under their names; the first is the one that is meant where none is named.

    Args:
        runs: by name, at least one.
        limits: bounds of a question.
    """

    def __init__(self, runs: Mapping[str, FittedRun | Served], limits: Limits | None = None) -> None:
        if not runs:
            raise InputError("nothing to serve", where="service", expected="at least one run", found="none")
        self.limits = limits or Limits()
        self._runs = {
            name: run if isinstance(run, Served) else Served(name, run, self.limits) for name, run in runs.items()
        }
        self._swap = threading.Lock()

    def __repr__(self) -> str:
        return f"Service({', '.join(map(repr, self._runs.values()))})"

    @property
    def names(self) -> list[str]:
        """The runs that are served."""
        return list(self._runs)

    def served(self, run: str | None = None) -> Served:
        """One run. A question is answered by one of them from beginning to end, whatever is replaced meanwhile.

        Raises:
            RequestError: no such run.
        """
        runs = self._runs
        if run is None:
            return next(iter(runs.values()))
        if run not in runs:
            raise RequestError(404, "unknown run", where="run", expected=f"one of {list(runs)}", found=repr(run))
        return runs[run]

    def replace(self, name: str, run: FittedRun | Served) -> None:
        """Put another run in the place of one; questions in progress end on the one that they began with."""
        fresh = run if isinstance(run, Served) else Served(name, run, self.limits)
        with self._swap:
            if name not in self._runs:
                raise InputError("no such run to replace", where="service", expected=str(self.names), found=name)
            self._runs = {**self._runs, name: fresh}

    def runs(self) -> Answer:
        """What is served."""
        return {"runs": [run.describe() for run in self._runs.values()]}

    def recommend(
        self,
        *,
        user: Id | None = None,
        history: Sequence[Id] | None = None,
        k: int = 10,
        offset: int = 0,
        exclude_seen: bool = True,
        filters: Sequence[tuple[str, str]] = (),
        weights: Mapping[str, float] | None = None,
        run: str | None = None,
        status: int = 422,
    ) -> Answer:
        """A page of the list for a known user, or for a history.

        Args:
            user: id of a user; or else
            history: ids of items, oldest first.
            k: length of the page.
            offset: items before it.
            exclude_seen: leave out what the user chose in any part, or what the history holds.
            filters: (relation, id of a node): only items linked with all of these.
            weights: relation weights other than the fitted ones.
            run: name of the run.
            status: of an unknown user.

        Raises:
            RequestError: something that is named is unknown, or a bound is passed.
        """
        served = self.served(run)
        self._bound("k", k, 1, self.limits.k)
        self._bound("offset", offset, 0, self.limits.offset)
        self._bound("number of filters", len(filters), 0, self.limits.filters)
        if (user is None) == (history is None):
            raise RequestError(
                422, "whom to recommend to", where="body", expected="either history or user",
                found="neither" if user is None else "both",
            )  # fmt: skip
        among = served.among(filters)
        if user is not None:
            row = served.user_row(user, status=status)
            seen: npt.NDArray[np.integer] | None = served.seen_by(row)
            scores = served.user_scores(row, served.under(weights))
            shown: Id | None = served.user_ids[row]
        else:
            rows = served.item_rows_of(cast("Sequence[Id]", history))
            seen, shown = rows, None
            scores = served.history_scores(rows, served.under(weights))
        best, values, total = served.page(scores, seen if exclude_seen else None, among, offset, k)
        end = offset + best.size
        return {
            "run": served.name, "user": shown, "k": k, "offset": offset, "total": total,
            "next_offset": end if best.size and end < total and end <= self.limits.offset else None,
            "items": [
                {"item": served.item_ids[row], "title": served.titles[row], "score": score, "place": place}
                for place, (row, score) in enumerate(zip(best.tolist(), values.tolist(), strict=True), offset + 1)
            ],
        }  # fmt: skip

    def similar(self, item: Id, k: int = 10, run: str | None = None) -> Answer:
        """The items nearest to one, itself left out.

        Raises:
            RequestError: the item or the run is unknown, or k out of bounds.
        """
        served = self.served(run)
        self._bound("k", k, 1, self.limits.k)
        row = served.item_row(item)
        best, values, _ = served.page(served.similar_scores(row), np.array([row]), None, 0, k)
        return {
            "run": served.name, "item": served.item_ids[row], "title": served.titles[row],
            "items": [
                {**served.named(near), "score": score}
                for near, score in zip(best.tolist(), values.tolist(), strict=True)
            ],
        }  # fmt: skip

    def items(self, text: str = "", limit: int = 10, run: str | None = None) -> Answer:
        """Items by title.

        Raises:
            RequestError: the run is unknown, or the limit out of bounds.
        """
        served = self.served(run)
        self._bound("limit", limit, 1, self.limits.k)
        return {"items": [served.named(row) for row in served.titled(text, limit)]}

    def users(self, prefix: str = "", limit: int = 10, run: str | None = None) -> Answer:
        """Users by the beginning of their id.

        Raises:
            RequestError: the run is unknown, or the limit out of bounds.
        """
        served = self.served(run)
        self._bound("limit", limit, 1, self.limits.k)
        return {"users": [served.user_ids[row] for row in served.users_from(prefix, limit)]}

    def history(self, user: Id, run: str | None = None) -> Answer:
        """What a user chose, and the part of the split that each item lies in.

        Raises:
            RequestError: the user or the run is unknown.
        """
        served = self.served(run)
        row = served.user_row(user)
        return {
            "user": served.user_ids[row],
            "items": [{**served.named(item), "part": part} for item, part in served.parts_of(row)],
        }

    def _bound(self, name: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise RequestError(
                422, f"{name} is out of bounds", where=name, expected=f"{low:,} to {high:,}", found=f"{value:,}"
            )


class _Variants:
    """Models solved under other relation weights: one at a time, each once, the latest few kept."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._kept: OrderedDict[tuple[tuple[str, float], ...], RelationalEASE] = OrderedDict()
        self._solving, self._books = threading.Lock(), threading.Lock()
        self._waiting = 0

    def get(self, weights: Mapping[str, float]) -> RelationalEASE:
        """The model under these weights of all its relations; seconds where it is not there yet.

        Raises:
            RequestError: too many questions wait already.
        """
        key = tuple(sorted(weights.items()))
        if (found := self._find(key)) is not None:
            return found
        limits = self._served.limits
        with self._books:
            if self._waiting >= limits.waiting:
                raise RequestError(
                    503, "too many relation weights at once", where="weights",
                    expected=f"at most {limits.waiting} that wait to be solved", found=f"{self._waiting} waiting",
                )  # fmt: skip
            self._waiting += 1
        try:
            with self._solving:
                if (found := self._find(key)) is not None:  # whoever came first solved it
                    return found
                fitted = self._served.model
                assert isinstance(fitted, RelationalEASE)
                config = replace(fitted.config, weights={**fitted.config.weights, **weights})
                solved = RelationalEASE(fitted.graph, config).solve()
                with self._books:
                    self._kept[key] = solved
                    most = max(1, min(limits.variants, limits.variant_bytes // max(solved.item_weights.nbytes, 1)))
                    while len(self._kept) > most:
                        self._kept.popitem(last=False)
                return solved
        finally:
            with self._books:
                self._waiting -= 1

    def _find(self, key: tuple[tuple[str, float], ...]) -> RelationalEASE | None:
        with self._books:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


class _Search:
    """Items by title and users by id."""

    def __init__(self, served: Served) -> None:
        self._item_rows = served.item_rows
        counts = np.bincount(served.graph.interactions.dst, minlength=served.n_items)
        self._by_count = np.argsort(-counts, kind="stable")
        titles = (served.titles[row] or str(served.item_ids[row]) for row in self._by_count.tolist())
        self._titles = pl.Series([_folded(title) for title in titles], dtype=pl.String)
        pairs = sorted((str(key), row) for row, key in enumerate(served.user_ids))
        self._users = [text for text, _ in pairs]
        self._user_rows = [row for _, row in pairs]

    def titled(self, text: str, limit: int) -> list[int]:
        """See ``Served.titled``."""
        wanted = _folded(text)
        found = [self._item_rows[text.strip()]] if text.strip() in self._item_rows else []
        has = pl.Series(np.ones(len(self._titles), np.bool_))
        for word in wanted.split():
            has &= self._titles.str.contains(word, literal=True)
        first = has & self._titles.str.starts_with(wanted)
        for places in (first, has & ~first):
            rows = self._by_count[places.arg_true().head(limit + 1).to_numpy()].tolist()
            found += [row for row in rows if row not in found[:1]]
        return found[:limit]

    def users_from(self, prefix: str, limit: int) -> list[int]:
        """See ``Served.users_from``."""
        start = bisect_left(self._users, prefix)
        found = []
        for at in range(start, min(start + limit, len(self._users))):
            if not self._users[at].startswith(prefix):
                break
            found.append(self._user_rows[at])
        return found


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


def _folded(text: str) -> str:
    """Text without case and accents, its words one blank apart."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def _usable(model: RelationalEASE) -> list[str]:
    """Relations that the model reads, whatever their weight."""
    return [knob.name.removeprefix("weights.") for knob in model.knobs(model.graph) if knob.name != "l2"]
