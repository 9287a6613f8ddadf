"""From columns of node tables to features of nodes; interactions are not used, so no test row can leak in.

Features are fitted (mean and deviation, vocabulary, singular vectors) on all nodes of the type in the graph, also on
those without training rows. Only quantiles are measured on training nodes, as for the bins of a relation. The audit
checks whether a column was computed from later interactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.graph.construction.columns import as_numbers, as_one_text, as_parts, in_training, inner_edges
from relrank.graph.construction.context import BuildContext, Progress, examples, silent
from relrank.graph.construction.relation_config import (
    BinsFeature,
    CategoryFeature,
    FeatureConfig,
    MultiHotFeature,
    NumberFeature,
    TextFeature,
    VectorFeature,
)
from relrank.graph.construction.text_encoders import encode_texts
from relrank.graph.construction.text_rows import joined_texts
from relrank.graph.feature import Feature
from relrank.kernels.csr import Csr, Float32, Float64
from relrank.tables.ids import IdMap
from relrank.tables.missing import without_missing, written
from relrank.tables.notices import Notice
from relrank.tables.split import Split
from relrank.tables.tables import NodeTable, Tables

Bool = npt.NDArray[np.bool_]


def build_features(
    tables: Tables,
    split: Split,
    nodes: Mapping[str, IdMap],
    configs: Mapping[str, FeatureConfig],
    progress: Progress = silent,
) -> tuple[dict[str, Feature], list[Notice]]:
    """The features of a graph's nodes, with notices of what was dropped.

    Args:
        tables: the data.
        split: quantiles are measured on its training rows.
        nodes: keys of every node type of the graph, in row order.
        configs: features by name.
        progress: called during long work.

    Raises:
        InputError: a table, column or node type does not exist; a column does not fit its kind; no node has a value,
            or all have the same.
    """
    features, notices = {}, []
    for name, config in configs.items():
        builder = FeatureBuilder(name, tables, split, nodes=nodes, progress=progress)
        features[name] = _feature(builder, config)
        builder.count(f"{config.node} nodes without a value: missing", (~features[name].known).sum())
        notices += builder.notices
    return features, notices


def columns_of(config: FeatureConfig, table: NodeTable) -> tuple[str, ...]:
    """The columns of a feature that the table has."""
    names: Sequence[str | None]
    match config:
        case VectorFeature(prefix=str(prefix)):
            names = [name for name in table.frame.columns if name.startswith(prefix) and name != table.key]
        case VectorFeature():
            names = config.columns or [config.column]
        case TextFeature():
            names = config.columns
        case _:
            names = [config.column]
    return tuple(name for name in names if name in table.frame.columns)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBuilder(BuildContext):
    """Reads the columns of one feature.

    Attributes:
        nodes: keys of the graph's node types.
    """

    nodes: Mapping[str, IdMap] = field(kw_only=True)

    @property
    def where(self) -> str:
        """As in ``BuildContext``."""
        return f"[features.{self.name}]"

    def table(self, node_type: str) -> NodeTable:
        """The node table of a type of the graph.

        Raises:
            InputError: the type has no table, or no relation links it.
        """
        if node_type not in self.tables.nodes:
            raise self.unknown("no such node table", node_type, self.tables.nodes)
        self.keys(node_type)
        return self.tables.nodes[node_type]

    def keys(self, node_type: str) -> pl.Series:
        """The keys of a type of the graph, in row order.

        Raises:
            InputError: no relation links the type.
        """
        if node_type not in self.nodes:
            raise self.unknown("no relation links this type", node_type, self.nodes)
        return self.nodes[node_type].keys

    def column(self, node_type: str, column: str) -> pl.Series:
        """A column in the row order of the graph; null where the node or its value is not in the table.

        Raises:
            InputError: there is no such column, or the table has none of the graph's nodes.
        """
        table, keys = self.table(node_type), self.nodes[node_type].keys
        if column not in table.frame.columns:
            raise self.unknown("column not found", column, table.frame.columns, f" in table {node_type!r}")
        at = IdMap(node_type, table.frame[table.key]).find(keys)
        if (at < 0).all():
            expected = f"{node_type}.{table.key}: {examples(table.frame[table.key])}"
            raise self.error("join is empty", expected=expected, found=f"{node_type} nodes: {examples(keys)}")
        values = table.frame[column].gather(pl.Series(at).replace(-1, None)).rename(column)
        markers = written(values, self.tables.na_values)
        if len(markers):
            self.count(f"{column} is {' or '.join(markers.unique().sort().head(5))}: missing", len(markers))
        return without_missing(values, self.tables.na_values)

    def refuse_nothing(self, known: Bool, column: str) -> None:
        """Refuse a column without values.

        Raises:
            InputError: no node has one.
        """
        if not known.any():
            found = f"{column}: all {known.size:,} missing"
            raise self.error("no node has a value", expected="a value for some nodes", found=found)

    def refuse_constant(self, constant: bool, column: str, value: object) -> None:
        """Refuse a column with the same value everywhere.

        Raises:
            InputError: ``constant`` is True.
        """
        if constant:
            found = f"{column}: {value} everywhere"
            raise self.error("column is constant", expected="values that differ between nodes", found=found)


def _feature(builder: FeatureBuilder, config: FeatureConfig) -> Feature:
    match config:
        case NumberFeature():
            return _number(builder, config)
        case BinsFeature():
            return _bins(builder, config)
        case CategoryFeature():
            return _category(builder, config)
        case MultiHotFeature():
            return _multi_hot(builder, config)
        case TextFeature():
            return _text(builder, config)
        case VectorFeature():
            return _vector(builder, config)


def _number(builder: FeatureBuilder, config: NumberFeature) -> Feature:
    values = as_numbers(builder, builder.column(config.node, config.column), config.column)[:, None]
    known = _known_numbers(builder, values, config.column)
    given = values[known]
    builder.refuse_constant(given.min() == given.max(), config.column, given[0, 0])
    if config.log:
        if given.min() < 0:
            found = f"{config.column}: {given.min():g}"
            raise builder.error("logarithm of a negative number", expected="0 or more, or no log", found=found)
        given = np.log1p(given)
    return Feature(builder.name, config.node, known, dense=standardise(given, known))


def _vector(builder: FeatureBuilder, config: VectorFeature) -> Feature:
    table = builder.table(config.node)
    if config.column is not None:
        values, label = _lists(builder, builder.column(config.node, config.column)), config.column
    else:
        names = config.columns or columns_of(config, table)
        if not names:
            expected = f"columns that begin with {config.prefix!r} in table {config.node!r}"
            raise builder.error("column not found", expected=expected, found=f"{table.frame.columns}")
        values = np.stack([as_numbers(builder, builder.column(config.node, name), name) for name in names], axis=1)
        label = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
    partly = np.isnan(values).any(axis=1) & ~np.isnan(values).all(axis=1)
    builder.count(f"{config.node} nodes with a part of the vector only: missing", partly.sum())
    known = _known_numbers(builder, values, label)
    given = values[known]
    builder.refuse_constant((given == given[0]).all(), label, "one vector")
    return Feature(builder.name, config.node, known, dense=standardise(given, known))


def _lists(builder: FeatureBuilder, values: pl.Series) -> Float64:
    """Lists of numbers as rows of a table, NaN where missing."""
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if not isinstance(values.dtype, pl.List) or not values.dtype.inner.is_numeric():
        found = f"{values.name}: {examples(values)}"
        raise builder.error("column holds no vectors", expected="lists of numbers", found=found)
    values = values.set(values.list.len() == 0, None)
    known = values.is_not_null().to_numpy()
    builder.refuse_nothing(known, values.name)
    lengths = values.drop_nulls().list.len().unique().sort().to_list()
    if len(lengths) > 1:
        found = f"{values.name}: lengths {', '.join(map(str, lengths[:5]))}"
        raise builder.error("vectors differ in length", expected="lists of one length", found=found)
    table = np.full((len(values), lengths[0]), np.nan)
    flat = values.drop_nulls().explode().cast(pl.Float64).fill_null(np.nan)
    table[known] = flat.to_numpy().reshape(-1, lengths[0])
    return table


def _known_numbers(builder: FeatureBuilder, values: Float64, column: str) -> Bool:
    """Which rows have no NaN, bool [n].

    Raises:
        InputError: a value is infinite, or every row has NaN.
    """
    if np.isinf(values).any():
        found = f"{column}: {int(np.isinf(values).sum())} infinite"
        raise builder.error("value is infinite", expected="finite numbers", found=found)
    known = ~np.asarray(np.isnan(values).any(axis=1))
    builder.refuse_nothing(known, column)
    return known


def standardise(given: Float64 | Float32, known: Bool) -> Float32:
    """Values of ``known`` nodes, centred and divided by one number so that their mean square is 1; zeros elsewhere.

    The same number for all columns keeps proportions of distances. For a single column it is the standard deviation.
    """
    given = given.astype(np.float64)
    centred = given / np.abs(given).max()  # so that no square overflows
    centred -= centred.mean(axis=0)
    table = np.zeros((known.size, given.shape[1]), np.float32)
    table[known] = centred / np.sqrt(np.mean(centred**2))
    return table


def _bins(builder: FeatureBuilder, config: BinsFeature) -> Feature:
    values = as_numbers(builder, builder.column(config.node, config.column), config.column)
    known = ~np.isnan(values)
    builder.refuse_nothing(known, config.column)
    inner = inner_edges(builder, values, in_training(builder.tables, builder.split, config.node, values.size), config)
    rows = np.flatnonzero(known)
    bins = np.searchsorted(inner, values[known], side="left")
    builder.refuse_constant(bool(known.all() and (bins == bins[0]).all()), config.column, "one interval")
    return _sparse(builder, config.node, rows, bins, (values.size, inner.size + 1))


def _category(builder: FeatureBuilder, config: CategoryFeature) -> Feature:
    values = builder.column(config.node, config.column)
    if values.dtype.is_nested():
        found = f"{config.column}: {values.dtype}"
        raise builder.error("column holds several values", expected='one value, or kind = "multi-hot"', found=found)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        broken = values.filter(values % 1 != 0)
        if len(broken):
            expected = 'text or whole numbers, or kind = "number" or "bins"'
            raise builder.error("column is no category", expected=expected, found=f"{config.column}: {broken[0]}")
    return _values(builder, config, as_parts(builder, values, config.column, config), len(values))


def _multi_hot(builder: FeatureBuilder, config: MultiHotFeature) -> Feature:
    values = builder.column(config.node, config.column)
    if isinstance(values.dtype, pl.Array):
        values = values.arr.to_list()
    if config.separator is None and not isinstance(values.dtype, pl.List):
        found = f"{config.column}: {examples(values)}"
        raise builder.error("column holds no lists", expected="a list column, or a separator", found=found)
    return _values(builder, config, as_parts(builder, values, config.column, config), len(values))


def _values(
    builder: FeatureBuilder, config: CategoryFeature | MultiHotFeature, parts: pl.DataFrame, n: int
) -> Feature:
    """One column per value of at least ``min_count`` nodes, in ascending order."""
    builder.refuse_nothing(np.isin(np.arange(n), parts["row"].to_numpy()), config.column)
    counts = parts["value"].value_counts(name="count").sort("value")
    frequent = counts.filter(pl.col("count") >= config.min_count)["value"]
    if frequent.is_empty():
        most = counts.sort("count", "value", descending=[True, False])
        raise builder.error(
            "no value occurs often enough",
            expected=f"a value of at least min_count = {config.min_count} nodes",
            found=f"{config.column}: {most['value'][0]!r} of {most['count'][0]} is the most frequent",
        )
    builder.count(f"values of fewer than {config.min_count} nodes: dropped", len(counts) - len(frequent))
    cols = IdMap(config.column, frequent).find(parts["value"])
    rows, cols = parts["row"].to_numpy()[cols >= 0], cols[cols >= 0]
    builder.refuse_constant(rows.size == n * len(frequent), config.column, ", ".join(frequent.head(3)))
    return _sparse(builder, config.node, rows, cols, (n, len(frequent)))


def _sparse(
    builder: FeatureBuilder,
    node: str,
    rows: npt.NDArray[np.integer],
    cols: npt.NDArray[np.integer],
    shape: tuple[int, int],
) -> Feature:
    table = Csr.from_pairs(rows, cols, shape)
    return Feature(builder.name, node, table.degrees() > 0, sparse=table)


def _text(builder: FeatureBuilder, config: TextFeature) -> Feature:
    text, has_text = _one_text(builder, config)
    label = ", ".join(config.columns) or str(config.texts)
    builder.refuse_nothing(has_text, label)
    given = np.flatnonzero(has_text)
    values, encoded = encode_texts(builder, text.gather(given).to_list(), config)
    builder.count(f"{config.node} nodes whose words are all too rare: missing", (~encoded).sum())
    values = values[encoded]
    known = np.zeros(len(text), np.bool_)
    known[given[encoded]] = True
    builder.refuse_constant((values == values[0]).all(), label, "one text")
    return Feature(builder.name, config.node, known, dense=standardise(values, known))


def _one_text(builder: FeatureBuilder, config: TextFeature) -> tuple[pl.Series, Bool]:
    if config.texts is None:
        return as_one_text(builder, [builder.column(config.node, name) for name in config.columns])
    keys = builder.keys(config.node)
    return as_one_text(builder, [joined_texts(builder, config.node, config.texts, keys)])
