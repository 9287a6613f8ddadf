"""The pairs that tasks work on, as plain arrays: everybody reads the same npz file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphs import generated_pairs, gowalla_pairs
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


INPUTS: dict[str, Callable[[Path | None], Arrays | Skipped]] = {"gowalla": gowalla, "generated": generated}
"""By the name that ``Context.input`` takes."""
