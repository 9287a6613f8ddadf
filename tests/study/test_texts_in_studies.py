"""Texts on their way through a study: an ordinary relation on every arm, with vectors for models that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from shops import SHOP

from relrank.cli.live import print_result
from relrank.study.config import read_study
from relrank.study.grid import grid
from relrank.study.prepare import StudyData, prepare
from relrank.study.run import run_study

STUDY = f"""{SHOP}time = "day"
[data.texts]
file = "texts.csv"
key = "product"
kind = "kind"
text = "text"
[protocol]
name = "shop-loo"
split = "last-leave-one-out"
[relations.has_blurb]
kind = "texts"
of = "blurb"
dims = 3
min_df = 1
[relations.alike]
kind = "text"
node = "product"
texts = "blurb"
min_df = 1
[study]
trials = 2
[[models]]
name = "relational-ease"
[[models]]
name = "graphsage-features"
train = {{ epochs = 1, every = 1, device = "cpu" }}
config = {{ dim = 8, negatives = 4 }}
"""
SEEN = ["interactions", "all", "all without has_blurb", "all without alike"]  # the last is has_blurb alone


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Twelve customers with six of ten products each; nine products have a blurb, one has two."""
    rows = [(c, (c + 3 * k) % 10, 10 * k) for c in range(12) for k in range(6)]
    pl.DataFrame(rows, schema=["customer", "product", "day"], orient="row").write_csv(tmp_path / "sales.csv")
    blurbs = [(i, "blurb", f"colour{i % 3} shape{i % 4} size{i}") for i in range(9)] + [
        (0, "blurb", "colour1 shape9")
    ]
    pl.DataFrame(blurbs, schema=["product", "kind", "text"], orient="row").write_csv(tmp_path / "texts.csv")
    (tmp_path / "shop.toml").write_text(STUDY)
    return tmp_path / "shop.toml"


def read(path: Path) -> StudyData:
    return prepare(read_study(path), path.parent)


def test_every_arm_is_there_and_the_placebo_hands_out_the_same_texts(shop: Path) -> None:
    config, material = read_study(shop), read(shop)
    cells = {c.arm.name: c for c in grid(config, material) if c.model.name == "graphsage-features"}
    assert set(cells) >= {*SEEN, "all, has_blurb rewired", "all, alike rewired"}
    whole, placebo = cells["all"].graph, cells["all, has_blurb rewired"].graph
    assert "has_blurb" not in cells["all without has_blurb"].graph.relations
    for end in ("product", "blurb"):
        n = len(whole.nodes[end])
        before, after = (g.relations["has_blurb"].degrees(end, n) for g in (whole, placebo))
        np.testing.assert_array_equal(before, after)
    before, after = (
        set(zip(*(r.src, r.dst), strict=True)) for r in (g.relations["has_blurb"] for g in (whole, placebo))
    )
    assert before != after
    assert all(cell.graph.features["has_blurb"] is whole.features["has_blurb"] for cell in cells.values())


def test_a_study_runs_and_says_what_texts_there_are(shop: Path, tmp_path: Path) -> None:
    result = run_study(read_study(shop), read(shop), tmp_path / "out")
    assert set(result.leaderboard["arm"]) >= {*SEEN, "all, has_blurb rewired"}
    assert result.card["features"] == [
        {"name": "has_blurb", "node": "blurb", "columns": 3, "kind": "texts", "known": 1.0}
    ]
    shares = {r["name"]: r["covered"] for r in result.card["relations"]}
    assert shares["has_blurb"] == 0.9  # one product of ten has no text
    missing = [n for n in result.card["notices"] if n["where"] == "relation 'has_blurb'"]
    assert [(n["message"], n["count"]) for n in missing] == [("product nodes without an edge, of 10", 1)]
    console = Console(record=True, width=200)
    print_result(console, result, "the answer")
    assert "has_blurb (texts of blurb, known for 100%)" in console.export_text()


def test_texts_nobody_reads_are_a_notice_and_cost_no_new_fit(shop: Path, tmp_path: Path) -> None:
    text = STUDY[: STUDY.index('[[models]]\nname = "graphsage')]
    shop.write_text(text)
    found = run_study(read_study(shop), read(shop), tmp_path / "out").card["notices"]
    assert [n["count"] for n in found if n["where"] == "[features]"] == [1]


WAYS = {
    "nodes": '[relations.r]\nkind = "texts"\nof = "blurb"\ndims = 3\nmin_df = 1\n',
    "links": '[relations.r]\nkind = "text"\nnode = "product"\ntexts = "blurb"\nmin_df = 1\n',
    "feature": '[features.f]\nkind = "text"\nnode = "product"\ntexts = "blurb"\ndims = 3\nmin_df = 1\n',
    "none": "",
}


@pytest.mark.parametrize("way", WAYS)
def test_texts_written_after_the_test_rows_are_a_leak_whatever_reads_them(shop: Path, way: str) -> None:
    """And nobody asks about texts that nothing reads."""
    text = STUDY[: STUDY.index("[relations.")] + WAYS[way] + '[[models]]\nname = "popularity"\n'
    shop.write_text(text)
    levels = {f.check: f.level for f in read(shop).findings}
    assert levels.get("[data.texts] looks computed from interactions") == (None if way == "none" else "ok")
    shop.write_text(text.replace('text = "text"', 'text = "text"\ncomputed = 60'))
    levels = {f.check: f.level for f in read(shop).findings}
    assert levels.get("[data.texts] computed after the cut") == (None if way == "none" else "leak")
