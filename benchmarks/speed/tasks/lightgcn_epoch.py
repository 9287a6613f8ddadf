"""Epochs of LightGCN on Gowalla, and how long it takes to rank as well as the paper does (NDCG@20 .1554).

Everybody trains whole epochs with the published loss for as long as relrank took to the last goal, 60 seconds at
least and 120 at most. Relrank takes part twice: with the published loss as well, over which the × of an epoch is, and
with settings tuned on Gowalla, ``SETTINGS`` and ``TRAIN``, a softmax over 512 shared negatives: another loss. The ×
to an NDCG@20 is over the latter; the one over relrank with the published loss stands beside it. NDCG@20 is read from
test after each epoch, off the clock, to say when it was reached; nothing is chosen by it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace

from graphs import graph_of
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.training import TrainConfig, fit
from speed.environments import Skipped
from speed.frame import Context, Entry, Row, Timed, shown, table
from speed.loop import BATCH, LR, ndcg
from speed.peer import Call
from speed.tasks.lightgcn_step import ONE_WAY, PLAIN

SETTINGS = RelationalLightGCNConfig(l2=0.03, ridge=0.0)
TRAIN = TrainConfig(epochs=24, batch=8192, lr=0.02, decay="linear", every=1)
WANTED = (0.150, 0.155)
SECONDS, MOST = 60.0, 120.0
TUNED = "relrank, tuned: 512 shared negatives"
PUBLISHED = "relrank, published loss"
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
            yield Row(task, "Gowalla, an epoch", PUBLISHED, None, note=short.why)
        return
    own = context.run_peer("relrank", task, file, recipe="study", seconds=1e9, wanted=WANTED)
    seconds = allowed(own)
    before = context.run_peer("relrank", task, file, recipe="plain", seconds=seconds, wanted=WANTED)
    if not isinstance(before, Timed):
        yield Row(task, "Gowalla, an epoch", PUBLISHED, None, note=before.why)
        return
    others = [
        (entry, context.run_peer(entry.peer, task, file, **entry.options, seconds=seconds, wanted=WANTED))
        for entry in PEERS
    ]
    after = context.run_peer("relrank", task, file, recipe="plain", seconds=1, wanted=WANTED)
    study = Entry("relrank", TUNED, note="another loss")
    answers = [(study, own), *others]
    first, *rest = table(task, "Gowalla, an epoch", before, after, answers)
    yield replace(first, who=PUBLISHED)
    yield from rest
    published = Entry("relrank", PUBLISHED)
    for wanted in WANTED:
        title = f"Gowalla, to NDCG@20 .{round(wanted * 1000)}, over relrank tuned"
        bases = reached(own, wanted), reached(before, wanted)
        for entry, answer in (study, own), (published, before), *others:
            yield until(task, title, wanted, entry, answer, bases)


def reached(answer: Timed | Skipped, wanted: float) -> float | None:
    """Seconds to an NDCG@20, where there is an answer, and it came so far."""
    found: float | None = answer.figures["reached"][f"{wanted:.3f}"] if isinstance(answer, Timed) else None
    return found


def allowed(own: Timed | Skipped) -> float:
    """Seconds that everybody may train: as long as relrank tuned took to the last goal, within bounds."""
    if not isinstance(own, Timed):
        return SECONDS
    return min(MOST, max(SECONDS, reached(own, max(WANTED)) or sum(own.seconds)))


def until(
    task: str, title: str, wanted: float, entry: Entry, answer: Timed | Skipped,
    bases: tuple[float | None, float | None],
) -> Row:  # fmt: skip
    """When somebody reached it, or how far they came.

    Args:
        task: as its file is called.
        title: goal.
        wanted: NDCG@20.
        entry: who.
        answer: what they gave.
        bases: seconds of relrank, tuned and with the published loss, where it came so far.
    """
    if not isinstance(answer, Timed):
        return Row(task, title, entry.who, None, note=answer.why)
    at = reached(answer, wanted)
    last, epochs = answer.figures["ndcg@20"], len(answer.seconds)
    note = "; ".join(filter(None, (entry.note, f"NDCG@20 {last:.4f} after {epochs} epoch{'s' * (epochs > 1)}")))
    if at is None:
        return Row(
            task, title, entry.who, None, note=f"not reached within {shown(sum(answer.seconds))}; {note}",
            version=answer.version,
        )  # fmt: skip
    tuned, published = bases
    ratio = at / tuned if tuned else None
    if published is None:
        note += "; relrank with the published loss did not come so far"
    elif entry.who != PUBLISHED:
        note += f"; {at / published:.3g} × {PUBLISHED}"
    return Row(task, title, entry.who, at, ratio, answer.peak_mb, None, note, version=answer.version)


class _EnoughError(Exception):
    """The seconds are over."""


def relrank(call: Call) -> list[float]:
    """The trainer itself; the clock stands while it is judged. Compiling counts, in the first epoch."""
    data = call.data
    graph = graph_of((data["train_user"], data["train_item"]), data["n_users"], data["n_items"])
    if call.options["recipe"] == "study":
        config, train = SETTINGS, TRAIN
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
