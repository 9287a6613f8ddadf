"""What surrounds the routes: token, accepted hosts, size of bodies, unexpected errors, metrics."""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from starlette.responses import Response

from relrank.io.terminal_safe import terminal_safe
from relrank.serve.prometheus import ServiceMetrics
from relrank.serve.responses import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("relrank.serve")

CLIENT_CLOSED = 499
"""Status in the metrics of a request whose client left before the response."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ServiceMiddleware:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        metrics: where requests are counted and timed.
        max_body_bytes: largest accepted body.
        token: bearer token; None for none.
        protected_paths: first segments of the paths that need the token; the page and /health do not.
        headers: added to every response.
        hosts: accepted ``Host`` names, ``*.`` before a name for its subdomains; () for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServiceMetrics,
        max_body_bytes: int,
        token: str | None,
        protected_paths: Collection[str],
        headers: Mapping[str, str],
        hosts: Collection[str] = (),
    ) -> None:
        self._app, self._metrics, self._max_body_bytes = app, metrics, max_body_bytes
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(_bare(host) for host in hosts)
        self._protected_paths = frozenset(protected_paths)
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        is_head = scope["method"] == "HEAD"
        inner: Scope = {**scope, "method": "GET"} if is_head else scope  # HEAD is GET without a body

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers]
                if inner["app"].state.draining:  # clients reconnect, to another server
                    message["headers"].append((b"connection", b"close"))
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            refusal: ASGIApp | None = self._refusal(scope)
            if refusal is None and inner["method"] != "GET":
                receive, refusal = await self._read_body(receive)
            await (refusal or self._app)(inner, receive, send_with_headers)
        except Exception as error:
            error_id = uuid.uuid4().hex[:12]
            log.error("error %s in %s %s", error_id, scope["method"], terminal_safe(scope["path"]), exc_info=error)
            if status:  # the response has begun: the server closes the connection
                raise
            found = f"an error, in the log as {error_id}"
            response = error_response(500, "internal error", "server", "an answer", found)
            await response(inner, receive, send_with_headers)
        finally:
            route, status = getattr(inner.get("route"), "path", "other"), status or CLIENT_CLOSED
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(route, _method(scope), status).inc()
            self._metrics.seconds.labels(route, status).observe(seconds)

    def _refusal(self, scope: Scope) -> Response | None:
        """The error response of a request that may not reach the routes, else None."""
        headers = dict(scope["headers"])
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts and first != "health" and not self._accepts(host):
            return error_response(
                400, "host is not served", "header Host", "a name that this server has", repr(host)[:200]
            )
        if self._token is not None and first in self._protected_paths:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            is_correct = hmac.compare_digest(given.strip(b" "), self._token)
            if scheme.lower() != b"bearer" or not is_correct:
                expected, found = "Bearer and the server's token", "another token" if given else "none"
                challenge = {"WWW-Authenticate": "Bearer"}
                return error_response(401, "not allowed", "header Authorization", expected, found, challenge)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body_bytes:
            return self._too_large(length.decode("latin-1")[:20])
        return None

    def _accepts(self, host: str) -> bool:
        """Whether a ``Host`` header names this server."""
        name = _bare(host)
        parents = (f"*{name[at:]}" for at, letter in enumerate(name) if letter == ".")
        return name in self._hosts or not self._hosts.isdisjoint(parents)

    async def _read_body(self, receive: Receive) -> tuple[Receive, ASGIApp | None]:
        """Read the body, up to its limit. Returns a receiver that replays it, and the response if it is refused."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the client left
                return receive, _no_response
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > self._max_body_bytes:
                return receive, self._too_large("more")
        return _replay({"type": "http.request", "body": b"".join(parts), "more_body": False}, receive), None

    def _too_large(self, found: str) -> Response:
        expected = f"at most {self._max_body_bytes:,} bytes"
        return error_response(413, "body is too large", "body", expected, found, {"Connection": "close"})


async def _no_response(scope: Scope, receive: Receive, send: Send) -> None:
    """Send nothing: the client has left."""
    del scope, receive, send


def _bare(host: str) -> str:
    """A host in lower case, without its port: ``Example.org:80`` is ``example.org``, ``[::1]:80`` is ``[::1]``."""
    end = host.rfind("]") + 1
    if host.count(":") > 1 and not end:  # IPv6 without brackets
        return f"[{host.lower()}]"
    return host[:end].lower() if end else host.partition(":")[0].lower().rstrip(".")


def _replay(message: Message, receive: Receive) -> Receive:
    """A receiver of a message that was read already, then of those to come."""
    pending = [message]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _method(scope: Scope) -> str:
    """The method as a label; methods that clients make up are one label."""
    return scope["method"] if scope["method"] in METHODS else "other"
