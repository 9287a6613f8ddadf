"""Item vectors from the graph of items, without users: LightGCN or attention, with a pretraining loss.

The item graph has every relation without users: items that follow each other within a window of a history
(``kind = "cooccurrence"``), items with a common text, items and their tags. Nodes of other types on paths between
items have vectors, too.

Pretraining splits the edges of every relation into random halves in each step: one half passes messages, and some
edges of the other are predicted, each edge's target against all nodes of its type. So no edge is among the messages
that it supervises.

Pairs of a cooccurrence relation come from the training histories, so they include the transitions that the sequence
model is trained on, as in published work. This makes the training loss optimistic; validation and test rows are in no
graph. The audit counts transitions that are an edge on their own.
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
"""Edges predicted per step and relation."""


def userless_relations(graph: Graph) -> dict[str, Relation]:
    """Relations without users that are connected to items, perhaps through others."""
    relations = {n: r for n, r in graph.relations.items() if graph.user not in (r.source, r.target)}
    connected = {graph.item}
    for _ in relations:
        connected |= {t for r in relations.values() if connected & {r.source, r.target} for t in (r.source, r.target)}
    return {n: r for n, r in relations.items() if r.source in connected}


def item_graph(graph: Graph) -> Graph:
    """The graph of ``userless_relations``, without users and interactions.

    Raises:
        InputError: there are none.
    """
    relations = userless_relations(graph)
    if not relations:
        raise InputError(
            "no relation among items",
            where="item graph",
            expected="a relation that connects items, such as one of kind cooccurrence",
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
    """Vectors of all nodes of an item graph.

    Args:
        graph: from ``item_graph``.
        dim: length of a vector.
        layers: number of layers.

    Attributes:
        table: free vectors, the input of the first layer, [n_nodes, dim].
        scale: factor of the output; scaling the table instead would change the attention weights.
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
        """Initialise the parameters; called without gradients."""

    @abstractmethod
    def encode(self, graph: Graph) -> Tensor:
        """Vectors of all nodes, with messages along the edges of ``graph``, a subgraph with the same nodes."""

    def forward(self) -> Tensor:
        """Vectors of all items, with messages along all edges, [n_items, dim]."""
        return self.encode(self.graph)[self._rows(self.graph.item)] * self.scale

    @torch.no_grad()
    def rescale(self, length: float) -> None:
        """Scale the item vectors to a mean length of ``length``."""
        self.scale.fill_(1)
        self.scale.copy_(length / self().norm(dim=1).mean())

    def pretrain(self, steps: int, lr: float, seed: np.random.SeedSequence) -> list[float]:
        """Train the encoder to predict edges of the graph.

        Args:
            steps: each predicts at most ``PAIRS`` held-out edges per relation.
            lr: Adam's learning rate, decaying to 0.
            seed: of the halves and the edges.

        Returns:
            The loss of every step.
        """
        optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)
        relations, curve = list(self.graph.relations.values()), []
        for step, step_seed in enumerate(seed.spawn(steps)):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            rng = np.random.default_rng(step_seed)
            messages = {r.name: rng.random(len(r)) < 0.5 for r in relations}
            message_graph = replace(self.graph, relations={r.name: r.where(messages[r.name]) for r in relations})
            optimizer.zero_grad()
            vectors = self.encode(message_graph)
            losses = [self._edge_loss(vectors, r, ~messages[r.name], rng) for r in relations]
            total = torch.stack(losses).mean()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            curve.append(float(total.detach()))
        optimizer.zero_grad()
        return curve

    def _edge_loss(self, vectors: Tensor, relation: Relation, which: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Cross-entropy over cosines of each edge's target among all nodes of its type; both ways if undirected."""
        edges = relation.where(which)
        if not len(edges):
            return vectors.sum() * 0
        some = rng.permutation(len(edges))[:PAIRS]
        src, dst = edges.src[some].astype(np.int64), edges.dst[some].astype(np.int64)
        swapped = rng.random(some.size) < 0.5 if relation.undirected else np.zeros(some.size, bool)
        src, dst = np.where(swapped, dst, src), np.where(swapped, src, dst)
        left, right = (
            functional.normalize(vectors[self._rows(t)], dim=1) for t in (relation.source, relation.target)
        )
        # index_select, since the gradient of indexing is summed in an order that depends on the threads
        logits = left.index_select(0, torch.from_numpy(src).to(left.device)) @ right.T / 0.1
        weight = torch.from_numpy(edges.weight[some]).to(logits)
        loss = functional.cross_entropy(logits, torch.from_numpy(dst).to(logits.device), reduction="none")
        return (loss * weight).sum() / weight.sum()

    def _rows(self, node_type: str) -> slice:
        first = self._blocks.offsets[node_type]
        return slice(first, first + len(self.graph.nodes[node_type]))


class LightGCNItemEncoder(ItemGraphEncoder):
    """``1/(L+1) Σ_l (Σ_r Â_r / R)^l E``: LightGCN with equal weights of all R relations (He et al. 2020)."""

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """A normal table E."""
        self.table.copy_(torch.randn(self.table.shape, generator=generator) * scale)

    def encode(self, graph: Graph) -> Tensor:
        """The mean of the layers."""
        blocks = self._blocks if graph is self.graph else Propagation(graph)
        alpha = torch.tensor([0.0] + [1 / len(graph.relations)] * len(graph.relations))
        return blocks.layer_mean(self.table, alpha, self.layers)


class GATItemEncoder(ItemGraphEncoder):
    """GATv2 layers over all relations, with residual connections."""

    def __init__(self, graph: Graph, dim: int, layers: int, heads: int) -> None:
        super().__init__(graph, dim, layers)
        adjacency = Adjacency(graph)
        self._block = full_block(adjacency)
        self.attention = nn.ModuleList([AttentionLayer(dim, adjacency, heads) for _ in range(layers)])

    def reset(self, generator: torch.Generator, scale: float) -> None:
        """A normal table; layers initialised as in GATv2."""
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
    """The encoder by name; ``heads`` are attention heads."""
    if encoder == "lightgcn":
        return LightGCNItemEncoder(graph, dim, layers)
    return GATItemEncoder(graph, dim, layers, heads)
