"""Layers that models share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.sampling.blocks import Adjacency
from relrank.kernels.additive_attention import additive_attention

BLOCK = 256
"""Rows per partial sum of the gradient of ``product_in_blocks``."""


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight``, [b, d] times [d, dim], with bitwise the same gradient on any number of threads.

    The gradient of the weight is a sum over the batch, which a matrix product with few rows splits differently for
    different numbers of threads (MKL: with d from 5 to 11). Here blocks of fixed size are summed first.
    """
    b = len(x)
    blocks = functional.pad(x, (0, 0, 0, -b % BLOCK)).view(-1, BLOCK, x.shape[1])
    product = torch.bmm(blocks, weight.expand(len(blocks), *weight.shape))
    return product.flatten(0, 1)[:b]


class Affine(nn.Module):
    """``[x ‖ 1] @ weight``: a linear layer with bitwise the same gradients on any number of threads.

    Attributes:
        weight: [d_in + 1, d_out]; the last row is the bias.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_in + 1, d_out))

    def reset(self, generator: torch.Generator | None, scale: float = 1.0, bias: float = 0.0) -> None:
        """Normal weights with standard deviation ``scale / √d_in``, or zeros without a generator; constant bias."""
        with torch.no_grad():
            self.weight.zero_()
            if generator is not None:
                drawn = torch.randn(self.weight[:-1].shape, generator=generator)
                self.weight[:-1] = drawn * (scale / math.sqrt(len(drawn)))
            self.weight[-1] = bias

    def forward(self, *parts: Tensor) -> Tensor:
        """Concatenated parts [b, d_in] → [b, d_out]."""
        return product_in_blocks(torch.cat([*parts, parts[0].new_ones(len(parts[0]), 1)], 1), self.weight)


class EdgeAttention(nn.Module):
    """Additive attention over one edge type (GATv2: Brody, Alon & Yahav 2022, eq. 7).

        out_i = Σ_j a_ij L h_j,      a_ij = softmax_j(v · leaky-relu(R h_i + L h_j + e log(1 + w_ij)))   (each head)

    Attributes:
        left: L, [dim, dim].
        right: R, [dim, dim].
        vector: v, [heads, dim / heads].
        along: e, [heads, dim / heads]; None for edges without weights.
    """

    def __init__(self, dim: int, heads: int, weighted: bool) -> None:
        super().__init__()
        self.left, self.right = (nn.Parameter(torch.zeros(dim, dim)) for _ in range(2))
        self.vector = nn.Parameter(torch.zeros(heads, dim // heads))
        self.along = nn.Parameter(torch.zeros(heads, dim // heads)) if weighted else None

    def reset(self, generator: torch.Generator) -> None:
        """L near the identity, R and v Glorot, e near zero."""
        dim = len(self.left)
        self.left.copy_(near_identity((dim, dim), generator))
        self.right.copy_(glorot((dim, dim), generator))
        self.vector.copy_(glorot(tuple(self.vector.shape), generator))
        if self.along is not None:
            self.along.copy_(torch.randn(self.along.shape, generator=generator) * 0.1 / dim**0.5)

    def forward(
        self, sources: Tensor, destinations: Tensor, indptr: Tensor, indices: Tensor, weight: Tensor
    ) -> Tensor:
        """Σ_j a_ij L h_j of every destination, [n_dst, dim].

        Args:
            sources: h_j, [n_src, dim].
            destinations: h_i, [n_dst, dim].
            indptr: CSR of the edges by destination.
            indices: sources of the edges.
            weight: w_ij of the edges.
        """
        by_head = (-1, *self.vector.shape)
        left, right = functional.linear(sources, self.left), functional.linear(destinations, self.right)
        edge = None if self.along is None else (weight.log1p(), self.along)
        out = additive_attention(left.view(by_head), right.view(by_head), self.vector, indptr, indices, edge)
        return out.flatten(1)


class FeatureEncoder(nn.Module):
    """Vectors of nodes from their features: the sum of a projection of every feature.

        h(v) = Σ_dense W_f x_f(v) + Σ_sparse (Σ_c s_f(v, c) · T_f[c]) / Σ_c s_f(v, c) + Σ_{f missing for v} m_f

    A dense feature has a matrix W_f [d_f, dim], a sparse one a table T_f [d_f, dim], and each a vector m_f [dim] for
    missing values, which are neither average nor a category.

    Args:
        graph: has the features, which are kept in buffers that are not saved.
        node_type: of the nodes.
        dim: length of a vector.

    Attributes:
        names: features in the order of ``weights``.
        weights: W_f or T_f, [d_f, dim] each.
        missing: m_f, [n_features, dim].

    Raises:
        InputError: the node type has no features.
    """

    def __init__(self, graph: Graph, node_type: str, dim: int) -> None:
        super().__init__()
        features = graph.features_of(node_type)
        if not features:
            found = ", ".join(f"{f.name} of {f.node}" for f in graph.features.values()) or "no features"
            raise InputError(
                "node type has no features", where=node_type, expected="a [features.…] of it", found=found
            )
        self.names = tuple(f.name for f in features)
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(f.dims, dim)) for f in features])
        self.missing = nn.Parameter(torch.zeros(len(features), dim))
        self._inputs = nn.ModuleList([_Sparse(f) if f.dense is None else _Dense(f) for f in features])
        unknown = torch.from_numpy(~np.stack([f.known for f in features], axis=1)).float()
        self.register_buffer("_unknown", unknown, persistent=False)
        self._unknown: Tensor

    def init_weights(self, generator: torch.Generator, scale: float = 0.1) -> None:
        """Normal weights, so that each feature contributes entries with about this standard deviation."""
        with torch.no_grad():
            for weight, inputs in zip(self.weights, self._inputs, strict=True):
                width = math.sqrt(len(weight)) if isinstance(inputs, _Dense) else 1.0
                weight.copy_(torch.randn(weight.shape, generator=generator) * (scale / width))
            self.missing.copy_(torch.randn(self.missing.shape, generator=generator) * scale)

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of the given nodes, [b, dim].

        Args:
            rows: int64 [b], rows of the node type, in any order, repeated or not.
        """
        total = product_in_blocks(self._unknown.index_select(0, rows), self.missing)
        for weight, inputs in zip(self.weights, self._inputs, strict=True):
            total = total + inputs(rows, weight)
        return total


class _Dense(nn.Module):
    """Rows of a table times a matrix."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        assert feature.dense is not None
        self.register_buffer("x", torch.tensor(feature.dense), persistent=False)
        self.x: Tensor

    def forward(self, rows: Tensor, weight: Tensor) -> Tensor:
        return product_in_blocks(self.x.index_select(0, rows), weight)


class _Sparse(nn.Module):
    """Weighted mean of the table's vectors; zero for an empty row."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        s = feature.sparse
        assert s is not None
        for name, array in (("start", s.indptr), ("columns", s.indices), ("share", s.shares().data)):
            self.register_buffer(name, torch.tensor(array), persistent=False)
        self.start: Tensor
        self.columns: Tensor
        self.share: Tensor

    def forward(self, rows: Tensor, table: Tensor) -> Tensor:
        first = self.start.index_select(0, rows)
        lengths = self.start.index_select(0, rows + 1) - first
        ends = lengths.cumsum(0)
        begins = ends - lengths
        # indices of all entries of all rows: consecutive, shifted to where each row starts
        total = int(ends[-1]) if len(rows) else 0
        shift = torch.repeat_interleave(first - begins, lengths, output_size=total)
        at = torch.arange(total, device=rows.device) + shift
        bags: Tensor = functional.embedding_bag(
            self.columns[at].long(), table, begins, mode="sum", per_sample_weights=self.share[at].to(table.dtype)
        )
        return bags


def apply_dropout(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Dropout with an explicit generator, rescaled by 1 / (1 − share); without a generator nothing is dropped."""
    if not share or generator is None:
        return x
    drawn = torch.rand(x.shape, generator=generator, device=x.device, dtype=torch.float32)
    return x * ((drawn >= share).to(x.dtype) / (1 - share))


def starting_weights(names: Sequence[str], weights: Mapping[str, float], default: float) -> Tensor:
    """Initial weights of relations, float32 [n_relations]."""
    return torch.tensor([float(weights.get(name, default)) for name in names])


def inverse_softplus(x: Tensor) -> Tensor:
    """θ with softplus(θ) = x, without overflow; −∞, which has no gradient, for x = 0."""
    theta: Tensor = x + (-torch.expm1(-x)).log()
    return theta


def check_heads(config: Any, where: str) -> None:
    """Check that ``heads`` divides ``dim``.

    Raises:
        InputError: it does not.
    """
    if config.dim % config.heads:
        raise InputError(
            "number of heads does not divide the embedding dimension",
            where=f"{where}, heads",
            found=str(config.heads),
            expected=f"a divisor of dim = {config.dim}",
        )


def type_of(nodes: slice, adjacency: Adjacency) -> str:
    """The node type with these global indices."""
    return next(name for name, rows in adjacency.types.items() if rows == nodes)


def rows_by_type(nodes: Tensor, types: Mapping[str, slice]) -> tuple[dict[str, Tensor], Tensor]:
    """Block rows of each type's nodes, ascending, and each node's index among those of its type.

    Args:
        nodes: int64 [n], global indices of a block's nodes.
        types: global indices of each type.

    Returns:
        int64 [number of nodes of the type] for each type, possibly empty; int64 [n].
    """
    index = torch.empty_like(nodes)
    rows = {}
    for name, of_type in types.items():
        here = rows[name] = ((nodes >= of_type.start) & (nodes < of_type.stop)).nonzero()[:, 0]
        index[here] = torch.arange(len(here), device=nodes.device)
    return rows, index


def glorot(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers of variance 2 / (rows + columns) (Glorot & Bengio 2010), by the last two sizes."""
    bound = (6 / (shape[-2] + shape[-1])) ** 0.5
    drawn: Tensor = torch.rand(shape, generator=generator)
    drawn = (2 * drawn - 1) * bound
    return drawn


def near_identity(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Identity matrices plus small noise, [..., n, n]."""
    noise: Tensor = torch.randn(shape, generator=generator)
    noise = noise * (0.1 / shape[-1] ** 0.5)
    return noise + torch.eye(shape[-1])
