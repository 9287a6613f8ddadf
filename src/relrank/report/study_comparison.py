"""Two studies side by side: what differs in their settings, what became of the verdicts, and what is comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relrank.report.decision import strongest_without_relations
from relrank.report.formatting import (
    Axis,
    count,
    interval,
    is_finite,
    listed,
    metric_name,
    number,
    relative,
    share,
    signed,
)
from relrank.report.table_data import table_data
from relrank.report.verdict_summary import Row, answer, base_metric, primary_model, steps_to_build
from relrank.study.result import StudyResult, titles_of

MISSING = "not in it"
CHANGES = ("changed", "same", "only in A", "only in B")
KINDS = {"held": "beside the others", "alone": "alone"}


def compare_studies(a: StudyResult, b: StudyResult, names: tuple[str, str] | None = None) -> Row:
    """Everything that the page of two studies shows.

    Args:
        a: a study.
        b: another one.
        names: how they are called; by default by their names, with "(2)" if these are equal.
    """
    names = names or (str(a.card["name"]), str(b.card["name"]))
    if names[0] == names[1]:
        names = names[0], f"{names[1]} (2)"
    settings = _settings(a, b)
    verdicts = _verdicts(a, b)
    return {
        "card": {"name": f"{names[0]} and {names[1]}", "decimals": max(a.decimals, b.decimals)},
        "names": names,
        "answers": [answer(a), answer(b)],
        "titles": [a.card["title"], b.card["title"]],
        "leads": [primary_model(a), primary_model(b)],
        "metrics": [metric_name(one.card["metric"]) for one in (a, b)],
        "limits": comparability(a, b),
        "differing": [row for row in settings if row["a"] != row["b"]],
        "equal": [row for row in settings if row["a"] == row["b"]],
        "verdicts": verdicts,
        "changed": [row for row in verdicts if row["change"] == "changed"],
        "shared": [row for row in verdicts if row["change"] in ("changed", "same")],
        "comparable": _is_comparable(a, b),
        "verdict_data": table_data(verdicts, "relation title verdict_a verdict_b change"),
        "forest": _forest(a, b),
        "board": _board(a, b),
    }


def comparability(a: StudyResult, b: StudyResult) -> list[str]:
    """Sentences on what cannot be compared, the worst first; none if data, splits, protocol and metric are equal."""
    limits = []
    marks = [set(one.card["fingerprints"]) for one in (a, b)]
    shared = marks[0] & marks[1]
    if a.card["metric"] != b.card["metric"]:
        words = " and ".join(metric_name(one.card["metric"]) for one in (a, b))
        limits.append(f"The metrics differ ({words}): no effect and no row of the leaderboards can be compared.")
    if not shared:
        limits.append(
            "The data, the filters or the splits differ: no figure of one study may be compared with one of the "
            "other. The verdicts answer two different questions."
        )
    elif marks[0] != marks[1]:
        limits.append(
            f"{len(shared)} of {len(marks[0] | marks[1])} splits are in both studies: figures are means over "
            "different splits, so small differences say nothing."
        )
    if a.card["protocol"] != b.card["protocol"]:
        limits.append(f"The protocols differ: {a.card['protocol']} and {b.card['protocol']}.")
    leads = primary_model(a), primary_model(b)
    if leads[0] != leads[1] and None not in leads:
        limits.append(f"The verdicts are of two models, {leads[0]} and {leads[1]}.")
    limits += [f"{one.card['name']} is a smoke run; its figures mean nothing." for one in (a, b) if one.card["smoke"]]
    limits += [f"{one.card['name']} is provisional: it still runs." for one in (a, b) if one.card.get("progress")]
    return limits


def _settings(a: StudyResult, b: StudyResult) -> list[Row]:
    sides = [_settings_of(one) for one in (a, b)]
    return [{"name": name, "a": sides[0][name], "b": sides[1][name]} for name in sides[0]]


def _settings_of(result: StudyResult) -> dict[str, str]:
    """What was set and given, by name, as text."""
    card, lead = result.card, primary_model(result)
    base, titles = base_metric(result, lead), titles_of(card)
    margin = next((row["margin"] for row in result.verdicts.iter_rows(named=True) if row["model"] == lead), None)
    strongest = strongest_without_relations(result)
    models = sorted(dict.fromkeys(row["model"] for row in result.leaderboard.iter_rows(named=True)))
    dates = card.get("dates")
    return {
        "Protocol": card["protocol"],
        "Metric": metric_name(card["metric"]),
        "Split seeds": ", ".join(map(str, card["seeds"])),
        "Fingerprints": ", ".join(mark[:8] for mark in card["fingerprints"]),
        "Users": count(card["n_users"]),
        "Items": count(card["n_items"]),
        "Training rows": count(card["n_train"]),
        "Dates": f"{dates[0]} to {dates[1]}" if dates else "none",
        "Relations": listed([titles.get(row["name"], row["name"]) for row in card["relations"]], most=30) or "none",
        "Links": ", ".join(f"{titles.get(r['name'], r['name'])} {count(r['edges'])}" for r in card["relations"]),
        "Models": listed(models, most=30),
        "Judge": lead or "none",
        "Strongest without relations": strongest["model"] if strongest else "none",
        "Margin": share(margin / base) if base and margin is not None and is_finite(margin) else "none",
        "Trials per arm, at most": str(card["trials"]),
        "Smoke run": "yes" if card["smoke"] else "no",
        "relrank": str(card["machine"]["relrank"]),
        "torch": str(card["machine"]["torch"]),
        "Processor": str(card["machine"]["cpu"]),
    }


def _lead_rows(result: StudyResult) -> dict[str, Row]:
    lead = primary_model(result)
    return {row["relation"]: row for row in result.verdicts.iter_rows(named=True) if row["model"] == lead}


def _verdicts(a: StudyResult, b: StudyResult) -> list[Row]:
    """A row per relation of either study, with both verdicts; "build" where the plan builds it."""
    sides = [_lead_rows(one) for one in (a, b)]
    built = [{step["relation"] for step in steps_to_build(one, primary_model(one))} for one in (a, b)]
    titles = titles_of(b.card) | titles_of(a.card)
    rows = []
    for relation in dict.fromkeys([*sides[0], *sides[1]]):
        words, gains = [], []
        for result, side, plan in zip((a, b), sides, built, strict=True):
            row = side.get(relation)
            words.append(row["verdict"] if row else MISSING)
            gains.append((*_written(result, row), relation in plan))
        rows.append(
            {
                "relation": relation,
                "title": titles.get(relation, relation),
                "verdict_a": words[0],
                "verdict_b": words[1],
                "change": _change(words, gains),
                "gains": gains,
            }
        )
    return sorted(rows, key=lambda row: CHANGES.index(row["change"]))


def _change(words: list[str], gains: list[tuple[str, str, bool]]) -> str:
    if MISSING in words:
        return "only in A" if words[1] == MISSING else "only in B"
    return "same" if words[0] == words[1] and gains[0][2] == gains[1][2] else "changed"


def _is_comparable(a: StudyResult, b: StudyResult) -> bool:
    """Whether the studies have a split and the metric in common."""
    shared = set(a.card["fingerprints"]) & set(b.card["fingerprints"])
    return bool(shared) and a.card["metric"] == b.card["metric"]


def _written(result: StudyResult, row: Row | None) -> tuple[str, str]:
    """What a relation adds beside the others, and its interval; relative to the interactions alone if possible."""
    if row is None or not is_finite(row["held"]):
        return "", ""
    figures, base = (row["held"], row["held_low"], row["held_high"]), base_metric(result, primary_model(result))
    if figures == (0, 0, 0):
        return "0 %", "changes no list"
    return relative(*figures, base) if base else (signed(figures[0]), interval(*figures[1:]))


def _forest(a: StudyResult, b: StudyResult) -> Row | None:
    """Effects of both studies on one axis, in per cent of the interactions alone; None if that cannot be said."""
    bases = [base_metric(one, primary_model(one)) for one in (a, b)]
    if None in bases or a.card["metric"] != b.card["metric"]:
        return None
    titles = titles_of(b.card) | titles_of(a.card)
    sides = [_lead_rows(one) for one in (a, b)]
    blocks: list[Row] = []
    for relation in dict.fromkeys([*sides[0], *sides[1]]):
        rows = []
        for kind, words in KINDS.items():
            marks = [_mark(side.get(relation), kind, base) for side, base in zip(sides, bases, strict=True)]
            if any(marks):
                rows.append({"kind": words, "marks": marks})
        if rows:
            blocks.append({"relation": titles.get(relation, relation), "rows": rows})
    shown = [mark for block in blocks for row in block["rows"] for mark in row["marks"] if mark]
    ends = [mark[end] for mark in shown for end in ("mean", "low", "high")]
    data = [
        {"relation": block["relation"], "kind": row["kind"], "study": side, **mark}
        for block in blocks
        for row in block["rows"]
        for side, mark in zip("AB", row["marks"], strict=True)
        if mark
    ]
    return {"blocks": blocks, "scale": Axis.over([0.0, *ends], most=8), "data": table_data(data)} if blocks else None


def _mark(row: Row | None, kind: str, base: float | None) -> Row | None:
    if row is None or not base or not is_finite(row[kind]):
        return None
    mean, low, high = (100 * row[kind + end] / base for end in ("", "_low", "_high"))
    return {"mean": mean, "low": low, "high": high}


def _board(a: StudyResult, b: StudyResult) -> Row:
    """Both leaderboards: a row per model with all relations and with interactions alone."""
    sides = [_headline_rows(one) for one in (a, b)]
    same = set(a.card["fingerprints"]) == set(b.card["fingerprints"]) and a.card["metric"] == b.card["metric"]
    rows = []
    for model, arm in dict.fromkeys([*sides[0], *sides[1]]):
        both = [side.get((model, arm)) for side in sides]
        means = [row["mean"] if row else None for row in both]
        difference = means[1] - means[0] if same and is_finite(means[0]) and is_finite(means[1]) else None
        texts = [
            (number(row["mean"], one.decimals), interval(row["low"], row["high"], sign=False, decimals=one.decimals))
            if row
            else ("–", "")
            for row, one in zip(both, (a, b), strict=True)
        ]
        ends = {f"{end}_{side}": row[end] if row else None for side, row in zip("ab", both, strict=True) for end in
                ("mean", "low", "high")}  # fmt: skip
        rows.append({"model": model, "arm": arm, **ends, "difference": difference, "texts": texts})
    return {"rows": rows, "same": same, "data": table_data(rows, _columns(rows))}


def _columns(rows: Sequence[Row]) -> str:
    return " ".join(name for name in (rows[0] if rows else {}) if name != "texts")


def _headline_rows(result: StudyResult) -> dict[tuple[str, str], Row]:
    rows: dict[tuple[Any, Any], Row] = {}
    for row in result.leaderboard.iter_rows(named=True):
        if row["arm"] in ("all", "interactions"):
            rows[row["model"], row["arm"]] = row
    return rows
