"""Effects on data whose truth is known: coverage, uniform p, brute force, hand values."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relrank.errors import InputError
from relrank.evaluation import comparison
from relrank.evaluation.comparison import (
    WIDENED_UP_TO,
    Effect,
    RestartVariance,
    _mean_and_error,
    _sign_flip,
    compare,
    effect_from_differences,
    holm,
    mean_interval,
)


def table(values: list[float] | np.ndarray, users: list[int] | None = None, **columns: object) -> pl.DataFrame:
    frame = pl.DataFrame({"user": list(range(len(values))) if users is None else users, "ndcg@10": values})
    return frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def difference(values: np.ndarray, seed: int = 0) -> Effect:
    """The effect of differences [users] or [users, seeds] against zero."""
    seeds = values.reshape(len(values), -1).T
    return compare([table(s) for s in seeds], [table(np.zeros(len(s))) for s in seeds], "ndcg@10", seed=seed)


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
    assert effect.p == 0.5  # of ++, +−, −+, −− two are as far out; t alone would say .23
    assert (effect.n_users, effect.n_seeds, effect.degrees_of_freedom) == (4, 1, 3)
    # the error for which t with 3 degrees of freedom says the same: its quartile is .7649
    assert effect.standard_error == pytest.approx(0.35 / 0.7649, rel=1e-3)
    assert effect.low == pytest.approx(0.35 - 3.1824 * effect.standard_error, rel=1e-3)
    assert compare(b, a, "ndcg@10").mean == -effect.mean


def test_mean_squares_by_hand():
    """Two users, two splits: 4, 2 / 2, 0 has user means 3, 1, split means 3, 1 and no rest."""
    mean, error, degrees_of_freedom = _mean_and_error(np.array([[4.0, 2.0], [2.0, 0.0]]))
    assert mean == 2
    assert error**2 == pytest.approx(1 + 1)  # variance of two means over two, of users and of splits
    assert degrees_of_freedom == 1  # not above those of users: 2 by Satterthwaite
    _, error, degrees_of_freedom = _mean_and_error(np.array([[4.0, 4.0], [2.0, 2.0], [0.0, 0.0]]))
    assert error**2 == pytest.approx(4 / 3)  # splits do not differ
    assert degrees_of_freedom == pytest.approx(2)


def test_identical_arms_have_no_effect():
    effect = compare(table([0.1, 0.7]), table([0.1, 0.7]), "ndcg@10")
    assert effect == Effect(0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2, 1)
    assert effect.is_equivalent(1e-9)


def test_a_constant_difference_is_more_certain_with_more_users():
    effect = difference(np.full(30, 0.25))
    assert effect.effect_size == 0
    assert 0 < effect.p < 0.001
    assert 0 < effect.low < 0.25 < effect.high
    few = difference(np.full(5, 0.25))
    assert few.p == 2 / 2**5  # two users more would be needed
    assert few.low < 0


def test_one_user_gives_no_standard_error():
    effect = difference(np.array([0.3]))
    assert effect.p == 1
    assert effect.low < 0 < effect.high


@given(st.integers(2, 400), st.integers(1, 4), st.integers(0, 10_000))
def test_interval_and_p_agree(n_users, n_seeds, seed):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((n_users, n_seeds)) < 0.1, rng.normal(0.3, 1, (n_users, n_seeds)), 0.0)
    effect = difference(values)
    assert (effect.p < 0.05) == (effect.low > 0 or effect.high < 0) or abs(effect.p - 0.05) < 1e-9
    assert effect.interval_at(0.95) == pytest.approx((effect.low, effect.high))
    if effect.standard_error and effect.p < WIDENED_UP_TO:
        assert effect.p_greater_than(0) == pytest.approx(
            effect.p / 2 if effect.mean > 0 else 1 - effect.p / 2, abs=1e-3
        )


def test_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = table(rng.random(40)), table(rng.random(40))
    assert compare(a, b, "ndcg@10") == compare(a.sample(40, shuffle=True, seed=1), b.reverse(), "ndcg@10")


def test_same_seed_same_numbers():
    values = np.random.default_rng(0).normal(size=25)
    assert difference(values, seed=4) == difference(values, seed=4)
    assert difference(values, seed=4).p != difference(values, seed=5).p  # signs of few users are flipped at random


def test_signs_are_flipped_for_few_users_only():
    """Over several splits intervals with both would be too wide: they cover 98 %."""
    values = np.zeros(300)
    values[:40] = np.random.default_rng(1).normal(0.2, 1, 40)
    assert difference(values).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    values[25:] = 0
    assert difference(values).p != pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@pytest.mark.parametrize("few", [(0.1, 0.2, -0.3), (0.1, 0.2, -0.3 + 1e-6), (0.1, 0.2, -0.31), (0.5, 0.5, 0.5)])
def test_flipped_signs_widen_the_error_of_a_mean_near_zero_a_little_and_never_narrow_it(few):
    values = np.zeros(400)
    values[: len(few)] = few
    effect, alone = difference(values), stats.sem(values)
    assert alone * (1 - 1e-9) <= effect.standard_error < 2 * alone


def test_one_user_who_differs_bounds_an_effect():
    values = np.zeros(400)
    values[7] = 0.3
    effect = difference(values)
    assert effect.p == 1
    assert effect.standard_error == pytest.approx(effect.mean / stats.t(399).ppf(1 - WIDENED_UP_TO / 2))
    assert effect.interval_at(0.9)[1] < 30 * effect.mean


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("differ", [1.0, 2.0, 4.0])
def test_intervals_of_few_differing_users_cover_the_truth(differ, shift):
    """So many of 400 users on average, each by something between shift/2 − .5 and shift/2 + .5."""
    rng, held, n = np.random.default_rng(8), 0, 0
    for _ in range(600):
        values = np.where(rng.random(400) < differ / 400, (2 * rng.random(400) - 1 + shift) / 2, 0.0)
        if values.any():
            effect = effect_from_differences(values[:, None])
            held += effect.low <= differ / 400 * shift / 2 <= effect.high
            n += 1
    assert held / n > 0.91  # 600 draws of .93 are above it in all but one case of thirty


def test_interval_of_one_split_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(0.1, 2, 5_000)
    effect = difference(values)
    test = stats.ttest_1samp(values, 0)
    assert effect.p == pytest.approx(test.pvalue)
    assert (effect.low, effect.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert effect.interval_at(0.9) == pytest.approx(tuple(test.confidence_interval(0.9)))
    assert effect.detectable_effect() == pytest.approx((1.95996 + 0.84162) * effect.standard_error, rel=3e-3)
    assert effect.detectable_effect(5) == pytest.approx((2.57583 + 0.84162) * effect.standard_error, rel=3e-3)
    # four times the users, half the effect
    assert effect.required_users(effect.detectable_effect() / 2) == pytest.approx(20_000, abs=1)


def test_equivalence_is_two_one_sided_tests():
    values = np.random.default_rng(1).normal(0.01, 1, 2_000)
    effect = difference(values)
    for margin in (0.02, 0.04, 0.05, 0.06, 0.1):
        lower = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        upper = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert effect.is_equivalent(margin) == (max(lower, upper) < 0.05)
    assert effect.p_greater_than(0.05) == pytest.approx(stats.ttest_1samp(values, 0.05, alternative="greater").pvalue)


@pytest.mark.parametrize(("n_users", "n_seeds", "tests"), [(100, 1, 1), (1_000, 5, 1), (300, 5, 5)])
def test_detectable_effects_are_detected_eight_times_in_ten(n_users, n_seeds, tests):
    rng = np.random.default_rng(8)

    def draw(mean: float) -> Effect:
        splits = 0.5 / np.sqrt(n_users) * rng.normal(size=(1, n_seeds))
        return effect_from_differences(mean + splits + rng.normal(size=(n_users, n_seeds)))

    detectable_effect = np.mean([draw(0).detectable_effect(tests) for _ in range(60)])
    found = [draw(detectable_effect) for _ in range(300)]
    assert 0.73 < np.mean([e.p < 0.05 / tests and e.mean > 0 for e in found]) < 0.87


def covered(values: list[np.ndarray]) -> float:
    effects = [
        effect_from_differences(v.reshape(len(v), -1)) for v in values
    ]  # tables would cost more than what is asked
    return float(np.mean([e.low <= 0 <= e.high for e in effects]))


def test_interval_over_users_covers_the_truth():
    rng = np.random.default_rng(1)
    assert 0.92 <= covered([rng.exponential(1, 80) - 1 for _ in range(300)]) <= 0.98


@pytest.mark.parametrize("apart", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("n_users", [100, 1_000])
def test_pitfall_one_split_intervals_over_users_and_splits_cover_the_truth(n_users, n_seeds, apart):
    """Splits differ for all users, by so many standard errors; most users do not differ at all."""
    rng = np.random.default_rng(2)
    error = np.sqrt(0.3 * (1 + 0.2 * (n_seeds - 1)) / (n_users * n_seeds))

    def sample() -> np.ndarray:
        taste = np.sqrt(0.2) * rng.normal(size=(n_users, 1)) + np.sqrt(0.8) * rng.normal(size=(n_users, n_seeds))
        hit = rng.random((n_users, n_seeds)) < 0.3
        return np.where(hit, taste, 0) + apart * error * rng.normal(size=(1, n_seeds))

    samples = [sample() for _ in range(400)]
    assert 0.92 <= covered(samples) <= 0.99
    if apart == 3:
        assert covered([s.mean(axis=1) for s in samples]) < 0.75  # what users alone would claim


def test_pooled_restart_variance_by_hand():
    """Users' means 0, 2, 4, each start ±1 off for all: 4/3 of users and (1 + 1)/2 of starts, inside 0."""
    values = np.array([0.0, 2.0, 4.0])[:, None] + np.array([1.0, -1.0])
    alone = _mean_and_error(values)
    assert alone[1] ** 2 == pytest.approx(4 / 3 + 1)
    assert (
        _mean_and_error(values, RestartVariance(0.5, 6.0)) == alone
    )  # these starts differ more than those of other arms
    _, error, degrees_of_freedom = _mean_and_error(values, RestartVariance(2.0, 6.0))
    assert error**2 == pytest.approx(4 / 3 + 2)
    assert degrees_of_freedom == pytest.approx(min((4 / 3 + 2) ** 2 / ((4 / 3) ** 2 / 2 + 2.0**2 / 6), 2))
    shaken = values + np.array([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])  # users and starts mean the same, cells do not
    _, error, _ = _mean_and_error(shaken, RestartVariance(2.0, 6.0))
    assert error**2 == pytest.approx(4 / 3 + 2 - 2 / 6)  # the rest has mean square 2, and is in both of the others
    torn = np.array([0.0, 2.0, 4.0])[:, None] + 3 * np.array([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])
    assert _mean_and_error(torn)[1] ** 2 == pytest.approx(4 / 3 / 2)  # half of what users make it, as of splits
    assert _mean_and_error(torn, RestartVariance(0.5, 6.0))[1] ** 2 == pytest.approx(
        4 / 3
    )  # all of it: others are calmer
    same = effect_from_differences(np.zeros((3, 2)), starts=RestartVariance(2.0, 6.0))
    assert (same.standard_error, same.p) == (0, 1)  # one and the same cell: nothing was trained apart


@pytest.mark.parametrize("rest", [0.0, 2.0], ids=["steady users", "users shaken by every start"])
def test_three_restarts_claim_too_much_unless_pooled_with_other_arms(rest):
    """Restarts vary as much as users, and there is no effect: how often p < .01 among 1,000 effects."""
    rng, starts, users, arms = np.random.default_rng(6), 3, 500, 12
    base = rng.normal(size=users)
    base = np.sqrt(users) * (base - base.mean()) / base.std()  # so that the variance of users' mean is 1
    found: dict[str, list[Effect]] = {"alone": [], "with others": []}
    for _ in range(1000):
        of_starts = rng.normal(size=(1, starts)) * np.sqrt(starts)
        shaken = rng.normal(size=(users, starts)) * np.sqrt(rest * users * starts)
        values = base[:, None] + rng.normal() + of_starts + shaken
        degrees_of_freedom = arms * (starts - 1.0)
        pooled = RestartVariance(
            float((1 + rest) * rng.chisquare(degrees_of_freedom) / degrees_of_freedom), degrees_of_freedom
        )
        found["alone"].append(effect_from_differences(values))
        found["with others"].append(effect_from_differences(values, starts=pooled))
    claims = {name: sum(e.p < 0.01 for e in effects) for name, effects in found.items()}
    spread = np.std([e.mean / e.standard_error for e in found["with others"]])
    assert claims["alone"] > 13
    assert claims["with others"] <= 10
    assert 0.9 < spread < 1.1  # neither too little is known of starts, nor what users and starts share counted twice


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(3)
    users = rng.normal(size=(200, 1))
    calm = difference(users + np.zeros((1, 6)))
    shaken = difference(users + np.linspace(-1, 1, 6))
    assert shaken.mean == pytest.approx(calm.mean)
    assert shaken.high - shaken.low > 2 * (calm.high - calm.low)
    assert shaken.detectable_effect() > 2 * calm.detectable_effect()
    assert shaken.required_users(0.1) is None  # more users would not help


def test_error_is_that_of_crossed_random_effects():
    """σ²_user/U + σ²_split/S + σ²_rest/(US), known by construction, recovered on average."""
    rng = np.random.default_rng(4)
    n_users, n_seeds = 300, 8

    def mean_square_error(of_seed: float) -> float:
        draws = [
            0.5 * rng.normal(size=(n_users, 1)) + of_seed * rng.normal(size=(1, n_seeds)) + rng.normal(size=(300, 8))
            for _ in range(60)
        ]
        return float(np.mean([difference(d).standard_error ** 2 for d in draws]))

    common = 0.25 / n_users + 1 / (n_users * n_seeds)
    assert mean_square_error(0.3) == pytest.approx(common + 0.09 / n_seeds, rel=0.2)
    # noise of user × split is counted once, not again as if splits differed
    assert common * 0.9 < mean_square_error(0.0) < common * 1.15


def test_users_may_be_missing_in_a_seed():
    a = [table([1.0, 2.0]), table([3.0], [0])]
    b = [table([0.0, 0.0]), table([0.0], [0])]
    effect = compare(a, b, "ndcg@10")
    assert effect.mean == pytest.approx((1 + 2 + 3) / 3)
    assert (effect.n_users, effect.n_seeds) == (2, 2)
    assert effect.effect_size == 0  # both users differ by 2 on average


@pytest.mark.parametrize("n_users", [60, 400])
def test_p_is_uniform_under_the_null(n_users):
    rng = np.random.default_rng(5)
    p = [difference(rng.normal(size=n_users)).p for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_few_differing_users_are_enumerated(d):
    """If the t test is more extreme than the signs of so few users allow, the sign-flip test decides."""
    found = difference(np.array([*d, 0, 0], float))
    by_t = stats.ttest_1samp([*d, 0, 0], 0).pvalue if any(d) else 1.0
    assert found.p == pytest.approx(max(brute_force(d), by_t))


def test_random_flips_approach_enumeration():
    d = np.random.default_rng(6).normal(0.4, 1, 14)
    assert _sign_flip(d, 20_000, np.random.default_rng(1)) == pytest.approx(brute_force(d.tolist()), abs=0.01)
    assert _sign_flip(np.arange(1.0, 13), 10, np.random.default_rng(1)) == 2 / 2**12  # exact up to twelve
    more = _sign_flip(np.arange(1.0, 14), 999, np.random.default_rng(1))
    assert more * 1000 == pytest.approx(round(more * 1000))  # steps of 1 / (flips + 1), never 0
    assert more >= 1 / 1000


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
def test_tables_that_cannot_be_paired_are_refused(a, b, message):
    with pytest.raises(InputError, match=message):
        compare(a, b, "ndcg@10")


def test_mean_interval():
    rng = np.random.default_rng(7)
    values = rng.random(2_000)
    found = mean_interval(table(values), "ndcg@10")
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2_000), rel=0.01)
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


def test_over_several_splits_signs_are_flipped_for_the_fewest_users_only(monkeypatch):
    """20 of 100 users differ: with one split the wider of t and flipped signs counts, with three t alone."""
    differences = np.zeros((100, 3))
    differences[:20] = np.random.default_rng(0).normal(0.4, 1, (20, 3))
    several = effect_from_differences(differences)
    assert (several.mean, several.standard_error, several.degrees_of_freedom) == _mean_and_error(differences)
    one = effect_from_differences(differences[:, :1])
    monkeypatch.setattr(comparison, "FEW", 0)
    monkeypatch.setattr(comparison, "EXACT_UP_TO", 0)
    assert effect_from_differences(differences).standard_error == several.standard_error
    assert effect_from_differences(differences[:, :1]).standard_error != one.standard_error
