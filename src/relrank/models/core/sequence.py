"""Models of the next item: what a history says at each of its moments, times the vectors of the items.

    h_t = encoder(q_{s_1}, …, q_{s_t}),      score(i) = h_t · q_i

One forward pass over a history trains every moment of it. A history is its last ``window`` items, and its true length
is never forgotten. Windows are left-aligned in memory, with padding behind; the *places* that an encoder is told are
counted from the end, so that the latest item always has the same one, whatever the length of the history and whatever
stands around it as padding. Since nothing is known of a user but the history, new histories are scored as those of
training are; an empty one gets equal scores.
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
from relrank.graph.sequences import Sequences
from relrank.kernels.csr import Int32, Int64
from relrank.models.core.base import GridParameter, SequenceScorer, user_rows
from relrank.models.core.hyperparameters import AlwaysZero, Bounds, DropFraction, Positive
from relrank.models.core.space import Choice, Range
from relrank.models.core.vectors import Batch, Loss, ProductModel, Similarity, VectorConfig, methods_not_overridden

GROUPS = 4
"""Windows of a batch are put together by length into so many groups, each as wide as its longest."""
SCORING_BATCH_SIZE = 512
"""Histories encoded at a time in scoring."""
Crop = Literal["last", "random"]


@dataclass(frozen=True, slots=True)
class SequenceConfig(VectorConfig):
    """Hyper-parameters that every model of sequences shares."""

    loss: Loss = "full-softmax"
    similarity: Similarity = "dot"
    temperature: Positive = 1.0
    init_scale: Positive = 0.02
    window: Annotated[int, Bounds(2, 100_000)] = 200
    """Items of a history that are read, the latest ones."""
    l2: AlwaysZero = 0.0
    """Made for a user's one vector, of which a history has many."""
    contrast: AlwaysZero = 0.0
    """Likewise: the moments of one user are no strangers."""
    crop: Crop = "last"
    """What is trained of a longer history: its last window, or one that ends anywhere, drawn anew every epoch."""
    dropout: DropFraction = 0.2
    """Share of entries dropped from the input and from what each layer adds."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of a similar length, one a row.

    Attributes:
        items: int64 [b, L], item rows, left-aligned; what stands behind the real ones is never read.
        n_valid: int64 [b], items of each window; at least one.
        lengths: int64 [b], true length of each history, the last ``n_valid`` items of which are in the window.
        at: bool [b, L], the moments whose next item (or hidden item) is to be found.
    """

    items: Tensor
    n_valid: Tensor
    lengths: Tensor
    at: Tensor

    def to(self, device: torch.device) -> Windows:
        """The same on a device."""
        return Windows(*(x.to(device) for x in (self.items, self.n_valid, self.lengths, self.at)))


class SequenceModel(SequenceScorer, ProductModel):
    """An encoder of histories with everything around it.

    A subclass gives ``states``; ``windows`` and ``scoring_windows`` if it does not learn from the next item;
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
        """Dropout: what else is worth a ladder is learned."""
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
        """What each moment knows: inputs [b, L, dim] → [b, L, dim]; nothing of what stands behind the real items.

        Args:
            x: the items' vectors.
            windows: their lengths.
            generator: of the dropout; None in scoring.
        """

    def examples(self) -> tuple[Int32, Int32]:
        """Users with at least two items; the item beside each is their last.

        Raises:
            InputError: there are none.
        """
        users = np.flatnonzero(self.sequences.lengths() >= 2).astype(np.int32)
        if not users.size:
            raise InputError(
                "no history has a next item",
                where=self.name,
                expected="users with two training items or more",
                found="none",
            )
        return users, self.sequences.items[self.sequences.indptr[users + 1] - 1]

    def init_weights(self, seed: int) -> None:
        """Normal item vectors; a subclass adds its encoder's."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * self.config.init_scale)
            self.init_encoder(generator)
        self.clear_derived()

    @abstractmethod
    def init_encoder(self, generator: torch.Generator) -> None:
        """Fresh parameters of the encoder; called without gradients."""

    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Batch:
        """Windows of the users' histories; each moment that is trained is one edge of the batch.

        ``users`` of the batch are the moments' users, one for each moment and so not distinct; ``encoder_inputs`` are
        the windows. Users with fewer than two items have nothing to predict.

        Raises:
            ValueError: that is all of them.
        """
        del positives
        draw, crop, noise, thinning = seed.spawn(4)
        users = np.unique(users)
        users = users[self.sequences.lengths()[users] >= 2]
        if not users.size:
            raise ValueError("no user of the batch has two items")
        histories = self.sequences.take(users)
        rng = np.random.default_rng(crop)
        groups, who, targets = [], [], []
        ends = self._ends(histories, rng)
        for rows in _by_length(np.minimum(ends, self.config.window + 1)):
            made, target = self.windows(histories.take(rows), ends[rows], rng)
            who.append(np.repeat(users[rows], made.at.sum(1).numpy()))
            groups.append(made)
            targets.append(target)
        user, target = np.concatenate(who), np.concatenate(targets)
        if self._chances is not None:
            kept = self._thinned(user, target, thinning)
            user, target = user[kept], target[kept]
            groups = _kept(groups, kept)
        choices = self.draw(user, target, draw)
        return choices.batch(user, np.arange(user.size), None, noise, tuple(groups))

    def _ends(self, histories: Sequences, rng: np.random.Generator) -> Int64:
        """Where each training window ends: with the history, or anywhere from the first full window on."""
        lengths = histories.lengths()
        if self.config.crop == "last":
            return lengths
        first = np.minimum(lengths, self.config.window + 1)
        return rng.integers(first, lengths + 1)

    def windows(
        self, histories: Sequences, ends: Int64, rng: np.random.Generator
    ) -> tuple[Windows, npt.NDArray[np.int64]]:
        """Training windows that end at ``ends``, and the item to be found at each moment of ``at``.

        By default the moments are all but the last, and what is to be found is the next item.
        """
        del rng
        items, n_valid = histories.windows(self.config.window + 1, ends)
        at = np.arange(items.shape[1] - 1) < (n_valid - 1)[:, None]
        target = items[:, 1:][at]
        parts = (np.ascontiguousarray(items[:, :-1]), n_valid - 1, ends - 1, at)
        return Windows(*(torch.from_numpy(p) for p in parts)), target

    def scoring_windows(self, histories: Sequences) -> Windows:
        """Windows for scoring, in whose last real moment the next item is asked for; no history may be empty."""
        items, n_valid = histories.windows(self.config.window)
        at = np.arange(items.shape[1]) == (n_valid - 1)[:, None]
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid, histories.lengths(), at)))

    def inputs(self, windows: Windows) -> Tensor:
        """Vectors that the encoder reads, [b, L, dim]."""
        return functional.embedding(windows.items, self.table)

    def outputs(self) -> Tensor:
        """Vectors of all items as the right side of the product, [n_items, d]."""
        return self.table

    def target_states(self, windows: Windows, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """The moments ``windows.at``, in row order, as the left side of the product, [n, d].

        Args:
            windows: of histories.
            items: the product's right side, as ``outputs`` gave it.
            generator: of the dropout; None in scoring.
        """
        del items
        return self.states(self.inputs(windows), windows, generator)[windows.at]

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch's moments and items."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        items = self.outputs()
        target_states = torch.cat([self.target_states(windows, items, generator) for windows in batch.encoder_inputs])
        return target_states, items if batch.negative_index is None else items.index_select(0, batch.items)

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the items' side of the product once."""
        self._items = self.outputs().detach()

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are products of the vectors below and nothing else: not where a subclass says otherwise."""
        return methods_not_overridden(self, SequenceModel, "score", "fold_in", "score_sequences")

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]."""
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
        """The latest moment of each history, [histories.n, d]; zeros for an empty one."""
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
    """Rows of similar length together, a few groups of equal size."""
    order = np.argsort(lengths, kind="stable")
    return [part for part in np.array_split(order, GROUPS) if part.size]


def _kept(groups: Sequence[Windows], kept: npt.NDArray[np.bool_]) -> list[Windows]:
    """The same windows, with fewer moments to be found."""
    found, first = [], 0
    for windows in groups:
        at = windows.at.clone()
        n = int(at.sum())
        at[windows.at] = torch.from_numpy(kept[first : first + n])
        found.append(replace(windows, at=at))
        first += n
    return found


def places(windows: Windows, window: int) -> Tensor:
    """Place of every item counted from the end of its window: ``window − 1`` for the latest, int64 [b, L].

    Behind the real items it is ``window − 1``, too; nothing reads it there.
    """
    at = torch.arange(windows.items.shape[1], device=windows.items.device)
    return (window - windows.n_valid[:, None] + at).clamp(max=window - 1)
