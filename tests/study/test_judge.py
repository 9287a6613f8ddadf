"""Strength of the judging models: their interactions-only arms compared, with hand-made cells."""

import polars as pl
import pytest

from relrank.evaluation.evaluate import Evaluation
from relrank.study.arms import INTERACTIONS, all_of
from relrank.study.cell_store import CellResult
from relrank.study.coordinate_search import Trial
from relrank.study.model_strength import add_strength_caveats, model_strengths, strongest
from relrank.study.results_by_arm import ResultsByArm

ALL = all_of(["tags"])


def cell(model, arm, valid, seed=0, trials=(), weights=None):
    """A finished cell; trials are (weight of tags, metric)."""
    chosen = {} if weights is None else {"l2": 1.0, "weights": weights}
    made = tuple(Trial({} if w is None else {"weights.tags": w}, metric) for w, metric in trials)
    table = pl.DataFrame({"user": [1]})
    return arm, CellResult(model, arm.name, seed, Evaluation(table, {}), made, chosen, valid, None, True, {}, {})


def judged(*cells):
    found = ResultsByArm(cells, "ndcg@10")
    names = list(dict.fromkeys(c.model for _, c in cells))
    return model_strengths(found, ["judge"], names)


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


def test_the_strongest_of_all_models_on_the_interactions_alone():
    cells = [cell("judge", INTERACTIONS, 0.15), cell("judge", ALL, 0.3), cell("ease", INTERACTIONS, 0.2)]
    found = ResultsByArm(cells, "ndcg@10")
    assert strongest(found, ["judge", "ease", "absent"]) == "ease"
    assert strongest(found, ["judge"]) == "judge"
    assert strongest(found, ["absent"]) is None


JUDGES = [{"model": "strong", "valid": 0.185}, {"model": "weak", "valid": 0.148}, {"model": "near", "valid": 0.184}]
STRONGER = "strong, whose interactions alone are stronger (validation ndcg@10 0.1850 against 0.1480)."
OF_STRONG = f" It helps weak (+0.0310); no gain is shown with {STRONGER}"
OF_WEAK = f" No gain is shown with {STRONGER}"


def after(*rows):
    """Caveats at the end of the sentences of rows (model, relation, verdict)."""
    table = pl.DataFrame(
        [{"model": m, "relation": r, "verdict": v, "held": 0.031, "sentence": f"{r}."} for m, r, v in rows]
    )
    return [text.removeprefix(f"{r}.") for (_, r, _), text in
            zip(rows, add_strength_caveats(table, JUDGES, "ndcg@10", 0.01)["sentence"], strict=True)]  # fmt: skip


@pytest.mark.parametrize("verdict", ["undecided", "negligible"])
def test_what_a_stronger_model_takes_away_is_said_of_both(verdict):
    assert after(("strong", "tags", verdict), ("weak", "tags", "helps")) == [OF_STRONG, OF_WEAK]


@pytest.mark.parametrize(
    "rows",
    [
        [("strong", "tags", "helps"), ("weak", "tags", "helps")],
        [("strong", "tags", "interchangeable"), ("weak", "tags", "helps")],  # alone it adds something there
        [("strong", "tags", "not read"), ("weak", "tags", "helps")],  # nothing was tested
        [("strong", "tags", "undecided"), ("weak", "tags", "interchangeable")],
        [("strong", "tags", "undecided"), ("weak", "text", "helps")],
        [("strong", "tags", "helps"), ("weak", "tags", "undecided")],  # the weaker one takes nothing away
        [("strong", "tags", "undecided"), ("near", "tags", "helps")],  # as strong, within the margin
    ],
)
def test_else_nothing_is_said_of_a_stronger_model(rows):
    assert after(*rows) == [""] * len(rows)


def test_without_judges_sentences_stay():
    table = pl.DataFrame({"model": ["m"], "relation": ["r"], "verdict": ["helps"], "held": [0.1], "sentence": ["x"]})
    assert add_strength_caveats(table, [], "ndcg@10").equals(table)
