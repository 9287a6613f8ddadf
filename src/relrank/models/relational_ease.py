"""Relational EASE: EASE on the interactions stacked with weighted, row-normalised relations, in closed form.

A relation item → t becomes rows below X: with R the items' rows, each of Euclidean length 1, the stack is
``[X; √w Rᵀ]``, so the Gram matrix is ``XᵀX + Σ_r w_r R_r R_rᵀ + λI``: every relation adds ``w_r`` times the cosine of
two items' rows. In a relation item–item each item is also its own neighbour, of weight 1. A relation user → t becomes
columns beside X, ``[X, √w U]``: items that nobody is recommended. Weights are in pseudo-users: at ``w_r = 30`` two
items with equal rows look as if 30 people had chosen both.

Stacking side information: Ning & Karypis 2012, "Sparse Linear Methods with Side Information"; closed form: Steck
2019; both together: Jeunen et al. 2020, "Closed-Form Models for Collaborative Filtering with Side-Information".
Relations that touch neither users nor items are not used by this model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from relrank.csr import Csr, Float32
from relrank.graph.graph import Graph, Relation
from relrank.models.base import ClosedForm, Knob, history_rows, interaction_rows
from relrank.models.ease import L2_LADDER
from relrank.models.linear import gram, rows_times_dense, spd_inverse, unit_rows

# Gram matrices of relations are shared between arms and trials while they fit into this many bytes.
CACHE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class RelationalEASEConfig:
    """Hyper-parameters of relational EASE."""

    l2: float = 300.0
    """Ridge penalty λ, in interactions."""
    weight: float = 30.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 leaves the relation out."""


class RelationalEASE(ClosedForm):
    """EASE on interactions and relations; on a graph without relations it is EASE."""

    name = "relational-ease"
    Config = RelationalEASEConfig
    relational = True
    solution: ClassVar[tuple[str, ...]] = ("item_weights",)

    #: B[:, items], [n_items + pseudo-items, n_items]
    item_weights: Tensor

    @classmethod
    def knobs(cls, graph: Graph) -> tuple[Knob, ...]:
        """The weight of every usable relation, then the ridge penalty."""
        ladder = (0.0, 1.0, 3.0, 10.0, 30.0, 60.0, 100.0, 200.0, 400.0, 800.0)
        usable = [r.name for r in graph.relations.values() if graph.item in (r.source, r.target)]
        usable += [r.name for r in graph.relations.values() if r.source == graph.user]
        weights = (Knob(f"weights.{name}", ladder, 0.0) for name in sorted(set(usable)))
        return (*weights, Knob("l2", L2_LADDER, 200.0))

    def _weight(self, relation: Relation) -> float:
        return float(self.config.weights.get(relation.name, self.config.weight))

    def _user_columns(self) -> Csr | None:
        """``√w U`` of every relation user → t side by side: users by pseudo-items; None without any."""
        graph, parts, width = self.graph, [], 0
        for relation in graph.relations.values():
            if relation.source != graph.user or relation.undirected or not self._weight(relation):
                continue
            n = len(graph.nodes[relation.target])
            rows = unit_rows(relation.csr(graph.n_users, n))
            parts.append((rows.rows(), rows.indices + width, rows.data * np.sqrt(self._weight(relation))))
            width += n
        if not parts:
            return None
        row, col, data = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Csr.from_pairs(row, col, (graph.n_users, width), data)

    def solve(self) -> Self:
        """One Cholesky inverse of [n_items + pseudo-items]²; without relations in use, EASE's smaller side."""
        graph = self.graph
        shares = [(r, w) for r in graph.relations.values() if (w := self._weight(r)) and _item_rows(graph, r)]
        beside = self._user_columns()
        x = self.history
        if beside is None:
            g = _gram_of(graph, graph.interactions).copy()
        else:
            row = np.concatenate([x.rows(), beside.rows()])
            col = np.concatenate([x.indices, beside.indices + x.n_cols])
            data = np.concatenate([x.data, beside.data])
            g = gram(Csr.from_pairs(row, col, (x.n_rows, x.n_cols + beside.n_cols), data).transpose())
        n = graph.n_items
        for relation, weight in shares:
            block = g[:n, :n]
            block += np.float32(weight) * _gram_of(graph, relation)
        g[np.diag_indices_from(g)] += np.float32(self.config.l2)
        p = spd_inverse(g)
        b = p[:, :n] if p.shape[1] == n else np.ascontiguousarray(p[:, :n])
        b /= -p.diagonal()[:n].copy()
        b[np.arange(n), np.arange(n)] = 0
        self.item_weights = torch.from_numpy(b)
        return self

    def score(self, users: Tensor) -> Tensor:
        """``[X, √w U] B`` for these users."""
        rows = users.cpu().numpy()
        scores = rows_times_dense(self.history.take(rows), self.item_weights.numpy())
        beside = self._user_columns()
        if beside is not None:
            scores += rows_times_dense(beside.take(rows), self.item_weights.numpy()[self.graph.n_items :])
        return torch.from_numpy(scores)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """``x B``: of a new user only the history is known."""
        rows = history_rows(histories, self.graph.n_items)
        return torch.from_numpy(rows_times_dense(rows, self.item_weights.numpy()))


_GRAMS: WeakKeyDictionary[Relation, Float32] = WeakKeyDictionary()


def _item_rows(graph: Graph, relation: Relation) -> Csr | None:
    """The relation's rows by item, unit length; None if it does not touch items. X's columns for interactions."""
    if relation is graph.interactions:
        return interaction_rows(graph).transpose()
    if relation.undirected and relation.source == graph.item:
        both = relation.csr(graph.n_items, graph.n_items)
        own = np.arange(graph.n_items, dtype=np.int32)
        row, col = np.concatenate([both.rows(), own]), np.concatenate([both.indices, own])
        data = np.concatenate([both.data / max(float(both.data.max()), 1.0), np.ones(own.size, np.float32)])
        return unit_rows(Csr.from_pairs(row, col, (own.size, own.size), data))
    if relation.source == graph.item:
        return unit_rows(relation.csr(graph.n_items, len(graph.nodes[relation.target])))
    if relation.target == graph.item and relation.source != graph.user:
        return unit_rows(relation.csr(len(graph.nodes[relation.source]), graph.n_items).transpose())
    return None


def _gram_of(graph: Graph, relation: Relation) -> Float32:
    """The Gram matrix of a relation's item rows, kept as long as the relation object lives."""
    known = _GRAMS.get(relation)
    if known is not None:
        return known
    rows = _item_rows(graph, relation)
    assert rows is not None
    result = gram(rows)
    if sum(g.nbytes for g in _GRAMS.values()) + result.nbytes <= CACHE_BYTES:
        _GRAMS[relation] = result
    return result
