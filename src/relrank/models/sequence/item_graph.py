"""Vectors of items from the graph around them, without users: LightGCN or attention, and a loss to train them by.

The graph of a set of items is every relation that no user takes part in: items that follow each other within a window
of a history (``kind = "cooccurrence"``), items of one text, items and their tags. Other node types lie on the paths
between items and have vectors, too.

Before a model of sequences reads them, the vectors may be trained on the graph itself: in each step the edges of
every relation are dealt in two halves, one passes messages and some of the other are predicted, each edge's target
against all nodes of its type. So no edge is among the messages that it supervises.

Pairs of a relation of kind cooccurrence come from the training histories, so the step from an item to the next that
supervises a moment is one of its counts, as in published work. Training loss is flattered by it; validation and test
rows are in no graph. The audit counts the steps that are an edge by themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.graph.relation import Relation
from relrank.graph.sampling.blocks import Adjacency, full_block
from relrank.models.graph.gatv2 import AttentionLayer
from relrank.tables.ids import IdMap

EncoderName = Literal["lightgcn", "gat"]
PAIRS = 4096
"""Edges predicted in one step."""


def userless_relations(graph: Graph) -> dict[str, Relation]:
    """The relations that no user takes part in and that lead to an item, perhaps through others."""
    relations = {n: r for n, r in graph.relations.items() if graph.user not in (r.source, r.target)}
    near = {graph.item}
    for _ in relations:  # types that paths between items may pass
        near |= {end for r in relations.values() if near & {r.source, r.target} for end in (r.source, r.target)}
    return {n: r for n, r in relations.items() if r.source in near}


def item_graph(graph: Graph) -> Graph:
    """The graph of ``userless_relations``; users and interactions are gone.

    Raises:
        InputError: there are none.
    """
    relations = userless_relations(graph)
    if not relations:
        raise InputError(
            "no relation among items",
            where="graph vectors of items",
            expected="a relation that leads from items to items, such as one of kind cooccurrence",
            found=", ".join(graph.relations) or "none",
        )
    nobody = IdMap(graph.user, graph.nodes[graph.user].keys.head(0))
    none = np.zeros(0, np.int32)
    interactions = Relation.of(graph.interactions.name, graph.user, graph.item, none, none)
    nodes = {t: nobody if t == graph.user else ids for t, ids in graph.nodes.items()}
    return replace(
        graph, nodes=nodes, interactions=interactions, relations=relations, features={}, places=None, events=None
    )


class ItemGraphEncoder(nn.Module, ABC):
    """Vectors of all nodes of an item graph, users being none of them.

    Args:
        graph: from ``item_graph``.
        dim: length of a vector.
        layers: steps along edges.

    Attributes:
        table: what the layers start from, [n_nodes, dim].
        scale: factor of what comes out; a factor of the table would change what attention attends to.
    """

    def __init__(self, graph: Graph, dim: int, layers: int) -> None:
        super().__init__()
        self.graph, self.layers = graph, layers
        self._blocks = Propagation(graph)
        self.table = nn.Parameter(torch.zeros(self._blocks.n_nodes, dim))
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    @abstractmethod
    def reset(self, generator: torch.Generator, scale: float) -> None:
        """Fresh parameters; called without gradients."""

    @abstractmethod
    def encode(self, graph: Graph) -> Tensor:
        """Vectors of all nodes, messages passing along the edges of ``graph``, whose nodes are the same."""

    def forward(self) -> Tensor:
        """Vectors of all items along all edges, [n_items, dim]."""
        return self.encode(self.graph)[self._rows(self.graph.item)] * self.scale

    @torch.no_grad()
    def rescale(self, length: float) -> None:
        """Make the items' vectors ``length`` long on average."""
        self.scale.fill_(1)
        self.scale.copy_(length / self().norm(dim=1).mean())

    def pretrain(self, steps: int, lr: float, seed: np.random.SeedSequence) -> list[float]:
        """Train the vectors to predict the graph's own edges.

        Args:
            steps: each on at most ``PAIRS`` of the held-out half of every relation.
            lr: Adam's, falling to 0.
            seed: of the halves and the edges.

        Returns:
            The loss of every step.
        """
        optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)
        relations, curve = list(self.graph.relations.values()), []
        for step, own in enumerate(seed.spawn(steps)):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            rng = np.random.default_rng(own)
            chosen = {r.name: rng.random(len(r)) < 0.5 for r in relations}
            kept = replace(self.graph, relations={r.name: r.where(chosen[r.name]) for r in relations})
            optimizer.zero_grad()
            vectors = self.encode(kept)
            losses = [self._edge_loss(vectors, r, ~chosen[r.name], rng) for r in relations]
            total = torch.stack(losses).mean()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            curve.append(float(total.detach()))
        optimizer.zero_grad()
        return curve

    def _edge_loss(self, vectors: Tensor, relation: Relation, which: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of each edge's target among all nodes of its type, over cosines; both ways within a type."""
        edges = relation.where(which)
        if not len(edges):
            return vectors.sum() * 0
        some = rng.permutation(len(edges))[:PAIRS]
        src, dst = edges.src[some].astype(np.int64), edges.dst[some].astype(np.int64)
        turned = rng.random(some.size) < 0.5 if relation.undirected else np.zeros(some.size, bool)
        src, dst = np.where(turned, dst, src), np.where(turned, src, dst)
        left, right = (
            functional.normalize(vectors[self._rows(t)], dim=1) for t in (relation.source, relation.target)
        )
        # index_select, for the gradient of indexing adds in the order in which threads arrive
        logits = left.index_select(0, torch.from_numpy(src).to(left.device)) @ right.T / 0.1
        weight = torch.from_numpy(edges.weight[some]).to(logits)
        loss = functional.cross_entropy(logits, torch.from_numpy(dst).to(logits.device), reduction="none")
        return (loss * weight).sum() / weight.sum()

    def _rows(self, node_type: str) -> slice:
        first = self._blocks.offsets[node_type]
        return slice(first, first + len(self.graph.nodes[node_type]))


class LightGCNItemEncoder(ItemGraphEncoder):
    """``1/(L+1) Σ_l (Σ_r Â_r / R)^l T``: the layers' mean over all relations alike (He et al. 2020)."""

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """A normal table."""
        self.table.copy_(torch.randn(self.table.shape, generator=generator) * scale)

    def encode(self, graph: Graph) -> Tensor:
        """The mean of the layers."""
        blocks = self._blocks if graph is self.graph else Propagation(graph)
        alpha = torch.tensor([0.0] + [1 / len(graph.relations)] * len(graph.relations))
        return blocks.layer_mean(self.table, alpha, self.layers)


class GATItemEncoder(ItemGraphEncoder):
    """Layers of GATv2 attention over the edges of every relation, each beside a way past it."""

    def __init__(self, graph: Graph, dim: int, layers: int, heads: int) -> None:
        super().__init__(graph, dim, layers)
        adjacency = Adjacency(graph)
        self._block = full_block(adjacency)
        self.attention = nn.ModuleList([AttentionLayer(dim, adjacency, heads) for _ in range(layers)])

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """A normal table; layers as in GATv2."""
        self.table.copy_(torch.randn(self.table.shape, generator=generator) * scale)
        for layer in self.attention:
            assert isinstance(layer, AttentionLayer)
            layer.reset(generator)

    def encode(self, graph: Graph) -> Tensor:
        """The last layer."""
        block = (self._block if graph is self.graph else full_block(Adjacency(graph))).to(self.table.device)
        x: Tensor = self.table
        for layer in self.attention:
            x = x + layer(x, block)
        return x


def make_item_encoder(encoder: EncoderName, graph: Graph, dim: int, layers: int, heads: int) -> ItemGraphEncoder:
    """The encoder of that name; ``heads`` are those of attention."""
    return (
        LightGCNItemEncoder(graph, dim, layers)
        if encoder == "lightgcn"
        else GATItemEncoder(graph, dim, layers, heads)
    )
