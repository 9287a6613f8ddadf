"""GRU4Rec: a recurrent network over the history (Hidasi et al. 2016).

    x_t = √d · q_{s_t},      g_t = GRU(g_{t−1}, x_t) for each layer,      h_t = norm(g_t),      score(i) = h_t · q_i

Inputs and outputs share one table. One pass trains every position of a history, where the paper uses session-parallel
mini-batches and in-batch negatives; the loss is configurable as for every sequence model. There are no positions, so
a longer window only adds older items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relrank.graph.graph import Graph
from relrank.models.core.hyperparameters import PositiveInt
from relrank.models.core.layers import apply_dropout, glorot
from relrank.models.core.sequence_model import SequenceConfig, SequenceModel, Windows


@dataclass(frozen=True, slots=True)
class GRU4RecConfig(SequenceConfig):
    """Hyper-parameters of GRU4Rec."""

    layers: PositiveInt = 1
    """GRU layers; their states have ``dim`` entries."""


class GRU4Rec(SequenceModel):
    """GRU layers over the history."""

    name = "gru4rec"
    Config = GRU4RecConfig

    def __init__(self, graph: Graph, config: GRU4RecConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        # one module per layer: dropout inside a multi-layer GRU would use the global generator
        self.layers = nn.ModuleList([nn.GRU(c.dim, c.dim, batch_first=True) for _ in range(c.layers)])
        self.norm = nn.LayerNorm(c.dim)

    def init_encoder(self, generator: torch.Generator) -> None:
        """Glorot weights per gate, no bias; the norm at the identity."""
        dim = self.config.dim
        for name, parameter in self.layers.named_parameters():
            if "bias" in name:
                parameter.zero_()
            else:
                parameter.copy_(glorot((3, dim, dim), generator).view(3 * dim, dim))
        self.norm.weight.fill_(1)
        self.norm.bias.zero_()

    def states(self, x: Tensor, windows: Windows, generator: torch.Generator | None) -> Tensor:
        """The layers; they read from the left, so padding does not affect the items' states."""
        del windows
        c = self.config
        x = apply_dropout(x * c.dim**0.5, c.dropout, generator)
        for layer in self.layers:
            x = apply_dropout(layer(x)[0], c.dropout, generator)
        result: Tensor = self.norm(x)
        return result
