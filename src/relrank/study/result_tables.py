"""Tables of a study from its finished cells: leaderboard, effects, verdicts, curves, trials, learned values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import polars as pl

from relrank.evaluation.comparison import mean_interval
from relrank.graph.histories import LENGTH_GROUPS
from relrank.graph.relation import Titles
from relrank.study import verdicts as rules
from relrank.study.model_effects import EFFECT_SCHEMA, VERDICT_SCHEMA, ModelEffects
from relrank.study.results_by_arm import ResultsByArm

CURVE_SCHEMA = {
    "model": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "epoch": pl.Int64,
    "loss": pl.Float64,
    "metric": pl.Float64,
}
TUNING_SCHEMA = {
    "model": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "trial": pl.Int64,
    "metric": pl.Float64,
    "config": pl.String,
    "chosen": pl.Boolean,
}
NOTE_SCHEMA = {
    "model": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "note": pl.String,
    "key": pl.String,
    "value": pl.Float64,
    "sd": pl.Float64,
    "count": pl.Int64,
}


def leaderboard(results: ResultsByArm) -> pl.DataFrame:
    """One row per (model, arm), best first; means over seeds, the study's metric with its interval.

    A metric that one of the seeds lacks is null: cells stored by earlier versions may have fewer metrics.
    """
    rows: list[dict[str, Any]] = []
    summaries = [c.evaluation.summary for _, cells in results.items() for c in cells]
    names = dict.fromkeys(name for s in summaries for name in s if name not in ("n_users", results.metric))
    for (model, arm), cells in results.items():
        interval = mean_interval(results.tables(model, arm), results.metric)
        others = {name: sum(c.evaluation.summary.get(name, nan) for c in cells) / len(cells) for name in names}
        rows.append(
            {
                "model": model,
                "arm": arm,
                "n_seeds": interval.n_seeds,
                "n_users": interval.n_users,
                "valid": sum(c.valid_metric for c in cells) / len(cells),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                **others,
                "seconds": sum(c.seconds for c in cells) / len(cells),
                "peak_mb": max(c.cost["peak_mb"] for c in cells),
            }
        )
    ease = max((row["mean"] for row in rows if row["model"] == "ease"), default=None)
    for row in rows:
        row["below_ease"] = ease is not None and row["mean"] < ease - 5e-5  # smaller differences are rounding
    table = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col([*names]).fill_nan(None))
    return table.sort(["mean", "model", "arm"], descending=[True, False, False])


def _not_read(model: str, relation: str, titles: Titles) -> dict[str, Any]:
    """The verdict row of a relation that a model cannot read: no figures."""
    return dict.fromkeys(VERDICT_SCHEMA) | {
        "model": model,
        "relation": relation,
        "verdict": rules.NOT_READ,
        "sentence": f"{titles.get(relation, relation)} is not read by {model}.",
    }


def effects_and_verdicts(
    models: Sequence[ModelEffects],
    relations: Sequence[str],
    planted: Mapping[str, str] | None,
    other_effects: Sequence[dict[str, Any]] = (),
    by_group: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The effects table and the verdict table of every model that uses relations.

    Args:
        models: effects of each.
        relations: of the study; the verdict on one that a model does not read says just that.
        planted: true verdicts, where they are known.
        other_effects: rows of the effects table that belong to no single relation.
        by_group: sentences on groups of users, by model and relation.
    """
    effects = [row for one in models for row in one.rows()] + [*other_effects]
    verdicts: list[dict[str, Any]] = []
    for one in models:
        verdicts += one.verdicts(planted, (by_group or {}).get(one.model))
        verdicts += [_not_read(one.model, r, one.results.titles) for r in relations if r not in one.relations]
    return pl.DataFrame(effects, schema=EFFECT_SCHEMA), pl.DataFrame(verdicts, schema=VERDICT_SCHEMA)


def curves(results: ResultsByArm) -> pl.DataFrame:
    """Learning curves of the trained models."""
    parts = [
        cell.history.select(
            pl.lit(model).alias("model"),
            pl.lit(arm).alias("arm"),
            pl.lit(cell.seed, pl.Int64).alias("seed"),
            "epoch",
            "loss",
            "metric",
        )
        for (model, arm), cells in results.items()
        for cell in cells
        if cell.history is not None
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=CURVE_SCHEMA)


def tuning(results: ResultsByArm) -> pl.DataFrame:
    """Every trial of every cell."""
    rows = []
    for (model, arm), cells in results.items():
        for cell in cells:
            rows += [
                (model, arm, cell.seed, i, t.metric, json.dumps(t.values), i == cell.chosen_trial)
                for i, t in enumerate(cell.trials)
            ]
    return pl.DataFrame(rows, schema=TUNING_SCHEMA, orient="row")


def notes(results: ResultsByArm) -> pl.DataFrame:
    """Learned values of the fitted models (``run_cell.LEARNED_VALUES``), one row per figure."""
    rows = []
    for (model, arm), cells in results.items():
        for cell in cells:
            for label, figures in cell.learned_values.items():
                for key in sorted(figures, key=_order):
                    figure = figures[key] if isinstance(figures[key], dict) else {"mean": figures[key]}
                    values = figure["mean"], figure.get("sd"), figure.get("count")
                    rows.append((model, arm, cell.seed, label, key, *values))
    return pl.DataFrame(rows, schema=NOTE_SCHEMA, orient="row")


def _order(key: str) -> tuple[int, str]:
    """Groups of history length in their order, other keys by name."""
    return LENGTH_GROUPS.index(key) if key in LENGTH_GROUPS else -1, key
