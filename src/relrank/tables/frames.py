"""Frames of polars, pandas, any Arrow library and what narwhals knows, checked like files.

Neither pandas nor pyarrow is required: frames of pandas are read column by column without importing it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.tables.files import INTEGER_PATTERN, as_keys, check_column, exact_below, has_text
from relrank.tables.missing import refuse_missing, row_of, shown, without_missing
from relrank.tables.notices import Notice
from relrank.tables.times import DATETIME_NS, NS_PER_SECOND, UNKNOWN_TICKS, Unit, as_times


@dataclass(frozen=True, slots=True, eq=False)
class NumericTimes:
    """How whole numbers in a column of times are read.

    Attributes:
        ticks: per second, if stated; ``UNKNOWN_TICKS`` if numbers are read as in files.
        unit: of numbers that are read as in files, if stated.
        clock: ticks per second of ``before``.
        before: columns of times that are ticks already. Numbers that all occur there are taken from these tables, and
            so are such ticks, whatever their range or unit.
    """

    ticks: int = UNKNOWN_TICKS
    unit: Unit | None = None
    clock: int = UNKNOWN_TICKS
    before: tuple[pl.Series, ...] = ()

    def known(self, times: pl.Series) -> bool:
        """Whether all whole numbers occur in ``before``."""
        if not self.before:
            return False
        low, high = times.min(), times.max()
        if not any(b.min() <= low and high <= b.max() for b in self.before):  # type: ignore[operator]
            return False
        return bool(times.unique().is_in(pl.concat([b.rename("t") for b in self.before]).unique().implode()).all())

    def read(self, times: pl.Series, where: str, notices: list[Notice]) -> pl.Series:
        """Times as ``times.as_times`` returns them; ticks, if stated, are not changed."""
        stated = self.ticks != UNKNOWN_TICKS
        if times.dtype.is_float() and (stated or self.before) and (times == times.round()).all():
            whole = times.cast(pl.Int64) if (times.abs() < exact_below(times)).all() else times
            times = whole if stated or (whole.dtype == pl.Int64 and self.known(whole)) else times
        if times.dtype.is_integer() and stated:
            return times
        if times.dtype == pl.Int64 and self.known(times):
            return (times * (NS_PER_SECOND // self.clock)).cast(DATETIME_NS) if self.clock else times
        return as_times(times, where, self.unit, notices=notices)


def as_frame(value: Any, where: str, *, copy: bool = False) -> pl.DataFrame:
    """A polars frame with the same rows: whole numbers as Int64 if they fit, categories as text.

    Args:
        value: a frame of polars or pandas, an Arrow table, another frame that narwhals knows, or columns by name. A
            lazy frame is collected; named levels of the index of pandas become columns.
        where: names the frame in messages.
        copy: whether a frame of polars is copied, too; it may share memory with an array that it was made of. Other
            frames always are, so that their owner may edit them later.

    Raises:
        InputError: it is no frame, or a column holds values of several types.
    """
    value = nw.to_native(value, pass_through=True)
    if isinstance(value, pl.LazyFrame):
        value = _collected(value, where)
    if not isinstance(value, pl.DataFrame):
        value, copy = _of_pandas(value, where) if _is_pandas(value) else _of_other(value, where), True
    if copy:  # polars keeps memory of NumPy, pandas and Arrow where types agree; clone() would keep it, too
        value = value.select(pl.all().gather(pl.int_range(pl.len())))
    whole = [name for name in value.columns if value[name].dtype.is_integer() and not _is_large(value[name])]
    named = [name for name, dtype in value.schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    frame: pl.DataFrame = value.with_columns(pl.col(whole).cast(pl.Int64), pl.col(named).cast(pl.String))
    return frame


def cast_interactions(
    value: Any, where: str, words: Collection[str], notices: list[Notice], numbers: NumericTimes
) -> pl.DataFrame:
    """Interactions with keys in ``user`` and ``item``, numbers in ``rating``, and ``time`` as of ``cast_times``.

    Args:
        value: as for ``as_frame``.
        where: names the frame in messages.
        words: that are missing keys.
        notices: as for ``cast_times``.
        numbers: as for ``cast_times``.

    Raises:
        InputError: a value is missing or of a wrong type; the message names column and row.
    """
    frame = as_frame(value, where)
    frame = cast_keys(frame, [name for name in ("user", "item") if name in frame.columns], where, words)
    if "rating" in frame.columns:
        rating = refuse_missing(frame["rating"], where, ())
        finite = rating.cast(pl.Float64).is_finite() if rating.dtype.is_numeric() else rating.is_null()
        if not finite.all():
            raise InputError(
                "not a finite number",
                where=f"{where}, column 'rating', row {row_of(~finite)}",
                expected="a finite number in every row",
                found=shown(rating, row_of(~finite) - 1),
            )
        frame = frame.with_columns(rating.cast(pl.Float64))
    return cast_times(frame, "time" if "time" in frame.columns else None, where, notices, numbers)


def cast_keys(value: Any, columns: Collection[str], where: str, words: Collection[str]) -> pl.DataFrame:
    """A frame with some columns of keys, as Int64 or text.

    Raises:
        InputError: a column or key is missing, or a type cannot be a key.
    """
    frame = as_frame(value, where)
    for name in columns:
        check_column(frame.columns, name, where)
    return frame.with_columns(*(_keys(frame[name], where, words) for name in dict.fromkeys(columns)))


def cast_times(
    value: Any, column: str | None, where: str, notices: list[Notice], numbers: NumericTimes
) -> pl.DataFrame:
    """A frame with a column of times as ``NumericTimes.read`` returns them.

    Args:
        value: as for ``as_frame``.
        column: with times, if any.
        where: names the frame in messages.
        notices: how numbers were read is added here.
        numbers: how numbers are read.

    Raises:
        InputError: the column or a time is missing, or a value is no time.
    """
    frame = as_frame(value, where)
    if column is None:
        return frame
    check_column(frame.columns, column, where)
    times = refuse_missing(frame[column], where, ())
    if frame.is_empty():
        return frame.with_columns(times.cast(pl.Int64, strict=False))
    _refuse_large(times, where)
    return frame.with_columns(numbers.read(times, where, notices))


def cast_link_keys(
    frame: pl.DataFrame, ends: Mapping[str, pl.Series | None], where: str, words: Collection[str]
) -> pl.DataFrame:
    """A frame with columns of keys of other tables, each cast to the type of the keys that it is matched with.

    As for files, 7 and "7" match as text. Missing columns, and missing or unknown keys are left to later checks.

    Args:
        frame: as ``as_frame`` returns it.
        ends: keys to match by column; None for any.
        where: names the frame in messages.
        words: that are missing values.

    Raises:
        InputError: a type cannot be a key, or only some of the values can be keys of the other table.
    """
    cast = (_cast_keys(frame[name], values, where, words) for name, values in ends.items() if name in frame.columns)
    return frame.with_columns(*cast)


def _cast_keys(keys: pl.Series, values: pl.Series | None, where: str, words: Collection[str]) -> pl.Series:
    keys = without_missing(keys, words)
    if keys.dtype != pl.String:
        keys = as_keys(keys, where)
    if values is None or keys.dtype == values.dtype:
        return keys
    if values.dtype == pl.String:
        return keys.cast(pl.String)
    numbers = keys.str.extract(INTEGER_PATTERN, 1).cast(pl.Int64, strict=False)
    bad = numbers.is_null() & keys.is_not_null()
    if bad.any() and numbers.null_count() < len(numbers):
        raise InputError(
            "keys of different types",
            where=f"{where}, column {keys.name!r}, row {row_of(bad)}",
            expected=f"whole numbers, as in {values.name!r}, such as {values.drop_nulls().head(3).to_list()}",
            found=f"{shown(keys.filter(bad))}; {bad.sum():,} rows in all",
        )
    return keys if bad.any() else numbers  # no key in common is an error of the join


def cast_match_columns(frame: pl.DataFrame, columns: Collection[str], where: str) -> pl.DataFrame:
    """A frame of nodes with the columns that links match, as Int64 or text; columns and values may be missing.

    Raises:
        InputError: a column cannot hold keys.
    """
    present = [frame[name] for name in columns if name in frame.columns]
    return frame.with_columns(*(as_keys(v, where) for v in present if v.dtype not in (pl.Int64, pl.String)))


def as_texts(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """A frame of texts with kinds as text; numbers and Booleans are converted.

    Raises:
        InputError: a column is missing, or kinds cannot be converted.
    """
    for name in ("kind", "text"):
        check_column(frame.columns, name, where)
    if not has_text(kinds := frame["kind"].dtype):
        raise InputError(
            "column is not text", where=f"{where}, column 'kind'", expected="a text column", found=str(kinds)
        )
    return frame.with_columns(pl.col("kind").cast(pl.String))


def check_rows(frame: pl.DataFrame, where: str, repeats: bool = False) -> None:
    """Refuse interactions without rows, users or items, or, unless ``repeats``, with a (user, item) twice.

    Raises:
        InputError: the interactions are refused.
    """
    for name in ("user", "item"):
        check_column(frame.columns, name, where)
    if frame.is_empty():
        raise InputError("table has no rows", where=where, expected="a row per interaction", found="none")
    if repeats:
        return
    twice = frame.select(pl.struct("user", "item").is_duplicated()).to_series()
    if twice.any():
        user, item = frame.select("user", "item").row(row_of(twice) - 1)
        raise InputError(
            "a user has an item twice",
            where=f"{where}, row {row_of(twice)}",
            expected='every (user, item) once, such as frame.unique(["user", "item"], keep="last")',
            found=f"({user!r}, {item!r}); {twice.sum():,} such rows",
        )


def _is_large(values: pl.Series) -> bool:
    """Whether whole numbers are wider than Int64."""
    if values.dtype not in (pl.UInt64, pl.Int128):
        return False
    return bool(values.cast(pl.Int64, strict=False).null_count() > values.null_count())


def _refuse_large(values: pl.Series, where: str) -> None:
    if _is_large(values):
        raise InputError(
            "number is too large",
            where=f"{where}, column {values.name!r}",
            expected="whole numbers below 2^63, or text",
            found=str(values.max()),
        )


def _is_pandas(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns")


def _collected(lazy: pl.LazyFrame, where: str) -> pl.DataFrame:
    try:
        return lazy.collect()
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "lazy frame cannot be collected",
            where=where,
            expected="a query that runs: call .collect() on it to see the error in full",
            found=str(error).splitlines()[0],
        ) from None


def _of_pandas(value: Any, where: str) -> pl.DataFrame:
    index = getattr(value, "index", None)
    levels = [name for name in getattr(index, "names", ()) if name is not None and name not in value.columns]
    if levels:  # such as frame.set_index("sku")
        value = value.reset_index(level=levels)
    names = [str(name) for name in value.columns]
    if len(set(names)) < len(names):
        raise InputError("column occurs twice", where=where, expected="every name once", found=", ".join(names))
    return pl.DataFrame([_of_series(name, value.iloc[:, at], where) for at, name in enumerate(names)])


def _of_series(name: str, values: Any, where: str) -> pl.Series:
    """A column of pandas; NaN, NA and NaT are missing."""
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)  # Python's datetime has no nanoseconds
    array = values.to_numpy()
    if array.dtype.kind == "M" and array.dtype.str[4:-1] not in ("ms", "us", "ns"):
        array = array.astype("datetime64[ms]")
    if array.dtype.kind in "iufbM":
        return pl.Series(name, array, nan_to_null=True)
    missing = values.isna().to_numpy()
    objects = [None if is_missing else value for value, is_missing in zip(values.tolist(), missing, strict=True)]
    if any(getattr(value, "nanosecond", 0) for value in objects):
        moments = [np.datetime64("NaT") if value is None else value.to_datetime64() for value in objects]
        return pl.Series(name, np.array(moments, "datetime64[ns]"), nan_to_null=True)
    return _series(name, objects, where)


def _series(name: str, values: Sequence[Any], where: str) -> pl.Series:
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError, OverflowError, UnicodeEncodeError) as error:
        types = sorted({type(value).__name__ for value in values if value is not None})
        raise InputError(
            "column holds values of several types, or no text",
            where=f"{where}, column {name!r}",
            expected="numbers, or text",
            found=", ".join(types) if len(types) > 1 else str(error).splitlines()[0],
        ) from None


def _of_other(value: Any, where: str) -> pl.DataFrame:
    try:
        if isinstance(value, dict) or hasattr(value, "__arrow_c_stream__"):
            return pl.DataFrame(value)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(
            "not readable as a frame",
            where=where,
            expected="columns of one length and one type each",
            found=str(error).splitlines()[0],
        ) from None
    try:
        frame = nw.from_native(value)
        eager = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
    except TypeError:
        raise InputError(
            "not a frame",
            where=where,
            expected="a frame of polars or pandas, an Arrow table, or columns by name",
            found=type(value).__name__,
        ) from None
    return pl.DataFrame([_series(name, eager[name].to_list(), where) for name in eager.columns])


def _keys(values: pl.Series, where: str, words: Collection[str]) -> pl.Series:
    values = refuse_missing(values, where, words)
    _refuse_large(values, where)
    dtype = values.dtype
    if dtype == pl.String:
        return values
    if dtype.is_float() and ((values == values.round()) & (values.abs() < exact_below(values))).all():
        return values.cast(pl.Int64)
    if dtype != pl.Int64:
        raise InputError(
            "type cannot be a key",
            where=f"{where}, column {values.name!r}",
            expected="whole numbers, or text",
            found=f"{dtype}, such as {shown(values)}" if len(values) else str(dtype),
        )
    return values
