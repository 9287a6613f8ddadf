"""Sparse EASE: for every item a ridge regression on its nearest items only, over interactions and relations.

    Z = [√Ω X; √w_r R_rᵀ],      G = ZᵀZ = Xᵀ Ω X + Σ_r w_r R_r R_rᵀ
    N_j = the K columns i of largest g_ij / (√(g_ii g_jj) + s)
    B_{N_j, j} = (G_{N_j N_j} + λI)⁻¹ G_{N_j, j},      scores = x B diag(n_j^c)

EASE (Steck 2019) regresses each item on all others; here item j is regressed on its neighbours N_j in the stack of
relational EASE. R_r has the items' rows of relation r, each of Euclidean length 1. Ω weighs users by ``n_u^−a``, with
mean 1 over the interactions; n_u and n_j are numbers of training interactions. If K covers all other items, all
columns are used and one inverse gives all weights; with a = 0 and c = 0 this is then relational EASE, and EASE
without relations. Relations of users add columns, as in relational EASE; a relation that touches neither users nor
items is composed along the shortest chain of relations that leads to them.

SLIM on a neighbourhood: Ning & Karypis 2011; with side information: Ning & Karypis 2012; sparse blocks of the closed
form: Steck 2019, "Markov Random Fields for Collaborative Filtering"; Spišák et al. 2023, "Scalable Approximate
NonSymmetric Autoencoder".
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Self
from weakref import WeakKeyDictionary, ref

import numpy as np
from torch import Tensor

from relrank.graph.composition import product
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.relation_chains import chain_of, described_type, reachable_relations
from relrank.kernels.csr import Csr, Float32, Float64, Int32
from relrank.kernels.dense_solve import full_gram, products_of
from relrank.kernels.local_regression import (
    EqualityMatrix,
    Square,
    by_input,
    symmetric_sum,
    topk_cosine_dense,
    topk_cosine_sparse,
    weights_dense,
    weights_of_all,
    weights_sparse,
)
from relrank.models.core import estimates
from relrank.models.core.base import GridParameter, user_rows
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Bounds, NonNegative, Positive, PositiveInt, Power, Weights
from relrank.models.core.relation_rows import (
    WEIGHTS,
    active_relations,
    append_columns,
    row_entries,
    stacked,
    unit_relation_rows,
    user_columns,
)
from relrank.models.core.sparse_linear import SparseLinear

MOST_WEIGHTS = 100_000_000
"""Tuning tries no K with which the model would have more weights than this."""
MOST_PRODUCTS = 4e12
"""Nor one with which it would take more multiplications: some four minutes on two cores."""
DENSE_COLUMNS = 10_000
"""Up to this many columns, Gram matrices are dense and cached between trials; above, no n × n matrix is made."""
ALL_COLUMNS = 5_000
"""Up to this many columns, an item may be regressed on all others, by one inverse."""
ROW_ENTRIES = 3_000
"""Above DENSE_COLUMNS, rows with more entries are ignored in the search for neighbours, not in the regressions."""
SPARSE_PAIRS = 6
"""A relation's Gram matrix is sparse if it sums at most one product per this many pairs."""
HISTORIES = 3
"""Cached Gram matrices of the interactions, one per user weighting: a value of ``user_power`` and its neighbours."""
CACHE_BYTES = 4 << 30
"""Limit of the Gram matrices of relations that trials and arms share."""


@dataclass(frozen=True, slots=True)
class SparseEASEConfig:
    """Hyper-parameters of sparse EASE."""

    neighbours: PositiveInt = 50
    """K, items that each item is regressed on. With at most 5,000 columns, n_items − 1 or more means all columns."""
    l2: Positive = 20.0
    """Ridge penalty λ, in interactions."""
    user_power: Annotated[float, Bounds(0, 2)] = 0.5
    """a, exponent that discounts users with many interactions; 0 in EASE."""
    item_power: Power = 0.0
    """c, exponent that raises the scores of popular items, or lowers them if negative; 0 in EASE."""
    shrinkage: NonNegative = 3.0
    """s, added to the cosine's denominator when neighbours are chosen, in interactions."""
    weight: NonNegative = 3.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 excludes the relation."""


class _Solution(NamedTuple):
    """Neighbours and weights of every item, int32 and float32 [n_items, K]."""

    neighbours: Int32
    weights: Float32


class SparseEASE(SparseLinear):
    """EASE on each item's nearest items, over interactions and relations, with sparse weights."""

    name = "sparse-ease"
    Config = SparseEASEConfig
    relational = True
    scores_from_current_row: ClassVar[bool] = True

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The regression's hyper-parameters first, so that arms share these trials; then the relation weights."""
        most = max(graph.n_items - 1, 1)
        n = graph.n_items
        fit = [k for k in (20, 50, 100, 200, 400) if k * n <= MOST_WEIGHTS and k**3 / 3 * n <= MOST_PRODUCTS]
        if _columns_at_most(graph) <= ALL_COLUMNS:
            fit.append(most)
        else:
            most = max(most - 1, 1)  # so that arms with and without relations of users solve the same regressions
        sizes = tuple(sorted({min(k, most) for k in (10, *fit)}))
        return (
            GridParameter("l2", (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0), 20.0),
            GridParameter("neighbours", sizes, sizes[min(2, len(sizes) - 1)], coarse_steps=False),
            GridParameter("item_power", (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3), 0.0),
            GridParameter("user_power", (0.0, 0.25, 0.5, 0.75, 1.0), 0.5),
            GridParameter("shrinkage", (0.0, 1.0, 3.0, 10.0, 30.0, 100.0), 3.0),
            *(GridParameter(f"weights.{name}", WEIGHTS, 0.0, "weights") for name in cls.used_relations(graph, None)),
        )

    @classmethod
    def starts(cls, graph: Graph) -> tuple[dict[str, float], ...]:
        """Near EASE: many neighbours, a larger penalty, equal users; no single step from the defaults leads there."""
        near_ease = {"neighbours": 200, "l2": 100.0, "user_power": 0.0}
        return (near_ease,) if cls._on_grid(graph, near_ease) else ()

    @classmethod
    def published_settings(cls, graph: Graph) -> dict[str, float] | None:
        """EASE with its usual penalty, if K may cover all columns."""
        ease = {"neighbours": max(graph.n_items - 1, 1), "l2": 200.0, "user_power": 0.0, "item_power": 0.0}
        return ease if graph.n_items > 1 and cls._on_grid(graph, ease) else None

    @classmethod
    def _on_grid(cls, graph: Graph, values: dict[str, float]) -> bool:
        grid = {parameter.name: parameter.grid_values for parameter in cls.grid_parameters(graph)}
        return all(value in grid[name] for name, value in values.items())

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """The weights while they are sorted by input, and what the regressions read.

        Up to DENSE_COLUMNS: HISTORIES Gram matrices of the interactions, one of their sum with the relations, and one
        per relation up to CACHE_BYTES. Above: Z by rows and by columns.
        """
        n, m, entries = graph.n_items, graph.n_items, 2 * len(graph.interactions)
        squares, products = 0, estimates.gram_products(graph.interactions.src)
        for relation in graph.relations.values():
            end = described_type(graph, relation)
            if end is None or not config.weights.get(relation.name, config.weight):
                continue
            other = relation.target if relation.source == end else relation.source
            entries += 2 * len(relation) + len(graph.nodes[end])
            if end == graph.item:
                squares += 1
                degrees = relation.degrees(other, len(graph.nodes[other]))
                products += float((np.minimum(degrees, ROW_ENTRIES).astype(np.float64) ** 2).sum())
            else:
                m += _n_others(graph, relation)
        k = max(min(int(config.neighbours), m - 1), 1)
        of_all = _of_all(config, n, m)
        weights, one = 25 * n * (m if of_all else k) + 16 * n * m * of_all, estimates.square(m)
        if m <= DENSE_COLUMNS:
            cached = (1 + HISTORIES) * one + one * min(squares, CACHE_BYTES // max(one, 1))
            peak = cached + max(one + one // 2 if squares else 0, weights) + 2 * one * of_all
            blocks = 0.0 if of_all else n * k * k / 2
        else:
            peak = max(40 * entries, 16 * entries + weights)
            blocks = n * k * (entries / m) * 4
        solving = m**3 if of_all else n * (k**3 / 3 + k * k)
        return Estimate(peak + estimates.sparse(entries), solving, 2 * products + blocks)

    @classmethod
    def clear_cache(cls) -> None:
        """Free the Gram matrices, neighbours and weights of the last trial."""
        clear_caches()

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, directly or through a chain of relations."""
        del config
        return tuple(sorted(reachable_relations(graph)))

    def __init__(self, graph: Graph, config: SparseEASEConfig | None = None) -> None:
        super().__init__(graph, config)
        self._user_columns = user_columns(graph, self.config)
        self.from_history = self._user_columns is None  # otherwise a user's relations change the scores, too

    def active_relations(self, end: str) -> list[tuple[Relation, float]]:
        """Relations that describe nodes of type ``end``, with weights above 0."""
        return active_relations(self.graph, end, self.config)

    @property
    def n_columns(self) -> int:
        """Items and pseudo-items."""
        return self.graph.n_items + (0 if self._user_columns is None else self._user_columns.n_cols)

    @property
    def n_neighbours(self) -> int:
        """K, at most the number of other columns."""
        return min(int(self.config.neighbours), self.n_columns - 1) or 1

    @property
    def of_all(self) -> bool:
        """Whether each item is regressed on all columns, by one inverse."""
        return _of_all(self.config, self.graph.n_items, self.n_columns)

    def sizes(self) -> dict[str, int]:
        """``starts``: the weights have a row per item and pseudo-item."""
        return super().sizes() | {"starts": self.n_columns + 1}

    def solve(self) -> Self:
        """Neighbours, Gram blocks and one small Cholesky factorisation per item."""
        with _SOLVER_LOCK:  # trials overwrite each other's matrices
            neighbours, weights = self._solve()
        n = self.graph.n_items
        if self.config.item_power:
            weights = weights * self.item_scale()[:, None]
        self.set_weights(by_input(neighbours, weights, np.arange(n), (self.n_columns, n)))
        return self

    def item_scale(self) -> Float32:
        """``n_j^c``, float32 [n_items]; 1 for items without interactions."""
        counts = np.maximum(np.bincount(self.history.indices, minlength=self.graph.n_items), 1)
        scale: Float32 = (counts**self.config.item_power).astype(np.float32)
        return scale

    def user_scale(self) -> Float64:
        """``√Ω``, float64 [n_users]; Ω has mean 1 over the interactions."""
        degrees = np.maximum(self.history.degrees(), 1).astype(np.float64)
        omega = degrees**-self.config.user_power
        mean = (omega * self.history.degrees()).sum() / max(self.history.nnz, 1)
        scale: Float64 = np.sqrt(omega / mean if mean else omega)
        return scale

    def scaled_rows(self) -> Csr:
        """``√Ω [X, √w U]``: users by items and pseudo-items."""
        x, scale = append_columns(self.history, self._user_columns), self.user_scale()
        return Csr(x.indptr, x.indices, (x.data * scale[x.rows()]).astype(np.float32), x.n_cols)

    def _solve(self) -> _Solution:
        """B before popularity scaling; stages that agree with the last trial come from the cache."""
        c, targets = self.config, np.arange(self.graph.n_items)
        k, dense = self.n_neighbours, self.n_columns <= DENSE_COLUMNS
        cache = _cache(self.graph.interactions)
        relations = self._relation_keys(self.graph.item), self._relation_keys(self.graph.user)
        stack: tuple[Any, ...] = (float(c.user_power), self.n_columns, relations)
        selection = (*stack, k, float(c.shrinkage))
        key = (*selection, float(c.l2))
        if cache.get("solution", (None,))[0] == key:
            cached: _Solution = cache["solution"][1]
            return cached
        if cache.get("stack", (None,))[0] != stack:
            cache.pop("stack", None)  # its memory is reused
            cache["stack"] = stack, self._gram(cache) if dense else self.columns_and_rows()
        matrix = cache["stack"][1]
        if self.of_all:
            solution = _Solution(*weights_of_all(matrix, c.l2, targets))
            cache["solution"] = key, solution
            return solution
        if cache.get("neighbours", (None,))[0] != selection:
            # the K nearest in the last trial's matrix are mostly the same
            guesses = cache.setdefault("guesses", {}) if dense else {}
            neighbours = (
                topk_cosine_dense(matrix, k, c.shrinkage, targets, guesses.get(k))
                if dense
                else topk_cosine_sparse(matrix[0], matrix[1], k, c.shrinkage, targets, ROW_ENTRIES)
            )
            cache["neighbours"] = selection, neighbours
            guesses[k] = neighbours
        neighbours = cache["neighbours"][1]
        weights = (
            weights_dense(matrix, c.l2, targets, neighbours)
            if dense
            else weights_sparse(matrix[0], c.l2, targets, neighbours)
        )
        solution = _Solution(neighbours, weights)
        cache["solution"] = key, solution
        return solution

    def _relation_keys(self, end: str) -> tuple[Any, ...]:
        """Chain and weight of every active relation: cache keys of their rows."""
        pairs = self.active_relations(end)
        return tuple((tuple(ref(link) for link, _ in chain_of(self.graph, r)), w) for r, w in pairs)

    def _gram(self, cache: _Cache) -> Float32:
        """G, [n_columns, n_columns], in the memory of the last trial's sum if it fits."""
        of_relations = [(_relation_gram(self.graph, r), w) for r, w in self.active_relations(self.graph.item)]
        of_interactions = self._interaction_gram()
        if not of_relations:
            return of_interactions
        memory: Float32 | None = cache.pop("sum", None)
        fits = memory is not None and memory.shape == of_interactions.shape
        total = symmetric_sum(of_interactions, of_relations, memory if fits else None)
        cache["sum"] = total
        return total

    def _interaction_gram(self) -> Float32:
        """Gram matrix of ``scaled_rows``, [n_columns, n_columns], cached for the last HISTORIES user weightings."""
        cache: dict[Any, Float32] = _cache(self.graph.interactions).setdefault("histories", {})
        key = float(self.config.user_power), self._relation_keys(self.graph.user)
        square = cache.pop(key, None)
        if square is None:
            memory = cache.pop(next(iter(cache))) if len(cache) >= HISTORIES else None
            rows = self.scaled_rows().transpose()
            fits = memory is not None and len(memory) == rows.n_rows
            square = full_gram(rows, memory if fits else None)
        cache[key] = square  # the oldest is evicted first
        return square

    def columns_and_rows(self) -> tuple[Csr, Csr]:
        """Z by columns and by rows."""
        return stacked(
            self.scaled_rows(),
            [(unit_relation_rows(self.graph, r), w) for r, w in self.active_relations(self.graph.item)],
        )

    def user_pseudo_items(self, user: int) -> tuple[Int32, Float32]:
        """A user's row of √w U: pseudo-items (columns counted from 0) and values."""
        return row_entries(self._user_columns, user)

    def inputs(self, users: Tensor) -> Csr:
        """Rows of [X, √w U]: training items, then pseudo-items."""
        rows = user_rows(users, self.graph.n_users)
        more = None if self._user_columns is None else self._user_columns.take(rows)
        return append_columns(self.history.take(rows), more)


def _of_all(config: SparseEASEConfig, n_items: int, n_columns: int) -> bool:
    return config.neighbours >= n_items - 1 and n_columns <= min(ALL_COLUMNS, DENSE_COLUMNS)


def _columns_at_most(graph: Graph) -> int:
    """Items, and the pseudo-items of all relations of users."""
    of_users = (r for r in graph.relations.values() if described_type(graph, r) == graph.user)
    return graph.n_items + sum(_n_others(graph, relation) for relation in of_users)


def _n_others(graph: Graph, relation: Relation) -> int:
    """Number of nodes at the far end of a relation's chain."""
    link, ahead = chain_of(graph, relation)[-1]
    return len(graph.nodes[link.target if ahead else link.source])


_Cache = dict[str, Any]
"""Key and result of every stage of the last trial on some interactions."""
_SOLVER_LOCK = threading.Lock()
_CACHES: WeakKeyDictionary[Relation, _Cache] = WeakKeyDictionary()
_GRAMS: dict[ref[Relation], tuple[Int32, Square]] = {}


def _cache(interactions: Relation) -> _Cache:
    """Stages of the last trial on these interactions; those on others are evicted."""
    if interactions not in _CACHES:
        _CACHES.clear()
        _CACHES[interactions] = {}
    return _CACHES[interactions]


def _relation_gram(graph: Graph, relation: Relation) -> Square:
    """``R Rᵀ`` of a relation's item rows, in its smallest form; cached as long as the relation is alive."""
    rows = unit_relation_rows(graph, relation)
    cached = _GRAMS.get(ref(relation))
    if cached is not None and cached[0] is rows.indices:
        return cached[1]
    memory = _reclaim_buffer(rows.n_rows)
    degrees = rows.degrees()
    square: Square
    # each product adds at most one pair
    if 2 * SPARSE_PAIRS * products_of(rows) <= rows.n_rows**2:
        square = product(rows, rows.transpose())
    elif degrees.max(initial=0) <= 1:
        values = np.full(rows.n_rows, -1, np.int32)
        values[degrees == 1] = rows.indices
        square = EqualityMatrix(values)
    else:
        square = full_gram(rows, memory)
    if sum(_bytes_of(g) for _, g in _GRAMS.values()) + _bytes_of(square) <= CACHE_BYTES:
        _GRAMS[ref(relation)] = rows.indices, square
    return square


def _reclaim_buffer(n: int) -> Float32 | None:
    """Drop the Gram matrices of deleted relations; return one of n rows for reuse, if there is any."""
    buffer = None
    for relation in [relation for relation in _GRAMS if relation() is None]:
        _, square = _GRAMS.pop(relation)
        if isinstance(square, np.ndarray) and len(square) == n:
            buffer = square
    return buffer


def _bytes_of(square: Square) -> int:
    if isinstance(square, EqualityMatrix):
        return square.values.nbytes
    return square.indices.nbytes + square.data.nbytes if isinstance(square, Csr) else square.nbytes


def clear_caches() -> None:
    """Free the matrices that trials share."""
    with _SOLVER_LOCK:
        _CACHES.clear()
        _GRAMS.clear()
