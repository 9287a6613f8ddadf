"""The attack itself: what ends its processes is an outcome, what is there is not done again, and studies run."""

import os
import time

import numpy as np
import pytest
import tomli_w

from attacks.lanes import run
from attacks.ledger import Ledger, Outcome, judged, table
from attacks.sockets import abuses
from attacks.study_files import hostile_study, settings, studies
from relrank.errors import InputError
from relrank.study.config import StudyConfig
from relrank.tables.config import check


class Part:
    """Number 2 kills its process, number 4 never ends."""

    name, seconds = "some", 1.5

    def prepare(self, folder):
        folder.mkdir(exist_ok=True)

    def open(self, folder, seed):
        def attack(number):
            if number == 2:
                os.abort()
            if number == 4:
                time.sleep(60)
            return Outcome("kind", "same", f"{seed} {number}")

        return attack


def test_crashes_and_hangs_are_outcomes_and_what_is_there_is_not_done_again(tmp_path):
    ledger = Ledger(tmp_path / "some.jsonl", 5)
    until = time.monotonic() + 60
    assert len(list(run(Part(), tmp_path, ledger, 7, 2, until))) == 7
    assert {number: one.found for number, one in ledger.outcomes.items()} == {
        0: "same", 1: "same", 2: "crash", 3: "same", 4: "hang", 5: "same", 6: "same",
    }  # fmt: skip
    with (tmp_path / "some.jsonl").open("a") as out:
        out.write('{"seed": 5, "num')  # killed in the midst of a line
    again = Ledger(tmp_path / "some.jsonl", 5)
    assert again.outcomes == ledger.outcomes
    assert [one.done for one in run(Part(), tmp_path, again, 8, 1, until)] == ["5 7"]
    assert Ledger(tmp_path / "some.jsonl", 6).outcomes == {}
    again.forget_faults()
    assert sorted(again.outcomes) == [0, 1, 3, 5, 6, 7]
    list(run(Part(), tmp_path, again, 7, 1, until))
    assert Ledger(tmp_path / "some.jsonl", 5).outcomes[2].found == "crash"
    again = Ledger(tmp_path / "some.jsonl", 5)
    said = table([("some", again.outcomes.values())])
    assert "| some | kind | 6 | 0 | 6 | 0 | 0 | 0 | 0 | 0 |" in said
    assert "| all |  | 8 | 0 | 6 | 0 | 0 | 1 | 1 | 0 |" in said


def refuses(found):
    raise InputError("no", where="here", expected="yes", found=found)


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda: True, "same"),
        (lambda: False, "wrong"),
        (lambda: refuses("no"), "refused"),
        (lambda: fails(AssertionError("other")), "wrong"),
        (lambda: fails(KeyError("x")), "trace"),
        (lambda: fails(TimeoutError("late")), "hang"),
        (lambda: fails(MemoryError()), "refused"),
        (lambda: fails(FileNotFoundError(2, "no such file", "x")), "refused"),
    ],
)
def test_outcomes(answer, found):
    assert judged("kind", "done", answer).found == found


def test_every_setting_of_a_study_is_changed_in_turn():
    known = studies()
    for study in known:
        check(study, StudyConfig, "study")
    done: list[set[str]] = [set() for _ in known]
    for number in range(len(known) * max(len(list(settings(study))) for study in known)):
        first = hostile_study(number, np.random.default_rng(5))[0].partition(";")[0]
        done[number % len(known)].add(first.partition(" ")[2])
    assert done == [{".".join(map(str, at)) for at in settings(study)} for study in known]


def test_hostile_studies_follow_from_the_seed():
    one, other = (hostile_study(3, np.random.default_rng(seed)) for seed in (1, 2))
    assert one == hostile_study(3, np.random.default_rng(1)) != other
    assert one[1] != tomli_w.dumps(studies()[3]).encode()


def test_abuses_are_many():
    assert len(abuses()) > 300
