"""Two per-user tables become an effect: paired mean, interval, p, and the smallest effect that would have been seen.

The unit is the user. Differences d[u, s] are paired by user inside each seed; a seed is one split together with one
initialization. Users and seeds are crossed random effects: the standard error holds what varies between users,
between splits and inside both, and Student's t with as many degrees of freedom as these are known with gives interval
and p. With one split there is nothing to estimate its share from, and the interval speaks of that split alone.

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

from relrank.errors import InputError, did_you_mean, one_of
from relrank.kernels.csr import Float64
from relrank.tables.ids import IdMap

Table = pl.DataFrame | Sequence[pl.DataFrame]

EXACT_UP_TO = 12
"""Differing users up to which every one of the 2^n sign patterns is enumerated; over several splits, also up to which
signs are flipped at all: with more of them the wider of both is too wide there (coverage .97 to .98 of 95 %)."""
FEW = 30
"""Differing users up to which signs are flipped with one split: with more of them Student's t says the same."""
FLIPS = 10_000
WIDENED_UP_TO = 0.95
"""p up to which flipped signs widen the error. Near 1 they only say that the mean is near 0, which is no reason for a
wide interval, and of one user who differs, whose p is 1, none is wide enough but an endless one. Simulated by
``benchmarks/calibration.py few``, where up to eight of 400 users differ: 95 % intervals hold the truth in 91 to
100 %, as without this bound but for one percent; with 2/3 as the bound in 87."""
USERS_SHARE = 0.5
"""The error is at least this share (of variance) of what users alone make it: what splits add is a difference of two
estimates, which falls below 0 by luck. Coverage of 95 % intervals by simulation, with three and five splits, 100 and
1,000 users, splits that differ by 0, 1 and 3 standard errors: .94 to .97; at a share of 0 .92 to .95, of 1 to .99."""
POWER = 0.8
NORMAL = 1_000.0
"""Degrees of freedom from which the non-central t is taken as it is here: it changes in the fourth digit."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over users and seeds with its 95 % interval.

    Attributes:
        mean: over all (user, seed) cells.
        low: lower end.
        high: upper end.
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
        mean: of d[u, s] over all cells.
        low: lower end of the 95 % interval.
        high: its upper end.
        p: two-sided; 1 where nothing differs. Below .05 exactly where the interval leaves out 0.
        effect_size: paired Cohen's d, mean / standard deviation of the users' means; 0 where that is 0.
        standard_error: of the mean, over users and splits.
        degrees_of_freedom: degrees of freedom that the error is known with.
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
        """Interval at another level, such as .9 for two one-sided tests at .05."""
        half = t_quantile(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return self.mean - half, self.mean + half

    def is_equivalent(self, margin: float) -> bool:
        """Whether the effect is smaller than a margin either way (two one-sided tests at .05)."""
        low, high = self.interval_at(0.9)
        return -margin < low and high < margin

    def p_greater_than(self, value: float) -> float:
        """One-sided p of the hypothesis that the effect is no larger than a value."""
        if self.standard_error == 0:
            return 0.0 if self.mean > value else 1.0
        return float(stdtr(self.degrees_of_freedom, (value - self.mean) / self.standard_error))

    def detectable_effect(self, tests: int = 1) -> float:
        """The smallest true effect that such data show with power .8 at α = .05 over so many tests (Bonferroni)."""
        degrees_of_freedom = min(self.degrees_of_freedom, NORMAL)
        least = t_quantile(1 - 0.025 / tests, degrees_of_freedom)
        error = self.standard_error / (
            1 - 1 / (4 * degrees_of_freedom + 1)
        )  # one that is known from little is too small on average
        return float(nctdtrinc(degrees_of_freedom, 1 - POWER, least)) * error

    def required_users(self, effect: float, tests: int = 1) -> int | None:
        """Users with which an effect of that size would be visible, all else as here; None where splits decide.

        What users add to the variance falls with their number, what splits add does not.
        """
        if self.n_seeds > 1 or effect <= 0:
            return None
        return math.ceil(self.n_users * (self.detectable_effect(tests) / effect) ** 2)


@dataclass(frozen=True, slots=True)
class RestartVariance:
    """What the starts of training add to the variance of a mean, as all arms of a model tell it.

    Three starts of one pair of arms say next to nothing of how much starts differ: too small a value is found too
    often. All arms of a model together say more.

    Attributes:
        variance: of the mean over the starts.
        degrees_of_freedom: degrees of freedom that it is known with.
    """

    variance: float
    degrees_of_freedom: float


def t_quantile(probability: float, degrees_of_freedom: float) -> float:
    """Of Student's t."""
    return float(stdtrit(degrees_of_freedom, probability))


def compare(
    a: Table,
    b: Table,
    metric: str,
    *,
    seed: int = 0,
    names: Sequence[str] = (),
    starts: RestartVariance | None = None,
) -> Effect:
    """The paired effect a − b of one metric.

    With d[u, s] = μ + user + split + rest, the variance of the mean over U users and S splits is σ²_user/U +
    σ²_split/S + σ²_rest/(US). Mean squares estimate it, Satterthwaite's formula its degrees of freedom: about S − 1
    where splits differ. Where few users differ at all, t sees too much in them: p is then that of flipping signs
    of users (every pattern where at most 12 users differ) where that is larger, and the error is widened until t says
    the same, or p = .95, so that interval and p agree.

    Args:
        a: per-user table with columns ``user`` and ``metric``, or one such table per seed.
        b: likewise; tables at the same position are paired.
        metric: column to compare.
        seed: of the generator behind sign flips.
        starts: where tables differ by the start of training alone, what is known of that from other arms. It counts
            where it is more than these tables say, and the error is no smaller than that of users alone.
        names: what messages call the pairs of tables; by default their numbers.

    Raises:
        InputError: the tables are of two protocols (their ``fingerprint`` or ``part`` columns differ), a user is in
            only one table of a pair, there is no such metric, or a value is missing.
    """
    tables_a, tables_b = _tables(a), _tables(b)
    if len(tables_a) != len(tables_b):
        found = f"{len(tables_a)} and {len(tables_b)} tables"
        raise InputError(
            "seeds do not pair up", where="compare", expected="as many tables on both sides", found=found
        )
    names = names or _numbered(tables_a)
    for left, right, name in zip(tables_a, tables_b, names, strict=True):
        _refuse_other_protocol(left, right, name)
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
    """The effect of differences [users, seeds]; NaN where a user is not in a seed's table."""
    mean, error, degrees_of_freedom = _mean_and_error(differences, starts)
    per_user = np.nanmean(differences, axis=1)
    spread = per_user.std(ddof=1) if per_user.size > 1 else 0.0
    p = _two_sided(mean, error, degrees_of_freedom)
    differing = per_user[per_user != 0]
    if differing.size <= (FEW if differences.shape[1] == 1 else EXACT_UP_TO):
        flipped = _sign_flip(differing, FLIPS, np.random.default_rng(seed))
        if flipped > p:
            p = flipped
            error = max(error, abs(mean) / t_quantile(1 - min(p, WIDENED_UP_TO) / 2, degrees_of_freedom))
    half = t_quantile(0.975, degrees_of_freedom) * error
    return Effect(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=p,
        effect_size=float(per_user.mean() / spread) if spread > 0 else 0.0,
        standard_error=error,
        degrees_of_freedom=degrees_of_freedom,
        n_users=differences.shape[0],
        n_seeds=differences.shape[1],
    )


def mean_interval(tables: Table, metric: str) -> Interval:
    """The mean of a metric over users and seeds, with the same kind of interval as in ``compare``.

    Two such intervals say little about a difference: users are paired there and not here.

    Raises:
        InputError: there is no such metric, or a value is missing.
    """
    listed = _tables(tables)
    values = _matrix(listed, metric, _users(listed), _numbered(listed))
    mean, error, degrees_of_freedom = _mean_and_error(values)
    half = t_quantile(0.975, degrees_of_freedom) * error
    return Interval(mean, mean - half, mean + half, *values.shape)


def holm(p_values: Sequence[float]) -> Float64:
    """Holm's adjusted p-values, in the order given: they keep the family-wise error under any dependence.

    The i-th smallest of m is multiplied by m − i + 1, then made monotone and cut at 1.
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


def _refuse_other_protocol(a: pl.DataFrame, b: pl.DataFrame, where: str) -> None:
    for column in ("fingerprint", "part"):
        if column in a.columns and column in b.columns:
            values = pl.concat([a[column], b[column]]).unique().sort().to_list()
            if len(values) > 1:
                found = " and ".join(str(value)[:12] for value in values)
                expected = f"one {column} in both"
                raise InputError("tables of two protocols", where=where, expected=expected, found=found)


def _users(tables: Sequence[pl.DataFrame]) -> IdMap:
    """All users in key order, so that the order of rows in a table changes nothing."""
    try:
        return IdMap.of("user", pl.concat([table["user"] for table in tables]))
    except pl.exceptions.PolarsError as error:
        expected = "a column 'user' of one type in every table"
        raise InputError(
            "users do not pair up", where="per-user tables", expected=expected, found=str(error)
        ) from None


def _matrix(tables: Sequence[pl.DataFrame], metric: str, users: IdMap, names: Sequence[str]) -> Float64:
    """Users by seeds; NaN where a user is not in a table."""
    values = np.full((len(users), len(tables)), np.nan)
    for at, (table, where) in enumerate(zip(tables, names, strict=True)):
        if metric not in table.columns:
            found = repr(metric) + did_you_mean(metric, table.columns)
            raise InputError("no such metric", where=where, expected=one_of(table.columns), found=found)
        column = table[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()
        if not np.isfinite(column).all():
            found = f"{int((~np.isfinite(column)).sum()):,} missing or infinite"
            raise InputError("values are missing", where=f"{where}, {metric}", expected="one per user", found=found)
        if table["user"].equals(users.keys, check_dtypes=True):  # as mostly; no other look at every user is needed
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

    Variances are those of two-way clustering: without missing cells, mean squares over their number of cells.
    """
    n_users, n_seeds = values.shape
    present = ~np.isnan(values)
    n = int(present.sum())
    mean = float(values[present].mean())
    if n_users < 2:
        return mean, abs(mean), 1.0  # nothing is known of other users
    off = np.where(present, values - mean, 0.0)
    users = float((off.sum(axis=1) ** 2).sum()) / n**2 * n_users / (n_users - 1)
    if n_seeds < 2:
        return mean, math.sqrt(users), n_users - 1.0
    seeds = float((off.sum(axis=0) ** 2).sum()) / n**2 * n_seeds / (n_seeds - 1)
    in_user, in_seed = off.sum(axis=1) / present.sum(axis=1), off.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    rest = np.where(present, off - in_user[:, None] - in_seed[None, :], 0.0)
    freedom_rest = max(n - n_users - n_seeds + 1, 1)
    inside = float((rest**2).sum()) / freedom_rest / n
    freedom_seeds = n_seeds - 1.0
    differs = bool(values[present].any())  # else the two sides are one and the same
    if starts is not None and differs and starts.variance > seeds:
        seeds, freedom_seeds = starts.variance, starts.degrees_of_freedom
    # what other arms say is of arms whose users are shaken less, or more, than these: it takes nothing from the users
    variance = max(users + seeds - inside, users * (USERS_SHARE if starts is None else 1.0))
    parts = users**2 / (n_users - 1) + seeds**2 / freedom_seeds + inside**2 / freedom_rest
    degrees_of_freedom = variance**2 / parts if parts > 0 else n_users - 1.0
    return mean, math.sqrt(variance), min(max(degrees_of_freedom, n_seeds - 1.0), n_users - 1.0)


def _two_sided(mean: float, error: float, degrees_of_freedom: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(degrees_of_freedom, -abs(mean) / error))


def _sign_flip(differences: Float64, flips: int, rng: np.random.Generator) -> float:
    """Two-sided p of Σ d under random signs; users without a difference change no sum and are dropped."""
    d = differences[differences != 0]
    if not d.size:
        return 1.0
    extreme = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # sums that are equal but for rounding count as equal
    exact = d.size <= EXACT_UP_TO
    n = 2**d.size if exact else flips
    # Users go in groups of eight: a byte is eight signs, and a table of 256 sums replaces eight products.
    groups = np.append(d, np.zeros(-d.size % 8)).reshape(-1, 8)
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    sums = np.zeros(n)
    for at, table in enumerate(groups @ signs.T):
        pattern = (np.arange(n) >> (8 * at)) & 255 if exact else rng.integers(256, size=n, dtype=np.uint8)
        sums += table[pattern]
    beyond = int((np.abs(sums) >= extreme).sum())
    return beyond / n if exact else (beyond + 1) / (n + 1)
