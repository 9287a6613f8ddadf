"""Features of the nodes of one type: dense or sparse rows, and which nodes have a value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from relrank.kernels.csr import Csr, Float32


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Feature:
    """Values of the nodes of one type: one dense or sparse row each. ``known`` distinguishes missing from zero.

    Attributes:
        name: e.g. ``"year"``.
        node: the node type.
        known: bool [n], False where the value is missing; such a row is zero or empty.
        dense: float32 [n, d], mean 0 over the known rows; None for a sparse feature.
        sparse: n rows of positive float32 values, usually ones; None for a dense feature.

    Raises:
        ValueError: an array breaks these conditions.
    """

    name: str
    node: str
    known: npt.NDArray[np.bool_]
    dense: Float32 | None = None
    sparse: Csr | None = None

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}: "
        if self.known.dtype != np.bool_ or self.known.ndim != 1:
            raise ValueError(where + "known must be bool [n]")
        if (self.dense is None) == (self.sparse is None):
            raise ValueError(where + "either dense or sparse")
        if self.dense is not None:
            if self.dense.dtype != np.float32 or self.dense.ndim != 2 or len(self.dense) != len(self):
                raise ValueError(where + "dense must be float32 [n, d]")
            values, filled = self.dense, self.dense.any(axis=1)
        else:
            values, filled = self._checked_sparse(where)
        if not np.isfinite(values).all():
            raise ValueError(where + "values must be finite")
        if (filled & ~self.known).any():
            raise ValueError(where + "a missing row must be zero, or empty")

    def _checked_sparse(self, where: str) -> tuple[Float32, npt.NDArray[np.bool_]]:
        """Values of ``sparse``, and which rows are not empty."""
        assert self.sparse is not None
        s = self.sparse
        if s.indptr.dtype != np.int64 or s.indices.dtype != np.int32 or s.data.dtype != np.float32:
            raise ValueError(where + "sparse must be int64, int32, float32")
        if s.n_rows != len(self) or (s.indptr[0], s.indptr[-1]) != (0, s.nnz) or s.data.shape != s.indices.shape:
            raise ValueError(where + "sparse must have n rows")
        lengths = s.degrees()
        if (lengths < 0).any() or (s.nnz and not 0 <= s.indices.min() <= s.indices.max() < s.n_cols):
            raise ValueError(where + "rows or columns of sparse are out of range")
        if ((np.diff(s.indices) <= 0) & (np.diff(s.rows()) == 0)).any():
            raise ValueError(where + "columns of sparse must ascend inside a row and occur once")
        if not (s.data > 0).all():
            raise ValueError(where + "values of sparse must be positive")
        return s.data, lengths > 0

    def __len__(self) -> int:
        return self.known.size

    @property
    def dims(self) -> int:
        """Number of columns."""
        return int(self.dense.shape[1]) if self.sparse is None else self.sparse.n_cols  # type: ignore[union-attr]

    def sha256(self) -> str:
        """Hash of name, type and values; computed once per feature."""
        if self not in _SHA256:
            digest = hashlib.sha256(repr((self.name, self.node, len(self), self.dims)).encode())
            digest.update(self.known.tobytes())
            if self.dense is not None:
                digest.update(b"dense" + self.dense.tobytes())
            if self.sparse is not None:
                for array in (self.sparse.indptr, self.sparse.indices, self.sparse.data):
                    digest.update(b"sparse" + array.tobytes())
            _SHA256[self] = digest.hexdigest()
        return _SHA256[self]


_SHA256: WeakKeyDictionary[Feature, str] = WeakKeyDictionary()
