"""Softmax over the whole catalogue, forward and backward, beside torch's cross-entropy, which is given the same.

2,000 users and 7,770 items. Per edge: 8,192 edges, 140,000 known pairs masked, which torch gets as the gathered row
of every edge. Per user: one edge of each, nothing masked.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from relrank.models.core.losses import full_softmax
from speed.frame import Context, Entry, Row, void_where_unlike
from speed.peer import Call

TEMPERATURE = 0.2
TITLES = {"edges": "8,192 edges, known pairs masked", "users": "2,000 users, nothing masked"}


def rows(context: Context) -> Iterator[Row]:
    """Both; the losses must be the same."""
    for per, title in TITLES.items():
        found = context.compare(
            "softmax", title, context.input("scores"), [Entry("plain", "torch, cross_entropy")],
            per=per, temperature=TEMPERATURE, rounds=7,
        )  # fmt: skip
        yield from void_where_unlike(list(found), "loss", 1e-4)


def relrank(call: Call) -> list[float]:
    """Our loss on given scores."""
    data = {name: torch.from_numpy(array) for name, array in call.data.items()}
    scores, known = data["scores"].requires_grad_(), (data["known_user"], data["known_item"])
    users, items = known[0][data["edges"]], known[1][data["edges"]]

    def work() -> None:
        scores.grad = None
        if call.options["per"] == "edges":
            loss = full_softmax(scores, users, items, known, call.options["temperature"])
        else:
            n = len(scores)
            loss = full_softmax(scores, torch.arange(n), items[:n], None, call.options["temperature"])
        loss.backward()  # type: ignore[no-untyped-call]
        call.figures["loss"] = float(loss.detach())

    return call.repeat(work, call.options["rounds"])
