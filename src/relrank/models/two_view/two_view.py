"""Two views of an item, text and attributes, combined with a free vector; a user is attention over the history.

    v_i = γ_i,own own(i) + γ_i,text text(i) + γ_i,attributes attributes(i)              (``item_views``)
    h_u = Σ_j softmax_j(q_u · K e_j / √d) V e_j + side(u)                               (``history_attention``)
    s(u, i) = cos(h_u, v_i) / τ  [+ Σ_r a_r √(p_r(u, i) / m_r)]                         (``graph.path_terms``)
    s'(u, c) = s(u, c) + MLP([v_c ∘ z_uc ‖ v_c ∘ h_u ‖ z_uc])  for the top candidates c  (``rerank``)
    L = L_softmax(s) + w_align InfoNCE(text(i), attributes(i)) + w_rerank L_softmax(s')

In training, the history of a user excludes the batch's own edges: a target is never in the history that predicts it.
Later items than the target may be, as in every model that reads the history as a set.

InfoNCE is symmetric, over the positive items of the batch; two items of one user in the batch are not negatives of
each other. Every item is encoded once per step.

``paths`` adds path scores: co-occurrence has the rank of the data, which low-dimensional vectors cannot represent.
``scorer = "rerank"`` adds a target-attention head that scores the top of the list again and is trained jointly.

The views use relations of items to texts, to other nodes than users, and among items; side(u) uses relations of users
to nodes other than items. A relation that touches neither is composed along the chain that leads to them. Features
are those of items.
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
from relrank.graph.histories import Sequences
from relrank.graph.meta_paths import meta_paths
from relrank.graph.relation_chains import hops
from relrank.kernels.csr import Csr, Int64
from relrank.models.core import losses
from relrank.models.core.base import GridParameter, entries, history_rows, user_rows
from relrank.models.core.hyperparameters import (
    AlwaysZero,
    DropFraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
)
from relrank.models.core.layers import check_heads
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import (
    Batch,
    BatchItems,
    Loss,
    VectorConfig,
    VectorModel,
    methods_not_overridden,
)
from relrank.models.graph.path_terms import PathTerms
from relrank.models.two_view.history_attention import Histories, HistoryAttention, TrainingHistories
from relrank.models.two_view.item_views import PARTS, Encoded, ItemViews
from relrank.models.two_view.rerank import TargetAttention, hard_negatives, merge_reranked, users_at_once
from relrank.models.two_view.views import Draws, attribute_relations

Scorer = Literal["dot", "rerank"]
Views = Literal["both", "text", "attributes"]
Paths = Literal["none", "interactions", "all"]
USERS_AT_ONCE = 2048
"""Users encoded at a time outside training."""
ALIGNED = 1024
"""Most items of a batch in the InfoNCE loss."""


@dataclass(frozen=True, slots=True)
class TwoViewConfig(VectorConfig):
    """Hyper-parameters of the two-view recommender."""

    loss: Loss = "full-softmax"
    l2: AlwaysZero = 0.0
    """Not available: all vectors are normalised before use."""
    heads: PositiveInt = 2
    """Heads of the attention over histories and across views; a divisor of ``dim``."""
    views: Views = "both"
    """Views in use."""
    own_vectors: bool = True
    """Whether items have free vectors in addition to the views."""
    user_vectors: bool = False
    """Whether users of the graph have free vectors in addition to their histories."""
    own_dropout: DropFraction = 0.2
    """Share of the items, among those with a view, whose free vector is dropped in a step."""
    fanout: NonNegativeInt = 0
    """Neighbours sampled per node and hop in each training step; 0 uses all. Scoring always uses all."""
    window: NonNegativeInt = 200
    """Latest items of a history that are read, where interactions have an order; 0 for all."""
    new_as_negatives: bool = True
    """Whether items without training interactions are sampled as negatives. They are never positives, so the model
    learns to rank their texts and attributes low: set this to false to recommend new items."""
    align: NonNegative = 0.1
    """Weight of InfoNCE between an item's two views."""
    align_temperature: Positive = 0.2
    """Temperature of InfoNCE."""
    paths: Paths = "none"
    """Path scores: none, through other users' histories, or through every relation as well."""
    path_weight: Positive = 0.5
    """Initial weight of every kind of path; it is learned."""
    scorer: Scorer = "dot"
    """Products alone, or products followed by reranking of the top candidates."""
    top: PositiveInt = 200
    """Candidates that are reranked."""
    candidates: PositiveInt = 32
    """Of these, negatives sampled per training edge."""
    rerank: NonNegative = 1.0
    """Weight of the reranker's loss."""


@dataclass(frozen=True, slots=True, eq=False)
class TwoViewInputs:
    """Inputs of a step in addition to its edges.

    Attributes:
        histories: of the batch's users, without the batch's own edges.
        users: their rows, int64 [n].
        drawn: sampled edges of the text and attribute relations; None for all.
        aligned: item rows in the InfoNCE loss, int64 [m].
        same_user_pairs: pairs of indices in ``aligned`` that one user has in the batch, int64 [2, n_pairs].
        paths: path scores from these histories, float32 [n, n_items] per kind.
    """

    histories: Histories
    users: Int64
    drawn: tuple[Draws | None, Draws | None]
    aligned: Int64
    same_user_pairs: Int64
    paths: tuple[Tensor, ...]

    def to(self, device: torch.device) -> TwoViewInputs:
        """A copy with path scores on a device; histories are moved when they are read."""
        return replace(self, paths=tuple(p.to(device) for p in self.paths))


class Step(NamedTuple):
    """Results of ``encode``: items, keys k of all events, users h."""

    encoded: Encoded
    keys: Tensor
    users: Tensor


class TwoView(VectorModel):
    """Items by free vector, text and attributes; users by their histories."""

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
        self._has_both_views = self.items.known[:, 1:].all(1).numpy()
        self._never_negative = np.zeros(graph.n_items, bool)
        if not c.new_as_negatives:
            self._never_negative = np.bincount(self.history.indices, minlength=graph.n_items) == 0
        self.training_histories = TrainingHistories(graph, c.window)
        self.ordered = self.training_histories.ordered
        self.reader = HistoryAttention(c.dim, c.heads, self.training_histories.n_levels, self.ordered)
        self.head = TargetAttention(c.dim) if c.scorer == "rerank" else None
        self._user_side = self._user_relations()
        self.users = nn.Parameter(torch.zeros(graph.n_users if c.user_vectors else 0, c.dim))
        self.paths = self._path_terms()
        # paths exclude the user whose history they start from, so they need to know the user
        self.from_history = not (self._user_side or self.reader.rated or c.user_vectors or self.paths)
        # v before normalisation: derived from the parameters, so not saved
        self.register_buffer("_raw", torch.empty(0), persistent=False)
        self._raw: Tensor
        self._step: Step | None = None

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """``heads`` must divide ``dim``."""
        check_heads(config, where)

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Any graph will do: without relations and features an item is its free vector."""
        del graph, config

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations of the views in use, of paths, and of users with nodes other than items."""
        config, direct = config or cls.Config(), compose_graph(graph)
        used = {name for names in cls._views(direct, config) for name in names}
        for name, r in direct.relations.items():
            if r.source != r.target and graph.user in (r.source, r.target) and graph.item not in (r.source, r.target):
                used.add(name)
        if config.paths == "all":
            used |= set(direct.relations)
        chains = hops(graph)  # relations that others are composed of count, too
        used |= {hop for name in used for hop in chains[name]}
        return tuple(name for name in graph.relations if name in used)

    @staticmethod
    def _views(graph: Graph, config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Relations of the text view and of the attribute view, as far as these are in use."""
        texts = tuple(sorted(r.name for r in text_relations(graph) if r.source == graph.item and len(r)))
        attributes = attribute_relations(graph)
        return () if config.views == "attributes" else texts, () if config.views == "text" else attributes

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Temperature, InfoNCE, dropout of free vectors, and the learning rate."""
        del graph
        return (
            Range("temperature", 0.07, 0.3, log=True),
            GridParameter("align", (0.0, 0.03, 0.1, 0.3), 0.1),
            GridParameter("own_dropout", (0.0, 0.1, 0.2, 0.4), 0.2),
            Range("train.lr", 1e-3, 2e-2, log=True),
        )

    def _user_relations(self) -> list[tuple[Csr, slice]]:
        """Row-normalised relations of users to nodes other than items, with the nodes' rows in the table."""
        users, items = (self.items.adjacency.types[t] for t in (self.graph.user, self.graph.item))
        return [
            (e.csr.shares(), e.source)
            for e in self.items.adjacency.edge_types
            if e.destination == users and e.source not in (users, items)
        ]

    def _path_terms(self) -> PathTerms | None:
        """Path scores, or None."""
        c = self.config
        if c.paths == "none":
            return None
        kinds = meta_paths(self.graph)[: None if c.paths == "all" else 1]
        return PathTerms(kinds, torch.full((len(kinds),), c.path_weight), self.history)

    @property
    def relation_weights(self) -> dict[str, float]:
        """Current weight of every kind of path."""
        return {} if self.paths is None else self.paths.weights

    def init_weights(self, seed: int) -> None:
        """Normal vectors, equal gates, and attention that is nearly a mean."""
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
        """As for every vector model; with ``new_as_negatives = false``, new items are no negatives."""
        drawn = super().draw(users, positives, seed)
        if not self._never_negative.any():
            return drawn
        if drawn.negative_index is None:
            items = np.flatnonzero(~self._never_negative)
            return replace(drawn, items=items, positive_index=np.searchsorted(items, positives))
        new = np.broadcast_to(
            self._never_negative[drawn.items[drawn.negative_index]], (users.size, drawn.negative_index.shape[-1])
        )
        return replace(drawn, excluded=new | (False if drawn.excluded is None else drawn.excluded))

    def encoder_inputs(
        self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence
    ) -> Any:
        """Histories without the batch's own edges, sampled edges of the views, and the items of InfoNCE."""
        del items
        align_seed, edge_seed = seed.spawn(2)
        drawn = self.items.draw(self.config.fanout, edge_seed, self.parallel) if self.config.fanout else (None, None)
        aligned = same_user_pairs = np.zeros(0, np.int64)
        if self.config.align and self._has_both_views.any():
            aligned = np.unique(edges[1][self._has_both_views[edges[1]]])
            if aligned.size > ALIGNED:
                aligned = np.sort(np.random.default_rng(align_seed).choice(aligned, ALIGNED, replace=False))
            at = np.isin(edges[1], aligned)
            pairs = np.searchsorted(users, edges[0][at]), np.searchsorted(aligned, edges[1][at])
            has = csr_array((np.ones(at.sum(), np.int32), pairs), shape=(users.size, aligned.size))
            same_user_pairs = np.stack((has.T @ has).nonzero()).astype(np.int64)
        paths = () if self.paths is None else self.paths.encoder_inputs(users, edges, self.parallel)
        return TwoViewInputs(self.training_histories.of(users, edges), users, drawn, aligned, same_user_pairs, paths)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors h of the batch's users and v of its items, from one pass over the catalogue."""
        generator = torch.Generator(self.items.table.device).manual_seed(batch.seed)
        inputs = batch.encoder_inputs
        encoded = self.items(self.config.own_dropout, generator, inputs.drawn)
        v: Tensor = encoded.items
        k = self.reader.keys(v, inputs.histories, generator)
        h: Tensor = self.reader(v, k, inputs.histories, self._side(inputs.users))
        self._step = Step(encoded, k, h)
        return h, v if len(batch.items) == len(v) else v.index_select(0, batch.items)

    def offsets(self, batch: Batch) -> Tensor | None:
        """Path scores Σ_r a_r √(p_r / m_r), [U, n_items]."""
        return None if self.paths is None else self.paths(batch.encoder_inputs.paths)

    def _side(self, users: Int64) -> Tensor | None:
        """side(u): the user's free vector and means over their other relations, [n, dim]; None without any."""
        parts = [sparse_product(csr.take(users), self.items.table[nodes]) for csr, nodes in self._user_side]
        if len(self.users):
            parts.append(self.users.index_select(0, torch.from_numpy(users).to(self.users.device)))
        return torch.stack(parts).sum(0) if parts else None

    def loss(self, batch: Batch) -> Tensor:
        """L_softmax(s) + w_align InfoNCE + w_rerank L_softmax(s')."""
        value, step, c = super().loss(batch), self._step, self.config
        self._step = None
        assert step is not None
        if batch.encoder_inputs.aligned.size > 1:
            value = value + c.align * self._alignment_loss(batch.encoder_inputs, step)
        if self.head is not None and c.rerank:
            value = value + c.rerank * self._rerank_loss(batch, step)
        return value

    def _alignment_loss(self, inputs: TwoViewInputs, step: Step) -> Tensor:
        """InfoNCE(text(i), attributes(i)) over ``inputs.aligned``."""
        rows = torch.from_numpy(inputs.aligned).to(step.users.device)
        same_user = torch.zeros(len(rows), len(rows), dtype=torch.bool, device=rows.device)
        same_user[torch.from_numpy(inputs.same_user_pairs[0]), torch.from_numpy(inputs.same_user_pairs[1])] = True
        text, attributes = (view.index_select(0, rows) for view in step.encoded.views)
        return losses.info_nce(text, attributes, self.config.align_temperature, symmetric=True, excluded=same_user)

    def _rerank_loss(self, batch: Batch, step: Step) -> Tensor:
        """Softmax of s' of each edge's positive against hard negatives from the top of the user's list."""
        inputs, c, items = batch.encoder_inputs, self.config, step.encoded.items
        generator = torch.Generator(items.device).manual_seed(batch.seed + 1)
        h, v = self._normalised(step.users), self._normalised(items)
        offsets = self.offsets(batch)
        with torch.no_grad():
            scores = (h @ v.T).float()
            if offsets is not None:
                scores += offsets.detach() * c.temperature
            scores[:, torch.from_numpy(self._never_negative)] = -torch.inf
        seen = entries(self.history.take(inputs.users), scores.device)
        negatives, excluded = hard_negatives(scores, seen, c.top, c.candidates, generator)
        positives, user_index = batch.items.index_select(0, batch.positive_index), batch.user_index

        def reranked(candidates: Tensor, owners: Tensor) -> Tensor:
            """s'(u, c) of each candidate and its user."""
            assert self.head is not None
            product = (h.index_select(0, owners) * v.index_select(0, candidates)).sum(1) / c.temperature
            added: Tensor = self.head(items, candidates, owners, step.keys, step.users, inputs.histories)
            total: Tensor = product + added
            return total if offsets is None else total + offsets[owners, candidates]

        # a user's negatives are scored once and shared by all of the user's positives
        owners = torch.arange(len(h), device=user_index.device).repeat_interleave(negatives.shape[1])
        of_user = reranked(negatives.flatten(), owners).view(negatives.shape)
        positive, negative = reranked(positives, user_index), of_user.index_select(0, user_index)
        return losses.sampled_softmax(positive, negative, excluded[user_index], 1.0)

    def _normalised(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.config.similarity == "cosine" else x

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Vectors h of all users, from their full histories, and v of all items."""
        items, n = self.items().items, self.graph.n_users
        parts = [
            self._encode_users(items, self.training_histories.of(rows), rows)
            for rows in np.array_split(np.arange(n), max(-(-n // USERS_AT_ONCE), 1))
        ]
        self._raw = items.detach()
        return torch.cat(parts), items

    def _encode_users(self, items: Tensor, histories: Histories, users: Int64 | None) -> Tensor:
        """Vectors h from histories; without user rows there is no side(u)."""
        side = None if users is None else self._side(users)
        h: Tensor = self.reader(items, self.reader.keys(items, histories), histories, side)
        return h

    def encode_histories(self, rows: Csr) -> Tensor:
        """Vectors h of new users, from sets of items without order or ratings."""
        return self._encode_users(self._catalogue(), Histories.of_sets(rows), None)

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are exactly products: without paths and reranking."""
        return self.head is None and self.paths is None and methods_not_overridden(self, TwoView, "score", "fold_in")

    def score(self, users: Tensor) -> Tensor:
        """Products, plus path scores, with the top candidates reranked."""
        products = super().score(users)
        if self.head is None and self.paths is None:
            return products
        rows = user_rows(users, self.graph.n_users)
        seen = self.history.take(rows)
        scores = self._add_paths(products, seen, rows)
        return scores if self.head is None else self._rerank(scores, self.training_histories.of(rows), rows, seen)

    @torch.no_grad()
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """As ``score`` for new histories, read in their order where interactions have one."""
        rows, new = self._new_histories(histories)
        products = self._normalised(self._encode_users(self._catalogue(), new, None)) @ self.item_vectors().T
        return self._rerank(self._add_paths(products, rows, None), new, None, rows)

    @torch.no_grad()
    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, d] of B histories, as in ``fold_in``."""
        return self._normalised(self._encode_users(self._catalogue(), self._new_histories(histories)[1], None))

    def _new_histories(self, histories: Sequence[Tensor]) -> tuple[Csr, Histories]:
        """New histories as sets, and as the encoder reads them."""
        rows = history_rows(histories, self.graph.n_items)
        if not self.ordered:
            return rows, Histories.of_sets(rows)
        sequences = Sequences.from_histories(histories, self.graph.n_items)
        return rows, self.training_histories.given(sequences.indptr, sequences.items)

    @torch.no_grad()
    def _add_paths(self, products: Tensor, rows: Csr, users: Int64 | None) -> Tensor:
        """Products divided by τ, plus path scores; without paths and reranking, the products themselves."""
        if self.head is None and self.paths is None:
            return products
        scores = products / self.config.temperature
        return scores if self.paths is None else self.paths.add(scores, rows, users, self.parallel)

    def _catalogue(self) -> Tensor:
        """Vectors v of all items, before normalisation, computed once."""
        if not self._raw.numel():
            self._raw = self.items().items.detach()
        return self._raw

    @torch.no_grad()
    def _rerank(self, scores: Tensor, histories: Histories, users: Int64 | None, seen: Csr) -> Tensor:
        """Scores with s' for the top candidates outside the history; unchanged without a head."""
        if self.head is None or not histories.n:
            return scores
        items, c = self._catalogue(), self.config
        keys = self.reader.keys(items, histories)
        h = self.reader(items, keys, histories, None if users is None else self._side(users))
        unseen = scores.index_put(entries(seen, scores.device), scores.new_tensor(-torch.inf))
        top = unseen.topk(min(c.top, scores.shape[1]), 1).indices
        added = torch.empty_like(top, dtype=scores.dtype)
        for part in users_at_once(histories, top.shape[1]):
            at = torch.from_numpy(part).to(top.device)
            owners = at.repeat_interleave(top.shape[1])
            of_part = self.head(items, top[at].flatten(), owners, keys, h, histories)
            added[at] = of_part.view(len(at), -1).to(scores.dtype)
        return merge_reranked(scores, top, scores.gather(1, top) + added)

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        super().clear_derived()
        self._raw = torch.empty(0, device=self.items.table.device)
        if self.paths is not None:
            self.paths.clear_derived()

    @property
    def view_shares(self) -> dict[str, dict[str, float]]:
        """γ of each part over the items that have it: mean, standard deviation and count."""
        with torch.no_grad():
            shares = self.items().shares.double().cpu().numpy()
        known = self.items.known.cpu().numpy()
        parts = {name: shares[known[:, k], k] for k, name in enumerate(PARTS)}
        return {
            name: {"mean": float(gamma.mean()), "sd": float(gamma.std()), "count": gamma.size}
            for name, gamma in parts.items()
            if gamma.size
        }

    @property
    def missing_views(self) -> dict[str, float]:
        """Share of the items without a trained free vector, without text, and without attributes."""
        return {name: float(1 - self.items.known[:, k].double().mean()) for k, name in enumerate(PARTS)}
