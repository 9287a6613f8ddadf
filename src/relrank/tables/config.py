"""Checked configuration: TOML in, frozen sections out, one clear error for every slip."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from relrank.errors import InputError, did_you_mean, one_of


class ConfigSection(BaseModel):
    """A section of a configuration file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("a name: one line of text, not empty")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""What a node type, a table, a relation or a feature is called."""
S = TypeVar("S", bound=ConfigSection)
DEEPEST = 50
"""Levels of sections and lists of a file."""


def load_toml(path: Path, section: type[S]) -> S:
    """Read a TOML file into a section.

    Raises:
        InputError: the file is missing, is not TOML, or does not fit; the message names file and key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), expected="a TOML file", found="nothing") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number of pages, or brackets without end
        raise InputError("not readable as TOML", where=str(path), expected="UTF-8 TOML", found=str(error)) from None
    _refuse_extremes(raw, str(path))
    return check(raw, section, str(path))


def _refuse_extremes(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what Python may fail to print or to walk through: whole numbers that TOML has none of, deep nesting."""
    if depth > DEEPEST:
        raise InputError("nested too deeply", where=where[:200], expected=f"at most {DEEPEST} levels", found="more")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        _refuse_extremes(one, f"{where}, {key}", depth + 1)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(
            "number is too large",
            where=where,
            expected="whole numbers of 64 bits, one of them the sign",
            found=f"{value.bit_length():,} bits beside the sign",
        )


def check(raw: dict[str, Any], section: type[S], where: str) -> S:
    """Check a plain dictionary against a section.

    Raises:
        InputError: the first slip, with the dotted key, what was expected and what was found.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise _slip(error, section, where) from None


def _slip(error: ValidationError, section: type[ConfigSection], where: str) -> InputError:
    """The first of what pydantic found."""
    slips = error.errors()
    first = slips[0]
    key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
    more = f"; {len(slips) - 1} more after this one" if len(slips) > 1 else ""
    context = first.get("ctx", {})
    own = context.get("error")
    if isinstance(own, InputError):
        return InputError(own.what, where=f"{where}, {own.where}", expected=own.expected + more, found=own.found)
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
    """Keys that may stand in a file where pydantic found another: ``at`` holds keys, positions and names of kinds."""
    there: list[Any] = [section]
    for part in at:
        models = [m for m in there if isinstance(m, type) and issubclass(m, BaseModel)]
        inside = [f.annotation for m in models if (f := m.model_fields.get(str(part))) is not None]
        tagged = [m for m in models if part in get_args(getattr(m.model_fields.get("kind"), "annotation", None))]
        there = [model for hint in inside for model in _models_in(hint)] or tagged or there
    return {name for m in there for name in m.model_fields}


def _models_in(hint: Any) -> list[type[BaseModel]]:
    """The sections that a type is made of: one, or any of a union, perhaps in a table or a list."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [model for part in get_args(hint) for model in _models_in(part)]


def resolve(path: str, base: Path, where: str) -> Path:
    """A path from a configuration file: ``${NAME}`` is replaced from the environment, the rest is relative to base.

    A path that begins with a variable is relative to where the program runs, as the variable itself was meant.

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
    """A path in which ``~`` or ``~NAME`` at its beginning is somebody's home.

    Raises:
        InputError: there is nobody of that name.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(
            "unknown user", where=where, expected="~, or ~ and the name of a user here", found=path.parts[0]
        ) from None
