"""Data frames as the tables of a study: which column means what, and the ``[data]`` section that says so."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import narwhals as nw
import polars as pl

from relrank.arguments import check_fields
from relrank.errors import InputError, did_you_mean, one_of
from relrank.frames.native import Library
from relrank.tables.files import check_column
from relrank.tables.frames import as_frame
from relrank.tables.times import TimeValue

WHERE = "rr.Study"
"""Names the constructor in messages."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """A frame with one row per node of a type; a bare frame will do where its key column is recognized.

    Attributes:
        frame: attributes and a column of unique keys.
        key: the column of keys. By default the column that the interactions have for the same nodes, else one named
            like the type, ``TYPE_id`` or ``id``.
        title: column with titles to display; by default ``title`` or ``name``, if there is one.
        computed: when the values were computed, for the audit: a date, or a number as in the interactions.
    """

    frame: Any
    key: str | None = None
    title: str | None = None
    computed: TimeValue | None = None

    def __post_init__(self) -> None:
        check_fields(self, "rr.Nodes")


@dataclass(frozen=True, eq=False)
class Links:
    """A frame whose rows link nodes of two types; ``(frame, source_column, target_column)`` will often do.

    Attributes:
        frame: a row per link.
        source_column: column with keys of the source.
        target_column: column with keys of the target.
        source: node type of the source; by default the type whose keys are in a column of that name, else the
            column's name.
        target: likewise for the target, which needs no node table.
        weight: column with a number.
        time: column with the time of each row; rows are cut at the split.
        by: column with the user who made each row.
        computed: when the rows were computed, as for ``Nodes``.
        unknown: policy for keys that are in no node table: "error", or "drop" and count.
        missing: policy for rows without a key, number or time: "error", or "drop" and count.
    """

    frame: Any
    source_column: str
    target_column: str
    source: str | None = None
    target: str | None = None
    weight: str | None = None
    time: str | None = None
    by: str | None = None
    computed: TimeValue | None = None
    unknown: str | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "rr.Links")


@dataclass(frozen=True, eq=False)
class Texts:
    """A frame of texts, any number per node; ``(frame, key, text)`` will often do.

    Attributes:
        frame: a row per text.
        key: column with the node's key; by default the items' column.
        text: column with the text.
        kind: column with the kind, such as "review"; by default all are of the kind "text".
        node: node type of the texts; the items by default.
        time: column with the time of each text; texts are cut at the split.
        by: column with the user who wrote it.
        computed: when the last text was written, as for ``Nodes``.
        unknown: policy for keys that are in no node table: "error", or "drop" and count.
        missing: policy for rows without a key or time: "error", or "drop" and count.
    """

    frame: Any
    key: str | None = None
    text: str = "text"
    kind: str | None = None
    node: str | None = None
    time: str | None = None
    by: str | None = None
    computed: TimeValue | None = None
    unknown: str | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "rr.Texts")


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of the interactions, and policies for their rows; see ``rr.Study``."""

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    duplicates: str | None = None
    unknown: str | None = None
    missing: str | None = None
    time_unit: str | None = None


@dataclass(eq=False)
class Sources:
    """Frames by file name, and the ``[data]`` section that describes them.

    Attributes:
        tables: polars frames by name of the file that they are written to; they share no memory with those given.
        data: the section, in plain values; ``path`` is not set.
        library: of the interactions, such as "pandas".
    """

    tables: dict[str, pl.DataFrame]
    data: dict[str, Any]
    library: Library
    _files: dict[int, str] = field(default_factory=dict)
    """File of each frame that is known already, by identity: one that is passed twice is written once."""
    _held: list[Any] = field(default_factory=list)
    """The frames themselves, so that no identity is used twice."""

    @classmethod
    def of(
        cls,
        interactions: Any,
        columns: Columns,
        nodes: Mapping[str, Any] | None = None,
        links: Mapping[str, Any] | None = None,
        texts: Any = None,
        parts: Mapping[str, Any] | None = None,
        na_values: Sequence[str] | None = None,
        where: str = WHERE,
    ) -> Sources:
        """Check frames and describe them.

        Args:
            interactions: a frame.
            columns: of the interactions.
            nodes: frames or ``Nodes`` by node type.
            links: tuples or ``Links`` by name.
            texts: a frame, a tuple or ``Texts``.
            parts: frames with the columns of the interactions by part, "valid" or "test".
            na_values: words that are missing values.
            where: the call, for messages.

        Raises:
            InputError: a frame is none, lacks rows or a column, or a column has two roles.
        """
        sources = cls({}, {}, library_of(interactions))
        frame = sources._add("interactions", interactions, f"{where}, interactions")
        for role in ("user", "item", "time", "rating"):
            name = getattr(columns, role)
            if name is not None and not (role == "time" and name == "row"):
                check_column(frame.columns, name, f"{where}, {role}={name!r}, in the interactions")
        _check_different(columns, where)
        described = _as_nodes(nodes, where)
        tables = {t: sources._add(t, n.frame, f"{where}, nodes {t!r}") for t, n in described.items()}
        user, item = _end_types(columns, tables, described, where)
        ends = {user: columns.user, item: columns.item}
        section: dict[str, Any] = {"user": user, "item": item}
        section["interactions"] = {"file": sources.file_of(interactions), **_stated(columns)}
        for part, rows in (parts or {}).items():
            sources._add(part, rows, f"{where}, {part}")
            section["interactions"][part] = sources.file_of(rows)
        section["nodes"] = {
            kind: sources._node_section(kind, given, tables[kind], ends, where) for kind, given in described.items()
        }
        types = {n["key"]: t for t, n in section["nodes"].items()} | {columns.user: user, columns.item: item}
        section["links"] = {
            name: sources._link_section(name, each, types, where) for name, each in (links or {}).items()
        }
        if texts is not None:
            section["texts"] = sources._text_section(texts, types, columns.item, where)
        section["na_values"] = None if na_values is None else list(na_values)
        sources.data = {name: value for name, value in section.items() if value not in (None, {})}
        sources._held, sources._files = [], {}  # the tables are copies
        return sources

    def file_of(self, frame: Any) -> str:
        """The file that a frame is written to."""
        return self._files[id(frame)]

    def _add(self, name: str, value: Any, where: str) -> pl.DataFrame:
        """Take a frame; the same one under two names is one file."""
        if (known := self._files.get(id(value))) is not None:
            return self.tables[known]
        frame = as_frame(value, where, copy=True)
        if frame.is_empty():
            raise InputError("frame has no rows", where=where, expected="at least one row", found="none")
        for column, dtype in frame.schema.items():
            if dtype == pl.Object:
                raise InputError(
                    "column holds Python objects",
                    where=f"{where}, column {column!r}",
                    expected="numbers, text, dates or lists of them",
                    found=str(dtype),
                )
        stem = re.sub(r"[^\w.-]", "_", name).lstrip(".") or "table"
        file, number = f"{stem}.parquet", 2
        while file.lower() in {known.lower() for known in self.tables}:  # some file systems ignore case
            file, number = f"{stem}-{number}.parquet", number + 1
        self.tables[file] = frame
        self._files[id(value)] = file
        self._held.append(value)
        return frame

    def _node_section(
        self, kind: str, given: Nodes, frame: pl.DataFrame, ends: Mapping[str, str], where: str
    ) -> dict[str, Any]:
        at = f"{where}, nodes {kind!r}"
        key = given.key or _key_of(kind, frame.columns, ends.get(kind))
        if key is None:
            guesses = [name for name in (ends.get(kind), kind, f"{kind}_id", "id") if name]
            raise InputError(
                "node table without a key",
                where=at,
                expected=f'a column {" or ".join(map(repr, dict.fromkeys(guesses)))}, or rr.Nodes(frame, key="…")',
                found=f"columns {', '.join(frame.columns)}",
            )
        check_column(frame.columns, key, at)
        title = given.title or next((c for c in ("title", "name") if c in frame.columns and c != key), None)
        if title is not None:
            check_column(frame.columns, title, at)
        return _without_none(
            {"file": self.file_of(given.frame), "key": key, "title": title, "computed": given.computed}
        )

    def _link_section(self, name: str, value: Any, types: Mapping[str, str], where: str) -> dict[str, Any]:
        at = f"{where}, links {name!r}"
        link = _from_tuple(value, Links, 3, at, "(frame, source_column, target_column) or rr.Links(…)")
        frame = self._add(name, link.frame, at)
        named = (link.source_column, link.target_column, link.weight, link.time, link.by)
        for column in (c for c in named if c is not None):
            check_column(frame.columns, column, at)
        source = link.source or types.get(link.source_column, link.source_column)
        target = link.target or types.get(link.target_column, link.target_column)
        return _without_none({**_plain(link), "file": self.file_of(link.frame), "source": source, "target": target})

    def _text_section(self, value: Any, types: Mapping[str, str], item: str, where: str) -> dict[str, Any]:
        at = f"{where}, texts"
        expected = "a frame, (frame, key, text) or rr.Texts(…)"
        texts = _from_tuple(value, Texts, 3, at, expected) if isinstance(value, tuple | Texts) else Texts(value)
        frame = self._add("texts", texts.frame, at)
        key = texts.key or item
        kind = texts.kind or ("kind" if "kind" in frame.columns and not isinstance(value, Texts) else None)
        for column in (c for c in (key, texts.text, kind, texts.time, texts.by) if c is not None):
            check_column(frame.columns, column, at)
        more = {"file": self.file_of(texts.frame), "key": key, "kind": kind, "node": texts.node or types.get(key)}
        return _without_none({**_plain(texts), **more})


def library_of(frame: Any) -> Library:
    """The library of a frame; "polars" for those without frames of their own, such as queries."""
    name = type(nw.to_native(frame, pass_through=True)).__module__.partition(".")[0]
    return name if name in get_args(Library) else "polars"  # type: ignore[return-value]


def _check_different(columns: Columns, where: str) -> None:
    roles: dict[str, str] = {}
    for role in ("user", "item", "time", "rating"):
        name = getattr(columns, role)
        if name in roles:
            raise InputError(
                "a column is used twice",
                where=f"{where}, {role}",
                expected=f"another column than {roles[name]}={name!r}",
                found=f"{role}={name!r}",
            )
        if name is not None:
            roles[name] = role


def _as_nodes(nodes: Mapping[str, Any] | None, where: str) -> dict[str, Nodes]:
    """Node tables by type, all as ``Nodes``."""
    described = {}
    for kind, value in (nodes or {}).items():
        at = f"{where}, nodes {kind!r}"
        is_bare = not isinstance(value, tuple | Nodes)
        described[kind] = Nodes(value) if is_bare else _from_tuple(value, Nodes, 2, at, "(frame, key) or rr.Nodes(…)")
    return described


def _from_tuple(value: Any, kind: type[Any], most: int, where: str, expected: str) -> Any:
    """A value as an instance of ``kind``, from a tuple of its first fields."""
    if isinstance(value, kind):
        return value
    if isinstance(value, tuple) and 2 <= len(value) <= most:
        try:
            return kind(*value)
        except TypeError:
            pass
    found = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
    raise InputError("not described", where=where, expected=expected, found=found)


def _end_types(
    columns: Columns, tables: Mapping[str, pl.DataFrame], described: Mapping[str, Nodes], where: str
) -> tuple[str, str]:
    """Node types of the users and of the items, which must differ."""
    user, item = (_type_of(column, tables, described, where) for column in (columns.user, columns.item))
    if user == item:
        raise InputError(
            "users and items are of one node type",
            where=f"{where}, nodes",
            expected="different tables, named like their columns or with different keys",
            found=f"{user!r} for both columns {columns.user!r} and {columns.item!r}",
        )
    return user, item


def _type_of(column: str, tables: Mapping[str, pl.DataFrame], nodes: Mapping[str, Nodes], where: str) -> str:
    """The node type of the users or items: a table named like their column, or the one whose keys are there."""
    if column in tables:
        return column
    keyed = [kind for kind, given in nodes.items() if given.key == column]
    having = keyed or [t for t, frame in tables.items() if nodes[t].key is None and column in frame.columns]
    if len(having) > 1:
        unique = [kind for kind in having if tables[kind][column].is_unique().all()]
        having = unique if len(unique) == 1 else having
    if len(having) > 1:
        raise InputError(
            "several node tables have a column of keys of the interactions",
            where=f"{where}, nodes",
            expected=f'one with {column!r}, or the others with their own key: rr.Nodes(frame, key="…")',
            found=", ".join(having),
        )
    return having[0] if having else column


def _key_of(kind: str, columns: Sequence[str], end: str | None) -> str | None:
    """The likely column of keys of a node table; ``end`` is the column of the interactions for these nodes."""
    return next((name for name in (end, kind, f"{kind}_id", "id") if name in columns), None)


def _stated(columns: Columns) -> dict[str, Any]:
    return _without_none({f.name: getattr(columns, f.name) for f in fields(columns)})


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a description but its frame."""
    return {f.name: getattr(value, f.name) for f in fields(value) if f.name != "frame"}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def unknown_name(what: str, name: object, known: Collection[str], where: str) -> InputError:
    """The error for a name that is none of the known ones."""
    return InputError(
        f"unknown {what}", where=where, expected=one_of(known), found=repr(name) + did_you_mean(name, known)
    )
