"""Counts and lists of dot products, against a naive oracle and against ranking by rows of scores."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.evaluation import ranking
from relrank.evaluation.ranking import Ranks, ranks, ranks_and_top_k, tie_break_order, top_k, top_k_from_histories
from relrank.kernels import fused_ranking
from relrank.kernels.csr import Csr
from relrank.models.graph.mf import MF
from relrank.models.graph.path_fusion import PathFusion
from relrank.testing import planted_graph


class Scored:
    """Scores that are dot products, ranked by rows of scores."""

    is_dot_product = False

    def __init__(self, users: np.ndarray, items: np.ndarray) -> None:
        self.users, self.items = (torch.as_tensor(v, dtype=torch.float32) for v in (users, items))

    def score(self, users: torch.Tensor) -> torch.Tensor:
        return self.users[users] @ self.items.T

    def fold_in(self, histories: list[torch.Tensor]) -> torch.Tensor:
        return self.history_vectors(histories) @ self.items.T

    def item_vectors(self) -> torch.Tensor:
        return self.items

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        return self.users[users]

    def history_vectors(self, histories: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([self.items[h].sum(0) for h in histories])


class Products(Scored):
    """The same with vectors; its scores must not be computed."""

    is_dot_product = True

    def score(self, users: torch.Tensor) -> torch.Tensor:
        raise AssertionError("scores were asked for")

    def fold_in(self, histories: list[torch.Tensor]) -> torch.Tensor:
        raise AssertionError("scores were asked for")


@pytest.fixture(autouse=True)
def _any_number_of_users(monkeypatch):
    monkeypatch.setattr(ranking, "FUSED_FROM", 1)


def sets(rows: list[list[int]], n_cols: int) -> Csr:
    lengths = [len(r) for r in rows]
    flat = np.array([c for r in rows for c in r], int)
    return Csr.from_pairs(np.repeat(np.arange(len(rows)), lengths), flat, (len(rows), n_cols))


def case(seed: int, n_users: int, n_items: int, dim: int, most_truth: int = 5) -> tuple[np.ndarray, ...]:
    """Vectors of small whole numbers, so that all sums are exact and many are equal; masks and relevant items."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(-2, 3, (n_users, dim)), rng.integers(-2, 3, (n_items, dim))
    if n_items > 3:
        items[n_items // 2 :: 3] = items[0]  # duplicates everywhere
    seen, truth = [], []
    for u in range(n_users):
        order = rng.permutation(n_items)
        n = (0, n_items, n_items - 1)[u] if u < 3 else int(rng.integers(0, n_items))
        seen.append(order[:n].tolist())
        truth.append(order[n:][: int(rng.integers(0, most_truth + 1))].tolist())
    return users, items, sets(seen, n_items), sets(truth, n_items)


def pairs(found: Ranks) -> list[tuple[int, int]]:
    """For every relevant item, the number of candidates with a higher score and with the same score."""
    return list(zip(found.higher.tolist(), found.equal.tolist(), strict=True))


def oracle(
    scores, seen: Csr, truth: Csr, k: int, excluded: list[int]
) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Counts and lists, one candidate after the other, in float64."""
    place = {item: at for at, item in enumerate(tie_break_order(seen.n_cols).tolist())}
    found, lists = [], []
    for u in np.flatnonzero(truth.degrees()):
        masked = {*seen.take([u]).indices.tolist(), *excluded}
        candidates = [i for i in range(seen.n_cols) if i not in masked]
        for i in truth.take([u]).indices:
            own = scores[u, candidates]
            found.append((int((own > scores[u, i]).sum()), int((own == scores[u, i]).sum())))
        lists.append(sorted(candidates, key=lambda i: (-scores[u, i], place[i]))[:k])
    return found, lists


@pytest.mark.parametrize("dim", [1, 3, 16, 48, 64, 100, 128])
@pytest.mark.parametrize("n_items", [2, 15, 16, 17, 32, 33, 511, 512, 513, 1100])
def test_naive_oracle_with_ties_and_masks(n_items, dim):
    users, items, seen, truth = case(n_items * 1000 + dim, 27, n_items, dim)
    expected, expected_lists = oracle(users @ items.T, seen, truth, 7, [])
    assert len(set(expected)) > 1
    for kind in (Products, Scored):
        found, lists = ranks_and_top_k(kind(users, items), seen, truth, 7)
        assert pairs(found) == expected
        assert [[i for i in row if i >= 0] for row in lists.items.tolist()] == expected_lists
        for row, own, u in zip(lists.items, lists.scores, found.users, strict=True):
            assert own[row >= 0].tolist() == (users[u] @ items[row[row >= 0]].T).tolist()
            assert np.isneginf(own[row < 0]).all()


@pytest.mark.parametrize("most_truth", [fused_ranking.MANY, fused_ranking.MANY + 1, 400])
def test_many_relevant_items(most_truth):
    users, items, seen, truth = case(most_truth, 40, 900, 3, most_truth)
    assert truth.degrees().max() >= most_truth * 0.8
    expected, _ = oracle(users @ items.T, seen, truth, 1, [])
    assert pairs(ranks(Products(users, items), seen, truth)) == expected
    assert pairs(ranks(Scored(users, items), seen, truth)) == expected


@pytest.mark.parametrize("n_items", [40, 600])
def test_excluded_items_are_no_candidates(n_items):
    users, items, seen, truth = case(5, 30, n_items, 4)
    excluded = np.setdiff1d(np.arange(0, n_items, 3), truth.indices).astype(np.int32)
    expected, expected_lists = oracle(users @ items.T, seen, truth, 9, excluded.tolist())
    for kind in (Products, Scored):
        found, lists = ranks_and_top_k(kind(users, items), seen, truth, 9, excluded_items=excluded)
        assert pairs(found) == expected
        assert [[i for i in row if i >= 0] for row in lists.items.tolist()] == expected_lists
    with pytest.raises(ValueError, match="relevant items are masked"):
        ranks(Products(users, items), seen, truth, excluded_items=truth.indices[:1])


def test_equal_vectors_have_equal_scores_at_any_position():
    # irrational numbers whose sums depend on the order of rounding; every item is one of two vectors
    rng = np.random.default_rng(6)
    two, users = rng.standard_normal((2, 100)), rng.standard_normal((50, 100))
    which = rng.integers(0, 2, 1111)
    truth = sets([rng.permutation(1111)[:6].tolist() for _ in range(50)], 1111)
    found, lists = ranks_and_top_k(Products(users, two[which]), sets([[]] * 50, 1111), truth, 30)
    first = (users @ two.T).argmax(1)
    for at, u in enumerate(found.users):
        own = which[found.items[found.indptr[at] : found.indptr[at + 1]]] == first[u]
        n_first = int((which == first[u]).sum())
        inside = slice(found.indptr[at], found.indptr[at + 1])
        assert found.higher[inside].tolist() == np.where(own, 0, n_first).tolist()
        assert found.equal[inside].tolist() == np.where(own, n_first, 1111 - n_first).tolist()
        assert len(set(lists.scores[at].tolist())) == 1
        assert lists.items[at].tolist() == [i for i in tie_break_order(1111) if which[i] == first[u]][:30]


def test_ranks_differ_from_the_truth_only_where_rounding_does():
    rng = np.random.default_rng(7)
    users, items = (rng.standard_normal((n, 64)).astype(np.float32) for n in (60, 3000))
    truth = sets([rng.permutation(3000)[:8].tolist() for _ in range(60)], 3000)
    found = ranks(Products(users, items), sets([[]] * 60, 3000), truth)
    scores = users.astype(np.float64) @ items.astype(np.float64).T
    assert found.equal.tolist() == [1] * truth.nnz
    for rank, user, item in zip(found.higher, truth.rows(), truth.indices, strict=True):
        slack = 64 * 2.0**-24 * np.abs(users[user] * items).sum(1).max()
        low, high = ((scores[user] > scores[user, item] + d).sum() for d in (slack, -slack))
        assert low <= rank <= high
        assert high - low < 10


def test_threads_strips_and_blocks_do_not_change_a_bit(monkeypatch):
    rng = np.random.default_rng(8)
    model = Products(rng.standard_normal((100, 24)), rng.standard_normal((700, 24)))
    _, _, seen, truth = case(8, 100, 700, 1)
    results = []
    threads = torch.get_num_threads()
    for n, strip, block in ((1, 1024, None), (2, 1024, None), (2, 7, None), (2, 1024, 13)):
        monkeypatch.setattr(ranking, "STRIP", strip)
        torch.set_num_threads(n)
        try:
            found, lists = ranks_and_top_k(model, seen, truth, 11, block=block)
        finally:
            torch.set_num_threads(threads)
        results.append([pairs(found), lists.items.tobytes(), lists.scores.tobytes(), found.constant_users])
    assert results[1:] == results[:1] * 3


def test_pitfall_constant_scores_are_an_error():
    rng = np.random.default_rng(9)
    users, items = rng.standard_normal((5, 8)), rng.standard_normal((40, 8))
    truth, nothing = sets([[1]] * 5, 40), sets([[]] * 5, 40)
    with pytest.raises(InputError, match="each of 5 users"):
        ranks(Products(users * 0, items), nothing, truth)
    users[2] = 0
    found, lists = ranks_and_top_k(Products(users, items), nothing, truth, 40)
    assert found.constant_users == 1
    assert pairs(found)[2] == (0, 40)
    assert lists.items[2].tolist() == tie_break_order(40).tolist()
    # constant among the candidates is constant, whatever the others score; a single candidate is not
    items[1:4] = items[0]
    rest = sets([list(range(4, 40)), [0, *range(2, 40)], *[[]] * 3], 40)
    assert ranks(Products(users, items), rest, truth).constant_users == 2


@pytest.mark.parametrize("side", ["users", "items"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_vectors_that_are_not_finite_are_refused_like_scores(side, value):
    users, items, seen, truth = case(10, 12, 50, 4)
    vectors = {"users": users.astype(np.float32) * 2 + 1, "items": items.astype(np.float32) * 2 + 1}
    vectors[side][5, 1] = value
    errors = []
    for kind in (Scored, Products):
        model = kind(**vectors)
        model.score = Scored(**vectors).score  # type: ignore[method-assign]
        model.name = "mine"
        for ask in (lambda m: ranks(m, seen, truth), lambda m: top_k(m, np.arange(12), seen, 3)):
            with pytest.raises(InputError, match="scores are not finite") as error:
                ask(model)
            errors.append(str(error.value))
    assert errors[:2] == errors[2:]


def test_large_vectors_whose_products_are_finite_are_ranked():
    users, items, seen, truth = case(11, 12, 50, 4)
    model = Products(users * 2.0**60, items * 2.0**60)
    expected, _ = oracle(users @ items.T, seen, truth, 1, [])
    assert pairs(ranks(model, seen, truth)) == expected


def test_lists_of_users_and_of_histories():
    users, items, seen, _ = case(12, 20, 300, 6)
    rows = np.array([7, 3, 3, 0, 1])
    found = top_k(Products(users, items), rows, seen, 400)
    expected = top_k(Scored(users, items), rows, seen, 400)
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    assert (found.items[4] == -1).all()  # has chosen everything
    histories = [torch.tensor(h) for h in ([3, 3, 8], [5], [299, 0, 1, 2])]
    found, expected = (top_k_from_histories(k(users, items), histories, 300, 10) for k in (Products, Scored))
    assert found.items.tolist() == expected.items.tolist()
    assert found.scores.tolist() == expected.scores.tolist()


def test_few_users_other_precisions_and_other_shapes_are_scored(monkeypatch):
    users, items, seen, truth = case(13, 20, 30, 4)
    expected = pairs(ranks(Products(users, items), seen, truth))

    class Asked(Scored):
        is_dot_product = True
        asked = 0

        def score(self, users: torch.Tensor) -> torch.Tensor:
            self.asked += 1
            return super().score(users).float()

    half = Asked(users, items)
    half.items = half.items.double()
    half.users = half.users.double()
    assert pairs(ranks(half, seen, truth)) == expected
    monkeypatch.setattr(ranking, "FUSED_FROM", 1000)
    few = Asked(users, items)
    assert pairs(ranks(few, seen, truth)) == expected
    assert half.asked == few.asked == 1
    monkeypatch.setattr(ranking, "FUSED_FROM", 1)
    with pytest.raises(ValueError, match=r"expected \(\d+, 30\)"):
        ranks(Asked(users, items[:29]), seen, truth)
    for wrong in (lambda v: v[:-1], lambda v: v[:, :-1], lambda v: torch.cat([v, v], 1)):
        short = Asked(users, items)
        short.user_vectors = lambda rows, wrong=wrong, model=short: wrong(model.users[rows])
        with pytest.raises(ValueError, match=r"vectors of shape"):
            ranks(short, seen, truth)


def test_diverged_vectors_are_scored_in_blocks_that_fit_into_memory(monkeypatch):
    users, items, seen, truth = case(14, 60, 30, 4)
    monkeypatch.setattr(ranking, "SCORE_BYTES", 4 * 30 * 7)
    asked = []

    class Diverged(Scored):
        is_dot_product = True

        def score(self, users: torch.Tensor) -> torch.Tensor:
            asked.append(len(users))
            return super().score(users)

    broken = Diverged(users.astype(float), items)
    broken.users[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        ranks(broken, seen, truth)
    assert max(asked) == 7


def irrational() -> tuple[Products, Csr, Csr]:
    rng = np.random.default_rng(14)
    _, _, seen, truth = case(14, 50, 700, 1, 60)
    return Products(rng.standard_normal((50, 20)), rng.standard_normal((700, 20))), seen, truth


def digest() -> str:
    found, lists = ranks_and_top_k(*irrational(), 11)
    parts = (found.higher, found.equal, lists.items, lists.scores)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.mark.slow  # every kernel is compiled once more
def test_other_register_widths_give_the_same_bits():
    """Half as wide, with tiles of another shape, as on machines without AVX-512."""
    if not fused_ranking.WIDE:
        pytest.skip("needs the wide registers to compare with")
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_fused_ranking as t;"
        "t.ranking.FUSED_FROM = 1; print(t.fused_ranking.LANES, t.digest())"
    )
    narrow = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **narrow}, check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == ["8", digest()]


class Table:
    """A table of scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        self.scores = scores

    def score(self, users: torch.Tensor) -> torch.Tensor:
        return self.scores[users]


class Popular(MF):
    """Dot products plus another term."""

    def score(self, users: torch.Tensor) -> torch.Tensor:
        return super().score(users) * 0 + torch.arange(self.graph.n_items)


def test_a_model_with_its_own_score_method_is_ranked_by_its_scores():
    """A vector model is ranked by its vectors; a subclass, or an object, with a score of its own by that score."""
    graph = planted_graph()
    users = np.arange(graph.n_users)
    models = [kind(graph) for kind in (MF, Popular, MF, PathFusion)]
    for model in models:
        model.init_weights(0)
    plain, popular, replaced, _ = models
    replaced.score = popular.score
    assert [m.is_dot_product for m in models] == [True, False, False, False]
    for model in (popular, replaced):
        assert (top_k(model, users, model.history, 50).items.max(1) == graph.n_items - 1).mean() > 0.5
    expected = top_k(Table(plain.score(torch.from_numpy(users)).detach()), users, plain.history, 5).scores
    own = MF.item_vectors
    with mock.patch.object(MF, "item_vectors", autospec=True, side_effect=own) as asked:
        np.testing.assert_allclose(top_k(plain, users, plain.history, 5).scores, expected, rtol=1e-4)
    assert asked.call_count == 1  # and no scores
