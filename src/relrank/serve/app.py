"""The service over HTTP: routes, their schemas, and what stands before them (token, size of a body, measures)."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.exceptions import HTTPException

import relrank
from relrank.serve.service import RequestError, Service

PAGE = Path(__file__).parent / "page"
"""The page that the server shows at "/"."""

log = logging.getLogger("relrank.serve")

Id = Annotated[StrictInt, Field(ge=-(2**63), le=2**64 - 1)] | Annotated[StrictStr, Field(max_length=1000)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Named(_Answer):
    """An item."""

    item: int | str
    title: str | None


class Listed(Named):
    """An item of a list."""

    score: float
    place: int


class Near(Named):
    """An item and how near it is."""

    score: float


class Chosen(Named):
    """An item of a history."""

    part: Literal["train", "valid", "test"]


class RelationOf(_Answer):
    """A relation of a run."""

    name: str
    source: str
    target: str
    edges: int
    weight: float | None


class RunOf(_Answer):
    """A run that is served."""

    name: str
    model: str
    arm: str
    protocol: str
    n_users: int
    n_items: int
    user: str
    item: str
    relations: list[RelationOf]
    weights_adjustable: bool
    filters: list[str]


class Runs(_Answer):
    """The runs that are served; the first is the default."""

    runs: list[RunOf]


class Recommended(_Answer):
    """A page of a list."""

    run: str
    user: int | str | None
    k: int
    offset: int
    total: int
    next_offset: int | None
    items: list[Listed]


class Similar(_Answer):
    """The items nearest to one."""

    run: str
    item: int | str
    title: str | None
    items: list[Near]


class Items(_Answer):
    """Items by title."""

    items: list[Named]


class Users(_Answer):
    """Users by id."""

    users: list[int | str]


class History(_Answer):
    """What a user chose."""

    user: int | str
    items: list[Chosen]


class Health(_Answer):
    """How the server is."""

    status: Literal["ok", "draining"]
    runs: list[str]
    uptime_seconds: float


class Said(_Answer):
    """What was wrong."""

    what: str
    where: str
    expected: str
    found: str


class Failure(_Answer):
    """An answer that is none."""

    error: Said


class Filter(_Question):
    """Only items that this relation links with this node."""

    relation: StrictStr
    value: Id


class Wanted(_Question):
    """For whom, and what list."""

    history: list[Id] | None = Field(None, description="Ids of items, oldest first; or else a user.")
    user: Id | None = None
    k: Annotated[int, Field(ge=1, strict=True)] = 10
    offset: Annotated[int, Field(ge=0, strict=True)] = 0
    exclude_seen: Annotated[bool, Field(strict=True)] = True
    with_: list[Filter] = Field([], alias="with", description="Only items that fit every one.")
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = Field(
        None, description="Relation weights other than the fitted ones, where the run allows it."
    )
    run: StrictStr | None = None


Run = Annotated[str | None, Query(description="Name of a run; the first by default.")]


def make_app(service: Service, *, token: str | None = None, page: Path = PAGE) -> FastAPI:
    """The application.

    Args:
        service: what answers.
        token: asked for in every request but those for the page and for /health; None asks for none.
        page: folder of the files shown at "/".
    """
    limits = service.limits
    began = time.monotonic()
    pool = ThreadPoolExecutor(4, "relrank-serve")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        pool.shutdown(wait=False)

    app = FastAPI(
        title="relrank", version=relrank.__version__, lifespan=lifespan, redirect_slashes=False,
        responses={
            status: {"model": Failure, "description": text}
            for status, text in (
                (400, "not JSON"), (401, "no token"), (404, "not there"), (413, "too large"), (422, "makes no sense"),
            )
        },
    )  # fmt: skip
    app.state.service = service
    app.state.draining = False

    async def away(task: Callable[[], dict[str, Any]]) -> Response:
        return answer(await asyncio.get_running_loop().run_in_executor(pool, task))

    async def listed(run: str | None, weighed: bool, task: Callable[[], dict[str, Any]]) -> Response:
        """Where it is quick, an answer is made at once; the loop waits no longer than a thread would take to start."""
        if not weighed and service.served(run).quick:
            return answer(task())
        return await away(task)

    @app.get("/runs", response_model=Runs)
    async def runs() -> Response:
        """What is served."""
        return answer(service.runs())

    @app.get("/recommend/{user:path}", response_model=Recommended)
    async def recommend(
        user: Annotated[str, InPath(max_length=1000)],
        k: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        offset: Annotated[int, Query(ge=0, le=limits.offset)] = 0,
        exclude_seen: bool = True,
        with_: Annotated[list[str], Query(alias="with", description="RELATION:VALUE")] = [],  # noqa: B006
        run: Run = None,
    ) -> Response:
        """A list for a known user."""
        filters = [_filter(text) for text in with_]
        return await listed(
            run, False,
            lambda: service.recommend(
                user=user, k=k, offset=offset, exclude_seen=exclude_seen, filters=filters, run=run, status=404
            ),
        )  # fmt: skip

    @app.post("/recommend", response_model=Recommended)
    async def recommend_for(wanted: Wanted) -> Response:
        """A list for a history that was never seen, or for a known user under other relation weights."""
        return await listed(
            wanted.run, bool(wanted.weights),
            lambda: service.recommend(
                user=wanted.user, history=wanted.history, k=wanted.k, offset=wanted.offset,
                exclude_seen=wanted.exclude_seen, filters=[(f.relation, str(f.value)) for f in wanted.with_],
                weights=wanted.weights, run=wanted.run,
            ),
        )  # fmt: skip

    @app.get("/similar/{item:path}", response_model=Similar)
    async def similar(
        item: Annotated[str, InPath(max_length=1000)],
        k: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """The items nearest to one."""
        return await listed(run, False, lambda: service.similar(item, k, run))

    @app.get("/items", response_model=Items)
    async def items(
        q: Annotated[str, Query(max_length=200, description="Words of a title.")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """Items by title."""
        return answer(service.items(q, limit, run))

    @app.get("/users", response_model=Users)
    async def users(
        q: Annotated[str, Query(max_length=200, description="Beginning of an id.")] = "",
        limit: Annotated[int, Query(ge=1, le=limits.k)] = 10,
        run: Run = None,
    ) -> Response:
        """Users by id."""
        return answer(service.users(q, limit, run))

    @app.get("/history/{user:path}", response_model=History)
    async def history(user: Annotated[str, InPath(max_length=1000)], run: Run = None) -> Response:
        """What a user chose."""
        return answer(service.history(user, run))

    @app.get("/explain/{user}/{item}", response_model=None)
    async def explain(user: str, item: str, run: Run = None) -> Response:
        """Why an item is recommended to a known user."""
        raise RequestError(501, "not built yet", where="explain", expected="soon", found="nothing")

    @app.get("/health", response_model=Health)
    async def health() -> Response:
        """How the server is."""
        status = "draining" if app.state.draining else "ok"
        return answer({"status": status, "runs": service.names, "uptime_seconds": time.monotonic() - began})

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return failure(error.status, error.what, error.where, error.expected, error.found)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        status = 400 if first["type"] == "json_invalid" else 422
        place = ".".join(str(part) for part in first["loc"])
        return failure(status, "invalid request", place, first["msg"], repr(first.get("input"))[:200])

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        expected = {404: "an address of this service", 405: "another method"}.get(
            error.status_code, "another request"
        )
        found = f"{request.method} {request.url.path}"[:200]
        return failure(error.status_code, str(error.detail).lower(), "request", expected, found, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        number = uuid.uuid4().hex[:12]
        log.error("error %s in %s %s", number, request.method, request.url.path, exc_info=error)
        return failure(500, "internal error", "server", "an answer", f"an error, in the log as {number}")

    if page.is_dir():
        app.mount("/", StaticFiles(directory=page, html=True), name="page")
    return app


def answer(content: dict[str, Any]) -> Response:
    """JSON of an answer that has the shape it promises."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), media_type="application/json")


def failure(status: int, what: str, where: str, expected: str, found: str, headers: Any = None) -> Response:
    """An error in the shape that all of them have."""
    said = {"what": what, "where": where, "expected": expected, "found": found}
    return Response(
        json.dumps({"error": said}, ensure_ascii=False).encode("utf-8", "replace"), status, dict(headers or {}),
        "application/json",
    )  # fmt: skip


def _filter(text: str) -> tuple[str, str]:
    relation, colon, value = text.partition(":")
    if not colon:
        raise RequestError(422, "filter is not readable", where="with", expected="RELATION:VALUE", found=repr(text))
    return relation, value
