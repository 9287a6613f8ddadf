"""One cell of a study — model, arm, seed — as one folder that is there when the cell is finished, and not before."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl
import torch
from torch import Tensor

import relrank
from relrank.errors import InputError, did_you_mean, one_of
from relrank.evaluation.evaluate import Evaluation, evaluate, mean_metric, user_metric
from relrank.evaluation.metrics import DEFINITION
from relrank.graph.construction.interactions import events_of, interactions_of, places_of
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import hops
from relrank.io.atomic import discard, sync_names, sync_tree
from relrank.io.manifest import Sealed, consistent, refuse_leading_out, seal
from relrank.io.tensors import save_tensors, tensors_of, write_json
from relrank.kernels.csr import Csr, Float32
from relrank.models import MODELS, ClosedForm, Recommender, Trained
from relrank.models.core.base import Knob, config_of, restore
from relrank.parallel.memory import peak_memory, reset_peak_memory
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup
from relrank.study.arms import Arm, alone_rewired, arms, drop, over, some
from relrank.study.config import ARM_KINDS, ArmSection, ModelSection, StudySection
from relrank.study.tuning import SEARCH, Climb, Trial, climb, value_of
from relrank.tables.split import Split
from relrank.training import TrainConfig, fit

StatusCallback = Callable[[str], None]

FORMAT = "relrank-cell-2"
"""Goes up where what is stored of a cell changes, so that it is made again."""
MEND = "delete the cell's folder, and the study runs the cell again"
NOTE, USERS, HISTORY = "cell.json", "users.parquet", "history.parquet"
HELD = "held.parquet"
"""Per user, the metric without each relation in the setting of the cell, in the folder of a tuned "all" arm."""
WEIGHTS = "model.safetensors"
"""Parameters of a trained model that may win, in its cell's folder until the study has a winner."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitContext:
    """What all cells of one split seed share.

    Attributes:
        seed: of the split.
        split: training, validation and test rows.
        graph: with every relation.
        user_groups: user attributes to carry into the per-user tables, or None.
        item_groups: likewise for items.
        attributes: items by values of the study's attribute, for similarity and calibration of lists.
        beside: hash of the three above, which a cell's result depends on.
        refit: whether the final fit gets the validation rows back, as where a published split has none of its own.
        interactions: what a training row weighs.
    """

    seed: int
    split: Split
    graph: Graph
    user_groups: pl.DataFrame | None = None
    item_groups: pl.DataFrame | None = None
    attributes: Csr | None = None
    beside: str = ""
    refit: bool = False
    interactions: InteractionWeights = field(default_factory=InteractionWeights)

    @property
    def final(self) -> Split:
        """The split of the final fit and of the test."""
        return self.split.refit() if self.refit else self.split


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One entry of the study's grid.

    Attributes:
        model: section of the study file.
        arm: which relations.
        bench: split and graph.
        study: metric, cuts, trials.
        after: keys of the cells whose findings its search begins with (``nesting``).
        begins: values of knobs where its search begins, and others that it has to beat, as those cells ended; ()
            before they are there.
        there: those of ``after`` that ``begins`` comes from; others were left out.
        adds: whether only the weights of what the best of those cells lacks are searched, all else held: arms that
            say what one relation more would bring.
    """

    model: ModelSection
    arm: Arm
    bench: SplitContext
    study: StudySection
    after: tuple[str, ...] = ()
    begins: tuple[Mapping[str, float], ...] = ()
    there: tuple[str, ...] = ()
    adds: bool = False

    @property
    def trials(self) -> int:
        """Configurations this model tries per arm."""
        trained = issubclass(MODELS[self.model.kind], Trained)
        return self.model.trials or (1 if trained else self.study.trials)

    @property
    def said(self) -> ArmSection:
        """What the study file sets for this model on this arm.

        A trained model is not tuned on the arms that explain a redundancy; there it takes what "all" sets.
        """
        model = self.model
        own = model.arm.get(self.arm.name)
        if own is None and self.arm.relations and issubclass(MODELS[model.kind], Trained):
            own = model.arm.get("all")
        if own is None:
            return ArmSection(config=model.config, train=model.train)
        return ArmSection(config=_over(own.config, model.config), train=_over(own.train, model.train))

    @property
    def graph(self) -> Graph:
        """What the model is fitted on: the arm's relations, and features only if it reads them."""
        graph = self.read.graph(self.bench.graph, self.bench.seed)
        return graph if self.reads_features else replace(graph, features={})

    @property
    def read(self) -> Arm:
        """What the model reads of the arm; arms that differ in other relations alone are one and the same cell."""
        reads = MODELS[self.model.kind].reads(self.bench.graph.only(*self.arm.relations), self.start()[0])
        relations = tuple(name for name in self.arm.relations if name in reads)
        return replace(
            self.arm, relations=relations, rewired=self.arm.rewired if self.arm.rewired in relations else None
        )

    @property
    def has_all(self) -> bool:
        """Whether it reads, unshuffled, all of several relations that the model reads."""
        reads = MODELS[self.model.kind].reads(self.bench.graph, self.start()[0])
        return self.arm.rewired is None and len(reads) > 1 and set(reads) <= set(self.arm.relations)

    @property
    def whole(self) -> Graph | None:
        """The graph with all relations, whose solution the arm's may come from; None where each is solved alone.

        Trials of a search are: they share metrics with arms that leave out what they weigh 0.
        """
        kind = MODELS[self.model.kind]
        shares = issubclass(kind, ClosedForm) and kind.solve_from is not ClosedForm.solve_from
        return self.bench.graph if shares and self.trials == 1 else None

    @property
    def reads_features(self) -> bool:
        """Whether the model, as the study file sets it, reads features of nodes."""
        return MODELS[self.model.kind].reads_features(self.start()[0])

    def holds(self, knob: str) -> bool:
        """Whether the study file sets this hyper-parameter, so that tuning must leave it alone."""
        field, _, entry = knob.partition(".")
        said = self.said.config
        if field == "train":
            return entry in self.said.train
        if not entry:
            return field in said
        return knob in said or entry in said.get(field, {}) or "weight" in said

    def start(self) -> tuple[Any, TrainConfig]:
        """Hyper-parameters and budget before tuning.

        Raises:
            InputError: the study file names one that does not exist, or with another type.
        """
        where, kind, said = f"[[models]] {self.model.name}", MODELS[self.model.kind], self.said
        self._refuse_arms(where)
        config = config_of(kind.Config(), said.config, f"{where}, config")
        config = kind.settled(self.bench.graph, config, f"{where}, config")
        for name, refused in (("train", said.train and issubclass(kind, ClosedForm)),
                              ("config.seed", "seed" in said.config)):  # fmt: skip
            if refused:
                raise InputError(
                    "setting has no effect here", where=f"{where}, {name}",
                    expected="no training budget for a closed form; seeds in [study]", found=name,
                )  # fmt: skip
        return config, config_of(TrainConfig(), said.train, f"{where}, train")

    def _refuse_arms(self, where: str) -> None:
        """A section of an arm that does not exist would go unnoticed; a budget of one's own would decide verdicts."""
        if not self.model.arm:
            return
        passed = hops(self.bench.graph)
        names = list(passed) if MODELS[self.model.kind].relational else []
        known = {self.arm.name} | {
            a.name for kinds in (ARM_KINDS, self.model.arms or ()) for a in arms(names, kinds, passed)
        }
        known |= {alone_rewired(r, passed).name for r in names}
        known |= {some([r, s], passed).name for r in names for s in names if s != r}
        for name, section in self.model.arm.items():
            if name not in known:
                raise InputError(
                    "no such arm",
                    where=f"{where}, arm",
                    expected=one_of(known),
                    found=repr(name) + did_you_mean(name, known),
                )
            budget = sorted({"epochs", "every", "patience"} & set(section.train))
            if budget:
                raise InputError(
                    "an arm has a budget of its own", where=f"{where}, arm {name!r}, train",
                    expected="the same for all arms: set it in the model's train", found=", ".join(budget),
                )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Everything the result depends on; plain JSON."""
        config, train = self.start()
        read = self.read
        trained = issubclass(MODELS[self.model.kind], Trained)
        features = {n: f.sha256()[:16] for n, f in self.bench.graph.features.items() if self.reads_features}
        weights = self.bench.interactions.model_dump()
        return {
            "relrank": relrank.__version__,
            "format": FORMAT,
            "split": self.bench.split.fingerprint,
            **({"unseen": self._unseen} if self.bench.split.unseen else {}),
            "edges": {name: edges_sha(self.bench.graph, name) for name in sorted(read.relations)},
            **({"whole": sorted(edges_sha(self.whole, name) for name in self.whole.relations)} if self.whole else {}),
            # a trained table has a row per node, in this order
            **({"nodes": [[t, len(ids)] for t, ids in self.bench.graph.nodes.items()]} if trained else {}),
            **({"features": features} if features else {}),
            **({"interactions": weights} if weights["weight"] != "one" else {}),
            "rewired": read.rewired,
            "model": self.model.kind,
            **({"name": self.model.name} if self.model.name != self.model.kind else {}),
            "config": asdict(config),
            "held": sorted(self.said.config),
            "train": asdict(train) if trained else None,
            "trials": self.trials,
            **({"search": SEARCH, "after": list(self.after)} if self.trials > 1 else {}),
            **({"adds": True} if self.trials > 1 and self.adds else {}),
            "metric": self.study.metric,
            "metrics": DEFINITION,
            "ks": list(self.study.ks),
            "beside": self.bench.beside,
            "refit": self.bench.refit,
            "seed": self.bench.seed,
        }

    @property
    def _unseen(self) -> str:
        """Hash of the items that no interaction names, which are in the graph beside those of the fingerprint."""
        keys = self.bench.split.items.keys.tail(self.bench.split.unseen)
        return hashlib.sha256(json.dumps(keys.to_list()).encode()).hexdigest()[:16]

    def key(self) -> str:
        """Hash of the identity: the name of the cell's folder."""
        return _key_of(self.identity())


def _key_of(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, eq=False)
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
        finished: whether tuning ended where no single step is worth it; False where its budget ran out first.
        cost: ``tune``, ``fit``, ``evaluate`` in seconds, ``peak_mb``. Trials that another arm had made already are
            charged as if this one had made them.
        note: what the model says of itself: learned relation weights, the graph's share in a fusion.
        began_after: keys of the cells whose findings its search began with (``Cell.there``).
        held: what single relations bring in this cell's setting, all else held; None but for tuned "all" arms.
        key: name of its folder.
        chosen_trial: which of ``trials`` validation picked; None where none was made.
    """

    model: str
    arm: str
    seed: int
    evaluation: Evaluation
    trials: tuple[Trial, ...]
    chosen: dict[str, Any]
    valid: float
    history: pl.DataFrame | None
    finished: bool
    cost: dict[str, float]
    note: dict[str, Any]
    began_after: tuple[str, ...] = ()
    held: Held | None = None
    key: str = ""
    chosen_trial: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The study's metric on test where one relation is changed in the setting of "all" and nothing else.

    Attributes:
        table: ``user`` and a column per relation: the metric without it; or, where validation gave it no weight, with
            the smallest weight that was tried.
        unused: the relations without weight.
    """

    table: pl.DataFrame
    unused: frozenset[str]


def _over(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Settings on top of others; a mapping, such as relation weights, is merged entry by entry."""
    mixed = {k: {**base[k], **v} for k, v in own.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **own, **mixed}


_SHAS: WeakKeyDictionary[Relation, str] = WeakKeyDictionary()


def edges_sha(graph: Graph, name: str) -> str:
    """sha256 over a relation's edges, weights and ends."""
    r = graph.relation(name)
    if r not in _SHAS:
        digest = hashlib.sha256(f"{r.source} {r.target}".encode())
        for column in (r.src, r.dst, r.weight):
            digest.update(column.tobytes())
        _SHAS[r] = digest.hexdigest()[:16]
    return _SHAS[r]


def kept_model(cell: Cell, folder: Path, config: Any) -> tuple[Recommender, Graph] | None:
    """The trained model of a finished cell and the graph that it was fitted on, while its weights are there."""
    weights = kept_weights(folder)
    if weights is None:
        return None
    graph = refit_graph(cell, cell.graph) if cell.bench.refit else cell.graph
    model = MODELS[cell.model.kind](graph, seeded(cell, config))
    restore(model, weights, str(folder / WEIGHTS))
    return model, graph


def kept_weights(folder: Path) -> dict[str, Tensor] | None:
    """Parameters of a finished cell's model; None where they are not there any more.

    Raises:
        InputError: they are not what was written, or those of another cell.
    """
    if not (folder / WEIGHTS).is_file():
        return None
    with consistent(folder, MEND):
        sealed, _ = _opened(folder)
    return tensors_of(sealed.read(WEIGHTS), str(folder / WEIGHTS))


def seeded(cell: Cell, config: Any) -> Any:
    """Hyper-parameters with the bench's seed, where a model has one."""
    there = "seed" in {f.name for f in fields(config)}
    return config_of(config, {"seed": cell.bench.seed}, cell.model.kind) if there else config


def finished(folder: Path) -> bool:
    """Whether a cell's folder is there."""
    return os.path.lexists(folder)


def load_cell(folder: Path) -> CellResult:
    """Read a finished cell.

    Raises:
        InputError: it is not what was written, or that of another cell.
    """
    with consistent(folder, MEND):
        return _loaded(folder)


def _loaded(folder: Path) -> CellResult:
    sealed, note = _opened(folder)
    return CellResult(
        note["model"], note["arm"], note["seed"], Evaluation.parsed(sealed.read(USERS), str(folder / USERS)),
        tuple(Trial(**t) for t in note["trials"]), note["chosen"], note["valid"],
        sealed.table(HISTORY) if HISTORY in sealed else None, note["finished"], note["cost"],
        note["note"], tuple(note.get("began_after", ())),
        Held(sealed.table(HELD), frozenset(note["unused"])) if "unused" in note else None,
        folder.name, note.get("chosen_trial"),
    )  # fmt: skip


def _opened(folder: Path) -> tuple[Sealed, dict[str, Any]]:
    """A finished cell's files and its note."""
    refuse_leading_out(folder.parent, folder)
    sealed = Sealed(folder, MEND)
    note = sealed.json(NOTE)
    if (key := _key_of(note["identity"])) != folder.name:
        raise InputError(
            "folder of another cell", where=str(folder), expected=f"cell {folder.name}; {MEND}", found=key
        )
    return sealed, note


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A model fitted with the hyper-parameters that validation picked.

    Attributes:
        model: ready to score; on a refitting bench it has seen the validation rows.
        graph: what it was fitted on.
        config: its hyper-parameters.
        valid: its metric on validation, before any refit.
        trials: what was tried.
        chosen_trial: which of them ``config`` is; None where none was made.
        finished: whether tuning ended by itself.
        history: learning curve, or None for a closed form.
        seconds: ``tune`` and ``fit``.
    """

    model: Recommender
    graph: Graph
    config: Any
    valid: float
    trials: tuple[Trial, ...]
    chosen_trial: int | None
    finished: bool
    history: pl.DataFrame | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A trial that was made: the metric of every validation user, float32 [n_users], and the seconds it took."""

    metrics: Float32
    seconds: float


class Memory(Protocol):
    """Trials by what their scores depend on, so that arms need not repeat each other's; a dict is one."""

    def get(self, trial: str, /) -> Known | None:
        """The trial, if it was made."""

    def __setitem__(self, trial: str, known: Known, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """Where a cell's search ended: its key, hyper-parameters as plain values, and validation metric."""

    key: str
    chosen: Mapping[str, Any]
    valid: float


def tune(
    cell: Cell, graph: Graph, folder: Path, say: StatusCallback, memory: Memory, group: ProcessGroup = SINGLE_PROCESS
) -> tuple[Any, Climb, float]:
    """Try the cell's budget of configurations on validation, on the cell's graph.

    ``memory`` holds what other arms tried with the same edges in effect (closed forms only).

    Returns:
        The configuration that was chosen, the search (without trials where nothing may be moved), and the seconds
        that its trials took.
    """
    config, _ = cell.start()
    made, charged = 0, 0.0

    def measure(values: dict[str, float]) -> Float32:
        nonlocal made, charged
        made += 1
        say(f"trial {made} of at most {cell.trials}")
        changed = config_of(begin, values, cell.model.name)
        key = in_effect(cell, graph, changed)
        known = None if key is None else memory.get(key)
        if known is None:
            began = time.perf_counter()
            model, _ = fit_cell(cell, graph, changed, folder / f"trial-{made}", say, group=group)
            metrics = group.broadcast_from_rank0(
                lambda: user_metric(model, cell.bench.split, cell.study.metric).tolist()
            )
            known = Known(np.asarray(metrics, np.float32), time.perf_counter() - began)
            if key is not None:
                memory[key] = known
        charged += known.seconds
        return known.metrics

    begin = config_of(config, dict(cell.begins[0]) if cell.begins else {}, cell.model.name)
    knobs = knobs_of(cell, graph)
    if not knobs:
        return begin, Climb((), -1, True), 0.0
    searched = {k.name for k in knobs}  # a start without what is held would be another one
    kind = MODELS[cell.model.kind]
    others = [s for s in kind.starts(graph) if s.keys() <= searched]
    without = {f"weights.{name}" for name in cell.read.relations} if cell.has_all else set()
    published = None if cell.begins or without else kind.published(graph)
    reference = published if published is not None and published.keys() <= searched else None
    starts = cell.begins or ({}, *others)
    found = climb(knobs, cell.trials, measure, starts=starts, without=without, reference=reference)
    return config_of(begin, found.trials[found.chosen].values, cell.model.name), found, charged


def tune_after(
    cells: Sequence[Cell], folder: Path, say: StatusCallback, memory: Memory, group: ProcessGroup = SINGLE_PROCESS
) -> Cell:
    """Search the cells in order; the last one with the settings that its search begins with, itself not searched.

    Args:
        cells: each behind those that it begins after; of one split and model.
        folder: for checkpoints of trained models.
        say: told of every trial.
        memory: of trials that were made.
        group: of processes that search together.
    """
    ended: dict[str, Ended] = {}
    for cell in cells[:-1]:
        cell = begun(cell, [ended[key] for key in cell.after if key in ended])
        key = replace(cell, begins=(), there=()).key()
        config, found, _ = tune(cell, cell.graph, folder / key, partial(_say_of, cell, say), memory, group)
        if found.trials:
            ended[key] = Ended(key, asdict(config), found.trials[found.chosen].metric)
    return begun(cells[-1], [ended[key] for key in cells[-1].after if key in ended])


def _say_of(cell: Cell, say: StatusCallback, text: str) -> None:
    say(f"{cell.arm.name}: {text}")


def tune_and_fit(
    cell: Cell, folder: Path, say: StatusCallback, memory: Memory, group: ProcessGroup = SINGLE_PROCESS
) -> Tuned:
    """Try the cell's budget of configurations on validation, then fit the best one.

    ``memory`` holds what other arms tried with the same edges in effect (closed forms only). A trained model keeps
    its checkpoints in ``folder``, so a killed cell goes on where it was. The processes of a group do all this
    together, and the first of them measures.
    """
    graph = cell.graph  # made once: shuffled links are costly, and so is what is derived from them
    config, found, charged = tune(cell, graph, folder, say, memory, group)
    began = time.perf_counter()
    model, history = fit_cell(cell, graph, config, folder / "final", say, group=group, whole=cell.whole)
    valid = group.broadcast_from_rank0(lambda: mean_metric(model, cell.bench.split, cell.study.metric))
    if cell.bench.refit:
        del model  # memory for one is enough
        model, graph = refit_cell(cell, graph, config, history, folder / "refit", say, group)
    seconds = {"tune": charged, "fit": time.perf_counter() - began}
    chosen = found.chosen if found.trials else None
    return Tuned(model, graph, config, valid, found.trials, chosen, found.finished, history, seconds)


def _free_knobs(cell: Cell, graph: Graph) -> list[Knob]:
    """What the study file does not set."""
    return [k for k in MODELS[cell.model.kind].knobs(graph) if not cell.holds(k.name)]


def knobs_of(cell: Cell, graph: Graph) -> list[Knob]:
    """What the cell's search moves.

    Where a relation is shuffled in a setting that was found with its links, that is its own weight alone, what its
    degrees are worth without them, and the weights of what is composed over it; none of those that the setting leaves
    out.
    """
    if cell.trials == 1:
        return []
    knobs = _free_knobs(cell, graph)
    if cell.begins and cell.adds:
        new = {f"weights.{name}" for name in cell.read.relations} - set(cell.begins[0])
        return [k for k in knobs if k.name in new] or knobs
    if cell.begins and cell.read.rewired is not None:
        passed = hops(graph)
        own = {f"weights.{name}" for name in passed if cell.read.rewired in over(passed, name)}
        return [k for k in knobs if k.name in own and cell.begins[0].get(k.name) != k.start]
    return knobs


def beginning(cell: Cell, folder: Path) -> Cell:
    """The cell with the settings that its search begins with, from the cells of ``Cell.after``.

    Args:
        cell: one of a study.
        folder: of the study's cells; those of ``Cell.after`` that are not there were left out.
    """
    ended = []
    for key in cell.after:
        if finished(folder / key):
            _, note = _opened(folder / key)
            ended.append(Ended(key, note["chosen"], note["valid"]))
    return begun(cell, ended)


def begun(cell: Cell, ended: Sequence[Ended]) -> Cell:
    """The cell with the settings that its search begins with.

    These are what the first of the others found and, if another one is better on validation, what the best one found;
    the latter alone where the cell ``adds``.
    """
    if not ended:
        return cell
    best = max(ended, key=lambda one: one.valid)
    linked = replace(cell, arm=replace(cell.arm, rewired=None))  # knobs are the same, and shuffling takes long
    knobs = _free_knobs(cell, linked.graph)
    first = best if cell.adds else ended[0]
    begins = [_ended(knobs, one.chosen) for one in ([best] if best is first else [first, best])]
    return replace(cell, begins=tuple(begins), there=tuple(one.key for one in ended))


def _ended(knobs: Sequence[Knob], chosen: Mapping[str, Any]) -> dict[str, float]:
    """Values of knobs in another cell's hyper-parameters, as far as it has them and they may be tried here."""
    values = ((knob, value_of(chosen, knob.name)) for knob in knobs)
    return {knob.name: value for knob, value in values if value in knob.ladder}


def fit_cell(
    cell: Cell,
    graph: Graph,
    config: Any,
    folder: Path,
    say: StatusCallback,
    train: TrainConfig | None = None,
    judge: Callable[[int, float], None] | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    whole: Graph | None = None,
) -> tuple[Recommender, pl.DataFrame | None]:
    """Fit the cell's model on one graph; returns it and, for a trained one, its learning curve.

    ``judge`` is told epoch and metric of every validation; what it raises ends the training. A closed form that is
    given the ``whole`` graph may start from its solution (``Cell.whole``).
    """
    kind, bench = MODELS[cell.model.kind], cell.bench
    config = seeded(cell, config)
    if issubclass(kind, ClosedForm):
        solver = kind(graph, config)
        return solver.solve() if whole is None else solver.solve_from(whole), None
    model = kind(graph, config)

    def watch(epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float) -> None:
        latest = "" if metric is None else f", {cell.study.metric} {metric:.4f}"
        best_so_far = f", best {best:.4f}" if np.isfinite(best) else ""
        say(f"epoch {epoch} of {epochs}, loss {loss:.4f}{latest}{best_so_far}, {_left(seconds_left)}")
        if judge is not None and metric is not None:
            judge(epoch, metric)

    def watch_steps(epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        say(f"epoch {epoch} of {epochs}, step {step:,} of {steps:,}, loss {loss:.4f}, {_left(seconds_left)}")

    def validate() -> float:
        return mean_metric(model, bench.split, cell.study.metric)

    fitted = fit(model, train or cell.start()[1], validate, bench.seed, folder, watch, group, watch_steps)
    return model, fitted.history


def _left(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit} left" if unit == "h" else f"{seconds / size:.0f} {unit} left"
    return f"{seconds:.0f} s left"


def refit_graph(cell: Cell, graph: Graph) -> Graph:
    """The graph with the validation rows among its interactions."""
    edges = interactions_of(graph.user, graph.item, cell.bench.final.train, cell.bench.interactions)
    places = places_of(cell.bench.final.train) if cell.bench.final.ordered else None
    return replace(graph, interactions=edges, places=places, events=events_of(cell.bench.final))


def refit_cell(
    cell: Cell, graph: Graph, config: Any, history: pl.DataFrame | None, folder: Path, say: StatusCallback,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Recommender, Graph]:  # fmt: skip
    """Fit once more with the validation rows in training; a trained model for the epochs that validation picked."""
    graph, train = refit_graph(cell, graph), None
    if history is not None:
        train = cell.start()[1]
        best = history.filter(pl.col("metric") == pl.col("metric").max())["epoch"][0]
        # a rate that decays belongs to its number of epochs
        epochs = best if train.decay == "none" else train.epochs
        train = replace(train, epochs=epochs, every=epochs, patience=0)
    return fit_cell(cell, graph, config, folder, say, train, group=group)[0], graph


NOTES = {
    "relation weights": "relation_weights", "graph's share": "gate_means",
    "own share by history length": "alpha_by_length", "share of each view": "view_shares",
    "items without a view": "missing_views",
}  # fmt: skip
"""What a model may say of itself once it is fitted, and the attribute that says it."""


def run_cell(cell: Cell, folder: Path, say: StatusCallback, memory: Memory) -> CellResult:
    """Tune, fit, evaluate on test; write everything beside the final folder and rename it at the end."""
    part = folder.with_name(folder.name + ".part")
    fill_cell(cell, part, say, memory)
    sync_tree(part)
    part.replace(folder)
    sync_names(folder)
    return load_cell(folder)


def fill_cell(cell: Cell, part: Path, say: StatusCallback, memory: Memory) -> None:
    """Tune, fit, evaluate on test, in a folder that holds the cell's files, and no others, at the end.

    Checkpoints that an earlier call left there are gone on from.
    """
    part.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        if file.is_symlink() or not file.is_dir():
            discard(file)
    reset_peak_memory()
    tuned = tune_and_fit(cell, part, say, memory)
    say("evaluating")
    began = time.perf_counter()
    bench = cell.bench
    evaluation = evaluate(
        tuned.model, bench.final, cell.study.ks, user_groups=bench.user_groups, item_groups=bench.item_groups,
        features=bench.attributes,
    )  # fmt: skip
    cost = {**tuned.seconds, "evaluate": time.perf_counter() - began, "peak_mb": peak_memory_mb()}
    evaluation.save(part / USERS, synced=False)
    if isinstance(tuned.model, Trained) and cell.arm.rewired is None and bench.seed == cell.study.seeds[0]:
        save_tensors(part / WEIGHTS, tuned.model.state(), {"model": cell.model.kind}, synced=False)
    if tuned.history is not None:
        tuned.history.write_parquet(part / HISTORY)
    said = {label: value for label, name in NOTES.items() if (value := getattr(tuned.model, name, None))}
    note = {
        "model": cell.model.name, "arm": cell.arm.name, "seed": bench.seed, "identity": cell.identity(),
        "trials": [asdict(t) for t in tuned.trials], "chosen": asdict(tuned.config), "valid": tuned.valid,
        "chosen_trial": tuned.chosen_trial, "finished": tuned.finished, "note": said, "cost": cost,
        "began_after": list(cell.there),
    }  # fmt: skip
    if cell.has_all and tuned.trials:
        config, graph = tuned.config, tuned.graph
        del tuned  # memory for one model is enough
        held = held_effects(cell, config, graph, evaluation.table, part, say)
        held.table.write_parquet(part / HELD)
        note["unused"] = sorted(held.unused)
    for leftover in part.iterdir():
        if leftover.is_dir():
            discard(leftover)
    write_json(part / NOTE, note, synced=False)
    seal(part, synced=False)


def held_effects(cell: Cell, held: Any, whole: Graph, users: pl.DataFrame, folder: Path, say: StatusCallback) -> Held:
    """What each relation brings in the setting of a tuned "all" arm.

    Args:
        cell: that arm.
        held: its configuration.
        whole: what it was fitted on.
        users: its per-user table on test.
        folder: for checkpoints of trained models.
        say: told of every relation.
    """
    chosen, columns, unused = asdict(held), {}, set()
    steps = {k.name: k for k in MODELS[cell.model.kind].knobs(cell.graph)}
    passed = hops(cell.bench.graph)
    for number, name in enumerate(cell.read.relations):
        say(f"held settings without {name}")
        knob = steps.get(f"weights.{name}")
        # what is read through it goes with it
        gone = [
            steps.get(f"weights.{other}") for other in cell.read.relations if other == name or name in passed[other]
        ]
        if knob is not None and all(k is not None and value_of(chosen, k.name) == 0 for k in gone):
            unused.add(name)
            config = config_of(held, {knob.name: knob.ladder[1]}, cell.model.name)
            model = fit_cell(cell, whole, config, folder / f"held-{number}", say)[0]
        else:
            less = replace(cell, arm=drop(cell.arm.relations, name, passed), begins=(), after=())
            model = _for_test(cell, less.graph, _without(less, chosen), folder / f"held-{number}", say)
        columns[name] = user_metric(model, cell.bench.final, cell.study.metric, "test")
    return Held(users.select("user").with_columns(**{n: pl.Series(v) for n, v in columns.items()}), frozenset(unused))


def _for_test(cell: Cell, graph: Graph, config: Any, folder: Path, say: StatusCallback) -> Recommender:
    """The cell's model on another graph, with validation rows where the bench gives them back."""
    if not cell.bench.refit:
        return fit_cell(cell, graph, config, folder, say)[0]
    history = None
    if issubclass(MODELS[cell.model.kind], Trained):
        history = fit_cell(cell, graph, config, folder / "final", say)[1]
    return refit_cell(cell, graph, config, history, folder / "refit", say)[0]


def _without(cell: Cell, chosen: Mapping[str, Any]) -> Any:
    """The configuration of an arm with the settings of another arm, as far as it may set them."""
    return config_of(cell.start()[0], _ended(_free_knobs(cell, cell.graph), chosen), cell.model.name)


def in_effect(cell: Cell, graph: Graph, config: Any) -> str | None:
    """What a closed form's scores depend on: relations of weight 0 do not count, so arms can share trials.

    None for a trained model, whose start depends on every node of its graph.
    """
    if issubclass(MODELS[cell.model.kind], Trained):
        return None
    values = asdict(config)
    edges = {}
    if "weights" in values:
        in_use = {name: values["weights"].get(name, values["weight"]) for name in graph.relations}
        values["weights"] = {name: weight for name, weight in sorted(in_use.items()) if weight != 0}
        # one that touches neither users nor items is reached through others, whatever these weigh
        used = over(hops(graph), *values["weights"])
        edges = {name: edges_sha(graph, name) for name in used}
        del values["weight"]
    split = cell.bench.split.fingerprint
    return json.dumps([cell.model.kind, values, edges, split, cell.study.metric, cell.bench.seed], sort_keys=True)


def peak_memory_mb() -> float:
    """Largest resident memory since ``reset_peak_memory``, in MB; on a GPU its largest allocation is added."""
    peak = peak_memory() / 2**20
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated() / 2**20
    return round(peak, 1)
