"""Export of a fitted model for other systems, under outside keys: vectors, item weights, an index, or a program.

An export is a folder that is written atomically. ``note.json`` describes its contents, ``manifest.json`` has the
sha256 of each file. The contents depend on the model:

- **Vectors**, for models whose scores are dot products: ``items.parquet`` and ``users.parquet`` (``id``, ``vector``);
  with ``faiss`` an inner-product index of the items; with ``onnx`` and ``torch`` a program ``user [B, d] →
  scores [B, n_items]``. Cosine models have vectors of length 1, so no normalization is needed.
- **Item weights**, for closed forms that are linear in the history, ``scores = x B``: with ``parquet`` the largest
  weights of each item in ``weights.parquet`` (``item``, ``neighbour``, ``weight``); with ``onnx`` and ``torch`` a
  program ``history [B, n_items] → scores [B, n_items]`` with all of B. Models with sparse weights (sparse EASE) are
  exported with all weights, in sparse form, except that ``onnx`` has no sparse matrices: B must fit into one file.

The input is a row of ones at the items of a history. If a known user's input differs, because interactions are
weighted or the model uses relations of users, ``users.parquet`` has it (``user``, ``column``, ``value``). Columns
below the number of exported items are rows of ``ids.parquet``; higher ones are nodes that relations of users lead to,
listed in ``columns.parquet`` (``column``, ``relation``, ``type``, ``id``). Their weights are further rows of B, in
Parquet in ``column_weights.parquet`` (``column``, ``neighbour``, ``weight``). So the products are the model's scores,
for known users and for new users whose relations are known. ``exact`` in ``note.json`` is false if they are not:
if ``parquet`` has only the largest of many weights.

A program is one matrix product and needs no code: ``model.onnx``, or the tensor ``weights`` of ``model.safetensors``
(``load_program``); for sparse models the CSR tensors ``indptr``, ``indices`` and ``weights`` of B. (Torch's own
program files contain pickles.) Row i of the items, column i of scores and history, and entry i of an index are line i
of ``ids.parquet`` (``row``, ``item``, ``title``, ``tie_order``, ``popularity``).

**Lists.** Items that the model cannot score (``FittedRun.unscorable_items``) are in no list and are not exported; in
a history they change no score of another item. The lists of ``recommend`` are the exported items that the user has
not chosen, by descending score and then ascending ``tie_order``; if all scores are equal, by descending
``popularity``. Programs do not mask the items that a user has chosen.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

import relrank
from relrank.errors import InputError
from relrank.evaluation.ranking import SCORE_BYTES, tie_break_order
from relrank.graph.composition import compose_relation
from relrank.io.atomic import atomic_folder
from relrank.io.manifest import ManifestReader, consistent, parse_json_object, read_bytes_within, write_manifest
from relrank.io.tensors import parse_safetensors, save_tensors, write_json
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.models import MODELS
from relrank.models.closed_form.bspm import BSPM
from relrank.models.closed_form.chebycf import ChebyCF
from relrank.models.closed_form.ease import EASE
from relrank.models.closed_form.flat_filter import FlatFilter
from relrank.models.closed_form.gf_cf import GFCF
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.closed_form.rp3beta import RP3Beta
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.base import Recommender
from relrank.models.core.relation_rows import unit_relation_rows
from relrank.models.core.sparse_linear import SparseLinear
from relrank.models.core.vector_model import VectorModel, is_dot_product_model
from relrank.runs.fallback import popularity
from relrank.runs.fitted_run import FittedRun

Format = Literal["parquet", "faiss", "onnx", "torch"]
InputKind = Literal["history", "user"]
FORMATS = "relrank-export-"
FORMAT = f"{FORMATS}2"
REPAIR_HINT = "export the model again"
PROGRAM = "model.safetensors"
SPARSE = ("indptr", "indices", "weights")
"""Tensors of a program with sparse weights."""
LINEAR = (EASE, RelationalEASE, SparseLinear, ItemKNN, RP3Beta, GFCF, BSPM, ChebyCF, FlatFilter)
"""Models whose scores are sums over the items of a history."""
EXTRAS = {"faiss": "ann", "onnx": "onnx"}
"""Extra that a format requires."""
ONNX_BYTES = (2 << 30) - (1 << 20)
"""Maximum size of the weights in an ONNX file."""
OPSET, IR = 17, 8
LISTS = "items not chosen yet by score, equal scores by tie_order; by popularity where all have one score"
"""How scores become a list, for ``note.json``; the columns are those of ``ids.parquet``."""
WEIGHTS = "score of neighbour = sum of value times weight over the columns of the input, 1 for items of a history"
ROWS = 1 << 22
"""Sparse weights that are written at once."""


def export(run: FittedRun, to: str, out: Path | str, neighbours: int = 100) -> list[str]:
    """Write a fitted model to a folder of its own; an older export there is replaced.

    Args:
        run: a fitted model.
        to: ``"parquet"``, ``"faiss"``, ``"onnx"`` or ``"torch"``.
        out: the folder.
        neighbours: weights per item, the largest by absolute value; only for ``parquet`` and dense weights.

    Returns:
        The names of the files.

    Raises:
        InputError: the format is unknown or not available for this model; the folder holds something else; an extra
            is not installed; an item that is in no list changes the scores of others.
    """
    out = Path(out)
    if to not in get_args(Format):
        raise InputError(
            "unknown format", where="relrank export --to", expected=" or ".join(get_args(Format)), found=repr(to)
        )
    if out.exists() and not _is_export(out):
        raise InputError(
            "folder is in use", where=str(out), expected="a new one, or an older export", found="something else"
        )
    library = _extra(to)
    _check_model(run.model, to)
    sparse = _sparse_weights(run) if isinstance(run.model, SparseLinear) else None
    if not is_dot_product_model(run.model) and sparse is None:
        _check_unscorable(run, _scores_of_single_items(run.model, run.unscorable_items))
    with atomic_folder(out) as folder:
        _write_ids(run, folder)
        contents = _write_contents(run, to, sparse, neighbours, library, folder)
        note = {
            "format": FORMAT,
            "relrank": relrank.__version__,
            "to": to,
            **{name: run.note.get(name) for name in ("model", "name", "arm", "protocol", "fingerprint", "config")},
            "exact": True,
            "lists": LISTS,
            "known users": "all their rows" if run.lists_from_full_history else "their training rows",
            **contents,
        }
        write_json(folder / "note.json", note)
        write_manifest(folder)
    return sorted(f.name for f in out.iterdir())


def _check_model(model: Recommender, to: str) -> None:
    if is_dot_product_model(model) or (to != "faiss" and isinstance(model, LINEAR)):
        return
    vectors = "a model whose scores are dot products, such as relational-lightgcn or mf"
    linear = ", ".join(kind.name for kind in MODELS.values() if issubclass(kind, LINEAR))
    raise InputError(
        f"model cannot be exported to {to}",
        where=f"relrank export --to {to}",
        expected=vectors if to == "faiss" else f"{vectors}, or one of {linear}",
        found=f"{model.name}; relrank batch writes the lists of all users for any model",
    )


def _write_contents(
    run: FittedRun, to: str, sparse: Csr | None, neighbours: int, library: Any, folder: Path
) -> dict[str, Any]:
    """Write the files of a format; returns their description for ``note.json``."""
    has_vectors = is_dot_product_model(run.model)
    if has_vectors:
        _write_vectors(run, folder)
    else:
        _write_inputs(run, folder)
    if to == "parquet":
        if sparse is not None:
            return _write_sparse_weights(run, sparse, folder)
        return {"vectors": True} if has_vectors else _write_weights(run, folder, neighbours)
    if to == "faiss":
        return _write_index(run, folder, library)
    if to == "torch" and sparse is not None:
        arrays = (sparse.indptr, sparse.indices, sparse.data)
        tensors = {name: torch.from_numpy(array) for name, array in zip(SPARSE, arrays, strict=True)}
        save_tensors(folder / PROGRAM, tensors, {"takes": "history"})
        shape = [sparse.n_rows, sparse.n_cols]
        return {"input": "history", "shape": shape, "output": "scores", "layout": "csr"}
    program = _program(run, sparse, ONNX_BYTES if to == "onnx" else None)
    if to == "onnx":
        _write_onnx(program, run, folder / "model.onnx", library)
    else:
        save_tensors(folder / PROGRAM, {"weights": program.weights}, {"takes": program.input_kind})
    return {"input": program.input_kind, "shape": list(program.weights.shape), "output": "scores"}


def _is_export(folder: Path) -> bool:
    """Whether a folder is an export, which a new one may replace."""
    try:
        note = parse_json_object(read_bytes_within(folder, "note.json"), str(folder))
    except (OSError, InputError):
        return False
    return str(note.get("format")).startswith(FORMATS)


class Program(nn.Module):
    """``input @ weights``: int or float [B, n] → scores float32 [B, n_items].

    Args:
        input_kind: ``"history"``, a row of ones and zeros per user, [B, n_columns], with further columns if the model
            uses relations of users; or ``"user"``, vectors [B, d].
        weights: float32 [n_columns or d, n_items].
    """

    weights: Tensor

    def __init__(self, input_kind: InputKind, weights: Tensor) -> None:
        super().__init__()
        self.input_kind = input_kind
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of histories or user vectors."""
        return x.to(self.weights) @ self.weights


class SparseProgram(nn.Module):
    """``input @ weights`` with sparse weights: int or float [B, n_columns] → scores float32 [B, n_items].

    Args:
        indptr: row pointers of the weights in CSR, int64 [n_columns + 1].
        indices: int32 [n_weights], scored items.
        weights: float32 [n_weights].
        n_items: number of items; None for the number of columns.
    """

    input_kind: InputKind = "history"
    matrix: Tensor

    def __init__(self, indptr: Tensor, indices: Tensor, weights: Tensor, n_items: int | None = None) -> None:
        super().__init__()
        n = indptr.numel() - 1
        shape = n, n if n_items is None else n_items
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)
            matrix = torch.sparse_csr_tensor(indptr, indices.long(), weights, shape, check_invariants=True)
            # transposed, since torch multiplies sparse by dense faster than dense by sparse
            self.register_buffer("matrix", matrix.t().to_sparse_csr())

    def forward(self, x: Tensor) -> Tensor:
        """Scores of histories, each a row of ones and zeros."""
        return (self.matrix @ x.to(self.matrix.dtype).T).T


def load_program(folder: Path | str) -> Program | SparseProgram:
    """Load a program written by ``--to torch``. Without relrank, safetensors can read the file; see this module.

    Raises:
        InputError: there is no such program, or its files were changed.
    """
    folder = Path(folder)
    with consistent(folder, REPAIR_HINT):
        return _loaded(folder)


def _loaded(folder: Path) -> Program | SparseProgram:
    sealed = ManifestReader(folder, REPAIR_HINT)
    note = sealed.json("note.json")
    if note.get("format") != FORMAT or note.get("to") != "torch":
        raise InputError(
            "not a program for torch",
            where=str(folder),
            expected=f"{FORMAT} to torch",
            found=f"{note.get('format')} to {note.get('to')}",
        )
    tensors = parse_safetensors(sealed.read(PROGRAM), str(folder / PROGRAM))
    if not tensors["weights"].isfinite().all():
        raise ValueError("weights are not finite")
    if "indptr" in tensors:
        return SparseProgram(tensors["indptr"], tensors["indices"], tensors["weights"], note["shape"][1])
    return Program(note["input"], tensors["weights"])


def _exported_items(run: FittedRun) -> Int64:
    """Rows of the exported items, which are those that lists may contain, ascending."""
    return np.delete(np.arange(run.split.shape[1], dtype=np.int64), run.unscorable_items)


def _write_ids(run: FittedRun, folder: Path) -> None:
    """Write keys and titles of the exported items, their tie-breaking order and popularity."""
    order, rows = tie_break_order(run.split.shape[1]), _exported_items(run)
    positions = np.empty(order.size, np.int64)
    positions[order] = np.arange(order.size)
    frame = pl.DataFrame(
        {
            "key": run.split.items.at(rows),
            "tie_order": positions[rows],
            "popularity": popularity(run.graph).counts.numpy()[rows],
        }
    )
    titled = frame.join(run.titles, on="key", how="left", maintain_order="left").rename({"key": "item"})
    ids = titled.select("item", "title", "tie_order", "popularity").with_row_index("row")
    ids.write_parquet(folder / "ids.parquet")


def _sparse_weights(run: FittedRun) -> Csr:
    """Sparse weights of the inputs for the exported items.

    Raises:
        InputError: see ``_check_unscorable``.
    """
    assert isinstance(run.model, SparseLinear)
    weights, items = run.model.item_weights(), _exported_items(run)
    n_items = weights.n_cols
    if items.size == n_items:
        return weights
    unscorable = weights.take(run.unscorable_items)
    _check_unscorable(run, [(unscorable.indices, unscorable.data)])
    inputs = np.concatenate([items, np.arange(n_items, weights.n_rows)])
    part, column = weights.take(inputs), np.full(n_items, -1, np.int32)
    column[items] = np.arange(items.size, dtype=np.int32)
    exported = column[part.indices] >= 0
    return Csr.from_pairs(
        part.rows()[exported], column[part.indices[exported]], (inputs.size, items.size), part.data[exported]
    )


def _scores_of_single_items(model: Recommender, items: Int32) -> Iterator[tuple[Int64, Float32]]:
    """Scores that histories of one of these items each give, in blocks: columns and values other than 0."""
    for first in range(0, items.size, size := max(1, SCORE_BYTES // (4 * model.graph.n_items))):
        with torch.no_grad():
            rows = model.fold_in([torch.tensor([item]) for item in items[first : first + size].tolist()])
        scores = rows.float().numpy(force=True)
        yield np.nonzero(scores)[1], scores[scores != 0]


def _check_unscorable(run: FittedRun, weights: Iterable[tuple[npt.NDArray[np.integer], Float32]]) -> None:
    """Check that unscorable items, which are not exported, do not change the scores of exported items.

    Args:
        run: the fitted model.
        weights: columns and values of the weights of unscorable items.

    Raises:
        InputError: they do.
    """
    for columns, values in weights:
        if (values[~np.isin(columns, run.unscorable_items)] != 0).any():
            raise InputError(
                "model cannot be exported",
                where="relrank export",
                found=f"{run.model.name}, where they do",
                expected="items that are in no list and change no score of another",
            )


def _vectors(run: FittedRun) -> tuple[Float32, Float32]:
    """Vectors of users and of exported items; users' from full histories if the run's lists use these."""
    model = run.model
    assert isinstance(model, VectorModel)
    users, items = model.encoded()
    if run.lists_from_full_history:
        users = model.history_vectors(run.full_histories.tensors())
    user_vectors, item_vectors = (np.ascontiguousarray(v.detach().float().numpy(force=True)) for v in (users, items))
    return user_vectors, item_vectors[_exported_items(run)]


def _user_columns(run: FittedRun) -> pl.DataFrame:
    """Inputs other than items, in order: ``column``, ``relation``, ``type``, ``id``."""
    model, graph = run.model, run.model.graph
    parts: list[pl.DataFrame] = []
    pairs = model.active_relations(graph.user) if isinstance(model, RelationalEASE | SparseEASE) else ()
    first = _exported_items(run).size
    for relation, _ in pairs:
        direct, n = compose_relation(graph, relation), unit_relation_rows(graph, relation).n_cols
        node = direct.target if direct.source == graph.user else direct.source
        parts.append(
            pl.DataFrame(
                {"column": np.arange(first, first + n, dtype=np.int64), "id": graph.nodes[node].keys.cast(pl.String)}
            ).with_columns(relation=pl.lit(relation.name), type=pl.lit(node))
        )
        first += n
    return pl.concat(parts).select("column", "relation", "type", "id") if parts else pl.DataFrame()


def _write_inputs(run: FittedRun, folder: Path) -> None:
    """Write the inputs of known users, if they are not just ones at their items."""
    model, items = run.model, _exported_items(run)
    columns = _user_columns(run)
    if columns.height:
        columns.write_parquet(folder / "columns.parquet")
    elif (model.history.data == 1).all():
        return
    history = model.history
    # items that are not exported have no interactions
    rows = [(history.rows().astype(np.int64), np.searchsorted(items, history.indices).astype(np.int64), history.data)]
    if columns.height:
        assert isinstance(model, RelationalEASE | SparseEASE)
        extra = [model.user_pseudo_items(user) for user in range(model.graph.n_users)]
        users = np.repeat(np.arange(model.graph.n_users, dtype=np.int64), [nodes.size for nodes, _ in extra])
        nodes = np.concatenate([nodes for nodes, _ in extra]).astype(np.int64) + items.size
        rows.append((users, nodes, np.concatenate([values for _, values in extra])))
    frames = [
        pl.DataFrame({"user": run.split.users.at(user), "column": column, "value": value})
        for user, column, value in rows
    ]
    pl.concat(frames).write_parquet(folder / "users.parquet")


def _item_weights(run: FittedRun) -> Iterator[tuple[int, Float32]]:
    """Rows of B in blocks: the first row, and float32 [b, n_exported]."""
    model, exported = run.model, _exported_items(run)
    n_items = model.graph.n_items
    size = max(1, SCORE_BYTES // (4 * n_items))
    for first in range(0, exported.size, size):
        histories = [torch.tensor([item]) for item in exported[first : first + size].tolist()]
        with torch.no_grad():
            yield first, model.fold_in(histories).float().numpy(force=True)[:, exported]
    if isinstance(model, RelationalEASE) and len(model.item_weights) > n_items:
        yield exported.size, model.item_weights.numpy()[n_items:, exported]


def _program(run: FittedRun, sparse: Csr | None, max_bytes: int | None) -> Program:
    """The program of a model, checked for its size before it is computed."""
    if is_dot_product_model(run.model):
        return Program("user", torch.from_numpy(_vectors(run)[1].T.copy()))
    n = _exported_items(run).size
    shape = n + _user_columns(run).height, n
    if max_bytes is not None and 4 * shape[0] * shape[1] > max_bytes:
        raise _too_large(4 * shape[0] * shape[1])
    weights = np.zeros(shape, np.float32)
    if sparse is not None:
        weights[sparse.rows(), sparse.indices] = sparse.data
    else:
        for first, rows in _item_weights(run):
            weights[first : first + len(rows)] = rows
    return Program("history", torch.from_numpy(weights))


def _write_vectors(run: FittedRun, folder: Path) -> None:
    users, items = _vectors(run)
    for name, keys, vectors in (
        ("users", run.split.users.keys, users),
        ("items", run.split.items.at(_exported_items(run)), items),
    ):
        frame = pl.DataFrame({"id": keys, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))})
        frame.with_columns(pl.col("vector").cast(pl.List(pl.Float32))).write_parquet(folder / f"{name}.parquet")


def _write_weights(run: FittedRun, folder: Path, neighbours: int) -> dict[str, Any]:
    """Write the largest weights of each item by absolute value; zeros are left out."""
    blocks, exact = [], True
    exported = _exported_items(run)
    n = min(max(neighbours, 1), exported.size)
    for first, rows in _item_weights(run):
        largest = torch.from_numpy(np.abs(rows)).topk(n).indices.numpy()
        values = np.take_along_axis(rows, largest, 1)
        row, position = np.nonzero(values)
        exact &= bool((np.count_nonzero(rows, axis=1) <= n).all())
        blocks.append((row + first, largest[row, position], values[row, position]))
    row, column, weight = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    frame = pl.DataFrame({"column": row, "neighbour": run.split.items.at(exported[column]), "weight": weight})
    is_item = pl.col("column") < exported.size
    items = frame.filter(is_item)
    keys = run.split.items.at(exported[items["column"].to_numpy()])
    items.insert_column(0, keys.rename("item")).drop("column").write_parquet(folder / "weights.parquet")
    if items.height < frame.height:
        frame.filter(~is_item).write_parquet(folder / "column_weights.parquet")
    return {"weights": WEIGHTS, "neighbours": n, "exact": exact}


def _write_sparse_weights(run: FittedRun, weights: Csr, folder: Path) -> dict[str, Any]:
    """Write all weights in blocks; zeros are left out."""
    keys, exported = run.split.items, _exported_items(run)
    parts, files = folder / "parts", []
    parts.mkdir()
    n_item_weights = int(weights.indptr[exported.size])
    if weights.n_rows > exported.size:
        column_weights = {
            "column": weights.rows()[n_item_weights:].astype(np.int64),
            "neighbour": keys.at(exported[weights.indices[n_item_weights:]]),
            "weight": weights.data[n_item_weights:],
        }
        pl.DataFrame(column_weights).filter(pl.col("weight") != 0).write_parquet(folder / "column_weights.parquet")
    for start in range(0, max(n_item_weights, 1), ROWS):
        part = slice(start, min(start + ROWS, n_item_weights))
        row = np.searchsorted(weights.indptr, np.arange(part.start, part.stop), side="right") - 1
        nonzero = weights.data[part] != 0
        columns = {
            "item": keys.at(exported[row[nonzero]]),
            "neighbour": keys.at(exported[weights.indices[part][nonzero]]),
            "weight": weights.data[part][nonzero],
        }
        files.append(parts / f"{start:012}.parquet")
        pl.DataFrame(columns).write_parquet(files[-1])
    pl.scan_parquet(files, glob=False).sink_parquet(folder / "weights.parquet")
    shutil.rmtree(parts)
    return {"weights": WEIGHTS, "neighbours": "all"}


def _write_index(run: FittedRun, folder: Path, faiss: Any) -> dict[str, Any]:
    """Write an exact (flat) inner-product index."""
    items = _vectors(run)[1]
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    faiss.write_index(index, str(folder / "items.faiss"))
    return {"index": "IndexFlatIP", "shape": list(items.shape)}


def _too_large(n_bytes: int) -> InputError:
    return InputError(
        "model is too large for one file",
        where="relrank export --to onnx",
        expected=f"at most {ONNX_BYTES:,} bytes of weights, or --to torch",
        found=f"{n_bytes:,}",
    )


def _write_onnx(program: Program, run: FittedRun, path: Path, onnx: Any) -> None:
    """Write one matrix product, built without tracing."""
    if program.weights.nbytes > ONNX_BYTES:
        raise _too_large(program.weights.nbytes)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    width, n_items = program.weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", [program.input_kind, "weights"], ["scores"])],
        f"relrank {run.note['model']}",
        [helper.make_tensor_value_info(program.input_kind, kind, ["batch", width])],
        [helper.make_tensor_value_info("scores", kind, ["batch", n_items])],
        [onnx.numpy_helper.from_array(program.weights.numpy(), "weights")],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="relrank",
        producer_version=relrank.__version__,
    )
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _extra(to: str) -> Any:
    """The library that a format requires; None without one.

    Raises:
        InputError: it is not installed.
    """
    if to not in EXTRAS:
        return None
    try:
        return importlib.import_module(to)
    except ImportError:
        raise InputError(
            "an extra is not installed",
            where=f"relrank export --to {to}",
            expected=f'pip install "relrank[{EXTRAS[to]}]"',
            found=f"no module {to}",
        ) from None
