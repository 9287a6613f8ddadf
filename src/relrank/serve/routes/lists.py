"""/runs, /recommend and /similar: what is served, and ranked lists of it."""

# FastAPI evaluates the annotations of the handlers, so this file does not postpone them.

from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from relrank.serve import schemas
from relrank.serve.candidate_filters import parse_conditions
from relrank.serve.responder import Responder
from relrank.serve.responses import json_response
from relrank.serve.routes.parameters import AnyOf, Exclude, PathId, Run, With, Without

SHORT_HISTORY = 200
"""Longer histories are scored in a thread."""


def add_list_routes(app: FastAPI, responder: Responder) -> None:
    """Add the routes to an application."""
    service, limits = responder.service, responder.service.limits

    @app.get("/runs", response_model=schemas.RunsResponse)
    async def runs() -> Response:
        """The runs that are served."""
        return json_response(service.runs())

    @app.get("/recommend/{user:path}", response_model=schemas.RecommendResponse)
    async def recommend(
        user: PathId,
        k: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        offset: Annotated[int, Query(ge=0, le=limits.offset)] = 0,
        exclude_seen: bool = True,
        with_: With = [],  # noqa: B006
        any_: AnyOf = [],  # noqa: B006
        without: Without = [],  # noqa: B006
        exclude: Exclude = [],  # noqa: B006
        run: Run = None,
    ) -> Response:
        """Recommendations for a known user."""
        filters = parse_conditions(with_, any_, without, "query.")
        return await responder.ranked_list(
            "/recommend/{user}",
            run,
            lambda: service.recommend(
                user=user, k=k, offset=offset, exclude_seen=exclude_seen, filters=filters, exclude=exclude, run=run
            ),
            is_simple=not filters and not exclude and responder.is_in_index(run, offset + k),
        )

    @app.post("/recommend", response_model=schemas.RecommendResponse)
    async def recommend_for(request: schemas.RecommendRequest) -> Response:
        """Recommendations for an unseen history, a known user, or both; also under other relation weights."""
        history = request.history or []
        has_session = request.user is not None and request.history is not None
        is_simple = not request.with_ and not request.exclude and not has_session and len(history) <= SHORT_HISTORY
        page: dict[str, Any] = {"k": request.k, "offset": request.offset, "exclude_seen": request.exclude_seen}
        return await responder.ranked_list(
            "/recommend",
            request.run,
            lambda: service.recommend(**page, **schemas.shared_arguments(request)),
            is_simple=is_simple and responder.is_in_index(request.run, request.offset + request.k),
            has_weights=bool(request.weights),
        )

    @app.get("/similar/{item:path}", response_model=schemas.SimilarResponse)
    async def similar(item: PathId, k: Annotated[int, Query(ge=1, le=limits.k)] = 10, run: Run = None) -> Response:
        """Items most similar to one: by cosine where the model has vectors, else by the scores of its item alone."""
        return await responder.ranked_list("/similar/{item}", run, lambda: service.similar(item, k, run))
