"""A small shop as frames: planted data, in which ``driver`` decides who buys what."""

from __future__ import annotations

from typing import Any

import polars as pl

from relrank.tables.synthetic import PlantedConfig, planted

DRIVER = {"driver": {"kind": "attribute", "node": "product", "column": "driver"}}
SMALL: dict[str, Any] = {
    "relations": DRIVER,
    "models": ["popularity", "sparse-ease"],
    "study": {"seeds": [0], "trials": 2},
}
"""Settings of a study of seconds."""
COLUMNS = {"user": "customer", "item": "sku", "time": "bought_at"}


def shop(users: int = 60, items: int = 40, groups: int = 6) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Purchases (customer, sku, bought_at) and products (sku, title, driver, echo, noise, fame)."""
    tables = planted(PlantedConfig(users=users, items=items, groups=groups, seed=1))
    start, hours = pl.datetime(2024, 1, 1), pl.duration(hours=pl.int_range(pl.len()))
    purchases = tables.interactions.select(
        customer=pl.format("C-{}", "user"), sku="item", bought_at=start + hours.shuffle(seed=1)
    )
    return purchases, tables.nodes["item"].frame.rename({"item_id": "sku"})
