import itertools

import pytest

from relrank.models.base import Knob
from relrank.study.tuning import STRIDE, climb


def ladder(n, start=0, name="x"):
    return Knob(name, tuple(float(v) for v in range(n)), float(start))


class Counted:
    """A function of the knobs that writes down where it was asked."""

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
    found = climb([ladder(10, start[0], "x"), ladder(10, start[1], "y")], 100, measure)
    assert chosen(found) == {"x": peak[0], "y": peak[1]}
    assert found.finished
    assert len(found.trials) < 40, "a climb is no grid of 100"


def test_follows_a_ridge_that_needs_more_than_one_round():
    """The best y moves with x, so each knob has to be moved several times."""
    measure = Counted(lambda x, y: -0.4 * (x - y) ** 2 + x + y)
    assert chosen(climb([ladder(8, 0, "x"), ladder(8, 0, "y")], 200, measure)) == {"x": 7, "y": 7}


def test_never_spends_more_than_the_budget():
    """A smaller budget is the beginning of the same search, and says that it did not get to the end."""
    knobs = [ladder(9, 0, n) for n in "xyz"]
    whole = climb(knobs, 1000, lambda values: sum(values.values()))
    assert whole.finished
    for budget in range(1, len(whole.trials) + 3):
        measure = Counted(lambda x, y, z: x + y + z)
        found = climb(knobs, budget, measure)
        assert found.trials == whole.trials[:budget]
        assert len(measure.asked) == min(budget, len(whole.trials))
        assert found.finished == (budget >= len(whole.trials))


def test_never_asks_for_a_place_twice_and_starts_at_the_start():
    measure = Counted(lambda x, y: -((x - 4) ** 2) - (y - 1) ** 2 + 0.1 * ((3 * x + 5 * y) % 4))
    found = climb([ladder(9, 6, "x"), ladder(9, 8, "y")], 500, measure)
    assert len(set(measure.asked)) == len(measure.asked)
    assert measure.asked[0] == (6, 8)
    assert [tuple(t.values.values()) for t in found.trials] == measure.asked


def test_stops_when_no_single_step_helps():
    """On a plateau nothing helps: a relation has to earn its weight. Both directions were asked, then it ends."""
    measure = Counted(lambda x, y: 1.0)
    found = climb([ladder(9, 4, "x"), ladder(9, 0, "y")], 500, measure)
    assert found.chosen == 0
    near = {(4, 0), (4 + STRIDE, 0), (4 - STRIDE, 0), (5, 0), (3, 0), (4, STRIDE), (4, 1)}
    assert set(measure.asked) == near


def test_a_step_that_is_hardly_better_is_not_taken():
    """What is chosen is where the search stands, not whatever trial was luckiest."""
    found = climb([ladder(9, 4, "x")], 500, lambda values: 1 + 1e-5 * values["x"])
    assert found.chosen == 0
    assert found.finished
    assert chosen(climb([ladder(9, 4, "x")], 500, lambda values: 1 + 1e-2 * values["x"])) == {"x": 8}


def test_where_it_ends_no_neighbour_is_better():
    def bumpy(values):
        x, y = values.values()
        return -abs(x - 5) - abs(y - 5) + 3 * ((x * 7 + y * 3) % 5)

    for start in itertools.product(range(0, 10, 3), repeat=2):
        found = climb([ladder(10, start[0], "x"), ladder(10, start[1], "y")], 500, bumpy, worth=0)
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
        climb([ladder(9, 0, "x"), ladder(9, 0, "y")], 8, measure)
    assert one.asked == two.asked


def test_knobs_of_a_group_are_also_moved_together():
    """Neither knob is worth a step while the other stays at 0: alone they are never found."""
    measure = Counted(lambda x, y: 10 - (x - 5) ** 2 / 10 - (y - 4) ** 2 / 10 if x and y else 1 - max(x, y))
    alone = climb([ladder(8, 0, "x"), ladder(8, 0, "y")], 500, measure)
    assert chosen(alone) == {"x": 0, "y": 0}
    together = climb([Knob(n, ladder(8).ladder, 0.0, "weights") for n in "xy"], 500, measure)
    assert chosen(together) == {"x": 5, "y": 4}
    assert together.finished


def test_a_group_of_one_is_a_knob():
    measure = Counted(lambda x: -((x - 4) ** 2))
    assert climb([Knob("x", ladder(8).ladder, 0.0, "weights")], 500, measure) == climb([ladder(8)], 500, measure)


def test_a_knob_without_strides_is_moved_step_by_step():
    measure = Counted(lambda x: -((x - 2) ** 2))
    found = climb([Knob("x", ladder(9).ladder, 0.0, strides=False)], 500, measure)
    assert measure.asked == [(0,), (1,), (2,), (3,)]
    assert chosen(found) == {"x": 2}


def test_what_moved_with_its_group_has_to_earn_its_place():
    """y changes nothing that is worth a step: it comes along with x, and goes back to its start."""
    measure = Counted(lambda x, y: 10 - (x - 3) ** 2 - 0.001 * (y - 3) ** 2)
    found = climb([Knob(n, ladder(8).ladder, 0.0, "weights") for n in "xy"], 500, measure)
    assert found.trials[1].values == {"x": 3, "y": 3}
    assert chosen(found) == {"x": 3, "y": 0}
    assert found.finished
