"""The heterogeneous graph: node types and relations, each relation stored once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from relrank.csr import Csr, Float32, Int32
from relrank.errors import InputError
from relrank.tables.ids import IdMap


@dataclass(frozen=True, slots=True)
class Relation:
    """A named, typed, weighted edge set, stored once, in one direction, sorted, without duplicates.

    A relation of a type with itself is undirected: each unordered pair once, ``src < dst``.

    Attributes:
        name: e.g. ``"has_tag"``.
        source: node type of ``src``.
        target: node type of ``dst``.
        src: int32 [n_edges], rows of the source type.
        dst: int32 [n_edges], rows of the target type.
        weight: float32 [n_edges], all positive.
    """

    name: str
    source: str
    target: str
    src: Int32
    dst: Int32
    weight: Float32

    def __len__(self) -> int:
        return self.src.size

    @property
    def undirected(self) -> bool:
        """Whether the relation links a type with itself."""
        return self.source == self.target

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
    """

    user: str
    item: str
    nodes: dict[str, IdMap]
    interactions: Relation
    relations: dict[str, Relation]
    fingerprint: str

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

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {name}: {len(ids):,} nodes" for name, ids in self.nodes.items())
        edges = "".join(
            f"\n  {r.name}: {r.source} {'—' if r.undirected else '→'} {r.target}, {len(r):,} edges"
            for r in (self.interactions, *self.relations.values())
        )
        return f"Graph{nodes}{edges}"
