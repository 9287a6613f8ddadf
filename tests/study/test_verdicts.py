"""Verdicts from effects, case by case, and on data with a known truth."""

from dataclasses import replace

import numpy as np
import pytest

from relrank.evaluation.comparison import Effect, effect_from_differences, t_quantile
from relrank.study.number_format import decimals_of, signed
from relrank.study.verdicts import ALPHA, Evidence, agrees, decide_verdicts, verdict_sentence

MARGIN = 0.01


def effect(mean: float, error: float = 0.005, n_users: int = 400, n_seeds: int = 1) -> Effect:
    """An effect with that standard error; interval and p are what it implies."""
    freedom = 10_000.0
    half = t_quantile(0.975, freedom) * error
    p = 1.0 if mean == 0 else Effect(mean, 0, 0, 0, 0, error, freedom, 1, 1).p_greater_than(0)
    return Effect(mean, mean - half, mean + half, min(2 * min(p, 1 - p), 1.0), 0.1, error, freedom, n_users, n_seeds)


UP, DOWN, FLAT, WIDE = effect(0.05), effect(-0.05), effect(0.0, 0.001), effect(0.002, 0.02)
NONE = Effect(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 399.0, 400, 1)


def said(one: Evidence) -> str:
    return decide_verdicts({"tags": one}, MARGIN)["tags"].verdict


@pytest.mark.parametrize(
    ("evidence", "verdict"),
    [
        (Evidence(UP, UP, UP, UP), "helps"),
        (Evidence(UP, FLAT, UP, UP), "helps"),  # only together with others
        (Evidence(UP, UP, UP), "helps"),  # no shuffled arm was run
        (Evidence(UP, UP), "helps"),  # not tuned: both effects are one
        (Evidence(UP, UP, FLAT, UP), "undecided"),  # what the search found elsewhere is not the relation's doing
        (Evidence(FLAT, UP, UP, UP), "undecided"),  # tuning makes up for it, and nothing says by what
        (Evidence(UP, UP, UP, FLAT), "undecided"),  # shuffled links do as well: degrees, not links
        (Evidence(DOWN, FLAT, DOWN), "hurts"),
        (Evidence(DOWN, UP, DOWN, DOWN), "hurts"),
        (Evidence(DOWN, FLAT, FLAT), "undecided"),
        (Evidence(FLAT, UP, FLAT, redundancy=UP), "interchangeable"),
        (Evidence(FLAT, UP, FLAT, FLAT, UP, redundancy=UP), "interchangeable"),
        (Evidence(FLAT, UP, FLAT, FLAT, FLAT, redundancy=UP), "undecided"),  # alone no more than its shuffled links
        (Evidence(WIDE, UP, WIDE, redundancy=WIDE), "undecided"),  # nothing was shown, neither that others bring it
        (Evidence(FLAT, FLAT, FLAT, FLAT), "negligible"),
        (Evidence(FLAT, FLAT), "negligible"),
        (Evidence(FLAT, FLAT, WIDE), "undecided"),
        (Evidence(WIDE, FLAT, FLAT), "undecided"),
        (Evidence(FLAT, WIDE, FLAT), "undecided"),
        (Evidence(FLAT, FLAT, FLAT, WIDE), "undecided"),
        (Evidence(NONE, NONE, unused=1.0), "undecided"),  # a weight of 0 alone measures nothing
        (Evidence(FLAT, FLAT, unused=0.5), "undecided"),
        (Evidence(UP, UP, unused=0.5), "helps"),
        (Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=FLAT, unused=1.0), "negligible"),
        (
            Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=DOWN, unused=1.0),
            "negligible",
        ),  # a weight would cost
        (Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=WIDE, unused=1.0), "undecided"),
        (Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=UP, unused=1.0), "undecided"),
    ],
)
def test_rule(evidence, verdict):
    assert said(evidence) == verdict


def test_pitfall_redundant_because_a_test_did_not_reject():
    """It helps alone, without evidence in addition to the others: that they replace it needs evidence, too."""
    silent = effect(0.03, 0.02)  # p > .05, and as large as alone
    assert silent.p > ALPHA
    assert said(Evidence(silent, UP, silent, redundancy=effect(-0.01, 0.04))) == "undecided"


def test_pitfall_weight_0_said_to_help():
    assert said(Evidence(UP, UP, NONE, UP, unused=1.0, smallest_weight_effect=FLAT)) == "undecided"


def test_claims_are_corrected_over_relations_once():
    weak = effect(0.0125)  # p = .012
    one = Evidence(weak, weak, weak)
    assert 0.01 < weak.p < 0.0125
    assert decide_verdicts({"a": one}, MARGIN)["a"].verdict == "helps"
    five = {name: Evidence(WIDE, WIDE, WIDE) for name in "bcde"}
    assert decide_verdicts({"a": one, **five}, MARGIN)["a"].verdict == "undecided"
    strong = {name: Evidence(UP, UP, UP) for name in "bcde"}  # what is claimed for sure costs nothing
    assert decide_verdicts({"a": one, **strong}, MARGIN)["a"].verdict == "helps"
    assert decide_verdicts({"a": one, **strong}, MARGIN)["a"].p == pytest.approx(weak.p)


def test_a_claim_is_as_certain_as_its_weakest_effect():
    weak = effect(0.0125)
    assert decide_verdicts({"a": Evidence(weak, UP, UP, UP)}, MARGIN)["a"].p == pytest.approx(weak.p)
    assert decide_verdicts({"a": Evidence(UP, UP, UP, weak)}, MARGIN)["a"].p == pytest.approx(weak.p)


def test_interchangeable_names_those_that_bring_most_of_it():
    one = Evidence(FLAT, UP, FLAT, redundancy=UP, redundancy_with={"a": UP, "b": WIDE, "c": DOWN})
    assert decide_verdicts({"tags": one}, MARGIN)["tags"].instead == ("a",)


def test_visible_effect_is_that_of_the_least_certain_figure_and_all_relations():
    one = Evidence(FLAT, WIDE, FLAT)
    assert decide_verdicts({"a": one}, MARGIN)["a"].detectable_effect == pytest.approx(
        (1.95996 + 0.84162) * 0.02, rel=1e-2
    )
    five = decide_verdicts(dict.fromkeys("abcde", one), MARGIN)["a"].detectable_effect
    assert five == pytest.approx((2.57583 + 0.84162) * 0.02, rel=1e-2)
    assert (
        decide_verdicts({"a": replace(one, smallest_weight_effect=effect(0, 0.04))}, MARGIN)["a"].detectable_effect
        > five
    )  # where no weight was given


def worded(one: Evidence, **more: Effect) -> str:
    return verdict_sentence("tags", "ndcg@10", decide_verdicts({"tags": one}, MARGIN)["tags"], one, MARGIN, **more)


def test_sentences_carry_the_figures_and_a_plus_is_what_a_relation_adds():
    again = effect(0.04)
    assert worded(Evidence(again, UP, UP)) == (
        "tags helps: beside the others it adds +0.0500 (+0.0402 to +0.0598) ndcg@10, "
        "+0.0400 once the model is tuned again without it; alone +0.0500."
    )
    assert worded(Evidence(DOWN, FLAT)).startswith("tags hurts: beside the others it adds -0.0500 (-0.0598")
    text = worded(Evidence(FLAT, UP, FLAT, redundancy=UP, redundancy_with={"text": UP}), together=effect(0.06))
    assert text == (
        "tags is interchangeable with text: alone it adds +0.0500 (+0.0402 to +0.0598) ndcg@10, beside the others "
        "0.0000 (-0.0020 to +0.0020); together they add +0.0600. One of them is enough."
    )
    text = worded(Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=FLAT, unused=1.0))
    assert text == (
        "tags is negligible: validation gives it no weight; the smallest one would add 0.0000, at most +0.0016 "
        "ndcg@10, which is below the margin of 0.0100."
    )
    text = worded(
        Evidence(NONE, NONE, NONE, NONE, smallest_weight_effect=DOWN, unused=1.0)
    )  # a cost beyond the margin is not "within" it
    assert text.endswith("would add -0.0500, at most -0.0418 ndcg@10, which is below the margin of 0.0100.")
    assert "with its links shuffled only +0.0020 is lost" in worded(Evidence(UP, UP, UP, WIDE))


@pytest.mark.parametrize(
    ("metric", "decimals"), [(0.17, 4), (0.01, 4), (0.0099, 5), (0.0028, 5), (0.00028, 6), (1e-12, 8), (0.0, 4)]
)
def test_a_small_metric_is_told_to_more_decimals(metric, decimals):
    assert decimals_of(metric) == decimals


def test_a_sentence_of_a_small_metric_says_something():
    small = effect(0.000123, 0.00001)
    said = decide_verdicts({"tags": Evidence(small, small, small)}, 0.00002)["tags"]
    assert verdict_sentence("tags", "ndcg@10", said, Evidence(small, small, small), 0.00002, decimals=6).startswith(
        "tags helps: beside the others it adds +0.000123 (+0.000103 to +0.000143) ndcg@10, +0.000123 once"
    )


def test_undecided_says_what_would_decide():
    wide = Evidence(WIDE, WIDE)
    text = worded(wide)
    assert text.startswith("tags, undecided: beside the others it adds +0.0020 (-0.0372 to +0.0412)")
    assert "An effect of 0.0561 would have been seen" in text
    # (0.056 / 0.010)² times 400 users, rounded up to hundreds
    assert text.endswith("one as small as the margin of 0.0100 with about 12,600 users.")
    splits = effect(0.002, 0.006, n_seeds=5)
    assert worded(Evidence(splits, splits)).endswith("with about 15 splits.")
    many = effect(0.002, 0.02, n_seeds=5)
    assert worded(Evidence(many, many)).endswith("with more than 50 splits.")
    # where every seed has the same test rows, no number of splits would do
    said_of = decide_verdicts({"tags": Evidence(splits, splits)}, MARGIN)["tags"]
    fixed = verdict_sentence("tags", "ndcg@10", said_of, Evidence(splits, splits), MARGIN, draws_test=False)
    assert fixed.endswith("with about 1,200 users.")


def test_worthless_relations_are_hardly_ever_given_a_verdict():
    """Five relations without any effect, weights by luck: claims in at most 5 % of studies, as Holm promises."""
    rng = np.random.default_rng(0)
    claimed = 0
    for _ in range(300):
        evidence = {}
        for name in "abcde":
            noise = rng.normal(size=(3, 500, 1)) * (rng.random((1, 500, 1)) < 0.3)
            held, drop, alone = (effect_from_differences(values) for values in noise)
            evidence[name] = Evidence(drop, alone, held, redundancy=effect_from_differences(noise[2] - 2 * noise[1]))
        claimed += any(one.p is not None for one in decide_verdicts(evidence, MARGIN).values())
    assert claimed <= 15


def test_an_effect_of_the_visible_size_is_claimed_eight_times_in_ten():
    rng = np.random.default_rng(1)

    def draw(mean: float) -> Evidence:
        one = effect_from_differences(mean + rng.normal(size=(400, 1)))
        return Evidence(one, one, one)

    others = {name: Evidence(WIDE, WIDE) for name in "bcd"}
    # of the relation itself: the others are less certain
    detectable_effect = float(np.mean([draw(0).drop.detectable_effect(4) for _ in range(20)]))
    found = [decide_verdicts({"a": draw(detectable_effect), **others}, MARGIN)["a"].verdict for _ in range(300)]
    assert 0.73 < np.mean([verdict == "helps" for verdict in found]) < 0.89


def test_truth_that_is_worth_nothing_is_not_contradicted_by_undecided():
    assert agrees("helps", "helps")
    assert agrees("undecided", "negligible")
    assert not agrees("undecided", "helps")
    assert not agrees("negligible", "interchangeable")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (-0.00001, "0.0000"), (0.0123, "+0.0123"), (-1, "-1.0000")]
)
def test_zero_has_no_sign(value, text):
    assert signed(value) == text


@pytest.mark.parametrize(("unused", "where"), [(1.0, ""), (0.5, " on 50% of the splits")])
def test_a_weight_that_was_never_tried_is_said_so(unused, where):
    one = Evidence(NONE, NONE, unused=unused)
    judgement = decide_verdicts({"tags": one}, MARGIN)["tags"]
    assert verdict_sentence("tags", "ndcg@10", judgement, one, MARGIN) == (
        f"tags, undecided: validation gives it no weight{where}, and what one would add was not measured."
    )
