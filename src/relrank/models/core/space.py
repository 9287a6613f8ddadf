"""What a search may try: a range, or a choice. A ``GridParameter`` — a ladder of values — is the third kind."""

from __future__ import annotations

from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole numbers where both are.

    Attributes:
        name: field of the model's configuration, or ``"train.<field>"`` of the training settings.
        low: smallest value; a default below it is tried all the same.
        high: largest value; likewise.
        log: equal ratios are equally likely rather than equal differences; ``low`` and the default are then above 0
            (where 0 is worth a try, a ``GridParameter`` can have it on its ladder).
        step: distance of two neighbours, counted from ``low``; None for 1 (whole numbers) or any (others).
        when: an earlier name of the space and its values at which this one matters; None for always.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: tuple[str, tuple[Value, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values without an order.

    Attributes:
        name: as for ``Range``.
        values: what may be tried; a default that is not among them is tried all the same.
        when: as for ``Range``.
    """

    name: str
    values: tuple[Value, ...]
    when: tuple[str, tuple[Value, ...]] | None = None
