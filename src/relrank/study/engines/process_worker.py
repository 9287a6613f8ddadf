"""What happens in a process of ``process_engine``: it is sent orders, and sends back what it says and finds.

Numerical libraries read their threads when they are loaded: whoever starts the process has set them before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relrank.study.cell import Cell, SplitContext
    from relrank.study.tune_cell import CachedTrial

PAUSE = 0.25
"""Seconds between two messages of a cell."""
Trial = tuple[str, bytes, float]
"""A trial, the metrics of its users as float32, and its seconds."""


class RecordedTrials(dict[str, "CachedTrial"]):
    """Trials known here (``cells.TrialCache``), and those made since the last order."""

    def __init__(self) -> None:
        self.made: list[Trial] = []

    def __setitem__(self, trial: str, known: CachedTrial, /) -> None:
        super().__setitem__(trial, known)
        self.made.append((trial, known.metrics.tobytes(), known.seconds))

    def learn(self, trials: list[Trial]) -> None:
        """What other processes made."""
        import numpy as np

        from relrank.study.tune_cell import CachedTrial

        for trial, metrics, seconds in trials:
            super().__setitem__(trial, CachedTrial(np.frombuffer(metrics, np.float32), seconds))


def serve(orders: Connection) -> None:
    """Run the cells that are ordered until the other side is gone.

    Args:
        orders: brings ``cell`` and ``key``, ``folder`` of the study's cells, ``trials`` that others made, ``bench``
            (a number) and, the first time, its ``files``; takes ("say", message) and ("end", answer). An answer has
            ``trials`` that were made and, unless the cell is there, one of ``memory``, the message of memory that
            ended; ``refused``, four strings of an InputError; ``failed``, the message of an OSError; ``error``, the
            traceback of what should not happen.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = _Worker(orders)
    while True:
        try:
            order = orders.recv()
            answer = worker.run(order)
            answer["trials"], worker.trials.made = worker.trials.made, []
            orders.send(("end", answer))
        except (EOFError, ConnectionError):
            return


def _end_with_parent() -> None:
    """Or a study that is begun again would find this process in its cells' folders."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Worker:
    """What is kept from cell to cell."""

    def __init__(self, orders: Connection) -> None:
        self.orders, self.trials = orders, RecordedTrials()
        self.split_contexts: dict[int, SplitContext] = {}
        self.last: Cell | None = None
        self.said = 0.0

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run one cell; see ``serve``."""
        from relrank.errors import InputError
        from relrank.parallel.memory import is_out_of_memory
        from relrank.study.engines.engine import clear_cache

        try:
            self._run(order)
        except InputError as error:
            return {"refused": (error.what, error.where, error.expected, error.found)}
        except ConnectionError:
            raise
        except OSError as error:
            return {"failed": str(error)}
        except Exception as error:
            if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
                if self.last is not None:
                    clear_cache(self.last)
                return {"memory": str(error)}
            return {"error": traceback.format_exc()}
        return {}

    def _run(self, order: dict[str, Any]) -> None:
        from relrank.study.engines.engine import make_room
        from relrank.study.engines.split_files import unpack, unpack_cell
        from relrank.study.run_cell import run_cell

        if "files" in order:
            self.split_contexts[order["bench"]] = unpack(order["files"])
        self.trials.learn(order["trials"])
        cell = unpack_cell(order["cell"], self.split_contexts[order["bench"]])
        make_room(cell, self.last)
        self.last = cell
        if (seen := cell.key()) != order["key"]:
            raise ValueError(f"cell {order['key']} arrived as {seen}")
        run_cell(cell, Path(order["folder"]) / order["key"], self._say, self.trials)

    def _say(self, message: str) -> None:
        if time.monotonic() - self.said >= PAUSE:
            self.said = time.monotonic()
            self.orders.send(("say", message))
