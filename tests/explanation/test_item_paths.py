from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from small_graphs import tagged

from relrank.explanation.item_paths import INTERACTIONS, ItemPath, ItemPaths
from relrank.explanation.local_update import LocalUpdate
from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.edge_removal import EdgeRemoval
from relrank.graph.relation import Relation
from relrank.models.closed_form.flat_filter import FlatFilter, FlatFilterConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN, RelationalItemKNNConfig
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.tables.ids import IdMap


@pytest.fixture
def graph():
    return tagged()


TERMS = {
    ItemPath(0, "has_tag", (("tag", 0),), 1): 2 * 0.6 * np.sqrt(0.5),
    ItemPath(0, "has_tag", (("tag", 1),), 1): 2 * 0.8 * np.sqrt(0.5),
    # rows (1, ½, ½) and (½, 1, ½), each over √1.5
    ItemPath(0, "similar", (), 1): 3 * (0.5 + 0.5) / 1.5,
    ItemPath(0, "similar", (("item", 2),), 1): 3 * 0.25 / 1.5,
    ItemPath(0, INTERACTIONS, (), 1): 2.0,
}
"""Between items 0 and 1, has_tag at 2 and similar at 3: the terms of a Gram matrix of unit rows."""


def test_weights_of_relational_ease_are_the_terms_of_its_gram_matrix(graph):
    model = RelationalEASE(graph, RelationalEASEConfig(weights={"has_tag": 2.0, "similar": 3.0})).solve()
    found = dict(ItemPaths(model, graph, LowRankUpdate(model)).between(0, 1))
    assert found == pytest.approx(TERMS)
    n = graph.n_items
    gram = model._penalised_gram() - model.config.l2 * np.eye(n)
    assert sum(found.values()) == pytest.approx(gram[0, 1])


def with_lands(graph):
    """A relation that leads to the items over their tags."""
    land = Relation.of("in_land", "tag", "land", np.array([0, 1, 2]), np.array([0, 0, 1]))
    return replace(
        graph,
        relations={**graph.relations, "in_land": land},
        nodes={**graph.nodes, "land": IdMap("land", pl.Series([0, 1]))},
    )


OVER_LANDS = {
    ItemPath(0, "in_land", (("tag", one), ("land", 0), ("tag", other)), 1): 5 * there * 0.5
    for one, there in ((0, 3 / 7), (1, 4 / 7))
    for other in (0, 1)
}
"""Both items' tags are of one land: cosine 1 at weight 5; item 0 has its tags at 3 and 4, and so has item 1."""


def test_weights_of_sparse_ease_are_the_terms_of_its_gram_matrix(graph):
    """Those of a composed relation are dealt among the ways along its chain."""
    graph = with_lands(graph)
    weights = {"has_tag": 2.0, "similar": 3.0, "in_land": 5.0}
    model = SparseEASE(graph, SparseEASEConfig(weights=weights, user_power=1.0)).solve()
    found = dict(ItemPaths(model, graph, LocalUpdate(model)).between(0, 1))
    half = np.sqrt(0.5)
    assert found == pytest.approx(
        {
            ItemPath(0, "has_tag", (("tag", 0),), 1): 2 * 0.6 * half,
            ItemPath(0, "has_tag", (("tag", 1),), 1): 2 * 0.8 * half,
            ItemPath(0, "similar", (), 1): 3 * (0.5 + 0.5) / 1.5,
            ItemPath(0, "similar", (("item", 2),), 1): 3 * 0.25 / 1.5,
            # users of 2, 2, 1 and 1 interactions weigh ½, ½, 1, 1 over their mean 4 / 6
            ItemPath(0, INTERACTIONS, (), 1): 2 * 0.5 / (4 / 6),
            **OVER_LANDS,
        }
    )


def test_weights_of_relational_item_knn_are_the_terms_of_its_cosine(graph):
    graph = with_lands(graph)
    weights = {"has_tag": 2.0, "similar": 3.0, "in_land": 5.0}
    model = RelationalItemKNN(graph, RelationalItemKNNConfig(shrinkage=4.0, weights=weights)).solve()
    found = dict(ItemPaths(model, graph, None).between(0, 1))
    assert found == pytest.approx({**TERMS, **OVER_LANDS})
    similarity = model.fold_in([torch.tensor([0])])[0, 1].item()
    # both items are in one land; squared lengths are numbers of users and the three weights
    lengths = np.sqrt((3 + 2 + 3 + 5) * (2 + 2 + 3 + 5))
    assert similarity * (lengths + 4) == pytest.approx(sum(found.values()), rel=1e-6)


def test_weights_of_other_models_are_normalised_edges(graph):
    config = FlatFilterConfig(rank=2, weights={"has_tag": 2.0, "similar": 1.0})
    found = dict(ItemPaths(FlatFilter(graph, config).solve(), graph, None).between(0, 1))
    assert found == pytest.approx(
        {
            ItemPath(0, "has_tag", (("tag", 0),), 1): 2 * 3 / np.sqrt(7 * 4) * 1 / np.sqrt(2 * 4),
            ItemPath(0, "has_tag", (("tag", 1),), 1): 2 * 4 / np.sqrt(7 * 5) * 1 / np.sqrt(2 * 5),
            ItemPath(0, "similar", (), 1): 0.5,
            ItemPath(0, "similar", (("item", 2),), 1): 0.25,
            ItemPath(0, INTERACTIONS, (), 1): 2 / np.sqrt(3 * 2),
        }
    )


def test_relations_of_a_trained_model_count_by_their_learned_weights(graph):
    model = RelationalLightGCN(graph, RelationalLightGCNConfig(dim=2))
    model.init_weights(0)
    with torch.no_grad():
        model.raw_weights[:] = torch.tensor([2.0, -200.0])  # has_tag; similar at 0
    found = dict(ItemPaths(model, graph, None).between(0, 1))
    weight = np.log1p(np.exp(2.0))
    assert found[ItemPath(0, "has_tag", (("tag", 0),), 1)] == pytest.approx(
        weight * 3 / np.sqrt(7 * 4) / np.sqrt(2 * 4)
    )
    assert {path.relation for path in found} == {"has_tag", INTERACTIONS}


def test_items_without_a_link_have_the_interactions_alone_and_weight_0_leaves_a_relation_out(graph):
    model = RelationalEASE(graph, RelationalEASEConfig(weights={"has_tag": 0.0})).solve()
    paths = ItemPaths(model, graph, LowRankUpdate(model))
    assert paths.between(0, 3) == [(ItemPath(0, INTERACTIONS, (), 3), 0.0)]
    assert {path.relation for path, _ in paths.between(0, 1)} == {"similar", INTERACTIONS}


def test_the_cut_of_a_path_joins_its_two_items():
    assert ItemPath(4, INTERACTIONS, (), 7).cut == EdgeRemoval(None, ())
    assert ItemPath(4, "similar", (), 7).cut == EdgeRemoval("similar", ((4, 7),))
    assert ItemPath(4, "has_tag", (("tag", 2),), 7).cut == EdgeRemoval("has_tag", ((4, 2), (7, 2)))
