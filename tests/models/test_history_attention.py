"""Users from their histories: what is read, and the formula against a loop."""

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.core.layers import Affine
from relrank.models.two_view.history_attention import Histories, HistoryAttention, TrainingHistories, rating_levels
from relrank.tables.ids import IdMap

DIM = 4


def graph(ordered: bool = True) -> Graph:
    """User 0: items 3, 1, 0, 4, 2 in time, rated 1 … 5 in that order; user 1: item 2, rated 5; user 2: nothing."""
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", 3), ("item", 5))}
    users, items = np.array([0, 0, 0, 0, 0, 1]), np.array([3, 1, 0, 4, 2, 2])
    edges = Relation.of("chose", "user", "item", users, items, np.array([1, 2, 3, 4, 5, 5]) / 5)
    places = np.array([2, 1, 4, 0, 3, 0], np.int32) if ordered else None
    return Graph("user", "item", nodes, edges, {}, "by hand", places=places)


def listed(histories: Histories) -> list[list[tuple[int, int, int]]]:
    events = list(zip(histories.items.tolist(), histories.levels.tolist(), histories.ages.tolist(), strict=True))
    return [events[a:b] for a, b in zip(histories.indptr[:-1], histories.indptr[1:], strict=True)]


def test_histories_are_in_time_with_ratings_and_ages():
    made = TrainingHistories(graph(), 0)
    assert made.n_levels == 5
    # places from the end 4, 3, 2, 1, 0: powers of two
    whole = [(3, 1, 2), (1, 2, 2), (0, 3, 1), (4, 4, 1), (2, 5, 0)]
    assert listed(made.of(np.array([1, 0, 2]))) == [[(2, 5, 0)], whole, []]
    assert listed(TrainingHistories(graph(), 2).of(np.array([0]))) == [[(4, 4, 1), (2, 5, 0)]]
    given = made.given(np.array([0, 0, 3]), np.array([4, 3, 0], np.int32))
    assert listed(given) == [[], [(4, 0, 1), (3, 0, 1), (0, 0, 0)]]


def test_what_was_chosen_again_is_there_again_as_in_histories_that_are_folded_in():
    """User 0 goes on with 3 and 0, after the item that user 1 alone has; nothing of a target is left."""
    again = replace(graph(), events=np.array([3, 1, 0, 4, 2, 3, 0, 5], np.int32))
    made = TrainingHistories(again, 0)
    whole = made.of(np.array([1, 0]))
    assert [[item for item, *_ in one] for one in listed(whole)] == [[2], [3, 1, 0, 4, 2, 3, 0]]
    given = made.given(np.array([0, 1, 8]), whole.items)
    assert whole.ages.tolist() == given.ages.tolist()
    assert whole.levels.tolist() == [5, 1, 2, 3, 4, 5, 1, 3]
    cut = np.array([0, 0]), np.array([3, 2])
    assert [item for item, *_ in listed(made.of(np.array([0]), cut))[0]] == [1, 0, 4, 0]
    assert listed(TrainingHistories(again, 2).of(np.array([0]))) == [[(3, 1, 1), (0, 3, 0)]]


def test_without_an_order_nothing_is_said_of_age_and_nothing_is_forgotten():
    made = TrainingHistories(graph(ordered=False), 2)
    assert listed(made.of(np.array([0]))) == [[(0, 3, 0), (1, 2, 0), (2, 5, 0), (3, 1, 0), (4, 4, 0)]]


def test_pitfall_a_target_is_never_in_the_history_that_is_to_find_it():
    made = TrainingHistories(graph(), 0)
    cut = np.array([0, 1, 0]), np.array([2, 2, 1])
    assert listed(made.of(np.array([0, 1]), cut)) == [[(3, 1, 1), (0, 3, 1), (4, 4, 0)], []]
    # the window is of what is left
    assert listed(TrainingHistories(graph(), 2).of(np.array([0]), cut)) == [[(0, 3, 1), (4, 4, 0)]]


def test_many_weights_are_cut_into_levels_of_equal_size():
    assert rating_levels(np.array([0.5, 1, 0.5, 2], np.float32)).tolist() == [1, 2, 1, 3]
    levels = rating_levels(np.random.default_rng(0).permutation(1600).astype(np.float32))
    assert np.abs(np.bincount(levels)[1:] - 100).max() <= 1
    assert levels.max() == 16


def reader(n_levels=5, ordered=True):
    made = HistoryAttention(DIM, 2, n_levels, ordered)
    generator = torch.Generator().manual_seed(0)
    made.reset(generator, 1.0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return made, torch.randn(5, DIM, generator=generator), torch.randn(3, DIM, generator=generator)


def project(affine: Affine, x):
    return torch.cat([x, torch.ones(*x.shape[:-1], 1)], -1) @ affine.weight


@torch.no_grad()
def test_a_user_is_attention_over_the_history():
    made, items, side = reader()
    histories = TrainingHistories(graph(), 0).of(np.arange(3))
    found = made(items, made.keys(items, histories), histories, side)
    for user, events in enumerate(listed(histories)):
        if not events:
            torch.testing.assert_close(found[user], made.nobody + side[user])
            continue
        item, level, age = (torch.tensor(column) for column in zip(*events, strict=True))
        keys = items[item] + made.ratings[level] + made.ages[age]
        query = project(made.query, items[item].mean(0) + side[user])
        key, value = project(made.key, keys), project(made.value, keys)
        halves = [
            ((key[:, h] @ query[h]) / 2**0.5).softmax(0) @ value[:, h] for h in (slice(0, 2), slice(2, 4))
        ]  # fmt: skip
        torch.testing.assert_close(found[user], torch.cat(halves) + side[user], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pitfall_the_query_is_the_users_own():
    """With one query for all, an item has one score in every history, and two weights have one ratio everywhere."""
    made, items, _ = reader(1, False)
    made.value.weight.zero_()
    made.value.weight[:-1] = torch.eye(DIM)
    items = torch.eye(5, DIM) * 3  # item k shows in entry k
    one, other = (np.array([0, 3]), np.array([0, 1, 2], np.int32)), (np.array([0, 3]), np.array([0, 1, 3], np.int32))
    ratios = []
    for indptr, rows in (one, other):
        histories = TrainingHistories(graph(False), 0).given(indptr, rows)
        heard = made(items, made.keys(items, histories), histories)[0]
        ratios.append(float(heard[0] / heard[1]))
    assert abs(ratios[0] - ratios[1]) > 1e-3


@torch.no_grad()
def test_ratings_change_a_user_and_hidden_ones_are_those_that_nobody_knows():
    made, items, _ = reader()
    training = TrainingHistories(graph(), 0)
    histories = training.of(np.array([0]))
    low = replace(histories, levels=np.ones_like(histories.levels))
    known, other = (made(items, made.keys(items, h), h) for h in (histories, low))
    assert (known - other).abs().max() > 0.05
    unknown = training.given(histories.indptr, histories.items)
    expected = made.keys(items, unknown)
    hidden = [made.keys(items, histories, torch.Generator().manual_seed(seed)) for seed in range(80)]
    same = [torch.equal(keys, expected) for keys in hidden]
    assert 2 <= sum(same) <= 20  # about a tenth of the steps
    assert all(s or torch.equal(keys, made.keys(items, histories)) for s, keys in zip(same, hidden, strict=True))
