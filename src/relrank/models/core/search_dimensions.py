"""Dimensions of a search space: ranges and choices. ``GridParameter``, a grid of values, is the third kind."""

from __future__ import annotations

from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; integers if both are.

    Attributes:
        name: field of the model's configuration, or ``"train.<field>"`` of the training settings.
        low: smallest value; a smaller default is tried, too.
        high: largest value; a larger default is tried, too.
        log: whether to sample on a log scale; ``low`` and the default must then be above 0 (use a ``GridParameter``
            to include 0).
        step: distance of neighbouring values, counted from ``low``; None for 1 (integers) or any (others).
        when: an earlier name of the space and the values for which this parameter matters; None for always.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: tuple[str, tuple[Value, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several unordered values.

    Attributes:
        name: as for ``Range``.
        values: values to try; a default that is not among them is tried, too.
        when: as for ``Range``.
    """

    name: str
    values: tuple[Value, ...]
    when: tuple[str, tuple[Value, ...]] | None = None
