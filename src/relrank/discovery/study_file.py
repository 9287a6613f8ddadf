"""A configuration as the text of a study file, with comments."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

from relrank.io.terminal_safe import terminal_safe

WIDTH = 118
HEAD = (
    "# Proposed by relrank init from the tables alone: check what it says of them. Every key is explained in",
    "# docs/study-file.md; relrank audit lists leaks, relrank study runs the study.",
    "",
)


def study_file(
    config: Mapping[str, Any],
    comments: Mapping[str, str],
    left_out: Collection[str],
    files: Mapping[str, str],
    reading: Mapping[str, Mapping[str, Any]],
) -> str:
    """The text of a study file.

    Args:
        config: its content; files are names of tables.
        comments: by dotted key of a section or value.
        left_out: lines for the end of the file.
        files: file by table.
        reading: further keys by table.

    Raises:
        KeyError: a table has no file.
    """
    lines: list[str] = []
    _section(config, (), comments, lines, files, reading)
    if left_out:
        lines += ["", "# Left out:"]
        for entry in left_out:
            lines += textwrap.wrap(_printable(entry), WIDTH, initial_indent="# - ", subsequent_indent="#   ")
    return "\n".join([*HEAD, *lines]).strip("\n") + "\n"


def _section(
    section: Mapping[str, Any],
    path: tuple[str, ...],
    comments: Mapping[str, str],
    lines: list[str],
    files: Mapping[str, str],
    reading: Mapping[str, Mapping[str, Any]],
) -> None:
    plain = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    if "file" in plain:
        table = plain["file"]
        plain = {"file": files[table], **reading.get(table, {}), **{k: v for k, v in plain.items() if k != "file"}}
    above = comments.get(".".join(path))
    if path and (plain or above):
        lines.append("")
        lines += _comment(above)
        lines.append(f"[{'.'.join(map(_key, path))}]")
    for key, value in plain.items():
        line, comment = f"{_key(key)} = {_value(value)}", _printable(comments.get(".".join((*path, key))))
        if comment and len(line) + len(comment) + 4 <= WIDTH:
            lines.append(f"{line}  # {comment}")
        else:
            lines += [*_comment(comment), line]
    for key, value in section.items():
        if isinstance(value, Mapping):
            _section(value, (*path, key), comments, lines, files, reading)


def _comment(text: str | None) -> list[str]:
    return textwrap.wrap(_printable(text), WIDTH, initial_indent="# ", subsequent_indent="# ")


def _printable(text: str | None) -> str:
    """One line of text; TOML forbids control characters in comments."""
    return " ".join(terminal_safe(text or "").split())


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
