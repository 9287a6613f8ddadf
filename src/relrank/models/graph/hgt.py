"""Heterogeneous graph transformer (Hu et al. 2020, eq. 3 to 5).

    a_ij = softmax_j(μ_r · (Q_i · K_j A_r) / √d), over the neighbours j of i in all edge types r         (each head)
    h_i' = α · O(gelu(Σ_j a_ij · V_j M_r)) + (1 − α) · h_i,      α = sigmoid(skip)

Q, K, V and O are linear maps [dim, dim] per node type, with d = dim / heads entries per head. A_r and M_r [d, d] and
the number μ_r belong to an edge type (one direction of one relation) and a head; each node type has one skip. Edge
weights are not used. A node has one softmax over all its edges, so that relations with many edges get a larger share.

The layer includes a non-linearity, so none follows it. ``residual`` is on although α is a skip connection: with α
alone, the neighbours' mean dominates a node's own state, and validation is lower. V and M_r start near the identity
and O near twice the identity, since gelu halves small numbers, so that an untrained network averages neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.graph.sampling.blocks import Adjacency, Block
from relrank.kernels.dot_attention import Neighbours, dot_attention, joined
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import PositiveInt
from relrank.models.core.layers import check_heads, glorot, near_identity, rows_by_type, type_of
from relrank.models.core.message_passing import MessagePassing, MessagePassingConfig
from relrank.models.core.search_dimensions import Choice, Range


@dataclass(frozen=True, slots=True)
class HGTConfig(MessagePassingConfig):
    """Hyper-parameters of the heterogeneous graph transformer."""

    heads: PositiveInt = 2
    """Attention heads; a divisor of ``dim``."""


class TransformerLayer(nn.Module):
    """One layer.

    Attributes:
        projections: [K, Q, V] per node type, each one linear layer dim → 3 · dim.
        outputs: O per node type.
        key_maps: A, [heads, edge types, d, d].
        value_maps: M, [heads, edge types, d, d].
        prior: μ, [edge types, heads].
        skip: [node types].
    """

    def __init__(self, dim: int, adjacency: Adjacency, heads: int) -> None:
        super().__init__()
        self._types, self._heads = adjacency.types, heads
        names = list(self._types)
        self._sources = [names.index(type_of(e.source, adjacency)) for e in adjacency.edge_types]
        n, d = len(self._sources), dim // heads
        self.projections = nn.ModuleList([nn.Linear(dim, 3 * dim) for _ in names])
        self.outputs = nn.ModuleList([nn.Linear(dim, dim) for _ in names])
        self.key_maps, self.value_maps = (nn.Parameter(torch.empty(heads, n, d, d)) for _ in range(2))
        self.prior = nn.Parameter(torch.empty(n, heads))
        self.skip = nn.Parameter(torch.empty(len(names)))

    def reset(self, generator: torch.Generator) -> None:
        """Q and K Glorot; V, A and M near the identity, O near twice it; no bias; skip and μ at one."""
        for projection, output in zip(self.projections, self.outputs, strict=True):
            assert isinstance(projection, nn.Linear)
            assert isinstance(output, nn.Linear)
            dim = output.in_features
            keys = torch.cat([glorot((dim, dim), generator) for _ in range(2)])
            projection.weight.copy_(torch.cat([keys, near_identity((dim, dim), generator)]))
            output.weight.copy_(2 * near_identity((dim, dim), generator))
            projection.bias.zero_()
            output.bias.zero_()
        for maps in (self.key_maps, self.value_maps):
            maps.copy_(near_identity(maps.shape, generator))
        self.skip.fill_(1)
        self.prior.fill_(1)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[n_src, dim] → [n_dst, dim]."""
        rows, index = rows_by_type(block.nodes, self._types)
        heads, dim = self._heads, x.shape[1]
        keys, queries, values = [], x.new_zeros(block.n_src, dim), []
        for here, projection in zip(rows.values(), self.projections, strict=True):
            key, query, value = projection(x.index_select(0, here)).chunk(3, dim=1)
            keys.append(key.view(-1, heads, dim // heads).transpose(0, 1))
            values.append(value.view(-1, heads, dim // heads).transpose(0, 1))
            queries = queries.index_add(0, here, query.to(x.dtype))
        tables, first, edges = [], 0, []
        index_of = index.cpu().numpy()
        for k, source in enumerate(self._sources):
            indptr, indices = (t.cpu().numpy() for t in block.edges[k][:2])
            edges.append((indptr, index_of[indices] + first))
            if indices.size:  # edge types without edges need no tables
                tables.append((keys[source] @ self.key_maps[:, k], values[source] @ self.value_maps[:, k]))
                first += keys[source].shape[1]
        attended = x.new_zeros(block.n_dst, dim)
        if tables:
            key, value = (torch.cat(parts, dim=1).transpose(0, 1) for parts in zip(*tables, strict=True))
            query = queries[: block.n_dst].view(-1, heads, dim // heads)
            neighbours = Neighbours(*joined(edges, block.n_dst))
            scale = (dim // heads) ** -0.5
            attended = dot_attention(query, key, value, self.prior, neighbours, scale).flatten(1).to(x.dtype)
        out = x.new_zeros(block.n_dst, dim)
        for t, (here, output) in enumerate(zip(rows.values(), self.outputs, strict=True)):
            dst = here[: int((here < block.n_dst).sum())]
            alpha = self.skip[t].sigmoid()
            state = output(functional.gelu(attended.index_select(0, dst))).to(x.dtype)
            out = out.index_add(0, dst, alpha * state + (1 - alpha) * x.index_select(0, dst))
        return out


class HGT(MessagePassing):
    """Heterogeneous graph transformer."""

    name = "hgt"
    Config = HGTConfig
    counts_zero_neighbours = True  # one softmax over all relations
    sweep_edges: ClassVar[int] = 1 << 18  # on other devices than CPUs, messages are materialised per edge

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every graph network, with smaller learning rates: its attention diverges at larger ones."""
        rest = (d for d in super().space(graph) if d.name != "train.lr")
        return *rest, Range("train.lr", 1e-3, 1e-2, log=True)

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """``heads`` must divide ``dim``."""
        check_heads(config, where)

    def layer(self) -> nn.Module:
        """The transformer layer."""
        return TransformerLayer(self.config.dim, self.adjacency, self.config.heads)

    def _apply_layer(self, number: int, x: Tensor, block: Block) -> Tensor:
        out: Tensor = self.convs[number](x, block)
        return x[: block.n_dst] + out if self.config.residual else out
