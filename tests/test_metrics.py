"""Every metric against hand-worked values, a naive loop, ranx, and its own bounds."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from relrank import metrics
from relrank.csr import Csr
from relrank.errors import InputError

NAMES = ["hit", "recall", "precision", "ndcg", "map"]


def layout(users: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks per user -> (ranks, indptr)."""
    return np.array([r for user in users for r in user], float), np.cumsum([0, *map(len, users)])


def expected_ranks(scores: np.ndarray, relevant: set[int]) -> list[float]:
    return [float((scores > scores[i]).sum() + ((scores == scores[i]).sum() - 1) / 2) for i in sorted(relevant)]


def naive(name: str, ranks: list[float], k: int) -> float:
    """The definitions once more, item by item, for one user."""
    inside = [(place, rank) for place, rank in enumerate(sorted(ranks), 1) if rank < k and place <= k]
    divisor = min(k, len(ranks))
    if name == "hit":
        return float(bool(inside))
    if name == "recall":
        return len(inside) / len(ranks)
    if name == "precision":
        return len(inside) / k
    if name == "ndcg":
        ideal = sum(1 / math.log2(place + 1) for place in range(1, divisor + 1))
        return sum(1 / math.log2(rank + 2) for _, rank in inside) / ideal
    return sum(place / (rank + 1) for place, rank in inside) / divisor


# Three users: relevant items on places 1, 3 and 12 of the list; on place 11; on place 2.
HAND = layout([[11, 0, 2], [10], [1]])


@pytest.mark.parametrize(
    ("name", "k", "values"),
    [
        ("hit", 10, [1, 0, 1]),
        ("hit", 1, [1, 0, 0]),
        ("recall", 10, [2 / 3, 0, 1]),
        ("precision", 10, [0.2, 0, 0.1]),
        ("ndcg", 10, [(1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), 0, 1 / math.log2(3)]),
        ("ndcg", 2, [1 / (1 + 1 / math.log2(3)), 0, 1 / math.log2(3)]),
        ("map", 10, [(1 + 2 / 3) / 3, 0, 1 / 2]),
        ("map", 12, [(1 + 2 / 3 + 3 / 12) / 3, 1 / 11, 1 / 2]),
    ],
)
def test_hand_worked(name, k, values):
    np.testing.assert_allclose(metrics.AT_K[name](*HAND, k), values)
    np.testing.assert_allclose(metrics.by_name(f"{name}@{k}", *HAND), values)


def test_mrr_hand_worked():
    np.testing.assert_allclose(metrics.mrr(*HAND), [1, 1 / 11, 1 / 2])
    np.testing.assert_allclose(metrics.by_name("mrr", *layout([[3.5]])), [1 / 4.5])


def test_pitfall_ap_divided_by_hits_found():
    # one of two relevant items found, on place 1: AP is 1/2, not 1
    assert metrics.average_precision(*layout([[0, 50]]), 10) == 0.5


def test_map_divisor_is_k_where_more_than_k_items_are_relevant():
    assert metrics.average_precision(*layout([[0, 1, 5, 9]]), 2) == 1


def test_pitfall_ideal_dcg_cut_to_the_lists_own_length():
    # two hits on places 1 and 2 of three relevant items: below 1, since the ideal list holds all three
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(metrics.ndcg(*layout([[0, 1, 40]]), 10), (1 + 1 / math.log2(3)) / best)


def test_ties_count_at_their_expected_rank():
    # one relevant item among 20 equal ones: expected rank 9.5 is inside 10, outside 9
    tied = layout([[9.5]])
    assert metrics.hit(*tied, 10) == 1
    assert metrics.hit(*tied, 9) == 0
    np.testing.assert_allclose(metrics.ndcg(*tied, 10), 1 / math.log2(11.5))


def test_relevant_items_tied_with_each_other_do_not_fill_more_than_k_places():
    tied = layout([[0.5, 0.5]])
    assert metrics.precision(*tied, 1) == 1
    assert metrics.recall(*tied, 1) == 0.5
    np.testing.assert_allclose(metrics.ndcg(*tied, 1), 1 / math.log2(2.5))
    np.testing.assert_allclose(metrics.average_precision(*tied, 2), 1)


def test_k_beyond_the_catalogue_divides_precision_by_k():
    everything = layout([[0, 1, 2]])
    assert metrics.precision(*everything, 100) == 0.03
    for name in ("hit", "recall", "ndcg", "map"):
        assert metrics.AT_K[name](*everything, 100) == 1


@pytest.mark.parametrize("name", NAMES)
def test_naive_loop_on_random_scores_with_ties(name):
    rng = np.random.default_rng(3)
    users = []
    for _ in range(200):
        scores = rng.integers(0, 15, 40).astype(float)  # many ties
        users.append(expected_ranks(scores, set(rng.choice(40, rng.integers(1, 9), replace=False).tolist())))
    for k in (1, 2, 5, 10, 60):
        expected = [naive(name, user, k) for user in users]
        np.testing.assert_allclose(metrics.AT_K[name](*layout(users), k), expected, atol=1e-12)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.data(),
    st.integers(1, 15),
)
def test_values_stay_in_the_unit_interval_under_any_ties(scores, data, k):
    relevant = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    ranks = layout([expected_ranks(np.array(scores, float), relevant)])
    for name in NAMES:
        assert 0 <= metrics.AT_K[name](*ranks, k)[0] <= 1 + 1e-12
    assert metrics.hit(*ranks, k) >= metrics.recall(*ranks, k)
    assert metrics.recall(*ranks, k + 1) >= metrics.recall(*ranks, k)


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run, names = json.load(sys.stdin)
values = evaluate(Qrels(qrels), Run(run), names, return_mean=False)
print(json.dumps({name: list(map(float, values[name])) for name in names}))
"""


def test_ranx_agrees_on_untied_scores():
    rng = np.random.default_rng(5)
    qrels, run, users = {}, {}, []
    for user in range(60):
        scores = rng.permutation(80).astype(float)
        relevant = set(rng.choice(80, rng.integers(1, 12), replace=False).tolist())
        qrels[f"{user:02}"] = {str(i): 1 for i in relevant}
        run[f"{user:02}"] = {str(i): float(s) for i, s in enumerate(scores)}
        users.append(expected_ranks(scores, relevant))
    theirs = {"hit": "hit_rate", "recall": "recall", "precision": "precision", "ndcg": "ndcg", "map": "map"}
    names = ["mrr", *(f"{name}@{k}" for name in theirs.values() for k in (1, 5, 10))]
    # Its kernels take most of a minute to compile and no time to interpret; that switch is per process.
    done = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([qrels, run, names]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    ranks = layout(users)
    n_relevant = np.diff(ranks[1])
    np.testing.assert_allclose(metrics.mrr(*ranks), found["mrr"])
    for k in (1, 5, 10):
        for name, theirs_name in theirs.items():
            expected = np.array(found[f"{theirs_name}@{k}"])
            if name == "map":
                # ranx divides AP@k by all relevant items: a perfect list scores below 1 where they are more than k
                expected = expected * n_relevant / np.minimum(n_relevant, k)
            np.testing.assert_allclose(metrics.AT_K[name](*ranks, k), expected, atol=1e-12, err_msg=f"{name}@{k}")


@pytest.mark.parametrize("name", NAMES)
def test_users_without_truth_are_the_callers_to_leave_out(name):
    with pytest.raises(ValueError, match="1 users without relevant items"):
        metrics.AT_K[name](*layout([[1], []]), 10)
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.AT_K[name](*HAND, 0)
    with pytest.raises(ValueError, match="indptr ends at 5"):
        metrics.AT_K[name](HAND[0][:3], HAND[1], 10)


@pytest.mark.parametrize("name", ["ndcg", "auc@10", "ndcg@0", "ndcg@x", "mrr@10", "ndcg@-1"])
def test_unknown_metric_names_are_refused(name):
    with pytest.raises(InputError, match="unknown metric"):
        metrics.by_name(name, *HAND)


LISTS = np.array([[0, 1], [0, 2], [0, -1]])


def test_coverage_counts_distinct_items_of_the_catalogue():
    assert metrics.coverage(LISTS, 6) == 0.5


def test_gini_is_over_the_full_catalogue():
    # counts 3, 1, 1, 0: mean absolute difference over twice the mean, from all pairs
    counts = np.array([3, 1, 1, 0])
    pairs = sum(abs(int(a) - int(b)) for a, b in itertools.product(counts, counts))
    assert metrics.gini(LISTS, 4) == pytest.approx(pairs / (2 * 4 * 4 * counts.mean()))
    assert metrics.gini(np.array([[0, 1], [2, 3]]), 4) == 0
    assert metrics.gini(np.zeros((5, 1), int), 10) == pytest.approx(1 - 1 / 10)
    assert math.isnan(metrics.gini(np.array([[-1]]), 3))


def test_novelty_is_the_mean_bits_of_the_items_shown():
    # of 8 users, 8, 4 and 0 have the items; none counts as one
    values = metrics.novelty(np.array([[0, 1], [1, 2], [1, -1], [-1, -1]]), np.array([8, 4, 0]), 8)
    np.testing.assert_allclose(values, [0.5, 2, 1, np.nan])


def test_intra_list_similarity_averages_cosines_of_pairs():
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((12, 7)) < 0.5, rng.random((12, 7)), 0)
    dense[3] = 0
    rows, cols = dense.nonzero()
    features = Csr.from_pairs(rows, cols, dense.shape, dense[rows, cols])
    lists = np.array([[0, 1, 2, 4], [5, 3, 6, -1], [3, 7, -1, -1], [8, 9, 10, 11]])
    expected = []
    for items in lists:
        known = [i for i in items if i >= 0 and dense[i].any()]
        cosines = [
            dense[i] @ dense[j] / np.linalg.norm(dense[i]) / np.linalg.norm(dense[j])
            for i, j in itertools.combinations(known, 2)
        ]
        expected.append(np.mean(cosines) if cosines else np.nan)
    np.testing.assert_allclose(metrics.intra_list_similarity(lists, features, chunk=3), expected, rtol=1e-6)
    assert np.isnan(expected[2])  # an item without features is not an item with empty ones


def pairs_of(rows, n_cols):
    """Csr of lists of columns."""
    at = np.array([(row, col) for row, cols in enumerate(rows) for col in cols]).reshape(-1, 2)
    return Csr.from_pairs(at[:, 0], at[:, 1], (len(rows), n_cols))


# items: drama; drama and crime; crime; of no genre; western
GENRES = pairs_of([[0], [0, 1], [1], [], [2]], 3)


def test_miscalibration_by_hand():
    history = pairs_of([[0, 1], [2], [3], [0], [0, 2, 3]], 5)
    lists = np.array([[2, 3], [4, 0], [0, 1], [3, -1], [1, -1]])
    values = metrics.miscalibration(lists, history, GENRES)
    # user 0: three quarters drama and one crime, shown crime alone (the item of no genre is left out)
    first = 0.75 * np.log(0.75 / (0.01 * 0.75)) + 0.25 * np.log(0.25 / (0.99 * 1 + 0.01 * 0.25))
    # user 1: nothing of the own mix. 2 and 3: no genre in the history, none in the list. 4: half and half in both
    np.testing.assert_allclose(values, [first, np.log(100), np.nan, np.nan, 0], atol=1e-12)
    half = metrics.miscalibration(lists, history, GENRES, alpha=0.5)
    assert half[0] == pytest.approx(0.75 * np.log(2) + 0.25 * np.log(0.25 / (0.5 + 0.125)))
    assert half[1] == pytest.approx(np.log(2))


def dense_mix(items, shares):
    """Mean distribution of the items that have one."""
    known = [shares[i] for i in items if i >= 0 and shares[i].sum()]
    return np.mean(known, axis=0) if known else None


@pytest.mark.parametrize("weighted", [False, True])
def test_miscalibration_is_the_divergence_of_dense_mixes(weighted):
    rng = np.random.default_rng(3)
    dense = np.where(rng.random((40, 9)) < 0.2, rng.random((40, 9)) if weighted else 1.0, 0)
    rows, cols = dense.nonzero()
    features = Csr.from_pairs(rows, cols, dense.shape, dense[rows, cols])
    shares = features.data.astype(float)
    full = np.zeros(dense.shape)
    full[rows, cols] = shares / np.bincount(rows, weights=shares)[rows]
    histories = [rng.choice(40, size=rng.integers(0, 6), replace=False) for _ in range(60)]
    lists = np.array([rng.permutation(40)[:4] for _ in range(60)])
    lists[rng.random(60) < 0.3, 2:] = -1
    expected = []
    for own, shown in zip(histories, lists, strict=True):
        p, q = dense_mix(own, full), dense_mix(shown, full)
        smooth = None if p is None or q is None else 0.99 * q + 0.01 * p
        expected.append(np.nan if smooth is None else scipy.stats.entropy(p, smooth))
    values = metrics.miscalibration(lists, pairs_of(histories, 40), features)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(expected).any()
    assert np.nanmax(expected) == pytest.approx(np.log(100))


def test_popularity_lift_by_hand():
    counts = np.array([8, 4, 2, 0])
    history = pairs_of([[0, 1], [2], [], [1], [1]], 4)
    lists = np.array([[1, 2], [0, 1], [0, 1], [3, -1], [-1, -1]])
    # 3 after 6; 6 after 2; no history; an item that nobody has; nothing shown
    np.testing.assert_allclose(metrics.popularity_lift(lists, history, counts), [-0.5, 2, np.nan, -1, np.nan])


def test_popularity_lift_is_its_definition_user_by_user():
    rng = np.random.default_rng(4)
    histories = [rng.choice(30, size=rng.integers(0, 9), replace=False) for _ in range(50)]
    counts = np.bincount(np.concatenate(histories), minlength=30)
    lists = np.array([rng.permutation(30)[:5] for _ in range(50)])
    lists[rng.random(50) < 0.3, 3:] = -1
    expected = []
    for own, shown in zip(histories, lists, strict=True):
        taste = np.mean(counts[own]) if own.size else np.nan
        expected.append((np.mean(counts[shown[shown >= 0]]) - taste) / taste)
    np.testing.assert_allclose(metrics.popularity_lift(lists, pairs_of(histories, 30), counts), expected)
    # a list that is the history lifts nothing
    same = np.array([np.append(own, [-1] * (9 - own.size)) for own in histories])
    assert np.nanmax(np.abs(metrics.popularity_lift(same, pairs_of(histories, 30), counts))) < 1e-12
