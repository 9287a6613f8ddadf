"""Two views of items: their texts, and the attributes they share with other items.

A relation k from items to texts, which are nodes with fixed vectors x_n, is read by attention:

    h_k(i) = Σ_{n ∈ N_k(i)} a_in P_k(x_n),      a_in = softmax_n(v · leaky(R b_i + L P_k(x_n)))

P_k is a two-layer projection, and the item's state b_i decides which of its texts counts ("review attention": Chen et
al. 2018, NARRE, here with the attention of GATv2). Any other relation r of items is read in two hops, item →
attribute → item, each with its own attention, or in one hop if it links items with items:

    z_n = e_n + att(items of n),      h_r(i) = att(z_n of the attributes n of i)

Each relation gives an item one vector of length 1, a *part*. A part is missing for an item that the relation does not
reach: it is neither zero nor an average, and has no weight in what follows. A view is a gated mean of its parts; it
is missing for an item without any part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.construction.text_nodes import text_relations
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.sampling.blocks import Adjacency, EdgeType
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.neighbour_sampling import counts, draw
from relrank.models.core.layers import Affine, EdgeAttention


class Parts(NamedTuple):
    """One part per relation of every item.

    Attributes:
        vectors: [n_items, n_parts, dim], of length 1; zeros for missing parts.
        known: bool [n_items, n_parts], False for missing parts.
    """

    vectors: Tensor
    known: Tensor


def attribute_relations(graph: Graph) -> tuple[str, ...]:
    """All relations of items but those to texts and to users, in name order."""
    texts = {r.name for r in text_relations(graph)}
    ends = {name: (r.source, r.target) for name, r in sorted(graph.relations.items()) if len(r) and name not in texts}
    return tuple(name for name, pair in ends.items() if graph.item in pair and graph.user not in pair)


class Drawn(NamedTuple):
    """Sampled neighbours of the nodes that have any, as CSR arrays."""

    starts: Int64
    sources: Int32
    weight: Float32


class _Rows(nn.Module):
    """Neighbours by destination of one edge type, as buffers on the module's device.

    Attributes:
        reached: bool [n_destinations], whether a destination has a neighbour.
    """

    def __init__(self, csr: Csr) -> None:
        super().__init__()
        self._nodes = np.flatnonzero(csr.degrees()).astype(np.int64)
        unweighted = bool((csr.data == 1).all())
        self._edges = EdgeType("", 0, slice(0, csr.n_rows), slice(0, csr.n_cols), csr, unweighted)
        starts = np.concatenate([csr.indptr[self._nodes], csr.indptr[-1:]])
        arrays = {"rows": self._nodes, "starts": starts, "sources": csr.indices, "weight": csr.data}
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array), persistent=False)
        self.register_buffer("reached", torch.tensor(csr.degrees() > 0), persistent=False)
        self.rows: Tensor
        self.starts: Tensor
        self.sources: Tensor
        self.weight: Tensor
        self.reached: Tensor

    def draw(self, fanout: int, seed: np.random.SeedSequence, parallel: bool) -> Drawn:
        """At most ``fanout`` neighbours of each node, without replacement."""
        none, starts = np.zeros(0, np.int64), np.zeros(self._nodes.size + 1, np.int64)
        counts(self._nodes, self._edges, none, fanout, False, starts)
        np.cumsum(starts, out=starts)
        drawn = Drawn(starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
        word = seed.generate_state(1, np.uint64)[0]
        draw(
            self._nodes, self._edges, none, fanout, False, False, word, starts, drawn.sources, drawn.weight, parallel
        )
        return drawn

    def forward(self, attention: EdgeAttention, sources: Tensor, destinations: Tensor, drawn: Drawn | None) -> Tensor:
        """Attention over each destination's neighbours, [n_destinations, dim]; zeros without neighbours."""
        edges = (self.starts, self.sources, self.weight)
        if drawn is not None:
            starts, rows, weight = (torch.from_numpy(array).to(self.rows.device) for array in drawn)
            edges = starts, rows, weight
        attended: Tensor = attention(sources, destinations.index_select(0, self.rows), *edges)
        return torch.zeros_like(destinations).index_copy(0, self.rows, attended.to(destinations.dtype))


class _TextPart(nn.Module):
    """h_k of one relation to texts, whose vectors are the feature of the same name."""

    def __init__(self, feature: Feature, csr: Csr, dim: int) -> None:
        super().__init__()
        assert feature.dense is not None
        at = feature.known[csr.indices]
        self.rows = _Rows(Csr.from_pairs(csr.rows()[at], csr.indices[at], (csr.n_rows, csr.n_cols), csr.data[at]))
        self.hops = (self.rows,)
        self.register_buffer("x", torch.tensor(feature.dense), persistent=False)
        self.x: Tensor
        self.hidden, self.out = Affine(feature.dims, dim), Affine(dim, dim)
        self.attention = EdgeAttention(dim, 1, weighted=False)

    def reset(self, generator: torch.Generator) -> None:
        self.hidden.reset(generator, 2**0.5)
        self.out.reset(generator)
        self.attention.reset(generator)

    def forward(self, base: Tensor, table: Tensor, drawn: Sequence[Drawn | None]) -> Tensor:
        del table
        projected = self.out(functional.relu(self.hidden(self.x)))
        h: Tensor = self.rows(self.attention, projected, base, drawn[0])
        return h


class _AttributePart(nn.Module):
    """h_r of one relation to attributes (edges to the items and to the attributes), or among items."""

    def __init__(self, to_items: EdgeType, to_attributes: EdgeType | None, dim: int) -> None:
        super().__init__()
        self.rows, self.attention = _Rows(to_items.csr), EdgeAttention(dim, 1, not to_items.unweighted)
        self.nodes = to_items.source
        self.far_rows = self.far_attention = None
        self.hops: tuple[_Rows, ...] = (self.rows,)
        if to_attributes is not None:
            self.far_rows = _Rows(to_attributes.csr)
            self.far_attention = EdgeAttention(dim, 1, not to_attributes.unweighted)
            self.hops = self.rows, self.far_rows

    def reset(self, generator: torch.Generator) -> None:
        for attention in (self.attention, self.far_attention):
            if attention is not None:
                attention.reset(generator)

    def forward(self, base: Tensor, table: Tensor, drawn: Sequence[Drawn | None]) -> Tensor:
        z = base
        if self.far_rows is not None and self.far_attention is not None:
            e = table[self.nodes]
            z = e + self.far_rows(self.far_attention, base, e, drawn[1])
        h: Tensor = self.rows(self.attention, z, base, drawn[0])
        return h


Draws = tuple[tuple[Drawn, ...], ...]
"""Sampled edges per relation and hop; the hop that ends at the items comes first."""


class Relations(nn.Module):
    """The parts of every item from a set of relations.

    Args:
        graph: has the relations, and the texts' vectors.
        adjacency: of the same graph.
        names: the relations.
        dim: length of a vector.
    """

    def __init__(self, graph: Graph, adjacency: Adjacency, names: Sequence[str], dim: int) -> None:
        super().__init__()
        self.names, items = tuple(names), adjacency.types[graph.item]
        texts = {r.name for r in text_relations(graph)}
        # a list, since torch does not accept every relation name as a module's name
        self.parts = nn.ModuleList()
        for name in names:
            edge_types = [e for e in adjacency.edge_types if adjacency.names[e.relation] == name]
            to_items = next(e for e in edge_types if e.destination == items)
            to_others = next((e for e in edge_types if e.destination != items), None)
            self.parts.append(
                _TextPart(graph.features[name], to_items.csr, dim)
                if name in texts
                else _AttributePart(to_items, to_others, dim)
            )

    def reset(self, generator: torch.Generator) -> None:
        """Fresh parameters for every relation."""
        for part in self.parts:
            part.reset(generator)  # type: ignore[operator]

    def known(self) -> Tensor:
        """Which items each relation reaches, bool [n_items, n_parts]."""
        return torch.stack([part.rows.reached for part in self.parts], dim=1)  # type: ignore[union-attr, misc]

    def draw(self, fanout: int, seed: np.random.SeedSequence, parallel: bool) -> Draws:
        """At most ``fanout`` neighbours of every node in every hop."""
        hops: list[tuple[_Rows, ...]] = [part.hops for part in self.parts]  # type: ignore[misc]
        words = iter(seed.spawn(sum(map(len, hops))))
        return tuple(tuple(rows.draw(fanout, next(words), parallel) for rows in of) for of in hops)

    def forward(self, base: Tensor, table: Tensor, drawn: Draws | None = None) -> Parts:
        """One part per relation.

        Args:
            base: b, the items' states before their relations are read, [n_items, dim].
            table: e, free vectors of all nodes, [n_nodes, dim].
            drawn: sampled edges; None for all.
        """
        each = [(None, None)] * len(self.parts) if drawn is None else drawn
        vectors = [
            functional.normalize(part(base, table, of), dim=1) for part, of in zip(self.parts, each, strict=True)
        ]
        return Parts(torch.stack(vectors, dim=1), self.known())


class Gate(nn.Module):
    """A weighted mean of the known parts, with weights computed from the parts.

        γ_p = softmax_p(w_p · part_p + b_p) over the known p,      Σ_p γ_p part_p

    Attributes:
        weight: w, [n_parts, dim].
        bias: b, [n_parts].
    """

    def __init__(self, n_parts: int, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(n_parts, dim)), nn.Parameter(torch.zeros(n_parts))

    def reset(self) -> None:
        """Equal weights for all known parts."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def shares(self, parts: Parts) -> Tensor:
        """γ, [n_items, n_parts]; all zeros for an item without a part."""
        logits = (parts.vectors * self.weight).sum(2) + self.bias
        logits = logits.masked_fill(~parts.known, -torch.inf)
        some = parts.known.any(1, keepdim=True)
        return logits.masked_fill(~some, 0.0).softmax(1) * parts.known

    def forward(self, parts: Parts) -> Tensor:
        """[n_items, dim]; zeros for an item without a part."""
        return (self.shares(parts)[:, :, None] * parts.vectors).sum(1)


class CrossAttention(nn.Module):
    """Residual multi-head attention of each view over all parts of both views (Vaswani et al. 2017).

    With fewer than two known parts the view is returned unchanged.

    Args:
        n_parts: parts of both views together.
        dim: length of a vector.
        heads: a divisor of ``dim``.
    """

    def __init__(self, n_parts: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.idle = heads, n_parts < 2
        self.query, self.key, self.value, self.out = (Affine(dim, dim) for _ in range(4))

    def reset(self, generator: torch.Generator) -> None:
        """The added term is initially small."""
        for affine, scale in ((self.query, 1.0), (self.key, 1.0), (self.value, 1.0), (self.out, 0.1)):
            affine.reset(generator, scale)

    def forward(self, views: Tensor, parts: Parts) -> Tensor:
        """Views [n_items, n_views, dim] → [n_items, n_views, dim]."""
        if self.idle:
            return views
        n, dim = len(views), views.shape[2]

        def by_head(affine: Affine, x: Tensor) -> Tensor:
            projected: Tensor = affine(x.flatten(0, 1))
            return projected.view(n, x.shape[1], self.heads, -1).transpose(1, 2)

        query, key, value = (
            by_head(self.query, views),
            by_head(self.key, parts.vectors),
            by_head(self.value, parts.vectors),
        )
        some = parts.known.sum(1) > 1
        hidden = (~parts.known & some[:, None])[:, None, None]
        shares = ((query @ key.mT) * (dim / self.heads) ** -0.5).masked_fill(hidden, -torch.inf).softmax(3)
        attended = self.out((shares @ value).transpose(1, 2).reshape(-1, dim)).view_as(views)
        result: Tensor = views + attended * some[:, None, None]
        return result
