"""Frames that a program hands over: of polars, pandas or anything that speaks Arrow, checked like files.

pandas is not needed: its frames are read column by column through what every one of them can do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.tables.files import INTEGER_PATTERN, as_keys, check_column, exact_below, has_text
from relrank.tables.missing import refuse_missing, row_of, shown, without_missing
from relrank.tables.notices import Notice
from relrank.tables.times import DATETIME_NS, NS_PER_SECOND, UNKNOWN_TICKS, Unit, as_times


@dataclass(frozen=True, slots=True, eq=False)
class NumericTimes:
    """What whole numbers that are times mean.

    Attributes:
        ticks: in a second, where a program states it; ``UNKNOWN_TICKS`` where they are judged as those of files.
        unit: of numbers that are judged, where it is stated.
        clock: ticks in a second of ``before``.
        before: columns of times that are ticks already. Numbers that all occur there are rows of those tables, thus
            such ticks, whatever their range or the unit says.
    """

    ticks: int = UNKNOWN_TICKS
    unit: Unit | None = None
    clock: int = UNKNOWN_TICKS
    before: tuple[pl.Series, ...] = ()

    def known(self, times: pl.Series) -> bool:
        """Whether whole numbers all occur among the times from before."""
        if not self.before:
            return False
        low, high = times.min(), times.max()
        if not any(b.min() <= low and high <= b.max() for b in self.before):  # type: ignore[operator]
            return False
        return bool(times.unique().is_in(pl.concat([b.rename("t") for b in self.before]).unique().implode()).all())

    def read(self, times: pl.Series, where: str, said: list[Notice]) -> pl.Series:
        """Times as ``times.as_times`` has them, or whole numbers of stated ticks as they are."""
        given = self.ticks != UNKNOWN_TICKS
        if times.dtype.is_float() and (given or self.before) and (times == times.round()).all():
            whole = times.cast(pl.Int64) if (times.abs() < exact_below(times)).all() else times
            times = whole if given or (whole.dtype == pl.Int64 and self.known(whole)) else times
        if times.dtype.is_integer() and given:
            return times
        if times.dtype == pl.Int64 and self.known(times):
            return (times * (NS_PER_SECOND // self.clock)).cast(DATETIME_NS) if self.clock else times
        return as_times(times, where, self.unit, notices=said)


def as_frame(value: Any, where: str) -> pl.DataFrame:
    """A polars frame, row by row as given: whole numbers as Int64 if they fit, categories as text.

    Args:
        value: a frame of polars or pandas, an Arrow table, or columns by name.
        where: what it is, for messages.

    Raises:
        InputError: it is no frame, or a column holds values of several types.
    """
    if isinstance(value, pl.LazyFrame):
        value = value.collect()
    if not isinstance(value, pl.DataFrame):
        value = _of_pandas(value, where) if _is_pandas(value) else _of_other(value, where)
    whole = [name for name in value.columns if value[name].dtype.is_integer() and not _is_large(value[name])]
    named = [name for name, dtype in value.schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    frame: pl.DataFrame = value.with_columns(pl.col(whole).cast(pl.Int64), pl.col(named).cast(pl.String))
    return frame


def cast_interactions(
    value: Any, where: str, words: Collection[str], said: list[Notice], numbers: NumericTimes
) -> pl.DataFrame:
    """Interactions: keys in ``user`` and ``item``, numbers in ``rating``, and ``time`` as ``cast_times`` has it.

    Args:
        value: as for ``as_frame``.
        where: what it is, for messages.
        words: that are missing values where they stand for a key.
        said: as for ``cast_times``.
        numbers: likewise.

    Raises:
        InputError: a value is missing or of a type that cannot be; the message names column and row.
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
    return cast_times(frame, "time" if "time" in frame.columns else None, where, said, numbers)


def cast_keys(value: Any, columns: Collection[str], where: str, words: Collection[str]) -> pl.DataFrame:
    """A frame some of whose columns hold keys: Int64, or text as it is.

    Raises:
        InputError: there is no such column, a key is missing, or no key can be of the column's type.
    """
    frame = as_frame(value, where)
    for name in columns:
        check_column(frame.columns, name, where)
    return frame.with_columns(*(_keys(frame[name], where, words) for name in dict.fromkeys(columns)))


def cast_times(value: Any, column: str | None, where: str, said: list[Notice], numbers: NumericTimes) -> pl.DataFrame:
    """A frame with a column of times, as ``times.as_times`` has them; or of ticks, whole numbers as they are.

    Args:
        value: as for ``as_frame``.
        column: that holds times; None for none.
        where: what it is, for messages.
        said: what was made of numbers is added here.
        numbers: what numbers mean.

    Raises:
        InputError: there is no such column, a time is missing, or it cannot be one.
    """
    frame = as_frame(value, where)
    if column is None:
        return frame
    check_column(frame.columns, column, where)
    times = refuse_missing(frame[column], where, ())
    if frame.is_empty():
        return frame.with_columns(times.cast(pl.Int64, strict=False))
    _refuse_large(times, where)
    return frame.with_columns(numbers.read(times, where, said))


def cast_link_keys(
    frame: pl.DataFrame, ends: Mapping[str, pl.Series | None], where: str, words: Collection[str]
) -> pl.DataFrame:
    """A frame whose columns hold keys of other tables, each in the type of what it is matched with.

    Text is the common ground of 7 and "7", as it is for files. Whoever reads the rows says which columns there must
    be, and counts keys that are missing or unknown.

    Args:
        frame: as ``as_frame`` returns it.
        ends: by column what its keys are matched with; None where any value will do.
        where: what it is, for messages.
        words: that are missing values.

    Raises:
        InputError: values cannot be keys, or some of them none of those.
    """
    met = (_met(frame[name], values, where, words) for name, values in ends.items() if name in frame.columns)
    return frame.with_columns(*met)


def _met(keys: pl.Series, values: pl.Series | None, where: str, words: Collection[str]) -> pl.Series:
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
    return keys if bad.any() else numbers  # none in common, which is said where they are joined


def cast_match_columns(frame: pl.DataFrame, columns: Collection[str], where: str) -> pl.DataFrame:
    """A frame of nodes whose columns are matched by links: whole numbers as Int64, else as text; some may be missing.

    Raises:
        InputError: a column cannot hold keys.
    """
    there = [frame[name] for name in columns if name in frame.columns]
    other = [values for values in there if values.dtype not in (pl.Int64, pl.String)]
    return frame.with_columns(*(as_keys(values, where) for values in other))


def as_texts(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """A frame of texts whose kinds are text; numbers and truth values are written.

    Raises:
        InputError: there is no such column, or its values cannot be written.
    """
    for name in ("kind", "text"):
        check_column(frame.columns, name, where)
    if not has_text(kinds := frame["kind"].dtype):
        raise InputError(
            "column is not text", where=f"{where}, column 'kind'", expected="a text column", found=str(kinds)
        )
    return frame.with_columns(pl.col("kind").cast(pl.String))


def check_rows(frame: pl.DataFrame, where: str, repeats: bool = False) -> None:
    """Refuse interactions without rows, without users or items, or, unless ``repeats``, with one (user, item) twice.

    Raises:
        InputError: they are so.
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


def _of_pandas(value: Any, where: str) -> pl.DataFrame:
    names = [str(name) for name in value.columns]
    if len(set(names)) < len(names):
        raise InputError("column occurs twice", where=where, expected="every name once", found=", ".join(names))
    return pl.DataFrame([_of_series(name, value.iloc[:, at], where) for at, name in enumerate(names)])


def _of_series(name: str, values: Any, where: str) -> pl.Series:
    """A column of pandas: NaN, NA and NaT are missing."""
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)  # Python's own moments have no nanoseconds
    array = values.to_numpy()
    if array.dtype.kind == "M" and array.dtype.str[4:-1] not in ("ms", "us", "ns"):
        array = array.astype("datetime64[ms]")
    if array.dtype.kind in "iufbM":
        return pl.Series(name, array, nan_to_null=True)
    missing = values.isna().to_numpy()
    listed = [None if gone else one for one, gone in zip(values.tolist(), missing, strict=True)]
    if any(getattr(one, "nanosecond", 0) for one in listed):
        moments = [np.datetime64("NaT") if one is None else one.to_datetime64() for one in listed]
        return pl.Series(name, np.array(moments, "datetime64[ns]"), nan_to_null=True)
    return _series(name, listed, where)


def _series(name: str, values: Sequence[Any], where: str) -> pl.Series:
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, pl.exceptions.PolarsError, OverflowError, UnicodeEncodeError) as error:
        types = sorted({type(one).__name__ for one in values if one is not None})
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
    raise InputError(
        "not a frame",
        where=where,
        expected="a frame of polars or pandas, an Arrow table, or columns by name",
        found=type(value).__name__,
    )


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
