"""From training rows to the weighted interactions of a graph."""

from __future__ import annotations

import numpy as np

from relrank.errors import InputError
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.graph.relation import Relation
from relrank.kernels.csr import Float64, Int32
from relrank.tables.split import Interactions, Split

DAY = 86_400
"""Seconds."""
LEAST = 1e-6
"""Smallest weight unless a floor is given, because weights must be positive."""


def build_interactions(
    user: str, item: str, rows: Interactions, config: InteractionWeights | None = None
) -> Relation:
    """The relation ``interactions``, user → item.

    Args:
        user: node type of the users.
        item: node type of the items.
        rows: training rows only; decay is counted from the latest of them.
        config: weights of the rows; 1 when None.

    Raises:
        InputError: the weight needs ratings or times that rows do not have; a rating is missing, 0 or negative.
    """
    return Relation.of(
        "interactions", user, item, rows.user, rows.item, _weights(rows, config or InteractionWeights())
    )


def history_positions(rows: Interactions) -> Int32:
    """Position of each row in its user's history, from 0, in the order of the edges of ``build_interactions``.

    Args:
        rows: training rows, in time order for each user.
    """
    by_user = np.argsort(rows.user, kind="stable")
    user = rows.user[by_user]
    starts = np.searchsorted(user, user, "left")
    places = np.empty(len(rows), np.int32)
    places[by_user] = np.arange(len(rows)) - starts
    return places[np.lexsort((rows.item, rows.user))]


def events_of(split: Split) -> Int32 | None:
    """``Graph.events`` for the training rows of a split; None if no interaction is repeated.

    Args:
        split: its ``repeats`` are training rows, each at least once, in time order for each user.
    """
    if split.repeats is None or not split.ordered:
        return None
    edges = split.train.csr(*split.shape)  # in the order of the edges
    pairs = edges.rows().astype(np.int64) * edges.n_cols + edges.indices
    by_user = split.repeats.take(np.argsort(split.repeats.user, kind="stable"))
    return np.searchsorted(pairs, by_user.user.astype(np.int64) * edges.n_cols + by_user.item).astype(np.int32)


def _weights(rows: Interactions, config: InteractionWeights) -> Float64 | None:
    """Weights in the order of the rows; None for ones."""
    match config.weight:
        case "one":
            return None
        case "rating":
            if rows.rating is None:
                raise _absent("rating", rows)
            given = rows.rating.astype(np.float64)
            largest = np.nanmax(given, initial=0)
            poor = ~(given > 0) if config.floor is None or not largest else np.isnan(given)
            if poor.any():
                raise InputError(
                    "rating cannot be a weight",
                    where="[interactions] weight",
                    expected="ratings above 0, or a floor",
                    found=f"{given[poor][0]:g}; {int(poor.sum()):,} such rows",
                )
            share: Float64 = (np.maximum(given, 0) / (largest or 1)) ** (config.power or 1)
            return np.maximum(share, config.floor or LEAST)
        case "count":
            if rows.count is None:
                raise InputError(
                    "interactions are not counted",
                    where="[interactions] weight",
                    found="each (user, item) once",
                    expected='duplicates = "keep" in [data.interactions], or another weight',
                )
            often: Float64 = (rows.count / max(rows.count.max(initial=1), 1)) ** (config.power or 1)
            return np.maximum(often, config.floor or LEAST)
        case "decay":
            if rows.time is None:
                raise _absent("time", rows)
            assert config.half_life is not None
            if not rows.ticks:
                raise InputError(
                    "times have no unit, so that nothing has an age",
                    where="[interactions] weight",
                    expected='dates, or numbers since 1970 with time_unit in [data.interactions]; or weight = "one"',
                    found=f"numbers from {rows.time.min(initial=0)} to {rows.time.max(initial=0)}",
                )
            latest = rows.time.max() if rows.time.size else 0
            age = (latest - rows.time) / (config.half_life * DAY * rows.ticks)
            decayed: Float64 = np.maximum(np.exp2(-age), config.floor or LEAST)
            return decayed


def _absent(column: str, rows: Interactions) -> InputError:
    return InputError(
        f"interactions have no {column}",
        where="[interactions] weight",
        expected=f'a {column} column, or weight = "one"',
        found=f"{len(rows):,} training rows without",
    )
