"""The decision in one sentence: what to build, and what is known about the other relations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from relrank.graph.relation import Titles
from relrank.report.formatting import is_finite, listed, metric_name, number, share
from relrank.study.leaks import leak_suffix
from relrank.study.result import StudyResult, titles_of
from relrank.study.verdicts import ALPHA, NOT_READ, ORDER

Row = dict[str, Any]


def primary_model(result: StudyResult) -> str | None:
    """The model whose verdicts come first; None without verdicts.

    It is the model that validates best on the interactions alone, or, if none was run so, the best on any arm without
    shuffled links. For stored studies without a validation column the test metric decides.
    """
    rows = result.verdicts.iter_rows(named=True)
    judged = list(dict.fromkeys(row["model"] for row in rows if row["verdict"] != NOT_READ))
    for judge in result.card.get("model_strength", []):
        if judge["model"] in judged:
            return str(judge["model"])
    best = dict.fromkeys(judged, -math.inf)
    for row in result.leaderboard.iter_rows(named=True):
        metric = row.get("valid", row["mean"])
        if row["model"] in best and is_finite(metric) and not row["arm"].endswith("rewired"):
            best[row["model"]] = max(best[row["model"]], metric)
    return max(best, key=lambda model: best[model]) if best else None  # the first listed wins a tie


def answer(result: StudyResult) -> str:
    """The decision in one sentence, as the page, the terminal and MLflow show it.

    Plan and verdicts are those of ``primary_model``; gains are relative to the interactions alone. A study that still
    runs is called provisional, a smoke run is called one, and accepted leaks are named.

    Args:
        result: a study, finished or not.

    Returns:
        Plain text, e.g. ``"Build text first, then tags: together they make the top-10 list 25 % better; language
        hurts."``
    """
    text = decision_sentence(result)
    if (progress := progress_of(result.card)) is None:
        return text
    return f"Provisional, {progress['cells_done']} of {progress['cells_total']} cells: {text}"


def decision_sentence(result: StudyResult) -> str:
    """The same without the remark that a study still runs, for a page that has a banner."""
    smoke = "Smoke run, the figures mean nothing: " if result.card.get("smoke") else ""
    accepted = leak_suffix(result.card.get("accepted_leaks", []), titles_of(result.card))
    so_far = (progress_of(result.card) or {}).get("so_far")
    sentence = f"No verdict yet; {so_far}." if so_far else _sentence(result)
    return f"{smoke}{sentence}" + (f" ({accepted})" if accepted else "")


def progress_of(card: Mapping[str, Any]) -> Row | None:
    """How far a study that runs has come (``StudyResult.card``, ``progress``); None if it is finished."""
    progress: Row | None = card.get("progress")
    return progress


def base_metric(result: StudyResult, model: str | None) -> float | None:
    """The metric of a model on the interactions alone, to which gains are relative; None if unknown or 0."""
    plan = result.card.get("plan")
    if plan is not None and plan["model"] == model:
        return float(plan["base"]) or None
    gains = [row for row in result.effects.iter_rows(named=True) if row["kind"] == "gain" and row["model"] == model]
    arm = gains[0]["arm_b"] if gains else "interactions"
    for row in result.leaderboard.iter_rows(named=True):
        if (row["model"], row["arm"]) == (model, arm) and is_finite(row["mean"]):
            return float(row["mean"]) or None
    return None


def steps_to_build(result: StudyResult, model: str | None) -> list[Row]:
    """The steps of the plan that are worth taking; none if the plan is another model's."""
    plan = result.card.get("plan")
    return list(plan["steps"][: plan["build"]]) if plan is not None and plan["model"] == model else []


def size(value: float, base: float | None, metric: str, decimals: int) -> str:
    """How large a difference is, without its sign: a percentage of ``base``, or in units of the metric."""
    return share(abs(value) / base) if base else f"{number(abs(value), decimals)} {metric}"


def _sentence(result: StudyResult) -> str:
    lead, digits = primary_model(result), result.decimals
    if lead is None:
        rows = [row for row in result.effects.iter_rows(named=True) if row["kind"] != "strongest"]
        of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("gain", "versus")}
        if not rows and progress_of(result.card) is not None:
            return "No verdict yet."
        if not rows and result.card.get("skipped"):
            return "No relation was judged, since models of this study did not fit into memory."
        if of_kind["versus"] and not of_kind["gain"]:
            return _against(of_kind["versus"], digits)
        return _of_gains(of_kind["gain"], digits)
    titles, base = titles_of(result.card), base_metric(result, lead)
    metric = metric_name(result.card["metric"])
    rows = [row for row in result.verdicts.iter_rows(named=True) if row["model"] == lead]
    steps = steps_to_build(result, lead)
    built = [name for step in steps for name in (step["relation"], *step.get("through", ()))]
    by = {word: [row for row in rows if row["verdict"] == word and row["relation"] not in built] for word in ORDER}
    if steps:
        clauses = [_to_build(steps, base, metric, digits, titles)]
        if by["helps"]:
            clauses.append(f"{_names(by['helps'], rows, titles)} {_verb(by['helps'], 'help')}, too")
    elif by["helps"]:
        clauses = [_helping(by["helps"], rows, base, metric, digits, titles)]
    else:
        clauses = ["No relation is shown to be worth building"]
    said = [row["relation"] for row in steps or by["helps"]]
    clauses += _replaceable(by["interchangeable"], rows, said if len(said) == 1 else [], titles)
    if by["hurts"]:
        clauses.append(f"{_names(by['hurts'], rows, titles)} {_verb(by['hurts'], 'hurt')}")
    visible = [row["detectable_effect"] for row in by["undecided"] if (row["detectable_effect"] or 0) > 0]
    unseen = max(visible, default=0.0)
    seen = f" (a change below {size(unseen, base, metric, digits)} can go unseen)" if unseen else ""
    if base and unseen >= base:
        seen = " (the data are too few to tell)"
    for verdict, words in (
        ("negligible", f"negligible (less than {size(rows[0]['margin'] or 0.0, base, metric, digits)} either way)"),
        ("undecided", f"undecided{seen}"),
        (NOT_READ, f"not read by {lead}"),
    ):
        if group := by[verdict]:
            clauses.append(f"{_names(group, rows, titles)} {_are(group)} {words}")
    return "; ".join(clauses) + "."


def ranked_list(metric: str) -> str:
    """What a metric measures, in words: ``the top-10 list``, or ``the ranking`` if it has no cutoff."""
    k = metric.partition("@")[2]
    return f"the top-{k} list" if k else "the ranking"


def _to_build(steps: list[Row], base: float | None, metric: str, decimals: int, titles: Titles) -> str:
    """The first clause: what to build, and how much better recommendations get."""
    names = []
    for step in steps:
        through = ", ".join(titles.get(name, name) for name in step.get("through", ()))
        extra = [f"through {through}"] if through else []
        extra += [f"or {_or(step['alternatives'], titles)}"] if step["alternatives"] else []
        names.append(titles.get(step["relation"], step["relation"]) + (f" ({'; '.join(extra)})" if extra else ""))
    first, *others = names
    order = f"Build {first} first" + (f", then {listed(others)}" if others else "")
    gain = size(steps[-1]["total"], base, metric, decimals)
    if base is None:
        return f"{order}: {'together they add' if others else 'it adds'} {gain}"
    return f"{order}: {'together they make' if others else 'it makes'} {ranked_list(metric)} {gain} better"


def _helping(
    helping: list[Row], of: list[Row], base: float | None, metric: str, decimals: int, titles: Titles
) -> str:
    """The first clause without a plan: what helps beside the other relations."""
    names = _names(helping, of, titles)
    if len(helping) > 1:
        return f"Build {names}: each makes {ranked_list(metric)} better beside the others"
    if not is_finite(helping[0]["held"]):
        return f"Build {names}: it helps"
    gain = size(helping[0]["held"], base, metric, decimals)
    beside = "beside the other relations it" if len(of) > 1 else "it"
    return f"Build {names}: {beside} " + (
        f"makes {ranked_list(metric)} {gain} better" if base is not None else f"adds {gain}"
    )


def _replaceable(rows: list[Row], of: list[Row], it: list[str], titles: Titles) -> list[str]:
    """A clause for each set of relations that others are interchangeable with; "it" is the only one to build."""
    clauses = []
    for others in dict.fromkeys(row["interchangeable_with"] for row in rows):
        group = [row for row in rows if row["interchangeable_with"] == others]
        names = others.split(", ") if others else []
        instead = "it" if names and names == it else _or(names, titles) if names else ""
        what = f"interchangeable with {instead}" if instead else "replaced by the others"
        clauses.append(f"{_names(group, of, titles)} {_are(group)} {what}")
    return clauses


def differing(result: StudyResult) -> list[str]:
    """Relations that another model judges differently from the lead; models that do not use one do not count."""
    lead, verdicts = primary_model(result), list(result.verdicts.iter_rows(named=True))
    of_lead = {row["relation"]: row["verdict"] for row in verdicts if row["model"] == lead}
    others = [row for row in verdicts if row["model"] != lead and row["verdict"] != NOT_READ]
    differing = {row["relation"] for row in others if row["verdict"] != of_lead.get(row["relation"], row["verdict"])}
    return [name for name, verdict in of_lead.items() if name in differing and verdict != NOT_READ]


def _or(names: Sequence[str], titles: Titles) -> str:
    *others, last = (titles.get(name, name) for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def _of_gains(gains: list[Row], decimals: int) -> str:
    """The answer without verdicts: whether all relations together help."""
    if not gains:
        return "This study compared no relations."
    helped = sorted((row for row in gains if row["low"] > 0), key=lambda row: -row["mean"])
    hurt = [row["model"] for row in gains if row["high"] < 0]
    open_ = [row["model"] for row in gains if row["low"] <= 0 <= row["high"]]
    clauses = []
    if helped:
        most = helped[0]
        clauses.append(
            f"All relations together help {len(helped)} of {len(gains)} models, most of all {most['model']} "
            f"(+{number(most['mean'], decimals)})"
        )
    if hurt:
        clauses.append(f"{'they' if helped else 'all relations together'} hurt {listed(hurt, most=3)}")
    if open_:
        clauses.append(f"no evidence for {listed(open_, most=3)}")
    text = "; ".join(clauses)
    return text[0].upper() + text[1:] + "."


def _against(rows: list[Row], decimals: int) -> str:
    """The answer without relations: which models are better than the study's rival."""
    rival = rows[0]["other"]
    better = sorted((row for row in rows if row["low"] > 0 and row["p_holm"] < ALPHA), key=lambda row: -row["mean"])
    worse = [row["model"] for row in rows if row["high"] < 0 and row["p_holm"] < ALPHA]
    open_ = [row["model"] for row in rows if row not in better and row["model"] not in worse]
    clauses = []
    if better:
        named = [f"{row['model']} (+{number(row['mean'], decimals)})" for row in better]
        clauses.append(f"{listed(named, most=3)} {'is' if len(better) == 1 else 'are'} better than {rival}")
    if worse:
        than = "" if better else f" than {rival}"
        clauses.append(f"{listed(worse, most=3)} {'is' if len(worse) == 1 else 'are'} worse{than}")
    if open_:
        none = "no evidence for" if clauses else "No evidence for"
        clauses.append(f"{none} {listed(open_, most=3)}{'' if clauses else f' against {rival}'}")
    return "; ".join(clauses) + "."


def _names(rows: list[Row], of: list[Row], titles: Titles) -> str:
    """Titles of relations: all of them in a small study, three per clause in a large one."""
    return listed([titles.get(row["relation"], row["relation"]) for row in rows], most=8 if len(of) <= 8 else 3)


def _verb(rows: list[Row], verb: str) -> str:
    return verb + "s" if len(rows) == 1 else verb


def _are(rows: list[Row]) -> str:
    return "is" if len(rows) == 1 else "are"
