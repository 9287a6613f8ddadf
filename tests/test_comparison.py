"""Effects on data whose truth is known: coverage, uniform p, brute force, hand values."""

from __future__ import annotations

import itertools
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relrank.comparison import Effect, compare, holm, mean_interval
from relrank.errors import InputError


def table(values: list[float] | np.ndarray, users: list[int] | None = None, **columns: object) -> pl.DataFrame:
    frame = pl.DataFrame({"user": list(range(len(values))) if users is None else users, "ndcg@10": values})
    return frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def difference(values: np.ndarray, **options: int) -> Effect:
    """The effect of differences [users] or [users, seeds] against zero."""
    seeds = values.reshape(len(values), -1).T
    return compare([table(s) for s in seeds], [table(np.zeros(len(s))) for s in seeds], "ndcg@10", **options)


def brute_force(d: list[float]) -> float:
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return float(np.mean(np.array(sums) >= abs(sum(d)) - 1e-9))


def test_hand_worked():
    a = table([0.5, 1.0, 0.0, 0.4])
    b = table([0.5, 0.0, 0.0, 0.0])
    effect = compare(a, b, "ndcg@10")
    assert effect.mean == pytest.approx(0.35)
    assert effect.effect_size == pytest.approx(0.35 / np.std([0, 1, 0, 0.4], ddof=1))
    assert effect.p == 0.5  # of ++, +−, −+, −− two are as far out
    assert (effect.n_users, effect.n_seeds) == (4, 1)
    assert effect.low >= 0
    assert compare(b, a, "ndcg@10").mean == -effect.mean


def test_identical_arms_show_nothing():
    effect = compare(table([0.1, 0.7]), table([0.1, 0.7]), "ndcg@10")
    assert effect == Effect(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2, 1)


def test_a_constant_difference_has_no_spread():
    effect = difference(np.full(30, 0.25))
    assert (effect.low, effect.high, effect.effect_size) == (0.25, 0.25, 0)
    assert effect.p < 0.001


def test_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = table(rng.random(40)), table(rng.random(40))
    assert compare(a, b, "ndcg@10") == compare(a.sample(40, shuffle=True, seed=1), b.reverse(), "ndcg@10")


def test_same_seed_same_numbers():
    values = np.random.default_rng(0).normal(size=(50, 3))
    assert difference(values, seed=4) == difference(values, seed=4)
    assert difference(values, seed=4).low != difference(values, seed=5).low


def test_interval_and_smallest_match_theory():
    # 5,000 users: the bootstrap is the normal interval, and the smallest effect 2.80 standard errors
    values = np.random.default_rng(0).normal(0.1, 2, 5_000)
    effect = difference(values)
    error = values.std() / np.sqrt(5_000)
    assert effect.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert effect.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert effect.smallest == pytest.approx((1.95996 + 0.84162) * error, rel=0.05)
    # and p that of the t-test
    assert effect.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


def test_smallest_effect_is_shown_eight_times_in_ten():
    rng = np.random.default_rng(8)
    smallest = np.mean([difference(rng.normal(0, 1, 100), resamples=300, flips=10).smallest for _ in range(30)])
    shown = [difference(rng.normal(smallest, 1, 100), resamples=400, flips=10).low > 0 for _ in range(300)]
    assert 0.74 < np.mean(shown) < 0.87


def covered(values: list[np.ndarray]) -> float:
    effects = [difference(v, resamples=300, flips=10) for v in values]
    return float(np.mean([e.low <= 0 <= e.high for e in effects]))


def test_interval_over_users_covers_the_truth():
    rng = np.random.default_rng(1)
    assert 0.92 <= covered([rng.exponential(1, 80) - 1 for _ in range(300)]) <= 0.98


def test_pitfall_one_seed_interval_over_users_and_seeds_covers_the_truth():
    rng = np.random.default_rng(2)

    def sample() -> np.ndarray:
        return rng.normal(size=(60, 1)) + 0.4 * rng.normal(size=(1, 12)) + rng.normal(size=(60, 12))

    samples = [sample() for _ in range(300)]
    assert 0.92 <= covered(samples) <= 0.98
    assert covered([s.mean(axis=1) for s in samples]) < 0.9  # what resampling users alone would claim


@pytest.mark.parametrize(("n_seeds", "least"), [(2, 0.77), (3, 0.88), (5, 0.9)])
def test_few_seeds_that_differ_are_not_taken_for_many(n_seeds, least):
    """Splits that favour one side for everybody, known from two or three of them: users alone would cover half."""
    rng = np.random.default_rng(7)
    samples = [0.05 * rng.normal(size=(1, n_seeds)) + rng.normal(size=(900, n_seeds)) for _ in range(200)]
    assert covered(samples) > least
    users_alone = [s - s.mean(0) + s.mean() for s in samples]  # the same data without what the seeds did
    assert np.mean([difference(s, resamples=300, flips=10).low <= 0 <= difference(s, resamples=300, flips=10).high
                    for s in users_alone[:60]]) < 0.85  # fmt: skip


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(3)
    users = rng.normal(size=(200, 1))
    calm = difference(users + np.zeros((1, 6)))
    shaken = difference(users + np.linspace(-1, 1, 6))
    assert shaken.mean == pytest.approx(calm.mean)
    assert shaken.high - shaken.low > 2 * (calm.high - calm.low)
    assert shaken.smallest > 2 * calm.smallest


def test_error_is_that_of_crossed_random_effects():
    """σ²_user/U + σ²_seed/S + σ²_rest/(US), known by construction, recovered on average."""
    rng = np.random.default_rng(4)
    n_users, n_seeds = 300, 8
    quantiles = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)

    def mean_square_error(of_seed: float) -> float:
        draws = [
            0.5 * rng.normal(size=(n_users, 1)) + of_seed * rng.normal(size=(1, n_seeds)) + rng.normal(size=(300, 8))
            for _ in range(60)
        ]
        return float(np.mean([(difference(d, resamples=400, flips=10).smallest / quantiles) ** 2 for d in draws]))

    common = 0.25 / n_users + 1 / (n_users * n_seeds)
    # the seeds' share has the tails of Student's t with S − 1 = 7 degrees: its 97.5 % point is 2.365, not 1.960
    assert mean_square_error(0.3) == pytest.approx(common + 0.09 / n_seeds * (2.365 / 1.960) ** 2, rel=0.2)
    # noise of user × seed is counted once, not again as if seeds differed (truncation at 0 costs a little)
    assert common * 0.95 < mean_square_error(0.0) < common * 1.25


def test_users_may_be_missing_in_a_seed():
    a = [table([1.0, 2.0]), table([3.0], [0])]
    b = [table([0.0, 0.0]), table([0.0], [0])]
    effect = compare(a, b, "ndcg@10")
    assert effect.mean == pytest.approx((1 + 2 + 3) / 3)
    assert (effect.n_users, effect.n_seeds) == (2, 2)
    assert effect.effect_size == 0  # both users differ by 2 on average


def test_p_is_uniform_under_the_null():
    rng = np.random.default_rng(5)
    p = [difference(rng.normal(size=60), resamples=10, flips=400).p for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.05
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_few_differing_users_are_enumerated(d):
    assert difference(np.array([*d, 0, 0], float), resamples=2).p == pytest.approx(brute_force(d))


def test_twelve_users_are_exact_and_thirteen_are_not():
    d = np.arange(1.0, 13)
    assert difference(d, resamples=2, seed=1).p == 2 / 2**12
    more = difference(np.arange(1.0, 14), resamples=2, flips=999)
    assert more.p * 1000 == pytest.approx(round(more.p * 1000))  # steps of 1 / (flips + 1), never 0
    assert more.p >= 1 / 1000


def test_random_flips_approach_enumeration():
    d = np.random.default_rng(6).normal(0.4, 1, 14)
    assert difference(d, resamples=2, flips=20_000).p == pytest.approx(brute_force(d.tolist()), abs=0.01)


def test_pitfall_two_models_compared_under_two_protocols():
    good = table([1.0, 2.0], fingerprint="aaa", part="test")
    assert compare(good, good, "ndcg@10").p == 1
    for other in ({"fingerprint": "bbb", "part": "test"}, {"fingerprint": "aaa", "part": "valid"}):
        with pytest.raises(InputError, match="tables of two protocols"):
            compare([good, good], [good, table([1.0, 2.0], **other)], "ndcg@10")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (table([1.0, 2.0]), table([1.0]), "only one of two paired tables"),
        (table([1.0], [3]), table([1.0], [4]), "only one of two paired tables"),
        (table([1.0, 2.0], [1, 1]), table([1.0], [1]), "user occurs twice"),
        (table([1.0, float("nan")]), table([1.0, 2.0]), "values are missing"),
        (table([1.0, 2.0]), [table([1.0, 2.0])] * 2, "seeds do not pair up"),
        (table([]), table([]), "nothing to compare"),
        ([], [], "nothing to compare"),
        (table([1.0]).rename({"ndcg@10": "mrr"}), table([1.0]), "no such metric"),
        (table([1.0]), table([1.0]).with_columns(user=pl.lit("a")), "users do not pair up"),
    ],
)
def test_tables_that_do_not_pair(a, b, message):
    with pytest.raises(InputError, match=message):
        compare(a, b, "ndcg@10")


def test_mean_interval():
    rng = np.random.default_rng(7)
    values = rng.random(2_000)
    found = mean_interval(table(values), "ndcg@10")
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2_000), rel=0.1)
    shifted = mean_interval([table(values), table(values + 0.1)], "ndcg@10")
    assert (shifted.n_users, shifted.n_seeds) == (2_000, 2)
    assert shifted.low < found.mean < shifted.mean < shifted.high


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.4]), [0.8, 0.8])
    assert holm([0.9]).tolist() == [0.9]
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_procedure(p):
    adjusted = holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected: set[int] = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - step) > level:
                break
            rejected.add(i)
        assert {i for i, value in enumerate(adjusted) if value <= level} == rejected
