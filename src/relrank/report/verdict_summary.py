"""The summary at the top of the page: what to build, and what is known about the other relations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from relrank.graph.relation import Titles
from relrank.report.formatting import is_finite, listed, metric_name, number
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
    """What to build and in which order, and what is known about the other relations.

    Plan and verdicts are those of ``primary_model``; accepted leaks are named.

    Args:
        result: a finished study.

    Returns:
        Plain text, e.g. ``"Build text, then tags: +25 % NDCG@10, 97 % of what all five bring. Language hurts."``
    """
    accepted = leak_suffix(result.card.get("accepted_leaks", []), titles_of(result.card))
    return _answer(result) + (f" ({accepted})" if accepted else "")


def _answer(result: StudyResult) -> str:
    lead, digits = primary_model(result), result.decimals
    if lead is None:
        rows = [row for row in result.effects.iter_rows(named=True) if row["kind"] != "strongest"]
        of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("gain", "versus")}
        if not rows and result.card.get("skipped"):
            return "No relation was judged, since models of this study did not fit into memory."
        if of_kind["versus"] and not of_kind["gain"]:
            return _against(of_kind["versus"], digits)
        return _of_gains(of_kind["gain"], digits)
    titles, verdicts = titles_of(result.card), list(result.verdicts.iter_rows(named=True))
    rows = [row for row in verdicts if row["model"] == lead]
    by = {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in ORDER}
    plan = result.card.get("plan")
    steps = plan["steps"][: plan["build"]] if plan is not None and plan["model"] == lead else []
    built = [name for step in steps for name in (step["relation"], *step.get("through", ()))]
    sentences = []
    if plan is not None and steps:
        n_read = sum(row["verdict"] != NOT_READ for row in rows)
        sentences.append(_to_build(plan, steps, n_read, metric_name(result.card["metric"]), titles))
    by["undecided"] = [row for row in by["undecided"] if row["relation"] not in built]  # the plan says more
    helping = [row for row in by["helps"] if row["relation"] not in built]
    if helping:
        sentences.append(f"{_names(helping, rows, titles)} {_verb(helping, 'help')}{', too' if built else ''}.")
    for others in dict.fromkeys(row["interchangeable_with"] for row in by["interchangeable"]):
        group = [row for row in by["interchangeable"] if row["interchangeable_with"] == others]
        instead = (
            "replaced by the others" if not others else f"interchangeable with {_or(others.split(', '), titles)}"
        )
        sentences.append(f"{_names(group, rows, titles)} {_are(group)} {instead}.")
    if by["hurts"]:
        sentences.append(f"{_names(by['hurts'], rows, titles)} {_verb(by['hurts'], 'hurt')}.")
    margin = number(rows[0]["margin"], digits)
    visible = [row["detectable_effect"] for row in by["undecided"] if is_finite(row["detectable_effect"])]
    seen = f" (an effect of ±{number(max(visible), digits)} would have been seen)" if visible else ""
    for verdict, words in (
        ("negligible", f"negligible (within ±{margin})"),
        ("undecided", f"undecided{seen}"),
        (NOT_READ, f"not read by {lead}"),
    ):
        if group := by[verdict]:
            sentences.append(f"{_names(group, rows, titles)} {_are(group)} {words}.")
    if not steps and not by["helps"]:
        sentences.insert(0, "No relation is shown to be worth building.")
    if differing := _differing(verdicts, lead):
        sentences.append(f"The models disagree on {listed([titles.get(name, name) for name in differing], most=3)}.")
    return " ".join(sentences)


def _differing(verdicts: list[Row], lead: str) -> list[str]:
    """Relations that another model judges differently from the lead; models that do not use one do not count."""
    of_lead = {row["relation"]: row["verdict"] for row in verdicts if row["model"] == lead}
    others = [row for row in verdicts if row["model"] != lead and row["verdict"] != NOT_READ]
    differing = {row["relation"] for row in others if row["verdict"] != of_lead.get(row["relation"], row["verdict"])}
    return [name for name, verdict in of_lead.items() if name in differing and verdict != NOT_READ]


def _to_build(plan: Row, steps: list[Row], n_read: int, metric: str, titles: Titles) -> str:
    """The first sentence: what to build, what it adds, and its share of what all relations add."""
    names = []
    for step in steps:
        through = ", ".join(titles.get(name, name) for name in step.get("through", ()))
        extra = [f"through {through}"] if through else []
        extra += [f"or {_or(step['alternatives'], titles)}"] if step["alternatives"] else []
        names.append(titles.get(step["relation"], step["relation"]) + (f" ({'; '.join(extra)})" if extra else ""))
    last = steps[-1]
    text = f"Build {', then '.join(names)}: {last['total'] / plan['base']:+.0%} {metric}".replace("%", " %")
    if last["share"] is not None and n_read > len(steps):
        everything = {2: "both", 3: "all three", 4: "all four", 5: "all five"}.get(n_read, f"all {n_read}")
        text += f", {last['share']:.0%} of what {everything} bring".replace("%", " %")
    return text + "."


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
