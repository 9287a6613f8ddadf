"""Cells that are done and to come, and the time left, by hand."""

from types import SimpleNamespace

import pytest

from relrank.study.callbacks import CallbackGroup, NullCallback
from relrank.study.number_format import duration
from relrank.study.progress import StudyProgress, TimeLeft, time_left


def cell(model: str, arm: str, seed: int = 0):
    return SimpleNamespace(
        model=SimpleNamespace(name=model), arm=SimpleNamespace(name=arm), split_context=SimpleNamespace(seed=seed)
    )


def result(model: str, seconds: float = 0.0):
    return SimpleNamespace(model=model, seconds=seconds)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run(progress, clock, one, seconds):
    progress.start(one)
    clock.now += seconds
    progress.done(one, result(one.model.name), True)


def test_what_is_to_come_is_planned_or_expected(clock):
    progress = StudyProgress(clock)
    progress.begin({"ease": 4, "mf": 1})
    assert (progress.n_done, progress.total, progress.to_come) == (0, 5, {"ease": 4, "mf": 1})
    ease = [cell("ease", arm) for arm in ("all", "interactions")]
    progress.plan(ease, 0)
    assert progress.total == 5, "planned cells are among those expected"
    mf = [cell("mf", arm) for arm in ("all", "interactions", "alone")]
    progress.plan(mf, 0)
    assert progress.to_come == {"ease": 4, "mf": 3}, "more are planned than were expected"
    for one in ease:
        run(progress, clock, one, 1.0)
    assert (progress.n_done, progress.total, progress.to_come) == (2, 7, {"ease": 2, "mf": 3})


def test_the_time_left_is_that_of_each_model(clock):
    progress = StudyProgress(clock)
    cells = [cell("ease", str(n)) for n in range(4)] + [cell("mf", "all"), cell("mf", "alone")]
    progress.plan(cells, 0)
    assert progress.time_left is None
    run(progress, clock, cells[0], 2.0)
    run(progress, clock, cells[1], 4.0)
    assert progress.time_left == TimeLeft(2 * 3.0 + 2 * 3.0, True), "nothing is known of mf"
    run(progress, clock, cells[4], 100.0)
    assert progress.time_left == TimeLeft(2 * 3.0 + 100.0, False)


def test_times_of_an_earlier_run_count_until_a_cell_has_finished(clock):
    progress = StudyProgress(clock)
    cells = [cell("ease", str(n)) for n in range(4)]
    progress.plan(cells, 2)
    progress.done(cells[0], result("ease", 10.0), False)
    progress.done(cells[1], result("ease", 20.0), False)
    assert progress.time_left == TimeLeft(2 * 15.0, False)
    run(progress, clock, cells[2], 3.0)
    assert progress.time_left == TimeLeft(3.0, False)
    assert (progress.n_reused, progress.n_done) == (2, 3)


def test_cells_that_run_at_once_share_the_time(clock):
    progress = StudyProgress(clock)
    cells = [cell("ease", str(n)) for n in range(6)]
    progress.plan(cells, 0)
    for one in cells[:2]:
        progress.start(one)
    clock.now += 8.0
    progress.done(cells[0], result("ease"), True)
    assert progress.time_left == TimeLeft(5 * 8.0 / 2, False), "also between the end of one and the next start"


def test_cells_that_are_left_out_no_longer_count(clock):
    progress = StudyProgress(clock)
    progress.begin({"ease": 3})
    before, running, waiting = (cell("ease", str(n)) for n in range(3))
    progress.skipped([before], "too large")
    progress.plan([running, waiting], 0)
    assert progress.total == 2
    progress.start(running)
    progress.skipped([running], "memory ended")
    assert (progress.total, list(progress.running)) == (1, [])


def test_a_lost_worker_starts_its_cell_again(clock):
    progress = StudyProgress(clock)
    one = cell("ease", "all")
    progress.plan([one], 0)
    progress.start(one)
    progress.on_status(one, "solving")
    assert [each.message for each in progress.running.values()] == ["solving"]
    clock.now += 50.0
    progress.worker_lost(one, "killed")
    assert (progress.total, list(progress.running)) == (1, [])
    run(progress, clock, one, 7.0)
    assert (progress.n_done, progress.total) == (1, 1)
    assert progress._durations == {"ease": [7.0]}, "without the time that was lost"


def test_time_left_in_words():
    assert str(time_left({"ease": 3}, {"ease": [20.0]})) == "about 60 s left"
    assert str(time_left({"ease": 3, "mf": 1}, {"ease": [60.0]}, at_once=2)) == "at least 2 min left"
    assert time_left({"ease": 3}, {}) is None
    assert list(map(duration, (0.2, 89.4, 90, 5399, 5400))) == ["0 s", "89 s", "2 min", "90 min", "1.5 h"]


def test_a_group_passes_every_event_on_in_order():
    events = []

    class Noting(NullCallback):
        def __init__(self, name):
            self.name = name

        def __getattribute__(self, event):
            if event == "name":
                return object.__getattribute__(self, event)
            return lambda *given: events.append((self.name, event, given))

    group, all_events = CallbackGroup(Noting("a"), Noting("b")), [e for e in vars(CallbackGroup) if e[0] != "_"]
    given = {"begin": ({},), "plan": ([], 0), "done": (1, 2, True), "start": (1,), "provisional": (len,)}
    for event in all_events:
        getattr(group, event)(*given.get(event, (1, "why")))
        assert events == [(name, event, given.get(event, (1, "why"))) for name in "ab"]
        events.clear()
    assert len(all_events) == 8
