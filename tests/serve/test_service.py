"""The service's lists equal those of the run, pages are slices of one order, and errors name what is unknown."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from library import GENRES, ITEMS, N_ITEMS, TITLES, USERS, constant, genre_of, library

from relrank.errors import InputError
from relrank.explanation.explainer import Explainer
from relrank.kernels.csr import Csr
from relrank.models import MODELS as ALL_MODELS
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN, RelationalItemKNNConfig
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.models.core.sparse_linear import SparseLinear
from relrank.models.graph.mf import MF
from relrank.serve import reweighting as weighing
from relrank.serve import served_model as serving
from relrank.serve.ann_index import ItemIndex, recall
from relrank.serve.candidate_filters import Between, Has, LogicalCondition
from relrank.serve.limits import Limits, RequestError
from relrank.serve.served_model import ServedModel
from relrank.serve.service import Service

MODELS = [
    ("relational-ease", {"l2": 5.0}), ("sparse-ease", {"neighbours": 4}),
    ("popularity", {}), ("ease", {"l2": 5.0}), ("item-knn", {}), ("mf", {"dim": 8}),
    ("relational-lightgcn", {"dim": 16}), ("path-fusion", {"dim": 16}), ("sasrec", {"dim": 16}),
]  # fmt: skip


def silenced(model, item):
    """The model without any information on an item."""
    other = copy.deepcopy(model)
    if isinstance(model, SparseLinear):
        w = model.item_weights()
        kept = w.rows() != item
        other.set_weights(Csr.from_pairs(w.rows()[kept], w.indices[kept], (w.n_rows, w.n_cols), w.data[kept]))
    elif isinstance(model, MF):
        other.table.data[model.graph.n_users + item] = 0
        other.refresh()
    else:
        other.projection[item] = 0
    return other


def pairs(answer):
    return [(item["item"], item["score"]) for item in answer["items"]]


@pytest.mark.parametrize("successive", [False, True])
@pytest.mark.parametrize(("model", "config"), MODELS)
def test_lists_are_those_of_the_run(model, config, successive):
    run = library(model, config, successive=successive)
    service = Service({"one": run})
    for user in USERS[::7]:
        expected = run.recommend(user, 9)
        answer = service.recommend(user=user, k=9)
        assert pairs(answer) == list(expected.select("item", "score").iter_rows())
        assert [i["title"] for i in answer["items"]] == expected["title"].to_list()
        assert [i["place"] for i in answer["items"]] == list(range(1, 10))
        assert set(ITEMS) >= {i["item"] for i in answer["items"]}
    for history in ([1003], [1001, 1040, 1001, 1007], []):
        expected = run.recommend_for(history, 9)
        answer = service.recommend(history=[str(item) for item in history], k=9)
        assert pairs(answer) == list(expected.select("item", "score").iter_rows())
        assert answer["user"] is None
        assert answer["total"] == N_ITEMS - len(set(history))


# the others read features, or are made of several models
EVERY_MODEL = sorted({*ALL_MODELS} - {"graphsage-features", "hybrid", "two-view", "score-fusion"})


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_nobody_known_gets_popularity_and_is_told(model):
    """Without a history most models give equal scores: a random order that looks like a recommendation."""
    run = library(model)
    service, popular = Service({"one": run}), library("popularity")
    answer = service.recommend(history=[], k=9)
    assert answer["fallback"] == "popularity"
    assert pairs(answer) == list(popular.recommend_for([], 9).select("item", "score").iter_rows())
    assert pairs(service.recommend(history=[], k=4, offset=5)) == pairs(answer)[5:]
    candidates = service.recommend(history=[], k=3, filters=[("has_genre", "crime")])
    assert {genre_of()[item - 1000] for item, _ in pairs(candidates)} == {0}
    found = run.recommend_for([], 9)
    assert found["item"].to_list() == [item for item, _ in pairs(answer)]
    assert found["fallback"].all()
    why = service.explain(answer["items"][2]["item"], history=[])
    assert (why["fallback"], why["rank"], why["reasons"]) == ("popularity", 3, [])
    assert service.recommend(user=USERS[1])["fallback"] is None
    assert not run.recommend(USERS[1])["fallback"].any()


def test_a_history_of_which_the_model_knows_nothing_is_one_without():
    """All scores and similarities are 0."""
    for model in ("item-knn", "sparse-ease", "ease", "mf"):
        run = library(model)
        silent = replace(run, model=silenced(run.model, 47))
        service = Service({"one": silent})
        answer = service.recommend(history=[1047], k=5)
        assert answer["fallback"] == "popularity"
        assert service.similar(1047)["items"] == []
        assert silent.recommend_for([1047], 5)["item"].to_list() == [item for item, _ in pairs(answer)]


def test_a_history_that_leads_to_itself_alone_is_one_without():
    """Items 46 and 47 have weights for each other and for nothing else."""
    run = library("item-knn")
    other, w = copy.deepcopy(run.model), run.model.item_weights()
    row, kept = w.rows(), ~np.isin(w.rows(), [46, 47])
    pairs_of = np.append(row[kept], [46, 47]), np.append(w.indices[kept], [47, 46])
    other.set_weights(Csr.from_pairs(*pairs_of, (w.n_rows, w.n_cols), np.append(w.data[kept], [1.0, 1.0])))
    silent = replace(run, model=other)
    answer = Service({"one": silent}).recommend(history=[1046, 1047], k=5)
    assert answer["fallback"] == "popularity"
    expected = silent.recommend_for([1046, 1047], 5)
    assert expected["fallback"].all()
    assert expected["item"].to_list() == [item for item, _ in pairs(answer)]
    assert Service({"one": silent}).recommend(history=[1001, 1047], k=5)["fallback"] is None


def test_unknown_items_of_a_history_are_named_and_skipped_if_asked():
    service = Service({"one": SERVED})
    answer = service.recommend(history=[1001, "soap", 1002, 7], k=5, skip_unknown=True)
    assert answer["unknown_items"] == ["soap", 7]
    assert pairs(answer) == pairs(service.recommend(history=[1001, 1002], k=5))
    assert service.recommend(history=["soap"], skip_unknown=True)["fallback"] == "popularity"
    target = answer["items"][0]["item"]
    why = service.explain(target, history=[1001, "soap", 1002], skip_unknown=True)
    assert why["unknown_items"] == ["soap"]
    assert why["reasons"] == service.explain(target, history=[1001, 1002])["reasons"]
    with pytest.raises(RequestError, match="skip_unknown"):
        service.recommend(history=[1001, "soap"])


@pytest.mark.parametrize("successive", [False, True])
@pytest.mark.parametrize("model", EVERY_MODEL)
def test_what_is_explained_is_what_was_served(model, successive):
    run = library(model, successive=successive)
    service = Service({"one": run})
    for whom in ({"user": USERS[5]}, {"history": [1001, 1040, 1007]}):
        for item in service.recommend(**whom, k=6)["items"][::5]:
            why = service.explain(item["item"], **whom, n=2)
            assert why["rank"] == item["place"]
            assert why["score"] == pytest.approx(item["score"], rel=1e-5)
            for reason in why["reasons"]:
                assert reason["rank_after_removal"] >= why["rank"]


def test_reasons_of_a_trained_vector_move_its_own_scores():
    service = Service({"one": library("mf", {"dim": 8})})
    best = service.recommend(user=USERS[5], k=1)["items"][0]
    why = service.explain(best["item"], user=USERS[5])
    assert (why["used_fold_in"], why["rank"]) == (True, 1)
    assert all(not reason["exact"] for reason in why["reasons"])
    assert not service.explain(best["item"], history=[1001])["used_fold_in"]


@pytest.mark.parametrize("successive", [False, True])
@pytest.mark.parametrize("model", EVERY_MODEL)
def test_a_known_user_brings_the_items_of_a_visit(model, successive):
    run = library(model, successive=successive)
    service, user = Service({"one": run}), 5
    seen = service.served().interacted_items(user, None)
    visit = [item for item in ITEMS if item - 1000 not in seen][:2]
    alone = service.recommend(user=USERS[user], k=20)
    both = service.recommend(user=USERS[user], history=visit, k=N_ITEMS)
    assert both["user"] == USERS[user]
    assert not {*visit, *(1000 + seen).tolist()} & {item for item, _ in pairs(both)}
    assert both["total"] == alone["total"] - 2
    assert pairs(service.recommend(user=USERS[user], history=[], k=20)) == pairs(alone)
    if run.lists_from_full_history or (run.model.from_history and model != "random"):
        rows = (
            run.full_history(user)
            if run.lists_from_full_history
            else run.split.train.item[run.split.train.user == user]
        )
        expected = run.model.fold_in([torch.from_numpy(np.r_[rows, np.array(visit) - 1000].astype(np.int64))])[0]
        assert both["exact"]
        np.testing.assert_allclose(
            [s for _, s in pairs(both)], [expected[i - 1000] for i, _ in pairs(both)], atol=1e-5
        )
    if model not in ("random", "popularity"):
        assert pairs(both)[:10] != pairs(alone)[:10]


def test_a_visit_joins_what_relations_say_of_a_user():
    """Relational EASE sums over the inputs: the user's items and town, and the session's items."""
    run = library("relational-ease", {"l2": 5.0})
    service = Service({"one": run})
    answer = service.recommend(user=USERS[5], history=[1003], k=10)
    scores = run.model.score(torch.tensor([5]))[0] + run.model.item_weights[3]
    assert answer["exact"]
    np.testing.assert_allclose([s for _, s in pairs(answer)], [scores[i - 1000] for i, _ in pairs(answer)], atol=1e-6)
    first, score = pairs(answer)[0]
    why = service.explain(first, user=USERS[5], history=[1003])  # of that list, by its items without the town
    assert (why["rank"], why["score"]) == (1, pytest.approx(score, abs=1e-6))


def test_a_history_says_which_relations_of_users_it_lacks():
    for model, config, lacks in (
        ("relational-ease", {}, ["lives_in"]), ("relational-ease", {"weights": {"lives_in": 0.0}}, []),
        ("sparse-ease", {}, ["lives_in"]), ("ials", {}, []), ("ials", {"weight": 1.0}, ["lives_in"]),
        ("relational-lightgcn", {"dim": 8}, ["lives_in"]), ("ease", {}, []), ("mf", {}, []), ("item-knn", {}, []),
    ):  # fmt: skip
        service = Service({"one": library(model, config)})
        assert service.recommend(history=[1001])["missing_relations"] == lacks, model
        assert service.recommend(user=USERS[1])["missing_relations"] == []


def test_known_users_hear_their_whole_history_only_where_the_run_says_so():
    """With successive parts the lists differ, so the test above covers both kinds."""
    apart, after = (Service({"one": library("ease", {"l2": 5.0}, successive=s)}) for s in (False, True))
    assert any(pairs(apart.recommend(user=u)) != pairs(after.recommend(user=u)) for u in USERS)


SERVED = ServedModel("one", library("relational-ease", {"l2": 5.0}))
SPARSE = ServedModel("sparse", library("sparse-ease", {"neighbours": 4, "weights": {"lives_in": 0.0}}))
TIES = ServedModel("ties", constant(library()))


def oracle(served, scores, seen, candidates):
    """The complete order, by sorting."""
    from relrank.evaluation.ranking import tie_break_order

    place = {item: at for at, item in enumerate(tie_break_order(N_ITEMS).tolist())}
    rows = [row for row in range(N_ITEMS) if row not in seen and (candidates is None or candidates[row])]
    return sorted(rows, key=lambda row: (-scores[row], place[row]))


@settings(max_examples=60)
@given(
    st.sampled_from([SERVED, TIES, SPARSE]), st.integers(0, len(USERS) - 1), st.integers(1, 13), st.booleans(),
    st.sampled_from([(), (("has_genre", "x/y"),), (("has_genre", "crime"), ("wrote", "3"))]),
)  # fmt: skip
def test_pages_are_one_order_without_overlap_or_gap(served, user, k, exclude_seen, filters):
    service = Service({"one": served})
    scores, candidates = served.user_scores(user), served.candidates([Has(*pair) for pair in filters])
    seen = set(served.interacted_items(user, None).tolist()) if exclude_seen else set()
    expected = oracle(served, scores, seen, candidates)
    found, offset = [], 0
    while offset is not None:
        page = service.recommend(user=USERS[user], k=k, offset=offset, exclude_seen=exclude_seen, filters=filters)
        assert page["total"] == len(expected)
        assert len(page["items"]) <= k
        found += page["items"]
        offset = page["next_offset"]
    assert [i["item"] for i in found] == [ITEMS[row] for row in expected]
    assert [i["place"] for i in found] == list(range(1, len(expected) + 1))


def test_filters_are_the_relation_read_off():
    service = Service({"one": SERVED})
    for number, genre in enumerate(GENRES):
        items = service.recommend(history=[], k=100, filters=[("has_genre", genre)])["items"]
        assert {i["item"] for i in items} == {ITEMS[i] for i in np.flatnonzero(genre_of() == number)}
    both = service.recommend(history=[], k=100, filters=[("has_genre", "crime"), ("wrote", "3")])["items"]
    assert {i["item"] for i in both} == {1012}
    assert SERVED.filters.relations == ["has_genre", "wrote"]  # neither items' own nor users' relations


FACTS = pl.DataFrame(
    {
        "column:pages": [None if i % 10 == 9 else 100 + i for i in range(N_ITEMS)],
        "column:cover": ["hard" if i % 3 else "soft" for i in range(N_ITEMS)],
        "column:code": [f"0{i % 5}" for i in range(N_ITEMS)],
        "column:copies": [str(i % 4) for i in range(N_ITEMS)],
        "column:sold": [i % 2 == 0 for i in range(N_ITEMS)],
        "relation:prize": [["b", "a"] if i % 7 == 0 else ["a"] if i % 7 == 1 else None for i in range(N_ITEMS)],
    }
)
NODES = {
    "author": (("wrote",), pl.DataFrame({
        "#key": [str(a) for a in range(11)], "land": ["IT" if a % 3 else None for a in range(11)],
        "born": [1900 + a for a in range(11)], "cover": ["own"] * 11})),
    "jury": (("prize",), pl.DataFrame({"#key": ["a", "b"], "land": ["IT", "FR"], "living": [True, False]})),
}  # fmt: skip
"""Author 11 has no attributes, and nodes without items are never used."""
CONDITIONS = {
    Has("author.land", "IT"): lambda i: i // 4 % 3 > 0 and i < 44,
    Has("wrote.land", "IT", "column"): lambda i: i // 4 % 3 > 0 and i < 44,
    Has("author.born", 1903): lambda i: i // 4 == 3,
    Between("author.born", None, 1902): lambda i: i // 4 <= 2,
    Has("author.cover", "own"): lambda i: i < 44,
    Has("jury.land", "FR"): lambda i: i % 7 == 0,
    Has("jury.land", "IT"): lambda i: i % 7 < 2,
    Has("prize.living", value=False): lambda i: i % 7 == 0,
    Has("cover", "soft"): lambda i: i % 3 == 0,
    Has("code", "03"): lambda i: i % 5 == 3,
    Has("sold", value=True): lambda i: i % 2 == 0,
    Has("sold", "false"): lambda i: i % 2 == 1,
    Has("pages", 104): lambda i: i == 4,
    Has("copies", 1): lambda i: i % 4 == 1,
    Has("pages", "104.0"): lambda i: i == 4,
    Has("prize", "a"): lambda i: i % 7 < 2,
    Has("prize", "b", "relation"): lambda i: i % 7 == 0,
    Has("has_genre", "crime"): lambda i: i % 4 == 0,
    Between("pages", 110, 120.5): lambda i: 10 <= i <= 20 and i % 10 != 9,
    Between("pages", None, 105): lambda i: i <= 5,
    Between("copies", 2, 2): lambda i: i % 4 == 2,
}


@settings(max_examples=150)
@given(st.data())
def test_conditions_are_joined_as_logic_says(data):
    """Compared with plain Python; a missing value matches no condition, and so every negation."""
    one = st.sampled_from(list(CONDITIONS.items()))
    some = st.sampled_from(["all", "any", "not"])
    tree = data.draw(
        st.recursive(one, lambda x: st.tuples(some, st.lists(x, min_size=1, max_size=3)).map(joined), max_leaves=6)
    )
    condition, holds = tree
    found = (
        ServedModel("one", replace(SERVED.run, item_attributes=FACTS, nodes=NODES)) if not FILTERED else FILTERED[0]
    )
    FILTERED[:] = [found]
    np.testing.assert_array_equal(found.candidates([condition]), [holds(i) for i in range(N_ITEMS)])


FILTERED = []


def joined(pair):
    how, parts = pair
    parts = parts[:1] if how == "not" else parts
    test = {"all": all, "any": any, "not": lambda values: not next(iter(values))}[how]
    return LogicalCondition(how, tuple(c for c, _ in parts)), lambda i: test(holds(i) for _, holds in parts)


@pytest.mark.parametrize("model", EVERY_MODEL)
def test_every_model_filters_and_excludes(model):
    service = Service({"one": replace(library(model), item_attributes=FACTS, nodes=NODES)})
    everything = pairs(service.recommend(user=USERS[3], k=N_ITEMS))
    filters = [
        Has("cover", "hard"),
        LogicalCondition("not", (Has("has_genre", "crime"),)),
        Between("pages", 101, None),
    ]
    excluded = everything[0][0]
    answer = service.recommend(user=USERS[3], k=N_ITEMS, filters=filters, exclude=[excluded])
    filters.append(LogicalCondition("any", (Has("author.land", "IT"), Between("author.born", None, 1900))))
    answer = service.recommend(user=USERS[3], k=N_ITEMS, filters=filters, exclude=[excluded])
    fits = {1000 + i for i in range(44) if i % 3 and i % 4 and i % 10 != 9 and (i // 4 % 3 or i < 4)} - {excluded}
    assert [item for item, _ in pairs(answer)] == [item for item, _ in everything if item in fits]
    assert answer["total"] == len(answer["items"])
    second = answer["items"][1]["item"]
    why = service.explain(second, user=USERS[3], filters=filters, exclude=[excluded], n=1)
    assert why["rank"] == 2
    with pytest.raises(RequestError, match="does not fit"):
        service.explain(excluded, user=USERS[3], exclude=[excluded])


def test_filters_that_cannot_be_are_named():
    service = Service({"one": replace(SERVED.run, item_attributes=FACTS, nodes=NODES)})
    for condition, message in (
        (Has("author.lnd", "IT"), "did you mean 'author.land'"), (Has("author.land", "DE"), "unknown author.land"),
        (Has("jury.land", "IT", "relation"), "no such filter"), (Between("author.land", 1, 2), "not of numbers"),
        (Has("covr", "soft"), "no such filter"), (Has("cover", "paper"), "unknown cover"),
        (Has("cover", "soft", "relation"), "no such filter"), (Has("has_genre", "crime", "column"), "no such filter"),
        (Has("pages", "many"), "not a number"), (Between("cover", 1, None), "not of numbers"),
        (Between("sold", 1, None), "not of numbers"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=message) as refused:
            service.recommend(user=USERS[1], filters=[condition])
        assert refused.value.status == 422
    deep = Has("cover", "soft")
    for _ in range(12):
        deep = LogicalCondition("not", (deep,))
    with pytest.raises(RequestError, match="too deep"):
        service.recommend(user=USERS[1], filters=[deep])
    with pytest.raises(RequestError, match="number of filters"):
        service.recommend(user=USERS[1], filters=[LogicalCondition("any", (Has("cover", "soft"),) * 21)])
    with pytest.raises(RequestError, match="unknown item"):
        service.recommend(user=USERS[1], exclude=["soap"])
    assert service.recommend(user=USERS[1], exclude=["soap"], skip_unknown=True)["unknown_items"] == ["soap"]
    assert service.values("author.land")["values"] == [{"value": "IT", "items": 28}]
    assert service.values("jury.land")["values"] == [{"value": "IT", "items": 14}, {"value": "FR", "items": 7}]
    assert service.values("cover")["values"] == [{"value": "hard", "items": 32}, {"value": "soft", "items": 16}]
    assert service.values("prize")["values"] == [{"value": "a", "items": 14}, {"value": "b", "items": 7}]
    assert service.runs()["runs"][0]["filters"] == ["has_genre", "prize", "wrote"]
    columns = service.runs()["runs"][0]["columns"]
    assert columns[:5] == ["pages", "cover", "code", "copies", "sold"]
    behind = {"author": ("land", "born", "cover"), "jury": ("land", "living")}
    behind |= {"wrote": behind["author"], "prize": behind["jury"]}
    assert columns[5:] == sorted(f"{name}.{column}" for name, of in behind.items() for column in of)


def test_values_of_a_filter_come_with_the_items_they_leave():
    """Most items first; found by any part of the id, ignoring case and accents."""
    service = Service({"one": SERVED})
    every = service.values("has_genre", "", 10)
    assert every["relation"] == "has_genre"
    assert {v["value"]: v["items"] for v in every["values"]} == dict.fromkeys(GENRES, N_ITEMS // 4)
    assert [v["value"] for v in service.values("has_genre", "TRAU", 10)["values"]] == ["träume"]
    assert service.values("has_genre", "o", 1)["values"] == [{"value": "poems: old", "items": 12}]
    authors = service.values("wrote", "1", 10)["values"]  # items are its target
    assert {(v["value"], v["items"]) for v in authors} == {(1, 4), (10, 4), (11, 4)}
    assert service.values("has_genre", "nothing of the kind")["values"] == []
    with pytest.raises(RequestError, match=r"no such filter[\s\S]*has_genre"):
        service.values("lives_in", "")
    with pytest.raises(RequestError, match="limit"):
        service.values("has_genre", "", 0)


@pytest.mark.parametrize(
    ("question", "status", "message"),
    [
        ({"user": "nobody"}, 404, "'nobody'"),
        ({"user": "nobody", "history": [1000]}, 404, "'nobody'"),
        ({}, 422, "neither"),
        ({"history": [1000, "soap", 7]}, 422, "'soap', 7; 2 unknown in all"),
        ({"history": [1000] * 21}, 422, "at most|0 to 20"),
        ({"user": "reader 1", "k": 0}, 422, "1 to 1,000"),
        ({"user": "reader 1", "k": 1001}, 422, "1,001"),
        ({"user": "reader 1", "offset": 100_001}, 422, "offset"),
        ({"user": "reader 1", "run": "two"}, 404, "'two'"),
        ({"user": "reader 1", "filters": [("has_gnere", "crime")]}, 422, "has_gnere"),
        ({"user": "reader 1", "filters": [("follows", "1000")]}, 422, "no such filter"),
        ({"user": "reader 1", "filters": [("has_genre", "love")]}, 422, "'love'"),
        ({"user": "reader 1", "filters": [("has_genre", "crime")] * 21}, 422, "number of filters"),
        ({"user": "reader 1", "weights": {"has_gnere": 1}}, 422, "has_gnere"),
        ({"user": "reader 1", "weights": {"has_genre": -1}}, 422, "weights.has_genre"),
        ({"user": "reader 1", "weights": {"has_genre": float("nan")}}, 422, "nan"),
    ],
)
def test_what_cannot_be_answered_is_named(question, status, message):
    service = Service({"one": ServedModel("one", SERVED.run, Limits(history=20))}, Limits(history=20))
    with pytest.raises(RequestError, match=message) as refused:
        service.recommend(**question)
    assert refused.value.status == status


def test_scores_that_are_not_finite_are_the_servers_fault():
    run = constant(library())
    service = Service({"one": run})
    run.model.counts[3] = float("nan")
    with pytest.raises(InputError, match="not finite") as broken:
        service.recommend(user=USERS[1])
    assert not isinstance(broken.value, RequestError)


# relation weights


def test_other_weights_are_the_model_solved_under_them():
    run = library("relational-ease", {"l2": 5.0, "weights": {"has_genre": 3.0}})
    service = Service({"one": run})
    fitted = service.recommend(user=USERS[3], k=N_ITEMS)
    for weights in ({"has_genre": 200.0}, {"has_genre": 0.0, "wrote": 50}, {"lives_in": 0}):
        config = RelationalEASEConfig(l2=5.0, weights={"has_genre": 3.0} | {n: float(w) for n, w in weights.items()})
        other = replace(run, model=RelationalEASE(run.graph, config).solve())
        answer = service.recommend(user=USERS[3], k=40, weights=weights)
        assert pairs(answer) == list(other.recommend(USERS[3], 40).select("item", "score").iter_rows())
        assert pairs(answer) != pairs(fitted)[:40]
        for_history = service.recommend(history=[1001, 1002], k=40, weights=weights)
        assert pairs(for_history) == list(other.recommend_for([1001, 1002], 40).select("item", "score").iter_rows())
    assert service.recommend(user=USERS[3], k=N_ITEMS) == fitted
    described = {r["name"]: r["weight"] for r in service.runs()["runs"][0]["relations"]}
    assert described == {"has_genre": 3.0, "wrote": 30.0, "follows": 30.0, "lives_in": 30.0}


@pytest.mark.parametrize(("model", "raw"), [("relational-lightgcn", "raw_weights"), ("path-fusion", "paths.raw")])
def test_weights_of_a_model_with_gradients_are_its_parameter(model, raw):
    run = library(model, {"dim": 16})
    service = Service({"one": run})
    before = service.recommend(user=USERS[3], k=30)
    weights = weighing.get_relation_weights(run.model)
    answer = service.recommend(user=USERS[3], k=30, weights={"has_genre": 5.0, "wrote": 0.0})
    new_person = service.recommend(history=[1001, 1005], k=30, weights={"has_genre": 5.0, "wrote": 0.0})
    assert pairs(service.recommend(user=USERS[3], k=30)) == pairs(before)
    assert weighing.get_relation_weights(run.model) == weights

    values = torch.tensor([{"has_genre": 5.0, "wrote": 0.0}.get(name, old) for name, old in weights.items()])
    by_hand = library(model, {"dim": 16})
    with torch.no_grad():
        by_hand.model.get_parameter(raw).copy_(torch.log(torch.expm1(values.double())).float())
    by_hand.model.clear_derived()
    by_hand.model.refresh()
    for found, expected in (
        (answer, by_hand.recommend(USERS[3], 30)),
        (new_person, by_hand.recommend_for([1001, 1005], 30)),
    ):
        assert [i["item"] for i in found["items"]] == expected["item"].to_list()
        np.testing.assert_allclose([i["score"] for i in found["items"]], expected["score"], rtol=2e-5)
    assert pairs(answer) != pairs(before)


def test_sparse_ease_is_solved_under_other_weights_where_that_takes_seconds(monkeypatch):
    run = library("sparse-ease", {"neighbours": 4, "weights": {"has_genre": 3.0}})
    service = Service({"one": run})
    fitted = service.recommend(user=USERS[3], k=N_ITEMS)
    for weights in ({"has_genre": 200.0}, {"lives_in": 0.0, "wrote": 50.0}):
        config = SparseEASEConfig(neighbours=4, weights={"has_genre": 3.0} | weights)
        other = replace(run, model=SparseEASE(run.graph, config).solve())
        answer = service.recommend(user=USERS[3], k=40, weights=weights)
        assert pairs(answer) == list(other.recommend(USERS[3], 40).select("item", "score").iter_rows())
        assert pairs(answer) != pairs(fitted)[:40]
    described = service.runs()["runs"][0]
    assert described["weights_adjustable"] is True
    weights = {"has_genre": 3.0, "wrote": 3.0, "follows": 3.0, "lives_in": 3.0}
    assert {r["name"]: r["weight"] for r in described["relations"]} == weights
    monkeypatch.setattr(weighing, "DENSE_COLUMNS", N_ITEMS)
    with pytest.raises(RequestError, match="cannot be moved"):
        Service({"one": run}).recommend(user=USERS[3], weights={"wrote": 50.0})


def test_relational_item_knn_is_solved_under_other_weights_where_that_takes_seconds(monkeypatch):
    run = library("relational-item-knn", {"neighbours": 8, "weights": {"has_genre": 3.0}})
    service = Service({"one": run})
    fitted = service.recommend(user=USERS[3], k=N_ITEMS)
    config = RelationalItemKNNConfig(neighbours=8, weights={"has_genre": 50.0})
    other = replace(run, model=RelationalItemKNN(run.graph, config).solve())
    answer = service.recommend(user=USERS[3], k=40, weights={"has_genre": 50.0})
    assert pairs(answer) == list(other.recommend(USERS[3], 40).select("item", "score").iter_rows())
    assert pairs(answer) != pairs(fitted)[:40]
    described = service.runs()["runs"][0]
    assert described["weights_adjustable"] is True
    weights = {"has_genre": 3.0, "wrote": 1.0, "follows": 1.0, "lives_in": None}  # no relation of users
    assert {r["name"]: r["weight"] for r in described["relations"]} == weights
    monkeypatch.setattr(weighing, "DENSE_COLUMNS", N_ITEMS - 1)
    with pytest.raises(RequestError, match="cannot be moved"):
        Service({"one": run}).recommend(user=USERS[3], weights={"wrote": 50.0})


def test_similar_items_of_a_sparse_model_are_its_row_of_weights():
    row = SPARSE.run.model.score_rows(csr_row(5)).numpy()[0]
    found = Service({"one": SPARSE}).similar(ITEMS[5], k=N_ITEMS)["items"]
    assert [i["item"] for i in found] == [ITEMS[r] for r in oracle(SPARSE, row, {5}, None)]
    np.testing.assert_array_equal([i["score"] for i in found], [row[i["item"] - 1000] for i in found])


def csr_row(item):
    return Csr.from_pairs(np.array([0]), np.array([item]), (1, N_ITEMS))


def test_weights_that_are_fixed_are_refused():
    service = Service({"one": library("ease")})
    assert service.runs()["runs"][0]["weights_adjustable"] is False
    with pytest.raises(RequestError, match="cannot be moved"):
        service.recommend(user=USERS[0], weights={"has_genre": 1.0})


def test_a_variant_is_made_once_and_few_are_kept(monkeypatch):
    made = []

    def slow(model, weights):
        made.append(weights["has_genre"])
        time.sleep(0.05)
        return with_weights(model, weights)

    with_weights = weighing.with_weights
    monkeypatch.setattr(weighing, "with_weights", slow)
    service = Service({"one": ServedModel("one", SERVED.run, Limits(variants=2, waiting=8))})

    def ask(weight):
        return service.recommend(user=USERS[1], weights={"has_genre": weight})

    threads = [threading.Thread(target=ask, args=(7.0,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [7.0]
    for weight in (8.0, 7.0, 9.0, 7.0, 8.0):
        ask(weight)
    assert made == [7.0, 8.0, 9.0, 8.0]  # 9 evicted 8, since 7 was used later
    assert len(service.served().reweighted) == 2
    ask(SERVED.weights["has_genre"])  # the fitted weight needs no solve
    assert len(made) == 4


def test_too_many_variants_at_once_are_refused(monkeypatch):
    go, at_work = threading.Event(), threading.Event()

    def stuck(model, weights):
        at_work.set()
        go.wait(5)
        return model

    monkeypatch.setattr(weighing, "with_weights", stuck)
    service = Service({"one": ServedModel("one", SERVED.run, Limits(waiting=1))})
    first = threading.Thread(target=service.recommend, kwargs={"user": USERS[1], "weights": {"has_genre": 1.0}})
    first.start()
    assert at_work.wait(5)
    with pytest.raises(RequestError, match="too many") as refused:
        service.recommend(user=USERS[1], weights={"has_genre": 2.0})
    assert refused.value.status == 503
    go.set()
    first.join()


# neighbours, titles, users, histories, reasons


def test_similar_is_the_cosine_of_vectors_or_the_row_of_item_weights():
    run = library("mf", {"dim": 8})
    vectors = run.model.table.detach().numpy()[len(USERS) :]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[5]
    answer = Service({"one": run}).similar(1005, 6)
    best = [row for row in np.argsort(-cosines) if row != 5][:6]
    assert [i["item"] for i in answer["items"]] == [ITEMS[row] for row in best]
    np.testing.assert_allclose([i["score"] for i in answer["items"]], cosines[best], rtol=1e-5)

    row = SERVED.run.model.item_weights[5].numpy()
    near = Service({"one": SERVED}).similar("1005", N_ITEMS - 1)
    assert {i["item"]: i["score"] for i in near["items"]} == {ITEMS[i]: row[i] for i in range(N_ITEMS) if i != 5}
    assert (near["item"], near["title"]) == (1005, "On trial, again")
    with pytest.raises(RequestError, match="'soap'") as refused:
        Service({"one": SERVED}).similar("soap")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("the trial", [1000, 1002]),
        ("TRIAL", [1003, 1000, 1002, 1005]),  # prefixes first, then by popularity
        ("trial the", [1000, 1002]),
        ("cafe reves", [1001]),
        ("CAFÉ", [1001]),
        ("1004", [1004]),
        ("no such words", []),
        ("a[b", []),
    ],
)
def test_titles_are_found_by_their_words(text, items):
    service, counts = Service({"one": SERVED}), np.bincount(SERVED.graph.interactions.dst, minlength=N_ITEMS)
    found = [i["item"] for i in service.items(text, 50)["items"]]
    assert sorted(found) == sorted(items)
    begins = [str(TITLES[i - 1000]).lower().startswith(text.lower()) for i in found]
    assert begins == sorted(begins, reverse=True)
    for group in (True, False):
        popular = [counts[item - 1000] for item, begin in zip(found, begins, strict=True) if begin == group]
        assert popular == sorted(popular, reverse=True)
    assert service.items(text, 1)["items"] == service.items(text, 50)["items"][:1]


def test_no_words_are_the_most_chosen():
    counts = np.bincount(SERVED.graph.interactions.dst, minlength=N_ITEMS)
    found = [i["item"] - 1000 for i in Service({"one": SERVED}).items("", 5)["items"]]
    assert counts[found].tolist() == np.sort(counts)[::-1][:5].tolist()


def test_users_are_found_by_the_beginning_of_their_id():
    service = Service({"one": SERVED})
    assert service.users("reader 1", 100)["users"] == sorted(u for u in USERS if u.startswith("reader 1"))
    assert service.users("a/", 3)["users"] == ["a/b c?"]
    assert service.users("zz", 3)["users"] == []
    assert service.users("", 4)["users"] == sorted(USERS)[:4]


def test_history_is_that_of_the_run():
    for user in USERS[::13]:
        expected = SERVED.run.history(user)
        answer = Service({"one": SERVED}).history(user)
        assert [(i["item"], i["title"], i["part"]) for i in answer["items"]] == list(expected.iter_rows())
        assert len(answer["items"]) == 8


@pytest.mark.parametrize("served", [SERVED, SPARSE], ids=["relational-ease", "sparse-ease"])
def test_reasons_are_those_of_the_model_under_outside_ids(served):
    service, run = Service({"one": served}), served.run
    user = 5
    first = service.recommend(user=USERS[user], k=3)["items"]
    for ranked_list in first:
        item = ranked_list["item"] - 1000
        seen = set(served.interacted_items(user, None).tolist())
        whole = served.ranked_list(user, None, 0, N_ITEMS)[:2]
        expected = Explainer(run.model, run.graph).explain(
            [item], user=user, exclude_items=sorted(seen), n=4, ranked_list=whole
        )[0]
        answer = service.explain(str(ranked_list["item"]), user=USERS[user], n=4)
        assert answer["item"] == {"item": ranked_list["item"], "title": ranked_list["title"]}
        assert (answer["rank"], answer["score"]) == (
            ranked_list["place"],
            pytest.approx(ranked_list["score"], rel=1e-6),
        )
        assert len(answer["reasons"]) == len(expected.reasons) > 0
        for reason, told in zip(expected.reasons, answer["reasons"], strict=True):
            assert told["via"]["item"] == ITEMS[reason.via]
            keys = {"genre": GENRES, "author": range(12), "book": ITEMS}
            assert [(n["type"], n["id"]) for n in told["through"]] == [(t, keys[t][r]) for t, r in reason.through]
            assert (told["rank_after_removal"], told["exact"]) == (reason.rank_without, reason.exact)
            assert told["score_after_removal"] == pytest.approx(reason.score_without)
            assert str(told["via"]["title"]) in told["sentence"]
            assert f"place {answer['rank']}" in told["sentence"]
    history = service.explain(1000, history=[1004, 1008], n=2)
    again = Explainer(run.model, run.graph).explain([0], history=[4, 8], n=2)[0]
    assert (history["rank"], history["score"]) == (again.rank, again.score)
    weighed = service.explain(1000, history=[1004, 1008], weights={"has_genre": 500.0})
    ranked_list = service.recommend(history=[1004, 1008], weights={"has_genre": 500.0}, k=N_ITEMS)["items"]
    assert weighed["rank"] == next(i["place"] for i in ranked_list if i["item"] == 1000)
    assert weighed["score"] == pytest.approx(next(i["score"] for i in ranked_list if i["item"] == 1000), rel=1e-5)


@pytest.mark.parametrize(("kind", "config"), [("relational-ease", {"l2": 5.0}), ("sparse-ease", {"neighbours": 9})])
def test_reasons_where_the_whole_history_counts(kind, config):
    run = library(kind, {**config, "weights": {"lives_in": 0.0}}, successive=True)
    service = Service({"one": run})
    for user in USERS[:4]:
        first = service.recommend(user=user, k=1)["items"][0]
        told = service.explain(first["item"], user=user)
        assert (told["rank"], told["score"]) == (1, pytest.approx(first["score"], rel=1e-6))


def test_an_item_that_was_chosen_has_no_reasons():
    with pytest.raises(RequestError, match="chosen already"):
        Service({"one": SERVED}).explain(1004, history=[1004])
    with pytest.raises(RequestError, match="n is out of bounds"):
        Service({"one": SERVED}).explain(1004, history=[1005], n=21)


# index


def vectors(n, d, seed):
    """Clustered vectors, like learned ones."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, d))
    return (centres[rng.integers(0, 30, n)] + 0.5 * rng.standard_normal((n, d))).astype(np.float32)


def test_recall_is_what_brute_force_counts():
    items, queries = vectors(400, 8, 0), vectors(20, 8, 1)
    best = [set(np.argsort(-(items @ q))[:10].tolist()) for q in queries]
    exact = lambda q, k: np.argsort(-(items @ q))[:k]  # noqa: E731
    assert recall(exact, items, queries, 10) == 1
    half = lambda q, k: np.concatenate([exact(q, k)[: k // 2], exact(q, 400)[-k // 2 :]])  # noqa: E731
    assert recall(half, items, queries, 10) == 0.5
    assert recall(lambda q, k: np.repeat(exact(q, 1), k), items, queries, 10) == pytest.approx(0.1)  # one, ten times
    rng = np.random.default_rng(3)
    drawn = [rng.choice(400, 10, replace=False) for _ in queries]
    calls = iter(drawn)
    expected = np.mean([len(set(d.tolist()) & b) / 10 for d, b in zip(drawn, best, strict=True)])
    assert recall(lambda q, k: next(calls), items, queries, 10) == pytest.approx(expected)


def test_an_index_reads_cells_until_its_recall_is_reached():
    pytest.importorskip("faiss", reason="needs the extra ann")
    items, queries = vectors(5000, 16, 0), vectors(60, 16, 1)
    index = ItemIndex(items, queries, target=0.95)
    q = index.quality
    assert 0.95 <= q.recall_depth <= 1
    assert q.probed_cells < q.cells
    hits = [len(set(index.search(x, 10).tolist()) & set(np.argsort(-(items @ x))[:10].tolist())) for x in queries]
    assert q.recall_10 == pytest.approx(np.mean(hits) / 10)
    assert f"recall@10 {q.recall_10:.4f}" in str(q)
    worse = ItemIndex(items, queries, target=0.0)
    assert worse.quality.probed_cells < q.probed_cells
    assert worse.quality.recall_depth < q.recall_depth


@pytest.fixture
def wide(monkeypatch):
    """Half of the list is found by the index."""
    monkeypatch.setattr(serving, "INDEXED_ITEMS", 12)
    return library("mf", {"dim": 8})


def test_below_the_threshold_lists_are_exact_and_only_vectors_have_an_index(wide):
    pytest.importorskip("faiss", reason="needs the extra ann")
    assert ServedModel("one", wide).index is None
    assert ServedModel("one", wide, index_from=N_ITEMS + 1).index is None
    assert ServedModel("one", wide, index_from=N_ITEMS).index is not None
    for model in ("path-fusion", "sasrec", "relational-ease", "popularity"):
        assert ServedModel("one", library(model), index_from=1).index is None


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_pages_through_an_index_are_one_order(wide, target, monkeypatch):
    pytest.importorskip("faiss", reason="needs the extra ann")
    served = ServedModel("one", wide, index_from=1)
    if target == 0:  # an index that finds every second item only
        search = served.index.search
        monkeypatch.setattr(ItemIndex, "search", lambda self, q, k: search(q, N_ITEMS)[:k][::2])
    service = Service({"one": served})
    for whom in ({"user": USERS[3]}, {"history": [1001, 1002]}, {"user": USERS[4], "exclude_seen": False}):
        whole = service.recommend(k=N_ITEMS, **whom)
        assert len({i["item"] for i in whole["items"]}) == whole["total"] == len(whole["items"])
        for k in (1, 5, 12, 17):
            found, offset = [], 0
            while offset is not None:
                page = service.recommend(k=k, offset=offset, **whom)
                assert len(page["items"]) == min(k, page["total"] - offset)
                found, offset = found + page["items"], page["next_offset"]
            assert found == whole["items"]
        exact = Service({"one": wide}).recommend(k=N_ITEMS, **whom)
        assert [i["place"] for i in whole["items"]] == [i["place"] for i in exact["items"]]
        score = {i["item"]: i["score"] for i in exact["items"]}
        assert all(i["score"] == pytest.approx(score[i["item"]], rel=1e-4, abs=1e-6) for i in whole["items"])
        same = [i["item"] for i in whole["items"]] == [i["item"] for i in exact["items"]]
        assert same == (target == 1)


def test_filters_and_other_weights_do_not_go_through_the_index(wide):
    pytest.importorskip("faiss", reason="needs the extra ann")
    served = ServedModel("one", wide, index_from=1)
    exact = Service({"one": wide}).recommend(user=USERS[2], filters=[("has_genre", "crime")])
    assert Service({"one": served}).recommend(user=USERS[2], filters=[("has_genre", "crime")]) == exact


def test_pitfall_a_missing_extra_names_the_command(monkeypatch, wide):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(InputError, match=r'pip install "relrank\[ann\]"'):
        ServedModel("one", wide, index_from=1)


# replacing a run


def test_a_replaced_run_answers_wholly_old_or_wholly_new():
    old, new = (library("ease", {"l2": l2}, seed=seed) for l2, seed in ((5.0, 0), (50.0, 1)))
    service = Service({"one": old})
    whole = {str(pairs(Service({"x": run}).recommend(user=USERS[3], k=20))): run for run in (old, new)}
    assert len(whole) == 2
    seen, wrong, stop = set(), [], threading.Event()

    def ask():
        while not stop.is_set():
            answer = str(pairs(service.recommend(user=USERS[3], k=20)))
            (seen.add if answer in whole else wrong.append)(answer)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    turn, until = 0, time.monotonic() + 60
    while (turn < 20 or seen != set(whole)) and not wrong and time.monotonic() < until:
        service.replace("one", (new, old)[turn % 2])
        turn += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen == set(whole)
    with pytest.raises(InputError, match="no such run"):
        service.replace("two", new)


def test_nothing_to_serve_is_an_error():
    with pytest.raises(InputError, match="nothing to serve"):
        Service({})
