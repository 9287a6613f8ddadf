"""Who judges: the interactions-only arms beside each other, by hand-made cells."""

import polars as pl
import pytest

from relrank.evaluation import Evaluation
from relrank.study.arms import INTERACTIONS, all_of
from relrank.study.cells import CellResult
from relrank.study.effects import Found
from relrank.study.judge import judges
from relrank.study.tuning import Trial

ALL = all_of(["tags"])


def cell(model, arm, valid, seed=0, trials=(), weights=None):
    """A finished cell; trials are (weight of tags, metric)."""
    chosen = {} if weights is None else {"l2": 1.0, "weights": weights}
    made = tuple(Trial({} if w is None else {"weights.tags": w}, metric) for w, metric in trials)
    table = pl.DataFrame({"user": [1]})
    return arm, CellResult(model, arm.name, seed, Evaluation(table, {}), made, chosen, valid, None, True, {}, {})


def judged(*cells):
    found = Found(cells, "ndcg@10")
    names = list(dict.fromkeys(c.model for _, c in cells))
    return judges(found, ["judge"], names)


def test_the_strongest_model_judges():
    (row,) = judged(cell("judge", INTERACTIONS, 0.2), cell("judge", ALL, 0.1), cell("ease", INTERACTIONS, 0.15))
    assert (row["model"], row["valid"], row["stronger"], row["better_setting"]) == ("judge", 0.2, None, None)
    assert "no model of this study ranks better" in row["sentence"]


def test_a_stronger_model_of_the_interactions_is_named_first():
    (row,) = judged(cell("judge", INTERACTIONS, 0.15), cell("judge", ALL, 0.3), cell("ease", INTERACTIONS, 0.2))
    assert (row["stronger"], row["stronger_valid"]) == ("ease", 0.2)
    assert row["sentence"].startswith("Weak judge: ease ranks better without any relation than judge")


def test_seeds_are_averaged_before_models_are_compared():
    cells = [cell("judge", INTERACTIONS, v, seed) for seed, v in enumerate((0.1, 0.3))]
    (row,) = judged(*cells, *(cell("ease", INTERACTIONS, v, seed) for seed, v in enumerate((0.15, 0.2))))
    assert row["valid"] == pytest.approx(0.2)
    assert row["stronger"] is None


def test_a_better_setting_that_another_arm_tried_is_told():
    """Only trials in which no relation counts: weight 0, and nothing held above 0."""
    tried = cell("judge", ALL, 0.3, trials=[(0.0, 0.2), (0.0, 0.25), (3.0, 0.3)], weights={"tags": 3.0})
    (row,) = judged(cell("judge", INTERACTIONS, 0.2, trials=[(None, 0.2)], weights={}), tried)
    assert row["better_setting"] == 0.25
    assert "settings tried on another arm" in row["sentence"]
    elsewhere = cell("judge", ALL, 0.3, trials=[(0.0, 0.19), (0.0, 0.25)], weights={"tags": 3.0})
    (row,) = judged(cell("judge", INTERACTIONS, 0.2, trials=[(None, 0.2)], weights={}), elsewhere)
    assert row["better_setting"] is None, "its errors are those of other differences"
    held = cell("judge", ALL, 0.3, trials=[(None, 0.2), (None, 0.25)], weights={"tags": 3.0})
    (row,) = judged(cell("judge", INTERACTIONS, 0.2, trials=[(None, 0.2)], weights={}), held)
    assert row["better_setting"] is None


def test_less_than_a_step_of_tuning_is_no_better():
    (row,) = judged(cell("judge", INTERACTIONS, 0.2), cell("ease", INTERACTIONS, 0.2001))
    assert row["stronger"] is None


def test_a_model_without_an_interactions_arm_is_not_spoken_of():
    assert judged(cell("judge", ALL, 0.2), cell("ease", INTERACTIONS, 0.3)) == []
