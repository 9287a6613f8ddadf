"""A million sampled edges: two layers, ten neighbours of each seed and fifteen of each of theirs, ready for torch.

Seeds are distinct nodes drawn uniformly. NumPy slices out every neighbour, gives each a random key and keeps the
first of each node, which is the same distribution; with replacement it has less to do. Edges are counted by each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphs import graph_of
from relrank.graph.sampling.blocks import Adjacency
from relrank.graph.sampling.neighbour_sampling import NeighbourSampler
from speed.frame import Context, Entry, Row
from speed.peer import Call

FANOUTS, SEEDS = (10, 15), 8192
TITLES = {
    "gowalla": "Gowalla, 29,858 × 40,981, 0.81 M, a million edges",
    "generated": "generated, 53,398 × 9,999, 4.93 M, a million edges",
}
PEERS = (
    Entry("plain", "NumPy", {"replace": False}),
    Entry("plain", "NumPy, with replacement", {"replace": True}),
    Entry("pyg_sampling", "PyG, NeighborLoader"),
)


def rows(context: Context) -> Iterator[Row]:
    """Both graphs, or the first if it has to be quick."""
    for name, title in list(TITLES.items())[: 1 if context.quick else 2]:
        yield from context.compare(
            "neighbours", title, context.input(name), PEERS, seeds=SEEDS, fanouts=list(FANOUTS), rounds=5
        )


def relrank(call: Call) -> list[float]:
    """On all threads."""
    data, options = call.data, call.options
    pairs = data["train_user"], data["train_item"]
    adjacency = Adjacency(graph_of(pairs, data["n_users"], data["n_items"]))
    sampler = NeighbourSampler(adjacency, options["fanouts"])
    starts = [np.random.default_rng(k).permutation(adjacency.n_nodes)[: options["seeds"]] for k in range(4)]
    drawn = [0]

    def work() -> None:
        drawn[0] = 0
        for number, seeds in enumerate(starts):
            blocks = sampler.sample(seeds, np.random.SeedSequence(number))
            drawn[0] += sum(block.n_edges for block in blocks)

    seconds = call.repeat(work, options["rounds"])
    call.figures["edges"] = drawn[0] // len(starts)
    return [1e6 * spent / drawn[0] for spent in seconds]
