"""A study file as it is being put together."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from relrank.discovery.columns import Column, Table
from relrank.discovery.proposal import Finding, FindingKind
from relrank.discovery.references import Reference, fold
from relrank.discovery.vocabulary import IDS, singular, words_of

PREPARED = "prepared"
"""Ends the name of a table whose values were changed."""


@dataclass(frozen=True, slots=True)
class NodeType:
    """A type of nodes.

    Attributes:
        name: of the type.
        table: with a row per node, if any.
        key: its column of keys.
        hops: relations between it and items or users.
    """

    name: str
    table: str | None
    key: str | None
    hops: int = 0


@dataclass(slots=True, eq=False)
class Draft:
    """The parts of a study file that were found so far.

    Attributes:
        tables: the given tables.
        references: between them.
        nodes: node types by name.
        config: sections ``nodes``, ``links``, ``relations``, and ``texts`` if there are any.
        findings: in the order in which they were made.
        comments: by dotted key.
        changed: columns that replace those of a table, or are added to it, by table.
        new: tables that are derived as a whole.
        used: tables whose rows the study uses.
        judged: further tables that links were looked for in.
        na_words: further words for missing values.
        events: tables of interactions and of other events, whose rows are no nodes.
    """

    tables: dict[str, Table]
    references: list[Reference]
    nodes: dict[str, NodeType] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=lambda: {"nodes": {}, "links": {}, "relations": {}})
    findings: list[Finding] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    changed: dict[str, dict[str, pl.Series]] = field(default_factory=dict)
    new: dict[str, pl.DataFrame] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    na_words: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)

    def find(self, kind: FindingKind, where: str, message: str, count: int = 0) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, where, message, int(count)))

    def change(self, table: str, values: pl.Series) -> None:
        """Replace or add a column of a table."""
        self.changed.setdefault(table, {})[values.name] = values

    def read_times(self, column: Column) -> None:
        """Replace dates that a study file cannot read as they are written."""
        if column.times is not None and not column.times_are_plain:
            self.change(column.table, column.times.alias(column.name))
            self.find("cleaning", column.where, "its times are rewritten as a study file reads them", column.n_known)
            if column.days_may_be_months:
                self.find("ambiguous", column.where, "read as month/day/year, and could be day/month/year")

    def read_keys(self, reference: Reference, table: str | None = None) -> None:
        """Replace keys that match those of another table but for case, spaces and leading zeros.

        Args:
            reference: from the keys to the other table.
            table: in which they are replaced, if it is not that of the reference.
        """
        if reference.form == "same":
            return
        table, column = table or reference.table, reference.column
        mine, other = self.tables[table][column], self.tables[reference.target][reference.key]
        of = pl.DataFrame({"fold": fold(other.distinct), "key": other.distinct}).unique("fold", keep="none")
        values = pl.DataFrame({"own": mine.text, "fold": fold(mine.text)}).join(
            of, on="fold", how="left", maintain_order="left"
        )
        same = mine.text.is_in(other.distinct.implode())
        spelled = values.select(pl.when(~pl.Series(same)).then(pl.coalesce("key", "own")).otherwise("own"))
        read = spelled.to_series().alias(column)
        changed = int((read != mine.text).sum())
        if changed:
            self.change(table, read)
            message = f"keys that match {other.where} but for case, spaces or zeros are read as those"
            self.find("cleaning", mine.where, message, changed)

    def text_of(self, table: str, column: str) -> pl.Series:
        """The values of a column as text, as the study will read them."""
        changed = self.changed.get(table, {}).get(column)
        return self.tables[table][column].text if changed is None else changed.cast(pl.String)

    def relate(self, name: str, config: dict[str, Any], where: str, why: str, count: int = 0) -> str:
        """Add a relation under a name that is free; returns the name."""
        name = free_name(name, self.config["relations"])
        titles = {relation["title"] for relation in self.config["relations"].values()}
        self.config["relations"][name] = {"title": free_name(title_of(name), titles, " "), **config}
        self.comments[f"relations.{name}"] = why
        self.find("relation", where, f"{name}: {why}", count)
        return name

    def target(self, wanted: str) -> str:
        """A name for a type of values that no node type and no other relation has."""
        taken = {r.get("target") or r.get("column") for r in self.config["relations"].values()} | self.nodes.keys()
        taken |= {end for link in self.config["links"].values() for end in (link["source"], link["target"])}
        return free_name(wanted, taken, " ")

    def references_of(self, table: str, column: str) -> list[Reference]:
        """The references of a column to tables whose rows may be nodes, the strongest first."""
        found = [r for r in self.references if (r.table, r.column) == (table, column) and r.target not in self.events]
        return sorted(found, key=lambda r: -r.strength)

    def type_of(self, table: str, key: str | None = None) -> NodeType | None:
        """The node type of a table."""
        return next((n for n in self.nodes.values() if n.table == table and key in (None, n.key)), None)

    def derived(self) -> dict[str, pl.DataFrame]:
        """The tables that the study needs beside the given ones, by the name under which ``file_of`` finds them."""
        changed = {
            f"{name}-{PREPARED}": self.tables[name].frame.with_columns(*columns.values())
            for name, columns in self.changed.items()
            if name in self.used
        }
        return changed | self.new

    def file_of(self, table: str) -> str:
        """The name under which the study file reads a table."""
        return f"{table}-{PREPARED}" if table in self.changed else table


def free_name(wanted: str, taken: Collection[str | None], joint: str = "_") -> str:
    """The name, with a number if it is taken."""
    name, n = wanted, 2
    while name in taken:
        name, n = f"{wanted}{joint}{n}", n + 1
    return name


def snake(name: str) -> str:
    """A name in lower case with underscores, without words such as id."""
    words = [word for word in words_of(name) if word not in IDS] or list(words_of(name))
    return "_".join(words) or "column"


def title_of(name: str) -> str:
    """A name for people."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def type_name(name: str) -> str:
    """The name of a node type after a table or column: ``products`` and ``product_id`` are of the type product."""
    words = [
        word for word in words_of(name) if word not in IDS and word not in ("dim", "tbl", "table", "master", "csv")
    ]
    words = [re.sub(r"(?<=[a-z]{3})(id|nr|nummer)$", "", word) for word in words]
    words = [word for word in words if len(word) > 1] or words
    return " ".join([*words[:-1], singular(words[-1])]) if words else name.strip() or "node"
