"""What relations change beside the study's metric: in other metrics of accuracy, and in what is measured of lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from relrank.evaluation.comparison import compare
from relrank.evaluation.evaluate import LIST_METRICS
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study.cell_results import CellResults
from relrank.study.figures import interval, signed

LIST_SCHEMA = {
    "model": pl.String,
    "relation": pl.String,
    "kind": pl.String,
    "other": pl.String,
    "measure": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_users": pl.Int64,
    "n_seeds": pl.Int64,
}


ACCURACY = ("hit", "recall", "precision", "ndcg", "map", "mrr")
"""Metrics of accuracy, by the name before the ``@``."""


def list_effects(found: CellResults, effects: pl.DataFrame) -> pl.DataFrame:
    """The gain, the drop and alone effects and the differences to the rival, of every measure of lists.

    A user without a value in one of two lists is left out of that pair; a measure that one of the cells was stored
    without has no row. See ``StudyResult.list_effects`` for the rows.
    """
    return _differences(found, effects, lambda name: name.partition("@")[0] in LIST_METRICS)


def metric_effects(found: CellResults, effects: pl.DataFrame) -> pl.DataFrame:
    """Likewise of every metric of accuracy but the study's own. See ``StudyResult.metric_effects`` for the rows."""
    return _differences(found, effects, lambda name: name.partition("@")[0] in ACCURACY and name != found.metric)


def contradicting_effects(verdicts: pl.DataFrame, effects: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``metric_effects`` whose interval lies on the other side of 0 than a claimed verdict says.

    "helps" and "hurts" are held against what a relation adds after tuning again, "interchangeable" against what it
    adds alone. One row per verdict: the metric that is the most certain.
    """
    found: list[dict[str, Any]] = []
    if verdicts.is_empty():
        return found
    for row in verdicts.filter(pl.col("verdict").is_in(["helps", "hurts", "interchangeable"])).iter_rows(named=True):
        of = {"model": row["model"], "relation": row["relation"]}
        kind = "alone" if row["verdict"] == "interchangeable" else "drop"
        sign = -1 if row["verdict"] == "hurts" else 1
        others = [
            e | {"verdict": row["verdict"]}
            for e in effects.iter_rows(named=True)
            if e["model"] == of["model"]
            and e["relation"] == of["relation"]
            and e["kind"] == kind
            and (e["high"] < 0 if sign > 0 else e["low"] > 0)
        ]
        if others:
            found.append(max(others, key=lambda e: abs(e["mean"]) / (e["high"] - e["low"] or 1.0)))
    return found


def in_words(row: Mapping[str, Any], metric: str, titles: Titles = NO_TITLES, decimals: int = 4) -> str:
    """A row of ``contradicting_effects`` as a clause; ``metric``: the study's."""
    name = titles.get(row["relation"], row["relation"])
    said = {"helps": f"helps {metric}", "hurts": f"hurts {metric}", "interchangeable": f"alone adds to {metric}"}
    but = "adds to" if row["mean"] > 0 else "costs"
    figures = f"{signed(row['mean'], decimals)} ({interval(row['low'], row['high'], decimals)})"
    return f"{name} {said[row['verdict']]} with {row['model']}, but {but} {row['measure']}: {figures}"


def _differences(found: CellResults, effects: pl.DataFrame, wanted: Callable[[str], bool]) -> pl.DataFrame:
    """Paired differences of the measures that are wanted, of the arms that were compared."""
    rows: list[dict[str, Any]] = []
    for effect in effects.filter(pl.col("kind").is_in(["gain", "drop", "alone", "versus"])).iter_rows(named=True):
        model, other = effect["model"], effect["other"]  # other: the rival
        sides = found.tables(model, effect["arm_a"]), found.tables(other or model, effect["arm_b"])
        for measure in filter(wanted, sides[0][0].columns):
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
