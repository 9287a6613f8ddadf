"""From effects to what may be said of a relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from relrank.comparison import Effect


def signed(value: float) -> str:
    """Four decimals with a sign; zero has none."""
    text = f"{value:+.4f}"
    return text[1:] if float(text) == 0 else text


def interval(low: float, high: float) -> str:
    """An interval of a signed quantity."""
    return f"{signed(low)} to {signed(high)}"


Verdict = Literal["helps", "redundant", "hurts", "no evidence"]
NOT_READ = "not read"
"""What stands in place of a verdict where a model cannot read a relation: nothing was tested."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """An effect with its p-value adjusted for the number of relations (Holm)."""

    effect: Effect
    p_holm: float

    @property
    def positive(self) -> bool:
        """Clear of zero from above: interval and adjusted p agree."""
        return self.effect.low > 0 and self.p_holm < ALPHA

    @property
    def negative(self) -> bool:
        """Clear of zero from below."""
        return self.effect.high < 0 and self.p_holm < ALPHA


def verdict(drop: Judged, alone: Judged, placebo: Judged | None, alone_placebo: Judged | None = None) -> Verdict:
    """The rule, in this order.

    helps: leaving the relation out costs something, and so does shuffling its links (where that was run), so it is
    the links that matter and not how many of them a node has. hurts: everything is better without it. redundant: it
    adds to the interactions alone, and more than its links shuffled do (where that was run), but nothing that the
    other relations do not bring. Else there is no evidence.

    Args:
        drop: all − all without it.
        alone: interactions + it − interactions.
        placebo: all − all with it rewired.
        alone_placebo: interactions + it − interactions + it rewired.
    """
    if drop.positive and (placebo is None or placebo.positive):
        return "helps"
    if drop.negative or (alone.negative and drop.effect.mean <= 0):
        return "hurts"
    if alone.positive and not drop.positive and (alone_placebo is None or alone_placebo.positive):
        return "redundant"
    return "no evidence"


def smallest(effects: Sequence[Effect], stand_in: float) -> float:
    """The smallest effect of a relation that the study could have shown, on the safe side.

    The largest over the relation's own effects. Where validation gave the relation weight 0 in every arm, nothing
    differs and nothing can be learned from it: then ``stand_in``.
    """
    return max((e.smallest for e in effects), default=0.0) or stand_in


def sentence(
    relation: str, metric: str, said: Verdict, drop: Judged, alone: Judged, placebo: Judged | None,
    redundant_with: Sequence[str], visible: float, mutual: bool = False, alone_placebo: Judged | None = None,
) -> str:  # fmt: skip
    """One sentence with the figures the verdict rests on; changes are those of leaving the relation out."""
    d, a = drop.effect, alone.effect
    change = f"leaving it out changes {metric} by {signed(-d.mean)} ({interval(-d.high, -d.low)})"
    if said == "helps":
        return f"{relation} helps: {change}; beside the interactions alone it adds {signed(a.mean)}."
    if said == "hurts":
        return f"{relation} hurts: {change}."
    if said == "redundant":
        others = " or ".join(redundant_with) if redundant_with else "the other relations together"
        return (
            f"{relation} helps alone ({signed(a.mean)}, {interval(a.low, a.high)}), but is redundant beside "
            f"{others}: {change}." + (" They stand in for each other: do not drop both." if mutual else "")
        )
    seen = f"an effect of {visible:.4f} would have been seen" if visible > 0 else "no effect could have been seen"
    if drop.positive and placebo is not None:
        p = placebo.effect
        return (
            f"No evidence for the links of {relation}: {change}, but shuffling its links changes it by only "
            f"{signed(-p.mean)} ({interval(-p.high, -p.low)}); {seen}."
        )
    if alone.positive and alone_placebo is not None:
        p = alone_placebo.effect
        return (
            f"No evidence for the links of {relation}: alone it adds {signed(a.mean)}, but only {signed(p.mean)} "
            f"({interval(p.low, p.high)}) more than with its links shuffled; {change}; {seen}."
        )
    if d.mean == d.low == d.high == 0:
        change = "validation left it out by itself"
    return f"No evidence for {relation}: {change}; {seen}."


def redundant_with(beside: Mapping[str, Judged]) -> list[str]:
    """The relations beside which this one adds nothing that can be told from zero."""
    return [other for other, judged in beside.items() if not judged.positive]
