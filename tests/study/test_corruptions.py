"""Damaged files are refused with one error, or do not change any answer."""

import numpy as np
import pytest

from attacks.corruptions import Attacked, damage, targets_in
from relrank.io.manifest import ManifestReader


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return targets_in(tmp_path_factory.mktemp("made"))


def test_what_was_damaged_is_refused_or_answers_as_before(targets, tmp_path):
    attack = Attacked(targets, 7, tmp_path)
    outcomes = [attack(number) for number in range(8 * len(targets))]
    assert [one for one in outcomes if not one.is_right] == []
    assert {one.kind for one in outcomes if one.found == "refused"} >= {"run", "cell", "result", "program", "weights"}


def test_the_attack_finds_what_is_not_verified(targets, tmp_path, monkeypatch):
    """Without the checksums some of the same damage goes unnoticed."""
    read = ManifestReader.read

    def careless(self, name):
        return self._bytes(name) if name == "model.safetensors" else read(self, name)

    monkeypatch.setattr(ManifestReader, "read", careless)
    attack = Attacked(targets[:1], 7, tmp_path)
    assert any(attack(number).found == "wrong" for number in range(120))


def test_the_same_seed_does_the_same_damage(targets, tmp_path):
    done = [[Attacked(targets[:1], 3, tmp_path)(number).done for number in numbers] for numbers in (range(6), (4, 5))]
    assert done[0][4:] == done[1]
    assert len(set(done[0])) > 1
    assert damage(tmp_path, [tmp_path], np.random.default_rng(0)) == "nothing left"
