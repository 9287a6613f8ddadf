"""Matrix factorisation: one free vector per user and per item, ``s_ui = e_u · e_i`` (Rendle et al. 2009 with BPR).

A user unseen during training gets the least-squares solution with the items fixed (Hu, Koren & Volinsky 2008, eq. 4),

    e_u = (Σ_{i ∈ H} e_i e_iᵀ + w (Σ_i e_i e_iᵀ / |I| + I))⁻¹ Σ_{i ∈ H} e_i,      w = ``fold_in_weight``

with ones for the history H and zeros elsewhere, whose total weight is w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import rows_times_dense
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import NonNegative, Positive, PositiveInt
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import Batch, Loss, Similarity, VectorConfig, VectorModel


@dataclass(frozen=True, slots=True)
class MFConfig(VectorConfig):
    """Hyper-parameters of matrix factorisation; BPR with one uniform negative per edge by default."""

    loss: Loss = "bpr"
    similarity: Similarity = "dot"
    temperature: Positive = 1.0
    negatives: PositiveInt = 1
    shared: bool = False
    l2: NonNegative = 1e-3
    fold_in_weight: Positive = 0.1
    """w, total weight of the zeros, and of the ridge penalty, when a user is folded in."""


class MF(VectorModel):
    """Free vectors of users and items; ``table`` has the users' rows first."""

    name = "mf"
    Config = MFConfig

    def __init__(self, graph: Graph, config: MFConfig | None = None) -> None:
        super().__init__(graph, config)
        self.table = nn.Parameter(torch.zeros(graph.n_users + graph.n_items, self.config.dim))

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The L2 penalty."""
        del graph
        return (GridParameter("l2", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), 1e-3),)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every encoder, without the sampling: negatives per edge cannot be in-batch."""
        return tuple(d for d in super().space(graph) if d.name != "sampling")

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the table."""
        return self.rows_of(self.table, batch)

    def penalised_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the table."""
        return self.encode(batch)

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """The table."""
        n = self.graph.n_users
        return self.table.detach()[:n].clone(), self.table.detach()[n:].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """The least-squares solution of each history."""
        items = self._items
        w, eye = self.config.fold_in_weight, torch.eye(items.shape[1], device=items.device)
        catalogue = w * (items.T @ items / self.graph.n_items + eye)
        sums = torch.from_numpy(rows_times_dense(rows, items.cpu().numpy())).to(items)
        flat = items[torch.from_numpy(rows.indices).long().to(items.device)]
        users = torch.empty_like(sums)
        for number, history in enumerate(torch.split(flat, rows.degrees().tolist())):
            users[number] = torch.linalg.solve(catalogue + history.T @ history, sums[number])
        return users
