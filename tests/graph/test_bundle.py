from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from relrank.errors import InputError
from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice


@pytest.fixture
def graph() -> Graph:
    keys = {"user": ["ü", "v"], "book": [10, 20, 30], "tag / ../etc": ["(missing)", "a"]}
    relations = (
        Relation.of("../has tag", "book", "tag / ../etc", np.array([0, 2]), np.array([1, 0]), np.array([0.5, 2])),
        Relation.of("alike", "book", "book", np.array([0]), np.array([2]), np.array([0.25])),
    )
    return Graph(
        "user",
        "book",
        {name: IdMap(name, pl.Series(k)) for name, k in keys.items()},
        Relation.of("interactions", "user", "book", np.array([0, 1]), np.array([1, 0])),
        {r.name: r for r in relations},
        "f" * 64,
        (Notice("relation 'alike'", "dropped", 3),),
    )


@pytest.fixture
def bundle(graph: Graph, tmp_path: Path) -> Path:
    save_graph(graph, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def rich(graph: Graph) -> Graph:
    """The same graph with a dense feature of books, one of them unknown, and a sparse one of users."""
    # a denormal, a negative zero and a fraction without an end: what text would not give back
    year = np.array([[1e-45, -0.0], [0, 0], [1 / 3, -1]], np.float32)
    jobs = Csr.from_pairs(np.array([1, 1]), np.array([0, 4]), (2, 5), np.array([1, 0.1]))
    features = (
        Feature("../year", "book", np.array([True, False, True]), dense=year),
        Feature("jobs", "user", np.array([False, True]), sparse=jobs),
    )
    return replace(graph, features={f.name: f for f in features})


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """Change the manifest and put every hash right again, as somebody who means it would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(manifest)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder: Path, what: str) -> InputError:
    with pytest.raises(InputError, match=what) as error:
        load_graph(folder)
    assert folder.name in error.value.where
    return error.value


def assert_same(a: Graph, b: Graph) -> None:
    assert (a.user, a.item, a.fingerprint, a.notices) == (b.user, b.item, b.fingerprint, b.notices)
    assert list(a.nodes) == list(b.nodes)
    assert list(a.relations) == list(b.relations)
    for name in a.nodes:
        assert a.nodes[name].keys.equals(b.nodes[name].keys, check_dtypes=True)
    for r, s in zip((a.interactions, *a.relations.values()), (b.interactions, *b.relations.values()), strict=True):
        assert (r.name, r.source, r.target) == (s.name, s.source, s.target)
        for x, y in ((r.src, s.src), (r.dst, s.dst), (r.weight, s.weight)):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    assert (a.places is None) == (b.places is None)
    if a.places is not None and b.places is not None:
        np.testing.assert_array_equal(a.places, b.places)
    assert list(a.features) == list(b.features)
    for f, g in zip(a.features.values(), b.features.values(), strict=True):
        assert (f.name, f.node, f.dims) == (g.name, g.node, g.dims)
        assert ((f.dense is None), (f.sparse is None)) == ((g.dense is None), (g.sparse is None))
        arrays = [
            [h.known, h.dense, *(getattr(h.sparse, part, None) for part in ("indptr", "indices", "data"))]
            for h in (f, g)
        ]
        for x, y in zip(*arrays, strict=True):
            if x is not None and y is not None:
                assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def test_features_come_back_bit_for_bit(rich: Graph, graph: Graph, tmp_path: Path) -> None:
    save_graph(rich, tmp_path / "bundle")
    loaded = load_graph(tmp_path / "bundle")
    assert_same(loaded, rich)
    assert [f.sha256() for f in loaded.features.values()] == [f.sha256() for f in rich.features.values()]
    save_graph(graph, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "features.safetensors").exists()
    assert load_graph(tmp_path / "bundle").features == {}


def test_bundles_from_before_there_were_features_or_places_are_read(graph: Graph, rich: Graph, bundle: Path) -> None:
    reseal(bundle, lambda m: (m.update(version=1), m.pop("features"), m.pop("ordered")))
    assert_same(load_graph(bundle), graph)
    save_graph(rich, bundle)
    reseal(bundle, lambda m: (m.update(version=2), m.pop("ordered")))
    assert_same(load_graph(bundle), rich)


@pytest.fixture
def ordered(tmp_path: Path) -> Path:
    """User 0 chose items 2, 0, 1 in this order, user 1 item 2."""
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", 2), ("item", 3))}
    edges = Relation.of("interactions", "user", "item", np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2]))
    save_graph(
        Graph("user", "item", nodes, edges, {}, "f", places=np.array([1, 2, 0, 0], np.int32)), tmp_path / "ordered"
    )
    return tmp_path / "ordered"


def test_order_in_time_comes_back(ordered: Path, graph: Graph) -> None:
    loaded = load_graph(ordered)
    assert loaded.places is not None
    assert loaded.places.dtype == np.int32
    assert loaded.places.tolist() == [1, 2, 0, 0]
    save_graph(loaded, ordered)
    assert_same(load_graph(ordered), loaded)
    save_graph(graph, ordered)
    assert load_graph(ordered).places is None


@pytest.mark.parametrize(
    "places",
    [
        np.array([1, 1, 0, 0], np.int32),
        np.array([1, 2, 0, 1], np.int32),
        np.array([1, 2, 0], np.int32),
        np.array([1, 2, 0, 0], np.int64),
        None,
    ],
)
def test_places_that_number_no_history_are_refused(ordered: Path, places: np.ndarray | None) -> None:
    path = ordered / "edges.safetensors"
    arrays = load_file(path)
    del arrays["places"]
    save_file(arrays if places is None else {**arrays, "places": places}, path)
    reseal(ordered)
    refused(ordered, "do not fit together")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("0.dense", np.full((3, 2), np.nan, np.float32)),
        ("0.dense", np.ones((3, 2), np.float32)),  # a value where none is known
        ("0.dense", np.zeros((2, 2), np.float32)),
        ("0.dense", np.zeros((3, 1), np.float32)),  # fewer columns than the manifest says
        ("0.known", np.array([True, False])),
        ("0.known", np.array([1, 0, 1], np.int8)),
        ("1.indices", np.array([0, 5], np.int32)),
        ("1.indices", np.array([4, 0], np.int32)),
        ("1.indptr", np.array([0, 0, 1], np.int64)),
        ("1.indptr", np.array([0, 3, 2], np.int64)),
        ("1.data", np.array([1, np.inf], np.float32)),
        ("1.data", np.array([1, -1], np.float32)),
    ],
)
def test_bad_features_are_refused(rich: Graph, tmp_path: Path, name: str, array: np.ndarray) -> None:
    save_graph(rich, tmp_path / "bundle")
    path = tmp_path / "bundle" / "features.safetensors"
    save_file({**load_file(path), name: array}, path)
    reseal(tmp_path / "bundle")
    refused(tmp_path / "bundle", "do not fit together")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["features"][0].update(node="author"),
        lambda m: m["features"][0].update(node="user"),
        lambda m: m["features"][0].update(sparse=True),
        lambda m: m["features"][1].update(dims=4),
        lambda m: m["features"].append(m["features"][0]),
    ],
)
def test_features_that_contradict_the_manifest_are_refused(
    rich: Graph, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    save_graph(rich, tmp_path / "bundle")
    reseal(tmp_path / "bundle", change)
    refused(tmp_path / "bundle", "do not fit together")


def test_what_is_saved_is_what_is_loaded(graph: Graph, bundle: Path) -> None:
    assert_same(load_graph(bundle), graph)
    assert sorted(p.name for p in bundle.iterdir()) == [
        "edges.safetensors",
        "manifest.json",
        "nodes-0.parquet",
        "nodes-1.parquet",
        "nodes-2.parquet",
    ]
    reseal(bundle)  # the helper of the tests below reseals as the package does
    assert_same(load_graph(bundle), graph)


def test_saving_replaces_a_bundle_and_leaves_nothing_else(graph: Graph, bundle: Path) -> None:
    (bundle / "nodes-7.parquet").touch()
    save_graph(graph.only(), bundle)
    assert_same(load_graph(bundle), graph.only())
    assert not (bundle / "nodes-7.parquet").exists()
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_saving_never_overwrites_something_else(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="overwrite"):
            save_graph(graph, target)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "manifest.json").write_text('{"format": "relrank sealed", "files": {}}')
    with pytest.raises(InputError, match="overwrite"):
        save_graph(graph, tmp_path / "study")
    assert [file.name for file in (tmp_path / "study").iterdir()] == ["manifest.json"]
    (tmp_path / "empty").mkdir()
    save_graph(graph, tmp_path / "empty")
    assert_same(load_graph(tmp_path / "empty"), graph)


def test_failed_save_leaves_the_old_bundle(graph: Graph, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        save_graph(graph.only(), bundle)
    assert_same(load_graph(bundle), graph)
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["edges.safetensors", "nodes-1.parquet"])
def test_tampered_and_truncated_and_missing_files_are_refused(bundle: Path, name: str) -> None:
    whole = (bundle / name).read_bytes()
    for content in (whole[:-1], b"", whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]):
        (bundle / name).write_bytes(content)
        assert name in refused(bundle, "file was changed").where
    (bundle / name).unlink()
    assert name in refused(bundle, "incomplete graph bundle").expected


def test_changed_manifest_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"alike"', '"unlike"'))
    refused(bundle, "manifest was changed")


def test_foreign_folders_are_refused(bundle: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "incomplete graph bundle")
    path = bundle / "manifest.json"
    for text, what in (
        ("{", "not readable as JSON"),
        ("[]", "not a graph bundle"),
        ("{}", "not a graph bundle"),
        ('{"format": "onnx", "version": 1}', "not a graph bundle"),
    ):
        path.write_text(text)
        refused(bundle, what)
    path.write_bytes(b"\x80\x04\x95pickle")
    refused(bundle, "not readable as JSON")


def test_newer_format_is_refused(bundle: Path) -> None:
    reseal(bundle, lambda manifest: manifest.update(version=4))
    assert refused(bundle, "another version").found == "4"


@pytest.mark.parametrize("name", ["../outside.parquet", "/etc/passwd", "nodes-0.parquet/../x", "nodes-9.parquet"])
def test_paths_in_the_manifest_lead_nowhere(bundle: Path, name: str) -> None:
    (bundle.parent / "outside.parquet").write_bytes((bundle / "nodes-0.parquet").read_bytes())
    reseal(bundle, lambda manifest: manifest["files"].update({name: manifest["files"].pop("nodes-0.parquet")}))
    refused(bundle, "lists other files")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("nodes"),
        lambda m: m.update(more=1),
        lambda m: m["relations"][1].update(edges="many"),
        lambda m: m.update(files=[]),
    ],
)
def test_manifest_of_another_shape_is_refused(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    reseal(bundle, change)
    refused(bundle, r"unknown key|does not fit")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["relations"][1].update(edges=3),
        lambda m: m["nodes"][1].update(keys=4),
        lambda m: m["relations"][1].update(target="user", source="author"),
        lambda m: m["relations"].pop(0),
        lambda m: m["relations"].append(m["relations"][0]),
        lambda m: m.update(user="book", item="user"),
        lambda m: m.update(relations=[]),
    ],
)
def test_parts_that_contradict_each_other_are_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    reseal(bundle, change)
    refused(bundle, "do not fit together")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("1.dst", np.array([1, 2], np.int32)),  # beyond the 2 tags
        ("1.dst", np.array([1, -1], np.int32)),
        ("1.src", np.array([2, 0], np.int32)),  # not ascending
        ("1.src", np.array([0, 2], np.int64)),
        ("1.weight", np.array([0.5, 0], np.float32)),
        ("1.weight", np.array([0.5, np.nan], np.float32)),
        ("1.weight", np.array([0.5], np.float32)),
    ],
)
def test_rows_out_of_range_and_bad_edges_are_refused(bundle: Path, name: str, array: np.ndarray) -> None:
    path = bundle / "edges.safetensors"
    save_file({**load_file(path), name: array}, path)
    reseal(bundle)
    refused(bundle, "do not fit together")


def test_files_of_another_kind_are_refused_even_with_the_right_hash(bundle: Path) -> None:
    (bundle / "nodes-1.parquet").write_bytes(b"PAR1 but not really")
    reseal(bundle)
    refused(bundle, "do not fit together")


def test_keys_that_repeat_are_refused(bundle: Path) -> None:
    pl.DataFrame({"key": [10, 10, 30]}).write_parquet(bundle / "nodes-1.parquet")
    reseal(bundle)
    refused(bundle, "do not fit together")
    pl.DataFrame({"keys": [10, 20, 30]}).write_parquet(bundle / "nodes-1.parquet")
    reseal(bundle)
    refused(bundle, "do not fit together")
    (bundle / "edges.safetensors").write_bytes(b"\x80\x04\x95")
    reseal(bundle)
    refused(bundle, "do not fit together")
