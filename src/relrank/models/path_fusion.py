"""Path fusion: a product of learned vectors plus saturated counts of paths through every relation.

    s_ui = cos(z_u, q_i) / τ + Σ_r a_r √(p_r(u, i) / m_r),      z_u = [e_u +] |H_u|^-½ Σ_{j ∈ H_u} q_j,   a_r ≥ 0

p_r(u, i) is the summed weight of the paths that lead from the user's history over relation r to the item (see
``relrank.graph.paths``; the interactions are such a relation: history → other users → item), m_r its mean where there
is a path. The paths have the rank of the graph, which no table of a few hundred columns has: that two volumes belong
to one series is one edge, not a direction in space. The vectors carry what no path says. The square root keeps a user
with many paths from outweighing everything else in the softmax; a plain sum trained worse.

In training a batch's own edges are cut out of the histories that lead to them, and no path runs through the user
itself; else a relation's weight measures how much of the answer it leaks.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.csr import Csr, Float32, Int64
from relrank.graph.aggregation import sparse_product
from relrank.graph.graph import Graph
from relrank.graph.paths import path_kinds, path_scores, root_of_difference
from relrank.models.base import Knob, history_rows, user_rows
from relrank.models.layers import inverse_softplus, starting_weights
from relrank.models.space import Choice, Range
from relrank.models.vectors import Batch, Loss, VectorConfig, VectorModel

KEPT_BYTES = 2 << 30
"""Room for the path scores of all users: if they are kept, a step pays only for the edges that it cuts out."""
SAMPLE = 256
"""Users whose paths decide the scale m_r."""


@dataclass(frozen=True, slots=True)
class PathFusionConfig(VectorConfig):
    """Hyper-parameters of path fusion."""

    dim: int = 256
    temperature: float = 0.2
    loss: Loss = "full-softmax"
    user_vectors: bool = True
    """Whether users have vectors e_u of their own."""
    weight: float = 0.5
    """Starting weight a of every relation that ``weights`` does not name, the interactions included."""
    weights: dict[str, float] = field(default_factory=dict)
    """Starting weight per relation; 0 leaves its paths out for good."""
    learn_weights: bool = True
    """Whether the weights move in training."""


def _ones(rows: Csr) -> Csr:
    """Histories that count every item once."""
    return Csr(rows.indptr, rows.indices, np.ones(rows.nnz, np.float32), rows.n_cols)


def _shares(rows: Csr) -> Csr:
    """|H|^-½ at every item of a history H."""
    share = 1 / np.sqrt(np.maximum(rows.degrees(), 1))
    return Csr(rows.indptr, rows.indices, share[rows.rows()].astype(np.float32), rows.n_cols)


class _Weighted(torch.autograd.Function):
    """``Σ_r a_r P_r`` for matrices without a gradient; the gradient of a_r is ⟨g, P_r⟩."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *paths: Tensor) -> Tensor:
        ctx.paths = paths
        total = torch.zeros_like(paths[0], dtype=weights.dtype)
        for weight, matrix in zip(weights.tolist(), paths, strict=True):
            total.add_(matrix, alpha=weight)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat = gradients[0].reshape(-1)
        dots = torch.stack([torch.dot(flat, matrix.reshape(-1).to(flat)) for matrix in ctx.paths])
        return dots, *(None for _ in ctx.paths)


class PathFusion(VectorModel):
    """Learned vectors and paths."""

    name = "path-fusion"
    weighs_interactions = True
    most_edges: ClassVar[float] = 0.5
    Config = PathFusionConfig
    relational = True

    def __init__(self, graph: Graph, config: PathFusionConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        kinds = path_kinds(graph)
        start = starting_weights([k.name for k in kinds], c.weights, c.weight, self.name)
        self.kinds = [k for k, a in zip(kinds, start.tolist(), strict=True) if a > 0]
        self._start = inverse_softplus(start[start > 0])
        self.raw_weights = nn.Parameter(self._start.clone(), requires_grad=bool(c.learn_weights))
        self.table = nn.Parameter(torch.zeros(graph.n_users + graph.n_items, c.dim))
        self._whole: list[Float32] | None = None
        self._making = threading.Lock()
        some = np.linspace(0, graph.n_users - 1, min(SAMPLE, graph.n_users)).astype(np.int64)
        self._scales = [1.0] * len(self.kinds)
        for number, paths in enumerate(self._paths(self.history.take(some), some)):
            self._scales[number] = float(np.square(paths[paths > 0], dtype=np.float64).mean()) if paths.any() else 1.0

    @classmethod
    def space(cls, graph: Graph) -> tuple[Knob | Range | Choice, ...]:
        """Temperature, vectors and learning rate; the loss is the softmax over the whole catalogue."""
        del graph
        return (
            Range("temperature", 0.05, 0.5, log=True), Choice("dim", (128, 256, 512)),
            Choice("user_vectors", (True, False)), Knob("l2", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), 0.0),
            Range("train.lr", 3e-3, 5e-2, log=True),
        )  # fmt: skip

    def init_weights(self, seed: int) -> None:
        """Normal vectors; relation weights at their stated start."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * self.config.init_scale)
            self.raw_weights.copy_(self._start)
        self.forget()

    @property
    def relation_weights(self) -> dict[str, float]:
        """A per kind of path as it stands."""
        values = functional.softplus(self.raw_weights).tolist()
        return {k.name: a for k, a in zip(self.kinds, values, strict=True)}

    def _paths(self, rows: Csr, users: Int64 | None) -> list[Float32]:
        """√(p_r / m_r) per kind, float32 [n_rows, n_items] each."""
        even, found = _shares(rows), []
        for kind, scale in zip(self.kinds, self._scales, strict=True):
            paths = path_scores(kind, even, users, self.parallel)
            paths *= np.float32(1 / scale)
            found.append(np.sqrt(paths, out=paths))
        return found

    def _whole_paths(self) -> list[Float32] | None:
        """Path scores of all users' whole histories, each item counted 1; None if they would take too much room."""
        with self._making:
            if self._whole is None and 4 * self.history.n_rows * self.history.n_cols * len(self.kinds) <= KEPT_BYTES:
                everyone = np.arange(self.history.n_rows)
                self._whole = [path_scores(kind, _ones(self.history), everyone, self.parallel) for kind in self.kinds]
        return self._whole

    def _paths_without(self, users: Int64, cut: Csr, left: Csr) -> list[Float32]:
        """``_paths`` of what is left of the users' histories; scores are sums, so the part cut out is subtracted."""
        whole = self._whole_paths()
        if whole is None:
            return self._paths(left, users)
        even = (1 / np.sqrt(np.maximum(left.degrees(), 1))).astype(np.float32)
        found = []
        for kind, scale, scores in zip(self.kinds, self._scales, whole, strict=True):
            # paths that start at the user's relations know no history
            less = (
                path_scores(kind, cut, users, self.parallel)
                if kind.start is None
                else np.zeros((users.size, self.graph.n_items), np.float32)
            )
            factor = (even if kind.start is None else np.ones_like(even)) / np.float32(scale)
            found.append(root_of_difference(scores, users, less, factor, self.parallel))
        return found

    def messages(self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence) -> Any:
        """The users' histories without the batch's own edges, and the paths from there."""
        del items, seed
        n = self.graph.n_items
        rows = self.history.take(users)
        place = np.searchsorted(users, edges[0])
        kept = ~np.isin(rows.rows().astype(np.int64) * n + rows.indices, place * n + edges[1])
        left, cut = (
            Csr.from_pairs(rows.rows()[which], rows.indices[which], (rows.n_rows, n)) for which in (kept, ~kept)
        )
        return (_shares(left), *(torch.from_numpy(p) for p in self._paths_without(users, cut, left)))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users from what is left of their histories; items as they are."""
        users: Tensor = sparse_product(batch.messages[0], self.table[self.graph.n_users :])
        own, items = self.penalised(batch)
        return users + own if self.config.user_vectors else users, items

    def offsets(self, batch: Batch) -> Tensor | None:
        """What the paths add to the scores, [U, n_items]; None where every kind of path is left out."""
        if not self.kinds:
            return None
        added: Tensor = _Weighted.apply(functional.softplus(self.raw_weights), *batch.messages[1:])  # type: ignore[no-untyped-call]
        return added

    def penalised(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the tables."""
        n = self.graph.n_users
        return self.table.index_select(0, batch.users), self.table.index_select(0, batch.items + n)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Users from their whole histories."""
        users, n = self.encode_histories(self.history), self.graph.n_users
        table = self.table.detach()
        return users + table[:n] if self.config.user_vectors else users, table[n:].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """|H|^-½ Σ q_j; zeros for an empty history."""
        return sparse_product(_shares(rows), self.table.detach()[self.graph.n_users :])

    def score(self, users: Tensor) -> Tensor:
        """Vectors and paths of known users."""
        rows = user_rows(users, self.graph.n_users)
        return self._with_paths(super().score(users), self.history.take(rows), rows)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors and paths of new users, who have no relations of their own yet."""
        return self._with_paths(super().fold_in(histories), history_rows(histories, self.graph.n_items), None)

    def forget(self) -> None:
        """Drop what was derived from earlier parameters, and the kept paths."""
        super().forget()
        self._whole = None

    def _with_paths(self, scores: Tensor, rows: Csr, users: Int64 | None) -> Tensor:
        scores = scores / self.config.temperature
        for weight, paths in zip(self.relation_weights.values(), self._paths(rows, users), strict=True):
            scores += weight * torch.from_numpy(paths).to(scores.device)
        return scores
