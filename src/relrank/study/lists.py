"""What relations change in the lists beyond accuracy: paired differences of what is measured of every user's list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from relrank.comparison import compare
from relrank.evaluation import OF_LISTS
from relrank.study.effects import Found

LIST_SCHEMA = {
    "model": pl.String, "relation": pl.String, "kind": pl.String, "other": pl.String, "measure": pl.String,
    "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n_users": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip


def list_effects(found: Found, effects: pl.DataFrame) -> pl.DataFrame:
    """The gain, the drop and alone effects and the differences to the rival, of every measure of lists.

    A user without a value in one of two lists is left out of that pair; a measure that one of the cells was stored
    without has no row. See ``StudyResult.list_effects`` for the rows.
    """
    rows: list[dict[str, Any]] = []
    for effect in effects.filter(pl.col("kind").is_in(["gain", "drop", "alone", "versus"])).iter_rows(named=True):
        model, other = effect["model"], effect["other"]  # other: the rival
        sides = found.tables(model, effect["arm_a"]), found.tables(other or model, effect["arm_b"])
        for measure in (n for n in sides[0][0].columns if n.partition("@")[0] in OF_LISTS):
            pairs = _pairs(*sides, measure)
            if pairs:
                a, b = zip(*pairs, strict=True)
                e = compare(a, b, measure)
                row = {"model": model, "relation": effect["relation"], "kind": effect["kind"], "other": other}
                row |= {"measure": measure, "mean": e.mean, "low": e.low, "high": e.high}
                rows.append({**row, "n_users": e.n_users, "n_seeds": e.n_seeds})
    return pl.DataFrame(rows, schema=LIST_SCHEMA)


def _pairs(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], measure: str) -> list[tuple[pl.DataFrame, ...]]:
    """Tables by seed, of the users who have a value on both sides; seeds without such a user are left out.

    None where a cell was stored without the measure.
    """
    if any(measure not in table.columns for table in (*a, *b)):
        return []
    known = [[table.filter(pl.col(measure).is_not_null()) for table in side] for side in (a, b)]
    pairs = [
        (x.join(y, on="user", how="semi"), y.join(x, on="user", how="semi")) for x, y in zip(*known, strict=True)
    ]
    return [pair for pair in pairs if len(pair[0])]
