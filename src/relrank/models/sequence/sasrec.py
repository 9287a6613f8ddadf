"""SASRec: a causal transformer over the history (Kang & McAuley 2018), with the norm before each part.

    x_t = √d · q_{s_t} + p_{place(t)}
    x ← x + attention(norm(x)),      x ← x + W₂ gelu(W₁ norm(x)),      for each layer
    h_t = norm(x_t),      score(i) = h_t · q_i

Places are counted from the end of the window. Published figures with one negative and binary cross-entropy are far
below those of a softmax over the catalogue (Petrov & Macdonald 2023; Klenitskiy & Vasilev 2023), so that is the
default here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.models.core.hyperparameters import PositiveInt
from relrank.models.core.layers import apply_dropout, check_heads
from relrank.models.core.sequence import SequenceConfig, SequenceModel, Windows, places


@dataclass(frozen=True, slots=True)
class SASRecConfig(SequenceConfig):
    """Hyper-parameters of SASRec."""

    layers: PositiveInt = 2
    """Transformer layers."""
    heads: PositiveInt = 2
    """Heads of attention; they divide ``dim``."""
    widening: PositiveInt = 4
    """Width of the feed-forward part, in multiples of ``dim``."""


class TransformerLayer(nn.Module):
    """Attention and a feed-forward part, each after a norm and beside a way past it."""

    def __init__(self, dim: int, heads: int, widening: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, widening * dim), nn.Linear(widening * dim, dim)

    def reset(self, generator: torch.Generator, std: float) -> None:
        """Normal weights, no bias; norms at one."""
        for norm in (self.norm, self.norm_forward):
            norm.weight.fill_(1)
            norm.bias.zero_()
        for linear in (self.attend, self.merge, self.widen, self.narrow):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * std)
            linear.bias.zero_()

    def forward(self, x: Tensor, mask: Tensor | None, dropout: float, generator: torch.Generator | None) -> Tensor:
        """[b, L, dim] → [b, L, dim].

        Args:
            x: the inputs.
            mask: bool [b, 1, 1, L], True at what may be attended to; None: everything up to the moment itself.
            dropout: share of entries.
            generator: of the dropout; None for none.
        """
        b, length, dim = x.shape
        parts = self.attend(self.norm(x)).view(b, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if x.device.type == "cpu" and query.dtype == torch.bfloat16:  # whose gradient is three times slower there
            query, key, value = query.float(), key.float(), value.float()
        with torch.autocast(
            x.device.type, enabled=x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type)
        ):
            attended = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
        x = x + apply_dropout(self.merge(attended.transpose(1, 2).reshape(b, length, dim)), dropout, generator)
        wide = functional.gelu(self.widen(self.norm_forward(x)))
        return x + apply_dropout(self.narrow(wide), dropout, generator)


class Transformer(SequenceModel):
    """Layers of attention over the window; whether a moment sees what follows is the subclass's matter."""

    Config: ClassVar[type] = SASRecConfig
    causal: ClassVar[bool] = True

    def __init__(self, graph: Graph, config: SASRecConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.places = nn.Parameter(torch.zeros(c.window, c.dim))
        self.blocks = nn.ModuleList([TransformerLayer(c.dim, c.heads, c.widening) for _ in range(c.layers)])
        self.norm = nn.LayerNorm(c.dim)

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Heads divide the vector."""
        check_heads(config, where)

    def init_encoder(self, generator: torch.Generator) -> None:
        """Normal places and weights; norms at one."""
        self.places.copy_(torch.randn(self.places.shape, generator=generator) * self.config.init_scale)
        for block in self.blocks:
            assert isinstance(block, TransformerLayer)
            block.reset(generator, self.config.init_scale)
        self.norm.weight.fill_(1)
        self.norm.bias.zero_()

    def states(self, x: Tensor, windows: Windows, generator: torch.Generator | None) -> Tensor:
        """The layers."""
        c = self.config
        x = x * c.dim**0.5 + functional.embedding(places(windows, c.window), self.places)
        x = apply_dropout(x, c.dropout, generator)
        mask = None
        if not self.causal:
            mask = (torch.arange(x.shape[1], device=x.device) < windows.n_valid[:, None])[:, None, None]
        for block in self.blocks:
            x = block(x, mask, c.dropout, generator)
        result: Tensor = self.norm(x)
        return result


class SASRec(Transformer):
    """A causal transformer over the history."""

    name = "sasrec"
