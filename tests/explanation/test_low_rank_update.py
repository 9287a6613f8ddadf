"""The oracle is the model itself, solved from scratch on a graph that never had the links."""

import numpy as np
import pytest
import torch
from dense_truth import SIZES, random_graph

from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.relation import Relation
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig

WEIGHTS = {"has_tag": 5.0, "tagged": 2.0, "similar": 3.0, "lives_in": 2.0}
RELATIONS = (
    ("has_tag", "item", "tag", 40),
    ("tagged", "tag", "item", 30),
    ("similar", "item", "item", 60),
    ("lives_in", "user", "city", 25),
)


@pytest.fixture(params=[RELATIONS, RELATIONS[:3]], ids=["users' columns beside", "items alone"])
def graph(request):
    return random_graph(3, *request.param)


def config(graph, **more):
    return RelationalEASEConfig(l2=4.0, weights={n: w for n, w in (WEIGHTS | more).items() if n in graph.relations})


def inputs(model, user):
    """Columns and values of a user's row, pseudo-items behind the items."""
    x, (columns, values) = model.history.take(np.array([user])), model.user_pseudo_items(user)
    return np.concatenate([x.indices, columns + SIZES["item"]]).astype(np.int64), np.concatenate([x.data, values])


def links_of(relation, places):
    ends = (relation.src, relation.dst) if relation.source == "item" else (relation.dst, relation.src)
    return tuple((int(ends[0][at]), int(ends[1][at])) for at in places)


def solved_without(graph, name, places):
    r = graph.relations[name]
    kept = [at for at in range(len(r)) if at not in places]
    less = Relation.of(name, r.source, r.target, r.src[kept], r.dst[kept], r.weight[kept])
    other = type(graph)(
        graph.user, graph.item, graph.nodes, graph.interactions, {**graph.relations, name: less}, "other"
    )
    return RelationalEASE(other, config(other)).solve()


def test_equals_solving_from_scratch(graph):
    model = RelationalEASE(graph, config(graph)).solve()
    link_update = LowRankUpdate(model)
    cuts, want = [], []
    for name in ("has_tag", "tagged", "similar"):
        relation, rng = graph.relations[name], np.random.default_rng(1)
        for links in (1, 2, 3):
            places = rng.choice(len(relation), links, replace=False).tolist()
            cuts.append(EdgeRemoval(name, links_of(relation, places)))
            want.append(solved_without(graph, name, places).score(torch.tensor([len(cuts)]))[0].numpy())
    assert all(link_update.supports(cut) for cut in cuts)
    users = range(1, len(cuts) + 1)
    got = link_update.scores([inputs(model, u) for u in users], cuts)
    want = np.array(want)
    before = model.score(torch.tensor(list(users))).numpy()
    size = np.abs(want).max()
    assert np.abs(got - want).max() < 1e-5 * size
    assert (np.abs(before - want).max(axis=1) > 1e-2 * size).all()  # the links matter, each set of them


def test_an_item_may_lose_all_its_links_and_a_cut_may_serve_several_rows(graph):
    model = RelationalEASE(graph, config(graph)).solve()
    relation = graph.relations["has_tag"]
    places = np.flatnonzero(relation.src == relation.src[0]).tolist()
    cut = EdgeRemoval("has_tag", links_of(relation, places))
    want = solved_without(graph, "has_tag", places).score(torch.tensor([4, 9])).numpy()
    got = LowRankUpdate(model).scores([inputs(model, u) for u in (4, 2, 9)], [cut, EdgeRemoval(None, ()), cut])
    np.testing.assert_allclose(got[[0, 2]], want, atol=1e-5)
    np.testing.assert_allclose(got[1], model.score(torch.tensor([2]))[0].numpy(), atol=1e-6)


def test_links_of_next_to_no_weight_change_next_to_nothing(graph):
    """1 / w overflows here, so nothing may be divided by it."""
    model = RelationalEASE(graph, config(graph, has_tag=1e-310)).solve()
    cut = EdgeRemoval("has_tag", links_of(graph.relations["has_tag"], [0, 1]))
    with np.errstate(all="raise", under="ignore"):
        got = LowRankUpdate(model).scores([inputs(model, 4)], [cut])
    np.testing.assert_allclose(got[0], model.score(torch.tensor([4]))[0].numpy(), atol=1e-6)


def test_the_only_largest_weight_within_the_items_does_not_fit(graph):
    """Its relation is scaled by the largest weight, so every row would change."""
    link_update = LowRankUpdate(RelationalEASE(graph, config(graph)).solve())
    relation = graph.relations["similar"]
    largest = int(relation.weight.argmax())
    assert relation.weight[largest] > 1
    src, dst = int(relation.src[largest]), int(relation.dst[largest])
    assert not link_update.supports(EdgeRemoval("similar", ((src, dst),)))
    assert not link_update.supports(EdgeRemoval("similar", ((dst, src),)))
