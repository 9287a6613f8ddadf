"""Whether one model is at least as good as another: per-user tables, a margin, and an exit code for pipelines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from relrank.errors import InputError
from relrank.evaluation.comparison import Effect, compare
from relrank.study.number_format import decimals_of
from relrank.study.per_user_tables import TablesBySplit, paired

Answer = Literal["superior", "equivalent", "non-inferior", "inferior", "undecided"]
EXIT_CODES: dict[Answer, int] = {"superior": 0, "equivalent": 0, "non-inferior": 0, "inferior": 1, "undecided": 3}
"""2 is reserved for wrong usage of the command."""


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """The comparison of two models.

    Attributes:
        answer: the strongest statement that the effect allows.
        effect: the new model minus the baseline.
        baseline: mean metric of the baseline.
        margin: smallest difference that matters, in units of the metric.
        one_split: whether all tables are from one split, with several initializations of a model on it.
    """

    answer: Answer
    effect: Effect
    baseline: float
    margin: float
    one_split: bool = False


def answer_of(effect: Effect, margin: float) -> Answer:
    """The strongest statement that an effect allows, at level .05.

    superior: the 95 % interval lies above 0. equivalent: the 90 % interval lies within the margin. inferior: the 95 %
    interval lies below 0. non-inferior: the 90 % interval lies above minus the margin (one test at .05).
    """
    if effect.low > 0:
        return "superior"
    if effect.is_equivalent(margin):
        return "equivalent"
    if effect.high < 0:
        return "inferior"
    return "non-inferior" if effect.interval_at(0.9)[0] > -margin else "undecided"


def parse_margin(text: str) -> tuple[float, bool]:
    """Parse a margin, ``"1%"`` of the baseline or ``"0.002"``: the number, and whether it is a share.

    Raises:
        InputError: neither, or not above 0.
    """
    share = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if share else 1)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise InputError(
            "not a margin", where="--margin", expected='such as "1%" or "0.002", above 0', found=repr(text)
        )
    return value, share


def compare_models(new: TablesBySplit, baseline: TablesBySplit, metric: str, margin: str) -> ModelComparison:
    """Compare two models, paired by user and split, with users and splits as crossed random effects.

    Args:
        new: per-user tables by split (``per_user_tables.read_per_user_tables``), with columns ``user`` and the
            metric.
        baseline: likewise, of the same splits and users.
        metric: column.
        margin: see ``parse_margin``.

    Raises:
        InputError: no such metric, splits or users on one side only, duplicate users, or missing values.
    """
    size, share = parse_margin(margin)
    left, right, names = paired(new, baseline)
    effect = compare(left, right, metric, names=[f"split {name}" for name in names])
    mean = float(np.concatenate([table[metric].to_numpy() for table in right]).mean())
    absolute = size * abs(mean) if share else size
    if absolute == 0:
        raise InputError(
            "margin is a share of 0",
            where="--margin",
            found=repr(margin),
            expected=f"a number, since the baseline's {metric} is 0",
        )
    prints = {table["fingerprint"][0] for table in right if "fingerprint" in table.columns}
    return ModelComparison(
        answer_of(effect, absolute), effect, mean, absolute, one_split=len(names) > len(prints) == 1
    )


def comparison_summary(comparison: ModelComparison, metric: str) -> str:
    """The answer in one line, with its figures."""
    e, decimals = comparison.effect, decimals_of(comparison.baseline)
    several = "starts on one split" if comparison.one_split else "splits"
    over = f", {e.n_seeds} {several}" if e.n_seeds > 1 else ""
    return (
        f"{comparison.answer}: {metric} {e.mean:+.{decimals}f} ({e.low:+.{decimals}f} to {e.high:+.{decimals}f}) "
        f"against {comparison.baseline:.{decimals}f}, margin {comparison.margin:.{decimals}f}, "
        f"{e.n_users:,} users{over}"
    )
