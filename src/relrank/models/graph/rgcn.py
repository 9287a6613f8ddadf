"""R-GCN (Schlichtkrull et al. 2018, eq. 2 and 3), on sampled neighbours or the full graph.

    h_i' = W₀ h_i + b + Σ_r W_r · mean_{j ∈ N_r(i)} h_j,      W_r = Σ_b a_rb V_b

An edge type r is one direction of one relation; W₀ and W_r are [dim, dim]; with ``bases = 0`` every W_r is free.
Means are weighted by the edges. Neighbours are averaged first and multiplied by W_r once per node.

W₀ starts near the identity, and W_r near the identity divided by the number of edge types with the same destination
type, so that an untrained network averages its relations.
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
    """Number of shared matrices V_b; 0 gives each edge type its own matrix."""


class RelationalLayer(nn.Module):
    """One layer with a matrix per edge type.

    Attributes:
        own: W₀ and b.
        matrices: V_b or W_r, [bases or edge types, dim, dim]; row vectors are multiplied from the left.
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
        """W₀ near the identity, W_r near a mean over the relations."""
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
                # CSR of the rows with edges; the others have no indices
                rows = indptr.diff().nonzero()[:, 0]
                starts = torch.cat([indptr[:1], indptr[rows + 1]])
                out = out.index_add(0, rows, neighbour_mean(x, Edges(starts, indices, weight)) @ matrix)
        return out


class RGCN(MessagePassing):
    """R-GCN over all relations."""

    name = "rgcn"
    Config = RGCNConfig

    def layer(self) -> nn.Module:
        """The relational layer."""
        return RelationalLayer(self.config.dim, self.adjacency, self.config.bases)
