"""A new user's shop from its files to a plan: planted relations are found, leaks are refused."""

import re
from html import unescape
from pathlib import Path

import polars as pl
import pytest
from command_line import relrank
from messy_shop import STUDY, TIMED, messy_shop

from relrank.report.verdict_summary import answer
from relrank.study.config import read_study
from relrank.study.result import StudyResult


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    messy_shop(folder)
    return folder


def test_views_without_a_time_are_named_as_a_leak_before_anything_is_fitted(shop, monkeypatch, capsys):
    code, out, err = relrank(monkeypatch, capsys, shop, "study", "study.toml", "--out", "untimed")
    assert code == 1
    assert "test rows in views" in err
    held = re.search(r"([\d,]+) of ([\d,]+) test rows are edges of relation views", err)
    assert held.group(1) == held.group(2)  # nobody bought what they had not looked at
    assert "time, by" in err  # how to mend it
    # what is wrong with the files is counted on the way
    assert re.search(r"purchases\.csv: repeated \(user, item\) rows dropped, the first kept \(2\d\)", out)
    assert "views.csv, column sku: keys not in product dropped (25)" in " ".join(out.split())
    assert not (shop / "untimed").exists()


@pytest.mark.slow
def test_with_times_the_plan_is_brand_and_tags_and_colour_is_nothing(shop, monkeypatch, capsys):
    (shop / "timed.toml").write_text(STUDY.replace('target_column = "sku"\n', TIMED))
    assert read_study(shop / "timed.toml").data.links["page_views"].time == "seen_at"
    code, out, _ = relrank(monkeypatch, capsys, shop, "study", "timed.toml", "--out", "timed")
    assert code == 0
    assert re.search(r"rows at or after the cut of the split: not in the graph \([\d,]{5}\)", out)
    result = StudyResult.load(shop / "timed")
    said = dict(result.verdicts.select("relation", "verdict").iter_rows())
    assert (said["brand"], said["tags"]) == ("helps", "helps")
    assert said["colour"] in ("negligible", "undecided")
    assert said["views"] in ("negligible", "undecided")  # they say what the purchases say
    assert not [row for row in result.card["audit"] if row["level"] == "leak"]

    assert "Weak judge" not in out

    plan = result.card["plan"]
    built = [step["relation"] for step in plan["steps"]]
    assert (sorted(built[:2]), plan["build"]) == (["brand", "tags"], 2)
    assert plan["steps"][1]["share"] == pytest.approx(1, abs=0.1)
    sentence = answer(result)
    assert re.match(
        r"Build (brand|tags) first, then (brand|tags): together they make the top-10 list \d{2,3} % better;", sentence
    )
    colour = result.verdicts.row(by_predicate=pl.col("relation") == "colour", named=True)
    alike = result.verdicts.filter(pl.col("verdict") == colour["verdict"])
    limit = colour["margin"] if colour["verdict"] == "negligible" else alike["detectable_effect"].max()
    assert re.search(rf"colour (is|and views are) {colour['verdict']}", sentence)
    share = limit / result.card["plan"]["base"]
    assert f"{100 * share:.0f} %" in sentence or f"{100 * share:.1f} %" in sentence  # with a number

    # the same on terminal and page, and that one cut in time speaks of itself alone
    page = unescape((shop / "timed" / "report.html").read_text())
    interval_caveat = (
        'Confidence intervals cover users only: with split = "temporal" all seeds have the same test rows.'
    )
    for shown in (" ".join(out.split()), " ".join(page.split())):
        assert sentence in shown
        assert interval_caveat in shown
    rows = re.findall(
        r'<th scope="row">(\w+)</th>', page[page.index('id="plan-table"') : page.index('id="verdicts"')]
    )
    assert rows == built
