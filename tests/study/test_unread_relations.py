"""What a model does not read is not judged; what no model reads is refused; what hangs on a hop goes with it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.report.page import write_report
from relrank.report.verdict_summary import answer, primary_model
from relrank.study import arms as arm_of
from relrank.study.cell import Cell
from relrank.study.config import read_study
from relrank.study.grid import cell_with_prerequisites, grid, ineffective_weights
from relrank.study.prepare import prepare, smoke
from relrank.study.run import run_study
from relrank.study.tune_cell import grid_parameters_of, trial_cache_key
from relrank.study.warm_starts import with_prerequisites
from relrank.testing import planted_study

PLANTED = planted_study("unread", 200, 60, seed=3, relations=("driver", "noise"), study="seeds = [0]")
TEXT_VIEW = """
[[models]]
name = "text view"
model = "two-view"
arms = ["interactions", "all", "drop", "rewired"]
config = { dim = 8, views = "text" }
train = { epochs = 1, batch = 512, every = 1 }
"""
TWO_VIEW = """
[[models]]
name = "two-view"
arms = ["interactions", "all", "drop", "alone"]
config = { dim = 8 }
train = { epochs = 1, batch = 512, every = 1 }
"""
CHAIN = """
name = "chain"
[data]
path = "."
user = "user"
item = "item"
[data.interactions]
file = "inter.csv"
user = "user"
item = "item"
[data.nodes.author]
file = "authors.csv"
key = "author"
[data.links.by]
file = "by.csv"
source = "item"
source_column = "item"
target = "author"
target_column = "author"
[data.links.from]
file = "from.csv"
source = "author"
source_column = "author"
target = "country"
target_column = "country"
[data.links.friend]
file = "friend.csv"
source = "user"
source_column = "a"
target = "user"
target_column = "b"
[protocol]
split = "random-leave-one-out"
[relations.by]
kind = "link"
table = "by"
[relations.from]
kind = "link"
table = "from"
[relations.friend]
kind = "link"
table = "friend"
[study]
seeds = [0]
trials = 6
"""
OPEN = """
[[models]]
name = "relational-ease"
"""
ITEMS_ALONE = """
[[models]]
name = "bspm"
config = { rank = 8, time = 0.0 }
"""


def study(folder: Path, text: str):
    (folder / "study.toml").write_text(text)
    return read_study(folder / "study.toml")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """The country of an item's author decides what is chosen; friends mean nothing."""
    rng = np.random.default_rng(1)
    users, items, countries = 150, 90, 6
    country = rng.permutation(np.arange(items) % countries)
    rows = []
    for user in range(users):
        own = np.flatnonzero(country == user % countries)
        chosen = {*rng.choice(own, 4, replace=False).tolist(), *rng.choice(items, 2, replace=False).tolist()}
        rows += [(f"u{user}", f"i{item}") for item in sorted(chosen)]
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_csv(tmp_path / "inter.csv")
    names = [f"a{i}" for i in range(items)]
    pl.DataFrame({"item": [f"i{i}" for i in range(items)], "author": names}).write_csv(tmp_path / "by.csv")
    pl.DataFrame({"author": names}).write_csv(tmp_path / "authors.csv")
    pl.DataFrame({"author": names, "country": [f"c{c}" for c in country]}).write_csv(tmp_path / "from.csv")
    pairs = pl.DataFrame({"a": [f"u{u}" for u in range(0, 150, 2)], "b": [f"u{u}" for u in range(1, 150, 2)]})
    pairs.write_csv(tmp_path / "friend.csv")
    return tmp_path


def test_a_model_runs_no_arms_of_what_it_does_not_read_and_says_nothing_of_it(tmp_path: Path) -> None:
    config = study(tmp_path, PLANTED + TEXT_VIEW + TWO_VIEW)
    material = prepare(config, tmp_path)
    planned = {(c.model.name, c.arm.name) for c in grid(config, material)}
    assert {arm for model, arm in planned if model == "text view"} == {"interactions"}
    assert len({arm for model, arm in planned if model == "two-view"}) == 4
    result = run_study(config, material, tmp_path / "out")
    assert len([p for p in (tmp_path / "out" / "cells").iterdir() if p.is_dir()]) == 5
    notices = [n["message"] for n in result.card["notices"] if n["where"] == "[relations]"]
    assert len(notices) == 1
    assert "text view does not read" in notices[0]
    assert "driver, noise" in notices[0]
    rows = {(r["model"], r["relation"]): r for r in result.verdicts.iter_rows(named=True)}
    assert len(rows) == 4
    for relation in ("driver", "noise"):
        row = rows["text view", relation]
        assert (row["verdict"], row["sentence"]) == ("not read", f"{relation} is not read by text view.")
        assert all(
            row[name] is None
            for name in ("drop", "drop_low", "alone", "placebo", "detectable_effect", "true_verdict")
        )
        assert rows["two-view", relation]["verdict"] != "not read"
    assert not result.effects.filter(pl.col("model") == "text view").height
    assert [judge["model"] for judge in result.card["model_strength"]] == ["two-view"]
    assert primary_model(result) == "two-view"
    assert "not read" in write_report(result, tmp_path / "report.html").read_text()


def test_a_relation_that_no_model_reads_is_refused_before_anything_runs(tmp_path: Path) -> None:
    config = study(tmp_path, PLANTED + TEXT_VIEW)
    with pytest.raises(InputError) as caught:
        grid(config, prepare(config, tmp_path))
    said = str(caught.value)
    assert "no model of this study reads a relation" in said
    assert "text view" in said
    assert "driver (item → " in said


def test_the_studys_attribute_and_studies_of_the_interactions_alone_need_no_reader(tmp_path: Path) -> None:
    plain = PLANTED + '[[models]]\nname = "ease"\n'
    config = study(tmp_path, plain)
    assert len(grid(config, prepare(config, tmp_path))) == 1
    without_noise = PLANTED.replace('[relations.noise]\nkind = "attribute"\nnode = "item"\ncolumn = "noise"\n', "")
    config = study(tmp_path, without_noise.replace("[study]\n", '[study]\nattribute = "driver"\n') + TEXT_VIEW)
    assert len(grid(config, prepare(config, tmp_path))) == 1


def test_a_relation_behind_another_is_judged_like_one_of_items(chain: Path, tmp_path: Path) -> None:
    config = study(chain, CHAIN + OPEN + ITEMS_ALONE)
    material = prepare(config, chain)
    result = run_study(config, material, tmp_path / "out")
    rows = {(r["model"], r["relation"]): r for r in result.verdicts.iter_rows(named=True)}
    for model in ("relational-ease", "bspm"):
        assert rows[model, "from"]["verdict"] == "helps"
        assert rows[model, "from"]["drop"] > 0.05
        assert rows[model, "from"]["alone"] > 0.05  # beside the hop, not in place of it
        assert rows[model, "by"]["drop"] > 0.05  # what hangs on it goes with it
        assert abs(rows[model, "by"]["alone"]) < 0.02
        assert "It is read through by" in rows[model, "from"]["sentence"]
        assert "Without it from cannot be read" in rows[model, "by"]["sentence"]
    assert rows["bspm", "friend"]["verdict"] == "not read"
    assert rows["relational-ease", "friend"]["verdict"] != "not read"
    arms = {r["arm"] for r in result.leaderboard.iter_rows(named=True) if r["model"] == "relational-ease"}
    assert arms >= {"interactions + by", "all without friend", "all without by", "all, by rewired"}
    assert "interactions + from" not in arms
    cards = {r["name"]: r for r in result.card["relations"]}
    assert cards["from"]["chain"] == ["item", "author", "country"]
    assert "chain" not in cards["by"]
    assert "read as item → author → country" in write_report(result, tmp_path / "report.html").read_text()
    assert "read as item → author → country" in repr(material.split_contexts[0].graph)
    only_bspm = result.verdicts.filter(pl.col("model") == "bspm")
    assert "friend is not read by bspm" in answer(type(result)(**{
        **{name: getattr(result, name) for name in result.__dataclass_fields__},
        "verdicts": only_bspm, "card": result.card | {"model_strength": []},
    }))  # fmt: skip


def test_no_arm_has_what_hangs_on_a_hop_without_it(chain: Path) -> None:
    config = study(chain, CHAIN + OPEN)
    material = prepare(config, chain)
    cells = {c.arm.name: c for c in grid(config, material)}
    assert set(cells["all without by"].graph.relations) == {"friend"}
    assert set(cells["all without from"].graph.relations) == {"by", "friend"}
    alone = cell_with_prerequisites(config, material, "relational-ease", "from")[
        -1
    ]  # asked for by name: there is no way there
    assert alone.effective_arm.relations == ()
    assert alone.key() == cell_with_prerequisites(config, material, "relational-ease", "interactions")[-1].key()
    assert set(cell_with_prerequisites(config, material, "relational-ease", "from,by")[-1].graph.relations) == {
        "by",
        "from",
    }


def test_searches_of_chained_arms_are_nested_and_shuffled_hops_move_what_hangs_on_them(chain: Path) -> None:
    config = study(chain, CHAIN + OPEN)
    material = prepare(config, chain)
    planned = with_prerequisites(grid(config, material))
    key = {c.arm.name: c.key() for c in planned}
    prerequisites = {c.arm.name: c.prerequisites for c in planned}
    assert prerequisites["all without by"] == (key["interactions"],)  # friends alone are left
    assert prerequisites["all without from"] == (key["all"],)
    assert prerequisites["interactions + by"] == (key["interactions"],)
    assert prerequisites["all, by rewired"] == (key["all"],)
    cell = next(c for c in planned if c.arm.name == "all, by rewired")
    found = {"weights.by": 0.0, "weights.from": 30.0, "weights.friend": 3.0}
    moved = grid_parameters_of(
        Cell(cell.model, cell.arm, cell.split_context, cell.study, warm_starts=(found,)), cell.graph
    )
    assert [k.name for k in moved] == ["weights.from"]
    assert with_prerequisites([c for c in planned if c.arm.name == "interactions"])


def test_trials_are_shared_only_where_the_hops_are_the_same(chain: Path) -> None:
    """A hop of weight 0 matters only if another relation is read through it."""
    config = study(chain, CHAIN + OPEN)
    material = prepare(config, chain)
    cells = {c.arm.name: c for c in grid(config, material)}

    def trial(arm, **weights):
        cell = cells[arm]
        start, _ = cell.initial_config()
        values = {**dict.fromkeys(cell.graph.relations, 0.0), **weights}
        return trial_cache_key(cell, cell.graph, type(start)(weights=values))

    through = {"from": 10.0}
    assert trial("all", **through) == trial("all without friend", **through)
    assert trial("all", **through) != trial("all, by rewired", **through)
    assert trial("all") == trial("all, by rewired") == trial("interactions")


def test_arms_with_hops() -> None:
    over = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ()}
    names = list(over)
    assert arm_of.all_without(names, "a", over).relations == ("d",)
    assert arm_of.all_without(names, "b", over).relations == ("a", "d")
    assert arm_of.alone("c", over) == arm_of.Arm("interactions + a + b + c", ("a", "b", "c"))
    assert arm_of.alone_baseline("c", over) == arm_of.Arm("interactions + a + b", ("a", "b"))
    assert arm_of.alone_baseline("d", over) == arm_of.INTERACTIONS
    assert arm_of.alone_rewired("b", over) == arm_of.Arm("interactions + a + b, b rewired", ("a", "b"), "b")
    assert arm_of.with_relations(["d", "b"], over).relations == ("a", "b", "d")
    assert arm_of.pair_without("d", "b", over).relations == ("a", "d")
    planned = [a.name for a in arm_of.arms(names, ("interactions", "alone"), over)]
    assert planned == [
        "interactions", "interactions + a", "interactions + a + b", "interactions + a + b + c", "interactions + d",
    ]  # fmt: skip


def test_weights_of_relations_that_a_model_never_reads_are_said(chain: Path) -> None:
    fusion = """
[[models]]
name = "both"
model = "score-fusion"
config = { parts = { bspm = { weights = { friend = 2.0 } }, mf = {} } }
"""
    bspm = ITEMS_ALONE.replace("time = 0.0", "time = 0.0, weights = { friend = 2.0, by = 0.5 }")
    bspm += '[models.arm.all]\nconfig = { "weights.friend" = 3.0 }\n'
    config = study(chain, CHAIN + OPEN + bspm + fusion)
    first = prepare(config, chain).split_contexts[0]
    found = {model.name: ineffective_weights(model, first) for model in config.models}
    assert found == {"relational-ease": [], "bspm": ["friend"], "both": ["friend"]}
    zero = study(chain, CHAIN + OPEN + bspm.replace("friend = 2.0", "friend = 0").replace("3.0", "0"))
    assert ineffective_weights(zero.models[1], first) == []
    small = study(chain, CHAIN + OPEN + bspm.replace('[models.arm.all]\nconfig = { "weights.friend" = 3.0 }\n', ""))
    result = run_study(smoke(small), prepare(small, chain, is_smoke=True), chain / "out")
    said = [n["message"] for n in result.card["notices"] if "weights without effect" in n["message"]]
    assert len(said) == 1
    assert "bspm never reads these relations: friend" in said[0]
