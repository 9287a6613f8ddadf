"""The graphs that several benchmarks share: the Gowalla of the LightGCN paper, and a generated one of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap

Pairs = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


def generated_pairs(n_users: int, n_items: int, n_edges: int, seed: int) -> Pairs:
    """Distinct pairs, users uniform, items by a power law."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, n_items + 1) ** 0.5
    pairs = np.empty(0, np.int64)
    while pairs.size < n_edges:
        user = rng.integers(0, n_users, n_edges)
        item = rng.choice(n_items, n_edges, p=chance / chance.sum())
        pairs = np.unique(np.concatenate([pairs, user * n_items + item]))
    pairs = rng.permutation(pairs)[:n_edges]
    return (pairs // n_items).astype(np.int32), (pairs % n_items).astype(np.int32)


def gowalla_pairs(folder: Path) -> dict[str, Pairs]:
    """``train`` and ``test`` as published, by the files' own numbers, which are rows already."""
    from relrank.tables.dataset_formats import read_lists

    found: dict[str, Pairs] = {}
    for part in ("train", "test"):
        rows = read_lists(folder / f"{part}.txt")
        found[part] = rows["user"].to_numpy().astype(np.int32), rows["item"].to_numpy().astype(np.int32)
    return found


def graph_of(pairs: Pairs, n_users: int, n_items: int) -> Graph:
    """Interactions alone."""
    nodes = {"user": IdMap("user", pl.Series(range(n_users))), "item": IdMap("item", pl.Series(range(n_items)))}
    edges = Relation.of("interactions", "user", "item", *pairs)
    return Graph("user", "item", nodes, edges, {}, "benchmark")
