"""A relation: a named, typed, weighted edge set, stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from relrank.kernels.counting_sort import ascending, repeated, stable_argsort_pairs
from relrank.kernels.csr import Csr, Float32, Int32, Int64

Duplicates = Literal["error", "sum", "max", "first"]


Titles = Mapping[str, str]
"""Titles of relations by name, for readers; a relation without one is shown by its name."""


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
        ValueError: an array breaks these conditions; ``Relation.of`` makes a relation from edges in any order.
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
        """Sort edges into a relation; within one type the two directions of a pair are the same edge.

        Arrays that are already sorted, int32 and contiguous are shared with the relation, not copied.

        Args:
            name: of the relation.
            source: node type of ``src``.
            target: node type of ``dst``.
            src: integer [n], rows of the source type, in any order.
            dst: integer [n], rows of the target type.
            weight: number [n]; all ones when None.
            duplicates: for an edge that occurs more than once: raise an error, or take the sum of the weights, the
                largest, or the first.

        Raises:
            ValueError: an edge occurs twice and ``duplicates`` is "error"; a row is negative or above int32; a
                weight is not positive; an edge is a self-loop.
        """
        if source == target:
            src, dst = np.minimum(src, dst), np.maximum(src, dst)
        if any(rows.size and not 0 <= rows.min() <= rows.max() < 2**31 for rows in (src, dst)):
            raise ValueError(f"relation {name!r}: rows must be 0 … 2^31 − 1")
        one, other = (np.ascontiguousarray(rows, np.int32) for rows in (src, dst))
        values = None if weight is None else weight.astype(np.float64)
        if not ascending(one, other):
            order = stable_argsort_pairs(one, other, (int(one.max()) + 1, int(other.max()) + 1))
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
        """Number of edges of each of the ``n`` nodes of one of the relation's types, int64 [n]."""
        ends = [rows for end, rows in ((self.source, self.src), (self.target, self.dst)) if end == node_type]
        return np.bincount(np.concatenate(ends), minlength=n)

    def csr(self, n_source: int, n_target: int) -> Csr:
        """Sources by targets; symmetric for an undirected relation."""
        if not self.undirected:
            return Csr.from_pairs(self.src, self.dst, (n_source, n_target), self.weight)
        src = np.concatenate([self.src, self.dst])
        dst = np.concatenate([self.dst, self.src])
        return Csr.from_pairs(src, dst, (n_source, n_target), np.concatenate([self.weight, self.weight]))

    def sha256(self) -> str:
        """Hash of the ends, edges and weights, not of the name; computed once per relation."""
        if self not in _SHA256:
            digest = hashlib.sha256(f"{self.source} {self.target}".encode())
            for column in (self.src, self.dst, self.weight):
                digest.update(np.ascontiguousarray(column).data)
            _SHA256[self] = digest.hexdigest()
        return _SHA256[self]


_SHA256: WeakKeyDictionary[Relation, str] = WeakKeyDictionary()
