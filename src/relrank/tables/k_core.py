"""Filters of interactions before a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Int32


def core(user: Int32, item: Int32, min_user_rows: int, min_item_rows: int) -> npt.NDArray[np.bool_]:
    """The k-core: the largest subset in which every user and every item has enough rows.

    Args:
        user: user rows, [n].
        item: item rows, [n].
        min_user_rows: minimum rows of a user.
        min_item_rows: minimum rows of an item.

    Returns:
        bool [n], true for the kept rows.
    """
    kept = np.ones(user.size, bool)
    while True:
        user_fits = np.bincount(user[kept], minlength=user.max(initial=-1) + 1) >= min_user_rows
        item_fits = np.bincount(item[kept], minlength=item.max(initial=-1) + 1) >= min_item_rows
        remaining = kept & user_fits[user] & item_fits[item]
        if remaining.sum() == kept.sum():
            return kept
        kept = remaining
