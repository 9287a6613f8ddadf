"""What every reader returns: node tables, one interactions table, link tables, texts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from relrank.errors import InputError
from relrank.tables.frames import as_frame, as_keyed, as_linked, as_matched, as_rows, as_texts, as_timed
from relrank.tables.missing import NA_VALUES, spaced
from relrank.tables.notices import Notice
from relrank.tables.times import BILLION, MOMENTS, UNSETTLED, Clock, Moment, Unit

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
    computed: Moment | None = None


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
    computed: Moment | None = None
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
    computed: Moment | None = None

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
            Where it is given, numbers are such ticks; else they are judged as those of files (``tables.times``).
        time_unit: of numbers that are times, where it is stated.
        repeats: a (user, item) may be there more than once: a split counts how often.
        na_values: words in node columns and texts that are missing values (``tables.missing``).
        checked: whether whoever made the frames has looked at them; else ``relrank.tables.frames`` does.

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
    ticks: int = UNSETTLED
    repeats: bool = False
    na_values: tuple[str, ...] = NA_VALUES
    checked: bool = False
    time_unit: Unit | None = None
    _settled: tuple[object, ...] = field(default=(), repr=False)
    """Frames and tables that are as they shall be, so that ``replace`` looks at new ones only."""

    def __post_init__(self) -> None:
        known = {id(one) for one in self._settled}
        said: list[Notice] = []
        clean = {name: getattr(self, name) for name in ("interactions", "given", "nodes", "links", "texts")}
        if not self.checked:
            clean = _checked(self, known, said)
        clean |= _on_one_clock(self, clean, known)
        clean["notices"] = (*self.notices, *said)
        texts = () if clean["texts"] is None else (clean["texts"],)
        sides = (clean[name].values() for name in ("given", "nodes", "links"))
        clean["_settled"] = (clean["interactions"], *texts, *(one for side in sides for one in side))
        for field_name, value in clean.items():
            object.__setattr__(self, field_name, value)


def _checked(tables: Tables, known: Collection[int], said: list[Notice]) -> dict[str, Any]:
    """Fields of ``Tables`` as polars frames with keys and times of their types; what is known stays as it is."""
    words, ticks, unit = tables.na_values, tables.ticks, tables.time_unit

    def each(side: Mapping[str, Any], check: Callable[[Any, str], Any], what: str) -> dict[str, Any]:
        where = f"{tables.name}, {what} "
        return {n: one if id(one) in known else check(one, f"{where}{n!r}") for n, one in side.items()}

    def rows(frame: Any, where: str) -> pl.DataFrame:
        made = as_rows(frame, where, words, said, ticks, unit)
        said.extend(one for name in ("user", "item") if name in made.columns for one in spaced(made[name], where))
        return made

    def nodes(table: NodeTable, where: str) -> NodeTable:
        frame = as_keyed(table.frame, [table.key], where, words)
        return replace(table, frame=as_matched(frame, _matched(tables, table), where))

    def keys(kind: str, match: str | None = None) -> pl.Series | None:
        """What keys of a type are matched with; None where any will do."""
        table, side = clean["nodes"].get(kind), {tables.user: "user", tables.item: "item"}.get(kind)
        if table is not None:
            return table.frame[match or table.key] if (match or table.key) in table.frame.columns else None
        return clean["interactions"][side] if side in clean["interactions"].columns else None

    def links(table: LinkTable, where: str) -> LinkTable:
        frame = as_timed(table.frame, table.time, where, said, ticks, unit)
        ends = {table.source_column: keys(table.source, table.source_match),
                table.target_column: keys(table.target, table.target_match)}  # fmt: skip
        ends |= {table.by: ends.get(table.by, keys(tables.user))} if table.by is not None else {}
        return replace(table, frame=as_linked(frame, ends, where, words))

    def texts(table: TextTable, where: str) -> TextTable:
        frame = as_frame(table.frame, where)
        ends = {"key": keys(table.node)} | ({"by": keys(tables.user)} if "by" in frame.columns else {})
        frame = as_linked(as_keyed(frame, ["key"], where, words), ends, where, words)
        frame = as_texts(frame, where)
        timed = "time" if "time" in frame.columns else None
        return replace(table, frame=as_timed(frame, timed, where, said, ticks, unit))

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


def _clock_of(tables: Tables, timed: Collection[tuple[str, pl.Series]]) -> Clock:
    """The clock that keeps all times, numbers that are ticks already among them."""
    ticks = tables.ticks
    if ticks == UNSETTLED:
        return Clock.of(timed, tables.time_unit)
    if ticks not in (0, 1, BILLION):
        raise InputError("ticks of no clock", where="ticks", expected=f"0, 1 or {BILLION}", found=repr(ticks))
    moments = [(where, times) for where, times in timed if times.dtype == MOMENTS and len(times)]
    if moments and ticks == 0:
        raise InputError(
            "times of two kinds", where=moments[0][0], expected="numbers without a unit, as ticks = 0 says",
            found="dates",
        )  # fmt: skip
    return Clock(max(ticks, Clock.of(moments).ticks) if ticks else 0, tables.time_unit)


def _on_one_clock(tables: Tables, clean: dict[str, Any], known: Collection[int]) -> dict[str, Any]:
    """Fields of ``Tables`` with all moments as ticks, whole numbers, and how many ticks a second has then.

    Numbers are ticks already where the clock was settled before.
    """
    name, texts = f"{tables.name}, ", clean["texts"]
    timed = [(f"{name}interactions", clean["interactions"], "time")]
    timed += [(f"{name}part {part!r}", frame, "time") for part, frame in clean["given"].items()]
    timed += [(f"{name}links {one!r}", t.frame, t.time) for one, t in clean["links"].items() if t.time is not None]
    timed += [] if texts is None else [(f"{name}texts", texts.frame, "time")]
    clock = _clock_of(
        tables, [(f"{where}, column {c!r}", frame[c]) for where, frame, c in timed if c in frame.columns]
    )
    settled, finer = tables.ticks != UNSETTLED, max(clock.ticks, 1) // max(tables.ticks, 1)

    def read(frame: pl.DataFrame, column: str | None) -> pl.DataFrame:
        if column is None or column not in frame.columns:
            return frame
        times = frame[column]
        if times.dtype == MOMENTS or not settled:
            return frame.with_columns(clock.read(times).alias(column))
        return frame if finer == 1 else frame.with_columns((times * finer).alias(column))

    def table(one: Any, time: str | None, where: str) -> Any:
        if one is None or (id(one) in known and finer == 1):
            return one
        when = one.computed
        if when is not None:
            whole = settled and isinstance(when, int)
            when = when * finer if whole else clock.moment(when, f"{name}{where}, computed")
        return replace(one, frame=read(one.frame, time), computed=when)

    return {
        "interactions": read(clean["interactions"], "time"),
        "given": {part: read(frame, "time") for part, frame in clean["given"].items()},
        "nodes": {n: table(one, None, f"nodes {n!r}") for n, one in clean["nodes"].items()},
        "links": {n: table(one, one.time, f"links {n!r}") for n, one in clean["links"].items()},
        "texts": table(texts, "time", "texts"),
        "ticks": clock.ticks,
    }
