"""Relational item-kNN against its definition, item-kNN as its limit, and a planted truth that relations decide."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from dense_truth import OF_ITEMS, SIZES, random_graph

from relrank.errors import InputError
from relrank.evaluation import metrics
from relrank.evaluation.ranking import ranks
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN, RelationalItemKNNConfig
from relrank.models.core.relation_rows import entry_counts, stacked, unit_relation_rows
from relrank.tables.ids import IdMap
from relrank.testing import BLOCKS, ModelContract, planted_graph

USERS = torch.arange(SIZES["user"])
READ = ("has_tag", "in_land", "near", "similar", "tagged", "used_in")
"""Relations of the graph below that are read."""


class TestRelations(ModelContract):
    """Equal cosines at the last place go to the lower row, so that a contract on row numbers needs all neighbours."""

    kind = RelationalItemKNN
    config = RelationalItemKNNConfig(neighbours=119)


class TestInteractionsAlone(ModelContract):
    kind = RelationalItemKNN
    config = RelationalItemKNNConfig(neighbours=119)

    def graph(self):
        return planted_graph().only()


@pytest.fixture
def graph():
    """All relations have weights; one within the items, two within other types, two that lead there by chains."""
    return random_graph(
        3,
        *OF_ITEMS,
        ("near", "tag", "tag", 10),
        ("used_in", "tag", "land", 9),
        ("lives_in", "user", "city", 25),
        ("follows", "user", "user", 70),
        ("in_land", "city", "land", 12),
        ("rated", "user", "item", 50),
    )


def weights_of(model) -> np.ndarray:
    """W, [n_items, n_items]: the scores of histories of one item."""
    return model.fold_in([torch.tensor([i]) for i in range(model.graph.n_items)]).numpy()


def edges(relation: Relation, of_items: str = "item") -> np.ndarray:
    """A relation as a dense matrix with the items as rows; within them each item is its own neighbour of weight 1."""
    a = np.zeros((SIZES[relation.source], SIZES[relation.target]))
    a[relation.src, relation.dst] = relation.weight
    if relation.undirected:
        return (a + a.T) / relation.weight.max() + np.eye(len(a))
    return a if relation.source == of_items else a.T


def naive(graph: Graph, relations: dict[str, float], shrinkage: float) -> np.ndarray:
    """Shrunk cosines by a double loop over the columns of the explicit stack."""
    x = np.zeros((graph.n_users, graph.n_items))
    x[graph.interactions.src, graph.interactions.dst] = graph.interactions.weight
    stack = [x]
    for name, weight in relations.items():
        rows = edges(graph.relations[name])
        length = np.sqrt((rows**2).sum(1, keepdims=True))
        stack.append(math.sqrt(weight) * np.divide(rows, length, out=np.zeros_like(rows), where=length > 0).T)
    z = np.vstack(stack)
    w = np.zeros((graph.n_items, graph.n_items))
    for i in range(graph.n_items):
        for j in range(graph.n_items):
            if i != j and z[:, i] @ z[:, j] > 0:
                both = math.sqrt(z[:, i] @ z[:, i]) * math.sqrt(z[:, j] @ z[:, j])
                w[i, j] = z[:, i] @ z[:, j] / (both + shrinkage)
    return w


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
@pytest.mark.parametrize(
    "weights",
    [
        {"has_tag": 0.4, "similar": 7.0},
        {"has_tag": 2.0, "tagged": 0.5, "similar": 1.0},
        {"tagged": 30.0},
    ],
)
def test_similarities_equal_the_double_loop_over_the_stack(graph, weights, shrinkage):
    drawn = np.random.default_rng(5).uniform(0.5, 2, len(graph.interactions)).astype(np.float32)
    graph = replace(graph, interactions=replace(graph.interactions, weight=drawn))
    config = RelationalItemKNNConfig(200, shrinkage, weight=0.0, weights=weights)
    found = weights_of(RelationalItemKNN(graph, config).solve())
    np.testing.assert_allclose(found, naive(graph, weights, shrinkage), rtol=1e-5, atol=1e-7)


def test_relations_that_are_not_named_have_the_common_weight(graph):
    graph = graph.only("has_tag", "similar", "tagged")
    config = RelationalItemKNNConfig(200, 3.0, weight=2.5, weights={"similar": 0.0})
    found = weights_of(RelationalItemKNN(graph, config).solve())
    np.testing.assert_allclose(found, naive(graph, {"has_tag": 2.5, "tagged": 2.5}, 3.0), rtol=1e-5, atol=1e-7)
    assert RelationalItemKNNConfig().weight == 1.0


def test_only_the_nearest_are_kept(graph):
    config = RelationalItemKNNConfig(4, 5.0, weight=0.0, weights={"has_tag": 3.0, "similar": 1.0})
    found = weights_of(RelationalItemKNN(graph, config).solve())
    whole = naive(graph, {"has_tag": 3.0, "similar": 1.0}, 5.0)
    fourth = np.sort(whole, 1)[:, -4:-3]
    np.testing.assert_allclose(found, np.where(whole >= fourth * (1 - 1e-6), whole, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("neighbours", [3, 200])
@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, ()),
        ({"weight": 0.0}, None),
        ({"weight": 5.0, "weights": dict.fromkeys(READ, 0.0)}, None),
        ({"weight": 5.0}, ("lives_in", "follows", "rated")),
    ],
    ids=["no relations", "weight 0", "weights of 0", "relations of users"],
)
def test_without_relations_it_is_item_knn_bit_for_bit(graph, config, kept, neighbours):
    graph = graph if kept is None else graph.only(*kept)
    own = RelationalItemKNN(graph, RelationalItemKNNConfig(neighbours, 2.0, **config)).solve()
    plain = ItemKNN(graph, ItemKNNConfig(neighbours, 2.0)).solve()
    for name, tensor in plain.state().items():
        assert torch.equal(own.state()[name], tensor), name
    assert torch.equal(own.score(USERS), plain.score(USERS))
    other = RelationalItemKNN(random_graph(3, ("has_tag", "item", "tag", 40)), RelationalItemKNNConfig(neighbours))
    assert not torch.equal(other.solve().score(USERS), own.score(USERS))


def test_a_relation_two_hops_away_is_what_it_says_when_composed_by_hand(graph):
    """Item → tag → land: of its tags, by weight, an item has shares, and so has a tag of its lands."""
    graph = graph.only("has_tag", "used_in")
    shares = [
        np.divide(a, a.sum(1, keepdims=True), out=np.zeros_like(a), where=a.sum(1, keepdims=True) > 0)
        for a in (edges(graph.relations["has_tag"]), edges(graph.relations["used_in"], "tag"))
    ]
    lands = shares[0] @ shares[1]
    item, land = np.nonzero(lands)
    direct = Relation.of("from", "item", "land", item, land, lands[item, land])
    flat = replace(graph, relations={"from": direct})
    weights = {"has_tag": 0.0, "used_in": 3.0}
    chained = weights_of(RelationalItemKNN(graph, RelationalItemKNNConfig(200, 1.0, weights=weights)).solve())
    by_hand = weights_of(RelationalItemKNN(flat, RelationalItemKNNConfig(200, 1.0, weight=3.0)).solve())
    np.testing.assert_allclose(chained, by_hand, rtol=1e-5, atol=1e-7)
    alone = weights_of(ItemKNN(graph, ItemKNNConfig(200, 1.0)).solve())
    assert np.abs(chained - alone).max() > 0.1


def test_relations_of_users_are_not_read(graph):
    """Nor what leads to them; a relation that leads to both is one of items."""
    assert RelationalItemKNN.used_relations(graph, None) == READ
    graph = graph.without("used_in")  # then the lands are those of the users' cities alone
    kept = ("has_tag", "near", "similar", "tagged")
    assert RelationalItemKNN.used_relations(graph, None) == kept
    grid_parameters = RelationalItemKNN.grid_parameters(graph)
    assert grid_parameters[:2] == ItemKNN.grid_parameters(graph)
    assert [k.name for k in grid_parameters[2:]] == [f"weights.{name}" for name in kept]
    assert {(k.start, k.group) for k in grid_parameters[2:]} == {(0.0, "weights")}
    config = RelationalItemKNNConfig(200, 2.0, weight=4.0)
    one, other = (RelationalItemKNN(g, config).solve() for g in (graph, graph.only(*kept)))
    assert torch.equal(one.score(USERS), other.score(USERS))
    assert one.from_history


def mean_ndcg(model: RelationalItemKNN, truth: Csr) -> float:
    found = ranks(model, model.history, truth)
    return float(metrics.ndcg(metrics.tie_groups(found.higher, found.equal, found.indptr), 10).mean())


def test_a_relation_that_decides_is_worth_its_weight():
    """Users have few items and many by chance; what they choose next is of the makers whom they chose."""
    rng, users, items, makers = np.random.default_rng(0), 200, 150, 30
    maker = rng.integers(0, makers, items)
    # half of a user's choices are of one maker, half of anybody; one of the maker is held out
    own = [rng.permutation(np.flatnonzero(maker == maker[rng.integers(items)]))[:3] for _ in range(users)]
    held = np.array([part[0] for part in own])
    pairs = {(u, int(i)) for u, part in enumerate(own) for i in part[1:]}
    pairs |= {(u, int(i)) for u in range(users) for i in rng.choice(items, 2, replace=False) if i != held[u]}
    src, dst = np.array(sorted(pairs)).T
    ids = {n: IdMap(n, pl.Series(range(size))) for n, size in (("user", users), ("item", items), ("maker", makers))}
    made = Relation.of("made_by", "item", "maker", np.arange(items), maker)
    shuffled = Relation.of("made_by", "item", "maker", np.arange(items), rng.permutation(maker))
    graph = Graph("user", "item", ids, Relation.of("chose", "user", "item", src, dst), {"made_by": made}, "f")
    truth = Csr.from_pairs(np.arange(users), held, (users, items))
    config = RelationalItemKNNConfig(shrinkage=2.0)
    without, with_it, by_chance = (
        mean_ndcg(RelationalItemKNN(g, replace(config, weights={"made_by": w})).solve(), truth)
        for g, w in ((graph, 0.0), (graph, 10.0), (replace(graph, relations={"made_by": shuffled}), 10.0))
    )
    assert with_it > without + 0.15
    assert by_chance < without + 0.05


def test_an_item_that_nobody_chose_gets_scores_through_its_relations():
    graph = planted_graph()
    kept = graph.interactions.where(graph.interactions.dst != 7)
    model = RelationalItemKNN(replace(graph, interactions=kept)).solve()
    scores = model.score(torch.arange(graph.n_users))[:, 7].numpy()
    own = np.arange(graph.n_users) % BLOCKS == 7 % BLOCKS
    assert scores[own].mean() > 5 * scores[~own].mean()


@pytest.mark.parametrize(
    ("field", "value"),
    [("weights", {"has_tag": -1.0}), ("weights", {"similar": math.inf}), ("weights", {"lives_in": math.nan}),
     ("weight", -0.5), ("weight", math.nan), ("neighbours", 0), ("shrinkage", -1.0), ("shrinkage", math.inf)],
)  # fmt: skip
def test_values_out_of_range_are_refused(graph, field, value):
    name = f"weights.{next(iter(value))}" if isinstance(value, dict) else field
    with pytest.raises(InputError, match=rf"out of range[\s\S]*relational-item-knn, {name}"):
        RelationalItemKNN(graph, RelationalItemKNNConfig(**{field: value}))


def test_a_stack_is_written_by_columns_and_by_rows(graph):
    """One part below the other; a part may have fewer rows than there are columns."""
    first = Csr.from_pairs(np.array([0, 1, 1]), np.array([2, 0, 3]), (2, 4), np.array([1.0, 2.0, 3.0]))
    part = Csr.from_pairs(np.array([0, 2]), np.array([1, 0]), (3, 2), np.array([5.0, 7.0]))
    by_column, by_row = stacked(first, [(part, 4.0), (part, 0.25)])
    expected = np.array(
        [[0, 0, 1, 0], [2, 0, 0, 3], [0, 0, 14, 0], [10, 0, 0, 0], [0, 0, 3.5, 0], [2.5, 0, 0, 0]], np.float32
    )
    for matrix, dense in ((by_row, expected), (by_column, expected.T)):
        found = np.zeros(dense.shape, np.float32)
        found[matrix.rows(), matrix.indices] = matrix.data
        assert (matrix.n_rows, matrix.n_cols) == dense.shape
        np.testing.assert_array_equal(found, dense)


@pytest.mark.parametrize("name", ["has_tag", "tagged", "similar", "near", "used_in"])
def test_what_is_estimated_of_rows_is_what_they_have_or_more(graph, name):
    """Exact where no chain is walked; along one, no entry and no meeting is forgotten."""
    relation = graph.relations[name]
    rows = unit_relation_rows(graph, relation)
    degrees = np.bincount(rows.indices, minlength=rows.n_cols)
    met = np.bincount(rows.rows(), weights=degrees[rows.indices] - 1, minlength=rows.n_rows)
    entries, meetings = entry_counts(graph, relation)
    if "item" in (relation.source, relation.target):
        np.testing.assert_array_equal(entries, degrees)
        np.testing.assert_array_equal(meetings, met)
    assert (entries >= degrees).all()
    assert (meetings >= met).all()
    assert entries.sum() < 5 * degrees.sum()
