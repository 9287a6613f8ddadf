"""A model that reads some of the relations only: its arms without the others are one cell, and the card says so."""

from pathlib import Path

from relrank.study.config import read_study
from relrank.study.run import grid, prepare, run_study

STUDY = """
name = "unread"
[data]
dataset = "planted"
planted = { users = 200, items = 60, per_user = 6, groups = 6, seed = 3 }
[protocol]
split = "random-leave-one-out"
[relations.driver]
kind = "attribute"
node = "item"
column = "driver"
[relations.noise]
kind = "attribute"
node = "item"
column = "noise"
[study]
[[models]]
name = "text view"
model = "two-view"
arms = ["interactions", "all", "drop", "rewired"]
config = { dim = 8, views = "text" }
train = { epochs = 1, batch = 512, every = 1 }
[[models]]
name = "two-view"
arms = ["interactions", "all", "drop"]
config = { dim = 8 }
train = { epochs = 1, batch = 512, every = 1 }
"""


def test_arms_that_differ_in_what_nobody_reads_are_one_cell(tmp_path: Path) -> None:
    (tmp_path / "unread.toml").write_text(STUDY)
    config = read_study(tmp_path / "unread.toml")
    material = prepare(config, tmp_path)
    keys = {(c.model.name, c.arm.name): c.key() for c in grid(config, material)}
    text = {arm: key for (model, arm), key in keys.items() if model == "text view"}
    assert len(text) == 6
    assert len(set(text.values())) == 1
    assert len({key for (model, _), key in keys.items() if model == "two-view"}) == 4
    result = run_study(config, material, tmp_path / "out")
    assert len([p for p in (tmp_path / "out" / "cells").iterdir() if p.is_dir()]) == 5
    rows = {(r["model"], r["arm"]): r["mean"] for r in result.leaderboard.iter_rows(named=True)}
    assert {arm for model, arm in rows if model == "text view"} >= {"interactions", "all", "all without noise"}
    assert len({mean for (model, _), mean in rows.items() if model == "text view"}) == 1
    notices = [n["message"] for n in result.card["notices"] if n["where"] == "[relations]"]
    assert len(notices) == 1
    assert "text view does not read" in notices[0]
    assert "driver, noise" in notices[0]
