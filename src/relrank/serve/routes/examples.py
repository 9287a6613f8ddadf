"""Examples of requests that the served run answers, for the OpenAPI description and the page that tries it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from relrank.serve.limits import Id
from relrank.serve.service import Service

NamedExamples = dict[str, Any]
"""Examples by a short name, as OpenAPI has them: ``summary`` and ``value``."""


class Examples:
    """Ids and bodies of the first run, as it was when the server started; empty without training interactions.

    Args:
        service: answers the requests.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._served = service, service.served()
        example = self._served.example
        self._user: Id | None = None if example is None else self._served.catalogue.user_ids[example[0]]
        self._history: list[Id] = [] if example is None else [self._served.catalogue.item_ids[r] for r in example[1]]

    @property
    def users(self) -> list[str]:
        """A user."""
        return [] if self._user is None else [str(self._user)]

    @property
    def seen_items(self) -> list[str]:
        """An item that the user chose."""
        return [str(item) for item in self._history[:1]]

    @cached_property
    def listed_items(self) -> list[str]:
        """An item of the user's list."""
        return [] if self._user is None else [str(item) for item in self._first_of(user=self._user)]

    @property
    def filters(self) -> list[str]:
        """A name that filters may have."""
        return (self._served.filters.relations or self._served.filters.columns)[:1]

    @property
    def recommend_bodies(self) -> NamedExamples:
        """Bodies of POST /recommend."""
        bodies = {"A history": {"history": self._history, "k": 5}}
        if self._user is not None:
            bodies["A known user, and the items of a session"] = {"user": self._user, "history": self._history[:1]}
        for name in self._served.filters.relations[:1]:
            bodies["Only some items"] = {"history": self._history, "with": [self._condition(name)]}
        if self._served.weights_adjustable:
            name, weight = next(iter(self._served.weights.items()))
            bodies["Other relation weights"] = {"history": self._history, "weights": {name: 2 * weight or 1.0}}
        return _named(bodies)

    @property
    def explain_bodies(self) -> NamedExamples:
        """Bodies of POST /explain."""
        listed = self._first_of(history=self._history)
        return _named({"A history": {"item": listed[0], "history": self._history}} if listed else {})

    def _first_of(self, **subject: Any) -> list[Any]:
        return [one["item"] for one in self._service.recommend(k=1, **subject)["items"]]

    def _condition(self, relation: str) -> dict[str, Any]:
        value, _ = self._served.filters.values(relation)[0]
        return {"relation": relation, "value": value}


def _named(bodies: dict[str, Any]) -> NamedExamples:
    return {name: {"summary": name, "value": body} for name, body in bodies.items()}
