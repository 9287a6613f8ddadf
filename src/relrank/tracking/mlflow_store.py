"""One study's runs in an MLflow tracking store: found by their tags or made, never made twice."""

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
"""Tags: hash of the study on its run, key of the cell on a run below it, and MLflow's own from there to the study."""

MOST_PARAMS, MOST_METRICS, MOST_RUNS, LONGEST_NAME = 100, 1000, 50_000, 250
"""What MLflow takes in one call, gives in one call, and lets a name be long."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its own 7 are four minutes of silence
}
"""Read by MLflow; whoever set them already is heard."""

Point = tuple[str, float, int]
"""Name, value, step."""


def load_mlflow() -> Any:
    """The mlflow module, without telemetry and chatter.

    Raises:
        InputError: it, or the database library that it needs, is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import alembic  # noqa: F401  without these two mlflow has no databases, and does not say so
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
    """The first line of a text or an error, without the password of any address in it.

    Passwords need not be escaped as they ought to be: all up to the last @ of an address goes.
    """
    line = re.sub(r"(?<=://)\S*@", "", str(text).strip().partition("\n")[0])
    return re.sub(r"(?i)(password|passwd|pwd|token|secret)=[^&\s]*", r"\1=…", line)


class StudyRuns:
    """The run of a study, and below it the runs of its cells.

    Args:
        uri: MLflow's tracking URI.
        experiment: name of the experiment; made if it is not there. Beside an SQLite file its artifacts go to the
            folder ``mlruns``, else where the store puts them.
        study: hash of the study, by which its run is found.

    Raises:
        InputError: there can be no tracking store under this URI, or a library that it needs is not installed.
        Exception: any other: the store does not answer, or refuses.
    """

    def __init__(self, uri: str, experiment: str, study: str) -> None:
        try:
            self._join(uri, experiment, study)
        except ImportError as error:  # such as of a database's driver, or of the store of artifacts
            raise InputError(
                "a library that the tracking store needs is missing",
                where="relrank study --tracking-uri",
                expected=f"pip install {error.name or 'it'}",
                found=redact_credentials(error),
            ) from None

    def _join(self, uri: str, experiment: str, study: str) -> None:
        home = _sqlite_folder(uri)
        self.client = _client(uri)
        found = self.client.get_experiment_by_name(experiment)
        place = None if home is None else (home / "mlruns" / experiment).as_uri()
        self._experiment = found.experiment_id if found else self.client.create_experiment(experiment, place)
        there = self._search(STUDY, study)
        if there:
            self.run = there[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
        else:
            made = self.client.create_run(self._experiment, tags={STUDY: study}, run_name=experiment)
            self.run = made.info.run_id
        self.client.list_artifacts(self.run)  # loads what their store needs, before anything is fitted
        self._cells = {run.data.tags[CELL]: run for run in self._search(PARENT, self.run)}

    def finished(self, key: str) -> bool:
        """Whether a cell is logged whole."""
        return key in self._cells and self._cells[key].info.status == "FINISHED"

    def cell(self, key: str, title: str, began: int) -> str:
        """Id of a cell's run, to log to; one that was left half logged is gone on with. ``began`` in ms."""
        if key not in self._cells:
            tags = {CELL: key, PARENT: self.run}
            self._cells[key] = self.client.create_run(self._experiment, began, tags, title)
        return str(self._cells[key].info.run_id)

    def end(self, run: str, status: str = "FINISHED", at: int | None = None) -> None:
        """Close a run, ``at`` ms, by default now."""
        self.client.set_terminated(run, status, at)

    def add_params(self, run: str, params: Mapping[str, str]) -> None:
        """Parameters that the run lacks: MLflow never lets one be changed."""
        from mlflow.entities import Param

        there = self.client.get_run(run).data.params
        for some in _pieces([Param(k, v) for k, v in params.items() if k not in there], MOST_PARAMS):
            self.client.log_batch(run, params=some)

    def add_metrics(self, run: str, points: Iterable[Point], at: int) -> None:
        """Metrics, and curves as points by step; the same ones ``at`` the same ms are there once."""
        from mlflow.entities import Metric

        for some in _pieces([Metric(name, value, at, step) for name, value, step in points], MOST_METRICS):
            self.client.log_batch(run, metrics=some)

    def _search(self, tag: str, value: str) -> list[Run]:
        return list(self.client.search_runs([self._experiment], f"tags.`{tag}` = '{value}'", max_results=MOST_RUNS))


def flatten_params(said: Any, name: str = "") -> dict[str, str]:
    """Nested settings as MLflow's parameters, such as ``models.ease.trials``; lists of tables by name, else place.

    Text stays text, every other value is JSON. No two settings get one name.
    """
    params: dict[str, str] = {}
    for path, value in _leaves(said, name):
        key = mlflow_name(path)
        while key in params:
            key += "_"
        params[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return params


def mlflow_name(name: str) -> str:
    """A name that MLflow takes: ``@`` becomes ``_at_``, whatever else it refuses ``_``."""
    return re.sub(r"[^\w.\- :]", "_", name.replace("@", "_at_"))[:LONGEST_NAME]


def _leaves(said: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(said, Mapping):
        parts: Iterable[tuple[str, Any]] = said.items()
    elif isinstance(said, list) and said and all(isinstance(part, Mapping) for part in said):
        named = ((str(part.get("name", place)), part) for place, part in enumerate(said))
        parts = ((key, {k: v for k, v in part.items() if k != "name"}) for key, part in named)
    else:
        yield name, said
        return
    for key, part in parts:
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _pieces(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), most):
        yield values[start : start + most]


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
    """Where an SQLite file lies; None for other stores. MLflow would try for minutes to open one that it cannot."""
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
