"""Tables described in a configuration file: anyone's own, or a data set known by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import polars as pl
from pydantic import Field, model_validator

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.config import Section, resolve
from relrank.tables.files import as_keys, as_numbers, as_seconds, column, first_row, read_table, refuse_missing
from relrank.tables.tables import LinkTable, NodeTable, Notice, Tables

Unknown = Literal["error", "drop"]
DatasetName = Literal[
    "ml-100k", "ml-1m", "goodbooks-10k", "gowalla", "lightgcn", "amazon-beauty", "sasrec", "recbole"
]


class InteractionsConfig(Section):
    """``[data.interactions]``: who chose what.

    Attributes:
        file: a .csv, .tsv or .parquet file in the data folder.
        separator: field separator, where it is not the ending's own.
        user: column with the user's key.
        item: column with the item's key.
        rating: column with a number.
        time: column with whole seconds since 1970, or an ISO date or date-time.
        duplicates: what to do with a (user, item) that is there twice: "error"; keep the "first" or "last" (by time,
            else by place in the file), or the "max" rating. Dropped rows are counted.
        unknown: what to do with keys that a node table of that type does not have: "error", or "drop" and count.
    """

    file: str
    separator: str | None = Field(None, min_length=1, max_length=1)
    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    duplicates: Literal["error", "first", "last", "max"] = "error"
    unknown: Unknown = "error"


class NodesConfig(Section):
    """``[data.nodes.<type>]``: one row per node.

    Attributes:
        file: a .csv, .tsv or .parquet file in the data folder.
        separator: field separator, where it is not the ending's own.
        key: column with unique keys.
        title: column shown to people.
        computed: when the attribute values were computed (ISO, or in the unit of the interactions' time); the audit
            compares it with the split.
    """

    file: str
    separator: str | None = Field(None, min_length=1, max_length=1)
    key: str
    title: str | None = None
    computed: str | int | None = None


class LinkConfig(Section):
    """``[data.links.<name>]``: rows that link nodes of two types.

    Attributes:
        file: a .csv, .tsv or .parquet file in the data folder.
        separator: field separator, where it is not the ending's own.
        source: node type.
        source_column: column of this file.
        source_match: column of the source's node table with the same values; default: its key.
        target: node type; it needs no node table.
        target_column: column of this file.
        target_match: column of the target's node table; default: its key.
        weight: column with a number.
        computed: when the rows were computed, as for node tables.
        unknown: what to do with values that the node table does not have: "error", or "drop" and count.
    """

    file: str
    separator: str | None = Field(None, min_length=1, max_length=1)
    source: str
    source_column: str
    source_match: str | None = None
    target: str
    target_column: str
    target_match: str | None = None
    weight: str | None = None
    computed: str | int | None = None
    unknown: Unknown = "error"


class DataConfig(Section):
    """``[data]``: either a data set by name, or own tables.

    Attributes:
        path: the folder; relative to the configuration file, ``${NAME}`` from the environment.
        dataset: a data set by name; then own tables are not described.
        ratings: which rating file (goodbooks-10k, ml-1m).
        parts: a published split, e.g. "u1" (ml-100k).
        file: the file (sasrec).
        user: node type that chooses (own tables).
        item: node type that is chosen (own tables).
        interactions: own interactions.
        nodes: own node tables by type.
        links: own link tables by name.
    """

    path: str = "."
    dataset: DatasetName | None = None
    ratings: str | None = None
    parts: str | None = None
    file: str | None = None
    user: str | None = None
    item: str | None = None
    interactions: InteractionsConfig | None = None
    nodes: dict[str, NodesConfig] = Field(default_factory=dict)
    links: dict[str, LinkConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = {name for name in type(self).model_fields if getattr(self, name) not in (None, {}, ".")} - {"path"}
        if self.dataset is None:
            if self.interactions is None or self.user is None or self.item is None:
                raise ValueError('either dataset = "…", or own tables: user, item and [data.interactions]')
            allowed = {"user", "item", "interactions", "nodes", "links"}
        else:
            allowed = {"dataset", *OPTIONS.get(self.dataset, ())}
            if self.dataset == "sasrec" and self.file is None:
                raise ValueError('dataset = "sasrec" needs file = "…"')
        if given - allowed:
            kind = "own tables" if self.dataset is None else f"dataset {self.dataset!r}"
            raise ValueError(f"{', '.join(sorted(given - allowed))} does not go with {kind}; {sorted(allowed)} do")
        return self


OPTIONS: dict[str, tuple[str, ...]] = {
    "ml-100k": ("parts",),
    "ml-1m": ("ratings",),
    "goodbooks-10k": ("ratings",),
    "sasrec": ("file",),
}

LOADERS: dict[str, Callable[[Path, DataConfig], Tables]] = {
    "ml-100k": lambda folder, c: datasets.ml_100k(folder, c.parts),
    "ml-1m": lambda folder, c: datasets.ml_1m(folder, c.ratings),
    "goodbooks-10k": lambda folder, c: datasets.goodbooks_10k(folder, c.ratings or "ratings.csv"),
    "gowalla": lambda folder, _: datasets.lightgcn(folder, "gowalla"),
    "lightgcn": lambda folder, _: datasets.lightgcn(folder),
    "amazon-beauty": lambda folder, _: datasets.amazon_beauty(folder),
    "sasrec": lambda folder, c: datasets.sasrec(folder / (c.file or "")),
    "recbole": lambda folder, _: datasets.recbole(folder),
}


def read_tables(config: DataConfig, base: Path) -> Tables:
    """Read what a ``[data]`` section describes.

    Keys become Int64 where every key of the column is a whole number, else String. Node columns keep their types;
    NaN is read as missing.

    Args:
        config: the section.
        base: the folder of the configuration file, which relative paths start from.

    Raises:
        InputError: whatever is wrong, with file and row or key.
    """
    folder = resolve(config.path, base, "[data] path")
    if config.dataset is not None:
        return LOADERS[config.dataset](folder, config)
    assert config.interactions is not None and config.user is not None and config.item is not None  # noqa: PT018
    notices: list[Notice] = []
    nodes = {kind: _nodes(kind, c, folder, _matched(kind, config), notices) for kind, c in config.nodes.items()}
    ends = {"user": config.user, "item": config.item}
    interactions = _interactions(config.interactions, ends, folder, nodes, notices)
    for side, kind in ends.items():
        linked = any(kind in (link.source, link.target) for link in config.links.values())
        if linked and kind not in nodes:  # a link must be checked against something: the keys that interact
            nodes[kind] = NodeTable(kind, interactions.select(pl.col(side).unique().sort().alias(kind)), kind)
    links = {name: _link(name, c, folder, nodes, notices) for name, c in config.links.items()}
    return Tables(base.name, config.user, config.item, interactions, nodes, links, notices=tuple(notices))


def _matched(kind: str, config: DataConfig) -> list[str]:
    """Columns of a node table that links are matched on, beside its key."""
    sources = [link.source_match for link in config.links.values() if link.source == kind]
    targets = [link.target_match for link in config.links.values() if link.target == kind]
    return [name for name in sources + targets if name is not None]


def _nodes(kind: str, config: NodesConfig, folder: Path, matched: list[str], notices: list[Notice]) -> NodeTable:
    where = str(folder / config.file)
    frame = read_table(folder / config.file, config.separator, [config.key, *matched])
    for name in {config.key, *matched}:
        frame = frame.with_columns(as_keys(column(frame, name, where)))
    if config.title is not None:
        column(frame, config.title, where)
    key = refuse_missing(frame[config.key], where)
    twice = ~key.is_first_distinct()
    if twice.any():
        row = first_row(twice)
        raise InputError(
            "key occurs twice",
            where=f"{where}, column {config.key!r}, row {row}",
            expected="one row per key",
            found=f"{key[row - 1]!r}, which row {first_row(key == key[row - 1])} has already; {twice.sum():,} in all",
        )
    numbers = frame.select(pl.selectors.float())
    nan = sum(int(values.is_nan().sum() or 0) for values in numbers)
    if nan:
        frame = frame.with_columns(pl.selectors.float().fill_nan(None))
        notices.append(Notice(config.file, "NaN read as missing", nan))
    return NodeTable(kind, frame, config.key, config.title, _computed(config.computed, where))


def _interactions(
    config: InteractionsConfig, ends: dict[str, str], folder: Path, nodes: dict[str, NodeTable], notices: list[Notice]
) -> pl.DataFrame:
    where = str(folder / config.file)
    raw = read_table(folder / config.file, config.separator)
    columns = {}
    for side, name in (("user", config.user), ("item", config.item)):
        columns[side] = as_keys(refuse_missing(column(raw, name, where), where))
    if config.rating is not None:
        columns["rating"] = as_numbers(column(raw, config.rating, where), where)
    if config.time is not None:
        columns["time"] = as_seconds(column(raw, config.time, where), where)
    frame = pl.DataFrame({name: values.alias(name) for name, values in columns.items()})
    for side, kind in ends.items():
        if kind in nodes:
            name = config.user if side == "user" else config.item
            frame = _join(frame, side, name, nodes[kind], nodes[kind].key, config.unknown, where, notices)
    return _once(frame, config.duplicates, where, notices)


def _once(frame: pl.DataFrame, policy: str, where: str, notices: list[Notice]) -> pl.DataFrame:
    """Each (user, item) once, by the stated policy."""
    pairs = frame.select(pl.struct("user", "item")).to_series()
    again = ~pairs.is_first_distinct()
    if not again.any():
        return frame
    if policy == "error":
        row = first_row(again)
        first = first_row(pairs == pairs[row - 1])
        conflicting = frame.unique().height - pairs.n_unique()
        raise InputError(
            "interaction occurs twice",
            where=f"{where}, rows {first} and {row}",
            expected='every (user, item) once, or duplicates = "first", "last" or "max"',
            found=f"{frame.row(first - 1)} and {frame.row(row - 1)}; {again.sum():,} repeated rows in all, "
            f"{conflicting:,} with other values",
        )
    by = "rating" if policy == "max" else "time"
    if policy == "max" and "rating" not in frame.columns:
        raise InputError(
            'duplicates = "max" without ratings', where=where, expected="a rating column", found="none is named"
        )
    numbered = frame.with_row_index("place")
    if by in frame.columns:
        numbered = numbered.sort(by, descending=policy == "max", maintain_order=True)
    kept = numbered.unique(["user", "item"], keep="last" if policy == "last" else "first").sort("place").drop("place")
    notices.append(
        Notice(Path(where).name, f"repeated (user, item) rows dropped, the {policy} kept", int(again.sum()))
    )
    return kept


def _link(
    name: str, config: LinkConfig, folder: Path, nodes: dict[str, NodeTable], notices: list[Notice]
) -> LinkTable:
    where = str(folder / config.file)
    if config.source not in nodes:
        raise InputError(
            "source of a link has no node table",
            where=f"[data.links.{name}] source",
            expected=f"one of {sorted(nodes)}",
            found=repr(config.source),
        )
    raw = read_table(folder / config.file, config.separator)
    names = [config.source_column, config.target_column]
    if names[0] == names[1]:
        raise InputError("a link with one column", where=where, expected="two columns", found=repr(names[0]))
    columns = [as_keys(refuse_missing(column(raw, c, where), where)) for c in names]
    if config.weight is not None:
        columns.append(as_numbers(column(raw, config.weight, where), where))
    frame = pl.DataFrame(columns)
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
        frame = _join(frame, name_here, name_here, nodes[kind], match, config.unknown, where, notices)
    return LinkTable(
        name,
        frame,
        config.source,
        names[0],
        source_match,
        config.target,
        names[1],
        target_match,
        config.weight,
        _computed(config.computed, where),
    )


def _join(
    frame: pl.DataFrame,
    side: str,
    name: str,
    table: NodeTable,
    match: str,
    unknown: str,
    where: str,
    notices: list[Notice],
) -> pl.DataFrame:
    """Rows whose ``side`` is a value of the node table's column ``match``, brought to that column's type."""
    keys = frame[side]
    values = column(table.frame, match, f"node table {table.name!r}")
    # text is the common ground of 7 and "7" where one of the two columns holds other text as well
    known = keys.cast(pl.String).is_in(values.cast(pl.String).implode())
    missing = ~known
    if not missing.any():
        return frame.with_columns(keys.cast(values.dtype))
    row = first_row(missing)
    better = _better(keys, table, int(known.sum()))
    if not known.any():
        raise InputError(
            "empty join: no key in common",
            where=f"{where}, column {name!r}, with column {match!r} of node table {table.name!r}",
            expected=f"values such as {', '.join(map(repr, values.drop_nulls().head(3)))} ({values.dtype}){better}",
            found=f"{', '.join(map(repr, keys.unique(maintain_order=True).head(3)))} ({keys.dtype})",
        )
    if unknown == "error":
        raise InputError(
            "unknown key",
            where=f"{where}, column {name!r}, row {row}",
            expected=f'a value of column {match!r} of node table {table.name!r}, or unknown = "drop"{better}',
            found=f"{keys[row - 1]!r}; {missing.sum():,} of {len(keys):,} rows in all",
        )
    notices.append(
        Notice(f"{Path(where).name}, column {name}", f"keys not in {table.name} dropped", int(missing.sum()))
    )
    return frame.filter(known).with_columns(pl.col(side).cast(values.dtype))


def _better(keys: pl.Series, table: NodeTable, known: int) -> str:
    """A hint, where another column of the node table holds more of the keys: the wrong key is easily joined."""
    text = keys.cast(pl.String)
    hits = {
        c: int(text.is_in(table.frame[c].cast(pl.String).implode()).sum())
        for c, dtype in table.frame.schema.items()
        if dtype.is_integer() or dtype == pl.String
    }
    best = max(hits, key=lambda c: hits[c], default=None)
    if best is None or hits[best] <= known:
        return ""
    return f"; its column {best!r} holds {hits[best] / len(keys):.0%} of them"


def _computed(value: str | int | None, where: str) -> int | None:
    return None if value is None else int(as_seconds(pl.Series("computed", [value]), where)[0])
