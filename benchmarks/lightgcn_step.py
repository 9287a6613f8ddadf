"""One training step of relational LightGCN beside PyG's LightGCN, in one run: medians and their ratio.

    python benchmarks/lightgcn_step.py [--steps N] [--json FILE]

A step: propagate (64 dimensions, 3 layers), BPR on a batch of 8,192 training edges with one uniform negative each,
backward, Adam. Both models start each size fresh, take turns, and run on all cores. The large graph is generated; the
Gowalla graph is read from ``$RELRANK_DATA/gowalla`` and skipped with a word where that is not set.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import torch

from relrank.graph.graph import Graph, Relation
from relrank.graph.sampling import NegativeSampler
from relrank.models.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.study.run import machine
from relrank.tables.ids import IdMap

DIM, LAYERS, BATCH = 64, 3, 8192


def generated(n_users: int, n_items: int, n_edges: int, seed: int) -> Graph:
    """Distinct pairs, users uniform, items by a power law."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, n_items + 1) ** 0.5
    pairs = np.empty(0, np.int64)
    while pairs.size < n_edges:
        user = rng.integers(0, n_users, n_edges)
        item = rng.choice(n_items, n_edges, p=chance / chance.sum())
        pairs = np.unique(np.concatenate([pairs, user * n_items + item]))
    pairs = rng.permutation(pairs)[:n_edges]
    return graph_of(pairs // n_items, pairs % n_items, n_users, n_items)


def gowalla(folder: Path) -> Graph:
    """The LightGCN paper's training file."""
    from relrank.tables.datasets import lightgcn

    train = lightgcn(folder, "gowalla").given["train"]
    users, items = IdMap.of("user", train["user"]), IdMap.of("item", train["item"])
    return graph_of(
        users.rows(train["user"], "gowalla"), items.rows(train["item"], "gowalla"), len(users), len(items)
    )


def graph_of(user: np.ndarray, item: np.ndarray, n_users: int, n_items: int) -> Graph:
    """Interactions alone."""
    nodes = {"user": IdMap("user", pl.Series(range(n_users))), "item": IdMap("item", pl.Series(range(n_items)))}
    edges = Relation.of("interactions", "user", "item", user.astype(np.int32), item.astype(np.int32))
    return Graph("user", "item", nodes, edges, {}, "benchmark")


PLAIN = RelationalLightGCNConfig(
    dim=DIM, layers=LAYERS, loss="bpr", similarity="dot", temperature=1.0, negatives=1, shared=False, l2=1e-4
)
"""LightGCN as it was published: BPR on dot products, one uniform negative per edge."""


def ours(graph: Graph) -> Callable[[int], float]:
    """One step of relrank; returns the loss."""
    model = RelationalLightGCN(graph, PLAIN)
    model.init_weights(0)
    optimizer = torch.optim.Adam([model.table], lr=1e-3, fused=True)
    src, dst = (torch.from_numpy(side.astype(np.int64)) for side in (graph.interactions.src, graph.interactions.dst))

    def step(number: int) -> float:
        picked = torch.randint(len(src), (BATCH,), generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad(set_to_none=True)
        batch = model.prepare(src[picked].numpy(), dst[picked].numpy(), np.random.SeedSequence(number))
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def pyg(graph: Graph) -> Callable[[int], float]:
    """One step of PyG's LightGCN on an edge list in both directions, as its documentation trains it."""
    from torch_geometric.nn import LightGCN

    n_users, n_items = graph.n_users, graph.n_items
    model = LightGCN(n_users + n_items, DIM, LAYERS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    src, dst = (torch.from_numpy(side.astype(np.int64)) for side in (graph.interactions.src, graph.interactions.dst))
    edges = torch.stack([torch.cat([src, dst + n_users]), torch.cat([dst + n_users, src])])
    sampler = NegativeSampler(graph.interactions.csr(n_users, n_items), "uniform", 1, shared=False)

    def step(number: int) -> float:
        picked = torch.randint(len(src), (BATCH,), generator=torch.Generator().manual_seed(number))
        drawn = sampler.draw(src[picked].numpy(), dst[picked].numpy(), np.random.SeedSequence(number))
        assert drawn.columns is not None
        negative = torch.from_numpy(drawn.items[drawn.columns[:, 0]])
        user = src[picked]
        pairs = torch.cat([torch.stack([user, item + n_users]) for item in (dst[picked], negative)], 1)
        optimizer.zero_grad(set_to_none=True)
        positive, negative = model(edges, pairs).chunk(2)
        loss = model.recommendation_loss(positive, negative, node_id=torch.unique(pairs), lambda_reg=1e-4)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def measure(graph: Graph, steps: int) -> dict[str, float]:
    """Median seconds of both, taking turns; several of ours for each of PyG's, which is long."""
    fast, slow = ours(graph), pyg(graph)
    times: dict[str, list[float]] = {"ours": [], "pyg": []}
    fast(0)
    slow(0)
    for number in range(steps):
        for name, step, repeat in (("pyg", slow, 1), ("ours", fast, 5)):
            for extra in range(repeat):
                began = time.perf_counter()
                step(1 + number * 5 + extra)
                times[name].append(time.perf_counter() - began)
    return {
        "relrank_ms": 1e3 * median(times["ours"]),
        "pyg_ms": 1e3 * median(times["pyg"]),
        "ratio": median(times["pyg"]) / median(times["ours"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of PyG; five times as many of relrank")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    graphs: list[tuple[str, Callable[[], Graph]]] = []
    if os.environ.get("RELRANK_DATA"):
        graphs.append(
            ("Gowalla 29,858 x 40,981, 0.81 M", lambda: gowalla(Path(os.environ["RELRANK_DATA"]) / "gowalla"))
        )
    else:
        print("Gowalla skipped: RELRANK_DATA does not name a folder with gowalla/train.txt")
    graphs.append(("generated 53,398 x 9,999, 4.93 M", lambda: generated(53_398, 9_999, 4_930_000, 0)))
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{'one step, 64 dimensions, 3 layers, batch 8,192':48}{'PyG ms':>10}{'relrank ms':>12}{'ratio':>8}")
    figures = {}
    for name, make in graphs:
        figures[name] = f = measure(make(), arguments.steps)
        print(f"{name:48}{f['pyg_ms']:10.0f}{f['relrank_ms']:12.1f}{f['ratio']:7.1f}x", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
