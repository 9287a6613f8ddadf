"""XSimGCL: LightGCN with noisy layers in training and a contrastive loss between two of them (Yu et al. 2023).

    x_l = A(α) x_{l−1} + ε · sign(·) ⊙ u/‖u‖,  u uniform,      Z = 1/L · Σ_{l=1..L} x_l      (without x_0 = E)

InfoNCE contrasts Z of the batch's users and positive items with their vectors in layer ``contrast_layer``. Scores use
the same mean without noise. Relations propagate as in relational LightGCN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.core.hyperparameters import NonNegative, PositiveInt
from relrank.models.core.vector_model import Batch, add_noise
from relrank.models.graph.lightgcn import PropagationConfig, RelationalLightGCN


@dataclass(frozen=True, slots=True)
class XSimGCLConfig(PropagationConfig):
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
        """``contrast_layer`` must be one of the layers."""
        if config.contrast_layer > config.layers:
            raise InputError(
                "contrast layer does not exist",
                where=f"{where}, contrast_layer",
                expected=f"at most layers = {config.layers}",
                found=str(config.contrast_layer),
            )

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the noisy Z; those of the contrast layer are kept for ``contrastive_views``."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        x: Tensor = self.table
        total = torch.zeros_like(x)
        for layer in range(1, self.config.layers + 1):
            x = add_noise(self.blocks.product(x, self.alpha), self.config.noise, generator)
            total = total + x
            if layer == self.config.contrast_layer:
                self._contrasted = self.rows_of(x, batch)
        return self.rows_of(total / self.config.layers, batch)

    def contrastive_views(
        self, batch: Batch, users: Tensor, items: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Z and the contrast layer."""
        (layer_users, layer_items), self._contrasted = self._contrasted, None
        del batch
        return (users, layer_users), (items, layer_items)

    def propagate(self) -> Tensor:
        """Z without noise, [n_nodes, dim]."""
        x: Tensor = self.table
        total = torch.zeros_like(x)
        for _ in range(self.config.layers):
            x = self.blocks.product(x, self.alpha)
            total = total + x
        return total / int(self.config.layers)
