"""The rule for published claims: worked cases, simulated error rates, and which effect decides."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.special import stdtrit

from relrank.evaluation.comparison import Effect
from relrank.study.atlas.claims import decide
from relrank.study.atlas.config import Claim
from relrank.study.atlas.unused_weights import effect_of_best_weight, gains_on_validation


def claim(expect, **size):
    return Claim(text="t", source="s", url="https://example.org", study="x", model="m", expect=expect, **size)


def effect(mean, half, freedom=1000.0):
    """With its 95 % interval; the 90 % interval is .839 of it."""
    error = half / stdtrit(freedom, 0.975)
    return Effect(mean, mean - half, mean + half, 0.5, 0.1, error, freedom, 1000, 1)


@pytest.mark.parametrize(
    ("expect", "size", "mean", "half", "answer"),
    [
        ("helps", {}, 0.010, 0.005, "holds"),
        ("helps", {}, 0.000, 0.001, "does not hold"),  # no gain as large as the margin of .002
        ("helps", {}, 0.001, 0.0005, "does not hold"),  # above 0, and smaller than the margin
        ("helps", {}, 0.001, 0.003, "undecided"),
        ("helps", {}, -0.010, 0.005, "does not hold"),
        ("helps", {"gain": 14}, 0.030, 0.004, "holds"),  # claimed: .028 of .2
        ("helps", {"gain": 14}, 0.010, 0.005, "does not hold"),  # smaller than claimed
        ("helps", {"gain": 14}, 0.021, 0.009, "holds"),
        ("helps", {"difference": 0.0096}, 0.005, 0.0055, "undecided"),
        ("helps", {"difference": 0.0096}, 0.003, 0.0035, "does not hold"),
        ("hurts", {}, -0.010, 0.005, "holds"),
        ("hurts", {}, 0.000, 0.001, "does not hold"),
        ("hurts", {"gain": -14}, -0.010, 0.005, "does not hold"),
        ("negligible", {}, 0.0005, 0.001, "holds"),
        ("negligible", {}, 0.010, 0.005, "does not hold"),
        ("negligible", {}, -0.010, 0.005, "does not hold"),
        ("negligible", {}, 0.001, 0.003, "undecided"),
    ],
)
def test_by_interval_and_margin(expect, size, mean, half, answer):
    found, why = decide(claim(expect, **size), effect(mean, half), base=0.2, margin=0.01)
    assert found == answer, why


NOTHING = Effect(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 937.0, 938, 5)
"""A relation that the search gave no weight."""


@pytest.mark.parametrize(
    ("expect", "size", "gains", "answer"),
    [
        # Student's t with 3 degrees of freedom: the 90 % interval ends at mean + 2.353 · sd / 2
        ("helps", {}, (0.001, 0.003, 0.001, 0.003), "does not hold"),  # .002 + 2.353 · .00115 / 2 = .0034 < .01
        ("helps", {}, (-0.004, 0.012, -0.004, 0.012), "undecided"),  # .004 + 2.353 · .00924 / 2 = .0149
        ("helps", {"gain": 5}, (-0.004, 0.012, -0.004, 0.012), "does not hold"),  # < .05 − .01
        ("helps", {"difference": 0.004}, (-0.004, 0.012, -0.004, 0.012), "undecided"),  # 2 % of .2, less the margin
        ("negligible", {}, (0.001, 0.003, 0.001, 0.003), "holds"),
        ("negligible", {}, (-0.05, -0.04, -0.05, -0.04), "holds"),  # a search does not use it
        ("negligible", {}, (-0.004, 0.012, -0.004, 0.012), "undecided"),
        ("helps", {}, (-0.02,), "undecided"),  # one split
        ("negligible", {}, (), "undecided"),
        ("hurts", {}, (-0.02, -0.02), "does not hold"),
    ],
)
def test_a_relation_that_the_search_leaves_out(expect, size, gains, answer):
    """The best other weight decides, measured on the validation rows of several splits."""
    found, why = decide(claim(expect, **size), NOTHING, 0.2, 0.01, effect_of_best_weight(gains))
    assert found == answer, why
    assert ("validation gives it no weight" in why) == (expect != "hurts")


def test_the_gain_of_the_best_weight_is_that_of_student():
    """Mean .004 and standard error .00924 / 2; t(.975, 3) = 3.1824."""
    best = effect_of_best_weight((-0.004, 0.012, -0.004, 0.012))
    half = 3.182446 * 0.016 / np.sqrt(3) / 2
    assert (best.mean, best.low, best.high) == pytest.approx((0.004, 0.004 - half, 0.004 + half), abs=1e-8)
    _, why = decide(claim("helps"), NOTHING, 0.2, 0.01, best)
    assert "+0.4 % (−1.1 to +1.9 %) on validation rows" in why


TRIALS = [
    ("interactions + tag", 0, {"l2": 1.0, "weights.tag": 0.0}, 0.20, True),
    ("interactions + tag", 0, {"l2": 5.0, "weights.tag": 0.0}, 0.19, False),
    ("interactions + tag", 0, {"l2": 1.0, "weights.tag": 3.0}, 0.18, False),
    ("interactions + tag", 0, {"l2": 1.0, "weights.tag": 0.3}, 0.201, False),
    ("interactions + tag", 0, {"l2": 5.0, "weights.tag": 0.3}, 0.25, False),  # another penalty
    ("interactions + tag", 1, {"l2": 5.0, "weights.tag": 0.0}, 0.10, True),
    ("interactions + tag", 1, {"l2": 5.0, "weights.tag": 3.0}, 0.09, False),
    ("interactions + tag", 2, {"l2": 5.0, "weights.tag": 3.0}, 0.30, True),  # in use
    ("interactions + tag", 3, {"l2": 5.0, "weights.tag": 0.0}, 0.30, True),  # no other weight was tried
    ("all", 0, {"l2": 1.0, "weights.tag": 0.0}, 0.1, True),
    ("all", 0, {"l2": 1.0, "weights.tag": 1.0}, 0.2, False),
]


def test_gains_on_validation_compare_weights_and_nothing_else():
    """Worked: .201 / .2 − 1 and .09 / .1 − 1; splits that use the relation, or tried no other weight, say nothing."""
    rows = [
        {"model": "m", "arm": arm, "seed": seed, "config": json.dumps(config), "metric": metric, "chosen": chosen}
        for arm, seed, config, metric, chosen in TRIALS
    ]
    tuning = pl.DataFrame([*rows, rows[2] | {"model": "other", "metric": 1.0}])
    gains = gains_on_validation(SimpleNamespace(tuning=tuning), "m", "interactions + tag")
    assert gains == pytest.approx([0.005, -0.1])


@pytest.mark.parametrize("freedom", [4, 1000])
@pytest.mark.parametrize(
    ("expect", "size", "truth", "wrong", "most"),
    [
        ("helps", {}, 0.0, "holds", 0.025),
        ("helps", {}, 0.01, "does not hold", 0.05),
        ("helps", {"gain": 10}, 0.09, "does not hold", 0.05),
        ("hurts", {}, -0.01, "does not hold", 0.05),
        ("negligible", {}, 0.01, "holds", 0.05),
        ("negligible", {}, 0.01, "does not hold", 0.05),
    ],
)
def test_wrong_answers_are_as_rare_as_promised(expect, size, truth, wrong, most, freedom):
    """Effects on the border of a claim, measured with an estimated error; four standard errors of the simulation."""
    rng, n, error = np.random.default_rng(7), 1000, 0.004
    halves = stdtrit(freedom, 0.975) * error * np.sqrt(rng.chisquare(freedom, n) / freedom)
    answers = [
        decide(claim(expect, **size), effect(mean, half, freedom), 1.0, 0.01)[0]
        for mean, half in zip(rng.normal(truth, error, n), halves, strict=True)
    ]
    assert answers.count(wrong) / n < most + 4 * np.sqrt(most * (1 - most) / n)


def test_claims_that_are_true_are_found():
    """Far from the border the rule is not always undecided."""
    rng = np.random.default_rng(1)
    for expect, truth, answer in (
        ("helps", 0.05, "holds"),
        ("helps", -0.02, "does not hold"),
        ("hurts", -0.05, "holds"),
    ):
        found = [decide(claim(expect), effect(rng.normal(truth, 0.004), 0.008), 1.0, 0.01)[0] for _ in range(100)]
        assert found.count(answer) > 95
