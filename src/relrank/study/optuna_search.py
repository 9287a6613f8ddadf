"""Hyper-parameter search with Optuna: the same number of trials for every model and arm, evaluated on validation.

Trials are stored in one SQLite file (``optuna_storage``), under a hash of everything that they depend on, so that
changed data or settings start a new search. Trial 0 is the defaults. Trial n depends only on the seed, n and the
earlier trials, so a killed search continues as if it had not been interrupted: its unfinished trial is resumed, for a
trained model from its last checkpoint.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from relrank.errors import InputError, did_you_mean
from relrank.evaluation.evaluate import mean_metric
from relrank.graph.relation_chains import hops
from relrank.parallel.memory import is_out_of_memory
from relrank.study import optuna_storage
from relrank.study.cell import Cell
from relrank.study.config import ArmKind, StudyConfig
from relrank.study.fit_cell import fit_cell
from relrank.study.folder import study_folder
from relrank.study.grid import arms_of, relations_read_by
from relrank.study.leaks import leaks_of, refuse_leaks
from relrank.study.memory_limits import refuse_too_large
from relrank.study.optuna_storage import STATES, OptunaTrial, State, finished_trials
from relrank.study.prepare import StudyData
from relrank.study.search_space import applied, axes_of, dimensions, start_points, suggest_values
from relrank.training import TrainConfig

if TYPE_CHECKING:
    import optuna

TRIALS = 30
"""Default number of configurations per model and arm."""
ARMS: tuple[ArmKind, ...] = ("interactions", "all")
"""Arms that are searched if the study file names none."""


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
        """The complete trial with the highest metric, the earliest of several; None without any."""
        complete = [(-t.metric, t.number, t) for t in self.trials if t.metric is not None]
        return min(complete)[2] if complete else None

    def count(self, state: State) -> int:
        """Number of trials in a state."""
        return sum(t.state == state for t in self.trials)


class SearchCallback(Protocol):
    """Receives the events of a search."""

    def plan(self, cells: Sequence[Cell], trials: int, finished: dict[tuple[str, str], int]) -> None:
        """Cells to search, trials of each, and how many of them exist, by model and arm.

        A search with a limit of time is planned twice: for the first trial of every cell, and again after that.
        """

    def fitted(self, trials: int, round_seconds: float, seconds: float) -> None:
        """Trials of each cell that fit into a limit of seconds, where the first trials of all took round_seconds."""

    def start(self, cell: Cell) -> None:
        """A cell's search starts or continues."""

    def on_status(self, message: str) -> None:
        """Progress of the running trial."""

    def trial_done(self, attempt: OptunaTrial) -> None:
        """A trial has ended."""

    def done(self, search: ArmSearch) -> None:
        """A cell's search has ended."""


def load_optuna() -> Any:
    """The optuna module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
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
    seconds: float | None = None,
) -> list[ArmSearch]:
    """Search every model and arm on the first split; all trials are stored in ``out/tuning.db``.

    Args:
        config: the study.
        material: its data, from ``prepare``; only the first split is used.
        out: the study's folder; trials that are stored there count.
        trials: per model and arm.
        models: only these; by default all with free hyper-parameters. Of the others, earlier searches with as many
            trials are returned.
        seed: of the search.
        callback: receives the events of the search.
        seconds: a limit for all trials together, those of earlier runs included: the first trial of every model and
            arm is timed, and then each gets as many as fit if trials take as long as these did, at most ``trials``
            and no fewer than all have.

    Returns:
        The searches, including those of earlier runs.

    Raises:
        LeakError: the audit found a leak that the study file does not accept.
        InputError: optuna is not installed, a model is not in the study or does not fit into memory, nothing to
            search, ``tuning.db`` is something else or damaged; the folder belongs to another study, or is in use.
    """
    optuna = load_optuna()
    refuse_leaks(leaks_of(material.findings), config.study.accept_leaks)
    cells = cells_to_search(config, material, models)
    for cell in cells:
        if not models or cell.model.name in models:
            refuse_too_large(replace(cell, model=cell.model.model_copy(update={"trials": 1})))  # as in trial 0
    checkpoints = out / "tuning.checkpoints"
    with study_folder(out, config, material.smoke), _quiet(optuna), optuna_storage.storage_errors(out / "tuning.db"):
        storage = optuna_storage.open_storage(optuna, out / "tuning.db")
        wanted = [cell for cell in cells if not models or cell.model.name in models]
        every = _StudySearch(optuna, cells, wanted, seed, storage, checkpoints, callback)
        searches = every.run(trials if seconds is None else every.trials_within(seconds, trials))
        shutil.rmtree(checkpoints, ignore_errors=True)
    return searches


def cells_to_search(config: StudyConfig, material: StudyData, models: Sequence[str] = ()) -> list[Cell]:
    """Models with free hyper-parameters × arms, on the first split.

    Raises:
        InputError: one of ``models`` is not in the study or has no free hyper-parameters; or no model has any.
    """
    cells = []
    for model in config.models:
        section = model.model_copy(update={"arms": model.arms or ARMS})
        first = material.split_contexts[0]
        for arm in arms_of(section, relations_read_by(section, config, first), hops(first.graph)):
            cell = Cell(section, arm, first, config.study)
            if dimensions(cell, cell.graph):
                cells.append(cell)
    names = sorted({c.model.name for c in cells})
    missing = sorted(set(models) - set(names))
    if missing or not names:
        raise InputError(
            "nothing to search",
            where="relrank tune",
            expected=f"among {', '.join(names)}" if names else "a model with settings that the file does not fix",
            found=", ".join(map(repr, missing)) + did_you_mean(missing[0], names) if missing else "none",
        )
    return cells


@dataclass(frozen=True, slots=True, eq=False)
class _StudySearch:
    """The searches of all cells; those that are not wanted keep what an earlier run found."""

    optuna: Any
    cells: Sequence[Cell]
    wanted: Sequence[Cell]
    seed: int
    storage: Any
    checkpoints: Path
    callback: SearchCallback | None

    def made(self, cell: Cell) -> list[OptunaTrial]:
        """The finished trials of a cell."""
        return optuna_storage.load_trials(self.optuna, cell, self.seed, self.storage)

    def run(self, trials: int) -> list[ArmSearch]:
        """Search every wanted cell, up to a number of trials."""
        made = {id(cell): self.made(cell)[:trials] for cell in self.cells}
        wanted = {id(cell) for cell in self.wanted}
        if self.callback:
            counts = {(c.model.name, c.arm.name): len(made[id(c)]) for c in self.wanted}
            self.callback.plan(self.wanted, trials, counts)
        found = []
        for cell in self.cells:
            if id(cell) in wanted:
                settings = self.optuna, cell, trials, self.seed, self.storage, self.checkpoints, self.callback
                found.append(_CellSearch(*settings).run())
            elif len(made[id(cell)]) == trials:
                found.append(ArmSearch(cell, tuple(made[id(cell)])))
        return found

    def trials_within(self, seconds: float, trials: int) -> int:
        """Trials of each wanted cell that fit, from the time of the first of each; no fewer than all have."""
        self.run(1)
        made = [self.made(cell) for cell in self.wanted]
        first = sum(of_cell[0].seconds for of_cell in made)
        trials = min(trials, max(min(map(len, made)), int(seconds / max(first, 1e-9))))
        if self.callback:
            self.callback.fitted(trials, first, seconds)
        return trials


class _CellSearch:
    """The search of one cell, up to a number of finished trials."""

    def __init__(
        self,
        optuna: Any,
        cell: Cell,
        trials: int,
        seed: int,
        storage: Any,
        checkpoints: Path,
        callback: SearchCallback | None,
    ) -> None:
        self._optuna, self._cell, self._trials, self._seed = optuna, cell, trials, seed
        self._callback = callback
        self._graph, (self._config, self._train) = cell.graph, cell.initial_config()
        self._axes = axes_of(cell, self._graph)
        self._name = optuna_storage.study_name(cell, self._axes, seed)
        self._checkpoints = checkpoints / self._name.rpartition(" ")[2]
        unpruned_epochs = math.ceil(self._train.epochs * optuna_storage.UNPRUNED_SHARE)
        pruner = optuna.pruners.MedianPruner(optuna_storage.PRUNER_STARTUP_TRIALS, unpruned_epochs)
        self._study = optuna.create_study(
            storage=storage, study_name=self._name, direction="maximize", pruner=pruner, load_if_exists=True
        )

    def run(self) -> ArmSearch:
        """Run the missing trials."""
        if self._callback:
            self._callback.start(self._cell)
        for start in start_points(self._axes)[len(self._study.get_trials(deepcopy=False)) :]:
            self._study.enqueue_trial(start)
        while len(made := finished_trials(self._study)) < self._trials:
            self._run_trial(made)
        search = ArmSearch(self._cell, tuple(made[: self._trials]))
        if self._callback:
            self._callback.done(search)
        return search

    def _run_trial(self, made: list[OptunaTrial]) -> None:
        """Resume the trial that a killed search left, or begin the next one."""
        optuna, study = self._optuna, self._study
        running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        number = running[0].number if running else len(made)
        trial_seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=optuna_storage.RANDOM_TRIALS, seed=trial_seed)
        trial = optuna.trial.Trial(study, running[0]._trial_id) if running else study.ask()
        values = suggest_values(trial, self._axes, self._config, self._train)
        if self._callback:
            self._callback.on_status(f"trial {number + 1} of {self._trials}")
        began = time.perf_counter()
        state, metric, error = optuna.trial.TrialState.COMPLETE, None, ""
        try:
            metric = next((t.metric for t in made if t.state == "complete" and t.values == values), None)
            if metric is None:
                settings = applied(self._config, self._train, values, self._name)
                metric = self._measure(trial, settings, self._checkpoints / str(number))
        except optuna.TrialPruned:
            state = optuna.trial.TrialState.PRUNED
        except (InputError, MemoryError, RuntimeError) as failure:
            if not isinstance(failure, InputError) and not is_out_of_memory(failure):
                raise
            state, error = optuna.trial.TrialState.FAIL, " ".join(str(failure).split())
        trial.set_user_attr("values", values)
        trial.set_user_attr("end", {"seconds": time.perf_counter() - began, "error": error})
        stored = study.get_trials(deepcopy=False)[trial.number]
        trial.set_user_attr("sha256", optuna_storage.trial_checksum(stored, STATES[state.name], metric))
        study.tell(trial, metric, state)
        if self._callback:
            self._callback.trial_done(finished_trials(study)[-1])

    def _measure(self, trial: optuna.Trial, settings: tuple[Any, TrainConfig], folder: Path) -> float:
        """Validation metric of one configuration; validations of a trained model are reported and may prune it."""
        cell, (config, train) = self._cell, settings

        def on_validation(epoch: int, metric: float) -> None:
            trial.report(metric, epoch)
            if trial.number and trial.should_prune():
                raise self._optuna.TrialPruned

        def on_status(message: str) -> None:
            if self._callback:
                self._callback.on_status(f"trial {trial.number + 1}: {message}")

        if trial.number and trial.should_prune():  # killed between its last report and its end
            raise self._optuna.TrialPruned
        try:
            model, _ = fit_cell(cell, self._graph, config, folder, on_status, train, on_validation)
            metric = mean_metric(model, cell.split_context.split, cell.study.metric)
        except Exception:  # but not KeyboardInterrupt, after which the checkpoints are needed
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        if not math.isfinite(metric):
            raise InputError("metric is not finite", where=cell.study.metric, expected="a number", found=str(metric))
        return metric


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Silence Optuna's own messages within the block; the callback reports progress."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
