"""Joins of rows with node tables, and removal of repeated rows, by stated policies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.tables.files import column
from relrank.tables.missing import shown
from relrank.tables.notices import Notice
from relrank.tables.scan import ROW_NUMBER
from relrank.tables.tables import NodeTable


def join(
    frame: pl.DataFrame,
    side: str,
    name: str,
    table: NodeTable,
    match: str,
    unknown: str,
    where: str,
    notices: list[Notice],
) -> pl.DataFrame:
    """The rows whose ``side`` is in the column ``match`` of a node table, cast to that column's type.

    Args:
        frame: the rows, with their numbers in the file in a column ``ROW_NUMBER``.
        side: column of ``frame``.
        name: name of that column in the file.
        table: the node table.
        match: column of the node table.
        unknown: policy for unknown keys: "error", or "drop" and count.
        where: the file.
        notices: the count of dropped rows is added here.

    Raises:
        InputError: no key is known; or one is unknown and the policy is "error".
    """
    keys = frame[side]
    values = column(table.frame, match, f"node table {table.name!r}")
    # as text, 7 and "7" match if one of the columns holds other text
    known = keys.cast(pl.String).is_in(values.cast(pl.String).implode())
    if (twice := values.is_duplicated() & values.is_not_null()).any():
        raise InputError(
            "links need a column with unique values to match",
            where=f"column {match!r} of node table {table.name!r}, matched by {where}",
            expected="every value once",
            found=f"{shown(values.filter(twice))} in several rows; {twice.sum():,} such rows",
        )
    if known.all():
        return frame.with_columns(keys.cast(values.dtype))
    better = _better(keys, table, int(known.sum()))
    if not known.any():
        raise InputError(
            "empty join: no key in common",
            where=f"{where}, column {name!r}, with column {match!r} of node table {table.name!r}",
            expected=f"values such as {_few(values.drop_nulls())} ({values.dtype}){better}",
            found=f"{_few(keys.unique(maintain_order=True))} ({keys.dtype})",
        )
    if unknown == "error":
        raise InputError(
            "unknown key",
            where=f"{where}, column {name!r}, row {frame[ROW_NUMBER].filter(~known)[0]}",
            expected=f'a value of column {match!r} of node table {table.name!r}, or unknown = "drop"{better}',
            found=f"{shown(keys.filter(~known))}; {(~known).sum():,} of {len(keys):,} rows in all",
        )
    message = f"keys not in {table.name} dropped"
    notices.append(Notice(f"{Path(where).name}, column {name}", message, int((~known).sum())))
    return frame.filter(known).with_columns(pl.col(side).cast(values.dtype))


def _few(values: pl.Series) -> str:
    return ", ".join(shown(values, row) for row in range(min(3, len(values))))


def _better(keys: pl.Series, table: NodeTable, known: int) -> str:
    """A hint, if another column of the node table holds more of the keys."""
    text = keys.cast(pl.String)
    hits = {
        c: int(text.is_in(table.frame[c].cast(pl.String).implode()).sum())
        for c, dtype in table.frame.schema.items()
        if dtype.is_integer() or dtype == pl.String
    }
    best = max(hits, key=lambda c: hits[c], default=None)
    if best is None or hits[best] <= known:
        return ""
    return f"; its column {best!r} holds {hits[best] / len(keys):.0%} of them"


def once(frame: pl.DataFrame, policy: str, where: str, notices: list[Notice]) -> pl.DataFrame:
    """Rows with each (user, item) once.

    Args:
        frame: ``user``, ``item``, the row number in the file ``ROW_NUMBER``, and optionally ``rating`` and ``time``.
        policy: "error"; "first" or "last" by time, else by row; or "max": the largest rating, then the first.
        where: the file.
        notices: the count of dropped rows is added here.

    Raises:
        InputError: a (user, item) occurs twice and the policy is "error".
    """
    hashes = np.sort(frame.select("user", "item").hash_rows().to_numpy())
    if not (hashes[1:] == hashes[:-1]).any():  # takes 8 bytes per row, the code below many times that
        return frame
    del hashes
    pairs = frame.select(pl.struct("user", "item")).to_series()
    repeated = ~pairs.is_first_distinct()
    if not repeated.any():
        return frame
    if policy == "error":
        pair = pairs.filter(repeated)[0]
        first, second = frame.filter(pairs.is_in([pair]))[:2].drop(ROW_NUMBER).rows()
        rows = frame[ROW_NUMBER].filter(pairs.is_in([pair]))
        conflicting = frame.drop(ROW_NUMBER).unique().height - pairs.n_unique()
        raise InputError(
            "interaction occurs twice",
            where=f"{where}, rows {rows[0]} and {rows[1]}",
            expected='every (user, item) once, or duplicates = "first", "last", "max" or "keep"',
            found=f"{first} and {second}; {repeated.sum():,} repeated rows in all, {conflicting:,} with other values",
        )
    by = "rating" if policy == "max" else "time"
    if policy == "max" and "rating" not in frame.columns:
        raise InputError('duplicates = "max" without ratings', where=where, expected="a rating column", found="none")
    ranked = frame.sort(by, descending=policy == "max", maintain_order=True) if by in frame.columns else frame
    kept = ranked.unique(["user", "item"], keep="last" if policy == "last" else "first").sort(ROW_NUMBER)
    message = f"repeated (user, item) rows dropped, the {policy} kept"
    notices.append(Notice(Path(where).name, message, int(repeated.sum())))
    return kept
