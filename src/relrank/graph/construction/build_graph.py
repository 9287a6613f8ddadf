"""From tables to a graph: the only place where rows become edges.

Each relation is first built as an ``UnresolvedRelation``: over its own row indices, with the keys of both ends.
Relations may share a node type, so its keys, and the final rows, are known only when all relations are built.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.arguments import checked
from relrank.errors import InputError
from relrank.graph.construction.columns import as_numbers, as_one_text, as_parts, in_training, inner_edges
from relrank.graph.construction.context import Progress, examples, silent
from relrank.graph.construction.feature_builder import build_features
from relrank.graph.construction.interactions import build_interactions, events_of, history_positions
from relrank.graph.construction.relation_builder import RelationBuilder, UnresolvedRelation, occurring
from relrank.graph.construction.relation_config import (
    Attribute,
    Bins,
    Cooccurrence,
    FeatureConfig,
    InteractionWeights,
    Link,
    RelationConfig,
    TextFeature,
    TextNodes,
    TextSimilarity,
)
from relrank.graph.construction.similarity import cooccurring, places_near, similar_texts, similar_vectors, top_k_mask
from relrank.graph.construction.text_encoders import sentences
from relrank.graph.construction.text_nodes import build_text_relation, text_feature
from relrank.graph.construction.text_rows import joined_texts
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Float32
from relrank.tables.cutoff import cut_tables
from relrank.tables.ids import IdMap
from relrank.tables.split import Split
from relrank.tables.tables import TEXTS, Tables

__all__ = [
    "Attribute",
    "Bins",
    "Cooccurrence",
    "FeatureConfig",
    "InteractionWeights",
    "Link",
    "RelationConfig",
    "TextNodes",
    "TextSimilarity",
    "build_graph",
]

MOST_PAIRS = 300_000_000
"""Most pairs of positions in histories that a co-occurrence may count: 8 bytes each, several times."""
MISSING = "(missing)"
"""Key of the node for missing values; a value with this text is refused."""


@checked("rr.build_graph")
def build_graph(
    tables: Tables,
    split: Split,
    relations: Mapping[str, RelationConfig],
    features: Mapping[str, FeatureConfig] | None = None,
    interactions: InteractionWeights | None = None,
    progress: Progress = silent,
) -> Graph:
    """Build the graph of a split: interactions from its training rows, relations and features as configured.

    Users and items are those of the split, in its row order. Every other node type has the values that occur in at
    least one edge, in ascending order. Links and texts with a time, or with the user who made them, are cut at the
    split first (``tables.cutoff``). A relation of kind ``texts`` also makes a feature of the same name.

    Args:
        tables: the data.
        split: of the interactions.
        relations: relations by name.
        features: features by name.
        interactions: weights of the training rows; 1 when None.
        progress: called during long work, such as encoding texts with a language model.

    Returns:
        The graph; ``graph.notices`` counts what a policy dropped, and users and items that a relation does not reach.

    Raises:
        InputError: a table, column or node type does not exist; the keys of two sides have nothing in common; an edge
            occurs twice against the policy; a relation has no edges; a feature's column does not fit its kind or has
            no values; a feature has the name of a relation; weights need ratings or times that do not exist.
    """
    features = features or {}
    _check_two_types(tables)
    tables, cut = cut_tables(tables, split, side_tables(relations, features))
    unresolved = {}
    for name, config in relations.items():
        builder = RelationBuilder(name, tables, split, progress=progress, title=config.title)
        unresolved[name] = _unresolved(builder, config, features)
    ends = tables.user, tables.item
    nodes = {tables.user: split.users, tables.item: split.items, **occurring(unresolved.values(), ends)}
    resolved = {}
    for name, relation in unresolved.items():
        resolved[name] = relation.resolve(nodes)
        _count_unreached(relation.builder, resolved[name], nodes, ends)
    built_features, feature_notices = build_features(tables, split, nodes, features, progress)
    for name, config in relations.items():
        if isinstance(config, TextNodes):
            built_features[name] = text_feature(unresolved[name], config, nodes)
    notices = [notice for relation in unresolved.values() for notice in relation.builder.notices]
    return Graph(
        tables.user,
        tables.item,
        nodes,
        build_interactions(tables.user, tables.item, split.train, interactions),
        resolved,
        split.fingerprint,
        (*notices, *cut, *feature_notices),
        built_features,
        history_positions(split.train) if split.ordered else None,
        events=events_of(split),
    )


def _check_two_types(tables: Tables) -> None:
    if tables.user == tables.item:
        raise InputError(
            "user and item are one node type",
            where=f"interactions of {tables.name}",
            found=repr(tables.user),
            expected="two names, also where both are people",
        )


def _count_unreached(
    builder: RelationBuilder, relation: Relation, nodes: Mapping[str, IdMap], ends: tuple[str, str]
) -> None:
    """Note the users and items without an edge in a relation that links their type."""
    for end in sorted({relation.source, relation.target}.intersection(ends)):
        n = len(nodes[end])
        builder.count(f"{end} nodes without an edge, of {n:,}", (relation.degrees(end, n) == 0).sum())


def side_tables(relations: Mapping[str, RelationConfig], features: Mapping[str, FeatureConfig]) -> set[str]:
    """The link tables in use, and ``TEXTS`` if texts are."""
    of_texts = any(
        isinstance(c, TextNodes) or (isinstance(c, TextSimilarity | TextFeature) and c.texts is not None)
        for c in (*relations.values(), *features.values())
    )
    return {c.table for c in relations.values() if isinstance(c, Link)} | ({TEXTS} if of_texts else set())


def _unresolved(builder: RelationBuilder, config: RelationConfig, features: Collection[str]) -> UnresolvedRelation:
    if builder.name == "interactions" or builder.name in features:  # marks a text relation
        raise builder.error("name is taken", expected="another name for the relation", found=builder.name)
    match config:
        case Link():
            return _link(builder, config)
        case Attribute():
            return _attribute(builder, config)
        case Bins():
            return _bins(builder, config)
        case TextSimilarity():
            return _text(builder, config)
        case TextNodes():
            return build_text_relation(builder, config)
        case Cooccurrence():
            return _cooccurrence(builder, config)


def _link(builder: RelationBuilder, config: Link) -> UnresolvedRelation:
    links = builder.tables.links
    if config.table not in links:
        raise builder.unknown("no such link table", config.table, links)
    table = links[config.table]
    where = f"table {table.name!r}"
    if config.min_target_degree > 1 and table.source == table.target:
        expected = "min_target_degree only between two node types"
        raise builder.error("edges have no target end", expected=expected, found=f"{table.source} - {table.target}")
    if table.source == table.target and builder.admits(table.source) is None:
        found = f"nodes of {sorted(builder.tables.nodes)}"
        raise builder.error(
            "a type linked with itself has no keys", expected=f"a node table {table.source}", found=found
        )
    columns = [builder.select(table.frame, c, where) for c in (table.source_column, table.target_column)]
    weight = _weights(builder, config, table.frame, table.weight, where)
    src, sources = builder.rows(table.source, columns[0], table.source_match, f"{table.name}.{table.source_column}")
    dst, targets = builder.rows(table.target, columns[1], table.target_match, f"{table.name}.{table.target_column}")
    keep = (src >= 0) & (dst >= 0)
    loops = keep & (src == dst) & (table.source == table.target)
    builder.count("node linked with itself: dropped", loops.sum())
    keep &= ~loops
    poor = keep & ~(weight > 0)
    builder.count("weight missing, zero or negative: dropped", poor.sum())
    keep &= ~poor
    if np.isinf(weight[keep]).any():
        raise builder.error("weight is infinite", expected=f"finite {where}, {table.weight}", found="inf")
    src, dst, weight = src[keep], dst[keep], weight[keep]
    try:
        relation = Relation.of(builder.name, table.source, table.target, src, dst, weight, config.duplicates)
    except ValueError:
        pair = pl.DataFrame({"a": src, "b": dst})
        if table.source == table.target:
            pair = pair.select(a=pl.min_horizontal("a", "b"), b=pl.max_horizontal("a", "b"))
        twice = pair.with_columns(w=weight).filter(pair.is_duplicated()).sort("a", "b", maintain_order=True)
        a, b = sources.keys[twice["a"][0]], targets.keys[twice["b"][0]]
        raise builder.error(
            f"rows of {where} name the same edge",
            expected='each edge once, or duplicates = "sum", "max" or "first"',
            found=f"{len(twice):,} rows, e.g. {a!r} - {b!r} with weights {twice['w'][0]:g} and {twice['w'][1]:g}",
        ) from None
    builder.count(f"rows of an edge named before, policy {config.duplicates!r}", src.size - len(relation))
    if config.top is not None:
        relation = _largest(builder, relation, config.top)
    degree = relation.degrees(table.target, len(targets))[relation.dst]
    few = degree < config.min_target_degree
    builder.count(f"edges to a {table.target} of fewer than {config.min_target_degree} sources: dropped", few.sum())
    relation = relation.where(~few)
    if config.weight == "one":
        relation = replace(relation, weight=np.ones_like(relation.weight))
    elif config.weight == "log1p":
        relation = replace(relation, weight=np.log1p(relation.weight))
    return builder.unresolved(relation, sources, targets, f"rows of {where} that pass every step")


def _attribute(builder: RelationBuilder, config: Attribute) -> UnresolvedRelation:
    ids, values = builder.column(config.node, config.column)
    edges = as_parts(builder, values, config.column, config)
    return _to_values(builder, config, ids, edges)


def _bins(builder: RelationBuilder, config: Bins) -> UnresolvedRelation:
    ids, column = builder.column(config.node, config.column)
    values = as_numbers(builder, column, config.column)
    known = ~np.isnan(values)
    inner = inner_edges(builder, values, in_training(builder.tables, builder.split, config.node, len(ids)), config)
    bounds = [f"{e:.0f}" if float(e).is_integer() else repr(float(e)) for e in inner]
    labels = pl.Series(
        [f"(-∞, {bounds[0]}]", *(f"({a}, {b}]" for a, b in pairwise(bounds)), f"({bounds[-1]}, ∞)"], dtype=pl.String
    )
    bins = labels.gather(np.searchsorted(inner, values[known], side="left"))
    return _to_values(
        builder, config, ids, pl.DataFrame({"row": np.flatnonzero(known).astype(np.int32), "value": bins})
    )


def _to_values(
    builder: RelationBuilder, config: Attribute | Bins, ids: IdMap, edges: pl.DataFrame
) -> UnresolvedRelation:
    """Link nodes with their values (columns ``row``, ``value``: text); nodes in no row have a missing value."""
    target = config.target or config.column
    kind = builder.admits(target)
    missing = np.setdiff1d(np.arange(len(ids), dtype=np.int32), edges["row"].to_numpy())
    if config.missing == "drop":
        builder.count(f"{config.node} nodes without {config.column}: no edge", missing.size)
    elif kind is not None:
        expected = 'missing = "drop", or another target type'
        raise builder.error("missing values can be no node of a type with keys", expected=expected, found=target)
    elif (edges["value"] == MISSING).any():
        raise builder.error("a value is the key of missing values", expected="any other text", found=MISSING)
    else:
        builder.count(f"{config.node} nodes without {config.column}: linked to the node {MISSING}", missing.size)
        edges = pl.concat([edges, pl.DataFrame({"row": missing, "value": [MISSING] * missing.size})])
    where = f"{config.node}.{config.column}"
    values = edges["value"] if kind is None else edges["value"].cast(kind, strict=False)
    dst, targets = builder.rows(target, values, None, where) if len(values) else (np.empty(0, np.int32), ids)
    src = edges["row"].to_numpy()
    keep = dst >= 0
    if config.node == target:
        builder.count("node linked with itself: dropped", (keep & (src == dst)).sum())
        keep &= src != dst
    relation = Relation.of(builder.name, config.node, target, src[keep], dst[keep], duplicates="first")
    return builder.unresolved(relation, ids, targets, f"values in {where}")


def _text(builder: RelationBuilder, config: TextSimilarity) -> UnresolvedRelation:
    ids, text, has_text = _one_text(builder, config)
    given = np.flatnonzero(has_text)
    builder.count(f"{config.node} nodes without text: no edge", len(ids) - given.size)
    texts = text.gather(given).to_list()
    if config.encoder == "sentence" and texts:
        (src, dst, cosine), bare = similar_vectors(sentences(builder, texts, config), config), 0
    else:
        try:
            (src, dst, cosine), bare = similar_texts(texts, config)
        except ValueError as error:
            expected = f"words that at least {config.min_df} of {given.size:,} texts share"
            raise builder.error("texts have no common words", expected=expected, found=str(error)) from None
    builder.count(f"{config.node} nodes whose words occur nowhere else: no edge", bare)
    relation = Relation.of(builder.name, config.node, config.node, given[src], given[dst], cosine, "max")
    return builder.unresolved(relation, ids, ids, f"texts with a cosine of at least {config.min_similarity:g}")


def _one_text(builder: RelationBuilder, config: TextSimilarity) -> tuple[IdMap, pl.Series, npt.NDArray[np.bool_]]:
    """Nodes, one text for each, and which nodes have a text."""
    if config.texts is None:
        columns = [builder.column(config.node, name)[1].alias(name) for name in config.columns]
        return builder.column(config.node, config.columns[0])[0], *as_one_text(builder, columns)
    ids = builder.universe(config.node)
    if ids is None:
        raise builder.unknown("no such node table", config.node, builder.tables.nodes)
    return ids, *as_one_text(builder, [joined_texts(builder, config.node, config.texts, ids.keys)])


def _cooccurrence(builder: RelationBuilder, config: Cooccurrence) -> UnresolvedRelation:
    train, item, ids = builder.split.train, builder.tables.item, builder.split.items
    if train.time is None and not builder.tables.ordered:
        builder.count("training rows without a time: file order taken as time order", len(train))
    if (pairs := places_near(train.user, config.window)) > MOST_PAIRS:
        raise builder.error(
            "window takes in too many pairs of items",
            expected=f"at most {MOST_PAIRS:,} pairs: a smaller window",
            found=f"{pairs:,} with window = {config.window:,}",
        )
    src, dst, count = cooccurring(train.user, train.item, config.window, config.min_count)
    relation = Relation.of(builder.name, item, item, src, dst, count)
    relation = _largest(builder, relation, config.neighbours)
    return builder.unresolved(
        relation, ids, ids, f"pairs of items that {config.min_count} training histories have in common"
    )


def _largest(builder: RelationBuilder, relation: Relation, k: int) -> Relation:
    """The ``k`` largest weights of each source; within one type an edge stays if it is among those of either end."""
    src, dst, weight, n = relation.src, relation.dst, relation.weight, len(relation)
    if relation.undirected:
        twice = top_k_mask(
            np.concatenate([src, dst]), np.concatenate([dst, src]), np.concatenate([weight, weight]), k
        )
        keep = twice[:n] | twice[n:]
    else:
        keep = top_k_mask(src, dst, weight, k)
    builder.count(f"edges beyond the {k} largest: dropped", (~keep).sum())
    return relation.where(keep)


def _weights(builder: RelationBuilder, config: Link, frame: pl.DataFrame, column: str | None, where: str) -> Float32:
    """Raw weights of a link table, NaN where missing; ones without a weight column."""
    if column is None:
        if config.weight != "one":
            found = f'weight = "{config.weight}"'
            raise builder.error(f"{where} has no weight column", expected='weight = "one"', found=found)
        return np.ones(len(frame), np.float32)
    weight = builder.select(frame, column, where)
    if not weight.dtype.is_numeric():
        expected = f"numbers in {where}, {column}"
        raise builder.error("weight is not numeric", expected=expected, found=examples(weight))
    return weight.cast(pl.Float32).fill_null(np.nan).to_numpy()
