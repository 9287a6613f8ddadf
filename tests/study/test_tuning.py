import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relrank.evaluation.evaluate import Evaluation
from relrank.models.core.base import GridParameter
from relrank.study.arms import INTERACTIONS
from relrank.study.cell_store import CellResult
from relrank.study.config import read_study
from relrank.study.coordinate_search import STRIDE, Trial, coordinate_search, paired_error
from relrank.study.result_tables import tuning
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.tuned_config import write_tuned


def grid_values(n, start=0, name="x"):
    return GridParameter(name, tuple(float(v) for v in range(n)), float(start))


class Counted:
    """A function of the parameters that records its calls."""

    def __init__(self, function):
        self.function, self.asked = function, []

    def __call__(self, values):
        self.asked.append(tuple(values.values()))
        return self.function(**values)


def chosen(found):
    return found.trials[found.chosen].values


@pytest.mark.parametrize("peak", [(0, 0), (0, 9), (9, 0), (4, 7), (5, 2), (9, 9)])
@pytest.mark.parametrize("start", [(0, 0), (9, 9), (5, 3)])
def test_finds_the_peak_of_a_separable_unimodal_function(peak, start):
    measure = Counted(lambda x, y: -abs(x - peak[0]) - 2 * (y - peak[1]) ** 2)
    found = coordinate_search([grid_values(10, start[0], "x"), grid_values(10, start[1], "y")], 100, measure)
    assert chosen(found) == {"x": peak[0], "y": peak[1]}
    assert found.converged
    assert len(found.trials) < 40, "a climb is no grid of 100"


def test_follows_a_ridge_that_needs_more_than_one_round():
    """The best y moves with x, so each knob has to be moved several times."""
    measure = Counted(lambda x, y: -0.4 * (x - y) ** 2 + x + y)
    assert chosen(coordinate_search([grid_values(8, 0, "x"), grid_values(8, 0, "y")], 200, measure)) == {
        "x": 7,
        "y": 7,
    }


def test_never_spends_more_than_the_budget():
    """A smaller budget makes the first trials of the same search, and reports that it did not converge."""
    grid_parameters = [grid_values(9, 0, n) for n in "xyz"]
    whole = coordinate_search(grid_parameters, 1000, lambda values: sum(values.values()))
    assert whole.converged
    for budget in range(1, len(whole.trials) + 3):
        measure = Counted(lambda x, y, z: x + y + z)
        found = coordinate_search(grid_parameters, budget, measure)
        assert found.trials == whole.trials[:budget]
        assert len(measure.asked) == min(budget, len(whole.trials))
        assert found.converged == (budget >= len(whole.trials))


def test_never_asks_for_a_place_twice_and_starts_at_the_start():
    measure = Counted(lambda x, y: -((x - 4) ** 2) - (y - 1) ** 2 + 0.1 * ((3 * x + 5 * y) % 4))
    found = coordinate_search([grid_values(9, 6, "x"), grid_values(9, 8, "y")], 500, measure)
    assert len(set(measure.asked)) == len(measure.asked)
    assert measure.asked[0] == (6, 8)
    assert [tuple(t.values.values()) for t in found.trials] == measure.asked


def test_stops_when_no_single_step_helps():
    """On a plateau no weight moves: a relation has to earn it. Both directions are tried once."""
    measure = Counted(lambda x, y: 1.0)
    found = coordinate_search([grid_values(9, 4, "x"), grid_values(9, 0, "y")], 500, measure)
    assert found.chosen == 0
    near = {(4, 0), (4 + STRIDE, 0), (4 - STRIDE, 0), (5, 0), (3, 0), (4, STRIDE), (4, 1)}
    assert set(measure.asked) == near


def test_a_step_that_is_hardly_better_is_not_taken():
    """The chosen trial is the search's last position, not the luckiest trial."""
    found = coordinate_search([grid_values(9, 4, "x")], 500, lambda values: 1 + 1e-5 * values["x"])
    assert found.chosen == 0
    assert found.converged
    assert chosen(coordinate_search([grid_values(9, 4, "x")], 500, lambda values: 1 + 1e-2 * values["x"])) == {"x": 8}


def test_where_it_ends_no_neighbour_is_better():
    def bumpy(values):
        x, y = values.values()
        return -abs(x - 5) - abs(y - 5) + 3 * ((x * 7 + y * 3) % 5)

    for start in itertools.product(range(0, 10, 3), repeat=2):
        found = coordinate_search(
            [grid_values(10, start[0], "x"), grid_values(10, start[1], "y")], 500, bumpy, min_gain=0
        )
        known = {tuple(t.values.values()): t.metric for t in found.trials}
        x, y = chosen(found).values()
        for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if min(near) >= 0 and max(near) < 10:
                assert known[near] <= known[x, y]


def test_arms_that_share_knobs_try_the_same_values_while_these_help():
    """What differs between two arms is the graph, not the luck of a search."""
    one = Counted(lambda x, y: x + y)
    two = Counted(lambda x, y: 3 * x + y)
    for measure in (one, two):
        coordinate_search([grid_values(9, 0, "x"), grid_values(9, 0, "y")], 8, measure)
    assert one.asked == two.asked


def test_knobs_of_a_group_are_also_moved_together():
    """Neither parameter improves while the other stays at 0: single steps never find them."""
    measure = Counted(lambda x, y: 10 - (x - 5) ** 2 / 10 - (y - 4) ** 2 / 10 if x and y else 1 - max(x, y))
    alone = coordinate_search([grid_values(8, 0, "x"), grid_values(8, 0, "y")], 500, measure)
    assert chosen(alone) == {"x": 0, "y": 0}
    together = coordinate_search(
        [GridParameter(n, grid_values(8).grid_values, 0.0, "weights") for n in "xy"], 500, measure
    )
    assert chosen(together) == {"x": 5, "y": 4}
    assert together.converged


def test_a_group_of_one_is_a_knob():
    measure = Counted(lambda x: -((x - 4) ** 2))
    assert coordinate_search(
        [GridParameter("x", grid_values(8).grid_values, 0.0, "weights")], 500, measure
    ) == coordinate_search([grid_values(8)], 500, measure)


def test_a_knob_without_strides_is_moved_step_by_step():
    measure = Counted(lambda x: -((x - 2) ** 2))
    found = coordinate_search([GridParameter("x", grid_values(9).grid_values, 0.0, coarse_steps=False)], 500, measure)
    assert measure.asked == [(0,), (1,), (2,), (3,)]
    assert chosen(found) == {"x": 2}


def test_what_moved_with_its_group_has_to_earn_its_place():
    """y changes nothing that is worth a step: it comes along with x, and goes back to its start."""
    measure = Counted(lambda x, y: 10 - (x - 3) ** 2 - 0.001 * (y - 3) ** 2)
    found = coordinate_search(
        [GridParameter(n, grid_values(8).grid_values, 0.0, "weights") for n in "xy"], 500, measure
    )
    assert found.trials[1].values == {"x": 3, "y": 3}
    assert chosen(found) == {"x": 3, "y": 0}
    assert found.converged


def test_a_step_within_its_paired_error_is_not_taken():
    """The mean rises by the same 1 %: once for everybody alike, once by luck of a few users."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=500)
    noise -= noise.mean()

    def certain(values):
        return 1 + 0.01 * values["x"] + 0.2 * noise  # the noise is common to all trials: it cancels in pairs

    def lucky(values):
        return 1 + 0.01 * values["x"] + (0.3 * rng.permutation(noise) if values["x"] else 0)

    assert chosen(coordinate_search([grid_values(2)], 500, certain)) == {"x": 1}
    found = coordinate_search([grid_values(2)], 500, lucky)
    assert chosen(found) == {"x": 0}
    assert found.trials[1].metric == pytest.approx(1.01)


def test_errors_are_those_of_paired_differences_to_the_first_trial():
    users = {0.0: np.array([0.0, 1.0, 1.0, 0.0]), 1.0: np.array([1.0, 1.0, 1.0, 0.0])}
    found = coordinate_search([grid_values(2)], 500, lambda values: users[values["x"]])
    # differences 1, 0, 0, 0: standard deviation 1/2, four users
    assert [trial.error for trial in found.trials] == [0.0, 0.25]
    assert chosen(found) == {"x": 0}, "a rise of .25 with an error of .25 is no more than that"
    assert paired_error(np.array([0.3]), np.array([0.1])) == 0.0


def test_begins_where_it_is_told_and_moves_that_in_single_steps():
    measure = Counted(lambda x, y: -abs(x - 5) - abs(y - 4))
    found = coordinate_search([grid_values(9, 0, "x"), grid_values(9, 0, "y")], 500, measure, starts=[{"x": 5.0}])
    assert measure.asked[0] == (5, 0)
    assert chosen(found) == {"x": 5, "y": 4}
    assert {x for x, _ in measure.asked} == {4, 5, 6}
    assert (5, STRIDE) in measure.asked, "what was not searched before is"


def test_what_is_put_back_together_has_to_be_worth_nothing_together():
    """Each weight brings less than its error and all together more: none may go because the others went before."""
    noises = np.random.default_rng(0).normal(size=(400, 5))
    noises = np.linalg.qr(noises - noises.mean(0))[0] * np.sqrt(399)  # mean 0, variance 1, uncorrelated

    def measure(values):
        on = np.array(list(values.values()))
        return 0.2 + 0.0029 * on.sum() + 0.06 * noises @ on  # an error of .003 each

    grid_parameters = [GridParameter(name, (0.0, 1.0), 0.0, "weights") for name in "abcde"]
    found = coordinate_search(grid_parameters, 500, measure)
    everything, end = measure(dict.fromkeys("abcde", 1.0)), measure(chosen(found))
    assert sum(chosen(found).values()) == 4, "one is within its error, two are not"
    assert (everything - end).mean() <= paired_error(everything, end)


@pytest.mark.parametrize("budget", range(2, 30))
def test_a_budget_that_ends_early_ends_at_no_worse_than_a_start_that_was_tried(budget):
    def two_hills(values):
        return 2 - abs(values["x"] - 1) if values["x"] < 4 else 5 - abs(values["x"] - 16)

    found = coordinate_search([grid_values(20)], budget, two_hills, starts=[{"x": 0.0}, {"x": 14.0}])
    assert len(found.trials) <= budget
    assert found.trials[found.chosen].metric >= two_hills({"x": 14.0})


def test_a_second_start_has_to_be_beaten():
    """A distant hill out of reach of the first start: the search continues from there, and never ends lower."""

    def two_hills(x):
        return 2 - abs(x - 1) if x < 4 else 5 - abs(x - 16)

    alone = coordinate_search([grid_values(20)], 500, lambda values: two_hills(values["x"]))
    assert chosen(alone) == {"x": 1}
    both = coordinate_search(
        [grid_values(20)], 500, lambda values: two_hills(values["x"]), starts=[{"x": 0.0}, {"x": 14.0}]
    )
    assert chosen(both) == {"x": 16}
    assert both.converged
    worse = coordinate_search(
        [grid_values(20)], 500, lambda values: two_hills(values["x"]), starts=[{"x": 0.0}, {"x": 9.0}]
    )
    assert chosen(worse) == {"x": 1}


def test_more_relations_never_validate_worse_than_the_arms_without_one():
    """Beside a weight at 4 a step of x costs; without it x goes on to 6, where all is better: the search finds it."""

    def measure(values):
        if values["weights.tags"]:
            return 1 + 0.1 * values["weights.tags"] - 0.4 * abs(values["x"] - 2)
        return 0.7 + 0.2 * values["x"] if values["x"] <= 6 else 0.0

    grid_parameters = [
        GridParameter("weights.tags", grid_values(5).grid_values, 0.0, "weights"),
        grid_values(9, 2, "x"),
    ]
    stuck = coordinate_search(grid_parameters, 500, measure)
    less = coordinate_search(
        grid_parameters[1:], 500, lambda values: measure({**values, "weights.tags": 0.0}), starts=[{"x": 2.0}]
    )
    assert chosen(stuck) == {"x": 2, "weights.tags": 4}
    assert stuck.trials[stuck.chosen].metric < less.trials[less.chosen].metric == measure({"x": 6, "weights.tags": 0})
    whole = coordinate_search(grid_parameters, 500, measure, without=["weights.tags"])
    assert chosen(whole) == {"x": 6, "weights.tags": 0}
    assert whole.converged
    # what the arm without the relation tries on the way is its own
    assert len(whole.trials) < len(stuck.trials) + len(less.trials)


@given(st.integers(0, 10_000), st.sampled_from([3, 8, 15, 500]))
@settings(max_examples=100)
def test_arms_that_begin_where_all_ended_find_nothing_better(seed, budget):
    """On any hill: three weights, user noise, every arm without one of them, budgets that run out."""
    rng = np.random.default_rng(seed)
    known = {}

    def measure(values):
        key = tuple(sorted((k, v) for k, v in values.items() if v or not k.startswith("weights")))
        if key not in known:
            trend = sum(value * (0.05 if k == "weights.a" else -0.01) for k, value in key)
            known[key] = trend + rng.normal(0, 0.2) + rng.normal(0, 1, 50)
        return known[key]

    grid_parameters = [
        grid_values(6, 2, "x"),
        *(GridParameter(f"weights.{n}", grid_values(5).grid_values, 0.0, "weights") for n in "abc"),
    ]
    names = [k.name for k in grid_parameters[1:]]
    whole = coordinate_search(grid_parameters, budget, measure, without=names)
    best = whole.trials[whole.chosen]
    for name in names:
        begin = {k: v for k, v in best.values.items() if k != name}
        arm = coordinate_search([k for k in grid_parameters if k.name != name], budget, measure, starts=[begin])
        assert arm.trials[arm.chosen].metric <= best.metric


def noisy_hills(values):
    """Two hills in x, its far one .01 higher on average, y better at 3; 50 users who differ between the hills."""
    far, noise = values["x"] >= 10, np.random.default_rng(0).normal(0, 1, 50)
    height = -0.1 * min(abs(values["x"] - 4), abs(values["x"] - 14)) + 0.01 * far - 0.05 * abs(values["y"] - 3)
    return 2 + height + values["noise"] * far * (noise - noise.mean())


@pytest.mark.parametrize(("noise", "expected"), [(0.001, {"x": 14, "y": 3}), (1.0, {"x": 4, "y": 3})])
def test_a_published_setting_stays_unless_another_is_better_by_more_than_chance(noise, expected):
    grid_parameters = [GridParameter(n, grid_values(20).grid_values, 0.0, coarse_steps=False) for n in "xy"]
    found = coordinate_search(
        grid_parameters, 500, lambda values: noisy_hills({**values, "noise": noise}), starts=[{"x": 14.0}],
        reference={"x": 3.0, "y": 1.0},
    )  # fmt: skip
    assert chosen(found) == expected
    assert found.converged
    tried = [trial.values for trial in found.trials]
    assert {"x": 14.0, "y": 3.0} in tried
    assert {"x": 4.0, "y": 3.0} in tried


def test_the_trial_that_was_chosen_is_marked_and_no_other():
    """Two trials may have the same values, or a subset: values do not identify the chosen one."""
    table = pl.DataFrame({"user": [1]})
    trials = (Trial({}, 0.1), Trial({"l2": 1.0}, 0.2), Trial({"l2": 1.0}, 0.3))
    cell = CellResult(
        "ease", "interactions", 0, Evaluation(table, {}), trials, {"l2": 1.0}, 0.3, None, True, {}, {}, chosen_trial=2
    )
    found = tuning(ResultsByArm([(INTERACTIONS, cell)], "ndcg@10"))
    assert found["chosen"].to_list() == [False, False, True]


def test_a_tuned_study_finds_every_folder_from_where_it_is(tmp_path):
    pytest.importorskip("tomli_w", reason="needs the extra tune")
    text = (
        'name = "x"\n[data]\ndataset = "ml-100k"\npath = "data"\ntmdb = "films"\n[protocol]\nname = "ml-100k-loo"\n'
    )
    (tmp_path / "x.toml").write_text(text)
    tuned = write_tuned(read_study(tmp_path / "x.toml"), [], tmp_path, tmp_path / "runs" / "x" / "tuned.toml", "")
    data = read_study(tuned).data
    for place, name in ((data.path, "data"), (data.tmdb, "films")):
        assert (tuned.parent / place).resolve() == tmp_path / name
