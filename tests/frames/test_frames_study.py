"""A study from frames: the same objects and files as the command line's, noticed changes, proposals."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from shop_frames import COLUMNS, SMALL, shop
from typer.testing import CliRunner

import relrank as rr
from relrank.cli.app import app
from relrank.errors import InputError
from relrank.frames.folder import write_study
from relrank.study.callbacks import NullCallback
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.run import run_study

PURCHASES, PRODUCTS = shop()


def study(out: Path, **more: Any) -> rr.Study:
    return rr.Study(PURCHASES, **{**COLUMNS, "nodes": {"product": PRODUCTS}, **SMALL, "out": out} | more)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> rr.Study:
    one = study(tmp_path_factory.mktemp("frames") / "shop")
    one.run(quiet=True)
    return one


class Fresh(NullCallback):
    """Names of the cells that are not reused."""

    def __init__(self) -> None:
        self.cells: list[str] = []

    def start(self, cell: Any) -> None:
        self.cells.append(f"{cell.model.name} · {cell.arm.name}")


def test_the_command_line_finds_the_study_finished(done):
    file = done.folder / "study.toml"
    config, fresh = read_study(file), Fresh()
    assert config == done.config.model_copy(update={"data": config.data})
    result = run_study(config, prepare(config, done.folder), done.folder, fresh)
    assert fresh.cells == []
    for name in ("verdicts", "effects", "leaderboard"):
        assert getattr(result, name).equals(getattr(done.result, name))
    said = CliRunner().invoke(app, ["report", str(done.folder)])
    assert said.exit_code == 0
    assert "sparse-ease" in said.output


def test_the_result_is_read_as_frames_with_named_columns(done):
    assert done.verdicts.equals(done.result.verdicts)
    assert done.leaderboard["model"].unique().sort().to_list() == ["popularity", "sparse-ease"]
    assert {"mean", "low", "high", "kind"} <= set(done.effects.columns)
    steps = done.result.card["plan"]
    assert done.plan["relation"].to_list() == ([] if steps is None else [s["relation"] for s in steps["steps"]])
    assert done.plan.columns[:4] == ["step", "relation", "title", "build"]
    assert done.answer in repr(done)
    assert set(done.audit(quiet=True).columns) >= {"level", "check", "finding", "accepted"}
    assert done.report() == done.folder / "report.html"
    assert "<html" in done.report(done.folder / "again.html").read_text("utf-8")


def test_lists_are_those_of_the_fitted_winner(done):
    run = rr.load_run(done.folder)
    assert done.recommend("C-7", 4).equals(run.recommend("C-7", 4))
    assert done.recommend([3, 5], 4).equals(run.recommend_for([3, 5], 4))
    assert done.recommend(pl.Series([3, 5]), 4).equals(run.recommend_for([3, 5], 4))
    with pytest.raises(InputError, match="C-700"):
        done.recommend("C-700")


def test_the_same_frames_leave_the_folder_as_it_is_and_others_are_noticed(tmp_path, capsys):
    one = study(tmp_path / "shop")
    _ = one.data
    files = [tmp_path / "shop" / "study.toml", *(tmp_path / "shop" / "frames").iterdir()]
    before = [file.stat().st_mtime_ns for file in files]
    _ = study(tmp_path / "shop").data
    assert before == [file.stat().st_mtime_ns for file in files]
    raw, tables = one._plain(), one._sources.tables
    assert write_study(tmp_path / "shop", raw, tables, {}) == []
    other = {**tables, "product.parquet": PRODUCTS.with_columns(driver=pl.col("driver").reverse())}
    assert write_study(tmp_path / "shop", raw, other, {}) == ["product.parquet"]
    study(tmp_path / "shop").audit()
    assert "product changed since the last run" in capsys.readouterr().err


def test_changed_settings_have_no_result_yet(tmp_path, done):
    again = study(done.folder)
    with pytest.raises(InputError, match="it has not run"):
        _ = again.verdicts
    again.run(quiet=True)  # every cell is reused
    assert again.verdicts.equals(done.verdicts)
    again.relations["echo"] = {"kind": "attribute", "node": "product", "column": "echo"}
    with pytest.raises(InputError, match="settings have changed"):
        _ = again.verdicts
    assert "not run yet" in repr(again)


def test_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "study.toml").write_text("name = 'mine'\n")
    (tmp_path / "data" / "frames").mkdir(parents=True)
    (tmp_path / "data" / "frames" / "interactions.parquet").write_bytes(b"mine")
    for folder in ("hand", "data"):
        with pytest.raises(InputError, match="folder holds other files"):
            _ = study(tmp_path / folder, name="shop").data
        with pytest.raises(InputError, match="folder holds other files"):
            study(tmp_path / "new").save(tmp_path / folder)
    assert (tmp_path / "hand" / "study.toml").read_text() == "name = 'mine'\n"
    assert (tmp_path / "data" / "frames" / "interactions.parquet").read_bytes() == b"mine"


def test_a_saved_study_is_a_study_of_files(tmp_path):
    file = study(tmp_path / "shop", title="A shop").save(tmp_path / "copy")
    assert file.read_text("utf-8") == study(tmp_path / "shop", title="A shop").to_toml()
    config = read_study(file)
    assert (config.name, config.title, list(config.relations)) == ("shop", "A shop", ["driver"])
    fingerprints = [prepare(config, file.parent).split_contexts[0].split.fingerprint]
    assert fingerprints == [study(tmp_path / "shop").data.split_contexts[0].split.fingerprint]


def test_a_study_is_named_by_its_folder_or_its_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert study(None).folder == Path("runs/customer-product")
    assert study(None, name="mine").folder == Path("runs/mine")
    assert study(tmp_path / "there").config.name == "there"


def test_smoke_runs_have_a_folder_of_their_own(tmp_path):
    one = study(tmp_path / "shop")
    result = one.run(smoke=True, quiet=True)
    assert result.card["smoke"]
    assert (tmp_path / "shop-smoke" / "card.json").is_file()
    assert not (tmp_path / "shop" / "card.json").exists()
    assert one.answer.startswith("Smoke run, the figures mean nothing: ")
    for text in (repr(one), one._repr_html_(), repr(result), result._repr_html_()):
        assert "moke run, the figures mean nothing" in text
    said = " ".join(CliRunner().invoke(app, ["report", str(tmp_path / "shop-smoke")]).output.split())
    assert said.count("moke run") == 1
    assert one.answer in said
    page = (tmp_path / "shop-smoke" / "report.html").read_text("utf-8")
    assert one.answer.partition(":")[0] in page


def test_edited_settings_and_results_of_the_caller_do_not_reach_the_study(tmp_path, done):
    settings: dict[str, Any] = {
        "relations": {"driver": {"kind": "attribute", "node": "product", "column": "driver"}},
        "features": {"fame": {"node": "product", "column": "fame", "kind": "number"}},
        "models": [{"name": "ease", "config": {"l2": 10.0}}],
        "study": {"seeds": [0], "trials": 2},
        "protocol": {"split": "random-leave-one-out"},
        "weights": {"weight": "decay", "half_life": 9.0},
    }
    one = study(tmp_path / "shop", **settings)
    before = one.to_toml()
    settings["relations"]["driver"]["column"] = "echo"
    settings["features"]["fame"]["column"] = "echo"
    settings["models"][0]["config"]["l2"] = 20.0
    settings["study"]["seeds"].append(1)
    settings["protocol"]["split"] = "last-leave-one-out"
    settings["weights"]["half_life"] = 10.0
    assert one.to_toml() == before
    columns = done.verdicts.columns
    done.verdicts.insert_column(0, pl.Series("mine", [1] * len(done.verdicts)))
    assert done.verdicts.columns == columns


def test_a_fast_run_is_the_first_part_of_the_whole_one(tmp_path):
    one = study(tmp_path / "shop", study={"seeds": [0, 1], "trials": 2}, protocol="random-leave-one-out")
    quick = one.run(fast=True, quiet=True)
    assert quick.card["seeds"] == [0]
    assert "1 of 2 splits" in str(quick.card["audit"])
    keys = {cell["key"] for cell in quick.card["cells"]}
    assert keys < {cell["key"] for cell in one.run(quiet=True).card["cells"]}
    stored = (tmp_path / "shop" / "results.json").read_bytes()
    with pytest.raises(InputError, match="would replace the result of a larger one"):
        one.run(fast=True, quiet=True)
    assert (tmp_path / "shop" / "results.json").read_bytes() == stored
    assert one.result.card["seeds"] == [0, 1]


def test_without_relations_they_are_proposed(tmp_path):
    one = study(tmp_path / "shop", relations=None)
    assert one.relations == {}
    assert "to be proposed" in repr(one)
    config = one.config
    assert {"driver", "echo", "noise", "fame"} <= set(config.relations)
    assert config.relations["driver"].kind == "attribute"
    assert one.findings.filter(pl.col("kind") == "relation")["where"].to_list()[0].startswith("product.")
    assert "# " in one.to_toml().split("[relations.driver]")[0].splitlines()[-1]
    assert "product.driver" in one._repr_html_()


def test_what_was_stated_goes_before_a_proposal(tmp_path):
    shelves = pl.DataFrame({"sku": PRODUCTS["sku"], "shelf": [f"s{i % 5}" for i in range(len(PRODUCTS))]})
    mine = {"driver": {"kind": "attribute", "node": "goods", "column": "driver", "title": "Mine"}}
    one = rr.Study(
        PURCHASES,
        **COLUMNS,
        nodes={"goods": rr.Nodes(PRODUCTS, key="sku")},
        links={"stands_on": (shelves, "sku", "shelf")},
        relations=mine,
        protocol="last-leave-one-out",
        out=tmp_path / "shop",
    ).init()
    config = one.config
    assert config.relations["driver"].title == "Mine"
    assert config.protocol.core == 0
    assert (config.data.item, config.data.nodes["goods"].key) == ("goods", "sku")
    assert "stands_on" in config.data.links
    assert [r.table for r in config.relations.values() if r.kind == "link"] == ["stands_on"]
    assert "stands_on" in one.graph.relations or "shelf" in str(one.graph)


SCRIPT = """
import sys
import polars as pl
sys.path.insert(0, {tests!r})
from shop_frames import COLUMNS, SMALL, shop
import relrank as rr
purchases, products = shop()
{guard}
    study = rr.Study(purchases, **COLUMNS, nodes={{"product": products}}, **SMALL, out={out!r})
    study.run(jobs=2)
    print(study.verdicts["verdict"][0])
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":', "if True:"])
def test_two_processes_run_from_a_script_with_a_guard(tmp_path, guard):
    script = tmp_path / "script.py"
    text = SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path / "shop"), guard=guard)
    script.write_text(text)
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    if guard == "if True:":
        assert ran.returncode == 1
        assert "script would start itself again" in ran.stderr
        assert "has been made to start a new process" not in ran.stderr
    else:
        assert ran.returncode == 0, ran.stderr
        assert "cells, " in ran.stderr
        machine = json.loads((tmp_path / "shop" / "card.json").read_text())["machine"]
        assert machine["engine"].startswith("2 processes")
