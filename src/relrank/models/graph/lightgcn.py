"""Relational LightGCN: LightGCN (He et al. 2020) that also propagates over relations, with weights α_r ≥ 0.

    Eˡ⁺¹ = A(α) Eˡ,  E⁰ = E,       A(α) = Â_interactions + Σ_r α_r Â_r                            (eq. 7)
    Z = 1/(L+1) · Σ_{l=0..L} Eˡ                                                                   (eq. 8)
    ŷ_ui = z_u · z_i, or their cosine                                                             (eq. 5)

E has one row per node (users, items, tags, …); every Â = D^-½ A D^-½ is normalised by its own degrees. The α_r weight
relations; they are not the paper's layer weights α_k, which are 1/(L+1) here. By default they are hyper-parameters:
trained together with E they follow the training loss, and grow beyond what validation rows want. As in the paper, the
edges that a step trains on stay in the graph. The paper's loss is BPR on inner products; the default here is sampled
softmax on inner products, which needs a few dozen epochs instead of a thousand, and a far stronger penalty of E⁰.

A user unseen during training has no row in E. Their vector is fitted to the history, starting from what propagation
alone gives them (``relrank.models.core.fit_user_vectors``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.graph.relation_chains import within_layers
from relrank.kernels.csr import Csr
from relrank.models.core.base import GridParameter
from relrank.models.core.fit_user_vectors import fit_to_histories
from relrank.models.core.hyperparameters import NonNegative, NonNegativeInt, Positive, PositiveInt, Weights
from relrank.models.core.layers import inverse_softplus, starting_weights
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import Batch, Similarity, VectorConfig, VectorModel


@dataclass(frozen=True, slots=True)
class PropagationConfig(VectorConfig):
    """Hyper-parameters of models that propagate over weighted relations."""

    dim: PositiveInt = 128
    layers: NonNegativeInt = 2
    """L, propagation layers."""
    weight: NonNegative = 0.3
    """α, or its initial value, of every relation that ``weights`` does not name."""
    weights: Weights = field(default_factory=dict)
    """The same per relation; 0 excludes the relation permanently."""
    learn_weights: bool = True
    """Whether α = softplus(θ) is trained."""
    ridge: NonNegative = 0.0
    """λ, a penalty on E⁰ in interactions: λ / √(d_users · d_items) is added to ``l2``, with the mean numbers of
    interactions of users and of items that have any. So the same λ suits data of any density."""


@dataclass(frozen=True, slots=True)
class RelationalLightGCNConfig(PropagationConfig):
    """Hyper-parameters of (relational) LightGCN."""

    dim: PositiveInt = 64
    layers: NonNegativeInt = 3
    """L, propagation layers."""
    similarity: Similarity = "dot"
    temperature: Positive = 1.0
    negatives: PositiveInt = 512
    ridge: NonNegative = 0.65
    weight: NonNegative = 0.1
    learn_weights: bool = False


def mean_degree(graph: Graph) -> float:
    """Geometric mean of the mean numbers of interactions of users and of items that have any; at least 1."""
    edges = graph.interactions
    users, items = (max(np.unique(side).size, 1) for side in (edges.src, edges.dst))
    return max(len(edges) / float(np.sqrt(users * items)), 1.0)


def steps_by_size(n_edges: int) -> dict[str, int]:
    """Batch and epochs for a number of training edges.

    The batch is the power of two next to a fortieth of the edges, from 256 to 8,192: small data get as many steps as
    large ones. 40 epochs, or as many as make 4,000 steps, but at least 8.
    """
    batch = int(np.clip(2.0 ** np.round(np.log2(max(n_edges, 1) / 40)), 256, 8192))
    return {"batch": batch, "epochs": int(np.clip(4000 * batch // max(n_edges, 1), 8, 40))}


class RelationalLightGCN(VectorModel):
    """LightGCN over interactions and relations.

    Attributes:
        table: E, [n_nodes, dim].
        raw_weights: θ, [n_relations].
        blocks: the normalised adjacency Â of the interactions and of every relation.
    """

    name = "relational-lightgcn"
    Config: ClassVar[type] = RelationalLightGCNConfig
    relational = True

    def __init__(self, graph: Graph, config: PropagationConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.penalty += c.ridge / mean_degree(graph)
        self.blocks = Propagation(graph)
        self.table = nn.Parameter(torch.zeros(self.blocks.n_nodes, c.dim))
        alpha = starting_weights(self.blocks.names[1:], c.weights, c.weight)
        self._initial_theta = inverse_softplus(alpha)
        self.raw_weights = nn.Parameter(
            self._initial_theta.clone(), requires_grad=bool(c.learn_weights and len(alpha))
        )
        self._penalised: tuple[Tensor, Tensor] | None = None
        # derived from the parameters, so not saved
        self.register_buffer("_gathered", torch.empty(0), persistent=False)
        self._gathered: Tensor

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations on a path of at most L edges that ends at a user or an item."""
        return within_layers(graph, graph.relations, (graph.user, graph.item), int((config or cls.Config()).layers))

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Weights of the relations, then the penalty; under cosines the temperature alone."""
        if cls.Config().similarity == "cosine":
            return super().grid_parameters(graph)
        weights = (
            GridParameter(f"weights.{name}", (0.0, 0.1, 0.3, 1.0), 0.0, "weights", coarse_steps=False)
            for name in sorted(graph.relations)
        )
        return *weights, GridParameter("ridge", (0.07, 0.2, 0.65, 2.0, 6.5), 0.65)

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Cosines need a temperature below 1, and no penalty of lengths, which they do not see."""
        if config.similarity == "cosine" and (config.temperature >= 1 or config.ridge):
            raise InputError(
                "settings for dot products with cosines",
                where=f"{where}, similarity",
                expected="with cosines temperature = 0.1 and ridge = 0, or others like these",
                found=f"temperature = {config.temperature:g}, ridge = {config.ridge:g}",
            )

    @classmethod
    def training_defaults(cls, graph: Graph) -> dict[str, Any]:
        """Under dot products 40 to 120 steps an epoch, at most 40 epochs and 4,000 steps, with a falling rate."""
        if cls.Config().similarity == "cosine":
            return super().training_defaults(graph)
        return steps_by_size(len(graph.interactions)) | {"lr": 0.02, "decay": "linear"}

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every encoder, then layers and relation weights; dot products have a ridge instead."""
        dimensions = super().space(graph)
        if cls.Config().similarity == "dot":
            kept = (d for d in dimensions if d.name not in ("similarity", "temperature", "l2"))
            dimensions = *kept, Range("ridge", 0.05, 10.0, log=True)
        weights = (Range(f"weights.{name}", 0.01, 3.0, log=True) for name in sorted(graph.relations))
        return *dimensions, Range("layers", 1, 4), *weights

    def init_encoder(self, generator: torch.Generator) -> None:
        """Relation weights at their configured initial values."""
        del generator
        self.raw_weights.copy_(self._initial_theta)

    @property
    def relation_weights(self) -> dict[str, float]:
        """Current α per relation."""
        return dict(zip(self.blocks.names[1:], functional.softplus(self.raw_weights).tolist(), strict=True))

    @property
    def alpha(self) -> Tensor:
        """α of the interactions (1) and of the relations, [1 + n_relations]."""
        return torch.cat([self.raw_weights.new_ones(1), functional.softplus(self.raw_weights)])

    @property
    def vectors(self) -> Tensor:
        """E, [n_nodes, dim]."""
        return self.table

    def propagate(self) -> Tensor:
        """Z = 1/(L+1) Σ_l A(α)^l E, [n_nodes, dim]."""
        return self.blocks.layer_mean(self.vectors, self.alpha, self.config.layers)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of Z for the batch's users and items."""
        rows = batch.users, batch.items + self.graph.n_users
        E, c = self.vectors, self.config
        with_e0 = bool(self.penalty) and E is self.table
        z_users, z_items, *e0 = self.blocks.rows_of_layer_mean(E, self.alpha, c.layers, *rows, own=with_e0)
        self._penalised = (e0[0], e0[1]) if e0 else None
        return z_users, z_items

    def penalised_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of E⁰ for the batch's users and items, which ``l2`` penalises (eq. 15)."""
        e0, self._penalised = self._penalised, None
        return e0 or self.rows_of(self.table, batch)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Rows of Z for all users and all items."""
        n_users, n_items = self.graph.n_users, self.graph.n_items
        Z = self.propagate()
        return Z[:n_users], Z[n_users : n_users + n_items]

    def gathered(self) -> Tensor:
        """1/L · Σ_{l=0..L−1} e_iˡ of every item, which a neighbouring user aggregates, [n_items, dim]."""
        mean = self.blocks.layer_mean(self.vectors, self.alpha, max(self.config.layers - 1, 0))
        return mean[self.graph.n_users :][: self.graph.n_items].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """Vectors fitted to the histories, with the mean length of the training users' vectors.

        The fit starts from the propagated vectors. These alone are not enough: z_u of a training user includes the
        user's own e_u, without which users of goodbooks-10k lose a third of their NDCG@10.
        """
        if not self._items.numel():
            self.refresh()
        length = 1.0 if self.config.similarity == "cosine" else float(self._users.norm(dim=1).mean())
        return fit_to_histories(self.gather(rows), rows, self._items, self.config.temperature, length)

    def gather(self, rows: Csr) -> Tensor:
        """Propagated z_u ∝ Σ_{i∈H_u} 1/√(|H_u| |N_i|) · Σ_{l<L} e_iˡ (eq. 3) for a user with history H_u and e_u = 0.

        The mean over layers replaces their sum: a factor per user changes no rank.
        """
        if not self._gathered.numel():
            self._gathered = self.gathered()
        item_degrees = np.bincount(self.history.indices, weights=self.history.data, minlength=self.graph.n_items)
        item_degrees[item_degrees == 0] = 1
        degrees = np.maximum(rows.degrees(), 1)[rows.rows()] * item_degrees[rows.indices]
        items = self._gathered
        messages = items[torch.from_numpy(rows.indices).long().to(items.device)]
        messages = messages * torch.from_numpy(1 / np.sqrt(degrees)).to(messages)[:, None]
        users = messages.new_zeros(rows.n_rows, items.shape[1])
        return users.index_add_(0, torch.from_numpy(rows.rows()).long().to(users.device), messages)

    def refresh(self) -> None:
        """Propagate once for all nodes."""
        super().refresh()
        self.blocks.release()
        self._gathered = torch.empty(0, device=self._items.device)

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        super().clear_derived()
        self._gathered = torch.empty(0, device=self._items.device)
