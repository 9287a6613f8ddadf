"""A history to begin with: what a typical user chose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relrank.kernels.csr import Int64
from relrank.runs.fitted_run import FittedRun

ITEMS = 4
"""Items of the example."""
FEWEST = 3
"""Users with fewer items are considered only if no one has more."""
USERS = 50
"""Users of the most typical number of items among whom the one with the best known items is found."""


def example_history(run: FittedRun, titles: Sequence[str | None]) -> tuple[int, list[int]] | None:
    """A user's row and a few of their training items, oldest first: the same for all models of a split.

    The user has about the median number of items; the items are those that most users chose, with different titles.

    Args:
        run: the fitted run.
        titles: of the items, in row order.

    Returns:
        None if there are no training interactions.
    """
    train = run.split.train
    if not len(train):
        return None
    lengths = np.bincount(train.user, minlength=run.split.shape[0])
    popularity = np.bincount(train.item, minlength=run.split.shape[1])
    users = np.flatnonzero(lengths >= min(FEWEST, lengths.max()))
    distance = np.abs(lengths[users] - np.median(lengths[users]))
    users = users[np.argsort(distance, kind="stable")[:USERS]]
    examples = [(user, _best_known(run.train_history(user), popularity, titles)) for user in users.tolist()]
    return max(examples, key=lambda one: (len(one[1]), float(np.mean(np.log(popularity[one[1]])))))


def _best_known(history: Int64, popularity: Int64, titles: Sequence[str | None]) -> list[int]:
    """The most popular items of a history, in its order; of items with one title, the most popular."""
    by_title: dict[str | int, int] = {}
    for row in sorted(dict.fromkeys(history.tolist()), key=lambda row: -popularity[row]):
        by_title.setdefault(titles[row] or row, row)
    chosen = list(by_title.values())[:ITEMS]
    return [row for row in dict.fromkeys(history.tolist()) if row in chosen]
