"""One cell of a study — model, arm, seed — as one folder that is there when the cell is finished, and not before."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import relrank
from relrank.checkpoint import write_json
from relrank.csr import Csr
from relrank.evaluation import Evaluation, evaluate, mean_metric
from relrank.graph.graph import Graph
from relrank.models import MODELS, ClosedForm, Recommender, Trained
from relrank.models.base import config_of
from relrank.study.arms import Arm
from relrank.study.config import ModelSection, StudySection
from relrank.study.tuning import Trial, best_of, climb
from relrank.tables.split import Split
from relrank.training import TrainConfig, fit

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells of one split seed share.

    Attributes:
        seed: of the split.
        split: training, validation and test rows.
        graph: with every relation.
        user_groups: user attributes to carry into the per-user tables, or None.
        item_groups: likewise for items.
        features: items by features, for the similarity inside lists.
    """

    seed: int
    split: Split
    graph: Graph
    user_groups: pl.DataFrame | None = None
    item_groups: pl.DataFrame | None = None
    features: Csr | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of the study's grid.

    Attributes:
        model: section of the study file.
        arm: which relations.
        bench: split and graph.
        study: metric, cuts, trials.
    """

    model: ModelSection
    arm: Arm
    bench: Bench
    study: StudySection

    @property
    def trials(self) -> int:
        """Configurations this model tries per arm."""
        trained = issubclass(MODELS[self.model.name], Trained)
        return self.model.trials or (1 if trained else self.study.trials)

    def holds(self, knob: str) -> bool:
        """Whether the study file sets this hyper-parameter, so that tuning must leave it alone."""
        field, _, entry = knob.partition(".")
        said = self.model.config
        if not entry:
            return field in said
        return knob in said or entry in said.get(field, {}) or "weight" in said

    def start(self) -> tuple[Any, TrainConfig]:
        """Hyper-parameters and budget before tuning.

        Raises:
            InputError: the study file names one that does not exist, or with another type.
        """
        where = f"[[models]] {self.model.name}"
        config = config_of(MODELS[self.model.name].Config(), self.model.config, f"{where}, config")
        return config, config_of(TrainConfig(), self.model.train, f"{where}, train")

    def identity(self) -> dict[str, Any]:
        """Everything the result depends on; plain JSON."""
        config, train = self.start()
        trained = issubclass(MODELS[self.model.name], Trained)
        return {
            "relrank": relrank.__version__,
            "split": self.bench.split.fingerprint,
            "edges": {name: edges_sha(self.bench.graph, name) for name in sorted(self.arm.relations)},
            "rewired": self.arm.rewired,
            "model": self.model.name,
            "config": asdict(config),
            "train": asdict(train) if trained else None,
            "trials": self.trials,
            "metric": self.study.metric,
            "ks": list(self.study.ks),
            "groups": [list(self.study.user_groups), list(self.study.item_groups), self.study.similarity],
            "seed": self.bench.seed,
        }

    def key(self) -> str:
        """Hash of the identity: the name of the cell's folder."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class CellResult:
    """A finished cell, as read back from its folder.

    Attributes:
        model: name.
        arm: name.
        seed: of the split.
        evaluation: per-user table on test and its summary.
        trials: what tuning tried.
        chosen: hyper-parameters that validation picked.
        valid: the study's metric on validation.
        history: learning curve, or None for a closed form.
        cost: ``tune``, ``fit``, ``evaluate`` in seconds, ``peak_mb``.
        note: what the model says of itself, e.g. learned relation weights.
    """

    model: str
    arm: str
    seed: int
    evaluation: Evaluation
    trials: tuple[Trial, ...]
    chosen: dict[str, Any]
    valid: float
    history: pl.DataFrame | None
    cost: dict[str, float]
    note: dict[str, Any]


def edges_sha(graph: Graph, name: str) -> str:
    """sha256 over a relation's edges, weights and ends."""
    r = graph.relation(name)
    digest = hashlib.sha256(f"{r.source} {r.target}".encode())
    for column in (r.src, r.dst, r.weight):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def finished(folder: Path) -> bool:
    """Whether a cell's folder is there."""
    return (folder / "cell.json").is_file()


def load_cell(folder: Path) -> CellResult:
    """Read a finished cell."""
    note = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    history = folder / "history.parquet"
    return CellResult(
        note["model"], note["arm"], note["seed"], Evaluation.load(folder / "users.parquet"),
        tuple(Trial(t["values"], t["metric"]) for t in note["trials"]), note["chosen"], note["valid"],
        pl.read_parquet(history) if history.is_file() else None, note["cost"], note["note"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tuned:
    """A model fitted with the hyper-parameters that validation picked.

    Attributes:
        model: ready to score.
        config: its hyper-parameters.
        valid: its metric on validation.
        trials: what was tried.
        history: learning curve, or None for a closed form.
        seconds: ``tune`` and ``fit``.
    """

    model: Recommender
    config: Any
    valid: float
    trials: tuple[Trial, ...]
    history: pl.DataFrame | None
    seconds: dict[str, float]


def tune_and_fit(cell: Cell, folder: Path, say: Say, memory: dict[str, float]) -> Tuned:
    """Try the cell's budget of configurations on validation, then fit the best one.

    ``memory`` holds the metric of configurations that other arms tried with the same edges in effect. A trained model
    keeps its checkpoints in ``folder``, so a killed cell goes on where it was.
    """
    config, train = cell.start()
    bench, kind = cell.bench, MODELS[cell.model.name]
    graph = cell.arm.graph(bench.graph, bench.seed)
    trained = issubclass(kind, Trained)
    made = 0
    began = time.perf_counter()

    def fitted(changed: Any, name: str) -> tuple[Recommender, pl.DataFrame | None, float]:
        at = folder / name if trained else None
        model, history = fit_model(kind, graph, changed, train, bench.split, cell.study.metric, bench.seed, at, say)
        return model, history, mean_metric(model, bench.split, cell.study.metric)

    def measure(values: dict[str, float]) -> float:
        nonlocal made
        made += 1
        say(f"trial {made} of at most {cell.trials}")
        changed = config_of(config, values, cell.model.name)
        key = in_effect(cell, graph, changed)
        if key not in memory:
            memory[key] = fitted(changed, f"trial-{made}")[2]
        return memory[key]

    knobs = [k for k in kind.knobs(graph) if not cell.holds(k.name)] if cell.trials > 1 else []
    trials = climb(knobs, cell.trials, measure) if knobs else []
    if trials:
        config = config_of(config, best_of(trials).values, cell.model.name)
    tuned = time.perf_counter()
    model, history, valid = fitted(config, "final")
    seconds = {"tune": tuned - began, "fit": time.perf_counter() - tuned}
    return Tuned(model, config, valid, tuple(trials), history, seconds)


def run_cell(cell: Cell, folder: Path, say: Say, memory: dict[str, float]) -> CellResult:
    """Tune, fit, evaluate on test; write everything beside the final folder and rename it at the end."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    reset_peak_memory()
    tuned = tune_and_fit(cell, part, say, memory)
    say("evaluating")
    began = time.perf_counter()
    bench = cell.bench
    evaluation = evaluate(
        tuned.model, bench.split, cell.study.ks, user_groups=bench.user_groups, item_groups=bench.item_groups,
        features=bench.features,
    )  # fmt: skip
    cost = {**tuned.seconds, "evaluate": time.perf_counter() - began, "peak_mb": peak_memory_mb()}
    evaluation.save(part / "users.parquet")
    if tuned.history is not None:
        tuned.history.write_parquet(part / "history.parquet")
    for leftover in part.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
    weights = getattr(tuned.model, "relation_weights", None)
    write_json(
        part / "cell.json",
        {
            "model": cell.model.name, "arm": cell.arm.name, "seed": bench.seed, "identity": cell.identity(),
            "trials": [asdict(t) for t in tuned.trials], "chosen": asdict(tuned.config), "valid": tuned.valid,
            "note": {"relation weights": weights} if weights else {}, "cost": cost,
        },
    )  # fmt: skip
    part.replace(folder)
    return load_cell(folder)


def in_effect(cell: Cell, graph: Graph, config: Any) -> str:
    """What a closed form's scores depend on: relations of weight 0 do not count, so arms can share trials."""
    values = asdict(config)
    edges = {}
    if cell.arm.relations:
        weights = values.get("weights", {})
        in_use = {name: weights.get(name, values.get("weight")) for name in graph.relations}
        values["weights"] = {name: weight for name, weight in sorted(in_use.items()) if weight != 0}
        edges = {name: edges_sha(graph, name) for name in values["weights"]}
    values.pop("weight", None)
    split = cell.bench.split.fingerprint
    return json.dumps([cell.model.name, values, edges, split, cell.study.metric, cell.bench.seed], sort_keys=True)


def fit_model(
    kind: type[ClosedForm] | type[Trained], graph: Graph, config: Any, train: TrainConfig, split: Split, metric: str,
    seed: int, folder: Path | None = None, say: Say = lambda _: None,
) -> tuple[Recommender, pl.DataFrame | None]:  # fmt: skip
    """Fit one model on one graph; returns it and, for a trained one, its learning curve."""
    if "seed" in {f.name for f in fields(kind.Config)}:
        config = config_of(config, {"seed": seed}, kind.name)
    if issubclass(kind, ClosedForm):
        return kind(graph, config).solve(), None
    model = kind(graph, config)

    def watch(epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float) -> None:
        del metric
        best_so_far = f", best {best:.4f}" if np.isfinite(best) else ""
        say(f"epoch {epoch} of {epochs}, loss {loss:.4f}{best_so_far}, {seconds_left:.0f} s left")

    fitted = fit(model, train, lambda: mean_metric(model, split, metric), seed, folder, watch)
    return model, fitted.history


def reset_peak_memory() -> None:
    """Start measuring this process's peak memory afresh, where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float:
    """Largest resident memory since ``reset_peak_memory``, in MB; on a GPU its largest allocation is added."""
    import resource

    try:
        status = Path("/proc/self/status").read_text()
        peak = float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated() / 2**20
    return round(peak, 1)
