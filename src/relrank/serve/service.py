"""Answers of one or more fitted runs under outside ids, as plain JSON, without HTTP. Safe to call from any thread.

Each list is a page of one total order of the catalogue: score descending, equal scores in the fixed random order of
``relrank.evaluation.ranking``. The lists equal those of ``FittedRun.recommend`` and ``recommend_for``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from relrank.errors import InputError
from relrank.kernels.csr import Int64
from relrank.runs.fitted_run import FittedRun
from relrank.serve.candidate_filters import Condition, Has
from relrank.serve.catalogue import JsonObject
from relrank.serve.explanations import explain_item
from relrank.serve.limits import Id, Limits, RequestError, shortened_repr
from relrank.serve.paging import Mask
from relrank.serve.served_model import ServedModel

POPULARITY = "popularity"
"""Name of the fallback where a model has no information."""


class Service:
    """Fitted runs by name; the first is the default.

    Args:
        runs: by name, at least one.
        limits: bounds of a request.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, runs: Mapping[str, FittedRun | ServedModel], limits: Limits | None = None) -> None:
        if not runs:
            raise InputError("nothing to serve", where="service", expected="at least one run", found="none")
        self.limits = limits or Limits()
        self._runs = {name: self._serve(name, run) for name, run in runs.items()}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Service({', '.join(map(repr, self._runs.values()))})"

    def _serve(self, name: str, run: FittedRun | ServedModel) -> ServedModel:
        return run if isinstance(run, ServedModel) else ServedModel(name, run, self.limits)

    @property
    def names(self) -> list[str]:
        """Names of the runs."""
        return list(self._runs)

    def served(self, run: str | None = None) -> ServedModel:
        """A run, the first by default. A request uses one object throughout, even if the run is replaced meanwhile.

        Raises:
            RequestError: no such run.
        """
        runs = self._runs
        if run is None:
            return next(iter(runs.values()))
        if run not in runs:
            raise RequestError(
                404, "unknown run", where="run", expected=f"one of {list(runs)}", found=shortened_repr(run)
            )
        return runs[run]

    def _limited(self, run: str | None, name: str, value: int, most: int) -> ServedModel:
        """A run, after a check that a number of the request lies in 1 … ``most``.

        Raises:
            RequestError: no such run, or the number is out of bounds.
        """
        served = self.served(run)
        self.limits.check(name, value, 1, most)
        return served

    def replace(self, name: str, run: FittedRun | ServedModel) -> None:
        """Replace a run; requests in progress finish on the old one.

        Raises:
            InputError: no run has this name.
        """
        fresh = self._serve(name, run)
        with self._lock:
            if name not in self._runs:
                raise InputError("no such run to replace", where="service", expected=str(self.names), found=name)
            self._runs = {**self._runs, name: fresh}

    def runs(self) -> JsonObject:
        """Descriptions of the runs."""
        return {"runs": [run.describe() for run in self._runs.values()]}

    def recommend(
        self,
        *,
        user: Id | None = None,
        history: Sequence[Id] | None = None,
        k: int = 10,
        offset: int = 0,
        exclude_seen: bool = True,
        filters: Sequence[Condition | tuple[str, str]] = (),
        exclude: Sequence[Id] = (),
        weights: Mapping[str, float] | None = None,
        skip_unknown: bool = False,
        run: str | None = None,
        attributes: bool = True,
    ) -> JsonObject:
        """A page of recommendations for a known user, a history, or a user with the items of a session.

        Where the model has no information (no history, or equal scores for all items), the list is by popularity, and
        ``fallback`` says so.

        Args:
            user: id of a user.
            history: ids of items, oldest first; with a user those of the session.
            k: length of the page.
            offset: items before the page.
            exclude_seen: leave out the user's interactions of any part of the split, or the items of the history.
            filters: only items that match all of these conditions; a pair (name, value) is ``Has``.
            exclude: ids of items to leave out.
            weights: relation weights that differ from the fitted ones.
            skip_unknown: leave out unknown items and list them in the answer, instead of raising an error.
            run: name of the run.
            attributes: whether items have their attributes.

        Raises:
            RequestError: an id or a name is unknown, or a limit is exceeded.
        """
        served = self._limited(run, "k", k, self.limits.k)
        self.limits.check("offset", offset, 0, self.limits.offset)
        row, rows, unknown = self._resolve_subject(served, user, history, skip_unknown)
        candidates = self._candidate_mask(served, filters, exclude, unknown if skip_unknown else None)
        page = served.ranked_list(row, rows, offset, k, exclude_seen, candidates, served.with_weights(weights))
        end = offset + page.items.size
        pairs = zip(page.items.tolist(), page.scores.tolist(), strict=True)
        return {
            "run": served.name,
            "user": None if row is None else served.catalogue.user_ids[row],
            "k": k,
            "offset": offset,
            "total": page.total,
            "next_offset": end if page.items.size and end < page.total and end <= self.limits.offset else None,
            "fallback": POPULARITY if page.fallback else None,
            "exact": page.exact,
            "missing_relations": served.user_relations_read if row is None else [],
            "unknown_items": unknown,
            "items": [
                {**served.named(item, attributes), "score": score, "place": rank}
                for rank, (item, score) in enumerate(pairs, offset + 1)
            ],
        }

    def similar(self, item: Id, k: int = 10, run: str | None = None, attributes: bool = True) -> JsonObject:
        """The items most similar to one, itself left out; see ``ServedModel.similar``.

        Raises:
            RequestError: the item or the run is unknown, or k is out of bounds.
        """
        served = self._limited(run, "k", k, self.limits.k)
        row = served.catalogue.item_row(item)
        items, scores = served.similar(row, k)
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return {
            "run": served.name,
            **served.catalogue.named(row),
            "items": [{**served.named(other, attributes), "score": score} for other, score in pairs],
        }

    def explain(
        self,
        item: Id,
        *,
        user: Id | None = None,
        history: Sequence[Id] | None = None,
        n: int = 5,
        filters: Sequence[Condition | tuple[str, str]] = (),
        exclude: Sequence[Id] = (),
        weights: Mapping[str, float] | None = None,
        skip_unknown: bool = False,
        run: str | None = None,
        status: int = 422,
    ) -> JsonObject:
        """Why an item is in the list that ``recommend`` gives for the same arguments.

        Args:
            item: id of the item.
            user: id of a user.
            history: ids of items, oldest first; with a user those of the session.
            n: maximum number of reasons.
            filters: those of the list.
            exclude: those of the list.
            weights: those of the list.
            skip_unknown: as in ``recommend``.
            run: name of the run.
            status: HTTP status of an unknown item.

        Raises:
            RequestError: an id or a name is unknown, a limit is exceeded, or the item is not in the list.
        """
        served = self._limited(run, "n", n, self.limits.reasons)
        row, rows, unknown = self._resolve_subject(served, user, history, skip_unknown)
        target = served.catalogue.item_row(item, status)
        candidates = self._candidate_mask(served, filters, exclude, unknown if skip_unknown else None)
        explanation = explain_item(served, target, row, rows, n, served.with_weights(weights), candidates)
        explanation["fallback"] = POPULARITY if explanation["fallback"] else None
        return {"run": served.name, "unknown_items": unknown, **explanation}

    def items(self, text: str = "", limit: int = 10, run: str | None = None, attributes: bool = True) -> JsonObject:
        """Items by title; see ``Catalogue.search_items``.

        Raises:
            RequestError: the run is unknown, or the limit is out of bounds.
        """
        served = self._limited(run, "limit", limit, self.limits.k)
        rows = served.catalogue.search_items(text, limit)
        return {"items": [served.named(row, attributes) for row in rows]}

    def users(self, prefix: str = "", limit: int = 10, run: str | None = None) -> JsonObject:
        """Users by the beginning of their id.

        Raises:
            RequestError: the run is unknown, or the limit is out of bounds.
        """
        catalogue = self._limited(run, "limit", limit, self.limits.k).catalogue
        return {"users": [catalogue.user_ids[row] for row in catalogue.search_users(prefix, limit)]}

    def values(self, relation: str, text: str = "", limit: int = 10, run: str | None = None) -> JsonObject:
        """Values of a filter and their numbers of items, most first.

        Raises:
            RequestError: the run or the filter is unknown, or the limit is out of bounds.
        """
        found = self._limited(run, "limit", limit, self.limits.k).search_values(relation, text, limit)
        return {"relation": relation, "values": [{"value": value, "items": items} for value, items in found]}

    def history(self, user: Id, run: str | None = None, attributes: bool = True) -> JsonObject:
        """The items of a user's interactions, each with its part of the split.

        Raises:
            RequestError: the user or the run is unknown.
        """
        served = self.served(run)
        row = served.catalogue.user_row(user)
        items = [{**served.named(item, attributes), "part": part} for part, item in served.run.history_by_part(row)]
        return {"user": served.catalogue.user_ids[row], "items": items}

    def _candidate_mask(
        self,
        served: ServedModel,
        filters: Sequence[Condition | tuple[str, str]],
        exclude: Sequence[Id],
        unknown: list[Id] | None,
    ) -> Mask | None:
        """The candidate items; unknown ids in ``exclude`` are appended to ``unknown``, or refused if that is None."""
        conditions = [Has(*one) if isinstance(one, tuple) else one for one in filters]
        rows, missing = served.catalogue.rows_of(exclude, "exclude", skip_unknown=unknown is not None)
        if unknown is not None:
            unknown += missing
        return served.candidates(conditions, rows)

    def _resolve_subject(
        self, served: ServedModel, user: Id | None, history: Sequence[Id] | None, skip_unknown: bool
    ) -> tuple[int | None, Int64 | None, list[Id]]:
        """The user's row, the rows of the history, and the unknown items that were left out of it."""
        if user is None and history is None:
            raise RequestError(
                422,
                "whom to recommend to",
                where="body",
                expected="a history, a user, or a user with the items of a visit as history",
                found="neither",
            )
        row = None if user is None else served.catalogue.user_row(user)
        if history is None:
            return row, None, []
        return row, *served.catalogue.rows_of(history, skip_unknown=skip_unknown)
