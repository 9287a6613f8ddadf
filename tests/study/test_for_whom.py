"""Differences between groups of users: planted ones are detected, differences by chance are not."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from relrank.study.subgroup_effects import subgroup_differences, welch


def judge(adds, seeds=1, **columns):
    """Relations whose effect on every user is given; other columns as in per-user tables."""
    n = len(next(iter(adds.values())))
    shared = {"user": np.arange(n), "history length": np.full(n, 20), "item popularity": np.full(n, 5), **columns}

    def tables(relation):
        without = pl.DataFrame(shared | {"m": np.zeros(n)})
        return [pl.DataFrame(shared | {"m": adds[relation]})] * seeds, [without.reverse()] * seeds

    return SimpleNamespace(
        judged_relations=list(adds), results=SimpleNamespace(metric="m", decimals=4), tables_of_added=tables
    )


def test_planted_differences_are_named_with_both_figures():
    rng = np.random.default_rng(0)
    lengths = np.repeat([5, 100], 300)
    noise = rng.normal(0, 0.05, 600)
    adds = {"tags": noise + np.where(lengths == 5, 0.033, -0.007), "text": noise[::-1] + 0.01}
    said = subgroup_differences(judge(adds, seeds=2, **{"history length": lengths}), ())
    assert set(said) == {"tags"}
    here, there = adds["tags"][:300].mean(), adds["tags"][300:].mean()
    either = (
        f"For users with ≤ 10 training rows it adds {here:+.4f}, for the others {there:+.4f}.",
        f"For users with > 50 training rows it adds {there:+.4f}, for the others {here:+.4f}.",
    )
    assert said["tags"] in either


def test_groups_of_the_study_are_asked_too():
    rng = np.random.default_rng(1)
    gender = np.array(["f", "m"] * 200)
    adds = {"tags": rng.normal(0, 0.02, 400) + np.where(gender == "f", 0.02, 0.0)}
    assert (
        "gender f" in subgroup_differences(judge(adds, gender=gender), ("gender",))["tags"]
        or "gender m" in subgroup_differences(judge(adds, gender=gender), ("gender",))["tags"]
    )
    assert subgroup_differences(judge(adds, gender=gender), ()) == {}


def test_few_users_and_one_group_say_nothing():
    adds = {"tags": np.r_[np.full(20, 5.0), np.zeros(400)] + np.random.default_rng(2).normal(0, 0.01, 420)}
    assert subgroup_differences(judge(adds, kind=np.r_[["a"] * 20, ["b"] * 400]), ("kind",)) == {}
    assert subgroup_differences(judge(adds), ()) == {}


@pytest.mark.slow
def test_chance_is_named_in_at_most_one_study_in_twenty():
    """Five relations, four groupings, differences of few users as in rankings: Holm holds over all of them."""
    rng = np.random.default_rng(3)
    named = 0
    for _ in range(200):
        adds = {r: np.where(rng.random(600) < 0.15, rng.normal(0, 0.3, 600), 0.0) for r in "abcde"}
        columns = {"gender": rng.choice(["f", "m"], 600), "age": rng.choice(["1", "2", "3"], 600),
                   "history length": rng.choice([5, 20, 100], 600), "item popularity": rng.random(600)}  # fmt: skip
        named += bool(subgroup_differences(judge(adds, **columns), ("gender", "age")))
    assert named <= 16


def test_welch_is_the_t_test_of_unequal_variances():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, 40), rng.normal(0.4, 3, 90)
    assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch(np.zeros(40), np.zeros(50)) == 1
