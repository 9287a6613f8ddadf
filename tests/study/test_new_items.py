"""Items without interactions: candidates of a fitted model that has relations of them, but not in the test."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from relrank.evaluation.evaluate import evaluate
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Attribute
from relrank.graph.relation import Relation
from relrank.models import MODELS
from relrank.runs.fitted_run import FORMAT, FittedRun, load_run, save_run
from relrank.serve.candidate_filters import Has, LogicalCondition
from relrank.serve.limits import RequestError
from relrank.serve.service import Service
from relrank.study.cell import SplitContext
from relrank.study.engines.split_files import pack, unpack
from relrank.tables.ids import IdMap
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import NodeTable, Tables

BRANDS = {"brand": Attribute(kind="attribute", node="item", column="brand")}


def shop(n_new=2):
    """Twelve customers who stay with one of two brands; new items of a brand, and one of none."""
    rows = [(f"c{c}", f"i{2 * ((c * 5 + k) % 6) + c % 2}", c + 20 * k) for c in range(12) for k in range(4)]
    items = [(f"i{i}", "ab"[i % 2]) for i in range(12)] + [(f"new{n}", "ab"[n % 2]) for n in range(n_new)]
    frame = pl.DataFrame([*items, ("plain", None)], schema=["item", "brand"], orient="row")
    interactions = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").unique(["user", "item"])
    return Tables("shop", "user", "item", interactions, {"item": NodeTable("item", frame, "item")})


def protocol(**options):
    return ProtocolConfig(name="mine", split="last-leave-one-out", **options)


def fitted(model, config=None, folder=None, tables=None):
    tables = shop() if tables is None else tables
    split = make_split(tables, protocol(), 0)
    graph, kind = build_graph(tables, split, BRANDS), MODELS[model]
    run_model = kind(graph, kind.Config(**(config or {})))
    if hasattr(run_model, "solve"):
        run_model.solve()
    else:
        run_model.init_weights(0)
        run_model.refresh()
    note = {
        "format": FORMAT, "model": model, "name": model, "arm": "all", "config": config or {}, "protocol": "mine",
        "fingerprint": split.fingerprint, "ordered": True, "successive": True, "unseen": split.unseen,
    }  # fmt: skip
    if folder is None:
        return FittedRun(
            run_model, graph, split, pl.DataFrame({"key": split.items.keys, "title": split.items.keys}), note
        )
    return save_run(run_model, graph, split, tables, note, folder)


def test_they_are_counted_and_change_no_protocol():
    kept, dropped = (make_split(shop(), protocol(new_items=policy), 0) for policy in (None, "drop"))
    assert (kept.unseen, dropped.unseen) == (3, 0)
    assert kept.items.keys.to_list()[-3:] == ["new0", "new1", "plain"]
    assert kept.items.keys.to_list()[:-3] == dropped.items.keys.to_list()
    assert kept.fingerprint == dropped.fingerprint
    assert [n.count for n in kept.notices if "without interactions" in n.message] == [3]
    np.testing.assert_array_equal(kept.closed(), [12, 13, 14])
    many = make_split(shop(30), protocol(), 0)
    assert many.unseen == 0
    assert any('new_items = "keep"' in n.message and n.count == 31 for n in many.notices)
    assert make_split(shop(30), protocol(new_items="keep"), 0).unseen == 31


def test_metrics_are_those_without_them():
    """The model scores them highest of all, and they are in no list that is judged."""

    class Eager:
        name = "eager"

        def score(self, users):
            scores = torch.arange(self.n, dtype=torch.float32).repeat(users.numel(), 1)
            return (
                torch.flip(scores[:, :12], [1])
                if self.n == 12
                else torch.cat([torch.flip(scores[:, :12], [1]), scores[:, 12:] + 100], 1)
            )

    found = []
    for policy in ("keep", "drop"):
        split, model = make_split(shop(), protocol(new_items=policy), 0), Eager()
        model.n = len(split.items)
        evaluation = evaluate(model, split, (5,))
        found.append((evaluation.table.drop("fingerprint"), evaluation.summary))
    assert found[0][0].equals(found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], nan_ok=True)


@pytest.mark.parametrize("model", ["relational-ease", "sparse-ease", "relational-lightgcn"])
def test_a_model_that_reads_the_relation_recommends_them(model, tmp_path):
    config = {"dim": 16} if model == "relational-lightgcn" else {"weight": 30.0}
    run = fitted(model, config, tmp_path / "run")
    assert load_run(tmp_path / "run").split.unseen == 3
    run = load_run(tmp_path / "run")
    service = Service({"shop": run})
    listed = [i["item"] for i in service.recommend(history=["i0", "i2"], k=20)["items"]]
    assert {"new0", "new1"} < set(listed)
    assert "plain" not in listed
    assert listed == run.recommend_for(["i0", "i2"], 20)["item"].to_list()
    if model != "relational-lightgcn":  # which starts with random vectors here
        assert listed.index("new0") < listed.index("new1")
        after = service.recommend(history=["new0"], k=3)
        assert after["fallback"] is None
        assert service.explain("new0", history=["i0"])["rank"] > 0
    assert service.runs()["runs"][0]["n_cold_items"] == 2
    assert "plain" not in [i["item"] for i in service.similar("i0", 20)["items"]]
    with pytest.raises(RequestError, match="in no list"):
        service.explain("plain", history=["i0"])


@pytest.mark.parametrize("model", ["ease", "mf", "popularity", "item-knn", "random"])
def test_a_model_that_knows_nothing_of_them_does_not(model):
    run = fitted(model, {"dim": 8} if model == "mf" else {})
    service = Service({"shop": run})
    answer = service.recommend(user="c1", k=20)
    assert answer["total"] == 12 - len(set(run.history("c1")["item"]))
    assert not {"new0", "new1", "plain"} & {i["item"] for i in answer["items"]}
    assert run.recommend("c1", 20)["item"].to_list() == [i["item"] for i in answer["items"]]
    said, unsaid = service.recommend(history=["i0", "new0"], k=20), service.recommend(history=["i0"], k=20)
    assert said["items"] == unsaid["items"]
    assert service.recommend(history=["new0"], k=20)["fallback"] == "popularity"
    assert run.recommend_for(["new0"], 20)["fallback"].all()
    assert run.recommend_for(["i0", "new0"], 20)["score"].to_list() == [i["score"] for i in unsaid["items"]]
    assert service.explain("i4", history=["new0"])["fallback"] == "popularity"
    assert service.similar("new0", 5)["items"] == []
    assert service.runs()["runs"][0]["n_cold_items"] == 0


@pytest.mark.parametrize("model", ["mf", "sasrec", "markov", "ease"])
def test_a_history_of_items_with_test_rows_alone_says_nothing(model):
    """It stays a candidate, but not of somebody who has it."""
    tables = shop()
    late = pl.DataFrame({"user": ["c0"], "item": ["late"], "time": [1000]})
    run = fitted(model, {} if model in ("markov", "ease") else {"dim": 8}, tables=replace(
        tables, interactions=pl.concat([tables.interactions, late]),
        nodes={"item": replace(tables.nodes["item"], frame=pl.concat([
            tables.nodes["item"].frame, pl.DataFrame({"item": ["late"], "brand": ["a"]})
        ]))},
    ))  # fmt: skip
    service = Service({"shop": run})
    assert run.split.items.keys[run.uninformative_items].to_list() == ["late", "new0", "new1", "plain"]
    assert run.recommend_for(["late"], 20)["fallback"].all()
    assert service.recommend(history=["late"], k=20)["fallback"] == "popularity"
    known = [run.split.items.keys.to_list().index(key) for key in ("i0", "late")]
    assert run.informative_history(np.array(known)).tolist() == known  # as at the test
    assert run.informative_history(np.array([*known, 0])[1:2]).size == 0
    said = [i["item"] for i in service.recommend(history=["i0", "late"], k=20)["items"]]
    assert said == run.recommend_for(["i0", "late"], 20)["item"].to_list()
    assert not {"i0", "late"} & set(said)


def test_a_run_keeps_what_lists_are_filtered_by(tmp_path):
    """Columns of the item table as they are, and relations of the study that this model's graph lacks."""
    tables = shop()
    split = make_split(tables, protocol(), 0)
    whole = build_graph(tables, split, BRANDS)
    graph, note = whole.only(), fitted("ease").note
    for kept in (whole, None):
        save_run(MODELS["ease"](graph).solve(), graph, split, tables, note, tmp_path / "run", kept)
        service = Service({"shop": load_run(tmp_path / "run")})
        described = service.runs()["runs"][0]
        assert (described["filters"], described["columns"]) == (["brand"] if kept else [], ["brand"])
        every = [i["item"] for i in service.recommend(history=["i0"], k=20)["items"]]
        for filters in (
            [("brand", "b")],
            [Has("brand", "b", "column")],
            [LogicalCondition("not", (Has("brand", "a"),))],
        ):
            found = [i["item"] for i in service.recommend(history=["i0"], k=20, filters=filters)["items"]]
            assert found == [item for item in every if int(item[1:]) % 2]


def test_lists_are_filtered_along_a_chain_of_relations():
    run = fitted("relational-ease")
    nodes = {**run.graph.nodes, "country": IdMap("country", pl.Series(["x", "y"]))}
    of_brand = Relation.of("from", "brand", "country", np.array([0, 1]), np.array([1, 0]))
    graph = replace(run.graph, nodes=nodes, relations={**run.graph.relations, "from": of_brand})
    service = Service({"shop": replace(run, graph=graph)})
    found = service.recommend(history=["i0"], k=20, filters=[("from", "x")])["items"]
    assert [i["item"] for i in found if int(i["item"].lstrip("inew")) % 2 == 0] == []
    assert len(found) == 7  # six of brand b, and one that is new
    assert service.values("from")["values"] == [{"value": "x", "items": 7}, {"value": "y", "items": 7}]


def test_other_processes_are_told_of_them():
    split = make_split(shop(), protocol(), 0)
    split_context = unpack(pack(SplitContext(0, split, build_graph(shop(), split, BRANDS))))
    assert split_context.split.unseen == 3
    assert json.dumps(split_context.split.closed().tolist()) == "[12, 13, 14]"
