"""R-GCN (Schlichtkrull et al. 2018, eq. 2 and 3), on sampled neighbours or the whole graph.

    h_i' = W₀ h_i + b + Σ_r W_r · mean_{j ∈ N_r(i)} h_j,      W_r = Σ_b a_rb V_b

An edge type r is one direction of one relation, W₀ and W_r are [dim, dim]; with ``bases = 0`` every W_r is free.
Means are weighted by the edges. A mean commutes with a matrix, so neighbours are averaged first and multiplied once
per node that has some, never edge by edge.

W₀ starts near the identity and W_r near the identity divided by the number of edge types that arrive at its kind of
node, so that a fresh network averages its relations instead of scrambling or swelling with their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relrank.graph.aggregation import neighbour_mean
from relrank.graph.sampling.blocks import Adjacency, Block, Edges
from relrank.models.core.hyperparameters import NonNegativeInt
from relrank.models.core.message_passing import MessagePassing, MessagePassingConfig


@dataclass(frozen=True, slots=True)
class RGCNConfig(MessagePassingConfig):
    """Hyper-parameters of R-GCN."""

    bases: NonNegativeInt = 0
    """Matrices V_b that the edge types share; 0 gives each edge type a matrix of its own."""


class RelationalLayer(nn.Module):
    """One layer with a matrix for every edge type.

    Attributes:
        own: W₀ and b.
        matrices: V_b or W_r, [bases or edge types, dim, dim]; a row of vectors is multiplied from the left.
        shares: a_rb, [edge types, bases], or None.
    """

    def __init__(self, dim: int, adjacency: Adjacency, bases: int) -> None:
        super().__init__()
        kinds = [e.destination for e in adjacency.edge_types]
        self._arriving = torch.tensor([1.0 / kinds.count(k) for k in kinds])
        self.own = nn.Linear(dim, dim)
        self.matrices = nn.Parameter(torch.zeros(bases or len(kinds), dim, dim))
        self.shares = nn.Parameter(torch.zeros(len(kinds), bases)) if bases else None

    def reset(self, generator: torch.Generator) -> None:
        """Near the identity, near the mean of the relations."""
        n, dim, _ = self.matrices.shape
        noise = torch.randn(n + 1, dim, dim, generator=generator) * 0.1 / dim**0.5
        near = torch.eye(dim) + noise
        self.own.weight.copy_(near[0])
        self.own.bias.zero_()
        if self.shares is None:
            self.matrices.copy_(near[1:] * self._arriving[:, None, None])
        else:
            self.matrices.copy_(near[1:])
            uneven = 1 + 0.1 * torch.randn(self.shares.shape, generator=generator)
            self.shares.copy_(self._arriving[:, None] * uneven / n)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        """[n_src, dim] → [n_dst, dim]."""
        matrices = self.matrices if self.shares is None else torch.einsum("rb,bij->rij", self.shares, self.matrices)
        out: Tensor = self.own(x[: block.n_dst])
        for (indptr, indices, weight), matrix in zip(block.edges, matrices, strict=True):
            if indices.numel():
                # rows without edges take no room among indices, so they may just be passed over
                rows = indptr.diff().nonzero()[:, 0]
                some = torch.cat([indptr[:1], indptr[rows + 1]])
                out = out.index_add(0, rows, neighbour_mean(x, Edges(some, indices, weight)) @ matrix)
        return out


class RGCN(MessagePassing):
    """Means of neighbours, through a matrix for every edge type."""

    name = "rgcn"
    Config = RGCNConfig

    def layer(self, number: int) -> nn.Module:
        """The relational layer."""
        del number
        return RelationalLayer(self.config.dim, self.adjacency, self.config.bases)
