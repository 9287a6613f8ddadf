"""What to build first: paths over hand-made cells, and the arms that a study runs for them."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from relrank.study.arms import INTERACTIONS, all_of, rewired, with_relations
from relrank.study.plan import forward_selection, missing_placebo_arms, next_arms, plan_of
from relrank.study.results_by_arm import ResultsByArm

RELATIONS = ["tags", "text", "era", "lang", "size"]
WORTH_OF = {"tags": 0.02, "text": 0.05, "era": 0.0, "lang": 0.0, "size": 0.0}
USERS = 400


def cell(arm, worth, seed=0, base=0.2, chosen=None):
    """A cell whose validation and test are worth so much, with a little noise of users that arms share."""
    rng = np.random.default_rng(seed)
    values = base + worth + rng.normal(0, 0.01, USERS)
    table = pl.DataFrame(
        {"user": np.arange(USERS), "ndcg@10": values + 1e-4 * len(arm.relations) * rng.normal(size=USERS)}
    )
    cost = {"fit": 1.5, "peak_mb": 100.0}
    return arm, SimpleNamespace(
        model="m", seed=seed, valid_metric=base + worth, evaluation=SimpleNamespace(table=table), cost=cost,
        held=None, chosen=chosen or {}, history=None,
    )  # fmt: skip


def worth(relations, of=WORTH_OF):
    """Text has most of the information of tags."""
    return sum(of[r] for r in relations) - (0.012 if {"tags", "text"} <= set(relations) else 0)


def found(*sets, of=WORTH_OF):
    arms = [all_of(RELATIONS) if len(names) == len(RELATIONS) else with_relations(names) for names in sets]
    return ResultsByArm([cell(arm, worth(arm.relations, of), seed) for arm in arms for seed in (0, 1)], "ndcg@10")


SINGLE_PROCESS = [(), *((r,) for r in RELATIONS)]


def test_the_best_single_relation_comes_first_and_its_candidates_are_run_next():
    steps, stop_reason = forward_selection(found(*SINGLE_PROCESS), "m", RELATIONS)
    assert [name for _, name in steps[0]][:2] == ["text", "tags"]
    assert stop_reason == "further arms were not run"
    arms = next_arms(found(*SINGLE_PROCESS), "m", RELATIONS, ["text"])
    assert [arm.relations for arm in arms] == [
        ("tags", "text"), ("era", "text"), ("lang", "text"), ("size", "text"),
    ]  # fmt: skip
    assert arms[0].name == "interactions + tags + text"
    there = found(*SINGLE_PROCESS, ("tags", "text"))
    assert len(next_arms(there, "m", RELATIONS, ["text"])) == 3  # what was run is not run again
    assert next_arms(there, "m", RELATIONS, []) == []
    # four of five are the arms without one, which every study runs
    assert next_arms(there, "m", RELATIONS, ["text", "tags", "era"]) == []


def test_a_path_ends_where_validation_gains_nothing():
    pairs = [("text", r) for r in RELATIONS if r != "text"]
    three = [("text", "tags", r) for r in ("era", "lang", "size")]
    steps, stop_reason = forward_selection(found(*SINGLE_PROCESS, *pairs, *three), "m", RELATIONS)
    assert [tried[0][1] for tried in steps] == ["text", "tags"]
    assert stop_reason == "no further relation is better on validation"


def test_figures_of_a_plan():
    pairs = [("text", r) for r in RELATIONS if r != "text"]
    there = found(*SINGLE_PROCESS, *pairs, ("text", "tags", "era"), tuple(RELATIONS))
    plan = plan_of(there, "m", RELATIONS, margin=0.002)
    assert [step.relation for step in plan.steps] == ["text", "tags"]
    first, second = plan.steps
    assert first.adds.mean == pytest.approx(0.05, abs=1e-4)
    assert first.adds.mean == first.total.mean
    assert second.adds.mean == pytest.approx(0.008, abs=1e-4)
    assert second.total.mean == pytest.approx(0.058, abs=1e-4)
    assert first.share == pytest.approx(0.05 / 0.058, abs=1e-3)
    assert first.remaining_gain.mean == pytest.approx(0.008, abs=1e-4)
    assert all(step.confirmed for step in plan.steps)
    assert plan.sufficient_steps == 2  # after two, the rest is shown to be smaller than the margin
    assert plan.worth_building == 2
    assert plan_of(there, "m", RELATIONS, margin=0.02).worth_building == 1  # tags are below such a margin


def test_a_close_second_is_an_alternative():
    of = {**WORTH_OF, "tags": 0.049}
    steps = plan_of(found(*SINGLE_PROCESS, tuple(RELATIONS), of=of), "m", RELATIONS, margin=0.002).steps
    assert steps[0].relation == "text"
    assert steps[0].alternatives == ("tags",)
    assert plan_of(found(*SINGLE_PROCESS, tuple(RELATIONS)), "m", RELATIONS, 0.002).steps[0].alternatives == ()


def test_a_step_that_test_does_not_confirm_is_not_built():
    rng = np.random.default_rng(3)
    cells = [cell(INTERACTIONS, 0.0), cell(with_relations(["era"]), 0.0)]
    cells[1][1].valid_metric += 0.01  # validation's luck
    noisy = cells[1][1].evaluation.table.with_columns(pl.col("ndcg@10") + rng.normal(0, 0.05, USERS))
    cells[1][1].evaluation.table = noisy
    plan = plan_of(ResultsByArm(cells, "ndcg@10"), "m", ["era"], 0.002)
    assert [step.relation for step in plan.steps] == ["era"]
    assert not plan.steps[0].confirmed
    assert plan.worth_building == 0


def test_a_step_whose_shuffled_links_bring_as_much_is_not_built():
    cells = [cell(INTERACTIONS, 0.0), cell(with_relations(["era"]), 0.02)]
    assert plan_of(ResultsByArm(cells, "ndcg@10"), "m", ["era", "lang"], 0.002).worth_building == 1
    (arm,) = missing_placebo_arms(
        ResultsByArm(cells, "ndcg@10"), plan_of(ResultsByArm(cells, "ndcg@10"), "m", ["era", "lang"], 0.002)
    )
    assert (arm.name, arm.relations, arm.rewired) == ("interactions + era, era rewired", ("era",), "era")
    for worth_shuffled, built in ((0.02, 0), (0.0, 1)):
        there = ResultsByArm([*cells, cell(arm, worth_shuffled)], "ndcg@10")
        plan = plan_of(there, "m", ["era", "lang"], 0.002)
        assert plan.steps[0].over_placebo.mean == pytest.approx(0.02 - worth_shuffled, abs=1e-4)
        assert plan.worth_building == built
        refused = "not to be built, since shuffled links are not shown to bring less: era" in plan.stop_reason
        assert refused == (not built)
        assert missing_placebo_arms(there, plan) == []


def test_without_the_interactions_there_is_no_path():
    assert forward_selection(found(("tags",)), "m", RELATIONS) == ([], "the interactions alone were not run")


def weighed(arm, worth, *used, seed=0):
    """A tuned cell that gives these relations of its arm a weight, and the others none."""
    return cell(arm, worth, seed, chosen={"weight": 3.0, "weights": {r: 3.0 * (r in used) for r in arm.relations}})


def test_pitfall_a_wider_search_credited_to_the_relation_that_it_gave_no_weight():
    """The arms of all, and of all but one, are searched anew: a better penalty is no gain from an era of weight 0."""
    names = ["tags", "text", "era"]
    cells = [weighed(INTERACTIONS, 0.0)]
    cells += [weighed(with_relations([name]), WORTH_OF[name], name) for name in names]
    cells += [
        weighed(with_relations(["text", "tags"]), 0.06, "text", "tags"),
        weighed(with_relations(["text", "era"]), 0.05, "text"),
    ]
    cells += [weighed(all_of(names), 0.075, "text", "tags")]
    plan = plan_of(ResultsByArm(cells, "ndcg@10"), "m", names, 0.002)
    assert [step.relation for step in plan.steps] == ["text", "tags"]
    assert plan.stop_reason == "no further relation is better on validation"
    assert plan.steps[1].adds.mean == pytest.approx(0.025, abs=1e-4)
    assert (plan.steps[1].remaining_gain.mean, plan.steps[1].share) == (0, 1)
    assert plan.steps[1].arm == "interactions + tags + text"
    assert (plan.worth_building, plan.base) == (2, pytest.approx(0.2, abs=0.002))
    # with a weight for the era the same figures are its own gain
    cells[-1] = weighed(all_of(names), 0.075, *names)
    plan = plan_of(ResultsByArm(cells, "ndcg@10"), "m", names, 0.002)
    assert [step.relation for step in plan.steps] == [*names[1::-1], "era"]
    assert plan.steps[2].adds.mean == pytest.approx(0.015, abs=1e-4)


def test_settled_looks_at_each_split_by_itself_and_at_what_leads_to_a_relation():
    names, hops = ["tags", "era"], {"era": ("tags",)}
    arm, everything = with_relations(["tags"]), all_of(names)
    cells = [weighed(arm, 0.02, "tags", seed=s) for s in (0, 1)]
    cells += [weighed(everything, 0.03, "tags", seed=0), weighed(everything, 0.04, "era", seed=1)]
    cells += [weighed(rewired(names, "tags"), 0.09, "tags", seed=s) for s in (0, 1)]
    there = ResultsByArm(cells, "ndcg@10", hops)
    assert [c.valid_metric - 0.2 for c in there.best_validated_cells("m", arm)] == pytest.approx([0.03, 0.02])
    assert [c.valid_metric - 0.2 for c in there.best_validated_cells("m", everything)] == pytest.approx([0.03, 0.04])
    assert there.best_validated_cells("m", INTERACTIONS) is None
    # what is read through tags uses them
    assert there._in_use(cells[3][1], names) == {"tags", "era"}
