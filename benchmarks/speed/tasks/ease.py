"""EASE fitted on 53,398 users and 9,999 items, 4.93 M interactions: from the pairs to the weights of all items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from graphs import graph_of
from relrank.models.closed_form.ease import EASE, EASEConfig
from speed.frame import Context, Entry, Row, void_where_unlike
from speed.peer import Call

L2 = 200.0
TITLE = "generated, 53,398 × 9,999, 4.93 M"
PEERS = (
    Entry("lenskit", "LensKit"),
    Entry("rectools", "RecTools"),
    Entry("plain", "NumPy, general inverse", {"solver": "inverse"}),
    Entry("plain", "SciPy, Cholesky", {"solver": "cholesky"}),
)


def rows(context: Context) -> Iterator[Row]:
    """Everybody; all must find the same weights."""
    file = context.input("generated")
    found = list(context.compare("ease", TITLE, file, PEERS, rounds=1, l2=L2))
    operations = 9_999**3  # of a Cholesky inverse; the Gram matrix is sparse
    limit = context.roofline.sgemm_gflop_s * 1e9
    found = [row if row.seconds is None else replace(row, fraction=operations / row.seconds / limit) for row in found]
    yield from void_where_unlike(found, "weight", 1e-4)


def relrank(call: Call) -> list[float]:
    """The model made and solved; the first solution, on a small graph, compiles."""
    data = call.data
    few = data["train_item"] < 50  # users are the larger side, as in the whole
    for kept in (few, slice(None)):
        pairs = data["train_user"][kept], data["train_item"][kept]
        graph = graph_of(pairs, int(pairs[0].max()) + 1, int(pairs[1].max()) + 1)
        if kept is few:
            EASE(graph, EASEConfig(call.options["l2"])).solve()

    def work() -> None:
        model = EASE(graph, EASEConfig(call.options["l2"])).solve()
        weights = -model.projection[0].numpy() / model.diagonal.numpy()
        weights[0] = 0
        call.figures["weight"] = float(np.linalg.norm(weights))

    return call.repeat(work, call.options["rounds"], warm_up=0)
