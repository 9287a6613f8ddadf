"""A fitted model as a folder: what is needed to evaluate it again, and to recommend under outside keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import ConfigDict, Field

from relrank.errors import InputError, UnavailableError
from relrank.evaluation.evaluate import accepts_longer_history
from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import described_type
from relrank.graph.sequences import Sequences
from relrank.io.atomic import atomic_folder
from relrank.io.manifest import (
    ManifestReader,
    consistent,
    parse_json_object,
    read_bytes_within,
    refuse_leading_out,
    write_manifest,
)
from relrank.io.tensors import parse_safetensors, save_tensors, write_json
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.models import MODELS, Recommender
from relrank.models.core.base import override_config, restore
from relrank.models.core.estimates import score_block
from relrank.parallel.memory import available_memory, gb
from relrank.runs.fallback import (
    history_top_k_with_fallback,
    top_k_with_fallback,
    uninformative_items,
    unscorable_items,
)
from relrank.runs.run_folder import find_run
from relrank.tables.config import ConfigSection, check
from relrank.tables.files import INTEGER_PATTERN
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables

FORMAT = "relrank-run-4"
REPAIR_HINT = "take a copy of it, or fit it again"
MODEL = "model.safetensors"
PARTS = ("train", "valid", "test")
FACTS = "facts.parquet"
NODES = "nodes.parquet"
NODE_KEY = "#key"


class _RunMetadata(ConfigSection):
    """What ``run.json`` has to say."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    name: str
    arm: str
    protocol: str
    fingerprint: str
    config: dict[str, Any]
    ordered: bool = False
    successive: bool = False
    new_items_only: bool = False
    unseen: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True, eq=False)
class FittedRun:
    """A fitted model with its graph, its split and the titles of its items.

    Attributes:
        model: ready to score.
        graph: what it was fitted on.
        split: training, validation and test rows.
        titles: ``key`` and ``title`` of every item.
        note: model, arm, hyper-parameters, protocol; plain JSON.
        item_attributes: what lists may be filtered by beside the graph, a row per item: ``column:NAME`` of the item
            table, and ``relation:NAME`` with the keys that a relation of the study leads to; None of an older run.
        nodes: by node type that relations lead to and that has a table: these relations, and its plain columns, with
            keys as text in ``NODE_KEY``; filters read them. Nothing of an older run.
    """

    model: Recommender
    graph: Graph
    split: Split
    titles: pl.DataFrame
    note: dict[str, Any]
    item_attributes: pl.DataFrame | None = None
    nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]] = field(default_factory=dict)
    _derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __repr__(self) -> str:
        return f"FittedRun({self.note['model']} on {self.note['arm']}, {self.note['protocol']})\n{self.graph!r}"

    def recommend(self, user: str | int, k: int = 10) -> pl.DataFrame:
        """The k best items that this user has not chosen: ``place``, ``item``, ``title``, ``score``, ``fallback``.

        Where the model says nothing of the user (all scores equal), the list is popularity's: ``fallback`` is true.

        Raises:
            InputError: the user is unknown.
        """
        row = self.split.users.rows(as_keys([user], self.split.users.keys), "user")
        check_k(k)
        if self.lists_from_full_history:
            full_histories = self.full_histories().take(row.astype(np.int64)).items
            return self._for_rows(full_histories, k, self.unscorable_items)
        best, silent = top_k_with_fallback(self.model, row, self.interacted_items(), k, self.unscorable_items)
        return self._named(best.items[0], best.scores[0], bool(silent[0]))

    def recommend_for(self, history: Sequence[str | int], k: int = 10) -> pl.DataFrame:
        """The same for somebody never seen in training, from the keys of the items they chose, oldest first.

        An empty history gets popularity's list, too; what a history says is ``informative_history``.

        Raises:
            InputError: an item is unknown, or the history is one key instead of a list of them.
        """
        rows = self.split.items.rows(as_keys(as_list(history, "history"), self.split.items.keys), "history")
        check_k(k)
        return self._for_rows(
            self.informative_history(rows), k, np.union1d(self.unscorable_items, rows).astype(np.int32)
        )

    def _for_rows(self, rows: npt.NDArray[np.integer], k: int, closed: Int32) -> pl.DataFrame:
        best, silent = history_top_k_with_fallback(self.model, [torch.from_numpy(rows.astype(np.int64))], k, closed)
        return self._named(best.items[0], best.scores[0], bool(silent[0]))

    def history(self, user: str | int) -> pl.DataFrame:
        """What the user chose: ``item``, ``title``, ``part``."""
        row = int(self.split.users.rows(as_keys([user], self.split.users.keys), "user")[0])
        items = self.history_by_part(row)
        keys = self.split.items.at(np.array([item for _, item in items], np.int64))
        frame = pl.DataFrame({"key": keys, "part": [part for part, _ in items]})
        return frame.join(self.titles, on="key", how="left", maintain_order="left").select(
            pl.col("key").alias("item"), "title", "part"
        )

    def history_by_part(self, user: int) -> list[tuple[str, int]]:
        """Every item of a user's row once, with its part of the split."""
        return [
            (part, item)
            for part, histories in zip(PARTS, self._part_histories(), strict=True)
            for item in _row(histories, user).tolist()
        ]

    def train_history(self, user: int) -> Int64:
        """Items of a user's row in training, oldest first, an item as often as it was chosen."""
        return _row(self._train_histories(), user).astype(np.int64)

    def full_history(self, user: int) -> Int64:
        """Items of a user's row, oldest first, as in ``full_histories``."""
        histories = self._train_histories(), *self._part_histories()[1:]
        return np.concatenate([_row(part, user) for part in histories]).astype(np.int64)

    def full_histories(self) -> Sequences:
        """What each user chose, oldest first, as often as they did: training, then validation and test rows."""
        _, valid, test = self._part_histories()
        found: Sequences = self._once("full_histories", lambda: self._train_histories().then(valid).then(test))
        return found

    def _part_histories(self) -> tuple[Sequences, ...]:
        parts = (getattr(self.split, part) for part in PARTS)
        found: tuple[Sequences, ...] = self._once("part_histories", lambda: tuple(map(self._histories, parts)))
        return found

    def _train_histories(self) -> Sequences:
        if self.split.repeats is None:
            return self._part_histories()[0]
        found: Sequences = self._once("train_histories", lambda: self._histories(self.split.events))
        return found

    def _histories(self, rows: Interactions) -> Sequences:
        return Sequences.from_rows(rows.user, rows.item, self.split.shape[0])

    @property
    def lists_from_full_history(self) -> bool:
        """Whether a known user's list is that of all they chose, folded in, in whatever part of the split."""
        found: bool = self._once("from_full", lambda: self.split.successive and accepts_longer_history(self.model))
        return found

    @property
    def unscorable_items(self) -> Int32:
        """Items that no interaction names and the model knows nothing else of: they are in no list."""
        found: Int32 = self._once("unscored", lambda: unscorable_items(self.model, self.split.unseen))
        return found

    @property
    def uninformative_items(self) -> Int32:
        """Items without training rows that the model knows nothing else of, ascending."""
        found: Int32 = self._once("untold", lambda: uninformative_items(self.model))
        return found

    def informative_history(self, history: npt.NDArray[np.integer]) -> Int64:
        """What item rows of a history say to the model: nothing where it knows nothing of any of them.

        Else all of them, as at the test, but those that no interaction names.
        """
        rows = np.asarray(history, np.int64)
        if self.uninformative_items.size and np.isin(rows, self.uninformative_items).all():
            return rows[:0]
        return rows[~np.isin(rows, self.unscorable_items)]

    def interacted_items(self) -> Csr:
        """Users by items: what each chose, in whatever part."""
        found: Csr = self._once("chosen", self._interacted_items)
        return found

    def _interacted_items(self) -> Csr:
        parts = [getattr(self.split, part) for part in PARTS]
        user, item = (np.concatenate([getattr(p, side) for p in parts]) for side in ("user", "item"))
        return Csr.from_pairs(user, item, self.split.shape)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What follows from the run, made when it is first asked for."""
        if name not in self._derived:
            self._derived[name] = make()
        return self._derived[name]

    def _named(self, items: np.ndarray[Any, Any], scores: np.ndarray[Any, Any], fallback: bool) -> pl.DataFrame:
        there = items >= 0
        frame = pl.DataFrame({"key": self.split.items.at(items[there]), "score": scores[there]})
        named = frame.join(self.titles, on="key", how="left", maintain_order="left").with_row_index("place", offset=1)
        return named.select("place", pl.col("key").alias("item"), "title", "score", fallback=pl.lit(fallback))


def _row(histories: Sequences, row: int) -> Int32:
    return histories.items[histories.indptr[row] : histories.indptr[row + 1]]


def as_list(values: Iterable[Any], where: str) -> list[Any]:
    """What is asked about, as a list in its order.

    Raises:
        InputError: it is one thing, such as a text, which is a list of its letters to Python; or it has no order.
    """
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise InputError(
            "not a list", where=where, expected="a list of keys, such as [51] or ['a', 'b']", found=repr(values)[:80]
        )
    return list(values)


def check_k(k: int) -> None:
    """Refuse a length that no list has.

    Raises:
        InputError: it is not a whole number of 1 or more.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise InputError("not a length of a list", where="k", expected="a whole number, at least 1", found=repr(k))


def as_keys(values: Sequence[Any], like: pl.Series) -> pl.Series:
    """Keys as a command line or a program gives them, in the type of the table's keys.

    Raises:
        InputError: a key cannot be of that type.
    """
    plain = [v.item() if isinstance(v, np.generic | torch.Tensor) else v for v in values]
    for one in plain:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise InputError(
                "not a key", where="keys asked for", expected="a whole number or a text", found=repr(one)
            )
    text = pl.Series([str(v) for v in plain], dtype=pl.String)
    if not like.dtype.is_integer():
        return text
    numbers = text.str.extract(INTEGER_PATTERN, 1).cast(like.dtype, strict=False)
    if numbers.null_count():
        raise InputError(
            "unknown key",
            where="keys asked for",
            expected=f"whole numbers, such as {like[0]}",
            found=repr(text.filter(numbers.is_null())[0]),
        )
    return numbers


def check_run_folder(folder: Path) -> None:
    """Refuse a folder for a run that is there and holds something else.

    Raises:
        InputError: it does.
    """
    if os.path.lexists(folder) and not (folder / "run.json").is_file():
        raise InputError("folder is in use", where=str(folder), expected="a new one, or an older run", found="files")


def save_run(
    model: Recommender,
    graph: Graph,
    split: Split,
    tables: Tables,
    note: dict[str, Any],
    folder: Path,
    whole: Graph | None = None,
) -> FittedRun:
    """Write a fitted model to a folder of its own, whole or not at all; an older run there is replaced.

    ``whole`` is the study's graph with relations that the model's lacks; lists may be filtered by these, too.

    Raises:
        InputError: the folder is there and is not a run.
    """
    check_run_folder(folder)
    titles, item_attributes = (
        item_titles(tables, split),
        build_item_attributes(tables, split, graph if whole is None else whole),
    )
    with atomic_folder(folder) as part:
        save_graph(graph, part / "graph")
        save_tensors(part / MODEL, model.state(), {"model": model.name})
        _split_frame(split).write_parquet(part / "split.parquet")
        titles.write_parquet(part / "titles.parquet")
        item_attributes.write_parquet(part / FACTS)
        nodes = build_node_attributes(tables, graph if whole is None else whole)
        if nodes:
            _nested(nodes).write_parquet(part / NODES)
        write_json(part / "run.json", note)
        write_manifest(part)
    return FittedRun(model, graph, split, titles, note, item_attributes, nodes)


def refresh_run(
    run: FittedRun, tables: Tables, whole: Graph, folder: Path, leaks: Sequence[dict[str, Any]] = ()
) -> FittedRun:
    """A kept run with what the tables say of its items now: titles and columns change no model.

    Args:
        run: as it is kept.
        tables: as they were read now.
        whole: the study's graph.
        folder: where it is kept; written anew if something else is said.
        leaks: that the study file accepts now.
    """
    note = {name: value for name, value in run.note.items() if name != "accepted_leaks"}
    note |= {"accepted_leaks": list(leaks)} if leaks else {}
    item_attributes, nodes = build_item_attributes(tables, run.split, whole), build_node_attributes(tables, whole)
    said = (
        run.item_attributes is not None
        and run.item_attributes.equals(item_attributes)
        and run.titles.equals(item_titles(tables, run.split))
    )
    said = said and (
        _nested(nodes).equals(_nested(run.nodes)) if nodes and run.nodes else not nodes and not run.nodes
    )
    if said and note == run.note:
        return run
    return save_run(run.model, run.graph, run.split, tables, note, folder, whole)


def holds_run(folder: Path, cell: str) -> bool:
    """Whether the folder holds the fitted model of this cell, in a format that is read."""
    if not (folder / "run.json").is_file():
        return False
    note = parse_json_object(read_bytes_within(folder, "run.json"), str(folder / "run.json"))
    return note.get("format") == FORMAT and note.get("cell") == cell


def load_run(folder: Path | str) -> FittedRun:
    """Read a fitted model back. A study's folder stands for its winner.

    Raises:
        InputError: the folder holds no run, one of another format, one that is not what was written, or one that does
            not fit into memory.
    """
    study = Path(folder)
    folder = find_run(study)
    if folder != study:
        refuse_leading_out(study, folder)
    note = parse_json_object(read_bytes_within(folder, "run.json"), str(folder / "run.json"))
    if note.get("format") != FORMAT or note.get("model") not in MODELS:
        raise InputError(
            "run of another version",
            where=str(folder),
            expected=f"{FORMAT} of a known model, so fit it again",
            found=f"{note.get('format')} of {note.get('model')}",
        )
    with consistent(folder, REPAIR_HINT):
        return _loaded(folder)


def _loaded(folder: Path) -> FittedRun:
    sealed = ManifestReader(folder, REPAIR_HINT)
    note = sealed.json("run.json")
    check(note, _RunMetadata, str(folder / "run.json"))
    sealed.read("graph/manifest.json")  # which speaks for the files beside it
    graph = load_graph(folder / "graph")
    weights, available = sealed.size(MODEL), available_memory()
    # while it is read, the file is there twice
    if weights + max(weights, score_block(graph.n_items)) > available:
        raise UnavailableError(
            "model does not fit into memory",
            where=str(folder),
            found=f"weights of {gb(weights)} GB",
            expected=f"at most {gb(available)} GB with a block of scores, or twice the weights, which are available",
        )
    kind = MODELS[note["model"]]
    config = override_config(kind.Config(), note["config"], str(folder))
    # an arm keeps the weights of relations that it leaves out
    graph = replace(graph, excluded_relations=kind.named_weights(config))
    state = parse_safetensors(sealed.read(MODEL), str(folder / MODEL))  # before a model makes parameters of its own
    model = kind(graph, config)
    restore(model, state, str(folder / MODEL))
    del state
    frame = sealed.table("split.parquet")
    users, items = graph.nodes[graph.user], graph.nodes[graph.item]
    of_part = (frame.filter(pl.col("part") == name) for name in PARTS)
    train, valid, test = (
        Interactions(users.rows(r["user"], str(folder)), items.rows(r["item"], str(folder))) for r in of_part
    )
    edges, events = graph.interactions, graph.events
    split = Split(
        users,
        items,
        train,
        valid,
        test,
        note["protocol"],
        note["fingerprint"],
        **{name: note.get(name, False) for name in ("ordered", "successive", "new_items_only")},
        unseen=note.get("unseen", 0),
        repeats=None if events is None else Interactions(edges.src[events], edges.dst[events]),
    )
    if np.isin(np.concatenate([valid.item, test.item]), split.closed()).any():
        raise ValueError("held-out rows of items that are no candidates")
    item_attributes = sealed.table(FACTS) if FACTS in sealed else None
    nodes = _unnested(sealed.table(NODES)) if NODES in sealed else {}
    run = FittedRun(model, graph, split, sealed.table("titles.parquet"), note, item_attributes, nodes)
    run.interacted_items()  # each (user, item) once
    named = run.titles["key"], run.titles["title"].cast(pl.String)
    if not named[0].equals(items.keys) or (item_attributes is not None and item_attributes.height != len(items)):
        raise ValueError("titles or facts are not those of the items")
    return run


def _split_frame(split: Split) -> pl.DataFrame:
    rows = [(name, getattr(split, name)) for name in PARTS]
    return pl.concat(
        pl.DataFrame({"user": split.users.at(r.user), "item": split.items.at(r.item)}).with_columns(
            pl.lit(name).alias("part")
        )
        for name, r in rows
    )


def item_titles(tables: Tables, split: Split) -> pl.DataFrame:
    """``key`` and ``title`` of every item in row order; its key where a title is missing."""
    keys = split.items.keys.to_frame("key")
    table = tables.nodes.get(tables.item)
    if table is None or table.title is None:
        return keys.with_columns(pl.col("key").cast(pl.String).alias("title"))
    named = table.frame.select(pl.col(table.key).alias("key"), pl.col(table.title).cast(pl.String).alias("title"))
    found = keys.join(named, on="key", how="left", maintain_order="left")
    return found.with_columns(pl.col("title").fill_null(pl.col("key").cast(pl.String)))


def build_item_attributes(tables: Tables, split: Split, graph: Graph) -> pl.DataFrame:
    """What lists may be filtered by, a row per item in row order; see ``FittedRun``."""
    keys = split.items.keys.to_frame("key")
    table = tables.nodes.get(tables.item)
    item_attributes = keys
    if table is not None:
        columns = [pl.col(name).alias(f"column:{name}") for name in _plain(table.frame) if name != table.key]
        plain = table.frame.select(pl.col(table.key).alias("key"), *columns)
        item_attributes = keys.join(plain, on="key", how="left", maintain_order="left")
    found = []
    for name, (of_item, other, node) in item_relations(graph).items():
        frame = pl.DataFrame({"row": of_item, "value": graph.nodes[node].at(other).cast(pl.String)})
        lists = frame.group_by("row").agg(pl.col("value").alias(f"relation:{name}"))
        rows = pl.DataFrame({"row": np.arange(len(split.items), dtype=np.int32)})
        found.append(rows.join(lists, on="row", how="left", maintain_order="left").drop("row"))
    return pl.concat([item_attributes.drop("key"), *found], how="horizontal")


def build_node_attributes(tables: Tables, graph: Graph) -> dict[str, tuple[tuple[str, ...], pl.DataFrame]]:
    """What is known of the nodes behind items; see ``FittedRun``."""
    relations: dict[str, tuple[str, ...]] = {}
    for name, (_, _, node) in item_relations(graph).items():
        relations[node] = (*relations.get(node, ()), name)
    found = {}
    for node, names in relations.items():
        table = tables.nodes.get(node)
        columns = [] if table is None else [name for name in _plain(table.frame) if name != table.key]
        if table is not None and columns:
            frame = table.frame.select(pl.col(table.key).cast(pl.String).alias(NODE_KEY), *columns)
            keys = graph.nodes[node].keys.cast(pl.String)
            if len(there := frame.filter(pl.col(NODE_KEY).is_in(keys.implode()))):
                found[node] = names, there
    return found


def _plain(frame: pl.DataFrame) -> list[str]:
    """Columns that hold single values, which a condition may name."""
    return [name for name, dtype in frame.schema.items() if not dtype.is_nested() and dtype != pl.Binary]


def _nested(nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]]) -> pl.DataFrame:
    """One table of all types: a row each, in one column per type, is a list of its relations or of its nodes."""
    return pl.DataFrame(
        [
            pl.Series(
                node,
                [{"relations": list(names), "rows": frame.to_struct("rows")}],
                dtype=pl.Struct({"relations": pl.List(pl.String), "rows": pl.List(pl.Struct(frame.schema))}),
            )
            for node, (names, frame) in nodes.items()
        ]
    )


def _unnested(table: pl.DataFrame) -> dict[str, tuple[tuple[str, ...], pl.DataFrame]]:
    found = {}
    for one in table:
        rows = one.struct.field("rows").explode().struct.unnest()
        found[one.name] = tuple(one.struct.field("relations").explode()), rows
    return found


def item_relations(graph: Graph) -> dict[str, tuple[Int32, Int32, str]]:
    """Relations of items with something else than items or users, along chains, too: by name edges and that type.

    The edges are item rows and rows of the other type, int32 [n_edges] each.
    """
    found = {}
    for name, relation in graph.relations.items():
        if described_type(graph, relation) != graph.item:
            continue
        direct = compose_relation(graph, relation)
        ends = {direct.source, direct.target}
        if len(ends) == 2 and graph.user not in ends:
            forward = direct.source == graph.item
            of_item, other = (direct.src, direct.dst) if forward else (direct.dst, direct.src)
            found[name] = of_item, other, direct.target if forward else direct.source
    return found
