"""The exceptions a user's input can raise."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """Something outside the program is not as it must be: a file, a table, a key, a setting.

    The message always answers four questions, so that a user can act on it without a stack trace.

    Args:
        what: what is wrong, one clause, e.g. ``"column not found"``.
        where: the file, table, row or key, e.g. ``"ratings.csv, row 17"``.
        expected: what would have been right.
        found: what was there instead.
    """

    def __init__(self, what: str, *, where: str, expected: str, found: str) -> None:
        parts = (_shown(part) for part in (where, expected, found))
        super().__init__("{}\n  where:    {}\n  expected: {}\n  found:    {}".format(what, *parts))
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[Any, ...]:
        """As its four parts: by default one message would be handed to a call that wants four, in another process."""
        return _again, (type(self), self.what, self.where, self.expected, self.found)


LONGEST = 1000
"""Characters of a part of a message, of which more is left out: a key may be a page of text."""


def _shown(text: str) -> str:
    """A part of a message, its middle left out where it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 200]} … {text[-197:]}"


def _again(kind: type[InputError], what: str, where: str, expected: str, found: str) -> InputError:
    return kind(what, where=where, expected=expected, found=found)


class LeakError(InputError):
    """The data give held-out rows away: a result would be no evidence. The program's exit status is then 1."""


class UnavailableError(InputError):
    """Something that may be right cannot be had at the moment: for want of memory, or the disk does not give it."""


def from_os_error(error: BaseException) -> InputError | None:
    """What the operating system refused, as four answers; None where it did not.

    A library may say so under a name of its own, with the number behind it: "… (os error 28)", or "Os { code: 28, …".
    """
    told = re.search(r"\bos(?: error| \{ code:) (\d+)", str(error), re.IGNORECASE)
    if not isinstance(error, OSError) and told is None:
        return None
    number = error.errno if isinstance(error, OSError) else int(told[1])  # type: ignore[index]
    expected = {
        errno.ENOSPC: "room on the disk",
        getattr(errno, "EDQUOT", errno.ENOSPC): "room on the disk",
        errno.EFBIG: "a smaller file, or a system that takes one as large",
        errno.EISDIR: "a file",
        errno.ENOTDIR: "a folder above it, where a file is now",
        errno.EEXIST: "a folder, or nothing there yet",
        errno.ENOENT: "a place that is there",
        errno.EMFILE: "fewer open files",
    }.get(number or 0, "one that may be read and written")
    place = (error.filename or error.filename2) if isinstance(error, OSError) else None
    said = error.strerror if isinstance(error, OSError) else None
    return InputError(
        "file or folder cannot be used" if place else "the operating system refused",
        where=str(place or "a file, a folder or a connection"),
        expected=expected,
        found=said.lower() if said else " ".join(str(error).split()),
    )


def one_of(known: Collection[str]) -> str:
    """The names that could have been, for messages."""
    return f"one of {', '.join(sorted(known))}" if known else "nothing: there is none"


def did_you_mean(name: object, known: Collection[str]) -> str:
    """The nearest known name, for the end of what was found; nothing where none is near."""
    by_lower = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), list(by_lower), 1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
