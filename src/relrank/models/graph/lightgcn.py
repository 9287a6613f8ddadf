"""Relational LightGCN: LightGCN whose propagation also runs over relations, under learned non-negative weights.

    Z = 1/(L+1) · Σ_l (Â_interactions + Σ_r α_r Â_r)^l E,      α_r = softplus(θ_r)

over one table E of all nodes (users, items, tags, …), every block normalised by its own degrees. Without relations it
is LightGCN (He et al. 2020, eq. 8), and like it propagates over the training edge that a step supervises. Scores are
dot products, or cosines, of the *propagated* vectors. For a user who was not there in training, the user's vector is
fitted to the history (``relrank.models.core.fit_user_vectors``) from what the layers would have gathered from its
items.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.graph.relation_chains import within_layers
from relrank.kernels.csr import Csr
from relrank.models.core.base import GridParameter
from relrank.models.core.fit_user_vectors import fit_to_histories
from relrank.models.core.hyperparameters import NonNegative, NonNegativeInt, PositiveInt, Weights
from relrank.models.core.layers import inverse_softplus, starting_weights
from relrank.models.core.space import Choice, Range
from relrank.models.core.vectors import Batch, VectorConfig, VectorModel


@dataclass(frozen=True, slots=True)
class RelationalLightGCNConfig(VectorConfig):
    """Hyper-parameters of (relational) LightGCN."""

    dim: PositiveInt = 128
    layers: NonNegativeInt = 2
    """Propagation steps L."""
    weight: NonNegative = 0.3
    """Starting weight α of every relation that ``weights`` does not name."""
    weights: Weights = field(default_factory=dict)
    """Starting weight per relation; 0 leaves the relation out for good."""
    learn_weights: bool = True
    """Whether the weights move in training."""


class RelationalLightGCN(VectorModel):
    """LightGCN over interactions and relations."""

    name = "relational-lightgcn"
    Config = RelationalLightGCNConfig
    relational = True

    def __init__(self, graph: Graph, config: RelationalLightGCNConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.blocks = Propagation(graph)
        self.table = nn.Parameter(torch.zeros(self.blocks.n_nodes, c.dim))
        start = starting_weights(self.blocks.names[1:], c.weights, c.weight)
        self._start = inverse_softplus(start)
        self.raw_weights = nn.Parameter(self._start.clone(), requires_grad=bool(c.learn_weights and len(start)))
        self._penalised: tuple[Tensor, Tensor] | None = None
        # what a new user gathers, derived from the parameters, so never saved
        self.register_buffer("_gathered", torch.empty(0), persistent=False)
        self._gathered: Tensor

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that propagation crosses on the way to users or items within its layers."""
        return within_layers(graph, graph.relations, (graph.user, graph.item), int((config or cls.Config()).layers))

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Loss, layers, and where the relations' weights start."""
        weights = (Range(f"weights.{name}", 0.01, 3.0, log=True) for name in sorted(graph.relations))
        return *super().space(graph), Range("layers", 1, 4), *weights

    def init_weights(self, seed: int) -> None:
        """Normal vectors; relation weights at their stated start."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * self.config.init_scale)
            self.raw_weights.copy_(self._start)
        self.clear_derived()

    @property
    def relation_weights(self) -> dict[str, float]:
        """α per relation as it stands."""
        return dict(zip(self.blocks.names[1:], functional.softplus(self.raw_weights).tolist(), strict=True))

    @property
    def alpha(self) -> Tensor:
        """Weights of the interactions (1) and of the relations."""
        return torch.cat([self.raw_weights.new_ones(1), functional.softplus(self.raw_weights)])

    @property
    def vectors(self) -> Tensor:
        """E, [n_nodes, dim]."""
        return self.table

    def propagate(self) -> Tensor:
        """Z, [n_nodes, dim]."""
        return self.blocks.layer_mean(self.vectors, self.alpha, self.config.layers)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of Z."""
        rows = batch.users, batch.items + self.graph.n_users
        e, c = self.vectors, self.config
        own_too = bool(c.l2) and e is self.table
        users, items, *own = self.blocks.rows_of_layer_mean(e, self.alpha, c.layers, *rows, own=own_too)
        self._penalised = (own[0], own[1]) if own else None
        return users, items

    def ridge_gram(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of E: those that ``encode`` has found, or the table's."""
        found, self._penalised = self._penalised, None
        n = self.graph.n_users
        return found or (self.table.index_select(0, batch.users), self.table.index_select(0, batch.items + n))

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Users' and items' rows of Z."""
        n_users, n_items = self.graph.n_users, self.graph.n_items
        z = self.propagate()
        return z[:n_users], z[n_users : n_users + n_items]

    def gathered(self) -> Tensor:
        """What a user gathers from each item, [n_items, dim]: the mean of the item's layers 0 … L−1."""
        layers = self.blocks.layer_mean(self.vectors, self.alpha, max(self.config.layers - 1, 0))
        return layers[self.graph.n_users :][: self.graph.n_items].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """Vectors fitted to the histories, as long as those of trained users.

        What the layers gather is where the fit begins, and not enough by itself: a trained user's vector has a part
        of its own, without which people of goodbooks-10k lose a third of their NDCG@10.
        """
        if not self._items.numel():
            self.refresh()
        length = 1.0 if self.config.similarity == "cosine" else float(self._users.norm(dim=1).mean())
        return fit_to_histories(self.gather(rows), rows, self._items, self.config.temperature, length)

    def gather(self, rows: Csr) -> Tensor:
        """What the layers would gather for a user with these items and no vector so far.

        The user gathers the items' layers 0 … L−1: their mean, since a factor per user changes no rank.
        """
        if not self._gathered.numel():
            self._gathered = self.gathered()
        degrees = np.bincount(self.history.indices, weights=self.history.data, minlength=self.graph.n_items)
        degrees[degrees == 0] = 1
        scale = np.maximum(rows.degrees(), 1)[rows.rows()] * degrees[rows.indices]
        items = self._gathered
        picked = items[torch.from_numpy(rows.indices).long().to(items.device)]
        picked = picked * torch.from_numpy(1 / np.sqrt(scale)).to(picked)[:, None]
        user = picked.new_zeros(rows.n_rows, items.shape[1])
        return user.index_add_(0, torch.from_numpy(rows.rows()).long().to(user.device), picked)

    def refresh(self) -> None:
        """Propagate once for all users and items."""
        super().refresh()
        self.blocks.release()
        self._gathered = torch.empty(0, device=self._items.device)

    def clear_derived(self) -> None:
        """Drop what was derived from earlier parameters."""
        super().clear_derived()
        self._gathered = torch.empty(0, device=self._items.device)
