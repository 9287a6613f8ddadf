"""Bounds of requests and connections, and the error of a request that exceeds them."""

from __future__ import annotations

from dataclasses import dataclass

from relrank.errors import InputError

Id = int | str
"""An outside id: a whole number or text, as in the tables."""
MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable of ``prometheus_client``: the folder through which processes share their metrics."""


class RequestError(InputError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP: 404 not found, 422 invalid, 503 unavailable.
    """

    def __init__(self, status: int, what: str, *, where: str, expected: str, found: str) -> None:
        super().__init__(what, where=where, expected=expected, found=found)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request, of its connection, and of what the server keeps."""

    k: int = 1000
    """Largest page, in items."""
    offset: int = 100_000
    """Largest offset of a page, in items."""
    history: int = 2000
    """Longest history, in items."""
    body: int = 2**20
    """Largest request body, in bytes."""
    filters: int = 20
    """Maximum number of filters."""
    reasons: int = 20
    """Maximum number of reasons of an explanation."""
    weight: float = 1e6
    """Largest weight of a relation."""
    variants: int = 3
    """Cached models under other relation weights."""
    variant_bytes: int = 1 << 30
    """Memory of these models in bytes; one is always cached."""
    waiting: int = 4
    """Requests that may wait for such a model."""
    threads: int = 4
    """Threads for slow requests."""
    queue: int = 200
    """Slow requests that may be in progress or wait."""
    connections: int = 1000
    """Open connections of a process."""
    head: int = 1 << 15
    """Size of a request's URL and headers in bytes."""
    header_lines: int = 100
    """Number of headers."""
    header_seconds: float = 10.0
    """Time to receive the headers, from the start of the connection or the request."""
    body_seconds: float = 30.0
    """Time to receive the body after the headers."""
    idle_seconds: float = 30.0
    """Time between two requests of a connection."""
    send_seconds: float = 30.0
    """A client that reads nothing of a response for so long is disconnected."""

    def check(self, name: str, value: int, low: int, high: int) -> None:
        """Check that a number lies in [low, high].

        Raises:
            RequestError: it does not.
        """
        if not low <= value <= high:
            raise RequestError(
                422, f"{name} is out of bounds", where=name, expected=f"{low:,} to {high:,}", found=f"{value:,}"
            )


def shortened_repr(value: object, most: int = 100) -> str:
    """The repr of a value from a request, short enough to be quoted."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
