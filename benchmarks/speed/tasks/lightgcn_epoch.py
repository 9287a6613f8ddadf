"""Epochs of LightGCN on Gowalla, and how long it takes to rank as well as the paper does (NDCG@20 .1554).

Everybody trains whole epochs until 60 seconds of training have passed, with the published loss; relrank beside that
with the settings of ``studies/gowalla.toml``, to its end. NDCG@20 is read from test after each epoch, off the clock,
to say when it was reached; nothing is chosen by it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from graphs import graph_of
from relrank.models.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.training import TrainConfig, fit
from speed.frame import Context, Entry, Row, Timed, shown, table
from speed.loop import BATCH, LR, ndcg
from speed.peer import Call
from speed.tasks.lightgcn_step import ONE_WAY, PLAIN

STUDY = Path(__file__).parents[3] / "studies" / "gowalla.toml"
WANTED = (0.150, 0.155)
SECONDS = 60.0
PEERS = (
    Entry("pyg", "PyG, edge list"),
    Entry("torch_lightgcn", "torch COO (LightGCN-PyTorch's method)", {"layout": "coo"}),
    Entry("torch_lightgcn", "torch CSR, its own autograd", {"layout": "csr"}),
    Entry("recbole", "RecBole"),
    Entry("cornac", "Cornac, DGL"),
    Entry("lenskit_lightgcn", "LensKit", note=ONE_WAY),
)


def rows(context: Context) -> Iterator[Row]:
    """Seconds of an epoch, then seconds to each NDCG@20."""
    task, file = "lightgcn_epoch", context.input("gowalla")
    if context.quick:
        # an epoch of the peers is too long for that
        short = context.run_peer("relrank", task, file, recipe="plain", seconds=1, wanted=WANTED)
        if isinstance(short, Timed):
            yield from table(task, "Gowalla, an epoch", short, short, [])
        else:
            yield Row(task, "Gowalla, an epoch", "relrank, published loss", None, note=short.why)
        return
    before = context.run_peer("relrank", task, file, recipe="plain", seconds=SECONDS, wanted=WANTED)
    own = context.run_peer("relrank", task, file, recipe="study", seconds=1e9, wanted=WANTED)
    if not isinstance(before, Timed):
        yield Row(task, "Gowalla, an epoch", "relrank, published loss", None, note=before.why)
        return
    others = [
        (entry, context.run_peer(entry.peer, task, file, **entry.options, seconds=SECONDS, wanted=WANTED))
        for entry in PEERS
    ]
    after = context.run_peer("relrank", task, file, recipe="plain", seconds=1, wanted=WANTED)
    study = Entry("relrank", "relrank, settings of the study", note="512 shared negatives")
    answers = [(study, own), *others]
    first, *rest = table(task, "Gowalla, an epoch", before, after, answers)
    yield replace(first, who="relrank, published loss")
    yield from rest
    published = Entry("relrank", "relrank, published loss")
    for wanted in WANTED:
        title = f"Gowalla, to NDCG@20 .{round(wanted * 1000)}"
        base = own.figures["reached"][f"{wanted:.3f}"] if isinstance(own, Timed) else None
        for entry, answer in (study, own), (published, before), *others:
            yield until(task, title, wanted, entry, answer, base)


def until(task: str, title: str, wanted: float, entry: Entry, answer: object, base: float | None) -> Row:
    """When somebody reached it, or how far they came."""
    if not isinstance(answer, Timed):
        return Row(task, title, entry.who, None, note=getattr(answer, "why", ""))
    at: float | None = answer.figures["reached"][f"{wanted:.3f}"]
    last, epochs = answer.figures["ndcg@20"], len(answer.seconds)
    note = f"NDCG@20 {last:.4f} after {epochs} epoch{'s' * (epochs > 1)}"
    if at is None:
        return Row(
            task, title, entry.who, None, note=f"not reached within {shown(sum(answer.seconds))}; {note}",
            version=answer.version,
        )  # fmt: skip
    ratio = at / base if base else None
    return Row(task, title, entry.who, at, ratio, answer.peak_mb, None, note, version=answer.version)


class _EnoughError(Exception):
    """The seconds are over."""


def relrank(call: Call) -> list[float]:
    """The trainer itself; the clock stands while it is judged. Compiling counts, in the first epoch."""
    data = call.data
    graph = graph_of((data["train_user"], data["train_item"]), data["n_users"], data["n_items"])
    if call.options["recipe"] == "study":
        found = tomllib.loads(STUDY.read_text(encoding="utf-8"))["models"]
        entry = next(model for model in found if model["name"] == "relational-lightgcn")
        config = RelationalLightGCNConfig(**entry["config"])
        train = TrainConfig(**{**entry["train"], "every": 1})
    else:
        config, train = PLAIN, TrainConfig(epochs=1000, batch=BATCH, lr=LR, every=1)
    model = RelationalLightGCN(graph, config)
    reached: dict[str, float | None] = {f"{wanted:.3f}": None for wanted in call.options["wanted"]}
    ends = [0.0]
    judging = 0.0
    began = time.perf_counter()

    def validate() -> float:
        nonlocal judging
        stopped = time.perf_counter()
        ends.append(stopped - began - judging)
        value = ndcg(*model.encoded(), data)
        call.figures["ndcg@20"] = value
        for wanted in call.options["wanted"]:
            if value >= wanted and reached[f"{wanted:.3f}"] is None:
                reached[f"{wanted:.3f}"] = ends[-1]
        judging += time.perf_counter() - stopped
        if ends[-1] >= call.options["seconds"]:
            raise _EnoughError
        return value

    with contextlib.suppress(_EnoughError):
        fit(model, train, validate, seed=0)
    call.figures["reached"] = reached
    return [b - a for a, b in itertools.pairwise(ends)]
