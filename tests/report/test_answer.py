"""The summary at the top of the report."""

from dataclasses import replace

import polars as pl
import pytest
from handmade import Study, crowded, empty, goodbooks, judged, planted

from relrank.report.verdict_summary import answer, primary_model

HELPS, OPEN = "helps", "undecided"
NOTHING = "No relation is shown to be worth building. "


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("m", "tags", HELPS)], "tags helps."),
        (
            [("m", "tags", HELPS), ("m", "text", HELPS), ("m", "language", OPEN)],
            "tags and text help. language is undecided (an effect of ±.0040 would have been seen).",
        ),
        (
            [("m", "A", HELPS), ("m", "B", "interchangeable", "A"), ("m", "C", "hurts"), ("m", "D", "hurts")],
            "A helps. B is interchangeable with A. C and D hurt.",
        ),
        (
            [
                ("m", "B", "interchangeable", "A, C"),
                ("m", "E", "interchangeable", "A, C"),
                ("m", "F", "interchangeable"),
            ],
            f"{NOTHING}B and E are interchangeable with A or C. F is replaced by the others.",
        ),
        (
            [("m", "genre", OPEN), ("m", "decade", OPEN)],
            f"{NOTHING}genre and decade are undecided (an effect of ±.0040 would have been seen).",
        ),
        ([("m", "genre", "negligible")], f"{NOTHING}genre is negligible (within ±.0014)."),
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
    said = "Build text, then tags (or authors or era): +25 % NDCG@10, 97 % of what all four bring. "
    study.card["plan"] = path
    assert answer(study) == said + "lang helps, too. era is negligible (within ±.0014)."
    path["build"] = 0
    assert answer(study).startswith("text, tags and lang help.")
    path["model"] = "another"
    assert answer(study).startswith("text, tags and lang help.")


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
        "Build has_tag, then written_by (or text): +11 % NDCG@10, 88 % of what all five bring. "
        "similar_text helps, too. in_language and published_in are undecided (an effect of ±.0038 would have been "
        "seen). The models disagree on similar_text, in_language and published_in."
    )
    assert answer(planted()) == "A helps. B is interchangeable with A. C and D are negligible (within ±.0014)."


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
    assert answer(study).endswith("b and c are undecided (an effect of ±.0090 would have been seen).")


def test_an_unknown_detectable_effect_is_not_mentioned():
    study = judged(("m", "a", HELPS), ("m", "b", OPEN), visible=float("nan"))
    assert answer(study) == "a helps. b is undecided."


def test_thirty_relations_stay_short():
    text = answer(crowded())
    assert "and 4 more help." in text
    assert "relation_04" in text
    assert len(text) < 600


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
        "Build text: +20 % NDCG@10, 80 % of what both bring. "
        "tags is undecided (an effect of ±.0040 would have been seen)."
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
        "Build similar text (through language; or Tags, all or period): +20 % NDCG@10, 80 % of what all 6 bring. "
        "Tags, all helps, too. copy is interchangeable with similar text or period. Size hurts. "
        "period is negligible (within ±.0014). The models disagree on language. (leak accepted: similar text)"
    )


@pytest.mark.parametrize(
    ("other", "clause"),
    [
        ({"a": HELPS, "b": OPEN}, ""),
        ({"a": OPEN, "b": OPEN}, " The models disagree on a."),
        ({"a": "hurts", "b": "negligible"}, " The models disagree on a and b."),
        ({"a": "not read", "b": OPEN}, ""),  # it has no verdict on it
        ({"b": HELPS}, " The models disagree on b."),
    ],
)
def test_disagreeing_models_are_named_in_one_clause(other, clause):
    rows = [("lead", "a", HELPS), ("lead", "b", OPEN), *(("other", name, "undecided") for name in other)]
    study = judged(*rows, best={"lead": 0.2, "other": 0.1})
    words = ["helps", "undecided", *other.values()]
    study = replace(study, verdicts=study.verdicts.with_columns(pl.Series("verdict", words)))
    assert answer(study) == f"a helps. b is undecided (an effect of ±.0040 would have been seen).{clause}"


def test_no_more_than_three_relations_that_models_disagree_on_are_named():
    rows = [(model, name, word) for model, word in (("x", HELPS), ("y", OPEN)) for name in "abcde"]
    text = answer(judged(*rows, best={"x": 0.2, "y": 0.1}))
    assert text.endswith(" The models disagree on a, b and 3 more.")
