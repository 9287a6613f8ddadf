"""Sanity baselines: random order and popularity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.kernels.csr import Int64
from relrank.models.core.base import ClosedForm, Shapes, history_rows, user_rows
from relrank.models.core.hyperparameters import Seed


@dataclass(frozen=True, slots=True)
class RandomConfig:
    """Hyper-parameters of random order."""

    seed: Seed = 0
    """Seed of the orders."""


class RandomOrder(ClosedForm):
    """A random order of the catalogue for every user."""

    name = "random"
    Config = RandomConfig

    def solve(self) -> Self:
        """Nothing to compute."""
        return self

    def score(self, users: Tensor) -> Tensor:
        """Uniform random numbers, determined by seed and user row."""
        return self._orders(user_rows(users, self.graph.n_users))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """A random order per position in the list."""
        history_rows(histories, self.graph.n_items)
        return self._orders(np.arange(len(histories)) + self.graph.n_users)

    def _orders(self, numbers: Int64) -> Tensor:
        out = np.empty((numbers.size, self.graph.n_items), np.float32)
        for row, number in zip(out, numbers, strict=True):
            np.random.default_rng([self.config.seed, int(number)]).random(dtype=np.float32, out=row)
        return torch.from_numpy(out)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True, slots=True)
class PopularityConfig:
    """Popularity has no hyper-parameters."""


class Popularity(ClosedForm):
    """Scores are the summed weights of an item's interactions, the same for every user."""

    name = "popularity"
    Config = PopularityConfig
    has_shared_scores: ClassVar[bool] = True
    solution: ClassVar[Shapes] = {"counts": ("items",)}

    #: weights per item, float32 [n_items]
    counts: Tensor

    def solve(self) -> Self:
        """Sum the weights per item."""
        edges = self.graph.interactions
        counts = np.bincount(edges.dst, weights=edges.weight, minlength=self.graph.n_items)
        self.counts = torch.from_numpy(counts.astype(np.float32))
        return self

    def shared_scores(self) -> Tensor:
        """The counts, float32 [n_items]."""
        return self.counts

    def score(self, users: Tensor) -> Tensor:
        """The counts, once per user."""
        return self.counts.expand(user_rows(users, self.graph.n_users).size, -1).clone()

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """The counts, once per history."""
        history_rows(histories, self.graph.n_items)
        return self.counts.expand(len(histories), -1).clone()
