"""SASRec: a causal transformer over the history (Kang & McAuley 2018).

    x_t = √d · q_{s_t} + p_{pos(t)}                               (eq. 1; √d from the authors' code)
    x ← x + Dropout(SA(LayerNorm(x)))                             (section 3.3, in each layer)
    x ← x + Dropout(FFN(LayerNorm(x)))
    SA(x) = softmax(Q Kᵀ / √d_head) V · W_O                       (eq. 2 and 3, each head; there without W_O)
    [Q, K, V] = x [W_Q, W_K, W_V]
    FFN(x) = W₂ gelu(W₁ x + b₁) + b₂                              (eq. 4, there with ReLU)
    h_t = LayerNorm(x_t),  score(i) = h_t · q_i                   (eq. 6)

With ``filter_share`` s > 0, s · F(x) + (1 − s) · SA(x) takes the place of SA(x) in each layer; F is a learned causal
filter (``causal_filter``).

q is ``table``, shared by input and output. Windows are aligned on the right, as with the paper's padding on the left:
the latest item is always at the last position. The default loss is the softmax over the catalogue: with the paper's
binary cross-entropy and one negative, accuracy is far lower (Petrov & Macdonald 2023; Klenitskiy & Vasilev 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import DropFraction, PositiveInt
from relrank.models.core.layers import apply_dropout, check_heads
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.sequence_model import SequenceConfig, SequenceModel, Windows, positions
from relrank.models.sequence.causal_filter import CausalFilter


@dataclass(frozen=True, slots=True)
class SASRecConfig(SequenceConfig):
    """Hyper-parameters of SASRec."""

    layers: PositiveInt = 2
    """Transformer layers."""
    heads: PositiveInt = 2
    """Attention heads; a divisor of ``dim``."""
    widening: PositiveInt = 4
    """Hidden width of the feed-forward network, in multiples of ``dim``."""
    filter_share: DropFraction = 0.0
    """Weight of a learned filter of the latest inputs beside self-attention, which has the rest; 0 is SASRec. When
    training starts the filter dominates at any share, since attention begins near 0."""
    filter_length: PositiveInt = 50
    """Inputs that the filter reads."""


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each pre-norm with a residual connection.

    Attributes:
        attend: [W_Q, W_K, W_V], one linear layer dim → 3 · dim.
        merge: W_O.
        widen: W₁, b₁.
        narrow: W₂, b₂.
        filter: F; None if its share is 0.
    """

    def __init__(
        self, dim: int, heads: int, widening: int, filter_share: float = 0.0, filter_length: int = 1
    ) -> None:
        super().__init__()
        self.heads, self.filter_share = heads, filter_share
        self.filter = CausalFilter(dim, filter_length) if filter_share else None
        self.norm, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.widen, self.narrow = nn.Linear(dim, widening * dim), nn.Linear(widening * dim, dim)

    def reset(self, generator: torch.Generator, std: float) -> None:
        """Normal weights, zero biases; norms at the identity."""
        for norm in (self.norm, self.norm_forward):
            norm.weight.fill_(1)
            norm.bias.zero_()
        for linear in (self.attend, self.merge, self.widen, self.narrow):
            linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * std)
            linear.bias.zero_()
        if self.filter is not None:
            self.filter.reset(generator)

    def forward(self, x: Tensor, mask: Tensor | None, dropout: float, generator: torch.Generator | None) -> Tensor:
        """[b, L, dim] → [b, L, dim].

        Args:
            x: the inputs.
            mask: bool [b, 1, 1, L], True at positions that may be attended to; None for causal attention.
            dropout: share of entries.
            generator: of the dropout; None disables it.
        """
        x = x + apply_dropout(self.mix(self.norm(x), mask), dropout, generator)
        return x + apply_dropout(self.feed_forward(self.norm_forward(x)), dropout, generator)

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention, of which the filter has a share: s · F(x) + (1 − s) · SA(x), [b, L, dim]."""
        attended = self.self_attention(x, mask)
        if self.filter is None:
            return attended
        mixed: Tensor = self.filter_share * self.filter(x) + (1 - self.filter_share) * attended
        return mixed

    def self_attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(Q Kᵀ / √d_head) V · W_O, [b, L, dim]."""
        b, length, dim = x.shape
        qkv = self.attend(x).view(b, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if x.device.type == "cpu" and query.dtype == torch.bfloat16:  # its backward pass is three times slower
            query, key, value = query.float(), key.float(), value.float()
        with torch.autocast(
            x.device.type, enabled=x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type)
        ):
            attended = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
        merged: Tensor = self.merge(attended.transpose(1, 2).reshape(b, length, dim))
        return merged

    def feed_forward(self, x: Tensor) -> Tensor:
        """W₂ gelu(W₁ x + b₁) + b₂, [b, L, dim]."""
        out: Tensor = self.narrow(functional.gelu(self.widen(x)))
        return out


class Transformer(SequenceModel):
    """Transformer layers over the window.

    Attributes:
        causal: whether a position attends only to itself and earlier ones.
        places: position embeddings p, [window, dim].
    """

    Config: ClassVar[type] = SASRecConfig
    causal: ClassVar[bool] = True

    def __init__(self, graph: Graph, config: SASRecConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.places = nn.Parameter(torch.zeros(c.window, c.dim))
        layer = partial(TransformerLayer, c.dim, c.heads, c.widening, c.filter_share, c.filter_length)
        self.blocks = nn.ModuleList([layer() for _ in range(c.layers)])
        self.norm = nn.LayerNorm(c.dim)

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """``heads`` must divide ``dim``; without a filter its length has no effect."""
        check_heads(config, where)
        if not config.filter_share and config.filter_length != SASRecConfig().filter_length:
            raise InputError(
                "setting has no effect here",
                where=f"{where}, filter_length",
                expected="filter_share above 0, or no filter_length",
                found=f"filter_length = {config.filter_length} and filter_share = 0",
            )

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every sequence model; with causal attention, also the share of the filter."""
        return *super().space(graph), *([Choice("filter_share", (0.0, 0.3, 0.5, 0.7))] if cls.causal else [])

    def init_encoder(self, generator: torch.Generator) -> None:
        """Normal position embeddings and weights; norms at the identity."""
        self.places.copy_(torch.randn(self.places.shape, generator=generator) * self.config.init_scale)
        for block in self.blocks:
            assert isinstance(block, TransformerLayer)
            block.reset(generator, self.config.init_scale)
        self.norm.weight.fill_(1)
        self.norm.bias.zero_()

    def states(self, x: Tensor, windows: Windows, generator: torch.Generator | None) -> Tensor:
        """States h of every position: embeddings [b, L, dim] → [b, L, dim]."""
        c = self.config
        x = x * c.dim**0.5 + functional.embedding(positions(windows, c.window), self.places)
        x = apply_dropout(x, c.dropout, generator)
        mask = None
        if not self.causal:
            mask = (torch.arange(x.shape[1], device=x.device) < windows.n_valid[:, None])[:, None, None]
        for block in self.blocks:
            x = block(x, mask, c.dropout, generator)
        h: Tensor = self.norm(x)
        return h


class SASRec(Transformer):
    """A causal transformer over the history."""

    name = "sasrec"
