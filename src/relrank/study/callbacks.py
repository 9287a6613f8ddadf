"""What a study reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult
from relrank.study.result import StudyResult


class StudyCallback(Protocol):
    """Receives the events of a study. Several cells may run at once."""

    def begin(self, expected: Mapping[str, int]) -> None:
        """The study begins; ``expected``: an estimate of its number of cells, by model."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Cells of the next batch, and how many of them an earlier run has finished."""

    def start(self, cell: Cell) -> None:
        """A cell starts."""

    def on_status(self, cell: Cell, message: str) -> None:
        """Progress of a running cell."""

    def worker_lost(self, cell: Cell, why: str) -> None:
        """The worker of a running cell died; the cell will start again."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell has finished; ``fresh`` if in this run."""

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells of one model are skipped for lack of memory, before ``plan`` or after ``start``."""

    def provisional(self, assemble: Callable[[], StudyResult]) -> None:
        """Further cells have finished; ``assemble`` makes the result of all cells so far (``study.provisional``)."""


class CallbackGroup:
    """Passes every event to several callbacks, one after another."""

    _callbacks: tuple[StudyCallback, ...] = ()

    def __init__(self, *callbacks: StudyCallback) -> None:
        self._callbacks = callbacks

    def begin(self, expected: Mapping[str, int]) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.begin(expected)

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.plan(cells, finished)

    def start(self, cell: Cell) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.start(cell)

    def on_status(self, cell: Cell, message: str) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.on_status(cell, message)

    def worker_lost(self, cell: Cell, why: str) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.worker_lost(cell, why)

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.done(cell, result, fresh)

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.skipped(cells, why)

    def provisional(self, assemble: Callable[[], StudyResult]) -> None:
        """Pass it on."""
        for one in self._callbacks:
            one.provisional(assemble)


class NullCallback(CallbackGroup):
    """Ignores all events; a base for callbacks that need only some."""

    def __init__(self) -> None:
        """Takes no callbacks."""
