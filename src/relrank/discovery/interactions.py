"""Which table holds the interactions, and which of its columns are user, item, time and rating."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from math import log10

import polars as pl

from relrank.discovery.columns import MOSTLY_TIMED, Column, Table
from relrank.discovery.leaks import sounds_computed
from relrank.discovery.proposal import Hints
from relrank.discovery.references import Reference
from relrank.discovery.reshaping import DEPENDENT, depends_on_key
from relrank.discovery.statements import STATED
from relrank.discovery.vocabulary import (
    EVENT_KEYS,
    ITEM,
    ITEM_ATTRIBUTES,
    LATER,
    MEASURES,
    NEITHER,
    QUANTITIES,
    RATING,
    STARTS,
    STRONG,
    TIME,
    USER,
    USER_ATTRIBUTES,
    WEAK,
    is_meaningless,
    names_a,
    words_of,
)
from relrank.errors import InputError, did_you_mean, one_of

FEWEST_KEYS = 5
"""Different users, and different items, at least."""
LEAST_SCORE = 2.0
"""Score from which on a table may hold interactions."""
MOST_BARE = 5
"""Columns of a table of interactions, at most, if neither names nor other tables speak for it."""
OWNED = 3.0
"""What is taken from the score of a table whose rows all repeat what the item's own row says, such as its author."""
CLOSE = 0.75
"""Difference of scores below which two tables are equally likely."""


@dataclass(frozen=True, slots=True)
class Via:
    """A table of events that rows belong to, such as the orders of order lines.

    Attributes:
        column: of the rows, which holds keys of the events.
        table: the events.
        key: their key.
    """

    column: str
    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table that may hold interactions.

    Attributes:
        table: its name.
        user: column of users; of the table of ``via``, if there is one.
        item: column of items.
        time: column of times, if any; of the table of ``via`` if the rows have none.
        rating: column of ratings, if any.
        via: the table of events that the rows are joined with.
        score: how much speaks for it.
        reasons: what speaks for it.
        sure: whether it is clear which column is the user.
    """

    table: str
    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    via: Via | None = None
    score: float = 0.0
    reasons: tuple[str, ...] = ()
    sure: bool = True


@dataclass(slots=True)
class _Side:
    """How much a column looks like users and like items."""

    user: float = 0.0
    item: float = 0.0
    notes: list[str] = field(default_factory=list)


def candidates(tables: Mapping[str, Table], found: Sequence[Reference], hints: Hints) -> list[Candidate]:
    """Tables that may hold the interactions, the likeliest first, one per table.

    Raises:
        InputError: a hint names a table or column that does not exist.
    """
    _check_hints(tables, hints)
    best: dict[str, Candidate] = {}
    for table in tables.values():
        if hints.interactions not in (None, table.name):
            continue
        for candidate in _of_table(table, tables, found, hints):
            if table.name not in best or candidate.score > best[table.name].score:
                best[table.name] = candidate
    return sorted(best.values(), key=lambda c: -c.score)


def _check_hints(tables: Mapping[str, Table], hints: Hints) -> None:
    columns = {c for table in tables.values() for c in table.columns}
    for column in (hints.user, hints.item, hints.time, hints.rating):
        if column is not None and column not in columns:
            found = repr(column) + did_you_mean(column, columns)
            raise InputError("column not found", where="hints", expected="a column of a table", found=found)
    if hints.interactions is None:
        return
    if hints.interactions not in tables:
        raise InputError(
            "no such table",
            where="interactions",
            expected=one_of(tables),
            found=repr(hints.interactions) + did_you_mean(hints.interactions, tables),
        )


def _of_table(
    table: Table, tables: Mapping[str, Table], found: Sequence[Reference], hints: Hints
) -> Iterator[Candidate]:
    to = {r.column: r for r in found if r.table == table.name}
    mine = [c for c in table if _may_be_side(c, table, hints)]
    for user, item in permutations(mine, 2):
        if (candidate := _scored(table, user, item, None, tables, found, hints)) is not None:
            yield candidate
    for reference in to.values():
        parent = tables[reference.target]
        if parent is table or (not _are_events(parent) and hints.user not in parent.columns):
            continue
        via = Via(reference.column, parent.name, reference.key)
        if parent.stated is not None and _children(via, found) != {table.name}:
            continue  # rows of several tables are about it, as about posts: these are no lines of it
        for user in parent:
            if user.name == reference.key or not _may_be_side(user, parent, hints):
                continue
            for item in mine:
                if item.name == reference.column:
                    continue
                if (candidate := _scored(table, user, item, via, tables, found, hints)) is not None:
                    yield candidate


def _may_be_side(column: Column, table: Table, hints: Hints) -> bool:
    if column.name in (hints.user, hints.item):
        return True
    if table.stated is not None:
        of_others = table.stated.foreign.get(column.name, table.name) != table.name
        return of_others and column.n_distinct >= FEWEST_KEYS and column.known_share >= 0.5
    if not column.may_be_key or column.n_distinct < FEWEST_KEYS or column.known_share < 0.5:
        return False
    if names_a(column.name, QUANTITIES) or sounds_computed(column.name):
        return False
    measured = names_a(column.name, MEASURES | TIME) and not names_a(column.name, USER | ITEM)
    return column.n_distinct < 0.95 * column.n_known and not measured


def _are_events(table: Table) -> bool:
    """Whether rows of a table are events with a key, such as orders: with a time, and something that repeats."""
    has_time = any(c.kind == "time" for c in table)
    of_users = names_a(table.name, USER)
    return has_time and not of_users and any(c.may_be_key and not c.is_unique for c in table)


def _scored(
    table: Table,
    user: Column,
    item: Column,
    via: Via | None,
    tables: Mapping[str, Table],
    found: Sequence[Reference],
    hints: Hints,
) -> Candidate | None:
    """A candidate with its score; None if the rows cannot be interactions."""
    if (hints.user is not None and user.name != hints.user) or (hints.item is not None and item.name != hints.item):
        return None
    user_side, item_side = _side(user, tables, found), _side(item, tables, found)
    hinted = hints.user is not None and hints.item is not None
    if not hinted and (user_side.user < 0 or item_side.item < 0 or not _crosses(table, user, item, via, tables)):
        return None
    if not hinted and (target := _stated_target(user, tables)) and target == _stated_target(item, tables):
        return None  # such as posts and the posts that they refer to
    reasons = [*user_side.notes, *item_side.notes]
    score = user_side.user + item_side.item - 0.8 * (max(user_side.item, 0) + max(item_side.user, 0))
    parent = tables[via.table] if via else None
    time, rating = _time((user, item), via, tables, hints), _rating(table, {user.name, item.name}, hints)
    if time is not None:
        score += 2.0
        stated = any(t.stated is not None and t.stated.time == time for t in (table, parent) if t is not None)
        reasons.append(f"time in {time!r}{STATED if stated else ''}")
    if rating is not None:
        score += 1.0
        reasons.append(f"ratings in {rating!r}")
    behaviour = _behaviour(table, parent)
    score += behaviour + 0.4 * log10(max(10, table.rows))
    if via is None and any(_is_third(c, {user.name, item.name}, found) for c in table):
        score -= 1.5 if _pairs(table, user, item, via, tables).is_duplicated().mean() else 0.5
    score -= OWNED * _owned(_pairs(table, user, item, via, tables), user, item, tables)
    if any(c.kind == "text" for c in table):
        score -= 2.0  # texts are written of a few of the things that were bought or rated
    if via is not None:
        score += 0.5 if _are_headers(via, table, user, found) else -1.0
        reasons.append(f"users of its {via.table}")
    evidence = user_side.user + item_side.item + (time is not None)
    if not hinted and evidence < 2.0 and len(table.columns) > MOST_BARE:
        return None
    reasons.append(f"{table.rows:,} rows, {user.n_distinct:,} users, {item.n_distinct:,} items")
    sure = user_side.user - user_side.item > 0.5 or item_side.item - item_side.user > 0.5
    return Candidate(table.name, user.name, item.name, time, rating, via, score, tuple(reasons), sure)


def _stated_target(column: Column, tables: Mapping[str, Table]) -> str | None:
    """The table whose keys a column holds as its file states."""
    stated = tables[column.table].stated
    return None if stated is None else stated.foreign.get(column.name)


def _owned(pairs: pl.DataFrame, user: Column, item: Column, tables: Mapping[str, Table]) -> float:
    """Share of the rows whose user is one that the item's own row states, such as the author of a post."""
    of_user, of_item = _stated_target(user, tables), _stated_target(item, tables)
    items = tables.get(of_item or "")
    if items is None or items.stated is None or items.stated.key is None or not pairs.height:
        return 0.0
    key = items[items.stated.key].text
    owners = [items[c].text for c, of in items.stated.foreign.items() if of == of_user]
    owned = [pl.DataFrame({"u": owner, "i": key}) for owner in owners]
    return pairs.join(pl.concat(owned), on=["u", "i"], how="semi").height / pairs.height if owned else 0.0


def _are_headers(via: Via, table: Table, user: Column, found: Sequence[Reference]) -> bool:
    """Whether events are there for these rows alone, as orders are for their lines, and name a known user."""
    known = names_a(user.name, USER) or any((r.table, r.column) == (via.table, user.name) for r in found)
    return _children(via, found) == {table.name} and known


def _children(via: Via, found: Sequence[Reference]) -> set[str]:
    """The tables that hold keys of events."""
    return {r.table for r in found if (r.target, r.key) == (via.table, via.key)}


def _behaviour(table: Table, parent: Table | None) -> float:
    name = f"{table.name} {parent.name if parent else ''}"
    if names_a(name, STRONG):
        return 1.5
    return 0.3 if names_a(name, WEAK) else 0.0


def _side(column: Column, tables: Mapping[str, Table], found: Sequence[Reference]) -> _Side:
    """What a column's name, and the table that its values are keys of, say of it."""
    side = _Side()
    words = words_of(column.name)
    if names_a(column.name, USER):
        side.user += 2.5
    if names_a(column.name, ITEM):
        side.item += 2.5
    mine = [r for r in found if (r.table, r.column) == (column.table, column.name)]
    reference = max(mine, key=lambda r: r.strength, default=None)
    is_neither = names_a(column.name, NEITHER) and not names_a(column.name, USER | ITEM)
    if reference is not None:
        target = tables[reference.target]
        side.user += 1.0 + (1.0 if names_a(target.name, USER) else 0.0)
        side.item += 1.0 + (1.0 if names_a(target.name, ITEM) else 0.0)
        side.user += min(1.0, 0.5 * sum(names_a(c.name, USER_ATTRIBUTES) or c.kind == "email" for c in target))
        side.item += min(1.5, 0.5 * sum(names_a(c.name, ITEM_ATTRIBUTES) or c.kind == "text" for c in target))
        side.notes.append(f"{column.name!r} holds keys of {reference.target}{reference.source}")
        is_neither = is_neither or (names_a(target.name, NEITHER) and not names_a(target.name, USER | ITEM))
    if is_neither and not is_meaningless(" ".join(words)):
        side.user, side.item = side.user - 4.0, side.item - 4.0
    return side


def _crosses(table: Table, user: Column, item: Column, via: Via | None, tables: Mapping[str, Table]) -> bool:
    """Whether users have several items and items several users, which two levels of a hierarchy have not."""
    pairs = _pairs(table, user, item, via, tables)
    different = pairs.n_unique()
    if different < 0.1 * pairs.height or pairs.height < 0.3 * table.rows:
        return False
    users, items = pairs["u"].n_unique(), pairs["i"].n_unique()
    return different > 1.2 * users and different > 1.2 * items and different < 0.9 * users * items


def _time(ends: tuple[Column, Column], via: Via | None, tables: Mapping[str, Table], hints: Hints) -> str | None:
    """The column of the time of the interaction: not that of a delivery or an export."""
    if hints.time is not None:
        return hints.time
    times, _ = _event_times(ends, via, tables)
    return times[0].name if times else None


def _event_times(
    ends: tuple[Column, Column], via: Via | None, tables: Mapping[str, Table]
) -> tuple[list[Column], list[Column]]:
    """Columns of times of the interactions, the best first, and those that are attributes of a user or an item."""
    of_ends: list[Column] = []
    for name in (ends[1].table, via.table if via else None):
        if name and (stated := tables[name].stated) is not None:
            if stated.time is not None:
                return [tables[name][stated.time]], of_ends
            continue
        times = [c for c in (tables[name] if name else ()) if c.kind == "time" and c.known_share > MOSTLY_TIMED]
        mine = [c for c in times if not is_of_an_end(c, ends, via, tables)]
        of_ends += [c for c in times if c not in mine]
        if mine:
            return sorted(mine, key=_timeliness, reverse=True), of_ends
    return [], of_ends


def is_of_an_end(
    time: Column, ends: Iterable[Column], via: Via | None = None, tables: Mapping[str, Table] | None = None
) -> bool:
    """Whether a time is an attribute of one end of the rows, as the release of an item or the birth of a user is.

    Args:
        time: the column.
        ends: columns of users and items, or others that the rows link.
        via: the table of events, if time or ends are in it.
        tables: all, for ``via``.
    """
    for end in ends:
        if end.table == time.table:
            if time.times is not None and time.times.n_unique() > DEPENDENT * end.n_distinct + 1:
                continue  # more times than keys
            pairs = pl.DataFrame({"key": end.text, "value": time.times})
        else:
            assert via is not None
            assert tables is not None
            of = {via.table: via.key}
            event = [tables[c.table][of.get(c.table, via.column)].text for c in (end, time)]
            keys = pl.DataFrame({"event": event[0], "key": end.text})
            values = pl.DataFrame({"event": event[1], "value": time.times})
            pairs = keys.join(values, on="event", how="inner").drop("event")
        if depends_on_key(pairs.drop_nulls()):
            return True
    return False


def times_of(chosen: Candidate, tables: Mapping[str, Table]) -> tuple[list[Column], list[Column]]:
    """Columns that may be the time of the interactions, and those that are attributes of a user or an item."""
    table = chosen.via.table if chosen.via else chosen.table
    ends = tables[table][chosen.user], tables[chosen.table][chosen.item]
    times, of_ends = _event_times(ends, chosen.via, tables)
    return [c for c in times if _named(c) == _named(times[0])], of_ends


def _pairs(table: Table, user: Column, item: Column, via: Via | None, tables: Mapping[str, Table]) -> pl.DataFrame:
    """The pairs of user and item of all rows that have both."""
    if via is None:
        return pl.DataFrame({"u": user.text, "i": item.text}).drop_nulls()
    events = pl.DataFrame({"e": tables[via.table][via.key].text, "u": user.text})
    rows = pl.DataFrame({"e": table[via.column].text, "i": item.text})
    return rows.join(events, on="e", how="inner").select("u", "i").drop_nulls()


def _is_third(column: Column, used: set[str], found: Sequence[Reference]) -> bool:
    """Whether rows are about something beside a user and an item, such as the tag that one gave the other."""
    if column.name in used or not column.may_be_key or column.is_unique:
        return False
    refers = any((r.table, r.column) == (column.table, column.name) and r.named == 2 for r in found)
    return refers and names_a(column.name, NEITHER) and not names_a(column.name, EVENT_KEYS)


def _timeliness(column: Column) -> tuple[float, float, float]:
    """By name, then completeness, then the earliest."""
    return _named(column), round(column.known_share, 1), -middle(column)


def _named(column: Column) -> float:
    """How much the name of a time is that of an event."""
    return names_a(column.name, STARTS) - 2.0 * names_a(column.name, LATER) + 0.1 * names_a(column.name, TIME)


def middle(column: Column) -> float:
    """The median of times, in nanoseconds since 1970."""
    times = column.times
    return 0.0 if times is None else float(times.drop_nulls().cast(pl.Int64).median() or 0)  # type: ignore[arg-type]


def _rating(table: Table, used: set[str], hints: Hints) -> str | None:
    if hints.rating is not None:
        return hints.rating
    rated = [c for c in table if c.name not in used and c.role is None and _is_rating(c)]
    return max(rated, key=lambda c: (names_a(c.name, RATING), c.known_share)).name if rated else None


def _is_rating(column: Column) -> bool:
    """Whether a column holds ratings: few different numbers of a small scale."""
    numbers = column.numbers
    if numbers is None or column.known_share < 0.5 or not 2 <= column.n_distinct <= 101:
        return False
    numbers = numbers.drop_nulls()
    low, high, mean = (float(v or 0) for v in (numbers.min(), numbers.max(), numbers.mean()))  # type: ignore[arg-type]
    if low < 0 or high > 100:
        return False
    if names_a(column.name, RATING):
        return True
    halves = bool((numbers * 2 == (numbers * 2).round()).all())
    scale = high in (5.0, 10.0) and low in (0.0, 0.5, 1.0) and column.n_distinct >= 4
    return is_meaningless(column.name) and halves and scale and mean > (low + high) / 2


def joined(candidate: Candidate, tables: Mapping[str, Table]) -> pl.DataFrame | None:
    """The rows of a candidate with the columns of its table of events; None if it needs none."""
    via = candidate.via
    if via is None:
        return None
    rows, events = tables[candidate.table].frame, tables[via.table].frame
    add = [c for c in (candidate.user, candidate.time) if c is not None and c in events.columns]
    add = [c for c in dict.fromkeys(add) if c == candidate.user or c not in rows.columns]
    rows = rows.drop([c for c in add if c in rows.columns])
    keyed = events.select(pl.Series("#key", tables[via.table][via.key].text), *add)
    rows = rows.with_columns(pl.Series("#key", tables[candidate.table][via.column].text))
    return rows.join(keyed, on="#key", how="inner", maintain_order="left").drop("#key")


def settle(
    ranked: Sequence[Candidate], tables: Mapping[str, Table], hints: Hints
) -> tuple[Candidate, list[Candidate]]:
    """The interactions, and the tables that are equally likely.

    Raises:
        InputError: no table can hold interactions.
    """
    stated = hints.user is not None and hints.item is not None
    alone = len(tables) == 1 and not any(c.is_unique for table in tables.values() for c in table)
    likely = [c for c in ranked if stated or alone or c.score >= LEAST_SCORE]
    if not likely:
        raise _none_found(tables)
    first = likely[0]
    return first, [c for c in likely[1:] if first.score - c.score < CLOSE]


def _none_found(tables: Mapping[str, Table]) -> InputError:
    seen = []
    for table in tables.values():
        repeating = [c.name for c in table if c.may_be_key and not c.is_unique and c.n_distinct >= FEWEST_KEYS]
        what = f"{table.rows:,} rows"
        seen.append(f"{table.name}: {what}, columns that repeat like keys: {', '.join(repeating[:6]) or 'none'}")
    return InputError(
        "no table of interactions found",
        where=", ".join(tables) or "no tables",
        expected="a table with a row per event, a column of users and a column of items, both of which occur in "
        "several rows; name them if they are there (interactions, user, item)",
        found="; ".join(seen[:12]),
    )
