"""Attention over a block beside torch-geometric's, forward and backward in one run: medians and their ratio.

    python benchmarks/attention.py [--nodes N] [--edges E] [--dim D] [--heads H] [--repeats R] [--json FILE]

The block is generated: every node sends and receives, sources by a power law. Both get the same vectors and edges,
take turns and run on all cores; the linear maps around the attention are in neither. First both must give the same
result and the same gradient.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from relrank.kernels.additive_attention import additive_attention
from relrank.kernels.dot_attention import Neighbours, dot_attention
from relrank.parallel.machine import machine

Step = Callable[[], tuple[Tensor, ...]]
"""Forward and backward; the result and the gradients, in the same shapes for both of a pair."""


class Generated:
    """Edges of a block by destination, and vectors by head.

    Attributes:
        indptr: int64 [nodes + 1].
        indices: int32 [edges].
        ends: the same edges as torch-geometric wants them, int64 [2, edges].
    """

    def __init__(self, nodes: int, edges: int, dim: int, heads: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        counts = np.bincount(rng.integers(0, nodes, edges), minlength=nodes)
        self.indptr = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]))
        self.indices = torch.from_numpy((nodes * rng.random(edges) ** 2).astype(np.int32))
        rows = torch.repeat_interleave(torch.arange(nodes), self.indptr.diff(), output_size=edges)
        self.ends = torch.stack([self.indices.long(), rows])
        self.shape = nodes, heads, dim // heads
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, *shape: int) -> Tensor:
        """Normal numbers that want a gradient."""
        return torch.randn(shape, generator=self.generator).requires_grad_()


def gatv2(block: Generated) -> tuple[Step, Step]:
    """``additive_attention`` and ``GATv2Conv`` without its linear maps."""
    from torch_geometric.nn import GATv2Conv

    nodes, heads, width = block.shape
    left, right = block.drawn(*block.shape), block.drawn(*block.shape)
    vector, upstream = block.drawn(heads, width), block.drawn(*block.shape).detach()
    conv = GATv2Conv((heads * width, heads * width), width, heads, add_self_loops=False, bias=False)
    conv.lin_l = conv.lin_r = torch.nn.Identity()
    with torch.no_grad():
        conv.att.copy_(vector)

    def ours() -> tuple[Tensor, ...]:
        out = additive_attention(left, right, vector, block.indptr, block.indices)
        return out, *torch.autograd.grad(out, (left, right, vector), upstream)

    def theirs() -> tuple[Tensor, ...]:
        out = conv((left.flatten(1), right.flatten(1)), block.ends).view(nodes, heads, width)
        d_left, d_right, d_vector = torch.autograd.grad(out, (left, right, conv.att), upstream)
        return out, d_left, d_right, d_vector[0]

    return ours, theirs


def hgt(block: Generated) -> tuple[Step, Step]:
    """``dot_attention`` and what ``HGTConv`` does along the edges."""
    from torch_geometric.nn import HGTConv

    nodes, heads, width = block.shape
    query, key, value = (block.drawn(*block.shape) for _ in range(3))
    prior, upstream = block.drawn(1, heads), block.drawn(*block.shape).detach()
    conv = HGTConv(heads * width, heads * width, (["node"], [("node", "near", "node")]), heads)
    kinds = np.zeros(len(block.indices), np.int32)
    neighbours = Neighbours(block.indptr.numpy(), block.indices.numpy(), kinds)
    every = torch.zeros(len(block.indices), dtype=torch.int64)

    def ours() -> tuple[Tensor, ...]:
        out = dot_attention(query, key, value, prior, neighbours, width**-0.5)
        return out, *torch.autograd.grad(out, (query, key, value, prior), upstream)

    def theirs() -> tuple[Tensor, ...]:
        out = conv.propagate(block.ends, k=key, q=query, v=value, edge_attr=prior[every]).view(nodes, heads, width)
        return out, *torch.autograd.grad(out, (query, key, value, prior), upstream)

    return ours, theirs


PAIRS: dict[str, Callable[[Generated], tuple[Step, Step]]] = {"GATv2": gatv2, "HGT": hgt}


def measure(ours: Step, theirs: Step, repeats: int) -> dict[str, float]:
    """Median seconds of both, taking turns."""
    for a, b in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.detach().abs().max()))
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        for step, spent in zip((ours, theirs), times, strict=True):
            began = time.perf_counter()
            step()
            spent.append(time.perf_counter() - began)
    mine, other = (median(spent) for spent in times)
    return {"relrank_ms": 1e3 * mine, "pyg_ms": 1e3 * other, "ratio": other / mine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=20_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}, Python {platform.python_version()}")
    size = f"{given.nodes:,} nodes, {given.edges:,} edges, {given.dim} dimensions, {given.heads} heads"
    print(f"{size:64}{'PyG ms':>10}{'relrank ms':>12}{'ratio':>8}")
    figures = {}
    for name, pair in PAIRS.items():
        steps = pair(Generated(given.nodes, given.edges, given.dim, given.heads))
        figures[name] = f = measure(*steps, given.repeats)
        print(f"{name:64}{f['pyg_ms']:10.1f}{f['relrank_ms']:12.1f}{f['ratio']:7.1f}x", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"machine": where, "size": size, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
