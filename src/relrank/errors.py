"""Exceptions that a user can act on."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """An input is wrong: a file, a table, a key, a setting.

    The message has four parts, so that a user can act on it without a stack trace.

    Args:
        what: what is wrong, one clause, e.g. ``"column not found"``.
        where: the file, table, row or key, e.g. ``"ratings.csv, row 17"``.
        expected: a right input.
        found: the actual one.
    """

    def __init__(self, what: str, *, where: str, expected: str, found: str) -> None:
        parts = (_shown(part) for part in (where, expected, found))
        super().__init__("{}\n  where:    {}\n  expected: {}\n  found:    {}".format(what, *parts))
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the four parts; the default would pass the one message to a constructor that needs four."""
        return _restored, (type(self), self.what, self.where, self.expected, self.found)


LONGEST = 1000
"""Characters of a part of a message, at most: a key may be a page of text."""


def _shown(text: str) -> str:
    """A part of a message; the middle of a long one is left out."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-197:]}"


def _restored(kind: type[InputError], what: str, where: str, expected: str, found: str) -> InputError:
    return kind(what, where=where, expected=expected, found=found)


class LeakError(InputError):
    """The data leak held-out rows, so results would be no evidence. The program's exit status is then 1."""


class UnavailableError(InputError):
    """An input that may be right cannot be used at the moment: memory is short, or the disk fails."""


def from_os_error(error: BaseException) -> InputError | None:
    """An error of the operating system as an InputError; None for other errors.

    Libraries may raise their own exceptions with the error number in the text: "… (os error 28)", "Os { code: 28, …".
    """
    match = re.search(r"\bos(?: error| \{ code:) (\d+)", str(error), re.IGNORECASE)
    if not isinstance(error, OSError) and match is None:
        return None
    number = error.errno if isinstance(error, OSError) else int(match[1])  # type: ignore[index]
    expected = {
        errno.ENOSPC: "room on the disk",
        getattr(errno, "EDQUOT", errno.ENOSPC): "room on the disk",
        errno.EFBIG: "a smaller file, or a file system for files of this size",
        errno.EISDIR: "a file",
        errno.ENOTDIR: "a folder above it instead of a file",
        errno.EEXIST: "a folder, or nothing of this name",
        errno.ENOENT: "an existing file or folder",
        errno.EMFILE: "fewer open files",
    }.get(number or 0, "one that may be read and written")
    path = (error.filename or error.filename2) if isinstance(error, OSError) else None
    message = error.strerror if isinstance(error, OSError) else None
    return InputError(
        "file or folder cannot be used" if path else "the operating system refused",
        where=str(path or "a file, a folder or a connection"),
        expected=expected,
        found=message.lower() if message else " ".join(str(error).split()),
    )


def one_of(known: Collection[str]) -> str:
    """The valid names, for messages."""
    return f"one of {', '.join(sorted(known))}" if known else "nothing: there is none"


def did_you_mean(name: object, known: Collection[str]) -> str:
    """A suggestion of the closest valid name, to append to ``found``; empty if none is close."""
    by_lower = {valid.lower(): valid for valid in known}
    near = get_close_matches(str(name).lower(), list(by_lower), 1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
