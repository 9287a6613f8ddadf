"""Every counterfactual is held against a graph written down anew without the edges, by plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.explanation.counterfactuals import Counterfactuals, Deletion
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.histories import Sequences
from relrank.graph.relation import Relation
from relrank.models.closed_form import sparse_ease
from relrank.models.closed_form.baselines import Popularity
from relrank.models.closed_form.chebycf import ChebyCF, ChebyCFConfig
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.models.closed_form.flat_filter import FlatFilter, FlatFilterConfig
from relrank.models.closed_form.gf_cf import GFCF, GFCFConfig
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.closed_form.markov import Markov, MarkovConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN, RelationalItemKNNConfig
from relrank.models.closed_form.rp3beta import RP3Beta
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.models.graph.graphsage import GraphSAGE
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.models.graph.mf import MF
from relrank.testing import planted_graph, planted_sequences

USER = 6
EASE_CONFIG = RelationalEASEConfig(l2=20.0, weight=10.0)
SPARSE_CONFIG = SparseEASEConfig(neighbours=15, weight=10.0)
NOTHING = EdgeRemoval(None, ())


@pytest.fixture(scope="module")
def graph():
    return planted_graph()


def test_only_a_model_that_does_not_fit_is_approximated(graph, monkeypatch):
    """What else goes wrong on the way is an error: of the input, or of memory."""
    model = RelationalItemKNN(graph).solve()
    say = Counterfactuals(model, graph)
    link = int(graph.relations["has_tag"].src[0]), int(graph.relations["has_tag"].dst[0])
    query, gone = say.query(None, [3, 7]), [Deletion(None, EdgeRemoval("has_tag", (link,)))]

    def fails(error):
        def solve(self):
            raise error

        return solve

    slip = InputError("slip", where="here", expected="this", found="that")
    for error in (slip, RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        monkeypatch.setattr(RelationalItemKNN, "solve", fails(error))
        with pytest.raises(type(error), match=r"slip|allocate"):
            say.without(query, gone)
    monkeypatch.undo()
    assert say.without(query, gone)[1] == [True]
    monkeypatch.setattr(RelationalItemKNN, "__init__", lambda self, graph, config: fails(KeyError("has_tag"))(self))
    assert say.without(query, gone)[1] == [False]


def history(graph, user=USER):
    return [int(i) for u, i in zip(graph.interactions.src, graph.interactions.dst, strict=True) if u == user]


def anew(graph, relation=None, links=(), edge=None):
    """The graph without some edges."""

    def less(r, gone):
        kept = [
            at
            for at, pair in enumerate(zip(r.src.tolist(), r.dst.tolist(), strict=True))
            if pair not in gone and (not r.undirected or pair[::-1] not in gone)
        ]
        return Relation.of(r.name, r.source, r.target, r.src[kept], r.dst[kept], r.weight[kept])

    return replace(
        graph,
        interactions=graph.interactions if edge is None else less(graph.interactions, [edge]),
        relations={n: less(r, links) if n == relation else r for n, r in graph.relations.items()},
    )


def tag_of(graph, item):
    relation = graph.relations["has_tag"]
    return int(relation.dst[relation.src == item][0])


def rows(*items):
    return [torch.tensor(items, dtype=torch.int64)]


@pytest.fixture(scope="module")
def links(graph):
    """One link through a tag and one within the items, at the first items of the user's history."""
    j, k = history(graph)[:2]
    tag, other = tag_of(graph, j), graph.relations["similar"].dst[graph.relations["similar"].src == k]
    return {"has_tag": (j, tag), "similar": (k, int(other[0]))}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (RelationalEASE, EASE_CONFIG),
        (SparseEASE, SPARSE_CONFIG),
        (RelationalItemKNN, RelationalItemKNNConfig(neighbours=15, weight=10.0)),
        (ChebyCF, ChebyCFConfig(rank=8, weight=0.3)),
        (FlatFilter, FlatFilterConfig(rank=8, weight=0.3)),
    ],
)
def test_closed_forms_are_solved_again_and_the_training_row_stays(graph, links, kind, config):
    say = Counterfactuals(kind(graph, config).solve(), graph)
    query, mine = say.query(USER, None), history(graph)
    assert not query.edits_graph
    assert not query.by_fold_in
    j = mine[0]
    left = torch.tensor([i for i in mine if i != j])
    deletions = [Deletion(j, NOTHING), Deletion(j, EdgeRemoval("has_tag", (links["has_tag"],)))]
    deletions += [
        Deletion(j, EdgeRemoval("similar", (links["similar"],))),
        Deletion(None, EdgeRemoval("has_tag", (links["has_tag"],))),
    ]
    got, exact = say.without(query, deletions)
    assert all(exact)
    for row, deletion in zip(got, deletions, strict=True):
        other = kind(anew(graph, deletion.cut.relation, deletion.cut.links), config).solve()
        want = other.fold_in([torch.tensor(mine) if deletion.item is None else left])[0].numpy()
        np.testing.assert_allclose(row, want, atol=1e-4 * np.abs(want).max())
        assert np.abs(row - query.scores).max() > 1e-3 * np.abs(want).max()
    # solved without the user's training edge it would be another number
    gone = kind(anew(graph, edge=(USER, j)), config).solve().fold_in([left])[0].numpy()
    assert np.abs(gone - got[0]).max() > 1e-3 * np.abs(gone).max()


@pytest.mark.parametrize(("kind", "config"), [(RelationalEASE, EASE_CONFIG), (SparseEASE, SPARSE_CONFIG)])
def test_where_the_largest_weight_goes_all_is_solved_from_scratch(graph, kind, config, monkeypatch):
    r = graph.relations["similar"]
    heavy = replace(r, weight=np.where(np.arange(len(r)) == 40, 3.0, r.weight).astype(np.float32))
    graph = replace(graph, relations={**graph.relations, "similar": heavy})
    model = kind(graph, config).solve()
    say = Counterfactuals(model, graph)
    link = (int(r.src[40]), int(r.dst[40]))
    j = history(graph)[0]
    got, exact = say.without(say.query(USER, None), [Deletion(j, EdgeRemoval("similar", (link,)))])
    other = kind(anew(graph, "similar", (link,)), config).solve()
    want = other.fold_in([torch.tensor([i for i in history(graph) if i != j])])[0].numpy()
    np.testing.assert_allclose(got[0], want, atol=1e-5)
    assert exact == [True]
    if kind is SparseEASE:  # a large catalogue is not: the history is cut, and it says so
        monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", 0)
        say = Counterfactuals(model, graph)
        got, exact = say.without(say.query(USER, None), [Deletion(j, EdgeRemoval("similar", (link,)))])
        want = model.fold_in([torch.tensor([i for i in history(graph) if i != j])])[0].numpy()
        np.testing.assert_allclose(got[0], want, atol=1e-5)
        assert exact == [False]


@pytest.mark.parametrize("users", [160, 60], ids=["items' side", "users' side"])
@pytest.mark.parametrize("kind", [EASE, ItemKNN, RelationalItemKNN, RP3Beta, RelationalEASE, SparseEASE])
def test_weights_of_interactions_are_what_is_taken_from_the_score(users, kind):
    graph = planted_graph(users=users)
    weight = np.random.default_rng(0).uniform(0.3, 2, len(graph.interactions)).astype(np.float32)
    graph = replace(graph, interactions=replace(graph.interactions, weight=weight))
    model = kind(graph, EASEConfig(20.0) if kind is EASE else None).solve()
    say = Counterfactuals(model, graph)
    query, mine = say.query(USER, None), history(graph)
    got, _ = say.without(query, [Deletion(mine[2], NOTHING), Deletion(mine[5], NOTHING)])
    single = model.fold_in([torch.tensor([i]) for i in mine]).numpy()  # a row each of the item–item matrix
    own = weight[graph.interactions.src == USER]
    np.testing.assert_allclose(query.scores, own @ single, atol=1e-4)
    for row, at in zip(got, (2, 5), strict=True):
        np.testing.assert_allclose(row, np.where(np.arange(10) == at, 0, own) @ single, atol=1e-4)


def test_models_of_histories_keep_their_weights_and_their_order():
    graph = planted_graph()
    weight = np.random.default_rng(0).uniform(0.3, 2, len(graph.interactions)).astype(np.float32)
    graph = replace(graph, interactions=replace(graph.interactions, weight=weight))
    model = GFCF(graph, GFCFConfig(rank=8)).solve()
    say = Counterfactuals(model, graph)
    np.testing.assert_allclose(say.query(USER, None).scores, model.score(torch.tensor([USER]))[0].numpy(), atol=1e-6)

    ring = planted_sequences()
    markov = Markov(ring).solve()
    say = Counterfactuals(markov, ring)
    sequences = Sequences.from_graph(ring)
    in_order = [sequences.items[sequences.indptr[u] : sequences.indptr[u + 1]].tolist() for u in range(ring.n_users)]
    user, chronological_order = next((u, items) for u, items in enumerate(in_order) if items != sorted(items))
    query = say.query(user, None)
    assert query.items.tolist() == chronological_order
    got, _ = say.without(query, [Deletion(chronological_order[-1], NOTHING)])
    np.testing.assert_array_equal(got[0], markov.fold_in(rows(*chronological_order[:-1]))[0].numpy())
    assert say.query(None, [7, 3, 7, 9]).items.tolist() == [3, 7, 9]  # where it occurs last


def test_a_history_with_repeats_is_read_as_the_list_was_made_of_it():
    """Of a user whose graph says what happened again, and of a history that does: without an item, none of it."""
    ring = planted_sequences()
    once = ring.chronological_order()
    of_user = once[ring.interactions.src[once] == USER]
    again = np.concatenate([once, of_user[[0, 2, 0]]])
    again = again[np.argsort(ring.interactions.src[again], kind="stable")].astype(np.int32)
    twice = replace(ring, events=again)
    markov = Markov(twice, MarkovConfig(window=5, decay=0.9)).solve()
    say = Counterfactuals(markov, twice)
    happened = twice.interactions.dst[again[twice.interactions.src[again] == USER]].tolist()
    assert happened[-3:] == [happened[0], happened[2], happened[0]]
    for query in (say.query(USER, None), say.query(None, happened)):
        np.testing.assert_array_equal(query.scores, markov.score(torch.tensor([USER]))[0].numpy())
        got, _ = say.without(query, [Deletion(happened[0], NOTHING), Deletion(happened[2], NOTHING)])
        for row, gone in zip(got, (happened[0], happened[2]), strict=True):
            left = rows(*(item for item in happened if item != gone))
            np.testing.assert_array_equal(row, markov.fold_in(left)[0].numpy())


def light(graph, kind=RelationalLightGCN):
    model = kind(graph, RelationalLightGCNConfig(dim=8, weight=0.3) if kind is RelationalLightGCN else None)
    model.init_weights(3)
    return model


def test_linear_propagation_runs_again_on_the_smaller_graph(graph, links):
    model = light(graph)
    say = Counterfactuals(model, graph)
    query, j = say.query(USER, None), history(graph)[0]
    assert query.edits_graph
    np.testing.assert_array_equal(query.scores, model.score(torch.tensor([USER]))[0].numpy())
    cut = EdgeRemoval("has_tag", (links["has_tag"],))
    got, exact = say.without(query, [Deletion(j, NOTHING), Deletion(j, cut), Deletion(None, cut)])
    assert all(exact)
    edges = [((), (USER, j)), (cut.links, (USER, j)), (cut.links, None)]
    for row, (gone, edge) in zip(got, edges, strict=True):
        other = RelationalLightGCN(anew(graph, "has_tag", gone, edge), model.config)
        other.load_state(model.state())
        want = other.score(torch.tensor([USER]))[0].numpy()
        np.testing.assert_allclose(row, want, atol=1e-6)
        assert np.abs(row - query.scores).max() > 1e-4

    mine = history(graph)
    query = say.query(None, mine)
    assert not query.edits_graph
    got, exact = say.without(query, [Deletion(j, cut)])
    assert exact == [False]  # of a history, the vector is fitted
    other = RelationalLightGCN(anew(graph, "has_tag", cut.links), model.config)
    other.load_state(model.state())
    np.testing.assert_allclose(got[0], other.fold_in(rows(*(i for i in mine if i != j)))[0].numpy(), atol=1e-6)


def test_other_models_with_gradients_are_estimates(graph, links):
    model = light(graph, GraphSAGE)
    say = Counterfactuals(model, graph)
    cut = EdgeRemoval("has_tag", (links["has_tag"],))
    got, exact = say.without(say.query(USER, None), [Deletion(None, cut)])
    other = GraphSAGE(anew(graph, "has_tag", cut.links), model.config)
    other.load_state(model.state())
    np.testing.assert_allclose(got[0], other.score(torch.tensor([USER]))[0].numpy(), atol=1e-5)
    assert exact == [False]


@pytest.mark.parametrize("kind", [MF, Popularity])
def test_a_fixed_vector_makes_way_for_the_history(graph, kind):
    model = light(graph, MF) if kind is MF else Popularity(graph).solve()
    say, mine = Counterfactuals(model, graph), history(graph)
    query = say.query(USER, None)
    assert query.by_fold_in
    own = model.score(torch.tensor([USER]))[0].numpy()
    np.testing.assert_array_equal(query.scores, own)  # those of the user's list, not of the history
    got, exact = say.without(query, [Deletion(None, NOTHING), Deletion(mine[1], NOTHING)])
    np.testing.assert_allclose(got[0], own, atol=1e-6)
    assert exact == [False, False]
    whole, less = (model.fold_in(rows(*kept))[0].double().numpy() for kept in (mine, (mine[0], *mine[2:])))
    others = np.setdiff1d(np.arange(graph.n_items), mine)
    expected = own + own[others].std() / whole[others].std() * (less - whole)
    np.testing.assert_allclose(got[1], expected, atol=1e-5)


class Unbending(RelationalLightGCN):
    """Takes no graph with fewer links."""

    def __init__(self, graph, config=None):
        if len(graph.relations["has_tag"]) < graph.n_items:
            raise ValueError("too few links")
        super().__init__(graph, config)


def test_a_class_that_does_not_take_the_smaller_graph_loses_the_history_only(graph, links):
    model = Unbending(graph, RelationalLightGCNConfig(dim=8))
    model.init_weights(0)
    say, mine = Counterfactuals(model, graph), history(graph)
    query = say.query(None, mine)
    got, exact = say.without(query, [Deletion(mine[0], EdgeRemoval("has_tag", (links["has_tag"],)))])
    np.testing.assert_allclose(got[0], model.fold_in(rows(*mine[1:]))[0].numpy(), atol=1e-6)
    assert exact == [False]


def test_ranks_count_candidates_above_and_half_of_those_beside(graph):
    query = Counterfactuals(Popularity(graph).solve(), graph).query(None, [0, 1], exclude_items=[2, 3])
    assert np.flatnonzero(~query.candidate_mask).tolist() == [0, 1, 2, 3]
    scores = np.zeros(graph.n_items)
    scores[[0, 2, 4, 5, 6]] = [9, 9, 5, 3, 3]
    assert query.rank(scores, 4) == 1
    assert query.rank(scores, 5) == 2.5
    assert query.rank(scores, 2) == 1  # hidden: only against the candidates
    assert query.rank(scores, 3) == 1 + 3 + 113 / 2


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ((None, None), "either a user or a history"),
        ((1, [2]), "either a user or a history"),
        ((160, None), "user row outside the graph"),
        ((-1, None), "user row outside the graph"),
        ((None, [5, 120]), "item row outside the catalogue"),
        ((None, [5], [120]), "item row outside the catalogue"),
    ],
)
def test_who_is_not_there_is_refused(graph, who, message):
    say = Counterfactuals(Popularity(graph).solve(), graph)
    with pytest.raises(InputError, match=message):
        say.query(*who)


def test_scores_that_are_not_finite_are_refused(graph):
    model = light(graph)
    model.table.data[:] = float("nan")
    with pytest.raises(InputError, match="scores are not finite"):
        Counterfactuals(model, graph).query(None, [1])
