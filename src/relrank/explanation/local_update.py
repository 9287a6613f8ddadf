"""Sparse EASE solved again without a few links of its items: only for the items that the links can affect.

A removal changes the rows S of a relation's unit rows R, so of ``G = Xᵀ Ω X + Σ w R Rᵀ`` only the rows and columns S.
The regression of item j on its neighbours N_j stays the same unless

- j is in S;
- an item of S is in N_j: the block G_NN changes, and the neighbours may have to be selected again;
- an item of S comes nearer to j than it was, so that it may enter N_j.

These targets are selected and solved again with the model's own kernels and numbers; changed entries are written in
place and restored afterwards. Targets whose score is 0 before and after, because no input is among their neighbours,
are left out. Relations that are reached through a changed one change in the same rows and are composed again there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import numpy as np

from relrank.explanation.link_update import LinkUpdate
from relrank.graph.edge_removal import EdgeRemoval
from relrank.kernels.csr import Csr, Float32, Float64, Int32, Int64
from relrank.kernels.dense_solve import full_gram, products_by_row
from relrank.kernels.local_regression import (
    add_rows,
    lengths,
    symmetric_sum,
    topk_cosine_dense,
    topk_cosine_sparse,
    weights_dense,
    weights_of_all,
    weights_sparse,
)
from relrank.models.closed_form import sparse_ease
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.relation_rows import unit_relation_rows

NEARER = np.float32(1 - 1e-6)
"""A cosine counts as nearer unless it is smaller by more than rounding."""


class _Change(NamedTuple):
    """The rows S that a removal changes, ascending, and by relation their new values: CSR [|S|, n_others]."""

    items: Int64
    rows: dict[str, Csr]


class _Near(NamedTuple):
    """Rows S of G, by which neighbours are selected, and lengths of columns.

    Attributes:
        products: float32 [|S|, n_columns].
        own: lengths of the columns S, float32 [|S|].
        norms: of all columns, float32 [n_columns].
    """

    products: Float32
    own: Float32
    norms: Float32

    def cosines(self, shrinkage: float) -> Float32:
        """Shrunk cosines of the columns S with all columns, [|S|, n_columns]; 0 where nothing is shared."""
        below = self.own[:, None] * self.norms + np.float32(shrinkage)
        out: Float32 = np.divide(self.products, below, out=np.zeros_like(self.products), where=self.products > 0)
        return out


class _DenseGram:
    """G in full, as the model computes it for few columns."""

    def __init__(self, model: SparseEASE) -> None:
        self.model, self.scaled = model, model.scaled_rows()
        self.by_column = self.scaled.transpose()
        self.parts = [
            (r.name, unit_relation_rows(model.graph, r), w) for r, w in model.active_relations(model.graph.item)
        ]
        self.back = {name: rows.transpose() for name, rows, _ in self.parts}
        self.g = full_gram(self.by_column)
        for _, rows, weight in self.parts:
            symmetric_sum(self.g, [(full_gram(rows), weight)], self.g)

    def near(self, items: Int64) -> _Near:
        """Rows of the current G."""
        norms = np.sqrt(np.maximum(self.g.diagonal(), 0)).astype(np.float32)
        return _Near(self.g[items], norms[items], norms)

    @contextmanager
    def changed(self, change: _Change) -> Iterator[None]:
        """Write the changed rows and columns into G, and restore it at the end."""
        s = change.items
        fresh = products_by_row(self.by_column.take(s), self.scaled)
        for name, rows, weight in self.parts:
            left = change.rows[name] if name in change.rows else rows.take(s)
            products = products_by_row(left, self.back[name])
            products[:, s] = products_by_row(left, left.transpose())
            add_rows(fresh, products, weight)
        before = self.g[s]
        try:
            self._write(s, fresh)
            yield
        finally:
            self._write(s, before)

    def _write(self, items: Int64, rows: Float32) -> None:
        self.g[items] = rows
        self.g[:, items] = rows.T

    def solve(self, targets: Int64) -> tuple[Int32, Float32]:
        """Neighbours and weights of targets, [n_targets, K] each."""
        c = self.model.config
        if self.model.of_all:
            return weights_of_all(self.g, c.l2, targets)
        neighbours = topk_cosine_dense(self.g, self.model.n_neighbours, c.shrinkage, targets)
        return neighbours, weights_dense(self.g, c.l2, targets, neighbours)


class _Stack:
    """Z by columns and by rows, as the model computes it for many columns; removed links become values of 0."""

    def __init__(self, model: SparseEASE) -> None:
        self.model = model
        self.columns, self.rows = model.columns_and_rows()
        self.norms = lengths(self.columns)
        self.long = np.diff(self.rows.indptr) > sparse_ease.ROW_ENTRIES
        self.first: dict[str, tuple[int, Csr, float]] = {}
        height = model.graph.n_users
        for relation, weight in model.active_relations(model.graph.item):
            rows = unit_relation_rows(model.graph, relation)
            self.first[relation.name] = height, rows, weight
            height += rows.n_cols

    def near(self, items: Int64) -> _Near:
        """Rows of the current G, without the rows of Z that are too long to make items neighbours."""
        columns = self.columns.take(items)
        data = np.where(self.long[columns.indices], np.float32(0), columns.data)
        products = products_by_row(Csr(columns.indptr, columns.indices, data, columns.n_cols), self.rows)
        return _Near(products, self.norms[items], self.norms)

    @contextmanager
    def changed(self, change: _Change) -> Iterator[None]:
        """Write the changed rows of relations into Z, and restore it at the end."""
        at_column, at_row, fresh = [], [], []
        for name, rows in change.rows.items():
            height, old, weight = self.first[name]
            for place, item in enumerate(change.items.tolist()):
                others = old.indices[old.indptr[item] : old.indptr[item + 1]]
                part = slice(rows.indptr[place], rows.indptr[place + 1])
                values = np.zeros(others.size, np.float32)
                values[np.searchsorted(others, rows.indices[part])] = rows.data[part] * np.float32(np.sqrt(weight))
                start, end = self.columns.indptr[item : item + 2]
                at_column.append(start + np.searchsorted(self.columns.indices[start:end], others + height))
                for row in (others + height).tolist():
                    start, end = self.rows.indptr[row : row + 2]
                    at_row.append(start + np.searchsorted(self.rows.indices[start:end], item))
                fresh.append(values)
        column, row, values = np.concatenate(at_column), np.array(at_row, np.int64), np.concatenate(fresh)
        before, norms = self.columns.data[column], self.norms[change.items]
        try:
            self.columns.data[column] = self.rows.data[row] = values
            self.norms[change.items] = lengths(self.columns.take(change.items))
            yield
        finally:
            self.columns.data[column] = self.rows.data[row] = before
            self.norms[change.items] = norms

    def solve(self, targets: Int64) -> tuple[Int32, Float32]:
        """Neighbours and weights of targets, [n_targets, K] each."""
        c = self.model.config
        neighbours = topk_cosine_sparse(
            self.columns,
            self.rows,
            self.model.n_neighbours,
            c.shrinkage,
            targets,
            sparse_ease.ROW_ENTRIES,
            self.norms,
        )
        return neighbours, weights_sparse(self.columns, c.l2, targets, neighbours)


class LocalUpdate(LinkUpdate):
    """Scores of a solved sparse EASE as if it had been solved without some links of its items.

    Args:
        model: solved; interactions and relations of users stay as they are.
    """

    def __init__(self, model: SparseEASE) -> None:
        super().__init__(model.graph, model.active_relations(model.graph.item))
        self.model = model
        self.is_large = model.n_columns > sparse_ease.DENSE_COLUMNS
        self._in_place = threading.Lock()

    @cached_property
    def chosen(self) -> Csr:
        """Items by users, each interaction with the root of its weight Ω; co-counts are products of these rows."""
        x = self.model.history
        return Csr(
            x.indptr, x.indices, (x.data * self.model.user_scale()[x.rows()]).astype(np.float32), x.n_cols
        ).transpose()

    @cached_property
    def _source(self) -> _DenseGram | _Stack:
        return _Stack(self.model) if self.is_large else _DenseGram(self.model)

    def supports(self, cut: EdgeRemoval) -> bool:
        """Whether only few targets have to be solved again.

        In large catalogues a node whose items become few enough to make them neighbours affects all of them.
        """
        if not super().supports(cut):
            return False
        return cut.relation is None or not (self.is_large and self._crosses(cut))

    def _crosses(self, cut: EdgeRemoval) -> bool:
        """Whether a row of Z falls to ROW_ENTRIES or below."""
        source, most = self._source, sparse_ease.ROW_ENTRIES
        assert isinstance(source, _Stack)
        affected = self._without.affected(cut.relation or "")
        if not any(source.long[source.first[name][0] :].any() for name in affected):
            return False
        change = self._change(cut)
        for name, rows in change.rows.items():
            height, old, _ = source.first[name]
            lost = np.bincount(old.take(change.items).indices, minlength=old.n_cols)
            lost -= np.bincount(rows.indices, minlength=old.n_cols)
            entries = np.diff(source.rows.indptr)[height : height + old.n_cols]
            if ((entries > most) & (entries - lost <= most)).any():
                return True
        return False

    def scores(self, rows: Sequence[tuple[Int64, Float32]], cuts: Sequence[EdgeRemoval]) -> Float64:
        """Scores of input rows, each without the links of one removal.

        Args:
            rows: n, each the columns and the values of ``[x, √w u]``, items before pseudo-items.
            cuts: n removals of existing links, for which ``supports`` is true.

        Returns:
            float64 [n, n_items].
        """
        sizes = [columns.size for columns, _ in rows]
        column, value = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
        shape = len(rows), self.model.n_columns
        inputs = Csr.from_pairs(np.repeat(np.arange(len(rows)), sizes), column, shape, value)
        scores = self.model.score_rows(inputs).numpy().astype(np.float64)
        for cut in dict.fromkeys(cuts):
            if cut.relation is None:
                continue
            numbers = [at for at, other in enumerate(cuts) if other == cut]
            columns = np.unique(np.concatenate([rows[at][0] for at in numbers]))
            targets, neighbours, weights = self._solved(cut, columns)
            x = np.zeros(self.model.n_columns + 1)  # the last column means no neighbour
            for at in numbers:
                x[rows[at][0]] = rows[at][1]
                scores[at, targets] = (x[neighbours] * weights).sum(1)
                x[rows[at][0]] = 0
        return scores

    def _solved(self, cut: EdgeRemoval, inputs: Int64) -> tuple[Int64, Int32, Float32]:
        """Items whose scores of these inputs can change, with their new neighbours and weights."""
        change = self._change(cut)
        if not change.rows:
            k = self.model.n_neighbours
            return np.zeros(0, np.int64), np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
        with self._in_place:
            source, shrinkage = self._source, self.model.config.shrinkage
            before = source.near(change.items)
            was = before.cosines(shrinkage)
            with source.changed(change):
                after = source.near(change.items)
                targets = self._affected(change.items, inputs, before, after, was, after.cosines(shrinkage))
                neighbours, weights = source.solve(targets)
        if self.model.config.item_power:
            weights = weights * self.model.item_scale()[targets][:, None]
        return targets, neighbours, weights

    def _affected(
        self, items: Int64, inputs: Int64, before: _Near, after: _Near, was: Float32, cosines: Float32
    ) -> Int64:
        """Targets that are solved again, ascending; see the module's docstring."""
        n, weights = self.model.graph.n_items, self.model.item_weights()
        differs = (before.products != after.products) | (before.own != after.own)[:, None]
        nearer = (differs & (cosines > 0) & (cosines >= was * NEARER))[:, :n].any(0)
        holding, leaving = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        for place, item in enumerate(items.tolist()):
            holders = weights.indices[weights.indptr[item] : weights.indptr[item + 1]]
            holding[holders] = True
            leaving[holders] |= cosines[place, holders] < was[place, holders]
        affected = holding | nearer
        if not np.isin(items, inputs).any():  # else the score of each item with a neighbour in S changes
            reached = np.zeros(n, np.bool_)
            reached[weights.take(inputs).indices] = True
            affected &= reached | leaving
        affected[items] = True
        targets: Int64 = np.flatnonzero(affected)
        return targets

    def _change(self, cut: EdgeRemoval) -> _Change:
        """Unit rows without the removed links."""
        items = self._without.items(cut)
        return _Change(items, self._without.rows(cut, items))
