"""The server as a process: runs are loaded, watched and replaced; signals drain it; workers share one address.

SIGTERM: /health says "draining" and every answer closes its connection; after ``grace`` seconds no new connection is
taken, those that wait in the queue are accepted, and the process ends when what is in progress is answered. A second
signal skips the rest of the grace. Workers end with the process that started them.
SIGHUP loads all runs again; a run whose ``run.json`` or parameters were replaced is loaded by itself. What is being
answered meanwhile ends on the old run, and a run that cannot be loaded leaves the old one in its place.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from relrank.errors import InputError
from relrank.io.terminal_safe import terminal_safe
from relrank.serve.ann_index import FROM_ITEMS
from relrank.serve.limits import MULTIPROC_DIR_VARIABLE, Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from relrank.serve.served_model import ServedModel
    from relrank.serve.service import Service

log = logging.getLogger("relrank.serve")

Say = Callable[[str], None]
RunSignature = tuple[tuple[int, int, int], ...]

DRAIN_TIMEOUT_SECONDS = 30
"""What is in progress when the grace is over has so long to end."""
SHUT_SECONDS = 1.0
"""A worker that ends waits for so long to hear that all end."""
SPARE_FILES = 100
"""Files that a process has open beside its connections, at most."""
RETRY_SECONDS = 5.0
"""Between two starts of a worker that did not come as far as answering."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is served, and how.

    Attributes:
        folders: of the runs, by the names that they are served under; the first is the default.
        host: name or address to listen on.
        port: 0 takes a free one.
        token: bearer token; None for none.
        hosts: names in ``Host`` that are answered; () for any.
        workers: processes, each with runs of its own in memory.
        grace: seconds between SIGTERM and the end of new connections.
        poll: seconds between two looks at the folders.
        index_from: see ``ServedModel``.
        limits: of a question.
    """

    folders: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    workers: int = 1
    grace: float = 1.0
    poll: float = 2.0
    index_from: int = FROM_ITEMS
    limits: Limits = field(default_factory=Limits)


def name_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Runs by a name each: the folder's, a study's for its winner; a second of that name gets a number.

    Raises:
        InputError: a folder holds no run.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        at = Path(os.path.abspath(folder))  # not resolved: a link may point elsewhere tomorrow
        if not (at / "run.json").is_file() and (at / "winner" / "run.json").is_file():
            at = at / "winner"
        if not (at / "run.json").is_file():
            raise InputError(
                "no fitted model here",
                where=str(folder),
                expected="a folder made by relrank fit or study",
                found="none",
            )
        name = base = at.parent.name if at.name == "winner" else at.name
        number = 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = at
    return named


def serve(options: Options, say: Say = print) -> None:
    """Answer until a signal says otherwise.

    Raises:
        InputError: a run cannot be loaded, or the address cannot be used.
    """
    _load_web()
    options = _raise_file_limit(options, say)
    listener = _listening(options.host, options.port)
    if options.token is None and not _is_loopback(options.host):
        say(f"note: no token is asked for, and {options.host} may be reached from elsewhere (see --token-env)")
    with listener:
        if options.workers == 1:
            _work(options, listener, say, lambda: say(_address(listener)), lambda: _stop_accepting(listener))
        else:
            _Workers(options, listener, say).run()


def _raise_file_limit(options: Options, say: Say) -> Options:
    """Let the system open as many files as there may be connections, or take fewer connections.

    Without a free file none is accepted, and clients that are refused need one, too.
    """
    try:
        import resource
    except ImportError:  # Windows has no such bound
        return options
    wanted = 2 * options.limits.connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return options
    fewer = max(1, (soft - SPARE_FILES) // 2)
    say(f"note: {fewer:,} connections at once, since the system opens {soft:,} files at most (see ulimit -n)")
    return replace(options, limits=replace(options.limits, connections=fewer))


def load(options: Options, name: str) -> ServedModel:
    """One of the runs, ready to answer.

    Raises:
        InputError: it cannot be loaded.
    """
    from relrank.runs.fitted_run import load_run
    from relrank.serve.served_model import ServedModel

    return ServedModel(name, load_run(options.folders[name]), options.limits, options.index_from)


def describe(served: ServedModel) -> str:
    """A run in two lines, as it is announced."""
    note = served.run.note
    lists = "exact lists" if served.index is None else f"index of item vectors: {served.index.quality}"
    new = f", {served.n_cold_items:,} of them without interactions" if served.n_cold_items else ""
    where = "" if served.is_fast else ", in threads"
    return (
        f"{served.name}: {note['model']} on {note['arm']}, {note['protocol']}; "
        f"{served.n_users:,} users, {served.n_items:,} items{new}\n"
        f"  {lists}; {served.seconds * 1000:.1f} ms each{where}"
    )


class RunReloader(threading.Thread):
    """Looks after the folders of the runs, and replaces a run when another is there.

    Args:
        service: what serves them.
        options: the folders, and how often to look.
        app: its ``state.reload_errors`` says what could not be loaded, its ``state.metrics`` counts.
        loaded: stamps of the runs that are served, taken before they were loaded; those of now when None.
    """

    def __init__(
        self,
        service: Service,
        options: Options,
        app: FastAPI,
        loaded: Mapping[str, RunSignature | None] | None = None,
    ) -> None:
        super().__init__(name="relrank-watcher", daemon=True)
        self._service, self._options, self._app = service, options, app
        self._stamps = dict(run_signatures(options) if loaded is None else loaded)
        self._all, self._wake = False, threading.Event()
        self._stopped = False

    def run(self) -> None:
        """Look, until stopped."""
        while not self._stopped:
            self._wake.wait(self._options.poll)
            self._wake.clear()
            every, self._all = self._all, False
            if not self._stopped:
                self.reload_changed(every)

    def reload(self) -> None:
        """Load all runs again, soon."""
        self._all = True
        self._wake.set()

    def stop(self) -> None:
        """No more of it."""
        self._stopped = True
        self._wake.set()

    def reload_changed(self, every: bool = False) -> None:
        """Load the runs that changed, or every one."""
        for name, folder in self._options.folders.items():
            stamp = _run_signature(folder)
            # between two runs the folder may be gone for a moment
            if stamp is None or (stamp == self._stamps[name] and not every):
                continue
            self._stamps[name] = stamp
            try:
                fresh = load(self._options, name)
                if (
                    _run_signature(folder) != stamp
                ):  # replaced meanwhile, so perhaps half of each: the next look loads it
                    continue
                self._service.replace(name, fresh)
            except Exception as error:  # whatever is wrong with a folder, the run in memory is right
                unforeseen = not isinstance(error, InputError)
                message = "run %s cannot be loaded; the one before it is still served: %s"
                log.error(message, name, error, exc_info=unforeseen)
                said = "cannot be loaded, the one before it is still served; the reason is in the server's log"
                self._app.state.reload_errors = {**self._app.state.reload_errors, name: said}
                self._app.state.metrics.failed.labels(name).inc()
                continue
            log.warning("run %s was loaded again", name)
            self._app.state.reload_errors = {
                n: message for n, message in self._app.state.reload_errors.items() if n != name
            }
            self._app.state.metrics.loaded.labels(name).set(time.time())
            _freeze_gc()


def _work(
    options: Options, listener: socket.socket, say: Say, ready: Callable[[], None], shut: Callable[[], None]
) -> None:
    """One process of the server, from loading to the last answer; ``shut`` ends new connections or waits for it."""
    import uvicorn

    from relrank.serve.app import make_app
    from relrank.serve.connections import connection_class, drain_accept_queue
    from relrank.serve.service import Service

    loaded = run_signatures(options)
    runs = {name: load(options, name) for name in options.folders}
    for served in runs.values():
        say(describe(served))
    service = Service(runs, options.limits)
    app = make_app(service, token=options.token, hosts=options.hosts)
    watcher = RunReloader(service, options, app, loaded)

    class Server(uvicorn.Server):
        """One that says that it drains before it does."""

        ends: float | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            del frame
            app.state.draining = True
            again = self.ends is not None
            self.ends = time.monotonic() + (options.grace if sig == signal.SIGTERM and not again else 0)

        async def on_tick(self, counter: int) -> bool:
            self.should_exit |= self.ends is not None and time.monotonic() >= self.ends
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(shut)
            await drain_accept_queue(listener)
            await super().shutdown(sockets)

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
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: watcher.reload())
    _freeze_gc()
    watcher.start()
    try:
        Server(config).run([listener])
    finally:
        watcher.stop()


def _freeze_gc() -> None:
    """What is loaded stays: it need not be looked through for cycles again and again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class _Workers:
    """Processes that accept at one address; whichever ends is started again. Before the first answer none may end."""

    def __init__(self, options: Options, listener: socket.socket, say: Say) -> None:
        self._options, self._listener, self._say = options, listener, say
        self._context = multiprocessing.get_context("spawn")
        # its end says that no new connection comes into the queue that all share; a worker that is killed while it
        # waits for that leaves nothing behind, which it would in an event or a lock
        self._shut, self._open = self._context.Pipe(duplex=False)
        self._stopping, self._ends = False, math.inf
        self._serving = False
        self._workers: dict[Any, Any] = {}  # process: whether it answers, a value without a lock

    def run(self) -> None:
        """Until a signal, or a worker that does not start.

        Raises:
            InputError: a worker did not start.
        """
        measures = tempfile.mkdtemp(prefix="relrank-measures-")
        os.environ[MULTIPROC_DIR_VARIABLE] = measures
        before = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        if hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        try:
            ready = [self._start(first=number == 0) for number in range(self._options.workers) if not self._stopping]
            while not self._stopping and not all(answers.value for answers in ready):
                self._look_after()
            if not self._stopping:
                self._serving = True
                self._say(_address(self._listener))
            while self._workers:
                self._look_after()
        finally:
            self._stop()
            for worker in self._workers:
                worker.join(self._options.grace + DRAIN_TIMEOUT_SECONDS + 5)
            for sig, handler in before.items():
                signal.signal(sig, handler)
            os.environ.pop(MULTIPROC_DIR_VARIABLE, None)
            shutil.rmtree(measures, ignore_errors=True)

    def _start(self, first: bool = False) -> Any:
        ready = self._context.RawValue("b", 0)
        worker = self._context.Process(
            target=_worker, args=(self._options, self._listener, ready, self._shut, first), name="relrank-worker"
        )
        worker.start()
        self._workers[worker] = ready
        if self._stopping:  # the signal came while it was started
            self._tell(signal.SIGTERM)
        return ready

    def _look_after(self) -> None:
        gone = wait([worker.sentinel for worker in self._workers], 0.05 if self._stopping else 0.2)
        if time.monotonic() >= self._ends and not self._open.closed:
            _stop_accepting(self._listener)
            self._open.close()
            self._listener.close()
        for worker in [w for w in self._workers if w.sentinel in gone]:
            ready = self._workers.pop(worker)
            worker.join()
            if self._stopping:
                continue
            if not self._serving:
                raise InputError(
                    "a worker does not start",
                    where="relrank serve",
                    expected="one that goes on",
                    found=f"exit code {worker.exitcode}; the reason stands above",
                )
            log.error("a worker ended with exit code %s and is started again", worker.exitcode)
            if not ready.value:  # it would end as soon again: the others go on, this one is tried now and then
                time.sleep(RETRY_SECONDS)
            self._start()

    def _stop(self, sig: int = signal.SIGTERM, *_: object) -> None:
        grace = self._options.grace if sig == signal.SIGTERM and not self._stopping else 0
        self._stopping = True
        self._tell(signal.SIGTERM)
        # workers hold it, too: it closes with the last of them, not with this process, which waits for their answers
        self._ends = min(self._ends, time.monotonic() + grace)

    def _tell(self, sig: int) -> None:
        for worker in self._workers:
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, sig)


def _stop_accepting(listener: socket.socket) -> None:
    from relrank.serve.connections import stop_accepting

    stop_accepting(listener)


def _worker(options: Options, listener: socket.socket, ready: Any, shut: Any, first: bool) -> None:
    """A process of ``_Workers``; the first one says for all what is served."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    threading.Thread(target=_end_with_parent, args=(options.grace,), name="relrank-parent", daemon=True).start()

    def wait_until_shut() -> None:
        # the others' connections come through the same queue; a worker that ends alone leaves them to the others
        wait([shut], SHUT_SECONDS)
        if not _parent_lives():
            _stop_accepting(listener)

    def answers() -> None:
        ready.value = 1

    try:
        _work(options, listener, _print if first else lambda _: None, answers, wait_until_shut)
    except (InputError, OSError) as error:
        log.error("%s", terminal_safe(error, lines=True))
        raise SystemExit(2) from None


def _print(text: str) -> None:
    print(terminal_safe(text, lines=True), flush=True)


def _parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not wait([parent.sentinel], 0)


def _end_with_parent(grace: float) -> None:
    """Drain when the process that started this one is gone, however it ended: nobody else would tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace + DRAIN_TIMEOUT_SECONDS + 5)
        os._exit(1)


def _load_web() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "an extra is not installed",
            where="relrank serve",
            expected='pip install "relrank[serve]"',
            found=f"no module {error.name}",
        ) from None


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: the address is none, or is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        raise InputError(
            "address cannot be used",
            where=f"{host}, port {port}",
            expected="a free port of this machine",
            found=str(error),
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"serving on http://{f'[{host}]' if ':' in host else host}:{port}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def run_signatures(options: Options) -> dict[str, RunSignature | None]:
    """What is there of every run at the moment."""
    return {name: _run_signature(folder) for name, folder in options.folders.items()}


def _run_signature(folder: Path) -> RunSignature | None:
    """What changes when a run is replaced; None while there is none."""
    try:
        found = [(folder / name).stat() for name in ("run.json", "model.safetensors")]
    except OSError:
        return None
    return tuple((f.st_ino, f.st_mtime_ns, f.st_size) for f in found)
