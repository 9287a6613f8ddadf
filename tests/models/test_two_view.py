"""Two views and own vectors: the contract, missing views, cold items, and the heavier head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from featured import featured
from torch.nn import functional
from written import written

from relrank.errors import InputError
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models.core import losses
from relrank.models.graph.path_fusion import PathFusion, PathFusionConfig
from relrank.models.two_view.history_attention import Histories
from relrank.models.two_view.rerank import TargetAttention, hard_negatives, merge_reranked
from relrank.models.two_view.two_view import TwoView, TwoViewConfig
from relrank.testing import BLOCKS, TrainedContract, planted_graph, planted_sequences
from relrank.training import TrainConfig, fit

BUDGET = TrainConfig(epochs=12, batch=512, lr=0.02, every=3, device="cpu")


class Contract(TrainedContract):
    kind = TwoView
    train = BUDGET
    embedding_tables = ("items.table",)
    propagates = True

    def graph(self):
        return written()


class TestTwoViews(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)


class TestReranked(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, scorer="rerank", top=120, candidates=8)


class TestSampledNeighbours(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, fanout=2)


class TestFeaturesAndSampledNegatives(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, loss="softmax", negatives=64)

    def graph(self):
        return written(featured(planted_graph(96, 80, 8)))


class TestPathsAndUsers(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3, paths="all", user_vectors=True)
    fold_in = "free"

    def _node_types(self, model):
        return super()._node_types(model) | {"users": ["user"]}


class TestPathsReranked(Contract):
    config = TwoViewConfig(
        dim=16, temperature=0.3, paths="interactions", scorer="rerank", top=120, candidates=8, new_as_negatives=False
    )
    fold_in = "similar"


class TestInOrder(Contract):
    config = TwoViewConfig(dim=16, temperature=0.3)

    def graph(self):
        graph = written()
        chance = np.random.default_rng(0).random(len(graph.interactions))
        order = np.lexsort((chance, graph.interactions.src))
        places = np.empty(order.size, np.int32)
        places[order] = np.arange(order.size) % 10  # ten items each
        return replace(graph, places=places)


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
    """Each seventh item has no text; an item without interactions has no free vector."""
    graph = written()
    edges = graph.interactions.where(graph.interactions.dst != 5)
    model = new(replace(graph, interactions=edges))
    with torch.no_grad():
        found = model.items()
    textless = np.arange(graph.n_items) % 7 == 6
    assert ((found.shares[:, 1] == 0).numpy()[textless]).all()
    assert not found.shares[5, 0]
    assert found.shares[5, 1:].min() > 0
    torch.testing.assert_close(found.shares.sum(1), torch.ones(graph.n_items))
    texts = model.items.known[:, 1].double().mean()
    assert model.missing_views == {"own": 1 - 119 / 120, "text": float(1 - texts), "attributes": 0}
    assert 0.1 < model.missing_views["text"] < 0.3
    third = [1 / 3 if t else 1 / 2 for t in model.items.known[:, 1]]
    third[5] = 0  # has no vector of its own
    shares = model.view_shares["own"]
    assert shares["count"] == 119
    np.testing.assert_allclose([shares["mean"], shares["sd"]], [np.sum(third) / 119, np.delete(third, 5).std()])
    # equal at the start: a third each where all three are there, a half each where two are
    assert abs(float(found.shares[1, 0]) - 1 / 3) < 1e-6
    assert abs(float(found.shares[6, 0]) - 1 / 2) < 1e-6


def test_a_view_that_is_not_in_use_is_not_read():
    graph = written(featured())
    for views, missing in (("text", "attributes"), ("attributes", "text")):
        model = new(graph, views=views, own_vectors=False)
        assert list(model.view_shares) == [views]
        assert model.view_shares[views]["mean"] == 1
        assert model.missing_views[missing] == model.missing_views["own"] == 1
    # items without any view are one and the same, whose vector is learned
    model = new(graph, views="text", own_vectors=False)
    with torch.no_grad():
        vectors = model.items().items[6::7]
    assert torch.equal(vectors, model.items.nothing.expand_as(vectors))


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


@pytest.mark.parametrize("loss", ["full-softmax", "softmax"])
def test_new_items_are_no_negatives_if_so_configured(loss):
    """Their texts do not affect the loss."""
    graph = written(planted_graph().only())
    new_ones = np.arange(0, 120, 11)
    graph = replace(graph, interactions=graph.interactions.where(~np.isin(graph.interactions.dst, new_ones)))
    feature = graph.features["has_review"]
    texts = graph.relations["has_review"]
    theirs = np.isin(np.arange(len(feature)), texts.dst[np.isin(texts.src, new_ones)])
    dense = np.where(theirs[:, None] & feature.known[:, None], -3 * feature.dense, feature.dense)
    other = replace(graph, features={"has_review": replace(feature, dense=dense.astype(np.float32))})
    values = {}
    for spared in (True, False):
        for name, on in (("one", graph), ("other", other)):
            model = new(on, loss=loss, negatives=300, new_as_negatives=not spared, align=0.0, scorer="rerank", top=40)
            batch = model.prepare(*batch_of(model, 200), np.random.SeedSequence(0))
            values[spared, name] = float(model.loss(batch).detach())
    assert values[True, "one"] == values[True, "other"]
    assert abs(values[False, "one"] - values[False, "other"]) > 1e-4


def test_views_of_an_item_find_each_other_but_are_no_negatives_of_a_users_other_items():
    model = new(align=1.0)
    users, items = np.array([0, 0, 1, 2, 2]), np.array([0, 8, 16, 1, 6])  # item 6 has no text
    batch = model.prepare(users, items, np.random.SeedSequence(0))
    assert batch.encoder_inputs.aligned.tolist() == [0, 1, 8, 16]
    with torch.no_grad():
        model.encode(batch)
        step = model._step
        found = model._alignment_loss(batch.encoder_inputs, step)
    rows = [0, 1, 8, 16]
    one, other = (functional.normalize(v[rows], dim=1) for v in step.encoded.views)
    logits = one @ other.T / model.config.align_temperature
    expected = []
    for at, a in enumerate(rows):
        others = [k for k, b in enumerate(rows) if {a, b} != {0, 8}]
        expected += [
            logits[at, others].logsumexp(0) - logits[at, at], logits[others, at].logsumexp(0) - logits[at, at]
        ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_the_loss_is_the_sum_of_its_parts():
    """Weights of the contrast and of the head's loss scale just those."""
    graph = written()
    values = {}
    for align, rerank in ((0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (0.0, 1.0), (0.0, 3.0)):
        model = new(graph, scorer="rerank", top=20, candidates=5, align=align, rerank=rerank)
        batch = model.prepare(*batch_of(model), np.random.SeedSequence(0))
        values[align, rerank] = float(model.loss(batch).detach())
    plain = values[0, 0]
    for one, more, factor in (((1, 0), (2, 0), 2), ((0, 1), (0, 3), 3)):
        assert values[one] - plain > 0.1
        np.testing.assert_allclose(values[more] - plain, factor * (values[one] - plain), rtol=1e-4)


def batch_of(model, n=60):
    edges = model.graph.interactions
    some = np.random.default_rng(0).permutation(len(edges))[:n]
    return edges.src[some].astype(np.int64), edges.dst[some].astype(np.int64)


def test_pitfall_no_target_of_a_batch_is_in_the_history_that_is_to_find_it():
    model = new()
    users, items = batch_of(model)
    batch = model.prepare(users, items, np.random.SeedSequence(0))
    read = batch.encoder_inputs
    owners = np.repeat(read.users, np.diff(read.histories.indptr))
    inside = set(zip(owners.tolist(), read.histories.items.tolist(), strict=True))
    assert not inside & set(zip(users.tolist(), items.tolist(), strict=True))
    everything = sum(len(model_items(model.graph, user)) for user in set(users.tolist()))
    assert len(inside) == everything - len(users)


def test_own_vectors_are_left_out_only_where_a_view_can_stand_for_them():
    graph = written(planted_graph().only())  # each seventh item has neither text nor attribute
    model = new(graph)
    with torch.no_grad():
        shares = model.items(0.5, torch.Generator().manual_seed(0)).shares
        exact = model.items().shares
    described = model.items.known[:, 1]
    left_out = shares[:, 0] == 0
    assert 0.35 < float(left_out[described].float().mean()) < 0.65
    assert not left_out[~described].any()
    assert exact[:, 0].min() > 0
    assert new(graph, own_vectors=False).items.known[:, 0].any() == False  # noqa: E712


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
    tags = model.items.table[model.items.adjacency.types["tag"]]
    expected = torch.stack([tags[1] / 4 + tags[2] * 3 / 4, tags[1], tags[0] * 0])
    torch.testing.assert_close(model._side(np.arange(3)), expected)


def test_what_users_are_linked_with_is_in_their_scores_and_nobody_elses():
    works = Relation.of("works", "user", "tag", np.array([0, 0, 1]), np.array([1, 2, 1]))
    graph = written(planted_graph().only())
    model = new(replace(graph, relations=graph.relations | {"works": works}))
    assert not model.from_history
    before = model.score(torch.arange(3))
    with torch.no_grad():
        model.items.table[model.items.adjacency.types["tag"]][2] += 1
    model.refresh()
    changed = (model.score(torch.arange(3)) - before).abs().amax(1)
    assert changed[0] > 1e-3
    assert not changed[1:].any()


def test_an_ordered_history_beyond_the_window_is_forgotten_and_its_order_counts():
    graph = written(planted_sequences())
    model = new(graph, window=4)
    assert model.from_history
    old, late = torch.tensor([0, 4, 8, 12]), torch.tensor([1, 5, 9, 13])
    one, other, turned = model.fold_in([torch.cat([old, late]), late, late.flip(0)])
    torch.testing.assert_close(one, other)
    assert (turned - other).abs().max() > 1e-4
    # sets, of which no order is known, are read as such
    rows = Csr.from_pairs(np.zeros(4, int), late.numpy(), (1, graph.n_items))
    sets = model.encode_histories(rows)
    assert not torch.allclose(model._normalised(sets) @ model._items.T, other[None], atol=1e-4)


def test_reranked_items_stay_above_the_rest():
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    columns = torch.tensor([[0, 1], [4, 3]])
    found = merge_reranked(scores, columns, torch.tensor([[-7.0, -2.0], [9.0, 1.0]]))
    assert found.argsort(1, descending=True).tolist() == [[1, 0, 2, 3, 4], [4, 3, 2, 1, 0]]
    assert found[0, :2].tolist() == [-7, -2]
    everything = torch.arange(5).expand(2, 5)
    assert torch.equal(merge_reranked(scores, everything, scores), scores)


@torch.no_grad()
def test_target_attention_reads_the_history_for_each_candidate():
    generator = torch.Generator().manual_seed(0)
    head = TargetAttention(3)
    head.reset(generator)
    head.out.reset(generator)
    histories = Histories(np.array([0, 2, 2, 3]), np.array([1, 0, 1], np.int32), np.zeros(3, int), np.zeros(3, int))
    keys, users = torch.randn(3, 3, generator=generator), torch.randn(3, 3, generator=generator)
    items = torch.randn(4, 3, generator=generator)
    candidates, owners = torch.tensor([2, 0, 1, 3, 3]), torch.tensor([0, 2, 1, 0, 2])
    found = head(items, candidates, owners, keys, users, histories)

    def project(affine, x):
        return torch.cat([x, torch.ones(1)]) @ affine.weight

    for n, (c, owner) in enumerate(zip(candidates.tolist(), owners.tolist(), strict=True)):
        v, own = items[c], keys[histories.indptr[owner] : histories.indptr[owner + 1]]
        read = ((own @ project(head.query, v)) / 3**0.5).softmax(0) @ own  # nothing to read: zeros
        hidden = functional.relu(project(head.hidden, torch.cat([v * read, v * users[owner], read])))
        torch.testing.assert_close(found[n], project(head.out, hidden)[0])


def test_hard_negatives_come_from_the_top_and_are_strangers():
    scores = torch.arange(10.0).expand(200, 10).clone()
    known = torch.arange(200).repeat_interleave(2), torch.tensor([9, 7]).repeat(200)
    drawn, excluded = hard_negatives(scores, known, 4, 2, torch.Generator().manual_seed(0))
    assert not excluded.any()
    counts = torch.bincount(drawn.flatten(), minlength=10)
    assert counts[[0, 1, 2, 3, 7, 9]].sum() == 0  # the four best that are not known: 8, 6, 5, 4
    assert counts[[4, 5, 6, 8]].min() > 70
    assert (drawn[:, 0] != drawn[:, 1]).all()
    # a list that is too short is filled up with what is known, and says so
    scores = torch.arange(3.0)[None].clone()
    drawn, excluded = hard_negatives(
        scores, (torch.zeros(2, dtype=int), torch.tensor([0, 1])), 3, 3, torch.Generator()
    )
    assert sorted(zip(drawn[0].tolist(), excluded[0].tolist(), strict=True)) == [(0, True), (1, True), (2, False)]


def test_scores_follow_the_parameters_after_a_refresh():
    """Validation refreshes, and does not forget: it must not look again with the vectors of an epoch before."""
    model = new(scorer="rerank", top=30, candidates=4)
    model.score(torch.arange(3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.refresh()
    found = model.score(torch.arange(3))
    model.clear_derived()
    assert torch.equal(found, model.score(torch.arange(3)))


def test_scores_in_parts_are_the_same(monkeypatch):
    model = new(scorer="rerank", top=30, candidates=4)
    model.head.out.reset(torch.Generator().manual_seed(1), 3.0)
    whole = model.score(torch.arange(40))
    monkeypatch.setattr("relrank.models.two_view.rerank.EVENTS", 700)
    torch.testing.assert_close(model.score(torch.arange(40)), whole)


@torch.no_grad()
@pytest.mark.parametrize("paths", ["none", "interactions"])
def test_the_head_orders_the_best_strangers_anew_and_nothing_else(paths):
    """By what it adds to the scores of the loss, those divided by the temperature; with paths they are already."""
    graph = written()
    plain, heavy = new(graph, paths=paths), new(graph, scorer="rerank", top=10, candidates=4, paths=paths)
    heavy.head.out.reset(torch.Generator().manual_seed(1), 3.0)
    users, n = torch.arange(20), graph.n_items
    before, after = plain.score(users), heavy.score(users)
    histories = heavy.training_histories.of(users.numpy())
    items = heavy.items().items
    keys = heavy.reader.keys(items, histories)
    vectors = heavy.reader(items, keys, histories)
    moved = 0
    for user in range(20):
        strangers = np.setdiff1d(np.arange(n), model_items(graph, user))
        ordered = strangers[before[user][strangers].argsort(descending=True)]
        best, rest = ordered[:10], ordered[10:]
        added = heavy.head(items, torch.from_numpy(best), torch.full((10,), user), keys, vectors, histories)
        expected = best[(before[user][best] / (0.3 if paths == "none" else 1) + added).argsort(descending=True)]
        found = strangers[after[user][strangers].argsort(descending=True)]
        assert found.tolist() == [*expected, *rest]
        moved += expected.tolist() != best.tolist()
    assert moved > 5


@torch.no_grad()
@pytest.mark.parametrize("paths", ["none", "all"])
def test_the_heads_loss_is_a_softmax_over_each_edges_own_candidates(paths):
    model = new(scorer="rerank", top=12, candidates=3, align=0.0, paths=paths)
    model.head.out.reset(torch.Generator().manual_seed(1), 3.0)
    batch = model.prepare(*batch_of(model, 40), np.random.SeedSequence(0))
    model.encode(batch)
    step, read = model._step, batch.encoder_inputs
    left, right = functional.normalize(step.users, dim=1), functional.normalize(step.encoded.items, dim=1)
    generator = torch.Generator().manual_seed(batch.seed + 1)
    mine = [model_items(model.graph, user) for user in read.users]
    owners = np.repeat(np.arange(len(mine)), [m.size for m in mine])
    known = torch.from_numpy(owners), torch.from_numpy(np.concatenate(mine))
    offsets = torch.zeros(len(left), len(right)) if paths == "none" else model.offsets(batch)
    drawn, _ = hard_negatives(left @ right.T + 0.3 * offsets, known, 12, 3, generator)
    losses_ = []
    for owner, item in zip(batch.user_index.tolist(), batch.items[batch.positive_index].tolist(), strict=True):
        candidates = torch.tensor([item, *drawn[owner].tolist()])
        added = model.head(
            step.encoded.items, candidates, torch.full((4,), owner), step.keys, step.users, read.histories
        )  # fmt: skip
        whole = right[candidates] @ left[owner] / 0.3 + offsets[owner, candidates] + added
        losses_.append(-whole.log_softmax(0)[0])
    torch.testing.assert_close(model._rerank_loss(batch, step), torch.stack(losses_).mean())


@torch.no_grad()
@pytest.mark.parametrize(
    ("paths", "kinds"), [("interactions", {"chose"}), ("all", {"chose", "has_review", "has_tag", "similar"})]
)
def test_paths_add_what_they_add_in_path_fusion(paths, kinds):
    """Scores are products over the temperature and path fusion's second part, for users and for new histories."""
    graph = written()
    plain, walking = new(graph), new(graph, paths=paths, path_weight=0.7)
    left_out = {name: 0.0 for name in graph.relations if name not in kinds}
    paths_alone = PathFusion(graph, PathFusionConfig(dim=4, weight=0.7, weights=left_out, user_vectors=False))
    paths_alone.table.zero_()
    assert set(walking.relation_weights) == set(paths_alone.relation_weights) == kinds
    users, histories = torch.arange(graph.n_users), [torch.tensor([3, 40]), torch.tensor([], dtype=torch.int64)]
    for ask, of in (("score", users), ("fold_in", histories)):
        products, added = (getattr(m, ask)(of) for m in (plain, paths_alone))
        torch.testing.assert_close(getattr(walking, ask)(of), products / 0.3 + added, rtol=1e-4, atol=1e-4)
        assert added.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("new_as_negatives", [True, False])
def test_the_loss_with_paths_is_a_softmax_of_both_parts(new_as_negatives):
    """Item 7 has no interactions: it is a negative or not, and path scores belong to the right items."""
    graph = written()
    graph = replace(graph, interactions=graph.interactions.where(graph.interactions.dst != 7))
    model = new(graph, paths="all", align=0.0, own_dropout=0.0, new_as_negatives=new_as_negatives)
    batch = model.prepare(*batch_of(model, 90), np.random.SeedSequence(3))
    left, _ = model.encode(batch)
    scores = functional.normalize(left, dim=1) @ functional.normalize(model._step.encoded.items, dim=1).T / 0.3
    scores += model.offsets(batch)
    taken = torch.zeros(scores.shape, dtype=torch.bool)
    taken[:, 7] = not new_as_negatives
    for place, user in enumerate(batch.users.tolist()):
        taken[place, model_items(graph, user)] = True
    wrong = scores.masked_fill(taken, -torch.inf).logsumexp(1)
    right = scores[batch.user_index, batch.items[batch.positive_index]]
    expected = (torch.logaddexp(wrong[batch.user_index], right) - right).mean()
    torch.testing.assert_close(model.loss(batch), expected)


@torch.no_grad()
def test_vectors_of_users_are_theirs_alone():
    """They change their own user's scores alone, and a folded-in history has none."""
    model = new(user_vectors=True)
    assert model.users.any()
    users, history = torch.arange(model.graph.n_users), [torch.tensor([3, 40])]
    before, folded = model.score(users), model.fold_in(history)
    model.users[5] += 3
    model.clear_derived()
    changed = (model.score(users) - before).abs().amax(1)
    assert changed[5] > 0.1
    assert not changed[users != 5].any()
    assert torch.equal(model.fold_in(history), folded)
    model.users.zero_()
    model.clear_derived()
    torch.testing.assert_close(
        model.score(users)[7], model.fold_in([torch.from_numpy(model_items(model.graph, 7))])[0]
    )
    assert not model.from_history


def test_paths_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"unknown paths[\s\S]*interactions[\s\S]*some"):
        new(paths="some")
    with pytest.raises(InputError, match=r"path_weight[\s\S]*above 0"):
        new(paths="all", path_weight=0.0)


def test_a_step_hides_some_ratings_and_reads_the_edges_that_it_drew():
    graph = written(planted_graph().only())
    rng = np.random.default_rng(0)
    weight = rng.choice([0.2, 0.6, 1.0], len(graph.interactions)).astype(np.float32)
    graph = replace(graph, interactions=replace(graph.interactions, weight=weight))
    model = new(graph, own_dropout=0.0, fanout=1)
    users, items = batch_of(model)
    exact = model.items().items
    changed, read = 0, []
    for seed in range(5):
        batch = model.prepare(users, items, np.random.SeedSequence(seed))
        ((near,),), nothing = batch.encoder_inputs.drawn
        assert nothing is None
        assert np.diff(near.starts).max() == 1
        read.append(near.sources)
        with torch.no_grad():
            encoded, made = model.encode(batch)[1], model._step.encoded.items
            keys = model.reader.keys(made, batch.encoder_inputs.histories)
        assert torch.equal(encoded, made)
        assert not torch.allclose(made, exact)
        hidden = (model._step.keys != keys).any(1)
        changed += float(hidden.float().mean())
    assert not np.array_equal(read[0], read[1])
    assert 0.04 < changed / 5 < 0.2


def test_views_that_ask_each_other_are_in_the_items():
    model = new()
    with torch.no_grad():
        before = model.items().items
        model.items.across.out.reset(torch.Generator().manual_seed(0), 1.0)
        changed = (model.items().items - before).abs().amax(1) > 1e-4
    assert changed.all()  # every item has two attributes at least


def model_items(graph, user):
    return graph.interactions.dst[graph.interactions.src == user].astype(np.int64)
