import json
import re
import shutil
from dataclasses import replace
from html import unescape
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from studies import open_study

from relrank.cli.live import print_result
from relrank.errors import InputError
from relrank.evaluation.evaluate import evaluate
from relrank.graph.relation import Relation
from relrank.models import MODELS
from relrank.models.core.base import override_config
from relrank.report import write_report
from relrank.report.verdict_summary import answer
from relrank.runs.fitted_run import load_run
from relrank.study.callbacks import NullCallback
from relrank.study.card import interval_caveat
from relrank.study.cell_store import load_cell
from relrank.study.config import ModelSection, read_study
from relrank.study.engines.engine import clear_unshared_cache
from relrank.study.grid import cell_with_prerequisites, grid
from relrank.study.prepare import prepare, smoke
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.study.run_cell import run_cell
from relrank.study.tune_cell import trial_cache_key
from relrank.study.winner import load_cell_model, save_winner
from relrank.testing import planted_study


class Counting(NullCallback):
    def __init__(self):
        self.fresh = []

    def done(self, cell, result, fresh):
        if fresh:
            self.fresh.append((cell.model.name, cell.arm.name, cell.split_context.seed))


def run(path: Path, out: Path, text: str | None = None):
    if text is not None:
        path.write_text(text)
    config, callback = read_study(path), Counting()
    return run_study(config, prepare(config, path.parent), out, callback), callback.fresh


def test_study_finds_the_planted_truth_and_resumes(study_file, tmp_path):
    out = tmp_path / "out"
    result, fresh = run(study_file, out)
    # interactions alone for two baselines; interactions, all, 2 drop, 2 alone, 2 rewired for relational EASE, where
    # with two relations "all without driver" is "interactions + noise"; and the driver alone with its links shuffled,
    # since the plan builds it
    assert len(fresh) == 2 * (2 + 6 + 1)
    assert fresh[-1] == ("relational-ease", "interactions + driver, driver rewired", 1)
    said = dict(result.verdicts.select("relation", "verdict").iter_rows())
    assert said["driver"] == "helps"
    assert said["noise"] in ("negligible", "undecided")
    assert result.verdicts["true_verdict"].to_list() == ["helps", "negligible"]

    # the effects are what the per-user tables say
    cells = {}
    for file in (out / "cells").glob("*/cell.json"):
        note = json.loads(file.read_text())
        cells[note["model"], note["arm"], note["seed"]] = pl.read_parquet(file.parent / "users.parquet")
    gain = result.effects.filter(pl.col("kind") == "gain").row(0, named=True)
    by_hand = sum(
        (
            cells["relational-ease", "all", s]["ndcg@10"] - cells["relational-ease", "interactions", s]["ndcg@10"]
        ).mean()
        for s in (0, 1)
    )
    assert gain["mean"] == pytest.approx(by_hand / 2)
    assert set(result.effects["kind"]) >= {"gain", "held", "drop", "alone", "placebo"}

    again, fresh = run(study_file, out)
    assert fresh == []
    for table in ("verdicts", "effects", "groups", "tuning"):
        assert getattr(again, table).equals(getattr(result, table)), table
    assert StudyResult.load(out).verdicts.equals(result.verdicts)

    # a changed setting runs what it changes; what the file sets is not tuned
    text = study_file.read_text().replace('name = "ease"', 'name = "ease"\nconfig = { l2 = 50 }')
    changed, fresh = run(study_file, out, text)
    assert {model for model, _, _ in fresh} == {"ease"}
    assert changed.tuning.filter(pl.col("model") == "ease").is_empty()


def test_pitfall_a_cell_is_keyed_by_its_whole_configuration(study_file, monkeypatch):
    config, material = open_study(study_file)
    keys = [cell.key() for cell in grid(config, material)]
    assert len(set(keys)) == len(keys)
    cell = cell_with_prerequisites(config, material, "relational-ease", "all")[-1]
    section = cell.model
    for change in ({"trials": 3}, {"config": {"l2": 7.0}}, {"name": "ease"}):
        other = replace(cell, model=section.model_copy(update=change))
        assert other.key() != cell.key()
    for change in ({"metric": "hit@10"}, {"ks": (10,)}, {"trials": 3}):
        other = replace(cell, study=cell.study.model_copy(update=change))
        assert other.key() != cell.key()
    # interval settings change no cell
    same = replace(cell, study=cell.study.model_copy(update={"margin": 0.2}))
    assert same.key() == cell.key()
    # what was measured by another definition of the metrics is not taken for today's
    today = cell.key()
    monkeypatch.setattr("relrank.study.cell.METRICS_VERSION", 0)
    assert replace(cell).key() != today


def test_pitfall_arms_get_the_same_budget(finished):
    _, result = finished
    used = result.tuning.group_by("model", "arm", "seed").len()
    assert used["len"].max() <= 8
    chosen = result.tuning.filter(pl.col("chosen"))
    cells = result.tuning.select("model", "arm", "seed").unique()  # without those that had nothing to search
    assert len(chosen) == len(cells)
    first = result.tuning.filter(pl.col("trial") == 0)
    both = chosen.join(first, on=["model", "arm", "seed"])
    assert (both["metric"] >= both["metric_right"]).all()


def test_arms_begin_where_others_ended(finished):
    """What differs between two arms is their relations, unless validation shows more than its error."""
    _, result = finished
    trials = result.tuning.filter(pl.col("model") == "relational-ease")

    def values(arm, seed, which):
        [text] = trials.filter((pl.col("arm") == arm) & (pl.col("seed") == seed) & which)["config"]
        return json.loads(text)

    for seed in (0, 1):
        interactions = values("interactions", seed, pl.col("chosen"))
        assert values("all", seed, pl.col("trial") == 0) == interactions | dict.fromkeys(
            ("weights.driver", "weights.noise"), 0.0
        )
        everything = values("all", seed, pl.col("chosen"))
        # shuffled links in that setting: the relation's own weight is all that moves
        shuffled = values("all, driver rewired", seed, pl.col("trial") == 0)
        assert shuffled == {"weights.driver": everything["weights.driver"]}
        assert values("all, driver rewired", seed, pl.col("chosen")) == {"weights.driver": 0.0}
        # what "all" leaves out is not searched when it is shuffled
        rows = trials.filter((pl.col("arm") == "all, noise rewired") & (pl.col("seed") == seed))
        assert rows.is_empty() == (everything["weights.noise"] == 0)
    valid = {(row["arm"], row["seed"]): row["metric"] for row in trials.filter("chosen").iter_rows(named=True)}
    for seed in (0, 1):
        contained = ("interactions", "all without driver", "all without noise")
        assert valid["all", seed] >= max(valid[arm, seed] for arm in contained)


DEFAULTS = """
name = "defaults"
[data]
dataset = "planted"
[protocol]
"""


@pytest.mark.parametrize(
    ("protocol", "study", "seeds"),
    [
        ('split = "random-leave-one-out"', "", (0, 1, 2, 3, 4)),
        ('split = "random-leave-one-out"', "[study]\ntrials = 2\n", (0, 1, 2, 3, 4)),
        ('split = "random-leave-one-out"', "[study]\nseeds = [3]\n", (3,)),
        ('name = "goodbooks-loo"', "", (0, 1, 2, 3, 4)),
        ('split = "cold-items"', "", (0, 1, 2, 3, 4)),
        ('split = "last-leave-one-out"', "", (0,)),
        ('split = "last-leave-one-out"', "[study]\nseeds = [0, 1]\n", (0, 1)),
        ('split = "temporal"\ncut = 9', "[study]\ntrials = 2\n", (0,)),
        ('name = "ml-100k-u1"', "", (0,)),
    ],
)
def test_seeds_are_five_where_the_protocol_draws_its_test_rows(tmp_path, protocol, study, seeds):
    (tmp_path / "defaults.toml").write_text(f"{DEFAULTS}{protocol}\n{study}")
    config = read_study(tmp_path / "defaults.toml")
    assert config.study.seeds == seeds
    assert smoke(config).study.seeds == seeds[:1]


@pytest.mark.parametrize(
    ("protocol", "models", "seeds"),
    [
        ('split = "last-leave-one-out"', 'name = "relational-lightgcn"', (0, 1, 2)),
        ('split = "temporal"\ncut = 9', 'name = "hgt"', (0, 1, 2)),
        ('split = "last-leave-one-out"', 'name = "relational-lightgcn"\narms = ["interactions"]', (0,)),
        ('split = "last-leave-one-out"', 'name = "mf"', (0,)),
        ('split = "last-leave-one-out"', 'name = "relational-ease"', (0,)),
        ('split = "random-leave-one-out"', 'name = "relational-lightgcn"', (0, 1, 2, 3, 4)),
    ],
)
def test_a_trained_model_that_judges_relations_starts_three_times(tmp_path, protocol, models, seeds):
    relation = '[relations.c]\nkind = "attribute"\nnode = "item"\ncolumn = "c"\n'
    (tmp_path / "s.toml").write_text(f"{DEFAULTS}{protocol}\n{relation}[[models]]\n{models}\n")
    assert read_study(tmp_path / "s.toml").study.seeds == seeds


@pytest.mark.parametrize("split", ["last-leave-one-out", "random-leave-one-out"])
def test_one_start_of_a_trained_model_is_said(tmp_path, split):
    relation = '[relations.c]\nkind = "attribute"\nnode = "item"\ncolumn = "c"\n'
    models = '[[models]]\nname = "relational-lightgcn"\n[study]\nseeds = [0]\n'
    (tmp_path / "s.toml").write_text(f'{DEFAULTS}split = "{split}"\n{relation}{models}')
    said = interval_caveat(read_study(tmp_path / "s.toml"))
    assert said.startswith("Confidence intervals cover users only, not restarts of training: ")


def test_an_empty_list_of_seeds_is_refused_and_a_wrong_protocol_is_said_by_itself(tmp_path):
    (tmp_path / "s.toml").write_text(f'{DEFAULTS}split = "cold-items"\n[study]\nseeds = []\n')
    with pytest.raises(InputError, match=r"study\.seeds"):
        read_study(tmp_path / "s.toml")
    (tmp_path / "s.toml").write_text(f'{DEFAULTS}split = "cold"\n')
    with pytest.raises(InputError, match=r"protocol\.split") as error:
        read_study(tmp_path / "s.toml")
    assert "more after this one" not in str(error.value)


@pytest.mark.parametrize(
    ("split", "seeds", "said"),
    [
        ("random-leave-one-out", [0, 1], None),
        ("random-leave-one-out", [0], "Confidence intervals cover users only: variation between splits"),
        (
            "last-leave-one-out",
            [0],
            'Confidence intervals cover users only: with split = "last-leave-one-out" all seeds',
        ),
        (
            "last-leave-one-out",
            [0, 1],
            "Confidence intervals cover users and restarts of training, not splits: with split = ",
        ),
    ],
)
def test_what_an_interval_holds_is_said_on_terminal_and_page(tmp_path, split, seeds, said):
    chosen = [np.random.default_rng(u).choice(20, 6, replace=False) for u in range(30)]
    rows = [(u, int(i), t) for u, items in enumerate(chosen) for t, i in enumerate(items)]
    pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").write_csv(tmp_path / "seen.csv")
    pl.DataFrame({"i": range(20), "c": [f"c{i % 4}" for i in range(20)]}).write_csv(tmp_path / "items.csv")
    (tmp_path / "few.toml").write_text(
        f'name = "few"\n[data]\n{SALES}[data.nodes.item]\nfile = "items.csv"\nkey = "i"\n'
        f'[protocol]\nname = "mine"\nsplit = "{split}"\n[relations.c]\nkind = "attribute"\nnode = "item"\n'
        f'column = "c"\n[study]\ntrials = 2\nmargin = 0.0001\nseeds = {seeds}\n'
        '[[models]]\nname = "relational-ease"\nconfig = { l2 = 5.0, weight = 1.0 }\n'
    )
    result, _ = run(tmp_path / "few.toml", tmp_path / "out")
    console = Console(width=200, file=StringIO())
    print_result(console, result, answer(result))
    printed, page = console.file.getvalue(), unescape(write_report(result, tmp_path / "page.html").read_text())
    assert (result.card["interval_caveat"] or "").startswith(said or "")
    for shown in (printed, page):
        assert ("intervals cover" in shown) == (said is not None)
        assert said is None or said in shown
    assert ("intervals over users and splits" in " ".join(printed.split())) == (said is None)
    assert ("splits." in " ".join(result.verdicts["sentence"])) == (said is None)


def test_smoke_run_is_small_and_elsewhere(study_file, tmp_path):
    config = smoke(read_study(study_file))
    assert config.study.seeds == (0,)
    material = prepare(config, study_file.parent, is_smoke=True)
    assert material.split_contexts[0].split.shape[0] == 250
    result = run_study(config, material, tmp_path / "out-smoke")
    assert result.card["smoke"]
    full = prepare(read_study(study_file), study_file.parent)
    assert full.split_contexts[0].split.fingerprint != material.split_contexts[0].split.fingerprint


def test_winner_is_the_best_on_validation_and_recommends_by_title(finished, tmp_path):
    path, result = finished
    config, material = open_study(path)
    out = tmp_path / "out"
    shutil.copytree(path.parent / "out", out)
    winner = save_winner(config, material, out)
    assert winner.note["model"] == "relational-ease"
    assert "rewired" not in winner.note["arm"]
    loaded = load_run(out)  # a study's folder stands for its winner
    first = loaded.recommend(0, k=5)
    assert first["title"].str.starts_with("item ").all()
    assert set(first["item"]).isdisjoint(loaded.history(0)["item"])
    assert first.equals(save_winner(config, material, out).recommend(0, k=5))
    row = result.leaderboard.filter((pl.col("model") == winner.note["model"]) & (pl.col("arm") == winner.note["arm"]))
    seeds = [evaluate(loaded.model, loaded.split).summary["ndcg@10"]]
    assert row["low"][0] <= seeds[0] <= row["high"][0]
    history = loaded.history(0)["item"].to_list()
    assert set(loaded.recommend_for(history, k=5)["item"]).isdisjoint(history)
    with pytest.raises(InputError, match=re.escape("'nobody'")):
        loaded.recommend("nobody")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "ease"', 'name = "eases"', "unknown model"),
        ('name = "ease"', 'name = "ease"\nconfig = {l3 = 1}', "unknown hyper-parameter"),
        ('name = "ease"', 'name = "ease"\nconfig = {l2 = "big"}', "has the wrong type"),
        ('name = "ease"', 'name = "popularity"', "a model is listed twice"),
        ("trials = 8", "trials = 0", "study.trials"),
        ("trials = 8", 'metric = "ndcg@7"', "unknown metric"),
        ("trials = 8", "trails = 8", "unknown key"),
        ('column = "noise"', 'column = "niose"', "niose"),
        ("trials = 8", 'user_groups = ["age"]', "no such column to group by"),
        ('split = "random-leave-one-out"', 'split = "monthly"', "protocol"),
    ],
)
def test_slips_in_a_study_file_are_named(study_file, tmp_path, old, new, message):
    with pytest.raises(InputError, match=re.escape(message)):
        run(study_file, tmp_path / "out", study_file.read_text().replace(old, new, 1))


def test_a_noisy_copy_is_called_interchangeable_with_what_it_copies(tmp_path):
    """Only then the explaining arms run: with the other relation, and alone with its links shuffled."""
    path = tmp_path / "echo.toml"
    relations = "".join(
        f'[relations.{name}]\nkind = "attribute"\nnode = "item"\ncolumn = "{name}"\n' for name in ("driver", "echo")
    )
    path.write_text(
        'name = "echo"\n[data]\ndataset = "planted"\n'
        "planted = { users = 1200, items = 700, groups = 70, seed = 0 }\n"
        '[protocol]\nsplit = "random-leave-one-out"\n'
        f'{relations}[study]\nseeds = [0]\n[[models]]\nname = "ease"\n[[models]]\nname = "relational-ease"\n'
    )
    result, fresh = run(path, tmp_path / "out")
    said = {row["relation"]: row for row in result.verdicts.iter_rows(named=True)}
    assert said["driver"]["verdict"] == "helps"
    assert said["echo"]["verdict"] == "interchangeable"
    assert said["echo"]["interchangeable_with"] == "driver"
    assert ("relational-ease", "interactions + echo, echo rewired", 0) in fresh
    beside = result.effects.filter((pl.col("kind") == "beside") & (pl.col("relation") == "echo")).row(0, named=True)
    assert beside["other"] == "driver"
    # with two relations "all" is "interactions + driver + echo": no arm is run twice
    assert beside["arm_a"] == "all"


def test_pitfall_a_setting_equal_to_the_default_is_still_held(study_file):
    """An explicit l2 = 200 differs from the default 200: explicit values are not tuned."""
    config, material = open_study(study_file)
    cell = cell_with_prerequisites(config, material, "ease", "interactions")[-1]
    said = type(cell)(
        cell.model.model_copy(update={"config": {"l2": 200.0}}), cell.arm, cell.split_context, cell.study
    )
    assert said.initial_config() == cell.initial_config()
    assert said.key() != cell.key()


def test_audit_names_a_relation_that_holds_the_test_rows(tmp_path):
    """Clicks that contain the test purchases are a leak, wherever they come from."""
    rows = [(u, (u + k) % 12) for u in range(40) for k in range(6)]
    pl.DataFrame(rows, schema=["u", "i"], orient="row").write_csv(tmp_path / "bought.csv")
    pl.DataFrame(rows, schema=["u", "i"], orient="row").write_csv(tmp_path / "clicked.csv")
    (tmp_path / "leak.toml").write_text(
        'name = "leak"\n[data]\nuser = "user"\nitem = "item"\n[data.interactions]\nfile = "bought.csv"\n'
        'user = "u"\nitem = "i"\n[data.links.clicked]\nfile = "clicked.csv"\nsource = "user"\nsource_column = "u"\n'
        'target = "item"\ntarget_column = "i"\n[protocol]\nsplit = "random-leave-one-out"\n'
        '[relations.clicks]\nkind = "link"\ntable = "clicked"\n[study]\nseeds = [0]\n'
    )
    config = read_study(tmp_path / "leak.toml")
    found = prepare(config, tmp_path).findings
    leaks = [f for f in found if f.level == "leak"]
    assert {f.check for f in leaks} >= {"test rows in clicks", "validation rows in clicks"}
    assert all(f.count == 40 for f in leaks)
    # and it repeats the four training rows of each user, which is worth a warning by itself
    (again,) = (f for f in found if f.check == "training rows in clicks")
    assert (again.level, again.count) == ("warning", 160)


def test_arms_share_a_trial_only_where_the_same_edges_are_in_effect(study_file):
    """The memory of trials goes by edges: a shuffled relation is another one, unless its weight is 0."""
    config, material = open_study(study_file)
    cells = {
        c.arm.name: c
        for c in grid(config, material)
        if c.model.name == "relational-ease" and not c.split_context.seed
    }

    def key(arm, **weights):
        cell = cells[arm]
        graph = cell.arm.graph(cell.split_context.graph, cell.split_context.seed)
        start = cell.initial_config()[0]
        return trial_cache_key(
            cell, graph, override_config(start, {f"weights.{r}": w for r, w in weights.items()}, "test")
        )

    assert key("all", driver=10.0, noise=0.0) == key("all without noise", driver=10.0)
    assert key("all", driver=0.0, noise=0.0) == key("interactions")
    assert key("all", driver=10.0, noise=0.0) != key("all", driver=30.0, noise=0.0)
    assert key("all", driver=10.0, noise=0.0) != key("all, driver rewired", driver=10.0, noise=0.0)
    assert key("all", driver=10.0, noise=0.0) == key("all, noise rewired", driver=10.0, noise=0.0)
    assert key("all", driver=10.0) != key("all", driver=10.0, noise=0.0)  # unnamed: the common weight, not 0
    other_seed = next(c for c in grid(config, material) if c.arm.name == "all" and c.split_context.seed == 1)
    graph, start = other_seed.arm.graph(other_seed.split_context.graph, 1), other_seed.initial_config()[0]
    changed = override_config(start, {"weights.driver": 10.0, "weights.noise": 0.0}, "test")
    assert trial_cache_key(other_seed, graph, changed) != key("all", driver=10.0, noise=0.0)


def test_trials_of_chains_go_by_the_relations_that_they_are_composed_of(study_file):
    """Shuffling a hop changes the relation that is read through it, even if the hop has weight 0."""
    config, material = open_study(study_file)
    cell = next(c for c in grid(config, material) if c.model.name == "relational-ease" and c.arm.name == "all")
    graph, start = cell.graph, cell.initial_config()[0]
    first = graph.relation("driver")
    n = len(graph.nodes[first.target])
    country = Relation.of("country", first.target, "noise", np.arange(n), np.arange(n) % 3)
    nodes = dict(graph.nodes)
    deep = replace(graph, nodes=nodes, relations={**graph.relations, "country": country})
    config = override_config(start, {"weights.driver": 0.0, "weights.noise": 0.0, "weights.country": 3.0}, "test")
    assert trial_cache_key(cell, deep, config) != trial_cache_key(cell, deep.rewired("driver", 0), config)


def test_a_model_without_relations_is_not_fitted_on_an_arm_with_some(study_file):
    """The label of a run must not claim relations that the model never saw."""
    config, material = open_study(study_file)
    assert cell_with_prerequisites(config, material, "ease")[-1].arm.name == "interactions"
    assert cell_with_prerequisites(config, material, "relational-ease")[-1].arm.name == "all"
    with pytest.raises(InputError, match="model uses no relations"):
        cell_with_prerequisites(config, material, "item-knn", "driver")


def test_one_model_under_two_names_against_a_rival_without_relations(study_file, tmp_path):
    """Each name has its own settings, cells and rows, and is compared with the rival, paired by user."""
    text = study_file.read_text().replace("seeds = [0, 1]", 'seeds = [0]\nversus = "ease, firm"')
    head = text[: text.index("[[models]]")]
    models = """
[[models]]
name = "ease, firm"
model = "ease"
config = { l2 = 300.0 }
[[models]]
name = "ease, loose"
model = "ease"
config = { l2 = 1.0 }
[[models]]
name = "relational-ease"
arms = ["interactions", "all"]
"""
    result, fresh = run(study_file, tmp_path / "out", head + models)
    assert {name for name, _, _ in fresh} == {"ease, firm", "ease, loose", "relational-ease"}
    means = {(r["model"], r["arm"]): r["mean"] for r in result.leaderboard.iter_rows(named=True)}
    assert means["ease, firm", "interactions"] != means["ease, loose", "interactions"]
    rows = result.effects.filter(pl.col("kind") == "versus")
    assert rows["model"].to_list() == ["ease, loose", "relational-ease"]
    assert rows["arm_a"].to_list() == ["interactions", "all"]
    for row in rows.iter_rows(named=True):
        expected = means[row["model"], row["arm_a"]] - means["ease, firm", "interactions"]
        assert row["mean"] == pytest.approx(expected)
    config = read_study(study_file)
    winner = save_winner(config, prepare(config, study_file.parent), tmp_path / "out")
    assert winner.note["model"] in ("ease", "relational-ease")
    assert load_run(tmp_path / "out").note["name"] == winner.note["name"]
    _, again = run(study_file, tmp_path / "out")
    assert again == []


@pytest.mark.parametrize(("repeats", "level", "own"), [(1, "warning", 8), (4, "ok", 2)])
def test_audit_counts_the_steps_that_are_an_edge_by_themselves(tmp_path, repeats, level, own):
    """Two histories with three steps of training each, of one user or of four, and one with two steps of its own."""
    people = [(u, [10 * (u // repeats) + k for k in range(6)]) for u in range(2 * repeats)]
    rows = [(u, i, t) for u, items in people for t, i in enumerate(items)]
    rows += [(99, i, t) for t, i in enumerate([50, 51, 52, 53, 54])]
    pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").write_csv(tmp_path / "seen.csv")
    (tmp_path / "near.toml").write_text(
        'name = "near"\n[data]\nuser = "user"\nitem = "item"\n[data.interactions]\nfile = "seen.csv"\nuser = "u"\n'
        'item = "i"\ntime = "t"\n[protocol]\nname = "mine"\nsplit = "last-leave-one-out"\n'
        '[relations.near]\nkind = "cooccurrence"\nwindow = 1\nneighbours = 9\nmin_count = 1\n'
    )
    found = {f.check: f for f in prepare(read_study(tmp_path / "near.toml"), tmp_path).findings}["own steps in near"]
    assert (found.level, found.count) == (level, own)


SALES = """user = "user"
item = "item"
[data.interactions]
file = "seen.csv"
user = "u"
item = "i"
time = "t"
"""


@pytest.mark.parametrize(
    ("data", "split", "expected"),
    [
        (SALES, '"temporal"\ncut = 15', "some to tune on: set valid_cut, or an earlier one"),
        (SALES, '"temporal"\ncut = 15\nvalid_cut = 12', "some to tune on: set valid_cut, or an earlier one"),
        ('dataset = "lightgcn"\n', '"given"', "some to tune on: users with more rows"),  # a tenth of four is 0
    ],
    ids=["no valid_cut", "nothing after it", "given"],
)
def test_without_validation_rows_valid_cut_is_advised_only_where_it_is_an_option(tmp_path, data, split, expected):
    rows = [(u, (u + t) % 5, 10 * t) for u in range(6) for t in range(4)]
    pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").write_csv(tmp_path / "seen.csv")
    (tmp_path / "train.txt").write_text("0 0 1 2 3\n1 1 2 3 4\n")
    (tmp_path / "test.txt").write_text("0 4\n1 0\n")
    (tmp_path / "short.toml").write_text(
        f'name = "short"\n[data]\n{data}[protocol]\nname = "mine"\nsplit = {split}\n'
    )
    with pytest.raises(InputError, match=rf"(?s)no validation rows.*expected: *{expected}\n *found: *\d+ users, "):
        prepare(read_study(tmp_path / "short.toml"), tmp_path)


def test_a_trained_winner_is_the_model_that_was_measured(study_file, tmp_path, monkeypatch):
    """Its weights stay in its cell until the study has a winner, so nothing is fitted a second time; then they go."""
    head = study_file.read_text().split("[[models]]")[0]
    text = head + (
        '[[models]]\nname = "random"\n[[models]]\nname = "mf"\nconfig = { dim = 8 }\n'
        "train = { epochs = 4, batch = 1024, lr = 0.05, every = 2 }\n"
    )
    out = tmp_path / "out"
    run(study_file, out, text)
    config, material = open_study(study_file)
    (cell,) = (
        c for c in grid(config, material) if c.model.name == "mf" and c.split_context.seed == config.study.seeds[0]
    )
    measured = load_cell(out / "cells" / cell.key())
    again = run_cell(cell, tmp_path / "again" / cell.key(), lambda _: None, {})
    assert len(list((out / "cells").glob("*/model.safetensors"))) == 1  # of the first seed, whose model is kept
    monkeypatch.setattr("relrank.study.winner.fit_cell", None)
    winner = save_winner(config, material, out)
    assert winner.note["model"] == "mf"
    assert (
        evaluate(winner.model, winner.split, config.study.ks)
        .table["ndcg@10"]
        .equals(measured.evaluation.table["ndcg@10"])
    )
    assert again.evaluation.table.equals(measured.evaluation.table)
    assert not list((out / "cells").glob("*/model.safetensors"))
    assert save_winner(config, material, out).recommend(0).equals(winner.recommend(0))


def test_weights_of_a_refitted_cell_are_those_after_the_refit(study_file, tmp_path):
    """With the validation rows in training the model's graph has them, too."""
    config, material = open_study(study_file)
    section = ModelSection(name="mf", config={"dim": 8}, train={"epochs": 2, "batch": 1024, "every": 1})
    whole = cell_with_prerequisites(config.model_copy(update={"models": (section,)}), material, "mf")[-1]
    cell = replace(whole, split_context=replace(whole.split_context, refit=True))
    folder = tmp_path / cell.key()
    found = run_cell(cell, folder, lambda _: None, {})
    model, graph = load_cell_model(cell, folder, override_config(MODELS["mf"].Config(), found.chosen, "mf"))
    assert len(graph.interactions) == len(whole.graph.interactions) + len(whole.split_context.split.valid)
    assert (
        evaluate(model, cell.split_context.final, config.study.ks)
        .table["rank"]
        .equals(found.evaluation.table["rank"])
    )
    (folder / "model.safetensors").unlink()
    assert load_cell_model(cell, folder, MODELS["mf"].Config()) is None


def test_a_winner_of_another_format_is_made_again(study_file, tmp_path):
    """A folder from an older version is reported as such; the study replaces it."""
    text = study_file.read_text().split("[[models]]")[0] + '[[models]]\nname = "popularity"\n'
    out = tmp_path / "out"
    run(study_file, out, text)
    config, material = open_study(study_file)
    save_winner(config, material, out)
    note = out / "winner" / "run.json"
    note.write_text(note.read_text().replace("relrank-run-4", "relrank-run-1"))
    with pytest.raises(InputError, match=r"another version[\s\S]*fit it again[\s\S]*relrank-run-1 of popularity"):
        load_run(out)
    assert save_winner(config, material, out).note["model"] == "popularity"
    assert load_run(out).note["format"] == "relrank-run-4"


def test_an_engine_makes_room_where_split_or_kind_of_model_change(study_file, monkeypatch):
    config = read_study(study_file)
    cells = grid(config, prepare(config, study_file.parent))
    released = []
    monkeypatch.setattr("relrank.study.engines.engine.clear_cache", released.append)
    first, same, other_model = (
        next(c for c in cells if c.model.name == n) for n in ("ease", "ease", "relational-ease")
    )
    other_split = next(c for c in cells if c.model.name == "ease" and c.split_context is not first.split_context)
    for cell, last in ((first, None), (same, first), (other_model, first), (other_split, first)):
        clear_unshared_cache(cell, last)
    assert released == [first, first]


def test_a_release_that_changes_no_result_leaves_the_keys_of_cells(study_file, monkeypatch):
    config = read_study(study_file)
    keys = [cell.key() for cell in grid(config, prepare(config, study_file.parent))]
    monkeypatch.setattr("relrank.__version__", "9.9")
    assert [cell.key() for cell in grid(config, prepare(config, study_file.parent))] == keys
    monkeypatch.setattr("relrank.study.cell.RESULTS_VERSION", "9.9")
    assert not {cell.key() for cell in grid(config, prepare(config, study_file.parent))} & set(keys)


def test_a_single_relation_that_the_search_leaves_out_is_not_called_negligible(tmp_path):
    """With one relation there is no arm at whose settings another weight is measured."""
    text = planted_study(
        "alone",
        300,
        120,
        groups=8,
        relations=("noise",),
        study="seeds = [0]\ntrials = 12",
        models='[[models]]\nname = "sparse-ease"\n',
    )
    config, material = open_study(tmp_path / "alone.toml", text)
    (row,) = run_study(config, material, tmp_path / "out").verdicts.iter_rows(named=True)
    assert row["unused"] == 1
    assert (row["alone"], row["drop"]) == (0, 0)
    assert row["verdict"] == "undecided"
    assert "what one would add was not measured" in row["sentence"]
