"""Graph neural networks over relations: everything but the layer.

    x⁰ = (free vector) + (projected features),      xˡ⁺¹ = [xˡ +] layer(xˡ, neighbours in every relation)

Training uses sampled blocks or the full graph. Either way the batch's own edges carry no messages in the batch that
they supervise, and the seed nodes are its users and all its positive and negative items. Scores use exact vectors of
all nodes, computed layer by layer in bounded memory.

By default users have no free vectors, so a new user's history is scored exactly as a training user's. Items without
training edges have none either; their vectors follow from features and relations.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import within_layers
from relrank.graph.sampling.blocks import Adjacency, Block, Edges, full_block
from relrank.graph.sampling.neighbour_sampling import NeighbourSampler, full_blocks
from relrank.kernels.csr import Csr, Int64
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import DropFraction, NonNegativeInt, PositiveInt
from relrank.models.core.layers import FeatureEncoder, apply_dropout
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.vector_model import Batch, VectorConfig, VectorModel


@dataclass(frozen=True, slots=True)
class MessagePassingConfig(VectorConfig):
    """Hyper-parameters of every graph neural network."""

    layers: PositiveInt = 2
    """Number of layers."""
    fanout: NonNegativeInt = 0
    """Neighbours sampled per node, relation, direction and layer; 0 trains on the full graph."""
    weighted: bool = False
    """Whether neighbours are sampled with replacement in proportion to their edges' weights; their plain mean then
    estimates the weighted mean of all. Not for layers that use the weights themselves."""
    user_vectors: bool = False
    """Whether users have free vectors."""
    features: bool = False
    """Whether node features are used; the graph must have some."""
    own_dropout: DropFraction = 0.0
    """Share of the nodes whose free vector is dropped in a step, so that features also work without it (DropoutNet,
    Volkovs et al. 2017)."""
    dropout: DropFraction = 0.0
    """Dropout on the inputs of each layer."""
    residual: bool = True
    """Whether layers have residual connections."""


class MessagePassing(VectorModel):
    """A graph neural network; a subclass gives ``layer``."""

    Config = MessagePassingConfig
    relational = True
    max_batch_fraction: ClassVar[float] = 0.5
    counts_zero_neighbours: ClassVar[bool] = False
    """Whether neighbours with zero vectors change the weights of the others."""
    sweep_edges: ClassVar[int] = 1 << 21
    """Edges per block when the vectors of all nodes are computed."""
    featured = True

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.adjacency = Adjacency(graph)
        self._neighbour_sampler = (
            NeighbourSampler(self.adjacency, [c.fanout] * c.layers, replace=c.weighted, weighted=c.weighted)
            if c.fanout
            else None
        )
        self._full_block = None if c.fanout else full_block(self.adjacency)
        self.table = nn.Parameter(torch.zeros(self.adjacency.n_nodes, c.dim))
        with_features = [t for t in self.adjacency.types if graph.features_of(t)] if c.features else []
        if c.features and not graph.features:  # an arm may exclude the node types with features
            raise InputError("graph has no node features", where=self.name, expected="[features.…]", found="none")
        # a list, since torch does not accept every type name as a module's name
        self.encoders = nn.ModuleList(FeatureEncoder(graph, t, c.dim) for t in with_features)
        self._featured = with_features
        with torch.random.fork_rng(
            devices=[]
        ):  # torch's modules draw from the global generator in their constructors
            self.convs = nn.ModuleList(self.layer() for _ in range(c.layers))
        self.register_buffer("_has_own", self._own(), persistent=False)
        self._has_own: Tensor
        self._states: list[Tensor] = []

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations whose messages reach users or items within the layers.

        With one layer, users without free vectors or features send zero messages to each other.
        """
        c = config or cls.Config()
        used = within_layers(graph, graph.relations, (graph.user, graph.item), int(c.layers))
        user_features = c.features and graph.features_of(graph.user)
        if c.layers > 1 or c.user_vectors or user_features or cls.counts_zero_neighbours:
            return used
        return tuple(n for n in used if {graph.relations[n].source, graph.relations[n].target} != {graph.user})

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every encoder, then layers and regularisation."""
        return (
            *super().space(graph),
            Range("layers", 1, 3),
            Choice("user_vectors", (False, True)),
            Choice("residual", (True, False)),
            GridParameter("dropout", (0.0, 0.1, 0.2, 0.4), 0.0),
        )

    @abstractmethod
    def layer(self) -> nn.Module:
        """A layer: ``forward(x [n_src, dim], block) -> [n_dst, dim]``, with ``reset(generator)`` to initialise it."""

    def _own(self) -> Tensor:
        """1 for nodes with a free vector, 0 for others, float32 [n_nodes, 1]."""
        degrees = np.bincount(self.history.indices, minlength=self.graph.n_items) > 0
        own = torch.ones(self.adjacency.n_nodes, 1)
        if not self.config.user_vectors:
            own[self.adjacency.types[self.graph.user]] = 0
        items = self.adjacency.types[self.graph.item]
        own[items] *= torch.from_numpy(degrees)[:, None]
        return own

    def init_encoder(self, generator: torch.Generator) -> None:
        """Each feature encoder and each layer initialises itself."""
        for encoder in self.encoders:
            encoder.init_weights(generator, self.config.init_scale)  # type: ignore[operator]
        for conv in self.convs:
            conv.reset(generator)  # type: ignore[operator]

    def encoder_inputs(
        self, users: Int64, items: Int64, edges: tuple[Int64, Int64], seed: np.random.SeedSequence
    ) -> Any:
        """Blocks whose last destinations are the batch's users and items, without the batch's own edges."""
        if self._neighbour_sampler is None:
            return (full_block(self.adjacency, edges, self._full_block),) * int(self.config.layers)
        seeds = np.concatenate([users, items + self.graph.n_users])
        blocks = self._neighbour_sampler.sample(seeds, seed, exclude=edges, parallel=self.parallel)
        if self.config.weighted:  # sampled by weight, so their mean is unweighted
            blocks = [
                replace(b, edges=tuple(e._replace(weight=torch.ones_like(e.weight)) for e in b.edges)) for b in blocks
            ]
        return tuple(blocks)

    def input(self, nodes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x⁰ of global node indices, [n, dim]; with a generator, free vectors are dropped at random."""
        own = self._has_own[nodes]
        if generator is not None and self.config.own_dropout:
            drawn = torch.rand(own.shape, generator=generator, device=own.device)
            own = own * (drawn >= self.config.own_dropout)
        x = self.table.index_select(0, nodes) * own
        for node_type, encoder in zip(self._featured, self.encoders, strict=True):
            rows = self.adjacency.types[node_type]
            here = ((nodes >= rows.start) & (nodes < rows.stop)).nonzero()[:, 0]
            x = x.index_add(
                0, here, encoder(nodes[here] - rows.start).to(x.dtype)
            )  # autocast may have returned half precision
        return x

    def _apply_layer(self, number: int, x: Tensor, block: Block) -> Tensor:
        out: Tensor = self.convs[number](x, block)
        if number + 1 < self.config.layers:
            out = functional.relu(out)
        return x[: block.n_dst] + out if self.config.residual else out

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The layers applied to the batch's blocks."""
        generator = torch.Generator(self.table.device).manual_seed(batch.seed)
        blocks: tuple[Block, ...] = batch.encoder_inputs
        x = self.input(blocks[0].nodes, generator)
        for number, block in enumerate(blocks):
            x = apply_dropout(x, self.config.dropout, generator)
            x = self._apply_layer(number, x, block)
        if self._neighbour_sampler is None:
            return self.rows_of(x, batch)
        return x[: len(batch.users)], x[len(batch.users) :]

    def penalised_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Free vectors of the batch's users and items."""
        nodes = batch.users, batch.items + self.graph.n_users
        users, items = (self.table.index_select(0, n) * self._has_own[n] for n in nodes)
        return users, items

    def encode_all(self) -> tuple[Tensor, Tensor]:
        """Exact vectors of all nodes; the items' states per layer are kept for ``encode_histories``."""
        users, items = (self.adjacency.types[t] for t in (self.graph.user, self.graph.item))
        nodes = torch.arange(self.adjacency.n_nodes, device=self.table.device)
        x, self._states = self.input(nodes), []
        for number in range(self.config.layers):
            self._states.append(x[items].clone())
            new = torch.empty_like(x)
            for block in full_blocks(self.adjacency, self.sweep_edges):
                block = block.to(x.device)
                new[block.nodes[: block.n_dst]] = self._apply_layer(number, x[block.nodes], block)
            x = new
        return x[users].clone(), x[items].clone()

    def encode_histories(self, rows: Csr) -> Tensor:
        """The layers for users whose only edges are their histories and who have no free vector."""
        n, device = rows.n_rows, self.table.device
        user = self.table.new_zeros(n, int(self.config.dim))
        items = self.adjacency.types[self.graph.item]
        # user row 0 stands for the new nodes, since layers only read their type
        nodes = torch.cat([torch.zeros(n, dtype=torch.int64), torch.arange(items.start, items.stop)])
        none = torch.zeros(n + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32), torch.zeros(0)
        history = torch.from_numpy(rows.indptr), torch.from_numpy(rows.indices + np.int32(n)), torch.ones(rows.nnz)
        edges = [Edges(*(history if k == 1 else none)) for k in range(len(self.adjacency.edge_types))]
        block = Block(nodes, n, tuple(edges)).to(device)
        if self.graph.user in self._featured:
            missing: Tensor = self.encoders[self._featured.index(self.graph.user)].missing  # type: ignore[assignment]
            user = user + missing.sum(0)
        for number in range(self.config.layers):
            user = self._apply_layer(number, torch.cat([user, self._states[number]]), block)
        return user

    def clear_derived(self) -> None:
        """Drop cached vectors of earlier parameters."""
        super().clear_derived()
        self._states = []
