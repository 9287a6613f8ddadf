from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation import Relation
from relrank.models.sequence.item_graph import GATItemEncoder, LightGCNItemEncoder, item_graph
from relrank.models.sequence.sasrec import SASRec, SASRecConfig
from relrank.models.sequence.sequence_fusion import SequenceFusion, SequenceFusionConfig
from relrank.tables.ids import IdMap
from relrank.testing import BLOCKS, SequenceContract, planted_sequences
from relrank.training import TrainConfig

SMALL = {"dim": 16, "window": 12, "dropout": 0.1}


class TestContinuous(SequenceContract):
    kind = SequenceFusion
    config = SequenceFusionConfig(**SMALL)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")


class TestGateOverAttention(SequenceContract):
    kind = SequenceFusion
    config = SequenceFusionConfig(**SMALL, mixing="gated", encoder="gat", graph_layers=1)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")


def fresh(**more):
    graph = planted_sequences()
    model = SequenceFusion(graph, SequenceFusionConfig(**SMALL, **more))
    model.init_weights(3)
    return model


def sasrec_with(table, model):
    """SASRec with a given table of items and the encoder of a fusion."""
    plain = SASRec(model.graph, SASRecConfig(**SMALL))
    state = {k: v for k, v in model.state().items() if k in plain.state()}
    plain.load_state(state | {"table": table.detach()})
    return plain


@pytest.mark.parametrize("encoder", ["lightgcn", "gat"])
def test_candidates_are_scored_with_the_table_that_is_read(encoder):
    """A fixed α is one fused table, made here and given to SASRec; scoring with own vectors alone differs."""
    model = fresh(mixing="fixed", alpha=0.3, encoder=encoder)
    graph_side = model.vectors()
    users = torch.arange(20)
    fused = sasrec_with(0.3 * model.table + 0.7 * graph_side, model)
    torch.testing.assert_close(model.score(users), fused.score(users).detach(), atol=1e-6, rtol=1e-4)
    unfused = sasrec_with(model.table, model)
    assert not torch.allclose(model.score(users), unfused.score(users), atol=1e-3)


def test_each_history_has_the_table_of_its_true_length():
    """Longer than the window, too: 9 items are short, 12 medium, 60 long, though only 12 are read."""
    model = fresh(mixing="discrete", short_alpha=0.2, medium_alpha=0.5, long_alpha=0.9)
    ring = torch.arange(60) % 30 * BLOCKS
    for n, alpha in ((9, 0.2), (12, 0.5), (60, 0.9)):
        fused = sasrec_with(alpha * model.table + (1 - alpha) * model.vectors(), model)
        found = model.fold_in([ring[:n], ring[:3]])[:1]
        torch.testing.assert_close(found, fused.fold_in([ring[:n]]).detach(), atol=1e-6, rtol=1e-4)


def test_without_relations_among_items_it_is_sasrec():
    graph = planted_sequences().only()
    fusion, plain = SequenceFusion(graph, SequenceFusionConfig(**SMALL)), SASRec(graph, SASRecConfig(**SMALL))
    fusion.init_weights(5)
    plain.init_weights(5)
    assert torch.equal(fusion.score(torch.arange(9)), plain.score(torch.arange(9)))
    assert fusion.alpha_by_length == {}
    assert sum(p.numel() for p in fusion.parameters() if p.requires_grad) == sum(
        p.numel() for p in plain.parameters()
    )


def test_a_gate_knows_nothing_of_what_follows():
    model = fresh(mixing="gated")
    with torch.no_grad():
        model.mixing.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(3)
        histories = Sequences.from_graph(model.graph).take(np.arange(6))
        windows, _ = model.windows(histories, histories.lengths(), np.random.default_rng(0))
        other = replace(windows, items=windows.items.clone())
        other.items[:, 5] = (other.items[:, 5] + 7) % model.graph.n_items
        before, after = (model.target_states(w, model.outputs(), None).view(6, 8, -1) for w in (windows, other))
        alphas = model.alpha(windows, model.inputs(windows))
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert bool(((after - before)[:, 5:].abs().amax(2) > 1e-5).all())
    assert float(alphas.std()) > 0.01


def test_alphas_are_recorded_by_true_length():
    model = fresh(mixing="discrete", short_alpha=0.25)
    assert model.alpha_by_length == {"≤ 10": {"mean": 0.25, "sd": 0.0, "count": 160}}


def test_frozen_vectors_must_have_been_trained():
    with pytest.raises(InputError, match="frozen encoder"):
        fresh(freeze=True)
    model = fresh(freeze=True, pretrain=3)
    assert not any(p.requires_grad for p in model.vectors.parameters())
    assert all(p.requires_grad for p in fresh(pretrain=3).vectors.parameters())


def test_pretraining_is_the_same_for_the_same_seed():
    one, two, other = (fresh(pretrain=4) for _ in range(3))
    other.init_weights(4)
    assert torch.equal(one.vectors.table, two.vectors.table)
    assert not torch.equal(one.vectors.table, other.vectors.table)


def test_pretraining_has_the_same_bits_on_many_edges():
    """Beyond the number of entries at which threads share a gradient's sums."""
    rng = np.random.default_rng(0)
    n = 900
    graph = planted_sequences(items=n)
    pairs = np.unique(np.sort(rng.integers(0, n, (12_000, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    similar = Relation.of("similar", "item", "item", pairs[:, 0], pairs[:, 1])
    runs = []
    for _ in range(2):
        vectors = LightGCNItemEncoder(item_graph(replace(graph, relations={"similar": similar})), 64, 1)
        with torch.no_grad():
            vectors.reset(torch.Generator().manual_seed(0), 0.1)
        vectors.pretrain(3, 0.02, np.random.SeedSequence(0))
        runs.append(vectors.table.detach())
    assert torch.equal(*runs)


@pytest.mark.parametrize("pretrain", [0, 30])
@pytest.mark.parametrize("encoder", ["lightgcn", "gat"])
def test_both_sides_of_a_mixture_start_at_one_length_and_keep_their_directions(encoder, pretrain):
    """What scales the graph's side is a factor of what comes out; one of the table would flatten attention."""
    model = fresh(encoder=encoder, pretrain=pretrain, mixing="fixed")
    with torch.no_grad():
        found, scale = model.vectors(), float(model.vectors.scale)
        assert float(found.norm(dim=1).mean()) == pytest.approx(0.02 * 16**0.5, rel=1e-4)
        assert float(model.table.norm(dim=1).mean()) == pytest.approx(0.02 * 16**0.5, rel=0.05)
        model.vectors.scale.fill_(1)
        torch.testing.assert_close(model.vectors() * scale, found)
        cosine = functional.normalize(found, dim=1) @ functional.normalize(found, dim=1).T
    assert float((cosine.sum() - len(cosine)) / (len(cosine) * (len(cosine) - 1))) < 0.6  # not all alike


def test_threads_may_score_at_once():
    model = fresh(mixing="gated")
    histories = [torch.arange(n) * BLOCKS for n in range(1, 9)]
    expected = model.fold_in(histories)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.fold_in(histories), range(60)))
    assert all(torch.equal(scores, expected) for scores in found)


def test_a_relation_that_leads_to_no_item_leaves_sasrec():
    graph = planted_sequences()
    edge = np.arange(3, dtype=np.int32)
    nodes = {**graph.nodes, **{t: IdMap(t, pl.Series(range(3))) for t in ("city", "land")}}
    away = Relation.of("in_land", "city", "land", edge, edge)
    model = SequenceFusion(replace(graph, nodes=nodes, relations={"in_land": away}), SequenceFusionConfig(**SMALL))
    assert model.vectors is None
    assert {d.name for d in model.space(model.graph)} == {d.name for d in SASRec.space(model.graph)}


def test_a_cosine_with_a_mixture_is_refused():
    with pytest.raises(InputError, match="similarity"):
        fresh(similarity="cosine")


@pytest.mark.parametrize("kind", [LightGCNItemEncoder, GATItemEncoder])
def test_pretraining_finds_the_planted_blocks(kind):
    """Items of one block become similar, which they are not initially."""
    graph = item_graph(planted_sequences())
    vectors = kind(graph, 16, 1) if kind is LightGCNItemEncoder else kind(graph, 16, 1, 2)
    with torch.no_grad():
        vectors.reset(torch.Generator().manual_seed(0), 0.1)

    def apart():
        with torch.no_grad():
            v = functional.normalize(vectors(), dim=1)
        cosine, block = v @ v.T, torch.arange(graph.n_items) % BLOCKS
        same = block[:, None] == block
        return float(cosine[same & ~torch.eye(len(v), dtype=torch.bool)].mean() - cosine[~same].mean())

    before = apart()
    curve = vectors.pretrain(60, 0.05, np.random.SeedSequence(0))
    assert curve[-1] < 0.7 * curve[0]
    assert before < 0.05
    assert apart() > 0.4


def test_no_edge_is_among_the_messages_that_it_supervises(monkeypatch):
    graph = item_graph(planted_sequences())
    vectors = LightGCNItemEncoder(graph, 8, 1)
    messages, supervised = [], []
    encode, edge_loss = LightGCNItemEncoder.encode, LightGCNItemEncoder._edge_loss

    def seen_encode(self, kept):
        messages.append(kept)
        return encode(self, kept)

    def seen_loss(self, x, relation, which, rng):
        supervised.append((relation, which))
        return edge_loss(self, x, relation, which, rng)

    monkeypatch.setattr(LightGCNItemEncoder, "encode", seen_encode)
    monkeypatch.setattr(LightGCNItemEncoder, "_edge_loss", seen_loss)
    vectors.pretrain(1, 0.01, np.random.SeedSequence(0))
    assert len(supervised) == 2
    for relation, which in supervised:
        kept = messages[0].relations[relation.name]
        sides = [set(zip(r.src.tolist(), r.dst.tolist(), strict=True)) for r in (kept, relation.where(which))]
        assert not sides[0] & sides[1]
        assert len(sides[0] | sides[1]) == len(relation)
        assert 0.3 < which.mean() < 0.7


def test_lightgcn_vectors_are_the_mean_of_the_layers():
    graph = item_graph(planted_sequences(12, 8, 2))
    n, tags = graph.n_items, len(graph.nodes["tag"])
    vectors = LightGCNItemEncoder(graph, 4, 3)
    with torch.no_grad():
        vectors.reset(torch.Generator().manual_seed(1), 1.0)
    a = np.zeros((n + tags, n + tags))
    for name, shift in (("has_tag", n), ("similar", 0)):
        r = graph.relations[name]
        own = np.zeros_like(a)
        own[r.src, r.dst + shift] = r.weight
        own += own.T
        degree = own.sum(1)
        scale = np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
        a += scale[:, None] * own * scale / 2
    x = vectors.table.detach().numpy()
    expected = sum(np.linalg.matrix_power(a, k) @ x for k in range(4)) / 4
    np.testing.assert_allclose(vectors().detach().numpy(), expected[:n], atol=1e-6)


def test_an_item_graph_has_no_users_and_only_what_leads_to_items():
    nodes = {t: IdMap(t, pl.Series(range(4))) for t in ("user", "item", "tag", "topic", "city", "land")}
    edge = np.array([0], np.int32)

    def link(name, source, target):
        return Relation.of(name, source, target, edge, edge + 1)

    links = [
        ("has_tag", "item", "tag"), ("about", "topic", "tag"), ("lives_in", "user", "city"),
        ("in_land", "city", "land"), ("shelf", "user", "item"),
    ]  # fmt: skip
    relations = {name: link(name, *ends) for name, *ends in links}
    graph = Graph("user", "item", nodes, link("chose", "user", "item"), relations, "f")
    found = item_graph(graph)
    assert set(found.relations) == {"has_tag", "about"}
    assert (found.n_users, found.n_items, len(found.interactions)) == (0, 4, 0)
    with pytest.raises(InputError, match="no relation among items"):
        item_graph(graph.only("lives_in", "in_land", "shelf"))
