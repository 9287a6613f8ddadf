"""How numbers are written, and where they lie on an axis."""

import math

import pytest

from relrank.report import figures
from relrank.report.figures import Scale

NAN = float("nan")


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (figures.number, 0.16149, ".1615"),
        (figures.number, -0.0012, "−.0012"),
        (figures.number, 1.0, "1.0000"),
        (figures.number, 0.99996, "1.0000"),
        (figures.number, -0.00004, ".0000"),
        (figures.number, None, "–"),
        (figures.number, NAN, "–"),
        (figures.number, math.inf, "–"),
        (figures.signed, 0.0172, "+.0172"),
        (figures.signed, -0.0172, "−.0172"),
        (figures.signed, 0.00001, ".0000"),
        (figures.signed, -0.00001, ".0000"),
        (figures.signed, None, "–"),
        (figures.count, 192104, "192,104"),
        (figures.count, None, "–"),
        (figures.amount, 1234.56, "1,234.6"),
        (figures.amount, -0.04, "0.0"),
        (figures.extra, 9.3, "+9.3"),
        (figures.extra, -9.3, "−9.3"),
        (figures.extra, 0.01, "0.0"),
        (figures.percent, 0.973, "97.3 %"),
        (figures.percent, 0.9999, "99.9 %"),
        (figures.percent, 1.0, "100.0 %"),
        (figures.p_value, 0.0002, "<.001"),
        (figures.p_value, 0.0341, ".034"),
        (figures.p_value, 1.0, "1.000"),
        (figures.metric_name, "ndcg@10", "NDCG@10"),
        (figures.metric_name, "hit@50", "Hit@50"),
        (figures.metric_name, "mrr", "MRR"),
        (figures.typeset, "r2 adds +0.0123 (-0.0010 to 0.0200).", "r2 adds +.0123 (−.0010 to .0200)."),
        (figures.typeset, "v0.1234 and 0.123 and 10.0000 stay", "v0.1234 and 0.123 and 10.0000 stay"),
        (figures.typeset, "adds +0.000123 (-0.000010 to", "adds +.000123 (−.000010 to"),
        (figures.listed, ["a"], "a"),
        (figures.listed, ["a", "b", "c"], "a, b and c"),
        (figures.listed, list("abcdefgh"), "a, b, c, d, e and 3 more"),
        (figures.listed, [], ""),
    ],
)
def test_writing(write, value, text):
    assert write(value) == text


def test_interval():
    assert figures.interval(-0.0012, 0.0031) == "[−.0012, +.0031]"
    assert figures.interval(0.1556, 0.1674, sign=False) == "[.1556, .1674]"
    assert figures.interval(None, 0.1) == "–"


def test_scale_by_hand():
    scale = Scale.over([0.0, 0.010], margin=0.0, most=6)  # steps of .002 give 6 ticks
    assert scale.ticks == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.010])
    assert [scale.at(value) for value in (0, 0.0025, 0.01, -1, 1)] == [0, 25, 100, 0, 100]
    assert [scale.label(tick, sign=True) for tick in scale.ticks[:2]] == ["0", "+.002"]
    whole = Scale.over([1, 60], margin=0.0)
    assert [whole.label(tick) for tick in whole.ticks] == ["10", "20", "30", "40", "50", "60"]


@pytest.mark.parametrize(
    "values", [[], [None, NAN], [0.0], [3.0, 3.0], [-1e-6, 2e-6], [-4000.0, 12.0], [0.1, None, 0.2]]
)
def test_scale_of_awkward_values(values):
    scale = Scale.over(values)
    assert scale.low < scale.high
    assert 1 <= len(scale.ticks) <= 8
    labels = [scale.label(tick) for tick in scale.ticks]
    assert len(set(labels)) == len(labels), "every tick can be told from the next"
    for value in values:
        if figures.known(value):
            assert 0 <= scale.at(value) <= 100
