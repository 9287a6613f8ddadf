"""A learned filter of the latest inputs, beside self-attention.

    y_t = Σ_k w_k ⊙ x_{t−k},      k = 0 … K − 1, a weight per channel and distance

FMLP-Rec (Zhou et al., WWW 2022) replaces self-attention by a filter in the frequency domain, BSARec (Shin et al.,
AAAI 2024) adds one to it. Both multiply the Fourier transform of the whole window, which is a circular convolution:
each position also reads items that follow, so that only the last position can be trained. This one reads earlier
positions alone, and one forward pass trains all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NOISE = 0.02
"""Standard deviation of the initial weights around their means."""


class CausalFilter(nn.Module):
    """A causal convolution of every channel by itself.

    Args:
        dim: channels.
        length: K, inputs that an output reads.

    Attributes:
        kernel: w, [dim, 1, K]; the last weight is that of the position itself.
    """

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(dim, 1, length))

    def reset(self, generator: torch.Generator) -> None:
        """Weights that halve with every step back and sum to 1, and noise."""
        halving = 0.5 ** torch.arange(self.kernel.shape[2], dtype=torch.float32).flip(0)
        noise = torch.randn(self.kernel.shape, generator=generator) * NOISE
        self.kernel.copy_(halving / halving.sum() + noise)

    def forward(self, x: Tensor) -> Tensor:
        """[b, L, dim] → [b, L, dim]; padding on the right changes no earlier position."""
        length = min(self.kernel.shape[2], x.shape[1])
        padded = functional.pad(x.transpose(1, 2), (length - 1, 0))
        y: Tensor = functional.conv1d(padded, self.kernel[:, :, -length:], groups=x.shape[2])
        return y.transpose(1, 2)
