"""The summary at the top of the report."""

from dataclasses import replace

import polars as pl
import pytest
from handmade import Study, crowded, empty, goodbooks, judged, planted

from relrank.report.decision import caveats
from relrank.report.verdict_summary import answer, primary_model

HELPS, OPEN = "helps", "undecided"
NOTHING = "No relation is shown to be worth building; "
SEEN = "(a change below .0040 NDCG@10 can go unseen)"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("m", "tags", HELPS)], "Build tags: it adds .0200 NDCG@10."),
        (
            [("m", "tags", HELPS), ("m", "text", HELPS), ("m", "language", OPEN)],
            "Build tags and text: each makes the top-10 list better beside the others; "
            f"language is undecided {SEEN}.",
        ),
        (
            [("m", "A", HELPS), ("m", "B", "interchangeable", "A"), ("m", "C", "hurts"), ("m", "D", "hurts")],
            "Build A: beside the other relations it adds .0200 NDCG@10; B is interchangeable with it; C and D hurt.",
        ),
        (
            [
                ("m", "B", "interchangeable", "A, C"),
                ("m", "E", "interchangeable", "A, C"),
                ("m", "F", "interchangeable"),
            ],
            f"{NOTHING}B and E are interchangeable with A or C; F is replaced by the others.",
        ),
        ([("m", "genre", OPEN), ("m", "decade", OPEN)], f"{NOTHING}genre and decade are undecided {SEEN}."),
        (
            [("m", "genre", "negligible")],
            f"{NOTHING}genre is negligible (less than .0014 NDCG@10 either way).",
        ),
        ([], "This study compared no relations."),
    ],
)
def test_sentence(rows, sentence):
    assert answer(judged(*rows)) == sentence


def plan(*steps, build, base=0.1):
    """The path of model "m"; (relation, all so far, share, alternatives)."""
    keys = ("relation", "total", "share", "alternatives")
    return {"model": "m", "base": base, "build": build, "steps": [dict(zip(keys, s, strict=True)) for s in steps]}


def test_the_plan_comes_first():
    study = judged(("m", "text", HELPS), ("m", "tags", HELPS), ("m", "era", "negligible"), ("m", "lang", HELPS))
    path = plan(("text", 0.02, 0.8, []), ("tags", 0.025, 0.97, ["authors", "era"]), ("era", 0.0251, 1.0, []), build=2)
    study.card["plan"] = path
    assert answer(study) == (
        "Build text first, then tags (or authors or era): together they make the top-10 list 25 % better; "
        "lang helps, too; era is negligible (less than 1.4 % either way)."
    )
    path["build"] = 1
    assert answer(study).startswith(
        "Build text first: it makes the top-10 list 20 % better; tags and lang help, too;"
    )
    path["build"] = 0
    assert answer(study).startswith("Build text, tags and lang: each makes the top-10 list better beside the others;")
    path["model"] = "another"
    assert answer(study).startswith("Build text, tags and lang: each makes")


def test_relative_gains_need_a_metric_to_be_relative_to():
    study = judged(("m", "A", HELPS), ("m", "B", "interchangeable", "A"), ("m", "C", OPEN))
    board = pl.DataFrame({"model": ["m"], "arm": ["interactions"], "mean": [0.08], "valid": [0.1]})
    assert answer(replace(study, leaderboard=board)) == (
        "Build A: beside the other relations it makes the top-10 list 25 % better; B is interchangeable with it; "
        "C is undecided (a change below 5 % can go unseen)."
    )
    mrr = study.card | {"metric": "mrr"}
    assert "it makes the ranking 25 % better" in answer(replace(study, leaderboard=board, card=mrr))
    nothing = board.with_columns(mean=0.0)
    assert "it adds .0200 NDCG@10" in answer(replace(study, leaderboard=nothing)), "nothing to be relative to"


def test_a_study_that_runs_is_provisional():
    study = judged(("m", "tags", HELPS))
    progress = {"cells_done": 12, "cells_total": 44, "seconds_left": 170.0}
    running = replace(study, card=study.card | {"progress": progress})
    assert answer(running) == "Provisional, 12 of 44 cells: Build tags: it adds .0200 NDCG@10."
    nothing = empty()
    early = replace(nothing, card=nothing.card | {"progress": progress | {"cells_done": 2}})
    assert answer(early) == "Provisional, 2 of 44 cells: No verdict yet."
    early.card["progress"]["so_far"] = "alone, driver +67 % (+59 % to +75 %)"
    assert answer(early).endswith(": No verdict yet; alone, driver +67 % (+59 % to +75 %).")
    assert answer(replace(study, card=study.card | {"progress": None})) == "Build tags: it adds .0200 NDCG@10."


def test_without_gains_the_answer_is_about_the_rival():
    study = Study(half=0.01)
    for model, mean in (("a", 0.02), ("b", 0.05), ("c", 0.005), ("d", -0.03), ("e", 0.03), ("f", 0.04)):
        study.effect(model, None, "versus", ("all", "interactions"), mean, "rival")
    assert answer(study.result()) == (
        "b (+.0500), f (+.0400) and 2 more are better than rival; d is worse; no evidence for c."
    )
    alone = Study(half=0.01)
    alone.effect("c", None, "versus", ("all", "interactions"), -0.005, "rival")
    assert answer(alone.result()) == "No evidence for c against rival."


def test_realistic_studies():
    assert answer(goodbooks()) == (
        "Build has_tag first, then written_by (or text): together they make the top-10 list 11 % better; "
        "similar_text helps, too; in_language and published_in are undecided (a change below 2.6 % can go "
        "unseen)."
    )
    assert answer(planted()) == (
        "Build A: beside the other relations it makes the top-10 list 26 % better; B is interchangeable with it; "
        "C and D are negligible (less than 1.2 % either way)."
    )


def test_the_best_model_comes_first():
    rows = [("weak", "tags", HELPS), ("strong", "tags", OPEN)]
    assert primary_model(judged(*rows, best={"weak": 0.10, "strong": 0.15, "unjudged": 0.20})) == "strong"
    assert primary_model(judged(*rows, best={"weak": 0.15, "strong": 0.10})) == "weak"
    assert primary_model(judged(*rows, best={"weak": 0.10, "strong": float("nan")})) == "weak"
    assert primary_model(judged(*rows)) == "weak", "without a leaderboard the first one listed"
    assert primary_model(empty()) is None


def test_the_largest_detectable_effect_is_named():
    study = judged(("m", "a", HELPS), ("m", "b", OPEN), ("m", "c", OPEN))
    visible = study.verdicts["detectable_effect"].clone()
    visible[1], visible[2], visible[0] = 0.002, 0.009, 0.5
    study = type(study)(**{name: getattr(study, name) for name in study.__slots__} | {
        "verdicts": study.verdicts.with_columns(visible.alias("detectable_effect"))
    })  # fmt: skip
    assert answer(study).endswith("b and c are undecided (a change below .0090 NDCG@10 can go unseen).")


def test_an_unknown_detectable_effect_is_not_mentioned():
    study = judged(("m", "a", HELPS), ("m", "b", OPEN), visible=float("nan"))
    assert answer(study).endswith("; b is undecided.")
    study = judged(("m", "a", HELPS), ("m", "b", OPEN), visible=0.0001)
    none = study.verdicts.with_columns(detectable_effect=pl.lit(0.0))  # no effect of it has run yet
    assert answer(replace(study, verdicts=none)).endswith("; b is undecided.")


def test_thirty_relations_stay_short():
    text = answer(crowded())
    assert "and 4 more hurt;" in text
    assert "relation_04" in text
    assert len(text) < 700


def gains(**means):
    """A study in which no relation was tried by itself: intervals are ±.01."""
    study = Study(half=0.01)
    for model, mean in means.items():
        study.effect(model, None, "gain", ("all", "interactions"), mean)
    return study.result()


@pytest.mark.parametrize(
    ("means", "sentence"),
    [
        (
            {"a": 0.02, "b": 0.03, "c": -0.02, "d": 0.001},
            "All relations together help 2 of 4 models, most of all b (+.0300); they hurt c; no evidence for d.",
        ),
        ({"a": -0.02}, "All relations together hurt a."),
        ({"a": 0.001, "b": -0.001}, "No evidence for a and b."),
    ],
)
def test_without_verdicts_the_answer_is_about_gains(means, sentence):
    assert answer(gains(**means)) == sentence


def test_planned_relations_are_not_called_undecided():
    """The first relation of the plan may have no effect beside the others, which replace it."""
    study = judged(("m", "text", OPEN), ("m", "tags", OPEN))
    study.card["plan"] = plan(("text", 0.02, 0.8, []), build=1)
    assert answer(study) == (
        "Build text first: it makes the top-10 list 20 % better; "
        "tags is undecided (a change below 4 % can go unseen)."
    )


def test_titles_replace_names():
    study = judged(
        ("m", "text", HELPS), ("m", "tags", HELPS), ("m", "B", "interchangeable", "text, era"),
        ("m", "era", "negligible"), ("m", "lang", OPEN), ("m", "size", "hurts"), ("n", "lang", HELPS),
        best={"m": 0.2, "n": 0.1},
    )  # fmt: skip
    names = {
        "text": "similar text",
        "tags": "Tags, all",
        "era": "period",
        "B": "copy",
        "lang": "language",
        "size": "Size",
    }
    study.card["relations"] = [{"name": name, "title": title} for name, title in names.items()]
    study.card["plan"] = plan(("text", 0.02, 0.8, ["tags", "era"]), build=1)
    study.card["plan"]["steps"][0]["through"] = ["lang"]
    study.card["accepted_leaks"] = [{"names": ["text"]}]
    assert answer(study) == (
        "Build similar text (through language; or Tags, all or period) first: it makes the top-10 list 20 % better; "
        "Tags, all helps, too; copy is interchangeable with similar text or period; Size hurts; "
        "period is negligible (less than 1.4 % either way). (leak accepted: similar text)"
    )


@pytest.mark.parametrize(
    ("other", "names"),
    [
        ({"a": HELPS, "b": OPEN}, ""),
        ({"a": OPEN, "b": OPEN}, "a"),
        ({"a": "hurts", "b": "negligible"}, "a and b"),
        ({"a": "not read", "b": OPEN}, ""),  # it has no verdict on it
        ({"b": HELPS}, "b"),
    ],
)
def test_disagreeing_models_are_a_caveat(other, names):
    rows = [("lead", "a", HELPS), ("lead", "b", OPEN), *(("other", name, "undecided") for name in other)]
    study = judged(*rows, best={"lead": 0.2, "other": 0.1})
    words = ["helps", "undecided", *other.values()]
    study = replace(study, verdicts=study.verdicts.with_columns(pl.Series("verdict", words)))
    said = [caveat.text for caveat in caveats(study) if caveat.title == "Disagreement"]
    assert said == ([f"The models disagree on {names}."] if names else [])


def test_no_more_than_three_relations_that_models_disagree_on_are_named():
    rows = [(model, name, word) for model, word in (("x", HELPS), ("y", OPEN)) for name in "abcde"]
    (caveat,) = caveats(judged(*rows, best={"x": 0.2, "y": 0.1}))
    assert caveat.text == "The models disagree on a, b and 3 more."
