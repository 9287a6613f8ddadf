"""Item-kNN and RP3β on generated interactions: seconds to fit and to rank, and memory.

    python benchmarks/item_neighbours.py [--users N] [--items N] [--edges N] [--models NAME ...] [--rank-users N]

Users' degrees are log-normal (σ 1), items are chosen by a power law, half of them inside the user's group of items.
The peak is the process's largest resident memory from the fit on, interactions, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl

from relrank.evaluation.ranking import top_k
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models import MODELS
from relrank.models.core.sparse_linear import SparseLinear
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.tables.ids import IdMap

GROUP = 500
"""Items of a group."""


def generated(n_users: int, n_items: int, n_edges: int, seed: int = 0) -> Graph:
    """Interactions without relations; what is drawn twice is one edge."""
    rng = np.random.default_rng(seed)
    degrees = np.exp(rng.standard_normal(n_users))
    degrees = np.maximum(1, np.rint(degrees * (n_edges / degrees.sum()))).astype(np.int64)
    src = np.repeat(np.arange(n_users, dtype=np.int32), degrees)
    dst = (n_items * rng.random(src.size) ** 2).astype(np.int32)
    inside = rng.random(src.size, dtype=np.float32) < 0.5
    groups = max(1, n_items // GROUP)
    dst = np.where(inside, src % groups + dst % GROUP * groups, dst).astype(np.int32)
    np.minimum(dst, n_items - 1, out=dst)
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", n_users), ("item", n_items))}
    return Graph("user", "item", nodes, Relation.of("chose", "user", "item", src, dst, duplicates="first"), {}, "g")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--rank-users", type=int, default=10_000)
    parser.add_argument("--models", nargs="+", default=["item-knn", "rp3beta"])
    given = parser.parse_args()
    graph = generated(given.users, given.items, given.edges)
    kinds = [MODELS[name] for name in given.models]
    small = generated(200, 100, 2_000)
    for kind in kinds:  # the compiler's time is not the models'
        assert issubclass(kind, SparseLinear)
        top_k(kind(small).solve(), np.arange(200), kind(small).history, 20)
    print(f"machine  {machine()}")
    print(f"graph    {graph.n_users:,} users x {graph.n_items:,} items, {len(graph.interactions):,} interactions")
    for name, kind in zip(given.models, kinds, strict=True):
        assert issubclass(kind, SparseLinear)
        reset_peak_memory()
        began = time.perf_counter()
        model = kind(graph).solve()
        fitted, peak = time.perf_counter(), peak_memory_mb()
        users = np.random.default_rng(1).choice(graph.n_users, min(given.rank_users, graph.n_users), replace=False)
        top_k(model, np.sort(users), model.history, 20)
        ranked = time.perf_counter()
        print(
            f"{name:9}fit {fitted - began:.1f} s, peak {peak:,.0f} MB, {model.weights.numel():,} weights; "
            f"{users.size:,} users ranked in {ranked - fitted:.1f} s, peak {peak_memory_mb():,.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
