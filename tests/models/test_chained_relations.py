"""Chained relations: models report which they use, and a chain gives the same scores as the equivalent relation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_truth import SIZES, random_graph
from featured import dense as feature

from relrank.explanation import link_update
from relrank.explanation.counterfactuals import Counterfactuals, Deletion
from relrank.explanation.explainer import Explainer
from relrank.explanation.local_update import LocalUpdate
from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.composition import compose_relation
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.relation import Relation
from relrank.models import MODELS
from relrank.models.closed_form import sparse_ease
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.base import ClosedForm, override_config

USERS = torch.arange(SIZES["user"])
OF_NETWORKS = {"dim": 8}
SETTINGS = {
    "relational-ease": {"weight": 3.0},
    "sparse-ease": {"weight": 3.0},
    "relational-item-knn": {"weight": 3.0},
    "bspm": {"weight": 0.5, "rank": 4},
    "chebycf": {"weight": 0.5, "rank": 4},
    "flat-filter": {"weight": 0.5, "rank": 4},
    "ials": {"weight": 1.0, "dim": 8, "iterations": 3},
    "path-fusion": OF_NETWORKS,
    "two-view": OF_NETWORKS,
}
"""Models that compose relations, with every relation in use."""
LAYERED = ("graphsage", "rgcn", "hgt", "gatv2", "relational-lightgcn", "xsimgcl", "hybrid")
"""Models that pass messages, with a field ``layers``."""


def graph(seed=3):
    return random_graph(
        seed,
        ("has_tag", "item", "tag", 40),
        ("in_city", "tag", "city", 14),
        ("of_land", "land", "city", 8),
        ("near", "tag", "tag", 10),
        ("follows", "user", "user", 60),
        ("similar", "item", "item", 30),
    )


def users_graph(seed=3):
    """Relations behind one of users alone."""
    return random_graph(seed, ("lives_in", "user", "city", 25), ("in_land", "city", "land", 8))


def scores(name, graph, **settings):
    config = override_config(MODELS[name].Config(), {**SETTINGS.get(name, {}), **settings}, name)
    model = MODELS[name](graph, config)
    if isinstance(model, ClosedForm):
        return model.solve().score(USERS)
    model.init_weights(0)
    model.refresh()
    with torch.no_grad():
        return model.score(USERS)


def joined(graph, *names):
    """The same facts as an explicit join: dense products of shares along the way."""

    def shares(name, forward=True):
        r = graph.relations[name]
        a = np.zeros((SIZES[r.source], SIZES[r.target]))
        a[r.src, r.dst] = r.weight
        if r.source == r.target:
            a = (a + a.T) / max(a.max(), 1) + np.eye(len(a))
        a = a if forward else a.T
        sums = a.sum(1, keepdims=True)
        return np.divide(a, sums, out=np.zeros_like(a), where=sums > 0)

    ways = {
        "in_city": lambda: ("item", "city", shares("has_tag") @ shares("in_city")),
        "of_land": lambda: ("item", "land", shares("has_tag") @ shares("in_city") @ shares("of_land", forward=False)),
        "near": lambda: ("item", "tag", shares("has_tag") @ shares("near")),
        "in_land": lambda: ("user", "land", shares("lives_in") @ shares("in_land")),
    }
    flat = dict(graph.relations)
    for name in names:
        source, target, a = ways[name]()
        flat[name] = Relation.of(name, source, target, *np.nonzero(a), a[np.nonzero(a)])
    return replace(graph, relations=flat)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_chain_says_what_the_same_facts_say_directly(name):
    chain = graph()
    flat = joined(chain, "in_city", "of_land", "near")
    found = scores(name, chain)
    torch.testing.assert_close(found, scores(name, flat), atol=2e-4, rtol=1e-3)
    assert (found - scores(name, chain.without("of_land"))).abs().max() > 1e-3 * found.abs().max()


@pytest.mark.parametrize("name", ["relational-ease", "sparse-ease", "ials", "path-fusion", "two-view"])
def test_likewise_behind_relations_of_users(name):
    chain = users_graph()
    torch.testing.assert_close(scores(name, chain), scores(name, joined(chain, "in_land")), atol=2e-4, rtol=1e-3)
    assert "in_land" in MODELS[name].used_relations(chain, MODELS[name].Config())
    assert "in_land" not in MODELS[name].used_relations(chain.only("in_land"), MODELS[name].Config())


@pytest.mark.parametrize("name", ["bspm", "chebycf", "flat-filter", "relational-item-knn"])
def test_models_that_know_histories_alone_read_no_relation_of_users(name):
    chain = users_graph()
    assert MODELS[name].used_relations(chain, None) == ()
    assert torch.equal(scores(name, chain), scores(name, chain.only()))
    assert not [k for k in MODELS[name].grid_parameters(chain) if k.name.startswith("weights.")]


def other_edges(graph, name):
    """The same graph, one relation with other edges between the same nodes."""
    r = graph.relations[name]
    src, dst = (np.roll(np.arange(SIZES[t])[::-1], 1)[a] for t, a in ((r.source, r.src), (r.target, r.dst)))
    if r.source != r.target:
        src = r.src
    weight = r.weight[::-1].copy()
    return replace(
        graph, relations={**graph.relations, name: Relation.of(name, r.source, r.target, src, dst, weight)}
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in SETTINGS),
        ("two-view", {"views": "text"}),
        ("two-view", {"paths": "all"}),
        *((name, {"layers": layers, "dim": 8}) for name in LAYERED for layers in (1, 2, 3)),
        ("graphsage", {"layers": 1, "dim": 8, "user_vectors": True}),
    ],
)
def test_reads_names_the_relations_that_can_change_a_score_and_no_others(name, settings):
    whole = graph()
    if name == "hybrid":
        look = feature("look", "item", SIZES["item"])
        whole = replace(whole, features={"look": look})
    config = override_config(MODELS[name].Config(), {**SETTINGS.get(name, {}), **settings}, name)
    before = scores(name, whole, **settings)
    changed = {r for r in whole.relations if not torch.equal(before, scores(name, other_edges(whole, r), **settings))}
    assert set(MODELS[name].used_relations(whole, config)) == changed


def test_a_model_of_sequences_reads_what_lies_within_the_layers_of_its_graph():
    kind, whole = MODELS["sequence-fusion"], graph()

    def read(**settings):
        return set(kind.used_relations(whole, override_config(kind.Config(), settings, "")))

    near = {"has_tag", "similar"}
    assert read(graph_layers=1) == near
    assert read() == near | {"in_city", "near"}
    assert read(graph_layers=3) == near | {"in_city", "near", "of_land"}
    assert read(graph_layers=1, pretrain=1) == near | {"in_city", "near", "of_land"}


def test_kept_gram_matrices_and_solutions_are_those_of_the_chain_at_hand():
    """The hop has no weight of its own, and yet it decides."""
    whole, config = graph().only("has_tag", "of_land", "in_city"), RelationalEASEConfig(weights={"has_tag": 0.0})
    shuffled = whole.rewired("has_tag", 1)
    RelationalEASE(whole, config).solve_from(whole)
    warm = RelationalEASE(shuffled, config).solve_from(whole).score(USERS)
    RelationalEASE.clear_cache()
    assert torch.equal(RelationalEASE(shuffled, config).solve().score(USERS), warm)
    assert not torch.allclose(RelationalEASE(whole, config).solve().score(USERS), warm, atol=1e-3)


def test_an_arm_without_a_hop_comes_from_the_whole_solution_without_what_hangs_on_it():
    whole = graph().only("has_tag", "in_city", "of_land", "similar")
    config = RelationalEASEConfig(l2=5.0, weights={"has_tag": 0.0, "in_city": 0.0, "of_land": 4.0, "similar": 2.0})
    for arm in (whole.without("has_tag"), whole.without("in_city"), whole.without("of_land")):
        found = RelationalEASE(arm, config).solve_from(whole).score(USERS)
        torch.testing.assert_close(found, RelationalEASE(whole.only("similar"), config).solve().score(USERS))


NEAR_SOURCE = {"has_tag": True, "in_city": True, "of_land": False}
"""Whether the end nearer to the items is a relation's source."""


def links(graph, name, places):
    r = graph.relations[name]
    near, far = (r.src, r.dst) if NEAR_SOURCE[name] else (r.dst, r.src)
    return tuple((int(near[at]), int(far[at])) for at in places)


def solved_without(model, name, places):
    """From scratch on a graph that never had the links."""
    r = model.graph.relations[name]
    relations = {**model.graph.relations, name: r.where(~np.isin(np.arange(len(r)), places))}
    return type(model)(replace(model.graph, relations=relations), model.config).solve().score(USERS).numpy()


@pytest.mark.parametrize("weights", [{}, {"has_tag": 0.0}], ids=["all", "the hop itself left out"])
@pytest.mark.parametrize(
    ("kind", "without", "columns"),
    [
        (RelationalEASE, LowRankUpdate, 0),
        (SparseEASE, LocalUpdate, 10_000),
        (SparseEASE, LocalUpdate, 0),
    ],
)
def test_without_links_of_a_chain_it_is_what_it_would_be_solved_anew(kind, without, columns, weights, monkeypatch):
    monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", columns)
    model = kind(graph(), kind.Config(l2=4.0, weight=3.0, weights=weights)).solve()
    fewer, n = without(model), model.graph.n_items
    for name in NEAR_SOURCE:
        for places in ([0], [1, 5], [2, 3, 6]):
            cut = EdgeRemoval(name, links(model.graph, name, places))
            assert fewer.supports(cut)
            want, users = solved_without(model, name, places), range(0, SIZES["user"], 7)
            rows = [(model.history.take(np.array([u])), model.user_pseudo_items(u)) for u in users]
            inputs = [
                (np.concatenate([x.indices, c + n]).astype(np.int64), np.concatenate([x.data, v]))
                for x, (c, v) in rows
            ]
            got = fewer.scores(inputs, [cut] * len(inputs))
            np.testing.assert_allclose(got, want[list(users)], atol=1e-4)
            assert np.abs(got - model.score(USERS).numpy()[list(users)]).max() > 1e-3


def test_links_that_lead_to_too_many_items_are_solved_anew(monkeypatch):
    model = RelationalEASE(graph(), RelationalEASEConfig(l2=4.0, weight=3.0)).solve()
    cut = EdgeRemoval("of_land", links(model.graph, "of_land", [1, 5]))
    assert LowRankUpdate(model).supports(cut)
    monkeypatch.setattr(link_update, "FEW_ITEMS", 2)
    assert not LowRankUpdate(model).supports(cut)
    query = Counterfactuals(model, model.graph)
    scores, exact = query.without(query.query(3, None), [Deletion(None, cut)])
    assert exact == [True]
    np.testing.assert_allclose(scores[0], solved_without(model, "of_land", [1, 5])[3], atol=1e-4)


@pytest.mark.parametrize("name", ["relational-ease", "sparse-ease", "relational-item-knn", "bspm", "path-fusion"])
def test_a_reason_along_a_chain_names_its_nodes_and_is_what_the_model_says_without_its_links(name):
    """Three lands behind tags and cities, one of which decides what a user chooses."""
    rng = np.random.default_rng(0)
    base = random_graph(3, ("has_tag", "item", "tag", 20), ("in_city", "tag", "city", 7))
    tag = np.arange(SIZES["item"]) % SIZES["tag"]
    relations = {
        "has_tag": Relation.of("has_tag", "item", "tag", np.arange(SIZES["item"]), tag),
        "in_city": Relation.of("in_city", "tag", "city", np.arange(7), np.array([0, 0, 1, 1, 2, 2, 3])),
    }
    items = np.concatenate([rng.choice(np.flatnonzero(tag // 2 == u % 3), 3, replace=False) for u in range(30)])
    chose = Relation.of("chose", "user", "item", np.repeat(np.arange(30), 3), items)
    chain = replace(base, relations=relations, interactions=chose)
    weights = {"has_tag": 0.0, "in_city": 20.0}
    config = override_config(MODELS[name].Config(), {**SETTINGS[name], "weights": weights}, name)
    model = MODELS[name](chain, config)
    if isinstance(model, ClosedForm):
        model.solve()
    else:
        model.init_weights(0)
        model.refresh()
    targets = [i for i in np.flatnonzero(tag // 2 == 0).tolist() if i not in items[:3]]
    found = Explainer(model, chain).explain(targets, user=0, n=20, max_paths=40)
    mine = [(e.item, r) for e in found for r in e.reasons if r.relation == "in_city"]
    assert mine
    for target, reason in mine:
        (one, a), (far, city), (other, b) = reason.through
        assert (one, far, other) == ("tag", "city", "tag")
        assert a == tag[reason.via]
        assert b == tag[target]
        assert city == 0
        assert reason.exact == isinstance(model, ClosedForm)
        kept = ~(np.isin(relations["in_city"].src, [a, b]) & (relations["in_city"].dst == city))
        less = replace(chain, relations={**relations, "in_city": relations["in_city"].where(kept)})
        if isinstance(model, ClosedForm):
            anew = type(model)(less, config).solve().score(torch.tensor([0]))[0, target].item()
            assert reason.score_without_link == pytest.approx(anew, abs=1e-4)


def test_a_relation_behind_one_of_users_is_more_than_a_history_knows():
    """So exports, which need histories alone, are rejected."""
    only_far = {"weights": {"lives_in": 0.0, "in_land": 3.0}}
    for kind in (RelationalEASE, SparseEASE, MODELS["ials"]):
        assert not kind(users_graph(), kind.Config(**only_far)).from_history
        assert kind(users_graph().only("in_land"), kind.Config(**only_far)).from_history


def test_composition_is_kept():
    whole = graph()
    first = compose_relation(whole, whole.relations["of_land"])
    scores("bspm", whole)
    assert compose_relation(whole, whole.relations["of_land"]) is first
