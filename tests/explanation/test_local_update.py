"""The oracle is the model itself, solved from scratch on a graph that never had the links."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense_truth import random_graph

from relrank.explanation.local_update import LocalUpdate
from relrank.graph.edge_removal import EdgeRemoval, without_links
from relrank.graph.graph import Graph
from relrank.models.closed_form import sparse_ease
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig
from relrank.testing import planted_graph

RELATIONS = (
    ("has_tag", "item", "tag", 40),
    ("tagged", "tag", "item", 30),
    ("similar", "item", "item", 60),
    ("near", "tag", "tag", 10),
    ("in_land", "tag", "land", 12),
)
OF_USERS = (("lives_in", "user", "city", 25), ("follows", "user", "user", 70))


def graph_of(kind: str) -> Graph:
    if kind == "planted":
        return planted_graph(60, 48)
    return random_graph(3, *RELATIONS, *(OF_USERS if kind == "with users' relations" else ()))


def inputs(model: SparseEASE, user: int, without: int | None = None):
    """Columns and values of a user's row, pseudo-items behind the items."""
    x, (columns, values) = model.history.take(np.array([user])), model.user_pseudo_items(user)
    kept = x.indices != without
    at = np.concatenate([x.indices[kept], columns + model.graph.n_items]).astype(np.int64)
    return at, np.concatenate([x.data[kept], values])


def links_of(graph: Graph, name: str) -> np.ndarray:
    """(item, other end) of every link."""
    r = graph.relations[name]
    return np.stack((r.src, r.dst) if r.source == "item" else (r.dst, r.src), 1)


def cut_of(name: str, links: np.ndarray) -> EdgeRemoval:
    return EdgeRemoval(name, tuple((int(item), int(other)) for item, other in links))


def anew(model: SparseEASE, cut: EdgeRemoval, row) -> np.ndarray:
    """Scores of an input row by the model on the graph without the links."""
    other = SparseEASE(without_links(model.graph, cut), model.config).solve()
    x = np.zeros(other.n_columns)
    x[row[0]] = row[1]
    weights = other.item_weights()
    dense = np.zeros((other.n_columns, model.graph.n_items))
    dense[weights.rows(), weights.indices] = weights.data
    return x @ dense


@pytest.mark.parametrize("columns", [10_000, 0])
@pytest.mark.parametrize("kind", ["items alone", "with users' relations", "planted"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"neighbours": 3, "shrinkage": 3.0, "weight": 8.0},
        {"neighbours": 6, "user_power": 0.0, "item_power": -0.5, "shrinkage": 0.0, "l2": 0.7},
        {"neighbours": 500, "user_power": 1.0, "item_power": 0.4, "weights": {"has_tag": 0.0}},
    ],
    ids=["default", "few neighbours", "no shrinkage", "all neighbours"],
)
def test_equals_solving_from_scratch(kind, config, columns, monkeypatch):
    monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", columns)
    graph, rng = graph_of(kind), np.random.default_rng(1)
    model = SparseEASE(graph, SparseEASEConfig(**config)).solve()
    touched = LocalUpdate(model)
    rows, cuts = [], []
    for name in ("has_tag", "tagged", "similar"):
        if name not in graph.relations:
            continue
        links = links_of(graph, name)
        for n in (1, 2, 3):
            user = int(rng.integers(graph.n_users))
            via = int(rng.choice(model.history.take(np.array([user])).indices))
            for some in (links[rng.choice(len(links), n, replace=False)], links[links[:, 0] == via][:n]):
                cut = cut_of(name, some)
                if len(some) and touched.supports(cut):
                    cuts += [cut, cut]
                    rows += [inputs(model, user), inputs(model, user, via)]
    got = touched.scores(rows, cuts)
    want = np.array([anew(model, cut, row) for row, cut in zip(rows, cuts, strict=True)])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    before = touched.scores(rows, [EdgeRemoval(None, ())] * len(rows))
    if config.get("weights"):
        assert (np.abs(before - want).max(1) > 1e-4).sum() > len(rows) / 4
    else:
        assert (np.abs(before - want).max(1) > 1e-4).sum() > len(rows) / 2  # the links matter
    again = touched.scores(rows, cuts)
    np.testing.assert_array_equal(got, again)  # what was changed in place was taken back


def test_rows_that_bring_no_items_near_each_other_still_count_in_the_blocks(monkeypatch):
    """Tags of more items than the bound; where a tag falls to it, all its items would have to be selected again."""
    monkeypatch.setattr(sparse_ease, "DENSE_COLUMNS", 0)
    monkeypatch.setattr(sparse_ease, "ROW_ENTRIES", 6)
    graph = graph_of("items alone").only("has_tag", "similar")
    model = SparseEASE(graph, SparseEASEConfig(neighbours=4)).solve()
    touched, links = LocalUpdate(model), links_of(graph, "has_tag")
    items, row = np.bincount(links[:, 1]), inputs(model, 5)
    assert {7, 10} <= set(items.tolist())
    for item, tag in links:
        cut = cut_of("has_tag", [(item, tag)])
        assert touched.supports(cut) == (items[tag] != 7)
        if items[tag] != 7:
            np.testing.assert_allclose(touched.scores([row], [cut])[0], anew(model, cut, row), atol=1e-5)


def test_a_cut_that_changes_nothing_in_use_changes_no_score():
    graph = graph_of("items alone").only("has_tag", "similar")
    model = SparseEASE(graph, SparseEASEConfig(weights={"has_tag": 0.0})).solve()
    row, cut = inputs(model, 3), cut_of("has_tag", links_of(graph, "has_tag")[:2])
    scores = model.score(torch.tensor([3]))[0].numpy()
    np.testing.assert_allclose(LocalUpdate(model).scores([row], [cut])[0], scores, atol=1e-6)


def test_links_of_others_than_items_do_not_fit():
    graph = graph_of("with users' relations")
    touched = LocalUpdate(SparseEASE(graph).solve())
    assert not touched.supports(EdgeRemoval("lives_in", ((0, 0),)))
    assert touched.supports(EdgeRemoval("in_land", ((0, 0),)))  # links behind those of items do
    assert not touched.supports(EdgeRemoval("near", ((0, 1),)))
