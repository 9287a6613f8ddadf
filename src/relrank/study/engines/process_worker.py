"""A worker process of ``process_engine``: receives orders, and sends progress messages and answers.

Numerical libraries read their number of threads when they are loaded, so the parent sets it before the start.
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
"""Minimum seconds between two progress messages."""
Trial = tuple[str, bytes, float]
"""Cache key of a trial, its metrics per user as float32, and its seconds."""


class RecordedTrials(dict[str, "CachedTrial"]):
    """Trials of all processes (``tune_cell.TrialCache``); ``made`` are those of this one since the last order."""

    def __init__(self) -> None:
        self.made: list[Trial] = []

    def __setitem__(self, key: str, trial: CachedTrial, /) -> None:
        super().__setitem__(key, trial)
        self.made.append((key, trial.metrics.tobytes(), trial.seconds))

    def add(self, trials: list[Trial]) -> None:
        """Add trials of other processes."""
        import numpy as np

        from relrank.study.tune_cell import CachedTrial

        for key, metrics, seconds in trials:
            super().__setitem__(key, CachedTrial(np.frombuffer(metrics, np.float32), seconds))


def serve(orders: Connection) -> None:
    """Run the ordered cells until the connection closes.

    Args:
        orders: brings ``cell`` and ``key``, ``folder`` of the study's cells, ``trials`` of other processes,
            ``split_context`` (a number) and, the first time, its ``files``; takes ("say", message) and ("end",
            answer). An answer has ``trials`` that were made and, unless the cell has finished, one of ``memory``, the
            message of an out-of-memory error; ``refused``, parts of an InputError; ``failed``, the message of an
            OSError; ``error``, the traceback of another error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import relrank.study.run_cell  # noqa: F401  (before the first order comes)

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
    """End with the parent; otherwise a restarted study would find this process writing to its folders."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Worker:
    """State that is kept between cells."""

    def __init__(self, orders: Connection) -> None:
        self.orders, self.trials = orders, RecordedTrials()
        self.split_contexts: dict[int, SplitContext] = {}
        self.last: Cell | None = None
        self.last_message = 0.0

    def run(self, order: dict[str, Any]) -> dict[str, Any]:
        """Run one cell; see ``serve``."""
        from relrank.errors import InputError
        from relrank.parallel.memory import is_out_of_memory
        from relrank.study.engines.engine import clear_cache, refusal

        try:
            self._run(order)
        except InputError as error:
            return refusal(error)
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
        from relrank.study.engines.engine import clear_unshared_cache
        from relrank.study.engines.split_files import unpack, unpack_cell
        from relrank.study.run_cell import run_cell

        number = order["split_context"]
        if "files" in order:
            self.split_contexts[number] = unpack(order["files"])
        self.trials.add(order["trials"])
        cell = unpack_cell(order["cell"], self.split_contexts[number])
        clear_unshared_cache(cell, self.last)
        self.last = cell
        if (received := cell.key()) != order["key"]:
            raise ValueError(f"cell {order['key']} arrived as {received}")
        run_cell(cell, Path(order["folder"]) / order["key"], self._say, self.trials)

    def _say(self, message: str) -> None:
        if time.monotonic() - self.last_message >= PAUSE:
            self.last_message = time.monotonic()
            self.orders.send(("say", message))
