"""Path fusion: learned vectors plus saturated path counts through every relation.

    s_ui = cos(z_u, q_i) / τ + Σ_r a_r √(p_r(u, i) / m_r),      z_u = [e_u +] |H_u|^-½ Σ_{j ∈ H_u} q_j,   a_r ≥ 0

The path scores are those of ``relrank.models.graph.path_terms``; the interactions give paths, too: history → other
users → item. Path scores have the full rank of the graph, which vectors of a few hundred dimensions cannot represent:
that two volumes belong to one series is one edge. The vectors represent what paths do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from relrank.graph.aggregation import sparse_product
from relrank.graph.graph import Graph
from relrank.graph.meta_paths import meta_paths
from relrank.graph.relation_chains import reachable_relations
from relrank.kernels.csr import Csr, Int64
from relrank.models.core.base import GridParameter, history_rows, user_rows
from relrank.models.core.hyperparameters import NonNegative, Positive, PositiveInt, Weights
from relrank.models.core.layers import starting_weights
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import Batch, Loss, VectorConfig, VectorModel
from relrank.models.graph.path_terms import PathTerms, inverse_sqrt_weights, without_edges


@dataclass(frozen=True, slots=True)
class PathFusionConfig(VectorConfig):
    """Hyper-parameters of path fusion."""

    dim: PositiveInt = 256
    temperature: Positive = 0.2
    loss: Loss = "full-softmax"
    user_vectors: bool = True
    """Whether users have free vectors e_u."""
    weight: NonNegative = 0.5
    """Initial a of every relation that ``weights`` does not name, the interactions included. A few hundred steps
    change it little: on a few thousand rows, 5 to 10 may be worth trying."""
    weights: Weights = field(default_factory=dict)
    """Initial a per relation; 0 excludes its paths permanently."""
    learn_weights: bool = True
    """Whether a is trained."""


class PathFusion(VectorModel):
    """Learned vectors plus path scores; ``table`` is [e; q], users first."""

    name = "path-fusion"
    weighs_interactions = True
    max_batch_fraction: ClassVar[float] = 0.5
    Config = PathFusionConfig
    relational = True

    def __init__(self, graph: Graph, config: PathFusionConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        kinds = meta_paths(graph)
        start = starting_weights([k.name for k in kinds], c.weights, c.weight)
        self.paths = PathTerms(kinds, start, self.history, bool(c.learn_weights))
        self.table = nn.Parameter(torch.zeros(graph.n_users + graph.n_items, c.dim))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, directly or through a chain of relations."""
        del config
        return reachable_relations(graph)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Temperature, vectors, penalty and learning rate."""
        del graph
        return (
            Range("temperature", 0.05, 0.5, log=True),
            Choice("dim", (128, 256, 512)),
            Choice("user_vectors", (True, False)),
            GridParameter("l2", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), 0.0),
            Range("train.lr", 3e-3, 5e-2, log=True),
        )

    def init_encoder(self, generator: torch.Generator) -> None:
        """Path weights at their configured initial values."""
        del generator
        self.paths.reset()

    @property
    def relation_weights(self) -> dict[str, float]:
        """Current a per kind of path."""
        return self.paths.weights

    def encoder_inputs(
        self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence
    ) -> Any:
        """The users' histories without the batch's own edges, and path scores from them."""
        del items, seed
        left, cut = without_edges(self.history.take(users), users, edges)
        return (inverse_sqrt_weights(left), *self.paths.encoder_inputs(users, edges, self.parallel, (left, cut)))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors z of the batch's users, without the batch's own edges, and q of its items."""
        z: Tensor = sparse_product(batch.encoder_inputs[0], self.table[self.graph.n_users :])
        e, q = self.penalised_vectors(batch)
        return z + e if self.config.user_vectors else z, q

    def offsets(self, batch: Batch) -> Tensor | None:
        """Path scores, [U, n_items]; None if all kinds of path are excluded."""
        return self.paths(batch.encoder_inputs[1:]) if self.paths.kinds else None

    def penalised_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors e of the batch's users and q of its items."""
        return self.rows_of(self.table, batch)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Vectors z of all users, from their full histories, and q of all items."""
        z, n = self.encode_histories(self.history), self.graph.n_users
        table = self.table.detach()
        return z + table[:n] if self.config.user_vectors else z, table[n:].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """|H|^-½ Σ_{j ∈ H} q_j; zeros for an empty history."""
        return sparse_product(inverse_sqrt_weights(rows), self.table.detach()[self.graph.n_users :])

    def score(self, users: Tensor) -> Tensor:
        """Scores of known users."""
        rows = user_rows(users, self.graph.n_users)
        return self._with_paths(super().score(users), self.history.take(rows), rows)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores of new users, who have no relations."""
        return self._with_paths(super().fold_in(histories), history_rows(histories, self.graph.n_items), None)

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters, and cached path scores."""
        super().clear_derived()
        self.paths.clear_derived()

    def _with_paths(self, scores: Tensor, rows: Csr, users: Int64 | None) -> Tensor:
        return self.paths.add(scores / self.config.temperature, rows, users, self.parallel)
