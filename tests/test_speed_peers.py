"""The speed benchmark compares like with like: everybody finds what relrank finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from relrank.tables.split import Interactions
from speed.frame import Row, void_where_unlike
from speed.peer import Call
from speed.peers import plain
from speed.tasks import ease, ranking, softmax

USERS, ITEMS = 40, 60


def vectors() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.permutation(USERS * ITEMS)[:600])
    kept = rng.random(pairs.size) < 0.6
    kept[pairs // ITEMS == 3] = True  # somebody without test rows
    parts = {"train": pairs[kept], "test": pairs[~kept]}
    sides = {f"{part}_user": (rows // ITEMS).astype(np.int32) for part, rows in parts.items()}
    sides |= {f"{part}_item": (rows % ITEMS).astype(np.int32) for part, rows in parts.items()}
    return {
        **sides, "n_users": USERS, "n_items": ITEMS, "sample": np.unique(sides["test_user"]),
        "user_vectors": rng.standard_normal((USERS, 8), np.float32),
        "item_vectors": rng.standard_normal((ITEMS, 8), np.float32),
    }  # fmt: skip


def figures(task: Callable[[Call], list[float]], data: dict[str, Any], **options: Any) -> dict[str, Any]:
    call = Call(
        {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in data.items()}, options
    )
    task(call)
    return call.figures


def test_ranking_blocks_and_the_loop_find_what_relrank_finds() -> None:
    data = vectors()
    ours, loop = figures(ranking.relrank, data, rounds=1), figures(plain.ranking, data, rounds=1)
    assert ours["users"] == USERS - 1
    for metric in ("ndcg@20", "recall@20"):
        assert 0.2 < ours[metric] < 0.8
        assert ours[f"blocks {metric}"] == pytest.approx(ours[metric], abs=1e-12)
        assert loop[metric] == pytest.approx(ours[metric], abs=1e-12)


def test_ranking_blocks_do_not_depend_on_their_size() -> None:
    data = vectors()
    train, test = (Interactions(data[f"{part}_user"], data[f"{part}_item"]) for part in ("train", "test"))
    users, items = torch.from_numpy(data["user_vectors"]), torch.from_numpy(data["item_vectors"])
    whole, cut = (ranking.by_blocks(users, items, train, test, k=5, block=block) for block in (USERS, 7))
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("solver", ["inverse", "cholesky"])
def test_ease_by_hand_has_the_weights_of_relrank(solver: str) -> None:
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, 200 * ITEMS, 3000))
    data = {
        "train_user": (pairs // ITEMS).astype(np.int32), "train_item": (pairs % ITEMS).astype(np.int32),
        "n_users": 200, "n_items": ITEMS,
    }  # fmt: skip
    ours = figures(ease.relrank, data, rounds=1, l2=20.0)["weight"]
    assert ours > 0.01
    assert figures(plain.ease, data, rounds=1, l2=20.0, solver=solver)["weight"] == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize("per", ["edges", "users"])
def test_softmax_loss_is_torchs(per: str) -> None:
    rng = np.random.default_rng(2)
    pairs = np.sort(rng.choice(USERS * ITEMS, 300, replace=False))
    data = {
        "scores": rng.standard_normal((USERS, ITEMS), np.float32), "edges": rng.choice(300, 90, replace=False),
        "known_user": pairs // ITEMS, "known_item": pairs % ITEMS,
    }  # fmt: skip
    ours, torchs = (
        figures(task, data, per=per, temperature=0.2, rounds=1)["loss"] for task in (softmax.relrank, plain.softmax)
    )
    assert ours == pytest.approx(torchs, abs=1e-4)


def test_a_row_with_another_figure_is_void() -> None:
    row = {"task": "ranking", "data": "d", "note": "noted"}
    ours, like, other = (
        Row(**row, who=who, seconds=1.0, ratio=1.0, figures={"ndcg@20": value})  # type: ignore[arg-type]
        for who, value in (("relrank", 0.1), ("like", 0.10005), ("other", 0.1002))
    )
    silent, nan = (
        Row(**row, who="silent", seconds=None),
        Row(**row, who="nan", seconds=1.0, ratio=1.0, figures={"ndcg@20": float("nan")}),
    )  # type: ignore[arg-type]
    found = void_where_unlike([ours, like, other, silent, nan], "ndcg@20", 1e-4)
    assert [r.ratio for r in found] == [1.0, 1.0, None, None, None]
    assert found[2].note == "void: ndcg@20 is 0.1002, relrank's 0.1; noted"
    assert found[3].note == "noted"
