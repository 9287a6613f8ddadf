"""What a study found inside every group of users: paired differences, and every metric with its number of users."""

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
from relrank.study.cell_results import CellResults
from relrank.study.figures import signed
from relrank.study.model_effects import ModelEffects
from relrank.study.verdicts import ALPHA

ALL_USERS = "all users"
"""Group and label of the rows that leave nobody out."""

FEWEST = 30
"""Groups of fewer users are not compared."""

GROUP_SCHEMA = {
    "model": pl.String,
    "relation": pl.String,
    "kind": pl.String,
    "other": pl.String,
    "group": pl.String,
    "label": pl.String,
    "order": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_users": pl.Int64,
}
METRIC_SCHEMA = {
    "model": pl.String,
    "arm": pl.String,
    "group": pl.String,
    "label": pl.String,
    "order": pl.Int64,
    "n_users": pl.Int64,
}
"""Before the metrics, which depend on the study's cuts."""


def group_effects(found: CellResults, effects: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The gain, the drop and alone effects and the differences to the rival, inside every group of users.

    ``columns`` are groups beside history length and item popularity; see ``StudyResult.groups`` for the rows.
    """
    rows: list[dict[str, Any]] = []
    for effect in effects.filter(pl.col("kind").is_in(["gain", "drop", "alone", "versus"])).iter_rows(named=True):
        model, other = effect["model"], effect["other"]  # other: the rival
        sides = found.tables(model, effect["arm_a"]), found.tables(other or model, effect["arm_b"])
        for column in (HISTORY_LENGTH, ITEM_POPULARITY, *columns):
            for order, (label, masks) in enumerate(_cut(sides[0], column)):
                filled = [i for i, mask in enumerate(masks) if mask.any()]
                a, b = ([side[i].filter(masks[i]) for i in filled] for side in sides)
                e = compare(a, b, found.metric)
                rows.append(
                    {
                        "model": model,
                        "relation": effect["relation"],
                        "kind": effect["kind"],
                        "other": other,
                        "group": column,
                        "label": label,
                        "order": order,
                        "mean": e.mean,
                        "low": e.low,
                        "high": e.high,
                        "n_users": e.n_users,
                    }
                )
    return pl.DataFrame(rows, schema=GROUP_SCHEMA)


def group_metrics(found: CellResults, columns: Sequence[str]) -> pl.DataFrame:
    """Every metric of a user inside every group of users and over all of them; no arms with shuffled links.

    Means run over all users and seeds of a group at once, as those of effects do: the difference of two arms' means
    is their effect. A metric that an arm was not measured by, on one of its seeds, is null there.
    """
    rows: list[dict[str, Any]] = []
    every: dict[str, None] = {}
    for (model, arm), cells in found.items():
        if found.shuffled(arm):
            continue
        tables = found.tables(model, arm)
        stored = [set(t.columns) & set(c.evaluation.summary) for t, c in zip(tables, cells, strict=True)]
        names = [name for name in tables[0].columns if all(name in known for known in stored)]
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


def subgroup_differences(judge: ModelEffects, columns: Sequence[str]) -> dict[str, str]:
    """For whom a relation adds more or less than for the others, where that is more than chance; by relation.

    What it adds beside the others is compared between each group of users and the rest (Welch's t, users as units),
    and corrected over all relations and groups (Holm). The group that differs most surely is named.

    Args:
        judge: of one model.
        columns: groups beside history length and item popularity.
    """
    found: list[tuple[str, str, float, float, float]] = []
    for relation in judge.known:
        sides = judge.beside_tables(relation)
        metric = judge.found.metric
        cells = pl.concat(
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
                    cells.filter(mask).group_by("user").agg(pl.col("adds").mean())["adds"].to_numpy()
                    for mask in (inside, ~inside)
                ]
                if min(group.size for group in groups) >= FEWEST:
                    here, there = (float(group.mean()) for group in groups)
                    found.append((relation, _group_named(column, label), here, there, welch(*groups)))
    adjusted, digits = holm([p for *_, p in found]), judge.found.decimals
    said: dict[str, tuple[float, str]] = {}
    for (relation, group, here, there, _), p in zip(found, adjusted, strict=True):
        if p < ALPHA and (relation not in said or p < said[relation][0]):
            said[relation] = p, f"For {group} it adds {signed(here, digits)}, for the others {signed(there, digits)}."
    return {relation: text for relation, (_, text) in said.items()}


def _group_named(column: str, label: str) -> str:
    if column == HISTORY_LENGTH:
        return f"users with {label} training rows"
    return f"held-out items of the {label}" if column == ITEM_POPULARITY else f"{column} {label}"


def welch(a: Float64, b: Float64) -> float:
    """Two-sided p of a difference between the means of two groups (Welch 1947); 1 where neither varies."""
    parts = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    variance = sum(parts)
    if variance == 0:
        return 1.0
    freedom = variance**2 / sum(part**2 / (group.size - 1) for part, group in zip(parts, (a, b), strict=True))
    return float(2 * stdtr(freedom, -abs(a.mean() - b.mean()) / math.sqrt(variance)))


def _cut(tables: Sequence[pl.DataFrame], column: str) -> list[tuple[str, list[pl.Series]]]:
    """One cut for all seeds: the labels that occur, in order, each with the rows of every table that it holds."""
    # a table that was stored earlier may lack columns
    together, order = group_labels(pl.concat(tables, how="diagonal_relaxed"), column)
    starts = [0, *accumulate(len(table) for table in tables)]
    return [(label, [together[a:b] == label for a, b in pairwise(starts)]) for label in order]
