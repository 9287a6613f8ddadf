"""What every reader returns: node tables, one interactions table, link tables, texts."""

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
"""What messages call the text table, which has no name of its own."""

MAYBE_BY = "#by "
"""How a column of a link or text table begins that is named like one of users, though nobody said that these made the
rows; its own name follows. Only the audit looks at it."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeTable:
    """One row per node of a type.

    Attributes:
        name: the node type, e.g. ``"book"``.
        frame: attribute columns and the key column.
        key: name of the column with unique outside keys (Int64 or String).
        title: name of the column shown to people, if there is one.
        computed: when the attribute values were computed, if declared: a date, or a number as the tables have them;
            in ``Tables`` ticks.
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
        source_match: column of the source's *node table* whose values ``source_column`` holds
            (its key, or another unique column such as ``goodreads_book_id``).
        target: node type of the target column; it needs no node table of its own.
        target_column: column of ``frame`` with the target's value.
        target_match: likewise for the target; None where the target has no node table.
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

    A node without a row has no text of that kind, which is not an empty text.

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
        user: node type that chooses.
        item: node type that is chosen.
        interactions: columns ``user``, ``item`` (outside keys), optional ``rating`` (Float64), optional
            ``time`` (dates, ISO text or numbers, which become Int64, ``ticks`` since 1970); file order; each
            (user, item) once, but for ``repeats``.
        nodes: node tables by type. Users and items need not have one.
        links: link tables by name.
        texts: texts of nodes of one type, if there are any.
        given: name of a published part ("train", "valid", "test") -> its interactions, for data that
            arrives split; empty otherwise. ``interactions`` is then all parts together.
        ordered: file order is time order even though there is no ``time`` column.
        notices: what reading dropped or repaired, by stated policy.
        ticks: of all times in a second: 1; 10⁹ where any time has a fraction of one; 0 where times are an order.
            Where a program states it, numbers are such ticks; else they are judged as those of files
            (``tables.times``), those of frames that ``replace`` brings, too, unless they are rows of the old ones.
        time_unit: of numbers that are times, where it is stated.
        repeats: a (user, item) may be there more than once: a split counts how often.
        na_values: words in node columns and texts that are missing values (``tables.missing``).
        checked: whether whoever made the frames has looked at them; else ``relrank.tables.frames`` does, and at
            frames that ``replace`` brings in any case.

    Frames may be those of pandas or Arrow tables, too, with keys of any integer type or text.

    Raises:
        InputError: a key, rating or time is missing or of a type that cannot be; the message names column and row.
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
    """Frames and tables that are as they shall be, so that ``replace`` looks at new ones only."""
    _clock: int = field(default=UNKNOWN_TICKS, repr=False)
    """Ticks in a second of all times in ``_settled``."""
    _stated: bool = field(default=False, repr=False)
    """Whether ``ticks`` are stated, and not what the times of the first frames were found to need."""

    def __post_init__(self) -> None:
        known = {id(one) for one in self._settled}
        stated = self.ticks != UNKNOWN_TICKS and (self._stated or self.ticks != self._clock)
        said: list[Notice] = []
        clean = {name: getattr(self, name) for name in ("interactions", "given", "nodes", "links", "texts")}
        looked = self.checked and self._clock == UNKNOWN_TICKS
        if not looked:
            clean = _checked(self, known, said, stated)
        clean["checked"] = looked or (self.checked and id(self.interactions) in known)
        clean |= _on_one_clock(self, clean, known, stated)
        clean["notices"] = (*self.notices, *said)
        clean["_settled"] = _parts_of(clean)
        clean |= {"_clock": clean["ticks"], "_stated": stated}
        for field_name, value in clean.items():
            object.__setattr__(self, field_name, value)

    def with_row_subset(self, **parts: Any) -> Tables:
        """The same with frames and tables that hold rows of these ones, which nobody need look at again.

        Args:
            parts: any of ``interactions``, ``given``, ``nodes``, ``links``, ``texts``; times are ticks.
        """
        return replace(self, **parts, _settled=(*self._settled, *_parts_of(parts)))


def _parts_of(fields: Mapping[str, Any]) -> tuple[object, ...]:
    """Frames and tables in fields of ``Tables``."""
    alone = (fields.get(name) for name in ("interactions", "texts"))
    sides = (fields.get(name, {}).values() for name in ("given", "nodes", "links"))
    return (*(one for one in alone if one is not None), *(one for side in sides for one in side))


def _times_of(part: object) -> pl.Series | None:
    """The times of a settled frame or table, if it has any."""
    frame, column = (part, "time") if isinstance(part, pl.DataFrame) else (getattr(part, "frame", None), "time")
    if isinstance(part, LinkTable):
        column = part.time or ""
    there = isinstance(frame, pl.DataFrame) and not isinstance(part, NodeTable) and column in frame.columns
    return frame[column] if there and len(frame) else None  # type: ignore[index, arg-type]


def _checked(tables: Tables, known: Collection[int], said: list[Notice], stated: bool) -> dict[str, Any]:
    """Fields of ``Tables`` as polars frames with keys and times of their types; what is known stays as it is."""
    words = tables.na_values
    before = tuple(times for times in map(_times_of, tables._settled) if times is not None)
    numbers = NumericTimes(tables.ticks if stated else UNKNOWN_TICKS, tables.time_unit, tables._clock, before)

    def each(side: Mapping[str, Any], check: Callable[[Any, str], Any], what: str) -> dict[str, Any]:
        where = f"{tables.name}, {what} "
        return {n: one if id(one) in known else check(one, f"{where}{n!r}") for n, one in side.items()}

    def rows(frame: Any, where: str) -> pl.DataFrame:
        made = cast_interactions(frame, where, words, said, numbers)
        said.extend(one for name in ("user", "item") if name in made.columns for one in spaced(made[name], where))
        return made

    def nodes(table: NodeTable, where: str) -> NodeTable:
        frame = cast_keys(table.frame, [table.key], where, words)
        return replace(table, frame=cast_match_columns(frame, _matched(tables, table), where))

    def keys(kind: str, match: str | None = None) -> pl.Series | None:
        """What keys of a type are matched with; None where any will do."""
        table, side = clean["nodes"].get(kind), {tables.user: "user", tables.item: "item"}.get(kind)
        if table is not None:
            return table.frame[match or table.key] if (match or table.key) in table.frame.columns else None
        return clean["interactions"][side] if side in clean["interactions"].columns else None

    def links(table: LinkTable, where: str) -> LinkTable:
        frame = cast_times(table.frame, table.time, where, said, numbers)
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
        return replace(table, frame=cast_times(frame, timed, where, said, numbers))

    def one(value: Any, check: Callable[[Any, str], Any], what: str) -> Any:
        return value if value is None or id(value) in known else check(value, f"{tables.name}, {what}")

    clean: dict[str, Any] = {
        "interactions": one(tables.interactions, rows, "interactions"),
        "given": each(tables.given, rows, "part"),
        "nodes": each(tables.nodes, nodes, "nodes"),
    }
    return clean | {"links": each(tables.links, links, "links"), "texts": one(tables.texts, texts, "texts")}


def _matched(tables: Tables, table: NodeTable) -> list[str]:
    """Columns of a node table that links are matched on, beside its key."""
    links = tables.links.values()
    sides = [(one.source, one.source_match) for one in links] + [(one.target, one.target_match) for one in links]
    return [m for kind, m in dict.fromkeys(sides) if kind == table.name and m and m != table.key]


def _clock_of(tables: Tables, timed: Collection[tuple[str, pl.Series, int]], stated: bool) -> Clock:
    """The clock that keeps all times.

    Args:
        tables: with the clock from before.
        timed: where each column is, its times, and the ticks that its whole numbers are, ``UNKNOWN_TICKS`` of an
            order.
        stated: whether numbers are the ticks that ``tables`` have.

    Raises:
        InputError: some are moments, and others an order alone; or a clock has no such ticks.
    """
    if stated and tables.ticks not in (0, 1, NS_PER_SECOND):
        raise InputError(
            "ticks of no clock", where="ticks", expected=f"0, 1 or {NS_PER_SECOND}", found=repr(tables.ticks)
        )
    moment, place = pl.Series([0]).cast(DATETIME_NS), pl.Series([0])
    columns, finest = [("ticks", moment if tables.ticks else place)] if stated else [], 0
    for where, times, base in timed:
        ticks = UNKNOWN_TICKS if times.dtype == DATETIME_NS or not len(times) else base
        columns.append((where, times if ticks == UNKNOWN_TICKS else moment if ticks else place))
        finest = max(finest, ticks)
    old = tables.ticks if stated else tables._clock
    if old != UNKNOWN_TICKS and not any(len(times) for _, times in columns):
        return Clock(old, tables.time_unit)
    ticks = Clock.of(columns).ticks
    return Clock(max(ticks, finest, old) if ticks else 0, tables.time_unit)


def _on_one_clock(tables: Tables, clean: dict[str, Any], known: Collection[int], stated: bool) -> dict[str, Any]:
    """Fields of ``Tables`` with all moments as ticks, whole numbers, and how many ticks a second has then.

    Whole numbers of what is known are ticks of the clock from before, and those of new frames where it is stated.
    """
    name, texts = f"{tables.name}, ", clean["texts"]
    before = {one.computed for one in tables._settled if isinstance(getattr(one, "computed", None), int)}  # type: ignore[attr-defined]

    def base(part: Any) -> int:
        """Ticks in a second of a part's whole numbers; ``UNKNOWN_TICKS`` where they are an order, or unknown yet."""
        return tables._clock if id(part) in known else tables.ticks if stated else UNKNOWN_TICKS

    parts = [(f"{name}interactions", clean["interactions"], clean["interactions"], "time")]
    parts += [(f"{name}part {part!r}", frame, frame, "time") for part, frame in clean["given"].items()]
    parts += [(f"{name}links {one!r}", t, t.frame, t.time) for one, t in clean["links"].items() if t.time is not None]
    parts += [] if texts is None else [(f"{name}texts", texts, texts.frame, "time")]
    timed = [(f"{at}, column {c!r}", frame[c], base(one)) for at, one, frame, c in parts if c in frame.columns]
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

    def when(one: Any, where: str) -> TimeValue | None:
        value, ticks = one.computed, base(one)
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

    def table(one: Any, time: str | None, where: str) -> Any:
        if one is None or (id(one) in known and clock.ticks == tables._clock):
            return one
        return replace(one, frame=read(one, one.frame, time), computed=when(one, where))

    return {
        "interactions": read(clean["interactions"], clean["interactions"], "time"),
        "given": {part: read(frame, frame, "time") for part, frame in clean["given"].items()},
        "nodes": {n: table(one, None, f"nodes {n!r}") for n, one in clean["nodes"].items()},
        "links": {n: table(one, one.time, f"links {n!r}") for n, one in clean["links"].items()},
        "texts": table(texts, "time", "texts"),
        "ticks": clock.ticks,
    }
