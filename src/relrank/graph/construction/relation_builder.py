"""From outside keys to rows of a graph that is still being built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.relation import Relation
from relrank.kernels.csr import Int32
from relrank.tables.files import as_keys
from relrank.tables.ids import IdMap
from relrank.tables.missing import shown, without_missing
from relrank.tables.notices import Notice
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Progress = Callable[[str, int, int], None]
"""Told of long work: what it is, how much of it is done, and how much there is."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, eq=False)
class RelationBuilder:
    """The sources of one relation, how their keys meet, and a place to count what is dropped.

    Attributes:
        relation: name of the relation.
        tables: where the rows are.
        split: which users and items the graph has.
        notices: what was counted so far.
        progress: told of long work.
        title: what people read instead of the name, if anything.
    """

    relation: str
    tables: Tables
    split: Split
    notices: list[Notice] = field(default_factory=list)
    progress: Progress = silent
    title: str | None = None

    def count(self, message: str, number: int | np.integer) -> None:
        """Note rows or nodes that a policy touched."""
        if number:
            self.notices.append(Notice(f"relation {self.title or self.relation!r}", message, int(number)))

    def error(self, what: str, *, expected: str, found: str) -> InputError:
        """The error to raise."""
        return InputError(what, where=f"relation {self.relation!r}", expected=expected, found=found)

    def no_node_table(self, node_type: str) -> InputError:
        """The error to raise where a type has no table."""
        known = self.tables.nodes
        return self.error(
            "no such node table", expected=one_of(known), found=repr(node_type) + did_you_mean(node_type, known)
        )

    def select(self, frame: pl.DataFrame, column: str, where: str) -> pl.Series:
        """A column of a table.

        Raises:
            InputError: there is none.
        """
        if column not in frame.columns:
            found = repr(column) + did_you_mean(column, frame.columns)
            raise self.error("column not found", expected=f"{one_of(frame.columns)} in {where}", found=found)
        return without_missing(frame[column], self.tables.na_values)

    def column(self, node_type: str, column: str) -> tuple[IdMap, pl.Series]:
        """The nodes of a type and their values of a column; null for nodes that the node table does not have.

        Raises:
            InputError: no such node table or column, or the table has none of the graph's nodes.
        """
        table, ids = self.tables.nodes.get(node_type), self.universe(node_type)
        if table is None or ids is None:
            raise self.no_node_table(node_type)
        values = self.select(table.frame, column, f"table {node_type!r}")
        at = IdMap(node_type, table.frame[table.key]).find(ids.keys)
        if (at < 0).all():
            raise self._apart(f"{node_type}.{table.key}", table.frame[table.key], f"{node_type} nodes", ids.keys)
        return ids, values.gather(pl.Series(at).replace(-1, None))

    def rows(self, node_type: str, values: pl.Series, match: str | None, side: str) -> tuple[Int32, IdMap]:
        """Rows for the values of one side of a join, and the keys of the rows.

        Args:
            node_type: type of the nodes.
            values: [n], what the rows of the table say.
            match: column of the type's node table that holds such values; None where they are keys.
            side: name of the values, for messages.

        Returns:
            int32 [n], -1 where the graph can have no such node; and the type's keys in the order of those rows.

        Raises:
            InputError: not one value is there.
        """
        table, ids = self.tables.nodes.get(node_type), self.universe(node_type)
        keys, unknown = values, 0
        if table is not None and match is not None and match != table.key:
            known = self.select(table.frame, match, f"table {node_type!r}")
            given = table.frame.filter(known.is_not_null())
            at = IdMap(f"{node_type}.{match}", given[match]).find(values)
            unknown = int((at < 0).sum())
            if unknown == at.size:
                raise self._apart(f"{node_type}.{match}", known, side, values)
            self.count(f"{side} is in no row of {node_type}.{match}: dropped", unknown)
            keys = given[table.key].gather(pl.Series(at).replace(-1, None))
        if keys.dtype.is_integer():
            keys = as_keys(keys, side)
        if ids is None:
            ids = IdMap.of(node_type, keys)
        rows = ids.find(keys)
        outside = int((rows < 0).sum())
        if outside == rows.size:
            raise self._apart(f"{node_type} nodes", ids.keys, side, keys)
        self.count(f"{side} is missing or no {node_type} of the graph: dropped", outside - unknown)
        return rows, ids

    def admits(self, node_type: str) -> pl.DataType | None:
        """The kind of keys that a type has beforehand; None where any value may be a node."""
        ids = self.universe(node_type)
        return None if ids is None else ids.keys.dtype

    def unresolved(
        self, relation: Relation, source: IdMap, target: IdMap, expected: str, texts: pl.Series | None = None
    ) -> UnresolvedRelation:
        """What the builder hands over.

        Raises:
            InputError: the relation has no edges; the message says what became of the rows.
        """
        if not len(relation):
            found = "; ".join(["none", *(f"{notice.message} ({notice.count:,})" for notice in self.notices)])
            raise self.error("relation ends without edges", expected=expected, found=found)
        return UnresolvedRelation(self, relation, source, target, texts)

    def universe(self, node_type: str) -> IdMap | None:
        """The keys that a type may have: the split's, or its node table's; None where any value is a node."""
        if node_type == self.tables.user:
            return self.split.users
        if node_type == self.tables.item:
            return self.split.items
        table = self.tables.nodes.get(node_type)
        return (
            None
            if table is None
            else IdMap.of(node_type, self.select(table.frame, table.key, f"table {node_type!r}"))
        )

    def _apart(self, left: str, known: pl.Series, right: str, values: pl.Series) -> InputError:
        """Two sides of a join have no value in common."""
        found = f"{right}: {examples(values)}; none of {len(values):,} is there"
        return self.error("join is empty", expected=f"{left}: {examples(known)}", found=found)


@dataclass(frozen=True, slots=True, eq=False)
class UnresolvedRelation:
    """A relation over its own row indices: rows of the graph are not known before every relation has its edges.

    Attributes:
        join: where it came from.
        relation: the edges.
        source: keys of ``relation.src``; those without an edge do not become nodes.
        target: keys of ``relation.dst``, likewise.
        texts: of the target's nodes, one each, where they are texts.
    """

    join: RelationBuilder
    relation: Relation
    source: IdMap
    target: IdMap
    texts: pl.Series | None = None

    def resolve(self, nodes: dict[str, IdMap]) -> Relation:
        """The relation over the rows of the graph's node types."""
        r = self.relation
        src, dst = nodes[r.source].find(self.source.keys)[r.src], nodes[r.target].find(self.target.keys)[r.dst]
        return Relation.of(r.name, r.source, r.target, src, dst, r.weight)


def occurring(drafts: Iterable[UnresolvedRelation], known: tuple[str, str]) -> dict[str, IdMap]:
    """Keys of every type but the ``known``: the values that occur in an edge of some relation, ascending.

    Raises:
        InputError: two relations disagree about the kind of a type's keys.
    """
    seen: dict[str, list[pl.Series]] = {}
    for unresolved in drafts:
        r = unresolved.relation
        for end, ids, rows in ((r.source, unresolved.source, r.src), (r.target, unresolved.target, r.dst)):
            if end in known:
                continue
            parts, keys = seen.setdefault(end, []), ids.at(np.unique(rows))
            if parts and parts[0].dtype != keys.dtype:
                expected = f"{examples(parts[0])}, as in a relation before, or another target type"
                raise unresolved.join.error(f"{end!r} has keys of two kinds", expected=expected, found=examples(keys))
            parts.append(keys)
    return {end: IdMap.of(end, pl.concat(parts)) for end, parts in seen.items()}


def examples(values: pl.Series) -> str:
    """What a column holds, for messages."""
    there = values.drop_nulls().head(3)
    few = ", ".join(shown(there, row) for row in range(len(there)))
    return f"{values.dtype} values such as {few}" if few else f"{values.dtype} values, all missing"
