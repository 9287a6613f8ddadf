"""Checked configuration: TOML in, frozen sections out, one clear error for every slip."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from relrank.errors import InputError


class Section(BaseModel):
    """A section of a configuration file: unknown keys are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


S = TypeVar("S", bound=Section)


def load_toml(path: Path, section: type[S]) -> S:
    """Read a TOML file into a section.

    Raises:
        InputError: the file is missing, is not TOML, or does not fit; the message names file and key.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), expected="a TOML file", found="nothing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("not readable as TOML", where=str(path), expected="UTF-8 TOML", found=str(error)) from None
    return check(raw, section, str(path))


def check(raw: dict[str, Any], section: type[S], where: str) -> S:
    """Check a plain dictionary against a section.

    Raises:
        InputError: the first slip, with the dotted key, what was expected and what was found.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        slips = error.errors()
        first = slips[0]
        key = ".".join(str(part) for part in first["loc"]) or "(the whole file)"
        more = f"; {len(slips) - 1} more after this one" if len(slips) > 1 else ""
        if first["type"] == "extra_forbidden":
            what, expected = "unknown key", "only keys that docs/study-file.md names"
        else:
            what, expected = "setting does not fit", first["msg"]
        found = "nothing" if first["type"] == "missing" else repr(first["input"])
        raise InputError(what, where=f"{where}, key {key}", expected=expected + more, found=found[:200]) from None


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
    return start / Path(re.sub(r"\$\{(\w+)\}", value, path)).expanduser()
