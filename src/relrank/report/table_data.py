"""Tables as plain data inside the page: what its buttons copy and save is what the study stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

DERIVED = ("significant", "scale")
"""Keys that the page adds to stored rows."""


def table_data(rows: Sequence[Mapping[str, Any]], columns: str | None = None) -> dict[str, list[Any]]:
    """Rows as columns and cells, without rounding; NaN and infinity become null.

    Args:
        rows: by column.
        columns: names separated by spaces; by default all keys of plain values.
    """
    names = (
        columns.split()
        if columns
        else list(dict.fromkeys(n for row in rows for n, value in row.items() if not isinstance(value, Mapping)))
    )
    names = [name for name in names if name not in DERIVED]
    return {"columns": names, "rows": [[_cell(row.get(name)) for name in names] for row in rows]}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
