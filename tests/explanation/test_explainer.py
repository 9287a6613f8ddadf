from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from relrank.errors import InputError
from relrank.explanation.explainer import Explainer, Reason, explain
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.models.closed_form.baselines import RandomOrder
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN, RelationalItemKNNConfig
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.tables.ids import IdMap
from relrank.testing import BLOCKS, planted_graph

EASE_CONFIG = RelationalEASEConfig(l2=20.0, weight=10.0)


@pytest.fixture(scope="module")
def graph():
    return planted_graph()


@pytest.fixture(scope="module")
def model(graph):
    return RelationalEASE(graph, EASE_CONFIG).solve()


@pytest.fixture(scope="module")
def explainer(model, graph):
    return Explainer(model, graph)


def small(interactions, **relations):
    """5 items, 2 tags; relations as (type of the other end, pairs)."""
    src, dst = np.array(interactions).T
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", src.max() + 1), ("item", 5), ("tag", 2))}
    links = {n: Relation.of(n, "item", end, *np.array(pairs).T) for n, (end, pairs) in relations.items()}
    return Graph("user", "item", nodes, Relation.of("chose", "user", "item", src, dst), links, "f")


def test_worked_by_hand():
    """Items 0 and 1 share a tag, items 2 and 3 a user, item 4 nothing.

    With λ = w = 1 the Gram matrix has blocks [[3, 1], [1, 3]], [[2, 1], [1, 2]] and [2]: B_01 = 1/3, B_23 = 1/2.
    """
    graph = small([(0, 0), (1, 1), (2, 2), (2, 3), (3, 4)], has_tag=("tag", [(0, 0), (1, 0)]))
    model = RelationalEASE(graph, RelationalEASEConfig(l2=1.0, weight=1.0)).solve()
    tagged, chosen = Explainer(model, graph).explain([1, 3], history=[0, 2])
    assert (tagged.item, tagged.rank, tagged.by_fold_in) == (1, 2, False)
    assert tagged.score == pytest.approx(1 / 3)
    (reason,) = tagged.reasons  # nobody chose both: the interactions are no reason
    assert reason == Reason(
        0, "has_tag", (("tag", 0),), reason.strength, 2.5, reason.score_without, reason.rank_without_link,
        reason.score_without_link, True,
    )  # fmt: skip
    # the choice alone leaves nothing but rounding: beside item 4, behind item 3
    assert reason.score_without_link == pytest.approx(0, abs=1e-6)
    assert 2 <= reason.rank_without_link <= 3
    assert reason.strength == pytest.approx(1 / 3)
    assert reason.score_without == pytest.approx(0, abs=1e-6)
    assert (chosen.item, chosen.rank) == (3, 1)
    (reason,) = chosen.reasons
    assert reason == Reason(2, "interactions", (), reason.strength, 2.5, reason.score_without, None, None, True)
    assert (reason.strength, reason.score_without) == (pytest.approx(1 / 2), pytest.approx(0, abs=1e-6))


def test_worked_by_hand_without_relations():
    """Cosines n_ij / √(n_i n_j): item 2 gets 2 / √12 from item 0, 1 / √8 from item 1; item 3 gets 1 / √2 from 1."""
    graph = small([(0, 0), (1, 0), (1, 2), (2, 0), (2, 2), (3, 1), (3, 3), (4, 1), (4, 2), (5, 2), (5, 4)])
    model = ItemKNN(graph, ItemKNNConfig(neighbours=4, shrinkage=0.0)).solve()
    of_0, of_1 = 2 / np.sqrt(3 * 4), 1 / np.sqrt(2 * 4)
    found = explain(model, graph, 2, history=[0, 1])
    assert found.rank == 1
    assert found.score == pytest.approx(of_0 + of_1, abs=1e-5)
    # without item 0 item 3 is above, at .71 against .35; without item 1 it has nothing
    assert [(r.via, r.relation, r.rank_without) for r in found.reasons] == [
        (0, "interactions", 2),
        (1, "interactions", 1),
    ]
    assert [r.score_without for r in found.reasons] == pytest.approx([of_1, of_0], abs=1e-5)
    assert [r.strength for r in found.reasons] == pytest.approx([of_0, of_1], abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (RelationalEASE, EASE_CONFIG),
        (SparseEASE, SparseEASEConfig(neighbours=15, weight=10.0)),
        (RelationalItemKNN, RelationalItemKNNConfig(neighbours=60, weight=10.0)),
    ],
)
def test_every_reason_is_what_the_model_says_without_its_path(graph, kind, config):
    """The graph less the links, written down anew and solved from scratch, is asked about the history less j."""
    checked, model = set(), kind(graph, config).solve()
    explainer = Explainer(model, graph)
    for user in (1, 2):
        history = graph.interactions.dst[graph.interactions.src == user].tolist()
        item = best_items(model, graph, user)[1]
        (found,) = explainer.explain([item], user=user, n=50)
        for reason in found.reasons[:6]:
            relations = dict(graph.relations)
            if reason.relation != "interactions":
                r = relations[reason.relation]
                ends = {row for _, row in reason.through} or {reason.via}
                gone = [{a, b} for b in ends for a in (reason.via, item) if reason.through or a != b]
                pairs = zip(r.src.tolist(), r.dst.tolist(), strict=True)
                if r.undirected:
                    left = [at for at, pair in enumerate(pairs) if set(pair) not in gone]
                else:
                    left = [at for at, (a, b) in enumerate(pairs) if not (a in (reason.via, item) and b in ends)]
                relations[r.name] = Relation.of(r.name, r.source, r.target, r.src[left], r.dst[left], r.weight[left])
            other = kind(replace(graph, relations=relations), config).solve()
            left = [i for i in history if i != reason.via]
            scores = other.fold_in([torch.tensor(left)])[0].numpy()
            assert reason.score_without == pytest.approx(float(scores[item]), abs=1e-5)
            above = (np.delete(scores, history) > scores[item]).sum()
            assert reason.rank_without == 1 + above
            if reason.relation == "interactions":
                assert (reason.rank_without_link, reason.score_without_link) == (None, None)
            else:  # the links alone: the choice of j stays
                scores = other.fold_in([torch.tensor(history)])[0].numpy()
                assert reason.score_without_link == pytest.approx(float(scores[item]), abs=1e-5)
                assert reason.rank_without_link == 1 + (np.delete(scores, history) > scores[item]).sum()
            checked.add((reason.relation, len(reason.through)))
    assert checked >= {("has_tag", 1), ("similar", 0), ("interactions", 0)}


def best_items(model, graph, user, k=5):
    scores = model.score(torch.tensor([user]))[0]
    scores[torch.from_numpy(graph.interactions.dst[graph.interactions.src == user]).long()] = -np.inf
    return scores.topk(k).indices.tolist()


def in_block(explainer, graph, items_of, users=range(24)):
    """Share of the reasons that run inside the user's block, and how many there are."""
    inside = []
    for user in users:
        items = [i for i in items_of(user) if i % BLOCKS == user % BLOCKS]
        for found in explainer.explain(items, user=user):
            for reason in found.reasons[:2]:
                nodes = [reason.via, *(row for _, row in reason.through)]
                inside.append(all(node % BLOCKS == user % BLOCKS for node in nodes))
    return np.mean(inside), len(inside)


def test_reasons_lie_in_the_planted_block(graph, model, explainer):
    share, n = in_block(explainer, graph, lambda user: best_items(model, graph, user))
    assert n > 150
    assert share > 0.97
    chance = RandomOrder(graph).solve()
    share, n = in_block(Explainer(chance, graph), graph, lambda user: best_items(chance, graph, user, 20))
    assert n > 50
    assert share < 0.93  # 9 of 10 items of a history are of the block


def test_reasons_of_sparse_ease_lie_in_the_planted_block(graph):
    model = SparseEASE(graph, SparseEASEConfig(neighbours=15)).solve()
    share, n = in_block(Explainer(model, graph), graph, lambda user: best_items(model, graph, user))
    assert n > 150
    assert share > 0.97


def test_order_and_number_of_reasons(graph, model, explainer):
    for user in range(8):
        item = best_items(model, graph, user)[2]
        (found,) = explainer.explain([item], user=user, n=50)
        assert found.rank == 3
        keys = [(-r.rank_without, r.score_without) for r in found.reasons]
        assert keys == sorted(keys)
        assert len({(r.via, r.relation) for r in found.reasons}) == len(found.reasons) > 3
        for r in found.reasons:
            assert r.rank_without > 3 or (r.rank_without == 3 and r.score_without < found.score)
        (short,) = explainer.explain([item], user=user, n=2)
        assert short.reasons == found.reasons[:2]
        assert len(explainer.explain([item], user=user, n=50, max_paths=4)[0].reasons) <= 4
        assert explain(model, graph, item, user=user, n=50) == found


def test_strengths_of_an_item_add_up_to_what_it_contributes():
    """One tag and the interactions link items 0 and 1; nothing else acts on 1."""
    graph = small([(0, 0), (0, 1), (1, 2), (2, 3), (3, 4)], has_tag=("tag", [(0, 0), (1, 0)]))
    model = RelationalEASE(graph, RelationalEASEConfig(l2=1.0, weight=3.0)).solve()
    found = explain(model, graph, 1, history=[0])
    strength = {r.relation: r.strength for r in found.reasons}
    assert sum(strength.values()) == pytest.approx(float(model.item_weights[0, 1]))
    assert strength["has_tag"] == pytest.approx(3 * strength["interactions"])


def test_links_that_do_nothing_by_themselves_are_not_named(graph):
    """A relation of so small a weight that it changes no score: j alone explains the item."""
    config = RelationalEASEConfig(l2=20.0, weights={"has_tag": 10.0, "similar": 1e-9})
    explainer = Explainer(RelationalEASE(graph, config).solve(), graph)
    named = {
        r.relation
        for user in range(8)
        for e in explainer.explain(best_items(explainer.counterfactuals.model, graph, user), user=user, n=50)
        for r in e.reasons
    }
    assert named == {"has_tag", "interactions"}


def test_a_user_and_their_history_get_the_same_answer(graph, model, explainer):
    history = graph.interactions.dst[graph.interactions.src == 3].tolist()
    items = best_items(model, graph, 3)
    assert explainer.explain(items, user=3) == explainer.explain(items, history=history)
    exclude_items = best_items(model, graph, 3, 4)
    (found,) = explainer.explain(items[4:], user=3, exclude_items=exclude_items)
    assert found.rank == 1
    assert explainer.explain(items[4:], user=3)[0].rank == 5


def test_nothing_but_the_interactions_where_a_model_reads_nothing_else(graph):
    model = EASE(graph, EASEConfig(20.0)).solve()
    for found in Explainer(model, graph).explain(best_items(model, graph, 5), user=5):
        assert {(r.relation, r.through, r.exact) for r in found.reasons} == {("interactions", (), True)}


def test_an_empty_history_has_no_reasons(explainer):
    (found,) = explainer.explain([4], history=[])
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("item", "asked", "message"),
    [
        (120, {"user": 1}, "item row outside the catalogue"),
        (-1, {"user": 1}, "item row outside the catalogue"),
        (7, {"history": [3, 7]}, "item is in the history"),
        (7, {"user": 160}, "user row outside the graph"),
        (7, {"history": [120]}, "item row outside the catalogue"),
        (7, {}, "either a user or a history"),
        (7, {"user": 1, "history": [3]}, "either a user or a history"),
        (7, {"history": [3], "n": 0}, "n is below 1"),
        (7, {"history": [3], "max_paths": 0}, "max_paths is below 1"),
    ],
)
def test_bad_questions_are_refused(graph, model, item, asked, message):
    with pytest.raises(InputError, match=message):
        explain(model, graph, item, **asked)


def test_weights_of_interactions_change_what_an_item_contributes(graph):
    """An interaction of weight 0.01 is hardly a reason."""
    edges = graph.interactions
    weight = np.ones(len(edges), np.float32)
    mine = np.flatnonzero(edges.src == 1)
    model = EASE(graph, EASEConfig(20.0)).solve()
    item = best_items(model, graph, 1)[0]
    first = explain(model, graph, item, user=1).reasons[0].via
    weight[mine[edges.dst[mine] == first]] = 0.01
    less = replace(graph, interactions=replace(edges, weight=weight))
    found = explain(EASE(less, EASEConfig(20.0)).solve(), less, item, user=1, n=20)
    assert found.reasons[0].via != first
    assert all(abs(r.strength) < 0.01 for r in found.reasons if r.via == first)
