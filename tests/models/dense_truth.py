"""A small random graph of several types, and what dense oracles make of it in float64."""

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap

SIZES = {"user": 30, "item": 20, "tag": 7, "city": 5, "land": 3}
OF_ITEMS = (("has_tag", "item", "tag", 40), ("tagged", "tag", "item", 30), ("similar", "item", "item", 60))
"""Relations of items, for ``random_graph``: from them, to them, and among them."""


def relation(name, source, target, edges, rng):
    n, m = SIZES[source], SIZES[target]
    cells = rng.choice(n * m, edges, replace=False)
    src, dst = cells // m, cells % m
    if source == target:
        src, dst = np.minimum(src, dst), np.maximum(src, dst)
        src, dst = src[src < dst], dst[src < dst]
    return Relation.of(name, source, target, src, dst, rng.uniform(0.3, 3, src.size), duplicates="first")


def random_graph(seed, *relations):
    """150 interactions, and relations as (name, source, target, edges drawn)."""
    rng = np.random.default_rng(seed)
    chose = relation("chose", "user", "item", 150, rng)
    drawn = [relation(*r, rng) for r in relations]
    return Graph(
        "user",
        "item",
        {name: IdMap(name, pl.Series(range(n))) for name, n in SIZES.items()},
        Relation.of("chose", "user", "item", chose.src, chose.dst),
        {r.name: r for r in drawn},
        "f",
    )


def over_degrees(a):
    """``D_r^-1/2 A D_c^-1/2``, 0 where a degree is."""
    root = np.sqrt(np.outer(a.sum(1), a.sum(0)))
    return np.divide(a, root, out=np.zeros_like(a), where=root > 0)


def interactions(graph):
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = 1
    return x


def item_filter(graph, name):
    """The definition: Â Âᵀ with items as rows, Â itself within the items."""
    r = graph.relations[name]
    a = np.zeros((SIZES[r.source], SIZES[r.target]))
    a[r.src, r.dst] = r.weight
    if r.source == r.target:
        return over_degrees(a + a.T)
    a = over_degrees(a if r.source == "item" else a.T)
    return a @ a.T
