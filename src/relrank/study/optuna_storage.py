"""Trials of a search in one SQLite file: one Optuna study per cell, each trial with a checksum."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from relrank.errors import InputError
from relrank.io.manifest import first_line
from relrank.study.cell import Cell
from relrank.study.search_space import Axis, Values, axes_of

if TYPE_CHECKING:
    import optuna

FORMAT = 2
"""Version of a stored trial; trials of another version are ignored."""
RANDOM_TRIALS = 10
"""Random trials before the sampler learns from earlier ones (Optuna's default)."""
PRUNER_STARTUP_TRIALS = 5
"""Complete trials before one may be pruned (Optuna's default)."""
UNPRUNED_SHARE = 1 / 3
"""Share of the epochs in which no trial is pruned: early in training all curves are near the popularity baseline."""

State = Literal["complete", "pruned", "failed"]
STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass(frozen=True, slots=True)
class OptunaTrial:
    """One configuration that was tried.

    Attributes:
        number: index in the search; 0 is the defaults.
        state: only a complete trial can be chosen.
        values: value by dimension; without dimensions that have no effect at the other values.
        metric: on validation, higher is better; None unless complete.
        seconds: in the process that finished it.
        error: why it failed, else "".
    """

    number: int
    state: State
    values: Values
    metric: float | None
    seconds: float
    error: str = ""


def study_name(cell: Cell, axes: Sequence[Axis], seed: int) -> str:
    """Optuna's name of a cell's search, with a hash of everything that its trials depend on."""
    # what only the final evaluation or the search of a study depends on
    only_final = ("format", "trials", "ks", "beside", "refit", "final", "without")
    identity = {k: v for k, v in cell.identity().items() if k not in only_final}
    space = [axis.identity for axis in axes]
    rules = [FORMAT, RANDOM_TRIALS, PRUNER_STARTUP_TRIALS, UNPRUNED_SHARE]
    text = json.dumps([identity, space, rules, seed], sort_keys=True)
    return f"{cell.model.name}, {cell.arm.name}, {hashlib.sha256(text.encode()).hexdigest()[:20]}"


def open_storage(optuna: Any, path: Path) -> Any:
    """Open or create the database.

    Raises:
        InputError: it is not a database of trials, or damaged.
    """
    from sqlalchemy.engine import URL

    # the path may contain characters with a meaning in a URL (?), or in Optuna's template ({})
    address = str(URL.create("sqlite", database=str(path))).replace("{", "{{").replace("}", "}}")
    try:
        with closing(sqlite3.connect(path)) as database:
            (state,) = database.execute("PRAGMA integrity_check").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(state)
        storage = optuna.storages.RDBStorage(address)
        for study in storage.get_all_studies():
            storage.get_all_trials(study._study_id, deepcopy=False)
    except OSError:
        raise
    except Exception as error:  # a damaged value may raise anything in any of the libraries that read it
        raise _not_trials(path, error) from None
    return storage


def load_trials(optuna: Any, cell: Cell, seed: int, storage: Any) -> list[OptunaTrial]:
    """Finished trials of a cell."""
    name = study_name(cell, axes_of(cell, cell.graph), seed)
    if name not in optuna.get_all_study_names(storage):
        return []
    return finished_trials(optuna.load_study(study_name=name, storage=storage))


def finished_trials(study: optuna.Study) -> list[OptunaTrial]:
    """Finished trials of an Optuna study.

    Raises:
        InputError: a trial was changed.
    """
    trials = []
    try:
        for t in study.get_trials(deepcopy=False):
            if t.state.is_finished():
                state = STATES[t.state.name]
                metric = t.value if state == "complete" else None
                values, end = t.user_attrs["values"], t.user_attrs["end"]
                if t.user_attrs["sha256"] != trial_checksum(t, state, metric):
                    raise ValueError(f"trial {t.number} was changed")
                trials.append(OptunaTrial(t.number, state, values, metric, end["seconds"], end["error"]))
    except (LookupError, TypeError, ValueError) as error:
        raise _not_trials(study.study_name, error) from None
    return trials


def trial_checksum(trial: optuna.trial.FrozenTrial, state: State, metric: float | None) -> str:
    """sha256 over everything in a trial that later trials depend on."""
    attributes = {name: trial.user_attrs[name] for name in ("values", "end")}
    curve = sorted(trial.intermediate_values.items())
    content = [trial.number, trial.params, attributes, curve, state, metric]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise errors of Optuna, SQLAlchemy and SQLite on a damaged database as ``InputError``."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        text = f"{error} {error.__cause__ or ''}"
        if "disk is full" in text or "disk I/O error" in text or "unable to open" in text:
            raise InputError(
                "trials cannot be written",
                where=str(path),
                expected="a writable disk with free space",
                found=first_line(error),
            ) from None
        raise _not_trials(path, error) from None


def _not_trials(path: Path | str, error: Exception) -> InputError:
    return InputError(
        "not a database of trials",
        where=str(path),
        expected="a file that relrank tune wrote, or none",
        found=first_line(error),
    )
