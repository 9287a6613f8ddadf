"""What a relation would add where the search leaves it out: the best other weight that it tried, on validation rows.

A search that gives a relation the weight 0 makes its effect on test exactly 0. That is no measurement: a gain that is
smaller than a search's own noise is left out as well. The search's trials measure it. In each split, of those that
differ from the chosen one by relation weights only, the best says what the relation would add if it had to be used:

    g_s = max_w metric_s(w) / metric_s(0) − 1

The mean over splits has the interval of Student's t. The best of several weights is flattering to the relation, so
that an upper limit of g is a cautious one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from scipy.special import stdtr

from relrank.evaluation.comparison import Effect, t_quantile
from relrank.study.result import StudyResult

WEIGHTS = "weights."
"""Prefix of relation weights among the hyper-parameters of a trial."""


def gains_on_validation(result: StudyResult, model: str, arm: str) -> list[float]:
    """Gain g of each split, as a share of the metric at weight 0; splits that say nothing of it are missing.

    Args:
        result: of the study.
        model: name.
        arm: with the relations whose weights the search sets to 0.
    """
    gains = []
    trials = result.tuning.filter((pl.col("model") == model) & (pl.col("arm") == arm))
    for _, rows in sorted(trials.group_by("seed"), key=lambda group: group[0]):
        configs = [json.loads(config) for config in rows["config"]]
        chosen = next((i for i, is_chosen in enumerate(rows["chosen"]) if is_chosen), None)
        if chosen is None or any(_weights(configs[chosen]).values()):
            continue
        others = [
            metric
            for config, metric in zip(configs, rows["metric"], strict=True)
            if any(_weights(config).values()) and _other_settings(config) == _other_settings(configs[chosen])
        ]
        base = rows["metric"][chosen]
        if others and base > 0:
            gains.append(max(others) / base - 1)
    return gains


def effect_of_best_weight(gains: Sequence[float]) -> Effect | None:
    """The mean of g with its interval over splits; None for fewer than two."""
    n = len(gains)
    if n < 2:
        return None
    mean, error, freedom = float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(n)), n - 1.0
    half = t_quantile(0.975, freedom) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error else float(mean == 0)
    size = mean / (error * np.sqrt(n)) if error else 0.0
    return Effect(mean, mean - half, mean + half, p, size, error, freedom, n, n)


def _weights(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name.startswith(WEIGHTS)}


def _other_settings(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith(WEIGHTS)}
