"""The interface of engines, which run a study's cells, and the engine that runs them in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from relrank.errors import InputError
from relrank.models import MODELS, ClosedForm
from relrank.parallel.memory import is_out_of_memory
from relrank.study.callbacks import StudyCallback
from relrank.study.cell import Cell, StatusCallback, cell_title
from relrank.study.cell_store import CellResult
from relrank.study.run_cell import run_cell
from relrank.study.tune_cell import CachedTrial
from relrank.study.warm_starts import load_warm_start

TRIES = 5
"""Maximum number of starts of a cell whose workers die, e.g. for lack of memory."""


class Engine(Protocol):
    """Runs cells."""

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """Run cells. The folder of each is complete or absent.

        Args:
            cells: by key, none of them finished; each after its ``Cell.prerequisites``.
            folder: parent of the cells' folders, which are named by key.
            callback: receives ``start``, ``on_status`` and ``worker_lost``.

        Yields:
            Key and result of every cell once, in the order in which they finish; None as the result of a cell that
            ran out of memory.

        Raises:
            InputError: from a cell; no further cell is started.
        """

    def memory(self) -> int | None:
        """Bytes that one cell may use where it runs; None for the free memory of this machine."""

    def machine(self) -> dict[str, Any]:
        """Keys for the study's card on where its cells ran, in addition to this machine."""


class SequentialEngine:
    """Runs cells in this process, in the order given; closed forms share their trials."""

    def __init__(self) -> None:
        self._trial_cache: dict[str, CachedTrial] = {}

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``Engine``."""
        last: Cell | None = None
        for key, cell in cells.items():
            clear_unshared_cache(cell, last)
            last = cell
            callback.start(cell)
            yield key, self._result(load_warm_start(cell, folder), folder / key, partial(callback.on_status, cell))

    def _result(self, cell: Cell, folder: Path, on_status: StatusCallback) -> CellResult | None:
        try:
            return run_cell(cell, folder, on_status, self._trial_cache)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        clear_cache(cell)
        return None

    def memory(self) -> int | None:
        """None: the free memory of this machine."""
        return None

    def machine(self) -> dict[str, Any]:
        """Nothing to add."""
        return {}


def refuse_deadly(cell: Cell, deaths: int, why: str) -> None:
    """Give up on a cell whose workers died ``TRIES`` times.

    Raises:
        InputError: they have died as often.
    """
    if deaths >= TRIES:
        raise InputError(
            f"its worker died {TRIES} times",
            where=cell_title(cell),
            found=why,
            expected="enough memory for every worker; with fewer cells at once, each has more",
        ) from None


def raise_failure(answer: Mapping[str, Any]) -> None:
    """Raise a worker's error: ``refused``, the parts of an InputError; ``failed``, the message of an OSError."""
    if "refused" in answer:
        what, where, expected, found = answer["refused"]
        raise InputError(what, where=where, expected=expected, found=found)
    if "failed" in answer:
        raise OSError(answer["failed"])


def refusal(error: InputError) -> dict[str, Any]:
    """A worker's answer for an InputError (see ``raise_failure``)."""
    return {"refused": (error.what, error.where, error.expected, error.found)}


def clear_unshared_cache(cell: Cell, last: Cell | None) -> None:
    """Release the matrices of the previous cell unless this one can use them."""
    if last is not None and (cell.split_context is not last.split_context or cell.model.kind != last.model.kind):
        clear_cache(last)


def clear_cache(cell: Cell) -> None:
    """Release the matrices that a closed form caches for the arms of one split."""
    kind = MODELS[cell.model.kind]
    if issubclass(kind, ClosedForm):
        kind.clear_cache()
