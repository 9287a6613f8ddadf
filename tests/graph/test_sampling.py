import numba
import numpy as np
import pytest

from relrank.csr import Csr
from relrank.errors import InputError
from relrank.graph.sampling import check_negatives_exist, negatives, shared_negatives


def sets(n_users, n_items, share, seed=0):
    rng = np.random.default_rng(seed)
    return Csr.from_pairs(*np.nonzero(rng.random((n_users, n_items)) < share), (n_users, n_items))


def own(positives, user):
    return set(positives.indices[positives.indptr[user] : positives.indptr[user + 1]].tolist())


def test_negatives_are_never_positives():
    """Checked for users with nothing, with half, and with all items but one."""
    positives = sets(50, 40, 0.5)
    row, col = positives.rows(), positives.indices
    keep = row > 1
    row = np.r_[row[keep], np.ones(39, np.int64)]
    col = np.r_[col[keep], np.arange(40)[np.arange(40) != 17]]
    positives = Csr.from_pairs(row, col, (50, 40))
    users = np.random.default_rng(1).integers(0, 50, 3000)
    drawn = negatives(positives, users, 5, np.random.SeedSequence(2))
    assert drawn.shape == (3000, 5)
    assert drawn.dtype == np.int32
    for user, items in zip(users, drawn, strict=True):
        assert not own(positives, user) & set(items.tolist())
    assert set(drawn[users == 1].ravel().tolist()) == {17}
    assert drawn.min() == 0
    assert drawn.max() == 39


def test_negatives_are_uniform_over_what_the_user_does_not_have():
    positives = sets(3, 30, 0.4)
    drawn = negatives(positives, np.zeros(20_000, np.int64), 3, np.random.SeedSequence(0))
    free = np.setdiff1d(np.arange(30), positives.indices[: positives.indptr[1]])
    counts = np.bincount(drawn.ravel(), minlength=30)[free]
    expected = drawn.size / free.size
    # chi-square: mean df, variance 2 df; four standard deviations
    df = free.size - 1
    assert ((counts - expected) ** 2 / expected).sum() < df + 4 * np.sqrt(2 * df)
    # neighbours in the batch are independent: as many equal pairs as chance has
    equal = (drawn[1:, 0] == drawn[:-1, 0]).mean()
    assert equal == pytest.approx(1 / free.size, abs=4 * np.sqrt(1 / free.size / 20_000))


def test_same_seed_same_negatives_on_any_number_of_threads():
    positives, users = sets(200, 100, 0.3), np.random.default_rng(0).integers(0, 200, 5000)
    before = numba.get_num_threads()
    drawn = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        drawn.append(negatives(positives, users, 2, np.random.SeedSequence(7)))
    numba.set_num_threads(before)
    assert (drawn[0] == drawn[1]).all()
    other = negatives(positives, users, 2, np.random.SeedSequence(8))
    assert (other == drawn[0]).mean() < 0.1


def test_no_loop_forever_for_a_user_who_has_everything():
    full = Csr.from_pairs(np.array([0, 2, 2, 2]), np.array([1, 0, 1, 2]), (3, 3))
    with pytest.raises(InputError, match=r"every item[\s\S]*user row 2"):
        check_negatives_exist(full)
    with pytest.raises(InputError, match=r"every item[\s\S]*user row 2"):
        negatives(full, np.array([0, 2]), 1, np.random.SeedSequence(0))
    assert negatives(full, np.array([0, 1]), 1, np.random.SeedSequence(0)).shape == (2, 1)
    check_negatives_exist(full.take(np.array([0, 1])))


@pytest.mark.parametrize("n", [1, 25, 40, 1000])
def test_shared_negatives_are_distinct_and_the_mask_names_each_users_own(n):
    positives = sets(30, 40, 0.3)
    users = np.array([3, 3, 0, 29])
    items, is_positive = shared_negatives(positives, users, n, np.random.SeedSequence(1))
    assert items.size == min(n, 40)
    assert len(set(items.tolist())) == items.size
    assert is_positive.tolist() == [[i in own(positives, u) for i in items.tolist()] for u in users]


def test_shared_negatives_are_seeded_and_uniform():
    positives, users = sets(3, 40, 0.3), np.array([0])
    drawn = [shared_negatives(positives, users, 10, np.random.SeedSequence(s))[0].tolist() for s in range(400)]
    assert drawn[5] == shared_negatives(positives, users, 10, np.random.SeedSequence(5))[0].tolist()
    counts = np.bincount(np.ravel(drawn), minlength=40)
    assert counts.sum() == 4000
    assert ((counts - 100) ** 2 / 100).sum() < 39 + 4 * np.sqrt(2 * 39)
