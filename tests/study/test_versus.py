"""Whether one model uses relations better than another: two paired differences, by hand."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from relrank.evaluation.comparison import holm
from relrank.study.arms import INTERACTIONS, all_of, rewired
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.rivals import against_strongest, effects_vs_rival
from relrank.study.run import run_study

RELATIONS = ["a", "b"]
ALL = all_of(RELATIONS)
USERS = 40


def table(values):
    return pl.DataFrame({"user": np.arange(len(values)), "ndcg@10": values})


def found(values, seeds=1, order=None):
    """Cells of (model, "all" | "interactions") → values per user."""
    cells = []
    for (model, arm), v in values.items():
        for seed in range(seeds):
            rows = table(v)
            if order is not None:
                rows = rows[order]
            evaluation = SimpleNamespace(table=rows)
            which = all_of(RELATIONS) if arm == "all" else INTERACTIONS
            cells.append((which, SimpleNamespace(model=model, seed=seed, evaluation=evaluation)))
    return ResultsByArm(cells, "ndcg@10")


def values(seed=0):
    rng = np.random.default_rng(seed)
    both = ("all", "interactions")
    return {(model, arm): rng.random(USERS) for model in ("linear", "network", "other") for arm in both}


def test_both_differences_by_hand():
    v = values()
    rows = effects_vs_rival(found(v), ["linear", "network"], "linear", RELATIONS)
    rows = {(r["model"], r["kind"]): r for r in rows}
    assert rows.keys() == {("network", "versus"), ("network", "versus gain")}
    plain = v["network", "all"] - v["linear", "all"]
    gain = (v["network", "all"] - v["network", "interactions"]) - (v["linear", "all"] - v["linear", "interactions"])
    for kind, d in (("versus", plain), ("versus gain", gain)):
        row = rows["network", kind]
        assert row["mean"] == pytest.approx(d.mean())
        assert row["other"] == "linear"
        assert row["relation"] is None
        # paired: the width is that of the differences, about ±1.96 standard errors
        assert row["high"] - row["low"] == pytest.approx(3.92 * d.std() / np.sqrt(USERS), rel=0.25)


def test_users_are_paired_by_name_not_by_place():
    v = values()
    mixed = np.random.default_rng(5).permutation(USERS)
    straight = effects_vs_rival(found(v), ["network"], "linear", RELATIONS)
    cells = found({key: v[key] for key in v if key[0] == "linear"}, order=mixed)
    both = found({key: v[key] for key in v if key[0] == "network"})
    both._cells |= cells._cells
    both._names |= cells._names
    assert [r["mean"] for r in effects_vs_rival(both, ["network"], "linear", RELATIONS)] == pytest.approx(
        [r["mean"] for r in straight]
    )


def test_a_model_that_is_weaker_but_gains_as_much_is_not_blamed():
    base, gain = np.linspace(0.2, 0.6, USERS), np.linspace(0.0, 0.1, USERS)
    v = {("linear", "interactions"): base, ("linear", "all"): base + gain}
    v |= {("network", "interactions"): base - 0.1, ("network", "all"): base - 0.1 + gain}
    rows = {r["kind"]: r for r in effects_vs_rival(found(v), ["network"], "linear", RELATIONS)}
    assert rows["versus"]["high"] < 0
    assert rows["versus gain"]["mean"] == pytest.approx(0, abs=1e-12)


def test_holm_runs_over_the_models():
    rows = effects_vs_rival(found(values()), ["linear", "network", "other"], "linear", RELATIONS)
    plain = [r for r in rows if r["kind"] == "versus"]
    assert [r["p_holm"] for r in plain] == pytest.approx(holm([r["p"] for r in plain]).tolist())
    assert {r["model"] for r in plain} == {"network", "other"}


@pytest.mark.parametrize("there", ["all", "interactions"])
def test_a_rival_with_one_arm_alone_has_no_gain_to_compare(there):
    """Each side is taken with all relations where it was run so, else without any."""
    v = values()
    rival = v.pop(("linear", "interactions" if there == "all" else "all"))
    assert rival is not None
    (row,) = effects_vs_rival(found(v), ["network"], "linear", RELATIONS)
    assert row["kind"] == "versus"
    assert (row["arm_a"], row["arm_b"]) == ("all", there)
    assert row["mean"] == pytest.approx((v["network", "all"] - v["linear", there]).mean())
    v.pop(("network", "all"))
    (row,) = effects_vs_rival(found(v), ["network"], "linear", RELATIONS)
    assert (row["arm_a"], row["arm_b"]) == ("interactions", there)


def test_a_rival_that_was_not_run_gives_nothing():
    assert effects_vs_rival(found(values()), ["network"], "absent", RELATIONS) == []


def test_every_arm_against_the_strongest_model_without_relations():
    """Paired by user, by hand; its own arm is no row, nor are shuffled ones and other models."""
    v = values()
    cells = found(v)
    shuffled = SimpleNamespace(model="linear", seed=0, evaluation=SimpleNamespace(table=table(v["linear", "all"])))
    cells = ResultsByArm(
        [*((ALL if arm == "all" else INTERACTIONS, cells.cells(model, arm)[0]) for model, arm in v),
         (rewired(RELATIONS, "a"), shuffled)], "ndcg@10",
    )  # fmt: skip
    rows = against_strongest(cells, ["linear", "network"], "network")
    assert [(r["model"], r["arm_a"], r["arm_b"], r["kind"], r["other"], r["relation"]) for r in rows] == [
        ("linear", "all", "interactions", "strongest", "network", None),
        ("linear", "interactions", "interactions", "strongest", "network", None),
        ("network", "all", "interactions", "strongest", "network", None),
    ]
    base = v["network", "interactions"]
    means = [(v[r["model"], r["arm_a"]] - base).mean() for r in rows]
    assert [r["mean"] for r in rows] == pytest.approx(means)
    d = v["linear", "all"] - base
    assert rows[0]["high"] - rows[0]["low"] == pytest.approx(2 * 2.0227 * d.std(ddof=1) / np.sqrt(USERS), rel=0.1)
    assert against_strongest(cells, ["linear"], None) == []
    assert against_strongest(cells, ["linear"], "absent") == []


def test_a_study_compares_its_arms_with_the_strongest_model_without_relations(study_file, tmp_path):
    """EASE with far too little regularization is weaker than item-kNN here, on validation, too."""
    text = study_file.read_text().replace("seeds = [0, 1]", "seeds = [0]").replace("trials = 8", "trials = 2")
    text = text.replace('name = "ease"', 'name = "item-knn"')
    study_file.write_text(
        text.replace('name = "relational-ease"', 'name = "relational-ease"\nconfig = { l2 = 0.01 }')
    )
    config = read_study(study_file)
    result = run_study(config, prepare(config, tmp_path), tmp_path / "out")
    valid = {r["model"]: r["valid"] for r in result.leaderboard.iter_rows(named=True) if r["arm"] == "interactions"}
    assert max(valid, key=lambda name: valid[name]) == "item-knn"
    rows = result.effects.filter(pl.col("kind") == "strongest")
    means = {(r["model"], r["arm"]): r["mean"] for r in result.leaderboard.iter_rows(named=True)}
    arms = {arm for model, arm in means if model == "relational-ease" and "rewired" not in arm}
    assert set(rows["arm_a"]) == arms
    for row in rows.iter_rows(named=True):
        assert (row["model"], row["other"], row["relation"]) == ("relational-ease", "item-knn", None)
        expected = means["relational-ease", row["arm_a"]] - means["item-knn", "interactions"]
        assert row["mean"] == pytest.approx(expected)
