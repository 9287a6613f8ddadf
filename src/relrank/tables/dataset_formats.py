"""Formats of published data sets: LightGCN's lists, RecBole's atomic files, plain columns."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from relrank.errors import InputError
from relrank.tables.files import as_keys, as_numbers, column, parse, read_text
from relrank.tables.missing import refuse_missing
from relrank.tables.notices import Notice
from relrank.tables.times import as_times


def to_interactions(rows: pl.DataFrame, where: str, notices: list[Notice] | None = None) -> pl.DataFrame:
    """Canonical columns from ``user_id``, ``item_id`` or ``movie_id``, and optional ``rating`` and ``timestamp``.

    Args:
        rows: as read, each (user, item) once.
        where: the file.
        notices: if given, times are read by ``as_times``, which adds to it; else they are whole seconds.
    """
    rows = rows.rename({"movie_id": "item_id"}, strict=False)
    columns = [as_keys(refuse_missing(column(rows, f"{c}_id", where), where)).alias(c) for c in ("user", "item")]
    if "rating" in rows.columns:
        columns.append(as_numbers(rows["rating"], where))
    if "timestamp" in rows.columns and notices is not None:
        columns.append(as_times(rows["timestamp"], where, notices=notices).alias("time"))
    elif "timestamp" in rows.columns:
        columns.append(as_numbers(rows["timestamp"], where).cast(pl.Int64).alias("time"))
    frame = pl.DataFrame(columns)
    twice = frame.select(pl.struct("user", "item").is_duplicated()).to_series()
    if twice.any():
        user, item = frame.filter(twice).row(0)[:2]
        raise InputError(
            "interaction occurs twice",
            where=where,
            expected="every (user, item) once, as published",
            found=f"({user!r}, {item!r}); {twice.sum():,} such rows",
        )
    return frame


def read_lists(path: Path) -> pl.DataFrame:
    """Lines ``user item item …`` as (user, item) rows in file order."""
    return to_interactions(read_number_lists(path, " ", ("user_id", "item_id")), path.name)


def read_number_lists(path: Path, separator: str, names: tuple[str, str]) -> pl.DataFrame:
    """Lines of whole numbers as rows (first, other) in file order, Int64.

    Args:
        path: the file.
        separator: between the numbers of a line.
        names: of the columns of the first and of the other numbers.

    Raises:
        InputError: a line holds something else.
    """
    first, other = names
    lines = pl.DataFrame({"line": read_text(path).split("\n")}).filter(pl.col("line").str.strip_chars() != "")
    numbers = lines.select(
        pl.col("line").str.strip_chars().str.split(separator).cast(pl.List(pl.Int64), strict=False)
    )
    bad = numbers.select(pl.col("line").list.eval(pl.element().is_null()).list.any()).to_series()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise InputError(
            "not a list of numbers",
            where=f"{path}, line {row + 1}",
            expected=f"{first} {other} {other} …: whole numbers between single {_SEPARATORS[separator]}",
            found=repr(lines["line"][row][:60]),
        )
    rows = numbers.select(pl.col("line").list.first().alias(first), pl.col("line").list.slice(1).alias(other))
    return rows.explode(other, empty_as_null=False)


_SEPARATORS = {" ": "spaces", "\t": "tabs"}


def read_atomic(path: Path, typed: bool = False) -> pl.DataFrame:
    """A RecBole file as text columns without types in their names, or ``typed`` as its header declares."""
    frame = parse(read_text(path), path, "\t")
    if not typed:
        return frame.rename(lambda c: c.split(":")[0])
    columns = []
    for heading in frame.columns:
        name, _, kind = heading.partition(":")
        values = frame[heading].alias(name)
        if kind == "float":
            values = values.cast(pl.Float64, strict=False)
        elif kind.endswith("_seq"):
            values = values.str.split(" ")
        else:
            values = as_keys(values)
        columns.append(values)
    return pl.DataFrame(columns)
