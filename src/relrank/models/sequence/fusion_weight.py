"""The mixing weight α ∈ (0, 1) of a history between free item vectors and vectors from the graph.

    item = α · (free vector) + (1 − α) · (vector from the graph)

Each class makes α depend on the length n of the history, or on its content. The initial values are values of α;
the learned parameters are logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relrank.errors import InputError
from relrank.graph.histories import LENGTH_BOUNDS, LENGTH_GROUPS

KNOTS = (1, 3, 10, 30, 100, 300)
"""Lengths between which ``Piecewise`` is linear in log n."""
CENTRE = 30.0
"""Length n at which α of ``Continuous`` does not depend on the slope."""


class FusionWeight(nn.Module, ABC):
    """α of histories."""

    @abstractmethod
    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """α [b, 1] of every history, or [b, L, 1] of every position.

        Args:
            lengths: int64 [b], lengths of the full histories, 1 or more.
            states: [b, L, dim], states of the positions; read by ``Gated`` alone.
        """

    @abstractmethod
    def reset(self) -> None:
        """Initialise the parameters; called without gradients."""


class Fixed(FusionWeight):
    """One constant α."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """The constant."""
        del states
        return torch.full((len(lengths), 1), self.start, device=lengths.device)

    def reset(self) -> None:
        """Nothing to do."""


class Grouped(FusionWeight):
    """One α each for short (up to 10 items), medium (11 to 50) and long histories."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.tensor(LENGTH_BOUNDS), persistent=False)
        self.bounds: Tensor

    @abstractmethod
    def alphas(self) -> Tensor:
        """α of each group [3]."""

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """α of the history's group."""
        del states
        return self.alphas()[torch.bucketize(lengths, self.bounds)][:, None]


class Discrete(Grouped):
    """Fixed α of the three groups."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        if len(values) != len(LENGTH_GROUPS):
            raise InputError(
                "wrong number of alphas",
                where="alphas",
                expected="short, medium, long",
                found=str([*values]),
            )
        self.register_buffer("values", torch.tensor([checked(v) for v in values]), persistent=False)
        self.values: Tensor

    def alphas(self) -> Tensor:
        """The constants."""
        return self.values

    def reset(self) -> None:
        """Nothing to do."""


class PerBin(Grouped):
    """Learned α of the three groups."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)
        self.logits = nn.Parameter(torch.zeros(len(LENGTH_GROUPS)))

    def alphas(self) -> Tensor:
        """The learned values."""
        return self.logits.sigmoid()

    def reset(self) -> None:
        """All groups at the initial α."""
        self.logits.fill_(logit(self.start))


class Continuous(FusionWeight):
    """``σ(a + b · log(n / 30))`` with a learned level a and a learned slope b, initially 0."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)
        self.level = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """α by length."""
        del states
        return (self.level + self.slope * (lengths / CENTRE).to(self.level.dtype).log()).sigmoid()[:, None]

    def reset(self) -> None:
        """Level at the initial α, slope 0."""
        self.level.fill_(logit(self.start))
        self.slope.zero_()


class Piecewise(FusionWeight):
    """A learned α at each of ``KNOTS``, linear in log n between them and constant beyond."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)
        self.logits = nn.Parameter(torch.zeros(len(KNOTS)))
        self.register_buffer("knots", torch.tensor(KNOTS, dtype=torch.float64).log(), persistent=False)
        self.knots: Tensor

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """Interpolation between the two knots around n."""
        del states
        log_n = lengths.double().log().clamp(self.knots[0], self.knots[-1])
        right = torch.bucketize(log_n, self.knots).clamp(min=1)
        left = right - 1
        share = (log_n - self.knots[left]) / (self.knots[right] - self.knots[left])
        alpha = self.logits.sigmoid()
        share = share.to(alpha.dtype)
        return ((1 - share) * alpha[left] + share * alpha[right])[:, None]

    def reset(self) -> None:
        """All knots at the initial α."""
        self.logits.fill_(logit(self.start))


class Gated(FusionWeight):
    """``σ(w · s_t + b)`` of the state s_t of each position; w is initially 0."""

    def __init__(self, start: float, dim: int) -> None:
        super().__init__()
        self.start = checked(start)
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """α of every position."""
        del lengths
        assert states is not None, "a gate reads states"
        # no matrix product: autocast would use bfloat16, which has no gradient left near 0 and 1
        return ((states * self.weight).sum(-1) + self.bias).sigmoid()[..., None]

    def reset(self) -> None:
        """The initial α for every state."""
        self.weight.zero_()
        self.bias.fill_(logit(self.start))


def make_fusion_weight(kind: str, start: float, values: Sequence[float], dim: int) -> FusionWeight:
    """The mixing weight by name: ``fixed``, ``discrete``, ``per-bin``, ``continuous``, ``piecewise``, ``gated``."""
    match kind:
        case "fixed":
            return Fixed(start)
        case "discrete":
            return Discrete(values)
        case "per-bin":
            return PerBin(start)
        case "continuous":
            return Continuous(start)
        case "piecewise":
            return Piecewise(start)
        case "gated":
            return Gated(start, dim)
    raise ValueError(f"unknown mixing {kind!r}")


def logit(alpha: float) -> float:
    """θ with σ(θ) = α."""
    return float(torch.tensor(alpha, dtype=torch.float64).logit())


def checked(alpha: float) -> float:
    """The value itself, if it is in (0, 1).

    Raises:
        InputError: it is not; 1 would ignore the graph, 0 the free vectors.
    """
    if not 0 < alpha < 1:
        raise InputError("alpha is out of range", where="alpha", expected="above 0 and below 1", found=repr(alpha))
    return alpha
