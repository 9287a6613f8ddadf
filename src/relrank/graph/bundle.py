"""A graph on disk: edges and features as safetensors, keys as Parquet, a manifest as JSON. Nothing is ever unpickled.

A bundle is a folder with ``manifest.json``, ``edges.safetensors``, one ``nodes-<i>.parquet`` per node type and, where
nodes have features, ``features.safetensors``. File names follow from the format and never from the manifest, which
holds the sha256 of each file and of its own content. These detect damage and edits; they are no signature.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relrank.errors import InputError, UnavailableError
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.io.atomic import atomic_folder
from relrank.io.manifest import NO_FILE, read_bytes_within
from relrank.kernels.csr import Csr
from relrank.tables.config import ConfigSection, check
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice

FORMAT, VERSION = "relrank graph", 3
READABLE = (1, 2, VERSION)
"""Version 1 has no features of nodes, version 2 no order of histories."""
_ENDS = ("src", "dst", "weight")
_ROWS = ("indptr", "indices", "data")


class _Type(ConfigSection):
    name: str
    keys: int


class _Edges(ConfigSection):
    name: str
    source: str
    target: str
    edges: int


class _FeatureEntry(ConfigSection):
    name: str
    node: str
    sparse: bool
    dims: int


class _Notice(ConfigSection):
    where: str
    message: str
    count: int


class _Manifest(ConfigSection):
    format: str
    version: int
    user: str
    item: str
    fingerprint: str
    nodes: list[_Type]
    relations: list[_Edges]
    """The interactions, then every relation in order."""
    features: tuple[_FeatureEntry, ...] = ()
    ordered: bool = False
    """Whether the edges' file contains ``Graph.places``."""
    repeated: bool = False
    """Whether it contains ``Graph.events``."""
    notices: list[_Notice]
    files: dict[str, str]
    """sha256 by file name."""
    sha256: str
    """Of the manifest without this field."""


def _is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle; manifests of runs and studies have other formats."""
    try:
        note = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(note, dict) and note.get("format") == FORMAT


def save_graph(graph: Graph, folder: Path | str) -> None:
    """Write a graph as a bundle, atomically; an existing bundle is replaced.

    Raises:
        InputError: the folder exists and is not a bundle.
    """
    folder = Path(folder)
    from safetensors.numpy import save

    if folder.exists() and not _is_bundle(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            "would overwrite something else",
            where=str(folder),
            expected="no folder, or a graph bundle",
            found="other files",
        )
    relations = (graph.interactions, *graph.relations.values())
    arrays = {f"{i}.{end}": np.ascontiguousarray(getattr(r, end)) for i, r in enumerate(relations) for end in _ENDS}
    for name in ("places", "events"):
        if (array := getattr(graph, name)) is not None:
            arrays[name] = np.ascontiguousarray(array)
    files = {"edges.safetensors": save(arrays)}
    features = tuple(graph.features.values())
    if features:
        files["features.safetensors"] = save(_feature_arrays(features))
    for i, ids in enumerate(graph.nodes.values()):
        buffer = io.BytesIO()
        ids.keys.to_frame().write_parquet(buffer)
        files[f"nodes-{i}.parquet"] = buffer.getvalue()
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "user": graph.user,
        "item": graph.item,
        "fingerprint": graph.fingerprint,
        "nodes": [{"name": name, "keys": len(ids)} for name, ids in graph.nodes.items()],
        "relations": [{"name": r.name, "source": r.source, "target": r.target, "edges": len(r)} for r in relations],
        "features": [
            {"name": f.name, "node": f.node, "sparse": f.sparse is not None, "dims": f.dims} for f in features
        ],
        "ordered": graph.places is not None,
        **({"repeated": True} if graph.events is not None else {}),
        "notices": [{"where": n.where, "message": n.message, "count": n.count} for n in graph.notices],
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    files["manifest.json"] = json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1, ensure_ascii=False).encode()

    with atomic_folder(folder) as part:
        for name, content in files.items():
            (part / name).write_bytes(content)


def load_graph(folder: Path | str) -> Graph:
    """Read what ``save_graph`` wrote.

    Raises:
        InputError: a file is missing or was changed; the bundle is of another format or version; its parts do not
            fit together.
    """
    folder = Path(folder)
    from safetensors import SafetensorError
    from safetensors.numpy import load

    manifest = _manifest(folder)
    expected = {"edges.safetensors", *(f"nodes-{i}.parquet" for i in range(len(manifest.nodes)))}
    if manifest.features:
        expected.add("features.safetensors")
    if set(manifest.files) != expected:
        raise _error(folder, "manifest lists other files", sorted(expected), sorted(manifest.files))
    content = {name: _read(folder, name) for name in sorted(expected)}
    for name, digest in manifest.files.items():
        if _sha256(content[name]) != digest:
            raise _error(folder / name, "file was changed", f"sha256 {digest}", _sha256(content[name]))
    try:
        nodes = {}
        for i, node_type in enumerate(manifest.nodes):
            frame = pl.read_parquet(io.BytesIO(content[f"nodes-{i}.parquet"]))
            nodes[node_type.name] = IdMap(node_type.name, frame["key"])
        arrays = load(content["edges.safetensors"])
        relations = [
            Relation(r.name, r.source, r.target, *(arrays[f"{i}.{end}"] for end in _ENDS))
            for i, r in enumerate(manifest.relations)
        ]
        columns = load(content["features.safetensors"]) if manifest.features else {}
        features = [_feature(columns, i, f) for i, f in enumerate(manifest.features)]
        if [f.dims for f in features] != [f.dims for f in manifest.features]:
            raise ValueError(f"features have {[f.dims for f in features]} columns")
        counts = [len(ids) for ids in nodes.values()] + [len(r) for r in relations]
        if counts != [t.keys for t in manifest.nodes] + [r.edges for r in manifest.relations]:
            raise ValueError(f"keys and edges are {counts}")
        notices = tuple(Notice(n.where, n.message, n.count) for n in manifest.notices)
        interactions, named = relations[0], {r.name: r for r in relations[1:]}
        if (interactions.source, interactions.target) != (manifest.user, manifest.item):
            raise ValueError("interactions do not link users with items")
        return Graph(
            manifest.user,
            manifest.item,
            nodes,
            interactions,
            named,
            manifest.fingerprint,
            notices,
            {f.name: f for f in features},
            arrays["places"] if manifest.ordered else None,
            events=arrays["events"] if manifest.repeated else None,
        )
    except (ValueError, LookupError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise _error(folder, "parts do not fit together", "keys and edges as the manifest says", error) from None


def _feature_arrays(features: Sequence[Feature]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of features by "feature number.name"."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for i, feature in enumerate(features):
        arrays[f"{i}.known"] = feature.known
        if feature.dense is not None:
            arrays[f"{i}.dense"] = feature.dense
        if feature.sparse is not None:
            arrays |= {f"{i}.{part}": getattr(feature.sparse, part) for part in _ROWS}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _feature(arrays: dict[str, np.ndarray[Any, Any]], i: int, f: _FeatureEntry) -> Feature:
    if f.sparse:
        sparse = Csr(arrays[f"{i}.indptr"], arrays[f"{i}.indices"], arrays[f"{i}.data"], f.dims)
        return Feature(f.name, f.node, arrays[f"{i}.known"], sparse=sparse)
    return Feature(f.name, f.node, arrays[f"{i}.known"], dense=arrays[f"{i}.dense"])


def _manifest(folder: Path) -> _Manifest:
    """The checked manifest.

    Raises:
        InputError: it is not one of a bundle, of another version, or was changed.
    """
    path = folder / "manifest.json"
    try:
        raw = json.loads(_read(folder, path.name))
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        if isinstance(error, InputError):
            raise
        raise _error(path, "not readable as JSON", f"the manifest of a {FORMAT}", error) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise _error(path, "not a graph bundle", f'format "{FORMAT}"', found)
    if raw.get("version") not in READABLE:
        expected = f"version {' or '.join(map(str, READABLE))}; a newer relrank may read it"
        raise _error(path, "bundle of another version", expected, raw.get("version"))
    if raw.pop("sha256", None) != (digest := _seal(raw)):
        raise _error(path, "manifest was changed", "the content that was written", "another")
    return check(raw | {"sha256": digest}, _Manifest, str(path))


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_bytes_within(folder, name)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise UnavailableError(
                "file cannot be read",
                where=str(folder / name),
                expected="a readable file",
                found=error.strerror or str(error),
            ) from None
        raise _error(folder, "incomplete graph bundle", f"a file {name}", error.strerror) from None


def _seal(manifest: dict[str, Any]) -> str:
    return _sha256(json.dumps(manifest, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _error(where: Path, what: str, expected: object, found: object) -> InputError:
    return InputError(what, where=str(where), expected=str(expected), found=str(found))
