"""Tuning on validation: every arm of a model has the same budget of trials, spent the same way.

The search climbs the ladders of the model's knobs one knob at a time: first in strides, then in single steps, until
no single step is worth it or the budget is spent. Knobs of one group, such as the weights of all relations, are moved
together first, then each; at the end each goes back to its start where staying is not worth a step. Relation weights
start at 0, so a relation has to earn its weight.

A step is worth it where the mean over validation users rises by more than the standard error of their paired
differences: smaller ones are mostly the noise of validation, and arms that follow it end in settings that differ by
luck. An arm begins where the arms that it contains ended (``study.nesting``), and what was found there is moved in
single steps only. Where a model has a published setting as its limit, a search from there is chosen unless another
end is better by that error: few validation users tell many settings apart by luck alone. A search with all relations
also makes the search of every arm that lacks one of them, and goes on from there where that one is better: more
relations never validate worse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relrank.models.core.base import GridParameter

STRIDE = 3
"""Ladder steps of the first, coarse walk along a knob."""
MIN_RELATIVE_GAIN = 1e-3
"""A step has to improve the metric by this share of it, however certain it is."""
SEARCH_VERSION = 6
"""Goes up where searches change what they choose, so that results of earlier ones are not taken for theirs."""
MIN_STANDARD_ERRORS = 1.0
"""A step has to improve the metric by so many standard errors of its paired differences."""

Place = tuple[int, ...]
Metrics = npt.NDArray[np.floating]
"""A metric of every validation user, [n_users], in one order for all trials."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        values: knob name → value.
        metric: mean over the validation users, higher is better.
        error: standard error of its paired difference to the search's first trial; 0 for that one.
    """

    values: dict[str, float]
    metric: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A search and where it ended.

    Attributes:
        trials: in the order in which they were made; the first is where the search began.
        chosen: index of the trial where the search stood at its end.
        finished: whether no single step was worth it; False where the budget ran out before that was known.
    """

    trials: tuple[Trial, ...]
    chosen: int
    finished: bool


def paired_error(one: Metrics, other: Metrics) -> float:
    """Standard error of the mean of paired differences; 0 for fewer than two pairs."""
    return float(np.std(one - other, ddof=1) / np.sqrt(one.size)) if one.size > 1 else 0.0


def value_of(config: Mapping[str, Any], knob: str) -> Any:
    """A knob's value in hyper-parameters as stored; None where they have none."""
    field, _, entry = knob.partition(".")
    return config.get(field, {}).get(entry) if entry else config.get(field)


class _Spent(Exception):  # noqa: N818
    """The budget is used up."""


def coordinate_search(
    grid_parameters: Sequence[GridParameter],
    budget: int,
    measure: Callable[[dict[str, float]], Metrics | float],
    worth: float = MIN_RELATIVE_GAIN,
    starts: Sequence[Mapping[str, float]] = (),
    without: Collection[str] = (),
    reference: Mapping[str, float] | None = None,
) -> SearchResult:
    """Try up to ``budget`` configurations, fewer where no single step is worth it any more.

    Args:
        grid_parameters: what may be moved, in the order in which it is moved.
        budget: configurations at most, at least 1.
        measure: validation metric of a configuration, of every user; or its mean, which then is taken as certain.
        worth: smallest relative improvement that moves the search.
        starts: values of knobs where the search begins, in place of their own, and further ones: from any of these
            that is better than where the search ended it goes on. It never ends below one of them that it tried.
        without: names of knobs, weights of relations, that other arms lack. The search that such an arm makes from
            where this one ended is made here, too, with a budget of its own, and this one never ends below it, even
            where its own budget ran out.
        reference: values of knobs of a published setting. A search begins there, too, with a budget of its own, and
            what it ends in is chosen unless the other end is better by more than the standard error; only then may
            a search end below one of ``starts``.
    """
    hill = _Hill(grid_parameters, measure, worth)
    begins = [hill.place(values) for values in (starts or [{}])]
    every = {k.name for k in grid_parameters}
    tried: dict[Place, None] = {}
    numbers = range(len(grid_parameters))
    place, finished = hill.search(numbers, begins, starts[0] if starts else {}, budget, tried)
    while without:
        ends = [
            hill.search([n for n in numbers if n != number], [hill.bare(place, number)], every, budget, {})[0]
            for number in numbers
            if grid_parameters[number].name in without  # with weight 0, too: groups of knobs move otherwise
        ]
        best = max(ends, key=hill.mean, default=place)
        if hill.mean(best) <= hill.mean(place):
            break
        place, finished = hill.search(numbers, [best], every, budget, tried) if finished else (best, False)
    if reference is not None:
        beside: dict[Place, None] = {}
        other, ended = hill.search(numbers, [hill.place(reference)], every, budget, beside)
        tried |= beside
        if not hill.exceeds(place, other):
            place, finished = other, ended
    first = hill.at(begins[0])
    places = list(dict.fromkeys([*tried, place]))
    made = tuple(Trial(hill.values(at), hill.mean(at), paired_error(hill.at(at), first)) for at in places)
    return SearchResult(made, places.index(place), finished)


class _Hill:
    """What was measured of configurations, each once, and searches over them."""

    def __init__(
        self,
        grid_parameters: Sequence[GridParameter],
        measure: Callable[[dict[str, float]], Metrics | float],
        worth: float,
    ) -> None:
        self._knobs, self._measure, self._worth = grid_parameters, measure, worth
        self._known: dict[Place, Metrics] = {}
        self._own = self.place({})

    def place(self, values: Mapping[str, float]) -> Place:
        """Where the knobs have these values; those that are not named stand at their own starts."""
        return tuple(k.grid_values.index(values.get(k.name, k.start)) for k in self._knobs)

    def values(self, place: Place) -> dict[str, float]:
        """Of the knobs at a place."""
        return {k.name: k.grid_values[at] for k, at in zip(self._knobs, place, strict=True)}

    def at(self, place: Place) -> Metrics:
        """What validation says of a place."""
        if place not in self._known:
            self._known[place] = np.atleast_1d(np.asarray(self._measure(self.values(place)), np.float64))
        return self._known[place]

    def mean(self, place: Place) -> float:
        """Over the users."""
        return float(self.at(place).mean())

    def exceeds(self, one: Place, other: Place) -> bool:
        """Whether a place is better than another by what makes a step worth it."""
        new, old = self.at(one), self.at(other)
        least = max(self._worth * abs(float(old.mean())), MIN_STANDARD_ERRORS * paired_error(new, old))
        return float(new.mean() - old.mean()) > least

    def bare(self, place: Place, number: int) -> Place:
        """A place with one knob at its own start."""
        return (*place[:number], self._own[number], *place[number + 1 :])

    def search(
        self,
        numbers: Sequence[int],
        begins: Sequence[Place],
        given: Collection[str],
        budget: int,
        tried: dict[Place, None],
    ) -> tuple[Place, bool]:
        """One search that moves the knobs of these numbers.

        Args:
            numbers: of the knobs.
            begins: where it begins, and other places that it has to beat.
            given: names of knobs whose values at the beginning were searched before: single steps only.
            budget: places at most, those in ``tried`` included.
            tried: places that were tried; more are added.

        Returns:
            Where it ended, and whether it ended by itself.
        """
        grid_parameters = self._knobs

        def attempt(place: Place) -> Metrics:
            if place not in tried:
                if len(tried) >= budget:
                    raise _Spent
                tried[place] = None
            return self.at(place)

        def better(one: Place, other: Place) -> bool:
            attempt(one), attempt(other)
            return self.exceeds(one, other)

        place = begins[0]

        def walk(moved: Sequence[int], stride: int) -> None:
            """Along one knob, or several at once, upwards as long as it is worth it, else downwards."""
            nonlocal place
            for direction in (stride, -stride):
                before = place
                while True:
                    step = tuple(
                        min(max(at + direction, 0), len(grid_parameters[number].grid_values) - 1)
                        if number in moved
                        else at
                        for number, at in enumerate(place)
                    )
                    if step == place or not better(step, place):
                        break
                    place = step
                if place != before:
                    break

        def settle(coarse_steps: tuple[int, ...]) -> None:
            """Walk until no single step is worth it and no start is better."""
            nonlocal place
            before = None
            while place != before:
                before = place
                for moved in walks:
                    coarse = all(grid_parameters[number].coarse_steps for number in moved)
                    coarse = coarse and not all(grid_parameters[number].name in given for number in moved)
                    for stride in coarse_steps:
                        if stride == 1 or coarse:
                            walk(moved, stride)
                if place == before:
                    place = max([place, *begins[1:]], key=lambda at: float(attempt(at).mean()))
                coarse_steps = (1,)

        walks = _walks(grid_parameters, numbers)
        try:
            least = max(float(attempt(at).mean()) for at in begins)
            settle((STRIDE, 1))
            top = place
            for number in numbers:
                # what was moved with its group has to be worth its place; what was put back before counts, too
                bare = self.bare(place, number)
                if (
                    grid_parameters[number].group
                    and bare != place
                    and not better(top, bare)
                    and attempt(bare).mean() >= least
                ):
                    place = bare
            settle((1,))  # so that arms without what was put back find nothing here that this one missed
        except _Spent:
            return max([place, *(at for at in begins if at in tried)], key=self.mean), False
        return place, True


def _walks(grid_parameters: Sequence[GridParameter], numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """Numbers of the knobs that are moved together, in order: a group of several before its first knob."""
    walks: list[tuple[int, ...]] = []
    for number in numbers:
        knob = grid_parameters[number]
        together = tuple(n for n in numbers if knob.group and grid_parameters[n].group == knob.group)
        if len(together) > 1 and together[0] == number:
            walks.append(together)
        walks.append((number,))
    return walks
