"""What each relation of a study is worth, in percent of the interactions alone, for up to three of its models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl
from scipy.special import ndtri

from relrank.errors import InputError
from relrank.evaluation.comparison import Effect
from relrank.evaluation.meta_analysis import PooledEffect, pool_effects
from relrank.study.atlas.config import ALL, AtlasStudy
from relrank.study.atlas.run import Outcome
from relrank.study.cell_store import load_fit_seconds
from relrank.study.config import is_trained
from relrank.study.result import StudyResult, titles_of
from relrank.study.verdicts import NOT_READ
from relrank.tables.audit import SPLIT

CLOSED, LIGHTGCN, NETWORK = FAMILIES = ("closed form", "LightGCN", "other network")
"""Kinds of models that are shown side by side."""
ALL_KIND = "all relations together"
NORMAL = float(ndtri(0.975))
"""Standard errors from the mean to the end of a normal 95 % interval."""
WEIGHTS = "weights."
"""Prefix of relation weights among the hyper-parameters of a search."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gain:
    """An effect in percent of the metric of the interactions alone.

    Attributes:
        mean: the effect.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Worth:
    """What one relation is worth to one model on one data set.

    Attributes:
        study: name.
        kind: row of the atlas; ``ALL_KIND`` for all relations together.
        relation: name in the study, or ``ALL``.
        title: of the relation.
        family: of ``FAMILIES``.
        model: name in the study.
        alone: interactions + it − interactions; None if that has not run.
        kept: all − all without it, with the settings of all; None likewise.
        tuned: all − all without it, tuned again without it; None likewise.
        margin: smallest difference that matters, in percent.
        verdict: of the study; None where it gives none, or was never asked what the relation adds beside the others.
        true_verdict: what was planted; else None.
        leaks: whether an accepted leak concerns it, so that it is not pooled.
        links: number of its links; of all relations for ``ALL``.
        seconds: what it adds to the time of one fit, as a mean over seeds; None if unknown.
    """

    study: str
    kind: str
    relation: str
    title: str
    family: str
    model: str
    alone: Gain | None
    kept: Gain | None
    tuned: Gain | None
    margin: float
    verdict: str | None
    true_verdict: str | None
    leaks: bool
    links: int
    seconds: float | None

    @property
    def error(self) -> float:
        """Standard error of ``alone`` for an estimate over data sets: of the normal with the same 95 % interval.

        Where the search leaves the relation out on every split, its gain is 0, and its interval is the margin.
        """
        assert self.alone is not None
        return (self.alone.high - self.alone.low) / (2 * NORMAL) or self.margin / NORMAL


def judges(study: AtlasStudy, result: StudyResult) -> dict[str, str]:
    """The model of each family that speaks for a study: of those that use relations the strongest without any.

    That is decided on validation (``model_strength``).
    """
    sections = {model.name: model for model in study.config.models}
    found: dict[str, str] = {}
    for row in result.card["model_strength"]:
        section = sections[row["model"]]
        family = LIGHTGCN if section.kind == "relational-lightgcn" else NETWORK if is_trained(section) else CLOSED
        found.setdefault(family, section.name)
    return {family: found[family] for family in FAMILIES if family in found}


def worth_of(outcome: Outcome) -> list[Worth]:
    """All that a finished study says of its relations: those of the atlas, of controls all, and several together."""
    study, result = outcome.study, outcome.result
    if result is None:
        return []
    kinds = {name: name for name in study.config.relations} if study.entry.control else study.entry.relations
    together = {ALL: ALL_KIND} if len(study.config.relations) > 1 else {}
    of_models = judges(study, result)
    return [
        worth
        for relation, kind in {**kinds, **together}.items()
        for family, model in of_models.items()
        if (worth := _worth(outcome, result, relation, kind, family, model)) is not None
    ]


def _worth(outcome: Outcome, result: StudyResult, relation: str, kind: str, family: str, model: str) -> Worth | None:
    base = base_metric(result, model)
    rows = [row for row in result.verdicts.iter_rows(named=True) if row["model"] == model]
    verdict: Row = next((row for row in rows if row["relation"] == relation), {})
    if not base or verdict.get("verdict") == NOT_READ:
        return None

    def gain(effect_kind: str) -> Gain | None:
        row = effect_row(result, model, effect_kind, None if relation == ALL else relation)
        if row is None:
            return None
        left_out = splits_left_out(result, row) if effect_kind in ("alone", "gain") else None
        if left_out is not None and left_out[0] == left_out[1]:  # other settings may differ by the search's luck
            return Gain(0.0, 0.0, 0.0)
        return in_percent(effect_of(row), base)

    tuned, kept = gain("drop"), gain("held")
    links = {row["name"]: row["edges"] for row in result.card["relations"]}
    return Worth(
        study=outcome.study.name,
        kind=kind,
        relation=relation,
        title=ALL_KIND if relation == ALL else titles_of(result.card).get(relation, relation),
        family=family,
        model=model,
        alone=gain("gain" if relation == ALL else "alone"),
        kept=kept or tuned,
        tuned=tuned,
        margin=100 * outcome.study.config.study.margin,
        verdict=verdict.get("verdict") if kept or tuned else None,
        true_verdict=verdict.get("true_verdict"),
        leaks=is_leaking(result, relation),
        links=sum(links.values()) if relation == ALL else links[relation],
        seconds=_seconds_added(outcome.folder, result, model, relation),
    )


def base_metric(result: StudyResult, model: str, arm: str = "interactions") -> float | None:
    """The metric of an arm on test; None if it has not run."""
    rows = result.leaderboard.filter((pl.col("model") == model) & (pl.col("arm") == arm))
    return float(rows["mean"][0]) if len(rows) else None


def effect_row(result: StudyResult, model: str, kind: str, relation: str | None) -> Row | None:
    """One row of the effects table; None if its arms have not run."""
    rows = result.effects.filter(
        (pl.col("model") == model) & (pl.col("kind") == kind) & pl.col("relation").eq_missing(relation)
    )
    return rows.row(0, named=True) if len(rows) else None


def splits_left_out(result: StudyResult, row: Row) -> tuple[int, int] | None:
    """On how many splits the search gives an effect's relation the weight 0, and of how many; None if on none.

    An effect of all relations counts where all of their weights are 0. A weight that is not searched is not left out.
    """
    is_arm = (pl.col("model") == row["model"]) & (pl.col("arm") == row["arm_a"]) & pl.col("chosen")
    n_out, chosen = 0, result.tuning.filter(is_arm)["config"].to_list()
    for config in chosen:
        values = {name: value for name, value in json.loads(config).items() if name.startswith(WEIGHTS)}
        weights = values.values() if row["relation"] is None else [values.get(WEIGHTS + row["relation"], 1.0)]
        n_out += bool(weights) and not any(weights)
    return (n_out, len(chosen)) if n_out else None


def effect_of(row: Row) -> Effect:
    """The effect in a row of the effects table."""
    return Effect(**{part.name: row[part.name] for part in fields(Effect)})


def in_percent(effect: Effect, base: float) -> Gain:
    """An effect in percent of a metric, whose own uncertainty is not included."""
    return Gain(*(100 * value / base for value in (effect.mean, effect.low, effect.high)))


def is_leaking(result: StudyResult, relation: str) -> bool:
    """Whether an accepted leak concerns a relation, or any one for ``ALL``; one in the split concerns all of them."""
    names = {name for leak in result.card["accepted_leaks"] for name in leak["names"]}
    return bool(names) if relation == ALL else bool(names & {relation, SPLIT})


def _seconds_added(folder: Path, result: StudyResult, model: str, relation: str) -> float | None:
    """Mean seconds of one fit with the relation minus those on the interactions; None without the stored cells."""
    row = effect_row(result, model, *(("gain", None) if relation == ALL else ("alone", relation)))
    if row is None:
        return None
    means = []
    for arm in (row["arm_a"], row["arm_b"]):
        keys = [cell["key"] for cell in result.card["cells"] if (cell["model"], cell["arm"]) == (model, arm)]
        try:
            means.append(sum(load_fit_seconds(folder / "cells" / key) for key in keys) / len(keys))
        except (InputError, OSError):  # a result may be kept without its cells
            return None
    return means[0] - means[1]


def pooled(worths: Sequence[Worth], kind: str, family: str) -> list[Worth]:
    """What enters the estimate of a kind: one gain per data set that is neither a control nor a leak."""
    return [w for w in worths if (w.kind, w.family) == (kind, family) and w.alone is not None and not w.leaks]


def estimate(worths: Sequence[Worth], scale: float) -> PooledEffect | None:
    """The estimate over data sets; None for fewer than two."""
    if len(worths) < 2:
        return None
    means = [w.alone.mean for w in worths if w.alone is not None]
    return pool_effects(means, [w.error for w in worths], scale)


def reading(low: float, high: float, inner: tuple[float, float], margin: float) -> str:
    """What an interval says of an effect.

    Args:
        low: lower end of the 95 % interval.
        high: upper end.
        inner: the 90 % interval, for two one-sided tests at .05.
        margin: smallest difference that matters.

    Returns:
        "helps" if the 95 % interval is above 0, "hurts" if it is below 0, "negligible" if the 90 % interval is within
        the margin, else "undecided".
    """
    if low > 0 or high < 0:
        return "helps" if low > 0 else "hurts"
    return "negligible" if -margin < inner[0] and inner[1] < margin else "undecided"


def hours_of(result: StudyResult) -> float:
    """Hours of all cells of a study, added up: tuning, fit and evaluation."""
    seconds = (result.leaderboard["seconds"] * result.leaderboard["n_seeds"]).sum()
    return float(seconds) / 3600 if math.isfinite(seconds) else math.nan
