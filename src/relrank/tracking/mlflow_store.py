"""One study's runs in an MLflow tracking store, found by their tags or created."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relrank.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

STUDY, CELL, PARENT = "relrank.study", "relrank.cell", "mlflow.parentRunId"
"""Tags: hash of the study on its run, key of the cell on a child run, and MLflow's own link to the parent run."""

MAX_PARAMS, MAX_METRICS, MAX_RUNS, MAX_NAME_LENGTH = 100, 1000, 50_000, 250
"""MLflow's limits for logging and searching in one call, and for the length of names."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the default of 7 takes four minutes
}
"""Environment variables for MLflow; values set already are respected."""

Point = tuple[str, float, int]
"""Name, value, step."""


def load_mlflow() -> Any:
    """The mlflow module, without telemetry and log messages.

    Raises:
        InputError: mlflow, or a database library that it needs, is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import alembic  # noqa: F401  without it and sqlalchemy, mlflow cannot open databases
        import mlflow.tracking
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise InputError(
            "mlflow is not installed",
            where="relrank study --track mlflow",
            expected='pip install "relrank[mlflow]"',
            found=str(error),
        ) from None
    return mlflow


def redact_credentials(text: object) -> str:
    """The first line of a text or an error, without passwords of URLs.

    Passwords may be unescaped, so everything before the last @ of a URL is removed.
    """
    line = re.sub(r"(?<=://)\S*@", "", str(text).strip().partition("\n")[0])
    return re.sub(r"(?i)(password|passwd|pwd|token|secret)=[^&\s]*", r"\1=…", line)


class StudyRuns:
    """The run of a study and the child runs of its cells.

    Args:
        uri: MLflow's tracking URI.
        experiment: name of the experiment, created if missing. With an SQLite file, artifacts go to the folder
            ``mlruns`` next to it, otherwise where the store puts them.
        study: hash of the study, by which its run is found.

    Raises:
        InputError: the URI is not a tracking store, or a library that it needs is not installed.
        Exception: the store does not respond, or refuses.
    """

    def __init__(self, uri: str, experiment: str, study: str) -> None:
        try:
            self._open(uri, experiment, study)
        except ImportError as error:  # such as a database driver or an artifact store
            raise InputError(
                "a library that the tracking store needs is missing",
                where="relrank study --tracking-uri",
                expected=f"pip install {error.name or 'the library'}",
                found=redact_credentials(error),
            ) from None

    def _open(self, uri: str, experiment: str, study: str) -> None:
        folder = _sqlite_folder(uri)
        self.client = _client(uri)
        existing = self.client.get_experiment_by_name(experiment)
        location = None if folder is None else (folder / "mlruns" / experiment).as_uri()
        self._experiment = existing.experiment_id if existing else self.client.create_experiment(experiment, location)
        runs = self._search(STUDY, study)
        if runs:
            self.run = runs[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
        else:
            run = self.client.create_run(self._experiment, tags={STUDY: study}, run_name=experiment)
            self.run = run.info.run_id
        self.client.list_artifacts(self.run)  # loads the libraries of the artifact store before anything is fitted
        self._cells = {run.data.tags[CELL]: run for run in self._search(PARENT, self.run)}

    def finished(self, key: str) -> bool:
        """Whether a cell is completely logged."""
        return key in self._cells and self._cells[key].info.status == "FINISHED"

    def cell(self, key: str, title: str, began: int) -> str:
        """Id of a cell's run, created if missing; ``began`` is its start in ms."""
        if key not in self._cells:
            tags = {CELL: key, PARENT: self.run}
            self._cells[key] = self.client.create_run(self._experiment, began, tags, title)
        return str(self._cells[key].info.run_id)

    def end(self, run: str, status: str = "FINISHED", at: int | None = None) -> None:
        """End a run ``at`` ms, by default now."""
        self.client.set_terminated(run, status, at)

    def add_params(self, run: str, params: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet: MLflow parameters cannot be changed."""
        from mlflow.entities import Param

        logged = self.client.get_run(run).data.params
        for batch in _batches([Param(k, v) for k, v in params.items() if k not in logged], MAX_PARAMS):
            self.client.log_batch(run, params=batch)

    def add_metrics(self, run: str, points: Iterable[Point], at: int) -> None:
        """Log metrics by step; logging again ``at`` the same ms adds nothing."""
        from mlflow.entities import Metric

        for batch in _batches([Metric(name, value, at, step) for name, value, step in points], MAX_METRICS):
            self.client.log_batch(run, metrics=batch)

    def _search(self, tag: str, value: str) -> list[Run]:
        return list(self.client.search_runs([self._experiment], f"tags.`{tag}` = '{value}'", max_results=MAX_RUNS))


def flatten_params(settings: Any, name: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters, such as ``models.ease.trials``; lists of tables by name or index.

    Text stays text, every other value becomes JSON. Clashing names get a suffix.
    """
    params: dict[str, str] = {}
    for path, value in _leaves(settings, name):
        key = mlflow_name(path)
        while key in params:
            key += "_"
        params[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return params


def mlflow_name(name: str) -> str:
    """A name that MLflow accepts: ``@`` becomes ``_at_``, other invalid characters become ``_``."""
    return re.sub(r"[^\w.\- :]", "_", name.replace("@", "_at_"))[:MAX_NAME_LENGTH]


def _leaves(settings: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping):
        parts: Iterable[tuple[str, Any]] = settings.items()
    elif isinstance(settings, list) and settings and all(isinstance(part, Mapping) for part in settings):
        named = ((str(part.get("name", index)), part) for index, part in enumerate(settings))
        parts = ((key, {k: v for k, v in part.items() if k != "name"}) for key, part in named)
    else:
        yield name, settings
        return
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    try:
        return MlflowClient(uri)
    except UnsupportedModelRegistryStoreURIException:
        raise InputError(
            "not a tracking store",
            where="relrank study --tracking-uri",
            found=redact_credentials(uri),
            expected="such as sqlite:///mlflow.db, or http://… of an MLflow server",
        ) from None


def _sqlite_folder(uri: str) -> Path | None:
    """Folder of an SQLite file, checked here since MLflow would retry for minutes; None for other stores."""
    from sqlalchemy.engine import make_url

    if not uri.startswith("sqlite:"):
        return None
    path = Path(make_url(uri).database or "").absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
    except (OSError, sqlite3.Error) as error:
        raise InputError(
            "not an SQLite database",
            where="relrank study --tracking-uri",
            expected="sqlite:///FILE",
            found=redact_credentials(f"{uri}: {error}"),
        ) from None
    return path.parent
