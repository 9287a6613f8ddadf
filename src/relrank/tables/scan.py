"""The columns of a file that are wanted, read in a stream: memory goes by them, not by the size of the file.

A CSV file is passed over twice. The first pass finds out whether a column's keys are all whole numbers, and whether
all values can be read; the second brings them to their types as they come. Every row is parsed whole, since a row
with too many fields has shifted the wanted ones; what is not wanted is dropped a few thousand rows later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from relrank.errors import InputError
from relrank.tables.files import (
    WHOLE,
    as_keys,
    as_numbers,
    as_seconds,
    check_column,
    check_text,
    refuse_missing,
    separator_of,
    unreadable,
)

Kind = Literal["key", "number", "time", "text"]
"""Keys, finite numbers and times have a value in every row; a text may be missing."""


def read_columns(path: Path, separator: str | None, wanted: Mapping[str, tuple[str, Kind]]) -> pl.DataFrame:
    """Some columns of a ``.csv``, ``.tsv`` or ``.parquet`` file with a header.

    Args:
        path: the file; its ending says what it is.
        separator: field separator, where it is not the ending's own.
        wanted: name in the result → name in the file, and what it holds: ``files.as_keys``, ``as_numbers`` and
            ``as_seconds`` say what becomes of each kind. Text of a Parquet file keeps its type.

    Raises:
        InputError: missing, empty, not UTF-8, not a table, without one of the columns, or with a value that is not of
            its kind; the message names file, column, row and value.
    """
    where = str(path)
    parquet = path.suffix.lower() == ".parquet"
    mark = None if parquet else separator_of(path, separator)
    check_text(path, decoded=False)
    try:
        rows = pl.scan_parquet(path, glob=False) if mark is None else _rows(path, mark)
        names = rows.collect_schema().names()
        for name, _ in wanted.values():
            check_column(names, name, where)
        facts = rows.select(pl.len(), *(f for out, w in wanted.items() if mark for f in _facts(out, *w)))
        found = _collected(facts).row(0, named=True)
        if not found["len"]:
            raise InputError("table has no rows", where=where, expected="rows", found="none")
        if mark is None:
            frame = _collected(rows.select(pl.col(name).alias(out) for out, (name, _) in wanted.items()))
            settled = {out: _settled(frame[out].alias(n), kind, where) for out, (n, kind) in wanted.items()}
            return pl.DataFrame(settled)
        for out, (name, kind) in wanted.items():
            if found[f"{out} bad"]:  # the column alone, to say where
                _settled(_collected(rows.select(name))[name], kind, where)
        frame = _collected(rows.select(_typed(out, *w, found[f"{out} whole"]) for out, w in wanted.items()))
    except pl.exceptions.PolarsError as error:
        if mark is not None:
            check_text(path)
        raise unreadable(path, mark, error) from None
    times = [out for out, (_, kind) in wanted.items() if kind == "time" and frame[out].dtype == pl.String]
    return frame.with_columns(as_seconds(frame[out].alias(wanted[out][0]), where).alias(out) for out in times)


def column_names(path: Path, separator: str | None) -> list[str]:
    """Names of all columns of a file that ``read_columns`` can read."""
    parquet = path.suffix.lower() == ".parquet"
    mark = None if parquet else separator_of(path, separator)
    rows = pl.scan_parquet(path, glob=False) if mark is None else _rows(path, mark)
    return rows.collect_schema().names()


def _collected(rows: pl.LazyFrame) -> pl.DataFrame:
    frame = rows.collect(engine="streaming")
    assert isinstance(frame, pl.DataFrame)
    return frame


def _rows(path: Path, separator: str) -> pl.LazyFrame:
    """All columns as text, every row looked at whole."""
    rows = pl.scan_csv(path, separator=separator, quote_char='"', infer_schema=False, glob=False)
    # true of every row; without it fields that nobody asks for are not even counted
    return rows.filter(pl.sum_horizontal(pl.all().str.len_bytes()) >= 0)


def _number(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def _facts(out: str, name: str, kind: Kind) -> list[pl.Expr]:
    """Whether a column has values that are not of its kind, and whether all are whole numbers."""
    bad = pl.lit(False) if kind == "text" else pl.col(name).null_count() > 0
    if kind == "number":
        bad = ~_number(name).is_finite().fill_null(False).all()
    whole = pl.col(name).str.contains(WHOLE).all() if kind in ("key", "time") else pl.lit(False)
    return [bad.alias(f"{out} bad"), whole.alias(f"{out} whole")]


def _typed(out: str, name: str, kind: Kind, whole: bool) -> pl.Expr:
    if kind == "number":
        return _number(name).alias(out)
    return (pl.col(name).str.replace(r"\.0+$", "").cast(pl.Int64) if whole else pl.col(name)).alias(out)


def _settled(values: pl.Series, kind: Kind, where: str) -> pl.Series:
    """A whole column as its kind, or the error that names its first bad row."""
    if kind == "text":
        return values
    if kind == "number":
        return as_numbers(values, where)
    return as_keys(refuse_missing(values, where)) if kind == "key" else as_seconds(values, where)
