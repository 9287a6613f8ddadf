"""Rows of the text table for a graph: the texts of a kind, and all texts of a node as one."""

from __future__ import annotations

import polars as pl

from relrank.errors import did_you_mean, one_of
from relrank.graph.construction.columns import BuildContext
from relrank.graph.construction.relation_builder import examples
from relrank.tables.missing import without_missing
from relrank.tables.tables import TextTable


def texts_of_kind(reader: BuildContext, kind: str) -> tuple[TextTable, pl.DataFrame]:
    """The text table, and ``key`` and ``text`` (stripped) of the rows of a kind that say anything, in their order.

    Raises:
        InputError: there is no text table, it has no such kind, or every text of that kind is blank.
    """
    table = reader.tables.texts
    if table is None:
        raise reader.error("data have no texts", expected="[data.texts], or a data set with texts", found="none")
    if kind not in table.kinds:
        found = repr(kind) + did_you_mean(kind, table.kinds)
        raise reader.error("no texts of this kind", expected=one_of(table.kinds), found=found)
    rows = table.frame.filter(pl.col("kind") == kind).select("key", "text")
    if rows["text"].dtype != pl.String:
        found = f"text: {examples(rows['text'])}"
        raise reader.error("column is not text", expected="text", found=found)
    text = without_missing(rows["text"], reader.tables.na_values).str.strip_chars()
    said = rows.with_columns(text).filter(text.is_not_null())
    reader.count(f"{kind} rows without a text: dropped", len(rows) - len(said))
    if said.is_empty():
        found = f"all {len(rows):,} blank"
        raise reader.error(f"no text of kind {kind!r} says anything", expected="a text in some rows", found=found)
    return table, said


def joined_texts(reader: BuildContext, node_type: str, kind: str, keys: pl.Series) -> pl.Series:
    """All texts of a kind of each node as one, joined by a space in the table's order; null where there are none.

    Args:
        reader: for errors and counts.
        node_type: the type whose texts they must be.
        kind: of the texts.
        keys: [n], the nodes.

    Raises:
        InputError: the texts are of another type, or of none of the nodes; or as ``texts_of_kind``.
    """
    table, said = texts_of_kind(reader, kind)
    if table.node != node_type:
        raise reader.error("texts of another type", expected=f"node = {table.node!r}", found=node_type)
    one = said.group_by("key", maintain_order=True).agg(pl.col("text").str.join(" "))
    nodes = pl.DataFrame({"key": keys})
    if one["key"].dtype != keys.dtype or not keys.is_in(one["key"].implode()).any():
        expected = f"keys such as {', '.join(map(repr, keys.head(3)))}"
        found = f"texts of {', '.join(map(repr, one['key'].head(3)))}"
        raise reader.error("join is empty", expected=expected, found=found)
    return nodes.join(one, on="key", how="left", maintain_order="left")["text"]
