"""Negatives per second of each kind beside a vectorised NumPy rejection loop, and full_softmax beside torch's own.

    python benchmarks/negatives.py [--repeats N] [--json FILE]

Everything in one run, taking turns; medians. The interactions are generated: 30,000 users, 40,000 items by a power
law, 0.8 million. The NumPy loop draws for all edges at once, looks every draw up among the sorted keys of all
positives and draws again what was one. The full softmax takes the scores of 2,000 users for 7,770 items, 8,192 edges
and 140,000 known pairs, forward and backward; torch's cross-entropy is given the gathered row of every edge, masked;
and ("once") both take one edge per user with nothing masked.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from relrank.csr import Csr, Int64
from relrank.graph.sampling import NegativeSampler
from relrank.models.losses import full_softmax
from relrank.study.run import machine

BATCH = 8192


def interactions(n_users: int, n_items: int, n_edges: int) -> Csr:
    """Distinct pairs, users uniform, items by a power law."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, n_items + 1) ** 0.7
    user = rng.integers(0, n_users, 2 * n_edges)
    pairs = np.unique(user * n_items + rng.choice(n_items, 2 * n_edges, p=chance / chance.sum()))
    pairs = rng.permutation(pairs)[:n_edges]
    return Csr.from_pairs(pairs // n_items, pairs % n_items, (n_users, n_items))


def by_rejection(
    keys: Int64, cumulated: npt.NDArray[np.float64] | None, n_items: int, users: Int64, n: int, seed: int
) -> Int64:
    """Own negatives in NumPy: all at once, then those again that are positives."""
    rng = np.random.default_rng(seed)
    row = np.repeat(users, n)
    out = np.empty(row.size, np.int64)
    left = np.arange(row.size)
    while left.size:
        if cumulated is None:
            out[left] = rng.integers(0, n_items, left.size)
        else:
            out[left] = np.searchsorted(cumulated, rng.random(left.size), "right")
        key = row[left] * n_items + out[left]
        at = np.minimum(np.searchsorted(keys, key), keys.size - 1)
        left = left[keys[at] == key]
    return out.reshape(users.size, n)


def medians(runs: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """Seconds of each, taking turns, after one run that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(number)
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: median(seconds) for name, seconds in times.items()}


def samplers(repeats: int) -> list[dict[str, str | float]]:
    """Own negatives against the loop, shared ones by themselves."""
    positives = interactions(30_000, 40_000, 800_000)
    n_items = positives.n_cols
    at = np.random.default_rng(1).permutation(positives.nnz)[:BATCH]
    users, items = positives.rows()[at].astype(np.int64), positives.indices[at].astype(np.int64)
    keys = positives.rows().astype(np.int64) * n_items + positives.indices
    weights = np.maximum(np.bincount(positives.indices, minlength=n_items), 1) ** 0.75
    rows: list[dict[str, str | float]] = []
    for n in (1, 64):
        for kind in ("uniform", "popularity"):
            cumulated = None if kind == "uniform" else np.cumsum(weights / weights.sum())
            both = [NegativeSampler(positives, kind, n, False, parallel=parallel) for parallel in (True, False)]
            seconds = medians(
                {
                    "numpy": lambda k, c=cumulated, n=n: by_rejection(keys, c, n_items, users, n, k),  # type: ignore[misc]
                    "relrank": lambda k, s=both[0]: s.draw(users, items, np.random.SeedSequence(k)),  # type: ignore[misc]
                    "serial": lambda k, s=both[1]: s.draw(users, items, np.random.SeedSequence(k)),  # type: ignore[misc]
                },
                repeats,
            )
            figures = {f"{name}_per_second": BATCH * n / s for name, s in seconds.items()}
            rows.append({"kind": kind, "own": n, **figures, "ratio": seconds["numpy"] / seconds["relrank"]})
    for kind in ("uniform", "popularity", "in-batch", "mixed"):
        shared = NegativeSampler(positives, kind, 1024, True)
        seconds = medians({"relrank": lambda k, s=shared: s.draw(users, items, np.random.SeedSequence(k))}, repeats)  # type: ignore[misc]
        rows.append({"kind": kind, "shared": 1024, "batch_ms": 1e3 * seconds["relrank"]})
    return rows


def softmax(repeats: int, n_users: int = 2000, n_items: int = 7770, n_known: int = 140_000) -> dict[str, float]:
    """Milliseconds, forward and backward."""
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.standard_normal((n_users, n_items), np.float32)).requires_grad_()
    pairs = np.sort(rng.choice(n_users * n_items, n_known, replace=False))
    rows, columns = torch.from_numpy(pairs // n_items), torch.from_numpy(pairs % n_items)
    edges = torch.from_numpy(rng.choice(n_known, BATCH, replace=False))
    users, items = rows[edges], columns[edges]
    mask = torch.zeros(n_users, n_items, dtype=torch.bool)
    mask[rows, columns] = True

    def ours(known: tuple[torch.Tensor, torch.Tensor] | torch.Tensor | None) -> Callable[[int], float]:
        def run(_: int) -> float:
            scores.grad = None
            loss = full_softmax(scores, users, items, known, 0.2)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        return run

    def torchs(_: int) -> float:
        scores.grad = None
        others = mask[users]
        others[torch.arange(BATCH), items] = False
        loss = functional.cross_entropy((scores[users] / 0.2).masked_fill(others, -torch.inf), items)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    each = torch.arange(n_users)

    def torch_once(_: int) -> float:
        scores.grad = None
        loss = functional.cross_entropy(scores / 0.2, items[:n_users])
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def ours_once(_: int) -> float:
        scores.grad = None
        loss = full_softmax(scores, each, items[:n_users], None, 0.2)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    pairwise = ours((rows, columns))
    if abs(pairwise(0) - torchs(0)) > 1e-4:
        raise AssertionError("the two losses differ")
    seconds = medians(
        {
            "pairs": pairwise,
            "mask": ours(mask),
            "torch": torchs,
            "once": ours_once,
            "torch_once": torch_once,
        },
        repeats,
    )
    return {
        **{f"{name}_ms": 1e3 * s for name, s in seconds.items()},
        "ratio": seconds["torch"] / seconds["pairs"],
        "ratio_once": seconds["torch_once"] / seconds["once"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}")
    full = softmax(arguments.repeats)
    print("full softmax: " + ", ".join(f"{name} {value:.3g}" for name, value in full.items()))
    rows = samplers(4 * arguments.repeats)
    for row in rows:
        print(", ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, "samplers": rows, "softmax": full}, indent=1))


if __name__ == "__main__":
    main()
