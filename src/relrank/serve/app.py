"""The service over HTTP: its routes, and how errors look there."""

# FastAPI reads annotations where they stand, so they stay what they are: no text of annotations in this file.

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import relrank
from relrank.serve import schemas
from relrank.serve.docs import docs_page
from relrank.serve.filters import parse_conditions
from relrank.serve.limits import Limits, RequestError
from relrank.serve.middleware import ServiceMetrics, ServiceMiddleware, error_response, json_response
from relrank.serve.served_model import INDEXED_ITEMS
from relrank.serve.service import Service
from relrank.serve.strict import StrictRoute

PAGE = Path(__file__).parent / "page"
"""The page that the server shows at "/"."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
}
METRICS = "text/plain; version=0.0.4; charset=utf-8"
SHORT = 200
"""A longer history is scored in a thread."""

InUrl = Annotated[str, InPath(max_length=1000)]
Run = Annotated[str | None, Query(description="Name of a run; the first by default.")]
Filters = Annotated[
    list[str],
    Query(alias="with", description="NAME:VALUE, only items with this of a relation or column; all where repeated."),
]
AnyOf = Annotated[list[str], Query(alias="any", description="NAME:VALUE, likewise; one at least where repeated.")]
Without = Annotated[list[str], Query(description="NAME:VALUE, only items without it.")]
Exclude = Annotated[list[str], Query(description="Id of an item to leave out.")]


def make_app(
    service: Service, *, token: str | None = None, hosts: Collection[str] = (), page: Path = PAGE
) -> FastAPI:
    """The application. ``app.state`` has ``service``, ``measures``, ``draining``, ``reload_errors`` (by run).

    Args:
        service: what answers.
        token: asked for in every request but those for the page and for /health; None asks for none.
        hosts: names in ``Host`` that are answered, ``*.`` before a name for those below it; () for any.
        page: folder of the files shown at "/".
    """
    limits, began = service.limits, time.monotonic()
    pools = _Pools(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pools.end()

    errors = {
        400: "not JSON",
        401: "no token, or another",
        404: "not there",
        413: "too large",
        422: "makes no sense",
        500: "an error of the server",
        503: "not now",
    }
    app = FastAPI(
        title="relrank",
        version=relrank.__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        responses={s: {"model": schemas.ErrorResponse, "description": text} for s, text in errors.items()},
        description="Recommendations of fitted runs. Ids are those of your tables. In a path a slash inside an id is "
        "ambiguous where two ids follow each other: POST such questions.",
    )
    app.router.route_class = StrictRoute
    measures = ServiceMetrics()
    app.state.service, app.state.measures = service, measures
    app.state.pools, app.state.draining, app.state.reload_errors = pools, False, {}
    for name in service.names:
        measures.loaded.labels(name).set(time.time())

    async def list_response(
        route: str, run: str | None, weights: dict[str, float] | None, plain: bool, task: Callable[[], dict[str, Any]]
    ) -> Response:
        """A ``plain`` list is made at once where that takes no longer than a thread would to start; all else in one.

        Plain is what the start measured: no filter, whose items may have to be looked up, and no long history. Where
        an index finds lists, only their beginning is: what the index does not find takes all products.
        """
        served = service.served(run)
        if plain and not weights and served.quick:
            content = task()
        else:
            content = await pools.run_in_thread(task, bool(weights))
        measures.items.labels(route).observe(len(content["items"]))
        return json_response(content)

    def near(run: str | None, end: int) -> bool:
        return service.served(run).index is None or end <= INDEXED_ITEMS

    @app.get("/runs", response_model=schemas.RunsResponse)
    async def runs() -> Response:
        """What is served."""
        return json_response(service.runs())

    @app.get("/recommend/{user:path}", response_model=schemas.RecommendResponse)
    async def recommend(
        user: InUrl,
        k: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        offset: Annotated[int, Query(ge=0, le=limits.offset)] = 0,
        exclude_seen: bool = True,
        with_: Filters = [],  # noqa: B006
        any_: AnyOf = [],  # noqa: B006
        without: Without = [],  # noqa: B006
        exclude: Exclude = [],  # noqa: B006
        run: Run = None,
    ) -> Response:
        """A list for a known user."""
        filters = parse_conditions(with_, any_, without, "query.")
        return await list_response(
            "/recommend/{user}",
            run,
            None,
            not filters and not exclude and near(run, offset + k),
            lambda: service.recommend(
                user=user,
                k=k,
                offset=offset,
                exclude_seen=exclude_seen,
                filters=filters,
                exclude=exclude,
                run=run,
            ),
        )

    @app.post("/recommend", response_model=schemas.RecommendResponse)
    async def recommend_for(wanted: schemas.RecommendRequest) -> Response:
        """A list for a history that was never seen, a known user, or both; under other relation weights, too."""
        visits = wanted.user is not None and wanted.history is not None
        plain = not wanted.with_ and not wanted.exclude and not visits and len(wanted.history or ()) <= SHORT
        return await list_response(
            "/recommend",
            wanted.run,
            wanted.weights,
            plain and near(wanted.run, wanted.offset + wanted.k),
            lambda: service.recommend(
                user=wanted.user,
                history=wanted.history,
                k=wanted.k,
                offset=wanted.offset,
                exclude_seen=wanted.exclude_seen,
                filters=[f.condition() for f in wanted.with_],
                exclude=wanted.exclude,
                weights=wanted.weights,
                skip_unknown=wanted.skip_unknown,
                run=wanted.run,
            ),
        )

    @app.get("/similar/{item:path}", response_model=schemas.SimilarResponse)
    async def similar(item: InUrl, k: Annotated[int, Query(ge=1, le=limits.k)] = 10, run: Run = None) -> Response:
        """The items nearest to one: by cosine where the model has vectors, else what somebody gets who chose it."""
        return await list_response("/similar/{item}", run, None, False, lambda: service.similar(item, k, run))

    @app.get("/explain/{user}/{item}", response_model=schemas.ExplainResponse)
    async def explain(
        user: InUrl,
        item: InUrl,
        n: Annotated[int, Query(ge=1, le=limits.reasons, description="Most reasons.")] = 5,
        with_: Filters = [],  # noqa: B006
        any_: AnyOf = [],  # noqa: B006
        without: Without = [],  # noqa: B006
        exclude: Exclude = [],  # noqa: B006
        run: Run = None,
    ) -> Response:
        """Why an item is recommended to a known user, in the list that the same filters give."""
        filters = parse_conditions(with_, any_, without, "query.")
        content = await pools.run_in_thread(
            lambda: service.explain(item, user=user, n=n, filters=filters, exclude=exclude, run=run, status=404)
        )
        return json_response(content)

    @app.post("/explain", response_model=schemas.ExplainResponse)
    async def explain_to(doubted: schemas.ExplainRequest) -> Response:
        """Why an item is recommended for a history, or to a known user."""
        d = doubted
        content = await pools.run_in_thread(
            lambda: service.explain(
                d.item,
                user=d.user,
                history=d.history,
                n=d.n,
                filters=[f.condition() for f in d.with_],
                exclude=d.exclude,
                weights=d.weights,
                skip_unknown=d.skip_unknown,
                run=d.run,
            ),
            bool(d.weights),
        )
        return json_response(content)

    @app.get("/items", response_model=schemas.ItemsResponse)
    async def items(
        q: Annotated[str, Query(max_length=200, description="Words of a title, in any order; or an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """Items by title."""
        return json_response(await pools.run_in_thread(lambda: service.items(q, limit, run)))

    @app.get("/users", response_model=schemas.UsersResponse)
    async def users(
        q: Annotated[str, Query(max_length=200, description="Beginning of an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """Users by id."""
        return json_response(service.users(q, limit, run))

    @app.get("/values/{relation:path}", response_model=schemas.FilterValuesResponse)
    async def values(
        relation: InUrl,
        q: Annotated[str, Query(max_length=200, description="Part of an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """What a filter may name, those with most items first."""
        return json_response(await pools.run_in_thread(lambda: service.values(relation, q, limit, run)))

    @app.get("/history/{user:path}", response_model=schemas.HistoryResponse)
    async def history(user: InUrl, run: Run = None) -> Response:
        """What a user chose."""
        return json_response(service.history(user, run))

    @app.get("/health", response_model=schemas.HealthResponse, responses={503: {"model": schemas.HealthResponse}})
    async def health() -> Response:
        """How the server is: 200, or 503 while it drains."""
        draining = app.state.draining
        errors = [{"run": run, "message": message} for run, message in app.state.reload_errors.items()]
        return json_response(
            {
                "status": "draining" if draining else "ok",
                "runs": service.names,
                "reload_errors": errors,
                "uptime_seconds": time.monotonic() - began,
            },
            503 if draining else 200,
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(measures.text(), media_type=METRICS)

    @app.get("/docs", response_class=HTMLResponse)
    async def docs() -> Response:
        """These routes, to read."""
        return HTMLResponse(docs_page(app.openapi()))

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        later = {"Retry-After": "1"} if error.status == 503 else None
        return error_response(error.status, error.what, error.where, error.expected, error.found, later)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = list(first["loc"])
        if first["type"] == "json_invalid":
            return error_response(
                400, "body is not JSON", "body", "JSON", str(first.get("ctx", {}).get("error", ""))[:200]
            )
        expected = first["msg"]
        if place[-1] in ("constrained-int", "constrained-str"):  # one kind of id of the two, which is no field
            place.pop()
            expected = "an id: a whole number, or text" if first["type"].endswith("_type") else expected
        where = ".".join(str(part) for part in place)
        return error_response(422, "invalid request", where, expected, repr(first.get("input"))[:200])

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        expected = {404: "a path of this service", 405: "another method"}.get(error.status_code, "another request")
        found = f"{request.method} {request.url.path}"[:200]
        return error_response(error.status_code, str(error.detail).lower(), "request", expected, found, error.headers)

    routes = {route.path.split("/", 2)[1] for route in app.routes if hasattr(route, "path")}
    if page.is_dir():
        app.mount("/", StaticFiles(directory=page, html=True), name="page")
    app.add_middleware(
        ServiceMiddleware,
        measures=measures,
        max_body_bytes=limits.body,
        token=token,
        protected_paths=routes - {"health", ""},
        headers=HEADERS,
        hosts=hosts,
    )
    return app


class _Pools:
    """Threads for questions that would hold up the others; those with other relation weights have their own."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self.n_pending = limits, 0  # in progress or waiting
        self._begin()

    def _begin(self) -> None:
        self._slow = ThreadPoolExecutor(self._limits.threads, "relrank-slow")
        self._weights = ThreadPoolExecutor(self._limits.waiting + 1, "relrank-weights")

    async def run_in_thread(self, task: Callable[[], dict[str, Any]], weighed: bool = False) -> dict[str, Any]:
        """What a task gives, when it is done.

        Raises:
            RequestError: too many are waiting.
        """
        if self.n_pending >= self._limits.queue:
            raise RequestError(
                503,
                "too many questions at once",
                where="server",
                expected=f"at most {self._limits.queue} that wait",
                found=str(self.n_pending),
            )
        pool = self._weights if weighed else self._slow
        self.n_pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, task)
        finally:
            self.n_pending -= 1

    def end(self) -> None:
        """Give the threads back; the application may be started again."""
        for pool in (self._slow, self._weights):
            pool.shutdown(wait=False, cancel_futures=True)
        self._begin()
