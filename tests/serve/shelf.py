"""A run with fourteen books, in which interactions and authors suggest different lists."""

from __future__ import annotations

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.runs.fitted_run import FittedRun
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split

HOSTILE = '<img src=x onerror="window.broken=1">&amp;<b>bold</b>'
TITLES = [
    "North Star", "Salt and Iron", "North Wind", HOSTILE, "The Long Road", "A Quiet River", "Red Lanterns",
    "The Glass House", "Winter Maps", "An Ordinary Day", "The Clockmaker", "Small Hours", "Blue Harbour",
    "Last Train",
]  # fmt: skip
AUTHORS = ["Ada", "Ben", "Cy"]
WRITTEN = [0, 1, 0, 1, 2, 2, 1, 2, 1, 2, 1, 2, 1, 2]  # only North Star and North Wind are Ada's
FITTED, MOST = 0.5, 16.0  # the weight of an author, and 32 times it


def chosen() -> list[tuple[int, int]]:
    """North Star goes with Salt and Iron and the hostile title; nobody chose it together with North Wind."""
    together = {
        (0, 1, 3): 6, (0, 1, 3, 4): 3, (0, 1): 2, (0, 1, 7): 1, (2, 5, 6): 4, (2, 5, 7): 3, (2, 6, 11): 2,
        (8, 9, 10): 2, (8, 10): 1, (10, 11, 12): 5, (9, 10, 12): 1, (4, 6, 13): 3, (4, 13): 1, (3, 4, 8): 1,
    }  # fmt: skip
    people = [items for items, times in together.items() for _ in range(times)]
    return [(user, item) for user, items in enumerate(people) for item in items]


def shelf(weights: dict[str, float] | None = None) -> FittedRun:
    """Relational EASE whose fitted weights favour the interactions over the authors."""
    users, items = IdMap("user", pl.Series(range(100, 135))), IdMap("book", pl.Series(range(1, 15)))
    src, dst = (np.array(side) for side in zip(*chosen(), strict=True))
    books = np.arange(14)
    graph = Graph(
        "user", "book",
        {
            "user": users, "book": items, "author": IdMap("author", pl.Series(AUTHORS)),
            "shelf": IdMap("shelf", pl.Series(["a", "b"])),
        },
        Relation.of("interactions", "user", "book", src, dst),
        {
            "written_by": Relation.of("written_by", "book", "author", books, np.array(WRITTEN)),
            "stands_on": Relation.of("stands_on", "book", "shelf", books, books % 2),
        },
        "f",
    )  # fmt: skip
    config = RelationalEASEConfig(l2=5.0, weight=0.5, weights={"written_by": FITTED} | (weights or {}))
    empty = Interactions(np.zeros(0, np.int32), np.zeros(0, np.int32))
    train = Interactions(src.astype(np.int32), dst.astype(np.int32))
    note = {
        "format": "relrank-run-4",
        "model": "relational-ease",
        "name": "relational-ease",
        "arm": "all",
        "protocol": "shelf, seed 0",
    }
    return FittedRun(
        RelationalEASE(graph, config).solve(), graph, Split(users, items, train, empty, empty, "shelf, seed 0", "f"),
        pl.DataFrame({"key": items.keys, "title": TITLES}), note,
    )  # fmt: skip


def titles(run: FittedRun, history: list[int | str], k: int = 10) -> list[str]:
    """The expected list, from the run itself."""
    return run.recommend_for(history, k)["title"].to_list()
