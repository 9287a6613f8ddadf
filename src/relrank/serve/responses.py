"""JSON responses, and the one shape of all errors."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_response(
    content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Content as JSON, not validated again: tests hold it to the response models of the routes."""
    # a lone surrogate, which an escape in a request may hold and an error may quote, is no UTF-8
    text = _JSON.encode(content).encode("utf-8", "replace")
    return Response(text, status, headers, "application/json")


def error_response(
    status: int, message: str, where: str, expected: str, found: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error in the shape of ``schemas.ErrorResponse``."""
    return json_response(
        {"error": {"message": message, "where": where, "expected": expected, "found": found}}, status, headers
    )
