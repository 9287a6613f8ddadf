"""A few short attributes of every item, such as author, genre and year: what a person needs to recognise an item."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from relrank.graph.construction.build_graph import MISSING
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.runs.fitted_run import NODE_KEY

Value = str | int | float
ATTRIBUTES = 4
"""Attributes of an item."""
VALUES = 3
"""Values of an attribute, those of most items first."""
LENGTH = 80
"""Characters of a value; longer ones are cut."""
TYPICAL_LENGTH = 40
"""An attribute whose median value has more characters is a description."""
TYPICAL_VALUES = 8
"""An attribute with more values per item, on average, says too much: tags of a crowd."""
KNOWN_SHARE = 0.2
"""An attribute that fewer items have is left out."""
DISTINCT_SHARE = 0.5
"""A column with more distinct values than this share of its items holds ids, counts or texts."""
SAMPLE = 200
"""Items in which a column is compared with the relations."""
_INTERVAL = re.compile(r"[(\[].+, .+[)\]]")
_NUMBERING = re.compile(r"(.*_)?(id|ids|key|code|isbn|issn|n|nr|count|number)(_.*|\d*)", re.IGNORECASE)
_FIRST = re.compile(r"year|date|released?|price", re.IGNORECASE)
_NAME = re.compile(r"(.*[_ ])?(name|title|label)", re.IGNORECASE)


class _Attribute:
    """Values of the items under one name: ``rows`` [n_items, n_values] points into ``values``."""

    def __init__(self, name: str, rows: Csr, values: list[Value]) -> None:
        self.name, self.rows, self.values = name, rows, values
        self._starts, self._codes = rows.indptr.data, rows.indices.data  # read quicker than arrays, one by one

    def of(self, item: int) -> list[Value]:
        start, end = self._starts[item], self._starts[item + 1]
        return [self.values[code] for code in self._codes[start : min(end, start + VALUES)].tolist()]

    @property
    def items(self) -> Int64:
        """Rows of the items with a value."""
        return np.flatnonzero(self.rows.degrees() > 0)


class ItemAttributes:
    """Short attributes of the items of one run, chosen at the start.

    Relations come first, those to codes only if none leads to words; then columns of the item table, dates and prices
    before others. Left out are intervals of numbers, relations with many nodes per item, texts, counts and ids, and
    columns that repeat the title or a relation, or tell almost every item apart.

    Args:
        graph: of the model.
        titles: of the items, in row order.
        linked: as ``item_relations`` finds them.
        table: item attributes of the run; None without any.
        nodes: attributes of other node types, as in ``FittedRun.nodes``.
    """

    def __init__(
        self,
        graph: Graph,
        titles: Sequence[str | None],
        linked: Mapping[str, tuple[Int32, Int32, str]],
        table: pl.DataFrame | None,
        nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]],
    ) -> None:
        table = pl.DataFrame() if table is None else table
        names = {relation: names_of(frame) for relations, frame in nodes.values() for relation in relations}
        relations = []
        for name in _relations_of(linked, table):
            pairs = (
                _linked_pairs(graph, *linked[name]) if name in linked else _listed_pairs(table[f"relation:{name}"])
            )
            relations.append(_relation(name, len(titles), pairs, names.get(name, {})))
        relations = [one for one in relations if _is_short(one, len(titles))]
        columns = [
            one
            for name in sorted(table.columns, key=lambda name: not _FIRST.search(name))
            if name.startswith("column:") and (one := _column(table[name], titles)) and not _repeats(one, relations)
        ]
        relations = [one for one in relations if _is_readable(one)] or relations
        self._chosen = [*relations[: ATTRIBUTES - min(1, len(columns))], *columns][:ATTRIBUTES]

    @property
    def names(self) -> list[str]:
        """Relations and columns that are shown."""
        return [one.name for one in self._chosen]

    def of(self, item: int) -> dict[str, list[Value]]:
        """Attributes of an item by name, without those that it lacks."""
        return {one.name: values for one in self._chosen if (values := one.of(item))}


def _relations_of(linked: Mapping[str, object], table: pl.DataFrame) -> list[str]:
    """Names of all relations, in the order of the study where it is known."""
    listed = [name.removeprefix("relation:") for name in table.columns if name.startswith("relation:")]
    return list(dict.fromkeys([*listed, *linked]))


def _linked_pairs(graph: Graph, of_item: Int32, other: Int32, node: str) -> pl.DataFrame:
    return pl.DataFrame({"item": of_item, "value": graph.nodes[node].at(other).cast(pl.String)})


def _listed_pairs(lists: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"item": np.arange(len(lists), dtype=np.int32), "value": lists})
    return frame.explode("value").drop_nulls()


def _relation(name: str, n_items: int, pairs: pl.DataFrame, names: Mapping[str, str]) -> _Attribute:
    counts = pairs.filter(pl.col("value") != MISSING)["value"].value_counts(name="items")
    counts = counts.sort(["items", "value"], descending=[True, False]).with_row_index("code")
    coded = pairs.join(counts, on="value", how="inner")
    item, code = (coded[c].cast(pl.Int32).to_numpy() for c in ("item", "code"))
    rows = Csr.from_pairs(item, code, (n_items, len(counts)))
    return _Attribute(name, rows, [_cut(names.get(key, key)) for key in counts["value"]])


def _column(column: pl.Series, titles: Sequence[str | None]) -> _Attribute | None:
    """The attribute of a column; None if it is not a short one."""
    name, values = column.name.removeprefix("column:"), _plain(column)
    known = values.drop_nulls()
    numbers = known.cast(pl.Float64, strict=False)
    is_measure = numbers.null_count() == 0 and bool((numbers != numbers.round()).any())
    most = len(known) if is_measure else DISTINCT_SHARE * len(known)
    fewest = 3 if values.dtype.is_numeric() else 2  # two numbers are a flag
    is_title = (values == pl.Series(titles, dtype=values.dtype, strict=False)).sum() > len(known) / 2
    if _NUMBERING.fullmatch(name) or is_title or not fewest <= known.n_unique() <= most:
        return None
    order = known.unique(maintain_order=True)
    coded = values.to_frame("value").join(
        order.to_frame("value").with_row_index("code"), on="value", how="left", maintain_order="left"
    )
    has = np.flatnonzero(coded["code"].is_not_null().to_numpy())
    rows = Csr.from_pairs(has, coded["code"].drop_nulls().cast(pl.Int32).to_numpy(), (len(titles), len(order)))
    shown: list[Value] = [_cut(one) if isinstance(one, str) else one for one in order.to_list()]
    one = _Attribute(name, rows, shown)
    return one if _is_short(one, len(titles)) else None


def _plain(values: pl.Series) -> pl.Series:
    """Values as whole numbers if all are, else as numbers or texts; a truth value is missing."""
    if values.dtype == pl.Boolean:
        return pl.Series([None] * len(values), dtype=pl.String)
    if not values.dtype.is_numeric():
        return values.cast(pl.String, strict=False).str.strip_chars().replace("", None)
    finite = values.cast(pl.Float64)
    finite = finite.set(~finite.is_finite(), None)
    is_whole = not values.dtype.is_integer() and bool((finite.drop_nulls() == finite.drop_nulls().round()).all())
    return values if values.dtype.is_integer() else finite.cast(pl.Int64, strict=False) if is_whole else finite


def _is_short(one: _Attribute, n_items: int) -> bool:
    """Whether an attribute is known of enough items, tells them apart, and is no list, no interval and no text."""
    n_known = len(one.items)
    if len(one.values) < 2 or n_known < max(1, KNOWN_SHARE * n_items):
        return False
    texts = [str(value) for value in one.values]
    is_interval = all(map(_INTERVAL.fullmatch, texts))
    is_text = float(np.median([len(text) for text in texts])) > TYPICAL_LENGTH
    return not is_interval and not is_text and len(one.rows.indices) <= TYPICAL_VALUES * n_known


def _is_readable(one: _Attribute) -> bool:
    """Whether most values are words: codes and keys have digits."""
    return sum(not any(map(str.isdigit, str(value))) for value in one.values) * 2 > len(one.values)


def _repeats(column: _Attribute, relations: Iterable[_Attribute]) -> bool:
    """Whether the values of a relation are those of the column, or its parts."""
    items = column.items[:SAMPLE].tolist()
    for relation in relations:
        both = [(str(column.of(item)[0]), found) for item in items if (found := relation.of(item))]
        if both and sum(all(str(value) in text for value in found) for text, found in both) > len(both) / 2:
            return True
    return False


def names_of(frame: pl.DataFrame) -> dict[str, str]:
    """Names of nodes by their keys, from the first text column that is called a name, a title or a label."""
    for column, dtype in frame.schema.items():
        if column != NODE_KEY and dtype == pl.String and _NAME.fullmatch(column):
            return dict(frame.select(NODE_KEY, column).drop_nulls().iter_rows())
    return {}


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
