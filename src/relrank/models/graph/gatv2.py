"""GATv2 over relations (Brody, Alon & Yahav 2022, eq. 7).

    h_i' = W h_i + b + mean_{r: N_r(i) ≠ ∅} Σ_{j ∈ N_r(i)} a_ij · L_r h_j
    a_ij = softmax_{j ∈ N_r(i)}(v_r · leaky-relu(R_r h_i + L_r h_j + e_r log(1 + w_ij)))            (each head)

W, L_r and R_r are [dim, dim]; each head has dim / heads of the rows and of v_r [dim]. An edge type r is one direction
of one relation, with its own parameters; e_r [dim] exists if its edges have weights. Each edge type has its own
softmax and counts equally, so that a relation with many edges does not dominate.

W and L_r start near the identity and e_r near zero, so that an untrained network averages neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from relrank.errors import InputError
from relrank.graph.sampling.blocks import Adjacency, Block
from relrank.models.core.hyperparameters import PositiveInt
from relrank.models.core.layers import EdgeAttention, check_heads, near_identity, rows_by_type, type_of
from relrank.models.core.message_passing import MessagePassing, MessagePassingConfig


@dataclass(frozen=True, slots=True)
class GATv2Config(MessagePassingConfig):
    """Hyper-parameters of GATv2."""

    heads: PositiveInt = 2
    """Attention heads; a divisor of ``dim``."""


class AttentionLayer(nn.Module):
    """The mean of one attention per edge type.

    Attributes:
        own: W and b.
        edge_types: L_r, R_r, v_r and e_r.
    """

    def __init__(self, dim: int, adjacency: Adjacency, heads: int) -> None:
        super().__init__()
        self._types = adjacency.types
        self._sources = [type_of(e.source, adjacency) for e in adjacency.edge_types]
        self.own = nn.Linear(dim, dim)
        self.edge_types = nn.ModuleList(EdgeAttention(dim, heads, not e.unweighted) for e in adjacency.edge_types)

    def reset(self, generator: torch.Generator) -> None:
        """W near the identity, no bias; each edge type initialises itself."""
        dim = self.own.in_features
        self.own.weight.copy_(near_identity((dim, dim), generator))
        self.own.bias.zero_()
        for attention in self.edge_types:
            attention.reset(generator)  # type: ignore[operator]

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[n_src, dim] → [n_dst, dim]."""
        by_type, index = rows_by_type(block.nodes, self._types)
        index = index.int()
        total, n_edge_types = x.new_zeros(block.n_dst, x.shape[1]), x.new_zeros(block.n_dst, 1)
        for (indptr, indices, weight), attention, source in zip(
            block.edges, self.edge_types, self._sources, strict=True
        ):
            if indices.numel():
                rows = indptr.diff().nonzero()[:, 0]
                starts = torch.cat([indptr[rows], indptr[-1:]])
                ends = x.index_select(0, by_type[source]), x.index_select(0, rows)
                attended = attention(*ends, starts, index.index_select(0, indices), weight)
                total = total.index_add(0, rows, attended.to(x.dtype))
                n_edge_types[rows] += 1
        out: Tensor = self.own(x[: block.n_dst]) + total / n_edge_types.clamp(min=1)
        return out


class GATv2(MessagePassing):
    """GATv2 within each relation, averaged over relations."""

    name = "gatv2"
    Config = GATv2Config
    sweep_edges: ClassVar[int] = 1 << 18  # on other devices than CPUs, messages are materialised per edge

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """``heads`` must divide ``dim``; sampling by weight is not supported."""
        check_heads(config, where)
        if config.weighted:
            raise InputError(
                "attention already uses the edge weights", where=f"{where}, weighted", expected="false", found="true"
            )

    def layer(self) -> nn.Module:
        """The attention layer."""
        return AttentionLayer(self.config.dim, self.adjacency, self.config.heads)
