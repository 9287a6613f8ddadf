"""What stands before the routes: the token, the size of a body, the last word on errors, and the measures."""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.responses import Response

from relrank.io.terminal_safe import terminal_safe
from relrank.serve.limits import MULTIPROC_DIR_VARIABLE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("relrank.serve")

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
GONE = 499
"""Status in the measures of a request that ended before its answer."""
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LENGTHS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000)


class ServiceMetrics:
    """What Prometheus asks for, of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "relrank_requests", "Requests answered.", ("route", "method", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "relrank_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route", "status"),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.items = Histogram(
            "relrank_list_items", "Items of an answered list.", ("route",), buckets=LENGTHS, registry=self._registry
        )
        self.loaded = Gauge(
            "relrank_run_loaded_timestamp_seconds",
            "When a run was loaded.",
            ("run",),
            registry=self._registry,
            multiprocess_mode="max",
        )
        self.failed = Counter(
            "relrank_run_load_failures",
            "Runs that could not take the place of another.",
            ("run",),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of them in Prometheus' text format; where several processes serve, the sums over all."""
        if MULTIPROC_DIR_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)


class ServiceMiddleware:
    """An ASGI middleware around the whole application.

    Args:
        app: what it stands before.
        measures: counts and times go there.
        max_body_bytes: largest body, in bytes.
        token: what requests must bear; None for none.
        protected_paths: first segments of the paths that need the token; pages and /health do not.
        headers: sent with every answer.
        hosts: names in ``Host`` that are answered, ``*.`` before a name for those below it; () for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        measures: ServiceMetrics,
        max_body_bytes: int,
        token: str | None,
        protected_paths: Collection[str],
        headers: Mapping[str, str],
        hosts: Collection[str] = (),
    ) -> None:
        self._app, self._measures, self._most = app, measures, max_body_bytes
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(_bare(host) for host in hosts)
        self._guarded = frozenset(protected_paths)
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        is_head = scope["method"] == "HEAD"
        inner: Scope = {**scope, "method": "GET"} if is_head else scope  # the answer to GET, without its body

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers]
                if inner["app"].state.draining:  # whoever keeps a connection is to open the next one elsewhere
                    message["headers"].append((b"connection", b"close"))
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            refusal: ASGIApp | None = self._refusal(scope)
            if refusal is None and inner["method"] != "GET":
                receive, refusal = await self._read_body(receive)
            await (refusal or self._app)(inner, receive, sent)
        except Exception as error:
            number = uuid.uuid4().hex[:12]
            log.error("error %s in %s %s", number, scope["method"], terminal_safe(scope["path"]), exc_info=error)
            if status:  # half an answer is out: the connection ends here
                raise
            answer = error_response(500, "internal error", "server", "an answer", f"an error, in the log as {number}")
            await answer(inner, receive, sent)
        finally:
            route, status = getattr(inner.get("route"), "path", "other"), status or GONE
            seconds = time.perf_counter() - began
            self._measures.requests.labels(route, _method(scope), status).inc()
            self._measures.seconds.labels(route, status).observe(seconds)

    def _refusal(self, scope: Scope) -> Response | None:
        """What a request gets that must not come in."""
        headers = dict(scope["headers"])
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        if (
            self._hosts
            and first != "health"
            and not self._serves(host := headers.get(b"host", b"").decode("latin-1"))
        ):
            return error_response(
                400, "host is not served", "header Host", "a name that this server has", repr(host)[:200]
            )
        if self._token is not None and first in self._guarded:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            right = hmac.compare_digest(given.strip(b" "), self._token)
            if scheme.lower() != b"bearer" or not right:
                found = "another token" if given else "none"
                return error_response(
                    401,
                    "not allowed",
                    "header Authorization",
                    "Bearer and the server's token",
                    found,
                    {"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            return self._too_large(length.decode("latin-1")[:20])
        return None

    def _serves(self, host: str) -> bool:
        """Whether a name in ``Host`` is one of this server's."""
        name = _bare(host)
        parents = (f"*{name[at:]}" for at, letter in enumerate(name) if letter == ".")
        return name in self._hosts or not self._hosts.isdisjoint(parents)

    async def _read_body(self, receive: Receive) -> tuple[Receive, ASGIApp | None]:
        """A body is read before it is looked at, and no more of it than may come."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # gone before it had said all
                return receive, _nothing
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._most:
                return receive, self._too_large("more")
        return _again({"type": "http.request", "body": b"".join(parts), "more_body": False}, receive), None

    def _too_large(self, found: str) -> Response:
        return error_response(
            413, "body is too large", "body", f"at most {self._most:,} bytes", found, {"Connection": "close"}
        )


def json_response(
    content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON as it stands; its shape is what the routes promise, which the tests hold them to."""
    # half a character, as JSON may escape it in a question that is quoted here, is no UTF-8
    text = _JSON.encode(content).encode("utf-8", "replace")
    return Response(text, status, headers, "application/json")


def error_response(
    status: int, what: str, where: str, expected: str, found: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error in the shape that all of them have."""
    return json_response(
        {"error": {"message": what, "where": where, "expected": expected, "found": found}}, status, headers
    )


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """What somebody gets who is gone."""
    del scope, receive, send


def _bare(host: str) -> str:
    """A host without its port, in lower case: ``Example.org:80`` is ``example.org``, ``[::1]:80`` is ``[::1]``."""
    end = host.rfind("]") + 1
    if host.count(":") > 1 and not end:  # an address of version 6 without its brackets
        return f"[{host.lower()}]"
    return host[:end].lower() if end else host.partition(":")[0].lower().rstrip(".")


def _again(message: Message, receive: Receive) -> Receive:
    """A message that was read already, then what comes."""
    waiting = [message]

    async def next_one() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_one


def _method(scope: Scope) -> str:
    """The method, if it is one: what anybody can make up must not become a label."""
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
