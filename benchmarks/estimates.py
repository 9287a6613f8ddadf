"""Estimated against measured memory and time of closed forms and some trained models, three sizes each.

    python benchmarks/estimates.py [--only NAME ...] [--json FILE]

Every case runs in a process of its own, on a generated graph: users' degrees are those of a geometric distribution
with a mean of 20, items are drawn by a Zipf law. The model is solved, or trained for one epoch, and scores a block of
users. Measured is the peak of resident memory (VmHWM) over what was resident before, once everything is compiled.
Needs 6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels import dense_solve
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.core.base import override_config
from relrank.models.core.estimates import SCORE_BLOCK, Estimate
from relrank.parallel.environment import recommended_environment
from relrank.parallel.machine import machine
from relrank.parallel.memory import GB, peak_memory_mb, reset_peak_memory
from relrank.tables.ids import IdMap
from relrank.training import TrainConfig, fit

Case = dict[str, Any]


def cases() -> list[Case]:
    """Model, users, items, and what differs from the defaults."""

    def of(model: str, sizes: list[tuple[int, int]], **more: Any) -> list[Case]:
        return [{"model": model, "users": users, "items": items, **more} for users, items in sizes]

    large = [(20_000, 9_000), (20_000, 11_000), (30_000, 14_000)]
    return [
        *of("ease", large, name="ease, users are more"),
        *of("ease", [(5_000, 20_000), (6_000, 30_000), (8_000, 40_000)], name="ease, items are more"),
        *of("ease", [(12_000, 7_000), (14_000, 9_000), (20_000, 12_000)], name="ease by torch", limit=1_000),
        *of("relational-ease", large, relations=["brand"]),
        *of("relational-ease", large, relations=["brand", "tag"], name="relational-ease, two relations"),
        *of("relational-ease", [(20_000, 8_000), (20_000, 10_000), (20_000, 12_000)], relations=["city"],
            name="relational-ease, users' relation"),
        *of("relational-ease", [(12_000, 7_000), (14_000, 9_000), (20_000, 12_000)], relations=["brand"],
            name="relational-ease by torch", limit=1_000),
        *of("item-knn", [(20_000, 20_000), (50_000, 50_000), (60_000, 80_000)]),
        *of("item-knn", [(20_000, 20_000), (50_000, 50_000)], config={"neighbours": 400}, name="item-knn, k = 400"),
        *of("markov", [(100_000, 20_000), (200_000, 50_000), (400_000, 100_000)]),
        *of("gf-cf", [(50_000, 50_000), (100_000, 100_000), (200_000, 200_000)]),
        *of("bspm", [(50_000, 50_000), (100_000, 100_000), (150_000, 150_000)], relations=["brand"]),
        *of("flat-filter", [(50_000, 50_000), (100_000, 100_000), (150_000, 150_000)], relations=["brand"]),
        *of("popularity", [(50_000, 50_000)]),
        *of("mf", [(50_000, 50_000), (200_000, 200_000), (400_000, 400_000)]),
        *of("relational-lightgcn", [(50_000, 50_000), (100_000, 100_000)], relations=["brand"]),
        *of("path-fusion", [(20_000, 10_000), (30_000, 20_000)], relations=["brand"]),
        *of("sasrec", [(20_000, 10_000), (50_000, 20_000)]),
    ]  # fmt: skip


def graph_of(case: Case, seed: int = 0) -> Graph:
    """Interactions, and each relation that the case names."""
    r, n_users, n_items = np.random.default_rng(seed), case["users"], case["items"]
    degrees = r.geometric(1 / 20, n_users)
    users = np.repeat(np.arange(n_users), degrees)
    shares = 1 / (np.arange(n_items) + 10.0)
    items = r.permutation(n_items)[np.searchsorted(np.cumsum(shares / shares.sum()), r.random(users.size))]
    pairs = np.unique(users * n_items + np.minimum(items, n_items - 1))
    starts = np.searchsorted(pairs // n_items, np.arange(n_users))
    places = (np.arange(pairs.size) - starts[pairs // n_items]).astype(np.int32)
    nodes = {name: IdMap(name, pl.Series(np.arange(n))) for name, n in (("user", n_users), ("item", n_items))}
    relations: dict[str, Relation] = {}
    sizes = {"brand": 2_000, "tag": 300, "city": 1_000}
    for name in case.get("relations", ()):
        n, source = sizes[name], "user" if name == "city" else "item"
        nodes[name] = IdMap(name, pl.Series(np.arange(n)))
        rows = np.repeat(np.arange(len(nodes[source])), 20 if name == "tag" else 1)
        ends = np.unique(rows * n + r.integers(0, n, rows.size))
        relations[name] = Relation.of(name, source, name, ends // n, ends % n)
    interactions = Relation.of("interactions", "user", "item", pairs // n_items, pairs % n_items)
    return Graph("user", "item", nodes, interactions, relations, "generated", places=places)


def run(case: Case) -> tuple[Estimate, float, float]:
    """The estimate, and as measured the peak in bytes and the seconds of solving or training."""
    if "limit" in case:  # torch takes over at a size that few machines have room for
        dense_solve.LAPACK_LIMIT = case["limit"]
        MODELS["relational-ease"].estimate.__func__.__globals__["LAPACK_LIMIT"] = case["limit"]  # type: ignore[attr-defined]
    kind = MODELS[case["model"]]
    config = override_config(kind.Config(), case.get("config", {}), case["model"])
    train = TrainConfig(epochs=1, device="cpu")

    def once(graph: Graph) -> float:
        began = time.perf_counter()
        if issubclass(kind, ClosedForm):
            model: Any = kind(graph, config).solve()
        else:
            model = kind(graph, config)
            with tempfile.TemporaryDirectory() as folder:
                fit(model, train, lambda: 0.0, 0, Path(folder))
        seconds = time.perf_counter() - began
        with torch.no_grad():
            model.score(torch.arange(min(graph.n_users, max(1, SCORE_BLOCK // (4 * graph.n_items)))))
        return seconds

    small = {**case, "users": 600, "items": 500}
    once(graph_of(small))
    if issubclass(kind, ClosedForm):
        kind.clear_cache()
    graph = graph_of(case)
    estimate = (
        kind.estimate(graph, config, train.batch) if issubclass(kind, Trained) else kind.estimate(graph, config)
    )
    before = resident()
    reset_peak_memory()
    seconds = once(graph)
    return estimate, peak_memory_mb() * 2**20 - before, seconds


def resident() -> float:
    """Bytes of this process that are in memory now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        estimate, peak, seconds = run(arguments.case)
        print(json.dumps([estimate.bytes, estimate.seconds, peak, seconds]))
        return
    figures = []
    print(f"{'case':34} {'users':>8} {'items':>8} {'est. GB':>8} {'GB':>8} {'ratio':>6} {'est. s':>8} {'s':>8}")
    for case in cases():
        name = str(case.get("name", case["model"]))
        if arguments.only and not any(part in name for part in arguments.only):
            continue
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**recommended_environment(), **os.environ}
        )
        if ran.returncode:
            print(f"{name:34} failed: {ran.stderr.strip().splitlines()[-1]}")
            continue
        said, seconds_said, peak, seconds = json.loads(ran.stdout.splitlines()[-1])
        row = {
            "case": name, "users": case["users"], "items": case["items"], "estimated_gb": round(said / GB, 3),
            "measured_gb": round(peak / GB, 3), "ratio": round(said / peak, 2),
            "estimated_s": round(seconds_said, 1), "measured_s": round(seconds, 1),
        }  # fmt: skip
        figures.append(row)
        print(
            f"{name:34} {row['users']:8,} {row['items']:8,} {row['estimated_gb']:8.2f} {row['measured_gb']:8.2f} "
            f"{row['ratio']:6.2f} {row['estimated_s']:8.1f} {row['measured_s']:8.1f}", flush=True,
        )  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
