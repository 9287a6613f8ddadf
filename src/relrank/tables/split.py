"""Interactions cut into training, validation and test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from relrank.csr import Csr, Float32, Int32, Int64
from relrank.tables.ids import IdMap
from relrank.tables.tables import Notice

Part = Literal["valid", "test"]


@dataclass(frozen=True, slots=True)
class Interactions:
    """Interactions by row index, in time order inside a user (file order without times).

    Attributes:
        user: int32 [n], user rows.
        item: int32 [n], item rows.
        rating: float32 [n], or None.
        time: int64 [n], or None.
    """

    user: Int32
    item: Int32
    rating: Float32 | None = None
    time: Int64 | None = None

    def __len__(self) -> int:
        return self.user.size

    def csr(self, n_users: int, n_items: int) -> Csr:
        """Users by items, all values 1."""
        return Csr.from_pairs(self.user, self.item, (n_users, n_items))


@dataclass(frozen=True, slots=True)
class Split:
    """One cut of one data set under one protocol.

    Attributes:
        users: user keys in row order.
        items: item keys in row order: the full catalogue, every one a candidate.
        train: training rows, the only rows a graph may be built from.
        valid: validation rows; may be empty.
        test: test rows.
        protocol: name of the recipe, e.g. ``"goodbooks-loo, seed 0"``.
        fingerprint: sha256 of the kept rows and of each part.
        notices: rows dropped by the filters and the split, counted.
    """

    users: IdMap
    items: IdMap
    train: Interactions
    valid: Interactions
    test: Interactions
    protocol: str
    fingerprint: str
    notices: tuple[Notice, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(users, items)."""
        return len(self.users), len(self.items)

    def truth(self, part: Part) -> Csr:
        """Relevant items per user, users by items; users without any have an empty row."""
        rows = self.valid if part == "valid" else self.test
        return rows.csr(*self.shape)

    def seen(self, part: Part) -> Csr:
        """Items masked when ranking: training items at validation, training and validation items at test."""
        if part == "valid":
            return self.train.csr(*self.shape)
        user = np.concatenate([self.train.user, self.valid.user])
        item = np.concatenate([self.train.item, self.valid.item])
        return Csr.from_pairs(user, item, self.shape)
