"""Filters and split that fit the interactions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from relrank.tables.ids import IdMap
from relrank.tables.k_core import core

TIED = 0.1
"""Share of users with a tied last time from which on the last row is not known."""
CORES = (5, 3, 2)
SMALLEST_HISTORY = 3
"""Rows of a user with a training, a validation and a test row."""
KEPT = 0.5
"""Share of the rows that filters keep, at least."""
FEWEST_USERS = 100
"""Users with training and test rows of a split by time, at least …"""
MOST_USERS_LOST = 0.8
"""… and the share of the users with rows before the cut who have none after it, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """Filters and split.

    Attributes:
        config: the section ``[protocol]``.
        comments: by key.
        message: what was chosen, one sentence.
    """

    config: dict[str, Any]
    comments: dict[str, str]
    message: str


def choose_protocol(rows: pl.DataFrame, no_times: str = "there are no times") -> Protocol:
    """Filters and split for interactions.

    Args:
        rows: columns ``user`` and ``item`` (text), optionally ``time`` and ``rating``, each pair once.
        no_times: why there is no ``time``, if there is none.
    """
    config: dict[str, Any] = {}
    comments: dict[str, str] = {}
    if (least := liked(rows)) is not None:
        config["min_rating"] = least
        rows = rows.filter(pl.col("rating") >= least)
        comments["min_rating"] = "what was liked is predicted; without this line every rating counts"
    if size := densest_core(rows):
        config["core"] = size
        comments["core"] = "users and items with fewer rows are left out"
        rows = in_core(rows, size)
    split, why = _split(rows, no_times)
    comments["split"] = why
    if size < SMALLEST_HISTORY or split["split"] == "temporal":
        split["without_train"] = "drop"
    return Protocol({**config, **split}, comments, f"{split['split']}: {why}")


def liked(rows: pl.DataFrame) -> float | int | None:
    """The rating from which on an item was liked; None if ratings say no such thing."""
    if "rating" not in rows.columns:
        return None
    ratings = rows["rating"].drop_nulls()
    low, high = float(ratings.min() or 0), float(ratings.max() or 0)  # type: ignore[arg-type]
    if high not in (5.0, 10.0, 100.0) or low == high or low < 0:
        return None
    least = {5.0: 4, 10.0: 7, 100.0: 70}[high]
    return least if float((ratings >= least).mean() or 0) >= 0.3 else None  # type: ignore[arg-type]


def densest_core(rows: pl.DataFrame) -> int:
    """The largest of ``CORES`` that keeps most rows; 0 if none does."""
    for size in CORES:
        if in_core(rows, size).height >= KEPT * rows.height:
            return size
    return 0


def in_core(rows: pl.DataFrame, size: int) -> pl.DataFrame:
    """The rows of users and items with at least ``size`` rows, repeatedly."""
    users, items = IdMap.of("user", rows["user"]), IdMap.of("item", rows["item"])
    kept = core(users.find(rows["user"]), items.find(rows["item"]), size, size)
    return rows.filter(pl.Series(kept))


def _split(rows: pl.DataFrame, no_times: str) -> tuple[dict[str, Any], str]:
    if "time" not in rows.columns:
        return {"split": "random-leave-one-out"}, f"{no_times}, so held-out rows are drawn"
    tied = tied_share(rows)
    if tied <= TIED:
        some = f"{100 * tied:.2g} % of the users have several rows at their last time"
        why = some if tied else "every user has a last row"
        return {"split": "last-leave-one-out"}, f"the last item of each user is predicted; {why}"
    cuts = _cuts(rows)
    if cuts is not None:
        why = f"{tied:.0%} of the users have several rows at their last time, so the split is a date"
        return {"split": "temporal", "valid_cut": cuts[0], "cut": cuts[1]}, why
    why = f"{tied:.0%} of the users have several rows at their last time, and few have rows before and after a date"
    return {"split": "random-leave-one-out"}, why


def tied_share(rows: pl.DataFrame) -> float:
    """Share of users whose last time occurs in several of their rows."""
    last = rows.group_by("user").agg(n=(pl.col("time") == pl.col("time").max()).sum())
    return float((last["n"] > 1).mean() or 0.0)  # type: ignore[arg-type]


def _cuts(rows: pl.DataFrame) -> tuple[str, str] | None:
    """Cuts before the last 20 and 10 % of the rows; None if too few users have rows on both sides."""
    times = rows["time"].drop_nulls().sort()
    cuts = [times[int(share * (len(times) - 1))] for share in (0.8, 0.9)]
    if not isinstance(cuts[0], datetime):
        return None
    days = [cut.replace(hour=0, minute=0, second=0, microsecond=0) for cut in cuts]
    if days[0] == days[1] or days[0] <= times[0]:
        return None
    before = set(rows.filter(pl.col("time") <= days[0])["user"])
    after = set(rows.filter(pl.col("time") > days[1])["user"])
    between = set(rows.filter((pl.col("time") > days[0]) & (pl.col("time") <= days[1]))["user"])
    both = min(len(before & after), len(before & between))
    if both < FEWEST_USERS or both < (1 - MOST_USERS_LOST) * np.sqrt(len(before)) * 10:
        return None
    return f"{days[0]:%Y-%m-%d}", f"{days[1]:%Y-%m-%d}"
