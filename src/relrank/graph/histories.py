"""Histories in time order, and windows of their latest items.

Windows are left-aligned and padded at the end, so that a causal model needs no mask. The model decides which position
embedding the first item gets (see ``relrank.models.core.sequence_model``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Int32, Int64, concat_ranges

LENGTH_BOUNDS = (10, 50)
"""Longest short and longest medium history, in items."""
LENGTH_GROUPS = (f"≤ {LENGTH_BOUNDS[0]}", f"{LENGTH_BOUNDS[0] + 1}–{LENGTH_BOUNDS[1]}", f"> {LENGTH_BOUNDS[1]}")
"""Names of the groups of short, medium and long histories."""


LIGHTEST = 1e-20
"""Items whose decayed weight is smaller are ignored, as they would vanish in float32."""


def furthest(window: int, decay: float) -> int:
    """Number of latest items, at most ``window``, whose weight decay^k is not negligible."""
    return window if decay == 1 else min(window, 1 + int(math.log(LIGHTEST) / math.log(decay)))


def check_ordered(graph: Graph, where: str) -> None:
    """Refuse a graph whose histories have no order in time.

    Raises:
        InputError: they have none.
    """
    if graph.places is None:
        raise InputError(
            "interactions have no order in time",
            where=where,
            expected="a time column, or a data set whose rows are in time order",
            found="neither",
        )


def item_rows(histories: Sequence[Tensor], n_items: int) -> list[Int64]:
    """Histories as NumPy arrays.

    Raises:
        InputError: an item row is outside the catalogue.
    """
    rows = [h.cpu().numpy().astype(np.int64) for h in histories]
    for number, row in enumerate(rows):
        outside = (row < 0) | (row >= n_items)
        if outside.any():
            raise InputError(
                "item row outside the catalogue",
                where=f"history {number}",
                expected=f"0 … {n_items - 1}",
                found=str(row[outside][0]),
            )
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Item rows of every history, oldest first.

    Attributes:
        indptr: int64 [n + 1], where each history starts.
        items: int32 [n_events], item rows; an item may be repeated.
    """

    indptr: Int64
    items: Int32

    @classmethod
    def from_rows(cls, user: Int32, item: Int32, n: int) -> Sequences:
        """The histories of n users from rows (user, item), each in the order of its rows."""
        indptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n))]).astype(np.int64)
        return cls(indptr, item[np.argsort(user, kind="stable")])

    @classmethod
    def from_graph(cls, graph: Graph) -> Sequences:
        """The training histories of all users, with repetitions.

        Raises:
            InputError: the graph has no order in time.
        """
        check_ordered(graph, "a model of sequences")
        order = graph.chronological_order()
        assert order is not None
        return cls.from_rows(graph.interactions.src[order], graph.interactions.dst[order], graph.n_users)

    @classmethod
    def from_histories(cls, histories: Sequence[Tensor], n_items: int) -> Sequences:
        """Histories as given, oldest item first.

        Raises:
            InputError: an item row is outside the catalogue.
        """
        rows = item_rows(histories, n_items)
        indptr = np.concatenate([[0], np.cumsum([row.size for row in rows])]).astype(np.int64)
        return cls(indptr, np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int32))

    @classmethod
    def from_padded(cls, items: npt.NDArray[np.integer], pad: int) -> Sequences:
        """Rows of a padded array [n, L], oldest item first; padding may be on either side."""
        real = items != pad
        indptr = np.concatenate([[0], np.cumsum(real.sum(1))]).astype(np.int64)
        return cls(indptr, items[real].astype(np.int32))

    @property
    def n(self) -> int:
        """Number of histories."""
        return self.indptr.size - 1

    def lengths(self) -> Int64:
        """Length of each full history, int64 [n]."""
        return np.diff(self.indptr)

    def take(self, rows: npt.NDArray[np.integer]) -> Sequences:
        """Some histories, in the given order."""
        indptr, at = concat_ranges(self.indptr[rows], self.lengths()[rows])
        return Sequences(indptr, self.items[at])

    def then(self, more: Sequences) -> Sequences:
        """Each history followed by the history of the same row in ``more``."""
        lengths = np.stack([self.lengths(), more.lengths()], axis=1).ravel()
        both = np.concatenate([self.items, more.items])
        starts = np.stack([self.indptr[:-1], more.indptr[:-1] + self.items.size], axis=1).ravel()
        indptr, at = concat_ranges(starts, lengths)
        return Sequences(indptr[::2].copy(), both[at])

    def windows(self, width: int, ends: Int64 | None = None) -> tuple[Int64, Int64]:
        """The last ``width`` items of each history, left-aligned and padded with zeros.

        Args:
            width: of the window.
            ends: int64 [n], number of a history's items up to the end of its window; all by default.

        Returns:
            int64 [n, longest window], and the number of items in each window, int64 [n].
        """
        ends = self.lengths() if ends is None else ends
        sizes = np.minimum(ends, width)
        out = np.zeros((self.n, int(sizes.max(initial=0))), np.int64)
        real = np.arange(out.shape[1]) < sizes[:, None]
        out[real] = self.items[concat_ranges(self.indptr[:-1] + ends - sizes, sizes)[1]]
        return out, sizes

    def decayed(self, n_items: int, window: int, decay: float) -> Csr:
        """Each history as a row of its latest ``window`` items, the k-th latest (from 0) with weight decay^k.

        The weights of an item that occurs more than once are added.
        """
        items, n_valid = self.windows(furthest(window, decay))
        age = n_valid[:, None] - 1 - np.arange(items.shape[1])
        row, position = np.nonzero(age >= 0)
        distinct, at = np.unique(row * n_items + items[row, position], return_inverse=True)
        weight = np.bincount(at, weights=decay ** age[row, position].astype(np.float64))
        return Csr.from_pairs(*np.divmod(distinct, n_items), (self.n, n_items), weight.astype(np.float64))

    def tensors(self) -> list[Tensor]:
        """Each history as a tensor, int64 [length]."""
        parts = np.split(self.items.astype(np.int64), self.indptr[1:-1])
        return [torch.from_numpy(part) for part in parts[: self.n]]  # np.split gives one part even without histories
