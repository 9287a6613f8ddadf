"""Gains so large that the side data may contain held-out rows."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from relrank.graph.relation import NO_TITLES, Titles

TIMES_NEXT = 2.0
"""A suspicious gain is more than this many times that of the next best relation …"""
SHARE = 0.25
"""… and more than this share of the gap to a perfect metric."""
SURELY = 0.5
"""More than this share of the gap is suspicious in any case: several relations may leak at once."""


def suspicious_gains(without: float, gains: Mapping[str, float], best: float = 1.0) -> list[str]:
    """The relations whose gain should be checked, in the order given.

    A gain is suspicious if it closes more than a quarter of the gap between the metric without the relation and a
    perfect one, and is more than twice that of the next best relation; or if it closes more than half of the gap.

    Args:
        without: the metric on the interactions alone.
        gains: what each relation alone adds to it.
        best: the largest value of the metric.
    """
    gap = best - without
    suspicious = []
    for name, gain in gains.items():
        others = max((g for other, g in gains.items() if other != name), default=0.0)
        stands_out = gain > SHARE * gap and gain > TIMES_NEXT * max(others, 0.0)
        if gap > 0 and (stands_out or gain > SURELY * gap):
            suspicious.append(name)
    return suspicious


def suspicious_gain_messages(
    board: pl.DataFrame, effects: pl.DataFrame, titles: Titles = NO_TITLES, decimals: int = 4
) -> list[str]:
    """Sentences on ``suspicious_gains`` per model: of each relation alone, or of all if none ran alone."""
    sentences = []
    base = {r["model"]: r["mean"] for r in board.iter_rows(named=True) if r["arm"] == "interactions"}
    for model, metric_without in base.items():
        of_model = effects.filter(pl.col("model") == model)
        alone = {r["relation"]: r["mean"] for r in of_model.filter(pl.col("kind") == "alone").iter_rows(named=True)}
        if not alone:
            together = of_model.filter(pl.col("kind") == "gain")["mean"].to_list()
            alone = dict.fromkeys(["all relations together"] * bool(together), sum(together))
        sentences += [
            f"look at {titles.get(name, name)}: with {model} it adds {alone[name]:+.{decimals}f} to "
            f"{metric_without:.{decimals}f}, "
            "which honest side data hardly do; does it know held-out rows?"
            for name in suspicious_gains(metric_without, alone)
        ]
    return sentences
