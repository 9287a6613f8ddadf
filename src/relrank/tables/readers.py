"""Tables described in a configuration file: your own, or a data set by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from relrank.arguments import checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.tables import datasets
from relrank.tables.config import ConfigSection, Name, resolve
from relrank.tables.files import as_keys, column, read_table
from relrank.tables.joins import join, once
from relrank.tables.missing import NA_VALUES, is_missing, refuse_missing, spaced, without_missing, written
from relrank.tables.notices import Notice
from relrank.tables.scan import ROW_NUMBER, ColumnKind, ReadOptions, column_names, count_dropped, read_columns
from relrank.tables.synthetic import PlantedConfig, planted
from relrank.tables.tables import MAYBE_BY, LinkTable, NodeTable, Tables, TextTable
from relrank.tables.times import TimeValue, Unit
from relrank.tables.triples import ENTITY, with_triples

Unknown = Literal["error", "drop"]
DatasetName = Literal[
    "ml-100k",
    "ml-1m",
    "goodbooks-10k",
    "gowalla",
    "lightgcn",
    "amazon-beauty",
    "hetrec-lastfm",
    "facebook-books",
    "yahoo-movies",
    "sasrec",
    "s3rec",
    "recbole",
    "planted",
]


class FileConfig(ConfigSection):
    """Keys that all tables share.

    Attributes:
        file: a .csv, .tsv or .parquet file in the data folder.
        separator: field separator, if it is not that of the suffix.
        columns: names of the columns of a text file without a header, such as an edge list.
        missing: policy for rows without a key, number or time: "error", or "drop" and count.
    """

    file: str
    separator: str | None = Field(None, min_length=1, max_length=1)
    columns: tuple[str, ...] | None = Field(None, min_length=1)
    missing: Literal["error", "drop"] = "error"

    @field_validator("separator")
    @classmethod
    def _one_byte(cls, separator: str | None) -> str | None:
        if separator is not None and (not separator.isascii() or separator in '"\r\n\0'):
            raise ValueError("separator must be one ASCII character, no quotation mark and no end of line")
        return separator

    @field_validator("columns")
    @classmethod
    def _different(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and len(set(columns)) < len(columns):
            raise ValueError("columns must differ")
        return columns

    @model_validator(mode="after")
    def _of_text(self) -> Self:
        if Path(self.file).suffix.lower() == ".parquet" and (self.columns is not None or self.separator is not None):
            raise ValueError("a Parquet file has column names and no separator: columns and separator go with text")
        return self


class TimedConfig(FileConfig):
    """Keys of tables with times.

    Attributes:
        time_unit: unit of numeric times since 1970: "days", "s", "ms", "us", "ns"; or "order" if they are no dates.
            By default it follows from their range, and numbers that are plausible in no unit are errors.
    """

    time_unit: Unit | None = None

    def options(self, common: ReadOptions) -> ReadOptions:
        """How this table is read."""
        return replace(common, missing=self.missing, time_unit=self.time_unit, columns=self.columns)


class InteractionsConfig(TimedConfig):
    """``[data.interactions]``: the user–item interactions.

    Attributes:
        valid: file of the same columns with validation rows; ``file`` then holds training rows.
        test: likewise with test rows; ``split = "given"`` uses these parts.
        user: column with the user's key.
        item: column with the item's key.
        rating: column with a number.
        time: column with ISO dates or date-times, or with numbers since 1970 (``time_unit``); "row", if there is no
            column of that name: file order is time order.
        duplicates: policy for a (user, item) that occurs twice: "error"; keep the "first" or "last" (by time, else by
            row), or the "max" rating; dropped rows are counted. "keep" counts repeats: the first is the interaction,
            and the count may be its weight.
        unknown: policy for keys that are not in the node table: "error", or "drop" and count.
    """

    valid: str | None = None
    test: str | None = None
    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    duplicates: Literal["error", "first", "last", "max", "keep"] = "error"
    unknown: Unknown = "error"

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.valid is not None and self.test is None:
            raise ValueError("a file of validation rows goes with one of test rows: test")
        names = [name for name in (self.user, self.item, self.rating, self.time) if name is not None]
        if len(set(names)) < len(names):
            raise ValueError("user, item, rating and time must be different columns")
        return self


class NodesConfig(FileConfig):
    """``[data.nodes.<type>]``: one row per node.

    Attributes:
        key: column with unique keys.
        title: column with titles to display.
        computed: when the attribute values were computed (ISO, or in the unit of the interactions' time); the audit
            compares it with the split.
    """

    key: str
    title: str | None = None
    computed: TimeValue | None = None


class LinkConfig(TimedConfig):
    """``[data.links.<name>]``: rows that link nodes of two types.

    Attributes:
        source: node type.
        source_column: column of this file.
        source_match: column of the source's node table with the same values; default: its key.
        target: node type; it needs no node table.
        target_column: column of this file.
        target_match: column of the target's node table; default: its key.
        weight: column with a number.
        time: column with the time of each row, as for interactions; rows are cut at the split (``cutoff``).
        by: column with the key of the user who made each row, such as a tag; rows that users made of their held-out
            items are not in the graph.
        computed: when the rows were computed, as for node tables.
        unknown: policy for values that are not in the node table: "error", or "drop" and count.
    """

    source: Name
    source_column: str
    source_match: str | None = None
    target: Name
    target_column: str
    target_match: str | None = None
    weight: str | None = None
    time: str | None = None
    by: str | None = None
    computed: TimeValue | None = None
    unknown: Unknown = "error"


class TripleItemsConfig(FileConfig):
    """``[data.triples.<name>.items]``: which entity each item is.

    Attributes:
        item: column with the item's key.
        entity: column with the entity, as in the triples.
    """

    item: str = "item"
    entity: str = "entity"


class TriplesConfig(FileConfig):
    """``[data.triples.<name>]``: a knowledge graph as rows of head, relation and tail; a link table per relation.

    Attributes:
        head: column with the entity that the row is about.
        relation: column with the relation (the predicate).
        tail: column with the entity that it is related to.
        items: file with the entity of each item; without it, entities are named by item keys.
        entity: node type of the entities that are no items.
        computed: when the rows were made, as for node tables.
    """

    head: str = "head"
    relation: str = "relation"
    tail: str = "tail"
    items: TripleItemsConfig | None = None
    entity: Name = ENTITY
    computed: TimeValue | None = None


class TextsConfig(TimedConfig):
    """``[data.texts]``: one text per row, any number per node and kind.

    Attributes:
        node: node type of the texts; the item by default.
        key: column with the node's key.
        kind: column with the kind of the text, e.g. overview or review; by default all are of the kind "text".
        text: column with the text; an empty cell is no text.
        time: column with the time of each text, as for interactions; texts are cut at the split (``cutoff``).
        by: column with the key of the user who wrote it; reviews of held-out interactions are not in the graph.
        computed: when the last text was written, as for node tables.
        unknown: policy for keys that are not in the node table (or, without one, the interactions): "error", or
            "drop" and count.
    """

    node: str | None = None
    key: str
    kind: str | None = None
    text: str
    time: str | None = None
    by: str | None = None
    computed: TimeValue | None = None
    unknown: Unknown = "error"


class DataConfig(ConfigSection):
    """``[data]``: a data set by name, or your own tables.

    Attributes:
        path: the folder, relative to the configuration file; ``${NAME}`` is read from the environment.
        dataset: a data set by name, instead of your own tables.
        ratings: the rating file (goodbooks-10k, ml-1m).
        parts: a published split, e.g. "u1" (ml-100k).
        file: the file (sasrec, s3rec).
        tmdb: folder with films of The Movie Database to join (ml-100k, ml-1m), given like ``path``.
        kg: folder with the knowledge graph of the MKR repository to join (ml-1m), given like ``path``.
        planted: size and strength of the planted database (planted).
        user: node type of the users (own tables).
        item: node type of the items (own tables).
        interactions: own interactions.
        nodes: own node tables by type.
        links: own link tables by name.
        triples: own knowledge graphs by name.
        texts: own texts.
        na_values: words that are missing values in own tables; by default those of pandas.
    """

    path: str = "."
    dataset: DatasetName | None = None
    ratings: str | None = None
    parts: str | None = None
    file: str | None = None
    tmdb: str | None = None
    kg: str | None = None
    planted: PlantedConfig | None = None
    user: Name | None = None
    item: Name | None = None
    interactions: InteractionsConfig | None = None
    nodes: dict[Name, NodesConfig] = Field(default_factory=dict)
    links: dict[Name, LinkConfig] = Field(default_factory=dict)
    triples: dict[Name, TriplesConfig] = Field(default_factory=dict)
    texts: TextsConfig | None = None
    na_values: tuple[str, ...] = NA_VALUES

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        defaults: tuple[object, ...] = (None, {}, ".", NA_VALUES)
        given = {name for name in type(self).model_fields if getattr(self, name) not in defaults} - {"path"}
        if self.dataset is None:
            if self.interactions is None or self.user is None or self.item is None:
                raise ValueError('either dataset = "…", or own tables: user, item and [data.interactions]')
            allowed = {"user", "item", "interactions", "nodes", "links", "triples", "texts", "na_values"}
            if self.user == self.item:
                raise ValueError("user and item must be two node types with different names, even if both are people")
            if any(triples.entity in (self.user, self.item) for triples in self.triples.values()):
                raise ValueError(
                    "entity of triples is a node type of its own, neither that of the users nor of the items"
                )
        else:
            allowed = {"dataset", *OPTIONS.get(self.dataset, ())}
            if self.dataset in ("sasrec", "s3rec") and self.file is None:
                raise ValueError(f'dataset = "{self.dataset}" needs file = "…"')
        if given - allowed:
            kind = "own tables" if self.dataset is None else f"dataset {self.dataset!r}"
            raise ValueError(f"{', '.join(sorted(given - allowed))} does not go with {kind}; {sorted(allowed)} do")
        return self


OPTIONS: dict[str, tuple[str, ...]] = {
    "ml-100k": ("parts", "tmdb"),
    "ml-1m": ("ratings", "tmdb", "kg"),
    "goodbooks-10k": ("ratings",),
    "sasrec": ("file",),
    "s3rec": ("file",),
    "planted": ("planted",),
}

LOADERS: dict[str, Callable[[Path, DataConfig], Tables]] = {
    "ml-100k": lambda folder, c: datasets.ml_100k(folder, c.parts, _given(c.tmdb)),
    "ml-1m": lambda folder, c: datasets.ml_1m(folder, c.ratings, _given(c.tmdb), _given(c.kg)),
    "goodbooks-10k": lambda folder, c: datasets.goodbooks_10k(folder, c.ratings or "ratings.csv"),
    "gowalla": lambda folder, _: datasets.lightgcn(folder, "gowalla"),
    "lightgcn": lambda folder, _: datasets.lightgcn(folder),
    "amazon-beauty": lambda folder, _: datasets.amazon_beauty(folder),
    "hetrec-lastfm": lambda folder, _: datasets.hetrec_lastfm(folder),
    "facebook-books": lambda folder, _: datasets.facebook_books(folder),
    "yahoo-movies": lambda folder, _: datasets.yahoo_movies(folder),
    "sasrec": lambda folder, c: datasets.sasrec(folder / (c.file or "")),
    "s3rec": lambda folder, c: datasets.s3rec(folder / (c.file or "")),
    "recbole": lambda folder, _: datasets.recbole(folder),
    "planted": lambda _, c: planted(c.planted),
}


@checked("rr.read_tables")
def read_tables(config: DataConfig, base: Path | str) -> Tables:
    """Read the tables of a ``[data]`` section.

    Keys become Int64 if all keys of the column are whole numbers, else String. Node columns stay text, those of
    Parquet files keep their types; missing values are null (``tables.missing``). Times are seconds since 1970, or
    nanoseconds if any time has a fraction of a second (``Tables.ticks``).

    Args:
        config: the section.
        base: the folder of the configuration file, to which paths are relative.

    Raises:
        InputError: a file or value is wrong; the message names file, and row or key.
    """
    base = Path(base)
    folder = resolve(config.path, base, "[data] path")
    if (dataset := config.dataset) is not None:
        return LOADERS[dataset](folder, _with_folders(config, base))
    assert config.interactions is not None and config.user is not None and config.item is not None  # noqa: PT018
    notices: list[Notice] = []
    rules = ReadOptions(config.na_values, notices=notices)
    nodes = {kind: _nodes(kind, c, folder, _matched(kind, config), rules) for kind, c in config.nodes.items()}
    ends = {"user": config.user, "item": config.item}
    given = _parts(config.interactions, ends, folder, nodes, rules)
    interactions = pl.concat(given.values())
    described = None if config.texts is None else config.texts.node or config.item
    for side, kind in ends.items():
        linked = any(kind in (link.source, link.target) for link in config.links.values()) or kind == described
        linked |= bool(config.triples) and kind == config.item
        if linked and kind not in nodes:  # links and texts are checked against the keys of the interactions
            nodes[kind] = NodeTable(kind, interactions.select(pl.col(side).unique().sort().alias(kind)), kind)
    of_users = _columns_of_users(config)
    links = {
        name: _link(name, c, folder, nodes, rules, ends, of_users.get(c.file, set()) | of_users[""])
        for name, c in config.links.items()
    }
    texts = None
    if config.texts is not None:
        texts = _texts(config.texts, config.item, folder, nodes, rules, of_users[""])
    tables = Tables(
        base.resolve().name,
        config.user,
        config.item,
        interactions,
        nodes,
        links,
        texts,
        given if config.interactions.test is not None else {},
        ordered=config.interactions.time is not None and "time" not in interactions.columns,
        repeats=config.interactions.duplicates == "keep",
        notices=tuple(notices),
        na_values=config.na_values,
        checked=True,
        time_unit=config.interactions.time_unit,
    )
    for name, triples in config.triples.items():
        is_declared = triples.entity in config.nodes
        tables = _with_triples(tables, name, triples, folder, ReadOptions(config.na_values), complete=is_declared)
    return tables


def _with_folders(config: DataConfig, base: Path) -> DataConfig:
    """The section with the folders of side data resolved as its ``path`` is."""
    given = {key: folder for key in ("tmdb", "kg") if (folder := getattr(config, key)) is not None}
    return config.model_copy(
        update={key: str(resolve(folder, base, f"[data] {key}")) for key, folder in given.items()}
    )


def _given(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def _matched(kind: str, config: DataConfig) -> list[str]:
    """Columns of a node table that links match, other than its key."""
    sources = [link.source_match for link in config.links.values() if link.source == kind]
    targets = [link.target_match for link in config.links.values() if link.target == kind]
    return [name for name in sources + targets if name is not None]


def _nodes(kind: str, config: NodesConfig, folder: Path, matched: list[str], rules: ReadOptions) -> NodeTable:
    where, words = str(folder / config.file), rules.na_values
    frame = read_table(folder / config.file, config.separator, header=config.columns)
    for name in {config.key, *matched}:
        column(frame, name, where)
    if config.title is not None:
        column(frame, config.title, where)
    for name in frame.columns:
        missing = written(frame[name], words)
        if name != config.key and len(missing):
            shown = " or ".join(missing.unique().sort().head(5))
            rules.notices.append(Notice(f"{config.file}, column {name}", f"{shown} read as missing", len(missing)))
    rows = pl.Series(range(1, frame.height + 1))
    if config.missing == "drop":
        keyless = is_missing(frame[config.key], words)
        count_dropped(int(keyless.sum()), frame.height, where, rules)
        frame, rows = frame.filter(~keyless), rows.filter(~keyless)
    else:
        refuse_missing(frame[config.key], where, words)
    frame = frame.with_columns(without_missing(values, words) for values in frame)
    frame = frame.with_columns(as_keys(frame[name], where) for name in {config.key, *matched})
    key = frame[config.key]
    rules.notices.extend(spaced(key, where))
    twice = ~key.is_first_distinct()
    if twice.any():
        repeated = key.filter(twice)[0]
        raise InputError(
            "key occurs twice",
            where=f"{where}, column {config.key!r}, row {rows.filter(twice)[0]}",
            expected="one row per key",
            found=f"{repeated!r}, which row {rows.filter(key == repeated)[0]} has already; {twice.sum():,} in all",
        )
    return NodeTable(kind, frame, config.key, config.title, config.computed)


def _parts(
    config: InteractionsConfig, ends: dict[str, str], folder: Path, nodes: dict[str, NodeTable], rules: ReadOptions
) -> dict[str, pl.DataFrame]:
    """The interactions by part, with keys of one type: "train", and optionally "valid" and "test"."""
    files = {"train": config.file, "valid": config.valid, "test": config.test}
    parts = {
        part: _interactions(config.model_copy(update={"file": file}), ends, folder, nodes, rules)
        for part, file in files.items()
        if file is not None
    }
    for side in ends:
        if len({frame[side].dtype for frame in parts.values()}) > 1:
            parts = {part: frame.with_columns(pl.col(side).cast(pl.String)) for part, frame in parts.items()}
    if config.time is not None and len({frame.schema.get("time") for frame in parts.values()}) > 1:
        raise InputError(
            "times of two kinds",
            where=f"{folder}, column {config.time!r}",
            expected="dates in every part, or in none",
            found=", ".join(f"{files[p]}: {f.schema.get('time', 'no such column')}" for p, f in parts.items()),
        )
    return parts


def _interactions(
    config: InteractionsConfig, ends: dict[str, str], folder: Path, nodes: dict[str, NodeTable], rules: ReadOptions
) -> pl.DataFrame:
    where = str(folder / config.file)
    wanted: dict[str, tuple[str, ColumnKind]] = {"user": (config.user, "key"), "item": (config.item, "key")}
    if config.rating is not None:
        wanted["rating"] = config.rating, "number"
    by_row = config.time == "row" and "row" not in column_names(
        folder / config.file, config.separator, config.columns
    )
    if config.time is not None and not by_row:
        wanted["time"] = config.time, "time"
    frame = read_columns(folder / config.file, config.separator, wanted, config.options(rules), numbered=True)
    for side, kind in ends.items():
        if kind in nodes:
            name = config.user if side == "user" else config.item
            frame = join(frame, side, name, nodes[kind], nodes[kind].key, config.unknown, where, rules.notices)
    frame = frame if config.duplicates == "keep" else once(frame, config.duplicates, where, rules.notices)
    return frame.drop(ROW_NUMBER)


def _link(
    name: str,
    config: LinkConfig,
    folder: Path,
    nodes: dict[str, NodeTable],
    rules: ReadOptions,
    ends: dict[str, str],
    of_users: set[str],
) -> LinkTable:
    where = str(folder / config.file)
    if config.source not in nodes:
        raise InputError(
            "source of a link has no node table",
            where=f"[data.links.{name}] source",
            expected=one_of(nodes),
            found=repr(config.source) + did_you_mean(config.source, nodes),
        )
    names = [config.source_column, config.target_column]
    wanted = _wanted_of_link(name, config, folder, ends, of_users)
    frame = read_columns(folder / config.file, config.separator, wanted, config.options(rules), numbered=True)
    source_match = config.source_match or nodes[config.source].key
    target_match = config.target_match or (nodes[config.target].key if config.target in nodes else None)
    sides = ((config.source, names[0], source_match), (config.target, names[1], target_match))
    for kind, name_here, match in sides:
        if match is None:
            continue
        if kind not in nodes:
            raise InputError(
                "target_match without a node table",
                where=f"[data.links.{name}] target_match",
                expected=f"[data.nodes.{kind}], or no target_match",
                found=repr(match),
            )
        frame = join(frame, name_here, name_here, nodes[kind], match, config.unknown, where, rules.notices)
    return LinkTable(
        name,
        frame.drop(ROW_NUMBER),
        config.source,
        names[0],
        source_match,
        config.target,
        names[1],
        target_match,
        config.weight,
        config.computed,
        time=config.time,
        by=config.by,
    )


def _with_triples(
    tables: Tables, name: str, config: TriplesConfig, folder: Path, rules: ReadOptions, *, complete: bool
) -> Tables:
    """The tables with the links of one file of triples; ``complete`` as in ``with_triples``."""
    rules = replace(rules, missing=config.missing, columns=config.columns)
    ends: dict[str, tuple[str, ColumnKind]] = {
        "head": (config.head, "key"), "relation": (config.relation, "key"), "tail": (config.tail, "key"),
    }  # fmt: skip
    if len({column for column, _ in ends.values()}) < len(ends):
        found = f"{config.head}, {config.relation}, {config.tail}"
        raise InputError(
            "a column is used twice", where=f"[data.triples.{name}]", expected="different columns", found=found
        )
    triples = read_columns(folder / config.file, config.separator, ends, rules).cast(pl.String)
    entities = None
    if (items := config.items) is not None:
        columns: dict[str, tuple[str, ColumnKind]] = {"item": (items.item, "key"), "entity": (items.entity, "key")}
        where, options = str(folder / items.file), replace(rules, missing=items.missing, columns=items.columns)
        entities = read_columns(folder / items.file, items.separator, columns, options, numbered=True)
        node = tables.nodes[tables.item]
        entities = join(entities, "item", items.item, node, node.key, "drop", where, rules.notices)
        entities = entities.select("item", pl.col("entity").cast(pl.String))
    tables = replace(tables, notices=(*tables.notices, *rules.notices))
    path = folder / config.file
    return with_triples(
        tables, triples, entities, path, entity=config.entity, complete=complete, computed=config.computed
    )


def _wanted_of_link(
    name: str, config: LinkConfig, folder: Path, ends: dict[str, str], of_users: set[str]
) -> dict[str, tuple[str, ColumnKind]]:
    """The columns to read of a link table, and their kinds."""
    names = [config.source_column, config.target_column]
    used = [*names, *(c for c in (config.weight, config.time, config.by) if c is not None)]
    if config.by is not None and len(set(used)) == len(used) - 1 and config.by in names:
        used.remove(config.by)  # the maker of a row may be one of its ends
    if len(set(used)) < len(used):
        raise InputError(
            "a column is used twice", where=f"[data.links.{name}]", expected="different columns", found=str(used)
        )
    wanted: dict[str, tuple[str, ColumnKind]] = {c: (c, "key") for c in names}
    if config.weight is not None:
        wanted[config.weight] = config.weight, "number"
    if config.time is not None:
        wanted[config.time] = config.time, "time"
    if config.by is not None:
        wanted[config.by] = config.by, "key"
    elif ends["user"] not in (config.source, config.target) and ends["item"] in (config.source, config.target):
        wanted |= _likely_maker(folder / config.file, config, of_users, used)
    return wanted


def _columns_of_users(config: DataConfig) -> dict[str, set[str]]:
    """Names of columns of users by file; under "" that of the interactions, which other files may use too."""
    assert config.interactions is not None
    columns = {"": {config.interactions.user}}
    for link in config.links.values():
        sides = ((link.source, link.source_column), (link.target, link.target_column))
        columns.setdefault(link.file, set()).update(column for kind, column in sides if kind == config.user)
    return columns


def _likely_maker(
    path: Path, config: FileConfig, of_users: set[str], used: list[str]
) -> dict[str, tuple[str, ColumnKind]]:
    """A column that seems to hold the makers of a table's rows, for the audit; {} if there is none."""
    if not path.is_file():
        return {}  # reading the table reports this
    named = [c for c in column_names(path, config.separator, config.columns) if c in of_users and c not in used]
    return {f"{MAYBE_BY}{named[0]}": (named[0], "text")} if named else {}


def _texts(
    config: TextsConfig,
    item: str,
    folder: Path,
    nodes: dict[str, NodeTable],
    rules: ReadOptions,
    of_users: set[str],
) -> TextTable:
    where = str(folder / config.file)
    node = config.node or item
    if node not in nodes:
        raise InputError(
            "texts of a type without a node table",
            where="[data.texts] node",
            expected=f"[data.nodes.{node}]",
            found=f"node tables {sorted(nodes)}{did_you_mean(node, nodes)}",
        )
    names = [c for c in (config.key, config.kind, config.text, config.time, config.by) if c is not None]
    if len(set(names)) < len(names):
        found = str(names)
        raise InputError("a column is used twice", where="[data.texts]", expected="different columns", found=found)
    wanted: dict[str, tuple[str, ColumnKind]] = {"key": (config.key, "key"), "text": (config.text, "text")}
    if config.kind is not None:
        wanted["kind"] = config.kind, "key"
    if config.time is not None:
        wanted["time"] = config.time, "time"
    if config.by is not None:
        wanted["by"] = config.by, "key"
    elif node == item:
        wanted |= _likely_maker(folder / config.file, config, of_users, names)
    frame = read_columns(folder / config.file, config.separator, wanted, config.options(rules), numbered=True)
    if (dtype := frame["text"].dtype) != pl.String:
        found = f"{config.text}: {dtype}"
        raise InputError("column is not text", where=where, expected="a text column", found=found)
    kind = pl.lit("text") if config.kind is None else pl.col("kind").cast(pl.String)
    more = [c for c in frame.columns if c in ("time", "by", ROW_NUMBER) or c.startswith(MAYBE_BY)]
    frame = frame.select("key", kind.alias("kind"), "text", *more)
    frame = join(frame, "key", config.key, nodes[node], nodes[node].key, config.unknown, where, rules.notices)
    return TextTable(node, frame.drop(ROW_NUMBER), config.computed)
