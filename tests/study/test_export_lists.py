"""Lists computed from an export, as its note describes, equal those of ``recommend``."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from test_new_items import fitted

from relrank.errors import InputError
from relrank.runs import fitted_run as fitted_runs
from relrank.runs.export import export, load_program
from relrank.runs.fitted_run import PARTS, FittedRun

LINEAR = {
    "ease": {"l2": 3.0}, "sparse-ease": {"neighbours": 4, "weight": 30.0}, "relational-ease": {"weight": 30.0},
    "item-knn": {}, "relational-item-knn": {"weight": 1.0}, "rp3beta": {}, "gf-cf": {"rank": 5},
    "bspm": {"rank": 5}, "chebycf": {"rank": 5}, "flat-filter": {"rank": 5},
}  # fmt: skip
VECTORS = {"mf": {"dim": 8}, "relational-lightgcn": {"dim": 8}, "graphsage": {"dim": 8}}
KNOWS_NEW = {"sparse-ease", "relational-ease", "relational-item-knn", "relational-lightgcn", "graphsage"}


def chosen(run: FittedRun, user: int, parts: tuple[str, ...] = PARTS) -> list[str]:
    rows = [getattr(run.split, part) for part in parts]
    return [run.split.items.keys[int(item)] for r in rows for item in r.item[r.user == user]]


def inputs(run: FittedRun, out: Path, to: str, n: int) -> np.ndarray:
    """Inputs of each known user."""
    note, ids = json.loads((out / "note.json").read_text()), pl.read_parquet(out / "ids.parquet")
    users = out / "users.parquet"
    if "vector" in (pl.read_parquet_schema(users) if users.is_file() else ()):
        return np.array(pl.read_parquet(users)["vector"].to_list(), np.float32)
    x = np.zeros((len(run.split.users), n), np.float32)
    if users.is_file():
        frame = pl.read_parquet(users)
        x[run.split.users.rows(frame["user"], "test"), frame["column"]] = frame["value"]
        return x
    row = {item: at for at, item in enumerate(ids["item"])}
    for user in range(len(x)):
        parts = PARTS if note["known users"] == "all their rows" else ("train",)
        x[user, [row[item] for item in chosen(run, user, parts)]] = 1
    return x


def scores_of(run: FittedRun, out: Path, to: str, n_items: int) -> np.ndarray:
    """Scores of all known users and exported items."""
    if to in ("torch", "onnx"):
        if to == "torch":
            program = load_program(out)
            n = json.loads((out / "note.json").read_text())["shape"][0]
            return program(torch.from_numpy(inputs(run, out, to, n))).numpy()
        session = pytest.importorskip("onnxruntime").InferenceSession(
            out / "model.onnx", providers=["CPUExecutionProvider"]
        )
        (input_kind,) = session.get_inputs()
        return session.run(None, {input_kind.name: inputs(run, out, to, input_kind.shape[1])})[0]
    x = inputs(run, out, to, n_items)
    ids = pl.read_parquet(out / "ids.parquet")
    if to == "faiss":
        index = pytest.importorskip("faiss").read_index(str(out / "items.faiss"))
        return x @ index.reconstruct_n(0, index.ntotal).T
    if (out / "items.parquet").is_file():
        items = pl.read_parquet(out / "items.parquet")
        assert items["id"].to_list() == ids["item"].to_list()
        return x @ np.array(items["vector"].to_list(), np.float32).T
    row, b = {item: at for at, item in enumerate(ids["item"])}, np.zeros((n_items, n_items), np.float32)
    for item, neighbour, weight in pl.read_parquet(out / "weights.parquet").iter_rows():
        b[row[item], row[neighbour]] = weight
    return x @ b


CASES = [(name, to) for name in (*LINEAR, *VECTORS) for to in ("parquet", "onnx", "torch")]
CASES += [(name, "faiss") for name in VECTORS]


@pytest.mark.parametrize(("name", "to"), CASES)
def test_lists_of_an_export_equal_lists_of_the_model(name: str, to: str, tmp_path: Path) -> None:
    run, out = fitted(name, (LINEAR | VECTORS)[name]), tmp_path / "out"
    export(run, to, out, neighbours=1000)
    ids = pl.read_parquet(out / "ids.parquet")
    assert ids["row"].to_list() == list(range(ids.height))
    known = set(ids["item"])
    assert known >= {f"i{i}" for i in range(12)}
    assert "plain" not in known
    assert ("new0" in known) == ("new1" in known) == (name in KNOWS_NEW)
    scores = scores_of(run, out, to, ids.height)
    assert scores.shape == (len(run.split.users), ids.height)
    for user, own in enumerate(scores):
        frame = ids.with_columns(score=pl.Series(own)).filter(~pl.col("item").is_in(chosen(run, user)))
        by = "popularity" if frame["score"].n_unique() == 1 else "score"
        expected = run.recommend(run.split.users.keys[user], 20)
        assert expected["fallback"].any() == (by == "popularity")
        near = frame.sort([by, "tie_order"], descending=[True, False])
        if by == "score":  # equal ones may differ in their last bits
            np.testing.assert_allclose(near["score"], expected["score"], rtol=1e-4, atol=1e-5)
            assert set(near["item"]) == set(expected["item"])
            gaps = np.abs(np.diff(expected["score"].to_numpy())).min(initial=1)
            if gaps > 1e-4:
                assert near["item"].to_list() == expected["item"].to_list()
        else:
            assert near["item"].to_list() == expected["item"].to_list()


def test_users_unknown_to_the_model_get_the_same_popular_items(tmp_path: Path) -> None:
    run, out = fitted("item-knn"), tmp_path / "out"
    run.model.weights[:] = 0
    export(run, "torch", out)
    ids = pl.read_parquet(out / "ids.parquet")
    ids = ids.filter(~pl.col("item").is_in(chosen(run, 3))).sort("popularity", "tie_order", descending=[True, False])
    expected = run.recommend(run.split.users.keys[3], 20)
    assert expected["fallback"].all()
    assert ids["item"].to_list() == expected["item"].to_list()
    assert ids["popularity"].to_list() == expected["score"].to_list()


@pytest.mark.parametrize("name", ["ease", "sparse-ease"])
def test_unscorable_items_that_change_other_scores_are_refused(name: str, tmp_path: Path) -> None:
    run = fitted(name, {"neighbours": 4, "weight": 0.0} if name == "sparse-ease" else {})
    fold_in, model = run.model.fold_in, run.model
    if name == "ease":
        model.fold_in = lambda rows: fold_in(rows) + torch.tensor([[float(14 in row)] for row in rows])
    else:
        model.indptr[-1] += 1
        model.indices = torch.cat([model.indices, torch.tensor([0], dtype=torch.int32)])
        model.weights = torch.cat([model.weights, torch.tensor([0.5])])
    with pytest.raises(InputError, match="change no score of another"):
        export(run, "torch", tmp_path / "out")


def test_a_submodel_without_weight_makes_no_item_scorable() -> None:
    """One submodel uses brands with weight 0, another does not use them."""
    parts = {"relational-ease": {"weight": 30.0, "weights": {"brand": 0.0}}, "mf": {"dim": 4}}
    for weight, listed in ((0.0, False), (30.0, True)):
        parts["relational-ease"]["weights"] = {"brand": weight}
        run = fitted("score-fusion", {"parts": parts})
        found = set(run.recommend("c1", 20)["item"])
        assert ({"new0", "new1"} <= found, "plain" in found) == (listed, False)
    with pytest.raises(InputError, match="out of range"):
        fitted("score-fusion", {"parts": parts, "shares": {"relational-ease": 0.0}})


def test_unscorable_items_are_computed_once(monkeypatch) -> None:
    run, times = fitted("ease"), []
    found = run.unscorable_items
    monkeypatch.setattr(fitted_runs, "unscorable_items", lambda *_: times.append(1))
    for _ in range(3):
        run.recommend("c1", 3)
        assert run.unscorable_items is found
    assert times == []
    assert replace(run, split=run.split).unscorable_items is None  # another run finds its own
