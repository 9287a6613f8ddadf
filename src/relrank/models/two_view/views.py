"""Two views of items: what is written of them, and what they share with others.

A relation from the item to texts, which are nodes with vectors, is read as content:

    h_k(i) = Σ_{n ∈ N_k(i)} a_in P_k(x_n),      a_in = softmax over n of v · leaky(R b_i + L P_k(x_n))

P_k being a two-layer projection of the texts' fixed vectors: the item's state b_i decides which of its texts counts
("review attention": Chen et al. 2018, NARRE, with the edge's attention of GATv2). Any other relation of items is read
as structure, in two hops with attention of their own, item → attribute → item:

    z_n = e_n + att(items of n),      h_r(i) = att(z_n of the attributes of i)

or in one hop where it links items with items. Each gives an item one vector of length 1, or none: an item that a
relation does not reach is *missing* in it, no zero and no average, and has no share in what follows.

A view is a mean of its parts by a gate; an item without any part has no such view.
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
    """What several relations say of every item.

    Attributes:
        vectors: [n_items, n_parts, dim], of length 1; zeros where there is nothing.
        known: bool [n_items, n_parts].
    """

    vectors: Tensor
    known: Tensor


def attribute_relations(graph: Graph) -> tuple[str, ...]:
    """All relations of items but those to texts, in name order; one that links items and users is no attribute."""
    texts = {r.name for r in text_relations(graph)}
    ends = {name: (r.source, r.target) for name, r in sorted(graph.relations.items()) if len(r) and name not in texts}
    return tuple(name for name, pair in ends.items() if graph.item in pair and graph.user not in pair)


class Drawn(NamedTuple):
    """Some neighbours of the nodes that have any, as arrays: where each node's start, sources, weights."""

    starts: Int64
    sources: Int32
    weight: Float32


class _Rows(nn.Module):
    """One edge type's neighbours, as rows of its destinations, kept on the module's device.

    Attributes:
        reached: bool [n_destinations], which have a neighbour.
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
        found = Drawn(starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
        word = seed.generate_state(1, np.uint64)[0]
        draw(
            self._nodes, self._edges, none, fanout, False, False, word, starts, found.sources, found.weight, parallel
        )
        return found

    def forward(self, attention: EdgeAttention, sources: Tensor, destinations: Tensor, drawn: Drawn | None) -> Tensor:
        """What each destination hears, [n_destinations, dim]; zeros where there is nothing to hear."""
        edges = (self.starts, self.sources, self.weight)
        if drawn is not None:
            starts, rows, weight = (torch.from_numpy(array).to(self.rows.device) for array in drawn)
            edges = starts, rows, weight
        heard: Tensor = attention(sources, destinations.index_select(0, self.rows), *edges)
        return torch.zeros_like(destinations).index_copy(0, self.rows, heard.to(destinations.dtype))


class _Content(nn.Module):
    """One relation to texts, whose vectors are the feature of its name."""

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
        written = self.out(functional.relu(self.hidden(self.x)))
        heard: Tensor = self.rows(self.attention, written, base, drawn[0])
        return heard


class _Structure(nn.Module):
    """One relation to attributes, or among items."""

    def __init__(self, back: EdgeType, there: EdgeType | None, dim: int) -> None:
        super().__init__()
        self.rows, self.attention = _Rows(back.csr), EdgeAttention(dim, 1, not back.unweighted)
        self.nodes = back.source
        self.far_rows = self.far_attention = None
        self.hops: tuple[_Rows, ...] = (self.rows,)
        if there is not None:
            self.far_rows, self.far_attention = _Rows(there.csr), EdgeAttention(dim, 1, not there.unweighted)
            self.hops = self.rows, self.far_rows

    def reset(self, generator: torch.Generator) -> None:
        for attention in (self.attention, self.far_attention):
            if attention is not None:
                attention.reset(generator)

    def forward(self, base: Tensor, table: Tensor, drawn: Sequence[Drawn | None]) -> Tensor:
        sources = base
        if self.far_rows is not None and self.far_attention is not None:
            own = table[self.nodes]
            sources = own + self.far_rows(self.far_attention, base, own, drawn[1])
        heard: Tensor = self.rows(self.attention, sources, base, drawn[0])
        return heard


Draws = tuple[tuple[Drawn, ...], ...]
"""For each relation its hops' edges, the items' own first."""


class Relations(nn.Module):
    """What a set of relations says of every item, one part each.

    Args:
        graph: has the relations, and the vectors of the nodes they lead to.
        adjacency: of the same graph.
        names: the relations.
        dim: length of a vector.
    """

    def __init__(self, graph: Graph, adjacency: Adjacency, names: Sequence[str], dim: int) -> None:
        super().__init__()
        self.names, items = tuple(names), adjacency.types[graph.item]
        texts = {r.name for r in text_relations(graph)}
        # a list: a relation's own name may be one that torch does not take for a module
        self.parts = nn.ModuleList()
        for name in names:
            both = [e for e in adjacency.edge_types if adjacency.names[e.relation] == name]
            back = next(e for e in both if e.destination == items)
            there = next((e for e in both if e.destination != items), None)
            self.parts.append(
                _Content(graph.features[name], back.csr, dim) if name in texts else _Structure(back, there, dim)
            )

    def reset(self, generator: torch.Generator) -> None:
        """Every relation's own start."""
        for part in self.parts:
            part.reset(generator)  # type: ignore[operator]

    def known(self) -> Tensor:
        """Which items each relation reaches, bool [n_items, n_parts]."""
        return torch.stack([part.rows.reached for part in self.parts], dim=1)  # type: ignore[union-attr, misc]

    def draw(self, fanout: int, seed: np.random.SeedSequence, parallel: bool) -> Draws:
        """At most ``fanout`` neighbours of every node in every hop, to train on instead of all."""
        hops: list[tuple[_Rows, ...]] = [part.hops for part in self.parts]  # type: ignore[misc]
        words = iter(seed.spawn(sum(map(len, hops))))
        return tuple(tuple(rows.draw(fanout, next(words), parallel) for rows in of) for of in hops)

    def forward(self, base: Tensor, table: Tensor, drawn: Draws | None = None) -> Parts:
        """One part per relation.

        Args:
            base: what is known of the items beside their relations, [n_items, dim].
            table: own vectors of all nodes, [n_nodes, dim].
            drawn: edges to read; None for all.
        """
        each = [(None, None)] * len(self.parts) if drawn is None else drawn
        vectors = [
            functional.normalize(part(base, table, of), dim=1) for part, of in zip(self.parts, each, strict=True)
        ]
        return Parts(torch.stack(vectors, dim=1), self.known())


class Gate(nn.Module):
    """A mean of parts whose shares the parts themselves decide; those that are missing have none.

        γ_p = softmax over the known p of (w_p · part_p + b_p),      Σ_p γ_p part_p

    Attributes:
        weight: w, [n_parts, dim].
        bias: b, [n_parts].
    """

    def __init__(self, n_parts: int, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(n_parts, dim)), nn.Parameter(torch.zeros(n_parts))

    def reset(self) -> None:
        """All that is known counts alike."""
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
    """Each view asks all parts of both views: scaled dot products in several heads (Vaswani et al. 2017), residual.

    With one part there is one key, whose share is 1 whatever is asked: then nothing is added.

    Args:
        n_parts: parts of both views together.
        dim: length of a vector.
        heads: they divide it.
    """

    def __init__(self, n_parts: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.idle = heads, n_parts < 2
        self.query, self.key, self.value, self.out = (Affine(dim, dim) for _ in range(4))

    def reset(self, generator: torch.Generator) -> None:
        """What is added starts small."""
        for affine, scale in ((self.query, 1.0), (self.key, 1.0), (self.value, 1.0), (self.out, 0.1)):
            affine.reset(generator, scale)

    def forward(self, views: Tensor, parts: Parts) -> Tensor:
        """[n_items, n_views, dim] → the same, each with what it found in the parts."""
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
        heard = self.out((shares @ value).transpose(1, 2).reshape(-1, dim)).view_as(views)
        found: Tensor = views + heard * some[:, None, None]
        return found
