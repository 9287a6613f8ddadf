"""What the values of a column look like: keys, numbers, times, lists, paths, texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Literal

import polars as pl

from relrank.discovery.statements import Statement
from relrank.discovery.vocabulary import MEASURES, NOTES, TEXTS, TIME, names_a, topics_of
from relrank.errors import InputError
from relrank.tables.files import INTEGER_PATTERN, has_text
from relrank.tables.missing import without_missing
from relrank.tables.times import DATETIME_NS, as_times, unit_of

Kind = Literal["empty", "list", "time", "flag", "number", "url", "email", "text", "value", "other"]

Role = Literal["key", "time"]

SAMPLE = 20_000
"""Values that the look of a column is judged by."""
MORE_MISSING = (
    "-",
    "--",
    "?",
    "unknown",
    "Unknown",
    "UNKNOWN",
    "unbekannt",
    "k.A.",
    "k. A.",
    "keine Angabe",
    "n.a.",
    "tbd",
    "0000-00-00",
    "0000-00-00 00:00:00",
)
"""Words for missing values that people write, and that are also read as missing if the study file says so."""
MOSTLY = 0.98
MOSTLY_TIMED = 0.5
"""Share of the rows that have a time, from which on a column may be the time of the rows."""
MOST_DAYS = 31
"""Different numbers up to which a column may hold days or hours instead of times."""
UNKNOWN_FORMAT = "is in no known format, or in another one than most"
_DATE = (
    r"^(\d{4}-\d\d?-\d\d?|\d{1,4}[./]\d\d?[./]\d{2,4}|\d{1,2}[- ]([A-Z][A-Za-z]{2,8}|\d\d?)[- ]\d{2,4}"
    r"|[A-Z][a-z]{2,8} \d{1,2},? \d{4})([T ,]|$)"
)
_ISO = r"^\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d.*)?$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_BEFORE = r"^(?:[€$£]|EUR|USD|CHF|GBP)?\s*[+-]?"
_UNIT = r"(?:[€$£%]|EUR|USD|CHF|GBP|kg|g|cm|mm|ml|l)?$"
_LOCAL_NUMBER = _BEFORE + r"(\d{1,3}(?:[.' ]\d{3})+|\d+)(?:,(\d+))?\s*" + _UNIT
_CURRENCY = _BEFORE + r"\d+(?:,\d{3})*(?:\.\d+)?\s*" + _UNIT
_FLAGS = (("0", "1"), ("false", "true"), ("f", "t"), ("n", "y"), ("no", "yes"), ("nein", "ja"), ("n", "j"))
_DAYS = ("%d.%m.%Y", "%d.%m.%y", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y")
_HOURS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p")
DATE_FORMATS = (*(day + hour for day in _DAYS for hour in _HOURS), "%Y%m%d%H%M%S", "%Y%m%d", "%m %d, %Y")
"""Formats of dates other than ISO, which study files do not read: they are converted."""


class Column:
    """One column of a table, without missing values and without spaces at the ends of text.

    Everything is computed when it is first asked for.

    Attributes:
        table: its name.
        name: of the column.
        raw: the values as read.
        role: what the table's file states that the values are, if it does.
    """

    def __init__(self, table: str, name: str, raw: pl.Series, role: Role | None = None) -> None:
        self.table, self.name, self.raw, self.role = table, name, raw, role

    def __repr__(self) -> str:
        return f"{self.where}: {self.kind}, {self.n_distinct:,} different of {len(self.raw):,}"

    @property
    def where(self) -> str:
        """Table and column, for messages."""
        return f"{self.table}.{self.name}"

    @cached_property
    def values(self) -> pl.Series:
        """The values, null where missing; text is stripped."""
        values = self.raw
        if isinstance(values.dtype, pl.Categorical | pl.Enum):
            values = values.cast(pl.String)
        if values.dtype == pl.String:
            values = values.str.strip_chars()
        values = without_missing(values)
        if values.dtype == pl.String and (odd := values.is_in(MORE_MISSING)).any():
            values = pl.select(pl.when(~odd).then(values)).to_series().alias(self.name)
        return values

    @cached_property
    def text(self) -> pl.Series:
        """The values as text in one notation: ``7.0`` is ``7``; null where missing or not to be written as text."""
        values = self.values
        if not has_text(values.dtype):
            return pl.Series(self.name, [None] * len(values), pl.String)
        if values.dtype.is_float():
            whole = values.cast(pl.Int64, strict=False)
            values = whole if bool((whole.cast(values.dtype) == values).all()) else values
        text = values.cast(pl.String)
        if self.values.dtype == pl.String and bool(text.head(100).str.contains(r"\.0$").any()):
            text = text.str.replace(r"^(-?\d+)\.0+$", "$1")
        return text

    @cached_property
    def distinct(self) -> pl.Series:
        """The different values as text, in the order of their first row."""
        return self.text.drop_nulls().unique(maintain_order=True)

    @cached_property
    def counts(self) -> pl.DataFrame:
        """``value`` and ``count`` of each different value, the most frequent first."""
        counts = self.text.drop_nulls().alias("value").value_counts(name="count")
        return counts.sort("count", "value", descending=[True, False])

    @property
    def n_known(self) -> int:
        """Number of values that are not missing."""
        return len(self.values) - self.values.null_count()

    @property
    def known_share(self) -> float:
        """Share of the rows that have a value."""
        return self.n_known / max(1, len(self.values))

    @cached_property
    def n_distinct(self) -> int:
        """Number of different values."""
        return len(self.distinct) if has_text(self.values.dtype) else 0

    @cached_property
    def is_unique(self) -> bool:
        """Whether every row has a value of its own."""
        return 0 < len(self.values) == self.n_distinct

    @cached_property
    def sample(self) -> pl.Series:
        """Some values as text."""
        known = self.text.drop_nulls()
        return known if len(known) <= SAMPLE else known.sample(SAMPLE, seed=0)

    def share(self, pattern: str) -> float:
        """Share of the sampled values that a pattern matches."""
        return float(self.sample.str.contains(pattern).mean() or 0.0)  # type: ignore[arg-type]

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers without leading zeros."""
        return self.n_known > 0 and bool(self.text.drop_nulls().str.contains(INTEGER_PATTERN).all())

    @cached_property
    def numbers(self) -> pl.Series | None:
        """Float64, null where missing, if the column holds numbers, else None; also numbers in a local notation."""
        values = self.values
        if values.dtype.is_numeric():
            return values.cast(pl.Float64)
        if values.dtype != pl.String or not self.n_known or self.share(r"^[+-]?0\d") > 0:
            return None
        if self.share(_NUMBER) >= MOSTLY:
            return values.cast(pl.Float64, strict=False)
        if self.share(_CURRENCY) >= MOSTLY and self.share(r"\d") == 1.0:
            return values.str.replace_all(r"[^\d.+-]", "").cast(pl.Float64, strict=False)
        if self.share(_LOCAL_NUMBER) >= MOSTLY:
            plain = values.str.replace_all(r"[^\d,+-]", "").str.replace(",", ".", literal=True)
            return plain.cast(pl.Float64, strict=False)
        return None

    @property
    def numbers_are_plain(self) -> bool:
        """Whether study files read all values as numbers."""
        if self.values.dtype != pl.String:
            return self.values.dtype.is_numeric()
        return self.values.cast(pl.Float64, strict=False).null_count() == self.values.null_count()

    @cached_property
    def times(self) -> pl.Series | None:
        """Datetime in nanoseconds, null where missing, if the column holds dates, else None."""
        known = self.values.drop_nulls()
        if self.role == "key" or known.is_empty() or known.dtype.is_nested() or known.dtype == pl.Boolean:
            return None
        if known.dtype.is_temporal():
            return self._read(known) if isinstance(known.dtype, pl.Date | pl.Datetime) else None
        if known.dtype == pl.String and self.share(r"^\d{4}-\d\d-\d\d") >= MOSTLY:
            return self._read(known)
        if known.dtype == pl.String and self.share(r"^\d{1,4}[./ -]|^\d{8}(\d{6})?$|^[A-Z][a-z]{2} \d") >= MOSTLY:
            return self._formatted[1] if self._formatted else None
        return self._read(known) if self._may_be_epoch(known) else None

    def _read(self, known: pl.Series) -> pl.Series | None:
        try:
            times = as_times(known, self.where)
        except InputError:
            return None
        if times.dtype != DATETIME_NS:
            return None
        at = self.values.is_not_null().arg_true()
        return pl.Series(self.name, [None] * len(self.values), DATETIME_NS).scatter(at, times)

    def _may_be_epoch(self, known: pl.Series) -> bool:
        """Whether numbers are seconds (or a shorter unit) since 1970: named as times, or spread over months."""
        if not (known.dtype.is_integer() or known.dtype.is_float() or self.share(r"^\d{9,19}(\.\d+)?$") == 1.0):
            return False
        numbers = known.cast(pl.Float64, strict=False)
        low, high = float(numbers.min() or 0), float(numbers.max() or 0)  # type: ignore[arg-type]
        unit = unit_of(low)
        if unit in (None, "order", "days") or unit != unit_of(high) or 20170101 <= low <= 21001231:
            return False
        if self.role == "time" or names_a(self.name, TIME):
            return True
        length = {"s": 86_400, "ms": 86_400e3, "us": 86_400e6, "ns": 86_400e9}[str(unit)]
        return not self.is_unique and 30 * length < high - low < 0.5 * high

    @cached_property
    def _formatted(self) -> tuple[str, pl.Series] | None:
        """The format of dates that are not ISO, and the times."""
        if self.sample.str.contains(r"^\d{8}$").all() and not names_a(self.name, TIME):
            return None
        for pattern in DATE_FORMATS:
            if _unread(self.sample.head(100), pattern).any():
                continue
            times = self.text.str.strptime(pl.Datetime("us"), pattern, strict=False)
            if times.null_count() == self.text.null_count() and bool(times.dt.year().is_between(1900, 2200).all()):
                return pattern, times.cast(DATETIME_NS)
        return None

    @cached_property
    def unread_time(self) -> str | None:
        """A value that keeps a column that is named like a time, or looks like one, from being read; else None."""
        if self.values.dtype != pl.String or self.kind not in ("value", "text"):
            return None
        dates = self.share(_DATE)
        if dates < 0.5 and not (dates > 0 and names_a(self.name, TIME)):
            return None
        formats = min((_unread(self.sample, f).sum(), f) for f in (_ISO, *DATE_FORMATS))
        if formats[0] == len(self.sample) and not names_a(self.name, TIME):
            return None
        known = self.text.drop_nulls()
        unread = known.filter(_unread(known, formats[1]))
        return str((known if unread.is_empty() else unread)[0])

    @cached_property
    def why_no_times(self) -> str | None:
        """What keeps a column of times from being read or used; None if nothing does, or if it holds none."""
        if (value := self.unread_time) is not None:
            return f"{value[:60]!r} {UNKNOWN_FORMAT}"
        if self.kind == "time" and self.known_share <= MOSTLY_TIMED:
            return f"{self.n_known:,} of {len(self.values):,} rows have one"
        named = names_a(self.name, TIME) and not names_a(self.name, MEASURES)
        if self.kind == "number" and self.role is None and named and self.n_distinct > MOST_DAYS:
            known = (self.values if self.numbers is None else self.numbers).drop_nulls().to_list()
            low, high = min(known), max(known)
            return f"numbers from {low:g} to {high:g} are no seconds, or parts of them, since 1970"
        return None

    @property
    def days_may_be_months(self) -> bool:
        """Whether dates are read as month/day/year and could as well be day/month/year."""
        pattern = self._formatted[0] if self.values.dtype == pl.String and self._formatted else ""
        swapped = pattern.replace("%m/%d/", "%d/%m/")
        return swapped != pattern and not _unread(self.text.drop_nulls(), swapped).any()

    @property
    def times_are_plain(self) -> bool:
        """Whether study files read the times as they are written."""
        if self.raw.dtype == pl.String and bool(self.raw.str.strip_chars().is_in(MORE_MISSING).any()):
            return False
        return self.values.dtype != pl.String or self._formatted is None or self.share(r"^\d{4}-\d\d-\d\d") >= MOSTLY

    @cached_property
    def words(self) -> float:
        """Mean number of words of a value."""
        return float((self.sample.str.count_matches(r"\s+") + 1).mean() or 0.0)  # type: ignore[arg-type]

    @cached_property
    def json_lists(self) -> pl.Series | None:
        """The values as lists, if they are written as lists of JSON or Python; of objects, their names."""
        if self.values.dtype != pl.String or self.share(r"^\[.*\]$") < MOSTLY:
            return None
        lists = [None if value is None else _list_of(value) for value in self.values.to_list()]
        return pl.Series(self.name, lists, pl.List(pl.String))

    @cached_property
    def kind(self) -> Kind:
        """What the values look like."""
        if self.n_known == 0:
            return "empty"
        dtype = self.values.dtype
        if self.role == "key" and has_text(dtype):
            return "value" if self.numbers is None else "number"
        if isinstance(dtype, pl.List | pl.Array) or self.json_lists is not None:
            return "list"
        if dtype == pl.Boolean or (self.n_distinct == 2 and self._is_flag()):
            return "flag"
        if not has_text(dtype):
            return "other"
        if self.times is not None:
            return "time"
        if self.numbers is not None:
            return "number"
        if self.share(r"^(https?://|www\.)\S+$") >= 0.9:
            return "url"
        if self.share(r"^[^@\s]+@[^@\s]+\.[^@\s]+$") >= 0.9:
            return "email"
        return "text" if self._is_text() else "value"

    def _is_flag(self) -> bool:
        return tuple(sorted(self.distinct.str.to_lowercase())) in _FLAGS

    def _is_text(self) -> bool:
        """Whether the values are prose: many words, and few values that repeat."""
        if self.words >= 5 and self.n_distinct > 0.3 * self.n_known:
            return True
        named = names_a(self.name, TEXTS) or names_a(self.name, NOTES)
        return named and self.words >= 3 and self.n_distinct > 0.1 * self.n_known

    @cached_property
    def may_be_key(self) -> bool:
        """Whether the values may be keys: whole numbers or short text, no dates, decimals or prose."""
        if self.role == "key" and has_text(self.values.dtype):
            return True
        if self.kind == "number":
            return self.is_whole and bool(self.numbers is not None and (self.numbers.drop_nulls() >= 0).all())
        return self.kind == "value" and float(self.sample.str.len_chars().quantile(0.95) or 0) <= 64

    @property
    def may_be_key_of_letters(self) -> bool:
        """Whether text looks like codes, such as ``SKU-0042``, and not like names."""
        return self.share(r"\d") >= 0.9 and self.words < 1.5

    @cached_property
    def is_row_number(self) -> bool:
        """Whether the values number the rows of the file."""
        if not (self.is_unique and self.is_whole and self.numbers is not None):
            return False
        return bool((self.numbers.diff().drop_nulls() == 1).all()) and float(self.numbers[0]) in (0.0, 1.0)

    @cached_property
    def shared_share(self) -> float:
        """Share of the known values that occur in another row, too."""
        return 1.0 - float((self.counts["count"] == 1).sum()) / max(1, self.n_known)

    @cached_property
    def top_share(self) -> float:
        """Share of the most frequent value among the known ones."""
        return float(self.counts["count"][0]) / self.n_known if self.n_distinct else 0.0


def _unread(known: pl.Series, pattern: str) -> pl.Series:
    """Which texts a format of dates does not read as a date from 1900 to 2200."""
    if pattern == _ISO:
        days = known.str.head(10).str.strptime(pl.Date, "%Y-%m-%d", strict=False)
        days = pl.select(pl.when(known.str.contains(_ISO)).then(days)).to_series()
    else:
        days = known.str.strptime(pl.Datetime("us"), pattern, strict=False).dt.date()
    return ~days.dt.year().is_between(1900, 2200).fill_null(False)


def _list_of(text: str) -> list[str] | None:
    """The elements of a list that is written as text; None if it cannot be read."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = json.loads(re.sub(r"(?<![A-Za-z])'|'(?![A-Za-z])", '"', text).replace("None", "null"))
        except ValueError:
            inner = text.strip("[]").strip()
            return [part.strip(" '\"") for part in inner.split(",")] if inner else []
    return [t for element in value if (t := _name_of(element))] if isinstance(value, list) else None


def _name_of(element: object) -> str:
    if isinstance(element, dict):
        named = (element[key] for key in ("name", "title", "label", "value", "id") if key in element)
        element = next(named, None)
    return "" if element is None or isinstance(element, dict | list) else str(element).strip()


class Table:
    """A table with its columns.

    Attributes:
        name: as the caller calls it.
        frame: the rows.
        columns: by name; names with nothing but spaces are left out.
        stated: what its file states of it, if anything.
    """

    def __init__(self, name: str, frame: pl.DataFrame, stated: Statement | None = None) -> None:
        self.name, self.frame, self.stated = name, frame, stated
        roles: dict[str | None, Role] = {}
        if stated is not None:
            roles = {stated.time: "time", stated.key: "key", **dict.fromkeys(stated.foreign, "key")}
        self.columns = {c: Column(name, c, frame[c], roles.get(c)) for c in frame.columns}

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns.values())

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.frame.height

    @property
    def topics(self) -> tuple[str, ...]:
        """What the name says that the rows are."""
        return topics_of(self.name)


def tables_of(frames: Mapping[str, pl.DataFrame], stated: Mapping[str, Statement] | None = None) -> dict[str, Table]:
    """The tables by name, with what is stated of them."""
    return {name: Table(name, frame, (stated or {}).get(name)) for name, frame in frames.items()}
