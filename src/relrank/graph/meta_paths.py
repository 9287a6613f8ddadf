"""Scores of short paths from users to items: history → item, history → attribute → item, and through other users.

A path's weight is the product of its edges' normalised weights. Scores are computed row by row in a core's cache, so
item-by-item matrices are never made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from relrank.graph.composition import compose_graph
from relrank.graph.graph import Graph
from relrank.graph.propagation import normalise
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr, Float32, Int64
from relrank.kernels.jit import njit

EQUAL = 1e-5
"""Two float32 sums of the same paths in different orders have a smaller relative difference."""


@dataclass(frozen=True, slots=True, eq=False)
class MetaPath:
    """One kind of path from a user to items.

    Attributes:
        name: of the relation; of the interactions for paths through other users.
        start: None for paths that start at the user's history; else users by nodes, the first step of all users.
        steps: one or two more steps, the last of which ends at the items.
        through_users: whether the path reaches users after its first step. It must not pass through its own user, who
            is linked with exactly the items of the history, those to be predicted included.
    """

    name: str
    start: Csr | None
    steps: tuple[Csr, ...]
    through_users: bool


def meta_paths(graph: Graph) -> list[MetaPath]:
    """Every kind of path over the graph's relations, the interactions first, then relations by name.

    Paths over relations of items start at the history, those over relations of users at the user. A relation that
    touches neither is composed with the chain that leads there; without a chain it has no paths.
    """
    graph = compose_graph(graph)
    n_users, n_items = graph.n_users, graph.n_items
    chosen = normalise(graph.interactions.csr(n_users, n_items))
    kinds = [MetaPath(graph.interactions.name, None, (chosen.transpose(), chosen), True)]
    for name in sorted(graph.relations):
        relation = graph.relations[name]
        matrix = _from(relation, graph, graph.item)
        if matrix is not None:
            steps = (matrix,) if relation.undirected else (matrix, matrix.transpose())
            kinds.append(MetaPath(name, None, steps, graph.user in (relation.source, relation.target)))
            continue
        matrix = _from(relation, graph, graph.user)
        if matrix is not None and relation.undirected:
            kinds.append(MetaPath(name, matrix, (chosen,), False))
        elif matrix is not None:
            kinds.append(MetaPath(name, matrix, (matrix.transpose(), chosen), True))
    return kinds


def _from(relation: Relation, graph: Graph, end: str) -> Csr | None:
    """The normalised relation with the nodes of one type as rows; None if it does not link that type."""
    if end not in (relation.source, relation.target):
        return None
    matrix = normalise(relation.csr(len(graph.nodes[relation.source]), len(graph.nodes[relation.target])))
    return matrix if relation.source == end else matrix.transpose()


@njit(inline="always")
def _spread(indptr, indices, data, vector, out):  # type: ignore[no-untyped-def]
    for node in range(vector.size):
        v = vector[node]
        if v != 0.0:
            for e in range(indptr[node], indptr[node + 1]):
                out[indices[e]] += v * data[e]


@njit(inline="always")
def _row(indptr, indices, data, own, after, first, second, out, r):  # type: ignore[no-untyped-def]
    """One or two steps from row r of a sparse matrix; ``second`` is empty for one."""
    ptr, col, val = first
    between = out[r] if second[0].size == 1 else np.zeros(after, np.float32)
    for e in range(indptr[r], indptr[r + 1]):
        v = data[e]
        for f in range(ptr[indices[e]], ptr[indices[e] + 1]):
            between[col[f]] += v * val[f]
    if second[0].size > 1:
        if own[r] >= 0:
            between[own[r]] = 0.0
        _spread(second[0], second[1], second[2], between, out[r])


@njit(parallel=True, nogil=True)
def _rows_parallel(indptr, indices, data, own, after, first, second, out):  # type: ignore[no-untyped-def]
    for r in numba.prange(out.shape[0]):
        _row(indptr, indices, data, own, after, first, second, out, r)


@njit(nogil=True)
def _rows_serial(indptr, indices, data, own, after, first, second, out):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        _row(indptr, indices, data, own, after, first, second, out, r)


@njit(inline="always")
def _subtract(full, rows, part, factor, out, r):  # type: ignore[no-untyped-def]
    row, f = full[rows[r]], factor[r]
    for i in range(row.size):
        rest = row[i] - part[r, i]
        # a smaller difference is rounding, not a path
        out[r, i] = np.sqrt(rest * f) if rest > EQUAL * row[i] else np.float32(0.0)


@njit(parallel=True, nogil=True)
def _subtract_parallel(full, rows, part, factor, out):  # type: ignore[no-untyped-def]
    for r in numba.prange(out.shape[0]):
        _subtract(full, rows, part, factor, out, r)


@njit(nogil=True)
def _subtract_serial(full, rows, part, factor, out):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        _subtract(full, rows, part, factor, out, r)


def root_of_difference(full: Float32, rows: Int64, part: Float32, factor: Float32, parallel: bool = True) -> Float32:
    """``√(factor · (full[rows] − part))`` for path scores of histories and of a part of them, written to ``part``.

    A relative difference below ``EQUAL`` is 0.

    Args:
        full: float32 [n, n_items], scores of full histories.
        rows: rows of ``full`` [b].
        part: float32 [b, n_items], scores of the part that is removed; overwritten.
        factor: float32 [b].
        parallel: as for ``path_scores``.
    """
    (_subtract_parallel if parallel else _subtract_serial)(full, rows, part, factor, part)
    return part


def path_scores(kind: MetaPath, history: Csr, users: Int64 | None, parallel: bool = True) -> Float32:
    """Summed weights of the paths of one kind, float32 [history.n_rows, n_items].

    Args:
        kind: of path.
        history: users by items; its values are the weights of the first step.
        users: the user row of each history, −1 for a user unseen during training; None if all are unseen.
        parallel: False avoids parallel regions, so that several threads may call this at once.
    """
    own = np.full(history.n_rows, -1, np.int64) if users is None else users
    start = history
    if kind.start is not None:
        start = kind.start.take(np.maximum(own, 0))
        start.data[own[start.rows()] < 0] = 0
    first, last = kind.steps[0], kind.steps[-1]
    none = (np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    second = none if len(kind.steps) == 1 else (last.indptr, last.indices, last.data)
    out = np.zeros((history.n_rows, last.n_cols), np.float32)
    run = _rows_parallel if parallel else _rows_serial
    excluded = own if kind.through_users else np.full_like(own, -1)
    run(
        start.indptr,
        start.indices,
        start.data,
        excluded,
        first.n_cols,
        (first.indptr, first.indices, first.data),
        second,
        out,
    )
    return out
