"""The order of histories in a study and in a saved model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from shops import SHOP
from studies import open_study

from relrank.errors import InputError
from relrank.graph.construction.build_graph import InteractionWeights, build_graph
from relrank.graph.histories import Sequences
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.sequence.sasrec import SASRec, SASRecConfig
from relrank.runs.fitted_run import FittedRun, load_run, save_run
from relrank.study.fit_cell import refit_graph
from relrank.study.grid import grid
from relrank.study.run import run_study
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import Tables

STUDY = f"""{SHOP}time = "time"
[protocol]
name = "shop-split"
split = "random-leave-one-out"
[study]
seeds = [0]
[[models]]
name = "item-knn"
"""
BOUGHT = {c: [(7 * c + 3 * k * k + 5 * k) % 23 for k in range(8)] for c in range(9)}
"""Products by customer, oldest first; what occurs twice counts once."""
ROWS = [(f"c{c}", f"p{i}", 10 * k + c) for c, items in BOUGHT.items() for k, i in enumerate(dict.fromkeys(items))]


def tables() -> Tables:
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    return Tables("shop", "user", "item", frame.sample(fraction=1.0, shuffle=True, seed=0), time_unit="s")


def kept(
    folder: Path, split: str, kind: type[SASRec | ItemKNN] = SASRec, half_life: float | None = None
) -> FittedRun:
    """A model with random weights, saved; its run."""
    shop = tables()
    cut = make_split(shop, check({"name": "m", "split": split}, ProtocolConfig, "m"), 0)
    weights = InteractionWeights(weight="decay", half_life=half_life) if half_life else None
    graph = build_graph(shop, cut, {}, None, weights)
    if kind is ItemKNN:
        model = ItemKNN(graph).solve()
        config = {}
    else:
        model = SASRec(graph, SASRecConfig(dim=8, window=3, init_scale=0.5))
        model.init_weights(0)
        config = {"dim": 8, "window": 3, "init_scale": 0.5}
    note = {
        "format": "relrank-run-4", "model": kind.name, "name": kind.name, "arm": "interactions",
        "config": config, "protocol": "m", "fingerprint": cut.fingerprint, "ordered": cut.ordered,
        "successive": cut.successive,
    }  # fmt: skip
    return save_run(model, graph, cut, shop, note, folder)


def bought(customer: str) -> list[str]:
    return [item for user, item, _ in ROWS if user == customer]


def assert_best(found: pl.DataFrame, run: FittedRun, scores: torch.Tensor, without: list[str]) -> None:
    """The highest scores of what was not bought, under their own keys; equal ones in any order."""
    by_key = dict(zip(run.split.items.keys, scores.tolist(), strict=True))
    highest = sorted((score for key, score in by_key.items() if key not in without), reverse=True)[:5]
    assert found["score"].to_list() == pytest.approx(highest, rel=1e-5)
    assert [by_key[key] for key in found["item"]] == pytest.approx(highest, rel=1e-5)
    assert set(found["item"]).isdisjoint(without)


def folded(run: FittedRun, items: list[str]) -> torch.Tensor:
    rows = run.split.items.rows(pl.Series(items), "test").astype(np.int64)
    return run.model.fold_in([torch.from_numpy(rows)])[0]


@pytest.mark.parametrize("kind", [SASRec, ItemKNN])
def test_recommendations_follow_the_whole_history_where_it_goes_on(
    kind: type[SASRec | ItemKNN], tmp_path: Path
) -> None:
    """All purchases of a customer, the held-out rows last; the next purchase is predicted."""
    run = kept(tmp_path / "run", "last-leave-one-out", kind)
    again = load_run(tmp_path / "run")
    assert (again.split.ordered, again.split.successive) == (True, True)
    for row, customer in enumerate(run.split.users.keys):
        own = bought(customer)
        assert again.history(customer)["item"].to_list() == own
        scores = folded(run, own)
        assert not torch.allclose(scores, run.model.score(torch.tensor([row]))[0], rtol=1e-3)
        for r in (run, again):
            assert_best(r.recommend(customer, 5), run, scores, own)
            assert r.recommend_for(own, 5).equals(r.recommend(customer, 5))


def test_recommendations_are_those_of_training_where_rows_were_held_out_at_random(tmp_path: Path) -> None:
    """A held-out row may have any time, so it is masked and not appended."""
    run = kept(tmp_path / "run", "random-leave-one-out")
    again = load_run(tmp_path / "run")
    assert (again.split.ordered, again.split.successive) == (True, False)
    for row, customer in enumerate(run.split.users.keys):
        for r in (run, again):
            scores = run.model.score(torch.tensor([row]))[0]
            assert_best(r.recommend(customer, 5), run, scores, bought(customer))


def test_recommendations_keep_the_weights_that_were_trained_on(tmp_path: Path) -> None:
    run = kept(tmp_path / "run", "last-leave-one-out", ItemKNN, half_life=1e-4)
    for row, customer in enumerate(run.split.users.keys):
        assert_best(run.recommend(customer, 5), run, run.model.score(torch.tensor([row]))[0], bought(customer))


def test_a_run_from_before_splits_knew_their_order_still_loads(tmp_path: Path) -> None:
    run = kept(tmp_path / "run", "last-leave-one-out", ItemKNN)
    note = {k: v for k, v in run.note.items() if k not in ("ordered", "successive")}
    save_run(run.model, run.graph, run.split, tables(), note, tmp_path / "old")
    old = load_run(tmp_path / "old")
    assert (old.split.ordered, old.split.successive) == (False, False)
    assert len(old.recommend("c0", 5)) == 5


def test_refit_puts_validation_rows_where_they_belong_in_time(tmp_path: Path) -> None:
    """Held out at random, they are between the training rows."""
    columns = ["customer", "product", "time"]
    pl.DataFrame(ROWS, schema=columns, orient="row").write_csv(tmp_path / "sales.csv")
    config, material = open_study(tmp_path / "shop.toml", STUDY)
    split_context = replace(material.split_contexts[0], refit=True)
    cell = replace(grid(config, material)[0], split_context=split_context)
    graph = refit_graph(cell, cell.graph)
    split = split_context.split
    test = set(zip(split.users.at(split.test.user), split.items.at(split.test.item), strict=True))
    between = 0
    for g, held in ((split_context.graph, split.valid), (graph, split.valid.take(np.zeros(0, np.int64)))):
        valid = set(zip(split.users.at(held.user), split.items.at(held.item), strict=True))
        for user, history in zip(split.users.keys, Sequences.from_graph(g).tensors(), strict=True):
            expected = [i for i in bought(user) if (user, i) not in test | valid]
            assert split.items.at(history.numpy()).to_list() == expected
            between += any((user, i) in valid for i in bought(user)[:-1])
    assert between


@pytest.mark.parametrize("timed", [False, True])
def test_validation_rows_without_a_place_in_time_are_refused_before_anything_runs(
    timed: bool, tmp_path: Path
) -> None:
    """Drawn from rows whose order in the file is their order in time, and added to them for the last fit."""
    frame = pl.DataFrame(ROWS, schema=["customer", "product", "time"], orient="row").sort("time")
    last = frame.group_by("customer", maintain_order=True).tail(1)
    frame.join(last, on=["customer", "product"], how="anti").write_csv(tmp_path / "sales.csv")
    last.write_csv(tmp_path / "test.csv")
    text = STUDY.replace("random-leave-one-out", "given").replace('"item-knn"', '"markov"')
    text = text.replace('file = "sales.csv"', 'file = "sales.csv"\ntest = "test.csv"')
    text = text.replace('split = "given"', 'split = "given"\nvalid_share = 0.3')
    text = text if timed else text.replace('time = "time"', 'time = "row"')
    config, material = open_study(tmp_path / "shop.toml", text)
    if timed:
        assert run_study(config, material, tmp_path / "out").leaderboard.height
        return
    with pytest.raises(InputError, match="no order in time once they include validation rows") as error:
        grid(config, material)
    assert error.value.where == "markov"
