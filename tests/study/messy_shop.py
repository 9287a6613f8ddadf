"""A small shop as its owner would export it, whose truth is known: brand and tags decide what is bought, not colour.

Everybody likes a few brands and a few tags, and buys over a year what has them, popular things more. Before each
purchase its product is looked at, and now and then another one in passing, so that views tell little that purchases
do not. The files are as messy as such files are: purchases that occur twice, products without a brand, colours
written in two ways, blanks around tags, page views of products that are not for sale any more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

YEAR = datetime(2024, 1, 1)
MINUTES = 366 * 24 * 60
BRANDS, TAGS, COLOURS = 60, 60, ("red", "green", "blue", "black", "white", "grey", "brown", "yellow")
LIKED = 2
"""Brands, and as many tags, that a customer likes."""
PULL = 3.5
"""What a liked brand, and each liked tag, adds to the logarithm of the chance that a product is bought."""

STUDY = """\
name = "shop"
title = "Which product data should we keep up?"

[data]
path = "."
user = "customer"
item = "product"

[data.interactions]
file = "purchases.csv"
user = "customer_id"
item = "sku"
time = "bought_at"
duplicates = "first"

[data.nodes.product]
file = "products.csv"
key = "sku"
title = "name"

[data.links.page_views]
file = "views.csv"
source = "customer"
source_column = "customer_id"
target = "product"
target_column = "sku"
unknown = "drop"

[protocol]
split = "temporal"
valid_cut = "2024-08-31"
cut = "2024-10-15"

[relations.brand]
kind = "attribute"
node = "product"
column = "brand"

[relations.tags]
kind = "attribute"
node = "product"
column = "tags"
separator = "|"

[relations.colour]
kind = "attribute"
node = "product"
column = "colour"

[relations.views]
kind = "link"
table = "page_views"
duplicates = "first"
"""
"""As a newcomer writes it: the views have times, which the file does not mention."""

TIMED = 'target_column = "sku"\ntime = "seen_at"\n'
"""Replaces the last column of the views to say when they were."""


def messy_shop(folder: Path, customers: int = 1000, products: int = 600, seed: int = 0) -> Path:
    """Write ``purchases.csv``, ``products.csv``, ``views.csv`` and ``study.toml``; returns the study file."""
    rng = np.random.default_rng(seed)
    brand, colour = rng.integers(0, BRANDS, products), rng.integers(0, len(COLOURS), products)
    tagged = np.zeros((products, TAGS), bool)
    for row in tagged:
        row[rng.choice(TAGS, rng.integers(1, 4), replace=False)] = True
    popular = 1 / np.arange(1, products + 1) ** 0.3
    popularity = rng.permutation(popular / popular.sum())
    bought: list[tuple[int, int, int]] = []
    viewed: list[tuple[int, int, int]] = []
    for customer in range(customers):
        brands, tags = rng.choice(BRANDS, LIKED, replace=False), rng.choice(TAGS, LIKED, replace=False)
        chance = popularity * np.exp(PULL * (np.isin(brand, brands) + tagged[:, tags].sum(1)))
        chance /= chance.sum()
        choices = rng.choice(products, rng.integers(6, 13), replace=False, p=chance)
        moments = rng.integers(60, MINUTES, choices.size)
        bought += [(customer, int(p), int(t)) for p, t in zip(choices, moments, strict=True)]
        viewed += [(customer, int(p), int(t - rng.integers(1, 60))) for p, t in zip(choices, moments, strict=True)]
        passing = rng.choice(products, 4, p=popularity), rng.integers(0, MINUTES, 4)
        viewed += [(customer, int(p), int(t)) for p, t in zip(*passing, strict=True)]
    bought += bought[:: len(bought) // 20]  # entered twice
    viewed += [(c, products + c, 60 * c) for c in range(25)]  # not for sale any more

    def frame(rows: list[tuple[int, int, int]], time: str) -> pl.DataFrame:
        order = rng.permutation(len(rows))
        return pl.DataFrame(
            [
                (f"C-{c}", f"SKU-{p:04}", (YEAR + timedelta(minutes=t)).isoformat())
                for c, p, t in (rows[i] for i in order)
            ],
            schema=["customer_id", "sku", time],
            orient="row",
        )

    frame(bought, "bought_at").write_csv(folder / "purchases.csv")
    frame(viewed, "seen_at").write_csv(folder / "views.csv")
    shades = [COLOURS[c].title() if i % 7 == 0 else COLOURS[c] for i, c in enumerate(colour)]
    pl.DataFrame(
        {
            "sku": [f"SKU-{p:04}" for p in range(products)],
            "name": [f"Article {p}" for p in range(products)],
            "brand": [None if p % 40 == 0 else f"Brand {b}" for p, b in enumerate(brand)],
            "tags": [" | ".join(f"tag {t}" for t in np.flatnonzero(row)) for row in tagged],
            "colour": [None if p % 25 == 0 else s for p, s in enumerate(shades)],
        }
    ).write_csv(folder / "products.csv")
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"
