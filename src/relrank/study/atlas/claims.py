"""Published claims about relations: what the evidence of a study says of each, by one rule.

With an effect e, its intervals and the study's margin m, a claim

* that a relation helps (by g): *holds* if the 95 % interval of e is above 0 and the claimed size is not refuted;
  *does not hold* if e is shown to be smaller than m, or than g − m where a size g is claimed;
* that a relation hurts (by g): likewise with the sign of e changed;
* that a relation is negligible: *holds* if e is shown to be within ± m; *does not hold* if it is shown to be
  beyond.

A relation that the search leaves out on some splits is judged by what it adds if it is used (``if_used``). That such
a relation is negligible also *holds* if it is shown to add less than m, however much it costs where it is used. A
claim that a relation helps more than another one is judged by the difference between the two, each used.

"Shown to be smaller", "within" and "beyond" are one-sided tests at .05, so the ends of the 90 % interval decide. Else
the claim is *undecided*. A claim whose arms have not run, or whose relation leaks, is *not tested*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from relrank.errors import InputError
from relrank.evaluation.comparison import Effect
from relrank.study.atlas.config import ALL, Claim
from relrank.study.atlas.gains import Gain, Row, base_metric, effect_of, effect_row, in_percent, is_leaking
from relrank.study.atlas.if_used import measure, used_relation
from relrank.study.atlas.run import Outcome, one_line
from relrank.study.cell import StatusCallback
from relrank.study.prepare import StudyData
from relrank.study.result import StudyResult

Answer = Literal["holds", "does not hold", "undecided", "not tested"]
ANSWERS: tuple[Answer, ...] = ("does not hold", "holds", "undecided", "not tested")


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim and what the evidence says of it.

    Attributes:
        claim: as published.
        answer: by the rule above.
        why: the figures behind it, in a sentence.
        gain: the effect in percent; None if it was not measured.
        left_out: on how many splits the search leaves the relation out, and of how many; None if on none.
    """

    claim: Claim
    answer: Answer
    why: str
    gain: Gain | None = None
    left_out: tuple[int, int] | None = None


def decide(claim: Claim, effect: Effect, base: float, margin: float, is_left_out: bool = False) -> tuple[Answer, str]:
    """The answer of the rule above, and the reason in words.

    Args:
        claim: the claim.
        effect: what was measured, in units of the metric.
        base: the metric without the relation.
        margin: smallest difference that matters, as a share of the base.
        is_left_out: whether the effect is what the relation adds if it is used, and the search does not use it.
    """
    sign = -1.0 if claim.expect == "hurts" else 1.0
    low, high = sorted((sign * effect.low, sign * effect.high))
    inner_low, inner_high = sorted(sign * end for end in effect.interval_at(0.9))
    least, most = margin * base, f"{100 * margin:g} %"
    if claim.expect == "negligible":
        if effect.is_equivalent(least):
            return "holds", f"it is shown to be within ± {most}"
        if is_left_out and inner_high < least:
            return "holds", f"where it is used a gain of {most} or more is excluded, and the search does not use it"
        if inner_low > least or inner_high < -least:
            return "does not hold", f"it is shown to be beyond ± {most}"
        return "undecided", f"effects beyond {most} are not excluded"
    verb = "gain" if claim.expect == "helps" else "loss"
    size = claim.difference if claim.difference is not None else claim.gain and claim.gain / 100 * base
    if claim.more_than is not None and high < 0:
        return "does not hold", f"it adds less than {claim.more_than}"
    if inner_high < least:
        what = verb if claim.more_than is None else "lead"
        return "does not hold", f"a {what} of {most} or more is excluded"
    if size is not None and inner_high < abs(size) - least:
        smaller = "shown" if low > 0 else "neither shown nor excluded"
        return (
            "does not hold",
            f"the claimed size ({100 * size / base:+.1f} %) is excluded; a smaller {verb} is {smaller}",
        )
    if low > 0:
        return "holds", f"the interval is {'above' if claim.expect == 'helps' else 'below'} 0" + (
            "" if size is None else " and the claimed size is not excluded"
        )
    return "undecided", f"the interval includes 0 and a {verb if claim.more_than is None else 'lead'} above {most}"


def judge(claim: Claim, outcome: Outcome) -> JudgedClaim:
    """A claim held against the study that it names."""
    if outcome.result is None:
        return JudgedClaim(claim, "not tested", f"{outcome.study.name}: {outcome.problem}")
    result, margin = outcome.result, outcome.study.config.study.margin
    row = _evidence(claim, result)
    base = None if row is None else base_metric(result, claim.against or claim.model, _base_arm(claim, row))
    lacks_other = claim.more_than is not None and len(relation_rows(claim, result)) < 2
    if row is None or not base or lacks_other:
        return JudgedClaim(claim, "not tested", f"{claim.model} ran without the arms that this needs")
    if any(is_leaking(result, name) for name in (claim.relation, claim.more_than) if name is not None):
        return JudgedClaim(claim, "not tested", "the audit found a leak, which the study accepts")
    effect, left_out = effect_of(row), None
    if claim.against is None and claim.relation != ALL:
        try:
            used = [used_relation(outcome, row) for row in relation_rows(claim, result)]
        except (InputError, OSError) as error:  # a result may be kept without its cells
            return JudgedClaim(claim, "not tested", f"the study's cells cannot be read: {one_line(error)}")
        if missing := [one.relation for one in used if one.tables is None]:
            why = f"what {' and '.join(missing)} would add if used has not been measured yet: run the atlas"
            return JudgedClaim(claim, "not tested", why)
        effect = used[0].effect() if claim.more_than is None else used[0].effect_beyond(used[1])
        left_out = used[0].left_out
    answer, why = decide(claim, effect, base, margin, left_out is not None)
    return JudgedClaim(claim, answer, why, in_percent(effect, base), left_out)


def relation_rows(claim: Claim, result: StudyResult) -> list[Row]:
    """The effects, beside the interactions, of the single relations that a claim is about; arms may be missing."""
    names = [name for name in (claim.relation, claim.more_than) if name is not None and name != ALL]
    rows = [effect_row(result, claim.model, "alone", name) for name in names] if claim.against is None else []
    return [row for row in rows if row is not None]


def measure_used(claims: Iterable[Claim], outcome: Outcome, data: StudyData, on_status: StatusCallback) -> None:
    """Measure the relations of a study's claims that its searches leave out (``if_used.measure``)."""
    if outcome.result is not None:
        for claim in claims:
            for row in relation_rows(claim, outcome.result):
                measure(outcome, row, data, on_status)


def _evidence(claim: Claim, result: StudyResult) -> Row | None:
    """The row of the effects table that decides."""
    if claim.against is None:
        relation = None if claim.relation == ALL else claim.relation
        return effect_row(result, claim.model, "gain" if relation is None else "alone", relation)
    rows = [
        row
        for row in result.effects.iter_rows(named=True)
        if (row["model"], row["other"]) == (claim.model, claim.against)
        and row["arm_a"] != "interactions"  # that would say nothing about relations
        and (row["kind"] == "versus" or (row["kind"], row["arm_a"]) == ("strongest", "all"))
    ]
    return max(rows, key=lambda row: row["kind"] == "versus", default=None)


def _base_arm(claim: Claim, row: Row) -> str:
    """The arm to whose metric the effect is relative: the interactions alone, or the other model's richest arm."""
    return "interactions" if claim.against is None else str(row["arm_b"])
