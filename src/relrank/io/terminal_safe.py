"""Text for terminals: control characters are shown as escapes, and commands are quoted as the shell expects."""

from __future__ import annotations

import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Sequence

_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories to escape: controls such as ESC, surrogates, separators of lines and paragraphs."""
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the following text."""


def terminal_safe(text: object, lines: bool = False) -> str:
    """The text with every character that controls a terminal as its escape.

    Args:
        text: anything.
        lines: whether line breaks are left as they are.
    """
    plain = str(text)
    if plain.isprintable():  # then it has no such character
        return plain
    return "".join(_escaped(c) if _controls(c) and not (lines and c == "\n") else c for c in plain)


def command_line(words: Sequence[str]) -> str:
    """A command to copy into a shell: that of Windows does not know single quotes."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _controls(character: str) -> bool:
    return character in _DIRECTIONS or unicodedata.category(character) in _CATEGORIES


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
