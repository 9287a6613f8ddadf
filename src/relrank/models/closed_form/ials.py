"""iALS: matrix factorisation of implicit feedback by alternating least squares, with relations as priors.

Hu, Koren & Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets", regularised as in Rendle et al.
2022, "Revisiting the Performance of iALS on Item Recommendation Benchmarks":

    Σ_(u,i)∈S c_ui (p_u·q_i − 1)² + α₀ Σ_u,i (p_u·q_i)² + λ (Σ_u n_u^ν |p_u|² + Σ_i n_i^ν |q_i|²)

p_u and q_i [dim] are the vectors of users and items, c_ui the weight of the interaction, n_u = Σ_i (c_ui + α₀) the
total weight of a user's row, and n_i that of an item's. Two scales make settings comparable between data sets and
allow tuning one at a time: ρ is the weight of all pairs divided by that of the observed ones,
``α₀ = ρ Σ c / (|U| |I|)``, and n is divided by 1 + ρ, so that its mean over users is their mean number of
interactions.

Given the items, every user is a ridge regression, and vice versa. Scores are p_u·q_i with p_u solved from the user's
items alone, so a new user is one more regression.

**Relations are priors of the vectors** (regression-based latent factors, Agarwal & Chen 2009). Every target t of a
relation has a vector z_t, and an item is penalised for its distance from a sum over its targets:

    λ Σ_i n_i^ν |q_i − m_i|² + λ n̄ Σ_t |z_t|²,      m_i = Σ_r √w_r Σ_t a_it z_t

a_i are the item's edges in the relation, scaled to Euclidean length 1, and n̄ is the mean of n_i^ν. Integrated over z,
the vectors of two items have covariance ``Σ_r w_r a_i·a_j``, in addition to a variance ``n̄ / n_i^ν`` of each item: at
``w_r = 1`` a relation explains as much variance as remains for the interactions of a mean item. The fewer
interactions an item has, the closer q_i is to m_i; without any, its relations decide. An item that a relation does
not reach has no term of it in m_i.

Relations of users work likewise: the vector of a known user is solved from interactions and relations, that of a new
user from the history alone. In a relation within one node type each linked node is also its own neighbour, with the
weight of the heaviest edge. A relation that touches neither users nor items is composed along the shortest chain of
relations that leads to them.

A sweep solves users, then items, and then updates z by conjugate gradients, each given the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import described_type, reachable_relations
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.dense_solve import rows_times_dense, unit_rows
from relrank.kernels.least_squares import gram_matrix, padded, solve_rows, spectrum_of, turned
from relrank.models.core import estimates
from relrank.models.core.base import GridParameter, HistoryScorer, Shapes, history_rows, user_rows
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Bounds, NonNegative, Positive, PositiveInt, Seed, Weights
from relrank.models.core.relation_rows import active_relations, entry_counts, side_by_side
from relrank.models.core.spectral_filters import product
from relrank.models.core.vector_model import methods_not_overridden

STEPS = 3
"""Conjugate-gradient steps for z per sweep, continued from the last sweep."""


@dataclass(frozen=True, slots=True)
class IALSConfig:
    """Hyper-parameters of iALS."""

    dim: PositiveInt = 256
    """Length of a vector."""
    unobserved: Positive = 30.0
    """ρ, weight of all pairs divided by that of the observed ones: α₀ = ρ · Σ c / (|U| |I|)."""
    l2: Positive = 0.1
    """λ, penalty per interaction of a node."""
    exponent: Annotated[float, Bounds(0, 2)] = 1.0
    """ν: at 1 the penalty is proportional to the weight of a node's row, at 0 it is the same for all."""
    iterations: Annotated[int, Bounds(1, 10_000)] = 16
    """Sweeps over all vectors."""
    init_scale: Positive = 0.1
    """Standard deviation of the initial item vectors, divided by √dim for each entry."""
    weight: NonNegative = 0.0
    """Weight of every relation that ``weights`` does not name."""
    weights: Weights = field(default_factory=dict)
    """w per relation, a ratio of variances; 0 excludes the relation."""
    seed: Seed = 0
    """Seed of the initial item vectors."""


class IALS(HistoryScorer):
    """Implicit ALS on interactions and relations; on a graph without relations it is plain iALS."""

    name = "ials"
    Config = IALSConfig
    relational = True
    scores_from_current_row: ClassVar[bool] = True
    solution: ClassVar[Shapes] = {"items": ("items", "dim"), "spectrum": ("dim",), "user_targets": ("targets", "dim")}

    #: Q, rotated so that QᵀQ is diagonal, float32 [n_items, dim]
    items: Tensor
    #: the diagonal of α₀ QᵀQ, float32 [dim]
    spectrum: Tensor
    #: z of the relations of users, concatenated, float32 [targets, dim]
    user_targets: Tensor

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The weight of every reachable relation, then penalty, unobserved weight, dimension and exponent."""
        grid_values = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
        dims = tuple(
            d for d in (16, 32, 64, 128, 256, 512, 1024) if d <= max(16, min(graph.n_users, graph.n_items) // 2)
        )
        return (
            *(GridParameter(f"weights.{name}", grid_values, 0.0) for name in sorted(reachable_relations(graph))),
            GridParameter("l2", (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0), 0.1),
            GridParameter("unobserved", (3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 300.0), 30.0),
            GridParameter("dim", dims, min(256, dims[-1])),
            GridParameter("exponent", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """Several copies of the vectors of users, items and targets, and the interactions by user and by item."""
        c, nodes, edges = config, graph.n_users + graph.n_items, len(graph.interactions)
        for relation in graph.relations.values():
            end = described_type(graph, relation)
            if end is not None and c.weights.get(relation.name, c.weight):
                entries = entry_counts(graph, relation)[0]
                nodes += 4 * entries.size
                edges += int(entries.sum())
        solves = edges * c.dim**2 + nodes * c.dim**3 / 6  # an upper bound: rows shorter than a vector take less
        operations = c.iterations * (2 * nodes * c.dim**2 + solves)
        return Estimate(4 * estimates.table(nodes, c.dim) + 4 * estimates.sparse(edges), operations)

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, directly or through a chain of relations."""
        del config
        return reachable_relations(graph)

    def __init__(self, graph: Graph, config: IALSConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        #: α₀
        self.alpha0 = c.unobserved * float(self.history.data.sum()) / max(graph.n_users * graph.n_items, 1)
        self._item_links, self._user_links = (self._links(end) for end in (graph.item, graph.user))
        self.from_history = not self._user_links.n_cols  # otherwise a user's relations change the scores, too

    def _links(self, end: str) -> Csr:
        """``√w a`` of all active relations of a node type side by side: nodes by targets."""
        relations = [(r, w) for r, w in active_relations(self.graph, end, self.config) if len(r)]
        parts = [
            (unit_rows(_neighbour_rows(self.graph, compose_relation(self.graph, r), end)), w) for r, w in relations
        ]
        return side_by_side(parts, len(self.graph.nodes[end]))

    def start(self) -> Float32:
        """Initial item vectors, float32 [n_items, dim]."""
        rng = np.random.default_rng(self.config.seed)
        scale = self.config.init_scale / np.sqrt(self.config.dim)
        drawn: Float32 = rng.standard_normal((self.graph.n_items, int(self.config.dim))).astype(np.float32)
        return drawn * np.float32(scale)

    def sizes(self) -> dict[str, int]:
        """``targets`` are those of the relations of users."""
        return super().sizes() | {"dim": int(self.config.dim), "targets": self._user_links.n_cols}

    def solve(self) -> Self:
        """``iterations`` sweeps; then the vectors are rotated for scoring."""
        by_item, Q = self.history.transpose(), padded(self.start())
        user_penalty, item_penalty = self._penalty(self.history), self._penalty(by_item)
        user_prior = _Prior(self._user_links, user_penalty, Q.shape[1])
        item_prior = _Prior(self._item_links, item_penalty, Q.shape[1])
        for _ in range(int(self.config.iterations)):
            P = self._regress(self.history, Q, user_penalty, user_prior.mean())
            Q = self._regress(by_item, P, item_penalty, item_prior.mean())
            user_prior.update(P)
            item_prior.update(Q)
        values, rotation = spectrum_of(self.alpha0 * gram_matrix(Q))
        d = int(self.config.dim)  # the smallest eigenvalues belong to the padding
        self.spectrum = torch.from_numpy(values[-d:].copy())
        self.items, self.user_targets = (
            torch.from_numpy(turned(table, rotation)[:, -d:].copy()) for table in (Q, user_prior.targets)
        )
        return self

    def _penalty(self, rows: Csr) -> Float32:
        """``λ n^ν`` of the nodes with these interactions, [n_rows]."""
        sums = np.bincount(rows.rows(), weights=rows.data, minlength=rows.n_rows)
        n = (sums + self.alpha0 * rows.n_cols) / (1 + self.config.unobserved)
        return np.asarray(self.config.l2 * n**self.config.exponent, np.float32)

    def _regress(self, rows: Csr, table: Float32, penalty: Float32, prior: Float32 | None) -> Float32:
        """P given Q (or Q given P): one ridge regression per row, in the basis where α₀ QᵀQ is diagonal."""
        spectrum, rotation = spectrum_of(self.alpha0 * gram_matrix(table))
        prior = None if prior is None else turned(prior, rotation)
        vectors = solve_rows(rows, turned(table, rotation), spectrum, penalty, prior)
        return turned(vectors, np.ascontiguousarray(rotation.T))

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are exactly products of the vectors below; False if a subclass overrides scoring."""
        return methods_not_overridden(self, IALS, "score", "fold_in", "score_rows")

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, dim]."""
        return self.items

    def user_vectors(self, users: Tensor) -> Tensor:
        """Vectors [B, dim] of user rows int64 [B], solved from their interactions and relations.

        Raises:
            InputError: a user row outside the graph.
        """
        rows = user_rows(users, self.graph.n_users)
        prior = None
        if self._user_links.n_cols:
            prior = rows_times_dense(self._user_links.take(rows), self.user_targets.numpy())
        return self._vectors(self.history.take(rows), prior)

    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, dim] of B histories.

        Raises:
            InputError: an item row outside the catalogue.
        """
        return self._vectors(history_rows(histories, self.graph.n_items))

    def score(self, users: Tensor) -> Tensor:
        """Products of the users' and the items' vectors."""
        return self.user_vectors(users) @ self.items.T

    def score_rows(self, rows: Csr) -> Tensor:
        """Products of the histories' and the items' vectors."""
        return self._vectors(rows) @ self.items.T

    def _vectors(self, rows: Csr, prior: Float32 | None = None) -> Tensor:
        """Vectors p of users from their interactions and prior means m, [rows.n_rows, dim]."""
        items = padded(self.items.numpy())
        spectrum = np.pad(self.spectrum.numpy(), (0, items.shape[1] - self.spectrum.numel()))
        prior = None if prior is None else padded(prior)
        vectors = solve_rows(rows, items, spectrum, self._penalty(rows), prior)
        return torch.from_numpy(vectors[:, : self.items.shape[1]].copy())


class _Prior:
    """Prior means m of the vectors of one node type: their ridge regression on the nodes' targets.

    Args:
        links: A = ``√w a``, nodes by targets; without columns there is no prior.
        penalty: λ n^ν of the nodes, float32 [n].
        width: length of a vector.

    Attributes:
        targets: z, float32 [targets, width]; zeros before the first update.
    """

    def __init__(self, links: Csr, penalty: Float32, width: int) -> None:
        self.links, self.by_target, self.penalty = links, links.transpose(), penalty[:, None]
        self.targets = np.zeros((links.n_cols, width), np.float32)
        squares = np.bincount(links.indices, weights=penalty[links.rows()] * links.data**2, minlength=links.n_cols)
        self.ridge = np.float32(penalty.mean()) if penalty.size else np.float32(0)
        self.diagonal = (squares[:, None] + self.ridge).astype(np.float32)

    def mean(self) -> Float32 | None:
        """Prior means m = A z, float32 [n, width]; None without a prior."""
        return product(self.links, self.targets) if self.links.n_cols else None

    def update(self, vectors: Float32) -> None:
        """Move z towards ``(Aᵀ N A + n̄ I)⁻¹ Aᵀ N Q`` by preconditioned conjugate gradients, column by column."""
        if not self.links.n_cols:
            return
        z = self.targets
        residual = self._normal(vectors - product(self.links, z)) - self.ridge * z
        scaled = self._precondition(residual)
        direction = scaled
        size = (residual * scaled).sum(0)
        for _ in range(STEPS):
            image = self._normal(product(self.links, direction)) + self.ridge * direction
            step = _divide(size, (direction * image).sum(0))
            z += step * direction
            residual -= step * image
            scaled = self._precondition(residual)
            previous, size = size, (residual * scaled).sum(0)
            direction = scaled + _divide(size, previous) * direction

    def _precondition(self, residual: Float32) -> Float32:
        """The residual divided by the diagonal of ``Aᵀ N A + n̄ I``."""
        return np.divide(residual, self.diagonal, dtype=np.float32)

    def _normal(self, vectors: Float32) -> Float32:
        """``Aᵀ N`` times vectors of the nodes."""
        weighted: Float32 = self.penalty * vectors
        return product(self.by_target, weighted)


def _divide(a: Float32, b: Float32) -> Float32:
    """``a / b``, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _neighbour_rows(graph: Graph, relation: Relation, end: str) -> Csr:
    """Neighbours of every node of type ``end``; within one type, linked nodes are also their own neighbours."""
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if not relation.undirected:
        return rows if relation.source == end else rows.transpose()
    linked = np.flatnonzero(rows.degrees()).astype(np.int32)
    loops = np.full(linked.size, rows.data.max(initial=0), np.float32)
    row, col = np.concatenate([rows.rows(), linked]), np.concatenate([rows.indices, linked])
    return Csr.from_pairs(row, col, (rows.n_rows, rows.n_cols), np.concatenate([rows.data, loops]))
