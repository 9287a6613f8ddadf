"""What the sparse product's choices are worth: distance of the prefetch, order of the nodes, rows that are asked for.

    GOMP_SPINCOUNT=1000 python benchmarks/sparse_products.py [--rounds N] [--dim D] [--json FILE]

All variants of one graph take turns in one process; a figure is the median of a product of the whole symmetric
matrix, both directions, with a table of D dimensions. "degrees": nodes numbered by falling degree; "shuffled": at
random. "rows of a batch" is what the last layer makes for 8,192 edges with one negative each, "table of a batch" the
first product behind it. The short spin is what the command line sets (``relrank.parallel.environment``). Gowalla is
read from ``$RELRANK_DATA/gowalla``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from graphs import generated_pairs, gowalla_pairs, graph_of
from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.kernels import spmm
from relrank.kernels.csr import Int64
from relrank.parallel.machine import machine

BATCH = 8192


def renumbered(graph: Graph, order: tuple[Int64, Int64]) -> Graph:
    """The same graph with users and items in another order."""
    ends = []
    for side, kept in zip((graph.interactions.src, graph.interactions.dst), order, strict=True):
        place = np.empty(kept.size, np.int32)
        place[kept] = np.arange(kept.size, dtype=np.int32)
        ends.append(place[side])
    return graph_of((ends[0], ends[1]), graph.n_users, graph.n_items)


def variants(graph: Graph, dim: int) -> dict[str, Callable[[], object]]:
    """By name, one product."""
    rng = np.random.default_rng(0)
    sides = graph.interactions.src, graph.interactions.dst
    sizes = graph.n_users, graph.n_items
    falling = tuple(
        np.argsort(-np.bincount(s, minlength=n), kind="stable") for s, n in zip(sides, sizes, strict=True)
    )
    shuffled = rng.permutation(sizes[0]), rng.permutation(sizes[1])
    blocks = Propagation(graph)
    table = torch.randn(blocks.n_nodes, dim, generator=torch.Generator().manual_seed(0))
    works: dict[str, Callable[[], object]] = {"as it is": lambda: blocks.multiply(table, [1.0])}
    for name, order in (("degrees", falling), ("shuffled", shuffled)):
        other = Propagation(renumbered(graph, (order[0], order[1])))
        works[name] = partial(other.multiply, table, [1.0])
    picked = rng.integers(0, sides[0].size, BATCH)
    users = np.unique(sides[0][picked]).astype(np.int64)
    items = np.unique(np.concatenate([sides[1][picked], rng.integers(0, sizes[1], BATCH)])).astype(np.int64)
    rows = np.concatenate([users, items + sizes[0]])
    place = np.full(blocks.n_nodes, -1, np.int32)
    place[rows] = np.arange(rows.size, dtype=np.int32)
    some = table[torch.from_numpy(rows)]
    works["rows of a batch"] = lambda: blocks.rows_of_product(table, rows, [1.0], table)
    works["table of a batch"] = lambda: blocks.multiply_some(None, some, place, [1.0], None)
    for bytes_ahead in (2, 4, 8, 16, 24):
        works[f"prefetch {bytes_ahead} KB ahead"] = ahead(bytes_ahead * 1024, lambda: blocks.multiply(table, [1.0]))
    return works


def ahead(size: int, work: Callable[[], object]) -> Callable[[], object]:
    """The same with another distance of the prefetch."""

    def run() -> object:
        before, spmm._AHEAD_BYTES = spmm._AHEAD_BYTES, size
        try:
            return work()
        finally:
            spmm._AHEAD_BYTES = before

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    size = 53_398, 9_999
    makers: dict[str, Callable[[], Graph]] = {
        "generated": lambda: graph_of(generated_pairs(*size, 4_930_000, 0), *size)
    }
    if os.environ.get("RELRANK_DATA"):
        folder = Path(os.environ["RELRANK_DATA"]) / "gowalla"
        makers = {"gowalla": lambda: graph_of(gowalla_pairs(folder)["train"], 29_858, 40_981), **makers}
    figures: dict[str, dict[str, float]] = {}
    for graph_name, make in makers.items():
        works = variants(make(), arguments.dim)
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for number in range(2 + arguments.rounds):
            for name, work in works.items():
                began = time.perf_counter()
                work()
                if number >= 2:
                    seconds[name].append(time.perf_counter() - began)
        figures[graph_name] = {name: 1e3 * median(found) for name, found in seconds.items()}
        base = figures[graph_name]["as it is"]
        for name, value in figures[graph_name].items():
            print(f"{graph_name:12}{name:24}{value:9.2f} ms{value / base:8.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
