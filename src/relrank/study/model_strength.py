"""How strong are the models that verdicts rest on? A weak one credits relations with what a better one would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from relrank.study.arms import INTERACTIONS
from relrank.study.cell_results import CellResults
from relrank.study.cell_store import CellResult
from relrank.study.coordinate_search import MIN_RELATIVE_GAIN, MIN_STANDARD_ERRORS
from relrank.study.figures import signed

SAME = 1e-6
"""Two means of the same metrics, rounded on the way, differ by less."""


def model_strengths(
    found: CellResults, judged: Sequence[str], models: Sequence[str], margin: float = MIN_RELATIVE_GAIN
) -> list[dict[str, Any]]:
    """What validation says of the interactions-only arm of every model with verdicts.

    Args:
        found: finished cells.
        judged: models with verdicts.
        models: all models of the study.
        margin: share of the metric by which another model or setting has to be better to be called stronger.

    Returns:
        One dictionary per judged model that ran on the interactions alone, the strongest first: ``model``; ``valid``,
        its validation metric on the interactions alone, the mean over seeds; ``stronger``, the model with the best
        such figure if it is another one and better by more than the margin, else None, with
        ``stronger_valid``; ``better_setting``, the best validation metric that the model itself reached with no
        relation in effect, on whatever arm, where that is better likewise, else None; ``sentence``.
    """
    valid = {model: figure for model in models if (figure := _valid(found, model)) is not None}
    rows = []
    for model in sorted((m for m in judged if m in valid), key=lambda m: -valid[m]):
        own, best = valid[model], max(valid, key=lambda m: valid[m])
        stronger = best if _better(valid[best], own, margin) else None
        setting = _best_setting(found, model, _valid_by_seed(found, model))
        better = setting if setting is not None and _better(setting, own, margin) else None
        rows.append(
            {
                "model": model,
                "valid": own,
                "stronger": stronger,
                "stronger_valid": valid[best] if stronger else None,
                "better_setting": better,
                "sentence": _sentence(model, own, stronger, valid[best], better, found.metric, found.decimals),
            }
        )
    return rows


def strongest(found: CellResults, models: Sequence[str]) -> str | None:
    """The model that validates best on the interactions alone; None where none was run so."""
    valid = {model: figure for model in models if (figure := _valid(found, model)) is not None}
    return max(valid, key=lambda m: valid[m]) if valid else None


def add_strength_caveats(
    verdicts: pl.DataFrame,
    judging: Sequence[Mapping[str, Any]],
    metric: str,
    margin: float = MIN_RELATIVE_GAIN,
    decimals: int = 4,
) -> pl.DataFrame:
    """The verdicts, with a sentence more where a relation helps a model, but nothing is shown with the strongest one.

    It is said of both models. The strongest judge has to be better on the interactions alone by more than the margin,
    on validation; and its own verdict "undecided" or "negligible".

    Args:
        verdicts: as judged.
        judging: of ``model_strengths``: the first is the strongest.
        metric: the study's.
        margin: as in ``model_strengths``.
        decimals: of the figures.
    """
    if not judging:
        return verdicts
    lead, *others = judging
    weaker = {one["model"]: one["valid"] for one in others if _better(lead["valid"], one["valid"], margin)}
    rows = list(verdicts.iter_rows(named=True))
    of_strongest = [row for row in rows if row["model"] == lead["model"]]
    not_shown = {row["relation"] for row in of_strongest if row["verdict"] in ("undecided", "negligible")}
    said: dict[tuple[str, str], str] = {}
    for row in rows:
        model, relation = row["model"], row["relation"]
        if model in weaker and relation in not_shown and row["verdict"] == "helps":
            name, valid = lead["model"], f"{lead['valid']:.{decimals}f} against {weaker[model]:.{decimals}f}"
            stronger = f"{name}, whose interactions alone are stronger (validation {metric} {valid})"
            of_lead = f" It helps {model} ({signed(row['held'], decimals)}); no gain is shown with {stronger}."
            said[model, relation] = f" No gain is shown with {stronger}."
            said[name, relation] = said.get((name, relation), "") + of_lead
    sentences = [row["sentence"] + said.get((row["model"], row["relation"]), "") for row in rows]
    return verdicts.with_columns(pl.Series("sentence", sentences, pl.String))


def _better(one: float, other: float, margin: float) -> bool:
    return one > other + margin * abs(other)


def _valid(found: CellResults, model: str) -> float | None:
    """Mean validation metric of a model on the interactions alone; None where it was not run so."""
    valid = _valid_by_seed(found, model)
    return sum(valid.values()) / len(valid) if valid else None


def _valid_by_seed(found: CellResults, model: str) -> dict[int, float]:
    name = found.arm_name(model, INTERACTIONS)
    return {} if name is None else {cell.seed: cell.valid for cell in found.cells(model, name)}


def _best_setting(found: CellResults, model: str, own: Mapping[int, float]) -> float | None:
    """The best trial without any relation in effect per seed, over all arms of the model; the mean over seeds.

    A trial counts where it is better than the interactions arm by more than the standard error of their difference,
    which is known in searches that began with that arm's setting.
    """
    best = dict(own)
    for (name, _), cells in found.items():
        for cell in cells if name == model else ():
            begins_there = bool(cell.trials) and abs(cell.trials[0].metric - own[cell.seed]) < SAME
            for trial in cell.trials if begins_there else ():
                if (
                    _without_relations(trial.values, cell)
                    and trial.metric > own[cell.seed] + MIN_STANDARD_ERRORS * trial.error
                ):
                    best[cell.seed] = max(best[cell.seed], trial.metric)
    return sum(best.values()) / len(best) if best else None


def _without_relations(values: dict[str, float], cell: CellResult) -> bool:
    """Whether all relation weights of a trial are 0; those that were held are in what was chosen."""
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
    own = f"{valid:.{decimals}f}"
    if stronger:
        return (
            f"Weak judge: {stronger} ranks better without any relation than {model} does (validation {metric} "
            f"{stronger_valid:.{decimals}f} against {own}). What {model} gains from a relation may be what a "
            "stronger model of the interactions gives without it."
        )
    if setting is not None:
        return (
            f"Weak judge: without any relation {model} reaches validation {metric} {setting:.{decimals}f} with "
            f"settings tried on another arm, its interactions arm {own}. Its gains from relations may be overstated "
            "by as much as the difference."
        )
    return (
        f"Judge: {model}; no model of this study ranks better on the interactions alone (validation {metric} {own})."
    )
