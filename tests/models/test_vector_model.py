import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.relation import Relation
from relrank.graph.sampling.negatives import NegativeSampler
from relrank.models.core.vector_model import Batch, VectorConfig, VectorModel, add_noise
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.models.graph.mf import MF, MFConfig
from relrank.testing import planted_auc, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS = 160, 120
DRAWS = [("uniform", False), ("uniform", True), ("popularity", False), ("popularity", True), ("in-batch", True),
         ("mixed", True)]  # fmt: skip
MATRIX = [
    pytest.param({"loss": loss, "sampling": sampling, "shared": shared, "hardest": hardest},
                 id=f"{loss}-{sampling}-{'shared' if shared else 'own'}-{hardest or 'all'}")
    for loss in ("softmax", "bpr", "bce", "gbce") for sampling, shared in DRAWS for hardest in (0, 5)
] + [pytest.param({"loss": "full-softmax"}, id="full-softmax")]  # fmt: skip
PLAIN = {"dim": 16, "similarity": "cosine", "temperature": 0.2, "l2": 0.0, "negatives": 30, "shared": True}


def new(kind=MF, config=MFConfig, **settings):
    model = kind(planted_graph(), config(**PLAIN | settings))
    model.init_weights(3)
    return model


def some_edges(n=24, seed=0):
    edges = planted_graph().interactions
    at = np.random.default_rng(seed).permutation(len(edges))[:n]
    return edges.src[at].astype(np.int64), edges.dst[at].astype(np.int64)


def prepared(model, seed=7):
    return model.prepare(*some_edges(), np.random.SeedSequence(seed))


@pytest.mark.parametrize("settings", MATRIX)
def test_every_loss_learns_from_every_kind_of_negatives(settings):
    """Planted blocks, which untrained vectors do not reflect."""
    negatives = 30 if settings.get("shared", True) else 8
    settings = settings | {"negatives": negatives, "hardest": negatives // 2 if settings.get("hardest") else 0}
    binary = settings["loss"] in ("bce", "gbce")  # slower: a sum over negatives first pushes all scores down
    if binary:
        settings |= {"similarity": "dot", "temperature": 1.0, "calibration": 0.5}
    model = new(**settings)
    before = planted_auc(model)
    epochs = 25 if binary else 8
    fit(model, TrainConfig(epochs=epochs, batch=400, lr=0.05, every=epochs, device="cpu"), lambda: 0.0, seed=3)
    assert before < 0.6
    assert planted_auc(model) > 0.8


class Shifted(MF):
    """MF with something added to every score."""

    shift = torch.randn(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(5))

    def offsets(self, batch):
        return self.shift[batch.users]

    def score(self, users):
        return super().score(users) / self.config.temperature + self.shift[users]


def softplus(x):
    return math.log1p(math.exp(x)) if x < 30 else x


def by_definition(model, scores):
    """The loss in loops over edges, in global rows, from the scores of all users and items."""
    c, seed = model.config, np.random.SeedSequence(7).spawn(3)[0]
    users, items = some_edges()
    own = [set(model.history.take(np.array([u])).indices.tolist()) for u in range(N_USERS)]
    total = 0.0
    if c.loss != "full-softmax":
        drawn = NegativeSampler(model.history, c.sampling, c.negatives, c.shared, c.power).draw(users, items, seed)
    for b, (u, i) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        if c.loss == "full-softmax":
            free = [j for j in range(N_ITEMS) if j not in own[u]]
            total += math.log(math.exp(scores[u, i]) + sum(math.exp(scores[u, j]) for j in free)) - scores[u, i]
            continue
        places = range(len(drawn.items)) if drawn.columns is None else drawn.columns[b]
        pool = [(scores[u, drawn.items[p]], p) for p in places]
        negatives = [(s, p) for s, p in pool if drawn.items[p] not in own[u]]
        if c.hardest:
            negatives = sorted(negatives, reverse=True)[: c.hardest]
        if c.loss == "softmax":
            q = np.zeros(len(drawn.items)) if drawn.log_q is None else drawn.log_q
            total += math.log(math.exp(scores[u, i]) + sum(math.exp(s - q[p]) for s, p in negatives)) - scores[u, i]
        elif c.loss == "bpr":
            total += np.mean([softplus(s - scores[u, i]) for s, _ in negatives])
        else:
            alpha = (min(c.hardest, len(pool)) if c.hardest else len(pool)) / (N_ITEMS - 1)
            beta = 1 if c.loss == "bce" else alpha * (c.calibration * (1 - 1 / alpha) + 1 / alpha)
            total += beta * softplus(-scores[u, i]) + sum(softplus(s) for s, _ in negatives)
    return total / len(users)


@pytest.mark.parametrize("settings", MATRIX)
def test_the_loss_is_its_definition_on_the_scores(settings):
    """What a step minimises is of the numbers that ``score`` gives, offsets included; rows are never mixed up."""
    plain, shifted = (new(kind, **settings) for kind in (MF, Shifted))
    users = torch.arange(N_USERS)
    scores = plain.score(users).double().numpy() / plain.config.temperature
    assert plain.loss(prepared(plain)).item() == pytest.approx(by_definition(plain, scores), rel=1e-5)
    scores = shifted.score(users).double().numpy()
    assert shifted.loss(prepared(shifted)).item() == pytest.approx(by_definition(shifted, scores), rel=1e-5)


def hand_made(loss, hardest=0, own=False, **settings):
    """Users with vectors 1 and 2, items with 1, −1, 3, 0.5; scores are products. Edges (user 0, item 0), (1, 2)."""
    settings = {"dim": 1, "similarity": "dot", "temperature": 1.0, "negatives": 3} | settings
    model = MF(planted_graph(), MFConfig(loss=loss, hardest=hardest, l2=settings.pop("l2", 0.0), **settings))
    batch = Batch(
        users=torch.tensor([10, 20]),
        items=torch.tensor([3, 5, 7, 11]),
        user_index=torch.tensor([0, 1]),
        positive_index=torch.tensor([0, 2]),
        negative_index=torch.tensor([[1, 3], [0, 0]]) if own else torch.tensor([1, 2, 3]),
        excluded=None if own else torch.tensor([[False, False, False], [False, True, False]]),
        known=None,
        log_q=torch.tensor([0.0, math.log(0.5), math.log(0.25), math.log(0.1)]),
        seed=0,
    )
    with torch.no_grad():
        model.table[[10, 20], 0] = torch.tensor([1.0, 2.0])
        model.table[torch.tensor([3, 5, 7, 11]) + N_USERS, 0] = torch.tensor([1.0, -1.0, 3.0, 0.5])
    return model.loss(batch).item()


def test_softmax_with_log_q_by_hand():
    """Positive scores 1 and 6; negatives −1, 3, 0.5 and −2, (6), 1, each e^s / q."""
    e = math.exp
    first = -math.log(e(1) / (e(1) + 2 * e(-1) + 4 * e(3) + 10 * e(0.5)))
    second = -math.log(e(6) / (e(6) + 2 * e(-2) + 10 * e(1)))
    assert hand_made("softmax") == pytest.approx((first + second) / 2, rel=1e-6)
    # the correction comes after the temperature
    first = -math.log(e(2) / (e(2) + 2 * e(-2) + 4 * e(6) + 10 * e(1)))
    second = -math.log(e(12) / (e(12) + 2 * e(-4) + 10 * e(2)))
    assert hand_made("softmax", temperature=0.5) == pytest.approx((first + second) / 2, rel=1e-6)


def test_bpr_with_the_hardest_negative_by_hand():
    """Score 3 beats 1 for the first user; the second user's highest, 6, is excluded, so 1 against 6."""
    expected = (softplus(3 - 1) + softplus(1 - 6)) / 2
    assert hand_made("bpr", hardest=1) == pytest.approx(expected, rel=1e-6)
    own = (softplus(0.5 - 1) + softplus(2 - 6)) / 2
    assert hand_made("bpr", hardest=1, own=True) == pytest.approx(own, rel=1e-6)


def test_gbce_by_hand():
    """β = 1 − t (1 − 3/119) at t = 0.75; sums over negatives."""
    beta = 1 - 0.75 * (1 - 3 / 119)
    first = beta * softplus(-1) + softplus(-1) + softplus(3) + softplus(0.5)
    second = beta * softplus(-6) + softplus(-2) + softplus(1)
    assert hand_made("gbce", calibration=0.75) == pytest.approx((first + second) / 2, rel=1e-6)


def test_the_penalty_by_hand():
    """½ the squares of user, positive and negatives of both edges over their number; a shared negative once."""
    shared = 0.5 * ((1 + 1) + (4 + 9) + (1 + 9 + 0.25)) / 2
    assert hand_made("bce", l2=0.3) - hand_made("bce") == pytest.approx(0.3 * shared, rel=1e-5)
    own = 0.5 * ((1 + 1) + (4 + 9) + (1 + 0.25) + (1 + 1)) / 2
    assert hand_made("bce", own=True, l2=0.3) - hand_made("bce", own=True) == pytest.approx(0.3 * own, rel=1e-5)


def test_softmax_over_the_catalogue_is_softmax_with_all_items_drawn():
    """Loss and gradient; the user's own items have no share in either."""
    results = []
    for settings in ({"loss": "full-softmax"}, {"loss": "softmax", "negatives": N_ITEMS + 50}):
        model = new(**settings)
        loss = model.loss(prepared(model))
        loss.backward()
        results.append((loss.item(), model.table.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "bpr", "bce", "gbce", "full-softmax"])
def test_negatives_that_are_positives_have_no_gradient(loss):
    model = new(loss=loss, negatives=N_ITEMS)
    own = model.history.take(np.array([4])).indices.astype(np.int64)
    model.loss(model.prepare(np.array([4]), own[:1], np.random.SeedSequence(0))).backward()
    moved = model.table.grad.abs().sum(1)[N_USERS:]
    assert moved[own[0]] > 0
    assert not moved[own[1:]].any()
    others = np.setdiff1d(np.arange(N_ITEMS), own)
    assert (moved[others] > 0).all()


def test_a_user_who_has_everything_costs_nothing_over_the_catalogue_and_is_refused_elsewhere():
    from dataclasses import replace

    graph = planted_graph()
    edges = graph.interactions
    src, dst = np.r_[edges.src[edges.src > 0], np.zeros(N_ITEMS, int)], np.r_[edges.dst[edges.src > 0], :N_ITEMS]
    graph = replace(graph, interactions=Relation.of("chose", "user", "item", src, dst))
    model = MF(graph, MFConfig(**PLAIN, loss="full-softmax"))
    model.init_weights(0)
    loss = model.loss(model.prepare(np.array([0]), np.array([5]), np.random.SeedSequence(0)))
    loss.backward()
    assert loss.item() == 0
    assert not model.table.grad.any()
    with pytest.raises(InputError, match=r"every item[\s\S]*user row 0"):
        MF(graph, MFConfig(**PLAIN, loss="softmax"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "in-batch", "shared": False}, r"only be shared[\s\S]*in-batch[\s\S]*own negatives per edge"),
        ({"sampling": "mixed", "shared": False}, r"only be shared[\s\S]*mixed"),
        ({"sampling": "hard"}, r"unknown sampling[\s\S]*mf[\s\S]*uniform or popularity[\s\S]*'hard'"),
        ({"loss": "hinge"}, r"unknown loss[\s\S]*full-softmax[\s\S]*'hinge'"),
        ({"similarity": "cos"}, r"unknown similarity[\s\S]*cosine or dot[\s\S]*'cos'"),
        ({"dim": 0}, r"out of range[\s\S]*mf, dim[\s\S]*at least 1[\s\S]*0"),
        ({"negatives": 0}, r"mf, negatives[\s\S]*at least 1"),
        ({"hardest": -1}, r"mf, hardest[\s\S]*at least 0"),
        ({"l2": -0.1}, r"mf, l2[\s\S]*at least 0[\s\S]*-0.1"),
        ({"l2": math.nan}, r"mf, l2"),
        ({"contrast": -1.0}, r"mf, contrast"),
        ({"sampling": "popularity", "power": -1.0}, r"power"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_construction(settings, message):
    with pytest.raises(InputError, match=message):
        MF(planted_graph(), MFConfig(**PLAIN | {"loss": "softmax"} | settings))


def test_softmax_over_the_catalogue_draws_nothing():
    """So that settings of negatives are neither read nor refused."""
    losses = []
    for settings in ({}, {"sampling": "in-batch", "shared": False, "negatives": 1, "hardest": 3}):
        model = new(loss="full-softmax", **settings)
        batch = prepared(model)
        assert batch.negative_index is None
        losses.append(model.loss(batch).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (MF, MFConfig),
        (RelationalLightGCN, partial(RelationalLightGCNConfig, ridge=0.0)),
        (GraphSAGE, GraphSAGEConfig),
    ],
    ids=["mf", "lightgcn", "graphsage"],
)
def test_contrast_of_any_encoder(kind, config):
    """InfoNCE of the batch's users and positives; without noise both views are the vectors themselves."""
    plain, still, noise = (
        new(kind, config, contrast=c, noise=n, contrast_temperature=0.4)
        for c, n in ((0.0, 0.0), (0.7, 0.0), (0.7, 0.5))
    )
    batch = prepared(plain)
    expected = plain.loss(batch).item()
    users, items = plain.encode(batch)
    for vectors in (users, items[batch.positive_index.unique()]):  # negatives are no side of the contrast
        unit = functional.normalize(vectors.detach().double(), dim=1).numpy()
        logits = unit @ unit.T / 0.4
        expected += 0.7 * np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert still.loss(batch).item() == pytest.approx(expected, rel=1e-5)
    assert noise.loss(batch).item() != pytest.approx(expected, rel=1e-4)
    assert noise.loss(batch).item() == noise.loss(batch).item()
    (a, b), _ = noise.contrastive_views(batch, *noise.encode(batch))
    torch.testing.assert_close((a - noise.encode(batch)[0]).norm(dim=1), torch.full((len(a),), 0.5))
    assert not a.equal(b)


def test_noise_is_the_same_in_every_precision():
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    wide, narrow = (add_noise(x.to(t), 0.1, torch.Generator().manual_seed(1)) for t in (torch.float64, torch.float32))
    torch.testing.assert_close(wide.float(), narrow)


@pytest.mark.parametrize("loss", ["softmax", "full-softmax"])
def test_cosines_are_dot_products_of_unit_vectors(loss):
    cosine, dot, unit = (new(loss=loss, similarity=s) for s in ("cosine", "dot", "dot"))
    batch, users = prepared(cosine), torch.arange(N_USERS)
    with torch.no_grad():
        unit.table.copy_(functional.normalize(unit.table, dim=1))
    assert cosine.loss(batch).item() == pytest.approx(unit.loss(batch).item(), rel=1e-6)
    assert cosine.loss(batch).item() != pytest.approx(dot.loss(batch).item(), rel=1e-3)
    torch.testing.assert_close(cosine.score(users), unit.score(users))
    before = cosine.loss(batch).item()
    with torch.no_grad():
        cosine.table.mul_(torch.linspace(0.5, 7, len(cosine.table))[:, None])
    cosine.clear_derived()
    assert cosine.loss(batch).item() == pytest.approx(before, rel=1e-6)
    torch.testing.assert_close(cosine.score(users), unit.score(users))


class Bare(VectorModel):
    """An encoder without vectors of its own."""

    name = "bare"

    def __init__(self, graph, config):
        super().__init__(graph, config)
        self.turn = torch.nn.Parameter(torch.eye(config.dim))
        self.fixed = torch.randn(graph.n_users + graph.n_items, config.dim)

    def init_weights(self, seed):
        pass

    def encode(self, batch):
        return self.fixed[batch.users] @ self.turn, self.fixed[batch.items + N_USERS]

    def encode_all(self):
        return self.fixed[:N_USERS] @ self.turn, self.fixed[N_USERS:]

    def encode_histories(self, rows):
        return torch.zeros(rows.n_rows, self.config.dim)


def test_an_encoder_without_own_vectors_cannot_be_penalised():
    model = new(Bare, VectorConfig)
    assert model.loss(prepared(model)).isfinite()
    penalised = new(Bare, VectorConfig, l2=0.1)
    with pytest.raises(InputError, match=r"no free vectors[\s\S]*bare"):
        penalised.loss(prepared(penalised))


def test_a_batch_moves_with_everything_in_it():
    model = new(GraphSAGE, GraphSAGEConfig, loss="softmax", sampling="popularity", fanout=2)
    full = new(loss="full-softmax")
    for batch in (prepared(model), prepared(full)):
        moved = batch.to(torch.device("meta"))
        parts = [
            getattr(moved, n)
            for n in ("users", "items", "user_index", "positive_index", "negative_index", "excluded", "log_q")
        ]
        parts += [*(moved.known or ()), *(block.nodes for block in moved.encoder_inputs or ())]
        assert {p.device.type for p in parts if p is not None} == {"meta"}
        assert moved.seed == batch.seed
