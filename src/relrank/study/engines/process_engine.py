"""An engine that runs a study's cells in several processes of this machine, each with an equal share of the threads.

Much of a study's work uses one core, so a second core is better used by a second cell. A cell's result does not
depend on the process, and only in the last bits on the number of threads. Data are sent to a process once per split;
trials of one process are sent to the others with their next cell.
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
"""The signal with which Linux ends a process when it is out of memory; Windows has none."""
GRACE = 5.0
"""Seconds that a process with a closed connection has to end by itself, so that its exit code is its own."""
Group = tuple[int, str]
"""Number of a split context and kind of model: cells of one group share the cache of a closed form."""


class _Process:
    """A process, its current cell, and the data that it has received."""

    def __init__(self, threads: int) -> None:
        # a fork would copy locks of threads, but not the threads
        context = multiprocessing.get_context("spawn")
        self.connection, child_end = context.Pipe()
        self.process = context.Process(target=serve, args=(child_end,), daemon=True)
        with _threads(threads):
            self.process.start()
        child_end.close()  # so that the connection closes with the process
        self.split_contexts: set[int] = set()
        self.group: Group | None = None
        self.n_trials_sent: dict[Group, int] = {}
        self.key: str | None = None

    def end(self, patience: float = 0.0) -> None:
        """End the process; it first has ``patience`` seconds to end by itself."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set the number of threads that a started process inherits, since its script may load libraries first."""
    before = dict(os.environ)
    set_library_threads(number, {})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class ProcessEngine:
    """An engine (``engine.Engine``) that runs several cells at once; a context manager.

    As with every process pool in Python, a script that uses it needs ``if __name__ == "__main__"``, since each
    process imports the script.

    Args:
        jobs: number of processes; each gets an equal share of the cores as threads, at least one.

    Raises:
        InputError: fewer than one.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise InputError("no process to run on", where="--jobs", expected="1 or more", found=str(jobs))
        self.jobs, self._threads = jobs, max(1, cores() // jobs)
        self._workers: list[_Process] = []
        self._split_contexts: dict[int, tuple[int, SplitContext]] = {}
        self._trials: dict[Group, list[tuple[_Process, Trial]]] = {}

    def __enter__(self) -> Self:
        """Start the processes, which load their libraries while this one prepares the data."""
        try:
            self._idle()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._workers:
            self._workers.pop().end()
        self._split_contexts.clear()
        self._trials.clear()

    def memory(self) -> int | None:
        """An equal share of the free memory of this machine."""
        return available_memory() // self.jobs

    def machine(self) -> dict[str, Any]:
        """Numbers of processes and threads."""
        return {"engine": f"{self.jobs} processes, {self._threads} thread{'s' if self._threads > 1 else ''} each"}

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``engine.Engine``. A cell whose process dies starts again in a new one.

        A cell whose processes were killed ``engine.TRIES`` times is skipped, as if out of memory.

        Raises:
            InputError: from a cell; or the processes of a cell ended by themselves ``engine.TRIES`` times.
            OSError: a process could not write.
            RuntimeError: another error, with the traceback of the process.
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
                    try:
                        kind, content = worker.connection.recv()
                    except (EOFError, OSError):
                        deaths[key] += 1
                        if self._gives_up(worker, left[key], deaths[key], callback):
                            del left[key]
                            yield key, None
                        continue
                    if kind == "say":
                        callback.on_status(left[key], content)
                        continue
                    self._finish(worker, content)
                    del left[key]
                    yield key, None if "memory" in content else load_cell(folder / key)
        finally:  # running processes are not awaited
            for worker in [worker for worker in self._workers if worker.key is not None]:
                self._workers.remove(worker)
                worker.end()

    def _gives_up(self, worker: _Process, cell: Cell, deaths: int, callback: StudyCallback) -> bool:
        """Remove a dead worker; whether its cell is skipped, or else starts again.

        Raises:
            InputError: the processes of the cell ended by themselves too often.
        """
        self._workers.remove(worker)
        worker.end(GRACE)
        if deaths >= engine.TRIES and worker.process.exitcode == -KILLED:
            return True  # presumably by a system that is out of memory
        why = f"process ended with {worker.process.exitcode}"
        refuse_deadly(cell, deaths, why)
        callback.worker_lost(cell, why)
        return False

    def _finish(self, worker: _Process, answer: Mapping[str, Any]) -> None:
        """Take the trials of a worker that has ended its cell, and raise its error if there is one."""
        assert worker.group is not None
        worker.key = None
        self._trials[worker.group] += [(worker, trial) for trial in answer["trials"]]
        raise_failure(answer)
        if "error" in answer:
            raise RuntimeError(f"in a process of the study:\n{answer['error']}")

    def _idle(self) -> list[_Process]:
        """Processes without a cell; missing processes are started."""
        while len(self._workers) < self.jobs:
            self._workers.append(_Process(self._threads))
        return [worker for worker in self._workers if worker.key is None]

    def _ready(self) -> list[_Process]:
        """Processes with a message; waits for one."""
        running: dict[Any, _Process] = {
            worker.connection: worker for worker in self._workers if worker.key is not None
        }
        return [running[line] for line in wait(list(running))]

    def _next(self, worker: _Process, left: Mapping[str, Cell]) -> str | None:
        """The next cell for a process: of its current group if possible, else of a group that no process works on.

        A closed form caches matrices per group. Among equal cells, prerequisites of other cells come first.
        """
        running = {w.key for w in self._workers}
        elsewhere = {w.group for w in self._workers if w is not worker and w.key is not None}
        awaited = {key for cell in left.values() for key in cell.prerequisites}
        best: tuple[tuple[int, bool, bool], str] | None = None
        for key, cell in left.items():
            if key in running or left.keys() & set(cell.prerequisites):
                continue
            group = self._group(cell)
            distance = 0 if group == worker.group else 2 if group in elsewhere else 1
            rank = distance, key not in awaited, group[0] not in worker.split_contexts
            if best is None or rank < best[0]:  # the first of equal ones
                best = rank, key
        return None if best is None else best[1]

    def _group(self, cell: Cell) -> Group:
        number, _ = self._split_contexts.setdefault(
            id(cell.split_context), (len(self._split_contexts), cell.split_context)
        )
        return number, cell.model.kind

    def _begin(self, worker: _Process, key: str, cell: Cell, folder: Path) -> None:
        group = self._group(cell)
        trials = self._trials.setdefault(group, [])
        order: dict[str, Any] = {
            "cell": pack_cell(cell),
            "key": key,
            "folder": str(folder),
            "split_context": group[0],
            "trials": [trial for maker, trial in trials[worker.n_trials_sent.get(group, 0) :] if maker is not worker],
        }
        if group[0] not in worker.split_contexts:
            order["files"] = pack(cell.split_context)
            worker.split_contexts.add(group[0])
        worker.n_trials_sent[group], worker.group, worker.key = len(trials), group, key
        with suppress(OSError):  # it has died, which the next receive detects
            worker.connection.send(order)
