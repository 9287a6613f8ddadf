"""Files into frames, with one clear error for every way a file can be wrong.

A row number in a message counts data rows from 1: the header is not counted.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Collection
from datetime import date, datetime
from pathlib import Path

import polars as pl

from relrank.errors import InputError, did_you_mean

Moment = int | str | date | datetime
"""A time in a configuration file: whole seconds since 1970, ISO text, or TOML's own dates."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}
_PIECE = 1 << 24
"""Bytes of a file that are looked at together."""
WHOLE = r"^(0|-?[1-9]\d{0,17})(\.0+)?$"
_ISO = r"^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:\.\d+)?)? ?(Z|[+-]\d\d(?::?\d\d)?)?$"


def check_text(path: Path, encoding: str = "utf-8", decoded: bool = True) -> None:
    """Refuse a file without content, or in another encoding; a piece of it is in memory at a time.

    Args:
        path: the file.
        encoding: of all its bytes.
        decoded: False looks no further than the first byte that is not blank.

    Raises:
        InputError: there is no such file, nothing in it, or a byte that the encoding does not know; the message names
            the file's neighbours, or line and byte.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else []
        found = f"in that folder: {', '.join(near[:20])}" if near else "no such folder, or an empty one"
        raise InputError("no such file", where=str(path), expected="a file", found=found)
    decoder, blank, before, line = getincrementaldecoder(encoding)(), True, 0, 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE)
            blank = blank and not piece.strip()
            if not decoded and (not blank or not piece):
                break
            kept = decoder.getstate()[0]  # the first bytes of a character that the last piece cut in two
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                seen, start = kept + piece, error.start
                at, line = before - len(kept) + start, line + seen.count(b"\n", 0, start)
                raise InputError(
                    f"not {encoding.upper()} text",
                    where=f"{path}, line {line}, byte {at}",
                    expected=f"a file saved as {encoding.upper()}",
                    found=f"byte 0x{seen[start]:02x}",
                ) from None
            if not piece:
                break
            before, line = before + len(piece), line + piece.count(b"\n")
    if blank:
        size = path.stat().st_size
        raise InputError("file is empty", where=str(path), expected="at least one row", found=f"{size} bytes")


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, without a byte-order mark.

    Raises:
        InputError: see ``check_text``.
    """
    check_text(path, encoding)
    return path.read_bytes().decode(encoding).removeprefix("\ufeff")


def parse(
    text: str,
    where: Path,
    separator: str,
    *,
    header: list[str] | None = None,
    as_text: Collection[str] | None = None,
    quote: str | None = None,
) -> pl.DataFrame:
    """Separated text into a frame.

    Args:
        text: the content of the file.
        where: its path, for messages.
        separator: one character.
        header: column names of a file that has no header row.
        as_text: columns to keep as text; None = all of them. Other types are inferred from every row.
        quote: quotation mark, or None for a file that has no quoting.

    Raises:
        InputError: the text does not parse, or has no rows.
    """
    infer = as_text is not None
    try:
        frame = pl.read_csv(
            text.encode(),
            separator=separator,
            has_header=header is None,
            new_columns=header,
            quote_char=quote,
            infer_schema=infer,
            infer_schema_length=None,
        )
        texts = [c for c in (as_text or ()) if c in frame.columns and frame[c].dtype != pl.String]
        if texts:  # a second reading: a number that was inferred has lost its leading zeros
            schema = {c: pl.String if c in texts else frame[c].dtype for c in frame.columns}
            frame = pl.read_csv(
                text.encode(), separator=separator, has_header=header is None, quote_char=quote, schema=schema
            )
    except pl.exceptions.PolarsError as error:
        raise unreadable(where, separator, error) from None
    if frame.is_empty():
        raise InputError("table has no rows", where=str(where), expected="rows below the header", found="none")
    return frame


def read_table(path: Path, separator: str | None = None, as_text: Collection[str] | None = None) -> pl.DataFrame:
    """A ``.csv``, ``.tsv`` or ``.parquet`` file with a header.

    Args:
        path: the file; its ending says what it is.
        separator: field separator, where it is not the ending's own.
        as_text: see :func:`parse`; Parquet files keep their own types.

    Raises:
        InputError: missing, empty, not UTF-8, or not a table.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        check_text(path, decoded=False)
        try:
            frame = pl.read_parquet(path, glob=False)
        except pl.exceptions.PolarsError as error:
            raise unreadable(path, None, error) from None
        if frame.is_empty():
            raise InputError("table has no rows", where=str(path), expected="rows", found="none")
        return frame
    return parse(read_text(path), path, separator_of(path, separator), as_text=as_text, quote='"')


def separator_of(path: Path, separator: str | None) -> str:
    """The field separator of a text file: the one that is given, or that of the file's ending.

    Raises:
        InputError: none is given, and the ending says nothing.
    """
    ending = path.suffix.lower()
    if ending not in SEPARATORS and separator is None:
        known = ", ".join([*SEPARATORS, ".parquet"])
        raise InputError(
            "unknown kind of file", where=str(path), expected=f"{known}, or a separator", found=repr(ending)
        )
    return separator or SEPARATORS[ending]


def unreadable(path: Path, separator: str | None, error: Exception) -> InputError:
    """What is said of a file that does not parse; Parquet where there is no separator."""
    found = str(error).splitlines()[0][:200]
    if separator is None:
        return InputError("not readable as Parquet", where=str(path), expected="Parquet", found=found)
    expected = f"the same number of fields, separated by {separator!r}, in every row"
    return InputError("not readable as a table", where=str(path), expected=expected, found=found)


def column(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column by name.

    Raises:
        InputError: there is none; the message names the columns that are there.
    """
    check_column(frame.columns, name, where)
    return frame[name]


def check_column(names: Collection[str], name: str, where: str) -> None:
    """Refuse a table without a column.

    Raises:
        InputError: it has none; the message names those that are there.
    """
    if name not in names:
        raise InputError(
            "column not found",
            where=where,
            expected=f"a column {name!r}",
            found=f"columns {', '.join(names)}" + did_you_mean(name, names),
        )


def as_keys(values: pl.Series) -> pl.Series:
    """Keys as Int64 where every one is a whole number (``7``, ``7.0``), else as text. Missing ones stay missing.

    ``007`` is text: a leading zero is part of the key.
    """
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = ((values == values.round()) & (values.abs() < 2.0**53)).all()
        return values.cast(pl.Int64 if whole else pl.String)
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    text = values.cast(pl.String)
    if text.str.contains(WHOLE).all():
        return text.str.replace(r"\.0+$", "").cast(pl.Int64)
    return text


def first_row(bad: pl.Series) -> int:
    """Number of the first row that is true, counted from 1."""
    return int(bad.arg_max() or 0) + 1


def refuse_missing(values: pl.Series, where: str) -> pl.Series:
    """The same values.

    Raises:
        InputError: one is missing; the message names its row.
    """
    missing = values.is_null()
    if missing.any():
        raise InputError(
            "value is missing",
            where=f"{where}, column {values.name!r}, row {first_row(missing)}",
            expected="a value in every row",
            found=f"nothing; {missing.sum():,} rows in all",
        )
    return values


def as_numbers(values: pl.Series, where: str) -> pl.Series:
    """Finite Float64 values.

    Raises:
        InputError: one is missing, not a number, or not finite; the message names row and value.
    """
    refuse_missing(values, where)
    text = values.str.strip_chars() if values.dtype == pl.String else values
    numbers = text.cast(pl.Float64, strict=False)
    bad = ~numbers.is_finite().fill_null(False)
    if bad.any():
        row = first_row(bad)
        raise InputError(
            "not a finite number",
            where=f"{where}, column {values.name!r}, row {row}",
            expected="a finite number in every row",
            found=f"{values[row - 1]!r}; {bad.sum():,} rows in all",
        )
    return numbers


def as_seconds(values: pl.Series, where: str) -> pl.Series:
    """Times as Int64 seconds since 1970 (UTC where no offset is given).

    Whole numbers are seconds already; text is ISO 8601, a date (its midnight) or a date and time.

    Raises:
        InputError: one is missing or cannot be read; the message names row and value.
    """
    refuse_missing(values, where)
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        return values.dt.epoch("s")
    keys = as_keys(values)
    if keys.dtype == pl.Int64:
        return keys
    text = keys.str.strip_chars()
    clock = text.str.extract(_ISO, 2).fill_null("00:00")
    clock = clock + pl.Series([":00" if short else "" for short in clock.str.len_chars() == 5])
    zone = text.str.extract(_ISO, 3).str.replace("Z", "+00").str.replace(":", "").fill_null("+00")
    ahead = (
        zone.str.slice(1, 2).cast(pl.Int64) * 3600
        + zone.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0) * 60
    )
    seconds = (
        text.str.extract(_ISO, 1).str.to_date("%Y-%m-%d", strict=False).dt.epoch("s")
        + clock.str.to_time("%H:%M:%S", strict=False).cast(pl.Int64) // 10**9
        - ahead * pl.Series([-1 if sign else 1 for sign in zone.str.starts_with("-")])
    )
    bad = seconds.is_null()
    if bad.any():
        row = first_row(bad)
        raise InputError(
            "not a time",
            where=f"{where}, column {values.name!r}, row {row}",
            expected="whole seconds since 1970, or ISO dates or date-times such as 2017-09-01T12:30:00",
            found=f"{values[row - 1]!r}; {bad.sum():,} rows in all",
        )
    return seconds


def moment(value: Moment, where: str) -> int:
    """A time from a configuration file in seconds since 1970.

    Raises:
        InputError: it is not a time.
    """
    return int(as_seconds(pl.Series("time", [value]), where)[0])
