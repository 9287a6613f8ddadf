"""What graph filters share: leading singular vectors of the interactions, and filtering of histories in blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.graph.relation_chains import touches_items
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.dense_solve import rows_times_dense, singular_vectors
from relrank.kernels.spmm import spmm
from relrank.models.core import estimates
from relrank.models.core.base import GridParameter, HistoryScorer, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.relation_rows import entry_counts

USERS_AT_ONCE = 64
"""Histories filtered at a time; a width of the fast kernel. Two such tables fit into the cache."""
ROUNDS = 16
"""Power iterations that make the ideal low-pass filter as sharp as the published one. With half as many, directions
beyond the cut leak in, and GF-CF on Gowalla scores 1 % above its published figures."""


def spectral_estimate(graph: Graph, rank: int, rounds: int, relations: bool = False) -> Estimate:
    """Memory and operations of a ``SpectralFilter``.

    The largest of three peaks, each in addition to the matrix and its transposes: the decomposition; computing the
    two tables of the solution, with the vectors, one more table of items and two of users; scoring, with both tables,
    two blocks of scores and three tables of ``USERS_AT_ONCE`` histories.
    """
    n_users, n_items, edges = graph.n_users, graph.n_items, len(graph.interactions)
    rank = min(rank, n_users, n_items)
    if relations:
        edges += sum(int(entry_counts(graph, graph.relations[name])[0].sum()) for name in relations_of_items(graph))
    items, users = estimates.table(n_items, rank), estimates.table(n_users, rank)
    histories = 3 * estimates.table(n_users + n_items, USERS_AT_ONCE)
    peak = max(
        estimates.singular_vectors_bytes(n_users, n_items, rank),
        4 * items + 2 * users,
        2 * items + 2 * estimates.score_block(n_items) + histories,
    )
    operations = estimates.singular_vectors_operations(n_users, n_items, len(graph.interactions), rank, rounds)
    return Estimate(peak + 4 * estimates.sparse(edges), *operations)


def filter_columns(rows: Csr, apply: Callable[[Float32], Float32], scores: Tensor) -> None:
    """Add ``X F = (F Xᵀ)ᵀ`` to ``scores`` for a symmetric item–item filter F, a block of users at a time.

    Args:
        rows: X, [n, n_items].
        apply: F times a table, float32 [n_items, width] → float32 [n_items, width]; may overwrite its argument.
        scores: float32 [n, n_items], changed in place.
    """
    for start in range(0, rows.n_rows, USERS_AT_ONCE):
        part = rows.take(np.arange(start, min(rows.n_rows, start + USERS_AT_ONCE)))
        width = 16 if part.n_rows <= 16 else USERS_AT_ONCE
        table = np.zeros((rows.n_cols, width), np.float32)
        table[part.indices, part.rows()] = part.data
        scores[start : start + part.n_rows] += torch.from_numpy(apply(table)[:, : part.n_rows].T)


def product(matrix: Csr, table: Float32) -> Float32:
    """``matrix @ table``, float32 [matrix.n_rows, width], in new memory."""
    out = np.empty((matrix.n_rows, table.shape[1]), np.float32)
    spmm(matrix, table, out)
    return out


def item_degrees(history: Csr, power: float) -> Float32:
    """``D_i^power`` of the weighted item degrees, float32 [n_items]; 0 for items without interactions."""
    degrees = np.bincount(history.indices, weights=history.data, minlength=history.n_cols)
    result: Float32 = np.power(degrees, power, out=np.zeros_like(degrees), where=degrees > 0).astype(np.float32)
    return result


def relations_of_items(graph: Graph) -> tuple[str, ...]:
    """Names of the relations that touch items, directly or through a chain of relations."""
    return tuple(name for name, relation in graph.relations.items() if touches_items(graph, relation))


class SpectralFilter(HistoryScorer):
    """Scores ``X (into out_ofᵀ + filter)``: a low-rank filter of singular vectors V of R̃ and a sparse filter.

    A subclass gives ``solve`` and ``apply_filter``, and sets ``_filter`` and ``_by_item``.
    """

    solution: ClassVar[Shapes] = {"into": ("items", "rank"), "out_of": ("items", "rank")}
    power_iterations: ClassVar[int] = ROUNDS
    """Power iterations of the decomposition, for a configuration without ``rounds``."""

    #: left factor of the low-rank filter, float32 [n_items, rank]
    into: Tensor
    #: right factor of the low-rank filter, float32 [n_items, rank]
    out_of: Tensor
    #: R̃, [n_users, n_items]
    _filter: Csr
    #: R̃ᵀ, [n_items, n_users]
    _by_item: Csr
    #: item degrees to a power, by which histories are divided before the sparse filter, float32 [n_items]
    _outer: Float32 | None = None

    @classmethod
    def rounds(cls, config: Any) -> int:
        """Power iterations of the decomposition."""
        return int(getattr(config, "rounds", cls.power_iterations))

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """See ``spectral_estimate``."""
        return spectral_estimate(graph, int(config.rank), cls.rounds(config), cls.relational)

    def leading_vectors(self) -> Float32:
        """V, the leading right singular vectors of R̃, float32 [n_items, rank]."""
        rank = min(int(self.config.rank), self.graph.n_users, self.graph.n_items)
        return singular_vectors(self._filter, rank, self.config.seed, self.rounds(self.config))

    def gram_product(self, table: Float32) -> Float32:
        """``R̃ᵀ R̃ table``, float32 [n_items, width]."""
        return product(self._by_item, product(self._filter, table))

    @abstractmethod
    def apply_filter(self, table: Float32) -> Float32:
        """The sparse filter times a table, float32 [n_items, width]; may overwrite its argument."""

    def score_rows(self, rows: Csr) -> Tensor:
        """Both filters applied to histories."""
        scores = torch.from_numpy(rows_times_dense(rows, self.into.numpy())) @ self.out_of.T
        if self._outer is not None:
            rows = Csr(rows.indptr, rows.indices, rows.data / self._outer[rows.indices], rows.n_cols)
        filter_columns(rows, self.apply_filter, scores)
        return scores


class ItemFilters(SpectralFilter):
    """A spectral filter that adds one filter per relation of items."""

    relational = True
    #: see ``item_filters``
    _relations: list[tuple[Csr, Csr | None, float]]

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations of items, directly or through a chain; relations of users are not used."""
        del config
        return relations_of_items(graph)

    def add_relations(self, out: Float32, table: Float32, scale: float = 1.0) -> None:
        """``out += scale · Σ_r w_r F_r table``, in place."""
        for edges, back, weight in self._relations:
            spmm(edges, table if back is None else product(back, table), out, alpha=weight * scale, base=out)


def item_filters(graph: Graph, default: float, weights: Mapping[str, float]) -> list[tuple[Csr, Csr | None, float]]:
    """A normalised item–item filter F_r for each of ``relations_of_items`` with a weight above 0.

    For a relation item → t it is ``Â Âᵀ`` with ``Â = D_i^-1/2 W D_t^-1/2``, for a relation among items ``Â`` itself.
    Both have spectral radius 1. A relation that is reached through a chain is composed first.

    Args:
        graph: has the relations.
        default: weight of a relation that ``weights`` does not name.
        weights: per relation.

    Returns:
        ``(Â, Âᵀ, weight)`` in name order; ``(Â, None, weight)`` for a relation among items.
    """
    filters: list[tuple[Csr, Csr | None, float]] = []
    for name in sorted(graph.relations):  # the same order of sums on every arm
        weight = float(weights.get(name, default))
        if not weight or not touches_items(graph, graph.relations[name]):
            continue
        relation = compose_relation(graph, graph.relations[name])
        edges = normalise(relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target])))
        if relation.undirected:
            filters.append((edges, None, weight))
        else:
            back = edges.transpose()
            filters.append((edges, back, weight) if relation.source == graph.item else (back, edges, weight))
    return filters


def weight_knobs(graph: Graph) -> tuple[GridParameter, ...]:
    """The weight of each of ``relations_of_items``, starting at 0."""
    grid_values = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
    return tuple(GridParameter(f"weights.{n}", grid_values, 0.0) for n in sorted(relations_of_items(graph)))


def rank_knob(graph: Graph, start: int) -> GridParameter:
    """The number of singular vectors, at most half of the smaller side."""
    most = min(graph.n_users, graph.n_items) // 2
    ranks = tuple(sorted({r for r in (16, 32, 64, 128, 256, 512, start) if r <= most})) or (1,)
    return GridParameter("rank", ranks, min(start, ranks[-1]))
