"""Tracking of a study in MLflow: one run for the study, and a child run for every cell.

Everything that is logged is in the study's folder, so it can be logged again at any time without duplicates: the
study's run is found by a hash of its cells' keys, a cell's run by its key, and finished cells are skipped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import polars as pl

from relrank.errors import InputError
from relrank.models import MODELS, Trained
from relrank.parallel.machine import machine
from relrank.report.verdict_summary import answer
from relrank.runs.fitted_run import FittedRun
from relrank.study.callbacks import CallbackGroup, NullCallback, StudyCallback
from relrank.study.cell import Cell, CellId, StatusCallback, cell_id
from relrank.study.cell_store import CellResult, cell_exists, load_cell
from relrank.study.config import StudyConfig
from relrank.study.grid import grid
from relrank.study.prepare import StudyData
from relrank.study.result import StudyResult
from relrank.tracking.mlflow_store import (
    Point,
    StudyRuns,
    flatten_params,
    load_mlflow,
    mlflow_name,
    redact_credentials,
)

DEFAULT_URI = "sqlite:///mlflow.db"
"""MLflow's own default."""

ACCURACY, VALID, COST, CURVE = "test", "validation", "cost", "curve"
"""Prefixes of metric names, before a slash, by which MLflow's page groups them."""


class Tracking(NullCallback):
    """Logs one study: each cell when it is done, the rest at the end.

    A store that does not respond never stops a study: ``warn`` is called once, and ``finish`` logs everything again.

    Args:
        uri: MLflow's tracking URI; by default ``$MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.
        config: the study.
        data: its data.
        file: the study file.
        out: the study's folder.
        warn: called with a message if the store does not respond.

    Raises:
        InputError: mlflow is not installed.
    """

    def __init__(
        self, uri: str | None, config: StudyConfig, data: StudyData, file: Path, out: Path, warn: StatusCallback
    ) -> None:
        load_mlflow()
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        self._config, self._data, self._file, self._out, self._warn = config, data, file, out, warn
        self._runs: StudyRuns | None = None
        self._cells: dict[str, Cell] = {}
        self._keys: dict[CellId, str] = {}
        identity = [
            config.name,
            sorted({cell.key() for cell in grid(config, data)}),
            # verdicts depend on [study] settings, too
            config.study.model_dump(mode="json", exclude={"memory_gb"}),
        ]
        self._study = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]

    @contextmanager
    def wrap(self, callback: StudyCallback) -> Iterator[StudyCallback]:
        """A callback that wraps another one and also logs every cell that is done while the block runs.

        A study that ends early marks its run as killed or failed; the same study resumes it.

        Raises:
            InputError: the URI is not a tracking store.
        """
        with self._tolerate_store_errors():
            self._runs = self._open()
        try:
            yield CallbackGroup(callback, self)
        except BaseException as error:
            with self._tolerate_store_errors():
                if self._runs is not None:
                    self._runs.end(self._runs.run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Add planned cells; called again when results of other arms determine further cells."""
        for cell in cells:
            if cell_id(cell) not in self._keys:  # a key hashes every edge
                key = self._keys[cell_id(cell)] = cell.key()
                self._cells.setdefault(key, cell)

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Log a cell whose result is in the study's folder."""
        if self._runs is not None:
            with self._tolerate_store_errors():
                self._log_cell(self._runs, self._keys[cell_id(cell)])

    def finish(self, result: StudyResult, page: Path, winner: FittedRun) -> str:
        """Log the study, and cells that are not logged yet.

        Args:
            result: the finished study, as stored.
            page: its report.
            winner: the saved winner.

        Returns:
            A description of the run's location.

        Raises:
            InputError: logging failed. The study's folder is complete, and the study can be logged again.
        """
        try:
            runs = self._open()
            for key in self._finished():
                self._log_cell(runs, key)
            self._log_study(runs, result, page, winner)
        except InputError:
            raise
        except Exception as error:  # stores raise errors of many libraries
            raise InputError(
                "the study is done and stored, but MLflow did not take it",
                where=redact_credentials(self._uri),
                expected="a tracking store that responds: the same command logs again without fitting again",
                found=redact_credentials(error),
            ) from None
        return f"run {runs.run} of experiment {self._config.name} in {redact_credentials(self._uri)}"

    @contextmanager
    def _tolerate_store_errors(self) -> Iterator[None]:
        """After an error, stop logging until the study is done."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            self._runs = None
            self._warn(f"MLflow: {redact_credentials(error)}. The study continues and is logged when it is done.")

    def _open(self) -> StudyRuns:
        runs = StudyRuns(self._uri, self._config.name, self._study)
        runs.add_params(runs.run, self._params())
        return runs

    def _params(self) -> dict[str, str]:
        """The study's settings, its splits, and the machine."""
        config, split_contexts = self._config, self._data.split_contexts
        excluded: dict[str, Any] = {
            "name": True,
            "title": True,
            "description": True,
            "study": True,
            "relations": {"__all__": {"title"}},
        }
        n_users, n_items = split_contexts[0].split.shape
        return flatten_params(
            {
                **config.model_dump(mode="json", exclude_unset=True, exclude=excluded),
                "study": config.study.model_dump(mode="json"),
                "line-up": [m.name for m in config.models],
                "smoke": self._data.smoke,
                "n_users": n_users,
                "n_items": n_items,
                "fingerprint": {f"seed {b.seed}": b.split.fingerprint for b in split_contexts},
                "machine": machine(),
            }
        )

    def _log_cell(self, runs: StudyRuns, key: str) -> None:
        if runs.finished(key):
            return
        cell, folder = self._cells[key], self._out / "cells" / key
        result, at = load_cell(folder), self._done_at(key)
        run = runs.cell(key, f"{result.model} · {result.arm} · seed {result.seed}", at - int(1000 * result.seconds))
        runs.add_params(run, _params(cell, result))
        runs.add_metrics(run, [*_metrics(cell, result), *_curve(cell, result)], at)
        runs.client.log_artifact(run, str(folder / "users.parquet"))
        runs.end(run, at=at)

    def _log_study(self, runs: StudyRuns, result: StudyResult, page: Path, winner: FittedRun) -> None:
        client, run = runs.client, runs.run
        model, arm = winner.note["name"], winner.note["arm"]
        runs.add_metrics(run, _metrics_of_winner(result, model, arm), max(map(self._done_at, self._finished())))
        summary = answer(result)
        about = "\n\n".join(text for text in (summary, self._config.title, self._config.description) if text)
        for tag, value in (("winner.model", model), ("winner.arm", arm), ("mlflow.note.content", about)):
            client.set_tag(run, tag, value)
        for path in (self._file, page, self._out / "card.json"):
            client.log_artifact(run, str(path))
        for table in fields(result):
            if table.name != "card":
                client.log_artifact(run, str(self._out / f"{table.name}.parquet"), "tables")
        verdicts = [f"{v['model']}: {v['sentence']}" for v in result.verdicts.iter_rows(named=True)]
        client.log_text(run, "\n".join([summary, *verdicts, ""]), "verdicts.txt")
        runs.end(run)

    def _finished(self) -> list[str]:
        """Keys of the cells that have a result."""
        return [key for key in self._cells if cell_exists(self._out / "cells" / key)]

    def _done_at(self, key: str) -> int:
        """When a cell was finished, in ms: a metric that is logged again at the same time is not duplicated."""
        return int((self._out / "cells" / key / "cell.json").stat().st_mtime * 1000)


def _params(cell: Cell, result: CellResult) -> dict[str, str]:
    """The cell's identity and its chosen hyper-parameters."""
    trained = issubclass(MODELS[cell.model.kind], Trained)
    return flatten_params(
        {
            "model": result.model,
            "arm": result.arm,
            "seed": result.seed,
            "relations": list(cell.arm.relations),
            "trials": len(result.trials),
            "tuning finished": result.converged,
            "metric": cell.study.metric,
            "fingerprint": cell.split_context.split.fingerprint,
            "config": result.chosen,
            **({"train": asdict(cell.initial_config()[1])} if trained else {}),
        }
    )


def _metrics(cell: Cell, result: CellResult) -> list[Point]:
    """Test metrics, the validation metric, and costs in seconds and MB, without NaN."""
    test = {f"{ACCURACY}/{mlflow_name(name)}": value for name, value in result.evaluation.summary.items()}
    valid = {f"{VALID}/{mlflow_name(cell.study.metric)}": result.valid_metric}
    cost = {f"{COST}/{part if part == 'peak_mb' else f'{part}_seconds'}": v for part, v in result.cost.items()}
    return [(name, float(value), 0) for name, value in (test | valid | cost).items() if not math.isnan(value)]


def _curve(cell: Cell, result: CellResult) -> list[Point]:
    """The learning curve by epoch: loss and validation metric."""
    if result.history is None:
        return []
    names = {"loss": f"{CURVE}/loss", "metric": f"{CURVE}/{mlflow_name(cell.study.metric)}"}
    return [
        (name, float(row[column]), row["epoch"])
        for row in result.history.iter_rows(named=True)
        for column, name in names.items()
        if row[column] is not None
    ]


def _metrics_of_winner(result: StudyResult, model: str, arm: str) -> list[Point]:
    """The winner's row of the leaderboard."""
    row: dict[str, Any] = result.leaderboard.row(
        by_predicate=(pl.col("model") == model) & (pl.col("arm") == arm), named=True
    )
    metric = mlflow_name(result.card["metric"])
    names = {
        "mean": f"{ACCURACY}/{metric}",
        "low": f"{ACCURACY}/{metric}_low",
        "high": f"{ACCURACY}/{metric}_high",
        "valid": f"{VALID}/{metric}",
        "seconds": f"{COST}/seconds",
        "peak_mb": f"{COST}/peak_mb",
    }
    skipped = ("model", "arm", "n_seeds", "below_ease")
    values = {names.get(k, f"{ACCURACY}/{mlflow_name(k)}"): value for k, value in row.items() if k not in skipped}
    return [(name, float(value), 0) for name, value in values.items() if value is not None]
