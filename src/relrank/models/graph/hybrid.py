"""A graph embedding and node features, fused into one vector per node.

    Z = 1/(L+1) · Σ_l A(α)^l E                   g_v = Z_v,   f_v = projected features of v
    concat:  h_v = g_v + MLP([g_v ‖ f_v])
    gate:    h_v = γ_v ⊙ g_v + (1 − γ_v) ⊙ MLP(f_v),      γ_v = σ(W [g_v ‖ f_v] + b)

for users and for items, if the node type has features; otherwise h_v = g_v. The MLPs have one hidden layer and a
linear output. Scores are products of the fused vectors h.

The table E is learned (``live``), or consists of the leading singular vectors of the normalised interactions Â
(``frozen``): V for items and the projection ÂV for known and new users.

A user or item without training edges has no row in E, so its g comes from relations alone. If g = 0, then γ = 0
whatever the gate has learned, and the features count fully. ``graph_dropout`` trains both fusions for this case.

Gates: Arevalo et al. 2017, "Gated Multimodal Units"; dropped inputs: Volkovs et al. 2017, "DropoutNet".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import rows_times_dense, singular_vectors
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import DropFraction, OpenUnitInterval
from relrank.models.core.layers import Affine, FeatureEncoder
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import Batch
from relrank.models.graph.lightgcn import PropagationConfig, RelationalLightGCN

How = Literal["concat", "gate"]
Embeddings = Literal["live", "frozen"]

ROWS = 1 << 16
"""Nodes fused at a time outside training."""


@dataclass(frozen=True, slots=True)
class HybridConfig(PropagationConfig):
    """Hyper-parameters of the hybrid."""

    fusion: How = "gate"
    """Fusion of graph and features: an MLP of both added to g, or a gate between the two."""
    embeddings: Embeddings = "live"
    """Whether E is learned, or solved once and frozen; ``l2`` has no effect on a frozen table."""
    gate_start: OpenUnitInterval = 0.5
    """Initial γ of all nodes: the weight of the graph."""
    graph_dropout: DropFraction = 0.2
    """Share of a batch's nodes with features whose g is dropped in a step. With 0, new items, which are only ever
    negatives, are ranked below all others."""


class Fusion(nn.Module):
    """Fusion of g and the features of one node type.

    Args:
        graph: has the features.
        node_type: of the nodes.
        dim: length of a vector.
        how: ``concat`` or ``gate``.
    """

    def __init__(self, graph: Graph, node_type: str, dim: int, how: How) -> None:
        super().__init__()
        self.encoder = FeatureEncoder(graph, node_type, dim)
        self.hidden = Affine(dim if how == "gate" else 2 * dim, dim)
        self.out = Affine(dim, dim)
        self.gate = Affine(2 * dim, dim) if how == "gate" else None

    def reset(self, generator: torch.Generator, scale: float, gate_start: float) -> None:
        """Projected features as large as vectors; γ = ``gate_start``; with ``concat``, h is nearly g."""
        self.encoder.init_weights(generator, scale)
        self.hidden.reset(generator, math.sqrt(2))
        self.out.reset(generator, 1.0 if self.gate else 0.1)
        if self.gate is not None:
            self.gate.reset(None, bias=math.log(gate_start) - math.log1p(-gate_start))

    def gates(self, g: Tensor, f: Tensor) -> Tensor:
        """γ, [b, dim]; 0 where g is zero."""
        assert self.gate is not None
        gates: Tensor = self.gate(g, f).sigmoid() * g.detach().any(1, keepdim=True)
        return gates

    def forward(self, g: Tensor, f: Tensor) -> Tensor:
        """Fused vectors h from g and f, [b, dim] each."""
        if self.gate is None:
            h: Tensor = g + self.out(functional.relu(self.hidden(g, f)))
            return h
        gamma = self.gates(g, f)
        h = gamma * g + (1 - gamma) * self.out(functional.relu(self.hidden(f)))
        return h


class Hybrid(RelationalLightGCN):
    """LightGCN fused with projected features."""

    name = "hybrid"
    Config = HybridConfig
    featured = True

    def __init__(self, graph: Graph, config: HybridConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.check(graph, c)
        types = {"user": graph.user, "item": graph.item}
        self.fusions = nn.ModuleDict(
            {side: Fusion(graph, t, c.dim, c.fusion) for side, t in types.items() if graph.features_of(t)}
        )
        self.table.requires_grad_(c.embeddings == "live")
        at = np.concatenate([graph.interactions.src, graph.interactions.dst + graph.n_users])
        own = torch.ones(self.blocks.n_nodes, 1)
        own[: graph.n_users + graph.n_items, 0] = torch.from_numpy(
            np.bincount(at, minlength=graph.n_users + graph.n_items) > 0
        ).float()
        self.register_buffer("_own", own, persistent=False)
        self.register_buffer("_held", torch.empty(0), persistent=False)
        self._own: Tensor
        self._held: Tensor

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Users or items must have features; those of other types are not used."""
        del config
        if not graph.features_of(graph.user) and not graph.features_of(graph.item):
            raise InputError(
                "graph has no features of users or items",
                where=cls.name,
                expected=f'a [features.…] with node = "{graph.item}" or "{graph.user}"',
                found=", ".join(f"{f.name} of {f.node}" for f in graph.features.values()) or "no features",
            )

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of LightGCN, then the fusion."""
        return (
            *super().space(graph),
            Choice("fusion", ("gate", "concat")),
            Choice("embeddings", ("live", "frozen")),
            Range("gate_start", 0.1, 0.9, when=("fusion", ("gate",))),
            GridParameter("graph_dropout", (0.0, 0.1, 0.2, 0.4), 0.2),
        )

    def init_weights(self, seed: int) -> None:
        """Normal E, or singular vectors of the interactions; gates at their configured initial value."""
        super().init_weights(seed)
        generator = torch.Generator().manual_seed(seed)
        for side in self.fusions:
            self._fusion(side).reset(generator, self.config.init_scale, self.config.gate_start)
        if self.config.embeddings == "frozen":
            with torch.no_grad():
                self.table.copy_(self._singular_vectors(seed))

    def _singular_vectors(self, seed: int) -> Tensor:
        """ÂV for users, V for items, zeros elsewhere; scaled so that V has a mean square of init_scale²."""
        graph, table = self.graph, torch.zeros(self.table.shape)
        matrix = normalise(self.history)
        rank = min(int(self.config.dim), graph.n_users, graph.n_items)
        items = singular_vectors(matrix, rank, seed) * np.float32(self.config.init_scale * math.sqrt(graph.n_items))
        table[: graph.n_users, :rank] = torch.from_numpy(rows_times_dense(matrix, items))
        table[graph.n_users : graph.n_users + graph.n_items, :rank] = torch.from_numpy(items)
        return table

    @property
    def vectors(self) -> Tensor:
        """E, with zeros for users and items without training edges."""
        return self.table * self._own

    @property
    def _learned(self) -> bool:
        """Whether Z depends on trained parameters."""
        return self.table.requires_grad or self.raw_weights.requires_grad

    def propagate(self) -> Tensor:
        """Z, [n_nodes, dim]; computed once if it is constant."""
        if self._learned:
            return super().propagate()
        if not self._held.numel():
            self._held = super().propagate()
        return self._held

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        super().clear_derived()
        self._held = torch.empty(0, device=self.table.device)

    def fused(self, side: str, g: Tensor, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fused vectors h of users or items.

        Args:
            side: ``user`` or ``item``.
            g: their graph vectors [b, dim].
            rows: their rows, int64 [b].
            generator: of ``graph_dropout``; None when scoring.
        """
        if side not in self.fusions:
            return g
        if generator is not None and self.config.graph_dropout:
            drawn = torch.rand(len(g), 1, generator=generator, device=g.device)
            g = g * (drawn >= self.config.graph_dropout)
        fusion = self._fusion(side)
        h: Tensor = fusion(g, fusion.encoder(rows))
        return h

    def _fusion(self, side: str) -> Fusion:
        fusion = self.fusions[side]
        assert isinstance(fusion, Fusion)
        return fusion

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of Z, fused."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        if self._learned:
            users, items = super().encode(batch)
        else:
            users, items = self.rows_of(self.propagate(), batch)
        return self.fused("user", users, batch.users, generator), self.fused("item", items, batch.items, generator)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Fused vectors of all users and items."""
        users, items = super().encode_all()
        return self._fused_in_blocks("user", users), self._fused_in_blocks("item", items)

    def _fused_in_blocks(self, side: str, g: Tensor) -> Tensor:
        rows = torch.arange(len(g), device=g.device)
        parts = zip(torch.split(g, ROWS), torch.split(rows, ROWS), strict=True)
        return torch.cat([self.fused(side, part, at) for part, at in parts]) if len(g) else g

    def gathered(self) -> Tensor:
        """Contribution of each item to z_u of a neighbouring user; with a frozen table this includes e_u = ÂV."""
        layers, items = self.config.layers, slice(self.graph.n_users, self.graph.n_users + self.graph.n_items)
        e_items, frozen = self.vectors[items], self.config.embeddings == "frozen"
        if not layers:
            return e_items
        gathered: Tensor = (super().gathered() * layers + (e_items if frozen else 0)) / (layers + 1)
        return gathered

    def encode_histories(self, rows: Csr) -> Tensor:
        """Propagated vectors of new users, fused with missing features."""
        g = self.gather(rows)
        if "user" not in self.fusions:
            return g
        fusion = self._fusion("user")
        h: Tensor = fusion(g, fusion.encoder.missing.sum(0).expand(len(g), -1))
        return h

    @property
    def gate_means(self) -> dict[str, float]:
        """Mean γ per node type over the nodes with g ≠ 0; {} with ``concat``."""
        if self.config.fusion != "gate":
            return {}
        means = {}
        with torch.no_grad():
            parts = zip(("user", "item"), (self.graph.user, self.graph.item), super().encode_all(), strict=True)
            for side, node_type, g in parts:
                if side in self.fusions:
                    fusion, rows = self._fusion(side), g.any(1).nonzero()[:, 0]
                    gates = (fusion.gates(g[at], fusion.encoder(at)) for at in torch.split(rows, ROWS))
                    total = sum(float(part.sum(dtype=torch.float64)) for part in gates)
                    means[node_type] = total / max(len(rows) * g.shape[1], 1)
        return means
