"""Checks of values against type hints: arguments of public functions, and hyper-parameters."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from inspect import Parameter, signature
from itertools import repeat
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from relrank.errors import InputError, did_you_mean, from_os_error

P = ParamSpec("P")
R = TypeVar("R")
LARGEST = 2**31 - 1
"""Largest integer: compiled code uses int32."""
SEEDS = 2**63 - 1
"""Largest seed."""
HUGE = 1e12
"""Largest number: sums of larger ones, and their reciprocals, lose all precision in float32."""
OF_ARGUMENTS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""Errors of the operating system that another path mends."""


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


Seed = Annotated[int, Bounds(0, SEEDS)]
"""Seed of a random generator."""


def checked(where: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: arguments that do not fit their type hints raise an ``InputError``; NumPy's scalars become Python's.

    So do paths at which there is something else, such as a file in place of a folder.

    Args:
        where: the function as users call it, such as "rr.Study"; the argument's name is appended.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = parameters.bind(*args, **kwargs)
            except TypeError:  # of which Python's own message has the name of the function
                return function(*args, **kwargs)
            for name, hint in _hints(function).items():
                if name in bound.arguments:
                    bound.arguments[name] = plain(bound.arguments[name], hint, f"{where}, {name}")
            try:
                return function(*bound.args, **bound.kwargs)
            except OSError as error:
                refused = from_os_error(error) if error.errno in OF_ARGUMENTS else None
                if refused is None:
                    raise
                raise refused from error

        return call

    return decorate


def check_fields(value: Any, where: str) -> None:
    """Check the fields of a frozen dataclass against their type hints.

    Raises:
        InputError: one does not fit.
    """
    for name, hint in get_type_hints(type(value), include_extras=True).items():
        object.__setattr__(value, name, plain(getattr(value, name), hint, f"{where}, {name}"))


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Hints of the parameters; ``*args`` are a tuple, and ``**kwargs`` have none."""
    hints = {}
    for name, parameter in signature(function).parameters.items():
        hint = parameter.annotation
        with suppress(NameError):  # of a type that is imported for type checkers alone
            hint = eval(hint, function.__globals__) if isinstance(hint, str) else hint
            hints[name] = tuple[hint, ...] if parameter.kind is Parameter.VAR_POSITIONAL else hint  # type: ignore[valid-type]
            if hint is Parameter.empty or parameter.kind is Parameter.VAR_KEYWORD:
                del hints[name]
    return hints


def plain(value: Any, hint: Any, where: str, noun: str = "argument") -> Any:
    """A value that fits a type hint, with Python's numbers and texts in place of NumPy's.

    Args:
        value: to check; elements of lists and mappings are checked, too.
        hint: a type, a union, ``Literal``, ``Annotated`` with ``Bounds``, a protocol, a list or a mapping.
        where: names the value in messages.
        noun: what the value is, for messages.

    Raises:
        InputError: it does not fit.
    """
    bounds = Bounds()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        bounds = next((e for e in extras if isinstance(e, Bounds)), bounds)
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return _of_union(value, hint, where, noun)
    if kind is Literal:
        _check_word(value, parts, where)
    elif kind in (int, float):
        return _number(value, kind, bounds, where, noun)
    elif kind in (bool, str):
        scalar = value.item() if isinstance(value, np.generic) else value
        if not isinstance(scalar, kind):
            raise _other_type(value, hint, where, noun)
        return kind(scalar)
    elif not _is_kind(value, kind):
        raise _other_type(value, hint, where, noun)
    elif parts and isinstance(value, Mapping) and parts[1:]:
        for key, one in value.items():
            plain(key, parts[0], f"{where}, a name", noun)
            plain(one, parts[1], f"{where}.{key}", noun)
    elif parts and _is_list(kind) and isinstance(value, Collection):
        hints = repeat(parts[0]) if kind is not tuple or ... in parts else parts
        for at, (one, inner) in enumerate(zip(value, hints, strict=False)):
            plain(one, inner, f"{where}[{at}]", noun)
    return str(value) if isinstance(value, np.str_) else value


def _of_union(value: Any, hint: Any, where: str, noun: str) -> Any:
    """The value as the first member that it fits."""
    members = get_args(hint)
    errors = []
    for one in [m for m in members if not (m is str and Path in members)]:  # a path is not any text
        try:
            return plain(value, one, where, noun)
        except InputError as error:
            errors.append(error)
    other = _other_type(value, hint, where, noun)
    # an error inside of the value, or of its range, says more
    raise next((e for e in errors if (e.what, e.where) != (other.what, other.where)), other)


def _is_kind(value: Any, kind: Any) -> bool:
    """Whether a value has the outer type of a hint; anything has a type that cannot be asked."""
    if kind is None or kind is NoneType:
        return value is None
    if kind is Callable:
        return callable(value)
    if kind in (Any, object) or not isinstance(kind, type):
        return True
    if getattr(kind, "_is_protocol", False) and kind.__module__ != "typing":
        return all(hasattr(value, name) for name in vars(kind) if name == "__call__" or name[0] != "_")
    if issubclass(kind, Path):
        return isinstance(value, str | Path) and "\0" not in str(value)
    if issubclass(kind, Mapping):
        return isinstance(value, kind)
    if _is_list(kind):  # also arrays and columns, which are no sequences; but a text is not a list of its letters
        if isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0 or not isinstance(value, Iterable):
            return False
        return kind in (Iterable, Collection) or (hasattr(value, "__getitem__") and not isinstance(value, Mapping))
    return isinstance(value, kind)


def _is_list(kind: Any) -> bool:
    return kind in (Sequence, Iterable, Collection, list, tuple)


def _check_word(value: Any, words: Sequence[Any], where: str) -> None:
    if not isinstance(value, str | int | None) or value not in words:
        raise InputError(
            f"unknown {where.rpartition(', ')[2]}",
            where=where,
            expected=" or ".join(map(str, words)),
            found=_shown(value) + did_you_mean(value, [str(word) for word in words]),
        )


def _number(value: Any, kind: type, bounds: Bounds, where: str, noun: str) -> Any:
    expected = described(kind) + (f", {bounds}" if str(bounds) else "")
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral if kind is int else Real):
        raise InputError(f"{noun} has the wrong type", where=where, expected=expected, found=_shown(value))
    if not bounds.hold(value):  # type: ignore[arg-type]
        if value > bounds.high:  # type: ignore[operator]
            expected += f", at most {bounds.high:g}" * (str(bounds.high) not in expected)
        raise InputError(f"{noun} is out of range", where=where, expected=expected, found=_shown(value))
    return kind(value)


def _other_type(value: object, hint: Any, where: str, noun: str) -> InputError:
    return InputError(f"{noun} has the wrong type", where=where, expected=described(hint), found=_shown(value))


_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    NoneType: "None",
    None: "None",
    Path: "a path",
    Callable: "a function",
}


def described(hint: Any) -> str:
    """A type hint in words."""
    if get_origin(hint) is Annotated:
        return described(get_args(hint)[0])
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, parts)))
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if kind in _WORDS:
        return _WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "a mapping from names"
    if _is_list(kind):
        return "a list" + (f" ({described(parts[0])} each)" if parts and parts[0] is not Any else "")
    return f"{getattr(kind, '__name__', kind)}"


def _shown(value: object) -> str:
    is_plain = isinstance(value, str | int | float | list | tuple | dict | None)
    return repr(value)[:200] if is_plain else type(value).__name__
