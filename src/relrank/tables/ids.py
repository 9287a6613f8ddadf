"""Conversion between outside keys and row indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.errors import InputError
from relrank.kernels.csr import Int32

_BLOCK = 1 << 22
"""Keys per join, which bounds its memory."""


class IdMap:
    """The keys of a node type in row order: row ``i`` has the key ``keys[i]``.

    Args:
        name: the node type, for messages.
        keys: unique keys in row order, without nulls.

    Raises:
        InputError: a key is null or occurs twice.
    """

    def __init__(self, name: str, keys: pl.Series) -> None:
        if keys.null_count():
            raise InputError(
                "key is missing",
                where=f"node type {name!r}",
                expected="a key in every row",
                found=f"{keys.null_count()} empty",
            )
        if keys.n_unique() != len(keys):
            twice = keys.filter(keys.is_duplicated())[0]
            raise InputError(
                "key occurs twice", where=f"node type {name!r}", expected="unique keys", found=f"{twice!r}"
            )
        self.name = name
        self.keys = keys.rename("key")
        self._frame = pl.DataFrame({"key": self.keys, "row": np.arange(len(keys), dtype=np.int32)})

    @classmethod
    def of(cls, name: str, values: pl.Series) -> IdMap:
        """The distinct non-null values in ascending order."""
        return cls(name, values.drop_nulls().unique().sort())

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"IdMap({self.name!r}, {len(self):,} keys)"

    def find(self, keys: pl.Series) -> Int32:
        """Rows of keys, int32; −1 for unknown keys. Keys of different types are never equal."""
        if keys.dtype != self.keys.dtype:
            if keys.dtype.is_integer() and self.keys.dtype.is_integer():
                keys = keys.cast(self.keys.dtype, strict=False)
            else:
                return np.full(len(keys), -1, np.int32)
        rows = np.empty(len(keys), np.int32)
        for start in range(0, len(keys), _BLOCK):
            left = keys.slice(start, _BLOCK).rename("key").to_frame()
            joined = left.join(self._frame, on="key", how="left", maintain_order="left")["row"]
            rows[start : start + _BLOCK] = joined.fill_null(-1).to_numpy()
        return rows

    def rows(self, keys: pl.Series, where: str) -> Int32:
        """Rows of keys, int32 [len(keys)].

        Raises:
            InputError: a key is unknown; the message names the first one and counts them.
        """
        rows = self.find(keys)
        missing = rows < 0
        if missing.any():
            first = keys[int(missing.argmax())]
            raise InputError(
                "unknown key",
                where=where,
                expected=f"{self.name} key ({self.keys.dtype}, {len(self):,} known), such as {self.keys[0]!r}",
                found=f"{first!r} ({keys.dtype}); {int(missing.sum()):,} unknown in all",
            )
        return rows

    def at(self, rows: npt.NDArray[np.integer]) -> pl.Series:
        """Keys of rows."""
        return self.keys.gather(rows)
