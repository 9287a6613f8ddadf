"""What starts of training add to differences on the same test rows, from all arms of a model."""

from types import SimpleNamespace

import polars as pl
import pytest

from relrank.evaluation.comparison import compare
from relrank.study.arms import INTERACTIONS, all_of, all_without
from relrank.study.results_by_arm import ResultsByArm

RELATIONS = ["a", "b"]
MEANS = {"interactions": [0.1, 0.2, 0.3], "all": [0.4, 0.4, 0.4], "all without a": [0.3, 0.6, 0.3]}
ARMS = (INTERACTIONS, all_of(RELATIONS), all_without(RELATIONS, "a"))


def cells(model, trained=True, splits=("s", "s", "s"), arms=ARMS, named=None):
    """Twenty users a cell, .1 to either side of its mean."""
    for arm in arms:
        for seed, mean in enumerate(MEANS[arm.name]):
            table = pl.DataFrame(
                {"user": range(20), "mrr": [mean - 0.1, mean + 0.1] * 10, "fingerprint": splits[seed]}
            )
            evaluation = SimpleNamespace(table=table, summary={"mrr": mean})
            history = pl.DataFrame() if trained else None
            yield named or arm, SimpleNamespace(model=model, seed=seed, evaluation=evaluation, history=history)


# off the means of their arms: −.1, 0, .1 · 0, 0, 0 · −.1, .2, −.1; of which all arms share −2/30, 2/30, 0
REST = (1 + 4 + 9 + 4 + 4 + 0 + 1 + 16 + 9) / 900
WITH_COMMON = 0.01 + 0.01 + 0.01 + 0.04 + 0.01


def test_by_hand():
    """What starts do to all arms alike is in no difference of two; the rest of nine means has four freedoms."""
    starts = ResultsByArm(cells("m"), "mrr").starts(("m", (1, -1)))
    assert starts.variance == pytest.approx(2 * REST / 4 / 3)
    assert starts.degrees_of_freedom == pytest.approx(4)
    twice = ResultsByArm(cells("m"), "mrr").starts(("m", (1, -1, -2, 2)))
    assert twice.variance == pytest.approx(10 * REST / 4 / 3)


def test_two_models_add_up():
    found = ResultsByArm([*cells("m"), *cells("n", arms=ARMS[:1]), *cells("closed", trained=False)], "mrr")
    both = found.starts(("m", (1,)), ("n", (-1,)))
    one, other = WITH_COMMON / 6 / 3, 0.02 / 2 / 3
    assert both.variance == pytest.approx(one + other)
    assert both.degrees_of_freedom == pytest.approx((one + other) ** 2 / (one**2 / 6 + other**2 / 2))
    beside = found.starts(("m", (1,)), ("closed", (-1,)))
    assert beside.variance == pytest.approx(one)
    assert found.starts(("closed", (1, -1))) is None


def test_starts_that_move_all_arms_alike_add_nothing():
    alike = [cell for arm in ARMS for cell in cells("m", arms=[INTERACTIONS], named=arm)]
    assert ResultsByArm(alike, "mrr").starts(("m", (1, -1))).variance == pytest.approx(0)
    assert ResultsByArm(alike, "mrr").starts(("m", (1,))) is not None


def test_splits_say_for_themselves_how_much_they_differ():
    splits = ("one", "two", "three")
    assert ResultsByArm(cells("m", splits=splits), "mrr").starts(("m", (1, -1))) is None
    drawn = ResultsByArm(
        cells("m", splits=splits), "mrr", draws_test=False
    )  # other validation rows, the same test rows
    assert drawn.starts(("m", (1, -1))) is not None


def test_effects_of_a_study_know_it():
    """All − interactions: .3, .2 and .1, of which three starts make .02 / 2 / 3, and all arms of the model more."""
    found = ResultsByArm(cells("m"), "mrr")
    effect = found.effect("m", ARMS[1], ARMS[0])[2]
    tables = found.tables("m", "all"), found.tables("m", "interactions")
    assert compare(*tables, "mrr").standard_error ** 2 == pytest.approx(0.02 / 2 / 3)
    assert effect.standard_error**2 == pytest.approx(2 * REST / 4 / 3)
    assert effect.mean == pytest.approx(0.2)
