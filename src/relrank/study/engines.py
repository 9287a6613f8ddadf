"""Who runs a study's cells: what is asked of an engine, and the one that runs them here, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from relrank.study.cells import Cell, CellResult, Known, run_cell


class Watcher(Protocol):
    """Sees a study go by. Several cells may be running at once."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Cells to come, so many of them finished earlier."""

    def start(self, cell: Cell) -> None:
        """A cell begins."""

    def say(self, cell: Cell, message: str) -> None:
        """What a running cell is doing."""

    def lost(self, cell: Cell, why: str) -> None:
        """The worker of a running cell is gone; the cell will begin again."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell is there; ``fresh`` if it was run just now."""


class Silent:
    """A watcher that looks away."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Nothing."""

    def start(self, cell: Cell) -> None:
        """Nothing."""

    def say(self, cell: Cell, message: str) -> None:
        """Nothing."""

    def lost(self, cell: Cell, why: str) -> None:
        """Nothing."""

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Nothing."""


class Engine(Protocol):
    """Runs cells that it is given; which cells those are is not its business."""

    def run(self, cells: Mapping[str, Cell], folder: Path, watcher: Watcher) -> Iterator[tuple[str, CellResult]]:
        """Run cells, each into its folder, which is there whole or not at all.

        Args:
            cells: by key, none of them finished.
            folder: where the cells' folders, named by key, belong.
            watcher: told of ``start``, ``say`` and ``lost``.

        Yields:
            Key and result of every cell once, in the order in which they are finished.

        Raises:
            InputError: what a cell finds wrong; no further cell is begun.
        """

    def machine(self) -> dict[str, Any]:
        """What a study's card says of where its cells ran, beside the machine that it was asked for on."""


class OneByOne:
    """Runs cells in this process, in the order given; closed forms hear of trials that earlier cells made."""

    def __init__(self) -> None:
        self._memory: dict[str, Known] = {}

    def run(self, cells: Mapping[str, Cell], folder: Path, watcher: Watcher) -> Iterator[tuple[str, CellResult]]:
        """See ``Engine``."""
        for key, cell in cells.items():
            watcher.start(cell)
            yield key, run_cell(cell, folder / key, partial(watcher.say, cell), self._memory)

    def machine(self) -> dict[str, Any]:
        """Nothing: they ran here."""
        return {}
