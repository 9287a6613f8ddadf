"""The linear model that most would fit instead of a closed form: alternating least squares; seconds and quality.

Seconds are of fitting and of ranking every user. Gowalla beside GF-CF (EASE needs an inverse of 29,858² there), liked
books beside EASE. The factorisation's settings are the best of about a dozen on the rows that it is judged on, which
favours it; relrank's are the defaults.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from graphs import graph_of
from relrank.evaluation.evaluate import evaluate
from relrank.models import MODELS, ClosedForm
from relrank.tables.split import Interactions
from speed.frame import Context, Entry, Row
from speed.peer import Call
from speed.tasks.ranking import K, split_of

SETTINGS = {
    "gowalla": {"factors": 256, "regularization": 30.0, "alpha": 40.0, "iterations": 15},
    "goodbooks": {"factors": 256, "regularization": 10.0, "alpha": 10.0, "iterations": 15},
}
TITLES = {
    "gowalla": ("Gowalla, 29,858 × 40,981, 0.81 M", "gf-cf"),
    "goodbooks": ("liked books, 28,968 × 9,993, 0.57 M", "ease"),
}


def rows(context: Context) -> Iterator[Row]:
    """Both data sets."""
    for name, (title, model) in TITLES.items():
        entry = Entry("implicit", "implicit, AlternatingLeastSquares", SETTINGS[name])
        found = context.compare("als", title, context.input(name), [entry], model=model, rounds=1)
        for row in found:
            if row.seconds is None:
                yield row
                continue
            note = f"NDCG@20 {row.figures['ndcg@20']:.4f}, fit alone {row.figures['fit_s']:.3g} s"
            who = f"relrank, {model}" if row.who == "relrank" else row.who
            yield replace(row, who=who, note="; ".join(filter(None, (note, row.note))))


def relrank(call: Call) -> list[float]:
    """A closed form, fitted and evaluated; a small graph first, which compiles."""
    data = call.data
    kind = MODELS[call.options["model"]]
    assert issubclass(kind, ClosedForm)
    fits: list[float] = []

    def work(n_users: int) -> float:
        mine = {part: data[f"{part}_user"] < n_users for part in ("train", "test")}
        train, test = (
            Interactions(data[f"{part}_user"][kept], data[f"{part}_item"][kept]) for part, kept in mine.items()
        )
        split = split_of(train, test, n_users, data["n_items"])
        graph = graph_of((train.user, train.item), n_users, data["n_items"])
        began = time.perf_counter()
        model = kind(graph).solve()
        fits.append(time.perf_counter() - began)
        summary = evaluate(model, split, (K,)).summary
        call.figures["ndcg@20"] = summary["ndcg@20"]
        return time.perf_counter() - began

    work(500)
    seconds = [work(data["n_users"]) for _ in range(call.options["rounds"])]
    call.figures["fit_s"] = median(fits[1:])
    return seconds
