"""Columns of users that seem to be computed from what they chose: their last brand, their favourite category."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from relrank.discovery.columns import Column
from relrank.discovery.draft import Draft
from relrank.discovery.leaks import EQUAL, FEWEST, sounds_computed
from relrank.discovery.values import list_separator, path_mark
from relrank.discovery.vocabulary import (
    CHOSEN,
    EVENTS,
    ITEM,
    ITEM_ATTRIBUTES,
    NEITHER,
    TITLES,
    names_a,
    share_topic,
    words_of,
)

OPEN = " ("
"""What follows says which part of the cells of an attribute is meant."""
LEVELS = 3
"""Levels of paths that are compared."""
MOST_HOPS = 2
"""References between items and a table with attributes of them, at most."""
KNOWN = 0.5
"""Share of the different values of a column that items must have, for a comparison."""


@dataclass(frozen=True, slots=False, eq=False)
class Tastes:
    """What can be said of the items that each user chose.

    Attributes:
        draft: with the tables.
        item: type of the items.
        rows: of the interactions, with columns ``key`` (user), ``other`` (item), and ``time`` if there are any.
        chosen: by attribute, what each user chose last and most, as far as it was asked for.
    """

    draft: Draft
    item: str
    rows: pl.DataFrame
    chosen: dict[str, dict[str, pl.DataFrame]] = field(default_factory=dict)

    @cached_property
    def attributes(self) -> dict[str, pl.DataFrame]:
        """By name, columns ``other`` and ``value`` in lower case, each pair once."""
        items = self.rows["other"].unique()
        keys = pl.DataFrame({"other": items, "value": items})
        node = self.draft.nodes[self.item]
        found = {self.item: keys}
        if node.table is not None and node.key is not None:
            found |= dict(self._of_table(node.table, node.key, keys, {node.table}))
        return {
            name: frame.with_columns(pl.col("value").str.to_lowercase()).unique() for name, frame in found.items()
        }

    def _of_table(
        self, table: str, key: str, keys: pl.DataFrame, seen: set[str]
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """The attributes of items that a table holds, or one that it refers to.

        Args:
            table: its name.
            key: its column of keys.
            keys: columns ``other`` and ``value``, the key of each item.
            seen: this table and those before it.
        """
        for column in self.draft.tables[table]:
            if column.name == key or not (column.may_be_key or column.kind in ("value", "list", "text")):
                continue
            values = pl.DataFrame({"key": self.draft.tables[table][key].text, "value": column.text})
            of_items = keys.join(values, left_on="value", right_on="key").select("other", value="value_right")
            for reference in self.draft.references_of(table, column.name):
                if reference.form == "same" and reference.target not in seen and len(seen) <= MOST_HOPS:
                    further = {*seen, reference.target}
                    yield from self._of_table(reference.target, reference.key, of_items.drop_nulls(), further)
            for part, cells in _readings(column):
                read = pl.DataFrame({"key": values["key"], "part": cells})
                read = read.explode("part") if cells.dtype == pl.List(pl.String) else read
                read = keys.join(read, left_on="value", right_on="key").select("other", value="part").drop_nulls()
                yield f"{column.where}{part}", read

    def computed_as(self, column: Column, keys: pl.Series) -> str | None:
        """What a column of users was computed as, if it was; None else.

        Args:
            column: values.
            keys: of its rows, as text.
        """
        if column.kind not in ("value", "text") and not column.may_be_key:
            return None
        values = pl.DataFrame({"key": keys, "value": column.text.str.to_lowercase()}).drop_nulls().unique("key")
        different = values["value"].unique()
        if len(different) < 2:
            return None
        for name, attribute in self.attributes.items():
            if float(different.is_in(attribute["value"].implode()).mean() or 0) < KNOWN:  # type: ignore[arg-type]
                continue
            if name not in self.chosen:
                self.chosen[name] = dict(self._chosen(attribute))
            for what, chosen in self.chosen[name].items():
                if _agree(values, chosen):
                    return f"{what} {name}"
        return None

    def _chosen(self, attribute: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
        """What each user chose last and most: columns ``key`` and ``value``, several rows where they tie."""
        rows = self.rows.join(attribute, on="other")
        if "time" in rows.columns:
            last = rows.drop_nulls("time").filter(pl.col("time") == pl.col("time").max().over("key"))
            yield "last", last.select("key", "value").unique()
        yield "most frequent", _most(rows, "value").select("key", "value")
        items = _most(self.rows, "other").filter(~pl.col("key").is_duplicated())
        if 2 * items.height >= self.rows["key"].n_unique():
            yield "most frequent item's", items.join(attribute, on="other").select("key", "value")

    def sounds_chosen(self, name: str) -> bool:
        """Whether a name is that of what users chose last or most, such as ``recent_brand`` or ``top_genre``."""
        if sounds_computed(name) or all(names_a(word, CHOSEN | EVENTS) for word in words_of(name)):
            return True
        if not names_a(name, CHOSEN) or names_a(name, TITLES):
            return False
        of_items = names_a(name, ITEM | ITEM_ATTRIBUTES | EVENTS | NEITHER)
        return of_items or any(share_topic(name, of.partition(OPEN)[0].rpartition(".")[2]) for of in self.attributes)


def _readings(column: Column) -> Iterator[tuple[str, pl.Series]]:
    """Ways to read the cells of an attribute, and what each holds of them: text, or lists of text."""
    lists = column.json_lists if column.json_lists is not None else column.values if column.kind == "list" else None
    if lists is None:
        yield "", column.text
        if (mark := path_mark(column)) is not None:
            levels = column.text.str.split(mark)
            for n in range(LEVELS):
                yield f"{OPEN}level {n + 1})", levels.list.get(n, null_on_oob=True).str.strip_chars()
            return
        if (separator := list_separator(column)) is None:
            return
        lists = column.text.str.split(separator).list.eval(pl.element().str.strip_chars())
    elif isinstance(lists.dtype, pl.List) and not lists.dtype.inner.is_nested():
        lists = lists.cast(pl.List(pl.String))
    else:
        return
    yield f"{OPEN}each value)", lists
    yield f"{OPEN}first value)", lists.list.get(0, null_on_oob=True)


def _most(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """The values that occur in most rows of each key, all that tie."""
    counts = rows.group_by("key", column).agg(pl.len().alias("n"))
    return counts.filter(pl.col("n") == pl.col("n").max().over("key"))


def _agree(values: pl.DataFrame, chosen: pl.DataFrame) -> bool:
    """Whether users have the values that they chose, more often than users in another order would."""
    values = values.join(chosen, on="key", how="semi")
    if values.height < FEWEST:
        return False
    chosen = chosen.join(values, on="key", how="semi")
    agree = values.join(chosen, on=["key", "value"], how="semi").height / values.height
    have, chose = (frame.group_by("value").agg(pl.len().alias("n")) for frame in (values, chosen))
    both = have.join(chose, on="value")
    by_chance = float((both["n"] * both["n_right"]).sum()) / values.height**2
    return agree - by_chance >= EQUAL * (1 - by_chance) and by_chance < 1
