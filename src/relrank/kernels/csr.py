"""Sparse matrices by compressed rows (CSR), with int32 columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relrank.kernels.counting_sort import (
    ascending,
    contains_pairs,
    repeats,
    stable_argsort_pairs,
    starts,
    transpose_edges,
)

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def concat_ranges(starts: Int64, lengths: Int64) -> tuple[Int64, Int64]:
    """Pieces of an array, concatenated.

    Args:
        starts: of each piece, [n].
        lengths: of each piece, [n].

    Returns:
        int64 [n + 1], where each piece starts in the result; int64 [sum of lengths], where every entry came from.
    """
    indptr = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr, np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Csr:
    """A sparse matrix by rows; columns ascend inside a row and occur once.

    Attributes:
        indptr: int64 [n_rows + 1], where each row starts.
        indices: int32 [nnz], columns.
        data: float32 [nnz], values; all ones for a plain set of pairs.
        n_cols: number of columns.
    """

    indptr: Int64
    indices: Int32
    data: Float32
    n_cols: int

    @classmethod
    def from_pairs(
        cls,
        rows: npt.NDArray[np.integer],
        cols: npt.NDArray[np.integer],
        shape: tuple[int, int],
        data: npt.NDArray[np.floating] | None = None,
    ) -> Csr:
        """Sort pairs into rows; pairs that are sorted already share their memory with the matrix.

        Raises:
            ValueError: a pair occurs twice, or lies outside the shape.
        """
        for side, n in zip((rows, cols), shape, strict=True):
            if side.size and not 0 <= side.min() <= side.max() < n:
                raise ValueError(f"pairs of {side.min()} to {side.max()} in a matrix of {shape[0]} x {shape[1]}")
        at, indices = (np.ascontiguousarray(side, np.int32) for side in (rows, cols))
        values = None if data is None else np.ascontiguousarray(data, np.float32)
        if not ascending(at, indices):
            order = stable_argsort_pairs(at, indices, shape)
            indices, values = indices[order], None if values is None else values[order]
        indptr = starts(at, shape[0])
        if twice := repeats(indptr, indices):
            raise ValueError(f"{twice} duplicate (row, column) pairs")
        return cls(indptr, indices, np.ones(indices.size, np.float32) if values is None else values, shape[1])

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.indptr.size - 1

    @property
    def arrays(self) -> tuple[Int64, Int32, Float32]:
        """``indptr``, ``indices`` and ``data``, as kernels take them."""
        return self.indptr, self.indices, self.data

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return self.indices.size

    def degrees(self) -> Int64:
        """Stored values per row, int64 [n_rows]."""
        return np.diff(self.indptr)

    def rows(self) -> Int32:
        """The row of every stored value, int32 [nnz]."""
        return np.repeat(np.arange(self.n_rows, dtype=np.int32), self.degrees())

    def contains_pairs(self, rows: Int32, cols: Int32) -> npt.NDArray[np.bool_]:
        """Which of these pairs are stored, bool [n]; all must lie inside the matrix."""
        stored: npt.NDArray[np.bool_] = contains_pairs(self.indptr, self.indices, rows, cols)
        return stored

    def take(self, rows: npt.NDArray[np.integer]) -> Csr:
        """The given rows, in the given order."""
        starts = self.indptr[rows]
        indptr, at = concat_ranges(starts, self.indptr[np.add(rows, 1)] - starts)  # not degrees(): few of many rows
        return Csr(indptr, self.indices[at], self.data[at], self.n_cols)

    def shares(self) -> Csr:
        """The same entries divided by the sum of their row; empty rows stay empty."""
        rows = self.rows()
        sums = np.bincount(rows, weights=self.data, minlength=self.n_rows)
        return Csr(self.indptr, self.indices, (self.data / sums[rows]).astype(np.float32), self.n_cols)

    def transpose(self) -> Csr:
        """Rows become columns; duplicate entries stay separate."""
        indptr, rows, data = transpose_edges(*self.arrays, self.n_cols)
        return Csr(indptr, rows, data, self.n_rows)
