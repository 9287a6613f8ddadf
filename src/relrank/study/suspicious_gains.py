"""Gains so large that somebody must look at them: side data that know held-out rows bring such gains."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from relrank.graph.relation import NO_TITLES, Titles

TIMES_NEXT = 2.0
"""A strange gain is more than this many times that of the next best relation …"""
SHARE = 0.25
"""… and more than this share of all that was left to gain."""
SURELY = 0.5
"""More than this share is strange whatever the others bring: several relations may leak at once."""


def suspicious_gains(without: float, gains: Mapping[str, float], best: float = 1.0) -> list[str]:
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


def suspicious_gain_messages(
    board: pl.DataFrame, effects: pl.DataFrame, titles: Titles = NO_TITLES, decimals: int = 4
) -> list[str]:
    """Sentences on gains that no honest relation brings, for every model (``gains.suspicious_gains``).

    What counts is each relation alone beside the interactions; where none was run so, all relations together.
    """
    sentences = []
    base = {r["model"]: r["mean"] for r in board.iter_rows(named=True) if r["arm"] == "interactions"}
    for model, metric_without in base.items():
        own = effects.filter(pl.col("model") == model)
        alone = {r["relation"]: r["mean"] for r in own.filter(pl.col("kind") == "alone").iter_rows(named=True)}
        if not alone:
            together = own.filter(pl.col("kind") == "gain")["mean"].to_list()
            alone = dict.fromkeys(["all relations together"] * bool(together), sum(together))
        sentences += [
            f"look at {titles.get(name, name)}: with {model} it adds {alone[name]:+.{decimals}f} to "
            f"{metric_without:.{decimals}f}, "
            "which honest side data hardly do; does it know held-out rows?"
            for name in suspicious_gains(metric_without, alone)
        ]
    return sentences
