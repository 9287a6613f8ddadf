"""Relational LightGCN: LightGCN whose propagation also runs over relations, under learned non-negative weights.

    Z = 1/(L+1) · Σ_l (Â_interactions + Σ_r α_r Â_r)^l E,      α_r = softplus(θ_r)

over one table E of all nodes (users, items, tags, …), every block normalised by its own degrees. Without relations it
is LightGCN (He et al. 2020, eq. 8), and like it propagates over the training edge that a step supervises. Scores are
dot products, or cosines, of the *propagated* vectors. For a user who was not there in training, the user's own vector
is what the layers would have gathered from the items of the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.graph.sampling import check_negatives_exist, negatives, shared_negatives
from relrank.models import losses
from relrank.models.base import Knob, Trained, history_rows, user_rows


@dataclass(frozen=True, slots=True)
class RelationalLightGCNConfig:
    """Hyper-parameters of (relational) LightGCN."""

    dim: int = 128
    """Length of a vector; a multiple of 16 takes the fast kernel."""
    layers: int = 2
    """Propagation steps L."""
    loss: Literal["softmax", "bpr"] = "softmax"
    """Sampled softmax on cosines, or BPR on dot products."""
    negatives: int = 1024
    """Items drawn per batch and shared by it (softmax); BPR draws one per training edge."""
    temperature: float = 0.1
    """Cosines are divided by it (softmax only)."""
    l2: float = 1e-4
    """Penalty on the unpropagated vectors of a batch (BPR only; He et al. 2020, eq. 15)."""
    weight: float = 0.3
    """Starting weight α of every relation that ``weights`` does not name."""
    weights: dict[str, float] = field(default_factory=dict)
    """Starting weight per relation; 0 leaves the relation out for good."""
    learn_weights: bool = True
    """Whether the weights move in training."""
    init_scale: float = 0.1
    """Standard deviation of the starting vectors."""


class RelationalLightGCN(Trained):
    """LightGCN over interactions and relations."""

    name = "relational-lightgcn"
    Config = RelationalLightGCNConfig
    relational = True

    def __init__(self, graph: Graph, config: RelationalLightGCNConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        if c.loss not in ("softmax", "bpr"):
            raise InputError(
                "unknown loss", where="relational-lightgcn", expected="softmax or bpr", found=repr(c.loss)
            )
        check_negatives_exist(self.history)
        self.blocks = Propagation(graph)
        self.table = nn.Parameter(torch.zeros(self.blocks.n_nodes, c.dim))
        start = torch.tensor([c.weights.get(name, c.weight) for name in self.blocks.names[1:]])
        if (start < 0).any():
            raise InputError(
                "relation weight is negative", where="relational-lightgcn", expected="0 or more", found=str(start)
            )
        # inverse of softplus; −∞ stands for a weight of exactly 0 and never moves
        self._start = start + (-torch.expm1(-start)).log()
        self.raw_weights = nn.Parameter(self._start.clone(), requires_grad=bool(c.learn_weights and len(start)))
        self._users, self._items = slice(0, graph.n_users), slice(graph.n_users, graph.n_users + graph.n_items)
        # what score and fold_in read: derived from the parameters, so never saved
        self.register_buffer("_propagated", torch.empty(0), persistent=False)
        self.register_buffer("_gathered", torch.empty(0), persistent=False)
        self._propagated: Tensor
        self._gathered: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """Relation weights are learned; what is left is the temperature."""
        del graph
        return (Knob("temperature", (0.05, 0.07, 0.1, 0.14, 0.2), 0.1),)

    def init_weights(self, seed: int) -> None:
        """Normal vectors; relation weights at their stated start."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * self.config.init_scale)
            self.raw_weights.copy_(self._start)
        self._propagated = self._gathered = torch.empty(0)

    @property
    def relation_weights(self) -> dict[str, float]:
        """α per relation as it stands."""
        return dict(zip(self.blocks.names[1:], functional.softplus(self.raw_weights).tolist(), strict=True))

    def propagate(self) -> Tensor:
        """Z, [n_nodes, dim]."""
        return self._layer_mean(self.config.layers)

    def _layer_mean(self, layers: int) -> Tensor:
        alpha = torch.cat([self.raw_weights.new_ones(1), functional.softplus(self.raw_weights)])
        z: Tensor = self.blocks.layer_mean(self.table, alpha, layers)
        return z

    def loss(self, users: Tensor, positives: Tensor, seed: np.random.SeedSequence) -> Tensor:
        """Sampled softmax on cosines, or BPR with the L2 penalty."""
        c: RelationalLightGCNConfig = self.config
        z, n_users = self.propagate(), self.graph.n_users
        device = self.table.device
        rows = users.cpu().numpy()
        if c.loss == "softmax":
            drawn, is_positive = shared_negatives(self.history, rows, c.negatives, seed)
            others = torch.from_numpy(drawn).long().to(device) + n_users
            u, p, n = (
                functional.normalize(z.index_select(0, at), dim=1) for at in (users, positives + n_users, others)
            )
            mask = torch.from_numpy(is_positive).to(device)
            return losses.sampled_softmax((u * p).sum(1), u @ n.T, mask, c.temperature)
        drawn = negatives(self.history, rows, 1, seed)[:, 0]
        at = torch.cat([users, positives + n_users, torch.from_numpy(drawn).long().to(device) + n_users])
        u, p, n = z.index_select(0, at).chunk(3)
        penalty = c.l2 * 0.5 * self.table.index_select(0, at).square().sum() / len(users)
        return losses.bpr((u * p).sum(1), (u * n).sum(1)) + penalty

    def refresh(self) -> None:
        """Propagate once for all users."""
        with torch.no_grad():
            z = self.propagate()
            self._propagated = functional.normalize(z, dim=1) if self.config.loss == "softmax" else z
        self._gathered = torch.empty(0)

    def score(self, users: Tensor) -> Tensor:
        """Dot products of propagated vectors, never of the raw table; cosines under the softmax loss."""
        if not self._propagated.numel():
            self.refresh()
        z = self._propagated
        rows = torch.from_numpy(user_rows(users, self.graph.n_users)).to(z.device)
        scores: Tensor = z[self._users][rows] @ z[self._items].T
        return scores

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores of the vector that the layers would gather for a user with these items and no vector so far."""
        if not self._propagated.numel():
            self.refresh()
        rows = history_rows(histories, self.graph.n_items)
        degrees = np.bincount(self.history.indices, minlength=self.graph.n_items)
        scale = np.maximum(rows.degrees(), 1)[rows.rows()] * np.maximum(degrees, 1)[rows.indices]
        # The user gathers the items' layers 0 … L−1: their mean, since a factor per user changes no rank.
        with torch.no_grad():
            if not self._gathered.numel():
                self._gathered = self._layer_mean(max(self.config.layers - 1, 0))[self._items]
            items = self._gathered
            picked = items[torch.from_numpy(rows.indices).long().to(items.device)]
            picked = picked * torch.from_numpy(1 / np.sqrt(scale)).to(picked)[:, None]
            user = picked.new_zeros(rows.n_rows, items.shape[1])
            user.index_add_(0, torch.from_numpy(rows.rows()).long().to(user.device), picked)
            if self.config.loss == "softmax":
                user = functional.normalize(user, dim=1)
            scores: Tensor = user @ self._propagated[self._items].T
            return scores
