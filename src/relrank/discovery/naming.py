"""Columns of users that name items that these chose, and columns of items that name users who chose them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from relrank.discovery.columns import SAMPLE, Column
from relrank.discovery.draft import Draft
from relrank.discovery.leaks import EQUAL, FEWEST
from relrank.discovery.references import ALIKE

MARKS = ("|", ";", ",", "/", "&", "+", "\n")
"""Marks between the names in a cell; names may have many words, and need not occur twice."""
LISTED = 0.05
"""Share of the cells with a mark, at least."""
DIFFERENT, UNIQUE = 0.3, 0.8
"""Share of the rows that have a value of their own, at least, in a column that names nodes, and in one like a key."""
KNOWN = EQUAL
"""Share of the names that are those of nodes, at least, for a comparison."""
FEWEST_NAMES = 10
"""Different names, at least."""
PROBE = 1_000
"""Names by which a column is rejected early."""
COMPARED = 5_000
"""Names that are compared with the interactions of their rows."""
_NUMBER = r"^-?\d+(\.\d+)?$"
_PLAIN = pl.element().str.strip_chars().str.to_lowercase()


@dataclass(frozen=True, slots=False, eq=False)
class Names:
    """What the nodes of the other side are called.

    Attributes:
        draft: with the tables.
        node: their type.
        rows: of the interactions, with columns ``key`` and ``other``, the keys of the named nodes.
    """

    draft: Draft
    node: str
    rows: pl.DataFrame

    @cached_property
    def by_column(self) -> dict[str, pl.DataFrame]:
        """``other`` and ``value`` in lower case: the keys, and columns that tell most nodes apart, such as titles."""
        others = self.rows["other"].unique()
        found = {f"{self.node} keys": pl.DataFrame({"other": others, "value": others.str.to_lowercase()})}
        node = self.draft.nodes[self.node]
        if node.table is None or node.key is None:
            return found
        table = self.draft.tables[node.table]
        for column in table:
            if column.name == node.key or column.role is not None or column.kind not in ("value", "text", "email"):
                continue
            if column.n_distinct >= max(FEWEST_NAMES, DIFFERENT * column.n_known):
                frame = pl.DataFrame({"other": table[node.key].text, "value": column.text.str.to_lowercase()})
                found[column.where] = frame.drop_nulls().join(others.to_frame("other"), on="other", how="semi")
        return found

    @cached_property
    def _keys(self) -> pl.Series:
        return self.rows["key"].unique()

    @cached_property
    def _values(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(frame["value"]) for name, frame in self.by_column.items()}

    def chosen_in(self, column: Column, keys: pl.Series) -> str | None:
        """By what a column names nodes that its rows chose or were chosen by, if it does; None else.

        Args:
            column: of the nodes of one side.
            keys: of its rows, as text.
        """
        for name, parts in self._readings(column, keys, KNOWN):
            values = parts.filter(pl.col("key").is_in(self._keys.implode())).head(COMPARED)
            if self._agree(values, self.by_column[name]):
                return name
        return None

    def named_in(self, column: Column, keys: pl.Series) -> bool:
        """Whether nearly all values of a column are names of nodes, and no numbers, which are so by accident."""
        if column.kind == "number":
            return False
        for name, parts in self._readings(column, keys, ALIKE):
            values, names = parts["value"].unique(), self.by_column[name]["value"]
            numbers = float(values.str.contains(_NUMBER).mean() or 0)  # type: ignore[arg-type]
            unique = names.n_unique() >= UNIQUE * len(names)
            if len(values) < FEWEST_NAMES or numbers >= ALIKE or not unique:
                continue
            if float(values.is_in(names.implode()).mean() or 0) >= ALIKE:  # type: ignore[arg-type]
                return True
        return False

    def _readings(self, column: Column, keys: pl.Series, least: float) -> Iterator[tuple[str, pl.DataFrame]]:
        """Ways to read the cells as names, with the column of names that some of them are among.

        The second is ``key`` and ``value``, each pair once, of a sample of the rows.
        """
        if column.kind not in ("value", "text", "list", "number"):
            return
        for lists in _lists(column, keys):
            parts = (
                lists.explode("value", empty_as_null=True, keep_nulls=True).drop_nulls().unique(maintain_order=True)
            )
            probe = parts["value"].head(PROBE).unique()
            for name, values in self._values.items():
                if len(probe) >= 2 and sum(part in values for part in probe) >= 0.8 * least * len(probe):
                    yield name, parts

    def _agree(self, values: pl.DataFrame, names: pl.DataFrame) -> bool:
        """Whether rows name nodes of their own interactions, more often than rows in another order would."""
        if values.height < FEWEST:
            return False
        own = self.rows.filter(pl.col("key").is_in(values["key"].unique().implode())).select("key", "other").unique()
        pairs = own.join(names, on="other").select("key", "value").unique()
        agree = values.join(pairs, on=["key", "value"], how="semi").height / values.height
        have = pairs.group_by("value").agg(share=pl.len() / values["key"].n_unique())
        chance = float(values.join(have, on="value")["share"].sum()) / values.height
        return agree - chance >= EQUAL * (1 - chance) and chance < 1


def _lists(column: Column, keys: pl.Series) -> Iterator[pl.DataFrame]:
    """Cells as lists of text in lower case: as lists, or as they are and split at each mark that they have."""
    lists = column.json_lists if column.json_lists is not None else column.values if column.kind == "list" else None
    if lists is not None:
        if isinstance(lists.dtype, pl.List) and not lists.dtype.inner.is_nested():
            yield _sampled(keys, lists.cast(pl.List(pl.String)))
        return
    cells = _sampled(keys, pl.select(pl.concat_list(column.text)).to_series())
    yield cells
    for mark in MARKS if column.kind != "number" else ():
        if float(column.sample.str.contains(mark, literal=True).mean() or 0) >= LISTED:  # type: ignore[arg-type]
            yield cells.with_columns(pl.col("value").list.first().str.split(mark).list.eval(_PLAIN))


def _sampled(keys: pl.Series, lists: pl.Series) -> pl.DataFrame:
    """Some rows with columns ``key`` and ``value``, which holds lists."""
    rows = pl.DataFrame({"key": keys, "value": lists}).drop_nulls()
    rows = rows if rows.height <= SAMPLE else rows.sample(SAMPLE, seed=0)
    return rows.with_columns(pl.col("value").list.eval(_PLAIN))
