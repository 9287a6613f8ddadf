"""Neighbour sampling, two layers with fan-outs 10 and 15: sampled edges a second, in one run beside its peers.

    python benchmarks/neighbour_sampling.py [--batches N] [--json FILE]

Seeds are distinct nodes drawn uniformly; a batch is sampled, relabelled and ready for torch. Peers take turns on the
same seeds: NumPy, which slices out every neighbour, gives each a random key and keeps the first of every node (the
same distribution), NumPy with replacement (an easier task: nothing is sliced out), and torch-geometric's
NeighborLoader where one of the compiled packages that it needs can be imported. Edges are counted by each sampler for
itself. The large graph is generated; Gowalla is read from ``$RELRANK_DATA/gowalla`` and skipped with a word where
that is not set.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from lightgcn_step import generated, gowalla
from relrank.csr import Csr
from relrank.graph.blocks import Adjacency
from relrank.graph.graph import Graph
from relrank.graph.neighbour_sampling import NeighbourSampler
from relrank.study.run import machine

FANOUTS, BATCHES = (10, 15), (1024, 8192)
Seeds = npt.NDArray[np.int64]
Sampler = Callable[[Seeds, int], int]


def ours(adjacency: Adjacency, parallel: bool) -> Sampler:
    """Relrank's, on all threads or in the calling one; returns the number of edges."""
    sampler = NeighbourSampler(adjacency, FANOUTS)

    def sample(seeds: Seeds, number: int) -> int:
        blocks = sampler.sample(seeds, np.random.SeedSequence(number), parallel=parallel)
        return sum(block.n_edges for block in blocks)

    return sample


def whole(adjacency: Adjacency) -> Csr:
    """All nodes by all nodes: what a sampler without edge types works on."""
    ends = [(e.csr.rows() + e.destination.start, e.csr.indices + e.source.start) for e in adjacency.edge_types]
    rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
    return Csr.from_pairs(rows, columns, (adjacency.n_nodes, adjacency.n_nodes))


def by_keys(csr: Csr, nodes: Seeds, fanout: int, rng: np.random.Generator) -> tuple[Seeds, Seeds]:
    """Every neighbour of the nodes with a random key, the smallest ``fanout`` of each kept."""
    taken = csr.take(nodes)
    rows = taken.rows()
    order = np.lexsort((rng.random(taken.nnz), rows))
    kept = order[np.arange(taken.nnz) - taken.indptr[rows] < fanout]
    return rows[kept].astype(np.int64), taken.indices[kept].astype(np.int64)


def with_repeats(csr: Csr, nodes: Seeds, fanout: int, rng: np.random.Generator) -> tuple[Seeds, Seeds]:
    """``fanout`` neighbours of each node that has any, with replacement."""
    degrees = csr.indptr[nodes + 1] - csr.indptr[nodes]
    some = np.flatnonzero(degrees)
    at = csr.indptr[nodes[some], None] + (rng.random((some.size, fanout)) * degrees[some, None]).astype(np.int64)
    return np.repeat(some, fanout), csr.indices[at.ravel()].astype(np.int64)


def numpy(csr: Csr, draw: Callable[[Csr, Seeds, int, np.random.Generator], tuple[Seeds, Seeds]]) -> Sampler:
    """Draws by array operations, relabelled through a dense table."""
    place = np.full(csr.n_rows, -1, np.int32)

    def sample(seeds: Seeds, number: int) -> int:
        rng, nodes, edges = np.random.default_rng(number), seeds, 0
        place[seeds] = np.arange(seeds.size, dtype=np.int32)
        for fanout in FANOUTS:
            rows, columns = draw(csr, nodes, fanout, rng)
            new = np.unique(columns[place[columns] < 0])
            place[new] = np.arange(nodes.size, nodes.size + new.size, dtype=np.int32)
            nodes = np.concatenate([nodes, new])
            edge_index = torch.from_numpy(np.stack([place[columns], rows]))
            edges += edge_index.shape[1]
        place[nodes] = -1
        return edges

    return sample


def pyg(csr: Csr) -> Sampler:
    """torch-geometric's NeighborLoader, called for one batch."""
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    edge_index = torch.from_numpy(np.stack([csr.indices, csr.rows()]).astype(np.int64))
    loader = NeighborLoader(Data(edge_index=edge_index, num_nodes=csr.n_rows), list(FANOUTS), batch_size=1)

    def sample(seeds: Seeds, number: int) -> int:
        torch.manual_seed(number)
        return int(loader(torch.from_numpy(seeds)).edge_index.shape[1])

    return sample


def measure(samplers: dict[str, Sampler], n_nodes: int, batch: int, batches: int) -> dict[str, dict[str, float]]:
    """Medians over batches of every sampler, taking turns on the same seeds."""
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    edges: dict[str, list[int]] = {name: [] for name in samplers}
    for number in range(batches + 1):
        seeds = np.random.default_rng(number).permutation(n_nodes)[:batch]
        for name, sample in samplers.items():
            began = time.perf_counter()
            drawn = sample(seeds, number)
            if number:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
                edges[name].append(drawn)
    return {
        name: {
            "ms": 1e3 * median(seconds[name]),
            "edges": median(edges[name]),
            "edges_per_second": median(e / s for e, s in zip(edges[name], seconds[name], strict=True)),
            "seeds_per_second": batch / median(seconds[name]),
        }
        for name in samplers
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10, help="counted batches of each size")
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
    with_pyg = any(importlib.util.find_spec(name) for name in ("pyg_lib", "torch_sparse"))
    if not with_pyg:
        print("NeighborLoader skipped: it needs pyg-lib or torch-sparse, and neither is installed")
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}, Python {platform.python_version()}")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, make in graphs:
        adjacency = Adjacency(make())
        csr = whole(adjacency)
        samplers = {
            "relrank": ours(adjacency, parallel=True),
            "relrank, one thread": ours(adjacency, parallel=False),
            "NumPy": numpy(csr, by_keys),
            "NumPy, with replacement": numpy(csr, with_repeats),
            **({"NeighborLoader": pyg(csr)} if with_pyg else {}),
        }
        for batch in BATCHES:
            title = f"{name}, {batch:,} seeds"
            figures[title] = measured = measure(samplers, adjacency.n_nodes, batch, arguments.batches)
            print(f"{title:48}{'ms':>10}{'M edges/s':>12}{'k seeds/s':>12}{'ratio':>8}")
            for sampler, f in measured.items():
                ratio = measured["relrank"]["edges_per_second"] / f["edges_per_second"]
                rates = f"{f['edges_per_second'] / 1e6:12.1f}{f['seeds_per_second'] / 1e3:12.0f}"
                print(f"  {sampler:46}{f['ms']:10.1f}{rates}{ratio:7.1f}x", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
