"""What a relation adds with every other setting held: the "all" arm's own figures against models fitted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from relrank.evaluation import user_metric
from relrank.models import MODELS
from relrank.models.base import config_of
from relrank.study.cells import load_cell
from relrank.study.config import ModelSection, read_study
from relrank.study.run import prepare, run_study, through_batches


def all_cells(config, material, folder):
    """The study's "all" cells of the model that is tuned, with their results."""
    found = []

    def read(batch):
        there = [(cell, load_cell(folder / cell.key())) for cell in batch]
        found.extend((cell, result) for cell, result in there if cell.has_all)
        return [(cell.arm, result) for cell, result in there]

    through_batches(config, material, read)
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
        chosen = config_of(MODELS[model].Config(), found.chosen, model)
        own = found.evaluation.table["ndcg@10"].to_numpy()
        for name in by_hand:
            graph = cell.bench.graph.without(name)
            weights = {k: v for k, v in chosen.weights.items() if k != name}
            less = MODELS[model](graph, replace(chosen, weights=weights)).solve()
            metrics = user_metric(less, cell.bench.final, "ndcg@10", "test")
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
        knobs = {k.name: k for k in MODELS["relational-ease"].knobs(cell.graph)}
        for name in found.held.unused:
            unused += 1
            chosen = config_of(MODELS["relational-ease"].Config(), found.chosen, "")
            more = replace(chosen, weights={**chosen.weights, name: knobs[f"weights.{name}"].ladder[1]})
            metrics = user_metric(
                MODELS["relational-ease"](cell.graph, more).solve(), cell.bench.final, "ndcg@10", "test"
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
