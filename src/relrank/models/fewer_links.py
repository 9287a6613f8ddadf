"""Relational EASE solved again without a few links of its items, by a low-rank change of the inverse.

A relation enters ``G`` as ``w R Rᵀ`` with unit rows R. Links that go change the rows S of R by ``D = R' − R``, so
with the columns S of the identity as E

    G' = G + w (E Cᵀ + C Eᵀ),      C = R Dᵀ + ½ E D Dᵀ,

and for ``U = [E, C]`` Woodbury's identity gives, with ``M = w [[0, I], [I, 0]]``,

    P' = P − P U M (I + Uᵀ P U M)⁻¹ Uᵀ P.

A user's scores ``z − z P' / diag(P')`` need only ``z P``, ``diag(P)`` and ``P U`` (n_items × 2|S|), and ``P`` is
``(I − B) diag(P)``: one product of B with a few columns instead of an inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relrank.csr import Csr, Float32, Float64, Int64
from relrank.graph.cuts import Cut
from relrank.models.linear import products_by_row, rows_times_dense
from relrank.models.relational_ease import RelationalEASE, unit_rows_of


class _Change(NamedTuple):
    """The rows S of R that a cut changes, and D as CSR."""

    weight: float
    rows: Int64
    difference: Csr


class FewerLinks:
    """Scores of a solved relational EASE as if it had been solved without some links of its items.

    Args:
        model: solved; interactions and relations of users stay as they are.
    """

    def __init__(self, model: RelationalEASE) -> None:
        self.model = model
        self.weights = {r.name: w for r, w in model.in_use(model.graph.item)}
        self.rows = {
            name: unit_rows_of(model.graph, model.graph.relations[name], model.graph.item) for name in self.weights
        }
        self._columns: dict[str, Csr] = {}

    def fits(self, cut: Cut) -> bool:
        """Whether only a few rows change.

        Where a relation within the items has weights above 1, its rows are scaled by the largest, which may go.
        """
        if cut.relation is None:
            return True
        relation = self.model.graph.relations[cut.relation]
        if not relation.undirected or not len(relation) or relation.weight.max() <= 1:
            return True
        gone = {(min(link), max(link)) for link in cut.links}
        largest = np.flatnonzero(relation.weight == relation.weight.max())
        return any((int(relation.src[at]), int(relation.dst[at])) not in gone for at in largest)

    def scores(self, rows: Sequence[tuple[Int64, Float32]], cuts: Sequence[Cut]) -> Float64:
        """Scores of input rows under cuts, one for one.

        Args:
            rows: n of them, each the columns and the values of ``[x, √w u]``, items before pseudo-items.
            cuts: n, links that are there, for which ``fits`` is true.

        Returns:
            float64 [n, n_items].
        """
        model, n = self.model, self.model.graph.n_items
        b, p = model.item_weights.numpy(), model.diagonal.numpy().astype(np.float64)
        lengths = [columns.size for columns, _ in rows]
        column, value = (np.concatenate([row[side] for row in rows]) for side in (0, 1))
        inputs = Csr.from_pairs(np.repeat(np.arange(len(rows)), lengths), column, (len(rows), len(b)), value)
        scores = rows_times_dense(inputs, b).astype(np.float64)
        changes = {cut: self._change(cut) for cut in dict.fromkeys(cuts) if cut.relation is not None}
        if not changes:
            return scores
        columns = self._changed_columns(changes)  # C of all cuts, side by side
        scaled = (columns * p).astype(np.float32)
        through = -(b @ scaled.T).astype(np.float64)  # P C
        through[:n] += scaled.T
        start = 0
        for cut, (weight, changed, _) in changes.items():
            k = changed.size
            c, pc = columns[start : start + k], through[:, start : start + k]
            start += k
            pe = -b[:, changed].astype(np.float64) * p[changed]
            pe[changed, np.arange(k)] = p[changed]
            pu = np.hstack([pe, pc])
            inner = np.vstack([pu[changed], c @ pu[:n]])
            swap = np.roll(np.arange(2 * k), k)  # M, without dividing by a weight that may be tiny
            solved = weight * np.linalg.solve(np.eye(2 * k) + weight * inner[:, swap], pu[:n].T)[swap]
            diagonal = p - np.einsum("ik,ki->i", pu[:n], solved)
            for at in (at for at, other in enumerate(cuts) if other == cut):
                z = inputs.take(np.array([at]))
                own = np.zeros(n)
                own[z.indices[z.indices < n]] = z.data[z.indices < n]
                zp = p * (own - scores[at]) - (z.data.astype(np.float64) @ pu[z.indices]) @ solved
                scores[at] = own - zp / diagonal
        return scores

    def _change(self, cut: Cut) -> _Change:
        """Rows with what goes taken out, each again of length 1, less the rows as they were."""
        assert cut.relation is not None
        rows, gone = self.rows[cut.relation], dict[int, set[int]]()
        undirected = self.model.graph.relations[cut.relation].undirected
        for item, other in cut.links:
            gone.setdefault(item, set()).add(other)
            if undirected:
                gone.setdefault(other, set()).add(item)
        changed = np.array(sorted(gone), np.int64)
        old = rows.take(changed)
        data = np.empty(old.nnz)
        for place, row in enumerate(changed.tolist()):
            part = slice(old.indptr[place], old.indptr[place + 1])
            values = old.data[part].astype(np.float64)
            left = np.where(np.isin(old.indices[part], list(gone[row])), 0.0, values)
            length = np.sqrt((left**2).sum())
            data[part] = (left / length if length else left) - values
        return _Change(
            self.weights[cut.relation], changed, Csr(old.indptr, old.indices, data.astype(np.float32), old.n_cols)
        )

    def _changed_columns(self, changes: dict[Cut, _Change]) -> Float64:
        """C of every cut, transposed, one below the other: float64 [Σ|S|, n_items]."""
        parts: dict[Cut, Float64] = {}
        for name in {cut.relation for cut in changes}:
            assert name is not None
            mine = [cut for cut in changes if cut.relation == name]
            stacked = _below([changes[cut].difference for cut in mine])
            if name not in self._columns:
                self._columns[name] = self.rows[name].transpose()
            products: Float32 = products_by_row(stacked, self._columns[name])
            start = 0
            for cut in mine:
                _, rows, difference = changes[cut]
                parts[cut] = products[start : start + rows.size].astype(np.float64)
                start += rows.size
                parts[cut][:, rows] += 0.5 * products_by_row(difference, difference.transpose())
        return np.concatenate([parts[cut] for cut in changes])


def _below(parts: Sequence[Csr]) -> Csr:
    """Rows of one matrix below those of another."""
    lengths = np.concatenate([part.degrees() for part in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices, data = (np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "data"))
    return Csr(indptr, indices, data, parts[0].n_cols)
