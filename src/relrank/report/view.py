"""From a study's tables to what each section of the page shows: grouped, ordered, with axes; no markup here."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from typing import Any

from relrank.errors import InputError
from relrank.report.beyond_accuracy import beyond_accuracy, decimals, lines_of
from relrank.report.formatting import Axis, is_finite, metric_name
from relrank.report.verdict_summary import Row, answer, primary_model
from relrank.study.leaks import leak_suffix
from relrank.study.metric_effects import contradicting_effects, in_words
from relrank.study.result import StudyResult, titles_of
from relrank.study.subgroup_effects import ALL_USERS
from relrank.study.verdicts import ALPHA, ORDER, agrees

KINDS = ("gain", "held", "drop", "alone", "placebo")
AUDIT = ("leak", "warning", "ok")
POINTS = 60  # of a learning curve that are drawn

REQUIRED_MODELS = ("random", "popularity", "item-kNN", "EASE")
SHOWN_METRICS = ["hit", "recall", "precision", "ndcg", "map", "mrr"]
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
    _check(result)
    tables: dict[str, list[Row]] = {
        name: getattr(result, name).to_dicts() for name in REQUIRED_COLUMNS if name != "card"
    }
    lead, titles = primary_model(result), titles_of(result.card)
    named, digits = result.card["metric"], result.decimals
    judged = list(dict.fromkeys([lead] * (lead is not None) + [row["model"] for row in tables["verdicts"]]))
    for row in tables["effects"]:
        row["significant"] = is_significant(row)
    for row in tables["groups"]:
        row["significant"] = excludes_zero(row)  # groups are not tested, only estimated
    verdict = {(row["model"], row["relation"]): row for row in tables["verdicts"]}
    relations = _ordered_relations(tables["verdicts"], lead)
    # a relation that was compared but not judged still shows its effects
    compared = list(dict.fromkeys([*relations, *(r["relation"] for r in tables["effects"] if r["relation"])]))
    board = _leaderboard(tables["leaderboard"], tables["effects"], result.leaderboard.columns, named, digits)
    headline = _headline_arms(tables["effects"])
    return {
        "card": result.card,
        "answer": answer(result),
        "lead": lead,
        "judge": next((judge for judge in result.card.get("model_strength", []) if judge["model"] == lead), None),
        "margin": next((row["margin"] for row in tables["verdicts"] if row["model"] == lead), None),
        "plan": _plan(result.card.get("plan"), lead),
        "skipped": result.card.get("skipped", []),
        "judged": judged,
        "relations": relations,
        "verdict": verdict,
        "basis": _basis(tables, lead),
        "agreement": [_agreement(model, judged[0], relations, verdict) for model in judged[1:]],
        "planted": _planted(tables["verdicts"]),
        "forest": _forest(tables["effects"], judged, compared),
        "beside": _beside(tables["effects"], judged, compared),
        "versus": _versus(tables["effects"]),
        "strongest": [row for row in tables["effects"] if row["kind"] == "strongest"],
        "other_metrics": _other_metrics(tables["metric_effects"], tables["leaderboard"], judged, compared),
        "contrary": [
            in_words({**row, "measure": metric_name(row["measure"])}, metric_name(named), titles, digits)
            for row in contradicting_effects(result.verdicts, result.metric_effects)
        ],
        "leaderboard": board,
        "beyond": beyond_accuracy(
            tables["leaderboard"],
            board["rows"],
            result.leaderboard.columns,
            tables["list_effects"],
            judged,
            headline["interactions"],
        ),
        "by_group": _by_group(tables["group_metrics"], result.group_metrics.columns, board["rows"], named, digits),
        "rivalry": _rivalry([row for row in tables["groups"] if row["kind"] == "versus"]),
        "groups": _groups([row for row in tables["groups"] if row["kind"] != "versus"], judged, compared),
        "curves": _curves(tables["curves"], headline),
        "cost": _cost(tables, {row["name"]: row["edges"] for row in result.card["relations"]}, judged, relations),
        "tuning": _tuning(tables["tuning"]),
        "notes": _notes(tables["notes"], set().union(*headline.values())),
        "audit": sorted(result.card["audit"], key=lambda row: AUDIT.index(row["level"])),
        "leaks": [row for row in result.card["audit"] if row["level"] == "leak" and not row.get("accepted")],
        "accepted": result.card.get("accepted_leaks", []),
        "stamp": leak_suffix(result.card.get("accepted_leaks", []), titles),
        "suspicious_gains": result.card.get("suspicious_gains", []),
    }


def excludes_zero(row: Row) -> bool:
    """Does the interval leave zero out?"""
    return is_finite(row["low"]) and is_finite(row["high"]) and (row["low"] > 0 or row["high"] < 0)


def is_significant(row: Row) -> bool:
    """By the Holm-adjusted p where there is one, else by the interval."""
    return excludes_zero(row) and not (is_finite(row["p_holm"]) and row["p_holm"] >= ALPHA)


def _check(result: StudyResult) -> None:
    for name, text in REQUIRED_COLUMNS.items():
        part = getattr(result, name)
        found = set(part if name == "card" else part.columns)
        if (name == "card" or not part.is_empty()) and (lacking := sorted(set(text.split()) - found)):
            raise InputError(
                "a stored study lacks a field",
                where=f"{name} of study {result.card.get('name', '?')!r}",
                expected=", ".join(lacking),
                found=", ".join(sorted(found)),
            )


def _ordered_relations(verdicts: list[Row], lead: str | None) -> list[str]:
    """What helps first, then the larger drop first; relations that only other models judged come last."""
    own = [row for row in verdicts if row["model"] == lead]
    own.sort(key=lambda row: (ORDER.index(row["verdict"]), -row["drop"] if is_finite(row["drop"]) else 0.0))
    return list(dict.fromkeys(row["relation"] for row in own + verdicts))


def _headline_arms(effects: list[Row]) -> dict[str, set[str]]:
    """The names of the arms "all" and "interactions", as the study wrote them."""
    gains = [row for row in effects if row["kind"] == "gain"]
    return {
        "all": {"all"} | {row["arm_a"] for row in gains},
        "interactions": {"interactions"} | {row["arm_b"] for row in gains},
    }


def _basis(tables: dict[str, list[Row]], lead: str | None) -> dict[str, Row | None]:
    """The figures under the sentence: the lead model's gain and the two arms it compares."""
    gain = next((row for row in tables["effects"] if row["kind"] == "gain" and row["model"] == lead), None)
    mine = {row["arm"]: row for row in tables["leaderboard"] if row["model"] == lead}
    return {
        "gain": gain,
        "all": mine.get(gain["arm_a"]) if gain else None,
        "interactions": mine.get(gain["arm_b"]) if gain else None,
    }


def _agreement(model: str, lead: str, relations: list[str], verdict: dict[tuple[str, str], Row]) -> Row:
    both = [name for name in relations if (model, name) in verdict and (lead, name) in verdict]
    words = [(name, verdict[model, name]["verdict"], verdict[lead, name]["verdict"]) for name in both]
    differs = [(name, word) for name, word, leads in words if word != leads]
    return {"model": model, "n": len(both), "agree": len(both) - len(differs), "differs": differs}


def _plan(plan: Row | None, lead: str | None) -> Row | None:
    """The path of the lead model, on one axis; None where none was run."""
    if plan is None or plan["model"] != lead or not plan["steps"]:
        return None
    ends = [step[end] for step in plan["steps"] for end in ("total", "total_low", "total_high")]
    steps = [
        step | {"mean": step["total"], "low": step["total_low"], "high": step["total_high"]} for step in plan["steps"]
    ]
    for step in steps:
        step["significant"] = excludes_zero(step)
    return plan | {"steps": steps, "scale": Axis.over([0.0, *ends], most=6)}


def _planted(verdicts: list[Row]) -> Row | None:
    """How many verdicts agree with the planted truth; None where no truth is known."""
    told = [row for row in verdicts if row["true_verdict"] is not None]
    right = sum(agrees(row["verdict"], row["true_verdict"]) for row in told)
    return {"n": len(told), "right": right} if told else None


def _forest(effects: list[Row], judged: list[str], relations: list[str]) -> Row:
    shown = [row for row in effects if row["kind"] in KINDS]
    models = []
    for model in dict.fromkeys([*judged, *(row["model"] for row in shown)]):
        blocks = []
        for relation in [None, *relations]:
            rows = [row for row in shown if row["model"] == model and row["relation"] == relation]
            if rows:
                blocks.append({"relation": relation, "rows": sorted(rows, key=lambda row: KINDS.index(row["kind"]))})
        if blocks:
            models.append({"model": model, "blocks": blocks})
    ends = [row[end] for row in shown for end in ("mean", "low", "high", "detectable_effect")]
    ends += [-row["detectable_effect"] for row in shown if is_finite(row["detectable_effect"])]
    return {"models": models, "scale": Axis.over([0.0, *ends], most=8)}


def _beside(effects: list[Row], judged: list[str], relations: list[str]) -> list[Row]:
    """Per model what a relation adds beside each other one; only relations that were tried so."""
    found = []
    for model in judged:
        cell = {(r["relation"], r["other"]): r for r in effects if r["kind"] == "beside" and r["model"] == model}
        rows = [r for r in relations if any(r == key[0] for key in cell)]
        others = [r for r in relations if any(r == key[1] for key in cell)]
        if cell:
            found.append({"model": model, "rows": rows, "others": others, "cell": cell})
    return found


def _versus(effects: list[Row]) -> Row | None:
    """Each model's differences to the rival, on one axis; None where no rival was named."""
    rows = [row for row in effects if row["kind"] in ("versus", "versus gain")]
    if not rows:
        return None
    ends = [row[end] for row in rows for end in ("mean", "low", "high")]
    models = dict.fromkeys(row["model"] for row in rows)
    return {
        "rival": rows[0]["other"],
        "gains": any(row["kind"] == "versus gain" for row in rows),
        "models": [{"model": m, "rows": [row for row in rows if row["model"] == m]} for m in models],
        "scale": Axis.over([0.0, *ends], most=8),
    }


def _other_metrics(effects: list[Row], board: list[Row], judged: list[str], relations: list[str]) -> Row:
    """Per model a line for each relation and kind of effect, a cell per metric.

    Metrics that say nothing more are not there: with one relevant item a user, recall is hit, and precision and MAP
    add nothing.
    """
    measures = list(dict.fromkeys(row["measure"] for row in effects))
    cuts = dict.fromkeys(name.partition("@")[2] for name in measures)
    one = {k for k in cuts if k and all(row.get(f"hit@{k}") == row.get(f"recall@{k}") for row in board)}
    more = ("recall", "precision", "map")
    shown = [m for m in measures if not (m.partition("@")[2] in one and m.partition("@")[0] in more)]
    shown.sort(key=lambda m: (SHOWN_METRICS.index(m.partition("@")[0]), int(m.partition("@")[2] or 0)))
    order = [None, *relations]
    told = [row for row in effects if row["kind"] in ("gain", "drop", "alone") and row["relation"] in order]
    told.sort(key=lambda row: order.index(row["relation"]))
    parts = [{"model": model, "rows": lines_of([row for row in told if row["model"] == model])} for model in judged]
    return {"measures": shown, "models": [part for part in parts if part["rows"]]}


def _leaderboard(rows: list[Row], effects: list[Row], columns: list[str], metric: str, digits: int) -> Row:
    """One row per model and headline arm; a model that has neither of those arms shows its best row."""
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
        "scale": Axis.over([0.0, *(row[end] for row in shown for end in ("mean", "low", "high"))], most=4),
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
    """Those at the study's own cut. With one relevant item a user, recall is hit; precision and MAP add nothing."""
    shown = [
        name for name in columns if name.partition("@")[0] in SHOWN_METRICS and name.partition("@")[2] in ("", k)
    ]
    hit, recall = f"hit@{k}", f"recall@{k}"
    if {hit, recall} <= set(shown) and all(row[hit] == row[recall] for row in rows):
        shown = [name for name in shown if name.partition("@")[0] not in ("recall", "precision", "map")]
    return sorted(shown, key=lambda name: SHOWN_METRICS.index(name.partition("@")[0]))


def _plain(model: str) -> str:
    return "".join(letter for letter in model.lower() if letter.isalnum())


def _by_group(rows: list[Row], columns: list[str], board: list[Row], metric: str, digits: int) -> Row:
    """The study's metric and hit at its cut: group column → its labels, and per row of the leaderboard a cell each.

    "all users" is the first label of every column; it is no column of its own.
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
    found = {}
    for group, inside in counts.items():
        labels = [*overall, *((group, label, n) for label, n in inside.items())]
        best = {
            (label, name): max(_rounded(cell.get((*arm, of, label), {}).get(name), digits) for arm in shown)
            for of, label, _ in labels
            for name in figures
        }
        found[group] = {
            "labels": [{"label": label, "n_users": n} for _, label, n in labels],
            "parts": list(inside),
            "rows": [
                {
                    "model": model,
                    "arm": arm,
                    "cells": [
                        [
                            {
                                "value": value,
                                "best": is_finite(value) and _rounded(value, digits) == best[label, name],
                            }
                            for name in figures
                            for value in [cell.get((model, arm, of, label), {}).get(name)]
                        ]
                        for of, label, _ in labels
                    ],
                }
                for model, arm in shown
            ],
            "every": [
                cell[model, arm, group, label]
                for label in inside
                for model, arm in shown
                if (model, arm, group, label) in cell
            ],
        }
    places = {name: decimals(name, digits) for name in metrics}
    return {"columns": found, "figures": figures, "metrics": metrics, "decimals": places}


def _rounded(value: float | None, digits: int) -> float:
    """As it is shown, so that figures that read the same are equally good; nothing is below everything."""
    return round(value, digits) if value is not None and is_finite(value) else -math.inf


def _rivalry(rows: list[Row]) -> Row:
    """Group column → a panel per model: its differences to the rival, all on one axis."""
    panels: dict[str, dict[str, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: row["order"]):
        panels.setdefault(row["group"], {}).setdefault(row["model"], []).append(row)
    models = list(dict.fromkeys(row["model"] for row in rows))
    return {
        "rival": rows[0]["other"] if rows else None,
        "columns": {
            group: [{"title": m, "kind": f"− {rows[0]['other']}", "rows": of[m]} for m in models if m in of]
            for group, of in panels.items()
            if len({row["label"] for part in of.values() for row in part}) > 1
        },
        "scale": Axis.over([0.0, *(row[end] for row in rows for end in ("mean", "low", "high"))], most=4),
    }


def _notes(rows: list[Row], headline: set[str]) -> list[Row]:
    """Per note a table of models and arms by keys, means over seeds; arms other than the headline's to unfold."""
    found = []
    for note in dict.fromkeys(row["note"] for row in rows):
        mine = [row for row in rows if row["note"] == note]
        cells: dict[tuple[str, str], dict[str, Row]] = {}
        for row in mine:
            seeds = cells.setdefault((row["model"], row["arm"]), {}).setdefault(row["key"], {"of": []})
            seeds["of"].append(row)
        for of_key in cells.values():
            for one in of_key.values():
                for name in ("value", "sd", "count"):
                    values = [row[name] for row in one["of"] if is_finite(row[name])]
                    one[name] = sum(values) / len(values) if values else None
        bare = {model for model, _ in cells} - {model for model, arm in cells if arm in headline}
        lines = [{"model": model, "arm": arm, "cells": of} for (model, arm), of in cells.items()]
        found.append(
            {
                "note": note,
                "keys": list(dict.fromkeys(row["key"] for row in mine)),
                "main": [line for line in lines if line["arm"] in headline or line["model"] in bare],
                "rest": [line for line in lines if line["arm"] not in headline and line["model"] not in bare],
            }
        )
    return found


def _groups(rows: list[Row], judged: list[str], relations: list[str]) -> Row:
    """Model → group column → a panel per relation and kind: drops and the gain first, the rest to unfold."""
    place = {relation: i for i, relation in enumerate([None, *relations])}
    panels: dict[tuple[str, str, str, str | None], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (place.get(row["relation"], len(place)), row["order"])):
        panels.setdefault((row["model"], row["group"], row["kind"], row["relation"]), []).append(row)
    first = {"gain", "drop"} & {row["kind"] for row in rows} or set(KINDS)
    models: dict[str, dict[str, Row]] = {}
    for model in dict.fromkeys([*judged, *(row["model"] for row in rows)]):
        for column in dict.fromkeys(row["group"] for row in rows if row["model"] == model):
            mine: list[Row] = [
                {"kind": kind, "title": key[3] if key[3] is not None else "all relations", "rows": panels[key]}
                for kind in (*KINDS, "beside")
                for key in panels
                if key[:3] == (model, column, kind)
            ]
            models.setdefault(model, {})[column] = {
                "main": [panel for panel in mine if panel["kind"] in first],
                "rest": [panel for panel in mine if panel["kind"] not in first],
                "labels": list(dict.fromkeys(row["label"] for panel in mine for row in panel["rows"])),
            }

    def scale(shown: bool) -> Axis:
        some = [row for row in rows if (row["kind"] in first) == shown]
        return Axis.over([0.0, *(row[end] for row in some for end in ("mean", "low", "high"))], most=4)

    return {"models": models, "scale": scale(True), "rest_scale": scale(False)}


def _curves(rows: list[Row], headline: dict[str, set[str]]) -> list[Row]:
    """Per model two panels (validation metric, training loss), one line per arm and seed, headline arms on top."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        runs: dict[tuple[str, int], list[Row]] = {}
        for row in sorted(mine, key=lambda row: row["epoch"]):
            runs.setdefault((row["arm"], row["seed"]), []).append(row)
        panels = [_panel(name, runs, headline) for name in ("metric", "loss")]
        checked = [[row for row in run if is_finite(row["metric"])] for run in runs.values()]
        best = [(max(run, key=lambda row: row["metric"]), run[-1]) for run in checked if run]
        found.append(
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
    return found


def _panel(name: str, runs: dict[tuple[str, int], list[Row]], headline: dict[str, set[str]]) -> Row:
    points = {key: [(row["epoch"], row[name]) for row in run if is_finite(row[name])] for key, run in runs.items()}
    points = {key: _thin(line) for key, line in points.items() if line}
    x = Axis.over([epoch for line in points.values() for epoch, _ in line], margin=0.0)
    y = Axis.over([value for line in points.values() for _, value in line], most=6)
    lines = []
    for (arm, seed), line in points.items():
        style = next((style for style, arms in headline.items() if arm in arms), "other")
        places = [(x.at(epoch), round(100 - y.at(value), 2)) for epoch, value in line]
        lines.append({"arm": arm, "seed": seed, "style": style, "points": places})
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
    """Per model: what each relation costs beside what it brings, and every arm."""
    arms = {(row["model"], row["arm"]): row for row in tables["leaderboard"]}
    effect = {(row["model"], row["relation"], row["kind"]): row for row in tables["effects"]}
    found = []
    for model in dict.fromkeys([*judged, *(row["model"] for row in tables["leaderboard"])]):
        table = []
        for relation in relations if model in judged else []:
            row: Row = {"relation": relation, "edges": edges.get(relation)}
            for kind in ("drop", "alone"):
                row[kind] = pair = effect.get((model, relation, kind), {})
                one, two = (arms.get((model, pair.get(end)), {}) for end in ("arm_a", "arm_b"))
                for unit in ("seconds", "peak_mb"):
                    both = is_finite(one.get(unit)) and is_finite(two.get(unit))
                    row[f"{kind}_{unit}"] = one[unit] - two[unit] if both else None
            table.append(row)
        mine = [row for row in tables["leaderboard"] if row["model"] == model]
        if mine:
            found.append({"model": model, "relations": table, "arms": mine})
    return found


def _tuning(rows: list[Row]) -> Row:
    """The chosen trial of each cell, and how many trials the cells took."""
    trials = Counter((row["model"], row["arm"], row["seed"]) for row in rows)
    chosen = [{**row, "config": _readable(row["config"])} for row in rows if row["chosen"]]
    return {"chosen": chosen, "trials": sorted(set(trials.values())), "cells": len(trials)}


def _readable(config: str) -> str:
    try:
        values = json.loads(config)
    except ValueError:
        return config
    return ", ".join(f"{key} = {value}" for key, value in values.items()) if isinstance(values, dict) else str(values)
