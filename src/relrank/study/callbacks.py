"""Who is told what a study does."""

from __future__ import annotations

from typing import Protocol

from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult


class StudyCallback(Protocol):
    """Sees a study go by. Several cells may be running at once."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Cells to come, so many of them finished earlier."""

    def start(self, cell: Cell) -> None:
        """A cell begins."""

    def on_status(self, cell: Cell, message: str) -> None:
        """What a running cell is doing."""

    def worker_lost(self, cell: Cell, why: str) -> None:
        """The worker of a running cell is gone; the cell will begin again."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell is there; ``fresh`` if it was run just now."""

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells of one model are left out for want of memory, before ``plan`` or after ``start``; in one sentence."""


class NullCallback:
    """A watcher that looks away."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Nothing."""

    def start(self, cell: Cell) -> None:
        """Nothing."""

    def on_status(self, cell: Cell, message: str) -> None:
        """Nothing."""

    def worker_lost(self, cell: Cell, why: str) -> None:
        """Nothing."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Nothing."""

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Nothing."""
