"""Cornac's LightGCN on DGL, its loop taken step by step."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ["DGLBACKEND"] = "pytorch"

import numpy as np
import torch
from cornac.data import Dataset
from cornac.models.lightgcn.lightgcn import Model, construct_graph

from speed.loop import BATCH, DIM, L2, LAYERS, LR, Vectors, train
from speed.peer import Call, run


def _setup(call: Call) -> tuple[Iterator[float], int, Vectors]:
    data = call.data
    users = {row: row for row in range(data["n_users"])}
    items = {row: row for row in range(data["n_items"])}
    ones = np.ones(len(data["train_user"]), np.float32)
    known = Dataset(len(users), len(items), users, items, (data["train_user"], data["train_item"], ones), seed=0)
    torch.manual_seed(0)
    graph = construct_graph(known, len(users), len(items))
    model = Model(graph, DIM, LAYERS, L2)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    def steps() -> Iterator[float]:
        while True:
            for batch in known.uij_iter(batch_size=BATCH, shuffle=True):
                loss, _, _ = model.loss_fn(*model(graph, *batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield loss.item()

    def vectors() -> tuple[torch.Tensor, torch.Tensor]:
        u, i, _ = model(graph)
        return u, i

    return steps(), known.num_batches(BATCH), vectors


def lightgcn_step(call: Call) -> list[float]:
    """Seconds of one step, its negatives included."""
    steps, _, _ = _setup(call)
    return call.repeat(lambda: next(steps), call.options["times"])


def lightgcn_epoch(call: Call) -> list[float]:
    """Seconds of each epoch."""
    steps, count, vectors = _setup(call)
    return train(call, lambda: [next(steps) for _ in range(count)], vectors)


if __name__ == "__main__":
    run("cornac", "cornac", {"lightgcn_step": lightgcn_step, "lightgcn_epoch": lightgcn_epoch})
