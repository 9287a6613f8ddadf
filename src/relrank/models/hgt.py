"""Heterogeneous graph transformer (Hu et al. 2020, eq. 3 to 5), by torch-geometric's ``HGTConv``.

    a_ij = softmax over all neighbours j of i, of all edge types, of μ_r · (Q_i · K_j A_r) / √d      for each head
    h_i' = α · O(gelu(Σ_j a_ij · V_j M_r)) + (1 − α) · h_i,      α = sigmoid(skip)

Q, K, V and O are linear maps [dim, dim] of a node's type, with d = dim / heads entries a head; A_r and M_r are [d, d]
and μ_r a number for each edge type and head, an edge type being one direction of one relation; each node type has one
skip. Edge weights are not read. The attention of a node is one softmax over all its edges, so a relation of many
edges has a larger share of it.

The layer has a non-linearity of its own, so nothing follows it. It has a way past it of its own, too, α; still
``residual`` is on: with α alone the mean of the neighbours drowns a node's own state, and validation is lower. V, M_r
and O start near the identity (O at twice, for gelu halves small numbers), so that a fresh network averages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from relrank.graph.blocks import Adjacency, Block
from relrank.graph.graph import Graph
from relrank.models.base import Knob
from relrank.models.layers import check_heads, glorot, near_identity, rows_by_type, type_of
from relrank.models.message_passing import MessagePassing, MessagePassingConfig
from relrank.models.space import Choice, Range


@dataclass(frozen=True, slots=True)
class HGTConfig(MessagePassingConfig):
    """Hyper-parameters of the heterogeneous graph transformer."""

    heads: int = 2
    """Heads of attention; they divide ``dim``."""


class TransformerLayer(nn.Module):
    """One ``HGTConv`` over a block."""

    def __init__(self, dim: int, adjacency: Adjacency, heads: int) -> None:
        super().__init__()
        from torch_geometric.nn import HGTConv  # seconds to import, and few need it

        self._types = adjacency.types
        ends = [(type_of(e.source, adjacency), type_of(e.destination, adjacency)) for e in adjacency.edge_types]
        self._keys = [(s, e.name, d) for e, (s, d) in zip(adjacency.edge_types, ends, strict=True)]
        self.conv = HGTConv(dim, dim, (list(self._types), self._keys), heads)

    def reset(self, generator: torch.Generator) -> None:
        """Q and K Glorot, values near the identity, no bias, every skip and μ at one."""
        conv = self.conv
        dim = conv.out_channels
        for node_type in self._types:
            kqv, out = conv.kqv_lin.lins[node_type], conv.out_lin.lins[node_type]
            keys = torch.cat([glorot((dim, dim), generator) for _ in range(2)])
            kqv.weight.copy_(torch.cat([keys, near_identity((dim, dim), generator)]))
            out.weight.copy_(2 * near_identity((dim, dim), generator))
            kqv.bias.zero_()
            out.bias.zero_()
            conv.skip[node_type].fill_(1)
        for relation in (conv.k_rel, conv.v_rel):
            relation.weight.copy_(near_identity(relation.weight.shape, generator))
        for prior in conv.p_rel.values():
            prior.fill_(1)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[n_src, dim] → [n_dst, dim]."""
        rows, place = rows_by_type(block.nodes, self._types)
        edges = {
            key: place[block.edge_index(k)] for k, key in enumerate(self._keys) if block.edges[k].indices.numel()
        }
        edges = edges or {self._keys[0]: place.new_zeros(2, 0)}  # it wants one edge type, if an empty one
        states = self.conv({t: x.index_select(0, here) for t, here in rows.items()}, edges)
        out = x.new_zeros(block.n_dst, x.shape[1])
        for node_type, here in rows.items():
            kept = here[: int((here < block.n_dst).sum())]
            out = out.index_add(0, kept, states[node_type][: len(kept)])
        return out


class HGT(MessagePassing):
    """Attention that knows the types of nodes and edges."""

    name = "hgt"
    Config = HGTConfig
    sweep_edges: ClassVar[int] = 1 << 18  # messages are made edge by edge

    @classmethod
    def space(cls, graph: Graph) -> tuple[Knob | Range | Choice, ...]:
        """As for every graph network, but its attention diverges at the rates that others like best."""
        rest = (d for d in super().space(graph) if d.name != "train.lr")
        return *rest, Range("train.lr", 1e-3, 1e-2, log=True)

    def layer(self, number: int) -> nn.Module:
        """The transformer layer."""
        del number
        check_heads(self.name, self.config.dim, self.config.heads)
        return TransformerLayer(self.config.dim, self.adjacency, self.config.heads)

    def _apply_layer(self, number: int, x: Tensor, block: Block) -> Tensor:
        out: Tensor = self.convs[number](x, block)
        return x[: block.n_dst] + out if self.config.residual else out
