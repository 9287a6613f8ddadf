"""/explain: why an item is recommended."""

# FastAPI evaluates the annotations of the handlers, so this file does not postpone them.

from functools import partial
from typing import Annotated

from fastapi import Body, FastAPI, Path, Query, Response

from relrank.serve import schemas
from relrank.serve.candidate_filters import parse_conditions
from relrank.serve.responder import Responder
from relrank.serve.responses import json_response
from relrank.serve.routes.examples import Examples
from relrank.serve.routes.parameters import AnyOf, Exclude, Run, With, Without


def add_explanation_routes(app: FastAPI, responder: Responder, examples: Examples) -> None:
    """Add the routes to an application."""
    service = responder.service

    @app.get("/explain/{user}/{item}", response_model=schemas.ExplainResponse)
    async def explain(
        user: Annotated[str, Path(max_length=1000, examples=examples.users)],
        item: Annotated[str, Path(max_length=1000, examples=examples.listed_items)],
        n: Annotated[int, Query(ge=1, le=service.limits.reasons, description="Maximum number of reasons.")] = 5,
        with_: With = [],  # noqa: B006
        any_: AnyOf = [],  # noqa: B006
        without: Without = [],  # noqa: B006
        exclude: Exclude = [],  # noqa: B006
        run: Run = None,
    ) -> Response:
        """Why an item is recommended to a known user, in the list that the same filters give."""
        filters = parse_conditions(with_, any_, without, "query.")
        content = await responder.run_in_thread(
            lambda: service.explain(item, user=user, n=n, filters=filters, exclude=exclude, run=run, status=404)
        )
        return json_response(content)

    @app.post("/explain", response_model=schemas.ExplainResponse)
    async def explain_to(
        request: Annotated[schemas.ExplainRequest, Body(openapi_examples=examples.explain_bodies)],
    ) -> Response:
        """Why an item is recommended for a history, or to a known user."""
        task = partial(service.explain, request.item, n=request.n, **schemas.shared_arguments(request))
        return json_response(await responder.run_in_thread(task, bool(request.weights)))
