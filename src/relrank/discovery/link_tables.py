"""Tables whose rows link nodes: tags of items, friends of users, views beside purchases, reviews."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from relrank.discovery.columns import MOSTLY_TIMED, Column, Table
from relrank.discovery.draft import Draft, NodeType, free_name, snake, type_name
from relrank.discovery.interactions import is_of_an_end, middle
from relrank.discovery.references import Reference, best_reference
from relrank.discovery.statements import STATED
from relrank.discovery.vocabulary import EVENT_KEYS, GIVEN, MEASURES, NOTES, TITLES, names_a

FEWEST_TARGETS = 3
"""Different targets of links, at least …"""
WIDEST = 0.6
"""… and the share of the sources that the mean target has, at most."""
DIMS = 64
"""Singular vectors of texts, by default."""
COPIED = 0.95
"""Share of pairs that are interactions, from which on a table may be a copy of them."""
MANY = 50
"""Links of a source, on average, from which on only the heaviest are kept."""
MANY_TARGETS = 2_000
"""Different targets from which on rare ones are left out."""
MOST_KINDS = 8
"""Different values of a column with the kinds of texts, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """Keys of users and items, and what is known of the interactions.

    Attributes:
        user: type of the users.
        item: type of the items.
        keys: of the interactions, by type.
        pairs: of users and items in the interactions, each once, with their first times if these are dates.
        timed: whether the interactions have dates.
        by_date: whether the split is a date.
    """

    user: str
    item: str
    keys: Mapping[str, Column]
    pairs: pl.DataFrame
    timed: bool
    by_date: bool


def read_links(draft: Draft, ends: Ends, tables: list[Table]) -> Iterator[Reference]:
    """Add the links and texts of tables; yields references to tables of further nodes.

    Args:
        draft: is added to.
        ends: users and items.
        tables: that are neither interactions nor node tables.
    """
    for table in tables:
        if table.name in draft.used or table.name in draft.judged:
            continue
        linked = {c.name: end[0] for c in table if (end := _node_of(draft, ends, c)) is not None}
        linked |= _same_type(draft, ends, table, linked)
        if linked:
            draft.judged.add(table.name)
            yield from _read(draft, ends, table, linked)


def _same_type(draft: Draft, ends: Ends, table: Table, linked: Mapping[str, str]) -> dict[str, str]:
    """A second column with keys of users or items, as in a table of friends or of similar products."""
    if len(linked) != 1 or len(table.columns) > 5:
        return {}
    ((name, node),) = linked.items()
    if node not in ends.keys:
        return {}
    keys, mine = _keys_of(draft, ends, node), table[name]
    for column in table:
        like = column.name != name and column.may_be_key and not column.is_unique
        like = like and column.is_whole == mine.is_whole
        if like and not names_a(column.name, MEASURES) and not draft.references_of(table.name, column.name):
            share = float(column.distinct.is_in(keys.implode()).mean() or 0)  # type: ignore[arg-type]
            if share >= 0.9 and column.n_distinct >= 0.8 * mine.n_distinct:
                return {column.name: node}
    return {}


def _keys_of(draft: Draft, ends: Ends, node: str) -> pl.Series:
    """The keys of a type: of its table, else of the interactions."""
    kind = draft.nodes[node]
    return ends.keys[node].distinct if kind.table is None else draft.tables[kind.table][kind.key or ""].distinct


def _node_of(draft: Draft, ends: Ends, column: Column) -> tuple[str, str | None] | None:
    """The type of the nodes that a column holds values of, among those of the study, and which of its columns."""
    for reference in draft.references_of(column.table, column.name):
        node = draft.type_of(reference.target)
        if node is not None:
            draft.read_keys(reference)
            return node.name, None if reference.key == node.key else reference.key
    stated = draft.tables[column.table].stated
    if stated is not None and column.name not in stated.foreign:
        return None
    keys = [key for node, key in ends.keys.items() if draft.nodes[node].table is None]
    best = best_reference(column, keys, among_rows=True)
    if best is None:
        return None
    return next(n for n, k in ends.keys.items() if k.where == f"{best.target}.{best.key}"), None


def _read(draft: Draft, ends: Ends, table: Table, linked: dict[str, str]) -> Iterator[Reference]:
    by_node = {node: name for name, node in reversed(linked.items())}
    user, item = by_node.get(ends.user), by_node.get(ends.item)
    if len(table.columns) <= 3 and sum(c.is_unique and c.may_be_key for c in table) >= 2:
        draft.find("left out", table.name, "each key has one counterpart, as where keys are translated", table.rows)
        return
    text = next((c for c in table if c.kind == "text" and not names_a(c.name, NOTES)), None)
    if text is not None and item is not None:
        _texts(draft, ends, table, item, text, user)
        return
    if user is not None and item is not None:
        given = _given(draft, table, user, item)
        if not given or table.stated is not None:
            _behaviour(draft, ends, table, user, item)
        for third in given:
            yield from _link(draft, ends, table, item, ends.item, third, user)
        return
    ends_first = (item, user, *linked) if table.stated is not None else linked
    source = next(name for name in ends_first if name is not None)
    if len(linked) >= 2:
        others = [table[name] for name in linked if name != source]
        others = others[:1] if table.stated is None else [*others, *_keyed(draft, table, {*linked})]
        for other in others:
            yield from _link(draft, ends, table, source, linked[source], other, None, linked.get(other.name))
        return
    if table[source].is_unique:
        draft.find("left out", table.name, f"one row per {linked[source]} beside its own table", table.rows)
        return
    others = _keyed(draft, table, {source}) or _shared(table, {source})
    if not others:
        draft.find(
            "left out", table.name, f"several rows per {linked[source]}, and no column to link them with", table.rows
        )
        return
    for other in others:
        yield from _link(draft, ends, table, source, linked[source], other, None)


def _given(draft: Draft, table: Table, user: str, item: str) -> list[Column]:
    """What users gave items, such as tags: keys of a table of their own, or words so named; no attribute of items.

    One column at most, if the file does not state its keys.
    """
    found = []
    pairs = pl.DataFrame({"item": table[item].text}).drop_nulls().n_unique()
    for column in table:
        if column.name in (user, item) or not column.may_be_key or names_a(column.name, EVENT_KEYS):
            continue
        keyed = any(r.named == 2 and r.target != table.name for r in draft.references_of(table.name, column.name))
        of_item = pl.DataFrame({"i": table[item].text, "v": column.text}).drop_nulls().n_unique() <= 1.02 * pairs
        if (keyed or names_a(column.name, GIVEN)) and not of_item and column.n_distinct >= FEWEST_TARGETS:
            found.append(column)
    return found[:1] if table.stated is None else found


def _keyed(draft: Draft, table: Table, used: set[str]) -> list[Column]:
    """The columns with keys of other tables; the first one, if the file does not state them."""
    left = _other_ends(table, used)
    keyed = [c for c in left if any(r.target != table.name for r in draft.references_of(table.name, c.name))]
    return keyed[:1] if table.stated is None else keyed


def _shared(table: Table, used: set[str]) -> list[Column]:
    """The column with the most values among those whose values rows share, if there is one."""
    left = [c for c in _other_ends(table, used) if c.role is None and not names_a(c.name, MEASURES)]
    left = [c for c in left if c.kind == "value" and c.known_share > 0.5]
    left = [c for c in left if c.n_distinct >= FEWEST_TARGETS and c.shared_share > 0.5]
    return [max(left, key=lambda c: c.n_distinct)] if left else []


def _other_ends(table: Table, used: set[str]) -> list[Column]:
    """The columns that may hold the other end of links."""
    left = [c for c in table if c.name not in used and c.may_be_key and not c.is_unique]
    return [c for c in left if not names_a(c.name, EVENT_KEYS)]


def _link(
    draft: Draft,
    ends: Ends,
    table: Table,
    source: str,
    node: str,
    other: Column,
    by: str | None,
    same: str | None = None,
) -> Iterator[Reference]:
    """Links between a column of known nodes and another column, whose nodes may be of a known type."""
    end = _node_of(draft, ends, other)
    target = same if end is None else end[0]
    reference = next(iter(draft.references_of(table.name, other.name)), None) if target is None else None
    pairs = table.frame.select(pl.col(source).alias("a"), pl.col(other.name).alias("b")).drop_nulls().unique()
    mean = pairs.height / max(1, pairs["b"].n_unique()) / max(1, pairs["a"].n_unique())
    if pairs["b"].n_unique() < FEWEST_TARGETS or mean > WIDEST:
        message = f"nearly every {node} has the same {other.name}, so the links say nothing"
        draft.find("left out", table.name, message, table.rows)
        return
    known = (reference is not None and reference.named > 0) or table.stated is not None
    if node == ends.user and table.rows >= 0.5 * ends.pairs.height and not known:
        message = "as many rows of users as interactions, without times: it may hold them under other keys"
        draft.find("leak", table.name, message, table.rows)
        return
    if reference is not None:
        yield reference
        target = (draft.type_of(reference.target) or NodeType("", None, None)).name
    config: dict[str, Any] = {"source": node, "source_column": source}
    named = table.name if names_a(other.name, TITLES) else other.name
    config |= {"target": target or draft.target(type_name(named)), "target_column": other.name}
    for side, name, kind in (("source", source, node), ("target", other.name, target)):
        match = (_node_of(draft, ends, table[name]) or (None, None))[1]
        if match is not None:
            config[f"{side}_match"] = match
        if kind is not None and _orphans(draft, ends, table[name], kind, match):
            config["unknown"] = "drop"
    weight = _weight(table, {source, other.name, by})
    if weight is not None:
        config["weight"] = weight.name
    if by is not None:
        config["by"] = by
    _add(draft, ends, table, config, user_made=by is not None or ends.user in (node, target))


def _orphans(draft: Draft, ends: Ends, column: Column, kind: str, match: str | None = None) -> bool:
    """Whether some keys are in no node table or interaction."""
    node = draft.nodes[kind]
    keys = _keys_of(draft, ends, kind)
    if match is not None and node.table is not None:
        keys = draft.tables[node.table][match].distinct
    return not bool(column.distinct.is_in(keys.implode()).all())


def _weight(table: Table, used: set[str | None]) -> Column | None:
    """A column of positive numbers, such as how often a tag was given."""
    left = [c for c in table if c.name not in used and c.kind == "number" and c.numbers_are_plain]
    left = [c for c in left if c.known_share == 1.0 and not c.is_row_number and not c.is_unique]
    words = frozenset(("count", "weight", "score", "frequency", "n", "strength", "anzahl", "gewicht", "haeufigkeit"))
    named = [c for c in left if names_a(c.name, words)]
    return named[0] if named else None


def _behaviour(draft: Draft, ends: Ends, table: Table, user: str, item: str) -> None:
    """Another behaviour of users toward items."""
    if _is_copy(ends, table, user, item):
        draft.find("leak", table.name, "has the pairs of the interactions, held-out ones included", table.rows)
        return
    if not ends.timed or not _event_times(table, (user, item)):
        message = (
            "users and items without times that can be compared with the split: held-out pairs may be among them"
        )
        draft.find("leak", table.name, message, table.rows)
        return
    config: dict[str, Any] = {"source": ends.user, "source_column": user}
    config |= {"target": ends.item, "target_column": item}
    if any(_orphans(draft, ends, table[name], kind) for name, kind in ((user, ends.user), (item, ends.item))):
        config["unknown"] = "drop"
    _add(draft, ends, table, config, user_made=True)


def _is_copy(ends: Ends, table: Table, user: str, item: str) -> bool:
    """Whether nearly all pairs of users and items are interactions at the same times: another split, or a copy."""
    own = {"user": table[user].text, "item": table[item].text}
    times = {f"#{n}": c.times for n, c in enumerate(table) if c.times is not None}
    pairs = pl.DataFrame(own | times).drop_nulls(["user", "item"])
    pairs = pairs.unique(["user", "item"])
    both = pairs.join(ends.pairs, on=["user", "item"])
    if both.height < COPIED * pairs.height:
        return False
    if "time" not in both.columns or not times:
        return True
    return any(2 * int((both[name] == both["time"]).sum()) >= both.height for name in times)


def _event_times(table: Table, ends: Iterable[str]) -> list[Column]:
    """Columns with the time of a row, the safest first: the latest; attributes of an end, as a release, are none."""
    if table.stated is not None:
        return [] if table.stated.time is None else [table[table.stated.time]]
    times = [c for c in table if c.kind == "time" and c.known_share > MOSTLY_TIMED]
    times = [c for c in times if not is_of_an_end(c, [table[end] for end in ends])]
    return sorted(times, key=lambda c: (round(c.known_share, 1), middle(c)), reverse=True)


def _read_times(draft: Draft, table: Table, times: list[Column], config: dict[str, Any]) -> None:
    """Cut rows by the first of some times."""
    config["time"] = times[0].name
    draft.read_times(times[0])
    if len(times) > 1:
        others = ", ".join(c.name for c in times[1:])
        message = f"rows count from {times[0].name!r} on, the latest of their times, not from {others}"
        draft.find("ambiguous", table.name, message, table.rows)


def _note_attributes(draft: Draft, table: Table, ends: Iterable[str]) -> None:
    """Say which times are attributes of an end."""
    for column in table:
        if column.kind == "time" and (of := next((e for e in ends if is_of_an_end(column, [table[e]])), None)):
            message = f"is the same in all rows with the same {of!r}, so it is not the time of a row"
            draft.find("left out", column.where, message, column.n_known)


def _add(draft: Draft, ends: Ends, table: Table, config: dict[str, Any], user_made: bool) -> None:
    """A link table and its relation, with times where they can be compared with the split."""
    needed = [config[k] for k in ("source_column", "target_column", "by") if k in config]
    times = _event_times(table, needed)
    _note_attributes(draft, table, needed)
    if times and ends.timed:
        if user_made or ends.by_date:
            _read_times(draft, table, times, config)
            if times[0].known_share < 1.0:
                config["missing"] = "drop"
        else:
            message = "times of links of no user go with a split at a date: the links count whatever their time"
            draft.find("left out", times[0].where, message)
    if any(table[name].known_share < 1.0 for name in needed):
        config["missing"] = "drop"
    name = free_name(snake(table.name), draft.config["links"])
    draft.config["links"][name] = {"file": table.name, **config}
    if table.stated is not None:
        draft.comments[f"data.links.{name}"] = f"keys{' and time' if 'time' in config else ''}{STATED}"
    draft.used.add(table.name)
    relation: dict[str, Any] = {"kind": "link", "table": name, "duplicates": "first"}
    if "weight" in config:
        relation |= {"weight": "log1p", "duplicates": "max"}
    targets, sources = table[config["target_column"]].n_distinct, table[config["source_column"]].n_distinct
    if config["source"] != config["target"] and config["target"] not in ends.keys:
        if "weight" in config and table.rows > MANY * sources:
            relation["top"] = MANY
        if targets > MANY_TARGETS:
            relation["min_target_degree"] = 5
    what = f"{table.rows:,} rows from {config['source']} to {config['target']}"
    if "time" in config:
        what += f", cut at the split by {config['time']!r}"
    if ends.user in (config["source"], config["target"]) and ends.item in (config["source"], config["target"]):
        draft.find("behaviour", table.name, f"another behaviour with times: {what}", table.rows)
    draft.relate(name, relation, table.name, what, table.rows)


def _texts(draft: Draft, ends: Ends, table: Table, item: str, text: Column, user: str | None) -> None:
    """Texts of items, such as reviews."""
    if "texts" in draft.config:
        draft.find("left out", table.name, "a study reads one table of texts", table.rows)
        return
    config: dict[str, Any] = {"file": table.name, "key": item, "text": text.name}
    kinds = [c for c in table if c.kind == "value" and 2 <= c.n_distinct <= MOST_KINDS and _is_kind(c)]
    if kinds:
        config["kind"] = kinds[0].name
    if user is not None:
        config["by"] = user
    linked = [item] if user is None else [item, user]
    times = _event_times(table, linked)
    if times and user is None and not (ends.timed and ends.by_date):
        message = "times of texts of no user go with a split at a date: texts may be of after held-out rows"
        draft.find("left out", table.name, message, table.rows)
        return
    _note_attributes(draft, table, linked)
    if times and ends.timed:
        _read_times(draft, table, times, config)
    if user is not None and "time" not in config:
        message = "texts of users without times that can be compared with the split may tell of held-out pairs"
        draft.find("leak", table.name, message, table.rows)
        return
    if _orphans(draft, ends, table[item], ends.item):
        config["unknown"] = "drop"
    if any(table[config[k]].known_share < 1.0 for k in ("key", "by", "time", "kind") if k in config):
        config["missing"] = "drop"
    draft.config["texts"] = config
    draft.used.add(table.name)
    draft.find(
        "texts", table.name, f"{text.n_known:,} texts in {text.name!r}, of about {text.words:.0f} words", text.n_known
    )
    for kind in kinds[0].distinct.to_list() if kinds else ["text"]:
        name = snake(kind) if kinds else snake(table.name)
        target = draft.target(kind if kinds else "text")
        why = f"texts of {table.name} as nodes, each with a vector of its words"
        relation: dict[str, Any] = {"kind": "texts", "of": kind, "target": target}
        if (dims := _dims(text)) < DIMS:
            relation["dims"] = dims
        draft.relate(name, relation, table.name, why, text.n_known)


def _dims(text: Column) -> int:
    """Singular vectors that texts have words for."""
    words = text.sample.str.to_lowercase().str.extract_all(r"\w\w+").list.unique()
    counts = words.explode(empty_as_null=True, keep_nulls=True).drop_nulls().value_counts(name="n")
    return max(1, min(DIMS, int((counts["n"] >= 5).sum()) // 2, len(text.sample) // 4))


def _is_kind(column: Column) -> bool:
    return names_a(column.name, frozenset(("kind", "type", "art", "typ", "section", "field", "sort")))
