"""How cells of text are made up: lists with a separator, paths of categories, several spellings."""

from __future__ import annotations

import unicodedata

import polars as pl

from relrank.discovery.columns import Column

SEPARATORS = ("|", ";", ",", "/", "&", "+")
PATHS = (" > ", " >> ", " / ", " :: ", " » ", " → ", " | ", ">", "/", "|", "\\", ":")
"""Marks between the levels of a path."""
LIST_SHARE, PATH_SHARE = 0.05, 0.5
"""Share of the cells that hold a mark, at least."""
_PART_WORDS = 4.0
_SAMPLE = 20_000


def path_mark(column: Column) -> str | None:
    """The mark between levels of a path such as "Shoes > Boots"; None if the cells are no paths.

    In paths, what follows the mark determines what precedes it, and the levels have no values in common.
    """
    cells = _cells(column)
    for mark in PATHS:
        held = cells.filter(cells.str.contains(mark, literal=True))
        if len(held) < PATH_SHARE * len(cells) or len(held) < 2:
            continue
        parts = held.str.split(mark).list.eval(pl.element().str.strip_chars())
        first, second = parts.list.get(0), parts.list.get(1)
        pairs = pl.DataFrame({"a": first, "b": second}).filter(pl.col("b").str.len_chars() > 0).unique()
        top, below = pairs["a"].n_unique(), pairs["b"].n_unique()
        if top < 2 or top >= below or pairs.height < below:
            continue
        common = len(set(pairs["a"]) & set(pairs["b"]))
        if pairs.height <= 1.2 * below and common <= 0.1 * top and first.n_unique() < 0.5 * len(held):
            return mark.strip() or mark
    return None


def list_separator(column: Column) -> str | None:
    """The separator of cells that hold several values; None if they hold one.

    The parts of lists are short, occur in several cells, and at several places in them.
    """
    cells = _cells(column)
    for mark in SEPARATORS:
        split = cells.str.split(mark).list.eval(pl.element().str.strip_chars())
        several = split.filter(split.list.len() > 1)
        if len(several) < max(2, LIST_SHARE * len(cells)):
            continue
        parts = several.explode(empty_as_null=True, keep_nulls=True).drop_nulls()
        parts = parts.filter(parts != "")
        if parts.is_empty() or float((parts.str.count_matches(r"\s+") + 1).mean() or 9) > _PART_WORDS:  # type: ignore[arg-type]
            continue
        everywhere = split.explode(empty_as_null=True, keep_nulls=True).value_counts(name="n")
        shared = everywhere.filter(pl.col("n") > 1).to_series(0)
        if float(parts.is_in(shared.implode()).mean() or 0) < 0.5:  # type: ignore[arg-type]
            continue
        if _mixes(split, several):
            return mark
    return None


def _mixes(split: pl.Series, several: pl.Series) -> bool:
    """Whether parts at one place of the cells also occur at others, as the parts of an address do not."""
    first = split.list.get(0)
    later = several.list.get(1)
    both = float(later.is_in(first.unique().implode()).mean() or 0)  # type: ignore[arg-type]
    ends = float(several.list.get(-1).is_in(several.list.get(0).unique().implode()).mean() or 0)  # type: ignore[arg-type]
    longer = float((several.list.len() > 2).mean() or 0)  # type: ignore[arg-type]
    return both >= 0.25 or ends >= 0.25 or (longer >= 0.1 and both >= 0.05)


def _cells(column: Column) -> pl.Series:
    known = column.text.drop_nulls()
    return known if len(known) <= _SAMPLE else known.sample(_SAMPLE, seed=0)


def spellings(values: pl.Series) -> int:
    """Number of different values that differ from a more frequent one in case or spaces alone."""
    different = values.drop_nulls().unique()
    plain = {" ".join(unicodedata.normalize("NFKC", v).casefold().split()) for v in different}
    return len(different) - len(plain)
