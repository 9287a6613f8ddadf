"""Checks of a split and its side data: does anything of the test part leak into training?"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.arguments import checked
from relrank.kernels.counting_sort import repeated, stable_argsort_pairs
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.tables.cutoff import made_of_held_out
from relrank.tables.files import holds_numbers
from relrank.tables.split import Interactions, Split, tied_last
from relrank.tables.tables import TEXTS, LinkTable, NodeTable, Tables, TextTable

SPLIT = "interactions"
"""Name of a leak in the split itself; no relation may have it."""

_AGGREGATE = re.compile(
    r"(^|_)(average|avg|mean|counts?|votes?|popularity|ratings|reviews|scores?|rank|views|likes|sales|revenue)(_|$)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        level: "leak" (results are not valid), "warning" (to be reported with the results), or "ok".
        check: name of the check.
        message: one sentence, with numbers.
        count: affected rows (or users, as the message says); 0 for "ok".
        names: the affected relations and features, or ``SPLIT``; a study accepts a leak by all of its names.
        remedy: how to fix a leak, one clause.
    """

    level: Literal["leak", "warning", "ok"]
    check: str
    message: str
    count: int
    names: tuple[str, ...] = ()
    remedy: str = ""


@checked("rr.audit")
def audit(
    tables: Tables,
    split: Split,
    train_edges: Csr | None = None,
    columns: Collection[tuple[str, str]] = (),
    users_of: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> list[Finding]:
    """Check a split, its graph, and the side data that it uses, for leaks.

    Args:
        tables: from which the split was made.
        split: the split.
        train_edges: the graph's interactions, users by items in the split's rows; None without a graph.
        columns: (table, column) of all node or link tables that relations and features use; the text table's name is
            ``TEXTS``.
        users_of: names of the relations and features that use a table, by table.

    Returns:
        At least one finding per check that applies; a passed check is an "ok".
    """
    findings = [*_edges(split, train_edges), *_repeats(tables, split)]
    findings += _times(split)
    for table in dict.fromkeys(name for name, _ in columns):
        of_table = sorted(column for name, column in columns if name == table)
        findings += (
            replace(finding, names=users_of.get(table, ()))
            for finding in (*_computed(tables, split, table, of_table), *_made_by(tables, split, table))
        )
    return [*findings, *_unknown(split)]


def _finding(
    level: Literal["leak", "warning"], check: str, count: int, bad: str, good: str, remedy: str = ""
) -> Finding:
    return Finding(level, check, bad, count, (SPLIT,), remedy) if count else Finding("ok", check, good, 0, (SPLIT,))


def pair_keys(user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], n_items: int) -> Int64:
    """A unique number for each pair, int64 [n]."""
    return user.astype(np.int64) * n_items + item


def _distinct(rows: Interactions, shape: tuple[int, int]) -> int:
    """Number of different (user, item) pairs."""
    order = stable_argsort_pairs(rows.user, rows.item, shape)
    return int((~repeated(rows.user[order], rows.item[order])).sum())


def _edges(split: Split, edges: Csr | None) -> Iterator[Finding]:
    if edges is None:
        return
    if (edges.n_rows, edges.n_cols) != split.shape:
        raise ValueError(f"edges of shape {(edges.n_rows, edges.n_cols)} for a split of {split.shape}")
    for part, rows in (("validation", split.valid), ("test", split.test)):
        hits = int(edges.contains_pairs(rows.user, rows.item).sum())
        bad = f"{hits:,} of {len(rows):,} {part} rows are edges of the graph"
        good, remedy = f"no {part} row is an edge of the graph", "build the graph from training rows alone"
        yield _finding("leak", f"{part} rows in the graph", hits, bad, good, remedy)


def _repeats(tables: Tables, split: Split) -> Iterator[Finding]:
    train, valid, test = split.train, split.valid, split.test
    inside = sum(len(rows) - _distinct(rows, split.shape) for rows in (train, valid, test))
    bad = f"{inside:,} rows occur twice in one part"
    yield _finding("warning", "repeated rows", inside, bad, "every row occurs once in its part")
    rows = train.then(valid).then(test)
    across = len(rows) - inside - _distinct(rows, split.shape)
    bad = f"{across:,} rows are in more than one part"
    remedy = "keep each (user, item) in one part"
    yield _finding("leak", "rows in two parts", across, bad, "no row is in two parts", remedy)
    if tables.user == tables.item:
        user_of, item_of = split.users.find(split.items.keys), split.items.find(split.users.keys)
        reverse = 0
        for rows, others in ((valid, train), (test, train.then(valid))):
            user, item = user_of[rows.item], item_of[rows.user]
            both = (user >= 0) & (item >= 0)
            mirrored = pair_keys(user[both], item[both], len(split.items))
            earlier = pair_keys(others.user, others.item, len(split.items))
            reverse += int(np.isin(mirrored, earlier).sum())
        bad = f"{reverse:,} validation or test rows are reversed rows of an earlier part"
        good, remedy = "no row is a reversed row of another part", "keep one row of each pair of nodes"
        yield _finding("leak", "reversed rows", reverse, bad, good, remedy)


def _times(split: Split) -> Iterator[Finding]:
    train, test = split.train, split.test
    if train.time is None or test.time is None:
        message = "no times: whether training rows are later than test rows cannot be checked"
        yield Finding("warning", "times", message, len(test))
        return
    rows = train.then(split.valid).then(test)
    assert rows.time is not None
    tied = tied_last(rows.take(rows.by_user()))
    users = np.unique(rows.user).size
    bad = f"{tied:,} of {users:,} users ({tied / users:.0%}) have a tied last time: their last row is not known"
    yield _finding("warning", "tied last times", tied, bad, "no user's last time is tied")
    last = np.full(split.shape[0], np.iinfo(np.int64).min)
    np.maximum.at(last, train.user, train.time)
    later = int((last[test.user] > test.time).sum())
    bad = f"{later:,} of {len(test):,} test rows ({later / len(test):.0%}) have later training rows of the same user"
    good = "no test row has a later training row of the same user"
    yield _finding("warning", "training rows later than the test row", later, bad, good)
    first = int(test.time.min())
    after = int((train.time > first).sum())
    bad = f"{after:,} of {len(train):,} training rows ({after / len(train):.0%}) are later than the first test row"
    good = "every training row is earlier than every test row"
    yield _finding("warning", "training rows in the future of the test part", after, bad, good)


def _computed(tables: Tables, split: Split, name: str, columns: list[str]) -> Iterator[Finding]:
    table: NodeTable | LinkTable | TextTable
    if name == TEXTS and tables.texts is not None:
        table = tables.texts
    else:
        table = tables.nodes[name] if name in tables.nodes else tables.links[name]
    if table.computed is not None:
        check = f"{name} computed after the cut"
        if split.test.time is None:
            message = f"{name} says when it was computed, but test rows have no times to compare with"
            yield Finding("warning", check, message, len(split.test))
            return
        assert isinstance(table.computed, int)
        count = int((split.test.time <= table.computed).sum())
        bad = f"{name} was computed when {count:,} of {len(split.test):,} test rows had happened already"
        good, remedy = f"{name} was computed before the first test row", f"use {name} as it was before the split"
        yield _finding("leak", check, count, bad, good, remedy)
        return
    check = f"{name} looks computed from interactions"
    suspects = [c for c in columns if c in table.frame.columns and _AGGREGATE.search(c.lower())]
    suspects = [c for c in suspects if holds_numbers(table.frame[c])]
    bad = f"{', '.join(suspects)} of {name} may have been computed from test rows: declare computed = … if known"
    good = f"no used column of {name} looks like a count or an average"
    yield _finding("warning", check, len(suspects), bad, good)


def _made_by(tables: Tables, split: Split, name: str) -> Iterator[Finding]:
    """Rows that users made of their held-out items, if a column of the file seems to hold the makers."""
    made = made_of_held_out(tables, split, name)
    if made is None:
        return
    column, rows, pairs = made
    held = len(split.valid) + len(split.test)
    bad = f"{rows:,} rows of {name} are what users, by its column {column!r}, made of {pairs:,} of their {held:,} "
    bad += "held-out items"
    good, remedy = f"no row of {name} is of a held-out pair", f'say who made the rows of {name}: by = "{column}"'
    if declared := _with_makers(tables, name):
        remedy = f"use table {declared}, which says who made each row"
    level: Literal["leak", "warning"] = "leak" if pairs >= max(10, held / 100) else "warning"
    yield _finding(level, f"{name} made of held-out rows", rows, bad, good, remedy)


def _with_makers(tables: Tables, name: str) -> str | None:
    """The table with a row per maker of a table that adds up the rows of several, if there is one."""
    summed = tables.links.get(name)
    if summed is None or pl.List not in summed.frame.dtypes:
        return None
    ends = summed.source, summed.target
    return next((key for key, t in tables.links.items() if t.by and (t.source, t.target) == ends), None)


def _unknown(split: Split) -> Iterator[Finding]:
    sides: tuple[tuple[str, int, Int32, Int32], ...] = (
        ("users", len(split.users), split.train.user, split.test.user),
        ("items", len(split.items), split.train.item, split.test.item),
    )
    for side, n, train, test in sides:
        trained = np.bincount(train, minlength=n) > 0
        count = int((~trained[test]).sum())
        check = f"{side} without training rows"
        if side == "items" and split.new_items_only:
            old = test.size - count
            bad = f"{old:,} of {test.size:,} test rows are of items with training rows, which are no candidates"
            good, remedy = (
                "all items of test rows are new, as the split says",
                "hold out all rows of an item, or none",
            )
            yield _finding("leak", check, old, bad, good, remedy)
            continue
        bad = f"{count:,} of {test.size:,} test rows are of {side} without training rows"
        yield _finding("warning", check, count, bad, f"all {side} of test rows have training rows")
