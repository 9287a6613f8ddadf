"""What a Parquet file states of its table: its primary key, foreign keys and time, as RelBench writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

FOREIGN_KEYS, PRIMARY_KEY, TIME = "fkey_col_to_pkey_table", "pkey_col", "time_col"
"""Entries of the metadata: JSON, an object of tables by column, and a name or null."""
STATED = ", as the file states"
"""Ends a message about what no values were asked for."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is stated of a table, which is then not found by its values.

    Attributes:
        key: column with a value of its own per row, if there is one.
        foreign: table by column, for columns that hold keys of a table.
        time: column with the time of a row, if there is one.
    """

    key: str | None = None
    foreign: Mapping[str, str] = field(default_factory=dict)
    time: str | None = None


def statement_of(path: Path) -> tuple[Statement | None, str | None]:
    """What a Parquet file states of its table, and what of its metadata cannot be read.

    Returns:
        None for the first if it states nothing, or nothing that can be read; None for the second if there is nothing
        to complain of.
    """
    metadata = pl.read_parquet_metadata(path)
    entries = {name: metadata[name] for name in (FOREIGN_KEYS, PRIMARY_KEY, TIME) if name in metadata}
    if not entries:
        return None, None
    stated: dict[str, Any] = {}
    for name, text in entries.items():
        try:
            stated[name] = json.loads(text)
        except ValueError:
            stated[name] = ...
        if not _is_valid(name, stated[name]):
            expected = "an object with a table per column" if name == FOREIGN_KEYS else "the name of a column or null"
            message = f"its metadata {name} is {text[:60]!r}, expected {expected} in JSON"
            return None, f"{message}: keys and times are found by values instead"
    foreign = stated.get(FOREIGN_KEYS) or {}
    return Statement(stated.get(PRIMARY_KEY), foreign, stated.get(TIME)), None


def _is_valid(name: str, value: object) -> bool:
    if name == FOREIGN_KEYS and isinstance(value, dict):
        return all(isinstance(table, str) for table in value.values())
    return value is None or (name != FOREIGN_KEYS and isinstance(value, str))
