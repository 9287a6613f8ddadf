"""A fitted model for other systems: vectors, item weights, an index, a program; always with the outside keys.

An export is a folder, written whole or not at all; ``note.json`` says what is in it, ``manifest.json`` has the
sha256 of each file. What can be said of a model
decides what is there:

- **vectors** (models whose scores are products of a user's and an item's vector): ``items.parquet`` and
  ``users.parquet`` (``id``, ``vector``), with ``faiss`` an inner-product index of the items, with ``onnx`` and
  ``torch`` a program ``user [B, d] → scores [B, n_items]``. Cosines are products of vectors of length 1, so there is
  nothing left to normalise.
- **item weights** (closed forms that are linear in the history, ``scores = x B``): with ``parquet`` the largest
  weights of each item in ``weights.parquet`` (``item``, ``neighbour``, ``weight``), with ``onnx`` and ``torch`` a
  program ``history [B, n_items] → scores [B, n_items]`` over the whole of B. These models have no vectors. A model
  whose weights are sparse (sparse EASE) is written with all of them, as sparse as they are; only ``onnx`` knows no
  sparse matrix, so that B has to fit into one file there.

A program or a table is given ones at the items of a history. Where a known user's input is something else, because
interactions weigh differently or relations of users are read, too, ``users.parquet`` has it (``user``, ``column``,
``value``): column c below the number of exported items is row c of ``ids.parquet``, those above are nodes that a
relation of users leads to, listed in ``columns.parquet`` (``column``, ``relation``, ``type``, ``id``). The weights of
these are more rows of B, in Parquet in ``column_weights.parquet`` (``column``, ``neighbour``, ``weight``). So the
products are the model's own scores, for all known users and for anybody of whom the relations are known. ``exact`` in
the note is false where that does not hold: where ``parquet`` keeps the largest of many weights alone.

A program is one matrix product, so that it needs no code: ``model.onnx``, or the tensor ``weights`` of
``model.safetensors`` (``load_program``); for sparse models the tensors ``indptr``, ``indices`` and ``weights`` of B
in CSR. Torch's own program files hold pickles, and nothing here is ever unpickled.
Row i of the items, column i of scores and history, and entry i of an index are line i of ``ids.parquet`` (``row``,
``item``, ``title``, ``tie_order``, ``popularity``).

**Lists.** Items that lists never hold, since the model cannot score them (``FittedRun.unscorable_items``), are not
exported: they change no score of another item, in whatever history they stand. The lists of ``recommend`` are the
exported items that the user has not chosen, highest score first and of equal scores the smallest ``tie_order`` first;
where all of them have one score, highest ``popularity`` first. No program masks what a user has chosen.
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
from relrank.models.core.vectors import VectorModel, is_dot_product_model
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
"""Models whose scores of a history are sums over its items."""
EXTRAS = {"faiss": "ann", "onnx": "onnx"}
"""What has to be installed for a format."""
ONNX_BYTES = (2 << 30) - (1 << 20)
"""What fits into one file of that format."""
OPSET, IR = 17, 8
LISTS = "items not chosen yet by score, equal scores by tie_order; by popularity where all have one score"
"""How scores become a list, for the note; the columns are those of ``ids.parquet``."""
WEIGHTS = "score of neighbour = sum of value times weight over the columns of the input, 1 for items of a history"
ROWS = 1 << 22
"""Sparse weights that get their outside ids at once."""


def export(run: FittedRun, to: str, out: Path | str, neighbours: int = 100) -> list[str]:
    """Write a fitted model to a folder of its own; an older export there is replaced.

    Args:
        run: a fitted model.
        to: ``"parquet"``, ``"faiss"``, ``"onnx"`` or ``"torch"``.
        out: the folder.
        neighbours: item weights kept per item, the largest by absolute value; of ``parquet`` and dense weights alone.

    Returns:
        The names of the files.

    Raises:
        InputError: the format is unknown, or not one for this model; the folder holds something else; an extra is not
            installed; an item that is in no list changes the scores of others.
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
    model, library = run.model, _extra(to)
    with_vectors = is_dot_product_model(model)
    if not with_vectors and (to == "faiss" or not isinstance(model, LINEAR)):
        vectors = "a model whose scores are products of vectors, such as relational-lightgcn or mf"
        linear = ", ".join(kind.name for kind in MODELS.values() if issubclass(kind, LINEAR))
        raise InputError(
            f"model cannot be exported to {to}",
            where=f"relrank export --to {to}",
            expected=vectors if to == "faiss" else f"{vectors}, or one of {linear}",
            found=f"{model.name}; relrank batch writes the lists of all users of any model",
        )
    sparse = _listed_weights(run) if isinstance(model, SparseLinear) else None
    if not with_vectors and sparse is None:
        _refuse_influence(run, _rows_alone(model, run.unscorable_items))
    with atomic_folder(out) as part:
        _write_ids(run, part)
        said: dict[str, Any] = {}
        if with_vectors:
            _write_vectors(run, part)
        else:
            _write_inputs(run, part)
        if to == "parquet":
            if sparse is not None:
                said = _write_sparse_weights(run, sparse, part)
            else:
                said = {"vectors": True} if with_vectors else _write_weights(run, part, neighbours)
        elif to == "faiss":
            said = _write_index(run, part, library)
        elif sparse is not None and to == "torch":
            parts = (sparse.indptr, sparse.indices, sparse.data)
            tensors = {name: torch.from_numpy(own) for name, own in zip(SPARSE, parts, strict=True)}
            save_tensors(part / PROGRAM, tensors, {"takes": "history"})
            shape = [sparse.n_rows, sparse.n_cols]
            said = {"input": "history", "shape": shape, "output": "scores", "layout": "csr"}
        else:
            program = _program(run, sparse, ONNX_BYTES if to == "onnx" else None)
            said = {"input": program.input_kind, "shape": list(program.weights.shape), "output": "scores"}
            if to == "onnx":
                _write_onnx(program, run, part / "model.onnx", library)
            else:
                save_tensors(part / PROGRAM, {"weights": program.weights}, {"takes": program.input_kind})
        names = {name: run.note.get(name) for name in ("model", "name", "arm", "protocol", "fingerprint", "config")}
        said = {
            "exact": True,
            "lists": LISTS,
            "known users": "all their rows" if run.lists_from_full_history else "their training rows",
            **said,
        }
        write_json(part / "note.json", {"format": FORMAT, "relrank": relrank.__version__, "to": to, **names, **said})
        write_manifest(part)
    return sorted(f.name for f in out.iterdir())


def _is_export(folder: Path) -> bool:
    """Whether a folder is an older export, which a new one may replace."""
    try:
        note = parse_json_object(read_bytes_within(folder, "note.json"), str(folder))
    except (OSError, InputError):
        return False
    return str(note.get("format")).startswith(FORMATS)


class Program(nn.Module):
    """``input @ weights``: int or float [B, n] → scores float32 [B, n_items].

    Args:
        input_kind: ``"history"``, a row of ones and zeros per user, [B, n_items], with columns beside the items where
            relations of users are read; or ``"user"``, vectors [B, d].
        weights: float32 [n_columns or d, n_items].
    """

    weights: Tensor

    def __init__(self, input_kind: InputKind, weights: Tensor) -> None:
        super().__init__()
        self.input_kind = input_kind
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of histories or of users' vectors."""
        return x.to(self.weights) @ self.weights


class SparseProgram(nn.Module):
    """``input @ weights`` with sparse weights: int or float [B, n_columns] → scores float32 [B, n_items].

    Args:
        indptr: of the weights in CSR, int64 [n_columns + 1].
        indices: int32 [n_weights], scored items.
        weights: float32 [n_weights].
        n_items: items; as many as columns when None.
    """

    input_kind: InputKind = "history"
    matrix: Tensor

    def __init__(self, indptr: Tensor, indices: Tensor, weights: Tensor, n_items: int | None = None) -> None:
        super().__init__()
        n = indptr.numel() - 1
        shape = n, n if n_items is None else n_items
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)
            # the transpose, since torch multiplies sparse by dense faster than dense by sparse
            matrix = (
                torch.sparse_csr_tensor(indptr, indices.long(), weights, shape, check_invariants=True)
                .t()
                .to_sparse_csr()
            )
        self.register_buffer("matrix", matrix)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of histories, a row of ones and zeros per user."""
        return (self.matrix @ x.to(self.matrix.dtype).T).T


def load_program(folder: Path | str) -> Program | SparseProgram:
    """What ``--to torch`` wrote. Without relrank the file is read by safetensors; see the head of this file.

    Raises:
        InputError: there is no such program, or it is not what was written.
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


def _listable(run: FittedRun) -> Int64:
    """Rows of the items that are exported, those that lists may hold, ascending."""
    return np.delete(np.arange(run.split.shape[1], dtype=np.int64), run.unscorable_items)


def _write_ids(run: FittedRun, folder: Path) -> None:
    """Keys and titles of the items that are exported, and what decides where scores do not."""
    order, rows = tie_break_order(run.split.shape[1]), _listable(run)
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    frame = pl.DataFrame(
        {
            "key": run.split.items.at(rows),
            "tie_order": place[rows],
            "popularity": popularity(run.graph).counts.numpy()[rows],
        }
    )
    named = frame.join(run.titles, on="key", how="left", maintain_order="left").rename({"key": "item"})
    ids = named.select("item", "title", "tie_order", "popularity").with_row_index("row")
    ids.write_parquet(folder / "ids.parquet")


def _listed_weights(run: FittedRun) -> Csr:
    """Sparse weights of the items that are exported, and of the columns beside the items, for these items.

    Raises:
        InputError: see ``_refuse_influence``.
    """
    assert isinstance(run.model, SparseLinear)
    weights, rows = run.model.item_weights(), _listable(run)
    n_items = weights.n_cols
    if rows.size == n_items:
        return weights
    alone = weights.take(run.unscorable_items)
    _refuse_influence(run, [(alone.indices, alone.data)])
    kept = np.concatenate([rows, np.arange(n_items, weights.n_rows)])
    part, at = weights.take(kept), np.full(n_items, -1, np.int32)
    at[rows] = np.arange(rows.size, dtype=np.int32)
    there = at[part.indices] >= 0
    return Csr.from_pairs(part.rows()[there], at[part.indices[there]], (kept.size, rows.size), part.data[there])


def _rows_alone(model: Recommender, items: Int32) -> Iterator[tuple[Int64, Float32]]:
    """What histories of one of these items each make of all items, in blocks: columns and values other than 0."""
    for first in range(0, items.size, size := max(1, SCORE_BYTES // (4 * model.graph.n_items))):
        with torch.no_grad():
            rows = model.fold_in([torch.tensor([item]) for item in items[first : first + size].tolist()])
        found = rows.float().numpy(force=True)
        columns = np.nonzero(found)[1]
        yield columns, found[found != 0]


def _refuse_influence(run: FittedRun, of_unscored: Iterable[tuple[npt.NDArray[np.integer], Float32]]) -> None:
    """Refuse to leave items out that change the scores of those which are exported.

    Args:
        run: the fitted model.
        of_unscored: columns and values of weights of items that are in no list.

    Raises:
        InputError: they do.
    """
    for columns, values in of_unscored:
        if (values[~np.isin(columns, run.unscorable_items)] != 0).any():
            raise InputError(
                "model cannot be exported",
                where="relrank export",
                found=f"{run.model.name}, where they do",
                expected="items that are in no list and change no score of another",
            )


def _vectors(run: FittedRun) -> tuple[Float32, Float32]:
    """Vectors of users and of the exported items; users' of all their rows where the run folds these in."""
    model = run.model
    assert isinstance(model, VectorModel)
    users, items = model.encoded()
    if run.lists_from_full_history:
        users = model.history_vectors(run.full_histories().tensors())
    users_, items_ = (np.ascontiguousarray(v.detach().float().numpy(force=True)) for v in (users, items))
    return users_, items_[_listable(run)]


def _user_columns(run: FittedRun) -> pl.DataFrame:
    """Inputs beside the items, in their order: ``column``, ``relation``, ``type``, ``id``."""
    model, graph = run.model, run.model.graph
    parts: list[pl.DataFrame] = []
    pairs = model.active_relations(graph.user) if isinstance(model, RelationalEASE | SparseEASE) else ()
    first = _listable(run).size
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
    """What known users' scores are made of, where that is not a row of ones at their items."""
    model, listed = run.model, _listable(run)
    columns = _user_columns(run)
    if columns.height:
        columns.write_parquet(folder / "columns.parquet")
    elif (model.history.data == 1).all():
        return
    x, frames = model.history, []
    # items that are not exported have no interactions
    rows = [(x.rows().astype(np.int64), np.searchsorted(listed, x.indices).astype(np.int64), x.data)]
    if columns.height:
        assert isinstance(model, RelationalEASE | SparseEASE)
        beside = [model.beside(user) for user in range(model.graph.n_users)]
        whose = np.repeat(np.arange(model.graph.n_users, dtype=np.int64), [of.size for of, _ in beside])
        of_them = np.concatenate([of for of, _ in beside]).astype(np.int64) + listed.size
        rows.append((whose, of_them, np.concatenate([values for _, values in beside])))
    for user, column, value in rows:
        frames.append(pl.DataFrame({"user": run.split.users.at(user), "column": column, "value": value}))
    pl.concat(frames).write_parquet(folder / "users.parquet")


def _item_weights(run: FittedRun) -> Iterator[tuple[int, Float32]]:
    """Rows of B by blocks, as (first row, float32 [b, n_exported]): what each item, or column, says of all others."""
    model, listed = run.model, _listable(run)
    n_items = model.graph.n_items
    size = max(1, SCORE_BYTES // (4 * n_items))
    for first in range(0, listed.size, size):
        alone = [torch.tensor([item]) for item in listed[first : first + size].tolist()]
        with torch.no_grad():
            yield first, model.fold_in(alone).float().numpy(force=True)[:, listed]
    if isinstance(model, RelationalEASE) and len(model.item_weights) > n_items:
        yield listed.size, model.item_weights.numpy()[n_items:, listed]


def _program(run: FittedRun, sparse: Csr | None, most: int | None) -> Program:
    """The product, refused before it is made where its weights take more bytes than ``most``."""
    if is_dot_product_model(run.model):
        return Program("user", torch.from_numpy(_vectors(run)[1].T.copy()))
    n = _listable(run).size
    shape = n + _user_columns(run).height, n
    if most is not None and 4 * shape[0] * shape[1] > most:
        raise _too_large(4 * shape[0] * shape[1])
    if sparse is not None:
        weights = np.zeros(shape, np.float32)
        weights[sparse.rows(), sparse.indices] = sparse.data
        return Program("history", torch.from_numpy(weights))
    weights = np.empty(shape, np.float32)
    for first, rows in _item_weights(run):
        weights[first : first + len(rows)] = rows
    return Program("history", torch.from_numpy(weights))


def _write_vectors(run: FittedRun, folder: Path) -> None:
    users, items = _vectors(run)
    for name, keys, vectors in (
        ("users", run.split.users.keys, users),
        ("items", run.split.items.at(_listable(run)), items),
    ):
        frame = pl.DataFrame({"id": keys, "vector": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))})
        frame.with_columns(pl.col("vector").cast(pl.List(pl.Float32))).write_parquet(folder / f"{name}.parquet")


def _write_weights(run: FittedRun, folder: Path, neighbours: int) -> dict[str, Any]:
    """The largest weights of each item by absolute value; zeros are left out."""
    kept, exact = [], True
    listed = _listable(run)
    n = min(max(neighbours, 1), listed.size)
    for first, rows in _item_weights(run):
        largest = torch.from_numpy(np.abs(rows)).topk(n).indices.numpy()
        values = np.take_along_axis(rows, largest, 1)
        row, place = np.nonzero(values)
        exact &= bool((np.count_nonzero(rows, axis=1) <= n).all())
        kept.append((row + first, largest[row, place], values[row, place]))
    row, column, weight = (np.concatenate(side) for side in zip(*kept, strict=True))
    frame = pl.DataFrame({"column": row, "neighbour": run.split.items.at(listed[column]), "weight": weight})
    of_item = pl.col("column") < listed.size
    items = frame.filter(of_item)
    items.insert_column(0, run.split.items.at(listed[items["column"].to_numpy()]).rename("item")).drop(
        "column"
    ).write_parquet(folder / "weights.parquet")
    if items.height < frame.height:
        frame.filter(~of_item).write_parquet(folder / "column_weights.parquet")
    return {"weights": WEIGHTS, "neighbours": n, "exact": exact}


def _write_sparse_weights(run: FittedRun, weights: Csr, folder: Path) -> dict[str, Any]:
    """All weights, some rows at a time; zeros are left out."""
    keys, listed = run.split.items, _listable(run)
    parts, files = folder / "parts", []
    parts.mkdir()
    of_items = int(weights.indptr[listed.size])
    if weights.n_rows > listed.size:
        of_columns = {
            "column": weights.rows()[of_items:].astype(np.int64),
            "neighbour": keys.at(listed[weights.indices[of_items:]]),
            "weight": weights.data[of_items:],
        }
        pl.DataFrame(of_columns).filter(pl.col("weight") != 0).write_parquet(folder / "column_weights.parquet")
    for start in range(0, max(of_items, 1), ROWS):
        part = slice(start, min(start + ROWS, of_items))
        row = np.searchsorted(weights.indptr, np.arange(part.start, part.stop), side="right") - 1
        there = weights.data[part] != 0
        columns = {"item": keys.at(listed[row[there]]), "neighbour": keys.at(listed[weights.indices[part][there]])}
        files.append(parts / f"{start:012}.parquet")
        pl.DataFrame(columns | {"weight": weights.data[part][there]}).write_parquet(files[-1])
    pl.scan_parquet(files, glob=False).sink_parquet(folder / "weights.parquet")
    shutil.rmtree(parts)
    return {"weights": WEIGHTS, "neighbours": "all"}


def _write_index(run: FittedRun, folder: Path, faiss: Any) -> dict[str, Any]:
    """An exact index: flat, by inner product."""
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
    """One matrix product, built by hand: no tracing, no other library."""
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
    """The library behind a format; None where none is needed.

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
