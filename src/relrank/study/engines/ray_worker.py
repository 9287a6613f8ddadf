"""The code of a Ray worker.

Workers get this module by value and messages of plain Python, so that a worker with another relrank, or none, can
report that. Therefore only the standard library is imported before the version is checked, and numerical libraries
only after their number of threads is set.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relrank.study.tune_cell import CachedTrial

Trial = tuple[bytes, float]
"""Metrics of a trial per user, as float32, and its seconds."""

PAUSE = 0.25
"""Minimum seconds between two progress messages of a cell."""
WAIT = 10.0
"""Seconds to wait for the board, which only saves time."""


class Board:
    """An actor, one per study, that collects progress messages and trials of the workers."""

    def __init__(self) -> None:
        self._messages: dict[str, str] = {}
        self._trials: dict[str, Trial] = {}

    def on_status(self, key: str, message: str) -> None:
        """A cell has started, or reports progress."""
        self._messages[key] = message

    def take(self) -> dict[str, str]:
        """The latest message of every cell with a new one, by key."""
        messages, self._messages = self._messages, {}
        return messages

    def get_trial(self, key: str) -> Trial | None:
        """A finished trial of any cell, or None."""
        return self._trials.get(key)

    def add_trial(self, key: str, trial: Trial) -> None:
        """Share a finished trial."""
        self._trials[key] = trial


class SharedTrials:
    """The board's trials as a ``tune_cell.TrialCache``."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def get(self, key: str, /) -> CachedTrial | None:
        """A finished trial; None if no cell has made it, or if the board does not answer."""
        import numpy as np

        from relrank.study.tune_cell import CachedTrial

        try:
            # a future, because ray.get would give this worker's core to another cell while it waits
            trial = self._board.get_trial.remote(key).future().result(WAIT)
        except Exception:  # without the board, the trial is made here
            return None
        return None if trial is None else CachedTrial(np.frombuffer(trial[0], np.float32), trial[1])

    def __setitem__(self, key: str, trial: CachedTrial, /) -> None:
        self._board.add_trial.remote(key, (trial.metrics.tobytes(), trial.seconds))


def work(order: dict[str, Any], split_context: dict[str, bytes], board: Any) -> dict[str, Any]:
    """Run one cell.

    Args:
        order: ``key`` of the cell, the ``cell`` (``split_files.pack_cell``), the required version ``relrank``, number
            of ``cores``, ``environment`` of numerical libraries, ``folder`` of the study's cells, ``mark``, a file in
            it.
        split_context: see ``split_files.pack``.
        board: of the study.

    Returns:
        ``files`` of the cell's folder by name; or ``memory``, the message of an out-of-memory error; or ``refused``,
        parts of an InputError; or ``failed``, the message of an OSError; or ``other``, the relrank version of this
        worker, with ``host``.
    """
    try:
        import relrank

        version = relrank.__version__
    except ImportError:
        version = "none"
    if version != order["relrank"]:
        return {"other": version, "host": socket.gethostname()}
    from relrank.parallel.environment import set_library_threads

    set_library_threads(order["cores"], order["environment"])

    from relrank.errors import InputError
    from relrank.parallel.memory import is_out_of_memory
    from relrank.study.engines.engine import refusal

    try:
        return {"files": _run_cell(order, split_context, board)}
    except InputError as error:
        return refusal(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {"memory": str(error)}
    except OSError as error:
        return {"failed": f"{error} (on {socket.gethostname()})"}


def _run_cell(order: dict[str, Any], split_context: dict[str, bytes], board: Any) -> dict[str, bytes]:
    """The files of the finished cell, by name."""
    from relrank.study.engines.split_files import unpack, unpack_cell
    from relrank.study.run_cell import fill_cell

    key, last_message = order["key"], 0.0

    def on_status(message: str) -> None:
        nonlocal last_message
        if time.monotonic() - last_message >= PAUSE:
            last_message = time.monotonic()
            board.on_status.remote(key, message)

    on_status("")
    local: Path | None = None  # on this machine; remains only if the worker is killed, for the next one to resume
    try:
        cell = unpack_cell(order["cell"], unpack(split_context))
        if (received := cell.key()) != key:
            raise RuntimeError(f"cell {key} arrived as {received}")
        folder, mark = Path(order["folder"]), order["mark"]
        if (folder / mark).is_file():
            part = folder / f"{key}.part"
            part.mkdir(exist_ok=True)
        else:
            part = local = Path(tempfile.gettempdir()) / f"relrank{mark}.{key}"
            part.mkdir(mode=0o700, exist_ok=True)
        fill_cell(cell, part, on_status, SharedTrials(board))
        return {file.name: file.read_bytes() for file in part.iterdir()}
    finally:
        if local is not None:
            shutil.rmtree(local, ignore_errors=True)
