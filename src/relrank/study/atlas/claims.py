"""Published claims about relations: what the evidence of a study says of each, by one rule.

With an effect e, its intervals and the study's margin m, a claim

* that a relation helps (by g): *holds* if the 95 % interval of e is above 0 and the claimed size is not refuted;
  *does not hold* if e is shown to be smaller than m, or than g − m where a size g is claimed;
* that a relation hurts (by g): likewise with the sign of e changed;
* that a relation is negligible: *holds* if e is shown to be within ± m; *does not hold* if it is shown to be
  beyond.

A relation that the search leaves out on some splits is judged by what it adds if it is used (``if_used``); so are all
relations together where it uses none of them. That a relation is negligible also *holds* if the search never uses it
and it is shown to add less than m. A claim that a relation helps more than others *holds* if each difference is above
0, and *does not hold* if one is shown to be smaller than m, with Bonferroni's correction for their number.

"Shown to be smaller", "within" and "beyond" are one-sided tests at .05, so the ends of the 90 % interval decide. Else
the claim is *undecided*. A claim whose arms have not run, or whose relation leaks, is *not tested*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from relrank.errors import InputError
from relrank.evaluation.comparison import Effect
from relrank.study.atlas.config import ALL, Claim
from relrank.study.atlas.gains import Gain, Row, base_metric, effect_of, effect_row, in_percent, is_leaking
from relrank.study.atlas.if_used import UsedRelation, measure, used_relation
from relrank.study.atlas.run import Outcome, one_line
from relrank.study.cell import StatusCallback
from relrank.study.config import is_trained
from relrank.study.number_format import interval, signed
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
        gain: what the relation, or the model, adds in percent; None if it was not measured.
        left_out: of the relations that the search leaves out: the name, on how many splits, and of how many.
    """

    claim: Claim
    answer: Answer
    why: str
    gain: Gain | None = None
    left_out: tuple[tuple[str, int, int], ...] = ()


def decide(claim: Claim, effect: Effect, base: float, margin: float, never_used: bool = False) -> tuple[Answer, str]:
    """The answer of the rule above, and the reason in words.

    Args:
        claim: the claim.
        effect: what was measured, in units of the metric.
        base: the metric without the relation.
        margin: smallest difference that matters, as a share of the base.
        never_used: whether the effect is what the relation adds if it is used, and the search does so on no split.
    """
    sign = -1.0 if claim.expect == "hurts" else 1.0
    low = min(sign * effect.low, sign * effect.high)
    inner_low, inner_high = sorted(sign * end for end in effect.interval_at(0.9))
    least, most = margin * base, f"{100 * margin:g} %"
    if claim.expect == "negligible":
        if effect.is_equivalent(least):
            return "holds", f"it is shown to be within ± {most}"
        if never_used and inner_high < least:
            return "holds", f"where it is used a gain of {most} or more is excluded, and the search does not use it"
        if inner_low > least or inner_high < -least:
            return "does not hold", f"it is shown to be beyond ± {most}"
        return "undecided", f"effects beyond {most} are not excluded"
    verb = "gain" if claim.expect == "helps" else "loss"
    size = claim.difference if claim.difference is not None else claim.gain and claim.gain / 100 * base
    if inner_high < least:
        return "does not hold", f"a {verb} of {most} or more is excluded"
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
    return "undecided", f"the interval includes 0 and a {verb} above {most}"


def decide_rank(differences: Mapping[str, Effect], base: float, margin: float) -> tuple[Answer, str]:
    """The answer to a claim that a relation helps more than others, and the reason with the difference that decides.

    Args:
        differences: to each other relation, by its name.
        base: the metric without relations.
        margin: smallest difference that matters, as a share of the base.
    """
    level = 1 - 0.1 / len(differences)  # one-sided tests at .05, corrected
    upper = {name: effect.interval_at(level)[1] for name, effect in differences.items()}
    name = min(upper, key=lambda other: upper[other])
    effect, most = differences[name], f"{100 * margin:g} %"
    found = f"the difference to {name} is {_in_words(in_percent(effect, base))}"
    if upper[name] < margin * base:
        less = "it adds less" if effect.high < 0 else f"a lead of {most} or more is excluded"
        return "does not hold", f"{found}: {less}"
    if all(one.low > 0 for one in differences.values()):
        return "holds", f"{found}, and it adds more than {' and '.join(differences)}"
    return "undecided", f"{found}: a lead above {most} is neither shown nor excluded"


def _in_words(gain: Gain) -> str:
    return f"{signed(gain.mean, 1)} % ({interval(gain.low, gain.high, 1)} %)".replace("-", "−")


def judge(claim: Claim, outcome: Outcome) -> JudgedClaim:
    """A claim held against the study that it names."""
    if outcome.result is None:
        return JudgedClaim(claim, "not tested", f"{outcome.study.name}: {outcome.problem}")
    result, margin = outcome.result, outcome.study.config.study.margin
    row = _evidence(claim, result)
    base = None if row is None else base_metric(result, claim.against or claim.model, _base_arm(claim, row))
    lacks_other = claim.against is None and len(relation_rows(claim, result)) < 1 + len(claim.more_than)
    if row is None or not base or lacks_other:
        return JudgedClaim(claim, "not tested", f"{claim.model} ran without the arms that this needs")
    if any(is_leaking(result, name) for name in (claim.relation, *claim.more_than)):
        return JudgedClaim(claim, "not tested", "the audit found a leak, which the study accepts")
    if claim.against is not None:
        answer, why = decide(claim, effect_of(row), base, margin)
        return JudgedClaim(claim, answer, why, in_percent(effect_of(row), base))
    try:
        used = [used_relation(outcome, one) for one in relation_rows(claim, result)]
    except (InputError, OSError) as error:  # a result may be kept without its cells
        return JudgedClaim(claim, "not tested", f"the study's cells cannot be read: {one_line(error)}")
    if missing := [one.relation for one in used if one.used is None]:
        why = f"what {' and '.join(missing)} would add if used has not been measured yet: run the atlas"
        return JudgedClaim(claim, "not tested", why)
    if (used[0].left_out or claim.more_than) and _has_starts_on_one_split(outcome, claim.model):
        return JudgedClaim(
            claim, "not tested", f"the variance between starts of {claim.model} is not measured in use"
        )
    return _judged(claim, used, base, margin)


def _has_starts_on_one_split(outcome: Outcome, model: str) -> bool:
    """Whether several seeds are starts of a trained model on the same test rows."""
    config = outcome.study.config
    section = next(one for one in config.models if one.name == model)
    return len(config.study.seeds) > 1 and not config.protocol.draws_test and is_trained(section)


def _judged(claim: Claim, used: Sequence[UsedRelation], base: float, margin: float) -> JudgedClaim:
    """A claim about one model with and without relations."""
    first, others = used[0], used[1:]
    effect = first.effect()
    if others:
        answer, why = decide_rank({other.relation: first.effect_beyond(other) for other in others}, base, margin)
    else:
        never_used = first.left_out is not None and first.left_out[0] == first.left_out[1]
        answer, why = decide(claim, effect, base, margin, never_used)
    left_out = tuple((one.relation, *one.left_out) for one in used if one.left_out is not None)
    return JudgedClaim(claim, answer, why, in_percent(effect, base), left_out)


def relation_rows(claim: Claim, result: StudyResult) -> list[Row]:
    """The effects, beside the interactions, of the relations that a claim is about; some may not have been run."""
    if claim.against is not None:
        return []
    if claim.relation == ALL:
        rows = [effect_row(result, claim.model, "gain", None)]
    else:
        rows = [effect_row(result, claim.model, "alone", name) for name in (claim.relation, *claim.more_than)]
    return [row for row in rows if row is not None]


def measure_used(claims: Iterable[Claim], outcome: Outcome, data: StudyData, on_status: StatusCallback) -> None:
    """Measure the relations of a study's claims that its searches leave out (``if_used.measure``)."""
    if outcome.result is not None:
        for claim in claims:
            for row in relation_rows(claim, outcome.result):
                measure(outcome, row, data, on_status)


def _evidence(claim: Claim, result: StudyResult) -> Row | None:
    """The row of the effects table that decides, or that of its first relation."""
    if claim.against is None:
        return next(iter(relation_rows(claim, result)), None)
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
