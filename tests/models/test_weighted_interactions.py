"""What models make of interactions that do not all weigh 1; none changes where they do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from relrank.graph.construction.build_graph import InteractionWeights
from relrank.graph.construction.interactions import DAY, build_interactions
from relrank.graph.relation import Relation
from relrank.models import MODELS
from relrank.models.closed_form.bspm import BSPM, BSPMConfig
from relrank.models.closed_form.chebycf import ChebyCF, ChebyCFConfig, plateau_coefficients
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.models.closed_form.flat_filter import FlatFilter, FlatFilterConfig
from relrank.models.closed_form.gf_cf import GFCF, GFCFConfig
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.core.base import history_rows
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.models.graph.mf import MF, MFConfig
from relrank.tables.split import Interactions
from relrank.testing import BLOCKS, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS = 40, 24


def weighted(users=N_USERS, items=N_ITEMS, seed=0):
    graph = planted_graph(users, items, 5, 2).only()
    weight = np.random.default_rng(seed).uniform(0.1, 3, len(graph.interactions)).astype(np.float32)
    return replace(graph, interactions=replace(graph.interactions, weight=weight))


def dense(graph):
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = graph.interactions.weight
    return x


def scores(model):
    return model.solve().score(torch.arange(model.graph.n_users)).numpy()


def test_popularity_adds_weights_up():
    graph = weighted()
    np.testing.assert_allclose(scores(MODELS["popularity"](graph))[3], dense(graph).sum(0), rtol=1e-6)


def test_item_knn_is_the_cosine_of_weighted_columns():
    graph = weighted()
    x = dense(graph)
    length = np.sqrt((x**2).sum(0))
    w = (x.T @ x) / (np.outer(length, length) + 2.0)
    np.fill_diagonal(w, 0)
    model = ItemKNN(graph, ItemKNNConfig(neighbours=N_ITEMS, shrinkage=2.0))
    np.testing.assert_allclose(scores(model), x @ w, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)], ids=["primal", "dual"])
def test_ease_is_the_ridge_regression_of_weighted_rows(shape):
    graph = weighted(*shape)
    x = dense(graph)
    p = np.linalg.inv(x.T @ x + 5 * np.eye(x.shape[1]))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    model = EASE(graph, EASEConfig(l2=5.0))
    np.testing.assert_allclose(scores(model), x @ b, rtol=1e-3, atol=1e-4)
    relational = RelationalEASE(graph, RelationalEASE.Config(l2=5.0))
    np.testing.assert_allclose(scores(relational), x @ b, rtol=1e-3, atol=1e-4)
    # a new user's items weigh 1
    folded = model.fold_in([torch.tensor([0, 3])]).numpy()
    np.testing.assert_allclose(folded[0], b[0] + b[3], rtol=1e-3, atol=1e-4)


def filters(x, a, b):
    """R̃ᵀR̃ and its eigenvectors, for weighted degrees to the powers a and b."""
    r = x / (x.sum(1) ** a)[:, None] / x.sum(0) ** b
    values, vectors = np.linalg.eigh(r.T @ r)
    return r.T @ r, values[::-1], vectors[:, ::-1]


def test_graph_filters_take_weighted_degrees():
    graph = weighted()
    x = dense(graph)
    p, _, v = filters(x, 0.5, 0.5)
    d = np.sqrt(x.sum(0))
    ideal = (v[:, :4] / d[:, None]) @ (v[:, :4] * d[:, None]).T
    found = scores(GFCF(graph, GFCFConfig(rank=4, alpha=0.3)))
    np.testing.assert_allclose(found, x @ (p + 0.3 * ideal), rtol=2e-3, atol=2e-3)
    blurred = scores(BSPM(graph, BSPMConfig(rank=4, beta=0.3, time=1.0, solver="euler")))
    sharp = np.eye(N_ITEMS) - p
    np.testing.assert_allclose(blurred, x @ (p + 0.3 * ideal) @ sharp, rtol=2e-3, atol=5e-3)
    response = np.polynomial.chebyshev.chebval(1 - 2 * np.linalg.eigvalsh(p)[::-1], plateau_coefficients(6, 2.0))
    outer = x.sum(0) ** 0.3
    plateau = v @ np.diag(response) @ v.T + 0.3 * v[:, :4] @ v[:, :4].T
    found = scores(ChebyCF(graph, ChebyCFConfig(order=6, flatness=2.0, rank=4, alpha=0.3, beta=0.3)))
    np.testing.assert_allclose(found, x @ ((plateau / outer[:, None]) * outer), rtol=2e-3, atol=2e-3)

    p, values, v = filters(x, 0.3, 0.4)
    outer = x.sum(0) ** 0.2
    flat = p + v[:, :4] @ np.diag(2 * values[3] - values[:4]) @ v[:, :4].T
    config = FlatFilterConfig(rank=4, level=2.0, user_power=0.3, item_power=0.4, outer_power=0.2)
    expected = x @ ((flat / outer[:, None]) * outer)
    np.testing.assert_allclose(scores(FlatFilter(graph, config)), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    "model",
    [
        (GFCF, GFCFConfig(rank=8)),
        (BSPM, BSPMConfig(rank=8)),
        (ChebyCF, ChebyCFConfig(rank=8)),
        (FlatFilter, FlatFilterConfig(rank=8, user_power=0.1)),
    ],
    ids=lambda m: m[0].name,
)
def test_a_factor_on_all_weights_changes_no_order_of_a_filter(model):
    (kind, config), graph = model, weighted()
    edges = graph.interactions
    one, four = (
        scores(kind(replace(graph, interactions=replace(edges, weight=edges.weight * np.float32(f))), config))
        for f in (1, 4)
    )
    factor = (four * one).sum() / (one * one).sum()
    np.testing.assert_allclose(four, factor * one, atol=2e-3 * np.abs(four).max())


def test_lightgcn_gathers_for_new_users_over_weighted_degrees():
    """A user whose items weigh 1, as a new one's do, gathers in training what folding in gathers."""
    graph = weighted()
    edges = graph.interactions
    one = replace(edges, weight=np.where(edges.src < 8, 1, edges.weight).astype(np.float32))
    graph = replace(graph, interactions=one)
    model = RelationalLightGCN(graph, RelationalLightGCNConfig(dim=8, layers=1, similarity="dot"))
    model.init_weights(0)
    with torch.no_grad():
        model.table[:8] = 0  # no vectors of their own
    model.refresh()
    histories = [torch.from_numpy(one.dst[one.src == u].astype(np.int64)) for u in range(8)]
    with torch.no_grad():  # where the fit of a new user's vector begins
        folded = model.gather(history_rows(histories, graph.n_items)) @ model._items.T
    known = model.score(torch.arange(8))
    torch.testing.assert_close(folded / 2, known, rtol=1e-4, atol=1e-6)  # of two layers the user has one


def vector_model(graph, **settings):
    model = MF(graph, MFConfig(dim=8, **settings))
    model.init_weights(0)
    return model


def test_training_keeps_an_edge_as_often_as_it_weighs():
    graph = weighted()
    edges, model = graph.interactions, vector_model(weighted())
    users, items = edges.src.astype(np.int64), edges.dst.astype(np.int64)
    times = np.zeros((N_USERS, N_ITEMS))
    for number in range(2000):
        batch = model.prepare(users, items, np.random.SeedSequence([1, number]))
        times[batch.users[batch.user_index], batch.items[batch.positive_index]] += 1
    chance = edges.weight / edges.weight.max()
    found = times[edges.src, edges.dst] / 2000
    assert np.abs(found - chance).max() < 5 * 0.5 / np.sqrt(2000)
    assert times.sum() == times[edges.src, edges.dst].sum()
    # one edge is left, however light
    light = np.array([edges.weight.argmin()])
    for number in range(20):
        assert len(model.prepare(users[light], items[light], np.random.SeedSequence(number)).user_index) == 1


@pytest.mark.parametrize("size", [1.0, 2.5])
def test_equal_weights_leave_batches_as_they_are(size):
    graph = weighted()
    edges = replace(graph.interactions, weight=np.full(len(graph.interactions), size, np.float32))
    users, items = edges.src.astype(np.int64), edges.dst.astype(np.int64)
    models = [
        vector_model(replace(graph, interactions=e))
        for e in (edges, Relation.of("chose", "user", "item", users, items))
    ]
    one, other = (m.prepare(users, items, np.random.SeedSequence(3)) for m in models)
    for name in ("users", "items", "user_index", "positive_index", "negative_index"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert len(one.user_index) == len(users)


def moved_on(config, users=160, items=120):
    """Users chose seven items of the next block a year ago, and five of their own since."""
    rng = np.random.default_rng(2)
    user, item, time = [], [], []
    for u in range(users):
        for block, n, when in (((u + 1) % BLOCKS, 7, 0), (u % BLOCKS, 5, 365)):
            of_block = np.arange(block, items, BLOCKS)
            item.append(rng.choice(of_block, n, replace=False))
            user.append(np.full(n, u))
            time.append(when * DAY + rng.integers(0, 30 * DAY, n))
    rows = Interactions(
        np.concatenate(user).astype(np.int32), np.concatenate(item).astype(np.int32), None, np.concatenate(time)
    )
    return replace(planted_graph(users, items).only(), interactions=build_interactions("user", "item", rows, config))


def now_above_then(model):
    """How often an unchosen item of the user's own block scores above an unchosen one of the block left behind."""
    scores, known = model.score(torch.arange(model.graph.n_users)).numpy(), dense(model.graph) > 0
    items, shares = np.arange(model.graph.n_items), []
    for u, (s, old) in enumerate(zip(scores, known, strict=True)):
        now, then = (s[(items % BLOCKS == block % BLOCKS) & ~old] for block in (u, u + 1))
        shares.append((now[:, None] > then).mean())
    return np.mean(shares)


DECAY = InteractionWeights(weight="decay", half_life=60)


@pytest.mark.parametrize("name", ["ease", "item-knn", "gf-cf"])
def test_decay_finds_what_users_choose_now_in_closed_form(name):
    plain, decayed = (now_above_then(MODELS[name](moved_on(config)).solve()) for config in (None, DECAY))
    assert plain < 0.5
    assert decayed > 0.9


@pytest.mark.parametrize("name", ["relational-lightgcn", "mf"])
def test_decay_finds_what_users_choose_now_by_training(name):
    found = []
    for config in (None, DECAY):
        kind = MODELS[name]
        model = kind(moved_on(config), kind.Config(dim=16))
        fit(model, TrainConfig(epochs=10, batch=256, lr=0.02, every=10, device="cpu"), lambda: 0.0, seed=0)
        found.append(now_above_then(model))
    assert found[0] < 0.5
    assert found[1] > 0.75


@pytest.mark.parametrize("name", ["mf", "path-fusion"])
def test_vectors_of_histories_are_unweighted(name):
    """With the same parameters, weights change no vector of a user: not a free one, nor one made of the history."""
    graph = weighted()
    plain = replace(graph, interactions=replace(graph.interactions, weight=np.ones_like(graph.interactions.weight)))
    found = []
    for g in (graph, plain):
        model = MODELS[name](g, MODELS[name].Config(dim=8))
        model.init_weights(1)
        found.append((*model.encode_all(), model.score(torch.arange(4))))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][2], found[1][2]) == (name == "mf")  # paths through other users are weighted
