"""Verdicts on relations, from their effects.

A relation's effect is measured twice: with all other settings held (only its edges are removed), and after tuning the
model again without it. A claim needs all of its effects at once, so its p is the largest of theirs (an
intersection–union test). Holm's correction runs over the relations of a model, once per kind of claim. A relation is
negligible only if its effects are shown to lie within the margin; without a claim or that, it is undecided.

References:
    Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24(4), 1982.
    Ihemelandu & Ekstrand, "Inference at scale: significance testing for large search and recommendation experiments",
    SIGIR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relrank.evaluation.comparison import Effect, holm
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study.number_format import interval, signed

Verdict = Literal["helps", "interchangeable", "hurts", "negligible", "undecided"]
NOT_READ = "not read"
"""In place of a verdict if a model cannot read a relation."""
ORDER = ("helps", "interchangeable", "hurts", "negligible", "undecided", NOT_READ)
ALPHA = 0.05
MANY_SPLITS = 50
"""Above this, an undecided verdict gives no exact number of splits that would decide it."""
MANY_TIMES = 100
"""Likewise for the number of users, as a multiple."""


def agrees(verdict: str, truth: str) -> bool:
    """Whether a verdict agrees with a known truth; "undecided" agrees with "negligible"."""
    return verdict == truth or (truth == "negligible" and verdict == "undecided")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The effects of one relation on one model; all of them are above 0 if the relation adds something.

    Attributes:
        drop: all − all without it, tuned again.
        alone: interactions + it − interactions.
        held: all − all without it at the settings of "all"; None if arms are not tuned, when ``drop`` is the same.
        placebo: all − all with its links shuffled; None if that has not run.
        alone_placebo: interactions + it − interactions + it with shuffled links; None if that has not run.
        smallest_weight_effect: if validation sets its weight to 0, what the smallest weight of the grid would add;
            else None.
        unused: share of splits in which validation sets its weight to 0, in "all" or, without ``held``, alone.
        redundancy: alone − 2 · drop: above 0 if the others provide more than half of what it adds alone.
        redundancy_with: likewise for single other relations: alone − 2 · (what it adds to that one).
    """

    drop: Effect
    alone: Effect
    held: Effect | None = None
    placebo: Effect | None = None
    alone_placebo: Effect | None = None
    smallest_weight_effect: Effect | None = None
    unused: float = 0.0
    redundancy: Effect | None = None
    redundancy_with: Mapping[str, Effect] = field(default_factory=dict)

    @property
    def added(self) -> Effect:
        """What it adds to the others, all other settings held."""
        return self.drop if self.held is None else self.held

    @property
    def all(self) -> list[Effect]:
        """All measures of the size of its effect."""
        return [e for e in (self.held, self.drop, self.alone, self.placebo) if e is not None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one relation.

    Attributes:
        verdict: on the relation.
        p: of the claim, corrected over the relations; None without a claim.
        instead: relations that it is interchangeable with.
        detectable_effect: smallest true effect that would have been claimed with power .8.
    """

    verdict: Verdict
    p: float | None
    instead: tuple[str, ...]
    detectable_effect: float


def decide_verdicts(evidence: Mapping[str, Evidence], margin: float) -> dict[str, Judgement]:
    """The verdicts on the relations of a model.

    helps: it adds something to the others at their settings, after retuning, and compared with its placebo (if that
    has run), so that its links matter and not only their number per node. hurts: at their settings and after retuning
    the metric is better without it. interchangeable: alone it adds something, also compared with its placebo (if that
    has run), but the others provide more than half of it. negligible: all of its effects lie within the margin. Else
    it is undecided.

    Args:
        evidence: by relation.
        margin: smallest difference that matters, in units of the metric.
    """
    direct = _corrected({name: _largest(_direct(one)) for name, one in evidence.items()})
    replaceable = _corrected({name: _largest(_in_place(one)) for name, one in evidence.items()})
    judgements: dict[str, Judgement] = {}
    for name, one in evidence.items():
        verdict: Verdict = "undecided"
        p: float | None = None
        instead: tuple[str, ...] = ()
        if direct[name] < ALPHA:
            verdict, p = ("helps" if one.added.mean > 0 else "hurts"), direct[name]
        elif replaceable[name] < ALPHA:
            verdict, p = "interchangeable", replaceable[name]
            instead = tuple(other for other, e in one.redundancy_with.items() if e.mean > 0 and e.p < ALPHA)
        elif _within(one, margin):
            verdict = "negligible"
        judgements[name] = Judgement(verdict, p, instead, _visible(one, len(evidence)))
    return judgements


def _direct(one: Evidence) -> list[Effect]:
    """Effects that need the same sign for "helps" or "hurts"."""
    both = [one.added, one.drop]
    return both if one.placebo is None or one.added.mean < 0 else [*both, one.placebo]


def _in_place(one: Evidence) -> list[Effect | None]:
    """Effects that have to be above 0 for "interchangeable"."""
    if one.alone.mean <= 0:
        return [None]
    return [one.alone, one.redundancy, *([] if one.alone_placebo is None else [one.alone_placebo])]


def _largest(effects: Sequence[Effect | None]) -> float:
    """P of a claim that needs all effects with one sign; 1 if one is missing."""
    known = [e for e in effects if e is not None]
    signs = {math.copysign(1, e.mean) for e in known}
    if len(known) < len(effects) or len(signs) != 1 or any(e.mean == 0 for e in known):
        return 1.0
    return max(e.p for e in known)


def _corrected(p: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p, holm(list(p.values())).tolist(), strict=True))


def _within(one: Evidence, margin: float) -> bool:
    """Whether the effect is within the margin, also what the smallest weight would add where validation chose 0.

    An effect of weight 0 alone is a choice and no measurement.
    """
    if one.unused and one.smallest_weight_effect is None:
        return False
    small = one.smallest_weight_effect is None or one.smallest_weight_effect.interval_at(0.9)[1] < margin
    return small and all(effect.is_equivalent(margin) for effect in one.all)


def _visible(one: Evidence, tests: int) -> float:
    effects = [*one.all, *([] if one.smallest_weight_effect is None else [one.smallest_weight_effect])]
    return max(effect.detectable_effect(tests) for effect in effects)


def verdict_sentence(
    relation: str,
    metric: str,
    judgement: Judgement,
    one: Evidence,
    margin: float,
    together: Effect | None = None,
    titles: Titles = NO_TITLES,
    draws_test: bool = True,
    decimals: int = 4,
) -> str:
    """One sentence on a verdict with its figures, which are positive where the relation adds something.

    ``together`` is what the relation and those it is interchangeable with add to the interactions. ``draws_test``:
    whether every seed draws its own test rows, so that more seeds would decide more.
    """
    relation = titles.get(relation, relation)

    def adds(effect: Effect) -> str:
        return signed(effect.mean, decimals)

    def with_interval(effect: Effect) -> str:
        return f"{adds(effect)} ({interval(effect.low, effect.high, decimals)})"

    added, alone, least = with_interval(one.added), with_interval(one.alone), f"{margin:.{decimals}f}"
    again = "" if one.held is None else f", {adds(one.drop)} once the model is tuned again without it"
    if judgement.verdict == "helps":
        return f"{relation} helps: beside the others it adds {added} {metric}{again}; alone {adds(one.alone)}."
    if judgement.verdict == "hurts":
        return f"{relation} hurts: beside the others it adds {added} {metric}{again}."
    if judgement.verdict == "interchangeable":
        others = " or ".join(titles.get(name, name) for name in judgement.instead)
        with_them = f"is interchangeable with {others}" if others else "is replaced by the others"
        dropped = f"beside the others {with_interval(one.drop)}"
        group = "" if together is None else f"; together they add {adds(together)}"
        return f"{relation} {with_them}: alone it adds {alone} {metric}, {dropped}{group}. One of them is enough."
    figures, small = (
        f"beside the others it adds {added}{again}, alone {alone}",
        f"; all of it within {least} either way",
    )
    if one.unused == 1 and one.smallest_weight_effect is not None:
        most = signed(one.smallest_weight_effect.interval_at(0.9)[1], decimals)
        would_add = f"{adds(one.smallest_weight_effect)}, at most {most}"
        figures = f"validation gives it no weight; the smallest one would add {would_add}"
        small = f", which is below the margin of {least}"  # a weight may cost more than the margin
    if one.unused and one.smallest_weight_effect is None:
        return f"{relation}, undecided: {_not_measured(one.unused)}."
    if judgement.verdict == "negligible":
        return f"{relation} is negligible: {figures} {metric}{small}."
    placebo = ""
    if one.placebo is not None and one.added.p < ALPHA < one.placebo.p and one.added.mean > 0:
        placebo = f", but with its links shuffled only {adds(one.placebo)} is lost"
    needed = _needed(one, judgement.detectable_effect, margin, draws_test)
    needed = f"; one as small as the margin of {least} with {needed}" if needed else ""
    return (
        f"{relation}, undecided: {figures} {metric}{placebo}. An effect of "
        f"{judgement.detectable_effect:.{decimals}f} would have been seen{needed}."
    )


def _not_measured(unused: float) -> str:
    """That a relation is left out on a share of the splits, where no arm measures another weight."""
    where = "" if unused == 1 else f" on {unused:.0%} of the splits"
    return f"validation gives it no weight{where}, and what one would add was not measured"


def _needed(one: Evidence, detectable_effect: float, margin: float, draws_test: bool) -> str:
    """Sample size that would show effects as small as the margin; "" if this one does."""
    if detectable_effect <= margin:
        return ""
    times = (detectable_effect / margin) ** 2
    if one.drop.n_seeds == 1 or not draws_test:
        if times > MANY_TIMES:
            return f"more than {MANY_TIMES} times as many users"
        users = math.ceil(one.drop.n_users * times / 100) * 100
        return f"about {users:,} users"
    splits = math.ceil(one.drop.n_seeds * times)
    return f"about {splits} splits" if splits <= MANY_SPLITS else f"more than {MANY_SPLITS} splits"
