"""What a relation adds with every other setting held: the "all" arm's own figures against models fitted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from relrank.evaluation.evaluate import user_metric
from relrank.models import MODELS
from relrank.models.core.base import override_config
from relrank.study.arms import all_without
from relrank.study.cell_store import load_cell
from relrank.study.config import ModelSection, read_study
from relrank.study.fit_cell import fit_cell, refit_cell, refit_graph
from relrank.study.fit_run import fit_run
from relrank.study.grid import cell_with_prerequisites
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.schedule import run_batches


def all_cells(config, material, folder):
    """The study's "all" cells of the model that is tuned, with their results."""
    found = []

    def read(batch):
        there = [(cell, load_cell(folder / cell.key())) for cell in batch]
        found.extend((cell, result) for cell, result in there if cell.has_all)
        return [(cell.arm, result) for cell, result in there]

    run_batches(config, material, read)
    return found


@pytest.mark.parametrize("model", ["relational-ease", "sparse-ease"])
def test_held_effects_equal_models_fitted_without_the_relation(study_file, tmp_path, model):
    config = read_study(study_file)
    config = config.model_copy(update={"models": (ModelSection(name=model),)})
    material = prepare(config, study_file.parent)
    result = run_study(config, material, tmp_path / "out")
    cells = all_cells(config, material, tmp_path / "out" / "cells")
    assert len(cells) == 2
    by_hand = {"driver": [], "noise": []}
    for cell, found in cells:
        assert set(found.held.table.columns) == {"user", "driver", "noise"}
        chosen = override_config(MODELS[model].Config(), found.chosen, model)
        own = found.evaluation.table["ndcg@10"].to_numpy()
        for name in by_hand:
            graph = cell.split_context.graph.without(name)
            weights = {k: v for k, v in chosen.weights.items() if k != name}
            less = MODELS[model](graph, replace(chosen, weights=weights)).solve()
            metrics = user_metric(less, cell.split_context.final, "ndcg@10", "test")
            if name in found.held.unused:
                assert chosen.weights[name] == 0
                np.testing.assert_allclose(metrics, own, atol=1e-6)  # it weighs nothing: nothing goes with it
            else:
                np.testing.assert_allclose(found.held.table[name].to_numpy(), metrics, atol=1e-6)
            by_hand[name].append((own - metrics).mean())
    effects = {(e["kind"], e["relation"]): e["mean"] for e in result.effects.iter_rows(named=True)}
    for name, values in by_hand.items():
        assert effects["held", name] == pytest.approx(np.mean(values), abs=1e-6)
    assert model != "relational-ease" or effects["held", "driver"] > 0.02


def test_where_no_weight_was_given_the_smallest_one_is_measured(study_file, tmp_path):
    config = read_study(study_file)
    config = config.model_copy(update={"models": (ModelSection(name="relational-ease"),)})
    material = prepare(config, study_file.parent)
    run_study(config, material, tmp_path / "out")
    unused = 0
    for cell, found in all_cells(config, material, tmp_path / "out" / "cells"):
        grid_parameters = {k.name: k for k in MODELS["relational-ease"].grid_parameters(cell.graph)}
        for name in found.held.unused:
            unused += 1
            chosen = override_config(MODELS["relational-ease"].Config(), found.chosen, "")
            more = replace(
                chosen, weights={**chosen.weights, name: grid_parameters[f"weights.{name}"].grid_values[1]}
            )
            metrics = user_metric(
                MODELS["relational-ease"](cell.graph, more).solve(), cell.split_context.final, "ndcg@10", "test"
            )
            np.testing.assert_allclose(found.held.table[name].to_numpy(), metrics, atol=1e-6)
    assert unused


def test_more_relations_never_validate_worse_in_a_study(study_file, tmp_path):
    config = read_study(study_file)
    config = config.model_copy(update={"models": (ModelSection(name="sparse-ease"),)})
    result = run_study(config, prepare(config, study_file.parent), tmp_path / "out")
    linked = result.leaderboard.filter(~result.leaderboard["arm"].str.contains("rewired"))
    valid = dict(linked.select("arm", "valid").iter_rows())
    assert max(valid.values()) == pytest.approx(valid["all"])


@pytest.mark.parametrize("refit", [False, True], ids=["as validated", "with validation rows"])
def test_a_trained_model_is_searched_in_its_cells_folders(study_file, tmp_path, monkeypatch, refit):
    """Arms within "all", and the settings held without each relation, train one after the other under one name."""
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    section = ModelSection(
        name="relational-lightgcn", trials=3, arms=("interactions", "all", "drop", "alone"),
        config={"dim": 8, "negatives": 32}, train={"epochs": 4, "batch": 256, "every": 2},
    )  # fmt: skip
    config = read_study(study_file)
    study = config.study.model_copy(update={"seeds": (0,)})
    config = config.model_copy(update={"models": (section,), "study": study})
    material = prepare(config, study_file.parent)
    material = replace(
        material,
        split_contexts=tuple(replace(split_context, refit=refit) for split_context in material.split_contexts),
    )
    result = run_study(config, material, tmp_path / "out")
    kinds = set(result.effects.select("kind", "relation").iter_rows())
    assert {("held", "driver"), ("held", "noise"), ("drop", "driver")} <= kinds
    ((cell, found),) = all_cells(config, material, tmp_path / "out" / "cells")
    without = found.held.table["driver"].to_numpy()
    chosen = override_config(MODELS[section.kind].Config(), found.chosen, section.name)
    less = replace(cell, arm=all_without(cell.arm.relations, "driver"))
    again, history = fit_cell(less, less.graph, chosen, tmp_path / "again", lambda _: None)
    if refit:
        again = refit_cell(less, refit_graph(less, less.graph), chosen, history, tmp_path / "refit", lambda _: None)
    np.testing.assert_allclose(without, user_metric(again, cell.split_context.final, "ndcg@10", "test"), atol=1e-6)
    cells = cell_with_prerequisites(config, material, section.name, "all")
    run = fit_run(cells, material.tables, tmp_path / "run", lambda _: None)
    assert run.note["config"]["temperature"] == found.chosen["temperature"]
    assert not list(here.iterdir())
    assert not [path for path in (tmp_path / "out" / "cells").glob("*/*") if path.is_dir()]
