import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2_contingency, spearmanr

from relrank.errors import InputError
from relrank.tables import synthetic
from relrank.tables.synthetic import TRUTH, PlantedConfig, planted


@pytest.fixture(scope="module")
def tables():
    return planted(PlantedConfig(users=2000, items=1500, groups=50, echo_noise=0.3))


def attributes(tables):
    return tables.nodes["item"].frame


def chosen(tables):
    """The items' attributes, once per interaction."""
    return tables.interactions.join(attributes(tables), left_on="item", right_on="item_id", maintain_order="left")


def test_sizes_are_as_configured(tables):
    rows = tables.interactions
    assert len(rows) == 2000 * 6
    assert rows.is_duplicated().sum() == 0
    assert rows.group_by("user").len()["len"].unique().to_list() == [6]
    assert rows["item"].is_between(0, 1499).all()
    frame = attributes(tables)
    assert len(frame) == 1500
    assert set(TRUTH) <= set(frame.columns)
    for name in ("driver", "noise", "fame"):
        assert frame[name].value_counts()["count"].unique().to_list() == [30]  # equal groups
    assert tables.nodes["item"].key == "item_id"
    assert frame[tables.nodes["item"].title].n_unique() == 1500


def test_echo_is_the_driver_except_for_its_noise(tables):
    frame = attributes(tables)
    equal = (frame["echo"].str.split(" ").list[1] == frame["driver"].str.split(" ").list[1]).mean()
    # a random value hits the driver's in one of 50 cases
    assert equal == pytest.approx(0.7 + 0.3 / 50, abs=4 * np.sqrt(0.3 * 0.7 / 1500))


def number(frame, name):
    return frame[name].str.split(" ").list[1].cast(pl.Int64).to_numpy()


def test_fame_goes_with_popularity_and_noise_does_not(tables):
    counts = np.bincount(tables.interactions["item"], minlength=1500)
    frame = attributes(tables)
    assert spearmanr(number(frame, "fame"), counts).statistic < -0.4  # group 0 is the most famous
    for name in ("driver", "noise"):
        assert abs(spearmanr(number(frame, name), counts).statistic) < 4 / np.sqrt(1500)


def test_fame_and_noise_are_independent_of_taste(tables):
    """Chi-square of driver by attribute over the items, in coarse groups so that cells are full enough."""
    frame = attributes(tables)
    driver = number(frame, "driver") // 10
    for name, related in (("noise", False), ("fame", False), ("echo", True)):
        table = np.zeros((5, 5))
        np.add.at(table, (driver, number(frame, name) // 10), 1)
        assert (chi2_contingency(table).pvalue < 1e-6) == related


@pytest.mark.parametrize("loyalty", [0.2, 0.5, 0.8])
def test_users_choose_by_driver_as_loyally_as_configured(loyalty):
    """With one favourite, two choices agree in driver when both are loyal, or by a chance of about 1 in 50."""
    config = PlantedConfig(users=1000, items=5000, groups=50, favourites=1, per_user=2, loyalty=loyalty)
    drivers = chosen(planted(config))["driver"].to_numpy().reshape(-1, 2)
    agree = (drivers[:, 0] == drivers[:, 1]).mean()
    assert agree == pytest.approx(loyalty**2 + (1 - loyalty**2) / 50, abs=0.05)


def test_full_loyalty_never_leaves_the_favourites():
    rows = chosen(planted(PlantedConfig(users=50, items=5000, groups=50, favourites=2, loyalty=1.0)))
    assert rows.group_by("user").agg(pl.col("driver").n_unique())["driver"].max() == 2


def test_without_loyalty_the_driver_says_nothing():
    loyal, free = (chosen(planted(PlantedConfig(users=800, loyalty=share))) for share in (0.85, 0.0))
    groups = [rows.group_by("user").agg(pl.col("driver").n_unique())["driver"].mean() for rows in (loyal, free)]
    assert groups[0] < 3.5
    assert groups[1] > 5


def test_everything_is_seeded():
    same, again, other = (planted(PlantedConfig(users=80, seed=s)) for s in (4, 4, 5))
    assert same.interactions.equals(again.interactions)
    assert attributes(same).equals(attributes(again))
    assert not same.interactions.equals(other.interactions)
    assert not attributes(same).equals(attributes(other))


def test_blocks_of_users_change_nothing(monkeypatch):
    """Memory is bounded by drawing users in blocks; the draw is the same."""
    whole = planted(PlantedConfig(users=100)).interactions
    monkeypatch.setattr(synthetic, "USERS_AT_ONCE", 7)
    assert planted(PlantedConfig(users=100)).interactions.equals(whole)


@pytest.mark.parametrize(
    "setting",
    [{"per_user": 501}, {"per_user": 0}, {"favourites": 0}, {"favourites": 101}, {"groups": 1001}, {"loyalty": 1.1},
     {"loyalty": -0.1}, {"echo_noise": 2.0}, {"users": 0}, {"groups": 0},
     {"loyalty": 1.0, "groups": 500, "favourites": 2, "per_user": 6}],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(setting):
    with pytest.raises(InputError, match="cannot be drawn"):
        planted(PlantedConfig(**setting))
