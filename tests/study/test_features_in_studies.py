"""Features of nodes on their way through a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from shops import SHOP

from relrank.cli.live import print_result
from relrank.errors import InputError
from relrank.runs.fitted_run import load_run
from relrank.study.cell import Cell
from relrank.study.cell_store import load_cell
from relrank.study.config import read_study
from relrank.study.fit_run import fit_run
from relrank.study.grid import grid
from relrank.study.prepare import StudyData, prepare
from relrank.study.run import run_study

STUDY = f"""{SHOP}[data.nodes.product]
file = "products.csv"
key = "id"
[protocol]
name = "shop-loo"
split = "random-leave-one-out"
[features.price]
kind = "number"
node = "product"
column = "price"
log = true
[features.fame]
kind = "bins"
node = "product"
column = "review_count"
quantiles = 2
[features.maker]
kind = "category"
node = "product"
column = "maker"
[study]
seeds = [0]
trials = 2
[[models]]
name = "popularity"
[[models]]
name = "ease"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Twelve customers with six of ten products each; one price is missing, one maker unknown."""
    rows = [(c, (c + 3 * k) % 10) for c in range(12) for k in range(6)]
    pl.DataFrame(rows, schema=["customer", "product"], orient="row").write_csv(tmp_path / "sales.csv")
    write_products(tmp_path)
    (tmp_path / "shop.toml").write_text(STUDY)
    return tmp_path / "shop.toml"


def write_products(folder: Path, price: float = 9.5, fame: int = 3) -> None:
    pl.DataFrame(
        {
            "id": range(10),
            "price": [None, price, *range(2, 10)],
            "review_count": [fame, *range(9)],
            "maker": [None, *"abcabcabc"],
        }
    ).write_csv(folder / "products.csv")


def read(path: Path) -> StudyData:
    return prepare(read_study(path), path.parent)


def keys(path: Path) -> dict[str, str]:
    return {cell.model.name: cell.key() for cell in grid(read_study(path), read(path))}


GRAPHSAGE = """
[[models]]
name = "graphsage-features"
train = { epochs = 2, every = 1, device = "cpu" }
config = { dim = 8, negatives = 4 }
"""
PLAIN = GRAPHSAGE.replace("graphsage-features", "graphsage")
HYBRID = GRAPHSAGE.replace("graphsage-features", "hybrid")


@pytest.mark.parametrize("model", [GRAPHSAGE, HYBRID, PLAIN.replace("dim = 8", "dim = 8, features = true")])
def test_pitfall_cell_is_keyed_by_what_its_features_say(shop: Path, model: str) -> None:
    shop.write_text(STUDY + model + "[[models]]\nname = 'mf'")
    whole = keys(shop)
    featured = set(whole) - {"popularity", "ease", "mf"}
    assert len(featured) == 1
    assert keys(shop) == whole

    def changed() -> set[str]:
        return {name for name, key in keys(shop).items() if key != whole[name]}

    write_products(shop.parent, price=9.6)
    assert changed() == featured  # and a model without an encoder is not fitted again
    write_products(shop.parent)
    shop.write_text(shop.read_text().replace("log = true", "log = false"))
    assert changed() == featured
    shop.write_text(STUDY + model + "[[models]]\nname = 'mf'")
    assert not changed()
    # a graph without features has the name it would have had before there were any
    cell = grid(read_study(shop), read(shop))[0]
    bare = replace(cell.split_context, graph=replace(cell.split_context.graph, features={}))
    assert "features" not in Cell(cell.model, cell.arm, split_context=bare, study=cell.study).identity()


def test_only_models_that_read_features_get_them(shop: Path, tmp_path: Path) -> None:
    shop.write_text(STUDY + GRAPHSAGE + HYBRID + PLAIN)
    config, material = read_study(shop), read(shop)
    cells = {cell.model.name: cell for cell in grid(config, material)}
    assert {name for name, cell in cells.items() if cell.graph.features} == {"graphsage-features", "hybrid"}
    result = run_study(config, material, tmp_path / "out")
    assert not any(n["where"] == "[features]" for n in result.card["notices"])
    note = load_cell(tmp_path / "out" / "cells" / cells["hybrid"].key()).learned_values
    assert 0 < note["graph's share"]["product"] < 1


def test_features_that_nobody_reads_are_a_notice(shop: Path, tmp_path: Path) -> None:
    for text in (STUDY, STUDY + PLAIN):
        shop.write_text(text)
        found = run_study(read_study(shop), read(shop), tmp_path / "out").card["notices"]
        assert [n["count"] for n in found if n["where"] == "[features]"] == [3]


def test_model_that_reads_features_where_there_are_none_is_refused_before_anything_runs(shop: Path) -> None:
    head, tail = STUDY.index("[features.price]"), STUDY.index("[study]")
    refusals = ((HYBRID, "no features of users or items"), (GRAPHSAGE, "model needs node features"))
    for model, wrong in refusals:
        shop.write_text(STUDY[:head] + STUDY[tail:] + model)
        with pytest.raises(InputError, match=wrong) as error:
            keys(shop)
        assert error.value.where in model


def test_model_of_sequences_on_data_without_order_is_refused_before_anything_runs(shop: Path) -> None:
    shop.write_text(STUDY + '[[models]]\nname = "sasrec"\n')
    with pytest.raises(InputError, match="no order in time") as error:
        grid(read_study(shop), read(shop))
    assert error.value.where == "sasrec"


def test_columns_of_features_are_audited(shop: Path) -> None:
    found = {f.check: f for f in read(shop).findings}
    suspect = found["product looks computed from interactions"]
    assert (suspect.level, suspect.count) == ("warning", 1)
    assert "review_count" in suspect.message  # and not the price
    shop.write_text(STUDY.replace('"review_count"', '"price"'))
    assert {f.check: f.level for f in read(shop).findings}["product looks computed from interactions"] == "ok"


def test_features_stand_on_the_card_and_are_kept_with_the_run(shop: Path, tmp_path: Path) -> None:
    config, material = read_study(shop), read(shop)
    result = run_study(config, material, tmp_path / "out")
    assert result.card["features"] == [
        {"name": "price", "node": "product", "kind": "number", "columns": 1, "known": 0.9},
        {"name": "fame", "node": "product", "kind": "bins", "columns": 2, "known": 1.0},
        {"name": "maker", "node": "product", "kind": "category", "columns": 3, "known": 0.9},
    ]
    console = Console(record=True, width=200)
    print_result(console, result, "the answer")
    assert "features: price (number of product, known for 90%), fame (bins" in console.export_text()
    shop.write_text(STUDY + HYBRID)
    cell = grid(read_study(shop), material)[2]
    run = fit_run([cell], material.tables, tmp_path / "run", lambda _: None)
    loaded = load_run(tmp_path / "run").graph.features
    assert {n: f.sha256() for n, f in loaded.items()} == {n: f.sha256() for n, f in run.graph.features.items()}
    assert list(loaded) == ["price", "fame", "maker"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('column = "price"', 'column = "prize"', "column not found"),
        ('kind = "number"', 'kind = "numeric"', "features.price"),
        ("log = true", "logarithm = true", "unknown key"),
    ],
)
def test_slips_in_a_section_are_named(shop: Path, old: str, new: str, message: str) -> None:
    shop.write_text(STUDY.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        read(shop)
    assert "features.price" in error.value.where
