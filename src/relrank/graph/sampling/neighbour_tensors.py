"""The neighbour sampler in tensor operations, for graphs that lie on an accelerator.

No loop runs over nodes or edges. A uniform subset is Floyd's algorithm on all nodes at once, one step for each draw;
larger and weighted ones expand every candidate edge, sort by (node, random key) and keep the first; weighted
draws with replacement invert the cumulated weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relrank.graph.sampling.blocks import Adjacency, Block, Edges, EdgeType, shared
from relrank.kernels.csr import Int64

# Floyd's algorithm compares each draw with all before it.
FLOYD_LIMIT = 64
# Candidate edges expanded at once: about 60 bytes each.
CANDIDATES = 1 << 25


class DeviceSampler:
    """The graph on a device, and draws from it; see ``neighbour_sampling.NeighbourSampler``."""

    def __init__(self, adjacency: Adjacency, replace: bool, weighted: bool, device: torch.device) -> None:
        self.adjacency = adjacency
        self.replace = replace
        self.weighted = weighted
        self.device = device
        self._rows = [_Rows(e, device) for e in adjacency.edge_types]

    def sample(self, seeds: Int64, fanouts: list[list[int]], left_out: list[Int64], seed: int) -> list[Block]:
        """The blocks, outermost first; ``left_out`` are positions in each edge type's columns."""
        generator = torch.Generator(self.device).manual_seed(seed)
        skip = [torch.from_numpy(s).to(self.device) for s in left_out]
        nodes = torch.from_numpy(seeds).to(self.device)
        place = torch.full((self.adjacency.n_nodes,), -1, dtype=torch.int32, device=self.device)
        place[nodes] = torch.arange(nodes.numel(), dtype=torch.int32, device=self.device)
        blocks = []
        for by_edge_type in fanouts:
            n_dst, drawn = nodes.numel(), []
            for rows, fanout, left in zip(self._rows, by_edge_type, skip, strict=True):
                drawn.append(rows.draw(nodes, fanout, left, self.replace, self.weighted, generator))
            met = torch.cat([columns for _, columns, _ in drawn])
            new = torch.unique(met[place[met] < 0]).long()
            place[new] = torch.arange(n_dst, n_dst + new.numel(), dtype=torch.int32, device=self.device)
            nodes = torch.cat([nodes, new])
            edges = tuple(Edges(indptr, place[columns], weight) for indptr, columns, weight in drawn)
            blocks.append(Block(nodes, n_dst, edges))
        return blocks[::-1]


class _Rows:
    """One edge type on a device."""

    def __init__(self, e: EdgeType, device: torch.device) -> None:
        self.destination, self.base = e.destination, e.source.start
        self.indptr = torch.from_numpy(e.csr.indptr).to(device)
        self.indices = shared(e.csr.indices).to(device)
        self.weight = None if e.unweighted else shared(e.csr.data).to(device)

    def draw(
        self, nodes: Tensor, fanout: int, skip: Tensor, replace: bool, weighted: bool, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets [len(nodes) + 1], global numbers of the neighbours (int64), weights."""
        at = ((nodes >= self.destination.start) & (nodes < self.destination.stop)).nonzero()[:, 0]
        row = nodes[at] - self.destination.start
        first, last = self.indptr[row], self.indptr[row + 1]
        before = torch.searchsorted(skip, first)
        free = last - first - (torch.searchsorted(skip, last) - before)
        by_weight = weighted and self.weight is not None and fanout >= 0
        if fanout < 0:
            count = free
        elif replace:
            count = torch.where(free > 0, fanout, 0)
        else:
            count = free.clamp(max=fanout)
        # The r-th free position: as many skipped ones lie before it as have skip[j] - j <= r + first - before.
        shift, order = first - before, skip - torch.arange(skip.numel(), device=skip.device)

        def position(owner: Tensor, rank: Tensor) -> Tensor:
            target = rank + shift[owner]
            return target + torch.searchsorted(order, target, right=True)

        if fanout < 0:
            chosen = position(*_expand(free))
        elif replace and not by_weight:
            owner, _ = _expand(count)
            chosen = position(owner, _below(free[owner], generator))
        elif not by_weight and fanout <= FLOYD_LIMIT:
            chosen = position(*_floyd(free, fanout, generator))
        else:
            parts = [free.new_empty(0)]
            for low, high in _borders(free):
                owner, rank = _expand(free[low:high])
                candidate = position(owner + low, rank)
                weight = self.weight[candidate].double() if by_weight and self.weight is not None else None
                if replace:
                    assert weight is not None
                    pick = _repeats(free[low:high], fanout, weight, generator)
                else:
                    pick = _smallest(owner, rank, fanout, weight, generator)
                parts.append(candidate[pick])
            chosen = torch.cat(parts)
        indptr = torch.zeros(nodes.numel() + 1, dtype=torch.int64, device=nodes.device)
        indptr[at + 1] = count
        columns = self.indices[chosen].long() + self.base
        weight = torch.ones(chosen.shape, device=nodes.device) if self.weight is None else self.weight[chosen]
        return indptr.cumsum(0), columns, weight


def _expand(count: Tensor) -> tuple[Tensor, Tensor]:
    """The owner of each of ``count.sum()`` things and its number among the owner's own."""
    owner = torch.repeat_interleave(count)
    return owner, torch.arange(owner.numel(), device=count.device) - (count.cumsum(0) - count)[owner]


def _below(bound: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform integers of 0 … bound - 1, from 53 random bits."""
    uniform = torch.rand(bound.shape, generator=generator, dtype=torch.float64, device=bound.device)
    return torch.minimum((uniform * bound).long(), bound - 1)


def _floyd(free: Tensor, fanout: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """min(free, fanout) distinct integers of 0 … free - 1 for each owner; all of them where they do not exceed it."""
    chosen = torch.arange(fanout, device=free.device).repeat(free.numel(), 1)
    many = free > fanout
    for i in range(fanout):
        top = torch.where(many, free - fanout + i, i)
        pick = _below(top + 1, generator)
        pick = torch.where((chosen[:, :i] == pick[:, None]).any(1), top, pick)
        chosen[:, i] = torch.where(many, pick, i)
    kept = torch.arange(fanout, device=free.device) < free[:, None]
    return kept.nonzero()[:, 0], chosen[kept]


def _smallest(owner: Tensor, rank: Tensor, fanout: int, weight: Tensor | None, generator: torch.Generator) -> Tensor:
    """Which candidates hold the ``fanout`` smallest keys of their owner: -log(u)/w, or u."""
    key = torch.rand(owner.shape, generator=generator, dtype=torch.float64, device=owner.device)
    if weight is not None:
        key = -torch.log1p(-key) / weight
    by_key = torch.argsort(key)
    by_owner = by_key[torch.argsort(owner[by_key], stable=True)]
    # Sorted by owner, the n-th candidate has the n-th (owner, rank) of the expansion.
    return by_owner[rank < fanout]


def _repeats(free: Tensor, fanout: int, weight: Tensor, generator: torch.Generator) -> Tensor:
    """``fanout`` candidates of each owner that has any, with replacement, by weight."""
    total = torch.cat([weight.new_zeros(1), weight.cumsum(0)])
    some = (free > 0).nonzero()[:, 0].repeat_interleave(fanout)
    last = free.cumsum(0)[some]
    first = last - free[some]
    below = total[first]
    span = total[last] - below
    uniform = torch.rand(some.shape, generator=generator, dtype=torch.float64, device=free.device)
    found = torch.searchsorted(total, below + uniform * span, right=True) - 1
    return torch.minimum(torch.maximum(found, first), last - 1)


def _borders(free: Tensor) -> list[tuple[int, int]]:
    """Ranges of owners with at most ``CANDIDATES`` candidates each, or one owner."""
    ends = free.cumsum(0)
    borders, low, done = [], 0, 0
    while low < free.numel():
        high = int(torch.searchsorted(ends, done + CANDIDATES, right=True))
        high = max(low + 1, high)
        borders.append((low, high))
        low, done = high, int(ends[high - 1])
    return borders
