"""GraphSAGE with mean aggregation (Hamilton, Ying & Leskovec 2017, alg. 1), on sampled neighbours or the full graph.

    h_i' = W₁ h_i + W₂ · mean_{r: N_r(i) ≠ ∅} (mean_{j ∈ N_r(i)} h_j)

The matrices are shared by all relations, and each relation of a node counts equally, so that one with millions of
edges does not dominate. With one relation and ``residual = false`` it is the published layer, without normalising the
states. Both matrices start near the identity, so that an untrained network averages neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relrank.graph.aggregation import neighbour_mean
from relrank.graph.sampling.blocks import Block
from relrank.models.core.message_passing import MessagePassing, MessagePassingConfig


@dataclass(frozen=True, slots=True)
class GraphSAGEConfig(MessagePassingConfig):
    """Hyper-parameters of GraphSAGE."""


class MeanLayer(nn.Module):
    """One layer, shared by all relations.

    Attributes:
        own: W₁ and a bias.
        neighbours: W₂.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(dim, dim)
        self.neighbours = nn.Linear(dim, dim, bias=False)

    def reset(self, generator: torch.Generator) -> None:
        """Both matrices near the identity, no bias."""
        dim = self.own.in_features
        for linear in (self.own, self.neighbours):
            noise = torch.randn(dim, dim, generator=generator) * 0.1 / dim**0.5
            linear.weight.copy_(torch.eye(dim) + noise)
        self.own.bias.zero_()

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[n_src, dim] → [n_dst, dim]."""
        total, n_relations = x.new_zeros(block.n_dst, x.shape[1]), x.new_zeros(block.n_dst, 1)
        for edges in block.edges:
            if edges.indices.numel():
                total = total + neighbour_mean(x, edges)
                n_relations = n_relations + (edges.indptr.diff() > 0)[:, None]
        out: Tensor = self.own(x[: block.n_dst]) + self.neighbours(total / n_relations.clamp(min=1))
        return out


class GraphSAGE(MessagePassing):
    """GraphSAGE over all relations."""

    name = "graphsage"
    Config = GraphSAGEConfig

    def layer(self) -> nn.Module:
        """The mean layer."""
        return MeanLayer(self.config.dim)
