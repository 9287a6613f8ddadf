"""Sparse EASE: for every item a ridge regression on its nearest items only, over interactions and relations.

EASE (Steck 2019) regresses each item on all others. Here item j is regressed on the K columns nearest to it, N_j, in
the same stack of rows as relational EASE: Z holds the interactions above the weighted rows of every relation, so

    G = Xᵀ Ω X + Σ_r w_r R_r R_rᵀ,    B_Nj = (G_NN + λ I)⁻¹ G_Nj,    scores = x B diag(n_j^c).

R_r has the items' rows of relation r, each of Euclidean length 1. Ω weighs users by ``n_u^−a``, on average 1 an
interaction; n_u and n_j are numbers of training interactions. N_j holds the columns of largest shrunk cosine
``g_ij / (√(g_ii g_jj) + s)``; K of all other items or more means all columns, and one inverse then gives all weights.
With those, a = 0 and c = 0 this is relational EASE, and EASE without relations. Relations of users are further
columns, as in relational EASE; a relation that touches neither users nor items is composed along the shortest chain
of relations that leads there.

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
from relrank.models.core.relation_rows import WEIGHTS, active_relations, side_by_side, stacked, unit_relation_rows
from relrank.models.core.sparse_linear import SparseLinear

MOST_WEIGHTS = 100_000_000
"""Numbers of neighbours with which all items together would have more weights than this are not tried."""
MOST_PRODUCTS = 4e12
"""Nor numbers with which they would take more multiplications than this: some four minutes on two cores."""
DENSE_COLUMNS = 10_000
"""Up to so many columns Gram matrices are dense and kept between trials; above, no matrix of all pairs is made."""
ALL_COLUMNS = 5_000
"""Up to so many columns each item may be regressed on all others, by one inverse."""
ROW_ENTRIES = 3_000
"""Above DENSE_COLUMNS, rows with more entries bring no items near each other; they count in the regressions."""
SPARSE_PAIRS = 6
"""A relation's Gram matrix is sparse where it sums at most one product for so many pairs."""
HISTORIES = 3
"""Gram matrices of the interactions that are kept, one for every way to weigh users: a value and those beside it."""
CACHE_BYTES = 4 << 30
"""Gram matrices of relations are kept between trials and arms while they fit into this much memory."""


@dataclass(frozen=True, slots=True)
class SparseEASEConfig:
    """Hyper-parameters of sparse EASE."""

    neighbours: PositiveInt = 50
    """K, items that each item is regressed on; up to ALL_COLUMNS columns, as many as there are others means all."""
    l2: Positive = 20.0
    """Ridge penalty λ, in interactions."""
    user_power: Annotated[float, Bounds(0, 2)] = 0.5
    """a, how much less a user with many interactions counts; 0 in EASE."""
    item_power: Power = 0.0
    """c, how much more popular items are recommended than the regression says, less where negative; 0 in EASE."""
    shrinkage: NonNegative = 3.0
    """s, what the cosine's denominator grows by when neighbours are chosen, in interactions."""
    weight: NonNegative = 3.0
    """Weight of every relation that ``weights`` does not name, in pseudo-users."""
    weights: Weights = field(default_factory=dict)
    """Weight per relation, in pseudo-users; 0 leaves the relation out."""


class _Solution(NamedTuple):
    """Neighbours and weights of every item, int32 and float32 [n_items, K]."""

    neighbours: Int32
    weights: Float32


class SparseEASE(SparseLinear):
    """EASE on each item's nearest items, over interactions and relations; all weights are sparse."""

    name = "sparse-ease"
    Config = SparseEASEConfig
    relational = True
    scores_from_current_row: ClassVar[bool] = True

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """What the regression is, then the weight of every usable relation.

        In this order arms share the trials that do not concern their relations.
        """
        most = max(graph.n_items - 1, 1)
        n = graph.n_items
        fit = [k for k in (20, 50, 100, 200, 400) if k * n <= MOST_WEIGHTS and k**3 / 3 * n <= MOST_PRODUCTS]
        if _columns_at_most(graph) <= ALL_COLUMNS:
            fit.append(most)
        else:
            most = max(most - 1, 1)  # so that arms with and without relations of users make the same regressions
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
        """Near EASE: many neighbours, more penalty, users alike. From few neighbours no single step leads there."""
        near_ease = {"neighbours": 200, "l2": 100.0, "user_power": 0.0}
        return (near_ease,) if cls._tried(graph, near_ease) else ()

    @classmethod
    def published_settings(cls, graph: Graph) -> dict[str, float] | None:
        """EASE, where all columns are tried: users alike, scores as they are, its usual penalty."""
        ease = {"neighbours": max(graph.n_items - 1, 1), "l2": 200.0, "user_power": 0.0, "item_power": 0.0}
        return ease if graph.n_items > 1 and cls._tried(graph, ease) else None

    @classmethod
    def _tried(cls, graph: Graph, values: dict[str, float]) -> bool:
        ladders = {knob.name: knob.grid_values for knob in cls.grid_parameters(graph)}
        return all(value in ladders[name] for name, value in values.items())

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """Weights while they are sorted by input, beside what the regressions read.

        That is up to DENSE_COLUMNS HISTORIES squares of the interactions, one of their sum with the relations, and
        one of each relation while they fit into CACHE_BYTES; above, the stack of rows, sorted both ways.
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
            kept = (1 + HISTORIES) * one + one * min(squares, CACHE_BYTES // max(one, 1))
            peak = kept + max(one + one // 2 if squares else 0, weights) + 2 * one * of_all
            blocks = 0.0 if of_all else n * k * k / 2
        else:
            peak = max(40 * entries, 16 * entries + weights)
            blocks = n * k * (entries / m) * 4
        solving = m**3 if of_all else n * (k**3 / 3 + k * k)
        return Estimate(peak + estimates.sparse(entries), solving, 2 * products + blocks)

    @classmethod
    def clear_cache(cls) -> None:
        """Gram matrices, neighbours and weights of the last trial."""
        clear_caches()

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that touch users or items, and those that a chain of relations leads to."""
        del config
        return tuple(sorted(reachable_relations(graph)))

    def __init__(self, graph: Graph, config: SparseEASEConfig | None = None) -> None:
        super().__init__(graph, config)
        self._pseudo_items = self._user_columns()
        self.from_history = self._pseudo_items is None  # else a user's relations count too, and a history has none

    # relations

    def active_relations(self, end: str) -> list[tuple[Relation, float]]:
        """Relations that say something of nodes of type ``end``, and their weights above 0.

        Raises:
            InputError: a weight is negative or not finite.
        """
        return active_relations(self.graph, end, self.config)

    def _user_columns(self) -> Csr | None:
        """``√w U`` of every relation of users side by side: users by pseudo-items; None without any."""
        parts = [(unit_relation_rows(self.graph, r), w) for r, w in self.active_relations(self.graph.user)]
        return side_by_side(parts, self.graph.n_users) if parts else None

    # solving

    @property
    def n_columns(self) -> int:
        """Items and pseudo-items."""
        return self.graph.n_items + (0 if self._pseudo_items is None else self._pseudo_items.n_cols)

    @property
    def n_neighbours(self) -> int:
        """Neighbours of an item at most."""
        return min(int(self.config.neighbours), self.n_columns - 1) or 1

    @property
    def of_all(self) -> bool:
        """Whether each item is regressed on all columns, by one inverse."""
        return _of_all(self.config, self.graph.n_items, self.n_columns)

    def sizes(self) -> dict[str, int]:
        """Weights have a row per item and pseudo-item."""
        return super().sizes() | {"starts": self.n_columns + 1}

    def solve(self) -> Self:
        """Neighbours, Gram blocks and one small Cholesky factorisation per item."""
        found = self._solution()
        n, shape = self.graph.n_items, (self.n_columns, self.graph.n_items)
        scaled = found.weights * self.item_scale()[:, None] if self.config.item_power else found.weights
        self.set_weights(by_input(found.neighbours, scaled, np.arange(n), shape))
        return self

    def item_scale(self) -> Float32:
        """``n_j^c``, float32 [n_items]; 1 for items without interactions."""
        counts = np.maximum(np.bincount(self.history.indices, minlength=self.graph.n_items), 1)
        scale: Float32 = (counts**self.config.item_power).astype(np.float32)
        return scale

    def user_scale(self) -> Float64:
        """``√Ω``, float64 [n_users]: mean of Ω over interactions 1."""
        degrees = np.maximum(self.history.degrees(), 1).astype(np.float64)
        omega = degrees**-self.config.user_power
        mean = (omega * self.history.degrees()).sum() / max(self.history.nnz, 1)
        scale: Float64 = np.sqrt(omega / mean if mean else omega)
        return scale

    def scaled_rows(self) -> Csr:
        """``√Ω [X, √w U]``: users by items and pseudo-items."""
        x, beside, scale = self.history, self._pseudo_items, self.user_scale()
        row, col, data = x.rows(), x.indices, x.data
        if beside is not None:
            row = np.concatenate([row, beside.rows()])
            col = np.concatenate([col, beside.indices + x.n_cols])
            data = np.concatenate([data, beside.data])
        return Csr.from_pairs(row, col, (x.n_rows, self.n_columns), data * scale[row])

    def _solution(self) -> _Solution:
        """Weights before popularity scaling, shared with the trials before this one as far as they agree."""
        with _SOLVING:  # trials write into each other's memory
            return self._solve()

    def _solve(self) -> _Solution:
        c, targets = self.config, np.arange(self.graph.n_items)
        k = self.n_neighbours
        kept = _kept(self.graph.interactions)
        edges = self._edges(self.graph.item), self._edges(self.graph.user)
        stack: tuple[Any, ...] = (float(c.user_power), self.n_columns, edges)
        selection = (*stack, k, float(c.shrinkage))
        if kept.get("solution", (None,))[0] == (*selection, float(c.l2)):
            solution: _Solution = kept["solution"][1]
            return solution
        if kept.get("stack", (None,))[0] != stack:
            kept.pop("stack", None)  # its memory is written to
            kept["stack"] = stack, self._gram(kept) if self.n_columns <= DENSE_COLUMNS else self.columns_and_rows()
        matrix = kept["stack"][1]
        if self.of_all:
            solution = _Solution(*weights_of_all(matrix, c.l2, targets))
            kept["solution"] = (*selection, float(c.l2)), solution
            return solution
        if kept.get("neighbours", (None,))[0] != selection:
            # as many neighbours in the last matrix are mostly the same ones
            guesses = kept.setdefault("guesses", {}) if self.n_columns <= DENSE_COLUMNS else {}
            found = (
                topk_cosine_dense(matrix, k, c.shrinkage, targets, guesses.get(k))
                if self.n_columns <= DENSE_COLUMNS
                else topk_cosine_sparse(matrix[0], matrix[1], k, c.shrinkage, targets, ROW_ENTRIES)
            )
            kept["neighbours"] = selection, found
            guesses[k] = found
        neighbours: Int32 = kept["neighbours"][1]
        solver = weights_dense if self.n_columns <= DENSE_COLUMNS else weights_sparse
        first = matrix if self.n_columns <= DENSE_COLUMNS else matrix[0]
        solution = _Solution(neighbours, solver(first, c.l2, targets, neighbours))
        kept["solution"] = (*selection, float(c.l2)), solution
        return solution

    def _edges(self, end: str) -> tuple[Any, ...]:
        """What the rows of relations are made of: each one's chain and weight."""
        pairs = self.active_relations(end)
        return tuple((tuple(ref(link) for link, _ in chain_of(self.graph, r)), w) for r, w in pairs)

    def _gram(self, kept: _Kept) -> Float32:
        """G without its penalty, [n_columns, n_columns], in the memory of the last sum if it fits."""
        of_items = [
            (_gram_of(self.graph, relation), weight) for relation, weight in self.active_relations(self.graph.item)
        ]
        first = self._gram_of_histories()
        if not of_items:
            return first
        before: Float32 | None = kept.pop("sum", None)
        fits = before is not None and before.shape == first.shape
        kept["sum"] = symmetric_sum(first, of_items, before if fits else None)
        total: Float32 = kept["sum"]
        return total

    def _gram_of_histories(self) -> Float32:
        """``Zᵀ Z`` of the scaled rows, [n_columns, n_columns], kept for the last few ways to weigh users."""
        kept: dict[Any, Float32] = _kept(self.graph.interactions).setdefault("histories", {})
        key = float(self.config.user_power), self._edges(self.graph.user)
        square = kept.pop(key, None)
        if square is None:
            memory = kept.pop(next(iter(kept))) if len(kept) >= HISTORIES else None
            rows = self.scaled_rows().transpose()
            fits = memory is not None and len(memory) == rows.n_rows
            square = full_gram(rows, memory if fits else None)
        kept[key] = square  # the latest stands last
        return square

    def columns_and_rows(self) -> tuple[Csr, Csr]:
        """Z by columns and by rows."""
        return stacked(
            self.scaled_rows(),
            [(unit_relation_rows(self.graph, r), w) for r, w in self.active_relations(self.graph.item)],
        )

    # scoring

    def beside(self, user: int) -> tuple[Int32, Float32]:
        """Pseudo-items of a user, from their relations, and values: what is scored beside their items."""
        if self._pseudo_items is None:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        part = slice(self._pseudo_items.indptr[user], self._pseudo_items.indptr[user + 1])
        return self._pseudo_items.indices[part], self._pseudo_items.data[part]

    def inputs(self, users: Tensor) -> Csr:
        """Training items, and behind them the pseudo-items of the users' relations."""
        rows = user_rows(users, self.graph.n_users)
        history = self.history.take(rows)
        if self._pseudo_items is None:
            return history
        beside = self._pseudo_items.take(rows)
        row = np.concatenate([history.rows(), beside.rows()])
        col = np.concatenate([history.indices, beside.indices + history.n_cols])
        return Csr.from_pairs(row, col, (rows.size, self.n_columns), np.concatenate([history.data, beside.data]))


def _of_all(config: SparseEASEConfig, n_items: int, n_columns: int) -> bool:
    return config.neighbours >= n_items - 1 and n_columns <= min(ALL_COLUMNS, DENSE_COLUMNS)


def _columns_at_most(graph: Graph) -> int:
    """Items, and pseudo-items if every relation of users were in use."""
    of_users = (r for r in graph.relations.values() if described_type(graph, r) == graph.user)
    return graph.n_items + sum(_n_others(graph, relation) for relation in of_users)


def _n_others(graph: Graph, relation: Relation) -> int:
    """Nodes at the far end of a relation, which a chain may lead to."""
    link, ahead = chain_of(graph, relation)[-1]
    return len(graph.nodes[link.target if ahead else link.source])


_Kept = dict[str, Any]
"""What the last trial on some interactions made, by stage: key and value."""
_SOLVING = threading.Lock()
_KEPT: WeakKeyDictionary[Relation, _Kept] = WeakKeyDictionary()
_GRAMS: dict[ref[Relation], tuple[Int32, Square]] = {}


def _kept(interactions: Relation) -> _Kept:
    """Stages of the last trial on these interactions; those of others are forgotten."""
    if interactions not in _KEPT:
        _KEPT.clear()
        _KEPT[interactions] = {}
    return _KEPT[interactions]


def _gram_of(graph: Graph, relation: Relation) -> Square:
    """``R Rᵀ`` of a relation's item rows, in the form that takes least; kept while the relation lives."""
    rows = unit_relation_rows(graph, relation)
    known = _GRAMS.get(ref(relation))
    if known is not None and known[0] is rows.indices:
        return known[1]
    memory = _reclaim_buffer(rows.n_rows)
    degrees = rows.degrees()
    square: Square
    # products bound the pairs from above: each brings at most one
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
    """Forget the squares of relations that are gone; one of n rows among them, to write another one into."""
    found = None
    for relation in [relation for relation in _GRAMS if relation() is None]:
        _, square = _GRAMS.pop(relation)
        if isinstance(square, np.ndarray) and len(square) == n:
            found = square
    return found


def _bytes_of(square: Square) -> int:
    if isinstance(square, EqualityMatrix):
        return square.values.nbytes
    return square.indices.nbytes + square.data.nbytes if isinstance(square, Csr) else square.nbytes


def clear_caches() -> None:
    """Free what trials share."""
    with _SOLVING:
        _KEPT.clear()
        _GRAMS.clear()
