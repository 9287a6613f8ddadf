"""PyG's LightGCN on an edge list in both directions, as documented, but for Adam, which is fused here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch_geometric.nn import LightGCN

from speed.loop import BATCH, DIM, L2, LAYERS, LR, Draws, Vectors, train
from speed.peer import Call, run


def _setup(call: Call) -> tuple[Callable[[], float], Vectors, int]:
    draws = Draws(call.data)
    n_users, n_items = draws.n_users, draws.n_items
    torch.manual_seed(0)
    model = LightGCN(n_users + n_items, DIM, LAYERS)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    src, dst = draws.user, draws.item + n_users
    edges = torch.stack([torch.cat([src, dst]), torch.cat([dst, src])])

    def step() -> float:
        user, item, other = draws.next()
        pairs = torch.cat([torch.stack([user, end + n_users]) for end in (item, other)], 1)
        optimizer.zero_grad()
        positive, negative = model(edges, pairs).chunk(2)
        loss = model.recommendation_loss(positive, negative, node_id=pairs.unique(), lambda_reg=L2)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def vectors() -> tuple[torch.Tensor, torch.Tensor]:
        table = model.get_embedding(edges)
        return table[:n_users], table[n_users:]

    return step, vectors, -(-len(src) // BATCH)


def lightgcn_step(call: Call) -> list[float]:
    """Seconds of one step."""
    return call.repeat(_setup(call)[0], call.options["times"])


def lightgcn_epoch(call: Call) -> list[float]:
    """Seconds of each epoch."""
    step, vectors, steps = _setup(call)
    return train(call, lambda: [step() for _ in range(steps)], vectors)


if __name__ == "__main__":
    run("pyg", "torch-geometric", {"lightgcn_step": lightgcn_step, "lightgcn_epoch": lightgcn_epoch})
