from dataclasses import replace

import numpy as np
import pytest
import torch
from featured import featured
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.core.layers import Affine
from relrank.models.graph.hybrid import Hybrid, HybridConfig
from relrank.testing import BLOCKS, TrainedContract, planted_auc, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS = 160, 120
USERS = torch.arange(N_USERS)
BPR = {"loss": "bpr", "similarity": "dot", "temperature": 1.0, "negatives": 1, "shared": False}
TRAIN = TrainConfig(epochs=15, batch=512, lr=0.02, every=15, device="cpu")


class Contract(TrainedContract):
    kind = Hybrid
    embedding_tables = ("table",)
    fold_in = "similar"

    def graph(self):
        return featured()


class TestGate(Contract):
    config = HybridConfig(dim=16, temperature=0.3)


class TestConcat(Contract):
    config = HybridConfig(dim=16, temperature=0.3, fusion="concat")


class TestGateWithUsers(Contract):
    config = HybridConfig(dim=16, **BPR)

    def graph(self):
        return featured(users=True)


class TestConcatWithUsers(Contract):
    config = HybridConfig(dim=16, fusion="concat", **BPR)
    fold_in = "free"  # a new user has no features

    def graph(self):
        return featured(users=True)


class TestFrozenGate(Contract):
    config = HybridConfig(dim=16, temperature=0.3, embeddings="frozen")
    propagates = True
    fold_in = "equal"


class TestFrozenConcat(Contract):
    config = HybridConfig(dim=16, temperature=0.3, embeddings="frozen", fusion="concat")
    propagates = True
    fold_in = "equal"

    def graph(self):
        return featured(planted_graph().only())


def new(graph=None, **settings):
    model = Hybrid(graph or featured(), HybridConfig(**{"dim": 16} | settings))
    model.init_weights(3)
    return model


def trained(graph, **settings):
    model = new(graph, **{"temperature": 0.3} | settings)
    fit(model, TRAIN, lambda: 0.0, seed=0)
    return model


def tiny(**features):
    """Two users, three items, edges 0-0, 0-1, 1-1; item 2 has none; one feature of items and one of users."""
    graph = planted_graph(8, 8, 2, 0)
    nodes = {name: type(ids)(name, ids.keys[:n]) for (name, ids), n in zip(graph.nodes.items(), (2, 3), strict=False)}
    edges = Relation.of("chose", "user", "item", np.array([0, 0, 1]), np.array([0, 1, 1]))
    look = Feature("look", "item", np.array([True, True, True]), dense=np.array([[1.0], [-2], [1]], np.float32))
    age = Feature("age", "user", np.array([True, False]), dense=np.array([[1.0], [0]], np.float32))
    return Graph("user", "item", nodes, edges, {}, "tiny", features={"look": look, "age": age})


TINY_A = np.array(  # users 0, 1, items 0, 1, 2; 1/√(d d')
    [
        [0, 0, 2**-0.5, 0.5, 0],
        [0, 0, 0, 2**-0.5, 0],
        [2**-0.5, 0, 0, 0, 0],
        [0.5, 2**-0.5, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
)


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    model.clear_derived()
    return model


def by_hand(model, fusion):
    """Scores of the tiny graph by the formulas at the top of the module, in float64."""
    p = {n: t.detach().numpy().astype(np.float64) for n, t in model.named_parameters()}
    e = p["table"] * np.array([1, 1, 1, 1, 0])[:, None]
    z = (e + TINY_A @ e + TINY_A @ TINY_A @ e) / 3
    sides = {}
    for side, g, known in (("user", z[:2], [True, False]), ("item", z[2:], [True] * 3)):
        x = np.array([[1.0], [0]]) if side == "user" else np.array([[1.0], [-2], [1]])
        f = (
            x @ p[f"fusions.{side}.encoder.weights.0"]
            + ~np.array(known)[:, None] * (p[f"fusions.{side}.encoder.missing"])
        )
        one = np.ones((len(g), 1))
        w1, w2 = p[f"fusions.{side}.hidden.weight"], p[f"fusions.{side}.out.weight"]
        if fusion == "concat":
            hidden = np.maximum(np.hstack([g, f, one]) @ w1, 0)
            sides[side] = g + np.hstack([hidden, one]) @ w2
        else:
            gate = 1 / (1 + np.exp(-np.hstack([g, f, one]) @ p[f"fusions.{side}.gate.weight"]))
            if side == "item":
                gate[2] = 0
            hidden = np.maximum(np.hstack([f, one]) @ w1, 0)
            sides[side] = gate * g + (1 - gate) * (np.hstack([hidden, one]) @ w2)
    return sides["user"] @ sides["item"].T, z


@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_scores_by_the_formula(fusion):
    model = randomised(new(tiny(), dim=3, layers=2, fusion=fusion, **BPR))
    expected, _ = by_hand(model, fusion)
    np.testing.assert_allclose(model.score(torch.arange(2)).numpy(), expected, rtol=1e-5, atol=1e-5)
    # what training scores is what is ranked
    edges = np.array([0, 1]), np.array([0, 1])
    model.config = replace(model.config, graph_dropout=0.0)
    batch = model.prepare(*edges, np.random.SeedSequence(0))
    users, items = model.encode(batch)
    at = expected[batch.users.numpy()][:, batch.items.numpy()]
    np.testing.assert_allclose((users @ items.T).detach().numpy(), at, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("start", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("embeddings", ["live", "frozen"])
def test_pitfall_stated_start_of_the_gate_is_its_value(start, embeddings):
    model = new(featured(users=True), gate_start=start, embeddings=embeddings)
    assert model.gate_means == {"user": pytest.approx(start, rel=1e-5), "item": pytest.approx(start, rel=1e-5)}
    fusion = model.fusions["item"]
    g = model.propagate()[N_USERS : N_USERS + N_ITEMS]
    gates = fusion.gates(g, fusion.encoder(torch.arange(N_ITEMS)))
    torch.testing.assert_close(gates, torch.full_like(gates, start))
    f = fusion.encoder(torch.arange(N_ITEMS))
    features = fusion.out(functional.relu(fusion.hidden(f)))
    torch.testing.assert_close(fusion(g, f), start * g + (1 - start) * features)
    assert new(fusion="concat").gate_means == {}


def test_concat_starts_near_the_graphs_vectors():
    model = new(fusion="concat")
    fused, g = model.encode_all()[1], model.propagate()[N_USERS : N_USERS + N_ITEMS]
    assert functional.cosine_similarity(fused, g).mean() > 0.9
    assert not torch.equal(fused, g)


@pytest.mark.parametrize("embeddings", ["live", "frozen"])
@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_gradient_reaches_gate_and_both_sides_and_is_that_of_finite_differences(fusion, embeddings):
    settings = {"fusion": fusion, "embeddings": embeddings, "graph_dropout": 0.3, "l2": 0.0}
    model = randomised(new(featured(users=True), dim=4, **BPR | settings)).double()
    edges = model.graph.interactions
    some = (rows[::7].astype(np.int64) for rows in (edges.src, edges.dst))
    batch = model.prepare(*some, np.random.SeedSequence(1))
    model.loss(batch).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    parts = ["encoder.weights.0", "encoder.missing", "hidden.weight", "out.weight"] + ["gate.weight"] * (
        fusion == "gate"
    )
    expected = {f"fusions.{side}.{part}" for side in ("user", "item") for part in parts}
    expected |= {"fusions.item.encoder.weights.1", "raw_weights"} | ({"table"} if embeddings == "live" else set())
    assert set(found) == expected
    rng = np.random.default_rng(0)
    for name, gradient in found.items():
        assert gradient.any(), name
        p, step = model.get_parameter(name), torch.from_numpy(rng.standard_normal(gradient.shape))
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                p += sign * 1e-6 * step
                values.append(float(model.loss(batch)))
                p -= sign * 1e-6 * step
        slope, by_hand_ = float((gradient * step).sum()), (values[0] - values[1]) / 2e-6
        assert slope == pytest.approx(by_hand_, rel=1e-4, abs=1e-7), name


def test_pitfall_frozen_table_is_solved_and_does_not_move():
    graph = featured(planted_graph().only())
    model = new(graph, embeddings="frozen", gate_start=1 - 1e-6, dim=8, layers=0)
    start = model.table.clone()
    assert planted_auc(model) > 0.9  # before any training: an encoder at a random start would be at .5
    x = np.zeros((N_USERS, N_ITEMS))
    x[graph.interactions.src, graph.interactions.dst] = 1
    a = x / np.sqrt(np.outer(x.sum(1), x.sum(0).clip(1)))
    u, s, vt = np.linalg.svd(a)
    c2 = 0.1**2 * N_ITEMS
    products = (start[:N_USERS] @ start[N_USERS:].T).numpy()
    np.testing.assert_allclose(products, c2 * (u[:, :8] * s[:8]) @ vt[:8], atol=2e-3 * c2 * s[0])
    fit(model, TrainConfig(epochs=2, batch=512, lr=0.1, every=2, device="cpu"), lambda: 0.0, seed=3)
    assert torch.equal(model.table, start)
    assert not torch.equal(model.fusions["item"].out.weight, new(graph, dim=8).fusions["item"].out.weight)


def cold(graph, items):
    """Without the interactions of these items."""
    return replace(graph, interactions=graph.interactions.where(~np.isin(graph.interactions.dst, items)))


COLD = np.arange(0, 24)


def cold_auc(model, items=COLD):
    """How often a user scores a cold item of their block above a cold one of another."""
    scores = model.score(USERS).numpy()[:, items]
    own = (np.arange(N_USERS)[:, None] - items) % BLOCKS == 0
    wins = [(s[o][:, None] > s[~o]).mean() for s, o in zip(scores, own, strict=True)]
    return np.mean(wins)


@pytest.mark.parametrize("embeddings", ["live", "frozen"])
@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_items_without_training_edges_rank_by_their_features(fusion, embeddings):
    settings = {"fusion": fusion, "embeddings": embeddings, "graph_dropout": 0.4}
    graph = cold(featured(planted_graph().only()), COLD)
    model = trained(graph, **settings)
    assert cold_auc(model) > 0.75
    assert cold_auc(model) > cold_auc(trained(graph, **settings | {"graph_dropout": 0.0}))
    shuffled = {n: f for n, f in featured().features.items() if n != "words"}
    look = shuffled["look"]
    order = np.random.default_rng(5).permutation(N_ITEMS)
    noise = replace(look, dense=look.dense[order], known=look.known[order])
    assert cold_auc(trained(replace(graph, features={"look": noise}), **settings)) < 0.65
    # the graph part is zero, and what the gate has learned of others does not weaken the features
    g = model.propagate()[N_USERS + COLD]
    assert not g.any()
    if fusion == "gate":
        fusion_, rows = model.fusions["item"], torch.from_numpy(COLD)
        f = fusion_.encoder(rows)
        assert torch.equal(fusion_(g, f), fusion_.out(functional.relu(fusion_.hidden(f))))


def test_relations_give_a_cold_item_a_graph_part_and_its_untrained_vector_none():
    graph = cold(featured(), COLD)
    model = new(graph)
    g = model.propagate()[N_USERS + COLD]
    assert g.any(1).all()
    with torch.no_grad():
        model.table[N_USERS + COLD] += 1
    model.clear_derived()
    assert torch.equal(model.propagate()[N_USERS + COLD], g)


@pytest.mark.parametrize("fusion", ["concat", "gate"])
def test_new_user_is_fused_with_missing_features(fusion):
    """By hand, from what the layers gather: items' layers 0 … L−1 over √(d_u d_i), of L + 1."""
    model = randomised(new(tiny(), dim=3, layers=2, fusion=fusion, **BPR))
    e = model.table.detach().numpy().astype(np.float64) * np.array([1, 1, 1, 1, 0])[:, None]
    items = (e + TINY_A @ e)[2:]
    g = (items[0] / np.sqrt(2 * 1) + items[1] / np.sqrt(2 * 2)) / 3
    users = model.fusions["user"]
    rows = torch.tensor(np.stack([g, np.zeros(3)])).float()
    missing = users.encoder.missing.sum(0).expand(2, -1)
    expected = users(rows, missing) @ model.encode_all()[1].T
    found = model.fold_in([torch.tensor([1, 0]), torch.tensor([], dtype=torch.int64)])
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


def test_same_gradient_bits_on_any_number_of_threads():
    layer = Affine(7, 5)
    layer.reset(torch.Generator().manual_seed(0), 1.0)
    x = torch.randn(3000, 7, generator=torch.Generator().manual_seed(1))
    threads, seen = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            layer.zero_grad()
            layer(x[:, :3], x[:, 3:]).square().sum().backward()
            seen.append(layer.weight.grad.clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    expected = functional.linear(x, layer.weight[:-1].T, layer.weight[-1])
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fusion": "sum"}, "unknown fusion"),
        ({"embeddings": "random"}, "unknown embeddings"),
        ({"gate_start": 1.0}, "out of range"),
        ({"gate_start": 0.0}, "out of range"),
        ({"graph_dropout": 1.0}, "out of range"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        new(**settings)


def test_graph_without_features_is_refused():
    tags = replace(
        featured().features["look"],
        name="t",
        node="tag",
        known=np.ones(12, bool),
        dense=np.eye(12, 3, dtype=np.float32),
    )
    for graph in (planted_graph(), replace(planted_graph(), features={"t": tags})):
        with pytest.raises(InputError, match="no features of users or items"):
            Hybrid(graph)
