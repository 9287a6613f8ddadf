"""The rule that turns effects into words, case by case."""

import pytest

from relrank.comparison import Effect
from relrank.study.verdicts import Judged, redundant_with, sentence, signed, smallest, verdict


def judged(mean: float, half: float = 0.01, p: float | None = None) -> Judged:
    """An effect with interval mean ± half; by default p agrees with the interval."""
    p = (0.001 if abs(mean) > half else 0.5) if p is None else p
    return Judged(Effect(mean, mean - half, mean + half, p, 0.1, 1.4 * half, 100, 1), p)


UP, DOWN, FLAT = judged(0.05), judged(-0.05), judged(0.001)


@pytest.mark.parametrize(
    ("drop", "alone", "placebo", "alone_placebo", "said"),
    [
        (UP, UP, UP, None, "helps"),
        (UP, FLAT, UP, None, "helps"),
        (UP, UP, None, None, "helps"),  # no placebo was run
        (UP, UP, FLAT, None, "no evidence"),  # shuffled links do as well: degrees, not links
        (FLAT, UP, FLAT, None, "redundant"),
        (FLAT, UP, FLAT, UP, "redundant"),
        (FLAT, UP, FLAT, FLAT, "no evidence"),  # alone it helps no more than its shuffled links
        (DOWN, FLAT, DOWN, None, "hurts"),
        (DOWN, UP, DOWN, None, "hurts"),
        (judged(-0.001), DOWN, FLAT, None, "hurts"),
        (FLAT, DOWN, FLAT, None, "no evidence"),
        (FLAT, FLAT, FLAT, None, "no evidence"),
        (FLAT, FLAT, UP, None, "no evidence"),
    ],
)
def test_rule(drop, alone, placebo, alone_placebo, said):
    assert verdict(drop, alone, placebo, alone_placebo) == said


def test_pitfall_interval_and_p_must_agree():
    """An interval clear of 0 with an adjusted p of .2 is no evidence, and so is a small p with an interval over 0."""
    assert verdict(judged(0.05, p=0.2), FLAT, UP) == "no evidence"
    assert verdict(judged(0.005, p=0.001), FLAT, UP) == "no evidence"
    assert verdict(judged(-0.05, p=0.2), FLAT, UP) == "no evidence"


def test_redundant_names_those_beside_which_nothing_is_left():
    assert redundant_with({"a": FLAT, "b": UP, "c": judged(-0.05)}) == ["a", "c"]


def test_smallest_effect_is_the_largest_of_the_arms_that_differ():
    assert smallest([UP.effect, judged(0, 0.02).effect], 0.9) == pytest.approx(0.028)
    assert smallest([], 0.9) == 0.9  # validation left it out everywhere: nothing of its own to learn from


def test_sentences_carry_the_figures_and_speak_of_leaving_out():
    text = sentence("tags", "ndcg@10", "helps", UP, UP, UP, [], 0.01)
    assert text == (
        "tags helps: leaving it out changes ndcg@10 by -0.0500 (-0.0600 to -0.0400); "
        "beside the interactions alone it adds +0.0500."
    )
    text = sentence("echo", "ndcg@10", "redundant", FLAT, UP, FLAT, ["driver"], 0.01, mutual=True)
    assert "redundant beside driver" in text
    assert text.endswith("do not drop both.")
    zero = Judged(Effect(0, 0, 0, 1, 0, 0, 100, 1), 1)
    text = sentence("noise", "ndcg@10", "no evidence", zero, zero, zero, [], 0.0123)
    assert (
        text == "No evidence for noise: validation left it out by itself; an effect of 0.0123 would have been seen."
    )
    text = sentence("fame", "ndcg@10", "no evidence", FLAT, UP, FLAT, [], 0.01, alone_placebo=FLAT)
    assert "more than with its links shuffled" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0000"), (-0.00001, "0.0000"), (0.0123, "+0.0123"), (-1, "-1.0000")]
)
def test_zero_has_no_sign(value, text):
    assert signed(value) == text
