"""Output to terminals, files and pipes that are not UTF-8, as is common on Windows: characters are replaced."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

SUBSTITUTES = {
    "\N{MINUS SIGN}": "-",
    "→": "->",
    "←": "<-",
    "↑": "^",
    "↓": "v",
    "✓": "v",
    "▲": "^",
    "▼": "v",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∞": "inf",
    "√": "sqrt",
    "…": "...",
    "·": "-",
    "×": "x",
    "±": "+-",
    "–": "-",
    "—": "-",
}
"""ASCII for characters of messages; accents are dropped, and any other character becomes a question mark."""
HANDLER = "relrank-substitute"


def replace_missing_characters() -> None:
    """Let standard output and errors show what their encoding lacks in other characters, instead of failing."""
    codecs.register_error(HANDLER, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors=HANDLER)
            os.environ.setdefault("PYTHONIOENCODING", ":replace")  # for worker processes


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ascii(c) for c in error.object[error.start : error.end]), error.end


def _ascii(character: str) -> str:
    if character in SUBSTITUTES:
        return SUBSTITUTES[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or ("" if unicodedata.combining(character) else "?")
