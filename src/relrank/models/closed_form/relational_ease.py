"""Relational EASE: EASE on the interactions stacked with weighted, row-normalised relations, in closed form.

A relation item → t becomes rows below X: with R the items' rows, each of Euclidean length 1, the stack is
``[X; √w Rᵀ]``, so the Gram matrix is ``XᵀX + Σ_r w_r R_r R_rᵀ + λI``: every relation adds ``w_r`` times the cosine of
two items' rows. In a relation within one type each node is its own neighbour too, of weight 1. A relation user → t
becomes columns beside X, ``[X, √w U]``: items that nobody is recommended; so does a second relation user → item.
Weights are in pseudo-users: at ``w_r = 30`` two items with equal rows look as if 30 people had chosen both.

Stacking side information: Ning & Karypis 2012, "Sparse Linear Methods with Side Information"; closed form: Steck
2019; both together: Jeunen et al. 2020, "Closed-Form Models for Collaborative Filtering with Side-Information".
A relation that touches neither users nor items is composed along the shortest chain of relations that leads there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import Chain, chain_of, described_type, reachable_relations
from relrank.kernels.csr import Csr, Float32, Int32
from relrank.kernels.dense_solve import (
    LAPACK_LIMIT,
    downdated_weights,
    gram,
    inverse_bytes,
    products_of,
    regression_weights,
    ridge_gram,
    rows_times_dense,
)
from relrank.models.closed_form.ease import L2_LADDER
from relrank.models.core import estimates
from relrank.models.core.base import ClosedForm, GridParameter, Shapes, history_rows, interaction_rows, user_rows
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import NonNegative, Positive, Weights
from relrank.models.core.relation_rows import active_relations, entry_counts, side_by_side, unit_relation_rows

# Gram matrices of relations are shared between arms and trials while they fit into this many bytes.
CACHE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class RelationalEASEConfig:
    """Hyper-parameters of relational EASE."""

    l2: Positive = 300.0
    """Ridge penalty λ, in interactions."""
    weight: NonNegative = 30.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 leaves the relation out."""


class RelationalEASE(ClosedForm):
    """EASE on interactions and relations; on a graph without relations it is EASE."""

    name = "relational-ease"
    Config = RelationalEASEConfig
    relational = True
    scores_from_current_row: ClassVar[bool] = True
    solution: ClassVar[Shapes] = {"item_weights": ("inputs", "items"), "diagonal": ("items",)}

    #: B[:, items], [n_items + pseudo-items, n_items]
    item_weights: Tensor
    #: diag(P) of the items, [n_items]: with it B gives P back
    diagonal: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The weight of every usable relation, then the ridge penalty."""
        grid_values = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
        weights = (GridParameter(f"weights.{name}", grid_values, 0.0) for name in sorted(reachable_relations(graph)))
        return (*weights, GridParameter("l2", L2_LADDER, 200.0))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, and those that a chain of relations leads to."""
        del config
        return reachable_relations(graph)

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
            end = described_type(graph, relation)
            if end is None or not weigh.get(relation.name, config.weight):
                continue
            entries = entry_counts(graph, relation)[0]
            edges += int(entries.sum())
            if end != graph.item:
                pseudo += entries.size
                continue
            of_relation = float((entries * (entries + 1)).sum()) / 2
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
    def estimate_from(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """Of the larger graph, whose solution is kept, and the smaller one's beside it."""
        if graph.n_items > LAPACK_LIMIT:
            return cls.estimate(graph, config)
        both = cls.estimate(whole, config)
        return replace(both, bytes=both.bytes + estimates.square(graph.n_items))

    @classmethod
    def clear_cache(cls) -> None:
        """Gram matrices and the last solution."""
        with _KEEPING:
            _GRAMS.clear()
            _SOLUTIONS.clear()

    def active_relations(self, end: str) -> list[tuple[Relation, float]]:
        """Relations that say something of nodes of type ``end``, and their weights above 0."""
        return active_relations(self.graph, end, self.config)

    def _user_columns(self) -> Csr | None:
        """``√w U`` of every relation of users side by side: users by pseudo-items; None without any."""
        parts = [(unit_relation_rows(self.graph, r), w) for r, w in self.active_relations(self.graph.user)]
        return side_by_side(parts, self.graph.n_users) if parts else None

    def beside(self, user: int) -> tuple[Int32, Float32]:
        """Pseudo-items of a user, from their relations, and values: what is scored beside their items."""
        if self._beside is None:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        part = slice(self._beside.indptr[user], self._beside.indptr[user + 1])
        return self._beside.indices[part], self._beside.data[part]

    def sizes(self) -> dict[str, int]:
        """``inputs`` are items and pseudo-items."""
        others = 0 if self._beside is None else self._beside.n_cols
        return super().sizes() | {"inputs": self.graph.n_items + others}

    def solve(self) -> Self:
        """One Cholesky inverse of [n_items + pseudo-items]²."""
        b, diagonal = regression_weights(self._penalised_gram())
        n = self.graph.n_items
        self.item_weights = torch.from_numpy(b if b.shape[1] == n else np.ascontiguousarray(b[:, :n]))
        self.diagonal = torch.from_numpy(diagonal[:n])
        return self

    def solve_from(self, whole: Graph) -> Self:
        """From the solution with all relations of ``whole``, where those that are missing here have few nodes.

        That solution is made if it is not kept, so the same bits come out whatever was solved before.
        """
        graph = self.graph
        if graph.n_items > LAPACK_LIMIT or graph.interactions is not whole.interactions:
            return self.solve()  # nothing would be kept for others
        everything = RelationalEASE(replace(graph, relations=whole.relations), self.config)
        if everything._beside is not None:
            return self.solve()
        mine, all_of_them = (m._chains_in_use() for m in (self, everything))
        if any(all_of_them.get(name) != chain for name, chain in mine.items()):
            return self.solve()  # one of them is shuffled, or composed along another chain
        gone = [(r, w) for r, w in everything.active_relations(graph.item) if r.name not in mine]
        rows = _side_by_side(everything.graph, gone)
        if 4 * rows.n_rows > graph.n_items:
            return self.solve()
        found = downdated_weights(*everything._cached_solution(), rows) if gone else everything._cached_solution()
        if found is None:
            return self.solve()
        self.item_weights, self.diagonal = (torch.from_numpy(part) for part in found)
        return self

    def _cached_solution(self) -> tuple[Float32, Float32]:
        """B and diag(P), kept for the last such model while its interactions live."""
        chains = tuple(tuple((ref(r), ahead) for r, ahead in chain) for chain in self._chains_in_use().values())
        key = self.config.l2, chains, tuple(weight for _, weight in self.active_relations(self.graph.item))
        known = _SOLUTIONS.get(self.graph.interactions)
        if known is None or known[0] != key:
            _SOLUTIONS.clear()
            self.solve()
            known = key, self.item_weights.numpy(), self.diagonal.numpy()
            _SOLUTIONS[self.graph.interactions] = known
        return known[1], known[2]

    def _chains_in_use(self) -> dict[str, Chain]:
        """By name what the rows of the items' relations are made of."""
        return {r.name: chain_of(self.graph, r) for r, _ in self.active_relations(self.graph.item)}

    def _penalised_gram(self) -> Float32:
        """G, [n_items + pseudo-items]²: its upper triangle."""
        graph, x, beside, l2 = self.graph, self.history, self._beside, float(self.config.l2)
        if beside is None:
            first = _gram_of_histories(graph)
        else:
            row = np.concatenate([x.rows(), beside.rows()])
            col = np.concatenate([x.indices, beside.indices + x.n_cols])
            data = np.concatenate([x.data, beside.data])
            first = gram(Csr.from_pairs(row, col, (x.n_rows, x.n_cols + beside.n_cols), data).transpose())
        of_items = [(_gram_of(graph, relation), weight) for relation, weight in self.active_relations(graph.item)]
        return ridge_gram(first, of_items, l2)

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


_KEEPING = threading.Lock()
_GRAMS: WeakKeyDictionary[Relation, tuple[Int32 | None, Float32]] = WeakKeyDictionary()
_SOLUTIONS: WeakKeyDictionary[Relation, tuple[Any, Float32, Float32]] = WeakKeyDictionary()


def _side_by_side(graph: Graph, relations: Sequence[tuple[Relation, float]]) -> Csr:
    """``√w Rᵀ`` of all of them, nodes that occur by items."""
    row, col, data, height = [], [], [], 0
    for relation, weight in relations:
        rows = unit_relation_rows(graph, relation).transpose()
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
    known, n, rows = _GRAMS.get(relation), graph.n_items, unit_relation_rows(graph, relation)
    size = n * (n + 1) // 2
    if known is not None and known[0] is rows.indices and known[1].size == size:
        return known[1]
    return rows if products_of(rows) <= size else _kept(relation, rows.indices, gram(rows))


def _gram_of_histories(graph: Graph) -> Float32:
    """``gram`` of X's columns, kept likewise."""
    known, n = _GRAMS.get(graph.interactions), graph.n_items
    if known is not None and known[1].size == n * (n + 1) // 2:
        return known[1]
    return _kept(graph.interactions, None, gram(interaction_rows(graph).transpose()))


def _kept(relation: Relation, made_of: Int32 | None, triangle: Float32) -> Float32:
    """Keep a triangle beside an array of the rows that it was made of, which are others along another chain."""
    with _KEEPING:  # no other thread may add one while the others are counted
        if sum(g.nbytes for _, g in _GRAMS.values()) + triangle.nbytes <= CACHE_BYTES:
            _GRAMS[relation] = made_of, triangle
    return triangle
