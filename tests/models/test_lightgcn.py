import numpy as np
import pytest
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.core.base import history_rows
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig, steps_by_size
from relrank.models.graph.xsimgcl import XSimGCL
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS, N_TAGS = 160, 120, 12
COSINES = {"loss": "softmax", "similarity": "cosine", "temperature": 0.3}
LEARNED = {"weight": 0.3, "learn_weights": True}
USERS = torch.arange(N_USERS)
BPR = {"loss": "bpr", "negatives": 1, "shared": False, "l2": 1e-4, "ridge": 0.0}
SOFTMAX = {"similarity": "cosine", "temperature": 0.1, "ridge": 0.0}
LOSSES = pytest.mark.parametrize("loss", [BPR, SOFTMAX], ids=["bpr", "softmax"])


class TestSoftmax(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, similarity="cosine", temperature=0.3, ridge=0.0, **LEARNED)
    embedding_tables = ("table",)
    fold_in = "similar"


class TestDefaults(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16)
    embedding_tables = ("table",)
    fold_in = "similar"


class TestBPR(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, **BPR)
    embedding_tables = ("table",)
    fold_in = "similar"


class TestInteractionsAlone(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, **BPR)
    embedding_tables = ("table",)
    fold_in = "similar"

    def graph(self):
        return planted_graph().only()


def new(graph=None, **settings):
    model = RelationalLightGCN(graph or planted_graph(), RelationalLightGCNConfig(**{"dim": 16} | settings))
    model.init_weights(3)
    return model


def prepared(model, users, items, seed):
    return model.prepare(np.asarray(users), np.asarray(items), np.random.SeedSequence(seed))


def edge_keys(graph):
    return torch.from_numpy(graph.interactions.src.astype(np.int64) * N_ITEMS + graph.interactions.dst)


def dense_block(relation, first):
    """One relation as a symmetric matrix over all nodes, normalised by its own weighted degrees."""
    a = np.zeros((N_USERS + N_ITEMS + N_TAGS,) * 2)
    src, dst = relation.src + first[relation.source], relation.dst + first[relation.target]
    a[src, dst] = a[dst, src] = relation.weight
    degree = a.sum(1)
    degree[degree == 0] = 1
    return a / np.sqrt(np.outer(degree, degree))


def by_the_formula(model, layers):
    """Mean of the powers of Σ α Â applied to the table, in float64."""
    first = {"user": 0, "item": N_USERS, "tag": N_USERS + N_ITEMS}
    graph = model.graph
    n = model.table.shape[0]
    a = dense_block(graph.interactions, first)
    for name, weight in model.relation_weights.items():
        a += weight * dense_block(graph.relations[name], first)
    table = model.table.detach().numpy().astype(np.float64)
    return sum(np.linalg.matrix_power(a[:n, :n], layer) @ table for layer in range(layers + 1)) / (layers + 1)


@pytest.mark.parametrize("relations", [(), ("has_tag", "similar")])
@LOSSES
def test_scores_come_from_propagated_vectors_by_the_formula(relations, loss):
    """Not from the raw table, and without a final ReLU: half of untrained scores are negative."""
    model = new(planted_graph().only(*relations), layers=3, weights={"has_tag": 0.7, "similar": 0.2}, **loss)
    z = by_the_formula(model, 3)
    if loss is SOFTMAX:
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    expected = z[:N_USERS] @ z[N_USERS : N_USERS + N_ITEMS].T
    scores = model.score(USERS).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert 0.2 < (scores < 0).mean() < 0.8
    raw = model.table.detach().numpy()
    assert np.corrcoef(scores.ravel(), (raw[:N_USERS] @ raw[N_USERS : N_USERS + N_ITEMS].T).ravel())[0, 1] < 0.9


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_without_relations_it_is_pygs_lightgcn(layers):
    """The same table through an independent library; its default weight of every layer is 1 / (L + 1)."""
    from torch_geometric.nn import LightGCN

    model = new(planted_graph().only(), layers=layers, **BPR)
    theirs = LightGCN(N_USERS + N_ITEMS, 16, layers)
    with torch.no_grad():
        theirs.embedding.weight.copy_(model.table)
    edges = np.stack([model.graph.interactions.src, model.graph.interactions.dst + N_USERS]).astype(np.int64)
    both = torch.from_numpy(np.concatenate([edges, edges[::-1]], 1))
    torch.testing.assert_close(model.propagate(), theirs.get_embedding(both), atol=1e-6, rtol=1e-4)


def test_what_the_layers_would_gather():
    """Σ_i 1/√(d_u d_i) · mean of the items' layers 0 … L−1."""
    model = new(layers=2)
    history = [3, 50, 77]
    gathered = by_the_formula(model, 1)
    degree = np.bincount(model.graph.interactions.dst, minlength=N_ITEMS)
    user = sum(gathered[N_USERS + i] / np.sqrt(3 * degree[i]) for i in history)
    rows = history_rows([torch.tensor(history)], N_ITEMS)
    np.testing.assert_allclose(model.gather(rows)[0].detach().numpy(), user, atol=1e-6)


@LOSSES
def test_a_history_becomes_a_vector_as_long_as_those_of_trained_users(loss):
    model = new(layers=2, **loss)
    scores, vectors = model.score(USERS), model.encode_histories(history_rows([torch.tensor([3, 50])], N_ITEMS))
    users = by_the_formula(model, 2)[:N_USERS]
    length = 1.0 if loss is SOFTMAX else np.linalg.norm(users, axis=1).mean()
    assert float(vectors.norm()) == pytest.approx(length, rel=1e-4)
    assert torch.allclose(model.fold_in([torch.tensor([50, 3])])[0], vectors[0] @ model._items.T, atol=1e-5)
    assert float(scores.std()) == pytest.approx(float(model.fold_in([torch.tensor([50, 3])]).std()), rel=0.9)


def test_bpr_loss_by_hand():
    """Negatives are read back from the seed; the penalty is on the unpropagated vectors of the batch."""
    model = new(**BPR | {"l2": 0.1})
    batch = prepared(model, [0, 5, 9], [4, 1, 13], 8)
    users, items = torch.tensor([0, 5, 9]), torch.tensor([4, 1, 13])
    drawn = batch.items[batch.negative_index[:, 0]]
    assert not torch.isin(drawn + users * N_ITEMS, edge_keys(model.graph)).any()
    z, table = model.propagate(), model.table
    u, p, n = z[users], z[items + N_USERS], z[drawn + N_USERS]
    expected = -functional.logsigmoid((u * p).sum(1) - (u * n).sum(1)).mean()
    rows = torch.cat([users, items + N_USERS, drawn + N_USERS])
    expected = expected + 0.1 / 2 * table[rows].square().sum() / 3
    assert model.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_ridge_is_in_interactions_and_the_budget_follows_the_data():
    """λ over the geometric mean of the mean degrees; twice the interactions of everybody, half the penalty."""
    graph = planted_graph()
    edges = graph.interactions
    degree = len(edges) / np.sqrt(np.unique(edges.src).size * np.unique(edges.dst).size)
    assert new(graph, ridge=2.0, l2=0.25).penalty == pytest.approx(0.25 + 2 / degree)
    assert new(graph).penalty == pytest.approx(0.65 / degree)
    assert steps_by_size(74_295) == {"batch": 2048, "epochs": 40}
    assert steps_by_size(810_128) == {"batch": 8192, "epochs": 40}
    assert steps_by_size(4_096_000) == {"batch": 8192, "epochs": 8}
    assert steps_by_size(1_638_400) == {"batch": 8192, "epochs": 20}
    assert steps_by_size(0) == {"batch": 256, "epochs": 40}
    assert RelationalLightGCN.training_defaults(graph) == steps_by_size(len(edges)) | {"lr": 0.02, "decay": "linear"}
    assert XSimGCL.training_defaults(graph) == {}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.1}, {"ridge": 0.0}])
def test_cosines_are_refused_with_the_settings_of_dot_products(settings):
    """A temperature of 1 makes a ranking by popularity of them."""
    with pytest.raises(InputError, match=r"temperature = 0\.1 and ridge = 0"):
        new(similarity="cosine", **settings)
    assert new(similarity="cosine", temperature=0.1, ridge=0.0).penalty == 0


def test_a_search_reaches_the_defaults():
    """Dot products have a ridge and no temperature; cosines, as of XSimGCL, have a temperature."""
    graph, default = planted_graph(), RelationalLightGCNConfig()
    space = {dimension.name: dimension for dimension in RelationalLightGCN.space(graph)}
    assert space.keys() & {"similarity", "temperature", "l2"} == set()
    assert space["ridge"].low < default.ridge < space["ridge"].high
    assert {"similarity", "temperature"} <= {dimension.name for dimension in XSimGCL.space(graph)}


def test_softmax_loss_masks_the_users_own_items():
    """With every item drawn, the loss is a softmax over the positive and all items the user does not have."""
    model = new(**SOFTMAX | {"temperature": 0.2})
    users, items = torch.tensor([0, 5]), torch.tensor([4, 1])
    z = functional.normalize(model.propagate(), dim=1)
    costs = []
    for u, p in zip(users, items, strict=True):
        logits = z[N_USERS : N_USERS + N_ITEMS] @ z[u] / 0.2
        own = model.graph.interactions.dst[model.graph.interactions.src == int(u)]
        free = np.setdiff1d(np.arange(N_ITEMS), own)
        costs.append(torch.logsumexp(torch.cat([logits[p][None], logits[free]]), 0) - logits[p])
    loss = model.loss(prepared(model, users, items, 0))
    assert loss.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-5)


@LOSSES
def test_negatives_are_items_not_nodes_of_any_type(loss):
    """Without propagation only the batch's users and items have a gradient, and no tag has."""
    model = new(layers=0, **loss)
    model.loss(prepared(model, [7, 7], [3, 11], 1)).backward()
    touched = model.table.grad.abs().sum(1) > 0
    assert touched[:N_USERS].nonzero().tolist() == [[7]]
    assert touched[N_USERS + 3]
    assert not touched[N_USERS + N_ITEMS :].any()


def test_no_two_regularisers_on_one_table():
    """Adam applies no weight decay other than ``l2``: vectors without a gradient keep their bits."""
    model = new(layers=0, **BPR | {"l2": 0.0})
    fit(model, TrainConfig(epochs=2, batch=512, device="cpu"), lambda: 1.0, seed=3)
    fresh = new(layers=0, **BPR)
    assert torch.equal(model.table[N_USERS + N_ITEMS :], fresh.table[N_USERS + N_ITEMS :])
    assert not torch.equal(model.table[:N_USERS], fresh.table[:N_USERS])


def trained(graph, epochs=12, **settings):
    model = new(graph, **(BPR | settings))
    fit(model, TrainConfig(epochs=epochs, batch=512, lr=0.02, every=epochs, device="cpu"), lambda: 1.0, seed=0)
    return model


def test_a_helpful_relation_keeps_more_weight_than_its_rewired_self():
    """On cosines. Under BPR a weight also scales the vectors, so it does not tell how much a relation helps."""
    graph = planted_graph().only("has_tag")
    helpful, rewired = (
        trained(g, 40, **COSINES, negatives=1024, shared=True, l2=0.0, **LEARNED).relation_weights["has_tag"]
        for g in (graph, graph.rewired("has_tag", seed=1))
    )
    assert helpful > rewired + 0.05
    assert abs(helpful - 0.3) > 0.01


def test_a_relation_of_weight_0_stays_out_for_good():
    weights = trained(planted_graph(), weights={"similar": 0.0}, **LEARNED).relation_weights
    assert weights["similar"] == 0.0
    assert weights["has_tag"] != pytest.approx(0.3, abs=1e-3)
    # the scores are those of a graph that never had it
    model = new(planted_graph(), weights={"similar": 0.0})
    without = new(planted_graph().without("similar"))
    assert torch.equal(model.score(USERS), without.score(USERS))


def test_weights_do_not_move_unless_they_are_learned():
    fixed = trained(planted_graph(), weights={"has_tag": 0.9}).relation_weights
    assert fixed == pytest.approx({"has_tag": 0.9, "similar": 0.1})
    learned = trained(planted_graph(), weights={"has_tag": 0.9}, learn_weights=True).relation_weights
    assert abs(learned["has_tag"] - 0.9) > 1e-3


def test_the_search_starts_without_relations_and_moves_all_weights_together_first():
    parameters = RelationalLightGCN.grid_parameters(planted_graph())
    weights = [p for p in parameters if p.name.startswith("weights.")]
    assert [p.name for p in weights] == ["weights.has_tag", "weights.similar"]
    assert {(p.start, p.grid_values[1], p.group, p.coarse_steps) for p in weights} == {(0.0, 0.1, "weights", False)}


@pytest.mark.parametrize("weight", [1e-4, 0.3, 5.0, 300.0])
def test_the_stated_starting_weight_is_the_weight(weight):
    """Not a number that is passed through softplus or a sigmoid again."""
    assert new(weights={"has_tag": weight}).relation_weights["has_tag"] == pytest.approx(weight, rel=1e-4)


def test_initialising_again_forgets_everything():
    model = trained(planted_graph())
    assert model.relation_weights["has_tag"] != pytest.approx(0.3, abs=1e-3)
    model.init_weights(3)
    fresh = new(**BPR)
    assert model.relation_weights == fresh.relation_weights
    assert torch.equal(model.score(USERS), fresh.score(USERS))
    assert torch.equal(model.fold_in([torch.tensor([3])]), fresh.fold_in([torch.tensor([3])]))


def test_refresh_follows_the_parameters():
    model = new()
    history = [torch.tensor([3, 8])]
    before = model.score(USERS), model.fold_in(history)
    with torch.no_grad():
        model.table += torch.randn(model.table.shape, generator=torch.Generator().manual_seed(9))
    model.refresh()
    fresh = new()
    fresh.load_state(model.state())
    for now, expected, old in zip(
        (model.score(USERS), model.fold_in(history)),
        (fresh.score(USERS), fresh.fold_in(history)),
        before,
        strict=True,
    ):
        assert torch.equal(now, expected)
        assert not torch.allclose(now, old)


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="unknown loss"):
        new(loss="hinge")
    with pytest.raises(InputError, match=r"out of range[\s\S]*weights\.has_tag"):
        new(weights={"has_tag": -0.1})


def test_no_endless_search_for_negatives_of_a_user_who_has_everything():
    graph = planted_graph()
    rest = np.setdiff1d(np.arange(N_ITEMS), graph.interactions.dst[graph.interactions.src == 0])
    src = np.concatenate([graph.interactions.src, np.zeros(rest.size, np.int32)])
    dst = np.concatenate([graph.interactions.dst, rest])
    full = Graph("user", "item", graph.nodes, Relation.of("chose", "user", "item", src, dst), {}, "f")
    with pytest.raises(InputError, match=r"every item[\s\S]*user row 0"):
        new(full)


@LOSSES
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_a_step_on_the_rows_of_a_batch_is_the_step_on_all_rows(loss, l2):
    """Loss and gradients of table and weights against the layers' mean of all nodes, of which rows are then taken."""
    model = new(**(loss | {"l2": l2}))
    batch = prepared(model, [0, 5, 5, 9], [1, 2, 3, 4], 0)
    model.raw_weights.requires_grad_()
    found = []
    for whole in (False, True):
        model.zero_grad()
        if whole:
            rows = batch.users, batch.items + N_USERS
            z = model.propagate()
            model.encode = lambda _, z=z, rows=rows: tuple(z.index_select(0, r) for r in rows)
        value = model.loss(batch)
        value.backward()
        found.append([value.detach(), model.table.grad.clone(), model.raw_weights.grad.clone()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert found[0][1].any()
