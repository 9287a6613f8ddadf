"""Every metric against hand-worked values, all orders of tied items, ranx, and its own bounds."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from relrank.errors import InputError
from relrank.evaluation import metrics
from relrank.kernels.csr import Csr

NAMES = ["hit", "recall", "precision", "ndcg", "map"]


Counts = list[tuple[int, int]]
"""Of each relevant item of one user: candidates that score higher, and that score the same, with itself."""


def layout(users: list[Counts]) -> metrics.TieGroups:
    higher, equal = np.array([pair for user in users for pair in user], int).reshape(-1, 2).T
    return metrics.tie_groups(higher, equal, np.cumsum([0, *map(len, users)]))


def untied(*users: list[int]) -> metrics.TieGroups:
    return layout([[(rank, 1) for rank in user] for user in users])


def counts(scores: np.ndarray, relevant: set[int]) -> Counts:
    return [(int((scores > scores[i]).sum()), int((scores == scores[i]).sum())) for i in sorted(relevant)]


def textbook(name: str, places: list[int], k: int) -> float:
    """The definitions, position by position, for one user without ties."""
    inside = [(number, place) for number, place in enumerate(sorted(places), 1) if place < k]
    divisor = min(k, len(places))
    if name == "rank":
        return min(places) + 1.0
    if name == "mrr":
        return 1 / (min(places) + 1)
    if name == "hit":
        return float(bool(inside))
    if name == "recall":
        return len(inside) / len(places)
    if name == "precision":
        return len(inside) / k
    if name == "ndcg":
        ideal = sum(1 / math.log2(place + 2) for place in range(divisor))
        return sum(1 / math.log2(place + 2) for _, place in inside) / ideal
    return sum(number / (place + 1) for number, place in inside) / divisor


def over_all_orders(name: str, scores: list[float], relevant: set[int], k: int) -> float:
    """The mean of the textbook value over all orders in which higher scores come first."""
    ties = [[i for i, own in enumerate(scores) if own == score] for score in sorted(set(scores), reverse=True)]
    values = []
    for orders in itertools.product(*(itertools.permutations(tie) for tie in ties)):
        ranking = [i for order in orders for i in order]
        values.append(textbook(name, [place for place, i in enumerate(ranking) if i in relevant], k))
    return sum(values) / len(values)


def values_of(groups: metrics.TieGroups, k: int) -> dict[str, float]:
    """Every metric of a single user."""
    at_k = {name: float(metric(groups, k)[0]) for name, metric in metrics.AT_K.items()}
    return {**at_k, "mrr": float(metrics.mrr(groups)[0]), "rank": float(metrics.first_rank(groups)[0])}


# Three users: relevant items on places 1, 3 and 12 of the list; on place 11; on place 2.
HAND = untied([11, 0, 2], [10], [1])


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
    np.testing.assert_allclose(metrics.AT_K[name](HAND, k), values)
    np.testing.assert_allclose(metrics.metric_by_name(f"{name}@{k}", HAND), values)


def test_mrr_hand_worked():
    np.testing.assert_allclose(metrics.mrr(HAND), [1, 1 / 11, 1 / 2])
    np.testing.assert_allclose(metrics.metric_by_name("mrr", layout([[(3, 2)]])), [(1 / 4 + 1 / 5) / 2])


def test_pitfall_ap_divided_by_hits_found():
    # one of two relevant items found, on place 1: AP is 1/2, not 1
    assert metrics.average_precision(untied([0, 50]), 10) == 0.5


def test_map_divides_by_k_if_more_than_k_items_are_relevant():
    assert metrics.average_precision(untied([0, 1, 5, 9]), 2) == 1


def test_pitfall_ideal_dcg_cut_to_the_lists_own_length():
    # two hits on places 1 and 2 of three relevant items: below 1, since the ideal list holds all three
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    np.testing.assert_allclose(metrics.ndcg(untied([0, 1, 40]), 10), (1 + 1 / math.log2(3)) / best)


def test_a_single_tied_item_by_hand():
    tied = layout([[(0, 20)]])  # one relevant item among 20 equal ones
    assert metrics.hit(tied, 10) == metrics.recall(tied, 10) == 0.5
    assert metrics.hit(tied, 5) == 0.25
    np.testing.assert_allclose(metrics.precision(tied, 10), 0.05)
    np.testing.assert_allclose(metrics.ndcg(tied, 10), sum(1 / math.log2(p + 2) for p in range(10)) / 20)
    np.testing.assert_allclose(metrics.average_precision(tied, 10), sum(1 / p for p in range(1, 11)) / 20)
    np.testing.assert_allclose(metrics.mrr(tied), sum(1 / p for p in range(1, 21)) / 20)
    assert metrics.first_rank(tied) == 10.5


def test_pitfall_a_tie_of_2k_items_counts_nothing():
    # at its expected rank, 1,000, the item would be far outside 10, as a random order would not have it
    tied = layout([[(0, 2001)]])
    np.testing.assert_allclose(metrics.hit(tied, 10), 10 / 2001)
    assert metrics.ndcg(tied, 10) > 0


def test_relevant_items_that_share_a_tie_by_hand():
    tied = layout([[(0, 2), (0, 2)]])  # the only two candidates: any order is perfect
    assert values_of(tied, 2) == {"rank": 1, "mrr": 1, **dict.fromkeys(NAMES, 1.0)}
    assert values_of(tied, 1) == {"rank": 1, "mrr": 1, **dict.fromkeys(NAMES, 1.0), "recall": 0.5}
    # two of three, the third is not relevant: it stands first, second or last
    tied = layout([[(0, 3), (0, 3)]])
    found = values_of(tied, 2)
    assert found["hit"] == 1
    assert found["recall"] == found["precision"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert found["map"] == pytest.approx(((1 / 2) / 2 + 1 / 2 + 1) / 3)
    assert found["rank"] == pytest.approx(4 / 3)


def test_k_beyond_the_catalogue_divides_precision_by_k():
    everything = untied([0, 1, 2])
    assert metrics.precision(everything, 100) == 0.03
    for name in ("hit", "recall", "ndcg", "map"):
        assert metrics.AT_K[name](everything, 100) == 1


@settings(max_examples=150)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.data(), st.integers(1, 9))
def test_mean_over_all_orders_of_tied_items(scores, data, k):
    relevant = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    found = values_of(layout([counts(np.array(scores), relevant)]), k)
    for name, value in found.items():
        assert value == pytest.approx(over_all_orders(name, scores, relevant, k), rel=1e-12, abs=1e-13), name


@pytest.mark.parametrize("above", [0, 2])
def test_mean_over_all_orders_of_one_large_tie(above):
    """Every number of relevant items in and above a tie of seven, cut before, inside and behind it."""
    scores = [9.0 - i for i in range(above)] + [1.0] * 7
    for n_above, n_tied, k in itertools.product(range(above + 1), range(1, 8), range(1, 11, 2)):
        relevant = {*range(n_above), *range(above, above + n_tied)}
        found = values_of(layout([counts(np.array(scores), relevant)]), k)
        tied = itertools.combinations(range(above, above + 7), n_tied)
        places = [[*range(n_above), *chosen] for chosen in tied]
        for name, value in found.items():
            expected = np.mean([textbook(name, one, k) for one in places])
            assert value == pytest.approx(expected, rel=1e-12, abs=1e-13), (name, n_above, n_tied, k)


def test_mean_over_many_random_orders_of_large_ties():
    """Catalogues that no list of all orders fits; each value within five standard errors."""
    rng = np.random.default_rng(0)
    for n_scores in (1, 3, 40):
        scores = rng.integers(0, n_scores, 300)
        relevant = rng.choice(300, 12, replace=False)
        keys = np.argsort(rng.random((2000, 300)) - scores, axis=1)  # scores differ by 1, what breaks ties by less
        places = [np.flatnonzero(np.isin(order, relevant)).tolist() for order in keys]
        for k in (1, 20, 400):
            for name, value in values_of(layout([counts(scores, set(relevant.tolist()))]), k).items():
                drawn = np.array([textbook(name, one, k) for one in places])
                assert abs(value - drawn.mean()) <= 5 * drawn.std() / 2000**0.5 + 1e-12, (name, n_scores, k)


def test_mrr_of_large_ties_is_the_sum_over_positions():
    rng = np.random.default_rng(1)
    exponents = rng.uniform(0, 1, (400, 3)) * [3.5, 2.5, 4]
    ties = [(int(10**h) - 1, int(10**n), min(int(10**n), int(10**m))) for m, n, h in exponents]
    ties += [(0, 5000, 2), (0, 5000, 2500), (0, 5000, 4999), (3, 5000, 40), (4000, 5000, 40), (99_999, 2, 2)]
    expected = []
    for higher, size, relevant in ties:
        left = size - np.arange(size - relevant + 1)
        none_before = np.cumprod(np.append(1, (left - relevant) / left))[:-1]
        expected.append((none_before * relevant / left / (higher + 1 + size - left)).sum())
    found = metrics.mrr(layout([[(higher, size)] * relevant for higher, size, relevant in ties]))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("name", [*NAMES, "mrr"])
def test_without_ties_metrics_equal_the_textbook_definitions(name):
    rng = np.random.default_rng(3)
    users = [rng.choice(400, rng.integers(1, 60), replace=False).tolist() for _ in range(200)]
    for k in (1, 2, 5, 10, 60, 10**9):
        metric = metrics.mrr if name == "mrr" else functools.partial(metrics.AT_K[name], k=k)
        expected = [textbook(name, user, k) for user in users]
        np.testing.assert_allclose(metric(untied(*users)), expected, rtol=1e-14)


def test_each_user_has_the_value_of_a_user_alone():
    rng = np.random.default_rng(4)
    users = []
    for n_scores in (1, 2, 5, 30, 1000) * 8:
        scores = rng.integers(0, n_scores, 60)
        users.append(counts(scores, set(rng.choice(60, rng.integers(1, 9), replace=False).tolist())))
    together = layout(users)
    for k in (1, 7, 100):
        alone = [values_of(layout([user]), k) for user in users]
        for name, metric in metrics.AT_K.items():
            np.testing.assert_allclose(metric(together, k), [one[name] for one in alone], rtol=1e-12)
        np.testing.assert_allclose(metrics.mrr(together), [one["mrr"] for one in alone], rtol=1e-12)
        np.testing.assert_allclose(metrics.first_rank(together), [one["rank"] for one in alone])


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.data(),
    st.integers(1, 15),
)
def test_values_stay_in_the_unit_interval_under_any_ties(scores, data, k):
    relevant = data.draw(st.sets(st.integers(0, len(scores) - 1), min_size=1))
    groups = layout([counts(np.array(scores), relevant)])
    for name in NAMES:
        assert 0 <= metrics.AT_K[name](groups, k)[0] <= 1 + 1e-12
    assert metrics.hit(groups, k) >= metrics.recall(groups, k) - 1e-12
    assert metrics.recall(groups, k + 1) >= metrics.recall(groups, k) - 1e-12


def test_no_users():
    nothing = layout([])
    for name in NAMES:
        assert metrics.AT_K[name](nothing, 10).size == 0
    assert metrics.mrr(nothing).size == metrics.first_rank(nothing).size == 0


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run, names = json.load(sys.stdin)
values = evaluate(Qrels(qrels), Run(run), names, return_mean=False)
print(json.dumps({name: list(map(float, values[name])) for name in names}))
"""


def test_ranx_agrees_on_untied_scores():
    pytest.importorskip("ranx")
    rng = np.random.default_rng(5)
    qrels, run, users = {}, {}, []
    for user in range(60):
        scores = rng.permutation(80).astype(float)
        relevant = set(rng.choice(80, rng.integers(1, 12), replace=False).tolist())
        qrels[f"{user:02}"] = {str(i): 1 for i in relevant}
        run[f"{user:02}"] = {str(i): float(s) for i, s in enumerate(scores)}
        users.append(counts(scores, relevant))
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
    groups = layout(users)
    np.testing.assert_allclose(metrics.mrr(groups), found["mrr"])
    for k in (1, 5, 10):
        for name, theirs_name in theirs.items():
            expected = np.array(found[f"{theirs_name}@{k}"])
            if name == "map":
                # ranx divides AP@k by all relevant items: a perfect list scores below 1 where they are more than k
                expected = expected * groups.n_relevant / np.minimum(groups.n_relevant, k)
            np.testing.assert_allclose(metrics.AT_K[name](groups, k), expected, atol=1e-12, err_msg=f"{name}@{k}")


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 users without relevant items"):
        layout([[(1, 1)], []])
    for higher, equal in ((3, 2), (2, 3), (3, 3)):
        with pytest.raises(ValueError, match="indptr ends at 2"):
            metrics.tie_groups(np.zeros(higher, int), np.ones(equal, int), np.array([0, 2]))
    with pytest.raises(ValueError, match="more relevant items than candidates share a score"):
        layout([[(0, 1), (0, 1)]])


@pytest.mark.parametrize("name", NAMES)
def test_a_cutoff_of_0_is_refused(name):
    with pytest.raises(ValueError, match="k must be at least 1"):
        metrics.AT_K[name](HAND, 0)


@pytest.mark.parametrize("name", ["ndcg", "auc@10", "ndcg@0", "ndcg@x", "mrr@10", "ndcg@-1"])
def test_unknown_metric_names_are_refused(name):
    with pytest.raises(InputError, match="unknown metric"):
        metrics.metric_by_name(name, HAND)


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


def test_novelty_is_the_mean_self_information_of_the_list():
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
def test_miscalibration_is_the_divergence_of_dense_distributions(weighted):
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
