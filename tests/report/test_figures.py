"""Number formats, and axes."""

import math

import pytest

from relrank.report import formatting
from relrank.report.formatting import Axis

NAN = float("nan")


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (formatting.number, 0.16149, ".1615"),
        (formatting.number, -0.0012, "−.0012"),
        (formatting.number, 1.0, "1.0000"),
        (formatting.number, 0.99996, "1.0000"),
        (formatting.number, -0.00004, ".0000"),
        (formatting.number, None, "–"),
        (formatting.number, NAN, "–"),
        (formatting.number, math.inf, "–"),
        (formatting.signed, 0.0172, "+.0172"),
        (formatting.signed, -0.0172, "−.0172"),
        (formatting.signed, 0.00001, ".0000"),
        (formatting.signed, -0.00001, ".0000"),
        (formatting.signed, None, "–"),
        (formatting.count, 192104, "192,104"),
        (formatting.count, None, "–"),
        (formatting.amount, 1234.56, "1,234.6"),
        (formatting.amount, -0.04, "0.0"),
        (formatting.extra, 9.3, "+9.3"),
        (formatting.extra, -9.3, "−9.3"),
        (formatting.extra, 0.01, "0.0"),
        (formatting.percent, 0.973, "97.3 %"),
        (formatting.percent, 0.9999, "99.9 %"),
        (formatting.percent, 1.0, "100.0 %"),
        (formatting.p_value, 0.0002, "<.001"),
        (formatting.p_value, 0.0341, ".034"),
        (formatting.p_value, 1.0, "1.000"),
        (formatting.metric_name, "ndcg@10", "NDCG@10"),
        (formatting.metric_name, "hit@50", "Hit@50"),
        (formatting.metric_name, "mrr", "MRR"),
        (formatting.typeset, "r2 adds +0.0123 (-0.0010 to 0.0200).", "r2 adds +.0123 (−.0010 to .0200)."),
        (formatting.typeset, "v0.1234 and 0.123 and 10.0000 stay", "v0.1234 and 0.123 and 10.0000 stay"),
        (formatting.typeset, "adds +0.000123 (-0.000010 to", "adds +.000123 (−.000010 to"),
        (formatting.listed, ["a"], "a"),
        (formatting.listed, ["a", "b", "c"], "a, b and c"),
        (formatting.listed, list("abcdefgh"), "a, b, c, d, e and 3 more"),
        (formatting.listed, [], ""),
    ],
)
def test_writing(write, value, text):
    assert write(value) == text


def test_interval():
    assert formatting.interval(-0.0012, 0.0031) == "[−.0012, +.0031]"
    assert formatting.interval(0.1556, 0.1674, sign=False) == "[.1556, .1674]"
    assert formatting.interval(None, 0.1) == "–"


def test_scale_by_hand():
    scale = Axis.over([0.0, 0.010], margin=0.0, most=6)  # steps of .002 give 6 ticks
    assert scale.ticks == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.010])
    assert [scale.at(value) for value in (0, 0.0025, 0.01, -1, 1)] == [0, 25, 100, 0, 100]
    assert [scale.label(tick, sign=True) for tick in scale.ticks[:2]] == ["0", "+.002"]
    whole = Axis.over([1, 60], margin=0.0)
    assert [whole.label(tick) for tick in whole.ticks] == ["10", "20", "30", "40", "50", "60"]


@pytest.mark.parametrize(
    "values", [[], [None, NAN], [0.0], [3.0, 3.0], [-1e-6, 2e-6], [-4000.0, 12.0], [0.1, None, 0.2]]
)
def test_scale_of_awkward_values(values):
    scale = Axis.over(values)
    assert scale.low < scale.high
    assert 1 <= len(scale.ticks) <= 8
    labels = [scale.label(tick) for tick in scale.ticks]
    assert len(set(labels)) == len(labels), "every tick can be told from the next"
    for value in values:
        if formatting.is_finite(value):
            assert 0 <= scale.at(value) <= 100
