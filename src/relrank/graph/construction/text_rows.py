"""Rows of the text table: the texts of a kind, and all texts of a node joined."""

from __future__ import annotations

import polars as pl

from relrank.graph.construction.context import BuildContext, examples
from relrank.tables.missing import without_missing
from relrank.tables.tables import TextTable


def texts_of_kind(context: BuildContext, kind: str) -> tuple[TextTable, pl.DataFrame]:
    """The text table, and ``key`` and ``text`` (stripped) of its rows of a kind that are not blank, in their order.

    Raises:
        InputError: there is no text table, it has no such kind, or every text of that kind is blank.
    """
    table = context.tables.texts
    if table is None:
        raise context.error("data have no texts", expected="[data.texts], or a data set with texts", found="none")
    if kind not in table.kinds:
        raise context.unknown("no texts of this kind", kind, table.kinds)
    rows = table.frame.filter(pl.col("kind") == kind).select("key", "text")
    if rows["text"].dtype != pl.String:
        found = f"text: {examples(rows['text'])}"
        raise context.error("column is not text", expected="text", found=found)
    text = without_missing(rows["text"], context.tables.na_values).str.strip_chars()
    given = rows.with_columns(text).filter(text.is_not_null())
    context.count(f"{kind} rows without a text: dropped", len(rows) - len(given))
    if given.is_empty():
        found = f"all {len(rows):,} blank"
        raise context.error(f"all texts of kind {kind!r} are blank", expected="a text in some rows", found=found)
    return table, given


def joined_texts(context: BuildContext, node_type: str, kind: str, keys: pl.Series) -> pl.Series:
    """For each node all its texts of a kind, joined by a space in the table's order; null if it has none.

    Args:
        context: for errors and counts.
        node_type: type of the nodes.
        kind: of the texts.
        keys: [n], of the nodes.

    Raises:
        InputError: the texts are of another node type, or of none of the nodes; or as ``texts_of_kind``.
    """
    table, rows = texts_of_kind(context, kind)
    if table.node != node_type:
        raise context.error("texts of another type", expected=f"node = {table.node!r}", found=node_type)
    joined = rows.group_by("key", maintain_order=True).agg(pl.col("text").str.join(" "))
    if joined["key"].dtype != keys.dtype or not keys.is_in(joined["key"].implode()).any():
        expected = f"keys such as {', '.join(map(repr, keys.head(3)))}"
        found = f"texts of {', '.join(map(repr, joined['key'].head(3)))}"
        raise context.error("join is empty", expected=expected, found=found)
    return pl.DataFrame({"key": keys}).join(joined, on="key", how="left", maintain_order="left")["text"]
