"""Tuning on validation: every arm of a model has the same budget of trials, spent the same way.

The search climbs the ladders of the model's knobs one knob at a time: first in strides, then in single steps, until
no single step is worth it or the budget is spent. Knobs of one group, such as the weights of all relations, are moved
together first, then each; at the end each goes back to its start where that costs less than a step is worth. Relation
weights start at 0, so a relation has to earn its weight.
The search is deterministic, so arms that share knobs try the same values as long as those help, and what differs
between two arms is the graph rather than the luck of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from relrank.models.base import Knob

STRIDE = 3
"""Ladder steps of the first, coarse walk along a knob."""
WORTH = 1e-3
"""A step has to improve the metric by this share of it: less is chasing the noise of validation."""

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


@dataclass(frozen=True, slots=True)
class Climb:
    """A search and where it ended.

    Attributes:
        trials: in the order in which they were made; the first is every knob at its start.
        chosen: index of the trial where the search stood at its end.
        finished: whether no single step was worth it; False where the budget ran out before that was known.
    """

    trials: tuple[Trial, ...]
    chosen: int
    finished: bool


class _Spent(Exception):  # noqa: N818
    """The budget is used up."""


def climb(
    knobs: Sequence[Knob], budget: int, measure: Callable[[dict[str, float]], float], worth: float = WORTH
) -> Climb:
    """Try up to ``budget`` configurations, fewer where no single step is worth it any more.

    Args:
        knobs: what may be moved, in the order in which it is moved.
        budget: configurations at most, at least 1.
        measure: validation metric of a configuration.
        worth: smallest relative improvement that moves the search.
    """
    made: list[Trial] = []
    known: dict[Place, int] = {}

    def attempt(place: Place) -> float:
        if place not in known:
            if len(made) >= budget:
                raise _Spent
            values = {k.name: k.ladder[at] for k, at in zip(knobs, place, strict=True)}
            made.append(Trial(values, measure(values)))
            known[place] = len(made) - 1
        return made[known[place]].metric

    place = tuple(k.ladder.index(k.start) for k in knobs)

    def walk(numbers: Sequence[int], stride: int) -> None:
        """Along one knob, or several at once, upwards as long as it is worth it, else downwards."""
        nonlocal place
        for direction in (stride, -stride):
            start = place
            while True:
                step = tuple(
                    min(max(at + direction, 0), len(knobs[number].ladder) - 1) if number in numbers else at
                    for number, at in enumerate(place)
                )
                here = attempt(place)
                if step == place or attempt(step) <= here + worth * abs(here):
                    break
                place = step
            if place != start:
                break

    walks = _walks(knobs)
    finished = False
    try:
        attempt(place)
        strides: tuple[int, ...] = (STRIDE, 1)
        while not finished:
            before = place
            for numbers in walks:
                for stride in strides:
                    if stride == 1 or all(knobs[number].strides for number in numbers):
                        walk(numbers, stride)
            finished = place == before
            strides = (1,)
        for number, knob in enumerate(knobs):
            # what was moved with its group has to be worth its place by itself
            bare = (*place[:number], knob.ladder.index(knob.start), *place[number + 1 :])
            if knob.group and attempt(bare) >= attempt(place) - worth * abs(attempt(place)):
                place = bare
    except _Spent:
        finished = False
    return Climb(tuple(made), known[place], finished)


def _walks(knobs: Sequence[Knob]) -> list[tuple[int, ...]]:
    """Numbers of the knobs that are moved together, in order: a group of several before its first knob."""
    walks: list[tuple[int, ...]] = []
    for number, knob in enumerate(knobs):
        together = tuple(n for n, other in enumerate(knobs) if knob.group and other.group == knob.group)
        if len(together) > 1 and together[0] == number:
            walks.append(together)
        walks.append((number,))
    return walks
