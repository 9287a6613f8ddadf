"""Columns of node tables as values: text, parts of a cell, numbers, intervals. Relations and features read alike."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.csr import Float64
from relrank.errors import InputError
from relrank.graph.joins import Progress, examples
from relrank.graph.recipes import Cuts
from relrank.tables.files import has_text, read_numbers
from relrank.tables.missing import without_missing
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Bool = npt.NDArray[np.bool_]


class Reader(Protocol):
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


def as_text(reader: Reader, values: pl.Series, column: str) -> pl.Series:
    """Values as keys: stripped text; 1995.0 is "1995"; missing values are null."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(values.dtype).eq_missing(values)).all() else values
    elif not has_text(values.dtype):
        found = f"{column}: {values.dtype}"
        raise reader.error("column cannot be read as values", expected="text, numbers or a list", found=found)
    return without_missing(values.cast(pl.String), reader.tables.na_values).str.strip_chars()


def as_parts(reader: Reader, values: pl.Series, column: str, separator: str | None) -> pl.DataFrame:
    """``row`` (int32) and ``value`` (text) for every part of every cell, each once; a list has its elements."""
    if separator is not None:
        if values.dtype != pl.String:
            found = f"{column}: {values.dtype}"
            raise reader.error("separator on a column that is not text", expected="a text column", found=found)
        values = values.str.split(separator)
    cells = pl.DataFrame({"row": np.arange(len(values), dtype=np.int32), "value": values})
    if isinstance(values.dtype, pl.List):
        cells = cells.explode("value")
    parts = cells.select("row", value=as_text(reader, cells["value"], column)).drop_nulls()
    once = parts.unique(maintain_order=True)
    reader.count("value repeated in one cell: counts once", len(parts) - len(once))
    return once


def as_numbers(reader: Reader, values: pl.Series, column: str) -> Float64:
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


def as_one_text(reader: Reader, columns: list[pl.Series]) -> tuple[pl.Series, Bool]:
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


def inner_edges(reader: Reader, values: Float64, trained: Bool, cuts: Cuts) -> Float64:
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
