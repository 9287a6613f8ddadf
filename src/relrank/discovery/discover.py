"""From tables to a proposed study."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import polars as pl

from relrank.discovery.columns import UNKNOWN_FORMAT, Column, Table, tables_of
from relrank.discovery.contradictions import without_contradictions
from relrank.discovery.draft import Draft, NodeType, free_name, snake, type_name
from relrank.discovery.interactions import Candidate, candidates, joined, settle, times_of
from relrank.discovery.leaks import Figures
from relrank.discovery.limit import limit_relations
from relrank.discovery.link_tables import Ends, read_links
from relrank.discovery.node_columns import Side, read_columns
from relrank.discovery.proposal import Choice, Finding, Hints, Proposal
from relrank.discovery.protocol import choose_protocol
from relrank.discovery.references import Reference, references
from relrank.discovery.reshaping import attributes_in_rows, split_by_event
from relrank.discovery.statements import STATED, Statement
from relrank.discovery.vocabulary import ITEM, USER, is_meaningless, names_a
from relrank.errors import InputError
from relrank.tables.missing import NA_VALUES

METRIC = "ndcg@10"
"""Decides on validation and for verdicts."""


def discover(
    tables: Mapping[str, pl.DataFrame],
    hints: Hints | None = None,
    stated: Mapping[str, Statement] | None = None,
) -> Proposal:
    """Propose a study of some tables: interactions, nodes, links, texts, relations, filters and split.

    Args:
        tables: frames by name. Columns may be text, as in files, or typed.
        hints: what is known; it is taken as given.
        stated: keys and times that files state, by table; what contradicts the values is a finding, and not used.

    Returns:
        A proposal whose ``config`` is the content of a valid study file, with names of tables in place of files.

    Raises:
        InputError: no table can hold interactions, or a hint names a table or column that does not exist.
    """
    hints = hints or Hints()
    read, wrong = without_contradictions(tables_of(tables, stated))
    known, logs, dropped = _split_logs(read, hints)
    found = references(known)
    chosen, rivals = settle(candidates(known, found, hints), known, hints)
    draft = Draft(known, found, new=logs, findings=[*wrong, *dropped])
    for name, rows_of_log in logs.items():
        draft.find("cleaning", name, "the rows of one kind of event, as a table of their own", rows_of_log.height)
    name = _interactions(draft, chosen)
    node_tables = _node_tables(draft, chosen, name)
    rows = _rows(draft, chosen, name)
    choices = _choices(chosen, rivals, _times(draft, chosen, hints))
    for rival in rivals:
        message = f"could hold the interactions as well as {chosen.table}"
        draft.find("ambiguous", rival.table, message, known[rival.table].rows)
    sides = _sides(draft, chosen, node_tables, rows, hints)
    protocol = choose_protocol(
        rows.select("user", "item", *(c for c in ("time", "rating") if c in rows.columns)).unique(["user", "item"]),
        _no_times(draft, chosen),
    )
    draft.find("protocol", chosen.table, protocol.message)
    _follow(draft, sides, _ends(draft, chosen, sides, rows, protocol.config))
    limit_relations(draft)
    return _proposal(draft, chosen, name, sides, protocol.config, protocol.comments, choices)


def _split_logs(
    tables: dict[str, Table], hints: Hints
) -> tuple[dict[str, Table], dict[str, pl.DataFrame], list[Finding]]:
    """The tables with logs of several behaviours replaced by a table for each, these, and what was left out."""
    logs: dict[str, pl.DataFrame] = {}
    result: dict[str, Table] = {}
    findings = []
    targets = {of for table in tables.values() if table.stated is not None for of in table.stated.foreign.values()}
    for name, table in tables.items():
        parts = {} if name in targets or hints.interactions == name else split_by_event(table)
        logs |= parts
        result |= {part: Table(part, rows, table.stated) for part, rows in parts.items()} or {name: table}
        if parts and (rest := table.rows - sum(part.height for part in parts.values())):
            message = f"{rest:,} of {table.rows:,} rows are of other kinds of events, or of none"
            findings.append(Finding("left out", name, message, rest))
    return result, logs, findings


def _interactions(draft: Draft, chosen: Candidate) -> str:
    """The name of the table with the interactions, which is made if rows have to be joined with their events."""
    frame, name = joined(chosen, draft.tables), chosen.table
    if frame is not None and chosen.via is not None:
        name = free_name(f"{chosen.table}-with-{chosen.via.table}", draft.tables, "-")
        draft.new[name] = frame
        draft.used.add(chosen.via.table)
        draft.events.add(chosen.via.table)
        draft.tables[name] = Table(name, frame)
    draft.used |= {chosen.table, name}
    draft.events |= {chosen.table, name}
    table = draft.tables[name]
    for column in (chosen.user, chosen.item, chosen.time, chosen.rating):
        if column is not None and column not in table.columns:
            raise InputError(
                "column not found", where=name, expected=f"a column {column!r}", found=", ".join(table.columns)
            )
    draft.find("interactions", chosen.table, "; ".join(chosen.reasons), table.rows)
    for column, target in (table.stated.foreign if table.stated is not None else {}).items():
        if column not in (chosen.user, chosen.item):
            message = f"keys of {target}, of which no relation is made: the rows are the interactions"
            draft.find("left out", table[column].where, message)
    return name


def _node_tables(draft: Draft, chosen: Candidate, name: str) -> dict[str, Reference | None]:
    """The references from users and items to their node tables, whose keys the interactions then use."""
    found: dict[str, Reference | None] = {}
    for side, column in (("user", chosen.user), ("item", chosen.item)):
        table = chosen.via.table if chosen.via and side == "user" else chosen.table
        taken = {r.target for r in found.values() if r is not None}
        found[side] = _node_table(draft, draft.tables[table][column], taken)
        if (reference := found[side]) is not None:
            draft.read_keys(reference, name)
        else:
            found[side] = _made_node_table(draft, chosen, name, column, side)
    return found


def _made_node_table(draft: Draft, chosen: Candidate, name: str, column: str, side: str) -> Reference | None:
    """The reference to a node table that is made of the interactions, if these repeat attributes in their rows."""
    event = None if chosen.via is None else chosen.via.column
    used = {chosen.user, chosen.item, chosen.time, chosen.rating, event}
    frame = attributes_in_rows(draft.tables[name], draft.tables[name][column], used)
    if frame is None:
        return None
    made = free_name(f"{name}-{side}s", draft.tables, "-")
    draft.new[made], draft.tables[made] = frame, Table(made, frame)
    draft.references += references(draft.tables, of=made)
    message = f"a row per {side} is made of {', '.join(frame.columns[1:])}, which the interactions repeat"
    draft.find("cleaning", name, message, frame.height)
    return Reference(name, column, made, column, 1.0, 1.0, "same", 2)


def _rows(draft: Draft, chosen: Candidate, name: str) -> pl.DataFrame:
    """The interactions with columns ``user``, ``item``, and if there are any ``time``, ``rating`` and ``event``."""
    table = draft.tables[name]
    rows = {"user": draft.text_of(name, chosen.user), "item": draft.text_of(name, chosen.item)}
    if chosen.via is not None:
        rows["event"] = table[chosen.via.column].text
    time = None if chosen.time is None else table[chosen.time]
    if time is not None and time.times is not None:
        rows["time"] = time.times
        draft.read_times(time)
    if chosen.rating is not None and (numbers := table[chosen.rating].numbers) is not None:
        rows["rating"] = numbers
    return pl.DataFrame(rows).drop_nulls(["user", "item"])


def _times(draft: Draft, chosen: Candidate, hints: Hints) -> tuple[str, ...]:
    """Columns that may be the time of the interactions, the chosen one first; says what they are if it is open."""
    if hints.time is not None:
        return (hints.time,)
    times, of_ends = times_of(chosen, draft.tables)
    for column in of_ends:
        message = "is the same in all rows of a user or an item, so it is not the time of the interactions"
        draft.find("left out", column.where, message, column.n_known)
    for column in times[1:]:
        message = f"could be the time of the interactions as well as {chosen.time}"
        draft.find("ambiguous", column.where, message, column.n_known)
    return tuple(column.name for column in times)


def _no_times(draft: Draft, chosen: Candidate) -> str:
    """Why the interactions have no times: which column may hold them, and what keeps it from being read."""
    _, of_ends = times_of(chosen, draft.tables)
    for name in (chosen.table, *([chosen.via.table] if chosen.via else [])):
        for column in draft.tables[name]:
            if column.name == chosen.time or (chosen.time is None and column.name not in (chosen.user, chosen.item)):
                if (why := column.why_no_times) is not None:
                    return f"the times in {column.name!r} are not used: {why}"
                if column in of_ends:
                    return f"the times in {column.name!r} are the same in all rows of a user or an item"
    return "there are no times"


def _choices(chosen: Candidate, rivals: list[Candidate], times: tuple[str, ...]) -> tuple[Choice, ...]:
    choices = []
    if rivals:
        options = (chosen.table, *(r.table for r in rivals))
        choices.append(Choice("interactions", "Which table holds what is to be predicted?", options))
    if not chosen.sure:
        choices.append(Choice("user", "Which column is the user?", (chosen.user, chosen.item)))
    if len(times) > 1 and not rivals:
        choices.append(Choice("time", "Which column is the time of the interactions?", times))
    return tuple(choices)


def _sides(
    draft: Draft,
    chosen: Candidate,
    node_tables: Mapping[str, Reference | None],
    rows: pl.DataFrame,
    hints: Hints,
) -> dict[str, Side]:
    """Users and items by type, with their node tables."""
    sides: dict[str, Side] = {}
    for side, column, wanted in (("user", chosen.user, hints.user_node), ("item", chosen.item, hints.item_node)):
        reference = node_tables[side]
        made = reference is not None and reference.target in draft.new
        name = wanted or _named(column, None if made else reference, side)
        name = free_name(name, sides)
        target, key = (reference.target, reference.key) if reference is not None else (None, None)
        node = NodeType(name, target, key)
        draft.nodes[name] = node
        other = "item" if side == "user" else "user"
        more = [c for c in ("time", "rating", "event") if c in rows.columns]
        figures = Figures(f"{side}s", rows.select(pl.col(side).alias("key"), pl.col(other).alias("other"), *more))
        sides[name] = Side(name, rows[side].unique(), figures)
        if reference is not None:
            message = f"{reference.key!r} holds {reference.overlap:.0%} of the {side}s of {chosen.table}"
            message += reference.source
            draft.find("nodes", reference.target, f"a row per {name}: {message}", draft.tables[reference.target].rows)
    return sides


def _named(column: str, reference: Reference | None, side: str) -> str:
    """The name of a type of nodes: of its table, or of the column, if they say anything."""
    vocabulary = USER if side == "user" else ITEM
    names = [name for name in (reference and reference.target, column) if name and not is_meaningless(name)]
    for name in names:
        if names_a(name, vocabulary) and (word := type_name(name)):
            return word
    return type_name(names[0]) if names else side


def _node_table(draft: Draft, column: Column, taken: Collection[str | None]) -> Reference | None:
    """The table with a row per node of a column of keys; of several the one with the most to say."""
    found = [r for r in draft.references_of(column.table, column.name) if r.target not in taken]

    def worth(reference: Reference) -> tuple[float, ...]:
        columns = len(draft.tables[reference.target].columns)
        return reference.named, round(reference.strength, 1), columns

    return max(found, key=worth, default=None)


def _ends(
    draft: Draft, chosen: Candidate, sides: dict[str, Side], rows: pl.DataFrame, protocol: Mapping[str, Any]
) -> Ends:
    user, item = sides
    of_user = draft.tables[chosen.via.table if chosen.via else chosen.table][chosen.user]
    keys = {user: of_user, item: draft.tables[chosen.table][chosen.item]}
    timed = chosen.time is not None
    return Ends(user, item, keys, _first_rows(rows), timed, protocol["split"] == "temporal")


def _first_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Each pair of user and item once, with its first time if there are dates."""
    if "time" not in rows.columns:
        return rows.select("user", "item").unique()
    return rows.group_by("user", "item").agg(pl.col("time").min())


def _follow(draft: Draft, sides: dict[str, Side], ends: Ends) -> None:
    """Read node tables and links, and those that they lead to."""
    draft.events |= _stated_events(draft, ends)
    pending = list(draft.nodes.values())
    read: set[str] = set()
    while pending:
        for node in pending:
            _read_node(draft, node, sides, read)
        pending = [n for n in draft.nodes.values() if n.name not in read and n.table is not None]
        if not pending:
            for reference in read_links(draft, ends, list(draft.tables.values())):
                _node_behind(draft, reference, hops=1)
            pending = [n for n in draft.nodes.values() if n.name not in read and n.table is not None]
    for table in draft.tables.values():
        if table.name not in draft.used and not any(f.where.split(".")[0] == table.name for f in draft.findings):
            draft.find("left out", table.name, "no column leads to users, items or their attributes", table.rows)
        for column in table:
            if (value := column.unread_time) is not None:
                draft.find("left out", column.where, f"looks like times, but {value[:60]!r} {UNKNOWN_FORMAT}")


def _stated_events(draft: Draft, ends: Ends) -> set[str]:
    """Tables that state a time, a user and an item: as nodes, their rows would link those after the split, too."""
    of_sides = {draft.nodes[side].table for side in (ends.user, ends.item)} - {None}
    return {
        table.name for table in draft.tables.values()
        if table.stated is not None and table.stated.time is not None and len(of_sides) == 2
        and table.name not in of_sides and of_sides <= {*table.stated.foreign.values()}
    }  # fmt: skip


def _read_node(draft: Draft, node: NodeType, sides: dict[str, Side], read: set[str]) -> None:
    read.add(node.name)
    if node.table is None or node.key is None:
        return
    draft.used.add(node.table)
    draft.config["nodes"].setdefault(node.name, {"file": node.table, "key": node.key})
    stated = draft.tables[node.table].stated
    if stated is not None and stated.key == node.key:
        draft.comments[f"data.nodes.{node.name}"] = f"the key is {node.key!r}{STATED}"
    for reference in read_columns(draft, node, sides):
        target = _node_behind(draft, reference, node.hops + 1)
        if reference.stated and _is_side(node, sides, "items") and _is_side(target, sides, "users"):
            _link_to_user(draft, node, target, reference, "time" in sides[node.name].figures.rows.columns)
            continue
        draft.read_keys(reference)
        column = draft.tables[reference.table][reference.column]
        config = {"kind": "attribute", "node": node.name, "column": reference.column, "target": target.name}
        why = f"keys of {reference.target} in {column.known_share:.0%} of the rows of {reference.table}"
        why += reference.source
        of_column = f"{snake(node.name)}_{snake(reference.column)}"
        name = target.name.replace(" ", "_")
        name = of_column if target is node or target.name in sides or name in draft.config["relations"] else name
        draft.relate(name, config, column.where, why, column.n_distinct)


def _is_side(node: NodeType, sides: Mapping[str, Side], which: str) -> bool:
    return node.name in sides and sides[node.name].figures.side == which


def _link_to_user(draft: Draft, item: NodeType, user: NodeType, reference: Reference, timed: bool) -> None:
    """A link from items to a user of each, such as their author, whose pairs may be held out and are cut then."""
    table = draft.tables[reference.table]
    assert table.stated is not None
    column = table[reference.column]
    config: dict[str, Any] = {"file": table.name, "source": item.name, "source_column": item.key}
    config |= {"target": user.name, "target_column": column.name, "by": column.name}
    if timed and table.stated.time is not None:
        config["time"] = table.stated.time
    if column.known_share < 1.0:
        config["missing"] = "drop"
    if reference.overlap < 1.0:
        config["unknown"] = "drop"
    name = free_name(f"{snake(item.name)}_{snake(column.name)}", draft.config["links"])
    draft.config["links"][name] = config
    draft.comments[f"data.links.{name}"] = f"keys{' and time' if 'time' in config else ''}{STATED}"
    why = f"a {user.name} of each {item.name} in {column.known_share:.0%} of the rows of {table.name}{STATED}"
    draft.relate(name, {"kind": "link", "table": name, "duplicates": "first"}, column.where, why, column.n_distinct)


def _node_behind(draft: Draft, reference: Reference, hops: int) -> NodeType:
    """The node type that a reference leads to."""
    node = draft.type_of(reference.target, reference.key)
    if node is None:
        name = free_name(type_name(reference.target), draft.nodes, " ")
        node = NodeType(name, reference.target, reference.key, hops)
        draft.nodes[name] = node
    return node


def _proposal(
    draft: Draft,
    chosen: Candidate,
    name: str,
    sides: dict[str, Side],
    protocol: dict[str, Any],
    protocol_comments: dict[str, str],
    choices: tuple[Choice, ...],
) -> Proposal:
    user, item = sides
    rows: dict[str, Any] = {"file": name, "user": chosen.user, "item": chosen.item}
    table = draft.tables[name]
    if chosen.rating is not None:
        rows["rating"] = chosen.rating
    if chosen.time is not None:
        rows["time"] = chosen.time
    needed = [c for c in (chosen.user, chosen.item, chosen.rating, chosen.time) if c is not None]
    if any(table[c].known_share < 1.0 for c in needed):
        rows["missing"] = "drop"
    if table.frame.select(pl.struct(chosen.user, chosen.item).is_duplicated().any()).item():
        rows["duplicates"] = "last" if chosen.rating is not None else "first"
    for node in sides.values():
        kind = draft.nodes[node.node]
        if kind.table is not None and kind.key is not None:
            keys = draft.tables[kind.table][kind.key].distinct
            if not bool(node.keys.is_in(keys.implode()).all()):
                rows["unknown"] = "drop"
    data: dict[str, Any] = {"user": user, "item": item}
    if draft.na_words:
        data["na_values"] = [*NA_VALUES, *sorted(draft.na_words)]
    data["interactions"] = rows
    for section in ("nodes", "links", "texts"):
        if draft.config.get(section):
            data[section] = draft.config[section]
    _name_files(draft, data)
    config: dict[str, Any] = {"name": "proposed", "data": data, "protocol": protocol}
    if draft.config["relations"]:
        config["relations"] = draft.config["relations"]
    config["study"] = {"metric": METRIC}
    comments = {f"protocol.{key}": text for key, text in protocol_comments.items()}
    comments["study"] = (
        "The models are the default ones: random, popularity, item-kNN, EASE and sparse EASE, the judge."
    )
    comments |= draft.comments | {"data.interactions": "; ".join(chosen.reasons)}
    return Proposal(config, draft.findings, draft.derived(), comments, choices)


def _name_files(draft: Draft, data: dict[str, Any]) -> None:
    """Name the changed tables where sections of ``[data]`` name the given ones."""
    sections: Iterable[dict[str, Any]] = [
        data["interactions"],
        *data.get("nodes", {}).values(),
        *data.get("links", {}).values(),
        *([data["texts"]] if "texts" in data else []),
    ]
    for section in sections:
        section["file"] = draft.file_of(section["file"])
