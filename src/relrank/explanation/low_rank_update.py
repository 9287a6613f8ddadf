"""Relational EASE solved again without a few links of its items, by a low-rank change of the inverse.

A relation enters ``G`` as ``w R Rᵀ`` with unit rows R. Removing links changes the rows S of R by ``D = R' − R``, and
the same rows of every relation that is composed over it. So with the columns S of the identity as E

    G' = G + E Cᵀ + C Eᵀ,      C = Σ_r w_r (R_r D_rᵀ + ½ E D_r D_rᵀ),

and for ``U = [E, C]`` Woodbury's identity gives, with ``M = [[0, I], [I, 0]]``,

    P' = P − P U M (I + Uᵀ P U M)⁻¹ Uᵀ P.

A user's scores ``z − z P' / diag(P')`` need only ``z P``, ``diag(P)`` and ``P U`` (n_items × 2|S|), and ``P`` is
``(I − B) diag(P)``: one product of B with a few columns instead of an inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from relrank.explanation.link_update import LinkUpdate
from relrank.graph.edge_removal import EdgeRemoval
from relrank.kernels.csr import Csr, Float32, Float64, Int64
from relrank.kernels.dense_solve import products_by_row, rows_times_dense
from relrank.models.closed_form.relational_ease import RelationalEASE


class _Change(NamedTuple):
    """The rows S that a removal changes, ascending, and by the name of each changed relation D as CSR."""

    rows: Int64
    differences: dict[str, Csr]


class LowRankUpdate(LinkUpdate):
    """Scores of a solved relational EASE as if it had been solved without some links of its items.

    Args:
        model: solved; interactions and relations of users stay as they are.
    """

    def __init__(self, model: RelationalEASE) -> None:
        super().__init__(model.graph, model.active_relations(model.graph.item))
        self.model = model
        self._columns: dict[str, Csr] = {}

    def scores(self, rows: Sequence[tuple[Int64, Float32]], cuts: Sequence[EdgeRemoval]) -> Float64:
        """Scores of input rows, each without the links of one removal.

        Args:
            rows: n, each the columns and the values of ``[x, √w u]``, items before pseudo-items.
            cuts: n removals of existing links, for which ``supports`` is true.

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
        columns = self._changed_columns(changes)  # C of all removals, side by side
        scaled = (columns * p).astype(np.float32)
        through = -(b @ scaled.T).astype(np.float64)  # P C
        through[:n] += scaled.T
        start = 0
        for cut, (changed, _) in changes.items():
            k = changed.size
            c, pc = columns[start : start + k], through[:, start : start + k]
            start += k
            pe = -b[:, changed].astype(np.float64) * p[changed]
            pe[changed, np.arange(k)] = p[changed]
            pu = np.hstack([pe, pc])
            inner = np.vstack([pu[changed], c @ pu[:n]])
            swap = np.roll(np.arange(2 * k), k)  # M
            solved = np.linalg.solve(np.eye(2 * k) + inner[:, swap], pu[:n].T)[swap]
            diagonal = p - np.einsum("ik,ki->i", pu[:n], solved)
            for at in (at for at, other in enumerate(cuts) if other == cut):
                z = inputs.take(np.array([at]))
                own = np.zeros(n)
                own[z.indices[z.indices < n]] = z.data[z.indices < n]
                zp = p * (own - scores[at]) - (z.data.astype(np.float64) @ pu[z.indices]) @ solved
                scores[at] = own - zp / diagonal
        return scores

    def _change(self, cut: EdgeRemoval) -> _Change:
        """Differences between unit rows without the removed links and with them."""
        items = self._without.items(cut)
        fresh = self._without.rows(cut, items)
        return _Change(items, {name: _difference(rows, self.rows[name].take(items)) for name, rows in fresh.items()})

    def _changed_columns(self, changes: dict[EdgeRemoval, _Change]) -> Float64:
        """C of every removal, transposed and stacked: float64 [Σ|S|, n_items]."""
        parts = {cut: np.zeros((change.rows.size, self.model.graph.n_items)) for cut, change in changes.items()}
        for name in {name for change in changes.values() for name in change.differences}:
            affecting = [cut for cut in changes if name in changes[cut].differences]
            stacked = _stacked([changes[cut].differences[name] for cut in affecting])
            if name not in self._columns:
                self._columns[name] = self.rows[name].transpose()
            products: Float32 = products_by_row(stacked, self._columns[name])
            start, weight = 0, self.weights[name]
            for cut in affecting:
                rows, difference = changes[cut].rows, changes[cut].differences[name]
                parts[cut] += weight * products[start : start + rows.size].astype(np.float64)
                start += rows.size
                parts[cut][:, rows] += 0.5 * weight * products_by_row(difference, difference.transpose())
        return np.concatenate([parts[cut] for cut in changes])


def _difference(new: Csr, old: Csr) -> Csr:
    """``new − old``, where ``new`` has no entry that ``old`` lacks."""
    data = -old.data.astype(np.float64)
    positions = old.rows().astype(np.int64) * old.n_cols + old.indices
    data[np.searchsorted(positions, new.rows().astype(np.int64) * new.n_cols + new.indices)] += new.data
    return Csr(old.indptr, old.indices, data.astype(np.float32), old.n_cols)


def _stacked(parts: Sequence[Csr]) -> Csr:
    """Matrices one below the other."""
    lengths = np.concatenate([part.degrees() for part in parts])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices, data = (np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "data"))
    return Csr(indptr, indices, data, parts[0].n_cols)
