"""Two views and own vectors: the contract, missing views, cold items, and the heavier head."""

from dataclasses import replace

import numpy as np
import torch
from featured import featured
from torch.nn import functional
from written import written

from relrank.graph.graph import Relation
from relrank.models import losses
from relrank.models.history_attention import Histories
from relrank.models.rerank import TargetAttention, raised
from relrank.models.two_view import TwoView, TwoViewConfig
from relrank.testing import BLOCKS, TrainedContract, planted_graph
from relrank.training import TrainConfig, fit

BUDGET = TrainConfig(epochs=12, batch=512, lr=0.02, every=3, device="cpu")


class Contract(TrainedContract):
    kind = TwoView
    train = BUDGET
    node_tables = ("table",)
    propagates = True

    def graph(self):
        return written()


class TestTwoViews(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)


class TestReranked(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, scorer="rerank", top=120, candidates=8)


class TestFeaturesAndSampledNegatives(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, loss="softmax", negatives=64)

    def graph(self):
        return written(featured(planted_graph(96, 80, 8)))


class TestInteractionsAlone(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)

    def graph(self):
        return planted_graph().only()


def new(graph=None, **settings):
    model = TwoView(
        written() if graph is None else graph, TwoViewConfig(**{"dim": 16, "temperature": 0.3} | settings)
    )
    model.init_weights(0)
    return model


def test_items_without_a_view_leave_it_out():
    """Each seventh item has no text; an item that nobody chose has no vector of its own."""
    graph = written()
    edges = graph.interactions.where(graph.interactions.dst != 5)
    model = new(replace(graph, interactions=edges))
    with torch.no_grad():
        found = model.catalogue()
    textless = np.arange(graph.n_items) % 7 == 6
    assert ((found.shares[:, 1] == 0).numpy()[textless]).all()
    assert not found.shares[5, 0]
    assert found.shares[5, 1:].min() > 0
    torch.testing.assert_close(found.shares.sum(1), torch.ones(graph.n_items))
    texts = found.known[0].double().mean()
    assert model.missing_views == {"own": 1 - 119 / 120, "text": float(1 - texts), "attributes": 0}
    assert 0.1 < model.missing_views["text"] < 0.3
    third = [1 / 3 if t else 1 / 2 for t in found.known[0]]
    third[5] = 0  # has no vector of its own
    shares = model.view_shares["own"]
    assert shares["count"] == 119
    np.testing.assert_allclose([shares["mean"], shares["sd"]], [np.sum(third) / 119, np.delete(third, 5).std()])
    # equal at the start: a third each where all three are there, a half each where two are
    assert abs(float(found.shares[1, 0]) - 1 / 3) < 1e-6
    assert abs(float(found.shares[6, 0]) - 1 / 2) < 1e-6


def test_a_view_that_is_not_asked_for_is_not_read():
    graph = written(featured())
    for views, missing in (("text", "attributes"), ("attributes", "text")):
        model = new(graph, views=views, own_vectors=False)
        assert list(model.view_shares) == [views]
        assert model.view_shares[views]["mean"] == 1
        assert model.missing_views[missing] == model.missing_views["own"] == 1
    # items without any view are one and the same
    scores = new(graph, views="text", own_vectors=False).score(torch.arange(5))[:, 6::7]
    assert not scores.any()


def cold_share(model, cold):
    """How often a cold item of the user's block is above a cold one of another block."""
    with torch.no_grad():
        scores = model.score(torch.arange(model.graph.n_users))[:, cold]
    own = (np.arange(model.graph.n_users) % BLOCKS)[:, None] == cold % BLOCKS
    above = scores[:, :, None] > scores[:, None, :]
    pairs = torch.from_numpy(own[:, :, None] & ~own[:, None, :])
    return float(above[pairs].float().mean())


def test_items_that_nobody_chose_are_found_by_what_is_written_of_them():
    graph, cold = written(planted_graph().only()), np.arange(0, 120, 11)
    graph = replace(graph, interactions=graph.interactions.where(~np.isin(graph.interactions.dst, cold)))
    model = new(graph)
    before = cold_share(model, cold)
    fit(model, BUDGET, lambda: 0.0, seed=0)
    # random projections of vectors that know the blocks know something, too; training adds to it
    assert cold_share(model, cold) > max(0.9, before + 0.05)
    placebo = new(graph.rewired("has_review", 1))
    fit(placebo, BUDGET, lambda: 0.0, seed=0)
    assert cold_share(placebo, cold) < 0.7  # the same, texts shuffled


def test_views_of_an_item_find_each_other_but_are_no_negatives_of_a_users_other_items():
    model = new(align=1.0)
    users, items = np.array([0, 0, 1, 2]), np.array([0, 8, 16, 1])
    batch = model.prepare(users, items, np.random.SeedSequence(0))
    with torch.no_grad():
        model.encode(batch)
        step = model._step
        found = model._alignment(batch, step)
    rows = [i for i in (0, 1, 8, 16) if step.known[0][i] and step.known[1][i]]
    one, other = (functional.normalize(v[rows], dim=1) for v in step.views)
    logits = one @ other.T / model.config.align_temperature
    expected = []
    for at, a in enumerate(rows):
        others = [k for k, b in enumerate(rows) if {a, b} != {0, 8}]
        expected += [
            logits[at, others].logsumexp(0) - logits[at, at], logits[others, at].logsumexp(0) - logits[at, at]
        ]  # fmt: skip
    assert len(rows) == 4
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_info_nce_keeps_every_node_its_own_partner():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert float(losses.info_nce(x, x.flip(1), 0.2, True, everything)) == 0


def test_users_are_also_what_their_own_relations_say():
    graph = written()
    model = new(graph)
    assert model._side(np.arange(3)) is None
    works = Relation.of("works", "user", "tag", np.array([0, 0, 1]), np.array([1, 2, 1]), np.array([1, 3, 1]))
    model = new(replace(graph, relations=graph.relations | {"works": works}))
    tags = model.table[model.adjacency.types["tag"]]
    expected = torch.stack([tags[1] / 4 + tags[2] * 3 / 4, tags[1], tags[0] * 0])
    torch.testing.assert_close(model._side(np.arange(3)), expected)


def test_what_is_looked_at_again_stays_above_the_rest():
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    columns = torch.tensor([[0, 1], [4, 3]])
    found = raised(scores, columns, torch.tensor([[-7.0, -2.0], [9.0, 1.0]]))
    assert found.argsort(1, descending=True).tolist() == [[1, 0, 2, 3, 4], [4, 3, 2, 1, 0]]
    assert found[0, :2].tolist() == [-7, -2]
    everything = torch.arange(5).expand(2, 5)
    assert torch.equal(raised(scores, everything, scores), scores)


@torch.no_grad()
def test_target_attention_reads_the_history_for_each_candidate():
    generator = torch.Generator().manual_seed(0)
    head = TargetAttention(3)
    head.reset(generator)
    head.out.reset(generator)
    histories = Histories(np.array([0, 2, 2]), np.array([1, 0], np.int32), np.zeros(2, int), np.zeros(2, int))
    keys, users = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)
    candidates = torch.randn(2, 4, 3, generator=generator)
    found = head(candidates, keys, users, histories)

    def project(affine, x):
        return torch.cat([x, torch.ones(1)]) @ affine.weight

    for n in range(2):
        for c in range(4):
            v = candidates[n, c]
            read = torch.zeros(3)
            if n == 0:
                read = ((keys @ project(head.query, v)) / 3**0.5).softmax(0) @ keys
            hidden = functional.relu(project(head.hidden, torch.cat([v * read, v * users[n], read])))
            torch.testing.assert_close(found[n, c], project(head.out, hidden)[0])


def test_the_head_changes_the_order_of_the_top_and_of_nothing_else():
    graph = written()
    plain, heavy = new(graph), new(graph, scorer="rerank", top=10, candidates=4)
    generator = torch.Generator().manual_seed(1)
    heavy.head.out.reset(generator, 3.0)
    users = torch.arange(20)
    seen = torch.zeros(20, graph.n_items, dtype=torch.bool)
    for user in range(20):
        seen[user, model_items(graph, user)] = True
    one, two = (m.score(users).masked_fill(seen, -torch.inf).argsort(1, descending=True) for m in (plain, heavy))
    assert torch.equal(one[:, :10].sort(1).values, two[:, :10].sort(1).values)
    assert torch.equal(one[:, 10:80], two[:, 10:80])
    assert not torch.equal(one[:, :10], two[:, :10])


def model_items(graph, user):
    return graph.interactions.dst[graph.interactions.src == user].astype(np.int64)
