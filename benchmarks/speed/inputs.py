"""The pairs that tasks work on, as plain arrays: everybody reads the same npz file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphs import generated_pairs, gowalla_pairs
from grouped_interactions import AMAZON_BOOK, GOODBOOKS, GOWALLA, Laws, grouped_pairs, held_out
from relrank.graph.propagation import normalise
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import singular_vectors
from relrank.models.core.spectral_filters import item_degrees
from relrank.tables.datasets import goodbooks_10k
from relrank.tables.protocols import ProtocolConfig, make_split
from speed.environments import Skipped

Arrays = dict[str, Any]


def gowalla(data: Path | None) -> Arrays | Skipped:
    """The LightGCN paper's training and test rows: 29,858 users, 40,981 places, 810,128 and 217,242 pairs."""
    if data is None or not (data / "gowalla" / "train.txt").is_file():
        return Skipped("RELRANK_DATA does not name a folder with gowalla/train.txt")
    pairs = gowalla_pairs(data / "gowalla")
    (user, item), (test_user, test_item) = pairs["train"], pairs["test"]
    sizes = {"n_users": int(user.max()) + 1, "n_items": int(item.max()) + 1}
    return {"train_user": user, "train_item": item, "test_user": test_user, "test_item": test_item, **sizes}


def generated(data: Path | None) -> Arrays:
    """53,398 users, 9,999 items, 4.93 million distinct pairs; items by a power law; no test rows."""
    del data
    user, item = generated_pairs(53_398, 9_999, 4_930_000, seed=0)
    nobody = np.empty(0, np.int32)
    return {
        "train_user": user, "train_item": item, "test_user": nobody, "test_item": nobody,
        "n_users": 53_398, "n_items": 9_999,
    }  # fmt: skip


def gowalla_vectors(data: Path | None) -> Arrays | Skipped:
    """Gowalla with 64 numbers per user and place, whose products are the scores of an ideal low-pass filter.

    ``user_vectors`` X D^-1/2 V and ``item_vectors`` D^1/2 V, V the leading singular vectors of the normalised matrix:
    they rank like trained ones and come in seconds. ``sample``: 2,000 users with test rows, for those who are slow.
    """
    arrays = gowalla(data)
    if isinstance(arrays, Skipped):
        return arrays
    history = Csr.from_pairs(arrays["train_user"], arrays["train_item"], (arrays["n_users"], arrays["n_items"]))
    vectors = singular_vectors(normalise(history), 64, seed=0)
    into = item_degrees(history, -0.5)[:, None] * vectors
    summed = np.add.reduceat(into[history.indices], history.indptr[:-1], axis=0)
    asked = np.random.default_rng(0).permutation(np.unique(arrays["test_user"]))
    return {
        **arrays, "user_vectors": summed.astype(np.float32), "sample": np.sort(asked[:2000]),
        "item_vectors": (item_degrees(history, 0.5)[:, None] * vectors).astype(np.float32),
    }  # fmt: skip


def goodbooks(data: Path | None) -> Arrays | Skipped:
    """Liked books: 28,968 users, 9,993 books, a book of each user held out; the protocol goodbooks-v1-loo, seed 0."""
    if data is None or not (data / "goodbooks-10k" / "ratings_v1.csv").is_file():
        return Skipped("RELRANK_DATA does not name a folder with goodbooks-10k/ratings_v1.csv")
    tables = goodbooks_10k(data / "goodbooks-10k", "ratings_v1.csv")
    split = make_split(tables, ProtocolConfig.model_validate({"name": "goodbooks-v1-loo"}), 0).refit()
    return {
        "train_user": split.train.user, "train_item": split.train.item,
        "test_user": split.test.user, "test_item": split.test.item,
        "n_users": split.shape[0], "n_items": split.shape[1],
    }  # fmt: skip


def scores(data: Path | None) -> Arrays:
    """Scores of 2,000 users for 7,770 items, 140,000 known pairs, 8,192 edges among them."""
    del data
    n_users, n_items, n_known = 2_000, 7_770, 140_000
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((n_users, n_items), np.float32)
    pairs = np.sort(rng.choice(n_users * n_items, n_known, replace=False))
    edges = rng.choice(n_known, 8192, replace=False)
    return {"scores": drawn, "known_user": pairs // n_items, "known_item": pairs % n_items, "edges": edges}


@dataclass(frozen=True)
class Grouped:
    """The size of a generated input with groups.

    Attributes:
        n_users: rows.
        n_items: columns.
        n_pairs: of training and test together.
        laws: of degrees and groups.
    """

    n_users: int
    n_items: int
    n_pairs: int
    laws: Laws = GOWALLA


GROUPED = {
    "3k": Grouped(6_000, 3_000, 120_000),
    "10k": Grouped(28_968, 9_993, 596_171, GOODBOOKS),
    "41k": Grouped(29_858, 40_981, 1_027_370),
    "92k": Grouped(52_643, 91_599, 2_380_730, AMAZON_BOOK),
    "300k": Grouped(300_000, 300_000, 6_000_000),
    "1m": Grouped(1_000_000, 1_000_000, 20_000_000),
}
"""By items: of goodbooks, of Gowalla, of Amazon-book, and larger; the smallest is for a quick look."""
ASKED, HELD_OUT = 10_000, 0.1
"""Users with test rows, at most, and the share of their items that is held out."""


def grouped(size: Grouped, data: Path | None) -> Arrays:
    """Training and test pairs of one size."""
    del data
    pairs = grouped_pairs(size.n_users, size.n_items, size.n_pairs, size.laws, seed=0)
    return {
        **held_out(pairs, size.n_users, ASKED, HELD_OUT, seed=1), "n_users": size.n_users, "n_items": size.n_items,
    }  # fmt: skip


INPUTS: dict[str, Callable[[Path | None], Arrays | Skipped]] = {
    "gowalla": gowalla,
    "gowalla_vectors": gowalla_vectors,
    "generated": generated,
    "goodbooks": goodbooks,
    "scores": scores,
    **{f"grouped-{name}": partial(grouped, size) for name, size in GROUPED.items()},
}
"""By the name that ``Context.input`` takes."""
