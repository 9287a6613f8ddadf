"""Who runs a study's cells: what is asked of an engine, and the one that runs them here, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from relrank.errors import InputError
from relrank.models import MODELS, ClosedForm
from relrank.parallel.memory import is_out_of_memory
from relrank.study.callbacks import StudyCallback
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import CellResult
from relrank.study.run_cell import run_cell
from relrank.study.tune_cell import CachedTrial
from relrank.study.warm_starts import load_warm_start

TRIES = 5
"""Times that a cell is begun; a cell that kills its workers, by want of memory say, must not do so for ever."""


class Engine(Protocol):
    """Runs cells that it is given; which cells those are is not its business."""

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """Run cells, each into its folder, which is there whole or not at all.

        Args:
            cells: by key, none of them finished; each behind those that it begins after (``Cell.after``).
            folder: where the cells' folders, named by key, belong.
            callback: told of ``start``, ``on_status`` and ``worker_lost``.

        Yields:
            Key and result of every cell once, in the order in which they are finished; None as the result of a cell
            that ended because memory did.

        Raises:
            InputError: what a cell finds wrong; no further cell is begun.
        """

    def memory(self) -> int | None:
        """Bytes that one cell may take where it runs; None for what this machine has free."""

    def machine(self) -> dict[str, Any]:
        """What a study's card says of where its cells ran, beside the machine that it was asked for on."""


class SequentialEngine:
    """Runs cells in this process, in the order given; closed forms hear of trials that earlier cells made."""

    def __init__(self) -> None:
        self._memory: dict[str, CachedTrial] = {}

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``Engine``."""
        last: Cell | None = None
        for key, cell in cells.items():
            make_room(cell, last)
            last = cell
            callback.start(cell)
            yield key, self._result(load_warm_start(cell, folder), folder / key, partial(callback.on_status, cell))

    def _result(self, cell: Cell, folder: Path, on_status: StatusCallback) -> CellResult | None:
        try:
            return run_cell(cell, folder, on_status, self._memory)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        clear_cache(cell)
        return None

    def memory(self) -> int | None:
        """What this machine has free."""
        return None

    def machine(self) -> dict[str, Any]:
        """Nothing: they ran here."""
        return {}


def refuse_deadly(cell: Cell, deaths: int, why: str) -> None:
    """Give up on a cell whose workers died ``TRIES`` times.

    Raises:
        InputError: they did.
    """
    if deaths >= TRIES:
        raise InputError(
            f"its worker died {TRIES} times",
            where=cell_label(cell),
            found=why,
            expected="workers that live: is there memory for so many cells at once? Fewer at once have more each",
        ) from None


def cell_label(cell: Cell) -> str:
    """A cell as errors name it."""
    return f"{cell.model.name} · {cell.arm.name} · seed {cell.split_context.seed}"


def raise_failure(answer: Mapping[str, Any]) -> None:
    """Of a worker's answer: ``refused`` holds four strings of an InputError, ``failed`` the message of an OSError."""
    if "refused" in answer:
        what, where, expected, found = answer["refused"]
        raise InputError(what, where=where, expected=expected, found=found)
    if "failed" in answer:
        raise OSError(answer["failed"])


def make_room(cell: Cell, last: Cell | None) -> None:
    """Release what is kept of the cell before, unless this one shares it."""
    if last is not None and (cell.split_context is not last.split_context or cell.model.kind != last.model.kind):
        clear_cache(last)


def clear_cache(cell: Cell) -> None:
    """Matrices that a closed form keeps for other arms of the same split: another cell needs the memory."""
    kind = MODELS[cell.model.kind]
    if issubclass(kind, ClosedForm):
        kind.clear_cache()
