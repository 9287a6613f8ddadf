"""The service as an HTTP application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

import relrank
from relrank.serve import schemas
from relrank.serve.error_handlers import add_error_handlers
from relrank.serve.middleware import ServiceMiddleware
from relrank.serve.prometheus import ServiceMetrics
from relrank.serve.responder import Responder
from relrank.serve.routes.catalogue import add_catalogue_routes
from relrank.serve.routes.examples import Examples
from relrank.serve.routes.explanations import add_explanation_routes
from relrank.serve.routes.lists import add_list_routes
from relrank.serve.routes.status import add_status_routes
from relrank.serve.service import Service
from relrank.serve.strict import StrictRoute

PAGE = Path(__file__).parent / "page"
"""Folder of the page that is served at "/"."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
ERRORS = {
    400: "not JSON",
    401: "missing or wrong token",
    404: "not found",
    413: "too large",
    422: "invalid request",
    500: "internal error",
    503: "unavailable",
}


def make_app(
    service: Service, *, token: str | None = None, hosts: Collection[str] = (), page: Path = PAGE
) -> FastAPI:
    """The application. ``app.state`` has ``service``, ``responder``, ``metrics``, ``draining`` and ``reload_errors``.

    Args:
        service: computes the answers.
        token: bearer token that every request needs, except for the two pages and /health; None for none.
        hosts: accepted ``Host`` names, ``*.`` before a name for its subdomains; () for any.
        page: folder of the files at "/".
    """
    metrics = ServiceMetrics()
    responder = Responder(service, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        responder.close()

    app = FastAPI(
        title="relrank",
        version=relrank.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses={s: {"model": schemas.ErrorResponse, "description": text} for s, text in ERRORS.items()},
        description="Recommendations of fitted runs. Ids are those of your tables. A slash inside an id is ambiguous "
        "in a path with two ids: use POST there.",
    )
    app.router.route_class = StrictRoute
    app.state.service, app.state.responder, app.state.metrics = service, responder, metrics
    app.state.draining, app.state.reload_errors = False, {}
    for name in service.names:
        metrics.loaded.labels(name).set(time.time())
    examples = Examples(service)
    for add_routes in (add_list_routes, add_explanation_routes, add_catalogue_routes):
        add_routes(app, responder, examples)
    add_status_routes(app, responder)
    add_error_handlers(app)
    routes = {route.path.split("/", 2)[1] for route in app.routes if hasattr(route, "path")}
    if (page / "docs.html").is_file():

        @app.get("/docs", include_in_schema=False)
        async def docs() -> FileResponse:
            return FileResponse(page / "docs.html")

    if page.is_dir():
        app.mount("/", StaticFiles(directory=page, html=True), name="page")
    app.add_middleware(
        ServiceMiddleware,
        metrics=metrics,
        max_body_bytes=service.limits.body,
        token=token,
        protected_paths=routes - {"health", ""},
        headers=HEADERS,
        hosts=hosts,
    )
    return app
