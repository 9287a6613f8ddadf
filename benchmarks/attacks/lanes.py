"""Processes that attack: each takes a number, tries what belongs to it and says what became of it.

One that dies or hangs is ended, which is the outcome, and replaced; the others do not notice.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from attacks.ledger import Ledger, Outcome

Attack = Callable[[int], Outcome]
FORK = multiprocessing.get_context("fork")


LIBRARIES = (
    "torch._dynamo",
    "torch.optim",
    "optuna",
    "tomli_w",
    "sklearn.feature_extraction.text",
    "scipy.stats",
    "jinja2",
    "plotly",
    "rich.progress",
    "rich.table",
    "rich.live",
    "uvicorn",
    "fastapi",
    "httptools",
    "uvloop",
    "prometheus_client",
    "pyarrow",
    "relrank.cli.app",
    "relrank.report",
    "relrank.serve.server",
    "relrank.serve.app",
    "relrank.serve.draining_server",
    "relrank.study.run",
    "relrank.study.optuna_search",
    "relrank.study.tuned_config",
    "relrank.cli.live",
    "relrank.cli.live_search",
    "relrank.runs.fitted_run",
    "relrank.runs.batch",
    "relrank.runs.export",
    "relrank.study.engines.process_engine",
)


def load_libraries() -> None:
    """What commands load as they need it; nothing of it may start a thread."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            import_module(name)
    assert threading.active_count() == 1, threading.enumerate()


def die_with_parent() -> None:
    """This process is killed when the one that started it ends, however that is. On Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Part(Protocol):
    """One kind of attack.

    Attributes:
        name: of the part and of its file.
        seconds: the longest that one attack may take.
    """

    name: str
    seconds: float

    def prepare(self, folder: Path) -> None:
        """Make what is attacked, where it is not there yet; in a process of its own."""

    def open(self, folder: Path, seed: int) -> Attack:
        """What tries number n of the series that the seed gives; called once in every lane, whose folder it is in."""


class _Lane:
    """A process that attacks, and what it is at."""

    def __init__(self, part: Part, made: Path, own: Path, seed: int) -> None:
        self.pipe, other = FORK.Pipe()
        self.process = FORK.Process(target=_work, args=(part, made, own, seed, other), daemon=False)
        self.process.start()
        other.close()
        self.number: int | None = None
        self.until = 0.0

    def ready(self) -> _Lane:
        """Wait until it can begin.

        Raises:
            RuntimeError: it ended before.
        """
        try:
            self.pipe.recv()
        except EOFError:
            raise RuntimeError("a lane cannot begin: see the log in its folder") from None
        return self

    def begin(self, number: int, seconds: float) -> None:
        self.number, self.until = number, time.monotonic() + seconds
        self.pipe.send(number)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(part: Part, made: Path, own: Path, seed: int, pipe: Connection) -> None:
    own.mkdir(parents=True, exist_ok=True)
    log = os.open(own / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for handle in (1, 2):
        os.dup2(log, handle)
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable()
    os.chdir(own)
    attack = part.open(made, seed)
    pipe.send(None)  # time runs from here
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        pipe.send(attack(number))


def prepared(part: Part, made: Path) -> None:
    """Run ``prepare`` elsewhere, so that no thread of it is here when lanes are forked.

    Raises:
        RuntimeError: it failed.
    """
    process = FORK.Process(target=part.prepare, args=(made,))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"part {part.name} could not be prepared: see above")


def run(part: Part, folder: Path, ledger: Ledger, wanted: int, lanes: int, until: float) -> Iterator[Outcome]:
    """Try numbers from 0 on that the ledger does not have, until it has so many attacks or the time is over."""
    made, numbers = folder / f"{part.name}-made", _numbers(ledger)
    prepared(part, made)
    busy = [_Lane(part, made, folder / f"{part.name}-{n}", ledger.seed) for n in range(lanes)]
    try:
        free = [lane.ready() for lane in busy]
        while True:
            while free and ledger.tried + len(busy) - len(free) < wanted and time.monotonic() < until:
                free.pop().begin(next(numbers), part.seconds)
            at = [lane for lane in busy if lane.number is not None]
            if not at:
                return
            wait([lane.pipe for lane in at], timeout=max(0.05, min(lane.until for lane in at) - time.monotonic()))
            for lane in at:
                outcome = _outcome(part, lane)
                if outcome is None:
                    continue
                assert lane.number is not None
                ledger.add(lane.number, outcome)
                yield outcome
                lane.number = None
                if outcome.found in ("crash", "hang") and outcome.kind == part.name:
                    number = busy.index(lane)
                    lane.end()
                    busy[number] = lane = _Lane(part, made, folder / f"{part.name}-{number}", ledger.seed).ready()
                free.append(lane)
    finally:
        for lane in busy:
            lane.end()


def _outcome(part: Part, lane: _Lane) -> Outcome | None:
    """What a lane says; None where it is still at it."""
    if lane.pipe.poll():
        try:
            found: Outcome = lane.pipe.recv()
            return found
        except EOFError:
            lane.process.join()
            return Outcome(part.name, "crash", f"number {lane.number}: exit code {lane.process.exitcode}")
    if time.monotonic() < lane.until:
        return None
    return Outcome(part.name, "hang", f"number {lane.number}: longer than {part.seconds:g} s")


def _numbers(ledger: Ledger) -> Iterator[int]:
    number = 0
    while True:
        if number not in ledger.outcomes:
            yield number
        number += 1
