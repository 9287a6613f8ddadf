"""What every reader returns: node tables, one interactions table, link tables, texts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from relrank.errors import InputError
from relrank.tables.frames import as_keyed, as_rows, as_timed
from relrank.tables.missing import NA_VALUES
from relrank.tables.notices import Notice
from relrank.tables.times import BILLION, MOMENTS, Clock, unit_of

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
        computed: when the attribute values were computed, in the unit of the interactions' ``time``, if declared.
    """

    name: str
    frame: pl.DataFrame
    key: str
    title: str | None = None
    computed: int | None = None


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
        time: column with the time of each row (Int64, in the unit of the interactions' ``time``), if any.
        by: column with the user who made each row, if any.
        computed: when the rows were computed, in the unit of the interactions' ``time``, if declared.
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
    computed: int | None = None
    time: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextTable:
    """Texts of the nodes of one type: any number per node and kind.

    A node without a row has no text of that kind, which is not an empty text.

    Attributes:
        node: the node type, usually the item.
        frame: columns ``key`` (outside keys of the type), ``kind`` and ``text`` (String); a null or blank text is
            none. Optional ``time`` (Int64, in the unit of the interactions' ``time``) and ``by`` (the key of the user
            who wrote it).
        computed: when the last text was written, in the unit of the interactions' ``time``, if declared.
    """

    node: str
    frame: pl.DataFrame
    computed: int | None = None

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
            ``time`` (Int64, ``ticks`` since 1970, or any ascending order); file order; each (user, item) once, but
            for ``repeats``.
        nodes: node tables by type. Users and items need not have one.
        links: link tables by name.
        texts: texts of nodes of one type, if there are any.
        given: name of a published part ("train", "valid", "test") -> its interactions, for data that
            arrives split; empty otherwise. ``interactions`` is then all parts together.
        ordered: file order is time order even though there is no ``time`` column.
        notices: what reading dropped or repaired, by stated policy.
        ticks: of all times in a second: 1; 10⁹ where any time has a fraction of one; 0 where times are an order.
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
    ticks: int = 1
    repeats: bool = False
    na_values: tuple[str, ...] = NA_VALUES
    checked: bool = False

    def __post_init__(self) -> None:
        if self.checked:
            return
        name, words, ticks = f"{self.name}, ", self.na_values, self.ticks
        texts, said = self.texts, list[Notice]()
        if texts is not None:
            frame = as_keyed(texts.frame, ["key"], f"{name}texts", words)
            timed = "time" if "time" in frame.columns else None
            texts = replace(texts, frame=as_timed(frame, timed, f"{name}texts", said, ticks))
        clean: dict[str, Any] = {
            "interactions": as_rows(self.interactions, f"{name}interactions", words, said, ticks),
            "given": {
                part: as_rows(rows, f"{name}part {part!r}", words, said, ticks) for part, rows in self.given.items()
            },
            "nodes": {
                kind: replace(table, frame=as_keyed(table.frame, [table.key], f"{name}nodes {kind!r}", words))
                for kind, table in self.nodes.items()
            },
            "links": {
                one: replace(table, frame=as_timed(table.frame, table.time, f"{name}links {one!r}", said, ticks))
                for one, table in self.links.items()
            },
            "texts": texts,
        }
        clean["notices"] = (*self.notices, *said)
        for field_name, value in (clean | _on_one_clock(clean, ticks)).items():
            object.__setattr__(self, field_name, value)


def _refuse_unlike(frame: pl.DataFrame, name: str) -> None:
    """Refuse whole numbers beside moments that are no seconds: nobody could say when they were."""
    if name in frame.columns and frame[name].dtype != MOMENTS and frame.height:
        ends = [int(end) for end in (frame[name].min(), frame[name].max())]  # type: ignore[arg-type]
        if any(unit_of(end) != "s" for end in ends):
            raise InputError(
                "times of two kinds", where=f"column {name!r}", found=f"numbers from {ends[0]} to {ends[1]}",
                expected="seconds since 1970 beside dates in other tables, or dates in every one",
            )  # fmt: skip


def _on_one_clock(clean: dict[str, Any], ticks: int) -> dict[str, Any]:
    """Fields of ``Tables`` with all moments as ticks, whole numbers, and how many ticks a second has then."""
    parts = {"interactions": clean["interactions"], **clean["given"]}
    timed = [(frame, "time") for frame in parts.values()]
    timed += [(table.frame, table.time) for table in clean["links"].values() if table.time is not None]
    timed += [] if clean["texts"] is None else [(clean["texts"].frame, "time")]
    moments = [(name, frame[name]) for frame, name in timed if frame.schema.get(name) == MOMENTS]
    if ticks not in (0, 1, BILLION):
        raise InputError("ticks of no clock", where="ticks", expected=f"0, 1 or {BILLION}", found=repr(ticks))
    for frame, name in timed if moments and ticks == 1 else ():
        _refuse_unlike(frame, name)
    clock = Clock.of(moments) if moments else Clock(ticks)
    if ticks > clock.ticks > 0:
        clock = Clock(ticks)
    finer = clock.ticks // ticks if ticks else 1

    def read(frame: pl.DataFrame, name: str | None) -> pl.DataFrame:
        if name is None or name not in frame.columns:
            return frame
        times = frame[name]
        return frame.with_columns((clock.read(times) if times.dtype == MOMENTS else times * finer).alias(name))

    texts = clean["texts"]
    return {
        "interactions": read(clean["interactions"], "time"),
        "given": {part: read(frame, "time") for part, frame in clean["given"].items()},
        "links": {one: replace(table, frame=read(table.frame, table.time)) for one, table in clean["links"].items()},
        "texts": None if texts is None else replace(texts, frame=read(texts.frame, "time")),
        "ticks": clock.ticks,
    }
