"""The planted graph with features that depend on the blocks."""

from dataclasses import replace

import numpy as np

from relrank import testing
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr

BLOCKS = testing.BLOCKS


def dense(name: str, node: str, n: int, dims: int = 6, noise: float = 0.5, seed: int = 0) -> Feature:
    """A direction per block, and noise; every tenth node's is missing."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BLOCKS, dims))[np.arange(n) % BLOCKS] + noise * rng.standard_normal((n, dims))
    known = np.arange(n) % 10 != 9
    x = (x - x[known].mean(0)) * known[:, None]
    return Feature(name, node, known, dense=x.astype(np.float32))


def sparse(name: str, node: str, n: int, seed: int = 0) -> Feature:
    """One of three values of the block, and one of ten that mean nothing."""
    rng = np.random.default_rng(seed)
    own = np.arange(n) % BLOCKS + BLOCKS * rng.integers(0, 3, n)
    columns = np.concatenate([own, 3 * BLOCKS + rng.integers(0, 10, n)])
    table = Csr.from_pairs(np.tile(np.arange(n), 2), columns, (n, 3 * BLOCKS + 10))
    return Feature(name, node, np.ones(n, bool), sparse=table)


def featured(graph: Graph | None = None, users: bool = False) -> Graph:
    """The planted graph, items (and users) with features."""
    graph = testing.planted_graph() if graph is None else graph
    features = [dense("look", "item", graph.n_items), sparse("words", "item", graph.n_items)]
    if users:
        features.append(dense("age", "user", graph.n_users, seed=1))
    return replace(graph, features={f.name: f for f in features})
