"""The exceptions a user's input can raise."""

from __future__ import annotations


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
        super().__init__(f"{what}\n  where:    {where}\n  expected: {expected}\n  found:    {found}")
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found


class LeakError(InputError):
    """The data give held-out rows away: a result would be no evidence. The program's exit status is then 1."""
