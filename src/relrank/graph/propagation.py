"""Propagation over a heterogeneous graph: normalised blocks, a polynomial of them, and its hand-written gradient.

Each relation r is one block ``Â_r = D_s^-1/2 W_r D_t^-1/2``, normalised by its own weighted degrees and stored as CSR
in both directions, so each ``Â_r`` (as a symmetric matrix over all nodes) has spectral radius 1 for any weights. With
relation weights ``α`` the propagated table is the mean over layers

    Z = 1/(L+1) · Σ_{l=0..L} A(α)^l E,      A(α) = Σ_r α_r Â_r,

which for the interactions alone with α = 1 is LightGCN (He et al. 2020, eq. 8). ``A`` is symmetric, so the gradient
with respect to ``E`` is the same polynomial applied to the gradient of ``Z``, and the products of this backward pass
also give the gradient of ``α_r``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.kernels.jit import njit
from relrank.kernels.spmm import add_rows, add_taken, chunks, spmm, spmm_columns, spmm_rows

_MOST_LISTED = 0.5
"""Share of a table's rows above which a table of few rows is filled with zeros instead of being looked up."""


def normalise(csr: Csr) -> Csr:
    """``D_r^-1/2 W D_c^-1/2`` with weighted degrees; rows or columns without edges stay empty."""
    return Csr(csr.indptr, csr.indices, _by_degrees(csr.indptr, csr.indices, csr.data, csr.n_cols), csr.n_cols)


@njit(nogil=True, error_model="numpy")
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


@dataclass(frozen=True, slots=True, eq=False)
class _Product:
    """One direction of one relation: rows of ``into`` receive from rows of ``out_of``."""

    relation: int
    matrix: Csr
    into: slice
    out_of: slice
    borders: Int64


_TAKING = threading.Lock()
"""Held while an unused table is searched, so that two threads do not take the same one. It is global because a model
with a lock could not be copied."""


class _Tables:
    """Memory for tables of all nodes, reused when nothing refers to it any more.

    A training step makes half a dozen such tables. New memory from the operating system costs as much as a sparse
    product, because every page is filled with zeros first.
    """

    def __init__(self) -> None:
        self._memory: list[Float32] = [np.empty((0, 0), np.float32)]
        self._unused = self._references(0)

    def _references(self, number: int) -> int:
        return sys.getrefcount(self._memory[number])

    def take(self, n_rows: int, width: int) -> Tensor:
        """A table with arbitrary content, float32 [n_rows, width]; memory of another size is released."""
        with _TAKING:
            self._memory = self._memory[:1] + [t for t in self._memory[1:] if t.shape == (n_rows, width)]
            for number in range(1, len(self._memory)):
                if self._references(number) == self._unused:
                    return torch.from_numpy(self._memory[number])
            raw = np.empty(n_rows * width + 16, np.float32)
            first = -raw.ctypes.data % 64 // 4
            self._memory.append(raw[first : first + n_rows * width].reshape(n_rows, width))
            return torch.from_numpy(self._memory[-1])

    def release(self) -> None:
        """Release the unused memory."""
        with _TAKING:
            self._memory = self._memory[:1]


_Run = Callable[[_Product, Float32, bool], float]
"""Computes one product into its part, given whether it is the part's first; returns the inner product."""


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
        parts = graph.node_slices()  # a type without relations needs no vectors
        self.offsets = {node_type: part.start for node_type, part in parts.items()}
        self.n_nodes = max(part.stop for part in parts.values())
        relations = graph.ordered_relations()
        self.names = tuple(r.name for r in relations)
        self._parts = list(parts.values())
        self._products = [p for i, r in enumerate(relations) for p in _products(i, r, parts)]
        self._tables = _Tables()
        self._on_device: dict[torch.device, list[Tensor]] = {}

    def multiply(self, x: Tensor, alpha: Sequence[float], base: Tensor | None = None, beta: float = 1.0) -> Tensor:
        """``beta · base + Σ_r α_r Â_r x`` over all nodes, float32 [n_nodes, d]."""
        return self.multiply_dot(x, alpha, None, base, beta)[0]

    def multiply_dot(
        self, x: Tensor, alpha: Sequence[float], dot: Tensor | None, base: Tensor | None = None, beta: float = 1.0
    ) -> tuple[Tensor, list[float]]:
        """``multiply`` and, per relation, the inner product ``<Â_r x, dot>``, computed in the same pass."""
        x = x.contiguous()
        if _has_kernel(x):
            out = self._tables.take(*x.shape)
            x_, base_, dot_ = (None if t is None else t.contiguous().numpy() for t in (x, base, dot))
            assert x_ is not None

            def product(p: _Product, into: Float32, first: bool) -> float:
                addend = into if not first else None if base_ is None else base_[p.into]
                dot_part = None if dot_ is None else dot_[p.into]
                return spmm(
                    p.matrix,
                    x_[p.out_of],
                    into,
                    alpha[p.relation],
                    addend,
                    beta if first else 1.0,
                    dot=dot_part,
                    borders=p.borders,
                )

            dots, unwritten = self._add_up(alpha, product, out.numpy(), dot is not None)
            for part in unwritten:
                out[part] = 0 if base is None else beta * base[part]
            return out, dots
        out = torch.zeros_like(x) if base is None else beta * base
        dots = [0.0] * len(self.names)
        for p, matrix in zip(self._products, self._matrices(x), strict=True):
            product_ = matrix @ x[p.out_of]
            out[p.into] += alpha[p.relation] * product_
            if dot is not None:
                dots[p.relation] += float((product_ * dot[p.into]).sum())
        return out, dots

    def _add_up(
        self, alpha: Sequence[float], product: _Run, out: Float32, needs_dots: bool
    ) -> tuple[list[float], list[slice]]:
        """Write the sum of the products into ``out``; returns inner products, and the parts without a product."""
        dots = [0.0] * len(self.names)
        unwritten = {part.start: part for part in self._parts}
        for p in self._products:
            if alpha[p.relation] != 0.0 or needs_dots:
                dots[p.relation] += product(p, out[p.into], p.into.start in unwritten)
                unwritten.pop(p.into.start, None)
        return dots, list(unwritten.values())

    def multiply_some(
        self, x: Tensor | None, some: Tensor, place: Int32, alpha: Sequence[float], dot: Tensor | None
    ) -> tuple[Tensor, list[float]]:
        """``s + Σ_r α_r Â_r x`` for a table s with few non-zero rows, and inner products as in ``multiply_dot``.

        Args:
            x: [n_nodes, d]; None stands for s.
            some: the non-zero rows of s, float32 [any, d].
            place: int32 [n_nodes], index of a node's row in ``some``, below 0 for a zero row.
            alpha: relation weights.
            dot: [n_nodes, d], or None for no inner products.
        """
        some_, out = some.numpy(), self._tables.take(self.n_nodes, some.shape[1])
        x_, dot_ = (None if t is None else t.contiguous().numpy() for t in (x, dot))

        def product(p: _Product, into: Float32, first: bool) -> float:
            dot_part = None if dot_ is None else dot_[p.into]
            addend, at = (some_, place[p.into]) if first else (into, None)
            y = None if x_ is None else x_[p.out_of]
            if y is None:
                columns = place[p.out_of]
                listed = np.flatnonzero(columns >= 0)
                if listed.size <= _MOST_LISTED * columns.size:
                    return spmm_columns(
                        p.matrix, columns, some_, into, alpha[p.relation], addend, at, dot_part, p.borders
                    )
                y = np.zeros((columns.size, some_.shape[1]), np.float32)
                y[listed] = some_[columns[listed]]
            return spmm(p.matrix, y, into, alpha[p.relation], addend, 1.0, at, dot_part, p.borders)

        dots, unwritten = self._add_up(alpha, product, out.numpy(), dot is not None)
        for part in unwritten:
            at = torch.from_numpy(place[part]).long()
            out[part] = torch.where((at >= 0)[:, None], some[at], 0)
        return out, dots

    def rows_of_product(self, x: Tensor, rows: Int64, alpha: Sequence[float], base: Tensor) -> Tensor:
        """``(base + Σ_r α_r Â_r x)[rows]``, float32 [len(rows), d]; ``rows`` ascend."""
        x_, base_, out = x.numpy(), base.numpy(), x.new_empty(rows.size, x.shape[1])

        def at(part: slice) -> slice:
            return slice(*np.searchsorted(rows, [part.start, part.stop]).tolist())

        def product(p: _Product, _: Float32, first: bool) -> float:
            span, addend = at(p.into), base_[p.into] if first else None
            local = rows[span] - p.into.start
            spmm_rows(p.matrix, local, x_[p.out_of], out[span].numpy(), alpha[p.relation], addend)
            return 0.0

        for part in self._add_up(alpha, product, base_, False)[1]:
            out[at(part)] = base[torch.from_numpy(rows[at(part)])]
        return out

    def release(self) -> None:
        """Release the memory of unused tables; the next product allocates again."""
        self._tables.release()

    def _matrices(self, like: Tensor) -> list[Tensor]:
        """The blocks as torch CSR tensors, for devices and precisions without a compiled kernel."""
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

    def rows_of_layer_mean(
        self, table: Tensor, alpha: Tensor, layers: int, *parts: Tensor, own: bool = False
    ) -> tuple[Tensor, ...]:
        """Some rows of ``layer_mean``, differentiable in the same way: those of a batch, at a lower cost.

        The last layer is computed for these rows only, and the first product of the backward pass reads no others.

        Args:
            table: ``E``, [n_nodes, d].
            alpha: relation weights.
            layers: ``L`` ≥ 0.
            parts: distinct ascending rows, int64; all rows of a part are below those of the next.
            own: whether to return the same rows of ``E`` too; their gradient then costs next to nothing.

        Returns:
            For each part its rows, [len(part), d]; then, if ``own``, those of ``E``.
        """
        if not layers or not _has_kernel(table):
            tables = (self.layer_mean(table, alpha, layers), *([table] if own else []))
            return tuple(t.index_select(0, part) for t in tables for part in parts)
        result: tuple[Tensor, ...] = _RowsOfLayerMean.apply(table, alpha, layers, self, own, *parts)  # type: ignore[no-untyped-call]
        return result


def _products(index: int, relation: Relation, parts: dict[str, slice]) -> list[_Product]:
    """The normalised block of a relation in both directions; once if it is symmetric."""
    source, target = parts[relation.source], parts[relation.target]
    forward = normalise(relation.csr(source.stop - source.start, target.stop - target.start))
    products = [_Product(index, forward, source, target, chunks(forward.indptr))]
    if not relation.undirected:
        backward = forward.transpose()
        products.append(_Product(index, backward, target, source, chunks(backward.indptr)))
    return products


def _has_kernel(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


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
            total = _horner(blocks, table, weights, layers)
            powers: list[Tensor] = []
        else:
            power, total = table, table.clone()
            powers = []
            for _ in range(layers):
                powers.append(power)
                power = blocks.multiply(power, weights)
                total += power
            total /= layers + 1
        ctx.blocks, ctx.weights, ctx.layers, ctx.like = blocks, weights, layers, alpha
        ctx.save_for_backward(*powers)
        return total

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


def _horner(blocks: Propagation, table: Tensor, weights: list[float], layers: int) -> Tensor:
    """``Z_k = E / (L+1) + A Z_{k-1}`` from ``Z_0 = E / (L+1)``, which stores no layers."""
    share = 1 / (layers + 1)
    if not layers:
        return table * share
    total = blocks.multiply(table, [share * w for w in weights], base=table, beta=share)
    for _ in range(layers - 1):
        total = blocks.multiply(total, weights, base=table, beta=share)
    return total


class _RowsOfLayerMean(torch.autograd.Function):
    """``_LayerMean`` for rows R of Z only, so that g is zero outside R.

    The last product is computed for R only, and H_1 = g + A g reads R only.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, alpha: Tensor, layers: int, blocks: Propagation, own: bool, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        table, weights, share = table.contiguous(), alpha.tolist(), 1 / (layers + 1)
        rows = torch.cat(parts)
        power, powers = table, [table]
        for _ in range(layers - 1):
            power = blocks.multiply(power, weights)
            powers.append(power)
        total = blocks.rows_of_product(power, rows.numpy(), weights, base=table)
        for power in powers[1:]:
            add_taken(total.numpy(), power.numpy(), rows.numpy())
        total *= share
        ctx.blocks, ctx.weights, ctx.layers, ctx.like = blocks, weights, layers, alpha
        ctx.rows, ctx.parts = rows, len(parts)
        ctx.save_for_backward(*(powers if ctx.needs_input_grad[1] else ()))
        tables = (total, table.index_select(0, rows)) if own else (total,)
        return tuple(part for t in tables for part in torch.split(t, [len(p) for p in parts]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_z, of_own = gradients[: ctx.parts], gradients[ctx.parts :]
        g = torch.cat(of_z).mul_(1 / (ctx.layers + 1))
        powers, blocks = ctx.saved_tensors, ctx.blocks
        place = np.full(blocks.n_nodes, -1, np.int32)
        place[ctx.rows.numpy()] = np.arange(len(g), dtype=np.int32)
        d_alpha = np.zeros(len(ctx.weights))
        horner: Any = None
        for j in reversed(range(ctx.layers)):
            horner, dots = blocks.multiply_some(horner, g, place, ctx.weights, powers[j] if powers else None)
            d_alpha += dots
        if of_own:
            add_rows(horner.numpy(), ctx.rows.numpy(), torch.cat(of_own).numpy())
        grad_alpha = torch.from_numpy(d_alpha).to(ctx.like) if powers else None
        return horner, grad_alpha, None, None, None, *([None] * ctx.parts)
