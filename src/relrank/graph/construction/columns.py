"""Columns of node tables as values for relations and features: text, parts of a cell, numbers, intervals."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.graph.construction.context import BuildContext, examples
from relrank.graph.construction.relation_config import Binning, Categories, MultiValued
from relrank.kernels.csr import Float64
from relrank.tables.files import has_text, read_numbers
from relrank.tables.missing import without_missing
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Bool = npt.NDArray[np.bool_]


PATHS = (" > ", " / ", " :: ", " » ")
"""Separators of the levels of a path."""
LISTS, LISTS_SHARE = ("|", ";", ","), 0.2
"""Separators of lists, and the share of cells with one from which a column looks like lists."""


def as_text(context: BuildContext, values: pl.Series, column: str) -> pl.Series:
    """Values as keys: stripped text, where 1995.0 is "1995"; missing values are null."""
    if values.dtype.is_float():
        values = values.fill_nan(None)
        integers = values.cast(pl.Int64, strict=False)
        values = integers if (integers.cast(values.dtype).eq_missing(values)).all() else values
    elif not has_text(values.dtype):
        found = f"{column}: {values.dtype}"
        raise context.error("column cannot be read as values", expected="text, numbers or a list", found=found)
    return without_missing(values.cast(pl.String), context.tables.na_values).str.strip_chars()


def as_parts(context: BuildContext, values: pl.Series, column: str, config: Categories) -> pl.DataFrame:
    """``row`` (int32) and ``value`` (text) for every part of a cell or element of a list, each once.

    Notices count cells that may need another setting: several spellings, lists and paths that are not split.
    """
    separator, levels = (config.separator, config.levels) if isinstance(config, MultiValued) else (None, None)
    if values.dtype == pl.String:
        _hint(context, values.drop_nulls(), column, separator, levels)
    if separator is not None:
        if values.dtype != pl.String:
            found = f"{column}: {values.dtype}"
            raise context.error("separator on a column that is not text", expected="a text column", found=found)
        values = values.str.split(separator)
    cells = pl.DataFrame({"row": np.arange(len(values), dtype=np.int32), "value": values})
    if isinstance(values.dtype, pl.List):
        cells = cells.explode("value")
    parts = cells.select("row", value=as_text(context, cells["value"], column)).drop_nulls()
    if levels is not None:
        parts = _with_parents(parts, levels)
    parts = _one_spelling(context, parts, config.ignore_case)
    once = parts.unique(maintain_order=True)
    context.count("value repeated in one cell: counts once", len(parts) - len(once))
    return once


def _hint(context: BuildContext, cells: pl.Series, column: str, separator: str | None, levels: str | None) -> None:
    """Count cells that look like unsplit lists or paths, and all cells if none contains the separator."""
    if not len(cells):
        return
    if separator is not None and not cells.str.contains(separator, literal=True).any():
        context.count(f"{column}: no cell holds the separator {separator!r}", len(cells))
    for mark in PATHS:
        holding = int(cells.str.contains(mark, literal=True).sum())
        if levels is None and separator != mark and 2 * holding >= len(cells):
            message = f"cells look like paths, one value each: levels = {mark.strip()!r} has their levels"
            context.count(f"{column}: {message}", holding)
            return
    different = cells.unique()
    for mark in LISTS:
        holding = int(cells.str.contains(mark, literal=True).sum())
        if mark in (separator, levels) or holding < LISTS_SHARE * len(cells):
            continue
        if different.str.split(mark).explode().str.strip_chars().n_unique() < len(different):
            context.count(f"{column}: cells look like lists: separator = {mark!r} would split them", holding)
            return


def _with_parents(parts: pl.DataFrame, levels: str) -> pl.DataFrame:
    """Each path as the paths down to each of its levels."""
    mark = f" {levels.strip() or levels} "
    distinct = parts.select(pl.col("value").unique(maintain_order=True))
    steps = [[step for s in path.split(levels) if (step := s.strip())] for path in distinct["value"]]
    paths = pl.Series(
        [[mark.join(path[: n + 1]) for n in range(len(path))] for path in steps], dtype=pl.List(pl.String)
    )
    joined = parts.join(distinct.with_columns(path=paths), on="value", maintain_order="left")
    return joined.explode("path").select("row", value="path").drop_nulls()


def _one_spelling(context: BuildContext, parts: pl.DataFrame, merged: bool) -> pl.DataFrame:
    """Values that differ only in case or spaces: replaced by the most frequent spelling if merged, else counted."""
    counts = parts["value"].value_counts(name="count").sort("count", "value", descending=[True, False])
    plain = [" ".join(unicodedata.normalize("NFKC", value).casefold().split()) for value in counts["value"]]
    best = dict(zip(reversed(plain), reversed(counts["value"].to_list()), strict=True))
    rare = [best[p] != value for p, value in zip(plain, counts["value"], strict=True)]
    others = counts.filter(pl.Series(rare, dtype=pl.Boolean))
    if others.is_empty():
        return parts
    if merged:
        spelling = {v: best[p] for p, v in zip(plain, counts["value"], strict=True)}
        context.count("spellings of a value that are rarer than another: read as that", int(others["count"].sum()))
        return parts.with_columns(pl.col("value").replace(spelling))
    value = others["value"][0]
    other = best[plain[counts["value"].to_list().index(value)]]
    message = f"values that differ from another in case or spaces alone, such as {value!r} and {other!r}"
    context.count(f"{message}: ignore_case = true makes them one", len(others))
    return parts


def as_numbers(context: BuildContext, values: pl.Series, column: str) -> Float64:
    """Numbers, float64 [n], NaN where missing.

    Raises:
        InputError: the column is not numeric, or one of its texts is not a number.
    """
    values = without_missing(values, context.tables.na_values)
    numbers = read_numbers(values)
    bad = values.filter(numbers.is_null() & values.is_not_null())
    if len(bad):
        found = f"{column}: {examples(bad)}; {len(bad):,} of {len(values):,} in all"
        raise context.error("column is not numeric", expected="numbers", found=found)
    return numbers.fill_null(np.nan).to_numpy()


def as_one_text(context: BuildContext, columns: list[pl.Series]) -> tuple[pl.Series, Bool]:
    """Text columns joined by a space, without missing values; and which nodes have any text, bool [n].

    Raises:
        InputError: a column is not text.
    """
    for column in columns:
        if column.dtype != pl.String:
            raise context.error("column is not text", expected="text", found=f"{column.name}: {examples(column)}")
    columns = [without_missing(column, context.tables.na_values) for column in columns]
    text = pl.DataFrame(columns).select(text=pl.concat_str(pl.all(), separator=" ", ignore_nulls=True))["text"]
    return text, (text.str.strip_chars() != "").fill_null(False).to_numpy()


def inner_edges(context: BuildContext, values: Float64, trained: Bool, cuts: Binning) -> Float64:
    """The edges between intervals, ascending; quantiles are those of the values of ``trained`` rows.

    Raises:
        InputError: no trained row has a value.
    """
    if cuts.edges is not None:
        return np.asarray(cuts.edges, np.float64)
    known = ~np.isnan(values)
    if not (known & trained).any():
        found = f"{int(known.sum())} values in other rows"
        raise context.error("no value to fit quantiles on", expected="values in training rows", found=found)
    assert cuts.quantiles is not None
    shares = np.arange(1, cuts.quantiles) / cuts.quantiles
    inner: Float64 = np.unique(np.quantile(values[known & trained], shares, method="inverted_cdf"))
    context.count("quantiles that coincide: merged", cuts.quantiles - 1 - inner.size)
    return inner


def in_training(tables: Tables, split: Split, node_type: str, n: int) -> Bool:
    """Which of the ``n`` nodes of a type occur in training rows, bool [n]; all if the type is not user or item."""
    train = {tables.user: split.train.user, tables.item: split.train.item}
    return np.isin(np.arange(n), train[node_type]) if node_type in train else np.ones(n, np.bool_)
