"""How time and memory grow from a million interactions to a hundred million, on the way that a study takes.

    python benchmarks/speed/growth.py [--sizes 1e6 3e6 …] [--steps N] [--json FILE]

Each size runs in a process of its own, and so does making its file: a Parquet table of distinct (user, item) rows in
random order, items by a power law, every user with five rows at least. Then, as ``relrank study`` does: read the
tables, split, build the graph, audit, make the model (relational LightGCN, 64 dimensions, 3 layers, sampled softmax
with 1,024 shared negatives), train, and evaluate 10,000 users against the full catalogue. Training is not a whole
epoch: the steps of a begun one are timed, and then a short one (as many edges as those steps took) goes through
validation and checkpoints. Batches grow with the data, so that an epoch has about 256 steps.

Memory is the largest resident set of each stage. A process above ``MOST_GB`` is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np

SIZES = (1e6, 3e6, 1e7, 3e7, 1e8)
PACKAGES = ("relrank", "torch", "numpy", "numba", "polars")
MOST_GB = 20
"""A process above this is ended, so that the machine lives."""
DIM, LAYERS, STEPS_PER_EPOCH, JUDGED = 64, 3, 256, 10_000


def shape(n: int) -> tuple[int, int]:
    """Users and items for n interactions: 20,000 × 10,000 at a million, 1,000,000 × 200,000 at a hundred million."""
    return int(round(20_000 * (n / 1e6) ** 0.8495, -2)), int(round(10_000 * (n / 1e6) ** 0.6505, -2))


@numba.njit
def _draw(degrees, cumulated, shares, item, user, rng):  # type: ignore[no-untyped-def]
    """Distinct items for each user by a power law, then all rows in random order."""
    last = np.full(cumulated.size, -1, np.int64)
    at = 0
    for u in range(degrees.size):
        there = 0
        while there < degrees[u]:
            share = rng.random()
            i = shares[int(share * shares.size)]
            while cumulated[i] < share:
                i += 1
            if last[i] != u:
                last[i] = u
                user[at], item[at] = u, i
                at += 1
                there += 1
    for k in range(item.size - 1, 0, -1):
        other = rng.integers(0, k + 1)
        item[k], item[other] = item[other], item[k]
        user[k], user[other] = user[other], user[k]


def generate(n: int, file: Path) -> None:
    """Write the interactions of one size."""
    import polars as pl

    from relrank.io.atomic import atomic_write

    n_users, n_items = shape(n)
    rng = np.random.default_rng(0)
    # Rows per user: five, and the rest by a log-normal share.
    drawn = rng.lognormal(0, 1, n_users)
    degrees = 5 + np.floor(drawn / drawn.sum() * (n - 5 * n_users)).astype(np.int64)
    degrees = np.minimum(degrees, n_items // 4)
    degrees += np.bincount(rng.integers(0, n_users, n - degrees.sum()), minlength=n_users)  # what rounding took
    chance = 1 / (np.arange(n_items) + 10) ** 0.8
    cumulated = np.cumsum(chance / chance.sum())
    cumulated[-1] = 1
    shares = np.searchsorted(cumulated, np.arange(4 * n_items) / (4 * n_items)).astype(np.int32)
    user, item = np.empty(n, np.int32), np.empty(n, np.int32)
    _draw(degrees, cumulated, shares, item, user, rng)
    keys = {"user": user, "item": rng.permutation(n_items).astype(np.int32)[item]}
    with atomic_write(file) as part:
        pl.DataFrame(keys).write_parquet(part, compression="lz4", statistics=False)


class Stages:
    """Seconds and the largest resident memory of each stage, told as they pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self.left_mb: dict[str, float] = {}
        threading.Thread(target=self._guard, daemon=True).start()

    @staticmethod
    def resident_mb() -> float:
        """Resident memory now."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _guard(self) -> None:
        while True:
            if self.resident_mb() > MOST_GB * 1024:
                print(f"over {MOST_GB} GB: ended", file=sys.stderr, flush=True)
                os._exit(3)
            time.sleep(0.02)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage."""
        from relrank.parallel.memory import peak_memory_mb, reset_peak_memory

        reset_peak_memory()
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)
        self.peak_mb[name], self.left_mb[name] = peak_memory_mb(), round(self.resident_mb(), 1)
        figures = f"{self.seconds[name]:9.1f} s, peak {self.peak_mb[name]:8.0f} MB, left {self.left_mb[name]:8.0f} MB"
        print(f"  {name:10}{figures}", file=sys.stderr, flush=True)


class EnoughError(Exception):
    """As many steps as were asked for."""


def chain(n: int, folder: Path, steps: int) -> dict[str, Any]:
    """The way from a file to figures, stage by stage."""
    stages = Stages()
    with stages.stage("import"):
        import relrank as rr
        from relrank.evaluation.evaluate import mean_metric
        from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
        from relrank.tables.readers import DataConfig, InteractionsConfig
        from relrank.training import TrainConfig, fit

    class Timed(RelationalLightGCN):
        """The model, with a watch; ``most`` ends an epoch early, ``share`` makes a short one."""

        began: list[float]
        most, share = 0, 0

        def loss(self, batch: Any) -> Any:
            self.began.append(time.perf_counter())
            if self.most and len(self.began) > self.most:
                raise EnoughError
            return super().loss(batch)

        def examples(self) -> Any:
            users, items = super().examples()
            return (users[: self.share], items[: self.share]) if self.share else (users, items)

    with stages.stage("read"):
        described = InteractionsConfig(file="interactions.parquet", user="user", item="item")
        tables = rr.read_tables(DataConfig(user="user", item="item", interactions=described), folder)
    with stages.stage("split"):
        split = rr.make_split(tables, rr.ProtocolConfig(split="random-leave-one-out"), 0)
    with stages.stage("graph"):
        graph = rr.build_graph(tables, split, {})
    with stages.stage("audit"):
        leaks = rr.audit(tables, split, graph.interactions.csr(graph.n_users, graph.n_items))
        assert not [f for f in leaks if f.level == "leak"]
    with stages.stage("model"):
        model = Timed(graph, RelationalLightGCNConfig(dim=DIM, layers=LAYERS))
    edges = len(graph.interactions)
    batch = -(-edges // STEPS_PER_EPOCH)
    few = replace(
        split, valid=split.valid.take(split.valid.user < JUDGED), test=split.test.take(split.test.user < JUDGED)
    )
    train = TrainConfig(epochs=1, batch=batch, every=1)

    def validate() -> float:
        return mean_metric(model, few)

    with stages.stage("steps"):
        model.began, model.most = [], steps + 3
        try:
            fit(model, train, validate, 0)
        except EnoughError:
            step = median(np.diff(model.began)[2:])
    with stages.stage("fit"), tempfile.TemporaryDirectory() as kept:  # a short epoch, validated and kept
        model.began, model.most, model.share = [], 0, 2 * batch
        fit(model, train, validate, 0, Path(kept))
    with stages.stage("evaluate"):
        evaluation = rr.evaluate(model, few)
    return {
        "interactions": n, "users": len(split.users), "items": len(split.items), "edges": edges, "batch": batch,
        "seconds_graph": stages.seconds["graph"], "seconds_step": round(step, 4), "steps_timed": steps,
        "steps_per_epoch": -(-edges // batch), "seconds_epoch_estimated": round(step * -(-edges // batch), 1),
        "users_evaluated": len(evaluation.table), "seconds_stage": stages.seconds,
        "peak_mb": max(stages.peak_mb.values()), "peak_mb_stage": stages.peak_mb, "left_mb_stage": stages.left_mb,
    }  # fmt: skip


def run(n: int, steps: int, folder: Path) -> dict[str, Any]:
    """One size: its file, then the chain, each in a process of its own. A file that is there is kept, untimed."""
    folder.mkdir(parents=True, exist_ok=True)
    made = None
    if not (folder / "interactions.parquet").is_file():
        began = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--generate", str(n), "--folder", str(folder)], check=True)
        made = round(time.perf_counter() - began, 1)
    command = [sys.executable, __file__, "--chain", str(n), "--folder", str(folder), "--steps", str(steps)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {**json.loads(out), "seconds_generate": made}


def merged(file: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a file with new rows, by size; each has under ``run`` when, where and with what it was measured.

    Rows of a file from before there were such records get the one that the file had for all.
    """
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"rows": []}
    shared = {name: kept[name] for name in ("date", "machine", "versions") if name in kept}
    old = [row if "run" in row else {**row, "run": shared} for row in kept["rows"]]
    by_size = {row["interactions"]: row for row in (*old, *rows)}
    return {"mb": "2^20 bytes", "rows": [by_size[n] for n in sorted(by_size)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="interactions")
    parser.add_argument("--steps", type=int, default=12, help="timed steps, after two that are not")
    parser.add_argument("--json", type=Path, help="also write the figures here; sizes that are not run keep theirs")
    parser.add_argument("--folder", type=Path, help="where files are made, and kept; a temporary one by default")
    parser.add_argument("--generate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--chain", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        return generate(int(arguments.generate), arguments.folder / "interactions.parquet")
    if arguments.chain:
        return print(json.dumps(chain(int(arguments.chain), arguments.folder, arguments.steps)))
    from relrank.io.atomic import atomic_write
    from speed.record import record

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = []
        for n in map(int, arguments.sizes):
            print(f"{n:,} interactions", file=sys.stderr, flush=True)
            row = {**run(n, arguments.steps, folder / f"{n}"), "run": record(PACKAGES)}
            rows.append(row)
            print(
                f"{n:>12,}  {row['users']:>9,} × {row['items']:<8,} batch {row['batch']:>7,}  "
                f"step {row['seconds_step']:6.2f} s  epoch {row['seconds_epoch_estimated'] / 60:5.1f} min (estimated)"
                f"  peak {row['peak_mb'] / 1024:5.2f} GiB",
                flush=True,
            )
    if arguments.json:
        with atomic_write(arguments.json) as part:
            part.write_text(json.dumps(merged(arguments.json, rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # where the package "speed" lies
    main()
