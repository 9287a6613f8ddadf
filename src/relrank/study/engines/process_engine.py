"""Cells of a study in several processes of this machine, each with its share of the threads.

Much of a study's work keeps one core busy, so that a second core is worth more to a second cell than to the first.
A cell's result does not depend on which process it ran in, only, in the last bits, on the number of threads. The data
go to a process once per split; trials that one process made are told to the others with their next cell.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from relrank.errors import InputError
from relrank.parallel.environment import cores, set_library_threads
from relrank.parallel.memory import available_memory
from relrank.study.callbacks import StudyCallback
from relrank.study.cell import Cell, SplitContext
from relrank.study.cell_store import CellResult, load_cell
from relrank.study.engines import engine
from relrank.study.engines.engine import raise_failure, refuse_deadly
from relrank.study.engines.process_worker import Trial, serve
from relrank.study.engines.split_files import pack, pack_cell
from relrank.study.warm_starts import load_warm_start

KILLED = getattr(signal, "SIGKILL", 9)
"""The signal by which Linux ends a process when memory does; Windows has none."""
GRACE = 5.0
"""Seconds that a process whose line is closed has to end by itself, so that its exit code is its own."""
Group = tuple[int, str]
"""Number of a bench and kind of model: cells of one group share what a closed form keeps."""


class _Process:
    """A process and what it knows."""

    def __init__(self, threads: int) -> None:
        # a copy of this process's memory would hold locks of its threads, which are not copied
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        with _threads(threads):
            self.process.start()
        theirs.close()  # so that the line ends with the process
        self.split_contexts: set[int] = set()
        self.group: Group | None = None
        self.told: dict[Group, int] = {}
        self.key: str | None = None

    def end(self, patience: float = 0.0) -> None:
        """End the process, which gets so many seconds to end by itself."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self.line.close()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """What a process that is started here inherits: its script may load libraries before anything else happens."""
    before = dict(os.environ)
    set_library_threads(number, {})  # all else is inherited
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class ProcessEngine:
    """An engine (``engines.Engine``) that runs several cells at once; to be used in a ``with``.

    As with every pool of processes in Python, a script that uses it must keep what it does under
    ``if __name__ == "__main__"``: each process imports the script.

    Args:
        jobs: processes; each gets an equal share of the cores as threads, one at least.

    Raises:
        InputError: fewer than one.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise InputError("no process to run on", where="--jobs", expected="1 or more", found=str(jobs))
        self.jobs, self._threads = jobs, max(1, cores() // jobs)
        self._workers: list[_Process] = []
        self._benches: dict[int, tuple[int, SplitContext]] = {}
        self._trials: dict[Group, list[tuple[_Process, Trial]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._workers:
            self._workers.pop().end()
        self._benches.clear()
        self._trials.clear()

    def memory(self) -> int | None:
        """What this machine has free, shared out."""
        return available_memory() // self.jobs

    def machine(self) -> dict[str, Any]:
        """How many processes and threads."""
        return {"engine": f"{self.jobs} processes, {self._threads} thread{'s' if self._threads > 1 else ''} each"}

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``engines.Engine``. A cell whose process dies begins again in a new one.

        A cell whose processes were killed ``engines.TRIES`` times is left out, as for want of memory.

        Raises:
            InputError: what a cell finds wrong; a cell whose processes ended by themselves ``engines.TRIES`` times.
            OSError: a process could not write.
            RuntimeError: what should not happen, with the traceback of the process.
        """
        left, deaths = dict(cells), dict.fromkeys(cells, 0)
        try:
            while left:
                for worker in self._idle():
                    key = self._next(worker, left)
                    if key is not None:
                        callback.start(left[key])
                        self._begin(worker, key, load_warm_start(left[key], folder), folder)
                for worker in self._ready():
                    key = worker.key
                    assert key is not None
                    cell = left[key]
                    try:
                        kind, said = worker.line.recv()
                    except (EOFError, OSError):
                        self._workers.remove(worker)
                        worker.end(GRACE)
                        deaths[key] += 1
                        if deaths[key] >= engine.TRIES and worker.process.exitcode == -KILLED:
                            del left[key]  # as a system does that is out of memory
                            yield key, None
                            continue
                        why = f"process ended with {worker.process.exitcode}"
                        refuse_deadly(cell, deaths[key], why)
                        callback.worker_lost(cell, why)
                        continue
                    if kind == "say":
                        callback.on_status(cell, said)
                        continue
                    worker.key = None
                    self._learn(worker, said["trials"])
                    raise_failure(said)
                    if "error" in said:
                        raise RuntimeError(f"in a process of the study:\n{said['error']}")
                    del left[key]
                    yield key, None if "memory" in said else load_cell(folder / key)
        finally:  # what still runs is not waited for
            for worker in [worker for worker in self._workers if worker.key is not None]:
                self._workers.remove(worker)
                worker.end()

    def _idle(self) -> list[_Process]:
        """Processes without a cell, new ones where there are not as many as there may be."""
        while len(self._workers) < self.jobs:
            self._workers.append(_Process(self._threads))
        return [worker for worker in self._workers if worker.key is None]

    def _ready(self) -> list[_Process]:
        """Processes that have something to say; waits for one."""
        running: dict[Any, _Process] = {worker.line: worker for worker in self._workers if worker.key is not None}
        return [running[line] for line in wait(list(running))]

    def _next(self, worker: _Process, left: Mapping[str, Cell]) -> str | None:
        """The cell that a process should take: one of the group that it is at, else of one that nobody is at.

        A closed form keeps matrices for a group. Among others, what further cells wait for comes first.
        """
        running = {w.key for w in self._workers}
        elsewhere = {w.group for w in self._workers if w is not worker and w.key is not None}
        awaited = {key for cell in left.values() for key in cell.prerequisites}
        best: tuple[tuple[int, bool, bool], str] | None = None
        for key, cell in left.items():
            if key in running or left.keys() & set(cell.prerequisites):
                continue
            group = self._group(cell)
            nearness = 0 if group == worker.group else 2 if group in elsewhere else 1
            rank = nearness, key not in awaited, group[0] not in worker.split_contexts
            if best is None or rank < best[0]:  # of equal ones the first
                best = rank, key
        return None if best is None else best[1]

    def _group(self, cell: Cell) -> Group:
        number, _ = self._benches.setdefault(id(cell.split_context), (len(self._benches), cell.split_context))
        return number, cell.model.kind

    def _begin(self, worker: _Process, key: str, cell: Cell, folder: Path) -> None:
        group = self._group(cell)
        trials = self._trials.setdefault(group, [])
        order: dict[str, Any] = {
            "cell": pack_cell(cell),
            "key": key,
            "folder": str(folder),
            "bench": group[0],
            "trials": [trial for maker, trial in trials[worker.told.get(group, 0) :] if maker is not worker],
        }
        if group[0] not in worker.split_contexts:
            order["files"] = pack(cell.split_context)
            worker.split_contexts.add(group[0])
        worker.told[group], worker.group, worker.key = len(trials), group, key
        with suppress(OSError):  # it is dead, which is seen when it is listened to
            worker.line.send(order)

    def _learn(self, worker: _Process, trials: list[Trial]) -> None:
        assert worker.group is not None
        self._trials[worker.group] += [(worker, trial) for trial in trials]
