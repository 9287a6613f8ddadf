from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from featured import dense, featured

from relrank.graph.graph import Graph, Relation
from relrank.models.two_view import TwoView, TwoViewConfig
from relrank.tables.ids import IdMap
from relrank.testing import BLOCKS, TrainedContract, planted_auc, planted_graph
from relrank.training import TrainConfig, fit

BUDGET = TrainConfig(epochs=12, batch=512, lr=0.02, every=3, device="cpu")


def written(graph: Graph | None = None, per_item: int = 2, noise: float = 0.5, seed: int = 0) -> Graph:
    """The planted graph with texts: every item but each seventh has some, whose vectors know the item's block."""
    graph = planted_graph() if graph is None else graph
    items = np.repeat(np.flatnonzero(np.arange(graph.n_items) % 7 != 6), per_item)
    texts = np.random.default_rng(seed).permutation(items.size)
    x = dense("review", "review", graph.n_items, noise=noise, seed=seed)
    by_item = np.empty(items.size, np.int64)
    by_item[texts] = items
    known = x.known[by_item]
    feature = replace(x, known=known, dense=x.dense[by_item] * known[:, None])
    return replace(
        graph,
        nodes=graph.nodes | {"review": IdMap("review", pl.Series(range(items.size)))},
        relations=graph.relations | {"has_review": Relation.of("has_review", "item", "review", items, texts)},
        features=graph.features | {"review": feature},
    )


class Contract(TrainedContract):
    kind = TwoView
    train = BUDGET
    node_tables = ("table",)
    propagates = True

    def graph(self):
        return written()


class TestTwoViews(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)


class TestReranked(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, scorer="rerank", top=120, candidates=8)


class TestFeaturesAndSampledNegatives(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, loss="softmax", negatives=64)

    def graph(self):
        return featured(written(planted_graph(96, 80, 8)), users=False)


class TestInteractionsAlone(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)

    def graph(self):
        return planted_graph().only()
