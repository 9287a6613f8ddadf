"""Tables whose rows link nodes: tags of items, friends of users, views beside purchases, reviews."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from relrank.discovery.columns import Column, Table
from relrank.discovery.draft import Draft, NodeType, free_name, snake, type_name
from relrank.discovery.interactions import timeliness
from relrank.discovery.references import Reference, best_reference
from relrank.discovery.vocabulary import MEASURES, NOTES, names_a

FEWEST_TARGETS = 3
"""Different targets of links, at least …"""
WIDEST = 0.6
"""… and the share of the sources that the mean target has, at most."""
MOST_KINDS = 8
"""Different values of a column with the kinds of texts, at most."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Keys of users and items, and what is known of the interactions.

    Attributes:
        user: type of the users.
        item: type of the items.
        keys: of the interactions, by type.
        timed: whether the interactions have dates.
        by_date: whether the split is a date.
    """

    user: str
    item: str
    keys: Mapping[str, Column]
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
        if table.name in draft.used:
            continue
        linked = {c.name: node for c in table if (node := _node_of(draft, ends, c)) is not None}
        if linked:
            yield from _read(draft, ends, table, linked)


def _node_of(draft: Draft, ends: Ends, column: Column) -> str | None:
    """The type of the nodes that a column holds keys of, among those of the study."""
    for reference in draft.references_of(column.table, column.name):
        node = draft.type_of(reference.target)
        if node is not None:
            return node.name
    keys = [key for node, key in ends.keys.items() if draft.nodes[node].table is None]
    best = best_reference(column, keys, among_rows=True)
    if best is None:
        return None
    return next(n for n, k in ends.keys.items() if k.where == f"{best.target}.{best.key}")


def _read(draft: Draft, ends: Ends, table: Table, linked: dict[str, str]) -> Iterator[Reference]:
    by_node = {node: name for name, node in reversed(linked.items())}
    user, item = by_node.get(ends.user), by_node.get(ends.item)
    text = next((c for c in table if c.kind == "text" and not names_a(c.name, NOTES)), None)
    if text is not None and item is not None:
        _texts(draft, ends, table, item, text, user)
        return
    if len(linked) >= 2:
        names = list(linked)
        if user is not None and item is not None:
            third = _third(draft, table, {user, item})
            if third is None:
                _behaviour(draft, ends, table, user, item)
                return
            yield from _link(draft, ends, table, item, ends.item, third, user)
            return
        yield from _link(draft, ends, table, names[0], linked[names[0]], table[names[1]], None)
        return
    source = next(iter(linked))
    if table[source].is_unique:
        draft.find("left out", table.name, f"one row per {linked[source]} beside its own table", table.rows)
        return
    other = _third(draft, table, {source})
    if other is None:
        draft.find(
            "left out", table.name, f"several rows per {linked[source]}, and no column to link them with", table.rows
        )
        return
    yield from _link(draft, ends, table, source, linked[source], other, None)


def _third(draft: Draft, table: Table, used: set[str]) -> Column | None:
    """The column with the other end of links: keys of another table, else values that rows share."""
    left = [c for c in table if c.name not in used and c.may_be_key and not c.is_unique]
    keyed = [c for c in left if draft.references_of(table.name, c.name)]
    if keyed:
        return keyed[0]
    left = [c for c in left if not names_a(c.name, MEASURES) and c.kind == "value" and c.known_share > 0.5]
    left = [c for c in left if c.n_distinct >= FEWEST_TARGETS and c.shared_share > 0.5]
    return max(left, key=lambda c: c.n_distinct, default=None)


def _link(
    draft: Draft, ends: Ends, table: Table, source: str, node: str, other: Column, by: str | None
) -> Iterator[Reference]:
    """Links between a column of known nodes and another column."""
    target = _node_of(draft, ends, other)
    reference = next(iter(draft.references_of(table.name, other.name)), None) if target is None else None
    pairs = table.frame.select(pl.col(source).alias("a"), pl.col(other.name).alias("b")).drop_nulls().unique()
    mean = pairs.height / max(1, pairs["b"].n_unique()) / max(1, pairs["a"].n_unique())
    if pairs["b"].n_unique() < FEWEST_TARGETS or mean > WIDEST:
        message = f"nearly every {node} has the same {other.name}, so the links say nothing"
        draft.find("left out", table.name, message, table.rows)
        return
    if reference is not None:
        yield reference
        target = (draft.type_of(reference.target) or NodeType("", None, None)).name
    config: dict[str, Any] = {"source": node, "source_column": source}
    config |= {"target": target or draft.target(type_name(other.name)), "target_column": other.name}
    for name, kind in ((source, node), (other.name, target)):
        if kind is not None and _orphans(draft, ends, table[name], kind):
            config["unknown"] = "drop"
    weight = _weight(table, {source, other.name, by})
    if weight is not None:
        config["weight"] = weight.name
    if by is not None:
        config["by"] = by
    _add(draft, ends, table, config, user_made=by is not None or ends.user in (node, target))


def _orphans(draft: Draft, ends: Ends, column: Column, kind: str) -> bool:
    """Whether some keys are in no node table or interaction."""
    node = draft.nodes[kind]
    keys = ends.keys[kind].distinct if node.table is None else draft.tables[node.table][node.key or ""].distinct
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
    if not any(c.kind == "time" for c in table) or not ends.timed:
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


def _add(draft: Draft, ends: Ends, table: Table, config: dict[str, Any], user_made: bool) -> None:
    """A link table and its relation, with times where they can be compared with the split."""
    times = [c for c in table if c.kind == "time" and c.known_share > 0.5]
    if times and ends.timed:
        time = max(times, key=timeliness)
        if user_made or ends.by_date:
            config["time"] = time.name
            if time.known_share < 1.0:
                config["missing"] = "drop"
        else:
            message = "times of links of no user go with a split at a date: the links count whatever their time"
            draft.find("left out", time.where, message)
    needed = [config[k] for k in ("source_column", "target_column", "by") if k in config]
    if any(table[name].known_share < 1.0 for name in needed):
        config["missing"] = "drop"
    name = free_name(snake(table.name), draft.config["links"])
    draft.config["links"][name] = {"file": table.name, **config}
    draft.used.add(table.name)
    relation: dict[str, Any] = {"kind": "link", "table": name, "duplicates": "first"}
    if "weight" in config:
        relation |= {"weight": "log1p", "duplicates": "max"}
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
    times = [c for c in table if c.kind == "time"]
    if times and ends.timed and (user is not None or ends.by_date):
        config["time"] = max(times, key=timeliness).name
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
        draft.relate(name, {"kind": "texts", "of": kind, "target": target}, table.name, why, text.n_known)


def _is_kind(column: Column) -> bool:
    return names_a(column.name, frozenset(("kind", "type", "art", "typ", "section", "field", "sort")))
