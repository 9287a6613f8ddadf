"""Routes that reject unknown query parameters, and repeated ones that are no lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute

from relrank.serve.limits import RequestError


class StrictRoute(APIRoute):
    """A route that accepts its own query parameters only."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, after the check."""
        handler = super().get_route_handler()
        fields = self.dependant.query_params
        known = {field.alias for field in fields}
        lists = {f.alias for f in fields if isinstance(f.default, list)}

        async def checked(request: Request) -> Response:
            if request.scope["query_string"]:
                _check(request.scope["query_string"], known, lists)
            return await handler(request)

        return checked


def _check(query: bytes, known: Collection[str], lists: Collection[str]) -> None:
    """Check the names of query parameters.

    Raises:
        RequestError: a parameter is unknown, or repeated although it is no list.
    """
    given = Counter(name for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    for name, times in given.items():
        where = f"query.{name}"[:200]
        if name not in known:
            near = get_close_matches(name.lower(), known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            expected = f"one of {', '.join(sorted(known))}{hint}" if known else "no parameters"
            raise RequestError(422, "unknown parameter", where=where, expected=expected, found=repr(name)[:200])
        if times > 1 and name not in lists:
            raise RequestError(
                422, "parameter is given twice", where=where, expected="one value", found=f"{times:,} values"
            )
