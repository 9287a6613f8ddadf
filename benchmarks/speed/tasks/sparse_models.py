"""Item-item models from 10,000 items to a million: seconds of the fit, its peak memory, NDCG@20.

The inputs are generated with the degree laws of goodbooks (the smallest), Amazon-book (its size) and Gowalla (the
others) and with latent groups, see `benchmarks/grouped_interactions.py`. A tenth of the items of 10,000 users is held
out, and these users are ranked against the full catalogue. Settings are the same for all sizes: EASE's λ and the
factorisation's are the better of two at 10,000 items, neighbours 100, and nothing else was tuned. SANSA gets as many
weights per item as were published for Amazon-book, and ten times as many; its environment needs a C compiler and
SuiteSparse's headers (Debian: `libsuitesparse-dev`). Who needs more memory or time than one may take is not asked at
larger sizes. MB is the most that the process held until the fit was done. ``SPARSE_MODELS_SIZES=92k`` in the
environment, names with commas, asks at these sizes alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from graphs import graph_of
from relrank.evaluation.evaluate import evaluate
from relrank.graph.graph import Graph
from relrank.models import MODELS, ClosedForm
from relrank.tables.split import Interactions, Split
from speed.environments import Skipped
from speed.frame import Context, Entry, Row, Timed, shown
from speed.inputs import GROUPED, grouped
from speed.lists import K
from speed.peer import Call, peak_mb
from speed.tasks.ranking import split_of

TASK = "sparse_models"
QUICK, SIZES = ("3k",), ("10k", "41k", "92k", "300k", "1m")
TIMES = {"300k": 2.0, "1m": 4.0}
"""Budgets that one may take, where the size makes it more than one."""
AGAIN = 100.0
"""Seconds of a fit above which it is not repeated after everybody else's."""
MEMORY = 0.75
"""Share of the machine's memory that one may hold, or of what is free when the task begins, whichever is less."""


def relrank_model(name: str, note: str = "", **config: Any) -> Entry:
    """One of relrank's models with its hyper-parameters."""
    return Entry("relrank", f"relrank, {name}", {"model": name, "config": config}, note=note)


L2 = 500.0
OURS = (relrank_model("sparse-ease"), relrank_model("item-knn"), relrank_model("ease", l2=L2))
"""The first that this version has is what all others are compared with."""
SANSA = {"l2": 20.0, "scans": 3, "finetune_steps": 10}
ALS = {"factors": 128, "regularization": 10.0, "alpha": 10.0, "iterations": 15, "random_state": 0}
PEERS = (
    Entry("sansa", "SANSA", SANSA | {"per_item": 4.58}),
    Entry("sansa", "SANSA, ten times the weights", SANSA | {"per_item": 45.8}),
    Entry("implicit", "implicit, CosineRecommender", {"model": "cosine", "config": {"K": 100}}),
    Entry("implicit", "implicit, BM25Recommender", {"model": "bm25", "config": {"K": 100}}),
    Entry("implicit", "implicit, AlternatingLeastSquares", {"model": "als", "config": ALS}),
    Entry("rectools", "RecTools, EASE", {"l2": L2}, note="it ranks by the transposed weights"),
    Entry("lenskit", "LensKit, EASE", {"l2": L2}),
)


def rows(context: Context) -> Iterator[Row]:
    """Size by size, everybody who has not failed at a smaller one."""
    limits = replace(context, memory_gb=round(MEMORY * min(memory_gb()), 1))
    failed: dict[str, str] = {}
    ours = [entry for entry in OURS if entry.options["model"] in MODELS]
    chosen = os.environ.get("SPARSE_MODELS_SIZES")
    for size in chosen.split(",") if chosen else QUICK if context.quick else SIZES:
        yield from of_size(replace(limits, budget=context.budget * TIMES.get(size, 1.0)), size, ours, failed)


def of_size(context: Context, size: str, ours: list[Entry], failed: dict[str, str]) -> Iterator[Row]:
    """Rows of one size.

    Args:
        context: with the limits of this size.
        size: one of ``GROUPED``.
        ours: relrank's entries, the first of which is what the others are compared with.
        failed: why those who failed at a smaller size are not asked; those who fail now are added.
    """
    shape = GROUPED[size]
    title = f"generated, {shape.n_users:,} × {shape.n_items:,}, {shape.n_pairs / 1e6:.3g} M"
    file = context.input(f"grouped-{size}")

    def ask(entry: Entry) -> Timed | Skipped:
        if entry.who in failed:
            return Skipped(failed[entry.who])
        answer = context.run_peer(entry.peer, TASK, file, **entry.options)
        if isinstance(answer, Skipped):
            failed[entry.who] = f"not asked after {shape.n_items:,} items: {answer.why}"
        return answer

    first, *rest = ours
    before = ask(first)
    others = [(entry, ask(entry)) for entry in (*rest, *PEERS)]
    base = None
    if isinstance(before, Timed):
        if sum(before.seconds) <= AGAIN and not context.quick:
            before = both(before, context.run_peer(first.peer, TASK, file, **first.options))
        base = median(before.seconds)
    for entry, answer in ((first, before), *others):
        yield row_of(title, entry, answer, base)


def both(before: Timed, after: Timed | Skipped) -> Timed:
    """Two runs of the same as one."""
    if isinstance(after, Skipped):
        return before
    seconds = before.seconds + after.seconds
    return replace(before, seconds=seconds, peak_mb=max(before.peak_mb, after.peak_mb))


def row_of(title: str, entry: Entry, answer: Timed | Skipped, base: float | None) -> Row:
    """The row of one participant.

    Args:
        title: of the data.
        entry: who.
        answer: what came of it.
        base: seconds of those whom all are compared with; None without.
    """
    if isinstance(answer, Skipped):
        return Row(TASK, title, entry.who, None, note=answer.why)
    seconds, figures = median(answer.seconds), answer.figures
    note = f"NDCG@{K} {figures[f'ndcg@{K}']:.4f}, {figures['users']:,} users ranked in {shown(figures['rank_s'])}"
    if max(answer.seconds) > 1.1 * min(answer.seconds):
        note += f"; first run {shown(answer.seconds[0])}, last run {shown(answer.seconds[-1])}"
    return Row(
        TASK, title, entry.who, seconds, None if base is None else seconds / base, answer.peak_mb, None,
        "; ".join(filter(None, (note, entry.note))), None, answer.seconds, answer.version, figures,
    )  # fmt: skip


def memory_gb() -> tuple[float, float]:
    """The machine's memory, and what is free of it, GB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e9 for line in lines}
    return found["MemTotal"], found["MemAvailable"]


def relrank(call: Call) -> list[float]:
    """A closed form, solved and evaluated; on the smallest input first, which compiles."""
    data, options = call.data, call.options
    kind = MODELS[options["model"]]
    if not issubclass(kind, ClosedForm):
        raise TypeError(f"{options['model']} is not a closed form")
    config = kind.Config(**options["config"])

    few, graph = prepared(grouped(GROUPED["3k"], None))
    evaluate(kind(graph, config).solve(), few, (K,))
    split, graph = prepared(data)
    began = time.perf_counter()
    model = kind(graph, config).solve()
    seconds = time.perf_counter() - began
    call.peak_mb = peak_mb()
    began = time.perf_counter()
    found = evaluate(model, split, (K,))
    call.figures |= {
        "rank_s": time.perf_counter() - began, "users": int(found.summary["n_users"]),
        f"ndcg@{K}": found.summary[f"ndcg@{K}"],
    }  # fmt: skip
    return [seconds]


def prepared(data: dict[str, Any]) -> tuple[Split, Graph]:
    """The split and the graph of its training rows."""
    train, test = (Interactions(data[f"{part}_user"], data[f"{part}_item"]) for part in ("train", "test"))
    n_users, n_items = data["n_users"], data["n_items"]
    return split_of(train, test, n_users, n_items), graph_of((train.user, train.item), n_users, n_items)
