"""/health and /metrics: the server itself."""

import time

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from relrank.serve import schemas
from relrank.serve.responder import Responder
from relrank.serve.responses import json_response

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def add_status_routes(app: FastAPI, responder: Responder) -> None:
    """Add the routes to an application."""
    started = time.monotonic()

    @app.get("/health", response_model=schemas.HealthResponse, responses={503: {"model": schemas.HealthResponse}})
    async def health() -> Response:
        """State of the server: 200, or 503 while it drains."""
        draining, errors = app.state.draining, app.state.reload_errors
        content = {
            "status": "draining" if draining else "ok",
            "runs": responder.service.names,
            "reload_errors": [{"run": run, "message": message} for run, message in errors.items()],
            "uptime_seconds": time.monotonic() - started,
        }
        return json_response(content, 503 if draining else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters and latencies for Prometheus."""
        return Response(responder.metrics.text(), media_type=PROMETHEUS_TEXT)
