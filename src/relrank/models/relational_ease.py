"""Relational EASE: EASE on the interactions stacked with weighted, row-normalised relations, in closed form.

A relation item → t becomes rows below X: with R the items' rows, each of Euclidean length 1, the stack is
``[X; √w Rᵀ]``, so the Gram matrix is ``XᵀX + Σ_r w_r R_r R_rᵀ + λI``: every relation adds ``w_r`` times the cosine of
two items' rows. In a relation within one type each node is its own neighbour too, of weight 1. A relation user → t
becomes columns beside X, ``[X, √w U]``: items that nobody is recommended; so does a second relation user → item.
Weights are in pseudo-users: at ``w_r = 30`` two items with equal rows look as if 30 people had chosen both.

Stacking side information: Ning & Karypis 2012, "Sparse Linear Methods with Side Information"; closed form: Steck
2019; both together: Jeunen et al. 2020, "Closed-Form Models for Collaborative Filtering with Side-Information".
Relations that touch neither users nor items are not used by this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr, Float32, Int32
from relrank.errors import InputError
from relrank.graph.graph import Graph, Relation
from relrank.models import estimates
from relrank.models.base import ClosedForm, Knob, history_rows, interaction_rows, user_rows
from relrank.models.ease import L2_LADDER, ridge
from relrank.models.estimates import Estimate
from relrank.models.linear import (
    LAPACK_LIMIT,
    gram,
    inverse_bytes,
    penalised,
    products_of,
    regression_weights,
    rows_times_dense,
    unit_rows,
    weights_without,
)

# Gram matrices of relations are shared between arms and trials while they fit into this many bytes.
CACHE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class RelationalEASEConfig:
    """Hyper-parameters of relational EASE."""

    l2: float = 300.0
    """Ridge penalty λ, in interactions."""
    weight: float = 30.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 leaves the relation out."""


class RelationalEASE(ClosedForm):
    """EASE on interactions and relations; on a graph without relations it is EASE."""

    name = "relational-ease"
    Config = RelationalEASEConfig
    relational = True
    solution: ClassVar[tuple[str, ...]] = ("item_weights", "diagonal")

    #: B[:, items], [n_items + pseudo-items, n_items]
    item_weights: Tensor
    #: diag(P) of the items, [n_items]: with it B gives P back
    diagonal: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """The weight of every usable relation, then the ridge penalty."""
        ladder = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
        usable = sorted(r.name for r in graph.relations.values() if end_of(graph, r))
        weights = (Knob(f"weights.{name}", ladder, 0.0) for name in usable)
        return (*weights, Knob("l2", L2_LADDER, 200.0))

    def __init__(self, graph: Graph, config: RelationalEASEConfig | None = None) -> None:
        super().__init__(graph, config)
        self._beside = self._user_columns()
        self.from_history = self._beside is None  # else a user's relations count, too, and a history has none

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """With n items and m items and pseudo-items: a square of side m beside the triangles that are added to it.

        There is a triangle of side m of the interactions, and one of side n of every relation of items whose products
        outnumber its entries; those that the class keeps, up to CACHE_BYTES, are there during the inverse, too. Where
        there are pseudo-items, the items' columns are copied out of the square. Scoring holds the weights and a block
        of scores, two where there are pseudo-items.
        """
        n, x, weigh = graph.n_items, graph.interactions, config.weights
        pseudo, edges, triangles, products = 0, len(x), 0, estimates.gram_products(x.src)
        for relation in graph.relations.values():
            end = end_of(graph, relation)
            if end is None or not weigh.get(relation.name, config.weight):
                continue
            edges += len(relation) * (1 + relation.undirected)
            other = relation.target if relation.source == end else relation.source
            degrees = relation.degrees(other, len(graph.nodes[other])) + int(relation.undirected)
            if end != graph.item:
                pseudo += len(graph.nodes[other])
                continue
            of_relation = float((degrees.astype(np.float64) * (degrees + 1)).sum()) / 2
            products += of_relation
            triangles += of_relation > n * (n + 1) // 2
        m, one = n + pseudo, estimates.triangle(n)
        first, of_items = estimates.triangle(m), triangles * one
        kept = one * min(triangles + (not pseudo), CACHE_BYTES // one)
        weights, blocks = estimates.table(m, n), estimates.score_block(n) * (2 if pseudo else 1)
        peak = max(
            estimates.square(m) + first + of_items,
            inverse_bytes(m) + kept,
            kept + estimates.square(m) + (weights if pseudo else 0),
            kept + weights + blocks,
        )
        return Estimate(peak + 3 * estimates.sparse(edges), m**3 / 2, products)

    @classmethod
    def estimate_within(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """Of the larger graph, whose solution is kept, and the smaller one's beside it."""
        if graph.n_items > LAPACK_LIMIT:
            return cls.estimate(graph, config)
        both = cls.estimate(whole, config)
        return replace(both, bytes=both.bytes + estimates.square(graph.n_items))

    @classmethod
    def release(cls) -> None:
        """Gram matrices and the last solution."""
        _GRAMS.clear()
        _SOLUTIONS.clear()

    def in_use(self, end: str) -> list[tuple[Relation, float]]:
        """Relations that say something of nodes of type ``end``, and their weights above 0."""
        pairs = []
        for _, relation in sorted(self.graph.relations.items()):  # sums in one order whatever the arm
            weight = float(self.config.weights.get(relation.name, self.config.weight))
            if not 0 <= weight < np.inf:
                raise InputError(
                    "relation weight is negative or not finite", where=f"relational-ease, {relation.name}",
                    expected="0 or more", found=str(weight),
                )  # fmt: skip
            if weight and end_of(self.graph, relation) == end:
                pairs.append((relation, weight))
        return pairs

    def _user_columns(self) -> Csr | None:
        """``√w U`` of every relation of users side by side: users by pseudo-items; None without any."""
        graph, parts, width = self.graph, [], 0
        for relation, weight in self.in_use(graph.user):
            rows = unit_rows_of(graph, relation, graph.user)
            parts.append((rows.rows(), rows.indices + width, rows.data * np.sqrt(weight)))
            width += rows.n_cols
        if not parts:
            return None
        row, col, data = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Csr.from_pairs(row, col, (graph.n_users, width), data)

    def beside(self, user: int) -> tuple[Int32, Float32]:
        """Pseudo-items of a user, from their relations, and values: what is scored beside their items."""
        if self._beside is None:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        part = slice(self._beside.indptr[user], self._beside.indptr[user + 1])
        return self._beside.indices[part], self._beside.data[part]

    def solve(self) -> Self:
        """One Cholesky inverse of [n_items + pseudo-items]²."""
        b, diagonal = regression_weights(self._penalised_gram())
        n = self.graph.n_items
        self.item_weights = torch.from_numpy(b if b.shape[1] == n else np.ascontiguousarray(b[:, :n]))
        self.diagonal = torch.from_numpy(diagonal[:n])
        return self

    def solve_within(self, whole: Graph) -> Self:
        """From the solution with all relations of ``whole``, where those that are missing here have few nodes.

        That solution is made if it is not kept, so the same bits come out whatever was solved before.
        """
        graph = self.graph
        if graph.n_items > LAPACK_LIMIT or graph.interactions is not whole.interactions:
            return self.solve()  # nothing would be kept for others
        if any(whole.relations.get(name) is not relation for name, relation in graph.relations.items()):
            return self.solve()  # one of them is shuffled
        everything = RelationalEASE(replace(graph, relations=whole.relations), self.config)
        if everything._beside is not None:
            return self.solve()
        gone = [(r, w) for r, w in everything.in_use(graph.item) if r.name not in graph.relations]
        rows = _side_by_side(graph, gone)
        if 4 * rows.n_rows > graph.n_items:
            return self.solve()
        found = weights_without(*everything._kept_solution(), rows) if gone else everything._kept_solution()
        if found is None:
            return self.solve()
        self.item_weights, self.diagonal = (torch.from_numpy(part) for part in found)
        return self

    def _kept_solution(self) -> tuple[Float32, Float32]:
        """B and diag(P), kept for the last such model while its interactions live."""
        key = (self.config.l2, tuple((ref(relation), weight) for relation, weight in self.in_use(self.graph.item)))
        known = _SOLUTIONS.get(self.graph.interactions)
        if known is None or known[0] != key:
            _SOLUTIONS.clear()
            self.solve()
            known = key, self.item_weights.numpy(), self.diagonal.numpy()
            _SOLUTIONS[self.graph.interactions] = known
        return known[1], known[2]

    def _penalised_gram(self) -> Float32:
        """G, [n_items + pseudo-items]²: its upper triangle."""
        graph, x, beside, l2 = self.graph, self.history, self._beside, ridge(self.config.l2)
        if beside is None:
            first = _gram_of_histories(graph)
        else:
            row = np.concatenate([x.rows(), beside.rows()])
            col = np.concatenate([x.indices, beside.indices + x.n_cols])
            data = np.concatenate([x.data, beside.data])
            first = gram(Csr.from_pairs(row, col, (x.n_rows, x.n_cols + beside.n_cols), data).transpose())
        of_items = [(_gram_of(graph, relation), weight) for relation, weight in self.in_use(graph.item)]
        return penalised(first, of_items, l2)

    def score(self, users: Tensor) -> Tensor:
        """``[X, √w U] B`` for these users."""
        rows = user_rows(users, self.graph.n_users)
        scores = rows_times_dense(self.history.take(rows), self.item_weights.numpy())
        if self._beside is not None:
            scores += rows_times_dense(self._beside.take(rows), self.item_weights.numpy()[self.graph.n_items :])
        return torch.from_numpy(scores)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """``x B``: of a new user only the history is known."""
        rows = history_rows(histories, self.graph.n_items)
        return torch.from_numpy(rows_times_dense(rows, self.item_weights.numpy()))


_GRAMS: WeakKeyDictionary[Relation, Float32] = WeakKeyDictionary()
_SOLUTIONS: WeakKeyDictionary[Relation, tuple[Any, Float32, Float32]] = WeakKeyDictionary()


def end_of(graph: Graph, relation: Relation) -> str | None:
    """The node type that a relation says something of: items where it links any, else users; None for neither.

    A second relation user → item is one of users: what else a user did.
    """
    ends = (relation.source, relation.target)
    if graph.item in ends and ends != (graph.user, graph.item):
        return graph.item
    return graph.user if graph.user in ends else None


def unit_rows_of(graph: Graph, relation: Relation, end: str) -> Csr:
    """The relation's rows by node of type ``end``, each of length 1; within one type with the node itself."""
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if relation.undirected:
        own = np.arange(rows.n_rows, dtype=np.int32)
        row, col = np.concatenate([rows.rows(), own]), np.concatenate([rows.indices, own])
        data = np.concatenate([rows.data / rows.data.max(initial=1.0), np.ones(own.size, np.float32)])
        rows = Csr.from_pairs(row, col, (own.size, own.size), data)
    return unit_rows(rows if relation.source == end else rows.transpose())


def _side_by_side(graph: Graph, relations: Sequence[tuple[Relation, float]]) -> Csr:
    """``√w Rᵀ`` of all of them, nodes that occur by items."""
    row, col, data, height = [], [], [], 0
    for relation, weight in relations:
        rows = unit_rows_of(graph, relation, graph.item).transpose()
        rows = rows.take(np.flatnonzero(rows.degrees()))
        row.append(rows.rows() + height)
        col.append(rows.indices)
        data.append(rows.data * np.float32(np.sqrt(weight)))
        height += rows.n_rows
    if not height:
        return Csr(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), graph.n_items)
    return Csr.from_pairs(np.concatenate(row), np.concatenate(col), (height, graph.n_items), np.concatenate(data))


def _gram_of(graph: Graph, relation: Relation) -> Float32 | Csr:
    """``gram`` of a relation's item rows, kept while the relation lives; the rows where that is as good to add."""
    known, n = _GRAMS.get(relation), graph.n_items
    size = n * (n + 1) // 2
    if known is not None and known.size == size:
        return known
    rows = unit_rows_of(graph, relation, graph.item)
    return rows if products_of(rows) <= size else _kept(relation, gram(rows))


def _gram_of_histories(graph: Graph) -> Float32:
    """``gram`` of X's columns, kept likewise."""
    known, n = _GRAMS.get(graph.interactions), graph.n_items
    if known is not None and known.size == n * (n + 1) // 2:
        return known
    return _kept(graph.interactions, gram(interaction_rows(graph).transpose()))


def _kept(relation: Relation, triangle: Float32) -> Float32:
    if sum(g.nbytes for g in _GRAMS.values()) + triangle.nbytes <= CACHE_BYTES:
        _GRAMS[relation] = triangle
    return triangle
