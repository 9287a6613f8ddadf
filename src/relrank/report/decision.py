"""The decision above the fold: what to build and what not, as short lists; what limits it, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from relrank.graph.relation import Titles
from relrank.report.formatting import (
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
from relrank.report.verdict_summary import Row, base_metric, differing, primary_model, progress_of, steps_to_build
from relrank.study.leaks import leak_suffix
from relrank.study.result import StudyResult, titles_of
from relrank.study.verdicts import ORDER

WEAK_JUDGE = "Weak judge"
SMOKE_RUN = "Smoke run"
FEW_USERS = 300
"""Below this number of test users, the page warns that intervals are wide."""
GROUPS = {
    "build": "Build",
    "interchangeable": "Interchangeable",
    "hurts": "Harmful",
    "negligible": "Negligible",
    "undecided": "Undecided",
}
"""Headings of the lists; that of harmful relations is left out without any."""
MEANING = {
    "build": "in this order",
    "one step": "worth building",
    "helps": "each adds to all the others",
    "interchangeable": "useful, but another one is enough",
    "hurts": "leave out: lists are better without",
    "negligible": "skip: shown to be too small to matter",
    "undecided": "shown neither to help nor to be negligible",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A relation in a list: its title, its gain with the interval, and what the gain is measured against."""

    relation: str
    title: str
    gain: str
    interval: str
    against: str


@dataclass(frozen=True, slots=True)
class Group:
    """A list of relations with one verdict."""

    verdict: str
    heading: str
    meaning: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Caveat:
    """Something that limits the evidence.

    Attributes:
        level: "leak" if no figure is evidence.
        title: a few words.
        text: one or several sentences.
    """

    level: Literal["leak", "warning"]
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A line on what the decision rests on; ``term`` names its explanation, "" if it needs none."""

    label: str
    value: str
    term: str = ""


def decision_groups(result: StudyResult) -> list[Group]:
    """The lists above the fold, by the verdicts of ``primary_model``; none without verdicts.

    Relations of the plan are in "build" whatever their verdict: it is on what they add to all the others.
    """
    lead = primary_model(result)
    if lead is None:
        return []
    write = _Writer(result, lead)
    steps = steps_to_build(result, lead)
    built = {name for step in steps for name in (step["relation"], *step.get("through", ()))}
    rows = [row for row in result.verdicts.iter_rows(named=True) if row["model"] == lead]
    by = {word: [row for row in rows if row["verdict"] == word and row["relation"] not in built] for word in ORDER}
    before: list[str] = []
    build = []
    for step in steps:
        against = f"beside {write.titled(before)}" if before else "on its own"
        verdict = next((row["verdict"] for row in rows if row["relation"] == step["relation"]), "helps")
        against += "" if verdict == "helps" else f"; {verdict} beside all the others"
        build.append(write.entry(step, "adds", against))
        before.append(step["relation"])
    build += [write.entry(row, "held", "beside all the others") for row in by["helps"]]
    lists = {"build": build, "interchangeable": [write.replaceable(row) for row in by["interchangeable"]]}
    for word in ("hurts", "negligible", "undecided"):
        lists[word] = [write.beside_or_alone(row) for row in by[word]]
    meaning = MEANING | {"build": MEANING["build" if len(steps) > 1 else "one step" if steps else "helps"]}
    if progress_of(result.card) is not None:
        meaning["build"] = "so far, as the plan may change"
    return [
        Group(word, heading, meaning[word], tuple(lists[word]))
        for word, heading in GROUPS.items()
        if lists[word] or word != "hurts"
    ]


class _Writer:
    """Writes gains of one model relative to the interactions alone."""

    def __init__(self, result: StudyResult, model: str) -> None:
        self.titles: Titles = titles_of(result.card)
        self.base = base_metric(result, model)
        self.decimals = result.decimals

    def titled(self, names: Iterable[str]) -> str:
        return listed([self.titles.get(name, name) for name in names], most=3)

    def gain(self, row: Row, kind: str) -> tuple[str, str]:
        """The gain and its interval; empty texts for what is unknown."""
        mean, low, high = (row.get(kind + end) for end in ("", "_low", "_high"))
        if mean is None or low is None or high is None or not all(map(is_finite, (mean, low, high))):
            return "", ""
        if self.base is not None:
            return relative(mean, low, high, self.base)
        return signed(mean, self.decimals), interval(low, high, decimals=self.decimals)

    def entry(self, row: Row, kind: str, against: str) -> Entry:
        if row.get(kind) == row.get(f"{kind}_low") == row.get(f"{kind}_high") == 0:
            why = "the model gives it no weight" if row.get("unused") == 1 else "changes no list"
            if row["verdict"] == "undecided" and row.get("unused") == 1:
                why += "; whether a small one would matter is open"
            return Entry(row["relation"], self.titled([row["relation"]]), "0 %", "", why)
        return Entry(row["relation"], self.titled([row["relation"]]), *self.gain(row, kind), against)

    def beside_or_alone(self, row: Row) -> Entry:
        """What it adds beside the others; alone if that has not run yet."""
        if is_finite(row["held"]) or not is_finite(row["alone"]):
            return self.entry(row, "held", "beside all the others")
        return self.entry(row, "alone", "on its own, so far")

    def replaceable(self, row: Row) -> Entry:
        names = row["interchangeable_with"]
        others = self.titled(names.split(", ")) if names else "the others"
        return self.entry(row, "alone", f"on its own; nothing more beside {others}")


def caveats(result: StudyResult) -> list[Caveat]:
    """What limits the evidence, the worst first."""
    card, titles = result.card, titles_of(result.card)
    found: list[Caveat] = []
    leaks = [row for row in card["audit"] if row["level"] == "leak" and not row.get("accepted")]
    if leaks:
        text = f"{_messages(leaks)}. Until this is fixed, the verdicts are not evidence."
        found.append(Caveat("leak", f"The audit found {len(leaks)} leak{'s' * (len(leaks) > 1)}", text))
    if accepted := card.get("accepted_leaks", []):
        why = "The study file accepts this by name, so the study ran; the verdicts are not evidence."
        title = leak_suffix(accepted, titles) or "leak accepted"
        found.append(Caveat("leak", title[0].upper() + title[1:], f"{_messages(accepted)}. {why}"))
    if card["smoke"]:
        found.append(Caveat("warning", SMOKE_RUN, "A quick check on few users and trials."))
    found += [Caveat("warning", "Suspicious gain", text) for text in card.get("suspicious_gains", [])]
    lead = primary_model(result)
    for judge in card.get("model_strength", []):
        if judge["model"] == lead and (judge["stronger"] or judge["better_setting"] is not None):
            text = judge["sentence"].removeprefix(f"{WEAK_JUDGE}: ")
            found.append(Caveat("warning", WEAK_JUDGE, text[0].upper() + text[1:]))
    if any(row["below_ease"] for row in result.leaderboard.iter_rows(named=True) if _is_full(row, lead)):
        found.append(Caveat("warning", "Below EASE", f"{lead} with all relations ranks below EASE, which uses none."))
    if skipped := card.get("skipped", []):
        found.append(Caveat("warning", "Left out for lack of memory", ". ".join(skipped) + "."))
    n_users = _n_users(result, lead)
    if 0 < n_users < FEW_USERS and not card["smoke"]:
        found.append(Caveat("warning", "Few users", f"{n_users} users are compared, so intervals are wide."))
    if names := differing(result):
        text = f"The models disagree on {listed([titles.get(name, name) for name in names], most=3)}."
        found.append(Caveat("warning", "Disagreement", text))
    return found


def _is_full(row: Row, model: str | None) -> bool:
    return (row["model"], row["arm"]) == (model, "all")


def _messages(rows: list[Row]) -> str:
    return listed([f"{row['check']}: {row['message']}" for row in rows], most=3)


def basis(result: StudyResult) -> list[Fact]:
    """What the decision rests on: users, splits, dates, the judging and the strongest model, margin, audit."""
    card, lead, digits = result.card, primary_model(result), result.decimals
    base, metric = base_metric(result, lead), metric_name(card["metric"])
    facts = [Fact("Users compared", count(_n_users(result, lead)), "paired"), _splits(card), _dates(card)]
    strongest = strongest_without_relations(result)
    if lead is not None:
        is_strongest = strongest is None or _valid(strongest) <= _valid_alone(result, lead)
        label = "Judge, the strongest alone" if is_strongest else "Judge"
        facts.append(Fact(label, lead + (f", {metric} {number(base, digits)} alone" if base else ""), "judge"))
        strongest = None if is_strongest else strongest
    if strongest is not None:
        value = f"{strongest['model']}, {metric} {number(strongest['mean'], digits)}"
        facts.append(Fact("Strongest without relations", value, "strongest"))
    margin = next((row["margin"] for row in result.verdicts.iter_rows(named=True) if row["model"] == lead), None)
    if is_finite(margin) and margin:
        absolute = f"{number(margin, digits)} {metric}"
        facts.append(Fact("Too small to matter", f"±{share(margin / base)}" if base else f"±{absolute}", "margin"))
    if card["audit"]:
        n = {level: sum(row["level"] == level for row in card["audit"]) for level in ("leak", "warning")}
        said = [f"{n[level] or 'no'} {level}{'s' * (n[level] != 1)}" for level in n]
        facts.append(Fact("Audit", ", ".join(said), "audit"))
    return facts


def strongest_without_relations(result: StudyResult) -> Row | None:
    """The leaderboard's row of the model that validates best on the interactions alone."""
    rows = [row for row in result.leaderboard.iter_rows(named=True) if row["arm"] == "interactions"]
    named = {row["other"] for row in result.effects.iter_rows(named=True) if row["kind"] == "strongest"}
    return max(
        (row for row in rows if not named or row["model"] in named),
        key=_valid,
        default=None,
    )


def _valid(row: Row) -> float:
    """The metric on validation; on test for stored studies without it."""
    value: float | None = row.get("valid", row["mean"])
    return value if is_finite(value) else -math.inf


def _valid_alone(result: StudyResult, model: str) -> float:
    rows = (row for row in result.leaderboard.iter_rows(named=True) if row["arm"] == "interactions")
    return max((_valid(row) for row in rows if row["model"] == model), default=-math.inf)


def _n_users(result: StudyResult, lead: str | None) -> int:
    counts: list[int] = [
        row["n_users"] for row in result.leaderboard.iter_rows(named=True) if lead in (None, row["model"])
    ]
    return max(counts, default=int(result.card["n_users"]))


def _splits(card: Row) -> Fact:
    remark = ", users only" if card.get("interval_caveat") else ""
    return Fact("Splits", f"{len(card['seeds'])}{remark}", "split")


def _dates(card: Row) -> Fact:
    dates = card.get("dates")
    without = "none in the data" if "dates" in card else "not stored"
    return Fact("Dates", f"{dates[0]} to {dates[1]}" if dates else without)
