"""The page, parsed and compared with the study's tables."""

import base64
import hashlib
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib.resources import files

import polars as pl
import pytest
from handmade import Study, baselines, crowded, empty, goodbooks, judged, planted

from relrank.errors import InputError
from relrank.report import write_report
from relrank.report.formatting import interval, number, signed, typeset
from relrank.report.page import render
from relrank.report.view import REQUIRED_COLUMNS

VOID = {"meta", "link", "br", "col"}
LOADING = {"img", "iframe", "object", "embed", "audio", "video", "base"}


class Page(HTMLParser):
    """Tables as rows of cell texts (by class and model), ids, links, tags with attributes, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.tags, self.text, self.open, self.cell = [], [], "", [], None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.tables.append((attributes.get("class", "").split(" ")[0], attributes.get("data-model"), []))
        elif tag == "tr":
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][2][-1].append("")
            self.cell = self.tables[-1][2][-1]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"<{tag}> closes nothing"
        if tag in ("td", "th"):
            self.cell[-1] = " ".join(self.cell[-1].split())
            self.cell = None

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.text += data
        if self.cell is not None and self.open[-1] != "title":
            self.cell[-1] += data + " "

    def rows(self, kind, model=None):
        found = [rows for name, of, rows in self.tables if name == kind and model in (None, of)]
        assert len(found) == 1, f"{len(found)} tables {kind} of {model}"
        return [row for row in found[0] if row]

    def having(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def page_of(study):
    page = Page(render(study))
    assert not page.open, "every element is closed"
    return page


@pytest.fixture(scope="module")
def study():
    return goodbooks()


@pytest.fixture(scope="module")
def page(study):
    return page_of(study)


def test_verdict_tables_equal_the_result(study, page):
    for model in study.verdicts["model"].unique():
        cells = {row[0]: row for row in page.rows("verdicts", model)}
        expected = study.verdicts.filter(pl.col("model") == model).to_dicts()
        assert len(cells) == len(expected) + 1  # and the head
        for want in expected:
            _, verdict, held, drop, alone, placebo, visible, said = cells[want["relation"]]
            assert verdict.split(" ", 1)[1] == want["verdict"]
            for cell, kind in [(held, "held"), (drop, "drop"), (alone, "alone"), (placebo, "placebo")]:
                assert cell == f"{signed(want[kind])} {interval(want[f'{kind}_low'], want[f'{kind}_high'])}"
            assert visible == "±" + number(want["detectable_effect"])
            assert said == typeset(want["sentence"])


def test_helping_relations_come_first(page):
    assert [row[0] for row in page.rows("verdicts", "relational-ease")[1:]] == [
        "has_tag",
        "written_by",
        "similar_text",
        "in_language",
        "published_in",
    ]


def test_forest_equals_the_effects(study, page):
    for model in study.verdicts["model"].unique():
        shown, relation = {}, None
        for row in page.rows("forest", model)[1:-1]:
            if len(row) == 5:  # the first row of a relation carries its name
                relation, row = row[0].split(" ▲")[0].split(" ≈")[0].split(" ○")[0].split(" –")[0], row[1:]
            shown[relation, row[0]] = row[2:]
        expected = study.effects.filter((pl.col("model") == model) & (pl.col("kind") != "beside")).to_dicts()
        assert len(shown) == len(expected)
        for want in expected:
            names = {"held": "beside the others", "drop": "tuned again", "placebo": "beyond shuffled"}
            mean, p = shown[want["relation"] or "all relations", names.get(want["kind"], want["kind"])]
            assert mean == f"{signed(want['mean'])} {interval(want['low'], want['high'])}"
            assert p == ("<.001" if want["p"] < 0.05 else ".410")


def drawn(html, label):
    """The attributes of the point, the interval and the zero line of one row of the forest."""
    svg = re.search(rf'<svg class="plot" role="img" aria-label="{label}: .*?</svg>', html, re.S).group()
    dot = re.search(r'<circle class="dot (\w+)" cx="([\d.]+)%"', svg)
    whisker = re.search(r'<line class="whisker \w+" x1="([\d.]+)%" x2="([\d.]+)%"', svg)
    zero = re.search(r'<line class="zero" x1="([\d.]+)%"', svg)
    band = re.search(r'<rect class="band" x="([\d.]+)%" width="([\d.]+)%"', svg)
    return dot.group(1), [float(x) for x in (dot.group(2), *whisker.groups(), zero.group(1), *band.groups())]


def test_forest_is_drawn_to_scale():
    html = render(planted())
    tone, (mean, low, high, zero, band, width) = drawn(html, "A, tuned again")  # +.031 ± .006, visible .0084
    per_unit = (mean - zero) / 0.031
    assert tone == "up"
    assert per_unit > 0
    assert (low, high) == pytest.approx((zero + 0.025 * per_unit, zero + 0.037 * per_unit), abs=0.05)
    assert (band, width) == pytest.approx((zero - 0.0084 * per_unit, 2 * 0.0084 * per_unit), abs=0.05)
    tone, (mean, *_) = drawn(html, "D, alone")  # −.002, not significant
    assert tone == "flat"
    assert mean == pytest.approx(zero - 0.002 * per_unit, abs=0.05)


def test_harm_is_drawn_as_harm():
    html = render(judged(("m", "bad", "hurts")))
    tone, (mean, _, high, zero, *_) = drawn(html, "bad, tuned again")
    assert tone == "down"
    assert mean < high < zero


def test_holm_decides_significance_not_the_interval():
    study = judged(("m", "r", "helps"))
    html = render(replace(study, effects=study.effects.with_columns(p_holm=pl.lit(0.2))))
    assert drawn(html, "r, tuned again")[0] == "flat"
    html = render(replace(study, effects=study.effects.with_columns(p_holm=pl.lit(None, pl.Float64))))
    assert drawn(html, "r, tuned again")[0] == "up", "without a p the interval decides"


def test_leaderboard_equals_the_result(study, page):
    head, *rows = page.rows("board")
    want = study.leaderboard.filter(pl.col("arm").is_in(["all", "interactions"])).to_dicts()
    assert len(rows) == len(want) == 8
    assert head[-3:] == ["Hit@10", "MRR", "Seeds"], "one relevant item: no recall"
    for i, (cells, row) in enumerate(zip(rows, want, strict=True), start=1):
        assert cells[:2] == [str(i), row["model"] + (" below EASE" if row["below_ease"] else "")]
        assert cells[2:4] == [row["arm"], number(row["mean"])]
        assert cells[5] == interval(row["low"], row["high"], sign=False)
        assert cells[6:] == [*(number(row[name]) for name in ("hit@10", "mrr")), "3"]
    assert sum("below EASE" in row[1] for row in rows) == 5


def test_a_small_metric_is_written_with_the_decimals_of_its_study(study):
    page = Page(render(replace(study, card={**study.card, "decimals": 6})))
    text = " ".join(page.text.split())
    for row in study.verdicts.iter_rows(named=True):
        assert signed(row["held"], 6) in text
        assert number(row["detectable_effect"], 6) in text
    top = study.leaderboard.filter(pl.col("arm") == "all").row(0, named=True)
    for told in (number(top["mean"], 6), interval(top["low"], top["high"], sign=False, decimals=6)):
        assert told in text
    assert number(top["hit@10"], 6) in text  # other metrics are of the same size
    assert number(top["gini@10"], 6) not in text


def test_every_arm_is_on_the_page(study, page):
    shown = {(row[0], row[1]): row[2:] for row in page.rows("arms")[1:]}
    assert len(shown) == study.leaderboard.height == 38
    for row in study.leaderboard.to_dicts():
        assert shown[row["model"], row["arm"]][0] == number(row["mean"])
        assert shown[row["model"], row["arm"]][2] == f"{row['seconds']:,.1f}"


def test_missing_sanity_baselines_are_named(page):
    assert "is missing" not in page.text
    few = Study(half=0.01)
    few.arm("popularity", "interactions", 0.1, 1, 1)
    few.arm("relational-ease", "interactions", 0.2, 1, 1)
    text = page_of(few.result()).text
    lacking = [name for name in ("random", "popularity", "item-kNN", "EASE") if f"{name} is missing" in text]
    assert lacking == ["random", "item-kNN", "EASE"]


def test_recall_is_shown_where_users_have_several_relevant_items(study):
    board = study.leaderboard.with_columns(pl.col("recall@10") / 2)
    page = page_of(replace(study, leaderboard=board))
    assert page.rows("board")[0][6:-1] == ["Hit@10", "Recall@10", "Precision@10", "MAP@10", "MRR"]
    every = page.rows("metrics")[0]
    assert "Hit@50" in every, "other cuts stand in the full table"
    assert "Users without truth" in every


def test_a_relation_without_verdict_still_shows_its_effects(study):
    verdicts = study.verdicts.filter(pl.col("relation") != "has_tag")
    page = page_of(replace(study, verdicts=verdicts))
    assert "has_tag" in [row[0] for row in page.rows("forest", "relational-ease")]
    assert "has_tag" not in [row[0] for row in page.rows("verdicts", "relational-ease")]


def test_a_model_without_the_usual_arms_keeps_its_best_row():
    study = Study(half=0.01)
    baselines(study, 0.2)
    study.arm("oracle", "given", 0.4, 1, 1)
    study.arm("oracle", "worse", 0.3, 1, 1)
    rows = page_of(study.result()).rows("board")
    assert [row[1:3] for row in rows if "oracle" in row] == [["oracle", "given"]]


def test_cost_is_the_difference_of_the_compared_arms(page):
    (row,) = [row for row in page.rows("cost", "relational-ease") if row[0] == "has_tag"]
    # all: 2.6 × 31 s, without has_tag 2.3 × 31 s; 2310 and 1910 MB; alone: 1.5 × 31 − 31 s, 1740 − 1240 MB
    assert row[2:] == ["331,902", "+.0072", "+9.3", "+400", "+.0231", "+15.5", "+500"]


def test_learning_curves():
    study = Study(half=0.01)
    for epoch, metric in enumerate([0.1, 0.2, 0.3], start=1):
        study.rows["curves"].append(("gnn", "all", 0, epoch, 1.0 / epoch, metric))
        study.rows["curves"].append(("gnn", "all - r", 0, epoch, 1.0 / epoch, 0.3 - metric / 2))
    html = render(study.result())
    lines = [
        [tuple(map(float, point.split(","))) for point in points.split()]
        for points in re.findall(r'<polyline class="all" points="([^"]*)"', html)
    ]
    assert len(lines) == 2
    metric, loss = lines
    assert [x for x, _ in metric] == [0, 50, 100]
    assert metric[0][1] > metric[1][1] > metric[2][1], "a rising metric rises on the screen"
    assert loss[0][1] < loss[1][1] < loss[2][1]
    assert "1 of 2 were still at their best when they ended" in " ".join(Page(html).text.split())
    assert len(re.findall(r'<polyline class="other"', html)) == 2


def test_long_curves_are_thinned_but_keep_their_ends():
    study = Study(half=0.01)
    for epoch in range(1, 1001):
        study.rows["curves"].append(("gnn", "all", 0, epoch, 1.0, epoch / 1000))
    (points,) = re.findall(r'<polyline class="all" points="([^"]*)"', render(study.result()))[:1]
    points = points.split()
    assert len(points) <= 61
    assert points[0].startswith("0.0,")
    assert points[-1].startswith("100.0,")


def test_groups_are_ordered():
    study = judged(("m", "tags", "helps"))
    for order, label in [(2, "long"), (0, "short"), (1, "medium")]:
        study.groups.extend(
            pl.DataFrame(
                [("m", "tags", "drop", None, "history", label, order, 0.01 * order, 0.0, 0.02 * order, 7)],
                schema=study.groups.schema,
                orient="row",
            )
        )
    text = " ".join(page_of(study).text.split())
    assert re.search(r"By history tags drop .*short 7 users.* medium 7 users.* long 7 users", text)


def test_one_group_is_no_comparison():
    study = judged(("m", "tags", "helps"))
    row = ("m", "tags", "drop", None, "history", "short", 0, 0.01, 0.0, 0.02, 7)
    groups = pl.DataFrame([row], schema=study.groups.schema, orient="row")
    assert "All users fall into one group: short." in page_of(replace(study, groups=groups)).text


def test_models_that_differ_are_named(page):
    said = "relational-lightgcn agrees on 2 of 5; it says similar_text – interchangeable, in_language – negligible"
    assert said in " ".join(page.text.split())


def test_the_planted_truth_is_next_to_the_verdict():
    study = planted()
    page = page_of(study)
    assert "4 of 4 verdicts agree with it" in " ".join(page.text.split())
    assert {row[0]: row[1] for row in page.rows("verdicts")[1:]}[
        "B"
    ] == "≈ interchangeable ✓ planted: interchangeable"
    wrong = study.verdicts.with_columns(true_verdict=pl.lit("helps"))
    page = page_of(replace(study, verdicts=wrong))
    assert "1 of 4 verdicts agree with it" in " ".join(page.text.split())
    assert {row[0]: row[1] for row in page.rows("verdicts")[1:]}["C"] == "– negligible ✕ planted: helps"


def test_unknown_truth_is_not_mentioned(page):
    assert "planted" not in page.text


def test_leaks_and_smoke_runs_are_shown_at_the_top():
    text = " ".join(page_of(crowded()).text.split())
    verdicts = text.index("Positive values are improvements due to the relation")
    assert text.index("Smoke run:") < verdicts
    assert text.index("The audit found 1 leak: test rows in the graph: 12 test rows are edges") < verdicts
    assert "Smoke run" not in page_of(goodbooks()).text


def test_audit_lists_the_worst_first():
    audit = [{"level": level, "check": level, "message": "m", "count": 0} for level in ("ok", "leak", "warning")]
    study = empty()
    html = render(replace(study, card=study.card | {"audit": audit}))
    assert re.findall(r'<span class="chip (leak|warning|ok)">', html) == ["leak", "warning", "ok"]


def test_names_are_escaped():
    evil = "<script>alert(1)</script>"
    quote = '" onload="alert(1)'
    study = Study(half=0.002)
    for model in (evil, quote):
        for relation in (evil, quote):
            study.relation(model, relation, "interchangeable", (0.001, 0.02, 0.001), evil, "helps")
            study.effect(model, relation, "beside", (evil, quote), 0.01, evil)
            study.rows["groups"].append((model, relation, "drop", None, evil, quote, 0, 0.1, 0.0, 0.2, 5))
        study.arm(model, evil, 0.1, 1, 1)
        study.rows["curves"] += [(model, quote, 0, epoch, 1.0, 0.1) for epoch in (1, 2)]
        study.rows["tuning"].append((model, evil, 0, 0, 0.1, f'{{"{evil}": "</td>"}}', True))
    keys = {"source": evil, "target": quote, "edges": 1, "covered": 1.0, "kind": evil}
    text = {"name": evil, "title": "</title>" + evil, "description": evil, "protocol": quote, "fingerprints": [evil]}
    page = page_of(
        study.result(
            **text,
            relations=[{"name": evil, **keys}],
            nodes=[{"type": evil, "count": 1}],
            notices=[{"where": quote, "message": evil, "count": 1}],
            audit=[{"level": "leak", "check": quote, "message": evil, "count": 1}],
        )
    )
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}], "the page's own"
    assert "onload" not in {name for _, attributes in page.tags for name in attributes}
    assert page.rows("verdicts", evil)[1][0] in (evil, quote)


@pytest.mark.parametrize("make", [goodbooks, planted, crowded, empty])
def test_page_loads_nothing(make):
    html = render(make())
    page = Page(html)
    assert not LOADING & {tag for tag, _ in page.tags}
    assert not page.having("src")
    ids = page.having("id")
    assert len(set(ids)) == len(ids)
    for link in page.having("href"):
        assert link == "data:," or link[1:] in ids
    assert not re.search(r"@import|url\(|https?:", html.replace("http://www.w3.org/2000/svg", ""))  # a namespace
    (policy,) = (text for text in page.having("content") if text.startswith("default-src 'none'"))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy, "no other script runs"


@pytest.mark.parametrize("make", [goodbooks, planted, crowded, empty, lambda: judged(("m", "r", "helps"))])
def test_every_relation_and_verdict_occurs(make):
    study = make()
    page = page_of(study)
    for row in study.verdicts.to_dicts():
        (cells,) = [cells for cells in page.rows("verdicts", row["model"]) if cells[0] == row["relation"]]
        assert row["verdict"] in cells[1]
        assert typeset(row["sentence"]) in page.text


@pytest.mark.parametrize("name", [name for name in REQUIRED_COLUMNS if name != "card"])
def test_each_table_may_be_empty(study, name):
    page_of(replace(study, **{name: getattr(study, name).clear()}))
    page_of(replace(study, **{name: pl.DataFrame()}))


def test_unknown_figures_are_dashes():
    study = goodbooks()
    holes = {}
    for name in ("leaderboard", "effects", "verdicts", "groups", "curves"):
        frame = getattr(study, name)
        holes[name] = frame.with_columns(
            pl.lit(None, pl.Float64).alias(c) for c in frame.columns if frame[c].dtype.is_float()
        )
    page = page_of(replace(study, **holes))
    assert page.rows("verdicts", "relational-ease")[1][2] == "–"
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text)


def test_templates_are_compiled_once(study, monkeypatch):
    """Compiling takes longer than writing a page."""
    page = render(study)
    monkeypatch.setattr("jinja2.Environment.compile", None)
    assert render(study) == page


def test_a_missing_column_is_named(study):
    with pytest.raises(InputError, match="p_holm") as error:
        render(replace(study, effects=study.effects.drop("p_holm")))
    assert "effects" in error.value.where
    card = {key: value for key, value in study.card.items() if key != "machine"}
    with pytest.raises(InputError, match="machine"):
        render(replace(study, card=card))


def test_the_page_is_written_atomically(tmp_path, study):
    path = tmp_path / "new" / "report.html"
    assert write_report(study, path) == path
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")
    assert "±.0038" in before
    with pytest.raises(InputError):
        write_report(replace(study, effects=study.effects.drop("p")), path)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_required_columns_are_those_of_a_study(study):
    assert set(REQUIRED_COLUMNS) == {field.name for field in fields(study)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *[(text, "paper") for text in ("ink", "soft", "link", "up", "down", "ok")],
        *[(f"hue{i}", "paper") for i in range(6)],
        *[
            ("up", "up-soft"),
            ("down", "down-soft"),
            ("amber", "amber-soft"),
            ("soft", "grey-soft"),
            ("ok", "ok-soft"),
        ],
        *[("ink", ground) for ground in ("panel", "amber-soft", "down-soft", "info-soft", "up-soft", "margin")],
        *[("soft", ground) for ground in ("panel", "band", "amber-soft", "up-soft")],
        *[(tone, "panel") for tone in ("amber", "down", "hue0", "hue3", "hue4")],
        *[("link", ground) for ground in ("panel", "up-soft", "amber-soft", "down-soft")],
        ("paper", "ink"),
    ],
)
def test_contrast_is_at_least_wcag_aa(scheme, text, ground):
    css = files("relrank.report").joinpath("style.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", re.findall(r":root \{(.*?)\}", css, re.S)[scheme]))
    one, two = sorted((luminance(colours[text]), luminance(colours[ground])))
    assert (two + 0.05) / (one + 0.05) >= 4.5


def test_models_against_a_rival_are_shown_with_both_differences(tmp_path):
    study = Study(half=0.01)
    study.effect("network", None, "gain", ("all", "interactions"), 0.02)
    study.effect("network", None, "versus", ("all", "all"), -0.03, "linear")
    study.effect("network", None, "versus gain", ("all", "interactions"), 0.015, "linear")
    text = write_report(study.result(), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Who uses relations better?" in text
    section = text[text.index('id="versus"') :].split("</section>")[0]
    assert "overall" in section
    assert "−.0300" in section
    assert "gain − gain" in section
    assert "+.0150" in section
    plain = Study(half=0.01)
    plain.effect("network", None, "gain", ("all", "interactions"), 0.02)
    assert "Who uses" not in write_report(plain.result(), tmp_path / "p.html").read_text(encoding="utf-8")


def by_groups():
    """Two models, one on two arms, in two groups of users; figures to be read back from the page."""
    study = Study(half=0.01)
    study.arm("gnn", "all", 0.3, 1, 1)
    study.arm("gnn", "interactions", 0.2, 1, 1)
    study.arm("gnn", "all without tags", 0.25, 1, 1)
    study.arm("knn", "interactions", 0.1, 1, 1)
    study.effect("gnn", None, "gain", ("all", "interactions"), 0.1)
    study.effect("gnn", None, "versus", ("all", "interactions"), 0.2, "knn")
    for model, arm, everyone, short, long in [
        ("gnn", "all", 0.3, 0.1, 0.5),
        ("gnn", "interactions", 0.2, 0.10001, 0.3),
        ("gnn", "all without tags", 0.9, 0.9, 0.9),
        ("knn", "interactions", 0.1, 0.15, 0.05),
    ]:
        rows = [
            ("all users", "all users", 0, 9, everyone),
            ("history length", "> 50", 2, 4, long),
            ("history length", "≤ 10", 0, 5, short),
            ("item popularity", "middle third", 1, 9, everyone),
        ]
        for group, label, order, n_users, ndcg in rows:
            figures = (0.5 * ndcg, 1.5 * ndcg, ndcg, 0.7)  # mrr, hit@10, ndcg@10, recall@50
            study.rows["group_metrics"].append((model, arm, group, label, order, n_users, *figures))
    for label, order, n_users, mean in [("> 50", 2, 4, 0.45), ("≤ 10", 0, 5, -0.05)]:
        here = study.around(mean)
        study.rows["groups"].append(("gnn", None, "versus", "knn", "history length", label, order, *here, n_users))
    return study.result()


def test_metrics_by_group_of_users():
    page = page_of(by_groups())
    assert page.rows("by-group", "history length") == [
        ["Model", "all users n = 9", "≤ 10 n = 5", "> 50 n = 4"],
        ["gnn all", ".3000 .4500", ".1000 .1500", ".5000 .7500"],
        ["gnn interactions", ".2000 .3000", ".1000 .1500", ".3000 .4500"],
        ["knn interactions", ".1000 .1500", ".1500 .2250", ".0500 .0750"],
    ]
    every = page.rows("group-metrics", "history length")
    assert every[0] == ["History length", "Model", "Arm", "Users", "MRR", "Hit@10", "NDCG@10", "Recall@50"]
    assert every[1] == ["≤ 10", "gnn", "all", "5", ".0500", ".1500", ".1000", ".7000"]
    assert [row[:4] for row in every[4:]] == [
        ["> 50", "gnn", "all", "4"],
        ["> 50", "gnn", "interactions", "4"],
        ["> 50", "knn", "interactions", "4"],
    ]
    assert "All users fall into one group: middle third." in page.text


def test_the_best_of_each_column_is_bold():
    html = render(by_groups())
    table = html[html.index('<table class="by-group" data-model="history length">') :].split("</table>")[0]
    assert re.findall(r'<span class="n best(?: ci)?">([^<]*)<', table) == [
        ".3000",
        ".4500",
        ".5000",
        ".7500",
        ".1500",
        ".2250",
    ]
    # what reads the same is equally good
    study = by_groups()
    without = study.group_metrics.filter(pl.col("model") == "gnn")
    board = study.leaderboard.filter(pl.col("model") == "gnn")
    html = render(replace(study, group_metrics=without, leaderboard=board))
    table = html[html.index('<table class="by-group" data-model="history length">') :].split("</table>")[0]
    assert re.findall(r'<span class="n best">([^<]*)<', table) == [".3000", ".1000", ".5000", ".1000"]


def test_differences_to_the_rival_are_shown_by_group():
    html = render(by_groups())
    section = " ".join(Page(html[html.index('<section id="groups"') :].split("</section>")[0]).text.split())
    assert "Against knn, by history length gnn − knn" in section
    assert re.search(r"≤ 10 5 users≤ 10: \S+ \S+ \S+ −\.0500 > 50 4 users> 50: \S+ \S+ \S+ \+\.4500", section)
    assert "Effects by user group" not in section, "no effect was looked at by group"
    assert "Against" not in page_of(goodbooks()).text


def test_a_metric_without_a_cutoff_has_no_hit_rate():
    study = by_groups()
    page = page_of(replace(study, card=study.card | {"metric": "mrr"}))
    assert page.rows("by-group", "history length")[1] == ["gnn all", ".1500", ".0500", ".2500"]


def test_learned_values_are_averaged_over_seeds():
    study = Study(half=0.01, seeds=(0, 1))
    study.effect("gnn", None, "gain", ("all", "interactions"), 0.1)
    lengths, weights = "own share by history length", "relation weights"
    study.rows["notes"] += [
        ("gnn", "all", 0, weights, "tags", 0.5, None, None),
        ("gnn", "all", 0, weights, "texts", 2.0, None, None),
        ("gnn", "all", 1, weights, "tags", 1.0, None, None),
        ("gnn", "all without tags", 0, weights, "texts", 3.0, None, None),
        ("fusion", "interactions + tags", 0, lengths, "≤ 10", 0.25, 0.1, 40),
        ("fusion", "interactions + tags", 1, lengths, "≤ 10", 0.75, 0.3, 44),
    ]
    page = page_of(study.result())
    of_weights = [rows for kind, note, rows in page.tables if (kind, note) == ("notes", weights)]
    main, rest = ([row for row in rows if row] for rows in of_weights)
    assert main == [["Model", "tags", "texts"], ["gnn all", ".750", "2.000"]]
    assert rest == [["Model", "tags", "texts"], ["gnn all without tags", "–", "3.000"]]
    # a model without the headline arms shows what it has
    assert page.rows("notes", lengths)[1:] == [["fusion interactions + tags", ".500 ± .200 n = 42"]]
    assert "Learned values" not in page_of(goodbooks()).text


def with_other_metrics():
    """Two relations of one model, whose recall@50 falls with tags; the hits of a list are its recall at 10 only."""
    study = Study(half=0.01)
    study.arm("m", "all", 0.2, 1, 1)
    study.arm("m", "interactions", 0.1, 1, 1)
    for name in ("tags", "text"):
        study.relation("m", name, "helps", (0.02, 0.03, 0.02))
    for measure, mean in (("recall@50", -0.05), ("recall@10", 0.03), ("map@10", 0.01), ("mrr", 0.002)):
        study.metric("m", "tags", "drop", measure, mean)
    study.metric("m", "text", "alone", "recall@50", 0.0)
    study.metric("m", "tags", "alone", "hit@10", 0.06)
    study.metric("m", None, "gain", "hit@10", 0.04)
    study.metric("m", None, "versus", "hit@10", 0.5)
    return study.result()


def test_other_metrics_are_in_a_collapsed_section():
    page = page_of(with_other_metrics())
    head, *rows = page.rows("list-effects", "m, other metrics")
    assert head == ["Relation", "Hit@10", "Recall@50", "MRR"], "with one relevant item recall@10 and MAP say no more"
    assert rows == [
        ["all relations gain", "+.0400 [+.0300, +.0500]", "–", "–"],
        ["tags tuned again", "–", "−.0500 [−.0600, −.0400]", "+.0020 [−.0080, +.0120]"],
        ["tags alone", "+.0600 [+.0500, +.0700]", "–", "–"],
        ["text alone", "–", ".0000 [−.0100, +.0100]", "–"],
    ]
    text = " ".join(page.text.split())
    assert "not corrected for the number of metrics" in text
    said = "Other metrics, not corrected for their number: tags helps NDCG@10 with m, but costs Recall@50: "
    assert said + "−.0500 (−.0600 to −.0400)." in text
    assert "Other metrics" not in page_of(planted()).text


def test_arms_against_the_strongest_model_are_in_a_collapsed_section():
    study = Study(half=0.01)
    study.arm("m", "all", 0.2, 1, 1)
    study.relation("m", "tags", "helps", (0.02, 0.03, 0.02))
    study.effect("m", None, "strongest", ("interactions + tags", "interactions"), -0.05, "ease")
    study.effect("m", None, "strongest", ("all", "interactions"), 0.002, "ease")
    result = study.result(arms=[{"name": "interactions + tags", "title": "interactions + Tags"}])
    page = page_of(result)
    assert page.rows("strongest")[1:] == [
        ["m", "interactions + Tags", "−.0500 [−.0600, −.0400]", "<.001"],
        ["m", "all", "+.0020 [−.0080, +.0120]", ".410"],
    ]
    assert "Every arm against the strongest model without relations, ease" in page.text
    assert "all relations" not in [row[0] for row in page.rows("forest", "m")], "they are no gain"
    assert "strongest model without" not in page_of(planted()).text


def test_titles_are_shown_everywhere_and_keys_stay_names(study):
    titles = {"has_tag": "Tags & <labels>", "similar_text": "Similar text"}
    relations = [row | {"title": titles.get(row["name"])} for row in study.card["relations"]]
    arms = [{"name": f"interactions + {name}", "title": f"interactions + {title}"} for name, title in titles.items()]
    arms += [{"name": f"all without {name}", "title": f"all without {title}"} for name, title in titles.items()]
    arms += [{"name": f"all, {name} rewired", "title": f"all, {title} rewired"} for name, title in titles.items()]
    told = study.verdicts["sentence"].str.replace_many(list(titles), list(titles.values()))
    notes = pl.DataFrame({"model": "relational-ease", "arm": "all", "seed": 0, "note": ["relation weights", "share"],
                          "key": ["has_tag", "similar_text"], "value": 1.0, "sd": None, "count": None},
                         schema_overrides={"sd": pl.Float64, "count": pl.Int64})  # fmt: skip
    html = render(
        replace(
            study, card=study.card | {"relations": relations, "arms": arms}, notes=notes,
            verdicts=study.verdicts.with_columns(told.alias("sentence")),
        )
    )  # fmt: skip
    page = Page(html)
    assert "Tags & <labels>" in [row[0] for row in page.rows("verdicts", "relational-ease")]
    firsts = {row[0] for _, _, rows in page.tables for row in rows if row}
    assert "Tags & <labels> has_tag" in firsts, "the data card has the name, too"
    assert "<labels>" not in html
    assert page.rows("notes", "relation weights")[0] == ["Model", "Tags & <labels>"]
    assert page.rows("notes", "share")[0] == ["Model", "similar_text"], "a note's key of that name is no relation"
    shown = r"<code>.*?</code>|<table class=.notes.*?</table>|data-table='.*?'"  # what is copied has both
    spoken = re.sub(shown, "", html, flags=re.S)
    assert "has_tag" not in spoken
    assert "similar_text" not in spoken
    assert "written_by" in spoken
    for drawn_text in ("Tags &amp; &lt;labels&gt;, tuned again:", "Similar text, all so far:"):
        assert f'aria-label="{drawn_text}' in html


def test_arms_with_the_same_rankings_have_no_interval():
    """A relation with weight 0 changes nothing: 0 is not an estimate, and [0, 0] not an interval."""
    study = goodbooks()
    columns = [kind + end for kind in ("held", "drop") for end in ("", "_low", "_high")]
    none = pl.col("relation") == "in_language"
    nothing = [pl.when(none).then(0.0).otherwise(c).alias(c) for c in columns]
    page = Page(render(replace(study, verdicts=study.verdicts.with_columns(nothing))))
    (row, *_) = (row for row in page.rows("verdicts", "relational-ease") if row[0] == "in_language")
    assert row[2:4] == ["0, the same"] * 2
    assert row[4].startswith("+.0014 [")
