"""The one loop that moves parameters: equal for every model with gradients.

Order of edges and negatives of epoch e come from (seed, e), so a run that was killed goes on from its last checkpoint
to the same final weights, bit for bit, on one machine. Which epoch is best is decided on validation; what is kept of
it is a copy, not references.

Several processes (``relrank.parallel.process_group``) pass over an epoch together: the order is that of one, every
batch is cut into a share for each, gradients are averaged over the whole batch, and the first process validates and
writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

import relrank
from relrank.errors import InputError
from relrank.graph.sampling.neighbour_sampling import prefetch
from relrank.io.tensors import load_tensors, save_tensors
from relrank.models.core.base import Trained
from relrank.models.core.hyperparameters import NonNegative, NonNegativeInt, PositiveInt, check_settings
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how fast; the same for every arm of a study."""

    epochs: PositiveInt = 60
    """Passes over the training data at most."""
    batch: PositiveInt = 4096
    """Training edges per step, of all processes together; of a sequence model, users."""
    lr: NonNegative = 0.01
    """Adam's learning rate; where it decays, the one of the first step."""
    decay: Literal["none", "linear"] = "none"
    """Linear: the rate falls to 0 with the last step of the last epoch."""
    every: PositiveInt = 5
    """Epochs between two validations."""
    patience: NonNegativeInt = 0
    """Validations without a new best before stopping early; 0 trains all epochs."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the losses' matrix products in half the bytes (torch autocast)."""
    workers: NonNegativeInt = 0
    """Threads that draw negatives and neighbours ahead of the steps; 0 draws in the training thread."""

    def __post_init__(self) -> None:
        check_settings(self, TrainConfig, "training settings")


class EpochCallback(Protocol):
    """Sees every epoch: number so far, of how many, loss, latest and best validation metric, seconds left."""

    def __call__(
        self, epoch: int, epochs: int, loss: float, metric: float | None, best: float, seconds_left: float
    ) -> None:
        """Called after each epoch."""


class StepCallback(Protocol):
    """Sees a long epoch while it lasts: its number, of how many, steps done, of how many, mean loss, seconds left."""

    def __call__(self, epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None:
        """Called after a step, once a second at most; what it raises ends the training."""


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What training leaves beside the model.

    Attributes:
        history: ``epoch``, ``loss``, ``metric`` (null where not validated), ``seconds``.
        best_epoch: the epoch whose parameters the model now holds.
        best_metric: its validation metric.
        epochs: epochs trained.
    """

    history: pl.DataFrame
    best_epoch: int
    best_metric: float
    epochs: int


_HISTORY = {"epoch": pl.Int64, "loss": pl.Float64, "metric": pl.Float64, "seconds": pl.Float64}


def resolve_device(name: str) -> torch.device:
    """The device a setting names.

    Raises:
        InputError: it names none, or CUDA is asked for and there is none.
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


def fit(
    model: Trained,
    config: TrainConfig,
    validate: Callable[[], float],
    seed: int,
    folder: Path | None = None,
    callback: EpochCallback | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    step_callback: StepCallback | None = None,
) -> FitResult:
    """Train a model; afterwards it holds the parameters of its best validated epoch.

    Args:
        model: parameters are initialised here from ``seed``.
        config: budget.
        validate: the metric on validation, by full ranking, higher is better; called after ``model.refresh()``.
        seed: of parameters, order and negatives.
        folder: where the last and the best state are kept; a run found there is continued, another one is refused.
        callback: told of every epoch.
        group: the processes that train this model together. ``validate``, ``folder``, ``callback`` and
            ``step_callback`` are used by the first of them alone; how many there are may change when a run is
            continued.
        step_callback: told of steps, where epochs are long.

    Raises:
        InputError: the folder holds a run of another configuration or graph; loss or metric is not finite; a process
            has other data than the first, another kind of device, or another relrank.
    """
    device = group.on_all_ranks(lambda: group.device(resolve_device(config.device)))
    last = folder / "last.safetensors" if folder and group.first else None
    identity = _identity(model, config, seed) if last or group.size > 1 else {}
    # "auto" may be a GPU here and none there, and gradients would wait for one another for ever
    _check_same(identity | {"device": device.type, "relrank": relrank.__version__}, group)
    model.init_weights(seed)
    model.to(device)
    movable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(movable, lr=config.lr, fused=True)
    rows: list[tuple[int, float, float | None, float]] = []
    best, best_epoch, best_metric, start = model.state(), 0, -math.inf, 0
    tensors, note = _kept(last, identity, group)
    if note is not None:
        model.load_state(_part(tensors, "model."))
        best = _part(tensors, "best.")
        _load_adam(optimizer, _part(tensors, "adam."))
        rows = [tuple(row) for row in note["history"]]
        start, best_epoch, best_metric = note["epoch"], note["best_epoch"], note["best_metric"]
    elif group.size > 1:  # machines of different makes may draw normal numbers with different last digits
        model.load_state(group.tensors(model.state()))

    def validated(epoch: int) -> float:
        model.refresh()
        return _finite("metric", validate(), epoch)

    stale = _stale(rows, best_epoch)
    for epoch in range(start + 1, config.epochs + 1):
        if config.patience and stale >= config.patience:
            break
        began = time.perf_counter()
        loss = _epoch(
            model, optimizer, epoch, config, np.random.SeedSequence([seed, epoch]), device, group, step_callback
        )
        group.on_all_ranks(partial(_finite, "loss", loss, epoch))
        metric = None
        if epoch % config.every == 0 or epoch == config.epochs:
            metric = group.broadcast_from_rank0(partial(validated, epoch))
            if metric > best_metric:
                best, best_epoch, best_metric, stale = model.state() if group.first else {}, epoch, metric, 0
            else:
                stale += 1
        rows.append((epoch, loss, metric, time.perf_counter() - began))
        if last is not None and (metric is not None):
            note = {
                "identity": identity,
                "epoch": epoch,
                "best_epoch": best_epoch,
                "best_metric": best_metric,
                "history": rows,
            }
            state = {f"model.{k}": v for k, v in model.state().items()} | {f"best.{k}": v for k, v in best.items()}
            save_tensors(last, state | {f"adam.{k}": v for k, v in _adam(optimizer).items()}, note)
        if callback is not None and group.first:
            pace = float(np.mean([row[3] for row in rows[-10:]]))
            callback(epoch, config.epochs, loss, metric, best_metric, pace * (config.epochs - epoch))
    model.load_state(group.tensors(best))
    return FitResult(pl.DataFrame(rows, schema=_HISTORY, orient="row"), best_epoch, best_metric, len(rows))


def _epoch(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    config: TrainConfig,
    seed: np.random.SeedSequence,
    device: torch.device,
    group: ProcessGroup,
    callback: StepCallback | None,
) -> float:
    """One pass over all examples in random order; the mean loss of all processes."""
    began = shown = time.perf_counter()
    src, dst = model.examples()
    size = min(config.batch, max(1, int(src.size * model.max_batch_fraction)))
    order_seed, *batch_seeds = seed.spawn(1 + -(-src.size // size))
    order = np.arange(src.size, dtype=np.int32 if src.size < 2**31 else np.int64)
    np.random.default_rng(order_seed).shuffle(order)
    half = config.precision == "bfloat16"
    movable = [p for p in model.parameters() if p.requires_grad]
    total = 0.0
    model.train()

    def prepare(number: int) -> Any:
        picked = order[number * size : (number + 1) * size]
        own = picked[group.share(picked.size)]
        users, items = (side[own].astype(np.int64) for side in (src, dst))
        seed = group.seed(batch_seeds[number])
        return picked.size, own.size, model.prepare(users, items, seed) if own.size else None

    model.parallel = config.workers == 0
    steps = len(batch_seeds)
    for number, (count, own, batch) in enumerate(prefetch(prepare, steps, config.workers)):
        if config.decay == "linear":
            for part in optimizer.param_groups:
                part["lr"] = config.lr * (1 - ((epoch - 1) * steps + number) / (config.epochs * steps))
        optimizer.zero_grad(set_to_none=True)
        loss = None
        if batch is not None:  # fewer examples than processes leave some without any
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = model.loss(batch.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
        mean = group.reduce_gradients(movable, loss, own / count)
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
    """What decides a run's weights, as it reads back from JSON: settings and every edge, not names alone."""
    graph = model.graph
    edges = hashlib.sha256()
    for relation in (graph.interactions, *(graph.relations[name] for name in sorted(graph.relations))):
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


def _finite(name: str, value: float, epoch: int) -> float:
    if not math.isfinite(value):
        raise InputError(f"{name} is not finite", where=f"epoch {epoch}", expected="a number", found=str(value))
    return value


def _kept(
    last: Path | None, identity: dict[str, Any], group: ProcessGroup
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """What the first process finds on disk: tensors and note, or None; the best state stays with the first."""
    tensors: dict[str, Tensor] = {}

    def read() -> dict[str, Any] | None:
        if last is None or not last.exists():
            return None
        found, note = load_tensors(last)
        if note["identity"] != identity:
            raise InputError(
                "folder holds a run of another configuration",
                where=str(last.parent),
                expected=str(identity),
                found=str(note["identity"]),
            )
        tensors.update(found)
        return note

    note = group.broadcast_from_rank0(read)
    return tensors | group.tensors({k: t for k, t in tensors.items() if not k.startswith("best.")}), note


def _check_same(identity: dict[str, Any], group: ProcessGroup) -> None:
    """Gradients of different data, programs or kinds of device must not be averaged.

    Raises:
        InputError: a process's settings, edges, device or relrank are not those of the first.
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
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    whole["state"] = state
    optimizer.load_state_dict(whole)


def _stale(rows: list[tuple[int, float, float | None, float]], best_epoch: int) -> int:
    """Validations since the best one."""
    return sum(1 for epoch, _, metric, _ in rows if metric is not None and epoch > best_epoch)
