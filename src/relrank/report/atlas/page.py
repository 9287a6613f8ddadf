"""The page of an atlas: Markdown and two pictures beside it, written whole from the stored studies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relrank.evaluation.meta_analysis import PooledEffect
from relrank.io.atomic import atomic_write, write_text
from relrank.report.atlas.picture import Group, Mark, Marks, narrow_picture, wide_picture
from relrank.report.formatting import NOTHING, amount, count, extra, listed, metric_name, number, signed_percent
from relrank.report.templates import template_environment
from relrank.study.atlas.claims import ANSWERS, JudgedClaim, judge
from relrank.study.atlas.config import ALL, Atlas, Claim
from relrank.study.atlas.gains import (
    ALL_KIND,
    CLOSED,
    FAMILIES,
    LIGHTGCN,
    NETWORK,
    Gain,
    Worth,
    base_metric,
    estimate,
    hours_of,
    judges,
    pooled,
    reading,
    worth_of,
)
from relrank.study.atlas.run import Outcome
from relrank.study.result import StudyResult
from relrank.study.verdicts import agrees

if TYPE_CHECKING:
    from jinja2 import Environment

AVERAGE = "over data sets"
"""Heading of the column of estimates."""
VERBS = (
    ("does not hold", "do not hold"),
    ("holds", "hold"),
    ("is undecided", "are undecided"),
    ("could not be tested", "could not be tested"),
)
"""Of one claim and of several, in the order of ``ANSWERS``."""
SHOWN_FINGERPRINT = 12
"""Characters of a split's fingerprint that the page shows."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of a kind for one family of models.

    Attributes:
        kind: of relations.
        family: of models.
        worths: what is pooled.
        effect: over data sets; None for fewer than two.
        reading: in a word; empty without an effect.
        margin: largest of the data sets, in percent.
        others: the mean's interval with half and with twice the scale of the prior; empty without an effect.
    """

    kind: str
    family: str
    worths: tuple[Worth, ...]
    effect: PooledEffect | None
    reading: str
    margin: float
    others: tuple[PooledEffect, ...]


def write_atlas(atlas: Atlas, outcomes: Sequence[Outcome], page: Path) -> list[JudgedClaim]:
    """Write the page and, beside it, ``STEM.svg`` and ``STEM-narrow.svg``, each atomically.

    Args:
        atlas: as read.
        outcomes: of all studies, in the order of the atlas.
        page: the Markdown file; its folder is created.

    Returns:
        The judged claims.
    """
    view = _view(atlas, outcomes, page)
    for path, draw in ((page.with_suffix(".svg"), wide_picture), (_narrow(page), narrow_picture)):
        _write(path, draw(view["groups"], atlas.config.title))
    _write(page, _environment().get_template("atlas.md.j2").render(view))
    claims: list[JudgedClaim] = view["claims"]
    return claims


def _narrow(page: Path) -> Path:
    return page.with_name(f"{page.stem}-narrow.svg")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        write_text(temporary, text)


def _view(atlas: Atlas, outcomes: Sequence[Outcome], page: Path) -> dict[str, Any]:
    """Everything that the template shows."""
    by_name = {one.study.name: one for one in outcomes}
    real = [one for one in outcomes if one.result is not None and not one.study.entry.control]
    control = [one for one in outcomes if one.result is not None and one.study.entry.control]
    worths = [worth for one in real for worth in worth_of(one)]
    controls = [worth for one in control for worth in worth_of(one) if worth.kind != ALL_KIND]
    kinds = [kind for kind in dict.fromkeys(w.kind for w in worths) if kind != ALL_KIND]
    estimates = [_estimate(worths, kind, family, atlas.config.spread) for kind in kinds for family in FAMILIES]
    estimates = [one for one in estimates if one.worths]
    claims = [judge(claim, by_name[claim.study]) for claim in atlas.config.claims]
    titles = {one.study.name: one.study.title for one in outcomes}
    shown = [kind for kind in (*kinds, ALL_KIND) if any(w.kind == kind for w in worths)]
    return {
        "atlas": atlas.config,
        "command": f"relrank atlas {atlas.path.as_posix() if not atlas.path.is_absolute() else atlas.path.name}",
        "answer": answer(estimates, titles) + leak_twins(real, worths),
        "claims_by_answer": claims_by_answer(claims, titles),
        "wide": page.with_suffix(".svg").name,
        "narrow": _narrow(page).name,
        "groups": _groups(real, worths, shown, estimates, control, controls),
        "families": FAMILIES,
        "titles": titles,
        "rows": _by_relation(sorted(worths, key=lambda w: shown.index(w.kind))),
        "worths": sorted((w for w in worths if w.kind != ALL_KIND), key=lambda w: kinds.index(w.kind)),
        "estimates": [one for one in estimates if one.effect is not None],
        "single": [
            f"{one.kind}, {one.family} ({titles[one.worths[0].study]})" for one in estimates if one.effect is None
        ],
        "controls": controls,
        "claims": claims,
        "studies": [_study_row(one, page) for one in outcomes if one.result is not None],
        "machines": _machines(outcomes),
        "leaks": [(titles[one.study.name], leak) for one in outcomes if one.result for leak in _leaks(one.result)],
        "skipped": [
            (titles[one.study.name], said) for one in outcomes if one.result for said in one.result.card["skipped"]
        ],
        "missing": [(one.study.title, one.problem) for one in outcomes if one.result is None],
    }


def _estimate(worths: Sequence[Worth], kind: str, family: str, scale: float) -> Estimate:
    parts = pooled(worths, kind, family)
    effect, margin = estimate(parts, scale), max((w.margin for w in parts), default=0.0)
    if effect is None:
        return Estimate(kind, family, tuple(parts), None, "", margin, ())
    word = reading(effect.low, effect.high, effect.interval_at(0.9), margin)
    others = tuple(other for factor in (0.5, 2.0) if (other := estimate(parts, factor * scale)) is not None)
    return Estimate(kind, family, tuple(parts), effect, word, margin, others)


def answer(estimates: Sequence[Estimate], titles: Mapping[str, str]) -> list[str]:
    """The page's first sentences: what kinds of relations are worth to each family of models."""
    closed = [one for one in estimates if one.family == CLOSED]
    sentences = [] if closed else ["No relation of real data has been measured with a closed form yet."]
    for family, name in ((CLOSED, "the closed form"), (LIGHTGCN, LIGHTGCN), (NETWORK, "other networks")):
        many = [one for one in estimates if one.family == family and one.effect is not None]
        for word, verb in (("helps", "help"), ("hurts", "hurt"), ("negligible", "are negligible to")):
            named = [f"{md(one.kind)} ({_mean(one)})" for one in many if one.reading == word]
            if named:
                sentences.append(f"On average over data sets **{listed(named)}** {verb} {name}.")
        open_ = [f"{md(one.kind)} ({_mean(one)})" for one in many if one.reading == "undecided"]
        if open_:
            sentences.append(f"Not decided for {name} on average over data sets: {listed(open_)}.")
        new = [
            f"{md(one.kind)} {_ends(one.effect.new_low, one.effect.new_high)} (above the margin with a probability "
            f"of {100 * one.effect.probability_above(one.margin):.0f} %)"
            for one in many
            if one.effect is not None and one.reading == "helps"
        ]
        if new:
            sentences.append(f"Expected of {name} on a new data set: {listed(new)}.")
    return sentences + _of_one_data_set([one for one in closed if one.effect is None], titles)


def claims_by_answer(claims: Sequence[JudgedClaim], titles: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """A heading for every answer that occurs, such as "2 of 9 published claims do not hold", and those claims."""
    found = []
    for word, verbs in zip(ANSWERS, VERBS, strict=True):
        those = [one for one in claims if one.answer == word]
        if those:
            named = f"{len(those)} of {len(claims)} published {'claim' if len(claims) == 1 else 'claims'}"
            lines = [_claim_line(one, titles) for one in those]
            found.append((f"**{named} {verbs[len(those) > 1]}**", lines))
    return found


def _claim_line(one: JudgedClaim, titles: Mapping[str, str]) -> str:
    against = f" against {md(one.claim.against)}" if one.claim.against else ""
    evidence = f"{md(one.claim.model)}{against} on {md(titles[one.claim.study])}"
    measured = f"here **{gain_text(one.gain)}**, {evidence}" if one.gain else f"not tested with {evidence}"
    return f"“{md(one.claim.text)}” ({source(one.claim)}): {measured}; {md(one.why)}{left_out(one)}."


def left_out(one: JudgedClaim) -> str:
    """Which relations of a claim the search does not use on its own, and what the figure is therefore."""
    if not one.left_out:
        return ""
    parts = []
    for name, n, splits in one.left_out:
        what = "all relations" if name == ALL else name if one.claim.more_than else "the relation"
        parts.append(f"{md(what)}{'' if splits == 1 else f' on {n} of {splits} splits'}")
    return f" (tuning leaves out {listed(parts)}; figures are with the weight above 0 that validates best)"


def leak_twins(outcomes: Sequence[Outcome], worths: Sequence[Worth]) -> list[str]:
    """For relations with an accepted leak and without it, in studies of one protocol, what they seem to be worth."""
    config = {one.study.name: one.study.config for one in outcomes}
    protocol = {name: (c.data, c.protocol, c.study.metric, c.study.seeds) for name, c in config.items()}
    section = {(name, model.name): model for name, c in config.items() for model in c.models}
    title = {one.study.name: one.study.title for one in outcomes}
    sentences = []
    for leaking in (w for w in worths if w.leaks and w.kind != ALL_KIND and w.alone is not None):
        for clean in worths:
            same = (
                (clean.kind, clean.model, clean.leaks) == (leaking.kind, leaking.model, False)
                and protocol[clean.study] == protocol[leaking.study]
                and section[clean.study, clean.model] == section[leaking.study, leaking.model]
            )
            if same and clean.alone is not None:
                sentences.append(
                    f"With a leak the gain of {md(leaking.kind)} seems to be **{gain_text(leaking.alone)}** "
                    f"({md(leaking.model)}, {md(title[leaking.study])}); without it, it is "
                    f"**{gain_text(clean.alone)}** ({md(title[clean.study])})."
                )
    return sentences


def _of_one_data_set(estimates: Sequence[Estimate], titles: Mapping[str, str]) -> list[str]:
    """What is known from single data sets, in one sentence per verdict."""
    by_verdict: dict[str, list[str]] = {}
    for one in estimates:
        (worth,) = one.worths
        assert worth.alone is not None
        name = f"{md(one.kind)} ({md(titles[worth.study])}, {_percent(worth.alone.mean)})"
        by_verdict.setdefault(worth.verdict or "none", []).append(name)
    return [
        f"On one data set only, verdict “{word}”: {listed(names, most=12)}." for word, names in by_verdict.items()
    ]


def _mean(one: Estimate) -> str:
    assert one.effect is not None
    ends = _ends(one.effect.low, one.effect.high)
    return f"{_percent(one.effect.mean)}, {ends}, {one.effect.n} data sets"


def _groups(
    real: Sequence[Outcome],
    worths: Sequence[Worth],
    kinds: Sequence[str],
    estimates: Sequence[Estimate],
    control: Sequence[Outcome],
    controls: Sequence[Worth],
) -> list[Group]:
    """The matrices of the pictures."""
    groups = []
    averages = any(one.effect for one in estimates)
    for title, outcomes, some, names in (
        ("Gain in percent of the interactions alone", real, worths, kinds),
        ("Controls: planted data", control, controls, list(dict.fromkeys(w.kind for w in controls))),
    ):
        if not some:
            continue
        rows = []
        for kind in names:
            cells: list[Marks | None] = [_marks(some, kind, one.study.name) for one in outcomes]
            if averages and some is worths:
                cells.append(_average_marks(estimates, kind))
            rows.append((kind, tuple(cells)))
        columns = [one.study.title for one in outcomes] + ([AVERAGE] if averages and some is worths else [])
        groups.append(Group(title, tuple(columns), tuple(rows), max(w.margin for w in some)))
    return groups


def _marks(worths: Sequence[Worth], kind: str, study: str) -> Marks | None:
    found = {
        w.family: Mark(w.alone, w.verdict, w.leaks)
        for w in worths
        if (w.kind, w.study) == (kind, study) and w.alone is not None
    }
    return found or None


def _average_marks(estimates: Sequence[Estimate], kind: str) -> Marks | None:
    found = {
        one.family: Mark(Gain(one.effect.mean, one.effect.low, one.effect.high), one.reading)
        for one in estimates
        if one.kind == kind and one.effect is not None
    }
    return found or None


def _by_relation(worths: Sequence[Worth]) -> list[dict[str, Any]]:
    """One row per relation and data set with the worth for each family."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for worth in worths:
        row = rows.setdefault((worth.kind, worth.study), {"worth": worth, "of": {}})
        row["of"][worth.family] = worth
    return list(rows.values())


def _study_row(outcome: Outcome, page: Path) -> dict[str, Any]:
    """What was studied."""
    result = outcome.result
    assert result is not None
    card = result.card
    weak = {row["model"] for row in card["model_strength"] if row["stronger"] or row["better_setting"]}
    return {
        "link": _linked(outcome, page),
        "card": card,
        "metric": metric_name(card["metric"]),
        "interactions": card["n_train"] + card["n_valid"] + card["n_test"],
        "fingerprint": card["fingerprints"][0][:SHOWN_FINGERPRINT],
        "judges": [
            f"{md(model)} {number(base_metric(result, model), result.decimals)}"
            + (" (weak)" if model in weak else "")
            for model in judges(outcome.study, result).values()
        ],
        "finished": _finished(outcome.folder),
        "hours": hours_of(result),
    }


def _linked(outcome: Outcome, page: Path) -> str:
    """The study's title, with a link to its file where there is a relative path to it."""
    title = md(outcome.study.title)
    try:
        path = Path(os.path.relpath(outcome.study.path, page.parent)).as_posix()
    except ValueError:  # on another drive
        return title
    return f"[{title}]({path.replace(' ', '%20')})"


def _finished(folder: Path) -> str:
    """The day on which a study stored its result, in UTC."""
    return datetime.fromtimestamp((folder / "card.json").stat().st_mtime, UTC).date().isoformat()


def _machines(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Machines and versions, and the studies that ran there."""
    found: dict[str, list[str]] = {}
    for one in outcomes:
        if one.result is not None:
            m = one.result.card["machine"]
            text = (
                f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB; relrank {m['relrank']}, torch {m['torch']}, "
                f"Python {m['python']}"
            )
            found.setdefault(text, []).append(one.study.title)
    return list(found.items())


def _leaks(result: StudyResult) -> list[dict[str, Any]]:
    leaks: list[dict[str, Any]] = result.card["accepted_leaks"]
    return leaks


def md(text: object) -> str:
    """Text of a user in Markdown, also within a table: no character has a meaning."""
    return " ".join(re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", str(text).replace("&", "&amp;")).split())


def source(claim: Claim) -> str:
    """Where a claim was published, as a link if it has an address."""
    return f"[{md(claim.source)}]({claim.url})" if claim.url else md(claim.source)


def _percent(value: float) -> str:
    return f"{signed_percent(value, 0 if abs(value) >= 99.5 else 1)} %"


def _ends(low: float, high: float) -> str:
    return f"{_percent(low).removesuffix(' %')} to {_percent(high)}"


def gain_text(gain: Gain | None) -> str:
    """A gain with its interval; a dash for none. A gain of exactly 0 is a relation that the search leaves out."""
    if gain is None:
        return NOTHING
    left_out = gain.low == gain.mean == gain.high == 0
    return f"{_percent(gain.mean)} ({'no weight' if left_out else _ends(gain.low, gain.high)})"


def _environment() -> Environment:
    environment = template_environment(escape_html=False)  # Markdown: ``md`` escapes
    environment.filters |= {
        "md": md,
        "source": source,
        "left_out": left_out,
        "percent": _percent,
        "gain": gain_text,
        "count": count,
        "extra": extra,
    }
    environment.filters["hours"] = lambda value: amount(value, 2)
    environment.globals |= {"ends": _ends, "agrees": agrees, "nothing": NOTHING}
    return environment
