"""Text from tables and requests as a terminal may be given it: what would command the terminal is shown, not sent."""

from __future__ import annotations

import unicodedata

_COMMANDS = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of characters that move or command: controls (ESC is one), halves of a pair, separators of lines."""
_TURNS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text behind them."""


def terminal_safe(text: object, lines: bool = False) -> str:
    """The text with every character that commands a terminal shown as its escape.

    Args:
        text: anything.
        lines: whether ends of lines stay, as in a message of several.
    """
    said = str(text)
    if said.isprintable():  # no turn of direction is
        return said
    return "".join(_shown(c) if _commands(c) and not (lines and c == "\n") else c for c in said)


def _commands(character: str) -> bool:
    return character in _TURNS or unicodedata.category(character) in _COMMANDS


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
