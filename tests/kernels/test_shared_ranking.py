"""Shared scores are ranked like rows of scores: masks, ties, excluded items, lists."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparse_ranking import csr, outcome

from relrank.errors import InputError
from relrank.evaluation.ranking import ranks, top_k, top_k_from_histories
from relrank.models.closed_form.baselines import Popularity
from relrank.testing import planted_graph


class Shared:
    has_shared_scores = True

    def __init__(self, scores):
        self.scores = torch.from_numpy(scores.astype(np.float32))

    def shared_scores(self):
        return self.scores


class Rows:
    def __init__(self, scores):
        self.scores = torch.from_numpy(scores.astype(np.float32))

    def score(self, users):
        return self.scores.expand(len(users), -1).clone()


@settings(max_examples=80)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 40), st.sampled_from([0, 1, 5, 60]),
       st.booleans(), st.sampled_from([1, 3, 1000]))  # fmt: skip
def test_equal_to_rows_of_scores(seed, n_users, n_items, k, some_excluded, levels):
    rng = np.random.default_rng(seed)
    scores, part = rng.integers(0, levels, n_items) - 1.0, rng.random((n_users, n_items))
    excluded = np.flatnonzero(rng.random(n_items) < 0.2).astype(np.int32) if some_excluded else None
    relevant = (part > 0.6) & (rng.random((n_users, 1)) < 0.8)
    if excluded is not None:
        relevant[:, excluded] = False
    seen, truth = csr((part < 0.4).astype(float)), csr(relevant.astype(float))
    expected = outcome(Rows(scores), seen, truth, k, excluded, None)
    assert outcome(Shared(scores), seen, truth, k, excluded, None) == expected


def test_popularity_makes_no_rows_of_scores(monkeypatch):
    graph = planted_graph()
    model, users = Popularity(graph).solve(), np.arange(graph.n_users)
    seen = model.history if hasattr(model, "history") else graph.interactions.csr(graph.n_users, graph.n_items)
    histories = [torch.from_numpy(seen.take(np.array([u])).indices.astype(np.int64)) for u in users]
    whole = top_k(Rows(model.counts.numpy()), users, seen, 7)
    monkeypatch.setattr(Popularity, "score", None)
    monkeypatch.setattr(Popularity, "fold_in", None)
    for found in (top_k(model, users, seen, 7), top_k_from_histories(model, histories, graph.n_items, 7)):
        np.testing.assert_array_equal(found.items, whole.items)
        np.testing.assert_array_equal(found.scores, whole.scores)


def test_invalid_shared_scores_are_refused():
    seen, truth = csr(np.zeros((2, 4))), csr(np.eye(2, 4))
    with pytest.raises(InputError, match=r"scores are not finite(.|\n)*1 of 4 scores"):
        ranks(Shared(np.array([1.0, np.nan, 2.0, 3.0])), seen, truth)
    with pytest.raises(ValueError, match="shape"):
        ranks(Shared(np.ones(3)), seen, truth)
    with pytest.raises(ValueError, match="masked as seen"):
        ranks(Shared(np.arange(4.0)), truth, truth)
    with pytest.raises(InputError, match="scores are constant"):
        ranks(Shared(np.ones(4)), seen, truth)
