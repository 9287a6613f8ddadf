"""Paired differences between models and a named rival, or the strongest model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from relrank.evaluation.comparison import compare, holm
from relrank.study import arms as arm_of
from relrank.study.model_effects import NamedEffect, effect_row
from relrank.study.results_by_arm import ResultsByArm, per_user_differences


def effects_vs_rival(
    results: ResultsByArm,
    models: Sequence[str],
    rival: str,
    relations: Sequence[str],
    used_relations: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Whether a model is better than the rival, and uses relations better: rows of the effects table.

    "versus" is the model minus the rival, each with all relations, or without any if it has not run with them.
    "versus gain", for models that ran both ways, is what all relations add to the model minus what they add to the
    rival, user by user, so that a model with a weaker baseline is not penalized for it. Holm's correction runs over
    the models, within each kind. ``used_relations``: by model, the relations that it reads, if not all.
    """
    used_relations = used_relations or {}
    theirs = _sides(results, rival, used_relations.get(rival, relations))
    compared: dict[str, dict[str, NamedEffect]] = {"versus": {}, "versus gain": {}}
    for model in models:
        mine = _sides(results, model, used_relations.get(model, relations))
        if model == rival or not mine or not theirs:
            continue
        (name_a, a), (name_c, c) = mine[0], theirs[0]
        starts = results.starts((model, (1,)), (rival, (-1,)))
        compared["versus"][model] = name_a, name_c, compare(a, c, results.metric, starts=starts)
        if len(mine) == len(theirs) == 2:
            (name_b, b), (_, d) = mine[1], theirs[1]
            gains = per_user_differences(a, b, results.metric), per_user_differences(c, d, results.metric)
            starts = results.starts((model, (1, -1)), (rival, (-1, 1)))
            compared["versus gain"][model] = name_a, name_b, compare(*gains, results.metric, starts=starts)
    rows = []
    for kind, effects in compared.items():
        adjusted = holm([e.p for _, _, e in effects.values()]).tolist() if effects else []
        rows += [
            effect_row(model, kind, None, one, len(effects), rival, p)
            for (model, one), p in zip(effects.items(), adjusted, strict=True)
        ]
    return rows


def against_strongest(results: ResultsByArm, models: Sequence[str], strongest: str | None) -> list[dict[str, Any]]:
    """Every arm of the models, except placebos, minus the strongest model on the interactions alone.

    A gain over a model's own interactions arm need not be one over the best model without relations.

    Args:
        results: finished cells.
        models: whose arms are compared.
        strongest: the model that validates best on the interactions alone (``model_strength.strongest``); None for
            no rows.
    """
    baseline = None if strongest is None else results.arm_name(strongest, arm_of.INTERACTIONS)
    if strongest is None or baseline is None:
        return []
    rows = []
    for model in models:
        starts = results.starts((model, (1,)), (strongest, (-1,)))
        for name, arm in dict(results.items()):
            if name == model and (model, arm) != (strongest, baseline) and not results.is_placebo(arm):
                tables = results.tables(model, arm), results.tables(strongest, baseline)
                effect = compare(*tables, results.metric, starts=starts)
                rows.append(effect_row(model, "strongest", None, (arm, baseline, effect), 1, strongest))
    return rows


def _sides(results: ResultsByArm, model: str, relations: Sequence[str]) -> list[tuple[str, list[pl.DataFrame]]]:
    """Name and per-user tables of a model's arms with all relations and with none, as far as they have run."""
    names = dict.fromkeys(results.arm_name(model, arm) for arm in (arm_of.all_of(relations), arm_of.INTERACTIONS))
    return [(name, results.tables(model, name)) for name in names if name is not None]
