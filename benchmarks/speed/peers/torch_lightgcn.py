"""LightGCN by torch's sparse product and its autograd, with one symmetric matrix over all nodes.

``--layout coo`` is how RecBole and LightGCN-PyTorch have it, ``csr`` the same with compressed int32 rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from speed.loop import BATCH, DIM, L2, LAYERS, LR, Draws, Vectors, train
from speed.peer import Call, run

Int32 = npt.NDArray[np.int32]


def matrix(user: Int32, item: Int32, n_users: int, n_items: int, layout: str) -> Tensor:
    """D^-1/2 A D^-1/2 over users and items, float32."""
    n = n_users + n_items
    src, dst = torch.from_numpy(user.astype(np.int64)), torch.from_numpy(item.astype(np.int64)) + n_users
    rows, columns = torch.cat([src, dst]), torch.cat([dst, src])
    degrees = torch.bincount(rows, minlength=n).float()
    values = (degrees[rows] * degrees[columns]).rsqrt()
    coo = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (n, n)).coalesce()
    if layout == "coo":
        return coo
    csr = coo.to_sparse_csr()
    return torch.sparse_csr_tensor(csr.crow_indices().int(), csr.col_indices().int(), csr.values(), (n, n))


def _setup(call: Call) -> tuple[Callable[[], float], Vectors, int]:
    warnings.simplefilter("ignore")  # CSR is in beta
    draws = Draws(call.data)
    n_users = draws.n_users
    data = call.data
    adjacency = matrix(data["train_user"], data["train_item"], n_users, draws.n_items, call.options["layout"])
    table = torch.nn.Parameter(torch.empty(len(adjacency), DIM))
    torch.nn.init.normal_(table, std=0.1, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam([table], lr=LR, fused=True)

    def propagated() -> tuple[Tensor, Tensor]:
        layers: list[Tensor] = [table]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(adjacency, layers[-1]))
        z = torch.stack(layers, 1).mean(1)
        return z[:n_users], z[n_users:]

    def step() -> float:
        user, item, other = draws.next()
        users, items = propagated()
        u, i, j = users[user], items[item], items[other]
        ranked = functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean()
        raw = table[user], table[item + n_users], table[other + n_users]
        loss = ranked + L2 * 0.5 * sum(x.square().sum() for x in raw) / len(user)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step, propagated, -(-len(draws.user) // BATCH)


def lightgcn_step(call: Call) -> list[float]:
    """Seconds of one step."""
    return call.repeat(_setup(call)[0], call.options["times"])


def lightgcn_epoch(call: Call) -> list[float]:
    """Seconds of each epoch."""
    step, vectors, steps = _setup(call)
    return train(call, lambda: [step() for _ in range(steps)], vectors)


if __name__ == "__main__":
    run("torch_lightgcn", "torch", {"lightgcn_step": lightgcn_step, "lightgcn_epoch": lightgcn_epoch})
