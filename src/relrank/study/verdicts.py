"""From effects to what may be said of a relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from relrank.comparison import Effect

Verdict = Literal["helps", "redundant", "hurts", "no evidence"]
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


def verdict(drop: Judged, alone: Judged, placebo: Judged | None) -> Verdict:
    """The rule, in this order.

    helps: leaving the relation out costs something, and so does shuffling its links (where that was run), so it is
    the links that matter and not how many of them a node has. hurts: everything is better without it. redundant: it
    adds to the interactions alone, but nothing that the other relations do not bring. Else there is no evidence.
    """
    if drop.positive and (placebo is None or placebo.positive):
        return "helps"
    if drop.negative or (alone.negative and drop.effect.mean <= 0):
        return "hurts"
    if alone.positive and not drop.positive:
        return "redundant"
    return "no evidence"


def sentence(
    relation: str, metric: str, said: Verdict, drop: Judged, alone: Judged, placebo: Judged | None,
    redundant_with: Sequence[str],
) -> str:  # fmt: skip
    """One sentence with the figures the verdict rests on."""
    d, a = drop.effect, alone.effect
    if said == "helps":
        return (
            f"{relation} helps: without it {metric} falls by {d.mean:.4f} "
            f"({d.low:.4f} to {d.high:.4f}); alone beside the interactions it adds {a.mean:+.4f}."
        )
    if said == "hurts":
        return f"{relation} hurts: without it {metric} changes by {-d.mean:+.4f} ({-d.high:+.4f} to {-d.low:+.4f})."
    if said == "redundant":
        others = " or ".join(redundant_with) if redundant_with else "the other relations together"
        return (
            f"{relation} helps alone ({a.mean:+.4f}, {a.low:+.4f} to {a.high:+.4f}), but is redundant beside "
            f"{others}: leaving it out changes {metric} by {-d.mean:+.4f} ({-d.high:+.4f} to {-d.low:+.4f})."
        )
    if drop.positive and placebo is not None:
        return (
            f"No evidence for the links of {relation}: leaving it out costs {d.mean:.4f}, but shuffling its links "
            f"costs {placebo.effect.mean:+.4f} ({placebo.effect.low:+.4f} to {placebo.effect.high:+.4f})."
        )
    return (
        f"No evidence for {relation}: leaving it out changes {metric} by {-d.mean:+.4f} "
        f"({-d.high:+.4f} to {-d.low:+.4f}); an effect of {max(d.smallest, 0):.4f} would have been seen."
    )


def redundant_with(beside: Mapping[str, Judged]) -> list[str]:
    """The relations beside which this one adds nothing that can be told from zero."""
    return [other for other, judged in beside.items() if not judged.positive]
