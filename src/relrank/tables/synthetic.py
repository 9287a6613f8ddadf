"""Synthetic data with a known truth, to test whether a study recovers it.

Every item has four attributes. ``driver`` decides who chooses it; ``echo`` is a noisy copy of ``driver`` (useful
alone, interchangeable with it); ``noise`` is independent of everything; ``fame`` is independent of taste but
correlated with popularity. A study should find that driver helps, that echo is interchangeable with it, and that
noise and fame are negligible or undecided.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.tables.tables import NodeTable, Tables

# Bounds the memory of the users × items probabilities.
USERS_AT_ONCE = 1024

TRUTH = {"driver": "helps", "echo": "interchangeable", "noise": "negligible", "fame": "negligible"}


@dataclass(frozen=True, slots=True)
class PlantedConfig:
    """Size and strength of the planted database."""

    users: int = 1200
    """Number of users."""
    items: int = 1000
    """Number of items."""
    per_user: int = 6
    """Interactions per user, exactly."""
    groups: int = 100
    """Values of each attribute."""
    favourites: int = 2
    """Values of ``driver`` that a user likes."""
    loyalty: float = 0.85
    """Share of a user's choices among the favourites' items; the rest follow popularity alone."""
    echo_noise: float = 0.25
    """Share of items whose ``echo`` is a random value instead of their ``driver``."""
    seed: int = 0
    """Seed of all random numbers."""


def planted(config: PlantedConfig | None = None) -> Tables:
    """Draw a planted database.

    Raises:
        InputError: sizes do not fit, such as more choices than items; a share is outside 0 … 1.
    """
    c = PlantedConfig() if config is None else config
    reach = c.items if c.loyalty < 1 else c.favourites * (c.items // max(c.groups, 1))
    sizes = 0 < c.favourites <= c.groups <= c.items and 0 < c.per_user <= min(c.items // 2, reach) and c.users > 0
    if not (sizes and 0 <= c.loyalty <= 1 and 0 <= c.echo_noise <= 1):
        raise InputError(
            "planted database cannot be drawn",
            where="planted",
            expected="favourites ≤ groups ≤ items, "
            "per_user ≤ items / 2 (≤ the favourites' items if loyalty is 1), shares in 0 … 1",
            found=str(c),
        )
    rng = np.random.default_rng(c.seed)
    driver = rng.permutation(np.arange(c.items) % c.groups)
    copied = rng.random(c.items) >= c.echo_noise
    echo = np.where(copied, driver, rng.integers(0, c.groups, c.items))
    noise = rng.permutation(np.arange(c.items) % c.groups)
    popularity = rng.permutation(1.0 / np.arange(1, c.items + 1) ** 0.6)
    # half the rank by popularity, half chance
    order = np.argsort(np.argsort(-popularity)) + rng.uniform(-0.5, 0.5, c.items) * c.items
    fame = np.argsort(np.argsort(order)) * c.groups // c.items

    likes = np.argsort(rng.random((c.users, c.groups)), 1)[:, : c.favourites]
    liked = np.zeros((c.users, c.groups), bool)
    liked[np.arange(c.users)[:, None], likes] = True
    chosen = np.empty((c.users, c.per_user), np.int64)
    for start in range(0, c.users, USERS_AT_ONCE):
        part = slice(start, start + USERS_AT_ONCE)
        among = liked[part][:, driver] * popularity
        by_taste = among / among.sum(1, keepdims=True)
        chances = c.loyalty * by_taste + (1 - c.loyalty) * popularity / popularity.sum()
        # the largest log p + Gumbel noise: a draw without replacement
        with np.errstate(divide="ignore"):
            keys = np.log(chances) + rng.gumbel(size=chances.shape)
        chosen[part] = np.argsort(-keys, 1)[:, : c.per_user]
    interactions = pl.DataFrame({"user": np.repeat(np.arange(c.users), c.per_user), "item": chosen.ravel()})
    attributes = {"driver": driver, "echo": echo, "noise": noise, "fame": fame}
    frame = pl.DataFrame(
        {"item_id": np.arange(c.items), "title": [f"item {i}" for i in range(c.items)]}
        | {name: [f"{name} {v}" for v in values] for name, values in attributes.items()}
    )
    return Tables(
        "planted", "user", "item", interactions, nodes={"item": NodeTable("item", frame, "item_id", "title")}
    )
