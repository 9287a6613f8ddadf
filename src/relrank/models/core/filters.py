"""What graph filters share: the spectrum of the interactions, and histories as the columns of a table in cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.graph.relation_chains import touches_items
from relrank.kernels.csr import Csr, Float32
from relrank.kernels.spmm import spmm
from relrank.models.core import estimates
from relrank.models.core.base import GridParameter, HistoryScorer
from relrank.models.core.estimates import Estimate
from relrank.models.core.relation_rows import entry_counts

# Columns of the table that a filter runs over; a width of the fast kernel. Two such tables stay in cache.
USERS_AT_ONCE = 64
# Power iterations for an ideal low-pass filter as sharp as in print: with half as many, directions beyond the cut
# leak in, and on Gowalla GF-CF scores 1 % above its published figures.
ROUNDS = 16


def spectral_estimate(graph: Graph, rank: int, rounds: int, relations: bool = False) -> Estimate:
    """Of a model that solves for ``rank`` singular vectors and scores by two tables of them beside its filters.

    The larger of three peaks, each beside the matrix and its transposes: the decomposition; the two tables of the
    solution while they are made, with the vectors, one more table of items and two of users; and, when scoring, both
    tables beside a block of scores, its product, and three tables of 64 users' histories.
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
    """Add a symmetric item–item filter of CSR rows to ``scores``: ``X F = (F Xᵀ)ᵀ``, a few users at a time.

    Args:
        rows: X, [n, n_items].
        apply: F times a table, float32 [n_items, width] → float32 [n_items, width]; may write into its argument.
        scores: float32 [n, n_items], added to.
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
    """``D_i^power`` of the interactions' weights per item, float32 [n_items]; 0 for items without any."""
    degrees = np.bincount(history.indices, weights=history.data, minlength=history.n_cols)
    result: Float32 = np.power(degrees, power, out=np.zeros_like(degrees), where=degrees > 0).astype(np.float32)
    return result


def relations_of_items(graph: Graph) -> tuple[str, ...]:
    """Names of the relations that touch items, and of those that a chain of relations leads to from there."""
    return tuple(name for name, relation in graph.relations.items() if touches_items(graph, relation))


class ItemFilters(HistoryScorer):
    """A model that filters histories, by relations of items among others."""

    relational = True

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations of items, direct or at the end of a chain; of users it knows the history alone."""
        del config
        return relations_of_items(graph)


def item_filters(graph: Graph, default: float, weights: Mapping[str, float]) -> list[tuple[Csr, Csr | None, float]]:
    """A normalised filter of items for every one of ``relations_of_items``, with its weight above 0.

    For a relation item → t that is ``Â Âᵀ`` with ``Â = D_i^-1/2 W D_t^-1/2``: from item to t and back. Within the
    items it is ``Â`` itself. Both have spectral radius 1. A relation that a chain leads to is ``compose_relation``
    before.

    Args:
        graph: its relations; those that say nothing of items are left out.
        default: weight of a relation that ``weights`` does not name.
        weights: by relation.

    Returns:
        ``(Â, Âᵀ, weight)`` in the order of names; ``(Â, None, weight)`` within the items.
    """
    found: list[tuple[Csr, Csr | None, float]] = []
    for name in sorted(graph.relations):  # sums in one order whatever the arm
        weight = float(weights.get(name, default))
        if not weight or not touches_items(graph, graph.relations[name]):
            continue
        relation = compose_relation(graph, graph.relations[name])
        edges = normalise(relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target])))
        if relation.undirected:
            found.append((edges, None, weight))
        else:
            back = edges.transpose()
            found.append((edges, back, weight) if relation.source == graph.item else (back, edges, weight))
    return found


def weight_knobs(graph: Graph) -> tuple[GridParameter, ...]:
    """The weight of every one of ``relations_of_items``, starting at 0."""
    grid_values = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
    return tuple(GridParameter(f"weights.{n}", grid_values, 0.0) for n in sorted(relations_of_items(graph)))


def rank_knob(graph: Graph, start: int) -> GridParameter:
    """The number of singular vectors, at most half of the smaller side."""
    most = min(graph.n_users, graph.n_items) // 2
    ranks = tuple(sorted({r for r in (16, 32, 64, 128, 256, 512, start) if r <= most})) or (1,)
    return GridParameter("rank", ranks, min(start, ranks[-1]))
