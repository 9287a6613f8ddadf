"""Rows against the keys they must match, and against each other: what is dropped, is dropped by a stated policy."""

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
    """Rows whose ``side`` is a value of the node table's column ``match``, brought to that column's type.

    Args:
        frame: the rows, with their numbers in the file in a column ``ROW_NUMBER``.
        side: column of ``frame``.
        name: what that column is called in the file.
        table: the node table.
        match: its column.
        unknown: "error", or "drop" and count.
        where: the file.
        notices: dropped rows are added here.

    Raises:
        InputError: no value matches; or one does not and the policy is "error".
    """
    keys = frame[side]
    values = column(table.frame, match, f"node table {table.name!r}")
    # text is the common ground of 7 and "7" where one of the two columns holds other text as well
    known = keys.cast(pl.String).is_in(values.cast(pl.String).implode())
    missing = ~known
    if (twice := values.is_duplicated() & values.is_not_null()).any():
        raise InputError(
            "links need a column with unique values to match",
            where=f"column {match!r} of node table {table.name!r}, matched by {where}",
            expected="every value once",
            found=f"{shown(values.filter(twice))} in several rows; {twice.sum():,} such rows",
        )
    if not missing.any():
        return frame.with_columns(keys.cast(values.dtype))
    row = frame[ROW_NUMBER].filter(missing)[0]
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
            where=f"{where}, column {name!r}, row {row}",
            expected=f'a value of column {match!r} of node table {table.name!r}, or unknown = "drop"{better}',
            found=f"{shown(keys.filter(missing))}; {missing.sum():,} of {len(keys):,} rows in all",
        )
    notices.append(
        Notice(f"{Path(where).name}, column {name}", f"keys not in {table.name} dropped", int(missing.sum()))
    )
    return frame.filter(known).with_columns(pl.col(side).cast(values.dtype))


def _few(values: pl.Series) -> str:
    return ", ".join(shown(values, row) for row in range(min(3, len(values))))


def _better(keys: pl.Series, table: NodeTable, known: int) -> str:
    """A hint, where another column of the node table holds more of the keys: the wrong key is easily joined."""
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
    """Each (user, item) once, by the stated policy.

    Args:
        frame: ``user``, ``item``, their number in the file ``ROW_NUMBER``, and perhaps ``rating`` and ``time``.
        policy: "error"; "first" or "last" by time, else by row; or "max": the largest rating, then the first.
        where: the file.
        notices: dropped rows are added here.

    Raises:
        InputError: a pair is there twice and the policy is "error".
    """
    hashes = np.sort(frame.select("user", "item").hash_rows().to_numpy())
    if not (hashes[1:] == hashes[:-1]).any():  # 8 bytes a row; what follows takes many times that
        return frame
    del hashes
    pairs = frame.select(pl.struct("user", "item")).to_series()
    again = ~pairs.is_first_distinct()
    if not again.any():
        return frame
    if policy == "error":
        pair = pairs.filter(again)[0]
        first, second = frame.filter(pairs.is_in([pair]))[:2].drop(ROW_NUMBER).rows()
        rows = frame[ROW_NUMBER].filter(pairs.is_in([pair]))
        conflicting = frame.drop(ROW_NUMBER).unique().height - pairs.n_unique()
        raise InputError(
            "interaction occurs twice",
            where=f"{where}, rows {rows[0]} and {rows[1]}",
            expected='every (user, item) once, or duplicates = "first", "last", "max" or "keep"',
            found=f"{first} and {second}; {again.sum():,} repeated rows in all, {conflicting:,} with other values",
        )
    by = "rating" if policy == "max" else "time"
    if policy == "max" and "rating" not in frame.columns:
        raise InputError(
            'duplicates = "max" without ratings', where=where, expected="a rating column", found="none is named"
        )
    ranked = frame.sort(by, descending=policy == "max", maintain_order=True) if by in frame.columns else frame
    kept = ranked.unique(["user", "item"], keep="last" if policy == "last" else "first").sort(ROW_NUMBER)
    notices.append(
        Notice(Path(where).name, f"repeated (user, item) rows dropped, the {policy} kept", int(again.sum()))
    )
    return kept
