"""Do estimates over data sets, and the rule for published claims, keep what they promise?

    python benchmarks/atlas_estimates.py [--samples 1000] [--seed 0]

Draws samples of 2 to 9 data sets. Their effects are normal around a mean, with a standard deviation τ between data
sets from 0 to the scale of the prior, 5 percentage points. Each is measured with an error of 0.3 to 2 points, which
is *known*, or *estimated* with 4 degrees of freedom, as from five splits: the estimate over data sets then uses the
error that belongs to the 95 % interval of Student's t. Printed is how often 95 % intervals of the mean, and of a new
data set, contain the truth, and how long those of the mean are.

Then the rule for claims: effects whose true size lies on the border of what a claim needs, measured by 4 to 1,000
degrees of freedom, and how often the claim is wrongly said to hold, or not to hold.

Last, relations that the search leaves out although their best weight truly adds the margin; two other weights add
half of it and nothing. Validation measures each with an error of 0.3 to 3 points per split, of which .7 is common to
the weights. A search keeps the weight 0 unless a weight is better by one standard error. How often is that so on
every split? And if such a relation, left out on any split, is measured on test with the weight above 0 that validates
best on each split, with an error of 0.2 points: how often is "helps" said not to hold, although the best weight adds
the margin?
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.special import betaincinv, stdtrit

from relrank.evaluation.comparison import Effect
from relrank.evaluation.meta_analysis import pool_effects
from relrank.study.atlas.claims import decide
from relrank.study.atlas.config import Claim
from relrank.study.atlas.gains import NORMAL
from relrank.study.coordinate_search import MIN_RELATIVE_GAIN

SCALE = 5.0
ERRORS = (0.3, 2.0)
FREEDOM = 4
BASE, MARGIN = 1.0, 0.01
"""Of the claims: an effect of .01 is one percent."""
TEST_ERROR = 0.002
"""Of a relation in use that the search leaves out."""


def binomial(k: int, n: int) -> str:
    """A rate with its 95 % interval (Clopper–Pearson)."""
    low = betaincinv(k, n - k + 1, 0.025) if k else 0.0
    high = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
    return f"{k / n:.1%} ({low:.1%} to {high:.1%})"


def coverage(rng: np.random.Generator, n: int, tau: float, known: bool, samples: int) -> tuple[int, int, float]:
    """How often intervals of the mean and of a new data set contain the truth; the median length of the former."""
    of_mean = of_new = 0
    lengths = []
    for _ in range(samples):
        mean = rng.normal(0, SCALE)
        errors = rng.uniform(*ERRORS, n)
        effects = rng.normal(rng.normal(mean, tau, n), errors)
        if not known:
            estimated = errors * np.sqrt(rng.chisquare(FREEDOM, n) / FREEDOM)
            errors = estimated * stdtrit(FREEDOM, 0.975) / NORMAL
        pooled = pool_effects(effects.tolist(), errors.tolist(), SCALE)
        of_mean += pooled.low <= mean <= pooled.high
        of_new += pooled.new_low <= rng.normal(mean, tau) <= pooled.new_high
        lengths.append(pooled.high - pooled.low)
    return of_mean, of_new, float(np.median(lengths))


def measured(rng: np.random.Generator, truth: float, freedom: int) -> Effect:
    """An effect as a study measures it: with an estimated standard error."""
    error = 0.004
    estimated = error * np.sqrt(rng.chisquare(freedom) / freedom)
    mean, half = rng.normal(truth, error), stdtrit(freedom, 0.975) * estimated
    return Effect(mean, mean - half, mean + half, 0.5, 0.0, estimated, freedom, 1000, 1)


BORDERS = (
    ("helps", None, 0.0, "holds", "2.5"),
    ("helps", None, MARGIN, "does not hold", "5"),
    ("helps", 10.0, 0.10 - MARGIN, "does not hold", "5"),
    ("hurts", None, -MARGIN, "does not hold", "5"),
    ("negligible", None, MARGIN, "holds", "5"),
    ("negligible", None, MARGIN, "does not hold", "5"),
)
"""Claim, its size in percent, a true effect on the border, the answer that is wrong there, and its rate at most."""


def claims(rng: np.random.Generator, samples: int) -> Iterator[tuple[str, int, int, str]]:
    """Label, wrong answers, effects, and the rate that the rule promises, in percent."""
    for expect, gain, truth, wrong, most in BORDERS:
        size = {} if gain is None else {"gain": gain}
        claim = Claim.model_validate(
            {"text": "", "source": "", "url": "https://x", "study": "s", "model": "m", "expect": expect} | size
        )
        for freedom in (FREEDOM, 1000):
            answers = [decide(claim, measured(rng, truth, freedom), BASE, MARGIN)[0] for _ in range(samples)]
            of_size = "" if gain is None else f" by {gain:g} %"
            label = f'"{expect}{of_size}" said to be "{wrong}", true effect {100 * truth:+g} %, {freedom:,} d.f.'
            yield label, sum(answer == wrong for answer in answers), samples, most


def left_out(rng: np.random.Generator, splits: int, error: float, samples: int) -> tuple[int, int, int]:
    """Of relations whose best weight adds the margin: left out on every split, on any, and then "does not hold"."""
    claim = Claim.model_validate(
        {"text": "", "source": "", "url": "https://x", "study": "s", "model": "m", "expect": "helps"}
    )
    truth, shape = MARGIN * np.array([1.0, 0.5, 0.0]), (samples, splits)
    noise = np.sqrt(0.7) * rng.normal(size=(*shape, 1)) + np.sqrt(0.3) * rng.normal(size=(*shape, 3))
    validation = truth + error * noise
    out = (validation < max(error, MIN_RELATIVE_GAIN)).all(2)
    wrong = 0
    for picked in truth[validation.argmax(2)][out.any(1)]:
        mean, half = rng.normal(picked.mean(), TEST_ERROR), NORMAL * TEST_ERROR
        on_test = Effect(mean, mean - half, mean + half, 0.5, 0.0, TEST_ERROR, 1000.0, 1000, splits)
        wrong += decide(claim, on_test, BASE, MARGIN)[0] == "does not hold"
    return int(out.all(1).sum()), int(out.any(1).sum()), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    print("| data sets | τ | errors | 95 % interval of the mean | its length | 95 % interval of a new data set |")
    print("|---|---|---|---|---|---|")
    for known in (True, False):
        for n in (2, 3, 5, 9):
            for tau in (0.0, 1.0, 2.5, SCALE):
                of_mean, of_new, length = coverage(rng, n, tau, known, given.samples)
                kind = "known" if known else "estimated"
                figures = binomial(of_mean, given.samples), f"{length:.1f}", binomial(of_new, given.samples)
                print(f"| {n} | {tau:g} | {kind} | {' | '.join(figures)} |", flush=True)
    print("\n| claim | wrong | promised |\n|---|---|---|")
    for label, k, n, most in claims(rng, 10 * given.samples):
        print(f"| {label} | {binomial(k, n)} | ≤ {most} % |")
    columns = 'left out on every split | on any split | of these, "does not hold" in use'
    print(f"\n| splits | error of a split on validation | {columns} |\n|---|---|---|---|---|")
    for splits in (1, 3, 5):
        for error in (0.003, 0.01, 0.03):
            n = 10 * given.samples
            everywhere, anywhere, wrong = left_out(rng, splits, error, n)
            rates = f"{binomial(everywhere, n)} | {binomial(anywhere, n)} | {binomial(wrong, anywhere)}"
            print(f"| {splits} | {100 * error:g} % | {rates} |", flush=True)


if __name__ == "__main__":
    main()
