"""PyG's negative and neighbour sampling."""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE
from torch_geometric.utils import structured_negative_sampling

from speed.peer import Call, run


def negatives(call: Call) -> list[float]:
    """One for each of all edges."""
    user, item = (torch.from_numpy(call.data[f"train_{side}"].astype(np.int64)) for side in ("user", "item"))
    edges, n_items = torch.stack([user, item]), call.data["n_items"]
    torch.manual_seed(0)
    seconds = call.repeat(lambda: structured_negative_sampling(edges, n_items), call.options["rounds"])
    return [1e6 * spent / len(user) for spent in seconds]


def neighbours(call: Call) -> list[float]:
    """Its loader, asked for one batch of seeds after the other."""
    if not (WITH_PYG_LIB or WITH_TORCH_SPARSE):
        sys.exit("NeighborLoader needs pyg-lib or torch-sparse; the package index has wheels of neither")
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    data, options = call.data, call.options
    user, item = (torch.from_numpy(data[f"train_{side}"].astype(np.int64)) for side in ("user", "item"))
    item = item + data["n_users"]
    edges = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    n_nodes = data["n_users"] + data["n_items"]
    loader = NeighborLoader(Data(edge_index=edges, num_nodes=n_nodes), options["fanouts"], batch_size=1)
    starts = [torch.from_numpy(np.random.default_rng(k).permutation(n_nodes)[: options["seeds"]]) for k in range(4)]
    drawn = [0]

    def work() -> None:
        drawn[0] = sum(int(loader(seeds).edge_index.shape[1]) for seeds in starts)

    seconds = call.repeat(work, options["rounds"])
    call.figures["edges"] = drawn[0] // len(starts)
    return [1e6 * spent / drawn[0] for spent in seconds]


if __name__ == "__main__":
    run("pyg_sampling", "torch-geometric", {"negatives": negatives, "neighbours": neighbours})
