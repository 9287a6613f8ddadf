"""All items at once: a gated mean of free vector, text view and attribute view.

    v_i = Σ_p γ_ip part_p(i),      p ∈ {own, text, attributes}

The text and attribute views are gated means over relations (``relrank.models.two_view.views``), followed by
cross-attention over the parts of both. All three have length 1, so that γ tells how much each counts. Missing parts
have γ = 0; an item without training interactions has no free vector. An item without any part gets a learned default
vector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.graph.sampling.blocks import Adjacency
from relrank.models.core.layers import FeatureEncoder
from relrank.models.two_view.views import CrossAttention, Draws, Gate, Parts, Relations

PARTS = ("own", "text", "attributes")
"""Parts of an item, in the order of the gate."""


class Encoded(NamedTuple):
    """Results of one pass over the catalogue.

    Attributes:
        items: v, [n_items, dim].
        views: the text view and the attribute view before cross-attention, [n_items, dim] each.
        shares: γ of ``PARTS``, [n_items, 3].
    """

    items: Tensor
    views: tuple[Tensor, Tensor]
    shares: Tensor


class ItemViews(nn.Module):
    """The encoder of the catalogue.

    Args:
        graph: has the relations and the items' features.
        texts: names of relations to texts.
        attributes: names of other relations of items.
        features: whether item features are one more part of the attribute view.
        own: whether items have free vectors.
        dim: length of a vector.
        heads: of the cross-attention.

    Attributes:
        table: free vectors of all nodes, [n_nodes, dim]: users (unused here), items, attributes.
        nothing: the default vector, [dim].
    """

    def __init__(
        self,
        graph: Graph,
        texts: tuple[str, ...],
        attributes: tuple[str, ...],
        features: bool,
        own: bool,
        dim: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.adjacency = Adjacency(graph)
        self._items = self.adjacency.types[graph.item]
        self.table = nn.Parameter(torch.zeros(self.adjacency.n_nodes, dim))
        self.encoder = FeatureEncoder(graph, graph.item, dim) if features and graph.features_of(graph.item) else None
        self.text, self.attributes = (
            Relations(graph, self.adjacency, names, dim) if names else None for names in (texts, attributes)
        )
        sizes = len(texts), len(attributes) + int(self.encoder is not None)
        self.gates = nn.ModuleList(Gate(n, dim) for n in (*sizes, len(PARTS)))
        self.across = CrossAttention(sum(sizes), dim, heads)
        self.nothing = nn.Parameter(torch.zeros(dim))
        chosen = np.bincount(graph.interactions.dst, minlength=graph.n_items) > 0
        described = np.any([np.zeros(graph.n_items, bool), *(f.known for f in graph.features_of(graph.item))], axis=0)
        self.register_buffer("_described", torch.from_numpy(described), persistent=False)
        self._described: Tensor
        views = [
            torch.zeros(graph.n_items, dtype=torch.bool) if r is None else r.known().any(1)
            for r in (self.text, self.attributes)
        ]
        if self.encoder is not None:
            views[1] = views[1] | self._described
        #: which items have each of ``PARTS``, bool [n_items, 3]
        self.register_buffer("known", torch.stack([torch.from_numpy(chosen & own), *views], dim=1), persistent=False)
        self.known: Tensor

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """Normal vectors, equal gates, and cross-attention that adds little."""
        with torch.no_grad():
            for table in (self.table, self.nothing):
                table.copy_(torch.randn(table.shape, generator=generator) * scale)
            if self.encoder is not None:
                self.encoder.init_weights(generator, scale)
            for part in (self.text, self.attributes, self.across):
                if part is not None:
                    part.reset(generator)
        for gate in self.gates:
            gate.reset()  # type: ignore[operator]

    def draw(self, fanout: int, seed: np.random.SeedSequence, parallel: bool) -> tuple[Draws | None, Draws | None]:
        """At most ``fanout`` neighbours in every hop of the text and of the attribute relations."""
        text, attributes = (
            None if relations is None else relations.draw(fanout, child, parallel)
            for relations, child in zip((self.text, self.attributes), seed.spawn(2), strict=True)
        )
        return text, attributes

    def forward(
        self,
        own_dropout: float = 0.0,
        generator: torch.Generator | None = None,
        drawn: tuple[Draws | None, Draws | None] = (None, None),
    ) -> Encoded:
        """Vectors of all items.

        Args:
            own_dropout: in training, the share of items whose free vector is dropped, so that the views also work
                without it (DropoutNet, Volkovs et al. 2017). An item without a view keeps it.
            generator: of the dropout; None when scoring.
            drawn: sampled edges of the text and of the attribute relations; None for all.
        """
        known = self.known
        if generator is not None and own_dropout:
            drawn_numbers = torch.rand(len(known), generator=generator, device=known.device)
            keeps_own = (drawn_numbers >= own_dropout) | ~known[:, 1:].any(1)
            known = torch.cat([known[:, :1] & keeps_own[:, None], known[:, 1:]], dim=1)
        own = functional.normalize(self.table[self._items], dim=1) * known[:, :1]
        none = Parts(own.new_zeros(len(own), 0, own.shape[1]), known.new_zeros(len(own), 0))
        base, attribute_parts = own, none
        if self.encoder is not None:
            features = self.encoder(torch.arange(len(own), device=own.device)).to(own.dtype)
            base, described = own + features, self._described[:, None]
            attribute_parts = Parts((functional.normalize(features, dim=1) * described)[:, None], described)
        text_parts = none if self.text is None else self.text(base, self.table, drawn[0])
        if self.attributes is not None:
            attribute_parts = _joined(self.attributes(base, self.table, drawn[1]), attribute_parts)
        text_gate, attribute_gate, gate = self.gates
        views = text_gate(text_parts), attribute_gate(attribute_parts)
        attended = self.across(torch.stack(views, dim=1), _joined(text_parts, attribute_parts))
        vectors = torch.cat([own[:, None], functional.normalize(attended, dim=2)], dim=1)
        parts = Parts(vectors * known[:, :, None], known)
        assert isinstance(gate, Gate)
        shares = gate.shares(parts)
        items = (shares[:, :, None] * parts.vectors).sum(1) + ~known.any(1, keepdim=True) * self.nothing
        return Encoded(items, views, shares)


def _joined(one: Parts, other: Parts) -> Parts:
    return Parts(torch.cat([one.vectors, other.vectors], dim=1), torch.cat([one.known, other.known], dim=1))
