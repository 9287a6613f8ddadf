"""Published claims about relations: what the evidence of a study says of each, by one rule.

With an effect e, its intervals and the study's margin m, a claim

* that a relation helps (by g): *holds* if the 95 % interval of e is above 0 and the claimed size is not refuted;
  *does not hold* if e is shown to be smaller than m, or than g − m where a size g is claimed;
* that a relation hurts (by g): likewise with the sign of e changed;
* that a relation is negligible: *holds* if e is shown to be within ± m; *does not hold* if it is shown to be
  beyond.

A relation to which the search gives no weight adds exactly 0, which measures nothing. Then the best other weight that
the search tried decides, on validation rows (``unused_weights``): that the relation helps does not hold, and that it
is negligible holds, if that weight is shown to add less than m. With one split it is undecided. That the relation
hurts does not hold: the search avoids it.

"Shown to be smaller", "within" and "beyond" are one-sided tests at .05, so the ends of the 90 % interval decide. Else
the claim is *undecided*. A claim whose arms have not run, or whose relation leaks, is *not tested*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from relrank.evaluation.comparison import Effect
from relrank.study.atlas.config import ALL, Claim
from relrank.study.atlas.gains import Gain, Row, base_metric, effect_of, effect_row, in_percent, is_leaking
from relrank.study.atlas.run import Outcome
from relrank.study.atlas.unused_weights import effect_of_best_weight, gains_on_validation
from relrank.study.number_format import signed
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
        margin: in percent.
    """

    claim: Claim
    answer: Answer
    why: str
    gain: Gain | None = None
    margin: float | None = None


def decide(
    claim: Claim, effect: Effect, base: float, margin: float, best_weight: Effect | None = None
) -> tuple[Answer, str]:
    """The answer of the rule above, and the reason in words.

    Args:
        claim: the claim.
        effect: what was measured, in units of the metric.
        base: the metric without the relation.
        margin: smallest difference that matters, as a share of the base.
        best_weight: where the search leaves the relation out, what its best other weight would add, as a share of the
            metric; None if that is unknown.
    """
    if is_left_out(effect):
        return _left_out(claim, base, margin, best_weight)
    sign = -1.0 if claim.expect == "hurts" else 1.0
    low = min(sign * effect.low, sign * effect.high)
    inner_low, inner_high = sorted(sign * end for end in effect.interval_at(0.9))
    least = margin * base
    if claim.expect == "negligible":
        if effect.is_equivalent(least):
            return "holds", "it is within the margin"
        if inner_low > least or inner_high < -least:
            return "does not hold", "it is beyond the margin"
        return "undecided", "the interval reaches beyond the margin on one side at least"
    verb = "gain" if claim.expect == "helps" else "loss"
    size = _claimed_size(claim, base)
    if inner_high < least:
        return "does not hold", f"no {verb} as large as the margin is left"
    if size is not None and inner_high < abs(size) - least:
        also = f"there is a {verb}, but" if low > 0 else f"a {verb} is not shown, and"
        return "does not hold", f"{also} one as large as claimed ({100 * size / base:+.1f} %) is excluded"
    if low > 0:
        return "holds", f"the interval is {'above' if claim.expect == 'helps' else 'below'} 0" + (
            "" if size is None else " and the claimed size is not excluded"
        )
    return "undecided", "the interval includes 0, and effects above the margin"


def is_left_out(effect: Effect) -> bool:
    """Whether an effect is exactly 0 because the search gives the relation no weight on any split."""
    return effect.mean == effect.low == effect.high == 0


def _claimed_size(claim: Claim, base: float) -> float | None:
    """In units of the metric; None if no size is claimed."""
    return claim.difference if claim.difference is not None else claim.gain and claim.gain / 100 * base


def _left_out(claim: Claim, base: float, margin: float, best_weight: Effect | None) -> tuple[Answer, str]:
    """The answer where validation rows leave the relation out."""
    if claim.expect == "hurts":
        return "does not hold", "the search leaves it out, and so it costs nothing"
    if best_weight is None:
        return "undecided", "validation gives it no weight, but one split does not show how large a gain it may miss"
    would_add = f"{_percent(best_weight.mean)} % ({_percent(best_weight.low)} to {_percent(best_weight.high)} %)"
    found = f"validation gives it no weight; with the best other weight it would add {would_add} on validation rows"
    upper, size = best_weight.interval_at(0.9)[1], abs(_claimed_size(claim, base) or 0.0) / base
    if upper < margin:
        return ("holds" if claim.expect == "negligible" else "does not hold"), f"{found}, less than the margin"
    if upper < size - margin:
        return "does not hold", f"{found}; a gain as large as claimed ({_percent(size)} %) is excluded"
    return "undecided", f"{found}, so that a gain above the margin is not excluded"


def _percent(share: float) -> str:
    return signed(100 * share, 1).replace("-", "−")


def judge(claim: Claim, outcome: Outcome) -> JudgedClaim:
    """A claim held against the study that it names."""
    if outcome.result is None:
        return JudgedClaim(claim, "not tested", f"{outcome.study.name}: {outcome.problem}")
    result, margin = outcome.result, outcome.study.config.study.margin
    row = _evidence(claim, result)
    base = None if row is None else base_metric(result, claim.against or claim.model, _base_arm(claim, row))
    if row is None or not base:
        return JudgedClaim(claim, "not tested", f"{claim.model} ran without the arms that this needs")
    if is_leaking(result, claim.relation):
        return JudgedClaim(claim, "not tested", "the audit found a leak, which the study accepts")
    effect = effect_of(row)
    gains = gains_on_validation(result, claim.model, str(row["arm_a"])) if is_left_out(effect) else []
    complete = effect_of_best_weight(gains) if len(gains) == effect.n_seeds else None
    answer, why = decide(claim, effect, base, margin, complete)
    return JudgedClaim(claim, answer, why, in_percent(row, base), 100 * margin)


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
