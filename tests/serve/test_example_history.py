"""The history that the page opens with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from library import library
from shelf import chosen, shelf

from relrank.models import MODELS
from relrank.runs.fitted_run import FittedRun
from relrank.serve.example_history import example_history
from relrank.serve.service import Service
from relrank.tables.split import Interactions


def titles(run: FittedRun) -> list[str | None]:
    return run.titles["title"].to_list()


def with_train(run: FittedRun, user: list[int], item: list[int]) -> FittedRun:
    train = Interactions(np.array(user, np.int32), np.array(item, np.int32))
    return replace(run, split=replace(run.split, train=train))


def test_best_known_items_of_a_typical_user() -> None:
    """Worked out by hand: of those with three or more items, the median has three; (0, 1, 3, 4) is rarer."""
    run = shelf()
    lengths = np.bincount([user for user, _ in chosen()])
    assert np.median(lengths[lengths >= 3]) == 3
    example = example_history(run, titles(run))
    assert example is not None
    user, items = example
    assert items == [item for of, item in chosen() if of == user]
    popularity = np.bincount([item for _, item in chosen()])
    near = [u for u in range(35) if lengths[u] >= 3]
    assert max(near, key=lambda u: (min(lengths[u], 4), np.log(popularity[run.train_history(u)]).mean())) == user


def test_it_is_the_same_for_all_models_of_a_split() -> None:
    run = library()
    other = library("popularity")
    assert example_history(run, titles(run)) == example_history(other, titles(other))
    assert example_history(run, titles(run)) == example_history(library(), titles(run))


def test_at_most_four_items_oldest_first_with_different_titles() -> None:
    run = library()
    named = [title or "none" for title in titles(run)]
    user, items = example_history(run, named) or (0, [])
    assert len(items) == 4
    history = run.train_history(user).tolist()
    assert [item for item in history if item in items] == items
    popularity = np.bincount(run.split.train.item)
    assert popularity[items].min() >= popularity[[item for item in history if item not in items]].max()
    same = ["One and the same"] * 40 + named[40:]
    _, items = example_history(run, same) or (0, [])
    assert sum(item < 40 for item in items) <= 1


def test_items_without_titles_and_short_histories_do() -> None:
    run = library()
    user, items = example_history(run, [None] * 48) or (0, [])
    assert len(items) == 4
    shown = replace(run, titles=run.titles.with_columns(title=pl.lit(None, pl.String)))
    example = Service({"one": shown}).runs()["runs"][0]["example"]
    assert example["user"] == f"reader {user}"
    assert example["items"] == [{"item": 1000 + item, "title": None} for item in items]
    one_each = with_train(shelf(), [3, 5], [7, 9])
    assert example_history(one_each, titles(one_each)) in ((3, [7]), (5, [9]))


def test_a_run_without_interactions_has_none() -> None:
    run = with_train(shelf(), [], [])
    assert example_history(run, titles(run)) is None
    model = MODELS["popularity"](run.graph).solve()
    service = Service({"one": replace(run, model=model)})
    assert service.runs()["runs"][0]["example"] is None
