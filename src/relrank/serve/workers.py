"""Several processes that accept connections at one address; a process that ends is started again."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from multiprocessing.connection import wait
from typing import Any

from relrank.errors import InputError
from relrank.io.terminal_safe import terminal_safe
from relrank.serve.limits import MULTIPROC_DIR_VARIABLE
from relrank.serve.options import Options, Print

log = logging.getLogger("relrank.serve")

SHUT_SECONDS = 1.0
"""How long a worker that ends waits for the others to end, too."""
RETRY_SECONDS = 5.0
"""Between two starts of a worker that ended before it was ready."""
END_SECONDS = 35
"""How long a worker may take to end after the grace period; requests in progress have 30 of them."""


class Workers:
    """Worker processes. One that ends is started again, but before all are ready it ends the server.

    Args:
        options: of the server.
        listener: listening socket that all share.
        report: prints a line for people.
        address: what to report once all workers are ready.
    """

    def __init__(self, options: Options, listener: socket.socket, report: Print, address: str) -> None:
        self._options, self._listener, self._report, self._address = options, listener, report, address
        self._context = multiprocessing.get_context("spawn")
        # closing ``_open`` tells the workers that no new connection enters the accept queue that they share. A worker
        # that is killed while it waits for that leaves a pipe intact, but not an event or a lock
        self._shut, self._open = self._context.Pipe(duplex=False)
        self._stopping, self._ends = False, math.inf
        self._serving = False
        self._workers: dict[Any, Any] = {}  # process → whether it is ready, as a value without a lock

    def run(self) -> None:
        """Serve until a signal, or until a worker does not start.

        Raises:
            InputError: a worker did not start.
        """
        metrics_folder = tempfile.mkdtemp(prefix="relrank-measures-")
        os.environ[MULTIPROC_DIR_VARIABLE] = metrics_folder
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        if sys.platform != "win32":
            handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: self._forward(signal.SIGHUP))
        try:
            ready = [self._start(first=number == 0) for number in range(self._options.workers) if not self._stopping]
            while not self._stopping and not all(flag.value for flag in ready):
                self._check_workers()
            if not self._stopping:
                self._serving = True
                self._report(self._address)
            while self._workers:
                self._check_workers()
        finally:
            self._stop()
            for worker in self._workers:
                worker.join(self._options.grace + END_SECONDS)
            for sig, handler in handlers.items():
                signal.signal(sig, handler)
            os.environ.pop(MULTIPROC_DIR_VARIABLE, None)
            shutil.rmtree(metrics_folder, ignore_errors=True)

    def _start(self, first: bool = False) -> Any:
        ready = self._context.RawValue("b", 0)
        worker = self._context.Process(
            target=_run_worker, args=(self._options, self._listener, ready, self._shut, first), name="relrank-worker"
        )
        worker.start()
        self._workers[worker] = ready
        if self._stopping:  # the signal came during the start
            self._forward(signal.SIGTERM)
        return ready

    def _check_workers(self) -> None:
        ended = wait([worker.sentinel for worker in self._workers], 0.05 if self._stopping else 0.2)
        if time.monotonic() >= self._ends and not self._open.closed:
            stop_accepting(self._listener)
            self._open.close()
            self._listener.close()
        for worker in [w for w in self._workers if w.sentinel in ended]:
            ready = self._workers.pop(worker)
            worker.join()
            if self._stopping:
                continue
            if not self._serving:
                raise InputError(
                    "a worker does not start",
                    where="relrank serve",
                    expected="one that keeps running",
                    found=f"exit code {worker.exitcode}; the reason is above",
                )
            log.error("a worker ended with exit code %s and is started again", worker.exitcode)
            if not ready.value:  # it is likely to end as soon again
                time.sleep(RETRY_SECONDS)
            self._start()

    def _stop(self, sig: int = signal.SIGTERM, *_: object) -> None:
        grace = self._options.grace if sig == signal.SIGTERM and not self._stopping else 0
        self._stopping = True
        self._forward(signal.SIGTERM)
        self._ends = min(self._ends, time.monotonic() + grace)

    def _forward(self, sig: int) -> None:
        for worker in self._workers:
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, sig)


def stop_accepting(listener: socket.socket) -> None:
    """See ``relrank.serve.connections``, which is imported when it is needed: the parent of workers stays small."""
    from relrank.serve import connections

    connections.stop_accepting(listener)


def _run_worker(options: Options, listener: socket.socket, ready: Any, shut: Any, first: bool) -> None:
    """A worker process; the first one reports the runs for all."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    threading.Thread(target=_end_with_parent, args=(options.grace,), name="relrank-parent", daemon=True).start()

    def set_ready() -> None:
        ready.value = 1

    def wait_until_shut() -> None:
        # a worker that ends alone leaves the accept queue to the others
        wait([shut], SHUT_SECONDS)
        if not _parent_lives():
            stop_accepting(listener)

    try:
        from relrank.serve.draining_server import run_process

        run_process(options, listener, _print if first else lambda _: None, set_ready, wait_until_shut)
    except (InputError, OSError) as error:
        log.error("%s", terminal_safe(error, lines=True))
        raise SystemExit(2) from None


def _print(text: str) -> None:
    print(terminal_safe(text, lines=True), flush=True)


def _parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not wait([parent.sentinel], 0)


def _end_with_parent(grace: float) -> None:
    """Drain when the parent process has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace + END_SECONDS)
        os._exit(1)
