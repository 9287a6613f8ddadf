"""Is one model at least as good as another? Two per-user tables, a margin, and an answer for a pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from relrank.comparison import Effect, compare
from relrank.errors import InputError

Answer = Literal["superior", "equivalent", "non-inferior", "inferior", "undecided"]
EXIT_CODES: dict[Answer, int] = {"superior": 0, "equivalent": 0, "non-inferior": 0, "inferior": 1, "undecided": 3}
"""2 is kept for what is wrong with the command."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What two tables say.

    Attributes:
        answer: in a word.
        effect: the new model minus the baseline.
        baseline: mean metric of the baseline.
        margin: smallest difference that matters, in units of the metric.
    """

    answer: Answer
    effect: Effect
    baseline: float
    margin: float


def answer_of(effect: Effect, margin: float) -> Answer:
    """The strongest statement that an effect allows, at .05.

    superior: the 95 % interval lies above 0. equivalent: the 90 % interval lies within the margin. inferior: the 95 %
    interval lies below 0. non-inferior: the 90 % interval lies above minus the margin (one test at .05).
    """
    if effect.low > 0:
        return "superior"
    if effect.within(margin):
        return "equivalent"
    if effect.high < 0:
        return "inferior"
    return "non-inferior" if effect.between(0.9)[0] > -margin else "undecided"


def margin_of(text: str) -> tuple[float, bool]:
    """A margin as written, ``"1%"`` of the baseline or ``"0.002"``: the number, and whether it is a share.

    Raises:
        InputError: it is neither, or not above 0.
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


def compare_models(new: pl.DataFrame, baseline: pl.DataFrame, metric: str, margin: str) -> Compared:
    """Compare two per-user tables, paired by user.

    Args:
        new: columns ``user`` and the metric.
        baseline: likewise, of the same users.
        metric: column.
        margin: see ``margin_of``.

    Raises:
        InputError: no such metric, users of one side only, or values that are missing.
    """
    size, share = margin_of(margin)
    effect = compare(new, baseline, metric)
    mean = float(np.mean(baseline[metric].to_numpy()))
    absolute = size * abs(mean) if share else size
    if absolute == 0:
        raise InputError(
            "margin is a share of nothing", where="--margin", found=repr(margin),
            expected=f"a number, since the baseline's {metric} is 0",
        )  # fmt: skip
    return Compared(answer_of(effect, absolute), effect, mean, absolute)


def per_user(path: Path, metric: str) -> pl.DataFrame:
    """A table of one value per user: a Parquet file, or a kept model that is evaluated on its test rows.

    Raises:
        InputError: neither is there, the file is no Parquet file, or it has no such columns.
    """
    if path.is_dir():
        from relrank.evaluation import evaluate
        from relrank.study.fitted import load_run

        run = load_run(path)
        cut = metric.partition("@")[2]
        return evaluate(run.model, run.split, (int(cut),) if cut.isdigit() else (10,)).table
    if not path.is_file():
        raise InputError(
            "nothing to compare",
            where=str(path),
            expected="a Parquet file, or the folder of a model",
            found="nothing",
        )
    try:
        table = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError("file cannot be read", where=str(path), expected="Parquet", found=str(error)) from None
    lacking = [name for name in ("user", metric) if name not in table.columns]
    if lacking:
        raise InputError(
            "column is missing", where=str(path), expected=" and ".join(repr(name) for name in lacking),
            found=", ".join(table.columns),
        )  # fmt: skip
    return table


def said(found: Compared, metric: str) -> str:
    """The answer in one line, with its figures."""
    e = found.effect
    return (
        f"{found.answer}: {metric} {e.mean:+.4f} ({e.low:+.4f} to {e.high:+.4f}) against {found.baseline:.4f}, "
        f"margin {found.margin:.4f}, {e.n_users:,} users"
    )
