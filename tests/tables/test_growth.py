"""Figures of items that know which rows are held out, told by simulation from those that know of popularity alone."""

from collections.abc import Callable
from functools import cache

import numpy as np
import polars as pl
import pytest

from relrank.tables.feature_leakage import FeatureLeakage, feature_leakage
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.split import Split
from relrank.tables.tables import Tables

Figure = Callable[[np.random.Generator, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

HONEST: dict[str, Figure] = {
    "popularity itself": lambda rng, popular, train, held: popular,
    "a count of other people's choices": lambda rng, popular, train, held: rng.poisson(200 * popular),
    "popularity in two steps": lambda rng, popular, train, held: np.digitize(
        popular, np.quantile(popular, [0.3, 0.6])
    ),
    "noise": lambda rng, popular, train, held: rng.random(popular.size),
    "what few items have": lambda rng, popular, train, held: rng.random(popular.size) < 0.02,
    "a count of training rows": lambda rng, popular, train, held: train,
}
LEAKY: dict[str, Figure] = {
    "one link for each held-out row": lambda rng, popular, train, held: held,
    "links of half of the held-out rows beside others": lambda rng, popular, train, held: (
        rng.binomial(held, 0.5) + rng.poisson(popular)
    ),
    "a count of all rows": lambda rng, popular, train, held: train + held,
    "its logarithm": lambda rng, popular, train, held: np.log1p(train + held),
    "training rows, and held-out rows three times": lambda rng, popular, train, held: train + 3 * held,
}


@cache
def world(
    seed: int, split: str = "random-leave-one-out", users: int = 700, items: int = 250
) -> tuple[Split, np.ndarray]:
    """People choose 5 to 12 items by popularity, which is returned with the split; made once, and only read."""
    rng = np.random.default_rng(seed)
    popular = rng.gamma([0.5, 1.0, 4.0][seed % 3], 1.0, items) + 0.01
    order = np.argsort(-(np.log(popular) + rng.gumbel(size=(users, items))), axis=1)
    n = rng.integers(5, 13, users)
    chosen = np.concatenate([first[:k] for first, k in zip(order, n, strict=True)])
    rows = pl.DataFrame({"user": np.repeat(np.arange(users), n), "item": chosen})
    tables = Tables("world", "user", "item", rows, ordered=True)
    made = make_split(tables, ProtocolConfig(name="mine", split=split, without_train="drop"), seed)  # type: ignore[arg-type]
    return made, popular[made.items.keys.to_numpy()]


def measured(figure: Figure, seed: int, split: str = "random-leave-one-out", **size: int) -> FeatureLeakage:
    made, popular = world(seed, split, **size)
    n, rng = len(made.items), np.random.default_rng(seed)
    train = np.bincount(made.train.item, minlength=n)
    held = np.bincount(made.valid.then(made.test).item, minlength=n)
    return feature_leakage(figure(rng, popular, train, held).astype(float), made, np.random.default_rng(0))


@pytest.mark.parametrize("split", ["random-leave-one-out", "last-leave-one-out", "cold-items"])
def test_honest_figures_pass(split: str) -> None:
    """Of 180 figures, however much they have to do with popularity, at most one is suspected: well below 1 %."""
    found = [(name, measured(figure, seed, split)) for name, figure in HONEST.items() for seed in range(30)]
    suspected = [name for name, one in found if one.is_shifted or one.is_count]
    assert len(suspected) <= 1, suspected


def test_the_pull_of_honest_figures_is_a_standard_normal_variable() -> None:
    """So that a bound in standard errors is an error rate: its mean is 0, and its standard deviation 1."""
    z = np.array([measured(HONEST[name], seed).z for name in ("popularity itself", "noise") for seed in range(60)])
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert 0.8 < z.std() < 1.2


@pytest.mark.parametrize("name", LEAKY)
def test_planted_figures_are_found(name: str) -> None:
    found = [measured(LEAKY[name], seed, users=1500) for seed in range(12)]
    assert sum(one.is_shifted or one.is_count for one in found) >= 11
    assert all(one.exact for one in found)


def test_planted_figures_are_found_where_items_or_times_make_the_split() -> None:
    cold = [measured(LEAKY["one link for each held-out row"], seed, "cold-items") for seed in range(12)]
    assert all(one.is_shifted and one.exact for one in cold)
    one_link, every = LEAKY["one link for each held-out row"], LEAKY["a count of all rows"]
    last = [measured(one_link, seed, "last-leave-one-out", users=1500) for seed in range(12)]
    assert sum(one.is_shifted for one in last) >= 10
    assert not any(one.exact for one in last)  # newer items could do the same: no proof
    counts = [measured(every, seed, "last-leave-one-out", users=1500) for seed in range(12)]
    assert sum(one.is_count for one in counts) >= 11


def test_a_pull_by_hand() -> None:
    """Two users with three rows each, the last one held out; only the third item of each has the attribute."""
    rows = pl.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 3, 4, 5]})
    tables = Tables("two", "user", "item", rows, ordered=True)
    made = make_split(tables, ProtocolConfig(name="mine", split="random-leave-one-out", without_train="drop"), 0)
    held = set(made.valid.then(made.test).item.tolist())
    figure = np.array([float(i in held) for i in range(6)])
    found = feature_leakage(figure, made, np.random.default_rng(0))
    # drawing two of three without replacement: 2 / 3 of what single draws vary, from each user's own mean
    assert found.z == pytest.approx(2 * (2 - 2 * 2 / 3) / np.sqrt(2 * 2 * (1 / 3) * (2 / 3 / 2)))
    assert feature_leakage(np.full(6, np.nan), made, np.random.default_rng(0)) == FeatureLeakage(0.0, 0.0, 1.0, True)
    assert feature_leakage(np.full(6, 7.0), made, np.random.default_rng(0)) == FeatureLeakage(0.0, 0.0, 1.0, True)
