"""The benchmark of item-item models: its inputs, its lists and their NDCG, its limits, who is asked at which size."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

import grouped_interactions
from grouped_interactions import AMAZON_BOOK, GOODBOOKS, GOWALLA, Tail, grouped_pairs, held_out
from relrank.models import MODELS
from speed import frame, processes
from speed.environments import Environments, Skipped
from speed.frame import Context, Timed
from speed.inputs import GROUPED, Grouped, grouped
from speed.lists import K, best_of_dense, best_of_sparse, blocks, judged, ndcg
from speed.peer import Call
from speed.tasks import sparse_models

SMALL = Grouped(400, 150, 6_000)


@pytest.mark.parametrize("tail", [Tail(0.3, 2.5), Tail(0.2, 1.9, most=5), Tail(0.1, 4.0, "weibull")])
def test_degrees_have_their_sum_their_least_and_fall(tail):
    degrees = tail.degrees(1000, 20_000)
    assert degrees.sum() == pytest.approx(20_000)
    assert (np.diff(degrees) <= 0).all()
    assert degrees.min() >= tail.least * 20 * 0.999
    assert degrees.max() <= tail.most * 20 * 1.2  # what is cut off goes to all others


def test_a_lomax_tail_has_its_quantiles():
    degrees = Tail(0.0, 2.0).degrees(100_001, 100_001)
    # (a - 1)((1 - p)^(-1/a) - 1) with a = 2
    for p, expected in ((0.5, np.sqrt(2) - 1), (0.75, 1.0), (0.99, 9.0)):
        assert np.quantile(degrees, p) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("laws", [GOWALLA, GOODBOOKS, AMAZON_BOOK])
def test_pairs_are_distinct_sorted_and_as_many_as_asked_for(laws, monkeypatch):
    n_users, n_items, n_pairs = 900, 400, 18_000
    monkeypatch.setattr(grouped_interactions, "CHUNK", 2_500)  # users in eight pieces
    user, item = grouped_pairs(n_users, n_items, n_pairs, laws, seed=3)
    keys = user.astype(np.int64) * n_items + item
    assert (np.diff(keys) > 0).all()
    assert user.size == n_pairs
    assert user.max() == n_users - 1
    assert 0 <= item.min() <= item.max() < n_items
    found = np.sort(np.bincount(user))[::-1]
    expected = laws.user.degrees(n_users, n_pairs)
    assert abs(found[n_users // 2] - expected[n_users // 2]) <= 2
    again = grouped_pairs(n_users, n_items, n_pairs, laws, seed=3)
    np.testing.assert_array_equal(item, again[1])
    assert not np.array_equal(item, grouped_pairs(n_users, n_items, n_pairs, laws, seed=4)[1])


def test_each_item_has_the_degree_that_was_expected_of_it():
    n_users, n_items, n_pairs = 20_000, 4_000, 200_000
    _, item = grouped_pairs(n_users, n_items, n_pairs, GOWALLA, seed=0)
    found = np.bincount(item, minlength=n_items)
    expected = np.random.default_rng(0).permutation(GOWALLA.item.degrees(n_items, n_pairs))  # as it draws first
    # nobody has a popular item twice, and users who have used up a group have its rare ones
    assert np.corrcoef(np.log(found + 1), np.log(expected + 1))[0, 1] > 0.93
    assert np.median(found) == pytest.approx(np.median(expected), rel=0.15)


def test_groups_are_there_to_be_found():
    data = grouped(Grouped(3_000, 1_000, 60_000), None)
    x = scipy.sparse.csr_matrix(
        (np.ones(data["train_user"].size, np.float32), (data["train_user"], data["train_item"])), (3_000, 1_000)
    )
    users = np.unique(data["test_user"])
    popular = np.asarray(x.sum(0), np.float32).repeat(users.size, 0)
    cosines = (x.T @ x).toarray() / np.sqrt(np.outer(popular[0] + 1, popular[0] + 1))
    np.fill_diagonal(cosines, 0)
    by_neighbours, by_popularity = (
        ndcg(data, users, best_of_dense(scores.copy(), x[users])) for scores in (x[users] @ cosines, popular)
    )
    assert by_neighbours > 2 * by_popularity


def test_held_out_rows_are_a_share_of_some_users_items():
    pairs = grouped_pairs(SMALL.n_users, SMALL.n_items, SMALL.n_pairs, SMALL.laws, seed=0)
    parts = held_out(pairs, SMALL.n_users, 50, 0.1, seed=1)
    whole, train, test = (
        user.astype(np.int64) * SMALL.n_items + item
        for user, item in (pairs, *((parts[f"{part}_user"], parts[f"{part}_item"]) for part in ("train", "test")))
    )
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), whole)
    degrees, out = np.bincount(pairs[0]), np.bincount(parts["test_user"], minlength=SMALL.n_users)
    asked = np.flatnonzero(out)
    assert asked.size == 50
    np.testing.assert_array_equal(out[asked], np.maximum(1, degrees[asked] // 10))
    # not always the same places of the history
    first = np.searchsorted(whole, test) - (np.cumsum(degrees) - degrees)[parts["test_user"]]
    assert np.unique(first).size > 10


def test_who_has_one_item_keeps_it():
    pairs = np.array([0, 1, 1, 2], np.int32), np.array([0, 0, 1, 2], np.int32)
    parts = held_out(pairs, 3, 10, 0.5, seed=0)
    assert parts["test_user"].tolist() == [1]
    assert parts["train_user"].tolist() == [0, 1, 2]


def test_ndcg_by_hand():
    data = {
        "n_users": 3, "n_items": 10,
        "test_user": np.array([0, 2, 2], np.int32), "test_item": np.array([4, 1, 9], np.int32),
    }  # fmt: skip
    lists = np.array([[3, 4, -1], [9, 5, 6]])
    # of user 0 the only one is second; of user 2 the first of two is first, the other is not there
    expected = (1 / np.log2(3) + 1 / (1 + 1 / np.log2(3))) / 2
    assert ndcg(data, np.array([0, 2]), lists) == pytest.approx(expected)
    # -1 is no item: here it would be user 0's item 9
    data["test_user"], data["test_item"] = np.array([0, 1], np.int32), np.array([9, 0], np.int32)
    assert ndcg(data, np.array([0, 1]), np.array([[9], [-1]])) == 0.5


def test_lists_of_sparse_scores_are_those_of_dense_ones():
    rng = np.random.default_rng(0)
    scores, known = rng.random((7, 60)).astype(np.float32) + 1, rng.random((7, 60)) < 0.3
    seen = scipy.sparse.csr_matrix(known.astype(np.float32))
    expected = np.argsort(-np.where(known, -np.inf, scores), axis=1)[:, :K]
    np.testing.assert_array_equal(best_of_sparse(scipy.sparse.csr_matrix(scores), seen), expected)
    np.testing.assert_array_equal(best_of_dense(scores, seen), expected)
    few = scipy.sparse.csr_matrix(([0.1, 0.3, 0.2], ([0, 0, 0], [5, 8, 7])), (1, 60))
    seen = scipy.sparse.csr_matrix(([1.0], ([0], [8])), (1, 60))
    assert best_of_sparse(few, seen)[0].tolist() == [7, 5, *[-1] * (K - 2)]


def test_blocks_of_users_keep_their_order():
    assert [block.tolist() for block in blocks(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("name", ["item-knn", "ease"])
def test_relrank_and_the_peers_are_judged_alike(name, monkeypatch):
    monkeypatch.setitem(GROUPED, "3k", Grouped(200, 80, 2_000))
    data = grouped(SMALL, None)
    ours, theirs = (Call(data, {"model": name, "config": {}}) for _ in range(2))
    assert len(sparse_models.relrank(ours)) == 1
    split, graph = sparse_models.prepared(data)
    del split

    def recommend(model, users):
        x = model.history
        seen = scipy.sparse.csr_matrix((np.ones(x.indices.size), x.indices, x.indptr), (x.n_rows, x.n_cols))
        return best_of_dense(model.score(torch.from_numpy(users)).numpy(), seen[users])

    judged(theirs, lambda: MODELS[name](graph).solve(), recommend)
    assert ours.figures["users"] == theirs.figures["users"] == 400
    assert 0.05 < ours.figures["ndcg@20"] < 0.9
    assert ours.figures["ndcg@20"] == pytest.approx(theirs.figures["ndcg@20"], abs=1e-6)
    assert 50 < theirs.peak_mb < 5_000


def test_what_is_no_closed_form_is_refused():
    with pytest.raises(TypeError, match="sasrec is not a closed form"):
        sparse_models.relrank(Call(grouped(SMALL, None), {"model": "sasrec", "config": {}}))


ALLOCATE = (
    "held = bytearray(200 << 20)\nfor k in range(0, len(held), 4096): held[k] = 1\nimport time; time.sleep(30)\n"
)
IN_A_WORKER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])\n"


@pytest.mark.parametrize("text", [ALLOCATE, IN_A_WORKER])
def test_a_program_above_its_memory_is_ended(text, tmp_path):
    with pytest.raises(processes.MemoryExceededError):
        processes.run([sys.executable, "-c", text], 25, tmp_path, most_mb=120)


def test_a_program_below_its_memory_comes_to_its_end_or_to_its_time():
    assert processes.run([sys.executable, "-c", "print(1)"], 20, most_mb=500).out == "1\n"
    with pytest.raises(processes.subprocess.TimeoutExpired):
        processes.run([sys.executable, "-c", "import time; time.sleep(30)"], 0.3, most_mb=500)


class _Ours(Environments):
    def python(self, peer: str) -> Path | Skipped:
        return Path(sys.executable)


@pytest.fixture
def context(tmp_path, monkeypatch) -> Context:
    for name, n_items in (("10k", 100), ("41k", 200), ("92k", 300)):
        monkeypatch.setitem(GROUPED, name, Grouped(50, n_items, 500))
    monkeypatch.setattr(sparse_models, "SIZES", ("10k", "41k", "92k"))
    monkeypatch.setattr(Context, "input", lambda _, name: Path(name))
    return Context(None, tmp_path, _Ours(print), None, budget=20)


def test_a_peer_that_needs_too_much_memory_says_so(context, tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "HERE", tmp_path)
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "large.py").write_text(ALLOCATE)
    context.memory_gb = 0.12
    assert context.run_peer("large", "sparse_models", None) == Skipped("not done within 0.12 GB")


def test_who_fails_is_not_asked_at_larger_sizes_and_the_rest_go_on(context, monkeypatch):
    asked = []

    def run_peer(limits, peer, task, file, **options):
        name = (peer, options.get("model"))
        asked.append((file.name, *name))
        if peer == "lenskit" and file.name == "grouped-41k":
            return Skipped("not done within 1 GB")
        seconds = 2.0 if name == ("relrank", "item-knn") else 6.0
        figures = {"ndcg@20": 0.25, "rank_s": 1.5, "users": 50}
        return Timed(peer, "1.0", task, [seconds], 100.0, figures)

    monkeypatch.setattr(Context, "run_peer", run_peer)
    monkeypatch.setattr(sparse_models, "OURS", (sparse_models.relrank_model("item-knn"),))
    found = list(sparse_models.rows(context))
    assert [row.who for row in found[:2]] == ["relrank, item-knn", "SANSA"]
    assert (found[0].ratio, found[1].ratio) == (1.0, 3.0)
    assert found[0].runs == [2.0, 2.0]
    assert found[1].note == "NDCG@20 0.2500, 50 users ranked in 1.5 s"
    lenskit = [row for row in found if row.who == "LensKit, EASE"]
    assert [row.seconds for row in lenskit] == [6.0, None, None]
    assert lenskit[1].note == "not done within 1 GB"
    assert lenskit[2].note == "not asked after 200 items: not done within 1 GB"
    assert [file for file, peer, _ in asked if peer == "lenskit"] == ["grouped-10k", "grouped-41k"]
    assert {row.data for row in found} == {f"generated, 50 × {n}, 0.0005 M" for n in (100, 200, 300)}


def test_without_an_answer_of_relrank_others_are_rows_all_the_same(context, monkeypatch):
    def run_peer(limits, peer, task, file, **options):
        figures = {"ndcg@20": 0.25, "rank_s": 1.5, "users": 50}
        return Skipped("broken") if peer == "relrank" else Timed(peer, "1.0", task, [3.0], 100.0, figures)

    monkeypatch.setattr(Context, "run_peer", run_peer)
    context.quick = True
    found = list(sparse_models.rows(context))
    ours = [row for row in found if row.who.startswith("relrank")]
    others = [row for row in found if row not in ours]
    assert {row.note for row in ours} == {"broken"}
    assert {row.seconds for row in others} == {3.0}
    assert {row.ratio for row in others} == {None}


def test_time_and_memory_are_limited(context, monkeypatch):
    limits = []

    def run_peer(mine, *_, **__):
        limits.append((mine.budget, mine.memory_gb))
        return Skipped("broken")

    monkeypatch.setattr(Context, "run_peer", run_peer)
    monkeypatch.setattr(sparse_models, "TIMES", {"41k": 3.0})
    monkeypatch.setattr(sparse_models, "memory_gb", lambda: (32.0, 20.0))
    monkeypatch.setattr(sparse_models, "SIZES", ("41k",))
    list(sparse_models.rows(context))
    assert set(limits) == {(60.0, 15.0)}


def test_memory_of_the_machine():
    total, free = sparse_models.memory_gb()
    assert 0.1 < free <= total < 100_000
