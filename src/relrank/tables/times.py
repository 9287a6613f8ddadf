"""Times of tables: ISO text, dates, and numbers whose unit follows from their range.

A column of moments becomes Datetime in nanoseconds, UTC. Numbers that are no dates, such as 1, 2, 3 …, are only an
order: they become Int64, and are not compared with dates.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import BeforeValidator

from relrank.errors import InputError
from relrank.tables.missing import NA_VALUES, refuse_missing, row_of, shown
from relrank.tables.notices import Notice


def _number_text_or_date(value: Any) -> Any:
    """Refuse other types, which pydantic would convert to numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | date):
        raise ValueError("a time is an ISO date or date-time, or a number as in the tables")
    return value


TimeValue = Annotated[int | float | str | date | datetime, BeforeValidator(_number_text_or_date)]
"""A time in a configuration file: a number as in the tables, ISO text, or TOML's own dates."""

Unit = Literal["days", "s", "ms", "us", "ns", "order"]
DATETIME_NS = pl.Datetime("ns")

NS_PER_SECOND = 10**9
UNKNOWN_TICKS = -1
"""Ticks of times whose unit is not determined yet."""
NANOSECONDS = {"days": 86_400 * NS_PER_SECOND, "s": NS_PER_SECOND, "ms": 10**6, "us": 1000, "ns": 1}
"""Length of each unit."""
NAMES = {"days": "days", "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_DECIMAL = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_ISO = (
    r"^(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d{1,9})\d*)?)? ?"
    r"(Z|z|UTC|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)?$"
)
_YEARS = (1990, 2100)
"""Plausible years of a number without a stated unit, the last one excluded."""
_ISO_YEARS = (1900, 2200)
"""Plausible years of a date, the last one excluded; programs write others for "never"."""
_ORDER_BELOW = 10_000_000
_MOST = 2**63 - 1


def _epoch(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def unit_of(value: float | Fraction) -> Unit | None:
    """The unit in which a number is a date from 1990 to 2099; "order" for small numbers; else None."""
    low, high = (_epoch(year) for year in _YEARS)
    for unit, length in NANOSECONDS.items():
        if low * NS_PER_SECOND <= value * length < high * NS_PER_SECOND and not (
            unit == "s" and _digits_of_date(value)
        ):
            return unit  # type: ignore[return-value]
    return "order" if 0 <= value < _ORDER_BELOW else None


def _digits_of_date(value: float | Fraction) -> bool:
    """Whether a number is a date and hour written as digits, like 2024080312."""
    year, rest = divmod(int(value), 1_000_000)
    return (
        _YEARS[0] <= year < _YEARS[1]
        and 1 <= rest // 10_000 <= 12
        and 1 <= rest // 100 % 100 <= 31
        and rest % 100 < 24
    )


def looks_like(value: float) -> str:
    """What a number that is no time may be, for messages."""
    text = f"{value:.0f}"
    year, month, day = text[:4], text[4:6], text[6:8]
    if len(text) in (8, 10, 12, 14) and "1900" <= year < "2200" and "01" <= month <= "12" and "01" <= day <= "31":
        return f"the date {year}-{month}-{day} written as digits"
    unit = unit_of(value)
    if unit == "order":
        return "a small number" if value else "0, which programs write for no time"
    if unit is None:
        return "in no unit a date from 1990 to 2099"
    return f"{NAMES[unit]}, {_shown(int(value * NANOSECONDS[unit]))}"


def _shown(nanoseconds: int) -> str:
    try:
        return f"{datetime(1970, 1, 1) + timedelta(microseconds=nanoseconds // 1000):%Y-%m-%d}"
    except OverflowError:
        return "no year of four digits"


def settle_unit(whole: pl.Series, unit: Unit | None, where: str, rows: pl.Series | None = None) -> Unit:
    """The unit of a column of whole numbers, by the smallest and the largest.

    Args:
        whole: the numbers, Int64.
        unit: the stated unit, if any; then all numbers that fit into a date are valid.
        where: the file.
        rows: row numbers in the file; counted from 1 by default.

    Raises:
        InputError: no single unit makes them dates; the message names the first implausible row.
    """
    low, high = _ends(whole)
    if unit is not None:
        if unit != "order" and max(abs(low), abs(high)) * NANOSECONDS[unit] > _MOST:
            raise _implausible(whole, f"numbers of {NAMES[unit]} that are a date before 2262", where, rows)
        return unit
    unit = unit_of(low)
    if unit is not None and unit == unit_of(high):
        return unit
    if 0 <= low <= high < _ORDER_BELOW:
        return "order"
    expected = "numbers of one unit since 1970 that give dates from 1990 to 2099, or small whole numbers as an order"
    raise _implausible(whole, expected, where, rows)


def _ends(whole: pl.Series) -> tuple[int, int]:
    """The smallest and the largest number; 0 if there is none."""
    values = whole.to_numpy()
    return (int(values.min()), int(values.max())) if values.size else (0, 0)


def _implausible(whole: pl.Series, expected: str, where: str, rows: pl.Series | None) -> InputError:
    """An error that names a number unlike the median, with what both look like."""
    middle = whole.sort()[len(whole) // 2]
    unit = unit_of(middle)
    low, high = _ends(whole)
    first = high if unit_of(low) == unit != unit_of(high) else low
    row = row_of(whole == first, rows)
    return InputError(
        "times are not plausible",
        where=f"{where}, column {whole.name!r}, row {row}",
        expected=f'{expected}; or ISO dates; or time_unit = "days", "s", "ms", "us", "ns" or "order"',
        found=f"{first} ({looks_like(first)}), where the median is {middle} ({looks_like(middle)})",
    )


def of_whole(numbers: pl.Series, unit: Unit) -> pl.Series:
    """Whole numbers of a unit as moments; those of an order are left as they are."""
    numbers = numbers.cast(pl.Int64)
    return numbers if unit == "order" else (numbers * NANOSECONDS[unit]).cast(DATETIME_NS)


def as_times(
    values: pl.Series,
    where: str,
    unit: Unit | None = None,
    words: Collection[str] = NA_VALUES,
    notices: list[Notice] | None = None,
    rows: pl.Series | None = None,
) -> pl.Series:
    """Times as moments, ``Datetime("ns")`` in UTC (assumed if there is no offset), or as an order, Int64.

    Args:
        values: ISO 8601 text, dates, or numbers since 1970.
        where: the file.
        unit: of numbers; by their range if None.
        words: that are missing values.
        notices: how numbers were read, and times without a zone among others with one, are added here.
        rows: row numbers in the file; counted from 1 by default.

    Raises:
        InputError: a time is missing, cannot be read, or is not plausible; the message names row and value.
    """
    refuse_missing(values, where, words)
    notices = [] if notices is None else notices
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        return _of_dates(values, where, rows)
    if values.dtype.is_decimal() or isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        digits = text.str.contains(_DECIMAL)
        if not digits.all():
            if 2 * int(digits.sum()) > len(digits):  # the minority is wrong
                raise _not_a_time(values, ~digits, where, rows)
            return _of_iso(values, text, where, notices, rows)
        whole, share = _of_digits(values, text, where, rows)
    elif values.dtype.is_integer() or values.dtype.is_float():
        whole, share = _of_numbers(values, where, rows)
    else:
        raise InputError(
            "column holds no times",
            where=f"{where}, column {values.name!r}",
            expected="dates, ISO text, or numbers since 1970",
            found=str(values.dtype),
        )
    settled = settle_unit(whole, unit, where, rows)
    has_fractions = share is not None and bool((share != 0).any())
    if settled == "order" and has_fractions:
        raise _implausible(whole, "whole numbers where they are an order", where, rows)
    times = of_whole(whole, settled)
    if has_fractions:
        assert share is not None and settled != "order"  # noqa: PT018
        times = (times.cast(pl.Int64) + (share * NANOSECONDS[settled]).round().cast(pl.Int64)).cast(DATETIME_NS)
    if len(times) and unit is None and settled != "s":
        notices.append(_interpretation(times, settled, f"{Path(where).name}, column {values.name}"))
    return times.alias(values.name)


def _interpretation(times: pl.Series, unit: Unit, where: str) -> Notice:
    """How a column of numbers without a stated unit was read."""
    if unit == "order":
        return Notice(where, "small numbers, which are no dates: read as an order in time without a unit", len(times))
    first, last = (_shown(end) for end in _ends(times.cast(pl.Int64)))
    return Notice(where, f"read as {NAMES[unit]} since 1970: {first} to {last}", len(times))


def _of_digits(
    values: pl.Series, text: pl.Series, where: str, rows: pl.Series | None
) -> tuple[pl.Series, pl.Series | None]:
    """Whole numbers in text, Int64, and their decimal fractions, if any."""
    if text.str.contains(r"[eE]").any():
        return _of_numbers(text.cast(pl.Float64).alias(values.name), where, rows)
    whole = text.str.extract(r"^([+-]?\d+)", 1).str.strip_prefix("+").cast(pl.Int64, strict=False).alias(values.name)
    if whole.null_count():
        raise _not_a_time(values, whole.is_null(), where, rows)
    if not text.str.contains(".", literal=True).any():
        return whole, None
    share = ("0." + text.str.extract(r"\.(\d*)$", 1).fill_null("") + "0").cast(pl.Float64)
    return whole, share * (text.str.starts_with("-").cast(pl.Int64) * -2 + 1)


def _of_numbers(values: pl.Series, where: str, rows: pl.Series | None) -> tuple[pl.Series, pl.Series | None]:
    """Numbers rounded down, Int64, and their fractions, if they are floats."""
    share = None
    if values.dtype.is_float():
        bad = ~(values.is_finite() & (values.abs() < (2.0**24 if values.dtype == pl.Float32 else 2.0**63)))
        floor = values.cast(pl.Float64).floor()
        share, values = values.cast(pl.Float64) - floor, floor.alias(values.name)
    else:
        bad = values.cast(pl.Int64, strict=False).is_null()
    if bad.any():
        raise _not_a_time(values, bad, where, rows)
    return values.cast(pl.Int64), share


def _of_dates(values: pl.Series, where: str, rows: pl.Series | None) -> pl.Series:
    """Moments from date and date-time columns."""
    if isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone is not None:
        values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    _refuse_years(values, values.dt.year(), where, rows)
    return values.cast(DATETIME_NS)


def _refuse_years(values: pl.Series, years: pl.Series, where: str, rows: pl.Series | None) -> None:
    odd = ((years < _ISO_YEARS[0]) | (years >= _ISO_YEARS[1])).fill_null(True)
    if odd.any():
        raise InputError(
            "times are not plausible",
            where=f"{where}, column {values.name!r}, row {row_of(odd, rows)}",
            expected=f'dates from {_ISO_YEARS[0]} to {_ISO_YEARS[1] - 1}; "never" is a missing time, which '
            'missing = "drop" leaves out',
            found=f"{values.filter(odd).head(1).cast(pl.String)[0][:100]}; {odd.sum():,} rows in all",
        )


def _of_iso(
    values: pl.Series, text: pl.Series, where: str, notices: list[Notice], rows: pl.Series | None
) -> pl.Series:
    """Moments from ISO text."""
    parts = text.to_frame("t").select(
        day=pl.col("t").str.extract(_ISO, 1).str.to_date("%Y-%m-%d", strict=False),
        clock=pl.col("t").str.extract(_ISO, 2),
        digits=pl.col("t").str.extract(_ISO, 3).fill_null("").str.pad_end(9, "0").cast(pl.Int64, strict=False),
        zone=pl.col("t").str.extract(_ISO, 4),
    )
    clock = parts["clock"].fill_null("00:00").str.replace(r"^(\d\d:\d\d)$", "${1}:00")
    zone = parts["zone"].fill_null("Z").str.replace("(?i)^(Z|UTC)$", "+00").str.replace(":", "")
    minutes = zone.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    minutes += zone.str.slice(1, 2).cast(pl.Int64) * 60
    sign = zone.str.starts_with("-").cast(pl.Int64) * -2 + 1
    times = clock.str.to_time("%H:%M:%S", strict=False)
    bad = parts["day"].is_null() | times.is_null()
    if bad.any():
        raise _not_a_time(values, bad, where, rows)
    _refuse_years(values, parts["day"].dt.year(), where, rows)
    whole = parts["day"].cast(DATETIME_NS).cast(pl.Int64) + times.cast(pl.Int64) + parts["digits"]
    bare = parts["zone"].is_null()
    if (n := int(bare.sum())) and n < len(bare):
        message = "times without a zone among others with one: read as UTC"
        notices.append(Notice(f"{Path(where).name}, column {values.name}", message, n))
    return (whole - sign * minutes * 60 * NS_PER_SECOND).cast(DATETIME_NS).alias(values.name)


def _not_a_time(values: pl.Series, bad: pl.Series, where: str, rows: pl.Series | None) -> InputError:
    return InputError(
        "not a time",
        where=f"{where}, column {values.name!r}, row {row_of(bad, rows)}",
        expected="numbers since 1970 in one unit, or ISO dates or date-times such as 2017-09-01T12:30:00",
        found=f"{shown(values.filter(bad))}; {bad.sum():,} rows in all",
    )


@dataclass(frozen=True, slots=True)
class Clock:
    """The resolution of the times of a database as whole numbers.

    Attributes:
        ticks: per second, 1 or 10⁹; 0 if times are an order without a unit.
        unit: stated unit of numeric times; None if it follows from their range.
    """

    ticks: int = 1
    unit: Unit | None = None

    @classmethod
    def of(cls, columns: Collection[tuple[str, pl.Series]], unit: Unit | None = None) -> Clock:
        """The coarsest clock that is exact for all times: seconds, or nanoseconds if any time has a fraction.

        Args:
            columns: name of each column, and its times as ``as_times`` returns them; empty ones are ignored.
            unit: as in the class.

        Raises:
            InputError: some columns are moments, and others an order.
        """
        orders = [where for where, times in columns if times.dtype == pl.Int64 and len(times)]
        moments = [(where, times) for where, times in columns if times.dtype != pl.Int64 and len(times)]
        if orders and moments:
            raise InputError(
                "times of two kinds",
                where=orders[0],
                found=f"numbers without a unit, and dates in {moments[0][0]}",
                expected="dates in every table that has times, or an order in every one",
            )
        if orders:
            return cls(0, unit)
        fine = any((times.cast(pl.Int64) % NS_PER_SECOND != 0).any() for _, times in moments)
        return cls(NS_PER_SECOND if fine else 1, unit)

    def read(self, times: pl.Series) -> pl.Series:
        """Times as ticks since 1970, Int64."""
        numbers = times.cast(pl.Int64)
        return numbers // NS_PER_SECOND if self.ticks == 1 else numbers

    def moment(self, value: TimeValue, where: str) -> int:
        """A time from a configuration file in ticks since 1970, rounded down.

        Numbers are in the stated unit, else in the one that follows from their range, as in tables.

        Args:
            value: the time.
            where: the key.

        Raises:
            InputError: it is not a time, not plausible, or a date although the tables only have an order.
        """
        number = _exact(value)
        if self.ticks == 0:
            if number is not None and number.denominator == 1 and abs(number) <= _MOST:
                return int(number)
            raise InputError(
                "a date where times have no unit" if number is None else "not a place in the order",
                where=where,
                found=_short(value),
                expected="a whole number as in the tables; or dates in the tables, or time_unit if their numbers "
                "are dates",
            )
        if number is None:
            return self._of_date(value, where)
        stated = self.unit if self.unit != "order" else None
        unit = stated if stated and abs(number) * NANOSECONDS[stated] <= _MOST else unit_of(number)
        if unit is None or unit == "order":
            raise InputError(
                "not a plausible time",
                where=where,
                expected="an ISO date, or a number since 1970 that gives a date from 1990 to 2099",
                found=f"{_short(value)}" + (f" ({looks_like(float(number))})" if abs(number) <= _MOST else ""),
            )
        return floor(number * NANOSECONDS[unit] * self.ticks / NS_PER_SECOND)

    def _of_date(self, value: TimeValue, where: str) -> int:
        try:
            times = as_times(pl.Series("time", [value]), where)
        except (InputError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            why = f": {error.found}" if isinstance(error, InputError) and "plausible" in error.what else ""
            raise InputError(
                "not a time",
                where=where,
                found=f"{_short(value)}{why}"[:300],
                expected="an ISO date or date-time such as 2024-09-01T12:30:00, or a number as in the tables",
            ) from None
        return int(times.cast(pl.Int64)[0]) * self.ticks // NS_PER_SECOND


def _exact(value: TimeValue) -> Fraction | None:
    """The exact value of a number or numeric text; None for dates and other text."""
    if isinstance(value, date):
        return None
    text = str(value).strip()
    return Fraction(text.rstrip(".")) if len(text) <= 60 and re.fullmatch(_DECIMAL, text) else None


def _short(value: TimeValue) -> str:
    return (repr(value) if isinstance(value, str) else str(value))[:60]
