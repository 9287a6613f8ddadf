"""What interactions weigh, by hand."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from relrank.errors import InputError
from relrank.graph.construction.build_graph import InteractionWeights, build_graph
from relrank.graph.construction.interactions import DAY, LEAST, build_interactions, history_positions
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables


def rows(time=(0, 2 * DAY, 3 * DAY, 10 * DAY), rating=(5.0, 1, 2.5, 4)):
    n = 4
    return Interactions(
        np.array([1, 0, 0, 1], np.int32), np.array([0, 1, 0, 2], np.int32),
        None if rating is None else np.array(rating, np.float32)[:n], None if time is None else np.array(time)[:n],
    )  # fmt: skip


def weights(config, given=None):
    r = build_interactions("user", "item", given or rows(), config)
    return {(u, i): w for u, i, w in zip(r.src.tolist(), r.dst.tolist(), r.weight.tolist(), strict=True)}


def test_all_weigh_one_unless_something_else_is_said():
    for config in (None, InteractionWeights(), InteractionWeights(weight="one")):
        assert weights(config) == {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 2): 1}
    assert set(weights(None, rows(time=None, rating=None)).values()) == {1}


def test_a_rating_weighs_its_share_of_the_largest():
    plain = weights(InteractionWeights(weight="rating"))
    assert plain == pytest.approx({(1, 0): 1, (0, 1): 0.2, (0, 0): 0.5, (1, 2): 0.8})
    squared = weights(InteractionWeights(weight="rating", power=2))
    assert squared == pytest.approx({(1, 0): 1, (0, 1): 0.04, (0, 0): 0.25, (1, 2): 0.64})
    low = rows(rating=(5, 0, -3, 4))
    assert weights(InteractionWeights(weight="rating", floor=0.5), low) == pytest.approx(
        {(1, 0): 1, (0, 1): 0.5, (0, 0): 0.5, (1, 2): 0.8}
    )
    with pytest.raises(InputError, match="cannot be a weight"):  # a floor does not make a scale of ratings below 0
        weights(InteractionWeights(weight="rating", floor=0.5), rows(rating=(0, 0, -3, -1)))


def test_decay_halves_with_every_half_life_before_the_last_training_row():
    decay = weights(InteractionWeights(weight="decay", half_life=1))
    assert decay == {(1, 0): 2**-10, (0, 1): 2**-8, (0, 0): 2**-7, (1, 2): 1}
    twice = weights(InteractionWeights(weight="decay", half_life=2))
    assert twice == pytest.approx({k: w**0.5 for k, w in decay.items()})
    assert weights(InteractionWeights(weight="decay", half_life=10))[1, 0] == 0.5
    floored = weights(InteractionWeights(weight="decay", half_life=1, floor=2**-8))
    assert floored == {(1, 0): 2**-8, (0, 1): 2**-8, (0, 0): 2**-7, (1, 2): 1}
    # what is older than can be told from 0 is an edge still
    assert min(weights(InteractionWeights(weight="decay", half_life=0.001)).values()) == pytest.approx(LEAST)


def split(train, test):
    ids = [IdMap(name, pl.Series(range(n))) for name, n in (("user", 2), ("item", 3))]
    return Split(*ids, train, train.take(np.zeros(0, np.int64)), test, "by hand", "f")


def test_pitfall_held_out_rows_do_not_move_the_moment_that_decay_counts_from():
    config, whole = InteractionWeights(weight="decay", half_life=1), rows()
    tables = Tables("t", "user", "item", pl.DataFrame())
    train, test = whole.take(np.arange(3)), whole.take(np.array([3]))
    graphs = []
    for later in (0, 1, 500):
        cut = split(train, replace(test, time=test.time + later * DAY))
        graphs.append(build_graph(tables, cut, {}, None, config).interactions.weight.tolist())
    assert graphs[0] == graphs[1] == graphs[2] == [1, 0.5, 0.125]
    # a refit has more training rows, and a later last one
    assert weights(config, split(train, test).train.then(test))[0, 0] == 2**-7


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        ({"weight": "decay", "half_life": 3}, rows(time=None), "no time"),
        ({"weight": "rating"}, rows(rating=None), "no rating"),
        ({"weight": "rating"}, rows(rating=(5, 0, 1, 1)), "cannot be a weight"),
        ({"weight": "rating"}, rows(rating=(5, np.nan, 1, 1)), "cannot be a weight"),
        ({"weight": "rating", "floor": 1}, rows(rating=(5, np.nan, 1, 1)), "cannot be a weight"),
    ],
)
def test_weights_that_cannot_be_made_are_refused(config, given, message):
    with pytest.raises(InputError, match=message) as error:
        build_interactions("user", "item", given, InteractionWeights(**config))
    assert error.value.where.startswith("[interactions]")


@pytest.mark.parametrize(
    "config",
    [
        {"weight": "decay"}, {"half_life": 3}, {"weight": "decay", "half_life": 0},
        {"weight": "rating", "half_life": 3}, {"floor": 0.1},
        {"weight": "decay", "half_life": 3, "floor": 2}, {"weight": "rating", "floor": 0},
        {"weight": "rating", "floor": 1.5}, {"weight": "rating", "power": 0}, {"power": 2},
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(config):
    with pytest.raises(ValidationError):
        InteractionWeights(**config)


def test_places_are_those_of_the_history_under_the_sorted_edges():
    """Rows of user 1 come first in the file and between those of user 0, whose items do not ascend in time."""
    user, item = [1, 0, 0, 1, 0], [2, 4, 1, 0, 3]
    given = Interactions(np.array(user, np.int32), np.array(item, np.int32))
    edges, places = build_interactions("user", "item", given), history_positions(given)
    assert places.dtype == np.int32
    by_edge = dict(zip(zip(edges.src.tolist(), edges.dst.tolist(), strict=True), places.tolist(), strict=True))
    assert by_edge == {(0, 1): 1, (0, 3): 2, (0, 4): 0, (1, 0): 1, (1, 2): 0}
    assert history_positions(given.take(np.zeros(0, np.int64))).shape == (0,)


def test_places_agree_with_a_count():
    rng = np.random.default_rng(0)
    pairs = rng.permutation([(u, i) for u in range(7) for i in range(9) if (u * i) % 4 != 1]).astype(np.int32)
    given = Interactions(pairs[:, 0].copy(), pairs[:, 1].copy())
    before, expected = {}, {}
    for u, i in pairs.tolist():
        expected[u, i] = before[u] = before.get(u, -1) + 1
    edges = build_interactions("user", "item", given)
    found = zip(edges.src.tolist(), edges.dst.tolist(), strict=True)
    assert dict(zip(found, history_positions(given).tolist(), strict=True)) == expected


@pytest.mark.parametrize("ordered", [True, False])
def test_a_graph_knows_places_only_where_the_split_knows_an_order(ordered):
    """A file's order is none; held-out rows have no place."""
    whole = rows()
    cut = split(whole.take(np.arange(3)), whole.take(np.array([3])))
    graph = build_graph(Tables("t", "user", "item", pl.DataFrame()), replace(cut, ordered=ordered), {})
    if ordered:
        assert graph.places.tolist() == [1, 0, 0]  # (0, 0) after (0, 1); (1, 0)
    else:
        assert graph.places is None
