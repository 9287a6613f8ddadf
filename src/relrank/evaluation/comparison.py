"""Paired comparison of two models from per-user tables: mean difference, interval, p, and smallest detectable effect.

The unit is the user. Differences d[u, s] are paired by user within each seed; a seed is one split and one
initialization. Users and seeds are crossed random effects: the standard error includes the variance between users,
between splits and within both; interval and p are those of Student's t with Satterthwaite's degrees of freedom. With
one split its variance cannot be estimated, and the interval holds for that split only.

References:
    Searle, Casella & McCulloch, "Variance Components", 1992, ch. 4 (two-way crossed random effects).
    Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2(6), 1946.
    Cameron, Gelbach & Miller, "Robust inference with multiway clustering", JBES 29(2), 2011 (unequal cells).
    Phipson & Smyth, "Permutation p-values should never be zero", SAGMB 9(1), 2010.
    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979.
    Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", J. Pharmacokinetics and
    Biopharmaceutics 15(6), 1987.
    Lakens, "Equivalence tests", Social Psychological and Personality Science 8(4), 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import nctdtrinc, stdtr, stdtrit

from relrank.arguments import Seed, checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.kernels.csr import Float64
from relrank.tables.ids import IdMap

Table = pl.DataFrame | Sequence[pl.DataFrame]

EXACT_UP_TO = 12
"""Number of users with a difference up to which all 2^n sign patterns are enumerated. With several splits, also the
number up to which signs are flipped at all: beyond it the intervals would be too wide (95 % intervals cover 97 to
98 %)."""
FEW = 30
"""Number of users with a difference up to which signs are flipped with one split; beyond it Student's t agrees."""
FLIPS = 10_000
WIDENED_UP_TO = 0.95
"""p up to which sign flips widen the standard error. A p near 1 only means that the mean is near 0, and with one
differing user (p = 1) the interval would be infinite. Simulated by ``benchmarks/calibration.py few`` with up to eight
differing users of 400: 95 % intervals cover the truth in 91 to 100 %, within one point of the coverage without this
bound; with a bound of 2/3, in 87 %."""
USERS_SHARE = 0.5
"""Lower bound of the variance, as a share of the variance from users alone: the share of splits is estimated as a
difference, which can be negative by chance. Simulated coverage of 95 % intervals, with three and five splits, 100 and
1,000 users, and splits that differ by 0, 1 and 3 standard errors: .94 to .97; with a share of 0, .92 to .95; with a
share of 1, up to .99."""
POWER = 0.8
NORMAL = 1_000.0
"""Degrees of freedom above which the non-central t changes only in the fourth digit, and this value is used."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users and seeds with its 95 % interval.

    Attributes:
        mean: over all (user, seed) pairs.
        low: lower end of the interval.
        high: upper end of the interval.
        n_users: distinct users.
        n_seeds: tables.
    """

    mean: float
    low: float
    high: float
    n_users: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A paired difference a − b, in units of the metric.

    Attributes:
        mean: of d[u, s] over all (user, seed) pairs.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        p: two-sided; 1 if nothing differs. Below .05 exactly if the interval excludes 0.
        effect_size: paired Cohen's d, mean / standard deviation of the users' means; 0 if that deviation is 0.
        standard_error: of the mean, over users and splits.
        degrees_of_freedom: of the standard error.
        n_users: distinct users.
        n_seeds: pairs of tables.
    """

    mean: float
    low: float
    high: float
    p: float
    effect_size: float
    standard_error: float
    degrees_of_freedom: float
    n_users: int
    n_seeds: int

    def interval_at(self, level: float) -> tuple[float, float]:
        """Interval at another confidence level, such as .9 for two one-sided tests at .05."""
        half = t_quantile(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return self.mean - half, self.mean + half

    def is_equivalent(self, margin: float) -> bool:
        """Whether the effect is within ± margin (two one-sided tests at .05)."""
        low, high = self.interval_at(0.9)
        return -margin < low and high < margin

    def p_greater_than(self, value: float) -> float:
        """One-sided p of the null hypothesis that the effect is at most a value."""
        if self.standard_error == 0:
            return 0.0 if self.mean > value else 1.0
        return float(stdtr(self.degrees_of_freedom, (value - self.mean) / self.standard_error))

    def detectable_effect(self, tests: int = 1) -> float:
        """Smallest true effect found with power .8 at α = .05, Bonferroni-corrected for the number of tests."""
        freedom = min(self.degrees_of_freedom, NORMAL)
        least = t_quantile(1 - 0.025 / tests, freedom)
        # few degrees of freedom underestimate the error
        error = self.standard_error / (1 - 1 / (4 * freedom + 1))
        return float(nctdtrinc(freedom, 1 - POWER, least)) * error

    def required_users(self, effect: float, tests: int = 1) -> int | None:
        """Number of users needed to detect an effect of that size; None with several splits.

        More users reduce only the variance between users, not that between splits.
        """
        if self.n_seeds > 1 or effect <= 0:
            return None
        return math.ceil(self.n_users * (self.detectable_effect(tests) / effect) ** 2)


@dataclass(frozen=True, slots=True)
class RestartVariance:
    """Variance of a mean due to random initialization, pooled over all arms of a model.

    The few initializations of one pair of arms give a poor estimate, which is often too small.

    Attributes:
        variance: of the mean over the initializations.
        degrees_of_freedom: of the variance.
    """

    variance: float
    degrees_of_freedom: float


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t."""
    return float(stdtrit(freedom, probability))


@checked("rr.compare")
def compare(
    a: Table,
    b: Table,
    metric: str,
    *,
    seed: Seed = 0,
    names: Sequence[str] = (),
    starts: RestartVariance | None = None,
) -> Effect:
    """The paired effect a − b of one metric.

    With d[u, s] = μ + user + split + rest, the variance of the mean over U users and S splits is σ²_user/U +
    σ²_split/S + σ²_rest/(US). It is estimated by mean squares, its degrees of freedom by Satterthwaite's formula:
    about S − 1 if splits differ. If only few users differ, the t test is too liberal: a sign-flip test over users
    (exact for up to 12 differing users) replaces its p if larger, and the standard error is widened to match, up to
    p = .95, so that interval and p agree.

    Args:
        a: per-user table with columns ``user`` and ``metric``, or one such table per seed.
        b: likewise; tables at the same position are paired.
        metric: column to compare.
        seed: of the random sign flips.
        names: names of the pairs of tables in error messages; by default their numbers.
        starts: for tables that differ only by initialization, the variance pooled over other arms. It is used if it
            is larger than the estimate from these tables; the variance is then at least that of users alone.

    Raises:
        InputError: the tables have different protocols (``fingerprint`` or ``part`` columns), a user is in only one
            table of a pair, there is no such metric, or a value is missing.
    """
    tables_a, tables_b = _tables(a), _tables(b)
    if len(tables_a) != len(tables_b):
        expected, found = "the same number of tables on both sides", f"{len(tables_a)} and {len(tables_b)} tables"
        raise InputError("seeds do not pair up", where="compare", expected=expected, found=found)
    names = names or _numbered(tables_a)
    if len(names) != len(tables_a):
        expected, found = f"{len(tables_a)}, one for each pair of tables", str(len(names))
        raise InputError("names do not pair up", where="compare, names", expected=expected, found=found)
    for left, right, name in zip(tables_a, tables_b, names, strict=True):
        _check_protocol(left, right, name)
    users = _users([*tables_a, *tables_b])
    values_a, values_b = _matrix(tables_a, metric, users, names), _matrix(tables_b, metric, users, names)
    unpaired = np.argwhere(np.isnan(values_a) != np.isnan(values_b))
    if unpaired.size:
        user, at = unpaired[0]
        raise InputError(
            "user is in only one of two paired tables",
            where=f"{names[int(at)]}, user {users.keys[int(user)]!r}",
            expected="the same users on both sides",
            found=f"{len(unpaired):,} users on one side only",
        )
    return effect_from_differences(values_a - values_b, seed, starts)


def effect_from_differences(differences: Float64, seed: int = 0, starts: RestartVariance | None = None) -> Effect:
    """The effect of differences [users, seeds]; NaN if a user is missing from a seed's table."""
    mean, error, freedom = _mean_and_error(differences, starts)
    per_user = np.nanmean(differences, axis=1)
    spread = per_user.std(ddof=1) if per_user.size > 1 else 0.0
    p = _two_sided(mean, error, freedom)
    differing = per_user[per_user != 0]
    if differing.size <= (FEW if differences.shape[1] == 1 else EXACT_UP_TO):
        flipped = _sign_flip(differing, FLIPS, np.random.default_rng(seed))
        if flipped > p:
            p = flipped
            error = max(error, abs(mean) / t_quantile(1 - min(p, WIDENED_UP_TO) / 2, freedom))
    half = t_quantile(0.975, freedom) * error
    return Effect(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        effect_size=float(per_user.mean() / spread) if spread > 0 else 0.0,
        standard_error=error,
        degrees_of_freedom=freedom,
        n_users=differences.shape[0],
        n_seeds=differences.shape[1],
    )


def mean_interval(tables: Table, metric: str) -> Interval:
    """The mean of a metric over users and seeds, with an interval as in ``compare``, but unpaired.

    To judge a difference use ``compare``: overlap of two unpaired intervals says little about it.

    Raises:
        InputError: there is no such metric, or a value is missing.
    """
    per_seed = _tables(tables)
    values = _matrix(per_seed, metric, _users(per_seed), _numbered(per_seed))
    mean, error, freedom = _mean_and_error(values)
    half = t_quantile(0.975, freedom) * error
    return Interval(mean, mean - half, mean + half, *values.shape)


def holm(p_values: Sequence[float]) -> Float64:
    """Holm's adjusted p-values in the given order; they control the family-wise error under any dependence.

    The i-th smallest of m is multiplied by m − i + 1, then made monotone and capped at 1.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1.0)
    return adjusted


def _tables(table: Table) -> list[pl.DataFrame]:
    tables = [table] if isinstance(table, pl.DataFrame) else list(table)
    if not tables or any(t.is_empty() for t in tables):
        raise InputError("nothing to compare", where="per-user tables", expected="users in every table", found="none")
    return tables


def _numbered(tables: Sequence[pl.DataFrame]) -> list[str]:
    return [f"table {at}" for at in range(len(tables))]


def _check_protocol(a: pl.DataFrame, b: pl.DataFrame, where: str) -> None:
    for column in ("fingerprint", "part"):
        if column in a.columns and column in b.columns:
            values = pl.concat([a[column], b[column]]).unique().sort().to_list()
            if len(values) > 1:
                found = " and ".join(str(value)[:12] for value in values)
                expected = f"the same {column} in both"
                raise InputError("tables of two protocols", where=where, expected=expected, found=found)


def _users(tables: Sequence[pl.DataFrame]) -> IdMap:
    """All users in key order, so that results do not depend on the order of rows."""
    try:
        return IdMap.of("user", pl.concat([table["user"] for table in tables]))
    except pl.exceptions.PolarsError as error:
        expected = "a column 'user' of one type in every table"
        raise InputError(
            "users do not pair up", where="per-user tables", expected=expected, found=str(error)
        ) from None


def _matrix(tables: Sequence[pl.DataFrame], metric: str, users: IdMap, names: Sequence[str]) -> Float64:
    """The metric, [users, seeds]; NaN if a user is not in a table."""
    values = np.full((len(users), len(tables)), np.nan)
    for at, (table, where) in enumerate(zip(tables, names, strict=True)):
        if metric not in table.columns:
            found = repr(metric) + did_you_mean(metric, table.columns)
            raise InputError("no such metric", where=where, expected=one_of(table.columns), found=found)
        column = table[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()
        if not np.isfinite(column).all():
            found = f"{int((~np.isfinite(column)).sum()):,} missing or infinite"
            raise InputError("values are missing", where=f"{where}, {metric}", expected="one per user", found=found)
        if table["user"].equals(users.keys, check_dtypes=True):  # the usual case, without a lookup of every user
            values[:, at] = column
            continue
        rows = users.find(table["user"])
        if np.unique(rows).size < rows.size:
            found = repr(table["user"].filter(table["user"].is_duplicated())[0])
            raise InputError("user occurs twice", where=where, expected="one row per user", found=found)
        values[rows, at] = column
    return values


def _mean_and_error(values: Float64, starts: RestartVariance | None = None) -> tuple[float, float, float]:
    """Mean over the cells of ``values`` [users, seeds], its standard error, and degrees of freedom.

    Variances are those of two-way clustering: without missing cells, mean squares divided by their number of cells.
    """
    n_users, n_seeds = values.shape
    present = ~np.isnan(values)
    n = int(present.sum())
    mean = float(values[present].mean())
    if n_users < 2:
        return mean, abs(mean), 1.0  # the variance between users is unknown
    deviations = np.where(present, values - mean, 0.0)
    users = float((deviations.sum(axis=1) ** 2).sum()) / n**2 * n_users / (n_users - 1)
    if n_seeds < 2:
        return mean, math.sqrt(users), n_users - 1.0
    seeds = float((deviations.sum(axis=0) ** 2).sum()) / n**2 * n_seeds / (n_seeds - 1)
    in_user = deviations.sum(axis=1) / present.sum(axis=1)
    in_seed = deviations.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    rest = np.where(present, deviations - in_user[:, None] - in_seed[None, :], 0.0)
    freedom_rest = max(n - n_users - n_seeds + 1, 1)
    inside = float((rest**2).sum()) / freedom_rest / n
    freedom_seeds = n_seeds - 1.0
    differs = bool(values[present].any())  # else both sides have the same values
    if starts is not None and differs and starts.variance > seeds:
        seeds, freedom_seeds = starts.variance, starts.degrees_of_freedom
    # the pooled variance comes from other arms, so it must not reduce the variance of these users
    variance = max(users + seeds - inside, users * (USERS_SHARE if starts is None else 1.0))
    parts = users**2 / (n_users - 1) + seeds**2 / freedom_seeds + inside**2 / freedom_rest
    freedom = variance**2 / parts if parts > 0 else n_users - 1.0
    return mean, math.sqrt(variance), min(max(freedom, n_seeds - 1.0), n_users - 1.0)


def _two_sided(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(mean) / error))


def _sign_flip(differences: Float64, flips: int, rng: np.random.Generator) -> float:
    """Two-sided p of Σ d under random signs; users without a difference are dropped, since they change no sum."""
    d = differences[differences != 0]
    if not d.size:
        return 1.0
    extreme = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # equal up to rounding
    exact = d.size <= EXACT_UP_TO
    n = 2**d.size if exact else flips
    # users in groups of eight: a byte encodes eight signs, and a table of 256 sums replaces eight products
    groups = np.append(d, np.zeros(-d.size % 8)).reshape(-1, 8)
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    sums = np.zeros(n)
    for at, table in enumerate(groups @ signs.T):
        pattern = (np.arange(n) >> (8 * at)) & 255 if exact else rng.integers(256, size=n, dtype=np.uint8)
        sums += table[pattern]
    beyond = int((np.abs(sums) >= extreme).sum())
    return beyond / n if exact else (beyond + 1) / (n + 1)
