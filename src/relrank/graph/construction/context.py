"""What a relation or feature is built from, with notices and errors that name it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from relrank.errors import InputError, did_you_mean, one_of
from relrank.tables.missing import shown
from relrank.tables.notices import Notice
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Progress = Callable[[str, int, int], None]
"""Called during long work with its name, the number of steps done, and their total."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class BuildContext:
    """The data of a relation or feature that is built, and counts of what is dropped.

    Attributes:
        name: of the relation or feature.
        tables: the data.
        split: with the users and items of the graph, and the training rows.
        notices: counts so far.
        progress: called during long work.
    """

    name: str
    tables: Tables
    split: Split
    notices: list[Notice] = field(default_factory=list)
    progress: Progress = silent

    @property
    def where(self) -> str:
        """The place that errors name."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The place that notices name."""
        return self.where

    def count(self, message: str, number: int | np.integer) -> None:
        """Note the number of rows or nodes that a policy affected."""
        if number:
            self.notices.append(Notice(self.label, message, int(number)))

    def error(self, what: str, *, expected: str, found: str) -> InputError:
        """The error to raise."""
        return InputError(what, where=self.where, expected=expected, found=found)

    def unknown(self, what: str, name: str, known: Collection[str], inside: str = "") -> InputError:
        """The error for a name that is not among the known ones."""
        return self.error(what, expected=one_of(known) + inside, found=repr(name) + did_you_mean(name, known))


def examples(values: pl.Series) -> str:
    """Data type and first values of a column, for messages."""
    first = values.drop_nulls().head(3)
    few = ", ".join(shown(first, row) for row in range(len(first)))
    return f"{values.dtype} values such as {few}" if few else f"{values.dtype} values, all missing"
