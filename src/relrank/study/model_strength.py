"""How strong the judging models are: a weak one credits relations with gains that a stronger model has without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from relrank.study.arms import INTERACTIONS
from relrank.study.cell_store import CellResult
from relrank.study.coordinate_search import MIN_RELATIVE_GAIN, MIN_STANDARD_ERRORS
from relrank.study.number_format import signed
from relrank.study.results_by_arm import ResultsByArm

SAME = 1e-6
"""Rounding error of a mean metric."""


def model_strengths(
    results: ResultsByArm, judged: Sequence[str], models: Sequence[str], margin: float = MIN_RELATIVE_GAIN
) -> list[dict[str, Any]]:
    """Compare the interactions-only arms of all models with verdicts, on validation.

    Args:
        results: finished cells.
        judged: models with verdicts.
        models: all models of the study.
        margin: share of the metric by which another model or setting has to be better.

    Returns:
        One dictionary per judged model that ran on the interactions alone, the strongest first: ``model``; ``valid``,
        its validation metric on the interactions alone, the mean over seeds; ``stronger``, the model with the best
        such metric if it is another one and better by more than the margin, else None, with ``stronger_valid``;
        ``better_setting``, the best validation metric that the model itself reached with all relation weights 0, on
        whatever arm, if that is better by more than the margin, else None; ``sentence``.
    """
    valid = _valid_metrics(results, models)
    rows = []
    for model in sorted((m for m in judged if m in valid), key=lambda m: -valid[m]):
        metric, best = valid[model], max(valid, key=lambda m: valid[m])
        stronger = best if _better(valid[best], metric, margin) else None
        setting = _best_setting(results, model, _valid_by_seed(results, model))
        better = setting if setting is not None and _better(setting, metric, margin) else None
        rows.append(
            {
                "model": model,
                "valid": metric,
                "stronger": stronger,
                "stronger_valid": valid[best] if stronger else None,
                "better_setting": better,
                "sentence": _sentence(model, metric, stronger, valid[best], better, results.metric, results.decimals),
            }
        )
    return rows


def strongest(results: ResultsByArm, models: Sequence[str]) -> str | None:
    """The model that validates best on the interactions alone; None if none has run on them."""
    valid = _valid_metrics(results, models)
    return max(valid, key=lambda m: valid[m]) if valid else None


def add_strength_caveats(
    verdicts: pl.DataFrame,
    strengths: Sequence[Mapping[str, Any]],
    metric: str,
    margin: float = MIN_RELATIVE_GAIN,
    decimals: int = 4,
) -> pl.DataFrame:
    """Add a sentence to verdicts "helps" of a model if a stronger model shows no gain from the relation.

    The stronger model's verdict gets one, too. It has to be better on the interactions alone by more than the margin,
    on validation, and its own verdict has to be "undecided" or "negligible".

    Args:
        verdicts: the verdict table.
        strengths: of ``model_strengths``, the strongest first.
        metric: the study's.
        margin: as in ``model_strengths``.
        decimals: of the figures.
    """
    if not strengths:
        return verdicts
    lead, *others = strengths
    weaker = {one["model"]: one["valid"] for one in others if _better(lead["valid"], one["valid"], margin)}
    rows = list(verdicts.iter_rows(named=True))
    of_strongest = [row for row in rows if row["model"] == lead["model"]]
    not_shown = {row["relation"] for row in of_strongest if row["verdict"] in ("undecided", "negligible")}
    caveats: dict[tuple[str, str], str] = {}
    for row in rows:
        model, relation = row["model"], row["relation"]
        if model in weaker and relation in not_shown and row["verdict"] == "helps":
            name, valid = lead["model"], f"{lead['valid']:.{decimals}f} against {weaker[model]:.{decimals}f}"
            stronger = f"{name}, whose interactions alone are stronger (validation {metric} {valid})"
            of_lead = f" It helps {model} ({signed(row['held'], decimals)}); no gain is shown with {stronger}."
            caveats[model, relation] = f" No gain is shown with {stronger}."
            caveats[name, relation] = caveats.get((name, relation), "") + of_lead
    sentences = [row["sentence"] + caveats.get((row["model"], row["relation"]), "") for row in rows]
    return verdicts.with_columns(pl.Series("sentence", sentences, pl.String))


def _better(one: float, other: float, margin: float) -> bool:
    return one > other + margin * abs(other)


def _valid_metrics(results: ResultsByArm, models: Sequence[str]) -> dict[str, float]:
    """Mean validation metrics on the interactions alone, of the models that have run on them."""
    by_seed = {model: _valid_by_seed(results, model) for model in models}
    return {model: sum(valid.values()) / len(valid) for model, valid in by_seed.items() if valid}


def _valid_by_seed(results: ResultsByArm, model: str) -> dict[int, float]:
    name = results.arm_name(model, INTERACTIONS)
    return {} if name is None else {cell.seed: cell.valid_metric for cell in results.cells(model, name)}


def _best_setting(results: ResultsByArm, model: str, baseline: Mapping[int, float]) -> float | None:
    """The best trial per seed with all relation weights 0, over all arms of the model; the mean over seeds.

    A trial counts if it is better than the interactions arm by more than the standard error of their difference. That
    is known for searches that began at the setting of that arm.
    """
    best = dict(baseline)
    for (name, _), cells in results.items():
        for cell in cells if name == model else ():
            metric = baseline[cell.seed]
            starts_at_baseline = bool(cell.trials) and abs(cell.trials[0].metric - metric) < SAME
            for trial in cell.trials if starts_at_baseline else ():
                better = trial.metric > metric + MIN_STANDARD_ERRORS * trial.error
                if better and _without_relations(trial.values, cell):
                    best[cell.seed] = max(best[cell.seed], trial.metric)
    return sum(best.values()) / len(best) if best else None


def _without_relations(values: dict[str, float], cell: CellResult) -> bool:
    """Whether all relation weights of a trial are 0; fixed ones are among the chosen values."""
    weights = cell.chosen.get("weights")
    if weights is None:
        return cell.arm == INTERACTIONS.name
    tried = {name.partition(".")[2]: value for name, value in values.items() if name.startswith("weights.")}
    in_effect = {**weights, **tried}
    return not any(in_effect.values()) and (bool(in_effect) or cell.arm == INTERACTIONS.name)


def _sentence(
    model: str,
    valid: float,
    stronger: str | None,
    stronger_valid: float,
    setting: float | None,
    metric: str,
    decimals: int,
) -> str:
    text = f"{valid:.{decimals}f}"
    if stronger:
        return (
            f"Weak judge: {stronger} ranks better without any relation than {model} does (validation {metric} "
            f"{stronger_valid:.{decimals}f} against {text}). What {model} gains from a relation may be what a "
            "stronger model of the interactions gives without it."
        )
    if setting is not None:
        return (
            f"Weak judge: without any relation {model} reaches validation {metric} {setting:.{decimals}f} with "
            f"settings tried on another arm, its interactions arm {text}. Its gains from relations may be overstated "
            "by as much as the difference."
        )
    figure = f"validation {metric} {text}"
    return f"Judge: {model}; no model of this study ranks better on the interactions alone ({figure})."
