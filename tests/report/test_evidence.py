"""The evidence in front of the appendix, drawn to scale."""

import re

import pytest
from handmade import crowded, goodbooks, planted
from test_page import page_of

from relrank.report.evidence import group_overview, overview, plan_curve
from relrank.report.formatting import Axis, of_base, relative, share
from relrank.report.page import render
from relrank.report.view import build_view
from relrank.study.number_format import duration


def test_the_margin_is_a_band_around_zero():
    html = render(planted())
    table = html[html.index('<table class="forest overview">') :].split("</table>")[0]
    svg = re.search(r'aria-label="A – held: .*?</svg>', table, re.S).group()
    x, width = map(float, re.search(r'class="band margin" x="([\d.]+)%" width="([\d.]+)%"', svg).groups())
    zero = float(re.search(r'class="zero" x1="([\d.]+)%"', svg).group(1))
    mean = float(re.search(r'<circle class="dot up" cx="([\d.]+)%"', svg).group(1))
    per_unit = (mean - zero) / 0.031
    assert x == pytest.approx(zero - 0.0014 * per_unit, abs=0.02)
    assert width == pytest.approx(2 * 0.0014 * per_unit, abs=0.02)
    assert table.count('class="band margin"') == 9, "in every row"


def test_the_first_plot_has_effects_beside_the_others_and_alone():
    page = page_of(goodbooks())
    (rows,) = (rows for kind, _, rows in page.tables if kind == "forest" and rows[0][-1] == "NDCG@10")
    assert rows[1][:2] == ["all relations", "together"]
    assert rows[2] == ["has_tag ▲ build", "beside the others", "", "+.0072 [+.0045, +.0099]"]
    assert rows[3] == ["alone", "", "+.0231 [+.0204, +.0258]"]
    assert len(rows) == 1 + 1 + 2 * 5 + 1
    assert build_view(crowded())["overview"]["hidden"] == 30 - 9
    assert overview([], [], None, None) is None


def test_ticks_are_round_percentages_of_the_interactions_alone():
    axis = Axis.over([0.0, 0.085], most=8, unit=0.12 / 100)
    assert [of_base(tick, 0.12) for tick in axis.ticks] == [
        "0 %", "+10 %", "+20 %", "+30 %", "+40 %", "+50 %", "+60 %", "+70 %"
    ]  # fmt: skip
    assert axis.at(0.0) < 5
    assert axis.at(0.12) == 100, "clipped"


def step(relation, mean, rows):
    return {"relation": relation, "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "rows": rows}


def test_the_plan_is_drawn_to_scale():
    plan = {"steps": [step("a", 0.06, 300), step("b", 0.08, 100)], "build": 1}
    curve = plan_curve(plan, {"mean": 0.08, "low": 0.07, "high": 0.09}, None)
    assert [point["x"] for point in curve["points"]] == [16.67, 50.0, 83.33]
    zero, first, second = (point["y"] for point in curve["points"])
    assert zero > first > second, "higher is better"
    assert (zero - first) / (zero - second) == pytest.approx(0.06 / 0.08, abs=0.001)
    assert curve["all"] == second
    assert curve["points"][1]["low"] - first == pytest.approx(first - curve["points"][1]["high"], abs=0.02)
    assert [bar["links"] for bar in curve["bars"]] == [300, 400], "in total"
    assert [bar["height"] for bar in curve["bars"]] == [30.0, 40.0]
    assert (curve["build"], curve["columns"]) == (1, 3)


def group(kind, relation, column, label, order, mean, n_users=100):
    return {"kind": kind, "relation": relation, "group": column, "label": label, "order": order,
            "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n_users": n_users}  # fmt: skip


def test_groups_show_all_relations_first_and_a_tiny_group_sets_no_axis():
    rows = [
        group("gain", None, "age", "old", 1, 0.02),
        group("gain", None, "age", "young", 0, 0.03),
        group("gain", None, "country", "one", 0, 0.02),  # no comparison
        group("drop", "a", "age", "old", 1, 0.02),
        group("drop", "a", "age", "young", 0, 5.0, n_users=4),
        group("drop", "b", "age", "old", 1, 0.02),
    ]
    shown = group_overview(rows, "a")
    assert [(p["title"], p["kind"], p["column"]) for p in shown["panels"]] == [
        (None, "gain", "age"),
        ("a", "drop", "age"),
    ]
    assert [row["label"] for row in shown["panels"][0]["rows"]] == ["young", "old"]
    assert shown["scale"].high < 0.1
    assert [p["title"] for p in group_overview(rows, None)["panels"]] == [None]
    assert group_overview([], "a") is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (share(0.669), "67 %"), (share(0.0179), "1.8 %"), (share(0.01), "1 %"), (share(-0.2), "−20 %"),
        (relative(0.12, 0.1053, 0.1346, 0.1793), ("+67 %", "+59 to +75 %")),
        (relative(-0.0004, -0.003, 0.002, 0.1), ("−0.4 %", "−3.0 to +2.0 %")),
        (relative(0.0, -0.02, 0.02, 0.1), ("0 %", "−20 to +20 %")),
        (duration(40), "40 s"), (duration(170), "3 min"), (duration(7000), "1.9 h"),
    ],
)  # fmt: skip
def test_shares_and_times(text, want):
    assert text == want
