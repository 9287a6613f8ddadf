"""Effects and metrics of a study within groups of users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import polars as pl
from scipy.special import stdtr

from relrank.evaluation.comparison import compare, holm
from relrank.evaluation.evaluate import HISTORY_LENGTH, ITEM_POPULARITY, group_labels
from relrank.kernels.csr import Float64
from relrank.study.model_effects import ModelEffects
from relrank.study.number_format import signed
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.verdicts import ALPHA

ALL_USERS = "all users"
"""Group and label of the rows with all users."""

FEWEST = 30
"""Groups with fewer users are not compared."""

GROUP_SCHEMA = {
    **dict.fromkeys(("model", "relation", "kind", "other", "group", "label"), pl.String),
    "order": pl.Int64,
    **dict.fromkeys(("mean", "low", "high"), pl.Float64),
    "n_users": pl.Int64,
}
METRIC_SCHEMA = {
    **dict.fromkeys(("model", "arm", "group", "label"), pl.String),
    **dict.fromkeys(("order", "n_users"), pl.Int64),
}
"""Columns before the metrics, which depend on the study's cutoffs."""


def group_effects(results: ResultsByArm, effects: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The gain, drop and alone effects and the differences to the rival, within every group of users.

    ``columns`` are group columns in addition to history length and item popularity. See ``StudyResult.groups`` for
    the rows.
    """
    rows: list[dict[str, Any]] = []
    for names, sides in results.compared_tables(effects):
        for column in (HISTORY_LENGTH, ITEM_POPULARITY, *columns):
            for order, (label, masks) in enumerate(_cut(sides[0], column)):
                filled = [i for i, mask in enumerate(masks) if mask.any()]
                a, b = ([side[i].filter(masks[i]) for i in filled] for side in sides)
                e = compare(a, b, results.metric)
                group = {"group": column, "label": label, "order": order}
                rows.append({**names, **group, "mean": e.mean, "low": e.low, "high": e.high, "n_users": e.n_users})
    return pl.DataFrame(rows, schema=GROUP_SCHEMA)


def group_metrics(results: ResultsByArm, columns: Sequence[str]) -> pl.DataFrame:
    """Every per-user metric within every group of users and over all of them; placebo arms are left out.

    Means are over all users and seeds of a group at once, as for effects, so that the difference between the means of
    two arms is their effect. A metric that one of an arm's seeds lacks is null.
    """
    rows: list[dict[str, Any]] = []
    every: dict[str, None] = {}
    for (model, arm), cells in results.items():
        if results.is_placebo(arm):
            continue
        tables = results.tables(model, arm)
        stored = [set(t.columns) & set(c.evaluation.summary) for t, c in zip(tables, cells, strict=True)]
        names = [name for name in tables[0].columns if all(name in columns_of_seed for columns_of_seed in stored)]
        every |= dict.fromkeys(names)
        groups = [(ALL_USERS, 0, ALL_USERS, tables)]
        groups += [
            (column, order, label, [t.filter(mask) for t, mask in zip(tables, masks, strict=True)])
            for column in (HISTORY_LENGTH, ITEM_POPULARITY, *columns)
            for order, (label, masks) in enumerate(_cut(tables, column))
        ]
        for column, order, label, inside in groups:
            users = pl.concat([t.select("user", *names) for t in inside])
            row = {"model": model, "arm": arm, "group": column, "label": label, "order": order}
            row |= {"n_users": users["user"].n_unique(), **users.select(pl.col(names).mean()).row(0, named=True)}
            rows.append(row)
    return pl.DataFrame(rows, schema={**METRIC_SCHEMA, **dict.fromkeys(every, pl.Float64)})


def subgroup_differences(effects: ModelEffects, columns: Sequence[str]) -> dict[str, str]:
    """For relations whose effect differs between groups of users: a sentence on the most certain difference.

    What a relation adds to the others is compared between each group of users and the rest (Welch's t, users as
    units), and corrected over all relations and groups (Holm).

    Args:
        effects: of one model.
        columns: group columns in addition to history length and item popularity.
    """
    compared: list[tuple[str, str, float, float, float]] = []
    metric = effects.results.metric
    for relation in effects.judged_relations:
        sides = effects.tables_of_added(relation)
        added = pl.concat(
            left.join(right.select("user", _without=metric), on="user", how="left", maintain_order="left").select(
                "user", adds=pl.col(metric) - pl.col("_without")
            )
            for left, right in zip(*sides, strict=True)
        )
        for column in (HISTORY_LENGTH, ITEM_POPULARITY, *columns):
            labelled = _cut(sides[0], column)
            for label, masks in labelled if len(labelled) > 1 else ():
                inside = pl.concat(masks)
                groups = [
                    added.filter(mask).group_by("user").agg(pl.col("adds").mean())["adds"].to_numpy()
                    for mask in (inside, ~inside)
                ]
                if min(group.size for group in groups) >= FEWEST:
                    in_group, others = (float(group.mean()) for group in groups)
                    compared.append((relation, _group_named(column, label), in_group, others, welch(*groups)))
    adjusted, decimals = holm([p for *_, p in compared]), effects.results.decimals
    best: dict[str, tuple[float, str]] = {}
    for (relation, group, in_group, others, _), p in zip(compared, adjusted, strict=True):
        if p < ALPHA and (relation not in best or p < best[relation][0]):
            figures = f"{signed(in_group, decimals)}, for the others {signed(others, decimals)}"
            best[relation] = p, f"For {group} it adds {figures}."
    return {relation: text for relation, (_, text) in best.items()}


def _group_named(column: str, label: str) -> str:
    if column == HISTORY_LENGTH:
        return f"users with {label} training rows"
    return f"held-out items of the {label}" if column == ITEM_POPULARITY else f"{column} {label}"


def welch(a: Float64, b: Float64) -> float:
    """Two-sided p of a difference between the means of two groups (Welch 1947); 1 if neither varies."""
    parts = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    variance = sum(parts)
    if variance == 0:
        return 1.0
    freedom = variance**2 / sum(part**2 / (group.size - 1) for part, group in zip(parts, (a, b), strict=True))
    return float(2 * stdtr(freedom, -abs(a.mean() - b.mean()) / math.sqrt(variance)))


def _cut(tables: Sequence[pl.DataFrame], column: str) -> list[tuple[str, list[pl.Series]]]:
    """The labels of a group column, in order, each with a row mask per table; the same labels for all seeds."""
    # a table stored by an earlier version may lack columns
    together, order = group_labels(pl.concat(tables, how="diagonal_relaxed"), column)
    starts = [0, *accumulate(len(table) for table in tables)]
    return [(label, [together[a:b] == label for a, b in pairwise(starts)]) for label in order]
