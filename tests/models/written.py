"""The planted graph with texts that depend on the blocks."""

from dataclasses import replace

import numpy as np
import polars as pl
from featured import dense

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap
from relrank.testing import planted_graph


def written(graph: Graph | None = None, per_item: int = 2, noise: float = 0.5, seed: int = 0) -> Graph:
    """Every item but each seventh has some texts, whose vectors depend on the item's block; a tenth are missing."""
    graph = planted_graph() if graph is None else graph
    items = np.repeat(np.flatnonzero(np.arange(graph.n_items) % 7 != 6), per_item)
    texts = np.random.default_rng(seed).permutation(items.size)
    x = dense("has_review", "review", graph.n_items, noise=noise, seed=seed)
    by_text = np.empty(items.size, np.int64)
    by_text[texts] = items
    assert x.dense is not None
    own = np.random.default_rng(seed + 1).normal(0, 0.3, (items.size, x.dims)) * x.known[by_text][:, None]
    feature = replace(x, known=x.known[by_text], dense=(x.dense[by_text] + own).astype(np.float32))
    return replace(
        graph,
        nodes=graph.nodes | {"review": IdMap("review", pl.Series(range(items.size)))},
        relations=graph.relations | {"has_review": Relation.of("has_review", "item", "review", items, texts)},
        features=graph.features | {"has_review": feature},
    )
