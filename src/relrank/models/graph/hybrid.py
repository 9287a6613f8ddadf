"""A graph embedding and node features, fused into one vector per node.

    Z = 1/(L+1) · Σ_l A(α)^l E                   g_v = Z_v,   f_v = projected features of v
    concat:  h_v = g_v + MLP([g_v ‖ f_v])
    gate:    h_v = γ_v ⊙ g_v + (1 − γ_v) ⊙ MLP(f_v),      γ_v = σ(W [g_v ‖ f_v] + b)

for users and for items, as far as the type has features; h_v = g_v for a type without. The MLPs have one hidden layer
and a linear end, so entries of both signs. Scores are products of the *fused* vectors on both sides.

The table E is learned (``live``), or the leading singular vectors of the normalised interactions Â (``frozen``): V
for items, and for users, old and new, the projection ÂV. A frozen table is solved, never left at a random start.

A user or item without training edges has no vector of its own: its g comes from relations alone. Where nothing
comes, g = 0, and γ is 0 whatever the gate has learned, so that the features speak with their full weight.
``graph_dropout`` lets both fusions practise this in training.

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
from relrank.models.core.space import Choice, Range
from relrank.models.core.vectors import Batch
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig

How = Literal["concat", "gate"]
Embeddings = Literal["live", "frozen"]

ROWS = 1 << 16
"""Nodes that are fused at a time outside training."""


@dataclass(frozen=True, slots=True)
class HybridConfig(RelationalLightGCNConfig):
    """Hyper-parameters of the hybrid."""

    fusion: How = "gate"
    """How graph and features meet: an MLP of both on top of the graph's vector, or a gate between the two."""
    embeddings: Embeddings = "live"
    """Whether the graph's table is learned, or solved once and held; ``l2`` does nothing to a held one."""
    gate_start: OpenUnitInterval = 0.5
    """γ before training, in every entry of every node: the graph's share."""
    graph_dropout: DropFraction = 0.2
    """Share of a batch's nodes with features whose graph part is left out in a step. At 0 new items, which are
    negatives and nothing else, would be ranked below all others of their kind."""


class Fusion(nn.Module):
    """Graph part and features of the nodes of one type, made into one vector.

    Args:
        graph: has the features.
        node_type: whose.
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
        """Features as large as vectors; γ is ``gate_start``, and under ``concat`` h is nearly g."""
        self.encoder.init_weights(generator, scale)
        self.hidden.reset(generator, math.sqrt(2))
        self.out.reset(generator, 1.0 if self.gate else 0.1)
        if self.gate is not None:
            self.gate.reset(None, bias=math.log(gate_start) - math.log1p(-gate_start))

    def gates(self, g: Tensor, f: Tensor) -> Tensor:
        """γ, [b, dim]; 0 where the graph part is zero."""
        assert self.gate is not None
        gates: Tensor = self.gate(g, f).sigmoid() * g.detach().any(1, keepdim=True)
        return gates

    def forward(self, g: Tensor, f: Tensor) -> Tensor:
        """The fused vectors, from graph parts and projected features: [b, dim] each."""
        if self.gate is None:
            fused: Tensor = g + self.out(functional.relu(self.hidden(g, f)))
            return fused
        gates = self.gates(g, f)
        fused = gates * g + (1 - gates) * self.out(functional.relu(self.hidden(f)))
        return fused


class Hybrid(RelationalLightGCN):
    """LightGCN's vectors fused with projected features."""

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
        """Features of users or items must be there; those of other types are not read."""
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
        """As LightGCN's; how graph and features meet."""
        return (
            *super().space(graph),
            Choice("fusion", ("gate", "concat")),
            Choice("embeddings", ("live", "frozen")),
            Range("gate_start", 0.1, 0.9, when=("fusion", ("gate",))),
            GridParameter("graph_dropout", (0.0, 0.1, 0.2, 0.4), 0.2),
        )

    def init_weights(self, seed: int) -> None:
        """Normal vectors, or the interactions' singular vectors; gates at their stated start."""
        super().init_weights(seed)
        generator = torch.Generator().manual_seed(seed)
        for side in self.fusions:
            self._fusion(side).reset(generator, self.config.init_scale, self.config.gate_start)
        if self.config.embeddings == "frozen":
            with torch.no_grad():
                self.table.copy_(self._solved(seed))

    def _solved(self, seed: int) -> Tensor:
        """Users ÂV, items V, zeros elsewhere; scaled so that items' entries have a mean square of init_scale²."""
        graph, table = self.graph, torch.zeros(self.table.shape)
        matrix = normalise(self.history)
        rank = min(int(self.config.dim), graph.n_users, graph.n_items)
        items = singular_vectors(matrix, rank, seed) * np.float32(self.config.init_scale * math.sqrt(graph.n_items))
        table[: graph.n_users, :rank] = torch.from_numpy(rows_times_dense(matrix, items))
        table[graph.n_users : graph.n_users + graph.n_items, :rank] = torch.from_numpy(items)
        return table

    @property
    def vectors(self) -> Tensor:
        """E, without vectors that no training edge has moved."""
        return self.table * self._own

    @property
    def _learned(self) -> bool:
        """Whether anything in Z is."""
        return self.table.requires_grad or self.raw_weights.requires_grad

    def propagate(self) -> Tensor:
        """Z, [n_nodes, dim]; computed once where nothing in it is learned."""
        if self._learned:
            return super().propagate()
        if not self._held.numel():
            self._held = super().propagate()
        return self._held

    def clear_derived(self) -> None:
        """Drop what was derived from earlier parameters."""
        super().clear_derived()
        self._held = torch.empty(0, device=self.table.device)

    def fused(self, side: str, g: Tensor, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The fused vectors of users or items.

        Args:
            side: ``user`` or ``item``.
            g: their graph parts [b, dim].
            rows: which they are, int64 [b].
            generator: leaves graph parts out at random, where there is one.
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
            z = self.propagate()
            users, items = z.index_select(0, batch.users), z.index_select(0, batch.items + self.graph.n_users)
        return self.fused("user", users, batch.users, generator), self.fused("item", items, batch.items, generator)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Users and items, fused."""
        users, items = super().encode_all()
        return self._in_parts("user", users), self._in_parts("item", items)

    def _in_parts(self, side: str, g: Tensor) -> Tensor:
        rows = torch.arange(len(g), device=g.device)
        parts = zip(torch.split(g, ROWS), torch.split(rows, ROWS), strict=True)
        return torch.cat([self.fused(side, part, at) for part, at in parts]) if len(g) else g

    def gathered(self) -> Tensor:
        """What a user's Z has from each item; of a frozen table, that is all it has, the user's own vector too."""
        layers, items = self.config.layers, slice(self.graph.n_users, self.graph.n_users + self.graph.n_items)
        own, frozen = self.vectors[items], self.config.embeddings == "frozen"
        if not layers:
            return own
        gathered: Tensor = (super().gathered() * layers + (own if frozen else 0)) / (layers + 1)
        return gathered

    def encode_histories(self, rows: Csr) -> Tensor:
        """What the layers would gather for new users, fused with features that are all missing."""
        g = self.gather(rows)
        if "user" not in self.fusions:
            return g
        fusion = self._fusion("user")
        h: Tensor = fusion(g, fusion.encoder.missing.sum(0).expand(len(g), -1))
        return h

    @property
    def gate_means(self) -> dict[str, float]:
        """Mean γ per node type over the nodes that an edge reaches: the graph's share; {} under ``concat``."""
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
