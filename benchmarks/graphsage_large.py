"""GraphSAGE with sampled neighbours on 1 million nodes and 20 million edges: memory and time, all in one process.

The graph is generated: 700,000 users, 300,000 items, items chosen by a power law, users of one of 1,000 groups whose
items they prefer. Two layers, 10 neighbours per relation and direction, 64 dimensions, 1,024 shared negatives. The
peak is the process's largest resident memory from generating the edges to ranking, the interpreter and libraries
included.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl
import torch

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.tables.ids import IdMap

GROUPS = 1_000


def generated(n_users: int, n_items: int, n_edges: int, seed: int = 0) -> Graph:
    """Interactions, three quarters of them inside the user's group of items."""
    rng = np.random.default_rng(seed)
    src = np.repeat(np.arange(n_users, dtype=np.int32), -(-n_edges // n_users))[:n_edges]
    inside = rng.random(n_edges, dtype=np.float32) < 0.75
    dst = (n_items * rng.random(n_edges, dtype=np.float32) ** 2).astype(np.int32)
    size = n_items // GROUPS
    dst = np.where(inside, src % GROUPS * size + dst % size, dst).astype(np.int32)
    nodes = {"user": IdMap("user", pl.Series(range(n_users))), "item": IdMap("item", pl.Series(range(n_items)))}
    chose = Relation.of("chose", "user", "item", src, dst, duplicates="first")
    return Graph("user", "item", nodes, chose, {}, "generated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=700_000)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--edges", type=int, default=20_600_000, help="drawn; what coincides is one edge")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4096)
    given = parser.parse_args()
    reset_peak_memory()
    began = time.perf_counter()
    graph = generated(given.users, given.items, given.edges)
    model = GraphSAGE(graph, GraphSAGEConfig(fanout=10))
    model.init_weights(0)
    print(f"machine  {machine()}")
    print(f"graph    {graph.n_users + graph.n_items:,} nodes, {len(graph.interactions):,} edges", end="")
    print(f", built in {time.perf_counter() - began:.0f} s, peak {peak_memory_mb():,.0f} MB")

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    edges, rng = graph.interactions, np.random.default_rng(1)
    seconds, losses = [], []
    for number in range(given.steps):
        start = time.perf_counter()
        picked = rng.integers(0, len(edges), given.batch)
        batch = model.prepare(edges.src[picked].astype(np.int64), edges.dst[picked].astype(np.int64),
                              np.random.SeedSequence(number))  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(float(loss.detach()))
    tenth = max(1, given.steps // 10)
    print(f"train    {given.steps} steps of {given.batch:,} edges, median {np.median(seconds):.2f} s", end="")
    print(f" ({given.batch / np.median(seconds):,.0f} edges/s), loss {np.mean(losses[:tenth]):.3f}", end="")
    print(f" → {np.mean(losses[-tenth:]):.3f}, peak {peak_memory_mb():,.0f} MB")
    start = time.perf_counter()
    model.refresh()
    print(f"sweep    all nodes exactly in {time.perf_counter() - start:.0f} s, peak {peak_memory_mb():,.0f} MB")
    model.score(torch.arange(64))
    print(f"peak     {peak_memory_mb():,.0f} MB")


if __name__ == "__main__":
    main()
