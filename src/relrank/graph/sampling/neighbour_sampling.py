"""Neighbour sampling: the few neighbours that a batch's layers read, drawn anew for every batch.

From the seeds outwards, every node reached so far draws neighbours in every edge type (Hamilton et al. 2017,
GraphSAGE; Schlichtkrull et al. 2018 for relations). What is drawn is exact: subsets by Floyd's algorithm or by
selection sampling (Knuth, TAOCP 2, 3.4.2 S), weighted subsets by the smallest of ``-log(u)/w`` (Efraimidis &
Spirakis 2006), bounded integers without bias (Lemire 2019). Random numbers are hashes of (seed, layer, edge type,
node, draw), so neither the number of threads nor the order of the seeds changes what a node draws.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.sampling.blocks import Adjacency, Block, Edges, Pairs
from relrank.kernels.csr import Int32, Int64
from relrank.kernels.neighbour_sampling import counts, draw, first_repeated, relabel

T = TypeVar("T")
Fanout = int | Mapping[str, int]


class _Scratch(threading.local):
    """Where each node stands in the batch's list, -1 if nowhere: one dense array for every thread that samples."""

    def __init__(self, n_nodes: int) -> None:
        self.place: Int32 = np.full(n_nodes, -1, np.int32)


class NeighbourSampler:
    """Draws the blocks of a batch.

    Args:
        adjacency: of the graph.
        fanouts: for each layer, the seeds' own neighbours first: how many neighbours a node draws in an edge type,
            -1 for all of them; or a mapping from every relation's name to its number, used in both directions.
        replace: whether neighbours are drawn with replacement. A neighbour drawn twice is then two edges, and every
            node that has a neighbour draws exactly the fan-out; -1 still takes every neighbour once.
        weighted: whether the chance of a neighbour is proportional to its edge's weight instead of uniform.
            Reads all the weights of a node where uniform draws read only what they choose.

    Raises:
        InputError: no layer, a fan-out below -1, or a mapping that misses a relation or names an unknown one.
    """

    def __init__(
        self,
        adjacency: Adjacency,
        fanouts: Sequence[Fanout],
        replace: bool = False,
        weighted: bool = False,
    ) -> None:
        self.adjacency = adjacency
        self.fanouts = [_by_edge_type(adjacency, layer, f) for layer, f in enumerate(fanouts)]
        if not self.fanouts:
            raise InputError("no layer", where="fanouts", expected="one entry per layer", found="none")
        self.replace = replace
        self.weighted = weighted
        self._scratch = _Scratch(adjacency.n_nodes)

    def sample(
        self,
        seeds: Int64 | Tensor,
        seed: np.random.SeedSequence,
        exclude: Pairs | None = None,
        parallel: bool | None = None,
    ) -> list[Block]:
        """Draw the blocks that compute the seeds, the outermost first.

        ``blocks[0].nodes`` are the nodes whose input is needed; the destinations of each block are the sources of the
        next; the last block's destinations are the seeds, in their order. Other nodes come in no particular order.

        Args:
            seeds: int64 [n], global numbers, each once.
            seed: same seed, same blocks: bit for bit, on any number of threads.
            exclude: interactions (user rows, item rows) that carry no message in either direction in any layer: a
                batch's supervised edges. A pair that is no interaction is passed over.
            parallel: whether to draw on all of numba's threads. None does so in the main thread alone: parallel
                regions of numba may not be entered by several threads at once.

        Raises:
            InputError: a seed occurs twice or is no node.
        """
        start = np.ascontiguousarray(seeds.cpu() if isinstance(seeds, Tensor) else seeds, np.int64)
        left_out = self.adjacency.positions(exclude)
        shape = len(self.fanouts), len(self.adjacency.edge_types)
        words = seed.generate_state(shape[0] * shape[1], np.uint64).reshape(shape)
        self._check(start)
        if parallel is None:
            parallel = threading.current_thread() is threading.main_thread()
        place, nodes, blocks = self._scratch.place, start, []
        place[start] = np.arange(start.size, dtype=np.int32)
        try:
            for fanouts, layer_words in zip(self.fanouts, words, strict=True):
                block = self._layer(nodes, fanouts, left_out, layer_words, parallel)
                blocks.append(block)
                nodes = block.nodes.numpy()
        except BaseException:  # an interrupt may fall between the marks and their list
            place.fill(-1)
            raise
        place[nodes] = -1
        return blocks[::-1]

    def _check(self, seeds: Int64) -> None:
        if seeds.ndim != 1 or (seeds.size and (seeds.min() < 0 or seeds.max() >= self.adjacency.n_nodes)):
            raise InputError(
                "seed is no node",
                where="seeds",
                expected=f"[n], 0 to {self.adjacency.n_nodes - 1}",
                found=f"{list(seeds.shape)}, {seeds.min()} to {seeds.max()}",
            )
        again = first_repeated(seeds, self._scratch.place)
        if again >= 0:
            raise InputError(
                "seed occurs more than once",
                where=f"seeds, position {again}",
                expected="each node once",
                found=f"node {seeds[again]} again",
            )

    def _layer(
        self, nodes: Int64, fanouts: list[int], left_out: list[Int64], words: np.ndarray, parallel: bool
    ) -> Block:
        drawn: list[tuple[Int64, Int32, np.ndarray]] = []
        for e, fanout, skip, word in zip(self.adjacency.edge_types, fanouts, left_out, words, strict=True):
            indptr = np.zeros(nodes.size + 1, np.int64)
            if fanout:
                counts(nodes, e, skip, fanout, self.replace, indptr)
            np.cumsum(indptr, out=indptr)
            columns = np.empty(indptr[-1], np.int32)
            weight = np.empty(indptr[-1], np.float32)
            if columns.size:
                draw(nodes, e, skip, fanout, self.replace, self.weighted, word, indptr, columns, weight, parallel)
            drawn.append((indptr, columns, weight))
        total = nodes.size + sum(columns.size for _, columns, _ in drawn)
        reached = np.empty(min(total, self.adjacency.n_nodes), np.int64)
        reached[: nodes.size] = nodes
        n = nodes.size
        for _, columns, _ in drawn:
            n = relabel(columns, self._scratch.place, reached, n)
        edges = tuple(Edges(*(torch.from_numpy(a) for a in arrays)) for arrays in drawn)
        return Block(torch.from_numpy(reached[:n].copy()), nodes.size, edges)


def _by_edge_type(adjacency: Adjacency, layer: int, fanout: Fanout) -> list[int]:
    where = f"fanouts, layer {layer}"
    by_name = dict.fromkeys(adjacency.names, fanout) if isinstance(fanout, int) else dict(fanout)
    if set(by_name) != set(adjacency.names):
        raise InputError(
            "fan-outs do not name the relations",
            where=where,
            expected=f"each of {sorted(adjacency.names)}",
            found=f"{sorted(by_name)}",
        )
    for name, number in by_name.items():
        if number < -1:
            raise InputError(
                "fan-out is negative",
                where=f"{where}, relation {name!r}",
                expected="a number of neighbours, or -1",
                found=str(number),
            )
    return [by_name[adjacency.names[e.relation]] for e in adjacency.edge_types]


def full_blocks(adjacency: Adjacency, max_edges: int) -> Iterator[Block]:
    """All nodes as destinations, in order, chunk by chunk, each with all its neighbours.

    One sweep computes a layer of all nodes from the layer below of all nodes in bounded memory, exactly:
    ``new[block.nodes[: block.n_dst]] = layer(old[block.nodes], block)``.

    Args:
        adjacency: of the graph.
        max_edges: largest number of a chunk's edges, each node counting as one more; a node beyond it is a chunk by
            itself.
    """
    sampler = NeighbourSampler(adjacency, [-1])
    ends = np.cumsum(adjacency.degrees() + 1)
    first = 0
    while first < adjacency.n_nodes:
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + max_edges, side="right")))
        yield sampler.sample(np.arange(first, last), np.random.SeedSequence(0))[0]
        first = last


def prefetch(make: Callable[[int], T], n: int, workers: int) -> Iterator[T]:
    """``make(0)``, …, ``make(n - 1)`` in this order, made ahead of their use.

    At most ``2 · workers`` of them wait. An exception of ``make(i)`` is raised in place of the i-th. A consumer that
    stops early waits for those under way and no more; close the iterator (or drop it) to that end.

    Args:
        make: called from several threads at once if ``workers`` > 1; may not enter numba's parallel regions.
        n: how many.
        workers: threads; with 0 everything is made in the caller's thread, each when it is asked for.
    """
    if workers == 0:
        yield from map(make, range(n))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    waiting: dict[int, Future[T]] = {}
    try:
        for i in range(n):
            for ahead in range(i + len(waiting), min(n, i + 2 * workers)):
                waiting[ahead] = pool.submit(make, ahead)
            yield waiting.pop(i).result()
    finally:
        pool.shutdown(cancel_futures=True)
