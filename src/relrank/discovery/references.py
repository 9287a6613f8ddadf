"""Which columns hold the keys of other tables: by the overlap of values, and by names where values say little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from relrank.discovery.columns import Column, Table
from relrank.discovery.statements import STATED
from relrank.discovery.vocabulary import (
    ITEM,
    MEASURES,
    USER,
    is_meaningless,
    names_a,
    same_word,
    topics_of,
)

PROBE = 2_000
"""Different values by which a column is rejected early."""
ALIKE, NAMED = 0.9, 0.5
"""Smallest share of different values that are keys of the other table; where the names agree, the second."""

FOLDED = 0.02
"""Share of further keys that match in another notation, from which on keys are read in it."""

Form = Literal["same", "folded"]
"""How values match keys: as they are written, or but for case, spaces and leading zeros."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A column whose values are keys of a table.

    Attributes:
        table: with the column.
        column: its name.
        target: the table with the keys.
        key: its column, each value once.
        overlap: share of the different values that are keys.
        coverage: share of the keys that occur.
        form: how they match.
        named: how far the names say so, too: 2 if they have a word in common, 1 if both are of users or of items.
        stated: whether the file states it.
    """

    table: str
    column: str
    target: str
    key: str
    overlap: float
    coverage: float
    form: Form
    named: int
    stated: bool = False

    @property
    def strength(self) -> float:
        """For the choice among several targets of a column."""
        return self.overlap + self.coverage + self.named - (0.3 if self.form == "folded" else 0.0)

    @property
    def source(self) -> str:
        """The end of a message about the reference: who says so, if it is not the values."""
        return STATED if self.stated else ""


def fold(values: pl.Series) -> pl.Series:
    """Keys but for case, spaces, leading zeros and a trailing ``.0``."""
    text = values.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    return text.str.replace(r"^0+(\d)", "$1").str.replace(r"^(\d+)\.0+$", "$1")


def primary_keys(table: Table) -> list[Column]:
    """The columns with a value of its own in every row that may be keys; row numbers only if they are named keys.

    Of a table whose file states its key, that column alone.
    """
    if table.stated is not None:
        return [] if table.stated.key is None else [table[table.stated.key]]
    unique = [c for c in table if c.is_unique and c.may_be_key and not names_a(c.name, MEASURES)]
    numbered = [c for c in unique if c.is_row_number and _is_index(c.name)]
    return [c for c in unique if c not in numbered]


def _is_index(name: str) -> bool:
    """Whether a name is that of an index that a program wrote: ``Unnamed: 0``, ``index`` or nothing."""
    lower = name.strip().lower()
    return lower in ("", "index", "level_0", "row", "rownum", "row_number", "row_id", "nr", "lfd", "#") or (
        lower.startswith(("unnamed", "_duplicated"))
    )


def references(tables: Mapping[str, Table], of: str | None = None) -> list[Reference]:
    """All columns that hold keys of other tables, with each table whose keys they may be.

    Between tables whose files state their keys, what is stated alone.

    Args:
        tables: by name.
        of: the table that all references start from or lead to; None for any.
    """
    keys = [key for table in tables.values() for key in primary_keys(table)]
    result = []
    for table in tables.values():
        foreign = {} if table.stated is None else table.stated.foreign
        for column in table:
            if not column.may_be_key or column.n_distinct < 2:
                continue
            if column.name in foreign:
                target = tables.get(foreign[column.name])
                key = None if target is None else key_stated_of(column, target)
                result += [_stated_reference(column, key)] if key and of in (None, table.name, key.table) else []
                continue
            others = (k for k in keys if k.table != table.name and of in (None, table.name, k.table))
            guessed = (k for k in others if table.stated is None or tables[k.table].stated is None)
            result += [r for key in guessed if (r := _reference(column, key, False)) is not None]
    return result


def key_stated_of(column: Column, target: Table) -> Column | None:
    """The column of a table whose keys a column is stated to hold: the stated one, else the one that fits best."""
    return max(primary_keys(target), key=lambda key: _stated_reference(column, key).strength, default=None)


def _stated_reference(column: Column, key: Column) -> Reference:
    both = int(column.distinct.is_in(key.distinct.implode()).sum())
    overlap, coverage = both / max(1, column.n_distinct), both / max(1, key.n_distinct)
    return Reference(column.table, column.name, key.table, key.name, overlap, coverage, "same", 2, stated=True)


def best_reference(column: Column, keys: Iterable[Column], among_rows: bool = False) -> Reference | None:
    """The reference of a column to the keys that fit it best; None if it fits none.

    Args:
        column: with values that may be keys.
        keys: columns with keys.
        among_rows: whether keys occur in several rows, as those of interactions do.
    """
    if not column.may_be_key or column.n_distinct < 2:
        return None
    found = [r for key in keys if (r := _reference(column, key, among_rows)) is not None]
    return max(found, key=lambda r: r.strength, default=None)


def _reference(column: Column, key: Column, among_rows: bool) -> Reference | None:
    named = _named(column, key, among_rows)
    if names_a(column.name, MEASURES) and not named:
        return None
    least = NAMED if named else ALIKE
    found: list[Reference] = []
    forms: tuple[Form, ...] = ("same", "folded")
    for form in forms:
        if found and found[0].overlap == 1.0:
            break
        mine, others = (column.distinct, key.distinct) if form == "same" else (_folded(column), _folded(key))
        if form == "folded" and ((column.is_whole and key.is_whole) or others.n_unique() < key.n_distinct):
            break
        probe = mine if len(mine) <= PROBE else mine.sample(PROBE, seed=0)
        if float(probe.is_in(others.implode()).mean() or 0) < 0.8 * least:  # type: ignore[arg-type]
            continue
        both = int(mine.unique().is_in(others.implode()).sum())
        overlap, coverage = both / max(1, mine.n_unique()), both / key.n_distinct
        reference = Reference(
            column.table, column.name, key.table, key.name, overlap, coverage, form, named
        )  # fmt: skip
        if overlap >= least and (named or _is_no_accident(column, key, reference)):
            found.append(reference)
    return max(found, key=lambda r: r.overlap - (FOLDED if r.form == "folded" else 0.0), default=None)


def _folded(column: Column) -> pl.Series:
    return fold(column.distinct)


def _largest(column: Column) -> float:
    return 0.0 if column.numbers is None else float(column.numbers.max() or 0)  # type: ignore[arg-type]


def _named(column: Column, key: Column, among_rows: bool) -> int:
    """How far names say that a column holds keys: ``brand_id`` of ``brands.id``, ``kunde`` of ``Kunden.KundenNr``."""
    mine, other = topics_of(column.name), topics_of(key.name)
    table = () if among_rows else topics_of(key.table)
    if not mine or is_meaningless(column.name):
        return 0
    if column.name.lower() == key.name.lower() or (other and mine == other):
        return 2
    if any(same_word(a, b) for a in mine for b in table) and (
        not other or is_meaningless(key.name) or any(same_word(a, b) for a in other for b in (*mine, *table))
    ):
        return 2
    for vocabulary in (USER, ITEM):
        others = f"{key.name} {' '.join(table)}"
        if names_a(column.name, vocabulary) and names_a(others, vocabulary):
            return 1
    return 0


def _is_no_accident(column: Column, key: Column, reference: Reference) -> bool:
    """Whether values alone show a reference: text does, small whole numbers only if they cover the keys."""
    if column.is_whole:
        if not (is_meaningless(column.name) or is_meaningless(key.name) or not topics_of(column.name)):
            return False  # a name that speaks of something else
        ends = _largest(column) >= 0.97 * _largest(key)
        return reference.overlap == 1.0 and reference.coverage >= 0.5 and column.n_distinct >= 20 and ends
    return column.n_distinct >= 3 or reference.coverage >= 0.5
