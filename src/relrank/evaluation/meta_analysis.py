"""The mean of an effect over several data sets, and how much it differs between them.

Normal–normal model: the estimate y_k of data set k has a known standard error s_k around its own effect θ_k, and the
effects of data sets are spread around a mean:

    y_k ~ N(θ_k, s_k²),  θ_k ~ N(μ, τ²),  μ flat,  τ half-normal with a given scale.

Given τ, μ is normal and its mean and variance have a closed form. Its posterior is therefore a mixture of normal
distributions over a grid of τ, whose weights are the posterior of τ: no sampling, no approximation but the grid.

References:
    Röver, "Bayesian random-effects meta-analysis using the bayesmeta R package", J. Statistical Software 93(6), 2020.
    Röver et al., "On weakly informative prior distributions for the heterogeneity parameter in Bayesian
    random-effects meta-analysis", Research Synthesis Methods 12(4), 2021 (half-normal priors).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, ndtr, ndtri

from relrank.errors import InputError
from relrank.kernels.csr import Float64

GRID = 1_000
"""Values of τ; four times as many change no interval by more than a thousandth of its width."""
TAIL = 6.0
"""The grid ends at so many scales of the prior: 2 · 10⁻⁹ of it lie beyond."""


@dataclass(frozen=True, slots=True, eq=False)
class PooledEffect:
    """Posterior of the mean effect μ, of its spread τ between data sets, and of the effect in a new data set.

    Attributes:
        n: number of data sets.
        mean: posterior mean of μ.
        low: lower end of its central 95 % interval.
        high: upper end.
        spread: posterior median of τ, the standard deviation between data sets.
        spread_low: lower end of its central 95 % interval.
        spread_high: upper end.
        new_low: lower end of the central 95 % interval of the effect in a new data set.
        new_high: upper end.
    """

    n: int
    mean: float
    low: float
    high: float
    spread: float
    spread_low: float
    spread_high: float
    new_low: float
    new_high: float
    _weights: Float64
    _means: Float64
    _errors: Float64
    _new_errors: Float64

    def interval_at(self, level: float) -> tuple[float, float]:
        """Central interval of μ at another level, such as .9."""
        ends = (0.5 - level / 2, 0.5 + level / 2)
        low, high = (_quantile(p, self._weights, self._means, self._errors) for p in ends)
        return low, high

    def probability_above(self, value: float) -> float:
        """Probability that the effect in a new data set is above a value."""
        return float(self._weights @ ndtr((self._means - value) / self._new_errors))


def pool_effects(effects: Sequence[float], errors: Sequence[float], scale: float) -> PooledEffect:
    """The normal–normal model of the effects of several data sets.

    Args:
        effects: one per data set, at least two.
        errors: their standard errors, above 0.
        scale: of the half-normal prior of the spread τ, in the unit of the effects.

    Raises:
        InputError: fewer than two data sets, an error or the scale is not above 0, or a value is not finite.
    """
    y, s = np.asarray(effects, np.float64), np.asarray(errors, np.float64)
    fits = y.ndim == 1 and y.shape == s.shape and y.size > 1 and np.isfinite(y).all() and np.isfinite(s).all()
    if not fits or (s <= 0).any() or not scale > 0:
        raise InputError(
            "effects cannot be pooled",
            where="pool_effects",
            expected="finite effects of at least two data sets, their standard errors and a scale, all above 0",
            found=f"effects {y.tolist()}, errors {s.tolist()}, scale {scale}",
        )
    tau, steps = _grid(float(s.min()), scale)
    precision = 1 / (s**2 + tau[:, None] ** 2)  # [grid, data sets]
    total = precision.sum(1)
    means = precision @ y / total
    log = 0.5 * (np.log(precision).sum(1) - np.log(total) - (precision * (y - means[:, None]) ** 2).sum(1))
    log += np.log(steps) - 0.5 * (tau / scale) ** 2
    weights = np.exp(log - logsumexp(log))
    deviations = np.sqrt(1 / total)
    new = np.sqrt(1 / total + tau**2)
    ends = (0.025, 0.975)
    low, high = (_quantile(p, weights, means, deviations) for p in ends)
    new_low, new_high = (_quantile(p, weights, means, new) for p in ends)
    # the mass of a node lies around it, so half of it is below
    below = np.cumsum(weights) - weights / 2
    spread_low, spread, spread_high = (float(np.interp(p, below, tau)) for p in (0.025, 0.5, 0.975))
    return PooledEffect(
        y.size,
        float(weights @ means),
        low,
        high,
        spread,
        spread_low,
        spread_high,
        new_low,
        new_high,
        weights,
        means,
        deviations,
        new,
    )


def _grid(smallest: float, scale: float) -> tuple[Float64, Float64]:
    """Midpoints of τ and the widths of their steps: even below the smallest error, growing by a factor above it."""
    unit = min(smallest, scale)
    edges = unit * np.sinh(np.linspace(0.0, np.arcsinh(TAIL * scale / unit), GRID + 1))
    return (edges[1:] + edges[:-1]) / 2, np.diff(edges)


def _quantile(probability: float, weights: Float64, means: Float64, deviations: Float64) -> float:
    """Quantile of a mixture of normal distributions."""
    far = ndtri(probability) * deviations
    low, high = float((means + far).min()), float((means + far).max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return low
    return float(brentq(lambda x: weights @ ndtr((x - means) / deviations) - probability, low, high))
