"""What happens in a process of ``process_engine``: it is sent orders, and sends back what it says and finds.

Numerical libraries read their threads when they are loaded, so they are imported here only after these are set.
"""

from __future__ import annotations

import signal
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relrank.libraries import settle

if TYPE_CHECKING:
    from relrank.study.cells import Cell, Known

PAUSE = 0.25
"""Seconds between two messages of a cell."""
Trial = tuple[str, bytes, float]
"""A trial, the metrics of its users as float32, and its seconds."""


class Trials(dict[str, "Known"]):
    """Trials that are known here, as the memory of cells (``cells.Memory``), and those made since the last order."""

    def __init__(self) -> None:
        self.made: list[Trial] = []

    def __setitem__(self, trial: str, known: Known, /) -> None:
        super().__setitem__(trial, known)
        self.made.append((trial, known.metrics.tobytes(), known.seconds))

    def learn(self, trials: list[Trial]) -> None:
        """What other processes made."""
        import numpy as np

        from relrank.study.cells import Known

        for trial, metrics, seconds in trials:
            super().__setitem__(trial, Known(np.frombuffer(metrics, np.float32), seconds))


def serve(orders: Connection, threads: int, environment: dict[str, str]) -> None:
    """Run the cells that are ordered until the other side is gone.

    Args:
        orders: brings ``cell`` and ``key``, ``folder`` of the study's cells, ``trials`` that others made, ``bench``
            (a number) and, the first time, its ``files``; takes ("say", message) and ("end", answer). An answer has
            ``trials`` that were made and, unless the cell is there, one of ``memory``, the message of memory that
            ended; ``refused``, four strings of an InputError; ``failed``, the message of an OSError; ``error``, the
            traceback of what should not happen.
        threads: of numerical libraries.
        environment: variables that they read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    settle(threads, environment)

    from relrank.study.bench_files import unpack, unpack_cell
    from relrank.study.cells import Bench
    from relrank.study.engines import release

    benches: dict[int, Bench] = {}
    trials, last = Trials(), None
    while True:
        try:
            order = orders.recv()
        except (EOFError, ConnectionError):
            return
        if "files" in order:
            benches[order["bench"]] = unpack(order["files"])
        trials.learn(order["trials"])
        cell = unpack_cell(order["cell"], benches[order["bench"]])
        if last is not None and (cell.bench is not last.bench or cell.model.kind != last.model.kind):
            release(last)
        last = cell
        try:
            answer = _run(cell, order["key"], Path(order["folder"]), orders, trials)
            answer["trials"], trials.made = trials.made, []
            orders.send(("end", answer))
        except ConnectionError:
            return


def _run(cell: Cell, key: str, folder: Path, orders: Connection, trials: Trials) -> dict[str, Any]:
    from relrank.errors import InputError
    from relrank.memory import out_of_memory
    from relrank.study.cells import run_cell
    from relrank.study.engines import release

    said = 0.0

    def say(message: str) -> None:
        nonlocal said
        if time.monotonic() - said >= PAUSE:
            said = time.monotonic()
            orders.send(("say", message))

    try:
        if (seen := cell.key()) != key:
            raise ValueError(f"cell {key} arrived as {seen}")
        run_cell(cell, folder / key, say, trials)
    except InputError as error:
        return {"refused": (error.what, error.where, error.expected, error.found)}
    except ConnectionError:
        raise
    except OSError as error:
        return {"failed": str(error)}
    except Exception as error:
        if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
            release(cell)
            return {"memory": str(error)}
        return {"error": traceback.format_exc()}
    return {}
