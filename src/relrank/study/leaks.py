"""A leak ends a study before anything is fitted; one that the study file accepts is named in all its results."""

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
    """The leaks among findings; with an arm only those that a model on it may read.

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
    """Whether all that a leak concerns is accepted by name."""
    return bool(finding.names) and set(finding.names) <= set(accepted)


def refuse_leaks(leaks: Sequence[Finding], accepted: Collection[str]) -> None:
    """Go on only where every leak is accepted.

    Raises:
        LeakError: one is not; the message names it, counts its rows, and says how to mend or to accept it.
    """
    open_ = [f for f in leaks if not is_accepted(f, accepted)]
    if not open_:
        return
    names = list(dict.fromkeys(name for f in open_ for name in f.names))
    remedy = list(dict.fromkeys(f.remedy for f in open_ if f.remedy))
    accept = f"accept by name: {ACCEPT} = {json.dumps([*accepted, *names])}" if names else ""
    raise LeakError(
        f"the audit found {len(open_)} leak{'s' if len(open_) > 1 else ''}, so nothing was fitted",
        where="; ".join(f.check for f in open_),
        expected="no way from the graph to a held-out row: " + "; or ".join(filter(None, [*remedy, accept])),
        found="; ".join(f.message for f in open_),
    )


def accepted_leaks(leaks: Iterable[Finding], accepted: Collection[str]) -> list[dict[str, Any]]:
    """The accepted leaks as plain JSON, for cards: ``names``, ``check``, ``message``, ``count``."""
    return [
        {"names": list(f.names), "check": f.check, "message": f.message, "count": f.count}
        for f in leaks
        if is_accepted(f, accepted)
    ]


def leak_suffix(accepted: Sequence[dict[str, Any]], titles: Titles = NO_TITLES) -> str:
    """What every sentence about results with accepted leaks ends with, "" where there are none.

    Args:
        accepted: of ``accepted_leaks``.
        titles: of relations, read instead of their names.
    """
    names = list(dict.fromkeys(name for leak in accepted for name in leak["names"]))
    return f"leak accepted: {', '.join(titles.get(name, name) for name in names)}" if names else ""


def needless(findings: Iterable[Finding], accepted: Collection[str]) -> list[Notice]:
    """Accepted names without a leak: what was mended should not stay accepted."""
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
    """Card and verdicts of a finished study, with the leaks it accepted and the gains to look at.

    Args:
        card: as of the study so far.
        board: the leaderboard.
        effects: all paired differences.
        verdicts: as judged; every sentence is stamped.
        findings: of the audit.
        accepted: names whose leaks the study file accepts.
    """
    leaks = accepted_leaks(leaks_of(findings), accepted)
    notices = needless(findings, accepted)
    titles = titles_of(card)
    looks = suspicious_gain_messages(board, effects, titles, card.get("decimals", 4))
    notices += [Notice("gains", text, 1) for text in looks]
    card = card | {
        "accepted_leaks": leaks,
        "suspicious_gains": looks,
        "notices": card["notices"] + [{"where": n.where, "message": n.message, "count": n.count} for n in notices],
    }
    if leaks and not verdicts.is_empty():
        verdicts = verdicts.with_columns(pl.col("sentence") + pl.lit(f" ({leak_suffix(leaks, titles)})"))
    return card, verdicts
