"""Propagation over a heterogeneous graph: normalised blocks, a polynomial of them, and its gradient by hand.

Every relation r is one normalised block ``Â_r = D_s^-1/2 W_r D_t^-1/2`` over *its own* weighted degrees, kept as CSR
in both directions, so each ``Â_r`` (as a symmetric matrix over all nodes) has spectral radius 1 whatever its weights.
With relation weights ``α`` the propagated table is the mean over layers

    Z = 1/(L+1) · Σ_{l=0..L} A(α)^l E,      A(α) = Σ_r α_r Â_r,

which for the interactions alone with α = 1 is LightGCN (He et al. 2020, eq. 8). ``A`` is symmetric, so the gradient
with respect to ``E`` is the same polynomial applied to the gradient of ``Z``, and the gradient of ``α_r`` falls out
of the products that this backward pass makes anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr, Float32, Int64
from relrank.graph.graph import Graph, Relation
from relrank.graph.spmm import chunks, spmm


def normalise(csr: Csr) -> Csr:
    """``D_r^-1/2 W D_c^-1/2`` with weighted degrees; rows or columns without edges stay empty."""
    return Csr(csr.indptr, csr.indices, _by_degrees(csr.indptr, csr.indices, csr.data, csr.n_cols), csr.n_cols)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _by_degrees(indptr, indices, data, n_cols):  # type: ignore[no-untyped-def]
    rows, cols, out = np.zeros(indptr.size - 1), np.zeros(n_cols), np.empty(data.size, np.float32)
    for r in range(rows.size):
        for e in range(indptr[r], indptr[r + 1]):
            rows[r] += data[e]
            cols[indices[e]] += data[e]
    for r in range(rows.size):
        for e in range(indptr[r], indptr[r + 1]):
            out[e] = data[e] / np.sqrt(rows[r] * cols[indices[e]])
    return out


@dataclass(frozen=True, slots=True)
class _Product:
    """One direction of one relation: rows of ``into`` gather rows of ``out_of``."""

    relation: int
    matrix: Csr
    into: slice
    out_of: slice
    borders: Int64


class Propagation:
    """The normalised blocks of a graph over one table of all nodes, users first, then items, then the rest.

    Args:
        graph: interactions are relation 0, the other relations follow in name order.

    Attributes:
        names: relation names in the order of the weights ``α``.
        offsets: first row of each node type in the table.
        n_nodes: rows of the table.
    """

    def __init__(self, graph: Graph) -> None:
        # A type that no relation of this arm touches needs no vectors.
        others = [t for t in graph.nodes if t not in (graph.user, graph.item) and graph.edges_of(t)]
        types = [graph.user, graph.item, *others]
        sizes = {t: len(graph.nodes[t]) for t in types}
        self.offsets: dict[str, int] = {}
        self.n_nodes = 0
        for name in types:
            self.offsets[name] = self.n_nodes
            self.n_nodes += sizes[name]
        relations = [graph.interactions, *(graph.relations[name] for name in sorted(graph.relations))]
        self.names = tuple(r.name for r in relations)
        self._products = [p for i, r in enumerate(relations) for p in self._blocks(i, r, sizes)]
        self._on_device: dict[torch.device, list[Tensor]] = {}

    def _blocks(self, index: int, relation: Relation, sizes: dict[str, int]) -> list[_Product]:
        def rows(node_type: str) -> slice:
            return slice(self.offsets[node_type], self.offsets[node_type] + sizes[node_type])

        source, target = rows(relation.source), rows(relation.target)
        forward = normalise(relation.csr(sizes[relation.source], sizes[relation.target]))
        products = [_Product(index, forward, source, target, chunks(forward))]
        if not relation.undirected:
            backward = forward.transpose()
            products.append(_Product(index, backward, target, source, chunks(backward)))
        return products

    def multiply(self, x: Tensor, alpha: Sequence[float], base: Tensor | None = None) -> Tensor:
        """``base + Σ_r α_r Â_r x`` over all nodes, float32 [n_nodes, d]."""
        return self._multiply(x, alpha, base, None)[0]

    def multiply_dot(
        self, x: Tensor, alpha: Sequence[float], dot: Tensor, base: Tensor | None = None
    ) -> tuple[Tensor, list[float]]:
        """``multiply`` and, per relation, the inner product ``<Â_r x, dot>`` from the same sweep."""
        return self._multiply(x, alpha, base, dot)

    def _multiply(
        self, x: Tensor, alpha: Sequence[float], base: Tensor | None, dot: Tensor | None
    ) -> tuple[Tensor, list[float]]:
        x = x.contiguous()
        out = torch.zeros_like(x) if base is None else base.clone()
        dots = [0.0] * len(self.names)
        if x.device.type == "cpu" and x.dtype == torch.float32:
            tables: list[Float32 | None] = [None if t is None else t.contiguous().numpy() for t in (x, out, dot)]
            x_, out_, dot_ = tables
            assert x_ is not None
            assert out_ is not None
            for p in self._products:
                if alpha[p.relation] == 0.0 and dot_ is None:
                    continue
                into = out_[p.into]
                aside = None if dot_ is None else dot_[p.into]
                dots[p.relation] += spmm(
                    p.matrix, x_[p.out_of], into, alpha[p.relation], base=into, dot=aside, borders=p.borders
                )
            return out, dots
        for p, matrix in zip(self._products, self._matrices(x), strict=True):
            product = matrix @ x[p.out_of]
            out[p.into] += alpha[p.relation] * product
            if dot is not None:
                dots[p.relation] += float((product * dot[p.into]).sum())
        return out, dots

    def _matrices(self, like: Tensor) -> list[Tensor]:
        """The blocks as torch CSR tensors, for devices and precisions without a kernel of ours."""
        if like.device not in self._on_device:
            self._on_device[like.device] = [
                torch.sparse_csr_tensor(
                    torch.from_numpy(p.matrix.indptr.astype(np.int32)),
                    torch.from_numpy(p.matrix.indices),
                    torch.from_numpy(p.matrix.data),
                    (p.matrix.n_rows, p.matrix.n_cols),
                    check_invariants=False,
                ).to(like.device)
                for p in self._products
            ]
        return [m.to(like.dtype) for m in self._on_device[like.device]]

    def product(self, x: Tensor, alpha: Tensor) -> Tensor:
        """``A(α) x`` over all nodes, [n_nodes, d], differentiable in both arguments: one layer."""
        result: Tensor = _Step.apply(x, alpha, self)  # type: ignore[no-untyped-call]
        return result

    def layer_mean(self, table: Tensor, alpha: Tensor, layers: int) -> Tensor:
        """``1/(L+1) Σ_l A(α)^l E``, differentiable in both arguments.

        Args:
            table: ``E``, [n_nodes, d].
            alpha: relation weights [n_relations] in the order of ``names``; a relation of weight 0 is skipped.
            layers: ``L`` ≥ 0.

        Returns:
            [n_nodes, d].
        """
        result: Tensor = _LayerMean.apply(table, alpha, layers, self)  # type: ignore[no-untyped-call]
        return result


class _Step(torch.autograd.Function):
    """One product; ``A`` is symmetric, so dx = A g and dα_r = <Â_r g, x>."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, blocks: Propagation) -> Tensor:
        ctx.blocks, ctx.weights, ctx.like = blocks, alpha.tolist(), alpha
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else x.new_empty(0))
        return blocks.multiply(x, ctx.weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        g, (x,) = gradients[0].contiguous(), ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return ctx.blocks.multiply(g, ctx.weights), None, None
        product, dots = ctx.blocks.multiply_dot(g, ctx.weights, dot=x)
        return product, torch.tensor(dots).to(ctx.like), None


class _LayerMean(torch.autograd.Function):
    """Forward by powers ``x_j = A^j E``; backward by Horner, whose products also give the gradient of ``α``.

    With g = dZ/(L+1) and H_m = Σ_{i≤m} A^i g:  dE = H_L  and  dα_r = Σ_{j<L} <Â_r H_{L-1-j}, x_j>.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, alpha: Tensor, layers: int, blocks: Propagation) -> Tensor:
        weights = alpha.tolist()
        needs_alpha = ctx.needs_input_grad[1]
        if not needs_alpha:
            # Horner: Z_k = E + A Z_{k-1}; no layer need be kept.
            total = table
            for _ in range(layers):
                total = blocks.multiply(total, weights, base=table)
            powers: list[Tensor] = []
        else:
            power, total = table, table.clone()
            powers = []
            for _ in range(layers):
                powers.append(power)
                power = blocks.multiply(power, weights)
                total += power
        ctx.blocks, ctx.weights, ctx.layers, ctx.like = blocks, weights, layers, alpha
        ctx.save_for_backward(*powers)
        return total / (layers + 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        g = gradients[0].contiguous() / (ctx.layers + 1)
        horner, powers = g, ctx.saved_tensors
        d_alpha = np.zeros(len(ctx.weights))
        for j in reversed(range(ctx.layers)):
            if powers:
                horner, dots = ctx.blocks.multiply_dot(horner, ctx.weights, dot=powers[j], base=g)
                d_alpha += dots
            else:
                horner = ctx.blocks.multiply(horner, ctx.weights, base=g)
        grad_alpha = torch.from_numpy(d_alpha).to(ctx.like) if powers else None
        return horner, grad_alpha, None, None
