"""Two views of an item, what is written of it and what it shares with others, beside the vector of its own.

    v_i = Σ_p γ_ip part_p(i),      p ∈ {own, text, attributes}
    text(i), attributes(i): gated means of what each relation says (``relrank.models.views``), each of which then asks
    all parts of both by cross-attention
    h_u = attention over the history of u (``relrank.models.history_attention``),      s(u, i) = cos(h_u, v_i) / τ

Gates decide what each part counts, item by item; what is missing has no share. An item that nobody chose in training
has no vector of its own and is what is written of it and what it shares, which ``own_dropout`` practises. A user is
the history, without the batch's own edges: a target is never in the history that is to find it.

Beside the ranking loss, an item's two views are to find each other among the batch's items (InfoNCE, symmetric); two
items of one user are no negatives of each other. Every item is encoded once in a step.

Scores are products; with ``scorer = "rerank"`` a heavier head, trained along, looks at the top of the list again
(``relrank.models.rerank``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.csr import Csr, Int64
from relrank.graph.aggregation import sparse_product
from relrank.graph.blocks import Adjacency
from relrank.graph.graph import Graph
from relrank.graph.sequences import Sequences
from relrank.graph.texts import text_relations
from relrank.models import losses
from relrank.models.base import Knob, check_choice, check_range, history_rows, user_rows
from relrank.models.history_attention import Histories, HistoryAttention, TrainingHistories
from relrank.models.layers import FeatureEncoder, check_heads
from relrank.models.rerank import TargetAttention, raised
from relrank.models.space import Choice, Range
from relrank.models.vectors import Batch, Loss, VectorConfig, VectorModel
from relrank.models.views import CrossAttention, Gate, Parts, Relations, structure_relations

Scorer = Literal["dot", "rerank"]
Views = Literal["both", "text", "attributes"]
PARTS = ("own", "text", "attributes")
"""What an item is made of, in the order of the gate."""
USERS_AT_ONCE = 2048
"""Users that are read at a time outside training."""


@dataclass(frozen=True, slots=True)
class TwoViewConfig(VectorConfig):
    """Hyper-parameters of the two-view recommender."""

    loss: Loss = "full-softmax"
    heads: int = 2
    """Heads of the attention over histories and across views; they divide ``dim``."""
    views: Views = "both"
    """Which views are read."""
    own_vectors: bool = True
    """Whether items have vectors of their own beside the views; without, an item is what its views say, and nothing
    where it has none."""
    own_dropout: float = 0.2
    """Share of the items whose own vector is left out in a step, so that the views learn to stand alone (DropoutNet,
    Volkovs et al. 2017)."""
    window: int = 200
    """Latest items of a history that are read, where histories have an order; 0 for all."""
    align: float = 0.1
    """Weight of the contrast between an item's two views."""
    align_temperature: float = 0.2
    """Its temperature."""
    scorer: Scorer = "dot"
    """Products alone, or a heavier head that looks at the top of the list again as well."""
    top: int = 200
    """Items that are looked at again."""
    candidates: int = 32
    """Of these, how many an edge is trained against."""
    rerank: float = 1.0
    """Weight of the heavier head's loss."""


class Encoded(NamedTuple):
    """What one pass over the catalogue gives.

    Attributes:
        items: v, [n_items, dim].
        views: the text view and the attribute view before they asked each other, [n_items, dim] each.
        known: which items have them, bool [n_items] each.
        shares: γ of own vector, text and attributes, [n_items, 3].
    """

    items: Tensor
    views: tuple[Tensor, Tensor]
    known: tuple[Tensor, Tensor]
    shares: Tensor


@dataclass(frozen=True, slots=True)
class Read:
    """What a batch's users are read from.

    Attributes:
        histories: without the batch's own edges.
        users: their rows, int64 [n].
    """

    histories: Histories
    users: Int64


class TwoView(VectorModel):
    """Items by text and attributes, users by their histories."""

    name = "two-view"
    Config = TwoViewConfig
    relational = True
    featured = True
    most_edges: ClassVar[float] = 0.5

    def __init__(self, graph: Graph, config: TwoViewConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        for field, known in (("scorer", Scorer), ("views", Views)):
            check_choice(self.name, field, get_args(known), getattr(c, field))
        check_heads(self.name, c.dim, c.heads)
        for field, least in (("window", 0), ("align", 0), ("top", 1), ("candidates", 1), ("rerank", 0)):
            check_range(getattr(c, field) >= least, self.name, field, f"{least} or more", getattr(c, field))
        check_range(0 <= c.own_dropout < 1, self.name, "own_dropout", "0 up to 1", c.own_dropout)
        self.adjacency = Adjacency(graph)
        self.table = nn.Parameter(torch.zeros(self.adjacency.n_nodes, c.dim))
        featured = c.views != "text" and graph.features_of(graph.item)
        self.encoder = FeatureEncoder(graph, graph.item, c.dim) if featured else None
        texts = sorted(r.name for r in text_relations(graph) if r.source == graph.item and len(r))
        names = texts if c.views != "attributes" else [], structure_relations(graph) if c.views != "text" else ()
        self.text, self.attributes = (Relations(graph, self.adjacency, n, c.dim) if n else None for n in names)
        extra = int(self.encoder is not None)
        sizes = len(names[0]), len(names[1]) + extra
        self.gates = nn.ModuleList(Gate(n, c.dim) for n in (*sizes, 3))
        self.across = CrossAttention(sum(sizes), c.dim, c.heads)
        self.training_histories = TrainingHistories(graph, c.window)
        self.reader = HistoryAttention(
            c.dim, c.heads, self.training_histories.n_levels, self.training_histories.ordered
        )
        self.head = TargetAttention(c.dim) if c.scorer == "rerank" else None
        self._sides = self._user_relations()
        self.register_buffer("_has_own", self._own(), persistent=False)
        self._has_own: Tensor
        self.register_buffer("_raw", torch.empty(0), persistent=False)
        self._raw: Tensor
        self._step: Encoded | None = None

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Nothing must be there: without relations and features an item is its own vector."""
        del graph, config

    @classmethod
    def space(cls, graph: Graph) -> tuple[Knob | Range | Choice, ...]:
        """Temperature, contrast, what keeps own vectors from drowning the views, and the learning rate."""
        del graph
        return (
            Range("temperature", 0.05, 0.3, log=True), Knob("align", (0.0, 0.03, 0.1, 0.3), 0.1),
            Knob("own_dropout", (0.0, 0.1, 0.2, 0.4), 0.2), Range("train.lr", 1e-3, 3e-2, log=True),
        )  # fmt: skip

    def _own(self) -> Tensor:
        """1 for items that were chosen in training, float32 [n_items, 1]; 0 for all without own vectors."""
        chosen = np.bincount(self.history.indices, minlength=self.graph.n_items) > 0
        return torch.from_numpy(chosen & self.config.own_vectors).float()[:, None]

    def _user_relations(self) -> list[tuple[Csr, slice]]:
        """Users by nodes that are no items, rows adding up to 1, and the nodes' global numbers."""
        users, items = (self.adjacency.types[t] for t in (self.graph.user, self.graph.item))
        found = []
        for e in self.adjacency.edge_types:
            if e.destination == users and e.source not in (users, items):
                sums = np.bincount(e.csr.rows(), weights=e.csr.data, minlength=e.csr.n_rows)
                share = (e.csr.data / sums[e.csr.rows()]).astype(np.float32)
                found.append((Csr(e.csr.indptr, e.csr.indices, share, e.csr.n_cols), e.source))
        return found

    def init_weights(self, seed: int) -> None:
        """Normal vectors; gates that count alike; histories that are nearly means."""
        generator = torch.Generator().manual_seed(seed)
        scale = self.config.dim**-0.5
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=generator) * scale)
            if self.encoder is not None:
                self.encoder.init_weights(generator, scale)
            for part in (self.text, self.attributes, self.across):
                if part is not None:
                    part.reset(generator)
            for gate in self.gates:
                gate.reset()  # type: ignore[operator]
            self.reader.reset(generator, scale)
            if self.head is not None:
                self.head.reset(generator)
        self.forget()

    def catalogue(self, generator: torch.Generator | None = None) -> Encoded:
        """All items, once.

        Args:
            generator: in training, of the items whose own vectors are left out.
        """
        here = self._has_own
        if generator is not None and self.config.own_dropout:
            drawn = torch.rand(here.shape, generator=generator, device=here.device)
            here = here * (drawn >= self.config.own_dropout)
        own = functional.normalize(self.table[self.adjacency.types[self.graph.item]], dim=1) * here
        base, features = own, None
        if self.encoder is not None:
            features = self.encoder(torch.arange(len(own), device=own.device)).to(own.dtype)
            base = own + features
        nothing = Parts(own.new_zeros(len(own), 0, own.shape[1]), own.new_zeros(len(own), 0, dtype=torch.bool))
        written, shared = (nothing if r is None else r(base, self.table) for r in (self.text, self.attributes))
        if features is not None:
            bare = functional.normalize(features, dim=1)[:, None]
            shared = _joined(shared, Parts(bare, torch.ones_like(bare[:, :, 0], dtype=torch.bool)))
        views = [gate(parts) for gate, parts in zip(self.gates, (written, shared), strict=False)]
        known = torch.stack([(here > 0)[:, 0], written.known.any(1), shared.known.any(1)], dim=1)
        asked = self.across(torch.stack(views, dim=1), _joined(written, shared))
        parts = torch.cat([own[:, None], functional.normalize(asked, dim=2)], dim=1) * known[:, :, None]
        fused, last = Parts(parts, known), self.gates[2]
        assert isinstance(last, Gate)
        shares = last.shares(fused)
        items = (shares[:, :, None] * parts).sum(1)
        return Encoded(items, (views[0], views[1]), (known[:, 1], known[:, 2]), shares)

    def messages(self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence) -> Any:
        """The users' histories without the batch's own edges."""
        del items, seed
        return Read(self.training_histories.of(users, edges), users)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Users from what is left of their histories, items from one pass over the catalogue."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        self._step = self.catalogue(generator)
        items, read = self._step.items, batch.messages
        keys = self.reader.keys(items, read.histories, generator)
        users: Tensor = self.reader(items, keys, read.histories, self._side(read.users))
        return users, items if batch.negative_at is None else items.index_select(0, batch.items)

    def _side(self, users: Int64) -> Tensor | None:
        """What relations of users with other nodes than items say, [n, dim]; None where there are none."""
        if not self._sides:
            return None
        parts = [sparse_product(csr.take(users), self.table[nodes]) for csr, nodes in self._sides]
        return torch.stack(parts).sum(0)

    def loss(self, batch: Batch) -> Tensor:
        """The ranking loss, the contrast of the views, and the heavier head's loss."""
        value, step = super().loss(batch), self._step
        self._step = None
        assert step is not None
        c = self.config
        if c.align and self.text is not None and self.gates[1].bias.numel():  # type: ignore[operator]
            value = value + c.align * self._alignment(batch, step)
        if self.head is not None and c.rerank:
            value = value + c.rerank * self._heavy_loss(batch, step)
        return value

    def _alignment(self, batch: Batch, step: Encoded) -> Tensor:
        """InfoNCE between the views of the batch's positives that have both."""
        positives, at = torch.unique(batch.items[batch.item_at], return_inverse=True)
        both = (step.known[0] & step.known[1])[positives]
        if int(both.sum()) < 2:
            return step.items.sum() * 0.0
        chosen = step.items.new_zeros(len(batch.users), len(positives))
        chosen[batch.user_at, at] = 1
        together = (chosen.T @ chosen)[both][:, both] > 0
        one, other = (view.index_select(0, positives[both]) for view in step.views)
        return losses.info_nce(one, other, self.config.align_temperature, symmetric=True, excluded=together)

    def _heavy_loss(self, batch: Batch, step: Encoded) -> Tensor:
        """Softmax of each edge's positive among items from the top of its user's list, with what the head adds."""
        read, c = batch.messages, self.config
        assert self.head is not None
        generator = torch.Generator(self.table.device).manual_seed(batch.seed + 1)
        keys = self.reader.keys(step.items, read.histories)
        users = self.reader(step.items, keys, read.histories, self._side(read.users))
        left, right = self._normal(users), self._normal(step.items)
        with torch.no_grad():
            scores = left @ right.T
            mine = self.history.take(read.users)
            rows, columns = (
                torch.from_numpy(a.astype(np.int64)).to(scores.device) for a in (mine.rows(), mine.indices)
            )
            scores[rows, columns] = -torch.inf
            best = scores.topk(min(c.top, scores.shape[1]), 1).indices
            # by item and not by place in the list, so that two near scores that swap places change nothing
            chance = torch.rand(scores.shape, generator=generator, device=best.device).gather(1, best)
            negatives = best.gather(1, chance.topk(min(c.candidates, best.shape[1]), 1).indices)
            excluded = scores.gather(1, negatives).isinf()
        positives = batch.items[batch.item_at]
        # one look per user and candidate: an edge's positive is one candidate more
        own = self._looked_at(step.items, keys, users, read.histories, negatives)
        first = self._edge_scores(step.items, keys, users, read.histories, batch.user_at, positives)
        plain = (left[:, None] * right[negatives]).sum(2) / c.temperature + own
        lone = (left[batch.user_at] * right[positives]).sum(1) / c.temperature + first
        return losses.sampled_softmax(lone, plain[batch.user_at], excluded[batch.user_at], 1.0)

    def _looked_at(self, items: Tensor, keys: Tensor, users: Tensor, histories: Histories, columns: Tensor) -> Tensor:
        assert self.head is not None
        added: Tensor = self.head(items[columns], keys, users, histories)
        return added

    def _edge_scores(
        self, items: Tensor, keys: Tensor, users: Tensor, histories: Histories, user_at: Tensor, positives: Tensor
    ) -> Tensor:
        """What the head adds to one item of each edge, [n_edges]; edges of a user side by side."""
        order = torch.argsort(user_at, stable=True)
        counts = torch.bincount(user_at, minlength=len(users))
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[user_at[order]]
        columns = positives.new_zeros(len(users), int(counts.max()))
        columns[user_at[order], place] = positives[order]
        added = self._looked_at(items, keys, users, histories, columns)
        found = added.new_empty(len(order))
        return found.index_copy(0, order, added[user_at[order], place])

    def _normal(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) if self.config.similarity == "cosine" else x

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Users from their whole histories."""
        items = self.catalogue().items
        parts = [
            self._read(items, self.training_histories.of(rows), rows)
            for rows in np.array_split(np.arange(self.graph.n_users), -(-self.graph.n_users // USERS_AT_ONCE) or 1)
        ]
        return torch.cat(parts), items

    def _read(self, items: Tensor, histories: Histories, users: Int64 | None) -> Tensor:
        keys = self.reader.keys(items, histories)
        vectors: Tensor = self.reader(items, keys, histories, None if users is None else self._side(users))
        return vectors

    def encode_histories(self, rows: Csr) -> Tensor:
        """Users who are their histories and nothing else; sets of items, in no order."""
        return self._read(self.catalogue().items, self.training_histories.given(rows.indptr, rows.indices), None)

    def score(self, users: Tensor) -> Tensor:
        """Products, and the top of each list looked at again if there is a head for it."""
        rows = user_rows(users, self.graph.n_users)
        scores = super().score(users)
        if self.head is None or not rows.size:
            return scores
        return self._again(scores, self.training_histories.of(rows), rows, self.history.take(rows))

    @torch.no_grad()
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """New histories, read in their order where training histories have one."""
        if not self._items.numel():
            self.refresh()
        rows = history_rows(histories, self.graph.n_items)
        given = self.training_histories.given(rows.indptr, rows.indices)
        if self.training_histories.ordered:
            sequences = Sequences.of_histories(histories, self.graph.n_items)
            given = self.training_histories.given(sequences.indptr, sequences.items)
        items = self._catalogue_kept()
        scores = self._normal(self._read(items, given, None)) @ self._items.T
        return scores if self.head is None or not rows.n_rows else self._again(scores, given, None, rows)

    def _catalogue_kept(self) -> Tensor:
        """What the products' right side was before it was normalised, [n_items, dim]."""
        if not self._raw.numel():
            self._raw = self.catalogue().items
        return self._raw

    @torch.no_grad()
    def _again(self, scores: Tensor, histories: Histories, users: Int64 | None, known: Csr) -> Tensor:
        """Scores in which the best items that are not in the history were looked at again."""
        items, c = self._catalogue_kept(), self.config
        keys = self.reader.keys(items, histories)
        vectors = self.reader(items, keys, histories, None if users is None else self._side(users))
        rows, columns = (
            torch.from_numpy(a.astype(np.int64)).to(scores.device) for a in (known.rows(), known.indices)
        )
        best = scores.index_put((rows, columns), scores.new_tensor(-torch.inf))
        best = best.topk(min(c.top, scores.shape[1]), 1).indices
        scores = scores / c.temperature
        again = scores.gather(1, best) + self._looked_at(items, keys, vectors, histories, best)
        return raised(scores, best, again)

    def forget(self) -> None:
        """Drop what was derived from earlier parameters."""
        super().forget()
        self._raw = torch.empty(0, device=self.table.device)

    @property
    def view_shares(self) -> dict[str, dict[str, float]]:
        """γ of own vector, text and attributes over the items that have it: mean, standard deviation and count."""
        with torch.no_grad():
            found = self.catalogue()
        shares, known = found.shares.double().cpu().numpy(), self._known_views(found)
        parts = {name: shares[known[:, k], k] for k, name in enumerate(PARTS)}
        return {
            name: {"mean": float(of.mean()), "sd": float(of.std()), "count": of.size}
            for name, of in parts.items()
            if of.size
        }

    @property
    def missing_views(self) -> dict[str, float]:
        """Share of the items without a vector of their own (none was trained), without text, without attributes."""
        with torch.no_grad():
            known = self._known_views(self.catalogue())
        return {name: float(1 - known[:, k].mean()) for k, name in enumerate(PARTS)}

    def _known_views(self, found: Encoded) -> npt.NDArray[np.bool_]:
        known = torch.stack([self._has_own[:, 0] > 0, *found.known], dim=1)
        return known.cpu().numpy()


def _pairs(rows: Csr, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of all entries."""
    row, column = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (rows.rows(), rows.indices))
    return row, column


def _joined(one: Parts, other: Parts) -> Parts:
    return Parts(torch.cat([one.vectors, other.vectors], dim=1), torch.cat([one.known, other.known], dim=1))
