"""Effects of relations on other metrics than the study's: accuracy, and properties of the recommended lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from relrank.evaluation.comparison import compare
from relrank.evaluation.evaluate import LIST_METRICS
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study.number_format import interval, signed
from relrank.study.results_by_arm import ResultsByArm

LIST_SCHEMA = {
    **dict.fromkeys(("model", "relation", "kind", "other", "measure"), pl.String),
    **dict.fromkeys(("mean", "low", "high"), pl.Float64),
    **dict.fromkeys(("n_users", "n_seeds"), pl.Int64),
}


ACCURACY = ("hit", "recall", "precision", "ndcg", "map", "mrr")
"""Metrics of accuracy, by the name before the ``@``."""


def list_effects(results: ResultsByArm, effects: pl.DataFrame) -> pl.DataFrame:
    """The gain, drop and alone effects and the differences to the rival, for every metric of lists.

    Users without a value on one side are left out of a pair; a metric that one of the cells lacks has no row. See
    ``StudyResult.list_effects`` for the rows.
    """
    return _differences(results, effects, lambda name: name.partition("@")[0] in LIST_METRICS)


def metric_effects(results: ResultsByArm, effects: pl.DataFrame) -> pl.DataFrame:
    """Likewise for all accuracy metrics except the study's own. See ``StudyResult.metric_effects`` for the rows."""
    return _differences(results, effects, lambda name: name.partition("@")[0] in ACCURACY and name != results.metric)


def contradicting_effects(verdicts: pl.DataFrame, effects: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``metric_effects`` whose interval contradicts the sign of a claimed verdict.

    "helps" and "hurts" are compared with the drop effect, "interchangeable" with the alone effect. One row per
    verdict: the metric with the most certain contradiction.
    """
    rows: list[dict[str, Any]] = []
    if verdicts.is_empty():
        return rows
    for row in verdicts.filter(pl.col("verdict").is_in(["helps", "hurts", "interchangeable"])).iter_rows(named=True):
        kind = "alone" if row["verdict"] == "interchangeable" else "drop"
        sign = -1 if row["verdict"] == "hurts" else 1
        others = [
            e | {"verdict": row["verdict"]}
            for e in effects.iter_rows(named=True)
            if (e["model"], e["relation"], e["kind"]) == (row["model"], row["relation"], kind)
            and (e["high"] < 0 if sign > 0 else e["low"] > 0)
        ]
        if others:
            rows.append(max(others, key=lambda e: abs(e["mean"]) / (e["high"] - e["low"] or 1.0)))
    return rows


def in_words(row: Mapping[str, Any], metric: str, titles: Titles = NO_TITLES, decimals: int = 4) -> str:
    """A row of ``contradicting_effects`` as a clause; ``metric`` is the study's."""
    name = titles.get(row["relation"], row["relation"])
    verdict = {"helps": f"helps {metric}", "hurts": f"hurts {metric}", "interchangeable": f"alone adds to {metric}"}
    but = "adds to" if row["mean"] > 0 else "costs"
    figures = f"{signed(row['mean'], decimals)} ({interval(row['low'], row['high'], decimals)})"
    return f"{name} {verdict[row['verdict']]} with {row['model']}, but {but} {row['measure']}: {figures}"


def _differences(results: ResultsByArm, effects: pl.DataFrame, is_wanted: Callable[[str], bool]) -> pl.DataFrame:
    """Paired differences in the wanted metrics, between the arms of the effects."""
    rows: list[dict[str, Any]] = []
    for names, sides in results.compared_tables(effects):
        for measure in filter(is_wanted, sides[0][0].columns):
            pairs = _pairs(*sides, measure)
            if pairs:
                a, b = zip(*pairs, strict=True)
                e = compare(a, b, measure)
                figures = {"mean": e.mean, "low": e.low, "high": e.high, "n_users": e.n_users, "n_seeds": e.n_seeds}
                rows.append({**names, "measure": measure, **figures})
    return pl.DataFrame(rows, schema=LIST_SCHEMA)


def _pairs(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], measure: str) -> list[tuple[pl.DataFrame, ...]]:
    """Pairs of tables, by seed, of the users with a value on both sides; seeds without such users are left out.

    Empty if a cell lacks the metric.
    """
    if any(measure not in table.columns for table in (*a, *b)):
        return []
    measured = [[table.filter(pl.col(measure).is_not_null()) for table in side] for side in (a, b)]
    pairs = [
        (x.join(y, on="user", how="semi"), y.join(x, on="user", how="semi")) for x, y in zip(*measured, strict=True)
    ]
    return [pair for pair in pairs if len(pair[0])]
