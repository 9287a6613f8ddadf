"""XSimGCL: LightGCN whose layers are noisy in training, with a contrast between two of them (Yu et al. 2023).

    x_l = A(α) x_{l−1} + ε · sign(·) ⊙ u/‖u‖,  u uniform,      Z = 1/L · Σ_{l=1..L} x_l      (x_0 = E is left out)

In training the final vectors Z of the batch's users and positive items are contrasted with those of layer
``contrast_layer`` by InfoNCE; scores come from the same sum without noise. Relations propagate as in relational
LightGCN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.core.hyperparameters import NonNegative, PositiveInt
from relrank.models.core.vectors import Batch, add_noise
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig


@dataclass(frozen=True, slots=True)
class XSimGCLConfig(RelationalLightGCNConfig):
    """Hyper-parameters of XSimGCL."""

    contrast: NonNegative = 0.1
    contrast_layer: PositiveInt = 1
    """The layer that the final vectors are contrasted with, 1 … L."""


class XSimGCL(RelationalLightGCN):
    """Contrastive LightGCN over interactions and relations."""

    name = "xsimgcl"
    Config = XSimGCLConfig

    def __init__(self, graph: Graph, config: XSimGCLConfig | None = None) -> None:
        super().__init__(graph, config)
        self._contrasted: Any = None

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """The layer that is contrasted with is there."""
        if config.contrast_layer > config.layers:
            raise InputError(
                "no such layer to contrast with",
                where=f"{where}, contrast_layer",
                expected=f"at most layers = {config.layers}",
                found=str(config.contrast_layer),
            )

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the noisy Z; the noisy layers are kept for ``contrastive_views``."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        x: Tensor = self.table
        total = torch.zeros_like(x)
        for layer in range(1, self.config.layers + 1):
            x = add_noise(self.blocks.product(x, self.alpha), self.config.noise, generator)
            total = total + x
            if layer == self.config.contrast_layer:
                self._contrasted = self._rows(x, batch)
        return self._rows(total / self.config.layers, batch)

    def contrastive_views(
        self, batch: Batch, users: Tensor, items: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The final vectors against those of one layer."""
        (own_users, own_items), self._contrasted = self._contrasted, None
        del batch
        return (users, own_users), (items, own_items)

    def propagate(self) -> Tensor:
        """Z without noise, [n_nodes, dim]."""
        x: Tensor = self.table
        total = torch.zeros_like(x)
        for _ in range(self.config.layers):
            x = self.blocks.product(x, self.alpha)
            total = total + x
        return total / int(self.config.layers)

    def _rows(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return z.index_select(0, batch.users), z.index_select(0, batch.items + self.graph.n_users)
