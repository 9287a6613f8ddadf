"""How far a study is: cells that are done and to come, by model, and an estimate of the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from relrank.study.callbacks import NullCallback
from relrank.study.cell import Cell, CellId, cell_id
from relrank.study.cell_store import CellResult
from relrank.study.number_format import duration


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """An estimate of the time left.

    Attributes:
        seconds: of it.
        at_least: whether a model is to come of which nothing has finished; it may take longer than all others.
    """

    seconds: float
    at_least: bool

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'about'} {duration(self.seconds)} left"


def time_left(
    to_come: Mapping[str, int], durations: Mapping[str, Sequence[float]], at_once: int = 1
) -> TimeLeft | None:
    """The time left, from each model's mean time so far; None if nothing has finished.

    Args:
        to_come: number of cells or trials by model.
        durations: seconds of finished ones by model. A model without any is taken for as slow as the slowest.
        at_once: number of cells that run at once.
    """
    means = {model: sum(seconds) / len(seconds) for model, seconds in durations.items()}
    if not means:
        return None
    seconds = sum(n * means.get(model, max(means.values())) for model, n in to_come.items())
    return TimeLeft(seconds / max(at_once, 1), any(model not in means for model, n in to_come.items() if n > 0))


@dataclass(slots=True)
class RunningCell:
    """A cell that runs: its start on the clock of ``StudyProgress``, and its last message."""

    cell: Cell
    began: float
    message: str = ""


class StudyProgress(NullCallback):
    """A study callback that counts cells; one that shows them overrides ``changed``.

    Args:
        clock: seconds from any origin.

    Attributes:
        n_done: number of finished cells, those of an earlier run included.
        n_reused: number of cells that an earlier run has finished.
        running: cells that run, in the order of their starts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_done = self.n_reused = 0
        self.running: dict[CellId, RunningCell] = {}
        self._clock, self._at_once = clock, 0
        self._waiting: set[CellId] = set()
        self._expected: Counter[str] = Counter()
        """Estimated number of cells of each model, planned ones included, less those that are done or skipped."""
        self._durations: dict[str, list[float]] = {}
        self._earlier_durations: dict[str, list[float]] = {}

    def begin(self, expected: Mapping[str, int]) -> None:
        """Take the estimate of the number of cells."""
        self._expected = Counter(expected)
        self.changed()

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Add cells, of which an earlier run has finished some."""
        self._waiting |= {cell_id(cell) for cell in cells}
        self.n_reused += finished
        self.changed()

    def start(self, cell: Cell) -> None:
        """A cell runs."""
        self.running[cell_id(cell)] = RunningCell(cell, self._clock())
        self._at_once = max(self._at_once, len(self.running))
        self.changed()

    def on_status(self, cell: Cell, message: str) -> None:
        """Keep a running cell's last message."""
        if one := self.running.get(cell_id(cell)):
            one.message = message
        self.changed()

    def worker_lost(self, cell: Cell, why: str) -> None:
        """A cell no longer runs; it will start again."""
        self.running.pop(cell_id(cell), None)

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell is done. Times of earlier runs count for models without a cell that finished in this run."""
        self.n_done += 1
        seconds = self.seconds_running(cell)
        self._remove([cell])
        durations = self._durations if fresh else self._earlier_durations
        durations.setdefault(result.model, []).append(seconds if fresh else result.seconds)
        self.changed()

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells are left out, planned or expected ones."""
        self._remove(cells)

    def changed(self) -> None:
        """Called after an event."""

    def seconds_running(self, cell: Cell) -> float:
        """Time since a running cell's start; 0 for others."""
        one = self.running.get(cell_id(cell))
        return 0.0 if one is None else self._clock() - one.began

    @property
    def to_come(self) -> dict[str, int]:
        """Number of cells that are not done, by model: those planned, or an estimate that includes later ones."""
        planned = Counter(model for model, _, _ in self._waiting)
        return dict(planned | self._expected)  # the larger number of each model

    @property
    def total(self) -> int:
        """Number of cells, done and to come."""
        return self.n_done + sum(self.to_come.values())

    @property
    def time_left(self) -> TimeLeft | None:
        """Estimate of the time left; None before a cell is done."""
        return time_left(self.to_come, self._earlier_durations | self._durations, self._at_once)

    def _remove(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            self.running.pop(cell_id(cell), None)
            self._waiting.discard(cell_id(cell))
            self._expected[cell.model.name] -= 1
