from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from relrank.errors import InputError
from relrank.graph.sampling.negatives import NegativeSampler, check_negatives_exist
from relrank.kernels.csr import Csr

KINDS = [
    ("uniform", False), ("uniform", True), ("popularity", False), ("popularity", True), ("in-batch", True),
    ("mixed", True),
]  # fmt: skip


def sets(n_users, n_items, share, seed=0):
    rng = np.random.default_rng(seed)
    return Csr.from_pairs(*np.nonzero(rng.random((n_users, n_items)) < share), (n_users, n_items))


def own(positives, user):
    return set(positives.indices[positives.indptr[user] : positives.indptr[user + 1]].tolist())


def test_negatives_of_neighbouring_edges_are_independent():
    """As many equal pairs as chance has."""
    positives = sets(3, 30, 0.4)
    free = 30 - len(own(positives, 0))
    users = np.zeros(20_000, np.int64)
    drawn = NegativeSampler(positives, "uniform", 3, False).draw(users, users, np.random.SeedSequence(0))
    for equal in (drawn.columns[1:, 0] == drawn.columns[:-1, 0], drawn.columns[:, 0] == drawn.columns[:, 1]):
        assert equal.mean() == pytest.approx(1 / free, abs=4 * np.sqrt(1 / free / 20_000))


def test_no_loop_forever_for_a_user_who_has_everything():
    full = Csr.from_pairs(np.array([0, 2, 2, 2]), np.array([1, 0, 1, 2]), (3, 3))
    with pytest.raises(InputError, match=r"every item[\s\S]*user row 2"):
        check_negatives_exist(full)
    check_negatives_exist(full.take(np.array([0, 1])))


def test_shared_uniform_negatives_are_uniform_over_the_catalogue():
    positives = sets(3, 40, 0.3)
    sampler, edge = NegativeSampler(positives, "uniform", 10, True), np.array([0])
    counts = np.zeros(40)
    for seed in range(400):
        counts[sampler.draw(edge, edge, np.random.SeedSequence(seed)).items] += 1
    assert counts.sum() == 4000
    assert fits(counts, 100)


def skewed(n_users, n_items, seed=0, cold=0):
    """Items by a power law; the last ``cold`` ones nobody has."""
    rng = np.random.default_rng(seed)
    chance = 0.9 / np.arange(1, n_items + 1) ** 0.8
    chance[n_items - cold :] = 0
    return Csr.from_pairs(*np.nonzero(rng.random((n_users, n_items)) < chance), (n_users, n_items))


def batch(positives, size, seed):
    """Edges without replacement, as training takes them."""
    at = np.random.default_rng(seed).permutation(positives.nnz)[:size]
    return positives.rows()[at].astype(np.int64), positives.indices[at].astype(np.int64)


def fits(counts, expected):
    """Chi-square: mean df, variance 2 df; four standard deviations."""
    df = counts.size - 1
    return ((counts - expected) ** 2 / expected).sum() < df + 4 * np.sqrt(2 * df)


@pytest.mark.parametrize(("kind", "shared"), KINDS)
@pytest.mark.parametrize("n", [1, 12, 500])
def test_drawn_is_what_it_says_and_no_negative_is_a_positive(kind, shared, n):
    """Against a naive oracle, for every kind, with users who have nothing but one item, and all but one."""
    positives = sets(50, 40, 0.5)
    row, col = positives.rows(), positives.indices
    row = np.r_[row[row > 1], 0, np.ones(39, np.int64)]
    col = np.r_[col[positives.rows() > 1], 3, np.arange(40)[np.arange(40) != 17]]
    positives = Csr.from_pairs(row, col, (50, 40))
    users, items = batch(positives, 300, 1)
    drawn = NegativeSampler(positives, kind, n, shared).draw(users, items, np.random.SeedSequence(2))
    assert drawn.items.dtype == np.int64
    assert (np.diff(drawn.items) > 0).all()
    if shared:
        assert drawn.columns is None
        assert drawn.excluded.dtype == np.bool_
        assert drawn.excluded.tolist() == [[i in own(positives, u) for i in drawn.items.tolist()] for u in users]
        assert drawn.items.size <= n
        if kind in ("uniform", "popularity"):
            assert drawn.items.size == min(n, 40)
        if kind == "in-batch":
            assert set(drawn.items.tolist()) <= set(items.tolist())
            assert n < 300 or drawn.items.size == np.unique(items).size
    else:
        assert drawn.excluded is None
        assert drawn.columns.dtype == np.int32
        assert drawn.columns.shape == (300, n)
        assert np.unique(drawn.columns).tolist() == list(range(drawn.items.size))
        for user, mine in zip(users, drawn.items[drawn.columns], strict=True):
            assert not own(positives, user) & set(mine.tolist())
        assert set(drawn.items[drawn.columns[users == 1]].ravel().tolist()) == {17}
    assert (drawn.log_q is None) == (kind == "uniform")
    if drawn.log_q is not None:
        assert drawn.log_q.dtype == np.float32
        assert drawn.log_q.shape == drawn.items.shape
        assert np.isfinite(drawn.log_q).all()


def test_own_negatives_are_distributed_as_their_kind_says():
    """Uniform, and by count to the power, among what the user does not have; cold items as if they had one edge."""
    positives = skewed(80, 30, cold=2)
    counts = np.maximum(np.bincount(positives.indices, minlength=30), 1)
    assert counts[-1] == 1
    free = np.setdiff1d(np.arange(30), positives.take(np.array([4])).indices)
    assert 28 in free
    assert free.size < 28
    users = np.full(20_000, 4)
    for kind, power in [("uniform", 0.0), ("popularity", 0.0), ("popularity", 0.75), ("popularity", 1.5)]:
        drawn = NegativeSampler(positives, kind, 3, False, power).draw(users, users, np.random.SeedSequence(0))
        got = np.bincount(drawn.items[drawn.columns].ravel(), minlength=30)
        expected = counts[free] ** power / (counts[free] ** power).sum() * 60_000
        assert got.sum() == got[free].sum() == 60_000
        assert fits(got[free], expected), (kind, power)
        assert kind == "uniform" or fits(got[free], np.full(free.size, 60_000 / free.size)) == (power == 0)
    # log_q: how often an item is expected among the three, the user's own counted as if they could be
    share = counts**1.5 / (counts**1.5).sum()
    assert drawn.log_q == pytest.approx(np.log(3 * share[drawn.items]), abs=1e-5)


def test_popularity_is_exact_and_quick_where_the_user_has_nearly_all_the_mass():
    """Item 0 has a million times the weight of the others: trying until it is missed would not end."""
    n_items = 50
    pairs = [(u, 0) for u in range(1, 1001)] + [(u, i) for i in range(1, 50, 2) for u in range(1001, 1001 + i)]
    positives = Csr.from_pairs(*np.array([*pairs, (0, 0), (0, 7), (0, 8)]).T, (1100, n_items))
    counts = np.maximum(np.bincount(positives.indices, minlength=n_items), 1)
    free = np.setdiff1d(np.arange(n_items), [0, 7, 8])
    users = np.zeros(5000, np.int64)
    sampler = NegativeSampler(positives, "popularity", 4, False, 4.0)
    drawn = sampler.draw(users, users, np.random.SeedSequence(1))
    got = np.bincount(drawn.items[drawn.columns].ravel(), minlength=n_items)
    weights = counts.astype(float) ** 4
    assert weights[0] / weights.sum() > 0.999
    expected = weights[free] / weights[free].sum() * 20_000
    often = expected > 5
    assert got.sum() == got[free].sum() == 20_000
    assert fits(got[free][often], expected[often])


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_a_user_with_all_items_but_one_gets_that_one_at_once(kind):
    """200,000 items and 4,000 draws: 800 million tries for who draws until it is right."""
    n_items = 200_000
    positives = Csr.from_pairs(np.zeros(n_items - 1, int), np.delete(np.arange(n_items), 123_456), (1, n_items))
    users = np.zeros(20 if kind == "popularity" else 4000, np.int64)
    drawn = NegativeSampler(positives, kind, 5, False).draw(users, users, np.random.SeedSequence(0))
    assert drawn.items.tolist() == [123_456]
    assert not drawn.columns.any()


def test_shared_popularity_takes_items_one_after_the_other_by_weight():
    """Two of four items without replacement: each pair's probability by hand."""
    weights = np.array([2, 3, 4, 6])
    positives = Csr.from_pairs(np.arange(15), np.repeat(np.arange(4), weights), (16, 4))
    sampler = NegativeSampler(positives, "popularity", 2, True, 1.0, parallel=False)
    seeds = np.random.SeedSequence(0).spawn(4000)
    drawn = [tuple(sampler.draw(np.array([0]), np.array([0]), seed).items.tolist()) for seed in seeds]
    p = weights / weights.sum()
    both = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in both])
    got = np.array([drawn.count(pair) for pair in both])
    assert got.sum() == 4000
    assert fits(got, expected * 4000)


@pytest.mark.parametrize(("kind", "n"), [("popularity", 8), ("popularity", 30), ("in-batch", 64), ("in-batch", 20),
                                         ("mixed", 24), ("mixed", 50)])  # fmt: skip
def test_log_q_makes_the_drawn_stand_for_the_catalogue(kind, n):
    """Over many batches every item that the user does not have stands there 1/q times: once in the mean."""
    positives = skewed(300, 40)
    sampler = NegativeSampler(positives, kind, n, True, parallel=False)
    weight, there = np.full((2, 3000, 40), np.nan)
    for k, seed in enumerate(np.random.SeedSequence(0).spawn(3000)):
        users, items = batch(positives, 64, seed.spawn(1)[0])
        drawn = sampler.draw(users, items, seed)
        free = np.setdiff1d(np.arange(40), positives.take(users[:1]).indices)
        keep = ~drawn.excluded[0]
        weight[k, free] = there[k, free] = 0
        weight[k, drawn.items[keep]] = np.exp(-drawn.log_q[keep])
        there[k, drawn.items[keep]] = 1
    often = (~np.isnan(weight)).sum(0)
    error = np.nanstd(weight, 0) / np.sqrt(often)
    assert (np.abs(np.nanmean(weight, 0) - 1) < 4 * error + 0.02)[often > 200].all()
    rate = np.nanmean(there, 0)[often > 200]
    assert rate.min() < 0.9 * rate.max()


def test_shared_draws_of_the_whole_catalogue_need_no_correction():
    positives = skewed(80, 30, cold=2)
    users, items = batch(positives, 16, 0)
    drawn = NegativeSampler(positives, "popularity", 30, True).draw(users, items, np.random.SeedSequence(0))
    assert drawn.items.tolist() == list(range(30))
    assert not drawn.log_q.any()
    # all edges in one batch: every item that has one is there
    users, items = positives.rows().astype(np.int64), positives.indices.astype(np.int64)
    drawn = NegativeSampler(positives, "in-batch", positives.nnz, True).draw(users, items, np.random.SeedSequence(0))
    assert drawn.items.tolist() == list(range(28))
    assert drawn.log_q == pytest.approx(0, abs=1e-6)


def test_in_batch_of_a_single_edge_leaves_nothing():
    positives = skewed(20, 10)
    drawn = NegativeSampler(positives, "in-batch", 5, True).draw(*batch(positives, 1, 0), np.random.SeedSequence(0))
    assert drawn.items.size == 1
    assert drawn.excluded.all()
    assert np.isfinite(drawn.log_q).all()


def same(a, b):
    return all(
        (x is None and y is None) or np.array_equal(x, y)
        for x, y in ((getattr(a, name), getattr(b, name)) for name in ("items", "columns", "excluded", "log_q"))
    )


@pytest.mark.parametrize(("kind", "shared"), KINDS)
def test_same_seed_same_draws_on_any_number_of_threads_and_from_many_at_once(kind, shared, monkeypatch):
    monkeypatch.setattr("relrank.graph.sampling.negatives._PARALLEL", 0)
    positives = skewed(300, 200)
    users, items = batch(positives, 400, 0)
    before = numba.get_num_threads()
    drawn = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        drawn.append(NegativeSampler(positives, kind, 20, shared).draw(users, items, np.random.SeedSequence(7)))
    numba.set_num_threads(before)
    assert same(*drawn)
    serial = NegativeSampler(positives, kind, 20, shared, parallel=False)
    with ThreadPoolExecutor(4) as pool:
        seeds = [np.random.SeedSequence(s) for s in (7, 8) * 20]
        many = list(pool.map(lambda seed: serial.draw(users, items, seed), seeds))
    assert all(same(drawn[0], one) for one in many[::2])
    assert all(same(many[1], one) for one in many[1::2])
    if kind != "in-batch":  # whole batch: nothing random
        assert not same(many[0], many[1])


def test_settings_that_cannot_be_are_refused():
    positives = skewed(20, 10)
    full = Csr.from_pairs(np.array([0, 1, 1]), np.array([0, 0, 1]), (2, 2))
    for kind, shared in KINDS:
        with pytest.raises(InputError, match=r"every item[\s\S]*user row 1"):
            NegativeSampler(full, kind, 1, shared)
        with pytest.raises(InputError, match=r"too few negatives[\s\S]*1 or more[\s\S]*0"):
            NegativeSampler(positives, kind, 0, shared)
    with pytest.raises(InputError, match=r"unknown negatives[\s\S]*in-batch[\s\S]*'hard'"):
        NegativeSampler(positives, "hard", 1, True)
    for kind in ("in-batch", "mixed"):
        with pytest.raises(InputError, match="only be shared"):
            NegativeSampler(positives, kind, 1, False)
    for power in (-0.5, np.inf, np.nan):
        with pytest.raises(InputError, match="power"):
            NegativeSampler(positives, "popularity", 1, True, power)
    assert (
        repr(NegativeSampler(positives, "mixed", 4, True)) == "NegativeSampler(mixed, 4 shared by a batch, 10 items)"
    )
