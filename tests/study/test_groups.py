"""Groups of users, by hand: metrics with counts, differences to a rival; learned values of models."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from rich.console import Console

from relrank.cli.live import print_result
from relrank.errors import InputError
from relrank.io.manifest import write_manifest
from relrank.study.arms import INTERACTIONS, all_of, rewired
from relrank.study.cell_store import load_cell
from relrank.study.config import read_study
from relrank.study.model_effects import ModelEffects
from relrank.study.prepare import prepare, smoke
from relrank.study.result import StudyResult
from relrank.study.result_tables import effects_and_verdicts, notes
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.rivals import effects_vs_rival
from relrank.study.run import run_study
from relrank.study.subgroup_effects import group_effects, group_metrics

RELATIONS = ["a", "b"]
ALL, SHUFFLED = all_of(RELATIONS), rewired(RELATIONS, "a")

# Seed 0: users 1, 2 have short histories, 3 a long one. Seed 1: user 1 alone is short, and 4 is there in place of 2.
USERS = ([1, 2, 3], [1, 3, 4])
LENGTHS = ([10, 3, 51], [4, 11, 80])
AGES = (["old", "young", "old"], ["old", "old", None])


def cell(model, seed, ndcg, hit, **more):
    table = pl.DataFrame(
        {
            "user": USERS[seed],
            "rank": [1.0] * 3,
            "hit@5": hit,
            "ndcg@5": ndcg,
            "history length": LENGTHS[seed],
            "item popularity": [1.0, 2.0, 3.0],
            "age": AGES[seed],
        },
        schema_overrides={"age": pl.String, "hit@5": pl.Float64, "ndcg@5": pl.Float64},
    )
    summary = {"hit@5": 0.0, "ndcg@5": 0.0, "coverage@5": 0.3, "n_users": 3}  # means are not read from here
    evaluation = SimpleNamespace(table=table, summary=summary)
    return SimpleNamespace(
        model=model, seed=seed, evaluation=evaluation, learned_values={}, held=None, history=None, **more
    )


def by_hand(*cells):
    return ResultsByArm(cells, "ndcg@5")


def two_seeds(model, arm=INTERACTIONS, plus=0.0):
    return [
        (arm, cell(model, 0, [0.1 + plus, 0.3 + plus, 0.8 + plus], [0, 1, 1])),
        (arm, cell(model, 1, [0.4 + plus, 0.6 + plus, 0.2 + plus], [1, 1, 0])),
    ]


def test_metrics_by_group_and_over_all_users_by_hand():
    table = group_metrics(by_hand(*two_seeds("m")), ["age"])
    assert table.columns == ["model", "arm", "group", "label", "order", "n_users", "hit@5", "ndcg@5"]
    rows = {(r["group"], r["label"]): r for r in table.iter_rows(named=True)}
    expected = {
        # group, label: order, distinct users, hit, NDCG over the (user, seed) rows inside
        ("all users", "all users"): (0, 4, 4 / 6, (0.1 + 0.3 + 0.8 + 0.4 + 0.6 + 0.2) / 6),
        ("history length", "≤ 10"): (0, 2, 2 / 3, (0.1 + 0.3 + 0.4) / 3),
        ("history length", "11–50"): (1, 1, 1, 0.6),  # in seed 1 alone
        ("history length", "> 50"): (2, 2, 1 / 2, (0.8 + 0.2) / 2),
        ("item popularity", "least popular third"): (0, 1, 1 / 2, (0.1 + 0.4) / 2),
        ("item popularity", "middle third"): (1, 2, 1, (0.3 + 0.6) / 2),
        ("item popularity", "most popular third"): (2, 2, 1 / 2, (0.8 + 0.2) / 2),
        ("age", "old"): (0, 2, 3 / 4, (0.1 + 0.8 + 0.4 + 0.6) / 4),
        ("age", "young"): (1, 1, 1, 0.3),
        ("age", "missing"): (2, 1, 0, 0.2),
    }
    assert rows.keys() == expected.keys()
    for key, (order, n_users, hit, ndcg) in expected.items():
        assert (rows[key]["order"], rows[key]["n_users"]) == (order, n_users), key
        assert (rows[key]["hit@5"], rows[key]["ndcg@5"]) == (pytest.approx(hit), pytest.approx(ndcg)), key


def test_all_arms_but_those_with_shuffled_links():
    found = by_hand(*two_seeds("m"), *two_seeds("m", ALL), *two_seeds("m", SHUFFLED))
    assert group_metrics(found, [])["arm"].unique(maintain_order=True).to_list() == ["interactions", "all"]


def test_differences_to_the_rival_inside_groups_by_hand():
    """A rival that is .1 worse for short histories and .2 better for long ones; nothing in between."""
    rival = [
        (INTERACTIONS, cell("rival", 0, [0.0, 0.2, 1.0], [0, 1, 1])),
        (INTERACTIONS, cell("rival", 1, [0.3, 0.6, 0.4], [1, 1, 0])),
    ]
    found = by_hand(*two_seeds("m"), *rival)
    effects, _ = effects_and_verdicts([], [], None, effects_vs_rival(found, ["m"], "rival", []))
    table = group_effects(found, effects, [])
    assert table["kind"].unique().to_list() == ["versus"]
    assert table["other"].unique().to_list() == ["rival"]
    assert table["relation"].null_count() == len(table)
    inside = table.filter(pl.col("group") == "history length")
    assert inside["label"].to_list() == ["≤ 10", "11–50", "> 50"]
    assert inside["mean"].to_list() == pytest.approx([0.1, 0.0, -0.2])
    assert inside["n_users"].to_list() == [2, 1, 2]
    # the difference of what group_metrics says of the two
    means = group_metrics(found, []).filter(pl.col("group") == "history length")
    mine, theirs = (means.filter(pl.col("model") == name)["ndcg@5"] for name in ("m", "rival"))
    assert inside["mean"].to_list() == pytest.approx((mine - theirs).to_list())


def test_gains_name_no_rival():
    found = by_hand(*two_seeds("m"), *two_seeds("m", ALL, plus=0.05))
    effects, _ = effects_and_verdicts([ModelEffects(found, "m", RELATIONS, 0.01)], RELATIONS, None)
    table = group_effects(found, effects, ["age"])
    assert table["kind"].unique().to_list() == ["gain"]
    assert table["other"].null_count() == len(table) == 9
    assert table["mean"].to_list() == pytest.approx([0.05] * 9)


def test_notes_of_a_model_on_itself():
    lengths = {label: {"mean": m, "sd": 0.1, "count": n} for label, m, n in
               [("11–50", 0.5, 7), ("> 50", 0.25, 2), ("≤ 10", 0.75, 4)]}  # fmt: skip
    first, second, silent = (SimpleNamespace(model="m", seed=seed, learned_values={}) for seed in (0, 1, 2))
    first.learned_values = {"own share by history length": lengths, "relation weights": {"b": 2.0, "a": 0.5}}
    second.learned_values = {"relation weights": {"a": 0.75}}
    table = notes(ResultsByArm([(ALL, second), (ALL, silent), (ALL, first)], "ndcg@5"))
    own, weights = "own share by history length", "relation weights"
    assert table.rows() == [
        ("m", "all", 0, own, "≤ 10", 0.75, 0.1, 4),
        ("m", "all", 0, own, "11–50", 0.5, 0.1, 7),
        ("m", "all", 0, own, "> 50", 0.25, 0.1, 2),
        ("m", "all", 0, weights, "a", 0.5, None, None),
        ("m", "all", 0, weights, "b", 2.0, None, None),
        ("m", "all", 1, weights, "a", 0.75, None, None),
    ]


def test_a_study_stores_and_reads_them(study_file, tmp_path):
    text = study_file.read_text().replace("seeds = [0, 1]", 'seeds = [0]\nversus = "ease"\nitem_groups = ["noise"]')
    text = text.replace("trials = 8", "trials = 2") + 'arms = ["interactions", "all", "rewired"]\n'
    text += '[[models]]\nname = "relational-lightgcn"\narms = ["interactions", "all"]\n'
    text += "config = { dim = 8, negatives = 16 }\ntrain = { epochs = 1 }\n"
    study_file.write_text(text)
    config, out = read_study(study_file), tmp_path / "out"
    run_study(config, prepare(config, tmp_path), out)
    result = StudyResult.load(out)

    metrics = result.group_metrics
    assert {name for name in metrics.columns if name.endswith("@20")} == {
        f"{name}@20" for name in ("hit", "recall", "precision", "ndcg", "map")
    }
    assert "mrr" in metrics.columns
    assert not metrics["arm"].str.ends_with("rewired").any()
    overall = metrics.filter(pl.col("group") == "all users").join(result.leaderboard, on=["model", "arm"])
    assert len(overall) == 6
    assert overall["ndcg@10"].to_list() == pytest.approx(overall["mean"].to_list())
    assert overall["hit@50"].to_list() == pytest.approx(overall["hit@50_right"].to_list())
    assert (overall["n_users"] == overall["n_users_right"]).all()
    by_value = metrics.filter((pl.col("group") == "noise") & (pl.col("model") == "ease"))
    assert by_value["n_users"].sum() == overall["n_users"][0]

    versus = result.groups.filter(pl.col("kind") == "versus")
    assert set(versus["model"]) == {"popularity", "relational-ease", "relational-lightgcn"}
    assert set(versus["other"]) == {"ease"}

    cells = [load_cell(file.parent) for file in (out / "cells").glob("*/cell.json")]
    (told,) = [c.learned_values["relation weights"] for c in cells if c.learned_values.get("relation weights")]
    assert dict(result.notes.select("key", "value").iter_rows()) == told
    assert told.keys() == {"driver", "noise"}
    stored = json.loads((out / "results.json").read_text())
    assert stored["group_metrics"] == metrics.to_dicts()

    card = json.loads((out / "card.json").read_text())
    (out / "card.json").write_text(json.dumps(card | {"format": "relrank-study-1"}))
    write_manifest(out, ["card.json", *(f.name for f in out.glob("*.parquet"))])
    with pytest.raises(InputError, match=r"another version[\s\S]*run the study again[\s\S]*relrank-study-1"):
        StudyResult.load(out)

    (out / "group_metrics.parquet").unlink()
    with pytest.raises(InputError, match="group_metrics") as error:
        StudyResult.load(out)
    assert "incomplete" in error.value.what


def test_the_console_shows_history_lengths_where_they_differ(study_file, tmp_path):
    config = smoke(read_study(study_file))
    result = run_study(config, prepare(config, tmp_path, is_smoke=True), tmp_path / "out")
    rows = [
        ("ease", "interactions", "history length", "> 50", 2, 1200, 0.25),
        ("ease", "interactions", "history length", "≤ 10", 0, 7, 0.75),
        ("relational-ease", "all", "history length", "≤ 10", 0, 7, 0.5),
        ("relational-ease", "all without noise", "history length", "≤ 10", 0, 7, 0.875),
    ]
    schema = ["model", "arm", "group", "label", "order", "n_users", "ndcg@10"]
    some = pl.DataFrame(rows, schema=schema, orient="row")

    def shown(table):
        console = Console(width=120, file=io.StringIO())
        print_result(console, replace(result, group_metrics=table), "the answer")
        return console.file.getvalue()

    text = shown(some)
    lines = [line.split() for line in text[text.index("by history length, test ndcg@10") :].splitlines()]
    assert ["model", "arm", "≤", "10", "(7)", ">", "50", "(1,200)"] in lines
    assert ["ease", "interactions", "0.7500", "0.2500"] in lines
    assert ["relational-ease", "all", "0.5000"] in lines
    assert "0.8750" not in text
    assert "by history length" not in shown(some.filter(pl.col("label") == "≤ 10"))
