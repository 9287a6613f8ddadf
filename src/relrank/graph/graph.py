"""The heterogeneous graph: node types, relations, each stored once, and features of nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from relrank.errors import InputError, did_you_mean, one_of
from relrank.kernels.counting_sort import ascending, order_of_pairs, repeated
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Duplicates = Literal["error", "sum", "max", "first"]
Titles = Mapping[str, str]
"""What people read instead of a relation's name; a relation that is not in it goes by its name."""
NO_TITLES: Titles = MappingProxyType({})


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
        if not ascending(self.src, self.dst) or repeated(self.src, self.dst).any():
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

        Rows that are sorted, int32 and contiguous already are shared with the relation, not copied.

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
            ValueError: an edge occurs twice and ``duplicates`` is "error"; a row is negative or above int32; a
                weight is not positive; a self-loop.
        """
        if source == target:
            src, dst = np.minimum(src, dst), np.maximum(src, dst)
        if any(rows.size and not 0 <= rows.min() <= rows.max() < 2**31 for rows in (src, dst)):
            raise ValueError(f"relation {name!r}: rows must be 0 … 2^31 − 1")
        one, other = (np.ascontiguousarray(rows, np.int32) for rows in (src, dst))
        values = None if weight is None else weight.astype(np.float64)
        if not ascending(one, other):
            order = order_of_pairs(one, other, (int(one.max()) + 1, int(other.max()) + 1))
            one, other = one[order], other[order]
            values = None if values is None else values[order]
        again = repeated(one, other)
        if again.any():
            if duplicates == "error":
                raise ValueError(f"relation {name!r}: {again.sum()} edges occur more than once")
            first = np.flatnonzero(~again)
            values = np.ones(one.size) if values is None else values
            one, other = one[first], other[first]
            if duplicates == "sum":
                values = np.add.reduceat(values, first)
            elif duplicates == "max":
                values = np.maximum.reduceat(values, first)
            else:
                values = values[first]
        weights = np.ones(one.size, np.float32) if values is None else values.astype(np.float32)
        return cls(name, source, target, one, other, weights)

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


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """What is known of the nodes of one type: a dense or a sparse row each. Missing is not zero, hence ``known``.

    Attributes:
        name: e.g. ``"year"``.
        node: the node type.
        known: bool [n], False where the value is missing; such a row is all zeros, or empty.
        dense: float32 [n, d], mean 0 over the known rows, or None.
        sparse: n rows, float32 values, all ones unless stated otherwise; or None. One of the two is there.

    Raises:
        ValueError: an array is not as above.
    """

    name: str
    node: str
    known: npt.NDArray[np.bool_]
    dense: Float32 | None = None
    sparse: Csr | None = None

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}: "
        if self.known.dtype != np.bool_ or self.known.ndim != 1:
            raise ValueError(where + "known must be bool [n]")
        if (self.dense is None) == (self.sparse is None):
            raise ValueError(where + "either dense or sparse")
        if self.dense is not None:
            if self.dense.dtype != np.float32 or self.dense.ndim != 2 or len(self.dense) != len(self):
                raise ValueError(where + "dense must be float32 [n, d]")
            values, filled = self.dense, self.dense.any(axis=1)
        else:
            values, filled = self._checked_sparse(where)
        if not np.isfinite(values).all():
            raise ValueError(where + "values must be finite")
        if (filled & ~self.known).any():
            raise ValueError(where + "a missing row must be zero, or empty")

    def _checked_sparse(self, where: str) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """Values of ``sparse``, and which rows have one."""
        assert self.sparse is not None
        s = self.sparse
        if s.indptr.dtype != np.int64 or s.indices.dtype != np.int32 or s.data.dtype != np.float32:
            raise ValueError(where + "sparse must be int64, int32, float32")
        if s.n_rows != len(self) or (s.indptr[0], s.indptr[-1]) != (0, s.nnz) or s.data.shape != s.indices.shape:
            raise ValueError(where + "sparse must have n rows")
        lengths = s.degrees()
        if (lengths < 0).any() or (s.nnz and not 0 <= s.indices.min() <= s.indices.max() < s.n_cols):
            raise ValueError(where + "rows or columns of sparse are out of range")
        if ((np.diff(s.indices) <= 0) & (np.diff(s.rows()) == 0)).any():
            raise ValueError(where + "columns of sparse must ascend inside a row and occur once")
        if not (s.data > 0).all():
            raise ValueError(where + "values of sparse must be positive")
        return s.data, lengths > 0

    def __len__(self) -> int:
        return self.known.size

    @property
    def dims(self) -> int:
        """Columns."""
        return int(self.dense.shape[1]) if self.sparse is None else self.sparse.n_cols  # type: ignore[union-attr]

    def sha256(self) -> str:
        """Hash of everything above."""
        digest = hashlib.sha256(repr((self.name, self.node, len(self), self.dims)).encode())
        digest.update(self.known.tobytes())
        if self.dense is not None:
            digest.update(b"dense" + self.dense.tobytes())
        if self.sparse is not None:
            for array in (self.sparse.indptr, self.sparse.indices, self.sparse.data):
                digest.update(b"sparse" + array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Node types, the interactions, the relations beside them, and features of nodes.

    Attributes:
        user: node type that chooses.
        item: node type that is chosen.
        nodes: keys of every node type, in row order.
        interactions: the relation user → item built from training rows only.
        relations: every other relation by name.
        fingerprint: of the split the interactions came from.
        notices: what building dropped by stated policy, and which nodes a relation does not reach.
        features: what is known of nodes, by name; every arm keeps them all.
        places: place of each interaction in its user's history, 0 first, int32 [n_interactions]; None where the data
            has no order in time.
        events: numbers of interactions as they happened, user by user, each user's oldest first, int32 [n_events];
            None where each happened once, as ``places`` says.
        left_out: names of relations that this graph was made without, which a configuration may still weigh.

    Raises:
        ValueError: a relation links a type without keys, or holds rows beyond the keys of a type; a feature has
            not one row per node; the places of a user are not 0 … n − 1; events do not begin with them.
    """

    user: str
    item: str
    nodes: dict[str, IdMap]
    interactions: Relation
    relations: dict[str, Relation]
    fingerprint: str
    notices: tuple[Notice, ...] = ()
    features: dict[str, Feature] = field(default_factory=dict)
    places: Int32 | None = None
    left_out: frozenset[str] = frozenset()
    events: Int32 | None = None

    def __post_init__(self) -> None:
        if self.places is not None:
            users = self.interactions.src
            expected = np.arange(users.size) - np.searchsorted(users, users, "left")
            fits = self.places.dtype == np.int32 and self.places.shape == users.shape
            if not fits or (self.places[np.lexsort((self.places, users))] != expected).any():
                raise ValueError("places must be int32 [n_interactions], 0 … n − 1 for every user")
        if self.events is not None and not self._begin_as_placed(self.events):
            raise ValueError("events must be int32, user by user, each interaction for the first time as placed")
        for name, feature in self.features.items():
            if name != feature.name or feature.node not in self.nodes:
                raise ValueError(f"feature {feature.name!r} under {name!r}, of type {feature.node!r}")
            if len(feature) != len(self.nodes[feature.node]):
                raise ValueError(f"feature {name!r}: {len(feature)} rows, {len(self.nodes[feature.node])} nodes")
        for relation in (self.interactions, *self.relations.values()):
            for end, rows in ((relation.source, relation.src), (relation.target, relation.dst)):
                if end not in self.nodes:
                    raise ValueError(f"relation {relation.name!r} links type {end!r}, which has no keys")
                if rows.size and rows.max() >= len(self.nodes[end]):
                    raise ValueError(f"relation {relation.name!r}: {end} row {rows.max()} of {len(self.nodes[end])}")

    def _begin_as_placed(self, events: Int32) -> bool:
        """Whether each interaction is among the events of its user, and comes up in the order of places."""
        n, users = len(self.interactions), self.interactions.src
        if self.places is None or events.dtype != np.int32 or ((events < 0) | (events >= n)).any():
            return False
        first = np.sort(np.unique(events, return_index=True)[1])
        in_turn = np.array_equal(events[first], np.lexsort((self.places, users)))
        return bool(in_turn and (np.diff(users[events]) >= 0).all())

    def in_time(self) -> Int32 | None:
        """Numbers of interactions as they happened, user by user, oldest first; None without an order in time."""
        if self.places is None or self.events is not None:
            return self.events
        return np.lexsort((self.places, self.interactions.src)).astype(np.int32)

    @property
    def n_events(self) -> int:
        """How often anything was chosen: the number of interactions, and of what is among ``events`` beside them."""
        return len(self.interactions) if self.events is None else self.events.size

    def history(self, user: int) -> Int64:
        """Numbers of one user's interactions, int64: as they happened, or ascending without an order in time."""
        users = self.interactions.src  # ascends
        if self.events is not None:
            again: Int64 = self.events[users[self.events] == user].astype(np.int64)
            return again
        own: Int64 = np.arange(*np.searchsorted(users, [user, user + 1]))
        return own if self.places is None else own[np.argsort(self.places[own])]

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
                "unknown relation", where="graph", expected=one_of(self.relations),
                found=repr(name) + did_you_mean(name, self.relations),
            )  # fmt: skip
        return self.relations[name]

    def without(self, *names: str) -> Graph:
        """The same graph less these relations."""
        for name in names:
            self.relation(name)
        return self.only(*(name for name in self.relations if name not in names))

    def only(self, *names: str) -> Graph:
        """The interactions and these relations alone; ``only()`` is interactions alone."""
        kept = {n: self.relation(n) for n in names}
        return replace(self, relations=kept, left_out=self.left_out | (self.relations.keys() - kept.keys()))

    def rewired(self, name: str, seed: int) -> Graph:
        """The same graph with one relation's edges shuffled, every node keeping its degree."""
        from relrank.graph.rewiring import rewire

        return replace(self, relations={**self.relations, name: rewire(self.relation(name), seed)})

    def features_of(self, node_type: str) -> tuple[Feature, ...]:
        """The features of a type."""
        return tuple(f for f in self.features.values() if f.node == node_type)

    def edges_of(self, node_type: str) -> tuple[Relation, ...]:
        """The relations that link a type, interactions included."""
        return tuple(r for r in (self.interactions, *self.relations.values()) if node_type in (r.source, r.target))

    def to_pyg(self) -> HeteroData:
        """The graph for PyTorch Geometric, edges in both directions; see :func:`relrank.graph.pyg.to_pyg`."""
        from relrank.graph.pyg import to_pyg

        return to_pyg(self)

    def __repr__(self) -> str:
        return self.described({})

    def described(self, titles: Titles) -> str:
        """Nodes, relations and features in figures, with titles of relations in place of their names."""
        nodes = "".join(f"\n  {name}: {len(ids):,} nodes" for name, ids in self.nodes.items())
        from relrank.graph.relation_chains import hops, stops

        passed = hops(self)
        edges = "".join(
            f"\n  {titles.get(r.name, r.name)}: {r.source} {'—' if r.undirected else '→'} {r.target}, "
            + f"{len(r):,} edges"
            + (f", read as {' → '.join(stops(self, r))}" if passed.get(r.name) else "")
            for r in (self.interactions, *self.relations.values())
        )
        features = "".join(
            f"\n  {titles.get(f.name, f.name)}: {f.dims:,} features of {f.node}, known of {f.known.mean():.1%}"
            for f in self.features.values()
        )
        return f"Graph{nodes}{edges}{features}"


def coverage(graph: Graph) -> dict[str, float]:
    """For each relation, the share of items (of users, where no item is linked) that have at least one edge in it.

    A relation that links neither is judged along the chain that leads there, and without a chain by its source type.
    """
    from relrank.graph.relation_chains import composed, end_of

    shares = {}
    for name, relation in graph.relations.items():
        if end_of(graph, relation) is not None:
            relation = composed(graph, relation)
        ends = (relation.source, relation.target)
        judged = next((end for end in (graph.item, graph.user) if end in ends), relation.source)
        shares[name] = float((relation.degrees(judged, len(graph.nodes[judged])) > 0).mean())
    return shares
