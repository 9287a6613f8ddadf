import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.relation import Relation
from relrank.models.graph import path_terms
from relrank.models.graph.path_fusion import PathFusion, PathFusionConfig
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS = 160, 120
USERS = torch.arange(N_USERS)


class TestKnownUsers(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3)
    embedding_tables = ("table",)
    fold_in = "similar"
    propagates = True


class TestNoUserVectors(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3, user_vectors=False)
    embedding_tables = ("table",)
    fold_in = "similar"
    propagates = True


class TestSampledNegatives(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3, loss="softmax", negatives=40)
    embedding_tables = ("table",)
    fold_in = "similar"
    propagates = True


def with_cities(**settings):
    """The planted graph with a relation of users besides, some users without any edge of it."""
    graph = planted_graph(**settings)
    users = np.arange(0, N_USERS, 3)
    other = np.random.default_rng(0).integers(0, 3, users.size) * 4 + users % 4
    lives_in = Relation.of("lives_in", "user", "tag", users, other)
    return replace(graph, relations={**graph.relations, "lives_in": lives_in})


def new(graph=None, **settings):
    model = PathFusion(graph or with_cities(), PathFusionConfig(**{"dim": 16, "temperature": 0.3} | settings))
    model.init_weights(3)
    return model


def dense(graph, relation):
    """Weights over the square roots of both ends' degrees, float64."""
    w = np.zeros((len(graph.nodes[relation.source]), len(graph.nodes[relation.target])))
    w[relation.src, relation.dst] = relation.weight
    if relation.undirected:
        w[relation.dst, relation.src] = relation.weight
    degrees = np.outer(w.sum(1), w.sum(0))
    return np.divide(w, np.sqrt(degrees), out=np.zeros_like(w), where=w > 0)


def share(history):
    return history / np.sqrt(np.maximum(history.sum(1, keepdims=True), 1))


def paths(graph, history, known):
    """p_r by name from dense matrices, for rows of histories and their users' rows; −1 is a new user."""
    a, h = dense(graph, graph.interactions), share(history)
    tag, similar, city = (dense(graph, graph.relations[name]) for name in ("has_tag", "similar", "lives_in"))
    not_own = np.arange(N_USERS) != np.asarray(known)[:, None]
    return {
        "chose": (h @ a.T * not_own) @ a,
        "has_tag": h @ tag @ tag.T,
        "similar": h @ similar,
        "lives_in": ((city @ city.T)[known] * not_own * (np.asarray(known) >= 0)[:, None]) @ a,
    }


def history_of(graph):
    h = np.zeros((N_USERS, N_ITEMS))
    h[graph.interactions.src, graph.interactions.dst] = 1
    return h


def by_the_formula(model, history, known):
    """cos / τ + Σ a √(p / m), float64; m is the mean of the paths that there are, of all users."""
    table, graph = model.table.detach().double().numpy(), model.graph
    own, q = table[:N_USERS][known], table[N_USERS:]
    z = share(history) @ q + own * (model.config.user_vectors and known[0] >= 0)
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (z, q)]
    scores = unit[0] @ unit[1].T / model.config.temperature
    everyone = paths(graph, history_of(graph), np.arange(N_USERS))
    here = paths(graph, history, known)
    for name, weight in model.relation_weights.items():
        scores += weight * np.sqrt(here[name] / everyone[name][everyone[name] > 0].mean())
    return scores


WEIGHTS = {"chose": 0.8, "has_tag": 0.3, "similar": 1.5, "lives_in": 0.6}


@pytest.mark.parametrize("user_vectors", [True, False])
def test_scores_are_the_formula_of_the_docstring(user_vectors):
    model = new(user_vectors=user_vectors, weights=WEIGHTS)
    assert model.relation_weights == pytest.approx(WEIGHTS, rel=1e-5)
    expected = by_the_formula(model, history_of(model.graph), np.arange(N_USERS))
    np.testing.assert_allclose(model.score(USERS), expected, rtol=1e-4, atol=1e-4)


def test_new_users_have_paths_from_their_history_alone():
    """No vector of their own, no relation of their own, and no user to leave out."""
    model = new(weights=WEIGHTS)
    h = np.zeros((2, N_ITEMS))
    h[0, [3, 50, 77]] = 1
    expected = by_the_formula(model, h, [-1, -1])
    folded = model.fold_in([torch.tensor([77, 3, 50]), torch.tensor([], dtype=torch.int64)])
    np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)
    assert not folded[1].any()


def prepared(model, users, items, seed=0):
    return model.prepare(np.asarray(users), np.asarray(items), np.random.SeedSequence(seed))


def test_the_batchs_own_edges_are_cut_out_of_the_histories_that_lead_to_them():
    """The loss of the formula with what is left of each user's history; other users' edges stay."""
    model = new(weights=WEIGHTS)
    edges = model.graph.interactions
    at = np.random.default_rng(2).permutation(len(edges))[:300]
    users, items = edges.src[at].astype(np.int64), edges.dst[at].astype(np.int64)
    whole = history_of(model.graph)
    left = whole.copy()
    left[users, items] = 0
    scores = by_the_formula(model, left, np.arange(N_USERS))
    free = np.where(whole > 0, 0, np.exp(scores)).sum(1)
    expected = np.mean(np.log(np.exp(scores[users, items]) + free[users]) - scores[users, items])
    assert model.loss(prepared(model, users, items)).item() == pytest.approx(expected, rel=1e-4)
    leaking = by_the_formula(model, whole, np.arange(N_USERS))
    free = np.where(whole > 0, 0, np.exp(leaking)).sum(1)
    leaked = np.mean(np.log(np.exp(leaking[users, items]) + free[users]) - leaking[users, items])
    assert leaked < expected - 0.05


def test_the_target_is_not_in_its_own_history():
    """Item 5 has a tag of its own and one user; nothing but that edge leads there."""
    graph = planted_graph()
    has_tag = graph.relations["has_tag"].where(graph.relations["has_tag"].src != 5)
    has_tag = Relation.of("has_tag", "item", "tag", np.r_[has_tag.src, 5], np.r_[has_tag.dst % 11, 11])
    similar = graph.relations["similar"]
    similar = similar.where((similar.src != 5) & (similar.dst != 5))
    others = graph.interactions.where(graph.interactions.dst != 5)
    chose = Relation.of("chose", "user", "item", np.r_[others.src, 9], np.r_[others.dst, 5])
    graph = replace(graph, interactions=chose, relations={"has_tag": has_tag, "similar": similar})
    model = new(graph)
    model.score(USERS)
    mine = model.history.take(np.array([9])).indices.astype(np.int64)
    batch = prepared(
        model, [9, 9, 4], [5, mine[mine != 5][0], graph.interactions.dst[graph.interactions.src == 4][0]]
    )
    offsets = model.offsets(batch)
    assert batch.users.tolist() == [4, 9]
    assert not offsets[:, 5].any()
    assert offsets[1].any()
    kept = np.setdiff1d(mine, [5, mine[mine != 5][0]])
    table = model.table.detach()
    expected = table[9] + table[N_USERS + kept].sum(0) / math.sqrt(len(kept))
    torch.testing.assert_close(model.encode(batch)[0][1], expected)
    # asked afterwards the edge does lead there, by its tag
    bare = new(graph, weights={"has_tag": 0, "similar": 0, "chose": 0})
    assert (model.score(USERS) - bare.score(USERS))[9, 5] > 0.1


def test_a_batch_may_hold_a_users_whole_history():
    model = new(user_vectors=False)
    own = model.history.take(np.array([7])).indices.astype(np.int64)
    batch = prepared(model, np.full(own.size, 7), own)
    assert not model.encode(batch)[0].any()
    loss = model.loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_user_without_history_is_scored_by_the_own_vector():
    graph = planted_graph()
    graph = replace(graph, interactions=graph.interactions.where(graph.interactions.src != 0))
    model = new(graph)
    table = torch.nn.functional.normalize(model.table.detach(), dim=1)
    torch.testing.assert_close(model.score(torch.tensor([0]))[0], table[N_USERS:] @ table[0] / 0.3)


def test_weight_zero_leaves_the_relation_out():
    graph = with_cities()
    without = new(graph, weights={"has_tag": 0.0, "lives_in": 0.0})
    assert list(without.relation_weights) == ["chose", "similar"]
    smaller = new(graph.without("has_tag", "lives_in"))
    assert torch.equal(without.score(USERS), smaller.score(USERS))
    fit(without, TrainConfig(epochs=1, batch=512, device="cpu"), lambda: 0.0, seed=0)
    assert list(without.relation_weights) == ["chose", "similar"]


def test_without_any_path_the_vectors_are_left():
    model = new(weight=0.0)
    fit(model, TrainConfig(epochs=1, batch=512, device="cpu"), lambda: 0.0, seed=0)
    assert model.relation_weights == {}
    users, items = (torch.nn.functional.normalize(x, dim=1) for x in model.encode_all())
    torch.testing.assert_close(model.score(USERS), users @ items.T / 0.3)


@pytest.mark.parametrize("weight", [1e-4, 0.5, 3.0, 300.0])
def test_weights_start_where_they_are_said_to(weight):
    """Not passed through the softplus again; also where its inverse by the textbook overflows."""
    assert new(weight=weight).relation_weights == pytest.approx(dict.fromkeys(WEIGHTS, weight), rel=1e-3)


def test_negative_weights_are_refused():
    with pytest.raises(InputError, match=r"out of range[\s\S]*path-fusion, weights\.similar"):
        new(weights={"similar": -0.1})


def test_a_helpful_relation_gains_weight_over_its_rewired_self():
    graph = planted_graph()
    learned = []
    for arm in (graph, graph.rewired("has_tag", 1)):
        model = PathFusion(arm.only("has_tag"), PathFusionConfig(dim=16, temperature=0.3))
        fit(model, TrainConfig(epochs=12, batch=256, lr=0.05, every=12, device="cpu"), lambda: 0.0, seed=0)
        learned.append(model.relation_weights["has_tag"])
    assert learned[0] > 0.6
    assert learned[0] > learned[1] + 0.3


def test_fixed_weights_stay():
    model = new(weights=WEIGHTS, learn_weights=False)
    fit(model, TrainConfig(epochs=1, batch=512, device="cpu"), lambda: 0.0, seed=0)
    assert model.relation_weights == pytest.approx(WEIGHTS, rel=1e-5)


def test_subtracting_what_is_cut_out_is_walking_what_is_left(monkeypatch):
    """Cached path scores change no step, and none of a user's removed edges contributes."""
    graph = planted_graph()
    edges = graph.interactions
    batch = edges.src[::7].astype(np.int64), edges.dst[::7].astype(np.int64), np.random.SeedSequence(1)
    kept = PathFusion(graph, PathFusionConfig(dim=16)).prepare(*batch).encoder_inputs
    monkeypatch.setattr(path_terms, "MAX_CACHE_BYTES", 0)
    walked = PathFusion(graph, PathFusionConfig(dim=16)).prepare(*batch).encoder_inputs
    assert len(kept) == len(walked) == 4
    for a, b in zip(kept[1:], walked[1:], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)
        assert torch.equal(a == 0, b == 0)
