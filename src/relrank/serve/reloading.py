"""Loads runs, and replaces a served run when its folder changes."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from relrank.errors import InputError
from relrank.runs.fitted_run import load_run
from relrank.serve.options import Options
from relrank.serve.served_model import ServedModel
from relrank.serve.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("relrank.serve")

Signature = tuple[tuple[int, int, int], ...]


def load(options: Options, name: str) -> ServedModel:
    """One of the runs, ready to answer.

    Raises:
        InputError: it cannot be loaded.
    """
    return ServedModel(name, load_run(options.folders[name]), options.limits, options.index_from)


def describe(served: ServedModel) -> str:
    """A run in two lines."""
    note = served.run.note
    lists = "exact lists" if served.index is None else f"index of item vectors: {served.index.quality}"
    cold = f", {served.n_cold_items:,} of them without interactions" if served.n_cold_items else ""
    where = "" if served.is_fast else ", in threads"
    return (
        f"{served.name}: {note['model']} on {note['arm']}, {note['protocol']}; "
        f"{served.n_users:,} users, {served.n_items:,} items{cold}\n"
        f"  {lists}; {served.seconds * 1000:.1f} ms each{where}"
    )


def freeze_gc() -> None:
    """Exempt loaded runs from garbage collection: they live as long as the process."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class RunReloader(threading.Thread):
    """Checks the folders of the runs, and replaces a run when its folder has changed.

    Args:
        service: serves the runs.
        options: the folders, and how often to check them.
        app: ``state.reload_errors`` and ``state.metrics`` are updated.
        loaded: signatures of the served runs, from before they were loaded; None for the current ones.
    """

    def __init__(
        self, service: Service, options: Options, app: FastAPI, loaded: Mapping[str, Signature | None] | None = None
    ) -> None:
        super().__init__(name="relrank-watcher", daemon=True)
        self._service, self._options, self._app = service, options, app
        self._signatures = dict(run_signatures(options) if loaded is None else loaded)
        self._reload_all, self._wake = False, threading.Event()
        self._stopped = False

    def run(self) -> None:
        """Check until stopped."""
        while not self._stopped:
            self._wake.wait(self._options.poll)
            self._wake.clear()
            reload_all, self._reload_all = self._reload_all, False
            if not self._stopped:
                self.reload_changed(reload_all)

    def reload(self) -> None:
        """Load all runs again soon."""
        self._reload_all = True
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake.set()

    def reload_changed(self, reload_all: bool = False) -> None:
        """Load the runs that changed, or all."""
        for name, folder in self._options.folders.items():
            signature = _signature(folder)
            # while a run is replaced, its folder may be missing for a moment
            if signature is None or (signature == self._signatures[name] and not reload_all):
                continue
            self._signatures[name] = signature
            try:
                fresh = load(self._options, name)
                if _signature(folder) != signature:  # replaced meanwhile: the next check loads it
                    continue
                self._service.replace(name, fresh)
            except Exception as error:  # whatever is wrong with the folder, the loaded run still answers
                self._report_failure(name, error)
            else:
                self._report_success(name)

    def _report_failure(self, name: str, error: Exception) -> None:
        message = "run %s cannot be loaded; the one before it is still served: %s"
        log.error(message, name, error, exc_info=not isinstance(error, InputError))
        public = "cannot be loaded, the one before it is still served; the reason is in the server's log"
        self._app.state.reload_errors = {**self._app.state.reload_errors, name: public}
        self._app.state.metrics.failed.labels(name).inc()

    def _report_success(self, name: str) -> None:
        log.warning("run %s was loaded again", name)
        errors = self._app.state.reload_errors
        self._app.state.reload_errors = {run: message for run, message in errors.items() if run != name}
        self._app.state.metrics.loaded.labels(name).set(time.time())
        freeze_gc()


def run_signatures(options: Options) -> dict[str, Signature | None]:
    """The current signature of every run."""
    return {name: _signature(folder) for name, folder in options.folders.items()}


def _signature(folder: Path) -> Signature | None:
    """What changes when a run is replaced; None without a run."""
    try:
        stats = [(folder / name).stat() for name in ("run.json", "model.safetensors")]
    except OSError:
        return None
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)
