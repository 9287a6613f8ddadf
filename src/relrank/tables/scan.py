"""Streaming reads of some columns of a file, in memory that grows with these columns, not with the file.

A CSV file is read twice. The first pass determines whether all keys of a column are whole numbers, and whether all
values can be read; the second converts the values. Every row is parsed completely, since a row with too many fields
has shifted columns; other columns are dropped after each batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from relrank.errors import InputError
from relrank.tables.files import (
    INTEGER_PATTERN,
    UNREADABLE,
    as_keys,
    as_numbers,
    check_column,
    check_text,
    check_width,
    separator_of,
    unreadable,
)
from relrank.tables.missing import NA_VALUES, absent, refuse_missing, spaced, without_missing
from relrank.tables.notices import Notice
from relrank.tables.times import Unit, as_times

ColumnKind = Literal["key", "number", "time", "text"]
"""Keys, finite numbers and times are required in every row; texts may be missing."""

ColumnSpecs = Mapping[str, tuple[str, ColumnKind]]
"""Name in the result → name in the file, and the kind of the column."""

ROW_NUMBER = "#row"
"""Column with the number of each row in its file."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How values are read.

    Attributes:
        na_values: words that are missing values.
        missing: policy for a row without a key, number or time: "error", or "drop" and count.
        time_unit: of numeric times; by their range if None.
        columns: names of the columns of a text file without a header.
        notices: counts of dropped rows, and how times were read, are added here.
    """

    na_values: tuple[str, ...] = NA_VALUES
    missing: Literal["error", "drop"] = "error"
    time_unit: Unit | None = None
    columns: tuple[str, ...] | None = None
    notices: list[Notice] = field(default_factory=list)


def read_columns(
    path: Path, separator: str | None, wanted: ColumnSpecs, rules: ReadOptions | None = None, numbered: bool = False
) -> pl.DataFrame:
    """Some columns of a ``.csv``, ``.tsv`` or ``.parquet`` file with a header.

    Args:
        path: the file, of the format that its suffix says.
        separator: field separator, if it is not that of the suffix.
        wanted: the columns, converted by ``files.as_keys``, ``files.as_numbers`` or ``times.as_times``; text in a
            Parquet file keeps its type.
        rules: how values are read.
        numbered: whether to add the number of each row in the file as a last column ``ROW_NUMBER``.

    Raises:
        InputError: the file is missing, empty, not UTF-8 or not a table, lacks a column, or has a value that is not
            of its kind; the message names file, column, row and value.
    """
    where, rules = str(path), rules or ReadOptions()
    mark = _mark(path, separator)
    check_text(path, decoded=False)
    try:
        schema = _schema(path, mark, rules.columns)
        for name, _ in wanted.values():
            check_column(schema, name, where)
        rows = _rows(path, mark, wanted, rules.columns)
        needed = [absent(pl.col(n), schema[n], rules.na_values) for n, kind in wanted.values() if kind != "text"]
        poor = pl.any_horizontal(pl.lit(False), *needed)
        facts = [f for out, w in wanted.items() if mark for f in _facts(out, *w, poor)]
        found = _collected(rows.select(pl.len(), poor.sum().alias("#poor"), *facts)).row(0, named=True)
        if not found["len"]:
            raise InputError("table has no rows", where=where, expected="rows", found="none")
        wrong = rules.missing == "error" and bool(found["#poor"])
        wrong = wrong or any(found.get(f"{out} bad") for out in wanted)
        if rules.missing == "drop":
            rows = rows.filter(~poor)
            count_dropped(found["#poor"], found["len"], where, rules)
        typed = (
            pl.col(name).alias(out) if wrong or mark is None else _typed(out, name, kind, bool(found[f"{out} whole"]))
            for out, (name, kind) in wanted.items()
        )
        frame = _collected(rows.select(*typed, ROW_NUMBER))
    except UNREADABLE as error:
        if mark is not None:
            check_text(path)
        raise unreadable(path, mark, error) from None
    rows_ = frame[ROW_NUMBER]
    done = {out: _checked(frame[out].alias(n), kind, where, rules, rows_) for out, (n, kind) in wanted.items()}
    return pl.DataFrame(done | {ROW_NUMBER: rows_} if numbered else done)


def column_names(path: Path, separator: str | None, header: tuple[str, ...] | None = None) -> list[str]:
    """Names of all columns of a file.

    Raises:
        InputError: it is not a table.
    """
    mark = _mark(path, separator)
    check_text(path, decoded=False)
    try:
        return list(_schema(path, mark, header))
    except UNREADABLE as error:
        raise unreadable(path, mark, error) from None


def _mark(path: Path, separator: str | None) -> str | None:
    """The separator of a text file; None for Parquet."""
    return None if path.suffix.lower() == ".parquet" else separator_of(path, separator)


def _schema(path: Path, mark: str | None, header: tuple[str, ...] | None) -> dict[str, pl.DataType]:
    rows = pl.scan_parquet(path, glob=False) if mark is None else _texts(path, mark, header)
    schema = {name: dtype for name, dtype in rows.collect_schema().items() if name != ROW_NUMBER}
    check_width(schema, str(path))
    return schema


def _texts(path: Path, separator: str, header: tuple[str, ...] | None) -> pl.LazyFrame:
    schema = None if header is None else dict.fromkeys(header, pl.String)
    return pl.scan_csv(
        path,
        separator=separator,
        has_header=header is None,
        schema=schema,
        quote_char='"',
        infer_schema=False,
        glob=False,
        row_index_name=ROW_NUMBER,
        row_index_offset=1,
    )


def _collected(rows: pl.LazyFrame) -> pl.DataFrame:
    frame = rows.collect(engine="streaming")
    assert isinstance(frame, pl.DataFrame)
    return frame


def _rows(path: Path, mark: str | None, wanted: ColumnSpecs, header: tuple[str, ...] | None) -> pl.LazyFrame:
    """The wanted columns, those of a text file as text, and the number of each row."""
    names = list(dict.fromkeys(name for name, _ in wanted.values()))
    if mark is None:
        return pl.scan_parquet(path, glob=False, row_index_name=ROW_NUMBER, row_index_offset=1).select(
            ROW_NUMBER, *names
        )
    # rows are parsed completely: projection pushdown would skip the check of their number of fields
    return _texts(path, mark, header).map_batches(
        lambda frame: frame.select(ROW_NUMBER, *names),
        projection_pushdown=False,
        predicate_pushdown=False,
        slice_pushdown=False,
        streamable=True,
        schema={ROW_NUMBER: pl.get_index_type(), **dict.fromkeys(names, pl.String)},
    )


def count_dropped(poor: int, of: int, where: str, rules: ReadOptions) -> None:
    """Add a notice of rows dropped for missing values.

    Raises:
        InputError: all rows are dropped.
    """
    if poor == of:
        raise InputError(
            "a value is missing in every row", where=where, expected="some rows with all values", found=f"{of:,} rows"
        )
    if poor:
        rules.notices.append(Notice(Path(where).name, "rows with a missing key, number or time dropped", poor))


def _number(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def _facts(out: str, name: str, kind: ColumnKind, poor: pl.Expr) -> list[pl.Expr]:
    """Whether a column has values that are not of its kind, and whether all are whole numbers, but for poor rows."""
    bad, whole = pl.lit(False), pl.lit(False)
    if kind == "number":
        bad = ~(poor | _number(name).is_finite().fill_null(False)).all()
    if kind in ("key", "time"):
        whole = (poor | pl.col(name).str.contains(INTEGER_PATTERN).fill_null(False)).all()
    return [bad.alias(f"{out} bad"), whole.alias(f"{out} whole")]


def _typed(out: str, name: str, kind: ColumnKind, whole: bool) -> pl.Expr:
    if kind == "number":
        return _number(name).alias(out)
    return (pl.col(name).str.replace(r"\.0+$", "").cast(pl.Int64) if whole else pl.col(name)).alias(out)


def _checked(values: pl.Series, kind: ColumnKind, where: str, rules: ReadOptions, rows: pl.Series) -> pl.Series:
    """A column converted to its kind, or an error that names its first bad row."""
    if kind == "text":
        return without_missing(values, rules.na_values)
    if kind == "number":
        return as_numbers(values, where, rules.na_values, rows)
    if kind == "key":
        keys = as_keys(refuse_missing(values, where, rules.na_values), where)
        rules.notices.extend(spaced(keys, where))
        return keys
    return as_times(values, where, rules.time_unit, rules.na_values, rules.notices, rows)
