"""Beyond accuracy in studies: paired differences of lists by hand, an attribute end to end, older stored cells."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from rich.console import Console

from relrank.cli.live import print_result
from relrank.errors import InputError
from relrank.evaluation.evaluate import LIST_METRICS, Evaluation
from relrank.io.manifest import write_manifest
from relrank.report.page import render
from relrank.study.arms import INTERACTIONS, all_of
from relrank.study.callbacks import NullCallback
from relrank.study.config import read_study
from relrank.study.metric_effects import list_effects
from relrank.study.model_effects import ModelEffects
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.study.result_tables import effects_and_verdicts, leaderboard
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.rivals import effects_vs_rival
from relrank.study.run import run_study
from relrank.study.subgroup_effects import group_metrics

RELATIONS = ["a", "b"]
ALL = all_of(RELATIONS)
COST = {"tune": 0.0, "fit": 0.0, "evaluate": 0.0, "peak_mb": 1.0}


def cell(model, seed, ndcg, **of_lists):
    """Three users; what is measured of lists is given by column, with None for no value."""
    summary = {"ndcg@5": sum(ndcg) / 3, "n_users": 3, **dict.fromkeys(of_lists, 0.25 * (seed + 1))}
    columns = {"user": [1, 2, 3], "ndcg@5": ndcg, "history length": [3, 20, 70], "item popularity": [1.0, 2.0, 3.0]}
    table = pl.DataFrame(columns | of_lists, schema_overrides=dict.fromkeys(of_lists, pl.Float64))
    evaluation = SimpleNamespace(table=table, summary=summary)
    return SimpleNamespace(
        model=model,
        seed=seed,
        evaluation=evaluation,
        learned_values={},
        valid_metric=0.1,
        cost=COST,
        seconds=0.0,
        held=None,
        history=None,
    )


def found_of(*cells):
    found = ResultsByArm(cells, "ndcg@5")
    return found, effects_and_verdicts([ModelEffects(found, "m", RELATIONS, 0.01)], RELATIONS, None)[0]


def test_differences_of_lists_by_hand():
    named = {"novelty@5": [4.0, 5.0, 6.0], "miscalibration@5": [1.0, None, 0.5]}
    other = {"novelty@5": [3.0, 5.0, 5.0], "miscalibration@5": [0.5, 0.25, None]}
    table = list_effects(*found_of((ALL, cell("m", 0, [0.1, 0.2, 0.3], **named)),
                                   (INTERACTIONS, cell("m", 0, [0.1, 0.1, 0.1], **other))))  # fmt: skip
    assert table.select("model", "relation", "kind", "other").unique().rows() == [("m", None, "gain", None)]
    rows = {row["measure"]: row for row in table.to_dicts()}
    assert rows.keys() == {"novelty@5", "miscalibration@5"}
    assert rows["novelty@5"]["mean"] == pytest.approx(2 / 3)
    assert rows["novelty@5"]["n_users"] == 3
    assert rows["novelty@5"]["low"] <= 2 / 3 <= rows["novelty@5"]["high"]
    assert rows["miscalibration@5"]["mean"] == 0.5, "only user 1 has a value on both sides"
    assert rows["miscalibration@5"]["n_users"] == 1


def test_versus_takes_the_lists_of_the_rival():
    """With the same relations m's novelty is 4, 5, 6 and the rival's 1, 1, 4; without, they differ, too."""
    seen = {("m", ALL): [4.0, 5.0, 6.0], ("m", INTERACTIONS): [3.0, 5.0, 5.0],
            ("rival", ALL): [1.0, 1.0, 4.0], ("rival", INTERACTIONS): [0.0, 0.5, 0.0]}  # fmt: skip
    cells = [(arm, cell(model, 0, [0.1, 0.2, 0.3], **{"novelty@5": v})) for (model, arm), v in seen.items()]
    found = ResultsByArm(cells, "ndcg@5")
    judges = [ModelEffects(found, model, RELATIONS, 0.01) for model in ("m", "rival")]
    against = effects_vs_rival(found, ["m"], "rival", RELATIONS)
    effects, _ = effects_and_verdicts(judges, RELATIONS, None, against)
    rows = {(row["model"], row["kind"], row["other"]): row for row in list_effects(found, effects).to_dicts()}
    assert rows.keys() == {("m", "gain", None), ("rival", "gain", None), ("m", "versus", "rival")}
    assert rows["m", "gain", None]["mean"] == pytest.approx(2 / 3)
    assert rows["rival", "gain", None]["mean"] == pytest.approx(5.5 / 3)
    difference = rows["m", "versus", "rival"]
    assert difference["mean"] == pytest.approx((3 + 4 + 2) / 3)
    assert difference["low"] <= 3 <= difference["high"]
    assert difference["n_users"] == 3


def test_a_seed_in_which_no_user_has_a_value_is_left_out():
    def pair(seed, values, others):
        a, b = (cell("m", seed, [0.1, 0.2, 0.3], **{"miscalibration@5": v}) for v in (values, others))
        return (ALL, a), (INTERACTIONS, b)

    nothing = [None, None, None]
    table = list_effects(*found_of(*pair(0, [1.0, 1.0, 1.0], [0.5, 0.25, 0.75]), *pair(1, nothing, [1.0, 1.0, 1.0])))
    assert table["mean"].to_list() == [0.5]
    assert table["n_seeds"].to_list() == [1]
    assert list_effects(*found_of(*pair(0, nothing, nothing))).is_empty()


def test_cells_without_a_measure_give_no_difference_and_no_mean():
    new, old = {"novelty@5": [4.0, 5.0, 6.0]}, {}
    found, effects = found_of(
        *((arm, cell("m", seed, [0.1, 0.2, 0.3], **of)) for arm, seed, of in
          [(ALL, 0, new), (ALL, 1, new), (INTERACTIONS, 0, new), (INTERACTIONS, 1, old)])
    )  # fmt: skip
    assert list_effects(found, effects).is_empty()
    board = leaderboard(found)
    assert dict(board.select("arm", "novelty@5").iter_rows()) == {"all": 0.375, "interactions": None}
    rows = group_metrics(found, []).filter(pl.col("label") == "all users")
    assert dict(rows.select("arm", "novelty@5").iter_rows()) == {"all": 5.0, "interactions": None}
    assert rows["ndcg@5"].to_list() == pytest.approx([0.2, 0.2])


class Counting(NullCallback):
    fresh = 0

    def done(self, cell, result, fresh):
        self.fresh += fresh


def run(config, folder, out):
    callback = Counting()
    return run_study(config, prepare(config, folder), out, callback), callback.fresh


def test_an_attribute_end_to_end_and_cells_stored_before(study_file, tmp_path):
    text = study_file.read_text().replace("seeds = [0, 1]", 'seeds = [0]\nattribute = "driver"')
    study_file.write_text(text.replace("trials = 8", "trials = 2"))
    config, out = read_study(study_file), tmp_path / "out"
    result, fresh = run(config, tmp_path, out)
    assert fresh > 0
    assert result.card["attribute"] == "driver"

    # planted: "driver" decides who chooses what, so a model told of it comes closer to a user's own mix, and its
    # lists are more alike; popular items are neither
    board = {(row["model"], row["arm"]): row for row in result.leaderboard.to_dicts()}
    told, bare, popular = (board[key] for key in [("relational-ease", "all"), ("relational-ease", "interactions"),
                                                  ("popularity", "interactions")])  # fmt: skip
    assert told["miscalibration@10"] < bare["miscalibration@10"] < popular["miscalibration@10"]
    assert told["intra-list similarity@10"] > popular["intra-list similarity@10"]
    assert popular["popularity lift@10"] > told["popularity lift@10"]
    gains = result.list_effects.filter(pl.col("kind") == "gain")
    for row in gains.to_dicts():
        assert row["mean"] == pytest.approx(told[row["measure"]] - bare[row["measure"]])
    assert gains["measure"].to_list() == [f"{name}@10" for name in LIST_METRICS]
    calibrated = gains.row(by_predicate=pl.col("measure") == "miscalibration@10", named=True)
    assert calibrated["high"] < 0
    kinds = result.list_effects.group_by("kind").len().sort("kind").rows()
    assert kinds == [("alone", 8), ("drop", 8), ("gain", 4)]
    metrics = result.group_metrics.filter(pl.col("group") == "all users", pl.col("arm") == "all")
    assert metrics["miscalibration@10"].to_list() == pytest.approx([told["miscalibration@10"]])
    assert json.loads((out / "results.json").read_text())["list_effects"] == result.list_effects.to_dicts()

    # the same cells as a version without these measures left them
    for file in (out / "cells").glob("*/users.parquet"):
        stored = Evaluation.load(file)
        later = [name for name in stored.table.columns if name.partition("@")[0] in LIST_METRICS]
        kept = {k: v for k, v in stored.summary.items() if k not in later or k.startswith(("nov", "intra"))}
        Evaluation(stored.table.drop(later), kept).save(file)
        write_manifest(file.parent)
    again, fresh = run(config, tmp_path, out)
    assert fresh == 0, "what was stored is kept"
    assert again.verdicts.equals(result.verdicts)
    assert again.leaderboard["novelty@10"].to_list() == result.leaderboard["novelty@10"].to_list()
    assert "miscalibration@10" not in again.leaderboard.columns
    assert again.list_effects.is_empty()
    assert "Beyond accuracy" in render(StudyResult.load(out))

    # one cell measured anew beside the others
    folder = next((out / "cells").glob("*/cell.json")).parent
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    mixed, fresh = run(config, tmp_path, out)
    assert fresh == 1
    assert mixed.leaderboard["miscalibration@10"].null_count() == len(mixed.leaderboard) - 1
    assert "–" in render(StudyResult.load(out))


def test_the_console_says_what_lists_are_like(study_file, tmp_path):
    study_file.write_text(study_file.read_text().replace("seeds = [0, 1]", "seeds = [0]").replace("= 8", "= 2"))
    config = read_study(study_file)
    result, _ = run(config, tmp_path, tmp_path / "out")

    def shown(board):
        console = Console(width=100, file=io.StringIO())
        print_result(console, replace(result, leaderboard=board), "the answer")
        return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]

    lines = shown(result.leaderboard)
    assert "model arm cover Gini novelty lift" in lines, "similarity and calibration need an attribute"
    for row in result.leaderboard.filter(pl.col("arm").is_in(["all", "interactions"])).to_dicts():
        figures = (
            f"{row['coverage@10']:.3f} {row['gini@10']:.3f} {row['novelty@10']:.2f} {row['popularity lift@10']:+.2f}"
        )
        assert f"{row['model']} {row['arm']} {figures}" in lines
    holes = result.leaderboard.with_columns(pl.lit(None, pl.Float64).alias("popularity lift@10"))
    assert any(line.startswith("ease interactions") and line.endswith("–") for line in shown(holes))
    bare = result.leaderboard.drop(
        [n for n in result.leaderboard.columns if n.split("@")[0] in ("coverage", "gini", *LIST_METRICS)]
    )
    assert not any("beyond accuracy" in line for line in shown(bare))


@pytest.mark.parametrize(("name", "message"), [("owns", "unknown relation"), ("clicks", "not a relation of items")])
def test_the_attribute_is_a_relation_of_items(tmp_path, name, message):
    for file, step in (("bought.csv", 1), ("clicked.csv", 2)):
        rows = [(u, (u + step * k) % 13) for u in range(12) for k in range(5)]
        pl.DataFrame(rows, schema=["u", "i"], orient="row").write_csv(tmp_path / file)
    (tmp_path / "s.toml").write_text(
        'name = "s"\n[data]\nuser = "user"\nitem = "item"\n[data.interactions]\nfile = "bought.csv"\n'
        'user = "u"\nitem = "i"\n[data.links.clicked]\nfile = "clicked.csv"\nsource = "user"\nsource_column = "u"\n'
        'target = "item"\ntarget_column = "i"\n[protocol]\nsplit = "random-leave-one-out"\n'
        f'[relations.clicks]\nkind = "link"\ntable = "clicked"\n[study]\nseeds = [0]\nattribute = "{name}"\n'
    )
    with pytest.raises(InputError, match=message):
        prepare(read_study(tmp_path / "s.toml"), tmp_path)
