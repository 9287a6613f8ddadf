"""One process of the server, from loading the runs to the last answer."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from relrank.serve.app import make_app
from relrank.serve.connections import connection_class, drain_accept_queue
from relrank.serve.options import Options, Print
from relrank.serve.reloading import RunReloader, describe, freeze_gc, load, run_signatures
from relrank.serve.service import Service

DRAIN_TIMEOUT_SECONDS = 30
"""How long requests in progress may take after the grace period."""


class _Server(uvicorn.Server):
    """A server that reports that it drains for a while before it does.

    Args:
        config: of uvicorn.
        app: ``state.draining`` is set.
        grace: seconds between SIGTERM and the end of new connections.
        on_ready: called once the server accepts connections.
        stop_accepting: blocks until new connections are no longer accepted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        grace: float,
        on_ready: Callable[[], None],
        stop_accepting: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._app, self._grace, self._on_ready, self._stop_accepting = app, grace, on_ready, stop_accepting
        self._ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        del frame
        self._app.state.draining = True
        is_second = self._ends is not None
        self._ends = time.monotonic() + (self._grace if sig == signal.SIGTERM and not is_second else 0)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit |= self._ends is not None and time.monotonic() >= self._ends
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._stop_accepting)
        for listener in sockets or ():
            await drain_accept_queue(listener)
        await super().shutdown(sockets)


def run_process(
    options: Options,
    listener: socket.socket,
    report: Print,
    on_ready: Callable[[], None],
    stop_accepting: Callable[[], None],
) -> None:
    """Load the runs and serve them until a signal.

    Args:
        options: of the server.
        listener: listening socket.
        report: prints a line for people.
        on_ready: called once the server accepts connections.
        stop_accepting: blocks until new connections are no longer accepted.

    Raises:
        InputError: a run cannot be loaded.
    """
    loaded = run_signatures(options)
    runs = {name: load(options, name) for name in options.folders}
    for served in runs.values():
        report(describe(served))
    service = Service(runs, options.limits)
    app = make_app(service, token=options.token, hosts=options.hosts)
    reloader = RunReloader(service, options, app, loaded)
    config = uvicorn.Config(
        app,
        http=connection_class(options.limits),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=options.limits.idle_seconds,  # type: ignore[arg-type]
        timeout_graceful_shutdown=DRAIN_TIMEOUT_SECONDS,
    )
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, lambda *_: reloader.reload())
    freeze_gc()
    reloader.start()
    try:
        _Server(config, app, options.grace, on_ready, stop_accepting).run([listener])
    finally:
        reloader.stop()
