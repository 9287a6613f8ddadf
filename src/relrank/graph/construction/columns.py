"""Columns of node tables as values: text, parts of a cell, numbers, intervals. Relations and features read alike."""

from __future__ import annotations

import unicodedata
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.errors import InputError
from relrank.graph.construction.relation_builder import Progress, examples
from relrank.graph.construction.relation_config import Binning, Categories, MultiValued
from relrank.kernels.csr import Float64
from relrank.tables.files import has_text, read_numbers
from relrank.tables.missing import without_missing
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Bool = npt.NDArray[np.bool_]


PATHS = (" > ", " / ", " :: ", " » ")
"""What stands between the levels of paths."""
LISTS, LISTS_SHARE = ("|", ";", ","), 0.2
"""What stands between the values of lists, and the share of cells that hold it."""


class BuildContext(Protocol):
    """Who reads a column: has the tables, a place to count what a policy touched, and a name for errors."""

    @property
    def tables(self) -> Tables:
        """Where the rows are."""

    @property
    def progress(self) -> Progress:
        """Told of long work."""

    def count(self, message: str, number: int | np.integer) -> None:
        """Note rows or nodes that a policy touched."""

    def error(self, what: str, *, expected: str, found: str) -> InputError:
        """The error to raise."""


def as_text(reader: BuildContext, values: pl.Series, column: str) -> pl.Series:
    """Values as keys: stripped text; 1995.0 is "1995"; missing values are null."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(values.dtype).eq_missing(values)).all() else values
    elif not has_text(values.dtype):
        found = f"{column}: {values.dtype}"
        raise reader.error("column cannot be read as values", expected="text, numbers or a list", found=found)
    return without_missing(values.cast(pl.String), reader.tables.na_values).str.strip_chars()


def as_parts(reader: BuildContext, values: pl.Series, column: str, config: Categories) -> pl.DataFrame:
    """``row`` (int32) and ``value`` (text) for every part of every cell, each once; a list has its elements.

    What looks as if another setting were meant is counted: several spellings, lists and paths that are not split.
    """
    separator, levels = (config.separator, config.levels) if isinstance(config, MultiValued) else (None, None)
    if values.dtype == pl.String:
        _hint(reader, values.drop_nulls(), column, separator, levels)
    if separator is not None:
        if values.dtype != pl.String:
            found = f"{column}: {values.dtype}"
            raise reader.error("separator on a column that is not text", expected="a text column", found=found)
        values = values.str.split(separator)
    cells = pl.DataFrame({"row": np.arange(len(values), dtype=np.int32), "value": values})
    if isinstance(values.dtype, pl.List):
        cells = cells.explode("value")
    parts = cells.select("row", value=as_text(reader, cells["value"], column)).drop_nulls()
    if levels is not None:
        parts = _with_parents(parts, levels)
    parts = _one_spelling(reader, parts, config.ignore_case)
    once = parts.unique(maintain_order=True)
    reader.count("value repeated in one cell: counts once", len(parts) - len(once))
    return once


def _hint(reader: BuildContext, cells: pl.Series, column: str, separator: str | None, levels: str | None) -> None:
    """Count cells that look like lists or paths and are not split, and a separator that no cell holds."""
    if not len(cells):
        return
    if separator is not None and not cells.str.contains(separator, literal=True).any():
        reader.count(f"{column}: no cell holds the separator {separator!r}", len(cells))
    for mark in PATHS:
        holding = int(cells.str.contains(mark, literal=True).sum())
        if levels is None and separator != mark and 2 * holding >= len(cells):
            message = f"cells look like paths, one value each: levels = {mark.strip()!r} has their levels"
            reader.count(f"{column}: {message}", holding)
            return
    different = cells.unique()
    for mark in LISTS:
        holding = int(cells.str.contains(mark, literal=True).sum())
        if mark in (separator, levels) or holding < LISTS_SHARE * len(cells):
            continue
        if different.str.split(mark).explode().str.strip_chars().n_unique() < len(different):
            reader.count(f"{column}: cells look like lists: separator = {mark!r} would split them", holding)
            return


def _with_parents(parts: pl.DataFrame, levels: str) -> pl.DataFrame:
    """Each path as its levels: the path down to each."""
    mark = f" {levels.strip() or levels} "
    one = parts.select(pl.col("value").unique(maintain_order=True))
    steps = [[step for s in path.split(levels) if (step := s.strip())] for path in one["value"]]
    paths = [[mark.join(path[: n + 1]) for n in range(len(path))] for path in steps]
    known = one.with_columns(path=pl.Series(paths, dtype=pl.List(pl.String)))
    return (
        parts.join(known, on="value", maintain_order="left").explode("path").select("row", value="path").drop_nulls()
    )


def _one_spelling(reader: BuildContext, parts: pl.DataFrame, merged: bool) -> pl.DataFrame:
    """Values that differ only in case or spaces: the most frequent spelling where they are merged, else counted."""
    counts = parts["value"].value_counts(name="count").sort("count", "value", descending=[True, False])
    plain = [" ".join(unicodedata.normalize("NFKC", value).casefold().split()) for value in counts["value"]]
    best = dict(zip(reversed(plain), reversed(counts["value"].to_list()), strict=True))
    rare = [best[p] != value for p, value in zip(plain, counts["value"], strict=True)]
    others = counts.filter(pl.Series(rare, dtype=pl.Boolean))
    if others.is_empty():
        return parts
    if merged:
        spelling = {v: best[p] for p, v in zip(plain, counts["value"], strict=True)}
        reader.count("spellings of a value that are rarer than another: read as that", int(others["count"].sum()))
        return parts.with_columns(pl.col("value").replace(spelling))
    value = others["value"][0]
    other = best[plain[counts["value"].to_list().index(value)]]
    message = f"values that differ from another in case or spaces alone, such as {value!r} and {other!r}"
    reader.count(f"{message}: ignore_case = true makes them one", len(others))
    return parts


def as_numbers(reader: BuildContext, values: pl.Series, column: str) -> Float64:
    """Float64 [n], NaN where there is no number.

    Raises:
        InputError: the column is not numeric, or one of its texts is no number.
    """
    values = without_missing(values, reader.tables.na_values)
    numbers = read_numbers(values)
    bad = values.filter(numbers.is_null() & values.is_not_null())
    if len(bad):
        found = f"{column}: {examples(bad)}; {len(bad):,} of {len(values):,} in all"
        raise reader.error("column is not numeric", expected="numbers", found=found)
    return numbers.fill_null(np.nan).to_numpy()


def as_one_text(reader: BuildContext, columns: list[pl.Series]) -> tuple[pl.Series, Bool]:
    """Text columns joined by a space, missing ones left out; and where there is any text at all, bool [n].

    Raises:
        InputError: a column is not text.
    """
    for column in columns:
        if column.dtype != pl.String:
            raise reader.error("column is not text", expected="text", found=f"{column.name}: {examples(column)}")
    columns = [without_missing(column, reader.tables.na_values) for column in columns]
    text = pl.DataFrame(columns).select(text=pl.concat_str(pl.all(), separator=" ", ignore_nulls=True))["text"]
    return text, (text.str.strip_chars() != "").fill_null(False).to_numpy()


def inner_edges(reader: BuildContext, values: Float64, trained: Bool, cuts: Binning) -> Float64:
    """The edges between intervals, ascending; quantiles are those of ``trained`` rows that have a value.

    Raises:
        InputError: no such row.
    """
    if cuts.edges is not None:
        return np.asarray(cuts.edges, np.float64)
    known = ~np.isnan(values)
    if not (known & trained).any():
        found = f"{int(known.sum())} values in other rows"
        raise reader.error("no value to fit quantiles on", expected="values in training rows", found=found)
    assert cuts.quantiles is not None
    shares = np.arange(1, cuts.quantiles) / cuts.quantiles
    inner: Float64 = np.unique(np.quantile(values[known & trained], shares, method="inverted_cdf"))
    reader.count("quantiles that coincide: merged", cuts.quantiles - 1 - inner.size)
    return inner


def in_training(tables: Tables, split: Split, node_type: str, n: int) -> Bool:
    """Which of the ``n`` nodes of a type occur in training rows, bool [n]; all of a type that they do not link."""
    train = {tables.user: split.train.user, tables.item: split.train.item}
    return np.isin(np.arange(n), train[node_type]) if node_type in train else np.ones(n, np.bool_)
