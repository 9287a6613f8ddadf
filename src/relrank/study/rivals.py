"""Models against a rival that is named, or against the strongest one: paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from relrank.evaluation.comparison import Effect, compare, holm
from relrank.study import arms as arm_of
from relrank.study.cell_results import CellResults, per_user_differences
from relrank.study.model_effects import effect_row


def versus(
    found: CellResults,
    models: Sequence[str],
    rival: str,
    relations: Sequence[str],
    used_relations: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Is a model better than the rival, and does it use relations better? With rows as in ``effects``.

    "versus": the model minus the rival, each with all relations, or without any if it was not run with them. "versus
    gain", where both were run both ways: what all relations add to the model minus what they add to the rival, user
    by user, so that a model that is weaker to begin with is not blamed for it. Holm's correction runs over the
    models, within each kind.
    """
    used_relations = used_relations or {}
    theirs = _sides(found, rival, used_relations.get(rival, relations))
    compared: dict[str, dict[str, tuple[str, str, Effect]]] = {"versus": {}, "versus gain": {}}
    for model in models:
        mine = _sides(found, model, used_relations.get(model, relations))
        if model == rival or not mine or not theirs:
            continue
        (name_a, a), (name_c, c) = mine[0], theirs[0]
        one_each = found.starts((model, (1,)), (rival, (-1,)))
        compared["versus"][model] = name_a, name_c, compare(a, c, found.metric, starts=one_each)
        if len(mine) == len(theirs) == 2:
            (name_b, b), (_, d) = mine[1], theirs[1]
            gains = per_user_differences(a, b, found.metric), per_user_differences(c, d, found.metric)
            two_each = found.starts((model, (1, -1)), (rival, (-1, 1)))
            compared["versus gain"][model] = name_a, name_b, compare(*gains, found.metric, starts=two_each)
    rows = []
    for kind, effects in compared.items():
        adjusted = holm([e.p for _, _, e in effects.values()]).tolist() if effects else []
        rows += [
            effect_row(model, kind, None, one, len(effects), rival, p)
            for (model, one), p in zip(effects.items(), adjusted, strict=True)
        ]
    return rows


def against_strongest(found: CellResults, models: Sequence[str], strongest: str | None) -> list[dict[str, Any]]:
    """Every arm of the models, without shuffled ones, minus the strongest model on the interactions alone.

    So a gain over the model's own interactions is not taken for one over the best that there is without relations.

    Args:
        found: finished cells.
        models: whose arms are compared.
        strongest: the model that validates best on the interactions alone (``decide_verdicts.strongest``); None for
            no rows.
    """
    base = None if strongest is None else found.arm_name(strongest, arm_of.INTERACTIONS)
    if strongest is None or base is None:
        return []
    rows = []
    for model in models:
        starts = found.starts((model, (1,)), (strongest, (-1,)))
        for of, arm in dict(found.items()):
            if of == model and (model, arm) != (strongest, base) and not found.shuffled(arm):
                tables = found.tables(model, arm), found.tables(strongest, base)
                effect = compare(*tables, found.metric, starts=starts)
                rows.append(effect_row(model, "strongest", None, (arm, base, effect), 1, strongest))
    return rows


def _sides(found: CellResults, model: str, relations: Sequence[str]) -> list[tuple[str, list[pl.DataFrame]]]:
    """Name and per-user tables of a model with all relations and with none, as far as it was run."""
    names = dict.fromkeys(found.arm_name(model, arm) for arm in (arm_of.all_of(relations), arm_of.INTERACTIONS))
    return [(name, found.tables(model, name)) for name in names if name is not None]
