"""Which interactions are kept before a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Int32


def core(user: Int32, item: Int32, min_user_rows: int, min_item_rows: int) -> npt.NDArray[np.bool_]:
    """Rows of the largest subset in which every user and every item has enough rows (the k-core).

    Users and items below their threshold are dropped in turn until none is left below it; the result does not
    depend on the order of dropping.

    Args:
        user: [n], user rows.
        item: [n], item rows.
        min_user_rows: rows that a user needs.
        min_item_rows: rows that an item needs.

    Returns:
        bool [n], true for the kept rows.
    """
    kept = np.ones(user.size, bool)
    while True:
        enough = np.bincount(user[kept], minlength=user.max(initial=-1) + 1) >= min_user_rows
        enough_i = np.bincount(item[kept], minlength=item.max(initial=-1) + 1) >= min_item_rows
        now = kept & enough[user] & enough_i[item]
        if now.sum() == kept.sum():
            return kept
        kept = now
