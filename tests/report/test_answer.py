"""The one sentence on top of the report."""

import pytest
from handmade import Study, crowded, empty, goodbooks, judged, planted

from relrank.report import answer
from relrank.report.answer import lead_model

HELPS, NONE = "helps", "no evidence"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("m", "tags", HELPS)], "tags helps."),
        (
            [("m", "tags", HELPS), ("m", "text", HELPS), ("m", "language", NONE)],
            "tags and text help; language: no evidence (an effect of ±.0040 would have been seen).",
        ),
        (
            [("m", "A", HELPS), ("m", "B", "redundant", "A"), ("m", "C", "hurts"), ("m", "D", "hurts")],
            "A helps; B helps, but is redundant with A; C and D hurt.",
        ),
        (
            [("m", "B", "redundant", "A, C"), ("m", "E", "redundant", "A, C"), ("m", "F", "redundant")],
            "B and E help, but are redundant with A and C; F helps, but is redundant with the other relations.",
        ),
        (
            [("m", "genre", NONE), ("m", "decade", NONE)],
            "No relation is shown to help or to hurt (an effect of ±.0040 in NDCG@10 would have been seen).",
        ),
        (
            [("m", "genre", NONE)],
            "genre is not shown to help or to hurt (an effect of ±.0040 in NDCG@10 would have been seen).",
        ),
        ([], "This study compared no relations."),
    ],
)
def test_sentence(rows, sentence):
    assert answer(judged(*rows)) == sentence


def test_without_gains_a_rival_is_what_is_spoken_of():
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
        "has_tag, written_by and similar_text help; in_language and published_in: "
        "no evidence (an effect of ±.0038 would have been seen)."
    )
    assert answer(planted()) == (
        "A helps; B helps, but is redundant with A; C and D: no evidence (an effect of ±.0084 would have been seen)."
    )


def test_best_ranking_model_speaks_first():
    rows = [("weak", "tags", HELPS), ("strong", "tags", NONE)]
    assert lead_model(judged(*rows, best={"weak": 0.10, "strong": 0.15, "unjudged": 0.20})) == "strong"
    assert lead_model(judged(*rows, best={"weak": 0.15, "strong": 0.10})) == "weak"
    assert lead_model(judged(*rows, best={"weak": 0.10, "strong": float("nan")})) == "weak"
    assert lead_model(judged(*rows)) == "weak", "without a leaderboard the first one listed"
    assert lead_model(empty()) is None


def test_largest_of_the_smallest_effects_is_named():
    study = judged(("m", "a", HELPS), ("m", "b", NONE), ("m", "c", NONE))
    smallest = study.verdicts["smallest"].clone()
    smallest[1], smallest[2], smallest[0] = 0.002, 0.009, 0.5
    study = type(study)(**{name: getattr(study, name) for name in study.__slots__} | {
        "verdicts": study.verdicts.with_columns(smallest.alias("smallest"))
    })  # fmt: skip
    assert answer(study).endswith("b and c: no evidence (an effect of ±.0090 would have been seen).")


def test_no_claim_of_what_would_have_been_seen_when_unknown():
    study = judged(("m", "a", HELPS), ("m", "b", NONE), smallest=float("nan"))
    assert answer(study) == "a helps; b: no evidence."


def test_thirty_relations_stay_one_sentence():
    text = answer(crowded())
    assert "and 4 more help;" in text
    assert "relation_04 and 10 more: no evidence" in text
    assert len(text) < 450


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
def test_without_verdicts_the_gains_speak(means, sentence):
    assert answer(gains(**means)) == sentence
