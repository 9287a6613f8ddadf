"""Tuning on validation: every arm of a model has the same budget of trials, spent the same way.

The search climbs the ladders of the model's knobs one knob at a time: first in strides, then in single steps, until
no single step helps or the budget is spent. Relation weights start at 0, so a relation has to earn its weight. The
search is deterministic, so arms that share knobs try the same values as long as those help, and what differs between
two arms is the graph rather than the luck of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relrank.models.base import Knob

STRIDE = 3

Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        values: knob name → value.
        metric: on validation, higher is better.
    """

    values: dict[str, float]
    metric: float


class _Spent(Exception):  # noqa: N818
    """The budget is used up."""


def climb(knobs: Sequence[Knob], budget: int, measure: Callable[[dict[str, float]], float]) -> list[Trial]:
    """Try up to ``budget`` configurations, fewer where no single step helps any more.

    Args:
        knobs: what may be moved, in the order in which it is moved.
        budget: configurations at most, at least 1.
        measure: validation metric of a configuration.

    Returns:
        All trials in the order in which they were made; the first is every knob at its start.
    """
    made: list[Trial] = []
    known: dict[Place, float] = {}

    def attempt(place: Place) -> float:
        if place not in known:
            if len(made) >= budget:
                raise _Spent
            values = {k.name: k.ladder[at] for k, at in zip(knobs, place, strict=True)}
            known[place] = measure(values)
            made.append(Trial(values, known[place]))
        return known[place]

    def walk(place: Place, number: int, stride: int) -> Place:
        """Along one knob, upwards as long as it helps, else downwards."""
        for direction in (stride, -stride):
            start = place
            while True:
                at = min(max(place[number] + direction, 0), len(knobs[number].ladder) - 1)
                step = (*place[:number], at, *place[number + 1 :])
                if step == place or not attempt(step) > known[place]:  # a metric that is no number helps nobody
                    break
                place = step
            if place != start:
                break
        return place

    place = tuple(k.ladder.index(k.start) for k in knobs)
    try:
        attempt(place)
        strides: tuple[int, ...] = (STRIDE, 1)
        while True:
            before = place
            for number in range(len(knobs)):
                for stride in strides:
                    place = walk(place, number, stride)
            if place == before:
                break
            strides = (1,)
    except _Spent:
        pass
    return made


def best_of(trials: Sequence[Trial]) -> Trial:
    """The trial with the highest metric, the earliest of several."""
    return max(trials, key=lambda t: t.metric)
