"""What happens on a Ray worker.

Workers get this module by value and in messages of plain Python alone, so one with another relrank, or none, can
still say so. Hence nothing but Python is imported until that is settled, and numerical libraries only after their
threads are.
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
"""Metrics of a trial's users, as float32, and its seconds."""

PAUSE = 0.25
"""Seconds between two messages of a cell."""
WAIT = 10.0
"""Seconds to wait for an answer of the board, which is there for speed alone."""


class Board:
    """Where workers pin up what they are doing, and which trials they made; one per study."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._trials: dict[str, Trial] = {}

    def on_status(self, key: str, message: str) -> None:
        """A cell is there, or doing something."""
        self._said[key] = message

    def take(self) -> dict[str, str]:
        """The latest message of every cell that has a new one, by key."""
        said, self._said = self._said, {}
        return said

    def known(self, trial: str) -> Trial | None:
        """What a trial gave, if any cell has made it."""
        return self._trials.get(trial)

    def learn(self, trial: str, made: Trial) -> None:
        """A trial was made."""
        self._trials[trial] = made


class SharedTrials:
    """The board's trials, as the memory of cells (``cells.TrialCache``)."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def get(self, trial: str, /) -> CachedTrial | None:
        """What a trial gave; None if nobody has made it, or the board does not answer."""
        import numpy as np

        from relrank.study.tune_cell import CachedTrial

        try:
            # A future, because ray.get would give this worker's core to another cell while it waits.
            made = self._board.known.remote(trial).future().result(WAIT)
        except Exception:  # whatever is wrong with the board: the trial is made here
            return None
        return None if made is None else CachedTrial(np.frombuffer(made[0], np.float32), made[1])

    def __setitem__(self, trial: str, known: CachedTrial, /) -> None:
        self._board.learn.remote(trial, (known.metrics.tobytes(), known.seconds))


def work(order: dict[str, Any], split_context: dict[str, bytes], board: Any) -> dict[str, Any]:
    """Run one cell.

    Args:
        order: ``key`` of the cell, the ``cell`` (``bench_files.pack_cell``), the ``relrank`` wanted, number of
            ``cores``, ``environment`` of numerical libraries, ``folder`` of the study's cells, ``mark`` that lies
            in it.
        split_context: see ``bench_files``.
        board: the study's.

    Returns:
        ``files`` of the cell's folder by name; or ``memory``, where it ended, the message; or ``refused``, four
        strings of an InputError; or ``failed``, the message of an OSError; or ``other``, the relrank that is here,
        and ``host``.
    """
    try:
        import relrank

        here = relrank.__version__
    except ImportError:
        here = "none"
    if here != order["relrank"]:
        return {"other": here, "host": socket.gethostname()}
    from relrank.parallel.environment import set_library_threads

    set_library_threads(order["cores"], order["environment"])

    from relrank.errors import InputError
    from relrank.parallel.memory import is_out_of_memory
    from relrank.study.engines.split_files import unpack, unpack_cell
    from relrank.study.run_cell import fill_cell

    key, said = order["key"], 0.0

    def on_status(message: str) -> None:
        nonlocal said
        if time.monotonic() - said >= PAUSE:
            said = time.monotonic()
            board.on_status.remote(key, message)

    on_status("")
    own: Path | None = None  # a folder of this machine's, kept only where the worker is killed, for the next one
    try:
        cell = unpack_cell(order["cell"], unpack(split_context))
        if (seen := cell.key()) != key:
            raise RuntimeError(f"cell {key} arrived as {seen}")
        folder, mark = Path(order["folder"]), order["mark"]
        if (folder / mark).is_file():
            part = folder / f"{key}.part"
            part.mkdir(exist_ok=True)
        else:
            part = own = Path(tempfile.gettempdir()) / f"relrank{mark}.{key}"
            part.mkdir(mode=0o700, exist_ok=True)
        fill_cell(cell, part, on_status, SharedTrials(board))
        files = {file.name: file.read_bytes() for file in part.iterdir()}
    except InputError as error:
        return {"refused": (error.what, error.where, error.expected, error.found)}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {"memory": str(error)}
    except OSError as error:
        return {"failed": f"{error} (on {socket.gethostname()})"}
    finally:
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)
    return {"files": files}
