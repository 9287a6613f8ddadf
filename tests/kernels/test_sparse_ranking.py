"""Sparse products are ranked like dense scores: masks, ties, negative scores, items with a score of 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relrank.errors import InputError
from relrank.evaluation.ranking import ranks_and_top_k, tie_break_order, top_k, top_k_from_histories
from relrank.kernels.csr import Csr
from relrank.kernels.sparse_ranking import SparsePaginator, _Scratch
from relrank.models.core.base import history_rows


class Sparse:
    """Integers as inputs and weights, so that scores are exact and often tied."""

    is_sparse_product = True

    def __init__(self, inputs: np.ndarray, weights: np.ndarray) -> None:
        self.dense = torch.from_numpy(inputs @ weights).float()
        self._inputs, self._weights = csr(inputs), csr(weights)

    def item_weights(self) -> Csr:
        return self._weights

    def inputs(self, users: torch.Tensor) -> Csr:
        return self._inputs.take(users.numpy())

    def history_inputs(self, histories: list[torch.Tensor]) -> Csr:
        return history_rows(histories, self._weights.n_cols)


class Dense:
    def __init__(self, model: Sparse) -> None:
        self.model = model

    def score(self, users: torch.Tensor) -> torch.Tensor:
        return self.model.dense[users]


def csr(dense: np.ndarray) -> Csr:
    row, col = np.nonzero(dense)
    return Csr.from_pairs(row, col, dense.shape, dense[row, col].astype(np.float32))


def case(seed: int, n_users: int, n_items: int, share: float) -> tuple[Sparse, Csr, Csr, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, 3, (n_users, n_items + 4)) * (rng.random((n_users, n_items + 4)) < share)
    weights = rng.integers(-2, 4, (n_items + 4, n_items)) * (rng.random((n_items + 4, n_items)) < share)
    part = rng.random((n_users, n_items))
    excluded = np.flatnonzero(rng.random(n_items) < 0.1).astype(np.int32)
    relevant = (part > 0.7) & (rng.random((n_users, 1)) < 0.8)
    relevant[:, excluded] = False
    return Sparse(inputs, weights), csr((part < 0.3).astype(float)), csr(relevant.astype(float)), excluded


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 40), st.sampled_from([0.05, 0.3, 0.9]),
       st.sampled_from([0, 1, 5, 60]), st.booleans())  # fmt: skip
def test_equal_to_dense_scores(seed, n_users, n_items, share, k, some_excluded):
    model, seen, truth, excluded = case(seed, n_users, n_items, share)
    excluded = excluded if some_excluded else None
    expected = outcome(Dense(model), seen, truth, k, excluded, None)
    for block in (None, 2):
        assert outcome(model, seen, truth, k, excluded, block) == expected


def outcome(model, seen, truth, k, excluded, block):
    """Ranks and lists as plain lists, or that scores are constant."""
    try:
        found, lists = ranks_and_top_k(model, seen, truth, k, excluded_items=excluded, block=block)
    except InputError as error:
        return str(error).splitlines()[0]
    arrays = (found.higher, found.equal, lists.items, lists.scores)
    return [array.tolist() for array in arrays], found.constant_users


def test_scores_that_are_not_finite_are_refused():
    model, seen, truth, _ = case(0, 6, 20, 0.9)
    model._weights.data[3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        ranks_and_top_k(model, seen, truth, 3)


def test_inputs_of_another_shape_are_refused():
    model, seen, _, _ = case(0, 6, 20, 0.9)
    model._inputs = csr(np.ones((6, 40)))
    with pytest.raises(ValueError, match="shape"):
        top_k(model, np.arange(6), seen, 3)


def test_histories():
    model, _, _, _ = case(3, 4, 30, 0.5)
    histories = [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([29])]
    lists = top_k_from_histories(model, histories, 30, 8)
    weights = np.zeros((34, 30), np.float32)
    w = model.item_weights()
    weights[w.rows(), w.indices] = w.data
    for own, scores, history in zip(lists.items, lists.scores, histories, strict=True):
        expected = weights[history.numpy()].sum(0)
        assert scores.tolist() == expected[own].tolist()
        expected[history.numpy()] = -np.inf
        assert scores.tolist() == sorted(expected, reverse=True)[:8]


@settings(max_examples=60)
@given(
    st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.02, 0.1, 0.5]), st.booleans(), st.booleans(),
    st.integers(1, 13),
)  # fmt: skip
def test_pages_are_slices_of_the_full_order(seed, n_items, share, exclude_seen, filtered, k):
    """Including items with a score of 0 and below, against a sort of all scores."""
    model, seen, _, _ = case(seed, 3, n_items, share)
    order = tie_break_order(n_items)
    place, pages = np.argsort(order), SparsePaginator(order)
    among = np.random.default_rng(seed).random(n_items) < 0.4 if filtered else None
    for user in range(3):  # one scratch memory for all
        scores, hidden = model.dense[user].numpy(), seen.take(np.array([user])).indices
        left = set(range(n_items)) - (set(hidden.tolist()) if exclude_seen else set())
        left = [item for item in left if among is None or among[item]]
        expected = sorted(left, key=lambda item: (-scores[item], place[item]))
        inputs = model.inputs(torch.tensor([user]))
        for offset in range(n_items + 2):
            items, values, total = pages.page(
                inputs, model.item_weights(), hidden if exclude_seen else None, among, offset, k
            )
            assert total == len(expected)
            assert items.tolist() == expected[offset : offset + k]
            assert values.tolist() == scores[items].tolist()


def test_stamps_restart_before_they_overflow():
    scratch = _Scratch(3)
    scratch.stamp = np.iinfo(np.int32).max - 1
    scratch.mark[1] = scratch.next()
    assert scratch.next() == 1
    assert scratch.mark.tolist() == [0, 0, 0]


def test_pages_refuse_scores_that_are_not_finite():
    weights = csr(np.eye(3))
    weights.data[1] = np.nan
    pages = SparsePaginator(tie_break_order(3))
    with pytest.raises(InputError, match="not finite"):
        pages.page(csr(np.array([[0.0, 1.0, 1.0]])), weights, None, None, 0, 2)
    items, values, _ = pages.page(csr(np.array([[0.0, 0.0, 1.0]])), weights, None, None, 0, 1)  # and go on
    assert (items.tolist(), values.tolist()) == ([2], [1.0])


@pytest.mark.parametrize("k", [0, 3])
def test_users_whose_candidates_tie_are_counted_without_what_they_have_seen(k):
    """The first user's unseen items all score 0, the second's do not; with and without lists."""
    inputs, weights = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[5.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    seen, truth = np.array([[1.0, 0, 0, 0]] * 2), np.array([[0, 0, 1.0, 0]] * 2)
    found, _ = ranks_and_top_k(Sparse(inputs, weights), csr(seen), csr(truth), k)
    assert found.constant_users == 1
    assert (found.higher.tolist(), found.equal.tolist()) == ([0, 1], [3, 2])
