"""The one sentence on top of the page: what the verdicts amount to."""

from __future__ import annotations

import math
from typing import Any

from relrank.report.figures import known, listed, metric_name, number
from relrank.study.leaks import stamp
from relrank.study.result import StudyResult
from relrank.study.verdicts import ALPHA

ORDER = ("helps", "redundant", "hurts", "no evidence")

Row = dict[str, Any]


def lead_model(result: StudyResult) -> str | None:
    """Of the models with verdicts the one whose verdicts count first; None without verdicts.

    It is the one that is best on the interactions alone, on validation: what a relation adds is asked of the
    strongest model. Where none was run so, the best on any arm; arms with shuffled links do not count. Where a stored
    study has no validation column, test decides.
    """
    judged = [] if result.verdicts.is_empty() else result.verdicts["model"].unique(maintain_order=True).to_list()
    for judge in result.card.get("judges", []):
        if judge["model"] in judged:
            return str(judge["model"])
    best = dict.fromkeys(judged, -math.inf)
    for row in result.leaderboard.iter_rows(named=True):
        metric = row.get("valid", row["mean"])
        if row["model"] in best and known(metric) and not row["arm"].endswith("rewired"):
            best[row["model"]] = max(best[row["model"]], metric)
    return max(best, key=lambda model: best[model]) if best else None  # the first listed wins a tie


def answer(result: StudyResult) -> str:
    """One sentence that answers which relations make recommendations better; it names accepted leaks.

    The verdicts are those of ``lead_model``. "No evidence" never stands alone: the largest of the smallest detectable
    effects says what would have been seen.

    Args:
        result: a finished study.

    Returns:
        Plain text, e.g. ``"tags and text help; language: no evidence (an effect of ±.0040 would have been seen)."``
    """
    accepted = stamp(result.card.get("accepted_leaks", []))
    return _answer(result) + (f" ({accepted})" if accepted else "")


def _answer(result: StudyResult) -> str:
    lead = lead_model(result)
    if lead is None:
        rows = list(result.effects.iter_rows(named=True))
        of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("gain", "versus")}
        if not rows and result.card.get("left_out"):
            return "No relation was judged, since models of this study did not fit into memory."
        return _of_gains(of_kind["gain"]) if of_kind["gain"] or not of_kind["versus"] else _against(of_kind["versus"])
    rows = [row for row in result.verdicts.iter_rows(named=True) if row["model"] == lead]
    by = {verdict: [row for row in rows if row["verdict"] == verdict] for verdict in ORDER}
    if len(by["no evidence"]) == len(rows):
        seen = _would_have_been_seen(rows, f" in {metric_name(result.card['metric'])}")
        subject = f"{_names(rows, rows)} is not" if len(rows) == 1 else "No relation is"
        return f"{subject} shown to help or to hurt{seen}."
    clauses = []
    if by["helps"]:
        clauses.append(f"{_names(by['helps'], rows)} {_verb(by['helps'], 'help')}")
    for others in dict.fromkeys(row["redundant_with"] for row in by["redundant"]):
        group = [row for row in by["redundant"] if row["redundant_with"] == others]
        beside = "the other relations" if not others else listed([name.strip() for name in others.split(",")])
        be = "is" if len(group) == 1 else "are"
        clauses.append(f"{_names(group, rows)} {_verb(group, 'help')}, but {be} redundant with {beside}")
    if by["hurts"]:
        clauses.append(f"{_names(by['hurts'], rows)} {_verb(by['hurts'], 'hurt')}")
    if by["no evidence"]:
        clauses.append(f"{_names(by['no evidence'], rows)}: no evidence{_would_have_been_seen(by['no evidence'])}")
    return "; ".join(clauses) + "."


def _of_gains(gains: list[Row]) -> str:
    """What is left to say where no relation was tried by itself: whether all of them together help."""
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
            f"(+{number(most['mean'])})"
        )
    if hurt:
        clauses.append(f"{'they' if helped else 'all relations together'} hurt {listed(hurt, most=3)}")
    if open_:
        clauses.append(f"no evidence for {listed(open_, most=3)}")
    text = "; ".join(clauses)
    return text[0].upper() + text[1:] + "."


def _against(rows: list[Row]) -> str:
    """Where no model was run with and without relations: which models beat the study's rival."""
    rival = rows[0]["other"]
    better = sorted((row for row in rows if row["low"] > 0 and row["p_holm"] < ALPHA), key=lambda row: -row["mean"])
    worse = [row["model"] for row in rows if row["high"] < 0 and row["p_holm"] < ALPHA]
    open_ = [row["model"] for row in rows if row not in better and row["model"] not in worse]
    clauses = []
    if better:
        named = [f"{row['model']} (+{number(row['mean'])})" for row in better]
        clauses.append(f"{listed(named, most=3)} {'is' if len(better) == 1 else 'are'} better than {rival}")
    if worse:
        than = "" if better else f" than {rival}"
        clauses.append(f"{listed(worse, most=3)} {'is' if len(worse) == 1 else 'are'} worse{than}")
    if open_:
        none = "no evidence for" if clauses else "No evidence for"
        clauses.append(f"{none} {listed(open_, most=3)}{'' if clauses else f' against {rival}'}")
    return "; ".join(clauses) + "."


def _names(rows: list[Row], of: list[Row]) -> str:
    """All names of a small study; three a clause of a large one, so that the sentence stays one."""
    return listed([row["relation"] for row in rows], most=8 if len(of) <= 8 else 3)


def _verb(rows: list[Row], verb: str) -> str:
    return verb + "s" if len(rows) == 1 else verb


def _would_have_been_seen(rows: list[Row], unit: str = "") -> str:
    smallest = [row["smallest"] for row in rows if known(row["smallest"])]
    return f" (an effect of ±{number(max(smallest))}{unit} would have been seen)" if smallest else ""
