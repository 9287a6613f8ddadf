"""/runs, /recommend and /similar: what is served, and ranked lists of it."""

# FastAPI evaluates the annotations of the handlers, so this file does not postpone them.

from typing import Annotated, Any

from fastapi import Body, FastAPI, Path, Query, Response

from relrank.serve import schemas
from relrank.serve.candidate_filters import parse_conditions
from relrank.serve.responder import Responder
from relrank.serve.responses import json_response
from relrank.serve.routes.examples import Examples
from relrank.serve.routes.parameters import AnyOf, Attributes, Exclude, Run, With, Without

SHORT_HISTORY = 200
"""Longer histories are scored in a thread."""


def add_list_routes(app: FastAPI, responder: Responder, examples: Examples) -> None:
    """Add the routes to an application."""
    service, limits = responder.service, responder.service.limits

    @app.get("/runs", response_model=schemas.RunsResponse)
    async def runs() -> Response:
        """The runs that are served."""
        return json_response(service.runs())

    _add_known_user_route(app, responder, examples)

    @app.post("/recommend", response_model=schemas.RecommendResponse)
    async def recommend_for(
        request: Annotated[schemas.RecommendRequest, Body(openapi_examples=examples.recommend_bodies)],
    ) -> Response:
        """Recommendations for an unseen history, a known user, or both; also under other relation weights."""
        history = request.history or []
        has_session = request.user is not None and request.history is not None
        is_simple = not request.with_ and not request.exclude and not has_session and len(history) <= SHORT_HISTORY
        page: dict[str, Any] = {
            name: getattr(request, name) for name in ("k", "offset", "exclude_seen", "attributes")
        }
        return await responder.ranked_list(
            "/recommend",
            request.run,
            lambda: service.recommend(**page, **schemas.shared_arguments(request)),
            is_simple=is_simple and responder.is_in_index(request.run, request.offset + request.k),
            has_weights=bool(request.weights),
        )

    @app.get("/similar/{item:path}", response_model=schemas.SimilarResponse)
    async def similar(
        item: Annotated[str, Path(max_length=1000, examples=examples.seen_items)],
        k: Annotated[int, Query(ge=1, le=limits.k, description=schemas.K)] = 10,
        run: Run = None,
        attributes: Attributes = True,
    ) -> Response:
        """Items most similar to one: by cosine where the model has vectors, else by the scores of its item alone."""
        return await responder.ranked_list("/similar/{item}", run, lambda: service.similar(item, k, run, attributes))


def _add_known_user_route(app: FastAPI, responder: Responder, examples: Examples) -> None:
    service, limits = responder.service, responder.service.limits

    @app.get("/recommend/{user:path}", response_model=schemas.RecommendResponse)
    async def recommend(
        user: Annotated[str, Path(max_length=1000, examples=examples.users)],
        k: Annotated[int, Query(ge=1, le=limits.k, description=schemas.K)] = 10,
        offset: Annotated[int, Query(ge=0, le=limits.offset, description=schemas.OFFSET)] = 0,
        exclude_seen: Annotated[bool, Query(description=schemas.EXCLUDE_SEEN)] = True,
        with_: With = [],  # noqa: B006
        any_: AnyOf = [],  # noqa: B006
        without: Without = [],  # noqa: B006
        exclude: Exclude = [],  # noqa: B006
        run: Run = None,
        attributes: Attributes = True,
    ) -> Response:
        """Recommendations for a known user."""
        filters = parse_conditions(with_, any_, without, "query.")
        return await responder.ranked_list(
            "/recommend/{user}",
            run,
            lambda: service.recommend(
                user=user,
                k=k,
                offset=offset,
                exclude_seen=exclude_seen,
                filters=filters,
                exclude=exclude,
                run=run,
                attributes=attributes,
            ),
            is_simple=not filters and not exclude and responder.is_in_index(run, offset + k),
        )
