"""What reading dropped or repaired, said with a count."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """A counted warning: rows dropped or values replaced by a stated policy.

    Attributes:
        where: file, table or step.
        message: the policy that was applied, one clause.
        count: rows (or keys, as the message says) it touched; never 0.
    """

    where: str
    message: str
    count: int

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.count:,})"
