"""What a question may ask for, and how one is refused."""

from __future__ import annotations

from dataclasses import dataclass

from relrank.errors import InputError

Id = int | str
"""An outside id: a whole number or text, as in the tables."""
MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable: the folder where several processes write their measures, which each of them then sums up."""


class RequestError(InputError):
    """A question that cannot be answered as it was asked.

    Attributes:
        status: what HTTP calls it: 404 for what is not there, 422 for what makes no sense, 503 for not now.
    """

    def __init__(self, status: int, what: str, *, where: str, expected: str, found: str) -> None:
        super().__init__(what, where=where, expected=expected, found=found)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What a single question may ask for."""

    k: int = 1000
    """Longest page, in items."""
    offset: int = 100_000
    """Furthest start of a page, in items."""
    history: int = 2000
    """Longest history, in items."""
    body: int = 2**20
    """Largest request body, in bytes."""
    filters: int = 20
    """Most filters of one question."""
    reasons: int = 20
    """Most reasons of one explanation."""
    weight: float = 1e6
    """Largest weight of a relation."""
    variants: int = 3
    """Models kept under other relation weights, beside the fitted one."""
    variant_bytes: int = 1 << 30
    """Memory of those models together, in bytes; one is always kept."""
    waiting: int = 4
    """Questions that may wait for such a model to be made."""
    threads: int = 4
    """Questions that are slow are answered so many at a time."""
    queue: int = 200
    """Slow questions that may be in progress or wait."""
    connections: int = 1000
    """Connections of a process."""
    head: int = 1 << 15
    """Bytes of a request's address and headers together."""
    header_lines: int = 100
    """Headers of a request."""
    header_seconds: float = 10.0
    """From the beginning of a connection, or of its next request, to the end of the headers."""
    body_seconds: float = 30.0
    """From there to the end of the body."""
    idle_seconds: float = 30.0
    """Between two requests of a connection."""
    send_seconds: float = 30.0
    """A client that reads nothing of an answer for so long is cut off."""

    def check(self, name: str, value: int, low: int, high: int) -> None:
        """Refuse a number out of bounds.

        Raises:
            RequestError: it is.
        """
        if not low <= value <= high:
            raise RequestError(
                422, f"{name} is out of bounds", where=name, expected=f"{low:,} to {high:,}", found=f"{value:,}"
            )


def shortened_repr(value: object, most: int = 100) -> str:
    """What was found, as it may be said again."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
