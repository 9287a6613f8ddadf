"""Leaks end a study before anything is fitted, unless the study file accepts them; all results name those."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import polars as pl

from relrank.errors import LeakError
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study.arms import Arm
from relrank.study.config import ACCEPT
from relrank.study.result import titles_of
from relrank.study.suspicious_gains import suspicious_gain_messages
from relrank.tables.audit import SPLIT, Finding
from relrank.tables.notices import Notice


def leaks_of(findings: Iterable[Finding], arm: Arm | None = None, features: Collection[str] = ()) -> list[Finding]:
    """The leaks among findings; with an arm, only those that concern it.

    Args:
        findings: of the audit.
        arm: one arm; None for a whole study.
        features: names of the features, which every arm has.
    """
    leaks = [f for f in findings if f.level == "leak"]
    if arm is None:
        return leaks
    read = {SPLIT, *arm.relations, *features}
    return [f for f in leaks if not f.names or read.intersection(f.names)]


def is_accepted(finding: Finding, accepted: Collection[str]) -> bool:
    """Whether everything that a leak concerns is accepted by name."""
    return bool(finding.names) and set(finding.names) <= set(accepted)


def refuse_leaks(leaks: Sequence[Finding], accepted: Collection[str]) -> None:
    """Check that every leak is accepted.

    Raises:
        LeakError: one is not; the message names it, counts its rows, and says how to fix or accept it.
    """
    refused = [f for f in leaks if not is_accepted(f, accepted)]
    if not refused:
        return
    names = list(dict.fromkeys(name for f in refused for name in f.names))
    remedy = list(dict.fromkeys(f.remedy for f in refused if f.remedy))
    accept = f"accept by name: {ACCEPT} = {json.dumps([*accepted, *names])}" if names else ""
    raise LeakError(
        f"the audit found {len(refused)} leak{'s' if len(refused) > 1 else ''}, so nothing was fitted",
        where="; ".join(f.check for f in refused),
        expected="no held-out rows in the graph: " + "; or ".join(filter(None, [*remedy, accept])),
        found="; ".join(f.message for f in refused),
    )


def accepted_leaks(leaks: Iterable[Finding], accepted: Collection[str]) -> list[dict[str, Any]]:
    """The accepted leaks as plain JSON, for cards: ``names``, ``check``, ``message``, ``count``."""
    return [
        {"names": list(f.names), "check": f.check, "message": f.message, "count": f.count}
        for f in leaks
        if is_accepted(f, accepted)
    ]


def leak_suffix(accepted: Sequence[dict[str, Any]], titles: Titles = NO_TITLES) -> str:
    """A remark that ends every sentence on results with accepted leaks; "" without any.

    Args:
        accepted: of ``accepted_leaks``.
        titles: of relations, in place of their names.
    """
    names = list(dict.fromkeys(name for leak in accepted for name in leak["names"]))
    return f"leak accepted: {', '.join(titles.get(name, name) for name in names)}" if names else ""


def needlessly_accepted(findings: Iterable[Finding], accepted: Collection[str]) -> list[Notice]:
    """Notices on accepted names without a leak, which should be removed from the study file."""
    leaking = {name for f in leaks_of(findings) for name in f.names}
    return [
        Notice(ACCEPT, f"accepts leaks of {name}, where the audit found none", 1)
        for name in accepted
        if name not in leaking
    ]


def finish(
    card: dict[str, Any],
    board: pl.DataFrame,
    effects: pl.DataFrame,
    verdicts: pl.DataFrame,
    findings: Sequence[Finding],
    accepted: Collection[str],
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Card and verdicts of a finished study, with accepted leaks and suspicious gains.

    Args:
        card: without these.
        board: the leaderboard.
        effects: the effects table.
        verdicts: the verdict table; every sentence is extended by ``leak_suffix``.
        findings: of the audit.
        accepted: names whose leaks the study file accepts.
    """
    leaks = accepted_leaks(leaks_of(findings), accepted)
    notices = needlessly_accepted(findings, accepted)
    titles = titles_of(card)
    suspicious = suspicious_gain_messages(board, effects, titles, card.get("decimals", 4))
    notices += [Notice("gains", text, 1) for text in suspicious]
    card = card | {
        "accepted_leaks": leaks,
        "suspicious_gains": suspicious,
        "notices": card["notices"] + [{"where": n.where, "message": n.message, "count": n.count} for n in notices],
    }
    if leaks and not verdicts.is_empty():
        verdicts = verdicts.with_columns(pl.col("sentence") + pl.lit(f" ({leak_suffix(leaks, titles)})"))
    return card, verdicts
