"""Texts as nodes: a relation from nodes to their texts, and the texts' vectors as a feature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from relrank.graph.construction.feature_builder import standardise
from relrank.graph.construction.relation_builder import RelationBuilder, UnresolvedRelation
from relrank.graph.construction.relation_config import TextNodes
from relrank.graph.construction.text_cache import sha256
from relrank.graph.construction.text_encoders import encode_texts
from relrank.graph.construction.text_rows import texts_of_kind
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap
from relrank.tables.tables import TEXTS


def build_text_relation(builder: RelationBuilder, config: TextNodes) -> UnresolvedRelation:
    """Edges from nodes to their texts; nodes without a text have no edge.

    Raises:
        InputError: there are no such texts, or none of a node of the graph; the target type has keys of its own.
    """
    table, rows = texts_of_kind(builder, config.of)
    target = config.target or config.of
    if builder.admits(target) is not None:
        found = f"{target}, which has keys of its own"
        raise builder.error("texts cannot be nodes of this type", expected="another target type", found=found)
    src, ids = builder.rows(table.node, rows["key"], None, f"{TEXTS} key")
    rows, src = rows.filter(src >= 0), src[src >= 0]
    rows = rows.with_columns(key=rows["text"].map_elements(key_of, return_dtype=pl.String))
    once = rows.unique("key").sort("key")
    keys = IdMap(target, once["key"])
    relation = Relation.of(builder.name, table.node, target, src, keys.find(rows["key"]), duplicates="first")
    builder.count("text repeated for one node: counts once", len(rows) - len(relation))
    return builder.unresolved(relation, ids, keys, f"texts of kind {config.of!r}", once["text"])


def text_feature(unresolved: UnresolvedRelation, config: TextNodes, nodes: Mapping[str, IdMap]) -> Feature:
    """The vectors of a relation's texts as a feature of its name; other nodes of the type have none.

    Raises:
        InputError: all texts are the same; or as :func:`relrank.graph.construction.text_encoders.encode_texts`.
    """
    assert unresolved.texts is not None
    relation, builder = unresolved.relation, unresolved.builder
    linked = np.unique(relation.dst)
    values, encoded = encode_texts(builder, unresolved.texts.gather(linked).to_list(), config)
    if np.allclose(values[encoded], values[encoded][:1], rtol=1e-6, atol=0):
        found = f"{int(encoded.sum()):,} of {linked.size:,} texts with a vector, all the same"
        raise builder.error("texts do not differ", expected="two different texts", found=found)
    builder.count(f"{relation.target} nodes whose words are all too rare: without a vector", (~encoded).sum())
    ids = nodes[relation.target]
    known = np.zeros(len(ids), np.bool_)
    known[ids.find(unresolved.target.at(linked[encoded]))] = (
        True  # keys ascend on both sides, so vectors are in order
    )
    return Feature(relation.name, relation.target, known, dense=standardise(values[encoded], known))


def text_relations(graph: Graph) -> tuple[Relation, ...]:
    """The relations to text nodes: those with a dense feature of the same name on their target type."""
    features = graph.features
    return tuple(
        r
        for name, r in graph.relations.items()
        if name in features and features[name].node == r.target and features[name].dense is not None
    )


def key_of(text: str) -> str:
    """The key of a text node: the first 16 hexadecimal digits of its sha256."""
    return sha256(text)[:16]
