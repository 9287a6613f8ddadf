"""The beyond-accuracy section: figures, chart, labels, differences; and older studies without them."""

import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from handmade import Study, baselines, empty, goodbooks
from test_page import page_of

from relrank.report.beyond_accuracy import DESK, DOT, HEIGHT, LETTER, LINE, MEASURES, PHONE, labels
from relrank.report.formatting import interval, number, signed
from relrank.report.page import render

NAMES = ["coverage@10", "gini@10", "novelty@10", "intra-list similarity@10", "miscalibration@10"]


@pytest.fixture(scope="module")
def study():
    return goodbooks()


def written(row):
    return [
        *(number(row[name], 2 if name == "novelty@10" else 3) for name in NAMES),
        signed(row["popularity lift@10"], 2),
    ]


def section(html):
    return html[html.index('<section id="beyond">') :].split("</section>")[0]


def test_figures_of_every_arm_are_those_of_the_leaderboard(study):
    page = page_of(study)
    tables = [rows for name, _, rows in page.tables if name == "beyond"]
    assert tables[0][0][1:] == [
        "NDCG@10 ↑", "Coverage@10 ↑", "Gini@10 ↓", "Novelty@10 ↑", "Intra-list similarity@10 ↓",
        "Miscalibration@10 ↓", "Popularity lift@10 → 0",
    ]  # fmt: skip
    shown = {row[0]: row[1:] for table in tables for row in table[1:]}
    assert len(shown) == study.leaderboard.height
    for row in study.leaderboard.to_dicts():
        assert shown[f"{row['model']} {row['arm']}"] == [number(row["mean"]), *written(row)]
    assert len(tables[0]) == 1 + 8, "the headline arms stand in front"


def test_each_measure_is_explained(study):
    html = section(render(replace(study, card=study.card | {"attribute": "has_tag"})))
    said = dict(re.findall(r"<dt>(.*?) [↑↓→].*?</dt><dd>(.*?)</dd>", html))
    assert [name.lower() for name in said] == list(MEASURES)
    assert "has_tag" in said["Miscalibration"]
    assert "has_tag" in said["Intra-list similarity"]
    assert "attribute</code>" not in html
    assert "attribute</code> in <code>[study]" in section(render(study))


def points(html):
    """Title -> percentages of the point, as drawn."""
    found = re.findall(r'<svg x="([\d.]+)%" y="([\d.]+)%" class="mark"><title>(.*?)</title>', html)
    return {title: (float(x), float(y)) for x, y, title in found}


def test_picture_is_drawn_to_scale(study):
    html = section(render(study))
    drawn = points(html)
    rows = study.leaderboard.filter(pl.col("arm").is_in(["all", "interactions"])).to_dicts()
    assert len(drawn) == len(rows) == 8
    at = {}
    for row in rows:
        title = f"{row['model']}, {row['arm']}: NDCG@10 {number(row['mean'])} "
        title += f"{interval(row['low'], row['high'], sign=False)}, Novelty@10 {number(row['novelty@10'], 2)}"
        at[row["model"], row["arm"]] = drawn[title]
    x, y = np.array([at[row["model"], row["arm"]] for row in rows]).T
    for place, values in ((x, [row["novelty@10"] for row in rows]), (-y, [row["mean"] for row in rows])):
        slope, start = np.polyfit(values, place, 1)
        assert slope > 0, "more novel to the right, more accurate above"
        np.testing.assert_allclose(np.array(values) * slope + start, place, atol=0.02)
    # interval ends on the same scale, and a line between the two arms of each relational model
    slope, start = np.polyfit([row["mean"] for row in rows], y, 1)
    whiskers = re.findall(
        r'<line class="interval hue\d" x1="([\d.]+)%" x2="[\d.]+%" y1="([\d.]+)%" y2="([\d.]+)%"', html
    )
    for row, (at_x, low, high) in zip(rows, whiskers, strict=True):
        assert float(at_x) == at[row["model"], row["arm"]][0]
        assert (float(low), float(high)) == pytest.approx(
            (row["low"] * slope + start, row["high"] * slope + start), abs=0.03
        )
    joins = re.findall(r'<line class="join hue\d" x1="([\d.]+)%" y1="([\d.]+)%" x2="([\d.]+)%" y2="([\d.]+)%"', html)
    pairs = [(*at[model, "all"], *at[model, "interactions"]) for model in ("relational-ease", "relational-lightgcn")]
    assert [tuple(map(float, join)) for join in joins] == pairs
    assert html.count('r="0.28rem"') == 8 + 2, "and two in the legend"
    assert html.count(" hollow") == 6 + 1, "interactions alone are hollow"


def overlaps(found, spots, dots, width):
    """Pairs of labels that meet, labels on dots, labels outside: counted with plain rectangles."""
    boxes = []
    for label, (x, y) in zip(found, spots, strict=True):
        wide = LETTER * len(label.text)
        x, y = x / 100 * width + label.x, y / 100 * HEIGHT + label.y
        left = {"start": x, "middle": x - wide / 2, "end": x - wide}[label.anchor]
        boxes.append((left, y - LINE / 2, left + wide, y + LINE / 2))
    bad = sum(b[0] < 0 or b[1] < 0 or b[2] > width or b[3] > HEIGHT for b in boxes)
    for i, one in enumerate(boxes):
        bad += sum(one[0] < b[2] and b[0] < one[2] and one[1] < b[3] and b[1] < one[3] for b in boxes[:i])
        for x, y in dots:
            x, y = x / 100 * width, y / 100 * HEIGHT
            bad += one[0] - DOT < x < one[2] + DOT and one[1] - DOT < y < one[3] + DOT
    return bad


def test_labels_reported_as_clear_cover_nothing():
    rng = np.random.default_rng(0)
    outcomes = set()
    for n in (1, 6, 12, 25, 60):
        for _ in range(4):
            dots = [tuple(map(float, spot)) for spot in rng.uniform(8, 92, (n, 2)) ** rng.choice([1, 0.9])]
            names = [f"model-{i} " + "x" * int(rng.integers(0, 12)) for i in range(n)]
            for texts, widths in ((names, DESK), ([str(i) for i in range(n)], PHONE)):
                found, clear = labels(dots, dots, texts, widths)
                assert [label.text for label in found] == texts, "every one is placed"
                assert clear == (sum(overlaps(found, dots, dots, width) for width in widths) == 0)
                outcomes.add((n, clear))
    assert {(6, True), (12, True), (60, False)} <= outcomes


def test_two_models_at_one_point_have_two_readable_labels():
    found, clear = labels([(50.0, 50.0)] * 2, [(50.0, 50.0)] * 4, ["relational-ease", "ease"], DESK)
    assert clear
    assert found[0] != found[1]


def test_many_models_are_numbered_and_listed():
    crowd = Study(half=0.004)
    for i in range(40):
        crowd.arm(f"a-model-with-a-long-name-{i}", "interactions", 0.1 + 0.00001 * i, 1, 1)
    html = section(render(crowd.result()))
    assert '<figure class="plotted scatter"' in html
    assert len(re.findall(r'<text class="number', html)) == 40
    assert '<text class="name' not in html
    assert re.findall(r"<li>a-model-with-a-long-name-(\d+)</li>", html) == [str(i) for i in range(39, -1, -1)]
    few = section(render(goodbooks()))
    assert '<figure class="plotted scatter named"' in few
    assert set(re.findall(r'<text class="name \w+"[^>]*>(.*?)</text>', few)) == {
        "random", "popularity", "item-knn", "ease", "relational-ease", "relational-lightgcn"
    }  # fmt: skip


def test_differences_of_lists_equal_the_result(study):
    page = page_of(study)
    names = ["novelty@10", "intra-list similarity@10", "miscalibration@10", "popularity lift@10"]
    for model in ("relational-ease", "relational-lightgcn"):
        head, *rows = page.rows("list-effects", model)
        assert head == [
            "Relation",
            "Novelty@10",
            "Intra-list similarity@10",
            "Miscalibration@10",
            "Popularity lift@10",
        ]
        cells = {row[0]: row[1:] for row in rows}
        assert len(cells) == 1 + 2 * 5
        mine = study.list_effects.filter(pl.col("model") == model).to_dicts()
        for row in mine:
            cell = cells[f"{row['relation'] or 'all relations'} {row['kind']}"][names.index(row["measure"])]
            assert cell == f"{signed(row['mean'], 3)} {interval(row['low'], row['high'], decimals=3)}"
    html = section(render(study))
    same = study.list_effects.with_columns(pl.lit(0.0).alias(name) for name in ("mean", "low", "high"))
    assert set(page_of(replace(study, list_effects=same)).rows("list-effects", "relational-ease")[1][1:]) == {
        "0 the same"
    }
    assert '<span class="n strong">+.410</span>' in html
    assert '<span class="n">+.020</span>' in html, "its interval holds zero"


def test_lists_against_a_rival():
    study = Study(half=0.01)
    study.arm("gnn", "interactions", 0.2, 1, 1)
    study.effect("gnn", None, "versus", ("interactions", "interactions"), 0.1, "ease")
    study.lists("gnn", None, "versus", (0.5, 0.25, 0.125, 0.0), "ease")
    page = page_of(study.result())
    assert page.rows("list-versus", "ease")[1] == [
        "gnn", "+.500 [+.450, +.550]", "+.125 [+.075, +.175]", ".000 [−.050, +.050]", "+.250 [+.200, +.300]"
    ]  # fmt: skip


def test_an_older_study_shows_dashes_for_missing_measures(study):
    old = study.leaderboard.with_columns(
        pl.when(pl.col("model") == "ease")
        .then(None)
        .otherwise(pl.col("miscalibration@10"))
        .alias("miscalibration@10"),
        pl.when(pl.col("model") == "random").then(None).otherwise(pl.col("novelty@10")).alias("novelty@10"),
    ).drop("popularity lift@10", "intra-list similarity@10")
    result = replace(study, leaderboard=old, list_effects=pl.DataFrame())
    page, html = page_of(result), section(render(result))
    head, *rows = next(rows for name, _, rows in page.tables if name == "beyond")
    assert head[2:] == ["Coverage@10 ↑", "Gini@10 ↓", "Novelty@10 ↑", "Miscalibration@10 ↓"]
    assert next(row for row in rows if row[0] == "ease interactions")[-1] == "–"
    assert "stored before" in html
    assert len(points(html)) == 7
    assert "1 row of the table without novelty is not drawn" in html
    assert "What relations change in the lists" not in html


def test_without_list_metrics_the_section_is_empty():
    bare = Study(half=0.01)
    baselines(bare, ease=0.1)
    result = bare.result()
    names = [name for name in result.leaderboard.columns if name.partition("@")[0] in MEASURES]
    html = section(render(replace(result, leaderboard=result.leaderboard.drop(names))))
    assert "Only accuracy was measured" in html
    assert "Only accuracy was measured" in section(render(empty()))
