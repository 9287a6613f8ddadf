"""The heterogeneous graph: node types and relations, each relation stored once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from relrank.csr import Csr, Float32, Int32, Int64
from relrank.errors import InputError
from relrank.tables.ids import IdMap
from relrank.tables.tables import Notice

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Duplicates = Literal["error", "sum", "max", "first"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Relation:
    """A named, typed, weighted edge set, stored once, in one direction, sorted, without duplicates.

    A relation of a type with itself is undirected: each unordered pair once, ``src < dst``.

    Attributes:
        name: e.g. ``"has_tag"``.
        source: node type of ``src``.
        target: node type of ``dst``.
        src: int32 [n_edges], rows of the source type.
        dst: int32 [n_edges], rows of the target type.
        weight: float32 [n_edges], all positive and finite.

    Raises:
        ValueError: an array is not as above; ``Relation.of`` makes a relation from edges in any order.
    """

    name: str
    source: str
    target: str
    src: Int32
    dst: Int32
    weight: Float32

    def __post_init__(self) -> None:
        ends, where = (self.src, self.dst), f"relation {self.name!r}: "
        if any(rows.dtype != np.int32 or rows.shape != (self.weight.size,) for rows in ends):
            raise ValueError(where + "src and dst must be int32 [n_edges]")
        if self.weight.dtype != np.float32 or self.weight.ndim != 1:
            raise ValueError(where + "weight must be float32 [n_edges]")
        if not (np.isfinite(self.weight) & (self.weight > 0)).all():
            raise ValueError(where + "weights must be positive and finite")
        if any((rows < 0).any() for rows in ends):
            raise ValueError(where + "rows must not be negative")
        step, beside = np.diff(self.src), np.diff(self.dst)
        if not ((step > 0) | ((step == 0) & (beside > 0))).all():
            raise ValueError(where + "edges must ascend by (src, dst) and occur once")
        if self.undirected and not (self.src < self.dst).all():
            raise ValueError(where + "an undirected relation holds each pair once, src < dst")

    @classmethod
    def of(
        cls,
        name: str,
        source: str,
        target: str,
        src: npt.NDArray[np.integer],
        dst: npt.NDArray[np.integer],
        weight: npt.NDArray[np.floating | np.integer] | None = None,
        duplicates: Duplicates = "error",
    ) -> Relation:
        """Sort edges into a relation; between nodes of one type the two directions of a pair are the same edge.

        Args:
            name: of the relation.
            source: node type of ``src``.
            target: node type of ``dst``.
            src: integer [n], rows of the source type, in any order.
            dst: integer [n], rows of the target type.
            weight: number [n]; all ones when None.
            duplicates: what becomes of an edge that occurs more than once: refused, weights added up, the
                largest weight, or the weight that comes first.

        Raises:
            ValueError: an edge occurs twice and ``duplicates`` is "error"; a weight is not positive; a self-loop.
        """
        values = np.ones(src.size) if weight is None else weight.astype(np.float64)
        if source == target:
            src, dst = np.minimum(src, dst), np.maximum(src, dst)
        key = src.astype(np.int64) << 32 | dst.astype(np.int64)
        order = np.argsort(key, kind="stable")
        key, values = key[order], values[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        if duplicates == "error" and starts.size < key.size:
            raise ValueError(f"relation {name!r}: {key.size - starts.size} edges occur more than once")
        if starts.size < key.size and duplicates == "sum":
            values = np.add.reduceat(values, starts)
        elif starts.size < key.size and duplicates == "max":
            values = np.maximum.reduceat(values, starts)
        else:
            values = values[starts]
        first = order[starts]
        return cls(
            name, source, target, src[first].astype(np.int32), dst[first].astype(np.int32), values.astype(np.float32)
        )

    def __len__(self) -> int:
        return self.src.size

    @property
    def undirected(self) -> bool:
        """Whether the relation links a type with itself."""
        return self.source == self.target

    def where(self, mask: npt.NDArray[np.bool_]) -> Relation:
        """The edges for which ``mask``, bool [n_edges], is true."""
        return replace(self, src=self.src[mask], dst=self.dst[mask], weight=self.weight[mask])

    def degrees(self, node_type: str, n: int) -> Int64:
        """Edges at each of the ``n`` nodes of a type that the relation links, int64 [n]."""
        ends = [rows for end, rows in ((self.source, self.src), (self.target, self.dst)) if end == node_type]
        return np.bincount(np.concatenate(ends), minlength=n)

    def csr(self, n_source: int, n_target: int) -> Csr:
        """Source by target; for an undirected relation both triangles are filled."""
        if not self.undirected:
            return Csr.from_pairs(self.src, self.dst, (n_source, n_target), self.weight)
        src = np.concatenate([self.src, self.dst])
        dst = np.concatenate([self.dst, self.src])
        return Csr.from_pairs(src, dst, (n_source, n_target), np.concatenate([self.weight, self.weight]))


@dataclass(frozen=True, slots=True)
class Graph:
    """Node types, the interactions, and the relations beside them.

    Attributes:
        user: node type that chooses.
        item: node type that is chosen.
        nodes: keys of every node type, in row order.
        interactions: the relation user → item built from training rows only.
        relations: every other relation by name.
        fingerprint: of the split the interactions came from.
        notices: what building dropped by stated policy, and which nodes a relation does not reach.

    Raises:
        ValueError: a relation links a type without keys, or holds rows beyond the keys of a type.
    """

    user: str
    item: str
    nodes: dict[str, IdMap]
    interactions: Relation
    relations: dict[str, Relation]
    fingerprint: str
    notices: tuple[Notice, ...] = ()

    def __post_init__(self) -> None:
        for relation in (self.interactions, *self.relations.values()):
            for end, rows in ((relation.source, relation.src), (relation.target, relation.dst)):
                if end not in self.nodes:
                    raise ValueError(f"relation {relation.name!r} links type {end!r}, which has no keys")
                if rows.size and rows.max() >= len(self.nodes[end]):
                    raise ValueError(f"relation {relation.name!r}: {end} row {rows.max()} of {len(self.nodes[end])}")

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.nodes[self.user])

    @property
    def n_items(self) -> int:
        """Number of items: the full catalogue."""
        return len(self.nodes[self.item])

    def relation(self, name: str) -> Relation:
        """The relation of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self.relations:
            raise InputError(
                "unknown relation",
                where="graph",
                expected=f"one of {sorted(self.relations)}",
                found=repr(name),
            )
        return self.relations[name]

    def without(self, *names: str) -> Graph:
        """The same graph less these relations."""
        for name in names:
            self.relation(name)
        return replace(self, relations={n: r for n, r in self.relations.items() if n not in names})

    def only(self, *names: str) -> Graph:
        """The interactions and these relations alone; ``only()`` is interactions alone."""
        return replace(self, relations={n: self.relation(n) for n in names})

    def rewired(self, name: str, seed: int) -> Graph:
        """The same graph with one relation's edges shuffled, every node keeping its degree."""
        from relrank.graph.rewiring import rewire

        return replace(self, relations={**self.relations, name: rewire(self.relation(name), seed)})

    def edges_of(self, node_type: str) -> tuple[Relation, ...]:
        """The relations that link a type, interactions included."""
        return tuple(r for r in (self.interactions, *self.relations.values()) if node_type in (r.source, r.target))

    def to_pyg(self) -> HeteroData:
        """The graph for PyTorch Geometric, edges in both directions; see :func:`relrank.graph.pyg.to_pyg`."""
        from relrank.graph.pyg import to_pyg

        return to_pyg(self)

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {name}: {len(ids):,} nodes" for name, ids in self.nodes.items())
        edges = "".join(
            f"\n  {r.name}: {r.source} {'—' if r.undirected else '→'} {r.target}, {len(r):,} edges"
            for r in (self.interactions, *self.relations.values())
        )
        return f"Graph{nodes}{edges}"


def coverage(graph: Graph) -> dict[str, float]:
    """For each relation, the share of items (of users, where no item is linked) that have at least one edge in it.

    A relation that links neither users nor items is judged by its source type.
    """
    shares = {}
    for name, relation in graph.relations.items():
        ends = (relation.source, relation.target)
        judged = next((end for end in (graph.item, graph.user) if end in ends), relation.source)
        shares[name] = float((relation.degrees(judged, len(graph.nodes[judged])) > 0).mean())
    return shares
