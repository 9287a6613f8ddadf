"""What is kept is what was written: damage is refused in one error, or changes no answer."""

import numpy as np
import pytest

from corruptions import attack, damage, targets_in
from relrank.sealed import Sealed


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return targets_in(tmp_path_factory.mktemp("made"))


def test_damaged_runs_cells_results_and_exports_are_refused_or_answer_as_before(targets, tmp_path):
    outcomes = list(attack(targets, 210, 7, tmp_path))
    assert [one for one in outcomes if not one.is_right] == []
    refused = {one.target for one in outcomes if one.found == "refused"}
    assert refused == {target.name for target in targets}


def test_the_attack_finds_what_is_not_verified(targets, tmp_path, monkeypatch):
    """Without the checksums some of the same damage goes unnoticed."""
    read = Sealed.read

    def careless(self, name):
        return self._bytes(name) if name == "model.safetensors" else read(self, name)

    monkeypatch.setattr(Sealed, "read", careless)
    assert any(one.found == "another answer, in silence" for one in attack(targets[:1], 60, 7, tmp_path))


def test_the_same_seed_does_the_same_damage(targets, tmp_path):
    done = [[one.done for one in attack(targets[:1], n, 3, tmp_path, start)] for n, start in ((6, 0), (6, 4))]
    assert done[0][4:] == done[1]
    assert len(set(done[0])) > 1
    assert damage(tmp_path, tmp_path, np.random.default_rng(0)) == "nothing left"
