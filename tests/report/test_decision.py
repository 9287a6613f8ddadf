"""What is above the fold: lists, caveats, what the decision rests on."""

from dataclasses import replace

import polars as pl
import pytest
from handmade import Study, baselines, crowded, empty, goodbooks, judged, planted
from test_page import page_of

from relrank.report.decision import basis, caveats, decision_groups
from relrank.report.page import render

UNUSED = "the model gives it no weight; whether a small one would matter is open"


def lists(study):
    return {group.verdict: [(e.title, e.gain, e.interval, e.against) for e in group.entries]
            for group in decision_groups(study)}  # fmt: skip


def test_lists_have_gains_relative_to_the_interactions_alone():
    # interactions alone: .1443; the plan adds .0101 ± .002 and .0051 ± .002; effects are ± .0027
    assert lists(goodbooks()) == {
        "build": [
            ("has_tag", "+7.0 %", "+5.6 to +8.4 %", "on its own"),
            ("written_by", "+3.5 %", "+2.1 to +4.9 %", "beside has_tag"),
            ("similar_text", "+2.8 %", "+1.0 to +4.7 %", "beside all the others"),
        ],
        "interchangeable": [],
        "negligible": [],
        "undecided": [
            ("in_language", "+0.3 %", "−1.6 to +2.1 %", "beside all the others"),
            ("published_in", "−0.4 %", "−2.3 to +1.5 %", "beside all the others"),
        ],
    }


def test_interchangeable_relations_show_what_they_add_alone():
    # interactions alone: .12; B alone: .055 ± .006
    assert lists(planted())["interchangeable"] == [
        ("B", "+46 %", "+41 to +51 %", "on its own; nothing more beside A")
    ]
    assert lists(planted())["build"] == [("A", "+26 %", "+21 to +31 %", "beside all the others")]


def test_without_that_metric_gains_are_absolute():
    study = judged(("m", "good", "helps"), ("m", "bad", "hurts"))
    assert lists(study)["hurts"] == [("bad", "−.0200", "[−.0229, −.0171]", "beside all the others")]
    assert "hurts" not in lists(goodbooks()), "no list of harmful relations without any"
    assert decision_groups(empty()) == []


def test_a_relation_that_changes_no_list_has_no_interval():
    study = goodbooks()
    none = pl.col("relation") == "in_language"
    zero = [pl.when(none).then(0.0).otherwise(c).alias(c) for c in ("held", "held_low", "held_high")]
    for unused, why in ((1.0, UNUSED), (0.0, "changes no list")):
        weight = pl.when(none).then(unused).otherwise("unused").alias("unused")
        result = replace(study, verdicts=study.verdicts.with_columns(*zero, weight))
        assert ("in_language", "0 %", "", why) in lists(result)["undecided"]


def test_a_built_relation_that_the_others_replace_says_so():
    study = goodbooks()
    word = pl.when(pl.col("relation") == "has_tag").then(pl.lit("undecided")).otherwise("verdict").alias("verdict")
    first, *_ = lists(replace(study, verdicts=study.verdicts.with_columns(word)))["build"]
    assert first[3] == "on its own; undecided beside all the others"


def test_what_has_not_run_yet_is_shown_alone():
    study = judged(("m", "x", "undecided"))
    empty_columns = [pl.lit(None, pl.Float64).alias(f"held{end}") for end in ("", "_low", "_high")]
    result = replace(study, verdicts=study.verdicts.with_columns(empty_columns))
    assert lists(result)["undecided"] == [("x", "+.0005", "[−.0024, +.0034]", "on its own, so far")]


def test_titles_are_shown_and_escaped():
    evil = "<img src=x onerror=alert(1)>"
    study = judged(("m", "x", "helps"), ("m", "y", "interchangeable", "x"), ("m", "z", "undecided"))
    study.card["relations"] = [{"name": name, "title": evil + name} for name in "xyz"]
    study.card["accepted_leaks"] = [{"names": ["x"], "check": evil, "message": evil, "count": 1}]
    study.card["relations"] = [
        row | {"source": "a", "target": "b", "edges": 1, "covered": 1.0, "kind": "link"}
        for row in study.card["relations"]
    ]
    page = page_of(study)
    assert "img" not in {tag for tag, _ in page.tags}
    assert f"Build {evil}x: beside the other relations" in page.text
    assert f"nothing more beside {evil}x" in page.text


@pytest.mark.parametrize(
    ("change", "title", "text"),
    [
        ({"smoke": True}, "Smoke run", "few users and trials"),
        ({"accepted_leaks": [{"names": ["has_tag"], "check": "c", "message": "60 of 60", "count": 60}]},
         "Leak accepted: has_tag", "c: 60 of 60. The study file accepts this by name"),
        ({"audit": [{"level": "leak", "check": "c", "message": "12 rows", "count": 12}]},
         "The audit found 1 leak", "c: 12 rows. Until this is fixed"),
        ({"suspicious_gains": ["look at clicks"]}, "Suspicious gain", "look at clicks"),
        ({"skipped": ["gnn does not fit", "sasrec does not fit"]}, "Left out for lack of memory",
         "gnn does not fit. sasrec does not fit."),
        ({"model_strength": [{"model": "relational-ease", "valid": 0.1, "stronger": "x", "stronger_valid": 0.2,
                              "better_setting": None, "sentence": "Weak judge: x ranks better."}]},
         "Weak judge", "X ranks better."),
    ],
)  # fmt: skip
def test_caveats_are_on_the_page(change, title, text):
    study = goodbooks()
    before = {caveat.title for caveat in caveats(study)}
    assert before == {"Disagreement"}
    result = replace(study, card=study.card | change)
    assert [c.title for c in caveats(result) if c.title not in before] == [title]
    (caveat,) = (c for c in caveats(result) if c.title == title)
    assert text in caveat.text
    assert caveat.level == ("leak" if "leak" in title.lower() else "warning")
    assert f"{title}: {caveat.text}" in " ".join(page_of(result).text.split())


def test_few_users_and_a_judge_below_ease_are_caveats():
    study = planted()
    few = replace(study, leaderboard=study.leaderboard.with_columns(n_users=pl.lit(120)))
    assert [(c.title, c.text) for c in caveats(few)] == [
        ("Few users", "120 users are compared, so intervals are wide.")
    ]
    below = replace(study, leaderboard=study.leaderboard.with_columns(below_ease=pl.lit(True)))
    assert [c.title for c in caveats(below)] == ["Below EASE"]
    assert caveats(study) == []
    assert caveats(crowded())[0].level == "leak", "the worst first"


def test_what_the_decision_rests_on():
    facts = {fact.label: fact.value for fact in basis(goodbooks())}
    assert facts == {
        "Users compared": "2,668",
        "Splits": "3",
        "Dates": "not stored",
        "Judge, the strongest alone": "relational-ease, NDCG@10 .1443 alone",
        "Too small to matter": "±1 %",  # .0014 of .1443
        "Audit": "no leaks, 1 warning",
    }
    study = goodbooks()
    card = study.card | {"dates": ["1997-09-20", "1998-04-22"], "interval_caveat": "users only."}
    facts = {fact.label: fact.value for fact in basis(replace(study, card=card))}
    assert facts["Dates"] == "1997-09-20 to 1998-04-22"
    assert facts["Splits"] == "3, users only"
    assert {f.label: f.value for f in basis(replace(study, card=card | {"dates": None}))}[
        "Dates"
    ] == "none in the data"


def test_a_judge_that_is_not_the_strongest_is_named_beside_it():
    study = Study(half=0.006)
    baselines(study, ease=0.2)
    study.arm("weak", "interactions", 0.1, 1, 1)
    study.relation("weak", "A", "helps", (0.03, 0.03, 0.03))
    facts = {fact.label: fact.value for fact in basis(study.result())}
    assert facts["Judge"] == "weak, NDCG@10 .1000 alone"
    assert facts["Strongest without relations"] == "ease, NDCG@10 .2000"


def test_a_running_study_has_a_banner_and_reloads():
    study = goodbooks()
    progress = {"cells_done": 12, "cells_total": 44, "seconds_left": 170.0}
    running = replace(study, card=study.card | {"progress": progress})
    text = " ".join(page_of(running).text.split())
    assert "Provisional: 12 of 44 cells, about 3 min left; verdicts may change." in text
    unknown = replace(study, card=study.card | {"progress": progress | {"seconds_left": None}})
    assert "Provisional: 12 of 44 cells; verdicts may change." in " ".join(page_of(unknown).text.split())
    html = render(running, refresh=7)
    assert '<noscript><meta http-equiv="refresh" content="7"></noscript>' in html
    assert 'data-refresh="7"' in html
    for done in (render(running), render(study, refresh=7)):
        assert 'http-equiv="refresh"' not in done
        assert "data-refresh" not in done
    assert "Provisional" not in page_of(study).text


def test_terms_have_explanations():
    for make in (goodbooks, planted, crowded):
        page = page_of(make())
        ids = set(page.having("id"))
        described = [name for name in page.having("aria-describedby") if name.startswith("term-")]
        assert len(described) > 8
        assert set(described) <= ids
