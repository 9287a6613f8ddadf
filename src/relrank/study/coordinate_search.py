"""Coordinate search on validation: every arm of a model gets the same number of trials, spent the same way.

The search moves along the grids of the hyper-parameters one at a time: first in strides, then in single steps, until
no single step improves or the trials run out. Parameters of one group, such as the weights of all relations, are
moved together first, then each by itself; at the end each is reset to its start value unless keeping it is better.
Relation weights start at 0, so a relation has to earn its weight.

A step has to improve the mean over validation users by more than the standard error of the paired differences:
smaller improvements are mostly noise, and arms that follow them end at settings that differ by chance. Warm-started
values (``study.warm_starts``) move in single steps only. Where a model has a published setting as a reference, the
result of a search from there is chosen unless the other result is better by that error, since a few validation users
separate many settings by chance alone. A search with all relations also runs the searches of the arms that lack one
of them, if these follow, and continues from there if one of these is better: more relations never validate worse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relrank.models.core.base import GridParameter

STRIDE = 3
"""Grid steps of the first, coarse moves along a parameter."""
MIN_RELATIVE_GAIN = 1e-3
"""A step has to improve the metric by at least this share of it."""
SEARCH_VERSION = 6
"""Part of a cell's key; a change of what searches choose needs a new version."""
MIN_STANDARD_ERRORS = 1.0
"""A step has to improve the metric by so many standard errors of the paired differences."""

Point = tuple[int, ...]
"""A position on the grid of every parameter."""
Metrics = npt.NDArray[np.floating]
"""The metric of every validation user, [n_users], in the same order for all trials."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        values: value by parameter name.
        metric: mean over the validation users, higher is better.
        error: standard error of its paired difference to the search's first trial; 0 for that one.
    """

    values: dict[str, float]
    metric: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A finished search.

    Attributes:
        trials: in the order in which they were made; the first is where the search began.
        chosen: index of the chosen trial.
        converged: whether no single step improves; False where the trials ran out before that was known.
    """

    trials: tuple[Trial, ...]
    chosen: int
    converged: bool


def paired_error(one: Metrics, other: Metrics) -> float:
    """Standard error of the mean of paired differences; 0 for fewer than two pairs."""
    return float(np.std(one - other, ddof=1) / np.sqrt(one.size)) if one.size > 1 else 0.0


def value_of(config: Mapping[str, Any], parameter: str) -> Any:
    """A parameter's value in hyper-parameters as stored; None if it is missing."""
    field, _, entry = parameter.partition(".")
    return config.get(field, {}).get(entry) if entry else config.get(field)


class _OutOfTrials(Exception):  # noqa: N818
    """The search has no trials left."""


def coordinate_search(
    grid_parameters: Sequence[GridParameter],
    budget: int,
    measure: Callable[[dict[str, float]], Metrics | float],
    min_gain: float = MIN_RELATIVE_GAIN,
    starts: Sequence[Mapping[str, float]] = (),
    without: Collection[str] = (),
    reference: Mapping[str, float] | None = None,
) -> SearchResult:
    """Try up to ``budget`` configurations, fewer if no single step improves any more.

    Args:
        grid_parameters: what is tuned, in the order in which it is moved.
        budget: maximum number of configurations, at least 1.
        measure: validation metric of a configuration, per user; or its mean, which then has no standard error.
        min_gain: smallest relative improvement that moves the search.
        starts: values at which the search begins, in place of the parameters' own start values, and further ones
            from which it continues if they are better than its result. The result never validates worse than a start
            that was tried.
        without: names of parameters, weights of relations, that other arms lack. The searches that these arms make
            from this result are run here, too, with a budget of their own, and the result never validates worse
            than theirs, even if the budget runs out.
        reference: a published setting. A second search begins there, with a budget of its own; its result is chosen
            unless the other one is better by more than the standard error. Only then may the result validate worse
            than one of ``starts``.
    """
    surface = _Surface(grid_parameters, measure, min_gain)
    names = {k.name for k in grid_parameters}
    numbers = range(len(grid_parameters))
    begins = [surface.point(values) for values in (starts or [{}])]

    def search(begins: Sequence[Point], warm: Collection[str], tried: dict[Point, None]) -> tuple[Point, bool]:
        return _Search(surface, numbers, begins, warm, budget, tried).run()

    tried: dict[Point, None] = {}
    point, converged = search(begins, starts[0] if starts else {}, tried)
    while without:
        ends = [
            # also for a weight of 0: without it, the group of weights moves otherwise
            _Search(surface, [n for n in numbers if n != left_out], [bare], names, budget, {}).run()[0]
            for left_out in numbers
            if grid_parameters[left_out].name in without
            for bare in [surface.reset(point, left_out)]
        ]
        best = max(ends, key=surface.mean, default=point)
        if surface.mean(best) <= surface.mean(point):
            break
        point, converged = search([best], names, tried) if converged else (best, False)
    if reference is not None:
        tried_from_reference: dict[Point, None] = {}
        other, other_converged = search([surface.point(reference)], names, tried_from_reference)
        tried |= tried_from_reference
        if not surface.exceeds(point, other):
            point, converged = other, other_converged
    first = surface.metrics(begins[0])
    points = list(dict.fromkeys([*tried, point]))
    trials = tuple(Trial(surface.values(p), surface.mean(p), paired_error(surface.metrics(p), first)) for p in points)
    return SearchResult(trials, points.index(point), converged)


class _Surface:
    """The validation metric over the grid; every point is measured once."""

    def __init__(
        self,
        grid_parameters: Sequence[GridParameter],
        measure: Callable[[dict[str, float]], Metrics | float],
        min_gain: float,
    ) -> None:
        self.grid_parameters, self._measure, self._min_gain = grid_parameters, measure, min_gain
        self._measured: dict[Point, Metrics] = {}
        self._default = self.point({})

    def point(self, values: Mapping[str, float]) -> Point:
        """The point with these values; parameters that are not named have their start values."""
        return tuple(k.grid_values.index(values.get(k.name, k.start)) for k in self.grid_parameters)

    def values(self, point: Point) -> dict[str, float]:
        """Values of the parameters at a point."""
        return {k.name: k.grid_values[at] for k, at in zip(self.grid_parameters, point, strict=True)}

    def metrics(self, point: Point) -> Metrics:
        """The metric per user."""
        if point not in self._measured:
            self._measured[point] = np.atleast_1d(np.asarray(self._measure(self.values(point)), np.float64))
        return self._measured[point]

    def mean(self, point: Point) -> float:
        """The metric, averaged over users."""
        return float(self.metrics(point).mean())

    def exceeds(self, one: Point, other: Point) -> bool:
        """Whether a point is better than another by enough for a step."""
        new, old = self.metrics(one), self.metrics(other)
        least = max(self._min_gain * abs(float(old.mean())), MIN_STANDARD_ERRORS * paired_error(new, old))
        return float(new.mean() - old.mean()) > least

    def reset(self, point: Point, number: int) -> Point:
        """A point with one parameter at its start value."""
        return (*point[:number], self._default[number], *point[number + 1 :])


class _Search:
    """One search over some of the parameters.

    Args:
        surface: that is searched.
        numbers: of the parameters that may move.
        begins: where it begins, and further points that it has to beat.
        warm: names of parameters whose values at the beginning come from an earlier search: single steps only.
        budget: maximum number of points, those in ``tried`` included.
        tried: points that were tried; further ones are added.
    """

    def __init__(
        self,
        surface: _Surface,
        numbers: Sequence[int],
        begins: Sequence[Point],
        warm: Collection[str],
        budget: int,
        tried: dict[Point, None],
    ) -> None:
        self._surface, self._numbers, self._begins, self._warm = surface, numbers, begins, warm
        self._budget, self._tried = budget, tried
        self._grid_parameters = surface.grid_parameters
        self._point = begins[0]

    def run(self) -> tuple[Point, bool]:
        """Where the search ends, and whether it ends before its budget does."""
        try:
            least = max(self._mean(at) for at in self._begins)
            self._climb((STRIDE, 1))
            self._reset_groups(least)
            self._climb((1,))  # otherwise an arm without what was reset could find a step that this search missed
        except _OutOfTrials:
            tried_begins = (at for at in self._begins if at in self._tried)
            return max([self._point, *tried_begins], key=self._surface.mean), False
        return self._point, True

    def _try(self, point: Point) -> None:
        if point not in self._tried:
            if len(self._tried) >= self._budget:
                raise _OutOfTrials
            self._tried[point] = None
        self._surface.metrics(point)

    def _mean(self, point: Point) -> float:
        self._try(point)
        return self._surface.mean(point)

    def _better(self, one: Point, other: Point) -> bool:
        self._try(one)
        self._try(other)
        return self._surface.exceeds(one, other)

    def _climb(self, strides: tuple[int, ...]) -> None:
        """Move until no single step improves and no other start is better."""
        before = None
        while self._point != before:
            before = self._point
            for numbers in self._moves():
                parameters = [self._grid_parameters[number] for number in numbers]
                coarse = all(p.coarse_steps for p in parameters) and not all(p.name in self._warm for p in parameters)
                for stride in strides:
                    if stride == 1 or coarse:
                        self._walk(numbers, stride)
            if self._point == before:
                self._point = max([self._point, *self._begins[1:]], key=self._mean)
            strides = (1,)

    def _walk(self, numbers: Sequence[int], stride: int) -> None:
        """Move along one parameter, or several at once: up while that improves, else down."""
        for direction in (stride, -stride):
            before = self._point
            while True:
                step = self._step(numbers, direction)
                if step == self._point or not self._better(step, self._point):
                    break
                self._point = step
            if self._point != before:
                break

    def _step(self, numbers: Sequence[int], direction: int) -> Point:
        """The next point in a direction, clipped to the grids."""
        return tuple(
            min(max(at + direction, 0), len(self._grid_parameters[number].grid_values) - 1)
            if number in numbers
            else at
            for number, at in enumerate(self._point)
        )

    def _reset_groups(self, least: float) -> None:
        """Reset each parameter of a group, which moved together with others, unless keeping it is better."""
        top = self._point
        for number in self._numbers:
            bare = self._surface.reset(self._point, number)
            if (
                self._grid_parameters[number].group
                and bare != self._point
                and not self._better(top, bare)
                and self._mean(bare) >= least
            ):
                self._point = bare

    def _moves(self) -> list[tuple[int, ...]]:
        """Numbers of the parameters that move together, in order: a group of several before its first parameter."""
        moves: list[tuple[int, ...]] = []
        for number in self._numbers:
            group = self._grid_parameters[number].group
            together = tuple(n for n in self._numbers if group and self._grid_parameters[n].group == group)
            if len(together) > 1 and together[0] == number:
                moves.append(together)
            moves.append((number,))
        return moves
