"""/items, /users, /values and /history: look-ups in the tables of a run."""

# FastAPI evaluates the annotations of the handlers, so this file does not postpone them.

from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from relrank.serve import schemas
from relrank.serve.responder import Responder
from relrank.serve.responses import json_response
from relrank.serve.routes.examples import Examples
from relrank.serve.routes.parameters import Attributes, Run


def add_catalogue_routes(app: FastAPI, responder: Responder, examples: Examples) -> None:
    """Add the routes to an application."""
    service, most = responder.service, responder.service.limits.k

    @app.get("/items", response_model=schemas.ItemsResponse)
    async def items(
        q: Annotated[str, Query(max_length=200, description="Words of a title, in any order; or an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=most)] = 10,
        run: Run = None,
        attributes: Attributes = True,
    ) -> Response:
        """Search items by title."""
        return json_response(await responder.run_in_thread(lambda: service.items(q, limit, run, attributes)))

    @app.get("/users", response_model=schemas.UsersResponse)
    async def users(
        q: Annotated[str, Query(max_length=200, description="Beginning of an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=most)] = 10,
        run: Run = None,
    ) -> Response:
        """Search users by id."""
        return json_response(service.users(q, limit, run))

    @app.get("/values/{relation:path}", response_model=schemas.FilterValuesResponse)
    async def values(
        relation: Annotated[str, Path(max_length=1000, examples=examples.filters)],
        q: Annotated[str, Query(max_length=200, description="Part of an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=most)] = 10,
        run: Run = None,
    ) -> Response:
        """Values of a filter, those with most items first."""
        return json_response(await responder.run_in_thread(lambda: service.values(relation, q, limit, run)))

    @app.get("/history/{user:path}", response_model=schemas.HistoryResponse)
    async def history(
        user: Annotated[str, Path(max_length=1000, examples=examples.users)],
        run: Run = None,
        attributes: Attributes = True,
    ) -> Response:
        """The interactions of a known user."""
        return json_response(service.history(user, run, attributes))
