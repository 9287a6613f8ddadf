"""Missing values: one rule for keys, times, numbers, attributes, features, texts and links of every table.

Missing are null, NaN, empty and blank text, and the words that programs write for missing values. Words are compared
case-sensitively, without spaces at their ends; ``[data] na_values`` replaces the list.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import polars as pl

from relrank.errors import InputError
from relrank.tables.notices import Notice

NA_VALUES = (
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "-NaN",
    "NaT",
    "None",
    "null",
    "NULL",
    "NA",
    "N/A",
    "n/a",
    "<NA>",
    "#NA",
    "#N/A",
    "#N/A N/A",
    "\\N",
    "1.#IND",
    "-1.#IND",
    "1.#QNAN",
    "-1.#QNAN",
)
"""The words that pandas reads as missing, NaT, and \\N of database dumps."""


def absent(values: pl.Expr, dtype: pl.DataType, words: Collection[str] = NA_VALUES) -> pl.Expr:
    """Which values of a column are missing; never null.

    Args:
        values: the column.
        dtype: of its values.
        words: that are missing values.
    """
    if isinstance(dtype, pl.Categorical | pl.Enum):
        values, dtype = values.cast(pl.String), pl.String()
    if dtype == pl.String:
        return values.is_null() | values.str.strip_chars().is_in(["", *words]).fill_null(True)
    return values.is_null() | values.is_nan().fill_null(True) if dtype.is_float() else values.is_null()


def is_missing(values: pl.Series, words: Collection[str] = NA_VALUES) -> pl.Series:
    """Which values are missing; never null."""
    return values.to_frame("v").select(absent(pl.col("v"), values.dtype, words))["v"]


def without_missing(values: pl.Series, words: Collection[str] = NA_VALUES) -> pl.Series:
    """The values, with null for missing ones."""
    missing = is_missing(values, words)
    if missing.sum() == values.null_count():
        return values
    return values.to_frame("v").select(pl.when(~missing).then(pl.col("v")))["v"].alias(values.name)


def spaced(values: pl.Series, where: str) -> list[Notice]:
    """A notice of text keys with spaces at their ends, where "a" and "a " are different keys."""
    if values.dtype != pl.String:
        return []
    is_spaced = values.str.starts_with(" ") | values.str.ends_with(" ")
    message = "keys with spaces at their ends, which are part of the key"
    return [Notice(f"{Path(where).name}, column {values.name}", message, n)] if (n := int(is_spaced.sum())) else []


def written(values: pl.Series, words: Collection[str] = NA_VALUES) -> pl.Series:
    """The words and NaN that are read as missing; blanks are left out."""
    if not (values.dtype == pl.String or values.dtype.is_float()):
        return pl.Series(values.name, [], pl.String)
    texts = values.filter(is_missing(values, words) & values.is_not_null()).cast(pl.String).str.strip_chars()
    return texts.filter(texts != "")


def shown(values: pl.Series, row: int = 0) -> str:
    """One value for messages, shortened; as text if Python has no such value, such as years beyond 9999."""
    try:
        text = repr(values[row])
    except (ValueError, OverflowError):
        text = str(values.slice(row, 1).cast(pl.String)[0])
    return text if len(text) <= 100 else f"{text[:100]}…"


def row_of(bad: pl.Series, rows: pl.Series | None = None) -> int:
    """Number of the first bad row: from ``rows``, the numbers in the file, else counted from 1."""
    at = int(bad.arg_max() or 0)
    return at + 1 if rows is None else int(rows[at])


def refuse_missing(values: pl.Series, where: str, words: Collection[str] = NA_VALUES) -> pl.Series:
    """The values, none of which may be missing.

    Raises:
        InputError: one is missing; the message names its row.
    """
    missing = is_missing(values, words)
    if missing.any():
        row = int(missing.arg_max() or 0)
        word = values.dtype in (pl.String, pl.Categorical, pl.Enum) and bool((values[row] or "").strip())
        nothing = values.slice(row, 1).null_count() > 0 or (values.dtype == pl.String and not word)
        remedy = "; or, if the word is a value, [data] na_values without it" if word else ""
        raise InputError(
            "value is missing",
            where=f"{where}, column {values.name!r}, row {row + 1}",
            expected=f'a value in every row, or missing = "drop"{remedy}',
            found=f"{'nothing' if nothing else shown(values, row)}; {missing.sum():,} rows in all",
        )
    return values
