"""Searching hyper-parameters with Optuna: every model and arm gets the same number of trials, judged on validation.

Trials live in one SQLite file, one Optuna study per cell under a hash of all that its trials depend on, so changed
data or settings begin a search of their own. Trial 0 is the defaults. What trial n tries depends on the seed, n and
the trials before it alone, so a search that was killed goes on as if it had not been: its unfinished trial is taken
up again, a trained model from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from relrank.errors import InputError, did_you_mean
from relrank.evaluation.evaluate import mean_metric
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import hops
from relrank.io.manifest import first_line
from relrank.models import MODELS, GridParameter
from relrank.models.core.base import override_config
from relrank.models.core.space import Choice, Range, Value
from relrank.parallel.memory import is_out_of_memory
from relrank.study.cell import Cell
from relrank.study.config import ArmKind, StudyConfig
from relrank.study.fit_cell import fit_cell
from relrank.study.folder import study_folder
from relrank.study.grid import arms_of, relations_read_by
from relrank.study.leaks import leaks_of, refuse_leaks
from relrank.study.memory_limits import refuse_too_large
from relrank.study.prepare import StudyData
from relrank.training import TrainConfig

if TYPE_CHECKING:
    import optuna

FORMAT = 2
"""Goes up where what is stored of a trial changes; trials of another format are not found."""
TRIALS = 30
"""Configurations per model and arm, by default."""
RANDOM_TRIALS = 10
"""Trials at random before earlier ones are learned from (Optuna's own default)."""
PRUNER_STARTUP_TRIALS = 5
"""Complete trials before one may be pruned (Optuna's own default)."""
UNPRUNED_SHARE = 1 / 3
"""Share of the epochs that no trial is pruned in: early curves lie flat on the level of popularity."""
ARMS: tuple[ArmKind, ...] = ("interactions", "all")
"""Arms that are searched where the study file names none."""

State = Literal["complete", "pruned", "failed"]
STATES: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
Dimension = GridParameter | Range | Choice
Values = dict[str, Value]


@dataclass(frozen=True, slots=True)
class OptunaTrial:
    """One configuration that was tried.

    Attributes:
        number: place in the search; 0 is the defaults.
        state: a trial that was pruned, or that failed, cannot be chosen.
        values: name → value of what is searched; names that do not matter at the other values are left out.
        metric: on validation, higher is better; None unless complete.
        seconds: it took, in the process that finished it.
        error: why it failed, else "".
    """

    number: int
    state: State
    values: Values
    metric: float | None
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ArmSearch:
    """The search of one model and arm.

    Attributes:
        cell: model, arm, split.
        trials: in the order in which they were made.
    """

    cell: Cell
    trials: tuple[OptunaTrial, ...]

    @property
    def best(self) -> OptunaTrial | None:
        """The complete trial with the highest metric, the earliest of several; None if there is none."""
        complete = [(-t.metric, t.number, t) for t in self.trials if t.metric is not None]
        return min(complete)[2] if complete else None

    def count(self, state: State) -> int:
        """Trials that ended so."""
        return sum(t.state == state for t in self.trials)


class SearchCallback(Protocol):
    """Sees a search go by."""

    def plan(self, cells: Sequence[Cell], trials: int, finished: dict[tuple[str, str], int]) -> None:
        """Cells to come, of so many trials each; how many were made earlier, by model and arm."""

    def start(self, cell: Cell) -> None:
        """A cell's search begins, or goes on."""

    def on_status(self, message: str) -> None:
        """What the running trial is doing."""

    def trial_done(self, attempt: OptunaTrial) -> None:
        """A trial is over."""

    def done(self, search: ArmSearch) -> None:
        """A cell's search is over."""


def load_optuna() -> Any:
    """The optuna module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
        import tomli_w  # noqa: F401
    except ImportError as error:
        raise InputError(
            "optuna is not installed", where="relrank tune", expected='pip install "relrank[tune]"', found=str(error)
        ) from None
    return optuna


def search_study(
    config: StudyConfig,
    material: StudyData,
    out: Path,
    trials: int = TRIALS,
    models: Sequence[str] = (),
    seed: int = 0,
    callback: SearchCallback | None = None,
) -> list[ArmSearch]:
    """Search every model and arm on the first split seed; every trial is kept in ``out/tuning.db``.

    Args:
        config: the study.
        material: its data, from ``prepare``; only the first split is looked at.
        out: the study's folder; trials found there count.
        trials: per model and arm.
        models: only these; by default all that have something to search. Others keep what was found earlier, if that
            search had as many trials.
        seed: of the search.
        callback: told of every trial.

    Returns:
        The searches, those of earlier runs among them.

    Raises:
        LeakError: the audit found a leak that the study file does not accept.
        InputError: optuna is not installed, a model is not in the study or does not fit into memory, nothing to
            search, ``tuning.db`` is something else or damaged; the folder is another study's, or in use.
    """
    optuna = load_optuna()
    refuse_leaks(leaks_of(material.findings), config.study.accept_leaks)
    cells = cells_to_search(config, material, models)
    for cell in cells:
        if not models or cell.model.name in models:
            refuse_too_large(replace(cell, model=cell.model.model_copy(update={"trials": 1})))  # as trial 0 has it
    with study_folder(out, config, material.smoke), _quiet(optuna), _storage_errors(out / "tuning.db"):
        storage = _open(optuna, out / "tuning.db")
        earlier = [_load(optuna, cell, seed, storage)[:trials] for cell in cells]
        mine = [not models or cell.model.name in models for cell in cells]
        if callback:
            planned = [(c, len(made)) for c, made, own in zip(cells, earlier, mine, strict=True) if own]
            callback.plan([c for c, _ in planned], trials, {(c.model.name, c.arm.name): n for c, n in planned})
        found = []
        for cell, made, own in zip(cells, earlier, mine, strict=True):
            if own:
                found.append(_search(optuna, cell, trials, seed, storage, out / "tuning.checkpoints", callback))
            elif len(made) == trials:
                found.append(ArmSearch(cell, tuple(made)))
        shutil.rmtree(out / "tuning.checkpoints", ignore_errors=True)
    return found


def cells_to_search(config: StudyConfig, material: StudyData, models: Sequence[str] = ()) -> list[Cell]:
    """Models with something to search × arms, on the first split.

    Raises:
        InputError: one of ``models`` is not in the study or has nothing to search; or no model has.
    """
    cells = []
    for model in config.models:
        section = model.model_copy(update={"arms": model.arms or ARMS})
        first = material.split_contexts[0]
        for arm in arms_of(section, relations_read_by(section, config, first), hops(first.graph)):
            cell = Cell(section, arm, first, config.study)
            if dimensions(cell, cell.graph):
                cells.append(cell)
    there = sorted({c.model.name for c in cells})
    missing = sorted(set(models) - set(there))
    if missing or not there:
        raise InputError(
            "nothing to search",
            where="relrank tune",
            expected=f"among {', '.join(there)}" if there else "a model with settings that the file does not hold",
            found=", ".join(map(repr, missing)) + did_you_mean(missing[0], there) if missing else "none",
        )
    return cells


def dimensions(cell: Cell, graph: Graph) -> list[Dimension]:
    """What is searched: the model's space without what the study file holds."""
    found = [d for d in MODELS[cell.model.kind].space(graph) if not cell.is_fixed(d.name)]
    # what all arms have comes first, so that they see the same random values
    return sorted(found, key=lambda d: d.name.startswith("weights."))


def default_of(config: Any, train: TrainConfig, name: str) -> Any:
    """The value that a configuration has for a name of a space."""
    field, _, entry = name.partition(".")
    if field == "train":
        return getattr(train, entry)
    value = getattr(config, field)
    return value.get(entry, config.weight) if entry else value


def applied(config: Any, train: TrainConfig, values: Values, where: str) -> tuple[Any, TrainConfig]:
    """Both configurations with the values of a trial."""
    own = {name: v for name, v in values.items() if not name.startswith("train.")}
    of_train = {name.removeprefix("train."): v for name, v in values.items() if name not in own}
    return override_config(config, own, where), override_config(train, of_train, f"{where}, train")


@dataclass(frozen=True, slots=True)
class _Axis:
    """A dimension as Optuna is asked for it: a ladder by place, so that the order of its values is known."""

    of: Dimension
    default: Any

    @property
    def name(self) -> str:
        return f"{self.of.name}, place" if isinstance(self.of, GridParameter) else self.of.name

    @property
    def values(self) -> list[Any]:
        if isinstance(self.of, GridParameter):
            return sorted({*self.of.grid_values, self.default})
        return list(dict.fromkeys([*getattr(self.of, "values", ()), self.default]))

    def stored(self, value: Any) -> Any:
        """What Optuna knows a value as."""
        return self.values.index(value) if isinstance(self.of, GridParameter) else value

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value, chosen by Optuna."""
        d = self.of
        if isinstance(d, GridParameter):
            return self.values[trial.suggest_int(self.name, 0, len(self.values) - 1)]
        if isinstance(d, Choice):
            return trial.suggest_categorical(d.name, self.values)
        low, high = min(d.low, self.default), max(d.high, self.default)
        if isinstance(d.low, int) and isinstance(d.high, int):
            return trial.suggest_int(d.name, int(low), int(high), step=int(d.step or 1), log=d.log)
        return trial.suggest_float(d.name, low, high, step=d.step, log=d.log)


def _axes(cell: Cell, graph: Graph) -> list[_Axis]:
    config, train = cell.start()
    return [_Axis(d, default_of(config, train, d.name)) for d in dimensions(cell, graph)]


def _suggest(trial: optuna.Trial, axes: Sequence[_Axis], config: Any, train: TrainConfig) -> Values:
    values: Values = {}
    for axis in axes:
        when = None if isinstance(axis.of, GridParameter) else axis.of.when
        if when is None or values.get(when[0], default_of(config, train, when[0])) in when[1]:
            values[axis.of.name] = axis.suggest(trial)
    return values


def _name(cell: Cell, axes: Sequence[_Axis], seed: int) -> str:
    """Hash of all that the trials depend on; what only the final evaluation needs is left out."""
    identity = {k: v for k, v in cell.identity().items() if k not in ("format", "trials", "ks", "beside", "refit")}
    space = [repr(axis) for axis in axes]
    rules = [FORMAT, RANDOM_TRIALS, PRUNER_STARTUP_TRIALS, UNPRUNED_SHARE]
    text = json.dumps([identity, space, rules, seed], sort_keys=True)
    return f"{cell.model.name}, {cell.arm.name}, {hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _load(optuna: Any, cell: Cell, seed: int, storage: Any) -> list[OptunaTrial]:
    """Finished trials of a cell."""
    name = _name(cell, _axes(cell, cell.graph), seed)
    if name not in optuna.get_all_study_names(storage):
        return []
    return _attempts(optuna.load_study(study_name=name, storage=storage))


def _attempts(study: optuna.Study) -> list[OptunaTrial]:
    found = []
    try:
        for t in study.get_trials(deepcopy=False):
            if t.state.is_finished():
                state = STATES[t.state.name]
                metric, values, end = (
                    t.value if state == "complete" else None,
                    t.user_attrs["values"],
                    t.user_attrs["end"],
                )
                if t.user_attrs["sha256"] != _seal(t, state, metric):
                    raise ValueError(f"trial {t.number} was changed")
                found.append(OptunaTrial(t.number, state, values, metric, end["seconds"], end["error"]))
    except (LookupError, TypeError, ValueError) as error:
        raise _not_trials(study.study_name, error) from None
    return found


def _seal(trial: optuna.trial.FrozenTrial, state: State, metric: float | None) -> str:
    """sha256 of all that a trial says, and that later trials learn from."""
    attributes = {name: trial.user_attrs[name] for name in ("values", "end")}
    curve = sorted(trial.intermediate_values.items())
    said = [trial.number, trial.params, attributes, curve, state, metric]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _search(
    optuna: Any, cell: Cell, trials: int, seed: int, storage: Any, checkpoints: Path, callback: SearchCallback | None
) -> ArmSearch:
    """One cell's search, up to so many finished trials."""
    graph, (config, train) = cell.graph, cell.start()
    axes = _axes(cell, graph)
    name = _name(cell, axes, seed)
    if callback:
        callback.start(cell)
    pruner = optuna.pruners.MedianPruner(PRUNER_STARTUP_TRIALS, math.ceil(train.epochs * UNPRUNED_SHARE))
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    for start in _starts(axes)[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(start)
    while len(made := _attempts(study)) < trials:
        running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        number = running[0].number if running else len(made)
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS, seed=own_seed)
        trial = optuna.trial.Trial(study, running[0]._trial_id) if running else study.ask()
        values = _suggest(trial, axes, config, train)
        if callback:
            callback.on_status(f"trial {number + 1} of {trials}")
        began = time.perf_counter()
        state, metric, error = optuna.trial.TrialState.COMPLETE, None, ""
        try:
            metric = next((t.metric for t in made if t.state == "complete" and t.values == values), None)
            if metric is None:
                folder = checkpoints / name.rpartition(" ")[2] / str(number)
                metric = _measure(optuna, cell, graph, trial, applied(config, train, values, name), folder, callback)
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except InputError as failure:
            state, error = optuna.trial.TrialState.FAIL, " ".join(str(failure).split())
        except (MemoryError, RuntimeError) as failure:
            if not is_out_of_memory(failure):
                raise
            state, error = optuna.trial.TrialState.FAIL, " ".join(str(failure).split())
        trial.set_user_attr("values", values)
        trial.set_user_attr("end", {"seconds": time.perf_counter() - began, "error": error})
        stored = study.get_trials(deepcopy=False)[trial.number]
        trial.set_user_attr("sha256", _seal(stored, STATES[state.name], metric))
        study.tell(trial, metric, state)
        if callback:
            callback.trial_done(_attempts(study)[-1])
    search = ArmSearch(cell, tuple(made[:trials]))
    if callback:
        callback.done(search)
    return search


def _starts(axes: Sequence[_Axis]) -> list[dict[str, Any]]:
    """The defaults; then, where ladders start elsewhere, as relation weights do at 0, those starts."""
    defaults = {a.name: a.stored(a.default) for a in axes}
    ladders = {a.name: a.stored(a.of.start) for a in axes if isinstance(a.of, GridParameter)}
    return [defaults, {**defaults, **ladders}][: 1 if {**defaults, **ladders} == defaults else 2]


def _measure(
    optuna: Any,
    cell: Cell,
    graph: Graph,
    trial: optuna.Trial,
    settings: tuple[Any, TrainConfig],
    folder: Path,
    callback: SearchCallback | None,
) -> float:
    """Validation metric of one configuration; epochs of a trained model are reported, and may end the trial."""
    config, train = settings

    def on_validation(epoch: int, metric: float) -> None:
        trial.report(metric, epoch)
        if trial.number and trial.should_prune():
            raise optuna.TrialPruned

    def on_status(message: str) -> None:
        if callback:
            callback.on_status(f"trial {trial.number + 1}: {message}")

    if trial.number and trial.should_prune():  # killed between its last report and its end
        raise optuna.TrialPruned
    try:
        model, _ = fit_cell(cell, graph, config, folder, on_status, train, on_validation)
        metric = mean_metric(model, cell.split_context.split, cell.study.metric)
    except Exception:  # an interruption is none: its checkpoints are needed
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    if not math.isfinite(metric):
        raise InputError("metric is not finite", where=cell.study.metric, expected="a number", found=str(metric))
    return metric


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna's own messages off, as they were before afterwards: the watcher says what is to be said."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _open(optuna: Any, path: Path) -> Any:
    from sqlalchemy.engine import URL

    # a name may hold what means something in an address (?), or in the template that Optuna takes it for ({})
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
    except Exception as error:  # a damaged value may be wrong in any way to any of the libraries that read it
        raise _not_trials(path, error) from None
    return storage


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """What a damaged database makes Optuna, SQLAlchemy and SQLite raise, as one error."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        said = f"{error} {error.__cause__ or ''}"
        if "disk is full" in said or "disk I/O error" in said or "unable to open" in said:
            raise InputError(
                "trials cannot be kept",
                where=str(path),
                expected="a disk that can be written to and has room",
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
