"""The data of each section of the page, grouped and ordered, with axes; templates add the markup."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from relrank.errors import InputError
from relrank.report.beyond_accuracy import beyond_accuracy, decimals, lines_of
from relrank.report.decision import basis, caveats, decision_groups
from relrank.report.evidence import group_overview, overview, plan_curve
from relrank.report.formatting import Axis, is_finite, metric_name
from relrank.report.verdict_summary import (
    Row,
    base_metric,
    decision_sentence,
    primary_model,
    progress_of,
    steps_to_build,
)
from relrank.study.metric_effects import contradicting_effects, in_words
from relrank.study.result import StudyResult, titles_of
from relrank.study.subgroup_effects import ALL_USERS
from relrank.study.verdicts import ALPHA, ORDER, agrees

KINDS = ("gain", "held", "drop", "alone", "placebo")
AUDIT = ("leak", "warning", "ok")
POINTS = 60
"""Maximum points of a drawn learning curve."""

REQUIRED_MODELS = ("random", "popularity", "item-kNN", "EASE")
SHOWN_METRICS = ["hit", "recall", "precision", "ndcg", "map", "mrr"]
REDUNDANT = ("recall", "precision", "map")
"""Metrics that add nothing to hit and NDCG with one relevant item per user."""
REQUIRED_COLUMNS = {
    "card": "format name title description protocol fingerprints seeds metric trials n_users n_items n_train n_valid "
    "n_test nodes relations notices audit machine planted smoke",
    "leaderboard": "model arm n_seeds n_users mean low high below_ease seconds peak_mb",
    "effects": "model relation kind other arm_a arm_b mean low high p p_holm effect_size standard_error "
    "degrees_of_freedom detectable_effect n_users n_seeds",
    "verdicts": "model relation verdict sentence interchangeable_with p held held_low held_high drop drop_low "
    "drop_high alone alone_low alone_high placebo placebo_low placebo_high unused detectable_effect margin "
    "true_verdict",
    "groups": "model relation kind other group label order mean low high n_users",
    "group_metrics": "model arm group label order n_users",
    "list_effects": "model relation kind other measure mean low high n_users n_seeds",
    "metric_effects": "model relation kind other measure mean low high n_users n_seeds",
    "curves": "model arm seed epoch loss metric",
    "tuning": "model arm seed trial metric config chosen",
    "notes": "model arm seed note key value sd count",
}


def build_view(result: StudyResult) -> dict[str, Any]:
    """Everything the template needs, one key per section.

    Raises:
        InputError: the card lacks a key, or a table that has rows lacks a column.
    """
    check_fields(result)
    tables: dict[str, list[Row]] = {
        name: getattr(result, name).to_dicts() for name in REQUIRED_COLUMNS if name != "card"
    }
    for row in tables["effects"]:
        row["significant"] = is_significant(row)
    for row in tables["groups"]:
        row["significant"] = excludes_zero(row)  # groups are estimated, not tested
    lead = primary_model(result)
    judged = list(dict.fromkeys([lead] * (lead is not None) + [row["model"] for row in tables["verdicts"]]))
    relations = _ordered_relations(tables["verdicts"], lead)
    # relations that were compared but not judged have effects, too
    compared = list(dict.fromkeys([*relations, *(r["relation"] for r in tables["effects"] if r["relation"])]))
    return {
        "answer": decision_sentence(result),
        "progress": progress_of(result.card),
        "decision": decision_groups(result),
        "caveats": caveats(result),
        "basis": basis(result),
        "base": base_metric(result, lead),
        "built": {step["relation"] for step in steps_to_build(result, lead)},
        "lead": lead,
        "judged": judged,
        "relations": relations,
        **_card_sections(result.card, lead),
        **_verdict_sections(result, tables, lead, judged, relations),
        **_effect_sections(tables, judged, compared),
        **_board_sections(result, tables, judged),
        **_overview_sections(result, tables, lead, relations),
        "tables": tables,
        "cost": _cost(tables, {row["name"]: row["edges"] for row in result.card["relations"]}, judged, relations),
        "tuning": _tuning(tables["tuning"]),
    }


def _overview_sections(
    result: StudyResult, tables: dict[str, list[Row]], lead: str | None, relations: list[str]
) -> Row:
    """The evidence in front of the appendix."""
    margin = next((row["margin"] for row in tables["verdicts"] if row["model"] == lead), None)
    plan = _plan(result.card.get("plan"), lead)
    gains = [row for row in tables["effects"] if row["kind"] == "gain" and row["model"] == lead]
    built = plan["steps"][0]["relation"] if plan and plan["build"] else None
    base = base_metric(result, lead)
    return {
        "overview": overview([row for row in tables["effects"] if row["model"] == lead], relations, margin, base),
        "plan_curve": plan_curve(plan, gains[0] if gains else None, base) if plan else None,
        "group_overview": group_overview([row for row in tables["groups"] if row["model"] == lead], built),
    }


def _card_sections(card: Row, lead: str | None) -> Row:
    """Plan and audit."""
    return {
        "card": card,
        "judge": next((judge for judge in card.get("model_strength", []) if judge["model"] == lead), None),
        "plan": _plan(card.get("plan"), lead),
        "audit": sorted(card["audit"], key=lambda row: AUDIT.index(row["level"])),
        "fingerprints": [
            {"seed": seed, "fingerprint": mark}
            for seed, mark in zip_longest(card["seeds"], card["fingerprints"])
            if mark is not None
        ],
    }


def _verdict_sections(
    result: StudyResult, tables: dict[str, list[Row]], lead: str | None, judged: list[str], relations: list[str]
) -> Row:
    verdict = {(row["model"], row["relation"]): row for row in tables["verdicts"]}
    metric, titles = metric_name(result.card["metric"]), titles_of(result.card)
    return {
        "verdict": verdict,
        "margin": next((row["margin"] for row in tables["verdicts"] if row["model"] == lead), None),
        "agreement": [_agreement(model, judged[0], relations, verdict) for model in judged[1:]],
        "planted": _planted(tables["verdicts"]),
        "contrary": [
            in_words({**row, "measure": metric_name(row["measure"])}, metric, titles, result.decimals)
            for row in contradicting_effects(result.verdicts, result.metric_effects)
        ],
    }


def _effect_sections(tables: dict[str, list[Row]], judged: list[str], compared: list[str]) -> Row:
    effects, groups = tables["effects"], tables["groups"]
    return {
        "forest": _forest(effects, judged, compared),
        "beside": _pairs(effects, judged, compared),
        "versus": _versus(effects),
        "strongest": [row for row in effects if row["kind"] == "strongest"],
        "other_metrics": _other_metrics(tables["metric_effects"], tables["leaderboard"], judged, compared),
        "rivalry": _rivalry([row for row in groups if row["kind"] == "versus"]),
        "groups": _groups([row for row in groups if row["kind"] != "versus"], judged, compared),
    }


def _board_sections(result: StudyResult, tables: dict[str, list[Row]], judged: list[str]) -> Row:
    """Leaderboard, and what else is known of its rows."""
    metric, digits, columns = result.card["metric"], result.decimals, result.leaderboard.columns
    board = _leaderboard(tables["leaderboard"], tables["effects"], columns, metric, digits)
    headline = _headline_arms(tables["effects"])
    group_columns = result.group_metrics.columns
    return {
        "leaderboard": board,
        "beyond": beyond_accuracy(
            tables["leaderboard"], board["rows"], columns, tables["list_effects"], judged, headline["interactions"]
        ),
        "by_group": _by_group(tables["group_metrics"], group_columns, board["rows"], metric, digits),
        "curves": _curves(tables["curves"], headline),
        "notes": _notes(tables["notes"], set().union(*headline.values())),
    }


def excludes_zero(row: Row) -> bool:
    """Whether the interval excludes zero."""
    return is_finite(row["low"]) and is_finite(row["high"]) and (row["low"] > 0 or row["high"] < 0)


def is_significant(row: Row) -> bool:
    """Whether the Holm-adjusted p, or without one the interval, shows a difference."""
    return excludes_zero(row) and not (is_finite(row["p_holm"]) and row["p_holm"] >= ALPHA)


def check_fields(result: StudyResult) -> None:
    """Check that a study has all fields that a page shows.

    Raises:
        InputError: the card lacks a key, or a table that has rows lacks a column.
    """
    for name, text in REQUIRED_COLUMNS.items():
        part = getattr(result, name)
        fields = set(part if name == "card" else part.columns)
        if (name == "card" or not part.is_empty()) and (missing := sorted(set(text.split()) - fields)):
            raise InputError(
                "a stored study lacks a field",
                where=f"{name} of study {result.card.get('name', '?')!r}",
                expected=", ".join(missing),
                found=", ".join(sorted(fields)),
            )


def _ordered_relations(verdicts: list[Row], lead: str | None) -> list[str]:
    """Relations by the lead model's verdict and descending drop, then those that only other models judged."""
    first = [row for row in verdicts if row["model"] == lead]
    first.sort(key=lambda row: (ORDER.index(row["verdict"]), -row["drop"] if is_finite(row["drop"]) else 0.0))
    return list(dict.fromkeys(row["relation"] for row in first + verdicts))


def _headline_arms(effects: list[Row]) -> dict[str, set[str]]:
    """Names of the arms with all relations and with interactions only, as stored."""
    gains = [row for row in effects if row["kind"] == "gain"]
    return {
        "all": {"all"} | {row["arm_a"] for row in gains},
        "interactions": {"interactions"} | {row["arm_b"] for row in gains},
    }


def _agreement(model: str, lead: str, relations: list[str], verdict: dict[tuple[str, str], Row]) -> Row:
    both = [name for name in relations if (model, name) in verdict and (lead, name) in verdict]
    words = [(name, verdict[model, name]["verdict"], verdict[lead, name]["verdict"]) for name in both]
    differs = [(name, word) for name, word, leads in words if word != leads]
    return {"model": model, "n": len(both), "agree": len(both) - len(differs), "differs": differs}


def _plan(plan: Row | None, lead: str | None) -> Row | None:
    """The lead model's forward selection on one axis; None if it was not run."""
    if plan is None or plan["model"] != lead or not plan["steps"]:
        return None
    steps = [
        step | {"mean": step["total"], "low": step["total_low"], "high": step["total_high"]} for step in plan["steps"]
    ]
    for step in steps:
        step["significant"] = excludes_zero(step)
    return plan | {"steps": steps, "scale": _scale(steps, most=6)}


def _by(rows: Iterable[Row], *columns: str) -> dict[Any, list[Row]]:
    """Rows by the values of one or several columns, in order of appearance."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        key = row[columns[0]] if len(columns) == 1 else tuple(row[column] for column in columns)
        groups.setdefault(key, []).append(row)
    return groups


def _scale(rows: list[Row], most: int) -> Axis:
    """An axis for zero and the intervals of all rows."""
    return Axis.over([0.0, *(row[end] for row in rows for end in ("mean", "low", "high"))], most=most)


def _planted(verdicts: list[Row]) -> Row | None:
    """Number of verdicts that agree with the planted truth; None without one."""
    known = [row for row in verdicts if row["true_verdict"] is not None]
    right = sum(agrees(row["verdict"], row["true_verdict"]) for row in known)
    return {"n": len(known), "right": right} if known else None


def _forest(effects: list[Row], judged: list[str], relations: list[str]) -> Row:
    shown = [row for row in effects if row["kind"] in KINDS]
    rows = _by(sorted(shown, key=lambda row: KINDS.index(row["kind"])), "model", "relation")
    models = []
    for model in dict.fromkeys([*judged, *(row["model"] for row in shown)]):
        keys = [(model, relation) for relation in [None, *relations] if (model, relation) in rows]
        if keys:
            models.append({"model": model, "blocks": [{"relation": key[1], "rows": rows[key]} for key in keys]})
    ends = [row[end] for row in shown for end in ("mean", "low", "high", "detectable_effect")]
    ends += [-row["detectable_effect"] for row in shown if is_finite(row["detectable_effect"])]
    return {"models": models, "scale": Axis.over([0.0, *ends], most=8)}


def _pairs(effects: list[Row], judged: list[str], relations: list[str]) -> list[Row]:
    """Per model what a relation adds to each other one, for the pairs that were run."""
    models = []
    for model in judged:
        cell = {(r["relation"], r["other"]): r for r in effects if r["kind"] == "beside" and r["model"] == model}
        rows = [r for r in relations if any(r == key[0] for key in cell)]
        others = [r for r in relations if any(r == key[1] for key in cell)]
        if cell:
            models.append({"model": model, "rows": rows, "others": others, "cell": cell})
    return models


def _versus(effects: list[Row]) -> Row | None:
    """Each model's differences to the rival on one axis; None without a rival."""
    rows = [row for row in effects if row["kind"] in ("versus", "versus gain")]
    if not rows:
        return None
    return {
        "rival": rows[0]["other"],
        "gains": any(row["kind"] == "versus gain" for row in rows),
        "models": [{"model": model, "rows": part} for model, part in _by(rows, "model").items()],
        "scale": _scale(rows, most=8),
    }


def _other_metrics(effects: list[Row], board: list[Row], judged: list[str], relations: list[str]) -> Row:
    """Per model a line for each relation and kind of effect, with a cell per metric.

    Redundant metrics are left out: with one relevant item per user, recall equals hit, and precision and MAP add
    nothing.
    """
    measures = list(dict.fromkeys(row["measure"] for row in effects))
    cuts = dict.fromkeys(name.partition("@")[2] for name in measures)
    redundant = {k for k in cuts if k and all(row.get(f"hit@{k}") == row.get(f"recall@{k}") for row in board)}
    shown = [m for m in measures if not (m.partition("@")[2] in redundant and m.partition("@")[0] in REDUNDANT)]
    shown.sort(key=lambda m: (SHOWN_METRICS.index(m.partition("@")[0]), int(m.partition("@")[2] or 0)))
    order = [None, *relations]
    rows = [row for row in effects if row["kind"] in ("gain", "drop", "alone") and row["relation"] in order]
    rows.sort(key=lambda row: order.index(row["relation"]))
    models = _by(rows, "model")
    return {
        "measures": shown,
        "models": [{"model": model, "rows": lines_of(models[model])} for model in judged if model in models],
    }


def _leaderboard(rows: list[Row], effects: list[Row], columns: list[str], metric: str, digits: int) -> Row:
    """One row per model and headline arm; the best row of a model that has neither arm."""
    headline = set().union(*_headline_arms(effects).values())
    with_headline = {row["model"] for row in rows if row["arm"] in headline}
    shown: list[Row] = []
    bare: set[str] = set()
    for row in rows:
        if row["arm"] in headline or row["model"] not in with_headline | bare:
            shown.append(row)
            bare.add(row["model"])
    ease = [row for row in rows if _plain(row["model"]) == "ease" and is_finite(row["mean"])]
    present = {_plain(row["model"]) for row in rows}
    others = [name for name in columns if name not in REQUIRED_COLUMNS["leaderboard"].split()]
    return {
        "rows": shown,
        "scale": _scale(shown, most=4),
        "ease": max((row["mean"] for row in ease), default=None),
        "metrics": _shown_metrics(rows, others, metric.partition("@")[2]),
        "all_metrics": others,
        "decimals": {name: 0 if _is_count(name) else decimals(name, digits) for name in others},
        "required": {name: _plain(name) in present for name in REQUIRED_MODELS},
        "n_arms": len(rows),
    }


def _is_count(column: str) -> bool:
    return "@" not in column and "users" in column


def _shown_metrics(rows: list[Row], columns: list[str], k: str) -> list[str]:
    """Accuracy metrics at the study's cutoff, without redundant ones."""
    shown = [
        name for name in columns if name.partition("@")[0] in SHOWN_METRICS and name.partition("@")[2] in ("", k)
    ]
    hit, recall = f"hit@{k}", f"recall@{k}"
    if {hit, recall} <= set(shown) and all(row[hit] == row[recall] for row in rows):
        shown = [name for name in shown if name.partition("@")[0] not in REDUNDANT]
    return sorted(shown, key=lambda name: SHOWN_METRICS.index(name.partition("@")[0]))


def _plain(model: str) -> str:
    return "".join(letter for letter in model.lower() if letter.isalnum())


def _by_group(rows: list[Row], columns: list[str], board: list[Row], metric: str, digits: int) -> Row:
    """The study's metric and hit rate at its cutoff by group column: labels, and a cell per row of the leaderboard.

    "all users" is the first label of every group column.
    """
    metrics = [name for name in columns if name not in REQUIRED_COLUMNS["group_metrics"].split()]
    figures = [name for name in dict.fromkeys([metric, f"hit@{metric.partition('@')[2]}"]) if name in metrics]
    shown = list(dict.fromkeys((row["model"], row["arm"]) for row in board))
    cell = {(row["model"], row["arm"], row["group"], row["label"]): row for row in rows}
    counts: dict[str, dict[str, int]] = {}
    for row in sorted(rows, key=lambda row: row["order"]):
        if (row["model"], row["arm"]) in shown:
            counts.setdefault(row["group"], {}).setdefault(row["label"], row["n_users"])
    overall = [(ALL_USERS, label, n) for label, n in counts.pop(ALL_USERS, {}).items()]
    columns_of_groups = {}
    for group, group_labels in counts.items():
        labels = [*overall, *((group, label, n) for label, n in group_labels.items())]
        rows_of_arms = [{"model": model, "arm": arm, "cells": []} for model, arm in shown]
        for of, label, _ in labels:
            values = {name: [cell.get((*arm, of, label), {}).get(name) for arm in shown] for name in figures}
            best = {name: max(_rounded(value, digits) for value in values[name]) for name in figures}
            for i, row in enumerate(rows_of_arms):
                row["cells"].append(
                    [
                        {
                            "value": values[name][i],
                            "best": is_finite(values[name][i]) and _rounded(values[name][i], digits) == best[name],
                        }
                        for name in figures
                    ]
                )
        columns_of_groups[group] = {
            "labels": [{"label": label, "n_users": n} for _, label, n in labels],
            "parts": list(group_labels),
            "rows": rows_of_arms,
            "every": [
                cell[*arm, group, label] for label in group_labels for arm in shown if (*arm, group, label) in cell
            ],
        }
    places = {name: decimals(name, digits) for name in metrics}
    return {"columns": columns_of_groups, "figures": figures, "metrics": metrics, "decimals": places}


def _rounded(value: float | None, digits: int) -> float:
    """A value as displayed, so that equal figures tie; −∞ for a missing value."""
    return round(value, digits) if value is not None and is_finite(value) else -math.inf


def _rivalry(rows: list[Row]) -> Row:
    """By group column a panel per model with its differences to the rival, all on one axis."""
    models = _by(rows, "model")
    columns = {}
    for group, part in _by(sorted(rows, key=lambda row: row["order"]), "group").items():
        panels = _by(part, "model")
        if len(_by(part, "label")) > 1:
            columns[group] = [
                {"title": model, "kind": f"− {rows[0]['other']}", "rows": panels[model]}
                for model in models
                if model in panels
            ]
    return {"rival": rows[0]["other"] if rows else None, "columns": columns, "scale": _scale(rows, most=4)}


def _notes(rows: list[Row], headline: set[str]) -> list[Row]:
    """Per note a table of models and arms by keys, means over seeds; arms other than the headline arms apart."""
    notes = []
    for note, part in _by(rows, "note").items():
        lines = [
            {
                "model": model,
                "arm": arm,
                "cells": {key: _mean_note(seeds) for key, seeds in _by(of_arm, "key").items()},
            }
            for (model, arm), of_arm in _by(part, "model", "arm").items()
        ]
        with_headline = {line["model"] for line in lines if line["arm"] in headline}
        main = [line for line in lines if line["arm"] in headline or line["model"] not in with_headline]
        rest = [line for line in lines if line not in main]
        notes.append({"note": note, "keys": list(_by(part, "key")), "main": main, "rest": rest})
    return notes


def _mean_note(seeds: list[Row]) -> Row:
    means = {}
    for name in ("value", "sd", "count"):
        values = [row[name] for row in seeds if is_finite(row[name])]
        means[name] = sum(values) / len(values) if values else None
    return means


def _groups(rows: list[Row], judged: list[str], relations: list[str]) -> Row:
    """By model and group column a panel per relation and kind; drops and gains apart from the rest."""
    position = {relation: i for i, relation in enumerate([None, *relations])}
    ordered = sorted(rows, key=lambda row: (position.get(row["relation"], len(position)), row["order"]))
    panels = _by(ordered, "model", "group", "kind", "relation")
    first = {"gain", "drop"} & {row["kind"] for row in rows} or set(KINDS)
    models: dict[str, dict[str, Row]] = {}
    for model in dict.fromkeys([*judged, *(row["model"] for row in rows)]):
        for column in dict.fromkeys(row["group"] for row in rows if row["model"] == model):
            model_panels: list[Row] = [
                {"kind": kind, "title": key[3] if key[3] is not None else "all relations", "rows": panels[key]}
                for kind in (*KINDS, "beside")
                for key in panels
                if key[:3] == (model, column, kind)
            ]
            models.setdefault(model, {})[column] = {
                "main": [panel for panel in model_panels if panel["kind"] in first],
                "rest": [panel for panel in model_panels if panel["kind"] not in first],
                "labels": list(dict.fromkeys(row["label"] for panel in model_panels for row in panel["rows"])),
            }
    return {
        "models": models,
        "scale": _scale([row for row in rows if row["kind"] in first], most=4),
        "rest_scale": _scale([row for row in rows if row["kind"] not in first], most=4),
    }


def _curves(rows: list[Row], headline: dict[str, set[str]]) -> list[Row]:
    """Per model two panels (validation metric, training loss), one line per arm and seed, headline arms on top."""
    models = []
    for model, part in _by(rows, "model").items():
        runs = _by(sorted(part, key=lambda row: row["epoch"]), "arm", "seed")
        panels = [_panel(name, runs, headline) for name in ("metric", "loss")]
        checked = [[row for row in run if is_finite(row["metric"])] for run in runs.values()]
        best = [(max(run, key=lambda row: row["metric"]), run[-1]) for run in checked if run]
        models.append(
            {
                "model": model,
                "panels": [panel for panel in panels if panel["lines"]],
                "runs": len(runs),
                "epochs": _range([run[-1]["epoch"] for run in runs.values()]),
                "best_epoch": _range([peak["epoch"] for peak, _ in best]),
                "rising": sum(peak is last for peak, last in best),
                "has": {name: any(arm in arms for arm, _ in runs) for name, arms in headline.items()},
                "others": sum(arm not in set().union(*headline.values()) for arm in {arm for arm, _ in runs}),
            }
        )
    return models


def _panel(name: str, runs: dict[tuple[str, int], list[Row]], headline: dict[str, set[str]]) -> Row:
    points = {key: [(row["epoch"], row[name]) for row in run if is_finite(row[name])] for key, run in runs.items()}
    points = {key: _thin(line) for key, line in points.items() if line}
    x = Axis.over([epoch for line in points.values() for epoch, _ in line], margin=0.0)
    y = Axis.over([value for line in points.values() for _, value in line], most=6)
    lines = []
    for (arm, seed), line in points.items():
        style = next((style for style, arms in headline.items() if arm in arms), "other")
        positions = [(x.at(epoch), round(100 - y.at(value), 2)) for epoch, value in line]
        lines.append({"arm": arm, "seed": seed, "style": style, "points": positions})
    lines.sort(key=lambda line: ("other", "interactions", "all").index(line["style"]))  # drawn last lies on top
    return {"name": name, "x": x, "y": y, "lines": lines}


def _thin(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(line) // POINTS)
    return line[:-1:step] + line[-1:]


def _range(values: list[int]) -> str:
    """``60`` or ``35–60 (median 50)``; empty without values."""
    if not values or min(values) == max(values):
        return "".join(map(str, values[:1]))
    return f"{min(values)}–{max(values)} (median {statistics.median(values):.0f})"


def _cost(tables: dict[str, list[Row]], edges: dict[str, int], judged: list[str], relations: list[str]) -> list[Row]:
    """Per model: cost and effect of each relation, and every arm."""
    board = _by(tables["leaderboard"], "model")
    arms = {(row["model"], row["arm"]): row for row in tables["leaderboard"]}
    effect = {(row["model"], row["relation"], row["kind"]): row for row in tables["effects"]}
    models = []
    for model in dict.fromkeys([*judged, *board]):
        costs = []
        for relation in relations if model in judged else []:
            row: Row = {"relation": relation, "edges": edges.get(relation)}
            for kind in ("drop", "alone"):
                row[kind] = pair = effect.get((model, relation, kind), {})
                row[f"{kind}_mean"] = pair.get("mean")
                with_it, without = (arms.get((model, pair.get(end)), {}) for end in ("arm_a", "arm_b"))
                for unit in ("seconds", "peak_mb"):
                    both = is_finite(with_it.get(unit)) and is_finite(without.get(unit))
                    row[f"{kind}_{unit}"] = with_it[unit] - without[unit] if both else None
            costs.append(row)
        if model in board:
            models.append({"model": model, "relations": costs, "arms": board[model]})
    return models


def _tuning(rows: list[Row]) -> Row:
    """The chosen trial of each cell, and the number of trials per cell."""
    trials = Counter((row["model"], row["arm"], row["seed"]) for row in rows)
    chosen = [{**row, "config": _readable(row["config"])} for row in rows if row["chosen"]]
    return {"chosen": chosen, "trials": sorted(set(trials.values())), "cells": len(trials)}


def _readable(config: str) -> str:
    try:
        values = json.loads(config)
    except ValueError:
        return config
    return ", ".join(f"{key} = {value}" for key, value in values.items()) if isinstance(values, dict) else str(values)
