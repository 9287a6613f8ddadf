"""A fitted model as a folder, with everything needed to evaluate it again and to recommend under outside keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import ConfigDict, Field

from relrank.arguments import checked
from relrank.errors import InputError, UnavailableError
from relrank.evaluation.evaluate import accepts_longer_history
from relrank.evaluation.ranking import TopK
from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation_chains import described_type
from relrank.io import html
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
    Mask,
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
    """Required fields of ``run.json``."""

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


@dataclass(frozen=True, eq=False)
class FittedRun:
    """A fitted model with its graph, its split and the titles of its items.

    Attributes:
        model: ready to score.
        graph: what it was fitted on.
        split: training, validation and test rows.
        titles: ``key`` and ``title`` of every item.
        note: metadata in plain JSON: model, arm, hyper-parameters, protocol.
        item_attributes: attributes for filters, a row per item: ``column:NAME`` of the item table, and
            ``relation:NAME`` with the keys that a relation of the study leads to; None for runs of older versions.
        nodes: attributes for filters of other node types that have a table: the relations that lead to the type, and
            its columns, with keys as text in ``NODE_KEY``; empty for runs of older versions.
    """

    model: Recommender
    graph: Graph
    split: Split
    titles: pl.DataFrame
    note: dict[str, Any]
    item_attributes: pl.DataFrame | None = None
    nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"FittedRun({self.note['model']} on {self.note['arm']}, {self.note['protocol']})\n{self.graph!r}"

    def _repr_html_(self) -> str:
        """Model, hyper-parameters and graph, for notebooks."""
        settings = [(name, value) for name, value in self.note.get("config", {}).items() if value not in ({}, None)]
        return html.block(
            f"FittedRun: {self.note['model']} on {self.note['arm']}",
            html.line(f"{self.note['protocol']}; {len(self.split.users):,} users, {len(self.split.items):,} items"),
            html.table(("hyper-parameter", "value"), settings),
            self.graph._repr_html_(),
        )

    def recommend(self, user: str | int, k: int = 10) -> pl.DataFrame:
        """The k best items that this user has not chosen: ``place``, ``item``, ``title``, ``score``, ``fallback``.

        If all scores are equal, the list has the most popular items and ``fallback`` is true.

        Raises:
            InputError: the user is unknown.
        """
        row = self.split.users.rows(as_keys([user], self.split.users.keys), "user")
        check_k(k)
        if self.lists_from_full_history:
            full_histories = self.full_histories.take(row.astype(np.int64)).items
            return self._from_history(full_histories, k, self.unscorable_items)
        return self._first_list(
            *top_k_with_fallback(self.model, row, self.interacted_items, k, self.unscorable_items)
        )

    def recommend_for(self, history: Sequence[str | int], k: int = 10) -> pl.DataFrame:
        """The same for a user unseen during training, from the keys of the items they chose, oldest first.

        An empty history, and one without information (``informative_history``), gets the most popular items.

        Raises:
            InputError: an item is unknown, or the history is not a list.
        """
        rows = self.split.items.rows(as_keys(as_list(history, "history"), self.split.items.keys), "history")
        check_k(k)
        excluded_items = np.union1d(self.unscorable_items, rows).astype(np.int32)
        return self._from_history(self.informative_history(rows), k, excluded_items)

    def _from_history(self, rows: npt.NDArray[np.integer], k: int, excluded_items: Int32) -> pl.DataFrame:
        history = torch.from_numpy(rows.astype(np.int64))
        return self._first_list(*history_top_k_with_fallback(self.model, [history], k, excluded_items))

    def _first_list(self, best: TopK, fallback: Mask) -> pl.DataFrame:
        """The list of the first user as a table."""
        filled = best.items[0] >= 0
        frame = pl.DataFrame({"key": self.split.items.at(best.items[0][filled]), "score": best.scores[0][filled]})
        titled = frame.join(self.titles, on="key", how="left", maintain_order="left").with_row_index(
            "place", offset=1
        )
        return titled.select(
            "place", pl.col("key").alias("item"), "title", "score", fallback=pl.lit(bool(fallback[0]))
        )

    def history(self, user: str | int) -> pl.DataFrame:
        """All interactions of a user: ``item``, ``title``, ``part``."""
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
            for part, histories in zip(PARTS, self._part_histories, strict=True)
            for item in _row(histories, user).tolist()
        ]

    def train_history(self, user: int) -> Int64:
        """Items of a user's row in training, oldest first, with repeats."""
        return _row(self._train_histories, user).astype(np.int64)

    def full_history(self, user: int) -> Int64:
        """Items of a user's row, as in ``full_histories``."""
        histories = self._train_histories, *self._part_histories[1:]
        return np.concatenate([_row(part, user) for part in histories]).astype(np.int64)

    @cached_property
    def full_histories(self) -> Sequences:
        """All interactions of each user, oldest first, with repeats: training, then validation and test rows."""
        _, valid, test = self._part_histories
        return self._train_histories.then(valid).then(test)

    @cached_property
    def _part_histories(self) -> tuple[Sequences, ...]:
        return tuple(self._histories(getattr(self.split, part)) for part in PARTS)

    @cached_property
    def _train_histories(self) -> Sequences:
        return self._part_histories[0] if self.split.repeats is None else self._histories(self.split.events)

    def _histories(self, rows: Interactions) -> Sequences:
        return Sequences.from_rows(rows.user, rows.item, self.split.shape[0])

    @cached_property
    def lists_from_full_history(self) -> bool:
        """Whether a known user's list is computed from the full history, including validation and test rows."""
        return self.split.successive and accepts_longer_history(self.model)

    @cached_property
    def unscorable_items(self) -> Int32:
        """Items without interactions that the model cannot score, excluded from all lists."""
        return unscorable_items(self.model, self.split.unseen)

    @cached_property
    def uninformative_items(self) -> Int32:
        """Items without training interactions, relations or features that the model uses, ascending."""
        return uninformative_items(self.model)

    def informative_history(self, history: npt.NDArray[np.integer]) -> Int64:
        """Item rows of a history that carry information: none if all its items are uninformative.

        Otherwise all of them except unscorable items, as in evaluation.
        """
        rows = np.asarray(history, np.int64)
        if self.uninformative_items.size and np.isin(rows, self.uninformative_items).all():
            return rows[:0]
        return rows[~np.isin(rows, self.unscorable_items)]

    @cached_property
    def interacted_items(self) -> Csr:
        """Users by items: the interactions of all parts."""
        return Csr.from_pairs(*_joined([getattr(self.split, part) for part in PARTS]), self.split.shape)


def _joined(parts: Sequence[Interactions]) -> tuple[Int32, Int32]:
    """User and item rows of several parts."""
    return np.concatenate([part.user for part in parts]), np.concatenate([part.item for part in parts])


def _row(histories: Sequences, row: int) -> Int32:
    return histories.items[histories.indptr[row] : histories.indptr[row + 1]]


def as_list(values: Iterable[Any], where: str) -> list[Any]:
    """An ordered collection as a list.

    Raises:
        InputError: it is a text, a mapping, a set, or not iterable.
    """
    if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Iterable):
        raise InputError(
            "not a list", where=where, expected="a list of keys, such as [51] or ['a', 'b']", found=repr(values)[:80]
        )
    return list(values)


def is_key(value: object) -> bool:
    """Whether a value is one key and no list of them; NumPy's and torch's scalars are keys, too."""
    return isinstance(value, str | Real) or getattr(value, "ndim", 1) == 0


def check_k(k: int) -> None:
    """Check the length of a list.

    Raises:
        InputError: it is not a whole number, at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise InputError("not a length of a list", where="k", expected="a whole number, at least 1", found=repr(k))


def as_keys(values: Sequence[Any], like: pl.Series) -> pl.Series:
    """Keys from a command line or a program, converted to the type of the table's keys.

    Raises:
        InputError: a key cannot be converted.
    """
    plain = [v.item() if getattr(v, "ndim", None) == 0 else v for v in values]  # scalars of NumPy and torch
    for key in plain:
        if isinstance(key, bool) or not isinstance(key, str | int | float):
            raise InputError(
                "not a key", where="requested keys", expected="a whole number or a text", found=repr(key)
            )
    text = pl.Series([str(v) for v in plain], dtype=pl.String)
    if not like.dtype.is_integer():
        return text
    numbers = text.str.extract(INTEGER_PATTERN, 1).cast(like.dtype, strict=False)
    if numbers.null_count():
        raise InputError(
            "unknown key",
            where="requested keys",
            expected=f"whole numbers, such as {like[0]}",
            found=repr(text.filter(numbers.is_null())[0]),
        )
    return numbers


def check_run_folder(folder: Path) -> None:
    """Check that a run can be written to a folder.

    Raises:
        InputError: it exists and is not a run.
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
    full_graph: Graph | None = None,
) -> FittedRun:
    """Write a fitted model to a folder atomically; an older run there is replaced.

    Lists can be filtered by all relations of ``full_graph``, the study's graph, which may have more than ``graph``.

    Raises:
        InputError: the folder exists and is not a run.
    """
    check_run_folder(folder)
    full_graph = graph if full_graph is None else full_graph
    titles, item_attributes = item_titles(tables, split), build_item_attributes(tables, split, full_graph)
    nodes = build_node_attributes(tables, full_graph)
    with atomic_folder(folder) as part:
        save_graph(graph, part / "graph")
        save_tensors(part / MODEL, model.state(), {"model": model.name})
        _split_frame(split).write_parquet(part / "split.parquet")
        titles.write_parquet(part / "titles.parquet")
        item_attributes.write_parquet(part / FACTS)
        if nodes:
            _nested(nodes).write_parquet(part / NODES)
        write_json(part / "run.json", note)
        write_manifest(part)
    return FittedRun(model, graph, split, titles, note, item_attributes, nodes)


def refresh_run(
    run: FittedRun, tables: Tables, full_graph: Graph, folder: Path, leaks: Sequence[dict[str, Any]] = ()
) -> FittedRun:
    """A stored run with the current titles, attributes and accepted leaks, none of which affect the model.

    Args:
        run: the stored run.
        tables: the current tables.
        full_graph: the study's graph.
        folder: the run's folder; rewritten if something has changed.
        leaks: leaks that the study file accepts.
    """
    note = {name: value for name, value in run.note.items() if name != "accepted_leaks"}
    note |= {"accepted_leaks": list(leaks)} if leaks else {}
    item_attributes = build_item_attributes(tables, run.split, full_graph)
    nodes = build_node_attributes(tables, full_graph)
    if (
        note == run.note
        and run.item_attributes is not None
        and run.item_attributes.equals(item_attributes)
        and run.titles.equals(item_titles(tables, run.split))
        and (_nested(nodes).equals(_nested(run.nodes)) if nodes and run.nodes else not nodes and not run.nodes)
    ):
        return run
    return save_run(run.model, run.graph, run.split, tables, note, folder, full_graph)


def holds_run(folder: Path, cell: str) -> bool:
    """Whether the folder holds the fitted model of this cell, in the current format."""
    if not (folder / "run.json").is_file():
        return False
    note = parse_json_object(read_bytes_within(folder, "run.json"), str(folder / "run.json"))
    return note.get("format") == FORMAT and note.get("cell") == cell


@checked("rr.load_run")
def load_run(folder: Path | str) -> FittedRun:
    """Read a fitted model, or the winner in a study's folder.

    Raises:
        InputError: the folder holds no run, a run of another format, a damaged run, or one that does not fit into
            memory.
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
            expected=f"{FORMAT} of a known model: fit it again, or run its study again",
            found=f"{note.get('format')} of {note.get('model')}",
        )
    with consistent(folder, REPAIR_HINT):
        return _loaded(folder)


def _loaded(folder: Path) -> FittedRun:
    sealed = ManifestReader(folder, REPAIR_HINT)
    note = sealed.json("run.json")
    check(note, _RunMetadata, str(folder / "run.json"))
    sealed.read("graph/manifest.json")  # has the checksums of the graph's files
    graph = load_graph(folder / "graph")
    weights, available = sealed.size(MODEL), available_memory()
    # reading holds the file in memory twice
    if weights + max(weights, score_block(graph.n_items)) > available:
        raise UnavailableError(
            "model does not fit into memory",
            where=str(folder),
            found=f"weights of {gb(weights)} GB",
            expected=f"at most the {gb(available)} GB available, for the weights twice, or with a block of scores",
        )
    kind = MODELS[note["model"]]
    config = override_config(kind.Config(), note["config"], str(folder))
    # the configuration of an arm may weight relations that its graph excludes
    graph = replace(graph, excluded_relations=kind.named_weights(config))
    state = parse_safetensors(sealed.read(MODEL), str(folder / MODEL))  # before the model allocates parameters
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
        raise ValueError("held-out rows of items that are excluded from the candidates")
    item_attributes = sealed.table(FACTS) if FACTS in sealed else None
    nodes = _unnested(sealed.table(NODES)) if NODES in sealed else {}
    run = FittedRun(model, graph, split, sealed.table("titles.parquet"), note, item_attributes, nodes)
    _ = run.interacted_items  # checks that no (user, item) repeats
    run.titles["title"].cast(pl.String)  # checks the type
    if not run.titles["key"].equals(items.keys) or (
        item_attributes is not None and item_attributes.height != len(items)
    ):
        raise ValueError("titles or attributes do not match the items")
    return run


def _split_frame(split: Split) -> pl.DataFrame:
    frames = []
    for name in PARTS:
        rows = getattr(split, name)
        frame = pl.DataFrame({"user": split.users.at(rows.user), "item": split.items.at(rows.item)})
        frames.append(frame.with_columns(part=pl.lit(name)))
    return pl.concat(frames)


def item_titles(tables: Tables, split: Split) -> pl.DataFrame:
    """``key`` and ``title`` of every item in row order; a missing title is the key."""
    keys = split.items.keys.to_frame("key")
    table = tables.nodes.get(tables.item)
    if table is None or table.title is None:
        return keys.with_columns(pl.col("key").cast(pl.String).alias("title"))
    named = table.frame.select(pl.col(table.key).alias("key"), pl.col(table.title).cast(pl.String).alias("title"))
    titled = keys.join(named, on="key", how="left", maintain_order="left")
    return titled.with_columns(pl.col("title").fill_null(pl.col("key").cast(pl.String)))


def build_item_attributes(tables: Tables, split: Split, graph: Graph) -> pl.DataFrame:
    """Item attributes for filters, a row per item in row order; see ``FittedRun``."""
    columns = split.items.keys.to_frame("key")
    table = tables.nodes.get(tables.item)
    if table is not None:
        plain = [pl.col(name).alias(f"column:{name}") for name in _plain_columns(table.frame) if name != table.key]
        frame = table.frame.select(pl.col(table.key).alias("key"), *plain)
        columns = columns.join(frame, on="key", how="left", maintain_order="left")
    related = []
    for name, (of_item, other, node) in item_relations(graph).items():
        frame = pl.DataFrame({"row": of_item, "value": graph.nodes[node].at(other).cast(pl.String)})
        lists = frame.group_by("row").agg(pl.col("value").alias(f"relation:{name}"))
        rows = pl.DataFrame({"row": np.arange(len(split.items), dtype=np.int32)})
        related.append(rows.join(lists, on="row", how="left", maintain_order="left").drop("row"))
    return pl.concat([columns.drop("key"), *related], how="horizontal")


def build_node_attributes(tables: Tables, graph: Graph) -> dict[str, tuple[tuple[str, ...], pl.DataFrame]]:
    """Attributes for filters of the nodes that items are related to; see ``FittedRun``."""
    relations: dict[str, tuple[str, ...]] = {}
    for name, (_, _, node) in item_relations(graph).items():
        relations[node] = (*relations.get(node, ()), name)
    attributes = {}
    for node, names in relations.items():
        table = tables.nodes.get(node)
        columns = [] if table is None else [name for name in _plain_columns(table.frame) if name != table.key]
        if table is not None and columns:
            frame = table.frame.select(pl.col(table.key).cast(pl.String).alias(NODE_KEY), *columns)
            keys = graph.nodes[node].keys.cast(pl.String)
            if len(known := frame.filter(pl.col(NODE_KEY).is_in(keys.implode()))):
                attributes[node] = names, known
    return attributes


def _plain_columns(frame: pl.DataFrame) -> list[str]:
    """Columns of single values, which filters can use."""
    return [name for name, dtype in frame.schema.items() if not dtype.is_nested() and dtype != pl.Binary]


def _nested(nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]]) -> pl.DataFrame:
    """Attributes of all node types in one table: one row, with a struct of relations and rows per type."""
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
    return {
        column.name: (
            tuple(column.struct.field("relations").explode()),
            column.struct.field("rows").explode().struct.unnest(),
        )
        for column in table
    }


def item_relations(graph: Graph) -> dict[str, tuple[Int32, Int32, str]]:
    """Relations between items and types other than items and users, including chains.

    Returns:
        By name: item rows and rows of the other type, int32 [n_edges] each, and that type.
    """
    relations = {}
    for name, relation in graph.relations.items():
        if described_type(graph, relation) != graph.item:
            continue
        direct = compose_relation(graph, relation)
        ends = {direct.source, direct.target}
        if len(ends) == 2 and graph.user not in ends:
            forward = direct.source == graph.item
            of_item, other = (direct.src, direct.dst) if forward else (direct.dst, direct.src)
            relations[name] = of_item, other, direct.target if forward else direct.source
    return relations
