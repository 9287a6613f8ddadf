"""Models that score by the product of a user's and an item's vector, with any loss and any negative sampling.

An encoder gives the vectors; negatives, scores and losses are here, so that two encoders differ in the encoder alone.
The user's vector belongs to the user (``VectorModel``) or to a position in the history
(``relrank.models.core.sequence_model``). Scores are dot products or cosines, divided by a temperature in training. If
interactions have different weights, a batch keeps each edge with a probability proportional to its weight.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.sampling.negatives import NegativeSampler, distinct
from relrank.kernels.csr import Csr, Float32, Int64
from relrank.kernels.edge_products import edge_products
from relrank.models.core import losses
from relrank.models.core.base import GridParameter, Trained, history_rows, user_rows
from relrank.models.core.hyperparameters import (
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    Power,
    UnitInterval,
)
from relrank.models.core.search_dimensions import Choice, Range

Loss = Literal["softmax", "full-softmax", "bpr", "bce", "gbce"]
Sampling = Literal["uniform", "popularity", "in-batch", "mixed"]
Similarity = Literal["cosine", "dot"]


@dataclass(frozen=True, slots=True)
class VectorConfig:
    """Hyper-parameters of every encoder: dimension, loss and negative sampling."""

    dim: PositiveInt = 64
    """Embedding dimension; multiples of 16 use the fast kernel."""
    loss: Loss = "softmax"
    """Sampled softmax, softmax over the whole catalogue, BPR, binary cross-entropy, or its generalised form."""
    similarity: Similarity = "cosine"
    """Cosines, or dot products."""
    temperature: Positive = 0.1
    """Scores are divided by it inside the loss; 1 with dot products is the plain form of BPR and BCE."""
    sampling: Sampling = "uniform"
    """Negative sampling: uniform, by popularity^power, in-batch positives, or half uniform and half in-batch."""
    negatives: PositiveInt = 1024
    """Negatives per batch (``shared``) or per training edge."""
    shared: bool = True
    """Whether the edges of a batch share their negatives."""
    hardest: NonNegativeInt = 0
    """Number of highest-scored negatives kept; 0 keeps all."""
    power: Power = 0.75
    """Exponent of popularity sampling (Mikolov et al. 2013)."""
    log_q: bool = True
    """Correct the softmax for the sampling probabilities of the negatives (Bengio & Senécal 2008)."""
    calibration: UnitInterval = 0.75
    """t of gBCE (Petrov & Macdonald 2023): 0 is BCE, 1 fully calibrated."""
    contrast: NonNegative = 0.0
    """Weight of InfoNCE between two noisy views of the batch's users and positive items (Yu et al. 2022)."""
    contrast_temperature: Positive = 0.2
    """Temperature of InfoNCE."""
    noise: NonNegative = 0.1
    """Length of the noise that creates a view."""
    l2: NonNegative = 0.0
    """Penalty on the unpropagated vectors of a batch (He et al. 2020, eq. 15)."""
    init_scale: Positive = 0.1
    """Standard deviation of the initial vectors."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Inputs of one training step, prepared on the CPU; nodes are listed once.

    Attributes:
        users: distinct user rows, int64 [U].
        items: distinct item rows, int64 [C]: positives and negatives.
        user_index: index of each edge's user in ``users``, int64 [B].
        positive_index: index of each edge's positive in ``items``, int64 [B].
        negative_index: indices of the negatives in ``items``: int64 [n] for all edges, [B, n] per edge; None for the
            softmax over the whole catalogue, where ``items`` are all items that may be negatives.
        excluded: bool [B, n], True where a "negative" is one of the user's own items.
        known: for the whole catalogue, the users' own items as indices in ``users`` and ``items``, which the softmax
            excludes; None excludes nothing.
        log_q: log-probability of sampling each of ``items``, float32 [C], or None.
        seed: of the noise in this step.
        encoder_inputs: further inputs of the encoder.
    """

    users: Tensor
    items: Tensor
    user_index: Tensor
    positive_index: Tensor
    negative_index: Tensor | None
    excluded: Tensor | None
    known: tuple[Tensor, Tensor] | None
    log_q: Tensor | None
    seed: int
    encoder_inputs: Any = None

    def to(self, device: torch.device) -> Self:
        """A copy on a device."""

        def move(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(move(v) for v in value)
            return value.to(device) if hasattr(value, "to") else value

        return type(self)(*(move(getattr(self, f.name)) for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class BatchItems:
    """The items of a batch, as arrays; see ``Batch``."""

    items: Int64
    positive_index: Int64
    negative_index: Int64 | None
    excluded: npt.NDArray[np.bool_] | None
    log_q: Float32 | None

    def batch(
        self,
        users: Int64,
        user_index: Int64,
        known: tuple[Tensor, Tensor] | None,
        noise: np.random.SeedSequence,
        encoder_inputs: Any,
    ) -> Batch:
        """The batch with these items."""
        u, i, u_at, i_at = (torch.from_numpy(a) for a in (users, self.items, user_index, self.positive_index))
        at, excluded, log_q = (
            None if a is None else torch.from_numpy(a) for a in (self.negative_index, self.excluded, self.log_q)
        )
        return Batch(u, i, u_at, i_at, at, excluded, known, log_q, int(noise.generate_state(1)[0]), encoder_inputs)


class ProductModel(Trained):
    """Negatives, scores and losses for an encoder.

    A subclass gives ``table``, its free vectors; ``prepare``, which makes a ``Batch`` of the items from ``draw``; and
    ``encode``.
    """

    config: Any
    table: Tensor
    Config: ClassVar[type] = VectorConfig

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.penalty: float = c.l2
        """Factor of the squared lengths of an edge's vectors in the loss, halved."""
        # derived from the parameters, so not saved
        self.register_buffer("_items", torch.empty(0), persistent=False)
        self._items: Tensor
        self._sampler: NegativeSampler | None = None
        if c.loss != "full-softmax":
            self._sampler = NegativeSampler(self.history, c.sampling, c.negatives, c.shared, c.power)
        weights = self.history.data
        self._sampling_probability: Float32 | None = None
        if weights.size and weights.min() < weights.max():
            self._sampling_probability = weights / weights.max()
            self._edges: Int64 = self.history.rows().astype(np.int64) * graph.n_items + self.history.indices

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The temperature."""
        del graph
        return (GridParameter("temperature", (0.05, 0.07, 0.1, 0.14, 0.2), 0.1),)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Loss, similarity, temperature, sampling, penalty and learning rate; subclasses add the encoder's."""
        del graph
        softmaxes = ("softmax", "full-softmax")
        return (
            Choice("loss", (*softmaxes, "bpr", "gbce")),
            Choice("similarity", ("cosine", "dot")),
            Range("temperature", 0.05, 0.5, log=True),
            Choice("sampling", ("uniform", "mixed"), when=("loss", ("softmax", "bpr", "gbce"))),
            GridParameter("l2", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), 0.0),
            Range("train.lr", 3e-3, 5e-2, log=True),
        )

    def init_weights(self, seed: int) -> None:
        """Normal free vectors; the encoder's parameters by ``init_encoder``."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * self.config.init_scale)
            self.init_encoder(generator)
        self.clear_derived()

    def init_encoder(self, generator: torch.Generator) -> None:
        """Initialise further parameters; called without gradients."""
        del generator

    @abstractmethod
    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of ``batch.users`` [U, d] and ``batch.items`` [C, d], with gradients."""

    def offsets(self, batch: Batch) -> Tensor | None:
        """Terms added to the scores of ``batch.users``, already divided by the temperature: [U, n_items] or None."""
        del batch
        return None

    def penalised_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The unpropagated vectors of ``batch.users`` and ``batch.items``, which ``l2`` penalises."""
        del batch
        raise InputError("model has no free vectors to penalise", where=self.name, expected="l2 = 0", found="l2")

    def contrastive_views(
        self, batch: Batch, users: Tensor, items: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Two views of the users and two of the items for InfoNCE: by default the vectors with independent noise."""
        generator = torch.Generator(users.device).manual_seed(batch.seed)
        one, other = (tuple(add_noise(x, self.config.noise, generator) for x in (users, items)) for _ in range(2))
        return (one[0], other[0]), (one[1], other[1])

    def draw(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> BatchItems:
        """Items of a batch: positives and sampled negatives, or the whole catalogue.

        Args:
            users: user rows [B].
            positives: item rows [B].
            seed: of the negatives.
        """
        if self._sampler is None:
            return BatchItems(np.arange(self.graph.n_items), positives, None, None, None)
        self._sampler.parallel = self.parallel
        sampled = self._sampler.draw(users, positives, seed)
        items, at = distinct(np.concatenate([positives, sampled.items]), self.graph.n_items)
        positive_index, negative_index = at[: positives.size], at[positives.size :]
        log_q = None
        if sampled.log_q is not None and self.config.log_q:
            log_q = np.zeros(items.size, np.float32)
            log_q[negative_index] = sampled.log_q
        if sampled.columns is not None:
            negative_index = negative_index[sampled.columns]
        return BatchItems(items, positive_index, negative_index, sampled.excluded, log_q)

    def _sample_edges(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> npt.NDArray[np.bool_]:
        """Edges of a batch that are trained on, at least one: each with probability weight / largest weight.

        So an edge counts in proportion to its weight, for any loss; the loss is a mean over the sampled edges. All
        edges stay in the graph.
        """
        assert self._sampling_probability is not None
        edges = users * self.graph.n_items + positives
        at = np.minimum(np.searchsorted(self._edges, edges), self._edges.size - 1)
        probability = np.where(self._edges[at] == edges, self._sampling_probability[at], 1)
        sampled: npt.NDArray[np.bool_] = np.random.default_rng(seed).random(edges.size) < probability
        if not sampled.any():
            sampled[probability.argmax()] = True
        return sampled

    def loss(self, batch: Batch) -> Tensor:
        """The configured ranking loss, plus penalty and contrast."""
        c = self.config
        users, items = self.encode(batch)
        raw = users, items
        if c.similarity == "cosine":
            users, items = functional.normalize(users, dim=1), functional.normalize(items, dim=1)
        value = self._ranking_loss(batch, users, items)
        if self.penalty:
            value = value + self.penalty * self._penalty(batch)
        if c.contrast:
            positives = torch.unique(batch.positive_index)
            (a, b), (p, q) = self.contrastive_views(batch, *raw)
            for one, two in ((a, b), (p[positives], q[positives])):
                value = value + c.contrast * losses.info_nce(one, two, c.contrast_temperature)
        return value

    def _ranking_loss(self, batch: Batch, users: Tensor, items: Tensor) -> Tensor:
        c = self.config
        offsets = self.offsets(batch)
        if batch.negative_index is None and batch.known is None and offsets is None:
            left = users if len(users) == len(batch.user_index) else users.index_select(0, batch.user_index)
            return losses.catalogue_softmax(left, items, batch.positive_index, c.temperature)
        if batch.negative_index is None:
            scores = users @ items.T
            if offsets is not None:
                if len(items) != offsets.shape[1]:
                    offsets = offsets.index_select(1, batch.items)
                scores = scores + offsets * c.temperature
            return losses.full_softmax(scores, batch.user_index, batch.positive_index, batch.known, c.temperature)
        excluded, at = batch.excluded, batch.negative_index
        if at.dim() == 2 and len(items) > at.shape[1] * users.shape[1]:  # cheaper than all products
            scores = edge_products(users, items, batch.user_index, torch.cat([batch.positive_index[:, None], at], 1))
            positive, negative = scores[:, 0], scores[:, 1:]
        else:
            u = users.index_select(0, batch.user_index)
            positive = (u * items.index_select(0, batch.positive_index)).sum(1)
            plain = c.loss == "softmax" and not c.hardest and offsets is None and u.dtype == torch.float32
            if plain and at.dim() == 1 and not torch.is_autocast_enabled(u.device.type):
                log_q = None if batch.log_q is None else batch.log_q[at]
                others = items.index_select(0, at)
                return losses.shared_softmax(u, positive, others, excluded, c.temperature, log_q)
            negative = u @ items.index_select(0, at).T if at.dim() == 1 else (u @ items.T).gather(1, at)
        if offsets is not None:
            offsets = offsets * c.temperature
            users_at = batch.user_index[:, None]
            positive = positive + offsets[batch.user_index, batch.items[batch.positive_index]]
            negative = negative + offsets[users_at, batch.items[at.expand(len(batch.user_index), -1)]]
        if c.hardest:
            columns = losses.keep_hardest(negative, excluded, c.hardest)
            negative = negative.gather(1, columns)
            excluded = None if excluded is None else excluded.gather(1, columns)
            at = at.expand(len(batch.user_index), -1).gather(1, columns)
        if c.loss == "softmax":
            q = None if batch.log_q is None else batch.log_q[at]
            return losses.sampled_softmax(positive, negative, excluded, c.temperature, q)
        positive, negative = positive / c.temperature, negative / c.temperature
        if c.loss == "bpr":
            return losses.bpr(positive, negative, excluded)
        if c.loss == "bce":
            return losses.bce(positive, negative, excluded)
        return losses.gbce(positive, negative, excluded, self.graph.n_items, c.calibration)

    def _penalty(self, batch: Batch) -> Tensor:
        """½ ‖·‖² of every edge's user, positive and own negatives, mean over the edges."""
        users, items = (x.square().sum(1) for x in self.penalised_vectors(batch))
        total = users[batch.user_index].sum() + items[batch.positive_index].sum()
        if batch.negative_index is not None:
            total = total + items[batch.negative_index].sum()
        return 0.5 * total / len(batch.user_index)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters and drop cached vectors."""
        self.load_state_dict(dict(state))
        self.clear_derived()

    @property
    def encoded_items(self) -> Tensor:
        """Item vectors as they were encoded last, [n_items, d]; empty before the first scores."""
        return self._items

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        self._items = torch.empty(0, device=self._items.device)


class VectorModel(ProductModel):
    """Training and scoring of an encoder of users and items.

    A subclass gives ``encode`` (vectors of a batch, with gradients), ``encode_all`` and ``encode_histories``.
    """

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__(graph, config)
        self.register_buffer("_users", torch.empty(0), persistent=False)
        self._users: Tensor

    @abstractmethod
    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [n_users, d] and all items [n_items, d], exact, without gradients."""

    @abstractmethod
    def encode_histories(self, rows: Csr) -> Tensor:
        """Vectors of users unseen during training, from their items: [rows.n_rows, d]."""

    def encoder_inputs(
        self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence
    ) -> Any:
        """Further inputs of ``encode``, such as sampled neighbours; runs on the CPU, perhaps in another thread.

        Args:
            users: distinct user rows of the batch.
            items: distinct item rows of the batch.
            edges: the batch's training edges, (user rows, item rows).
            seed: of the random draws.
        """
        del users, items, edges, seed

    def rows_of(self, table: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of the batch's users and items in a table of all users, then all items."""
        return table.index_select(0, batch.users), table.index_select(0, batch.items + self.graph.n_users)

    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Batch:
        """Distinct nodes, negatives and encoder inputs of one batch of training edges."""
        draw, encoder_seed, noise, thinning = seed.spawn(4)
        if self._sampling_probability is not None:
            sampled = self._sample_edges(users, positives, thinning)
            users, positives = users[sampled], positives[sampled]
        unique_users, user_index = distinct(users, self.graph.n_users)
        items, known = self.draw(users, positives, draw), None
        if items.negative_index is None:
            histories = self.history.take(unique_users)
            columns = histories.indices.astype(np.int64)
            if items.items.size < self.graph.n_items:
                columns = np.searchsorted(items.items, columns)
            known = torch.from_numpy(histories.rows().astype(np.int64)), torch.from_numpy(columns)
        encoder_inputs = self.encoder_inputs(unique_users, items.items, (users, positives), encoder_seed)
        return items.batch(unique_users, user_index, known, noise, encoder_inputs)

    def refresh(self) -> None:
        """Encode all users and items once."""
        with torch.no_grad():
            users, items = self.encode_all()
            if self.config.similarity == "cosine":
                users, items = functional.normalize(users, dim=1), functional.normalize(items, dim=1)
        self._users, self._items = users, items

    def encoded(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [n_users, d] and items [n_items, d] whose products are the scores.

        They have length 1 under cosine similarity.
        """
        if not self._items.numel():
            self.refresh()
        return self._users, self._items

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are exactly products of the vectors below; False if a subclass overrides scoring."""
        return is_dot_product_model(self)

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, d]."""
        return self.encoded()[1]

    def user_vectors(self, users: Tensor) -> Tensor:
        """Vectors [B, d] of user rows int64 [B].

        Raises:
            InputError: a user row outside the graph.
        """
        vectors, rows = self.encoded()[0], user_rows(users, self.graph.n_users)
        return vectors[torch.from_numpy(rows).to(vectors.device)]

    @torch.no_grad()
    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, d] of B histories.

        Raises:
            InputError: an item row outside the catalogue.
        """
        users = self.encode_histories(history_rows(histories, self.graph.n_items))
        return functional.normalize(users, dim=1) if self.config.similarity == "cosine" else users

    def score(self, users: Tensor) -> Tensor:
        """Products of the encoded vectors."""
        return self.user_vectors(users) @ self.item_vectors().T

    @torch.no_grad()
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Products of the histories' vectors and the items'."""
        items = self.item_vectors()
        return self.history_vectors(histories) @ items.T

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        super().clear_derived()
        self._users = self._items


def methods_not_overridden(model: object, kind: type, *methods: str) -> bool:
    """Whether a model has these methods from the class ``kind``, neither overridden nor replaced."""
    return all(getattr(getattr(model, m), "__func__", None) is getattr(kind, m) for m in methods)


def is_dot_product_model(model: object) -> TypeGuard[VectorModel]:
    """Whether scores of users and of histories are exactly products of the model's vectors."""
    return isinstance(model, VectorModel) and methods_not_overridden(model, VectorModel, "score", "fold_in")


def add_noise(x: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """Add noise of a given length in the same orthant as the vector (Yu et al. 2022, eq. 8)."""
    # drawn in float32, so that every precision gets the same noise
    drawn = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32).to(x.dtype)
    return x + x.sign() * functional.normalize(drawn, dim=1) * length
