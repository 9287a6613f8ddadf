"""Types and bounds of hyper-parameters, and their validation.

A configuration annotates its fields, such as ``neighbours: PositiveInt`` or ``l2: Positive``, and ``check_settings``
validates them. Constraints between fields are checked by the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

from relrank.arguments import LARGEST, plain
from relrank.arguments import Bounds as Bounds
from relrank.arguments import Seed as Seed
from relrank.errors import InputError, did_you_mean, one_of

C = TypeVar("C")
PositiveInt = Annotated[int, Bounds(1, LARGEST)]
"""A count of at least 1."""
NonNegativeInt = Annotated[int, Bounds(0, LARGEST)]
"""A count, possibly 0."""
Rounds = Annotated[int, Bounds(0, 10_000)]
"""A number of passes over the data, possibly 0."""
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
            "not a configuration of this model", where=where, expected=f"{kind.__name__}(…)", found=repr(config)[:200]
        )
    if not is_dataclass(config):
        return config
    values = {
        name: plain(getattr(config, name), hint, f"{where}, {name}", "hyper-parameter")
        for name, hint in _hints(kind).items()  # type: ignore[arg-type]
    }
    changed = {name: value for name, value in values.items() if type(value) is not type(getattr(config, name))}
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
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}
