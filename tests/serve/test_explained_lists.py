"""Explanations belong to the served list, with its filters, exclusions, session and fallback."""

from __future__ import annotations

import pytest
from library import ITEMS, USERS, library

from relrank.serve.limits import RequestError
from relrank.serve.service import Service

MODELS = {
    "popularity": {}, "ease": {}, "item-knn": {}, "relational-ease": {"l2": 5.0}, "sparse-ease": {"neighbours": 8},
    "ials": {"dim": 4}, "mf": {"dim": 4}, "relational-lightgcn": {"dim": 4},
    "path-fusion": {"dim": 4}, "sasrec": {"dim": 8, "window": 4}, "markov": {},
    "score-fusion": {"parts": {"ease": {}, "mf": {"dim": 4}}},
}  # fmt: skip
USER = USERS[3]


@pytest.mark.parametrize("successive", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_rank_and_score_are_those_of_the_list(name, successive):
    service = Service({"one": library(name, MODELS[name], successive=successive)})
    seen = {one["item"] for one in service.history(USER)["items"]}
    visit = [item for item in ITEMS if item not in seen][:2]
    narrowed = {"filters": [("has_genre", "crime")], "exclude": ITEMS[4:9]}
    for whom in (
        {"user": USER},
        {"user": USER, **narrowed},
        {"user": USER, "history": visit, **narrowed},
        {"history": visit, **narrowed},
        {"history": [], **narrowed},
    ):
        listed = service.recommend(k=50, **whom)
        for one in (listed["items"][0], listed["items"][-1]):
            found = service.explain(one["item"], n=2, **whom)
            assert (found["rank"], found["fallback"]) == (one["place"], listed["fallback"])
            assert found["score"] == pytest.approx(one["score"], abs=1e-6)
            for reason in found["reasons"]:
                assert reason["via"]["item"] in seen | set(visit)
                assert reason["rank_after_removal"] >= one["place"]
        with pytest.raises(RequestError, match=r"does not fit the filters|chosen already"):
            service.explain(ITEMS[4], **narrowed, history=visit)


def test_a_visit_that_carries_an_item_is_a_reason_for_a_user_whose_vector_is_fixed():
    service = Service({"one": library("mf", {"dim": 16})})
    seen = {one["item"] for one in service.history(USER)["items"]}
    visit = [item for item in ITEMS if item not in seen][:1]
    before = {one["item"]: one["place"] for one in service.recommend(user=USER, k=50)["items"]}
    after = service.recommend(user=USER, history=visit, k=50)["items"]
    raised = max(after, key=lambda one: before[one["item"]] - one["place"])
    found = service.explain(raised["item"], user=USER, history=visit, n=20)
    assert found["used_fold_in"]
    assert visit[0] in [reason["via"]["item"] for reason in found["reasons"]]
    assert not any(reason["exact"] for reason in found["reasons"])
