"""Next-item models: an encoded state per position of a history, times the item vectors.

    h_t = encoder(q_{s_1}, …, q_{s_t}),      score(i) = h_t · q_i

One forward pass trains every position of a history. The encoder reads the last ``window`` items. Windows are
left-aligned, with padding on the right; *positions* count from the end, so that the latest item always has the same
one, whatever the length of the history. A user is only their history, so new histories are scored like those of
training; an empty one gets equal scores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.kernels.csr import Int32, Int64
from relrank.models.core.base import GridParameter, SequenceScorer, user_rows
from relrank.models.core.hyperparameters import AlwaysZero, Bounds, DropFraction, Positive
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import (
    Batch,
    Loss,
    ProductModel,
    Similarity,
    VectorConfig,
    methods_not_overridden,
)

GROUPS = 4
"""The windows of a batch are grouped by length into this many groups, each padded to its longest window."""
SCORING_BATCH_SIZE = 512
"""Histories encoded at a time when scoring."""
Crop = Literal["last", "random"]


@dataclass(frozen=True, slots=True)
class SequenceConfig(VectorConfig):
    """Hyper-parameters of every sequence model."""

    loss: Loss = "full-softmax"
    similarity: Similarity = "dot"
    temperature: Positive = 1.0
    init_scale: Positive = 0.02
    window: Annotated[int, Bounds(2, 100_000)] = 200
    """Latest items of a history that the encoder reads."""
    l2: AlwaysZero = 0.0
    """Not available: it penalises one vector per user, and a history has one per position."""
    contrast: AlwaysZero = 0.0
    """Not available: positions of one user are not negatives of each other."""
    crop: Crop = "last"
    """Training window of a longer history: the last one, or one that ends at a random position, drawn every epoch."""
    dropout: DropFraction = 0.2
    """Dropout on the input and on the output of each layer."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of similar length, one per row.

    Attributes:
        items: int64 [b, L], item rows, left-aligned; padding is never read.
        n_valid: int64 [b], items in each window, at least one.
        lengths: int64 [b], length of each full history, whose last ``n_valid`` items are the window.
        at: bool [b, L], positions whose target (the next item, or the masked one) is predicted.
    """

    items: Tensor
    n_valid: Tensor
    lengths: Tensor
    at: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same on a device."""
        return Windows(*(x.to(device) for x in (self.items, self.n_valid, self.lengths, self.at)))


class SequenceModel(SequenceScorer, ProductModel):
    """Training and scoring of a history encoder.

    A subclass gives ``states``; also ``windows`` and ``scoring_windows`` if its targets are not the next items, and
    ``target_states`` and ``outputs`` if items are more than rows of one table.
    """

    Config: ClassVar[type] = SequenceConfig

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.sequences = Sequences.from_graph(graph)
        self.table = nn.Parameter(torch.zeros(graph.n_items, c.dim))

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Dropout."""
        del graph
        return (GridParameter("dropout", (0.0, 0.1, 0.2, 0.3, 0.5), 0.2),)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Loss, dropout, windows and learning rate."""
        del graph
        return (
            Choice("loss", ("full-softmax", "softmax", "gbce")),
            Range("dropout", 0.0, 0.5),
            Choice("crop", ("last", "random")),
            Range("train.lr", 3e-4, 1e-2, log=True),
        )

    @abstractmethod
    def states(self, x: Tensor, windows: Windows, generator: torch.Generator | None) -> Tensor:
        """State of each position: inputs [b, L, dim] → [b, L, dim]; independent of the padding.

        Args:
            x: vectors of the items.
            windows: the items' windows.
            generator: of the dropout; None when scoring.
        """

    def examples(self) -> tuple[Int32, Int32]:
        """Users with at least two items, each with their last item.

        Raises:
            InputError: there are none.
        """
        users = np.flatnonzero(self.sequences.lengths() >= 2).astype(np.int32)
        if not users.size:
            raise InputError(
                "no history has two items",
                where=self.name,
                expected="users with two training items or more",
                found="none",
            )
        return users, self.sequences.items[self.sequences.indptr[users + 1] - 1]

    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Batch:
        """Windows of the users' histories; each trained position is one edge of the batch.

        ``Batch.users`` has one entry per position, so users repeat; ``encoder_inputs`` are the windows. Users with
        fewer than two items are dropped.

        Raises:
            ValueError: no user has two items.
        """
        del positives
        draw, crop, noise, thinning = seed.spawn(4)
        users = np.unique(users)
        users = users[self.sequences.lengths()[users] >= 2]
        if not users.size:
            raise ValueError("no user of the batch has two items")
        histories = self.sequences.take(users)
        rng = np.random.default_rng(crop)
        groups, owners, targets = [], [], []
        ends = self._ends(histories, rng)
        for rows in _by_length(np.minimum(ends, self.config.window + 1)):
            windows, target = self.windows(histories.take(rows), ends[rows], rng)
            owners.append(np.repeat(users[rows], windows.at.sum(1).numpy()))
            groups.append(windows)
            targets.append(target)
        user, target = np.concatenate(owners), np.concatenate(targets)
        if self._sampling_probability is not None:
            sampled = self._sample_edges(user, target, thinning)
            user, target = user[sampled], target[sampled]
            groups = _select_targets(groups, sampled)
        choices = self.draw(user, target, draw)
        return choices.batch(user, np.arange(user.size), None, noise, tuple(groups))

    def _ends(self, histories: Sequences, rng: np.random.Generator) -> Int64:
        """End of each training window: that of the history, or random from the first full window on."""
        lengths = histories.lengths()
        if self.config.crop == "last":
            return lengths
        first = np.minimum(lengths, self.config.window + 1)
        return rng.integers(first, lengths + 1)

    def windows(
        self, histories: Sequences, ends: Int64, rng: np.random.Generator
    ) -> tuple[Windows, npt.NDArray[np.int64]]:
        """Training windows that end at ``ends``, and the target item of each position in ``at``.

        By default every position but the last predicts the next item.
        """
        del rng
        items, n_valid = histories.windows(self.config.window + 1, ends)
        at = np.arange(items.shape[1] - 1) < (n_valid - 1)[:, None]
        target = items[:, 1:][at]
        parts = (np.ascontiguousarray(items[:, :-1]), n_valid - 1, ends - 1, at)
        return Windows(*(torch.from_numpy(p) for p in parts)), target

    def scoring_windows(self, histories: Sequences) -> Windows:
        """Windows for scoring, in which the last valid position predicts the next item; no history may be empty."""
        items, n_valid = histories.windows(self.config.window)
        at = np.arange(items.shape[1]) == (n_valid - 1)[:, None]
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid, histories.lengths(), at)))

    def inputs(self, windows: Windows) -> Tensor:
        """Input vectors of the encoder, [b, L, dim]."""
        return functional.embedding(windows.items, self.table)

    def outputs(self) -> Tensor:
        """Output vectors of all items, [n_items, d]."""
        return self.table

    def target_states(self, windows: Windows, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """States of the positions ``windows.at``, in row order, [n, d].

        Args:
            windows: of histories.
            items: output vectors, from ``outputs``.
            generator: of the dropout; None when scoring.
        """
        del items
        return self.states(self.inputs(windows), windows, generator)[windows.at]

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States of the batch's target positions, and output vectors of its items."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        items = self.outputs()
        target_states = torch.cat([self.target_states(windows, items, generator) for windows in batch.encoder_inputs])
        return target_states, items if batch.negative_index is None else items.index_select(0, batch.items)

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the output vectors once."""
        self._items = self.outputs().detach()

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are exactly products of the vectors below; False if a subclass overrides scoring."""
        return methods_not_overridden(self, SequenceModel, "score", "fold_in", "score_sequences")

    def item_vectors(self) -> Tensor:
        """Output vectors of all items, [n_items, d]; normalised under cosine similarity."""
        if not self._items.numel():
            self.refresh()
        return functional.normalize(self._items, dim=1) if self.config.similarity == "cosine" else self._items

    def user_vectors(self, users: Tensor) -> Tensor:
        """Vectors [B, d] of the training histories of user rows int64 [B]; zeros for an empty one.

        Raises:
            InputError: a user row outside the graph.
        """
        return self._latest(self.sequences.take(user_rows(users, self.graph.n_users)))

    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, d] of B histories; zeros for an empty one.

        Raises:
            InputError: an item row outside the catalogue.
        """
        return self._latest(Sequences.from_histories(histories, self.graph.n_items))

    def score_sequences(self, histories: Sequences) -> Tensor:
        """Encoded histories times the items; an empty one gets equal scores."""
        items = self.item_vectors()
        return self._latest(histories) @ items.T

    @torch.no_grad()
    def _latest(self, histories: Sequences) -> Tensor:
        """State after the last item of each history, [histories.n, d]; zeros for an empty one."""
        if not self._items.numel():
            self.refresh()
        vectors = self._items.new_zeros(histories.n, self._items.shape[1])
        lengths = histories.lengths()
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        for first in range(0, order.size, SCORING_BATCH_SIZE):
            rows = order[first : first + SCORING_BATCH_SIZE]
            target_states = self.target_states(
                self.scoring_windows(histories.take(rows)).to(self.table.device), self._items, None
            )
            if self.config.similarity == "cosine":
                target_states = functional.normalize(target_states, dim=1)
            vectors[torch.from_numpy(rows)] = target_states
        return vectors


def _by_length(lengths: Int64) -> list[npt.NDArray[np.int64]]:
    """Rows sorted by length, in ``GROUPS`` groups of equal size."""
    order = np.argsort(lengths, kind="stable")
    return [part for part in np.array_split(order, GROUPS) if part.size]


def _select_targets(groups: Sequence[Windows], selected: npt.NDArray[np.bool_]) -> list[Windows]:
    """The same windows with some of their target positions."""
    result, first = [], 0
    for windows in groups:
        at = windows.at.clone()
        n = int(at.sum())
        at[windows.at] = torch.from_numpy(selected[first : first + n])
        result.append(replace(windows, at=at))
        first += n
    return result


def positions(windows: Windows, window: int) -> Tensor:
    """Position of every item, counted so that the latest has ``window − 1``: int64 [b, L]; unused for padding."""
    at = torch.arange(windows.items.shape[1], device=windows.items.device)
    return (window - windows.n_valid[:, None] + at).clamp(max=window - 1)
