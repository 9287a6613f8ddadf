"""Tables in another shape than study files have: logs of several kinds of events, rows that repeat attributes."""

from __future__ import annotations

import polars as pl

from relrank.discovery.columns import Column, Table
from relrank.discovery.draft import snake
from relrank.discovery.vocabulary import STRONG, WEAK, names_a

MOST_KINDS = 12
"""Different kinds of events in a table, at most."""
FEWEST_REPEATED = 5
"""Keys in several rows, at least, for saying what depends on them."""
REPEATED = 2.0
"""Rows per key, at least: of single rows everything depends on the key."""
DEPENDENT = 1.02
"""Different pairs of a key and a value per key, at most, for an attribute of the key."""


def split_by_event(table: Table) -> dict[str, pl.DataFrame]:
    """The rows of a log of several behaviours, by behaviour; {} if the table is none.

    Args:
        table: with a column such as ``event``, whose values are view, cart, purchase.
    """
    for column in table:
        if column.kind != "value" or not 2 <= column.n_distinct <= MOST_KINDS or table.rows < 10 * column.n_distinct:
            continue
        if sum(names_a(value, STRONG | WEAK) for value in column.distinct) < 2:
            continue
        kinds = [kind for kind in column.distinct if names_a(kind, STRONG | WEAK)]
        rest = table.frame.drop(column.name)
        return {f"{table.name}-{snake(kind)}": rest.filter(column.text == kind) for kind in kinds}
    return {}


def depends_on_key(pairs: pl.DataFrame) -> bool:
    """Whether keys that occur in several rows nearly always have one value in all of them.

    Args:
        pairs: columns ``key`` and ``value``.
    """
    several = pairs.filter(pl.col("key").is_duplicated())
    keys = several["key"].n_unique()
    return keys >= FEWEST_REPEATED and several.n_unique() <= DEPENDENT * keys


def attributes_in_rows(table: Table, key: Column, used: set[str | None]) -> pl.DataFrame | None:
    """One row per key with the columns that depend on it alone; None if there are none.

    Args:
        table: of interactions.
        key: its column of users or items.
        used: columns with another meaning.
    """
    dependent = []
    for column in table:
        if column.name in used or column.name == key.name or column.n_distinct < 2 or column.kind == "time":
            continue
        pairs = pl.DataFrame({"key": key.text, "value": column.text}).drop_nulls()
        if pairs.height >= REPEATED * pairs["key"].n_unique() and depends_on_key(pairs):
            dependent.append(column.name)
    if not dependent:
        return None
    firsts = [pl.col(name).drop_nulls().first() for name in dependent]
    return table.frame.drop_nulls(key.name).group_by(key.name, maintain_order=True).agg(firsts)
