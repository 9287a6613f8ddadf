"""Fitted runs of a small library whose readers have a favourite genre, with ids that need escaping in URLs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models import MODELS, Trained
from relrank.runs.fitted_run import FORMAT, FittedRun
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split

N_USERS, N_ITEMS, N_GENRES = 60, 48, 4
USERS = [f"reader {u}" if u else "a/b c?" for u in range(N_USERS)]
ITEMS = [1000 + i for i in range(N_ITEMS)]
GENRES = ["crime", "poems: old", "träume", "x/y"]
TITLES: list[str | None] = [f"Volume {i}" for i in range(N_ITEMS)]
TITLES[:6] = ["The Trial", "Le Café des Rêves", "the trial of the cat", "Trial and Error", None, "On trial, again"]


def genre_of() -> np.ndarray[Any, Any]:
    return np.arange(N_ITEMS) % N_GENRES


def parts(seed: int = 0) -> tuple[Interactions, Interactions, Interactions]:
    """Eight books each, mostly of one genre; the seventh is for validation and the eighth for the test."""
    rng = np.random.default_rng(seed)
    rows: list[list[tuple[int, int]]] = [[], [], []]
    for user in range(N_USERS):
        likes = np.where(genre_of() == user % N_GENRES, 1.0, 0.05) / (1 + np.arange(N_ITEMS) / 10)
        items = rng.choice(N_ITEMS, 8, replace=False, p=likes / likes.sum())
        for place, item in enumerate(items):
            rows[0 if place < 6 else place - 5].append((user, int(item)))
    train, valid, test = (Interactions(*np.array(r, np.int32).T.copy()) for r in rows)
    return train, valid, test


def graph_of(train: Interactions) -> Graph:
    items = np.arange(N_ITEMS)
    nodes = {
        "reader": IdMap("reader", pl.Series(USERS)), "book": IdMap("book", pl.Series(ITEMS)),
        "genre": IdMap("genre", pl.Series(GENRES)), "author": IdMap("author", pl.Series(range(12))),
        "town": IdMap("town", pl.Series(["Ulm", "Köln", "Bern"])),
    }  # fmt: skip
    relations = [
        Relation.of("has_genre", "book", "genre", items, genre_of()),
        Relation.of("wrote", "author", "book", items // 4, items),  # items are its target
        Relation.of("follows", "book", "book", items[:-1], items[1:]),
        Relation.of("lives_in", "reader", "town", np.arange(N_USERS), np.arange(N_USERS) % 3),
    ]
    places = np.arange(len(train)) % 6
    order = np.lexsort((train.item, train.user))
    return Graph(
        "reader", "book", nodes, Relation.of("interactions", "reader", "book", train.user, train.item),
        {r.name: r for r in relations}, "fingerprint", places=places[order].astype(np.int32),
    )  # fmt: skip


def library(
    model: str = "relational-ease", config: dict[str, Any] | None = None, seed: int = 0, successive: bool = False
) -> FittedRun:
    """A run of a solved or freshly initialised model."""
    train, valid, test = parts(seed)
    graph = graph_of(train)
    kind: Any = MODELS[model]
    fitted = kind(graph, kind.Config(**(config or {})))
    if isinstance(fitted, Trained):
        fitted.init_weights(seed)
        fitted.refresh()
    else:
        fitted.solve()
    split = Split(
        graph.nodes["reader"], graph.nodes["book"], train, valid, test, "library, seed 0", "fingerprint",
        ordered=True, successive=successive,
    )  # fmt: skip
    note = {
        "format": FORMAT, "model": model, "name": model, "arm": "all", "protocol": "library, seed 0",
        "config": config or {}, "fingerprint": "fingerprint", "ordered": True, "successive": successive,
    }  # fmt: skip
    titles = pl.DataFrame({"key": ITEMS, "title": TITLES})
    return FittedRun(fitted, graph, split, titles, note)


def constant(run: FittedRun) -> FittedRun:
    """The same run with a popularity model in which all items but two tie."""
    model: Any = MODELS["popularity"](run.graph)
    model.solve()
    model.counts[:] = 1
    model.counts[7], model.counts[9] = 2, 2
    return replace(run, model=model, note=run.note | {"model": "popularity"})
