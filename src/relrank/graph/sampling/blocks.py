"""Message-flow blocks: the edges of one message-passing layer, over one numbering of all nodes.

An :class:`Adjacency` holds the neighbours of all nodes, every relation in both directions. A :class:`Block` is the
input of one layer of a graph neural network: its destination nodes are the first of its source nodes, so that a layer
maps ``h[block.nodes]`` to ``n_dst`` rows, which are the source rows of the next block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr, Int64
from relrank.kernels.jit import njit

Pairs = tuple[Int64 | Tensor, Int64 | Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class EdgeType:
    """One direction of one relation; an undirected relation has one edge type for both directions.

    Attributes:
        name: ``"has_tag"`` from the relation's source to its target, ``"has_tag reversed"`` back.
        relation: index into ``Adjacency.names``.
        destination: global numbers of the receiving nodes.
        source: global numbers of the sending nodes.
        csr: destinations by sources, both numbered inside their type, with the weights.
        unweighted: whether all weights are 1.
    """

    name: str
    relation: int
    destination: slice
    source: slice
    csr: Csr
    unweighted: bool


class Adjacency:
    """The neighbours of all nodes of a graph, numbered as in ``Propagation``.

    An edge takes 4 bytes for the column and 4 for the weight in each direction. One direction shares the relation's
    arrays, and the two directions of a relation without weights share the weights.

    Args:
        graph: interactions are relation 0, the other relations follow in name order.

    Attributes:
        names: relation names.
        types: global numbers of each node type: users first, then items, then every type that a relation touches.
        n_nodes: number of nodes.
        edge_types: every relation in both directions; 0 is the interactions, user to item, and 1 their reverse.

    Raises:
        InputError: more than 2³¹ − 1 nodes.
    """

    def __init__(self, graph: Graph) -> None:
        self.types = graph.node_slices()
        self.n_nodes = max(nodes.stop for nodes in self.types.values())
        if self.n_nodes > np.iinfo(np.int32).max:
            raise InputError("too many nodes", where="graph", expected="fewer than 2^31", found=f"{self.n_nodes:,}")
        relations = graph.ordered_relations()
        self.names = tuple(r.name for r in relations)
        self.edge_types = [e for i, r in enumerate(relations) for e in self._both_ways(i, r)]

    def _both_ways(self, index: int, relation: Relation) -> list[EdgeType]:
        source, target = self.types[relation.source], self.types[relation.target]
        n_source, n_target = source.stop - source.start, target.stop - target.start
        unweighted = bool((relation.weight == 1).all())
        if relation.undirected:
            both = relation.csr(n_source, n_source)
            return [EdgeType(relation.name, index, source, source, both, unweighted)]
        # edges ascend by (src, dst), so the relation's arrays are the rows of the sources
        indptr = np.zeros(n_source + 1, np.int64)
        np.cumsum(np.bincount(relation.src, minlength=n_source), out=indptr[1:])
        sources = Csr(indptr, relation.dst, relation.weight, n_target)
        transposed = csr_array((relation.weight, relation.dst, indptr), shape=(n_source, n_target)).tocsc()
        targets = Csr(
            transposed.indptr.astype(np.int64),
            transposed.indices.astype(np.int32, copy=False),
            relation.weight if unweighted else transposed.data,
            n_source,
        )
        return [
            EdgeType(relation.name, index, target, source, targets, unweighted),
            EdgeType(relation.name + " reversed", index, source, target, sources, unweighted),
        ]

    def degrees(self) -> Int64:
        """Number of incoming edges of each node over all edge types, int64 [n_nodes]."""
        total = np.zeros(self.n_nodes, np.int64)
        for e in self.edge_types:
            total[e.destination] += e.csr.degrees()
        return total

    def positions(self, pairs: Pairs | None) -> list[Int64]:
        """Positions of interactions in each edge type's ``csr.indices``, int64, ascending, each once.

        Args:
            pairs: user rows and item rows; pairs that are no interactions are ignored. None for no pairs.

        Returns:
            One array per edge type, empty for all but the interactions.

        Raises:
            InputError: a row is outside its type, or the numbers of users and items differ.
        """
        positions = [np.empty(0, np.int64) for _ in self.edge_types]
        if pairs is None:
            return positions
        users, items = (np.ascontiguousarray(side, np.int64) for side in pairs)
        to_items, to_users = self.edge_types[:2]
        if users.shape != items.shape or users.ndim != 1:
            raise InputError(
                "pairs do not fit",
                where="edges to leave out",
                expected="as many users as items, one-dimensional",
                found=f"{users.shape} users, {items.shape} items",
            )
        for kind, rows, n in (("user", users, to_users.csr.n_rows), ("item", items, to_items.csr.n_rows)):
            if rows.size and (rows.min() < 0 or rows.max() >= n):
                raise InputError(
                    f"{kind} row out of range",
                    where="edges to leave out",
                    expected=f"0 to {n - 1}",
                    found=str(rows.min() if rows.min() < 0 else rows.max()),
                )
        for k, (rows, columns) in enumerate(((items, users), (users, items))):
            csr = self.edge_types[k].csr
            at = _positions(csr.indptr, csr.indices, rows, columns)
            positions[k] = np.unique(at[at >= 0])
        return positions


@njit(nogil=True)
def _positions(indptr, indices, rows, columns):  # type: ignore[no-untyped-def]
    out = np.empty(rows.size, np.int64)
    for i in range(rows.size):
        low, high = indptr[rows[i]], indptr[rows[i] + 1]
        last = high
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < columns[i]:
                low = middle + 1
            else:
                high = middle
        out[i] = low if low < last and indices[low] == columns[i] else -1
    return out


class Edges(NamedTuple):
    """The edges of one edge type in a block, as a sparse matrix of local destinations by local sources.

    Attributes:
        indptr: int64 [n_dst + 1]; destinations of other node types have no edges.
        indices: int32 [n_edges], positions in ``Block.nodes``; unordered inside a row.
        weight: float32 [n_edges], the relation's weights.
    """

    indptr: Tensor
    indices: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The edges of one layer in local numbers; all arrays are torch tensors on one device.

    Attributes:
        nodes: int64 [n_src], global numbers of the source nodes, each once. The first ``n_dst`` are the destinations.
        n_dst: number of destinations.
        edges: one for each of ``Adjacency.edge_types``, in the same order.
    """

    nodes: Tensor
    n_dst: int
    edges: tuple[Edges, ...]

    @property
    def n_src(self) -> int:
        """Number of source nodes, destinations included."""
        return self.nodes.numel()

    @property
    def n_edges(self) -> int:
        """Edges over all edge types."""
        return sum(e.indices.numel() for e in self.edges)

    def edge_index(self, k: int) -> Tensor:
        """Edges of edge type ``k`` by destination, int64 [2, n_edges]: local sources, local destinations."""
        indptr, indices, _ = self.edges[k]
        rows = torch.arange(self.n_dst, device=indptr.device)
        rows = torch.repeat_interleave(rows, indptr.diff(), output_size=indices.numel())
        return torch.stack([indices.long(), rows])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Block:
        """The block on another device."""

        def move(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
            return tuple(t.to(device, non_blocking=non_blocking) for t in tensors)

        return Block(move([self.nodes])[0], self.n_dst, tuple(Edges(*move(e)) for e in self.edges))


def full_block(adjacency: Adjacency, exclude: Pairs | None = None, full: Block | None = None) -> Block:
    """The block of full-graph training: all nodes as sources and destinations, in their global numbers.

    Args:
        adjacency: of the graph.
        exclude: interactions (user rows, item rows) left out in both directions.
        full: the block without exclusions, if available; edge types that lose no edge are shared with it.
    """
    edges = []
    for k, (e, left_out) in enumerate(zip(adjacency.edge_types, adjacency.positions(exclude), strict=True)):
        if full is not None and not left_out.size:
            edges.append(full.edges[k])
            continue
        starts, columns, weight = e.csr.indptr, e.csr.indices, e.csr.data
        if left_out.size:
            starts = starts - np.searchsorted(left_out, starts)
            columns, weight = np.delete(columns, left_out), np.delete(weight, left_out)
        indptr = np.empty(adjacency.n_nodes + 1, np.int64)
        indptr[: e.destination.start] = 0
        indptr[e.destination.start : e.destination.stop + 1] = starts
        indptr[e.destination.stop + 1 :] = starts[-1]
        edges.append(Edges(*(_shared(a) for a in (indptr, columns + np.int32(e.source.start), weight))))
    nodes = torch.arange(adjacency.n_nodes) if full is None else full.nodes
    return Block(nodes, adjacency.n_nodes, tuple(edges))


def _shared(array: npt.NDArray[np.generic]) -> Tensor:
    """The array as a tensor without a copy; read-only arrays are copied, because torch needs writable ones."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
