"""What every model of sequences shares, against loops over users and moments in float64.

The encoder here is one that a loop writes in a line: h_t = x_t + h_{t−1} / 2.
"""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.construction.interactions import build_interactions, history_positions
from relrank.graph.graph import Graph
from relrank.graph.sampling.negatives import NegativeSampler
from relrank.models.core import sequence_model
from relrank.models.core.sequence_model import SequenceConfig, SequenceModel, Windows, positions
from relrank.models.sequence.sasrec import SASRec, SASRecConfig
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions
from relrank.testing import planted_graph
from relrank.training import TrainConfig, fit

N_ITEMS, WINDOW, DIM = 14, 4, 3
HISTORIES = [
    [3, 0, 5],
    [],
    [7],
    [2, 9, 4, 1, 0, 8, 6, 13],
    [5, 4],
    [0, 3, 2, 12, 11],
    [6, 1, 7, 10],
    [12, 2, 0, 3, 9, 5, 1],
]
"""None, one, as many as fit into the window with the next item, and more."""
ALL = np.arange(len(HISTORIES))


class Halving(SequenceModel):
    name = "halving"

    def states(self, x, windows, generator):
        h = [x[:, 0]]
        for t in range(1, x.shape[1]):
            h.append(x[:, t] + h[-1] / 2)
        return torch.stack(h, 1)

    def init_encoder(self, generator):
        pass


def graph_of(histories=HISTORIES, weight=None):
    """``weight`` of (user, item)."""
    user = np.repeat(np.arange(len(histories)), [len(h) for h in histories]).astype(np.int32)
    item = np.array([i for h in histories for i in h], np.int32)
    edges = build_interactions("user", "item", Interactions(user, item))
    if weight is not None:
        weights = [weight(u, i) for u, i in zip(edges.src.tolist(), edges.dst.tolist(), strict=True)]
        edges = replace(edges, weight=np.array(weights, np.float32))
    nodes = {
        "user": IdMap("user", pl.Series(range(len(histories)))),
        "item": IdMap("item", pl.Series(range(N_ITEMS))),
    }
    return Graph("user", "item", nodes, edges, {}, "by hand", places=history_positions(Interactions(user, item)))


def new(graph=None, **settings):
    config = SequenceConfig(**{"dim": DIM, "window": WINDOW, "init_scale": 1.0, "dropout": 0.0} | settings)
    model = Halving(graph or graph_of(), config)
    model.init_weights(1)
    return model


def prepared(model, users=ALL, seed=0):
    return model.prepare(users, np.zeros_like(users), np.random.SeedSequence(seed))


def edges_of(batch):
    return batch.users[batch.user_index].tolist(), batch.items[batch.positive_index].tolist()


def moments_of(batch):
    """(user, items up to the moment, item to be found, true length) of every moment, in the batch's order."""
    read = []
    for w in batch.encoder_inputs:
        for row in range(len(w.items)):
            for t in w.at[row].nonzero()[:, 0].tolist():
                assert t < w.n_valid[row]
                read.append((tuple(w.items[row, : t + 1].tolist()), int(w.lengths[row])))
    return [(u, items, i, n) for u, i, (items, n) in zip(*edges_of(batch), read, strict=True)]


def moments_until(user, end, history):
    """The same of the window that ends before item ``end``."""
    part = history[max(end - WINDOW - 1, 0) : end]
    return [(user, tuple(part[:t]), part[t], end - 1) for t in range(1, len(part))]


def expected_moments(users=ALL):
    return [m for u in users for m in moments_until(u, len(HISTORIES[u]), HISTORIES[u])]


@pytest.mark.parametrize("users", [ALL, np.array([7, 3, 1, 3, 4]), np.array([4]), np.array([2, 0, 1])])
def test_every_item_of_the_last_window_is_to_be_found_once(users):
    """Whatever the order of users, and however often one is named."""
    batch = prepared(new(), users)
    assert sorted(moments_of(batch)) == sorted(expected_moments(np.unique(users)))


def test_windows_that_end_anywhere():
    """Uniform from the first full window on; a history that fits into the window is read in full."""
    model, n = new(crop="random"), 400
    ends = Counter()
    for seed in range(n):
        found = moments_of(prepared(model, seed=seed))
        for user, history in enumerate(HISTORIES):
            own = [m for m in found if m[0] == user]
            if own:
                end = own[0][3] + 1
                assert own == moments_until(user, end, history)
                ends[user, end] += 1
            else:
                assert len(history) < 2
    possible = {(u, e): len(h) - min(len(h), WINDOW + 1) + 1 for u, h in enumerate(HISTORIES) if len(h) > 1
                for e in range(min(len(h), WINDOW + 1), len(h) + 1)}  # fmt: skip
    assert set(ends) == set(possible)
    for key, ways in possible.items():
        share = 1 / ways
        assert ends[key] == pytest.approx(n * share, abs=4 * (n * share * (1 - share)) ** 0.5 + 1e-9)


def test_same_seed_same_windows():
    a, b, c = (moments_of(prepared(new(crop="random", sampling="uniform"), seed=s)) for s in (3, 3, 4))
    assert a == b != c


def test_windows_of_a_batch_are_grouped_by_length():
    """None is wider than its longest window, and the places that are read are few more than the real ones."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(N_ITEMS)[: rng.integers(2, 13)].tolist() for _ in range(80)]
    batch = prepared(new(graph_of(histories), window=20), np.arange(80))
    groups = batch.encoder_inputs
    assert len(groups) == sequence_model.GROUPS
    assert [len(w.items) for w in groups] == [20] * 4
    for w in groups:
        assert w.items.shape[1] == int(w.n_valid.max())
    assert all(a.n_valid.max() <= b.n_valid.min() for a, b in pairwise(groups))


def test_true_lengths_are_kept_where_windows_are_not():
    found = {m[0]: m[3] for m in moments_of(prepared(new()))}
    assert found == {u: len(h) - 1 for u, h in enumerate(HISTORIES) if len(h) > 1}
    scoring_windows = new().scoring_windows(new().sequences.take(np.array([3, 2])))
    assert (scoring_windows.lengths.tolist(), scoring_windows.n_valid.tolist()) == ([8, 1], [4, 1])
    assert scoring_windows.items[0].tolist() == [0, 8, 6, 13]
    assert scoring_windows.at.tolist() == [[False, False, False, True], [True, False, False, False]]


# Losses


def state_of(table, items):
    h = np.zeros(table.shape[1])
    for i in items:
        h = table[i] + h / 2
    return h


def softplus(x):
    return math.log1p(math.exp(x))


def by_definition(model, batch, seed=0):
    """The loss in loops over moments, from the histories; only the order of the draws is the batch's."""
    c, table = model.config, model.table.detach().double().numpy()
    users, items = edges_of(batch)
    if c.loss != "full-softmax":
        sampler = NegativeSampler(model.history, c.sampling, c.negatives, c.shared, c.power)
        drawn = sampler.draw(np.array(users), np.array(items), np.random.SeedSequence(seed).spawn(4)[0])
    total = 0.0
    for b, (u, i) in enumerate(zip(users, items, strict=True)):
        history = HISTORIES[u][-WINDOW - 1 :]
        h, q = state_of(table, history[: history.index(i)]), table
        if c.similarity == "cosine":
            h, q = h / np.linalg.norm(h), table / np.linalg.norm(table, axis=1, keepdims=True)
        s = q @ h / c.temperature
        if c.loss == "full-softmax":  # over the whole catalogue, the user's own items included
            total += math.log(np.exp(s).sum()) - s[i]
            continue
        columns = range(len(drawn.items)) if drawn.columns is None else drawn.columns[b]
        log_q = np.zeros(len(drawn.items)) if drawn.log_q is None or not c.log_q else drawn.log_q
        pool = [(s[drawn.items[k]], log_q[k]) for k in columns if drawn.items[k] not in HISTORIES[u]]
        if c.loss == "softmax":
            total += math.log(math.exp(s[i]) + sum(math.exp(n - q) for n, q in pool)) - s[i]
        elif c.loss == "bpr":
            total += np.mean([softplus(n - s[i]) for n, _ in pool]) if pool else 0
        else:
            alpha = len(columns) / (N_ITEMS - 1)
            beta = 1 if c.loss == "bce" else 1 - c.calibration * (1 - alpha)
            total += beta * softplus(-s[i]) + sum(softplus(n) for n, _ in pool)
    return total / len(users)


NEGATIVES = [("uniform", True), ("uniform", False), ("popularity", True), ("popularity", False), ("in-batch", True),
             ("mixed", True)]  # fmt: skip
LOSSES = [("full-softmax", "uniform", True)] + [
    (loss, *negatives) for loss in ("softmax", "bpr", "bce", "gbce") for negatives in NEGATIVES
]


@pytest.mark.parametrize(("loss", "sampling", "shared"), LOSSES)
@pytest.mark.parametrize(("similarity", "temperature"), [("dot", 1.0), ("cosine", 0.5)])
def test_the_loss_is_its_definition_over_all_moments(loss, sampling, shared, similarity, temperature):
    model = new(
        loss=loss, sampling=sampling, shared=shared, negatives=6, similarity=similarity, temperature=temperature
    )
    for seed in (0, 1):
        batch = prepared(model, seed=seed)
        assert len(batch.user_index) == len(expected_moments())
        assert model.loss(batch).item() == pytest.approx(by_definition(model, batch, seed), rel=2e-5)


def test_gradient_reaches_every_moments_items():
    """Of the full softmax: each item by its finite difference."""
    model = new().double()
    batch = prepared(model)
    model.loss(batch).backward()
    for item, column in ((0, 0), (13, 1), (9, 2)):
        values = []
        for step in (1e-6, -1e-6):
            other = new().double()
            other.load_state(model.state())
            with torch.no_grad():
                other.table[item, column] += step
            values.append(other.loss(batch).item())
        assert model.table.grad[item, column].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


# Weights


def test_moments_are_kept_by_the_weight_of_what_is_to_be_found():
    """Over many epochs as often as weighed; no window loses an item."""
    share = {(u, i): 0.1 + 0.9 * ((3 * u + 5 * i) % 7) / 6 for u, h in enumerate(HISTORIES) for i in h}
    model, n = new(graph_of(weight=lambda u, i: 4 * share[u, i])), 600
    every, counts = set(expected_moments()), Counter()
    for seed in range(n):
        batch = prepared(model, seed=seed)
        found = moments_of(batch)
        assert len(found) == len(set(found)) == len(batch.user_index)
        assert set(found) <= every
        counts.update(found)
    for moment in every:
        p = share[moment[0], moment[2]]
        assert counts[moment] == pytest.approx(n * p, abs=4 * (n * p * (1 - p)) ** 0.5 + 1e-9)


@pytest.mark.parametrize("loss", ["full-softmax", "softmax"])
def test_groups_that_lose_all_their_moments_cost_nothing(loss):
    """Only what user 3 chose weighs anything to speak of."""
    model = new(graph_of(weight=lambda u, i: 1.0 if u == 3 else 1e-30), loss=loss, negatives=6)
    batch = prepared(model)
    assert sorted(int(w.at.sum()) for w in batch.encoder_inputs) == [0, 0, 0, 4]
    assert moments_of(batch) == moments_until(3, 8, HISTORIES[3])
    loss = model.loss(batch)
    assert loss.item() == pytest.approx(by_definition(model, batch), rel=2e-5)
    loss.backward()
    assert bool(model.table.grad.isfinite().all())


def test_one_moment_is_always_left():
    """Of equal chances near 0: user 3 of weight 1 is in no batch."""
    model = new(graph_of(weight=lambda u, i: 1.0 if u == 3 else 1e-30))
    batch = prepared(model, np.array([0, 4, 5]))
    assert len(moments_of(batch)) == 1
    assert model.loss(batch).item() == pytest.approx(by_definition(model, batch), rel=2e-5)


# Scores


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_scores_are_those_of_the_last_window(similarity, monkeypatch):
    model = new(similarity=similarity)
    table = model.table.detach().double().numpy()
    q = table / np.linalg.norm(table, axis=1, keepdims=True) if similarity == "cosine" else table
    expected = []
    for history in HISTORIES:
        h = state_of(table, history[-WINDOW:])
        expected.append(q @ (h / np.linalg.norm(h) if similarity == "cosine" and history else h))
    users = [6, 3, 1, 3, 0, 7, 2, 5, 4]
    for at_once in (512, 3):  # histories of all lengths, a few at a time
        monkeypatch.setattr(sequence_model, "SCORING_BATCH_SIZE", at_once)
        found = model.score(torch.tensor(users, dtype=torch.int32)).numpy()
        np.testing.assert_allclose(found, np.array(expected)[users], rtol=1e-4, atol=1e-5)
        folded = model.fold_in([torch.tensor(HISTORIES[u], dtype=torch.int16) for u in users]).numpy()
        np.testing.assert_array_equal(folded, found)
    assert not found[2].any()  # nothing is known of the user without a history
    assert not model.score(torch.tensor([1, 1])).any()
    assert model.fold_in([]).shape == (0, N_ITEMS)


def test_an_item_may_occur_twice_in_a_new_history():
    model = new()
    table = model.table.detach().double().numpy()
    found = model.fold_in([torch.tensor([4, 2, 4, 4])])[0].numpy()
    np.testing.assert_allclose(found, table @ state_of(table, [4, 2, 4, 4]), rtol=1e-4, atol=1e-5)


def test_places_are_counted_from_the_end():
    items = torch.zeros(3, 4, dtype=torch.int64)
    windows = Windows(items, torch.tensor([4, 1, 2]), torch.tensor([9, 1, 2]), items.bool())
    assert positions(windows, 6).tolist() == [[2, 3, 4, 5], [5, 5, 5, 5], [4, 5, 5, 5]]


# What cannot be


def test_examples_are_users_who_have_a_next_item():
    users, last = new().examples()
    assert (users.tolist(), last.tolist()) == ([0, 3, 4, 5, 6, 7], [5, 13, 4, 11, 10, 1])
    assert users.dtype == last.dtype == np.int32
    nobody = new(graph_of([[3], [], [5]]))
    with pytest.raises(InputError, match="no history has two items"):
        fit(nobody, TrainConfig(epochs=1, device="cpu"), lambda: 0.0, seed=0)
    with pytest.raises(ValueError, match="two items"):
        prepared(new(), np.array([1, 2]))
    assert nobody.score(torch.arange(3))[0].any()  # the one item says something still


def test_training_counts_users_and_leaves_those_without_a_next_item_alone():
    model = new(crop="random", loss="softmax", negatives=6)
    seen, prepare = [], model.prepare

    def noting(users, positives, seed):
        seen.append(users.tolist())
        return prepare(users, positives, seed)

    model.prepare = noting
    fit(model, TrainConfig(epochs=2, batch=4, lr=0.05, every=2, device="cpu"), lambda: 0.0, seed=0)
    assert [len(s) for s in seen] == [4, 2, 4, 2]
    for epoch in (seen[:2], seen[2:]):
        assert sorted(u for part in epoch for u in part) == [0, 3, 4, 5, 6, 7]
    assert bool(model.table.isfinite().all())


@pytest.mark.parametrize("settings", [{"window": 1}, {"dropout": 1.0}, {"dropout": -0.1}, {"crop": "first"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match="halving"):
        new(**settings)


def test_a_graph_without_order_is_refused():
    with pytest.raises(InputError, match="no order in time"):
        new(planted_graph())


def test_dropout_is_the_batchs_and_none_in_scoring():
    model = SASRec(graph_of(), SASRecConfig(dim=8, window=WINDOW, dropout=0.4, init_scale=0.5))
    model.init_weights(0)
    batch = prepared(model)
    first, again = (model.loss(batch).item() for _ in range(2))
    assert first == again
    assert model.loss(prepared(model, seed=1)).item() != first
    assert model.loss(replace(batch, seed=batch.seed + 1)).item() != first
    model.train()
    assert torch.equal(model.score(torch.arange(8)), model.score(torch.arange(8)))


def test_moving_a_batch_moves_its_windows():
    batch = prepared(new()).to(torch.device("meta"))
    assert len(batch.encoder_inputs) == sequence_model.GROUPS
    for windows in batch.encoder_inputs:
        for name in ("items", "n_valid", "lengths", "at"):
            assert getattr(windows, name).is_meta
