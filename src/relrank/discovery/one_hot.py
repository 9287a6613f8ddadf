"""Columns of 0 and 1, one per value, such as ``genre_Action`` and ``genre_Comedy``: they are one column of lists."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from relrank.discovery.columns import Column, Table
from relrank.discovery.draft import free_name, snake
from relrank.discovery.vocabulary import is_meaningless, words_of

FEWEST_FLAGS = 5
"""Columns from which on they are read as one list, if their names have nothing in common …"""
FEWEST_NAMED = 3
"""… and if they begin with the same words."""
FLAGS = "flags"
"""What columns without a common name say."""
_FLAG = frozenset(("is", "has", "can", "flag", "flags", "with", "ist", "hat", "kann", "mit"))
_MARK = re.compile(r"[^0-9A-Za-zÀ-ÿ]+|(?<=[a-zß-ÿ])(?=[A-ZÀ-Þ])")
_ONE, _ZERO = frozenset(("1", "true")), frozenset(("0", "false"))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Columns that are read as one.

    Attributes:
        name: what the values are, such as "genre".
        columns: names of the columns of 0 and 1.
        lists: the names of the values of each row.
    """

    name: str
    columns: tuple[str, ...]
    lists: Column


def blocks_of(table: Table, left: Sequence[Column]) -> Iterator[Block]:
    """The blocks of columns of 0 and 1 of a table.

    Args:
        table: with the columns.
        left: its columns that nothing else is known of.
    """
    flags = [c for c in left if c.role is None and c.kind in ("flag", "number", "value") and _is_flag(c)]
    rest = [c for c in flags if c.known_share == 1.0]
    for prefix, members in _by_prefix([(_words(c), c) for c in flags], 0):
        name = "_".join(prefix)
        if not prefix or is_meaningless(name) or all(word in _FLAG for word in words_of(name)):
            continue
        rest = [c for c in rest if c not in members]
        values = [" ".join(_words(c)[len(prefix) :]) or c.name for c in members]
        yield _block(table, snake(name), free_name(name, table.columns), members, values)
    if len(rest) >= FEWEST_FLAGS:
        names = [c.name for c in rest]
        yield _block(table, FLAGS, free_name(f"{names[0]}_and_{names[-1]}", table.columns), rest, names)


def _words(column: Column) -> tuple[str, ...]:
    return tuple(word for word in _MARK.split(column.name) if word)


def _is_flag(column: Column) -> bool:
    values = {value.lower() for value in column.counts["value"].head(3)}
    return values <= _ONE | _ZERO and bool(values & _ONE or column.known_share == 1.0)


def _by_prefix(
    named: list[tuple[tuple[str, ...], Column]], depth: int
) -> Iterator[tuple[tuple[str, ...], list[Column]]]:
    """Columns with their longest common beginning, where each such group has several of them."""
    groups: dict[str, list[tuple[tuple[str, ...], Column]]] = defaultdict(list)
    for words, column in named:
        if len(words) > depth + 1:
            groups[words[depth]].append((words, column))
    groups = {word: group for word, group in groups.items() if len(group) >= FEWEST_NAMED}
    if depth and sum(map(len, groups.values())) < len(named):
        yield named[0][0][:depth], [column for _, column in named]
        return
    for group in groups.values():
        yield from _by_prefix(group, depth + 1)


def _block(table: Table, name: str, made: str, members: Sequence[Column], values: Sequence[str]) -> Block:
    held = [
        pl.when(c.text.str.to_lowercase().is_in(list(_ONE)).fill_null(False)).then(pl.lit(value))
        for c, value in zip(members, values, strict=True)
    ]
    lists = pl.select(pl.concat_list(held).list.drop_nulls()).to_series().alias(made)
    return Block(name, tuple(c.name for c in members), Column(table.name, made, lists))
