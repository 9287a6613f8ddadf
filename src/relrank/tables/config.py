"""Configuration files: TOML in, frozen sections out, one clear error for every mistake."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from relrank.errors import InputError, did_you_mean, one_of


class ConfigSection(BaseModel):
    """A section of a configuration file: unknown keys are errors, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("a name: one line of text, not empty")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""Name of a node type, table, relation or feature."""
S = TypeVar("S", bound=ConfigSection)
DEEPEST = 50
"""Levels of nested sections and lists, at most."""


def load_toml(path: Path, section: type[S]) -> S:
    """Read a TOML file into a section.

    Raises:
        InputError: the file is missing, not TOML, or does not fit the section; the message names file and key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), expected="a TOML file", found="nothing") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a huge number, or endless brackets
        raise InputError("not readable as TOML", where=str(path), expected="UTF-8 TOML", found=str(error)) from None
    _refuse_extremes(raw, str(path))
    return check(raw, section, str(path))


def _refuse_extremes(value: Any, where: str, depth: int = 0) -> None:
    """Refuse deep nesting and whole numbers beyond TOML's 64 bits, which later code could not handle."""
    if depth > DEEPEST:
        raise InputError("nested too deeply", where=where[:200], expected=f"at most {DEEPEST} levels", found="more")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        _refuse_extremes(inner, f"{where}, {key}", depth + 1)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(
            "number is too large",
            where=where,
            expected="whole numbers of 64 bits, one of them the sign",
            found=f"{value.bit_length():,} bits and the sign",
        )


def check(raw: dict[str, Any], section: type[S], where: str) -> S:
    """Validate a plain dictionary as a section.

    Raises:
        InputError: the first mistake, with its dotted key.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise _first_error(error, section, where) from None


def _first_error(error: ValidationError, section: type[ConfigSection], where: str) -> InputError:
    """The first of pydantic's errors."""
    errors = error.errors()
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
    more = f"; {len(errors) - 1} more after this one" if len(errors) > 1 else ""
    context = first.get("ctx", {})
    raised = context.get("error")
    if isinstance(raised, InputError):
        expected = raised.expected + more
        return InputError(raised.what, where=f"{where}, {raised.where}", expected=expected, found=raised.found)
    what, expected, found = "setting does not fit", first["msg"].removeprefix("Value error, "), repr(first["input"])
    if first["type"] == "extra_forbidden":
        known = _keys(section, first["loc"][:-1])
        what, expected = "unknown key", one_of(known) if known else "only keys that docs/study-file.md names"
        found = f"{first['loc'][-1]}{did_you_mean(first['loc'][-1], known)}"
    elif first["type"] == "missing":
        found = "nothing"
    elif first["type"] in ("literal_error", "union_tag_invalid"):
        words = re.findall(r"'([^']*)'", str(context.get("expected", context.get("expected_tags", ""))))
        given = context.get("tag", first["input"])
        key += "." + context["discriminator"].strip("'") if "discriminator" in context else ""
        expected, found = one_of(words), repr(given) + did_you_mean(given, words)
    return InputError(what, where=f"{where}, key {key}", expected=expected + more, found=found[:300])


def _keys(section: type[BaseModel], at: tuple[int | str, ...]) -> set[str]:
    """Valid keys at a location of pydantic's, which holds keys, positions and names of kinds."""
    models: list[type[BaseModel]] = [section]
    for part in at:
        hints = [f.annotation for m in models if (f := m.model_fields.get(str(part))) is not None]
        tagged = [m for m in models if part in get_args(getattr(m.model_fields.get("kind"), "annotation", None))]
        models = [model for hint in hints for model in _models_in(hint)] or tagged or models
    return {name for m in models for name in m.model_fields}


def _models_in(hint: Any) -> list[type[BaseModel]]:
    """The sections in a type hint: itself, or members of a union, table or list."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [model for part in get_args(hint) for model in _models_in(part)]


def resolve(path: str, base: Path, where: str) -> Path:
    """A path from a configuration file, relative to ``base``; ``${NAME}`` is replaced from the environment.

    A path that begins with a variable is relative to the current folder instead.

    Raises:
        InputError: an environment variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise InputError(
                "environment variable is not set", where=where, expected=f"{name} to name a folder", found="nothing"
            )
        return os.environ[name]

    start = Path() if path.startswith("${") else base
    return start / at_home(Path(re.sub(r"\$\{(\w+)\}", value, path)), where)


def at_home(path: Path, where: str) -> Path:
    """A path with a leading ``~`` or ``~NAME`` replaced by the home folder.

    Raises:
        InputError: there is no user of that name.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(
            "unknown user", where=where, expected="~, or ~ and the name of a user here", found=path.parts[0]
        ) from None
