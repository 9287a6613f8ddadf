"""The trial that a search chooses is the final fit: a trained model is not trained a second time for it."""

import time

import pytest
from studies import open_study

from relrank import training
from relrank.study.cell_store import HELD, load_cell
from relrank.study.grid import grid
from relrank.study.optuna_storage import study_name
from relrank.study.run import run_study
from relrank.study.run_cell import fill_cell
from relrank.study.tune_cell import tune_and_fit
from relrank.testing import planted_study

EPOCHS = 4


def trained_study(trials: int) -> str:
    model = f'name = "relational-lightgcn"\narms = ["interactions"]\ntrials = {trials}\nconfig = {{ dim = 8 }}\n'
    return planted_study(
        "trained",
        200,
        80,
        seed=1,
        relations=("driver",),
        study="seeds = [0]",
        models=f"[[models]]\n{model}train = {{ epochs = {EPOCHS}, batch = 256, every = {EPOCHS} }}\n",
    )


@pytest.mark.parametrize("trials", [1, 3])
def test_every_configuration_is_trained_once(tmp_path, monkeypatch, trials):
    epochs = []
    train_one = training._epoch

    def counting(model, *rest):
        epochs.append(model.config.ridge)
        return train_one(model, *rest)

    monkeypatch.setattr(training, "_epoch", counting)
    config, material = open_study(tmp_path / "trained.toml", trained_study(trials))
    run_study(config, material, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    cell = load_cell(folder)
    assert len(epochs) == trials * EPOCHS
    assert len(set(epochs)) == trials
    assert cell.history.height == EPOCHS
    assert cell.cost["fit"] >= cell.history["seconds"].sum(), "the fit cost what its trial took"
    assert (cell.cost["tune"] > 0) == (trials > 1)
    if trials > 1:
        assert cell.valid_metric == pytest.approx(cell.trials[cell.chosen_trial].metric, abs=1e-7)


def test_a_killed_cell_costs_what_all_of_its_trials_took(tmp_path, monkeypatch):
    """The first trials come from checkpoints, at once."""
    config, material = open_study(tmp_path / "trained.toml", trained_study(3))
    (cell,) = grid(config, material)
    trained, train_one = [], training._epoch

    def slow_and_killed(model, *rest):
        trained.append(model)
        if len(trained) > 2 * EPOCHS:
            raise KeyboardInterrupt
        time.sleep(0.05)
        return train_one(model, *rest)

    monkeypatch.setattr(training, "_epoch", slow_and_killed)
    with pytest.raises(KeyboardInterrupt):
        tune_and_fit(cell, tmp_path / "cell", str, {})
    monkeypatch.setattr(training, "_epoch", train_one)
    seconds = tune_and_fit(cell, tmp_path / "cell", str, {}).seconds
    assert seconds["tune"] + seconds["fit"] > 2 * EPOCHS * 0.05


def test_where_arms_without_a_relation_follow_is_part_of_the_cells_key_and_not_of_searches(tmp_path):
    """The study's search of all relations depends on it, Optuna's does not."""
    keys, names = set(), set()
    for arms in ('["interactions", "all"]', '["interactions", "all", "drop"]'):
        text = trained_study(3).replace('["interactions"]', arms)
        text += '\n[relations.noise]\nkind = "attribute"\nnode = "item"\ncolumn = "noise"\n'
        config, material = open_study(tmp_path / "trained.toml", text)
        (cell,) = (one for one in grid(config, material) if one.arm.name == "all")
        keys.add(cell.key())
        names.add(study_name(cell, [], 0))
    assert len(keys) == 2
    assert len(names) == 1


@pytest.mark.parametrize(("arms", "drops"), [(["interactions", "alone", "all"], False), (["all", "drop"], True)])
def test_all_is_searched_without_its_relations_only_where_such_arms_follow(tmp_path, monkeypatch, arms, drops):
    text = trained_study(2).replace('["interactions"]', str(arms).replace("'", '"'))
    text += '\n[relations.noise]\nkind = "attribute"\nnode = "item"\ncolumn = "noise"\n'
    config, material = open_study(tmp_path / "trained.toml", text)
    trained = set()

    def noting(model, *_):
        trained.add(str(model.config))
        return 1.0

    monkeypatch.setattr(training, "_epoch", noting)
    (cell,) = (one for one in grid(config, material) if one.arm.name == "all")
    tuned = tune_and_fit(cell, tmp_path / "cell", str, {})
    assert (len(trained) > cell.trials) == drops
    fill_cell(cell, tmp_path / "part", str, {})
    assert (tmp_path / "part" / HELD).exists() == drops
    assert tuned.trials
