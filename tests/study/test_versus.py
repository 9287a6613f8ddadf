"""Whether one model uses relations better than another: two paired differences, by hand."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from relrank.comparison import holm
from relrank.study.arms import INTERACTIONS, all_of
from relrank.study.effects import Found, versus

RELATIONS = ["a", "b"]
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
    return Found(cells, "ndcg@10")


def values(seed=0):
    rng = np.random.default_rng(seed)
    both = ("all", "interactions")
    return {(model, arm): rng.random(USERS) for model in ("linear", "network", "other") for arm in both}


def test_both_differences_by_hand():
    v = values()
    rows = {(r["model"], r["kind"]): r for r in versus(found(v), ["linear", "network"], "linear", RELATIONS)}
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
    straight = versus(found(v), ["network"], "linear", RELATIONS)
    cells = found({key: v[key] for key in v if key[0] == "linear"}, order=mixed)
    both = found({key: v[key] for key in v if key[0] == "network"})
    both._cells |= cells._cells
    both._names |= cells._names
    assert [r["mean"] for r in versus(both, ["network"], "linear", RELATIONS)] == pytest.approx(
        [r["mean"] for r in straight]
    )


def test_a_model_that_is_weaker_but_gains_as_much_is_not_blamed():
    base, gain = np.linspace(0.2, 0.6, USERS), np.linspace(0.0, 0.1, USERS)
    v = {("linear", "interactions"): base, ("linear", "all"): base + gain}
    v |= {("network", "interactions"): base - 0.1, ("network", "all"): base - 0.1 + gain}
    rows = {r["kind"]: r for r in versus(found(v), ["network"], "linear", RELATIONS)}
    assert rows["versus"]["high"] < 0
    assert rows["versus gain"]["mean"] == pytest.approx(0, abs=1e-12)


def test_holm_runs_over_the_models():
    rows = versus(found(values()), ["linear", "network", "other"], "linear", RELATIONS)
    plain = [r for r in rows if r["kind"] == "versus"]
    assert [r["p_holm"] for r in plain] == pytest.approx(holm([r["p"] for r in plain]).tolist())
    assert {r["model"] for r in plain} == {"network", "other"}


@pytest.mark.parametrize("there", ["all", "interactions"])
def test_a_rival_with_one_arm_alone_has_no_gain_to_compare(there):
    """Each side is taken with all relations where it was run so, else without any."""
    v = values()
    rival = v.pop(("linear", "interactions" if there == "all" else "all"))
    assert rival is not None
    (row,) = versus(found(v), ["network"], "linear", RELATIONS)
    assert row["kind"] == "versus"
    assert (row["arm_a"], row["arm_b"]) == ("all", there)
    assert row["mean"] == pytest.approx((v["network", "all"] - v["linear", there]).mean())
    v.pop(("network", "all"))
    (row,) = versus(found(v), ["network"], "linear", RELATIONS)
    assert (row["arm_a"], row["arm_b"]) == ("interactions", there)


def test_a_rival_that_was_not_run_gives_nothing():
    assert versus(found(values()), ["network"], "absent", RELATIONS) == []
