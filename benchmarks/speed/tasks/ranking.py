"""Every user of Gowalla ranked against all places, training rows masked: exact ranks, Recall@20, NDCG@20.

64 float32 per user and place, the same for everybody (``inputs.gowalla_vectors``). relrank evaluates through its own
public function: exact ranks, all metrics at 20, the table of users. Plain blocks are what most training scripts do:
product, mask, 20 best, metrics; they take turns with relrank in one process. All must find the same NDCG@20.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from graphs import graph_of
from relrank.evaluation.evaluate import evaluate
from relrank.evaluation.ranking import ranks
from relrank.models.graph.mf import MF, MFConfig
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from speed.frame import Context, Entry, Row, Target, void_where_unlike
from speed.peer import Call

K, WANTED = 20, 16_000
TITLE = "Gowalla, 29,858 users × 40,981 items, 64 dimensions"
ON_SAMPLE = "on 2,000 users, scaled to all"
ONE_PROCESS = "in one process: with two it took half as long again"
PEERS = (
    Entry("implicit", "implicit, ranking_metrics_at_k"),
    Entry("rectools", "RecTools, ImplicitRanker and calc_metrics"),
    Entry("lenskit", "LensKit, batch.recommend and RunAnalysis", note=f"{ON_SAMPLE}; {ONE_PROCESS}"),
    Entry("plain", "Python loop over users, NumPy inside", note=ON_SAMPLE),
)


def promised(quick: bool) -> Iterator[Row]:
    """So many users a second."""
    del quick
    yield Row("ranking", TITLE, "relrank", None, note="not measured", target=_target(None))


def _target(rate: float | None) -> Target:
    return Target(f"at least {WANTED:,} users a second, exact", rate, WANTED)


def rows(context: Context) -> Iterator[Row]:
    """relrank, the blocks beside it, libraries."""
    file = context.input("gowalla_vectors")
    first, *others = context.compare("ranking", TITLE, file, PEERS, rounds=1 if context.quick else 3)
    if first.seconds is None:
        yield first
        return
    figures = first.figures
    rate = figures["users"] / first.seconds
    operations = 2 * figures["users"] * figures["items"] * figures["dim"]
    limit = context.roofline.sgemm_gflop_s * 1e9
    note = f"{rate:,.0f} users/s; ranks alone {figures['users'] / figures['ranks_s']:,.0f}"
    first = replace(
        first, fraction=operations / first.seconds / limit, note="; ".join(filter(None, (note, first.note))),
        target=_target(rate),
    )  # fmt: skip
    blocks = Row(
        "ranking", TITLE, "plain torch blocks, top 20 only", figures["blocks_s"],
        figures["blocks_s"] / first.seconds, None, operations / figures["blocks_s"] / limit,
        f"{figures['users'] / figures['blocks_s']:,.0f} users/s, in relrank's process",
        figures={name: figures[f"blocks {name}"] for name in ("ndcg@20", "recall@20")},
    )  # fmt: skip
    whole, sampled = [first, blocks], [replace(first, figures={"ndcg@20": figures["sample ndcg@20"]})]
    for row in others:
        (sampled if ON_SAMPLE in row.note else whole).append(row)
    yield from void_where_unlike(whole, "ndcg@20", 1e-4)
    yield from void_where_unlike(sampled, "ndcg@20", 1e-4)[1:]


def relrank(call: Call) -> list[float]:
    """Evaluation, the same ranks alone, and the blocks, by turns."""
    data = call.data
    n_users, n_items = data["n_users"], data["n_items"]
    train, test = (Interactions(data[f"{part}_user"], data[f"{part}_item"]) for part in ("train", "test"))
    users, items = (torch.from_numpy(data[f"{side}_vectors"]) for side in ("user", "item"))
    model = MF(graph_of((train.user, train.item), n_users, n_items), MFConfig(dim=users.shape[1]))
    model.load_state({"table": torch.cat([users, items])})
    split = split_of(train, test, n_users, n_items)
    seen, truth = split.seen("test"), split.truth("test")

    seconds: dict[str, list[float]] = {"evaluate": [], "ranks": [], "blocks": []}
    for number in range(1 + call.options["rounds"]):
        began = time.perf_counter()
        evaluation = evaluate(model, split, (K,))
        evaluated = time.perf_counter()
        ranks(model, seen, truth)
        ranked = time.perf_counter()
        recall, ndcg = by_blocks(users, items, train, test)
        done = time.perf_counter()
        if number:  # the first compiles
            for name, spent in zip(seconds, (evaluated - began, ranked - evaluated, done - ranked), strict=True):
                seconds[name].append(spent)
    of_sample = evaluation.table.filter(pl.col("user").is_in(data["sample"].tolist()))
    call.figures |= {
        "ndcg@20": evaluation.summary["ndcg@20"], "recall@20": evaluation.summary["recall@20"],
        "sample ndcg@20": of_sample["ndcg@20"].mean(),
        "blocks ndcg@20": float(ndcg.mean()), "blocks recall@20": float(recall.mean()),
        **{f"{name}_s": median(spent) for name, spent in seconds.items()},
        "users": len(evaluation.table), "items": n_items, "dim": users.shape[1],
    }  # fmt: skip
    return seconds["evaluate"]


def split_of(train: Interactions, test: Interactions, n_users: int, n_items: int) -> Split:
    """Training and test rows as they are."""
    users, items = (IdMap(side, pl.Series(range(n))) for side, n in (("user", n_users), ("item", n_items)))
    return Split(users, items, train, train.take(np.zeros(0, np.int64)), test, "benchmark", "benchmark")


def by_blocks(
    users: torch.Tensor, items: torch.Tensor, train: Interactions, test: Interactions, k: int = K, block: int = 1024
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall@k and NDCG@k of every user with test rows, from top-k lists alone.

    Args:
        users: float32 [n_users, d].
        items: float32 [n_items, d].
        train: rows to mask.
        test: relevant rows.
        k: length of the lists.
        block: users scored at once.
    """
    n_users, n_items = len(users), len(items)
    order = np.argsort(train.user, kind="stable")
    seen_user, seen_item = train.user[order], torch.from_numpy(train.item[order].astype(np.int64))
    relevant = np.sort(test.user.astype(np.int64) * n_items + test.item)
    n_relevant = np.bincount(test.user, minlength=n_users)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0], np.cumsum(discount)])[np.minimum(n_relevant, k)]
    recall, ndcg = np.zeros(n_users), np.zeros(n_users)
    for start in range(0, n_users, block):
        stop = min(start + block, n_users)
        scores = users[start:stop] @ items.T
        first, last = np.searchsorted(seen_user, [start, stop])
        scores[torch.from_numpy(seen_user[first:last].astype(np.int64) - start), seen_item[first:last]] = -torch.inf
        best = scores.topk(k).indices.numpy()
        keys = np.arange(start, stop)[:, None] * n_items + best
        at = np.minimum(np.searchsorted(relevant, keys), relevant.size - 1)
        hits = relevant[at] == keys
        recall[start:stop] = hits.sum(1) / np.maximum(n_relevant[start:stop], 1)
        ndcg[start:stop] = hits @ discount / np.maximum(ideal[start:stop], discount[0])
    asked = n_relevant > 0
    return recall[asked], ndcg[asked]
