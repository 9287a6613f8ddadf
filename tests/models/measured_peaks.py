"""Prints estimate and measured peak, in bytes, of each model named: of one solution or step, and of scoring."""

import json
import sys

import numpy as np
import polars as pl
import torch

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models import MODELS, ClosedForm
from relrank.models.core.estimates import SCORE_BLOCK
from relrank.models.core.sparse_linear import SparseLinear
from relrank.parallel.memory import peak_memory, reset_peak_memory
from relrank.tables.ids import IdMap

BATCH = 1024


def graph_of(n_users: int, n_items: int, seed: int = 0) -> Graph:
    """Twelve items a user, and a brand of each item."""
    rng = np.random.default_rng(seed)
    pairs = np.unique(np.repeat(np.arange(n_users), 12) * n_items + rng.integers(0, n_items, 12 * n_users))
    user = pairs // n_items
    places = (np.arange(pairs.size) - np.searchsorted(user, user)).astype(np.int32)
    nodes = {
        name: IdMap(name, pl.Series(range(n))) for name, n in (("user", n_users), ("item", n_items), ("brand", 40))
    }
    brand = Relation.of("brand", "item", "brand", np.arange(n_items), rng.integers(0, 40, n_items))
    edges = Relation.of("chose", "user", "item", user, pairs % n_items)
    return Graph("user", "item", nodes, edges, {"brand": brand}, "generated", places=places)


def resident() -> int:
    """Bytes now."""
    reset_peak_memory()
    return peak_memory()


def once(name: str, graph: Graph) -> None:
    """Solve, or train one step; then score a block of users."""
    kind = MODELS[name]
    model = kind(graph)
    if issubclass(kind, ClosedForm):
        model.solve()
    else:
        model.init_weights(0)
        users, items = (side[:BATCH].astype(np.int64) for side in model.examples())
        optimizer = torch.optim.Adam(model.parameters())
        model.loss(model.prepare(users, items, np.random.SeedSequence(0))).backward()
        optimizer.step()
        model.refresh()
    if isinstance(model, SparseLinear):
        return  # these are ranked without a block of scores
    with torch.no_grad():
        model.score(torch.arange(min(graph.n_users, SCORE_BLOCK // (4 * graph.n_items))))


def main() -> None:
    """One line of JSON."""
    small, large = graph_of(300, 200), graph_of(9_000, 4_000)
    found: dict[str, tuple[int, int]] = {}
    for name in sys.argv[1:]:
        kind = MODELS[name]
        once(name, small)
        if issubclass(kind, ClosedForm):
            kind.clear_cache()
            estimate = kind.estimate(large, kind.Config())
        else:
            estimate = kind.estimate(large, kind.Config(), BATCH)
        before = resident()
        once(name, large)
        found[name] = estimate.bytes, peak_memory() - before
        if issubclass(kind, ClosedForm):
            kind.clear_cache()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
