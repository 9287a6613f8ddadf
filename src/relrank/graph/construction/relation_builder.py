"""From keys of tables to rows of a graph that is still being built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.graph.construction.context import BuildContext, examples
from relrank.graph.relation import Relation
from relrank.kernels.csr import Int32
from relrank.tables.files import as_keys
from relrank.tables.ids import IdMap
from relrank.tables.missing import without_missing


@dataclass(frozen=True, slots=True, eq=False)
class RelationBuilder(BuildContext):
    """Joins the tables of one relation.

    Attributes:
        title: shown instead of the name, if given.
    """

    title: str | None = None

    @property
    def where(self) -> str:
        """As in ``BuildContext``."""
        return f"relation {self.name!r}"

    @property
    def label(self) -> str:
        """As in ``BuildContext``."""
        return f"relation {self.title or self.name!r}"

    def select(self, frame: pl.DataFrame, column: str, where: str) -> pl.Series:
        """A column of a table.

        Raises:
            InputError: the table does not have it.
        """
        if column not in frame.columns:
            raise self.unknown("column not found", column, frame.columns, f" in {where}")
        return without_missing(frame[column], self.tables.na_values)

    def column(self, node_type: str, column: str) -> tuple[IdMap, pl.Series]:
        """The nodes of a type and their values of a column; null for nodes that are not in the node table.

        Raises:
            InputError: there is no such node table or column, or the table has none of the graph's nodes.
        """
        table, ids = self.tables.nodes.get(node_type), self.universe(node_type)
        if table is None or ids is None:
            raise self.unknown("no such node table", node_type, self.tables.nodes)
        values = self.select(table.frame, column, f"table {node_type!r}")
        at = IdMap(node_type, table.frame[table.key]).find(ids.keys)
        if (at < 0).all():
            raise self._apart(f"{node_type}.{table.key}", table.frame[table.key], f"{node_type} nodes", ids.keys)
        return ids, values.gather(pl.Series(at).replace(-1, None))

    def rows(self, node_type: str, values: pl.Series, match: str | None, side: str) -> tuple[Int32, IdMap]:
        """Row indices for the values of one side of a join, and the keys of these rows.

        Args:
            node_type: type of the nodes.
            values: [n], of the table.
            match: column of the type's node table with such values; None if they are keys.
            side: name of the values, for messages.

        Returns:
            int32 [n], -1 where the graph has no such node; and the type's keys in the order of the rows.

        Raises:
            InputError: no value has a node.
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
        """The data type of a node type's keys; None where any value may be a node."""
        ids = self.universe(node_type)
        return None if ids is None else ids.keys.dtype

    def unresolved(
        self, relation: Relation, source: IdMap, target: IdMap, expected: str, texts: pl.Series | None = None
    ) -> UnresolvedRelation:
        """The finished relation, before its rows are resolved.

        Raises:
            InputError: the relation has no edges; the message lists what was dropped.
        """
        if not len(relation):
            found = "; ".join(["none", *(f"{notice.message} ({notice.count:,})" for notice in self.notices)])
            raise self.error("relation ends without edges", expected=expected, found=found)
        return UnresolvedRelation(self, relation, source, target, texts)

    def universe(self, node_type: str) -> IdMap | None:
        """The keys of the split or of the type's node table; None where any value is a node."""
        if node_type == self.tables.user:
            return self.split.users
        if node_type == self.tables.item:
            return self.split.items
        if (table := self.tables.nodes.get(node_type)) is None:
            return None
        return IdMap.of(node_type, self.select(table.frame, table.key, f"table {node_type!r}"))

    def _apart(self, left: str, known: pl.Series, right: str, values: pl.Series) -> InputError:
        """The error for two sides of a join without a common value."""
        found = f"{right}: {examples(values)}; none of {len(values):,} matches"
        return self.error("join is empty", expected=f"{left}: {examples(known)}", found=found)


@dataclass(frozen=True, slots=True, eq=False)
class UnresolvedRelation:
    """A relation over its own row indices, before the rows of the graph are known.

    Attributes:
        builder: the builder that made it.
        relation: the edges.
        source: keys of ``relation.src``; keys without an edge do not become nodes.
        target: keys of ``relation.dst``, likewise.
        texts: the texts of the target's nodes, if these are texts.
    """

    builder: RelationBuilder
    relation: Relation
    source: IdMap
    target: IdMap
    texts: pl.Series | None = None

    def resolve(self, nodes: dict[str, IdMap]) -> Relation:
        """The relation over the rows of the graph's node types."""
        r = self.relation
        src, dst = nodes[r.source].find(self.source.keys)[r.src], nodes[r.target].find(self.target.keys)[r.dst]
        return Relation.of(r.name, r.source, r.target, src, dst, r.weight)


def occurring(relations: Iterable[UnresolvedRelation], known: tuple[str, str]) -> dict[str, IdMap]:
    """Keys of every type but the ``known`` ones: the values that occur in an edge of a relation, ascending.

    Raises:
        InputError: two relations have different data types of a type's keys.
    """
    seen: dict[str, list[pl.Series]] = {}
    for unresolved in relations:
        r = unresolved.relation
        for end, ids, rows in ((r.source, unresolved.source, r.src), (r.target, unresolved.target, r.dst)):
            if end in known:
                continue
            parts, keys = seen.setdefault(end, []), ids.at(np.unique(rows))
            if parts and parts[0].dtype != keys.dtype:
                expected = f"{examples(parts[0])}, as in a relation before, or another target type"
                raise unresolved.builder.error(
                    f"{end!r} has keys of two kinds", expected=expected, found=examples(keys)
                )
            parts.append(keys)
    return {end: IdMap.of(end, pl.concat(parts)) for end, parts in seen.items()}
