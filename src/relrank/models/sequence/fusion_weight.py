"""How much of an item a history reads as its own vector and how much as the graph's: α of a history, in (0, 1).

    item = α · (own vector) + (1 − α) · (vector from the graph)

Each class is one way in which α may depend on the length n of the history, or on what it says. All of them start at
stated values, which are values of α and not of something behind a sigmoid, and what is learned is a logit: its
gradient α (1 − α) is small near 0 and 1 but nowhere zero, and it moves either way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from relrank.errors import InputError
from relrank.graph.sequences import LENGTH_BOUNDS, LENGTH_GROUPS

KNOTS = (1, 3, 10, 30, 100, 300)
"""Lengths between which ``Piecewise`` is linear in log n."""
CENTRE = 30.0
"""Length at which ``Continuous`` has its stated value, whatever its slope."""


class FusionWeight(nn.Module, ABC):
    """α of histories."""

    @abstractmethod
    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """α [b, 1] for every history, or [b, L, 1] for every moment of it.

        Args:
            lengths: int64 [b], true lengths, 1 or more.
            states: [b, L, dim], what each moment says; read by ``Gated`` alone.
        """

    @abstractmethod
    def reset(self) -> None:
        """Parameters at their stated start; called without gradients."""


class Fixed(FusionWeight):
    """One α for all."""

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
    """One α for short histories (up to 10), one for medium (11 to 50), one for long ones."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.tensor(LENGTH_BOUNDS), persistent=False)
        self.bounds: Tensor

    @abstractmethod
    def alphas(self) -> Tensor:
        """α of each group [3]."""

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """The group's."""
        del states
        return self.alphas()[torch.bucketize(lengths, self.bounds)][:, None]


class Discrete(Grouped):
    """Fixed α of the three groups."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        if len(values) != len(LENGTH_GROUPS):
            raise InputError(
                "alphas do not fit the groups",
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
        """Those learned so far."""
        return self.logits.sigmoid()

    def reset(self) -> None:
        """All groups at the start."""
        self.logits.fill_(logit(self.start))


class Continuous(FusionWeight):
    """``σ(a + b · log(n / 30))``: a learned level and a learned slope, which starts at 0."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)
        self.level = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """By length."""
        del states
        return (self.level + self.slope * (lengths / CENTRE).to(self.level.dtype).log()).sigmoid()[:, None]

    def reset(self) -> None:
        """Level at the start, no slope."""
        self.level.fill_(logit(self.start))
        self.slope.zero_()


class Piecewise(FusionWeight):
    """A learned α at each of some lengths, linear in log n between them and constant beyond."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = checked(start)
        self.logits = nn.Parameter(torch.zeros(len(KNOTS)))
        self.register_buffer("knots", torch.tensor(KNOTS, dtype=torch.float64).log(), persistent=False)
        self.knots: Tensor

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """Between the two knots around n."""
        del states
        place = lengths.double().log().clamp(self.knots[0], self.knots[-1])
        right = torch.bucketize(place, self.knots).clamp(min=1)
        left = right - 1
        share = (place - self.knots[left]) / (self.knots[right] - self.knots[left])
        alpha = self.logits.sigmoid()
        share = share.to(alpha.dtype)
        return ((1 - share) * alpha[left] + share * alpha[right])[:, None]

    def reset(self) -> None:
        """All knots at the start."""
        self.logits.fill_(logit(self.start))


class Gated(FusionWeight):
    """``σ(w · s_t + b)`` of what the history says up to each moment; w starts at 0."""

    def __init__(self, start: float, dim: int) -> None:
        super().__init__()
        self.start = checked(start)
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, lengths: Tensor, states: Tensor | None = None) -> Tensor:
        """Of every moment."""
        del lengths
        assert states is not None, "a gate reads states"
        # no matrix product, which autocast would narrow to bfloat16: near a bound that has no gradient left
        return ((states * self.weight).sum(-1) + self.bias).sigmoid()[..., None]

    def reset(self) -> None:
        """The start for every state."""
        self.weight.zero_()
        self.bias.fill_(logit(self.start))


def make_fusion_weight(kind: str, start: float, values: Sequence[float], dim: int) -> FusionWeight:
    """The mixing of that name: ``fixed``, ``discrete``, ``per-bin``, ``continuous``, ``piecewise``, ``gated``."""
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
    raise ValueError(f"no mixing {kind!r}")


def logit(alpha: float) -> float:
    """θ with σ(θ) = α."""
    return float(torch.tensor(alpha, dtype=torch.float64).logit())


def checked(alpha: float) -> float:
    """The value itself, if it is in (0, 1).

    Raises:
        InputError: it is not; 1 would be a model without the graph, 0 one without vectors of its own.
    """
    if not 0 < alpha < 1:
        raise InputError("alpha is out of range", where="alpha", expected="above 0 and below 1", found=repr(alpha))
    return alpha
