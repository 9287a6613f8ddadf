"""From effects to what may be said of a relation.

A relation's effect is asked twice: with everything else held (its edges go, every other setting stays), and after
retuning (the model is tuned again without it). A claim needs all of its effects at once, so its p is the largest of
theirs (an intersection–union test), and Holm's correction runs over the relations of a model, once per kind of claim.
What is not claimed is not thereby small: a relation is negligible only where its effects are shown to lie within the
margin.

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
from relrank.study.figures import interval, signed

Verdict = Literal["helps", "interchangeable", "hurts", "negligible", "undecided"]
NOT_READ = "not read"
"""What stands in place of a verdict where a model cannot read a relation: nothing was tested."""
ORDER = ("helps", "interchangeable", "hurts", "negligible", "undecided", NOT_READ)
ALPHA = 0.05
MANY_SPLITS = 50
"""More splits than this are not asked for."""
MANY_TIMES = 100
"""Nor so many times the users."""


def agrees(verdict: str, truth: str) -> bool:
    """Whether a verdict is right where the truth is known; of what is worth nothing, "undecided" claims nothing."""
    return verdict == truth or (truth == "negligible" and verdict == "undecided")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one relation with one model; every effect is above 0 where the relation adds something.

    Attributes:
        held: all − all without it in the setting of "all"; None where arms are not tuned, which "drop" then says.
        drop: all − all without it, tuned again.
        alone: interactions + it − interactions.
        placebo: all − all with its links shuffled; None where that was not run.
        alone_placebo: interactions + it − interactions + it with shuffled links; None where that was not run.
        smallest_weight_effect: where validation gave it no weight, what the smallest weight that was tried would add;
            else None.
        unused: share of splits in which validation gave it no weight.
        redundancy: alone − 2 · drop: above 0 where the others bring more than half of what it brings alone.
        replaced_by: likewise beside single other relations: alone − 2 · (what it adds beside that one).
    """

    drop: Effect
    alone: Effect
    held: Effect | None = None
    placebo: Effect | None = None
    alone_placebo: Effect | None = None
    smallest_weight_effect: Effect | None = None
    unused: float = 0.0
    redundancy: Effect | None = None
    replaced_by: Mapping[str, Effect] = field(default_factory=dict)

    @property
    def beside(self) -> Effect:
        """What it adds beside the others, all else held."""
        return self.drop if self.held is None else self.held

    @property
    def all(self) -> list[Effect]:
        """Everything that says how large its effect is."""
        return [e for e in (self.held, self.drop, self.alone, self.placebo) if e is not None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one relation.

    Attributes:
        verdict: in a word.
        p: of the claim behind it, corrected over the relations; None where nothing is claimed.
        instead: the relations that it is interchangeable with.
        detectable_effect: smallest true effect that would have been claimed with power .8.
    """

    verdict: Verdict
    p: float | None
    instead: tuple[str, ...]
    detectable_effect: float


def decide_verdicts(evidence: Mapping[str, Evidence], margin: float) -> dict[str, Judgement]:
    """The verdicts on the relations of a model.

    helps: beside the others it adds something in their setting, after retuning, and more than with its links shuffled
    (where that was run), so it is the links that matter and not how many of them a node has. hurts: both ways all is
    better without it. interchangeable: alone it adds something, and more than its shuffled links (where that was
    run), but the others bring more than half of it. negligible: all of its effects lie within the margin. Else it is
    undecided.

    Args:
        evidence: by relation.
        margin: smallest difference that matters, in units of the metric.
    """
    direct = _corrected({name: _largest(_direct(one)) for name, one in evidence.items()})
    stands_in = _corrected({name: _largest(_in_place(one)) for name, one in evidence.items()})
    said: dict[str, Judgement] = {}
    for name, one in evidence.items():
        verdict: Verdict = "undecided"
        p: float | None = None
        instead: tuple[str, ...] = ()
        if direct[name] < ALPHA:
            verdict, p = ("helps" if one.beside.mean > 0 else "hurts"), direct[name]
        elif stands_in[name] < ALPHA:
            verdict, p = "interchangeable", stands_in[name]
            instead = tuple(other for other, e in one.replaced_by.items() if e.mean > 0 and e.p < ALPHA)
        elif _within(one, margin):
            verdict = "negligible"
        said[name] = Judgement(verdict, p, instead, _visible(one, len(evidence)))
    return said


def _direct(one: Evidence) -> list[Effect]:
    """What has to point one way for "helps" or "hurts"."""
    both = [one.beside, one.drop]
    return both if one.placebo is None or one.beside.mean < 0 else [*both, one.placebo]


def _in_place(one: Evidence) -> list[Effect | None]:
    """What has to be above 0 for "interchangeable"."""
    if one.alone.mean <= 0:
        return [None]
    return [one.alone, one.redundancy, *([] if one.alone_placebo is None else [one.alone_placebo])]


def _largest(effects: Sequence[Effect | None]) -> float:
    """P of a claim that needs all effects to have one sign."""
    known = [e for e in effects if e is not None]
    signs = {math.copysign(1, e.mean) for e in known}
    if len(known) < len(effects) or len(signs) != 1 or any(e.mean == 0 for e in known):
        return 1.0
    return max(e.p for e in known)


def _corrected(p: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p, holm(list(p.values())).tolist(), strict=True))


def _within(one: Evidence, margin: float) -> bool:
    """Where validation gives no weight nothing differs; then what a weight would add has to stay below the margin."""
    no_room = one.smallest_weight_effect is None or one.smallest_weight_effect.interval_at(0.9)[1] < margin
    return no_room and all(effect.is_equivalent(margin) for effect in one.all)


def _visible(one: Evidence, tests: int) -> float:
    effects = [*one.all, *([] if one.smallest_weight_effect is None else [one.smallest_weight_effect])]
    return max(effect.detectable_effect(tests) for effect in effects)


def sentence(
    relation: str,
    metric: str,
    said: Judgement,
    one: Evidence,
    margin: float,
    together: Effect | None = None,
    titles: Titles = NO_TITLES,
    draws_test: bool = True,
    decimals: int = 4,
) -> str:
    """One sentence with the figures that the verdict rests on; a plus is what the relation adds.

    ``together`` is what the relation and those it is interchangeable with bring to the interactions; ``titles`` are
    read instead of names. ``draws_test``: whether another seed is another split, so that more of them can be asked
    for. ``decimals``: of all figures.
    """
    relation = titles.get(relation, relation)

    def adds(effect: Effect) -> str:
        return signed(effect.mean, decimals)

    def whole(effect: Effect) -> str:
        return f"{adds(effect)} ({interval(effect.low, effect.high, decimals)})"

    held, alone, least = whole(one.beside), whole(one.alone), f"{margin:.{decimals}f}"
    again = "" if one.held is None else f", {adds(one.drop)} once the model is tuned again without it"
    if said.verdict == "helps":
        return f"{relation} helps: beside the others it adds {held} {metric}{again}; alone {adds(one.alone)}."
    if said.verdict == "hurts":
        return f"{relation} hurts: beside the others it adds {held} {metric}{again}."
    if said.verdict == "interchangeable":
        others = " or ".join(titles.get(name, name) for name in said.instead)
        with_them = f"is interchangeable with {others}" if others else "is replaced by the others"
        beside = f"beside the others {whole(one.drop)}"
        group = "" if together is None else f"; together they add {adds(together)}"
        return f"{relation} {with_them}: alone it adds {alone} {metric}, {beside}{group}. One of them is enough."
    beside = f"beside the others it adds {held}{again}, alone {alone}"
    if one.unused == 1 and one.smallest_weight_effect is not None:
        most = one.smallest_weight_effect.interval_at(0.9)[1]
        smallest_weight_effect = f"{adds(one.smallest_weight_effect)}, at most {signed(most, decimals)}"
        beside = f"validation gives it no weight; the smallest one would add {smallest_weight_effect}"
    if said.verdict == "negligible":
        small = f"; all of it within {least} either way"
        if (
            one.unused == 1 and one.smallest_weight_effect is not None
        ):  # what a weight would cost may be more than the margin
            small = f", which is below the margin of {least}"
        return f"{relation} is negligible: {beside} {metric}{small}."
    shuffled = ""
    if one.placebo is not None and one.beside.p < ALPHA < one.placebo.p and one.beside.mean > 0:
        shuffled = f", but with its links shuffled only {adds(one.placebo)} is lost"
    needed = _needed(one, said.detectable_effect, margin, draws_test)
    needed = f"; one as small as the margin of {least} with {needed}" if needed else ""
    return (
        f"{relation}, undecided: {beside} {metric}{shuffled}. An effect of "
        f"{said.detectable_effect:.{decimals}f} would have been seen{needed}."
    )


def _needed(one: Evidence, detectable_effect: float, margin: float, draws_test: bool) -> str:
    """What would show effects as small as the margin."""
    if detectable_effect <= margin:
        return ""
    times = (detectable_effect / margin) ** 2
    of_users = one.drop.n_seeds == 1 or not draws_test
    if of_users and times > MANY_TIMES:
        return f"more than {MANY_TIMES} times as many users"
    if of_users:
        users = math.ceil(one.drop.n_users * times / 100) * 100
        return f"about {users:,} users"
    splits = math.ceil(one.drop.n_seeds * times)
    return f"about {splits} splits" if splits <= MANY_SPLITS else f"more than {MANY_SPLITS} splits"
