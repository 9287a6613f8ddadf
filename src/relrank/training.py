"""The training loop of every model with gradients.

The order of edges and the negatives of epoch e depend on (seed, e) only, so a killed run continues from its last
checkpoint to the same final weights, bit for bit on one machine. The best epoch is chosen on validation; its state is
a copy, not references.

Several processes (``relrank.parallel.process_group``) share each epoch: the order is that of one process, every batch
is divided among the processes, gradients are averaged over the full batch, and rank 0 validates and writes
checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

import relrank
from relrank.arguments import Seed, checked
from relrank.errors import InputError
from relrank.graph.sampling.neighbour_sampling import prefetch
from relrank.io.tensors import load_tensors, save_tensors
from relrank.models.core.base import Trained
from relrank.models.core.hyperparameters import NonNegative, NonNegativeInt, PositiveInt, check_settings
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Training budget and optimizer settings; the same for every arm of a study."""

    epochs: PositiveInt = 60
    """Most passes over the training data."""
    batch: PositiveInt = 4096
    """Training edges per step over all processes; for a sequence model, users."""
    lr: NonNegative = 0.01
    """Learning rate of Adam; with decay that of the first step."""
    decay: Literal["none", "linear"] = "none"
    """"linear": the rate falls to 0 at the end of the last epoch."""
    every: PositiveInt = 5
    """Number of epochs per validation."""
    patience: NonNegativeInt = 0
    """Validations without a new best before stopping early, once the model ranks better than popularity; 0 trains all
    epochs."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA if available."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: the losses' matrix products run under torch autocast."""
    workers: NonNegativeInt = 0
    """Threads that sample negatives and neighbours in advance; 0 samples in the training thread."""

    def __post_init__(self) -> None:
        check_settings(self, TrainConfig, "training settings")


class EpochCallback(Protocol):
    """Called after each epoch: its number, the total, loss, validation metric if any, best metric, seconds left."""

    def __call__(
        self, epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float
    ) -> None:
        """Called after each epoch."""


class StepCallback(Protocol):
    """Called within long epochs: epoch, total, steps done, total steps, mean loss so far, seconds left."""

    def __call__(self, epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Called after a step, at most once a second; an exception ends the training."""


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """The result of training besides the model's parameters.

    Attributes:
        history: ``epoch``, ``loss``, ``metric`` (null without a validation), ``seconds``.
        best_epoch: the epoch whose parameters the model has.
        best_metric: its validation metric.
        epochs: number of trained epochs.
    """

    history: pl.DataFrame
    best_epoch: int
    best_metric: float
    epochs: int


_HISTORY = {"epoch": pl.Int64, "loss": pl.Float64, "metric": pl.Float64, "seconds": pl.Float64}


def resolve_device(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        InputError: the name is unknown, or CUDA is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(
            "unknown device", where="training settings, device", expected='"auto", "cpu" or "cuda"', found=repr(name)
        )
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device", where="device", expected='"cpu" or "auto"', found=name)
    return torch.device(name)


@checked("rr.fit")
def fit(
    model: Trained,
    config: TrainConfig,
    validate: Callable[[], float],
    seed: Seed,
    folder: Path | None = None,
    callback: EpochCallback | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    step_callback: StepCallback | None = None,
    plateau: Callable[[], float] | None = None,
) -> FitResult:
    """Train a model; it then has the parameters of its best validated epoch.

    Args:
        model: its parameters are initialised from ``seed``.
        config: budget and optimizer settings.
        validate: returns the validation metric, higher is better; called after ``model.refresh()``.
        seed: of parameters, order and negatives.
        folder: for the checkpoint of the last and the best state, from which a run continues.
        callback: called after every epoch.
        group: processes that train this model together. Only rank 0 uses ``validate``, ``folder``, ``callback``,
            ``step_callback`` and ``plateau``; the number of processes may change when a run continues.
        step_callback: called within long epochs.
        plateau: returns the validation metric of popularity. A model that is no better is not stopped early: in the
            first epochs most rank by popularity, without a new best.

    Raises:
        InputError: the folder has a run of another configuration or graph; loss or metric is not finite; data, type
            of device or relrank version of a process differ from those of rank 0.
    """
    device = group.on_all_ranks(lambda: group.device(resolve_device(config.device)))
    path = folder / "last.safetensors" if folder and group.first else None
    identity = _identity(model, config, seed) if path or group.size > 1 else {}
    # "auto" may be a GPU on one machine and the CPU on another, whose gradients would wait for each other forever
    _check_same(identity | {"device": device.type, "relrank": relrank.__version__}, group)
    model.init_weights(seed)
    model.to(device)
    optimizer = torch.optim.Adam(_trainable(model), lr=config.lr, fused=True)
    run = _start(model, optimizer, path, identity, group)

    floor = group.broadcast_from_rank0(plateau) if config.patience and plateau is not None else -math.inf
    for epoch in range(run.epoch + 1, config.epochs + 1):
        if config.patience and run.n_stale >= config.patience and run.best_metric > floor:
            break
        began = time.perf_counter()
        loss = _epoch(model, optimizer, epoch, config, seed, device, group, step_callback)
        group.on_all_ranks(partial(_finite, "loss", loss, epoch))
        metric = None
        if epoch % config.every == 0 or epoch == config.epochs:
            metric = group.broadcast_from_rank0(partial(_validated, model, validate, epoch))
            if metric > run.best_metric:
                run.best, run.best_epoch, run.best_metric = model.state() if group.first else {}, epoch, metric
        run.epoch = epoch
        run.rows.append((epoch, loss, metric, time.perf_counter() - began))
        if path is not None and metric is not None:
            run.save(path, identity, model, optimizer)
        if callback is not None and group.first:
            callback(epoch, config.epochs, loss, metric, run.best_metric, run.pace * (config.epochs - epoch))
    model.load_state(group.tensors(run.best))
    return run.result()


@dataclass(slots=True, eq=False)
class _Run:
    """The state of a run besides the model and the optimizer.

    Attributes:
        best: the model's state after the best epoch; {} in processes other than the first.
        best_epoch: its number; 0 before the first validation.
        best_metric: its validation metric.
        epoch: number of the last epoch.
        rows: epoch, loss, metric and seconds of every epoch.
    """

    best: dict[str, Tensor]
    best_epoch: int = 0
    best_metric: float = -math.inf
    epoch: int = 0
    rows: list[tuple[int, float, float | None, float]] = field(default_factory=list)

    @property
    def n_stale(self) -> int:
        """Number of validations since the best one."""
        return sum(1 for epoch, _, metric, _ in self.rows if metric is not None and epoch > self.best_epoch)

    @property
    def pace(self) -> float:
        """Mean seconds of the latest epochs."""
        return float(np.mean([row[3] for row in self.rows[-10:]]))

    def result(self) -> FitResult:
        """What ``fit`` returns."""
        history = pl.DataFrame(self.rows, schema=_HISTORY, orient="row")
        return FitResult(history, self.best_epoch, self.best_metric, len(self.rows))

    def save(self, path: Path, identity: dict[str, Any], model: Trained, optimizer: torch.optim.Optimizer) -> None:
        """Write the checkpoint: the last and the best state, Adam's, and the history."""
        note = {
            "identity": identity,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_metric": self.best_metric,
            "history": self.rows,
        }
        parts = {"model": model.state(), "best": self.best, "adam": _adam(optimizer)}
        save_tensors(path, {f"{part}.{k}": v for part, state in parts.items() for k, v in state.items()}, note)


def _start(
    model: Trained, optimizer: torch.optim.Optimizer, path: Path | None, identity: dict[str, Any], group: ProcessGroup
) -> _Run:
    """A new run, or the run of a checkpoint, whose states are loaded into model and optimizer."""
    run = _Run(model.state())
    tensors, note = _load_checkpoint(path, identity, group)
    if note is not None:
        model.load_state(_part(tensors, "model."))
        _load_adam(optimizer, _part(tensors, "adam."))
        run.best, run.rows = _part(tensors, "best."), [tuple(row) for row in note["history"]]
        run.epoch, run.best_epoch, run.best_metric = note["epoch"], note["best_epoch"], note["best_metric"]
    elif group.size > 1:  # normal random numbers may differ in the last digits between types of machines
        model.load_state(group.tensors(model.state()))
    return run


def _trainable(model: Trained) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _epoch(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    config: TrainConfig,
    seed: int,
    device: torch.device,
    group: ProcessGroup,
    callback: StepCallback | None,
) -> float:
    """One pass over all examples in random order; returns the mean loss over all processes."""
    began = shown = time.perf_counter()
    src, dst = model.examples()
    size = min(config.batch, max(1, int(src.size * model.max_batch_fraction)))
    order_seed, *batch_seeds = np.random.SeedSequence([seed, epoch]).spawn(1 + -(-src.size // size))
    order = np.arange(src.size, dtype=np.int32 if src.size < 2**31 else np.int64)
    np.random.default_rng(order_seed).shuffle(order)
    half = config.precision == "bfloat16"
    parameters = _trainable(model)
    total = 0.0
    model.train()

    def prepare(number: int) -> Any:
        batch = order[number * size : (number + 1) * size]
        share = batch[group.share(batch.size)]
        users, items = (side[share].astype(np.int64) for side in (src, dst))
        batch_seed = group.seed(batch_seeds[number])
        return batch.size, share.size, model.prepare(users, items, batch_seed) if share.size else None

    model.parallel = config.workers == 0
    steps = len(batch_seeds)
    for number, (count, n_share, batch) in enumerate(prefetch(prepare, steps, config.workers)):
        if config.decay == "linear":
            for parameter_group in optimizer.param_groups:
                parameter_group["lr"] = config.lr * (1 - ((epoch - 1) * steps + number) / (config.epochs * steps))
        optimizer.zero_grad(set_to_none=True)
        loss = None
        if batch is not None:  # with fewer examples than processes some have none
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = model.loss(batch.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
        mean = group.reduce_gradients(parameters, loss, n_share / count)
        optimizer.step()
        total += mean * count
        if callback is not None and group.first and (now := time.perf_counter()) - shown >= 1:
            shown, done = now, number + 1
            left = (now - began) / done * (steps * (config.epochs - epoch + 1) - done)
            callback(epoch, config.epochs, done, steps, total / min(done * size, src.size), left)
    model.eval()
    model.parallel = True
    return total / src.size


def _identity(model: Trained, config: TrainConfig, seed: int) -> dict[str, Any]:
    """Everything that determines a run's weights, as it is read back from JSON: settings, edges and features."""
    graph = model.graph
    edges = hashlib.sha256()
    for relation in graph.ordered_relations():
        edges.update(f"{relation.name} {relation.source} {relation.target} {len(relation)} ".encode())
        for column in (relation.src, relation.dst, relation.weight):
            edges.update(np.ascontiguousarray(column).data)
    for order in (graph.places, graph.events):
        if order is not None:
            edges.update(np.ascontiguousarray(order).data)
    for name in sorted(graph.features):
        edges.update(f"{name} {graph.features[name].sha256()}".encode())
    identity = {
        "model": model.name,
        "config": asdict(model.config),
        "train": asdict(config),
        "seed": seed,
        "graph": graph.fingerprint,
        "edges": edges.hexdigest(),
        "nodes": [[name, len(ids)] for name, ids in graph.nodes.items()],
    }
    result: dict[str, Any] = json.loads(json.dumps(identity))
    return result


def _validated(model: Trained, validate: Callable[[], float], epoch: int) -> float:
    model.refresh()
    return _finite("metric", validate(), epoch)


def _finite(name: str, value: float, epoch: int) -> float:
    if not math.isfinite(value):
        raise InputError(f"{name} is not finite", where=f"epoch {epoch}", expected="a number", found=str(value))
    return value


def _load_checkpoint(
    path: Path | None, identity: dict[str, Any], group: ProcessGroup
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and note of rank 0's checkpoint, None if there is none; only rank 0 gets the best state."""
    tensors: dict[str, Tensor] = {}

    def read() -> dict[str, Any] | None:
        if path is None or not path.exists():
            return None
        loaded, note = load_tensors(path)
        if note["identity"] != identity:
            raise InputError(
                "folder holds a run of another configuration",
                where=str(path.parent),
                expected=str(identity),
                found=str(note["identity"]),
            )
        tensors.update(loaded)
        return note

    note = group.broadcast_from_rank0(read)
    return tensors | group.tensors({k: t for k, t in tensors.items() if not k.startswith("best.")}), note


def _check_same(identity: dict[str, Any], group: ProcessGroup) -> None:
    """Check that gradients of equal data, programs and types of device are averaged.

    Raises:
        InputError: settings, edges, device or relrank version of a process differ from those of rank 0.
    """
    first = group.broadcast_from_rank0(lambda: identity)

    def check() -> None:
        if other := sorted(name for name in identity if identity[name] != first[name]):
            plain = [name for name in other if name in ("device", "relrank")]
            raise InputError(
                "processes differ in what they train on",
                where=", ".join(other),
                found=", ".join(str(identity[name]) for name in plain) or "another",
                expected=", ".join(["that of the first process", *(str(first[name]) for name in plain)]),
            )

    group.on_all_ranks(check)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _adam(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by "parameter number.name"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}


def _load_adam(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state_dict = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    state_dict["state"] = state
    optimizer.load_state_dict(state_dict)
