"""iALS: matrix factorisation of implicit feedback by alternating least squares, with relations factorised beside it.

Hu, Koren & Volinsky 2008, "Collaborative Filtering for Implicit Feedback Datasets", regularised as in Rendle et al.
2022, "Revisiting the Performance of iALS on Item Recommendation Benchmarks":

    Σ_(u,i)∈S c_ui (p_u·q_i − 1)² + α₀ Σ_u,i (p_u·q_i)² + λ (Σ_u n_u^ν |p_u|² + Σ_i n_i^ν |q_i|²)

with users' vectors p_u and items' vectors q_i [dim], c_ui the weight of the interaction, and n_u = Σ_i (c_ui + α₀)
the weight of a user's row, n_i of an item's. Two scales are chosen so that one setting suits many data sets, and so
that one can be tuned with the other held: α₀ is a ratio ρ of all pairs' weight to that of the observed ones,
``α₀ = ρ Σ c / (|U| |I|)``, and n is divided by 1 + ρ, which leaves the mean user the number of their interactions.

Given the items, every user is a ridge regression, and vice versa. Scores are p_u·q_i with p_u solved from the user's
items alone, so a new user is one more regression.

**Relations are further matrices with the same vectors** (collective matrix factorisation, Singh & Gordon 2008). A
relation item → t adds ``Σ_(i,t) c_it (q_i·z_t − 1)² + α_r Σ_i,t (q_i·z_t)²`` with a vector z_t for each target,
penalised likewise; its terms count in n_i. The confidences c_it of an item are its edges' weights over their sum,
times the weight w_r of the relation: at ``w_r = 10`` an item's edges weigh as much as 10 interactions. α_r has
the ratio ρ of the interactions. An item that the relation does
not reach is missing there, not zero. Items without interactions get their vectors from their relations.

A relation of users (user → t, or a second relation user → item) does the same for p_u. Then the vector of a known
user is solved from interactions and relations, that of a new user from the history alone. In a relation within one
type each linked node is its own neighbour, too, with the weight of the heaviest edge, and z_t is a second vector of
the neighbour. Relations that touch neither users nor items are not used.

A sweep solves users, vectors z of item relations, items, vectors z of user relations, each given all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from relrank.csr import Csr, Float32, Float64
from relrank.errors import InputError
from relrank.graph.graph import Graph, Relation
from relrank.models.base import FromHistory, Knob, check_range, history_rows, user_rows
from relrank.models.least_squares import moments, padded, solve_rows, spectrum_of, turned
from relrank.models.relational_ease import end_of
from relrank.models.vectors import as_written


@dataclass(frozen=True, slots=True)
class IALSConfig:
    """Hyper-parameters of iALS."""

    dim: int = 128
    """Length of a vector."""
    unobserved: float = 30.0
    """ρ, what all pairs weigh together over what the observed ones do: α₀ = ρ · Σ c / (|U| |I|)."""
    l2: float = 0.1
    """λ, penalty per interaction of a node."""
    exponent: float = 1.0
    """ν: at 1 the penalty of a node is in proportion to its row, at 0 it is the same for all."""
    iterations: int = 16
    """Sweeps over all vectors."""
    init_scale: float = 0.1
    """Standard deviation of the length of the items' starting vectors: each entry's is this over √dim."""
    weight: float = 0.0
    """Weight of every relation that ``weights`` does not name, in interactions per node."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight per relation, in interactions per node; 0 leaves the relation out."""
    seed: int = 0
    """Seed of the items' starting vectors."""


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One relation as a matrix of the nodes that it reaches.

    Attributes:
        name: of the relation.
        nodes: rows of these nodes in their type, int64 [n].
        edges: confidences, nodes by targets, [n, m].
        unobserved: α_r.
    """

    name: str
    nodes: npt.NDArray[np.int64]
    edges: Csr
    unobserved: float


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Nodes of one type that the same relations reach.

    Attributes:
        nodes: places among the nodes at hand, int64 [n].
        edges: interactions, and beside them the edges of the relations, [n, columns of all].
        penalty: λ n^ν of each, float32 [n].
        sides: which relations reach them.
    """

    nodes: npt.NDArray[np.int64]
    edges: Csr
    penalty: Float32
    sides: tuple[int, ...]


class IALS(FromHistory):
    """Implicit ALS on interactions and relations; on a graph without relations it is plain iALS."""

    name = "ials"
    Config = IALSConfig
    relational = True
    solution: ClassVar[tuple[str, ...]] = ("items", "spectrum", "beside")

    #: items' vectors, turned so that their Gram matrix is diagonal, float32 [n_items, dim]
    items: Tensor
    #: the diagonal of α₀ QᵀQ, float32 [dim]
    spectrum: Tensor
    #: vectors z of the relations of users, one relation below the other, float32 [targets, dim]
    beside: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """The weight of every usable relation, then penalty, unobserved weight, size and exponent."""
        ladder = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
        usable = sorted(r.name for r in graph.relations.values() if end_of(graph, r))
        dims = tuple(d for d in (16, 32, 64, 128, 256, 512) if d <= max(16, min(graph.n_users, graph.n_items) // 2))
        return (
            *(Knob(f"weights.{name}", ladder, 0.0) for name in usable),
            Knob("l2", (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0), 0.1),
            Knob("unobserved", (3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0, 300.0), 30.0),
            Knob("dim", dims, min(128, dims[-1])),
            Knob("exponent", (0.0, 0.25, 0.5, 0.75, 1.0), 1.0),
        )

    @classmethod
    def reads(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """The relations that touch users or items."""
        del config
        return tuple(name for name, relation in graph.relations.items() if end_of(graph, relation))

    def __init__(self, graph: Graph, config: IALSConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        for name, least in (("dim", 1), ("iterations", 1), ("exponent", 0), ("init_scale", 1e-6)):
            value = getattr(c, name)
            check_range(least <= value < np.inf, self.name, name, f"at least {least}", value)
        for name in ("unobserved", "l2"):
            value = getattr(c, name)
            check_range(0 < value < np.inf, self.name, name, "a number above 0", value)
        #: α₀
        self.alpha0 = c.unobserved * float(self.history.data.sum()) / max(graph.n_users * graph.n_items, 1)
        self._of_items, self._of_users = (self._sides(end) for end in (graph.item, graph.user))
        self.from_history = not self._of_users  # else a user's relations count, too, and a history has none

    def _sides(self, end: str) -> list[_Side]:
        """The relations of a node type with weights above 0, in the order of their names whatever the arm."""
        graph, sides = self.graph, []
        for name, relation in sorted(graph.relations.items()):
            weight = float(self.config.weights.get(name, self.config.weight))
            if not 0 <= weight < np.inf:
                raise InputError(
                    "relation weight is negative or not finite", where=f"{self.name}, {name}",
                    expected="0 or more", found=str(weight),
                )  # fmt: skip
            if weight and len(relation) and end_of(graph, relation) == end:
                rows = _rows(graph, relation, end)
                nodes = np.flatnonzero(rows.degrees())
                edges = rows.take(nodes).shares()
                edges = Csr(edges.indptr, edges.indices, edges.data * np.float32(weight), edges.n_cols)
                sides.append(_Side(name, nodes, edges, self.config.unobserved * weight / edges.n_cols))
        return sides

    def start(self) -> Float32:
        """Items' vectors before the first sweep, float32 [n_items, dim]."""
        rng = np.random.default_rng(self.config.seed)
        scale = self.config.init_scale / np.sqrt(self.config.dim)
        return (scale * rng.standard_normal((self.graph.n_items, int(self.config.dim)))).astype(np.float32)

    def solve(self) -> Self:
        """``iterations`` sweeps, then the items turned for scoring."""
        graph = self.graph
        of_users = self._groups(self.history, np.arange(graph.n_users), self._of_users)
        of_items = self._groups(self.history.transpose(), np.arange(graph.n_items), self._of_items)
        # in the first sweep nothing is known yet of what users are linked to
        groups = self._groups(self.history, np.arange(graph.n_users), []) if self._of_users else of_users
        items, targets = padded(self.start()), list[Float32]()
        for _ in range(int(self.config.iterations)):
            users = self._regress(groups, [items, *targets], self._of_users)
            about = [self._linked(side, items) for side in self._of_items]
            items = self._regress(of_items, [users, *about], self._of_items)
            targets, groups = [self._linked(side, users) for side in self._of_users], of_users
        spectrum, rotation = spectrum_of(self.alpha0 * moments(items))
        d = int(self.config.dim)  # the smallest eigenvalues are those of the columns that were padded
        self.spectrum = torch.from_numpy(spectrum[-d:].copy())
        self.items = torch.from_numpy(turned(items, rotation)[:, -d:].copy())
        self.beside = torch.from_numpy(turned(np.concatenate([items[:0], *targets]), rotation)[:, -d:].copy())
        return self

    def _groups(self, rows: Csr, nodes: npt.NDArray[np.int64], sides: Sequence[_Side]) -> list[_Group]:
        """Nodes by the relations that reach them, each group with its edges and penalties.

        Args:
            rows: the nodes' interactions, [n, m].
            nodes: which they are, int64 [n].
            sides: relations of their type.
        """
        total = _sums(rows) + self.alpha0 * rows.n_cols
        if not sides or not nodes.size:
            return [_Group(np.arange(nodes.size), rows, self._penalty(total), ())]
        reached = np.zeros((nodes.size, len(sides)), np.bool_)
        places = []
        for k, side in enumerate(sides):
            place = np.searchsorted(side.nodes, nodes)
            reached[:, k] = side.nodes[np.minimum(place, side.nodes.size - 1)] == nodes
            places.append(place)
            of_node = _sums(side.edges) + side.unobserved * side.edges.n_cols
            total[reached[:, k]] += of_node[place[reached[:, k]]]
        groups = []
        patterns, which = np.unique(reached, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            members = np.flatnonzero(which.reshape(-1) == number)
            used = np.flatnonzero(pattern).tolist()
            parts = [rows if members.size == rows.n_rows else rows.take(members)]
            parts += [sides[k].edges.take(places[k][members]) for k in used]
            groups.append(_Group(members, _side_by_side(parts), self._penalty(total[members]), tuple(used)))
        return groups

    def _penalty(self, weight: Float64) -> Float32:
        """``λ n^ν`` of what rows weigh, n in interactions."""
        n = weight / (1 + self.config.unobserved)
        return np.asarray(self.config.l2 * n**self.config.exponent, np.float32)

    def _linked(self, side: _Side, table: Float32) -> Float32:
        """Vectors z of a relation's targets, given those of the nodes."""
        reached, edges = table[side.nodes], side.edges.transpose()
        penalty = self._penalty(_sums(edges) + side.unobserved * edges.n_cols)
        return _regression(edges, reached, side.unobserved * moments(reached), penalty)

    def _regress(self, groups: Sequence[_Group], tables: Sequence[Float32], sides: Sequence[_Side]) -> Float32:
        """Vectors of the nodes of all groups, given the other ends of their edges.

        Args:
            groups: of ``_groups``.
            tables: of the other ends: of the interactions, then of each of ``sides``; whole tiles.
            sides: the relations.
        """
        factors = [self.alpha0, *(side.unobserved for side in sides)]
        unobserved = [factor * moments(table) for factor, table in zip(factors, tables, strict=False)]
        found = np.zeros((sum(g.nodes.size for g in groups), tables[0].shape[1]), np.float32)
        for group in groups:
            parts = [0, *(k + 1 for k in group.sides)]
            table = tables[0] if len(parts) == 1 else np.concatenate([tables[k] for k in parts])
            matrix = np.sum([unobserved[k] for k in parts], axis=0)
            found[group.nodes] = _regression(group.edges, table, matrix, group.penalty)
        return found

    @property
    def is_product(self) -> bool:
        """Whether scores are products of the vectors below and nothing else: not where a subclass says otherwise."""
        return as_written(self, IALS, "score", "fold_in", "score_rows")

    def item_vectors(self) -> Tensor:
        """Vectors of all items, [n_items, dim]."""
        return self.items

    def user_vectors(self, users: Tensor) -> Tensor:
        """Vectors [B, dim] of user rows int64 [B], solved from their interactions and relations.

        Raises:
            InputError: a user row outside the graph.
        """
        picked = user_rows(users, self.graph.n_users)
        rows = self.history.take(picked)
        if not self._of_users:
            return self._vectors(rows)
        sizes = np.cumsum([0, *(side.edges.n_cols for side in self._of_users)])
        targets = [self.beside.numpy()[a:b] for a, b in pairwise(sizes.tolist())]
        tables = [padded(table) for table in (self.items.numpy(), *targets)]
        found = self._regress(self._groups(rows, picked, self._of_users), tables, self._of_users)
        return torch.from_numpy(found[:, : self.items.shape[1]].copy())

    def history_vectors(self, histories: Sequence[Tensor]) -> Tensor:
        """Vectors [B, dim] of B histories.

        Raises:
            InputError: an item row outside the catalogue.
        """
        return self._vectors(history_rows(histories, self.graph.n_items))

    def score(self, users: Tensor) -> Tensor:
        """Products of the users' and the items' vectors."""
        return self.user_vectors(users) @ self.items.T

    def score_rows(self, rows: Csr) -> Tensor:
        """The same for histories as CSR rows."""
        return self._vectors(rows) @ self.items.T

    def _vectors(self, rows: Csr) -> Tensor:
        """Vectors of users of whom interactions alone are known, [rows.n_rows, dim]."""
        items = padded(self.items.numpy())
        spectrum = np.pad(self.spectrum.numpy(), (0, items.shape[1] - self.spectrum.numel()))
        penalty = self._penalty(_sums(rows) + self.alpha0 * rows.n_cols)
        found = solve_rows(rows, items, spectrum, penalty)
        return torch.from_numpy(found[:, : self.items.shape[1]].copy())


def _regression(edges: Csr, table: Float32, matrix: Float64, penalty: Float32) -> Float32:
    """``solve_rows`` for any matrix H, float64 [d, d]; of a large table only the rows that have edges are turned."""
    if edges.nnz < edges.n_cols:
        used = np.unique(edges.indices)
        at = np.searchsorted(used, edges.indices).astype(np.int32)
        edges, table = Csr(edges.indptr, at, edges.data, used.size), table[used]
    spectrum, rotation = spectrum_of(matrix)
    found = solve_rows(edges, turned(table, rotation), spectrum, penalty)
    return turned(found, np.ascontiguousarray(rotation.T))


def _rows(graph: Graph, relation: Relation, end: str) -> Csr:
    """A relation by nodes of type ``end``; within one type with the linked nodes themselves."""
    rows = relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target]))
    if not relation.undirected:
        return rows if relation.source == end else rows.transpose()
    linked = np.flatnonzero(rows.degrees()).astype(np.int32)
    own = np.full(linked.size, rows.data.max(initial=0), np.float32)
    row, col = np.concatenate([rows.rows(), linked]), np.concatenate([rows.indices, linked])
    return Csr.from_pairs(row, col, (rows.n_rows, rows.n_cols), np.concatenate([rows.data, own]))


def _sums(rows: Csr) -> Float64:
    """Sums of the rows, float64 [n_rows]."""
    return np.bincount(rows.rows(), weights=rows.data, minlength=rows.n_rows).astype(np.float64)


def _side_by_side(parts: Sequence[Csr]) -> Csr:
    """Matrices with the same rows, as one."""
    if len(parts) == 1:
        return parts[0]
    row, col, data, width = [], [], [], 0
    for part in parts:
        row.append(part.rows())
        col.append(part.indices + np.int32(width))
        data.append(part.data)
        width += part.n_cols
    shape = parts[0].n_rows, width
    return Csr.from_pairs(np.concatenate(row), np.concatenate(col), shape, np.concatenate(data))
