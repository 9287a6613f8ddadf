"""Relational EASE: EASE on the interactions stacked with weighted, row-normalised relations, in closed form.

    Z = [[X, √w_q U_q], [√w_r R_rᵀ, 0]],      G = ZᵀZ + λI,      P = G⁻¹
    B_ij = −P_ij / P_jj,  B_jj = 0                                            (Steck 2019, eq. 8)
    scores = [X, √w_q U_q] B

Row i of R_r has the neighbours of item i under relation r, and row u of U_q those of user u under relation q, all
scaled to Euclidean length 1. A relation item → t adds pseudo-users, and so ``w_r R_r R_rᵀ`` to G: w_r times the
cosine of two items' rows. At ``w_r = 30``, items with equal rows look as if 30 more users had chosen both. A relation
user → t, and so a second relation user → item, adds pseudo-items: columns that are scored with but never recommended.
In a relation within one node type each node is also its own neighbour, with weight 1. A relation that touches neither
users nor items is composed along the shortest chain of relations that leads to them.

Stacked side information: Ning & Karypis 2012, "Sparse Linear Methods with Side Information"; closed form: Steck 2019,
"Embarrassingly Shallow Autoencoders"; both: Jeunen et al. 2020, "Closed-Form Models for Collaborative Filtering with
Side-Information".
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
from relrank.models.core.relation_rows import (
    active_relations,
    append_columns,
    entry_counts,
    row_entries,
    side_by_side,
    unit_relation_rows,
    user_columns,
)

CACHE_BYTES = 4 << 30
"""Limit of the Gram matrices that arms and trials share."""


@dataclass(frozen=True, slots=True)
class RelationalEASEConfig:
    """Hyper-parameters of relational EASE."""

    l2: Positive = 300.0
    """Ridge penalty λ, in interactions."""
    weight: NonNegative = 30.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 excludes the relation."""


class RelationalEASE(ClosedForm):
    """EASE on interactions and relations; on a graph without relations it equals EASE."""

    name = "relational-ease"
    Config = RelationalEASEConfig
    relational = True
    scores_from_current_row: ClassVar[bool] = True
    solution: ClassVar[Shapes] = {"item_weights": ("inputs", "items"), "diagonal": ("items",)}

    #: B[:, items], [n_items + pseudo-items, n_items]
    item_weights: Tensor
    #: diag(P) of the items, [n_items]; together with B it restores P
    diagonal: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The weight of every reachable relation, then the ridge penalty."""
        grid_values = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
        weights = (GridParameter(f"weights.{name}", grid_values, 0.0) for name in sorted(reachable_relations(graph)))
        return (*weights, GridParameter("l2", L2_LADDER, 200.0))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, directly or through a chain of relations."""
        del config
        return reachable_relations(graph)

    def __init__(self, graph: Graph, config: RelationalEASEConfig | None = None) -> None:
        super().__init__(graph, config)
        self._user_columns = user_columns(graph, self.config)
        self.from_history = self._user_columns is None  # otherwise a user's relations change the scores, too

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """An m × m matrix (items and pseudo-items) and the triangles added to it.

        The interactions have a triangle of side m, and each relation of n items one of side n where its products
        outnumber its entries. Cached triangles, up to CACHE_BYTES, are also held during the inverse. With
        pseudo-items, the items' columns of B are copied. Scoring holds the weights and one block of scores, two with
        pseudo-items.
        """
        n, x, weights = graph.n_items, graph.interactions, config.weights
        pseudo, edges, triangles, products = 0, len(x), 0, estimates.gram_products(x.src)
        for relation in graph.relations.values():
            end = described_type(graph, relation)
            if end is None or not weights.get(relation.name, config.weight):
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
        cached = one * min(triangles + (not pseudo), CACHE_BYTES // one)
        solution, blocks = estimates.table(m, n), estimates.score_block(n) * (2 if pseudo else 1)
        peak = max(
            estimates.square(m) + first + of_items,
            inverse_bytes(m) + cached,
            cached + estimates.square(m) + (solution if pseudo else 0),
            cached + solution + blocks,
        )
        return Estimate(peak + 3 * estimates.sparse(edges), m**3 / 2, products)

    @classmethod
    def estimate_from(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """That of ``whole``, whose solution is cached, and this graph's own solution."""
        if graph.n_items > LAPACK_LIMIT:
            return cls.estimate(graph, config)
        both = cls.estimate(whole, config)
        return replace(both, bytes=both.bytes + estimates.square(graph.n_items))

    @classmethod
    def clear_cache(cls) -> None:
        """Free the cached Gram matrices and solution."""
        with _CACHE_LOCK:
            _GRAMS.clear()
            _SOLUTIONS.clear()

    def active_relations(self, end: str) -> list[tuple[Relation, float]]:
        """Relations that describe nodes of type ``end``, with weights above 0."""
        return active_relations(self.graph, end, self.config)

    def user_pseudo_items(self, user: int) -> tuple[Int32, Float32]:
        """A user's row of √w U: pseudo-items (columns counted from 0) and values."""
        return row_entries(self._user_columns, user)

    def sizes(self) -> dict[str, int]:
        """``inputs`` are items and pseudo-items."""
        n_pseudo_items = 0 if self._user_columns is None else self._user_columns.n_cols
        return super().sizes() | {"inputs": self.graph.n_items + n_pseudo_items}

    def solve(self) -> Self:
        """P = G⁻¹ by Cholesky; B_ij = −P_ij / P_jj, of which the items' columns are kept."""
        B, diag_P = regression_weights(self._penalised_gram())
        n = self.graph.n_items
        self.item_weights = torch.from_numpy(B if B.shape[1] == n else np.ascontiguousarray(B[:, :n]))
        self.diagonal = torch.from_numpy(diag_P[:n])
        return self

    def solve_from(self, whole: Graph) -> Self:
        """Derive B from the solution on ``whole`` by a low-rank downdate, if the removed relations have few nodes.

        The solution on ``whole`` is computed unless it is cached, so the result never depends on earlier fits.
        """
        graph = self.graph
        if graph.n_items > LAPACK_LIMIT or graph.interactions is not whole.interactions:
            return self.solve()  # no other model would use the cached solution
        full = RelationalEASE(replace(graph, relations=whole.relations), self.config)
        if full._user_columns is not None:
            return self.solve()
        chains, full_chains = self._active_chains(), full._active_chains()
        if any(full_chains.get(name) != chain for name, chain in chains.items()):
            return self.solve()  # a relation is rewired, or composed along another chain
        removed = [(r, w) for r, w in full.active_relations(graph.item) if r.name not in chains]
        removed_rows = _pseudo_users(full.graph, removed)
        if 4 * removed_rows.n_rows > graph.n_items:
            return self.solve()
        solution = full._cached_solution()
        downdated = downdated_weights(*solution, removed_rows) if removed else solution
        if downdated is None:
            return self.solve()
        self.item_weights, self.diagonal = (torch.from_numpy(part) for part in downdated)
        return self

    def _cached_solution(self) -> tuple[Float32, Float32]:
        """B and diag(P); the last solution is cached as long as its interactions are alive."""
        chains = tuple(tuple((ref(r), ahead) for r, ahead in chain) for chain in self._active_chains().values())
        key = self.config.l2, chains, tuple(weight for _, weight in self.active_relations(self.graph.item))
        cached = _SOLUTIONS.get(self.graph.interactions)
        if cached is None or cached[0] != key:
            _SOLUTIONS.clear()
            self.solve()
            cached = key, self.item_weights.numpy(), self.diagonal.numpy()
            _SOLUTIONS[self.graph.interactions] = cached
        return cached[1], cached[2]

    def _active_chains(self) -> dict[str, Chain]:
        """Chain of every active relation of items, by name."""
        return {r.name: chain_of(self.graph, r) for r, _ in self.active_relations(self.graph.item)}

    def _penalised_gram(self) -> Float32:
        """G = [X, √w U]ᵀ[X, √w U] + Σ_r w_r R_r R_rᵀ + λI: its upper triangle, [n_items + pseudo-items]²."""
        graph, X = self.graph, self.history
        if self._user_columns is None:
            gram_of_rows = _interaction_gram(graph)
        else:
            gram_of_rows = gram(append_columns(X, self._user_columns).transpose())
        of_relations = [(_relation_gram(graph, r), w) for r, w in self.active_relations(graph.item)]
        return ridge_gram(gram_of_rows, of_relations, float(self.config.l2))

    def score(self, users: Tensor) -> Tensor:
        """``[X, √w U] B`` for these users."""
        rows, B = user_rows(users, self.graph.n_users), self.item_weights.numpy()
        scores = rows_times_dense(self.history.take(rows), B)
        if self._user_columns is not None:
            scores += rows_times_dense(self._user_columns.take(rows), B[self.graph.n_items :])
        return torch.from_numpy(scores)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """``x B``: a new user has no relations."""
        x = history_rows(histories, self.graph.n_items)
        return torch.from_numpy(rows_times_dense(x, self.item_weights.numpy()))


_CACHE_LOCK = threading.Lock()
_GRAMS: WeakKeyDictionary[Relation, tuple[Int32 | None, Float32]] = WeakKeyDictionary()
_SOLUTIONS: WeakKeyDictionary[Relation, tuple[Any, Float32, Float32]] = WeakKeyDictionary()


def _pseudo_users(graph: Graph, relations: Sequence[tuple[Relation, float]]) -> Csr:
    """``√w Rᵀ`` of all relations, one below the other: nodes with edges by items."""
    parts = [(unit_relation_rows(graph, relation), weight) for relation, weight in relations]
    rows = side_by_side(parts, graph.n_items).transpose()
    return rows.take(np.flatnonzero(rows.degrees()))


def _relation_gram(graph: Graph, relation: Relation) -> Float32 | Csr:
    """Triangle of R Rᵀ, cached as long as the relation is alive; R itself where its products are cheaper to add."""
    cached, n, rows = _GRAMS.get(relation), graph.n_items, unit_relation_rows(graph, relation)
    size = n * (n + 1) // 2
    if cached is not None and cached[0] is rows.indices and cached[1].size == size:
        return cached[1]
    return rows if products_of(rows) <= size else _cache(relation, rows.indices, gram(rows))


def _interaction_gram(graph: Graph) -> Float32:
    """Triangle of XᵀX, cached as long as the interactions are alive."""
    cached, n = _GRAMS.get(graph.interactions), graph.n_items
    if cached is not None and cached[1].size == n * (n + 1) // 2:
        return cached[1]
    return _cache(graph.interactions, None, gram(interaction_rows(graph).transpose()))


def _cache(relation: Relation, source: Int32 | None, triangle: Float32) -> Float32:
    """Cache a triangle and the index array of its rows: a relation composed along another chain has other rows."""
    with _CACHE_LOCK:  # no other thread may add one while the sizes are summed
        if sum(g.nbytes for _, g in _GRAMS.values()) + triangle.nbytes <= CACHE_BYTES:
            _GRAMS[relation] = source, triangle
    return triangle
