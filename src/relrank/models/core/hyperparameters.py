"""What a hyper-parameter may be, written as its type, and the one place that refuses what it may not.

A field of a configuration says ``neighbours: PositiveInt`` or ``l2: Positive``; ``check_settings`` reads that. A rule
that ties two fields together stays with the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from relrank.errors import InputError, did_you_mean, one_of

C = TypeVar("C")
LARGEST = 2**31 - 1
"""Of a whole number: compiled code counts in int32."""
SEEDS = 2**63 - 1
"""Of a seed."""
HUGE = 1e12
"""Of a number: sums of what is beyond it are lost in float32, as is its reciprocal."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Finite numbers from ``low`` to ``high``.

    Attributes:
        low: smallest value.
        high: largest value.
        above: whether ``low`` itself is left out.
        below: whether ``high`` itself is left out.
    """

    low: float = -HUGE
    high: float = HUGE
    above: bool = False
    below: bool = False

    def hold(self, value: float) -> bool:
        """Whether a number is inside; NaN and infinity never are."""
        over = value > self.low if self.above else value >= self.low
        tiny = self.above and value - self.low < 1 / HUGE
        return over and not tiny and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        parts = []
        if self.low > -HUGE:
            parts.append(f"above {self.low:g}" if self.above else f"at least {self.low:g}")
        if self.high not in (HUGE, LARGEST, SEEDS):
            parts.append(f"below {self.high:g}" if self.below else f"at most {self.high:g}")
        return " and ".join(parts)


PositiveInt = Annotated[int, Bounds(1, LARGEST)]
"""How many of something that there must be."""
NonNegativeInt = Annotated[int, Bounds(0, LARGEST)]
"""How many of something that there may be none of."""
Rounds = Annotated[int, Bounds(0, 10_000)]
"""How often a loop over the data runs, perhaps never."""
Seed = Annotated[int, Bounds(0, SEEDS)]
"""Of a random generator."""
Power = Annotated[float, Bounds(-2, 2)]
"""Exponent of a degree."""
Positive = Annotated[float, Bounds(0, above=True)]
"""A number above 0."""
NonNegative = Annotated[float, Bounds(0)]
"""A number of 0 or more."""
UnitInterval = Annotated[float, Bounds(0, 1)]
"""A share of 0 to 1."""
DropFraction = Annotated[float, Bounds(0, 1, below=True)]
"""A share that leaves something."""
OpenUnitInterval = Annotated[float, Bounds(0, 1, above=True, below=True)]
"""A share of neither nothing nor all."""
AlwaysZero = Annotated[float, Bounds(0, 0)]
"""What a model inherits and must not use."""
Weights = dict[str, NonNegative]
"""A weight per relation; 0 leaves it out."""


def check_settings(config: C, kind: type[C], where: str) -> C:
    """A configuration, every field of which has its type and is within its bounds.

    Args:
        config: an instance.
        kind: the dataclass that it must be an instance of.
        where: whose it is, for messages; the field's name is added.

    Returns:
        The same, with plain numbers in place of NumPy's.

    Raises:
        InputError: the first field that cannot be, or a configuration of something else.
    """
    if not isinstance(config, kind):
        raise InputError(
            "not a configuration of this model", where=where, expected=f"{kind.__name__}(…)", found=_shown(config)
        )
    if not is_dataclass(config):
        return config
    rules = _rules(kind)  # type: ignore[arg-type]
    plain = {name: _plain(getattr(config, name), *rule, f"{where}, {name}") for name, rule in rules.items()}
    changed = {name: value for name, value in plain.items() if type(value) is not type(getattr(config, name))}
    return replace(config, **changed) if changed else config  # type: ignore[type-var]


def check_weights(weights: Mapping[str, float], known: Collection[str], where: str) -> None:
    """Refuse a weight of a relation that does not exist: it would be ignored.

    Raises:
        InputError: the names, those that are known, and the nearest one.
    """
    strange = [name for name in weights if name not in known]
    if strange:
        raise InputError(
            "weight of an unknown relation",
            where=where,
            expected=one_of(known),
            found=", ".join(map(repr, strange)) + did_you_mean(strange[0], known),
        )


@cache
def _rules(kind: type) -> dict[str, tuple[Any, Bounds]]:
    """Type and bounds of every field."""
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: _rule(hints[f.name]) for f in fields(kind)}


def _rule(hint: Any) -> tuple[Any, Bounds]:
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        return base, next((e for e in extras if isinstance(e, Bounds)), Bounds())
    return hint, Bounds()


def _plain(value: Any, base: Any, bounds: Bounds, where: str) -> Any:
    """The value, if it can be."""
    if get_origin(base) is Literal:
        words = get_args(base)
        if value not in words:
            raise InputError(
                f"unknown {where.rpartition(', ')[2]}",
                where=where,
                expected=" or ".join(map(str, words)),
                found=_shown(value) + did_you_mean(value, [str(word) for word in words]),
            )
    elif base is bool or base is str:
        if type(value) is not base:
            raise _other_type(where, "true or false" if base is bool else "a text", value)
    elif base is int or base is float:
        return _number(value, base, bounds, where)
    elif get_origin(base) is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise _other_type(where, "a mapping from names", value)
        inner, within = _rule(get_args(base)[1])
        for key, one in value.items():
            if inner is not Any:
                _plain(one, inner, within, f"{where}.{key}")
    return value


def _number(value: Any, base: type, bounds: Bounds, where: str) -> Any:
    expected = "a whole number" if base is int else "a finite number"
    if str(bounds):
        expected += f", {bounds}"
    if isinstance(value, bool) or not isinstance(value, Integral if base is int else Real):
        raise _other_type(where, expected, value)
    if not bounds.hold(value):  # type: ignore[arg-type]
        if value > bounds.high:  # type: ignore[operator]
            expected += f", at most {bounds.high:g}" * (str(bounds.high) not in expected)
        raise InputError("hyper-parameter is out of range", where=where, expected=expected, found=_shown(value))
    return base(value)


def _other_type(where: str, expected: str, found: object) -> InputError:
    return InputError("hyper-parameter has another type", where=where, expected=expected, found=_shown(found))


def _shown(value: object) -> str:
    return repr(value)[:200]
