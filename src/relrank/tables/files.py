"""Files as frames, with a clear error for every way a file can be wrong.

Row numbers in messages count data rows from 1, without the header.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

import polars as pl

from relrank.errors import InputError, did_you_mean
from relrank.tables.missing import NA_VALUES, refuse_missing, row_of, shown

SEPARATORS = {".csv": ",", ".tsv": "\t"}
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, MemoryError)
"""Errors of polars for a file that cannot be read."""
MOST_COLUMNS = 20_000
"""Columns of a file, at most."""
_PIECE = 1 << 24
"""Bytes of a file that are checked at a time."""
INTEGER_PATTERN = r"^(0|-?[1-9]\d{0,17})(\.0+)?$"


def check_text(path: Path, encoding: str = "utf-8", decoded: bool = True) -> None:
    """Refuse a file that is empty, or not in an encoding; a piece of it is in memory at a time.

    Args:
        path: the file.
        encoding: of the file.
        decoded: whether to decode the file; False checks only that it is not blank.

    Raises:
        InputError: the file is missing, empty, or has a byte outside the encoding; the message names the files in
            the folder, or line and byte.
    """
    try:
        _check_text(path, encoding, decoded)
    except OSError as error:
        found = error.strerror or str(error)
        where = f"{str(path)[:200]}…" if len(str(path)) > 200 else str(path)
        raise InputError("cannot be read", where=where, expected="a file one may read", found=found) from None


def _check_text(path: Path, encoding: str, decoded: bool) -> None:
    if path.is_dir():
        raise InputError("is a folder", where=str(path), expected="a file", found="a folder")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.iterdir() if p.is_file()) if path.parent.is_dir() else []
        found = f"in that folder: {', '.join(near[:20])}" if near else "no such folder, or an empty one"
        raise InputError("no such file", where=str(path), expected="a file", found=found)
    decoder, blank, before, line = codecs.getincrementaldecoder(encoding)(), True, 0, 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE)
            blank = blank and not piece.strip()
            if encoding == "utf-8" and not before:
                _refuse_marks(piece, path)
            if not decoded and (not blank or not piece):
                break
            pending = decoder.getstate()[0]  # the first bytes of a character that the last piece cut in two
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                decoded_bytes, start = pending + piece, error.start
                at, line = before - len(pending) + start, line + decoded_bytes.count(b"\n", 0, start)
                raise InputError(
                    f"not {encoding.upper()} text",
                    where=f"{path}, line {line}, byte {at}",
                    expected=f"a file saved as {encoding.upper()}",
                    found=f"byte 0x{decoded_bytes[start]:02x}",
                ) from None
            if not piece:
                break
            before, line = before + len(piece), line + piece.count(b"\n")
    if blank:
        size = path.stat().st_size
        raise InputError("file is empty", where=str(path), expected="at least one row", found=f"{size} bytes")


def _refuse_marks(start: bytes, path: Path) -> None:
    """Refuse a text file in UTF-16 or UTF-32, recognised by its byte-order mark or by zero bytes."""
    if path.suffix.lower() == ".parquet":
        return
    marks = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if start.startswith(marks) or b"\0" in start[:1000]:
        kind = (
            "a byte-order mark of UTF-16 or UTF-32" if start.startswith(marks) else "zero bytes, as UTF-16 has them"
        )
        raise InputError("not UTF-8 text", where=str(path), expected="a file saved as UTF-8", found=kind)


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
    header: Sequence[str] | None = None,
    as_text: Collection[str] | None = None,
    quote: str | None = None,
) -> pl.DataFrame:
    """Separated text as a frame.

    Args:
        text: the content of the file.
        where: its path, for messages.
        separator: one character.
        header: column names of a file without a header row.
        as_text: columns to read as text; None for all. Types of the others are inferred from all rows.
        quote: quotation mark; None for a file without quoting.

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
        if texts:  # read again: an inferred number has lost its leading zeros
            schema = {c: pl.String if c in texts else frame[c].dtype for c in frame.columns}
            frame = pl.read_csv(
                text.encode(), separator=separator, has_header=header is None, quote_char=quote, schema=schema
            )
    except UNREADABLE as error:
        raise unreadable(where, separator, error) from None
    if frame.is_empty():
        raise InputError("table has no rows", where=str(where), expected="rows below the header", found="none")
    return frame


def read_table(
    path: Path,
    separator: str | None = None,
    as_text: Collection[str] | None = None,
    header: Sequence[str] | None = None,
) -> pl.DataFrame:
    """A ``.csv``, ``.tsv`` or ``.parquet`` file with a header.

    Args:
        path: the file, of the format that its suffix says.
        separator: field separator, if it is not that of the suffix.
        as_text: see :func:`parse`; Parquet files keep their types.
        header: names of the columns of a text file without a header.

    Raises:
        InputError: missing, empty, not UTF-8, or not a table.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        check_text(path, decoded=False)
        try:
            frame = pl.read_parquet(path, glob=False)
        except UNREADABLE as error:
            raise unreadable(path, None, error) from None
        if frame.is_empty():
            raise InputError("table has no rows", where=str(path), expected="rows", found="none")
    else:
        frame = parse(read_text(path), path, separator_of(path, separator), header=header, as_text=as_text, quote='"')
    check_width(frame.columns, str(path))
    return frame


def separator_of(path: Path, separator: str | None) -> str:
    """The field separator of a text file: the given one, or that of the file's suffix.

    Raises:
        InputError: none is given, and the suffix is unknown.
    """
    suffix = path.suffix.lower()
    if suffix not in SEPARATORS and separator is None:
        expected = f"{', '.join([*SEPARATORS, '.parquet'])}, or a separator"
        raise InputError("unknown kind of file", where=str(path), expected=expected, found=repr(suffix))
    return separator or SEPARATORS[suffix]


def unreadable(path: Path, separator: str | None, error: BaseException) -> InputError:
    """The error for a file that does not parse, a Parquet file if ``separator`` is None."""
    found = next(iter(str(error).splitlines()), type(error).__name__)[:200]
    if separator is None:
        return InputError("not readable as Parquet", where=str(path), expected="Parquet", found=found)
    expected = f"the same number of fields, separated by {separator!r}, in every row"
    return InputError("not readable as a table", where=str(path), expected=expected, found=found)


def column(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column by name.

    Raises:
        InputError: there is none; the message names the existing columns.
    """
    check_column(frame.columns, name, where)
    return frame[name]


def exact_below(values: pl.Series) -> float:
    """Below this bound, whole numbers are exact in this type of floats."""
    return 2.0**24 if values.dtype == pl.Float32 else 2.0**53


def _separator_of(name: str, line: str) -> str | None:
    """The separator that splits a header line into names with this one among them."""
    return next((mark for mark in ";\t|, " if name in (part.strip(' "') for part in line.split(mark))), None)


def check_column(names: Collection[str], name: str, where: str) -> None:
    """Refuse a table without a column.

    Raises:
        InputError: it has none, or two; the message names the existing columns.
    """
    if name not in names:
        shown = ", ".join([*islice(names, 50)]) + ("" if len(names) <= 50 else f" … {len(names):,} in all")
        found = f"columns {shown}" + did_you_mean(name, names)
        if len(names) == 1 and (separator := _separator_of(name, *names)):
            found = f"one column {shown!r}; set separator = {json.dumps(separator)} where the file is named"
        raise InputError("column not found", where=where, expected=f"a column {name!r}", found=found)
    if f"{name}_duplicated_0" in names:
        raise InputError(
            "column name occurs twice", where=where, expected=f"one column {name!r}", found="two or more"
        )


def check_width(names: Collection[str], where: str) -> None:
    """Refuse a table with too many columns.

    Raises:
        InputError: it has more than ``MOST_COLUMNS``.
    """
    if len(names) > MOST_COLUMNS:
        raise InputError(
            "table has too many columns",
            where=where,
            found=f"{len(names):,}",
            expected=f"at most {MOST_COLUMNS:,}: leave out what is not used",
        )


def has_text(dtype: pl.DataType) -> bool:
    """Whether values of a type can be converted to text and back."""
    return not (dtype.is_nested() or dtype in (pl.Binary, pl.Object) or isinstance(dtype, pl.Duration))


def as_keys(values: pl.Series, where: str = "keys") -> pl.Series:
    """Keys as Int64 if all are whole numbers (``7``, ``7.0``), else as text; missing keys stay missing.

    ``007`` is text: a leading zero is part of the key.

    Raises:
        InputError: the column holds lists or bytes, or floats that are too large to be exact.
    """
    if not has_text(values.dtype):
        raise InputError(
            "column holds no keys",
            where=f"{where}, column {values.name!r}",
            expected="text or whole numbers",
            found=str(values.dtype),
        )
    if values.dtype.is_float():
        values = values.fill_nan(None)
        inexact = (~(values.abs() < exact_below(values))).fill_null(False)
        if inexact.any():
            raise InputError(
                "keys are floats too large for their last digits, or infinite",
                where=f"{where}, column {values.name!r}, row {row_of(inexact)}",
                expected="whole numbers or text",
                found=f"{shown(values.filter(inexact))}; {inexact.sum():,} rows in all",
            )
        return values.cast(pl.Int64 if (values == values.round()).all() else pl.String)
    if values.dtype.is_integer():
        numbers = values.cast(pl.Int64, strict=False)
        return numbers if numbers.null_count() == values.null_count() else values.cast(pl.String)
    text = values.cast(pl.String)
    if text.str.contains(INTEGER_PATTERN).all():
        return text.str.replace(r"\.0+$", "").cast(pl.Int64)
    return text


def as_numbers(
    values: pl.Series, where: str, words: Collection[str] = NA_VALUES, rows: pl.Series | None = None
) -> pl.Series:
    """Finite Float64 values.

    Args:
        values: numbers, or numeric text.
        where: the file.
        words: that are missing values.
        rows: row numbers in the file; counted from 1 by default.

    Raises:
        InputError: a value is missing, not a number, or not finite; the message names row and value.
    """
    refuse_missing(values, where, words)
    numbers = read_numbers(values)
    bad = ~numbers.is_finite().fill_null(False)
    if bad.any():
        raise InputError(
            "not a finite number",
            where=f"{where}, column {values.name!r}, row {row_of(bad, rows)}",
            expected="a finite number in every row",
            found=f"{shown(values.filter(bad))}; {bad.sum():,} rows in all",
        )
    return numbers


def read_numbers(values: pl.Series) -> pl.Series:
    """Numbers or numeric text as Float64; null for anything else."""
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    elif not values.dtype.is_numeric():
        return pl.Series(values.name, [None] * len(values), pl.Float64)
    return values.cast(pl.Float64, strict=False)


def holds_numbers(values: pl.Series) -> bool:
    """Whether a column holds only numbers or numeric text, and missing values; leading zeros mark codes."""
    if values.dtype == pl.String:
        if values.str.contains(r"^\s*[+-]?0\d").any():
            return False
        return values.null_count() < len(values) and read_numbers(values).null_count() == values.null_count()
    return values.dtype.is_numeric()
