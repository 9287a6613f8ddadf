"""iALS against its loss written out densely in float64, and what relations are for."""

from dataclasses import replace

import numba
import numpy as np
import pytest
import torch
from dense_truth import SIZES, random_graph

from relrank.errors import InputError
from relrank.evaluation.ranking import top_k
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form import ials
from relrank.models.closed_form.ials import IALS, IALSConfig
from relrank.testing import BLOCKS, ModelContract, planted_graph, renumbered

USERS = torch.arange(SIZES["user"])
ALL = {"has_tag": 2.0, "tagged": 0.7, "similar": 1.3, "lives_in": 3.0, "shelved": 0.4, "friends": 1.5}
OF_ITEMS = {name: ALL[name] for name in ("has_tag", "tagged", "similar")}


class TestIALS(ModelContract):
    kind = IALS
    config = IALSConfig(dim=8, unobserved=10.0)
    equivariant = False  # starting vectors are drawn by row: see below


class TestRelations(ModelContract):
    kind = IALS
    config = IALSConfig(dim=8, unobserved=10.0, weight=3.0)
    equivariant = False


class TestUserRelations(ModelContract):
    """A known user's relations count, and those of a history are unknown."""

    kind = IALS
    config = IALSConfig(dim=8, unobserved=10.0, weight=3.0)
    equivariant = False
    fold_in = "similar"

    def graph(self):
        graph = planted_graph()
        users = np.arange(0, graph.n_users, 2)  # not all
        club = Relation.of("joined", "user", "tag", users, users % 12)
        return replace(graph, relations={**graph.relations, "joined": club})


@pytest.fixture
def graph():
    return random_graph(
        3,
        ("has_tag", "item", "tag", 40),
        ("tagged", "tag", "item", 20),
        ("similar", "item", "item", 30),
        ("shelved", "user", "item", 50),
        ("lives_in", "user", "city", 25),
        ("friends", "user", "user", 30),
        ("near", "land", "land", 5),
    )


def weighted(graph):
    weight = np.random.default_rng(1).uniform(0.2, 3, len(graph.interactions)).astype(np.float32)
    return replace(graph, interactions=replace(graph.interactions, weight=weight))


def dense(relation, end):
    """Nodes of a type by targets; within one type with the linked nodes themselves, as heavy as the heaviest edge."""
    a = np.zeros((SIZES[relation.source], SIZES[relation.target]))
    a[relation.src, relation.dst] = relation.weight
    if relation.source == relation.target:
        a = a + a.T
        return a + np.diag(np.where(a.any(1), a.max(), 0))
    return a if relation.source == end else a.T


class Naive:
    """The loss of the module, minimised over one kind of vectors after the other by dense normal equations."""

    def __init__(self, graph, config):
        self.config = config
        self.x = np.zeros((graph.n_users, graph.n_items))
        self.x[graph.interactions.src, graph.interactions.dst] = graph.interactions.weight
        self.alpha0 = config.unobserved * self.x.sum() / self.x.size
        links = {"user": [np.zeros((graph.n_users, 0))], "item": [np.zeros((graph.n_items, 0))]}
        for name, weight in config.weights.items():
            relation = graph.relations[name]
            ends = (relation.source, relation.target)
            end = "item" if "item" in ends and ends != ("user", "item") else "user"
            a = dense(relation, end)
            length = np.linalg.norm(a, axis=1, keepdims=True)
            links[end].append(np.sqrt(weight) * a / np.where(length > 0, length, 1))
        self.links = {end: np.concatenate(parts, 1) for end, parts in links.items()}
        self.prior = {end: np.zeros((len(a), config.dim)) for end, a in self.links.items()}

    def penalties(self, x):
        n = (x.sum(1) + self.alpha0 * x.shape[1]) / (1 + self.config.unobserved)
        return self.config.l2 * n**self.config.exponent

    def nodes(self, end, x, other):
        """All vectors of users or items."""
        out = []
        for row, penalty, mean in zip(x, self.penalties(x), self.prior[end], strict=True):
            a = penalty * np.eye(self.config.dim)
            b = penalty * mean
            for c, v in zip(row, other, strict=True):
                a += (c + self.alpha0) * np.outer(v, v)
                b += c * v
            out.append(np.linalg.solve(a, b))
        return np.array(out)

    def expect(self, end, x, vectors):
        a, n = self.links[end], np.diag(self.penalties(x))
        z = np.linalg.solve(a.T @ n @ a + self.penalties(x).mean() * np.eye(a.shape[1]), a.T @ n @ vectors)
        self.prior[end] = a @ z

    def solve(self, q):
        q = q.astype(np.float64)
        for _ in range(self.config.iterations):
            p = self.nodes("user", self.x, q)
            q = self.nodes("item", self.x.T, p)
            self.expect("user", self.x, p)
            self.expect("item", self.x.T, q)
        self.q = q
        return self

    def scores(self):
        return self.nodes("user", self.x, self.q) @ self.q.T


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("weights", [{}, OF_ITEMS, ALL, {"friends": 2.0}], ids=["none", "items", "all", "friends"])
@pytest.mark.parametrize("sweeps", [1, 3])
def test_sweeps_equal_dense_normal_equations(graph, sweeps, weights, exponent, monkeypatch):
    monkeypatch.setattr(ials, "STEPS", 60)  # until they have arrived
    config = IALSConfig(
        dim=5, unobserved=4.0, l2=0.2, exponent=exponent, iterations=sweeps, init_scale=1.0, weights=weights
    )
    for of in (graph, weighted(graph)):
        model = IALS(of, config)
        naive = Naive(of, config).solve(model.start())
        found = model.solve().score(USERS).numpy()
        np.testing.assert_allclose(found, naive.scores(), atol=3e-5)
        gram = model.items.double().T @ model.items.double()
        np.testing.assert_allclose(gram, naive.alpha0**-1 * np.diag(model.spectrum), atol=1e-4 * float(gram.max()))


def test_relations_leave_out_whom_they_do_not_reach(graph):
    """Some items have no tag and some users no city in the graph of the oracle."""
    for name, end in (("has_tag", "item"), ("similar", "item"), ("lives_in", "user"), ("friends", "user")):
        assert 0 < dense(graph.relations[name], end).any(1).mean() < 1, name


def test_a_history_is_scored_as_the_user_it_is_from(graph):
    config = IALSConfig(dim=5, unobserved=4.0, weights=OF_ITEMS)
    model = IALS(graph, config).solve()
    assert model.from_history
    histories = [
        torch.from_numpy(graph.interactions.dst[graph.interactions.src == u].astype(np.int64)) for u in USERS
    ]
    assert torch.equal(model.fold_in(histories), model.score(USERS))
    # the vector is the minimum of the user's part of the loss: nothing close to it is lower
    q, u = model.items.double().numpy(), 4
    p, x = model.user_vectors(torch.tensor([u]))[0].double().numpy(), Naive(graph, config).x[u]
    n = (x.sum() + model.alpha0 * x.size) / (1 + config.unobserved)

    def loss(p):
        return (x * (q @ p - 1) ** 2).sum() + model.alpha0 * ((q @ p) ** 2).sum() + config.l2 * n * (p @ p)

    rng = np.random.default_rng(0)
    assert all(loss(p) < loss(p + 0.01 * rng.standard_normal(p.size)) for _ in range(50))


def test_of_a_new_user_the_history_alone_is_known(graph):
    config = IALSConfig(dim=5, unobserved=4.0, weights={"lives_in": 3.0})
    model = IALS(graph, config).solve()
    assert not model.from_history
    histories = [
        torch.from_numpy(graph.interactions.dst[graph.interactions.src == u].astype(np.int64)) for u in USERS
    ]
    equal = (model.fold_in(histories) - model.score(USERS)).abs().amax(1) < 1e-5
    settled = np.isin(USERS, graph.relations["lives_in"].src)
    assert equal.numpy().tolist() == (~settled).tolist()


def test_a_confidence_of_2_is_not_a_factor_but_a_weight(graph):
    """Doubling all interactions leaves α₀'s ratio and the penalty per interaction: the same model."""
    edges = graph.interactions
    double = replace(graph, interactions=replace(edges, weight=2 * edges.weight))
    config = IALSConfig(dim=5, unobserved=4.0)
    one, other, uneven = (IALS(g, config).solve().score(USERS) for g in (graph, double, weighted(graph)))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not torch.allclose(one, uneven, atol=1e-2)


def test_weight_0_is_leaving_the_relation_out(graph):
    whole = IALSConfig(dim=5, unobserved=4.0, weights=ALL)
    scores = IALS(graph, whole).solve().score(USERS)
    for name in graph.relations:
        zero = IALS(graph, replace(whole, weights={**ALL, name: 0.0})).solve().score(USERS)
        out = IALS(graph.without(name), whole).solve().score(USERS)
        assert torch.equal(zero, out)
        assert torch.equal(out, scores) == (name == "near"), name
    none = IALS(graph, IALSConfig(dim=5, unobserved=4.0)).solve().score(USERS)
    assert torch.equal(none, IALS(graph.only(), IALSConfig(dim=5, unobserved=4.0)).solve().score(USERS))


def test_what_can_be_tuned_and_what_is_read(graph):
    grid_parameters = {k.name: k for k in IALS.grid_parameters(graph)}
    assert list(grid_parameters) == [
        *(f"weights.{name}" for name in sorted(ALL)),
        "l2",
        "unobserved",
        "dim",
        "exponent",
    ]
    assert all(grid_parameters[f"weights.{name}"].start == 0 for name in ALL)
    assert all(
        k.start in k.grid_values and list(k.grid_values) == sorted(set(k.grid_values))
        for k in grid_parameters.values()
    )
    config = IALSConfig()
    assert all(
        k.start == getattr(config, k.name) for k in IALS.grid_parameters(planted_graph(600, 600)) if "." not in k.name
    )
    assert set(IALS.used_relations(graph, config)) == set(ALL)


def test_an_order_of_rows_that_starts_alike_ends_alike():
    """The order of rows matters only for the initial vectors."""
    graph = planted_graph()
    config = IALSConfig(dim=8, unobserved=10.0, iterations=4, weight=1.0)
    other, moved = renumbered(graph)
    model, again = IALS(graph, config), IALS(other, config)
    start = model.start()
    again.start = lambda: start[np.argsort(moved["item"])]  # type: ignore[method-assign]
    scores = model.solve().score(torch.arange(graph.n_users))
    found = again.solve().score(torch.from_numpy(moved["user"]))[:, torch.from_numpy(moved["item"])]
    torch.testing.assert_close(found, scores, atol=1e-4, rtol=0)


def test_seeds_and_threads():
    graph, threads = planted_graph(), numba.get_num_threads()
    config, everyone = IALSConfig(dim=8, weight=1.0, iterations=2), torch.arange(160)
    found = []
    try:
        for n in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(n)
            found.append(IALS(graph, config).solve().state())
    finally:
        numba.set_num_threads(threads)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    seeds = [IALS(graph, replace(config, seed=s)).solve().score(everyone) for s in (0, 1)]
    assert not torch.equal(*seeds)


@pytest.mark.parametrize("name", ["has_tag", "similar"])
def test_a_relation_reaches_items_that_nobody_chose(name):
    graph = planted_graph()
    part = graph.interactions.where(graph.interactions.dst != 5)
    cold = Graph("user", "item", graph.nodes, part, graph.relations, "f")
    config = IALSConfig(dim=8, unobserved=10.0, weights={name: 3.0})
    scores = IALS(cold, config).solve().score(torch.arange(160))[:, 5].reshape(-1, BLOCKS)
    own, others = scores[:, 1], scores[:, [0, 2, 3]].flatten()  # users 1, 5, 9 … are the item's
    assert (own[:, None] > others).float().mean() > 0.95
    without = IALS(cold.only(), config).solve()
    assert not without.items[5].any()
    assert not without.fold_in([torch.tensor([5])]).any()


def test_relations_tell_of_users_who_chose_nothing():
    graph = planted_graph()
    users = np.arange(graph.n_users)
    joined = Relation.of("joined", "user", "tag", users, users % BLOCKS)
    kept = graph.interactions.where(users[graph.interactions.src] >= 8)
    graph = Graph("user", "item", graph.nodes, kept, {"joined": joined}, "f")
    model = IALS(graph, IALSConfig(dim=8, unobserved=10.0, weights={"joined": 3.0})).solve()
    scores = model.score(torch.arange(8)).reshape(8, -1, BLOCKS).mean(1)
    assert scores.argmax(1).tolist() == [u % BLOCKS for u in range(8)]
    assert not IALS(graph.only(), model.config).solve().score(torch.arange(8)).any()


def test_lists_are_made_of_the_vectors(graph):
    """Ranked by products of vectors, users get the lists that their scores give."""
    model = IALS(planted_graph(), IALSConfig(dim=8)).solve()
    assert model.is_dot_product
    everyone = np.arange(160)
    found = top_k(model, everyone, model.history, 5)
    scores = model.score(torch.from_numpy(everyone))
    scores[torch.from_numpy(model.history.rows()).long(), torch.from_numpy(model.history.indices).long()] = -torch.inf
    torch.testing.assert_close(torch.from_numpy(found.scores), scores.topk(5).values, atol=1e-5, rtol=0)


def test_conjugate_gradients_arrive_at_the_regression():
    """From sweep to sweep, and with few steps in each."""
    graph = planted_graph()
    model = IALS(graph, IALSConfig(dim=8, weight=2.0))
    rng = np.random.default_rng(0)
    penalty = rng.uniform(0.5, 4, 120).astype(np.float32)
    prior = ials._Prior(model._item_links, penalty, 16)
    vectors = rng.standard_normal((120, 16)).astype(np.float32)
    a = np.zeros((120, prior.links.n_cols))
    a[prior.links.rows(), prior.links.indices] = prior.links.data
    n = np.diag(penalty.astype(np.float64))
    expected = np.linalg.solve(a.T @ n @ a + penalty.mean() * np.eye(a.shape[1]), a.T @ n @ vectors)
    off = []
    for _ in range(20):
        prior.update(vectors)
        off.append(np.abs(prior.targets - expected).max())
    assert off[0] > off[2] > off[-1]
    assert off[-1] < 1e-4
    np.testing.assert_allclose(prior.mean(), a @ expected, atol=1e-3)


def test_relations_without_edges_and_graphs_without_interactions(graph):
    empty = Relation.of("has_tag", "item", "tag", np.zeros(0, np.int32), np.zeros(0, np.int32))
    config = IALSConfig(dim=5, weights={"has_tag": 1.0})
    with_empty = replace(graph, relations={"has_tag": empty})
    assert torch.equal(IALS(with_empty, config).solve().score(USERS), IALS(graph.only(), config).solve().score(USERS))
    nothing = replace(graph, interactions=graph.interactions.where(np.zeros(len(graph.interactions), bool)))
    assert not IALS(nothing.only(), config).solve().score(USERS).any()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_must_not_be_negative(graph, weight):
    with pytest.raises(InputError, match="has_tag"):
        IALS(graph, IALSConfig(weights={"has_tag": weight}))


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 0}, {"iterations": 0}, {"unobserved": 0.0}, {"l2": 0.0}, {"l2": float("nan")}, {"exponent": -1.0},
        {"init_scale": 0.0}, {"unobserved": float("inf")},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_solved_are_refused(graph, settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        IALS(graph, IALSConfig(**settings))
