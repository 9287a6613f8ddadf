"""The tables that every reader returns: nodes, interactions, links and texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from relrank.errors import InputError
from relrank.tables.frames import (
    NumericTimes,
    as_frame,
    as_texts,
    cast_interactions,
    cast_keys,
    cast_link_keys,
    cast_match_columns,
    cast_times,
)
from relrank.tables.missing import NA_VALUES, spaced
from relrank.tables.notices import Notice
from relrank.tables.times import DATETIME_NS, NS_PER_SECOND, UNKNOWN_TICKS, Clock, TimeValue, Unit

TEXTS = "[data.texts]"
"""Name of the text table in messages."""

MAYBE_BY = "#by "
"""Prefix of an extra column of a link or text table that is named like a column of users, but is not declared as the
makers of the rows; a list, where a row adds up those of several users. Only the audit uses it."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeTable:
    """One row per node of a type.

    Attributes:
        name: the node type, e.g. ``"book"``.
        frame: attribute columns and the key column.
        key: column with unique outside keys (Int64 or String).
        title: column with titles to display, if any.
        computed: when the attribute values were computed, if declared: a date, or a number as in the tables; in
            ``Tables``, ticks.
    """

    name: str
    frame: pl.DataFrame
    key: str
    title: str | None = None
    computed: TimeValue | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LinkTable:
    """Rows that link nodes of two types.

    Attributes:
        name: the table.
        frame: the rows.
        source: node type of the source column.
        source_column: column of ``frame`` with the source's value.
        source_match: column of the source's node table with the same values (its key, or another unique column such
            as ``goodreads_book_id``).
        target: node type of the target column; it needs no node table of its own.
        target_column: column of ``frame`` with the target's value.
        target_match: likewise for the target; None if it has no node table.
        weight: column with the weight, if any.
        time: column with the time of each row, as for interactions, if any.
        by: column with the user who made each row, if any.
        computed: when the rows were computed, if declared, as for node tables.
    """

    name: str
    frame: pl.DataFrame
    source: str
    source_column: str
    source_match: str
    target: str
    target_column: str
    target_match: str | None = None
    weight: str | None = None
    computed: TimeValue | None = None
    time: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextTable:
    """Texts of the nodes of one type: any number per node and kind.

    Attributes:
        node: the node type, usually the item.
        frame: columns ``key`` (outside keys of the type), ``kind`` and ``text`` (String); a null or blank text is
            none. Optional ``time``, as for interactions, and ``by`` (the key of the user who wrote it).
        computed: when the last text was written, if declared, as for node tables.
    """

    node: str
    frame: pl.DataFrame
    computed: TimeValue | None = None

    @property
    def kinds(self) -> list[str]:
        """The kinds that occur, ascending."""
        return self.frame["kind"].drop_nulls().unique().sort().to_list()


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """A database as rows, with outside keys only.

    Attributes:
        name: of the data set.
        user: node type of the users.
        item: node type of the items.
        interactions: columns ``user`` and ``item`` (outside keys), optional ``rating`` (Float64) and ``time`` (dates,
            ISO text or numbers, which become Int64, ``ticks`` since 1970), in file order; each (user, item) once,
            unless ``repeats``.
        nodes: node tables by type; optional for users and items.
        links: link tables by name.
        texts: texts of nodes of one type, if any.
        given: interactions by published part ("train", "valid", "test"), if any; ``interactions`` is then all parts
            together.
        ordered: whether file order is time order although there is no ``time`` column.
        notices: counts of what reading dropped or changed.
        ticks: of all times per second: 1; 10⁹ if any time has a fraction; 0 if times are an order. If stated, numbers
            are such ticks; else they are read as in files (``tables.times``), also in frames passed to ``replace``,
            unless these are rows of the old ones.
        time_unit: of numeric times, if stated.
        repeats: whether a (user, item) may occur more than once; a split counts how often.
        na_values: words in node columns and texts that are missing values (``tables.missing``).
        checked: whether the frames were already checked; else ``relrank.tables.frames`` checks them, and in any case
            frames passed to ``replace``.

    Frames may also be those of pandas or Arrow tables, with keys of any integer type or text.

    Raises:
        InputError: a key, rating or time is missing or of a wrong type; the message names column and row.
    """

    name: str
    user: str
    item: str
    interactions: pl.DataFrame
    nodes: dict[str, NodeTable] = field(default_factory=dict)
    links: dict[str, LinkTable] = field(default_factory=dict)
    texts: TextTable | None = None
    given: dict[str, pl.DataFrame] = field(default_factory=dict)
    ordered: bool = False
    notices: tuple[Notice, ...] = ()
    ticks: int = UNKNOWN_TICKS
    repeats: bool = False
    na_values: tuple[str, ...] = NA_VALUES
    checked: bool = False
    time_unit: Unit | None = None
    _settled: tuple[object, ...] = field(default=(), repr=False)
    """Frames and tables that are checked, so that ``replace`` checks new ones only."""
    _clock: int = field(default=UNKNOWN_TICKS, repr=False)
    """Ticks per second of all times in ``_settled``."""
    _stated: bool = field(default=False, repr=False)
    """Whether ``ticks`` are stated, and not derived from the first frames."""

    def __post_init__(self) -> None:
        settled = {id(part) for part in self._settled}
        stated = self.ticks != UNKNOWN_TICKS and (self._stated or self.ticks != self._clock)
        notices: list[Notice] = []
        clean = {name: getattr(self, name) for name in ("interactions", "given", "nodes", "links", "texts")}
        by_reader = self.checked and self._clock == UNKNOWN_TICKS
        if not by_reader:
            clean = _checked(self, settled, notices, stated)
        clean["checked"] = by_reader or (self.checked and id(self.interactions) in settled)
        clean |= _on_one_clock(self, clean, settled, stated)
        clean["notices"] = (*self.notices, *notices)
        clean["_settled"] = _parts_of(clean)
        clean |= {"_clock": clean["ticks"], "_stated": stated}
        for field_name, value in clean.items():
            object.__setattr__(self, field_name, value)

    def with_row_subset(self, **parts: Any) -> Tables:
        """The tables with some parts replaced by rows of them, which are not checked again.

        Args:
            parts: any of ``interactions``, ``given``, ``nodes``, ``links``, ``texts``; times are ticks.
        """
        return replace(self, **parts, _settled=(*self._settled, *_parts_of(parts)))


def _parts_of(fields: Mapping[str, Any]) -> tuple[object, ...]:
    """Frames and tables in fields of ``Tables``."""
    single = (fields.get(name) for name in ("interactions", "texts"))
    groups = (fields.get(name, {}).values() for name in ("given", "nodes", "links"))
    return (*(part for part in single if part is not None), *(part for group in groups for part in group))


def _times_of(part: object) -> pl.Series | None:
    """The times of a checked frame or table, if any."""
    frame, column = (part, "time") if isinstance(part, pl.DataFrame) else (getattr(part, "frame", None), "time")
    if isinstance(part, LinkTable):
        column = part.time or ""
    has_times = isinstance(frame, pl.DataFrame) and not isinstance(part, NodeTable) and column in frame.columns
    return frame[column] if has_times and len(frame) else None  # type: ignore[index, arg-type]


def _checked(tables: Tables, settled: Collection[int], notices: list[Notice], stated: bool) -> dict[str, Any]:
    """Fields of ``Tables`` as polars frames with keys and times cast to their types; settled ones are not changed."""
    words = tables.na_values
    before = tuple(times for times in map(_times_of, tables._settled) if times is not None)
    numbers = NumericTimes(tables.ticks if stated else UNKNOWN_TICKS, tables.time_unit, tables._clock, before)

    def each(side: Mapping[str, Any], check: Callable[[Any, str], Any], what: str) -> dict[str, Any]:
        where = f"{tables.name}, {what} "
        return {n: part if id(part) in settled else check(part, f"{where}{n!r}") for n, part in side.items()}

    def rows(frame: Any, where: str) -> pl.DataFrame:
        cast = cast_interactions(frame, where, words, notices, numbers)
        for name in ("user", "item"):
            notices.extend(spaced(cast[name], where) if name in cast.columns else [])
        return cast

    def nodes(table: NodeTable, where: str) -> NodeTable:
        frame = cast_keys(table.frame, [table.key], where, words)
        return replace(table, frame=cast_match_columns(frame, _matched(tables, table), where))

    def keys(kind: str, match: str | None = None) -> pl.Series | None:
        """The keys of a type that others must match; None for any."""
        table, side = clean["nodes"].get(kind), {tables.user: "user", tables.item: "item"}.get(kind)
        if table is not None:
            return table.frame[match or table.key] if (match or table.key) in table.frame.columns else None
        return clean["interactions"][side] if side in clean["interactions"].columns else None

    def links(table: LinkTable, where: str) -> LinkTable:
        frame = cast_times(table.frame, table.time, where, notices, numbers)
        ends = {
            table.source_column: keys(table.source, table.source_match),
            table.target_column: keys(table.target, table.target_match),
        }
        ends |= {table.by: ends.get(table.by, keys(tables.user))} if table.by is not None else {}
        return replace(table, frame=cast_link_keys(frame, ends, where, words))

    def texts(table: TextTable, where: str) -> TextTable:
        frame = as_frame(table.frame, where)
        ends = {"key": keys(table.node)} | ({"by": keys(tables.user)} if "by" in frame.columns else {})
        frame = cast_link_keys(cast_keys(frame, ["key"], where, words), ends, where, words)
        frame = as_texts(frame, where)
        timed = "time" if "time" in frame.columns else None
        return replace(table, frame=cast_times(frame, timed, where, notices, numbers))

    def single(part: Any, check: Callable[[Any, str], Any], what: str) -> Any:
        return part if part is None or id(part) in settled else check(part, f"{tables.name}, {what}")

    clean: dict[str, Any] = {
        "interactions": single(tables.interactions, rows, "interactions"),
        "given": each(tables.given, rows, "part"),
        "nodes": each(tables.nodes, nodes, "nodes"),
    }
    return clean | {"links": each(tables.links, links, "links"), "texts": single(tables.texts, texts, "texts")}


def _matched(tables: Tables, table: NodeTable) -> list[str]:
    """Columns of a node table that links match, other than its key."""
    links = tables.links.values()
    sides = [(t.source, t.source_match) for t in links] + [(t.target, t.target_match) for t in links]
    return [m for kind, m in dict.fromkeys(sides) if kind == table.name and m and m != table.key]


def _clock_of(tables: Tables, timed: Collection[tuple[str, pl.Series, int]], stated: bool) -> Clock:
    """The coarsest clock that is exact for all times.

    Args:
        tables: with the previous clock.
        timed: name of each column, its times, and the ticks of its whole numbers, ``UNKNOWN_TICKS`` for an order.
        stated: whether numbers are ``tables.ticks``.

    Raises:
        InputError: some columns are moments, and others an order; or no clock has such ticks.
    """
    if stated and tables.ticks not in (0, 1, NS_PER_SECOND):
        raise InputError(
            "ticks of no clock", where="ticks", expected=f"0, 1 or {NS_PER_SECOND}", found=repr(tables.ticks)
        )
    moment, order = pl.Series([0]).cast(DATETIME_NS), pl.Series([0])
    columns, finest = [("ticks", moment if tables.ticks else order)] if stated else [], 0
    for where, times, base in timed:
        ticks = UNKNOWN_TICKS if times.dtype == DATETIME_NS or not len(times) else base
        columns.append((where, times if ticks == UNKNOWN_TICKS else moment if ticks else order))
        finest = max(finest, ticks)
    old = tables.ticks if stated else tables._clock
    if old != UNKNOWN_TICKS and not any(len(times) for _, times in columns):
        return Clock(old, tables.time_unit)
    ticks = Clock.of(columns).ticks
    return Clock(max(ticks, finest, old) if ticks else 0, tables.time_unit)


def _on_one_clock(tables: Tables, clean: dict[str, Any], settled: Collection[int], stated: bool) -> dict[str, Any]:
    """Fields of ``Tables`` with all times as whole numbers of ticks, and the ticks per second.

    Whole numbers of settled parts are ticks of the previous clock, those of new frames stated ticks, if any.
    """
    name, texts = f"{tables.name}, ", clean["texts"]
    before = {part.computed for part in tables._settled if isinstance(getattr(part, "computed", None), int)}  # type: ignore[attr-defined]

    def base(part: Any) -> int:
        """Ticks per second of a part's whole numbers; ``UNKNOWN_TICKS`` if they are an order, or not read yet."""
        return tables._clock if id(part) in settled else tables.ticks if stated else UNKNOWN_TICKS

    parts = [(f"{name}interactions", clean["interactions"], clean["interactions"], "time")]
    parts += [(f"{name}part {part!r}", frame, frame, "time") for part, frame in clean["given"].items()]
    parts += [(f"{name}links {n!r}", link, link.frame, link.time) for n, link in clean["links"].items() if link.time]
    parts += [] if texts is None else [(f"{name}texts", texts, texts.frame, "time")]
    timed = [(f"{at}, column {c!r}", frame[c], base(part)) for at, part, frame, c in parts if c in frame.columns]
    clock = _clock_of(tables, timed, stated)

    def scaled(whole: Any, ticks: int) -> Any:
        finer = clock.ticks // max(ticks, 1) if clock.ticks else 1
        return whole if finer <= 1 else whole * finer

    def read(part: Any, frame: pl.DataFrame, column: str | None) -> pl.DataFrame:
        if column is None or column not in frame.columns:
            return frame
        times, ticks = frame[column], base(part)
        if times.dtype == DATETIME_NS or ticks == UNKNOWN_TICKS:
            return frame.with_columns(clock.read(times).alias(column))
        new = scaled(times, ticks)
        return frame if new is times else frame.with_columns(new.alias(column))

    def computed(part: Any, where: str) -> TimeValue | None:
        value, ticks = part.computed, base(part)
        if isinstance(value, int) and ticks == UNKNOWN_TICKS and value in before:
            ticks = tables._clock
        if value is None or not isinstance(value, int) or ticks == UNKNOWN_TICKS or (ticks == 0 and not stated):
            return None if value is None else clock.moment(value, f"{name}{where}, computed")
        if not clock.ticks and ticks:
            raise InputError(
                "times of two kinds",
                where=f"{name}{where}, computed",
                found="a date, and an order in the tables",
                expected="dates in every table that has times, or an order in every one",
            )
        return scaled(value, ticks)  # type: ignore[no-any-return]

    def table(part: Any, time: str | None, where: str) -> Any:
        if part is None or (id(part) in settled and clock.ticks == tables._clock):
            return part
        return replace(part, frame=read(part, part.frame, time), computed=computed(part, where))

    return {
        "interactions": read(clean["interactions"], clean["interactions"], "time"),
        "given": {part: read(frame, frame, "time") for part, frame in clean["given"].items()},
        "nodes": {n: table(part, None, f"nodes {n!r}") for n, part in clean["nodes"].items()},
        "links": {n: table(part, part.time, f"links {n!r}") for n, part in clean["links"].items()},
        "texts": table(texts, "time", "texts"),
        "ticks": clock.ticks,
    }
