"""Gains so large that somebody must look at them: side data that know held-out rows bring such gains."""

from __future__ import annotations

from collections.abc import Mapping

TIMES_NEXT = 2.0
"""A strange gain is more than this many times that of the next best relation …"""
SHARE = 0.25
"""… and more than this share of all that was left to gain."""
SURELY = 0.5
"""More than this share is strange whatever the others bring: several relations may leak at once."""


def strange_gains(without: float, gains: Mapping[str, float], best: float = 1.0) -> list[str]:
    """The relations whose gain is to be looked at, in the order given.

    A relation alone is strange where it closes more than a quarter of the gap between the metric without it and a
    perfect one, and gains more than twice what the next best relation does; or where it closes more than half of the
    gap. Nothing is proven by that: it is a reason to look.

    Args:
        without: the metric on the interactions alone.
        gains: what each relation alone adds to it.
        best: the largest value of the metric.
    """
    left = best - without
    strange = []
    for name, gain in gains.items():
        others = max((g for other, g in gains.items() if other != name), default=0.0)
        alone_so = gain > SHARE * left and gain > TIMES_NEXT * max(others, 0.0)
        if left > 0 and (alone_so or gain > SURELY * left):
            strange.append(name)
    return strange
