"""Cuts side data at the split: links and texts must have been known before the held-out rows.

A row with a time enters the graph if it is earlier than

- the cut, in a temporal split: the validation cut if there is one, since validation uses the same graph;
- else, if it belongs to a user (one of its ends, or its maker), that user's earliest held-out row. A row of two users
  must be earlier than that of both; a user without held-out rows sets no bound;
- else the earliest held-out row of anybody, since all users share the graph. If rows of every age are held out, few
  rows may be left; a temporal split avoids this.

A row at exactly that time is dropped, since the held-out row may have caused it; a date without a time of day counts
as the end of the day if the interactions have times of day. Whatever its time, a row that a user
made of an item is dropped if that pair is held out: a review or a tag exists because of the interaction.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.errors import InputError
from relrank.kernels.csr import Int32, Int64
from relrank.tables.ids import IdMap
from relrank.tables.missing import refuse_missing
from relrank.tables.notices import Notice
from relrank.tables.split import Split
from relrank.tables.tables import MAYBE_BY, TEXTS, LinkTable, Tables

Bool = npt.NDArray[np.bool_]

LATE = "rows at or after the cut of the split: not in the graph"
OWN = "rows that a user made of an item they have held out: not in the graph"

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Times, users and items of the n rows of a table.

    Attributes:
        where: the table, for messages.
        time: of the rows, or None.
        users: user rows, one array per end that is a user and for the maker; −1 for users outside the split.
        maker: user rows of the makers, or None.
        item: item rows, or None.
    """

    where: str
    time: Int64 | None
    users: tuple[Int32, ...]
    maker: Int32 | None
    item: Int32 | None


def cut_tables(tables: Tables, split: Split, used: Collection[str]) -> tuple[Tables, list[Notice]]:
    """The tables without rows that were not known before the held-out ones, and counts of the dropped rows.

    Args:
        tables: as read.
        split: of the interactions.
        used: names of the link tables to cut, and ``TEXTS`` for the texts; others are not changed.

    Raises:
        InputError: rows have times and interactions have none; no row of a table is early enough; none of the makers
            of its rows is a user of the split.
    """
    notices: list[Notice] = []
    links = dict(tables.links)
    for name in [name for name in tables.links if name in used]:
        table = tables.links[name]
        if table.time is not None or table.by is not None:
            kept = _kept(_of_links(table, tables, split), split, notices)
            links[name] = replace(table, frame=table.frame.filter(pl.Series(kept)))
    texts = tables.texts
    if texts is not None and TEXTS in used and {"time", "by"} & set(texts.frame.columns):
        kept = _kept(_of_texts(tables, split), split, notices)
        texts = replace(texts, frame=texts.frame.filter(pl.Series(kept)))
    return tables.with_row_subset(links=links, texts=texts), notices


def made_of_held_out(tables: Tables, split: Split, name: str) -> tuple[str, int, int] | None:
    """Rows of a table that users seem to have made of their held-out items.

    Args:
        tables: as read.
        split: of the interactions.
        name: of a link table of items, or ``TEXTS``.

    Returns:
        The column that seems to hold the makers, how many rows are of held-out pairs, and of how many pairs; None if
        there is no such column. A row with several makers counts once per maker.
    """
    link = tables.links.get(name)
    frame = (
        link.frame if link is not None else tables.texts.frame if name == TEXTS and tables.texts else pl.DataFrame()
    )
    maker = next((c for c in frame.columns if c.startswith(MAYBE_BY)), None)
    if maker is None:
        return None
    if frame.schema[maker] == pl.List:
        frame = frame.explode(maker)
    if link is None:
        keys = frame["key"]
    elif link.source == tables.item:
        keys = _keys(tables, tables.item, frame[link.source_column], link.source_match)
    else:
        keys = _keys(tables, tables.item, frame[link.target_column], link.target_match)
    user, item = split.users.find(frame[maker].cast(split.users.keys.dtype, strict=False)), split.items.find(keys)
    hits = _held_out(user, item, split)
    pairs = user[hits].astype(np.int64) * len(split.items) + item[hits]
    return maker.removeprefix(MAYBE_BY), pairs.size, np.unique(pairs).size


def _held_out(user: Int32, item: Int32, split: Split) -> Bool:
    """Which (user, item) pairs are held out, bool [n]; −1 is no user or item."""
    held, n_items = split.valid.then(split.test), len(split.items)
    pairs = user.astype(np.int64) * n_items + item
    is_held: Bool = np.isin(pairs, held.user.astype(np.int64) * n_items + held.item)
    return is_held & (user >= 0) & (item >= 0)


def _of_links(table: LinkTable, tables: Tables, split: Split) -> _Rows:
    where = f"table {table.name!r}"
    ends = (
        (table.source, table.source_column, table.source_match),
        (table.target, table.target_column, table.target_match),
    )
    users, items = (
        [ids.find(_keys(tables, kind, table.frame[c], match)) for kind, c, match in ends if kind == side]
        for side, ids in ((tables.user, split.users), (tables.item, split.items))
    )
    maker = None if table.by is None else _maker(table.frame[table.by], split.users, where)
    time = None if table.time is None else _times(table.frame[table.time], where)
    users += [] if maker is None else [maker]
    # a row between two items is about both, not what its maker says of one
    return _Rows(where, time, tuple(users), maker, items[0] if len(items) == 1 else None)


def _of_texts(tables: Tables, split: Split) -> _Rows:
    assert tables.texts is not None
    frame, node = tables.texts.frame, tables.texts.node
    maker = _maker(frame["by"], split.users, TEXTS) if "by" in frame.columns else None
    users = [split.users.find(frame["key"])] if node == tables.user else []
    users += [] if maker is None else [maker]
    item = split.items.find(frame["key"]) if node == tables.item else None
    time = _times(frame["time"], TEXTS) if "time" in frame.columns else None
    return _Rows(TEXTS, time, tuple(users), maker, item)


def _times(values: pl.Series, where: str) -> Int64:
    """Times of rows, none of which may be missing."""
    if not refuse_missing(values, where, ()).dtype.is_integer():
        raise InputError(
            "column is of another type",
            where=f"{where}, column {values.name!r}",
            expected="whole numbers",
            found=str(values.dtype),
        )
    return values.cast(pl.Int64).to_numpy()


def _keys(tables: Tables, kind: str, values: pl.Series, match: str | None) -> pl.Series:
    """Keys of the nodes whose column ``match`` has these values; null if there is none."""
    table = tables.nodes.get(kind)
    if table is None or match is None or match == table.key:
        return values
    nodes = table.frame.filter(table.frame[match].is_not_null())
    at = IdMap(f"{kind}.{match}", nodes[match]).find(values)
    return nodes[table.key].gather(pl.Series(at).replace(-1, None))


def _maker(values: pl.Series, users: IdMap, where: str) -> Int32:
    """User rows of the makers; keys are compared in the type of the users' keys."""
    rows = users.find(values.cast(users.keys.dtype, strict=False))
    if rows.size and (rows < 0).all():
        shown = ", ".join(map(repr, values.head(3)))
        raise InputError(
            "empty join: no user in common",
            where=f"{where}, by",
            found=f"{shown} ({values.dtype})",
            expected=f"{users.name} keys such as {', '.join(map(repr, users.keys.head(3)))} ({users.keys.dtype})",
        )
    return rows


def _kept(rows: _Rows, split: Split, notices: list[Notice]) -> Bool:
    """Which rows were known before the held-out ones, bool [n]; the others are counted."""
    n = next(values.size for values in (rows.time, *rows.users, rows.item) if values is not None)
    own, early = np.zeros(n, np.bool_), np.ones(n, np.bool_)
    if rows.maker is not None and rows.item is not None:
        own = _held_out(rows.maker, rows.item, split)
    if rows.time is not None:
        if split.train_until is None and split.valid.then(split.test).time is None:
            raise InputError(
                f"{rows.where} has times, and the interactions have none",
                where="[data.interactions]",
                expected="a time column, to cut both at the same moment; or no time for the table",
                found="no times",
            )
        early = _last_moments(rows.time, split) < _bounds(rows.users, split)
    kept: Bool = early & ~own
    notices += [
        Notice(rows.where, text, int(out.sum())) for text, out in ((OWN, own), (LATE, ~early & ~own)) if out.any()
    ]
    if not kept.any():
        raise InputError(
            f"{rows.where} has no row that was known before what is held out",
            where=rows.where,
            expected="rows earlier than the split's cut; rows that are of no user must be earlier than every "
            "held-out row, which is easiest in a temporal split (docs/leaks.md)",
            found=f"{int(own.sum()):,} of {n:,} rows made of a held-out item by its user, the others too late",
        )
    return kept


def _last_moments(time: Int64, split: Split) -> Int64:
    """Times of rows; the ends of days for dates without a time of day, if the interactions have times of day.

    A row of the day of an order may be younger than the order.
    """
    held, day = split.valid.then(split.test).time, 24 * 3600 * split.train.ticks
    if not day or (time % day).any() or held is None or not (held % day).any():
        return time
    return time + day - 1


def _bounds(users: tuple[Int32, ...], split: Split) -> Int64 | np.int64:
    """The time before which each row must lie."""
    if split.train_until is not None:
        return np.int64(split.train_until)
    held = split.valid.then(split.test)
    assert held.time is not None
    if not users:
        return np.int64(held.time.min(initial=_NEVER))
    first = np.full(len(split.users) + 1, _NEVER)  # the last one is for users outside the split
    np.minimum.at(first, held.user, held.time)
    bounds: Int64 = np.min([first[rows] for rows in users], axis=0)
    return bounds
