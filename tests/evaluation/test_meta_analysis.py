"""The mean over data sets against closed forms and an independent integration."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from relrank.errors import InputError
from relrank.evaluation.meta_analysis import pool_effects

EFFECTS, ERRORS = [1.0, 8.0, -2.0, 4.0], [0.5, 1.0, 0.3, 2.0]


def test_without_a_spread_it_is_the_fixed_effect():
    """Weights 1/s²: 4, 1, 11.11 and .25 of 16.361 for the effects 1, 8, −2 and 4."""
    pooled = pool_effects(EFFECTS, ERRORS, scale=1e-6)
    weights = 1 / np.square(ERRORS)
    mean, error = weights @ EFFECTS / weights.sum(), weights.sum() ** -0.5
    assert pooled.mean == pytest.approx(mean, abs=1e-6)
    assert mean == pytest.approx((4 + 8 - 22.2222 + 1) / 16.3611, abs=1e-4)
    assert (pooled.low, pooled.high) == pytest.approx((mean - 1.959964 * error, mean + 1.959964 * error), abs=1e-5)
    assert pooled.interval_at(0.9) == pytest.approx((mean - 1.644854 * error, mean + 1.644854 * error), abs=1e-5)
    assert pooled.probability_above(mean) == pytest.approx(0.5, abs=1e-5)


def test_with_a_large_spread_it_is_the_plain_mean():
    effects = [1000 * y for y in EFFECTS]
    pooled = pool_effects(effects, ERRORS, scale=1e5)
    assert pooled.mean == pytest.approx(np.mean(effects), rel=1e-3)
    assert pooled.spread_low < np.std(effects, ddof=1) < pooled.spread_high


@pytest.mark.parametrize(
    ("effects", "errors", "scale"),
    [(EFFECTS, ERRORS, 5.0), ([2.0, 3.0], [0.5, 0.6], 5.0), ([0.1, 0.4, 12.0], [0.02, 0.01, 3.0], 2.0)],
)
def test_as_integrated_by_quad(effects, errors, scale):
    """Over μ, too, which the code integrates in closed form."""
    y, s = np.array(effects), np.array(errors)
    middle, wide = float(y.mean()), float(np.ptp(y) + 8 * s.max() + 8 * scale)
    points = [0.01 * scale, 0.1 * scale, scale]

    def of_tau(tau: float) -> float:
        """Likelihood and prior at τ, with μ integrated on a fine grid."""
        mu = np.linspace(middle - wide, middle + wide, 20_001)
        density = norm.pdf(y[:, None], mu, np.hypot(s, tau)[:, None]).prod(0)
        return np.trapezoid(density, mu) * np.exp(-0.5 * (tau / scale) ** 2)

    def expected(value) -> float:
        return quad(lambda tau: value(tau) * of_tau(tau), 0, 6 * scale, points=points, epsabs=0, limit=200)[0] / total

    total = quad(of_tau, 0, 6 * scale, points=points, epsabs=0, limit=200)[0]
    pooled = pool_effects(effects, errors, scale)

    def given(tau: float) -> tuple[float, float]:
        weights = 1 / (s**2 + tau**2)
        return weights @ y / weights.sum(), weights.sum() ** -0.5

    assert pooled.mean == pytest.approx(expected(lambda tau: given(tau)[0]), rel=1e-4)
    for end, below in ((pooled.low, 0.025), (pooled.high, 0.975)):
        assert expected(lambda tau: norm.cdf(end, *given(tau))) == pytest.approx(below, abs=2e-4)  # noqa: B023
    for end, below in ((pooled.new_low, 0.025), (pooled.new_high, 0.975)):
        at = expected(lambda tau: norm.cdf(end, given(tau)[0], np.hypot(given(tau)[1], tau)))  # noqa: B023
        assert at == pytest.approx(below, abs=2e-4)
    for end, below in ((pooled.spread_low, 0.025), (pooled.spread, 0.5), (pooled.spread_high, 0.975)):
        assert quad(of_tau, 0, end, epsabs=0, limit=200)[0] / total == pytest.approx(below, abs=1e-3)


def test_order_and_unit_do_not_matter():
    pooled, turned = pool_effects(EFFECTS, ERRORS, 5.0), pool_effects(EFFECTS[::-1], ERRORS[::-1], 5.0)
    small = pool_effects([y / 100 for y in EFFECTS], [s / 100 for s in ERRORS], 0.05)
    for name in ("mean", "low", "high", "spread", "spread_low", "spread_high", "new_low", "new_high"):
        assert getattr(turned, name) == pytest.approx(getattr(pooled, name), rel=1e-9)
        assert 100 * getattr(small, name) == pytest.approx(getattr(pooled, name), rel=1e-9)


def test_equal_effects_are_pooled():
    pooled = pool_effects([2.0, 2.0], [1.0, 1.0], 5.0)
    assert pooled.mean == 2
    assert pooled.low < 2 < pooled.high


@pytest.mark.parametrize(
    ("effects", "errors", "scale"),
    [([1.0], [1.0], 5.0), ([1.0, 2.0], [1.0, 0.0], 5.0), ([1.0, np.nan], [1.0, 1.0], 5.0), ([1, 2], [1, 1], 0.0)],
)
def test_what_cannot_be_pooled_is_refused(effects, errors, scale):
    with pytest.raises(InputError, match="effects cannot be pooled"):
        pool_effects(effects, errors, scale)
