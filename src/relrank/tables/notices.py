"""Counted warnings of what reading dropped or changed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """A counted warning: rows were dropped or values replaced by a stated policy.

    Attributes:
        where: file, table or step.
        message: the policy, one clause.
        count: affected rows (or keys, as the message says); never 0.
    """

    where: str
    message: str
    count: int

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.count:,})"
