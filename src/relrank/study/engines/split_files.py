"""A split context as files and a cell as plain values, to send them to another process or machine.

Nothing is pickled: the graph is a bundle (``graph.bundle``), rows and attributes are safetensors, groups are Parquet,
the rest is JSON.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr
from relrank.study.arms import Arm
from relrank.study.cell import Cell, SplitContext
from relrank.study.config import ModelSection, StudySection
from relrank.tables.notices import Notice
from relrank.tables.split import Interactions, Split

_PARTS = ("train", "valid", "test", "repeats")
_COLUMNS = ("user", "item", "rating", "time", "count")
_ROWS = ("indptr", "indices", "data")
_FLAGS = ("ordered", "successive", "new_items_only", "unseen")
_GROUPS = ("user_groups", "item_groups")
_GRAPHS = {"graph": "graph/", "final_graph": "final_graph/"}
"""Attributes of a split context that are graphs, and the folders of their files."""


def pack(split_context: SplitContext) -> dict[str, bytes]:
    """Contents of the files by name; cells on the split context that ``unpack`` returns have the same keys."""
    from safetensors.numpy import save

    split = split_context.split
    arrays = {
        f"{part}.{column}": np.ascontiguousarray(values)
        for part in _PARTS
        for column in _COLUMNS
        if (rows := getattr(split, part)) is not None and (values := getattr(rows, column)) is not None
    }
    attributes = split_context.attributes
    if attributes is not None:
        arrays |= {f"attributes.{rows}": np.ascontiguousarray(getattr(attributes, rows)) for rows in _ROWS}
    metadata = {
        "seed": split_context.seed,
        "extra_columns_hash": split_context.extra_columns_hash,
        "refit": split_context.refit,
        "interactions": split_context.interactions.model_dump(),
        "values": None if attributes is None else attributes.n_cols,
        "ticks": split.train.ticks,
        "protocol": split.protocol,
        "fingerprint": split.fingerprint,
        "notices": [astuple(n) for n in split.notices],
        **{flag: getattr(split, flag) for flag in _FLAGS},
    }
    files = {"rows.safetensors": save(arrays), "split.json": json.dumps(metadata).encode()}
    for name in _GROUPS:
        if (groups := getattr(split_context, name)) is not None:
            buffer = io.BytesIO()
            groups.write_parquet(buffer)
            files[f"{name}.parquet"] = buffer.getvalue()
    for name, prefix in _GRAPHS.items():
        if (graph := getattr(split_context, name)) is not None:
            with tempfile.TemporaryDirectory() as folder:
                save_graph(graph, Path(folder) / name)
                files |= {prefix + file.name: file.read_bytes() for file in (Path(folder) / name).iterdir()}
    return files


def unpack(files: Mapping[str, bytes]) -> SplitContext:
    """The split context that was packed, bit for bit."""
    from safetensors.numpy import load

    graph = _unpack_graph(files, "graph")
    has_final = any(name.startswith(_GRAPHS["final_graph"]) for name in files)
    final_graph = _unpack_graph(files, "final_graph") if has_final else None
    arrays, metadata = load(files["rows.safetensors"]), json.loads(files["split.json"])
    train, valid, test, *repeats = (
        Interactions(**{c: arrays.get(f"{part}.{c}") for c in _COLUMNS}, ticks=metadata["ticks"])  # type: ignore[arg-type]
        for part in _PARTS
        if f"{part}.user" in arrays
    )
    split = Split(
        graph.nodes[graph.user],
        graph.nodes[graph.item],
        train,
        valid,
        test,
        metadata["protocol"],
        metadata["fingerprint"],
        tuple(Notice(*notice) for notice in metadata["notices"]),
        **{flag: metadata[flag] for flag in _FLAGS},
        repeats=repeats[0] if repeats else None,
    )
    user_groups, item_groups = (
        pl.read_parquet(io.BytesIO(files[f"{name}.parquet"])) if f"{name}.parquet" in files else None
        for name in _GROUPS
    )
    values = metadata["values"]
    attributes = None if values is None else Csr(**{r: arrays[f"attributes.{r}"] for r in _ROWS}, n_cols=values)
    interactions = InteractionWeights.model_validate(metadata["interactions"])
    return SplitContext(
        metadata["seed"],
        split,
        graph,
        user_groups,
        item_groups,
        attributes,
        metadata["extra_columns_hash"],
        metadata["refit"],
        interactions,
        final_graph,
    )


def _unpack_graph(files: Mapping[str, bytes], attribute: str) -> Graph:
    prefix = _GRAPHS[attribute]
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            if name.startswith(prefix):
                (Path(folder) / name.removeprefix(prefix)).write_bytes(data)
        return load_graph(Path(folder))


def pack_cell(cell: Cell) -> dict[str, Any]:
    """A cell without its split context, as plain JSON."""
    return {
        "model": cell.model.model_dump(),
        "arm": asdict(cell.arm),
        "study": cell.study.model_dump(),
        "prerequisites": list(cell.prerequisites),
        "warm_starts": [dict(values) for values in cell.warm_starts],
        "warm_started_from": list(cell.warm_started_from),
        "tunes_new_weights_only": cell.tunes_new_weights_only,
    }


def unpack_cell(values: Mapping[str, Any], split_context: SplitContext) -> Cell:
    """The packed cell, on a split context."""
    return Cell(
        ModelSection.model_validate(values["model"]),
        Arm(**values["arm"]),
        split_context,
        StudySection.model_validate(values["study"]),
        tuple(values["prerequisites"]),
        tuple(values["warm_starts"]),
        tuple(values["warm_started_from"]),
        values["tunes_new_weights_only"],
    )
