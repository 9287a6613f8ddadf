from dataclasses import replace

import numpy as np
import pytest
import torch
from featured import featured

from relrank.errors import InputError
from relrank.models.graph.feature_graphsage import FeatureGraphSAGE, FeatureGraphSAGEConfig
from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from relrank.testing import BLOCKS, TrainedContract, planted_graph
from relrank.training import TrainConfig, fit

N_USERS, N_ITEMS = 160, 120
NEW_ITEMS, NEW_USERS = np.arange(16), np.arange(144, 160)
TRAIN = TrainConfig(epochs=10, batch=512, lr=0.02, every=10, device="cpu")


class TestWholeGraph(TrainedContract):
    kind = FeatureGraphSAGE
    config = FeatureGraphSAGEConfig(dim=16, temperature=0.3)
    embedding_tables = ("table",)
    propagates = True

    def graph(self):
        return featured()


class TestSampled(TestWholeGraph):
    config = FeatureGraphSAGEConfig(dim=16, temperature=0.3, fanout=4)


class TestUsersWithFeatures(TestWholeGraph):
    config = FeatureGraphSAGEConfig(dim=16, temperature=0.3)
    fold_in = "free"  # a new user has no features

    def graph(self):
        return featured(users=True)


def trained(graph, **settings):
    model = FeatureGraphSAGE(graph, FeatureGraphSAGEConfig(dim=16, temperature=0.3, **settings))
    fit(model, TRAIN, lambda: 0.0, seed=0)
    return model


def without(graph):
    """No interactions of the new items and users."""
    edges = graph.interactions
    kept = ~np.isin(edges.dst, NEW_ITEMS) & ~np.isin(edges.src, NEW_USERS)
    return replace(graph, interactions=edges.where(kept))


def auc(scores, users, items):
    """How often a user scores an item of their block above one of another."""
    own = (users[:, None] - items) % BLOCKS == 0
    return np.mean([(s[o][:, None] > s[~o]).mean() for s, o in zip(scores[:, items], own, strict=True)])


def test_new_items_and_new_users_are_what_their_features_say():
    """None has a training edge and no relation helps; with shuffled features they cannot be ranked."""
    graph = without(featured(planted_graph().only(), users=True))
    old = np.arange(NEW_USERS[0])
    model = trained(graph, own_dropout=0.3)
    scores = model.score(torch.arange(N_USERS)).numpy()
    assert auc(scores[old], old, NEW_ITEMS) > 0.7
    assert auc(scores[NEW_USERS], NEW_USERS, np.arange(16, N_ITEMS)) > 0.8
    rng, shuffled = np.random.default_rng(3), {}
    for name, f in graph.features.items():
        order = rng.permutation(len(f))
        x, s = f.dense, f.sparse
        shuffled[name] = replace(
            f,
            known=f.known[order],
            dense=None if x is None else x[order],
            sparse=None if s is None else s.take(order),
        )
    blind = trained(replace(graph, features=shuffled), own_dropout=0.3).score(torch.arange(N_USERS)).numpy()
    assert auc(blind[old], old, NEW_ITEMS) < 0.6
    assert auc(blind[NEW_USERS], NEW_USERS, np.arange(16, N_ITEMS)) < 0.6


def test_new_user_is_known_by_a_history_of_new_items():
    """Neither the user nor any item of the history was in training."""
    model = trained(without(featured(planted_graph().only())), own_dropout=0.3)
    for block in range(BLOCKS):
        history = torch.from_numpy(NEW_ITEMS[block == NEW_ITEMS % BLOCKS])
        scores = model.fold_in([history]).numpy()
        assert auc(scores, np.array([block]), np.arange(16, N_ITEMS)) > 0.8


def test_graph_without_features_is_refused():
    with pytest.raises(InputError, match="no node features"):
        FeatureGraphSAGE(planted_graph())


def test_dense_features_alone_train_in_bfloat16():
    """Their projections come out of autocast in half precision, the table does not."""
    graph = featured()
    model = FeatureGraphSAGE(
        replace(graph, features={"look": graph.features["look"]}), FeatureGraphSAGEConfig(dim=16, temperature=0.3)
    )
    fit(model, replace(TRAIN, epochs=1, every=1, precision="bfloat16"), lambda: 0.0, seed=0)
    scores = model.score(torch.arange(3))
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


def test_an_arm_without_the_featured_type_is_plain_graphsage():
    """Features of tags are unused where no relation leads to a tag; the study's other arms continue."""
    graph = featured()
    tags = np.arange(len(graph.nodes["tag"]), dtype=np.float32)[:, None]
    kind = replace(graph.features["look"], name="kind", node="tag", known=np.ones(len(tags), bool), dense=tags)
    graph = replace(graph, features={"kind": kind})
    assert len(FeatureGraphSAGE(graph).encoders) == 1
    model = FeatureGraphSAGE(graph.only(), FeatureGraphSAGEConfig(dim=16))
    model.init_weights(0)
    plain = GraphSAGE(graph.only(), GraphSAGEConfig(dim=16))
    plain.init_weights(0)
    assert torch.equal(model.score(torch.arange(3)), plain.score(torch.arange(3)))
