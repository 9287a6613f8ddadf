"""Two views of an item, what is written of it and what it shares with others, beside the vector of its own.

    v_i = γ own(i) + γ text(i) + γ attributes(i)    (``item_views``)
    h_u = attention over the history of u           (``history_attention``)
    s(u, i) = cos(h_u, v_i) / τ

A user is the history, without the batch's own edges: a target is never in the history that is to find it. What came
after the target may be, as in every model that reads a history as a whole.

Beside the ranking loss, an item's two views are to find each other among the batch's positives (InfoNCE, symmetric);
two items that one user has in the batch are no negatives of each other. Every item is encoded once in a step.

Scores are products. With ``paths`` they have a further part, what walks from the history lead to
(``models.graph.path_terms``): how often two items share an audience has the rank of the data, which no vector of some
ten columns has. With ``scorer = "rerank"`` a heavier head, trained along, looks at the top of the list again
(``relrank.models.two_view.rerank``).

Relations read are those that link items with texts, with other nodes but users, or among themselves, and those that
link users with nodes that are neither; one that touches neither users nor items is composed along the chain that
leads there. Features are those of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.aggregation import sparse_product
from relrank.graph.composition import compose_graph
from relrank.graph.construction.text_nodes import text_relations
from relrank.graph.graph import Graph
from relrank.graph.meta_paths import meta_paths
from relrank.graph.relation_chains import hops
from relrank.graph.sequences import Sequences
from relrank.kernels.csr import Csr, Int64
from relrank.models.core import losses
from relrank.models.core.base import GridParameter, history_rows, user_rows
from relrank.models.core.hyperparameters import (
    AlwaysZero,
    DropFraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
)
from relrank.models.core.layers import check_heads
from relrank.models.core.space import Choice, Range
from relrank.models.core.vectors import Batch, BatchItems, Loss, VectorConfig, VectorModel, methods_not_overridden
from relrank.models.graph.path_terms import PathTerms
from relrank.models.two_view.history_attention import Histories, HistoryAttention, TrainingHistories
from relrank.models.two_view.item_views import PARTS, Encoded, ItemViews
from relrank.models.two_view.rerank import TargetAttention, hard_negatives, merge_reranked, users_at_once
from relrank.models.two_view.views import Draws, attribute_relations

Scorer = Literal["dot", "rerank"]
Views = Literal["both", "text", "attributes"]
Paths = Literal["none", "interactions", "all"]
USERS_AT_ONCE = 2048
"""Users that are read at a time outside training."""
ALIGNED = 1024
"""Items of a batch whose views are to find each other, at most."""


@dataclass(frozen=True, slots=True)
class TwoViewConfig(VectorConfig):
    """Hyper-parameters of the two-view recommender."""

    loss: Loss = "full-softmax"
    l2: AlwaysZero = 0.0
    """Vectors have length 1 wherever they are read."""
    heads: PositiveInt = 2
    """Heads of the attention over histories and across views; they divide ``dim``."""
    views: Views = "both"
    """Which views are read."""
    own_vectors: bool = True
    """Whether items have vectors of their own beside the views."""
    user_vectors: bool = False
    """Whether users of the graph have vectors of their own beside their histories."""
    own_dropout: DropFraction = 0.2
    """Share of the items that do without their own vector in a step, where a view can stand for it."""
    fanout: NonNegativeInt = 0
    """Neighbours that a node draws in every hop of a relation in each step; 0 trains on all. Scores read all."""
    window: NonNegativeInt = 200
    """Latest items of a history that are read, where histories have an order; 0 for all."""
    new_as_negatives: bool = True
    """Whether items that nobody chose in training are negatives like any others. They are never a positive, so that
    their texts and attributes are then learned as reasons against them: for ranking new items set it to false."""
    align: NonNegative = 0.1
    """Weight of the contrast between an item's two views."""
    align_temperature: Positive = 0.2
    """Its temperature."""
    paths: Paths = "none"
    """Whether walks through other users' histories, or through every relation, add to the products."""
    path_weight: Positive = 0.5
    """Starting weight of every kind of path; it is learned."""
    scorer: Scorer = "dot"
    """Products alone, or a heavier head that looks at the top of the list again as well."""
    top: PositiveInt = 200
    """Items that are looked at again."""
    candidates: PositiveInt = 32
    """Of these, how many an edge is trained against."""
    rerank: NonNegative = 1.0
    """Weight of the heavier head's loss."""


@dataclass(frozen=True, slots=True, eq=False)
class TwoViewInputs:
    """What a step reads beside its edges.

    Attributes:
        histories: of the batch's users, without the batch's own edges.
        users: their rows, int64 [n].
        drawn: edges of texts and attributes; None twice for all.
        aligned: item rows whose views are to find each other, int64 [m].
        same_user_pairs: pairs of places in ``aligned`` that one user has in the batch, int64 [2, n_pairs].
        paths: scores of paths from what is left of the histories, per kind float32 [n, n_items].
    """

    histories: Histories
    users: Int64
    drawn: tuple[Draws | None, Draws | None]
    aligned: Int64
    same_user_pairs: Int64
    paths: tuple[Tensor, ...]

    def to(self, device: torch.device) -> TwoViewInputs:
        """The same with scores of paths on a device; histories go there when they are read."""
        return replace(self, paths=tuple(p.to(device) for p in self.paths))


class Step(NamedTuple):
    """What ``encode`` made: items, keys of all events, users."""

    encoded: Encoded
    keys: Tensor
    users: Tensor


class TwoView(VectorModel):
    """Items by text and attributes, users by their histories."""

    name = "two-view"
    Config = TwoViewConfig
    relational = True
    featured = True
    max_batch_fraction: ClassVar[float] = 0.5

    def __init__(self, graph: Graph, config: TwoViewConfig | None = None) -> None:
        graph = compose_graph(graph)
        super().__init__(graph, config)
        c = self.config
        texts, attributes = self._views(graph, c)
        self.items = ItemViews(graph, texts, attributes, c.views != "text", c.own_vectors, c.dim, c.heads)
        self._both = self.items.known[:, 1:].all(1).numpy()
        self._spared = np.zeros(graph.n_items, bool)
        if not c.new_as_negatives:
            self._spared = np.bincount(self.history.indices, minlength=graph.n_items) == 0
        self.training_histories = TrainingHistories(graph, c.window)
        self.ordered = self.training_histories.ordered
        self.reader = HistoryAttention(c.dim, c.heads, self.training_histories.n_levels, self.ordered)
        self.head = TargetAttention(c.dim) if c.scorer == "rerank" else None
        self._sides = self._user_relations()
        self.users = nn.Parameter(torch.zeros(graph.n_users if c.user_vectors else 0, c.dim))
        self.paths = self._path_terms()
        # a walk passes by the user it is made for, whom a history alone does not name
        self.from_history = not (self._sides or self.reader.rated or c.user_vectors or self.paths)
        # the products' right side as it was before it was normalised: derived, so never saved
        self.register_buffer("_raw", torch.empty(0), persistent=False)
        self._raw: Tensor
        self._step: Step | None = None

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Heads divide the vector."""
        check_heads(config, where)

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Nothing must be there: without relations and features an item is its own vector."""
        del graph, config

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Those of the views that are asked for, of paths, and of users with nodes that are no items."""
        config, direct = config or cls.Config(), compose_graph(graph)
        read = {name for names in cls._views(direct, config) for name in names}
        for name, r in direct.relations.items():
            if r.source != r.target and graph.user in (r.source, r.target) and graph.item not in (r.source, r.target):
                read.add(name)
        if config.paths == "all":
            read |= set(direct.relations)
        over = hops(graph)  # what a relation is composed over counts, too
        read |= {hop for name in read for hop in over[name]}
        return tuple(name for name in graph.relations if name in read)

    @staticmethod
    def _views(graph: Graph, config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Relations of the text view and of the attribute view, as far as they are asked for."""
        texts = tuple(sorted(r.name for r in text_relations(graph) if r.source == graph.item and len(r)))
        attributes = attribute_relations(graph)
        return () if config.views == "attributes" else texts, () if config.views == "text" else attributes

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Temperature, contrast, what keeps own vectors from drowning the views, and the learning rate."""
        del graph
        return (
            Range("temperature", 0.07, 0.3, log=True),
            GridParameter("align", (0.0, 0.03, 0.1, 0.3), 0.1),
            GridParameter("own_dropout", (0.0, 0.1, 0.2, 0.4), 0.2),
            Range("train.lr", 1e-3, 2e-2, log=True),
        )

    def _user_relations(self) -> list[tuple[Csr, slice]]:
        """Users by nodes that are no items, rows adding up to 1, and the nodes' global numbers."""
        users, items = (self.items.adjacency.types[t] for t in (self.graph.user, self.graph.item))
        return [
            (e.csr.shares(), e.source)
            for e in self.items.adjacency.edge_types
            if e.destination == users and e.source not in (users, items)
        ]

    def _path_terms(self) -> PathTerms | None:
        """Kinds of path that are walked, or None."""
        c = self.config
        if c.paths == "none":
            return None
        kinds = meta_paths(self.graph)[: None if c.paths == "all" else 1]
        return PathTerms(kinds, torch.full((len(kinds),), c.path_weight), self.history)

    @property
    def relation_weights(self) -> dict[str, float]:
        """Weight of every kind of path as it stands."""
        return {} if self.paths is None else self.paths.weights

    def init_weights(self, seed: int) -> None:
        """Normal vectors; gates that count alike; histories that are nearly means."""
        generator = torch.Generator().manual_seed(seed)
        self.items.reset(generator, self.config.init_scale)
        self.reader.reset(generator, self.config.init_scale)
        with torch.no_grad():
            self.users.copy_(torch.randn(self.users.shape, generator=generator) * self.config.init_scale)
        if self.head is not None:
            self.head.reset(generator)
        if self.paths is not None:
            self.paths.reset()
        self.clear_derived()

    def draw(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> BatchItems:
        """As for every model with vectors, but without new items among the negatives if they are spared."""
        chosen = super().draw(users, positives, seed)
        if not self._spared.any():
            return chosen
        if chosen.negative_index is None:
            items = np.flatnonzero(~self._spared)
            return replace(chosen, items=items, positive_index=np.searchsorted(items, positives))
        new = np.broadcast_to(
            self._spared[chosen.items[chosen.negative_index]], (users.size, chosen.negative_index.shape[-1])
        )
        return replace(chosen, excluded=new | (False if chosen.excluded is None else chosen.excluded))

    def encoder_inputs(
        self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence
    ) -> Any:
        """The users' histories without the batch's own edges, edges of the views, and which items are aligned."""
        del items
        chance, walk = seed.spawn(2)
        drawn = self.items.draw(self.config.fanout, walk, self.parallel) if self.config.fanout else (None, None)
        aligned = same_user_pairs = np.zeros(0, np.int64)
        if self.config.align and self._both.any():
            aligned = np.unique(edges[1][self._both[edges[1]]])
            if aligned.size > ALIGNED:
                aligned = np.sort(np.random.default_rng(chance).choice(aligned, ALIGNED, replace=False))
            at = np.isin(edges[1], aligned)
            places = np.searchsorted(users, edges[0][at]), np.searchsorted(aligned, edges[1][at])
            has = csr_array((np.ones(at.sum(), np.int32), places), shape=(users.size, aligned.size))
            same_user_pairs = np.stack((has.T @ has).nonzero()).astype(np.int64)
        walked = () if self.paths is None else self.paths.encoder_inputs(users, edges, self.parallel)
        return TwoViewInputs(self.training_histories.of(users, edges), users, drawn, aligned, same_user_pairs, walked)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users from what is left of their histories, items from one pass over the catalogue."""
        generator = torch.Generator(self.items.table.device).manual_seed(batch.seed)
        read = batch.encoder_inputs
        encoded = self.items(self.config.own_dropout, generator, read.drawn)
        keys = self.reader.keys(encoded.items, read.histories, generator)
        users: Tensor = self.reader(encoded.items, keys, read.histories, self._side(read.users))
        self._step = Step(encoded, keys, users)
        items: Tensor = encoded.items
        return users, items if len(batch.items) == len(items) else items.index_select(0, batch.items)

    def offsets(self, batch: Batch) -> Tensor | None:
        """What paths add to the scores, [U, n_items]."""
        return None if self.paths is None else self.paths(batch.encoder_inputs.paths)

    def _side(self, users: Int64) -> Tensor | None:
        """Users' own vectors and what their relations with other nodes than items say, [n, dim]; None without any."""
        parts = [sparse_product(csr.take(users), self.items.table[nodes]) for csr, nodes in self._sides]
        if len(self.users):
            parts.append(self.users.index_select(0, torch.from_numpy(users).to(self.users.device)))
        return torch.stack(parts).sum(0) if parts else None

    def loss(self, batch: Batch) -> Tensor:
        """The ranking loss, the contrast of the views, and the heavier head's loss."""
        value, step, c = super().loss(batch), self._step, self.config
        self._step = None
        assert step is not None
        if batch.encoder_inputs.aligned.size > 1:
            value = value + c.align * self._alignment(batch.encoder_inputs, step)
        if self.head is not None and c.rerank:
            value = value + c.rerank * self._heavy_loss(batch, step)
        return value

    def _alignment(self, read: TwoViewInputs, step: Step) -> Tensor:
        """InfoNCE between the two views of the items that are aligned."""
        rows = torch.from_numpy(read.aligned).to(step.users.device)
        same_user_pairs = torch.zeros(len(rows), len(rows), dtype=torch.bool, device=rows.device)
        same_user_pairs[torch.from_numpy(read.same_user_pairs[0]), torch.from_numpy(read.same_user_pairs[1])] = True
        one, other = (view.index_select(0, rows) for view in step.encoded.views)
        return losses.info_nce(one, other, self.config.align_temperature, symmetric=True, excluded=same_user_pairs)

    def _heavy_loss(self, batch: Batch, step: Step) -> Tensor:
        """Softmax of each edge's positive among items from the top of its user's list, with what the head adds."""
        read, c, items = batch.encoder_inputs, self.config, step.encoded.items
        generator = torch.Generator(items.device).manual_seed(batch.seed + 1)
        left, right = self._normal(step.users), self._normal(items)
        offsets = self.offsets(batch)
        with torch.no_grad():
            scores = (left @ right.T).float()
            if offsets is not None:
                scores += offsets.detach() * c.temperature
            scores[:, torch.from_numpy(self._spared)] = -torch.inf
        known = _pairs(self.history.take(read.users), scores.device)
        negatives, excluded = hard_negatives(scores, known, c.top, c.candidates, generator)
        positives, at = batch.items.index_select(0, batch.positive_index), batch.user_index

        def whole(candidates: Tensor, owners: Tensor) -> Tensor:
            assert self.head is not None
            plain = (left.index_select(0, owners) * right.index_select(0, candidates)).sum(1) / c.temperature
            added: Tensor = self.head(items, candidates, owners, step.keys, step.users, read.histories)
            total: Tensor = plain + added
            return total if offsets is None else total + offsets[owners, candidates]

        # a user's negatives are looked at once, and stand beside each of the user's positives
        owners = torch.arange(len(left), device=at.device).repeat_interleave(negatives.shape[1])
        others = whole(negatives.flatten(), owners).view(negatives.shape)
        return losses.sampled_softmax(whole(positives, at), others.index_select(0, at), excluded[at], 1.0)

    def _normal(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.config.similarity == "cosine" else x

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Users from their whole histories."""
        items, n = self.items().items, self.graph.n_users
        parts = [
            self._read(items, self.training_histories.of(rows), rows)
            for rows in np.array_split(np.arange(n), max(-(-n // USERS_AT_ONCE), 1))
        ]
        self._raw = items.detach()
        return torch.cat(parts), items

    def _read(self, items: Tensor, histories: Histories, users: Int64 | None) -> Tensor:
        side = None if users is None else self._side(users)
        vectors: Tensor = self.reader(items, self.reader.keys(items, histories), histories, side)
        return vectors

    def encode_histories(self, rows: Csr) -> Tensor:
        """Users who are sets of items and nothing else; of an order nothing is known, nor of ratings."""
        return self._read(self._catalogue(), Histories.of_sets(rows), None)

    @property
    def is_dot_product(self) -> bool:
        """Scores are products where neither paths nor a head change them."""
        return self.head is None and self.paths is None and methods_not_overridden(self, TwoView, "score", "fold_in")

    def score(self, users: Tensor) -> Tensor:
        """Products, and the top of each list looked at again if there is a head for it."""
        products = super().score(users)
        if self.head is None and self.paths is None:
            return products
        rows = user_rows(users, self.graph.n_users)
        known = self.history.take(rows)
        scores = self._with_paths(products, known, rows)
        return scores if self.head is None else self._rerank(scores, self.training_histories.of(rows), rows, known)

    @torch.no_grad()
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """New histories, read in their order where training histories have one."""
        rows, given = self._given(histories)
        products = self._normal(self._read(self._catalogue(), given, None)) @ self.item_vectors().T
        return self._rerank(self._with_paths(products, rows, None), given, None, rows)

    @torch.no_grad()
    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, d] of B histories, as ``fold_in`` reads them."""
        return self._normal(self._read(self._catalogue(), self._given(histories)[1], None))

    def _given(self, histories: Sequence[Tensor]) -> tuple[Csr, Histories]:
        """New histories as sets and as they are read."""
        rows = history_rows(histories, self.graph.n_items)
        if not self.ordered:
            return rows, Histories.of_sets(rows)
        sequences = Sequences.from_histories(histories, self.graph.n_items)
        return rows, self.training_histories.given(sequences.indptr, sequences.items)

    @torch.no_grad()
    def _with_paths(self, products: Tensor, rows: Csr, users: Int64 | None) -> Tensor:
        """Products on the scale of the loss, with what paths add to them; as they are if nothing is added."""
        if self.head is None and self.paths is None:
            return products
        scores = products / self.config.temperature
        return scores if self.paths is None else self.paths.add(scores, rows, users, self.parallel)

    def _catalogue(self) -> Tensor:
        """Vectors of the items, made once."""
        if not self._raw.numel():
            self._raw = self.items().items.detach()
        return self._raw

    @torch.no_grad()
    def _rerank(self, scores: Tensor, histories: Histories, users: Int64 | None, known: Csr) -> Tensor:
        """Scores in which the best items outside the history were looked at again; without a head, as they are."""
        if self.head is None or not histories.n:
            return scores
        items, c = self._catalogue(), self.config
        keys = self.reader.keys(items, histories)
        vectors = self.reader(items, keys, histories, None if users is None else self._side(users))
        best = scores.index_put(_pairs(known, scores.device), scores.new_tensor(-torch.inf))
        best = best.topk(min(c.top, scores.shape[1]), 1).indices
        added = torch.empty_like(best, dtype=scores.dtype)
        for part in users_at_once(histories, best.shape[1]):
            at = torch.from_numpy(part).to(best.device)
            owners = at.repeat_interleave(best.shape[1])
            of = self.head(items, best[at].flatten(), owners, keys, vectors, histories)
            added[at] = of.view(len(at), -1).to(scores.dtype)
        return merge_reranked(scores, best, scores.gather(1, best) + added)

    def clear_derived(self) -> None:
        """Drop what was derived from earlier parameters."""
        super().clear_derived()
        self._raw = torch.empty(0, device=self.items.table.device)
        if self.paths is not None:
            self.paths.clear_derived()

    @property
    def view_shares(self) -> dict[str, dict[str, float]]:
        """γ of own vector, text and attributes over the items that have it: mean, standard deviation and count."""
        with torch.no_grad():
            shares = self.items().shares.double().cpu().numpy()
        known = self.items.known.cpu().numpy()
        parts = {name: shares[known[:, k], k] for k, name in enumerate(PARTS)}
        return {
            name: {"mean": float(of.mean()), "sd": float(of.std()), "count": of.size}
            for name, of in parts.items()
            if of.size
        }

    @property
    def missing_views(self) -> dict[str, float]:
        """Share of the items without a vector of their own (none was trained), without text, without attributes."""
        return {name: float(1 - self.items.known[:, k].double().mean()) for k, name in enumerate(PARTS)}


def _pairs(rows: Csr, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of all entries."""
    row, column = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (rows.rows(), rows.indices))
    return row, column
