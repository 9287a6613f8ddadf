"""Counts and lists against a naive loop; ties, masks and broken scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relrank.errors import InputError
from relrank.evaluation.ranking import Ranks, ranks, ranks_and_top_k, top_k, top_k_from_histories
from relrank.kernels.csr import Csr


class Fixed:
    """A table of scores."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.as_tensor(scores, dtype=torch.float32)
        self.calls: list[int] = []

    def score(self, users: torch.Tensor) -> torch.Tensor:
        assert users.dtype == torch.int64
        self.calls.append(len(users))
        return self.scores[users]

    def fold_in(self, histories: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.scores[: len(h) + 1].sum(0) for h in histories])


def sets(rows: list[list[int]], n_cols: int) -> Csr:
    return Csr.from_pairs(
        np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        np.array([c for r in rows for c in r], int),
        (len(rows), n_cols),
    )


def random_case(seed: int, n_users: int = 23, n_items: int = 57) -> tuple[Fixed, Csr, Csr]:
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(n_items) for _ in range(n_users)]
    cuts = rng.integers(0, 20, (n_users, 2))
    seen = sets([p[:a].tolist() for p, (a, _) in zip(parts, cuts, strict=True)], n_items)
    truth = sets([p[a : a + b % 5].tolist() for p, (a, b) in zip(parts, cuts, strict=True)], n_items)
    return Fixed(rng.integers(-8, 8, (n_users, n_items))), seen, truth


def row(matrix: Csr, user: int) -> list[int]:
    return matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]].tolist()


def pairs(found: Ranks) -> list[tuple[int, int]]:
    """For every relevant item, the number of candidates with a higher score and with the same score."""
    return list(zip(found.higher.tolist(), found.equal.tolist(), strict=True))


@pytest.mark.parametrize("block", [None, 1, 4, 100])
def test_naive_loop_with_ties_and_masks(block):
    model, seen, truth = random_case(1)
    found, lists = ranks_and_top_k(model, seen, truth, 6, block=block)
    assert found.users.tolist() == np.flatnonzero(truth.degrees()).tolist()
    assert 0 < len(found.users) < truth.n_rows  # some have no truth
    for at, user in enumerate(found.users):
        scores = model.scores[user].numpy()
        candidates = [i for i in range(57) if i not in row(seen, user)]
        inside = slice(found.indptr[at], found.indptr[at + 1])
        assert found.items[inside].tolist() == row(truth, user)
        expected = [
            (sum(scores[c] > scores[i] for c in candidates), sum(scores[c] == scores[i] for c in candidates))
            for i in row(truth, user)
        ]
        assert pairs(found)[inside] == expected
        best = sorted((scores[c] for c in candidates), reverse=True)[:6]
        assert lists.scores[at].tolist() == best
        assert scores[lists.items[at]].tolist() == best
        assert len(set(lists.items[at])) == 6
        assert set(lists.items[at]) <= set(candidates)


def test_blocks_do_not_change_anything():
    model, seen, truth = random_case(2)
    (a, lists_a), (b, lists_b) = (ranks_and_top_k(model, seen, truth, 5, block=n) for n in (3, 50))
    assert pairs(a) == pairs(b)
    assert lists_a.items.tolist() == lists_b.items.tolist()
    assert a.constant_users == b.constant_users


def test_shorter_lists_are_prefixes_of_longer_ones_with_ties_too():
    model, seen, _ = random_case(4)
    users = np.arange(seen.n_rows)
    longest = top_k(model, users, seen, 20).items
    for k in range(1, 20):
        assert top_k(model, users, seen, k).items.tolist() == longest[:, :k].tolist()


def test_scores_are_computed_once_per_block_and_only_for_users_with_truth():
    model, seen, truth = random_case(3)
    ranks_and_top_k(model, seen, truth, 5, block=6)
    assert sum(model.calls) == (truth.degrees() > 0).sum()
    assert max(model.calls) == 6


def test_default_block_bounds_memory(monkeypatch):
    monkeypatch.setattr("relrank.evaluation.ranking.SCORE_BYTES", 4 * 57 * 5)
    model, seen, truth = random_case(3)
    ranks(model, seen, truth)
    assert max(model.calls) == 5


def test_pitfall_validation_item_left_in_the_test_ranking():
    # the validation item 2 scores above the test item 1: masked, the test item is first
    model = Fixed(np.array([[0, 5, 9, 1]]))
    assert pairs(ranks(model, sets([[0, 2]], 4), sets([[1]], 4))) == [(0, 1)]
    assert pairs(ranks(model, sets([[0]], 4), sets([[1]], 4))) == [(1, 1)]


def test_pitfall_ties_broken_by_item_id():
    # constant scores beside one informed user: every item ties with all others, and lists do not follow item rows
    n = 1000
    model = Fixed(np.concatenate([np.zeros((1, n)), np.arange(n)[None]]))
    found, lists = ranks_and_top_k(model, sets([[], []], n), sets([[0], [0]], n), 100)
    assert pairs(found) == [(0, n), (n - 1, 1)]
    assert found.constant_users == 1
    assert abs(lists.items[0].mean() - n / 2) < 100  # item rows sorted by popularity would give 49.5
    again = top_k(model, np.array([0]), sets([[], []], n), 100)
    assert again.items.tolist() == lists.items[:1].tolist()


def test_excluded_items_are_no_candidates():
    model, seen, truth = random_case(5)
    n = truth.n_cols
    relevant = np.unique(truth.indices)
    excluded = np.setdiff1d(np.arange(0, n, 2), relevant).astype(np.int32)
    everywhere = np.zeros((truth.n_rows, n), bool)
    everywhere[:, excluded] = True
    everywhere[seen.rows(), seen.indices] = True
    both = Csr.from_pairs(*np.nonzero(everywhere), (truth.n_rows, n))
    found, lists = ranks_and_top_k(model, seen, truth, 7, excluded_items=excluded)
    expected, expected_lists = ranks_and_top_k(model, both, truth, 7)
    assert excluded.size > 5
    assert pairs(found) == pairs(expected) != pairs(ranks(model, seen, truth))
    assert lists.items.tolist() == expected_lists.items.tolist()
    # a model may know only the excluded items; then its scores are constant, which is counted
    flat = Fixed(np.array([[9, 8, 1, 1]] * 5))
    only = ranks(flat, sets([[0]] * 5, 4), sets([[3]] * 5, 4), excluded_items=np.array([0, 1], np.int32))
    assert only.constant_users == 5
    assert pairs(only) == [(0, 2)] * 5


def test_pitfall_constant_scores_are_an_error():
    with pytest.raises(InputError, match="scores are constant"):
        ranks(Fixed(np.ones((5, 4))), sets([[]] * 5, 4), sets([[1]] * 5, 4))
    # constant among the candidates is constant, whatever the masked items score
    with pytest.raises(InputError, match="each of 5 users"):
        ranks(Fixed(np.array([[9, 1, 1, 1]] * 5)), sets([[0]] * 5, 4), sets([[1]] * 5, 4), block=2)


def test_a_single_candidate_is_not_constant():
    assert ranks(Fixed(np.array([[0, 1, 1]])), sets([[0, 2]], 3), sets([[1]], 3)).constant_users == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [0, 2])  # masked or not: the model is broken
def test_pitfall_nan_scores_that_rank_first(value, item):
    scores = np.arange(12.0).reshape(3, 4)
    scores[1, item] = value
    with pytest.raises(InputError, match="scores are not finite") as error:
        ranks(Fixed(scores), sets([[0]] * 3, 4), sets([[1]] * 3, 4))
    assert "Fixed, user row 1" in str(error.value)
    assert "1 of 4 scores" in str(error.value)
    with pytest.raises(InputError, match="not finite"):
        top_k(Fixed(scores), np.arange(3), sets([[0]] * 3, 4), 2)


def test_masked_relevant_items_are_refused():
    with pytest.raises(ValueError, match="the first: user row 1, item row 2"):
        ranks(Fixed(np.arange(8).reshape(2, 4)), sets([[0], [2]], 4), sets([[1], [2]], 4))


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\), expected \(2, 5\)"):
        ranks(Fixed(np.arange(8).reshape(2, 4)), sets([[], []], 5), sets([[1], [2]], 5))


def test_the_models_memory_is_not_written_to():
    popularity = torch.arange(6.0)
    model = Fixed(np.zeros((3, 6)))
    model.score = lambda users: popularity.expand(len(users), -1)  # rows share memory
    found = ranks(model, sets([[5], [4], []], 6), sets([[4], [5], [5]], 6))
    assert pairs(found) == [(0, 1)] * 3
    assert popularity.tolist() == [0, 1, 2, 3, 4, 5]


def test_lists_end_early_with_minus_one():
    found = top_k(Fixed(np.arange(8).reshape(2, 4)), np.array([1, 0]), sets([[3], [0, 1, 2, 3]], 4), 5)
    assert found.items.tolist() == [[-1] * 5, [2, 1, 0, -1, -1]]
    assert np.isneginf(found.scores[0]).all()


def test_top_k_from_histories_masks_the_history():
    model = Fixed(np.arange(12.0).reshape(3, 4))
    histories = [torch.tensor([3, 3]), torch.tensor([], dtype=torch.int64)]
    assert top_k_from_histories(model, histories, 4, 2, block=1).items.tolist() == [[2, 1], [3, 2]]


def test_no_users_with_truth():
    found, lists = ranks_and_top_k(Fixed(np.zeros((2, 3))), sets([[], []], 3), sets([[], []], 3), 2)
    assert found.users.size == found.higher.size == found.equal.size == lists.items.size == 0


@settings(max_examples=50)
@given(st.permutations(range(9)), st.integers(0, 2**32 - 1))
def test_ranks_do_not_depend_on_item_rows(order, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (1, 9))
    if len(set(scores[0, :7].tolist())) < 2:
        scores[0, 0] = 9
    relevant = rng.choice(7, 3, replace=False).tolist()
    to = np.argsort(order)  # item i becomes row to[i]
    plain = ranks(Fixed(scores), sets([[7, 8]], 9), sets([relevant], 9))
    moved = ranks(Fixed(scores[:, order]), sets([to[[7, 8]].tolist()], 9), sets([to[relevant].tolist()], 9))
    assert sorted(pairs(plain)) == sorted(pairs(moved))
