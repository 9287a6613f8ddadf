"""Weights of interactions on their way through a study."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from shops import SHOP

from relrank.errors import InputError
from relrank.graph.construction.interactions import DAY
from relrank.runs.fitted_run import load_run
from relrank.study.config import read_study
from relrank.study.fit_cell import refit_cell, refit_graph
from relrank.study.fit_run import fit_run
from relrank.study.grid import grid
from relrank.study.optuna_search import search_study
from relrank.study.prepare import StudyData, prepare
from relrank.study.run import run_study
from relrank.study.tune_cell import tune_and_fit
from relrank.study.tuned_config import write_tuned

STUDY = f"""{SHOP}time = "time"
time_unit = "s"
rating = "stars"
[protocol]
name = "shop-last"
split = "last-leave-one-out"
[study]
trials = 2
[[models]]
name = "popularity"
[[models]]
name = "ease"
"""
DECAY = '[interactions]\nweight = "decay"\nhalf_life = 2\n'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Twelve customers, six of ten products each, one a day; the last two are held out."""
    rows = [(c, (c + 3 * k) % 10, (c + k) * DAY, 1 + k % 5) for c in range(12) for k in range(6)]
    pl.DataFrame(rows, schema=["customer", "product", "time", "stars"], orient="row").write_csv(
        tmp_path / "sales.csv"
    )
    (tmp_path / "shop.toml").write_text(STUDY)
    return tmp_path / "shop.toml"


def read(path: Path, section: str = "") -> StudyData:
    head, _, rest = STUDY.partition("[data]")
    path.write_text(head + section + "[data]" + rest)
    return prepare(read_study(path), path.parent)


def keys(path: Path, section: str = "") -> list[str]:
    material = read(path, section)
    return [cell.key() for cell in grid(read_study(path), material)]


def test_weights_come_from_training_rows(shop: Path) -> None:
    split_context = read(shop, DECAY).split_contexts[0]
    edges, rows = split_context.graph.interactions, split_context.split.train
    last = 11 + 3  # day of the last training row: the two after it are held out
    by_pair = {(u, i): t // DAY for u, i, t in zip(rows.user, rows.item, rows.time, strict=True)}
    expected = [2 ** ((by_pair[u, i] - last) / 2) for u, i in zip(edges.src, edges.dst, strict=True)]
    np.testing.assert_allclose(edges.weight, expected, rtol=1e-6)
    assert edges.weight.max() == 1
    rated = read(shop, '[interactions]\nweight = "rating"\n').split_contexts[0].graph.interactions.weight
    assert sorted(set(rated.tolist())) == pytest.approx([0.25, 0.5, 0.75, 1])


def test_pitfall_cells_are_keyed_by_the_weights_and_by_nothing_new_without(shop: Path) -> None:
    plain = keys(shop)
    assert keys(shop, '[interactions]\nweight = "one"\n') == plain
    assert not set(keys(shop, DECAY)) & set(plain)
    assert not set(keys(shop, DECAY.replace("2", "3"))) & set(keys(shop, DECAY))
    cell = grid(read_study(shop), read(shop))[0]
    assert "interactions" not in cell.identity()


def test_refit_keeps_weights_and_counts_from_the_last_row_it_has(shop: Path) -> None:
    material = read(shop, DECAY)
    split_context = replace(material.split_contexts[0], refit=True)
    cell = replace(grid(read_study(shop), material)[1], split_context=split_context)
    graph = refit_graph(cell, cell.graph)
    model = refit_cell(cell, graph, cell.initial_config()[0], None, shop.parent, lambda _: None)
    edges = graph.interactions
    assert len(edges) == len(split_context.split.train) + len(split_context.split.valid)
    rows = split_context.split.valid
    new = {(u, i): t // DAY for u, i, t in zip(rows.user, rows.item, rows.time, strict=True)}
    all_of = zip(edges.src, edges.dst, edges.weight, strict=True)
    found = {(u, i): w for u, i, w in all_of if (u, i) in new}
    assert found == pytest.approx({pair: 2 ** ((day - 15) / 2) for pair, day in new.items()})
    assert np.array_equal(model.history.data, edges.csr(graph.n_users, graph.n_items).data)
    tuned = tune_and_fit(cell, shop.parent / "cells", lambda _: None, {})
    assert np.array_equal(tuned.graph.interactions.weight, edges.weight)


def test_a_kept_model_keeps_its_weights(shop: Path, tmp_path: Path) -> None:
    material = read(shop, DECAY)
    result = run_study(read_study(shop), material, tmp_path / "out")
    assert result.card["interactions"] == {"weight": "decay", "half_life": 2.0}
    cell = grid(read_study(shop), material)[1]
    run = fit_run([cell], material.tables, tmp_path / "run", lambda _: None)
    loaded = load_run(tmp_path / "run")
    assert np.array_equal(loaded.graph.interactions.weight, run.graph.interactions.weight)
    customer = run.split.users.keys[0]
    assert loaded.recommend(customer).equals(run.recommend(customer))


def test_tuned_study_keeps_the_section(shop: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    material, config = read(shop, DECAY), read_study(shop)
    found = search_study(config, material, tmp_path / "out", trials=2, models=("ease",))
    path = write_tuned(config, found, shop.parent, tmp_path / "tuned.toml", "2 trials")
    assert read_study(path).interactions == config.interactions


def test_data_without_times_is_one_clear_error(shop: Path) -> None:
    sales = pl.read_csv(shop.parent / "sales.csv")
    sales.drop("time").write_csv(shop.parent / "sales.csv")
    head, _, rest = STUDY.replace('time = "time"\n', "").partition("[data]")
    shop.write_text((head + DECAY + "[data]" + rest).replace("last-leave", "random-leave"))
    with pytest.raises(InputError, match="no time") as error:
        prepare(read_study(shop), shop.parent)
    assert error.value.where == "[interactions] weight"
    assert "time column" in error.value.expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[interactions]\nweight = "decay"\n', "half_life"),
        ('[interactions]\nweight = "age"\n', "interactions.weight"),
        ("[interactions]\nhalflife = 3\n", "unknown key"),
    ],
)
def test_slips_in_the_section_are_named(shop: Path, section: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read(shop, section)
    assert message in str(error.value)
    assert "interactions" in error.value.where
