"""How exceptions of the routes become error responses."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from relrank.serve.limits import RequestError
from relrank.serve.responses import error_response


def add_error_handlers(app: FastAPI) -> None:
    """Add the handlers to an application."""
    for kind, handler in ((RequestError, _refused), (RequestValidationError, _invalid), (HTTPException, _http_error)):
        app.add_exception_handler(kind, handler)  # type: ignore[arg-type]


async def _refused(_: Request, error: RequestError) -> Response:
    retry = {"Retry-After": "1"} if error.status == 503 else None
    return error_response(error.status, error.what, error.where, error.expected, error.found, retry)


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    path = list(first["loc"])
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", ""))
        return error_response(400, "body is not JSON", "body", "JSON", reason[:200])
    expected = first["msg"]
    if path[-1] in ("constrained-int", "constrained-str"):  # a member of the union of id types, not a field
        path.pop()
        expected = "an id: a whole number, or text" if first["type"].endswith("_type") else expected
    where = ".".join(str(part) for part in path)
    return error_response(422, "invalid request", where, expected, repr(first.get("input"))[:200])


async def _http_error(request: Request, error: HTTPException) -> Response:
    expected = {404: "a path of this service", 405: "another method"}.get(error.status_code, "another request")
    found = f"{request.method} {request.url.path}"[:200]
    return error_response(error.status_code, str(error.detail).lower(), "request", expected, found, error.headers)
