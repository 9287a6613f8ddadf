"""From finished cells to the tables of a study: leaderboard, effects, verdicts, curves, trials, notes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import polars as pl

from relrank.evaluation.comparison import mean_interval
from relrank.graph.relation import Titles
from relrank.graph.sequences import LENGTH_GROUPS
from relrank.study import verdicts as rules
from relrank.study.cell_results import CellResults
from relrank.study.model_effects import EFFECT_SCHEMA, VERDICT_SCHEMA, ModelEffects

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


def leaderboard(found: CellResults) -> pl.DataFrame:
    """One row per (model, arm), best first; means over seeds, the study's metric with its interval.

    A figure that one of the seeds has no value of is null: cells that were stored earlier may know fewer of them.
    """
    rows: list[dict[str, Any]] = []
    summaries = [c.evaluation.summary for _, cells in found.items() for c in cells]
    names = dict.fromkeys(name for s in summaries for name in s if name not in ("n_users", found.metric))
    for (model, arm), cells in found.items():
        interval = mean_interval(found.tables(model, arm), found.metric)
        others = {name: sum(c.evaluation.summary.get(name, nan) for c in cells) / len(cells) for name in names}
        rows.append(
            {
                "model": model,
                "arm": arm,
                "n_seeds": interval.n_seeds,
                "n_users": interval.n_users,
                "valid": sum(c.valid for c in cells) / len(cells),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                **others,
                "seconds": sum(c.cost["tune"] + c.cost["fit"] + c.cost["evaluate"] for c in cells) / len(cells),
                "peak_mb": max(c.cost["peak_mb"] for c in cells),
            }
        )
    ease = max((row["mean"] for row in rows if row["model"] == "ease"), default=None)
    for row in rows:
        row["below_ease"] = ease is not None and row["mean"] < ease - 5e-5  # less is rounding
    table = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col([*names]).fill_nan(None))
    return table.sort(["mean", "model", "arm"], descending=[True, False, False])


def _not_read(model: str, relation: str, titles: Titles) -> dict[str, Any]:
    """The row of a relation that a model cannot read: no figures."""
    return dict.fromkeys(VERDICT_SCHEMA) | {
        "model": model,
        "relation": relation,
        "verdict": rules.NOT_READ,
        "sentence": f"{titles.get(relation, relation)} is not read by {model}.",
    }


def effects_and_verdicts(
    judges: Sequence[ModelEffects],
    relations: Sequence[str],
    planted: Mapping[str, str] | None,
    more: Sequence[dict[str, Any]] = (),
    whom: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The effects table and the verdict table of every model that uses relations.

    Of a relation that a model does not read nothing is said but that. ``more``: rows of the effects table that are of
    no single relation. ``whom``: what is said of groups of users, by model and relation.
    """
    effects = [row for one in judges for row in one.rows()] + [*more]
    said: list[dict[str, Any]] = []
    for one in judges:
        said += one.verdicts(planted, (whom or {}).get(one.model))
        said += [_not_read(one.model, name, one.found.titles) for name in relations if name not in one.relations]
    return pl.DataFrame(effects, schema=EFFECT_SCHEMA), pl.DataFrame(said, schema=VERDICT_SCHEMA)


def curves(found: CellResults) -> pl.DataFrame:
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
        for (model, arm), cells in found.items()
        for cell in cells
        if cell.history is not None
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=CURVE_SCHEMA)


def tuning(found: CellResults) -> pl.DataFrame:
    """Every trial of every cell."""
    rows = []
    for (model, arm), cells in found.items():
        for cell in cells:
            rows += [
                (model, arm, cell.seed, i, t.metric, json.dumps(t.values), i == cell.chosen_trial)
                for i, t in enumerate(cell.trials)
            ]
    return pl.DataFrame(rows, schema=TUNING_SCHEMA, orient="row")


def notes(found: CellResults) -> pl.DataFrame:
    """What the fitted models say of themselves (``cells.NOTES``), one row per figure."""
    rows = []
    for (model, arm), cells in found.items():
        for cell in cells:
            for note, figures in cell.note.items():
                for key in sorted(figures, key=_place):
                    of = figures[key]
                    of = of if isinstance(of, dict) else {"mean": of}
                    rows.append((model, arm, cell.seed, note, key, of["mean"], of.get("sd"), of.get("count")))
    return pl.DataFrame(rows, schema=NOTE_SCHEMA, orient="row")


def _place(key: str) -> tuple[int, str]:
    """Lengths of histories in order, other keys by name."""
    return LENGTH_GROUPS.index(key) if key in LENGTH_GROUPS else -1, key
