"""Texts as nodes: a relation from whatever has texts to the texts, and their vectors as a feature of that type."""

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


def texts_draft(join: RelationBuilder, config: TextNodes) -> UnresolvedRelation:
    """Edges from nodes to their texts; nodes without one have no edge.

    Raises:
        InputError: no such texts, or none of a node of the graph; the target is a type with keys of its own.
    """
    table, said = texts_of_kind(join, config.of)
    target = config.target or config.of
    if join.admits(target) is not None:
        found = f"{target}, which has keys of its own"
        raise join.error("texts cannot be nodes of this type", expected="another target type", found=found)
    src, ids = join.rows(table.node, said["key"], None, f"{TEXTS} key")
    said, src = said.filter(src >= 0), src[src >= 0]
    said = said.with_columns(key=said["text"].map_elements(key_of, return_dtype=pl.String))
    once = said.unique("key").sort("key")
    keys = IdMap(target, once["key"])
    relation = Relation.of(join.relation, table.node, target, src, keys.find(said["key"]), duplicates="first")
    join.count("text repeated for one node: counts once", len(said) - len(relation))
    return join.unresolved(relation, ids, keys, f"texts of kind {config.of!r}", once["text"])


def text_feature(unresolved: UnresolvedRelation, config: TextNodes, nodes: Mapping[str, IdMap]) -> Feature:
    """The vectors of a relation's texts, under its name; other nodes of the type have none.

    Raises:
        InputError: fewer than two texts differ; or as :func:`relrank.graph.construction.text_encoders.encode_texts`.
    """
    assert unresolved.texts is not None
    relation, join = unresolved.relation, unresolved.join
    linked = np.unique(relation.dst)
    values, read = encode_texts(join, unresolved.texts.gather(linked).to_list(), config)
    if np.allclose(values[read], values[read][:1], rtol=1e-6, atol=0):
        found = f"{int(read.sum()):,} of {linked.size:,} texts with a vector, all the same"
        raise join.error("texts do not differ", expected="two different texts", found=found)
    join.count(f"{relation.target} nodes whose words are all too rare: without a vector", (~read).sum())
    ids = nodes[relation.target]
    known = np.zeros(len(ids), np.bool_)
    known[ids.find(unresolved.target.at(linked[read]))] = True  # keys ascend on both sides: the vectors are in order
    return Feature(relation.name, relation.target, known, dense=standardise(values[read], known))


def text_relations(graph: Graph) -> tuple[Relation, ...]:
    """The relations that lead to texts: those with a dense feature of their own name on their target type."""
    features = graph.features
    return tuple(
        r
        for name, r in graph.relations.items()
        if name in features and features[name].node == r.target and features[name].dense is not None
    )


def key_of(text: str) -> str:
    """The key of a text node: the first 16 hexadecimal digits of its sha256."""
    return sha256(text)[:16]
