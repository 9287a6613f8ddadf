"""From training rows to the interactions of a graph: what each one weighs."""

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
"""A weight is at least this, unless a floor is stated: an edge of weight 0 is none."""


def build_interactions(
    user: str, item: str, rows: Interactions, config: InteractionWeights | None = None
) -> Relation:
    """The relation ``interactions``, user → item.

    Args:
        user: node type that chooses.
        item: node type that is chosen.
        rows: training rows, the only ones that an edge, or the moment that decay is counted from, may come from.
        config: what a row weighs; 1 when None.

    Raises:
        InputError: rows have no rating or time, and the weight is made of it; a rating is missing, 0 or negative.
    """
    return Relation.of(
        "interactions", user, item, rows.user, rows.item, _weights(rows, config or InteractionWeights())
    )


def history_positions(rows: Interactions) -> Int32:
    """Place of each row in its user's history, 0 first, in the order of the edges that ``build_interactions`` makes.

    Args:
        rows: training rows, those of one user in time order.
    """
    by_user = np.argsort(rows.user, kind="stable")
    user = rows.user[by_user]
    starts = np.searchsorted(user, user, "left")
    places = np.empty(len(rows), np.int32)
    places[by_user] = np.arange(len(rows)) - starts
    return places[np.lexsort((rows.item, rows.user))]


def events_of(split: Split) -> Int32 | None:
    """``Graph.events`` of the interactions that a split's training rows make; None where each happened once.

    Args:
        split: whose ``repeats`` are training rows, each at least once, those of a user in time order.
    """
    if split.repeats is None or not split.ordered:
        return None
    edges = split.train.csr(*split.shape)  # in the order of the edges
    pairs = edges.rows().astype(np.int64) * edges.n_cols + edges.indices
    by_user = split.repeats.take(np.argsort(split.repeats.user, kind="stable"))
    return np.searchsorted(pairs, by_user.user.astype(np.int64) * edges.n_cols + by_user.item).astype(np.int32)


def _weights(rows: Interactions, config: InteractionWeights) -> Float64 | None:
    """Weights in the order of the rows, or None for all ones."""
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
