"""Filters by columns of linked nodes: in a saved run, over HTTP, on the command line."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from relrank.cli.app import app
from relrank.graph.construction.build_graph import Attribute, Link, build_graph
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.runs.fitted_run import FittedRun, load_run, save_run
from relrank.serve.candidate_filters import Between, Has, LogicalCondition
from relrank.serve.limits import RequestError
from relrank.serve.service import Service
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import LinkTable, NodeTable, Tables

BRANDS = {"acme": ("IT", 1950), "b:v": (None, 1980), "core": ("FR", None), "idle": ("DE", 1999)}
MADE = {item: [["acme"], ["b:v"], ["core"], ["acme", "core"], []][item % 5] for item in range(20)}
"""Every fifth item is of two brands, every fifth of none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(u, (3 * u + 2 * k) % 20) for u in range(15) for k in range(5)]
    items = pl.DataFrame({"id": range(20), "shop": [f"s{i % 2}" for i in range(20)]})
    brands = pl.DataFrame({"name": [*BRANDS], "country": [c for c, _ in BRANDS.values()],
                           "since": [s for _, s in BRANDS.values()], "tags": [["x"]] * 4})  # fmt: skip
    shops = pl.DataFrame({"shop": ["s0", "s1"], "town": ["Bari", "Ulm"]})
    made = pl.DataFrame([(i, b) for i, of in MADE.items() for b in of], schema=["item", "brand"], orient="row")
    links = {"made": LinkTable("made", made, "item", "item", "id", "brand", "brand", "name")}
    nodes = {"item": NodeTable("item", items, "id"), "brand": NodeTable("brand", brands, "name"),
             "shop": NodeTable("shop", shops, "shop")}  # fmt: skip
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row")
    tables = Tables("shop", "user", "item", frame, nodes, links)
    split = make_split(tables, check({"name": "m", "split": "random-leave-one-out"}, ProtocolConfig, "m"), 0)
    relations = {"made_by": Link(kind="link", table="made"),
                 "sold_in": Attribute(kind="attribute", node="item", column="shop")}  # fmt: skip
    whole = build_graph(tables, split, relations)
    graph = whole.only("sold_in")
    model = ItemKNN(graph).solve()
    note = {"format": "relrank-run-4", "model": ItemKNN.name, "name": ItemKNN.name, "arm": "interactions",
            "config": {}, "protocol": "m", "fingerprint": split.fingerprint, "ordered": False,
            "successive": False}  # fmt: skip
    out = tmp_path_factory.mktemp("runs") / "run"
    save_run(model, graph, split, tables, note, out, whole)
    return out


def items(run: FittedRun, *conditions: Has | Between | LogicalCondition) -> set[int]:
    answer = Service({"run": run}).recommend(history=[], k=20, filters=conditions)
    return {one["item"] for one in answer["items"]}


def having(country: str) -> set[int]:
    return {item for item, brands in MADE.items() if any(BRANDS[b][0] == country for b in brands)}


def test_items_by_a_column_of_their_brands(folder: Path) -> None:
    run = load_run(folder)
    for name in ("brand.country", "made_by.country"):  # a relation that the model's own graph lacks
        assert items(run, Has(name, "IT")) == having("IT")
        assert items(run, LogicalCondition("not", (Has(name, "IT"),))) == set(range(20)) - having("IT")
        assert items(run, LogicalCondition("any", (Has(name, "IT"), Has(name, "FR")))) == having("IT") | having("FR")
        assert items(run, Has(name, "IT"), Has(name, "FR")) == having("IT") & having("FR")
    assert items(run, Between("brand.since", 1960, None)) == {i for i, of in MADE.items() if "b:v" in of}
    assert items(run, Has("shop.town", "Ulm")) == items(run, Has("sold_in.town", "Ulm")) == set(range(1, 20, 2))
    service = Service({"run": run})
    assert service.values("brand.country")["values"] == [{"value": "FR", "items": 8}, {"value": "IT", "items": 8}]
    assert "brand.tags" not in service.runs()["runs"][0]["columns"]
    for condition, what in ((Has("brand.country", "DE"), "unknown brand.country"),  # of a brand without items
                            (Has("brand.contry", "IT"), "did you mean 'brand.country'"),
                            (Has("brand.tags", "x"), "no such filter")):  # fmt: skip
        with pytest.raises(RequestError, match=what):
            items(run, condition)


def test_the_same_over_http_and_by_command(folder: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    from relrank.serve.app import make_app

    run = load_run(folder)
    user, service = 3, Service({"run": run})
    expected = service.recommend(user=user, k=20, filters=[
        Has("brand.country", "FR"), LogicalCondition("any", (Has("shop.town", "Ulm"), Has("brand.since", "1950"))),
        LogicalCondition("not", (Has("made_by", "b:v"),)),
    ])["items"]  # fmt: skip
    client = testclient.TestClient(make_app(service))
    asked = "with=brand.country:FR&any=shop.town:Ulm&any=brand.since:1950&without=made_by:b:v"
    assert client.get(f"/recommend/{user}?k=20&{asked}").json()["items"] == expected
    body = {"user": user, "k": 20, "with": [
        {"column": "brand.country", "value": "FR"}, {"not": {"relation": "made_by", "value": "b:v"}},
        {"any": [{"column": "shop.town", "value": "Ulm"}, {"column": "brand.since", "min": 1950, "max": 1950}]},
    ]}  # fmt: skip
    assert client.post("/recommend", json=body).json()["items"] == expected
    words = ["recommend", str(folder), "--user", str(user), "-k", "20", "--with", "brand.country:FR", "--any",
             "shop.town:Ulm", "--any", "brand.since:1950", "--without", "made_by:b:v"]  # fmt: skip
    lines = CliRunner().invoke(app, words).output.splitlines()
    shown = [line.split("│")[2].strip() for line in lines if line.startswith("│")]
    assert shown == [str(one["item"]) for one in expected]
    assert len(shown) > 2
    plain = CliRunner().invoke(app, words[:6]).output
    assert len([line for line in plain.splitlines() if line.startswith("│")]) > len(shown)
    wrong = CliRunner().invoke(app, [*words[:6], "--with", "country"]).exception
    assert isinstance(wrong, RequestError)
    assert wrong.expected == "NAME:VALUE"
