"""Which gains are to be looked at: plain figures in, names out."""

import pytest

from relrank.study.suspicious_gains import suspicious_gains


@pytest.mark.parametrize(
    ("without", "gains", "strange"),
    [
        (0.18, {"driver": 0.12, "echo": 0.04, "noise": 0.0}, []),  # a relation that decides every choice
        (0.18, {"driver": 0.21, "echo": 0.04}, ["driver"]),  # more than a quarter of .82, and five times the next
        (0.18, {"driver": 0.21, "echo": 0.11}, []),  # as large, but another relation brings half as much
        (0.05, {"readers": 0.93, "genre": 0.01}, ["readers"]),
        (0.05, {"readers": 0.93, "lists": 0.91}, ["readers", "lists"]),  # two at once hide each other from the rule
        (0.05, {"readers": 0.3}, ["readers"]),  # the only relation has no other beside it
        (0.05, {"readers": 0.2, "genre": -0.3}, []),
        (0.05, {"readers": 0.3, "genre": -0.3}, ["readers"]),  # a relation that hurts is no measure
        (1.0, {"any": 0.0}, []),
        (0.5, {}, []),
    ],
)
def test_gains_that_no_honest_relation_brings(without: float, gains: dict[str, float], strange: list[str]) -> None:
    assert suspicious_gains(without, gains) == strange


def test_what_is_left_to_gain_counts_and_not_the_gain_alone() -> None:
    assert suspicious_gains(0.8, {"r": 0.06}) == ["r"]
    assert suspicious_gains(0.2, {"r": 0.06}) == []
    assert suspicious_gains(0.8, {"r": 0.06}, best=2.0) == []
