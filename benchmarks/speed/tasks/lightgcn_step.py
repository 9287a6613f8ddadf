"""One training step of LightGCN: 64 dimensions, 3 layers, BPR on 8,192 edges with one uniform negative each, Adam.

Beside the step stand the products that it cannot do without: three forward and three backward, each over every edge
in both directions, by relrank and by torch's int32 CSR, taking turns with the step in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch

from graphs import graph_of
from relrank.graph.graph import Graph
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from speed.frame import Context, Entry, Row, Target
from speed.loop import BATCH, DIM, L2, LAYERS, LR
from speed.peer import Call, peak_mb
from speed.roofline import ROW_BYTES

PLAIN = RelationalLightGCNConfig(dim=DIM, layers=LAYERS, loss="bpr", negatives=1, shared=False, l2=L2, ridge=0.0)
"""LightGCN as it was published: BPR on dot products, one uniform negative per edge."""
PRODUCTS = 2 * LAYERS
OWN = "its six bare products"
TITLES = {"gowalla": "Gowalla, 29,858 × 40,981, 0.81 M", "generated": "generated, 53,398 × 9,999, 4.93 M"}
ONE_WAY = "edges in one direction alone: half the messages, another model"


def peers(times: int, pyg: float, coo: float | None = None) -> list[Entry]:
    """Everybody who trains LightGCN, and by how much relrank shall be faster."""
    return [
        Entry("pyg", "PyG, edge list", {"times": max(1, times // 5)}, pyg),
        Entry("torch_lightgcn", "torch COO (LightGCN-PyTorch's method)", {"layout": "coo"}, coo),
        Entry("torch_lightgcn", "torch CSR, its own autograd", {"layout": "csr"}),
        Entry("recbole", "RecBole"),
        Entry("cornac", "Cornac, DGL"),
        Entry("lenskit_lightgcn", "LensKit", note=ONE_WAY),
    ]


def asked(quick: bool) -> tuple[int, dict[str, list[Entry]]]:
    """Repeats, and who is asked on what: Gowalla, and a larger graph unless it has to be quick."""
    times = 5 if quick else 15
    found = {"gowalla": peers(times, pyg=20)}
    if not quick:
        found["generated"] = peers(times, pyg=40, coo=12)
    return times, found


def promised(quick: bool) -> Iterator[Row]:
    """Of the step and its products, and beside peers."""
    for name, others in asked(quick)[1].items():
        of = {"relrank": _of_step(None), OWN: _of_products(None)}
        of |= {entry.who: target for entry in others if (target := entry.target(None))}
        for who, target in of.items():
            yield Row("lightgcn_step", TITLES[name], who, None, note="not measured", target=target)


def _of_step(found: float | None) -> Target:
    return Target("at most 1.3 × its own six products", found, 1.3, at_least=False)


def _of_products(found: float | None) -> Target:
    return Target("at least 1.5 × faster than torch's int32 CSR product", found, 1.5)


def rows(context: Context) -> Iterator[Row]:
    """Everybody's step, and relrank's products."""
    times, everybody = asked(context.quick)
    for name, others in everybody.items():
        for row in context.compare("lightgcn_step", TITLES[name], context.input(name), others, times=times):
            yield from with_products(row, context) if row.figures.get("products") else [row]


def with_products(row: Row, context: Context) -> Iterator[Row]:
    """Relrank's row, of both its runs, with what it is held against: its own products of both, and torch's."""
    figures = row.figures
    least = figures["gathered_bytes"] / 1e9 / context.roofline.gather_small_gb_s
    assert row.seconds is not None
    ours, torchs = figures["products"], figures["torch_products"]
    yield replace(row, fraction=least / row.seconds, target=_of_step(row.seconds / ours))
    yield Row(
        row.task, row.data, OWN, ours, ours / row.seconds, fraction=least / ours,
        note="in the process of the step, taking turns", target=_of_products(torchs / ours),
    )  # fmt: skip
    yield Row(
        row.task, row.data, "six bare products of torch, int32 CSR", torchs, torchs / row.seconds,
        fraction=least / torchs, note="in the process of the step, taking turns",
    )  # fmt: skip


def stepper(graph: Graph, data: dict[str, Any]) -> tuple[RelationalLightGCN, Callable[[], float]]:
    """The model, and one step of it by public functions alone."""
    model = RelationalLightGCN(graph, PLAIN)
    model.init_weights(0)
    optimizer = torch.optim.Adam([model.table], lr=LR, fused=True)
    src, dst = (data[f"train_{end}"].astype(np.int64) for end in ("user", "item"))
    rng = np.random.default_rng(0)

    def step() -> float:
        picked = rng.integers(0, src.size, BATCH)
        optimizer.zero_grad(set_to_none=True)
        batch = model.prepare(src[picked], dst[picked], np.random.SeedSequence(int(rng.integers(1 << 32))))
        loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return model, step


def relrank(call: Call) -> list[float]:
    """Relrank's step, its products and torch's in turns; the seconds are the step's."""
    from speed.peers.torch_lightgcn import matrix

    data = call.data
    model, step = stepper(graph_of((data["train_user"], data["train_item"]), data["n_users"], data["n_items"]), data)
    for _ in range(3):
        step()
    call.peak_mb = peak_mb()
    blocks = model.blocks
    adjacency = matrix(data["train_user"], data["train_item"], data["n_users"], data["n_items"], "csr")
    table = torch.randn(blocks.n_nodes, DIM, generator=torch.Generator().manual_seed(0))

    def products() -> None:
        for _ in range(PRODUCTS):
            blocks.multiply(table, [1.0])

    def torch_products() -> None:
        for _ in range(PRODUCTS):
            adjacency @ table

    works: tuple[tuple[str, Callable[[], object]], ...] = (
        ("step", step), ("products", products), ("torch_products", torch_products),
    )  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name, _ in works}
    for number in range(3 + call.options["times"]):
        for name, work in works:
            began = time.perf_counter()
            work()
            if number >= 3:
                seconds[name].append(time.perf_counter() - began)
    call.figures |= {name: median(found) for name, found in seconds.items()}
    call.figures["gathered_bytes"] = PRODUCTS * 2 * len(data["train_user"]) * ROW_BYTES
    return seconds["step"]
