"""Columns that seem to be computed from the interactions that are to be predicted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from relrank.discovery.columns import Column
from relrank.discovery.vocabulary import AMBIGUOUSLY_COMPUTED, COMPUTED, EVENTS, names_a, words_of

EQUAL = 0.8
"""Share of the nodes whose value equals what was computed from the interactions, for a leak."""
RANKED = 0.97
"""Rank correlation with what was computed from the interactions, for a leak."""
FEWEST = 20
"""Nodes with a value that are compared, at least."""


@dataclass(frozen=True, slots=False, eq=False)
class Figures:
    """What can be computed of one side of the interactions.

    Attributes:
        side: "users" or "items", for messages.
        rows: of the interactions, with columns ``key`` (text), ``other`` (text) and any of ``time``, ``rating`` and
            ``event``.
    """

    side: str
    rows: pl.DataFrame

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row per key: numbers of rows and of the other side, mean rating, first and last time."""
        figures = [pl.len().alias("number of rows"), pl.col("other").n_unique().alias("number of the other side")]
        if "event" in self.rows.columns:
            figures.append(pl.col("event").n_unique().alias("number of events"))
        if "rating" in self.rows.columns:
            figures += [
                pl.col("rating").mean().alias("mean rating"),
                pl.col("rating").sum().alias("sum of ratings"),
            ]
        if "time" in self.rows.columns:
            at = pl.col("time").cast(pl.Int64)
            figures += [at.max().alias("last time"), at.min().alias("first time")]
        return self.rows.group_by("key").agg(figures)

    def computed_as(self, column: Column, keys: pl.Series) -> str | None:
        """What a column of a node table was computed as, if it was; None else.

        Args:
            column: numbers or times.
            keys: of its rows, as text.
        """
        values = column.times.cast(pl.Int64) if column.times is not None else column.numbers
        if values is None or values.drop_nulls().n_unique() < 5:
            return None
        both = pl.DataFrame({"key": keys, "value": values.cast(pl.Float64)}).drop_nulls().join(self.table, on="key")
        if both.height < FEWEST:
            return None
        for name in both.columns[2:]:
            if name.endswith("time") != (column.times is not None):
                continue
            figure = both[name].cast(pl.Float64)
            if figure.n_unique() < 5 or not _is_alike(both["value"], figure, name):
                continue
            return name
        return None


def _is_alike(values: pl.Series, figure: pl.Series, name: str) -> bool:
    close = 86_400e9 if name.endswith("time") else 0.0051 if name == "mean rating" else 0.5
    if float(((values - figure).abs() <= close).mean() or 0) >= EQUAL:  # type: ignore[arg-type]
        return True
    if name == "first time":
        return False  # when an item came into the shop is close to its first sale, and known before it
    a, b = values.rank().to_numpy(), figure.rank().to_numpy()
    return bool(abs(np.corrcoef(a, b)[0, 1]) >= RANKED)  # rank 1 may be the best seller


def sounds_computed(name: str) -> bool:
    """Whether a name is that of a count, an average or a rank of interactions."""
    words = words_of(name)
    if names_a(name, COMPUTED):
        return True
    return names_a(name, AMBIGUOUSLY_COMPUTED) and len(words) > 1 and any(names_a(w, EVENTS) for w in words)
