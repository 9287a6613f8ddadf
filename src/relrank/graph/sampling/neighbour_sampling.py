"""Neighbour sampling: a few random neighbours per node and layer, drawn for each batch.

From the seed nodes outwards, every node reached so far samples neighbours in every edge type (Hamilton et al. 2017,
GraphSAGE; Schlichtkrull et al. 2018 for relations). The distributions are exact: subsets by Floyd's algorithm or by
selection sampling (Knuth, TAOCP 2, 3.4.2 S), weighted subsets by the smallest of ``-log(u)/w`` (Efraimidis &
Spirakis 2006), bounded integers without bias (Lemire 2019). Random numbers are hashes of (seed, layer, edge type,
node, draw), so a node's sample depends neither on the number of threads nor on the order of the seed nodes.
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
    """The position of each node in the batch's list, -1 for nodes not in it: one dense array per thread."""

    def __init__(self, n_nodes: int) -> None:
        self.place: Int32 = np.full(n_nodes, -1, np.int32)


class NeighbourSampler:
    """Draws the blocks of a batch.

    Args:
        adjacency: of the graph.
        fanouts: for each layer, that of the seed nodes first, the number of neighbours that a node samples in an edge
            type, -1 for all; or a mapping from every relation's name to this number, used in both directions.
        replace: whether neighbours are drawn with replacement. A neighbour drawn twice is then two edges, and every
            node with a neighbour draws exactly the fan-out; -1 still takes every neighbour once.
        weighted: whether the probability of a neighbour is proportional to the edge's weight instead of uniform. It
            reads all weights of a node, whereas uniform sampling reads only the sampled edges.

    Raises:
        InputError: there is no layer, a fan-out is below -1, or a mapping does not name exactly the relations.
    """

    def __init__(
        self, adjacency: Adjacency, fanouts: Sequence[Fanout], replace: bool = False, weighted: bool = False
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
        """Draw the blocks that compute the seed nodes, the outermost first.

        ``blocks[0].nodes`` are the nodes whose input is needed; the destinations of each block are the sources of the
        next; the last block's destinations are the seed nodes, in their order. Other nodes have no particular order.

        Args:
            seeds: int64 [n], global numbers of the seed nodes, each once.
            seed: random seed; the same seed gives the same blocks on any number of threads.
            exclude: interactions (user rows, item rows) that pass no message in either direction in any layer, such
                as a batch's supervised edges. Pairs that are no interactions are ignored.
            parallel: whether to use all of numba's threads. None does so in the main thread only, because several
                threads must not enter numba's parallel regions at once.

        Raises:
            InputError: a seed node occurs twice or does not exist.
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
        repeated = first_repeated(seeds, self._scratch.place)
        if repeated >= 0:
            raise InputError(
                "seed occurs more than once",
                where=f"seeds, position {repeated}",
                expected="each node once",
                found=f"node {seeds[repeated]} again",
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
    """All nodes as destinations, in order and in chunks, with all their neighbours.

    They compute a layer of all nodes exactly, in bounded memory:
    ``new[block.nodes[: block.n_dst]] = layer(old[block.nodes], block)``.

    Args:
        adjacency: of the graph.
        max_edges: most edges and nodes of a chunk; a node with more edges is a chunk of its own.
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
    """``make(0)``, …, ``make(n - 1)`` in this order, computed in advance.

    At most ``2 · workers`` results wait. An exception of ``make(i)`` is raised in place of the i-th result. Closing
    or dropping the iterator waits for the running calls and starts no more.

    Args:
        make: called from several threads at once if ``workers`` > 1; must not enter numba's parallel regions.
        n: number of calls.
        workers: number of threads; 0 calls ``make`` in the caller's thread when a result is requested.
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
