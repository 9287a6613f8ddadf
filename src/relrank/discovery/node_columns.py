"""What to do with the columns of a node table: relations, titles, texts, or why they are left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import polars as pl

from relrank.discovery.columns import MORE_MISSING, Column, Table
from relrank.discovery.draft import Draft, NodeType, free_name, snake, type_name
from relrank.discovery.leaks import Figures, sounds_computed
from relrank.discovery.naming import Names
from relrank.discovery.one_hot import FLAGS, blocks_of
from relrank.discovery.references import ALIKE, Reference
from relrank.discovery.tastes import Tastes
from relrank.discovery.values import list_separator, path_mark, spellings
from relrank.discovery.vocabulary import (
    BIRTH,
    IDENTIFIERS,
    IDS,
    MEASURES,
    NOTES,
    PARENTS,
    PRIVATE,
    RATING,
    RELATED,
    STOCK,
    TITLES,
    names_a,
    words_of,
)

CONSTANT = 0.98
"""Share of the most frequent value from which a column says nothing."""
SHARED = 0.4
"""Share of the nodes that have their value in common with another one, at least."""
FEWEST_VALUES = 0.02
"""Share of the nodes that have a value, at least."""
FEW_NUMBERS = 12
"""Different whole numbers up to which they are values of their own instead of bins."""
BINS = 8
FEWEST_YEARS = 6
"""Different years of a column of dates, at least, for bins of years."""
TITLE_WORDS = 12
TITLE_OF_WORDS = 3.0
"""Mean number of words from which on titles are texts that may be similar."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Users or items.

    Attributes:
        node: their type.
        keys: of the interactions, as text.
        figures: what can be computed from the interactions.
    """

    node: str
    keys: pl.Series
    figures: Figures


def read_columns(draft: Draft, node: NodeType, sides: dict[str, Side]) -> list[Reference]:
    """Add what the columns of a node table hold; returns the references to tables of further nodes.

    Args:
        draft: is added to.
        node: a type with a table.
        sides: users and items, by type.
    """
    assert node.table is not None
    table = draft.tables[node.table]
    key = table[node.key or ""]
    further, texts = [], []
    title = _title(table, node, sides)
    tastes = _tastes(draft, sides) if _is_user(node, sides) else None
    names = _names(draft, node, sides)
    flags = _flag_columns(draft, node, table, sides, tastes, names)
    for column in table:
        if column.name == node.key or column.name in flags:
            continue
        draft.na_words.update(_odd_words(column))
        if (why := _useless(column)) is not None:
            draft.find("left out", column.where, why)
        elif (leak := _leak(column, key, node, sides) or _taste(column, key, tastes, names)) is not None:
            draft.find("leak", column.where, leak, column.n_known)
        elif (reference := _reference(draft, column, node) or _to_itself(column, key)) is not None:
            further.append(reference)
        elif column.role == "key":
            draft.find("left out", column.where, "holds keys of a table whose rows are no nodes", column.n_known)
        elif column.name == title:
            draft.config["nodes"][node.name]["title"] = title
            if column.kind == "text" or column.words >= 2:
                texts.append(column)
        elif column.kind == "text" and node.name in sides and _is_prose(column):
            texts.append(column)
        else:
            _values(draft, node, column, is_user=_is_user(node, sides))
    if node.name in sides and not _is_user(node, sides):
        _texts(draft, node, texts)
    return further


def _flag_columns(
    draft: Draft, node: NodeType, table: Table, sides: dict[str, Side], tastes: Tastes | None, names: Names | None
) -> set[str]:
    """Add blocks of columns of 0 and 1 as one relation each; returns the names of the columns."""
    key = table[node.key or ""]
    left = [c for c in table if c is not key and _leak(c, key, node, sides) is None]
    used: set[str] = set()
    for block in blocks_of(table, left):
        if block.name == FLAGS and node.name not in sides:
            continue
        used |= {*block.columns}
        n, ends = len(block.columns), f"{block.columns[0]} to {block.columns[-1]}"
        if (leak := _taste(block.lists, key, tastes, names)) is not None:
            draft.find("leak", f"{table.name}.{block.columns[0]}", f"{n} columns of 0 and 1, {ends}: {leak}", n)
            continue
        draft.change(table.name, block.lists.values)
        draft.find("cleaning", table.name, f"{n} columns of 0 and 1, {ends}, are read as lists", n)
        target = draft.target("flag" if block.name == FLAGS else type_name(block.name))
        config = {"kind": "attribute", "node": node.name, "column": block.lists.name, "target": target}
        name = f"{snake(node.name)}_{block.name}" if _is_user(node, sides) and block.name != FLAGS else block.name
        draft.relate(name, config, table.name, f"which of {n} columns of 0 and 1 hold 1", n)
    return used


def _is_prose(column: Column) -> bool:
    """Whether a column of text holds what describes an item, and neither lists nor remarks."""
    return list_separator(column) is None and path_mark(column) is None and not names_a(column.name, NOTES)


def _is_user(node: NodeType, sides: dict[str, Side]) -> bool:
    return node.name in sides and sides[node.name].figures.side == "users"


def _odd_words(column: Column) -> Iterator[str]:
    """Words for missing values of a column that study files do not know."""
    if column.raw.dtype == pl.String and column.kind != "text":
        stripped = column.raw.str.strip_chars()
        yield from (w for w in MORE_MISSING if bool((stripped == w).any()))


def _title(table: Table, node: NodeType, sides: dict[str, Side]) -> str | None:
    """The column to display nodes by; users have none, since names identify people."""
    if _is_user(node, sides):
        return None
    named = [c for c in table if c.name != node.key and names_a(c.name, TITLES) and c.kind in ("value", "text")]
    named = [c for c in named if c.words <= TITLE_WORDS and c.n_distinct > 0.5 * c.n_known and c.known_share > 0.5]
    if named:
        return max(named, key=lambda c: (c.n_distinct, -len(words_of(c.name)))).name
    others = [
        c for c in table
        if c.name != node.key and c.kind == "value" and c.role is None
        and not c.may_be_key_of_letters and c.n_distinct > 0.8 * c.n_known
    ]  # fmt: skip
    return max(others, key=lambda c: c.n_distinct).name if others else None


def _useless(column: Column) -> str | None:
    """Why a column says nothing; None if it may."""
    if column.kind == "empty":
        return "has no values"
    if column.kind == "other":
        return f"holds {column.values.dtype}"
    if column.known_share < FEWEST_VALUES:
        return f"only {column.n_known:,} of {len(column.values):,} rows have a value"
    if column.kind != "list" and column.top_share >= CONSTANT:
        return f"{column.top_share:.0%} of the values are {column.counts['value'][0]!r}"
    if column.role == "key":
        return None
    if column.is_row_number:
        return "numbers the rows"
    if names_a(column.name, IDENTIFIERS) and column.shared_share < SHARED:
        return "an identifier of another catalogue"
    if column.may_be_key and column.is_whole and column.is_unique and not names_a(column.name, MEASURES):
        return "another identifier"
    if column.kind in ("url", "email"):
        return f"holds {'addresses of pages' if column.kind == 'url' else 'e-mail addresses'}"
    if names_a(column.name, PRIVATE):
        return "identifies people"
    return None


def _leak(column: Column, key: Column, node: NodeType, sides: dict[str, Side]) -> str | None:
    """Why a column seems to be computed from interactions; None if it does not."""
    side = sides.get(node.name)
    if (
        side is not None
        and column.role != "key"
        and (figure := side.figures.computed_as(column, key.text)) is not None
    ):
        return f"is the {figure} of the interactions, held-out ones included"
    if column.kind in ("number", "time", "flag") and sounds_computed(column.name):
        return "sounds like a figure of interactions: it may contain held-out ones"
    if side is None or side.figures.side != "items":
        return None
    if column.kind == "number" and names_a(column.name, STOCK):
        return "what is left in stock depends on what was sold, held-out interactions included"
    if column.kind == "number" and all(word in RATING for word in words_of(column.name)):
        return "sounds like the mean rating of the interactions, held-out ones included"
    return None


def _tastes(draft: Draft, sides: dict[str, Side]) -> Tastes:
    users = next(side for side in sides.values() if side.figures.side == "users")
    item = next(side.node for side in sides.values() if side.figures.side == "items")
    return Tastes(draft, item, users.figures.rows)


def _names(draft: Draft, node: NodeType, sides: dict[str, Side]) -> Names | None:
    """What the other side's nodes are called, if a node is of a side."""
    if node.name not in sides:
        return None
    other = next(side.node for side in sides.values() if side.node != node.name)
    return Names(draft, other, sides[node.name].figures.rows)


def _taste(column: Column, key: Column, tastes: Tastes | None, names: Names | None) -> str | None:
    """Why a column seems to be computed from what users chose; None if it does not."""
    if names is None:
        return None
    if tastes is not None and (taste := tastes.computed_as(column, key.text)) is not None:
        return f"is the {taste} of each user's interactions, held-out ones included"
    if (by := names.chosen_in(column, key.text)) is not None:
        whom = "items that each user chose" if tastes is not None else "users who chose each item"
        return f"names {whom} ({by}), held-out interactions included"
    if tastes is None:
        named = column.role is None and names.named_in(column, key.text)
        return "names users, who may be those of held-out interactions" if named else None
    if column.kind in ("value", "list", "text") and tastes.sounds_chosen(column.name):
        return "sounds like what users chose: it may be computed from held-out interactions"
    return None


def _all_parts(column: Column) -> pl.Series:
    """The values of all cells, where cells may hold several."""
    if column.kind == "list":
        lists = column.json_lists if column.json_lists is not None else column.values
        parts = lists.drop_nulls().explode(empty_as_null=True, keep_nulls=True).drop_nulls()
        return parts.cast(pl.String) if not parts.dtype.is_nested() else pl.Series([], dtype=pl.String)
    return _parts(column, list_separator(column) if column.kind in ("value", "text") else None)


def _reference(draft: Draft, column: Column, node: NodeType) -> Reference | None:
    """The table that a column refers to, if its rows may be nodes."""
    for reference in draft.references_of(column.table, column.name):
        target = draft.tables[reference.target]
        if not reference.stated and (draft.type_of(target.name) is node or column.is_unique):
            continue
        return reference
    return None


def _to_itself(column: Column, key: Column) -> Reference | None:
    """The reference to the keys of the same table, such as that of a category to the one above it."""
    if not (names_a(column.name, PARENTS) and column.may_be_key and column.is_whole == key.is_whole):
        return None
    overlap = float(column.distinct.is_in(key.distinct.implode()).mean() or 0)  # type: ignore[arg-type]
    if overlap < ALIKE:
        return None
    share = column.n_distinct / key.n_distinct
    return Reference(column.table, column.name, key.table, key.name, overlap, share, "same", 2)


def _values(draft: Draft, node: NodeType, column: Column, is_user: bool) -> None:
    """A relation to the values of a column, if nodes share them."""
    table = draft.tables[column.table]
    name = snake(column.name) if not is_user else f"{snake(node.name)}_{snake(column.name)}"
    if column.kind == "time":
        _year(draft, node, column, name, is_user)
        return
    config: dict[str, Any] = {"kind": "attribute", "node": node.name, "column": column.name}
    if node.key is not None and column.kind in ("list", "value", "text") and _names_own_kind(column, table[node.key]):
        _alike(draft, node, column, config, name)
        return
    if column.kind == "list":
        _list(draft, column, config, name)
        return
    if column.kind == "number" and not _is_code(column):
        _number(draft, column, config, name)
        return
    separator = None
    if (mark := path_mark(column)) is not None:
        config["levels"], what = mark, f"paths with {mark!r} between their levels"
    elif (separator := list_separator(column)) is not None:
        config["separator"], what = separator, f"lists with {separator!r} between their values"
    elif column.kind == "text":
        draft.find("left out", column.where, f"prose of {column.words:.0f} words on average")
        return
    else:
        what = "values"
    parts = _parts(column, separator)
    if mark is None and _shared(parts) < SHARED:
        why = f"{parts.n_unique():,} different values, of which {table.rows:,} rows share few"
        draft.find("left out", column.where, why, parts.n_unique())
        return
    if (several := spellings(parts)) > 0:
        config["ignore_case"] = True
        draft.find("cleaning", column.where, "values that differ in case or spaces alone are merged", several)
    config["target"] = draft.target(type_name(column.name))
    why = f"{parts.n_unique():,} {what} in {column.known_share:.0%} of the rows of {column.table}"
    draft.relate(name, config, column.where, why, parts.n_unique())


def _names_own_kind(column: Column, key: Column) -> bool:
    """Whether cells hold keys of the same table, as lists of similar items do."""
    parts = _all_parts(column)
    if parts.n_unique() < 3 or bool(parts.head(1000).str.contains(r"^\d$").all()):
        return False
    return float(parts.unique().is_in(key.distinct.implode()).mean() or 0) >= ALIKE  # type: ignore[arg-type]


def _alike(draft: Draft, node: NodeType, column: Column, config: dict[str, Any], name: str) -> None:
    """A relation to the nodes of the same type that a column names, unless it tells what users chose together."""
    if names_a(column.name, RELATED):
        message = f"names {node.name} nodes that were chosen together, in held-out interactions, too"
        draft.find("leak", column.where, message, column.n_known)
        return
    if column.json_lists is not None:
        draft.change(column.table, column.json_lists)
    elif column.kind != "list" and (separator := list_separator(column)) is not None:
        config["separator"] = separator
    why = f"other {node.name} nodes that {column.known_share:.0%} of the rows of {column.table} name"
    draft.relate(name, config | {"target": node.name}, column.where, why, column.n_known)


def _year(draft: Draft, node: NodeType, column: Column, name: str, is_user: bool) -> None:
    """Bins of the years of a column of dates, such as those of publication, if they are far apart."""
    assert column.times is not None
    years = column.times.dt.year()
    of_people = is_user and not names_a(column.name, BIRTH)
    if of_people or years.drop_nulls().n_unique() < FEWEST_YEARS:
        draft.find("left out", column.where, "dates that are close together, or of people")
        return
    made = free_name(f"{column.name}_year", draft.tables[column.table].columns)
    draft.change(column.table, years.alias(made))
    config = {"kind": "bins", "node": node.name, "column": made, "quantiles": BINS}
    known = years.drop_nulls().to_list()
    why = f"years from {min(known)} to {max(known)}, in {BINS} bins of equal size"
    draft.relate(
        f"{name}_year", config | {"target": draft.target(f"{type_name(column.name)} year")}, column.where, why
    )


def _is_code(column: Column) -> bool:
    """Whether numbers are names of something, or so few that each is a value."""
    if not column.is_whole:
        return False
    named = any(word in IDS for word in words_of(column.name)) and not names_a(column.name, MEASURES)
    return named or column.n_distinct <= FEW_NUMBERS


def _parts(column: Column, separator: str | None) -> pl.Series:
    """The values of all cells."""
    known = column.text.drop_nulls()
    if separator is None:
        return known
    parts = known.str.split(separator).explode(empty_as_null=True, keep_nulls=True).str.strip_chars().drop_nulls()
    return parts.filter(parts != "")


def _shared(parts: pl.Series) -> float:
    """Share of the values that occur more than once."""
    counts = parts.value_counts(name="n")["n"]
    return 1.0 - float((counts == 1).sum()) / max(1, len(parts))


def _number(draft: Draft, column: Column, config: dict[str, Any], name: str) -> None:
    """Bins of a column of numbers."""
    if column.is_whole and column.is_unique and any(word in IDS for word in words_of(column.name)):
        draft.find("left out", column.where, "another identifier", column.n_distinct)
        return
    if not column.numbers_are_plain and column.numbers is not None:
        draft.change(column.table, column.numbers.alias(column.name))
        draft.find("cleaning", column.where, "numbers in a local notation are read as numbers", column.n_known)
    config |= {"kind": "bins", "quantiles": BINS, "target": draft.target(f"{type_name(column.name)} bin")}
    low, high = _range(column)
    why = f"numbers from {low:g} to {high:g}, in {BINS} bins of equal size"
    draft.relate(name, config, column.where, why, column.n_known)


def _range(column: Column) -> tuple[float, float]:
    """The smallest and the largest number."""
    known: list[float] = [] if column.numbers is None else column.numbers.drop_nulls().to_list()
    return min(known, default=0.0), max(known, default=0.0)


def _list(draft: Draft, column: Column, config: dict[str, Any], name: str) -> None:
    """Values of a column of lists; lists that are written as text become lists."""
    lists = column.json_lists if column.json_lists is not None else column.values
    if column.json_lists is not None:
        draft.change(column.table, lists)
        draft.find("cleaning", column.where, "lists in JSON are read as lists", column.n_known)
    parts = lists.drop_nulls().explode(empty_as_null=True, keep_nulls=True).drop_nulls()
    if parts.dtype.is_nested() or parts.dtype.is_float() or _shared(parts) < SHARED:
        draft.find("left out", column.where, "lists of numbers, or of values that few rows share")
        return
    config["target"] = draft.target(type_name(column.name))
    why = f"lists of {parts.n_unique():,} values in {column.known_share:.0%} of the rows of {column.table}"
    draft.relate(name, config, column.where, why, parts.n_unique())


def _texts(draft: Draft, node: NodeType, texts: list[Column]) -> None:
    """A relation between items with similar texts."""
    columns = [c for c in texts if c.raw.dtype == pl.String]
    if not any(c.kind == "text" or c.words >= TITLE_OF_WORDS for c in columns):
        return
    config = {"kind": "text", "node": node.name, "columns": [c.name for c in columns]}
    words = sum(c.words for c in columns)
    why = f"{node.name} nodes with similar words, of about {words:.0f} each"
    draft.relate("similar_text", config, ", ".join(c.where for c in columns), why)
