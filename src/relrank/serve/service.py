"""Questions to one or more fitted runs, answered under outside ids as plain JSON. No web, no files; any thread.

A list is a page of one total order of the catalogue per question: score descending, equal scores in the fixed random
order of ``relrank.evaluation.ranking``. The lists are those of ``FittedRun.recommend`` and ``recommend_for``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from relrank.errors import InputError
from relrank.kernels.csr import Int64
from relrank.runs.fitted_run import FittedRun
from relrank.serve.catalogue import JsonObject
from relrank.serve.explanations import explain_item
from relrank.serve.filters import Condition, Has
from relrank.serve.limits import Id, Limits, RequestError, shortened_repr
from relrank.serve.paging import Mask
from relrank.serve.served_model import ServedModel

POPULARITY = "popularity"
"""What a list is by where the model says nothing."""


class Service:
    """Fitted runs under their names; the first is the one that is meant where none is named.

    Args:
        runs: by name, at least one.
        limits: bounds of a question.

    Raises:
        InputError: there is no run.
    """

    def __init__(self, runs: Mapping[str, FittedRun | ServedModel], limits: Limits | None = None) -> None:
        if not runs:
            raise InputError("nothing to serve", where="service", expected="at least one run", found="none")
        self.limits = limits or Limits()
        self._runs = {
            name: run if isinstance(run, ServedModel) else ServedModel(name, run, self.limits)
            for name, run in runs.items()
        }
        self._swap = threading.Lock()

    def __repr__(self) -> str:
        return f"Service({', '.join(map(repr, self._runs.values()))})"

    @property
    def names(self) -> list[str]:
        """The runs that are served."""
        return list(self._runs)

    def served(self, run: str | None = None) -> ServedModel:
        """One run. A question is answered by one of them from beginning to end, whatever is replaced meanwhile.

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

    def replace(self, name: str, run: FittedRun | ServedModel) -> None:
        """Put another run in the place of one; questions in progress end on the one that they began with.

        Raises:
            InputError: no run of that name is served.
        """
        fresh = run if isinstance(run, ServedModel) else ServedModel(name, run, self.limits)
        with self._swap:
            if name not in self._runs:
                raise InputError("no such run to replace", where="service", expected=str(self.names), found=name)
            self._runs = {**self._runs, name: fresh}

    def runs(self) -> JsonObject:
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
        filters: Sequence[Condition | tuple[str, str]] = (),
        exclude: Sequence[Id] = (),
        weights: Mapping[str, float] | None = None,
        skip_unknown: bool = False,
        run: str | None = None,
    ) -> JsonObject:
        """A page of the list for a known user, for a history, or for a user with the items of a visit.

        Where the model says nothing of them (no history, or one that leaves all scores equal), the list is that of
        popularity, and says so.

        Args:
            user: id of a user.
            history: ids of items, oldest first; with a user those of the current visit.
            k: length of the page.
            offset: items before it.
            exclude_seen: leave out what the user chose in any part, or what the history holds.
            filters: only items that fit all of these conditions; a pair (name, value) is ``Has``.
            exclude: ids of items to leave out.
            weights: relation weights other than the fitted ones.
            skip_unknown: leave out items of the history that are unknown, and name them, instead of refusing it.
            run: name of the run.

        Raises:
            RequestError: something that is named is unknown, or a bound is passed.
        """
        served = self.served(run)
        self.limits.check("k", k, 1, self.limits.k)
        self.limits.check("offset", offset, 0, self.limits.offset)
        row, rows, unknown = self._resolve_subject(served, user, history, skip_unknown)
        candidates = self._candidate_mask(served, filters, exclude, unknown if skip_unknown else None)
        page = served.ranked_list(row, rows, offset, k, exclude_seen, candidates, served.with_weights(weights))
        end, ids, titles = offset + page.items.size, served.catalogue.item_ids, served.catalogue.titles
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
                {"item": ids[item], "title": titles[item], "score": score, "place": place}
                for place, (item, score) in enumerate(pairs, offset + 1)
            ],
        }

    def similar(self, item: Id, k: int = 10, run: str | None = None) -> JsonObject:
        """The items nearest to one, itself left out; see ``ServedModel.similar``.

        Raises:
            RequestError: the item or the run is unknown, or k out of bounds.
        """
        served = self.served(run)
        self.limits.check("k", k, 1, self.limits.k)
        row = served.catalogue.item_row(item)
        best, values = served.similar(row, k)
        pairs = zip(best.tolist(), values.tolist(), strict=True)
        return {
            "run": served.name,
            **served.catalogue.named(row),
            "items": [{**served.catalogue.named(near), "score": score} for near, score in pairs],
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
        """Why an item is recommended to a known user, or to a history; of the list that ``recommend`` gives them.

        Args:
            item: id of the item.
            user: id of a user.
            history: ids of items, oldest first; with a user those of the current visit.
            n: most reasons.
            filters: those of the list.
            exclude: likewise.
            weights: relation weights other than the fitted ones.
            skip_unknown: as in ``recommend``.
            run: name of the run.
            status: of an unknown item.

        Raises:
            RequestError: something that is named is unknown, a bound is passed, or the item was chosen already.
        """
        served = self.served(run)
        self.limits.check("n", n, 1, self.limits.reasons)
        row, rows, unknown = self._resolve_subject(served, user, history, skip_unknown)
        target = served.catalogue.item_row(item, status=status)
        candidates = self._candidate_mask(served, filters, exclude, unknown if skip_unknown else None)
        found = explain_item(served, target, row, rows, n, served.with_weights(weights), candidates)
        found["fallback"] = POPULARITY if found["fallback"] else None
        return {"run": served.name, "unknown_items": unknown, **found}

    def items(self, text: str = "", limit: int = 10, run: str | None = None) -> JsonObject:
        """Items by title; see ``ServedModel.search_items``.

        Raises:
            RequestError: the run is unknown, or the limit out of bounds.
        """
        served = self.served(run)
        self.limits.check("limit", limit, 1, self.limits.k)
        return {"items": [served.catalogue.named(row) for row in served.catalogue.search_items(text, limit)]}

    def users(self, prefix: str = "", limit: int = 10, run: str | None = None) -> JsonObject:
        """Users by the beginning of their id.

        Raises:
            RequestError: the run is unknown, or the limit out of bounds.
        """
        served = self.served(run)
        self.limits.check("limit", limit, 1, self.limits.k)
        return {"users": [served.catalogue.user_ids[row] for row in served.catalogue.search_users(prefix, limit)]}

    def values(self, relation: str, text: str = "", limit: int = 10, run: str | None = None) -> JsonObject:
        """What a filter of a relation may name, and how many items it leaves, most first.

        Raises:
            RequestError: the run or the relation is unknown, or the limit out of bounds.
        """
        served = self.served(run)
        self.limits.check("limit", limit, 1, self.limits.k)
        found = served.search_values(relation, text, limit)
        return {"relation": relation, "values": [{"value": value, "items": items} for value, items in found]}

    def history(self, user: Id, run: str | None = None) -> JsonObject:
        """What a user chose, and the part of the split that each item lies in.

        Raises:
            RequestError: the user or the run is unknown.
        """
        served = self.served(run)
        row = served.catalogue.user_row(user)
        return {
            "user": served.catalogue.user_ids[row],
            "items": [
                {**served.catalogue.named(item), "part": part} for part, item in served.run.history_by_part(row)
            ],
        }

    def _candidate_mask(
        self,
        served: ServedModel,
        filters: Sequence[Condition | tuple[str, str]],
        exclude: Sequence[Id],
        unknown: list[Id] | None,
    ) -> Mask | None:
        """The items that may be listed; unknown ones of ``exclude`` are added to ``unknown`` where that is a list."""
        conditions = [Has(*one) if isinstance(one, tuple) else one for one in filters]
        rows, missing = served.catalogue.rows_of(exclude, "exclude", skip_unknown=unknown is not None)
        if unknown is not None:
            unknown += missing
        return served.candidates(conditions, rows)

    def _resolve_subject(
        self, served: ServedModel, user: Id | None, history: Sequence[Id] | None, skip_unknown: bool
    ) -> tuple[int | None, Int64 | None, list[Id]]:
        """The user's row, the rows of the history, and items of it that are unknown and left out."""
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
