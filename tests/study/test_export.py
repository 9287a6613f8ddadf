"""Exports give the model's scores when read by the libraries that they are for."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch
from kept_runs import N_ITEMS, N_USERS, kept
from safetensors.torch import load_file
from scipy.sparse import csr_array

from relrank.errors import InputError
from relrank.evaluation.ranking import top_k
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.base import history_rows
from relrank.runs import export as exporting
from relrank.runs.export import export, load_program
from relrank.runs.fitted_run import FittedRun
from relrank.tables.ids import IdMap

LINEAR = {
    "ease": {"l2": 3.0}, "sparse-ease": {"neighbours": 4, "item_power": 0.2},
    "relational-ease": {"l2": 3.0}, "item-knn": {"neighbours": 7},
    "relational-item-knn": {"neighbours": 7},
    "rp3beta": {"neighbours": 7}, "gf-cf": {"rank": 5}, "bspm": {"rank": 5},
    "chebycf": {"rank": 5}, "flat-filter": {"rank": 5},
}  # fmt: skip
VECTORS = {
    "mf": {"dim": 8},
    "relational-lightgcn": {"dim": 8},
    "xsimgcl": {"dim": 8, "similarity": "dot"},
    "graphsage": {"dim": 8},
}
HISTORIES = [[0, 3, 9], [22], [5, 6, 7, 8], [1, 2]]
USERS = torch.arange(N_USERS)


def histories() -> list[torch.Tensor]:
    return [torch.tensor(h) for h in HISTORIES]


def multi_hot() -> np.ndarray:
    rows = np.zeros((len(HISTORIES), N_ITEMS), np.float32)
    for row, history in zip(rows, HISTORIES, strict=True):
        row[history] = 1
    return rows


def vectors(folder: Path, name: str) -> tuple[pl.Series, np.ndarray]:
    frame = pl.read_parquet(folder / f"{name}.parquet")
    assert frame.schema["vector"] == pl.List(pl.Float32)
    return frame["id"], np.array(frame["vector"].to_list(), np.float32)


def inputs(run: FittedRun) -> tuple[np.ndarray, np.ndarray]:
    """A program's inputs for the histories, and the expected scores."""
    with torch.no_grad():
        scores = run.model.fold_in(histories()).numpy()
        if run.model.name in LINEAR:
            return multi_hot(), scores
        rows = run.model.encode_histories(history_rows(histories(), N_ITEMS))
        if run.model.config.similarity == "cosine":
            rows = torch.nn.functional.normalize(rows, dim=1)
    return rows.numpy(), scores


def assert_ids(run: FittedRun, folder: Path) -> None:
    ids = pl.read_parquet(folder / "ids.parquet")
    assert ids["row"].to_list() == list(range(N_ITEMS))
    assert ids["item"].equals(run.split.items.keys.rename("item"))
    assert ids["title"].to_list() == run.titles["title"].to_list()


@pytest.mark.parametrize("name", VECTORS)
def test_products_of_the_vectors_in_parquet_are_the_scores(name: str, tmp_path: Path) -> None:
    run = kept(tmp_path, name, **VECTORS[name])
    files = export(run, "parquet", tmp_path / "out")
    assert files == ["ids.parquet", "items.parquet", "manifest.json", "note.json", "users.parquet"]
    (users, u), (items, q) = (vectors(tmp_path / "out", side) for side in ("users", "items"))
    assert users.to_list() == run.split.users.keys.to_list()
    assert items.to_list() == run.split.items.keys.to_list()
    np.testing.assert_allclose(u @ q.T, run.model.score(USERS).detach().numpy(), atol=1e-5)
    assert_ids(run, tmp_path / "out")


@pytest.mark.parametrize("name", LINEAR)
def test_all_weights_in_parquet_add_up_to_the_scores_of_a_history(name: str, tmp_path: Path) -> None:
    run = kept(tmp_path, name, **LINEAR[name])
    with mock.patch.object(exporting, "SCORE_BYTES", 4 * N_ITEMS * 5):  # in blocks of five items
        export(run, "parquet", tmp_path / "out", neighbours=1000)
    weights = pl.read_parquet(tmp_path / "out" / "weights.parquet")
    b = np.zeros((N_ITEMS, N_ITEMS), np.float32)
    b[tuple(run.split.items.rows(weights[side], "test") for side in ("item", "neighbour"))] = weights["weight"]
    expected = run.model.fold_in(histories()).numpy()
    np.testing.assert_allclose(multi_hot() @ b, expected, atol=1e-4 * np.abs(expected).max())


def test_few_weights_are_the_largest_of_either_sign(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease", l2=0.01)
    export(run, "parquet", tmp_path / "out", neighbours=4)
    weights = pl.read_parquet(tmp_path / "out" / "weights.parquet")
    for row, item in enumerate(run.split.items.keys):
        own = run.model.fold_in([torch.tensor([row])])[0].numpy()
        found = weights.filter(pl.col("item") == item)["weight"].to_numpy()
        np.testing.assert_allclose(np.sort(np.abs(found)), np.sort(np.abs(own))[-4:], rtol=1e-5)
    assert (weights["weight"] < 0).any()


@pytest.mark.parametrize("name", VECTORS)
def test_the_index_finds_the_models_own_lists(name: str, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    run = kept(tmp_path, name, **VECTORS[name])
    export(run, "faiss", tmp_path / "out")
    index = faiss.read_index(str(tmp_path / "out" / "items.faiss"))
    assert (index.metric_type, index.ntotal) == (faiss.METRIC_INNER_PRODUCT, N_ITEMS)
    products, rows = index.search(vectors(tmp_path / "out", "users")[1], 10)
    nothing = Csr.from_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), (N_USERS, N_ITEMS))
    best = top_k(run.model, USERS.numpy(), nothing, 10)
    np.testing.assert_array_equal(rows, best.items)
    np.testing.assert_allclose(products, best.scores, atol=1e-5)
    assert_ids(run, tmp_path / "out")


@pytest.mark.parametrize("name", [*LINEAR, *VECTORS])
def test_the_onnx_graph_scores_as_the_model_does(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    run = kept(tmp_path, name, **(LINEAR | VECTORS)[name])
    export(run, "onnx", tmp_path / "out")
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (input_kind,) = session.get_inputs()
    assert input_kind.name == ("history" if name in LINEAR else "user")
    given, expected = inputs(run)
    (scores,) = session.run(["scores"], {input_kind.name: given})
    np.testing.assert_allclose(scores, expected, atol=1e-4 * max(1, np.abs(expected).max()))
    (one,) = session.run(["scores"], {input_kind.name: given[:1]})
    np.testing.assert_allclose(one, scores[:1], rtol=1e-5, atol=1e-6)
    if name in VECTORS:
        (scores,) = session.run(None, {"user": vectors(tmp_path / "out", "users")[1]})
        np.testing.assert_allclose(scores, run.model.score(USERS).detach().numpy(), atol=1e-4)
    assert_ids(run, tmp_path / "out")


@pytest.mark.parametrize("name", ["ease", "relational-lightgcn"])
def test_the_torch_program_scores_as_the_model_does_and_is_no_pickle(name: str, tmp_path: Path) -> None:
    run = kept(tmp_path, name, **(LINEAR | VECTORS)[name])
    files = export(run, "torch", tmp_path / "out")
    expected = {"ids.parquet", "manifest.json", "model.safetensors", "note.json"}
    assert set(files) - {"users.parquet", "items.parquet"} == expected
    program = load_program(tmp_path / "out")
    assert program.input_kind == ("history" if name in LINEAR else "user")
    given, expected = inputs(run)
    for n in (len(HISTORIES), 1):
        np.testing.assert_allclose(program(torch.from_numpy(given[:n].copy())).numpy(), expected[:n], atol=1e-5)
    alone = load_file(tmp_path / "out" / "model.safetensors")  # what somebody without relrank reads
    np.testing.assert_allclose(given @ alone["weights"].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "to", "split", "config"),
    [
        ("ease", "faiss", "random-leave-one-out", {}),
        ("popularity", "parquet", "random-leave-one-out", {}),
        ("path-fusion", "onnx", "random-leave-one-out", {"dim": 8}),
        ("sasrec", "torch", "last-leave-one-out", {"dim": 8, "window": 3}),
    ],
)
def test_a_model_that_does_not_fit_a_format_is_refused_in_one_sentence(
    name: str, to: str, split: str, config: dict[str, object], tmp_path: Path
) -> None:
    run = kept(tmp_path, name, split, **config)
    with pytest.raises(InputError, match=f"cannot be exported to {to}") as error:
        export(run, to, tmp_path / "out")
    assert name in str(error.value)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run"]


def test_sparse_weights_are_written_completely_in_sparse_form(tmp_path: Path) -> None:
    run = kept(tmp_path, "sparse-ease", neighbours=4)
    with mock.patch.object(exporting, "ROWS", 10):
        assert export(run, "parquet", tmp_path / "out", neighbours=1) == [
            "ids.parquet",
            "manifest.json",
            "note.json",
            "weights.parquet",
        ]
    weights, own = pl.read_parquet(tmp_path / "out" / "weights.parquet"), run.model.item_weights()
    assert weights["weight"].to_list() == own.data[own.data != 0].tolist()
    assert weights.group_by("neighbour").len()["len"].max() == 4
    export(run, "torch", tmp_path / "out")
    alone = load_file(tmp_path / "out" / "model.safetensors")  # what somebody without relrank reads
    scipy_csr = csr_array((alone["weights"], alone["indices"], alone["indptr"]), shape=(N_ITEMS, N_ITEMS))
    expected = run.model.fold_in(histories()).numpy()
    np.testing.assert_allclose(multi_hot() @ scipy_csr, expected, atol=1e-5)
    program = load_program(tmp_path / "out")
    assert program.input_kind == "history"
    for n in (len(HISTORIES), 1):
        given = torch.from_numpy(multi_hot()[:n].astype(np.int64))
        np.testing.assert_allclose(program(given).numpy(), expected[:n], atol=1e-5)


def with_towns(folder: Path, kind: type, **config: object) -> FittedRun:
    """The run with a relation of users, chained to regions, and weighted interactions."""
    run = kept(folder, kind.name)
    nodes = {
        **run.graph.nodes, "town": IdMap("town", pl.Series([0, 1, 2])),
        "region": IdMap("region", pl.Series(["n", "s"])),
    }  # fmt: skip
    relations = [
        Relation.of("lives_in", "user", "town", np.arange(N_USERS), np.arange(N_USERS) % 3),
        Relation.of("lies_in", "town", "region", np.arange(3), np.array([0, 0, 1])),
        Relation.of("knows", "user", "user", np.arange(N_USERS - 1), np.arange(1, N_USERS)),
    ]
    edges = run.graph.interactions
    edges = Relation.of("interactions", "user", "item", edges.src, edges.dst, 0.5 + (edges.dst % 3) / 2)
    graph = replace(run.graph, nodes=nodes, interactions=edges, relations={r.name: r for r in relations})
    return replace(run, model=kind(graph, kind.Config(**config)).solve(), graph=graph)


@pytest.mark.parametrize(("kind", "l2"), [(SparseEASE, 1.0), (RelationalEASE, 3.0)])
def test_relations_of_users_are_exported(kind: type, l2: float, tmp_path: Path) -> None:
    run = with_towns(tmp_path, kind, l2=l2)
    graph, expected = run.graph, run.model.score(USERS).numpy()
    found = {}
    for to in ("parquet", "torch", "onnx"):
        out = tmp_path / to
        export(run, to, out, neighbours=1000)
        columns = pl.read_parquet(out / "columns.parquet")
        assert columns["column"].to_list() == list(range(N_ITEMS, N_ITEMS + columns.height))
        assert set(columns["relation"]) == {"lives_in", "lies_in", "knows"}
        given = np.zeros((N_USERS, N_ITEMS + columns.height), np.float32)
        users = pl.read_parquet(out / "users.parquet")
        given[run.split.users.rows(users["user"], "test"), users["column"]] = users["value"]
        if to == "parquet":
            weights, more = (pl.read_parquet(out / f"{name}.parquet") for name in ("weights", "column_weights"))
            b = np.zeros((given.shape[1], N_ITEMS), np.float32)
            for rows, frame in ((run.split.items.rows(weights["item"], "test"), weights), (more["column"], more)):
                b[rows, run.split.items.rows(frame["neighbour"], "test")] = frame["weight"]
            found[to] = given @ b
        elif to == "torch":
            found[to] = load_program(out)(torch.from_numpy(given)).numpy()
        else:
            runtime = pytest.importorskip("onnxruntime")
            session = runtime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
            found[to] = session.run(["scores"], {"history": given})[0]
        assert json.loads((out / "note.json").read_text())["exact"] is True
        # what a column stands for: users 1 and 4 live in town 1, in the north
        named = {(r, t, i): c for c, r, t, i in columns.iter_rows()}
        assert given[[1, 4, 2], named["lives_in", "town", "1"]].astype(bool).tolist() == [True, True, False]
        assert given[[1, 2], named["lies_in", "region", "n"]].astype(bool).tolist() == [True, False]
    for scores in found.values():
        np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())
    without = kind(graph, kind.Config(weights={"lives_in": 0.0, "lies_in": 0.0, "knows": 0.0})).solve()
    files = export(replace(run, model=without, graph=graph), "parquet", tmp_path / "out")
    expected_files = ["ids.parquet", "manifest.json", "note.json", "users.parquet", "weights.parquet"]
    assert files == expected_files  # users', since rows weigh differently


@pytest.mark.parametrize("name", LINEAR)
def test_inputs_of_known_users_are_written_if_weighted(name: str, tmp_path: Path) -> None:
    run = kept(tmp_path, name, **LINEAR[name])
    edges = run.graph.interactions
    edges = Relation.of("interactions", "user", "item", edges.src, edges.dst, 0.5 + (edges.dst % 3) / 2)
    graph = replace(run.graph, interactions=edges)
    run = replace(run, graph=graph, model=type(run.model)(graph, run.model.config).solve())
    export(run, "torch", tmp_path / "out")
    users, given = pl.read_parquet(tmp_path / "out" / "users.parquet"), np.zeros((N_USERS, N_ITEMS), np.float32)
    given[run.split.users.rows(users["user"], "test"), users["column"]] = users["value"]
    expected = run.model.score(USERS).numpy()
    scores = load_program(tmp_path / "out")(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


def test_an_export_that_leaves_weights_out_says_so(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease", l2=0.01)
    for neighbours, exact in ((4, False), (N_ITEMS, True)):
        export(run, "parquet", tmp_path / "out", neighbours=neighbours)
        note = json.loads((tmp_path / "out" / "note.json").read_text())
        assert (note["exact"], note["neighbours"]) == (exact, neighbours)


def test_other_folders_are_refused_and_older_exports_replaced(tmp_path: Path) -> None:
    run, out = kept(tmp_path, "mf", dim=8), tmp_path / "out"
    with pytest.raises(InputError, match="unknown format"):
        export(run, "pickle", out)
    with pytest.raises(InputError, match="folder is in use"):
        export(run, "parquet", tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.json").write_text('{"mine": true}')
    with pytest.raises(InputError, match="folder is in use"):
        export(run, "parquet", tmp_path / "notes")
    (tmp_path / "out.old").mkdir()  # somebody's own
    export(run, "onnx", out)
    before = sorted(f.name for f in out.iterdir())
    with (
        mock.patch.object(exporting, "write_json", side_effect=OSError("disk is full")),
        pytest.raises(OSError, match="full"),
    ):
        export(run, "parquet", out)
    assert sorted(f.name for f in out.iterdir()) == before
    export(run, "parquet", out)
    assert "model.onnx" not in {f.name for f in out.iterdir()}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["notes", "out", "out.old", "run"]


def test_too_large_files_and_missing_extras_are_refused(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease")
    with mock.patch.object(exporting, "ONNX_BYTES", 100), pytest.raises(InputError, match="too large for one file"):
        export(run, "onnx", tmp_path / "out")
    with mock.patch.dict(sys.modules, {"onnx": None}), pytest.raises(InputError, match=r"relrank\[onnx\]"):
        export(run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
