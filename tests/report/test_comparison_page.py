"""Two studies on one page."""

from dataclasses import replace

import polars as pl
import pytest
from handmade import empty, goodbooks, judged, planted
from test_page import Page

from relrank.cli.studies import report
from relrank.report import write_comparison
from relrank.report.study_comparison import comparability, compare_studies


def page_of(a, b, path, names=("old", "new")):
    page = Page(write_comparison(a, b, path, names).read_text(encoding="utf-8"))
    assert not page.open
    return page


def changed(study):
    """The same study with another verdict on tags, another plan, one relation fewer, one model more."""
    word = pl.when(pl.col("relation") == "has_tag").then(pl.lit("negligible")).otherwise("verdict").alias("verdict")
    verdicts = study.verdicts.with_columns(word).filter(pl.col("relation") != "published_in")
    return replace(study, verdicts=verdicts, card=study.card | {"plan": None, "trials": 20})


def test_the_same_study_differs_in_nothing(tmp_path):
    view = compare_studies(goodbooks(), goodbooks())
    assert view["names"] == ("goodbooks-loo", "goodbooks-loo (2)")
    assert (view["limits"], view["differing"], view["changed"]) == ([], [], [])
    assert len(view["equal"]) == 19
    text = " ".join(page_of(goodbooks(), goodbooks(), tmp_path / "p.html").text.split())
    assert "all 5 verdicts that both have are the same." in text
    assert "so all figures can be compared" in text


def test_changes_are_marked_and_come_first(tmp_path):
    study = goodbooks()
    page = page_of(study, changed(study), tmp_path / "p.html")
    head, *rows = page.rows("both")
    assert head == ["Relation", "A · old", "B · new", "Change"]
    assert [(row[0], row[3]) for row in rows] == [
        ("has_tag", "changed"), ("written_by", "changed"), ("similar_text", "same"), ("in_language", "same"),
        ("published_in", "only in A"),
    ]  # fmt: skip
    assert rows[0][1] == "▲ build +5.0 % +3.1 to +6.9 %"  # .0072 ± .0027 of .1443
    assert rows[0][2] == "– negligible +5.0 % +3.1 to +6.9 %"
    assert rows[4][2] == "not in this study"
    assert "2 of 4 verdicts that both have differ: has_tag and written_by." in page.text
    assert page.rows("settings")[1:] == [["Trials per arm, at most", "8", "20"]]


def test_effects_are_in_one_plot_with_two_shapes(tmp_path):
    study = goodbooks()
    path = tmp_path / "p.html"
    page = page_of(study, changed(study), path)
    rows = page.rows("forest")
    assert rows[1] == ["has_tag", "beside the others", "", "+5.0 %", "+5.0 %"]
    html = path.read_text(encoding="utf-8")
    assert html.count('<g class="study-a">') == 10
    assert html.count('<g class="study-b">') == 8
    data = compare_studies(study, changed(study))["forest"]["data"]
    first = dict(zip(data["columns"], data["rows"][0], strict=True))
    assert (first["relation"], first["kind"], first["study"]) == ("has_tag", "beside the others", "A")
    assert first["mean"] == pytest.approx(100 * 0.0072 / 0.1443)


def test_leaderboards_show_a_difference_only_if_it_means_something(tmp_path):
    study = goodbooks()
    better = replace(study, leaderboard=study.leaderboard.with_columns(mean=pl.col("mean") + 0.01))
    page = page_of(study, better, tmp_path / "p.html")
    assert page.rows("both-boards")[0][-1] == "B − A"
    assert {row[-1] for row in page.rows("both-boards")[1:]} == {"+.0100"}
    page = page_of(study, planted(), tmp_path / "q.html")
    assert page.rows("both-boards")[0][-1] == "B · new"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "hit@10"}, "The metrics differ (NDCG@10 and Hit@10)"),
        ({"fingerprints": ["another"]}, "no figure of one study may be compared with one of the other"),
        ({"protocol": "temporal"}, "The protocols differ: goodbooks-loo and temporal."),
        ({"smoke": True}, "goodbooks-loo is a smoke run"),
        ({"progress": {"cells_done": 1, "cells_total": 2, "seconds_left": None}}, "goodbooks-loo is provisional"),
    ],
)
def test_what_cannot_be_compared_is_said_at_the_top(change, said, tmp_path):
    study = goodbooks()
    other = replace(study, card=study.card | change)
    (limit,) = comparability(study, other)
    assert limit.startswith(said) or said in limit
    text = " ".join(page_of(study, other, tmp_path / "p.html").text.split())
    assert ("These are different experiments" in text) == (not {"metric", "fingerprints"}.isdisjoint(change))
    assert text.index("What cannot be compared") < text.index(said) < text.index("Verdicts")


def test_shared_splits_are_counted():
    study = goodbooks()
    fewer = replace(study, card=study.card | {"fingerprints": study.card["fingerprints"][:2]})
    (limit,) = comparability(study, fewer)
    assert limit.startswith("2 of 3 splits are in both studies")


def test_other_metrics_are_not_drawn_together():
    study = goodbooks()
    view = compare_studies(study, replace(study, card=study.card | {"metric": "hit@10"}))
    assert view["forest"] is None


@pytest.mark.parametrize("b", [empty, planted, lambda: judged(("m", "r", "helps"))])
def test_any_two_studies_have_a_page(b, tmp_path):
    page_of(goodbooks(), b(), tmp_path / "p.html")
    page_of(b(), goodbooks(), tmp_path / "q.html")


def test_the_command_compares_two_folders(tmp_path, capsys):
    goodbooks().save(tmp_path / "a" / "shop")
    changed(goodbooks()).save(tmp_path / "b" / "shop")
    report(tmp_path / "a" / "shop", tmp_path / "b" / "shop")
    out = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 verdicts that both have differ" in out
    assert "a/shop Build has_tag first, then written_by (or text): together they make" in out
    page = Page((tmp_path / "a" / "shop-and-shop.html").read_text(encoding="utf-8"))
    assert page.rows("both")[0][1:3] == ["A · a/shop", "B · b/shop"]
    report(tmp_path / "a" / "shop", tmp_path / "b" / "shop", tmp_path / "mine.html")
    assert (tmp_path / "mine.html").is_file()
    assert not (tmp_path / "a" / "shop" / "report.html").exists()
    report(tmp_path / "a" / "shop")
    assert (tmp_path / "a" / "shop" / "report.html").is_file()
