"""The trial that a search chooses is the final fit: a trained model is not trained a second time for it."""

import pytest
from studies import open_study

from relrank import training
from relrank.study.cell_store import load_cell
from relrank.study.run import run_study
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


@pytest.mark.parametrize(("arms", "drops"), [(["interactions", "alone", "all"], False), (["all", "drop"], True)])
def test_all_is_searched_without_its_relations_only_where_such_arms_follow(tmp_path, arms, drops):
    text = trained_study(2).replace('["interactions"]', str(arms).replace("'", '"'))
    text += '\n[relations.noise]\nkind = "attribute"\nnode = "item"\ncolumn = "noise"\n'
    config, material = open_study(tmp_path / "trained.toml", text)
    run_study(config, material, tmp_path / "out")
    cells = [load_cell(folder) for folder in (tmp_path / "out" / "cells").iterdir()]
    (cell,) = (one for one in cells if one.arm == "all")
    assert (len(cell.trials) > 2) == drops
    assert (cell.held is not None) == drops
