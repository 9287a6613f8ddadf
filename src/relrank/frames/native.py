"""Results as frames of the library that the user came with."""

from __future__ import annotations

from typing import Any, Literal

import narwhals as nw
import polars as pl

Library = Literal["polars", "pandas", "pyarrow", "modin", "cudf"]
WITHOUT_ARROW = ("pandas", "modin")
"""Libraries to which frames are passed column by column, so that pyarrow is not needed."""


def to_library(frame: pl.DataFrame, library: Library) -> Any:
    """A polars frame as one of another library."""
    if library == "polars":
        return frame.clone()  # whoever edits it in place does not edit the result
    if library in WITHOUT_ARROW:
        columns = {name: frame[name].to_list() for name in frame.columns}
        return nw.from_dict(columns, _schema(frame), backend=library).to_native()
    if library == "pyarrow":
        return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    return nw.from_arrow(frame, backend=library).to_native()


def _schema(frame: pl.DataFrame) -> dict[str, Any] | None:
    """Types of the columns for narwhals; None for a column whose type the other library infers."""
    types = nw.from_native(frame).schema
    plain = {
        name: dtype if not frame[name].null_count() and _is_plain(frame[name].dtype) else None
        for name, dtype in types.items()
    }
    return plain


def _is_plain(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.String)
