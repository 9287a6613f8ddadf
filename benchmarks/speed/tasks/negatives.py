"""A million negatives of Gowalla: items that the user of a training edge does not have, in batches of 8,192 edges.

Per edge and independent; and, for relrank alone, a batch's shared ones with the mask of who has which.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from relrank.graph.sampling.negatives import KINDS, NegativeSampler
from relrank.kernels.csr import Csr
from speed.environments import Skipped
from speed.frame import Context, Entry, Row
from speed.peer import Call

BATCH, SHARED = 8192, 1024
TITLE = "Gowalla, {} per edge, a million"
ASKED: dict[str, tuple[dict[str, Any], tuple[Entry, ...]]] = {
    "1 uniform": (
        {"kind": "uniform", "n": 1},
        (
            Entry("plain", "NumPy, rejection of a whole batch at once"),
            Entry("recbole_sampling", "RecBole, Sampler"),
            Entry("pyg_sampling", "PyG, structured_negative_sampling", note="all edges at once, as it works"),
        ),
    ),
    "64 uniform": (
        {"kind": "uniform", "n": 64},
        (Entry("plain", "NumPy, rejection of a whole batch at once"), Entry("recbole_sampling", "RecBole, Sampler")),
    ),
    "64 by popularity": (
        {"kind": "popularity", "n": 64},
        (Entry("plain", "NumPy, rejection of a whole batch at once"), Entry("recbole_sampling", "RecBole, Sampler")),
    ),
}


def rows(context: Context) -> Iterator[Row]:
    """Per edge beside others, then shared."""
    file = context.input("gowalla")
    for name, (options, peers) in ASKED.items():
        yield from context.compare("negatives", TITLE.format(name), file, peers, batch=BATCH, rounds=5, **options)
    shared = context.run_peer("relrank", "negatives", file, batch=BATCH, rounds=5, n=SHARED, kind="all shared")
    for kind in KINDS:
        title = f"Gowalla, a batch with {SHARED:,} shared, {kind}"
        if isinstance(shared, Skipped):
            yield Row("negatives", title, "relrank", None, note=shared.why)
        else:
            seconds = shared.figures[kind]
            yield Row("negatives", title, "relrank", seconds, 1.0, shared.peak_mb, version=shared.version)


def relrank(call: Call) -> list[float]:
    """Whole batches, until there are half a million draws at least."""
    data, options = call.data, call.options
    positives = Csr.from_pairs(data["train_user"], data["train_item"], (data["n_users"], data["n_items"]))
    user, item = (data[f"train_{side}"].astype(np.int64) for side in ("user", "item"))
    shared = options["kind"] == "all shared"
    batches = 20 if shared else max(1, 500_000 // (options["batch"] * options["n"]))
    picked = [np.random.default_rng(k).permutation(user.size)[: options["batch"]] for k in range(batches)]
    edges = [(user[at], item[at], np.random.SeedSequence(k)) for k, at in enumerate(picked)]

    def seconds(kind: str) -> list[float]:
        sampler = NegativeSampler(positives, kind, options["n"], shared)

        def work() -> None:
            for users, items, seed in edges:
                sampler.draw(users, items, seed)

        return call.repeat(work, options["rounds"])

    if shared:
        call.figures |= {kind: median(seconds(kind)) / batches for kind in KINDS}
        return list(call.figures.values())
    return [1e6 * spent / (batches * options["batch"] * options["n"]) for spent in seconds(options["kind"])]
