"""Types and bounds of hyper-parameters, and their validation.

A configuration annotates its fields, such as ``neighbours: PositiveInt`` or ``l2: Positive``, and ``check_settings``
validates them. Constraints between fields are checked by the model.
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
"""Largest integer: compiled code uses int32."""
SEEDS = 2**63 - 1
"""Largest seed."""
HUGE = 1e12
"""Largest number: sums of larger ones, and their reciprocals, lose all precision in float32."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval of finite numbers.

    Attributes:
        low: lower bound.
        high: upper bound.
        above: whether ``low`` itself is excluded.
        below: whether ``high`` itself is excluded.
    """

    low: float = -HUGE
    high: float = HUGE
    above: bool = False
    below: bool = False

    def hold(self, value: float) -> bool:
        """Whether a number is in the interval; NaN and infinity never are."""
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
"""A count of at least 1."""
NonNegativeInt = Annotated[int, Bounds(0, LARGEST)]
"""A count, possibly 0."""
Rounds = Annotated[int, Bounds(0, 10_000)]
"""A number of passes over the data, possibly 0."""
Seed = Annotated[int, Bounds(0, SEEDS)]
"""Seed of a random generator."""
Power = Annotated[float, Bounds(-2, 2)]
"""Exponent of a degree."""
Positive = Annotated[float, Bounds(0, above=True)]
"""A number above 0."""
NonNegative = Annotated[float, Bounds(0)]
"""A number of 0 or more."""
UnitInterval = Annotated[float, Bounds(0, 1)]
"""A share in [0, 1]."""
DropFraction = Annotated[float, Bounds(0, 1, below=True)]
"""A share in [0, 1)."""
OpenUnitInterval = Annotated[float, Bounds(0, 1, above=True, below=True)]
"""A share in (0, 1)."""
AlwaysZero = Annotated[float, Bounds(0, 0)]
"""An inherited hyper-parameter that the model does not support."""
Weights = dict[str, NonNegative]
"""A weight per relation; 0 excludes the relation."""


def check_settings(config: C, kind: type[C], where: str) -> C:
    """Validate type and bounds of every field of a configuration.

    Args:
        config: an instance of ``kind``.
        kind: a dataclass.
        where: its origin, for messages; the field's name is appended.

    Returns:
        The configuration, with plain Python numbers instead of NumPy's.

    Raises:
        InputError: the first invalid field, or a configuration of another class.
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
    """Check that every weight names a known relation.

    Raises:
        InputError: some do not.
    """
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise InputError(
            "weight of an unknown relation",
            where=where,
            expected=one_of(known),
            found=", ".join(map(repr, unknown)) + did_you_mean(unknown[0], known),
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
    """The value as a plain Python object, if it is valid."""
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
    return InputError("hyper-parameter has the wrong type", where=where, expected=expected, found=_shown(found))


def _shown(value: object) -> str:
    return repr(value)[:200]
