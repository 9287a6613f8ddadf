"""One training step of LightGCN: 64 dimensions, 3 layers, BPR on 8,192 edges with one uniform negative each, Adam."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from graphs import graph_of
from relrank.models.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from speed.frame import Context, Entry, Row
from speed.peer import Call

DIM, LAYERS, BATCH = 64, 3, 8192
PLAIN = RelationalLightGCNConfig(
    dim=DIM, layers=LAYERS, loss="bpr", similarity="dot", temperature=1.0, negatives=1, shared=False, l2=1e-4
)
"""LightGCN as it was published: BPR on dot products, one uniform negative per edge."""
TITLES = {"gowalla": "Gowalla, 29,858 × 40,981, 0.81 M", "generated": "generated, 53,398 × 9,999, 4.93 M"}


def rows(context: Context) -> Iterator[Row]:
    """Both graphs."""
    for name, title in TITLES.items():
        peers: list[Entry] = []
        yield from context.compare("lightgcn_step", title, context.input(name), peers, times=15)


def relrank(call: Call) -> list[float]:
    """Our step, with public functions alone."""
    data = call.data
    model = RelationalLightGCN(
        graph_of((data["train_user"], data["train_item"]), data["n_users"], data["n_items"]), PLAIN
    )
    model.init_weights(0)
    optimizer = torch.optim.Adam([model.table], lr=1e-3, fused=True)
    src, dst = (data[side].astype(np.int64) for side in ("train_user", "train_item"))
    rng = np.random.default_rng(0)

    def step() -> float:
        picked = rng.integers(0, src.size, BATCH)
        optimizer.zero_grad(set_to_none=True)
        batch = model.prepare(src[picked], dst[picked], np.random.SeedSequence(int(rng.integers(1 << 32))))
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return call.repeat(step, call.options["times"], warm_up=3)
